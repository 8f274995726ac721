"""The checks of set 07, Gradient clipping."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradients_in_depth.checks.common import (
    Mistake,
    as_floats,
    as_number,
    as_whole_number,
    brief,
    call,
    close,
    compare,
    exercise,
)


def _arrays(value: object, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The learner's list of arrays, or a sentence on what it is instead."""
    if not isinstance(value, list | tuple):
        raise Mistake(f"A list of arrays is asked for, one for each gradient, and this is {brief(value)}.")
    if len(value) != len(like):
        raise Mistake(f"{len(like)} gradients go in, and {len(value)} come out: every one has its place.")
    found = [as_floats(one) for one in value]
    if any(one is None for one in found):
        raise Mistake("The list should hold arrays of numbers, and holds something else.")
    for one, other in zip(found, like, strict=True):
        if one.shape != other.shape:
            raise Mistake(f"A gradient of shape {other.shape} comes back with the shape {one.shape}.")
    return found


@exercise(
    2,
    praise="one factor for all of them, and only if it is needed.",
    hint=(
        "Imagine all arrays laid end to end as one long vector. What is its length? Ask first whether "
        "anything has to be done at all; if so, every entry of every array is multiplied by one number."
    ),
)
def joint_clip(clip: Callable, seed: int) -> None:
    """A list of arrays clipped by their global norm."""
    rng = np.random.default_rng([71, seed])
    cases = []
    for threshold, size in ((1.5, 2.0), (0.5, 0.01), (3.0, 1.5), (2.0, 0.0)):
        gradients = [size * rng.normal(size=shape) for shape in ((3, 4), (5,), (2, 2, 3))]
        gradients[1] *= 3  # so that no two of them have one size
        cases.append((gradients, threshold))
    large, small, _, nothing = range(len(cases))
    found = [_arrays(call(clip, *case), case[0]) for case in cases]

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([a.ravel() for a in arrays])

    def same(number: int, expected: Sequence[np.ndarray]) -> bool:
        return bool(np.allclose(joined(found[number]), joined(expected), rtol=1e-5, atol=1e-12))

    def factor(norm: float, threshold: float) -> float:
        return threshold / norm if norm > threshold else 1.0

    def clipped(norm: Callable) -> list[list[np.ndarray]]:
        return [[factor(norm(joined(gs)), c) * g for g in gs] for gs, c in cases]

    norm = np.linalg.norm
    if not np.isfinite(joined(found[nothing])).all():
        raise Mistake("If all gradients are 0 you divide by 0: ask first whether anything has to be clipped.")
    (given, c), right = cases[large], clipped(norm)
    lengths = [norm(g) for g in given]
    if all(same(k, expected) for k, expected in enumerate(right)):
        return
    always = [[c / norm(joined(gs)) * g for g in gs] if np.any(gs[0]) else gs for gs, c in cases]
    if same(large, right[large]) and same(small, always[small]):
        raise Mistake(
            "Gradients that are shorter than the threshold are made longer: clipping only shortens."
        )
    mistakes = [
        (given, "Nothing is clipped, although the global norm is above the threshold."),
        (
            [factor(length, c) * g for g, length in zip(given, lengths, strict=True)],
            "Each array is clipped to a norm of its own: that turns the direction.",
        ),
        (
            [np.clip(g, -c, c) for g in given],
            "That is clipping by VALUE, entry by entry: it turns the direction.",
        ),
        (
            [factor(sum(lengths), c) * g for g in given],
            "The norms are added: lengths at right angles add up otherwise, by their squares.",
        ),
        (
            [factor(max(lengths), c) * g for g in given],
            "Only the longest array is measured: the global norm is that of all entries together.",
        ),
        (
            [factor(norm(joined(given)) ** 2, c) * g for g in given],
            "You compare the SQUARED norm with the threshold: a root is missing.",
        ),
        (
            [factor(np.abs(joined(given)).sum(), c) * g for g in given],
            "That is the sum of sizes: the norm is the root of the sum of squares.",
        ),
        (
            [factor(norm(joined(given)) / math.sqrt(joined(given).size), c) * g for g in given],
            "That is the root MEAN square, and the norm is the root of the SUM of squares.",
        ),
        ([g / norm(joined(given)) for g in given], "They come out with norm 1: where is the threshold?"),
        ([c * g for g in given], "Every entry is multiplied by the threshold itself: by what should it be?"),
    ]
    for wrong, sentence in mistakes:
        if same(large, wrong):
            raise Mistake(sentence)
    length = norm(joined(found[large]))
    raise Mistake(
        f"Gradients of the global norm {norm(joined(given)):.3g}, clipped at {c:.3g}, come out with "
        f"{length:.3g}, or in another direction: lay all entries end to end and compare before and after."
    )


