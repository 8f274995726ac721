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
# Backpropagation for layered networks was published to wide notice in 1986, with sigmoid units. In 2006 people were
# still surprised to see a fully connected network with more than a few layers train at all. In between lies no
# missing theorem. There is a number, 0.236, and you are going to measure it.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import expit
from torch import nn
from torch.nn import functional as F

from utils import data, explorers, initialization, networks, pictures, plots, session, signals, theory, training

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
(by_autograd,) = torch.autograd.grad(a.sum(), z)
for point, value, slope in zip(z.tolist(), a.tolist(), by_autograd.tolist(), strict=True):
    formula, tail = value * (1 - value), math.exp(-point)
    print(f"z = {point:.0f}   σ = {value:.3g}   a(1 − a) = {formula:.3g}   autograd {slope:.3g}   e⁻ᶻ = {tail:.3g}")

# %% [markdown]
# The product is largest when the two are equal: at $a = ½$, that is $z = 0$, it is **¼**. It is never 0 and never
# negative: $\sigma' \in (0, ¼]$. Far from zero it fades like $e^{-|z|}$, as the last column shows: at $z = 8$ the slope
# is 3.35e-4, and the unit is said to be **saturated**. It answers "1" and hardly listens to its input any more.
#
# Its sibling is the same curve, stretched: $\tanh z = 2\,\sigma(2z) - 1$. Twice as high and twice as fast makes a slope
# four times as large, at most 1, and outputs that lie around 0 instead of around ½. Both differences will matter.

# %%
axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)[1]
for ax, name in zip(axes, ("sigmoid", "tanh"), strict=True):
    plots.activation(name, ax=ax).legend(loc="upper left")
axes[0].set_ylim(-1.1, 1.9);

# %% [markdown]
# Now four units in a row, each with one weight, and by hand. Unit $k$ contributes the factor $w_k\,\sigma'(z_k)$, and you
# know $\sigma'(z_k)$ as soon as you know its output. Note that three of the four weights are *not* small.

# %%
x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
a, product = x, 1.0
for weight in (1.0, -2.0, 3.0, 4.0):
    a = torch.sigmoid(weight * a)
    factor = (weight * a * (1 - a)).item()
    product *= factor
    print(f"weight {weight:2.0f}   output {a.item():.3g}   factor {factor:6.3f}   product {product:.2g}")
(by_autograd,) = torch.autograd.grad(a, x)
assert math.isclose(product, by_autograd.item())

# %% [markdown]
# The weights multiply to −24, and yet −0.011 is what arrives, the number that autograd finds too. Every unit divided
# by at least four, and those that were pushed off center divided by more. That is the whole disease in one line:
# **a chain of sigmoids pays at least a factor of four per unit, and only its weights can pay it back.**

# %% [markdown]
# ## 2 · How many units are saturated?
#
# The usual story puts the blame on saturation. So let us count. From here on a unit counts as saturated when its slope
# is below 5 % of the largest slope it could have. For a sigmoid that is $|z| > 4.36$, for tanh $|z| > 2.18$.
#
# A layer of random weights turns an input into $z$ values that are normally distributed. With **Xavier**
# initialization (weights of variance 1/width) a deep sigmoid layer gets $z$ with a standard deviation of 0.51.
#
# **Predict.** Which share of the sigmoid units is saturated there? (a) about half; (b) about a tenth;
# (c) practically none.


# %%
def quadratic(outputs):
    """Half of the mean square: any loss will do when only the way through the network is measured."""
    return outputs.square().mean() / 2


def saturated_share(activation, gain, seed):
    settings = {"activation": activation, "initialization": "gaussian", "gain": gain, "dtype": torch.float64}
    model = networks.DeepMLP(1, 256, seed=seed, **settings)
    inputs = data.gaussian_batch(256, 64, seed=100 + seed)
    return signals.measure(model, inputs, loss_fn=quadratic, layers=networks.Block).layers[0].saturated_share


# %% [markdown]
# With inputs of variance 1 and weights of variance gain²/fan_in, $z$ has the standard deviation `gain`. Eight seeds
# each; the band is their whole range, and where you see none it is thinner than a marker. The black lines are
# theory: the tails of a normal distribution, $2\,\Phi(-4.36/\text{std})$ and $2\,\Phi(-2.18/\text{std})$.

# %%
gains = np.geomspace(0.5, 16, 11)
fine = np.geomspace(0.5, 16, 100)
ax = plt.subplots()[1]
for name in ("sigmoid", "tanh"):
    measured = np.array([[saturated_share(name, gain, seed) for gain in gains] for seed in range(8)])
    plots.curve(gains, measured, label=f"{name}, 8 seeds", log_x=True, ax=ax)
    plots.curve(fine, theory.saturated_share(fine**2, name), label="theory" * (name == "tanh"), kind="theory", ax=ax)
    assert np.abs(np.median(measured, axis=0) - theory.saturated_share(gains**2, name)).max() < 0.02
plots.guide(ax, 0.51, "Xavier, deep sigmoid", vertical=True)
ax.set(xlabel="standard deviation of z", ylabel="share of saturated units");

# %%
q = theory.fixed_point("sigmoid", weight_var=1.0)
print(f"Xavier sigmoid: z has variance {q:.3g}, and {theory.saturated_share(q, 'sigmoid'):.1g} of its units is saturated.")
print(f"The largest of a million such z is about {4.75 * math.sqrt(q):.2g}: far from 4.36.")
assert abs(q - 0.2647) < 1e-4

