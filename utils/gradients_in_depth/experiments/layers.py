"""Layers that follow each other: random square weights, and one pass forward and one back."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from gradients_in_depth import data


def gaussian_matrices(count: int, width: int, seed: int) -> Tensor:
    """Independent standard normal numbers (count, width, width), in float64."""
    return data.gaussian_batch(count * width, width, seed).reshape(count, width, width)


def forward_backward(
    layers: Iterable[Callable[[Tensor], Tensor]],
    inputs: Tensor,
    output_gradient: Tensor,
    others: Sequence[Tensor] = (),
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The output of each layer, and the gradients by these outputs and then by `others`.

    `layers` are called one after the other, the first with `inputs`; `output_gradient` is the gradient by the
    last output. Either `inputs` or what the layers hold must require a gradient. Outputs come detached.
    """
    outputs, hidden = [], inputs
    with torch.enable_grad():
        for layer in layers:
            hidden = layer(hidden)
            outputs.append(hidden)
    gradients = torch.autograd.grad(hidden, [*outputs, *others], output_gradient)
    return [output.detach() for output in outputs], gradients
