"""The checks of the exercises: each tries an answer, and says in one sentence which mistake it looks like.

`checks.NAME(answer)` prints one sentence when the answer holds, and raises `Mistake` when it does not;
`checks.NAME.hint()` prints a hint. Neither gives the answer. No check needs nbgrader: a learner runs the cell
and reads. In a graded notebook the same call is the test, for a cell that raises earns no points.
"""

import contextlib
import copy
import functools
import inspect
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from utils import data, diagnosis, networks, plots, signals, theory, training

EMPTY = "There is no answer yet: write yours in the cell above, run that cell, then run this one again."
WIDTH = 100


class Mistake(AssertionError):  # noqa: N818 - a learner reads the name
    """What a check found, in one sentence; a notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return textwrap.wrap(str(self), WIDTH)


@dataclass(frozen=True)
class Check:
    """The check of one exercise: call it with the answer, or ask for its hint.

    `look` takes the answer and a `seed`, from which it draws what it tries, and raises `Mistake`; `praise` is
    the sentence for an answer that holds.
    """

    name: str
    points: int
    look: Callable
    praise: str
    advice: str

    def __call__(self, *answer: object, seed: int = 0) -> None:
        """Print one sentence when the answer holds; raise `Mistake` with one when it does not."""
        try:
            *wanted, _seed = inspect.signature(self.look).parameters
            if len(answer) != len(wanted):
                raise Mistake(f"This check takes {' and '.join(wanted)}, in this order, and nothing else.")
            if any(part is None or part is ... for part in answer):
                raise Mistake(EMPTY)
            self.look(*answer, seed=data.check_seed(seed))
        except Mistake as mistake:
            raise Mistake(f"{mistake} (A hint: checks.{self.name}.hint())") from None
        # Nothing is returned: nbgrader reads a returned value as partial credit.
        points = "1 point" if self.points == 1 else f"{self.points} points"
        print(textwrap.fill(f"Right ({points}): {self.praise}", WIDTH))

    def hint(self) -> None:
        """Print a hint that does not give the answer."""
        print(textwrap.fill(self.advice, WIDTH))


def exercise(points: int, *, praise: str, hint: str) -> Callable[[Callable], Check]:
    """Make a function `look(answer, ..., seed)`, which raises `Mistake`, the `Check` of its name."""

    def decorate(look: Callable) -> Check:
        return Check(look.__name__, points, look, praise, hint)

    return decorate


# --- What every check needs --------------------------------------------------------------------------------


def _call(function: Callable, *inputs: object) -> object:
    """What the learner's function makes of the inputs, or a sentence for whatever goes wrong in it.

    It is given copies, prints nothing, and warns of nothing: nbgrader takes a warning for a failure.
    """
    if not callable(function):
        raise Mistake(f"This check takes your function, without brackets, not {_brief(function)}.")
    given = copy.deepcopy(inputs)
    quiet = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            warnings.simplefilter("ignore")
            result = function(*given)
    except NotImplementedError:
        raise Mistake(EMPTY) from None
    except Exception as error:  # whatever a learner's code may raise
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        inside = f"{_name(function)}({', '.join(map(_brief, inputs))})"
        raise Mistake(f"Your function stops with {what}; call it yourself to see where: {inside}.") from None
    if not all(_same(before, after) for before, after in zip(inputs, given, strict=True)):
        raise Mistake("Your function changes what it was given: work on a copy, the caller still needs it.")
    if result is None:
        raise Mistake("Your function returns None: is the return statement missing?")
    return result


def _same(one: object, other: object) -> bool:
    """Whether an input is still what it was; two NaNs are the same."""
    if isinstance(one, nn.Module):
        return one.training == other.training and _same(one.state_dict(), other.state_dict())
    if isinstance(one, np.ndarray | torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one).__eq__ is object.__eq__:  # a copy of such a thing is never equal to it
        return True
    return one == other or (one != one and other != other)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "your_function")


def _brief(value: object) -> str:
    """A value in a sentence: small ones in full, arrays by their shape."""
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        return f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    return textwrap.shorten(str(value) if isinstance(value, Real) else repr(value), 60)


def _number(value: object, what: str) -> float:
    """A number of any library as a float; NaN and infinity are let through, for they are mistakes too."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.shape:
        raise Mistake(f"{what} should be one number, and is an array of shape {value.shape}.")
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Mistake(f"{what} should be one number, and is {_brief(value)}.")
    return float(value)


def _close(one: float, other: float, tolerance: float) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)


def _compare(
    found: ArrayLike,
    right: ArrayLike,
    mistakes: Sequence[tuple[ArrayLike, str]],
    otherwise: str,
    tolerance: float,
) -> None:
    """Nothing when what was found is right; else the sentence of the mistake that explains it.

    found and right are a number, or (n,) for several inputs; so is, beside each sentence, what somebody finds
    who makes that mistake. It has to explain all the numbers: one alone may agree by chance.
    """

    def agree(one: ArrayLike, other: ArrayLike) -> bool:
        return bool(np.allclose(one, other, rtol=tolerance, atol=1e-12))

    if agree(found, right):
        return
    for wrong, sentence in mistakes:
        if agree(found, wrong):
            raise Mistake(sentence)
    raise Mistake(otherwise)


def _whole(value: object, what: str) -> int:
    number = _number(value, what)
    if not math.isfinite(number) or number != round(number) or number < 1:
        raise Mistake(f"{what} counts something: it should be a whole number from 1 on, and is {number:.3g}.")
    return int(number)


# --- 01 Chain rule intuition -------------------------------------------------------------------------------


def _contributions(weight: float, x: float, target: float, depth: int) -> np.ndarray:
    """What each of the `depth` uses of one weight adds to ∂loss/∂weight, the first node first: (depth,)."""
    uses = [torch.tensor(weight, dtype=torch.float64, requires_grad=True) for _ in range(depth)]
    h = torch.tensor(x, dtype=torch.float64)
    for use in uses:
        h = torch.tanh(use * h)
    return np.array([float(part) for part in torch.autograd.grad((h - target) ** 2 / 2, uses)])


@exercise(
    2,
    praise="the courier reports to the same weight at every node, and the reports add up.",
    hint=(
        "Pretend for a moment that each node has a weight of its own, w1, w2, w3, and work out "
        "the three gradients. A small change of the shared weight changes all three at once: "
        "what does that do to the loss?"
    ),
)
def shared_weight(weight_gradient: Callable, seed: int) -> None:
    """∂loss/∂weight of a chain h ← tanh(weight · h) that uses one weight at every node."""
    rng = np.random.default_rng([1, seed])
    for depth in (1, 1, 3, 5):  # with one node nothing is shared yet: what fails there is something else
        weight, x, target = (float(value) for value in rng.uniform(0.4, 1.6, 3) * rng.choice([-1, 1], 3))
        inputs = f"weight {weight:.2f}, x {x:.2f}, target {target:.2f}, depth {depth}"
        found = _number(_call(weight_gradient, weight, x, target, depth), "The gradient")
        parts = _contributions(weight, x, target, depth)
        z = weight * x
        h, slope = math.tanh(z), 1 - math.tanh(z) ** 2
        one_node = [
            (
                -parts.sum(),
                "The gradient points the wrong way: is the derivative of (h - target)² / 2 with "
                "respect to h turned around?",
            ),
            (
                (h - target) * x,
                "The slope of tanh is missing: what does a node do to the message before the weight "
                "hears it?",
            ),
            (
                (h - target) * (1 - z**2) * x,
                "The slope of tanh is 1 - z² here: is it the node's output that belongs there, or its input?",
            ),
            (
                (h - target) * slope * h,
                "One index too far: each weight listens to the message times what came INTO its node, "
                "not out of it.",
            ),
            (slope * x, "The message never starts: where is the derivative of the loss itself?"),
        ]
        shared = [
            (parts[-1], "Only the last node reports to the weight: it is used at the other nodes as well."),
            (parts[0], "Only the first node reports to the weight: it is used at the other nodes as well."),
            (
                parts.mean(),
                "The reports of the nodes are averaged: does a weight that is used twice count half as much?",
            ),
            (parts[1:].sum(), "The first node's report is missing: one step of the way back is left out."),
            (parts[:-1].sum(), "The last node's report is missing: one step of the way back is left out."),
            (
                parts.prod(),
                "The reports of the nodes are multiplied: a change of the weight changes the loss "
                "through each node, and small changes add.",
            ),
            (
                -parts.sum(),
                "The gradient points the wrong way: is the derivative of (h - target)² / 2 turned around?",
            ),
        ]
        otherwise = (
            f"With one node only ({inputs}) the gradient is not right yet: take the three rules one by one."
            if depth == 1
            else f"One node is right, and {depth} are not ({inputs}): follow the message from node to node, "
            "times the weight and the slope at each."
        )
        _compare(found, parts.sum(), one_node if depth == 1 else shared, otherwise, 1e-6)


@exercise(
    2,
    praise="a power of two in front of the loss buys layers, at two powers of two apiece.",
    hint=(
        "Write everything as a power of two: the scale, the factor of one layer, the smallest "
        "float16, and half of it."
    ),
)
def scaled_underflow(layers: float, seed: int) -> None:
    """The first n at which 2¹⁶ · 0.25ⁿ, rounded once to float16, is exactly 0."""
    found = _whole(layers, "The number of layers")
    right = _first_zero_after_scaling("float16")
    near = (
        "Within one layer of it: write down the powers of two around the smallest float16, and see which of "
        "them rounds to 0."
    )
    mistakes = [
        (
            theory.first_zero(0.25, "float16"),
            "So many it takes without any scaling: what did the 2¹⁶ do for you?",
        ),
        *((right + off, near) for off in (-1, 1)),
        (
            theory.first_zero(0.25, "float16") + 16,
            "As if each layer cost one power of two: what is 0.25 as a power of two?",
        ),
        (16, "That is where the smallest NORMAL number ends: below it are the subnormal ones."),
        (
            _first_zero_after_scaling("bfloat16"),
            "So many layers it takes in bfloat16: it has another smallest number.",
        ),
        (
            _first_zero_after_scaling("float32"),
            "So many layers it takes in float32: it has another smallest number.",
        ),
        (
            theory.first_zero(0.25, "float16") - 8,
            "The scale works against you here: multiplying by 2¹⁶ should buy layers, not cost them.",
        ),
    ]
    _compare(
        found,
        right,
        mistakes,
        f"{found} is not it: count the powers of two from 2¹⁶ down to where 0 is.",
        1e-9,
    )


