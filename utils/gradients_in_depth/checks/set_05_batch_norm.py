"""The checks of set 05, Batch normalization."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from gradients_in_depth.checks.common import (
    Mistake,
    as_array,
    as_number,
    as_whole_number,
    brief,
    call,
    compare,
    derivative,
    exercise,
)

# --- A layer that can go -----------------------------------------------------------------------------------


def _folding_case(rng: np.random.Generator, units: int, fan_in: int) -> tuple[ArrayLike, ...]:
    """weight, bias, mean, variance, gamma, beta, eps; the variance is small enough for eps to count."""
    weight = rng.normal(size=(units, fan_in))
    bias, mean, beta = rng.normal(size=(3, units))
    variance, gamma = rng.uniform(0.05, 0.4, size=units), rng.uniform(0.5, 2, size=units)
    return weight, bias, mean, variance, gamma, beta, float(rng.uniform(0.02, 0.05))


def _folded(fold: Callable, case: tuple[ArrayLike, ...]) -> np.ndarray:
    """The learner's weight and bias in one row."""
    pair = call(fold, *case)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise Mistake(f"Two arrays are asked for, the weight and the bias, and not {brief(pair)}.")
    weight = as_array(pair[0], case[0].shape, "The weight")
    bias = as_array(pair[1], case[1].shape, "The bias")
    return np.concatenate([weight.ravel(), bias])


@exercise(
    2,
    praise="in evaluation mode BatchNorm is a line for each unit, and a line after a line is one line.",
    hint=(
        "Write what comes out of BatchNorm for ONE unit in evaluation mode, with the running statistics, and "
        "put w · x + b in for z. What stands in front of x? And what is left without x?"
    ),
)
def folded_norm(fold: Callable, seed: int) -> None:
    """The weight and bias of one linear layer that does what linear and BatchNorm do in evaluation mode."""
    rng = np.random.default_rng([51, seed])
    # As many units as inputs first: what mixes up the two axes runs, and gets its own sentence.
    for units, fan_in in ((4, 4), (6, 6), (3, 7)):
        weight, bias, mean, variance, gamma, beta, eps = case = _folding_case(rng, units, fan_in)
        found, sigma = _folded(fold, case), np.sqrt(variance + eps)
        right = gamma / sigma

        def folded(
            scale: np.ndarray,
            new_bias: np.ndarray | None = None,
            new_weight: np.ndarray | None = None,
            case: tuple = case,
        ) -> np.ndarray:
            weight, bias, mean, _, _, beta, _ = case
            new_bias = (bias - mean) * scale + beta if new_bias is None else new_bias
            new_weight = scale[:, None] * weight if new_weight is None else new_weight
            return np.concatenate([new_weight.ravel(), new_bias])

        mistakes = [
            (
                folded(gamma / (variance + eps)),
                "That divides by the variance: what does BatchNorm divide by?",
            ),
            (folded(gamma / np.sqrt(variance)), "The eps is missing: here it is no trifle."),
            (
                folded(gamma / (np.sqrt(variance) + eps)),
                "The eps is added to the deviation: to what does PyTorch add it?",
            ),
            (folded(gamma * sigma), "That multiplies by the deviation, which BatchNorm divides by."),
            (folded(1 / sigma), "The gamma is missing: a scale was learned after the division."),
            (folded(right, beta - mean * right), "The old bias is lost: z has one, and BatchNorm sees it."),
            (
                folded(right, bias - mean * right + beta),
                "The old bias enters as it is: it passes through BatchNorm like everything else in z.",
            ),
            (folded(right, bias * right + beta), "The mean is not subtracted."),
            (
                folded(right, bias * right - mean + beta),
                "The mean is subtracted after the division: in which order does BatchNorm work?",
            ),
            (folded(right, (bias + mean) * right + beta), "The mean has the wrong sign."),
            (folded(right, (bias - mean) * right), "The beta is missing: a shift was learned."),
            (
                folded(right, (bias - mean + beta) * right),
                "The beta is scaled as well: it is added last, when all scaling is done.",
            ),
            (folded(right, new_weight=weight), "The weight is as it was: the division acts on it, too."),
            (
                folded(right, bias),
                "The bias is as it was: what comes out of BatchNorm when x is 0?",
            ),
        ]
        if units == fan_in:
            mistakes.append(
                (
                    folded(right, new_weight=weight * right),
                    "That scales the INPUTS of the layer, one column each: whose scale is gamma?",
                )
            )
        otherwise = (
            "The two layers and yours differ: take one unit with one input by hand, without a 0 in it."
        )
        compare(found, folded(right), mistakes, otherwise, 1e-6)


