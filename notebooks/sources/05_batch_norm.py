# %% [markdown]
# # 05 · Batch normalization
#
# > **Can normalization prevent vanishing, and what does it cost?**
#
# After this lesson you will be able to
#
# - write BatchNorm forward and backward by hand, and say what each of its two modes computes with;
# - predict from one formula which normalization saves which network, and what it costs per layer;
# - tell why a layer before BatchNorm does not care how large its weights are, and what weight decay then does;
# - say what is left of "internal covariate shift", and know BatchNorm, LayerNorm, GroupNorm, InstanceNorm and RMSNorm
#   by their axes;
# - recognize a forgotten `eval()` and stale running statistics before you call them overfitting.
#
# **Before this:** [02 · Sigmoid saturation](02_sigmoid_saturation.ipynb) for the ten layers that did not train,
# [03 · ReLU and its variants](03_relu_and_variants.ipynb) for inputs that become alike, and
# [04 · Initialization](04_initialization.ipynb). **Time:** about 110 minutes, of which 50 are reading.
#
# Lesson 04 chose the scale of the weights once, at the start, and training was free to spoil it. Here the network
# measures its own scale in every step, and divides by it.

# %%
import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import data, explorers, networks, pictures, plots, session, signals, theory
from gradients_in_depth.session import parallel_map
from gradients_in_depth.training import sweep, train

session.start(seed=0)
digits = data.digits(dtype=torch.float64)

# %% [markdown]
# ## 1 · By hand: four numbers
#
# One unit sees a batch of four examples, and its pre-activations are 1, 1, 5 and 5. **Batch normalization** subtracts their
# mean, 3, and divides by their standard deviation, 2. What comes out?


# %%
def normalize(*z):
    z = torch.tensor(z, dtype=torch.float64)
    return ", ".join(f"{y:.2f}" for y in (z - z.mean()) / z.std(correction=0))


# %% [markdown]
# **Predict.** The weights of the unit become a hundred times larger; then all its inputs are moved by 7; then only the *last*
# example changes, from 5 to 13. In which of the three cases does the output for the *first* example change?

# %%
for z in ([1, 1, 5, 5], [100, 100, 500, 500], [8, 8, 12, 12], [1, 1, 5, 13]):
    print(f"{z!s:>20}  becomes  {normalize(*z)}")
assert normalize(1, 1, 5, 5) == normalize(100, 100, 500, 500) == normalize(8, 8, 12, 12)

# %% [markdown]
# **What you should see.** Scale and shift drop out. But in the last case three examples whose inputs did *not* change get
# other outputs, because a fourth did. What the network says about one image now depends on the images that happen to lie
# beside it. All that is good and all that is bad about BatchNorm is in these four lines.
#
# And a batch of two?

# %%
print(f"3 and 3.1 become {normalize(3, 3.1)};   0 and 1000 become {normalize(0, 1000)}")

# %% [markdown]
# Always −1 and 1. In a batch of two a normalized unit can say who is larger, and nothing else. Keep it in mind.

# %% [markdown]
# ## 2 · Forward and backward, written out
#
# For each unit, over the $B$ examples of the batch, with a small $\epsilon$ against division by 0:
#
# $$y_b = \frac{z_b - \mu}{\sigma}, \qquad \mu = \frac1B \sum_b z_b, \qquad
# \sigma^2 = \frac1B \sum_b (z_b - \mu)^2 + \epsilon, \qquad \text{output}_b = \gamma\, y_b + \beta .$$
#
# $\gamma$ (scale) and $\beta$ (shift) are learned, one pair for each unit; section 4 says what for.


# %%
def batch_norm(z, gamma, beta, eps=1e-5):
    """z (batch, units) -> output, y, sigma."""
    sigma = (z.var(dim=0, correction=0) + eps).sqrt()
    y = (z - z.mean(dim=0)) / sigma
    return gamma * y + beta, y, sigma


# %% [markdown]
# Backward, $z_b$ acts in three ways: directly, through $\mu$ (in which it has a share of $1/B$), and through $\sigma$, whose
# derivative is $\partial\sigma / \partial z_b = y_b / B$. With $g_b = \gamma \cdot \partial\text{loss}/\partial\text{output}_b$ they are the
# three terms of
#
# $$\frac{\partial\,\text{loss}}{\partial z_b} = \frac1\sigma \Bigl( g_b \;-\; \frac1B\sum_c g_c \;-\; y_b\, \frac1B \sum_c g_c\, y_c \Bigr).$$


# %%
def batch_norm_backward(arriving, gamma, y, sigma):
    """The gradient by the output -> the gradients by z, gamma and beta."""
    g = gamma * arriving
    by_z = (g - g.mean(dim=0) - y * (g * y).mean(dim=0)) / sigma
    return by_z, (arriving * y).sum(dim=0), arriving.sum(dim=0)


# %% [markdown]
# The judge is autograd, through PyTorch's own `nn.BatchNorm1d`, in float64:

# %%
module = nn.BatchNorm1d(6, dtype=torch.float64)
module.weight.data, module.bias.data = data.gaussian_batch(2, 6, seed=1)
z = (3 + 2 * data.gaussian_batch(8, 6, seed=2)).requires_grad_()
arriving = data.gaussian_batch(8, 6, seed=3)
autograd = torch.autograd.grad(module(z), (z, module.weight, module.bias), arriving)

# %% [markdown]
# Ours, on the same numbers:

# %%
output, y, sigma = batch_norm(z, module.weight, module.bias)
ours = batch_norm_backward(arriving, module.weight, y, sigma)
for name, a, b in zip(("z", "gamma", "beta"), ours, autograd, strict=True):
    print(f"gradient by {name:>5}: equal to autograd's to 1e-12: {torch.allclose(a, b, rtol=0, atol=1e-12)}")
    assert (a - b).abs().max() < 1e-6
assert (output - module(z)).abs().max() < 1e-12

# %% [markdown]
# Read the bracket once more. It takes two things out of the gradient: its mean over the batch, and its component along $y$. No
# wonder: to move all $z$ alike, or to stretch them, changes no output. A gradient has $B$ numbers for each unit, and
# **two of them are lost**. Of the $B - 2$ that remain all are divided by $\sigma$: weights that are too large, and hence a large $\sigma$,
# make the gradient *smaller*. That is a thermostat.
#
# **Predict.** In a batch of two, what is the gradient by $z$?

# %%
def share_kept(batch):
    """Mean square of the bracket, for arriving gradients of mean square 1, over 1000 units."""
    _, y, sigma = batch_norm(data.gaussian_batch(batch, 1000, seed=4), 1.0, 0.0, eps=0)
    by_z, _, _ = batch_norm_backward(data.gaussian_batch(batch, 1000, seed=5), 1.0, y, sigma)
    return (by_z * sigma).square().mean().item()


# %% [markdown]
# Two of $B$ numbers lost should leave a share of $(B-2)/B$.

# %%
for batch in (2, 3, 4, 8, 64):
    kept, law = share_kept(batch), (batch - 2) / batch
    print(f"batch of {batch:2d}: the bracket keeps {kept:.2f} of the squared gradient, theory {law:.2f}")
    assert abs(kept - law) < 0.05

# %% [markdown]
# Exactly nothing, $(B-2)/B = 0$. Two examples through one BatchNorm layer: the layers below get **no gradient at all** (but
# for a trace that $\epsilon$ lets through). So much for "normalization prevents vanishing".

# %% [markdown]
# ## 3 · Two modes, and the forgotten `eval()`
#
# When the network is used, there may be one image and no batch. So each BatchNorm keeps **running statistics** while it trains, and uses
# them, instead of the batch's, in evaluation mode:
#
# $$\text{running} \leftarrow (1 - m)\cdot\text{running} + m \cdot \text{batch}, \qquad m = \texttt{momentum} = 0.1 .$$
#
# Beware of the name. It has nothing to do with the optimizer's momentum, and other libraries call $1 - m$ momentum: their 0.99
# is PyTorch's 0.01. (And for the running variance PyTorch divides by $B - 1$.)
#
# **Predict.** The true mean is 5, and running statistics start at 0. With $m = 0.01$, what does the running mean say after
# 90 batches, five epochs of our digits?


# %%
def running_mean(momentum, seed):
    """After each of 120 batches of 64 numbers of mean 5: (120,)."""
    layer = nn.BatchNorm1d(1, momentum=momentum, dtype=torch.float64)
    batches = 5 + data.gaussian_batch(120 * 64, 1, seed).reshape(120, 64, 1)
    return np.array([(layer(batch), layer.running_mean.item())[1] for batch in batches])


