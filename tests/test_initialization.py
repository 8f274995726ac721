"""Each scheme draws what it says: variance, distribution, orthogonality, bias, determinism."""

import math
import re

import pytest
import torch
from torch import nn

from utils.data import DTYPES, seeded_generator
from utils.initialization import SCHEMES, initialize, weight_variance

SHAPES = [(64, 96), (96, 64), (80, 80)]  # (fan_in, fan_out): the two sides are told apart
SEEDS = range(10)
RANDOM = sorted(set(SCHEMES) - {"zero", "constant"})
UNIFORM = {"xavier_uniform", "he_uniform", "pytorch_default"}


def filled(scheme, fan_in, fan_out, seed=0, dtype=torch.float64, bias=True, **settings):
    linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias, dtype=dtype)
    initialize(linear, scheme, generator=seeded_generator(seed), **settings)
    return linear


@pytest.mark.parametrize("gain", [1.0, 0.3])
@pytest.mark.parametrize("fans", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_variance_over_seeds_is_weight_variance(scheme, fans, gain):
    weights = torch.stack([filled(scheme, *fans, seed=seed, gain=gain).weight.detach() for seed in SEEDS])
    measured = weights.var(correction=0).item() * fans[0]
    # n independent normal entries give the variance with relative standard error sqrt(2 / n), uniform ones
    # with less, orthogonal ones with hardly any; n >= 61,440, so that five standard errors are 2.9 %.
    tolerance = 5 * math.sqrt(2 / weights.numel())
    assert measured == pytest.approx(weight_variance(scheme, *fans, gain=gain), rel=tolerance, abs=1e-12)
    if scheme != "constant":
        assert abs(weights.mean().item()) <= 5 * weights.std().item() / math.sqrt(weights.numel())


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("zero", 0),
        ("constant", 0),
        ("gaussian", 1),
        ("lecun_normal", 1),
        ("xavier_normal", 2 * 20 / (20 + 60)),
        ("xavier_uniform", 2 * 20 / (20 + 60)),
        ("he_normal", 2),
        ("he_uniform", 2),
        ("orthogonal", 20 / 60),
        ("pytorch_default", 1 / 3),
    ],
)
def test_weight_variance_by_hand(scheme, expected):
    assert weight_variance(scheme, 20, 60) == pytest.approx(expected)
    assert weight_variance(scheme, 20, 60, gain=3) == pytest.approx(9 * expected)


def test_every_scheme_has_a_variance_and_pytorch_default_is_not_he():
    assert all(weight_variance(scheme, 7, 5) >= 0 for scheme in SCHEMES)
    assert weight_variance("he_uniform", 50, 50) == pytest.approx(
        6 * weight_variance("pytorch_default", 50, 50)
    )


@pytest.mark.parametrize("scheme", sorted(set(RANDOM) - {"orthogonal"}))
def test_uniform_schemes_are_bounded_and_normal_ones_are_not(scheme):
    weight = filled(scheme, 100, 120).weight
    bound = math.sqrt(3 * weight_variance(scheme, 100, 120) / 100)  # a uniform law of that variance ends here
    if scheme in UNIFORM:
        assert 0.999 * bound < weight.abs().max() <= bound
    else:
        # A share of 8.3 % of a normal law lies beyond sqrt(3) standard deviations; the error is 0.25 %.
        assert (weight.abs() > bound).double().mean().item() == pytest.approx(0.0833, abs=0.0125)


@pytest.mark.parametrize("gain", [1.0, 1.7])
@pytest.mark.parametrize("fans", [(40, 40), (40, 90), (90, 40)])
def test_orthogonal_weights_are_orthonormal_along_the_shorter_side(fans, gain):
    weight = filled("orthogonal", *fans, gain=gain).weight
    singular_values = torch.linalg.svdvals(weight)
    assert len(singular_values) == 40
    torch.testing.assert_close(singular_values, torch.full_like(singular_values, gain))


def test_orthogonal_weights_differ_between_seeds_in_sign_too():
    corners = [filled("orthogonal", 6, 6, seed=seed).weight[0, 0].item() for seed in range(20)]
    assert min(corners) < 0 < max(corners)


def test_constant_units_are_equal_and_keep_the_scale_of_equal_inputs():
    linear = filled("constant", 30, 50)
    outputs = linear(torch.full((1, 30), 0.7, dtype=torch.float64))
    torch.testing.assert_close(outputs, torch.full_like(outputs, 0.7))
    assert (filled("zero", 30, 50).weight == 0).all()


