"""Activations that are in no table, which sets 04 and 05 bring to a learner's function, and their moments."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradients_in_depth.checks.common import derivative

# A grid of standard normal numbers, dense around 0, where a large scale makes an activation steep.
_T = np.linspace(-1, 1, 1601)
_NORMAL = 9 * np.sinh(4 * _T) / math.sinh(4)
_DENSITY = np.exp(-(_NORMAL**2) / 2) * np.cosh(4 * _T)
_DENSITY /= _DENSITY.sum()


@dataclass(frozen=True, eq=False)
class Nameless:
    """A smooth and rising activation: NumPy's, so that a learner's function has to measure its slope."""

    heights: np.ndarray
    steepness: np.ndarray
    shift: float = 0.0
    middle: float = 0.0

    def __call__(self, z: ArrayLike) -> np.ndarray:
        """The activation's outputs, in the shape of z."""
        first, second = self.heights
        steep, flat = self.steepness
        z = np.asarray(z)
        return self.middle + first * np.tanh(steep * z + self.shift) + second * np.arctan(flat * z)

    def __repr__(self) -> str:
        return "activation"


class Moments(NamedTuple):
    """E[φ(z)], E[φ(z)²] and E[φ'(z)²]."""

    mean: float
    square: float
    square_slope: float


def moments(activation: Callable, q: float) -> Moments:
    """Those of an activation for z ~ N(0, q)."""
    z = math.sqrt(q) * _NORMAL
    values, slopes = activation(z), derivative(activation, z)
    return Moments(*(float(_DENSITY @ row) for row in (values, values**2, slopes**2)))


def slope_at_0(activation: Callable) -> float:
    """φ'(0)."""
    return float(derivative(activation, np.zeros(1))[0])