# %% [markdown]
# **What you should see.** Practically none: answer (c). And tanh, the better activation, saturates *earlier*: it reaches
# every share at half the standard deviation.
#
# So at initialization, saturation is innocent. Nothing is stuck; every unit works in its steepest region. Whatever
# stops the gradient there must be something that *healthy* sigmoid units do.

# %% [markdown]
# ## 3 · The factor per layer
#
# Here is what they do. Let $g_l$ be the root mean square of ∂loss/∂h in layer $l$. One step back is a multiplication by
# the slopes and by the transposed weights, and independent random weights add up like variances do:
#
# $$g_{l-1} = \sqrt{\chi}\; g_l, \qquad \chi = \sigma_w^2\; \mathbb E\!\left[\sigma'(z)^2\right], \quad z \sim \mathcal N(0, q),
# \qquad q_{l+1} = \sigma_w^2\; \mathbb E\!\left[\sigma(z)^2\right].$$
#
# The number $\sigma_w^2$ is `weight_var` = Var(weight) · fan_in. Xavier makes it 1. PyTorch's `nn.Linear` by itself draws
# uniformly from ±1/√fan_in, which makes it ⅓.
#
# **Predict.** A slope is at most ¼, and the weights have variance 1 in sum. Through 20 layers of Xavier, how much of the
# gradient is left? And is PyTorch's default better or worse?


# %%
def random_network(scheme, seed):
    settings = {"in_features": 256, "activation": "sigmoid", "initialization": scheme, "bias": False}
    return networks.DeepMLP(20, 256, seed=seed, dtype=torch.float64, **settings)


def gradient_by_layer(model, seed):
    found = signals.measure(model, data.gaussian_batch(64, 256, seed), loss_fn=quadratic, layers=networks.Block)
    gradient = found.series("activation_gradient_rms")
    return gradient / gradient[-1]


# %% [markdown]
# Eight seeds for each of the two schemes, 20 layers of 256 units. On the left the gradient itself, on the right the
# factor from each layer to the one before it. The black lines are the formula above, evaluated by quadrature; nothing is
# fitted.

# %%
left, right = plt.subplots(1, 2)[1]
for name, scheme in {"Xavier": "xavier_normal", "PyTorch default": "pytorch_default"}.items():
    measured = np.array([gradient_by_layer(random_network(scheme, seed), 100 + seed) for seed in range(8)])
    weight_var = initialization.weight_variance(scheme, 256, 256)
    predicted = theory.gradient_norm_trajectory(20, "sigmoid", weight_var, first=weight_var)
    for ax, change in ((left, lambda g: g), (right, lambda g: g[..., :-1] / g[..., 1:])):
        plots.layers(change(measured), label=name, log_y=ax is left, ax=ax)
        plots.layers(change(predicted), label="theory" * (scheme == "pytorch_default"), kind="theory", log_y=ax is left, ax=ax)
    print(f"{name}: measured {np.median(measured[:, 0]) ** (1 / 19):.3g} per layer, theory {predicted[0] ** (1 / 19):.3g}")
plots.guide(right, 0.25, "largest slope, ¼")
left.set_ylabel("activation gradient, last layer = 1")
right.set(ylabel="factor per layer", ylim=(0, 0.3));

# %% [markdown]
# **What you should see.** Two straight lines on a log scale, over 12 and over 16 decades, and a factor that is the same
# in every layer: 0.236 for Xavier, 0.141 for PyTorch's default. Both lie *below* the textbook ceiling of ¼, because
# not every $z$ is 0 (and because ⅓ of the variance makes $\sqrt{⅓} \cdot ¼$ at most 0.144). The default is worse.
#
# One figure that explains much of the history: after 20 layers about 1e-12 of the gradient is left. In a step of gradient
# descent the first layer moves a trillionth of what the last one moves. It is not slow. It is absent.

# %%
xavier = math.sqrt(theory.chi(theory.fixed_point("sigmoid", 1.0), "sigmoid", 1.0))
default = math.sqrt(theory.chi(theory.fixed_point("sigmoid", 1 / 3), "sigmoid", 1 / 3))
assert abs(xavier - 0.2361) < 1e-4
assert abs(default - 0.1414) < 1e-4
for depth in (5, 10, 20):
    print(f"{depth:2d} layers: Xavier {xavier**depth:.2g}, PyTorch default {default**depth:.2g}, ceiling {0.25**depth:.2g}")

# %% [markdown]
# ### The message is lost in both directions
#
# **Predict.** Going *forward*, two different images enter the network. Does their difference reach the last layer
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
# For a small difference between two inputs, each layer multiplies by a weight matrix and by slopes: the same matrices
# and the same slopes that the gradient meets on its way back. So theory has the same factor for it.

