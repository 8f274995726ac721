"""What an argument may be: each check returns the value, or raises one sentence that says what is allowed.

TypeError for the wrong kind of thing, ValueError for the wrong value. The sentence reads "... must be ...,
got ...", and is made only when it is needed: printing an array takes longer than integrating over it.
"""

import math
from collections.abc import Callable, Hashable, Iterable
from numbers import Integral, Real
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable)


def _error(wrong_kind: bool, sentence: str) -> Exception:
    return TypeError(sentence) if wrong_kind else ValueError(sentence)


# --- Numbers -----------------------------------------------------------------------------------------------


def check_integer(name: str, value: int, at_least: int) -> int:
    """`value`, if it is an integer of at least `at_least`."""
    wrong_kind = isinstance(value, bool) or not isinstance(value, Integral)
    if wrong_kind or value < at_least:
        raise _error(wrong_kind, f"{name} must be an integer of at least {at_least}, got {value!r}.")
    return int(value)


def check_number(
    name: str,
    value: float,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """`value`, if it is a finite number within the bounds, which are allowed themselves if they are `at_`."""
    wrong_kind = isinstance(value, bool) or not isinstance(value, Real)
    if wrong_kind or not (math.isfinite(value) and at_least <= value <= at_most and above < value < below):
        number = _number(at_least, at_most, above, below)
        raise _error(wrong_kind, f"{name} must be {number}, got {value!r}.")
    return float(value)


def check_numbers(
    name: str,
    value: ArrayLike,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
) -> np.ndarray:
    """`value`, a finite number within the bounds or an array of them, as a float64 array of its shape."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)  # of no kind of number
    wrong_kind = array.dtype.kind not in "iuf"
    if wrong_kind or array.size == 0 or not _within(array, at_least, at_most, above):
        number = _number(at_least, at_most, above, math.inf)
        raise _error(wrong_kind, f"{name} must be {number}, or a non-empty array of them, got {value!r}.")
    return array.astype(float)


def _within(array: np.ndarray, at_least: float, at_most: float, above: float) -> bool:
    return bool((np.isfinite(array) & (array >= at_least) & (array <= at_most) & (array > above)).all())


def _number(at_least: float, at_most: float, above: float, below: float) -> str:
    """What is allowed: "a finite number above 0", "a finite number from 0 to 1"."""
    if math.isfinite(at_least) and math.isfinite(at_most):
        return f"a finite number from {at_least} to {at_most}"
    bounds = {"of at least": at_least, "above": above, "at most": at_most, "below": below}
    phrases = [f"{words} {bound}" for words, bound in bounds.items() if math.isfinite(bound)]
    return f"a finite number {' and '.join(phrases)}" if phrases else "a finite number"


def check_broadcast(names: str, first: np.ndarray, second: np.ndarray) -> None:
    """Nothing, if the shapes of the two arrays broadcast."""
    try:
        np.broadcast_shapes(first.shape, second.shape)
    except ValueError:
        shapes = f"{first.shape} and {second.shape}"
        raise ValueError(f"{names} must have shapes that broadcast, got {shapes}.") from None


def check_seed(seed: int) -> int:
    """`seed`, if both torch and NumPy take it."""
    wrong_kind = isinstance(seed, bool) or not isinstance(seed, Integral)
    if wrong_kind or not 0 <= seed < 2**32:
        raise _error(wrong_kind, f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}.")
    return int(seed)


# --- Other things ------------------------------------------------------------------------------------------


def check_flag(name: str, value: bool) -> bool:
    """`value`, if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def check_choice(name: str, value: Value, allowed: Iterable[object]) -> Value:
    """`value`, if it is one of those allowed; the sentence lists them."""
    allowed = list(allowed)
    # An array would be compared element by element; it is not hashable, and what is allowed is.
    if not isinstance(value, Hashable) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}.")
    return value


def check_type(name: str, value: Value, kind: type, description: str) -> Value:
    """`value`, if it is of the kind that the description, such as "an nn.Module", names."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {description}, got {type(value).__name__}.")
    return value


def check_function(name: str, value: Function, argument: str) -> Function:
    """`value`, if it can be called; the sentence says of what, such as "(outputs, targets)"."""
    if not callable(value):
        raise TypeError(f"{name} must be a function of {argument}, got {value!r}.")
    return value


def check_batch(name: str, value: Tensor) -> Tensor:
    """`value`, if it is a tensor of at least one example without NaN or infinity."""
    check_type(name, value, Tensor, "a torch.Tensor")
    if value.ndim == 0 or value.numel() == 0:
        raise ValueError(f"{name} must hold at least one example, got shape {tuple(value.shape)}.")
    finite = value.isfinite()
    if not finite.all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in {int((~finite).sum())} places.")
    return value