def _first_zero_after_scaling(format_name: str) -> int:
    exact = 2.0**16 * torch.tensor(0.25, dtype=torch.float64) ** torch.arange(1, 120)
    return int((exact.to(theory.FORMATS[format_name]) == 0).nonzero()[0]) + 1


@exercise(
    3,
    praise="logarithms of stretches add where products would leave every number format.",
    hint=(
        "Never form the product. Send the message through one matrix, write down the logarithm "
        "of how much longer it became, and give it length 1 again before the next."
    ),
)
def growth_rate(growth: Callable, seed: int) -> None:
    """Growth per matrix, in nats, of the length of a message that passes matrices (L, n, n) in order."""
    rng = np.random.default_rng([3, seed])
    for count, width, std in ((7, 3, 1.0), (6, 4, 0.3), (1, 3, 1.0)):
        matrices = std * rng.normal(size=(count, width, width))
        message = rng.normal(size=width) * rng.uniform(2, 5)
        found = _number(_call(growth, matrices, message), "The growth")
        _compare_growth(found, matrices, message)
    for std, what in ((0.02, "vanishes"), (50.0, "explodes")):
        matrices, message = std * rng.normal(size=(600, 3, 3)), rng.normal(size=3)
        found = _number(_call(growth, matrices, message), "The growth")
        if not math.isfinite(found):
            raise Mistake(
                f"After 600 matrices the message {what} beyond float64, and the growth comes out as {found}: "
                "the logarithm has to be taken before the product leaves the format."
            )
        _compare_growth(found, matrices, message)


def _compare_growth(found: float, matrices: np.ndarray, message: np.ndarray) -> None:
    def stretches(chain: Sequence[np.ndarray]) -> np.ndarray:
        lengths, direction = [], message / np.linalg.norm(message)
        for matrix in chain:
            direction = matrix @ direction
            lengths.append(np.linalg.norm(direction))
            direction = direction / lengths[-1]
        return np.array(lengths)

    count, width, _ = matrices.shape
    lengths, start = stretches(matrices), math.log(np.linalg.norm(message))
    right = np.log(lengths).mean()
    single = np.log(np.linalg.norm(matrices @ message, axis=1) / np.linalg.norm(message))
    mistakes = [
        (
            right / math.log(10),
            "That is the logarithm to base 10: growth rates are in natural logarithms here.",
        ),
        (right * count, "That is the growth of the whole chain: it should be per matrix."),
        (right * count / max(count - 1, 1), "One matrix is not counted: the sum is divided by L - 1."),
        (math.exp(right), "That is the factor per matrix itself: its logarithm is asked for."),
        (
            right + start / count,
            "That is how long the message became, not how much longer: it did not begin with length 1.",
        ),
        (
            math.log(lengths.mean()),
            "That is the logarithm of the AVERAGE stretch: the typical one has the average outside "
            "of the logarithm.",
        ),
        (
            math.log((lengths**2).mean()) / 2,
            "That is half of the logarithm of the mean SQUARED stretch: it is above what a typical "
            "message sees.",
        ),
        (
            np.log(stretches(matrices[::-1])).mean(),
            "The matrices come in the wrong order: the message passes matrices[0] first.",
        ),
        (
            np.log(stretches(matrices.transpose(0, 2, 1))).mean(),
            "The matrices act from the wrong side: one of them takes a message v to W v, not to v W.",
        ),
        (
            np.log(np.linalg.norm(matrices, 2, axis=(1, 2))).mean(),
            "That takes the largest singular value of each matrix: no message is aligned with all of them.",
        ),
        (
            single.mean(),
            "Each matrix is given the original message: the second one should get what the first "
            "one made of it.",
        ),
        (
            theory.lyapunov_exponents(width, 1.0)[0],
            "That is what theory says for Gaussian matrices with s = 1: here it is to be measured "
            "on the matrices given.",
        ),
    ]
    otherwise = (
        f"For {count} matrices of width {width} the growth per matrix is not {found:.3g}: try one matrix "
        "and a message of length 1 by hand."
    )
    _compare(found, right, mistakes, otherwise, 1e-6)


DISEASES = ("vanishing gradient", "collapsed spectrum", "number format")
_DISEASE_OF = {1: "number format", 2: "vanishing gradient", 3: "collapsed spectrum"}
_SHRINKING = 0.6


def patient(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the three patients of set 01; returns its four axes.

    They are linear networks of twenty layers of width 24. Raises `ValueError` for another number.
    """
    data.check_choice("number", number, _DISEASE_OF)
    disease = _DISEASE_OF[number]
    width, inputs = 24, data.gaussian_batch(256, 24, seed=5)
    model = networks.DeepMLP(
        20,
        width,
        in_features=width,
        out_features=width,
        activation="identity",
        bias=False,
        initialization="orthogonal",
        seed=2,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            if disease == "collapsed spectrum":
                drawn = data.gaussian_batch(width, width, seed=200 + layer)
                block.linear.weight.copy_(theory.critical_weight_std(width) * drawn)
            elif disease == "vanishing gradient":
                block.linear.weight.mul_(_SHRINKING)
    scale = 1e-6 if disease == "number format" else 1.0
    found = signals.measure(
        model,
        inputs,
        inputs,
        layers=networks.Block,
        loss_fn=lambda outputs, targets: scale * F.mse_loss(outputs, targets),
    )
    return plots.dashboard(found, signals.jacobian_singular_values(model, inputs[0]))


@exercise(
    3,
    praise="three gradients, three charts, and only one of them lost anything on its way.",
    hint=(
        "For each patient ask two things. Is the gradient in layer 1 smaller than in layer 20? "
        "Are the singular values alike? A bar in RANGE is what a disease does to a format, not "
        "yet which disease it is. For the factor, read the gradient at both ends, and count "
        "the steps between them."
    ),
)
def patients(diagnosis: Mapping, factor: float, seed: int) -> None:
    """A disease for each of three dashboards, and the factor per layer of the one that vanishes."""
    if not isinstance(diagnosis, Mapping) or set(diagnosis) != set(_DISEASE_OF):
        raise Mistake(
            "The diagnosis should be a dictionary with the keys 1, 2 and 3, one for each patient, and is "
            f"{_brief(diagnosis)}."
        )
    for number, given in diagnosis.items():
        if given is None or given is ...:
            raise Mistake(EMPTY)
        if not isinstance(given, str) or given not in DISEASES:
            raise Mistake(f"Patient {number}: choose one of {', '.join(DISEASES)}; {_brief(given)} is none.")
    if len(set(diagnosis.values())) == 1:
        raise Mistake("Three times the same diagnosis: the three dashboards differ, and so do the diseases.")
    why = {
        ("vanishing gradient", "number format"): "the bar in RANGE is full, but what does SCALE lose between "
        "layer 20 and layer 1?",
        (
            "collapsed spectrum",
            "number format",
        ): "the bar in RANGE is full, and SPECTRUM is as narrow as can be: "
        "does anything get lost on the way?",
        (
            "number format",
            "vanishing gradient",
        ): "RANGE shows a bar, but in SCALE the gradient falls from layer to "
        "layer, and other units would not change a slope.",
        (
            "collapsed spectrum",
            "vanishing gradient",
        ): "all singular values are small, and all are alike: is that a collapse?",
        (
            "vanishing gradient",
            "collapsed spectrum",
        ): "in SCALE its gradient is level from end to end: look at another panel.",
        (
            "number format",
            "collapsed spectrum",
        ): "nothing in it is too small for float32, and one panel spans sixteen decades: which?",
    }
    for number, truth in _DISEASE_OF.items():
        if diagnosis[number] != truth:
            raise Mistake(f"Patient {number}: {why[diagnosis[number], truth]}")
    found = _number(factor, "The factor per layer")
    whole = _SHRINKING**19
    if _close(found, _SHRINKING, 0.02):
        return
    mistakes = [
        (
            _SHRINKING**2,
            "That is the factor on the SQUARED gradient: which of the two lines in SCALE did you read?",
        ),
        (1 / _SHRINKING, "That is per layer going forward, towards the loss: the courier goes back."),
        (whole ** (1 / 20), "Count the steps: from layer 20 back to layer 1 there are not twenty."),
        (whole ** (1 / 18), "Count the steps: from layer 20 back to layer 1 there are more than that."),
        (math.log10(_SHRINKING), "That is a logarithm: the factor itself is asked for."),
    ]
    for wrong, sentence in mistakes:
        if _close(found, wrong, 0.005 if wrong > 0.5 else 0.05):
            raise Mistake(sentence)
    if 0 < found < 1e-2:
        raise Mistake("That is what is left after all the layers: the factor of ONE layer is asked for.")
    raise Mistake(
        f"With a factor of {found:.3g} per layer the line of the gradient would have another slope: how many "
        "decades does it fall, and in how many steps?"
    )


def _leaky_stretch(width: int, slope: float) -> float:
    """E[log ‖φ(g)‖] for g ~ N(0, 1) of this width, φ leaky ReLU: by Frullani's integral over u = log t."""
    u = np.linspace(-45, 90, 20_001)
    t = np.exp(u)
    laplace = ((1 + 2 * t) ** -0.5 / 2 + (1 + 2 * slope**2 * t) ** -0.5 / 2) ** width
    return float(np.trapezoid(np.exp(-t) - laplace, u)) / 2


@exercise(
    4,
    praise="the typical signal keeps its length, and nobody had to go to infinite width for it.",
    hint=(
        "What does one layer do to the LENGTH of a signal? For Gaussian weights that length is "
        "random, and its law does not depend on the direction of the signal. Find the mean of "
        "its logarithm at s = 1, by a formula or by many draws; then ask what s does to a "
        "logarithm."
    ),
)
def critical_std(critical: Callable, seed: int) -> None:
    """The weight std at which leaky ReLU layers of finite width keep the typical length, to 1 %."""
    rng = np.random.default_rng([6, seed])
    width = np.concatenate([rng.integers(3, 7, size=2), rng.integers(8, 13, size=1), [3]])
    slope = np.concatenate([rng.uniform(0.1, 0.35, size=2), [0.3, 1.0]])
    cases = list(zip(width.tolist(), slope.tolist(), strict=True))
    found = np.array([_number(_call(critical, *case), "The critical standard deviation") for case in cases])
    if (found <= 0).any():
        raise Mistake("A standard deviation is positive, and yours is not: is that its logarithm?")
    right = np.exp([-_leaky_stretch(*case) for case in cases])
    linear = np.array([theory.critical_weight_std(n) for n, _ in cases])
    mistakes = [
        (
            np.sqrt(2 / (width * (1 + slope**2))),
            "That conserves the mean SQUARED length: the typical length still shrinks.",
        ),
        (
            1 / np.sqrt(width),
            "That is the rule for infinitely wide linear layers: it knows no slope, and no few units.",
        ),
        (
            np.sqrt(2 / width),
            "That is He's rule for ReLU in wide layers: a leak and a finite width change it.",
        ),
        (linear, "The activation is missing: so it would be in a linear network."),
        (
            linear / np.sqrt(slope),
            "As if all units of a layer were on the same side of 0 at once: each one tosses its own coin.",
        ),
        (1 / right, "Upside down: that is what a layer with s = 1 does to a signal, and s has to undo it."),
        (right**2, "That is a variance: the standard deviation is asked for."),
        (
            1 / np.array([_mean_length(*case) for case in cases]),
            "That conserves the AVERAGE length: the typical one has the average outside of the logarithm.",
        ),
        (
            linear * 2 / (1 + slope),
            "That is what the average slope gives: a coin for each unit is something else.",
        ),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found / right - 1), nan=np.inf)))
    otherwise = (
        f"With s = {found[worst]:.3g}, width {width[worst]} and slope {slope[worst]:.2f} the typical signal "
        "does not keep its length: draw one layer ten thousand times and look at the mean logarithm."
    )
    _compare(found, right, mistakes, otherwise, 0.01)


