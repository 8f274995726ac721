"""theory.residual: scale, gradient and paths of residual networks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from gradients_in_depth import theory
from tests.theory_tools import for_all, names, prints_as, weight_vars


def test_the_three_branch_scales():
    """laws.md, section 5."""
    for depth in (10, 30):
        doubled = theory.residual_flow(depth, 1.0)
        assert doubled.second_moments[-1] == pytest.approx(2.0**depth)
        assert doubled.gradient_norms[0] ** 2 == pytest.approx(2.0**depth)
    assert prints_as(theory.residual_flow(30, 1.0).second_moments[-1], "1.07e9")
    tamed = theory.residual_flow(10_000, 0.01)
    assert prints_as(tamed.second_moments[-1], "2.718") and prints_as(tamed.gradient_norms[0] ** 2, "2.718")
    still = theory.residual_flow(100, 0.0)
    assert (still.second_moments == 1).all() and (still.gradient_norms == 1).all()


def test_batch_normalized_branches_turn_the_explosion_into_a_power():
    """Plain batch normalization multiplies by pi / (pi - 1) per layer; the stream's growth divides that."""
    flow = theory.residual_flow(10_000, normalization="batch")
    assert flow.branch_factors[0] == pytest.approx(1.0)
    squared = flow.gradient_norms**2
    power = math.log(squared[100] / squared[1000]) / math.log(10)
    assert power == pytest.approx(math.pi / (math.pi - 1), rel=0.01)
    np.testing.assert_allclose(flow.second_moments, np.arange(10_001) + 1.0)


@for_all(
    depth=st.integers(1, 60),
    scale=st.floats(-2, 2),
    weight_var=weight_vars,
    normalization=st.sampled_from(theory.RESIDUAL_NORMALIZATIONS),
    name=names,
)
def test_residual_flow_grows_and_never_vanishes(depth, scale, weight_var, normalization, name):
    flow = theory.residual_flow(
        depth, scale, activation=name, weight_var=weight_var, normalization=normalization
    )
    for values in (flow.second_moments, -flow.gradient_norms):
        finite = values[np.isfinite(values)]
        assert (np.diff(finite) >= -1e-12 * np.abs(finite[1:])).all()
    assert flow.second_moments[0] == flow.gradient_norms[-1] == 1 and (flow.branch_factors >= 0).all()
    if np.isfinite(flow.gradient_norms[0]):
        product = np.prod(1 + flow.branch_factors)
        assert flow.gradient_norms[0] ** 2 == pytest.approx(product, rel=1e-9)


