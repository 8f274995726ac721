# %% [markdown]
# # 03 · ReLU and its variants
#
# > **Is a derivative of 1 enough?**
#
# After this lesson you will be able to
#
# - predict from one number, the gain, what any depth of ReLU layers does to signal and gradient;
# - compare ReLU, leaky ReLU, PReLU, ELU, SELU, GELU and SiLU by value, slope and gain, and say which of PyTorch's gains are
#   derived and which are conventions;
# - count dead units properly, kill them with a large step or a negative bias, and save them with a leak;
# - say what a PReLU learns, and what SELU's fixed point promises and what it does not;
# - tell two look-alikes from a vanishing gradient: inputs that become equal, and units that were off from the start.
#
# **Before this:** [02 · Sigmoid saturation](02_sigmoid_saturation.ipynb): a layer multiplies the gradient by $\sqrt\chi$.
# **Time:** about 100 minutes, of which 45 are reading. The rest is for predicting, running and moving sliders.
#
# Lesson 02 ended with a culprit: a slope of at most ¼. The remedy of 2010 looks like the end of the story. Take a function
# whose slope is 1, and nothing can vanish. Today you measure what is true of that.

# %%
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

# %% [markdown]
# ## 1 · By hand: four units, three chains
#
# The **rectified linear unit** passes what is positive and stops the rest:
#
# $$\text{ReLU}(z) = \max(0, z), \qquad \text{ReLU}'(z) = \begin{cases} 1 & z > 0 \\ 0 & z < 0. \end{cases}$$
#
# It costs one comparison, and no exponential. Give it four numbers that lie evenly around 0.

# %%
z = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
h = torch.relu(z)
(slope,) = torch.autograd.grad(h.sum(), z)
for name, values in {"z": z, "ReLU(z)": h, "slope": slope}.items():
    print(f"{name:>7}: {values.tolist()}   mean square {values.square().mean().item():.3g}")

# %% [markdown]
# Look at the mean squares: 2.5 went in, 1.25 came out, and the mean squared slope is not 1 but ½. **The derivative is 1 for
# half of the units, and 0 for the other half.** Keep that ½.
#
# Now chains of four units, as in lesson 02: one weight each, the input is 1.
#
# **Predict.** What is the gradient of the output by the input, for each of these three rows of weights?


# %%
def gradient_of_chain(weights):
    x = a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for weight in weights:
        a = torch.relu(weight * a)
    return torch.autograd.grad(a, x)[0].item()


for weights in ([1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5], [2, -3, 0.5, 1]):
    print(f"weights {weights}: gradient {gradient_of_chain(weights) + 0:.3g}")

# %% [markdown]
# Along one path a ReLU chain is all or nothing. Where every unit is on, the slopes drop out, and the product of the
# **weights** is left, here 0.0625: it vanishes as before. Where one unit is off, the gradient is exactly 0. Two things
# that a slope of 1 does not cure; we take them in turn.

# %% [markdown]
# ## 2 · Is a derivative of 1 enough?
#
# In a wide layer, both effects have an average. Let $q_l$ be the variance of $z$ in layer $l$ and $\sigma_w^2$ the `weight_var`
# of lesson 02 (variance of a weight times number of inputs). Half of the mean square survives, forward and back:
#
# $$q_{l+1} = \sigma_w^2\,\mathbb E\!\left[\text{ReLU}(z)^2\right] = \frac{\sigma_w^2}{2}\, q_l, \qquad
# \chi = \sigma_w^2\,\mathbb E\!\left[\text{ReLU}'(z)^2\right] = \frac{\sigma_w^2}{2}.$$
#
# Its root $\sigma_w$ is called the **gain**. A gain of 1 is Xavier; a gain of $\sqrt2$ is **He** initialization. The function
# below builds a random network and measures every layer; the loss is any loss at all.


# %%
def quadratic(outputs):
    return outputs.square().mean() / 2


def measured(activation, gain, seed, depth=30, width=128, scale=1.0):
    settings = {"initialization": "gaussian", "gain": gain, "bias": False, "dtype": torch.float64}
    model = networks.DeepMLP(depth, width, in_features=width, activation=activation, seed=seed, **settings)
    inputs = scale * data.gaussian_batch(32, width, seed=100 + seed)
    return signals.measure(model, inputs, loss_fn=quadratic, layers=networks.Block)


def root_mean_square(found):
    return np.sqrt(found.series("activation_variance") + found.series("activation_mean") ** 2)


# %% [markdown]
# **Predict.** Thirty ReLU layers with Xavier weights. How much of the gradient of the last layer arrives at the first?
# (a) all of it, the slope is 1; (b) about a tenth; (c) less than a ten-thousandth.

# %%
gains = {"Xavier, gain 1": 1.0, "He, gain √2": math.sqrt(2), "gain 2": 2.0}
runs = {name: [measured("relu", gain, seed) for seed in range(8)] for name, gain in gains.items()}

# %% [markdown]
# Left the signal, right the gradient, each by layer: median and range of eight seeds, and the formula in black.

# %%
axes = plt.subplots(1, 2, sharey=True)[1]
for (name, gain), found in zip(gains.items(), runs.values(), strict=True):
    signal = np.array([root_mean_square(run) for run in found])
    gradient = np.array([run.series("activation_gradient_rms") for run in found])
    q = theory.variance_trajectory(30, "relu", gain**2, first=gain**2)
    back = theory.gradient_norm_trajectory(30, "relu", gain**2, first=gain**2)
    plots.layers(signal, label=name, ax=axes[0])
    plots.layers(np.sqrt(q / 2), label="theory", kind="theory", ax=axes[0])
    plots.layers(gradient / gradient[:, -1:], label=name, ax=axes[1])
    plots.layers(back, label="theory", kind="theory", ax=axes[1])
axes[0].set(ylabel="root mean square", title="activations", ylim=(1e-6, 1e6))
axes[1].set_title("gradient, last layer = 1")
axes[1].get_legend().remove()

# %% [markdown]
# **What you should see.** With Xavier weights both die, in opposite directions, answer (c). With He weights both stay, within a
# band of a factor of a few. With a gain of 2 both explode. The factor per layer, measured over 29 layers:

# %%
for (name, gain), found in zip(gains.items(), runs.values(), strict=True):
    ratios = [run.series("activation_gradient_rms")[[0, -1]] for run in found]
    factor = np.median([first / last for first, last in ratios]) ** (1 / 29)
    expected = math.sqrt(theory.chi(1.0, "relu", gain**2))
    print(f"{name}: factor {factor:.3g} per layer, theory gain/√2 = {expected:.3g}")
    assert abs(factor / expected - 1) < 0.04
print(f"Xavier, 30 layers: {0.5 ** (29 / 2):.1g} of the gradient is left.")

