# %% [markdown]
# # 02 · Sigmoid saturation
#
# > **Why did deep sigmoid networks not train for twenty years?**
#
# After this lesson you will be able to
#
# - say why the slope of a sigmoid never exceeds ¼, and which share of a layer's units is saturated;
# - predict the factor $\sqrt\chi$ by which a gradient shrinks per layer, and measure it, for any size of weight;
# - tell from gradients recorded *during* training whether a flat loss is a vanished gradient or something else;
# - explain what zero-centering is worth, and turn a sigmoid network into a tanh network with pencil and paper;
# - say what layer-wise pre-training did for these networks, and when a sigmoid output needs cross-entropy.
#
# **Before this:** [01 · The chain rule](01_chain_rule_intuition.ipynb): a gradient is a product of local derivatives.
# **Time:** about 100 minutes, of which 45 are reading. The rest is for predicting, running and moving sliders.
#
# Backpropagation became widely known in 1986, with sigmoid units. In 2006 it was still news when a fully connected
# network with more than a few layers could be trained at all. No theorem was missing in between. What was missing is a
# number, 0.236, and in this lesson you measure it.

# %%
import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import expit
from torch.nn import functional as F

from gradients_in_depth import data, explorers, initialization, networks, pictures
from gradients_in_depth import plots, session, signals, theory
from gradients_in_depth.training import sweep, train

session.start(seed=0)

# %% [markdown]
# ## 1 · By hand: one slope, four units
#
# The sigmoid squeezes any number into the interval from 0 to 1, and its slope can be read off its output:
#
# $$a = \sigma(z) = \frac{1}{1 + e^{-z}}, \qquad \sigma'(z) = a\,(1 - a).$$
#
# **Predict.** Two numbers that add up to 1 are multiplied. How large can the product be, and at which $a$?

# %%
z = torch.tensor([0.0, 2.0, 5.0, 8.0], dtype=torch.float64, requires_grad=True)
a = torch.sigmoid(z)
(slope,) = torch.autograd.grad(a.sum(), z)
for row in torch.stack([z, a, a * (1 - a), slope, torch.exp(-z)], dim=1).tolist():
    print("z = {:.0f}   a = {:.3g}   a(1 − a) = {:.3g}   autograd: {:.3g}   e⁻ᶻ = {:.3g}".format(*row))

# %% [markdown]
# The product is largest when both are equal: at $a = \tfrac12$, that is $z = 0$, it is **¼**. It is never 0 and never
# negative: $\sigma' \in (0, \tfrac14]$. Far from zero it fades like $e^{-|z|}$, as the last column shows. At $z = 8$ the slope is 3.35e-4:
# the unit answers "1" and hardly listens to its input any more. It is **saturated**.
#
# Its sibling is the same curve, stretched: $\tanh z = 2\,\sigma(2z) - 1$. Twice as high and twice as fast makes a slope
# four times as large, at most 1, and outputs that lie around 0 instead of around ½. Both differences will matter.

# %%
axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)[1]
for ax, name in zip(axes, ("sigmoid", "tanh"), strict=True):
    plots.activation(name, ax=ax).get_legend().set_loc("upper left")
axes[0].set_ylim(-1.1, 1.9);

# %% [markdown]
# Now four units in a row, each with one weight. Unit $k$ multiplies the gradient by $w_k\,\sigma'(z_k)$, and you know
# $\sigma'(z_k)$ as soon as you know its output. Three of these four weights are *not* small.

# %%
x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
a, product = x, 1.0
for weight in (1.0, -2.0, 3.0, 4.0):
    a = torch.sigmoid(weight * a)
    factor = weight * a.item() * (1 - a.item())
    product *= factor
    print(f"weight {weight:2.0f}   output {a.item():.3g}   factor {factor:6.3f}   product {product:.2g}")

# %% [markdown]
# The weights multiply to −24, and yet only −0.011 arrives. Autograd agrees:

# %%
(by_autograd,) = torch.autograd.grad(a, x)
print(f"autograd: {by_autograd.item():.2g}")
assert math.isclose(product, by_autograd.item())

# %% [markdown]
# Every unit divided by at least four, and those that were pushed off center divided by more. That is the whole disease in
# one line: **a chain of sigmoids pays at least a factor of four per unit, and only its weights can pay it back.**

# %% [markdown]
# ## 2 · How many units are saturated?
#
# The usual story puts the blame on saturation. So let us count. From here on, a unit counts as saturated when its slope is
# below 5 % of the largest slope it could have: for a sigmoid that is $|z| > 4.36$, for tanh $|z| > 2.18$.
#
# The first function below is any loss at all; it is needed because `signals.measure` runs forward *and* backward. The
# second builds one layer whose $z$ has a standard deviation of our choice, and counts.


# %%
def quadratic(outputs):
    return outputs.square().mean() / 2


def saturated_share(activation, std, seed):
    settings = {"activation": activation, "initialization": "gaussian", "gain": std, "dtype": torch.float64}
    model = networks.DeepMLP(1, 256, seed=seed, **settings)
    inputs = data.gaussian_batch(64, 64, seed=100 + seed)
    found = signals.measure(model, inputs, loss_fn=quadratic, layers=networks.Block)
    return found.layers[0].saturated_share


# %% [markdown]
# **Predict.** With **Xavier** initialization (weights of variance 1/width), a deep sigmoid layer gets $z$ with a standard
# deviation of 0.51. Which share of its units is saturated? (a) about half; (b) about a tenth; (c) practically none.

# %%
stds = np.geomspace(0.5, 16, 9)
measured = {
    name: np.array([[saturated_share(name, std, seed) for std in stds] for seed in range(8)])
    for name in ("sigmoid", "tanh")
}

# %% [markdown]
# Markers are the median of eight seeds, the band around them is their whole range (here thinner than a marker). The black
# lines are theory: the two tails of a normal distribution, $2\,\Phi(-4.36/\text{std})$ and $2\,\Phi(-2.18/\text{std})$.

# %%
fine = np.geomspace(0.5, 16, 100)
ax = plt.subplots()[1]
for name, shares in measured.items():
    plots.curve(stds, shares, label=f"{name}, 8 seeds", xlabel="standard deviation of z", log_x=True, ax=ax)
    plots.curve(fine, theory.saturated_share(fine**2, name), label="theory", kind="theory", ax=ax)
    assert np.abs(np.median(shares, axis=0) - theory.saturated_share(stds**2, name)).max() < 0.02
plots.guide(ax, 0.51, "Xavier, deep sigmoid", vertical=True).set_ylabel("share of saturated units");

# %% [markdown]
# Theory and count agree. What do they say at the dotted line?

# %%
q = theory.fixed_point("sigmoid", weight_var=1.0)
edge = 2 * math.acosh(1 / math.sqrt(0.05))
print(f"Deep sigmoid, Xavier weights: z has variance {q:.3g}, standard deviation {math.sqrt(q):.2g}.")
print(f"A unit saturates beyond {edge:.3g}, which is {edge / math.sqrt(q):.2g} standard deviations away.")
print(f"The share of units out there is {theory.saturated_share(q, 'sigmoid'):.0e}.")

# %% [markdown]
# **What you should see.** Practically none: answer (c). And tanh, the better activation, saturates *earlier*: it reaches
# every share at half the standard deviation.
#
# So at initialization, saturation is innocent. Nothing is stuck; every unit works where it is steepest. Whatever stops
# the gradient must be something that *healthy* sigmoid units do.

# %% [markdown]
# ## 3 · The factor per layer
#
# Here is what they do. Let $g_l$ be the root mean square of ∂loss/∂h in layer $l$. One step back multiplies by the slopes
# and by the transposed weights, and independent random weights add up as variances do:
#
# $$g_{l-1} = \sqrt{\chi}\; g_l, \qquad \chi = \sigma_w^2\; \mathbb E\!\left[\sigma'(z)^2\right], \quad z \sim \mathcal N(0, q),
# \qquad q_{l+1} = \sigma_w^2\; \mathbb E\!\left[\sigma(z)^2\right].$$
#
# The number $\sigma_w^2$ is called `weight_var` here: the variance of a weight times the number of inputs. With Xavier it is
# exactly 1. PyTorch's `nn.Linear`, left to itself, draws weights uniformly from ±1/√inputs, and that makes it ⅓.


# %%
def random_network(scheme, seed):
    settings = {"in_features": 128, "activation": "sigmoid", "initialization": scheme, "bias": False}
    return networks.DeepMLP(20, 128, seed=seed, dtype=torch.float64, **settings)


def gradient_by_layer(model, seed):
    inputs = data.gaussian_batch(64, 128, seed=100 + seed)
    gradient = signals.measure(model, inputs, loss_fn=quadratic, layers=networks.Block)
    return gradient.series("activation_gradient_rms")


# %% [markdown]
# **Predict.** A slope is at most ¼. Through 20 layers of Xavier, how much of the gradient is left? And is PyTorch's
# default better, or worse?

# %%
weight_vars = {s: initialization.weight_variance(s, 128, 128) for s in ("xavier_normal", "pytorch_default")}
measured, predicted = {}, {}
for scheme, weight_var in weight_vars.items():
    measured[scheme] = np.array([gradient_by_layer(random_network(scheme, seed), seed) for seed in range(8)])
    predicted[scheme] = theory.gradient_norm_trajectory(20, "sigmoid", weight_var, first=weight_var)

# %% [markdown]
# Eight seeds for each of the two schemes, 20 layers of 128 units, each gradient in units of that in the last layer. The
# black lines are the formula above, evaluated numerically. Nothing is fitted.

# %%
ax = plt.subplots()[1]
for scheme, gradient in measured.items():
    plots.layers(gradient / gradient[:, -1:], label=scheme.replace("_", " "), ax=ax)
    plots.layers(predicted[scheme], label="theory", kind="theory", ax=ax)
ax.set_ylabel("activation gradient, last layer = 1");

# %% [markdown]
# **What you should see.** Two straight lines on a log scale, over 12 and over 16 decades: the same factor in every layer.
# Now look at that factor itself, from each layer to the one before it.

# %%
ax = plt.subplots()[1]
for scheme, gradient in measured.items():
    factors, expected = (g[..., :-1] / g[..., 1:] for g in (gradient, predicted[scheme]))
    plots.layers(factors, label=scheme.replace("_", " "), log_y=False, ax=ax)
    plots.layers(expected, label="theory", kind="theory", log_y=False, ax=ax)
plots.guide(ax, 0.25, "¼, the largest slope").set(ylabel="factor per layer", ylim=(0, 0.32));

# %% [markdown]
# Single networks wander by ten or twenty percent, because a network of finite width is a random thing. Over 19 layers it
# averages out:

# %%
for scheme, gradient in measured.items():
    typical = np.median(gradient[:, 0] / gradient[:, -1]) ** (1 / 19)
    factor, ceiling = predicted[scheme][-2], 0.25 * math.sqrt(weight_vars[scheme])
    print(f"{scheme:>15}: measured {typical:.3g} per layer, theory {factor:.3g}, ceiling {ceiling:.3g}")
    assert abs(typical / factor - 1) < 0.03

# %% [markdown]
# Theory says 0.236 for Xavier and 0.141 for PyTorch's default. Both lie *below* the ceiling that textbooks give, ¼ times
# the root of `weight_var`, because not every $z$ is 0. And the default is worse.

# %%
for depth in (5, 10, 20):
    xavier, default = (predicted[scheme][-2] ** depth for scheme in weight_vars)
    print(f"{depth:2d} layers: Xavier {xavier:.2g}, PyTorch default {default:.2g}, ceiling {0.25**depth:.2g}")
assert xavier < 1e-12

# %% [markdown]
# After 20 layers, less than a trillionth of the gradient is left. In a step of gradient descent the first layer moves a
# trillionth of what the last one moves. It is not slow. It is absent.
#
# ### The message is lost in both directions
#
# **Predict.** Going *forward*, two different inputs enter the network. Does their difference reach the last layer
# any better than the gradient reaches the first?


# %%
@torch.no_grad()
def spread_by_layer(model, hidden):
    """How much a unit's output differs between inputs: standard deviation over the batch, by layer."""
    spread = []
    for block in model.blocks:
        hidden = block(hidden)
        spread.append(hidden.var(dim=0).mean().sqrt().item())
    return np.array(spread)


# %% [markdown]
# For a small difference between two inputs, each layer is a multiplication by a matrix of weights and by slopes: the very
# matrices and slopes that the gradient meets on its way back. So theory has the same factor for both directions.

# %%
models = [random_network("xavier_normal", seed) for seed in range(8)]
spread = np.array([spread_by_layer(m, data.gaussian_batch(64, 128, 100 + s)) for s, m in enumerate(models)])
backward, theory_line = measured["xavier_normal"], predicted["xavier_normal"]
assert abs(np.log10(np.median(spread[:, -1] / spread[:, 0]) / theory_line[0])) < 0.3

# %%
ax = plots.layers(spread / spread[:, :1], label="difference between inputs, first layer = 1")
plots.layers(backward / backward[:, -1:], label="activation gradient, last layer = 1", ax=ax)
plots.layers(theory_line, label="theory", kind="theory", ax=ax)
plots.layers(theory_line[0] / theory_line, label="theory", kind="theory", ylabel="what is left", ax=ax)
ax.get_legend().set_loc("lower center");

# %% [markdown]
# **What you should see.** A cross. What the network knows about its input falls from left to right exactly as the gradient
# falls from right to left. The first layer sees the input and hears nothing about the error; the last layer hears the
# error and sees practically the same thing for every input.
#
# This is why it does not help that the *last* layers have a healthy gradient. They have nothing to learn from.

# %% [markdown]
# ## 4 · Explore: can large weights pay it back?
#
# Move the weight gain below. A gain of 1 is Xavier, and the black line is the theory you just met. Look for the gain at
# which a sigmoid network finally keeps its gradient over 50 layers, and read in the sentence what its units are like there.

# %% tags=["explorer"]
explorers.deep_network()

# %% [markdown]
# The same in numbers, for infinitely many layers of infinite width:

# %%
for gain in (1, 4, 8, 10.15, 12):
    q = theory.fixed_point("sigmoid", gain**2)
    factor, share = math.sqrt(theory.chi(q, "sigmoid", gain**2)), theory.saturated_share(q, "sigmoid")
    print(f"gain {gain:4.3g}: factor {factor:.3g} per layer, {share:.1%} of the units saturated")
    assert (factor > 0.999) == (gain > 10)

# %% [markdown]
# The gradient survives only from a gain of about 10 on: weights ten times as large as Xavier's. There the price is paid by
# saturation. Half of the units are stuck at 0 or 1, and the others, with slopes multiplied by large weights, carry the
# gradient for all. A layer like that turns small differences between inputs into random ones, which is another
# disease (lesson 04 calls it chaos). Large weights are not the cure that they look like.

# %% [markdown]
# ## 5 · "With w = 50 the gradient explodes"
#
# You may read: *if the weights are large, say 50, then |wσ′| is 50 · ¼ = 12.5 per unit, and the gradient explodes.* Let us
# give the claim ten units in a row. Each has weight 50 and its threshold (the input at which $z = 0$) somewhere in the
# range of its input, from 0 to 1.


# %%
def chains(weight, seed, count=10_000, units=10):
    """|d output / d input| of `count` random chains of `units` sigmoids."""
    random = np.random.default_rng(seed)
    a, gradient = random.uniform(size=count), np.ones(count)
    for _ in range(units):
        z = weight * (a - random.uniform(size=count))
        a = expit(z)
        gradient *= weight * a * expit(-z)  # expit(-z) is 1 - a, without its rounding to 0
    return gradient


# %% [markdown]
# **Predict.** Of 10 000 such chains, how many have a gradient larger than 1? (a) nearly all; (b) a few percent; (c) none.

# %%
for weight in (2, 6.89, 50, 100):
    gradient = chains(weight, seed=0)
    share, median = np.mean(gradient > 1), np.median(gradient)
    print(f"w = {weight:4.3g}: {share:.1%} of the chains exceed 1; the median is {median:.0e}")

# %% [markdown]
# **What you should see.** With $w = 50$, none: answer (c), and a median of 2e-86. The few chains that do explode, 2 %, have
# weights of about 7.
#
# **Why.** A large weight also makes $z = w\,(a - \text{threshold})$ large, and there the slope is gone. Look at one unit
# with its threshold at ½.


# %%
def local_factor(weight, a):
    return weight * expit(weight * (a - 0.5)) * expit(-weight * (a - 0.5))


# %%
a = np.linspace(0, 1, 1001)
ax = plt.subplots()[1]
for weight in (2, 6.89, 50):
    plots.curve(a, local_factor(weight, a), label=f"w = {weight:g}", kind="line", log_y=True, ax=ax)
plots.guide(ax, 1, "explodes above 1").set(xlabel="input a", ylabel="|w σ′|", ylim=(1e-4, 1000));

# %% [markdown]
# With $w = 2$ the factor never reaches 1: even in the middle it is $w/4$. With $w = 6.89$ it does over nearly half of the
# inputs. With $w = 50$ the peak is high, 12.5, and narrow. The inputs for which $|w\,\sigma'| \ge 1$ form a **window**
# around the threshold; it exists from $|w| = 4$ on, and
#
# $$\text{width of the window} = \frac{2}{|w|}\,\ln\!\left(\frac{|w|\,\bigl(1 + \sqrt{1 - 4/|w|}\bigr)}{2} - 1\right).$$

# %%
weights, fine = np.geomspace(4, 100, 20), np.geomspace(4, 100, 200)
measured_width = [np.mean(local_factor(weight, a) >= 1) for weight in weights]
ax = plots.curve(weights, measured_width, label="measured", log_x=True)
plots.curve(fine, theory.sigmoid_window_width(fine), label="theory", kind="theory", ax=ax)
ax.set(xlabel="weight w", ylabel="width of the window");

# %% [markdown]
# The window opens at 4, is widest soon after, and closes slowly.

# %%
print("The widest window is {1:.3g}, at w = {0:.3g}.".format(*theory.widest_sigmoid_window()))
for w in (4, 50, 100):
    print(f"w = {w:3d}: window {theory.sigmoid_window_width(w):.3g}, factor in its middle {w / 4:.3g}")
print(f"Ten units, each exactly in the middle of its window at w = 50: {12.5**10:.2g}")

# %% [markdown]
# The claim is half true. *In the middle* of its window a unit with $w = 50$ multiplies by 12.5, and ten of them make 9.3e10.
# But the window is 0.155 wide (at $w = 100$ only 0.0917, and never more than 0.448), and the outputs of such units are
# nearly always close to 0 or 1. Each unit that is missed costs many decades. A deep sigmoid network can explode, but
# somebody has to aim every unit for it. Left to chance, $w = 50$ *vanishes*. (The window is from Nielsen's chapter 5.)

# %% [markdown]
# ## 6 · Real digits: ten layers, every learning rate
#
# Enough of random networks: now they shall learn. The data are 1797 handwritten digits of 8 × 8 pixels, a quarter of them
# kept for validation. The patient has ten sigmoid layers of 20 units, Xavier weights, plain gradient descent.

# %%
digits = data.digits(dtype=torch.float64)


def network(activation, depth=10, **settings):
    """A function that makes this network from a seed."""
    settings |= {"activation": activation, "dtype": torch.float64}
    return lambda seed: networks.DeepMLP(depth, 20, seed=seed, **settings)


# %% [markdown]
# A wrong learning rate can look like any disease. So every network in this lesson gets its best rate from the *same grid*,
# with five seeds at each rate. `sweep` trains all of them side by side, each exactly as `train` would alone, and
# writes down the gradient of every layer at every step.

# %%
grid = (0.02, 0.06, 0.2, 0.6)
plan = {"seeds": range(5), "epochs": 10, "batch_size": 75, "record_gradients": True}
shallow = sweep(network("sigmoid", depth=1), digits, learning_rates=grid, **plan)

# %% [markdown]
# That was one sigmoid layer, for comparison. Now ten, with a larger rate on top in case the grid is too timid:

# %%
deep = sweep(network("sigmoid"), digits, learning_rates=(*grid, 2), **plan)

# %% [markdown]
# **Predict.** Ten digits, equally frequent. A network that has learned nothing else answers "10 % each" to every image. What
# is its cross-entropy?

# %%
ax = plt.subplots(figsize=(9, 3.6))[1]
for name, run in {"1 sigmoid layer": shallow, "10 sigmoid layers": deep}.items():
    plots.curve(run.learning_rates, run.loss_by_epoch[:, :, -1].T, label=name, log_x=True, log_y=True, ax=ax)
plots.guide(ax, math.log(10), f"guessing: -ln 0.1 = ln 10 = {math.log(10):.3g}")
ax.set(xlabel="learning rate", ylabel="training loss, last epoch", ylim=(0.1, 5));

# %% [markdown]
# **What you should see.** Ten sigmoid layers sit at the cost of guessing, $\ln 10 = 2.303$, at *every* rate of the grid and
# beyond, from every seed. Remember this number: whoever trains classifiers meets it again and again.
#
# One sigmoid layer trains, so the sigmoid alone is not to blame. Is it the depth? A third network has ten layers, too,
# but of tanh. Everything else is the same.

# %%
tanh = sweep(network("tanh"), digits, learning_rates=grid, **plan)
runs = {"sigmoid, 1 layer": shallow, "sigmoid, 10 layers": deep, "tanh, 10 layers": tanh}
ax = plots.sweeps(runs, chance=math.log(10))
ax.set_ylim(0.05, 4)
ax.get_legend().set_loc("lower left");

# %% [markdown]
# Each line is a network at its own best rate, which the legend names.

# %%
for name, run in runs.items():
    loss, accuracy = run.loss_by_epoch[run.best, :, -1], run.validation_accuracy[run.best, :, -1]
    print(f"{name:>18}: training loss {np.median(loss):.3g}, validation accuracy {np.median(accuracy):.0%}")
assert (deep.loss_by_epoch[:, :, -1] > math.log(10) - 0.01).all()

# %% [markdown]
# Ten tanh layers train, so the depth alone is not to blame either. It takes both.
#
# Where did the gradient go? You measured it at initialization. Now look at it *while* the networks train: the norm of the
# weight gradient in four of the ten layers, by epoch.

# %%
axes = plt.subplots(1, 2)[1]
for ax, name in zip(axes, ("sigmoid, 10 layers", "tanh, 10 layers"), strict=True):
    plots.weight_gradients(runs[name], layers=(1, 4, 7, 10), ax=ax).set(title=name, ylim=(1e-8, 10))
axes[0].get_legend().remove()
axes[1].get_legend().set_loc("lower right");

# %% [markdown]
# Averaged over all steps of the training:

# %%
for name, run in {"sigmoid": deep, "tanh": tanh}.items():
    norms = np.median(run.gradient_norms[run.best].mean(axis=1), axis=0)  # over steps, then seeds
    factor = (norms[1] / norms[9]) ** (1 / 8)
    print(f"{name:>7}: layer 1 gets {norms[0]:.2g}, layer 10 {norms[9]:.2g}; a factor {factor:.2g} per layer")

# %% [markdown]
# The lines of the sigmoid network lie in order, two decades for every three layers, and they stay there: ten epochs of
# training repair nothing. The factor per layer, measured in training on real images, is the 0.24 of random networks on
# random inputs. In the tanh network all layers hear the error about equally loud, at the start and later.
#
# This picture is the test to remember. **A flat loss with gradients in this order is a vanishing gradient. A flat loss
# without it is something else** (section 10).
#
# And saturation? Perhaps it comes later, while the network trains. Count again, after five epochs at the largest rate,
# where it is most likely.

# %%
after = []
for seed in range(5):
    train(model := network("sigmoid")(seed), digits, learning_rate=2, epochs=5, batch_size=75, seed=seed)
    batch = (digits.train_inputs, digits.train_targets)
    after.append(signals.measure(model, *batch, F.cross_entropy, layers=networks.Block))

# %%
share = np.max([found.series("saturated_share")[1:] for found in after])
mean = np.median([found.series("activation_mean") for found in after], axis=0)
print(f"Saturated units in layers 2 to 10, the largest share in any of the five networks: {share:.1%}")
print(f"Mean output of layer 5: {mean[4]:.2g}. Mean output of layer 10: {mean[9]:.2g}.")
assert share == 0 and mean[9] < 0.25 < mean[4]

# %% [markdown]
# Still none. But the last layer has begun to move: its outputs were around ½, and are now around 0.15. It gets the only
# healthy gradient, has nothing to say about the image, and so learns to be silent, by pushing its own outputs to 0.
# Glorot and Bengio watched it end in saturation in 2010. In a deep sigmoid network, saturation is less a cause of the
# disease than a consequence.

# %% [markdown]
# ## 7 · Zero-centering
#
# Sigmoid outputs are positive, all of them, always. That sounds harmless. Look at what it does to the gradient of one
# unit's weights, for one image: $\partial\text{loss}/\partial w_{ij} = \delta_i\, h_j$. If all $h_j$ are positive, all
# weights of unit $i$ get a gradient of the *same sign*, the sign of $\delta_i$. In one step they can all go up, or all go
# down; never one up and another down.


# %%
def one_signed_units(activation, batch, seed):
    """Share of the units in layer 2 whose 20 weights all get a gradient of one sign."""
    model = network(activation, depth=3)(seed)
    loss = F.cross_entropy(model(digits.train_inputs[:batch]), digits.train_targets[:batch])
    (gradient,) = torch.autograd.grad(loss, model.blocks[1].linear.weight)
    return (gradient.sign().sum(dim=1).abs() == 20).double().mean().item()


# %% [markdown]
# **Predict.** For one image the constraint is certain. A mini-batch sums over 75 images. Is it gone there?

# %%
for name in ("sigmoid", "tanh"):
    for batch in (1, 75):
        share = [one_signed_units(name, batch, seed) for seed in range(8)]
        low, middle, high = min(share), np.median(share), max(share)
        print(f"{name:>7}, batch of {batch:2d}: {middle:.0%} of the units (8 seeds: {low:.0%} to {high:.0%})")

# %% [markdown]
# With one image it holds for every sigmoid unit and for no tanh unit. With 75 images about half of the sigmoid units are
# still bound by it; by chance it would be one unit in half a million ($2 \cdot 2^{-20}$).
#
# What it costs shows in two dimensions. One linear unit has to find the weights (1, −1): one up, the other down. It learns
# from one example at a time.


# %%
def path(inputs, learning_rate, goal=(1.0, -1.0)):
    """The two weights, step by step, from (0, 0)."""
    weights = [np.zeros(2)]
    for h in inputs:
        error = h @ (weights[-1] - goal)
        weights.append(weights[-1] - learning_rate * error * h)
    return np.array(weights)


def steps_needed(inputs, learning_rate):
    """Steps until the weights have come within 0.1 of the goal to stay."""
    far = np.linalg.norm(path(inputs, learning_rate) - (1.0, -1.0), axis=1) > 0.1
    return int(np.flatnonzero(far)[-1]) + 1


# %% [markdown]
# Its examples are coded once as $\sigma(x)$, all positive, and once as $\sigma(x) - \tfrac12$. Each coding gets its best learning
# rate from one grid.

# %%
x = data.gaussian_batch(120, 2, seed=0).numpy()
ax = plt.subplots(figsize=(9, 4.6))[1]
for name, inputs in {"σ(x)": expit(x), "σ(x) − ½": expit(x) - 0.5}.items():
    steps, rate = min((steps_needed(inputs, rate), rate) for rate in (0.5, 1, 2, 5, 10))
    label = f"{name}: {steps} steps (rate {rate:g})"
    plots.curve(*path(inputs, rate)[: steps + 1].T, label=label, kind="line", ax=ax)
ax.plot(1, -1, "*", color=pictures.INK, markersize=14)
ax.annotate("goal", (1, -1), (14, -14), textcoords="offset points")
ax.set(xlabel="first weight", ylabel="second weight", ylim=(-1.5, 0.9));

# %% [markdown]
# The centered unit walks to the goal. The positive one zigzags, because every single step has to go up-right or down-left,
# and the goal lies down-right. (For $n$ independent inputs, the loss is $1 + n\,\text{mean}^2/\text{variance}$ times as curved
# in one direction as in all others, and the learning rate has to suit that one. LeCun, Kanter and Solla gave this reason
# for centering in 1991.)
#
# ### A sigmoid network that is a tanh network
#
# So sigmoids have two faults, a small slope and a constant ½. Repair both by hand. Since
# $\sigma(z) - \tfrac12 = \tfrac12 \tanh(z/2)$, take the weights $4W$, and biases that subtract the ½ again, $-\tfrac12 \sum_j 4W_{ij}$:
#
# $$z_i = \sum_j 4 W_{ij}\,\bigl(\sigma(z_j) - \tfrac12\bigr) = 2 \sum_j W_{ij} \tanh(z_j/2)
# \quad\Longrightarrow\quad \frac{z_i}{2} = \sum_j W_{ij} \tanh\!\left(\frac{z_j}{2}\right).$$
#
# In terms of $z/2$ this *is* a tanh network with the weights $W$. Nothing is approximated.


# %%
@torch.no_grad()
def centered_sigmoid(seed):
    """A sigmoid network that computes what the tanh network of this seed computes."""
    model = network("sigmoid")(seed)
    first, *others = [block.linear for block in model.blocks]
    first.weight.mul_(2)  # its inputs are images, not sigmoids
    for layer, factor in [(layer, 4) for layer in others] + [(model.readout, 2)]:
        layer.weight.mul_(factor)
        layer.bias.copy_(-layer.weight.sum(dim=1) / 2)
    return model


# %%
ours, theirs = (make(0)(digits.train_inputs) for make in (centered_sigmoid, network("tanh")))
assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
print(f"Outputs as large as {theirs.abs().max().item():.2g} differ by less than 1e-12.")

# %% [markdown]
# **Predict.** Which of the two repairs matters more: the fourfold weights, or the biases that center? First the fourfold
# weights alone, in a network of ten sigmoid layers:

