"""theory.optimizers: Adam's steps and dropout, against torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import for_all, log_uniform, prints_as


def adam_steps(gradients: torch.Tensor, betas=(0.9, 0.999), eps=1e-8) -> torch.Tensor:
    """What torch's Adam with learning rate 1 subtracts at each step: gradients (steps, weights)."""
    weights = nn.Parameter(torch.zeros(gradients.shape[1], dtype=torch.float64))
    optimizer = torch.optim.Adam([weights], lr=1.0, betas=betas, eps=eps)
    places = [weights.detach().clone()]
    for gradient in gradients:
        weights.grad = gradient
        optimizer.step()
        places.append(weights.detach().clone())
    return -torch.stack(places).diff(dim=0)


def test_adam_figures():
    assert prints_as(theory.adam_first_step(4e-9, 1.0), "0.286")  # 4 / (4 + 10)
    assert prints_as(theory.adam_uncorrected_factor(1), "3.16")  # 0.1 / sqrt(0.001)
    assert prints_as(theory.adam_uncorrected_factor(12), "6.57")
    assert prints_as(theory.adam_noisy_step(0.0)[1], "0.229")  # sqrt(0.1 / 1.9)
    assert prints_as(theory.adam_noisy_step(1.0)[0], "0.707")
    assert theory.dropout_variance(0.5) == 2 and theory.dropout_variance(0.8, 0.0, 1.0) == pytest.approx(0.25)


@for_all(gradient=log_uniform(1e-20, 1e20), sign=st.sampled_from([-1, 1]), eps=log_uniform(1e-16, 1e-2))
def test_the_first_step_of_torchs_adam(gradient, sign, eps):
    expected = theory.adam_first_step(sign * gradient, 1.0, eps)
    measured = adam_steps(torch.full((3, 1), sign * gradient, dtype=torch.float64), eps=eps)
    # Each step is the first one while the gradient stays; 1 - 0.999 is known to 1e-13 of its value.
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-9)
    assert abs(expected) <= 1


@for_all(step=st.integers(1, 300), beta1=st.floats(0, 0.99), beta2=st.floats(0.5, 0.9999))
def test_a_step_without_bias_correction_is_that_much_too_large(step, beta1, beta2):
    average, square = 0.0, 0.0
    for _ in range(step):
        average = beta1 * average + (1 - beta1)
        square = beta2 * square + (1 - beta2)
    assert theory.adam_uncorrected_factor(step, beta1, beta2) == pytest.approx(
        average / math.sqrt(square), rel=1e-9
    )


@pytest.mark.parametrize("signal", [0.0, 0.03, 0.3, 1.0, 3.0])
def test_adam_under_noise(signal):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(600, 2000, generator=generator, dtype=torch.float64)  # 2000 seeds side by side
    steps = adam_steps(signal + noise)[300:]
    mean, deviation = theory.adam_noisy_step(signal)
    # A weight's steps add up to its noise, 1 / sqrt(300 * 2000) = 0.0013 over all, but for the two ends.
    assert steps.mean().item() == pytest.approx(mean, abs=3 * 0.0013)
    # v averages 1000 squares or fewer: sqrt(2 / 600) = 6 % of it, and it holds the noise of m, too.
    assert steps.std().item() == pytest.approx(deviation, rel=0.05)


@for_all(s=st.floats(-100, 100), beta1=st.floats(0, 0.99))
def test_adam_never_steps_further_than_its_learning_rate_on_average(s, beta1):
    mean, deviation = theory.adam_noisy_step(s, beta1)
    assert abs(mean) < 1 + 1e-12 and deviation <= 1
    # With beta1 = 0 the step is g / sqrt(v): its mean square is 1 exactly.
    mean, deviation = theory.adam_noisy_step(s, 0.0)
    assert mean**2 + deviation**2 == pytest.approx(1)


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_dropout_in_torch(keep):
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x = 0.7 + 1.3 * torch.randn(200_000, generator=generator, dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(100 + seed)  # with the seed of x the mask would depend on x
            dropped = nn.Dropout(1 - keep)(x)
        # A mean of 200 000 numbers, of variance at most 12 here: 3 * sqrt(12 / 200 000) = 0.023.
        assert dropped.mean().item() == pytest.approx(0.7, abs=0.025)
        # At keep 0.2 the fourth moment is 125 * 13.8: sqrt(1600 / 200 000) = 0.09, of 10.4, is 0.9 %.
        assert dropped.var().item() == pytest.approx(theory.dropout_variance(keep, 1.69, 0.7), rel=0.03)


@for_all(keep=st.floats(0.01, 1), variance=st.floats(0, 10), mean=st.floats(-10, 10))
def test_dropout_raises_the_mean_square_by_one_over_keep(keep, variance, mean):
    after = theory.dropout_variance(keep, variance, mean)
    assert after + mean**2 == pytest.approx((variance + mean**2) / keep)
    assert theory.dropout_variance(1.0, variance, mean) == variance
