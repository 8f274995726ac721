# %% [markdown]
# # 04 · Initialization
#
# > **How large should a random weight be, exactly?**
#
# After this lesson you will be able to
#
# - say why weights must be random at all, and read it off the rank of a gradient;
# - derive the variances of LeCun, Xavier and He, measure them, and say what PyTorch's `nn.Linear` really draws;
# - tell why weight gradients alone can hide a network whose signals shrink ten thousandfold;
# - compare a scale that is kept with a *spectrum* that is kept, and let data choose the scale (LSUV);
# - find order, chaos and the edge between them, the depth to which a network trains, and the luck of a seed.
#
# **Before this:** [01 · The chain rule](01_chain_rule_intuition.ipynb),
# [02 · Sigmoid saturation](02_sigmoid_saturation.ipynb) for the factor $\sqrt\chi$ per layer, and
# [03 · ReLU and its variants](03_relu_and_variants.ipynb). **Time:** about 110 minutes, of which 50 are reading.
#
# Lesson 02 ended with a riddle: what pre-training had found was a good starting point. Here we write it down.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import data, explorers, initialization, networks, plots, session, signals, theory
from gradients_in_depth.training import sweep

session.start(seed=0)

# %% [markdown]
# ## 1 · By hand: one unit, one sum
#
# A unit adds up its inputs, each times a weight: $z = w_1 h_1 + \dots + w_n h_n$. Say there are $n = 4$ inputs, all ±1, and
# each weight is +0.5 or −0.5 with equal chance. Before you run the cell: how large can $z$ be, and how large is it usually?

# %%
h = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
signs = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=torch.float64)] * 4)  # (16, 4): all of them
z = signs @ h
for value in z.unique().tolist():
    print(f"z = {value:4.1f}   for {(z == value).sum().item():2d} of the 16 choices")

# %%
mean, mean_square = z.mean().item(), z.square().mean().item()
print(f"mean of z: {mean:.0f}   mean of z²: {mean_square:.3g}   4 · 0.5² · 1² = {4 * 0.5**2:.3g}")
assert mean_square == 1

# %% [markdown]
# Most of it cancels. Not 4 · 0.5 = 2 is typical but 1, because **variances add up**, and not sizes. For independent weights
# of mean 0,
#
# $$\mathbb E[z^2] = n \cdot \mathrm{Var}(w) \cdot \mathbb E[h^2] = \sigma_w^2\; \mathbb E[h^2],
# \qquad \sigma_w^2 = n\,\mathrm{Var}(w).$$
#
# This one line is the whole lesson. The number $\sigma_w^2$, called `weight_var` here, is what a scheme chooses. Too small, and
# every layer shrinks the signal; too large, and every layer magnifies it; and after 30 layers even a small mistake is
# raised to the 30th power. But first: why random?

# %% [markdown]
# ## 2 · Symmetry: why not zero, why not equal?
#
# **Predict.** A network of two hidden layers of 16 units starts (a) with all weights 0, (b) with all weights of a layer equal,
# (c) at random. After 100 steps of gradient descent on the digits, how many *different* units does its first layer have?

# %%
digits = data.digits(dtype=torch.float64)


def loss_on_digits(model):
    return F.cross_entropy(model(digits.train_inputs), digits.train_targets)


# %% [markdown]
# Two numbers tell it. The **rank** of the weight gradient of layer 2, a matrix of 16 × 16: rank 1 means that all its
# rows are multiples of one. And the number of different rows in the weights of layer 1.


# %%
def report(scheme, model, step):
    loss = loss_on_digits(model)
    (gradient,) = torch.autograd.grad(loss, model.blocks[1].linear.weight)
    rank = torch.linalg.matrix_rank(gradient).item()
    rows = len(model.blocks[0].linear.weight.detach().round(decimals=9).unique(dim=0))
    print(f"{scheme:>13}, step {step:3d}: loss {loss.item():.3g}, rank {rank:2d}, different units: {rows:2d}")
    return rank, rows


# %% [markdown]
# Each network takes 100 steps of plain gradient descent on all training images.

# %%
def descend(model, steps=100):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_on_digits(model).backward()
        optimizer.step()


# %%
found = {}
for scheme in ("zero", "constant", "xavier_normal"):
    model = networks.DeepMLP(2, 16, initialization=scheme, seed=0, dtype=torch.float64)
    report(scheme, model, 0)
    descend(model)
    found[scheme] = report(scheme, model, 100)
assert found == {"zero": (0, 1), "constant": (1, 1), "xavier_normal": (16, 16)}

# %% [markdown]
# **What you should see.** Zero weights get *no* gradient at all (rank 0): backward the signal is multiplied by weights, and
# they are 0. Only the biases of the readout learn how frequent each digit is. Equal weights do learn something, but the
# 16 units stay copies of each other for good. The network has width 16 on paper and width **1** in fact.
#
# **Why.** Two units of a layer with equal incoming and equal outgoing weights compute the same, and get the same gradient:
# $\partial\text{loss}/\partial w_{ij} = \delta_i\, h_j$, with the same $\delta_i$ for both. The same step keeps them equal. Gradient descent
# cannot tell them apart; only the start can. Randomness is not there to be near a solution. **It breaks the symmetry.**
#
# It is the weights that must differ. Biases can all be 0, and usually are.

