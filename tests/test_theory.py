"""theory: printed figures, properties, simulation of plain-torch networks, sentences on bad input."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import psi
from torch import nn

from gradients_in_depth import theory


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prints_as(value: float, printed: str) -> bool:
    """Whether the value, rounded to as many digits as are printed, is what is printed."""
    unit = 10.0 ** Decimal(printed).as_tuple().exponent
    return abs(value - float(printed)) <= 0.5 * unit * (1 + 1e-9)


def for_all(**strategies):
    """Hypothesis, with the same examples in each run."""
    repeatable = settings(derandomize=True, deadline=None, max_examples=40)
    return lambda test: repeatable(given(**strategies)(test))


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


variances = log_uniform(1e-6, 1e6)
weight_vars = log_uniform(0.05, 20.0)
names = st.sampled_from(sorted(theory.ACTIVATIONS))
formats = st.sampled_from(sorted(theory.FORMATS))


# --- 1. Products: the printed figures ----------------------------------------------------------------------


def test_powers():
    assert prints_as(0.25**10, "9.54e-7")
    assert prints_as(0.5**5, "0.03125")
    assert prints_as(0.5**100, "7.89e-31")
    assert prints_as(0.8**100, "2.04e-10")
    assert prints_as(2.0**100, "1.27e30")


@pytest.mark.parametrize(
    ("name", "first"), [("float16", 13), ("bfloat16", 67), ("float32", 75), ("float64", 538)]
)
def test_first_zero_of_a_quarter(name, first):
    assert theory.first_zero(0.25, name) == first


@pytest.mark.parametrize(
    ("name", "first"), [("float16", 16), ("bfloat16", 128), ("float32", 128), ("float64", 1024)]
)
def test_first_overflow_of_two(name, first):
    assert theory.first_overflow(2.0, name) == first


def test_lyapunov_figures():
    top = theory.lyapunov_exponents(4, 1.0)[0]
    assert top == pytest.approx((math.log(2) + psi(2)) / 2, rel=1e-14)
    assert prints_as(101 * top / math.log(10), "24.5")
    assert prints_as(theory.critical_weight_std(4), "0.572")


# --- 2. Maps: the printed figures --------------------------------------------------------------------------


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


def test_relu_cosine_figure():
    for start in (0.0, 0.5):
        cosine = start
        for _ in range(100):
            cosine = theory.relu_cosine_map(cosine)
        assert cosine == pytest.approx(
            0.9965, abs=1e-4
        )  # two different inputs, "about 0.99" and a little more


# --- 3. Saturation: the printed figures --------------------------------------------------------------------


def test_window_figures():
    weight, width = theory.widest_sigmoid_window()
    assert prints_as(weight, "6.894")
    assert prints_as(width, "0.4477")
    assert prints_as(theory.sigmoid_window_width(50.0), "0.155")
    assert prints_as(theory.sigmoid_window_width(100.0), "0.092")
    assert theory.sigmoid_window_width([3.9, 4.0, -4.0, 0.0]).tolist() == [0, 0, 0, 0]


# --- Gaussian averages against closed forms and against scipy ----------------------------------------------

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


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


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


# --- Properties of the maps --------------------------------------------------------------------------------


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


# --- Fixed points ------------------------------------------------------------------------------------------


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


# --- Trajectories ------------------------------------------------------------------------------------------


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


# --- Numeric range -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(theory.FORMATS))
def test_formats_are_those_of_torch(name):
    numbers, dtype = theory.number_format(name), theory.FORMATS[name]
    one, two = (torch.tensor(value, dtype=dtype) for value in (1.0, 2.0))
    assert torch.tensor(numbers.smallest_subnormal, dtype=dtype) > 0
    assert torch.tensor(numbers.smallest_subnormal, dtype=dtype) / two == 0
    assert torch.tensor(numbers.largest, dtype=dtype).isfinite()
    assert (torch.tensor(numbers.largest, dtype=dtype) * two).isinf()
    assert one + torch.tensor(numbers.epsilon, dtype=dtype) > one
    assert one + torch.tensor(numbers.epsilon, dtype=dtype) / two == one
    assert numbers.smallest_normal * numbers.epsilon == numbers.smallest_subnormal


def powers(factor: float, count: int) -> torch.Tensor:
    """(count + 1,): factor**0 .. factor**count in float64."""
    return torch.tensor([factor**n for n in range(count + 1)], dtype=torch.float64)


@for_all(factor=st.floats(0.02, 0.98), name=st.sampled_from(["float16", "bfloat16", "float32"]))
@example(factor=0.5, name="float16")
@example(factor=0.25, name="bfloat16")
@example(factor=0.125, name="float32")
def test_first_zero_counts_as_torch_does(factor, name):
    first = theory.first_zero(factor, name)
    rounded = powers(factor, first).to(theory.FORMATS[name])
    assert rounded[first] == 0
    assert (rounded[:first] > 0).all()
    assert theory.first_zero(-factor, name) == first
    assert theory.first_overflow(factor, name) is None


@for_all(factor=st.floats(1.02, 50.0), name=st.sampled_from(["float16", "bfloat16", "float32"]))
@example(factor=2.0, name="float16")
@example(factor=4.0, name="float32")
@example(factor=65519.0, name="float16")
@example(factor=65520.0, name="float16")
def test_first_overflow_counts_as_torch_does(factor, name):
    first = theory.first_overflow(factor, name)
    rounded = powers(factor, first).to(theory.FORMATS[name])
    assert rounded[first].isinf()
    assert rounded[:first].isfinite().all()
    assert theory.first_overflow(-factor, name) == first
    assert theory.first_zero(factor, name) is None


@for_all(factor=st.floats(0.1, 0.95))
@example(factor=2 ** (-1 / 3))  # its powers pass the boundary by a hair
@example(factor=2 ** (-1 / 5))
def test_first_zero_of_float64_is_exact(factor):
    first = theory.first_zero(factor, "float64")
    assert float(Fraction(factor) ** first) == 0
    assert float(Fraction(factor) ** (first - 1)) > 0


@pytest.mark.parametrize("name", theory.FORMATS)
def test_boundary_cases_are_decided_exactly(name):
    # Factors beside the n-th root of the boundary, where n and n + 1 are equally likely: logarithms fail.
    numbers = theory.number_format(name)
    half_step = Fraction(numbers.smallest_subnormal) / 2
    exponent = {"float16": 16, "float64": 1024}.get(name, 128)
    half_past = Fraction(2) ** exponent * (1 - Fraction(numbers.epsilon) / 4)
    for n in range(2, 40):
        root = 2.0 ** ((math.log2(numbers.smallest_subnormal) - 1) / n)
        for factor in (math.nextafter(root, 0.0), root, math.nextafter(root, 1.0)):
            first = theory.first_zero(factor, name)
            assert Fraction(factor) ** first <= half_step < Fraction(factor) ** (first - 1)
        root = 2.0 ** ((exponent + math.log2(1 - numbers.epsilon / 4)) / n)
        for factor in (math.nextafter(root, 1.0), root, math.nextafter(root, math.inf)):
            first = theory.first_overflow(factor, name)
            assert Fraction(factor) ** first >= half_past > Fraction(factor) ** (first - 1)


@for_all(low=st.floats(0.01, 0.98), high=st.floats(0.01, 0.98), name=formats)
def test_smaller_factors_vanish_sooner(low, high, name):
    low, high = sorted([low, high])
    assert theory.first_zero(low, name) <= theory.first_zero(high, name)
    assert theory.first_overflow(1 / high, name) >= theory.first_overflow(1 / low, name)


def test_factors_that_never_get_there():
    for factor in (1.0, -1.0):
        assert theory.first_zero(factor, "float16") is None
        assert theory.first_overflow(factor, "float16") is None
    assert theory.first_zero(0.0, "float16") == theory.first_zero(1e-300, "float16") == 1
    assert theory.first_overflow(1e300, "float16") == 1
    assert theory.first_zero(np.float32(0.25), "float16") == 13
    assert theory.first_zero(1 - 1e-16, "float16") > 10**17


def test_multiplying_in_float16_is_not_rounding_the_power():
    product, factor = torch.tensor(1.0, dtype=torch.float16), torch.tensor(0.8, dtype=torch.float16)
    for _ in range(10 * theory.first_zero(0.8, "float16")):
        product = product * factor
    assert product == 2 * theory.number_format("float16").smallest_subnormal


# --- Products of random matrices ---------------------------------------------------------------------------


@for_all(width=st.integers(1, 300), weight_std=log_uniform(0.01, 10.0))
def test_lyapunov_properties(width, weight_std):
    exponents = theory.lyapunov_exponents(width, weight_std)
    assert exponents.shape == (width,)
    assert (np.diff(exponents) < 0).all()
    assert exponents - theory.lyapunov_exponents(width, 1.0) == pytest.approx(
        np.full(width, math.log(weight_std)), abs=1e-12
    )
    assert theory.lyapunov_exponents(width, theory.critical_weight_std(width))[0] == pytest.approx(
        0, abs=1e-12
    )
    assert 1 < theory.critical_weight_std(width) * math.sqrt(width) < 1 + 1 / width  # above the wide limit


@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_lyapunov_exponents_agree_with_simulation(width):
    # 32 chains of 200 factors; the growth is read off the QR decomposition of factor @ frame. A Gaussian
    # matrix times an orthogonal one is Gaussian again, so the growths are independent and there is no
    # transient: the only error is that of the mean over chains, and 4 standard errors of 32 are 1 in 3000.
    generator = torch.Generator().manual_seed(width)
    frame = torch.eye(width, dtype=torch.float64).expand(32, width, width)
    growth = torch.zeros(32, width, dtype=torch.float64)
    for _ in range(200):
        factor = torch.randn(32, width, width, dtype=torch.float64, generator=generator)
        frame, triangle = torch.linalg.qr(0.7 * factor @ frame)
        growth += triangle.diagonal(dim1=1, dim2=2).abs().log() / 200
    error = growth.mean(0).numpy() - theory.lyapunov_exponents(width, 0.7)
    assert (np.abs(error) < 4 * growth.std(0).numpy() / math.sqrt(32)).all()


def products(count: int, length: int, weight_std: float, seed: int) -> torch.Tensor:
    """(count, 4, 4): products of `length` Gaussian 4 x 4 matrices."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.eye(4, dtype=torch.float64).expand(count, 4, 4)
    for _ in range(length):
        product = weight_std * torch.randn(count, 4, 4, dtype=torch.float64, generator=generator) @ product
    return product


