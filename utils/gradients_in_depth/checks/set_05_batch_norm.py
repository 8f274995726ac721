"""The checks of set 05, Batch normalization."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq

from gradients_in_depth.checks.activations import Moments, Nameless, moments, slope_at_0
from gradients_in_depth.checks.common import (
    Case,
    Mistake,
    Trial,
    as_array,
    brief,
    exercise,
    furthest,
    number,
    whole_number,
)

# --- A layer that can go -----------------------------------------------------------------------------------


def _two_layers(rng: np.random.Generator, units: int, fan_in: int) -> Case:
    """weight, bias, mean, variance, gamma, beta, eps; the variance is small enough for eps to count."""
    weight = rng.normal(size=(units, fan_in))
    bias, mean, beta = rng.normal(size=(3, units))
    variance, gamma = rng.uniform(0.05, 0.4, size=units), rng.uniform(0.5, 2, size=units)
    return weight, bias, mean, variance, gamma, beta, float(rng.uniform(0.02, 0.05))


def _read_pair(result: object, weight: np.ndarray, bias: np.ndarray, *_: object) -> np.ndarray:
    """The learner's weight and bias in one row."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Mistake(f"Two arrays are asked for, the weight and the bias, and not {brief(result)}.")
    new_weight = as_array(result[0], weight.shape, "The weight")
    return np.concatenate([new_weight.ravel(), as_array(result[1], bias.shape, "The bias")])


