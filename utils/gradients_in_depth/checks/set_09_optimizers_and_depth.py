"""The checks of set 09, Optimizers and depth."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from gradients_in_depth.checks.common import Case, Mistake, Trial, as_floats, brief, exercise, number


def _as_array(value: object, shape: tuple[int, ...], axes: str) -> np.ndarray:
    """An array of any library as floats of the shape asked for; lists of equal rows will do."""
    array = as_floats(value)
    if array is None:
        raise Mistake(f"The result should be an array of shape {shape}, and you return {brief(value)}.")
    if array.shape != shape:
        raise Mistake(
            f"The result should be an array of shape {axes}, here {shape}, and yours has shape {array.shape}."
        )
    return array


# --- Dropout as it was in 2012 -----------------------------------------------------------------------------


def _power(exponent: float) -> Callable[..., float]:
    return lambda keep, *_: 2.0 * keep**exponent


def _dropout(inverted: bool, training: bool, exponent: float, others: Mapping[float, str]) -> Trial:
    """weight_var is 2 · keep to the power of `exponent`; `others` say what leads to another power."""
    where = f"{'Inverted' if inverted else 'Old'} dropout, {'training' if training else 'evaluation'}"
    right = _power(exponent)
    dropped: dict[str, Callable[..., float]] = {
        "`keep` is the probability to KEEP a unit, not to drop it.": lambda p, *_: right(1 - p)
    }
    mistakes: dict[str, Callable[..., float]] = {
        **{sentence: _power(other) for other, sentence in others.items()},
        "half of it is missing: what does the ReLU leave of a mean square?": lambda p, *_: right(p) / 2,
        "that is what is left per layer, and the weights make up for it.": lambda p, *_: 1 / right(p),
        "that is σ_w, and weight_var is its square.": lambda p, *_: math.sqrt(right(p)),
        **(dropped if exponent else {}),
    }
    return Trial(
        # All four are tried with the same probabilities: a copy leaves the generator as it is.
        cases=lambda rng: [
            (keep, inverted, training)
            for keep in copy.deepcopy(rng).uniform([0.3, 0.55, 0.8], [0.45, 0.7, 0.95]).tolist()
        ],
        read=number("The weight_var"),
        right=right,
        mistakes={f"{where}: {sentence}": mistake for sentence, mistake in mistakes.items()},
        otherwise=lambda cases, results, _: (
            f"{where}: for keep = {cases[0][0]:.2f} it is not {results[0]:.3g}; what is the mean square of "
            "one unit that was 1?"
        ),
    )


_DROPOUT = [
    _dropout(
        inverted=True,
        training=True,
        exponent=1,
        others={
            -1: "upside down: does the division make the mean square larger or smaller?",
            2: "that makes up for the division alone: a part of the squares is dropped, too.",
            -2: "upside down, and the units that are dropped are forgotten.",
            0: "the MEAN is kept by the division, and the next layer hears the mean square.",
        },
    ),
    _dropout(
        inverted=True,
        training=False,
        exponent=0,
        others={
            1: "that is for training: what does this layer do to a signal in evaluation?",
            -1: "what does this layer do to a signal in evaluation?",
            -2: "the multiplication belongs to the other kind of dropout.",
            2: "the division belongs to training: what is left to do in evaluation?",
        },
    ),
    _dropout(
        inverted=False,
        training=True,
        exponent=-1,
        others={
            1: "that is for units that are divided: here a part of the squares is lost, and no more.",
            -2: "as if every unit were there and multiplied: here some are left as they were.",
            0: "as if nothing were lost: a part of the squares is dropped.",
            -0.5: "a root too many: a mean square is asked for, not a size.",
        },
    ),
    _dropout(
        inverted=False,
        training=False,
        exponent=-2,
        others={
            -1: "what does a multiplication of every unit do to a mean SQUARE?",
            1: "upside down, and the signal is multiplied: what becomes of its square?",
            2: "upside down: the weights have to make up for what is lost.",
            0: "as if nothing happened: the old kind multiplies in evaluation.",
        },
    ),
]


@exercise(
    2,
    praise="what a mask does to a mean square, and a number to its square, in both modes of both kinds.",
    hint=(
        "Take one unit whose square is 1 on average, and go through the four cases: with which chance is "
        "it there, and what is its square then? The mean of that is what the weights have to make up for. "
        "Do not forget what the ReLU leaves."
    ),
    stream=91,
    trials=_DROPOUT,
)
def dropout_start(start: Callable, seed: int) -> None:
    """The weight_var for ReLU layers with dropout: inverted or old, in training or in evaluation."""


# --- Nothing of the fold that is left out ------------------------------------------------------------------


def _folds(rng: np.random.Generator) -> list[Case]:
    """Inputs (images, pixels), and the fold of each image: (images,)."""
    cases = []
    for k, images, pixels in ((3, 14, 5), (4, 23, 6)):
        inputs = rng.normal(rng.normal(size=pixels), rng.uniform(0.5, 3, size=pixels), size=(images, pixels))
        fold = rng.permutation(np.arange(images) % k)
        inputs[:, 1], inputs[:, 2] = 0.5, 0.0  # blank in all images, and blank but for one
        inputs[rng.integers(images), 2] = 4.0
        cases.append((inputs, fold))
    return cases


def _by(statistics: Callable, blank: float = 1.0) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Standardized for each fold by center and spread: (k, images, pixels).

    Both are what `statistics` makes of the inputs and of which images are left out. A spread of 0 is replaced
    by `blank`.
    """

    def standardized(inputs: np.ndarray, fold: np.ndarray) -> np.ndarray:
        results = []
        for left_out in range(fold.max() + 1):
            center, spread = statistics(inputs, fold == left_out)
            results.append((inputs - center) / np.where(spread > 0, spread, blank))
        return np.array(results)

    return standardized


def _moments(images: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean and standard deviation for each pixel, (2, 1, pixels); with axis 1 for each image."""
    return np.array([images.mean(axis, keepdims=True), images.std(axis, keepdims=True)])


def _of_training(inputs: np.ndarray, out: np.ndarray) -> np.ndarray:
    return _moments(inputs[~out])


def _unlike_any(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    [(inputs, fold)] = cases
    made = results.reshape(-1, *inputs.shape)
    close = np.isclose(made, right.reshape(made.shape), rtol=1e-6, atol=1e-9).all(axis=(1, 2))
    if close.any():
        return f"Of {len(made)} folds, {(~close).sum()} are wrong: is each entry in its place?"
    pixel = made[0, fold != 0, 0]
    return (
        f"With fold 0 left out, the first pixel of the other images has mean {pixel.mean():.2g} and "
        f"deviation {pixel.std():.2g} (0 and 1 would be right); see to one fold, and one pixel, first."
    )


_STANDARDIZED = Trial(
    cases=_folds,
    one_by_one=True,
    read=lambda result, inputs, fold: _as_array(
        result, (int(fold.max()) + 1, *inputs.shape), "(k, images, pixels)"
    ),
    impossible={
        "Some numbers are not finite: what is divided by where a pixel does not vary?": (
            lambda results: not np.isfinite(results).all()
        ),
        "A pixel that never varied in training becomes huge when it does: it is divided by a tiny number.": (
            lambda results: np.abs(results).max() > 1e4
        ),
    },
    right=_by(_of_training),
    mistakes={
        "All images set the scale, those left out as well: this is the leak that was to be closed.": _by(
            lambda x, out: _moments(x)
        ),
        "The fold that is left out sets the scale: it should be the images that training may look at.": _by(
            lambda x, out: _moments(x[out])
        ),
        "The images left out are scaled by their own numbers: a network meets them one by one, with the "
        "numbers it was trained with.": _by(
            lambda x, out: np.where(out[:, None], _moments(x[out]), _of_training(x, out))
        ),
        "The images left out stay as they were: the network should meet them in the scale it knows.": _by(
            lambda x, out: np.where(out[:, None], [[[0]], [[1]]], _of_training(x, out))
        ),
        "The means are clean, and the standard deviations have seen the fold that is left out.": _by(
            lambda x, out: (x[~out].mean(axis=0), x.std(axis=0))
        ),
        "The standard deviations are clean, and the means have seen the fold that is left out.": _by(
            lambda x, out: (x.mean(axis=0), x[~out].std(axis=0))
        ),
        "One mean and one deviation serve all pixels: each pixel has its own.": _by(
            lambda x, out: (x[~out].mean(), x[~out].std())
        ),
        "Each IMAGE is scaled by its own pixels: that is the other axis.": _by(
            lambda x, out: _moments(x, axis=1)
        ),
        "That divides by the variance: a root is missing.": _by(
            lambda x, out: (x[~out].mean(axis=0), x[~out].var(axis=0))
        ),
        "Nearly: the deviation is that of np.std, which divides by the number of images, not by one less.": (
            _by(lambda x, out: (x[~out].mean(axis=0), x[~out].std(axis=0, ddof=1)))
        ),
        "The spread is right, and no mean is taken off.": _by(lambda x, out: (0.0, x[~out].std(axis=0))),
        "The mean is taken off, and the spread is left as it was.": _by(
            lambda x, out: (x[~out].mean(axis=0), 1.0)
        ),
        "A pixel that does not vary in training is set to 0: in the images left out it may vary, and is "
        "divided by 1.": _by(_of_training, blank=math.inf),
    },
    otherwise=_unlike_any,
)


@exercise(
    2,
    praise="the network meets the images left out as strangers, in the scale it was trained in.",
    hint=(
        "Do it for one fold first. Which rows may training look at? Take mean and deviation of those, "
        "pixel by pixel, and use these two on ALL rows. Then think of a pixel that is blank in all of "
        "them, and lit in an image left out."
    ),
    stream=92,
    trials=[_STANDARDIZED],
)
def leakfree_folds(standardized: Callable, seed: int) -> None:
    """All inputs, standardized for each fold by the statistics of the others: (k, images, pixels)."""


# --- A penalty that Adam cannot divide away ----------------------------------------------------------------

_SIZES = np.array([0.0, 1e-8, 1e-4, 1.0, 30.0])  # of the gradients of the five weights


def _trainings(rng: np.random.Generator) -> list[Case]:
    """Gradients (steps, weights), the weights at the start, lr and weight_decay."""
    return [
        (
            _SIZES * rng.normal(0.5, 1, size=(steps, len(_SIZES))),
            rng.choice([-1, 1], size=len(_SIZES)) * rng.uniform(0.5, 2, size=len(_SIZES)),
            float(rng.uniform(0.02, 0.05)),
            float(rng.uniform(0.5, 0.9)),
        )
        for steps in (1, 40)
    ]


def _adamw(
    gradients: np.ndarray,
    start: np.ndarray,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    share: Callable[[float, float], float] = lambda lr, weight_decay: lr * weight_decay,
    where: str = "first",
    corrected: tuple[bool, bool] = (True, True),
    eps: str = "outside",
) -> np.ndarray:
    """The weights after each step (steps, weights), with parts of it done otherwise.

    share: what one step takes of a weight; where: "first", "after", "start", "gradient" or "divided";
    eps: "outside", "inside" or "uncorrected".
    """
    taken = share(lr, weight_decay)
    w, m, v, path = start, np.zeros_like(start), np.zeros_like(start), []
    for t, gradient in enumerate(gradients, 1):
        g = gradient + weight_decay * w if where == "gradient" else gradient
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_fill = 1 - betas[0] ** t if corrected[0] else 1.0
        v_fill = 1 - betas[1] ** t if corrected[1] else 1.0
        root = {
            "outside": np.sqrt(v / v_fill) + 1e-8,
            "inside": np.sqrt(v / v_fill + 1e-8),
            "uncorrected": (np.sqrt(v) + 1e-8) / math.sqrt(v_fill),
        }[eps]
        step = lr * (m / m_fill + (weight_decay * w if where == "divided" else 0.0)) / root
        taken_of = {"first": w, "after": w - step, "start": start}.get(where, 0.0)
        w = w - step - taken * taken_of
        path.append(w)
    return np.array(path)


def _decayed_once(gradients: np.ndarray, start: np.ndarray, lr: float, weight_decay: float) -> np.ndarray:
    without = _adamw(gradients, start, lr, weight_decay, share=lambda *_: 0.0)
    return without - lr * weight_decay * start


def _where_it_begins(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    wrong = ~np.isclose(results, right, rtol=1e-5, atol=1e-12).reshape(-1, len(_SIZES))
    step, weight = np.argwhere(wrong)[0]
    if step:
        return f"The first step is right, and step {step + 1} is not: what is carried from one to the next?"
    return (
        f"After step 1 the weight with gradients of size {_SIZES[weight]:.3g} is wrong: is your function "
        "Adam for weight_decay 0?"
    )


_ADAMW = Trial(
    cases=_trainings,
    one_by_one=True,
    read=lambda result, gradients, *_: _as_array(result, gradients.shape, "(steps, weights)"),
    impossible={
        "The weight whose gradient is always 0 is not finite: look at ε, and at the first t.": (
            lambda results: not np.isfinite(results[:: len(_SIZES)]).all()
        )
    },
    right=_adamw,
    mistakes={
        "That is Adam with an L2 penalty: λ times the weight is in the gradient, and gets divided.": partial(
            _adamw, where="gradient"
        ),
        "λ times the weight has passed the averages by, and is still divided by the root of v.": partial(
            _adamw, where="divided"
        ),
        "That is Adam alone: nothing takes a share of the weights.": partial(_adamw, share=lambda *_: 0.0),
        "Each step takes a share of λ: the learning rate is missing there.": partial(
            _adamw, share=lambda lr, weight_decay: weight_decay
        ),
        "Each step takes a share of lr: λ is missing there.": partial(
            _adamw, share=lambda lr, weight_decay: lr
        ),
        "The penalty makes the weights grow: a sign is wrong.": partial(
            _adamw, share=lambda lr, weight_decay: -lr * weight_decay
        ),
        "Twice the share is taken: is it taken in two places?": partial(
            _adamw, share=lambda lr, weight_decay: 2 * lr * weight_decay
        ),
        "The share is taken after Adam's step, and of that step, too: it is taken of the weight before.": (
            partial(_adamw, where="after")
        ),
        "Every step takes a share of where the weights BEGAN: it should be of where they are.": partial(
            _adamw, where="start"
        ),
        "The decay is right, and both averages lack their bias correction.": partial(
            _adamw, corrected=(False, False)
        ),
        "The average of the gradients lacks its bias correction.": partial(_adamw, corrected=(False, True)),
        "The average of the squares lacks its bias correction.": partial(_adamw, corrected=(True, False)),
        "The two β are exchanged: which average has the longer memory?": partial(_adamw, betas=(0.999, 0.9)),
        "ε stands under the root: in the lesson it is added to the root, which matters where gradients are "
        "small.": partial(_adamw, eps="inside"),
        "ε is added before the bias correction: that makes it larger than 1e-8 in the first steps.": partial(
            _adamw, eps="uncorrected"
        ),
        "The share is taken once, and not in each step.": _decayed_once,
    },
    otherwise=_where_it_begins,
    tolerance=1e-5,
)


@exercise(
    3,
    praise="the penalty takes the same share of every weight, whatever its gradients are.",
    hint=(
        "Begin with the Adam of the lesson, on a copy of the weights, and see that it works for "
        "weight_decay 0. Then ask of the weight whose gradient is always 0: what should become of it in "
        "one step? Nothing that knows λ may go through the division."
    ),
    stream=93,
    trials=[_ADAMW],
)
def decoupled_decay(adamw: Callable, seed: int) -> None:
    """The weights after each step of AdamW, for gradients of several sizes: (steps, weights)."""


# --- One bad image -----------------------------------------------------------------------------------------

_SPIKE = 400.0
_IN_V = 0.001 * _SPIKE**2  # what the image leaves in v at once


def _until(surplus: float, left: float, beta: float = 0.999) -> float:
    """Steps in which a surplus falls to `left`."""
    return math.log(surplus / left) / -math.log(beta)


_FALLS_BELOW = _until(0.1 * (_SPIKE - 1), 0.5 * math.sqrt(1 + _IN_V) - 1, 0.9)
_BACK = Trial(
    read=number("The number of steps"),
    right=_until(0.001 * (_SPIKE**2 - 1), 3),
    mistakes={
        "There v has fallen to 2: a step has the ROOT of v below it, so is that half the rate?": (
            _until(_IN_V, 1)
        ),
        "The rest of the image alone is 4 there: the gradients of 1 are in v as well.": _until(_IN_V, 4),
        "As if the image had entered v with its whole square: how much of a new square does v take in?": (
            _until(_SPIKE**2, 3)
        ),
        "As if the image had entered v with its whole square, and the gradients of 1 were gone: write v "
        "down.": _until(_SPIKE**2, 4),
        "As if the image had entered v with its whole square; and half the rate is not v = 2 either.": (
            _until(_SPIKE**2, 1)
        ),
        "As if v were an average of sizes: it is one of squares, and takes in a small part of each.": tuple(
            _until(_SPIKE, left) for left in (3, 4, 2, 1)
        ),
        "As if v forgot by the root of β₂ in a step: take the root of v, and only at the end.": (
            2 * _until(_IN_V, 3)
        ),
        "There the rest of the image in v is one half: the STEP should be, which has the root of v below "
        "it.": _until(_IN_V, 0.5),
        "Near, but for the logarithm: which one undoes 0.999^k?": _until(_IN_V, 3) / math.log(10),
        "That is the length of v's memory: how many of them does it take until such a square is small?": 1000,
        "In so many steps v forgets half: of a square as large as this one, half is still too much.": (
            math.log(2) * 1000
        ),
        "There the steps fall BELOW half the rate, as m forgets the image: when do they come back?": (
            _FALLS_BELOW,
            math.ceil(_FALLS_BELOW),
        ),
        "So long m remembers the image: the other average remembers longer.": _until(0.1 * _SPIKE, 1, 0.9),
        "That is with β₁: the average of the squares forgets by the other β.": (
            _until(0.1 * _SPIKE**2, 3, 0.9)
        ),
    },
    otherwise=lambda _, results, right: (
        f"{results[0]:.3g} is not it: write down v, k steps after the image, and put your k into it."
        if np.isfinite(results[0])
        else "That is not a number of steps: write down v, k steps after the image."
    ),
    tolerance=0.02,
)


@exercise(
    3,
    praise="a square of 400² takes thousands of steps to be forgotten, and m was done in a few dozen.",
    hint=(
        "Which of the two averages still knows of the image after 200 steps? For a step of half the rate, "
        "how large must v be? Write v as what it always was, plus what the image has left in it after k "
        "steps."
    ),
    trials=[_BACK],
)
def after_spike(steps: float, seed: int) -> None:
    """After how many steps Adam's step is back at half the learning rate, when one gradient was 400."""


# --- The word that comes once in a thousand steps ----------------------------------------------------------


def _periods(rng: np.random.Generator) -> list[Case]:
    """Period, β₁ and β₂."""
    cases = [(1, 0.9, 0.999)]
    for low, high in ((2, 4), (5, 15), (60, 150), (900, 1300)):
        beta1, beta2 = rng.uniform([0.8, 0.99], [0.93, 0.998])
        cases.append((int(rng.integers(low, high)), float(beta1), float(beta2)))
    return cases


def _from(collect: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., float]:
    """What somebody gets who makes something of m and v, for g = 1, in the steps of one period: (period,)."""

    def movement(period: int, *betas: float) -> float:
        k = np.arange(period)
        m, v = ((1 - beta) * beta**k / (1 - beta**period) for beta in betas)
        return collect(m, v)

    return movement


_moved = _from(lambda m, v: (m / np.sqrt(v)).sum())


def _for_good(period: int, beta1: float, beta2: float) -> float:
    """What a gradient moves that never comes again."""
    return (1 - beta1) / math.sqrt(1 - beta2) / (1 - beta1 / math.sqrt(beta2))


def _from_the_start(period: int, *betas: float) -> float:
    """What moves in the first period, with bias corrections."""
    t = np.arange(1, period + 1)
    m, v = ((1 - beta) * beta ** (t - 1) / (1 - beta**t) for beta in betas)
    return float((m / np.sqrt(v)).sum())


def _not_settled(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    first = int(np.argmin(np.isclose(results, right, rtol=0.01)))
    period, beta1, beta2 = cases[first]
    return (
        f"For period {period}, β₁ = {beta1:.3f} and β₂ = {beta2:.4f} it is not {results[first]:.3g}: "
        "follow m and v through one period of a training that has settled."
    )


_MOVEMENT = Trial(
    cases=_periods,
    read=number("The movement"),
    right=_moved,
    mistakes={
        "As with SGD, or with a gradient in every step: the squares are averaged over the empty steps, "
        "too.": 1.0,
        "As if every step were a whole learning rate: what becomes of m between two occurrences?": (
            lambda period, *_: period
        ),
        "That holds while v hardly changes within a period: here it forgets between two occurrences.": (
            lambda period, *_: math.sqrt(period)
        ),
        "That is about one STEP, if v hardly changes within a period: count all of them, and let v change.": (
            lambda period, *_: 1 / math.sqrt(period)
        ),
        "That is for a single gradient that never comes again: m and v still know the occurrences before.": (
            _for_good
        ),
        "That is the step WITH the gradient alone: Adam goes on moving in the steps after it.": _from(
            lambda m, v: m[0] / math.sqrt(v[0])
        ),
        "As if v stood still between two occurrences, or there were no m: both averages fall, and not at "
        "the same rate.": _from(lambda m, v: 1 / math.sqrt(v[0])),
        "As if v were the whole time what it is just before the next occurrence: it falls on the way "
        "there.": _from(lambda m, v: 1 / math.sqrt(v[-1])),
        "m is divided by v: where is the root?": _from(lambda m, v: (m / v).sum()),
        "That is the movement per STEP, on average: a whole period is asked for.": _from(
            lambda m, v: (m / np.sqrt(v)).mean()
        ),
        "In m only the last occurrence is counted: what is left of those before adds to it.": (
            lambda period, beta1, beta2: _moved(period, beta1, beta2) * (1 - beta1**period)
        ),
        "In v only the last occurrence is counted: what is left of those before adds to it.": (
            lambda period, beta1, beta2: _moved(period, beta1, beta2) / math.sqrt(1 - beta2**period)
        ),
        "That is the FIRST period, bias corrections included: nothing should depend on how it began.": (
            _from_the_start
        ),
        "The step with the gradient itself is missing: begin to count there.": _from(
            lambda m, v: (m[1:] / np.sqrt(v[1:])).sum()
        ),
        "The sign: how far it moves is a positive number.": lambda *case: -_moved(*case),
    },
    otherwise=_not_settled,
    tolerance=0.01,
)


@exercise(
    4,
    praise="each gradient counts the more the rarer it is, until v forgets one before the next comes.",
    hint=(
        "The size of g drops out, so take 1. Write m and v down, k steps after an occurrence: each is a "
        "geometric sum over all occurrences before. Adam moves in ALL steps of the period, not only in the "
        "one with the gradient. To try it, take period 1 and 2 by hand."
    ),
    stream=96,
    trials=[_MOVEMENT],
)
def rare_gradient(movement: Callable, seed: int) -> None:
    """Adam's movement per period, in learning rates, when a gradient comes once in a period."""