def test_norm_of_a_hundred_and_one_factors():
    # What grows by 10**24.5 is a vector that passes through. Its log10 is a sum of 101 independent terms
    # with a standard deviation of 1.75, so the median of 4000 has a standard error of 1.25 * 1.75 /
    # sqrt(4000) = 0.035. The norm of the product itself is that of its four columns, about 10**25.
    product = products(4000, 101, 1.0, seed=0)
    top = 101 * theory.lyapunov_exponents(4, 1.0)[0] / math.log(10)
    assert product[:, :, 0].norm(dim=1).log10().median() == pytest.approx(top, abs=4 * 0.035)
    for order in ("fro", 2):
        assert torch.linalg.matrix_norm(product, order).log10().median() == pytest.approx(25.0, abs=4 * 0.035)


def test_critical_std_keeps_the_norm_and_its_neighbours_do_not():
    critical = theory.critical_weight_std(4)
    for weight_std in (critical, 0.5, 0.65):
        growth = products(1000, 200, weight_std, seed=1)[:, :, 0].norm(dim=1).log() / 200
        error = 4 * float(growth.std()) / math.sqrt(1000)  # independent products: 1 in 16000
        assert growth.mean() == pytest.approx(math.log(weight_std / critical), abs=error)


def test_a_stable_norm_is_not_a_stable_spectrum():
    length = 20
    exponents = theory.lyapunov_exponents(4, 1.0)
    log_condition = torch.linalg.cond(products(2000, length, theory.critical_weight_std(4), seed=2)).log()
    assert log_condition.mean() / length == pytest.approx(
        exponents[0] - exponents[-1], rel=0.15
    )  # O(1 / length)
    generator = torch.Generator().manual_seed(2)
    product = torch.eye(4, dtype=torch.float64)
    for _ in range(length):
        product = nn.init.orthogonal_(torch.empty(4, 4, dtype=torch.float64), generator=generator) @ product
    assert torch.linalg.cond(product) == pytest.approx(1, abs=1e-9)


