"""The checks of set 04 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, theory
from gradients_in_depth.checks import EMPTY
from gradients_in_depth.checks import set_04_initialization as own
from tests.check_banks import Bank, all_that_is_said, stub, swapped

# --- The bound of a uniform law ----------------------------------------------------------------------------


def fan_in_of(shape):
    return math.prod(shape[1:])


def fan_out_of(shape):
    return shape[0] * math.prod(shape[2:])


def drawn(fan=fan_in_of, gain2=lambda a: 2 / (1 + a**2), law=lambda variance: math.sqrt(3 * variance)):
    """From fan, gain and law, with one of them replaced."""
    return lambda shape, slope: law(gain2(slope) / fan(shape))


def by_torch(shape, slope):
    """With PyTorch's own gain and fans."""
    weight = torch.empty(shape, dtype=torch.float64)
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
    return nn.init.calculate_gain("leaky_relu", slope) * math.sqrt(3.0 / fan_in)


def shape_changed(shape, slope):
    shape[0] = 1
    return 0.1


UNIFORM_BOUND = Bank(
    checks.uniform_bound,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "deviation": ((drawn(law=math.sqrt),), "the standard deviation of the weights"),
        "variance": ((drawn(law=lambda v: v),), "the variance of the weights"),
        "no root": ((drawn(law=lambda v: 3 * v),), "a root is missing"),
        "whole interval": ((drawn(law=lambda v: math.sqrt(12 * v)),), "the whole interval"),
        "channels only": ((drawn(fan=lambda shape: shape[1]),), "Only the channels"),
        "kernel only": ((drawn(fan=lambda shape: math.prod(shape[2:])),), "Only the places"),
        "fan_out": ((drawn(fan=fan_out_of),), "keeps the gradient going back"),
        "outputs": ((drawn(fan=lambda shape: shape[0]),), "counts the OUTPUTS"),
        "mean of fans": ((drawn(fan=lambda s: (fan_in_of(s) + fan_out_of(s)) / 2),), "compromise"),
        "Xavier": (
            (drawn(fan=lambda s: (fan_in_of(s) + fan_out_of(s)) / 2, gain2=lambda a: 1),),
            "knows no activation",
        ),
        "slope not squared": ((drawn(gain2=lambda a: 2 / (1 + a)),), "SQUARES"),
        "plain ReLU": ((drawn(gain2=lambda a: 2),), "a plain ReLU"),
        "no activation": ((drawn(gain2=lambda a: 1),), "without an activation"),
        "no 2": ((drawn(gain2=lambda a: 1 / (1 + a**2)),), "BOTH slopes"),
        "upside down": ((drawn(gain2=lambda a: (1 + a**2) / 2),), "Upside down"),
        "PyTorch's default": ((drawn(gain2=lambda a: 1 / 3),), "if you say nothing"),
        "everything": ((drawn(fan=math.prod),), "begin with the variance"),
        "hard-coded": ((lambda *_: 0.1,), "it is not 0.1"),
        "not a number": ((lambda *_: math.nan,), "begin with the variance"),
        "wrong shape": ((lambda shape, slope: np.ones(2),), "one number, and is an array of shape (2,)"),
        "changes a tuple": ((shape_changed,), "stops with TypeError"),
    },
    right={
        "in steps": (drawn(),),
        "by PyTorch's gain": (by_torch,),
        "one line, an array": (lambda s, a: np.sqrt(6 / ((1 + a * a) * np.prod(s) / s[0])),),
    },
)


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Linear(60, 50, bias=False), (400, 60)),
        (lambda: nn.Conv1d(9, 24, 7, bias=False), (40, 9, 60)),
        (lambda: nn.Conv2d(8, 30, 3, bias=False), (20, 8, 16, 16)),
    ],
)
def test_the_bound_keeps_the_scale_of_a_real_layer(make, x):
    """Leaky ReLU of normal numbers goes in; eight draws, each with some 1500 weights."""
    slope, ratios = 0.3, []
    for seed in range(8):
        generator = data.seeded_generator(seed)
        layer = make().double()
        bound = drawn()(tuple(layer.weight.shape), slope)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        z = torch.randn(x, generator=generator, dtype=torch.float64)
        ratios.append(layer(F.leaky_relu(z, slope)).square().mean().item())
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


# --- A purse of 400,000 weights ----------------------------------------------------------------------------

ROOT = math.sqrt(400_000)


def deep(ratio):
    return (ratio * ROOT) ** (2 / 3)


