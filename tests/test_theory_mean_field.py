"""theory.mean_field: variances and gradients, against printed figures and networks in plain torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import INF, for_all, log_uniform, names, prints_as, variances, weight_vars

WIDTH, DEPTH, SEEDS = 300, 16, 12


def test_sigmoid_figures():
    q = theory.fixed_point("sigmoid", 1.0)
    assert prints_as(q, "0.2647")
    assert prints_as(math.sqrt(theory.chi(q, "sigmoid", 1.0)), "0.2361")
    assert theory.chi(q, "sigmoid", 1.0) ** (20 / 2) < 1e-12
    default = theory.fixed_point("sigmoid", 1 / 3)
    assert prints_as(math.sqrt(theory.chi(default, "sigmoid", 1 / 3)), "0.1414")


def test_critical_tanh_figures():
    for first in (0.5, 1.0, 2.0):  # q_l -> 1 / (2 l) from any start
        variance = theory.variance_trajectory(2000, "tanh", 1.0, first=first)
        assert prints_as(variance[99], "0.005")
        assert 2 * 2000 * variance[-1] == pytest.approx(1, rel=0.01)
    assert theory.fixed_point("tanh", 1.0) == 0.0


@pytest.mark.parametrize(
    ("weight_var", "bias_var", "q_printed", "chi_printed"),
    [(1.5**2, 0.0, "0.7934", "1.139"), (1.0, 0.05, "0.1936", "0.759")],
)
def test_tanh_figures(weight_var, bias_var, q_printed, chi_printed):
    q = theory.fixed_point("tanh", weight_var, bias_var)
    assert prints_as(q, q_printed)
    assert prints_as(theory.chi(q, "tanh", weight_var), chi_printed)


def test_critical_tanh_gradient_is_a_power_of_depth():
    # chi(q_l) = 1 - 2 q_l + ... = 1 - 1 / l: the mean square falls as 1 / depth, the norm as its root.
    first = {depth: theory.gradient_norm_trajectory(depth, "tanh", 1.0)[0] for depth in (500, 2000)}
    assert first[2000] / first[500] == pytest.approx(0.5, rel=0.01)


def test_relu_figures():
    assert theory.chi(1.0, "relu", 1.0) == pytest.approx(1 / 2, rel=1e-13)
    assert theory.chi(1.0, "relu", 2.0) == pytest.approx(1, rel=1e-13)
    assert prints_as(math.sqrt(theory.chi(1.0, "relu", 1 / 3)), "0.408")
    assert theory.gradient_norm_trajectory(31, "relu", 1.0)[0] == pytest.approx(2 ** (-30 / 2), rel=1e-12)


def test_selu_figures():
    scale = float(torch.selu(torch.tensor(1.0, dtype=torch.float64)))
    alpha = -float(torch.selu(torch.tensor(-1e3, dtype=torch.float64))) / scale
    assert prints_as(scale, "1.0507")
    assert prints_as(alpha, "1.6733")
    mean, second_moment = theory.activation_moments(1.0, "selu")
    assert mean == pytest.approx(0, abs=1e-12)
    assert second_moment == pytest.approx(1, rel=1e-12)
    for start in (0.1, 10.0):  # stable: reached from both sides
        assert theory.variance_trajectory(1000, "selu", 1.0, first=start)[-1] == pytest.approx(1, rel=1e-9)


@for_all(name=names, low=variances, ratio=log_uniform(1.01, 100.0), weight_var=weight_vars)
def test_variance_map_grows_with_q(name, low, ratio, weight_var):
    low_image, high_image = theory.variance_map([low, low * ratio], name, weight_var)
    assert low_image <= high_image * (1 + 1e-12)


@for_all(name=names, q=variances, weight_var=weight_vars, bias_var=log_uniform(1e-6, 10.0))
def test_maps_are_linear_in_the_weight_variance(name, q, weight_var, bias_var):
    unit = theory.variance_map(q, name, 1.0)
    assert theory.variance_map(q, name, weight_var, bias_var) == pytest.approx(weight_var * unit + bias_var)
    assert theory.chi(q, name, weight_var) == pytest.approx(weight_var * theory.chi(q, name, 1.0))


@for_all(name=st.sampled_from(["identity", "relu", "leaky_relu", "prelu"]), q=variances, scale=variances)
def test_homogeneous_activations_scale(name, q, scale):
    assert theory.variance_map(scale * q, name, 1.3) == pytest.approx(
        scale * theory.variance_map(q, name, 1.3)
    )
    assert theory.chi(scale * q, name, 1.3) == pytest.approx(theory.chi(q, name, 1.3))
    # phi(z) = z phi'(z), so the forward and the backward factor are the same
    assert theory.variance_map(q, name, 1.3) == pytest.approx(q * theory.chi(q, name, 1.3))


@for_all(q=variances, slope=st.floats(-1.0, 1.0), weight_var=weight_vars)
def test_leaky_relu_closed_form(q, slope, weight_var):
    leaky = nn.LeakyReLU(slope)
    assert theory.chi(q, leaky, weight_var) == pytest.approx(weight_var * (1 + slope**2) / 2, rel=1e-12)
    assert theory.chi(q, leaky, 2 / (1 + slope**2)) == pytest.approx(1, rel=1e-12)


@for_all(q=variances, weight_var=weight_vars)
def test_bounded_activations_keep_their_bounds(q, weight_var):
    assert weight_var / 4 < theory.variance_map(q, "sigmoid", weight_var) < weight_var / 2  # a(1 - a) > 0
    assert 0 < theory.chi(q, "sigmoid", weight_var) <= weight_var / 16 * (1 + 1e-12)
    assert 0 < theory.variance_map(q, "tanh", weight_var) < weight_var * min(1, q) * (1 + 1e-12)
    assert 0 < theory.chi(q, "tanh", weight_var) <= weight_var * (1 + 1e-12)


@for_all(q=variances, weight_var=weight_vars)
def test_sigmoid_is_a_scaled_tanh(q, weight_var):
    # sigmoid(z) = (1 + tanh(z / 2)) / 2
    tanh_moment = theory.activation_moments(q / 4, "tanh")[1]
    assert theory.variance_map(q, "sigmoid", weight_var) == pytest.approx(weight_var * (1 + tanh_moment) / 4)
    assert theory.chi(q, "sigmoid", weight_var) == pytest.approx(theory.chi(q / 4, "tanh", weight_var) / 16)


@for_all(
    name=st.sampled_from(["sigmoid", "tanh"]),
    weight_var=log_uniform(1.05, 50.0),
    bias_var=st.one_of(st.just(0.0), log_uniform(1e-6, 10.0)),
    start=log_uniform(1e-3, 1e3),
)
def test_fixed_point_is_fixed_and_reached(name, weight_var, bias_var, start):
    q = theory.fixed_point(name, weight_var, bias_var, start)
    assert theory.variance_map(q, name, weight_var, bias_var) == pytest.approx(q, rel=1e-10)
    trajectory = theory.variance_trajectory(40, name, weight_var, bias_var, start)
    distance = np.abs(trajectory - q)
    assert (np.diff(distance) <= 1e-9 * q).all()  # ever closer
    assert distance[-1] < 0.7 * distance[0] or distance[0] < 1e-6 * q


@pytest.mark.parametrize(
    ("name", "weight_var", "bias_var"),
    [("sigmoid", 1.0, 0.0), ("tanh", 1 / 3, 0.0), ("tanh", 4.0, 0.5), ("selu", 1.0, 0.0), ("silu", 1.0, 0.3)],
)
def test_fixed_point_is_where_iteration_ends(name, weight_var, bias_var):
    limit = theory.variance_trajectory(1000, name, weight_var, bias_var)[-1]
    assert theory.fixed_point(name, weight_var, bias_var) == pytest.approx(limit, rel=1e-9, abs=1e-9)


@for_all(weight_var=log_uniform(0.05, 1.999), bias_var=log_uniform(1e-6, 10.0), start=log_uniform(1e-6, 1e6))
def test_relu_fixed_point_closed_form(weight_var, bias_var, start):
    expected = bias_var / (1 - weight_var / 2)
    assert theory.fixed_point("relu", weight_var, bias_var, start) == pytest.approx(expected, rel=1e-8)


@for_all(start=log_uniform(1e-6, 1e6))
def test_fixed_point_at_the_ends(start):
    assert theory.fixed_point("relu", 2.0, start=start) == start
    assert theory.fixed_point("relu", 1.99, start=start) == 0.0
    assert theory.fixed_point("relu", 2.01, start=start) == math.inf
    assert theory.fixed_point("relu", 2.0, 1e-3, start=start) == math.inf
    assert theory.fixed_point("tanh", 0.9, start=start) == 0.0
    assert theory.fixed_point("selu", 4.0, 0.5, start=start) == math.inf


def test_fixed_point_depends_on_the_start_where_the_map_has_two():
    # GELU halves small signals and keeps large ones: at weight_var 2.5 small ones die and large ones explode.
    assert theory.fixed_point("gelu", 2.5, start=0.1) == 0.0
    assert theory.fixed_point("gelu", 2.5, start=10.0) == math.inf


def test_fixed_points_far_from_the_start():
    assert theory.fixed_point("relu", 2 - 1e-6, 1.0) == pytest.approx(2e6, rel=1e-8)
    assert theory.fixed_point("sigmoid", 1e-12) == pytest.approx(1e-12 / 4, rel=1e-9, abs=0)
    assert theory.fixed_point("relu", 1.0, 1e-12) == pytest.approx(2e-12, rel=1e-9, abs=0)


def test_fixed_point_does_not_stop_on_a_doubling():
    assert theory.fixed_point("relu", 1.0, 1.0, start=1.0) == pytest.approx(2.0)
    assert theory.fixed_point("relu", 1.0, 1.0, start=8.0) == pytest.approx(2.0)


@for_all(name=names, weight_var=weight_vars, bias_var=st.floats(0.0, 1.0), first=log_uniform(0.01, 10.0))
def test_trajectories_are_the_maps_repeated(name, weight_var, bias_var, first):
    q = theory.variance_trajectory(6, name, weight_var, bias_var, first)
    norm = theory.gradient_norm_trajectory(6, name, weight_var, bias_var, first)
    assert q.shape == norm.shape == (6,)
    assert q[0] == first
    assert q[1:] == pytest.approx(theory.variance_map(q[:-1], name, weight_var, bias_var))
    assert norm[-1] == 1
    # layer l receives the gradient of layer l + 1 through phi'(z_{l+1})
    assert (norm[:-1] / norm[1:]) ** 2 == pytest.approx(theory.chi(q[1:], name, weight_var))


def test_trajectories_of_one_layer():
    assert theory.variance_trajectory(1, "tanh", 1.0, first=0.3).tolist() == [0.3]
    assert theory.gradient_norm_trajectory(1, "tanh", 1.0).tolist() == [1.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", sorted(theory.ACTIVATIONS))
def test_trajectories_overflow_and_underflow_in_silence(name):
    for weight_var in (1e6, 1e-6):
        q = theory.variance_trajectory(150, name, weight_var)
        norm = theory.gradient_norm_trajectory(150, name, weight_var)
        assert not np.isnan(q).any()
        assert not np.isnan(norm).any()
    assert q[-1] < 1e-5
    assert norm[0] < 1e-300


INPUT = 9.0  # mean square of the input: far from the fixed points, so that a shift by one layer shows


INITIALIZATIONS = {  # how torch draws the weights, weight_var and bias_var
    "xavier": (nn.init.xavier_normal_, 1.0, 0.0),
    "he": (nn.init.kaiming_normal_, 2.0, 0.0),
    "pytorch_default": (None, 1 / 3, 1 / (3 * WIDTH)),  # weights and biases from U(-1, 1) / sqrt(fan_in)
}


def simulate(activation: str, initialize, seed: int) -> dict[str, torch.Tensor]:
    """Mean squares per layer, (DEPTH,), of one random network at one input."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        linears = [nn.Linear(WIDTH, WIDTH, dtype=torch.float64) for _ in range(DEPTH)]
        x, readout = torch.randn(2, WIDTH, dtype=torch.float64)
        for linear in linears if initialize else []:
            initialize(linear.weight)
            nn.init.zeros_(linear.bias)
    h, z, outputs = x * (INPUT / x.square().mean()).sqrt(), [], []
    for linear in linears:
        z.append(linear(h))
        h = getattr(torch, activation)(z[-1])
        outputs.append(h)
    loss = readout @ h
    weights = [linear.weight for linear in linears]
    gradients = torch.autograd.grad(loss, outputs + weights)
    mean_square = {
        "variance": z,
        "activation_gradient": gradients[:DEPTH],
        "weight_gradient": gradients[DEPTH:],
    }
    return {
        key: torch.stack([t.detach().square().mean() for t in tensors])
        for key, tensors in mean_square.items()
    }


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_theory_agrees_with_random_networks(activation, initialization):
    initialize, weight_var, bias_var = INITIALIZATIONS[initialization]
    runs = [simulate(activation, initialize, seed) for seed in range(SEEDS)]
    first = weight_var * INPUT + bias_var
    q = theory.variance_trajectory(DEPTH, activation, weight_var, bias_var, first)
    norm = theory.gradient_norm_trajectory(DEPTH, activation, weight_var, bias_var, first)
    layers = np.arange(1, DEPTH + 1)
    for key, expected, steps in [("variance", q, layers), ("activation_gradient", norm**2, DEPTH - layers)]:
        logs = np.log(np.stack([run[key].numpy() for run in runs]))
        if key == "activation_gradient":
            logs -= logs[:, -1:]  # relative to the last layer
        # 4.5 standard errors of the mean over 12 seeds: 1 in 1000 for Student's t with 11 degrees of freedom.
        # Finite width: a layer's mean square varies by a relative variance of at most 5 / n (He-ReLU), so its
        # log is lower by half of that per layer, 2.5 / n; chaotic networks have about as much again.
        tolerance = 4.5 * logs.std(0, ddof=1) / math.sqrt(SEEDS) + 5 * steps / WIDTH
        assert (np.abs(logs.mean(0) - np.log(expected)) <= tolerance).all(), key


