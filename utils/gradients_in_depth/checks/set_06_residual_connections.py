"""The checks of set 06, Residual connections."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradients_in_depth import theory
from gradients_in_depth.checks.common import Case, Trial, agree, exercise, furthest, number, whole_number

# --- How loud may a branch be? -----------------------------------------------------------------------------


def _stacks(rng: np.random.Generator) -> list[Case]:
    """Depth, growth, weight_var and slope."""
    depth = rng.integers((3, 8, 20, 60), (6, 15, 50, 100))
    growth = rng.uniform(1.3, 4.0, size=4)
    weight_var, slope = rng.uniform(0.6, 1.7, size=4), rng.uniform(0.15, 0.6, size=4)
    return list(zip(depth.tolist(), growth.tolist(), weight_var.tolist(), slope.tolist(), strict=True))


def _passed(weight_var: float, slope: float) -> float:
    """By what a branch of scale 1 multiplies a squared message."""
    return weight_var * (1 + slope**2) / 2


def _scale(passed: Callable = _passed, power: float = 2, more: int = 0) -> Callable:
    """The scale at which the mean square grows by growth ** power, with so many `more` blocks."""
    return lambda depth, growth, *branch: math.sqrt(
        (growth ** (power / (depth + more)) - 1) / passed(*branch)
    )


def _begin_with_one(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results / right, 1)
    depth, growth, weight_var, slope = cases[worst]
    return (
        f"With {depth} blocks, weight_var {weight_var:.2f} and slope {slope:.2f}, {results[worst]:.3g} does "
        f"not let the gradient grow by {growth:.2f}: begin with the factor of one block."
    )


_SCALE = Trial(
    cases=_stacks,
    read=number("The scale"),
    right=_scale(),
    mistakes={
        "With this scale the mean SQUARE of the gradient grows by that factor: of what is `growth` the "
        "factor?": _scale(power=1),
        "Squared once too often: what grows is the root of the mean square.": _scale(power=4),
        "That is the square of the scale: a root is missing.": lambda *case: _scale()(*case) ** 2,
        "As if every branch kept the scale by itself, with He's weights: what do THESE weights and this "
        "slope do to a message?": _scale(lambda weight_var, slope: 1.0),
        "That is for a ReLU without a leak: the leak lets something back as well.": (
            _scale(lambda weight_var, slope: weight_var / 2)
        ),
        "As if the activation let everything back as it is.": _scale(lambda weight_var, slope: weight_var),
        "The slope enters as it is: what adds up are SQUARES of messages.": (
            _scale(lambda weight_var, slope: weight_var * (1 + slope) / 2)
        ),
        "Do BOTH slopes of the activation act on all of the units?": (
            _scale(lambda weight_var, slope: weight_var * (1 + slope**2))
        ),
        "Upside down: larger weights need a smaller scale, not a larger one.": (
            _scale(lambda *branch: 1 / _passed(*branch))
        ),
        "One block too few: every block has a branch, the first and the last.": _scale(more=-1),
        "One block too many: count the branches.": _scale(more=1),
        "That is the limit of very many blocks: a handful of blocks grows by a power, not by an "
        "exponential.": (
            lambda depth, growth, *branch: math.sqrt(2 * math.log(growth) / (depth * _passed(*branch)))
        ),
        "That adds up what all blocks add to the FIRST square: each adds to what is already there.": (
            lambda depth, growth, *branch: math.sqrt((growth**2 - 1) / (depth * _passed(*branch)))
        ),
        "As if stream and branch pointed the same way, so that sizes add: what adds up when they do not?": (
            lambda depth, growth, *branch: (growth ** (1 / depth) - 1) / math.sqrt(_passed(*branch))
        ),
        "That is the rule of thumb for a growth near e in the square: here another growth is asked for.": (
            lambda depth, growth, *branch: (depth * _passed(*branch)) ** -0.5
        ),
        "That is the rule of thumb for He's weights: `growth` plays no part in it.": (
            lambda depth, *_: depth**-0.5
        ),
    },
    otherwise=_begin_with_one,
)


@exercise(
    2,
    praise="a growth of the norm is a growth of the square, shared out among the blocks by multiplication.",
    hint=(
        "First one block: by what does it multiply the mean SQUARED gradient, when its branch multiplies a "
        "squared message by a² times something? What is that something, for a unit that is positive half of "
        "the time? Then all blocks: what do their factors have to make together?"
    ),
    stream=61,
    trials=[_SCALE],
)
def loudest_branch(loudest: Callable, seed: int) -> None:
    """The branch scale at which the gradient's root mean square grows by a given factor over all blocks."""


