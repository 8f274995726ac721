"""Saturation of sigmoid and tanh: how many units, for which weights, and what a loss makes of it."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from gradients_in_depth.arguments import check_broadcast, check_choice, check_number, check_numbers
from gradients_in_depth.theory.gaussian import Values, as_values

OUTPUT_LOSSES = ("squared_error", "cross_entropy")


def saturated_share(q: ArrayLike, activation: str, threshold: float = 0.05) -> Values:
    """Share of units with |phi'(z)| < threshold * sup|phi'|, z ~ N(0, q), for sigmoid or tanh.

    phi' / sup|phi'| is 1 / cosh(z)**2 for tanh and 1 / cosh(z / 2)**2 for sigmoid, so |z| has to pass
    arccosh(1 / sqrt(threshold)), or twice that (Glorot and Bengio 2010 show the saturation).
    Raises TypeError or ValueError when q < 0, threshold is not between 0 and 1, or for another activation.
    """
    q = check_numbers("q", q, at_least=0)
    check_choice("activation", activation, ("sigmoid", "tanh"))
    check_number("threshold", threshold, above=0, below=1)
    edge = math.acosh(1 / math.sqrt(threshold)) * (2 if activation == "sigmoid" else 1)
    return as_values(2 * ndtr(-edge / np.sqrt(np.maximum(q, 1e-300))))


def sigmoid_window_width(weight: ArrayLike) -> Values:
    """Length of the interval of inputs a where |weight * sigmoid'(weight * a + bias)| >= 1.

    sigmoid'(z) = 1 / (4 cosh(z / 2)**2), hence 4 / |w| * arccosh(sqrt(|w|) / 2), which is the same as
    2 / |w| * ln(|w| * (1 + sqrt(1 - 4 / |w|)) / 2 - 1) (Nielsen 2015, chapter 5). It is 0.0 for |w| <= 4.
    Raises TypeError or ValueError when a weight is not a finite number.
    """
    w = np.maximum(np.abs(check_numbers("weight", weight)), 4.0)
    return as_values(4 / w * np.arccosh(np.sqrt(w) / 2))


def widest_sigmoid_window() -> tuple[float, float]:
    """(weight, width) of the widest window of sigmoid_window_width (Nielsen 2015, chapter 5).

    With w = 4 cosh(u)**2 the width is u / cosh(u)**2, which is largest where 2 u tanh(u) = 1.
    """
    u = brentq(lambda u: 2 * u * math.tanh(u) - 1, 0.0, 2.0)
    return 4 * math.cosh(u) ** 2, u / math.cosh(u) ** 2


def output_delta(z: ArrayLike, target: ArrayLike, loss: str) -> Values:
    """dloss/dz of a sigmoid output a = sigmoid(z), elementwise (Nielsen 2015, chapter 3).

    "squared_error", (a - target)**2 / 2, gives (a - target) * a * (1 - a): it vanishes when the unit is
    saturated, right or wrong. "cross_entropy" gives a - target: it does not. `z` and `target` broadcast.
    Raises TypeError or ValueError for another loss, and unless z is finite and the targets are from 0 to 1.
    """
    check_choice("loss", loss, OUTPUT_LOSSES)
    z, target = check_numbers("z", z), check_numbers("target", target, at_least=0, at_most=1)
    check_broadcast("z and target", z, target)
    active, inactive = expit(z), expit(-z)  # inactive is 1 - a, without its cancellation
    error = (1 - target) * active - target * inactive
    return as_values(error * active * inactive if loss == "squared_error" else error)