# %% [markdown]
# Eight runs at two momenta; the black lines are $5\,(1 - (1 - m)^n)$, the sum of a geometric series:

# %%
steps, ax = np.arange(1, 121), plt.subplots()[1]
for momentum in (0.1, 0.01):
    found = np.array([running_mean(momentum, seed) for seed in range(8)])
    plots.curve(steps, found, label=f"momentum {momentum:g}", xlabel="batches seen", ax=ax)
    plots.curve(steps, 5 * (1 - (1 - momentum) ** steps), kind="theory", label="5 (1 − (1 − m)ⁿ)", ax=ax)
ax.set(ylabel="running mean", ylim=(0, 6));

# %% [markdown]
# And after 90 batches:

# %%
print(f"momentum 0.01, 90 batches: {np.median(found[:, 89]):.2g}, theory {5 * (1 - 0.99**90):.2g}")
assert abs(np.median(found[:, 89]) - 2.98) < 0.1

# %% [markdown]
# 3, and not 5: two fifths of what it says is still the 0 it started with. We shall meet this again.
#
# Now the famous bug. Five networks of three ReLU layers with BatchNorm learn the digits. Each is then asked about the validation images, in
# evaluation mode, and four times with `eval()` forgotten.


# %%
def normalized(seed, depth=3, normalization="batch", width=32):
    settings = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64}
    return networks.DeepMLP(depth, width, normalization=normalization, seed=seed, **settings)


# %% [markdown]
# Five epochs, one learning rate; nothing is compared yet.

# %%
plan = {"optimizer": "momentum", "learning_rate": 0.03, "epochs": 5, "batch_size": 75, "progress": False}
trained = [normalized(seed) for seed in range(5)]
for seed, model in enumerate(trained):
    train(model, digits, seed=seed, **plan)


# %% [markdown]
# The model is copied before it is asked, because in training mode even asking changes it: the running statistics move.


# %%
@torch.no_grad()
def accuracy(model, inputs, targets, training, batch=None):
    """Share of right answers, asked in batches of `batch` (None: all at once)."""
    model = copy.deepcopy(model).train(training)
    batch = batch or len(inputs)
    parts = [model(part).argmax(dim=1) for part in inputs.split(batch) if len(part) == batch]
    return (torch.cat(parts) == targets[: batch * len(parts)]).double().mean().item()


# %% [markdown]
# The same 450 images, once in random order and once sorted by digit, in batches of 32, or of 4.
#
# **Predict.** Same weights, same images. Does the *order* of the images matter?

# %%
images, labels = digits.validation_inputs, digits.validation_targets
order, asked = labels.argsort(stable=True), {}
asked["eval()"] = [accuracy(model, images, labels, False) for model in trained]
for batch in (32, 4):
    asked[f"forgotten, batches of {batch}"] = [accuracy(m, images, labels, True, batch) for m in trained]
    shares = [accuracy(m, images[order], labels[order], True, batch) for m in trained]
    asked[f"forgotten, batches of {batch}, sorted"] = shares

# %% [markdown]
# Median and range of the five networks:

# %%
for name, shares in asked.items():
    print(f"{name:>33}: {np.median(shares):.2f} right ({min(shares):.2f} to {max(shares):.2f})")
assert np.median(asked["eval()"]) > 0.9 > np.median(asked["forgotten, batches of 4"]) + 0.05
assert max(asked["forgotten, batches of 32, sorted"]) < 0.5

# %% [markdown]
# **What you should see.** Forgetting `eval()` is nearly harmless with large mixed batches, which is why it goes unnoticed, and costs
# much with small ones. Sorted by digit it is a catastrophe: a batch of nothing but sevens is normalized until "being a seven"
# is the mean, and gone. With a batch of one PyTorch's module refuses, and so does ours, in other
# words:

# %%
try:
    trained[0].train()(images[:1])
except ValueError as error:
    print(error)

# %% [markdown]
# ## 4 · Why scale and shift?
#
# If normalization is so good, why does it end with $\gamma y + \beta$, which can undo it?
#
# **Predict.** A sigmoid whose inputs have mean 0 and variance 1: how much of what it does could a straight line do as well?

# %% [markdown]
# The best line through $\phi(\gamma y)$ has the slope $\mathbb E[y\, \phi]$; the rest of the variance, 1 − $\mathbb
# E[y\,\phi]^2 / \mathrm{Var}\,\phi$, is what only a curve can do. By quadrature, and from 4000 numbers, eight times:


# %%
def curved(phi):
    mean, square, slope = map(theory.gaussian_expectation, (phi, lambda y: phi(y) ** 2, lambda y: y * phi(y)))
    return 1 - slope**2 / (square - mean**2)


def curved_sample(phi, seed):
    y = data.gaussian_batch(4000, 1, seed)[:, 0]
    return 1 - np.corrcoef(y, phi(y))[0, 1] ** 2


# %% [markdown]
# Over a range of scales, for two shifts:

# %%
gammas, ax = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0]), plt.subplots()[1]
for beta in (0, 2):
    functions = [lambda y, g=gamma, b=beta: torch.sigmoid(g * y + b) for gamma in gammas]
    found = np.array([[curved_sample(phi, seed) for phi in functions] for seed in range(8)])
    plots.curve(gammas, found, label=f"shift β = {beta}", xlabel="scale γ", ax=ax)
    plots.curve(gammas, [curved(phi) for phi in functions], kind="theory", label="theory", ax=ax)
ax.set(ylabel="share that only a curve can do", ylim=(0, 0.3));

# %% [markdown]
# Two of these numbers, and ReLU's for comparison:

# %%
for gamma in (1, 5):
    share = curved(lambda y, g=gamma: torch.sigmoid(g * y))
    print(f"γ = {gamma}, β = 0: {share:.2g} of the sigmoid's variance is curved")
print(f"ReLU: {curved(torch.relu):.3g}")
assert abs(curved(torch.sigmoid) - 0.0158) < 0.0005

# %% [markdown]
# **What you should see.** A normalized sigmoid is a straight line but for 1.6 %: stuck in its linear part, and a stack of
# lines is a line. With $\gamma$ and $\beta$ the network can go back to where the function bends, as far as it pays. With $\gamma = \sigma$ and
# $\beta = \mu$ the layer is the identity, so nothing is lost.
#
# What has changed is *who* sets the scale of a unit. Without BatchNorm it is a product of all weights below. With it, it is one
# number, with a gradient of its own. One consequence: a bias in front of BatchNorm is useless, because $\mu$ takes it out again.
# Its gradient is exactly 0.

# %%
loss = F.cross_entropy(trained[0](digits.train_inputs), digits.train_targets)
linear, norm = trained[0].blocks[0].linear, trained[0].blocks[0].norm
by_bias, by_beta = (g.norm().item() for g in torch.autograd.grad(loss, (linear.bias, norm.bias)))
print(f"gradient by the bias of the linear layer below 1e-12: {by_bias < 1e-12}; by β: {by_beta:.1g}")
assert by_bias < 1e-12 < by_beta

# %% [markdown]
# ## 5 · Can it prevent vanishing? Ten sigmoid layers
#
# In lesson 02 ten sigmoid layers did not train, at any rate, with 0.236 of the gradient surviving each layer. Put a
# normalization between each linear layer and its sigmoid: **BatchNorm**, over the examples, or **LayerNorm**, which takes
# mean and variance over the *units* of one example and needs no batch at all. Both make $z$ have mean 0 and variance 1.
#
# **Predict.** Which of the two saves the gradient: both, or one, or none?

# %% [markdown]
# First the theory, for wide random layers. Going back, a gradient meets $\phi'$, then $1/\sigma$, then the weights $W$. How large is $\sigma$? The
# same weights that magnify the gradient made it, so that their size drops out. Per layer, for the squared gradient:
#
# $$\text{BatchNorm:}\;\; \frac{\mathbb E[\phi'(z)^2]}{\mathrm{Var}[\phi(z)]} \qquad\qquad
# \text{LayerNorm:}\;\; \frac{\mathbb E[\phi'(z)^2]}{\mathbb E[\phi(z)^2]} \qquad\qquad z \sim \mathcal N(0, 1).$$
#
# LayerNorm divides by all of the signal. BatchNorm first subtracts what all examples share, the mean, and divides by the
# **differences between the examples** alone. With a sigmoid, whose outputs all lie near ½, that is all the difference:

# %%
growth = {"BatchNorm": theory.batch_norm_growth, "LayerNorm": theory.layer_norm_growth}
for name, law in growth.items():
    factor = math.sqrt(law("sigmoid"))
    print(f"{name}, sigmoid: {factor:.3g} per layer, {factor**9:.2g} from layer 10 to layer 1")

