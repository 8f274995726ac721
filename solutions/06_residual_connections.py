# %% [markdown]
# # Exercises 06 · What the plus sign does, and what it does not
#
# For [lesson 06](../../notebooks/06_residual_connections.ipynb). Five exercises, 95 minutes, 15 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | How loud may a branch be? | 10 | warm-up | 2 |
# | 2 | The first block, and the last ones | 15 | easy | 2 |
# | 3 | A knob on all branches | 20 | medium | 3 |
# | 4 | "The skips keep the gradient at 1" | 20 | medium | 4 |
# | 5 | A door at the end of each block | 30 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from gradients_in_depth import checks, data, networks, plots, session, signals, theory

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · How loud may a branch be?
#
# *10 minutes · warm-up · 2 points*
#
# Somebody builds `depth` blocks $x + a\,W\varphi(x)$, where $\varphi$ is a leaky ReLU: it multiplies negative numbers by
# `slope`, and leaves the others as they are. The weights are independent, Gaussian, of mean 0, and *not* of He's size: their variance
# times `fan_in` is `weight_var`. Half of the units are positive. On its way back the gradient grows: before the first block, its
# *root* mean square over many units is to be `growth` times as large as behind the last one.
#
# Return the $a > 0$ at which it grows by just that, on average over weights (that is, the mean *square* grows by the square
# of `growth`). Exactly: `depth` may be 3.


# %% answer loudest_branch
def loudest(depth, growth, weight_var, slope):
    """The branch scale at which the gradient's root mean square grows by `growth`: a number."""
    ### BEGIN SOLUTION
    passed = weight_var * (1 + slope**2) / 2  # what W and the leaky ReLU do to a mean squared message
    factor = growth ** (2 / depth)  # of one block, for the mean square: 1 + a² · passed
    return math.sqrt((factor - 1) / passed)
    ### END SOLUTION


