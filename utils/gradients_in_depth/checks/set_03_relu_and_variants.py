"""The checks of set 03, ReLU and its variants."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from gradients_in_depth import theory
from gradients_in_depth.checks.common import Mistake, as_floats, as_number, call, compare, exercise


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


def _silent(batches: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(batches).max(axis=0) <= 0


def _fates(before: np.ndarray, after: np.ndarray) -> list[int]:
    return [int(np.sum(before & after)), int(np.sum(~before & after)), int(np.sum(before & ~after))]


@exercise(
    2,
    praise="who never lived cannot have died: two counts at two times, unit by unit, over all images.",
    hint=(
        "First make one row of True and False, one for each unit, at each of the two times: off on EVERY "
        "image of "
        "EVERY batch. Then the three counts are three ways to combine two rows. A small example with "
        "three units "
        "and two batches can be done by hand."
    ),
)
def obituary(census: Callable, seed: int) -> None:
    """(off from the start, died, revived): units of one layer, from its z at step 0 and now."""
    rng = np.random.default_rng([31, seed])
    cases = [_layer_log(rng) for _ in range(3)]
    found = np.concatenate([_numbers(call(census, *case), 3, "The three counts of units") for case in cases])

    def each(rule: Callable, combine: Callable = _fates) -> np.ndarray:
        return np.concatenate([combine(rule(before), rule(after)) for before, after in cases]).astype(float)

    def batch_by_batch(before: list, after: list) -> np.ndarray:
        pairs = zip(before, after, strict=True)
        return np.array([_fates(one.max(axis=0) <= 0, two.max(axis=0) <= 0) for one, two in pairs])

    right = each(_silent)
    names = ("off from the start and still off", "died", "revived")
    swapped = right.reshape(-1, 3)
    mistakes = [
        (
            each(lambda z: np.concatenate(z).max(axis=0) < 0),
            "A unit whose z is exactly 0 on all images is missing: what does ReLU send, and what is its "
            "slope?",
        ),
        (
            each(lambda z: z[0].max(axis=0) <= 0),
            "That is the first batch alone: a unit that rests there may be on for a later image.",
        ),
        (
            each(lambda z: z[-1].max(axis=0) <= 0),
            "That is the last batch alone: is something overwritten in your loop?",
        ),
        (
            each(lambda z: np.any([batch.max(axis=0) <= 0 for batch in z], axis=0)),
            "Units that are silent in SOME batch are counted: silent in every batch is asked for.",
        ),
        (
            np.concatenate([batch_by_batch(*case).mean(axis=0) for case in cases]),
            "Those are means over batches: a unit is dead over the whole data set, or it is not.",
        ),
        (
            np.concatenate([batch_by_batch(*case).sum(axis=0) for case in cases]),
            "Those are sums over batches: the same unit is counted several times.",
        ),
        (
            each(lambda z: np.concatenate(z).mean(axis=0) <= 0),
            "That asks whether a unit is off ON AVERAGE: one image on which it is on keeps it alive.",
        ),
        (
            each(lambda z: np.concatenate(z).min(axis=0) <= 0),
            "Units that are off on SOME image are counted, and that is nearly every ReLU.",
        ),
        (
            each(
                lambda z: np.concatenate(z).max(axis=1) <= 0,
                lambda one, two: [one.sum(), two.sum(), 0],
            ),
            "Images are counted, not units: which axis of a batch runs over the units?",
        ),
        (
            each(_silent, lambda one, two: [one.sum(), two.sum(), np.sum(one & ~two)]),
            "Those who are off at one time are all counted: some of them are off at the other time as well.",
        ),
        (
            each(_silent, lambda one, two: [one.sum(), np.sum(~one & two), np.sum(one & ~two)]),
            "The first count has everybody who was off at the start: some of them are on now.",
        ),
        (
            each(_silent, lambda one, two: [np.sum(one & two), two.sum(), np.sum(one & ~two)]),
            "The dead of today include units that were off on arrival: those did not die.",
        ),
        (
            each(_silent, lambda o, t: [np.sum(o & t), max(t.sum() - o.sum(), 0), max(o.sum() - t.sum(), 0)]),
            "That is the difference of two totals: a death and a revival cancel in it.",
        ),
        (
            each(_silent, lambda o, t: [np.sum(o & t), t.sum() - o.sum(), np.sum(o & ~t)]),
            "The second is a difference of two totals: a death and a revival cancel in it.",
        ),
        (
            swapped[:, [0, 2, 1]].ravel(),
            "Died and revived have changed places: which of the two logs was written first?",
        ),
        (right / 60, "Those are shares: numbers of units are asked for."),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found - right), nan=np.inf)))
    otherwise = (
        f"In one log {found[worst]:.3g} units come out as {names[worst % 3]!r}, and that does not fit: "
        "make a log of "
        "three units by hand, and follow each of them."
    )
    compare(found, right, mistakes, otherwise, 1e-9)


# --- Dead on one batch -------------------------------------------------------------------------------------

_BATCH = 64
_NORMAL = NormalDist()


@exercise(
    3,
    praise="silence on one batch is cheap, and each further batch halves what is left of it.",
    hint=(
        "The chance to be off on 64 images is the chance to be off on one, 64 times multiplied. From ½ "
        "you get the "
        "chance for one image, and from that the bias by a table of the normal law. For the second number "
        "you need "
        "no table: what does every further batch do to the share?"
    ),
)
def silent_by_chance(bias: float, images: float, seed: int) -> None:
    """The bias at which half of the units are silent on 64 images, and the images that leave one in 1000."""
    mean, count = as_number(bias, "The bias"), as_number(images, "The number of images")
    share_on = 1 - 0.5 ** (1 / _BATCH)
    right = _NORMAL.inv_cdf(share_on)
    mistakes = [
        (-right, "With that bias nearly every unit is on: off means that z is NOT above 0."),
        (share_on, "That is the share of images for which a unit is on: the bias belongs to it."),
        (
            _NORMAL.inv_cdf(1 / _BATCH),
            "That unit is on for one image per batch ON AVERAGE: many batches have two, so that more than "
            "a third "
            "has none.",
        ),
        (
            _NORMAL.inv_cdf(0.5 / _BATCH),
            "Half an image per batch on average is not a chance of one half: multiply the chances to be off.",
        ),
        (
            _NORMAL.inv_cdf(share_on / 2),
            "That is from a table with two tails: a ReLU is on in one of them.",
        ),
        (
            _NORMAL.inv_cdf(0.5**_BATCH),
            "That takes ½ for one image, to the power of the batch: the ½ is given for the whole batch.",
        ),
        (right**2, "A square: the bias is measured in standard deviations."),
    ]
    if abs(mean) < 0.005:
        raise Mistake(
            "With that bias a unit is off on half of the images: half of the UNITS, on all 64, is meant."
        )
    chance = math.nan if math.isnan(mean) else _NORMAL.cdf(-mean) ** _BATCH
    otherwise = f"With a bias of {mean:.3g}, a share of {chance:.2g} of the units is off on all 64 images."
    compare(mean, right, mistakes, otherwise, 0.009)

    halvings = math.log2(1000)
    mistakes = [
        (halvings, "That is a number of batches: images are asked for."),
        (_BATCH * (halvings - 1), "Those come on TOP of the first batch: count it as well."),
        (
            _BATCH * math.log(1000),
            "That logarithm belongs to a factor of e per batch: what is left after one batch?",
        ),
        (
            _BATCH * math.log10(1000),
            "That logarithm belongs to a factor of 10 per batch: what is left after one batch?",
        ),
        (_BATCH * 500, "That is in proportion: two batches would leave a quarter, not another half of one."),
        (
            _BATCH * 1000,
            "That is in proportion: the share is multiplied with every batch, not divided by their number.",
        ),
        (
            1 / share_on,
            "After that many images a unit has been on ONCE on average: more than a third has not.",
        ),
        (1000, "The 1000 counts units: how many images it takes is asked for."),
    ]
    left = 0.5 ** (min(max(count, -1e4), 1e4) / _BATCH)
    otherwise = f"Over {count:.3g} images a share of {left:.2g} of the units would still look dead."
    compare(count, _BATCH * halvings, mistakes, otherwise, 0.02)


# --- What a slope hears ------------------------------------------------------------------------------------


def _leaky_case(rng: np.random.Generator, depth: int) -> tuple:
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
    kept, h = [], inputs
    for weight, slope in zip(weights, slopes, strict=True):
        z = h @ weight.T
        h = np.where(z < 0, slope * z, z)
        kept.append((z, h))
    return kept


def _went_back(
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
    kept, found = _forward(weights, slopes, inputs), []
    for weight, slope, (z, h) in zip(weights[::-1], slopes[::-1], kept[::-1], strict=True):
        found.append(np.sum(message * heard(z, h)))
        message = down(message * back(z, slope), weight)
    return np.array(found[::-1])


@exercise(
    4,
    praise="a slope hears exactly what its ReLU would have thrown away, and it hears it even at 0.",
    hint=(
        "Three questions per layer, from the last one down. By how much does the output of ONE unit "
        "change, for one "
        "image, if the slope grows a little? What does the message say about that change? And what "
        "becomes of the "
        "message on its way to the layer below: through the activation first, then through the weights."
    ),
)
def leak_gradients(gradients: Callable, seed: int) -> None:
    """(depth,): the derivative of the loss by the slope of each PReLU layer, all images together."""
    rng = np.random.default_rng([33, seed])
    cases = [_leaky_case(rng, depth) for depth in (3, 4, 5)]
    found = np.concatenate(
        [
            _numbers(call(gradients, *case), len(case[1]), f"The gradients of {len(case[1])} slopes")
            for case in cases
        ]
    )

    if not np.isfinite(found).all():
        raise Mistake("A gradient is not finite: is something divided by a slope, which may be 0?")

    def each(change: Callable = lambda result, case: result, **replaced: Callable) -> np.ndarray:
        return np.concatenate([change(_went_back(*case, **replaced), case) for case in cases])

    right = each()
    batch, width = (np.concatenate([[c[2].shape[axis]] * len(c[1]) for c in cases]) for axis in (0, 1))
    mistakes = [
        (
            right / batch,
            "That is a mean over the images: the message has its share of the loss already, so add up.",
        ),
        (
            right / batch / width,
            "That is a mean over images and units: all of them have the same slope, so what they say adds "
            "up.",
        ),
        (
            right / width,
            "That is a mean over the units: all of them have the same slope, so what they say adds up.",
        ),
        (-right, "The sign is turned: the gradient is asked for, not the step."),
        (each(lambda result, _: result[::-1]), "The order is turned: the first layer comes first."),
        (
            each(heard=lambda z, h: np.where(z > 0, z, 0)),
            "That is the other side: on which of them does the slope have a say?",
        ),
        (each(heard=lambda z, h: z), "All of z is counted: where a unit is on, the slope changes nothing."),
        (
            each(heard=lambda z, h: np.abs(z) * (z < 0)),
            "A sign is lost: where the slope has a say, z is negative.",
        ),
        (
            each(heard=lambda z, h: (z < 0).astype(float)),
            "The message is summed where units are off, and z is missing: how much does slope · z change?",
        ),
        (
            each(heard=lambda z, h: np.where(z < 0, h, 0)),
            "A slope too many is in it: the derivative of slope · z by the slope has none left, and at "
            "slope 0 it is "
            "not 0.",
        ),
        (
            each(
                heard=lambda z, h: np.where(h < 0, z, 0),
                back=lambda z, slope: np.where((z < 0) & (slope > 0), slope, 1),
            ),
            "Sides are told by the OUTPUT: with a slope that is 0 or negative it does not say which side "
            "z was on.",
        ),
        (
            each(heard=lambda z, h: np.where(h < 0, z, 0)),
            "Sides are told by the OUTPUT: with a slope that is 0 or negative it does not say which side "
            "z was on.",
        ),
        (
            each(back=lambda z, slope: np.where(z < 0, 0, 1)),
            "The message goes back as through a plain ReLU: what passes where a unit is off?",
        ),
        (
            each(back=lambda z, slope: np.ones_like(z)),
            "The message goes back through the weights alone: the activation changes it as well.",
        ),
        (
            each(back=lambda z, slope: np.where(z < 0, slope * z, z)),
            "The message is multiplied with the activation's VALUE on its way back: its slope belongs there.",
        ),
        (
            each(down=lambda message, weight: message @ weight.T),
            "The message goes back through the transposed matrix: forward it was inputs @ weight.T, and "
            "back?",
        ),
        (
            each(down=lambda message, weight: message),
            "The message never goes through the weights on its way back.",
        ),
        (
            each(back=lambda z, slope: np.ones_like(z), down=lambda message, weight: message),
            "Every layer gets the message of the last one: what arrives further down is another one.",
        ),
    ]
    last = np.cumsum([len(case[1]) for case in cases]) - 1
    otherwise = (
        "The last layer's number is right, and those below it are not: look at how the message gets there."
        if np.allclose(found[last], right[last], rtol=1e-6)
        else "Not even the last layer's number is right, where nothing has to be sent back: one image and "
        "one unit can "
        "be done by hand."
    )
    compare(found, right, mistakes, otherwise, 1e-6)


# --- The leak that keeps inputs apart ----------------------------------------------------------------------


def _alike(slope: float, cosine: float, depth: int) -> float:
    """The cosine after `depth` wide layers of leaky ReLUs.

    The leak is slope * z + (1 - slope) * ReLU(z), which makes of the gap between ReLU's map and the diagonal
    the share (1 - slope)**2 / (1 + slope**2).
    """
    share = (1 - slope) ** 2 / (1 + slope**2)
    for _ in range(depth):
        cosine += share * (_relu(cosine) - cosine)
    return cosine


def _relu(cosine: float) -> float:
    return theory.relu_cosine_map(min(max(cosine, -1.0), 1.0))


def _smallest(
    depth: int,
    start: float,
    limit: float,
    one_layer: Callable = lambda slope, c: _alike(slope, c, 1),
) -> float:
    """The smallest slope in [0, 1] that keeps the cosine at `limit`; NaN where none does."""

    def after(slope: float) -> float:
        cosine = start
        for _ in range(depth):
            cosine = min(one_layer(slope, cosine), 1.0)
        return cosine

    if not after(1.0) <= limit < after(0.0):
        return math.nan
    low, high = 0.0, 1.0
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if after(middle) > limit else (low, middle)
    return high


def _leak_cases(rng: np.random.Generator) -> Sequence[tuple[int, float, float]]:
    depths = rng.integers([6, 12, 25, 50], [9, 18, 35, 70]).tolist()
    starts = [-0.2, 0.0, *rng.uniform(0.1, 0.4, size=2).tolist()]
    gaps = rng.uniform([0.4, 0.4, 0.3, 0.3], [0.55, 0.6, 0.5, 0.5])
    return [
        (depth, start, start + float(gap) * (1 - start))
        for depth, start, gap in zip(depths, starts, gaps, strict=True)
    ]


@exercise(
    5,
    praise="a leak takes a share of ReLU's own way to the diagonal, and that share is all that depth sees.",
    hint=(
        "Write the leaky ReLU as a sum: so much of z itself, and so much of ReLU(z). The mean of a "
        "product of two such "
        "sums has four terms, and three of them need no integral. (What is the mean of u · ReLU(v), if -u "
        "and -v "
        "have the same law as u and v?) Divide by what comes out for two equal inputs; then search for "
        "the slope."
    ),
)
def saving_leak(smallest: Callable, seed: int) -> None:
    """The smallest slope with which two inputs stay as different as a limit asks, to 1 %."""
    rng = np.random.default_rng([35, seed])
    cases = _leak_cases(rng)
    found = np.array([as_number(call(smallest, *case), "The slope") for case in cases])
    right = np.array([_smallest(*case) for case in cases])

    def each(one_layer: Callable) -> np.ndarray:
        return np.array([_smallest(*case, one_layer) for case in cases])

    def longer(by: int) -> np.ndarray:
        return np.array([_smallest(depth + by, start, limit) for depth, start, limit in cases])

    mistakes = [
        (
            each(lambda a, c: a * c + (1 - a) * _relu(c)),
            "That mixes the two maps with weights slope and 1 - slope: cosines come from mean PRODUCTS, "
            "and those do "
            "not mix like the functions.",
        ),
        (
            each(lambda a, c: a**2 * c + (1 - a**2) * _relu(c)),
            "That mixes the two maps with slope² and 1 - slope²: multiply two leaky outputs out, and "
            "count the terms.",
        ),
        (
            each(lambda a, c: (_relu(c) + a**2 * c) / (1 + a**2)),
            "The product of the two sides is left out, and the left side taken for linear: multiply two "
            "outputs out.",
        ),
        (
            each(lambda a, c: (a**2 * c + (1 - a) ** 2 * _relu(c)) / (a**2 + (1 - a) ** 2)),
            "Two of four terms are there: z times ReLU(z) has a mean as well, and it is not 0.",
        ),
        (
            each(lambda a, c: (1 - a) ** 2 * _relu(c) + (1 - (1 - a) ** 2) * c),
            "The scale is missing, or put right by hand: for two equal inputs, what is the mean square of "
            "a leaky "
            "output?",
        ),
        (longer(1), "That is for one layer more: a network of one layer has one activation here."),
        (longer(-1), "That is for one layer less: a network of one layer has one activation here."),
        (
            [_smallest(depth, 0.0, limit) for depth, _, limit in cases],
            "That starts at a right angle: the inputs have the cosine `start`.",
        ),
        (
            (1 - right) ** 2 / (1 + right**2),
            "That is the share of ReLU's pull that is left: one equation more, and you have the slope.",
        ),
        (1 - right, "That is how much of the ReLU is left: the slope of the leak is asked for."),
        (
            np.ones(len(cases)),
            "A slope of 1 is a linear layer, which keeps every cosine: a smaller one will do.",
        ),
        (np.zeros(len(cases)), "A slope of 0 is a plain ReLU, and the cosine exceeds the limit."),
    ]
    worst = int(np.argmax(np.nan_to_num(np.abs(found - right), nan=np.inf, posinf=np.inf, neginf=np.inf)))
    depth, start, limit = cases[worst]
    otherwise = f"A slope from 0 to 1 is asked for, and yours is {found[worst]:.3g}."
    if 0 <= found[worst] <= 1:
        otherwise = (
            f"With a slope of {found[worst]:.3g}, a cosine of {start:.2g} becomes "
            f"{_alike(found[worst], start, depth):.3g} in {depth} layers: {limit:.3g} is the limit, and the "
            "smallest slope just keeps it."
        )
    compare(found, right, mistakes, otherwise, 0.01)