# %% [markdown]
# So the answer to the title is no. The slope of 1 removes the fourfold loss of the sigmoid, but **half of the units are off,
# which costs a factor of $\sqrt{1/2}$ per layer, and the weights multiply as they always did.** What ReLU gives is a *choice*:
# there is a gain, $\sqrt 2$, at which both directions are kept at once. A sigmoid has no such gain without saturating half
# of its units (lesson 02).
#
# PyTorch's default for `nn.Linear` does not make that choice. Its `weight_var` is ⅓, so

# %%
factor = math.sqrt(theory.chi(1.0, "relu", 1 / 3))
print(f"ReLU with PyTorch's default weights: {factor:.3g} per layer, {factor**10:.1g} over ten layers.")

# %% [markdown]
# Ten of these layers come back in section 9, with a wrong diagnosis.
#
# ### Explore: one gain for each activation
#
# Look for the gain at which the line is flat over 50 layers, for ReLU first, then for its relatives. For which of them does
# a flat line stay flat when you double the depth?

# %% tags=["explorer"]
explorers.deep_network(("relu", "leaky_relu", "elu", "selu", "gelu", "silu"))

# %% [markdown]
# ## 3 · The family
#
# Everything that followed keeps the idea, a slope near 1 on the right, and changes the left. In the figure below the table,
# solid lines are values and dashed lines derivatives.
#
# | | for $z < 0$ | what its authors wanted |
# |---|---|---|
# | ReLU (2010) | $0$ | sparse outputs, no saturation on the right |
# | leaky ReLU (2013) | $0.01\,z$ | a gradient for units that are off |
# | PReLU (2015) | $a z$, $a$ learned | let the data choose the leak |
# | ELU (2016) | $e^z - 1$ | outputs centered around 0 |
# | SELU (2017) | $1.76\,(e^z - 1)$, and $1.05\,z$ on the right | mean 0 and variance 1 in every layer |
# | GELU (2016) | $z\,\Phi(z)$ everywhere, $\Phi$ the normal CDF | a smooth gate |
# | SiLU (2016, as Swish 2017) | $z\,\sigma(z)$ everywhere | the same; Swish was found by a search |

