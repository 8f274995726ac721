"""The networks compute what a reader of the class would write down by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.catalogue import ACTIVATIONS, DTYPES
from gradients_in_depth.data import gaussian_batch
from gradients_in_depth.initialization import SCHEMES, initialize
from gradients_in_depth.networks import (
    NORMALIZATIONS,
    Block,
    DeepMLP,
)
from gradients_in_depth.randomness import seeded_generator
from gradients_in_depth.signals import measure


def numbers(parameter):
    return parameter.detach().numpy()


def normalized(z, normalization):
    """The three normalizations in NumPy, as their papers define them (scale 1, shift 0)."""
    if normalization == "batch":
        return (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5)
    if normalization == "layer":
        return (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
    if normalization == "rms":
        return z / np.sqrt((z**2).mean(axis=1, keepdims=True) + np.finfo(z.dtype).eps)
    return z


@pytest.mark.parametrize("branch_scale", [1.0, 0.25])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
def test_forward_equals_a_computation_by_hand(normalization, skip, branch_scale):
    model = DeepMLP(
        3,
        5,
        in_features=4,
        out_features=2,
        normalization=normalization,
        skip=skip,
        branch_scale=branch_scale,
        bias_var=0.3,
        dtype=torch.float64,
    )
    inputs = gaussian_batch(7, 4, seed=1)
    x = inputs.numpy()
    for index, block in enumerate(model.blocks):
        z = x @ numbers(block.linear.weight).T + numbers(block.linear.bias)
        branch = np.tanh(normalized(z, normalization))
        x = x + branch_scale * branch if skip and index > 0 else branch
    expected = x @ numbers(model.readout.weight).T + numbers(model.readout.bias)
    np.testing.assert_allclose(numbers(model(inputs)), expected, rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_one_that_is_named(activation):
    model = DeepMLP(2, 6, in_features=3, activation=activation, gain=2.0, dtype=torch.float64)
    inputs = gaussian_batch(4, 3, seed=0)
    reference = ACTIVATIONS[activation]().double()
    hidden = inputs
    for block in model.blocks:
        hidden = reference(hidden @ block.linear.weight.T)  # the biases are 0
    torch.testing.assert_close(model(inputs), hidden @ model.readout.weight.T)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
def test_pre_activation_equals_a_computation_by_hand(normalization, skip):
    settings = {"normalization": normalization, "skip": skip, "branch_scale": 0.25, "bias_var": 0.3}
    model = DeepMLP(3, 5, in_features=4, out_features=2, pre_activation=True, dtype=torch.float64, **settings)
    inputs = gaussian_batch(7, 4, seed=1)
    stem, *blocks = [(numbers(b.linear.weight), numbers(b.linear.bias)) for b in model.blocks]
    x = inputs.numpy() @ stem[0].T + stem[1]
    for weight, bias in blocks:
        branch = np.tanh(normalized(x, normalization)) @ weight.T + bias
        x = x + 0.25 * branch if skip else branch
    expected = x @ numbers(model.readout.weight).T + numbers(model.readout.bias)
    np.testing.assert_allclose(numbers(model(inputs)), expected, rtol=1e-10)


def test_a_pre_activation_network_begins_with_a_linear_layer_alone_where_the_sizes_differ():
    settings = {"pre_activation": True, "normalization": "batch", "skip": True}
    stem, block = DeepMLP(2, 5, in_features=4, **settings).blocks
    assert isinstance(stem.activation, nn.Identity) and stem.norm is None and not stem.skip
    assert isinstance(block.activation, nn.Tanh) and block.norm is not None and block.skip
    first = DeepMLP(2, 5, in_features=5, **settings).blocks[0]
    assert isinstance(first.activation, nn.Tanh) and first.norm is not None and first.skip


def test_signals_are_measured_at_the_stream_of_a_pre_activation_network():
    settings = {"activation": "relu", "initialization": "he_normal", "pre_activation": True, "skip": True}
    model = DeepMLP(4, 6, in_features=6, out_features=3, branch_scale=0.5, dtype=torch.float64, **settings)
    inputs = gaussian_batch(8, 6, seed=2)
    found = measure(model, inputs, loss_fn=lambda outputs: outputs.square().sum() / 2, layers=Block)
    stream, x = [], inputs
    for block in model.blocks:
        x = (x + 0.5 * torch.relu(x) @ block.linear.weight.T).detach().requires_grad_()
        stream.append(x)
    # Backward by hand: the gradient of the block before is g + 0.5 * relu'(x) * (g W).
    g, norms = (x @ model.readout.weight.T) @ model.readout.weight, []
    for block, before in zip(model.blocks[::-1], [inputs, *stream[:-1]][::-1], strict=True):
        norms.append(g.norm().item())
        g = g + 0.5 * (before > 0) * (g @ block.linear.weight)
    np.testing.assert_allclose(found.series("activation_gradient_norm"), norms[::-1])
    variances = [after.var(correction=0).item() for after in stream]
    np.testing.assert_allclose(found.series("activation_variance"), variances)


def test_a_branch_scale_can_be_learned():
    """ReZero: blocks that start as the identity, and whose scale moves first."""
    model = DeepMLP(3, 6, in_features=6, pre_activation=True, skip=True, dtype=torch.float64)
    for block in model.blocks:
        block.branch_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
    inputs = gaussian_batch(8, 6, seed=2)
    torch.testing.assert_close(model(inputs), model.readout(inputs))
    model(inputs).square().mean().backward()
    assert all(block.branch_scale.grad.abs() > 0 for block in model.blocks)
    assert all(not block.linear.weight.grad.any() for block in model.blocks)
    assert sum(name.endswith("branch_scale") for name, _ in model.named_parameters()) == 3


def test_learned_activations_are_not_shared_between_blocks():
    slopes = [block.activation.weight for block in DeepMLP(3, 4, activation="prelu").blocks]
    assert len({id(slope) for slope in slopes}) == 3


@pytest.mark.parametrize("branch_scale", [0.0, 0.5, 1.0])
def test_the_jacobian_of_a_block_with_a_skip_is_the_identity_plus_that_of_its_branch(branch_scale):
    linear = nn.utils.skip_init(nn.Linear, 6, 6, dtype=torch.float64)
    initialize(linear, "gaussian", generator=seeded_generator(0))
    x = gaussian_batch(1, 6, seed=1)[0]
    with_skip = torch.func.jacrev(Block(linear, nn.Tanh(), skip=True, branch_scale=branch_scale))(x)
    plain = torch.func.jacrev(Block(linear, nn.Tanh()))(x)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(with_skip, torch.eye(6, dtype=torch.float64) + branch_scale * plain)


def test_skips_with_branch_scale_zero_carry_the_gradient_unchanged():
    model = DeepMLP(40, 8, in_features=8, skip=True, branch_scale=0.0, dtype=torch.float64)
    inputs = gaussian_batch(3, 8, seed=0).requires_grad_()
    model(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, model.readout.weight.detach().sum(dim=0).expand(3, 8))


def test_a_skip_is_only_where_the_sizes_agree():
    assert [block.skip for block in DeepMLP(3, 5, in_features=4, skip=True).blocks] == [False, True, True]
    assert [block.skip for block in DeepMLP(3, 5, in_features=5, skip=True).blocks] == [True, True, True]
    assert not any(block.skip for block in DeepMLP(3, 5, in_features=5).blocks)


@pytest.mark.parametrize(("normalization", "axis"), [("batch", 0), ("layer", 1), ("rms", 1)])
def test_a_normalization_normalizes_along_its_axis(normalization, axis):
    model = DeepMLP(1, 50, in_features=20, gain=7.0, bias_var=9.0, normalization=normalization)
    seen = []
    model.blocks[0].norm.register_forward_hook(lambda *arguments: seen.append(arguments[2].detach()))
    model(3 + gaussian_batch(40, 20, seed=0, dtype=torch.float32))
    second_moment = (seen[0] ** 2).mean(dim=axis)
    torch.testing.assert_close(second_moment, torch.ones_like(second_moment), rtol=1e-3, atol=1e-3)
    if normalization != "rms":
        torch.testing.assert_close(seen[0].mean(dim=axis), torch.zeros_like(second_moment), atol=1e-5, rtol=0)


def test_batch_normalization_uses_its_running_statistics_in_evaluation_mode():
    model = DeepMLP(1, 5, in_features=4, normalization="batch", dtype=torch.float64).eval()
    inputs = gaussian_batch(6, 4, seed=0)
    torch.testing.assert_close(model(inputs)[:1], model(inputs[:1]))
    assert not torch.allclose(model(inputs), model.train()(inputs))


@pytest.mark.parametrize("initialization", SCHEMES)
def test_the_layers_are_initialized_in_order_from_the_seed(initialization):
    model = DeepMLP(
        3,
        6,
        in_features=4,
        out_features=2,
        initialization=initialization,
        gain=1.4,
        seed=9,
        dtype=torch.float64,
    )
    generator = seeded_generator(9)
    for linear in [*(block.linear for block in model.blocks), model.readout]:
        expected = copy.deepcopy(linear)
        initialize(expected, initialization, gain=1.4, generator=generator)
        assert torch.equal(linear.weight, expected.weight)
        assert torch.equal(linear.bias, expected.bias)


def test_bias_var_reaches_every_bias_and_bias_false_removes_them():
    model = DeepMLP(3, 400, bias_var=4.0, out_features=400)
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 4
    for bias in biases:
        assert bias.var().item() == pytest.approx(4.0, rel=5 * np.sqrt(2 / 400))
    assert all(name.endswith("weight") for name, _ in DeepMLP(3, 5, bias=False).named_parameters())


def test_the_seed_alone_decides_the_parameters():
    torch.manual_seed(1)
    first = DeepMLP(2, 5, normalization="batch", seed=4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = DeepMLP(2, 5, normalization="batch", seed=4), DeepMLP(2, 5, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.readout.weight, other.readout.weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
def test_one_seed_gives_one_network_in_every_dtype(dtype, normalization):
    settings = {"activation": "prelu", "normalization": normalization, "skip": True}
    exact, rounded = DeepMLP(2, 5, dtype=torch.float64, **settings), DeepMLP(2, 5, dtype=dtype, **settings)
    for one, two in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert two.dtype == dtype
        assert torch.equal(one.to(dtype), two)
    assert rounded(gaussian_batch(6, 64, seed=0, dtype=dtype)).dtype == dtype


def test_the_default_dtype_of_torch_does_not_matter():
    expected = DeepMLP(2, 5, activation="prelu", normalization="layer", dtype=torch.float64)
    torch.set_default_dtype(torch.float16)
    try:
        model = DeepMLP(2, 5, activation="prelu", normalization="layer", dtype=torch.float64)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, two in zip(expected.parameters(), model.parameters(), strict=True):
        assert two.dtype == torch.float64
        assert torch.equal(one, two)


INPUTS = torch.zeros(3, 64)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"depth": 0}, ValueError, "depth must be an integer of at least 1, got 0."),
        ({"depth": 2.0}, TypeError, "depth must be an integer of at least 1, got 2.0."),
        ({"width": 0}, ValueError, "width must be an integer of at least 1, got 0."),
        ({"in_features": 0}, ValueError, "in_features must be an integer of at least 1, got 0."),
        ({"out_features": -1}, ValueError, "out_features must be an integer of at least 1, got -1."),
        (
            {"initialization": "he"},
            ValueError,
            f"initialization must be one of {', '.join(SCHEMES)}; got 'he'.",
        ),
        ({"gain": -1.0}, ValueError, "gain must be a finite number of at least 0, got -1.0."),
        ({"bias": 1}, TypeError, "bias must be True or False, got 1."),
        ({"bias_var": -1.0}, ValueError, "bias_var must be a finite number of at least 0, got -1.0."),
        (
            {"bias": False, "bias_var": 1.0},
            ValueError,
            "bias_var must be 0 for a layer without bias, got 1.0.",
        ),
        (
            {"normalization": "group"},
            ValueError,
            "normalization must be one of None, batch, layer, rms; got 'group'.",
        ),
        ({"skip": "yes"}, TypeError, "skip must be True or False, got 'yes'."),
        ({"pre_activation": 1}, TypeError, "pre_activation must be True or False, got 1."),
        ({"branch_scale": float("nan")}, ValueError, "branch_scale must be a finite number, got nan."),
        ({"seed": -1}, ValueError, "seed must be an integer from 0 to 2**32 - 1, got -1."),
        (
            {"dtype": torch.int32},
            ValueError,
            "dtype must be one of torch.float16, torch.bfloat16, torch.float32, torch.float64; "
            "got torch.int32.",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as caught:
        DeepMLP(**{"depth": 2, "width": 4} | arguments)
    assert str(caught.value) == sentence


def test_an_unknown_activation_gets_a_sentence_that_lists_the_names():
    with pytest.raises(ValueError, match="activation must be one of .*") as caught:
        DeepMLP(2, 4, activation="swish")
    assert "'swish'" in str(caught.value)
    assert all(name in str(caught.value) for name in ACTIVATIONS)


@pytest.mark.parametrize(
    ("inputs", "error", "sentence"),
    [
        (INPUTS.numpy(), TypeError, "inputs must be a torch.Tensor, got ndarray."),
        (
            INPUTS.long(),
            TypeError,
            "inputs must have the network's dtype torch.float32, got torch.int64.",
        ),
        (
            INPUTS.double(),
            TypeError,
            "inputs must have the network's dtype torch.float32, got torch.float64.",
        ),
        (INPUTS[0], ValueError, "inputs must have shape (batch, 64) with batch >= 1, got (64,)."),
        (INPUTS[:0], ValueError, "inputs must have shape (batch, 64) with batch >= 1, got (0, 64)."),
        (INPUTS[:, :5], ValueError, "inputs must have shape (batch, 64) with batch >= 1, got (3, 5)."),
        (
            INPUTS[:1],
            ValueError,
            "Batch normalization needs at least 2 examples in training mode, got a batch of 1.",
        ),
    ],
)
def test_bad_inputs_get_one_sentence(inputs, error, sentence):
    with pytest.raises(error) as caught:
        DeepMLP(2, 4, normalization="batch")(inputs)
    assert str(caught.value) == sentence
    if len(inputs) == 1:  # behind a stem without a norm, too
        with pytest.raises(ValueError, match="at least 2 examples"):
            DeepMLP(2, 4, normalization="batch", pre_activation=True)(inputs)


def test_a_bad_block_gets_one_sentence():
    sentence = "skip needs a linear layer with as many outputs as inputs, got 3 inputs and 4 outputs."
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Block(nn.utils.skip_init(nn.Linear, 3, 4), nn.Tanh(), skip=True)
    with pytest.raises(TypeError, match="^linear must be an nn.Linear, got Tanh.$"):
        Block(nn.Tanh(), nn.Tanh())
    with pytest.raises(TypeError, match="^pre_activation must be True or False, got None.$"):
        Block(nn.utils.skip_init(nn.Linear, 3, 3), nn.Tanh(), pre_activation=None)