# %%
models = [random_network("xavier_normal", seed) for seed in range(8)]
forward = np.array([spread_by_layer(m, data.gaussian_batch(64, 256, 100 + seed)) for seed, m in enumerate(models)])
backward = np.array([gradient_by_layer(m, 100 + seed) for seed, m in enumerate(models)])
predicted = theory.gradient_norm_trajectory(20, "sigmoid", 1.0)
ax = plots.layers(forward / forward[:, :1], label="difference between inputs, first layer = 1")
plots.layers(backward, label="activation gradient, last layer = 1", ax=ax)
plots.layers(predicted, label="theory", kind="theory", ax=ax)
plots.layers(predicted[0] / predicted, kind="theory", ylabel="what is left", ax=ax)
ax.legend(loc="lower center")
assert np.abs(np.log10(np.median(forward[:, -1] / forward[:, 0]) / predicted[0])).max() < 0.1

# %% [markdown]
# **What you should see.** A cross. What the network knows about its input falls from left to right exactly as the
# gradient falls from right to left. The first layer sees the image and hears nothing about the error; the last layer
# hears the error and sees practically the same thing for every image.
#
# This is why it does not help that the *last* layers have a healthy gradient. They have nothing to learn from.

# %% [markdown]
# ## 4 · Explore: can large weights pay it back?
#
# Move the weight gain below. A gain of 1 is Xavier; the theory is the one you just met. Look for the gain at which a
# sigmoid network finally keeps its gradient over 50 layers, and read in the sentence what its units are like there.

# %%
explorers.deep_network()

# %%
for gain in (1, 4, 8, 10.15, 12):
    q = theory.fixed_point("sigmoid", gain**2)
    factor = math.sqrt(theory.chi(q, "sigmoid", gain**2))
    print(f"gain {gain:5.3g}: factor {factor:.3g} per layer, {theory.saturated_share(q, 'sigmoid'):.1%} of units saturated")
    assert (factor > 0.999) == (gain > 10)

# %% [markdown]
# The gradient of a sigmoid network survives only from a gain of about 10 on: weights ten times as large as Xavier's. There
# the price is paid by saturation. Half of the units are stuck at 0 or 1, and the other half, with slopes multiplied by
# large weights, carries the gradient for all. A layer like that turns small differences between inputs into random ones,
# which is another disease (lesson 04 calls it chaos). Large weights are not the cure that they look like.

# %% [markdown]
# ## 5 · "With w = 50 the gradient explodes"
#
# You may read: *if the weights are large, say 50, then |wσ′| is 50 · ¼ = 12.5 per unit, and the gradient explodes.* Let us
# give the claim ten units in a row. Each has weight 50 and its threshold (the input at which $z = 0$) anywhere in
# the range of its input, from 0 to 1.
#
# **Predict.** Of 10 000 such chains, how many have a gradient larger than 1? (a) nearly all; (b) a few percent; (c) none.


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


for weight in (2, 6.89, 50, 100):
    gradient = chains(weight, seed=0)
    print(f"w = {weight:4.3g}: {np.mean(gradient > 1):.1%} of the chains exceed 1, the median is {np.median(gradient):.1g}")

# %% [markdown]
# **What you should see.** With $w = 50$, none: answer (c). The median gradient is 2e-86. The few chains that do
# explode, 2 %, have weights of about 7.
#
# **Why.** A large weight also makes $z = w(a - \text{threshold})$ large, and there the slope is gone. The factor
# $|w\,\sigma'|$ reaches 1 only inside a **window** of inputs around the threshold, and needs $|w| \ge 4$ for that:
#
# $$\text{width of the window} = \frac{2}{|w|}\,\ln\!\left(\frac{|w|\,\bigl(1 + \sqrt{1 - 4/|w|}\bigr)}{2} - 1\right).$$


# %%
def local_factor(weight, a):
    s = expit(weight * (a - 0.5))
    return weight * s * (1 - s)


a = np.linspace(0, 1, 1001)
weights = np.geomspace(4, 100, 25)
left, right = plt.subplots(1, 2)[1]
for weight in (2, 6.89, 50):
    plots.curve(a, local_factor(weight, a), label=f"w = {weight:g}", kind="line", log_y=True, ax=left)
plots.guide(left, 1, "1")
left.set(xlabel="input a", ylabel="|w σ′|, threshold ½", ylim=(1e-4, 300))
plots.curve(weights, [np.mean(local_factor(w, a) >= 1) for w in weights], label="measured", log_x=True, ax=right)
plots.curve(weights, theory.sigmoid_window_width(weights), label="theory", kind="theory", ax=right)
right.set(xlabel="weight w", ylabel="width of the window");

# %%
weight, width = theory.widest_sigmoid_window()
print(f"The widest window is {width:.3g}, at w = {weight:.3g}.")
for w in (4, 50, 100):
    print(f"w = {w}: window {theory.sigmoid_window_width(w):.3g}, factor in its middle {w / 4:.3g}")
print(f"Ten units, each exactly in the middle of its window at w = 50: {12.5**10:.2g}")
assert abs(width - 0.4477) < 1e-4 and abs(weight - 6.894) < 1e-3

# %% [markdown]
# The claim is half true. *In the middle* of its window a unit with $w = 50$ multiplies by 12.5, and ten of them make 9e10.
# But the window is 0.155 wide, at $w = 100$ only 0.0917, and the outputs of such units are nearly always 0 or 1. Each unit
# that is missed costs many decades. A deep sigmoid network can explode, but somebody has to aim every unit
# for it: $w = 50$ is far more likely to *vanish*. This analysis is Nielsen's (chapter 5); the widest window is 0.448.

# %% [markdown]
# ## 6 · Real digits: ten layers, every learning rate
#
# Enough of random networks: now they shall learn. The data are 1797 handwritten digits, 8 × 8 pixels, a quarter of them kept
# for validation. The patient has 10 sigmoid layers of 24 units, Xavier weights, plain gradient descent.
#
# A learning rate that is wrong can look like anything. So every network gets its best rate from the same grid, from
# five seeds each, and the deep sigmoid network gets a larger rate on top, in case the grid is too timid for it.
# `training.sweep` trains all of them side by side, each exactly as `training.train` would, and records the gradient of
# every layer at every step.

# %%
digits = data.digits(dtype=torch.float64)
grid = (0.02, 0.06, 0.2, 0.6)
plan = {"seeds": range(5), "epochs": 10, "batch_size": 75, "record_gradients": True}


def network(activation, depth=10, **settings):
    return lambda seed: networks.DeepMLP(
        depth, 24, activation=activation, seed=seed, dtype=torch.float64, **settings
    )


# %% [markdown]
# **Predict.** Ten digits, equally frequent. A network that has learned nothing but this answers "10 % each" to every
# image. What is its cross-entropy?

# %%
shallow = training.sweep(network("sigmoid", depth=1), digits, learning_rates=grid, **plan)
deep = training.sweep(network("sigmoid"), digits, learning_rates=(*grid, 2), **plan)
tanh = training.sweep(network("tanh"), digits, learning_rates=grid, **plan)
print(f"ln 10 = {math.log(10):.3g}; guessing costs {-math.log(0.1):.3g}")

# %%
left, right = plt.subplots(1, 2)[1]
for name, run in {"1 layer": shallow, "10 layers": deep}.items():
    loss = run.loss_by_epoch[:, :, -1].T
    plots.curve(run.learning_rates, loss, label=name, log_x=True, log_y=True, ax=left)
plots.guide(left, math.log(10), "guessing: 2.3")
left.set(xlabel="learning rate", ylabel="training loss, last epoch", title="sigmoid", ylim=(0.02, 4))
runs = {"sigmoid, 1 layer": shallow, "sigmoid, 10": deep, "tanh, 10": tanh}
plots.sweeps(runs, chance=math.log(10), ax=right).set(title="each at its best rate", ylim=(0.02, 4));

# %%
for name, run in runs.items():
    loss, accuracy = run.loss_by_epoch[run.best, :, -1], run.validation_accuracy[run.best, :, -1]
    print(f"{name:>16}: training loss {np.median(loss):.3g}, validation accuracy {np.median(accuracy):.0%}")
assert (deep.loss_by_epoch[:, :, -1] > math.log(10) - 0.01).all()
assert np.median(shallow.loss_by_epoch[shallow.best, :, -1]) < 0.2 > np.median(tanh.loss_by_epoch[tanh.best, :, -1])

# %% [markdown]
# **What you should see.** Ten sigmoid layers sit at $\ln 10 = 2.303$, the cost of guessing, at *every* rate of the grid and
# beyond, from every seed. One sigmoid layer trains, so the sigmoid itself is not to blame. Ten tanh layers train, so
# the depth itself is not to blame. It takes both.
#
# Where did the gradient go? Not at initialization, where you measured it already, but *while* the networks train:

# %%
axes = plt.subplots(1, 2, sharey=True)[1]
for ax, (name, run) in zip(axes, {"sigmoid, 10 layers": deep, "tanh, 10 layers": tanh}.items(), strict=True):
    norms = run.gradient_norms[run.best].reshape(5, 10, run.steps_per_epoch, 11).mean(axis=2)  # by epoch
    for layer in (1, 4, 7, 10):
        label = f"layer {layer}"
        plots.curve(np.arange(1, 11), norms[:, :, layer - 1], label=label, kind="line", log_y=True, ax=ax)
    ax.set(title=name, xlabel="epoch", ylabel="weight gradient", ylim=(1e-8, 10))
axes[1].get_legend().set_loc("lower right");

# %%
for name, run in {"sigmoid": deep, "tanh": tanh}.items():
    norms = np.median(run.gradient_norms[run.best].mean(axis=1), axis=0)  # steps, then seeds
    factor = (norms[1] / norms[9]) ** (1 / 8)
    print(f"{name:>7}: layer 1 gets {norms[0]:.2g}, layer 10 gets {norms[9]:.2g}; {factor:.2g} per layer from 10 to 2")

# %% [markdown]
# The lines of the sigmoid network lie in order, two decades apart every three layers, and they stay there: ten epochs
# of training repair nothing. The factor per layer, measured in training on real images, is the 0.236 of random networks
# on random inputs. In the tanh network all layers hear the error about equally loud, at the start and later.
#
# This picture is the test to remember. **A flat loss with gradients in this order is a vanishing gradient. A flat loss
# without it is something else** (section 10).

# %% [markdown]
# ## 7 · Zero-centering
#
# Sigmoid outputs are positive, all of them, always. That sounds harmless. Look at what it does to the gradient of one unit's
# weights, for one image: $\partial\text{loss}/\partial w_{ij} = \delta_i\, h_j$. If all $h_j$ are positive, all weights of
# unit $i$ get a gradient of the *same sign*, the sign of $\delta_i$. In one step they can all go up or all go down;
# never one up and another down.
#
# **Predict.** For one image that is certain. A mini-batch sums over 75 images. Is the constraint gone there?