# %% [markdown]
# ## 3 · LeCun, Xavier, He: one equation each
#
# Let a layer have `fan_in` inputs and `fan_out` outputs. Going forward a unit sums over `fan_in` inputs; going backward a
# gradient sums over `fan_out` outputs. So the same argument gives two wishes:
#
# $$\text{forward:}\;\; \mathrm{Var}(w) = \frac{1}{\text{fan\_in}} \qquad\qquad \text{backward:}\;\; \mathrm{Var}(w) = \frac{1}{\text{fan\_out}}.$$
#
# - **LeCun** (1998) grants the first. With $\tanh$, which is nearly the identity around 0, the scale is kept.
# - **Xavier** (Glorot, 2010) takes the mean of the two denominators, $2/(\text{fan\_in} + \text{fan\_out})$: a compromise.
# - **He** (2015) adds one fact about ReLU: it sets half of the signal to 0, $\mathbb E[\mathrm{relu}(z)^2] = \tfrac12 \mathbb E[z^2]$. To
#   make up for it, $2/\text{fan\_in}$. The square root of that 2 is called a **gain**.
#
# **Predict.** A linear layer goes from 64 to 256 units. Which of LeCun and Xavier keeps the forward signal, and which keeps
# the gradient?


# %%
def one_layer(scheme, seed):
    model = networks.DeepMLP(1, 256, initialization=scheme, seed=seed, dtype=torch.float64)
    weight = model.blocks[0].linear.weight  # (256, 64)
    x, g = data.gaussian_batch(64, 64, seed=100 + seed), data.gaussian_batch(64, 256, seed=200 + seed)
    return [(x @ weight.T).square().mean().item(), (g @ weight).square().mean().item()]


# %% [markdown]
# The median of eight draws, beside theory: `weight_var` itself going forward, and 256/64 times it going back.

# %%
for scheme in ("lecun_normal", "xavier_normal", "xavier_uniform", "he_normal"):
    forward, backward = np.median([one_layer(scheme, seed) for seed in range(8)], axis=0)
    weight_var = initialization.weight_variance(scheme, 64, 256)
    print(f"{scheme:>15}: forward {forward:.2g} (theory {weight_var:.2g}), ", end="")
    print(f"backward {backward:.2g} (theory {weight_var * 256 / 64:.2g})")
    assert abs(forward / weight_var - 1) < 0.05 and abs(backward / weight_var / 4 - 1) < 0.05

# %% [markdown]
# **What you should see.** All figures are mean squares. LeCun keeps the forward signal and lets the gradient grow by 4;
# Xavier keeps neither, and errs by 0.4 one way and 1.6 the other. Backward is always 256/64 = 4 times forward: one number cannot grant both wishes. Where all
# layers are equally wide the conflict is gone, and Xavier *is* LeCun: $\sigma_w^2 = 1$. This is why they are often confused.
#
# Normal or uniform made no difference. A uniform law on $[-a, a]$ has variance $a^2/3$, so $a = \sqrt{3\,\mathrm{Var}(w)}$ gives
# the same sum, and a sum of many terms does not remember the law of one.
#
# ### What PyTorch draws if you say nothing
#
# The source of `nn.Linear` calls `kaiming_uniform_(weight, a=math.sqrt(5))`. Kaiming is He's first name. Is it He's
# initialization?

# %%
torch.manual_seed(0)
layers = [nn.Linear(256, 256) for _ in range(8)]
measured = np.array([256 * layer.weight.var().item() for layer in layers])
theirs, he = (initialization.weight_variance(s, 256, 256) for s in ("pytorch_default", "he_normal"))
print(f"nn.Linear: weight_var {min(measured):.3g} to {max(measured):.3g}. ⅓ is {theirs:.3g}; He is {he:.3g}.")

# %% [markdown]
# No. The $a$ means "the slope of a leaky ReLU", and a slope of $\sqrt5$ gives $2/(1 + 5) = \tfrac13$: **a sixth of He's
# variance**. The name of a function is not what it draws. (The value is older than the function; it kept the behavior of
# an earlier library.)

# %% [markdown]
# ## 4 · Thirty layers of ReLU
#
# Three starts for 30 ReLU layers: PyTorch's default without its biases, Xavier, He. Theory from lesson 02:
# $\chi = \sigma_w^2 / 2$ per layer, for the variance going forward and for the squared gradient going back.
#
# **Predict.** What is left of the *variance* after 30 layers of Xavier: (a) about half; (b) about a thousandth; (c) about a
# billionth?


# %%
def quadratic(outputs):
    return outputs.square().mean() / 2


def relu_network(weight_var, seed):
    settings = {"in_features": 128, "activation": "relu", "initialization": "gaussian", "bias": False}
    return networks.DeepMLP(30, 128, gain=math.sqrt(weight_var), seed=seed, dtype=torch.float64, **settings)


def measure(weight_var, seed):
    x = data.gaussian_batch(1, 128, seed=100 + seed)  # one input: then one vector goes forward, one back
    x = x / x.square().mean().sqrt()
    return signals.measure(relu_network(weight_var, seed), x, loss_fn=quadratic, layers=networks.Block)


# %% [markdown]
# Eight seeds of each:

# %%
starts = {"PyTorch default": 1 / 3, "Xavier": 1.0, "He": 2.0}
runs = {name: [measure(weight_var, seed) for seed in range(8)] for name, weight_var in starts.items()}


# %% [markdown]
# This helper collects one quantity from all layers and seeds:


# %%
def series(name, key):
    """(seeds, layers) of one figure."""
    return np.array([run.series(key) for run in runs[name]])


# %% [markdown]
# Markers are the median of eight networks, bands their range, black lines $\sigma_w^2/2$ to the power of the layer.

# %%
axes, back = plt.subplots(1, 2)[1], np.arange(30)
for name, weight_var in starts.items():
    variance, gradient = series(name, "activation_variance"), series(name, "activation_gradient_rms")
    plots.layers(variance / variance[:, :1], label=name, ylabel="activation variance", ax=axes[0])
    plots.layers((weight_var / 2) ** back, kind="theory", label="theory", ax=axes[0])
    plots.layers(gradient / gradient[:, -1:], label=name, ylabel="activation gradient", ax=axes[1])
    plots.layers((weight_var / 2) ** (back[::-1] / 2), kind="theory", label="theory", ax=axes[1])
axes[0].get_legend().set_loc("lower left")
axes[1].get_legend().remove()

# %% [markdown]
# The variances in numbers:

# %%
for name, weight_var in starts.items():
    variance, law = series(name, "activation_variance"), (weight_var / 2) ** 29
    left = np.median(variance[:, -1] / variance[:, 0])
    print(f"{name}, layer 30 / layer 1: measured {left:.1g}, theory {law:.1g}")
    assert abs(math.log10(left / law)) < 0.6

# %% [markdown]
# **What you should see.** Answer (c). Xavier's derivation had no ReLU in it, and a factor of 2 per layer is forgotten 29 times.
# He's network keeps both, though its eight seeds drift apart with depth: we come to that in section 9. PyTorch's default
# loses 23 decades of variance (with its biases the forward signal is replaced by theirs, and the gradient still falls).

# %% [markdown]
# ## 5 · Misdiagnosis: the healthy weight gradients
#
# A colleague looks after the Xavier network. She has learned to compare the *weight* gradient in the first layer with that
# in the last, and does so.
#
# **Predict.** The activation gradient falls by $2^{-29/2} \approx$ 4e-5 on its way back. What ratio does she see?

# %%
for name in starts:
    weight, gradient = series(name, "weight_gradient_norm"), series(name, "activation_gradient_rms")
    seen, true = (np.median(values[:, 0] / values[:, -1]) for values in (weight, gradient))
    print(f"{name:>15}, layer 1 / layer 30: weight gradient {seen:.2g}, activation gradient {true:.1g}")
    assert 0.3 < seen < 3

# %% [markdown]
# About 1, in all three: 1.8. (It is *the same* number, because the same seeds draw the same networks but for a scale, and
# the scale drops out.) "No vanishing gradient here," she writes. Look at the three curves of Xavier together:

# %%
activation = np.sqrt(series("Xavier", "activation_variance"))
gradient, weight = series("Xavier", "activation_gradient_rms"), series("Xavier", "weight_gradient_norm")
ax = plots.layers(activation / activation[:, :1], label="activation, first layer = 1")
plots.layers(gradient / gradient[:, -1:], label="activation gradient, last layer = 1", ax=ax)
plots.layers(weight / weight[:, -1:], label="weight gradient, last layer = 1", ax=ax)
ax.set(ylabel="Xavier and ReLU", ylim=(1e-7, 20));

# %% [markdown]
# **Why.** For one input the weight gradient is the product of the two signals that meet in the layer,
#
# $$\left\lVert \frac{\partial\,\text{loss}}{\partial W_l} \right\rVert = \lVert \delta_l \rVert \cdot \lVert h_{l-1} \rVert
# \;\propto\; 2^{-(L-l)/2} \cdot 2^{-(l-1)/2} = 2^{-(L-1)/2}.$$
#
# One falls to the right, the other to the left, and the product is the same in *every* layer: equally small. A ratio of weight
# gradients cannot see it. **Plot the activation variance and the activation gradient, both.** (In lesson 02 the ratio did
# work, because sigmoid activations do not shrink.)

# %% [markdown]
# ## 6 · Does it train? He's thirty layers
#
# He and others showed in 2015 a 30-layer ReLU network (convolutional, on ImageNet) that learns from their start and stalls
# from Xavier's. Ours is much smaller: 30 layers of 24 units, on the digits, momentum 0.9 as in the paper, eight epochs.
# Each start gets its own best learning rate from the same grid, five seeds at each rate.

# %%
grid = (0.003, 0.01, 0.03)
plan = {"seeds": range(5), "epochs": 8, "batch_size": 75, "optimizer": "momentum"}


# %% [markdown]
# `sweep` trains all seeds at all rates side by side, as in lesson 02.

# %%
def deep_relu(scheme):
    settings = {"activation": "relu", "initialization": scheme, "dtype": torch.float64}
    return lambda seed: networks.DeepMLP(30, 24, seed=seed, **settings)


# %%
trained = {"Xavier": sweep(deep_relu("xavier_normal"), digits, learning_rates=grid, **plan)}

# %% [markdown]
# **Predict.** Xavier's weights are smaller than He's by a factor of only 1.41. Is the network slower to train, or does it not
# train?

