"""The checks of the exercises: each tries an answer, and says in one sentence which mistake it looks like.

`checks.NAME(answer)` prints one sentence when the answer holds, and raises `Mistake` when it does not;
`checks.NAME.hint()` prints a hint. Neither gives the answer. No check needs nbgrader: a learner runs the cell
and reads. In a graded notebook the same call is the test, for a cell that raises earns no points.
"""

import contextlib
import copy
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

from utils import data, networks, plots, signals, theory

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
