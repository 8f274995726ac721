"""The checks of set 06 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch

from gradients_in_depth import checks, data, networks, theory, training
from gradients_in_depth.checks import set_06_residual_connections as own
from tests.check_banks import Bank, all_that_is_said

# --- How loud may a branch be? -----------------------------------------------------------------------------


def by_trying(depth, growth, weight_var, slope):
    """Nobody's formula: bisection on the norm behind all blocks."""
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        square = 1.0
        for _ in range(depth):
            square += middle**2 * weight_var * (square / 2 + slope**2 * square / 2)
        low, high = (middle, high) if math.sqrt(square) < growth else (low, middle)
    return middle


LOUDEST_BRANCH = Bank(
    checks.loudest_branch,
    wrong={
        "hard-coded": ((lambda *_: 0.1,), "0.1 does not let the gradient grow"),
        "not a number": ((lambda *_: math.nan,), "begin with the factor of one block"),
    },
    right={"by trying": (by_trying,)},
)


def test_the_gradient_of_a_real_network_grows_as_the_loudest_branch_says():
    """Six blocks of width 256, 12 seeds, mean square over all; autograd knows no formula."""
    depth, growth, weight_var, slope, width = 6, 2.5, 1.3, 0.3, 256
    scale, squares = by_trying(depth, growth, weight_var, slope), []
    for seed in range(12):
        x = data.gaussian_batch(32, width, seed).requires_grad_()
        weights = data.gaussian_batch(depth * width, width, 100 + seed).reshape(depth, width, width)
        z = x
        for weight in weights * math.sqrt(weight_var / width):
            z = z + scale * torch.nn.functional.leaky_relu(z, slope) @ weight
        message = data.gaussian_batch(32, width, 200 + seed)
        (gradient,) = torch.autograd.grad(z, x, message)
        squares.append((gradient.square().mean() / message.square().mean()).item())
    assert math.sqrt(np.mean(squares)) == pytest.approx(growth, rel=0.04)


# --- The first block, and the last ones --------------------------------------------------------------------

FACTORS = 1 / (1 + (1 - 1 / math.pi) * np.arange(60))


def by_paths():
    """Carries paths of each length through the blocks that stay; the last ones have only their skips."""
    for count in range(1, 61):
        lengths = np.array([1.0])
        for factor in FACTORS[: 60 - count]:
            lengths = np.append(lengths, 0.0) + factor * np.append(0.0, lengths)
        without_first = np.prod(1 + FACTORS[1:])
        if lengths.sum() <= without_first:
            return count
    raise AssertionError("no number of blocks is enough")


BLOCKS_LIKE_THE_FIRST = Bank(
    checks.blocks_like_the_first,
    wrong={
        "too many": ((61,), "There are 60 blocks"),
        "a guess": ((8,), "Around the last 8 go paths with 0.82"),
        "no whole number": ((23.5,), "a whole number from 1 on"),
        "negative": ((-24,), "a whole number from 1 on"),
    },
    right={"by paths": (by_paths(),), "a number": (24,)},
)


def test_the_factors_are_those_of_theory_and_24_is_not_a_matter_of_rounding():
    law = theory.residual_flow(60, 1.0, normalization="batch").branch_factors
    assert law == pytest.approx(FACTORS, rel=1e-6)
    around = np.cumprod(1 / (1 + law[::-1]))
    assert around[22] > 0.502 and around[23] < 0.498
    long = 1 / (1 + (1 - 1 / math.pi) * np.arange(6000))
    around = np.cumprod(1 / (1 + long[::-1]))
    assert np.argmax(around <= 0.5) / 6000 == pytest.approx(0.38, abs=0.01)


def test_in_real_networks_24_last_blocks_are_worth_the_first():
    """Widths of 128, batches of 256 with fixed statistics, 8 seeds: what remains without the branches."""

    def remaining(seed, struck, width=128, depth=60):
        x = data.gaussian_batch(256, width, seed).requires_grad_()
        generator, z = data.seeded_generator(100 + seed), x
        for number in range(depth):
            weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
            h = (z - z.mean(0).detach()) / z.std(0, correction=0).detach()
            branch = torch.relu(h) @ weight * math.sqrt(2 / width)
            z = z + (branch.detach() if number in struck else branch)
        (gradient,) = torch.autograd.grad(z, x, data.gaussian_batch(256, width, 200 + seed))
        return gradient.square().mean().item()

    first = np.mean([remaining(seed, {0}) for seed in range(8)])
    last = np.mean([remaining(seed, set(range(36, 60))) for seed in range(8)])
    everything = np.mean([remaining(seed, set()) for seed in range(8)])
    assert first / everything == pytest.approx(0.5, rel=0.1)
    assert last / everything == pytest.approx(0.5, rel=0.1)


