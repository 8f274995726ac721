"""The singular values of Jacobians agree with linear algebra and with torch.func."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.networks import DeepMLP
from gradients_in_depth.signals import jacobian_singular_values
from tests.measuring import draws


def test_singular_values_of_a_linear_map_are_those_of_its_weight():
    model = nn.Linear(5, 3).double()
    expected = np.linalg.svd(model.weight.detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(jacobian_singular_values(model, draws(5)), expected)
    for row in jacobian_singular_values(model, draws(4, 5)):
        np.testing.assert_allclose(row, expected)
    assert jacobian_singular_values(model.float(), draws(5).float()).dtype == np.float64


MODELS = {
    "mlp": lambda: DeepMLP(3, 6, in_features=4, normalization="layer", skip=True, dtype=torch.float64),
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 6), nn.ReLU(inplace=True)),
    "batch norm, eval": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()).eval(),
    "frozen": lambda: nn.Sequential(nn.Linear(4, 6), nn.Sigmoid()).requires_grad_(False),
    "tuple": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.GRU(2, 3, batch_first=True)),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.GELU()),
}


@pytest.mark.parametrize("name", MODELS)
def test_singular_values_agree_with_torch_func(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    batch = draws(3, 4)

    def outputs(x):
        found = model(x[None].clone())
        return (found if isinstance(found, torch.Tensor) else found[0]).flatten()

    values = jacobian_singular_values(model, batch)
    for row, x in zip(values, batch, strict=True):
        jacobian = torch.autograd.functional.jacobian(outputs, x)
        np.testing.assert_allclose(row, torch.linalg.svdvals(jacobian), atol=1e-12)
        assert (np.diff(row) <= 0).all()
    np.testing.assert_allclose(jacobian_singular_values(model, batch[1]), values[1], atol=1e-12)


def test_batch_normalization_in_train_mode_holds_the_other_examples_fixed():
    model, batch = nn.BatchNorm1d(3).double(), draws(5, 3)

    def first(x):
        return copy.deepcopy(model)(torch.cat([x[None], batch[1:]]))[0]

    expected = torch.linalg.svdvals(torch.autograd.functional.jacobian(first, batch[0]))
    np.testing.assert_allclose(jacobian_singular_values(model, batch)[0], expected)


def test_jacobians_that_are_not_finite_or_zero():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = math.inf
    assert np.isnan(jacobian_singular_values(model, torch.ones(3))).all()

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.bias.expand(len(x), 2)

    assert jacobian_singular_values(Constant(), torch.ones(4, 3)).tolist() == [[0.0, 0.0]] * 4