# %%
trained["He"] = sweep(deep_relu("he_normal"), digits, learning_rates=grid, **plan)
ax = plots.sweeps(trained, chance=math.log(10), log_y=False)
ax.set_ylim(1, 2.6)
ax.get_legend().set_loc("lower left");

# %% [markdown]
# All rates of the grid, not only the best:

# %%
for name, run in trained.items():
    for rate, loss in zip(grid, run.loss_by_epoch[:, :, -1], strict=True):
        low, middle, high = min(loss), np.median(loss), max(loss)
        print(f"{name:>6}, rate {rate:5.3f}: loss {middle:.3g} (5 seeds: {low:.3g} to {high:.3g})")
assert (trained["Xavier"].loss_by_epoch[:, :, -1] > 2.29).all() and middle < 2

# %% [markdown]
# **What you should see.** The paper's result, on a small scale: from Xavier's start no seed leaves the cost of guessing,
# 2.303, at any rate. From He's start the network learns.
#
# Be honest about the second half. "Learns" is not "learns well": after eight epochs the He network is far from zero loss, and at
# the largest rate its seeds end anywhere between 1.33 and guessing. Its scale is right, but lesson 03 showed what else happens in deep ReLU networks: all inputs end up
# with nearly the same direction. And 24 units are few for 30 layers (section 9). A right scale is necessary. It is not
# everything.

# %% [markdown]
# ## 7 · A scale is one number; a Jacobian has many
#
# $\sigma_w^2$ fixes the *mean* of what happens to a signal. Lesson 01 warned that a stable norm is not a stable spectrum. Take
# the Jacobian of the output by the input, through 30 layers of 32 units, each with its critical gain (1, and √2 for ReLU),
# once with Gaussian weights, once with **orthogonal** ones: the same variance, but a random rotation ($W^\top W = 1$).
#
# **Predict.** Which of the three activations (identity, tanh, ReLU) lets the rotations keep *all* 32 singular values near 1?


# %%
def spectrum(activation, scheme, seed):
    settings = {"in_features": 32, "out_features": 32, "bias": False, "dtype": torch.float64}
    settings |= {"activation": activation, "gain": math.sqrt(2) if activation == "relu" else 1.0}
    model = networks.DeepMLP(29, 32, initialization=scheme, seed=seed, **settings)
    x = 0.1 * data.gaussian_batch(1, 32, seed=100 + seed)[0]  # small, where tanh is nearly straight
    return signals.jacobian_singular_values(model, x)


# %%
schemes, spectra = {"orthogonal": "orthogonal", "gaussian": "Gaussian"}, {}
for activation in ("identity", "tanh", "relu"):
    for scheme in schemes:
        values = [spectrum(activation, scheme, seed) for seed in range(8)]
        spectra[activation, scheme] = np.array(values)

# %% [markdown]
# For Gaussian weights without an activation there is a theory, the Lyapunov exponents of lesson 01: the black line. What lies
# below 1e-14 is lost in rounding, and drawn at the dotted line. (The theory is for ever more layers; after thirty the largest
# value is still above it.)

# %%
axes = plt.subplots(1, 3, sharey=True)[1]
rank, rates = np.arange(1, 33), theory.lyapunov_exponents(32, 32**-0.5)
for ax, activation in zip(axes, ("identity", "tanh", "relu"), strict=True):
    for scheme, label in schemes.items():
        values = np.maximum(spectra[activation, scheme], 1e-14)
        plots.curve(rank, values, label=label, xlabel="rank", log_y=True, ax=ax, title=activation)
    plots.guide(ax, 1e-14, "").set(ylim=(1e-16, 1e3), xticks=(1, 16, 32))
plots.curve(rank, np.exp(30 * rates), kind="theory", label="theory", ax=axes[0])
axes[0].set_ylabel("singular value")
for ax in axes:
    ax.get_legend().set_loc("lower left") if ax is axes[0] else ax.get_legend().remove()

# %% [markdown]
# The largest one, and one from the middle, medians of eight seeds:

# %%
for (activation, scheme), values in spectra.items():
    largest, middle = np.median(values[:, 0]), np.median(values[:, 15])
    kept = f"{middle:.1g}" if middle > 1e-14 else "0, but for rounding"
    print(f"{activation:>8}, {schemes[scheme]:>10}: largest {largest:.2g}, number 16 of 32: {kept}")
left = [np.median((spectra["relu", scheme] > 1e-14).sum(axis=1)) for scheme in schemes]
print(f"relu: {left[0]:.2g} of 32 are not lost with orthogonal weights, {left[1]:.2g} with Gaussian ones")
assert all(8 <= count <= 12 for count in left)
assert np.median(spectra["tanh", "orthogonal"][:, -1]) > 0.5
assert np.median(spectra["relu", "orthogonal"][:, 15]) < 1e-3

# %% [markdown]
# **What you should see.** With Gaussian weights the Jacobian is a needle in every network: a handful of directions are kept, and
# number 16 is lost by decades, even where the norm is fine. Rotations keep every direction in the linear network, exactly,
# and in the tanh network nearly: Pennington and others call it **dynamical isometry** (2017). It needs small $z$, where tanh
# is straight. In the ReLU network rotations do not help: each layer cuts about half of the directions, whatever the
# weights are, and after 30 layers about ten of 32 are left.
#
# **Why it matters.** A singular value of 1e-9 is a direction of the input about which the error says nothing. Saxe and others
# (2014) showed that deep linear networks with orthogonal starts learn as fast at any depth.

