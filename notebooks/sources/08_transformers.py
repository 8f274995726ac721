# %% [markdown]
# # 08 · Transformers
#
# > **Where do gradients vanish in self-attention?**
#
# After this lesson you will be able to
#
# - do attention by hand, forward and backward, on five tokens;
# - say what $1/\sqrt{d_k}$ is for, and what a gradient loses when a softmax is sharp or a sequence long;
# - predict how the stream of a Pre-LN and of a Post-LN Transformer grows, how its tokens become alike, and how large
#   the last gradient is at any depth;
# - tell a starved $W_Q$ from a vanishing gradient, and know the cure of each;
# - choose between warm-up, residual scaling, DeepNorm, RMSNorm and QK-norm by the panel of the dashboard that each
#   moves;
# - answer with a measurement whether deeper layers drift away from meaning, and say what the measurement read.
#
# **Before this:** [02 · Sigmoid saturation](02_sigmoid_saturation.ipynb) for saturation, [03 · ReLU and its
# variants](03_relu_and_variants.ipynb) for inputs that become alike, and [04 · Initialization](04_initialization.ipynb)
# for Xavier's variance. **Time:** about 120 minutes, of which 55 are reading.
#
# Earlier lessons had one path per layer. Here a layer also decides *from where* it reads, and that decision needs a
# gradient too.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import data, explorers, networks, plots, session, signals, theory
from gradients_in_depth.session import parallel_map
from gradients_in_depth.training import sweep, train

session.start(seed=0)

# %% [markdown]
# ## 1 · By hand: five tokens
#
# *the cat saw the dog*: five tokens, each a vector of $d_k = 2$ numbers. In self-attention every token asks with a
# **query**, offers a **key**, and hands over a **value**. To keep the numbers small, all three are here the vector
# itself (in a network they are three linear maps of it, $W_Q$, $W_K$ and $W_V$).

# %%
words = ["the", "cat", "saw", "the", "dog"]
x = torch.tensor([[1.0, 0], [0, 2], [1, 1], [1, 0], [0, 1]], dtype=torch.float64, requires_grad=True)
query, key, value = x[1], x.clone(), x.clone()  # "cat" asks; copies, to tell three gradients apart
logits = key @ query / math.sqrt(2)

# %% [markdown]
# A **logit** is query · key / $\sqrt{d_k}$. The softmax turns five logits into five weights that sum to 1; the output
# is the mean of the values with these weights.
#
# **Predict.** *cat* is (0, 2). Which word does it look at most, and do the two *the* get the same weight?

# %%
p = logits.softmax(dim=0)
for word, logit, weight in zip(words, logits.tolist(), p.tolist(), strict=True):
    print(f"{word}: logit {logit:.3g}, exp {math.exp(logit):.3g}, weight {weight:.3g}")
output = p @ value
print(f"output of 'cat': ({output[0].item():.3g}, {output[1].item():.3g})")

# %% [markdown]
# At itself, with 0.623 of its attention; and yes: attention does not know where a word stands. (Transformers add a
# position to each token for that reason.)
#
# Now backward. Let the loss send the gradient $g = (0, 1)$ to this output. It has **two** ways on:
#
# $$\frac{\partial\,\text{loss}}{\partial v_j} = p_j\, g \qquad\qquad
# \frac{\partial\,\text{loss}}{\partial\,\text{logit}_j} = p_j\,\bigl(g \cdot v_j - g \cdot \text{output}\bigr).$$
#
# The values get the gradient in the shares of the attention. The logits get it only as far as the value of token $j$
# would do *better or worse than the mean*.

# %%
g = torch.tensor([0.0, 1.0], dtype=torch.float64)
to_values, to_logits = p[:, None] * g, p * (value @ g - output @ g)
found = torch.autograd.grad(output @ g, [value, logits])
for word, v, z in zip(words, to_values[:, 1].tolist(), to_logits.tolist(), strict=True):
    print(f"{word}: value gets (0, {v:.3g}), logit gets {z:.2g}")
assert torch.allclose(found[0], to_values) and torch.allclose(found[1], to_logits)
assert abs(to_logits.sum().item()) < 1e-12

# %% [markdown]
# Autograd agrees. Read the formula of the logits as a matrix: $\text{diag}(p) - p\,p^\top$, the **Jacobian of the
# softmax**, times what each value would do for the loss. The logits get nothing in two cases, and both will become
# diseases in this lesson:
#
# - $p$ is all on one token: then the Jacobian is 0, for there is no other token to shift weight to;
# - all values are equal: then it does not matter where one looks.

# %% [markdown]
# ## 2 · Why divide by the root of $d_k$?
#
# If the entries of $q$ and $k$ are independent with variance 1, their product $q \cdot k$ is a sum of $d_k$ terms:
# variance
# $d_k$. At $d_k = 64$ logits easily differ by 8 and more, and $e^8 \approx 3000$. Divided by $\sqrt{d_k}$ their variance is 1
# at any $d_k$.
#
# **Predict.** 16 keys, no division, $d_k = 1024$. The gradient that passes the softmax is (a) as good as 0 for every
# query; (b) on average about a quarter of that at $d_k = 64$, and as good as 0 for most queries.