@exercise(
    3,
    praise="a gate has to be very near 1 to last, and it takes a bias of some size to get there.",
    hint=(
        "Which number, to the power of 100, is a half? That is the gate; which bias does a sigmoid turn into "
        "it? For the second question take logarithms, and mind that a number of steps is whole."
    ),
)
def remembering_bias(bias: float, steps: int, seed: int) -> None:
    """The forget bias that keeps a half over 100 steps, and the steps until 1 % is left at a bias of 1."""
    gate = 0.5**0.01
    right = math.log(gate / (1 - gate))
    found = as_number(bias, "The bias")
    if found == 1:  # nearer to the gate than the tolerance
        raise Mistake("That is the usual choice: what is left of 1 after 100 steps of it?")
    mistakes = [
        (gate, "That is the GATE: which bias does a sigmoid turn into it?"),
        (-right, "The sign is turned around: with this bias nearly everything is forgotten."),
        (0.0, "With this bias half of it is left after ONE step."),
        (math.log2(gate / (1 - gate)), "A logarithm of base 2: the sigmoid is made with e."),
        (math.log10(gate / (1 - gate)), "A logarithm of base 10: the sigmoid is made with e."),
        (math.atanh(gate), "That turns a tanh around, and the gate is a sigmoid."),
        (math.log(0.99 / 0.01), "So the gate loses 1 % in each step: how much is left after 100 of them?"),
        (math.log(100), "So the gate loses about 1 % in each step: how much is left after 100 of them?"),
        (math.log(2) / 100, "That is the logarithm lost in each step: it is not the bias yet."),
    ]
    left = (1 / (1 + math.exp(-found))) ** 100 if abs(found) < 700 else math.nan
    otherwise = f"With a bias of {found:.3g} the share {left:.2g} is left after 100 steps, and not a half."
    compare(found, right, mistakes, otherwise, 0.01)
    sigmoid = 1 / (1 + math.exp(-1))
    last = math.log(0.01) / math.log(sigmoid)
    count = as_whole_number(steps, "The number of steps")
    sentences = {
        math.floor(last): "One step too early: what exactly is left after it?",
        math.ceil(last) + 1: "One step too late: the FIRST one below a hundredth is asked for.",
        math.ceil(math.log(0.01) / math.log(0.5)): "So it is with a bias of 0: a half in each step.",
        math.ceil(math.log(0.1) / math.log(sigmoid)): "That is a tenth: less than a hundredth is asked for.",
        math.ceil(math.log(0.5) / math.log(sigmoid)): "That is a half: less than a hundredth is asked for.",
        5: "So it would be if the gate were 1/e: what does a sigmoid make of 1?",
        math.ceil(math.log(0.01) / math.log(math.tanh(1))): "That is tanh of 1, and the gate is a sigmoid.",
    }
    if count != math.ceil(last):
        share = sigmoid**count
        raise Mistake(
            sentences.get(
                count, f"The bias is right; but after {count} steps with a bias of 1, {share:.2g} is left."
            )
        )