# %%
family = ["relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "tanh"]
axes = plt.subplots(2, 4, figsize=(9.6, 5), sharex=True, sharey=True)[1].ravel()
for ax, name in zip(axes, family, strict=True):
    plots.activation(name, ax=ax, reach=4).set(title=name, xlabel="z", ylabel="", ylim=(-2, 3))
    ax.get_legend().remove()

# %% [markdown]
# **Predict.** Which of them have slopes above 1? Which can be *negative* in slope? And whose outputs, for $z$ normal, are the
# most nearly centered?

# %%
z = torch.linspace(-8, 8, 1601, dtype=torch.float64, requires_grad=True)
for name in family:
    value = theory.activation_module(name).double()(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    mean, _ = theory.activation_moments(1.0, name)
    print(f"{name:>10}: slopes {slope.min().item():6.2g} to {slope.max().item():.3g}, ", end="")
    print(f"slope at −2 {slope[600].item():6.2g}, mean output {round(mean, 2) + 0:.2g}")

# %% [markdown]
# (Slopes for $z$ from −8 to 8, means for $z$ normal with variance 1.) SELU reaches a slope of 1.76 just left of 0, GELU 1.13 and
# SiLU 1.1. These two also *dip*: between their lowest point and the far left they rise again, so there the slope is negative.
# SELU is centered by construction, ELU more than the others.
#
# ### One gain, or two?
#
# For ReLU one gain kept both directions. In general there are two:
#
# $$\text{forward}: \quad \frac{1}{\sqrt{\mathbb E[\varphi(z)^2]}}, \qquad \text{backward}: \quad
# \frac{1}{\sqrt{\mathbb E[\varphi'(z)^2]}}, \qquad z \sim \mathcal N(0, 1).$$
#
# Below, theory evaluates the two averages, one random layer of 512 units measures them, and PyTorch's
# `nn.init.calculate_gain` says what it knows.


# %%
def gains_of_a_layer(name, seed):
    """1 / the root mean square of what goes forward, and of what comes back, through 512 units."""
    z = data.gaussian_batch(64, 512, seed).requires_grad_()
    arriving, weights = data.gaussian_batch(64, 512, 100 + seed), data.gaussian_batch(512, 512, 200 + seed)
    h = theory.activation_module(name).double()(z)
    (gradient,) = torch.autograd.grad(h, z, arriving @ weights / math.sqrt(512))
    forward = h @ weights.T / math.sqrt(512)
    return [1 / signal.detach().square().mean().sqrt().item() for signal in (forward, gradient)]


def gain_of_pytorch(name):
    try:
        return f"{nn.init.calculate_gain(name):.3g}"
    except ValueError:
        return "none"


# %% [markdown]
# Each line: theory, and in brackets the median of eight layers.

# %%
for name in [*family, "sigmoid"]:
    expected = theory.critical_gains(name)
    layer = np.median([gains_of_a_layer(name, seed) for seed in range(8)], axis=0)
    print(f"{name:>10}: forward {expected[0]:.3g} ({layer[0]:.3g}), ", end="")
    print(f"backward {expected[1]:.3g} ({layer[1]:.3g}), PyTorch {gain_of_pytorch(name)}")

# %% [markdown]
# **What you should see.**
#
# - For the piecewise linear ones the two gains are equal: $\sqrt{2/(1 + a^2)}$ for a leak of slope $a$. There PyTorch
#   agrees, and its value is derived (He and others, 2015); for PReLU, ask it for a leaky ReLU of that slope.
# - For all others they differ, and *no* single gain keeps both; at another variance than 1 they would be two other numbers. GELU, SiLU and ELU are missing from PyTorch's list.
# - For tanh ($\tfrac53$), sigmoid ($1$) and SELU ($\tfrac34$) PyTorch's numbers are neither of the two. They are conventions.
#
# What does a deep network do that follows the conventions?

# %%
for name in ("tanh", "sigmoid", "selu"):
    weight_var = nn.init.calculate_gain(name) ** 2
    q = theory.fixed_point(name, weight_var)
    print(f"{name:>7}, gain {math.sqrt(weight_var):.3g}: z settles at variance {q:.2g}, ", end="")
    print(f"gradient × {math.sqrt(theory.chi(q, name, weight_var)):.3g} per layer")

# %% [markdown]
# The 5/3 for tanh lets gradients explode slowly, by 1.1 per layer. The 1 for the sigmoid is lesson 02's vanishing network. The
# ¾ for SELU keeps the *gradient* and gives up the unit variance that SELU was made for (its documentation says so; for
# self-normalizing networks ask for `"linear"`, gain 1). None is wrong. But none is *the* right gain either.

# %% [markdown]
# ## 4 · Attracted, indifferent, repelled
#
# Is a gain that keeps variance 1 enough? Nobody hands a layer exactly 1. Give the first layer a variance of ½ or of 2, and
# see whether the network finds back.
#
# **Predict.** Three networks with their own forward gain: ReLU, SELU, GELU. Which one corrects a wrong start, which one keeps
# it, and which one makes it worse?


# %%
def mean_squares(name, start, seed):
    """Mean squares of z in 20 layers of 256 units, the first of which has `start`."""
    gain = theory.critical_gains(name)[0]
    found = measured(name, gain, seed, depth=20, width=256, scale=math.sqrt(start) / gain)
    return np.append(start, (gain * root_mean_square(found)[:-1]) ** 2)


# %% [markdown]
# Each figure shows two starts, eight seeds each.

# %%
axes = plt.subplots(1, 3, sharey=True)[1]
for ax, name in zip(axes, ("relu", "selu", "gelu"), strict=True):
    weight_var = theory.critical_gains(name)[0] ** 2
    for start in (2.0, 0.5):
        seeds = np.array([mean_squares(name, start, seed) for seed in range(8)])
        expected = theory.variance_trajectory(20, name, weight_var, first=start)
        plots.layers(seeds, label=f"start {start:g}", ax=ax, title=name)
        plots.layers(expected, label="theory", kind="theory", ax=ax)
axes[0].set(ylabel="mean square of z", ylim=(1e-3, 1e3))
for ax in axes[1:]:
    ax.get_legend().remove()

# %% [markdown]
# **What you should see.** ReLU is *indifferent*: it keeps whatever it is given, because doubling its input doubles its output.
# SELU is *attracted* to 1 within a few layers. GELU is *repelled*: too little becomes less, too much becomes more, and its
# gain of 1.53 balances on a needle. The whole family, in theory:

# %%
for name in family:
    weight_var = theory.critical_gains(name)[0] ** 2
    low, high = (theory.variance_trajectory(30, name, weight_var, first=q)[-1] for q in (0.5, 2.0))
    print(f"{name:>10}: in layer 30, a variance of 0.5 has become {low:.2g}, and one of 2 {high:.3g}")

# %% [markdown]
# **Why.** GELU and SiLU are nearly linear with slope ½ where $z$ is small, and nearly ReLU where it is large. A small signal
# therefore loses more than a large one. A deep plain network of them needs something else to hold the variance, and
# the networks in which they are famous have it: a normalization in every block (lessons 05 and 08).

# %% [markdown]
# ## 5 · Real digits: ten layers again
#
# Back to the patient of lesson 02: ten layers of 20 units on the digits, plain gradient descent, five seeds, eight epochs.
# Every network gets its best learning rate from the *same grid*. First the sigmoid with Xavier weights, then ReLU, once with
# Xavier's weights and once with He's.

# %%
digits = data.digits(dtype=torch.float64)
images = digits.train_inputs
plan = {"learning_rates": (0.02, 0.06, 0.2, 0.6), "seeds": range(5), "epochs": 8, "batch_size": 75}


def network(activation, gain, depth=10, **settings):
    """A function that makes this network from a seed; the weights have variance gain² / fan_in."""
    settings |= {"activation": activation, "gain": gain, "dtype": torch.float64}
    settings = {"initialization": "gaussian"} | settings
    return lambda seed: networks.DeepMLP(depth, 20, seed=seed, **settings)


# %% [markdown]
# **Predict.** Sigmoid sat at 2.303. Does ReLU train with Xavier's weights? And how much does the factor of $\sqrt2$ matter, for
# no more than ten layers? (`parallel_map` gives what a loop over the names would give, on several cores at a time.)

# %%
makers = {"sigmoid, Xavier": network("sigmoid", 1.0), "ReLU, Xavier": network("relu", 1.0)}
makers["ReLU, He"] = network("relu", math.sqrt(2))
trained = parallel_map(lambda name: sweep(makers[name], digits, **plan), makers)
ends = [np.median(run.loss_by_epoch[run.best, :, -1]) for run in trained.values()]
assert ends[0] > 2.29 > 2 > ends[1] > ends[2] + 0.3

# %% [markdown]
# Median and range of five seeds, each network at its best rate, which the legend names.

# %%
ax = plots.sweeps(trained, chance=math.log(10))
ax.set_ylim(0.15, 5)
ax.get_legend().set_loc("lower left");

# %% [markdown]
# Loss in the last epoch, and how many validation digits are right:

# %%
for name, run in trained.items():
    loss, accuracy = run.loss_by_epoch[run.best, :, -1], run.validation_accuracy[run.best, :, -1]
    print(f"{name:>15}: {np.median(loss):.3g} (5 seeds: {loss.min():.2g} to {loss.max():.2g}), ", end="")
    print(f"{np.median(accuracy):.0%}")

# %% [markdown]
# **What you should see.** The sigmoid does not move. ReLU does, even with the wrong gain, and with the right one it is well
# ahead. So the slope helps and the gain matters too. And the bands are wide: with 20 units per layer, luck is part of every
# run.
#
# Now the whole family, each with its own forward gain and its own best rate.

# %%
def at_forward_gain(name):
    return sweep(network(name, theory.critical_gains(name)[0]), digits, **plan)


family_runs = {"relu": trained["ReLU, He"]}
family_runs |= parallel_map(at_forward_gain, ("leaky_relu", "prelu", "elu", "selu", "gelu", "silu"))

# %% [markdown]
# Markers are medians, bars the range of five seeds.

# %%
final = {name: run.loss_by_epoch[run.best, :, -1] for name, run in family_runs.items()}
ax = plt.subplots(figsize=(9, 3.8))[1]
plots.curve(np.arange(7), [np.median(loss) for loss in final.values()], log_y=True, ax=ax)
for place, loss in enumerate(final.values()):
    ax.vlines(place, loss.min(), loss.max(), color=pictures.COLORS[0], linewidth=6, alpha=0.35)
ax.set_xticks(np.arange(7), list(final))
ax.set_ylabel("training loss, epoch 8")
words = ", ".join(f"{name} {np.median(loss):.2g}" for name, loss in final.items())
pictures.describe(ax, f"Training loss after 8 epochs, median of 5 seeds: {words}.");

# %% [markdown]
# In numbers, best first:

# %%
middle = {name: np.median(loss) for name, loss in final.items()}
for name in sorted(middle, key=middle.get):
    print(f"{name:>10}: {middle[name]:.2g} ({final[name].min():.2g} to {final[name].max():.2g})")
assert max(middle[n] for n in ("prelu", "elu", "selu")) < 0.5 < min(middle["gelu"], middle["silu"])
assert max(middle["gelu"], middle["silu"]) < min(middle["relu"], middle["leaky_relu"])

# %% [markdown]
# **What you should see.** In a deep, narrow, *plain* network, those that let much of the left side through come out ahead: ELU,
# SELU, and PReLU with its leak of ¼. By their medians ReLU and leaky ReLU with its 0.01 come last, and GELU and SiLU before them; the
# bars of these four overlap. Do not take this home as a ranking of activations: eight epochs, 20 units, no normalization. Take home
# that the *left* side matters. Why it may is the subject of the next sections: units can die (6), and inputs can become equal (9).

# %% [markdown]
# ## 6 · Dead units
#
# A ReLU unit that is off for an image gets no gradient from that image. A unit that is off for **every** image gets none at
# all, and as long as what enters it stays as it is, it never comes back: it is **dead**. "Every image" means the whole
# data set. On fewer, you count units that are only resting.


# %%
@torch.no_grad()
def off_share(model, inputs):
    """Share of units, by layer, whose z is not above 0 for any of the inputs."""
    shares, hidden = [], inputs
    for block in model.blocks:
        z = block.linear(hidden)
        hidden = block.activation(z)
        shares.append((z.amax(dim=0) <= 0).double().mean().item())
    return np.array(shares)


# %%
fresh = [network("relu", math.sqrt(2))(seed) for seed in range(8)]
for count in (1, 10, 75, len(images)):
    share = np.mean([off_share(model, images[:count])[4] for model in fresh])
    print(f"He, layer 5 of 10, before training: {share:3.0%} are off on all of {count} image(s)")

# %% [markdown]
# One image: about half. One mini-batch: still too many. From here on all counts are over all 1347 training images.
#
# ### Death by a large step
#
# A smaller network now, two hidden layers of 32 units, He weights, so that depth plays no part. We train it for a single epoch
# at a range of learning rates, and count.
#
# **Predict.** Which layer loses units first: the one that reads the images, or the one that reads other ReLUs?


# %%
def small(seed, leak=0.0, bias=0.0):
    """Two hidden layers of 32 units, He weights, a leak on the left, one bias for all hidden units."""
    model = networks.DeepMLP(
        2, 32, activation="relu", initialization="he_normal", seed=seed, dtype=torch.float64
    )
    for block in model.blocks:
        block.activation = nn.LeakyReLU(leak)
        nn.init.constant_(block.linear.bias, bias)
    return model


def one_epoch(model, rate, seed):
    train(model, digits, learning_rate=rate, epochs=1, batch_size=75, seed=seed, progress=False)
    return model


# %%
rates = [0.2, 0.4, 0.8, 1.6, 2.4, 3.2]
off = [[off_share(one_epoch(small(seed), rate, seed), images) for rate in rates] for seed in range(8)]
off = np.array(off)
assert (off[:, :, 0] == 0).all() and (off[:, :3] == 0).all() and np.median(off[:, -1, 1]) > 0.8

# %% [markdown]
# Eight seeds at each rate:

# %%
ax = plt.subplots(figsize=(9, 3.8))[1]
for layer in (1, 2):
    plots.curve(rates, off[:, :, layer - 1], label=f"layer {layer}", log_x=True, ax=ax)
ax.set(xlabel="learning rate", ylabel="share of dead units", ylim=(-0.05, 1.05), xticks=rates)
ax.get_legend().set_loc("upper left");

# %% [markdown]
# **What you should see.** Up to a rate of 0.8, nobody dies. From 1.6 on layer 2 does, and soon nearly all of it. Layer 1 loses not
# one unit, at any rate.
#
# **Why.** A unit dies when a step lowers its $z$ by more than $z$ differs between images: then no image reaches above 0 any more.
# Take one large step, and measure both for the units that it kills.


# %%
@torch.no_grad()
def z_by_layer(model):
    """z of layer 1 and of layer 2, (images, 32) each."""
    first, second = model.blocks
    return first.linear(images), second.linear(first(images))


# %% [markdown]
# The step has size 8, on one mini-batch of 75 images:

# %%
falls, spreads, lowered = [], [], []
one_batch = data.Split(images[:75], digits.train_targets[:75], images[:75], digits.train_targets[:75])
for seed in range(8):
    before = z_by_layer(model := small(seed))
    train(model, one_batch, learning_rate=8, epochs=1, batch_size=75, seed=seed, progress=False)
    fall = [old - new for old, new in zip(before, z_by_layer(model), strict=True)]
    killed = z_by_layer(model)[1].amax(dim=0) <= 0
    falls.append(fall[1].mean(dim=0)[killed].median().item())
    spreads.append(before[1].std(dim=0).mean().item())
    share_of_images = [(lower > 0).double().mean(dim=0) for lower in fall]
    lowered.append([share_of_images[1][killed].mean().item(), share_of_images[0].max().item()])
print(f"z of the killed units fell by {np.median(falls):.2g} (seeds: {min(falls):.2g} to {max(falls):.2g});")
print(f"between images z differs by {np.median(spreads):.2g} (standard deviation).")
assert min(falls) > 2 * max(spreads)

# %% [markdown]
# In layer 2 all inputs are ReLU outputs, and none is negative. When one image pushes a unit down, its step lowers each weight or
# leaves it as it is, and then no image's $z$ can rise: the one-signed step of lesson 02, now with a fatal end. In layer 1 the
# pixels are standardized, they have both signs: what lowers $z$ for one image raises it for another.

# %%
killing, reading = np.array(lowered).T
print(f"Layer 2, killed units: z fell for {killing.min():.0%} of the images or more (8 seeds).")
print(f"Layer 1, any unit: z fell for {reading.max():.0%} of the images at most.")
assert killing.min() > 0.9 and reading.max() < 0.8

# %% [markdown]
# In layer 1 enough images therefore keep each unit on. That is one more reason to center inputs.

# %% [markdown]
# ### Explore: kill and save
#
# The network is the same. One first step of the size you choose, then 20 ordinary ones. The picture shows for each unit of
# layer 2 on which share of the images it is on; a unit at 0 is off on all of them. Look for the size at which the first
# unit dies, and for the leak that saves it.

# %% tags=["explorer"]
explorers.dying_units()

# %% [markdown]
# ### Death by bias, and rescue by a leak
#
# A large step is not needed. Give all hidden units a bias of −3, and train at a healthy rate of 0.2, with four different
# leaks. A unit with a leak can be *off* for every image, too, but its slope is not 0, so it still gets a gradient.
#
# **Predict.** PyTorch's leak is 0.01 by default. Is that enough to come back within ten epochs?


# %%
def off_by_epoch(leak, seed):
    """Share of the hidden units that are off on all images, before training and after each epoch."""
    model = small(seed, leak, bias=-3.0)
    shares = [off_share(model, images).mean()]
    for epoch in range(10):
        shares.append(off_share(one_epoch(model, 0.2, seed=10 * seed + epoch), images).mean())
    return shares, F.cross_entropy(model(images), digits.train_targets).item()


# %%
rescue = {leak: [off_by_epoch(leak, seed) for seed in range(5)] for leak in (0.0, 0.01, 0.1, 0.3)}

# %% [markdown]
# Five seeds for each leak; all get the same rate, because it is the treatment that we compare, not the best result.

# %%
ax = plt.subplots(figsize=(9, 3.8))[1]
for leak, outcome in rescue.items():
    shares = np.array([shares for shares, _ in outcome])
    plots.curve(np.arange(11), shares, label=f"leak {leak:g}", xlabel="epoch", kind="line", ax=ax)
ax.set(ylabel="share of units off on every image", ylim=(0, 0.6));

# %% [markdown]
# After the ten epochs, medians of the five seeds; the loss is that on all training images, with its range:

# %%
ends = {}
for leak, outcome in rescue.items():
    losses, ends[leak] = [loss for _, loss in outcome], np.median([shares for shares, _ in outcome], axis=0)
    print(f"leak {leak:4.2g}: off {ends[leak][0]:.0%} before, {ends[leak][-1]:.0%} after, ", end="")
    print(f"loss {np.median(losses):.2g} ({min(losses):.2g} to {max(losses):.2g})")
    assert (min(losses) > 2.25) if leak < 0.1 else (max(losses) < 2.1)
back = [1 - share[-1] / share[0] for share in ends.values()]
assert max(back[:2]) < 0.35 < 0.4 < back[2] < back[3] and back[3] > 0.8

# %% [markdown]
# **What you should see.** Without a leak few units come back, and the loss stays at the cost of guessing, 2.3. A leak of 0.01 is
# hardly different; its gradient is there, a hundred times smaller. A leak of 0.1 brings more than a third back, and one of 0.3 nearly
# all. **A leak turns death into sleep; its slope decides how long the sleep is.**
#
# In layer 1, death is final: its inputs are images, and those do not change. In deeper layers a dead unit can revive when the
# layers below it change their outputs. You find it in the explorer:

# %%
for step in (3, 4):
    print(explorers.dying_units().set(first_step=step).sentence.split(".")[0])

# %% [markdown]
# After a first step of 3 one of three has come back. (After most larger steps the last count is the larger one: units go on dying.)

# %% [markdown]
# ## 7 · PReLU: watch the leak learn
#
# If 0.01 is too small, which slope is right? **PReLU** makes it a parameter, one for each layer here, and lets gradient
# descent decide. It starts at ¼. We train ten layers for ten epochs, at the best rate of section 5, and write the slopes
# down.
#
# **Predict.** Will they move towards 0 (a ReLU), or towards 1 (a linear layer)?


# %%
def slopes_by_epoch(seed, epochs=10):
    """(epochs + 1, 10): the slope of every layer, before training and after each epoch."""
    model, slopes = network("prelu", theory.critical_gains("prelu")[0])(seed), []
    rate = family_runs["prelu"].learning_rates[family_runs["prelu"].best]
    for epoch in range(epochs + 1):
        slopes.append([block.activation.weight.item() for block in model.blocks])
        one_epoch(model, rate, seed=100 * seed + epoch)
    return slopes


# %%
slopes = np.array([slopes_by_epoch(seed) for seed in range(5)])

# %% [markdown]
# Four of the ten layers, median and range of five seeds:

# %%
ax = plt.subplots(figsize=(9, 3.8))[1]
for layer in (1, 4, 7, 10):
    plots.curve(np.arange(11), slopes[:, :, layer - 1], label=f"layer {layer}", kind="line", ax=ax)
plots.guide(ax, 0.25, "start: ¼").set(xlabel="epoch", ylabel="slope for z < 0", ylim=(0, 1.1))
ax.get_legend().set_loc("upper left");

# %% [markdown]
# All ten layers at the end:

# %%
last = slopes[:, -1]
print(f"After 10 epochs: median slope {np.median(last):.2g}, from {last.min():.2g} to {last.max():.2g}.")
print(f"{np.mean(last > 0.25):.0%} of the 50 slopes (10 layers, 5 seeds) have grown.")
assert np.mean(last > 0.25) > 0.85

# %% [markdown]
# **What you should see.** They grow, in nearly all layers, to about ½. Nobody told them to. A plain network of ten narrow layers
# asks for layers that are *more linear*, because, as section 9 will show, each kink makes different inputs more alike. (In
# the wide convolutional network of He and others, the first layer learned 0.68 and most later layers much less. What is
# learned depends on the network.)

# %% [markdown]
# ## 8 · SELU: a thousand layers, and what they promise
#
# SELU's two constants are chosen so that mean 0 and variance 1 are a fixed point, with weights of variance 1/width. You saw
# that it attracts. How far does it hold?
#
# **Predict.** A thousand layers of 500 units, no normalization. What are mean and variance of the outputs at the end?


# %%
@torch.no_grad()
def selu_layers(width, seed, depth=1000):
    """(2, depth): mean and variance of the outputs of each layer, for 32 Gaussian inputs."""
    h, statistics = data.gaussian_batch(32, width, seed=1000 * seed), []
    for layer in range(1, depth + 1):
        weights = data.gaussian_batch(width, width, seed=1000 * seed + layer) / math.sqrt(width)
        h = F.selu(h @ weights)
        statistics.append((h.mean().item(), h.var().item()))
    return np.array(statistics).T


# %% [markdown]
# One network of width 500 and eight of width 100. (The original theorem is about wide networks. Set the width to 1000 if you do not mind waiting.)

# %%
wide = selu_layers(500, seed=0)
narrow = np.array([selu_layers(100, seed) for seed in range(1, 9)])

# %% [markdown]
# Every tenth layer:

# %%
axes = plt.subplots(1, 2)[1]
shown, layer = slice(9, None, 10), np.arange(10, 1001, 10)
for ax, row, name, limits in zip(axes, (0, 1), ("mean", "variance"), ((-0.6, 0.6), (0, 2)), strict=True):
    plots.curve(layer, narrow[:, row, shown], label="width 100, 8 seeds", kind="line", ax=ax)
    plots.curve(layer, wide[row, shown], label="width 500", kind="line", ax=ax)
    plots.curve(layer, np.full(100, row), label="theory", kind="theory", ax=ax)
    ax.set(xlabel="layer", ylabel=f"{name} of the outputs", ylim=limits)

# %% [markdown]
# The extremes, over all layers:

# %%
for name, (mean, variance) in {"width 500": wide, "width 100, seed 1": narrow[0]}.items():
    print(f"{name}: means {mean.min():.2g} to {mean.max():.2g}, ", end="")
    print(f"variances {variance.min():.2g} to {variance.max():.2g} over 1000 layers")
assert np.abs(wide[0]).max() < 0.06 and np.abs(wide[1] - 1).max() < 0.12

# %% [markdown]
# **What you should see.** Mean 0 and variance 1, in layer 10 as in layer 1000. Narrow networks wander around it and come back: that
# is what a *stable* fixed point does. The promise is kept.
#
# What about the gradient? SELU's forward gain is 1 and its backward gain is 0.966 (section 3). At gain 1 each layer therefore
# multiplies the gradient by 1/0.966.
#
# **Predict.** That is 3.5 % more per layer. Over 100 layers?

# %%
found = [measured("selu", 1.0, seed, depth=100) for seed in range(8)]
gradient = np.array([run.series("activation_gradient_rms") for run in found])
expected = theory.gradient_norm_trajectory(100, "selu", 1.0)
factor = math.sqrt(theory.chi(1.0, "selu", 1.0))
assert 0.5 < np.median(gradient[:, 0] / gradient[:, -1]) / expected[0] < 2

# %% [markdown]
# Measured and predicted, from the last layer back:

# %%
ax = plots.layers(gradient / gradient[:, -1:], label="measured, 8 seeds", ylabel="gradient, last layer = 1")
plots.layers(expected, label="theory", kind="theory", ax=ax)
plots.span(ax, 4)
print(f"In theory {factor - 1:+.1%} per layer, a factor of {expected[0]:.3g} over 100 layers")
print(f"(measured: {np.median(gradient[:, 0] / gradient[:, -1]):.2g}), and of {factor**999:.0e} over 1000.")

# %% [markdown]
# Over 100 layers the gradient grows about thirtyfold, over 1000 by 15 decades. **A signal that keeps its scale does not imply a
# gradient that does.** For ReLU the two happen to agree; in general they are two questions, and you now have a gain for
# each.

# %% [markdown]
# ## 9 · Two misdiagnoses
#
# ### "My deep ReLU network does not train: the gradient vanishes"
#
# Thirty layers of 20 ReLU units, He weights, on the digits. We know from section 2 that He keeps the gradient. And yet:

# %%
deep_plan = plan | {"learning_rates": (0.02, 0.06, 0.2), "epochs": 4}
deep = sweep(network("relu", math.sqrt(2), depth=30), digits, **deep_plan)
for rate, loss in zip(deep.learning_rates, deep.loss_by_epoch[:, :, -1], strict=True):
    print(f"rate {rate:4.2g}: loss after 4 epochs {np.nanmedian(loss):.3g} (guessing: {math.log(10):.3g})")

# %% [markdown]
# **Predict.** How much of the *activation* gradient of layer 30 arrives in layer 1? (Not of the weight gradient: its ratio of
# first to last layer is the same with any scale of the weights; lesson 04 makes a case of it.)


# %%
def by_layer(gain, seed):
    """Norm of the activation gradient by layer, last layer = 1, for one mini-batch at the start."""
    model, inputs, targets = network("relu", gain, depth=30)(seed), images[:75], digits.train_targets[:75]
    found = signals.measure(model, inputs, targets, layers=networks.Block, loss_fn=F.cross_entropy)
    gradient = found.series("activation_gradient_rms")
    return gradient / gradient[-1]


# %% [markdown]
# With He's weights, and with Xavier's for comparison:

# %%
ax = plt.subplots(figsize=(9, 3.6))[1]
for name, gain in {"He": math.sqrt(2), "Xavier": 1.0}.items():
    relative = np.array([by_layer(gain, seed) for seed in range(5)])
    first = relative[:, 0]
    print(f"{name}, layer 1 / layer 30: {np.median(first):.1g} ({first.min():.1g} to {first.max():.1g})")
    plots.layers(relative, label=name, ylabel="activation gradient, layer 30 = 1", ax=ax)
    assert (first.min() > 0.05) == (name == "He") and (first.max() < 1e-3) == (name == "Xavier")

# %% [markdown]
# Not vanishing: within a factor of about ten, the luck of 20 units, where Xavier loses four to six decades. What is wrong
# is something that no gradient norm shows. Take two different images and follow them: the cosine of the angle between
# their activations, layer by layer.

# %%
deep_models = [network("relu", math.sqrt(2), depth=30)(seed) for seed in range(5)]
found = [signals.measure(m, images[:64], loss_fn=quadratic, layers=networks.Block) for m in deep_models]
cosines = np.array([run.series("cosine")[[0, 9, 29]] for run in found])
print("Cosine of two images in layers 1, 10, 30: {:.2g}, {:.2g}, {:.2g}".format(*np.median(cosines, 0)))
assert cosines[:, 2].min() > 0.9

# %% [markdown]
# By layer 30, whatever the image, the network holds nearly the same vector.
#
# **Why.** If two inputs have cosine $c$ before a ReLU layer with random weights, then after it, in a wide layer, they have
#
# $$\hat c = \frac{\sqrt{1 - c^2} + c\,(\pi - \arccos c)}{\pi},$$
#
# whatever the scale of the weights (Cho and Saul 2009). This **arc-cosine map** lies above the diagonal, and meets it at 1.

# %%
c, stairs = np.linspace(0, 1, 101), [0.0]
for _ in range(100):
    stairs.append(theory.relu_cosine_map(stairs[-1]))
axes = plt.subplots(1, 2)[1]
plots.curve(c, [theory.relu_cosine_map(value) for value in c], label="after", kind="theory", ax=axes[0])
plots.curve(c, c, label="no change", kind="line", ax=axes[0])
axes[0].set(xlabel="cosine before a layer", ylabel="cosine after it", xlim=(0, 1), ylim=(0, 1.05))
found = [measured("relu", math.sqrt(2), seed, depth=100) for seed in range(8)]
plots.layers(np.array([run.series("cosine") for run in found]), label="8 seeds", log_y=False, ax=axes[1])
plots.layers(stairs[1:], label="theory", kind="theory", log_y=False, ax=axes[1])
axes[1].set(ylabel="cosine of two inputs", ylim=(0, 1.05))
assert abs(np.median([run.series("cosine")[-1] for run in found]) - stairs[-1]) < 0.01

# %% [markdown]
# And the gradient of the same eight networks?

# %%
kept = [run.series("activation_gradient_rms")[[0, -1]] for run in found]
cosine = np.median([run.series("cosine")[[9, 29, 99]] for run in found], axis=0)
print("Cosine after 10, 30, 100 layers: {:.2g}, {:.2g}, {:.3g}".format(*cosine), end="; ")
print("theory {:.2g}, {:.2g}, {:.3g}".format(*(stairs[n] for n in (10, 30, 100))))
print(f"Gradient in layer 1 / layer 100: median {np.median([first / last for first, last in kept]):.2g}")

# %% [markdown]
# **What you should see.** Two inputs that were perpendicular have, in theory, a cosine of 0.87 after ten layers and 0.996 after a
# hundred; the eight networks agree. The gradient of the median network is of the same size at both ends. **The network keeps its
# scale and forgets its input.** The dashboard of lesson 00 shows it in the panel CORRELATION.
#
# Is it the cause of the flat loss? A leak of ½, at its own gain, keeps the gradient on average exactly as He keeps it for ReLU ($\chi
# = 1$). But it does *two* things: it lets inputs become equal more slowly, and it gives a gradient to units that are off. To
# tell which of the two counts, we need a control that does only one of them. A leak of **−½** is one: units that are off get
# a gradient of the same size, and the gain is the same, because only the square of the slope enters. But it folds
# the left side over to the right, so that inputs become equal even faster. In theory, for one layer and perpendicular inputs:


# %%
for leak in (0.0, 0.5, -0.5):
    gain, activation = math.sqrt(2 / (1 + leak**2)), nn.LeakyReLU(leak)
    factor = theory.chi(1.0, activation, gain**2)
    cosine = theory.correlation_map(0.0, activation, gain**2, 0.0, 1.0)
    print(f"leak {leak:4.2g}: χ = {factor:.3g}, the cosine goes from 0 to {cosine:.2g}")
    assert abs(factor - 1) < 1e-9


# %% [markdown]
# **Predict.** If units without a gradient were the disease, which of the two leaks would cure it? And if equal inputs were?


# %%
def with_leak(leak):
    """A function that makes thirty layers with this leak, at its own gain, from a seed."""

    def make(seed):
        model = network("relu", math.sqrt(2 / (1 + leak**2)), depth=30)(seed)
        for block in model.blocks:
            block.activation = nn.LeakyReLU(leak)
        return model

    return make


def last_cosine(model):
    return signals.measure(model, images[:64], loss_fn=quadratic, layers=networks.Block).series("cosine")[-1]


# %% [markdown]
# Same grid, same five seeds, each at its best rate:

# %%
leaks = {0.0: deep} | parallel_map(lambda leak: sweep(with_leak(leak), digits, **deep_plan), (0.5, -0.5))
left = {leak: run.loss_by_epoch[run.best, :, -1] for leak, run in leaks.items()}
for leak, loss in left.items():
    print(f"leak {leak:4.2g}: loss {np.median(loss):.2g} ({loss.min():.2g} to {loss.max():.2g}), ", end="")
    alike = [last_cosine(with_leak(leak)(seed)) for seed in range(5)]
    print(f"cosine in layer 30: {np.median(alike):.3g} ({min(alike):.3g} to {max(alike):.3g})")
    if leak == 0.5:
        print(f"           (loss of that with cosine {max(alike):.2g}: {loss[np.argmax(alike)]:.2g})")
assert (left[0.5] < left[0.0] - 0.1).all() and (left[0.5] < left[-0.5] - 0.1).all()
assert np.median(left[-0.5]) > np.median(left[0.0]) - 0.05

# %% [markdown]
# **What you should see.** From every seed the leak of ½ learns more than ReLU in the same four epochs. The leak of −½ does not, though
# none of its units is without a gradient. So **a gradient for units that are off is not the cure**; what sets the
# two leaks apart is what they do to two inputs. (The mean cosine at the start is not all there is to it: one of the five
# networks with a leak of ½ starts with 0.96 and learns like the others.) Collapsed correlation is a disease that no
# gradient norm shows, and its cures are others than larger gradients: a slope on the left that keeps inputs apart, biases and
# gains at the edge of chaos (04), normalization (05), skips (06).
#
# ### "56 % of the units in layer 9 are dead. That is why it does not train"
#
# You may read such a count for a ten-layer ReLU network: *more than half of layer 9 is dead; dying ReLU is the cause; use a leak.*
# Let us count at initialization, before a single step, over the whole data set. Once with PyTorch's default (its weights
# *and* its small random biases), once with He.
#
# **Predict.** How many are dead before anything was learned?

# %%
starts = {
    "PyTorch default": network("relu", 1.0, initialization="pytorch_default"),
    "He, zero bias": network("relu", math.sqrt(2)),
    "Xavier, zero bias": network("relu", 1.0),
}
shares = {name: np.array([off_share(make(s), images) for s in range(16)]) for name, make in starts.items()}
for name, by_layer in shares.items():
    spread = (by_layer[:, 8].min(), by_layer[:, 8].max())
    print(f"{name:>17}, layer 9: {by_layer[:, 8].mean():.0%} dead ", end="")
    print("(16 seeds: {:.0%} to {:.0%})".format(*spread))
assert abs(shares["PyTorch default"][:, 8].mean() - 0.56) < 0.02
assert abs(shares["He, zero bias"][:, 8].mean() - 0.12) < 0.02
assert (shares["He, zero bias"] == shares["Xavier, zero bias"]).all()

# %% [markdown]
# Layer by layer, median and range:

# %%
ax = plt.subplots(figsize=(9, 3.8))[1]
for name in ("PyTorch default", "He, zero bias"):
    plots.layers(shares[name], label=f"{name}, 16 seeds", log_y=False, ax=ax)
ax.set(ylabel="share of units off on all images", ylim=(-0.05, 1))
ax.get_legend().set_loc("upper left");

# %% [markdown]
# **What you should see.** So the number is right: 56 % with PyTorch's default, between 30 and 70 % from seed to seed. The word is wrong.
# Nobody died; these units were off *on arrival*, before any step. It is an artefact of the initialization, and with He
# it is 12 %.
#
# **Why.** With the default, the signal shrinks by 0.408 per layer and the biases do not. After nine layers $z$ *is* its bias, the
# same for all images but for a small rest, and a bias is negative half of the time. With He there are no biases, so the sign of
# $z = w \cdot h$ depends only on the *direction* of $h$. The directions of all images have come together (the section above), into
# a cone; a unit whose weights point away from the whole cone is off on all images. The narrower the cone, the more
# units have it on one side, and a random $w$ has it on the negative side as often as on the positive one. That the scale plays
# no part you see in Xavier's row: scaling all weights cannot change a sign when there are no biases, and He and Xavier
# agree to the last unit.
#
# In a deeper He network the cone is narrower, and so the share grows, towards one half:

# %%
deeper = [network("relu", math.sqrt(2), depth=50)(seed) for seed in range(16)]
silent = np.mean([off_share(model, images) for model in deeper], axis=0)
found = [signals.measure(m, images[:64], loss_fn=quadratic, layers=networks.Block) for m in deeper]
cosine = np.median([run.series("cosine") for run in found], axis=0)
for layer in (9, 20, 49):
    print(f"He, layer {layer} of 50: {silent[layer - 1]:.0%} are off on all images, ", end="")
    print(f"cosine of two images {cosine[layer - 1]:.3g}")
assert silent[8] < silent[19] < silent[48] < 0.5 and cosine[8] < cosine[19] < cosine[48]

# %% [markdown]
# And with the default, is $z$ its bias? The spread of $z$ between images, over the size of its mean, in layer 9:

# %%
with torch.no_grad():
    for name in ("PyTorch default", "He, zero bias"):
        z = [m.blocks[8].linear(nn.Sequential(*m.blocks[:8])(images)) for m in map(starts[name], range(16))]
        ratio = np.median([(v.std(dim=0) / v.mean(dim=0).abs()).median().item() for v in z])
        print(f"{name:>15}: {ratio:.2g}")
        assert (ratio < 0.01) == (name == "PyTorch default")

# %% [markdown]
# Now the decisive test. If dead units were the cause, a leak would cure it. We take one of 0.3, which brought nearly all units
# back in section 6:


# %%
def default_with_leak(seed):
    model = starts["PyTorch default"](seed)
    for block in model.blocks:
        block.activation = nn.LeakyReLU(0.3)
    return model


# %% [markdown]
# The third network is the opposite treatment: ReLU without any leak, PyTorch's biases kept, and only the weights enlarged by
# $\sqrt6$, from ⅓ to He's 2. (Each at its best rate from the same grid, five seeds, six epochs.)

# %%
short = plan | {"epochs": 6}
makers = {"default": starts["PyTorch default"], "leaky": default_with_leak}
makers["rescaled"] = network("relu", math.sqrt(6), initialization="pytorch_default")
default, leaky, rescaled = parallel_map(lambda name: sweep(makers[name], digits, **short), makers).values()
stuck, cured = (run.loss_by_epoch[run.best, :, -1] for run in (leaky, rescaled))
assert stuck.min() > 2.25 and np.median(cured) < 1.7

# %% [markdown]
# The loss by epoch:

# %%
treated = {"default": default, "default, leak 0.3": leaky, "default, weights × √6": rescaled}
ax = plots.sweeps(treated, chance=math.log(10))
ax.set_ylim(0.3, 4)
ax.get_legend().set_loc("lower left");

# %% [markdown]
# **What you should see.** The leak changes nothing, though no unit is without a gradient. Larger weights cure, though no unit has a leak. The disease was
# the factor of 0.408 per layer, in both directions; the dead units were its shadow. **Before you treat dead units, count them
# at step 0, over the whole data set.** If they were off from the start, look at the initialization.

# %% [markdown]
# ## Check yourself
#
# **1.** A colleague says: "ReLU's derivative is 1, so gradients cannot vanish. They can only be cut." What does she miss?
#
# <details><summary>Answer</summary>
#
# The weights, and the average. Along one path, the product of the weights is left; over many paths, half of the units are off
# in each layer, which costs $\sqrt{1/2}$ per layer. With Xavier weights that is $2^{-L/2}$ in $L$ layers.
#
# </details>
#
# **2.** Derive the critical gain of the activation $|z|$. Does it have one gain or two? Would you expect its inputs to become
# equal?
#
# <details><summary>Answer</summary>
#
# $|z|^2 = z^2$ and the squared slope is 1 everywhere, so both gains are 1. It is a leak of slope −1: $\sqrt{2/(1 + 1)}$. It
# folds $z$ and $-z$ together, so yes, inputs become equal, and faster than with ReLU: try `theory.critical_gains(torch.abs)`,
# and measure the cosine.
#
# </details>
#
# **3.** You count 30 % dead units on one mini-batch of 32 images. What do you know?
#
# <details><summary>Answer</summary>
#
# An upper bound. Units that are rarely on look dead on a small batch. Count over the whole data set, and count again at
# step 0.
#
# </details>
#
# **4.** In the explorer, a network with a leak of 0.3 and one without get the same much too large step. Can the leak make
# things worse?
#
# <details><summary>Answer</summary>
#
# Yes. Dead units fall silent, and a silent network cannot explode; with a leak the same large step keeps its effect, and
# with a bias of −4 and a first step of 10 the loss leaves the range of numbers. A leak keeps units trainable. It does
# not make a learning rate right.
#
# </details>
#
# **5.** SELU keeps mean 0 and variance 1 over 1000 layers. Why is that not yet a network that trains at depth 1000?
#
# <details><summary>Answer</summary>
#
# Its gradient grows by 3.5 % per layer, that is by 15 decades. The forward and the backward gain are different numbers.
# Moreover, the promise is about random weights; training moves them.
#
# </details>
#
# **6.** A deep He-ReLU network has a flat loss and a gradient that is the same in every layer. What do you measure next?
#
# <details><summary>Answer</summary>
#
# The cosine between the activations of different inputs, by layer. If it tends to 1, the network forgets its input. Then the
# update ratio and the data, as in lesson 02.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [03_relu_and_variants](../exercises/03_relu_and_variants/03_relu_and_variants.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You predicted gain/√2 per layer for ReLU, and measured it in both directions: a derivative of 1 is not enough, a gain of
#   √2 is.
# - You compared the family by value, slope and two gains, found PyTorch's gains derived for the piecewise linear ones and
#   conventions for tanh, sigmoid and SELU, and saw which activations correct a wrong scale and which amplify it.
# - You counted dead units over the whole data set, killed them with large steps and negative biases, and saw how large a leak
#   must be to bring them back in time.
# - You watched PReLU's slopes grow to about ½, and SELU hold its signal over 1000 layers while its gradient grows.
# - You told two look-alikes from a vanishing gradient: cosines that tend to 1, and units that were off from the start.
#
# **So, is a derivative of 1 enough?** No: half of the units pay for it, the weights still multiply, and even a gradient of the
# right size does not say that there is anything left to learn from. But ReLU made one thing possible: a scale of the
# weights at which nothing vanishes and nothing explodes.
#
# ## References
#
# - Cho, Saul (2009), *Kernel methods for deep learning*, NIPS 22.
# - Nair, Hinton (2010), *Rectified linear units improve restricted Boltzmann machines*, ICML.
# - Glorot, Bordes, Bengio (2011), *Deep sparse rectifier neural networks*, AISTATS.
# - Maas, Hannun, Ng (2013), *Rectifier nonlinearities improve neural network acoustic models*, ICML workshop.
# - He, Zhang, Ren, Sun (2015), *Delving deep into rectifiers: surpassing human-level performance on ImageNet
#   classification*, ICCV.
# - Clevert, Unterthiner, Hochreiter (2016), *Fast and accurate deep network learning by exponential linear units (ELUs)*,
#   ICLR.
# - Hendrycks, Gimpel (2016), *Gaussian error linear units (GELUs)*, arXiv:1606.08415.
# - Klambauer, Unterthiner, Mayr, Hochreiter (2017), *Self-normalizing neural networks*, NIPS 30.
# - Ramachandran, Zoph, Le (2017), *Searching for activation functions*, arXiv:1710.05941.
# - Elfwing, Uchibe, Doya (2018), *Sigmoid-weighted linear units for neural network function approximation in
#   reinforcement learning*, Neural Networks 107.
# - Lu, Shin, Su, Karniadakis (2020), *Dying ReLU and initialization: theory and numerical examples*, Communications in
#   Computational Physics 28.
#
# **Next:** [04 · Initialization](04_initialization.ipynb). How large should a random weight be, exactly?
