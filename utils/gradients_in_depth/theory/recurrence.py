"""Recurrence: what is left of a gradient after many steps, and of its direction after clipping."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, ndtr

from gradients_in_depth.arguments import check_number, check_numbers
from gradients_in_depth.theory.gaussian import Values, as_values


def recurrent_gradient_bound(steps: ArrayLike, largest_singular_value: float, slope: float = 1.0) -> Values:
    """Upper bound of the norm of dh_T / dh_t, T - t = steps: (slope * largest_singular_value)**steps.

    For h_t = phi(W h_{t-1} + ...) with |phi'| <= slope (1 for tanh and ReLU, 1/4 for the sigmoid). Below 1 it
    is a proof that the gradient vanishes; above 1 it proves nothing (Pascanu, Mikolov, Bengio 2013).
    Returns inf where float64 overflows. Raises TypeError or ValueError when an argument is negative or not
    finite.
    """
    steps = check_numbers("steps", steps, at_least=0)
    check_number("largest_singular_value", largest_singular_value, at_least=0)
    check_number("slope", slope, at_least=0)
    with np.errstate(over="ignore"):
        return as_values((slope * largest_singular_value) ** steps)


def gaussian_power_norms(steps: ArrayLike, spectral_radius: float) -> tuple[Values, Values]:
    """(typical, largest) factor by which the power W**steps of a wide Gaussian matrix stretches a vector.

    W has independent entries of variance spectral_radius**2 / width. A random vector is stretched by
    spectral_radius**k, the one that is stretched most by sqrt((k + 1)**(k + 1) / k**k) times as much: at
    k = 1 that is the largest singular value, 2 * spectral_radius. For a width much larger than k
    (Larsen 2002, on powers of R-diagonal elements). Returns inf where float64 overflows.
    Raises TypeError or ValueError when an argument is negative or not finite.
    """
    k = check_numbers("steps", steps, at_least=0)
    check_number("spectral_radius", spectral_radius, at_least=0)
    with np.errstate(over="ignore"):
        typical = np.asarray(spectral_radius**k)
        excess = np.exp(((k + 1) * np.log(k + 1) - k * np.log(np.maximum(k, 1e-300))) / 2)
        return as_values(typical), as_values(typical * excess)


def cell_path(steps: ArrayLike, forget_bias: float) -> Values:
    """dc_T / dc_t of an LSTM along its cell, T - t = steps: sigmoid(forget_bias)**steps.

    The product of the forget gates where their inputs have mean 0 and little variance, as at initialization;
    0.5**steps for forget_bias 0, 0.731**steps for 1 (Gers, Schmidhuber, Cummins 2000; Jozefowicz, Zaremba,
    Sutskever 2015). The gradient has other paths as well, through h.
    Raises TypeError or ValueError when steps is negative or not finite, or forget_bias is not finite.
    """
    steps = check_numbers("steps", steps, at_least=0)
    check_number("forget_bias", forget_bias)
    return as_values(expit(forget_bias) ** steps)


def value_clipping_cosine(threshold: ArrayLike) -> Values:
    """Cosine between a long Gaussian gradient and itself clipped by value at `threshold` deviations.

    E[g c(g)] / sqrt(E[c(g)**2]) for g ~ N(0, 1) and c(g) = g cut off at +- threshold. Down to sqrt(2 / pi) =
    0.798 for small thresholds, where only the signs are left. Clipping by norm has cosine 1. Gradients with
    a few large entries lose more: down to 1 / sqrt(number of entries).
    Raises TypeError or ValueError unless threshold > 0.
    """
    t = check_numbers("threshold", threshold, above=0)
    t = np.clip(t, 1e-6, 40.0)  # the limits of both ends have been reached there
    inside = 1 - 2 * ndtr(-t)  # E[g c(g)] = E[c'(g)], by parts
    density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    square = inside - 2 * t * density + 2 * t**2 * ndtr(-t)
    return as_values(inside / np.sqrt(square))