# --- Random networks in plain torch ------------------------------------------------------------------------

WIDTH, DEPTH, SEEDS = 300, 16, 12
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


def test_relu_cosine_agrees_with_a_wide_layer():
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 8, 100_000, dtype=torch.float64, generator=generator)
    for cosine in (-1.0, -0.6, 0.0, 0.5, 0.95, 1.0):
        a, b = torch.relu(u), torch.relu(cosine * u + math.sqrt(1 - cosine**2) * v)
        measured = nn.functional.cosine_similarity(a, b, dim=1)
        # 8 seeds of 100 000 units: 5 standard errors of the mean, Student's t with 7 degrees of freedom
        error = 5 * float(measured.std()) / math.sqrt(8) + 1e-9
        assert measured.mean() == pytest.approx(theory.relu_cosine_map(cosine), abs=error)


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


# --- Two inputs, the edge of chaos, finite width -----------------------------------------------------------

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


# --- Saturation --------------------------------------------------------------------------------------------


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


# --- Normalization -----------------------------------------------------------------------------------------


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


# --- Residual connections ------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("error", "sentence", "call"),
    [
        (ValueError, "depth must be an integer >= 1, but 0 was given.", lambda: theory.residual_flow(0)),
        (
            ValueError,
            "branch_scale must be a finite number, but inf was given.",
            lambda: theory.residual_flow(2, math.inf),
        ),
        (
            ValueError,
            "normalization must be one of None, batch, layer, rms, but 'group' was given.",
            lambda: theory.residual_flow(2, normalization="group"),
        ),
        (
            ValueError,
            "weight_var must be a finite number >= 0, but -1.0 was given.",
            lambda: theory.residual_flow(2, weight_var=-1.0),
        ),
        (
            ValueError,
            "branch_factors must be (depth,), but shape (1, 2) was given.",
            lambda: theory.path_length_weights([[1.0, 2.0]]),
        ),
        (
            ValueError,
            "branch_factors must be a finite number >= 0, or a non-empty array of them, "
            "but [-1.0] was given.",
            lambda: theory.path_length_weights([-1.0]),
        ),
        (
            ValueError,
            "inputs must be at least 3 different numbers (points,), but [1.0, 1.0, 2.0] was given.",
            lambda: theory.relu_gradient_kernel([1.0, 1.0, 2.0], 2),
        ),
        (
            ValueError,
            "normalization must be one of None, batch, but 'rms' was given.",
            lambda: theory.relu_gradient_kernel([1.0, 2.0, 3.0], 2, normalization="rms"),
        ),
        (
            ValueError,
            "bias_var must be a finite number > 0, but 0.0 was given.",
            lambda: theory.relu_gradient_kernel([1.0, 2.0, 3.0], 2, bias_var=0.0),
        ),
        (
            ValueError,
            "kernel must be (points, points), but shape (2,) was given.",
            lambda: theory.kernel_autocorrelation([1.0, 2.0]),
        ),
        (
            ValueError,
            "kernel must vary over the points, but all values are the same.",
            lambda: theory.kernel_autocorrelation(np.ones((3, 3))),
        ),
    ],
)
def test_bad_residual_input_gets_one_sentence(error, sentence, call):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence


# --- Optimizers and dropout -----------------------------------------------------------------------------


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


# --- Bad input: one sentence each --------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
NAMES = "must be one of identity, sigmoid, tanh, relu, leaky_relu, prelu, elu, selu, gelu, silu"
FORMATS = "must be one of float16, bfloat16, float32, float64"
NUMBER = "must be a finite number, but"
POSITIVE = "must be a finite number > 0, but"
VARIANCE = "must be a finite number >= 0, but"
VARIANCES = "must be a finite number >= 0, or a non-empty array of them, but"
COUNT = "must be an integer >= 1, but"
SHAPE = "The function must return a tensor of its input's shape (768,), but gave"