# %%
def attend(d_k, scaled, seed, queries=250, keys=16):
    """Entropy, and Frobenius norm of the softmax Jacobian, for each query: (2, queries)."""
    q = data.gaussian_batch(queries, d_k, seed=seed)[:, None]
    k = data.gaussian_batch(queries * keys, d_k, seed=100 + seed).reshape(queries, keys, d_k)
    p = ((q * k).sum(dim=2) / (math.sqrt(d_k) if scaled else 1)).softmax(dim=1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.stack([torch.special.entr(p).sum(dim=1), jacobian.norm(dim=(1, 2))]).numpy()


# %% [markdown]
# Eight seeds of 250 queries. The theory is exact here: given the query, the logits *are* normal, and all averages over
# a softmax of normal logits are one-dimensional integrals (`theory.softmax_moments`).

# %%
sizes = (1, 4, 16, 64, 256, 1024)
sharp, scaled = (
    np.array([[attend(d_k, scaled, seed) for d_k in sizes] for seed in range(8)]) for scaled in (False, True)
)
laws = [[theory.attention_moments(d_k, 16, scaled) for d_k in sizes] for scaled in (False, True)]

# %% [markdown]
# Markers are medians over the seeds, black lines theory.

# %%
axes = plt.subplots(1, 2)[1]
for values, law, label in zip((sharp, scaled), laws, ("not divided", "divided by √d_k"), strict=True):
    options = {"xlabel": "d_k", "log_x": True}
    plots.curve(sizes, values[:, :, 0].mean(axis=2), label=label, ax=axes[0], **options)
    plots.curve(sizes, [m.entropy for m in law], kind="theory", label="theory", ax=axes[0], **options)
    rms = np.sqrt((values[:, :, 1] ** 2).mean(axis=2))
    plots.curve(sizes, rms, label=label, ax=axes[1], **options)
    plots.curve(sizes, [m.jacobian_norm for m in law], kind="theory", label="theory", ax=axes[1], **options)
axes[0].set(ylabel="mean entropy (nats)", ylim=(0, 3.4))
axes[1].set(ylabel="root mean square of ‖J‖", ylim=(0, 0.45));
# %% [markdown]
# The mean is one thing and the typical query another:

# %%
for column in (1, 3, 5):
    entropy, norm = sharp[:, column].transpose(1, 0, 2).reshape(2, -1)
    middle = f"{np.median(norm):.1g}" if np.median(norm) > 1e-4 else "below 1e-4"
    print(f"d_k = {sizes[column]:4d}, not divided: entropy {entropy.mean():.2g}, ", end="")
    print(f"mean ‖J‖ {norm.mean():.2g}, median ‖J‖ {middle}")
    assert abs(entropy.mean() / laws[0][column].entropy - 1) < 0.1
entropy, norm = scaled[:, 5].transpose(1, 0, 2).reshape(2, -1)
print(f"d_k = 1024, divided: entropy {entropy.mean():.3g}, mean and median ‖J‖ {norm.mean():.1g}")
assert np.median(sharp[:, 5, 1]) < 1e-4 and abs(norm.mean() - 0.305) < 0.01

# %% [markdown]
# **What you should see.** Answer (b). Divided, both curves are flat: 2.36 nats and 0.3, at any $d_k$ that is not tiny.
# Not divided, the entropy falls to 0.09 nats: nearly all weight on one key. "The gradient of a saturated softmax
# vanishes" is true, and incomplete: for the *typical* query it is 0 for all purposes, while the mean falls only like
# $1/\sqrt{d_k}$ (its root mean square, in the figure, more slowly still), and is made by the few queries whose two best
# keys happen to be close. Most tokens learn nothing about where to look, and a few get a jerk.
#
# **Why.** With logits of spread $s$ the two best of 16 lie $0.36\,s$ apart (the median), and the Jacobian falls like
# $e^{-0.36\,s}$. But with a probability near $1.8/s$ they lie within 1 of each other, at whatever spread.

# %%
top = torch.topk(data.gaussian_batch(10_000, 16, seed=0), 2, dim=1).values  # logits of spread 1
for s, gap in ((s, -s * top.diff(dim=1)) for s in (1, 8, 32)):  # the last two: d_k = 64 and 1024
    print(f"spread {s}: gap {gap.median():.2g}, e^-gap {math.exp(-gap.median()):.1g}, ", end="")
    print(f"gap below 1 in {(gap < 1).double().mean():.2g} of the cases")
assert 0.33 < gap.median() / 32 < 0.39 and abs(32 * (gap < 1).double().mean() - 1.8) < 0.2

# %% [markdown]
# ## 3 · Long sequences: one over T
#
# Now the opposite of sharp: attention that looks at all $T$ tokens alike, as it nearly does at the start of training.
# Each weight is $1/T$.
#
# **Predict.** The sequence is made 64 times as long. By what factor does the gradient shrink that *one* far-away token
# gets (a) if the loss reads one position (a classifier on the first token); (b) if every position has a target of its
# own (a language model)?


# %%
def gradients_of_tokens(length, skip, seed, d_model=64):
    """Gradients, if position 0 is read, of the last token and of token 0; of the last if all are read."""
    settings = {"norm_placement": None, "dim_feedforward": 0, "skip": skip, "dtype": torch.float64}
    block = networks.Transformer(1, d_model, seed=seed, **settings).blocks[0]
    nn.init.zeros_(block.attention.query.weight)  # all logits 0: uniform attention
    x = data.gaussian_batch(length, d_model, seed=100 + seed)[None].requires_grad_()
    targets = data.gaussian_batch(length, d_model, seed=200 + seed) / math.sqrt(d_model)
    scores = (block(x)[0] * targets).sum(dim=1)
    one, every = (torch.autograd.grad(s, x, retain_graph=True)[0][0] for s in (scores[0], scores.sum()))
    return [g.norm().item() for g in (one[-1], one[0], every[-1])]


# %% [markdown]
# Without and with a skip around the attention, 32 seeds:

# %%
lengths = np.array([4, 8, 16, 32, 64, 128, 256])
plain, skipped = (
    np.array([[gradients_of_tokens(t, skip, seed) for t in lengths] for seed in range(32)])
    for skip in (False, True)
)

# %% [markdown]
# The far-away token in both cases, and token 0 where there is a skip:

# %%
options = {"xlabel": "tokens T", "log_x": True, "log_y": True}
ax = plots.curve(lengths, plain[:, :, 0], label="one position is read", **options)
plots.curve(lengths, plain[:, :, 2], label="every position is read", ax=ax, **options)
plots.curve(lengths, skipped[:, :, 1], label="with a skip: its own position", ax=ax, **options)
for power in (1, 0.5, 0):
    plots.curve(lengths, 1 / lengths**power, kind="theory", label="1/T, 1/√T, 1", ax=ax, **options)
ax.set(ylabel="gradient that a token gets", ylim=(1e-3, 30));
# %% [markdown]
# The slopes on this log scale, fitted, answer the question:

# %%
fits = [np.polyfit(np.log(lengths), np.log(found[:, [0, 2]]), 1)[0] for found in plain]
(one, every), errors = np.mean(fits, axis=0), np.std(fits, axis=0, ddof=1) / math.sqrt(len(fits))
print(f"one position is read: exponent {one:.2f} ± {errors[0]:.2f}, 64 times as long: {64**one:.2g}")
print(f"every position is read: exponent {every:.2f} ± {errors[1]:.2f}, 64 times as long: {64**every:.2g}")
assert abs(one + 1) < 1e-6 and abs(every + 0.5) < 3 * errors[1] < 0.03

# %% [markdown]
# **What you should see.** "The gradient per position falls as $1/T$" holds if *one* position is read. If every position
# has its own target, $T$ gradients arrive at each token, each with weight $1/T$; here they point every which way, for
# the targets have nothing to do with each other, and the sum of $T$ such is $\sqrt T$ long: $1/\sqrt T$. (If they all
# pulled the same way, they would add up to 1, at any length.) And a skip connection hands a token the gradient of its
# own position whole. This is a power law and no disease: nothing is multiplied over and over. Attention is the layer
# where *any* two tokens are one step apart; in a recurrent network the same message would pass $T$ matrices.

# %% [markdown]
# ## 4 · The stream: Pre-LN and Post-LN
#
# A Transformer block has two branches, attention and a feed-forward network, each with a skip. What runs through all
# skips is the **residual stream**. The norm stands in one of two places:
#
# $$\text{Post-LN (2017):}\;\; x \leftarrow \mathrm{LN}\bigl(x + f(x)\bigr) \qquad\qquad
# \text{Pre-LN (GPT-2):}\;\; x \leftarrow x + f\bigl(\mathrm{LN}(x)\bigr).$$
#
# `networks.TransformerBlock` is both, readable in a minute. Random tokens, random Xavier weights, eight seeds, no
# training:


# %%
def random_tokens(seed, batch=8, tokens=8, d_model=64):
    return data.gaussian_batch(batch * tokens, d_model, seed=seed).reshape(batch, tokens, d_model)


# %% [markdown]
# A stack is the blocks and, for Pre-LN, the norm after them, without embedding and readout.


# %%
def stack(depth, seed, d_model=64, **settings):
    model = networks.Transformer(depth, d_model, seed=seed, dtype=torch.float64, **settings)
    return nn.Sequential(*model.blocks, model.norm or nn.Identity())


# %% [markdown]
# Two numbers for each block: the variance of the stream, and how much *differs between the tokens* of a sequence: 1 −
# their mean cosine.


# %%
@torch.no_grad()
def walk(network, x):
    """Variance, and 1 - cosine between tokens, before the first block and after each: (2, depth + 1)."""
    stream = [x]
    for block in network[:-1]:
        stream.append(block(stream[-1]))
    stream = torch.stack(stream)
    centered = stream - stream.mean(dim=2, keepdim=True)
    share = centered.square().mean(dim=(1, 2, 3)) / stream.square().mean(dim=(1, 2, 3))
    tokens = x.shape[1]
    return np.array([stream.square().mean(dim=(1, 2, 3)).numpy(), share.numpy() * tokens / (tokens - 1)])


# %% [markdown]
# **Why.** The theory needs three facts. Xavier's feed-forward network adds 0.32 of the variance that it reads
# ($\tfrac25 \cdot \tfrac12 \cdot \tfrac85$: two matrices, and ReLU in between). Attention that looks at all tokens
# alike adds *one and the same vector* to each of them, of mean square $c + (1 - c)/T$, where $c$ is their cosine. And
# of what they add, Pre-LN reads from a copy of size 1.
#
# **Predict.** After 24 blocks, which stream is larger, and in which are the tokens more alike? By a factor of 2, or of
# a million?


# %%
def walks_of(placement):
    return np.array([walk(stack(24, s, norm_placement=placement), random_tokens(100 + s)) for s in range(8)])


placements = {"pre": "Pre-LN", "post": "Post-LN"}
walks = {placement: walks_of(placement) for placement in placements}

# %% [markdown]
# Mind the axes: the left one is linear, the right one logarithmic.

# %%
axes = plt.subplots(1, 2)[1]
blocks = np.arange(25)
for placement, label in placements.items():
    law = theory.transformer_trajectory(24, 8, placement)
    for ax, k, expected in zip(axes, (0, 1), (law.variance, law.difference), strict=True):
        plots.curve(blocks, walks[placement][:, k], label=label, xlabel="block", log_y=k == 1, ax=ax)
        plots.curve(blocks, expected, kind="theory", label="theory", log_y=k == 1, ax=ax)
axes[0].set(ylabel="variance of the stream", ylim=(0, 32))
axes[1].set(ylabel="1 − cosine between tokens", ylim=(1e-8, 10))
axes[1].get_legend().set_loc("lower left")

# %% [markdown]
# At the end:

# %%
for placement, label in placements.items():
    law = theory.transformer_trajectory(24, 8, placement)
    variance, apart = np.median(walks[placement][:, :, -1], axis=0)
    print(f"{label:>7}, block 24: variance {variance:.2g} (theory {law.variance[-1]:.2g}), ", end="")
    print(f"1 − cosine {apart:.1g} (theory {law.difference[-1]:.1g})")
    assert abs(variance / law.variance[-1] - 1) < 0.15 and 0.3 < apart / law.difference[-1] < 5

# %% [markdown]
# How far off is the theory there?

# %%
off = apart / law.difference[-1]
print(f"Post-LN, 1 − cosine: {off:.1f} times the theory after 24 blocks, {off ** (1 / 24) - 1:.1g} per block")
assert 2 < off < 4

# %% [markdown]
# **What you should see.** The Pre-LN stream grows *linearly* (each block adds about 1), the Post-LN stream does not. In
# return Post-LN nearly halves 1 − cosine at each attention: the common vector is added, and the norm shrinks the rest
# by $\sqrt 2$. That is an exponential. (The theory is for wide networks: at width 64 tokens
# collapse a little more slowly, by 5 % per block, a factor near 3 after 24.) In the Pre-LN stream the differences fall as a power of the
# depth. Keep both curves in mind.
#
# ### How large is the gradient at the top?
#
# What the last feed-forward network adds is divided by the size of the stream in the norm after it, and so is its
# gradient. So with the linear growth Xiong and others (2020) found $L^{-1/2}$ for Pre-LN, and no decrease for Post-LN.


# %%
def last_gradient(depth, placement, seed):
    network, x = stack(depth, seed, norm_placement=placement), random_tokens(100 + seed)
    loss = (network(x) * random_tokens(200 + seed)).sum(dim=2).mean()
    return torch.autograd.grad(loss, network[-2].feed_forward[2].weight)[0].norm().item()


# %% [markdown]
# Four depths, eight seeds:

# %%
depths = np.array([6, 12, 24, 48])
top = {p: np.array([[last_gradient(L, p, s) for L in depths] for s in range(8)]) for p in placements}

# %% [markdown]
# Both axes are logarithmic, so that a power is a straight line.

# %%
ax = plt.subplots()[1]
options = {"xlabel": "blocks L", "log_x": True, "log_y": True}
for placement, label in placements.items():
    ratio = top[placement] / top["post"].mean()  # one number for both curves, so that their heights compare
    plots.curve(depths, ratio, label=label, ax=ax, **options)
    law = [theory.transformer_trajectory(int(L), 8, placement).last_gradient for L in depths]
    plots.curve(depths, np.array(law) * 1.32**0.5, kind="theory", label="theory", ax=ax, **options)
ax.set(ylabel="gradient of the last feed-forward weights", ylim=(0.05, 3), xticks=depths, xticklabels=depths)
ax.get_legend().set_loc("lower left")

# %% [markdown]
# The exponent, fitted for each seed; its error is the standard error over the eight.

# %%
slopes = {}
for placement, label in placements.items():
    fits = np.array([np.polyfit(np.log(depths), np.log(row), 1)[0] for row in top[placement]])
    law = [theory.transformer_trajectory(int(L), 8, placement).last_gradient for L in depths]
    expected = np.polyfit(np.log(depths), np.log(law), 1)[0]
    slopes[placement], error = fits.mean(), fits.std(ddof=1) / math.sqrt(8)
    print(f"{label:>7}: exponent {fits.mean():.2f} ± {error:.2f}, theory at these depths {expected:.2f}")
far = [theory.transformer_trajectory(L, 8, "pre").last_gradient for L in (480, 960)]
print(f"theory for Pre-LN between 480 and 960 blocks: {math.log2(far[1] / far[0]):.2f}")
assert abs(slopes["pre"] + 0.56) < 0.06 and abs(slopes["post"]) < 0.05

# %% [markdown]
# **What you should see.** Two laws, one figure. Post-LN's last gradient is the same at any depth. Pre-LN's falls with
# an exponent of −0.56 ± 0.02, and that is the theory's at these depths, without a fit. The famous $-\tfrac12$ is its
# limit: at first attention adds little, because means of different tokens cancel, and more as tokens become alike. So
# the stream grows a little faster than the depth.
#
# The common conclusion is that the large gradient at Post-LN's top is why it needs warm-up. Section 8 tests whether it
# needs it at all; whether this is the reason, we can only argue.

# %% [markdown]
# ## 5 · Rank collapse: all tokens the same
#
# What if there were no skips? Attention takes means, and means of means. Let $r$ be the share of the stream that
# differs between tokens, $r = \lVert X - \bar X \rVert / \lVert X \rVert$. When tokens are nearly equal, attention
# alone gives token $i$ another output than its neighbor only as far as its *query* differs, and the *keys* differ, and
# the *values* differ:
#
# $$r_{l+1} \approx r_l^{\,3}\,\sqrt{\frac{1}{T-1} + \frac1{d}} .$$
#
# A cube, in every layer: but for the constant, 0.1 becomes 0.001, and that becomes 0.000000001.


# %%
def residual(x):
    return ((x - x.mean(dim=1, keepdim=True)).norm() / x.norm()).item()


# %% [markdown]
# To test it we need a sequence in which exactly the share $r$ differs between tokens:


# %%
def nearly_equal(r, seed, tokens=8, d_model=64):
    own, common = (data.gaussian_batch(n, d_model, seed=300 + seed + 100 * n) for n in (tokens, 1))
    own = own - own.mean(dim=0)
    own, common = own / own.square().mean().sqrt(), common / common.square().mean().sqrt()
    return (math.sqrt(1 - r**2) * common + r * own)[None]


# %% [markdown]
# One attention layer, without skip, norm or feed-forward network, first: its $r$ going in and coming out.

# %%
alone = {"dim_feedforward": 0, "skip": False}
shares = np.array([0.5, 0.3, 0.1, 0.03, 0.01, 0.003])
layers = [stack(1, seed, norm_placement=None, **alone) for seed in range(8)]
out = [[residual(layer(nearly_equal(r, s))) for r in shares] for s, layer in enumerate(layers)]
ratio = np.median(out, axis=0) / theory.attention_residual(shares, 8, 64)
print(f"measured / theory: {ratio[-1]:.2f} at r = 0.003, {ratio[2]:.2f} at 0.1, {ratio[0]:.2f} at 0.5")
assert abs(ratio[-1] - 1) < 0.15

# %% [markdown]
# **Predict.** Twelve layers, each followed by a norm: (a) attention alone; (b) attention and feed-forward networks; (c)
# attention with skips. Which of them still has different tokens at the end?

# %%
kinds = {
    "attention alone": alone,
    "with feed-forward": {"skip": False},
    "with skips": {"dim_feedforward": 0},
    "with both": {},
}
collapse = {}
for name, settings in kinds.items():
    stacks = [stack(12, seed, norm_placement="post", **settings) for seed in range(8)]
    runs = [walk(network, random_tokens(100 + seed))[1] for seed, network in enumerate(stacks)]
    collapse[name] = np.sqrt(np.array(runs) * 7 / 8)  # from 1 - cosine to the share r

# %% [markdown]
# Left the one layer and its cube, right the four networks; black with both is the recursion of section 4.

# %%
axes = plt.subplots(1, 2)[1]
options = {"log_x": True, "log_y": True, "xlabel": "r before"}
plots.curve(shares, np.array(out), label="one layer", ax=axes[0], **options)
law = theory.attention_residual(shares, 8, 64)
plots.curve(shares, law, kind="theory", label="theory", ax=axes[0], **options)
for name, values in collapse.items():
    shown = np.where(values > 1e-13, values, np.nan)  # what is smaller is rounding
    plots.curve(np.arange(13), shown, label=name, log_y=True, xlabel="block", ax=axes[1])
law = np.sqrt(theory.transformer_trajectory(12, 8, "post").difference * 7 / 8)
plots.curve(np.arange(13), law, kind="theory", label="theory, with both", ax=axes[1])
axes[0].set(ylabel="r after")
axes[1].set(ylabel="share r that differs", ylim=(1e-15, 1e14))
axes[1].get_legend().set_loc("upper right")

# %% [markdown]
# In numbers:

# %%
middle = np.median(collapse["attention alone"], axis=0)
for name in list(kinds)[:2]:
    first = np.median(collapse[name], axis=0)[1:5]
    print(f"{name}, layers 1 to 4:", ", ".join(f"{r:.1g}" for r in first))

# %% [markdown]
# And at the end:

# %%
for name in list(kinds)[1:]:
    end = np.median(collapse[name][:, -1])
    print(f"{name}, block 12: {f'{end:.1g}' if end > 1e-14 else 'nothing but rounding'}")
assert middle[3] < 0.02 and middle[4] < 1e-5 and middle[6] < 1e-14 < 1e-3 < end

# %% [markdown]
# The same in float32:

# %%
single = walk(stack(12, 0, norm_placement="post", **alone).float(), random_tokens(100).float())[1]
print(f"attention alone in float32, block 12: r is about 1e{math.log10(single[-1]) / 2:.0f}")

# %% [markdown]
# That is the floor of the number format, not of the law. A curve that ends near 1e-7 may end there for this reason.
#
# **What you should see.** Answer (c), and only (c). Attention alone falls from 0.6 to 0.2, 0.007 and 8e-07, and then
# into rounding: *doubly* exponential, because the exponent itself is multiplied by 3 in each layer. Feed-forward
# networks do not stop it (here they even hasten it): they treat each token by itself, and equal tokens equally. Skips
# do. What remains then is the slow loss of section 4.
#
# On the left theory holds where $r$ is small (5 % off at 0.003), and 27 % off at 0.5: the cube is the leading term.

# %% [markdown]
# ## 6 · Misdiagnosis: the vanishing gradient that vanishes at the wrong end
#
# A colleague trains a Post-LN Transformer of 24 blocks. He logs the gradient of $W_Q$ in each block and finds in the
# last 2e-6 of the first. "Vanishing gradient. The signal does not get through 24 blocks. We need skip connections." (It
# has 48 of them.)
#
# **Predict.** Backpropagation starts at the *last* block. What would a gradient that vanishes on its way look like? And
# what does he see?


# %%
def overlap(outputs, targets):
    return (outputs * targets).sum(dim=2).mean()


# %% [markdown]
# That is the loss: outputs times random targets. By block: gradients of the stream, of $W_Q$, $W_K$ and $W_V$, and 1 −
# cosine between the tokens that the block reads.


# %%
def patient(seed, depth=24, **settings):
    """(5, depth)"""
    network, x, targets = stack(depth, seed, **settings), random_tokens(100 + seed), random_tokens(200 + seed)
    found = signals.measure(network, x, targets, overlap, layers=networks.TransformerBlock)
    norms = {parameter.name: parameter.gradient_norm for parameter in found.parameters}
    weights = [[norms[f"{k}.attention.{w}.weight"] for k in range(depth)] for w in ("query", "key", "value")]
    return np.array([found.series("activation_gradient_rms"), *weights, walk(network, x)[1][:-1]])


# %% [markdown]
# Eight networks like his:

# %%
patients = np.array([patient(seed, norm_placement="post") for seed in range(8)])
stream, query, key, value, apart = patients.transpose(1, 0, 2)

# %% [markdown]
# All on one axis, and the theory of section 4 with them:

# %%
ax = plots.layers(query / query[:, :1], label="W_Q, first block = 1")
plots.layers(key / key[:, :1], label="W_K, first block = 1", ax=ax)
plots.layers(value / value[:, :1], label="W_V, first block = 1", ax=ax)
plots.layers(stream / stream[:, -1:], label="stream, last block = 1", ax=ax)
law = theory.transformer_trajectory(24, 8, "post").difference[:-1]
plots.layers(law, label="theory: 1 − cosine between tokens", kind="theory", ax=ax)
ax.set(ylabel="gradient", xlabel="block", ylim=(1e-8, 1e3));
# %% [markdown]
# The last block against the first:

# %%
ratio = [np.median(values[:, -1] / values[:, 0]) for values in (stream, query, key, value, apart)]
for name, r in zip(("stream", "W_Q", "W_K", "W_V", "1 − cosine"), ratio, strict=True):
    print(f"{name:>10}, last block / first block: {r:.1g}")
assert max(ratio[1:3]) < 1e-5 and 0.3 < ratio[0] < 3 and 0.3 < ratio[3] < 3

# %% [markdown]
# **What you should see.** The gradient of the stream is about the same in all blocks: it gets through. $W_V$ gets its
# gradient everywhere. $W_Q$ and $W_K$ starve in the *last* blocks, the ones next to the loss; a gradient that vanishes
# on its way starves the first.
#
# **Why.** Remember the second case of section 1. If all tokens are equal, it does not matter where one looks: the loss
# has no opinion about $W_Q$. To first order
#
# $$\frac{\partial\,\text{loss}}{\partial W_Q} \;\propto\; (\text{keys that differ}) \times (\text{values that differ}) \;\propto\; r^2
# \;\propto\; 1 - \text{cosine between tokens},$$
#
# and this is the black line: no fit, the recursion of section 4. The disease is rank collapse, in the *forward* pass.
# His cure (more skips) treats another disease. The right one lets less of the common vector in, for example by a
# smaller branch:

# %%
milder = np.array([patient(s, norm_placement="post", branch_scale=48**-0.25) for s in range(8)])
pre = np.array([patient(s, norm_placement="pre") for s in range(8)])
for name, runs in (("Post-LN", patients), ("Post-LN, branches · 0.38", milder), ("Pre-LN", pre)):
    print(f"{name:>24}: W_Q's gradient, last / first block: {np.median(runs[:, 1, -1] / runs[:, 1, 0]):.1g}")
assert np.median(milder[:, 1, -1] / milder[:, 1, 0]) > 1e-2

# %% [markdown]
# The other way to starve is a sharp softmax (section 2). A second network: Pre-LN, with $W_Q$ and $W_K$ thirty times as
# large, as they become when training runs away. Two numbers tell the two diseases apart: the **entropy** of the
# attention, and 1 − **cosine** between tokens.


# %%
@torch.no_grad()
def last_entropy(network, x):
    """Mean entropy of the attention in the last block, over ln T."""
    for block in network[:-2]:
        x = block(x)
    last = network[-2]
    p = last.attention.logits(last.attention_norm(x) if last.norm_placement == "pre" else x).softmax(dim=3)
    return torch.special.entr(p).sum(dim=3).mean().item() / math.log(x.shape[1])


# %% [markdown]
# The second network is a first one, sharpened:


# %%
def sharpen(network, factor):
    for block in network[:-1]:
        for linear in (block.attention.query, block.attention.key):
            linear.weight.data.mul_(factor)
    return network


# %% [markdown]
# A gradient says little without the weight that it has to move, so we divide one norm by the other.


# %%
def examine(seed, placement, factor):
    network, x = sharpen(stack(24, seed, norm_placement=placement), factor), random_tokens(100 + seed)
    loss, weight = overlap(network(x), random_tokens(200 + seed)), network[-2].attention.query.weight
    norm = torch.autograd.grad(loss, weight)[0].norm()
    entropy, apart = last_entropy(network, x), walk(network, x)[1, -2]
    return [(norm / weight.norm()).item(), entropy, apart, norm.item()]


# %% [markdown]
# Three networks, eight seeds of each:

# %%
for name, placement, factor in (("Pre-LN", "pre", 1), ("Post-LN", "post", 1), ("Pre-LN, sharp", "pre", 30)):
    found = np.array([examine(seed, placement, factor) for seed in range(8)])
    step, entropy, apart = np.median(found[:, :3], axis=0)
    print(f"{name:>13}: W_Q gradient / W_Q {step:.0e}, entropy / ln T {entropy:.1g}, 1 − cosine {apart:.0e}")
    print(f"{'':>13}  W_Q gradient alone: {found[:, 3].min():.0e} to {found[:, 3].max():.0e}")
    assert (step < 1e-3) == (name != "Pre-LN") and (entropy < 0.01) == (factor > 1)
assert found[:, 3].max() > 1 and found[:, 3].min() < 1e-6  # the sharp network

# %% [markdown]
# Measured against the weight, both are too small. In a log of the gradient alone only the first shows: the sharp
# network's ranges from nothing to more than the healthy one's, by whether some query happens to be near a tie (section
# 2). Entropy near $\ln T$ and equal tokens: rank collapse, and the cure is a smaller branch, or Pre-LN. Entropy near 0
# and different tokens: a sharp softmax, and the cure is QK-norm (section 9). And if the *stream's* gradient is small in the *first* blocks, then it is a vanishing gradient, and the lessons before
# this one apply.

# %% [markdown]
# ### Explore: depth, norm, skips
#
# Both gradients on the left, the tokens on the right.

# %% tags=["explorer"]
explorers.transformer_depth()

# %% [markdown]
# ## 7 · Real data: digits, row by row
#
# From here on the Transformers learn. A sequence is a digit of 8 × 8 pixels, each row one token of 8 numbers: real
# data, and short enough for a lesson. Six blocks, $d_\text{model} = 16$, two heads; a linear readout of the mean over
# tokens.

# %%
digits = data.digits(dtype=torch.float64)
parts = digits.train_inputs, digits.train_targets, digits.validation_inputs, digits.validation_targets
rows = data.Split(*(part.reshape(-1, 8, 8) if part.ndim == 2 else part for part in parts))

# %% [markdown]
# And the network, by seed:


# %%
def row_transformer(placement):
    settings = {"num_heads": 2, "dim_feedforward": 32, "norm_placement": placement, "dtype": torch.float64}
    return lambda seed: networks.Transformer(6, 16, seed=seed, **settings)


# %% [markdown]
# ## 8 · Does Post-LN need warm-up?
#
# **Warm-up** lets the learning rate grow from 0 to its value over the first steps; here over 54 of 135, the first two
# of five epochs. It was part of the first Transformer's recipe, for years without an explanation. Adam, three seeds, the
# *same* grid of four rates for each of four networks.
#
# **Predict.** Which of the four networks fails at the larger rates? And at each one's own best rate, which is best?

# %%
grid = (0.001, 0.003, 0.01, 0.02)
plan = {"learning_rates": grid, "seeds": range(3), "optimizer": "adam", "epochs": 5, "batch_size": 50}


def trained(case):
    placement, steps = case
    return sweep(row_transformer(placement), rows, warmup_steps=steps, record_gradients=steps == 0, **plan)


# %% [markdown]
# Four networks, twelve trainings of each. (`parallel_map` gives what a loop would give, on several cores at a time.)

# %%
results = parallel_map(trained, [(placement, steps) for steps in (0, 54) for placement in placements])

# %% [markdown]
# The loss of the last epoch at every rate:

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: another processor may draw them a little differently.
axes = plt.subplots(1, 2, sharey=True)[1]
for (placement, steps), run in results.items():
    ax = axes[list(placements).index(placement)]
    label = "warm-up" if steps else "no warm-up"
    last = run.loss_by_epoch[:, :, -1].T
    plots.curve(grid, last, label=label, xlabel="learning rate", log_x=True, log_y=True, ax=ax)
    ax.set(title=placements[placement], ylim=(0.05, 6), ylabel="training loss" if ax is axes[0] else "")
for ax in axes:
    ax.set_xticks(grid, [f"{rate:g}" for rate in grid])
    plots.guide(ax, math.log(10), "guessing: ln 10")
    ax.get_legend().set_loc("lower left")

# %% [markdown]
# Once at the same rate for all, once at each network's own best:

# %% tags=["nbval-ignore-output"]
# Chaotic as the figure: what the text below says of them is asserted.
for (placement, steps), run in results.items():
    last, name = run.loss_by_epoch[:, :, -1], f"{placements[placement]}, {'with' if steps else 'no'} warm-up"
    for rate in (2, run.best):
        low, middle, high = np.sort(last[rate])
        print(f"{name:>21}: rate {grid[rate]}, loss {middle:.2g} ({low:.2g} to {high:.2g})")
        name = "and at its best"
end = {key: np.median(run.loss_by_epoch[:, :, -1], axis=1) for key, run in results.items()}
assert end["post", 0][2] > 1.5 * end["post", 54][2] and end["post", 0].min() < 1.1 * end["post", 54].min()
assert all(end[placement, 0][3] > 1.2 * end[placement, 54][3] for placement in placements)

# %% [markdown]
# **What you should see.** At the rate 0.01 Post-LN without warm-up ends far above the others, and its seeds far apart;
# with warm-up it learns at that rate. Pre-LN does not care, at that rate. So far the textbook.
#
# But now compare each network *at its own best rate*: in these three seeds, on this grid, Post-LN is no worse without
# warm-up than with it. It needs a smaller rate, and then no warm-up. What warm-up buys is a wider range of rates that work; what it costs is two fifths
# of this short training at smaller rates. (At 0.02 it helps both.) Six blocks are few; in a deeper network that range may
# matter more.
#
# And the reason? "The gradient at the top is too large" cannot be all: Adam divides each gradient by its own size. Liu
# and others (2020) point to what an *update* does to the output: Post-LN's branches have full weight, so that small
# changes of many weights add up.
#
# ### Clipping in practice
#
# Many large Transformers are trained with their global gradient norm clipped at 1 (lesson 07). What would that do here?
# The sweeps without warm-up have recorded the norms; here are those of the rate 0.003.

# %%
for placement, label in placements.items():
    norm = results[placement, 0].total_norms[1][:, 54:]  # (seeds, steps): all parameters as one vector
    middle, largest, above = np.median(norm), np.median(norm.max(axis=1)), (norm > 1).mean()
    print(f"{label:>7}, epochs 3 to 5: median {middle:.1g}, largest {largest:.1g}, above 1: {above:.0%}")
    assert above > 0.8

# %% [markdown]
# A threshold of 1 would cut nearly every step. That is no safety net: with SGD it is another learning rate, with one
# length for all steps; Adam divides a common factor out again, and what is left is that every batch counts the same,
# the strange one no more than the others. The number is a custom of large models, with large batches. Look at your own
# history, and put the threshold above the usual norm.

# %% [markdown]
# ## 9 · Five cures, four panels
#
# Each of these is in use. Each is a line of code, and none cures everything:
#
# - **$1/\sqrt{2L}$** (GPT-2, which scales the *initial weights* of the layers that write into the stream; at the start
#   it is the same): the $2L$ branches are scaled so that their sum has the size of one.
# - **DeepNorm** (2022): Post-LN with $x \leftarrow \mathrm{LN}(\alpha x + f(x))$, $\alpha = (2L)^{1/4}$, and weights of
#   the branches times $(8L)^{-1/4}$, all but $W_Q$ and $W_K$. A norm does not see the size of its input, so
#   $\alpha x + f$ is $x + f/\alpha$: a branch scale.
# - **RMSNorm** (2019, LLaMA): LayerNorm without subtracting the mean.
# - **QK-norm** (2020, 2023): queries and keys are normalized before they meet, so logits cannot grow.
#
# The dashboard, for random networks of 24 blocks, before training. To have something for QK-norm to do, there is also a
# network with $W_Q$ and
# $W_K$ five times as large.

# %%
L = 24
cures = {
    "Pre-LN": {},
    "Pre-LN, 1/√2L": {"branch_scale": (2 * L) ** -0.5},
    "Pre-LN, RMSNorm": {"norm": "rms"},
    "Post-LN": {"norm_placement": "post"},
    "DeepNorm": {"norm_placement": "post", "branch_scale": (2 * L) ** -0.25, "gain": (8 * L) ** -0.25},
    "large W_Q, W_K": {"sharp": 5},
    "the same, QK-norm": {"sharp": 5, "qk_norm": True},
}

# %% [markdown]
# A random network, measured, and the singular values of its Jacobian for one sequence:


# %%
def panels(seed, sharp=1, **settings):
    network = sharpen(stack(L, seed, d_model=24, **settings), sharp)
    x, targets = (random_tokens(start + seed, batch=4, d_model=24) for start in (100, 200))
    found = signals.measure(network, x, targets, overlap, layers=networks.TransformerBlock)
    values = signals.jacobian_singular_values(network, x[:1])[0]
    return found, values[values > 1e-10]  # the others are 0 but for rounding


# %% [markdown]
# Three seeds of each. SCALE: the variance of the last block's output over the first's, and the gradient of the first
# over the last's. CORRELATION: the cosine of two *inputs* at the end. SPECTRUM: the largest singular value of the
# Jacobian over the middle one. RANGE: the share of gradient entries that float16 turns to 0.


# %%
def summary(board):
    signal, values = board
    variance, back = signal.series("activation_variance"), signal.series("activation_gradient_rms")
    condition, lost = values[0] / values[len(values) // 2], signal.series("underflow.float16").mean()
    return [variance[-1] / variance[0], back[0] / back[-1], signal.series("cosine")[-1], condition, lost]


# %% [markdown]
# Seven networks, three seeds:

# %%
boards = {name: [panels(seed, **settings) for seed in range(3)] for name, settings in cures.items()}
figures = {name: np.median([summary(board) for board in boards[name]], axis=0) for name in cures}

# %% [markdown]
# Medians:

# %%
print("                     SCALE: variance, gradient   CORRELATION   SPECTRUM")
for name, (variance, back, alike, condition, _) in figures.items():
    print(f"{name:>18}: {variance:14.2g} {back:13.2g} {alike:13.1g} {condition:10.1g}")
assert max(row[-1] for row in figures.values()) < 0.01  # RANGE

# %% [markdown]
# The whole dashboard for Post-LN. (A norm takes two directions of each token, its mean and, nearly, its length. Their
# singular values, which are 0 but for rounding, are left out.)

# %%
plots.dashboard(*boards["Post-LN"][0]);
# %% [markdown]
# And for DeepNorm, in the same order:

# %%
plots.dashboard(*boards["DeepNorm"][0]);

# %% [markdown]
# **What you should see**, row by row:
#
# - **$1/\sqrt{2L}$ moves three panels.** SCALE: the stream grows to 1.3 and not to 16, and the gradient goes back flat.
#   CORRELATION and SPECTRUM with it: a stream to which little is added is nearly the identity. The price is that at the
#   start the branches do little.
# - **DeepNorm moves CORRELATION and SPECTRUM.** SCALE was not Post-LN's trouble: its norms hold it. But two inputs came
#   out with a cosine of 0.9, and a spectrum of more than five decades. DeepNorm lets less of the common vector in.
# - **RMSNorm moves no panel.** The mean over 24 entries is near 0 in a random network, so there is nothing to subtract.
#   It is cheaper, and that is its merit.
# - **QK-norm moves nothing until it has something to do.** With large $W_Q$ and $W_K$ the gradient grows by three
#   decades on its way back: a softmax near a tie turns a small change of a logit into a large one. QK-norm makes the
#   size of $W_Q$ and $W_K$ drop out: its row is that of plain Pre-LN.
# - **None moves RANGE.** Nothing underflows in float16 here; where it does, a loss scale helps (lesson 07).

# %% [markdown]
# ## 10 · Do deeper layers drift away from meaning?
#
# One hears that deep layers are "further and further from the input", and loses faith in them. Let us ask a trained
# network. A **linear readout** (ridge regression) is fitted to the tokens after each block, and tested on validation
# images it has not seen. Three questions:
#
# - *Which digit is it?* from the mean over the tokens, which is where the network itself reads its answer.
# - *Which digit is it?* from all eight tokens, side by side: is it there at all?
# - *Which pixels were in this row?* from each token by itself: the share of their variance that is explained, $R^2$.
#
# **Predict.** Does each readout get better or worse with depth: in the trained network, and in the same network before
# training?


# %%
def linear_readout(features, targets, validation):
    """Ridge regression on standardized features: predictions for the validation features."""
    mean, spread = features.mean(dim=0), features.std(dim=0) + 1e-9
    a, b = (F.pad((part - mean) / spread, (0, 1), value=1.0) for part in (features, validation))
    weights = torch.linalg.solve(a.T @ a + torch.eye(a.shape[1], dtype=a.dtype), a.T @ targets)
    return b @ weights


# %% [markdown]
# And a fourth figure: the accuracy of the network's *own* readout, applied early.


# %%
def right(guess):
    return (guess.argmax(dim=1) == rows.validation_targets).double().mean().item()


def explained(guess, truth):
    return 1 - ((guess - truth).square().sum() / (truth - truth.mean(dim=0)).square().sum()).item()


# %% [markdown]
# All of them, after the embedding and after each block:


# %%
@torch.no_grad()
def readouts(model):
    """Digit from the mean, from all tokens, by the network's own readout; pixels: (4, blocks + 1)."""
    inputs, classes, found = (rows.train_inputs, rows.validation_inputs), F.one_hot(rows.train_targets), []
    pixels = [part.flatten(0, 1) for part in inputs]
    streams = [model.embedding(part) + model.positions for part in inputs]
    for block in [nn.Identity(), *model.blocks]:
        fit, test = streams = [block(stream) for stream in streams]
        mean = linear_readout(fit.mean(dim=1), classes.double(), test.mean(dim=1))
        side_by_side = linear_readout(fit.flatten(1), classes.double(), test.flatten(1))
        own = model.readout(model.norm(test).mean(dim=1))
        row = linear_readout(fit.flatten(0, 1), pixels[0], test.flatten(0, 1))
        found.append([*map(right, (mean, side_by_side, own)), explained(row, pixels[1])])
    return np.array(found).T


# %% [markdown]
# Three networks, before training and after eight epochs:

# %%
plan = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 8, "batch_size": 50, "progress": False}


def before_and_after(seed):
    model = row_transformer("pre")(seed)
    found = readouts(model)
    train(model, rows, seed=seed, **plan)
    return found, readouts(model)


# %% [markdown]
# From three seeds:

# %%
before, after = zip(*parallel_map(before_and_after, range(3)).values(), strict=True)

# %% [markdown]
# Median and range of the three:

# %%
axes, blocks = plt.subplots(1, 2, sharey=True)[1], np.arange(7)
for ax, values, title in zip(axes, (after, before), ("TRAINED", "BEFORE TRAINING"), strict=True):
    values = np.array(values)
    plots.curve(blocks, values[:, 0], label="digit, from the mean", xlabel="block", title=title, ax=ax)
    plots.curve(blocks, values[:, 1], label="digit, from all tokens", ax=ax)
    plots.curve(blocks, values[:, 2], label="digit, own readout", ax=ax)
    plots.curve(blocks, values[:, 3], label="pixels (R²)", ax=ax)
    ax.set_ylim(0, 1.65)
axes[0].set(ylabel="accuracy, or R²", yticks=np.linspace(0, 1, 6));
# %% [markdown]
# In numbers:

# %%
for name, values in (("trained", after), ("before", before)):
    mean, everything, own, pixels = np.median(values, axis=0)
    print(f"{name:>8}: digit, from the mean, {mean[0]:.1g} to {mean[-1]:.2g} ({mean[1]:.1g} after block 1),")
    print(f"{'':>10}all tokens {everything[0]:.2g} to {everything[-1]:.2g} (best {everything.max():.2g}),")
    print(f"{'':>10}own readout {own[0]:.1g} to {own[-1]:.2g} ({own[1]:.1g} after block 1);", end="")
    print(f" pixels {pixels[0]:.1g} to {pixels[-1]:.1g}")

# %% [markdown]
# What the text below says of them:

# %%
start, end = np.median(after, axis=0)[:2, [0, -1]].T
assert mean.argmax() == 1 and end[0] > 0.9 > 0.6 > start[0]
assert start[1] > 0.9 and abs(end[1] - start[1]) < 0.04

# %% [markdown]
# **What you should see.** Look first at "from all tokens": 0.94 *before the first block*, and it hardly moves. The
# meaning is in the eight rows from the start, spread over them; the mean mixes it up, and knows the digit in half of
# the cases. What the trained blocks do is bring it to where the network reads: from the mean, 0.5 becomes 0.94. The
# pixels of the single rows fade meanwhile, from 1 to 0.4. So deeper layers do drift away: from the **input**, and
# towards a *form* in which the answer can be read. In the network before training the first block helps the mean a
# little (random features of several rows at once), and from there nothing gets better: drift without a direction. It is
# training that gives it one.
#
# The network's own readout shows the misreading to avoid. It finds the digit after block 1 in 0.3 of the cases, and a
# new readout of the same mean finds it in 0.8. "The network does not know it yet" would be wrong: its last layer has
# not learned that form.
#
# A small network on small pictures, and a linear readout: what it cannot find may still be there.

# %% [markdown]
# ## Check yourself
#
# **1.** A head attends with weight 1 to one token. Which of its four weight matrices still get a gradient from this
# query?
#
# <details><summary>Answer</summary>
#
# $W_V$ (for that token's value) and the output matrix. $W_Q$ and $W_K$ get none: $\text{diag}(p) - pp^\top = 0$.
#
# </details>
#
# **2.** $d_k = 64$ and somebody forgot to divide by $\sqrt{d_k}$. The mean gradient of $W_Q$ looks normal. Is all well?
#
# <details><summary>Answer</summary>
#
# No. The mean is made by the few queries that are near a tie; the typical query gets next to nothing. Look at the
# entropy of the attention, or at the median over queries.
#
# </details>
#
# **3.** Does a token in a sequence of 10 000 get a ten-thousandth of the gradient?
#
# <details><summary>Answer</summary>
#
# From one position that looks at all alike, yes. If every position has a target: about a hundredth, $1/\sqrt T$. And
# its own position's gradient comes through the skip, whole.
#
# </details>
#
# **4.** In the log of a Post-LN network the gradient of $W_Q$ is 1e-9 in block 30, and 1 in block 1. Vanishing
# gradient?
#
# <details><summary>Answer</summary>
#
# No: it is small next to the loss. Tokens have become equal. Check 1 − cosine between tokens and the entropy; then a
# smaller branch scale (DeepNorm), or Pre-LN.
#
# </details>
#
# **5.** Why does the last gradient of Pre-LN fall with the depth of the network, although the last block is always next
# to the loss?
#
# <details><summary>Answer</summary>
#
# The stream has grown like $\sqrt L$ by then, and the norm after it divides by that. The block's own contribution is a
# small part of a large sum.
#
# </details>
#
# **6.** In DeepNorm, $\alpha$ multiplies the skip. Why could we write it as a smaller branch?
#
# <details><summary>Answer</summary>
#
# $\mathrm{LN}(\alpha x + f) = \mathrm{LN}(x + f/\alpha)$: the norm does not see a common factor.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [08_transformers](../exercises/08_transformers/08_transformers.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You did attention by hand on five tokens, forward and backward, and met the Jacobian $\text{diag}(p) - pp^\top$.
# - You saw that $1/\sqrt{d_k}$ keeps the softmax soft at any $d_k$; that a sharp one starves the typical query, while
#   the mean falls slowly; and that a long sequence costs $1/T$ or $1/\sqrt T$, by what is read, and nothing at the
#   token's own position.
# - You predicted the growth of a Pre-LN stream, the exponent of its last gradient, and the exponential by which a
#   Post-LN stream makes its tokens equal; and without skips a cube in every layer.
# - You told a $W_Q$ that starves next to the loss from a gradient that vanishes on its way, by two numbers.
# - You moved the panels of the dashboard with $1/\sqrt{2L}$, DeepNorm and QK-norm, and no panel with RMSNorm, and saw
#   what warm-up does and what it does not.
# - You asked a trained network layer by layer: deeper layers drift away from the pixels, towards a form in which the
#   answer, which was there from the start, can be read from the mean.
#
# **So, where do gradients vanish in self-attention?** Not on their way through depth: the stream carries them. They
# vanish at the door of $W_Q$ and $W_K$, if the softmax is sharp or the tokens are equal.
#
# ## References
#
# - Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin (2017), *Attention is all you need*, NIPS.
# - Radford, Wu, Child, Luan, Amodei, Sutskever (2019), *Language models are unsupervised multitask learners*, OpenAI
#   (GPT-2).
# - Zhang, Sennrich (2019), *Root mean square layer normalization*, NeurIPS.
# - Xiong, Yang, He, Zheng, Zheng, Xing, Zhang, Lan, Wang, Liu (2020), *On layer normalization in the Transformer
#   architecture*, ICML.
# - Liu, Liu, Gao, Chen, Han (2020), *Understanding the difficulty of training Transformers*, EMNLP.
# - Henry, Dachapally, Pawar, Chen (2020), *Query-key normalization for Transformers*, Findings of EMNLP.
# - Dong, Cordonnier, Loukas (2021), *Attention is not all you need: pure attention loses rank doubly exponentially with
#   depth*, ICML.
# - Wang, Ma, Dong, Huang, Zhang, Wei (2022), *DeepNet: scaling Transformers to 1,000 layers*, arXiv 2203.00555.
# - Noci, Anagnostidis, Biggio, Orvieto, Singh, Lucchi (2022), *Signal propagation in Transformers: theoretical
#   perspectives and the role of rank collapse*, NeurIPS.
# - Dehghani et al. (2023), *Scaling vision Transformers to 22 billion parameters*, ICML (QK-norm).
#
# **Next:** [09 · Optimizers and depth](09_optimizers_and_depth.ipynb). Is deeper better, and can a better optimizer save a sick network?