# %%
def one_signed_units(activation, batch, seed):
    """Share of the units in layer 2 whose 24 weights all get a gradient of one sign."""
    model = network(activation, depth=3)(seed)
    loss = F.cross_entropy(model(digits.train_inputs[:batch]), digits.train_targets[:batch])
    (gradient,) = torch.autograd.grad(loss, model.blocks[1].linear.weight)
    return (gradient.sign().sum(dim=1).abs() == 24).double().mean().item()


for name in ("sigmoid", "tanh"):
    for batch in (1, 75):
        share = [one_signed_units(name, batch, seed) for seed in range(8)]
        print(f"{name:>7}, batch of {batch:2d}: {np.median(share):.0%} of units (from {min(share):.0%} to {max(share):.0%})")

# %% [markdown]
# With one image it holds for all sigmoid units and for no tanh unit. With 75 images about half of the sigmoid units are
# still bound; by chance it would be one unit in eight million ($2 \cdot 2^{-24}$).
#
# What it costs shows in two dimensions. Below, one linear unit has to find the weights (1, −1): one up, the other down.
# It sees one example at a time, coded once as $\sigma(x)$ and once as $\sigma(x) - ½$. Each coding gets its best
# learning rate from the same grid.


# %%
def path(inputs, learning_rate, goal=(1.0, -1.0)):
    """The two weights, step by step, from (0, 0)."""
    weights = [np.zeros(2)]
    for h in inputs:
        error = h @ (weights[-1] - goal)
        weights.append(weights[-1] - learning_rate * error * h)
    return np.array(weights)


def steps_needed(inputs, learning_rate):
    """Steps until the weights have come within 0.1 of (1, -1) to stay."""
    far = np.linalg.norm(path(inputs, learning_rate) - (1.0, -1.0), axis=1) > 0.1
    return int(np.flatnonzero(far)[-1]) + 1


# %%
x = data.gaussian_batch(120, 2, seed=0).numpy()
codings = {"σ(x)": expit(x), "σ(x) − ½": expit(x) - 0.5}
ax = plt.subplots(figsize=(9, 4.6))[1]
for name, inputs in codings.items():
    steps, rate = min((steps_needed(inputs, rate), rate) for rate in (0.5, 1, 2, 5, 10))
    weights = path(inputs, rate)[: steps + 1]
    plots.curve(weights[:, 0], weights[:, 1], label=f"{name}: {steps} steps (rate {rate:g})", kind="line", ax=ax)
ax.plot(1, -1, "*", color=pictures.INK, markersize=14, label="goal")
ax.legend(loc="upper right")
ax.set(xlabel="first weight", ylabel="second weight", ylim=(-1.5, 0.9));

# %% [markdown]
# The centered unit walks to the goal. The positive one zigzags, because every single step has to go up-right or down-left,
# and the goal lies down-right. (For a layer of $n$ positive inputs the ratio of the fastest to the slowest direction is
# about $1 + n\,\text{mean}^2/\text{variance}$: LeCun and others gave this reason for tanh in 1991.)
#
# ### A sigmoid network that is a tanh network
#
# Now put both repairs together, by hand. Since $\sigma(z) = ½ + ½ \tanh(z/2)$, a layer with the weights $4W$ and the biases
# $-½ \sum_j 4W_{ij}$ subtracts the ½ again:
#
# $$z_i = \sum_j 4 W_{ij}\,\bigl(\sigma(z_j) - ½\bigr) = 2 \sum_j W_{ij} \tanh(z_j/2)
# \quad\Longrightarrow\quad \frac{z_i}{2} = \sum_j W_{ij} \tanh\!\left(\frac{z_j}{2}\right).$$
#
# In terms of $z/2$ this *is* a tanh network with the weights $W$. No approximation anywhere.


# %%
@torch.no_grad()
def centered_sigmoid(seed):
    """A sigmoid network that computes what the tanh network of this seed computes."""
    model = network("sigmoid")(seed)
    first, *others = [block.linear for block in model.blocks]
    first.weight.mul_(2)
    for layer, factor in [(layer, 4) for layer in others] + [(model.readout, 2)]:
        layer.weight.mul_(factor)
        layer.bias.copy_(-layer.weight.sum(dim=1) / 2)
    return model


outputs = [make(0)(digits.train_inputs) for make in (centered_sigmoid, network("tanh"))]
assert torch.allclose(*outputs, rtol=0, atol=1e-12)
print(f"largest output {outputs[1].abs().max().item():.2g}, largest difference below 1e-12")

# %% [markdown]
# **Predict.** Which of the two repairs matters: the fourfold weights, or the biases that center? We train three sigmoid
# networks of ten layers: with Xavier weights, with fourfold weights only, and with both.

# %%
fourfold = training.sweep(network("sigmoid", gain=4), digits, learning_rates=grid, **plan)
centered = training.sweep(centered_sigmoid, digits, learning_rates=grid, **plan)
runs = {"Xavier": deep, "fourfold weights": fourfold, "fourfold and centered": centered}
ax = plots.sweeps(runs, chance=math.log(10))
ax.set_ylim(0.2, 4)
ax.legend(loc="lower left")
assert np.median(centered.loss_by_epoch[centered.best, :, -1]) < 0.7 < 1.5 < fourfold.loss_by_epoch[:, :, -1].min()

