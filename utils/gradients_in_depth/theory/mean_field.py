"""Mean-field theory of one input: how its variance and its gradient travel through a wide random network."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from gradients_in_depth.arguments import check_choice, check_integer, check_number, check_numbers
from gradients_in_depth.theory.gaussian import (
    Activation,
    Values,
    as_function,
    as_values,
    derivative,
    gaussian_expectation,
)


def variance_map(q: ArrayLike, activation: Activation, weight_var: float, bias_var: float = 0.0) -> Values:
    """Variance one layer on: weight_var * E[phi(z)**2] + bias_var, z ~ N(0, q) (Poole et al. 2016).

    Raises TypeError or ValueError when a variance is negative or not finite, or on a bad activation.
    """
    q = check_numbers("q", q, at_least=0)
    check_number("weight_var", weight_var, at_least=0)
    check_number("bias_var", bias_var, at_least=0)
    function = as_function(activation)
    return weight_var * gaussian_expectation(lambda z: function(z) ** 2, q) + bias_var


def chi(q: ArrayLike, activation: Activation, weight_var: float) -> Values:
    """Factor per layer on the mean squared gradient: weight_var * E[phi'(z)**2], z ~ N(0, q).

    Below 1 gradients vanish, above 1 they explode (Schoenholz et al. 2017). At q = 0 it is the limit from
    above, because phi' may jump there.
    Raises TypeError or ValueError when a variance is negative or not finite, or on a bad activation.
    """
    q = check_numbers("q", q, at_least=0)
    check_number("weight_var", weight_var, at_least=0)
    slope = derivative(as_function(activation))
    return weight_var * gaussian_expectation(lambda z: slope(z) ** 2, np.maximum(q, 1e-300))


def fixed_point(
    activation: Activation, weight_var: float, bias_var: float = 0.0, start: float = 1.0
) -> float:
    """The variance that variance_map, applied again and again from `start`, tends to (Poole et al. 2016).

    Returns inf when it diverges and 0.0 when it dies. The map must grow with q, as it does for every name in
    ACTIVATIONS: then the variances move one way only, up to the next root of variance_map(q) = q, which
    bracketing finds in a few evaluations also where iteration takes millions (tanh near weight_var = 1).
    Raises TypeError or ValueError when a variance is negative or not finite, when start is 0, or on a bad
    activation.
    """
    check_number("start", start, above=0)
    function = as_function(activation)

    def gain(q: float) -> float:
        return float(variance_map(q, function, weight_var, bias_var)) - q

    change = gain(start)
    if abs(change) <= 1e-12 * start:  # every variance is a fixed point of ReLU with weight_var 2
        return float(start)
    sign = 1 if change > 0 else -1
    floor = 0.0 if gain(0.0) > 0 else 1e-10
    ceiling = 1e12 * max(1.0, start, weight_var, bias_var)
    near = far = float(start)
    while (progress := sign * gain(far)) > -1e-12 * far:  # until clearly on the other side of the root
        if progress > 0:
            near = far
        far *= 2.0**sign
        if far > ceiling:
            return math.inf
        if far < floor:
            return 0.0
    return float(brentq(gain, min(near, far), max(near, far), xtol=1e-300, rtol=1e-14))


def variance_trajectory(
    depth: int, activation: Activation, weight_var: float, bias_var: float = 0.0, first: float = 1.0
) -> np.ndarray:
    """Variances q_1 .. q_depth of the pre-activations, q_1 = first (Poole et al. 2016).

    Returns (depth,), inf from the layer at which float64 overflows. Raises TypeError or ValueError unless
    depth is an integer >= 1 and the variances are finite and >= 0, or on a bad activation.
    """
    check_integer("depth", depth, at_least=1)
    check_number("first", first, at_least=0)
    check_number("weight_var", weight_var, at_least=0)
    check_number("bias_var", bias_var, at_least=0)
    function = as_function(activation)
    variances = [float(first)]
    while len(variances) < depth:
        q = variances[-1]
        variances.append(float(variance_map(q, function, weight_var, bias_var)) if math.isfinite(q) else q)
    return np.array(variances)


def gradient_norm_trajectory(
    depth: int, activation: Activation, weight_var: float, bias_var: float = 0.0, first: float = 1.0
) -> np.ndarray:
    """RMS activation gradient of layers 1 .. depth relative to the last (Schoenholz et al. 2017).

    Returns (depth,): entry l is the product of sqrt(chi(q_k)), k = l + 1 .. depth, so the last is 1. Layers
    are equally wide; q_k is variance_trajectory with the same arguments. Raises as variance_trajectory.
    """
    function = as_function(activation)
    variances = variance_trajectory(depth, function, weight_var, bias_var, first).clip(max=1e300)
    factors = np.sqrt(chi(variances, function, weight_var))
    with np.errstate(over="ignore"):
        return np.cumprod([1.0, *factors[:0:-1]])[::-1].copy()  # from the last layer back; q_1 is not needed


def critical_gains(activation: Activation, q: ArrayLike = 1.0) -> tuple[Values, Values]:
    """(forward, backward): gains at which a layer keeps the variance q, and the mean squared gradient.

    The gain is sigma_w, so weight_var = gain**2. Forward it is sqrt(q / E[phi(z)**2]): variance_map(q) = q.
    Backward it is 1 / sqrt(E[phi'(z)**2]): chi(q) = 1. z ~ N(0, q); at q = 0 both are limits from above.
    The two agree where phi is linear on either side of 0 (He et al. 2015): sqrt(2) for ReLU, sqrt(2 / (1 +
    a**2)) for a leak of slope a. Elsewhere no single gain keeps both. `torch.nn.init.calculate_gain` has
    these for ReLU and leaky ReLU; its 5/3 for tanh, 1 for sigmoid and 3/4 for SELU are conventions, and it
    does not know ELU, GELU or SiLU. A gain is inf where nothing comes through.
    Raises TypeError or ValueError when q is negative or not finite, or on a bad activation.
    """
    q = np.maximum(check_numbers("q", q, at_least=0), 1e-200)
    function = as_function(activation)
    slope = derivative(function)
    scale = np.sqrt(q)[..., None]  # before squaring, because the square of 1e-200 is 0
    forward = gaussian_expectation(lambda z: (function(z) / torch.from_numpy(scale)) ** 2, q)
    backward = gaussian_expectation(lambda z: slope(z) ** 2, q)
    with np.errstate(divide="ignore"):
        return as_values(1 / np.sqrt(forward)), as_values(1 / np.sqrt(backward))


def critical_weight_var(bias_var: float = 0.0, activation: Activation = "tanh") -> float:
    """The weight_var at which chi is 1 at the fixed point: the edge of chaos (Poole et al. 2016).

    For tanh it is 1 without biases and grows with bias_var; He's 2 is that of ReLU, which has one without
    biases only. Along the line weight_var is 1 / E[phi'(z)**2], which leaves one equation for q.
    Raises TypeError or ValueError when bias_var is negative or not finite, when there is no such weight_var,
    or on a bad activation.
    """
    check_number("bias_var", bias_var, at_least=0)
    function = as_function(activation)

    def critical(q: float) -> float:
        return 1 / float(chi(q, function, 1.0))

    def bias_left(q: float) -> float:
        return q - float(variance_map(q, function, critical(q))) - bias_var

    smallest = 1e-12
    if abs(bias_left(smallest)) <= 1e-12:
        return critical(0.0)
    for exponent in range(-9, 10):
        largest = 10.0**exponent
        if bias_left(largest) > 0 > bias_left(smallest):
            return critical(brentq(bias_left, smallest, largest, xtol=1e-300, rtol=1e-13))
        smallest = largest
    raise ValueError(f"activation must have an edge of chaos at bias_var {bias_var!r}, got {activation!r}.")


def log_gradient_norm_variance(depth: int, width: int, activation: str = "relu") -> float:
    """Variance, over random networks, of ln(gradient norm) after `depth` layers of `width` units.

    The gradient is the activation gradient for ONE input (a batch would average part of the variance away),
    relative to the one that enters the last of these layers. Weights are Gaussian, of any variance, because
    the scale drops out. To leading order in 1 / width the variance is depth * (3 kappa - 1) / (4 width),
    kappa = E[phi'**4] / E[phi'**2]**2.

    One layer multiplies the squared norm by a sum over its units of (phi' g)**2, whose relative variance
    given g is 3 (kappa - 1) / width, and by a chi-squared number of `width` degrees of freedom, whose
    relative variance is 2 / width. Layers are independent, so their logs add up, and the log of a norm is
    half that of its square. ReLU (kappa = 2): 5 depth / (4 width); linear networks: depth / (2 width).
    (Hanin and Rolnick 2018; Hanin and Nica 2020.) It holds only where phi' does not depend on the scale of z.
    Raises TypeError or ValueError for another activation, and unless depth and width are integers >= 1.
    """
    check_integer("depth", depth, at_least=1)
    check_integer("width", width, at_least=1)
    check_choice("activation", activation, ("identity", "relu", "leaky_relu"))
    slope = derivative(as_function(activation))
    fourth = float(gaussian_expectation(lambda z: slope(z) ** 4))
    second = float(gaussian_expectation(lambda z: slope(z) ** 2))
    return depth * (3 * fourth / second**2 - 1) / (4 * width)