def residual_run(seed: int, depth: int, scale: float, normalization: str | None, width: int = 512):
    """Mean squares of stream (depth + 1) and gradient (depth + 1), in plain torch."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Unrelated examples. One alone would do without batch normalization, which needs many.
    x = normal(64 if normalization == "batch" else 2, width)
    x = x / x.square().mean(dim=1, keepdim=True).sqrt()
    stream = [x.requires_grad_()]
    for _ in range(depth):
        h = stream[-1]
        if normalization == "batch":
            h = (h - h.mean(0)) / h.std(0, correction=0)
        if normalization == "rms":
            h = h / h.square().mean(1, keepdim=True).sqrt()
        stream.append(stream[-1] + scale * torch.relu(h) @ normal(width, width) * math.sqrt(2 / width))
    gradients = torch.autograd.grad(stream[-1], stream, normal(*x.shape))
    return [[t.square().mean().item() for t in side] for side in (stream, gradients)]


@pytest.mark.parametrize("normalization", [None, "rms", "batch"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_residual_flow_agrees_with_random_networks(normalization, scale):
    depth = 16
    logs = np.log([residual_run(seed, depth, scale, normalization) for seed in range(8)])
    flow = theory.residual_flow(depth, scale, normalization=normalization)
    # The log of a squared norm over `depth` layers of width 512 varies by at most 5 depth / width = 0.16 (see
    # log_gradient_norm_variance), a deviation of 0.4; the median of 8 seeds is within 0.4 * 1.25 / sqrt(8) =
    # 0.18 of the middle, which lies 0.08 below the mean. Batches of 64 bias a deviation by 1 / 64 per layer.
    tolerance = 0.35
    assert np.abs(np.median(logs[:, 0], axis=0) - np.log(flow.second_moments)).max() < tolerance
    squared = logs[:, 1] - logs[:, 1, -1:]
    assert np.abs(np.median(squared, axis=0) - 2 * np.log(flow.gradient_norms)).max() < tolerance


def test_paths_are_counted_by_pascals_triangle():
    np.testing.assert_allclose(theory.path_length_weights([1.0] * 4) * 16, [1, 4, 6, 4, 1])
    np.testing.assert_allclose(theory.path_length_weights([0.5, 2.0]), [2 / 9, 5 / 9, 2 / 9])
    poisson = theory.path_length_weights([1e-3] * 1000)  # at 1 / sqrt(depth): k! in the limit
    np.testing.assert_allclose(poisson[:4], [math.exp(-1) / math.factorial(k) for k in range(4)], rtol=1e-2)


@for_all(factors=st.lists(st.floats(0, 1e3), min_size=1, max_size=60))
def test_path_length_weights_are_shares_with_the_mean_of_independent_coins(factors):
    shares = theory.path_length_weights(factors)
    assert shares.shape == (len(factors) + 1,) and (shares >= 0).all()
    assert shares.sum() == pytest.approx(1)
    mean = sum(factor / (1 + factor) for factor in factors)
    assert shares @ np.arange(len(shares)) == pytest.approx(mean, abs=1e-9)
    np.testing.assert_allclose(shares, theory.path_length_weights(factors[::-1]), atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.35])
def test_path_length_weights_agree_with_random_networks(scale):
    """Each path by itself: the branch of a block shifts what it gets by one in the list of path lengths."""
    depth, width, measured = 8, 256, []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(depth, width, width, generator=generator, dtype=torch.float64)
        weights *= math.sqrt(2 / width)
        x, inputs = torch.randn(width, generator=generator, dtype=torch.float64), []
        for weight in weights:
            inputs.append(x)
            x = x + scale * weight @ torch.relu(x)
        g = torch.zeros(depth + 1, width, dtype=torch.float64)
        g[0] = torch.randn(width, generator=generator, dtype=torch.float64)
        for weight, x in zip(weights.flip(0), inputs[::-1], strict=True):
            g[1:] = g[1:] + scale * (x > 0) * (g[:-1] @ weight)
        squares = g.square().sum(dim=1)
        measured.append((squares / squares.sum()).numpy())
    expected = theory.path_length_weights([scale**2] * depth)
    # A share is a mean of squares over 256 units and many paths; each network is off by some percent of it.
    np.testing.assert_allclose(np.mean(measured, axis=0), expected, atol=0.02)


@pytest.mark.parametrize(
    ("error", "sentence", "call"),
    [
        (ValueError, "depth must be an integer of at least 1, got 0.", lambda: theory.residual_flow(0)),
        (
            ValueError,
            "branch_scale must be a finite number, got inf.",
            lambda: theory.residual_flow(2, math.inf),
        ),
        (
            ValueError,
            "normalization must be one of None, batch, layer, rms; got 'group'.",
            lambda: theory.residual_flow(2, normalization="group"),
        ),
        (
            ValueError,
            "weight_var must be a finite number of at least 0, got -1.0.",
            lambda: theory.residual_flow(2, weight_var=-1.0),
        ),
        (
            ValueError,
            "branch_factors must be (depth,), got shape (1, 2).",
            lambda: theory.path_length_weights([[1.0, 2.0]]),
        ),
        (
            ValueError,
            "branch_factors must be a finite number of at least 0, or a non-empty array of them, got [-1.0].",
            lambda: theory.path_length_weights([-1.0]),
        ),
        (
            ValueError,
            "inputs must be at least 3 different numbers (points,), got [1.0, 1.0, 2.0].",
            lambda: theory.relu_gradient_kernel([1.0, 1.0, 2.0], 2),
        ),
        (
            ValueError,
            "normalization must be one of None, batch; got 'rms'.",
            lambda: theory.relu_gradient_kernel([1.0, 2.0, 3.0], 2, normalization="rms"),
        ),
        (
            ValueError,
            "bias_var must be a finite number above 0, got 0.0.",
            lambda: theory.relu_gradient_kernel([1.0, 2.0, 3.0], 2, bias_var=0.0),
        ),
        (
            ValueError,
            "kernel must be (points, points), got shape (2,).",
            lambda: theory.kernel_autocorrelation([1.0, 2.0]),
        ),
        (
            ValueError,
            "kernel must vary over the points, got the same value everywhere.",
            lambda: theory.kernel_autocorrelation(np.ones((3, 3))),
        ),
    ],
)
def test_bad_residual_input_gets_one_sentence(error, sentence, call):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence
