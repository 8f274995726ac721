"""What the checks of all sets share: how an answer is called, read and compared, and a check told as data."""

import contextlib
import copy
import inspect
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from gradients_in_depth import arguments

EMPTY = "There is no answer yet: write yours in the cell above, run that cell, then run this one again."
WIDTH = 100


class Mistake(AssertionError):  # noqa: N818 - a learner reads the name
    """What a check found, in one sentence; a notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return textwrap.wrap(str(self), WIDTH)


# --- What every check needs --------------------------------------------------------------------------------


def call(function: object, *inputs: object) -> object:
    """What the learner's function makes of the inputs, or a sentence for whatever goes wrong in it.

    It gets copies, prints nothing, and warns of nothing: nbgrader takes a warning for a failure.
    """
    if not callable(function):
        raise Mistake(f"This check takes your function, without brackets, not {brief(function)}.")
    copies = copy.deepcopy(inputs)
    quiet = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            warnings.simplefilter("ignore")
            result = function(*copies)
    except NotImplementedError:
        raise Mistake(EMPTY) from None
    except Exception as error:  # whatever a learner's code may raise
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        inside = f"{_name(function)}({', '.join(map(brief, inputs))})"
        raise Mistake(f"Your function stops with {what}; call it yourself to see where: {inside}.") from None
    if not all(same(before, after) for before, after in zip(inputs, copies, strict=True)):
        raise Mistake("Your function changes what it was given: work on a copy, the caller still needs it.")
    if result is None:
        raise Mistake("Your function returns None: is the return statement missing?")
    return result


def same(one: Any, other: Any) -> bool:
    """Whether a value is still what it was; two NaNs are the same."""
    if isinstance(one, nn.Module):
        return one.training == other.training and same(one.state_dict(), other.state_dict())
    if isinstance(one, np.ndarray | torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one).__eq__ is object.__eq__:  # a copy of such a thing is never equal to it
        return True
    return one == other or (one != one and other != other)


def _name(function: object) -> str:
    return getattr(function, "__name__", "your_function")


def brief(value: object) -> str:
    """A value in a sentence: small ones in full, arrays by their shape."""
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        return f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    return textwrap.shorten(str(value) if isinstance(value, Real) else repr(value), 60)


def as_number(value: object, what: str) -> float:
    """A number of any library as a float; NaN and infinity pass, because they are mistakes, too."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.shape:
        raise Mistake(f"{what} should be one number, and is an array of shape {value.shape}.")
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Mistake(f"{what} should be one number, and is {brief(value)}.")
    return float(value)


def as_whole_number(value: object, what: str) -> int:
    """A whole number from 1 on, such as a number of layers."""
    number = as_number(value, what)
    if not math.isfinite(number) or number != round(number) or number < 1:
        raise Mistake(f"{what} counts something: it should be a whole number from 1 on, and is {number:.3g}.")
    return int(number)


def as_floats(value: object) -> np.ndarray | None:
    """Numbers of any library, or lists of them, as an array, NaN and infinity too; None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def as_array(value: object, shape: Sequence[int], what: str) -> np.ndarray:
    """Numbers of any library as an array of that shape; NaN and infinity pass."""
    array = as_floats(value)
    if array is None:
        raise Mistake(f"{what} should be an array of numbers, and is {brief(value)}.")
    if array.shape != tuple(shape):
        raise Mistake(f"{what} should have the shape {tuple(shape)}, and has {array.shape}.")
    return array


def number(what: str) -> Callable[..., float]:
    """A reader of results that should be one number; `what` begins the sentence on anything else."""
    return lambda result, *case: as_number(result, what)


def whole_number(what: str) -> Callable[..., int]:
    """A reader of results that should be a whole number from 1 on."""
    return lambda result, *case: as_whole_number(result, what)


def check_choices(
    answer: object, numbers: Collection[int], choices: Collection[str], expected: str, one: str
) -> None:
    """Raise `Mistake` unless the answer is a dictionary from each number to one of the choices.

    `expected` begins the sentence on anything else, and `one` with its number that on another choice.
    """
    if not isinstance(answer, Mapping) or set(answer) != set(numbers):
        raise Mistake(f"{expected} {brief(answer)}.")
    for number, choice in answer.items():
        if choice is None or choice is ...:
            raise Mistake(EMPTY)
        if not isinstance(choice, str) or choice not in choices:
            raise Mistake(f"{one} {number}: choose one of {', '.join(choices)}; {brief(choice)} is none.")


def derivative(function: Callable, z: np.ndarray) -> np.ndarray:
    """The derivative of a function of arrays, by a central difference."""
    return (function(z + 1e-5) - function(z - 1e-5)) / 2e-5


def close(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers agree but for a share of `tolerance`."""
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)


