"""The checks of set 06, Residual connections."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradients_in_depth import theory
from gradients_in_depth.checks.common import Mistake, as_number, as_whole_number, call, compare, exercise

# --- How loud may a branch be? -----------------------------------------------------------------------------


@exercise(
    2,
    praise="a growth of the norm is a growth of the square, shared out among the blocks by multiplication.",
    hint=(
        "First one block: by what does it multiply the mean SQUARED gradient, when its branch multiplies a "
        "squared message by a² times something? What is that something, for a unit that is positive half of "
        "the time? Then all blocks: what do their factors have to make together?"
    ),
)
def loudest_branch(loudest: Callable, seed: int) -> None:
    """The branch scale at which the gradient's root mean square grows by a given factor over all blocks."""
    rng = np.random.default_rng([61, seed])
    depth = rng.integers((3, 8, 20, 60), (6, 15, 50, 100))
    growth = rng.uniform(1.3, 4.0, size=4)
    weight_var, slope = rng.uniform(0.6, 1.7, size=4), rng.uniform(0.15, 0.6, size=4)
    given = list(zip(depth.tolist(), growth.tolist(), weight_var.tolist(), slope.tolist(), strict=True))
    found = np.array([as_number(call(loudest, *case), "The scale") for case in given])
    passed = weight_var * (1 + slope**2) / 2

    def scale(growth: np.ndarray, depth: np.ndarray = depth, passed: np.ndarray = passed) -> np.ndarray:
        return np.sqrt((growth ** (1 / depth) - 1) / passed)

    square = growth**2
    right = scale(square)
    mistakes = [
        (
            scale(growth),
            "With this scale the mean SQUARE of the gradient grows by that factor: of what is `growth` the "
            "factor?",
        ),
        (scale(growth**4), "Squared once too often: what grows is the root of the mean square."),
        (right**2, "That is the square of the scale: a root is missing."),
        (
            scale(square, passed=np.full(4, 1.0)),
            "As if every branch kept the scale by itself, with He's weights: what do THESE weights and this "
            "slope do to a message?",
        ),
        (
            scale(square, passed=weight_var / 2),
            "That is for a ReLU without a leak: the leak lets something back as well.",
        ),
        (scale(square, passed=weight_var), "As if the activation let everything back as it is."),
        (
            scale(square, passed=weight_var * (1 + slope) / 2),
            "The slope enters as it is: what adds up are SQUARES of messages.",
        ),
        (
            scale(square, passed=weight_var * (1 + slope**2)),
            "Do BOTH slopes of the activation act on all of the units?",
        ),
        (
            scale(square, passed=1 / passed),
            "Upside down: larger weights need a smaller scale, not a larger one.",
        ),
        (scale(square, depth - 1), "One block too few: every block has a branch, the first and the last."),
        (scale(square, depth + 1), "One block too many: count the branches."),
        (
            np.sqrt(2 * np.log(growth) / (depth * passed)),
            "That is the limit of very many blocks: a handful of blocks grows by a power, not by an "
            "exponential.",
        ),
        (
            np.sqrt((square - 1) / (depth * passed)),
            "That adds up what all blocks add to the FIRST square: each adds to what is already there.",
        ),
        (
            (growth ** (1 / depth) - 1) / np.sqrt(passed),
            "As if stream and branch pointed the same way, so that sizes add: what adds up when they do not?",
        ),
        (
            1 / np.sqrt(depth * passed),
            "That is the rule of thumb for a growth near e in the square: here another growth is asked for.",
        ),
        (1 / np.sqrt(depth), "That is the rule of thumb for He's weights: `growth` plays no part in it."),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found / right - 1), nan=np.inf)))
    otherwise = (
        f"With {depth[worst]} blocks, weight_var {weight_var[worst]:.2f} and slope {slope[worst]:.2f}, "
        f"{found[worst]:.3g} does not let the gradient grow by {growth[worst]:.2f}: begin with the factor of "
        "one block."
    )
    compare(found, right, mistakes, otherwise, 1e-6)


# --- The first block, and the last ones --------------------------------------------------------------------

_BLOCKS = 60


def _how_many(remain: np.ndarray, target: float) -> int:
    """The smallest number of factors, from the first on, whose product is at most `target`."""
    return int(np.argmax(np.cumprod(remain) <= target)) + 1


