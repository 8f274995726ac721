"""theory.recurrence: long products in time, and clipping."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import for_all, log_uniform, prints_as


def test_printed_figures_of_recurrence_and_clipping():
    assert prints_as(theory.cell_path(1, 1.0), "0.731")
    assert theory.cell_path(40, 0.0) == 0.5**40
    assert theory.recurrent_gradient_bound(10, 4.0, slope=0.25) == 1.0  # a sigmoid with sigma_max = 4
    assert prints_as(theory.recurrent_gradient_bound(20, 1.8), "127482.36")
    assert prints_as(theory.value_clipping_cosine(1e-3), "0.798")
    clipped = torch.tensor([3.0, 4.0]).clamp(-1, 1)
    assert clipped.tolist() == [1, 1]
    vector = nn.Parameter(torch.zeros(2))
    vector.grad = torch.tensor([3.0, 4.0])
    assert nn.utils.clip_grad_norm_([vector], 1.0).item() == 5  # the norm BEFORE clipping
    torch.testing.assert_close(vector.grad, torch.tensor([0.6, 0.8]))


@for_all(sigma=log_uniform(0.1, 3.0), slope=log_uniform(0.1, 1.0), k=st.integers(0, 40))
def test_the_bound_of_recurrence_is_a_product(sigma, slope, k):
    bound = theory.recurrent_gradient_bound([k, k + 1], sigma, slope)
    assert bound[0] == pytest.approx(math.prod([slope * sigma] * k), rel=1e-9)
    assert (bound[1] > bound[0]) == (slope * sigma > 1)


@pytest.mark.parametrize(("activation", "slope"), [("tanh", 1.0), ("sigmoid", 0.25), ("relu", 1.0)])
def test_no_gradient_of_a_recurrent_network_passes_the_bound(activation, slope):
    phi = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}[activation]
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(20, 20, generator=generator, dtype=torch.float64) * 1.3 / math.sqrt(20)
        noise = torch.randn(15, 20, generator=generator, dtype=torch.float64)

        def run(h, weight=weight, noise=noise):
            for x in noise:
                h = phi(weight @ h + x)
            return h

        jacobian = torch.func.jacrev(run)(torch.zeros(20, dtype=torch.float64))
        largest = torch.linalg.matrix_norm(weight, 2).item()
        bound = theory.recurrent_gradient_bound(15, largest, slope)
        assert torch.linalg.matrix_norm(jacobian, 2).item() <= bound


def test_powers_of_gaussian_matrices_stretch_as_theory_says():
    # Width 256, 8 seeds. Eigenvalues wander by about 1 / sqrt(width) = 6 %, to the power k; the largest
    # stretch of a power has a finite-width deficit besides, 12 % at k = 5 and growing.
    width, radius = 256, 0.9
    for k, room in ((1, 0.04), (2, 0.07), (5, 0.2), (10, 0.35)):
        typical, largest = [], []
        for seed in range(8):
            generator = torch.Generator().manual_seed(seed)
            weight = torch.randn(width, width, generator=generator, dtype=torch.float64) * radius / width**0.5
            power = torch.linalg.matrix_power(weight, k)
            typical.append(torch.linalg.matrix_norm(power).item() / width**0.5)
            largest.append(torch.linalg.matrix_norm(power, 2).item())
        expected = theory.gaussian_power_norms(k, radius)
        assert abs(np.median(typical) / expected[0] - 1) < room / 2
        assert abs(np.median(largest) / expected[1] - 1) < room


@for_all(radius=log_uniform(0.1, 3.0), k=st.integers(0, 60))
def test_gaussian_powers_lie_between_radius_and_bound(radius, k):
    typical, largest = theory.gaussian_power_norms(k, radius)
    bound = theory.recurrent_gradient_bound(k, 2 * radius)
    assert typical <= largest * (1 + 1e-12) and largest <= bound * (1 + 1e-12)
    if k:  # sqrt(e (k + 1 / 2)), but for a part in k squared
        assert largest / typical == pytest.approx(math.sqrt(math.e * (k + 0.5)), rel=0.01 + 0.01 / k)


def test_cell_path_is_what_an_lstm_passes_on():
    """Along the cell of nn.LSTMCell: the recurrence from h is cut, so that only the forget gates are left."""
    for forget_bias in (0.0, 1.0):
        products = []
        for seed in range(8):
            torch.manual_seed(seed)
            cell = nn.LSTMCell(4, 64, dtype=torch.float64)
            with torch.no_grad():
                for parameter in cell.parameters():
                    parameter.mul_(0.3)  # little variance in the gates
                cell.bias_ih[64:128] += forget_bias
            start = torch.zeros(1, 64, dtype=torch.float64, requires_grad=True)
            h, c = torch.zeros_like(start), start
            for x in torch.randn(20, 1, 4, dtype=torch.float64):
                h, c = cell(x, (h.detach(), c))
            (gradient,) = torch.autograd.grad(c.sum(), start)
            products.append(gradient.log().mean().item())
        # The bias and the inputs of a gate have a standard deviation of 0.06 here: 20 * 0.06 / sqrt(8 * 64).
        assert np.median(products) == pytest.approx(math.log(theory.cell_path(20, forget_bias)), abs=0.2)


@for_all(threshold=log_uniform(1e-3, 30.0))
def test_value_clipping_cosine_properties(threshold):
    cosine = theory.value_clipping_cosine(threshold)
    assert math.sqrt(2 / math.pi) - 1e-4 <= cosine <= 1 + 1e-12
    assert theory.value_clipping_cosine(threshold * 1.1) >= cosine - 1e-12


@pytest.mark.parametrize("threshold", [0.01, 0.3, 1.0, 2.0])
def test_value_clipping_cosine_agrees_with_clipped_gaussians(threshold):
    cosines = []
    for seed in range(8):
        g = torch.randn(100_000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        cosines.append(nn.functional.cosine_similarity(g, g.clamp(-threshold, threshold), dim=0).item())
    # A mean of 100 000 terms of order 1: known to 0.003, the median of eight to 0.0015.
    assert np.median(cosines) == pytest.approx(theory.value_clipping_cosine(threshold), abs=0.004)


RECURRENT_CASES = [
    (
        theory.recurrent_gradient_bound,
        (-1, 1.0),
        ValueError,
        "steps must be a finite number of at least 0, or a",
    ),
    (
        theory.recurrent_gradient_bound,
        (1, "1"),
        TypeError,
        "largest_singular_value must be a finite",
    ),
    (
        theory.recurrent_gradient_bound,
        (1, -1.0),
        ValueError,
        "largest_singular_value must be a finite",
    ),
    (
        theory.recurrent_gradient_bound,
        (1, 1.0, -1.0),
        ValueError,
        "slope must be a finite number of at least 0",
    ),
    (theory.gaussian_power_norms, (-1, 1.0), ValueError, "steps must be a finite number of at least 0, or a"),
    (
        theory.gaussian_power_norms,
        (1, math.inf),
        ValueError,
        "spectral_radius must be a finite number of at least 0",
    ),
    (theory.cell_path, ("x", 0.0), TypeError, "steps must be a finite number of at least 0, or a"),
    (theory.cell_path, (1, math.nan), ValueError, "forget_bias must be a finite number"),
    (theory.value_clipping_cosine, (-1.0,), ValueError, "threshold must be a finite number above 0, or a"),
    (
        theory.value_clipping_cosine,
        (0.0,),
        ValueError,
        "threshold must be a finite number above 0, or a non-empty array of them, got 0.0",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "error", "sentence"), RECURRENT_CASES)
def test_bad_input_of_recurrence_gets_one_sentence(function, arguments, error, sentence):
    with pytest.raises(error) as caught:
        function(*arguments)
    assert str(caught.value).startswith(sentence)


def test_figures_of_lesson_07_that_no_cell_prints():
    assert prints_as(theory.cell_path(200, 0.0) * 1e61, "6")
    assert prints_as(theory.cell_path(200, 1.0) * 1e28, "6")
    assert prints_as(theory.cell_path(200, 5.0), "0.26")
    assert theory.cell_path(1000, math.log(1000)) == pytest.approx(1 / math.e, rel=1e-3)
    assert prints_as(
        theory.recurrent_gradient_bound(39, 1.5) / 30 / 1e5, "2"
    )  # "hundreds of thousands of times"