def _states(u: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    states = [np.zeros(len(u))]
    for now in x:
        states.append(np.tanh(u @ states[-1] + now))
    return states


def _back(u: np.ndarray, x: np.ndarray, arriving: np.ndarray, step: Callable | None = None) -> np.ndarray:
    """Norms of the gradients by the states; `step(u, state, before, gradient)` is one step back."""
    states, gradient, norms = _states(u, x), arriving, [np.linalg.norm(arriving)]
    for t in range(len(x), 1, -1):
        if step is None:
            gradient = u.T @ ((1 - states[t] ** 2) * gradient)
        else:
            gradient = step(u, states[t], states[t - 1], gradient)
        norms.append(np.linalg.norm(gradient))
    return np.array(norms[::-1])


@exercise(
    4,
    praise="through the slope of the state first, then through the matrix, transposed; once for each step.",
    hint=(
        "Keep all states on the way forward. On the way back, h_t depends on h_{t-1} through U and then "
        "through tanh: undo them in the opposite order. What does the tanh that made h_t multiply by, in "
        "terms of h_t? And for how many states is a norm asked, beginning with which?"
    ),
)
def state_gradients(gradient_norms: Callable, seed: int) -> None:
    """Norms (T,) of the gradient by every state of a tanh network."""
    rng = np.random.default_rng([72, seed])
    cases = [
        (rng.normal(size=(n, n)) * 1.4 / math.sqrt(n), rng.normal(size=(steps, n)), rng.normal(size=n))
        for n, steps in ((4, 6), (7, 9), (3, 5))
    ]
    found = []
    for u, x, arriving in cases:
        given = call(gradient_norms, u, x, arriving)
        values = as_floats(given)
        if values is None:
            raise Mistake(f"An array of norms is asked for, and this is {brief(given)}.")
        if values.shape == (len(x) + 1,):
            raise Mistake("One norm too many: h_0 is no state of which the gradient is asked for.")
        if values.shape == (len(x) - 1,):
            raise Mistake("One norm too few: h_T has one as well, and it is the simplest of all.")
        if values.shape != (len(x),):
            raise Mistake(
                f"For {len(x)} steps {len(x)} norms are asked for, and the shape is {values.shape}."
            )
        found.append(values)

    def all_of(of: Callable) -> np.ndarray:
        return np.concatenate([of(*case) for case in cases])

    def stepping(step: Callable) -> np.ndarray:
        return all_of(lambda u, x, g: _back(u, x, g, step))

    right = all_of(_back)
    mistakes = [
        (
            all_of(lambda u, x, g: _back(u, x, g)[::-1]),
            "They are in reverse: the norm of step 1 comes first.",
        ),
        (right**2, "Those are the SQUARED norms: a root is missing."),
        (
            stepping(lambda u, h, before, g: u @ ((1 - h**2) * g)),
            "U is not transposed: that is the way forward, and a gradient goes back.",
        ),
        (
            stepping(lambda u, h, before, g: u.T @ g),
            "The slopes of tanh are missing: the gradient passes the activation, too.",
        ),
        (
            stepping(lambda u, h, before, g: u.T @ ((1 - before**2) * g)),
            "The slopes are those of the step before: the tanh that made h_t is the one to pass.",
        ),
        (
            stepping(lambda u, h, before, g: (1 - before**2) * (u.T @ g)),
            "The matrix first, then the slopes of the state below: that ends inside of a step.",
        ),
        (
            stepping(lambda u, h, before, g: (1 - h**2) * (u.T @ g)),
            "The matrix and the slopes are passed in the wrong order.",
        ),
        (
            stepping(lambda u, h, before, g: u.T @ ((1 - h) * g)),
            "The slope of tanh is one minus its SQUARE.",
        ),
        (
            stepping(lambda u, h, before, g: u.T @ (h * (1 - h) * g)),
            "That is the slope of a sigmoid, and the states are made by tanh.",
        ),
        (
            stepping(lambda u, h, before, g: u.T @ ((1 - np.tanh(h) ** 2) * g)),
            "tanh is applied twice: h is already its output.",
        ),
        (
            all_of(lambda u, x, g: _back(u, x, g) / np.linalg.norm(g)),
            "They are divided by the last one: the norms themselves are asked for.",
        ),
        (
            all_of(lambda u, x, g: _bound(u, x, g)),
            "That is the BOUND, the largest singular value to a power: the real gradient has a direction.",
        ),
        (
            all_of(lambda u, x, g: np.full(len(x), np.linalg.norm(g))),
            "The gradient does not change from step to step: what does it pass on its way?",
        ),
    ]
    otherwise = (
        "The norms are wrong from the second-last state on: take T = 2, and write down how h_1 enters h_2."
        if close(found[0][-1], right[len(cases[0][1]) - 1], 1e-6)
        else "The last norm is that of what arrives, and yours is another number: begin there."
    )
    compare(np.concatenate(found), right, mistakes, otherwise, 1e-6)


def _bound(u: np.ndarray, x: np.ndarray, arriving: np.ndarray) -> np.ndarray:
    largest = np.linalg.norm(u, 2)
    return largest ** np.arange(len(x) - 1, -1, -1) * np.linalg.norm(arriving)


def _parts(t: float) -> tuple[float, float]:
    """E[g clip(g)] and E[clip(g)²] of Laplace entries of mean size 1, clipped at t."""
    tail = math.exp(-t)
    return 2 - (t + 2) * tail, 2 - (2 * t + 2) * tail


@exercise(
    5,
    praise="two integrals, and heavier tails turn further than Gaussian ones.",
    hint=(
        "The cosine of two long vectors of independent entries is made of three expectations: their product, "
        "and the square of each. Two of them meet a corner at c: cut the integrals there. What is left of m "
        "in the end?"
    ),
)
def laplace_angle(turned_by: Callable, seed: int) -> None:
    """Degrees between many Laplace entries of mean size m and the same clipped by value at c."""
    rng = np.random.default_rng([73, seed])
    cases = [(float(rng.uniform(0.2, 4)), ratio) for ratio in (0.02, *rng.uniform(0.1, 5, size=5))]
    cases = [(m, ratio * m) for m, ratio in cases]
    found = np.array([as_number(call(turned_by, m, c), "The angle") for m, c in cases])

    def of(cosine: Callable[[float, float], float]) -> np.ndarray:
        values = np.array([cosine(m, c) for m, c in cases])
        return np.degrees(np.arccos(np.clip(values, -1, 1)))

    def law(t: float) -> float:
        product, square = _parts(t)
        return product / math.sqrt(2 * square)

    def gauss(t: float) -> float:
        inside, corner = math.erf(t / math.sqrt(2)), math.sqrt(2 / math.pi) * t * math.exp(-t * t / 2)
        return inside / math.sqrt(inside - corner + t * t * (1 - inside))

    def only_inside(t: float) -> float:
        square = 2 - (t * t + 2 * t + 2) * math.exp(-t)
        return square / math.sqrt(2 * square)

    right = of(lambda m, c: law(c / m))
    mistakes = [
        (np.radians(right), "Those are radians: degrees are asked for."),
        (np.cos(np.radians(right)), "That is the COSINE: the angle is asked for."),
        (
            of(lambda m, c: law(c)),
            "The mean size m does not enter: twice as large entries are cut more often.",
        ),
        (of(lambda m, c: law(m / c)), "c and m have changed places."),
        (of(lambda m, c: law(c * m)), "c is multiplied by m: which of the two makes a threshold harmless?"),
        (of(lambda m, c: gauss(c / m)), "That is the law of GAUSSIAN entries, with m for their deviation."),
        (
            of(lambda m, c: gauss(c / m / math.sqrt(2))),
            "That is the law of GAUSSIAN entries of the same root mean square.",
        ),
        (np.full(len(cases), 45.0), "That is the limit for a tiny threshold, where only signs are left."),
        (
            of(lambda m, c: math.sqrt(2 / math.pi)),
            "That is the limit of a tiny threshold for GAUSSIAN entries.",
        ),
        (
            of(lambda m, c: only_inside(c / m)),
            "The entries beyond c are left out: they are clipped, not removed.",
        ),
        (of(lambda m, c: law(c / m) ** 2), "The cosine is squared: a root is missing below."),
        (np.zeros(len(cases)), "That is clipping by NORM, which turns nothing."),
    ]
    m, c = cases[1]
    otherwise = (
        f"For m = {m:.3g} and c = {c:.3g} the angle is not {found[1]:.3g} degrees: check the two ends first, "
        "c far above m and c far below it."
    )
    compare(found, right, mistakes, otherwise, 0.01)