# %% [markdown]
# ## 8 · Ask the data: LSUV
#
# What if your activation is in nobody's table, or your inputs are not standard normal? Mishkin and Matas (2016): draw
# orthogonal weights, send one batch of data through, and divide each weight, layer after layer, by the standard deviation
# that its outputs have. *Layer-sequential unit variance*, LSUV. No derivation at all.
#
# **Predict.** Which factor will it find for ReLU? And for GELU, for which we derived nothing?


# %%
def lsuv_scales(activation, seed):
    model = networks.DeepMLP(15, 64, activation=activation, dtype=torch.float64)
    return initialization.lsuv(model, digits.train_inputs[:256], seed=seed)


# %%
names = ("relu", "gelu", "silu", "tanh")
found = {name: np.array([lsuv_scales(name, seed) for seed in range(8)])[:, :-1] for name in names}

# %% [markdown]
# If the outputs $z$ of a layer have variance 1, the next layer sees inputs of mean square $\mathbb E[\phi(z)^2]$, and has to multiply
# by one over its root. That is the theory here.

# %%
gains = {name: 1 / math.sqrt(theory.variance_map(1.0, name, 1.0)) for name in names}
for name, scales in found.items():
    print(f"{name}: in layer 3 LSUV finds {np.median(scales[:, 2]):.3g}, theory {gains[name]:.3g}")
    assert abs(np.median(scales[:, 2]) / gains[name] - 1) < 0.08

# %% [markdown]
# And in the other layers, for two of the four:

# %%
ax = plt.subplots()[1]
for name in ("relu", "tanh"):
    plots.layers(found[name], label=name, ylabel="factor that LSUV finds", log_y=False, ax=ax)
    plots.layers(np.full(15, gains[name]), kind="theory", label="theory", log_y=False, ax=ax)
ax.set_ylim(0.8, 2.4);

# %% [markdown]
# **What you should see.** For ReLU it finds about √2: He's gain, from data. For the others it finds theirs.
# In the first layer it finds about 1, because the digits are standardized already. In the ReLU networks the seeds
# spread: their units see more and more the same signal for every image, and 64 units cannot average over that.
#
# Mind what LSUV aims for. Unit variance means a gain of 1.59 for tanh, and that is a *chaotic* network (section 10). It keeps
# the forward scale, and promises nothing about the gradient.

# %% [markdown]
# ## 9 · The luck of a seed
#
# All formulas so far are for infinitely wide layers. In a real one the factor per layer is random, and a product of random
# factors spreads, on a log scale, like a random walk. For He-ReLU networks and one input
#
# $$\mathrm{Var}\bigl[\ln \lVert \text{gradient} \rVert\bigr] \approx \frac54 \cdot \frac{L}{n} .$$
#
# **Why.** Given a gradient $g$ at a layer's output, one step back gives the squared norm
# $2\, \lVert D g\rVert^2\, X$, where $D$ is 1 for active units and 0 for others, and $X$ is a chi-squared number with $n$ degrees
# of freedom, divided by $n$. The relative variance of $X$ is $2/n$; that of $\lVert D g \rVert^2 = \sum_i D_i g_i^2$, a sum in which a coin decides
# about every term, is $\sum g_i^4 / (\sum g_i^2)^2 \approx 3/n$ (a normal number has a fourth moment of 3). Together $5/n$ per layer. The
# layers are independent, so the logs add up; and the log of a norm is half that of its square, hence a quarter.
#
# What counts is **depth over width**: not how deep, but how deep for its width (Hanin and Rolnick 2018, Hanin and Nica 2020).
#
# **Predict.** Two networks of width 32 and depth 30, both with He's start, differ only in their seeds. By what factor do
# their gradients typically differ: (a) 1.05; (b) 1.5; (c) more than 4?


# %%
def log_gradient(width, depth=30, count=200):
    """ln of the gradient's norm, 0 to `depth` layers back: (count, depth + 1), one row for each network."""
    weights = data.gaussian_batch(count * depth * width, width, seed=100 + width)
    h = data.gaussian_batch(count, width, seed=1)[..., None].requires_grad_()
    hidden = [h]
    for weight in (weights * math.sqrt(2 / width)).reshape(depth, count, width, width):
        hidden.append(torch.relu(weight @ hidden[-1]))
    arriving = data.gaussian_batch(count, width, seed=2)[..., None]
    gradients = torch.autograd.grad(hidden[-1], hidden, arriving)
    logs = torch.stack([g.norm(dim=(1, 2)).log() for g in gradients[::-1]], dim=1)
    return (logs - logs[:, :1]).numpy()


# %%
logs = {width: log_gradient(width) for width in (16, 32, 64)}

# %% [markdown]
# Left: the gradient going back in 25 networks of each of two widths, between two standard deviations up and down. (The
# middle of the theory falls, as $e^{-\mathrm{Var}}$: He's start keeps the *mean* square, and a mean is made by the few networks with
# a large gradient. The typical one shrinks.) Right: the variance, in eight groups of 25 networks, against depth/width.