BAD_INPUT = [  # error, sentence, function, arguments
    (ValueError, f"activation {NAMES}, but 'swish' was given.", theory.activation_module, "swish"),
    (ValueError, f"activation {NAMES}, but None was given.", theory.activation_module, None),
    (ValueError, f"activation {NAMES}, but 'swish' was given.", theory.chi, 1.0, "swish", 1.0),
    (
        TypeError,
        f"activation {NAMES} or a torch callable, but 3 was given.",
        theory.variance_map,
        1.0,
        3,
        1.0,
    ),
    (ValueError, f"{SHAPE} torch.Size([]).", theory.variance_map, 1.0, torch.sum, 1.0),
    (ValueError, f"{SHAPE} float.", theory.gaussian_expectation, lambda z: 1.0),
    (
        TypeError,
        "function must be a torch callable, but 'tanh' was given.",
        theory.gaussian_expectation,
        "tanh",
    ),
    (ValueError, f"variance {VARIANCES} -1.0 was given.", theory.gaussian_expectation, torch.tanh, -1.0),
    (ValueError, f"q {VARIANCES} nan was given.", theory.variance_map, NAN, "tanh", 1.0),
    (ValueError, f"q {VARIANCES} [1.0, inf] was given.", theory.chi, [1.0, INF], "tanh", 1.0),
    (ValueError, f"q {VARIANCES} [] was given.", theory.chi, [], "tanh", 1.0),
    (TypeError, f"q {VARIANCES} '1' was given.", theory.chi, "1", "tanh", 1.0),
    (TypeError, f"q {VARIANCES} [[1], [1, 2]] was given.", theory.chi, [[1], [1, 2]], "tanh", 1.0),
    (ValueError, f"q {VARIANCES} -1 was given.", theory.activation_moments, -1, "tanh"),
    (ValueError, f"weight_var {VARIANCE} -2.0 was given.", theory.chi, 1.0, "tanh", -2.0),
    (TypeError, f"weight_var {VARIANCE} True was given.", theory.chi, 1.0, "tanh", True),
    (ValueError, f"weight_var {VARIANCE} nan was given.", theory.variance_map, 1.0, "tanh", NAN),
    (ValueError, f"bias_var {VARIANCE} -0.1 was given.", theory.variance_map, 1.0, "tanh", 1.0, -0.1),
    (TypeError, f"bias_var {VARIANCE} '0' was given.", theory.variance_map, 1.0, "tanh", 1.0, "0"),
    (ValueError, f"start {POSITIVE} 0.0 was given.", theory.fixed_point, "tanh", 1.0, 0.0, 0.0),
    (ValueError, f"weight_var {VARIANCE} -1.0 was given.", theory.fixed_point, "tanh", -1.0),
    (ValueError, f"depth {COUNT} 0 was given.", theory.variance_trajectory, 0, "tanh", 1.0),
    (TypeError, f"depth {COUNT} 2.0 was given.", theory.variance_trajectory, 2.0, "tanh", 1.0),
    (ValueError, f"weight_var {VARIANCE} -1.0 was given.", theory.variance_trajectory, 1, "tanh", -1.0),
    (ValueError, f"bias_var {VARIANCE} -1.0 was given.", theory.variance_trajectory, 1, "tanh", 1.0, -1.0),
    (ValueError, f"first {VARIANCE} -1.0 was given.", theory.variance_trajectory, 3, "tanh", 1.0, 0.0, -1.0),
    (ValueError, f"depth {COUNT} 0 was given.", theory.gradient_norm_trajectory, 0, "tanh", 1.0),
    (ValueError, f"activation {NAMES}, but '' was given.", theory.gradient_norm_trajectory, 3, "", 1.0),
    (ValueError, f"width {COUNT} 0 was given.", theory.lyapunov_exponents, 0, 1.0),
    (ValueError, f"weight_std {POSITIVE} 0.0 was given.", theory.lyapunov_exponents, 4, 0.0),
    (TypeError, f"width {COUNT} True was given.", theory.critical_weight_std, True),
    (ValueError, f"number format {FORMATS}, but 'fp8' was given.", theory.number_format, "fp8"),
    (ValueError, f"number format {FORMATS}, but 'half' was given.", theory.first_zero, 1.0, "half"),
    (ValueError, f"number format {FORMATS}, but 16 was given.", theory.first_overflow, 0.5, 16),
    (ValueError, f"factor {NUMBER} nan was given.", theory.first_zero, NAN, "float16"),
    (TypeError, f"factor {NUMBER} '0.5' was given.", theory.first_zero, "0.5", "float16"),
    (ValueError, f"factor {NUMBER} inf was given.", theory.first_overflow, INF, "float16"),
    (ValueError, "cosine must be from -1 to 1, but 1.5 was given.", theory.relu_cosine_map, 1.5),
    (ValueError, f"cosine {NUMBER} nan was given.", theory.relu_cosine_map, NAN),
    (ValueError, f"q {VARIANCES} -1.0 was given.", theory.critical_gains, "relu", -1.0),
    (ValueError, f"activation {NAMES}, but 'swish' was given.", theory.critical_gains, "swish"),
    (
        ValueError,
        "c must be a finite number from -1 to 1, or a non-empty array of them, but 1.2 was given.",
        *(theory.correlation_map, 1.2, "tanh", 1.0, 0.0, 1.0),
    ),
    (ValueError, f"q {POSITIVE} 0.0 was given.", theory.correlation_map, 0.5, "tanh", 1.0, 0.0, 0.0),
    (
        ValueError,
        "weight_var and bias_var must not both be 0: a layer of zeros has no correlation.",
        *(theory.correlation_map, 0.5, "tanh", 0.0, 0.0, 1.0),
    ),
    (ValueError, f"bias_var {VARIANCE} -1.0 was given.", theory.correlation_slope, 0, "tanh", 1.0, -1.0, 1.0),
    (ValueError, f"activation {NAMES}, but 'swish' was given.", theory.correlation_map, 0, "swish", 1, 0, 1),
    (ValueError, f"depth {COUNT} 0 was given.", theory.correlation_trajectory, 0, "tanh", 1.0),
    (
        ValueError,
        "cosine must be a finite number from -1 to 1, or a non-empty array of them, but 2 was given.",
        *(theory.correlation_trajectory, 3, "tanh", 1.0, 0.0, 1.0, 2),
    ),
    (ValueError, f"weight_var {VARIANCE} -1.0 was given.", theory.correlation_fixed_point, "tanh", -1.0),
    (
        ValueError,
        "weight_var must be small enough for the variance to settle, but it diverges with weight_var 3.0 and "
        "bias_var 0.0.",
        *(theory.depth_scales, "relu", 3.0),
    ),
    (ValueError, f"bias_var {VARIANCE} -0.5 was given.", theory.critical_weight_var, -0.5),
    (
        ValueError,
        "'relu' has no critical weight_var for bias_var 0.1.",
        *(theory.critical_weight_var, 0.1, "relu"),
    ),
    (ValueError, f"depth {COUNT} 0 was given.", theory.log_gradient_norm_variance, 0, 10),
    (TypeError, f"width {COUNT} 2.5 was given.", theory.log_gradient_norm_variance, 3, 2.5),
    (
        ValueError,
        "activation must be one of identity, relu, leaky_relu, but 'tanh' was given.",
        *(theory.log_gradient_norm_variance, 3, 10, "tanh"),
    ),
    (
        ValueError,
        "activation must be one of sigmoid, tanh, but 'relu' was given.",
        *(theory.saturated_share, 1.0, "relu"),
    ),
    (ValueError, f"q {VARIANCES} -1.0 was given.", theory.saturated_share, -1.0, "tanh"),
    (
        ValueError,
        "threshold must be between 0 and 1, but 1.0 was given.",
        *(theory.saturated_share, 1.0, "tanh", 1.0),
    ),
    (
        ValueError,
        "weight must be a finite number, or a non-empty array of them, but nan was given.",
        *(theory.sigmoid_window_width, NAN),
    ),
    (
        ValueError,
        "loss must be one of squared_error, cross_entropy, but 'hinge' was given.",
        *(theory.output_delta, 1.0, 0.0, "hinge"),
    ),
    (
        ValueError,
        "z must be a finite number, or a non-empty array of them, but nan was given.",
        *(theory.output_delta, NAN, 0.0, "cross_entropy"),
    ),
    (
        ValueError,
        "target must be a finite number from 0 to 1, or a non-empty array of them, but 2 was given.",
        *(theory.output_delta, 1.0, 2, "cross_entropy"),
    ),
    (
        ValueError,
        "z and target must broadcast, but their shapes (2,) and (3,) were given.",
        *(theory.output_delta, [1.0, 2.0], [0.0, 1.0, 0.0], "cross_entropy"),
    ),
    (
        ValueError,
        "The function must be defined on all real numbers, but it gave NaN at variance 2.0.",
        *(theory.gaussian_expectation, torch.log, 2.0),
    ),
    (
        ValueError,
        "The activation must be differentiable by autograd, but it returned no graph.",
        *(theory.chi, 1.0, torch.ones_like, 1.0),
    ),
    (
        ValueError,
        "batch must be None or an integer >= 4, but 3 was given.",
        *(theory.batch_norm_growth, "relu", 3),
    ),
    (
        TypeError,
        "batch must be None or an integer >= 4, but 8.0 was given.",
        *(theory.batch_norm_growth, "relu", 8.0),
    ),
    (ValueError, f"activation {NAMES}, but 'swish' was given.", theory.batch_norm_growth, "swish"),
    (ValueError, f"activation {NAMES}, but 'swish' was given.", theory.layer_norm_growth, "swish"),
    (
        ValueError,
        "gradient must be a finite number, or a non-empty array of them, but nan was given.",
        *(theory.adam_first_step, NAN),
    ),
    (TypeError, f"learning_rate {NUMBER} '1' was given.", theory.adam_first_step, 1.0, "1"),
    (ValueError, f"eps {POSITIVE} 0.0 was given.", theory.adam_first_step, 1.0, 1e-3, 0.0),
    (ValueError, f"step {COUNT} 0 was given.", theory.adam_uncorrected_factor, 0),
    (ValueError, "beta1 must be below 1, but 1.0 was given.", theory.adam_uncorrected_factor, 1, 1.0),
    (ValueError, f"beta2 {VARIANCE} -0.1 was given.", theory.adam_uncorrected_factor, 1, 0.9, -0.1),
    (
        ValueError,
        "signal_to_noise must be a finite number, or a non-empty array of them, but inf was given.",
        *(theory.adam_noisy_step, INF),
    ),
    (ValueError, "beta1 must be below 1, but 2 was given.", theory.adam_noisy_step, 1.0, 2),
    (ValueError, f"keep {POSITIVE} 0 was given.", theory.dropout_variance, 0),
    (
        ValueError,
        "keep must be above 0 and at most 1, but 1.5 was given.",
        *(theory.dropout_variance, 1.5),
    ),
    (ValueError, f"variance {VARIANCES} -1.0 was given.", theory.dropout_variance, 0.5, -1.0),
    (
        ValueError,
        "mean must be a finite number, or a non-empty array of them, but nan was given.",
        *(theory.dropout_variance, 0.5, 1.0, NAN),
    ),
    (
        ValueError,
        "variance and mean must broadcast, but their shapes (2,) and (3,) were given.",
        *(theory.dropout_variance, 0.5, [1.0, 2.0], [0.0, 1.0, 0.0]),
    ),
]


