"""The checks of set 01, Chain rule intuition."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals, theory
from gradients_in_depth.checks.common import (
    Mistake,
    as_number,
    as_whole_number,
    call,
    check_choices,
    close,
    compare,
    exercise,
)


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
        found = as_number(call(weight_gradient, weight, x, target, depth), "The gradient")
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
        compare(found, parts.sum(), one_node if depth == 1 else shared, otherwise, 1e-6)


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
    found = as_whole_number(layers, "The number of layers")
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
    compare(
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
        found = as_number(call(growth, matrices, message), "The growth")
        _compare_growth(found, matrices, message)
    for std, what in ((0.02, "vanishes"), (50.0, "explodes")):
        matrices, message = std * rng.normal(size=(600, 3, 3)), rng.normal(size=3)
        found = as_number(call(growth, matrices, message), "The growth")
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
    compare(found, right, mistakes, otherwise, 1e-6)


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
    wanted = "The diagnosis should be a dictionary with the keys 1, 2 and 3, one for each patient, and is"
    check_choices(diagnosis, _DISEASE_OF, DISEASES, wanted, "Patient")
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
    found = as_number(factor, "The factor per layer")
    whole = _SHRINKING**19
    if close(found, _SHRINKING, 0.02):
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
        if close(found, wrong, 0.005 if wrong > 0.5 else 0.05):
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
    found = np.array([as_number(call(critical, *case), "The critical standard deviation") for case in cases])
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
    compare(found, right, mistakes, otherwise, 0.01)


def _mean_length(width: int, slope: float) -> float:
    """E[‖φ(g)‖], by the integral of (1 - E[exp(-t ‖φ(g)‖²)]) t^(-3/2) over u = log t."""
    u = np.linspace(-60, 60, 20_001)
    t = np.exp(u)
    laplace = ((1 + 2 * t) ** -0.5 / 2 + (1 + 2 * slope**2 * t) ** -0.5 / 2) ** width
    return float(np.trapezoid((1 - laplace) * t**-0.5, u)) / (2 * math.sqrt(math.pi))
