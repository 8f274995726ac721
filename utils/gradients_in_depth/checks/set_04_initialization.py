"""The checks of set 04, Initialization."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.optimize import brentq
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals
from gradients_in_depth.checks.activations import Nameless, moments, slope_at_0
from gradients_in_depth.checks.common import Case, Mistake, Trial, check_choices, exercise, furthest, number

# --- The bound of a uniform law ----------------------------------------------------------------------------


def _layer_shapes(rng: np.random.Generator) -> list[Case]:
    """The shape of a weight, and the slope of the leaky ReLU before it."""
    few, many = rng.integers(3, 9, size=4).tolist(), rng.integers(20, 90, size=4).tolist()
    kernel = int(rng.choice([3, 5]))
    shapes = [(many[0], few[0]), (few[1], many[1]), (many[2], few[2], kernel, kernel), (few[3], many[3], 7)]
    return list(zip(shapes, (0.0, *rng.uniform(0.15, 0.6, size=3).tolist()), strict=True))


def _fan_in(shape: Sequence[int]) -> int:
    return math.prod(shape[1:])


def _fan_out(shape: Sequence[int]) -> int:
    return shape[0] * math.prod(shape[2:])


def _mean_fan(shape: Sequence[int]) -> float:
    return (_fan_in(shape) + _fan_out(shape)) / 2


def _drawn(
    fan: Callable[[Sequence[int]], float] = _fan_in,
    gain2: Callable[[float], float] = lambda slope: 2 / (1 + slope**2),
    law: Callable[[float], float] = lambda variance: math.sqrt(3 * variance),
) -> Callable[[Sequence[int], float], float]:
    """What a law says of the variance of the weights, which is gain² / fan; one of the three is replaced."""
    return lambda shape, slope: law(gain2(slope) / fan(shape))


def _begin_with_the_variance(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results / right, 1)
    shape, slope = cases[worst]
    return (
        f"For a weight of shape {shape} and slope {slope:.2f} it is not {results[worst]:.3g}: begin with the "
        "variance that the weights need, and the bound comes last."
    )


_BOUND = Trial(
    cases=_layer_shapes,
    read=number("The bound"),
    right=_drawn(),
    mistakes={
        "That is the standard deviation of the weights: a uniform law with this bound has a third of the "
        "variance.": _drawn(law=math.sqrt),
        "That is the variance of the weights, and the bound is asked for.": _drawn(law=float),
        "That is the bound's square: a root is missing.": _drawn(law=lambda variance: 3 * variance),
        "That is how wide the whole interval is, from one end to the other: the bound is one end.": (
            _drawn(law=lambda variance: math.sqrt(12 * variance))
        ),
        "Only the channels are counted: an output of a convolution adds up more than one number of each.": (
            _drawn(lambda shape: shape[1])
        ),
        "Only the places of the kernel are counted: an output adds them up over all channels.": (
            _drawn(lambda shape: math.prod(shape[2:]))
        ),
        "That is with fan_out, which keeps the gradient going back: here the signal going forward "
        "counts.": _drawn(_fan_out),
        "The first number of a shape counts the OUTPUTS: which numbers does one of them add up?": (
            _drawn(lambda shape: shape[0])
        ),
        "That is Xavier's compromise between forward and backward: here the forward signal alone counts.": (
            _drawn(_mean_fan)
        ),
        "That is Xavier's bound, which knows no activation and asks for the gradient as well.": (
            _drawn(_mean_fan, gain2=lambda slope: 1)
        ),
        "The slope enters as it is: what adds up are SQUARES of signals.": (
            _drawn(gain2=lambda slope: 2 / (1 + slope))
        ),
        "That is for a plain ReLU: the leak lets something through as well.": (_drawn(gain2=lambda slope: 2)),
        "That is for a layer without an activation: what does the leaky ReLU leave of a mean square?": (
            _drawn(gain2=lambda slope: 1)
        ),
        "Half of what it should be in variance: do BOTH slopes act on all of the signal?": (
            _drawn(gain2=lambda slope: 1 / (1 + slope**2))
        ),
        "Upside down: the weights have to make up for what the activation takes away.": (
            _drawn(gain2=lambda slope: (1 + slope**2) / 2)
        ),
        "That is what PyTorch draws if you say nothing: its variance is a third over fan_in.": (
            _drawn(gain2=lambda slope: 1 / 3)
        ),
    },
    otherwise=_begin_with_the_variance,
)


@exercise(
    2,
    praise="the bound, the variance and the fan are three things, and you told them apart.",
    hint=(
        "Three questions, one after the other. How many numbers does ONE output of this layer add up? "
        "What does the activation leave of a mean square, if half of the signal is positive? And what is "
        "the variance of a uniform law on [-1, 1]?"
    ),
    stream=41,
    trials=[_BOUND],
)
def uniform_bound(bound: Callable, seed: int) -> None:
    """The bound of a uniform law that keeps the forward scale of a layer with a leaky ReLU before it."""


# --- A budget of weights -----------------------------------------------------------------------------------

_WEIGHTS = 400_000  # of all hidden layers together


def _depth(ratio: float) -> float:
    """Where depth over width is `ratio`: width is the root of weights over depth."""
    return (ratio * math.sqrt(_WEIGHTS)) ** (2 / 3)


_DEVIATION = math.log(10)  # of the difference of two logarithms
_RATIO = _DEVIATION**2 / 2 * 4 / 5
_BUDGET = Trial(
    read=number("The number of layers"),
    impossible={
        "That is depth over width, or its inverse: the number of layers is asked for.": (
            lambda results: 0 < results[0] < 1
        )
    },
    right=_depth(_RATIO),
    mistakes={
        "That is their width: the number of layers is asked for.": math.sqrt(_WEIGHTS / _depth(_RATIO)),
        "So deep ONE network strays from the middle by a factor of 10: two networks differ by more than "
        "that.": _depth(2 * _RATIO),
        "As if every network had 100 units: each layer more has to take its weights from somewhere.": (
            100 * _RATIO
        ),
        "So deep they differ by a factor of e: the law speaks of natural logarithms, and 10 is more than "
        "e.": _depth(0.4),
        "The logarithm of a typical factor is a deviation, and the law gives a variance: a square is "
        "missing.": _depth(_DEVIATION * 2 / 5),
        "That is for the SQUARED norm of the gradient: what does the law do with its logarithm?": (
            _depth(_RATIO / 4)
        ),
        "That is for a linear network: in ReLU layers each unit also tosses its coin.": _depth(
            _RATIO * 5 / 2
        ),
        "Near: a fraction of the law is missing in front of depth over width.": _depth(_RATIO * 5 / 4),
        "As if a layer of n units had n weights: each of its units listens to n others.": (
            math.sqrt(_RATIO * _WEIGHTS)
        ),
        "As if all the weights were in one layer, whatever the depth: they are shared out among the "
        "layers.": _RATIO * math.sqrt(_WEIGHTS),
    },
    otherwise=lambda _, results, right: (
        f"{results[0]:.3g} is not it: with so many layers, how wide may they be, and how far do two seeds "
        "then differ?"
    ),
    tolerance=0.02,
)


@exercise(
    2,
    praise="layers and width come out of one purse, so that depth over width grows faster than depth.",
    hint=(
        "Write depth over width with the depth alone: what width do the weights leave for L layers? Then "
        "ask which variance of the logarithm goes with a typical factor of 10 BETWEEN two seeds."
    ),
    trials=[_BUDGET],
)
def layer_budget(layers: float, seed: int) -> None:
    """The depth at which two He-ReLU networks of 400,000 weights typically differ by a factor of 10."""


# --- Units that training can tell apart --------------------------------------------------------------------


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


def _copied_layers(rng: np.random.Generator) -> list[Case]:
    """Weights in and out of six layers; in the last one a unit has a copy, and nothing else is special."""
    layers = [_half_copied_layer(rng, mirrors) for mirrors in (1, 2, 1, 2, 2)]
    incoming, outgoing, units = rng.normal(size=(4, 3)), rng.normal(size=(2, 4)), [0, 1, 0, 2, 3]
    return [*layers, (incoming[units], outgoing[:, units])]


def _both(incoming: np.ndarray, outgoing: np.ndarray) -> np.ndarray:
    """All weights of each unit, those into it and those out of it: (width, fan_in + fan_out)."""
    return np.hstack([incoming, outgoing.T])


def _awake(rows: np.ndarray) -> np.ndarray:
    return rows[rows.any(axis=1)]


def _different(rows: np.ndarray) -> int:
    """How many units are left without those of zeros alone, when a mirror image counts as a copy."""
    return _kinds(_up_to_sign(_awake(rows)))


def _groups_of_either(incoming: np.ndarray, outgoing: np.ndarray) -> int:
    """Groups of units that are connected by equal weights on one side or the other."""
    together = np.zeros((len(incoming), len(incoming)), dtype=bool)
    for side in (incoming, outgoing.T):
        together |= (side[:, None] == side).all(axis=-1)
    reach = np.linalg.matrix_power(together.astype(float), len(incoming)) > 0
    return _kinds(reach)


_LASTING = Trial(
    cases=_copied_layers,
    read=number("The number of units"),
    right=lambda u, v: _different(_both(u, v)),
    mistakes={
        "All units are counted: some of them are copies, and stay so.": lambda u, v: len(u),
        "That looks at the weights INTO the units only: two units that hear the same may be heard "
        "differently.": lambda u, v: _kinds(u),
        "That looks at the weights INTO the units only, with signs and zeros: does nothing come from "
        "above?": lambda u, v: _different(u),
        "That looks at the weights OUT of the units only: two units that hear different things are "
        "different.": lambda u, v: _kinds(v.T),
        "Copies are found; but tanh is odd, and some units may send nothing for good: what becomes of "
        "those?": lambda u, v: _kinds(_both(u, v)),
        "Copies and silent units are found: which units send the OPPOSITE of another one, at every step?": (
            lambda u, v: _kinds(_awake(_both(u, v)))
        ),
        "Copies and mirror images are found: is there a unit whose weights never get a gradient?": (
            lambda u, v: _kinds(_up_to_sign(_both(u, v)))
        ),
        "Some units counted as mirror images begin as such, and part in the first step: write down both "
        "gradients.": lambda u, v: _kinds(_awake(np.hstack([_up_to_sign(u), _up_to_sign(v.T)]))),
        "A unit that hears nothing at the start is left out: does a gradient come to the weights into it?": (
            lambda u, v: _different(_both(u, v)[u.any(axis=1)])
        ),
        "A unit that is not heard at the start is left out: does a gradient come to the weights out of it?": (
            lambda u, v: _different(_both(u, v)[v.any(axis=0)])
        ),
        "Units with zeros on ONE side are left out: which of their weights get a gradient in the first "
        "step?": lambda u, v: _different(_both(u, v)[u.any(axis=1) & v.any(axis=0)]),
        "That is a rank: units that depend on each other linearly can still be different behind a tanh.": (
            lambda u, v: np.linalg.matrix_rank(u),
            lambda u, v: np.linalg.matrix_rank(v),
            lambda u, v: np.linalg.matrix_rank(_both(u, v)),
        ),
        "Units that agree on ONE side are counted as one: do they get the same gradient on the other "
        "side?": _groups_of_either,
    },
    otherwise=lambda cases, results, right: (
        f"A layer of {len(cases[-1][0])} units, one of them a copy of another and nothing else special, does "
        f"not count {results[-1]:.3g}: take that one by hand first."
        if results[-1] != right[-1]
        else "Plain copies are right, and something else is not: go through units with opposite weights, "
        "and with zeros, on one side and on both."
    ),
    tolerance=1e-9,
)


@exercise(
    3,
    praise=(
        "what is equal on both sides stays equal, what is opposite on both sides stays opposite, "
        "and nobody wakes a unit that neither hears nor is heard."
    ),
    hint=(
        "The gradient of a weight is the message at the unit above times the signal of the unit below. "
        "Write down, for two units of the layer, the gradients of the weights into them and out of them. "
        "When are they equal, when opposite, and when 0, in the first step and then in every step after it?"
    ),
    stream=43,
    trials=[_LASTING],
)
def lasting_units(units: Callable, seed: int) -> None:
    """The number of units of a tanh layer that training can tell apart, from the weights at the start."""


# --- Four starts -------------------------------------------------------------------------------------------

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
    record = signals.measure(model, inputs, inputs, layers=networks.Block, loss_fn=F.mse_loss)
    return plots.dashboard(record, signals.jacobian_singular_values(model, inputs[0]))


def _why_not(start: str, truth: str) -> str:
    """What the dashboard of `truth` shows and that of `start` would not."""
    if truth == "ReLU too small":
        return "in SCALE both lines run straight over decades, each its own way: no critical start does that."
    if start == "ReLU too small":
        return (
            "too small weights lose the same factor in every layer, over many decades: does SCALE show that?"
        )
    if start.split()[0] != truth.split()[0]:
        if truth.startswith("ReLU"):
            return "in CORRELATION all inputs become alike: which activation sends out no negative number?"
        return "its inputs stay as different as they came in, see CORRELATION: would ReLU leave them so?"
    if truth == "tanh orthogonal":
        return "in SPECTRUM no direction is lost: would thirty Gaussian matrices leave it so?"
    return "its scale is nearly kept, but SPECTRUM spans many decades: would thirty rotations do that?"


_LEFT = _SMALL_WEIGHT_VAR / 2  # of the variance, per layer
_START_VAR = Trial(
    part=1,
    read=number("The weight_var"),
    right=_SMALL_WEIGHT_VAR,
    mistakes={
        "That is what is left of the variance per layer: ReLU takes a part of it, the weights do not.": _LEFT,
        "That is a standard deviation: weight_var is its square.": math.sqrt(_SMALL_WEIGHT_VAR),
        "That is the factor of the gradient norm: what does ReLU do to it, and is a norm a variance?": (
            math.sqrt(_LEFT)
        ),
        "That takes the line of the gradient NORM for a variance: the norm has only the root of the "
        "factor.": 2 * math.sqrt(_LEFT),
        "Upside down: weights that are too small make the signal fall on its way forward.": 2 / _LEFT,
        "The factor is squared once too often: the line in SCALE is a variance already.": 2 * _LEFT**2,
        "That is He's start, and its variance would stay level.": 2.0,
        "That is Xavier's start, which loses half of the variance in each layer: measure the slope.": 1.0,
    },
    otherwise=lambda _, results, right: (
        "That is what is left after all the layers: what happens in ONE layer is asked for."
        if 0 < results[0] < 1e-2
        else f"With a weight_var of {results[0]:.3g} the line of the variance would have another slope: how "
        "many decades does it fall, and in how many steps?"
    ),
    tolerance=0.04,
    mistake_tolerance=lambda wrong: 0.03,
)


@exercise(
    3,
    praise="one panel for the size, one for the activation, one for the law of the weights.",
    hint=(
        "Ask each panel one question. SCALE: does anything fall by the same factor in every layer? "
        "CORRELATION: which activation makes all inputs alike? SPECTRUM: which weights keep every "
        "direction? For the number, read the activation variance at both ends, and remember what ReLU "
        "leaves of it."
    ),
    trials=[_START_VAR],
)
def four_starts(start: Mapping, weight_var: float, seed: int) -> None:
    """A start for each of four dashboards, and the weight_var of the one whose weights are too small."""
    expected = (
        "The starts should be a dictionary with the keys 1, 2, 3 and 4, one for each dashboard, and are"
    )
    check_choices(start, _START_OF, STARTS, expected, "Start")
    if len(set(start.values())) < len(STARTS):
        raise Mistake("One start is named twice: the four dashboards differ, and so do their starts.")
    for dashboard, truth in _START_OF.items():
        if start[dashboard] != truth:
            raise Mistake(f"Start {dashboard}: {_why_not(start[dashboard], truth)}")


# --- The edge of an activation without a name --------------------------------------------------------------


def _nameless(rng: np.random.Generator) -> Nameless:
    """An activation that is neither odd nor of slope 1 at 0."""
    heights, steepness = rng.uniform(0.4, 0.9, size=2), rng.uniform(0.7, 1.6, size=2)
    return Nameless(heights, steepness, shift=float(rng.uniform(0.35, 0.6)))


def _nameless_cases(rng: np.random.Generator) -> list[Case]:
    """Activation and bias_var."""
    bias_vars = rng.uniform([0.02, 0.1, 0.3], [0.05, 0.2, 0.5]).tolist()
    return [(_nameless(rng), bias_var) for bias_var in bias_vars]


def edge(activation: Callable, bias_var: float, *, centered: bool = False) -> tuple[float, float]:
    """q and weight_var at the edge of chaos; of `centered` activations, if their mean were taken off.

    weight_var = 1 / E[φ'²] leaves one equation, q = E[φ²] / E[φ'²] + bias_var.
    """

    def excess(log_q: float) -> float:
        mean, forward, backward = moments(activation, math.exp(log_q))
        return math.exp(log_q) - (forward - centered * mean**2) / backward - bias_var

    q = math.exp(brentq(excess, math.log(1e-6), math.log(1e3)))
    return q, 1 / moments(activation, q).square_slope


def _settled(activation: Callable, weight_var: float, bias_var: float) -> float:
    """The variance after 300 layers that start at 1."""
    q = 1.0
    for _ in range(300):
        q = weight_var * moments(activation, q).square + bias_var
    return q


def _off_the_edge(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results / right, 1)
    (activation, bias_var), weight_var = cases[worst], results[worst]
    if not weight_var < 1e6:
        return f"{weight_var:.3g} is not at the edge: try your function on tanh, where theory helps."
    q = _settled(activation, weight_var, bias_var)
    chi = weight_var * moments(activation, q).square_slope
    return (
        f"With weight_var {weight_var:.3g} and bias_var {bias_var:.2g} the variance settles at {q:.3g}, and "
        f"the squared gradient then has a factor of {chi:.3g} per layer: it should be 1."
    )


_EDGE = Trial(
    cases=_nameless_cases,
    read=number("The critical weight_var"),
    impossible={
        "A variance is positive, and yours is not: is that a logarithm?": lambda results: (results <= 0).any()
    },
    right=lambda f, bias_var: edge(f, bias_var)[1],
    mistakes={
        "That makes χ 1 where the variance is 1: it does not settle there, ask where it does.": (
            lambda f, bias_var: 1 / moments(f, 1.0).square_slope
        ),
        "That is for signals so small that the activation is straight: the biases alone make them larger.": (
            lambda f, bias_var: 1 / slope_at_0(f) ** 2
        ),
        "That is the edge without biases: bias_var moves the variance, and the edge with it.": (
            lambda f, bias_var: edge(f, 0.0)[1]
        ),
        "That keeps the forward variance at 1, as LSUV does: χ, which speaks of the gradient, has no say in "
        "it.": lambda f, bias_var: (1 - bias_var) / moments(f, 1.0).square,
        "That keeps the forward variance at 1, without biases: χ, which speaks of the gradient, has no say "
        "in it.": lambda f, bias_var: 1 / moments(f, 1.0).square,
        "That takes the variance at which weights of weight_var 1 settle: with YOUR weight_var it is "
        "another one.": lambda f, bias_var: 1 / moments(f, _settled(f, 1.0, bias_var)).square_slope,
        "The mean is taken off the activations: the next layer sums their squares as they are, mean "
        "included.": lambda f, bias_var: edge(f, bias_var, centered=True)[1],
        "That is σ_w: weight_var is its square.": lambda f, bias_var: math.sqrt(edge(f, bias_var)[1]),
        "Upside down: weight_var makes up for the mean squared slope.": (
            lambda f, bias_var: 1 / edge(f, bias_var)[1]
        ),
        "That is the variance of the signal at the edge: one step more, and you have the weights.": (
            lambda f, bias_var: edge(f, bias_var)[0]
        ),
    },
    otherwise=_off_the_edge,
    tolerance=0.02,
)


@exercise(
    4,
    praise="an edge for a function without a name, without a derivative, and without a table.",
    hint=(
        "Two conditions, two unknowns. The variance q stays as it is from layer to layer, and the squared "
        "gradient does. The second one gives weight_var as soon as you know q; put it into the first, and "
        "one equation for q is left. A slope can be measured by two inputs that are nearly equal."
    ),
    stream=46,
    trials=[_EDGE],
)
def critical_variance(critical: Callable, seed: int) -> None:
    """The weight_var at the edge of chaos, to 2 %, for activations that the check brings."""
