"""The checks of set 05 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_linear_bn_weights

from gradients_in_depth import checks, data, networks, signals, theory
from gradients_in_depth.checks import EMPTY
from gradients_in_depth.checks import set_05_batch_norm as own
from tests.check_banks import SEEDS, Bank, all_that_is_said, stub

# --- A layer that can go -----------------------------------------------------------------------------------


def folded(
    scale=lambda gamma, variance, eps: gamma / np.sqrt(variance + eps),
    bias=lambda s, b, mean, beta: s * (b - mean) + beta,
    weight=lambda s, w: s[:, None] * w,
):
    """With one step replaced."""

    def fold(w, b, mean, variance, gamma, beta, eps):
        s = scale(gamma, variance, eps)
        return weight(s, w), bias(s, b, mean, beta)

    return fold


def fused_by_torch(*arrays):
    weight, bias, mean, variance, gamma, beta = map(torch.from_numpy, arrays[:-1])
    return fuse_linear_bn_weights(weight, bias, mean, variance, arrays[-1], gamma, beta)


def by_asking_the_layers(weight, bias, mean, variance, gamma, beta, eps):
    """Nobody's formula: what comes out for 0 is the bias, for the unit vectors the columns."""
    units, fan_in = weight.shape
    linear, norm = nn.Linear(fan_in, units).double(), nn.BatchNorm1d(units, eps=eps).double().eval()
    places = linear.weight, linear.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias
    for place, value in zip(places, (weight, bias, mean, variance, gamma, beta), strict=True):
        place.data = torch.from_numpy(value)
    with torch.no_grad():
        at_zero = norm(linear(torch.zeros(1, fan_in, dtype=torch.float64)))[0]
        columns = norm(linear(torch.eye(fan_in, dtype=torch.float64))) - at_zero
    return columns.numpy().T, at_zero.numpy()


def fold_in_place(weight, bias, mean, variance, gamma, beta, eps):
    weight *= (gamma / np.sqrt(variance + eps))[:, None]
    return weight, bias


FOLDED_NORM = Bank(
    checks.folded_norm,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "variance": ((folded(scale=lambda g, v, e: g / (v + e)),), "divides by the variance"),
        "no eps": ((folded(scale=lambda g, v, e: g / np.sqrt(v)),), "The eps is missing"),
        "eps outside": ((folded(scale=lambda g, v, e: g / (np.sqrt(v) + e)),), "added to the deviation"),
        "multiplied": ((folded(scale=lambda g, v, e: g * np.sqrt(v + e)),), "multiplies by the deviation"),
        "no gamma": ((folded(scale=lambda g, v, e: 1 / np.sqrt(v + e)),), "The gamma is missing"),
        "bias lost": ((folded(bias=lambda s, b, m, beta: beta - s * m),), "The old bias is lost"),
        "bias not scaled": ((folded(bias=lambda s, b, m, beta: b - s * m + beta),), "enters as it is"),
        "no mean": ((folded(bias=lambda s, b, m, beta: s * b + beta),), "The mean is not subtracted"),
        "mean later": ((folded(bias=lambda s, b, m, beta: s * b - m + beta),), "after the division"),
        "mean added": ((folded(bias=lambda s, b, m, beta: s * (b + m) + beta),), "the wrong sign"),
        "no beta": ((folded(bias=lambda s, b, m, beta: s * (b - m)),), "The beta is missing"),
        "beta scaled": ((folded(bias=lambda s, b, m, beta: s * (b - m + beta)),), "The beta is scaled"),
        "weight kept": ((folded(weight=lambda s, w: w),), "The weight is as it was"),
        "bias kept": ((folded(bias=lambda s, b, m, beta: b),), "The bias is as it was"),
        "wrong axis": ((folded(weight=lambda s, w: w * s),), "the INPUTS of the layer"),
        "transposed": ((folded(weight=lambda s, w: (s[:, None] * w).T),), "take one unit"),
        "zeros": ((lambda w, b, *_: (np.zeros_like(w), np.zeros_like(b)),), "take one unit"),
        "square layers only": (
            (lambda w, b, *rest: folded()(w, b, *rest) if len(w) == len(w.T) else (w, b),),
            "take one unit",
        ),
        "weight alone": ((lambda w, *_: w,), "Two arrays are asked for"),
        "a matrix for the bias": (
            (folded(bias=lambda s, b, m, beta: (s * (b - m) + beta)[:, None]),),
            "The bias should have the shape (4,), and has (4, 1)",
        ),
        "words": ((lambda *_: ("w", "b"),), "The weight should be an array of numbers"),
        "in place": ((fold_in_place,), "changes what it was given"),
    },
    right={
        "two lines": (folded(),),
        "by torch": (fused_by_torch,),
        "by asking": (by_asking_the_layers,),
        "a list, with a diagonal matrix": (
            lambda w, b, m, v, g, beta, e: [
                np.diag(g * (v + e) ** -0.5) @ w,
                beta + (g * (b - m)) / (v + e) ** 0.5,
            ],
        ),
    },
)


