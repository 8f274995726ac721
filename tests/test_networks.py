"""The networks compute what a reader of the class would write down by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.data import DTYPES, gaussian_batch, seeded_generator
from gradients_in_depth.initialization import SCHEMES, initialize
from gradients_in_depth.networks import (
    CELLS,
    NORMALIZATIONS,
    Block,
    DeepMLP,
    RecurrentNetwork,
    SelfAttention,
    Transformer,
    TransformerBlock,
)
from gradients_in_depth.signals import measure
from gradients_in_depth.theory import ACTIVATIONS


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


# Transformers


def tokens(batch=3, count=5, d_model=8, seed=0):
    return gaussian_batch(batch * count, d_model, seed=seed).reshape(batch, count, d_model)


def with_weights_of(layer, num_heads, norm_placement):
    """Our block with the weights of a layer of torch."""
    block = TransformerBlock(8, num_heads, layer.linear1.out_features, norm_placement=norm_placement).double()
    weights, biases = layer.self_attn.in_proj_weight.chunk(3), layer.self_attn.in_proj_bias.chunk(3)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        getattr(block.attention, name).load_state_dict({"weight": weight, "bias": bias})
    pairs = [
        (block.attention.output, layer.self_attn.out_proj),
        (block.feed_forward[0], layer.linear1),
        (block.feed_forward[2], layer.linear2),
        (block.attention_norm, layer.norm1),
        (block.feed_forward_norm, layer.norm2),
    ]
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    return block


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("norm_placement", ["pre", "post"])
def test_a_block_is_the_encoder_layer_of_torch(norm_placement, num_heads):
    torch.manual_seed(num_heads)
    layer = nn.TransformerEncoderLayer(
        8, num_heads, 12, 0.0, norm_first=norm_placement == "pre", batch_first=True, dtype=torch.float64
    )
    for parameter in layer.parameters():  # norms and biases are 1 and 0 in a new layer: any mix-up would pass
        nn.init.normal_(parameter, std=0.5)
    block = with_weights_of(layer, num_heads, norm_placement)
    results = []
    for module in (layer, block):
        x = tokens().requires_grad_()
        out = module(x)
        results.append((out, *torch.autograd.grad(out.pow(3).sum(), x)))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_attention_by_hand():
    attention = SelfAttention(4, 2).double()
    x = tokens(1, 3, 4)
    q, k, v = (numbers(getattr(attention, n)(x))[0] for n in ("query", "key", "value"))
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        e = np.exp(q[:, part] @ k[:, part].T / np.sqrt(2))
        heads.append(e / e.sum(axis=1, keepdims=True) @ v[:, part])
    expected = np.hstack(heads) @ numbers(attention.output.weight).T + numbers(attention.output.bias)
    np.testing.assert_allclose(numbers(attention(x))[0], expected, rtol=1e-10)


@pytest.mark.parametrize("norm_placement", ["pre", "post", None])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_block_places_norm_skip_and_scale(norm_placement, skip, norm):
    block = TransformerBlock(
        8, norm_placement=norm_placement, skip=skip, branch_scale=0.5, norm=norm
    ).double()
    after = x = tokens()

    def normalized_(z):
        if norm == "layer":
            return torch.nn.functional.layer_norm(z, (8,))
        return z / (z.square().mean(-1, keepdim=True) + torch.finfo(z.dtype).eps).sqrt()

    for branch in (block.attention, block.feed_forward):
        added = 0.5 * branch(normalized_(after) if norm_placement == "pre" else after)
        after = after + added if skip else added
        after = normalized_(after) if norm_placement == "post" else after
    torch.testing.assert_close(block(x), after)


def test_deepnorm_is_a_branch_scale():
    # The norm does not see a common factor, but for its eps of 1e-5, which is added to a variance of about 1.
    x, alpha = tokens(), 3.0
    block = TransformerBlock(8, norm_placement="post", dim_feedforward=0, branch_scale=1 / alpha).double()
    expected = torch.nn.functional.layer_norm(alpha * x + block.attention(x), (8,))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_without_feed_forward_there_is_attention_alone():
    block = TransformerBlock(8, dim_feedforward=0, skip=False, norm_placement=None).double()
    assert torch.equal(block(tokens()), block.attention(tokens()))


def test_qk_norm_makes_the_size_of_queries_and_keys_drop_out():
    for qk_norm in (True, False):
        attention = SelfAttention(8, 2, qk_norm=qk_norm).double()
        for linear in (attention.query, attention.key):
            nn.init.zeros_(linear.bias)
        before = attention.logits(tokens())
        assert before.shape == (3, 2, 5, 5)
        with torch.no_grad():
            attention.query.weight.mul_(7)
        ratio = attention.logits(tokens()) / before
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1.0 if qk_norm else 7.0))


def test_one_seed_gives_the_same_transformer_weights_in_every_dtype_norm_and_scale():
    one = Transformer(2, 8, seed=3, dtype=torch.float64)
    state = torch.get_rng_state()
    for settings in ({"norm_placement": "post"}, {"skip": False, "branch_scale": 0.1}, {"norm": "rms"}):
        other = Transformer(2, 8, seed=3, dtype=torch.float32, **settings)
        for name, parameter in other.named_parameters():
            if name in dict(one.named_parameters()):
                torch.testing.assert_close(parameter.double(), one.get_parameter(name), rtol=1e-6, atol=1e-7)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(Transformer(2, 8, seed=4, dtype=torch.float64).positions, one.positions)


def test_gain_scales_values_outputs_and_feed_forward_only():
    one, other = Transformer(1, 8, seed=1), Transformer(1, 8, seed=1, gain=0.5)
    scaled = set()
    for name, weight in one.named_parameters():
        if weight.ndim == 2 and not torch.equal(weight, other.get_parameter(name)):
            torch.testing.assert_close(other.get_parameter(name), 0.5 * weight)
            scaled.add(name.removeprefix("blocks.0.").removesuffix(".weight"))
    assert scaled == {"attention.value", "attention.output", "feed_forward.0", "feed_forward.2"}


@pytest.mark.parametrize("placement", ["pre", "post", None])
def test_transformer_is_embedding_blocks_norm_and_readout(placement):
    model = Transformer(2, 8, num_heads=2, in_features=3, tokens=5, out_features=4, norm_placement=placement)
    inputs = tokens(2, 5, 3).float()
    x = model.embedding(inputs) + model.positions
    for block in model.blocks:
        x = block(x)
    x = torch.nn.functional.layer_norm(x, (8,)) if placement == "pre" else x
    torch.testing.assert_close(model(inputs), model.readout(x.mean(dim=1)))
    assert model(inputs).shape == (2, 4)


@pytest.mark.parametrize("settings", [{}, {"norm": "rms", "qk_norm": True}, {"norm_placement": "post"}])
def test_a_transformer_runs_side_by_side(settings):
    models = [Transformer(2, 8, num_heads=2, seed=s, dtype=torch.float64, **settings) for s in (0, 1)]
    state = torch.func.stack_module_state(models)
    inputs = tokens(4, 8, 8)
    found = torch.func.vmap(
        lambda p, b: torch.func.functional_call(models[0], (p, b), (inputs,)), in_dims=(0, 0)
    )(*state)
    torch.testing.assert_close(found, torch.stack([model(inputs) for model in models]))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"depth": 0}, ValueError, "depth must be an integer of at least 1, got 0."),
        ({"d_model": 0}, ValueError, "d_model must be an integer of at least 1, got 0."),
        ({"tokens": 0}, ValueError, "tokens must be an integer of at least 1, got 0."),
        ({"num_heads": 3}, ValueError, "num_heads must divide d_model, got 3 heads for 8 features."),
        ({"dim_feedforward": -1}, ValueError, "dim_feedforward must be an integer of at least 0, got -1."),
        ({"norm_placement": "mid"}, ValueError, "norm_placement must be one of pre, post, None; got 'mid'."),
        ({"norm": "batch"}, ValueError, "norm must be one of layer, rms; got 'batch'."),
        ({"skip": 1}, TypeError, "skip must be True or False, got 1."),
        ({"qk_norm": None}, TypeError, "qk_norm must be True or False, got None."),
        ({"branch_scale": "1"}, TypeError, "branch_scale must be a finite number, got '1'."),
    ],
)
def test_a_bad_transformer_argument_gets_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as caught:
        Transformer(**{"depth": 2, "d_model": 8} | arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("inputs", "error", "sentence"),
    [
        ([1.0], TypeError, "inputs must be a tensor of the network's dtype torch.float32, got list."),
        (
            tokens(2, 8, 8),
            TypeError,
            "inputs must be a tensor of the network's dtype torch.float32, got torch.float64.",
        ),
        (
            tokens(2, 7, 8).float(),
            ValueError,
            "inputs must have shape (batch, 8, 8) with batch >= 1, got (2, 7, 8).",
        ),
    ],
)
def test_bad_transformer_inputs_get_one_sentence(inputs, error, sentence):
    with pytest.raises(error) as caught:
        Transformer(1, 8)(inputs)
    assert str(caught.value) == sentence


def test_a_block_names_the_shape_that_it_takes():
    with pytest.raises(ValueError) as caught:
        TransformerBlock(8)(torch.zeros(2, 8))
    assert str(caught.value) == "inputs must have shape (batch, tokens, 8), got (2, 8)."


# Recurrent networks

TORCHS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def torchs_own(cell: str, model: RecurrentNetwork) -> nn.Module:
    """PyTorch's network with the model's weights."""
    own = TORCHS[cell](3, 8, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for theirs, ours in (("ih", model.cell.from_input), ("hh", model.cell.from_state)):
            getattr(own, f"weight_{theirs}_l0").copy_(ours.weight)
            getattr(own, f"bias_{theirs}_l0").copy_(ours.bias)
    return own


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [1, 7])
def test_recurrent_networks_equal_those_of_torch(cell, length):
    model = RecurrentNetwork(cell, 8, in_features=3, out_features=2, seed=1, dtype=torch.float64)
    with torch.no_grad():  # biases, too, that differ in all places
        model.cell.from_input.bias += gaussian_batch(1, len(model.cell.from_input.bias), seed=2)[0]
        model.cell.from_state.bias += gaussian_batch(1, len(model.cell.from_state.bias), seed=3)[0]
    own, inputs = torchs_own(cell, model), gaussian_batch(5 * length, 3, seed=4).reshape(5, length, 3)
    last = own(inputs)[0][:, -1]
    torch.testing.assert_close(model(inputs), model.readout(last), rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(model(inputs).square().sum(), model.cell.from_state.weight)
    theirs = torch.autograd.grad(model.readout(own(inputs)[0][:, -1]).square().sum(), own.weight_hh_l0)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, -2.5])
def test_the_forget_bias_is_in_the_rows_of_the_forget_gate_alone(forget_bias):
    cell = RecurrentNetwork("lstm", 5, forget_bias=forget_bias).cell
    assert cell.from_input.bias.tolist() == [0.0] * 5 + [forget_bias] * 5 + [0.0] * 10
    assert not cell.from_state.bias.any()
    h, c = cell(torch.zeros(2, 4), (torch.zeros(2, 5), torch.ones(2, 5)))
    torch.testing.assert_close(c, torch.full((2, 5), torch.sigmoid(torch.tensor(forget_bias)).item()))


@pytest.mark.parametrize("cell", CELLS)
def test_each_gate_has_its_own_rotation(cell):
    gates = RecurrentNetwork(cell, 6, gain=1.5, dtype=torch.float64).cell.from_state.weight.detach().split(6)
    for gate in gates:
        torch.testing.assert_close(gate @ gate.T, 1.5**2 * torch.eye(6, dtype=torch.float64))
    assert all(not torch.allclose(gates[0], gate) for gate in gates[1:])


def test_recurrent_networks_are_decided_by_their_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (RecurrentNetwork("gru", 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert name.endswith("bias") or not torch.equal(a, c)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_networks_run_side_by_side(cell):
    models = [RecurrentNetwork(cell, 4, seed=seed, dtype=torch.float64) for seed in range(3)]
    inputs = gaussian_batch(10, 4, seed=0).reshape(2, 5, 4)
    state = torch.func.stack_module_state(models)
    together = torch.func.vmap(lambda s: torch.func.functional_call(models[0], s, (inputs,)))(state)
    torch.testing.assert_close(together, torch.stack([model(inputs) for model in models]))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"cell": "elman"}, ValueError, "cell must be one of rnn, lstm, gru; got 'elman'."),
        ({"width": 0}, ValueError, "width must be an integer of at least 1, got 0."),
        ({"in_features": 0}, ValueError, "in_features must be an integer of at least 1, got 0."),
        ({"out_features": 1.5}, TypeError, "out_features must be an integer of at least 1, got 1.5."),
        ({"gain": "1"}, TypeError, "gain must be a finite number, got '1'."),
        ({"forget_bias": 1.0}, ValueError, "forget_bias is for the cell lstm, but the cell rnn was given."),
        (
            {"cell": "lstm", "forget_bias": float("nan")},
            ValueError,
            "forget_bias must be a finite number, got nan.",
        ),
        ({"seed": -1}, ValueError, "seed must be an integer from 0 to 2**32 - 1, got -1."),
    ],
)
def test_bad_arguments_of_recurrent_networks_get_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as caught:
        RecurrentNetwork(**({"cell": "rnn", "width": 4} | arguments))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("inputs", "error", "sentence"),
    [
        (None, TypeError, "inputs must be a torch.Tensor, got NoneType."),
        (torch.zeros(2, 5, 4).half(), TypeError, "inputs must have the network's dtype torch.float32, got"),
        (
            torch.zeros(2, 4),
            ValueError,
            "inputs must have shape (batch, length, 4) with batch >= 1 and",
        ),
        (torch.zeros(2, 0, 4), ValueError, "inputs must have shape (batch, length, 4) with batch >= 1 and"),
        (torch.zeros(2, 5, 3), ValueError, "inputs must have shape (batch, length, 4) with batch >= 1 and"),
    ],
)
def test_bad_inputs_of_recurrent_networks_get_one_sentence(inputs, error, sentence):
    with pytest.raises(error) as caught:
        RecurrentNetwork("rnn", 4)(inputs)
    assert str(caught.value).startswith(sentence)