# %%
back = np.arange(1, 31)
laws = {w: np.array([theory.log_gradient_norm_variance(depth, w) for depth in back]) for w in logs}
axes = plt.subplots(1, 2)[1]
for width in (16, 64):
    plots.curve(back, np.exp(logs[width][:25, 1:]), label=f"width {width}", log_y=True, ax=axes[0])
    for deviations in (-2, 2):
        bound = np.exp(-laws[width] + deviations * np.sqrt(laws[width]))
        plots.curve(back, bound, kind="theory", label="theory, ± 2 deviations", ax=axes[0])
for width, values in logs.items():
    groups = values[:, 1:].reshape(8, 25, 30).var(axis=1, ddof=1)
    plots.curve(back / width, groups, label=f"width {width}", log_x=True, log_y=True, ax=axes[1])
    plots.curve(back / width, laws[width], kind="theory", label="theory", ax=axes[1])
axes[0].set(xlabel="layers back", ylabel="gradient norm, last layer = 1", ylim=(1e-4, 1e3))
axes[1].set(xlabel="depth / width", ylabel="variance of ln(gradient norm)");

# %% [markdown]
# After 30 layers, over all 200 networks:

# %%
for width, values in logs.items():
    measured, law = values[:, 30].var(ddof=1), laws[width][-1]
    between = math.exp(math.sqrt(2 * law))
    print(f"width {width}, 30 layers: variance {measured:.2g}, theory {law:.2g}; ", end="")
    print(f"two seeds typically differ by a factor {between:.2g},")
    apart = np.abs(values[:100, 30] - values[100:, 30]) > math.log(10)
    print(f"and by more than ten in {apart.mean():.0%} of 100 pairs")
    assert abs(math.log(measured / law)) < 0.4

# %% [markdown]
# **What you should see.** Answer (c). At width 32 two healthy networks from the same recipe typically differ by a factor of 4.6 in their
# gradients, and some pairs by more than ten. One run of one seed proves nothing about an initialization. This is why
# every figure of this course has a band, and one reason why the He networks of section 6, with 24 units, trained so
# differently. The law is the leading term for wide layers; at
# width 16 the measured variance is visibly larger.

# %% [markdown]
# ## 10 · Order, chaos, and the edge
#
# He's 2 and Xavier's 1 are two points of one picture. Let $\sigma_w$ and $\sigma_b$ be the standard deviations of
# weights (times √width) and biases. Two inputs of a tanh network then tell two stories: how their variance $q$ goes on, and
# how their **correlation** $c$ does,
#
# $$c_{l+1} = \frac{\sigma_w^2\; \mathbb E[\phi(u)\,\phi(v)] + \sigma_b^2}{q_{l+1}}, \qquad
# u, v \sim \mathcal N(0, q_l) \text{ with correlation } c_l .$$
#
# Equal inputs stay equal: $c = 1$ is always a fixed point. What happens *near* it depends on the slope there, and that slope is an
# old friend: $\chi = \sigma_w^2\, \mathbb E[\phi'(z)^2]$.
#
# **Predict.** If $\chi > 1$, so that gradients explode, do two nearly equal inputs come closer, or do they part?

# %% [markdown]
# The map from one layer to the next, at the fixed point of $q$, for $\sigma_b^2 = 0.05$:

# %%
c = np.linspace(0, 1, 41)
ax = plt.subplots(figsize=(6.5, 4.6))[1]
for sigma_w in (1.0, 1.33, 2.5):
    q = theory.fixed_point("tanh", sigma_w**2, 0.05)
    label = f"σ_w = {sigma_w:.3g}, χ = {theory.chi(q, 'tanh', sigma_w**2):.2g}"
    after = theory.correlation_map(c, "tanh", sigma_w**2, 0.05, q)
    plots.curve(c, after, label=label, xlabel="correlation now", kind="line", ax=ax)
plots.curve(c, c, kind="theory", label="no change", ax=ax).set(ylabel="one layer on", ylim=(0, 1.02))
ax.get_legend().set_loc("lower right")

# %% [markdown]
# They part, because what pulls two inputs apart is what makes gradients grow, the same matrices and slopes.
#
# - $\chi < 1$, **ordered**: every pair of inputs ends up equal. Gradients vanish.
# - $\chi > 1$, **chaotic**: every pair, however similar, ends up at one correlation below 1. Gradients explode.
# - $\chi = 1$, **the edge of chaos**: both change only slowly, as powers of the depth.
#
# Away from the edge the network forgets at a rate of its own: the distance from the end shrinks by e every
# $\xi_c = -1/\ln(\text{slope at the end})$ layers, for the variance every $\xi_q$. Measure it: 8 networks of width 256, two
# inputs of correlation 0.5.


# %%
@torch.no_grad()
def two_inputs(sigma_w, bias_var, seed, width=256, depth=40, cosine=0.5):
    """Correlation of the pre-activations for two inputs, by layer."""
    weights = data.gaussian_batch(depth * width, width, seed).reshape(depth, width, width) / math.sqrt(width)
    biases = data.gaussian_batch(depth, width, 1000 + seed) * math.sqrt(bias_var)
    a, b = torch.linalg.qr(data.gaussian_batch(width, 2, 2000 + seed)).Q.T * math.sqrt(width)
    h, found = torch.stack([a, cosine * a + math.sqrt(1 - cosine**2) * b]), []
    for weight, bias in zip(weights, biases, strict=True):
        z = sigma_w * h @ weight + bias
        found.append(F.cosine_similarity(z[0], z[1], dim=0).item())
        h = torch.tanh(z)
    return np.array(found)


