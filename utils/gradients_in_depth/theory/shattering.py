"""Shattered gradients: how alike the gradients of a deep ReLU network are at neighbouring inputs."""

import math

import numpy as np
from numpy.typing import ArrayLike

from gradients_in_depth.arguments import check_choice, check_integer, check_number, check_numbers


def relu_gradient_kernel(
    inputs: ArrayLike,
    depth: int,
    *,
    normalization: str | None = None,
    skip: bool = False,
    branch_scale: float = 1.0,
    weight_var: float = 2.0,
    bias_var: float = 1.0,
) -> np.ndarray:
    """Covariance, over wide random ReLU networks, of the gradients d(output)/d(input) at two inputs.

    inputs (points,): numbers that lie on a line; returns (points, points), scaled to a mean diagonal of 1.
    The network: a linear stem w x + b with w ~ N(0, 1) and b ~ N(0, bias_var), then `depth` pre-activation
    blocks W relu(norm(z)), with `skip` z + branch_scale * that, and a linear readout. normalization is None
    or "batch": then all `inputs` are one batch, whose statistics are held fixed while differentiating.

    Three kernels go through the layers together: of z, of z with its derivative dz/dx, and of dz/dx. Means
    over ReLU are arc-cosine formulas (Cho and Saul 2009), derivatives enter by Gaussian integration by parts,
    and 1 / deviation**2 is an integral over t of exp(-t deviation**2), which leaves z Gaussian (Yang et al.
    2019). What it explains is the shattering of Balduzzi et al. 2017.
    Raises TypeError or ValueError unless the inputs are at least 3 different numbers on one axis, depth is an
    integer >= 1 and the rest are finite numbers, variances >= 0, with bias_var > 0 where nothing normalizes.
    """
    x = check_numbers("inputs", inputs)
    if x.ndim != 1 or len(np.unique(x)) < max(3, x.size):
        raise ValueError(f"inputs must be at least 3 different numbers (points,), got {inputs!r}.")
    check_integer("depth", depth, at_least=1)
    check_choice("normalization", normalization, (None, "batch"))
    check_number("branch_scale", branch_scale)
    check_number("weight_var", weight_var, above=0)
    if normalization == "batch":
        check_number("bias_var", bias_var, at_least=0)
    else:
        check_number("bias_var", bias_var, above=0)
    average = _relu_moments if normalization is None else _batch_normalized_moments
    kernels = [np.outer(x, x) + bias_var, np.multiply.outer(x, np.ones(x.size)), np.ones((x.size, x.size))]
    for _ in range(depth):
        branch = average(*kernels)
        if skip:
            kernels = [k + branch_scale**2 * weight_var * b for k, b in zip(kernels, branch, strict=True)]
        else:
            kernels = [weight_var * b for b in branch]
        scale = np.trace(kernels[0]) / x.size if not skip else 1.0  # drops out of every correlation
        kernels = [kernel / scale for kernel in kernels]
    return kernels[2] / np.trace(kernels[2]) * x.size


def _relu_moments(zz: np.ndarray, zd: np.ndarray, dd: np.ndarray) -> tuple[np.ndarray, ...]:
    """E[h h'], E[h d'] and E[d d'] of h = relu(z) and d = dh/dx; zd[i, k] is that of z_i with dz_k/dx."""
    deviation, own = np.sqrt(np.diag(zz)), np.diag(zd)
    product = np.outer(deviation, deviation)
    cosine = np.clip(zz / product, -1, 1)
    sine = np.sqrt(1 - cosine**2)
    both_on = (math.pi - np.arccos(cosine)) / (2 * math.pi)
    ratio = deviation[:, None] / deviation
    hh = product * (sine / (2 * math.pi) + cosine * both_on)
    hd = zd * both_on + own * ratio * sine / (2 * math.pi)
    edges = np.outer(own, own) + zd.T * zd - cosine * (own[:, None] * zd / ratio + own * zd.T * ratio)
    apart = sine > 1e-7  # on the diagonal z is either on or off, and no edge lies between
    edges = np.divide(edges, 2 * math.pi * product * sine, out=np.zeros_like(edges), where=apart)
    return hh, hd, dd * both_on + edges


def _batch_normalized_moments(zz: np.ndarray, zd: np.ndarray, dd: np.ndarray) -> list[np.ndarray]:
    """The same behind batch normalization over all inputs, with its two statistics held fixed."""
    centred = zz - zz.mean(axis=0) - zz.mean(axis=1)[:, None] + zz.mean()
    variances, directions = np.linalg.eigh(centred)
    nonzero = variances > 1e-13 * variances[-1]
    variances, directions = variances[nonzero], directions[:, nonzero]
    slopes = directions.T @ (zd - zd.mean(axis=0))
    total, step, moments = variances.sum(), 1.5, [np.zeros_like(zz) for _ in range(3)]
    for t in np.exp(np.arange(-12.0, 18.0, step)) / total:  # the trapezoidal rule in ln t
        damped = 1 + 2 * t * variances
        share = step * t * total * math.exp(-np.log(damped).sum() / 2)
        if share < 1e-7:
            continue
        tilted = (
            (directions * (variances / damped)) @ directions.T,
            (directions / damped) @ slopes,
            dd - (slopes.T * (2 * t / damped)) @ slopes,
        )
        for moment, value in zip(moments, _relu_moments(*tilted), strict=True):
            moment += share * len(zz) / total * value
    return moments


def kernel_autocorrelation(kernel: ArrayLike) -> np.ndarray:
    """Autocorrelation that a covariance over evenly spaced points leads one to expect, at lags 0, 1, ...

    kernel (points, points), as of `relu_gradient_kernel`; returns (points,). Expected sum of products of two
    values that lag apart, divided by the expected sum of squares, both after the mean over the points has
    been taken away. A ratio of means: the median of measured ratios can be some hundredths lower (Balduzzi et
    al. 2017 plot measured ones).
    Raises TypeError or ValueError unless the kernel is a square array of finite numbers that vary.
    """
    kernel = check_numbers("kernel", kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel must be (points, points), got shape {kernel.shape}.")
    centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
    sums = np.array([np.trace(centred, lag) for lag in range(len(kernel))])
    if sums[0] <= 1e-12 * np.trace(kernel):
        raise ValueError("kernel must vary over the points, got the same value everywhere.")
    return sums / sums[0]
