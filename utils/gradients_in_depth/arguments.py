"""What an argument may be: each check returns the value, or raises one sentence that says what is allowed.

TypeError for the wrong kind of thing, ValueError for the wrong value; the sentence ends with what was given.
"""

import math
from collections.abc import Iterable
from numbers import Integral, Real

from torch import Tensor


def check_integer(name: str, value: int, at_least: int) -> int:
    """`value`, if it is an integer of at least `at_least`."""
    sentence = f"{name} must be an integer of at least {at_least}, got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(sentence)
    if value < at_least:
        raise ValueError(sentence)
    return int(value)


def check_number(name: str, value: float, at_least: float = -math.inf, at_most: float = math.inf) -> float:
    """`value`, if it is a finite number within the bounds."""
    bounds = ""
    if at_most < math.inf:
        bounds = f" from {at_least} to {at_most}"
    elif at_least > -math.inf:
        bounds = f" of at least {at_least}"
    sentence = f"{name} must be a finite number{bounds}, got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(sentence)
    if not math.isfinite(value) or not at_least <= value <= at_most:
        raise ValueError(sentence)
    return float(value)


def check_flag(name: str, value: bool) -> bool:
    """`value`, if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def check_choice(name: str, value: object, allowed: Iterable[object]) -> object:
    """`value`, if it is one of those allowed; the sentence lists them."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}.")
    return value


def check_seed(seed: int) -> int:
    """`seed`, if both torch and NumPy take it."""
    sentence = f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}."
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(sentence)
    if not 0 <= seed < 2**32:
        raise ValueError(sentence)
    return int(seed)


def check_batch(name: str, value: Tensor) -> Tensor:
    """`value`, if it is a tensor of at least one example without NaN or infinity."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if value.ndim == 0 or value.numel() == 0:
        raise ValueError(f"{name} must hold at least one example, got shape {tuple(value.shape)}.")
    if not value.isfinite().all():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {int((~value.isfinite()).sum())} places."
        )
    return value
