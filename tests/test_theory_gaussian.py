"""theory.gaussian: averages over Gaussians, against closed forms and against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import for_all, log_uniform, sigma, variances

CLOSED_FORMS = {
    "one": (torch.ones_like, lambda q: 1.0),
    "fourth power": (lambda z: z**4, lambda q: 3 * q**2),
    "step": (lambda z: (z > 0).double(), lambda q: 0.5),
    "absolute": (torch.abs, lambda q: math.sqrt(2 * q / math.pi)),
    "relu squared": (lambda z: torch.relu(z) ** 2, lambda q: q / 2),
    "erf squared": (lambda z: torch.erf(z) ** 2, lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q))),
    "erf' squared": (
        lambda z: 4 / math.pi * torch.exp(-2 * z**2),
        lambda q: 4 / math.pi / math.sqrt(1 + 4 * q),
    ),
    "gelu": (nn.functional.gelu, lambda q: q / math.sqrt(2 * math.pi * (1 + q))),
    "sigmoid": (torch.sigmoid, lambda q: 0.5),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@for_all(q=variances)
def test_expectation_has_the_closed_form(name, q):
    function, closed_form = CLOSED_FORMS[name]
    assert theory.gaussian_expectation(function, q) == pytest.approx(closed_form(q), rel=1e-12)


@for_all(q=log_uniform(1e-6, 20.0))
def test_expectation_of_smooth_functions(q):
    assert theory.gaussian_expectation(torch.cos, q) == pytest.approx(math.exp(-q / 2), abs=1e-12)
    assert theory.gaussian_expectation(torch.exp, q) == pytest.approx(math.exp(q / 2), rel=1e-12)


FORMULAS = {  # (phi, phi') written out, independent of torch and of automatic differentiation
    "sigmoid": (sigma, lambda z: sigma(z) * sigma(-z)),
    "tanh": (math.tanh, lambda z: 1 - math.tanh(z) ** 2),
    "relu": (lambda z: max(z, 0.0), lambda z: float(z > 0)),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": (lambda z: z if z > 0 else math.expm1(z), lambda z: 1.0 if z > 0 else math.exp(z)),
    "silu": (lambda z: z * sigma(z), lambda z: sigma(z) * (1 + z * sigma(-z))),
    "gelu": (
        lambda z: z * math.erfc(-z / math.sqrt(2)) / 2,
        lambda z: math.erfc(-z / math.sqrt(2)) / 2 + z * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("q", [1e-4, 0.3, 1.0, 7.0, 1e3, 1e6])
def test_maps_agree_with_scipy(name, q):
    def expectation(function):
        # In units of the standard deviation, cut at 0 and where the activation bends (|z| of 1, 6 and 40).
        cuts = sorted({0.0, 12.0, 1.0, 3.0, *(min(12.0, z / math.sqrt(q)) for z in (1, 6, 40))})
        return sum(
            quad(
                lambda x: (function(x * math.sqrt(q)) + function(-x * math.sqrt(q))) * math.exp(-(x**2) / 2),
                *panel,
                epsabs=0,
                epsrel=1e-11,
            )[0]
            for panel in zip(cuts, cuts[1:], strict=False)
        ) / math.sqrt(2 * math.pi)

    phi, slope = FORMULAS[name]
    assert theory.variance_map(q, name, 1.7, 0.3) == pytest.approx(
        1.7 * expectation(lambda z: phi(z) ** 2) + 0.3, rel=1e-9
    )
    assert theory.chi(q, name, 1.7) == pytest.approx(1.7 * expectation(lambda z: slope(z) ** 2), rel=1e-9)
    mean, second_moment = theory.activation_moments(q, name)
    assert mean == pytest.approx(expectation(phi), rel=1e-9, abs=1e-14)
    assert second_moment == pytest.approx(expectation(lambda z: phi(z) ** 2), rel=1e-9)


def test_variance_zero_means_the_value_at_zero():
    assert theory.variance_map(0.0, "sigmoid", 2.0, 0.1) == pytest.approx(2 * 0.25 + 0.1)
    assert theory.chi(0.0, "relu", 2.0) == pytest.approx(1)  # the limit, though torch calls relu'(0) 0


def test_arrays_give_arrays_of_their_shape():
    q = np.array([[0.1, 1.0, 3.0]])
    for function in (
        lambda q: theory.variance_map(q, "tanh", 1.5, 0.1),
        lambda q: theory.chi(q, "gelu", 1.5),
        lambda q: theory.saturated_share(q, "tanh"),
        lambda q: theory.gaussian_expectation(torch.sigmoid, q),
        lambda q: theory.activation_moments(q, "elu")[1],
        theory.sigmoid_window_width,
    ):
        assert function(q).shape == (1, 3)
        assert type(function(3.0)) is float
        assert function(q)[0, 2] == pytest.approx(function(3.0), rel=1e-13)


def test_modules_are_left_as_they_are():
    module = nn.Sequential(nn.PReLU(), nn.ReLU(inplace=True))
    assert theory.chi(1.0, nn.ReLU(inplace=True), 2.0) == pytest.approx(1.0)
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert theory.chi(1.0, module, 2.0) == pytest.approx(1.0)
    assert module.training
    assert module[0].weight.dtype == torch.float32
    assert module[0].weight.grad is None
    assert torch.equal(state, torch.get_rng_state())
    assert theory.chi(1.0, nn.RReLU(), 1.0) == theory.chi(1.0, nn.RReLU(), 1.0)  # random when training
    assert torch.equal(state, torch.get_rng_state())
