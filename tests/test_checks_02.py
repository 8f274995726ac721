"""The checks of set 02 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq, nnls
from scipy.special import expit, logit

from gradients_in_depth import checks, data, networks, signals, theory
from gradients_in_depth.checks import set_02_sigmoid_saturation as own
from tests.check_banks import Bank, all_that_is_said, swapped

# --- A count that is too high ------------------------------------------------------------------------------

EDGE = {"sigmoid": 2 * math.acosh(20**0.5), "tanh": math.acosh(20**0.5)}


def by_inverse(outputs, activation):
    with np.errstate(divide="ignore"):
        z = logit(outputs) if activation == "sigmoid" else np.arctanh(outputs)
    return torch.tensor(np.abs(z) > EDGE[activation]).double().mean()


SATURATION_COUNT = Bank(
    checks.saturation_count,
    wrong={"hard-coded": ((lambda a, name: 0.146,), "try the outputs 0.5")},
    right={"by the inverse": (by_inverse,)},
)

# --- The answer that is corrected most ---------------------------------------------------------------------

LARGEST_CORRECTION = Bank(
    checks.largest_correction,
    wrong={
        "a guess": ((0.8, 101), "some other answer gets more"),
        "outside": ((1.5, 101), "between 0 and 1"),
        "squared error alone": ((2 / 3, 0.0098), "keeps of the gradient"),
        "another factor": ((2 / 3, 50), "the factor at 0.99 is not"),
    },
    right={"as fractions": (2 / 3, 1 / (0.99 * 0.01)), "rounded": (0.667, 100)},
)

# --- A step with one sign ----------------------------------------------------------------------------------


def by_projection(direction):
    """The nearest point of the cone of positive vectors, for both signs."""
    best = 0.0
    for sign in (1, -1):
        near, _ = nnls(np.eye(len(direction)), sign * direction)
        best = max(best, float(np.linalg.norm(near)) / np.linalg.norm(direction))
    return best


ONE_SIGNED_STEP = Bank(
    checks.one_signed_step,
    wrong={"hard-coded": ((lambda g: 0.837,), "ten thousand random steps")},
    right={"projection": (by_projection,)},
)

# --- Who was treated how? ----------------------------------------------------------------------------------

WHO = {1: "fourfold", 2: "tenfold", 3: "untouched", 4: "fourfold and centered"}

TREATED = Bank(
    checks.treatments,
    wrong={
        "another word": ((WHO | {2: "dropout"}, 0.63), "'dropout' is none"),
        "twice": ((WHO | {2: "fourfold"}, 0.63), "named twice"),
        "1 and 2": ((swapped(WHO, 1, 2), 0.63), "Network 1: is its gradient in SCALE level"),
        "2 and 3": ((swapped(WHO, 2, 3), 0.63), "Network 2: is its gradient in SCALE level"),
        "1 and 3": ((swapped(WHO, 1, 3), 0.63), "Network 1: its gradient falls"),
        "2 and 4": ((swapped(WHO, 2, 4), 0.63), "Network 2: its gradient is level"),
        "twelve steps": ((WHO, (9.5e-4 / 0.146) ** (1 / 12)), "not twelve"),
        "ten steps": ((WHO, (9.5e-4 / 0.146) ** (1 / 10)), "more than that"),
        "whole way": ((WHO, 9.5e-4 / 0.146), "ONE layer"),
        "a guess": ((WHO, 0.8), "another slope"),
    },
    right={
        "as read": (WHO, (9.5e-4 / 0.146) ** (1 / 11)),
        "coarsely read": (WHO, (1.1e-3 / 0.14) ** (1 / 11)),
    },
)

# --- The centering dial ------------------------------------------------------------------------------------


def expectation(function, q):
    """E[function(z)] for z ~ N(0, q), by adaptive integration."""

    def weighted(x):
        return function(math.sqrt(q) * x) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    return 2 * quad(weighted, 0, 10, points=(0.1, 1), limit=200)[0]


def over_the_variance(c):
    """A root over the variance of z; the square of σ - c/2 is made even, for half a line of z."""

    def slopes(q):
        return expectation(lambda z: (expit(z) * expit(-z)) ** 2, q)

    def surplus(q):
        even = expectation(lambda z: ((expit(z) - c / 2) ** 2 + (expit(-z) - c / 2) ** 2) / 2, q)
        return even - q * slopes(q)

    return slopes(brentq(surplus, 1e-6, 1e4, rtol=1e-8)) ** -0.5


CENTERING_DIAL = Bank(
    checks.centering_dial,
    wrong={
        "a line between the ends": ((lambda c: 10.15 - 6.15 * c,), "per layer: it should not"),
        "too large": ((lambda c: 1.015 * over_the_variance(c),), "changes by +"),
        "negative": ((lambda c: -10.15 + 6.15 * c,), "a positive number"),
    },
    right={"over the variance": (over_the_variance,)},
)

BANKS = [SATURATION_COUNT, LARGEST_CORRECTION, ONE_SIGNED_STEP, TREATED, CENTERING_DIAL]


@pytest.mark.parametrize(
    ("bank", "secrets"),
    [
        (LARGEST_CORRECTION, ("2/3", "0.667", "101")),
        (TREATED, ("0.63",)),
        (SATURATION_COUNT, ("0.987", "0.975")),
    ],
    ids=lambda value: value.check.name if isinstance(value, Bank) else "",
)
def test_neither_hint_nor_sentence_gives_the_number_away(bank, secrets):
    said = all_that_is_said(bank)
    assert not [text for text in said for secret in secrets if secret in text]


FOURFOLD = checks.treatments.trials[0].right


# --- What the pictures show --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown():
    """The signals behind the four dashboards."""
    inputs = data.gaussian_batch(64, 128, seed=5)
    return {
        name: signals.measure(
            own.treated_network(name),
            inputs,
            layers=networks.Block,
            loss_fn=lambda out: out.square().mean(),
        )
        for name in own.TREATMENTS
    }


def test_the_four_networks_can_be_told_apart_as_the_hint_says(shown):
    fall, variance = {}, {}
    for name, found in shown.items():
        gradient = found.series("activation_gradient_norm")
        fall[name] = (gradient[0] / gradient[-1]) ** (1 / 11)
        variance[name] = found.series("activation_variance")[1:].max()
    assert fall["untouched"] < 0.3 < 0.5 < fall["fourfold"] < 0.7
    assert min(fall["fourfold and centered"], fall["tenfold"]) > 0.9
    assert variance["fourfold and centered"] < 0.1 and 0.17 < variance["tenfold"] < 0.25
    assert shown["tenfold"].series("saturated_share")[1:].min() > 0.4
    assert shown["fourfold and centered"].series("saturated_share")[1:].max() < 0.05


def test_the_factor_of_the_check_is_that_of_the_picture_and_of_the_lesson(shown):
    gradient = shown["fourfold"].series("activation_gradient_norm")
    assert (gradient[0] / gradient[-1]) ** (1 / 11) == pytest.approx(FOURFOLD, rel=0.002)
    q = theory.fixed_point("sigmoid", 16.0)
    assert math.sqrt(theory.chi(q, "sigmoid", 16.0)) == pytest.approx(FOURFOLD, rel=0.005)


def test_the_centered_network_is_the_tanh_network():
    """That is what its treatment claims, and why its gradient stays."""
    ours = own.treated_network("fourfold and centered")
    tanh = networks.DeepMLP(
        12, 128, in_features=128, out_features=128, activation="tanh", seed=1, dtype=torch.float64
    )
    inputs = data.gaussian_batch(4, 128, seed=3)
    hidden = inputs
    for block in tanh.blocks:
        hidden = block(hidden)
    assert torch.allclose(ours(inputs) / 2, tanh.readout(hidden), rtol=0, atol=1e-12)


def test_a_network_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="number must be one of 1, 2, 3, 4; got 0"):
        checks.treated(0)


@pytest.mark.parametrize(("c", "gain"), [(0.0, 10.15), (0.9998, 4.0)])
def test_the_dial_ends_where_the_lesson_says(c, gain):
    """Uncentered: section 4 of the lesson. Centered: ½ tanh(z/2), whose slope at 0 is ¼."""
    assert checks.centering_dial.trials[0].right(c) == pytest.approx(gain, rel=0.01)
