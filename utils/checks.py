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