@pytest.mark.parametrize("case", BAD_INPUT, ids=[f"{case[2].__name__}: {case[1][:40]}" for case in BAD_INPUT])
def test_bad_input_gets_one_sentence(case):
    error, sentence, function, *arguments = case
    with pytest.raises(error) as caught:
        function(*arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("growth", [theory.batch_norm_growth, theory.layer_norm_growth])
def test_normalization_of_a_constant_says_so(growth):
    with pytest.raises(ValueError, match=r"activation must not be constant, but <function .* was given\."):
        growth(lambda z: 0 * z)


# --- Transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d_k", "scaled", "entropy"),
    [
        (4, False, "1.77"),
        (64, False, "0.41"),
        (1024, False, "0.09"),
        (64, True, "2.36"),
        (1024, True, "2.36"),
    ],
)
def test_attention_moments_printed_figures(d_k, scaled, entropy):
    assert prints_as(theory.attention_moments(d_k, 16, scaled).entropy, entropy)


@for_all(keys=st.integers(2, 200), logit_variance=log_uniform(1e-4, 1e3), factor=st.floats(1.05, 3.0))
def test_softmax_moments_are_bounded_and_sharpen_with_the_logits(keys, logit_variance, factor):
    one = theory.softmax_moments(keys, logit_variance)
    sharper = theory.softmax_moments(keys, logit_variance * factor)
    assert 0 <= sharper.entropy < one.entropy <= math.log(keys)
    assert 1 / keys <= one.concentration < sharper.concentration <= 1
    assert (
        0 < one.jacobian_norm <= math.sqrt(0.5) + 1e-9
    )  # |J| is largest with half of the weight on each of two
    assert one.entropy >= -math.log(one.concentration) - 1e-6  # Jensen, twice: Shannon's is above Renyi's