def _folded(
    scale: Callable = lambda gamma, variance, eps: gamma / np.sqrt(variance + eps),
    bias: Callable = lambda s, b, mean, beta: (b - mean) * s + beta,
    weight: Callable = lambda s, w: s[:, None] * w,
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The weight and bias of one layer for two, with one step replaced."""

    def fold(
        w: np.ndarray,
        b: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        gamma: np.ndarray,
        beta: np.ndarray,
        eps: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        s = scale(gamma, variance, eps)
        return weight(s, w), bias(s, b, mean, beta)

    return fold


_FOLD = Trial(
    # As many units as inputs first: what mixes up the two axes runs, and gets its own sentence.
    cases=lambda rng: [_two_layers(rng, *shape) for shape in ((4, 4), (6, 6), (3, 7))],
    one_by_one=True,
    read=_read_pair,
    right=_folded(),
    mistakes={
        "That divides by the variance: what does BatchNorm divide by?": (
            _folded(lambda gamma, variance, eps: gamma / (variance + eps))
        ),
        "The eps is missing: here it is no trifle.": (
            _folded(lambda gamma, variance, eps: gamma / np.sqrt(variance))
        ),
        "The eps is added to the deviation: to what does PyTorch add it?": (
            _folded(lambda gamma, variance, eps: gamma / (np.sqrt(variance) + eps))
        ),
        "That multiplies by the deviation, which BatchNorm divides by.": (
            _folded(lambda gamma, variance, eps: gamma * np.sqrt(variance + eps))
        ),
        "The gamma is missing: a scale was learned after the division.": (
            _folded(lambda gamma, variance, eps: 1 / np.sqrt(variance + eps))
        ),
        "The old bias is lost: z has one, and BatchNorm sees it.": (
            _folded(bias=lambda s, b, mean, beta: beta - mean * s)
        ),
        "The old bias enters as it is: it passes through BatchNorm like everything else in z.": (
            _folded(bias=lambda s, b, mean, beta: b - mean * s + beta)
        ),
        "The mean is not subtracted.": _folded(bias=lambda s, b, mean, beta: b * s + beta),
        "The mean is subtracted after the division: in which order does BatchNorm work?": (
            _folded(bias=lambda s, b, mean, beta: b * s - mean + beta)
        ),
        "The mean has the wrong sign.": _folded(bias=lambda s, b, mean, beta: (b + mean) * s + beta),
        "The beta is missing: a shift was learned.": _folded(bias=lambda s, b, mean, beta: (b - mean) * s),
        "The beta is scaled as well: it is added last, when all scaling is done.": (
            _folded(bias=lambda s, b, mean, beta: (b - mean + beta) * s)
        ),
        "The weight is as it was: the division acts on it, too.": _folded(weight=lambda s, w: w),
        "The bias is as it was: what comes out of BatchNorm when x is 0?": (
            _folded(bias=lambda s, b, mean, beta: b)
        ),
        "That scales the INPUTS of the layer, one column each: whose scale is gamma?": (
            _folded(weight=lambda s, w: w * np.resize(s, w.shape[1]))
        ),
    },
    otherwise="The two layers and yours differ: take one unit with one input by hand, without a 0 in it.",
)


@exercise(
    2,
    praise="in evaluation mode BatchNorm is a line for each unit, and a line after a line is one line.",
    hint=(
        "Write what comes out of BatchNorm for ONE unit in evaluation mode, with the running statistics, and "
        "put w · x + b in for z. What stands in front of x? And what is left without x?"
    ),
    stream=51,
    trials=[_FOLD],
)
def folded_norm(fold: Callable, seed: int) -> None:
    """The weight and bias of one linear layer that does what linear and BatchNorm do in evaluation mode."""


# --- A small variance is forgotten late --------------------------------------------------------------------

_TRUE_VAR, _MOMENTUM = 0.01, 0.1
_KEEP = 1 - _MOMENTUM
_LIMIT = 1.1**2 * _TRUE_VAR


def _first(condition: Callable[[int], bool]) -> int:
    return next(n for n in range(1, 10_000) if condition(n))


def _running(n: float, true: float = _TRUE_VAR, keep: float = _KEEP) -> float:
    """The running value after n batches of the true one: it starts at 1."""
    return true + (1 - true) * keep**n


_ENOUGH = _first(lambda n: _running(n) <= _LIMIT)
_BATCHES = Trial(
    read=whole_number("The number of batches"),
    right=_ENOUGH,
    mistakes={
        "So long it takes for the VARIANCE: the deviation is asked for.": (
            _first(lambda n: _running(n) <= 1.1 * _TRUE_VAR)
        ),
        "Then a tenth of the 1 is left: how large is that beside the true variance?": (
            _first(lambda n: _KEEP**n <= 0.1)
        ),
        "As if the batches contributed nothing, and the running variance fell to 0.": (
            _first(lambda n: _KEEP**n <= _LIMIT)
        ),
        "As if deviations were averaged: what does BatchNorm keep a running value of?": (
            _first(lambda n: _running(n, true=math.sqrt(_TRUE_VAR)) <= math.sqrt(_LIMIT))
        ),
        "In PyTorch the momentum is the share of the NEW batch, not of the old value.": (
            _first(lambda n: _running(n, keep=_MOMENTUM) <= _LIMIT)
        ),
        "Then a hundredth of the 1 is left: that is as much as the true variance itself.": (
            _first(lambda n: 1 - _KEEP**n >= 0.99)
        ),
        "Near: is the deviation at most 10 % too large by then?": _ENOUGH - 1,
        "Near: is it the first time?": _ENOUGH + 1,
    },
    otherwise=lambda _, results, right: (
        f"After {results[0]:.0f} batches it has long been at most 10 % too large: when for the first time?"
        if results[0] > _ENOUGH
        else f"After {results[0]:.0f} batches the running deviation is "
        f"{math.sqrt(_running(results[0]) / _TRUE_VAR):.3g} times the true one."
    ),
    tolerance=1e-9,
)


@exercise(
    2,
    praise="what is left of the start has to be small beside the truth, not beside the start.",
    hint=(
        "Two terms make up the running variance: what is left of the 1 it started with, and what the batches "
        "have contributed so far. Which value of the running VARIANCE belongs to a deviation that is 10 % "
        "too large?"
    ),
    trials=[_BATCHES],
)
def forgetting_variance(batches: int, seed: int) -> None:
    """The first number of batches after which the running deviation is at most 10 % too large."""


# --- The way back through GroupNorm ------------------------------------------------------------------------

_Mean = Callable[[np.ndarray, int], np.ndarray]


def _whole(channels: int, groups: int) -> tuple[int, ...]:
    return (channels,)


def _grouped(channels: int, groups: int) -> tuple[int, ...]:
    return groups, channels // groups


def _dealt(channels: int, groups: int) -> tuple[int, ...]:
    """As if channels 0, groups, 2 groups, .. made up the first group."""
    return channels // groups, groups


def _mean_over(*axes: int, split: Callable[[int, int], tuple[int, ...]] = _whole) -> _Mean:
    """The mean over these axes, once the axis of the channels is split, in the shape of the input."""

    def mean(a: np.ndarray, groups: int) -> np.ndarray:
        n, channels, *pixels = a.shape
        parts = a.reshape(n, *split(channels, groups), *pixels)
        return np.broadcast_to(parts.mean(axis=axes, keepdims=True), parts.shape).reshape(a.shape)

    return mean


_GROUP_MEAN = _mean_over(2, 3, 4, split=_grouped)


def _way_back(
    bracket: Callable = lambda g, y, sigma, mean: (g - mean(g) - y * mean(g * y)) / sigma,
    *,
    mean: _Mean = _GROUP_MEAN,
    spread: Callable = lambda variance, eps, count: np.sqrt(variance + eps),
    before: Callable = lambda arriving, gamma: gamma * arriving,
    after: Callable = lambda gradient, gamma: gradient,
) -> Callable[..., np.ndarray]:
    """The gradient by the input of GroupNorm, with one step replaced."""

    def backward(
        arriving: np.ndarray, x: np.ndarray, gamma: np.ndarray, groups: int, eps: float
    ) -> np.ndarray:
        def group_mean(a: np.ndarray) -> np.ndarray:
            return mean(a, groups)

        gamma, centered = gamma[:, None, None], x - group_mean(x)
        sigma = spread(group_mean(centered**2), eps, x[0].size / groups)
        return after(bracket(before(arriving, gamma), centered / sigma, sigma, group_mean), gamma)

    return backward


def _images(rng: np.random.Generator, groups: int, size: int) -> Case:
    """arriving, x, gamma, groups, eps; `size` channels in a group, and a spread beside which eps counts."""
    shape = (int(rng.integers(2, 4)), groups * size, 2, 3)
    offset = rng.normal(size=(1, shape[1], 1, 1))
    x = 0.3 * (rng.normal(size=shape) + offset)
    arriving, gamma = rng.normal(size=shape) + 0.5, rng.uniform(0.5, 2, size=shape[1])
    return arriving, x, gamma, groups, float(rng.uniform(0.02, 0.05))


_GROUP_NORM = Trial(
    cases=lambda rng: [_images(rng, *sizes) for sizes in ((2, 3), (3, 2), (2, 4))],
    read=lambda result, arriving, x, *rest: as_array(result, x.shape, "The gradient"),
    right=_way_back(),
    mistakes={
        "Those are the means of BatchNorm: may the gradient of one image depend on another image here?": (
            _way_back(mean=_mean_over(0, 2, 3))
        ),
        "Those are the means of LayerNorm, over all channels: they were cut into groups.": (
            _way_back(mean=_mean_over(1, 2, 3))
        ),
        "Those are the means of InstanceNorm, one for each channel: a group has several.": (
            _way_back(mean=_mean_over(2, 3))
        ),
        "The groups are right, but the means go over the examples as well.": (
            _way_back(mean=_mean_over(0, 2, 3, 4, split=_grouped))
        ),
        "The means go over the channels of a group, and not over its pixels.": (
            _way_back(mean=_mean_over(2, split=_grouped))
        ),
        "The channels are dealt out to the groups like cards: a group has NEIGHBOURING channels.": (
            _way_back(mean=_mean_over(1, 3, 4, split=_dealt))
        ),
        "The gamma is missing: it lies between the output and y.": (
            _way_back(before=lambda arriving, gamma: arriving)
        ),
        "The gamma comes after the bracket: in a group it differs from channel to channel, so its place "
        "matters.": _way_back(
            before=lambda arriving, gamma: arriving, after=lambda gradient, gamma: gamma * gradient
        ),
        "As if mean and deviation were constants: that is the way back in evaluation mode of BatchNorm.": (
            _way_back(lambda g, y, sigma, mean: g / sigma)
        ),
        "The way through the mean is missing: that is RMSNorm's bracket.": (
            _way_back(lambda g, y, sigma, mean: (g - y * mean(g * y)) / sigma)
        ),
        "The way through the deviation is missing.": (
            _way_back(lambda g, y, sigma, mean: (g - mean(g)) / sigma)
        ),
        "The bracket is right, and what stands in front of it is missing.": (
            _way_back(lambda g, y, sigma, mean: g - mean(g) - y * mean(g * y))
        ),
        "The bracket is divided by the variance: by what is it to be divided?": (
            _way_back(lambda g, y, sigma, mean: (g - mean(g) - y * mean(g * y)) / sigma**2)
        ),
        "In the last term stands what is left of x without its mean: the bracket wants it normalized.": (
            _way_back(lambda g, y, sigma, mean: (g - mean(g) - y * sigma * mean(g * y * sigma)) / sigma)
        ),
        "A sign in the bracket: does stretching x change the output?": (
            _way_back(lambda g, y, sigma, mean: (g - mean(g) + y * mean(g * y)) / sigma)
        ),
        "The eps is missing: here it is no trifle.": (
            _way_back(spread=lambda variance, eps, count: np.sqrt(variance))
        ),
        "The eps is added to the deviation: GroupNorm adds it to the variance.": (
            _way_back(spread=lambda variance, eps, count: np.sqrt(variance) + eps)
        ),
        "That variance is divided by one less than the count: norms divide by the count.": (
            _way_back(spread=lambda variance, eps, count: np.sqrt(variance * count / (count - 1) + eps))
        ),
        "That is the normalized input, the way forward: the gradient is asked for.": (
            _way_back(lambda g, y, sigma, mean: y)
        ),
    },
    otherwise=(
        "That is not the gradient: try it on one image with one channel of two pixels and eps = 0, "
        "where it is 0, and then against autograd."
    ),
)


@exercise(
    3,
    praise="the bracket stays, and only the entries over which its means go are others.",
    hint=(
        "Nothing in the lesson's derivation knows that the B numbers came from a batch. Which numbers share "
        "a mean here? Reshape, so that they lie along axes of their own. And is gamma the same for all "
        "of them?"
    ),
    stream=53,
    trials=[_GROUP_NORM],
)
def group_backward(backward: Callable, seed: int) -> None:
    """The gradient by the input of GroupNorm, from the gradient by its output."""


# --- A scale that saves LayerNorm --------------------------------------------------------------------------


def _raised(rng: np.random.Generator) -> Nameless:
    """An activation with outputs around a constant, as a sigmoid's around ½."""
    heights, steepness = rng.uniform(0.3, 0.6, size=2), rng.uniform(0.5, 1.2, size=2)
    return Nameless(heights, steepness, middle=float(rng.uniform(0.7, 1.1)))


def growth(activation: Callable, scale: float) -> float:
    """The factor of the squared gradient per layer, with LayerNorm of that scale."""
    at_scale = moments(activation, scale**2)
    return scale**2 * at_scale.square_slope / at_scale.square


def _scale_where(factor: Callable[[Callable, float, Moments], float]) -> Callable[[Callable], float]:
    """The scale g at which a factor of (activation, g, its moments there) is 1; it rises with g."""

    def solved(f: Callable) -> float:
        def log_factor(s: float) -> float:
            return math.log(factor(f, math.exp(s), moments(f, math.exp(2 * s))))

        return math.exp(brentq(log_factor, math.log(0.02), math.log(100)))

    return solved


def _does_not_keep_it(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(np.log(results / right), 0)
    [activation], scale = cases[worst], results[worst]
    if not 1e-3 < scale < 1e2:
        return f"{scale:.3g} does not keep it: try your function on a sigmoid, and measure."
    return (
        f"With scale {scale:.3g} the squared gradient has a factor of {growth(activation, scale):.3g} per "
        "layer, and should have 1."
    )


rescue = _scale_where(lambda f, g, at: growth(f, g))
_RESCUE = Trial(
    cases=lambda rng: [(_raised(rng),) for _ in range(3)],
    read=number("The scale"),
    impossible={
        "The scale should be positive, and yours is not: is that a logarithm?": (
            lambda results: (results <= 0).any()
        )
    },
    right=rescue,
    mistakes={
        "That is the square of the scale, as if it were a variance.": lambda f: rescue(f) ** 2,
        "That is the root of the scale: is it a variance or a factor?": lambda f: math.sqrt(rescue(f)),
        "Upside down: has the signal to become larger or smaller to leave the straight part?": (
            lambda f: 1 / rescue(f)
        ),
        "That is for signals so small that the activation is straight: at this scale it is not.": (
            lambda f: float(f(0.0)) / slope_at_0(f)
        ),
        "The slope is taken at 0, where it is largest: most signals are elsewhere.": (
            _scale_where(lambda f, g, at: (g * slope_at_0(f)) ** 2 / at.square)
        ),
        "The slope is taken at scale 1: at YOUR scale the signals meet other slopes.": (
            _scale_where(lambda f, g, at: g**2 * moments(f, 1.0).square_slope / at.square)
        ),
        "The mean square of the outputs is taken at scale 1: it grows with the scale.": (
            _scale_where(lambda f, g, at: g**2 * at.square_slope / moments(f, 1.0).square)
        ),
        "That divides by the square of the mean: the mean of the squares is what LayerNorm divides by.": (
            _scale_where(lambda f, g, at: g**2 * at.square_slope / at.mean**2)
        ),
        "Nothing is divided: the next LayerNorm divides by the size of what comes out here.": (
            _scale_where(lambda f, g, at: g**2 * at.square_slope)
        ),
        "That divides a mean square by the ROOT of a mean square.": (
            _scale_where(lambda f, g, at: g**2 * at.square_slope / math.sqrt(at.square))
        ),
    },
    otherwise=_does_not_keep_it,
    tolerance=0.02,
)


@exercise(
    3,
    praise="LayerNorm can keep the gradient of such layers, only not with the scale it starts with.",
    hint=(
        "To the layer after it, LayerNorm of scale g followed by φ is LayerNorm of scale 1 followed by "
        "another activation, ψ(y) = φ(g y). Put ψ into the lesson's law for LayerNorm; do not forget what "
        "the chain rule makes of ψ'."
    ),
    stream=54,
    trials=[_RESCUE],
)
def rescuing_scale(scale: Callable, seed: int) -> None:
    """The scale at which LayerNorm keeps the squared gradient, to 2 %, for activations the check brings."""


# --- A learning rate drops ---------------------------------------------------------------------------------

_RATE, _DROP, _DECAY = 0.1, 10, 0.01
_ROOT = math.sqrt(_DROP)
_AT_ONCE = Trial(
    read=number("The factor at once"),
    right=1 / _DROP,
    mistakes={
        "At once: the length of the weights has had no time to change, and that factor is what remains "
        "when it has.": 1 / _ROOT,
        "At once: the same gradient, the same length, and a step that is shorter.": 1.0,
        "At once: that is upside down, for new over old is asked.": _DROP,
        "At once: one step is shorter by the factor of the rate, and only once.": 1 / _DROP**2,
    },
    otherwise=lambda _, results, right: (
        f"At once: {results[0]:.3g} it is not: what of rate, gradient and length changes in the very next "
        "step?"
    ),
    tolerance=0.02,
)
_IN_THE_END = Trial(
    part=1,
    read=number("The factor in the end"),
    right=1 / _ROOT,
    mistakes={
        "In the end: that is at the old length, and the length adapts to the new rate.": 1 / _DROP,
        "In the end: the length adapts, but does not make up for all of it; see the lesson's law.": 1.0,
        "In the end: that is upside down, for new over old is asked.": _ROOT,
        "In the end: that is the factor of the LENGTH: the angle is asked for.": _DROP**-0.25,
    },
    otherwise=lambda _, results, right: (
        f"In the end: {results[0]:.3g} it is not: at which angle do shrinking and growing balance?"
    ),
    tolerance=0.02,
)
_SLOW = _RATE / _DROP * _DECAY  # η λ after the drop
_TIME = math.log((1 - 1 / _DROP) / (1 / 4 - 1 / _DROP))  # of ‖W‖⁴ until it is a quarter, times its pace 4 η λ
_STEPS = Trial(
    part=2,
    read=number("The number of steps"),
    right=_TIME / (4 * _SLOW),
    mistakes={
        "The steps: that is with the old learning rate, and the new one decays.": _TIME / (4 * _SLOW * _DROP),
        "The steps: so long it takes with decay alone, and each step still pushes the weights outward.": (
            math.log(2) / (2 * _SLOW)
        ),
        "The steps: that halves the length with decay alone: the angle goes with another power of it.": (
            math.log(4) / (2 * _SLOW)
        ),
        "The steps: that is the pace of the SQUARED length, and the power that you follow is higher.": (
            _TIME / (2 * _SLOW)
        ),
        "The steps: that is the pace of the length itself, and the power that you follow is higher.": (
            _TIME / _SLOW
        ),
        "The steps: as if the squared length approached its new value exponentially: the push outward grows "
        "as it shrinks.": math.log((1 - 1 / _ROOT) / (1 / 2 - 1 / _ROOT)) / (2 * _SLOW),
        "The steps: as if the ANGLE approached its new value exponentially: a power of the length does.": (
            math.log((1 / _ROOT - 1 / _DROP) / (1 / _ROOT - 2 / _DROP)) / (4 * _SLOW)
        ),
        "The steps: that is the time constant: how many of them until the angle is twice as large?": (
            1 / (4 * _SLOW)
        ),
        "The steps: so long it takes for half of the way of ‖W‖⁴: how far has it to go?": (
            math.log(2) / (4 * _SLOW)
        ),
    },
    otherwise=lambda _, results, right: (
        f"The steps: {results[0]:.3g} is not it: how long are the weights by then, and where do they head?"
    ),
    tolerance=0.02,
)


@exercise(
    4,
    praise="first the step changes, then the length, and the length takes its time.",
    hint=(
        "The angle of one step is about η‖g‖/‖W‖, and ‖g‖ is c/‖W‖. So what does it depend on, apart from η? "
        "Follow the SQUARED length over one step, and multiply its equation so that no division is left: "
        "some power of ‖W‖ then approaches its new value exponentially."
    ),
    trials=[_AT_ONCE, _IN_THE_END, _STEPS],
)
def turning_rate(at_once: float, in_the_end: float, steps: float, seed: int) -> None:
    """What a drop of the learning rate does to the angle per step: at once, in the end, and how fast."""