LAYER_BUDGET = Bank(
    checks.layer_budget,
    wrong={
        "untouched stub": ((None,), EMPTY),
        "three dots": ((...,), EMPTY),
        "width": ((57,), "their width"),
        "one network": ((deep(4 / 5 * math.log(10) ** 2),), "ONE network"),
        "100 units": ((212,), "had 100 units"),
        "a factor of e": ((40,), "a factor of e"),
        "no square": ((deep(math.log(10) / 2.5),), "a square is missing"),
        "squared norm": ((deep(math.log(10) ** 2 / 10),), "SQUARED norm"),
        "linear network": ((deep(math.log(10) ** 2),), "linear network"),
        "no fraction": ((deep(math.log(10) ** 2 / 2),), "a fraction"),
        "n weights": ((921,), "n weights"),
        "ratio": ((0.471,), "depth over width"),
        "no power": ((1341,), "shared out"),
        "a guess": ((150,), "150 is not it"),
        "negative": ((-50,), "-50 is not it"),
        "words": (("many",), "should be one number"),
    },
    right={
        "a number": (121.6,),
        "rounded down": (121,),
        "rounded up, an array": (np.array(122),),
        "by trying": (next(L for L in range(1, 999) if math.sqrt(2.5 * L**1.5 / ROOT) >= math.log(10)),),
    },
)


def test_the_purse_is_what_theory_and_the_lesson_say():
    depth, width = 122, round(ROOT / math.sqrt(122))
    assert depth * width**2 == pytest.approx(400_000, rel=0.02)
    between = math.exp(math.sqrt(2 * theory.log_gradient_norm_variance(depth, width)))
    assert between == pytest.approx(10, rel=0.03)
    assert math.sqrt(2 * theory.log_gradient_norm_variance(40, 100)) == pytest.approx(1)


# --- What is a layer worth? --------------------------------------------------------------------------------


def rows(incoming, outgoing):
    return np.hstack([incoming, outgoing.T])


def canonical(both):
    """Each row times the sign of its first number that is not 0, without an overall sign."""
    signs = [np.sign(next((x for x in row if x != 0), 1.0)) for row in both]
    return [tuple((sign * row + 0.0).tolist()) for sign, row in zip(signs, both, strict=True)]


def without_zeros(both):
    return both[both.any(axis=1)]


def counted(choose=without_zeros, sign=canonical, both=rows):
    """With one step replaced."""
    return lambda incoming, outgoing: len(set(sign(choose(both(incoming, outgoing)))))


def exact(both):
    return list(map(tuple, (both + 0.0).tolist()))


def each_side(both):
    return list(zip(canonical(both[:, :3]), canonical(both[:, 3:]), strict=True))


def hears_something(both):
    return without_zeros(both[both[:, :3].any(axis=1)])


def is_heard(both):
    return without_zeros(both[both[:, 3:].any(axis=1)])


def agree_on_one_side(incoming, outgoing):
    groups = []
    for unit in zip(exact(incoming), exact(outgoing.T), strict=True):
        near = [g for g in groups if any(unit[0] == other[0] or unit[1] == other[1] for other in g)]
        groups = [g for g in groups if g not in near] + [[unit, *(other for g in near for other in g)]]
    return len(groups)