@exercise(
    2,
    praise="where the stream is large, one more branch is a whisper; the first block alone is half of it.",
    hint=(
        "Each block shares a squared gradient out between its skip, 1, and its branch, f. Which part of it "
        "stays if only the skip is counted? For several blocks, do these parts add or multiply? A loop of "
        "three lines counts the rest."
    ),
)
def blocks_like_the_first(count: int, seed: int) -> None:
    """How many last blocks carry as much of the squared gradient as the first of 60 alone."""
    found = as_whole_number(count, "The number of blocks")
    law = theory.residual_flow(_BLOCKS, 1.0, normalization="batch").branch_factors
    from_the_end = law[::-1]
    counted_from_one = 1 / (1 + (1 - 1 / math.pi) * np.arange(1, _BLOCKS + 1))
    right = _how_many(1 / (1 + from_the_end), 0.5)
    mistakes = [
        (
            1,
            "So it would be if all blocks were alike: with batch normalization, how large is the last branch "
            "beside the stream?",
        ),
        (
            _how_many(1 / (1 + law[1:]), 0.5),
            "Those are the blocks right behind the first: begin at the other end.",
        ),
        (
            right - 1,
            "Close: how much do the paths around so many blocks carry, in a number, and is that no more than "
            "around the first?",
        ),
        (right + 1, "Close: would one block less do as well?"),
        (_BLOCKS - right, "That is how many blocks are left: those that are taken out are asked for."),
        (_BLOCKS - right + 1, "That looks like the place of a block: how MANY are taken out is asked for."),
        (
            _how_many(1 / (1 + from_the_end), 0.25),
            "That leaves a quarter: is it a norm or a square that the first block halves?",
        ),
        (
            _how_many(1 / (1 + from_the_end), math.sqrt(0.5)),
            "That leaves the root of what it should: the factors f are of SQUARED gradients already.",
        ),
        (
            int(np.argmax(np.cumsum(from_the_end / (1 + from_the_end)) >= 0.5)) + 1,
            "That adds up the shares through each block: a path through two of them is counted twice.",
        ),
        (
            int(np.argmax(np.cumsum(from_the_end) >= 1)) + 1,
            "That adds up the factors f (or lets 1/l stand for them): what does ONE block leave, and then "
            "the next of that?",
        ),
        *(
            (
                _how_many(1 / (1 + factors), 1 / (1 + law[1])),
                "The first block has NO block before it: count l from 0.",
            )
            for factors in (from_the_end, counted_from_one[::-1])
        ),
        (_BLOCKS, "All of them? Then only the path along the skips would be left: how much is that?"),
    ]
    if found > _BLOCKS:
        raise Mistake(f"There are {_BLOCKS} blocks in all.")
    otherwise = (
        f"Around the last {found} go paths with {np.cumprod(1 / (1 + from_the_end))[found - 1]:.2g} of the "
        "squared gradient: how much is that around the first?"
    )
    compare(found, right, mistakes, otherwise, 1e-9)


# --- A knob on all branches --------------------------------------------------------------------------------


class _Knob:
    """The mean squared gradient behind blocks of unknown factors, by the knob on all of their branches."""

    def __init__(self, factors: np.ndarray, unit: float) -> None:
        self.factors, self.unit = factors, unit

    def __call__(self, t: float) -> float:
        return float(self.unit * np.prod(1 + np.square(t) * self.factors))

    def __repr__(self) -> str:
        return "squared_gradient"


