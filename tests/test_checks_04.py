"""The checks of set 04 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, theory
from gradients_in_depth.checks.activations import moments
from gradients_in_depth.checks.set_04_initialization import edge
from tests.check_banks import Bank, all_that_is_said, swapped

# --- The bound of a uniform law ----------------------------------------------------------------------------


def by_torch(shape, slope):
    """With PyTorch's own gain, and an output's inputs counted."""
    return nn.init.calculate_gain("leaky_relu", slope) * math.sqrt(3.0 / torch.empty(shape)[0].numel())


UNIFORM_BOUND = Bank(
    checks.uniform_bound,
    wrong={
        "everything": ((lambda shape, slope: math.sqrt(3 / math.prod(shape)),), "begin with the variance"),
        "hard-coded": ((lambda *_: 0.1,), "it is not 0.1"),
    },
    right={"by PyTorch's gain": (by_torch,)},
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
        bound = by_torch(tuple(layer.weight.shape), slope)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        z = torch.randn(x, generator=generator, dtype=torch.float64)
        ratios.append(layer(F.leaky_relu(z, slope)).square().mean().item())
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


# --- A purse of 400,000 weights ----------------------------------------------------------------------------

ROOT = math.sqrt(400_000)


LAYER_BUDGET = Bank(
    checks.layer_budget,
    wrong={
        "width": ((57,), "their width"),
        "a factor of e": ((40,), "a factor of e"),
        "ratio": ((0.471,), "depth over width"),
        "a guess": ((150,), "150 is not it"),
        "negative": ((-50,), "-50 is not it"),
    },
    right={
        "by trying": (next(L for L in range(1, 999) if math.sqrt(2.5 * L**1.5 / ROOT) >= math.log(10)),),
        "a number": (121.6,),
        "rounded down": (121,),
    },
)


def test_the_purse_is_what_theory_and_the_lesson_say():
    depth, width = 122, round(ROOT / math.sqrt(122))
    assert depth * width**2 == pytest.approx(400_000, rel=0.02)
    between = math.exp(math.sqrt(2 * theory.log_gradient_norm_variance(depth, width)))
    assert between == pytest.approx(10, rel=0.03)
    assert math.sqrt(2 * theory.log_gradient_norm_variance(40, 100)) == pytest.approx(1)


# --- What is a layer worth? --------------------------------------------------------------------------------


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


LASTING_UNITS = Bank(
    checks.lasting_units,
    wrong={
        "one": ((lambda u, v: 1,), "does not count 1: take that one"),
        "fits the simple one": ((lambda u, v: 4,), "Plain copies are right"),
        "at the first step only": ((lambda u, v: by_training(u, v, steps=1),), "INTO the units only, with"),
    },
    right={"by training": (by_training,)},
)

# --- Four starts -------------------------------------------------------------------------------------------

RIGHT = {1: "ReLU He", 2: "tanh orthogonal", 3: "ReLU too small", 4: "tanh Gaussian"}


FOUR_STARTS = Bank(
    checks.four_starts,
    wrong={
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
        "gradient norm": ((RIGHT, 2 * (1.1e-5 / 5.4e-3) ** (1 / 29)), "gradient NORM for a variance"),
        "whole way": ((RIGHT, 1.6e-7 / 0.038), "ONE layer"),
        "a guess": ((RIGHT, 1.45), "another slope"),
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

    lines_of = {}
    for number, name in RIGHT.items():
        scale, correlation, spectrum, _ = checks.start_dashboard(number)
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in scale.lines}
        lines_of[name] = (
            *(lines[label] for label in SERIES),
            correlation.lines[0].get_ydata(),
            spectrum.lines[0].get_ydata(),
        )
        plt.close("all")
    return lines_of


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
        "negative": ((lambda f, b: -1.0,), "is that a logarithm"),
        "Xavier": ((lambda f, b: 1.0,), "a factor of"),
        "hard-coded": ((lambda f, b: 1.234,), "With weight_var 1.23 and bias_var"),
        "infinite": ((lambda f, b: math.inf,), "try your function on tanh"),
    },
    right={"simulated": (by_simulation,)},
)


def activation_of(seed):
    """An activation that the check brings."""
    [(activation, _), *_] = checks.critical_variance.trials[0].cases(np.random.default_rng(seed))
    return activation


def test_the_edge_is_that_of_theory_where_theory_has_one():
    for bias_var in (0.02, 0.3):
        assert edge(np.tanh, bias_var)[1] == pytest.approx(theory.critical_weight_var(bias_var), rel=1e-6)
    q, weight_var = edge(np.sin, 0.2)
    assert q - math.tanh(q) == pytest.approx(0.2)
    assert weight_var == pytest.approx(2 / (1 + math.exp(-2 * q)))


def test_the_activations_have_one_edge_and_call_themselves_nothing():
    for seed in range(20):
        activation = activation_of(seed)
        q = np.exp(np.linspace(math.log(1e-5), math.log(500), 200))
        excess = [v - np.divide(*moments(activation, v)[1:]) for v in q]
        for bias_var in (0.02, 0.5):
            assert np.count_nonzero(np.diff(np.sign(np.array(excess) - bias_var))) == 1
        assert repr(activation) == "activation"


def test_a_network_at_the_edge_keeps_its_gradient():
    """What the exercise calls the edge, in a real network of width 400: 12 layers, 8 seeds."""
    activation = activation_of(1)
    (first, second), (steep, flat), shift = activation.heights, activation.steepness, activation.shift
    q, weight_var = edge(activation, 0.1)

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
