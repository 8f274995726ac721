"""What a normalization does to the gradient through a deep network, and to the difference between inputs."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradients_in_depth import theory
from gradients_in_depth.experiments.layers import forward_backward

# With PyTorch's eps, and without parameters; "none" is a name, because a list of choices shows None as empty.
NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "batch": lambda z: F.batch_norm(z, None, None, training=True),
    "layer": lambda z: F.layer_norm(z, z.shape[1:]),
    "rms": lambda z: F.rms_norm(z, z.shape[1:], eps=1e-5),
}
GAINS = {"relu": 2**0.5, "tanh": 1.0, "sigmoid": 1.0}  # He for ReLU, Xavier for the others


def normalized_flow(
    weights: Sequence[Tensor], inputs: Tensor, output_gradient: Tensor, norm: str, activation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Norm of the activation gradient, last layer = 1, and mean cosine of two inputs, (depth,) each.

    The layers are activation(norm(h @ W)), W (width, width); inputs and output_gradient (batch, width). The
    mean is over all pairs of different inputs.
    """
    phi, normalize = getattr(torch, activation), NORMALIZATIONS[norm]
    layers = [partial(_layer, weight=weight, normalize=normalize, phi=phi) for weight in weights]
    hidden, gradients = forward_backward(layers, inputs.detach().requires_grad_(), output_gradient)
    norms = np.array([float(gradient.norm()) for gradient in gradients])
    directions = [F.normalize(h, dim=1).sum(dim=0) for h in hidden]
    squares = np.array([float(direction.square().sum()) for direction in directions])
    batch = len(inputs)
    return norms / norms[-1], (squares - batch) / (batch * (batch - 1))


def _layer(
    h: Tensor, weight: Tensor, normalize: Callable[[Tensor], Tensor], phi: Callable[[Tensor], Tensor]
) -> Tensor:
    return phi(normalize(h @ weight))


def expected_gradients(depth: int, norm: str, activation: str, batch: int | None) -> np.ndarray:
    """RMS activation gradient 0, 1, ... layers back by `theory`, (depth,); NaN where theory has no number.

    `batch` counts only with batch normalization.
    """
    back = np.arange(depth)
    if norm == "none":
        weight_var = 2.0 if activation == "relu" else 1.0
        return theory.gradient_norm_trajectory(depth, activation, weight_var, first=weight_var)[::-1]
    if norm == "batch":
        known = batch is None or batch > 3
        return theory.batch_norm_growth(activation, batch) ** (back / 2) if known else back * np.nan
    return theory.layer_norm_growth(activation) ** (back / 2)
