"""The checks of set 07, Gradient clipping."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradients_in_depth.checks.common import (
    Case,
    Mistake,
    Trial,
    agree,
    as_floats,
    brief,
    call,
    exercise,
    number,
    whole_number,
)

# --- One norm for all --------------------------------------------------------------------------------------

_SHAPES = ((3, 4), (5,), (2, 2, 3))
_NOTHING = ([np.zeros(shape) for shape in _SHAPES], 2.0)


def _gradients(rng: np.random.Generator) -> list[Case]:
    """Arrays and a threshold: above it, below it, above it, and nothing at all."""
    cases = []
    for threshold, size in ((1.5, 2.0), (0.5, 0.01), (3.0, 1.5)):
        gradients = [size * rng.normal(size=shape) for shape in _SHAPES]
        gradients[1] *= 3  # so that no two of them have one size
        cases.append((gradients, threshold))
    return [*cases, _NOTHING]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def _read_arrays(result: object, gradients: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """The learner's list of arrays in one row, or a sentence on what it is instead."""
    if not isinstance(result, list | tuple):
        raise Mistake(f"A list of arrays is asked for, one for each gradient, and this is {brief(result)}.")
    if len(result) != len(gradients):
        raise Mistake(
            f"{len(gradients)} gradients go in, and {len(result)} come out: every one has its place."
        )
    arrays = [array for array in map(as_floats, result) if array is not None]
    if len(arrays) != len(result):
        raise Mistake("The list should hold arrays of numbers, and holds something else.")
    for array, gradient in zip(arrays, gradients, strict=True):
        if array.shape != gradient.shape:
            raise Mistake(f"A gradient of shape {gradient.shape} comes back with the shape {array.shape}.")
    return _joined(arrays)


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return float(np.linalg.norm(_joined(arrays)))


def _clipping(measure: Callable[[Sequence[np.ndarray]], float]) -> Callable:
    """Clips all arrays by one factor, from what it takes for their norm."""
    return lambda gradients, c: tuple(g / max(1.0, measure(gradients) / c) for g in gradients)