def test_relu_weight_gradients_hide_the_shrinking_signals():
    runs = [simulate("relu", nn.init.xavier_normal_, seed) for seed in range(SEEDS)]
    ratio = {key: torch.stack([run[key][0] / run[key][-1] for run in runs]).log().numpy() for key in runs[0]}
    error = {key: 4.5 * values.std(ddof=1) / math.sqrt(SEEDS) for key, values in ratio.items()}
    steps = DEPTH - 1
    assert ratio["weight_gradient"].mean() == pytest.approx(
        0, abs=error["weight_gradient"] + 5 * steps / WIDTH
    )
    assert ratio["variance"].mean() == pytest.approx(
        steps * math.log(2), abs=error["variance"] + 5 * steps / WIDTH
    )
    assert ratio["activation_gradient"].mean() < -steps * math.log(2) + 1


def test_critical_gains_closed_forms():
    assert theory.critical_gains("identity") == pytest.approx((1, 1))
    assert theory.critical_gains("relu", 7.0) == pytest.approx((math.sqrt(2), math.sqrt(2)))
    for slope in (0.01, 0.25, 1.0, -1.0):
        expected = math.sqrt(2 / (1 + slope**2))
        gains = theory.critical_gains(nn.LeakyReLU(slope))
        assert gains == pytest.approx((expected, expected))
        assert nn.init.calculate_gain("leaky_relu", slope) == pytest.approx(expected)
    assert theory.critical_gains("prelu") == pytest.approx(theory.critical_gains(nn.LeakyReLU(0.25)))
    # E[sin(z)**2] and E[cos(z)**2] of a standard normal z are (1 -+ exp(-2)) / 2
    gains = theory.critical_gains(torch.sin)
    assert gains == pytest.approx([math.sqrt(2 / (1 - math.exp(-2))), math.sqrt(2 / (1 + math.exp(-2)))])