def _mean_length(width: int, slope: float) -> float:
    """E[‖φ(g)‖], by the integral of (1 - E[exp(-t ‖φ(g)‖²)]) t^(-3/2) over u = log t."""
    u = np.linspace(-60, 60, 20_001)
    t = np.exp(u)
    laplace = ((1 + 2 * t) ** -0.5 / 2 + (1 + 2 * slope**2 * t) ** -0.5 / 2) ** width
    return float(np.trapezoid((1 - laplace) * t**-0.5, u)) / (2 * math.sqrt(math.pi))


# --- 02 Sigmoid saturation ---------------------------------------------------------------------------------


@exercise(
    2,
    praise="a unit is saturated when its slope is gone, and each activation says where that is.",
    hint=(
        "Both slopes can be read off the outputs, without z. Write each as a share of the largest slope "
        "that this activation has, and ask where it falls below 5 %: how close to its limit is the "
        "output by then?"
    ),
)
def saturation_count(saturated: Callable, seed: int) -> None:
    """The share of outputs at which a sigmoid's or tanh's slope is below 5 % of its largest."""
    rng = np.random.default_rng([21, seed])
    cases = [
        (name, rng.normal(0, std, size=(60, 50)))
        for name, std in (("sigmoid", 3.0), ("tanh", 1.5), ("sigmoid", 4.5), ("tanh", 2.5))
    ]
    cases = [(name, 1 / (1 + np.exp(-z)) if name == "sigmoid" else np.tanh(z)) for name, z in cases]
    found = [_number(_call(saturated, a, name), "The share of saturated units") for name, a in cases]

    def shares(of: Callable[[np.ndarray, str], np.ndarray]) -> np.ndarray:
        return np.array([of(a, name).mean() for name, a in cases])

    def relative(a: np.ndarray, name: str) -> np.ndarray:
        return 4 * a * (1 - a) if name == "sigmoid" else 1 - a**2

    right = shares(lambda a, name: relative(a, name) < 0.05)
    low = shares(lambda a, name: (relative(a, name) < 0.05) & (a < 0.5 * (name == "sigmoid")))
    colleague = "That is the colleague's count: 5 % of the OUTPUT are left there, and how much of the slope?"
    mistakes = [
        (shares(lambda a, name: (a < 0.05) | (a > 0.95)), colleague),
        (shares(lambda a, name: np.abs(a) > 0.95 if name == "tanh" else np.abs(a - 0.5) > 0.45), colleague),
        (shares(lambda a, name: np.abs(a) > 0.9 if name == "tanh" else np.abs(a - 0.5) > 0.45), colleague),
        (
            shares(lambda a, name: relative(a, name) / (1 if name == "tanh" else 4) < 0.05),
            "For tanh it is right, and for the sigmoid you ask for a slope below 0.05 itself: 5 % of which "
            "number are meant?",
        ),
        *(
            (
                shares(lambda a, name, size=size: size(4 * a * (1 - a)) < 0.05),
                "The sigmoid is right, and tanh is taken for another one: what is its slope, in its output?",
            )
            for size in (np.abs, np.asarray)
        ),
        (
            shares(lambda a, name: 1 - a**2 < 0.05),
            "That is the rule of tanh for both: the limits of a sigmoid are 0 and 1.",
        ),
        (
            shares(lambda a, name: np.abs(a) > (2.18 if name == "tanh" else 4.36)),
            "4.36 and 2.18 are limits for z: an output never gets there.",
        ),
        (
            low,
            "Only the units at the lower limit are counted: a unit is stuck at the upper one just as well.",
        ),
        (
            right - low,
            "Only the units at the upper limit are counted: a unit is stuck at the lower one just as well.",
        ),
        (1 - right, "That is the share of the units that are NOT saturated."),
        (100 * right, "Those are per cent: a share lies between 0 and 1."),
        (right * cases[0][1].size, "That is how many they are: the share is asked for."),
    ]
    otherwise = (
        f"Of 3000 {cases[0][0]} outputs the share is not {found[0]:.3g}: "
        "try the outputs 0.5, 0.98 and 0.99, one at a time, and work out their slopes."
    )
    _compare(found, right, mistakes, otherwise, 1e-9)


@exercise(
    2,
    praise="past its worst answer, squared error corrects a unit less the more wrong it is.",
    hint=(
        "With the target 0, write the gradient under squared error as a function of a alone; it is a product "
        "of an error and a slope. Where is its derivative 0? For the factor divide one gradient by the "
        "other before you put numbers in."
    ),
)
def largest_correction(worst: float, factor: float, seed: int) -> None:
    """The answer with the largest |∂loss/∂z| under squared error, and what cross-entropy gains at 0.99."""
    a = _number(worst, "The answer with the largest correction")
    right = 2 / 3
    mistakes = [
        (0.5, "There the SLOPE is largest: the error still grows beyond it."),
        (1 / 3, "So it is for the target 1: here the target is 0."),
        (1.0, "There the ERROR is largest: what is the slope there?"),
        (0.0, "There the answer is right, and nothing has to be corrected."),
        (math.log(2), "That is the z of it: which answer does a unit with this z give?"),
        (right**2 * (1 - right), "That is how large the correction is: at which answer?"),
        (1 / math.sqrt(3), "The slope of the unit is 1 - a² here: whose slope is that?"),
        (0.7, "The best of the lesson's three answers, and not the best of all: take a derivative."),
    ]
    otherwise = (
        f"The gradient at {a:.3g} is {a * a * (1 - a):.3g}, and some other answer gets more: "
        "try one a little larger, and one a little smaller."
        if 0 < a < 1
        else f"A sigmoid answers with a number between 0 and 1, and yours is {a:.3g}."
    )
    _compare(a, right, mistakes, otherwise, 0.008)
    slope = 0.99 * 0.01
    mistakes = [
        (slope, "That is what squared error keeps of the gradient of cross-entropy: turn it around."),
        (0.99, "That is the gradient under cross-entropy: how many times that of squared error is it?"),
        (0.99 * slope, "That is the gradient under squared error: how often does it go into the other?"),
        (4.0, "That would be so for an answer of ½, where the slope is largest."),
        (1 / 0.99, "One of the two ends of the slope is missing: it is a product of two numbers."),
        (1 / slope**2, "The slope is divided out twice: how often is it in the gradient of squared error?"),
        (
            -math.log(0.01) / (0.99**2 / 2),
            "That is the ratio of the LOSSES: a unit learns from their gradients.",
        ),
        (math.log10(1 / slope), "That is a logarithm: the factor itself is asked for."),
    ]
    found = _number(factor, "The factor")
    otherwise = (
        f"The first number is right, and the factor at 0.99 is not {found:.3g}: what do the two gradients "
        "have in common, and what has only one of them?"
    )
    _compare(found, 1 / slope, mistakes, otherwise, 0.02)


@exercise(
    3,
    praise="the weights that have to go the other way get nothing from the best step, and lose by any other.",
    hint=(
        "Choose whether the step goes up or down; then every weight can only go that way. Which weights "
        "should move at all in this step, and how far, if the others had better stay where they are? Draw it "
        "for two weights, once for (1, 1) and once for (1, -1)."
    ),
)
def one_signed_step(best_cosine: Callable, seed: int) -> None:
    """The largest cosine between a direction (n,) and a vector whose entries all have one sign."""
    rng = np.random.default_rng([22, seed])
    goals = [rng.uniform(0.5, 2, size=count) * signs for count, signs in _GOALS]
    found = [_number(_call(best_cosine, goal), "The cosine") for goal in goals]

    def of(figure: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> np.ndarray:
        parts = [(goal, np.maximum(goal, 0), np.maximum(-goal, 0)) for goal in goals]
        return np.array([figure(*part) for part in parts])

    norm = np.linalg.norm
    right = of(lambda g, up, down: max(norm(up), norm(down)) / norm(g))
    upwards = "Only steps that go UP are looked at: the error of the unit may have the other sign."
    downwards = "Only steps that go DOWN are looked at: the error of the unit may have the other sign."
    mistakes = [
        (of(lambda g, up, down: norm(up) / norm(g)), upwards),
        (of(lambda g, up, down: norm(down) / norm(g)), downwards),
        (
            right**2,
            "That is the share of the SQUARED length that one sign holds: what is the cosine, then?",
        ),
        (
            of(lambda g, up, down: min(norm(up), norm(down)) / norm(g)),
            "That is the better step's poor relation: of the two signs take the one that gets further.",
        ),
        (
            of(lambda g, up, down: math.sqrt(max((g > 0).mean(), (g < 0).mean()))),
            "You count the weights of each sign: one weight that has far to go may be worth three others.",
        ),
        (
            of(lambda g, up, down: max((g > 0).mean(), (g < 0).mean())),
            "You count the weights of each sign: a cosine is made of lengths.",
        ),
        (
            of(lambda g, up, down: abs(g.sum()) / (math.sqrt(len(g)) * norm(g))),
            "So it is when all inputs are EQUAL: which inputs would you like better for this direction?",
        ),
        (
            of(lambda g, up, down: np.abs(g).max() / norm(g)),
            "So it is when only ONE input is on: others could help, as long as they have its sign.",
        ),
        (
            of(lambda g, up, down: max(up.sum(), down.sum()) / np.abs(g).sum()),
            "Those are sums of entries: lengths are made of squares.",
        ),
        (
            of(lambda g, up, down: np.abs(g).sum() / (math.sqrt(len(g)) * norm(g))),
            "Each entry has lost its sign, and the sign is what all this is about.",
        ),
        (
            of(lambda g, up, down: 1.0),
            "A step straight to the goal needs both signs, and a unit with positive inputs has one.",
        ),
        (np.arccos(right), "That is the angle: its cosine is asked for."),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found - right), nan=np.inf)))
    direction = ", ".join(f"{entry:.2f}" for entry in goals[worst])
    otherwise = (
        f"For the direction ({direction}) it is not {found[worst]:.3g}: try ten thousand "
        "random steps of one sign, and look at the best."
    )
    _compare(found, right, mistakes, otherwise, 1e-6)


