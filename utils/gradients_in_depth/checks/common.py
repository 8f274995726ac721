"""What the checks of all sets share: the mistake, the check, and how an answer is called and compared."""

import contextlib
import copy
import inspect
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

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


@dataclass(frozen=True)
class Check:
    """The check of one exercise: call it with the answer, or ask for its hint.

    `look` takes the answer and a `seed`, from which it draws what it tries, and raises `Mistake`; `praise` is
    the sentence for an answer that holds.
    """

    name: str
    points: int
    look: Callable
    praise: str
    advice: str

    def __call__(self, *answer: object, seed: int = 0) -> None:
        """Print one sentence when the answer holds; raise `Mistake` with one when it does not."""
        try:
            *wanted, _seed = inspect.signature(self.look).parameters
            if len(answer) != len(wanted):
                raise Mistake(f"This check takes {' and '.join(wanted)}, in this order, and nothing else.")
            if any(part is None or part is ... for part in answer):
                raise Mistake(EMPTY)
            self.look(*answer, seed=arguments.check_seed(seed))
        except Mistake as mistake:
            raise Mistake(f"{mistake} (A hint: checks.{self.name}.hint())") from None
        # Nothing is returned: nbgrader reads a returned value as partial credit.
        points = "1 point" if self.points == 1 else f"{self.points} points"
        print(textwrap.fill(f"Right ({points}): {self.praise}", WIDTH))

    def hint(self) -> None:
        """Print a hint that does not give the answer."""
        print(textwrap.fill(self.advice, WIDTH))


def exercise(points: int, *, praise: str, hint: str) -> Callable[[Callable], Check]:
    """Make a function `look(answer, ..., seed)`, which raises `Mistake`, the `Check` of its name."""

    def decorate(look: Callable) -> Check:
        return Check(look.__name__, points, look, praise, hint)

    return decorate


# --- What every check needs --------------------------------------------------------------------------------


def call(function: Callable, *inputs: object) -> object:
    """What the learner's function makes of the inputs, or a sentence for whatever goes wrong in it.

    It is given copies, prints nothing, and warns of nothing: nbgrader takes a warning for a failure.
    """
    if not callable(function):
        raise Mistake(f"This check takes your function, without brackets, not {brief(function)}.")
    given = copy.deepcopy(inputs)
    quiet = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            warnings.simplefilter("ignore")
            result = function(*given)
    except NotImplementedError:
        raise Mistake(EMPTY) from None
    except Exception as error:  # whatever a learner's code may raise
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        inside = f"{_name(function)}({', '.join(map(brief, inputs))})"
        raise Mistake(f"Your function stops with {what}; call it yourself to see where: {inside}.") from None
    if not all(_same(before, after) for before, after in zip(inputs, given, strict=True)):
        raise Mistake("Your function changes what it was given: work on a copy, the caller still needs it.")
    if result is None:
        raise Mistake("Your function returns None: is the return statement missing?")
    return result


def _same(one: object, other: object) -> bool:
    """Whether an input is still what it was; two NaNs are the same."""
    if isinstance(one, nn.Module):
        return one.training == other.training and _same(one.state_dict(), other.state_dict())
    if isinstance(one, np.ndarray | torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one).__eq__ is object.__eq__:  # a copy of such a thing is never equal to it
        return True
    return one == other or (one != one and other != other)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "your_function")


def brief(value: object) -> str:
    """A value in a sentence: small ones in full, arrays by their shape."""
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        return f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    return textwrap.shorten(str(value) if isinstance(value, Real) else repr(value), 60)


def as_number(value: object, what: str) -> float:
    """A number of any library as a float; NaN and infinity are let through, for they are mistakes too."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.shape:
        raise Mistake(f"{what} should be one number, and is an array of shape {value.shape}.")
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Mistake(f"{what} should be one number, and is {brief(value)}.")
    return float(value)


def as_floats(value: object) -> np.ndarray | None:
    """Numbers of any library, or lists of them, as an array, NaN and infinity too; None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def as_array(value: object, shape: Sequence[int], what: str) -> np.ndarray:
    """Numbers of any library as an array of that shape; NaN and infinity are let through."""
    found = as_floats(value)
    if found is None:
        raise Mistake(f"{what} should be an array of numbers, and is {brief(value)}.")
    if found.shape != tuple(shape):
        raise Mistake(f"{what} should have the shape {tuple(shape)}, and has {found.shape}.")
    return found


def check_choices(
    answer: object, numbers: Collection[int], choices: Collection[str], wanted: str, one: str
) -> None:
    """A dictionary from each number to one of the choices.

    `wanted` begins the sentence on anything else, and `one` with its number that on another choice.
    """
    if not isinstance(answer, Mapping) or set(answer) != set(numbers):
        raise Mistake(f"{wanted} {brief(answer)}.")
    for number, given in answer.items():
        if given is None or given is ...:
            raise Mistake(EMPTY)
        if not isinstance(given, str) or given not in choices:
            raise Mistake(f"{one} {number}: choose one of {', '.join(choices)}; {brief(given)} is none.")


def derivative(function: Callable, z: np.ndarray) -> np.ndarray:
    """The derivative of a function of arrays, by a central difference."""
    return (function(z + 1e-5) - function(z - 1e-5)) / 2e-5


def close(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers agree but for a share of `tolerance`."""
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)


def compare(
    found: ArrayLike,
    right: ArrayLike,
    mistakes: Sequence[tuple[ArrayLike, str]],
    otherwise: str,
    tolerance: float,
) -> None:
    """Nothing when what was found is right; else the sentence of the mistake that explains it.

    found and right are a number, or (n,) for several inputs; so is, beside each sentence, what somebody finds
    who makes that mistake. It has to explain all the numbers: one alone may agree by chance.
    """

    def agree(one: ArrayLike, other: ArrayLike) -> bool:
        return bool(np.allclose(one, other, rtol=tolerance, atol=1e-12))

    if agree(found, right):
        return
    for wrong, sentence in mistakes:
        if agree(found, wrong):
            raise Mistake(sentence)
    raise Mistake(otherwise)


def as_whole_number(value: object, what: str) -> int:
    """A whole number from 1 on, such as a number of layers."""
    number = as_number(value, what)
    if not math.isfinite(number) or number != round(number) or number < 1:
        raise Mistake(f"{what} counts something: it should be a whole number from 1 on, and is {number:.3g}.")
    return int(number)
