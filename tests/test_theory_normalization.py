"""theory.normalization: growth of gradients, against closed forms and networks in plain torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from gradients_in_depth import theory
from tests.theory_tools import for_all, names, prints_as


def test_batch_norm_growth_figures():
    assert theory.batch_norm_growth("relu") == pytest.approx(
        math.pi / (math.pi - 1), rel=1e-12
    )  # Yang et al.
    assert prints_as(theory.batch_norm_growth("relu"), "1.4669")
    assert prints_as(math.sqrt(theory.batch_norm_growth("relu")), "1.2112")
    assert theory.batch_norm_growth("identity") == pytest.approx(1, rel=1e-12)
    assert theory.layer_norm_growth("relu") == pytest.approx(1, rel=1e-12)
    assert prints_as(math.sqrt(theory.layer_norm_growth("sigmoid")), "0.391")
    assert prints_as(math.sqrt(theory.batch_norm_growth("sigmoid")), "1.017")


def relu_growth_by_angles(batch: int) -> float:
    """The growth for ReLU from two angles: with slope 0 or 1 all that counts is which examples are > 0."""
    cosine = -1 / (batch - 1)
    angle = math.acos(cosine)
    product = (math.sqrt(1 - cosine**2) + cosine * (math.pi - angle)) / (2 * math.pi)  # Cho and Saul 2009
    both = (math.pi - angle) / (2 * math.pi)
    along = 0.5 - (0.5 + (batch - 1) * product) / batch
    kept = (batch - 1) ** 2 / (2 * batch) + (batch - 1) / batch * both - along
    return batch * kept / ((0.5 - product) * (batch - 1) * (batch - 3))


@for_all(batch=st.integers(4, 5000))
def test_batch_norm_growth_in_closed_form(batch):
    assert theory.batch_norm_growth("relu", batch) == pytest.approx(relu_growth_by_angles(batch), rel=1e-9)
    assert theory.batch_norm_growth("identity", batch) == pytest.approx((batch - 2) / (batch - 3), rel=1e-9)


@for_all(activation=names, batch=st.integers(4, 500), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_batch_norm_growth_properties(activation, batch, scale, shift):
    function = theory.activation_module(activation).double()
    growth = theory.batch_norm_growth(activation, batch)
    assert growth >= theory.batch_norm_growth("identity", batch) * (1 - 1e-9)  # Gaussian Poincare inequality
    assert theory.batch_norm_growth(activation, batch + 1) < growth
    assert theory.batch_norm_growth(activation) < growth
    moved = theory.batch_norm_growth(lambda z: scale * function(z) + shift, batch)
    assert moved == pytest.approx(growth, rel=1e-6)  # what all examples share, and the scale, drop out
    assert theory.batch_norm_growth(activation, 10**6) == pytest.approx(
        theory.batch_norm_growth(activation), rel=1e-5
    )


@for_all(activation=names, scale=st.floats(0.1, 10))
def test_layer_norm_growth_properties(activation, scale):
    function = theory.activation_module(activation).double()
    growth = theory.layer_norm_growth(activation)
    assert theory.layer_norm_growth(lambda z: scale * function(z)) == pytest.approx(growth, rel=1e-9)
    assert growth <= theory.batch_norm_growth(activation) * (1 + 1e-9)  # a mean square is at least a variance


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
@pytest.mark.parametrize(("norm", "batch"), [("batch", 8), ("batch", 64), ("layer", 16)])
def test_normalization_growth_agrees_with_random_networks(activation, norm, batch):
    depth, width, skip, rates = 24, 256, 8, []
    function = {"identity": lambda z: z}.get(activation) or getattr(torch, activation)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        h = torch.randn(batch, width, generator=generator, dtype=torch.float64, requires_grad=True)
        hidden = [h]
        for _ in range(depth):
            weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
            z = hidden[-1] @ weight
            over = 0 if norm == "batch" else 1
            z = (z - z.mean(over, keepdim=True)) / z.std(over, correction=0, keepdim=True)
            hidden.append(function(z))
        arriving = torch.randn(batch, width, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad(hidden[-1], hidden, arriving)
        # Away from both ends: the first layers still see the inputs, the last ones the arriving gradient.
        first, last = (gradients[layer].square().mean() for layer in (skip, depth - 3))
        rates.append(float((first / last).log()) / (depth - 3 - skip))
    expected = theory.batch_norm_growth(activation, batch) if norm == "batch" else None
    expected = expected or theory.layer_norm_growth(activation)
    # 4.5 standard errors of 8 seeds; and the finite width, which lowers a rate of the log by about 5 / width
    # per layer in a batch of one (log_gradient_norm_variance), and moves a large batch by batch / width / 10
    # (measured at widths 256, 512 and 1024).
    error = 4.5 * np.std(rates, ddof=1) / math.sqrt(8) + 5 / width + batch / width / 10
    assert np.mean(rates) == pytest.approx(math.log(expected), abs=error)


@pytest.mark.parametrize("growth", [theory.batch_norm_growth, theory.layer_norm_growth])
def test_normalization_of_a_constant_says_so(growth):
    with pytest.raises(ValueError, match=r"activation must not be constant, got <function .*>\."):
        growth(lambda z: 0 * z)