# How many weights have to move, and which way; one-signed directions come last, for they forgive much.
_GOALS = (
    (2, (1, -1)),
    (5, (1, 1, -1, 1, -1)),
    (6, (-1, -1, 1, -1, -1, 1)),
    (4, (1, 1, 1, 1)),
    (3, (-1, -1, -1)),
)
TREATMENTS = ("untouched", "fourfold", "fourfold and centered", "tenfold")
_TREATMENT_OF = {1: "fourfold", 2: "tenfold", 3: "untouched", 4: "fourfold and centered"}
_FOURFOLD = 0.633  # what its picture shows per layer; in networks of infinite width it is 0.632


def treated(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the four treated sigmoid networks of set 02; returns its four axes.

    Twelve layers of width 128, Xavier weights and then the treatment. Raises `ValueError` for another number.
    """
    data.check_choice("number", number, _TREATMENT_OF)
    model, inputs = _treated_network(_TREATMENT_OF[number]), data.gaussian_batch(64, 128, seed=5)
    found = signals.measure(
        model, inputs, layers=networks.Block, loss_fn=lambda outputs: outputs.square().mean() / 2
    )
    return plots.dashboard(found, signals.jacobian_singular_values(model, inputs[0]))


@torch.no_grad()
def _treated_network(treatment: str) -> networks.DeepMLP:
    width = 128
    model = networks.DeepMLP(
        12,
        width,
        in_features=width,
        out_features=width,
        activation="sigmoid",
        gain={"untouched": 1.0, "tenfold": 10.0}.get(treatment, 4.0),
        seed=1,
        dtype=torch.float64,
    )
    if treatment == "fourfold and centered":
        first, *others = [block.linear for block in model.blocks]
        first.weight.div_(2)  # its inputs are centered, and stretched less than sigmoids have to be
        for linear in (*others, model.readout):
            linear.bias.copy_(-linear.weight.sum(dim=1) / 2)
    return model


@exercise(
    3,
    praise="one dashboard, four treatments, and two of them kept the gradient for opposite reasons.",
    hint=(
        "Begin with the gradient in SCALE: two are level, two are not. Then take the activation variance. "
        "Numbers between 0 and 1 have a variance of ¼ at most, and only if they are all 0 or 1. For the "
        "factor, read the gradient at both ends, and count the steps between them."
    ),
)
def treatments(who: Mapping, factor: float, seed: int) -> None:
    """Which of four treatments each dashboard shows, and the factor per layer of the fourfold network."""
    if not isinstance(who, Mapping) or set(who) != set(_TREATMENT_OF):
        raise Mistake(
            "The answer should be a dictionary with the keys 1, 2, 3 and 4, one for each network, and is "
            f"{_brief(who)}."
        )
    for number, given in who.items():
        if given is None or given is ...:
            raise Mistake(EMPTY)
        if not isinstance(given, str) or given not in TREATMENTS:
            raise Mistake(
                f"Network {number}: choose one of {', '.join(TREATMENTS)}; {_brief(given)} is none."
            )
    if len(set(who.values())) < len(TREATMENTS):
        raise Mistake("One treatment is named twice: the four networks had four different ones.")
    level = {"fourfold and centered", "tenfold"}
    for number, truth in _TREATMENT_OF.items():
        given = who[number]
        if (given in level) != (truth in level):
            raise Mistake(
                f"Network {number}: is its gradient in SCALE level, or does it fall from layer 12 to layer "
                f"1, and what does {given!r} do to it?"
            )
        if given != truth and truth in level:
            raise Mistake(
                f"Network {number}: its gradient is level, and so is that of another; compare the activation "
                "variances of the two with ¼: what does that say about the units?"
            )
        if given != truth:
            raise Mistake(
                f"Network {number}: its gradient falls, and so does that of another; in which of the two "
                "does a layer lose more, and what should larger weights do?"
            )
    found = _number(factor, "The factor per layer")
    if _close(found, _FOURFOLD, 0.025):
        return
    whole = _FOURFOLD**11
    untouched = math.sqrt(theory.chi(theory.fixed_point("sigmoid", 1.0), "sigmoid", 1.0))
    mistakes = [
        (
            _FOURFOLD**2,
            "That is the factor on the SQUARED gradient: the line in SCALE is a norm.",
        ),
        (1 / _FOURFOLD, "That is per layer going forward, towards the loss: the gradient goes back."),
        (whole ** (1 / 12), "Count the steps: from layer 12 back to layer 1 there are not twelve."),
        (whole ** (1 / 10), "Count the steps: from layer 12 back to layer 1 there are more than that."),
        (untouched, "That is the factor of the untouched network: read the fourfold one."),
        (
            4 * untouched,
            "That is four times the factor of the untouched network: larger weights also push units off "
            "their steep center, so read the picture.",
        ),
        (1.0, "That is 4 · ¼, as if every slope were the largest one: read the picture."),
        (math.log10(_FOURFOLD), "That is a logarithm: the factor itself is asked for."),
    ]
    for wrong, sentence in mistakes:
        if _close(found, wrong, 0.015 if found > 0.5 else 0.04):
            raise Mistake(sentence)
    if 0 < found < 0.02:
        raise Mistake("That is what is left after all the layers: the factor of ONE layer is asked for.")
    raise Mistake(
        f"With a factor of {found:.3g} per layer the line of the gradient would have another slope: how many "
        "decades does it fall, and in how many steps?"
    )


def _sigmoid_moments(q: float, offset: float = 0.0, shift: float = 0.0) -> tuple[float, float]:
    """E[φ(z)²] and E[φ'(z)²] for φ(z) = σ(z - shift) - offset and z ~ N(0, q)."""
    functions = (
        lambda z: (torch.sigmoid(z - shift) - offset) ** 2,
        lambda z: (torch.sigmoid(z - shift) * torch.sigmoid(shift - z)) ** 2,
    )
    square, square_slope = (theory.gaussian_expectation(function, q) for function in functions)
    return square, square_slope


def _critical_gain(offset: float = 0.0, shift: float = 0.0) -> float:
    """The gain at which φ(z) = σ(z - shift) - offset has χ = 1, at the variance that this gain leads to."""

    def surplus(q: float) -> float:
        square, square_slope = _sigmoid_moments(q, offset, shift)
        return square - q * square_slope

    return _sigmoid_moments(brentq(surplus, 1e-12, 1e6), offset, shift)[1] ** -0.5


@exercise(
    4,
    praise="the constant in the outputs is what made the weights so large, and the units so stuck.",
    hint=(
        "Two things have to hold at once: the factor χ is 1, and z has the variance that the layers "
        "themselves bring about at this gain. Subtracting a constant changes one of the two, and leaves "
        "the slope alone. A root-finder over the gain will do, and so will one over the variance."
    ),
)
def centering_dial(critical: Callable, seed: int) -> None:
    """The gain at which layers of σ(z) - c/2 keep their gradient, for c from 0 to 0.95; to 1 %."""
    rng = np.random.default_rng([26, seed])
    dial = [0.0, *rng.uniform((0.25, 0.6, 0.85), (0.45, 0.8, 0.95)).tolist()]
    found = np.array([_number(_call(critical, c), "The critical gain") for c in dial])
    right = np.array([_critical_gain(c / 2) for c in dial])

    def gain_at(q: Sequence[float]) -> np.ndarray:
        return np.array([_sigmoid_moments(each)[1] ** -0.5 for each in q])

    def xavier(c: float) -> float:
        return theory.fixed_point(lambda z: torch.sigmoid(z) - c / 2, 1.0)

    mistakes = [
        (right**2, "That is a `weight_var`, the square of the gain."),
        (np.sqrt(right), "That is the root of the gain: which of the quantities are variances?"),
        (
            np.full(len(dial), 4.0),
            "So it would be if every z were 0 and every slope ¼: which variance does z have at your gain?",
        ),
        (
            np.full(len(dial), right[0]),
            "With no centering that is right, and your gain does not change with c: what does c do to "
            "the next z?",
        ),
        (gain_at([1.0] * len(dial)), "Your z has variance 1, whatever c is: the layers choose their own."),
        (
            gain_at([xavier(c) for c in dial]),
            "Your z has the variance that it has at a gain of 1: a larger gain makes it larger.",
        ),
        (
            np.array([_critical_gain(shift=c / 2) for c in dial]),
            "You subtract from z, inside of the sigmoid: it is the OUTPUT that the dial moves.",
        ),
        (
            np.array([_critical_gain(c) for c in dial]),
            "You subtract c, and the mean of a sigmoid is ½: the dial subtracts c times that.",
        ),
        (
            np.array([4.0, *(_critical_gain((1 - c) / 2) for c in dial[1:])]),
            "Your dial turns the wrong way: at c = 0 nothing is subtracted.",
        ),
    ]
    if not np.isfinite(found).all() or (found <= 0).any():
        raise Mistake("A gain is a positive number, and yours is not at every c: what does it give at c = 0?")
    worst = int(np.argmax(np.abs(found / right - 1)))
    q = theory.fixed_point(lambda z: torch.sigmoid(z) - dial[worst] / 2, float(found[worst]) ** 2)
    factor = float(found[worst]) * _sigmoid_moments(q)[1] ** 0.5
    otherwise = (
        f"At c = {dial[worst]:.2f} and your gain of {found[worst]:.3g}, z has a variance of {q:.3g}, and the "
        f"gradient changes by {factor - 1:+.1%} per layer: it should not."
    )
    _compare(found, right, mistakes, otherwise, 0.01)


# --- 04 Initialization -------------------------------------------------------------------------------------


@exercise(
    2,
    praise="the bound, the variance and the fan are three things, and you told them apart.",
    hint=(
        "Three questions, one after the other. How many numbers does ONE output of this layer add up? "
        "What does "
        "the activation leave of a mean square, if half of the signal is positive? And what is the "
        "variance of a "
        "uniform law on [-1, 1]?"
    ),
)
def uniform_bound(bound: Callable, seed: int) -> None:
    """The bound of a uniform law that keeps the forward scale of a layer with a leaky ReLU before it."""
    rng = np.random.default_rng([41, seed])
    few, many = rng.integers(3, 9, size=4).tolist(), rng.integers(20, 90, size=4).tolist()
    kernel = int(rng.choice([3, 5]))
    shapes = [(many[0], few[0]), (few[1], many[1]), (many[2], few[2], kernel, kernel), (few[3], many[3], 7)]
    slopes = np.array([0.0, *rng.uniform(0.15, 0.6, size=3)])
    cases = list(zip(shapes, slopes.tolist(), strict=True))
    found = np.array([_number(_call(bound, *case), "The bound") for case in cases])
    fan_in, fan_out, channels, field = np.array(
        [
            (math.prod(shape[1:]), shape[0] * math.prod(shape[2:]), shape[1], math.prod(shape[2:]))
            for shape in shapes
        ]
    ).T
    weight_var = 2 / (1 + slopes**2)
    mistakes = [
        (
            np.sqrt(weight_var / fan_in),
            "That is the standard deviation of the weights: a uniform law with this bound has a third of the "
            "variance.",
        ),
        (weight_var / fan_in, "That is the variance of the weights, and the bound is asked for."),
        (3 * weight_var / fan_in, "That is the bound's square: a root is missing."),
        (
            np.sqrt(12 * weight_var / fan_in),
            "That is how wide the whole interval is, from one end to the other: the bound is one end.",
        ),
        (
            np.sqrt(3 * weight_var / channels),
            "Only the channels are counted: an output of a convolution adds up more than one number of each.",
        ),
        (
            np.sqrt(3 * weight_var / field),
            "Only the places of the kernel are counted: an output adds them up over all channels.",
        ),
        (
            np.sqrt(3 * weight_var / fan_out),
            "That is with fan_out, which keeps the gradient going back: here the signal going forward "
            "counts.",
        ),
        (
            np.sqrt(3 * weight_var / np.array([shape[0] for shape in shapes])),
            "The first number of a shape counts the OUTPUTS: which numbers does one of them add up?",
        ),
        (
            np.sqrt(6 * weight_var / (fan_in + fan_out)),
            "That is Xavier's compromise between forward and backward: here the forward signal alone counts.",
        ),
        (
            np.sqrt(6 / (fan_in + fan_out)),
            "That is Xavier's bound, which knows no activation and asks for the gradient as well.",
        ),
        (
            np.sqrt(6 / (1 + slopes) / fan_in),
            "The slope enters as it is: what adds up are SQUARES of signals.",
        ),
        (np.sqrt(6 / fan_in), "That is for a plain ReLU: the leak lets something through as well."),
        (
            np.sqrt(3 / fan_in),
            "That is for a layer without an activation: what does the leaky ReLU leave of a mean square?",
        ),
        (
            np.sqrt(3 / (1 + slopes**2) / fan_in),
            "Half of what it should be in variance: do BOTH slopes act on all of the signal?",
        ),
        (
            np.sqrt(3 / weight_var / fan_in),
            "Upside down: the weights have to make up for what the activation takes away.",
        ),
        (
            np.sqrt(1 / fan_in),
            "That is what PyTorch draws if you say nothing: its variance is a third over fan_in.",
        ),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found / np.sqrt(3 * weight_var / fan_in) - 1), nan=np.inf)))
    otherwise = (
        f"For a weight of shape {shapes[worst]} and slope {slopes[worst]:.2f} it is not "
        f"{found[worst]:.3g}: begin "
        "with the variance that the weights need, and the bound comes last."
    )
    _compare(found, np.sqrt(3 * weight_var / fan_in), mistakes, otherwise, 1e-6)


