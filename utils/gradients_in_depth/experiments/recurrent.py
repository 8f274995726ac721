"""What comes back through time in a recurrent network, and what each step adds to the weights' gradient.

Pascanu, Mikolov, Bengio 2013.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gradients_in_depth.experiments.layers import forward_backward


@dataclass(frozen=True, eq=False)
class GradientThroughTime:
    """Norms of gradients, counted in steps back from the end.

    by_state (steps + 1,): of the gradient by the state.
    parts (steps,): of what each step adds to the gradient by the recurrent weights.
    total: of the whole gradient by the recurrent weights.
    early: of the parts of the first half of the sequence together, in units of `total`.
    """

    by_state: np.ndarray
    parts: np.ndarray
    total: float
    early: float


def gradient_through_time(recurrent: Tensor, inputs: Tensor, target: Tensor) -> GradientThroughTime:
    """Gradients of half the squared distance of the last state from the target, mean over the sequences.

    The states are h' = tanh(W h + x), from 0. recurrent (width, width); inputs (steps, batch, width); target
    (batch, width).
    """
    layers = [partial(_step, recurrent=recurrent, x=x) for x in inputs.unbind()]
    layers.append(partial(_loss, target=target))
    first = torch.zeros_like(target).requires_grad_()
    outputs, gradients = forward_backward(layers, first, target.new_ones(()), [first])
    *by_state, _, by_first = gradients
    states = torch.stack([first.detach(), *outputs[:-1]]).flip(0)
    gradient = torch.stack([by_first, *by_state]).flip(0)
    by_z = gradient[:-1] * (1 - states[:-1].square())
    parts = by_z.mT @ states[1:]
    total = parts.sum(0)
    early = parts[(len(parts) + 1) // 2 :].sum(0).norm() / total.norm()
    return GradientThroughTime(_norms(gradient), _norms(parts), total.norm().item(), early.item())


def _step(h: Tensor, recurrent: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(h @ recurrent.T + x)


def _loss(h: Tensor, target: Tensor) -> Tensor:
    return (h - target).square().sum() / (2 * len(target))


def _norms(matrices: Tensor) -> np.ndarray:
    return matrices.flatten(1).norm(dim=1).numpy()
