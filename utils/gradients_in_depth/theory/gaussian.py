"""Averages of an activation over Gaussian pre-activations, of one input and of two."""

import copy
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from gradients_in_depth.arguments import check_function, check_numbers
from gradients_in_depth.catalogue import ACTIVATIONS, activation_module

TensorFunction = Callable[[torch.Tensor], torch.Tensor]
Activation = str | TensorFunction
Values = float | np.ndarray


def as_values(array: ArrayLike) -> Values:
    """The number that an array without axes holds, or the array."""
    array = np.asarray(array)
    return array.item() if array.ndim == 0 else array


# --- Activations as functions ------------------------------------------------------------------------------


def as_function(activation: Activation) -> TensorFunction:
    """The activation as a plain float64 function: a module is copied, so that the caller's stays as it is."""
    if isinstance(activation, str):
        activation = activation_module(activation)
    if isinstance(activation, nn.Module):
        with torch.inference_mode(False):  # autograd refuses parameters that were made in inference mode
            return copy.deepcopy(activation).double().eval().forward
    if not callable(activation):
        names = ", ".join(ACTIVATIONS)
        raise TypeError(f"activation must be one of {names} or a torch callable; got {activation!r}.")
    return activation


def _apply(function: TensorFunction, z: torch.Tensor) -> torch.Tensor:
    values = function(z.clone())  # a copy, because the function may work in place
    if getattr(values, "shape", None) != z.shape:
        shape, result = (*z.shape,), getattr(values, "shape", type(values).__name__)
        raise ValueError(f"The function must return a tensor of its input's shape {shape}, got {result}.")
    return values


def evaluate(function: TensorFunction, z: np.ndarray) -> np.ndarray:
    """The function's values at z, in float64 and of z's shape, without a graph for autograd."""
    with torch.inference_mode(False), torch.no_grad():
        return _apply(function, torch.from_numpy(z)).double().numpy()


def derivative(function: TensorFunction) -> TensorFunction:
    """phi', by automatic differentiation."""

    def slope(z: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = _apply(function, z)
            if not values.requires_grad:
                raise ValueError("The activation must be differentiable by autograd, got no graph.")
            return torch.autograd.grad(values.sum(), z)[0]

    return slope


# --- One input ---------------------------------------------------------------------------------------------


@cache
def _gaussian_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of E[f(x)], x ~ N(0, 1): 16 Gauss-Legendre points on each of 48 panels.

    The panels halve in size towards 0, so that a kink at 0 falls between panels and a step as narrow as
    1e-6 is still resolved (Gauss-Hermite points are too sparse for both). Beyond 12 lies a mass of 4e-33.
    """
    points, weights = np.polynomial.legendre.leggauss(16)
    edges = np.concatenate([[0.0], 12.0 * 2.0 ** np.arange(-23, 1)])
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + points)).ravel()
    w = (half * weights).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.concatenate([-x[::-1], x]), np.concatenate([w[::-1], w])


def gaussian_expectation(function: TensorFunction, variance: ArrayLike = 1.0) -> Values:
    """E[function(z)] for z ~ N(0, variance), by piecewise Gauss-Legendre quadrature.

    `function` works elementwise on a float64 tensor. Smooth functions, functions with a kink or jump at 0,
    and steps as narrow as sqrt(variance) / 1e6 are integrated to about 1e-14; a kink elsewhere costs digits.
    Raises TypeError or ValueError when the function is not callable, changes the shape or gives NaN, and
    when a variance is negative or not finite.
    """
    variance = check_numbers("variance", variance, at_least=0)
    check_function("function", function, "a torch.Tensor")
    nodes, weights = _gaussian_nodes()
    values = evaluate(function, np.multiply.outer(np.sqrt(variance), nodes))
    with np.errstate(over="ignore"):  # inf is the answer
        expectation = values @ weights
    if np.isnan(expectation).any():
        raise ValueError(f"function must be defined on all real numbers, got NaN at variance {variance}.")
    return as_values(expectation)


def activation_moments(q: ArrayLike, activation: Activation) -> tuple[Values, Values]:
    """(E[phi(z)], E[phi(z)**2]) for z ~ N(0, q).

    Raises TypeError or ValueError when q is negative or not finite, or on a bad activation.
    """
    q = check_numbers("q", q, at_least=0)
    function = as_function(activation)
    return gaussian_expectation(function, q), gaussian_expectation(lambda z: function(z) ** 2, q)


# --- Two inputs --------------------------------------------------------------------------------------------


@cache
def _panel_nodes(levels: int, outer: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights from 0 to 1 (or the last of `outer`): 10 Gauss-Legendre points on each panel."""
    points, weights = np.polynomial.legendre.leggauss(10)
    edges = np.concatenate([[0.0], 4.0 ** np.arange(-levels, 1), outer])
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + points)).ravel(), (half * weights).ravel()


def angular_nodes(angle: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles from 0 to pi and their weights, (..., nodes), for inputs that are `angle` (..., 1) apart.

    The two pre-activations change sign at (pi - angle) / 2 and (pi + angle) / 2. Panels shrink by 4 towards
    both, `levels` times, so that a kink at 0 falls between panels and a step is resolved.
    """
    away, share = _panel_nodes(levels, ())
    first, last, middle = (math.pi - angle) / 2, (math.pi + angle) / 2, angle / 2
    angles = [first - first * away, first + middle * away, last - middle * away, last + first * away]
    shares = [first * share, middle * share, middle * share, first * share]
    return np.concatenate(angles, -1), np.concatenate(shares, -1)


def pair_expectation(function: TensorFunction, cosine: np.ndarray, q: float) -> np.ndarray:
    """E[f(u) f(v)] for normal u, v of variance q and the given correlations (any shape).

    In polar coordinates u and v are r cos(theta +- angle / 2): lines through the origin, along which a kink
    or a step at 0 lies, are single angles (the trick of Cho and Saul 2009). Swapping u and v mirrors theta.
    """
    levels = 1 + max(0, math.ceil(math.log(max(q, 1e-300)) / (2 * math.log(4))))  # as sharp as a sigmoid
    angle = np.arccos(cosine)[..., None]
    theta, theta_weights = angular_nodes(angle, levels)
    radius, radius_weights = _panel_nodes(levels, (2.0, 3.5, 5.0, 7.0, 12.0))
    radius_weights = radius_weights * radius * np.exp(-(radius**2) / 2)
    first, second = (
        evaluate(function, math.sqrt(q) * np.cos(theta + side * angle / 2)[..., None] * radius)
        for side in (1, -1)
    )
    return ((first * second) @ radius_weights * theta_weights).sum(-1) / math.pi
