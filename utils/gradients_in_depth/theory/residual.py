"""Residual connections: scale and gradient along the stream, and through how many branches they came."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gradients_in_depth.arguments import check_choice, check_integer, check_number, check_numbers
from gradients_in_depth.theory.gaussian import Activation, TensorFunction, activation_moments, as_function
from gradients_in_depth.theory.mean_field import chi, variance_map

RESIDUAL_NORMALIZATIONS = (None, "batch", "layer", "rms")


@dataclass(frozen=True, eq=False)
class ResidualFlow:
    """Scale and gradient along the stream of a residual network, before block 1 to after block `depth`.

    second_moments   (depth + 1,): mean square of the stream; the first is 1
    gradient_norms   (depth + 1,): root mean square of the activation gradient; the last is 1
    branch_factors   (depth,): what each branch multiplies the mean squared gradient by
    """

    second_moments: np.ndarray
    gradient_norms: np.ndarray
    branch_factors: np.ndarray


def residual_flow(
    depth: int,
    branch_scale: float = 1.0,
    *,
    activation: Activation = "relu",
    weight_var: float = 2.0,
    normalization: str | None = None,
) -> ResidualFlow:
    """What `depth` pre-activation blocks x + branch_scale * W phi(norm(x)) do to the scale of x.

    W is independent of x, so mean squares add up: q + branch_scale**2 * variance_map(q), and going back
    1 + branch_scale**2 * chi(q). For ReLU with weight_var 2 both are 1 + branch_scale**2 per block: 2**depth
    at branch_scale 1, up to e at 1 / sqrt(depth), exactly 1 at 0 (Hanin and Rolnick 2018; Zhang, Dauphin, Ma
    2019). "rms" and "layer" divide the branch's input by the stream's own size: it then grows by a constant
    per block, and the branch's gradient is divided by it. "batch" divides each unit by its deviation over a
    large batch of unrelated inputs, which grows by the variance of phi alone, without its mean (De and Smith
    2020). Entries are inf from where float64 overflows.
    Raises TypeError or ValueError unless depth is an integer >= 1, branch_scale a finite number and
    weight_var one >= 0; for an unknown normalization or a bad activation.
    """
    check_integer("depth", depth, at_least=1)
    check_number("branch_scale", branch_scale)
    check_number("weight_var", weight_var, at_least=0)
    check_choice("normalization", normalization, RESIDUAL_NORMALIZATIONS)
    function, share = as_function(activation), float(branch_scale) ** 2
    with np.errstate(over="ignore"):
        if normalization is None:
            moments, factors = _growing_branches(depth, share, function, weight_var)
        else:
            mean, square = map(float, activation_moments(1.0, function))
            steps = np.arange(depth + 1) * share * weight_var
            moments = 1 + steps * square
            scale = 1 + steps * (square - mean**2) if normalization == "batch" else moments
            factors = share * chi(1.0, function, weight_var) / scale[:-1]
        gradients = np.sqrt(np.cumprod([1.0, *(1 + factors[::-1])])[::-1])
    return ResidualFlow(moments, gradients, factors)


def _growing_branches(
    depth: int, share: float, function: TensorFunction, weight_var: float
) -> tuple[np.ndarray, np.ndarray]:
    variances = [1.0]
    for _ in range(depth):
        q = variances[-1]
        if math.isfinite(q) and share > 0:
            q += share * float(variance_map(q, function, weight_var))
        variances.append(q)
    moments = np.array(variances)
    return moments, share * chi(moments[:-1].clip(max=1e300), function, weight_var) * np.ones(depth)


def path_length_weights(branch_factors: ArrayLike) -> np.ndarray:
    """Share of the mean squared gradient that comes along paths through 0, 1, ... depth branches.

    `depth` blocks have 2**depth paths, C(depth, k) of them through k branches (Veit, Wilber, Belongie 2016).
    branch_factors (depth,) are what each branch multiplies the mean squared gradient by, as in
    `residual_flow`. Contributions of different paths are uncorrelated over random weights, so the shares
    are the coefficients of prod((1 + f_l s) / (1 + f_l)): binomial for equal factors. Returns (depth + 1,).
    Raises TypeError or ValueError unless the factors are finite numbers >= 0 on one axis.
    """
    factors = check_numbers("branch_factors", branch_factors, at_least=0)
    if factors.ndim != 1:
        raise ValueError(f"branch_factors must be (depth,), got shape {factors.shape}.")
    shares = np.ones(1)
    for factor in factors:
        shares = np.convolve(shares, [1 / (1 + factor), factor / (1 + factor)])
    return shares