# %% [markdown]
# One point in each phase and one on the edge, which `theory.critical_weight_var` finds.

# %%
edge = math.sqrt(theory.critical_weight_var(0.05))
points = {"ordered": 1.0, "edge": edge, "chaotic": 2.5}
measured = {}
for name, sigma_w in points.items():
    measured[name] = np.array([two_inputs(sigma_w, 0.05, seed) for seed in range(8)])

# %% [markdown]
# What remains of the difference between the two inputs, 1 − $c$, on a log scale:

# %%
ax = plt.subplots()[1]
for name, sigma_w in points.items():
    first = sigma_w**2 + 0.05
    start = (0.5 * sigma_w**2 + 0.05) / first
    law = theory.correlation_trajectory(40, "tanh", sigma_w**2, 0.05, first, start)
    plots.layers(1 - measured[name], label=f"{name}, σ_w = {sigma_w:.3g}", ax=ax)
    plots.layers(1 - law, kind="theory", label="theory", ylabel="1 − correlation", ax=ax)
ax.set_ylim(1e-7, 10)
ax.get_legend().set_loc("lower left")

# %% [markdown]
# The depth scales of theory, and one of them read off the measurement:

# %%
for name, sigma_w in points.items():
    scales = theory.depth_scales("tanh", sigma_w**2, 0.05)
    xi_c, six = (f"{x:.2g}" if x < 1e4 else "unbounded" for x in (scales.correlation, 6 * scales.correlation))
    print(f"{name:>8}: χ = {scales.chi:.3g}, ξ_q = {scales.variance:.2g}, ξ_c = {xi_c}, 6 ξ_c = {six}")
ordered = measured["ordered"]
rate = np.median((1 - ordered[:, 5]) / (1 - ordered[:, 25]))
print(f"ordered, measured over 20 layers: ξ_c = {20 / math.log(rate):.2g}")
assert abs(20 / math.log(rate) - 3.63) < 0.6

# %% [markdown]
# **What you should see.** On this log scale the ordered phase is a straight line down: after 40 layers the correlation of two
# different inputs is 1 but for about 1e-5. Chaos is flat at its own correlation, the same for *any* two images: the other way of
# forgetting. Only at the edge something of the difference is left, however deep.
#
# In the ordered phase the slope at the end is $\chi$ itself. So the vanishing gradient and the forgetting of inputs are one
# disease, with one depth $\xi_c$.
#
# ### Explore: the phase diagram
#
# The point is your network; the black line is $\chi = 1$. Look for the place from which both starts of the lower right picture
# take longest to meet, and read the trainable depth in the sentence.

# %% tags=["explorer"]
explorers.phase_diagram()

# %% [markdown]
# ### How deep can it be and still train?
#
# Schoenholz and others (2017) found that networks train up to a depth of about $6\,\xi_c$, and not beyond: the input must get
# through before anything can be learned from it. So the three points above make a prediction for training. Tanh
# networks of 24 units, 12 and 40 layers deep, on the digits, momentum, four epochs; each at its own best rate from
# one grid (that of section 6 and two larger rates), five seeds.
#
# **Predict.** Six networks. Which will train?

# %%
def tanh_network(depth, sigma_w):
    settings = {"initialization": "gaussian", "gain": sigma_w, "bias_var": 0.05, "dtype": torch.float64}
    return lambda seed: networks.DeepMLP(depth, 24, seed=seed, **settings)


# %% [markdown]
# First the three shallow ones, then the three deep ones.

# %%
plan |= {"epochs": 4, "learning_rates": (*grid, 0.1, 0.3)}
results = {}
for name, sigma_w in points.items():
    results[name, 12] = sweep(tanh_network(12, sigma_w), digits, **plan)

# %%
for name in ("ordered", "chaotic"):
    results[name, 40] = sweep(tanh_network(40, points[name]), digits, **plan)

# %% [markdown]
# And the one on the edge:

# %%
results["edge", 40] = sweep(tanh_network(40, edge), digits, **plan)

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: another processor may draw them a little differently.
axes = plt.subplots(1, 2, sharey=True)[1]
for ax, depth in zip(axes, (12, 40), strict=True):
    plots.sweeps({name: results[name, depth] for name in points}, log_y=False, ax=ax)
    plots.guide(ax, math.log(10), "guessing: ln 10" if depth == 12 else "")
    ax.set(title=f"{depth} layers", ylim=(0, 5), ylabel="training loss" if depth == 12 else "")
    ax.get_legend().set_loc("upper right")

# %% [markdown]
# After the last epoch:

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: in the digits shown another processor may differ. The assertion holds on all.
for (name, depth), run in results.items():
    loss = run.loss_by_epoch[run.best, :, -1]
    low, middle, high = min(loss), np.median(loss), max(loss)
    print(f"{depth} layers, {name:>7}: loss {middle:.2g} (5 seeds: {low:.2g} to {high:.2g})")
    assert (middle < 2) == (depth == 12 or name == "edge")