# --- A small variance is forgotten late --------------------------------------------------------------------

_TRUE_VAR, _MOMENTUM = 0.01, 0.1


def _first(condition: Callable[[int], bool]) -> int:
    return next(n for n in range(1, 10_000) if condition(n))


@exercise(
    2,
    praise="what is left of the start has to be small beside the truth, not beside the start.",
    hint=(
        "Two terms make up the running variance: what is left of the 1 it started with, and what the batches "
        "have contributed so far. Which value of the running VARIANCE belongs to a deviation that is 10 % "
        "too large?"
    ),
)
def forgetting_variance(batches: int, seed: int) -> None:
    """The first number of batches after which the running deviation is at most 10 % too large."""
    found, keep = as_whole_number(batches, "The number of batches"), 1 - _MOMENTUM

    def running(n: int) -> float:
        return _TRUE_VAR + (1 - _TRUE_VAR) * keep**n

    limit = 1.1**2 * _TRUE_VAR
    right = _first(lambda n: running(n) <= limit)
    mistakes = [
        (
            _first(lambda n: running(n) <= 1.1 * _TRUE_VAR),
            "So long it takes for the VARIANCE: the deviation is asked for.",
        ),
        (
            _first(lambda n: keep**n <= 0.1),
            "Then a tenth of the 1 is left: how large is that beside the true variance?",
        ),
        (
            _first(lambda n: keep**n <= limit),
            "As if the batches contributed nothing, and the running variance fell to 0.",
        ),
        (
            _first(lambda n: math.sqrt(_TRUE_VAR) + (1 - math.sqrt(_TRUE_VAR)) * keep**n <= math.sqrt(limit)),
            "As if deviations were averaged: what does BatchNorm keep a running value of?",
        ),
        (
            _first(lambda n: _TRUE_VAR + (1 - _TRUE_VAR) * _MOMENTUM**n <= limit),
            "In PyTorch the momentum is the share of the NEW batch, not of the old value.",
        ),
        (
            _first(lambda n: 1 - keep**n >= 0.99),
            "Then a hundredth of the 1 is left: that is as much as the true variance itself.",
        ),
        (right - 1, "Near: is the deviation at most 10 % too large by then?"),
        (right + 1, "Near: is it the first time?"),
    ]
    now = math.sqrt(running(found) / _TRUE_VAR)
    otherwise = f"After {found} batches the running deviation is {now:.3g} times the true one."
    if found > right:
        otherwise = f"After {found} batches it has long been at most 10 % too large: when for the first time?"
    compare(found, right, mistakes, otherwise, 1e-9)


# --- The way back through GroupNorm ------------------------------------------------------------------------

_Mean = Callable[[np.ndarray], np.ndarray]


def _mean_over(*axes: int) -> _Mean:
    """The mean over these axes, in the shape of the input."""
    return lambda a: np.broadcast_to(a.mean(axis=axes, keepdims=True), a.shape)