# %% [markdown]
# Measured, in eight networks of width 128, on a batch of 256 random inputs:


# %%
def gradients(depth, norm, activation, seed, width=128, batch=256):
    """Activation gradient of each layer, last layer = 1: (depth,)."""
    scheme = "he_normal" if activation == "relu" else "xavier_normal"
    settings = {"in_features": width, "initialization": scheme, "dtype": torch.float64}
    model = networks.DeepMLP(depth, width, activation=activation, normalization=norm, seed=seed, **settings)
    x, arriving = data.gaussian_batch(batch, width, 100 + seed), data.gaussian_batch(batch, 10, 200 + seed)
    run = signals.measure(model, x, loss_fn=lambda out: (out * arriving).sum(), layers=networks.Block)
    return run.series("activation_gradient_norm") / run.series("activation_gradient_norm")[-1]


# %% [markdown]
# The three kinds, each beside its theory:

# %%
norms = {"none": None, "BatchNorm": "batch", "LayerNorm": "layer"}
at_start = {name: np.array([gradients(10, n, "sigmoid", s) for s in range(8)]) for name, n in norms.items()}
laws = {"none": theory.gradient_norm_trajectory(10, "sigmoid", 1.0)}
laws |= {name: law("sigmoid") ** (np.arange(10)[::-1] / 2) for name, law in growth.items()}
ax = plt.subplots()[1]
for name, values in at_start.items():
    plots.layers(values, label=name, ylabel="activation gradient, last layer = 1", ax=ax)
    plots.layers(laws[name], kind="theory", label="theory", ax=ax)

# %% [markdown]
# At the left end:

# %%
for name, values in at_start.items():
    reached, law = np.median(values[:, 0]), laws[name][0]
    print(f"{name:>9}: {reached:.2g} of the gradient reaches layer 1, theory {law:.2g}")
    assert abs(math.log(reached / law)) < 0.3

# %% [markdown]
# And the training: five seeds, each kind of network at its own best learning rate from one grid, the same for all comparisons
# of this lesson.

# %%
grid = (0.003, 0.01, 0.03, 0.1, 0.3)
course = {"learning_rates": grid, "seeds": range(5), "epochs": 5, "batch_size": 75, "optimizer": "momentum"}


def sigmoids(norm):
    settings = {"activation": "sigmoid", "normalization": norm, "dtype": torch.float64}
    return lambda seed: networks.DeepMLP(10, 32, seed=seed, **settings)


# %% [markdown]
# **Predict**, with those numbers in mind: which of the three curves will leave the line of guessing?
# (`parallel_map` gives what a loop over the names would give, on several cores at a time.)

# %%
ten_layers = parallel_map(lambda name: sweep(sigmoids(norms[name]), digits, **course), norms)
ax = plots.sweeps(ten_layers, chance=math.log(10), log_y=False)
ax.set_ylim(0, 2.8)
ax.get_legend().set_loc("lower left");

# %% [markdown]
# After the last epoch:

# %%
for name, run in ten_layers.items():
    loss = run.loss_by_epoch[run.best, :, -1]
    print(f"{name:>9}: loss {np.median(loss):.2g} (5 seeds: {min(loss):.2g} to {max(loss):.2g})")
    assert (max(loss) < 0.6) if name == "BatchNorm" else (min(loss) > 2.2)

# %% [markdown]
# **What you should see.** BatchNorm turns the network of lesson 02 into one that trains in five epochs. LayerNorm does *not*: it
# raises the factor from 0.236 to 0.391, and 0.391 nine times is still two ten-thousandths. Both "normalize to mean 0 and variance 1". It is
# the axis that counts. So the first half of the answer is: **yes, BatchNorm can prevent vanishing.**

# %% [markdown]
# ## 6 · What it costs: the explosion
#
# Now ReLU, the function that needs no saving: with He's weights it keeps its gradient.
#
# **Predict.** BatchNorm in all layers of a 50-layer ReLU network. The gradient in layer 1 is, compared with layer 50: (a) about
# the same; (b) ten times as large; (c) ten thousand times as large?

# %%
depths, back = (10, 20, 30, 50), np.arange(50)
relu = {depth: np.array([gradients(depth, "batch", "relu", seed) for seed in range(8)]) for depth in depths}
per_layer = math.sqrt(theory.batch_norm_growth("relu"))
ax = plt.subplots()[1]
for depth in depths:
    plots.layers(relu[depth], label=f"{depth} layers", ylabel="activation gradient, last layer = 1", ax=ax)
    plots.layers(per_layer ** back[:depth][::-1], kind="theory", label="theory", ax=ax)

# %% [markdown]
# The left ends, and the factor per layer:

# %%
for depth in depths:
    ratio, law = np.median(relu[depth][:, 0]), per_layer ** (depth - 1)
    factor = ratio ** (1 / (depth - 1))
    print(f"{depth} layers: {ratio:.2g} (theory {law:.2g}), {factor:.3g} per layer (theory {per_layer:.3g})")
    assert abs(factor / per_layer - 1) < 0.015

# %% [markdown]
# **What you should see.** Answer (c). (Networks of 128 units stay a little below a theory for infinite width.) The formula of section 5 with $\mathbb E[\phi'^2] = \tfrac12$ and $\mathrm{Var}[\phi] = \tfrac12 -
# \tfrac1{2\pi}$ gives
#
# $$\frac{1/2}{1/2 - 1/(2\pi)} = \frac{\pi}{\pi - 1} = 1.467, \qquad \text{1.211 on the norm (Yang and others, 2019).}$$
#
# No bad luck with ReLU, either. The Gaussian **Poincaré inequality** says $\mathrm{Var}[\phi] \le \mathbb E[\phi'^2]$ for *every* function,
# with equality for straight lines only. So in a deep plain network, with batches of 4 or more, BatchNorm never lets
# the gradient vanish, and, but for straight lines, **always lets it grow**; whether that is an explosion, the factor says:

# %%
for activation in ("identity", "relu", "tanh", "gelu", "selu", "sigmoid"):
    batch, layer = (math.sqrt(law(activation)) for law in growth.values())
    print(f"{activation:>8}: BatchNorm {batch:.3g} per layer, LayerNorm {layer:.3g}")
    assert batch >= 1 - 1e-12

# %% [markdown]
# ### The batch size is part of the architecture
#
# The formula is for a large batch. In a small one $1/\sigma^2$ is large now and then, and its mean is what counts: for
# linear layers the factor on the *squared* gradient becomes exactly $(B-2)/(B-3)$; for others `theory.batch_norm_growth`
# has it.
#
# **Predict.** At batch 4, is the factor for ReLU nearer to 1.2 or to 1.8?

# %%
def growth_rate(batch, seed):
    """Factor per layer on the gradient norm, from layer 28 back to layer 8."""
    norms = gradients(30, "batch", "relu", seed, width=128, batch=batch)
    return (norms[7] / norms[27]) ** (1 / 20)


sizes = (4, 6, 8, 12, 16, 32, 64, 128)
rates = np.array([[growth_rate(batch, seed) for batch in sizes] for seed in range(8)])

# %% [markdown]
# Eight networks for each batch size, beside that theory:

# %%
exact = np.sqrt([theory.batch_norm_growth("relu", batch) for batch in sizes])
ax = plt.subplots()[1]
plots.curve(sizes, rates, label="measured", xlabel="batch size", log_x=True, ax=ax)
plots.curve(sizes, exact, kind="theory", label="theory", ylabel="factor per layer", ax=ax)
plots.guide(ax, per_layer, "large batch").set_ylim(1.1, 1.9);

# %% [markdown]
# Three of these points, and what the theory makes of 50 layers:

# %%
for batch in (4, 8, 32):
    k = sizes.index(batch)
    found = f"{np.median(rates[:, k]):.3g} per layer, theory {exact[k]:.3g}"
    print(f"batch of {batch}: {found}; to the power 50: {exact[k] ** 50:.1g}")
    assert abs(np.median(rates[:, k]) / exact[k] - 1) < (0.12 if batch == 4 else 0.03)

# %% [markdown]
# At batch 8 it is 1.34 per layer, and 1.34 to the power 50 is two million. (At 4 the theory's mean is made by rare large
# values, which a network of 128 units has not many of; at 3 it is infinite, at 2 the gradient is 0.) A network that trains with
# batch 64 and not with batch 4 may have nothing but this.
#
# ### Two sides of one coin
#
# Why does anybody want this? Look at the other panel of the dashboard, CORRELATION. In lesson 03 ReLU layers made all
# inputs alike: their cosine went to 1. The dashboard of 30 He layers with BatchNorm, and the cosines without it:


# %%
def thirty(normalization, seed):
    return normalized(seed, depth=30, normalization=normalization, width=64)


def look(model):
    return signals.measure(model, images[:128], labels[:128], F.cross_entropy, layers=networks.Block)


# %% [markdown]
# With BatchNorm:

# %%
model = thirty("batch", seed=0)
singular_values = signals.jacobian_singular_values(model, images[:16])[0]
plots.dashboard(look(model), singular_values);

# %% [markdown]
# SCALE shows the explosion, and CORRELATION is flat. Without BatchNorm it would not be; eight seeds of each kind:

# %%
cosines = {}
for name, norm in norms.items():
    cosines[name] = [look(thirty(norm, seed)).series("cosine")[-1] for seed in range(8)]

# %% [markdown]
# Medians of the eight:

# %%
for name, values in cosines.items():
    print(f"{name:>9}: cosine of two images in layer 30: {np.median(values):.2g}")
print(f"1/π = {1 / math.pi:.2g}")
assert abs(np.median(cosines["BatchNorm"]) - 1 / math.pi) < 0.05 < 0.9 < np.median(cosines["none"])

# %% [markdown]
# **What you should see.** Without normalization, and with LayerNorm, every two images end up with nearly the same direction. With BatchNorm
# they do not: what images share is subtracted in every layer, what they differ by is blown up again, and the cosine stays
# at $\mathbb E[\phi]^2 / \mathbb E[\phi^2] = 1/\pi$ (for *any* two images).
#
# And now the coin has one edge. A layer that blows up differences between examples blows up the answer to a small change of the
# input, and that answer *is* the gradient. **BatchNorm cures correlation collapse, and exploding gradients are the price.**
# With ReLU, LayerNorm pays nothing of this price, and cures nothing of this disease.

# %% [markdown]
# ### Explore: depth, batch, norm
#
# Left the gradient, right the cosine between inputs. Is there a choice at depth 50 in which both pictures are healthy?

# %% tags=["explorer"]
explorers.normalized_network()

# %% [markdown]
# ## 7 · One step calms it
#
# Ten thousand times larger in layer 1: does such a network blow up in the first step?
#
# **Predict.** One SGD step with learning rate 1, on one batch of digits. On *another* batch, is the gradient of layer 1, compared with layer
# 50, then larger, the same, or smaller?


# %%
def before_and_after(learning_rate, seed):
    model = normalized(seed, depth=50, width=64)
    x, targets = digits.train_inputs[:128], digits.train_targets[:128]
    optimizer, ratios = torch.optim.SGD(model.parameters(), lr=learning_rate), []
    for _ in range(2):
        norms = look(model).series("activation_gradient_norm")
        ratios.append(norms[0] / norms[-1])
        optimizer.zero_grad()
        F.cross_entropy(model(x), targets).backward()
        optimizer.step()
    return ratios


# %% [markdown]
# Medians of five networks, at three learning rates, and how much smaller the ratio has become in each of the five:

# %%
for rate, least in {0.01: 1.5, 0.1: 15, 1.0: 80}.items():
    before, after = np.array([before_and_after(rate, seed) for seed in range(5)]).T
    medians, smaller = f"{np.median(before):.1g} before, {np.median(after):.1g} after", before / after
    print(f"rate {rate:4.2f}: layer 1 / layer 50 is {medians}: ", end="")
    print(f"{np.median(smaller):.2g} times smaller ({smaller.min():.2g} to {smaller.max():.2g})")
    assert before.min() > 3000 and smaller.min() > least
assert smaller.max() > 300 and np.median(smaller) > 300

# %% [markdown]
# **What you should see.** One large step brings it down to a thousandth or so, with much luck of the seed; a small one by a factor of
# 2 to 8. The explosion is a property of *random* weights. The step adds to each weight matrix a multiple of its gradient, a sum of outer products
# $\delta\, h^\top$, and hugest in the first layers. Such weights point where the images already differ. So $z$ spreads
# more than random weights of the same length would let it, $\sigma$ is larger, and division by $\sigma$ is a brake:


# %%
@torch.no_grad()
def spread_over_random(model):
    """Variance of z over the batch, divided by what random weights of that length give: (layers - 1,)."""
    h, found = model.blocks[0](images[:128]), []
    for block in model.blocks[1:]:
        z, weight = block.linear(h), block.linear.weight
        random = weight.square().sum() * h.var(dim=0, correction=0).mean() / len(weight)
        found.append((z.var(dim=0, correction=0).mean() / random).item())
        h = block(h)
    return np.array(found)


# %% [markdown]
# Eight networks, before and after a step of rate 1. From each we take the median of layers 2 to 31, and the length of the first
# weight matrix:


# %%
def spread_and_length(seed, steps):
    model = normalized(seed, depth=50, width=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    F.cross_entropy(model(digits.train_inputs[:128]), digits.train_targets[:128]).backward()
    if steps:
        optimizer.step()
    return np.median(spread_over_random(model)[:30]), model.blocks[0].linear.weight.norm().item()


# %% [markdown]
# Medians and ranges:

# %%
for steps in (0, 1):
    ratio, length = np.array([spread_and_length(seed, steps) for seed in range(8)]).T
    print(f"steps: {steps}, length of the first weight matrix: {np.median(length):.1g}, ", end="")
    print(f"variance of z over random: {np.median(ratio):.2g} ({ratio.min():.2g} to {ratio.max():.2g})")
    assert ratio.min() > 1.2 if steps else abs(ratio - 1).max() < 0.1

# %% [markdown]
# Is the 50-layer network trainable, then? Same grid, beside a 10-layer one and beside the same two without BatchNorm.

# %%
def relus(depth, norm):
    return lambda seed: normalized(seed, depth=depth, normalization=norm, width=24)


shallow = parallel_map(lambda name: sweep(relus(10, norms[name]), digits, **course), ("none", "BatchNorm"))

# %% [markdown]
# The deep ones cost more: the same five rates, but three seeds and four epochs.

# %%
few = course | {"seeds": range(3), "epochs": 4}
deep = parallel_map(lambda name: sweep(relus(50, norms[name]), digits, **few), ("none", "BatchNorm"))

# %% [markdown]
# Each at its best rate:

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: another processor may draw them a little differently.
axes = plt.subplots(1, 2, sharey=True)[1]
for ax, (depth, runs) in zip(axes, {10: shallow, 50: deep}.items(), strict=True):
    plots.sweeps(runs, log_y=False, ax=ax)
    plots.guide(ax, math.log(10), "guessing: ln 10" if depth == 10 else "")
    ax.set(title=f"{depth} layers of ReLU", ylim=(0, 3.2), ylabel="training loss" if depth == 10 else "")
    ax.get_legend().set_loc("lower left" if depth == 50 else "upper right")

# %% [markdown]
# After the last epoch:

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: in the digits shown another processor may differ. The assertions hold on all.
for depth, runs in {10: shallow, 50: deep}.items():
    for name, run in runs.items():
        loss = run.loss_by_epoch[run.best, :, -1]
        print(f"{depth} layers, {name:>9}: loss {np.median(loss):.2g} ({min(loss):.2g} to {max(loss):.2g})")
        assert (np.median(loss) < 1.2) == (depth == 10)
assert (np.median(deep["BatchNorm"].loss_by_epoch[:, :, -1], axis=1) > 2.1).all()

# %% [markdown]
# **What you should see.** At 10 layers BatchNorm helps. At 50 it does not: its loss stays near that of guessing at every rate, no
# better than without. The gradients are calm after a step, so they are not the only disease. Follow what the network *knows* about its
# images: the mean cosine of two images of the same digit, less that of two images of different digits.
#
# **Predict.** BatchNorm keeps images apart. Does it keep sevens closer to sevens than to fours?


# %%
@torch.no_grad()
def same_less_other(seed, count=400):
    """Mean cosine of two images of the same digit, less that of different digits, by layer: (50,)."""
    h, found, targets = digits.train_inputs[:count], [], digits.train_targets[:count]
    same = (targets[:, None] == targets) & ~torch.eye(count, dtype=bool)
    other = targets[:, None] != targets
    for block in normalized(seed, depth=50, width=128).blocks:
        h = block(h)
        cosine = F.normalize(h, dim=1) @ F.normalize(h, dim=1).T
        found.append((cosine[same].mean() - cosine[other].mean()).item())
    return np.array(found)


# %% [markdown]
# The theory is the slope of lesson 04's correlation map at its fixed point, with BatchNorm's division by the variance:
# small differences between cosines shrink, per layer, by
#
# $$\frac{\mathbb E[\phi']^2}{\mathrm{Var}[\phi]} = \frac{1/4}{1/2 - 1/(2\pi)} = 0.733, \qquad \text{beside} \qquad
# \frac{\mathbb E[\phi'^2]}{\mathrm{Var}[\phi]} = 1.467 \text{ for the squared gradient.}$$

# %%
known, forgetting = np.array([same_less_other(seed) for seed in range(8)]), 0.25 / (0.5 - 0.5 / math.pi)
ax = plots.layers(known[:, :16], label="same digit less other digit", ylabel="difference of cosines")
line = np.median(known[:, 4]) * forgetting ** (np.arange(16) - 4)
plots.layers(line, kind="theory", label="theory, from layer 5", ax=ax).set_ylim(1e-3, 1);

# %% [markdown]
# In numbers:

# %%
for layer in (1, 10, 50):
    value = np.median(known[:, layer - 1])
    print(f"layer {layer:2d}: {value:.2f}")
rate = (np.median(known[:, 14]) / np.median(known[:, 4])) ** (1 / 10)
depths = -6 / math.log(forgetting)
print(f"per layer, 5 to 15: {rate:.2g}, theory {forgetting:.2g}; six depths: {depths:.0f} layers")
assert abs(rate / forgetting - 1) < 0.08 and abs(np.median(known[:, -1])) < 0.005

# %% [markdown]
# **What you should see.** No. After 20 layers a seven is as far from other sevens as from fours: all images are *equally*
# different, the chaotic phase of lesson 04. Its rule, about six depths $-1/\ln 0.733$, gives 19 layers: more than 10 and less than 50. The
# two formulas say why there is no way out: $\mathbb E[\phi']^2 \le \mathrm{Var}[\phi] \le \mathbb E[\phi'^2]$ for every $\phi$, so what is
# known shrinks and the gradient grows. (The first ratio is what a straight line can do in section 4: $1 - 0.016$ for a sigmoid, 1 −
# 0.267 for ReLU. What a layer bends, it forgets.) The networks that made hundreds of layers with BatchNorm famous had **skip connections**, too.
# Lesson 06 is about them.
#
# So the old question, *can batch norm prevent vanishing?*, has a two-sided answer. Yes: 10 sigmoid layers that stood at
# 2.3 now train. And no: a plain network does not become deep by it, because the factor per layer goes from below 1
# to above 1, and never to 1.

# %% [markdown]
# ## 8 · Weights without a scale
#
# Section 1 showed that a hundredfold weight changes nothing. Then what does the gradient do?
#
# **Predict.** Multiply all weights of a layer before BatchNorm by 10. The gradient by these weights becomes (a) ten times larger;
# (b) the same; (c) ten times smaller?


# %%
def weight_gradient(factor):
    norm = nn.BatchNorm1d(32, eps=1e-20)
    layers = nn.Sequential(nn.Linear(64, 32, bias=False), norm, nn.Tanh(), nn.Linear(32, 10))
    layers.double()[0].weight.data = factor * data.gaussian_batch(32, 64, seed=1) / 8
    layers[3].weight.data = data.gaussian_batch(10, 32, seed=2) / 6
    layers[3].bias.data.zero_()
    loss = F.cross_entropy(layers(images), labels)
    (gradient,) = torch.autograd.grad(loss, layers[0].weight)
    return loss.item(), gradient, layers[0].weight.detach()


# %% [markdown]
# The loss, the size of the gradient, and the angle between the gradient and the weights:

# %%
for factor in (1, 10):
    loss, gradient, weight = weight_gradient(factor)
    cosine = F.cosine_similarity(gradient.flatten(), weight.flatten(), dim=0).item()
    right = abs(cosine) < 1e-12
    print(f"weights × {factor:2d}: loss {loss:.3g}, gradient {gradient.norm():.2g}, right angle: {right}")
    assert abs(cosine) < 1e-12
assert abs(10 * gradient.norm() / weight_gradient(1)[1].norm() - 1) < 1e-9

# %% [markdown]
# **Why.** The loss is the same along the ray $c\,W$. So its slope along $W$ is 0, $\langle W, \partial\text{loss}/\partial W\rangle = 0$:
# the gradient is **perpendicular to the weights**. And a function that does not change when its argument is
# stretched by $c$ has a slope that shrinks by $c$: answer (c).
#
# Two things follow. A step perpendicular to $W$ makes $W$ longer (Pythagoras), so that without weight decay the weights only
# grow, and the steps, as angles, become ever smaller: a learning-rate schedule that nobody asked for. And **weight decay** does not make the
# function simpler here, because length has no meaning. It sets the *angle* by which the weights turn in each step: shrinking
# and growing balance when
#
# $$(1 - \eta\lambda)^2 \lVert W \rVert^2 + \eta^2 \lVert g \rVert^2 = \lVert W \rVert^2, \qquad\text{so}\qquad
# \sin(\text{angle}) = \sqrt{1 - (1 - \eta\lambda)^2} \approx \sqrt{2 \eta \lambda} .$$
#
# No loss, no data, no width in it: only the learning rate $\eta$ and the decay $\lambda$ (van Laarhoven 2017; Wan and others 2021).
#
# **Predict.** A network that starts with weights three times too long, with the same $\eta$ and $\lambda$: does it end at another
# angle?


# %%
def angles(decay, start, seed, steps=600, rate=0.1):
    """Angle by which the weights of layer 2 turn in each step of SGD: (steps,)."""
    model, turned = normalized(seed, depth=2), []
    weights = [block.linear.weight for block in model.blocks]
    others = [p for p in model.parameters() if all(p is not w for w in weights)]
    torch._foreach_mul_([w.data for w in weights], start)
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": decay}, {"params": others}], lr=rate)
    for batch in torch.randint(0, 1347, (steps, 75), generator=data.seeded_generator(seed)):
        before = weights[1].detach().flatten().clone()
        optimizer.zero_grad()
        F.cross_entropy(model(digits.train_inputs[batch]), digits.train_targets[batch]).backward()
        optimizer.step()
        after = weights[1].detach().flatten()
        turned.append(2 * math.asin((F.normalize(after, dim=0) - F.normalize(before, dim=0)).norm() / 2))
    return np.array(turned)


# %% [markdown]
# Three decays and two starts, five seeds of each:

# %%
cases = {"decay 0.3": (0.3, 1), "decay 0.1": (0.1, 1), "decay 0.1, start × 3": (0.1, 3), "no decay": (0.0, 1)}
turned = {name: np.array([angles(*case, seed) for seed in range(5)]) for name, case in cases.items()}

# %% [markdown]
# Root mean square over 25 steps, median and range of five seeds; the dotted lines are the theory.

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: another processor may draw them a little differently.
ax = plt.subplots()[1]
for name, values in turned.items():
    windows = np.sqrt(np.square(values).reshape(5, -1, 25).mean(axis=2))
    plots.curve(np.arange(25, 601, 25), windows, label=name, xlabel="step", kind="line", log_y=True, ax=ax)
for decay in (0.3, 0.1):
    plots.guide(ax, math.asin(math.sqrt(1 - (1 - 0.1 * decay) ** 2)), "")
ax.set(ylabel="angle per step, radians", ylim=(3e-4, 5))
ax.legend(loc="upper right", **plots.LEGEND);

# %% [markdown]
# Over the last 200 steps:

# %%
for name, (decay, _) in cases.items():
    angle = np.sqrt(np.square(turned[name][:, 400:]).mean())
    law = math.asin(math.sqrt(1 - (1 - 0.1 * decay) ** 2))
    print(f"{name:>20}: {angle:.2g} per step at the end, theory {law:.2g}")
    assert abs(angle / law - 1) < 0.1 if decay else angle < 0.01

# %% [markdown]
# **What you should see.** Decay alone sets the angle, wherever the weights start. Without it the network turns less and less.
# "Weight decay keeps the weights small, so the model stays simple" is not what happens before a BatchNorm: it keeps the learning rate up.

# %% [markdown]
# ## 9 · Why does it work? Internal covariate shift
#
# Ioffe and Szegedy (2015) gave a reason in their title, *reducing internal covariate shift*: while the layers below learn, the
# **distribution of a layer's inputs** keeps moving, and the layer has to run after it. BatchNorm holds it still. It
# was believed for years. Santurkar and others (2018) tested it with a trick: put BatchNorm in, and right behind it add *noise* whose
# mean and scale change at random in every step. (Ours is simpler: theirs also differs between examples. For each unit we draw a shift
# with standard deviation 0.2, and a scale evenly from 1 to 1.2.) If a moving distribution is what hurts, this
# network must suffer.


# %%
class NoisyBatchNorm(nn.BatchNorm1d):
    """BatchNorm, and in training a random shift and scale of each unit, drawn anew in each step."""

    def forward(self, z):
        y = super().forward(z)
        if not self.training:
            return y
        shift, scale = 0.2 * torch.randn_like(y[0]), 1 + 0.2 * torch.rand_like(y[0])
        return scale * y + shift


# %% [markdown]
# First, the shift itself, as its authors meant it: how far does the mean of a layer's inputs move in one step, in units of
# their spread? Fifteen ReLU layers of 32 units; the inputs of layer 10; steps on the same 450 images, so that only the
# parameters move.


# %%
def fifteen(kind):
    def make(seed):
        model = normalized(seed, depth=15, normalization=None if kind == "none" else "batch")
        for block in model.blocks:
            block.norm = NoisyBatchNorm(32, dtype=torch.float64) if kind == "noisy BatchNorm" else block.norm
        return model

    return make


# %% [markdown]
# A network that has learned its images moves no more, whatever its layers do. So we write down the loss of each step beside the shift,
# and keep a copy of the network as it was when its loss first fell below 1.5; we shall need it.

# %%
some, answers = digits.train_inputs[:450], digits.train_targets[:450]


def moves(inputs):
    """Distance that the mean over the images moves from each step to the next, over their spread."""
    means = torch.stack([h.mean(dim=0) for h in inputs])
    return (means.diff(dim=0).norm(dim=1) / torch.stack([h.std(dim=0).norm() for h in inputs[1:]])).numpy()


# %%
def follow(kind, rate, seed, steps=90):
    """Move of the mean input of layer 10 over its spread, and loss, (steps - 1,); the model at loss 1.5."""
    model, losses, inputs, halfway = fifteen(kind)(seed).train(), [], [], None
    model.blocks[8].register_forward_hook(lambda module, args, output: inputs.append(output.detach()))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(some), answers)
        losses.append(loss.item())
        halfway = halfway or (copy.deepcopy(model) if loss < 1.5 else None)
        loss.backward()
        optimizer.step()
    return moves(inputs[:steps]), np.array(losses[1:]), halfway


# %% [markdown]
# Each kind gets its best rate from the usual grid first, and is then followed at that rate:

# %%
kinds = ("none", "BatchNorm", "noisy BatchNorm")
noise = parallel_map(lambda kind: sweep(fifteen(kind), digits, **course), kinds)
followed = {kind: [follow(kind, grid[noise[kind].best], seed) for seed in range(5)] for kind in kinds}

# %% [markdown]
# **Predict.** By how much does the noise raise the drift: by a tenth, or to several times that of the network without BatchNorm? And will
# the noisy network still train as well as that one?

# %%
axes = plt.subplots(1, 2)[1]
for kind, runs in followed.items():
    moved = np.array([moved for moved, _, _ in runs])
    plots.curve(np.arange(2, 91), moved, label=kind, kind="line", log_y=True, xlabel="step", ax=axes[0])
plots.sweeps(noise, log_y=False, ax=axes[1])
axes[0].set(ylabel="move of the mean per step / spread", ylim=(1e-5, 10))
axes[1].set_ylim(0, 4)
axes[1].get_legend().set_loc("upper right")

# %% [markdown]
# The drift per step, median over the steps and then over the five seeds, and its range over seeds: in the first ten steps, and in those steps
# in which the loss is between 1 and 2, so that we compare networks that have learned equally much.

# %%
equal = {}
for kind, runs in followed.items():
    first = [np.median(moved[:10]) for moved, _, _ in runs]
    equal[kind] = [np.median(moved[(loss > 1) & (loss < 2)]) for moved, loss, _ in runs]
    for name, values in {"first ten steps": first, "loss between 1 and 2": equal[kind]}.items():
        print(f"{kind:>15}, {name:>20}: {np.median(values):.2g} ({min(values):.2g} to {max(values):.2g})")
    if kind == "none":
        plain = first
ratio = np.array(first) / plain
print(f"first ten steps, with noise over without BatchNorm: {ratio.min():.2g} to {ratio.max():.2g}")
assert np.median(ratio) > 1.4

# %% [markdown]
# And the loss after the last epoch of the ordinary training:

# %%
losses = {kind: run.loss_by_epoch[run.best, :, -1] for kind, run in noise.items()}
for kind, loss in losses.items():
    print(f"{kind:>15}: loss {np.median(loss):.2g} ({min(loss):.2g} to {max(loss):.2g})")

# %% [markdown]
# In words of logic: more shift, and less loss.

# %%
assert min(equal["noisy BatchNorm"]) > max(equal["none"]) and min(equal["none"]) > max(equal["BatchNorm"])
assert 3 < np.median(equal["noisy BatchNorm"]) / np.median(equal["none"]) < 5
assert np.median(losses["BatchNorm"]) < np.median(losses["noisy BatchNorm"]) < np.median(losses["none"])

# %% [markdown]
# **What you should see.** At equal loss the inputs of the noisy network move in each step about four times as far as those of the network
# without BatchNorm. (In the first ten steps, when the latter moves most, it is less, and from some other seeds the latter
# moves as far.) Yet the noisy network trains *better* than the one without, if not quite as well as with clean BatchNorm. So in this network "it holds the distribution still" is
# not the reason why it helps. BatchNorm *does* hold it still, as its authors said, and not only because it learns sooner: at
# equal loss its drift is about a fifth of that without. (The further fall of the lowest curve is that it has learned these images.)
#
# ### A smoother loss?
#
# Santurkar and others propose another reason: the loss becomes *smoother*, so that a gradient still holds after a step. Take the
# gradient by all parameters, go one step of some length against it, and take the gradient there. What is the cosine between
# the two? Once at the start, and once at the copies that we kept, at a loss of 1.5.


# %%
def slope(model, weights):
    """The gradient at these parameters, as one vector; the noise is the same each time."""
    nn.utils.vector_to_parameters(weights, model.parameters())
    torch.manual_seed(0)
    gradients = torch.autograd.grad(F.cross_entropy(model(some), answers), list(model.parameters()))
    return nn.utils.parameters_to_vector(gradients)


def still_holds(model):
    """Cosine between the gradient here and after one step against it, for each length in `grid`."""
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    here = slope(model, start)
    return [F.cosine_similarity(here, slope(model, start - rate * here), dim=0).item() for rate in grid]


# %% [markdown]
# **Predict.** BatchNorm's gradient explodes at the start (section 6). Will it hold longer than the plain network's at the start? At a
# loss of 1.5? And that of the noisy network?

# %%
moments = {"start": {}, "loss 1.5": {}}
for kind, runs in followed.items():
    moments["start"][kind] = np.array([still_holds(fifteen(kind)(seed).train()) for seed in range(5)])
    moments["loss 1.5"][kind] = np.array([still_holds(halfway) for _, _, halfway in runs])
axes = plt.subplots(1, 2, sharey=True)[1]
for ax, (moment, found) in zip(axes, moments.items(), strict=True):
    for kind, values in found.items():
        plots.curve(grid, values, label=kind, xlabel="learning rate of the step", log_x=True, ax=ax)
    ax.set(title=moment, ylabel="cosine of the two gradients" if moment == "start" else "", ylim=(-1, 1.1))
    ax.get_legend().set_loc("lower left")

# %% [markdown]
# For a rate of 0.03:

# %%
for moment, found in moments.items():
    for kind, values in found.items():
        held = values[:, grid.index(0.03)]
        print(f"{moment:>8}, {kind:>15}: {np.median(held):5.2f} ({held.min():.2f} to {held.max():.2f})")
plain, clean, noisy = (moments["loss 1.5"][kind][:, grid.index(0.03)] for kind in kinds)
assert plain.max() < clean.min() - 0.1 and clean.max() < noisy.min()
plain, clean, noisy = (np.median(moments["start"][kind][:, grid.index(0.03)]) for kind in kinds)
assert plain > 0.5 and max(clean, noisy) < 0.2

# %% [markdown]
# **What you should see.** At the start BatchNorm makes the loss *rougher*: after a step of 0.03 the old gradient says nothing about
# the new one. At a loss of 1.5 it is the other way round: with BatchNorm the gradient still points much the same way; without it,
# it has lost its direction or turned back. And the noisy network, with the largest drift, has the smoothest loss of the three.
# So on the way down both networks with BatchNorm have a smoother loss than the one without, and learn better, while only one of
# them has a stiller distribution. That is in favor of smoothness, and no proof: the smoothest of the three is not the best, and
# two things that go together need not be cause and effect. Three more things that BatchNorm does were measured in this lesson: a
# gradient that does not vanish (5), inputs that stay different (6), and a step size that regulates itself (8). How much each of
# them helps in a given network, none of these measurements says.

