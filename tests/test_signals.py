"""`measure` gives the figures that one gets by hand, on any module, and leaves everything as it was."""

import copy
import dataclasses
import math
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from gradients_in_depth.data import gaussian_batch
from gradients_in_depth.networks import Block, DeepMLP, RecurrentNetwork, Transformer, TransformerBlock
from gradients_in_depth.signals import (
    FORMATS,
    LayerSignals,
    flow,
    jacobian_singular_values,
    matrix_products,
    measure,
    running_product,
)

DTYPE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def mean_square(outputs):
    return outputs.square().mean()


def by_name(signals):
    return {layer.name: layer for layer in signals.layers}


def draws(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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


# --- Figures -----------------------------------------------------------------------------------------------


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


# --- Invariants --------------------------------------------------------------------------------------------


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


# --- Which layers ------------------------------------------------------------------------------------------


def test_a_container_has_the_shares_of_the_activations_inside_it():
    model = DeepMLP(3, 8, in_features=8, activation="tanh", gain=2.0, skip=True, dtype=torch.float64)
    inputs = draws(10, 8)
    leaves, blocks = (
        by_name(measure(model, inputs, None, mean_square, layers=kind)) for kind in (None, Block)
    )
    for name, block in blocks.items():
        activation = leaves[f"{name}.activation"]
        assert block.kind == "Block"
        assert block.saturated_share == activation.saturated_share > 0
        assert block.activation_variance != pytest.approx(activation.activation_variance)
        assert block.weight_gradient_norm == leaves[f"{name}.linear"].weight_gradient_norm
    dead = DeepMLP(3, 8, in_features=8, activation="relu", dtype=torch.float64)
    with torch.no_grad():
        dead.blocks[1].linear.bias[:6] = -100.0
    assert measure(dead, inputs, None, mean_square, layers=Block).layers[1].dead_share >= 6 / 8


def test_one_activation_in_several_containers_counts_in_each_for_its_own_call():
    relu = nn.ReLU()
    blocks = [nn.Sequential(nn.Linear(4, 4), relu) for _ in range(3)]
    for bias, block in zip((-100.0, 100.0, -100.0), blocks, strict=True):
        nn.init.constant_(block[0].bias, bias)
    signals = measure(nn.Sequential(*blocks), draws(5, 4).float(), None, mean_square, layers=["0", "1", "2"])
    assert signals.series("dead_share").tolist() == [1.0, 0.0, 1.0]
    two = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 12), nn.Tanh()))
    nn.init.constant_(two[0][0].bias, 100.0)
    nn.init.zeros_(two[0][2].weight)
    (pooled,) = measure(two, draws(5, 4).float(), None, mean_square, layers="0").layers
    assert pooled.saturated_share == 4 / 16


def test_layers_by_name_by_class_and_by_several():
    model = DeepMLP(2, 4, in_features=3)
    inputs = draws(5, 3).float()

    def measured(layers):
        return [layer.name for layer in measure(model, inputs, None, mean_square, layers=layers).layers]

    assert measured("readout") == ["readout"]
    assert measured(["readout", "blocks.0"]) == ["blocks.0", "readout"]
    assert measured(nn.Linear) == ["blocks.0.linear", "blocks.1.linear", "readout"]
    assert measured((Block, nn.Tanh))[:2] == ["blocks.0.activation", "blocks.0"]
    assert measured("(model)") == ["(model)"]
    assert measured([]) == []


# --- Everything is left as it was --------------------------------------------------------------------------


