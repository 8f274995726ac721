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
from gradients_in_depth.checks.set_05_batch_norm import growth, rescue
from tests.check_banks import MORE_SEEDS, Bank, all_that_is_said

# --- A layer that can go -----------------------------------------------------------------------------------


def fused_by_torch(*arrays):
    weight, bias, mean, variance, gamma, beta = map(torch.from_numpy, arrays[:-1])
    return fuse_linear_bn_weights(weight, bias, mean, variance, arrays[-1], gamma, beta)


FOLDED_NORM = Bank(
    checks.folded_norm,
    wrong={
        "zeros": ((lambda w, b, *_: (np.zeros_like(w), np.zeros_like(b)),), "take one unit"),
        "square layers only": (
            (lambda w, b, *rest: fused_by_torch(w, b, *rest) if len(w) == len(w.T) else (w, b),),
            "take one unit",
        ),
        "weight alone": ((lambda w, *_: w,), "Two arrays are asked for"),
        "a matrix for the bias": (
            (lambda w, b, *_: (w, b[:, None]),),
            "The bias should have the shape (4,), and has (4, 1)",
        ),
        "words": ((lambda *_: ("w", "b"),), "The weight should be an array of numbers"),
    },
    right={"by PyTorch": (fused_by_torch,)},
)


def test_the_eps_and_each_part_of_the_cases_are_no_trifle():
    """Otherwise an answer without one of them would pass."""
    for seed in (*MORE_SEEDS, 2, 3):
        for case in checks.folded_norm.trials[0].cases(checks.folded_norm.generator(seed)):
            assert np.abs(case[-1] / case[3]).min() > 0.04
            assert all(np.abs(part).max() > 0.1 for part in case[:-1])


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
        "momentum 0.01": ((613,), "it has long been"),
        "a guess": ((10,), "After 10 batches the running deviation is 5.96 times"),
        "not rounded": ((58.43,), "a whole number from 1 on"),
    },
    right={"PyTorch's": (batches_of_pytorch(100_000),)},
)


def test_random_batches_forget_as_late_as_the_check_says():
    batches = [batches_of_pytorch(4096, seed) for seed in range(8)]
    assert abs(np.mean(batches) - 59) <= 1


def test_what_the_folded_answer_of_the_set_says():
    running_var = 0.01 + 0.99 * 0.9**22
    assert running_var == pytest.approx(0.11, rel=0.03)
    assert math.sqrt(0.01 / running_var) == pytest.approx(0.3, rel=0.03)
    assert next(n for n in range(1, 99) if math.sqrt(1 - 0.99 * 0.9**n) >= 0.9) == 16


# --- The way back through GroupNorm ------------------------------------------------------------------------


def by_autograd(arriving, x, gamma, groups, eps):
    x = torch.from_numpy(x).requires_grad_()
    output = F.group_norm(x, groups, torch.from_numpy(gamma), eps=eps)
    return torch.autograd.grad(output, x, torch.from_numpy(arriving))[0]


GROUP_BACKWARD = Bank(
    checks.group_backward,
    wrong={
        "zeros": ((lambda a, x, *_: np.zeros_like(x),), "one channel of two pixels"),
        "flat": ((lambda *case: by_autograd(*case).ravel(),), "The gradient should have the shape"),
    },
    right={"autograd": (by_autograd,)},
)


def test_the_gradient_has_lost_two_numbers_per_group():
    trial = checks.group_backward.trials[0]
    for seed in range(8):
        for arriving, x, gamma, groups, _ in trial.cases(np.random.default_rng(seed)):
            exact = trial.right(arriving, x, gamma, groups, 0.0)
            rows, signal = exact.reshape(len(x) * groups, -1), x.reshape(len(x) * groups, -1)
            assert np.abs(rows.sum(axis=1)).max() < 1e-11
            assert np.abs((rows * signal).sum(axis=1)).max() < 1e-11  # to stretch x changes nothing
        arriving, x = np.random.default_rng(seed).normal(size=(2, 5, 4, 1, 1))
        two = trial.right(arriving, x, np.ones(4), 2, 0.0)
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
        for inputs, labels in zip(x.split(4), targets.split(4), strict=True):
            loss = F.cross_entropy(model(inputs), labels) / 16
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
        "as it starts": ((lambda f: 1.0,), "With scale 1 the squared gradient has a factor of"),
        "a little off": ((lambda f: 1.05 * sampled(f),), "should have 1"),
        "negative": ((lambda f: -2.0,), "is that a logarithm"),
        "infinite": ((lambda f: math.inf,), "try your function on a sigmoid"),
    },
    right={"sampled": (sampled,)},
)


def activation_of(seed):
    """An activation that the check brings."""
    [(activation,), *_] = checks.rescuing_scale.trials[0].cases(np.random.default_rng(seed))
    return activation


def test_the_scale_is_that_of_theory_for_the_sigmoid():
    scale = rescue(expit)
    assert theory.layer_norm_growth(lambda y: torch.sigmoid(scale * y)) == pytest.approx(1, rel=0.01)
    assert growth(expit, 1.0) == pytest.approx(theory.layer_norm_growth("sigmoid"), rel=1e-5)


def test_each_activation_has_one_scale_and_calls_itself_nothing():
    for seed in range(20):
        activation = activation_of(seed)
        factors = np.array([growth(activation, g) for g in np.geomspace(0.1, 50, 120)])
        assert (np.diff(factors) > 0).all() and factors[0] < 0.9 < 1.1 < factors[-1]
        assert repr(activation) == "activation"


def test_layers_of_that_scale_keep_the_gradient():
    """A real network of LayerNorm layers of width 300: 12 layers, 8 seeds."""

    class Raised(nn.Module):
        def forward(self, z):
            first, second = activation.heights
            steep, flat = activation.steepness
            return activation.middle + first * torch.tanh(steep * z) + second * torch.atan(flat * z)

    activation = activation_of(1)
    scale = rescue(activation)

    def measured(gamma, seed, width=300, depth=12):
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

    at_the_scale = np.mean([measured(scale, seed) for seed in range(8)])
    assert abs(at_the_scale) < 0.04
    assert np.mean([measured(0.8 * scale, seed) for seed in range(8)]) < at_the_scale - 0.1


# --- The learning rate drops -------------------------------------------------------------------------------

END, STEPS = 10**-0.5, math.log(6) / 4e-4


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
        "at once guessed": ((0.5, END, STEPS), "At once: 0.5 it is not"),
        "end guessed": ((0.1, 0.2, STEPS), "In the end: 0.2 it is not"),
        "steps guessed": ((0.1, END, 5000), "The steps: 5e+03 is not it"),
        "never": ((0.1, END, math.inf), "The steps: inf is not it"),
    },
    right={"a loop": by_a_loop(), "rounded": (0.1, 0.32, 4500)},
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