@exercise(
    3,
    praise="the lengths are exponents of the knob, and a logarithmic derivative reads exponents.",
    hint=(
        "A path through k branches passes the knob k times. By what does its SQUARED gradient change when "
        "the knob goes from 1 to 1.001? Take one term of each length, differentiate their sum by the "
        "knob, and compare it with the mean that you want."
    ),
)
def mean_path_length(mean_length: Callable, seed: int) -> None:
    """The mean number of branches on a path from a function of the knob alone; to 1 %."""
    rng = np.random.default_rng([63, seed])
    depth = rng.integers((4, 15, 40, 25), (8, 25, 70, 35)).tolist()
    factors = [
        rng.uniform(0.3, 1.5, size=depth[0]),
        np.full(depth[1], rng.uniform(0.7, 1.3)),
        rng.uniform(0.5, 3.0, size=depth[2]) / depth[2],
        1 / (1 + rng.uniform(0.5, 0.9) * np.arange(depth[3])),
    ]
    knobs = [_Knob(f, unit) for f, unit in zip(factors, rng.uniform(0.2, 5.0, size=4), strict=True)]
    found = np.array([as_number(call(mean_length, knob), "The mean length") for knob in knobs])
    shares = [theory.path_length_weights(f) for f in factors]
    right = np.array([share @ np.arange(len(share)) for share in shares])

    def each(of: Callable[[_Knob, np.ndarray, np.ndarray], float]) -> np.ndarray:
        return np.array([of(*case) for case in zip(knobs, factors, shares, strict=True)])

    def one_sided(far: float) -> np.ndarray:
        return each(lambda knob, f, share: math.log(knob(far) / knob(1)) / (2 * math.log(far)))

    mistakes = [
        (
            2 * right,
            "Twice too long: the knob turns a message, and what you were given is a SQUARED gradient.",
        ),
        (right / 2, "Half of it: is there one factor of ½ too many?"),
        (
            each(lambda knob, f, share: knob(1)) * right,
            "That is a sum over paths, weighted: a MEAN has the sum of the weights below.",
        ),
        (
            2 * each(lambda knob, f, share: knob(1)) * right,
            "That is the slope at 1 itself: what has to be below, and which power of the knob do you read?",
        ),
        (
            each(lambda knob, f, share: f.sum()),
            "That reads the knob near 0, where the branches are silent: the network itself has it at 1.",
        ),
        (
            each(lambda knob, f, share: len(f)),
            "That is the longest path, through every branch: is much of the gradient there?",
        ),
        (
            each(lambda knob, f, share: len(f) / 2),
            "That is the mean over all paths, each counted once: they do not carry equal shares.",
        ),
        (
            each(lambda knob, f, share: np.argmax(share)),
            "That is the most common length, and the mean is asked for.",
        ),
        (
            each(lambda knob, f, share: 1 - share[0]),
            "That is the share of all paths with at least one branch: between 0 and 1, and no length.",
        ),
        (
            each(lambda knob, f, share: math.log(knob(1) / knob(0))),
            "That is the logarithm of the whole growth: it weighs knobs between 0 and 1 as well.",
        ),
        (
            each(lambda knob, f, share: math.log2(knob(1) / knob(0))),
            "That asks how many branches of factor 1 make this growth: what if they are softer, and more?",
        ),
        (
            each(lambda knob, f, share: share @ np.arange(len(share)) ** 2),
            "That is a mean of SQUARED lengths: is that a second derivative?",
        ),
        (
            each(lambda knob, f, share: (knob(2) - knob(1)) / knob(1) / 2),
            "From a knob of 1 to one of 2 is too far: long paths have grown beyond the others by then.",
        ),
        (one_sided(2.0), "From a knob of 1 to one of 2 is too far for a slope AT 1: make the step small."),
        (one_sided(1.1), "Your step is too coarse, and it looks to one side only: the slope AT 1 is wanted."),
    ]
    if not np.isfinite(found).all():
        raise Mistake("A mean length is a number: which knob makes your function divide by 0?")
    if (found < 0).any():
        raise Mistake("A path cannot have fewer than 0 branches: louder branches, or softer ones?")
    worst = int(np.argmax(np.abs(found / right - 1)))
    grown = knobs[worst](1.001) / knobs[worst](1) - 1
    otherwise = (
        f"With the knob at 1.001 a network's squared gradient grew by {grown:.2%}, and your mean "
        f"length there is {found[worst]:.3g}: what would one path of that length do?"
    )
    compare(found, right, mistakes, otherwise, 0.01)


# --- What a ReLU on the stream lets through ----------------------------------------------------------------


def _blocks_open(scales: Sequence[float], *, given: bool = False, cut_first: bool = True) -> np.ndarray:
    """Share of units that are open in each block, and in all before if `given`: (blocks,).

    A unit is max(0, x + scale * z) with z standard normal, from x = 0 on; its density lies on a grid of the
    positive numbers, and those that were cut sit in one atom at 0 (or, if `given`, are gone).
    `cut_first` is whether the first block has a ReLU.
    """
    scales = np.asarray(scales, dtype=float)
    points = 900
    step = 6 * math.sqrt(float(np.square(scales).sum())) / points
    x = (np.arange(points) + 0.5) * step
    apart = (np.arange(2 * points - 1) - (points - 1)) * step

    def normal(z: np.ndarray, std: float) -> np.ndarray:
        return np.exp(-((z / std) ** 2) / 2) / (math.sqrt(2 * math.pi) * std)

    density, atom, found = np.zeros(points), 1.0, []
    for number, scale in enumerate(scales.tolist()):
        if number == 1 and not cut_first:  # the negative half of block 1 comes along, and may come back
            together = math.hypot(*scales[:2].tolist())
            density = normal(x, together)
        else:
            moved = np.convolve(density, normal(apart, scale))[points - 1 : 2 * points - 1] * step
            density = moved + atom * normal(x, scale)
        passed = float(density.sum() * step)
        atom = 0.0 if given else 1 - passed
        found.append(passed)
    return np.array(found)