_WEIGHTS = 400_000  # of all hidden layers together


@exercise(
    2,
    praise="layers and width come out of one purse, so that depth over width grows faster than depth.",
    hint=(
        "Write depth over width with the depth alone: what width do the weights leave for L layers? Then "
        "ask which "
        "variance of the logarithm goes with a typical factor of 10 BETWEEN two seeds."
    ),
)
def layer_budget(layers: float, seed: int) -> None:
    """The depth at which two He-ReLU networks of 400,000 weights typically differ by a factor of 10."""
    found = _number(layers, "The number of layers")

    def depth(ratio: float) -> float:
        """Where depth over width is `ratio`: width is the root of weights over depth."""
        return (ratio * math.sqrt(_WEIGHTS)) ** (2 / 3)

    deviation = math.log(10)  # of the difference of two logarithms
    ratio = deviation**2 / 2 * 4 / 5
    right = depth(ratio)
    mistakes = [
        (math.sqrt(_WEIGHTS / right), "That is their width: the number of layers is asked for."),
        (
            depth(2 * ratio),
            "So deep ONE network strays from the middle by a factor of 10: two networks differ by more "
            "than that.",
        ),
        (
            100 * ratio,
            "As if every network had 100 units: each layer more has to take its weights from somewhere.",
        ),
        (
            depth(0.4),
            "So deep they differ by a factor of e: the law speaks of natural logarithms, and 10 is more "
            "than e.",
        ),
        (
            depth(deviation * 2 / 5),
            "The logarithm of a typical factor is a deviation, and the law gives a variance: a square is "
            "missing.",
        ),
        (
            depth(ratio / 4),
            "That is for the SQUARED norm of the gradient: what does the law do with its logarithm?",
        ),
        (
            depth(ratio * 5 / 2),
            "That is for a linear network: in ReLU layers each unit also tosses its coin.",
        ),
        (
            depth(ratio * 5 / 4),
            "Near: a fraction of the law is missing in front of depth over width.",
        ),
        (
            math.sqrt(ratio * _WEIGHTS),
            "As if a layer of n units had n weights: each of its units listens to n others.",
        ),
        (
            ratio * math.sqrt(_WEIGHTS),
            "As if all the weights were in one layer, whatever the depth: they are shared out among the "
            "layers.",
        ),
    ]
    if math.isfinite(found) and 0 < found < 1:
        raise Mistake("That is depth over width, or its inverse: the number of layers is asked for.")
    otherwise = (
        f"{found:.3g} is not it: with so many layers, how wide may they be, and how far do two seeds "
        "then differ?"
    )
    _compare(found, right, mistakes, otherwise, 0.02)


def _up_to_sign(rows: np.ndarray) -> np.ndarray:
    """Each row, or its negative: whichever has its first number other than 0 is positive: (rows, n)."""
    leading = rows[np.arange(len(rows)), np.argmax(rows != 0, axis=1)]
    return rows * np.where(leading < 0, -1.0, 1.0)[:, None] + 0.0  # + 0.0: a row has no -0


def _kinds(rows: np.ndarray) -> int:
    return len(np.unique(rows + 0.0, axis=0))


