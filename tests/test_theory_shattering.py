"""theory.shattering: covariance of gradients along a line of inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from gradients_in_depth import theory
from tests.theory_tools import for_all


def line_gradients(seed: int, depth: int, normalization: str | None, skip: bool, points: int, width: int):
    """d(output)/d(input) on a line of inputs, statistics of the batch held fixed, in plain torch."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = torch.linspace(-2, 2, points, dtype=torch.float64)[:, None].requires_grad_()
    z = x * normal(1, width) + normal(1, width)
    for _ in range(depth):
        h = z
        if normalization == "batch":
            h = (z - z.mean(0).detach()) / z.std(0, correction=0).detach()
        branch = torch.relu(h) @ normal(width, width) * math.sqrt(2 / width)
        z = z + branch if skip else branch
    (gradient,) = torch.autograd.grad((z @ normal(width)).sum(), x)
    return gradient[:, 0].numpy()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("normalization", [None, "batch"])
def test_relu_gradient_kernel_agrees_with_random_networks(normalization, skip):
    points, depth = 48, 8
    runs = [line_gradients(seed, depth, normalization, skip, points, 256) for seed in range(48)]
    measured = np.mean([np.outer(run, run) for run in runs], axis=0)
    measured *= points / np.trace(measured)
    x = np.linspace(-2, 2, points)
    kernel = theory.relu_gradient_kernel(x, depth, normalization=normalization, skip=skip)
    # An entry is a mean over 48 networks of a product of two values of variance about 1: 1 / sqrt(48) = 0.14.
    assert np.sqrt(np.mean((measured - kernel) ** 2)) < 0.25
    lags = [1, 4, 12]
    ratios = [theory.kernel_autocorrelation(k)[lags] for k in (measured, kernel)]
    np.testing.assert_allclose(*ratios, atol=0.08)  # a few networks with a large gradient decide the sums


def test_gradients_shatter_with_batch_normalization_and_skips_restore_them():
    """Balduzzi et al. 2017 on 256 points and 24 layers, and laws.md: about 0.93, about 0, and much of it."""
    x, lag = np.linspace(-2, 2, 256), {}
    for name in ({}, {"normalization": "batch"}, {"normalization": "batch", "skip": True}):
        kernel = theory.relu_gradient_kernel(x, 24, **name)
        lag[len(name)] = theory.kernel_autocorrelation(kernel)[1]
    assert abs(lag[0] - 0.93) < 0.03 and abs(lag[1]) < 0.05 and 0.7 < lag[2] < 0.9


def test_relu_gradient_kernel_by_hand():
    """One block without biases but for tiny ones: the gradient has one value for x < 0 and one for x > 0."""
    kernel = theory.relu_gradient_kernel([-2.0, -1.0, 1.0, 3.0], 1, bias_var=1e-12)
    np.testing.assert_allclose(kernel, np.kron(np.eye(2), np.ones((2, 2))), atol=1e-5)
    # At branch scale 0 the network is linear, and its gradient one number.
    line = theory.relu_gradient_kernel([0.0, 1.0, 2.0], 5, skip=True, branch_scale=0.0)
    np.testing.assert_allclose(line, np.ones((3, 3)))


@for_all(
    depth=st.integers(1, 6),
    bias_var=st.floats(0.1, 4),
    skip=st.booleans(),
    normalization=st.sampled_from([None, "batch"]),
)
def test_relu_gradient_kernel_is_a_covariance(depth, bias_var, skip, normalization):
    x, options = np.linspace(-1, 2, 12), {"skip": skip, "normalization": normalization}
    kernel = theory.relu_gradient_kernel(x, depth, bias_var=bias_var, **options)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)  # eigenvectors of a singular matrix
    assert np.linalg.eigvalsh(kernel)[0] > -1e-6 and np.trace(kernel) == pytest.approx(12)
    # Neither the unit of the inputs nor the scale of the weights matters: ReLU passes scales on.
    if not (skip and normalization):  # there the stem is as large as it is beside the branches
        other = theory.relu_gradient_kernel(3 * x, depth, bias_var=9 * bias_var, **options)
        np.testing.assert_allclose(kernel, other, atol=1e-6)


def test_kernel_autocorrelation_of_a_wave_and_of_noise():
    x = np.arange(400)
    wave = theory.kernel_autocorrelation(np.cos(2 * np.pi * (x[:, None] - x) / 40))
    assert wave[0] == 1 and wave[20] == pytest.approx(-380 / 400) and wave[40] == pytest.approx(360 / 400)
    noise = theory.kernel_autocorrelation(np.eye(400))
    assert abs(noise[1]) < 0.005