@pytest.mark.parametrize("logit_variance", [0.09, 1.0, 9.0])
def test_softmax_moments_of_two_keys_are_one_dimensional(logit_variance):
    """p is sigmoid(difference), whose variance is twice that of a logit; ||J|| = 2 p (1 - p)."""
    spread = math.sqrt(2 * logit_variance)

    def mean(function):
        def integrand(x):
            p = 1 / (1 + math.exp(-spread * x))
            return function(p, 1 - p) * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

        return quad(integrand, -8, 8, epsabs=1e-12, limit=200)[0]

    found = theory.softmax_moments(2, logit_variance)
    entropy = mean(lambda p, q: -(p * math.log(p) + q * math.log(q)) if 0 < p < 1 else 0.0)
    assert found.entropy == pytest.approx(entropy, abs=1e-6)
    assert found.concentration == pytest.approx(mean(lambda p, q: p * p + q * q), abs=1e-6)
    assert found.jacobian_norm == pytest.approx(math.sqrt(mean(lambda p, q: (2 * p * q) ** 2)), abs=1e-6)


def test_softmax_moments_at_their_ends():
    uniform = theory.softmax_moments(8, 0.0)
    assert uniform.entropy == pytest.approx(math.log(8)) and uniform.concentration == 1 / 8
    assert uniform.jacobian_norm == pytest.approx(
        torch.diag(torch.full((8,), 1 / 8)).sub(1 / 64).norm().item()
    )
    near = theory.softmax_moments(8, 1.01e-6)
    assert near.entropy == pytest.approx(uniform.entropy, abs=1e-5)
    assert near.jacobian_norm == pytest.approx(uniform.jacobian_norm, abs=1e-5)
    alone = theory.softmax_moments(1, 4.0)
    assert (alone.entropy, alone.jacobian_norm, alone.concentration) == (0, 0, 1)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("d_k", "keys"), [(1, 16), (4, 16), (64, 16), (16, 50)])
def test_attention_moments_agree_with_random_queries_and_keys(d_k, keys, scaled):
    found = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        q = torch.randn(400, 1, d_k, dtype=torch.float64, generator=generator)
        k = torch.randn(400, keys, d_k, dtype=torch.float64, generator=generator)
        p = ((q * k).sum(-1) / (math.sqrt(d_k) if scaled else 1)).softmax(-1)
        jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        concentration = p.square().sum(-1).mean()
        entropy = torch.special.entr(p).sum(-1).mean()
        found.append(torch.stack([entropy, jacobian.square().sum((1, 2)).mean(), concentration]))
    found = torch.stack(found)
    law = theory.attention_moments(d_k, keys, scaled)
    # 5 standard errors of a mean of 8 (1 in 600 for Student's t), and the 1e-3 of the quadrature over |q|.
    error = 5 * found.std(0) / math.sqrt(8) + 1e-3
    expected = torch.tensor([law.entropy, law.jacobian_norm**2, law.concentration], dtype=torch.float64)
    assert ((found.mean(0) - expected).abs() < error).all()