# --- The first block, and the last ones --------------------------------------------------------------------

_BLOCKS = 60
_LAW = theory.residual_flow(_BLOCKS, 1.0, normalization="batch").branch_factors
_FROM_THE_END = _LAW[::-1]
_COUNTED_FROM_ONE = 1 / (1 + (1 - 1 / math.pi) * np.arange(_BLOCKS, 0, -1))


def _how_many(factors: np.ndarray, share: float) -> int:
    """How many branches, from the first on, can be silent until at most this share is left."""
    return int(np.argmax(np.cumprod(1 / (1 + factors)) <= share)) + 1


_AS_MANY = _how_many(_FROM_THE_END, 0.5)
_COUNT = Trial(
    read=whole_number("The number of blocks"),
    impossible={f"There are {_BLOCKS} blocks in all.": lambda results: results[0] > _BLOCKS},
    right=_AS_MANY,
    mistakes={
        "So it would be if all blocks were alike: with batch normalization, how large is the last branch "
        "beside the stream?": 1,
        "Those are the blocks right behind the first: begin at the other end.": _how_many(_LAW[1:], 0.5),
        "Close: how much do the paths around so many blocks carry, in a number, and is that no more than "
        "around the first?": _AS_MANY - 1,
        "Close: would one block less do as well?": _AS_MANY + 1,
        "That is how many blocks are left: those that are taken out are asked for.": _BLOCKS - _AS_MANY,
        "That looks like the place of a block: how MANY are taken out is asked for.": _BLOCKS - _AS_MANY + 1,
        "That leaves a quarter: is it a norm or a square that the first block halves?": (
            _how_many(_FROM_THE_END, 0.25)
        ),
        "That leaves the root of what it should: the factors f are of SQUARED gradients already.": (
            _how_many(_FROM_THE_END, math.sqrt(0.5))
        ),
        "That adds up the shares through each block: a path through two of them is counted twice.": (
            np.argmax(np.cumsum(_FROM_THE_END / (1 + _FROM_THE_END)) >= 0.5) + 1
        ),
        "That adds up the factors f (or lets 1/l stand for them): what does ONE block leave, and then the "
        "next of that?": np.argmax(np.cumsum(_FROM_THE_END) >= 1) + 1,
        "The first block has NO block before it: count l from 0.": (
            _how_many(_FROM_THE_END, 1 / (1 + _LAW[1])),
            _how_many(_COUNTED_FROM_ONE, 1 / (1 + _LAW[1])),
        ),
        "All of them? Then only the path along the skips would be left: how much is that?": _BLOCKS,
    },
    otherwise=lambda _, results, right: (
        f"Around the last {results[0]:.0f} go paths with "
        f"{np.prod(1 / (1 + _FROM_THE_END[: int(results[0])])):.2g} of the squared gradient: how much is "
        "that around the first?"
    ),
    tolerance=1e-9,
)


@exercise(
    2,
    praise="where the stream is large, one more branch is a whisper; the first block alone is half of it.",
    hint=(
        "Each block shares a squared gradient out between its skip, 1, and its branch, f. Which part of it "
        "stays if only the skip is counted? For several blocks, do these parts add or multiply? A loop of "
        "three lines counts the rest."
    ),
    trials=[_COUNT],
)
def blocks_like_the_first(count: int, seed: int) -> None:
    """How many last blocks carry as much of the squared gradient as the first of 60 alone."""


# --- A knob on all branches --------------------------------------------------------------------------------


class _Knob:
    """The mean squared gradient behind blocks of unknown factors, by the knob on all of their branches."""

    def __init__(self, factors: np.ndarray, unit: float) -> None:
        self.factors, self.unit = factors, unit

    def __call__(self, t: float) -> float:
        return float(self.unit * np.prod(1 + np.square(t) * self.factors))

    def __repr__(self) -> str:
        return "squared_gradient"

    def shares(self) -> np.ndarray:
        """What the paths of each length carry, from length 0 on: (blocks + 1,)."""
        return theory.path_length_weights(self.factors)

    def mean(self, power: int = 1) -> float:
        """The mean of this power of the length of a path."""
        return float(self.shares() @ np.arange(len(self.factors) + 1) ** power)


def _knobs(rng: np.random.Generator) -> list[Case]:
    depth = rng.integers((4, 15, 40, 25), (8, 25, 70, 35)).tolist()
    factors = [
        rng.uniform(0.3, 1.5, size=depth[0]),
        np.full(depth[1], rng.uniform(0.7, 1.3)),
        rng.uniform(0.5, 3.0, size=depth[2]) / depth[2],
        1 / (1 + rng.uniform(0.5, 0.9) * np.arange(depth[3])),
    ]
    return [(_Knob(*case),) for case in zip(factors, rng.uniform(0.2, 5.0, size=4), strict=True)]


