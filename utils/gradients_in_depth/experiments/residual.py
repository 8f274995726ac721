"""What residual blocks do to the signal on its way forward and to the gradient on its way back."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradients_in_depth.experiments.layers import forward_backward

NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,  # a name, because a list of choices shows None as empty
    "rms": lambda x: F.rms_norm(x, x.shape[1:]),
    "batch": lambda x: F.batch_norm(x, None, None, training=True),
}


def stream_flow(
    weights: Sequence[Tensor],
    inputs: Tensor,
    output_gradient: Tensor,
    branch_scale: float,
    normalization: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squares of the stream, and of the gradient by it, at the end 1: (depth + 1,) each, inputs first.

    The blocks are x + branch_scale * relu(norm(x)) @ W, W (width, width); inputs and output_gradient
    (batch, width).
    """
    normalize = NORMALIZATIONS[normalization]
    blocks = [partial(_block, weight=w, normalize=normalize, branch_scale=branch_scale) for w in weights]
    x = inputs.detach().requires_grad_()
    outputs, (*gradients, first_gradient) = forward_backward(blocks, x, output_gradient, [x])
    signal = _mean_squares([inputs, *outputs])
    gradient = _mean_squares([first_gradient, *gradients])
    return signal, gradient / gradient[-1]


def _block(x: Tensor, weight: Tensor, normalize: Callable[[Tensor], Tensor], branch_scale: float) -> Tensor:
    return torch.addmm(x, torch.relu(normalize(x)), weight, alpha=branch_scale)


def _mean_squares(tensors: Sequence[Tensor]) -> np.ndarray:
    # NumPy's calls cost less on small arrays.
    return np.array([np.vdot(t, t) / t.size for t in (tensor.numpy() for tensor in tensors)])