def test_critical_gains_against_the_conventions_of_torch():
    assert theory.critical_gains("selu")[0] == pytest.approx(1)  # q = 1 is its fixed point
    for name, convention in {"tanh": 5 / 3, "sigmoid": 1.0, "selu": 0.75}.items():
        assert nn.init.calculate_gain(name) == pytest.approx(convention)
        assert min(abs(gain / convention - 1) for gain in theory.critical_gains(name)) > 0.04
    for name in ("elu", "gelu", "silu"):
        with pytest.raises(ValueError, match="Unsupported nonlinearity"):
            nn.init.calculate_gain(name)


def test_critical_gains_at_the_ends():
    forward, backward = theory.critical_gains("tanh", [0.0, 1e-8, 1.0])
    assert forward[:2] == pytest.approx([1, 1]) and backward[:2] == pytest.approx([1, 1])
    assert theory.critical_gains("relu", 0.0) == pytest.approx((math.sqrt(2), math.sqrt(2)))
    assert theory.critical_gains("relu", 1e300) == pytest.approx((math.sqrt(2), math.sqrt(2)))
    assert theory.critical_gains(lambda z: 0 * z) == (INF, INF)


@for_all(name=names, q=variances)
def test_critical_gains_keep_what_they_promise(name, q):
    forward, backward = theory.critical_gains(name, q)
    assert theory.variance_map(q, name, forward**2) == pytest.approx(q)
    assert theory.chi(q, name, backward**2) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(set(theory.ACTIVATIONS) - {"identity"}))