def test_the_eps_and_each_part_of_the_cases_are_no_trifle():
    """Otherwise an answer without one of them would pass."""
    for seed in (*SEEDS, 1, 2, 3):
        case = own._folding_case(np.random.default_rng(seed), 6, 6)
        assert np.abs(case[-1] / case[3]).min() > 0.04
        assert all(np.abs(part).max() > 0.2 for part in case[:-1])


# --- A small variance is forgotten late --------------------------------------------------------------------


def batches_of_pytorch(size, seed=None):
    """How many batches nn.BatchNorm1d takes; without a seed all have exactly the variance 0.01."""
    layer = nn.BatchNorm1d(1, momentum=0.1, dtype=torch.float64)
    generator = None if seed is None else data.seeded_generator(seed)
    for count in range(1, 200):
        if seed is None:
            z = torch.tensor([0.1, -0.1], dtype=torch.float64).repeat(size // 2)[:, None]
        else:
            z = 0.1 * torch.randn(size, 1, generator=generator, dtype=torch.float64)
        layer(z)
        if layer.running_var.item() <= 1.21 * 0.01:
            return count
    return None


FORGETTING_VARIANCE = Bank(
    checks.forgetting_variance,
    wrong={
        "untouched stub": ((None,), EMPTY),
        "three dots": ((...,), EMPTY),
        "variance": ((66,), "for the VARIANCE"),
        "the colleague's": ((22,), "a tenth of the 1 is left"),
        "falls to 0": ((42,), "fell to 0"),
        "deviations": ((43,), "deviations were averaged"),
        "the other momentum": ((3,), "the share of the NEW batch"),
        "a hundredth": ((44,), "a hundredth of the 1"),
        "one too few": ((58,), "Near: is the deviation"),
        "one too many": ((60,), "Near: is it the first"),
        "momentum 0.01": ((613,), "it has long been"),
        "a guess": ((10,), "After 10 batches the running deviation is 5.96 times"),
        "not rounded": ((58.43,), "a whole number from 1 on"),
        "negative": ((-3,), "a whole number from 1 on"),
        "words": (("soon",), "should be one number"),
    },
    right={
        "a number": (59,),
        "an array": (np.array(59.0),),
        "PyTorch's": (batches_of_pytorch(100_000),),
        "by trying": (next(n for n in range(1, 999) if 0.01 + 0.99 * 0.9**n <= 0.0121),),
    },
)


def test_random_batches_forget_as_late_as_the_check_says():
    found = [batches_of_pytorch(4096, seed) for seed in range(8)]
    assert abs(np.mean(found) - 59) <= 1


def test_what_the_folded_answer_of_the_set_says():
    running_var = 0.01 + 0.99 * 0.9**22
    assert running_var == pytest.approx(0.11, rel=0.03)
    assert math.sqrt(0.01 / running_var) == pytest.approx(0.3, rel=0.03)
    assert next(n for n in range(1, 99) if math.sqrt(1 - 0.99 * 0.9**n) >= 0.9) == 16


# --- The way back through GroupNorm ------------------------------------------------------------------------


def group_means(a, groups):
    shape = a.shape
    a = a.reshape(shape[0], groups, -1)
    return np.broadcast_to(a.mean(axis=2, keepdims=True), a.shape).reshape(shape)


def by_hand(
    mean=group_means,
    sigma=lambda variance, eps: np.sqrt(variance + eps),
    g=lambda arriving, gamma: arriving * gamma,
    bracket=lambda g, y, sigma, mean: (g - mean(g) - y * mean(g * y)) / sigma,
    after=lambda found, gamma: found,
):
    """With one step replaced."""

    def backward(arriving, x, gamma, groups, eps):
        column = gamma.reshape(-1, 1, 1)

        def share(a):
            return mean(a, groups)

        deviation = sigma(share((x - share(x)) ** 2), eps)
        y = (x - share(x)) / deviation
        return after(bracket(g(arriving, column), y, deviation, share), column)

    return backward


def by_autograd(arriving, x, gamma, groups, eps):
    x = torch.from_numpy(x).requires_grad_()
    output = F.group_norm(x, groups, torch.from_numpy(gamma), eps=eps)
    return torch.autograd.grad(output, x, torch.from_numpy(arriving))[0]


def over(*axes):
    return lambda a, groups: np.broadcast_to(a.mean(axis=axes, keepdims=True), a.shape)


def group_by_group(arriving, x, gamma, groups, eps):
    """With the Jacobian of a group, (I - 11ᵀ/n - y yᵀ/n) / σ, as a matrix."""
    found, size = np.empty_like(x), len(gamma) // groups
    for example in range(len(x)):
        for k in range(groups):
            part = slice(k * size, (k + 1) * size)
            z = x[example, part].ravel()
            n, sigma = z.size, math.sqrt(z.var() + eps)
            y = (z - z.mean()) / sigma
            jacobian = (np.eye(n) - np.full((n, n), 1 / n) - np.outer(y, y) / n) / sigma
            g = (arriving[example, part] * gamma[part, None, None]).ravel()
            found[example, part] = (jacobian @ g).reshape(size, *x.shape[2:])
    return found


def dealt(a, groups):
    n, channels, *pixels = a.shape
    b = a.reshape(n, channels // groups, groups, *pixels)
    return np.broadcast_to(b.mean(axis=(1, 3, 4), keepdims=True), b.shape).reshape(a.shape)


def with_examples(a, groups):
    b = a.reshape(len(a), groups, -1)
    return np.broadcast_to(b.mean(axis=(0, 2), keepdims=True), b.shape).reshape(a.shape)


def channels_only(a, groups):
    b = a.reshape(len(a), groups, -1, *a.shape[2:])
    return np.broadcast_to(b.mean(axis=2, keepdims=True), b.shape).reshape(a.shape)


def unbiased(arriving, x, gamma, groups, eps):
    n = x[0].size // groups
    return by_hand(sigma=lambda variance, e: np.sqrt(variance * n / (n - 1) + e))(
        arriving, x, gamma, groups, eps
    )


def centred_in_place(arriving, x, gamma, groups, eps):
    x -= group_means(x, groups)
    return by_hand()(arriving, x, gamma, groups, eps)


GROUP_BACKWARD = Bank(
    checks.group_backward,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "BatchNorm": ((by_hand(mean=over(0, 2, 3)),), "the means of BatchNorm"),
        "LayerNorm": ((by_hand(mean=over(1, 2, 3)),), "the means of LayerNorm"),
        "InstanceNorm": ((by_hand(mean=over(2, 3)),), "the means of InstanceNorm"),
        "examples too": ((by_hand(mean=with_examples),), "over the examples as well"),
        "no pixels": ((by_hand(mean=channels_only),), "not over its pixels"),
        "dealt out": ((by_hand(mean=dealt),), "NEIGHBOURING"),
        "no gamma": ((by_hand(g=lambda a, c: a),), "The gamma is missing"),
        "gamma last": (
            (by_hand(g=lambda a, c: a, after=lambda found, c: c * found),),
            "after the bracket",
        ),
        "constants": ((by_hand(bracket=lambda g, y, s, m: g / s),), "As if mean and deviation"),
        "no mean": ((by_hand(bracket=lambda g, y, s, m: (g - y * m(g * y)) / s),), "through the mean"),
        "no deviation": ((by_hand(bracket=lambda g, y, s, m: (g - m(g)) / s),), "through the deviation"),
        "not divided": ((by_hand(bracket=lambda g, y, s, m: g - m(g) - y * m(g * y)),), "in front of it"),
        "variance": (
            (by_hand(bracket=lambda g, y, s, m: (g - m(g) - y * m(g * y)) / s**2),),
            "divided by the variance",
        ),
        "not normalized": (
            (by_hand(bracket=lambda g, y, s, m: (g - m(g) - y * s * m(g * y * s)) / s),),
            "wants it normalized",
        ),
        "sign": ((by_hand(bracket=lambda g, y, s, m: (g - m(g) + y * m(g * y)) / s),), "A sign"),
        "no eps": ((by_hand(sigma=lambda v, e: np.sqrt(v)),), "The eps is missing"),
        "eps outside": ((by_hand(sigma=lambda v, e: np.sqrt(v) + e),), "added to the deviation"),
        "one less": ((unbiased,), "one less than the count"),
        "forward": ((by_hand(bracket=lambda g, y, s, m: y),), "the way forward"),
        "zeros": ((lambda a, x, *_: np.zeros_like(x),), "one channel of two pixels"),
        "sums for means": (
            (by_hand(bracket=lambda g, y, s, m: (g - 6 * m(g) - 6 * y * m(g * y)) / s),),
            "one channel of two pixels",
        ),
        "not a number": ((lambda a, x, *_: np.full_like(x, np.nan),), "one channel of two pixels"),
        "flat": ((lambda *case: by_hand()(*case).ravel(),), "The gradient should have the shape"),
        "one number": ((lambda *case: by_hand()(*case).sum(),), "The gradient should have the shape"),
        "in place": ((centred_in_place,), "changes what it was given"),
        "gamma along the pixels": ((by_hand(g=lambda a, c: a * c.ravel()),), "stops with ValueError"),
    },
    right={
        "by hand": (by_hand(),),
        "autograd": (by_autograd,),
        "as a matrix": (group_by_group,),
        "nested lists": (lambda *case: by_hand()(*case).tolist(),),
    },
)


def test_the_gradient_is_autograds_and_has_lost_two_numbers_per_group():
    for seed in range(8):
        arriving, x, gamma, groups, eps = own._group_case(np.random.default_rng(seed), 2, 3)
        g = gamma[:, None, None] * arriving
        found = own._way_back(g, x, own._mean_of_groups(groups, 2, 3, 4), eps)
        np.testing.assert_allclose(found, by_autograd(arriving, x, gamma, groups, eps), rtol=1e-9, atol=1e-12)
        exact = own._way_back(g, x, own._mean_of_groups(groups, 2, 3, 4), 0.0)
        rows, signal = exact.reshape(len(x) * groups, -1), x.reshape(len(x) * groups, -1)
        assert np.abs(rows.sum(axis=1)).max() < 1e-11
        assert np.abs((rows * signal).sum(axis=1)).max() < 1e-11  # to stretch x changes nothing
        two = own._way_back(
            *np.random.default_rng(seed).normal(size=(2, 5, 4, 1, 1)), own._mean_of_groups(2, 2, 3, 4), 0.0
        )
        assert np.abs(two).max() < 1e-8  # two numbers in a group: nothing passes


# --- Sixteen times four: what the model answer says --------------------------------------------------------


@pytest.mark.parametrize(("norm", "equal"), [(None, True), ("layer", True), ("batch", False)])
def test_small_batches_add_up_to_a_large_one_only_without_batch_norm(norm, equal):
    digits = data.digits(dtype=torch.float64)
    x, targets = digits.train_inputs[:64], digits.train_targets[:64]
    for seed in range(8):
        settings = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64}
        model = networks.DeepMLP(10, 32, normalization=norm, seed=seed, **settings)
        weights = [block.linear.weight for block in model.blocks]
        whole = torch.autograd.grad(F.cross_entropy(model(x), targets), weights)
        parts = [torch.zeros_like(w) for w in weights]
        for some, wanted in zip(x.split(4), targets.split(4), strict=True):
            loss = F.cross_entropy(model(some), wanted) / 16
            for total, part in zip(parts, torch.autograd.grad(loss, weights), strict=True):
                total += part
        for one, other in zip(whole, parts, strict=True):
            cosine = F.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-13) == equal
            assert (cosine > 1 - 1e-9) if equal else cosine < 0.7


