"""theory.attention: softmax moments and random Transformers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import COUNT, NAN, POSITIVE, VARIANCE, for_all, log_uniform, prints_as


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
        (ValueError, f"keys {COUNT} 0.", theory.softmax_moments, (0, 1.0)),
        (TypeError, f"keys {COUNT} 1.5.", theory.softmax_moments, (1.5, 1.0)),
        (ValueError, f"logit_variance {VARIANCE} -1.", theory.softmax_moments, (4, -1)),
        (ValueError, f"logit_variance {VARIANCE} nan.", theory.softmax_moments, (4, NAN)),
        (ValueError, f"d_k {COUNT} 0.", theory.attention_moments, (0, 4)),
        (ValueError, f"keys {COUNT} 0.", theory.attention_moments, (4, 0)),
        (ValueError, f"depth {COUNT} 0.", theory.transformer_trajectory, (0, 8, "pre")),
        (ValueError, f"tokens {COUNT} 0.", theory.transformer_trajectory, (3, 0, "pre")),
        (
            ValueError,
            "norm_placement must be one of pre, post; got None.",
            *(theory.transformer_trajectory, (3, 8, None)),
        ),
        (ValueError, f"first {POSITIVE} 0.0.", theory.transformer_trajectory, (3, 8, "pre", 0.0)),
        (
            ValueError,
            "cosine must be a finite number from 0 to 1, got 2.",
            *(theory.transformer_trajectory, (3, 8, "pre", 1.0, 2)),
        ),
        (
            ValueError,
            "residual must be a finite number from 0 to 1, or a non-empty array of them, got 2.",
            *(theory.attention_residual, (2, 8, 64)),
        ),
        (
            ValueError,
            "tokens must be an integer of at least 2, got 1.",
            theory.attention_residual,
            (0.1, 1, 4),
        ),
        (ValueError, f"d_model {COUNT} 0.", theory.attention_residual, (0.1, 8, 0)),
    ],
)
def test_bad_transformer_input_gets_one_sentence(error, sentence, function, arguments):
    with pytest.raises(error) as caught:
        function(*arguments)
    assert str(caught.value) == sentence