# %% [markdown]
# ## 10 · Five norms, one picture
#
# An image network has activations `(examples, channels, height, width)`. All norms do the same to them, and differ in *which
# entries share a mean and a variance*. No need to remember it: autograd knows. Take one entry of the output, and mark the inputs on which it
# depends.

# %%
modules = {"BatchNorm": nn.BatchNorm2d(6), "LayerNorm": nn.LayerNorm((6, 2, 2))}
modules |= {"GroupNorm": nn.GroupNorm(2, 6), "InstanceNorm": nn.InstanceNorm2d(6)}
modules |= {"RMSNorm": nn.RMSNorm((6, 2, 2))}
x = (1 + data.gaussian_batch(4 * 6, 4, seed=7)).reshape(4, 6, 2, 2).requires_grad_()
touched = {}
for name, module in modules.items():
    (gradient,) = torch.autograd.grad(module.double()(x)[0, 0, 0, 0], x)
    touched[name] = gradient.abs() > 1e-9


# %% [markdown]
# **Predict.** Four examples (rows), six channels (columns), four pixels in each cell. Before you look: which cells are marked for BatchNorm,
# which for LayerNorm?

# %%
def mark(ax, name):
    """Every entry as a small square; those that are normalized together with the first one are filled."""
    n, c, i, j = np.indices((4, 6, 2, 2)).reshape(4, -1)
    across, down, on = c + 0.34 * j, n + 0.34 * i, touched[name].numpy().ravel()
    ax.plot(across[~on], down[~on], "s", color=pictures.COLORS[5], markersize=3, fillstyle="none", label="_")
    ax.plot(across[on], down[on], "s", color=pictures.COLORS[1], markersize=4.5, label="_")
    ax.set(title=name, xlabel="channel", xticks=[], yticks=[], xlim=(-0.5, 5.85), ylim=(3.85, -0.5))
    ax.grid(visible=False)
    rows, columns = on.reshape(4, 6, 4).any(axis=(1, 2)).sum(), on.reshape(4, 6, 4).any(axis=(0, 2)).sum()
    text = f"{rows} of 4 examples, {columns} of 6 channels and all pixels are normalized together"
    pictures.describe(ax, f"{name}: {text}.")


# %% [markdown]
# Filled squares are normalized together with the one in the upper left corner:

# %%
axes = plt.subplots(1, 5, figsize=(9, 2.4))[1]
for ax, name in zip(axes, modules, strict=True):
    mark(ax, name)
axes[0].set_ylabel("example");

# %% [markdown]
# The same in numbers: PyTorch's modules against a mean and a variance over these axes.

# %%
over = {"BatchNorm": (0, 2, 3), "LayerNorm": (1, 2, 3), "InstanceNorm": (2, 3)}
for name, dims in over.items():
    mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    same = torch.allclose(modules[name](x), (x - mean) / (variance + 1e-5).sqrt())
    print(f"{name:>12}: axes {dims}, {x.numel() // mean.numel()} entries in a group, as PyTorch: {same}")
    assert same

# %% [markdown]
# GroupNorm cuts the channels into groups first, and RMSNorm subtracts nothing:

# %%
groups = x.reshape(4, 2, 3, 2, 2)
mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), correction=0, keepdim=True)
assert torch.allclose(modules["GroupNorm"](x), ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape))
assert torch.allclose(modules["RMSNorm"](x), x / x.square().mean((1, 2, 3), keepdim=True).sqrt())

# %% [markdown]
# **What you should see.** BatchNorm is the only one whose marks reach other examples. So it is the only one with two modes, running
# statistics, and a batch size that matters; the other four do the same in training and in use. GroupNorm lies between LayerNorm (one group)
# and InstanceNorm (as many groups as channels). **RMSNorm** is LayerNorm without subtracting the mean: it divides by the root
# mean square, and current language models use it because it costs less. (In a Transformer LayerNorm and RMSNorm take the features of
# *one position*, the last axis alone: lesson 08.)

# %% [markdown]
# ## 11 · Small batches
#
# In training, the company of an image is drawn by lot, and so are $\mu$ and $\sigma$: BatchNorm adds noise. How much? The image itself is
# in its batch, and has a share in both. Let the $B - 1$ others have the mean $m$ and the variance $s^2$, and let it lie $d$
# from $m$. Then $\mu = m + d/B$ and $\sigma^2 = \frac{B-1}{B}\bigl(s^2 + d^2/B\bigr)$, and so
#
# $$\text{output} = \frac{z - \mu}{\sigma} = \frac{d\,\sqrt{B - 1}}{\sqrt{B s^2 + d^2}} .$$
#
# However far out it lies, its output never goes past $\sqrt{B - 1}$: it drags $\mu$ and $\sigma$ along. In a batch of 8:

# %%
print(f"Seven zeros and a million become {normalize(0, 0, 0, 0, 0, 0, 0, 1e6)};  √7 = {math.sqrt(7):.2f}")
assert normalize(0, 0, 0, 0, 0, 0, 0, 1e6).endswith(f"{math.sqrt(7):.2f}")

# %% [markdown]
# For normal numbers $d$ has a variance of $1/(B-1)$ and $s^2$ one of about $2/B$. Put the slopes of the output by $d$ and by $s^2$ before
# them, and for an example that lies $y$ standard deviations from the mean of all you get, in a large batch,
#
# $$\mathrm{Var}[\text{output}] \approx \frac{1 + y^2/2}{B} \Bigl(\frac{B}{B + y^2}\Bigr)^{3},$$
#
# the 1 from the mean, the $y^2/2$ from $\sigma$, and the bracket from the example's own share. Measured with 2000 batches of normal
# numbers, eight times; and on the right what it does to the five trained networks of section 3, in training mode.


# %%
def company_noise(batch, y, seed):
    """Standard deviation of the output of one example at y, over 2000 batches of which it is one."""
    z = data.gaussian_batch(2000, batch, seed)
    z[:, 0] = y
    return ((y - z.mean(dim=1)) / z.std(dim=1, correction=0)).std().item()


# %% [markdown]
# **Predict.** The networks are right on 95 % of the images with `eval()`. And in batches of 8? Of 2?

# %%
sizes, large = np.array([2, 3, 4, 8, 16, 32, 64, 128]), np.array([8, 16, 32, 64, 128])
noisy = {y: np.array([[company_noise(b, y, s) for b in large.tolist()] for s in range(8)]) for y in (0, 2)}
shares = np.array([[accuracy(m, images, labels, True, b) for b in sizes.tolist()] for m in trained])

# %% [markdown]
# Left the noise, right the answers:

# %%
axes = plt.subplots(1, 2)[1]
for y, found in noisy.items():
    law = np.sqrt((1 + y**2 / 2) / large * (large / (large + y**2)) ** 3)
    plots.curve(large, found, label=f"y = {y}", xlabel="batch size", log_x=True, log_y=True, ax=axes[0])
    plots.curve(large, law, kind="theory", label="theory, large batch", ax=axes[0])
plots.curve(sizes, shares, label="training mode", xlabel="batch size", log_x=True, ax=axes[1])
plots.guide(axes[1], np.median(asked["eval()"]), "eval()")
axes[0].set_ylabel("spread of the output")
axes[1].set(ylabel="share of right answers", ylim=(0, 1.1));

# %% [markdown]
# In numbers:

# %%
for batch in (2, 8, 128):
    right = shares[:, sizes.tolist().index(batch)]
    print(f"batches of {batch:3d}: {np.median(right):.2f} right ({min(right):.2f} to {max(right):.2f})")
for y, found in noisy.items():
    law = [math.sqrt((1 + y**2 / 2) / b * (b / (b + y**2)) ** 3) for b in (8, 64)]
    middle = np.median(found, axis=0)[[0, 3]]
    print(f"y = {y}: spread {middle[0]:.2f} in batches of 8 (theory {law[0]:.2f}), ", end="")
    print(f"{middle[1]:.2f} in batches of 64 (theory {law[1]:.2f})")
    assert abs(middle[1] / law[1] - 1) < 0.06 and 0 < middle[0] / law[0] - 1 < 0.3
assert np.median(shares[:, 0]) < 0.5 and np.median(shares[:, -2]) > np.median(asked["eval()"]) - 0.04