def test_the_company_moves_an_output_by_half_a_standard_deviation_in_a_batch_of_four():
    """The example is one of the batch, as in training; its own z is drawn, and then held."""

    def spread(batch, seed):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(100, 400, batch))
        z[:, :, 0] = rng.normal(size=(100, 1))
        y = (z[:, :, 0] - z.mean(axis=2)) / z.std(axis=2)
        return math.sqrt(y.var(axis=1).mean())

    for seed in range(8):
        assert spread(4, seed) == pytest.approx(0.58, abs=0.04)
        assert spread(64, seed) == pytest.approx(0.15, abs=0.02)


# --- A scale that saves LayerNorm --------------------------------------------------------------------------

Y = np.linspace(-8, 8, 6001)
CHANCE = np.exp(-(Y**2) / 2) / np.exp(-(Y**2) / 2).sum()


def mean_square(f, g):
    return CHANCE @ f(g * Y) ** 2


def mean_square_slope(f, g):
    return CHANCE @ ((f(g * Y + 1e-4) - f(g * Y - 1e-4)) / 2e-4) ** 2


def where_one(factor, result=lambda g: g):
    """By a root finder, with one step replaced."""
    return lambda f: result(math.exp(brentq(lambda s: math.log(factor(f, math.exp(s))), -2.3, 5.5)))