# --- A knob on all branches --------------------------------------------------------------------------------


def slope_at_one(f, step=1e-5):
    return (f(1 + step) - f(1 - step)) / (2 * step)


def by_fit(squared_gradient):
    """A polynomial through the logarithms around 1."""
    t = np.linspace(0.9, 1.1, 41)
    logs = np.log([squared_gradient(each) for each in t])
    return np.polynomial.Polynomial.fit(np.log(t), logs, 5).deriv()(0.0) / 2


MEAN_PATH_LENGTH = Bank(
    checks.mean_path_length,
    wrong={
        "upside down": ((lambda f: -slope_at_one(f) / f(1) / 2,), "fewer than 0 branches"),
        "hard-coded": ((lambda f: 15.0,), "your mean length there is 15"),
        "not a number": ((lambda f: math.nan,), "divide by 0"),
        "infinite": ((lambda f: math.inf,), "divide by 0"),
    },
    right={"a fitted line": (by_fit,), "difference": (lambda f: slope_at_one(f) / f(1) / 2,)},
)


def test_the_knob_reads_what_carrying_all_lengths_measures():
    """As the lesson measures it: the gradients of all lengths, in 8 networks of 12 blocks of width 128."""
    depth, width, scale = 12, 128, 0.4
    lengths, by_knob = [], []
    for seed in range(8):
        weights = data.gaussian_batch(depth * width, width, seed).reshape(depth, width, width)
        weights, x, masks = weights * math.sqrt(2 / width), data.gaussian_batch(1, width, 100 + seed)[0], []
        for weight in weights:
            masks.append((x > 0).double())
            x = x + scale * weight @ torch.relu(x)
        message = data.gaussian_batch(1, width, 200 + seed)[0]

        def squared(t, weights=weights, masks=masks, message=message):
            g = message
            for weight, mask in zip(weights.flip(0), masks[::-1], strict=True):
                g = g + t * scale * mask * (g @ weight)
            return g.square().mean().item()

        parts = torch.zeros(depth + 1, width, dtype=torch.float64)
        parts[0] = message
        for weight, mask in zip(weights.flip(0), masks[::-1], strict=True):
            parts[1:] = parts[1:] + scale * mask * (parts[:-1] @ weight)
        squares = parts.square().sum(dim=1).numpy()
        lengths.append(squares)
        by_knob.append(squared)
    squares = np.sum(lengths, axis=0)
    carried = squares @ np.arange(depth + 1) / squares.sum()
    turned = slope_at_one(lambda t: sum(f(t) for f in by_knob)) / sum(f(1) for f in by_knob) / 2
    law = theory.path_length_weights([scale**2] * depth) @ np.arange(depth + 1)
    assert carried == pytest.approx(law, rel=0.1)
    assert turned == pytest.approx(carried, rel=0.05)


# --- "The skips keep the gradient at 1" (the text) ---------------------------------------------------------


class Halved(networks.Block):
    def forward(self, x):
        return super().forward(x) / math.sqrt(2)


def divided(seed, depth=30, width=24, **options):
    options = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64} | options
    model = networks.DeepMLP(depth, width, seed=seed, skip=True, pre_activation=True, **options)
    for number, block in enumerate(model.blocks):
        if block.skip:
            model.blocks[number] = Halved(block.linear, block.activation, skip=True, pre_activation=True)
    return model


def test_the_divided_network_is_the_loud_one_divided():
    options = {"in_features": 24, "bias": False}
    loud_one = networks.DeepMLP(
        30, 24, seed=0, activation="relu", initialization="he_normal", skip=True, pre_activation=True,
        dtype=torch.float64, **options,
    )  # fmt: skip
    x = data.gaussian_batch(8, 24, seed=1)
    assert torch.allclose(divided(0, **options)(x) * 2**15, loud_one(x))


