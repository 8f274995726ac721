"""The checks of set 02, Sigmoid saturation."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.optimize import brentq

from gradients_in_depth import arguments, data, networks, plots, signals, theory
from gradients_in_depth.checks.common import Mistake, as_number, call, check_choices, close, compare, exercise


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
    found = [as_number(call(saturated, a, name), "The share of saturated units") for name, a in cases]

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
    compare(found, right, mistakes, otherwise, 1e-9)


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
    a = as_number(worst, "The answer with the largest correction")
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
    compare(a, right, mistakes, otherwise, 0.008)
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
    found = as_number(factor, "The factor")
    otherwise = (
        f"The first number is right, and the factor at 0.99 is not {found:.3g}: what do the two gradients "
        "have in common, and what has only one of them?"
    )
    compare(found, 1 / slope, mistakes, otherwise, 0.02)


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
    found = [as_number(call(best_cosine, goal), "The cosine") for goal in goals]

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
    compare(found, right, mistakes, otherwise, 1e-6)


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
    arguments.check_choice("number", number, _TREATMENT_OF)
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
    wanted = "The answer should be a dictionary with the keys 1, 2, 3 and 4, one for each network, and is"
    check_choices(who, _TREATMENT_OF, TREATMENTS, wanted, "Network")
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
    found = as_number(factor, "The factor per layer")
    if close(found, _FOURFOLD, 0.025):
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
        if close(found, wrong, 0.015 if found > 0.5 else 0.04):
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
    found = np.array([as_number(call(critical, c), "The critical gain") for c in dial])
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
    compare(found, right, mistakes, otherwise, 0.01)