def layer_norm(f, g):
    return g**2 * mean_square_slope(f, g) / mean_square(f, g)


def steepest(f):
    return float((f(np.array(1e-4)) - f(np.array(-1e-4))) / 2e-4)


def lowest(factor):
    """What bisection ends at when a factor is above 1 everywhere."""

    def bisect(f):
        low, high = 0.1, 50.0
        for _ in range(30):
            g = math.sqrt(low * high)
            low, high = (g, high) if factor(f, g) < 1 else (low, g)
        return g

    return bisect


def batch_norm(f, g):
    return g**2 * mean_square_slope(f, g) / (mean_square(f, g) - (CHANCE @ f(g * Y)) ** 2)


def sampled(f):
    """Without a slope and without a grid: two nearly equal inputs of a very wide layer."""
    y = np.random.default_rng(5).normal(size=150_000)
    y = np.concatenate([y, -y])

    def growth(log_g):
        g = math.exp(log_g)
        return np.mean(((f(g * y + 1e-4 * g) - f(g * y)) / 1e-4) ** 2) / np.mean(f(g * y) ** 2) - 1

    return math.exp(brentq(growth, 0.0, 3.5, xtol=1e-3))


RESCUING_SCALE = Bank(
    checks.rescuing_scale,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "square": ((where_one(layer_norm, lambda g: g**2),), "the square of the scale"),
        "root": ((where_one(layer_norm, math.sqrt),), "the root of the scale"),
        "upside down": ((where_one(layer_norm, lambda g: 1 / g),), "Upside down"),
        "straight": ((lambda f: float(f(0.0)) / steepest(f),), "the activation is straight"),
        "slope at 0": (
            (where_one(lambda f, g: (g * steepest(f)) ** 2 / mean_square(f, g)),),
            "The slope is taken at 0",
        ),
        "slope at scale 1": (
            (where_one(lambda f, g: g**2 * mean_square_slope(f, 1) / mean_square(f, g)),),
            "The slope is taken at scale 1",
        ),
        "outputs at scale 1": (
            (where_one(lambda f, g: g**2 * mean_square_slope(f, g) / mean_square(f, 1)),),
            "is taken at scale 1: it grows",
        ),
        "square of the mean": (
            (where_one(lambda f, g: g**2 * mean_square_slope(f, g) / (CHANCE @ f(g * Y)) ** 2),),
            "the square of the mean",
        ),
        "not divided": ((where_one(lambda f, g: g**2 * mean_square_slope(f, g)),), "Nothing is divided"),
        "root below": (
            (where_one(lambda f, g: g**2 * mean_square_slope(f, g) / math.sqrt(mean_square(f, g))),),
            "by the ROOT",
        ),
        "BatchNorm": ((lowest(batch_norm),), "has a factor of"),
        "no chain rule": (
            (lowest(lambda f, g: mean_square_slope(f, g) / mean_square(f, g)),),
            "has a factor of",
        ),
        "as it starts": ((lambda f: 1.0,), "With scale 1 the squared gradient has a factor of"),
        "hard-coded for the sigmoid": ((lambda f: 6.75,), "With scale 6.75"),
        "a little off": ((where_one(layer_norm, lambda g: 1.05 * g),), "should have 1"),
        "logarithm": ((where_one(layer_norm, lambda g: -math.log(g)),), "is that a logarithm"),
        "not a number": ((lambda f: math.nan,), "try your function on a sigmoid"),
        "infinite": ((lambda f: math.inf,), "try your function on a sigmoid"),
        "an array": ((lambda f: f(Y),), "one number, and is an array"),
    },
    right={"solved": (where_one(layer_norm),), "sampled": (sampled,), "bisected": (lowest(layer_norm),)},
)


