"""A random Transformer: what comes back to each block, and how different its tokens still are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradients_in_depth import networks
from gradients_in_depth.experiments.layers import forward_backward


@dataclass(frozen=True, eq=False)
class TokenFlow:
    """Figures of each block, (depth,) each.

    stream_gradient: norm of the gradient by the block's output.
    query_gradient: norm of the gradient by W_Q, the weights of the queries.
    difference: root mean square of what distinguishes tokens from their mean, as a share of the output's.
    """

    stream_gradient: np.ndarray
    query_gradient: np.ndarray
    difference: np.ndarray


def random_blocks(
    depth: int, d_model: int, placement: str | None, skip: bool
) -> list[networks.TransformerBlock]:
    """Blocks with Xavier weights from one seed, in float64; only the weights of the queries are trainable."""
    model = networks.Transformer(
        depth, d_model, norm_placement=placement, skip=skip, dtype=torch.float64
    ).requires_grad_(False)
    blocks = [block for block in model.blocks if isinstance(block, networks.TransformerBlock)]
    for block in blocks:
        block.attention.query.weight.requires_grad_()
    return blocks


def token_flow(
    blocks: Sequence[networks.TransformerBlock], inputs: Tensor, output_gradient: Tensor
) -> TokenFlow:
    """Measure these blocks; inputs and output_gradient (batch, tokens, d_model)."""
    weights = [block.attention.query.weight for block in blocks]
    outputs, gradients = forward_backward(blocks, inputs, output_gradient, weights)
    norms = np.array([gradient.norm().item() for gradient in gradients])
    differences = [((h - h.mean(dim=1, keepdim=True)).norm() / h.norm()).item() for h in outputs]
    return TokenFlow(norms[: len(blocks)], norms[len(blocks) :], np.array(differences))