# %%
fourfold = sweep(network("sigmoid", gain=4), digits, learning_rates=grid, **plan)
for rate, loss in zip(fourfold.learning_rates, fourfold.loss_by_epoch[:, :, -1], strict=True):
    low, middle, high = min(loss), np.median(loss), max(loss)
    print(f"rate {rate:4.2g}: loss after 10 epochs {middle:.2g} (5 seeds: {low:.2g} to {high:.2g})")

# %% [markdown]
# Hardly better than guessing. Now both repairs:

# %%
centered = sweep(centered_sigmoid, digits, learning_rates=grid, **plan)
runs = {"Xavier": deep, "fourfold weights": fourfold, "fourfold and centered": centered}
ax = plots.sweeps(runs, chance=math.log(10))
ax.set_ylim(0.2, 4)
ax.get_legend().set_loc("lower left");

# %%
for name, run in {"fourfold": fourfold, "centered": centered, "tanh": tanh}.items():
    first, last = np.median(run.gradient_norms[0, :, 0], axis=0)[[1, 9]]
    loss = np.median(run.loss_by_epoch[run.best, :, -1])
    print(f"{name:>8}: gradient at the start, layer 2 / layer 10: {first / last:.2g}; final loss {loss:.2g}")

# %% [markdown]
# **What you should see.** It takes both. Fourfold weights alone still lose a factor of 0.632 per layer (section 4, gain 4):
# without centering, the constant ½ of all inputs adds up to a large random offset in each $z$, and pushes units off their
# steep center. Centering puts them back, and a ten-layer *sigmoid* network trains.
#
# It still learns more slowly than tanh, from the same function at the start: its weight gradients are made of positive
# inputs, as before. Where you start is one thing; along which directions you walk is another.

# %% [markdown]
# ## 8 · The cure of 2006: pre-train layer by layer
#
# What ended the twenty years was not this piece of arithmetic but another idea: **do not send the gradient through ten
# layers; send it through one.** Train the first layer alone, as an *autoencoder*: from its output, a throw-away decoder
# has to reproduce its input. Then freeze it, take its outputs as the data for the second layer, and so on up. No labels
# are needed. At the end, fine-tune the whole stack with labels, as usual. Hinton, Osindero and Teh did it with
# Boltzmann machines in 2006, Bengio and others with autoencoders in 2007.


# %%
def train_one_layer(block, code, seed):
    """Train `block` to keep what its input `code` says."""
    features = code.shape[1]
    autoencoder = network("sigmoid", depth=1, in_features=features, out_features=features)(seed)
    autoencoder.blocks[0] = block
    target = (code - code.mean(dim=0)) / (code.std(dim=0) + 1e-6)  # a pixel that is always blank stays 0
    recipe = {"loss_fn": F.mse_loss, "optimizer": "adam", "learning_rate": 0.03, "epochs": 4, "seed": seed}
    task = data.Split(code, target, code, target)
    train(autoencoder, task, batch_size=75, progress=False, **recipe)


# %% [markdown]
# The network is the one of section 6: ten sigmoid layers, Xavier weights. Each layer is trained in turn on what the ones
# below it make of the images.


# %%
def pretrained(seed):
    model, code = network("sigmoid")(seed), digits.train_inputs
    for block in model.blocks:
        train_one_layer(block, code, seed)
        code = block(code).detach()
    return model


# %%
stacks = [pretrained(seed) for seed in range(5)]
finetuned = sweep(stacks.__getitem__, digits, learning_rates=grid, **plan)

# %% [markdown]
# As a control, *Adam*, which we used inside the autoencoders, gets the whole network from random weights, with rates of its
# own grid.
#
# **Predict.** Same layers, same sigmoid, same plain gradient descent, same grid as in section 6. Only the starting point
# differs. Does it train now? And does Adam manage without pre-training?

# %%
adam = sweep(network("sigmoid"), digits, learning_rates=(0.001, 0.005, 0.025), optimizer="adam", **plan)
runs = {"random": deep, "random, Adam": adam, "centered by hand": centered, "pre-trained": finetuned}
ax = plots.sweeps(runs, chance=math.log(10))
ax.set_ylim(0.05, 5)
ax.get_legend().set_loc("lower left");

# %%
accuracy = np.median(finetuned.validation_accuracy[finetuned.best, :, -1])
print(f"Pre-trained and fine-tuned: {accuracy:.0%} of the validation digits are right.")
assert accuracy > 0.9 and adam.loss_by_epoch[adam.best, :, -1].min() > 1.5

# %% [markdown]
# **What you should see.** The network that could not be moved at any learning rate now learns the digits, with the same
# sigmoid and the same optimizer. Adam alone does move the random network, but not far in this time; what a better
# optimizer can and cannot save is the subject of lesson 09.
#
# **Why?** One explanation is that the layers have learned good features. Measure something simpler first: how different the
# images still are, layer by layer.

# %%
starts = {"random": network("sigmoid"), "centered": centered_sigmoid, "pre-trained": stacks.__getitem__}
ax = plt.subplots(figsize=(9, 3.8))[1]
for name, make in starts.items():
    spread = [spread_by_layer(make(seed), digits.train_inputs) for seed in range(5)]
    plots.layers(spread, label=name, ylabel="difference between images", ax=ax)

# %% [markdown]
# Pre-training keeps the images apart up to the last layer. And the other direction, the gradient, at the first step?

# %%
ax = plt.subplots(figsize=(9, 3.8))[1]
for name, run in zip(starts, (deep, centered, finetuned), strict=True):
    plots.layers(run.gradient_norms[0, :, 0, :10], label=name, ylabel="weight gradient, first step", ax=ax)
ax.get_legend().set_loc("lower right");

# %%
for name, make in starts.items():
    sizes = [make(seed).blocks[5].linear.weight.var().item() * 20 for seed in range(5)]
    low, middle, high = min(sizes), np.median(sizes), max(sizes)
    print(f"{name:>11}: weight_var of layer 6 is {middle:.2g} (5 seeds: {low:.2g} to {high:.2g})")