class Restless(nn.Module):
    """Draws, counts, caches, registers, switches modes and calls backward: hard to leave as it was."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Linear(4, 4)
        self.register_buffer("counter", torch.zeros(()))
        self.last_output = "nothing yet"
        self.fails = False

    def forward(self, x):
        self.counter += 1 + random.random() + np.random.rand()  # noqa: NPY002 (models in the wild do)
        hidden = self.dropout(self.linear(self.norm(x)))
        self.last_output = hidden
        if "cache" not in dict(self.named_buffers()):
            self.register_buffer("cache", hidden.detach())
        self.linear.weight.requires_grad_(True)
        self.frozen.bias.requires_grad_(True)
        self.linear(x.detach()).sum().backward()
        self.eval()
        if self.fails:
            raise ArithmeticError("this model's own error")
        return self.frozen(hidden)


def state_of(model):
    """Everything that was promised, with identities; tensors as copies."""
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "grads": {
            name: (id(p.grad), None if p.grad is None else p.grad.clone())
            for name, p in model.named_parameters()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "parameters": {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()},
        "buffers": {name: (id(b), b.clone()) for name, b in model.named_buffers()},
        "attributes": {name: {k: id(v) for k, v in vars(m).items()} for name, m in model.named_modules()},
        "hooks": {
            name: [list(v) for k, v in vars(m).items() if k.endswith("hooks") and v is not None]
            for name, m in model.named_modules()
        },
        "tensor hooks": {name: dict(p._backward_hooks or {}) for name, p in model.named_parameters()},
        "random": (torch.get_rng_state(), str(np.random.get_state()), random.getstate()),  # noqa: NPY002
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_same(before, after, path=""):
    if isinstance(before, dict):
        assert list(before) == list(after), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, tuple | list):
        assert len(before) == len(after), path
        for index, pair in enumerate(zip(before, after, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(before, torch.Tensor):
        assert torch.equal(before, after), path
    else:
        assert before == after, path


def loss_that_fails(outputs):
    raise ArithmeticError("this loss's own error")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("what", ["works", "model raises", "loss raises", "loss is no scalar", "jacobian"])
def test_everything_is_left_as_it_was(what, grad_mode, mode):
    torch.manual_seed(0)
    model = Restless().train(mode == "train")
    model.dropout.train()
    model.linear.weight.grad = torch.full((4, 4), 3.0)
    model.fails = what == "model raises"
    inputs = draws(6, 4).float()
    untouched = inputs.clone()
    with grad_mode():
        before = state_of(model)
        if what == "works":
            measure(model, inputs, None, mean_square)
        elif what == "jacobian":
            jacobian_singular_values(model, inputs)
        elif what == "loss is no scalar":
            with pytest.raises(ValueError, match="one number"):
                measure(model, inputs, None, lambda h: h)
        else:
            with pytest.raises(ArithmeticError, match="own error"):
                measure(model, inputs, None, loss_that_fails if what == "loss raises" else mean_square)
        assert_same(before, state_of(model))
    assert torch.equal(inputs, untouched)
    assert inputs.grad is None


def test_the_result_is_the_same_each_time_and_follows_the_random_state():
    model = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5), nn.Linear(40, 2))
    inputs = draws(5, 4).float()
    first, second = (measure(model, inputs, None, mean_square) for _ in range(2))
    assert first.loss == second.loss
    torch.rand(1)
    assert measure(model, inputs, None, mean_square).loss != first.loss


def test_dropout_and_batch_normalization_run_in_the_present_mode():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    inputs = 3 + draws(50, 4).float()
    norm, dropout = measure(model, inputs, None, mean_square).layers
    assert norm.activation_mean == pytest.approx(0.0, abs=1e-6)
    assert dropout.activation_variance == pytest.approx(2.0, rel=0.3)
    norm, dropout = measure(model.eval(), inputs, None, mean_square).layers
    assert norm.activation_mean == pytest.approx(3.0, rel=0.1)
    assert dropout.activation_variance == norm.activation_variance


def test_a_graph_that_the_caller_holds_can_still_be_differentiated():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    inputs = draws(6, 4).float().requires_grad_()
    hidden = inputs * 2
    loss = mean_square(model(hidden))
    measure(model, hidden, None, mean_square)
    loss.backward()
    assert inputs.grad is not None
    assert model[0].weight.grad is not None


def test_inputs_that_require_a_gradient_give_one_to_the_layers_before_any_parameter():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    inputs = draws(3, 2, 2).float()
    assert math.isnan(measure(model, inputs, None, mean_square).layers[0].activation_gradient_norm)
    inputs.requires_grad_()
    assert measure(model, inputs, None, mean_square).layers[0].activation_gradient_norm > 0
    assert inputs.grad is None


def test_hooks_of_the_caller_stay_and_are_seen():
    model = nn.Sequential(nn.Linear(4, 2))
    calls = []
    model[0].register_forward_hook(lambda module, arguments, output: calls.append(output) or output * 0 + 5)
    (layer,) = measure(model, draws(3, 4).float(), None, mean_square).layers
    assert layer.activation_mean == pytest.approx(5.0)
    model(draws(3, 4).float())
    assert len(calls) == 2


# --- Modules of every sort ---------------------------------------------------------------------------------


def test_in_place_activations_do_not_change_what_the_layer_before_them_returned():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
    )
    in_place = copy.deepcopy(model)
    for module in in_place:
        if isinstance(module, nn.ReLU):
            module.inplace = True
    inputs = draws(6, 4).float()
    expected, signals = (measure(m, inputs, None, mean_square) for m in (model, in_place))
    # In words: from Python 3.13 on, a dataclass that holds a NaN is not equal to itself.
    assert repr(signals) == repr(expected)
    assert signals.notes == ()
    first = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    measure(first, inputs, None, mean_square)
    assert inputs.min() < 0  # the caller's inputs are a copy's


def test_a_view_that_is_changed_in_place_is_reported():
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.ReLU(inplace=True))
    signals = measure(model, draws(3, 4).float(), None, mean_square)
    linear, view, relu = signals.layers
    assert math.isnan(view.activation_gradient_norm)
    assert linear.activation_gradient_norm > 0 < relu.activation_gradient_norm
    assert any("a view that is changed in place" in note and note.endswith(": 1.") for note in signals.notes)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.act = nn.Tanh()

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.layer(x))
        return x


def test_a_module_that_is_called_several_times():
    model = Reused()
    inputs = draws(5, 3).float()
    signals = measure(model, inputs, None, mean_square)
    names = ["layer", "act", "layer#2", "act#2", "layer#3", "act#3"]
    assert [layer.name for layer in signals.layers] == names
    mean_square(model(inputs)).backward()
    for name in ("layer", "layer#2", "layer#3"):
        layer = by_name(signals)[name]
        assert layer.weight_gradient_norm == pytest.approx(model.layer.weight.grad.norm().item())
    assert len(set(signals.series("activation_gradient_norm"))) == 6
    (note,) = signals.notes
    assert note == "Called more than once, and its weight gradient is the sum over the calls: layer."


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class ModelOutput(dict):
    """As in transformers: a dict whose entries are attributes too."""

    def __getattr__(self, name):
        return self[name]


CONTAINERS = {
    "tuple": lambda h: (h, h * 2),
    "list": lambda h: [torch.arange(3), [h]],
    "dict": lambda h: {"step": 3, "nested": {"h": h}},
    "dataclass": lambda h: Output(h.sum(), h),
    "ModelOutput": lambda h: ModelOutput(loss=h.sum(), logits=h),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_modules_that_return_more_than_a_tensor(container):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return CONTAINERS[container](self.linear(x))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            inner = self.inner(x)
            return {
                "tuple": lambda: inner[0],
                "list": lambda: inner[1][0],
                "dict": lambda: inner["nested"]["h"],
            }.get(container, lambda: inner.logits)()

    model, inputs = Outer(), draws(4, 3).float()
    signals = measure(model, inputs, None, mean_square, layers=["inner", "inner.linear"])
    linear, inner = signals.layers
    for name in ("activation_mean", "activation_variance", "cosine", "activation_gradient_norm"):
        assert getattr(inner, name) == getattr(linear, name), name
    assert any("first floating-point tensor in the" in note and "inner" in note for note in signals.notes)


def test_modules_that_return_nothing_to_measure():
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    class Indices(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing, self.indices, self.linear = Nothing(), Indices(), nn.Linear(3, 2)

        def forward(self, x):
            self.nothing(x), self.indices(x)
            return self.linear(x)

    signals = measure(Model(), draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["linear"]
    assert signals.notes == (
        "Not measured, for it returns NoneType without a plain floating-point tensor: nothing.",
        "Not measured, for it returns Tensor without a plain floating-point tensor: indices.",
    )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_recurrent_layers(kind, mode):
    model = kind(3, 4, num_layers=2, batch_first=True).train(mode == "train")
    inputs = draws(5, 6, 3).float()
    signals = measure(model, inputs, None, lambda out: mean_square(out[0]))
    (layer,) = signals.layers
    mean_square(model(inputs)[0]).backward()
    weights = [p for n, p in model.named_parameters() if "weight" in n]
    assert layer.weight_norm == pytest.approx(
        torch.cat([p.flatten() for p in weights]).norm().item(), rel=1e-5
    )
    gradients = torch.cat([p.grad.flatten() for p in weights])
    assert layer.weight_gradient_norm == pytest.approx(gradients.norm().item(), rel=1e-5)
    assert layer.activation_mean == pytest.approx(model(inputs)[0].mean().item(), rel=1e-5)
    assert len(signals.parameters) == 8
    assert not any("time" in note for note in signals.notes)
    time_first = measure(kind(3, 4), inputs, None, lambda out: mean_square(out[0]))
    assert any("compares time steps: (model)" in note for note in time_first.notes)


def test_a_packed_sequence_as_input_and_output():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.readout = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.readout(pad_packed_sequence(self.lstm(x)[0])[0])

    packed = pack_sequence([draws(5, 3).float(), draws(2, 3).float()])
    signals = measure(Packed(), packed, None, mean_square)
    assert [layer.name for layer in signals.layers] == ["lstm", "readout"]
    assert signals.layers[0].activation_gradient_norm > 0
    assert any("compares time steps: lstm" in note for note in signals.notes)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_attention(mode):
    model = nn.MultiheadAttention(4, 2, batch_first=True).train(mode == "train")
    inputs = draws(3, 5, 4).float()
    (layer,) = measure(model, (inputs, inputs, inputs), None, lambda out: mean_square(out[0])).layers
    outputs, _ = model(inputs, inputs, inputs)
    mean_square(outputs).backward()
    gradients = [model.in_proj_weight.grad.norm().item(), model.out_proj.weight.grad.norm().item()]
    assert layer.weight_gradient_norm == pytest.approx(math.hypot(*gradients), rel=1e-5)
    assert layer.activation_variance == pytest.approx(outputs.var(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_transformer_is_seen_in_full_also_where_torch_has_a_fast_path(mode, frozen):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(mode == "train").requires_grad_(not frozen)
    inputs, mask = draws(3, 5, 8).float(), torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    signals = measure(model, {"src": inputs, "src_key_padding_mask": mask}, None, mean_square)
    parts = ["self_attn", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"]
    assert [layer.name for layer in signals.layers] == [
        f"layers.{i}.{part}" for i in (0, 1) for part in parts
    ]
    assert all(math.isnan(layer.activation_gradient_norm) == frozen for layer in signals.layers)
    assert any("No gradient at all" in note for note in signals.notes) == frozen
    blocks = measure(model, inputs, None, mean_square, layers=nn.TransformerEncoderLayer)
    assert [layer.name for layer in blocks.layers] == ["layers.0", "layers.1"]


def test_integer_inputs_to_an_embedding_and_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.readout = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.readout.weight = self.embedding.weight

        def forward(self, tokens):
            return self.readout(self.embedding(tokens))

    model, tokens = Tied(), torch.tensor([[0, 1], [2, 6]])
    signals = measure(model, tokens, tokens, lambda out, t: F.cross_entropy(out.flatten(0, 1), t.flatten()))
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    embedding, readout = signals.layers
    norm = model.embedding.weight.grad.norm().item()
    assert embedding.weight_gradient_norm == readout.weight_gradient_norm == pytest.approx(norm, rel=1e-5)
    assert [parameter.name for parameter in signals.parameters] == ["embedding.weight"]
    (note,) = signals.notes
    assert note.startswith("One parameter under several names")
    assert note.endswith("embedding.weight, readout.weight.")
    sparse = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 2))
    assert measure(sparse, tokens, None, mean_square).layers[0].weight_gradient_norm > 0


def test_frozen_unused_uncalled_and_detached_parts_are_reported():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.trunk, self.lost, self.detached, self.head = (nn.Linear(3, 3) for _ in range(4))
            self.uncalled, self.inside_no_grad = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = self.trunk(self.frozen(x))
            self.lost(x)
            with torch.no_grad():
                y = self.inside_no_grad(x)
            return self.head(x + y + self.detached(x).detach())

    signals = measure(Parts(), draws(4, 3).float(), None, mean_square, learning_rate=0.1)
    layers = by_name(signals)
    assert list(layers) == ["frozen", "trunk", "lost", "inside_no_grad", "detached", "head"]
    for name, layer in layers.items():
        assert math.isnan(layer.activation_gradient_norm) == (name not in ("trunk", "head"))
        assert math.isnan(layer.weight_gradient_norm) == (name not in ("trunk", "head"))
        assert math.isnan(layer.update_ratio) == (name not in ("trunk", "head"))
        assert layer.activation_variance > 0
    assert signals.notes == (
        "No activation gradient, for nothing trainable comes before the output: frozen.",
        "No activation gradient, for the loss does not depend on the output (unused, or detached later): "
        "lost, detached.",
        "No activation gradient, for the output is detached although parameters inside are trainable: "
        "inside_no_grad.",
        "Not measured, for it is not called as a module: uncalled.",
        "Frozen: frozen.weight, frozen.bias.",
        "No weight gradient, for the loss does not depend on it: lost.weight, lost.bias, detached.weight, "
        "detached.bias, uncalled.weight, uncalled.bias, inside_no_grad.weight, inside_no_grad.bias.",
    )
    frozen = {parameter.name for parameter in signals.parameters if parameter.frozen}
    assert frozen == {"frozen.weight", "frozen.bias"}
    named = measure(Parts(), draws(4, 3).float(), None, mean_square, layers=["uncalled", "head"])
    assert [layer.name for layer in named.layers] == ["head"]
    assert "Not measured, for it is not called as a module: uncalled." in named.notes


def test_a_long_list_of_names_is_cut():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(6)], nn.Linear(2, 2)).requires_grad_(False)
    model[6].requires_grad_(True)
    notes = measure(model, draws(3, 2).float(), None, mean_square).notes
    assert notes[1].endswith("3.weight, 3.bias and 4 more.")


def test_losses_that_are_detached_or_not_finite_are_reported():
    model, inputs = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), draws(4, 3).float()
    signals = measure(model, inputs, None, lambda out: mean_square(out.detach()))
    assert signals.notes[0].startswith("No gradient at all, for the loss is detached")
    assert np.isnan(signals.series("activation_gradient_norm")).all()
    assert not np.isnan(signals.series("activation_variance")).any()
    signals = measure(model, inputs, None, lambda out: mean_square(out) * math.nan)
    assert signals.notes[:2] == (
        "The loss is nan.",
        "NaN or infinity in the gradient, here first on the way back: 1.",
    )
    assert math.isnan(signals.loss)
    assert math.isnan(signals.layers[0].weight_gradient_norm)
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    signals = measure(model, inputs, None, mean_square)
    assert "NaN or infinity in the output, here first: 0." in signals.notes


def test_layers_are_what_calls_no_other_module():
    class Weights(nn.Module):
        """Keeps its weights in a ParameterList, a child that is never called."""

        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.eye(3) for _ in range(2)])

        def forward(self, x):
            return x @ self.weights[0] @ self.weights[1]

    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3, bias=False))
    model = nn.Sequential(Weights(), normed, spectral, nn.Sequential(nn.Linear(3, 2)))
    signals = measure(model, draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["0", "1", "2", "3.0"]
    assert signals.layers[0].weight_norm == pytest.approx(math.sqrt(6))
    assert signals.notes == ()
    (alone,) = measure(nn.Linear(3, 2), draws(4, 3).float(), None, mean_square).layers
    assert (alone.name, alone.kind) == ("(model)", "Linear")


def test_an_error_that_the_model_catches():
    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad, self.good = nn.Linear(99, 2), nn.Linear(3, 2)

        def forward(self, x):
            try:
                return self.bad(x)
            except RuntimeError:
                return self.good(x)

    signals = measure(Catches(), draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["good"]


def test_checkpoints_second_derivatives_and_calls_from_the_loss_are_not_recorded_twice():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(lambda z: torch.tanh(self.linear(z)), x, use_reentrant=False)

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(self.linear(x)).sum(), x, create_graph=True)
            return slope

    inputs = draws(4, 3).float()

    def loss_that_calls_the_model(model):
        def loss(outputs):
            x = inputs.clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(model.linear(x)).sum(), x, create_graph=True)
            torch.autograd.grad(outputs.sum(), model.linear.weight, retain_graph=True)
            return mean_square(outputs) + 0 * mean_square(slope)

        return loss

    for model in (Checkpointed(), Slope()):
        kept = []

        def keep(module, arguments, output, kept=kept):
            output.retain_grad()
            kept.append(output)

        handle = model.linear.register_forward_hook(keep)
        outputs = model(inputs)
        kept[0].grad = None  # that of the derivative inside the model
        mean_square(outputs).backward()
        handle.remove()
        expected = kept[0].grad.norm().item()
        for loss in (mean_square, loss_that_calls_the_model(model)):
            (layer,) = measure(model, inputs, None, loss, layers="linear").layers
            assert layer.name == "linear"
            assert layer.activation_gradient_norm == pytest.approx(expected, rel=1e-5)


def test_vmap_inside_a_model_is_reported():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.outer(torch.vmap(self.inner)(x))

    signals = measure(Mapped(), draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["outer"]
    assert any(note.startswith("Not measured") and "inner" in note for note in signals.notes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_in_other_dtypes(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    exact = copy.deepcopy(model).double()
    inputs = draws(16, 6).to(dtype)
    signals = measure(model, inputs, None, lambda out: out.float().square().mean())
    expected = measure(exact, inputs.double(), None, mean_square)
    for name in ("activation_variance", "cosine", "activation_gradient_norm", "weight_gradient_norm"):
        np.testing.assert_allclose(signals.series(name), expected.series(name), rtol=0.05, atol=0.01)


def test_complex_weights():
    model = nn.Linear(3, 2, dtype=torch.complex64)
    signals = measure(model, draws(4, 3).to(torch.complex64), None, lambda out: out.abs().mean())
    assert signals.layers == ()
    assert signals.parameters[0].norm == pytest.approx(
        model.weight.detach().abs().square().sum().sqrt().item()
    )
    assert signals.parameters[0].gradient_norm > 0


def test_convolutions():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2)
    )
    signals = measure(model, draws(5, 1, 4, 4).float(), None, mean_square, learning_rate=0.1)
    assert signals.notes == ()
    assert [layer.kind for layer in signals.layers] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert not np.isnan(signals.series("activation_gradient_norm")).any()


def test_several_arguments_by_position_and_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x, scale=1.0, shift=None):
            return self.linear(x) * scale + (0 if shift is None else shift)

    model, inputs, shift = Two(), draws(4, 3).float(), torch.ones(2)
    losses = [
        measure(model, given, None, mean_square).loss
        for given in ((inputs, 2.0, shift), [inputs, 2.0, shift], {"x": inputs, "scale": 2.0, "shift": shift})
    ]
    assert losses == [mean_square(model(inputs, 2.0, shift)).item()] * 3


# --- Sentences ---------------------------------------------------------------------------------------------


def model_and_inputs():
    return nn.Linear(3, 2), torch.ones(4, 3)


class Lists(nn.Module):
    def forward(self, x):
        return [x]


BAD = {
    "no model": (
        lambda m, x: measure("m", x, None, mean_square),
        TypeError,
        "model must be a torch.nn.Module, and not TorchScript, got str.",
    ),
    "no inputs": (
        lambda m, x: measure(m, 3, None, mean_square),
        TypeError,
        "inputs must be a tensor, a tuple of positional arguments, or a dict of keyword arguments, got int.",
    ),
    "empty": (
        lambda m, x: measure(m, x[:0], None, mean_square),
        ValueError,
        "inputs must hold at least one example, got shape (0, 3).",
    ),
    "NaN": (
        lambda m, x: measure(m, x * math.nan, None, mean_square),
        ValueError,
        "inputs must not contain NaN, got it in 12 places.",
    ),
    "integers": (
        lambda m, x: measure(m, x.long(), None, mean_square),
        TypeError,
        "inputs must have the dtype of the model, torch.float32, got torch.int64.",
    ),
    "double": (
        lambda m, x: measure(m, x.double(), None, mean_square),
        TypeError,
        "inputs must have the dtype of the model, torch.float32, got torch.float64.",
    ),
    "no loss": (
        lambda m, x: measure(m, x),
        TypeError,
        "loss_fn must be a function of (outputs, targets), or of (outputs) when there are no targets, "
        "such as torch.nn.functional.cross_entropy; got None.",
    ),
    "loss of many": (
        lambda m, x: measure(m, x, None, lambda h: h),
        ValueError,
        "loss_fn must return one number, such as a mean, got shape (4, 2).",
    ),
    "loss no tensor": (
        lambda m, x: measure(m, x, None, lambda h: h.sum().item()),
        TypeError,
        "loss_fn must return a floating-point tensor (without .item()), got float.",
    ),
    "loss an integer": (
        lambda m, x: measure(m, x, None, lambda h: h.argmax()),
        TypeError,
        "loss_fn must return a floating-point tensor (without .item()), got torch.int64.",
    ),
    "learning rate": (
        lambda m, x: measure(m, x, None, mean_square, learning_rate=-1.0),
        ValueError,
        "learning_rate must be a finite number of at least 0.0, got -1.0.",
    ),
    "unknown layer": (
        lambda m, x: measure(DeepMLP(1, 2), x, None, mean_square, layers="block.0"),
        ValueError,
        "layers must be names or classes of modules in the model, which are (model), blocks, blocks.0, "
        "blocks.0.linear, blocks.0.activation, readout; got 'block.0'.",
    ),
    "unknown class": (
        lambda m, x: measure(DeepMLP(1, 2), x, None, mean_square, layers=nn.Conv2d),
        ValueError,
        "layers must be names or classes of modules in the model, which are Block, DeepMLP, Linear, "
        "ModuleList, Tanh; got <class 'torch.nn.modules.conv.Conv2d'>.",
    ),
    "neither": (
        lambda m, x: measure(m, x, None, mean_square, layers=[3]),
        ValueError,
        "layers must be names or classes of modules in the model, which are (model); got 3.",
    ),
    "not iterable": (
        lambda m, x: measure(m, x, None, mean_square, layers=3),
        TypeError,
        "layers must be None, names or classes of modules, got 3.",
    ),
    "lazy": (
        lambda m, x: measure(nn.Sequential(nn.LazyLinear(2)), x, None, mean_square),
        ValueError,
        "The model must have values, got none yet for 0.weight: run it once before.",
    ),
    "meta": (
        lambda m, x: measure(nn.Linear(3, 2, device="meta"), x, None, mean_square),
        ValueError,
        "The model must have values, got none yet for weight: run it once before.",
    ),
    "batch of one": (
        lambda m, x: measure(nn.BatchNorm1d(3), x[:1], None, mean_square),
        ValueError,
        "Batch normalization in train mode needs at least 2 examples, got 1: "
        "give a batch, or call model.eval().",
    ),
    "jacobian of a batch of one": (
        lambda m, x: jacobian_singular_values(nn.BatchNorm1d(3), x[0]),
        ValueError,
        "Batch normalization in train mode needs at least 2 examples, got 1: "
        "give a batch, or call model.eval().",
    ),
    "jacobian by integers": (
        lambda m, x: jacobian_singular_values(m, x.long()),
        TypeError,
        "inputs must be floating-point to be differentiated, got torch.int64.",
    ),
    "jacobian by no tensor": (
        lambda m, x: jacobian_singular_values(m, [1.0]),
        TypeError,
        "inputs must be a torch.Tensor, got list.",
    ),
    "jacobian at infinity": (
        lambda m, x: jacobian_singular_values(m, x / 0),
        ValueError,
        "inputs must be finite, got NaN or infinity in 12 places.",
    ),
    "jacobian of a number": (
        lambda m, x: jacobian_singular_values(m, x[0, 0]),
        ValueError,
        "inputs must hold at least one example, got shape ().",
    ),
    "jacobian of another dtype": (
        lambda m, x: jacobian_singular_values(m, x.double()),
        TypeError,
        "inputs must have the dtype of the model, torch.float32, got torch.float64.",
    ),
    "jacobian of nothing": (
        lambda m, x: jacobian_singular_values(nn.Sequential(m, Argmax()), x),
        ValueError,
        "The model must return rows of floating-point numbers that depend on the inputs, "
        "4 as the inputs; got none.",
    ),
    "jacobian of a sum": (
        lambda m, x: jacobian_singular_values(nn.Sequential(m, nn.Flatten(0)), x),
        ValueError,
        "The model must return rows of floating-point numbers that depend on the inputs, "
        "4 as the inputs; got shape (8,).",
    ),
    "jacobian of no model": (
        lambda m, x: jacobian_singular_values(None, x),
        TypeError,
        "model must be a torch.nn.Module, and not TorchScript, got NoneType.",
    ),
    "flow of other shapes": (
        lambda m, x: flow(torch.ones(2, 3, 3), torch.ones(4, 2), "tanh", torch.ones(4, 3)),
        ValueError,
        None,
    ),
    "unknown format": (lambda m, x: running_product(0.5, 3, "float8"), ValueError, None),
    "no factors": (lambda m, x: running_product(0.5, 0, "float16"), ValueError, None),
    "no matrices": (lambda m, x: matrix_products(torch.ones(3, 3)), ValueError, None),
    "integer matrices": (lambda m, x: matrix_products(torch.ones(2, 3, 3).long()), TypeError, None),
}


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(1)


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_raise_one_clear_sentence(case):
    call, error, sentence = BAD[case]
    with pytest.raises(error) as raised:
        call(*model_and_inputs())
    assert type(raised.value) is error
    if sentence is not None:
        assert str(raised.value) == sentence
    assert re.fullmatch(r"[^\n]+\.", str(raised.value))


def test_inference_mode_is_refused_in_a_sentence():
    model, inputs = model_and_inputs()
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=r"inference_mode\(\) forbids gradients: measure outside"):
            measure(model, inputs, None, mean_square)
        made_inside, inputs_inside = model_and_inputs()
    with pytest.raises(ValueError, match="weight was made in inference mode, which forbids gradients: clone"):
        measure(made_inside, inputs, None, mean_square)
    with pytest.raises(
        ValueError, match="inputs were made in inference mode, which forbids gradients: clone"
    ):
        measure(model, inputs_inside, None, mean_square)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match="and not TorchScript, got RecursiveScriptModule"):
        measure(torch.jit.script(nn.Linear(3, 2)), torch.ones(4, 3), None, mean_square)


def test_the_models_own_errors_pass_unchanged():
    error = RuntimeError("of the model itself, of whatever type")

    class Fails(nn.Linear):
        def forward(self, x):
            raise error

    for call in (
        lambda m: measure(m, torch.ones(4, 3), None, mean_square),
        lambda m: jacobian_singular_values(m, torch.ones(4, 3)),
    ):
        with pytest.raises(RuntimeError) as raised:
            call(Fails(3, 2))
        assert raised.value is error
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        measure(nn.Linear(3, 2), torch.ones(4, 5), None, mean_square)


# --- Jacobians ---------------------------------------------------------------------------------------------


def test_singular_values_of_a_linear_map_are_those_of_its_weight():
    model = nn.Linear(5, 3).double()
    expected = np.linalg.svd(model.weight.detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(jacobian_singular_values(model, draws(5)), expected)
    for row in jacobian_singular_values(model, draws(4, 5)):
        np.testing.assert_allclose(row, expected)
    assert jacobian_singular_values(model.float(), draws(5).float()).dtype == np.float64


MODELS = {
    "mlp": lambda: DeepMLP(3, 6, in_features=4, normalization="layer", skip=True, dtype=torch.float64),
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 6), nn.ReLU(inplace=True)),
    "batch norm, eval": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()).eval(),
    "frozen": lambda: nn.Sequential(nn.Linear(4, 6), nn.Sigmoid()).requires_grad_(False),
    "tuple": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.GRU(2, 3, batch_first=True)),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.GELU()),
}


@pytest.mark.parametrize("name", MODELS)
def test_singular_values_agree_with_torch_func(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    batch = draws(3, 4)

    def outputs(x):
        found = model(x[None].clone())
        return (found if isinstance(found, torch.Tensor) else found[0]).flatten()

    values = jacobian_singular_values(model, batch)
    for row, x in zip(values, batch, strict=True):
        jacobian = torch.autograd.functional.jacobian(outputs, x)
        np.testing.assert_allclose(row, torch.linalg.svdvals(jacobian), atol=1e-12)
        assert (np.diff(row) <= 0).all()
    np.testing.assert_allclose(jacobian_singular_values(model, batch[1]), values[1], atol=1e-12)


def test_batch_normalization_in_train_mode_holds_the_other_examples_fixed():
    model, batch = nn.BatchNorm1d(3).double(), draws(5, 3)

    def first(x):
        return copy.deepcopy(model)(torch.cat([x[None], batch[1:]]))[0]

    expected = torch.linalg.svdvals(torch.autograd.functional.jacobian(first, batch[0]))
    np.testing.assert_allclose(jacobian_singular_values(model, batch)[0], expected)


def test_jacobians_that_are_not_finite_or_zero():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = math.inf
    assert np.isnan(jacobian_singular_values(model, torch.ones(3))).all()

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.bias.expand(len(x), 2)

    assert jacobian_singular_values(Constant(), torch.ones(4, 3)).tolist() == [[0.0, 0.0]] * 4


# --- What the explorers move -------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_flow_agrees_with_measure(activation):
    weights, inputs, arriving = draws(4, 6, 6), draws(5, 6, seed=1), draws(5, 6, seed=2)
    activation_rms, gradient_rms = flow(weights, inputs, activation, arriving)
    model = DeepMLP(4, 6, in_features=6, activation=activation, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for block, weight in zip(model.blocks, weights, strict=True):
            block.linear.weight.copy_(weight.T)
    blocks = nn.Sequential(*model.blocks)
    signals = measure(blocks, inputs, None, lambda out: (out * arriving).sum(), layers=Block)
    mean, variance = signals.series("activation_mean"), signals.series("activation_variance")
    np.testing.assert_allclose(activation_rms, np.sqrt(variance + mean**2))
    np.testing.assert_allclose(gradient_rms, signals.series("activation_gradient_rms"))


def test_running_products():
    assert running_product(0.5, 4, "float32").tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert running_product(0.25, 13, "float16")[-1] == 0.0
    matrices = draws(2, 3, 4, 4)
    products = matrix_products(matrices)
    torch.testing.assert_close(products[1, 2], matrices[1, 2] @ matrices[1, 1] @ matrices[1, 0])
    torch.testing.assert_close(products[:, 0], matrices[:, 0])


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


# --- Transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_placement", ["pre", "post", None])
def test_our_transformer_is_measured_block_by_block(norm_placement):
    model = Transformer(3, 8, num_heads=2, norm_placement=norm_placement, dtype=torch.float64)
    inputs = draws(4, 8, 8, seed=1)
    signals = measure(model, inputs, None, mean_square, layers=TransformerBlock)
    assert [layer.name for layer in signals.layers] == ["blocks.0", "blocks.1", "blocks.2"]
    assert not signals.notes
    stream = [model.embedding(inputs) + model.positions]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    for h in stream:
        h.retain_grad()
    last = stream[-1] if model.norm is None else model.norm(stream[-1])
    mean_square(model.readout(last.mean(dim=1))).backward()
    for layer, h, block in zip(signals.layers, stream[1:], model.blocks, strict=True):
        weights = [p.grad.norm().item() for p in block.parameters() if p.ndim > 1]
        assert layer.activation_variance == pytest.approx(h.var(correction=0).item())
        assert layer.activation_gradient_norm == pytest.approx(h.grad.norm().item())
        assert layer.weight_gradient_norm == pytest.approx(math.hypot(*weights))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_any_encoder_of_torch_is_measured_as_it_comes(norm_first, batch_first, activation):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, 0.1, activation, norm_first=norm_first, batch_first=batch_first
    )
    model = nn.TransformerEncoder(layer, 3, nn.LayerNorm(8), enable_nested_tensor=False)
    inputs, state = draws(4, 5, 8).float(), copy.deepcopy(model.state_dict())
    model.eval()
    signals = measure(model, inputs, None, mean_square_of_half, layers=nn.TransformerEncoderLayer)
    assert [layer.name for layer in signals.layers] == ["layers.0", "layers.1", "layers.2"]
    h, stream = inputs, []
    for block in model.layers:
        h = block(h)
        h.retain_grad()
        stream.append(h)
    mean_square_of_half(model.norm(h)).backward()
    for found, h in zip(signals.layers, stream, strict=True):
        assert found.activation_variance == pytest.approx(h.var(correction=0).item(), rel=1e-5)
        assert found.activation_gradient_norm == pytest.approx(h.grad.norm().item(), rel=1e-4)
    by_parameter = {parameter.name: parameter.gradient_norm for parameter in signals.parameters}
    for name, parameter in model.named_parameters():
        assert by_parameter[name] == pytest.approx(parameter.grad.norm().item(), rel=1e-4, abs=1e-9)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def mean_square_of_half(outputs):
    """Of half of the features: of all, a normalized output has a mean square of 1, whatever it is."""
    return outputs[..., :4].square().mean()


# Recurrent networks


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_cell_that_is_called_once_for_each_step_is_measured_once_for_each_step(cell):
    """The gradient by the state after each step, against autograd on the same steps written out."""
    model = RecurrentNetwork(cell, 5, in_features=3, out_features=2, seed=0, dtype=torch.float64)
    inputs = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = measure(model, inputs, loss_fn=lambda outputs: outputs.square().mean(), layers="cell")
    assert [layer.name for layer in found.layers] == ["cell", *(f"cell#{k}" for k in range(2, 7))]
    state, outputs = model.cell.start(4), []
    for x in inputs.unbind(dim=1):
        state = model.cell(x, state)
        outputs.append(state[0] if cell == "lstm" else state)
    loss = model.readout(outputs[-1]).square().mean()
    gradients = torch.autograd.grad(loss, outputs)
    norms = [gradient.norm().item() for gradient in gradients]
    np.testing.assert_allclose(found.series("activation_gradient_norm"), norms, rtol=1e-9)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_network_of_torch_is_measured_as_it_comes(kind):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = kind(3, 5, batch_first=True, dtype=torch.float64)
            self.readout = nn.Linear(5, 2, dtype=torch.float64)

        def forward(self, x):
            return self.readout(self.recurrent(x)[0][:, -1])

    torch.manual_seed(0)
    model, inputs = Reader(), torch.randn(4, 6, 3, dtype=torch.float64)
    found = measure(model, inputs, loss_fn=lambda outputs: outputs.square().mean())
    assert [layer.kind for layer in found.layers] == [kind.__name__, "Linear"]
    model(inputs).square().mean().backward()
    norms = [p.grad.norm().item() for p in model.recurrent.parameters() if p.ndim > 1]
    assert found.layers[0].weight_gradient_norm == pytest.approx(np.linalg.norm(norms))
