"""theory.saturation: saturated units, windows of weights, output errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import for_all, log_uniform, prints_as, sigma, variances

WIDTH, SEEDS = 300, 12


def test_window_figures():
    weight, width = theory.widest_sigmoid_window()
    assert prints_as(weight, "6.894")
    assert prints_as(width, "0.4477")
    assert prints_as(theory.sigmoid_window_width(50.0), "0.155")
    assert prints_as(theory.sigmoid_window_width(100.0), "0.092")
    assert theory.sigmoid_window_width([3.9, 4.0, -4.0, 0.0]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("weight_var", [4.0, 100.0])
def test_saturated_share_agrees_with_random_networks(activation, weight_var):
    def initialize(weight):
        nn.init.normal_(weight, std=math.sqrt(weight_var / WIDTH))

    supremum = {"sigmoid": 0.25, "tanh": 1.0}[activation]
    shares = []
    for seed in range(SEEDS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            h = nn.functional.normalize(torch.randn(WIDTH, dtype=torch.float64), dim=0) * math.sqrt(WIDTH)
            for _ in range(5):
                weight = torch.empty(WIDTH, WIDTH, dtype=torch.float64)
                initialize(weight)
                z = (weight @ h).requires_grad_()
                h = getattr(torch, activation)(z)
                (slope,) = torch.autograd.grad(h.sum(), z)
                h = h.detach()
        shares.append(float((slope < 0.05 * supremum).double().mean()))
    q = theory.variance_trajectory(5, activation, weight_var, first=weight_var)[-1]
    # 4.5 standard errors of 12 seeds as above, and 1 / n for the finite width
    error = 4.5 * np.std(shares, ddof=1) / math.sqrt(SEEDS) + 1 / WIDTH
    assert np.mean(shares) == pytest.approx(theory.saturated_share(q, activation), abs=error)


@for_all(q=variances, threshold=st.floats(0.001, 0.999))
def test_saturated_share_properties(q, threshold):
    tanh = theory.saturated_share(q, "tanh", threshold)
    assert 0 <= tanh <= 1
    assert theory.saturated_share(4 * q, "sigmoid", threshold) == pytest.approx(
        tanh
    )  # tanh(z) = 2 sigmoid(2 z) - 1
    assert theory.saturated_share(2 * q, "tanh", threshold) >= tanh
    assert theory.saturated_share(q, "tanh", min(0.9999, threshold * 1.1)) >= tanh
    edge = math.atanh(math.sqrt(1 - threshold))
    assert tanh == pytest.approx(math.erfc(edge / math.sqrt(2 * q)), rel=1e-9, abs=1e-300)


def test_saturated_share_without_variance_is_none():
    assert theory.saturated_share(0.0, "sigmoid") == 0.0


def slope_times_weight(weight: float, z: float) -> float:
    return abs(weight) * sigma(z) * sigma(-z)


@for_all(weight=log_uniform(4.01, 1e6))
@example(weight=6.894)
def test_window_is_where_the_factor_reaches_one(weight):
    width = theory.sigmoid_window_width(weight)
    assert theory.sigmoid_window_width(-weight) == width
    assert slope_times_weight(weight, weight * width / 2) == pytest.approx(1, rel=1e-9)
    assert slope_times_weight(weight, weight * width / 2 * 0.99) > 1
    assert slope_times_weight(weight, weight * width / 2 * 1.01) < 1
    printed = 2 / weight * math.log(weight * (1 + math.sqrt(1 - 4 / weight)) / 2 - 1)
    assert width == pytest.approx(printed, rel=1e-9)
    assert width <= theory.widest_sigmoid_window()[1] * (1 + 1e-12)


def test_widest_window_is_a_maximum():
    weight, width = theory.widest_sigmoid_window()
    assert theory.sigmoid_window_width(weight) == pytest.approx(width, rel=1e-12)
    assert (theory.sigmoid_window_width([weight * 0.99, weight * 1.01]) < width).all()


@for_all(z=st.floats(-30, 30), target=st.floats(0, 1))
def test_output_delta_is_the_derivative(z, target):
    logit = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    goal = torch.tensor(target, dtype=torch.float64)
    for loss, value in {
        "squared_error": (torch.sigmoid(logit) - goal) ** 2 / 2,
        "cross_entropy": nn.functional.binary_cross_entropy_with_logits(logit, goal),
    }.items():
        (expected,) = torch.autograd.grad(value, logit)
        assert theory.output_delta(z, target, loss) == pytest.approx(float(expected), rel=1e-6, abs=1e-14)


def test_output_delta_broadcasts_and_keeps_small_numbers():
    assert theory.output_delta(np.zeros((3, 1)), [0.0, 1.0], "cross_entropy").tolist() == [[0.5, -0.5]] * 3
    assert theory.output_delta(40.0, 1, "cross_entropy") == pytest.approx(
        -math.exp(-40), abs=0
    )  # not 1 - 1 = 0
    assert (
        abs(theory.output_delta(-10.0, 1.0, "squared_error"))
        < 1e-4
        < theory.output_delta(10.0, 0.0, "cross_entropy")
    )