def _half_copied_layer(rng: np.random.Generator, mirrors: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights in (width, 3) and out (2, width) of a layer of all kinds of copies, in random order."""
    fan_in, fan_out = 3, 2
    incoming = list(rng.normal(size=(4, fan_in)))
    outgoing = list(rng.normal(size=(4, fan_out)))

    def add(u: np.ndarray, v: np.ndarray) -> None:
        incoming.append(u)
        outgoing.append(v)

    u, v = incoming[0], outgoing[0]
    for _ in range(rng.integers(1, 4)):
        add(u, v)  # a copy
    for mirrored in (1, 3)[:mirrors]:
        add(-incoming[mirrored], -outgoing[mirrored])  # a mirror image
    for sign in rng.choice([-1, 1], size=rng.integers(1, 3)):
        add(incoming[1], rng.normal(size=fan_out))  # hears the same, and is heard otherwise
        add(sign * rng.normal(size=fan_in), outgoing[2])  # is heard the same, and hears otherwise
    add(-incoming[2], outgoing[2])  # opposite at the start, and only there
    for _ in range(rng.integers(1, 4)):
        add(np.zeros(fan_in), np.zeros(fan_out))  # silent for good
    for _ in range(rng.integers(1, 3)):
        add(np.zeros(fan_in), rng.normal(size=fan_out))  # silent at the start
    for _ in range(rng.integers(1, 3)):
        add(rng.normal(size=fan_in), np.zeros(fan_out))  # not heard at the start
    order = rng.permutation(len(incoming))
    return np.array(incoming)[order], np.array(outgoing)[order].T


@exercise(
    3,
    praise=(
        "what is equal on both sides stays equal, what is opposite on both sides stays opposite, "
        "and nobody wakes a unit that neither hears nor is heard."
    ),
    hint=(
        "The gradient of a weight is the message at the unit above times the signal of the unit below. "
        "Write down, "
        "for two units of the layer, the gradients of the weights into them and out of them. When are "
        "they equal, "
        "when opposite, and when 0, in the first step and then in every step after it?"
    ),
)
def lasting_units(units: Callable, seed: int) -> None:
    """The number of units of a tanh layer that training can tell apart, from the weights at the start."""
    rng = np.random.default_rng([43, seed])
    layers = [_half_copied_layer(rng, mirrors) for mirrors in (1, 2, 1, 2, 2)]
    simple = rng.normal(size=(4, 3))[[0, 1, 0, 2, 3]], rng.normal(size=(2, 4))[:, [0, 1, 0, 2, 3]]
    layers.append(simple)
    found = np.array([_number(_call(units, *layer), "The number of units") for layer in layers])
    both = [np.hstack([incoming, outgoing.T]) for incoming, outgoing in layers]
    awake = [rows[rows.any(axis=1)] for rows in both]

    def each(count: Callable) -> np.ndarray:
        return np.array([count(incoming, outgoing.T) for incoming, outgoing in layers])

    def signs_apart(incoming: np.ndarray, outgoing: np.ndarray) -> int:
        rows = np.hstack([_up_to_sign(incoming), _up_to_sign(outgoing)])
        return _kinds(rows[rows.any(axis=1)])

    def without(incoming: np.ndarray, outgoing: np.ndarray, silent: np.ndarray) -> int:
        rows = _up_to_sign(np.hstack([incoming, outgoing])[~silent])
        return _kinds(rows[rows.any(axis=1)])

    def either(incoming: np.ndarray, outgoing: np.ndarray) -> int:
        """Groups that hang together by equal weights on one side or the other."""
        together = np.zeros((len(incoming), len(incoming)), dtype=bool)
        for side in (incoming, outgoing):
            together |= (side[:, None] == side).all(axis=-1)
        reach = np.linalg.matrix_power(together.astype(float), len(incoming)) > 0
        return _kinds(reach)

    right = np.array([_kinds(_up_to_sign(rows)) for rows in awake])
    mistakes = [
        (each(lambda u, v: len(u)), "All units are counted: some of them are copies, and stay so."),
        (
            each(lambda u, v: _kinds(u)),
            "That looks at the weights INTO the units only: two units that hear the same may be heard "
            "differently.",
        ),
        (
            each(lambda u, v: _kinds(_up_to_sign(u[u.any(axis=1)]))),
            "That looks at the weights INTO the units only, with signs and zeros: does nothing come from "
            "above?",
        ),
        (
            each(lambda u, v: _kinds(v)),
            "That looks at the weights OUT of the units only: two units that hear different things are "
            "different.",
        ),
        (
            [_kinds(rows) for rows in both],
            "Copies are found; but tanh is odd, and some units may send nothing for good: what becomes "
            "of those?",
        ),
        (
            [_kinds(rows) for rows in awake],
            "Copies and silent units are found: which units send the OPPOSITE of another one, at every step?",
        ),
        (
            [_kinds(_up_to_sign(rows)) for rows in both],
            "Copies and mirror images are found: is there a unit whose weights never get a gradient?",
        ),
        (
            each(signs_apart),
            "Some units counted as mirror images begin as such, and part in the first step: write down both "
            "gradients.",
        ),
        (
            each(lambda u, v: without(u, v, ~u.any(axis=1))),
            "A unit that hears nothing at the start is left out: does a gradient come to the weights "
            "into it?",
        ),
        (
            each(lambda u, v: without(u, v, ~v.any(axis=1))),
            "A unit that is not heard at the start is left out: does a gradient come to the weights out "
            "of it?",
        ),
        (
            each(lambda u, v: without(u, v, ~(u.any(axis=1) & v.any(axis=1)))),
            "Units with zeros on ONE side are left out: which of their weights get a gradient in the "
            "first step?",
        ),
        (
            each(lambda u, v: np.linalg.matrix_rank(u)),
            "That is a rank: units that depend on each other linearly can still be different behind a tanh.",
        ),
        (
            each(lambda u, v: np.linalg.matrix_rank(v)),
            "That is a rank: units that depend on each other linearly can still be different behind a tanh.",
        ),
        (
            [np.linalg.matrix_rank(rows) for rows in both],
            "That is a rank: units that depend on each other linearly can still be different behind a tanh.",
        ),
        (
            each(either),
            "Units that agree on ONE side are counted as one: do they get the same gradient on the other "
            "side?",
        ),
    ]
    otherwise = (
        f"A layer of {len(both[-1])} units, one of them a copy of another and nothing else special, does "
        "not count "
        f"{found[-1]:.3g}: take that one by hand first."
        if found[-1] != right[-1]
        else "Plain copies are right, and something else is not: go through units with opposite weights, "
        "and with "
        "zeros, on one side and on both."
    )
    _compare(found, right, mistakes, otherwise, 1e-9)


STARTS = ("ReLU too small", "ReLU He", "tanh Gaussian", "tanh orthogonal")
_START_OF = {1: "ReLU He", 2: "tanh orthogonal", 3: "ReLU too small", 4: "tanh Gaussian"}
_SMALL_WEIGHT_VAR = 1.3


def start_dashboard(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the four starts of set 04; returns its four axes.

    They are networks of thirty layers of width 64, untrained. Raises `ValueError` for another number.
    """
    data.check_choice("number", number, _START_OF)
    start = _START_OF[number]
    width, inputs = 64, 0.3 * data.gaussian_batch(256, 64, seed=5)  # small, where tanh is nearly straight
    weight_var = {"ReLU too small": _SMALL_WEIGHT_VAR, "ReLU He": 2.0}.get(start, 1.0)
    model = networks.DeepMLP(
        30,
        width,
        in_features=width,
        out_features=width,
        activation=start.split()[0].lower(),
        bias=False,
        initialization="orthogonal" if start.endswith("orthogonal") else "gaussian",
        gain=math.sqrt(weight_var),
        seed=1,
        dtype=torch.float64,
    )
    found = signals.measure(model, inputs, inputs, layers=networks.Block, loss_fn=F.mse_loss)
    return plots.dashboard(found, signals.jacobian_singular_values(model, inputs[0]))


@exercise(
    3,
    praise="one panel for the size, one for the activation, one for the law of the weights.",
    hint=(
        "Ask each panel one question. SCALE: does anything fall by the same factor in every layer? "
        "CORRELATION: "
        "which activation makes all inputs alike? SPECTRUM: which weights keep every direction? For the "
        "number, "
        "read the activation variance at both ends, and remember what ReLU leaves of it."
    ),
)
def four_starts(start: Mapping, weight_var: float, seed: int) -> None:
    """A start for each of four dashboards, and the weight_var of the one whose weights are too small."""
    if not isinstance(start, Mapping) or set(start) != set(_START_OF):
        raise Mistake(
            "The starts should be a dictionary with the keys 1, 2, 3 and 4, one for each dashboard, and are "
            f"{_brief(start)}."
        )
    for number, given in start.items():
        if given is None or given is ...:
            raise Mistake(EMPTY)
        if not isinstance(given, str) or given not in STARTS:
            raise Mistake(f"Start {number}: choose one of {', '.join(STARTS)}; {_brief(given)} is none.")
    if len(set(start.values())) < len(STARTS):
        raise Mistake("One start is named twice: the four dashboards differ, and so do their starts.")
    for number, truth in _START_OF.items():
        if start[number] != truth:
            raise Mistake(f"Start {number}: {_why_not(start[number], truth)}")
    found, factor = _number(weight_var, "The weight_var"), _SMALL_WEIGHT_VAR / 2
    if _close(found, _SMALL_WEIGHT_VAR, 0.04):
        return
    mistakes = [
        (
            factor,
            "That is what is left of the variance per layer: ReLU takes a part of it, the weights do not.",
        ),
        (
            math.sqrt(_SMALL_WEIGHT_VAR),
            "That is a standard deviation: weight_var is its square.",
        ),
        (
            math.sqrt(factor),
            "That is the factor of the gradient norm: what does ReLU do to it, and is a norm a variance?",
        ),
        (
            2 * math.sqrt(factor),
            "That takes the line of the gradient NORM for a variance: the norm has only the root of the "
            "factor.",
        ),
        (2 / factor, "Upside down: weights that are too small make the signal fall on its way forward."),
        (
            2 * factor**2,
            "The factor is squared once too often: the line in SCALE is a variance already.",
        ),
        (2.0, "That is He's start, and its variance would stay level."),
        (1.0, "That is Xavier's start, which loses half of the variance in each layer: measure the slope."),
    ]
    for wrong, sentence in mistakes:
        if _close(found, wrong, 0.03):
            raise Mistake(sentence)
    if 0 < found < 1e-2:
        raise Mistake("That is what is left after all the layers: what happens in ONE layer is asked for.")
    raise Mistake(
        f"With a weight_var of {found:.3g} the line of the variance would have another slope: how many "
        "decades does "
        "it fall, and in how many steps?"
    )


def _why_not(given: str, truth: str) -> str:
    """What the dashboard of `truth` shows and that of `given` would not."""
    if truth == "ReLU too small":
        return "in SCALE both lines run straight over decades, each its own way: no critical start does that."
    if given == "ReLU too small":
        return (
            "too small weights lose the same factor in every layer, over many decades: does SCALE show that?"
        )
    if given.split()[0] != truth.split()[0]:
        if truth.startswith("ReLU"):
            return "in CORRELATION all inputs become alike: which activation sends out no negative number?"
        return "its inputs stay as different as they came in, see CORRELATION: would ReLU leave them so?"
    if truth == "tanh orthogonal":
        return "in SPECTRUM no direction is lost: would thirty Gaussian matrices leave it so?"
    return "its scale is nearly kept, but SPECTRUM spans many decades: would thirty rotations do that?"


class _Nameless:
    """An activation that is in no table: NumPy's, smooth, neither odd nor of slope 1 at 0."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.heights, self.steepness = rng.uniform(0.4, 0.9, size=2), rng.uniform(0.7, 1.6, size=2)
        self.shift = rng.uniform(0.35, 0.6)

    def __call__(self, z: ArrayLike) -> np.ndarray:
        first, second = self.heights
        steep, flat = self.steepness
        return first * np.tanh(steep * np.asarray(z) + self.shift) + second * np.arctan(flat * np.asarray(z))

    def __repr__(self) -> str:
        return "activation"


_NORMAL = np.linspace(-9, 9, 1801)
_DENSITY = np.exp(-(_NORMAL**2) / 2) / math.sqrt(2 * math.pi) * (_NORMAL[1] - _NORMAL[0])


def _slope(activation: Callable, z: np.ndarray) -> np.ndarray:
    return (activation(z + 1e-5) - activation(z - 1e-5)) / 2e-5


def _mean_squares(activation: Callable, q: float) -> tuple[float, float]:
    """E[φ(z)²] and E[φ'(z)²] for z ~ N(0, q)."""
    z = math.sqrt(q) * _NORMAL
    return float(_DENSITY @ activation(z) ** 2), float(_DENSITY @ _slope(activation, z) ** 2)


def _edge(activation: Callable, bias_var: float, moments: Callable = _mean_squares) -> tuple[float, float]:
    """q and weight_var at the edge, by bisection over log q; NaN, NaN where there is none.

    weight_var = 1 / E[φ'²] leaves one equation, q = E[φ²] / E[φ'²] + bias_var.
    """

    def excess(log_q: float) -> float:
        forward, backward = moments(activation, math.exp(log_q))
        return math.exp(log_q) - forward / backward - bias_var

    low, high = math.log(1e-6), math.log(1e3)
    if not excess(low) < 0 < excess(high):
        return math.nan, math.nan
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    q = math.exp(low)
    return q, 1 / moments(activation, q)[1]


def _settled(activation: Callable, weight_var: float, bias_var: float) -> float:
    """The variance after 300 layers that start at 1."""
    q = 1.0
    for _ in range(300):
        q = weight_var * _mean_squares(activation, q)[0] + bias_var
    return q


@exercise(
    4,
    praise="an edge for a function without a name, without a derivative, and without a table.",
    hint=(
        "Two conditions, two unknowns. The variance q stays as it is from layer to layer, and the "
        "squared gradient "
        "does. The second one gives weight_var as soon as you know q; put it into the first, and one "
        "equation for q "
        "is left. A slope can be measured by two inputs that are nearly equal."
    ),
)
def critical_variance(critical: Callable, seed: int) -> None:
    """The weight_var at the edge of chaos, to 2 %, for activations that the check brings."""
    rng = np.random.default_rng([46, seed])
    cases = [
        (_Nameless(rng), float(bias_var)) for bias_var in rng.uniform([0.02, 0.1, 0.3], [0.05, 0.2, 0.5])
    ]
    found = np.array([_number(_call(critical, *case), "The critical weight_var") for case in cases])
    if (found <= 0).any():
        raise Mistake("A variance is positive, and yours is not: is that a logarithm?")
    q, right = np.array([_edge(*case) for case in cases]).T
    at_one = np.array([_mean_squares(activation, 1.0) for activation, _ in cases]).T
    at_zero = np.array([float(_slope(activation, np.zeros(1))[0]) for activation, _ in cases])
    bias_var = np.array([given for _, given in cases])

    def about_the_mean(activation: Callable, q: float) -> tuple[float, float]:
        forward, backward = _mean_squares(activation, q)
        return forward - float(_DENSITY @ activation(math.sqrt(q) * _NORMAL)) ** 2, backward

    mistakes = [
        (
            1 / at_one[1],
            "That makes χ 1 where the variance is 1: it does not settle there, ask where it does.",
        ),
        (
            1 / at_zero**2,
            "That is for signals so small that the activation is straight: the biases alone make them "
            "larger.",
        ),
        (
            [_edge(activation, 0.0)[1] for activation, _ in cases],
            "That is the edge without biases: bias_var moves the variance, and the edge with it.",
        ),
        (
            (1 - bias_var) / at_one[0],
            "That keeps the forward variance at 1, as LSUV does: χ, which speaks of the gradient, has no "
            "say in it.",
        ),
        (
            1 / at_one[0],
            "That keeps the forward variance at 1, without biases: χ, which speaks of the gradient, has "
            "no say in it.",
        ),
        (
            1 / np.array([_mean_squares(a, _settled(a, 1.0, b))[1] for a, b in cases]),
            "That takes the variance at which weights of weight_var 1 settle: with YOUR weight_var it is "
            "another one.",
        ),
        (
            [_edge(*case, about_the_mean)[1] for case in cases],
            "The mean is taken off the activations: the next layer sums their squares as they are, mean "
            "included.",
        ),
        (np.sqrt(right), "That is σ_w: weight_var is its square."),
        (1 / right, "Upside down: weight_var makes up for the mean squared slope."),
        (q, "That is the variance of the signal at the edge: one step more, and you have the weights."),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found / right - 1), nan=np.inf, posinf=np.inf)))
    otherwise = f"{found[worst]:.3g} is not at the edge: try your function on tanh, where theory helps."
    if found[worst] < 1e6:
        activation, bias = cases[worst]
        settled = _settled(activation, found[worst], bias)
        backward = found[worst] * _mean_squares(activation, settled)[1]
        otherwise = (
            f"With weight_var {found[worst]:.3g} and bias_var {bias:.2g} the variance settles at "
            f"{settled:.3g}, and "
            f"the squared gradient then has a factor of {backward:.3g} per layer: it should be 1."
        )
    _compare(found, right, mistakes, otherwise, 0.02)


