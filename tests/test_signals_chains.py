"""Chains of factors, of matrices and of plain layers."""

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.networks import Block, DeepMLP
from gradients_in_depth.signals import flow, matrix_products, measure, running_product
from tests.measuring import draws


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_flow_agrees_with_measure(activation):
    weights, inputs, arriving = draws(4, 6, 6), draws(5, 6, seed=1), draws(5, 6, seed=2)
    activation_rms, gradient_rms = flow(weights, inputs, activation, arriving)
    model = DeepMLP(4, 6, in_features=6, activation=activation, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for block, weight in zip(model.blocks, weights, strict=True):
            block.linear.weight.copy_(weight.T)
    blocks = nn.Sequential(*model.blocks)
    signals = measure(blocks, inputs, None, lambda out: (out * arriving).sum(), layers=Block)
    mean, variance = signals.series("activation_mean"), signals.series("activation_variance")
    np.testing.assert_allclose(activation_rms, np.sqrt(variance + mean**2))
    np.testing.assert_allclose(gradient_rms, signals.series("activation_gradient_rms"))


def test_running_products():
    assert running_product(0.5, 4, "float32").tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert running_product(0.25, 13, "float16")[-1] == 0.0
    matrices = draws(2, 3, 4, 4)
    products = matrix_products(matrices)
    torch.testing.assert_close(products[1, 2], matrices[1, 2] @ matrices[1, 1] @ matrices[1, 0])
    torch.testing.assert_close(products[:, 0], matrices[:, 0])
