"""The figures of `signals.measure` are those that one gets by hand."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradients_in_depth.data import gaussian_batch
from gradients_in_depth.networks import Block, DeepMLP
from gradients_in_depth.signals import FORMATS, LayerSignals, measure
from tests.measuring import by_name, draws, mean_square

DTYPE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Fixed(nn.Module):
    """Returns what it was given, times a parameter that is 1: any output can be measured."""

    def __init__(self, output):
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=output.dtype))
        self.output = output

    def forward(self, x):
        return self.one * self.output


def figures_of(output, gradient=None):
    """The layer's signals for a given output and a given gradient of the loss by it."""
    gradient = torch.ones_like(output) if gradient is None else gradient
    return measure(Fixed(output), torch.ones(1), None, lambda h: (h * gradient).sum()).layers[0]


def test_a_network_small_enough_for_pencil_and_paper():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, -1.0]]))
        model[2].weight.copy_(torch.tensor([[2.0, 5.0]]))
    inputs = torch.tensor([[1.0, 1.0], [3.0, 0.0]], dtype=torch.float64)
    # z = [[3, -2], [3, -3]], h = [[3, 0], [3, 0]], output = [[6], [6]], loss = 12
    signals = measure(model, inputs, None, torch.sum, learning_rate=0.1)
    assert signals.loss == 12.0
    assert signals.notes == ()
    linear, relu, readout = signals.layers
    assert [layer.name for layer in signals.layers] == ["0", "1", "2"]
    assert [layer.kind for layer in signals.layers] == ["Linear", "ReLU", "Linear"]

    assert linear.activation_mean == pytest.approx(0.25)
    assert linear.activation_variance == pytest.approx((9 + 4 + 9 + 9) / 4 - 0.25**2)
    assert linear.cosine == pytest.approx((9 + 6) / math.sqrt(13 * 18))
    assert linear.activation_gradient_norm == pytest.approx(math.sqrt(8))  # [[2, 0], [2, 0]]
    assert linear.activation_gradient_rms == pytest.approx(math.sqrt(2))
    assert linear.weight_gradient_norm == pytest.approx(math.hypot(8, 2))  # [[8, 2], [0, 0]]
    assert linear.weight_norm == pytest.approx(math.sqrt(7))
    assert linear.update_ratio == pytest.approx(0.1 * math.hypot(8, 2) / math.sqrt(7))
    assert math.isnan(linear.saturated_share)
    assert math.isnan(linear.dead_share)

    assert (relu.activation_mean, relu.activation_variance) == pytest.approx((1.5, 2.25))
    assert relu.cosine == pytest.approx(1.0)
    assert relu.dead_share == 0.5
    assert relu.activation_gradient_norm == pytest.approx(math.sqrt(2 * (4 + 25)))
    assert math.isnan(relu.weight_norm)
    assert math.isnan(relu.weight_gradient_norm)
    assert math.isnan(relu.update_ratio)

    assert readout.activation_variance == 0.0
    assert readout.activation_gradient_norm == pytest.approx(math.sqrt(2))
    assert readout.weight_gradient_norm == pytest.approx(6.0)

    weight = signals.parameters[0]
    assert (weight.name, weight.layer, weight.frozen) == ("0.weight", "0", False)
    assert (weight.norm, weight.gradient_norm) == pytest.approx((math.sqrt(7), math.hypot(8, 2)))
    assert weight.update_ratio == pytest.approx(linear.update_ratio)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [None, Block])