# --- The clinic (lesson 10) --------------------------------------------------------------------------------

DIAGNOSES: dict[str, str] = {
    name: disease.title
    for name, disease in diagnosis.DISEASES.items()
    if name not in ("not_finite", "vanishing", "rank_collapse")
} | {"healthy": "No disease"}

# What a cure changes in the recipe of a network; the same cure may be tried on every patient.
CURES: dict[str, dict] = {
    "nothing": {},
    "ReLU with He's weights": {"activation": "relu", "initialization": "he_normal", "gain": 1.0},
    "critical random weights": {"initialization": "critical", "gain": 1.0},
    "skip connections": {"skip": True, "pre_activation": True, "branch_scale": 0.3},
    "batch normalization": {"normalization": "batch"},
    "biases back to 0": {"bias": 0.0},
    "clip the gradient": {"clip_norm": 1.0},
    "warm-up": {"warmup_steps": 42},
    "norm before each branch": {"norm_placement": "pre"},
    "smaller queries and keys": {"sharpness": 1.0},
    "a shorter sequence": {"length": 8},
    "scale the loss": {"loss_scale": 1e7},
    "widen the narrow layer": {"waist": 0},
    "connect the branch": {"cut": None},
    "eval mode in use": {"use_mode": "eval"},
    "another learning rate": {"rate": None},
}

_MLP = {"kind": "mlp", "depth": 6, "width": 48, "activation": "relu", "initialization": "he_normal"}
_TOKENS = {"kind": "tokens", "depth": 2, "sharpness": 1.0, "norm_placement": "pre", "skip": True}

# number: the owner's words, the disease, the cures that help, the recipe.
_WARD: dict[int, tuple[str, str, tuple[str, ...], dict]] = {
    1: (
        "It has 14 layers and guesses. I think it needs more epochs.",
        "saturation",
        ("ReLU with He's weights",),
        _MLP | {"depth": 14, "activation": "sigmoid", "initialization": "xavier_normal"},
    ),
    2: (
        "The loss stands still. Surely the activation saturates.",
        "small_weights",
        ("critical random weights",),
        _MLP | {"depth": 20, "activation": "tanh", "initialization": "xavier_normal", "gain": 0.35},
    ),
    3: (
        "Lesson 00 told me: a deep network with a flat loss has a vanishing gradient.",
        "bottleneck",
        ("widen the narrow layer",),
        _MLP | {"activation": "tanh", "initialization": "xavier_normal", "waist": 1},
    ),
    4: (
        "It is deep, and it is learning so slowly. Its weights are He's, I checked.",
        "collapsed_correlation",
        ("skip connections",),
        _MLP | {"depth": 70, "width": 128},
    ),
    5: (
        "The loss was enormous at once. The data must be broken.",
        "exploding",
        ("critical random weights",),
        _MLP | {"depth": 12, "gain": 6.0},
    ),
    6: (
        "Every weight is tidy, and nothing explodes. Is the width wrong?",
        "symmetric",
        ("critical random weights", "ReLU with He's weights"),
        _MLP | {"depth": 3, "activation": "tanh", "initialization": "constant"},
    ),
    7: (
        "It worked, until one bad night. Since then it always gives the same answer.",
        "dead_units",
        ("biases back to 0",),
        _MLP | {"bias": -4.0},
    ),
    8: (
        "I normalize every layer, so it cannot be the gradient.",
        "norm_without_skips",
        ("skip connections",),
        _MLP | {"depth": 40, "normalization": "batch"},
    ),
    9: (
        "It trained well. In use, one customer at a time, it is bad. Does it overfit?",
        "forgotten_eval",
        ("eval mode in use",),
        _MLP | {"depth": 3, "normalization": "batch", "use_mode": "train", "trained": True},
    ),
    10: (
        "It cannot remember what it saw first. Does it need more units?",
        "long_sequence",
        ("a shorter sequence",),
        {"kind": "recurrent", "gain": 0.8, "length": 60},
    ),
    11: (
        "The loss does not move at all, so the gradient has vanished.",
        "learning_rate",
        ("another learning rate",),
        _MLP | {"depth": 3, "rate": 1e-6},
    ),
    12: (
        "Half precision made it fast, and it stopped learning. Is it too deep?",
        "underflow",
        ("scale the loss",),
        _MLP | {"depth": 4, "share": 1e-7, "format": "float16"},
    ),
    13: (
        "It learns a little. I suspect the learning rate of the first layers.",
        "no_gradient",
        ("connect the branch",),
        _MLP | {"cut": 5, "width": 16},
    ),
    14: (
        "It attends to things, and loses them again.",
        "saturated_attention",
        ("smaller queries and keys",),
        _TOKENS | {"sharpness": 20.0},
    ),
    15: (
        "I built it exactly as in the paper of 2017, only the learning rate is mine.",
        "post_norm",
        ("norm before each branch",),
        _TOKENS | {"depth": 8, "norm_placement": "post", "rate": 0.1},
    ),
    16: (
        "My colleague says that it is too deep to train.",
        "healthy",
        ("nothing",),
        _MLP | {"depth": 12},
    ),
}

_RATES = (0.001, 0.01, 0.1)


class _Through(nn.Module):
    """Hands on its input; backward, nothing at all (`cut`), or what the number format keeps."""

    def __init__(self, cut: bool = False, rounded: bool = False) -> None:
        super().__init__()
        self.cut, self.rounded = cut, rounded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cut:
            return x.detach()
        if self.rounded and x.requires_grad:
            x.register_hook(lambda gradient: gradient.half().to(gradient.dtype))
        return x


def _clinic_model(recipe: Mapping, seed: int) -> nn.Module:
    """The network of a recipe, in float64."""
    r = dict(recipe)
    if r["kind"] == "recurrent":
        return networks.RecurrentNetwork("rnn", 24, gain=r["gain"], seed=seed, dtype=torch.float64)
    if r["kind"] == "tokens":
        placement = r["norm_placement"]
        model = networks.Transformer(
            r["depth"], 32, norm_placement=placement, skip=r["skip"], seed=seed, dtype=torch.float64
        )
        with torch.no_grad():
            for block in model.blocks:
                block.attention.query.weight *= r["sharpness"]
                block.attention.key.weight *= r["sharpness"]
        return nn.Sequential(nn.Unflatten(1, (8, 8)), model)
    start = r["initialization"]
    if start == "critical":
        start = "he_normal" if r["activation"] == "relu" else "xavier_normal"
    mlp = networks.DeepMLP(
        r["depth"],
        r["width"],
        activation=r["activation"],
        initialization=start,
        gain=r.get("gain", 1.0),
        normalization=r.get("normalization"),
        skip=r.get("skip", False),
        pre_activation=r.get("pre_activation", False),
        branch_scale=r.get("branch_scale", 1.0),
        seed=seed,
        dtype=torch.float64,
    )
    for block in mlp.blocks:
        if r.get("bias"):
            nn.init.constant_(block.linear.bias, r["bias"])
    if start == "constant":  # one number for each class: with one for all, only rounding errors come back
        rows = torch.randn(10, 1, generator=data.seeded_generator(seed), dtype=torch.float64)
        with torch.no_grad():
            mlp.readout.weight.copy_(rows.expand(10, r["width"]) / r["width"] ** 0.5)
    layers = list(mlp.blocks)
    if r.get("waist"):
        narrow = networks.DeepMLP(
            2,
            r["waist"],
            in_features=r["width"],
            out_features=r["width"],
            activation="tanh",
            seed=seed,
            dtype=torch.float64,
        )
        layers[3:4] = [narrow.blocks[0], narrow.readout]
    for place in range(len(layers), 0, -1):
        if r.get("format") == "float16":
            layers.insert(place, _Through(rounded=True))
        if r.get("cut") == place:
            layers.insert(place, _Through(cut=True))
    return nn.Sequential(*layers, mlp.readout)


