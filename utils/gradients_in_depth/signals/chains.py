"""Chains of factors, of matrices and of plain layers: what a lesson or an explorer needs without a model."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradients_in_depth.arguments import check_batch, check_integer, check_number
from gradients_in_depth.catalogue import FORMATS as FORMAT_DTYPES
from gradients_in_depth.catalogue import activation_module, number_format


def flow(
    weights: Sequence[Tensor], inputs: Tensor, activation: str, output_gradient: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Forward and backward through the plain layers h -> activation(h @ W): what the explorers move.

    weights: depth matrices (width, width); inputs and output_gradient (batch, width), all of one dtype.
    Returns the root mean square of the activations and that of their gradients, (depth,) each. Without
    parameters, hooks and other statistics it costs a third of `measure`, which finds the same gradients.
    Raises ValueError for shapes that do not fit and for an unknown activation.
    """
    shapes = {(inputs.shape[-1], inputs.shape[-1])} | {tuple(weight.shape) for weight in weights}
    if len(weights) == 0 or len(shapes) > 1 or output_gradient.shape != inputs.shape or inputs.ndim != 2:
        raise ValueError(
            "flow needs at least one weight matrix (width, width), inputs (batch, width) and an output "
            f"gradient like them, got {len(weights)} matrices of shapes {sorted(shapes)}, inputs "
            f"{tuple(inputs.shape)} and gradient {tuple(output_gradient.shape)}."
        )
    phi = activation_module(activation).to(inputs.dtype)
    with torch.enable_grad():
        hidden = [phi(inputs.detach().requires_grad_() @ weights[0])]
        for weight in weights[1:]:
            hidden.append(phi(hidden[-1] @ weight))
        gradients = torch.autograd.grad(hidden[-1], hidden, output_gradient)
    return _root_mean_squares(hidden), _root_mean_squares(gradients)


def _root_mean_squares(tensors: Sequence[Tensor]) -> np.ndarray:
    # One small tensor at a time: a stack of all of them is so large that it gets new memory each time.
    arrays = [tensor.detach().numpy() for tensor in tensors]
    return np.sqrt([np.vdot(array, array) / array.size for array in arrays])


def running_product(factor: float, count: int, format_name: str) -> np.ndarray:
    """factor, factor**2, ... multiplied one by one in the arithmetic of a number format.

    Returns (count,). Raises ValueError for an unknown format and for a count below 1.
    """
    number_format(format_name)
    check_integer("count", count, at_least=1)
    step = torch.tensor(check_number("factor", factor), dtype=FORMAT_DTYPES[format_name])
    products = [step]
    while len(products) < count:
        products.append(products[-1] * step)
    return torch.stack(products).double().numpy()


def matrix_products(matrices: Tensor) -> Tensor:
    """The running products of a chain of matrices: W_1, W_2 W_1, W_3 W_2 W_1, ...

    matrices (..., depth, width, width), the factor nearest to the vector first; returns the same
    shape. Raises TypeError or ValueError for anything but finite floating-point square matrices.
    """
    if not isinstance(matrices, Tensor) or not matrices.is_floating_point():
        kind = matrices.dtype if isinstance(matrices, Tensor) else type(matrices).__name__
        raise TypeError(f"matrices must be a floating-point tensor, got {kind}.")
    if matrices.ndim < 3 or matrices.shape[-1] != matrices.shape[-2] or not matrices.numel():
        raise ValueError(f"matrices must be (..., depth, width, width), got shape {tuple(matrices.shape)}.")
    check_batch("matrices", matrices)
    products = [matrices[..., 0, :, :]]
    for matrix in matrices.unbind(-3)[1:]:
        products.append(matrix @ products[-1])
    return torch.stack(products, dim=-3)
