"""theory.correlations: two inputs, the edge of chaos, the scales of depth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import for_all, log_uniform, names, variances, weight_vars


def test_relu_cosine_figure():
    for start in (0.0, 0.5):
        cosine = start
        for _ in range(100):
            cosine = theory.relu_cosine_map(cosine)
        assert cosine == pytest.approx(
            0.9965, abs=1e-4
        )  # two different inputs, "about 0.99" and a little more


def test_relu_cosine_agrees_with_a_wide_layer():
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 8, 100_000, dtype=torch.float64, generator=generator)
    for cosine in (-1.0, -0.6, 0.0, 0.5, 0.95, 1.0):
        a, b = torch.relu(u), torch.relu(cosine * u + math.sqrt(1 - cosine**2) * v)
        measured = nn.functional.cosine_similarity(a, b, dim=1)
        # 8 seeds of 100 000 units: 5 standard errors of the mean, Student's t with 7 degrees of freedom
        error = 5 * float(measured.std()) / math.sqrt(8) + 1e-9
        assert measured.mean() == pytest.approx(theory.relu_cosine_map(cosine), abs=error)


cosines = st.floats(-1, 1)


@for_all(c=cosines, weight_var=weight_vars, q=variances)
def test_correlation_of_relu_is_the_arc_cosine_kernel(c, weight_var, q):
    assert theory.correlation_map(c, "relu", weight_var, 0.0, q) == pytest.approx(
        theory.relu_cosine_map(c), abs=1e-12
    )


@for_all(c=cosines, weight_var=weight_vars, bias_var=st.floats(0, 2), q=variances)
def test_correlation_of_erf_has_the_closed_form(c, weight_var, bias_var, q):
    # E[erf(u) erf(v)] = 2 / pi * asin(2 q c / (1 + 2 q)) (Williams 1997)
    both, one = (2 / math.pi * math.asin(2 * q * k / (1 + 2 * q)) for k in (c, 1.0))
    expected = (weight_var * both + bias_var) / (weight_var * one + bias_var)
    assert theory.correlation_map(c, torch.erf, weight_var, bias_var, q) == pytest.approx(expected, abs=2e-9)


@for_all(name=names, weight_var=weight_vars, bias_var=st.floats(0, 2), q=log_uniform(1e-3, 1e3))
def test_correlation_map_at_its_ends(name, weight_var, bias_var, q):
    at_minus_one, at_zero, at_one = theory.correlation_map([-1.0, 0.0, 1.0], name, weight_var, bias_var, q)
    mean, second_moment = theory.activation_moments(q, name)
    variance = weight_var * second_moment + bias_var
    assert at_one == 1.0  # exactly
    assert at_zero == pytest.approx((weight_var * mean**2 + bias_var) / variance, abs=1e-8)
    function = theory.activation_module(name).double()
    with torch.no_grad():
        product = theory.gaussian_expectation(lambda z: function(z) * function(-z), q)
    assert at_minus_one == pytest.approx((weight_var * product + bias_var) / variance, abs=1e-8)


@for_all(c=cosines, step=st.floats(0.01, 0.5), weight_var=weight_vars, bias_var=st.floats(0, 2), q=variances)
def test_correlation_of_tanh_stays_a_correlation_and_grows(c, step, weight_var, bias_var, q):
    here, there = theory.correlation_map([c, min(1.0, c + step)], "tanh", weight_var, bias_var, q)
    assert -1 <= here <= 1
    assert there >= here - 1e-9
    if c >= 0:
        assert here >= 0
    if bias_var == 0:  # odd
        assert theory.correlation_map(-c, "tanh", weight_var, 0.0, q) == pytest.approx(-here, abs=1e-9)


@for_all(
    name=st.sampled_from(["tanh", "sigmoid", "gelu", "silu"]),
    c=st.floats(-0.95, 0.95),
    bias_var=st.floats(0, 1),
    q=log_uniform(0.01, 10.0),
)
def test_correlation_slope_is_the_derivative(name, c, bias_var, q):
    low, high = theory.correlation_map([c - 1e-3, c + 1e-3], name, 1.7, bias_var, q)
    slope = theory.correlation_slope(c, name, 1.7, bias_var, q)
    assert (high - low) / 2e-3 == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_correlation_slope_of_relu():
    # d/dc of the arc-cosine kernel: the share of the half-planes that two inputs have in common
    for c in (-0.9, 0.0, 0.5, 0.99, 1.0):
        expected = 1 - math.acos(c) / math.pi
        assert theory.correlation_slope(c, "relu", 2.0, 0.0, 3.0) == pytest.approx(expected, abs=1e-9)


@for_all(weight_std=st.floats(0.3, 4.0), bias_var=log_uniform(1e-3, 2.0))
def test_correlation_fixed_point_of_tanh(weight_std, bias_var):
    weight_var = weight_std**2
    q = theory.fixed_point("tanh", weight_var, bias_var)
    c = theory.correlation_fixed_point("tanh", weight_var, bias_var)
    scales = theory.depth_scales("tanh", weight_var, bias_var)
    at_one = theory.chi(q, "tanh", weight_var)
    assert theory.correlation_map(c, "tanh", weight_var, bias_var, q) == pytest.approx(c, abs=1e-8)
    assert scales.variance > 0 and scales.correlation > 0
    if at_one < 1 - 1e-4:
        assert c == 1.0
        assert scales.correlation == pytest.approx(-1 / math.log(at_one), rel=1e-9)
    elif at_one > 1 + 1e-4:  # an attractor, and not at 1
        assert 0 <= c < 1
        assert theory.correlation_slope(c, "tanh", weight_var, bias_var, q) < 1


@pytest.mark.parametrize(("weight_var", "bias_var"), [(1.0, 0.05), (1.5**2, 0.05), (3.0, 1.0)])
def test_depth_scales_are_the_decay_of_the_trajectories(weight_var, bias_var):
    scales = theory.depth_scales("tanh", weight_var, bias_var)
    q = theory.fixed_point("tanh", weight_var, bias_var)
    c = theory.correlation_fixed_point("tanh", weight_var, bias_var)
    away = np.abs(theory.variance_trajectory(15, "tanh", weight_var, bias_var, first=1.2 * q) / q - 1)
    assert away[14] / away[13] == pytest.approx(math.exp(-1 / scales.variance), rel=1e-2)
    away = np.abs(
        theory.correlation_trajectory(60, "tanh", weight_var, bias_var, first=q, cosine=c - 0.05) - c
    )
    assert away[41] / away[40] == pytest.approx(math.exp(-1 / scales.correlation), rel=1e-2)


def test_depth_scales_at_the_edge_of_chaos_and_without_variance():
    for bias_var in (0.05, 0.3, 1.0):
        weight_var = theory.critical_weight_var(bias_var)
        assert theory.depth_scales("tanh", weight_var, bias_var).correlation > 1e6
        assert theory.depth_scales("tanh", weight_var, bias_var).variance < 5
    for name, weight_var in (("tanh", 1.0), ("relu", 2.0), ("identity", 1.0)):
        edge = theory.depth_scales(name, weight_var)
        assert edge.variance == edge.correlation == math.inf and edge.end_correlation == 1
        assert edge.chi == pytest.approx(1, abs=1e-12)
    dying = theory.depth_scales("tanh", 0.8)
    assert dying.variance == dying.correlation == pytest.approx(-1 / math.log(0.8))
    nearly = theory.depth_scales("tanh", 0.8, 1e-7)  # the limit it is said to be
    assert nearly.variance == pytest.approx(dying.variance, rel=1e-4)
    assert nearly.correlation == pytest.approx(dying.correlation, rel=1e-4)
    assert theory.depth_scales("relu", 1.0, 0.3).correlation == pytest.approx(1 / math.log(2))
    at_once = theory.depth_scales("tanh", 0.0, 0.3)
    assert at_once.variance == at_once.correlation == 0 and at_once.end_variance == pytest.approx(0.3)


@for_all(bias_var=log_uniform(1e-4, 4.0), factor=st.floats(1.02, 1.5))
def test_the_critical_line_of_tanh_parts_the_phases(bias_var, factor):
    weight_var = theory.critical_weight_var(bias_var)

    def at_one(weight_var):
        return theory.chi(theory.fixed_point("tanh", weight_var, bias_var), "tanh", weight_var)

    assert at_one(weight_var) == pytest.approx(1, abs=1e-8)
    assert at_one(weight_var / factor) < 1 < at_one(weight_var * factor)
    assert theory.critical_weight_var(factor * bias_var) > weight_var > 1


def test_critical_weight_var_of_others():
    assert theory.critical_weight_var() == pytest.approx(1, abs=1e-9)
    assert theory.critical_weight_var(0.0, "relu") == pytest.approx(2, rel=1e-12)  # He et al. 2015
    assert theory.critical_weight_var(0.0, "leaky_relu") == pytest.approx(2 / (1 + 0.01**2), rel=1e-12)
    assert theory.critical_weight_var(0.0, "identity") == pytest.approx(1, rel=1e-12)
    assert math.sqrt(theory.critical_weight_var(0.0, "sigmoid")) == pytest.approx(10.15, abs=0.005)


def test_correlation_trajectory_keeps_what_it_cannot_follow():
    trajectory = theory.correlation_trajectory(4, "relu", 2.0, cosine=[0.0, 1.0, -1.0])
    assert trajectory.shape == (3, 4)
    assert trajectory[1].tolist() == [1.0] * 4
    expected = [0.0]
    while len(expected) < 4:
        expected.append(theory.relu_cosine_map(expected[-1]))
    assert trajectory[0] == pytest.approx(expected, abs=1e-12)
    exploded = theory.correlation_trajectory(5, "relu", 1e150, cosine=0.5)
    assert np.isfinite(exploded).all() and exploded[-1] == exploded[-2]


@pytest.mark.parametrize(
    ("activation", "weight_var", "bias_var"),
    [("tanh", 1.0, 0.05), ("tanh", 2.25, 0.05), ("relu", 2.0, 0.0), ("sigmoid", 9.0, 0.1)],
)
def test_correlations_agree_with_random_networks(activation, weight_var, bias_var):
    width, depth, seeds, start = 500, 10, 8, 0.6
    function = theory.activation_module(activation)
    found = np.empty((seeds, 2, depth))
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape, generator=generator):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        frame = torch.linalg.qr(draw(width, 2)).Q * math.sqrt(width)  # two inputs with exactly this cosine
        h = torch.stack([frame[:, 0], start * frame[:, 0] + math.sqrt(1 - start**2) * frame[:, 1]], dim=1)
        for layer in range(depth):
            weight = draw(width, width) * math.sqrt(weight_var / width)
            z = weight @ h + math.sqrt(bias_var) * draw(width, 1)
            (a, both), (_, b) = (z.T @ z / width).tolist()
            found[seed, :, layer] = (a + b) / 2, both / math.sqrt(a * b)
            h = function(z)
    first = weight_var + bias_var
    q = theory.variance_trajectory(depth, activation, weight_var, bias_var, first)
    cosine = (weight_var * start + bias_var) / first
    c = theory.correlation_trajectory(depth, activation, weight_var, bias_var, first, cosine)
    for values, expected in ((np.log(found[:, 0]), np.log(q)), (found[:, 1], c)):
        # 5 standard errors of a mean of 8: 1 in 600 for Student's t with 7 degrees of freedom. Finite
        # width shifts the mean itself by terms of 1 / width a layer, which add up until they are forgotten.
        tolerance = 5 * values.std(0, ddof=1) / math.sqrt(seeds) + np.arange(1, depth + 1) / width
        assert (np.abs(values.mean(0) - expected) <= tolerance).all()