def test_every_layer_agrees_with_autograd(layers, dtype):
    model = DeepMLP(4, 9, in_features=5, out_features=3, activation="sigmoid", bias_var=0.1, dtype=dtype)
    inputs, targets = draws(7, 5, dtype=dtype), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    outputs = {}

    def keep(name):
        def hook(module, arguments, output):
            output.retain_grad()
            outputs[name] = output

        return hook

    reference = copy.deepcopy(model)
    for name, module in reference.named_modules():
        module.register_forward_hook(keep(name))
    loss = F.cross_entropy(reference(inputs), targets)
    loss.backward()

    signals = measure(model, inputs, targets, F.cross_entropy, layers=layers, learning_rate=0.5)
    assert signals.loss == pytest.approx(loss.item())
    if layers is None:
        parts = [f"blocks.{index}.{part}" for index in range(4) for part in ("linear", "activation")]
        assert list(by_name(signals)) == [*parts, "readout"]
    else:
        assert list(by_name(signals)) == [f"blocks.{index}" for index in range(4)]
    close = {"rel": 1e-4 if dtype == torch.float32 else 1e-10}
    parameters = dict(reference.named_parameters())
    for name, layer in by_name(signals).items():
        output = outputs[name].detach().double()
        gradient = outputs[name].grad.double()
        assert layer.activation_mean == pytest.approx(output.mean().item(), **close)
        assert layer.activation_variance == pytest.approx(output.var(correction=0).item(), **close)
        pairs = torch.corrcoef(output) * 0 + F.normalize(output) @ F.normalize(output).T
        off_diagonal = pairs[~torch.eye(7, dtype=torch.bool)]
        assert layer.cosine == pytest.approx(off_diagonal.mean().item(), **close)
        assert layer.activation_gradient_norm == pytest.approx(gradient.norm().item(), **close)
        rms = gradient.square().mean().sqrt().item()
        assert layer.activation_gradient_rms == pytest.approx(rms, **close)
        weight = next((p for n, p in parameters.items() if n.startswith(name) and p.ndim == 2), None)
        if weight is None:
            assert math.isnan(layer.weight_norm)
        else:
            assert layer.weight_norm == pytest.approx(weight.detach().norm().item(), **close)
            assert layer.weight_gradient_norm == pytest.approx(weight.grad.norm().item(), **close)
            ratio = 0.5 * weight.grad.norm().item() / weight.detach().norm().item()
            assert layer.update_ratio == pytest.approx(ratio, **close)
    for parameter in signals.parameters:
        gradient = parameters[parameter.name].grad
        assert parameter.gradient_norm == pytest.approx(gradient.norm().item(), **close)
        assert parameter.layer == parameter.name.rpartition(".")[0]


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e15, 1e25])
def test_float32_figures_beyond_the_range_of_float32_squares(scale):
    output, gradient = draws(6, 5), draws(6, 5, seed=1)
    expected = figures_of(output, gradient)
    layer = figures_of((output * scale).float(), (gradient * scale).float())
    assert layer.activation_mean == pytest.approx(scale * expected.activation_mean, rel=1e-5)
    assert layer.activation_variance == pytest.approx(scale**2 * expected.activation_variance, rel=1e-5)
    assert layer.cosine == pytest.approx(expected.cosine, abs=1e-6)
    norm = scale * expected.activation_gradient_norm
    assert layer.activation_gradient_norm == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_in_float64_do_not_leave_its_range_either(scale):
    gradient = draws(6, 5) * scale
    layer = figures_of(draws(6, 5, seed=1), gradient)
    assert layer.activation_gradient_norm == pytest.approx(scale * (gradient / scale).norm().item())


def test_a_small_variance_around_a_large_mean_is_not_lost():
    for dtype, mean in ((torch.float64, 1e7), (torch.float32, 100.0)):
        output = (mean + draws(50, 40)).to(dtype)
        expected = output.double().var(correction=0).item()
        assert figures_of(output).activation_variance == pytest.approx(expected, rel=1e-6)
    assert figures_of(torch.full((3, 4), 0.1)).activation_variance == 0.0


def test_cosine_is_that_of_all_pairs_and_leaves_zero_outputs_out():
    output = draws(9, 4)
    pairs = F.cosine_similarity(output[:, None], output[None], dim=-1)
    expected = (pairs.sum() - 9).item() / 72
    assert figures_of(output).cosine == pytest.approx(expected, abs=1e-14)
    with_zeros = torch.cat([torch.zeros(2, 4), output, torch.zeros(1, 4)])
    for dtype in (torch.float64, torch.float32):
        assert figures_of(with_zeros.to(dtype)).cosine == pytest.approx(expected, abs=1e-6)
    assert figures_of(output.reshape(9, 2, 2)).cosine == pytest.approx(expected)
    assert figures_of(torch.cat([output[:1]] * 5)).cosine == pytest.approx(1.0, abs=1e-14)
    for alone in (output[:1], torch.zeros(5, 4), torch.cat([output[:1], torch.zeros(3, 4)]), output.sum()):
        assert math.isnan(figures_of(alone).cosine)


def test_rows_of_very_different_size_count_alike_in_the_cosine():
    output = draws(4, 6)
    expected = figures_of(output).cosine
    scaled = (output * torch.tensor([1e-25, 1.0, 1e-3, 1e5])[:, None]).float()
    assert figures_of(scaled).cosine == pytest.approx(expected, abs=1e-6)