def agree(results: ArrayLike, others: ArrayLike, tolerance: float) -> bool:
    """Whether all results agree with the others but for a share of `tolerance`; NaN agrees with nothing."""
    return bool(np.allclose(results, others, rtol=tolerance, atol=1e-12))


def compare(
    results: ArrayLike,
    right: ArrayLike,
    mistakes: Sequence[tuple[ArrayLike, str]],
    otherwise: str,
    tolerance: float,
) -> None:
    """Nothing when the results are right; else the sentence of the mistake that explains them.

    results and right are a number, or (n,) for several inputs; so is what comes of each mistake, beside its
    sentence. It has to explain all the numbers: one alone may agree by chance.
    """
    if agree(results, right, tolerance):
        return
    for wrong, sentence in mistakes:
        if agree(results, wrong, tolerance):
            raise Mistake(sentence)
    raise Mistake(otherwise)


def furthest(results: np.ndarray, right: ArrayLike) -> int:
    """The index of the result that is furthest from the right one; NaN is further than any number."""
    return int(np.argmax(np.nan_to_num(np.abs(results - right), nan=np.inf)))


# --- A check as data ---------------------------------------------------------------------------------------

Case = tuple[Any, ...]
Outcome = ArrayLike | Callable[..., ArrayLike | tuple[ArrayLike, ...]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One comparison of an answer with the right one, and with what comes of each common mistake.

    The answer is part number `part` of what the check takes: a function, called on each of the `cases` that
    are drawn from a generator, or, without cases, a value. `read` makes numbers of what the function returned
    (it gets the case as well), or raises `Mistake`.

    `right` and the mistakes are functions with the learner's arguments, or results that depend on no case. A
    tuple holds several with the same sentence. A mistake has to explain all numbers, because one alone may
    agree by chance; the first one that does is named. Before them comes what is `impossible` (a test of all
    numbers under its sentence), and after them `otherwise`: a sentence, or a function that makes it of the
    cases, the results and the right ones. With `one_by_one` each case is compared before the next is tried.

    Results agree up to a share of `tolerance`, and with a mistake up to its `mistake_tolerance`, if given.
    `caller` is what calls the function, and `agrees` what compares, where `call` and `agree` do not fit.
    """

    right: Outcome
    mistakes: Mapping[str, Outcome | tuple[Outcome, ...]]
    otherwise: str | Callable[[Sequence[Case], np.ndarray, np.ndarray], str]
    read: Callable[..., ArrayLike]
    tolerance: float = 1e-6
    mistake_tolerance: Callable[[np.ndarray], float] | None = None
    cases: Callable[[np.random.Generator], Sequence[Case]] | None = None
    impossible: Mapping[str, Callable[[np.ndarray], ArrayLike]] = field(default_factory=dict)
    one_by_one: bool = False
    part: int = 0
    caller: Callable[..., object] = call
    agrees: Callable[[np.ndarray, np.ndarray, float], bool] = agree

    def compare(self, answer: object, rng: np.random.Generator) -> None:
        """Nothing when the answer is right; else `Mistake` with the sentence that fits."""
        if self.cases is None:
            self._compare([()], [self.read(answer)])
            return
        cases = self.cases(rng)
        for group in [[case] for case in cases] if self.one_by_one else [cases]:
            self._compare(group, [self.read(self.caller(answer, *case), *case) for case in group])

    def listed(self) -> Iterator[tuple[str, Outcome]]:
        """Each mistake with its sentence, in the order in which they are tried."""
        for sentence, outcomes in self.mistakes.items():
            for outcome in outcomes if isinstance(outcomes, tuple) else (outcomes,):
                yield sentence, outcome

    def _compare(self, cases: Sequence[Case], readings: Sequence[ArrayLike]) -> None:
        results, right = _row(readings), _results(self.right, cases)
        for sentence, holds in self.impossible.items():
            if holds(results):
                raise Mistake(sentence)
        if self.agrees(results, right, self.tolerance):
            return
        for sentence, outcome in self.listed():
            wrong = _results(outcome, cases)
            near = self.mistake_tolerance(wrong) if self.mistake_tolerance else self.tolerance
            if self.agrees(results, wrong, near):
                raise Mistake(sentence)
        raise Mistake(
            self.otherwise if isinstance(self.otherwise, str) else self.otherwise(cases, results, right)
        )


def _row(parts: Sequence[ArrayLike | tuple[ArrayLike, ...]]) -> np.ndarray:
    """All numbers in one row; a part may be a tuple of arrays of several shapes."""
    arrays = [array for part in parts for array in (part if isinstance(part, tuple) else (part,))]
    return np.concatenate([np.ravel(array) for array in arrays]).astype(float)


@np.errstate(all="ignore")  # a mistake may well divide by 0: what is not a number explains nothing
def _results(outcome: Outcome, cases: Sequence[Case]) -> np.ndarray:
    """What comes out for all cases, in one row; a row of one number is for all of them."""
    if callable(outcome):
        return _row([outcome(*case) for case in cases])
    return np.atleast_1d(np.asarray(outcome, dtype=float))


def another_slope(least: float) -> Callable[[Sequence[Case], np.ndarray, np.ndarray], str]:
    """The sentence on a factor per layer that no dashboard shows; below `least` it is that of all layers."""

    def sentence(_: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
        if 0 < results[0] < least:
            return "That is what is left after all the layers: the factor of ONE layer is asked for."
        return (
            f"With a factor of {results[0]:.3g} per layer the line of the gradient would have another slope: "
            "how many decades does it fall, and in how many steps?"
        )

    return sentence


@dataclass(frozen=True)
class Check:
    """The check of one exercise: call it with the answer, or ask for its hint.

    `look` takes the answer and a `seed`, and raises `Mistake` for what no trial can say. Then come the
    `trials`; their cases are drawn from `stream` and the seed. `praise` is the sentence for an answer that
    holds.
    """

    name: str
    points: int
    look: Callable[..., None]
    praise: str
    advice: str
    trials: tuple[Trial, ...] = ()
    stream: int = 0

    def __call__(self, *answer: object, seed: int = 0) -> None:
        """Print one sentence when the answer holds; raise `Mistake` with one when it does not."""
        try:
            *parts, _seed = inspect.signature(self.look).parameters
            if len(answer) != len(parts):
                raise Mistake(f"This check takes {' and '.join(parts)}, in this order, and nothing else.")
            if any(part is None or part is ... for part in answer):
                raise Mistake(EMPTY)
            self.look(*answer, seed=arguments.check_seed(seed))
            rng = self.generator(seed)
            for trial in self.trials:
                trial.compare(answer[trial.part], rng)
        except Mistake as mistake:
            raise Mistake(f"{mistake} (A hint: checks.{self.name}.hint())") from None
        # Nothing is returned: nbgrader reads a returned value as partial credit.
        points = "1 point" if self.points == 1 else f"{self.points} points"
        print(textwrap.fill(f"Right ({points}): {self.praise}", WIDTH))

    def hint(self) -> None:
        """Print a hint that does not give the answer."""
        print(textwrap.fill(self.advice, WIDTH))

    def generator(self, seed: int) -> np.random.Generator:
        """What the trials draw their cases from, one after the other."""
        return np.random.default_rng([self.stream, seed])


def exercise(
    points: int, *, praise: str, hint: str, trials: Sequence[Trial] = (), stream: int = 0
) -> Callable[[Callable[..., None]], Check]:
    """Make a function `look(answer, ..., seed)`, which raises `Mistake`, the `Check` of its name.

    Where the trials say it all, the function is its docstring.
    """

    def decorate(look: Callable[..., None]) -> Check:
        return Check(look.__name__, points, look, praise, hint, tuple(trials), stream)

    return decorate
