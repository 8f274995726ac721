"""The checks of set 04, Initialization."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals
from gradients_in_depth.checks.common import (
    Mistake,
    as_number,
    call,
    check_choices,
    close,
    compare,
    derivative,
    exercise,
)


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
    found = np.array([as_number(call(bound, *case), "The bound") for case in cases])
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
    compare(found, np.sqrt(3 * weight_var / fan_in), mistakes, otherwise, 1e-6)


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
    found = as_number(layers, "The number of layers")

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
    compare(found, right, mistakes, otherwise, 0.02)


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
    found = np.array([as_number(call(units, *layer), "The number of units") for layer in layers])
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
    compare(found, right, mistakes, otherwise, 1e-9)


STARTS = ("ReLU too small", "ReLU He", "tanh Gaussian", "tanh orthogonal")
_START_OF = {1: "ReLU He", 2: "tanh orthogonal", 3: "ReLU too small", 4: "tanh Gaussian"}
_SMALL_WEIGHT_VAR = 1.3


def start_dashboard(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the four starts of set 04; returns its four axes.

    They are networks of thirty layers of width 64, untrained. Raises `ValueError` for another number.
    """
    arguments.check_choice("number", number, _START_OF)
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
    wanted = "The starts should be a dictionary with the keys 1, 2, 3 and 4, one for each dashboard, and are"
    check_choices(start, _START_OF, STARTS, wanted, "Start")
    if len(set(start.values())) < len(STARTS):
        raise Mistake("One start is named twice: the four dashboards differ, and so do their starts.")
    for number, truth in _START_OF.items():
        if start[number] != truth:
            raise Mistake(f"Start {number}: {_why_not(start[number], truth)}")
    found, factor = as_number(weight_var, "The weight_var"), _SMALL_WEIGHT_VAR / 2
    if close(found, _SMALL_WEIGHT_VAR, 0.04):
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
        if close(found, wrong, 0.03):
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


def _mean_squares(activation: Callable, q: float) -> tuple[float, float]:
    """E[φ(z)²] and E[φ'(z)²] for z ~ N(0, q)."""
    z = math.sqrt(q) * _NORMAL
    return float(_DENSITY @ activation(z) ** 2), float(_DENSITY @ derivative(activation, z) ** 2)


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
    found = np.array([as_number(call(critical, *case), "The critical weight_var") for case in cases])
    if (found <= 0).any():
        raise Mistake("A variance is positive, and yours is not: is that a logarithm?")
    q, right = np.array([_edge(*case) for case in cases]).T
    at_one = np.array([_mean_squares(activation, 1.0) for activation, _ in cases]).T
    at_zero = np.array([float(derivative(activation, np.zeros(1))[0]) for activation, _ in cases])
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
    compare(found, right, mistakes, otherwise, 0.02)
