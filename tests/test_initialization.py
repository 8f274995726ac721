"""Each scheme draws what it says: variance, distribution, orthogonality, bias, determinism."""

import math
import re

import pytest
import torch
from torch import nn

from gradients_in_depth.catalogue import DTYPES
from gradients_in_depth.data import gaussian_batch
from gradients_in_depth.initialization import SCHEMES, initialize, lsuv, weight_variance
from gradients_in_depth.networks import DeepMLP
from gradients_in_depth.randomness import seeded_generator

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
        ({"linear": nn.Conv1d(2, 2, 1)}, TypeError, "linear must be an nn.Linear, got Conv1d."),
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


# ---- LSUV


def output_variances(model, inputs):
    """Variance of the outputs of every linear layer, in order."""
    found = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output.var(correction=0)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


def network(**settings):
    settings = {"in_features": 20, "dtype": torch.float64, "initialization": "zero"} | settings
    return DeepMLP(12, 20, **settings)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sigmoid", "identity"])
def test_lsuv_gives_every_layer_unit_variance_on_the_batch(activation):
    model, inputs = network(activation=activation), 7 * gaussian_batch(256, 20, seed=1)
    scales = lsuv(model, inputs, tolerance=0.001)
    torch.testing.assert_close(
        output_variances(model, inputs), torch.ones(13, dtype=torch.float64), rtol=0, atol=0.001
    )
    assert len(scales) == 13
    for block, scale in zip(model.blocks, scales, strict=False):  # orthogonal, but for the scale
        values = torch.linalg.svdvals(block.linear.weight)
        torch.testing.assert_close(values, torch.full_like(values, scale))
        assert (block.linear.bias == 0).all()
    assert scales[0] == pytest.approx(1 / 7, rel=0.05)


def test_lsuv_finds_the_gain_of_he_and_keeps_an_orthogonal_linear_network():
    inputs = gaussian_batch(2000, 20, seed=1)
    assert lsuv(network(activation="identity"), inputs)[1:] == pytest.approx([1.0] * 12, rel=0.01)
    wide = DeepMLP(1, 400, in_features=400, activation="relu", dtype=torch.float64)
    # ReLU halves the second moment. The second layer is wide too: ten rows alone would not average it out.
    wide.readout = nn.utils.skip_init(nn.Linear, 400, 400, dtype=torch.float64)
    _, second = lsuv(wide, gaussian_batch(2000, 400, seed=1))
    assert second == pytest.approx(math.sqrt(2), rel=0.03)


def test_lsuv_follows_the_order_of_the_calls_and_leaves_out_what_is_not_called():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 3, dtype=torch.float64)
            self.first = nn.Linear(6, 6, dtype=torch.float64)
            self.unused = nn.Linear(2, 2, dtype=torch.float64)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)))

    model, inputs = Backwards(), gaussian_batch(300, 6, seed=0)
    assert len(lsuv(model, inputs)) == 2
    assert output_variances(model, inputs) == pytest.approx([1.0, 1.0], abs=0.011)


def test_lsuv_measures_a_layer_before_the_next_one_works_on_its_outputs_in_place():
    models = [nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace), nn.Linear(6, 3)) for inplace in (False, True)]
    inputs = gaussian_batch(100, 6, seed=0, dtype=torch.float32)
    assert lsuv(models[0], inputs) == lsuv(models[1], inputs)


def test_lsuv_leaves_everything_else_as_it_was():
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    model.train()
    model[2].eval()
    model[0].weight.grad = torch.ones(5, 5)
    model[3].weight.requires_grad_(False)
    modes, statistics = [m.training for m in model.modules()], model[1].running_mean.clone()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    inputs = gaussian_batch(50, 5, seed=0, dtype=torch.float32)
    copy = inputs.clone()
    lsuv(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model[1].running_mean, statistics) and torch.equal(inputs, copy)
    assert torch.equal(model[0].weight.grad, torch.ones(5, 5))
    assert model[0].weight.requires_grad and not model[3].weight.requires_grad
    assert all(not module._forward_hooks for module in model.modules())


def test_lsuv_puts_a_buffer_back_that_changes_in_evaluation_mode():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Counting()
    lsuv(model, BATCH)
    assert model.calls == 0


def test_the_seed_alone_decides_what_lsuv_gives():
    inputs, models = gaussian_batch(64, 20, seed=0), [network() for _ in range(3)]
    scales = [lsuv(model, inputs, seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    assert scales[0] == scales[1] != scales[2]
    assert torch.equal(models[0].readout.weight, models[1].readout.weight)


def shared():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


class Silent(nn.Module):
    def forward(self, x):
        return 0 * x


BATCH = torch.ones(4, 3).cumsum(0)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "sentence"),
    [
        (3, {}, TypeError, "model must be an nn.Module, got int."),
        (nn.Linear(3, 3), {"inputs": [1.0]}, TypeError, "inputs must be a torch.Tensor, got list."),
        (
            nn.Linear(3, 3),
            {"inputs": torch.full((2, 3), math.nan)},
            ValueError,
            "inputs must be finite, got NaN or infinity in 6 places.",
        ),
        (
            nn.Linear(3, 3),
            {"tolerance": 0},
            ValueError,
            "tolerance must be a finite number of at least 1e-12, got 0.",
        ),
        (
            nn.Linear(3, 3),
            {"most_rescalings": 0},
            ValueError,
            "most_rescalings must be an integer of at least 1, got 0.",
        ),
        (
            nn.Linear(3, 3),
            {"seed": -1},
            ValueError,
            "seed must be an integer from 0 to 2**32 - 1, got -1.",
        ),
        (
            nn.Identity(),
            {},
            ValueError,
            "model must have an nn.Linear that it calls, got none.",
        ),
        (
            shared(),
            {},
            ValueError,
            "model must not share a weight between layers: it cannot be scaled for both.",
        ),
        (
            nn.Sequential(nn.Linear(3, 3), Silent(), nn.Linear(3, 2)),
            {},
            ValueError,
            "The outputs of 2 must vary over the inputs, got variance 0.",
        ),
        (
            nn.Sequential(nn.Linear(3, 3)),
            {"tolerance": 1e-12, "most_rescalings": 1},
            ValueError,
            None,
        ),
    ],
)
def test_lsuv_says_what_is_wrong_and_changes_nothing(model, arguments, error, sentence):
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    before = [p.detach().clone() for p in parameters]
    arguments = {"inputs": BATCH} | arguments
    with pytest.raises(error) as caught:
        lsuv(model, arguments.pop("inputs"), **arguments)
    assert str(caught.value).startswith(
        "The variance of the outputs of 0 must settle at 1 within 1 resc"
    ) or (str(caught.value) == sentence)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
