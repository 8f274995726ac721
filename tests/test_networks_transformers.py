"""Transformers compute what torch's own layers do, and what their papers say."""

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.data import gaussian_batch
from gradients_in_depth.networks import (
    SelfAttention,
    Transformer,
    TransformerBlock,
)


def numbers(parameter):
    return parameter.detach().numpy()


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
        ([1.0], TypeError, "inputs must be a torch.Tensor, got list."),
        (
            tokens(2, 8, 8),
            TypeError,
            "inputs must have the network's dtype torch.float32, got torch.float64.",
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