# %%
for name, run in {"fourfold": fourfold, "centered": centered, "tanh": tanh}.items():
    first, last = np.median(run.gradient_norms[0, :, 0], axis=0)[[1, 9]]
    loss = np.median(run.loss_by_epoch[run.best, :, -1])
    print(f"{name:>8}: gradient in layer 2 / layer 10 at the start {first / last:.2g}; loss at the end {loss:.2g}")

# %% [markdown]
# **What you should see.** It takes both. Fourfold weights alone still lose a factor of 0.63 per layer (you printed it in
# section 4): without centering, the constant ½ of all inputs adds up to a large random offset in each $z$, which pushes units
# off their steep center. Centering puts them back, and a ten-layer *sigmoid* network trains.
#
# It still learns more slowly than tanh, from the same function at the start. The gradient of its weights is still made of
# positive inputs. Where you start is one thing; along which directions you walk is another.

# %% [markdown]
# ## 8 · The cure of 2006: pre-train layer by layer
#
# Nobody thought of it this way at the time. What ended the twenty years was a different idea: **do not send the gradient
# through ten layers; send it through one.** Train the first layer alone, as an *autoencoder*: its output, through a
# throw-away decoder, has to reproduce its input. Freeze it, take its outputs as the data for the second layer, and so on
# up. No labels are needed. Then fine-tune the whole stack with labels, as usual. Hinton, Osindero and Teh did it with
# Boltzmann machines in 2006, Bengio and others with autoencoders in 2007.


# %%
def pretrained(seed):
    """The deep sigmoid network, each layer trained in turn to keep what the one below it knows."""
    model, code = network("sigmoid")(seed), digits.train_inputs
    for block in model.blocks:
        features = code.shape[1]
        autoencoder = network("sigmoid", depth=1, in_features=features, out_features=features)(seed)
        autoencoder.blocks[0] = block
        target = (code - code.mean(dim=0)) / (code.std(dim=0) + 1e-6)  # a pixel that is always blank stays 0
        task = data.Split(code, target, code, target)
        recipe = {"loss_fn": F.mse_loss, "optimizer": "adam", "learning_rate": 0.03, "epochs": 5, "seed": seed}
        training.train(autoencoder, task, batch_size=75, **recipe)
        code = block(code).detach()
    return model


stacks = [pretrained(seed) for seed in range(5)]

# %% [markdown]
# **Predict.** The network is the one from section 6: same ten layers, same sigmoid, same plain gradient descent, same grid.
# Only the starting point differs. Does it train now? As a control, *Adam* (which we used inside the autoencoders) gets the
# network from random weights, with rates of its own grid.

# %%
finetuned = training.sweep(stacks.__getitem__, digits, learning_rates=grid, **plan)
adam = training.sweep(
    network("sigmoid"), digits, learning_rates=(0.001, 0.005, 0.025), optimizer="adam", **plan
)
runs = {"random start": deep, "random start, Adam": adam, "centered by hand": centered, "pre-trained": finetuned}
ax = plots.sweeps(runs, chance=math.log(10))
ax.set_ylim(0.05, 5)
ax.legend(loc="lower left")
accuracy = np.median(finetuned.validation_accuracy[finetuned.best, :, -1])
print(f"Pre-trained and fine-tuned: {accuracy:.0%} of the validation digits are right.")
assert accuracy > 0.9 and adam.loss_by_epoch[adam.best, :, -1].min() > 1.5

# %% [markdown]
# **What you should see.** The network that could not be moved at any learning rate now learns the digits, with the same
# sigmoid and the same optimizer. Adam alone does move the random network, to a loss of about 2, and no further in this
# time; what a better optimizer can and cannot save is the subject of lesson 09.
#
# **Why?** The old explanation was that the layers had learned good features. Measure what they changed first:

# %%
left, right = plt.subplots(1, 2)[1]
groups = {"random": (deep, network("sigmoid")), "centered": (centered, centered_sigmoid), "pre-trained": (finetuned, stacks.__getitem__)}
for name, (run, make) in groups.items():
    spread = [spread_by_layer(make(seed), digits.train_inputs) for seed in range(5)]
    plots.layers(spread, label=name, ax=left)
    plots.layers(run.gradient_norms[0, :, 0, :10], label=name, ax=right)
left.set_ylabel("difference between images")
right.set_ylabel("weight gradient, first step")
left.get_legend().set_loc("lower left")
right.get_legend().set_loc("lower right");

# %%
for name, make in {"random": network("sigmoid"), "pre-trained": stacks.__getitem__}.items():
    middle = [make(seed).blocks[5].linear for seed in range(5)]
    sizes = [layer.weight.var().item() * layer.in_features for layer in middle]
    print(f"{name:>11}: weight_var of layer 6 is {np.median(sizes):.2g} (from {min(sizes):.2g} to {max(sizes):.2g})")

# %% [markdown]
# Pre-training opened the network in both directions: images stay apart up to the last layer, and the gradient reaches the
# first. It did so by making the weights larger (a `weight_var` of about 14 instead of 1; the fourfold weights of section 7
# have 16) and by learning biases that keep the units on their slopes: a layer that loses its input, or saturates, cannot
# reproduce it. In other words, **it found a good initialization**. Once one knows what a good initialization
# has to do, one can write it down instead of learning it. That is what Glorot and Bengio did in 2010, and what
# lesson 04 does.
#
# Two liberties of ours, so that this runs in seconds: the targets are standardized, and the autoencoders use Adam. Try
# `target = code` instead: the first layers still learn, and further up there is soon nothing left to reproduce.

