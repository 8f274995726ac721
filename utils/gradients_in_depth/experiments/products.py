"""Long products of random matrices, and what they do to the longest and the shortest vector."""

import numpy as np
import torch
from torch import Tensor

from gradients_in_depth import signals
from gradients_in_depth.experiments.layers import gaussian_matrices


def random_matrices(kind: str, count: int, width: int, seeds: int) -> Tensor:
    """`seeds` chains of `count` matrices, (seeds, count, width, width), from the seeds 0, 1, ...

    kind "Gaussian": entries of standard deviation 1 / sqrt(width); "orthogonal": the Q of their QR
    decomposition.
    """
    matrices = torch.stack([gaussian_matrices(count, width, seed) for seed in range(seeds)]) / width**0.5
    return torch.linalg.qr(matrices).Q if kind == "orthogonal" else matrices


def extreme_singular_values(matrices: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest singular value of the products of the first 1, 2, ... matrices of each chain.

    matrices (chains, count, width, width), all of them invertible; returns (chains, count) twice.
    """
    # Below 1e-16 of the largest, a singular value is lost in rounding: that of the inverse is not.
    inverses = torch.linalg.inv(matrices).mT
    norms = [torch.linalg.matrix_norm(signals.matrix_products(m), 2).numpy() for m in (matrices, inverses)]
    return norms[0], 1 / norms[1]