def _clinic_data(recipe: Mapping) -> data.Split:
    if recipe["kind"] == "recurrent":
        return data.delayed_recall(
            recipe["length"], noise=0.1, n_train=512, n_validation=256, dtype=torch.float64
        )
    return data.digits(dtype=torch.float64)


class Patient:
    """One network of the clinic: measure it, `name` its disease, `treat` it.

    `model`, `inputs`, `targets`, `loss_fn` are what `utils.signals.measure` takes; `learning_rate` is the
    owner's, or None; `layers` are the modules that count as layers; `complaint` is what the owner says.
    """

    def __init__(self, number: int, seed: int = 0) -> None:
        self.number, self.seed = number, seed
        self.complaint, self._disease, self._cures, self._recipe = _WARD[number]
        self.data = _clinic_data(self._recipe)
        self.model = _clinic_model(self._recipe, seed)
        if self._recipe.get("trained"):
            training.train(self.model, self.data, learning_rate=0.03, epochs=3, seed=seed, progress=False)
        self.in_use = bool(self._recipe.get("trained"))
        self.inputs, self.targets = self.data.train_inputs[:64], self.data.train_targets[:64]
        self.loss_fn = _clinic_loss(self._recipe)
        self.learning_rate = self._recipe.get("rate")
        self.number_format = self._recipe.get("format")
        kinds = (networks.Block, networks.TransformerBlock, networks.RNNCell)
        self.layers = [kind for kind in kinds if any(isinstance(m, kind) for m in self.model.modules())]

    def measure(self) -> signals.Signals:
        """What `utils.signals.measure` says of its layers."""
        rate = self.learning_rate
        return signals.measure(
            self.model, self.inputs, self.targets, self.loss_fn, layers=self.layers, learning_rate=rate
        )

    def chart(self) -> Sequence[Axes]:
        """Draw the four panels of the course's dashboard."""
        model = copy.deepcopy(self.model)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.momentum = 1.0  # the statistics of this batch, in eval mode: one example has none
        with torch.no_grad():
            model.train()(self.inputs)
        values = signals.jacobian_singular_values(model.eval(), self.inputs[:1])[0]
        values = np.where(values > 1e-12 * values.max(), values, 0.0)  # the rest is rounding
        axes = plots.dashboard(self.measure(), values)
        axes[1].set_xlim(axes[0].get_xlim())  # also where only one layer has a cosine
        return axes

    def name(self, disease: str | None) -> None:
        """Say whether that is the disease; if not, which measured figure speaks against it."""
        print(textwrap.fill(self._judgement(disease), WIDTH))

    def treat(self, cure: str | None) -> None:
        """Train it untreated and treated, each at its best rate of one grid, and say what happened."""
        if cure is None:
            print("No cure yet: write one of checks.CURES between the brackets, and run the cell again.")
            return
        data.check_choice("cure", cure, CURES)
        before, after = self.outcome("nothing"), self.outcome(cure)
        better = after > max(0.7, before + 0.1)
        verdict = (
            "It trains: that is a cure."
            if better
            else "It trained before, and it trains now."
            if before > 0.7
            else "That was worth a try, and it is not a cure: look at the chart again."
        )
        text = f"Patient {self.number}: right on {before:.0%} of the validation examples untreated"
        text += f", and on {after:.0%} after this: {cure}. {verdict}"
        print(textwrap.fill(text, WIDTH))

    def outcome(self, cure: str) -> float:
        """Share of validation examples that are right after 6 epochs with momentum, at the grid's best rate.

        Best by the training loss of the last epoch. Or at the rate on which the owner insists.
        """
        recipe = self._recipe | CURES[data.check_choice("cure", cure, CURES)]
        return _clinic_outcome(tuple(sorted(recipe.items(), key=lambda item: item[0])), self.seed)

    def _judgement(self, disease: str | None) -> str:
        if disease is None or disease is ...:
            return "No name yet: take your time, look at the chart, and write one of checks.DIAGNOSES."
        data.check_choice("disease", disease, DIAGNOSES)
        if disease == self._disease:
            return f"Right: patient {self.number}: {DIAGNOSES[disease]}. Now prescribe."
        return f"Look again. {self._against(disease)}"

    def diagnosis(self) -> diagnosis.Diagnosis:
        """What `utils.diagnosis.diagnose` says; look here last."""
        return diagnosis.diagnose(
            self.model,
            self.inputs,
            self.targets,
            self.loss_fn,
            learning_rate=self.learning_rate,
            number_format=self.number_format,
            evaluation=self.in_use,
        )

    def _against(self, disease: str) -> str:
        """The measured figure that does not fit to this name."""
        found = self.diagnosis()
        if disease == "healthy":
            off = sum(not figure.is_healthy for figure in found.figures)
            return f"Of {len(found.figures)} figures that were measured here, {off} lie outside their range."
        figure = next((f for f in found.figures if f.name.startswith(_FIGURES[disease])), None)
        if disease in ("saturation", "small_weights") and figure is not None and not figure.is_healthy:
            linear = [m for m in self.model.modules() if isinstance(m, nn.Linear) and m.in_features > 1]
            if disease == "small_weights" and figure.value < 1:
                scale = float(np.median([m.weight.std().item() * m.in_features**0.5 for m in linear]))
                return f"Here sqrt(Var(W) fan_in) is {scale:.2g} in the median layer: that is not small."
            bent = next((f for f in found.figures if f.name.startswith("root mean square")), None)
            if disease == "saturation" and figure.value < 1:
                value = 1.0 if bent is None else bent.value
                if bent is None and self._recipe.get("activation") == "tanh":
                    h = signals.measure(
                        self.model, self.inputs, self.targets, self.loss_fn, layers=networks.Block
                    )
                    value = 1 - float(np.median(h.series("activation_variance")))
                return f"The mean slope of its activations is {value:.2g}: they pass the gradient on."
        if disease in ("exploding", "norm_without_skips") and figure is not None and figure.value > 1e3:
            norms = sum(isinstance(m, nn.BatchNorm1d) for m in self.model.modules())
            if disease == "exploding":
                growth = self.measure().series("activation_variance")
                return (
                    f"Forward, the variance of the last layer is {growth[-1] / growth[0]:.2g} times that of "
                    "the first: weights that are too large would show there."
                )
            return f"The gradient grows, but {norms} layers of batch normalization were found."
        if figure is None:
            return f"The clinic looked for {_NEEDS[disease]}, and found 0 here."
        if figure.is_healthy or (disease in ("exploding", "norm_without_skips")) == (figure.value < 1):
            return f"Then this would be out of its range: {figure.name}; it is {figure.value:.2g}."
        return (
            f"That figure is off, it is true ({figure.value:.2g}), but something else that was measured "
            "brings it along: ask what comes first."
        )


_GRADIENT = "gradient in the first layer over"
_FIGURES = {
    "no_gradient": "share of the trainable parameters",
    "symmetric": "share of units with a twin",
    "saturation": _GRADIENT,
    "small_weights": _GRADIENT,
    "long_sequence": "gradient at the first of",
    "exploding": _GRADIENT,
    "norm_without_skips": _GRADIENT,
    "dead_units": "share of ReLU units",
    "collapsed_correlation": "cosine between different",
    "saturated_attention": "entropy of the attention",
    "post_norm": "weight gradient in the last third",
    "bottleneck": "units in the narrowest",
    "underflow": "share of the gradient's entries",
    "forgotten_eval": "relative change of the outputs",
    "learning_rate": "update ratio",
}
_NEEDS = {
    "no_gradient": "parameters without a gradient",
    "symmetric": "units that are copies of each other",
    "saturation": "layers of a falling gradient",
    "small_weights": "layers of a falling gradient",
    "long_sequence": "layers that are called at each of many time steps",
    "exploding": "layers of a growing gradient",
    "norm_without_skips": "layers of a growing gradient",
    "dead_units": "ReLU units that are silent on all examples",
    "collapsed_correlation": "layers, of eight or more, in which all examples become alike",
    "saturated_attention": "layers of attention",
    "post_norm": "norms after the sum in five or more places",
    "bottleneck": "layers that are narrower than the outputs and cannot be passed by",
    "underflow": "computations in half precision",
    "forgotten_eval": "batch normalization or dropout in the wrong mode",
    "learning_rate": "learning rates on which the owner insists",
}


def _clinic_loss(recipe: Mapping) -> Callable:
    share = recipe.get("share", 1.0) * recipe.get("loss_scale", 1.0)
    return lambda outputs, targets: share * F.cross_entropy(outputs, targets)


@functools.lru_cache(maxsize=256)
def _clinic_outcome(recipe: tuple, seed: int) -> float:
    recipe = dict(recipe)
    split = _clinic_data(recipe)
    share = recipe.get("share", 1.0)
    # A scaled loss is divided out of the step again, as GradScaler does.
    scale = share * recipe.get("loss_scale", 1.0)
    rates = [recipe["rate"]] if recipe.get("rate") else [rate / scale for rate in _RATES]
    best = (math.inf, 0.0)
    for rate in rates:
        model = _clinic_model(recipe, seed)
        history = training.train(
            model,
            split,
            loss_fn=_clinic_loss(recipe),
            optimizer="momentum",
            learning_rate=rate,
            epochs=6,
            seed=seed,
            progress=False,
            clip_norm=recipe.get("clip_norm"),
            warmup_steps=recipe.get("warmup_steps", 0),
        )
        if history.stopped:
            continue
        loss = float(history.train_loss[-history.steps_per_epoch :].mean())
        right = float(history.validation_accuracy[-1])
        if recipe.get("use_mode") == "train":
            right = _one_customer_at_a_time(model, split)
        best = min(best, (loss, right))
    return best[1]


@torch.no_grad()
def _one_customer_at_a_time(model: nn.Module, split: data.Split) -> float:
    """Accuracy in train mode, on batches of 8 of one class: who else is in the batch decides."""
    model = copy.deepcopy(model).train()
    order = split.validation_targets.argsort(stable=True)
    chunks = [chunk for chunk in order.split(8) if len(chunk) > 1]
    right = [(model(split.validation_inputs[c]).argmax(1) == split.validation_targets[c]) for c in chunks]
    return torch.cat(right).double().mean().item()


def clinic(number: int, seed: int = 0) -> Patient:
    """Patient 1 to 16 of lesson 10. The same number and seed give the same network."""
    if data.check_integer("number", number, at_least=1) > len(_WARD):
        raise ValueError(f"number must be at most {len(_WARD)}, got {number}.")
    return Patient(number, data.check_seed(seed))
