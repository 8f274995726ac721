"""Order and chaos: variance and correlation in random tanh networks, measured and by mean-field theory.

sigma_w and sigma_b are the standard deviations of the weights, times the root of fan_in, and of the biases.
Poole et al. 2016.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import CubicSpline, RectBivariateSpline
from torch import Tensor

from gradients_in_depth import data, theory

_SMALLEST = 1e-3  # variance; below it two terms of the power series are exact enough


def correlated_pairs(correlations: Sequence[float], pairs: int, width: int, seed: int) -> Tensor:
    """Inputs (len(correlations), pairs, 2, width) of mean square 1, in pairs of exactly these cosines."""
    frame = data.gaussian_batch(pairs * len(correlations) * width, 2, seed)
    first, other = torch.linalg.qr(frame.reshape(-1, width, 2)).Q.unbind(-1)
    cosine = torch.tensor(correlations, dtype=torch.float64).repeat_interleave(pairs)[:, None]
    second = cosine * first + (1 - cosine**2).sqrt() * other
    return torch.stack([first, second], dim=1).reshape(len(correlations), pairs, 2, width) * width**0.5


@torch.no_grad()
def pair_statistics(
    weights: Tensor, biases: Tensor, inputs: Tensor, sigma_w: float, sigma_b: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean square of z in each layer, and the correlation of each pair: (depth,) and (groups, pairs, depth).

    The layers are z = sigma_w * h @ W + sigma_b * b and h = tanh(z). weights (depth, width, width) have a
    variance of 1 / width, biases (depth, width) one of 1; inputs (groups, pairs, 2, width).
    """
    hidden = inputs.flatten(0, -2)
    z = torch.empty(len(weights), *hidden.shape, dtype=hidden.dtype)
    for weight, bias, after in zip(weights.unbind(), biases.unbind(), z.unbind(), strict=True):
        torch.addmm(bias, hidden, weight, beta=sigma_b, alpha=sigma_w, out=after)
        hidden = torch.tanh(after)
    one, other = z.reshape(len(z), *inputs.shape).unbind(-2)
    squares, other_squares = one.square().mean(-1), other.square().mean(-1)
    correlations = (one * other).mean(-1) / (squares * other_squares).sqrt()
    return ((squares + other_squares) / 2).mean((1, 2)).numpy(), correlations.permute(1, 2, 0).numpy()


def tanh_trajectory(
    depth: int, sigma_w: float, sigma_b: float, correlations: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """What `pair_statistics` measures, in infinitely wide networks: (depth,) and (len(correlations), depth).

    The inputs have mean square 1 and these correlations. Interpolated from `theory`, to about 1e-4, because
    50 layers of quadrature take too long for a slider.
    """
    q = [sigma_w**2 + sigma_b**2]
    c = [(sigma_w**2 * np.array(correlations) + sigma_b**2) / q[0]]
    for _ in range(depth - 1):
        variance = sigma_w**2 * _second_moment(q[-1]) + sigma_b**2
        c.append((sigma_w**2 * _product(q[-1], c[-1]) + sigma_b**2) / variance)
        q.append(variance)
    return np.array(q), np.transpose(c)


@functools.cache
def critical_line() -> tuple[np.ndarray, np.ndarray]:
    """sigma_b from 0 to 1, and the sigma_w of tanh at which chi is 1, (41,) each."""
    sigma_b = np.linspace(0, 1, 41)
    return sigma_b, np.sqrt([theory.critical_weight_var(float(b) ** 2) for b in sigma_b])


@functools.cache
def _tables() -> tuple[CubicSpline, RectBivariateSpline]:
    """By log variance: log of E[tanh(u)**2] / q; with the angle of two inputs: E[tanh(u) tanh(v)] by it."""
    q, angle = np.geomspace(_SMALLEST, 12, 20), np.linspace(0, np.pi / 2, 17)
    shares = [theory.correlation_map(np.cos(angle), "tanh", 1.0, 0.0, float(v)) for v in q]
    second_moments = CubicSpline(np.log(q), np.log(theory.variance_map(q, "tanh", 1.0) / q))
    return second_moments, RectBivariateSpline(np.log(q), angle, shares)


def _second_moment(q: float) -> float:
    """E[tanh(u)**2] for u of variance q."""
    # For small u, tanh(u)**2 is u**2 - 2 / 3 u**4, whose mean is q - 2 q**2.
    return float(q * np.exp(_tables()[0](np.log(q)))) if q > _SMALLEST else q - 2 * q * q


def _product(q: float, c: np.ndarray) -> np.ndarray:
    """E[tanh(u) tanh(v)] for u and v of variance q and correlation c, from 0 to 1."""
    c = np.clip(c, 0, 1)
    return _second_moment(q) * (_tables()[1].ev(np.log(q), np.arccos(c)) if q > _SMALLEST else c)