def _one_sided(far: float) -> Callable[[_Knob], float]:
    """The slope in logarithms between a knob of 1 and one of `far`."""
    return lambda knob: math.log(knob(far) / knob(1)) / (2 * math.log(far))


def _one_path(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results / right, 1)
    [knob] = cases[worst]
    return (
        f"With the knob at 1.001 a network's squared gradient grew by {knob(1.001) / knob(1) - 1:.2%}, and "
        f"your mean length there is {results[worst]:.3g}: what would one path of that length do?"
    )


_MEAN_LENGTH = Trial(
    cases=_knobs,
    read=number("The mean length"),
    impossible={
        "A mean length is a number: which knob makes your function divide by 0?": (
            lambda results: not np.isfinite(results).all()
        ),
        "A path cannot have fewer than 0 branches: louder branches, or softer ones?": (
            lambda results: (results < 0).any()
        ),
    },
    right=lambda knob: knob.mean(),
    mistakes={
        "Twice too long: the knob turns a message, and what you were given is a SQUARED gradient.": (
            lambda knob: 2 * knob.mean()
        ),
        "Half of it: is there one factor of ½ too many?": lambda knob: knob.mean() / 2,
        "That is a sum over paths, weighted: a MEAN has the sum of the weights below.": (
            lambda knob: knob(1) * knob.mean()
        ),
        "That is the slope at 1 itself: what has to be below, and which power of the knob do you read?": (
            lambda knob: 2 * knob(1) * knob.mean()
        ),
        "That reads the knob near 0, where the branches are silent: the network itself has it at 1.": (
            lambda knob: knob.factors.sum()
        ),
        "That is the longest path, through every branch: is much of the gradient there?": (
            lambda knob: len(knob.factors)
        ),
        "That is the mean over all paths, each counted once: they do not carry equal shares.": (
            lambda knob: len(knob.factors) / 2
        ),
        "That is the most common length, and the mean is asked for.": lambda knob: np.argmax(knob.shares()),
        "That is the share of all paths with at least one branch: between 0 and 1, and no length.": (
            lambda knob: 1 - knob.shares()[0]
        ),
        "That is the logarithm of the whole growth: it weighs knobs between 0 and 1 as well.": (
            lambda knob: math.log(knob(1) / knob(0))
        ),
        "That asks how many branches of factor 1 make this growth: what if they are softer, and more?": (
            lambda knob: math.log2(knob(1) / knob(0))
        ),
        "That is a mean of SQUARED lengths: is that a second derivative?": lambda knob: knob.mean(power=2),
        "From a knob of 1 to one of 2 is too far: long paths have grown beyond the others by then.": (
            lambda knob: (knob(2) - knob(1)) / knob(1) / 2
        ),
        "From a knob of 1 to one of 2 is too far for a slope AT 1: make the step small.": _one_sided(2.0),
        "Your step is too coarse, and it looks to one side only: the slope AT 1 is wanted.": _one_sided(1.1),
    },
    otherwise=_one_path,
    tolerance=0.01,
)


@exercise(
    3,
    praise="the lengths are exponents of the knob, and a logarithmic derivative reads exponents.",
    hint=(
        "A path through k branches passes the knob k times. By what does its SQUARED gradient change when "
        "the knob goes from 1 to 1.001? Take one term of each length, differentiate their sum by the "
        "knob, and compare it with the mean that you want."
    ),
    stream=63,
    trials=[_MEAN_LENGTH],
)
def mean_path_length(mean_length: Callable, seed: int) -> None:
    """The mean number of branches on a path from a function of the knob alone; to 1 %."""


# --- What a ReLU on the stream lets through ----------------------------------------------------------------


def _streams(rng: np.random.Generator) -> list[Case]:
    """Branch scales (blocks,): all equal, falling, rising, and small but for the first."""
    equal, falling, rising, small = rng.integers((6, 6, 5, 15), (12, 10, 9, 25)).tolist()
    return [
        (np.full(equal, rng.uniform(0.5, 2.0)),),
        (rng.uniform(0.8, 1.2) * np.geomspace(1, rng.uniform(0.15, 0.25), falling),),
        (rng.uniform(0.8, 1.2) * np.geomspace(0.2, rng.uniform(1.5, 2.0), rising),),
        (np.array([1.0] + [small**-0.5] * (small - 1)),),
    ]