# %% [markdown]
# ## 9 · The last unit: confidently wrong
#
# There is one place where saturation, and not the factor ¼ of healthy units, is the culprit: a sigmoid at the *output*. Say its
# target is 0, and it answers 0.98. With $z$ its input and $a$ its answer,
#
# $$\text{squared error } \tfrac12 (a - y)^2: \quad \frac{\partial\,\text{loss}}{\partial z} = (a - y)\,\sigma'(z), \qquad\qquad
# \text{cross-entropy}: \quad \frac{\partial\,\text{loss}}{\partial z} = a - y.$$
#
# Cross-entropy was made so that the slope cancels: $-\ln(1 - a)$ grows exactly as fast as $\sigma'$ fades.
#
# **Predict.** Under squared error, which wrong answer is corrected fastest: 0.7, 0.9 or 0.98?

# %%
z = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
a = torch.sigmoid(z)
losses = {"squared_error": a.square() / 2, "cross_entropy": F.binary_cross_entropy(a, torch.zeros_like(a), reduction="none")}
ax = plt.subplots()[1]
for name, loss in losses.items():
    (delta,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
    label = name.replace("_", " ")
    plots.curve(z.detach(), delta, label=f"{label}, autograd", ax=ax)
    predicted = theory.output_delta(z.detach().numpy(), 0.0, name)
    plots.curve(z.detach(), predicted, label="theory" * (name == "cross_entropy"), kind="theory", ax=ax)
ax.legend(loc="upper left")
ax.set(xlabel="z (the target is 0)", ylabel="gradient ∂loss/∂z");

# %% [markdown]
# Under squared error the gradient is largest near $a = ⅔$ and *falls* as the answer gets worse. A unit that is confidently
# wrong is left in peace. Now let it learn, as in chapter 3 of Nielsen's book: one weight, one bias, input 1, target 0,
# once from a mild start ($a = 0.82$) and once from a bad one ($a = 0.98$).


# %%
def learn(start, loss, learning_rate, steps=400):
    """The outputs of one sigmoid unit with weight and bias `start`; both get the gradient of z."""
    z, outputs = sum(start), []
    for _ in range(steps):
        outputs.append(expit(z))
        z -= 2 * learning_rate * theory.output_delta(z, 0.0, loss)
    return np.array(outputs)


# %% [markdown]
# The two losses are not measured in the same unit, so one learning rate for both would be unfair. Each rate below is chosen so
# that from the *mild* start both need about the same number of steps to get below 0.2.

# %%
axes = plt.subplots(1, 2, sharey=True)[1]
for ax, (loss, rate) in zip(axes, {"squared_error": 0.15, "cross_entropy": 0.031}.items(), strict=True):
    for name, start in {"mild start": (0.6, 0.9), "bad start": (2.0, 2.0)}.items():
        outputs = learn(start, loss, rate)
        label = f"{name}: {np.argmax(outputs < 0.2)} steps to 0.2"
        plots.curve(np.arange(400), outputs, label=label, kind="line", ax=ax)
    ax.set(title=f"{loss.replace('_', ' ')} (rate {rate:g})", xlabel="step", ylabel="output", ylim=(0, 1.25))
    ax.legend(loc="upper right")

# %% [markdown]
# **What you should see.** Under squared error the bad start spends its first hundred steps on a plateau: large error, no
# learning. Under cross-entropy it falls at once, and costs 1.4 times the steps of the mild start instead of nearly 3
# times.
#
# Note what this cures and what it does not: it repairs **one** slope, the last one. The network of section 6 was
# trained with cross-entropy all along.

# %% [markdown]
# ## 10 · Misdiagnosis: three flat curves
#
# Three networks of ten layers, five seeds each. All three sit near 2.3 and do not move. Somebody says: "vanishing gradients,
# as always." For one of them that is right.

# %%
shuffled = digits.train_targets[torch.randperm(len(digits.train_targets), generator=torch.Generator().manual_seed(0))]
mixed_up = data.Split(digits.train_inputs, shuffled, digits.validation_inputs, digits.validation_targets)
short = plan | {"epochs": 6}
patients = {
    "A": training.sweep(network("sigmoid"), digits, learning_rates=[0.06], **short),
    "B": training.sweep(network("tanh"), digits, learning_rates=[0.0001], **short),
    "C": training.sweep(network("tanh"), mixed_up, learning_rates=[0.06], **short),
}
ax = plots.sweeps(patients, log_y=False, chance=math.log(10))
ax.set_ylim(0, 3)
ax.legend(loc="lower left");

# %% [markdown]
# **Predict.** The code above tells you what was done to each. Suppose that you had only the curves. What would you measure?
#
# First the gradient by layer during training. Then, for those that pass, how far a step goes: the **update ratio**
# lr · ‖gradient‖ / ‖weights‖, for which about 1e-3 is a healthy rule of thumb.

# %%
left, right = plt.subplots(1, 2)[1]
for name, run in patients.items():
    norms = run.gradient_norms[0, :, :, :10].mean(axis=1)  # over the steps: (seeds, layers)
    weight_norm = math.sqrt(24)  # Xavier, 24 units in and out: 24 * 24 weights of variance 1 / 24
    plots.layers(norms, label=name, ylabel="weight gradient", ax=left)
    plots.layers(norms[:, 1:] * run.learning_rates[0] / weight_norm, label=name, ylabel="update ratio", ax=right)
plots.guide(right, 1e-3, "healthy: about 0.001")
right.set_xlabel("layer (from the second)")
left.get_legend().set_loc("lower right")
right.get_legend().set_loc("lower right");

# %%
for name, run in patients.items():
    norms = np.median(run.gradient_norms[0].mean(axis=1), axis=0)
    ratio = np.median(norms[1:10]) * run.learning_rates[0] / math.sqrt(24)
    print(f"{name}: gradient in layer 2 / layer 10 = {norms[1] / norms[9]:.2g}, update ratio {ratio:.1g}")

# %% [markdown]
# - **A** has the order of section 6: the gradient falls by 0.24 per layer. A vanishing gradient; this is the sigmoid network.
# - **B** has the same gradient in every layer. Nothing vanishes. But its update ratio is 5e-6: the learning rate is
#   hundreds of times too small. Before you change an architecture, change the learning rate.
# - **C** has healthy gradients *and* healthy updates. It works hard and learns nothing, and that points away from the
#   network: at the data. Its labels had been shuffled against its images, as happens when two arrays are sorted or
#   split separately.
#
# The curve of the loss is the same symptom for all three. The gradient by layer tells A from the others, the update
# ratio tells B from C.

# %% [markdown]
# ## Check yourself
#
# **1.** A colleague replaces the sigmoid by $2\sigma(z) - 1$ and keeps Xavier weights. Which of the two repairs of
# section 7 has she made, and does the gradient still vanish?
#
# <details><summary>Answer</summary>
#
# Since $2\sigma(z) - 1 = \tanh(z/2)$, the outputs are centered, and the largest slope is ½ instead of ¼. It is half of the
# repair: centered, but with a slope of ½ at weights of variance 1, so the gradient falls by about ½ per layer (ten layers:
# a thousandth). With weights twice as large it is the tanh network.
#
# </details>
#
# **2.** At a gain of 10.15 the factor per layer of a sigmoid network is 1. Would you start training there?
#
# <details><summary>Answer</summary>
#
# Better not. The norm of the gradient is kept, but half of the units are saturated, and the other half lies in narrow
# windows: two similar images end up as far apart as two different ones. A gradient of the right size is necessary
# and not sufficient. Try it: `network("sigmoid", gain=10.15)` in section 6.
#
# </details>
#
# **3.** The last layer of the stuck network gets a healthy gradient at every step. Why does it not learn at least something?
#
# <details><summary>Answer</summary>
#
# Because its input is the same for all images, up to about a millionth (section 3, "in both directions"). From a
# constant input it can learn the frequencies of the classes, and they cost exactly $\ln 10$.
#
# </details>
#
# **4.** Does cross-entropy instead of squared error cure the vanishing gradient of a deep sigmoid network?
#
# <details><summary>Answer</summary>
#
# No. It removes the slope of the output unit from the product, one factor of many. The hidden layers keep theirs.
#
# </details>
#
# **5.** You measure 40 % saturated units in layer 1 of a three-layer sigmoid network, and none in the others. Is depth the
# problem?
#
# <details><summary>Answer</summary>
#
# No: the first layer's $z$ has a standard deviation of about 5 (section 2). The inputs are not standardized, or its
# weights are too large. Look at the scale of the data first.
#
# </details>
#
# **6.** Which of the following would have helped in 1990: tanh, standardized inputs, weights of the right size, cross-entropy?
#
# <details><summary>Answer</summary>
#
# The first three, together: the centered network of section 7 needs nothing that did not exist. Some of it *was* known
# (LeCun and others used a scaled tanh and standardized inputs in convolutional networks that did train). What was missing
# was the habit of measuring the gradient layer by layer. Slow machines and small data sets did the rest.
#
# </details>

# %% [markdown]
# ## Exercise
#
# Graded exercises for this lesson live in [exercises for this lesson](../exercises/README.md).
#
# ## Summary
#
# - You read the slope of a sigmoid off its output, found ¼ as its largest value, and counted the saturated units: at
#   Xavier's initialization there are none.
# - You predicted $\sqrt\chi$, measured 0.236 (Xavier) and 0.141 (PyTorch's default), and saw the same factor going forward. You
#   corrected "w = 50 explodes": only inside a window that is 0.155 wide.
# - You recorded gradients during training, and told a vanished gradient from a learning rate that was too small and from
#   labels that were shuffled.
# - You saw what positive outputs do to the signs of a gradient, and turned a sigmoid network into a tanh network by hand.
# - You pre-trained the stack layer by layer, watched it train at last, and found that its gift was a good starting
#   point. At the output, you saw cross-entropy take the slope out of the gradient, and squared error leave it in.
#
# **So, why twenty years?** Because each sigmoid layer at its natural initialization keeps less than a quarter of the gradient,
# and of the signal; because nothing in the loss curve says so; and because the remedy, larger weights and centered units,
# only looks obvious after one has measured.
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
# **Next:** 03 · ReLU and its variants. Is a derivative of 1 enough?