def test_the_scale_is_that_of_theory_for_the_sigmoid():
    found = own._scale_where(lambda g: own._factor(expit, g))
    assert theory.layer_norm_growth(lambda y: torch.sigmoid(found * y)) == pytest.approx(1, rel=0.01)
    assert own._factor(expit, 1.0) == pytest.approx(theory.layer_norm_growth("sigmoid"), rel=1e-5)


def test_each_activation_has_one_scale_and_calls_itself_nothing():
    for seed in range(20):
        activation = own._Raised(np.random.default_rng(seed))
        factors = np.array([own._factor(activation, g) for g in np.geomspace(0.1, 50, 120)])
        assert (np.diff(factors) > 0).all() and factors[0] < 0.9 < 1.1 < factors[-1]
        assert repr(activation) == "activation"


def test_layers_of_that_scale_keep_the_gradient():
    """A real network of LayerNorm layers of width 300: 12 layers, 8 seeds."""

    class Raised(nn.Module):
        def forward(self, z):
            first, second = activation.heights
            steep, flat = activation.steepness
            return activation.middle + first * torch.tanh(steep * z) + second * torch.atan(flat * z)

    activation = own._Raised(np.random.default_rng(1))
    scale = own._scale_where(lambda g: own._factor(activation, g))

    def growth(gamma, seed, width=300, depth=12):
        model = networks.DeepMLP(
            depth, width, in_features=width, activation="tanh", normalization="layer", seed=seed
        ).double()
        for block in model.blocks:
            block.activation = Raised()
            block.norm.weight.data.fill_(gamma)
        x, arriving = data.gaussian_batch(4, width, 100 + seed), data.gaussian_batch(4, 10, 200 + seed)
        run = signals.measure(model, x, loss_fn=lambda out: (out * arriving).sum(), layers=networks.Block)
        norms = run.series("activation_gradient_norm")
        return 2 * math.log(norms[0] / norms[-1]) / (depth - 1)

    at_the_scale = np.mean([growth(scale, seed) for seed in range(8)])
    assert abs(at_the_scale) < 0.04
    assert np.mean([growth(0.8 * scale, seed) for seed in range(8)]) < at_the_scale - 0.1