def by_training(incoming, outgoing, steps=8, rate=0.05):
    """Nobody's rule: trains the network on random data, and counts the signals that differ."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, incoming.shape[1]))
    targets = rng.normal(size=(40, len(outgoing)))
    into, out, sent = incoming.copy(), outgoing.copy(), []
    for _ in range(steps):
        h = np.tanh(x @ into.T)
        sent.append(h)
        error = (h @ out.T - targets) / len(x)
        into, out = into - rate * ((error @ out) * (1 - h**2)).T @ x, out - rate * error.T @ h
    kinds = []
    for signal in np.concatenate(sent).T:
        known = any(min(abs(signal - k).max(), abs(signal + k).max()) < 1e-9 for k in kinds)
        if abs(signal).max() > 1e-9 and not known:
            kinds.append(signal)
    return len(kinds)


def in_place(incoming, outgoing):
    incoming += 1.0
    return 3


LASTING_UNITS = Bank(
    checks.lasting_units,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "width": ((lambda u, v: len(u),), "All units are counted"),
        "into": ((lambda u, v: len(np.unique(u, axis=0)),), "INTO the units only: two"),
        "into, with signs": ((lambda u, v: len(set(canonical(without_zeros(u)))),), "with signs and zeros"),
        "out of": ((lambda u, v: len(np.unique(v, axis=1).T),), "OUT of the units only"),
        "copies only": ((counted(choose=lambda both: both, sign=exact),), "tanh is odd, and"),
        "no mirrors": ((counted(sign=exact),), "the OPPOSITE of another"),
        "silent ones counted": ((counted(choose=lambda both: both),), "never get a gradient"),
        "signs apart": ((counted(sign=each_side),), "part in the first step"),
        "deaf left out": ((counted(choose=hears_something),), "hears nothing at the start"),
        "unheard left out": ((counted(choose=is_heard),), "not heard at the start"),
        "half zeros left out": ((counted(choose=lambda b: is_heard(hears_something(b))),), "on ONE side are"),
        "rank into": ((lambda u, v: np.linalg.matrix_rank(u),), "That is a rank"),
        "rank out of": ((lambda u, v: np.linalg.matrix_rank(v),), "That is a rank"),
        "rank of both": ((lambda u, v: np.linalg.matrix_rank(rows(u, v)),), "That is a rank"),
        "one side": ((agree_on_one_side,), "agree on ONE side"),
        "one": ((lambda u, v: 1,), "does not count 1: take that one"),
        "fits the simple one": ((lambda u, v: 4,), "Plain copies are right"),
        "at the first step only": ((lambda u, v: by_training(u, v, steps=1),), "INTO the units only, with"),
        "in place": ((in_place,), "changes what it was given"),
        "a list": ((lambda u, v: u.tolist(),), "should be one number"),
        "not transposed": ((lambda u, v: np.hstack([u, v]),), "stops with ValueError"),
    },
    right={
        "in a canonical form": (counted(),),
        "by training": (by_training,),
        "pair by pair": (
            lambda u, v: sum(
                row.any() and not any(np.array_equal(s * row, old) for old in rows(u, v)[:i] for s in (1, -1))
                for i, row in enumerate(rows(u, v))
            ),
        ),
    },
)

# --- Four starts -------------------------------------------------------------------------------------------

RIGHT = {1: "ReLU He", 2: "tanh orthogonal", 3: "ReLU too small", 4: "tanh Gaussian"}


FOUR_STARTS = Bank(
    checks.four_starts,
    wrong={
        "untouched stub": ((dict.fromkeys(RIGHT), None), EMPTY),
        "empty starts": ((dict.fromkeys(RIGHT), 1.3), EMPTY),
        "no number": ((RIGHT,), "takes start and weight_var, in this order"),
        "a list": ((list(RIGHT.values()), 1.3), "a dictionary with the keys 1, 2, 3 and 4"),
        "another word": ((RIGHT | {2: "LSUV"}, 1.3), "'LSUV' is none"),
        "one twice": ((RIGHT | {2: "ReLU He"}, 1.3), "named twice"),
        "1 and 2": ((swapped(RIGHT, 1, 2), 1.3), "Start 1: in CORRELATION all inputs become alike"),
        "1 and 3": ((swapped(RIGHT, 1, 3), 1.3), "Start 1: too small weights"),
        "1 and 4": ((swapped(RIGHT, 1, 4), 1.3), "Start 1: in CORRELATION all inputs become alike"),
        "2 and 3": ((swapped(RIGHT, 2, 3), 1.3), "Start 2: too small weights"),
        "2 and 4": ((swapped(RIGHT, 2, 4), 1.3), "Start 2: in SPECTRUM no direction is lost"),
        "3 and 4": ((swapped(RIGHT, 3, 4), 1.3), "Start 3: in SCALE both lines"),
        "a circle": (
            ({1: RIGHT[1], 2: RIGHT[4], 3: RIGHT[2], 4: RIGHT[3]}, 1.3),
            "Start 2: in SPECTRUM no direction",
        ),
        "factor": ((RIGHT, 0.65), "left of the variance per layer"),
        "deviation": ((RIGHT, 1.14), "a standard deviation"),
        "gradient factor": ((RIGHT, 0.806), "the factor of the gradient norm"),
        "gradient norm": ((RIGHT, 1.61), "gradient NORM for a variance"),
        "upside down": ((RIGHT, 3.08), "Upside down"),
        "squared": ((RIGHT, 0.845), "squared once too often"),
        "He": ((RIGHT, 2), "He's start"),
        "Xavier": ((RIGHT, 1), "Xavier's start"),
        "whole way": ((RIGHT, 1.6e-7 / 0.038), "ONE layer"),
        "a guess": ((RIGHT, 1.45), "another slope"),
        "words": ((RIGHT, "small"), "should be one number"),
    },
    right={
        "from the variance": (RIGHT, 2 * (1.6e-7 / 0.038) ** (1 / 29)),
        "from the gradient": (RIGHT, 2 * (1.1e-5 / 5.4e-3) ** (2 / 29)),
        "coarsely read": (RIGHT, 2 * (2e-7 / 0.03) ** (1 / 29)),
    },
)

SERIES = ("activation variance", "gradient norm")


@pytest.fixture(scope="module")
def drawings():
    """What the four dashboards show: by start, the lines of SCALE, CORRELATION and SPECTRUM."""
    import matplotlib.pyplot as plt

    found = {}
    for number, name in RIGHT.items():
        scale, correlation, spectrum, _ = checks.start_dashboard(number)
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in scale.lines}
        found[name] = (
            *(lines[label] for label in SERIES),
            correlation.lines[0].get_ydata(),
            spectrum.lines[0].get_ydata(),
        )
        plt.close("all")
    return found


def test_the_dashboards_show_what_the_sentences_say(drawings):
    for name, (variance, gradient, cosine, singular) in drawings.items():
        assert (variance[-1] / variance[0] < 1e-4) == (gradient[0] / gradient[-1] < 1e-2)
        assert (variance[-1] / variance[0] < 1e-4) == (name == "ReLU too small")
        assert (cosine[-1] > 0.9) == name.startswith("ReLU")
        assert (singular[-1] / singular[0] > 0.1) == (name == "tanh orthogonal")


def test_both_lines_of_the_small_start_give_its_weight_var(drawings):
    variance, gradient, _, _ = drawings["ReLU too small"]
    assert 2 * (variance[-1] / variance[0]) ** (1 / 29) == pytest.approx(1.3, rel=0.02)
    assert 2 * (gradient[0] / gradient[-1]) ** (2 / 29) == pytest.approx(1.3, rel=0.02)


def test_a_start_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="number must be one of 1, 2, 3, 4; got 5"):
        checks.start_dashboard(5)


# --- The edge of an activation without a name --------------------------------------------------------------

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def slope_of(activation, z):
    return (activation(z + 1e-4) - activation(z - 1e-4)) / 2e-4


def mean_square(values):
    return WEIGHTS @ values**2


def solved(
    forward=mean_square,
    backward=mean_square,
    bias=lambda bias_var: bias_var,
    result=lambda weight_var, q: weight_var,
):
    """The edge by a root finder and Gauss-Hermite nodes, with one step replaced."""

    def critical(activation, bias_var):
        def weights(log_q):
            z = math.exp(log_q / 2) * NODES
            return 1 / backward(slope_of(activation, z)), forward(activation(z))

        def excess(log_q):
            return math.exp(log_q) - math.prod(weights(log_q)) - bias(bias_var)

        log_q = brentq(excess, math.log(1e-3), math.log(50))
        return result(weights(log_q)[0], math.exp(log_q))

    return critical


def at(q):
    """1 / E[φ'²] at a variance that somebody chose."""
    return lambda f, bias_var: 1 / mean_square(slope_of(f, math.sqrt(q(f, bias_var)) * NODES))


def settled(f, bias_var, weight_var=1.0):
    q = 1.0
    for _ in range(500):
        q = weight_var * mean_square(f(math.sqrt(q) * NODES)) + bias_var
    return q


def by_autograd(activation, bias_var):
    def wrapped(z):
        return torch.from_numpy(activation(z.detach().numpy()))

    return theory.critical_weight_var(bias_var, wrapped)


def by_simulation(activation, bias_var):
    """Two nearly equal inputs of one very wide layer: their distance stays at the edge; secant for it."""
    z = np.random.default_rng(3).normal(size=400_000)
    z = np.concatenate([z, -z])

    def growth(weight_var):
        q = 1.0
        for _ in range(60):
            q = weight_var * np.mean(activation(math.sqrt(q) * z[::40]) ** 2) + bias_var
        for _ in range(3):
            q = weight_var * np.mean(activation(math.sqrt(q) * z) ** 2) + bias_var
        x = math.sqrt(q) * z
        return math.log(weight_var * np.mean(((activation(x + 1e-3) - activation(x)) / 1e-3) ** 2))

    one, other = 0.8, 1.2
    values = growth(one), growth(other)
    for _ in range(7):
        step = math.log(other / one) * values[1] / (values[1] - values[0])
        one, other = other, other * math.exp(-step)
        values = values[1], growth(other)
        if abs(values[1]) < 1e-3:
            break
    return other


CRITICAL_VARIANCE = Bank(
    checks.critical_variance,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "q is 1": ((at(lambda f, b: 1.0),), "where the variance is 1"),
        "q is 0": ((at(lambda f, b: 1e-12),), "the activation is straight"),
        "no bias": ((solved(bias=lambda b: 0.0),), "the edge without biases"),
        "LSUV": ((lambda f, b: (1 - b) / mean_square(f(NODES)),), "as LSUV does"),
        "LSUV without bias": ((lambda f, b: 1 / mean_square(f(NODES)),), "at 1, without biases"),
        "the q of weight_var 1": ((at(settled),), "with YOUR weight_var"),
        "variance": ((solved(forward=lambda v: mean_square(v - WEIGHTS @ v)),), "mean included"),
        "deviation": ((solved(result=lambda w, q: math.sqrt(w)),), "σ_w"),
        "upside down": ((solved(result=lambda w, q: 1 / w),), "Upside down"),
        "q itself": ((solved(result=lambda w, q: q),), "one step more"),
        "logarithm": ((solved(result=lambda w, q: -w),), "is that a logarithm"),
        "Xavier": ((lambda f, b: 1.0,), "a factor of"),
        "hard-coded": ((lambda f, b: 1.234,), "With weight_var 1.23 and bias_var"),
        "a little off": ((solved(result=lambda w, q: 1.06 * w),), "it should be 1"),
        "not a number": ((lambda f, b: math.nan,), "try your function on tanh"),
        "infinite": ((lambda f, b: math.inf,), "try your function on tanh"),
        "autograd": ((by_autograd,), "stops with ValueError: The activation must be differentiable"),
        "an array": ((lambda f, b: f(NODES),), "one number, and is an array"),
    },
    right={"solved": (solved(),), "simulated": (by_simulation,)},
)


