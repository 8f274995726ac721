"""The checks of set 02, Sigmoid saturation."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.optimize import brentq
from torch import nn

from gradients_in_depth import arguments, data, networks, plots, signals, theory
from gradients_in_depth.checks.common import (
    Case,
    Mistake,
    Trial,
    another_slope,
    check_choices,
    exercise,
    furthest,
    number,
)

# --- A count that is too high ------------------------------------------------------------------------------


def _outputs(rng: np.random.Generator) -> list[Case]:
    """Outputs (images, units) and the name of the activation that made them."""
    return [
        (1 / (1 + np.exp(-z)) if name == "sigmoid" else np.tanh(z), name)
        for name, std in (("sigmoid", 3.0), ("tanh", 1.5), ("sigmoid", 4.5), ("tanh", 2.5))
        for z in [rng.normal(0, std, size=(60, 50))]
    ]


def _share(rule: Callable[[np.ndarray, bool], np.ndarray]) -> Callable[[np.ndarray, str], float]:
    """The share of outputs that a rule takes for saturated, which knows whether they are tanh's."""
    return lambda a, name: rule(a, name == "tanh").mean()


def _relative_slope(a: np.ndarray, tanh: bool) -> np.ndarray:
    return 1 - a**2 if tanh else 4 * a * (1 - a)


def _saturated(a: np.ndarray, tanh: bool) -> np.ndarray:
    return _relative_slope(a, tanh) < 0.05


_saturated_share = _share(_saturated)
_SATURATION = Trial(
    cases=_outputs,
    read=number("The share of saturated units"),
    right=_saturated_share,
    mistakes={
        "That is the colleague's count: 5 % of the OUTPUT are left there, and how much of the slope?": (
            _share(lambda a, tanh: (a < 0.05) | (a > 0.95)),
            _share(lambda a, tanh: np.abs(a) > 0.95 if tanh else np.abs(a - 0.5) > 0.45),
            _share(lambda a, tanh: np.abs(a) > 0.9 if tanh else np.abs(a - 0.5) > 0.45),
        ),
        "For tanh it is right, and for the sigmoid you ask for a slope below 0.05 itself: 5 % of which "
        "number are meant?": _share(lambda a, tanh: (1 - a**2 if tanh else a * (1 - a)) < 0.05),
        "The sigmoid is right, and tanh is taken for another one: what is its slope, in its output?": (
            _share(lambda a, tanh: np.abs(4 * a * (1 - a)) < 0.05),
            _share(lambda a, tanh: 4 * a * (1 - a) < 0.05),
        ),
        "That is the rule of tanh for both: the limits of a sigmoid are 0 and 1.": (
            _share(lambda a, tanh: 1 - a**2 < 0.05)
        ),
        "4.36 and 2.18 are limits for z: an output never gets there.": (
            _share(lambda a, tanh: np.abs(a) > (2.18 if tanh else 4.36))
        ),
        "Only the units at the lower limit are counted: a unit is stuck at the upper one just as well.": (
            _share(lambda a, tanh: _saturated(a, tanh) & (a < (0 if tanh else 0.5)))
        ),
        "Only the units at the upper limit are counted: a unit is stuck at the lower one just as well.": (
            _share(lambda a, tanh: _saturated(a, tanh) & (a > (0 if tanh else 0.5)))
        ),
        "That is the share of the units that are NOT saturated.": _share(lambda *a: ~_saturated(*a)),
        "That is a percentage: a share lies between 0 and 1.": lambda *a: 100 * _saturated_share(*a),
        "That is how many they are: the share is asked for.": lambda a, name: (
            a.size * _saturated_share(a, name)
        ),
    },
    otherwise=lambda cases, results, right: (
        f"Of 3000 {cases[0][1]} outputs the share is not {results[0]:.3g}: "
        "try the outputs 0.5, 0.98 and 0.99, one at a time, and work out their slopes."
    ),
    tolerance=1e-9,
)