# --- The learning rate drops -------------------------------------------------------------------------------

END, STEPS = 10**-0.5, math.log(6) / 4e-4
RIGHT = (0.1, END, STEPS)


def by_a_loop(rate=0.1, decay=0.01):
    """The three numbers from the length alone, one step after the other."""

    def balance(rate):
        return (rate**2 / (1 - (1 - rate * decay) ** 2)) ** 0.25

    def angle(rate, length):
        return math.atan(rate / length / ((1 - rate * decay) * length))

    length = balance(rate)
    before, rate, count = angle(rate, length), rate / 10, 0
    first = angle(rate, length)
    while angle(rate, length) < 2 * first:
        length = math.hypot((1 - rate * decay) * length, rate / length)
        count += 1
    return first / before, angle(rate, balance(rate)) / before, count


TURNING_RATE = Bank(
    checks.turning_rate,
    wrong={
        "untouched stub": ((None, None, None), EMPTY),
        "no steps": ((0.1, END, None), EMPTY),
        "two numbers": ((0.1, END), "takes at_once and in_the_end and steps, in this order"),
        "at once as in the end": ((END, END, STEPS), "At once: the length of the weights"),
        "nothing at once": ((1, END, STEPS), "At once: the same gradient"),
        "at once upside down": ((10, END, STEPS), "At once: that is upside down"),
        "at once twice": ((0.01, END, STEPS), "and only once"),
        "at once guessed": ((0.5, END, STEPS), "At once: 0.5 it is not"),
        "end as at once": ((0.1, 0.1, STEPS), "In the end: that is at the old length"),
        "end as before": ((0.1, 1, STEPS), "does not make up for all of it"),
        "end upside down": ((0.1, 3.16, STEPS), "In the end: that is upside down"),
        "length": ((0.1, 0.562, STEPS), "the factor of the LENGTH"),
        "end guessed": ((0.1, 0.2, STEPS), "In the end: 0.2 it is not"),
        "old rate": ((0.1, END, STEPS / 10), "with the old learning rate"),
        "decay alone": ((0.1, END, math.log(2) / 2e-4), "with decay alone, and each"),
        "length halved": ((0.1, END, math.log(2) / 1e-4), "halves the length"),
        "pace of the square": ((0.1, END, 2 * STEPS), "the pace of the SQUARED length"),
        "pace of the length": ((0.1, END, 4 * STEPS), "the pace of the length itself"),
        "square exponential": (
            (0.1, END, math.log((1 - END) / (0.5 - END)) / 2e-4),
            "as if the squared length",
        ),
        "angle exponential": ((0.1, END, math.log((END - 0.1) / (END - 0.2)) / 4e-4), "as if the ANGLE"),
        "time constant": ((0.1, END, 2500), "the time constant"),
        "half of the way": ((0.1, END, math.log(2) / 4e-4), "half of the way"),
        "steps guessed": ((0.1, END, 5000), "The steps: 5e+03 is not it"),
        "never": ((0.1, END, math.inf), "The steps: inf is not it"),
        "words": (("less", END, STEPS), "The factor at once should be one number"),
    },
    right={
        "formula": RIGHT,
        "a loop": by_a_loop(),
        "rounded": (np.array(0.1), 0.32, 4500),
    },
)