def open_by_block(scales: np.ndarray, *, uncut: bool = False, cut_first: bool = True) -> np.ndarray:
    """Share of units that are open in each block, and in all before if `uncut`: (blocks,).

    A unit is max(0, x + scale * z) with z standard normal, from x = 0 on; its density lies on a grid of the
    positive numbers, and those that were cut sit in one atom at 0 (or, if `uncut`, are gone).
    `cut_first` is whether the first block has a ReLU.
    """
    points = 900
    step = 6 * math.sqrt(float(np.square(scales).sum())) / points
    x = (np.arange(points) + 0.5) * step
    apart = (np.arange(2 * points - 1) - (points - 1)) * step

    def normal(z: np.ndarray, std: float) -> np.ndarray:
        return np.exp(-((z / std) ** 2) / 2) / (math.sqrt(2 * math.pi) * std)

    density, atom, shares = np.zeros(points), 1.0, []
    for block, scale in enumerate(scales.tolist()):
        if block == 1 and not cut_first:  # the negative half of block 1 comes along, and may come back
            together = math.hypot(*scales[:2].tolist())
            density = normal(x, together)
        else:
            moved = np.convolve(density, normal(apart, scale))[points - 1 : 2 * points - 1] * step
            density = moved + atom * normal(x, scale)
        shares.append(float(density.sum() * step))
        atom = 0.0 if uncut else 1 - shares[-1]
    return np.array(shares)


def _always_open(scales: np.ndarray) -> float:
    """Share of units that no block has cut."""
    return open_by_block(scales, uncut=True)[-1]


def _by_hand(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    if agree(results[0], right[0], 0.04):
        return (
            "Equal scales are right, and others are not: where does your function look at the single scales?"
        )
    return (
        f"For {len(cases[0][0])} blocks of equal scales it is not {results[0]:.3g}: try one block by hand, "
        "then two (draw the plane)."
    )


_OPEN = Trial(
    cases=_streams,
    read=number("The share"),
    impossible={
        "A share lies between 0 and 1, and yours does not: did you divide by a number?": (
            lambda results: not ((results >= 0) & (results <= 1)).all()
        )
    },
    right=_always_open,
    mistakes={
        "As if every ReLU tossed a coin for each unit: how far from 0 is a stream that was never cut?": (
            lambda scales: 0.5 ** len(scales)
        ),
        "That multiplies the shares of the single blocks, as if a unit forgot from one to the next.": (
            lambda scales: np.prod(open_by_block(scales))
        ),
        "Those are open in the LAST block: some of them were cut before, and came back.": (
            lambda scales: open_by_block(scales)[-1]
        ),
        "That is how many are open in a block on average: a path needs ALL of its blocks.": (
            lambda scales: open_by_block(scales).mean()
        ),
        "Half of the sums are positive at the END: what about all the places on the way?": 0.5,
        "That starts behind the first block: it has a ReLU, too, and cuts one half.": (
            lambda scales: 2 * _always_open(scales)
        ),
        "You let the negative half of the FIRST block go on: it has a ReLU as well.": (
            lambda scales: open_by_block(scales, uncut=True, cut_first=False)[-1]
        ),
        "So it would be if all scales were equal: do yours count?": (
            lambda scales: _always_open(np.ones(len(scales)))
        ),
        "You take the scales for variances: a scale multiplies a number of variance 1.": (
            lambda scales: _always_open(np.sqrt(scales))
        ),
        "Squared once too often: a scale is a standard deviation.": lambda scales: _always_open(scales**2),
        "You take the scales from the end: is the signal, or the message, what a ReLU decides by?": (
            lambda scales: _always_open(scales[::-1])
        ),
        "One block is missing: the last ReLU cuts as well.": lambda scales: _always_open(scales[:-1]),
        "One block too many: each scale belongs to one ReLU.": (
            lambda scales: _always_open(np.append(scales, scales[-1]))
        ),
        "Those were cut at least once: the others are asked for.": lambda scales: 1 - _always_open(scales),
        "That is a root: the share itself is asked for.": lambda scales: math.sqrt(_always_open(scales)),
    },
    otherwise=_by_hand,
    tolerance=0.04,
)


@exercise(
    4,
    praise="a stream that has been positive for long is far from 0: the door closes on it ever more rarely.",
    hint=(
        "Follow ONE unit from block to block. What is added to it in each block, and does it depend on what "
        "was added before? As long as no ReLU has cut it, what is its value, as a sum? Now say 'no ReLU has "
        "cut it' as a sentence about these sums, and let many such units run."
    ),
    stream=65,
    trials=[_OPEN],
)
def open_units(open_share: Callable, seed: int) -> None:
    """The share of units that no ReLU on the stream has cut, for given branch scales; to 4 %."""
