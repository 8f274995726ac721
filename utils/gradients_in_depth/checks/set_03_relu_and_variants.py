"""The checks of set 03, ReLU and its variants."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq

from gradients_in_depth import theory
from gradients_in_depth.checks.common import Case, Mistake, Trial, as_floats, exercise, furthest, number


def _numbers(value: object, count: int, what: str) -> np.ndarray:
    """A row of `count` numbers, from a tuple, a list, an array or a tensor."""
    row = as_floats(value)
    if row is None:
        raise Mistake(f"{what} should be {count} numbers, and something else comes back.")
    if row.shape != (count,):
        raise Mistake(
            f"{what} should be {count} numbers, of shape ({count},), and what comes back has shape "
            f"{row.shape}."
        )
    return row


# --- Three kinds of silence --------------------------------------------------------------------------------


def _layer_log(rng: np.random.Generator, width: int = 60) -> tuple[list, list]:
    """The z of one layer over a data set, at step 0 and now: two lists of batches (images, width)."""
    images = int(rng.integers(180, 230))
    fates = np.array(["on"] * width, dtype="<U7")
    kinds = {"arrived": 5, "died": 8, "revived": 3}
    names = np.concatenate([[kind] * (n + int(rng.integers(3))) for kind, n in kinds.items()])
    fates[rng.choice(width, size=len(names), replace=False)] = names

    def moment(silent: np.ndarray) -> list[np.ndarray]:
        z = rng.normal(rng.uniform(-0.6, 0.6, size=width), 1.0, size=(images, width))
        z[:, silent] = -np.abs(z[:, silent])
        # One silent unit hears nothing: its z is exactly 0. Ten others are on for a single image only.
        z[:, rng.choice(np.flatnonzero(silent))] = 0.0
        for unit in rng.choice(np.flatnonzero(~silent), size=10, replace=False):
            z[:, unit] = -np.abs(z[:, unit])
            z[rng.integers(images), unit] = 0.2
        cuts = np.cumsum(rng.integers(35, 50, size=3))
        return [batch.copy() for batch in np.split(z, cuts)]

    return moment(np.isin(fates, ["arrived", "revived"])), moment(np.isin(fates, ["arrived", "died"]))


def _silent(batches: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(batches).max(axis=0) <= 0


def _census(
    rule: Callable = _silent, combine: Callable = lambda one, two: (one & two, ~one & two, one & ~two)
) -> Callable[[list, list], np.ndarray]:
    """The three counts of somebody who has another rule of silence, or combines the two times otherwise.

    `rule` makes a mask of the batches of one time, and `combine` three masks, or counts, of two such masks.
    """
    return lambda before, after: np.array([np.sum(part) for part in combine(rule(before), rule(after))])


_fates = _census()


def _of_batches(reduce: Callable) -> Callable[[list, list], np.ndarray]:
    """The right counts of each pair of batches, reduced."""
    return lambda before, after: reduce(
        [_fates([one], [two]) for one, two in zip(before, after, strict=True)], axis=0
    )


_CENSUS = Trial(
    cases=lambda rng: [_layer_log(rng) for _ in range(3)],
    read=lambda result, *log: _numbers(result, 3, "The three counts of units"),
    right=_fates,
    mistakes={
        "A unit whose z is exactly 0 on all images is missing: what does ReLU send, and what is its "
        "slope?": _census(lambda z: np.concatenate(z).max(axis=0) < 0),
        "That is the first batch alone: a unit that rests there may be on for a later image.": (
            _census(lambda z: _silent(z[:1]))
        ),
        "That is the last batch alone: is something overwritten in your loop?": (
            _census(lambda z: _silent(z[-1:]))
        ),
        "Units that are silent in SOME batch are counted: silent in every batch is asked for.": (
            _census(lambda z: np.any([_silent([batch]) for batch in z], axis=0))
        ),
        "Those are means over batches: a unit is dead over the whole data set, or it is not.": (
            _of_batches(np.mean)
        ),
        "Those are sums over batches: the same unit is counted several times.": _of_batches(np.sum),
        "That asks whether a unit is off ON AVERAGE: one image on which it is on keeps it alive.": (
            _census(lambda z: np.concatenate(z).mean(axis=0) <= 0)
        ),
        "Units that are off on SOME image are counted, and that is nearly every ReLU.": (
            _census(lambda z: np.concatenate(z).min(axis=0) <= 0)
        ),
        "Images are counted, not units: which axis of a batch runs over the units?": (
            _census(lambda z: np.concatenate(z).max(axis=1) <= 0)
        ),
        "Those who are off at one time are all counted: some of them are off at the other time as well.": (
            _census(combine=lambda one, two: (one, two, one & ~two))
        ),
        "The first count has everybody who was off at the start: some of them are on now.": (
            _census(combine=lambda one, two: (one, ~one & two, one & ~two))
        ),
        "The dead of today include units that were off on arrival: those did not die.": (
            _census(combine=lambda one, two: (one & two, two, one & ~two))
        ),
        "That is the difference of two totals: a death and a revival cancel in it.": (
            _census(
                combine=lambda one, two: (
                    one & two,
                    max(two.sum() - one.sum(), 0),
                    max(one.sum() - two.sum(), 0),
                )
            )
        ),
        "The second is a difference of two totals: a death and a revival cancel in it.": (
            _census(combine=lambda one, two: (one & two, two.sum() - one.sum(), one & ~two))
        ),
        "Died and revived have changed places: which of the two logs was written first?": (
            lambda before, after: _fates(after, before)
        ),
        "Those are shares: numbers of units are asked for.": lambda *log: _fates(*log) / 60,
    },
    otherwise=lambda _, results, right: (
        f"In one log {results[worst := furthest(results, right)]:.3g} units come out as "
        f"{('off from the start and still off', 'died', 'revived')[worst % 3]!r}, and that does not fit: "
        "make a log of three units by hand, and follow each of them."
    ),
    tolerance=1e-9,
)


@exercise(
    2,
    praise="who never lived cannot have died: two counts at two times, unit by unit, over all images.",
    hint=(
        "First make one row of True and False, one for each unit, at each of the two times: off on EVERY "
        "image of EVERY batch. Then the three counts are three ways to combine two rows. A small example "
        "with three units and two batches can be done by hand."
    ),
    stream=31,
    trials=[_CENSUS],
)
def obituary(census: Callable, seed: int) -> None:
    """(off from the start, died, revived): units of one layer, from its z at step 0 and now."""


# --- Dead on one batch -------------------------------------------------------------------------------------

_BATCH = 64
_NORMAL = NormalDist()
_SHARE_ON = 1 - 0.5 ** (1 / _BATCH)
_BIAS = Trial(
    read=number("The bias"),
    impossible={
        "With that bias a unit is off on half of the images: half of the UNITS, on all 64, is meant.": (
            lambda results: abs(results[0]) < 0.005
        )
    },
    right=_NORMAL.inv_cdf(_SHARE_ON),
    mistakes={
        "With that bias nearly every unit is on: off means that z is NOT above 0.": (
            -_NORMAL.inv_cdf(_SHARE_ON)
        ),
        "That is the share of images for which a unit is on: the bias belongs to it.": _SHARE_ON,
        "That unit is on for one image per batch ON AVERAGE: many batches have two, so that more than a "
        "third has none.": _NORMAL.inv_cdf(1 / _BATCH),
        "Half an image per batch on average is not a chance of one half: multiply the chances to be off.": (
            _NORMAL.inv_cdf(0.5 / _BATCH)
        ),
        "That is from a table with two tails: a ReLU is on in one of them.": _NORMAL.inv_cdf(_SHARE_ON / 2),
        "That takes ½ for one image, to the power of the batch: the ½ is given for the whole batch.": (
            _NORMAL.inv_cdf(0.5**_BATCH)
        ),
        "A square: the bias is measured in standard deviations.": _NORMAL.inv_cdf(_SHARE_ON) ** 2,
    },
    otherwise=lambda _, results, right: (
        f"With a bias of {results[0]:.3g}, a share of {_NORMAL.cdf(-results[0]) ** _BATCH:.2g} of the units "
        "is off on all 64 images."
    ),
    tolerance=0.009,
)
_HALVINGS = math.log2(1000)
_IMAGES = Trial(
    part=1,
    read=number("The number of images"),
    right=_BATCH * _HALVINGS,
    mistakes={
        "That is a number of batches: images are asked for.": _HALVINGS,
        "Those come on TOP of the first batch: count it as well.": _BATCH * (_HALVINGS - 1),
        "That logarithm belongs to a factor of e per batch: what is left after one batch?": (
            _BATCH * math.log(1000)
        ),
        "That logarithm belongs to a factor of 10 per batch: what is left after one batch?": (
            _BATCH * math.log10(1000)
        ),
        "That is in proportion: two batches would leave a quarter, not another half of one.": _BATCH * 500,
        "That is in proportion: the share is multiplied with every batch, not divided by their number.": (
            _BATCH * 1000
        ),
        "After that many images a unit has been on ONCE on average: more than a third has not.": (
            1 / _SHARE_ON
        ),
        "The 1000 counts units: how many images it takes is asked for.": 1000,
    },
    otherwise=lambda _, results, right: (
        f"Over {results[0]:.3g} images a share of {0.5 ** (np.clip(results[0], -1e4, 1e4) / _BATCH):.2g} of "
        "the units would still look dead."
    ),
    tolerance=0.02,
)


@exercise(
    3,
    praise="silence on one batch is cheap, and each further batch halves what is left of it.",
    hint=(
        "The chance to be off on 64 images is the chance to be off on one, 64 times multiplied. From ½ "
        "you get the chance for one image, and from that the bias by a table of the normal law. For the "
        "second number you need no table: what does every further batch do to the share?"
    ),
    trials=[_BIAS, _IMAGES],
)
def silent_by_chance(bias: float, images: float, seed: int) -> None:
    """The bias at which half of the units are silent on 64 images, and the images that leave one in 1000."""


# --- What a slope hears ------------------------------------------------------------------------------------


def _leaky_network(rng: np.random.Generator, depth: int) -> Case:
    """Weights, slopes, inputs and message of one network; one slope is 0 and one is negative.

    Where the layer of slope 0 is off altogether for an image, the next z is exactly 0, and there is no
    derivative: such an image is drawn again.
    """
    width, batch = int(rng.integers(5, 8)), int(rng.integers(9, 13))
    weights = [rng.normal(0, 1.3 / math.sqrt(width), size=(width, width)) for _ in range(depth)]
    slopes = rng.uniform(0.15, 0.6, size=depth)
    slopes[rng.permutation(depth)[:2]] = 0.0, -0.3
    inputs = rng.normal(size=(batch, width))
    while (
        kinks := np.any([(z == 0).any(axis=1) for z, _ in _forward(weights, slopes, inputs)], axis=0)
    ).any():
        inputs[kinks] = rng.normal(size=(int(kinks.sum()), width))
    return weights, slopes, inputs, rng.normal(size=(batch, width))


def _forward(weights: list, slopes: np.ndarray, inputs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """z and h of each layer."""
    layers, h = [], inputs
    for weight, slope in zip(weights, slopes, strict=True):
        z = h @ weight.T
        h = np.where(z < 0, slope * z, z)
        layers.append((z, h))
    return layers


def _gradients(
    weights: list,
    slopes: np.ndarray,
    inputs: np.ndarray,
    message: np.ndarray,
    *,
    heard: Callable = lambda z, h: np.where(z < 0, z, 0),
    back: Callable = lambda z, slope: np.where(z < 0, slope, 1),
    down: Callable = lambda message, weight: message @ weight,
) -> np.ndarray:
    """The gradient of each layer's slope, with one step of the backward pass replaced."""
    layers, gradients = _forward(weights, slopes, inputs), []
    for weight, slope, (z, h) in zip(weights[::-1], slopes[::-1], layers[::-1], strict=True):
        gradients.append(np.sum(message * heard(z, h)))
        message = down(message * back(z, slope), weight)
    return np.array(gradients[::-1])