def test_the_divided_network_trains_like_a_plain_one_of_half_its_depth():
    """What the exercise says of the losses, at its rate: medians of three seeds, with room."""
    digits = data.digits(dtype=torch.float64)
    settings = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64}
    quiet = {"skip": True, "pre_activation": True, "branch_scale": 30**-0.5}
    makers = {
        "divided": divided,
        "plain": lambda seed: networks.DeepMLP(15, 24, seed=seed, **settings),
        "quiet": lambda seed: networks.DeepMLP(30, 24, seed=seed, **settings, **quiet),
    }
    plan = {"learning_rates": (0.03,), "seeds": range(3), "epochs": 3, "batch_size": 75}
    last = {
        name: np.median(training.sweep(make, digits, optimizer="momentum", **plan).loss_by_epoch[0, :, -1])
        for name, make in makers.items()
    }
    assert last["divided"] == pytest.approx(1.8, abs=0.3)
    assert last["plain"] == pytest.approx(last["divided"], abs=0.4)
    assert last["quiet"] == pytest.approx(0.14, abs=0.05)


def test_the_dashboard_tells_the_two_apart_as_the_model_answer_says():
    """Medians of 8 seeds: cosine of two inputs behind the last block, spread of the singular values."""
    measured = {"divided": [], "quiet": []}
    for seed in range(8):
        x = data.gaussian_batch(32, 64, 100 + seed)
        options = {"width": 64, "in_features": 64, "bias": False}
        quiet = networks.DeepMLP(
            30, activation="relu", initialization="he_normal", skip=True, pre_activation=True,
            branch_scale=30**-0.5, seed=seed, dtype=torch.float64, **options,
        )  # fmt: skip
        for name, model in {"divided": divided(seed, **options), "quiet": quiet}.items():
            model.readout = torch.nn.Identity()
            model._check = lambda x: None
            unit = torch.nn.functional.normalize(model(x).detach(), dim=1)
            cosine = (unit @ unit.T)[~torch.eye(32, dtype=bool)].mean().item()
            values = torch.linalg.svdvals(torch.func.jacrev(lambda v, model=model: model(v[None])[0])(x[0]))
            measured[name].append((cosine, (values[0] / values[-1]).item()))
    divided_cosine, divided_spread = np.median(measured["divided"], axis=0)
    quiet_cosine, quiet_spread = np.median(measured["quiet"], axis=0)
    assert divided_cosine > 0.8 and quiet_cosine < 0.35
    assert divided_spread > 1e8 and quiet_spread < 50


@pytest.mark.parametrize("depth", [30, 3000])
def test_squares_that_add_up_to_1_keep_the_scale_and_a_third_of_the_skips(depth):
    stream, branch = 1 - 1 / depth, 1 / depth
    assert stream + branch * 2 / 2 == 1
    assert 1 / 3 < stream**depth < 1 / math.e


# --- What a ReLU on the stream lets through ----------------------------------------------------------------


def added(scales, walks=200_000):
    return np.asarray(scales)[:, None] * np.random.default_rng(4).normal(size=(len(scales), walks))


def simulated(result=lambda is_open: is_open.all(axis=0).mean(), change=lambda scales: scales):
    """With ReLUs, block by block, as the network does it; `result` of (blocks, walks)."""

    def open_share(scales):
        x, is_open = 0.0, []
        for step in added(change(scales)):
            x = np.maximum(0, x + step)
            is_open.append(x > 0)
        return result(np.array(is_open))

    return open_share


def sums(result):
    """Without any ReLU: a function of the partial sums, (blocks, walks)."""
    return lambda scales: result(added(scales).cumsum(axis=0))


def on_a_grid(scales):
    """The density of those that were never cut, block by block, as a matrix."""
    x = (np.arange(500) + 0.5) * 5.5 * math.sqrt(np.sum(scales**2)) / 500
    density = np.exp(-((x / scales[0]) ** 2) / 2) / scales[0]
    for scale in scales[1:]:
        kernel = np.exp(-(((x[:, None] - x) / scale) ** 2) / 2) / scale
        density = kernel @ density * (x[1] - x[0]) / math.sqrt(2 * math.pi)
    return density.sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi)


def central(blocks):
    return math.comb(2 * blocks, blocks) / 4**blocks