def _each(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable:
    """Changes each array by itself, for the threshold c."""
    return lambda gradients, c: tuple(change(g, c) for g in gradients)


_CLIP = Trial(
    cases=_gradients,
    one_by_one=True,
    read=_read_arrays,
    right=_clipping(_norm),
    mistakes={
        "Gradients that are shorter than the threshold are made longer: clipping only shortens.": (
            lambda gradients, c: tuple(c / (_norm(gradients) or 1) * g for g in gradients)
        ),
        "Nothing is clipped, although the global norm is above the threshold.": _each(lambda g, c: g),
        "Each array is clipped to a norm of its own: that turns the direction.": (
            _each(lambda g, c: g / max(1.0, _norm([g]) / c))
        ),
        "That is clipping by VALUE, entry by entry: it turns the direction.": (
            _each(lambda g, c: np.clip(g, -c, c))
        ),
        "The norms are added: lengths at right angles add up otherwise, by their squares.": (
            _clipping(lambda gradients: sum(_norm([g]) for g in gradients))
        ),
        "Only the longest array is measured: the global norm is that of all entries together.": (
            _clipping(lambda gradients: max(_norm([g]) for g in gradients))
        ),
        "You compare the SQUARED norm with the threshold: a root is missing.": (
            _clipping(lambda gradients: _norm(gradients) ** 2)
        ),
        "That is the sum of sizes: the norm is the root of the sum of squares.": (
            _clipping(lambda gradients: np.abs(_joined(gradients)).sum())
        ),
        "That is the root MEAN square, and the norm is the root of the SUM of squares.": (
            _clipping(lambda gradients: math.sqrt(np.square(_joined(gradients)).mean()))
        ),
        "They come out with norm 1: where is the threshold?": (
            lambda gradients, c: tuple(g / (_norm(gradients) or 1) for g in gradients)
        ),
        "Every entry is multiplied by the threshold itself: by what should it be?": _each(lambda g, c: c * g),
    },
    otherwise=lambda cases, results, right: (
        f"Gradients of the global norm {_norm(cases[0][0]):.3g}, clipped at {cases[0][1]:.3g}, come out with "
        f"{np.linalg.norm(results):.3g}, or in another direction: lay all entries end to end and compare "
        "before and after."
    ),
    tolerance=1e-5,
)


@exercise(
    2,
    praise="one factor for all of them, and only if it is needed.",
    hint=(
        "Imagine all arrays laid end to end as one long vector. What is its length? Ask first whether "
        "anything has to be done at all; if so, every entry of every array is multiplied by one number."
    ),
    stream=71,
    trials=[_CLIP],
)
def joint_clip(clip: Callable, seed: int) -> None:
    """A list of arrays clipped by their global norm."""
    if not np.isfinite(_read_arrays(call(clip, *_NOTHING), *_NOTHING)).all():
        raise Mistake("If all gradients are 0 you divide by 0: ask first whether anything has to be clipped.")


# --- A bias that remembers ---------------------------------------------------------------------------------

_GATE = 0.5**0.01
_RIGHT_BIAS = math.log(_GATE / (1 - _GATE))
_USUAL_GATE = 1 / (1 + math.exp(-1))


def _steps(gate: float, share: float) -> int:
    """After how many steps no more than this share is left."""
    return math.ceil(math.log(share) / math.log(gate))


def _left(_: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    [bias] = results
    left = (1 / (1 + math.exp(-bias))) ** 100 if abs(bias) < 700 else math.nan
    return f"With a bias of {bias:.3g} the share {left:.2g} is left after 100 steps, and not a half."


_BIAS = Trial(
    read=number("The bias"),
    impossible={  # because it is nearer to the gate than the tolerance
        "That is the usual choice: what is left of 1 after 100 steps of it?": lambda results: results[0] == 1
    },
    right=_RIGHT_BIAS,
    mistakes={
        "That is the GATE: which bias does a sigmoid turn into it?": _GATE,
        "The sign is turned around: with this bias nearly everything is forgotten.": -_RIGHT_BIAS,
        "With this bias half of it is left after ONE step.": 0.0,
        "A logarithm of base 2: the sigmoid is made with e.": _RIGHT_BIAS / math.log(2),
        "A logarithm of base 10: the sigmoid is made with e.": _RIGHT_BIAS / math.log(10),
        "That turns a tanh around, and the gate is a sigmoid.": math.atanh(_GATE),
        "So the gate loses 1 % in each step: how much is left after 100 of them?": math.log(0.99 / 0.01),
        "That is the logarithm lost in each step: it is not the bias yet.": math.log(2) / 100,
    },
    otherwise=_left,
    tolerance=0.01,
)
_FORGOTTEN = Trial(
    part=1,
    read=whole_number("The number of steps"),
    right=_steps(_USUAL_GATE, 0.01),
    mistakes={
        "One step too early: what exactly is left after it?": _steps(_USUAL_GATE, 0.01) - 1,
        "One step too late: the FIRST one below a hundredth is asked for.": _steps(_USUAL_GATE, 0.01) + 1,
        "So it is with a bias of 0: a half in each step.": _steps(0.5, 0.01),
        "That is a tenth: less than a hundredth is asked for.": _steps(_USUAL_GATE, 0.1),
        "That is a half: less than a hundredth is asked for.": _steps(_USUAL_GATE, 0.5),
        "So it would be if the gate were 1/e: what does a sigmoid make of 1?": 5,
        "That is tanh of 1, and the gate is a sigmoid.": _steps(math.tanh(1), 0.01),
    },
    otherwise=lambda _, results, right: (
        f"The bias is right; but after {results[0]:.0f} steps with a bias of 1, "
        f"{_USUAL_GATE ** results[0]:.2g} is left."
    ),
    tolerance=1e-9,
)


@exercise(
    3,
    praise="a gate has to be very near 1 to last, and it takes a bias of some size to get there.",
    hint=(
        "Which number, to the power of 100, is a half? That is the gate; which bias does a sigmoid turn into "
        "it? For the second question take logarithms, and mind that a number of steps is whole."
    ),
    trials=[_BIAS, _FORGOTTEN],
)
def remembering_bias(bias: float, steps: int, seed: int) -> None:
    """The forget bias that keeps a half over 100 steps, and the steps until 1 % is left at a bias of 1."""


# --- Back through every step -------------------------------------------------------------------------------


def _recurrent(rng: np.random.Generator) -> list[Case]:
    """U (n, n), inputs (T, n), and the gradient (n,) that arrives at the last state."""
    return [
        (rng.normal(size=(n, n)) * 1.4 / math.sqrt(n), rng.normal(size=(steps, n)), rng.normal(size=n))
        for n, steps in ((4, 6), (7, 9), (3, 5))
    ]


def _read_norms(result: object, u: np.ndarray, x: np.ndarray, arriving: np.ndarray) -> np.ndarray:
    norms = as_floats(result)
    if norms is None:
        raise Mistake(f"An array of norms is asked for, and this is {brief(result)}.")
    if norms.shape == (len(x) + 1,):
        raise Mistake("One norm too many: h_0 is no state of which the gradient is asked for.")
    if norms.shape == (len(x) - 1,):
        raise Mistake("One norm too few: h_T has one as well, and it is the simplest of all.")
    if norms.shape != (len(x),):
        raise Mistake(f"For {len(x)} steps {len(x)} norms are asked for, and the shape is {norms.shape}.")
    return norms


def _going(step: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Norms (T,) of the gradients by the states; `step(u, state, before, gradient)` is one step back."""

    def norms(u: np.ndarray, x: np.ndarray, arriving: np.ndarray) -> np.ndarray:
        states, gradients = [np.zeros(len(u))], [arriving]
        for now in x:
            states.append(np.tanh(u @ states[-1] + now))
        for t in range(len(x), 1, -1):
            gradients.append(step(u, states[t], states[t - 1], gradients[-1]))
        return np.linalg.norm(gradients[::-1], axis=1)

    return norms


_right_norms = _going(lambda u, h, before, g: u.T @ ((1 - h**2) * g))
_NORMS = Trial(
    cases=_recurrent,
    read=_read_norms,
    right=_right_norms,
    mistakes={
        "They are in reverse: the norm of step 1 comes first.": lambda u, x, g: _right_norms(u, x, g)[::-1],
        "Those are the SQUARED norms: a root is missing.": lambda u, x, g: _right_norms(u, x, g) ** 2,
        "U is not transposed: that is the way forward, and a gradient goes back.": (
            _going(lambda u, h, before, g: u @ ((1 - h**2) * g))
        ),
        "The slopes of tanh are missing: the gradient passes the activation, too.": (
            _going(lambda u, h, before, g: u.T @ g)
        ),
        "The slopes are those of the step before: the tanh that made h_t is the one to pass.": (
            _going(lambda u, h, before, g: u.T @ ((1 - before**2) * g))
        ),
        "The matrix first, then the slopes of the state below: that ends inside of a step.": (
            _going(lambda u, h, before, g: (1 - before**2) * (u.T @ g))
        ),
        "The matrix and the slopes are passed in the wrong order.": (
            _going(lambda u, h, before, g: (1 - h**2) * (u.T @ g))
        ),
        "The slope of tanh is one minus its SQUARE.": _going(lambda u, h, before, g: u.T @ ((1 - h) * g)),
        "That is the slope of a sigmoid, and the states are made by tanh.": (
            _going(lambda u, h, before, g: u.T @ (h * (1 - h) * g))
        ),
        "tanh is applied twice: h is already its output.": (
            _going(lambda u, h, before, g: u.T @ ((1 - np.tanh(h) ** 2) * g))
        ),
        "They are divided by the last one: the norms themselves are asked for.": (
            lambda u, x, g: _right_norms(u, x, g) / np.linalg.norm(g)
        ),
        "That is the BOUND, the largest singular value to a power: the real gradient has a direction.": (
            lambda u, x, g: np.linalg.norm(u, 2) ** np.arange(len(x) - 1, -1, -1) * np.linalg.norm(g)
        ),
        "The gradient does not change from step to step: what does it pass on its way?": (
            _going(lambda u, h, before, g: g)
        ),
    },
    otherwise=lambda cases, results, right: (
        "The norms are wrong from the second-last state on: take T = 2, and write down how h_1 enters h_2."
        if agree(results[len(cases[0][1]) - 1], right[len(cases[0][1]) - 1], 1e-6)
        else "The last norm is that of what arrives, and yours is another number: begin there."
    ),
)


@exercise(
    4,
    praise="through the slope of the state first, then through the matrix, transposed; once for each step.",
    hint=(
        "Keep all states on the way forward. On the way back, h_t depends on h_{t-1} through U and then "
        "through tanh: undo them in the opposite order. What does the tanh that made h_t multiply by, in "
        "terms of h_t? And for how many states is a norm asked, beginning with which?"
    ),
    stream=72,
    trials=[_NORMS],
)
def state_gradients(gradient_norms: Callable, seed: int) -> None:
    """Norms (T,) of the gradient by every state of a tanh network."""


# --- The angle of Laplace entries --------------------------------------------------------------------------


def _sizes(rng: np.random.Generator) -> list[Case]:
    """Mean size m and threshold c."""
    cases = [(float(rng.uniform(0.2, 4)), ratio) for ratio in (0.02, *rng.uniform(0.1, 5, size=5))]
    return [(m, ratio * m) for m, ratio in cases]


def _laplace(t: float) -> float:
    """The cosine between Laplace entries g of mean size 1 and the same clipped at t."""
    tail = math.exp(-t)
    product, square = 2 - (t + 2) * tail, 2 - (2 * t + 2) * tail  # E[g clip(g)] and E[clip(g)²]
    return product / math.sqrt(2 * square)


def _gaussian(t: float) -> float:
    inside, corner = math.erf(t / math.sqrt(2)), math.sqrt(2 / math.pi) * t * math.exp(-t * t / 2)
    return inside / math.sqrt(inside - corner + t * t * (1 - inside))


def _only_inside(t: float) -> float:
    return math.sqrt(1 - (t * t / 2 + t + 1) * math.exp(-t))


def _angle(t: float, cosine: Callable[[float], float] = _laplace) -> float:
    return math.degrees(math.acos(min(cosine(t), 1)))


_ANGLE = Trial(
    cases=_sizes,
    read=number("The angle"),
    right=lambda m, c: _angle(c / m),
    mistakes={
        "Those are radians: degrees are asked for.": lambda m, c: math.radians(_angle(c / m)),
        "That is the COSINE: the angle is asked for.": lambda m, c: _laplace(c / m),
        "The mean size m does not enter: twice as large entries are cut more often.": lambda m, c: _angle(c),
        "c and m have changed places.": lambda m, c: _angle(m / c),
        "c is multiplied by m: which of the two makes a threshold harmless?": lambda m, c: _angle(c * m),
        "That is the law of GAUSSIAN entries, with m for their deviation.": (
            lambda m, c: _angle(c / m, _gaussian)
        ),
        "That is the law of GAUSSIAN entries of the same root mean square.": (
            lambda m, c: _angle(c / m / math.sqrt(2), _gaussian)
        ),
        "That is the limit for a tiny threshold, where only signs are left.": 45.0,
        "That is the limit of a tiny threshold for GAUSSIAN entries.": _angle(1e-9, _gaussian),
        "The entries beyond c are left out: they are clipped, not removed.": (
            lambda m, c: _angle(c / m, _only_inside)
        ),
        "The cosine is squared: a root is missing below.": (
            lambda m, c: _angle(c / m, lambda t: _laplace(t) ** 2)
        ),
        "That is clipping by NORM, which turns nothing.": 0.0,
    },
    otherwise=lambda cases, results, right: (
        f"For m = {cases[1][0]:.3g} and c = {cases[1][1]:.3g} the angle is not {results[1]:.3g} degrees: "
        "check the two ends first, c far above m and c far below it."
    ),
    tolerance=0.01,
)


@exercise(
    5,
    praise="two integrals, and heavier tails turn further than Gaussian ones.",
    hint=(
        "The cosine of two long vectors of independent entries is made of three expectations: their product, "
        "and the square of each. Two of them meet a corner at c: cut the integrals there. What is left of m "
        "in the end?"
    ),
    stream=73,
    trials=[_ANGLE],
)
def laplace_angle(turned_by: Callable, seed: int) -> None:
    """Degrees between many Laplace entries of mean size m and the same clipped by value at c."""