BOUNDED = [
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softsign(),
    nn.Hardsigmoid(),
    nn.Hardtanh(),
    nn.Hardtanh(-0.3, 0.7),
    nn.ReLU6(),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", BOUNDED, ids=repr)
def test_saturated_is_where_the_derivative_is_below_5_percent_of_its_maximum(activation, dtype):
    z = (4 * draws(40, 30, dtype=dtype)).requires_grad_()
    (derivative,) = torch.autograd.grad(activation(z).sum(), z)
    grid = torch.linspace(-8, 8, 100_001, dtype=torch.float64, requires_grad=True)
    (everywhere,) = torch.autograd.grad(activation(grid).sum(), grid)
    expected = (derivative < 0.05 * everywhere.max()).double().mean().item()
    assert 0.02 < expected < 0.98
    layer = measure(nn.Sequential(activation), z, None, torch.sum).layers[0]
    assert layer.saturated_share == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("activation", [nn.Hardtanh(-0.7, 0.7), nn.Sigmoid(), nn.Tanh(), nn.ReLU()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shares_of_activations_in_short_formats(activation, dtype):
    z = (3 * draws(64, 64)).to(dtype)
    short = measure(nn.Sequential(activation), z, None, lambda h: h.float().sum()).layers[0]
    exact = measure(nn.Sequential(activation), z.double(), None, torch.sum).layers[0]
    assert short.saturated_share == pytest.approx(exact.saturated_share, abs=0.01, nan_ok=True)
    assert short.dead_share == pytest.approx(exact.dead_share, nan_ok=True)


def test_which_activations_have_a_saturated_and_a_dead_share():
    kinds = [nn.Identity, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Softplus]
    for kind in [*kinds, nn.ReLU, nn.Hardswish, nn.ReLU6, nn.Sigmoid, nn.Tanh]:
        (layer,) = measure(nn.Sequential(kind()), draws(3, 4, dtype=torch.float32), None, torch.sum).layers
        assert math.isnan(layer.saturated_share) == (kind not in (nn.Sigmoid, nn.Tanh, nn.ReLU6)), kind
        assert math.isnan(layer.dead_share) == (kind not in (nn.ReLU, nn.Hardswish, nn.ReLU6)), kind


def test_a_dead_unit_is_a_feature_or_a_channel_that_is_0_on_the_whole_batch():
    z = draws(5, 8).abs()
    z[:, :3] = -1.0  # dead
    z[:4, 3] = -1.0  # alive in one example
    shapes = {"features": z, "sequence": z.reshape(5, 1, 8).repeat(1, 3, 1)}
    shapes["image"] = z[:, :, None, None].repeat(1, 1, 2, 3)
    shapes["volume"] = z[:, :, None, None, None].repeat(1, 1, 2, 1, 3)
    for shape, inputs in shapes.items():
        (layer,) = measure(nn.Sequential(nn.ReLU()), inputs, None, torch.sum).layers
        assert layer.dead_share == 3 / 8, shape


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-50, 45).map(lambda e: 2.0**e), min_size=2, max_size=40), st.integers(0, 3))
def test_underflow_and_overflow_are_what_rounding_does(magnitudes, zeros):
    gradient = torch.tensor([[(-1) ** i * m**3 for i, m in enumerate(magnitudes)] + [0.0] * zeros]).double()
    layer = figures_of(torch.ones_like(gradient), gradient)
    nonzero = gradient[gradient != 0]
    for name in FORMATS:
        rounded = nonzero.to(DTYPE[name])
        assert layer.underflow[name] == pytest.approx((rounded == 0).double().mean().item())
        assert layer.overflow[name] == pytest.approx(rounded.isinf().double().mean().item())


@pytest.mark.parametrize("name", FORMATS)
def test_the_boundaries_of_each_format_are_exact(name):
    info = torch.finfo(DTYPE[name])
    tie_low = info.smallest_normal * info.eps / 2  # halfway to the smallest subnormal: to even, 0
    tie_high = info.max * (1 + info.eps / (2 * (2 - info.eps)))  # halfway to the next power of 2: infinite
    # torch rounds float64 to float16 by way of float32, where the neighbours must still be distinct
    real = np.float64 if name == "float32" else np.float32
    above, below = np.nextafter(real(tie_low), real(1)), np.nextafter(real(tie_high), real(0))
    gradient = torch.tensor([[tie_low, above, below, tie_high]], dtype=torch.float64)
    layer = figures_of(torch.ones_like(gradient), -gradient)
    assert (layer.underflow[name], layer.overflow[name]) == (0.25, 0.25)
    rounded = gradient.to(DTYPE[name])
    assert ((rounded == 0).tolist(), rounded.isinf().tolist()) == (
        [[True, False, False, False]],
        [[False, False, False, True]],
    )


