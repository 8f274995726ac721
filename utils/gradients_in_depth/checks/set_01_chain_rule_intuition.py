"""The checks of set 01, Chain rule intuition."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals, theory
from gradients_in_depth.checks.common import (
    Case,
    Mistake,
    Trial,
    another_slope,
    as_number,
    check_choices,
    exercise,
    furthest,
    number,
    whole_number,
)

# --- One weight, many nodes --------------------------------------------------------------------------------


def _chain(rng: np.random.Generator, depth: int) -> Case:
    """Weight, x, target and depth."""
    return *(float(value) for value in rng.uniform(0.4, 1.6, 3) * rng.choice([-1, 1], 3)), depth


def _contributions(weight: float, x: float, target: float, depth: int) -> np.ndarray:
    """What each of the `depth` uses of one weight adds to ∂loss/∂weight, the first node first: (depth,)."""
    uses = [torch.tensor(weight, dtype=torch.float64, requires_grad=True) for _ in range(depth)]
    h = torch.tensor(x, dtype=torch.float64)
    for use in uses:
        h = torch.tanh(use * h)
    return np.array([float(part) for part in torch.autograd.grad((h - target) ** 2 / 2, uses)])


def _reports(collect: Callable[[np.ndarray], float]) -> Callable[..., float]:
    """What somebody gets who makes something else of the contributions than their sum."""
    return lambda *chain: collect(_contributions(*chain))


def _slope(z: float) -> float:
    return 1 - math.tanh(z) ** 2


_ONE_NODE = {
    "The gradient points the wrong way: is the derivative of (h - target)² / 2 with respect to h turned "
    "around?": _reports(lambda parts: -parts.sum()),
    "The slope of tanh is missing: what does a node do to the message before the weight hears it?": (
        lambda weight, x, target, _: (math.tanh(weight * x) - target) * x
    ),
    "The slope of tanh is 1 - z² here: is it the node's output that belongs there, or its input?": (
        lambda weight, x, target, _: (math.tanh(weight * x) - target) * (1 - (weight * x) ** 2) * x
    ),
    "One index too far: each weight listens to the message times what came INTO its node, not out of it.": (
        lambda weight, x, target, _: (h := math.tanh(weight * x)) * (h - target) * _slope(weight * x)
    ),
    "The message never starts: where is the derivative of the loss itself?": (
        lambda weight, x, target, _: _slope(weight * x) * x
    ),
}
_MANY_NODES = {
    "Only the last node reports to the weight: it is used at the other nodes as well.": _reports(
        lambda parts: parts[-1]
    ),
    "Only the first node reports to the weight: it is used at the other nodes as well.": _reports(
        lambda parts: parts[0]
    ),
    "The reports of the nodes are averaged: does a weight that is used twice count half as much?": _reports(
        np.mean
    ),
    "The first node's report is missing: one step of the way back is left out.": _reports(
        lambda parts: parts[1:].sum()
    ),
    "The last node's report is missing: one step of the way back is left out.": _reports(
        lambda parts: parts[:-1].sum()
    ),
    "The reports of the nodes are multiplied: a change of the weight changes the loss through each node, "
    "and small changes add.": _reports(np.prod),
    "The gradient points the wrong way: is the derivative of (h - target)² / 2 turned around?": _reports(
        lambda parts: -parts.sum()
    ),
}


def _not_yet(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    [(weight, x, target, depth)] = cases
    inputs = f"weight {weight:.2f}, x {x:.2f}, target {target:.2f}, depth {depth}"
    if depth == 1:
        return (
            f"With one node only ({inputs}) the gradient is not right yet: take the three rules one by one."
        )
    return (
        f"One node is right, and {depth} are not ({inputs}): follow the message from node to node, "
        "times the weight and the slope at each."
    )


def _chain_trial(depths: Sequence[int], mistakes: Mapping[str, Callable[..., float]]) -> Trial:
    return Trial(
        cases=lambda rng: [_chain(rng, depth) for depth in depths],
        read=number("The gradient"),
        right=_reports(np.sum),
        mistakes=mistakes,
        otherwise=_not_yet,
        one_by_one=True,
    )


@exercise(
    2,
    praise="the courier reports to the same weight at every node, and the reports add up.",
    hint=(
        "Pretend for a moment that each node has a weight of its own, w1, w2, w3, and work out "
        "the three gradients. A small change of the shared weight changes all three at once: "
        "what does that do to the loss?"
    ),
    stream=1,
    # With one node nothing is shared yet: what fails there is something else.
    trials=[_chain_trial((1, 1), _ONE_NODE), _chain_trial((3, 5), _MANY_NODES)],
)
def shared_weight(weight_gradient: Callable, seed: int) -> None:
    """∂loss/∂weight of a chain h ← tanh(weight · h) that uses one weight at every node."""


# --- How many layers does a scale buy? ---------------------------------------------------------------------


def _first_zero(format_name: str, scale: float = 2.0**16) -> int:
    exact = scale * torch.tensor(0.25, dtype=torch.float64) ** torch.arange(1, 120)
    return int((exact.to(theory.FORMATS[format_name]) == 0).nonzero()[0]) + 1


_UNSCALED = _first_zero("float16", scale=1.0)
_LAYERS = Trial(
    read=whole_number("The number of layers"),
    right=_first_zero("float16"),
    mistakes={
        "So many it takes without any scaling: what did the 2¹⁶ do for you?": _UNSCALED,
        "Within one layer of it: write down the powers of two around the smallest float16, and see which of "
        "them rounds to 0.": (_first_zero("float16") - 1, _first_zero("float16") + 1),
        "As if each layer cost one power of two: what is 0.25 as a power of two?": _UNSCALED + 16,
        "That is where the smallest NORMAL number ends: below it are the subnormal ones.": 16,
        "So many layers it takes in bfloat16: it has another smallest number.": _first_zero("bfloat16"),
        "So many layers it takes in float32: it has another smallest number.": _first_zero("float32"),
        "The scale works against you here: multiplying by 2¹⁶ should buy layers, not cost them.": (
            _UNSCALED - 8
        ),
    },
    otherwise=lambda _, results, right: (
        f"{results[0]:.0f} is not it: count the powers of two from 2¹⁶ down to where 0 is."
    ),
    tolerance=1e-9,
)


@exercise(
    2,
    praise="a power of two in front of the loss buys layers, at two powers of two apiece.",
    hint=(
        "Write everything as a power of two: the scale, the factor of one layer, the smallest "
        "float16, and half of it."
    ),
    trials=[_LAYERS],
)
def scaled_underflow(layers: float, seed: int) -> None:
    """The first n at which 2¹⁶ · 0.25ⁿ, rounded once to float16, is exactly 0."""


# --- A growth rate that survives 600 matrices --------------------------------------------------------------


def _long_and_short_chains(rng: np.random.Generator) -> list[Case]:
    """Matrices (L, n, n) and a message (n,)."""
    short = [
        (std * rng.normal(size=(count, width, width)), rng.normal(size=width) * rng.uniform(2, 5))
        for count, width, std in ((7, 3, 1.0), (6, 4, 0.3), (1, 3, 1.0))
    ]
    return short + [(std * rng.normal(size=(600, 3, 3)), rng.normal(size=3)) for std in (0.02, 50.0)]


def _read_growth(result: object, matrices: np.ndarray, message: np.ndarray) -> float:
    growth = as_number(result, "The growth")
    if len(matrices) == 600 and not math.isfinite(growth):
        what = "vanishes" if np.abs(matrices).mean() < 1 else "explodes"
        raise Mistake(
            f"After 600 matrices the message {what} beyond float64, and the growth comes out as {growth}: "
            "the logarithm has to be taken before the product leaves the format."
        )
    return growth


def _stretches(matrices: np.ndarray, message: np.ndarray) -> np.ndarray:
    """By how much each matrix stretches the message that it gets: (L,)."""
    lengths, direction = [], message / np.linalg.norm(message)
    for matrix in matrices:
        direction = matrix @ direction
        lengths.append(np.linalg.norm(direction))
        direction = direction / lengths[-1]
    return np.array(lengths)


def _growth(matrices: np.ndarray, message: np.ndarray) -> float:
    return np.log(_stretches(matrices, message)).mean()


_GROWTH = Trial(
    cases=_long_and_short_chains,
    one_by_one=True,
    read=_read_growth,
    right=_growth,
    mistakes={
        "That is the logarithm to base 10: growth rates are in natural logarithms here.": (
            lambda W, v: _growth(W, v) / math.log(10)
        ),
        "That is the growth of the whole chain: it should be per matrix.": (
            lambda W, v: _growth(W, v) * len(W)
        ),
        "One matrix is not counted: the sum is divided by L - 1.": (
            lambda W, v: _growth(W, v) * len(W) / max(len(W) - 1, 1)
        ),
        "That is the factor per matrix itself: its logarithm is asked for.": (
            lambda W, v: math.exp(_growth(W, v))
        ),
        "That is how long the message became, not how much longer: it did not begin with length 1.": (
            lambda W, v: _growth(W, v) + math.log(np.linalg.norm(v)) / len(W)
        ),
        "That is the logarithm of the AVERAGE stretch: the typical one has the average outside of the "
        "logarithm.": lambda W, v: math.log(_stretches(W, v).mean()),
        "That is half of the logarithm of the mean SQUARED stretch: it is above what a typical message "
        "sees.": lambda W, v: math.log((_stretches(W, v) ** 2).mean()) / 2,
        "The matrices come in the wrong order: the message passes matrices[0] first.": (
            lambda W, v: _growth(W[::-1], v)
        ),
        "The matrices act from the wrong side: one of them takes a message v to W v, not to v W.": (
            lambda W, v: _growth(W.transpose(0, 2, 1), v)
        ),
        "That takes the largest singular value of each matrix: no message is aligned with all of them.": (
            lambda W, v: np.log(np.linalg.norm(W, 2, axis=(1, 2))).mean()
        ),
        "Each matrix is given the original message: the second one should get what the first one made of "
        "it.": lambda W, v: np.log(np.linalg.norm(W @ v, axis=1) / np.linalg.norm(v)).mean(),
        "That is what theory says for Gaussian matrices with s = 1: here it is to be measured on the "
        "matrices given.": lambda W, v: theory.lyapunov_exponents(len(v), 1.0)[0],
    },
    otherwise=lambda cases, results, right: (
        f"For {len(cases[0][0])} matrices of width {len(cases[0][1])} the growth per matrix is not "
        f"{results[0]:.3g}: try one matrix and a message of length 1 by hand."
    ),
)


@exercise(
    3,
    praise="logarithms of stretches add where products would leave every number format.",
    hint=(
        "Never form the product. Send the message through one matrix, write down the logarithm "
        "of how much longer it became, and give it length 1 again before the next."
    ),
    stream=3,
    trials=[_GROWTH],
)
def growth_rate(growth: Callable, seed: int) -> None:
    """Growth per matrix, in nats, of the length of a message that passes matrices (L, n, n) in order."""


# --- Three patients ----------------------------------------------------------------------------------------

DISEASES = ("vanishing gradient", "collapsed spectrum", "number format")
_DISEASE_OF = {1: "number format", 2: "vanishing gradient", 3: "collapsed spectrum"}
_SHRINKING = 0.6


def patient(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the three patients of set 01; returns its four axes.

    They are linear networks of twenty layers of width 24. Raises `ValueError` for another number.
    """
    arguments.check_choice("number", number, _DISEASE_OF)
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
    linears = [module for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for layer, linear in enumerate(linears):
            if disease == "collapsed spectrum":
                gaussian = data.gaussian_batch(width, width, seed=200 + layer)
                linear.weight.copy_(theory.critical_weight_std(width) * gaussian)
            elif disease == "vanishing gradient":
                linear.weight.mul_(_SHRINKING)
    scale = 1e-6 if disease == "number format" else 1.0
    record = signals.measure(
        model,
        inputs,
        inputs,
        layers=networks.Block,
        loss_fn=lambda outputs, targets: scale * F.mse_loss(outputs, targets),
    )
    return plots.dashboard(record, signals.jacobian_singular_values(model, inputs[0]))


_NOT_ILL = {  # what speaks against the first disease in a patient who has the second
    ("vanishing gradient", "number format"): (
        "the bar in RANGE is full, but what does SCALE lose between layer 20 and layer 1?"
    ),
    ("collapsed spectrum", "number format"): (
        "the bar in RANGE is full, and SPECTRUM is as narrow as can be: does anything get lost on the way?"
    ),
    ("number format", "vanishing gradient"): (
        "RANGE shows a bar, but in SCALE the gradient falls from layer to layer, and other units would not "
        "change a slope."
    ),
    ("collapsed spectrum", "vanishing gradient"): (
        "all singular values are small, and all are alike: is that a collapse?"
    ),
    ("vanishing gradient", "collapsed spectrum"): (
        "in SCALE its gradient is level from end to end: look at another panel."
    ),
    ("number format", "collapsed spectrum"): (
        "nothing in it is too small for float32, and one panel spans sixteen decades: which?"
    ),
}


_FACTOR = Trial(
    part=1,
    read=number("The factor per layer"),
    right=_SHRINKING,
    mistakes={
        "That is the factor on the SQUARED gradient: which of the two lines in SCALE did you read?": (
            _SHRINKING**2
        ),
        "That is per layer going forward, towards the loss: the courier goes back.": 1 / _SHRINKING,
        "Count the steps: from layer 20 back to layer 1 there are not twenty.": _SHRINKING ** (19 / 20),
        "Count the steps: from layer 20 back to layer 1 there are more than that.": _SHRINKING ** (19 / 18),
        "That is a logarithm: the factor itself is asked for.": math.log10(_SHRINKING),
    },
    otherwise=another_slope(1e-2),
    tolerance=0.02,
    mistake_tolerance=lambda wrong: 0.005 if wrong > 0.5 else 0.05,
)


@exercise(
    3,
    praise="three gradients, three charts, and only one of them lost anything on its way.",
    hint=(
        "For each patient ask two things. Is the gradient in layer 1 smaller than in layer 20? "
        "Are the singular values alike? A bar in RANGE is what a disease does to a format, not "
        "yet which disease it is. For the factor, read the gradient at both ends, and count "
        "the steps between them."
    ),
    trials=[_FACTOR],
)
def patients(diagnosis: Mapping, factor: float, seed: int) -> None:
    """A disease for each of three dashboards, and the factor per layer of the one that vanishes."""
    expected = "The diagnosis should be a dictionary with the keys 1, 2 and 3, one for each patient, and is"
    check_choices(diagnosis, _DISEASE_OF, DISEASES, expected, "Patient")
    if len(set(diagnosis.values())) == 1:
        raise Mistake("Three times the same diagnosis: the three dashboards differ, and so do the diseases.")
    for patient_number, truth in _DISEASE_OF.items():
        disease = diagnosis[patient_number]
        if disease != truth:
            raise Mistake(f"Patient {patient_number}: {_NOT_ILL[disease, truth]}")


# --- The critical weight of a narrow, leaky network --------------------------------------------------------


def _laplace(width: int, slope: float, t: np.ndarray) -> np.ndarray:
    """E[exp(-t ‖φ(g)‖²)] for g ~ N(0, 1) of this width, φ leaky ReLU."""
    return ((1 + 2 * t) ** -0.5 / 2 + (1 + 2 * slope**2 * t) ** -0.5 / 2) ** width


def _log_length(width: int, slope: float) -> float:
    """E[log ‖φ(g)‖], by Frullani's integral over u = log t."""
    u = np.linspace(-45, 90, 20_001)
    t = np.exp(u)
    return float(np.trapezoid(np.exp(-t) - _laplace(width, slope, t), u)) / 2


def _length(width: int, slope: float) -> float:
    """E[‖φ(g)‖], by the integral of (1 - E[exp(-t ‖φ(g)‖²)]) t^(-3/2) over u = log t."""
    u = np.linspace(-60, 60, 20_001)
    t = np.exp(u)
    return float(np.trapezoid((1 - _laplace(width, slope, t)) * t**-0.5, u)) / (2 * math.sqrt(math.pi))


def _narrow_and_leaky(rng: np.random.Generator) -> list[Case]:
    """Width and slope; the last one is linear."""
    width = np.concatenate([rng.integers(3, 7, size=2), rng.integers(8, 13, size=1), [3]])
    slope = np.concatenate([rng.uniform(0.1, 0.35, size=2), [0.3, 1.0]])
    return list(zip(width.tolist(), slope.tolist(), strict=True))


def _does_not_keep_it(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results / right, 1)
    width, slope = cases[worst]
    return (
        f"With s = {results[worst]:.3g}, width {width} and slope {slope:.2f} the typical signal "
        "does not keep its length: draw one layer ten thousand times and look at the mean logarithm."
    )


_CRITICAL = Trial(
    cases=_narrow_and_leaky,
    read=number("The critical standard deviation"),
    impossible={
        "A standard deviation is positive, and yours is not: is that its logarithm?": (
            lambda results: (results <= 0).any()
        )
    },
    right=lambda width, slope: math.exp(-_log_length(width, slope)),
    mistakes={
        "That conserves the mean SQUARED length: the typical length still shrinks.": (
            lambda width, slope: math.sqrt(2 / (width * (1 + slope**2)))
        ),
        "That is the rule for infinitely wide linear layers: it knows no slope, and no few units.": (
            lambda width, slope: 1 / math.sqrt(width)
        ),
        "That is He's rule for ReLU in wide layers: a leak and a finite width change it.": (
            lambda width, slope: math.sqrt(2 / width)
        ),
        "The activation is missing: so it would be in a linear network.": (
            lambda width, slope: theory.critical_weight_std(width)
        ),
        "As if all units of a layer were on the same side of 0 at once: each one tosses its own coin.": (
            lambda width, slope: theory.critical_weight_std(width) / math.sqrt(slope)
        ),
        "Upside down: that is what a layer with s = 1 does to a signal, and s has to undo it.": (
            lambda width, slope: math.exp(_log_length(width, slope))
        ),
        "That is a variance: the standard deviation is asked for.": (
            lambda width, slope: math.exp(-2 * _log_length(width, slope))
        ),
        "That conserves the AVERAGE length: the typical one has the average outside of the logarithm.": (
            lambda width, slope: 1 / _length(width, slope)
        ),
        "That is what the average slope gives: a coin for each unit is something else.": (
            lambda width, slope: theory.critical_weight_std(width) * 2 / (1 + slope)
        ),
    },
    otherwise=_does_not_keep_it,
    tolerance=0.01,
)


@exercise(
    4,
    praise="the typical signal keeps its length, and nobody had to go to infinite width for it.",
    hint=(
        "What does one layer do to the LENGTH of a signal? For Gaussian weights that length is "
        "random, and its law does not depend on the direction of the signal. Find the mean of "
        "its logarithm at s = 1, by a formula or by many draws; then ask what s does to a "
        "logarithm."
    ),
    stream=6,
    trials=[_CRITICAL],
)
def critical_std(critical: Callable, seed: int) -> None:
    """The weight std at which leaky ReLU layers of finite width keep the typical length, to 1 %."""