def test_the_length_settles_where_the_check_says():
    length, rate, decay = (0.1**2 / (1 - (1 - 0.1 * 0.01) ** 2)) ** 0.25, 0.01, 0.01
    start = 0.1 / length**2
    for _ in range(40_000):
        length = math.hypot((1 - rate * decay) * length, rate / length)
    assert rate / length**2 / start == pytest.approx(END, rel=0.002)


def test_a_real_layer_before_batch_norm_turns_as_the_check_says():
    """Eight layers of one unit on random data, with gradients as the lesson wrote them: 12,000 steps."""
    rng, seeds, batch, fan_in, decay = np.random.default_rng(0), 8, 16, 16, 0.01

    def gradient(weight):
        x, arriving = rng.normal(size=(2, seeds, batch, fan_in))
        z, g = (x @ weight[:, :, None])[..., 0], 4 * arriving[..., 0]
        sigma = z.std(axis=1, keepdims=True)
        y = (z - z.mean(axis=1, keepdims=True)) / sigma
        by_z = (g - g.mean(axis=1, keepdims=True) - y * (g * y).mean(axis=1, keepdims=True)) / sigma
        return (by_z[:, None] @ x)[:, 0] / batch

    def length2(weight):
        return (weight**2).sum(axis=1, keepdims=True)

    def step(weight, rate):
        new = (1 - rate * decay) * weight - rate * gradient(weight)
        cosine = (weight * new).sum(axis=1) / np.sqrt(length2(weight) * length2(new))[:, 0]
        return new, 1 - cosine**2  # the squared sine of the angle

    weight = rng.normal(size=(seeds, fan_in))
    weight /= np.sqrt(length2(weight))
    c2 = np.mean([length2(gradient(weight)) for _ in range(2000)])
    weight *= (0.1**2 * c2 / (1 - (1 - 0.1 * decay) ** 2)) ** 0.25
    before = []
    for _ in range(1500):
        weight, turned = step(weight, 0.1)
        before.append(turned)
    after = []
    for _ in range(12_000):
        weight, turned = step(weight, 0.01)
        after.append(turned)
    before, after = math.sqrt(np.mean(before)), np.array(after).mean(axis=1)
    first, twice = math.sqrt(after[:100].mean()), math.sqrt(after[4379:4579].mean())
    assert first / before == pytest.approx(0.1, rel=0.05)
    assert twice / first == pytest.approx(2, rel=0.05)
    assert math.sqrt(after[-1000:].mean()) / before == pytest.approx(END, rel=0.06)


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [FOLDED_NORM, FORGETTING_VARIANCE, GROUP_BACKWARD, RESCUING_SCALE, TURNING_RATE]


@pytest.mark.parametrize(
    ("bank", "numbers"),
    [(FORGETTING_VARIANCE, ("59",)), (TURNING_RATE, ("448", "0.316", "0.32"))],
    ids=["forgetting", "turning"],
)
def test_neither_hint_nor_sentence_gives_the_number_away(bank, numbers):
    said = all_that_is_said(bank)
    assert not [text for text in said if any(number in text for number in numbers)]
