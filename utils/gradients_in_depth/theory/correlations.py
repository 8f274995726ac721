"""Mean-field theory of two inputs: how alike a wide random network makes them, and the edge of chaos."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from gradients_in_depth.arguments import check_number, check_numbers
from gradients_in_depth.theory.gaussian import (
    Activation,
    TensorFunction,
    Values,
    as_function,
    as_values,
    derivative,
    gaussian_expectation,
    pair_expectation,
)
from gradients_in_depth.theory.mean_field import chi, fixed_point, variance_map, variance_trajectory


def relu_cosine_map(cosine: float) -> float:
    """Cosine between the ReLU outputs for two inputs whose pre-activations have the given cosine.

    The arc-cosine kernel of degree 1 (Cho and Saul 2009), without biases. Applied layer after layer it tends
    to 1, whatever the scale of the weights.
    Raises TypeError or ValueError unless the cosine is a number from -1 to 1.
    """
    check_number("cosine", cosine, at_least=-1, at_most=1)
    return (math.sqrt(1 - cosine**2) + cosine * (math.pi - math.acos(cosine))) / math.pi


def _check_pair(weight_var: float, bias_var: float, q: float) -> None:
    check_number("weight_var", weight_var, at_least=0)
    check_number("bias_var", bias_var, at_least=0)
    check_number("q", q, above=0)
    if weight_var == bias_var == 0:
        raise ValueError("weight_var and bias_var must not both be 0: a layer of zeros has no correlation.")


def correlation_map(
    c: ArrayLike, activation: Activation, weight_var: float, bias_var: float, q: float
) -> Values:
    """Correlation, one layer on, of the pre-activations for two inputs (Poole et al. 2016).

    Both have variance q and correlation c now: (weight_var * E[phi(u) phi(v)] + bias_var) divided by
    variance_map(q). `c` is a number or an array. Exactly 1 at c = 1; for ReLU without biases it is
    relu_cosine_map. Right to about 1e-9 for smooth functions at any q, and 1e-13 for a kink at 0 alone.
    Raises TypeError or ValueError when c is not from -1 to 1, q is not positive, a variance is negative or
    not finite, both are 0, or on a bad activation.
    """
    c = check_numbers("c", c, at_least=-1, at_most=1)
    _check_pair(weight_var, bias_var, q)
    function = as_function(activation)
    variance = variance_map(q, function, weight_var, bias_var)
    after = (weight_var * pair_expectation(function, c, q) + bias_var) / variance
    return as_values(np.where(c == 1, 1.0, np.clip(after, -1, 1)))


def correlation_slope(
    c: ArrayLike, activation: Activation, weight_var: float, bias_var: float, q: float
) -> Values:
    """The derivative of correlation_map by c: weight_var * E[phi'(u) phi'(v)] * q / variance_map(q).

    At c = 1 and at the fixed point q it is chi: what separates two nearly equal inputs is what makes
    gradients explode (Schoenholz et al. 2017). Raises as correlation_map.
    """
    c = check_numbers("c", c, at_least=-1, at_most=1)
    _check_pair(weight_var, bias_var, q)
    function = as_function(activation)
    growth = weight_var * q / float(variance_map(q, function, weight_var, bias_var))
    at_one = chi(q, function, growth)
    return as_values(np.where(c == 1, at_one, growth * pair_expectation(derivative(function), c, q)))


def correlation_trajectory(
    depth: int,
    activation: Activation,
    weight_var: float,
    bias_var: float = 0.0,
    first: float = 1.0,
    cosine: ArrayLike = 0.0,
) -> np.ndarray:
    """Correlations c_1 .. c_depth of the pre-activations for two inputs, c_1 = cosine (Poole et al. 2016).

    Returns (depth,), or (..., depth) for an array of starts. Both inputs have the variances of
    variance_trajectory with the same arguments; where those die or diverge, the last correlation is kept.
    Raises as variance_trajectory, when a cosine is not from -1 to 1, and when first is 0.
    """
    variances = variance_trajectory(depth, activation, weight_var, bias_var, first)
    correlations = [check_numbers("cosine", cosine, at_least=-1, at_most=1)]
    _check_pair(weight_var, bias_var, first)
    function = as_function(activation)
    for q, after in zip(variances, variances[1:], strict=False):
        if not 1e-200 < q < 1e200:
            correlations.append(correlations[-1])
            continue
        c = (weight_var * pair_expectation(function, correlations[-1], q) + bias_var) / after
        correlations.append(np.where(correlations[-1] == 1, 1.0, np.clip(c, -1, 1)))
    return np.stack(correlations, axis=-1)


def correlation_fixed_point(activation: Activation, weight_var: float, bias_var: float = 0.0) -> float:
    """The correlation that two different inputs tend to, layer after layer (Poole et al. 2016).

    1 in the ordered phase (chi <= 1) and at its edge; below 1 in the chaotic phase, because the map is convex
    on [0, 1] and steeper than 1 at its end. Where the variance dies it is 1, the limit of small biases.
    Raises TypeError or ValueError when a variance is negative or not finite, when the variance of the
    pre-activations diverges, or on a bad activation.
    """
    return depth_scales(activation, weight_var, bias_var).end_correlation


@dataclass(frozen=True)
class DepthScales:
    """Where signals settle, and the layers over which the distance from there shrinks by e.

    variance (xi_q) and correlation (xi_c) are those numbers of layers; end_variance (q*) and end_correlation
    (c*) the fixed points; chi is the factor per layer on the mean squared gradient at q*.
    """

    variance: float
    correlation: float
    end_variance: float
    end_correlation: float
    chi: float


def depth_scales(activation: Activation, weight_var: float, bias_var: float = 0.0) -> DepthScales:
    """How many layers forget: xi_q of the variance and xi_c of the correlation (Schoenholz et al. 2017).

    -1 / ln(slope) of variance_map at its fixed point, and of correlation_map at its own. In the ordered phase
    the second slope is chi, so gradients shrink over the same depth. inf at the edge of chaos, where
    nothing is forgotten exponentially. Networks train up to a depth of about 6 xi_c.
    Where the variance dies, both are those of the limit of small biases, -1 / ln(chi). Raises as
    correlation_fixed_point.
    """
    function = as_function(activation)
    q = fixed_point(function, weight_var, bias_var)
    if not math.isfinite(q):
        raise ValueError(
            "weight_var must be small enough for the variance to settle, "
            f"got {weight_var!r} (with bias_var {bias_var!r})."
        )
    at_one = float(chi(q, function, weight_var))
    if q < 1e-12:
        return DepthScales(_scale(at_one), _scale(at_one), q, 1.0, at_one)
    slope = derivative(function)
    variance_slope = weight_var * float(gaussian_expectation(lambda z: function(z) * slope(z) * z, q)) / q
    c = _correlation_end(function, weight_var, bias_var, q, at_one - 1)
    slope_at_end = at_one if c == 1 else float(correlation_slope(c, function, weight_var, bias_var, q))
    return DepthScales(_scale(variance_slope), _scale(slope_at_end), q, c, at_one)


def _correlation_end(
    function: TensorFunction, weight_var: float, bias_var: float, q: float, excess: float
) -> float:
    """The stable fixed point of the correlation at that of the variance; excess is chi - 1."""
    if excess < 1e-6:
        return 1.0

    def gain(c: float) -> float:
        product = pair_expectation(function, np.asarray(c), q)
        return float((weight_var * product + bias_var) / q) - c

    if gain(0.0) <= 1e-12:  # an odd activation without biases: orthogonal inputs stay orthogonal
        return 0.0
    return float(brentq(gain, 0.0, 1 - 1e-3 * min(excess, 1.0), xtol=1e-9))


def _scale(slope: float) -> float:
    if slope <= 0:
        return 0.0  # forgotten at once
    return -1 / math.log(slope) if slope < 1 - 1e-9 else math.inf