def test_critical_gains_agree_with_a_wide_layer(name):
    phi, width, batch = theory.activation_module(name).double(), 1500, 16
    forward, backward = theory.critical_gains(name)
    kept = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(width, width, dtype=torch.float64, generator=generator) / math.sqrt(width)
        z, delta = torch.randn(2, batch, width, dtype=torch.float64, generator=generator)
        z.requires_grad_()
        hidden = phi(z)
        (gradient,) = torch.autograd.grad(hidden, z, delta @ weight * backward)
        kept.append([(hidden @ weight * forward).square().mean().item(), gradient.square().mean().item()])
    # 5 standard errors of the mean over 8 seeds: 1 in 600 for Student's t with 7 degrees of freedom
    error = 5 * np.std(kept, axis=0, ddof=1) / math.sqrt(8)
    assert (np.abs(np.mean(kept, axis=0) - 1) < error).all()
    assert (
        error < 0.1
    ).all()  # sharp enough to tell; the sigmoid's mean adds up, so its error is the largest


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0), ("identity", 1.0), ("leaky_relu", 1.9998)])
@pytest.mark.parametrize(("depth", "width"), [(8, 32), (16, 32), (16, 64)])
def test_log_gradient_norm_varies_by_depth_over_width(activation, gain, depth, width):
    # 400 networks at once, one input each. They know a variance to sqrt(2 / 400) = 7 %; the next order is
    # depth / width**2, 5 % at width 32 for ReLU, where a layer has 16 active units. Together: within 30 %.
    function = theory.activation_module(activation)
    generator = torch.Generator().manual_seed(depth + width)
    h = torch.randn(400, width, 1, dtype=torch.float64, generator=generator)
    first = h = h.requires_grad_()
    for _ in range(depth):
        weight = torch.randn(400, width, width, dtype=torch.float64, generator=generator)
        h = function(weight @ h * math.sqrt(gain / width))
    arriving = torch.randn(400, width, 1, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((arriving * h).sum(), first)
    logs = (gradient.norm(dim=1) / arriving.norm(dim=1)).log()
    assert float(logs.var()) == pytest.approx(
        theory.log_gradient_norm_variance(depth, width, activation), rel=0.3
    )


def test_log_gradient_norm_variance_by_hand():
    assert theory.log_gradient_norm_variance(30, 100) == pytest.approx(5 * 30 / 400)  # Hanin and Rolnick 2018
    assert theory.log_gradient_norm_variance(30, 100, "identity") == pytest.approx(30 / 200)
    kappa = 2 * (1 + 0.01**4) / (1 + 0.01**2) ** 2
    assert theory.log_gradient_norm_variance(1, 4, "leaky_relu") == pytest.approx((3 * kappa - 1) / 16)
