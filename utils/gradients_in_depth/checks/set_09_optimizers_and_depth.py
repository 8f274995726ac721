"""The checks of set 09, Optimizers and depth."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gradients_in_depth.checks.common import Mistake, as_floats, as_number, brief, call, compare, exercise


def _as_array(value: object, what: str, shape: tuple[int, ...], axes: str) -> np.ndarray:
    """An array of any library as floats of the shape asked for; lists of equal rows will do."""
    array = as_floats(value)
    if array is None:
        raise Mistake(f"{what} should be an array of shape {shape}, and you return {brief(value)}.")
    if array.shape != shape:
        raise Mistake(
            f"{what} should be an array of shape {axes}, here {shape}, and yours has shape {array.shape}."
        )
    return array


# --- Dropout as it was in 2012 -----------------------------------------------------------------------------

_DROPOUT = {  # (inverted, training): the weight_var, and what is said of others
    (True, True): (
        lambda p: 2 * p,
        [
            (lambda p: 2 / p, "upside down: does the division make the mean square larger or smaller?"),
            (
                lambda p: 2 * p**2,
                "that makes up for the division alone: a part of the squares is dropped, too.",
            ),
            (lambda p: 2 / p**2, "upside down, and the units that are dropped are forgotten."),
            (
                lambda p: 2 + 0 * p,
                "the MEAN is kept by the division, and the next layer hears the mean square.",
            ),
        ],
    ),
    (True, False): (
        lambda p: 2 + 0 * p,
        [
            (lambda p: 2 * p, "that is for training: what does this layer do to a signal in evaluation?"),
            (lambda p: 2 / p, "what does this layer do to a signal in evaluation?"),
            (lambda p: 2 / p**2, "the multiplication belongs to the other kind of dropout."),
            (lambda p: 2 * p**2, "the division belongs to training: what is left to do in evaluation?"),
        ],
    ),
    (False, True): (
        lambda p: 2 / p,
        [
            (
                lambda p: 2 * p,
                "that is for units that are divided: here a part of the squares is lost, and no more.",
            ),
            (
                lambda p: 2 / p**2,
                "as if every unit were there and multiplied: here some are left as they were.",
            ),
            (lambda p: 2 + 0 * p, "as if nothing were lost: a part of the squares is dropped."),
            (lambda p: 2 / np.sqrt(p), "a root too many: a mean square is asked for, not a size."),
        ],
    ),
    (False, False): (
        lambda p: 2 / p**2,
        [
            (lambda p: 2 / p, "what does a multiplication of every unit do to a mean SQUARE?"),
            (lambda p: 2 * p, "upside down, and the signal is multiplied: what becomes of its square?"),
            (lambda p: 2 * p**2, "upside down: the weights have to make up for what is lost."),
            (lambda p: 2 + 0 * p, "as if nothing happened: the old kind multiplies in evaluation."),
        ],
    ),
}


@exercise(
    2,
    praise="what a mask does to a mean square, and a number to its square, in both modes of both kinds.",
    hint=(
        "Take one unit whose square is 1 on average, and go through the four cases: with which chance is "
        "it there, and what is its square then? The mean of that is what the weights have to make up for. "
        "Do not forget what the ReLU leaves."
    ),
)
def dropout_start(start: Callable, seed: int) -> None:
    """The weight_var for ReLU layers with dropout: inverted or old, in training or in evaluation."""
    keeps = np.random.default_rng([91, seed]).uniform([0.3, 0.55, 0.8], [0.45, 0.7, 0.95])
    for (inverted, training), (law, mistakes) in _DROPOUT.items():
        where = f"{'Inverted' if inverted else 'Old'} dropout, {'training' if training else 'evaluation'}"
        found = np.array(
            [as_number(call(start, p, inverted, training), "The weight_var") for p in keeps.tolist()]
        )
        halves = "half of it is missing: what does the ReLU leave of a mean square?"
        candidates = [(wrong(keeps), f"{where}: {said}") for wrong, said in mistakes]
        candidates += [
            (law(keeps) / 2, f"{where}: {halves}"),
            (2 / law(keeps) / 2, f"{where}: that is what is left per layer, and the weights make up for it."),
            (np.sqrt(law(keeps)), f"{where}: that is σ_w, and weight_var is its square."),
            (law(1 - keeps), f"{where}: `keep` is the probability to KEEP a unit, not to drop it."),
        ]
        otherwise = (
            f"{where}: for keep = {keeps[0]:.2f} it is not {found[0]:.3g}; what is the mean square of one "
            "unit that was 1?"
        )
        compare(found, law(keeps), candidates, otherwise, 1e-6)


# --- Nothing of the fold that is left out ------------------------------------------------------------------


def _scaled(
    rows: np.ndarray, center: ArrayLike, spread: ArrayLike, blank: Callable = lambda s: np.where(s > 0, s, 1)
) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return (rows - center) / blank(np.asarray(spread))


def _folded(inputs: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
    """The right answer (k, images, pixels), and what else somebody may find."""
    folds = range(int(fold.max()) + 1)
    seen, left = [inputs[fold != f] for f in folds], [inputs[fold == f] for f in folds]

    def made(of: Callable, **options) -> np.ndarray:
        return np.array([_scaled(inputs, *of(f), **options) for f in folds])

    def both(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows.mean(axis=0), rows.std(axis=0)

    def each_its_own(f: int) -> np.ndarray:
        found = _scaled(inputs, *both(seen[f]))
        found[fold == f] = _scaled(left[f], *both(left[f]))
        return found

    def only_the_others(f: int) -> np.ndarray:
        return np.where((fold == f)[:, None], inputs, _scaled(inputs, *both(seen[f])))

    right = made(lambda f: both(seen[f]))
    mistakes = [
        (
            made(lambda f: both(inputs)),
            "All images set the scale, those left out as well: this is the leak that was to be closed.",
        ),
        (
            made(lambda f: both(left[f])),
            "The fold that is left out sets the scale: it should be the images that training may look at.",
        ),
        (
            np.array([each_its_own(f) for f in folds]),
            "The images left out are scaled by their own numbers: a network meets them one by one, with "
            "the numbers it was trained with.",
        ),
        (
            np.array([only_the_others(f) for f in folds]),
            "The images left out stay as they were: the network should meet them in the scale it knows.",
        ),
        (
            made(lambda f: (seen[f].mean(axis=0), inputs.std(axis=0))),
            "The means are clean, and the standard deviations have seen the fold that is left out.",
        ),
        (
            made(lambda f: (inputs.mean(axis=0), seen[f].std(axis=0))),
            "The standard deviations are clean, and the means have seen the fold that is left out.",
        ),
        (
            made(lambda f: (seen[f].mean(), seen[f].std())),
            "One mean and one deviation serve all pixels: each pixel has its own.",
        ),
        (
            np.array(
                [
                    (inputs - inputs.mean(axis=1, keepdims=True)) / inputs.std(axis=1, keepdims=True)
                    for f in folds
                ]
            ),
            "Each IMAGE is scaled by its own pixels: that is the other axis.",
        ),
        (
            made(lambda f: (seen[f].mean(axis=0), seen[f].var(axis=0))),
            "That divides by the variance: a root is missing.",
        ),
        (
            made(lambda f: (seen[f].mean(axis=0), seen[f].std(axis=0, ddof=1))),
            "Nearly: the deviation is that of np.std, which divides by the number of images, not by one "
            "less.",
        ),
        (
            made(lambda f: (0.0, seen[f].std(axis=0))),
            "The spread is right, and no mean is taken off.",
        ),
        (
            made(lambda f: (seen[f].mean(axis=0), 1.0)),
            "The mean is taken off, and the spread is left as it was.",
        ),
        (
            made(lambda f: both(seen[f]), blank=lambda s: np.where(s > 0, s, np.inf)),
            "A pixel that does not vary in training is set to 0: in the images left out it may vary, and "
            "is divided by 1.",
        ),
    ]
    return right, mistakes


@exercise(
    2,
    praise="the network meets the images left out as strangers, in the scale it was trained in.",
    hint=(
        "Do it for one fold first. Which rows may training look at? Take mean and deviation of those, "
        "pixel by pixel, and use these two on ALL rows. Then think of a pixel that is blank in all of "
        "them, and lit in an image left out."
    ),
)
def leakfree_folds(standardized: Callable, seed: int) -> None:
    """All inputs, standardized for each fold by the statistics of the others: (k, images, pixels)."""
    rng = np.random.default_rng([92, seed])
    for k, images, pixels in ((3, 14, 5), (4, 23, 6)):
        inputs = rng.normal(rng.normal(size=pixels), rng.uniform(0.5, 3, size=pixels), size=(images, pixels))
        fold = rng.permutation(np.arange(images) % k)
        inputs[:, 1], inputs[:, 2] = 0.5, 0.0  # blank in all images, and blank but for one
        inputs[rng.integers(images), 2] = 4.0
        right, mistakes = _folded(inputs, fold)
        found = _as_array(call(standardized, inputs, fold), "The result", right.shape, "(k, images, pixels)")
        if not np.isfinite(found).all():
            raise Mistake("Some numbers are not finite: what is divided by where a pixel does not vary?")
        if np.abs(found).max() > 1e4:
            raise Mistake(
                "A pixel that never varied in training becomes huge when it does: it is divided by a tiny "
                "number."
            )
        close = np.isclose(found, right, rtol=1e-6, atol=1e-9).all(axis=(1, 2))
        if close.sum() in range(1, k) and not any(
            np.allclose(found, wrong, rtol=1e-6, atol=1e-9) for wrong, _ in mistakes
        ):
            raise Mistake(f"Of {k} folds, {k - close.sum()} are wrong: is each entry in its place?")
        compare(found, right, mistakes, _elsewhere(found, inputs, fold), 1e-6)


def _elsewhere(found: np.ndarray, inputs: np.ndarray, fold: np.ndarray) -> str:
    mean = found[0][fold != 0].mean(axis=0)[0]
    return (
        f"With fold 0 left out, the first pixel of the other images has mean {mean:.2g} and deviation "
        f"{found[0][fold != 0].std(axis=0)[0]:.2g} (0 and 1 would be right); see to one fold, and one "
        "pixel, first."
    )


# --- A penalty that Adam cannot divide away ----------------------------------------------------------------


def _adamw(
    gradients: np.ndarray,
    start: np.ndarray,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    share: float | None = None,
    where: str = "first",
    corrected: Sequence[bool] = (True, True),
    eps: str = "outside",
) -> np.ndarray:
    """The weights after each step (steps, weights), with parts of it done otherwise.

    share: what one step takes of a weight, lr * weight_decay if None; where: "first", "after", "start",
    "gradient" or "divided"; eps: "outside", "inside", "none" or "uncorrected".
    """
    share = lr * weight_decay if share is None else share
    w, m, v, path = start.copy(), np.zeros_like(start), np.zeros_like(start), []
    for t, gradient in enumerate(gradients, 1):
        g = gradient + weight_decay * w if where == "gradient" else gradient
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        fills = [1 - beta**t if wanted else 1.0 for beta, wanted in zip(betas, corrected, strict=True)]
        root = {
            "outside": np.sqrt(v / fills[1]) + 1e-8,
            "inside": np.sqrt(v / fills[1] + 1e-8),
            "none": np.sqrt(v / fills[1]),
            "uncorrected": (np.sqrt(v) + 1e-8) / math.sqrt(fills[1]),
        }[eps]
        pull = m / fills[0] + (weight_decay * w if where == "divided" else 0.0)
        step = lr * np.divide(pull, root, out=np.full_like(root, np.nan), where=root > 0)
        if where == "first":
            w = (1 - share) * w - step
        elif where == "after":
            w = (1 - share) * (w - step)
        else:
            w = w - step - (share * start if where == "start" else 0.0)
        path.append(w)
    return np.array(path)


@exercise(
    3,
    praise="the penalty takes the same share of every weight, whatever its gradients are.",
    hint=(
        "Begin with the Adam of the lesson, on a copy of the weights, and see that it works for "
        "weight_decay 0. Then ask of the weight whose gradient is always 0: what should become of it in "
        "one step? Nothing that knows λ may go through the division."
    ),
)
def decoupled_decay(adamw: Callable, seed: int) -> None:
    """The weights after each step of AdamW, for gradients of several sizes: (steps, weights)."""
    rng = np.random.default_rng([93, seed])
    sizes = np.array([0.0, 1e-8, 1e-4, 1.0, 30.0])
    for steps in (1, 40):
        gradients = sizes * rng.normal(0.5, 1, size=(steps, len(sizes)))
        start = rng.choice([-1, 1], size=len(sizes)) * rng.uniform(0.5, 2, size=len(sizes))
        lr, weight_decay = float(rng.uniform(0.02, 0.05)), float(rng.uniform(0.5, 0.9))
        case = (gradients, start, lr, weight_decay)
        found = _as_array(call(adamw, *case), "The result", gradients.shape, "(steps, weights)")
        mistakes = [
            (
                _adamw(*case, where="gradient"),
                "That is Adam with an L2 penalty: λ times the weight is in the gradient, and gets divided.",
            ),
            (
                _adamw(*case, where="divided"),
                "λ times the weight has passed the averages by, and is still divided by the root of v.",
            ),
            (_adamw(*case, share=0.0), "That is Adam alone: nothing takes a share of the weights."),
            (
                _adamw(*case, share=weight_decay),
                "Each step takes a share of λ: the learning rate is missing there.",
            ),
            (
                _adamw(*case, share=lr),
                "Each step takes a share of lr: λ is missing there.",
            ),
            (_adamw(*case, share=-lr * weight_decay), "The penalty makes the weights grow: a sign is wrong."),
            (
                _adamw(*case, share=2 * lr * weight_decay),
                "Twice the share is taken: is it taken in two places?",
            ),
            (
                _adamw(*case, where="after"),
                "The share is taken after Adam's step, and of that step, too: it is taken of the weight "
                "before.",
            ),
            (
                _adamw(*case, where="start"),
                "Every step takes a share of where the weights BEGAN: it should be of where they are.",
            ),
            (
                _adamw(*case, corrected=(False, False)),
                "The decay is right, and both averages lack their bias correction.",
            ),
            (
                _adamw(*case, corrected=(False, True)),
                "The average of the gradients lacks its bias correction.",
            ),
            (_adamw(*case, corrected=(True, False)), "The average of the squares lacks its bias correction."),
            (
                _adamw(*case, betas=(0.999, 0.9)),
                "The two β are exchanged: which average has the longer memory?",
            ),
            (
                _adamw(*case, eps="inside"),
                "ε stands under the root: in the lesson it is added to the root, which matters where "
                "gradients are small.",
            ),
            (
                _adamw(*case, eps="uncorrected"),
                "ε is added before the bias correction: that makes it larger than 1e-8 in the first steps.",
            ),
            (
                _adamw(*case, eps="none"),
                "There is no ε: what becomes of a weight whose gradient is always 0?",
            ),
            (
                start + _adamw(*case, share=0.0) - start * (1 + lr * weight_decay),
                "The share is taken once, and not in each step.",
            ),
        ]
        mistakes = [(wrong, sentence) for wrong, sentence in mistakes if np.isfinite(wrong).all()]
        if not np.isfinite(found[:, 0]).all():
            raise Mistake(
                "The weight whose gradient is always 0 is not finite: look at ε, and at the first t."
            )
        wrong = ~np.isclose(found, _adamw(*case), rtol=1e-5, atol=1e-12)
        step, weight = np.argwhere(wrong)[0] if wrong.any() else (0, 0)
        otherwise = (
            f"After step {step + 1} the weight with gradients of size {sizes[weight]:.3g} is wrong: is your "
            "function Adam for weight_decay 0?"
        )
        if not wrong[0].any():
            otherwise = (
                f"The first step is right, and step {step + 1} is not: what is carried from one to the next?"
            )
        compare(found, _adamw(*case), mistakes, otherwise, 1e-5)


# --- One bad image -----------------------------------------------------------------------------------------

_SPIKE = 400.0


@exercise(
    3,
    praise="a square of 400² takes thousands of steps to be forgotten, and m was done in a few dozen.",
    hint=(
        "Which of the two averages still knows of the image after 200 steps? For a step of half the rate, "
        "how large must v be? Write v as what it always was, plus what the image has left in it after k "
        "steps."
    ),
)
def after_spike(steps: float, seed: int) -> None:
    """After how many steps Adam's step is back at half the learning rate, when one gradient was 400."""
    found = as_number(steps, "The number of steps")

    def until(surplus: float, left: float, beta: float = 0.999) -> float:
        """Steps in which a surplus falls to `left`."""
        return math.log(surplus / left) / -math.log(beta)

    one = 1 - 0.999
    right = until(one * (_SPIKE**2 - 1), 3)
    down = until(0.1 * (_SPIKE - 1), 0.5 * math.sqrt(1 + one * _SPIKE**2) - 1, 0.9)
    mistakes = [
        (
            until(one * _SPIKE**2, 1),
            "There v has fallen to 2: a step has the ROOT of v below it, so is that half the rate?",
        ),
        (
            until(one * _SPIKE**2, 4),
            "The rest of the image alone is 4 there: the gradients of 1 are in v as well.",
        ),
        (
            until(_SPIKE**2, 3),
            "As if the image had entered v with its whole square: how much of a new square does v take in?",
        ),
        (
            until(_SPIKE**2, 4),
            "As if the image had entered v with its whole square, and the gradients of 1 were gone: write "
            "v down.",
        ),
        (
            until(_SPIKE**2, 1),
            "As if the image had entered v with its whole square; and half the rate is not v = 2 either.",
        ),
        (
            until(_SPIKE, 3),
            "As if v were an average of sizes: it is one of squares, and takes in a small part of each.",
        ),
        (
            until(_SPIKE, 4),
            "As if v were an average of sizes: it is one of squares, and takes in a small part of each.",
        ),
        (
            until(_SPIKE, 2),
            "As if v were an average of sizes: it is one of squares, and takes in a small part of each.",
        ),
        (
            until(_SPIKE, 1),
            "As if v were an average of sizes: it is one of squares, and takes in a small part of each.",
        ),
        (
            until(one * _SPIKE**2, 3, 0.999**0.5),
            "As if v forgot by the root of β₂ in a step: take the root of v, and only at the end.",
        ),
        (
            until(one * _SPIKE**2, 0.5),
            "There the rest of the image in v is one half: the STEP should be, which has the root of v "
            "below it.",
        ),
        (until(one * _SPIKE**2, 3) / math.log(10), "Near, but for the logarithm: which one undoes 0.999^k?"),
        (
            1000.0,
            "That is the length of v's memory: how many of them does it take until such a square is small?",
        ),
        (
            math.log(2) * 1000,
            "In so many steps v forgets half: of a square as large as this one, half is still too much.",
        ),
        *(
            (
                k,
                "There the steps fall BELOW half the rate, as m forgets the image: when do they come back?",
            )
            for k in (down, math.ceil(down))
        ),
        (until(0.1 * _SPIKE, 1, 0.9), "So long m remembers the image: the other average remembers longer."),
        (
            until(0.1 * _SPIKE**2, 3, 0.9),
            "That is with β₁: the average of the squares forgets by the other β.",
        ),
    ]
    otherwise = (
        f"{found:.3g} is not it: write down v, k steps after the image, and put your k into it."
        if math.isfinite(found)
        else "That is no number of steps: write down v, k steps after the image."
    )
    compare(found, right, mistakes, otherwise, 0.02)


# --- The word that comes once in a thousand steps ----------------------------------------------------------


def _occurrence(period: int, beta1: float, beta2: float) -> tuple[np.ndarray, np.ndarray]:
    """m and v, of g = 1, in the steps from one occurrence to the next: two arrays (period,)."""
    k = np.arange(period)
    m = (1 - beta1) * beta1**k / (1 - beta1**period)
    v = (1 - beta2) * beta2**k / (1 - beta2**period)
    return m, v


def _from_the_start(period: int, beta1: float, beta2: float) -> float:
    """What moves in the first period, with bias corrections."""
    t = np.arange(1, period + 1)
    m = (1 - beta1) * beta1 ** (t - 1) / (1 - beta1**t)
    v = (1 - beta2) * beta2 ** (t - 1) / (1 - beta2**t)
    return float(np.sum(m / np.sqrt(v)))


@exercise(
    4,
    praise="each gradient counts the more the rarer it is, until v forgets one before the next comes.",
    hint=(
        "The size of g drops out, so take 1. Write m and v down, k steps after an occurrence: each is a "
        "geometric sum over all occurrences before. Adam moves in ALL steps of the period, not only in the "
        "one with the gradient. To try it, take period 1 and 2 by hand."
    ),
)
def rare_gradient(movement: Callable, seed: int) -> None:
    """Adam's movement per period, in learning rates, when a gradient comes once in a period."""
    rng = np.random.default_rng([96, seed])
    cases = [(1, 0.9, 0.999)]
    for low, high in ((2, 4), (5, 15), (60, 150), (900, 1300)):
        beta1, beta2 = rng.uniform([0.8, 0.99], [0.93, 0.998])
        cases.append((int(rng.integers(low, high)), float(beta1), float(beta2)))
    found = np.array([as_number(call(movement, *case), "The movement") for case in cases])
    periods, first, second = np.array(cases).T
    known = [_occurrence(*case) for case in cases]
    right = np.array([np.sum(m / np.sqrt(v)) for m, v in known])
    ratio = first / np.sqrt(second)
    fill1, fill2 = 1 - first**periods, 1 - second**periods
    lone = (1 - first) / np.sqrt(1 - second) / (1 - ratio)
    mistakes = [
        (
            np.ones(len(cases)),
            "As with SGD, or with a gradient in every step: the squares are averaged over the empty steps, "
            "too.",
        ),
        (
            periods,
            "As if every step were a whole learning rate: what becomes of m between two occurrences?",
        ),
        (
            np.sqrt(periods),
            "That holds while v hardly changes within a period: here it forgets between two occurrences.",
        ),
        (
            1 / np.sqrt(periods),
            "That is about one STEP, if v hardly changes within a period: count all of them, and let v "
            "change.",
        ),
        (
            lone,
            "That is for a single gradient that never comes again: m and v still know the occurrences "
            "before.",
        ),
        (
            [m[0] / math.sqrt(v[0]) for m, v in known],
            "That is the step WITH the gradient alone: Adam goes on moving in the steps after it.",
        ),
        (
            [1 / math.sqrt(v[0]) for _, v in known],
            "As if v stood still between two occurrences, or there were no m: both averages fall, and not "
            "at the same rate.",
        ),
        (
            [1 / math.sqrt(v[-1]) for _, v in known],
            "As if v were the whole time what it is just before the next occurrence: it falls on the way "
            "there.",
        ),
        (
            [np.sum(m / v) for m, v in known],
            "m is divided by v: where is the root?",
        ),
        (right / periods, "That is the movement per STEP, on average: a whole period is asked for."),
        (
            right * fill1,
            "In m only the last occurrence is counted: what is left of those before adds to it.",
        ),
        (
            right / np.sqrt(fill2),
            "In v only the last occurrence is counted: what is left of those before adds to it.",
        ),
        (
            [_from_the_start(*case) for case in cases],
            "That is the FIRST period, bias corrections included: nothing should depend on how it began.",
        ),
        (
            [np.sum(m[1:] / np.sqrt(v[1:])) for m, v in known],
            "The step with the gradient itself is missing: begin to count there.",
        ),
        (-right, "The sign: how far it moves is a positive number."),
    ]
    wrong = np.flatnonzero(~np.isclose(found, right, rtol=0.01))
    otherwise = "What do you find for period 1, where the gradient never changes?"
    if wrong.size:
        period, beta1, beta2 = cases[wrong[0]]
        otherwise = (
            f"For period {period}, β₁ = {beta1:.3f} and β₂ = {beta2:.4f} it is not {found[wrong[0]]:.3g}: "
            "follow m and v through one period of a training that has settled."
        )
    compare(found, right, mistakes, otherwise, 0.01)