# %% [markdown]
# **What you should see.** At 12 layers all three learn. Forty layers are beyond $6\,\xi_c$ of both phases (22 and 32): the ordered
# networks stay at the cost of guessing, the chaotic ones begin far above it and hardly get below, and those at the edge
# learn, slowly. Theory drew that line from $\sigma_w$ and $\sigma_b$ alone, before any training.
#
# "About $6\,\xi_c$" is a rule found by experiment, not a theorem; more epochs or another optimizer move it. What does not move is
# the exponential behind it.
#
# The edge is a place to start from, and no promise: nothing keeps the weights there once training moves them. That is
# what lessons 05 and 06 are about.

# %% [markdown]
# ## Check yourself
#
# **1.** Somebody starts all weights at 0 "so that the network begins neutral", and adds random *biases* to break the symmetry.
# Does the first layer of a two-layer tanh network get a gradient in the first step?
#
# <details><summary>Answer</summary>
#
# No. Its gradient comes back through the weights of the next layer, and those are 0. The readout learns first (its inputs,
# the tanh of the biases, differ), and only then something arrives. It is a slow and needless detour.
#
# </details>
#
# **2.** A layer goes from 1000 to 10 units. Which variance would LeCun, Xavier and He give its weights?
#
# <details><summary>Answer</summary>
#
# 1/1000, 2/1010 and 2/1000. Xavier and He are close here by accident: the mean of the two fans is about 500.
#
# </details>
#
# **3.** The weight gradients of a deep ReLU network are equally large in all layers. What do you still need to see before you
# call it healthy?
#
# <details><summary>Answer</summary>
#
# The activation variance and the activation gradient by layer. Equal weight gradients can be a shrinking signal times a
# growing one. And their absolute size: equal and tiny is not healthy.
#
# </details>
#
# **4.** Two networks have the same scheme, depth 100 and width 50. Their gradients differ by a factor of 10. Is one of them broken?
#
# <details><summary>Answer</summary>
#
# No. The variance of the log is 5 · 100 / (4 · 50) = 2.5, a standard deviation of 1.6; between two seeds √2 times as much, a
# typical factor of 9. Make it wider, or less deep, or normalize.
#
# </details>
#
# **5.** Xavier with tanh, no biases: where is it in the phase diagram, and why do 100 layers of it work tolerably?
#
# <details><summary>Answer</summary>
#
# At the lower end of the critical line, $\sigma_w = 1$, $\sigma_b = 0$. Its variance falls only as $1/(2l)$, and the gradient as a
# power of the depth, and not exponentially.
#
# </details>
#
# **6.** Does an orthogonal start help a deep ReLU network as it helps a deep tanh network?
#
# <details><summary>Answer</summary>
#
# Hardly. The rotation keeps lengths, and then ReLU cuts about half of the directions of each layer. The spectrum collapses with
# rotations, too.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [04_initialization](../exercises/04_initialization/04_initialization.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You saw that equal weights stay equal, with a gradient of rank 1, and that randomness is there to break the symmetry.
# - You derived LeCun, Xavier and He from one sum of variances, measured all three, and found that PyTorch's default has a
#   weight variance of ⅓, a sixth of He's.
# - You looked at weight gradients that were equal in every layer of a network whose signals had shrunk, and know which two
#   curves to plot instead. On 30 layers of ReLU, Xavier stalled at every learning rate, and He learned.
# - You compared spectra: rotations keep all directions in linear and in nearly straight tanh networks, and not in ReLU
#   networks; and you let one batch of data find the gains (LSUV).
# - You found order and chaos, predicted from $\xi_c$ which of six networks would train, and know that the luck of a seed
#   is worth $\tfrac54 L/n$.
#
# **So, how large, exactly?** So large that the factor per layer is 1: $\sigma_w^2 = 2$ for ReLU without biases, 1 for tanh without
# biases, on the critical line with them. It is exact for one number only, the mean square of the signal, in a network
# much wider than it is deep.
#
# ## References
#
# - LeCun, Bottou, Orr, Müller (1998), *Efficient BackProp*, in Neural Networks: Tricks of the Trade, Springer.
# - Glorot, Bengio (2010), *Understanding the difficulty of training deep feedforward neural networks*, AISTATS.
# - Saxe, McClelland, Ganguli (2014), *Exact solutions to the nonlinear dynamics of learning in deep linear neural
#   networks*, ICLR.
# - He, Zhang, Ren, Sun (2015), *Delving deep into rectifiers: surpassing human-level performance on ImageNet
#   classification*, ICCV.
# - Mishkin, Matas (2016), *All you need is a good init*, ICLR.
# - Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli (2016), *Exponential expressivity in deep neural networks through
#   transient chaos*, NIPS.
# - Schoenholz, Gilmer, Ganguli, Sohl-Dickstein (2017), *Deep information propagation*, ICLR.
# - Pennington, Schoenholz, Ganguli (2017), *Resurrecting the sigmoid in deep learning through dynamical isometry: theory
#   and practice*, NIPS.
# - Hanin, Rolnick (2018), *How to start training: the effect of initialization and architecture*, NeurIPS.
# - Hanin, Nica (2020), *Products of many large random matrices and gradients in deep neural networks*, Communications in
#   Mathematical Physics 376.
#
# **Next:** [05 · Batch normalization](05_batch_norm.ipynb). Can normalization prevent vanishing, and what does it cost?