# %% check loudest_branch
checks.loudest_branch(loudest)
### BEGIN HIDDEN TESTS
checks.loudest_branch(loudest, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2 · The first block, and the last ones
#
# *15 minutes · easy · 2 points*
#
# Veit and others took single blocks out of a trained residual network, and hardly anything happened. Take a network at its *start*:
# 60 blocks $x + W\,\text{relu}(N(x))$ with batch normalization and He's weights. As in the lesson, a block with $l$ blocks before it
# multiplies a mean squared message by $1 + f_l$: the 1 comes along the skip, and $f_l = 1/\bigl(1 + (1 - \frac1\pi)\,l\bigr)$
# through the branch. The very first block has $l = 0$.
#
# Paths that use the branch of the *first* block carry a share of the squared gradient; what remains without them goes around it. Now
# leave the first block in, and strike out *last* blocks instead: the 60th, the 59th, and so on. Only paths that use none of
# their branches remain, and all factors stay what they were.
#
# **Predict** first, by a guess: how many last blocks have to go until no more remains than without the first one alone? Then count,
# with paper or a loop. Answer the smallest such number.

# %% answer blocks_like_the_first
count = None  # a whole number
### BEGIN SOLUTION
remain = np.cumprod([1 / (1 + 1 / (1 + (1 - 1 / math.pi) * before)) for before in range(59, -1, -1)])
count = int(np.argmax(remain <= 1 / 2)) + 1  # around several blocks: the product; around the first: a half
### END SOLUTION

# %% check blocks_like_the_first
checks.blocks_like_the_first(count)

# %% [markdown]
# To think about, without points: of 6000 blocks, about how many would have to go? Guess before you open the answer.
#
# <details><summary>Answer</summary>
#
# The same *share* of them, nearly two fifths. With $c = 1 - \frac1\pi$, a block leaves $(1 + cl)/(2 + cl)$, which is close to
# $\bigl((1 + cl)/(1 + c(l+1))\bigr)^{1/c}$, and then the product has only its two ends left: about $(m/L)^{1/c}$ remains when $m$ of $L$
# blocks stay. That is a half at $m/L = 2^{-c} = 0.62$. So an early block is worth many late ones, and the deeper the network, the more.
#
# </details>
#
# ## Exercise 3 · A knob on all branches
#
# *20 minutes · medium · 3 points*
#
# How long are the paths of a network that you may not open? In the lesson the gradients of all lengths were carried along one by
# one. Here you get a closed box with a single knob. At $t$ each block turns a message $g$ into $g + t\,J^{\!\top}g$ on its way
# back: at 1 it is the network itself, at 0 its branches are silent, and the Jacobians $J$ of the branches do not change with $t$.
#
# `squared_gradient(t)` is the mean squared gradient that arrives at the input, averaged over so many draws of the weights that
# contributions of different paths do not correlate. You may call it as often as you like, for any $t \ge 0$. How many blocks there
# are, and how loud each branch is, you are not told, and they may all differ.
#
# Return the mean number of branches on a path at $t = 1$, each path weighted by its share of the squared gradient.
# To 1 %.


# %% answer mean_path_length
def mean_length(squared_gradient):
    """The mean number of branches on a path of the network itself: a number."""
    ### BEGIN SOLUTION
    # S(t) = sum over k of c_k t^(2k), and the mean of k is sum k c_k / sum c_k: half of d ln S / d ln t at 1.
    step = 1e-4
    louder, softer = squared_gradient(math.exp(step)), squared_gradient(math.exp(-step))
    return math.log(louder / softer) / (2 * step) / 2
    ### END SOLUTION


# %% check mean_path_length
checks.mean_path_length(mean_length)
### BEGIN HIDDEN TESTS
checks.mean_path_length(mean_length, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Networks of 30 blocks with a law from the lesson, by your function:

# %%
for name, factor in {"1": 1.0, "1/√L": 1 / 30}.items():
    found = mean_length(lambda t, factor=factor: (1 + t**2 * factor) ** 30)
    print(f"a = {name:>4}: {found:.3g} branches")
flow = theory.residual_flow(30, 1.0, normalization="batch")
print(f"batch norm: {mean_length(lambda t: np.prod(1 + t**2 * flow.branch_factors)):.3g} branches")

# %% [markdown]
# ## Exercise 4 · "The skips keep the gradient at 1"
#
# *20 minutes · medium · 4 points*
#
# With $a = 1$ every block doubles the mean square of signal and gradient. So a colleague divides: her blocks are
# $\bigl(x + W\,\text{relu}(x)\bigr)/\sqrt2$, with He's weights. Here are 30 of them, beside the lesson's $a = 1/\sqrt L$:


# %%
class Halved(networks.Block):
    def forward(self, x):
        return super().forward(x) / math.sqrt(2)


# %% [markdown]
# Hers take the place of the others:


# %%
def blocks_of_thirty(divided, seed):
    settings = {"activation": "relu", "initialization": "he_normal", "bias": False, "dtype": torch.float64}
    settings |= {"in_features": 64, "out_features": 64, "skip": True, "pre_activation": True}
    model = networks.DeepMLP(30, 64, branch_scale=1.0 if divided else 30**-0.5, seed=seed, **settings)
    for number, block in enumerate(model.blocks if divided else []):
        model.blocks[number] = Halved(block.linear, block.activation, skip=True, pre_activation=True)
    return model


# %% [markdown]
# A random message is sent in behind the last block:


# %%
def sent_in(outputs, message):
    return (outputs * message).sum()


# %% [markdown]
# Its root mean square by layer, eight seeds:

# %%
ax = plt.subplots()[1]
for name, divided in {"divided by √2": True, "a = 1/√L": False}.items():
    gradients = []
    for seed in range(8):
        inputs, message = data.gaussian_batch(128, 64, seed=100 + seed).split(64)
        model = blocks_of_thirty(divided, seed)
        found = signals.measure(model, inputs, message, loss_fn=sent_in, layers=networks.Block)
        gradients.append(found.series("activation_gradient_rms"))
    plots.layers(gradients / np.array(gradients)[:, -1:], label=name, ylabel="gradient, last = 1", ax=ax)
ax.set_ylim(0.1, 10);

# %% [markdown]
# She writes: "Neither of us sees a gradient that vanishes or explodes. The skips keep it at 1, so it goes straight from the loss to
# the first layer, and mine need no number that depends on the depth." Then both train on the digits as in section 4 of
# the lesson (24 units, three epochs at 0.03). Hers ends with a loss of about 1.8, as a *plain* network (one without skips) of 15 layers does;
# the other one's with about 0.14.
#
# Answer in five to nine sentences. What exactly is about 1 here, and what is it that goes straight to the first layer? Where does the
# number 15 come from? What would you measure, besides the scale, to tell the two networks apart before the first step, and
# what would you see in each? And how would you keep the mean square at *exactly* 1 (on average, forward and back), and still
# have a network that learns?

# %% text level_and_deep [markdown]
# What is about 1 is the *sum* over all paths, of which none is 1. The path that takes every skip is divided by √2 in each block like
# everything else: of its square only $2^{-30}$ is left, a billionth, so nothing goes straight to the first layer. In each block half of
# the squared gradient comes from the skip and half from the branch, so that a typical path goes through 15 of the 30 branches, exactly as
# with $a = 1$: dividing a stream by a number makes all paths smaller alike, and changes no share. (ReLU passes a
# scale on, so at the start her network *is* the one with $a = 1$, divided by $2^{15}$.) A gradient that has come through 15 random
# layers is that of a plain network of 15 layers, and so is the training. I would measure the shares of the squared gradient by
# length of path (15 on average in hers, 1 in the other), or the cosine of two inputs after the last block, which is close to 1 in hers, and
# hardly above that of the inputs in the other; the singular values of the whole Jacobian would show it, too: spread over many
# decades, or over little more than one. To keep the mean square at 1, shrink the branch and not the stream:
# $\sqrt{1 - \frac1L}\;x + \frac{1}{\sqrt L}\,W\,\text{relu}(x)$. The squares still add up to 1, and of the path along the skips
# $(1 - \frac1L)^L$ is left: more than a third, for 30 blocks and for 3000. (Branches that start at 0 do it, too.)
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *What is 1:* the sum over paths, or the mean square of the whole gradient; the path along the skips loses a half of its square in
#   each block. (Half a point for "the skip is divided, too" without what follows for 30 blocks.)
# - *Where 15 comes from:* half of each block's squared gradient comes through the branch, so a typical path has half of the branches;
#   or: it is the network with $a = 1$ up to a number, and that has 15. (No point for "half of 30" without a reason.)
# - *Measurement, with both outcomes:* one of path lengths (or the knob of exercise 3), correlation of inputs, singular values, or
#   how alike the gradients of neighboring inputs are; and what it shows in either network. (Half a point without the outcomes. The scale
#   or the gradient norm by layer: no point, for these are what agrees.)
# - *Remedy:* weights of stream and branch whose squares add up to 1, with a branch of about 1/L; or branches that are 0 at
#   the start. (Half a point for $a = 1/\sqrt L$ alone: it learns, and its mean square grows to $e$.)
#
# Take off one point, once, for "her gradient vanishes" or "the learning rate was too small" without more.

# %% [markdown]
# ## Exercise 5 · A door at the end of each block
#
# *30 minutes · expert · 4 points*
#
# In the original order of 2015 a ReLU stands *on the stream*: $x_l = \text{relu}\bigl(x_{l-1} + a_l\,N(W_l\,x_{l-1})\bigr)$. It is a
# door: for a unit that it sets to 0 nothing comes back, not even along the skip. A fresh ReLU layer shuts half of its doors, and
# $2^{-50}$ would be left after fifty. Is that what a ReLU on the stream does?
#
# The network is very wide, its weights are random, and $N$ is batch normalization: for every unit and every example, what a block adds
# is a normal number of mean 0 and standard deviation $a_l$, independent of all that was added before. Block 1 has no skip:
# $x_1 = \text{relu}\bigl(a_1\,N(W_1\,x_0)\bigr)$. A unit is *open* in an example when none of the ReLUs from the first to
# the last has cut it; along its skips a message comes back untouched. `scales` is an array of shape (blocks,) of the $a_l$, all positive, 1 to
# 30 of them. Return the share of units that are open, averaged over units and examples. To 4 %. (A simulation with a seed of its own
# is welcome; it should take no more than seconds.)


# %% answer open_units
def open_share(scales):
    """The share of units that no ReLU has cut, from the first block to the last: a number."""
    ### BEGIN SOLUTION
    # As long as a unit has not been cut, it has never noticed a ReLU: it is just the sum of what was
    # added. So it is open if all partial sums are positive. No layers needed, only sums.
    rng = np.random.default_rng(0)
    added = scales[:, None] * rng.normal(size=(len(scales), 200_000))
    return (added.cumsum(axis=0) > 0).all(axis=0).mean()
    ### END SOLUTION


# %% check open_units
checks.open_units(open_share)
### BEGIN HIDDEN TESTS
checks.open_units(open_share, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Real networks of width 128, with the doors counted, beside yours:


# %%
def doors(scales, seed, width=128):
    """Share of units that were open from block 1 to each block: (blocks,)."""
    x, is_open, found = data.gaussian_batch(64, width, seed), torch.tensor(True), []
    weights = data.gaussian_batch(len(scales) * width, width, 100 + seed).reshape(-1, width, width)
    for number, (scale, weight) in enumerate(zip(scales.tolist(), weights, strict=True)):
        z = x @ weight
        z = scale * (z - z.mean(0)) / z.std(0, correction=0)
        x = torch.relu(z + x if number else z)
        is_open = is_open & (x > 0)
        found.append(is_open.double().mean().item())
    return found


# %% [markdown]
# Thirty blocks, with all scales 1 and with $1/\sqrt{30}$ from the second on:

# %%
rest_of = {"all scales 1": 1.0, "1, then 1/√30": 30**-0.5}
scales_of = {name: np.array([1.0] + [rest] * 29) for name, rest in rest_of.items()}

# %% [markdown]
# Theirs with the range of eight seeds, yours as a line:

# %%
ax, blocks, few = plt.subplots()[1], np.arange(1, 31), (1, 2, 5, 10, 20, 30)
for name, scales in scales_of.items():
    plots.layers([doors(scales, seed) for seed in range(8)], label=name, ax=ax)
    yours = [open_share(scales[:number]) for number in few]
    plots.curve(few, yours, kind="theory", label="yours", ax=ax)
plots.layers(0.5**blocks, kind="line", label="half of the doors", ylabel="share of units open", ax=ax)
ax.set_ylim(1e-3, 1.2);

# %% [markdown]
# To think about, without points: for equal scales the share does not depend on the scale, nor on the law of what is added,
# so long as it is symmetric and no number has a probability of its own. What is it after $n$ blocks, and after a thousand?
#
# <details><summary>Answer</summary>
#
# $\binom{2n}{n}/4^n$, which is close to $1/\sqrt{\pi n}$ (Sparre Andersen 1953): 11 % after 30 blocks and 1.8 % after
# a thousand, where coins would have left $2^{-1000}$. A unit that has been positive for long is far from 0. So a ReLU on the
# stream does not make it a network without skips. It turns an exponential into a power, and it costs a power where the clean
# stream of pre-activation costs nothing.
#
# </details>

# %%
for depth in (30, 1000):
    exact, root = math.comb(2 * depth, depth) / 4**depth, 1 / math.sqrt(math.pi * depth)
    print(f"{depth:4d} blocks: {exact:.3g}, and 1/√(πn) = {root:.3g}")