# %% [markdown]
# **What you should see.** At 64 and more the noise is small beside 1, the spread of the outputs themselves, and the answers are
# nearly as good as with `eval()`. (Some call such noise useful, for it is different in every step.) At 8 it is a large part of the
# signal, and the formula, the first term of a series in $1/B$, is too low for an example in the middle. An example far out is moved *less*
# by a small batch, because it makes its own $\sigma$: in a batch of 2 it is just −1 or 1 (section 1). This happens in practice: large
# images, many devices with few examples each. What to do: normalize over something
# else (GroupNorm, LayerNorm), or share statistics between the devices (`nn.SyncBatchNorm`).

# %% [markdown]
# ## 12 · Misdiagnosis: "it overfits"
#
# A colleague ports a network from another library: ten ReLU layers with BatchNorm. There it said momentum 0.99, so she writes
# the PyTorch equivalent, `momentum=0.01`. Section 3 agrees. The loss falls nicely:


# %%
def ported(seed):
    model = normalized(seed, depth=10)
    for block in model.blocks:
        block.norm.momentum = 0.01
    history = train(model, digits, seed=seed, **plan)
    return model, history.train_loss[-18:].mean()


# %% [markdown]
# Five seeds:

# %%
cases = [ported(seed) for seed in range(5)]
print(f"loss of the last epoch: {np.median([loss for _, loss in cases]):.2g}")

# %% [markdown]
# Her training loop counts right answers as it goes, in training mode, and her test loop counts them on new images, in
# evaluation mode:

# %%
x, targets = digits.train_inputs, digits.train_targets
report = {"training images, training mode": [accuracy(m, x, targets, True) for m, _ in cases]}
report["validation images, eval()"] = [accuracy(m, images, labels, False) for m, _ in cases]
for name, values in report.items():
    print(f"{name:>31}: {np.median(values):.2f} right (5 seeds: {min(values):.2f} to {max(values):.2f})")
assert np.median(report["training images, training mode"]) > 0.9
assert np.median(report["validation images, eval()"]) < 0.8

# %% [markdown]
# "Excellent on the training data, poor on new data: it overfits." She adds weight decay, dropout, and more data.
#
# **Predict.** Which one measurement tells whether it is overfitting? Change *one* thing between the two lines above, not two.

# %%
report["training images, eval()"] = [accuracy(m, x, targets, False) for m, _ in cases]
values = report["training images, eval()"]
print(f"training images, eval(): {np.median(values):.2f} right ({min(values):.2f} to {max(values):.2f})")
print(f"share of the starting statistics after 90 steps: {0.99**90:.1%}")
assert np.median(values) < 0.85

# %% [markdown]
# The same network fails on the very images that it was trained on, as soon as it is in evaluation mode. Overfitting cannot do
# this. It is not the data that changed but the *mode*. After 90 steps the running statistics still hold $0.99^{90}$, 40 %, of
# the 0 and 1 they started with, in ten layers one after the other. The weights are fine:


# %%
@torch.no_grad()
def with_new_statistics(model):
    """Statistics averaged over 17 batches of the training images; no weight is touched."""
    model = copy.deepcopy(model).train()
    for block in model.blocks:
        block.norm.reset_running_stats()
        block.norm.momentum = None  # a plain average over all batches
    for batch in x.split(75)[:17]:
        model(batch)
    return model


# %% [markdown]
# The validation images again:

# %%
cured = [accuracy(with_new_statistics(model), images, labels, False) for model, _ in cases]
stale = report["validation images, eval()"]
print(f"validation images, eval(): {np.median(stale):.2f} before, {np.median(cured):.2f} after "
      f"({min(cured):.2f} to {max(cured):.2f})")
assert np.median(cured) > np.median(stale) + 0.15 and min(cured) > 0.8

# %% [markdown]
# **What you should see.** One pass over the data, without a single gradient, and the "overfitting" is gone. 0.01 is right for the
# thousands of steps of a long training, and wrong for 90.
#
# The rule: when training and validation disagree, compare **training data in `train()` with training data in `eval()`** first. If
# those two disagree, it is the statistics: stale ones, too small batches, or a forgotten `eval()` (which looks the
# other way round). Only if they agree, think of overfitting (lesson 09).

# %% [markdown]
# ## Check yourself
#
# **1.** A BatchNorm layer receives $z$ = 2, 4, 4, 6 for one unit. What are the four outputs, with $\gamma = 1$, $\beta = 0$, and without $\epsilon$?
#
# <details><summary>Answer</summary>
#
# Mean 4, variance (4 + 0 + 0 + 4)/4 = 2. So −1.41, 0, 0 and 1.41.
#
# </details>
#
# **2.** Why does BatchNorm save the gradient of a deep sigmoid network, and LayerNorm does not?
#
# <details><summary>Answer</summary>
#
# Sigmoid outputs are mostly a constant ½, the same for all examples, plus small differences. BatchNorm subtracts the constant and scales
# the differences back to 1; LayerNorm divides by the size of everything, and the differences, which carry the gradient, stay small. In numbers: Var
# against $\mathbb E[\phi^2]$ below the same $\mathbb E[\phi'^2]$.
#
# </details>
#
# **3.** Is there an activation function with which a deep, plain BatchNorm network keeps its gradient exactly?
#
# <details><summary>Answer</summary>
#
# Only a straight line, and only with a large batch. The Poincaré inequality says that every other function makes it grow; at batch
# size $B$ even linear layers grow by $(B-2)/(B-3)$ on the square.
#
# </details>
#
# **4.** All weights before BatchNorm layers are multiplied by ½, everything else stays. What happens to the loss, and to the next step of plain SGD?
#
# <details><summary>Answer</summary>
#
# The loss stays (but for $\epsilon$). The gradient doubles and the weights are half as long: the step turns the weights by four times the
# angle. It is as if the learning rate were four times as large.
#
# </details>
#
# **5.** A network with BatchNorm is excellent in training and poor in use. Which three measurements do you make, in which order?
#
# <details><summary>Answer</summary>
#
# Training data in `train()`, training data in `eval()`, validation data in `eval()`. If the first two differ, it is the running
# statistics; if the last two differ, it is generalization.
#
# </details>
#
# **6.** Somebody trains with batches of 2, BatchNorm in every layer, on vectors (not images). What do the first layers learn?
#
# <details><summary>Answer</summary>
#
# Nothing: the bracket keeps $(B-2)/B = 0$ of the gradient. On images each channel also averages over the pixels, so
# that a batch of 2 is less hopeless there.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [05_batch_norm](../exercises/05_batch_norm/05_batch_norm.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You wrote BatchNorm forward and backward, equal to autograd's, and saw that it removes two components of each gradient and
#   divides by $\sigma$; in evaluation mode it computes with running statistics instead.
# - You predicted from $\mathbb E[\phi'^2]$ over a variance (BatchNorm) or a mean square (LayerNorm) that ten sigmoid layers
#   train with the one and not with the other, and that ReLU pays 1.211 per layer, more in small batches.
# - You saw that weights before BatchNorm have a direction and no length, and that weight decay sets the angle per step.
# - You measured internal covariate shift at equal loss, raised it with noise, and the network trained all the same; you found
#   BatchNorm's loss rougher at the start and smoother on the way; and autograd drew you the axes of five norms.
# - You told stale statistics and a forgotten `eval()` from overfitting, with one measurement.
#
# **So, can normalization prevent vanishing?** Yes: 10 sigmoid layers train that stood still, and the factor 0.236 becomes 1.02. And no: the
# factor goes past 1, to 1.211 for ReLU; fifty plain layers explode at the start, forget their input, and train no better than
# without. What is missing is a way *around* the layers.
#
# ## References
#
# - Ioffe, Szegedy (2015), *Batch normalization: accelerating deep network training by reducing internal covariate shift*, ICML.
# - Ba, Kiros, Hinton (2016), *Layer normalization*, arXiv:1607.06450.
# - Ulyanov, Vedaldi, Lempitsky (2016), *Instance normalization: the missing ingredient for fast stylization*, arXiv:1607.08022.
# - van Laarhoven (2017), *L2 regularization versus batch and weight normalization*, arXiv:1706.05350.
# - Santurkar, Tsipras, Ilyas, Madry (2018), *How does batch normalization help optimization?*, NeurIPS.
# - Wu, He (2018), *Group normalization*, ECCV.
# - Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz (2019), *A mean field theory of batch normalization*, ICLR.
# - Zhang, Sennrich (2019), *Root mean square layer normalization*, NeurIPS.
# - Wan, Zhu, Zhang, Sun (2021), *Spherical motion dynamics: learning dynamics of normalized neural network using SGD and
#   weight decay*, NeurIPS.
#
# **Next:** [06 · Residual connections](06_residual_connections.ipynb). Why does adding the input back make 1000 layers trainable?