@exercise(
    2,
    praise="a unit is saturated when its slope is gone, and each activation says where that is.",
    hint=(
        "Both slopes can be read off the outputs, without z. Write each as a share of the largest slope "
        "that this activation has, and ask where it falls below 5 %: how close to its limit is the "
        "output by then?"
    ),
    stream=21,
    trials=[_SATURATION],
)
def saturation_count(saturated: Callable, seed: int) -> None:
    """The share of outputs at which a sigmoid's or tanh's slope is below 5 % of its largest."""


# --- The answer that is corrected most ---------------------------------------------------------------------


def _more_elsewhere(_: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    [a] = results
    if not 0 < a < 1:
        return f"A sigmoid answers with a number between 0 and 1, and yours is {a:.3g}."
    return (
        f"The gradient at {a:.3g} is {a * a * (1 - a):.3g}, and some other answer gets more: "
        "try one a little larger, and one a little smaller."
    )


_WORST = Trial(
    read=number("The answer with the largest correction"),
    right=2 / 3,
    mistakes={
        "There the SLOPE is largest: the error still grows beyond it.": 0.5,
        "So it is for the target 1: here the target is 0.": 1 / 3,
        "There the ERROR is largest: what is the slope there?": 1.0,
        "There the answer is right, and nothing has to be corrected.": 0.0,
        "That is the z of it: which answer does a unit with this z give?": math.log(2),
        "That is how large the correction is: at which answer?": 4 / 27,
        "The slope of the unit is 1 - a² here: whose slope is that?": 1 / math.sqrt(3),
        "The best of the lesson's three answers, and not the best of all: take a derivative.": 0.7,
    },
    otherwise=_more_elsewhere,
    tolerance=0.008,
)
_SLOPE = 0.99 * 0.01
_GAIN = Trial(
    part=1,
    read=number("The factor"),
    right=1 / _SLOPE,
    mistakes={
        "That is what squared error keeps of the gradient of cross-entropy: turn it around.": _SLOPE,
        "That is the gradient under cross-entropy: how many times that of squared error is it?": 0.99,
        "That would be so for an answer of ½, where the slope is largest.": 4.0,
        "One of the two ends of the slope is missing: it is a product of two numbers.": 1 / 0.99,
        "The slope is divided out twice: how often is it in the gradient of squared error?": 1 / _SLOPE**2,
        "That is the ratio of the LOSSES: a unit learns from their gradients.": (
            -math.log(0.01) / (0.99**2 / 2)
        ),
        "That is a logarithm: the factor itself is asked for.": math.log10(1 / _SLOPE),
    },
    otherwise=lambda _, results, right: (
        f"The first number is right, and the factor at 0.99 is not {results[0]:.3g}: what do the two "
        "gradients have in common, and what has only one of them?"
    ),
    tolerance=0.02,
)


@exercise(
    2,
    praise="past its worst answer, squared error corrects a unit less the more wrong it is.",
    hint=(
        "With the target 0, write the gradient under squared error as a function of a alone; it is a product "
        "of an error and a slope. Where is its derivative 0? For the factor divide one gradient by the "
        "other before you put numbers in."
    ),
    trials=[_WORST, _GAIN],
)
def largest_correction(worst: float, factor: float, seed: int) -> None:
    """The answer with the largest |∂loss/∂z| under squared error, and what cross-entropy gains at 0.99."""


# --- A step with one sign ----------------------------------------------------------------------------------

# How many weights have to move, and which way; one-signed directions come last, because they forgive much.
_GOALS = (
    (2, (1, -1)),
    (5, (1, 1, -1, 1, -1)),
    (6, (-1, -1, 1, -1, -1, 1)),
    (4, (1, 1, 1, 1)),
    (3, (-1, -1, -1)),
)


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def _up(goal: np.ndarray) -> np.ndarray:
    return np.maximum(goal, 0)


def _best_cosine(goal: np.ndarray) -> float:
    return max(_norm(_up(goal)), _norm(_up(-goal))) / _norm(goal)


def _try_steps(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results, right)
    direction = ", ".join(f"{entry:.2f}" for entry in cases[worst][0])
    return (
        f"For the direction ({direction}) it is not {results[worst]:.3g}: try ten thousand "
        "random steps of one sign, and look at the best."
    )


_COSINE = Trial(
    cases=lambda rng: [(rng.uniform(0.5, 2, size=count) * signs,) for count, signs in _GOALS],
    read=number("The cosine"),
    right=_best_cosine,
    mistakes={
        "Only steps that go UP are looked at: the error of the unit may have the other sign.": (
            lambda g: _norm(_up(g)) / _norm(g)
        ),
        "Only steps that go DOWN are looked at: the error of the unit may have the other sign.": (
            lambda g: _norm(_up(-g)) / _norm(g)
        ),
        "That is the share of the SQUARED length that one sign holds: what is the cosine, then?": (
            lambda g: _best_cosine(g) ** 2
        ),
        "That is the worse of the two signs: take the one that gets further.": (
            lambda g: min(_norm(_up(g)), _norm(_up(-g))) / _norm(g)
        ),
        "You count the weights of each sign: one weight that has far to go may be worth three others.": (
            lambda g: math.sqrt(max((g > 0).mean(), (g < 0).mean()))
        ),
        "You count the weights of each sign: a cosine is made of lengths.": (
            lambda g: max((g > 0).mean(), (g < 0).mean())
        ),
        "So it is when all inputs are EQUAL: which inputs would you like better for this direction?": (
            lambda g: abs(g.sum()) / (math.sqrt(len(g)) * _norm(g))
        ),
        "So it is when only ONE input is on: others could help, as long as they have its sign.": (
            lambda g: np.abs(g).max() / _norm(g)
        ),
        "Those are sums of entries: lengths are made of squares.": (
            lambda g: max(_up(g).sum(), _up(-g).sum()) / np.abs(g).sum()
        ),
        "Each entry has lost its sign, and the sign is what all this is about.": (
            lambda g: np.abs(g).sum() / (math.sqrt(len(g)) * _norm(g))
        ),
        "A step straight to the goal needs both signs, and a unit with positive inputs has one.": 1.0,
        "That is the angle: its cosine is asked for.": lambda g: np.arccos(_best_cosine(g)),
    },
    otherwise=_try_steps,
)


@exercise(
    3,
    praise="the weights that have to go the other way get nothing from the best step, and lose by any other.",
    hint=(
        "Choose whether the step goes up or down; then every weight can only go that way. Which weights "
        "should move at all in this step, and how far, if the others had better stay where they are? Draw it "
        "for two weights, once for (1, 1) and once for (1, -1)."
    ),
    stream=22,
    trials=[_COSINE],
)
def one_signed_step(best_cosine: Callable, seed: int) -> None:
    """The largest cosine between a direction (n,) and a vector whose entries all have one sign."""


# --- Who was treated how? ----------------------------------------------------------------------------------

TREATMENTS = ("untouched", "fourfold", "fourfold and centered", "tenfold")
_TREATMENT_OF = {1: "fourfold", 2: "tenfold", 3: "untouched", 4: "fourfold and centered"}
_LEVEL = ("fourfold and centered", "tenfold")  # their gradient is
_FOURFOLD = 0.633  # what its picture shows per layer; in networks of infinite width it is 0.632
_UNTOUCHED = math.sqrt(theory.chi(theory.fixed_point("sigmoid", 1.0), "sigmoid", 1.0))


def treated(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the four treated sigmoid networks of set 02; returns its four axes.

    Twelve layers of width 128, Xavier weights and then the treatment. Raises `ValueError` for another number.
    """
    arguments.check_choice("number", number, _TREATMENT_OF)
    model, inputs = treated_network(_TREATMENT_OF[number]), data.gaussian_batch(64, 128, seed=5)
    record = signals.measure(
        model, inputs, layers=networks.Block, loss_fn=lambda outputs: outputs.square().mean() / 2
    )
    return plots.dashboard(record, signals.jacobian_singular_values(model, inputs[0]))


@torch.no_grad()
def treated_network(treatment: str) -> networks.DeepMLP:
    """Twelve layers of width 128 with Xavier weights, and then the treatment."""
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
        first, *others = [module for module in model.modules() if isinstance(module, nn.Linear)]
        first.weight.div_(2)  # its inputs are centered, and stretched less than sigmoids have to be
        for linear in others:
            linear.bias.copy_(-linear.weight.sum(dim=1) / 2)
    return model


_FACTOR = Trial(
    part=1,
    read=number("The factor per layer"),
    right=_FOURFOLD,
    mistakes={
        "That is the factor on the SQUARED gradient: the line in SCALE is a norm.": _FOURFOLD**2,
        "That is per layer going forward, towards the loss: the gradient goes back.": 1 / _FOURFOLD,
        "Count the steps: from layer 12 back to layer 1 there are not twelve.": _FOURFOLD ** (11 / 12),
        "Count the steps: from layer 12 back to layer 1 there are more than that.": _FOURFOLD ** (11 / 10),
        "That is the factor of the untouched network: read the fourfold one.": _UNTOUCHED,
        "That is four times the factor of the untouched network: larger weights also push units off their "
        "steep center, so read the picture.": 4 * _UNTOUCHED,
        "That is 4 · ¼, as if every slope were the largest one: read the picture.": 1.0,
        "That is a logarithm: the factor itself is asked for.": math.log10(_FOURFOLD),
    },
    otherwise=another_slope(0.02),
    tolerance=0.025,
    mistake_tolerance=lambda wrong: 0.015 if wrong > 0.5 else 0.04,
)


@exercise(
    3,
    praise="one dashboard, four treatments, and two of them kept the gradient for opposite reasons.",
    hint=(
        "Begin with the gradient in SCALE: two are level, two are not. Then take the activation variance. "
        "Numbers between 0 and 1 have a variance of ¼ at most, and only if they are all 0 or 1. For the "
        "factor, read the gradient at both ends, and count the steps between them."
    ),
    trials=[_FACTOR],
)
def treatments(who: Mapping, factor: float, seed: int) -> None:
    """Which of four treatments each dashboard shows, and the factor per layer of the fourfold network."""
    expected = "The answer should be a dictionary with the keys 1, 2, 3 and 4, one for each network, and is"
    check_choices(who, _TREATMENT_OF, TREATMENTS, expected, "Network")
    if len(set(who.values())) < len(TREATMENTS):
        raise Mistake("One treatment is named twice: the four networks had four different ones.")
    for network, truth in _TREATMENT_OF.items():
        treatment = who[network]
        if (treatment in _LEVEL) != (truth in _LEVEL):
            raise Mistake(
                f"Network {network}: is its gradient in SCALE level, or does it fall from layer 12 to layer "
                f"1, and what does {treatment!r} do to it?"
            )
        if treatment != truth and truth in _LEVEL:
            raise Mistake(
                f"Network {network}: its gradient is level, and so is that of another; compare the "
                "activation variances of the two with ¼: what does that say about the units?"
            )
        if treatment != truth:
            raise Mistake(
                f"Network {network}: its gradient falls, and so does that of another; in which of the two "
                "does a layer lose more, and what should larger weights do?"
            )


# --- The centering dial ------------------------------------------------------------------------------------


def _sigmoid_moments(q: float, offset: float = 0.0, shift: float = 0.0) -> tuple[float, float]:
    """E[φ(z)²] and E[φ'(z)²] for φ(z) = σ(z - shift) - offset and z ~ N(0, q)."""

    def square(z: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(z - shift) - offset) ** 2

    def square_slope(z: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(z - shift) * torch.sigmoid(shift - z)) ** 2

    return float(theory.gaussian_expectation(square, q)), float(theory.gaussian_expectation(square_slope, q))


def _gain_at(q: float) -> float:
    """The gain at which χ is 1 for z ~ N(0, q), whatever is subtracted from the outputs."""
    return _sigmoid_moments(q)[1] ** -0.5


@cache
def _critical_gain(offset: float = 0.0, shift: float = 0.0) -> float:
    """The gain at which φ(z) = σ(z - shift) - offset has χ = 1, at the variance that this gain leads to."""

    def surplus(q: float) -> float:
        square, square_slope = _sigmoid_moments(q, offset, shift)
        return square - q * square_slope

    return _sigmoid_moments(brentq(surplus, 1e-12, 1e6), offset, shift)[1] ** -0.5


def _variance(c: float, gain: float) -> float:
    """The variance of z that layers of σ(z) - c/2 bring about at this gain."""
    return theory.fixed_point(lambda z: torch.sigmoid(z) - c / 2, gain**2)


def _changes(cases: Sequence[Case], gains: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(gains / right, 1)
    [c], gain = cases[worst], float(gains[worst])
    q = _variance(c, gain)
    return (
        f"At c = {c:.2f} and your gain of {gain:.3g}, z has a variance of {q:.3g}, and the "
        f"gradient changes by {gain / _gain_at(q) - 1:+.1%} per layer: it should not."
    )


_DIAL = Trial(
    cases=lambda rng: [(c,) for c in (0.0, *rng.uniform((0.25, 0.6, 0.85), (0.45, 0.8, 0.95)).tolist())],
    read=number("The critical gain"),
    impossible={
        "A gain is a positive number, and yours is not at every c: what does it give at c = 0?": (
            lambda gains: not (np.isfinite(gains) & (gains > 0)).all()
        )
    },
    right=lambda c: _critical_gain(c / 2),
    mistakes={
        "That is a `weight_var`, the square of the gain.": lambda c: _critical_gain(c / 2) ** 2,
        "That is the root of the gain: which of the quantities are variances?": (
            lambda c: math.sqrt(_critical_gain(c / 2))
        ),
        "So it would be if every z were 0 and every slope ¼: which variance does z have at your gain?": 4.0,
        "With no centering that is right, and your gain does not change with c: what does c do to the next "
        "z?": lambda c: _critical_gain(),
        "Your z has variance 1, whatever c is: the layers choose their own.": lambda c: _gain_at(1.0),
        "Your z has the variance that it has at a gain of 1: a larger gain makes it larger.": (
            lambda c: _gain_at(_variance(c, 1.0))
        ),
        "You subtract from z, inside of the sigmoid: it is the OUTPUT that the dial moves.": (
            lambda c: _critical_gain(shift=c / 2)
        ),
        "You subtract c, and the mean of a sigmoid is ½: the dial subtracts c times that.": _critical_gain,
        "Your dial turns the wrong way: at c = 0 nothing is subtracted.": (
            lambda c: _critical_gain((1 - c) / 2) if c else 4.0
        ),
    },
    otherwise=_changes,
    tolerance=0.01,
)


@exercise(
    4,
    praise="the constant in the outputs is what made the weights so large, and the units so stuck.",
    hint=(
        "Two things have to hold at once: the factor χ is 1, and z has the variance that the layers "
        "themselves bring about at this gain. Subtracting a constant changes one of the two, and leaves "
        "the slope alone. A root-finder over the gain will do, and so will one over the variance."
    ),
    stream=26,
    trials=[_DIAL],
)
def centering_dial(critical: Callable, seed: int) -> None:
    """The gain at which layers of σ(z) - c/2 keep their gradient, for c from 0 to 0.95; to 1 %."""