def _mean_of_groups(groups: int, *axes: int) -> _Mean:
    """The mean over these axes of (examples, groups, channels of a group, height, width)."""

    def mean(a: np.ndarray) -> np.ndarray:
        n, channels, *pixels = a.shape
        return _mean_over(*axes)(a.reshape(n, groups, channels // groups, *pixels)).reshape(a.shape)

    return mean


def _mean_of_every(groups: int) -> _Mean:
    """As if channels 0, groups, 2 groups, .. made up the first group."""

    def mean(a: np.ndarray) -> np.ndarray:
        n, channels, *pixels = a.shape
        return _mean_over(1, 3, 4)(a.reshape(n, channels // groups, groups, *pixels)).reshape(a.shape)

    return mean


def _way_back(g: np.ndarray, x: np.ndarray, mean: _Mean, eps: float) -> np.ndarray:
    sigma = np.sqrt(mean((x - mean(x)) ** 2) + eps)
    y = (x - mean(x)) / sigma
    return (g - mean(g) - y * mean(g * y)) / sigma


def _group_case(rng: np.random.Generator, groups: int, size: int) -> tuple:
    """arriving, x, gamma, groups, eps; `size` channels in a group, and a spread that eps is not small by."""
    shape = (int(rng.integers(2, 4)), groups * size, 2, 3)
    offset = rng.normal(size=(1, shape[1], 1, 1))
    x = 0.3 * (rng.normal(size=shape) + offset)
    arriving, gamma = rng.normal(size=shape) + 0.5, rng.uniform(0.5, 2, size=shape[1])
    return arriving, x, gamma, groups, float(rng.uniform(0.02, 0.05))


@exercise(
    3,
    praise="the bracket stays, and only the entries over which its means go are others.",
    hint=(
        "Nothing in the lesson's derivation knows that the B numbers came from a batch. Which numbers share "
        "a mean here? Reshape, so that they lie along axes of their own. And is gamma the same for all "
        "of them?"
    ),
)
def group_backward(backward: Callable, seed: int) -> None:
    """The gradient by the input of GroupNorm, from the gradient by its output."""
    rng = np.random.default_rng([53, seed])
    cases = [_group_case(rng, *sizes) for sizes in ((2, 3), (3, 2), (2, 4))]
    found = np.concatenate(
        [as_array(call(backward, *case), case[1].shape, "The gradient").ravel() for case in cases]
    )

    def each(rule: Callable) -> np.ndarray:
        """What a rule makes of (g with its gamma, x, the mean of a group, eps, arriving, gamma, groups)."""
        rows = []
        for arriving, x, gamma, groups, eps in cases:
            by_channel = gamma[:, None, None]
            mean = _mean_of_groups(groups, 2, 3, 4)
            rows.append(rule(by_channel * arriving, x, mean, eps, arriving, by_channel, groups).ravel())
        return np.concatenate(rows)

    def with_mean(choose: Callable[[int], _Mean]) -> np.ndarray:
        return each(lambda g, x, _mean, eps, _a, _c, groups: _way_back(g, x, choose(groups), eps))

    def bracket(rule: Callable) -> np.ndarray:
        """What a rule makes of (g, y, sigma, mean)."""

        def from_input(g: np.ndarray, x: np.ndarray, mean: _Mean, eps: float, *_: object) -> np.ndarray:
            sigma = np.sqrt(mean((x - mean(x)) ** 2) + eps)
            return rule(g, (x - mean(x)) / sigma, sigma, mean)

        return each(from_input)

    def outside(g: np.ndarray, x: np.ndarray, mean: _Mean, eps: float, *_: object) -> np.ndarray:
        sigma = np.sqrt(mean((x - mean(x)) ** 2)) + eps
        y = (x - mean(x)) / sigma
        return (g - mean(g) - y * mean(g * y)) / sigma

    def unbiased(g: np.ndarray, x: np.ndarray, mean: _Mean, eps: float, *rest: object) -> np.ndarray:
        count = x[0].size / rest[-1]
        sigma = np.sqrt(mean((x - mean(x)) ** 2) * count / (count - 1) + eps)
        y = (x - mean(x)) / sigma
        return (g - mean(g) - y * mean(g * y)) / sigma

    right = each(lambda g, x, mean, eps, *_: _way_back(g, x, mean, eps))
    mistakes = [
        (
            with_mean(lambda _: _mean_over(0, 2, 3)),
            "Those are the means of BatchNorm: may the gradient of one image depend on another image here?",
        ),
        (
            with_mean(lambda _: _mean_over(1, 2, 3)),
            "Those are the means of LayerNorm, over all channels: they were cut into groups.",
        ),
        (
            with_mean(lambda _: _mean_over(2, 3)),
            "Those are the means of InstanceNorm, one for each channel: a group has several.",
        ),
        (
            with_mean(lambda groups: _mean_of_groups(groups, 0, 2, 3, 4)),
            "The groups are right, but the means go over the examples as well.",
        ),
        (
            with_mean(lambda groups: _mean_of_groups(groups, 2)),
            "The means go over the channels of a group, and not over its pixels.",
        ),
        (
            with_mean(_mean_of_every),
            "The channels are dealt out to the groups like cards: a group has NEIGHBOURING channels.",
        ),
        (
            each(lambda g, x, mean, eps, arriving, *_: _way_back(arriving, x, mean, eps)),
            "The gamma is missing: it lies between the output and y.",
        ),
        (
            each(
                lambda g, x, mean, eps, arriving, gamma, _: gamma * _way_back(arriving, x, mean, eps),
            ),
            "The gamma comes after the bracket: in a group it differs from channel to channel, so its place "
            "matters.",
        ),
        (
            bracket(lambda g, y, sigma, mean: g / sigma),
            "As if mean and deviation were constants: that is the way back in evaluation mode of BatchNorm.",
        ),
        (
            bracket(lambda g, y, sigma, mean: (g - y * mean(g * y)) / sigma),
            "The way through the mean is missing: that is RMSNorm's bracket.",
        ),
        (
            bracket(lambda g, y, sigma, mean: (g - mean(g)) / sigma),
            "The way through the deviation is missing.",
        ),
        (
            bracket(lambda g, y, sigma, mean: g - mean(g) - y * mean(g * y)),
            "The bracket is right, and what stands in front of it is missing.",
        ),
        (
            bracket(lambda g, y, sigma, mean: (g - mean(g) - y * mean(g * y)) / sigma**2),
            "The bracket is divided by the variance: by what is it to be divided?",
        ),
        (
            bracket(lambda g, y, sigma, mean: (g - mean(g) - y * sigma * mean(g * y * sigma)) / sigma),
            "In the last term stands what is left of x without its mean: the bracket wants it normalized.",
        ),
        (
            bracket(lambda g, y, sigma, mean: (g - mean(g) + y * mean(g * y)) / sigma),
            "A sign in the bracket: does stretching x change the output?",
        ),
        (
            each(lambda g, x, mean, eps, *_: _way_back(g, x, mean, 0.0)),
            "The eps is missing: here it is no trifle.",
        ),
        (each(outside), "The eps is added to the deviation: GroupNorm adds it to the variance."),
        (each(unbiased), "That variance is divided by one less than the count: norms divide by the count."),
        (
            bracket(lambda g, y, sigma, mean: y),
            "That is the normalized input, the way forward: the gradient is asked for.",
        ),
    ]
    otherwise = (
        "That is not the gradient: try it on one image with one channel of two pixels and eps = 0, "
        "where it is 0, and then against autograd."
    )
    compare(found, right, mistakes, otherwise, 1e-6)


# --- A scale that saves LayerNorm --------------------------------------------------------------------------


class _Raised:
    """An activation with outputs around a constant, as a sigmoid's around ½: smooth, rising, in no table."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.heights, self.steepness = rng.uniform(0.3, 0.6, size=2), rng.uniform(0.5, 1.2, size=2)
        self.middle = rng.uniform(0.7, 1.1)

    def __call__(self, z: ArrayLike) -> np.ndarray:
        first, second = self.heights
        steep, flat = self.steepness
        return self.middle + first * np.tanh(steep * np.asarray(z)) + second * np.arctan(flat * np.asarray(z))

    def __repr__(self) -> str:
        return "activation"


# Dense around 0, where a large scale makes an activation steep.
_T = np.linspace(-1, 1, 1601)
_NORMAL = 9 * np.sinh(4 * _T) / math.sinh(4)
_DENSITY = np.exp(-(_NORMAL**2) / 2) * np.cosh(4 * _T)
_DENSITY /= _DENSITY.sum()


def _moments(activation: Callable, scale: float) -> tuple[float, float, float]:
    """E[φ], E[φ²] and E[φ'²] at scale · y, y ~ N(0, 1)."""
    values, slopes = activation(scale * _NORMAL), derivative(activation, scale * _NORMAL)
    return float(_DENSITY @ values), float(_DENSITY @ values**2), float(_DENSITY @ slopes**2)


def _factor(activation: Callable, scale: float) -> float:
    """Of the squared gradient, per layer, with LayerNorm of that scale."""
    _, forward, backward = _moments(activation, scale)
    return scale**2 * backward / forward


def _scale_where(factor: Callable[[float], float]) -> float:
    """Where a factor that rises with the scale is 1, by bisection over its logarithm; NaN if nowhere."""
    low, high = math.log(0.02), math.log(100)
    if not factor(math.exp(low)) < 1 < factor(math.exp(high)):
        return math.nan
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if factor(math.exp(middle)) < 1 else (low, middle)
    return math.exp(low)


@exercise(
    3,
    praise="LayerNorm can keep the gradient of such layers, only not with the scale it starts with.",
    hint=(
        "To the layer after it, LayerNorm of scale g followed by φ is LayerNorm of scale 1 followed by "
        "another activation, ψ(y) = φ(g y). Put ψ into the lesson's law for LayerNorm; do not forget what "
        "the chain rule makes of ψ'."
    ),
)
def rescuing_scale(scale: Callable, seed: int) -> None:
    """The scale at which LayerNorm keeps the squared gradient, to 2 %, for activations the check brings."""
    rng = np.random.default_rng([54, seed])
    activations = [_Raised(rng) for _ in range(3)]
    found = np.array([as_number(call(scale, activation), "The scale") for activation in activations])
    if (found <= 0).any():
        raise Mistake("The scale should be positive, and yours is not: is that a logarithm?")

    def solved(rule: Callable) -> np.ndarray:
        """Where a rule of (g, moments at g, activation) is 1, for each activation."""
        return np.array([_scale_where(lambda g, a=a: rule(g, _moments(a, g), a)) for a in activations])

    right = solved(lambda g, m, a: g**2 * m[2] / m[1])
    at_zero = np.array([float(derivative(a, np.zeros(1))[0]) for a in activations])
    middle = np.array([float(a(0.0)) for a in activations])
    mistakes = [
        (right**2, "That is the square of the scale, as if it were a variance."),
        (np.sqrt(right), "That is the root of the scale: is it a variance or a factor?"),
        (1 / right, "Upside down: has the signal to become larger or smaller to leave the straight part?"),
        (
            middle / at_zero,
            "That is for signals so small that the activation is straight: at this scale it is not.",
        ),
        (
            solved(lambda g, m, a: g**2 * float(derivative(a, np.zeros(1))[0]) ** 2 / m[1]),
            "The slope is taken at 0, where it is largest: most signals are elsewhere.",
        ),
        (
            solved(lambda g, m, a: g**2 * _moments(a, 1.0)[2] / m[1]),
            "The slope is taken at scale 1: at YOUR scale the signals meet other slopes.",
        ),
        (
            solved(lambda g, m, a: g**2 * m[2] / _moments(a, 1.0)[1]),
            "The mean square of the outputs is taken at scale 1: it grows with the scale.",
        ),
        (
            solved(lambda g, m, a: g**2 * m[2] / m[0] ** 2),
            "That divides by the square of the mean: the mean of the squares is what LayerNorm divides by.",
        ),
        (
            solved(lambda g, m, a: g**2 * m[2]),
            "Nothing is divided: the next LayerNorm divides by the size of what comes out here.",
        ),
        (
            solved(lambda g, m, a: g**2 * m[2] / math.sqrt(m[1])),
            "That divides a mean square by the ROOT of a mean square.",
        ),
    ]
    error = np.nan_to_num(np.abs(np.log(found / right)), nan=np.inf)
    worst = int(np.argmax(error))
    otherwise = f"{found[worst]:.3g} does not keep it: try your function on a sigmoid, and measure."
    if 1e-3 < found[worst] < 1e2:
        factor = _factor(activations[worst], found[worst])
        otherwise = (
            f"With scale {found[worst]:.3g} the squared gradient has a factor of {factor:.3g} per layer, and "
            "should have 1."
        )
    compare(found, right, mistakes, otherwise, 0.02)


# --- A learning rate drops ---------------------------------------------------------------------------------

_RATE, _DROP, _DECAY = 0.1, 10, 0.01


@exercise(
    4,
    praise="first the step changes, then the length, and the length takes its time.",
    hint=(
        "The angle of one step is about η‖g‖/‖W‖, and ‖g‖ is c/‖W‖. So what does it depend on, apart from η? "
        "Follow the SQUARED length over one step, and multiply its equation so that no division is left: "
        "some power of ‖W‖ then approaches its new value exponentially."
    ),
)
def turning_rate(at_once: float, in_the_end: float, steps: float, seed: int) -> None:
    """What a drop of the learning rate does to the angle per step: at once, in the end, and how fast."""
    first, last = as_number(at_once, "The factor at once"), as_number(in_the_end, "The factor in the end")
    count = as_number(steps, "The number of steps")
    root = math.sqrt(_DROP)
    compare(
        first,
        1 / _DROP,
        [
            (
                1 / root,
                "At once: the length of the weights has had no time to change, and that factor is what "
                "remains when it has.",
            ),
            (1.0, "At once: the same gradient, the same length, and a step that is shorter."),
            (_DROP, "At once: that is upside down, for new over old is asked."),
            (1 / _DROP**2, "At once: one step is shorter by the factor of the rate, and only once."),
        ],
        f"At once: {first:.3g} it is not: what of rate, gradient and length changes in the very next step?",
        0.02,
    )
    compare(
        last,
        1 / root,
        [
            (1 / _DROP, "In the end: that is at the old length, and the length adapts to the new rate."),
            (1.0, "In the end: the length adapts, but does not make up for all of it; see the lesson's law."),
            (root, "In the end: that is upside down, for new over old is asked."),
            (_DROP**-0.25, "In the end: that is the factor of the LENGTH: the angle is asked for."),
        ],
        f"In the end: {last:.3g} it is not: at which angle do shrinking and growing balance?",
        0.02,
    )
    slow = _RATE / _DROP * _DECAY  # η λ after the drop
    left = math.log((1 - 1 / _DROP) / (1 / 4 - 1 / _DROP))  # of ‖W‖⁴, until it is a quarter
    mistakes = [
        (left / (4 * slow * _DROP), "The steps: that is with the old learning rate, and the new one decays."),
        (
            math.log(2) / (2 * slow),
            "The steps: so long it takes with decay alone, and each step still pushes the weights outward.",
        ),
        (
            math.log(4) / (2 * slow),
            "The steps: that halves the length with decay alone: the angle goes with another power of it.",
        ),
        (
            left / (2 * slow),
            "The steps: that is the pace of the SQUARED length, and the power that you follow is higher.",
        ),
        (
            left / slow,
            "The steps: that is the pace of the length itself, and the power that you follow is higher.",
        ),
        (
            math.log((1 - 1 / root) / (1 / 2 - 1 / root)) / (2 * slow),
            "The steps: as if the squared length approached its new value exponentially: the push outward "
            "grows as it shrinks.",
        ),
        (
            math.log((1 / root - 1 / _DROP) / (1 / root - 2 / _DROP)) / (4 * slow),
            "The steps: as if the ANGLE approached its new value exponentially: a power of the length does.",
        ),
        (
            1 / (4 * slow),
            "The steps: that is the time constant: how many of them until the angle is twice as large?",
        ),
        (
            math.log(2) / (4 * slow),
            "The steps: so long it takes for half of the way of ‖W‖⁴: how far has it to go?",
        ),
    ]
    otherwise = f"The steps: {count:.3g} is not it: how long are the weights by then, and where do they head?"
    compare(count, left / (4 * slow), mistakes, otherwise, 0.02)