OPEN_UNITS = Bank(
    checks.open_units,
    wrong={
        "a count": ((simulated(lambda o: o.all(axis=0).sum()),), "between 0 and 1"),
        "not a number": ((lambda scales: math.nan,), "between 0 and 1"),
        "sorted": ((simulated(change=np.sort),), "Equal scales are right"),
        "hard-coded": ((lambda scales: 0.15,), "blocks of equal scales it is not 0.15"),
    },
    right={"on a grid": (on_a_grid,), "with ReLUs": (simulated(),)},
)
ALWAYS_OPEN = checks.open_units.trials[0].right


@pytest.mark.parametrize("blocks", [1, 2, 7, 30])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_equal_scales_are_the_theorem_of_sparre_andersen(blocks, scale):
    assert ALWAYS_OPEN(np.full(blocks, scale)) == pytest.approx(central(blocks), rel=1e-3)


def test_two_and_three_blocks_are_corners_of_a_normal_law():
    """P(all sums positive) by the angles between them, for any scales."""
    scales = np.array([0.4, 1.7, 0.9])
    deviation = np.sqrt(np.cumsum(scales**2))
    angle = {(i, j): math.asin(deviation[i] / deviation[j]) for i, j in ((0, 1), (0, 2), (1, 2))}
    two = 1 / 4 + angle[0, 1] / (2 * math.pi)
    three = 1 / 8 + sum(angle.values()) / (4 * math.pi)
    assert own.open_by_block(scales, uncut=True) == pytest.approx([1 / 2, two, three], rel=1e-3)


def test_what_single_blocks_let_through_is_what_a_simulation_says():
    """The shares behind the wrong answers, too: 8 seeds' worth of walks at once."""
    scales = np.array([1.0, 0.3, 0.3, 1.5, 0.6])
    shares = simulated(lambda is_open: is_open.mean(axis=1))(scales)
    assert own.open_by_block(scales) == pytest.approx(shares, rel=0.01)
    free = sums(lambda s: (s[1:] > 0).all(axis=0).mean())(scales)
    assert own.open_by_block(scales, uncut=True, cut_first=False)[-1] == pytest.approx(free, rel=0.015)


@pytest.mark.parametrize("rest", [1.0, 12**-0.5])
def test_real_networks_have_as_many_open_units(rest):
    """What the exercise calls the network: 12 blocks of width 256 on batches of 128, 8 seeds."""
    scales, shares, width = [1.0] + [rest] * 11, [], 256
    for seed in range(8):
        generator, x, is_open = data.seeded_generator(seed), data.gaussian_batch(128, width, 50 + seed), True
        for number, scale in enumerate(scales):
            norm = torch.nn.BatchNorm1d(width, affine=False, dtype=torch.float64)
            z = scale * norm(x @ torch.randn(width, width, generator=generator, dtype=torch.float64))
            x = torch.relu(z + x if number else z)
            is_open = (x > 0) & is_open
        shares.append(is_open.double().mean().item())
    assert np.mean(shares) == pytest.approx(ALWAYS_OPEN(np.array(scales)), rel=0.03)


def test_a_message_comes_back_untouched_to_open_units_and_to_no_other():
    """The branches detached, so that autograd sees the skips and the doors alone."""
    width, generator = 64, data.seeded_generator(0)
    first = data.gaussian_batch(32, width, 1).requires_grad_()
    x = torch.relu(first)
    is_open = x > 0
    for _ in range(10):
        weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
        branch = x @ weight
        branch = (branch - branch.mean(0)) / branch.std(0, correction=0)
        x = torch.relu(x + branch.detach())
        is_open = is_open & (x > 0)
    message = data.gaussian_batch(32, width, 2)
    (gradient,) = torch.autograd.grad(x, first, message)
    assert torch.equal(gradient, torch.where(is_open, message, 0.0))
    assert 0.1 < is_open.double().mean() < 0.3


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [LOUDEST_BRANCH, BLOCKS_LIKE_THE_FIRST, MEAN_PATH_LENGTH, OPEN_UNITS]


def test_neither_hint_nor_sentence_gives_the_number_away():
    bank = BLOCKS_LIKE_THE_FIRST
    said = all_that_is_said(bank)
    assert not [text for text in said if "24" in text.replace("-24", "")]
