"""The checks of set 02 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq, minimize, nnls
from scipy.special import expit, logit

from gradients_in_depth import checks, data, networks, signals, theory
from gradients_in_depth.checks import EMPTY
from gradients_in_depth.checks import set_02_sigmoid_saturation as own
from tests.check_banks import Bank, all_that_is_said, stub, swapped

# --- A count that is too high ------------------------------------------------------------------------------

EDGE = {"sigmoid": 2 * math.acosh(20**0.5), "tanh": math.acosh(20**0.5)}


def by_slope(outputs, activation):
    slope = {"sigmoid": 4 * outputs * (1 - outputs), "tanh": 1 - outputs**2}[activation]
    return np.mean(slope < 0.05)


def by_inverse(outputs, activation):
    with np.errstate(divide="ignore"):
        z = logit(outputs) if activation == "sigmoid" else np.arctanh(outputs)
    return torch.tensor(np.abs(z) > EDGE[activation]).double().mean()


def counted(rule):
    return lambda outputs, activation: np.mean(rule(outputs, activation))


def damaging(outputs, activation):
    outputs -= 0.5
    return 0.0


SATURATION_COUNT = Bank(
    checks.saturation_count,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "the colleague": ((counted(lambda a, name: (a < 0.05) | (a > 0.95)),), "the colleague's count"),
        "the colleague, two-sided": (
            (counted(lambda a, name: (a < (-0.95 if name == "tanh" else 0.05)) | (a > 0.95)),),
            "the colleague's count",
        ),
        "the colleague, stretched": (
            (counted(lambda a, name: np.abs(a if name == "tanh" else 2 * a - 1) > 0.9),),
            "the colleague's count",
        ),
        "absolute slope": (
            (counted(lambda a, name: (1 - a**2 if name == "tanh" else a * (1 - a)) < 0.05),),
            "a slope below 0.05 itself",
        ),
        "sigmoid for both": ((counted(lambda a, name: 4 * a * (1 - a) < 0.05),), "tanh is taken for another"),
        "sigmoid for both, magnitude": (
            (counted(lambda a, name: np.abs(4 * a * (1 - a)) < 0.05),),
            "tanh is taken for another",
        ),
        "tanh for both": ((counted(lambda a, name: 1 - a**2 < 0.05),), "the rule of tanh for both"),
        "limits of z": ((counted(lambda a, name: np.abs(a) > EDGE[name]),), "limits for z"),
        "upper only": (
            (counted(lambda a, name: a > (1 + math.sqrt(0.95)) / 2 if name == "sigmoid" else a > 0.95**0.5),),
            "Only the units at the upper",
        ),
        "lower only": (
            (counted(lambda a, name: a < (1 - 0.95**0.5) / 2 if name == "sigmoid" else a < -(0.95**0.5)),),
            "Only the units at the lower",
        ),
        "the others": ((lambda a, name: 1 - by_slope(a, name),), "NOT saturated"),
        "per cent": ((lambda a, name: 100 * by_slope(a, name),), "per cent"),
        "a number of units": ((lambda a, name: by_slope(a, name) * a.size,), "the share is asked for"),
        "unit by unit": ((lambda a, name: (a > 0.99).mean(axis=0),), "one number, and is an array"),
        "hard-coded": ((lambda a, name: 0.146,), "try the outputs 0.5"),
        "damaging": ((damaging,), "changes what it was given"),
    },
    right={"by the slope": (by_slope,), "by the inverse": (by_inverse,)},
)

# --- The answer that is corrected most ---------------------------------------------------------------------

LARGEST_CORRECTION = Bank(
    checks.largest_correction,
    wrong={
        "untouched stub": ((None, None), EMPTY),
        "only one": ((2 / 3,), "takes worst and factor"),
        "largest slope": ((0.5, 101), "SLOPE is largest"),
        "target 1": ((1 / 3, 101), "for the target 1"),
        "largest error": ((1, 101), "ERROR is largest"),
        "right answer": ((0, 101), "nothing has to be corrected"),
        "z": ((math.log(2), 101), "the z of it"),
        "the correction": ((4 / 27, 101), "how large the correction is"),
        "slope of tanh": ((0.577, 101), "whose slope is that"),
        "the lesson's best": ((0.7, 101), "three answers"),
        "a guess": ((0.8, 101), "some other answer gets more"),
        "outside": ((1.5, 101), "between 0 and 1"),
        "words": (("two thirds", 101), "should be one number"),
        "upside down": ((2 / 3, 0.0099), "turn it around"),
        "cross-entropy alone": ((2 / 3, 0.99), "gradient under cross-entropy"),
        "squared error alone": ((2 / 3, 0.0098), "keeps of the gradient"),
        "quarter": ((2 / 3, 4), "an answer of ½"),
        "slope twice": ((2 / 3, 10200), "divided out twice"),
        "losses": ((2 / 3, 9.4), "ratio of the LOSSES"),
        "logarithm": ((2 / 3, 2.004), "a logarithm"),
        "half of the slope": ((2 / 3, 1.01), "two ends of the slope"),
        "not a number": ((2 / 3, math.nan), "the factor at 0.99 is not"),
        "another factor": ((2 / 3, 50), "the factor at 0.99 is not"),
    },
    right={
        "as fractions": (2 / 3, 1 / (0.99 * 0.01)),
        "rounded": (0.667, 100),
        "tensors": (torch.tensor(0.67), 102),
    },
)

# --- A step with one sign ----------------------------------------------------------------------------------


def closed_form(direction):
    kept = max(np.linalg.norm(direction[direction > 0]), np.linalg.norm(direction[direction < 0]))
    return kept / np.linalg.norm(direction)


def by_projection(direction):
    """The nearest point of the cone of positive vectors, for both signs."""
    best = 0.0
    for sign in (1, -1):
        near, _ = nnls(np.eye(len(direction)), sign * direction)
        best = max(best, float(np.linalg.norm(near)) / np.linalg.norm(direction))
    return best


def by_search(direction):
    """Steps whose entries are squares, uphill from several starts: no thought at all."""
    unit, rng = direction / np.linalg.norm(direction), np.random.default_rng(0)

    def lost(root, sign):
        step = root**2
        return -sign * float(unit @ step) / np.linalg.norm(step)

    ends = [
        minimize(lost, rng.uniform(0.5, 1.5, len(unit)), args=(sign,), tol=1e-12).fun
        for sign in (1, -1)
        for _ in range(4)
    ]
    return -min(ends)


def ratio(figure):
    return lambda g: figure(g) / np.linalg.norm(g)


def norm_of(keep):
    return ratio(lambda g: np.linalg.norm(g[keep(g)]))


ONE_SIGNED_STEP = Bank(
    checks.one_signed_step,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "upwards": ((norm_of(lambda g: g > 0),), "go UP"),
        "downwards": ((norm_of(lambda g: g < 0),), "go DOWN"),
        "squared": ((lambda g: closed_form(g) ** 2,), "SQUARED length"),
        "the worse sign": (
            (lambda g: min(norm_of(lambda x: x > 0)(g), norm_of(lambda x: x < 0)(g)),),
            "gets further",
        ),
        "root of a count": ((lambda g: max(np.mean(g > 0), np.mean(g < 0)) ** 0.5,), "far to go"),
        "a count": ((lambda g: max(np.mean(g > 0), np.mean(g < 0)),), "made of lengths"),
        "equal inputs": ((ratio(lambda g: abs(g.sum()) / len(g) ** 0.5),), "all inputs are EQUAL"),
        "one input": ((ratio(lambda g: np.abs(g).max()),), "only ONE input"),
        "sums": ((lambda g: max(g[g > 0].sum(), -g[g < 0].sum()) / np.abs(g).sum(),), "sums of entries"),
        "no signs": ((ratio(lambda g: np.abs(g).sum() / len(g) ** 0.5),), "lost its sign"),
        "always": ((lambda g: 1.0,), "straight to the goal"),
        "angle": ((lambda g: math.acos(min(1.0, closed_form(g))),), "its cosine"),
        "hard-coded": ((lambda g: 0.837,), "ten thousand random steps"),
        "not a number": ((lambda g: math.nan,), "ten thousand random steps"),
        "the step itself": ((lambda g: np.maximum(g, 0),), "one number, and is an array"),
    },
    right={"closed form": (closed_form,), "projection": (by_projection,), "search": (by_search,)},
)

# --- Who was treated how? ----------------------------------------------------------------------------------

WHO = {1: "fourfold", 2: "tenfold", 3: "untouched", 4: "fourfold and centered"}


TREATED = Bank(
    checks.treatments,
    wrong={
        "untouched stub": ((dict.fromkeys(WHO), None), EMPTY),
        "no names": ((dict.fromkeys(WHO), 0.63), EMPTY),
        "a list": ((list(WHO.values()), 0.63), "keys 1, 2, 3 and 4"),
        "another word": ((WHO | {2: "dropout"}, 0.63), "'dropout' is none"),
        "an array": ((WHO | {2: np.zeros(2)}, 0.63), "is none"),
        "twice": ((WHO | {2: "fourfold"}, 0.63), "named twice"),
        "1 and 2": ((swapped(WHO, 1, 2), 0.63), "Network 1: is its gradient in SCALE level"),
        "2 and 3": ((swapped(WHO, 2, 3), 0.63), "Network 2: is its gradient in SCALE level"),
        "1 and 3": ((swapped(WHO, 1, 3), 0.63), "Network 1: its gradient falls"),
        "2 and 4": ((swapped(WHO, 2, 4), 0.63), "Network 2: its gradient is level"),
        "square": ((WHO, 0.4), "SQUARED"),
        "forward": ((WHO, 1.58), "going forward"),
        "twelve steps": ((WHO, (9.5e-4 / 0.146) ** (1 / 12)), "not twelve"),
        "ten steps": ((WHO, (9.5e-4 / 0.146) ** (1 / 10)), "more than that"),
        "another network": ((WHO, 0.236), "factor of the untouched"),
        "four times the other": ((WHO, 0.944), "four times the factor"),
        "ceiling": ((WHO, 1.0), "every slope were the largest"),
        "logarithm": ((WHO, -0.199), "a logarithm"),
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


def over_the_gain(
    shift=lambda c: c / 2,
    inside=lambda c: 0.0,
    variance=lambda shifted, gain: theory.fixed_point(shifted, gain**2),
    result=lambda gain: gain,
):
    """A root over the gain, with one step of it replaced."""

    def critical(c):
        def excess(gain):
            def shifted(z):
                return torch.sigmoid(z - inside(c)) - shift(c)

            return theory.chi(variance(shifted, gain), shifted, gain**2) - 1

        return result(brentq(excess, 3.9, 12))

    return critical


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
        "untouched stub": ((stub,), EMPTY),
        "weight_var": ((over_the_gain(result=lambda gain: gain**2),), "the square of the gain"),
        "root": ((over_the_gain(result=math.sqrt),), "the root of the gain"),
        "every z is 0": ((lambda c: 4.0,), "every slope ¼"),
        "no dial": ((over_the_gain(shift=lambda c: 0.0),), "does not change with c"),
        "the lesson's number": ((lambda c: 10.15,), "does not change with c"),
        "variance 1": ((over_the_gain(variance=lambda shifted, gain: 1.0),), "Your z has variance 1"),
        "Xavier's variance": (
            (over_the_gain(variance=lambda shifted, gain: theory.fixed_point(shifted, 1.0)),),
            "at a gain of 1",
        ),
        "inside of the sigmoid": (
            (over_the_gain(inside=lambda c: c / 2, shift=lambda c: 0.0),),
            "inside of the sigmoid",
        ),
        "all of c": ((over_the_gain(shift=lambda c: c),), "subtracts c times that"),
        "turned around": (
            (lambda c: over_the_gain(shift=lambda c: (1 - c) / 2)(c) if c else 4.0,),
            "wrong way",
        ),
        "a line between the ends": ((lambda c: 10.15 - 6.15 * c,), "per layer: it should not"),
        "too large": ((lambda c: 1.015 * over_the_gain()(c),), "changes by +"),
        "not a number": ((lambda c: math.nan,), "a positive number"),
        "negative": ((lambda c: -over_the_gain()(c),), "a positive number"),
        "all gains": ((lambda c: np.array([10.0, 4.0]),), "one number, and is an array"),
    },
    right={"over the gain": (over_the_gain(),), "over the variance": (over_the_variance,)},
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


# --- What the pictures show --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown():
    """The signals behind the four dashboards."""
    inputs = data.gaussian_batch(64, 128, seed=5)
    return {
        name: signals.measure(
            own._treated_network(name),
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
    assert (gradient[0] / gradient[-1]) ** (1 / 11) == pytest.approx(own._FOURFOLD, rel=0.002)
    q = theory.fixed_point("sigmoid", 16.0)
    assert math.sqrt(theory.chi(q, "sigmoid", 16.0)) == pytest.approx(own._FOURFOLD, rel=0.005)


def test_the_centered_network_is_the_tanh_network():
    """That is what its treatment claims, and why its gradient stays."""
    ours = own._treated_network("fourfold and centered")
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


@pytest.mark.parametrize(("offset", "gain"), [(0.0, 10.15), (0.4999, 4.0)])
def test_the_dial_ends_where_the_lesson_says(offset, gain):
    """Uncentered: section 4 of the lesson. Centered: ½ tanh(z/2), whose slope at 0 is ¼."""
    assert own._critical_gain(offset) == pytest.approx(gain, rel=0.01)