def test_the_edge_is_that_of_theory_where_theory_has_one():
    for bias_var in (0.02, 0.3):
        assert own._edge(np.tanh, bias_var)[1] == pytest.approx(
            theory.critical_weight_var(bias_var), rel=1e-6
        )
    q, weight_var = own._edge(np.sin, 0.2)
    assert q - math.tanh(q) == pytest.approx(0.2)
    assert weight_var == pytest.approx(2 / (1 + math.exp(-2 * q)))


def test_the_activations_have_one_edge_and_call_themselves_nothing():
    for seed in range(20):
        activation = own._Nameless(np.random.default_rng(seed))
        q = np.exp(np.linspace(math.log(1e-5), math.log(500), 200))
        excess = [v - np.divide(*own._mean_squares(activation, v)) for v in q]
        for bias_var in (0.02, 0.5):
            assert np.count_nonzero(np.diff(np.sign(np.array(excess) - bias_var))) == 1
        assert repr(activation) == "activation"


def test_a_network_at_the_edge_keeps_its_gradient():
    """What the exercise calls the edge, in a real network of width 400: 12 layers, 8 seeds."""
    activation = own._Nameless(np.random.default_rng(1))
    (first, second), (steep, flat), shift = activation.heights, activation.steepness, activation.shift
    q, weight_var = own._edge(activation, 0.1)

    def growth(weight_var, seed, width=400, depth=12):
        z = (math.sqrt(q) * data.gaussian_batch(1, width, seed=seed)[0]).requires_grad_()
        h = z
        for layer in range(depth):
            weight = data.gaussian_batch(width, width, seed=1000 * seed + layer) / math.sqrt(width)
            bias = data.gaussian_batch(1, width, seed=9000 + 100 * seed + layer)[0] * math.sqrt(0.1)
            heard = first * torch.tanh(steep * h + shift) + second * torch.atan(flat * h)
            h = math.sqrt(weight_var) * weight @ heard + bias
        (gradient,) = torch.autograd.grad(h, z, data.gaussian_batch(1, width, seed=500 + seed)[0])
        return math.log(gradient.square().mean()) / depth

    at_the_edge = np.mean([growth(weight_var, seed) for seed in range(8)])
    assert abs(at_the_edge) < 0.03
    assert np.mean([growth(1.2 * weight_var, seed) for seed in range(8)]) > at_the_edge + 0.05


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [UNIFORM_BOUND, LAYER_BUDGET, LASTING_UNITS, FOUR_STARTS, CRITICAL_VARIANCE]


@pytest.mark.parametrize(
    ("bank", "numbers"), [(LAYER_BUDGET, ("121", "122")), (FOUR_STARTS, ("1.3",))], ids=["budget", "starts"]
)
def test_neither_hint_nor_sentence_gives_the_number_away(bank, numbers):
    said = all_that_is_said(bank)
    assert not [text for text in said if any(number in text for number in numbers)]