def test_shares_of_a_float32_gradient():
    gradient = torch.tensor([[0.0, 1e-40, 1e-44, 1e-9, 1.0, 1e38, math.inf]])
    layer = figures_of(torch.ones_like(gradient), gradient)
    assert layer.underflow == pytest.approx({"float16": 3 / 6, "bfloat16": 1 / 6, "float32": 0.0})
    assert layer.overflow == pytest.approx({"float16": 2 / 6, "bfloat16": 1 / 6, "float32": 1 / 6})
    assert layer.activation_gradient_norm == math.inf
    nothing = figures_of(torch.ones(2, 2), torch.zeros(2, 2))
    assert nothing.activation_gradient_norm == 0.0
    assert all(math.isnan(share) for share in [*nothing.underflow.values(), *nothing.overflow.values()])


def test_the_gradient_of_a_weight_has_its_shares_too():
    model = nn.Linear(2, 1, bias=False).double()
    weight = measure(model, torch.tensor([[1e-9, 1.0]], dtype=torch.float64), None, torch.sum).parameters[0]
    assert weight.underflow == {"float16": 0.5, "bfloat16": 0.0, "float32": 0.0}
    assert weight.update_ratio is None


def test_series():
    signals = measure(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), draws(4, 3).float(), None, mean_square)
    for field in dataclasses.fields(LayerSignals):
        if field.name in ("underflow", "overflow"):
            for name in FORMATS:
                expected = [getattr(layer, field.name)[name] for layer in signals.layers]
                assert signals.series(f"{field.name}.{name}").tolist() == expected
        elif field.name != "update_ratio":
            expected = [getattr(layer, field.name) for layer in signals.layers]
            np.testing.assert_array_equal(signals.series(field.name), expected)
    with pytest.raises(
        ValueError, match=r"one of name, kind, activation_mean, .*overflow.float32; got 'weight'"
    ):
        signals.series("weight")
    with pytest.raises(ValueError, match="update_ratio needs"):
        signals.series("update_ratio")


def test_update_ratio_of_a_weight_that_is_zero():
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    inputs = torch.ones(1, 2)
    assert measure(model, inputs, None, torch.sum, learning_rate=0.1).layers[0].update_ratio == math.inf
    (layer,) = measure(model, inputs, None, lambda h: 0 * h.sum(), learning_rate=0.1).layers
    assert math.isnan(layer.update_ratio)


def test_permuting_the_examples_changes_nothing_and_scaling_the_loss_scales_the_gradients():
    model = DeepMLP(3, 6, in_features=4, dtype=torch.float64)
    inputs = draws(8, 4)
    signals = measure(model, inputs, None, mean_square)
    permuted = measure(model, inputs.flip(0), None, mean_square)
    scaled = measure(model, inputs, None, lambda h: 1000 * mean_square(h))
    for name in ("activation_mean", "activation_variance", "cosine", "weight_norm", "saturated_share"):
        np.testing.assert_allclose(signals.series(name), permuted.series(name), rtol=1e-12)
        np.testing.assert_array_equal(signals.series(name), scaled.series(name))
    for name in ("activation_gradient_norm", "activation_gradient_rms", "weight_gradient_norm"):
        np.testing.assert_allclose(signals.series(name), permuted.series(name), rtol=1e-12)
        np.testing.assert_allclose(1000 * signals.series(name), scaled.series(name), rtol=1e-12)


def test_a_weight_before_batch_normalization_has_a_gradient_that_falls_with_its_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6, eps=1e-12), nn.Linear(6, 2)).double()
    before = measure(model, draws(9, 5), None, mean_square).layers[0]
    with torch.no_grad():
        model[0].weight.mul_(10)
    after = measure(model, draws(9, 5), None, mean_square).layers[0]
    assert after.weight_gradient_norm == pytest.approx(before.weight_gradient_norm / 10)


def test_a_deep_network_that_vanishes_in_float32_is_measured_to_the_last_layer():
    """Rounded to float32 gradients of 1e-30 have squares that are 0: the norm must not be."""
    model = DeepMLP(30, 16, in_features=16, activation="identity", gain=0.1)
    signals = measure(
        model, gaussian_batch(8, 16, seed=0, dtype=torch.float32), None, torch.sum, layers=Block
    )
    norms = signals.series("activation_gradient_norm")
    assert (norms > 0).all()
    slope = np.polyfit(np.arange(30), np.log10(norms), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1)
    assert signals.series("underflow.float16")[0] == 1.0
    assert signals.series("underflow.bfloat16")[-1] == 0.0


def test_activations_too_large_to_be_squared_in_their_format_give_no_warning():
    x = 1e19 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    (layer,) = measure(nn.Linear(4, 4).requires_grad_(False), x, loss_fn=lambda out: out.sum() * 0).layers
    assert 1e37 < layer.activation_variance < 1e38
    assert -1 <= layer.cosine <= 1