TOKENS = 8


def random_blocks(depth, placement, seed, width=256, batch=4):
    """Stream (depth + 1 tensors) of a Transformer with W_Q = 0 in plain torch, and its last hidden weight."""
    generator = torch.Generator().manual_seed(seed)

    def draw(fan_out, fan_in):
        std = math.sqrt(2 / (fan_in + fan_out))
        return std * torch.randn(fan_out, fan_in, dtype=torch.float64, generator=generator)

    def norm(x):
        return nn.functional.layer_norm(x, (width,))

    def add(x, branch):
        return norm(x + branch(x)) if placement == "post" else x + branch(norm(x))

    x = torch.randn(batch, TOKENS, width, dtype=torch.float64, generator=generator)
    stream = [x]
    for _ in range(depth):
        value, output, up = draw(width, width), draw(width, width), draw(4 * width, width)
        down = draw(width, 4 * width).requires_grad_()
        x = add(x, lambda z, v=value, o=output: (z.mean(1, keepdim=True) @ v.T @ o.T).expand_as(z))
        x = add(x, lambda z, u=up, d=down: torch.relu(z @ u.T) @ d.T)
        stream.append(x)
    last = norm(x) if placement == "pre" else x
    target = torch.randn(last.shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((last * target).sum(), down)
    return [h.detach() for h in stream], gradient.norm()


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_transformer_trajectory_agrees_with_random_transformers(placement):
    depth, seeds = 8, 8
    variances, differences, gradients = [], [], {1: [], depth: []}
    for seed in range(seeds):
        for blocks, found in gradients.items():
            stream, gradient = random_blocks(blocks, placement, seed)
            found.append(gradient.log())
        stream = torch.stack(stream)
        square = stream.square().mean((1, 2, 3))
        apart = (stream - stream.mean(2, keepdim=True)).square().mean((1, 2, 3)) / square
        variances.append(square)
        differences.append(apart * TOKENS / (TOKENS - 1))
    law = theory.transformer_trajectory(depth, TOKENS, placement)
    # Finite width: each block's factor is off by terms of 1 / width, and a mean of 8 networks of 4 sequences
    # knows it to some percent; differences are a product of 16 such factors. Without the feed-forward term,
    # or with attention that adds a vector of mean square 1 at once, both miss by 20 % in the first block.
    variance, difference = (torch.stack(found).mean(0).numpy() for found in (variances, differences))
    np.testing.assert_allclose(variance, law.variance, rtol=0.06)
    np.testing.assert_allclose(np.log(difference), np.log(law.difference), atol=0.25)
    np.testing.assert_allclose(difference[1], law.difference[1], rtol=0.03)
    # The hidden units read normalized tokens in both networks, so that only the division differs; but the
    # gradient of tokens that are alike adds up differently: 8 seeds and this effect, 10 %.
    change = torch.stack(gradients[depth]).mean() - torch.stack(gradients[1]).mean()
    one = theory.transformer_trajectory(1, TOKENS, placement)
    assert change.item() == pytest.approx(math.log(law.last_gradient / one.last_gradient), abs=0.1)


def test_transformer_trajectory_by_hand():
    # Two tokens at right angles: attention adds (1 + 0) / 2 to variance 1 and to their product 0.
    law = theory.transformer_trajectory(1, 2, "pre")
    cosine = 0.5 / 1.5
    relu = (math.sqrt(1 - cosine**2) + cosine * (math.pi - math.acos(cosine))) / math.pi
    assert law.variance.tolist() == pytest.approx([1, 1.5 + 0.32])
    assert law.difference.tolist() == pytest.approx([1, 1 - (0.5 + 0.32 * relu) / 1.82])
    assert law.last_gradient == pytest.approx(1 / math.sqrt(1.82))
    post = theory.transformer_trajectory(1, 2, "post")
    assert post.variance.tolist() == [1, 1]
    assert post.difference[1] == pytest.approx(1 - (cosine + 0.32 * relu) / 1.32)
    assert post.last_gradient == pytest.approx(1 / math.sqrt(1.32))


def test_pre_norm_tends_to_the_inverse_root_of_the_depth_and_post_norm_does_not():
    near, far = (theory.transformer_trajectory(depth, 8, "pre").last_gradient for depth in (1000, 4000))
    assert math.log(far / near) / math.log(4) == pytest.approx(-0.5, abs=0.01)  # Xiong et al. 2020
    assert theory.transformer_trajectory(4000, 8, "post").last_gradient == pytest.approx(1 / math.sqrt(1.32))


@for_all(
    depth=st.integers(2, 60),
    count=st.integers(1, 64),
    first=log_uniform(0.1, 10.0),
    cosine=st.floats(0.0, 0.99),
)
def test_transformers_make_tokens_alike_and_post_norm_sooner(depth, count, first, cosine):
    pre, post = (
        theory.transformer_trajectory(depth, count, placement, first, cosine) for placement in ("pre", "post")
    )
    for law in (pre, post):
        assert law.variance[0] == first and law.difference[0] == pytest.approx(1 - cosine)
        assert (np.diff(law.difference) < 0).all() and (law.difference > 0).all()
    assert (post.variance[1:] == 1).all()
    assert (np.diff(pre.variance) <= 1.32 + 1e-9).all()  # attention adds at most what it reads
    if first == 1:
        assert (post.difference[2:] < pre.difference[2:]).all()
    # In the end each block of Post-LN halves the differences: attention doubles the sum, ReLU changes little.
    assert theory.transformer_trajectory(60, count, "post").difference[-2:] @ [0.5, -1] == pytest.approx(
        0, abs=1e-15
    )


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("count", "width"), [(8, 128), (32, 128)])
@pytest.mark.parametrize("residual", [1e-3, 0.03])
def test_attention_residual_agrees_with_attention_in_plain_torch(count, width, heads, residual):
    squares = []
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape, g=generator):
            return torch.randn(*shape, dtype=torch.float64, generator=g)

        own, common = draw(count, width), draw(1, width)
        own = own - own.mean(0)
        own, common = own / own.square().mean().sqrt(), common / common.square().mean().sqrt()
        x = math.sqrt(1 - residual**2) * common + residual * own
        q, k, v = ((x @ draw(width, width) / math.sqrt(width)).unflatten(1, (heads, -1)) for _ in range(3))
        logits = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(width // heads)
        out = torch.einsum("hij,jhd->ihd", logits.softmax(-1), v).flatten(1) @ draw(width, width)
        squares.append((out - out.mean(0)).square().sum() / out.square().sum())
    # Root mean square over 16 networks whose squares scatter by a factor of about 2: 5 standard errors of
    # 2 / sqrt(16) / 2 would be all, so the mean of logs counts: measured spread 0.25, 4 * 0.25 / 4 = 0.25.
    measured = math.sqrt(torch.stack(squares).mean().item())
    law = theory.attention_residual(residual, count, width)
    assert abs(math.log(measured / law)) < 0.25


@for_all(residual=log_uniform(1e-6, 0.3), count=st.integers(2, 100), width=st.integers(1, 1000))
def test_attention_residual_is_a_cube(residual, count, width):
    one = theory.attention_residual(residual, count, width)
    assert theory.attention_residual([residual, residual / 10], count, width)[1] == pytest.approx(one / 1000)
    assert one <= residual**3 * math.sqrt(2)


@pytest.mark.parametrize(
    ("error", "sentence", "function", "arguments"),
    [
        (ValueError, f"keys {COUNT} 0 was given.", theory.softmax_moments, (0, 1.0)),
        (TypeError, f"keys {COUNT} 1.5 was given.", theory.softmax_moments, (1.5, 1.0)),
        (ValueError, f"logit_variance {VARIANCE} -1 was given.", theory.softmax_moments, (4, -1)),
        (ValueError, f"logit_variance {VARIANCE} nan was given.", theory.softmax_moments, (4, NAN)),
        (ValueError, f"d_k {COUNT} 0 was given.", theory.attention_moments, (0, 4)),
        (ValueError, f"keys {COUNT} 0 was given.", theory.attention_moments, (4, 0)),
        (ValueError, f"depth {COUNT} 0 was given.", theory.transformer_trajectory, (0, 8, "pre")),
        (ValueError, f"tokens {COUNT} 0 was given.", theory.transformer_trajectory, (3, 0, "pre")),
        (
            ValueError,
            "norm_placement must be one of pre, post, but None was given.",
            *(theory.transformer_trajectory, (3, 8, None)),
        ),
        (ValueError, f"first {POSITIVE} 0.0 was given.", theory.transformer_trajectory, (3, 8, "pre", 0.0)),
        (
            ValueError,
            "cosine must be a finite number from 0 to 1, but 2 was given.",
            *(theory.transformer_trajectory, (3, 8, "pre", 1.0, 2)),
        ),
        (
            ValueError,
            "residual must be a finite number from 0 to 1, or a non-empty array of them, but 2 was given.",
            *(theory.attention_residual, (2, 8, 64)),
        ),
        (
            ValueError,
            "tokens must be an integer >= 2, but 1 was given.",
            theory.attention_residual,
            (0.1, 1, 4),
        ),
        (ValueError, f"d_model {COUNT} 0 was given.", theory.attention_residual, (0.1, 8, 0)),
    ],
)
def test_bad_transformer_input_gets_one_sentence(error, sentence, function, arguments):
    with pytest.raises(error) as caught:
        function(*arguments)
    assert str(caught.value) == sentence


# --- Recurrence and clipping -------------------------------------------------------------------------------


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
    (theory.recurrent_gradient_bound, (-1, 1.0), ValueError, "steps must be a finite number >= 0, or a"),
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
    (theory.recurrent_gradient_bound, (1, 1.0, -1.0), ValueError, "slope must be a finite number >= 0"),
    (theory.gaussian_power_norms, (-1, 1.0), ValueError, "steps must be a finite number >= 0, or a"),
    (theory.gaussian_power_norms, (1, math.inf), ValueError, "spectral_radius must be a finite number >= 0"),
    (theory.cell_path, ("x", 0.0), TypeError, "steps must be a finite number >= 0, or a"),
    (theory.cell_path, (1, math.nan), ValueError, "forget_bias must be a finite number"),
    (theory.value_clipping_cosine, (-1.0,), ValueError, "threshold must be a finite number >= 0, or a"),
    (theory.value_clipping_cosine, (0.0,), ValueError, "threshold must be above 0, but 0 was given"),
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