def test_pytorch_default_draws_what_a_linear_layer_draws_by_itself():
    state = torch.get_rng_state()
    try:
        torch.manual_seed(7)
        own = nn.Linear(30, 50, dtype=torch.float64)
    finally:
        torch.set_rng_state(state)
    ours = filled("pytorch_default", 30, 50, seed=7)
    assert torch.equal(ours.weight, own.weight)
    assert torch.equal(ours.bias, own.bias)


def test_gain_scales_the_weights_and_not_pytorchs_bias():
    one, three = filled("pytorch_default", 30, 50), filled("pytorch_default", 30, 50, gain=3)
    torch.testing.assert_close(three.weight, 3 * one.weight)
    assert torch.equal(three.bias, one.bias)
    assert three.bias.abs().max() <= 1 / math.sqrt(30)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"pytorch_default"}))
def test_the_bias_has_the_variance_asked_for(scheme):
    biases = torch.stack(
        [filled(scheme, 5, 3000, seed=seed, bias_var=0.04).bias.detach() for seed in range(8)]
    )
    tolerance = 5 * math.sqrt(2 / biases.numel())
    assert biases.var().item() == pytest.approx(0.04, rel=tolerance)
    assert (filled(scheme, 5, 30).bias == 0).all()


def test_bias_and_weight_are_drawn_apart():
    linear = filled("gaussian", 1, 50, bias_var=1.0)
    assert not torch.equal(linear.weight.flatten(), linear.bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_seed_gives_one_layer_in_every_dtype(scheme, dtype):
    bias_var = 0.0 if scheme == "pytorch_default" else 0.1
    exact = filled(scheme, 20, 30, seed=4, gain=1.3, bias_var=bias_var)
    rounded = filled(scheme, 20, 30, seed=4, gain=1.3, bias_var=bias_var, dtype=dtype)
    assert rounded.weight.dtype == dtype
    assert torch.equal(rounded.weight, exact.weight.to(dtype))
    assert torch.equal(rounded.bias, exact.bias.to(dtype))
    assert rounded.weight.requires_grad


@pytest.mark.parametrize("scheme", RANDOM)
def test_the_generator_alone_decides_the_weights(scheme):
    torch.manual_seed(1)
    first = filled(scheme, 8, 9, seed=2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = filled(scheme, 8, 9, seed=2), filled(scheme, 8, 9, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


LINEAR = nn.utils.skip_init(nn.Linear, 3, 3)
BARE = nn.utils.skip_init(nn.Linear, 3, 3, bias=False)
NAMES = ", ".join(SCHEMES)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"linear": nn.Conv1d(2, 2, 1)}, TypeError, "initialize fills an nn.Linear, got Conv1d."),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator, got int."),
        ({"scheme": "he"}, ValueError, f"scheme must be one of {NAMES}; got 'he'."),
        ({"gain": -1.0}, ValueError, "gain must be a finite number of at least 0, got -1.0."),
        ({"gain": math.inf}, ValueError, "gain must be a finite number of at least 0, got inf."),
        ({"gain": "1"}, TypeError, "gain must be a finite number of at least 0, got '1'."),
        ({"bias_var": -0.1}, ValueError, "bias_var must be a finite number of at least 0, got -0.1."),
        (
            {"linear": BARE, "bias_var": 0.1},
            ValueError,
            "bias_var must be 0 for a layer without bias, got 0.1.",
        ),
        (
            {"scheme": "pytorch_default", "bias_var": 0.1},
            ValueError,
            "bias_var must be 0 with pytorch_default, which draws its own bias, got 0.1.",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(arguments, error, sentence):
    settings = {"linear": LINEAR, "scheme": "gaussian", "generator": seeded_generator(0)} | arguments
    with pytest.raises(error) as caught:
        initialize(settings.pop("linear"), settings.pop("scheme"), **settings)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("normal", 3, 3), f"scheme must be one of {NAMES}; got 'normal'."),
        (("gaussian", 0, 3), "fan_in must be an integer of at least 1, got 0."),
        (("gaussian", 3, 0), "fan_out must be an integer of at least 1, got 0."),
        (("gaussian", 3, 3, -2), "gain must be a finite number of at least 0, got -2."),
    ],
)
def test_a_bad_argument_of_weight_variance_gets_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        weight_variance(*arguments)