def _always_open(scales: Sequence[float]) -> float:
    """Share of units that no block has cut."""
    return float(_blocks_open(scales, given=True)[-1])


@exercise(
    4,
    praise="a stream that has been positive for long is far from 0: the door closes on it ever more rarely.",
    hint=(
        "Follow ONE unit from block to block. What is added to it in each block, and does it depend on what "
        "was added before? As long as no ReLU has cut it, what is its value, as a sum? Now say 'no ReLU has "
        "cut it' as a sentence about these sums, and let many such units run."
    ),
)
def open_units(open_share: Callable, seed: int) -> None:
    """The share of units that no ReLU on the stream has cut, for given branch scales; to 4 %."""
    rng = np.random.default_rng([65, seed])
    equal, falling, rising, small = rng.integers((6, 6, 5, 15), (12, 10, 9, 25)).tolist()
    cases = [
        np.full(equal, rng.uniform(0.5, 2.0)),
        rng.uniform(0.8, 1.2) * np.geomspace(1, rng.uniform(0.15, 0.25), falling),
        rng.uniform(0.8, 1.2) * np.geomspace(0.2, rng.uniform(1.5, 2.0), rising),
        np.array([1.0] + [small**-0.5] * (small - 1)),
    ]
    found = np.array([as_number(call(open_share, case), "The share") for case in cases])

    def each(of: Callable[[np.ndarray], float]) -> np.ndarray:
        return np.array([of(case) for case in cases])

    right = each(_always_open)
    mistakes = [
        (
            each(lambda a: 0.5 ** len(a)),
            "As if every ReLU tossed a coin for each unit: how far from 0 is a stream that was never cut?",
        ),
        (
            each(lambda a: np.prod(_blocks_open(a))),
            "That multiplies the shares of the single blocks, as if a unit forgot from one to the next.",
        ),
        (
            each(lambda a: _blocks_open(a)[-1]),
            "Those are open in the LAST block: some of them were cut before, and came back.",
        ),
        (
            each(lambda a: np.mean(_blocks_open(a))),
            "That is how many are open in a block on average: a path needs ALL of its blocks.",
        ),
        (
            np.full(4, 0.5),
            "Half of the sums are positive at the END: what about all the places on the way?",
        ),
        (
            2 * right,
            "That starts behind the first block: it has a ReLU, too, and cuts one half.",
        ),
        (
            each(lambda a: _blocks_open(a, given=True, cut_first=False)[-1]),
            "You let the negative half of the FIRST block go on: it has a ReLU as well.",
        ),
        (
            each(lambda a: _always_open(np.ones(len(a)))),
            "So it would be if all scales were equal: do yours count?",
        ),
        (
            each(lambda a: _always_open(np.sqrt(a))),
            "You take the scales for variances: a scale multiplies a number of variance 1.",
        ),
        (each(lambda a: _always_open(a**2)), "Squared once too often: a scale is a standard deviation."),
        (
            each(lambda a: _always_open(a[::-1])),
            "You take the scales from the end: is the signal, or the message, what a ReLU decides by?",
        ),
        (each(lambda a: _always_open(a[:-1])), "One block is missing: the last ReLU cuts as well."),
        (each(lambda a: _always_open([*a, a[-1]])), "One block too many: each scale belongs to one ReLU."),
        (1 - right, "Those were cut at least once: the others are asked for."),
        (np.sqrt(right), "That is a root: the share itself is asked for."),
    ]
    if not ((found >= 0) & (found <= 1)).all():
        raise Mistake("A share lies between 0 and 1, and yours does not: did you divide by a number?")
    if np.allclose(found[0], right[0], rtol=0.04):
        otherwise = (
            "Equal scales are right, and others are not: where does your function look at the single scales?"
        )
    else:
        otherwise = (
            f"For {len(cases[0])} blocks of equal scales it is not {found[0]:.3g}: try one "
            "block by hand, then two (draw the plane)."
        )
    compare(found, right, mistakes, otherwise, 0.04)