_replaced = partial(partial, _gradients)


def _not_the_last(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    last = np.cumsum([len(slopes) for _, slopes, _, _ in cases]) - 1
    if np.allclose(results[last], right[last], rtol=1e-6):
        return (
            "The last layer's number is right, and those below it are not: look at how the message gets "
            "there."
        )
    return (
        "Not even the last layer's number is right, where nothing has to be sent back: one image and one "
        "unit can be done by hand."
    )


_LEAKS = Trial(
    cases=lambda rng: [_leaky_network(rng, depth) for depth in (3, 4, 5)],
    read=lambda result, _, slopes, *rest: _numbers(
        result, len(slopes), f"The gradients of {len(slopes)} slopes"
    ),
    impossible={
        "A gradient is not finite: is something divided by a slope, which may be 0?": (
            lambda results: not np.isfinite(results).all()
        )
    },
    right=_gradients,
    mistakes={
        "That is a mean over the images: the message has its share of the loss already, so add up.": (
            lambda W, a, x, message: _gradients(W, a, x, message) / len(x)
        ),
        "That is a mean over images and units: all of them have the same slope, so what they say adds "
        "up.": lambda W, a, x, message: _gradients(W, a, x, message) / x.size,
        "That is a mean over the units: all of them have the same slope, so what they say adds up.": (
            lambda W, a, x, message: _gradients(W, a, x, message) / x.shape[1]
        ),
        "The sign is turned: the gradient is asked for, not the step.": lambda *case: -_gradients(*case),
        "The order is turned: the first layer comes first.": lambda *case: _gradients(*case)[::-1],
        "That is the other side: on which of them does the slope have a say?": (
            _replaced(heard=lambda z, h: np.where(z > 0, z, 0))
        ),
        "All of z is counted: where a unit is on, the slope changes nothing.": (
            _replaced(heard=lambda z, h: z)
        ),
        "The message is summed where units are off, and z is missing: how much does slope · z change?": (
            _replaced(heard=lambda z, h: z < 0)
        ),
        "A slope too many is in it: the derivative of slope · z by the slope has none left, and at slope 0 "
        "it is not 0.": _replaced(heard=lambda z, h: np.where(z < 0, h, 0)),
        "Sides are told by the OUTPUT: with a slope that is 0 or negative it does not say which side z was "
        "on.": (
            _replaced(
                heard=lambda z, h: np.where(h < 0, z, 0),
                back=lambda z, slope: np.where((z < 0) & (slope > 0), slope, 1),
            ),
            _replaced(heard=lambda z, h: np.where(h < 0, z, 0)),
        ),
        "The message goes back as through a plain ReLU: what passes where a unit is off?": (
            _replaced(back=lambda z, slope: z >= 0)
        ),
        "The message goes back through the weights alone: the activation changes it as well.": (
            _replaced(back=lambda z, slope: 1)
        ),
        "The message is multiplied with the activation's VALUE on its way back: its slope belongs there.": (
            _replaced(back=lambda z, slope: np.where(z < 0, slope * z, z))
        ),
        "The message goes back through the transposed matrix: forward it was inputs @ weight.T, and back?": (
            _replaced(down=lambda message, weight: message @ weight.T)
        ),
        "The message never goes through the weights on its way back.": (
            _replaced(down=lambda message, weight: message)
        ),
        "Every layer gets the message of the last one: what arrives further down is another one.": (
            _replaced(back=lambda z, slope: 1, down=lambda message, weight: message)
        ),
    },
    otherwise=_not_the_last,
)


@exercise(
    4,
    praise="a slope hears exactly what its ReLU would have thrown away, and it hears it even at 0.",
    hint=(
        "Three questions per layer, from the last one down. By how much does the output of ONE unit "
        "change, for one image, if the slope grows a little? What does the message say about that change? "
        "And what becomes of the message on its way to the layer below: through the activation first, "
        "then through the weights."
    ),
    stream=33,
    trials=[_LEAKS],
)
def leak_gradients(gradients: Callable, seed: int) -> None:
    """(depth,): the derivative of the loss by the slope of each PReLU layer, all images together."""


# --- The leak that keeps inputs apart ----------------------------------------------------------------------


def _relu(cosine: float) -> float:
    return theory.relu_cosine_map(min(max(cosine, -1.0), 1.0))


def _pull(slope: float) -> float:
    """The share of ReLU's pull towards a cosine of 1 that a leak leaves."""
    return (1 - slope) ** 2 / (1 + slope**2)


def cosine_after(depth: int, slope: float, cosine: float) -> float:
    """The cosine after `depth` wide layers of leaky ReLUs.

    The leak is slope * z + (1 - slope) * ReLU(z), which makes of the gap between ReLU's map and the diagonal
    the share (1 - slope)**2 / (1 + slope**2).
    """
    share = _pull(slope)
    for _ in range(depth):
        cosine += share * (_relu(cosine) - cosine)
    return cosine


def _smallest(
    depth: int, start: float, limit: float, one_layer: Callable[[float, float], float] | None = None
) -> float:
    """The smallest slope in [0, 1] that keeps the cosine at `limit`."""
    one_layer = one_layer or partial(cosine_after, 1)

    def after(slope: float) -> float:
        cosine = start
        for _ in range(depth):
            cosine = min(one_layer(slope, cosine), 1.0)
        return cosine

    return brentq(lambda slope: after(slope) - limit, 0, 1)


def _pairs(rng: np.random.Generator) -> list[Case]:
    """Depth, the cosine of two inputs at the start, and its limit."""
    depths = rng.integers([6, 12, 25, 50], [9, 18, 35, 70]).tolist()
    starts = [-0.2, 0.0, *rng.uniform(0.1, 0.4, size=2).tolist()]
    gaps = rng.uniform([0.4, 0.4, 0.3, 0.3], [0.55, 0.6, 0.5, 0.5])
    return [
        (depth, start, start + float(gap) * (1 - start))
        for depth, start, gap in zip(depths, starts, gaps, strict=True)
    ]


def _off_the_limit(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = furthest(results, right)
    (depth, start, limit), slope = cases[worst], results[worst]
    if not 0 <= slope <= 1:
        return f"A slope from 0 to 1 is asked for, and yours is {slope:.3g}."
    return (
        f"With a slope of {slope:.3g}, a cosine of {start:.2g} becomes "
        f"{cosine_after(depth, slope, start):.3g} in {depth} layers: {limit:.3g} is the limit, and the "
        "smallest slope just keeps it."
    )


_SAVING = Trial(
    cases=_pairs,
    read=number("The slope"),
    right=_smallest,
    mistakes={
        "That mixes the two maps with weights slope and 1 - slope: cosines come from mean PRODUCTS, and "
        "those do not mix like the functions.": (
            partial(_smallest, one_layer=lambda a, c: a * c + (1 - a) * _relu(c))
        ),
        "That mixes the two maps with slope² and 1 - slope²: multiply two leaky outputs out, and count the "
        "terms.": partial(_smallest, one_layer=lambda a, c: a**2 * c + (1 - a**2) * _relu(c)),
        "Two of four terms are there: z times ReLU(z) has a mean as well, and it is not 0.": partial(
            _smallest,
            one_layer=lambda a, c: (a**2 * c + (1 - a) ** 2 * _relu(c)) / (a**2 + (1 - a) ** 2),
        ),
        "The scale is missing, or put right by hand: for two equal inputs, what is the mean square of a "
        "leaky output?": (
            partial(_smallest, one_layer=lambda a, c: (1 - a) ** 2 * _relu(c) + (1 - (1 - a) ** 2) * c)
        ),
        "That is for one layer more: a network of one layer has one activation here.": (
            lambda depth, start, limit: _smallest(depth + 1, start, limit)
        ),
        "That is for one layer less: a network of one layer has one activation here.": (
            lambda depth, start, limit: _smallest(depth - 1, start, limit)
        ),
        "That starts at a right angle: the inputs have the cosine `start`.": (
            lambda depth, start, limit: _smallest(depth, 0.0, limit)
        ),
        "That is the share of ReLU's pull that is left: one equation more, and you have the slope.": (
            lambda *pair: _pull(_smallest(*pair))
        ),
        "That is how much of the ReLU is left: the slope of the leak is asked for.": (
            lambda *pair: 1 - _smallest(*pair)
        ),
        "A slope of 1 is a linear layer, which keeps every cosine: a smaller one will do.": 1.0,
        "A slope of 0 is a plain ReLU, and the cosine exceeds the limit.": 0.0,
    },
    otherwise=_off_the_limit,
    tolerance=0.01,
)


@exercise(
    5,
    praise="a leak takes a share of ReLU's own way to the diagonal, and that share is all that depth sees.",
    hint=(
        "Write the leaky ReLU as a sum: so much of z itself, and so much of ReLU(z). The mean of a product "
        "of two such sums has four terms, and three of them need no integral. (What is the mean of u · "
        "ReLU(v), if -u and -v have the same law as u and v?) Divide by what comes out for two equal "
        "inputs; then search for the slope."
    ),
    stream=35,
    trials=[_SAVING],
)
def saving_leak(smallest: Callable, seed: int) -> None:
    """The smallest slope with which two inputs stay as different as a limit asks, to 1 %."""
