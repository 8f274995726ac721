"""Normalization: how fast gradients grow through random layers that normalize over the batch or the units."""

import math

import numpy as np

from gradients_in_depth.arguments import check_integer
from gradients_in_depth.theory.gaussian import (
    Activation,
    activation_moments,
    angular_nodes,
    as_function,
    derivative,
    evaluate,
)
from gradients_in_depth.theory.mean_field import chi


def batch_norm_growth(activation: Activation, batch: int | None = None) -> float:
    """Factor per layer, going back, on the mean squared gradient of linear -> BatchNorm -> activation layers.

    Its root is the factor on the norm. For a large batch (None) it is E[phi'(z)**2] / Var[phi(z)],
    z ~ N(0, 1): the gradient is divided by what spreads the batch, and that is the variance alone, because
    batch normalization removes what all examples share. ReLU: pi / (pi - 1) = 1.4669. By the Gaussian
    Poincare inequality it is never below 1, and is 1 for linear layers only.
    With a batch of finite size it is larger: (batch - 2) / (batch - 3) for linear layers. It holds for wide
    layers with random weights of any scale, scale 1 and shift 0, after some ten layers, in which all pairs of
    examples become equally different. (Yang et al. 2019, appendix.)
    Raises TypeError or ValueError when batch is not an integer >= 4 (with 3, the mean is infinite), for an
    activation that is constant, or on a bad activation.
    """
    function = as_function(activation)
    slope = derivative(function)
    if batch is None:
        mean, mean_square = map(float, activation_moments(1.0, function))
        spread = _check_spread(activation, mean_square - mean**2, mean_square)
        return float(chi(1.0, function, 1.0)) / spread
    n = check_integer("batch (unless it is None)", batch, at_least=4)
    # z of one unit over the batch is a random direction among those orthogonal to (1, .., 1), of length
    # sqrt(batch): any two examples u, v have variance 1 and correlation -1 / (batch - 1).
    u, v, weights = _sphere_nodes(n)
    h, k = evaluate(function, u), evaluate(function, v)
    d, e = evaluate(slope, u), evaluate(slope, v)
    mean_square, product, along = weights @ h**2, weights @ (h * k), weights @ (u * d) ** 2
    # The gradient arrives with covariance 1 - 1/n over the batch, passes phi', and loses its mean over the
    # batch and its component along z.
    gradient = (n - 1) ** 2 / n * (weights @ d**2) + (n - 1) / n * (weights @ (d * e))
    gradient -= along - (along + (n - 1) * (weights @ (u * d * v * e))) / n
    spread = _check_spread(activation, mean_square - product, mean_square)
    return float(n * gradient / ((n - 1) * (n - 3) * spread))


def layer_norm_growth(activation: Activation) -> float:
    """Factor per layer, going back, on the mean squared gradient of linear -> LayerNorm -> activation layers.

    Its root is the factor on the norm. It is E[phi'(z)**2] / E[phi(z)**2], z ~ N(0, 1), with RMSNorm and
    GroupNorm (large groups) too: over the units of a wide random layer z has mean 0 in any case. As in
    batch_norm_growth, but what all examples share stays: ReLU keeps its gradient (1), a sigmoid loses it.
    Scale 1 and shift 0; random weights of any scale. (Ba, Kiros and Hinton 2016; Zhang and Sennrich 2019.)
    Raises TypeError or ValueError for an activation that is constantly 0, or on a bad activation.
    """
    function = as_function(activation)
    mean_square = float(activation_moments(1.0, function)[1])
    return float(chi(1.0, function, 1.0)) / _check_spread(activation, mean_square, 1.0)


def _check_spread(activation: Activation, variance: float, scale: float) -> float:
    if not variance > 1e-12 * scale:
        raise ValueError(f"activation must not be constant, got {activation!r}.")
    return variance


def _sphere_nodes(batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (u, v) and weights of E[f(u, v)], two entries of a random vector of mean 0 and mean square 1.

    Two coordinates of a uniform direction in k = batch - 1 dimensions: density (1 - r**2)**((k - 4) / 2).
    Polar coordinates as in pair_expectation: a kink at 0 is a single angle.
    """
    k = batch - 1
    theta, theta_weights = angular_nodes(np.arccos([-1 / k]), 4)
    points, weights = np.polynomial.legendre.leggauss(24)
    edges = np.minimum(np.array([0, 0.5, 1, 2, 3, 4.5, 6, 9, 12]) / math.sqrt(k), 1)
    edges = np.arcsin(np.unique(edges if k > 144 else np.append(edges, 1.0)))
    half = np.diff(edges)[:, None] / 2
    psi = (edges[:-1, None] + half * (1 + points)).ravel()
    radial = (half * weights).ravel() * (k - 2) * np.sin(psi) * np.cos(psi) ** (k - 3)
    angle = math.acos(-1 / k) / 2
    u, v = (math.sqrt(k) * np.outer(np.cos(theta + side * angle), np.sin(psi)) for side in (1, -1))
    # theta from pi to 2 pi has u and v swapped: only the functions of u alone see a difference.
    everything = np.outer(theta_weights, radial).ravel() / (2 * math.pi)
    pairs = [np.concatenate(both) for both in ((u.ravel(), v.ravel()), (v.ravel(), u.ravel()))]
    return pairs[0], pairs[1], np.concatenate([everything, everything])
