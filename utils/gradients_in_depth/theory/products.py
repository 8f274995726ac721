"""Products: where the powers of a factor leave a number format, and how products of random matrices grow."""

import math
from fractions import Fraction

import numpy as np
from scipy.special import digamma

from gradients_in_depth.arguments import check_integer, check_number
from gradients_in_depth.catalogue import number_format


def _first_power_beyond(factor: float, boundary: Fraction) -> int:
    """Smallest n >= 1 at which factor**n has reached the boundary, which lies on the factor's side of 1."""
    log2_boundary = math.log2(boundary.numerator) - math.log2(boundary.denominator)
    exponent = log2_boundary / math.log2(factor)
    nearest = max(round(exponent), 1)
    if abs(exponent - nearest) > 1e-9 or nearest > 100_000:
        return max(math.ceil(exponent), 1)
    power = Fraction(factor) ** nearest  # too close for logarithms: decide exactly
    return nearest if power == boundary or (power < boundary) == (factor < 1) else nearest + 1


def first_zero(factor: float, format_name: str) -> int | None:
    """First n at which factor**n, rounded once into the format, is exactly 0; None when |factor| >= 1.

    That is |factor|**n <= smallest_subnormal / 2, because ties go to the even neighbour, 0 (IEEE 754-2019).
    Multiplying step by step in the format is something else: there every product is rounded, and among
    subnormals it can be rounded back up. In float16 the powers of 0.8 then never get to 0: two subnormal
    steps times 0.8 are 1.6 steps, which round to two again.
    Raises TypeError or ValueError when the factor is not a finite number or the format is unknown.
    """
    factor = abs(check_number("factor", factor))
    boundary = Fraction(number_format(format_name).smallest_subnormal) / 2
    if factor >= 1:
        return None
    return _first_power_beyond(factor, boundary) if factor > 0 else 1


def first_overflow(factor: float, format_name: str) -> int | None:
    """First n at which factor**n, rounded once into the format, is infinite; None when |factor| <= 1.

    That is |factor|**n at or past the middle between the largest number and what would be the next one, a
    power of two: ties go to the even neighbour, here infinity (IEEE 754-2019).
    Raises TypeError or ValueError when the factor is not a finite number or the format is unknown.
    """
    factor, largest = abs(check_number("factor", factor)), number_format(format_name).largest
    next_number = Fraction(2) ** math.frexp(largest)[1]  # if the format had one more
    boundary = (Fraction(largest) + next_number) / 2
    return _first_power_beyond(factor, boundary) if factor > 1 else None


def lyapunov_exponents(width: int, weight_std: float) -> np.ndarray:
    """Growth per factor of the log singular values of a product of iid Gaussian matrices.

    Returns (width,), in nats, largest first: (ln 2 + digamma(k / 2)) / 2 + ln weight_std, k = width .. 1, for
    matrices (width, width) with entries N(0, weight_std**2) (Newman 1986). The first is that of the norm.
    Raises TypeError or ValueError unless width is an integer >= 1 and weight_std > 0.
    """
    check_integer("width", width, at_least=1)
    check_number("weight_std", weight_std, above=0)
    return (math.log(2) + digamma(np.arange(width, 0, -1) / 2)) / 2 + math.log(weight_std)


def critical_weight_std(width: int) -> float:
    """The weight_std at which the norm of the Gaussian product neither grows nor shrinks (Newman 1986).

    Tends to 1 / sqrt(width) for large widths, from above.
    Raises TypeError or ValueError unless width is an integer >= 1.
    """
    return math.exp(-lyapunov_exponents(width, 1.0)[0])