# %% [markdown]
# Both directions are open. Pre-training made the weights larger, with a `weight_var` of about 12 instead of 1 (our fourfold
# weights have 16), and learned biases that keep the units on their slopes: a layer that loses its input, or saturates,
# cannot reproduce it. In other words, **it found a good initialization**, and a better one than our pencil, for it also
# knows the images.
#
# Once one knows what a good initialization has to do, one can write it down instead of learning it. That is what Glorot
# and Bengio did in 2010, and what lesson 04 does.
#
# Two liberties of ours, so that this runs in seconds: the targets are standardized, and the autoencoders use Adam. Try
# `target = code` instead: the lower layers still learn, and further up there is soon nothing left to reproduce.

# %% [markdown]
# ## 9 · The last unit: confidently wrong
#
# There is one place where saturation, and not the ¼ of healthy units, is the culprit: a sigmoid at the *output*. Say its
# target is 0, and it answers 0.98. With $z$ its input, $a$ its answer and $y$ the target,
#
# $$\text{squared error } \tfrac12 (a - y)^2: \quad \frac{\partial\,\text{loss}}{\partial z} = (a - y)\,\sigma'(z), \qquad\qquad
# \text{cross-entropy}: \quad \frac{\partial\,\text{loss}}{\partial z} = a - y.$$
#
# Cross-entropy is made so that the slope cancels: that of $-\ln(1 - a)$ is $1/(1 - a)$, and $\sigma'$ is $a\,(1 - a)$.
#
# **Predict.** Under squared error, which wrong answer gets the largest correction: 0.7, 0.9 or 0.98?

# %%
for answer in (0.7, 0.9, 0.98):
    z = math.log(answer / (1 - answer))
    squared, cross = (theory.output_delta(z, 0.0, loss) for loss in ("squared_error", "cross_entropy"))
    print(f"answer {answer}: gradient {squared:.2g} under squared error, {cross:.2g} under cross-entropy")

# %% [markdown]
# The best of the three, 0.7. The same over a range of $z$, theory beside what autograd finds for the two losses:

# %%
z = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
a, z_values = torch.sigmoid(z), z.detach().numpy()
ax = plt.subplots(figsize=(9, 3.8))[1]
for name, loss in {"squared_error": a.square() / 2, "cross_entropy": -torch.log1p(-a)}.items():
    (delta,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
    plots.curve(z_values, delta, label=f"{name.replace('_', ' ')}, autograd", ax=ax)
    plots.curve(z_values, theory.output_delta(z_values, 0.0, name), label="theory", kind="theory", ax=ax)
ax.set(xlabel="z (the target is 0)", ylabel="gradient ∂loss/∂z");

# %% [markdown]
# Under squared error the gradient *falls* as the answer gets worse. A unit that is confidently wrong is left in peace. Now
# let it learn, as in chapter 3 of Nielsen's book: one weight, one bias, input 1, target 0, once from a mild start
# ($a = 0.82$) and once from a bad one ($a = 0.98$).


# %%
def learn(start, loss, learning_rate, steps=400):
    """The outputs of one sigmoid unit with weight and bias `start`; both get the gradient of z."""
    z, outputs = sum(start), []
    for _ in range(steps):
        outputs.append(expit(z))
        z -= 2 * learning_rate * theory.output_delta(z, 0.0, loss)
    return np.array(outputs)


# %% [markdown]
# The two losses are measured in different units, so one learning rate for both would be unfair. The rates below are chosen
# so that from the *mild* start both need the same 107 steps to get below 0.2.

# %%
axes = plt.subplots(1, 2)[1]
for ax, (loss, rate) in zip(axes, {"squared_error": 0.15, "cross_entropy": 0.031}.items(), strict=True):
    for name, start in {"mild start": (0.6, 0.9), "bad start": (2.0, 2.0)}.items():
        outputs = learn(start, loss, rate)
        label = f"{name}: {np.argmax(outputs < 0.2)} steps to 0.2"
        plots.curve(np.arange(400), outputs, label=label, xlabel="step", ylabel="output", kind="line", ax=ax)
    ax.set(title=f"{loss.replace('_', ' ')} (rate {rate:g})", ylim=(0, 1.25))
    ax.get_legend().set_loc("upper right")

# %% [markdown]
# **What you should see.** Under squared error the bad start spends its first hundred steps on a plateau: a large error, and
# no learning. It takes 302 steps instead of 107, nearly three times as many. Under cross-entropy it falls at once, and
# takes 151.
#
# Note what this cures, and what it does not: it repairs **one** slope, the last. The networks of section 6 were trained
# with cross-entropy all along.

# %% [markdown]
# ## 10 · Misdiagnosis: three flat curves
#
# Three networks of ten layers, five seeds each. All three sit near 2.3 and do not move. Somebody says: "vanishing gradients,
# as always." For one of them that is right. (The code says what was done to each; look away if you want to guess first.)

# %%
order = torch.randperm(len(digits.train_targets), generator=torch.Generator().manual_seed(0))
mixed_up = dataclasses.replace(digits, train_targets=digits.train_targets[order])
short = plan | {"epochs": 4}
patients = {"A": sweep(network("sigmoid"), digits, learning_rates=[0.06], **short)}
patients["B"] = sweep(network("tanh"), digits, learning_rates=[0.0001], **short)
patients["C"] = sweep(network("tanh"), mixed_up, learning_rates=[0.06], **short)

# %%
ax = plt.subplots(figsize=(9, 3.4))[1]
for name, run in patients.items():
    plots.curve(np.arange(1, 5), run.loss_by_epoch[0], label=name, xlabel="epoch", kind="line", ax=ax)
ax.set(ylabel="training loss", ylim=(0, 3), xticks=range(1, 5))
ax.get_legend().set_loc("lower left");

# %% [markdown]
# **Predict.** Suppose that you had only these curves. What would you measure first?
#
# The gradient by layer, the mean over all steps of the training:

# %%
norms = {name: run.gradient_norms[0, :, :, :10].mean(axis=1) for name, run in patients.items()}
ax = plt.subplots(figsize=(9, 3.8))[1]
for name, by_layer in norms.items():
    plots.layers(by_layer, label=name, ylabel="weight gradient", ax=ax)
ax.get_legend().set_loc("lower right");

# %% [markdown]
# **A** has the order of section 6: there the gradient vanishes; it is the sigmoid network. In **B** and **C** it is the same
# in every layer. For those two, measure next how far a step goes, compared with the weights: the **update ratio**
# learning rate · ‖gradient‖ / ‖weights‖. About 1e-3 is a healthy rule of thumb.

# %%
for name, run in patients.items():
    typical = np.median(norms[name], axis=0)[1:]  # layers 2 to 10: 20 * 20 weights of variance 1 / 20
    ratio = run.learning_rates[0] * typical / math.sqrt(20)
    print(f"{name}: gradient in layer 2 / layer 10 = {typical[0] / typical[-1]:.1g}; ", end="")
    print(f"update ratio {ratio.min():.0e} to {ratio.max():.0e}")

# %% [markdown]
# - **A**: gradients that fall by five decades, and update ratios that fall with them.
# - **B**: nothing vanishes, but all update ratios are about 5e-6. The learning rate is hundreds of times too small. Before
#   you change an architecture, change the learning rate.
# - **C**: healthy gradients *and* healthy updates. It works hard and learns nothing, and that points away from the network:
#   at the data. Its labels had been shuffled against its images, as happens when two arrays are sorted or split
#   separately.
#
# The loss shows the same symptom for all three. The gradient by layer tells A from the others, and the update ratio tells
# B from C.

# %% [markdown]
# ## Check yourself
#
# **1.** A colleague replaces the sigmoid by $2\sigma(z) - 1$ and keeps Xavier weights. Which of the two repairs of
# section 7 has she made, and does the gradient still vanish?
#
# <details><summary>Answer</summary>
#
# Since $2\sigma(z) - 1 = \tanh(z/2)$, the outputs are centered, and the largest slope is ½ instead of ¼. So she has made one
# repair and half of the other. With weights of variance 1 in sum, the gradient falls by about ½ per layer: it vanishes,
# more slowly. With weights twice as large, hers is the tanh network.
#
# </details>
#
# **2.** At a gain of 10.15 the factor per layer of a sigmoid network is 1. Would you start training there?
#
# <details><summary>Answer</summary>
#
# Better not. The norm of the gradient is kept, but half of the units are saturated, and the others sit in narrow windows:
# two similar images end up as far apart as two different ones. A gradient of the right size is necessary and not
# sufficient. Try it: `sweep(network("sigmoid", gain=10.15), digits, learning_rates=grid, **plan)`.
#
# </details>
#
# **3.** The last layer of the stuck network gets a healthy gradient at every step. Why does it not learn at least something?
#
# <details><summary>Answer</summary>
#
# Because its input is the same for all images, up to about a millionth (section 8, the figure of the images). From a
# constant input it can learn how frequent each class is, and nothing else. That costs $\ln 10$.
#
# </details>
#
# **4.** Does cross-entropy instead of squared error cure the vanishing gradient of a deep sigmoid network?
#
# <details><summary>Answer</summary>
#
# No. It takes the slope of the output unit out of the product, one factor of many. The hidden layers keep theirs.
#
# </details>
#
# **5.** You measure 40 % saturated units in layer 1 of a sigmoid network of three layers, and none in the others. Is depth
# the problem?
#
# <details><summary>Answer</summary>
#
# No: the $z$ of the first layer has a standard deviation of about 5 (section 2). The inputs are not standardized, or the
# weights of this layer are too large. Look at the scale of the data first.
#
# </details>
#
# **6.** Which of these would have helped in 1990: tanh, standardized inputs, weights of the right size, cross-entropy?
#
# <details><summary>Answer</summary>
#
# The first three, together: the centered network of section 7 needs nothing that did not exist. Some of it *was* known;
# LeCun and others used a scaled tanh and standardized inputs in convolutional networks, and those trained. What was
# missing was the habit of measuring the gradient layer by layer. Slow machines and small data sets did the rest.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [02_sigmoid_saturation](../exercises/02_sigmoid_saturation/02_sigmoid_saturation.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You read the slope of a sigmoid off its output, found ¼ as its largest value, and counted the saturated units: at
#   Xavier's initialization there are none.
# - You predicted $\sqrt\chi$, measured it (0.236 in theory for Xavier, 0.141 for PyTorch's default), and saw the same factor
#   going forward. You corrected "w = 50 explodes": only inside a window that is 0.155 wide.
# - You recorded gradients during training, and told a vanished gradient from a learning rate that was too small and from
#   labels that were shuffled.
# - You saw what positive outputs do to the signs of a gradient, and turned a sigmoid network into a tanh network by hand.
# - You pre-trained the stack layer by layer, watched it train at last, and found that its gift was a good starting
#   point. At the output, you saw cross-entropy take the slope out of the gradient, and squared error leave it in.
#
# **So, why twenty years?** Because each sigmoid layer with weights of the natural size keeps less than a quarter of the
# gradient, and of the signal; because nothing in the loss curve says so; and because the remedy, larger weights and
# centered units, looks obvious only after one has measured.
#
# ## References
#
# - Rumelhart, Hinton, Williams (1986), *Learning representations by back-propagating errors*, Nature 323.
# - Hochreiter (1991), *Untersuchungen zu dynamischen neuronalen Netzen*, diploma thesis, TU München.
# - LeCun, Kanter, Solla (1991), *Eigenvalues of covariance matrices: application to neural-network learning*, Physical
#   Review Letters 66.
# - LeCun, Bottou, Orr, Müller (1998), *Efficient BackProp*, in Neural Networks: Tricks of the Trade, Springer.
# - Hinton, Osindero, Teh (2006), *A fast learning algorithm for deep belief nets*, Neural Computation 18.
# - Bengio, Lamblin, Popovici, Larochelle (2007), *Greedy layer-wise training of deep networks*, NIPS 19.
# - Erhan et al. (2010), *Why does unsupervised pre-training help deep learning?*, Journal of Machine Learning Research 11.
# - Glorot, Bengio (2010), *Understanding the difficulty of training deep feedforward neural networks*, AISTATS.
# - Nielsen (2015), *Neural Networks and Deep Learning*, chapters 3 and 5, Determination Press.
# - Schoenholz, Gilmer, Ganguli, Sohl-Dickstein (2017), *Deep information propagation*, ICLR.
#
# **Next:** [03 · ReLU and its variants](03_relu_and_variants.ipynb). Is a derivative of 1 enough?
