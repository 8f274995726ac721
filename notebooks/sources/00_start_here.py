# %% [markdown]
# # 00 · Start here
#
# > **Four flat loss curves, four different diseases: how would you tell them apart?**
#
# After this lesson you will be able to
#
# - check that everything this course needs is here, and move a slider;
# - keep three quantities apart that are all called "the gradient";
# - read the course's dashboard: SCALE, CORRELATION, SPECTRUM, RANGE;
# - tell four diseases apart whose loss curves look the same: vanishing gradients, exploding gradients, dead units,
#   collapsed correlation;
# - recognize a network that only looks sick.
#
# **Before this:** nothing. You know the chain rule, and you have trained a small network in PyTorch.
# **Time:** about 30 minutes.

# %%
import copy
import math

import numpy as np
import torch
from torch.nn import functional as F

from utils import data, explorers, initialization, networks, plots, session, signals, theory, training

session.start(seed=0)

# %% [markdown]
# ## 1 · Is everything here?
#
# The next cell answers in one sentence. If it tells you to install something, do that first.

# %%
print(session.check_environment())

# %% [markdown]
# And here is your first slider. Every lesson has one: move it with the mouse or with the arrow keys, or type a number
# beside it. If the point moves and the sentence below the picture changes, everything works.
#
# **Look for** the height of the dashed line. A network that has learned nothing sits on it, and so will most of the
# networks in this lesson.

# %%
explorers.guessing()

# %% [markdown]
# With ten classes, *not looking at the input at all* costs ln 10 = 2.3. Remember that number. A loss curve that lies
# there tells you that the network guesses. It does not tell you why.

# %% [markdown]
# ## 2 · By hand: three gradients
#
# "The gradient is too small" can mean three things. The smallest network that shows the difference has two weights:
#
# $$h_1 = w_1 x, \qquad h_2 = w_2 h_1, \qquad \text{loss} = \tfrac12\,(h_2 - \text{target})^2.$$

# %%
x, target, w1, w2 = 2.0, 1.0, 0.5, 0.1
h1 = w1 * x
h2 = w2 * h1
loss = (h2 - target) ** 2 / 2
print(f"h1 = {h1:.3g}   h2 = {h2:.3g}   loss = {loss:.3g}")

# %% [markdown]
# Now back, one chain-rule step at a time. `d_h1` stands for ∂loss/∂h₁, and so on.

# %%
d_h2 = h2 - target
d_h1 = d_h2 * w2
d_w2, d_w1 = d_h2 * h1, d_h1 * x
print(f"activation gradients: layer 1 {d_h1:.2g}, layer 2 {d_h2:.2g}")
print(f"weight gradients:     layer 1 {d_w1:.2g}, layer 2 {d_w2:.2g}")

# %% [markdown]
# Going from layer 2 back to layer 1, the activation gradient fell to a tenth, but the weight gradient only to a fifth:
# it has picked up a factor $x = 2$ from the *forward* signal. The third quantity asks what an optimizer makes of it:

# %%
learning_rate = 0.1
ratios = learning_rate * abs(d_w1) / abs(w1), learning_rate * abs(d_w2) / abs(w2)
print(f"update ratios: layer 1 {ratios[0]:.2g}, layer 2 {ratios[1]:.2g}")

# %% [markdown]
# One step changes $w_1$ by 3.6 % of itself and $w_2$ by 90 %. Three quantities, three different pictures of the same
# network:
#
# | name in this course | formula | what it is |
# |---|---|---|
# | `activation_gradient` | $\partial\,\text{loss}/\partial h_l$ | the signal that backpropagation carries |
# | `weight_gradient` | $\partial\,\text{loss}/\partial W_l$ | that signal times the forward signal $h_{l-1}$ |
# | `update_ratio` | $\text{learning rate}\cdot\lVert\partial\,\text{loss}/\partial W_l\rVert \,/\, \lVert W_l\rVert$ | what the optimizer does with it |
#
# Nobody computes these by hand for a hundred layers. `signals.measure` does, for any `torch.nn.Module`. Does it agree
# with you?

# %%
chain = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)).double()
for layer, weight in zip(chain, (w1, w2)):
    torch.nn.init.constant_(layer.weight, weight)
one_input, one_target = torch.tensor([[x]]).double(), torch.tensor([[target]]).double()
found = signals.measure(chain, one_input, one_target, lambda h, t: ((h - t) ** 2 / 2).sum(), learning_rate=0.1)
assert np.allclose(found.series("activation_gradient_norm"), [abs(d_h1), abs(d_h2)], rtol=1e-12)
assert np.allclose(found.series("weight_gradient_norm"), [abs(d_w1), abs(d_w2)], rtol=1e-12)
assert np.allclose(found.series("update_ratio"), ratios, rtol=1e-12)

# %% [markdown]
# It does, to twelve digits: the last three lines check it. The rest of the notation fits in a table:
#
# | symbol | in code | meaning |
# |---|---|---|
# | $L$, $n$ | `depth`, `width` | hidden layers, units in each |
# | $z_l = W_l h_{l-1} + b_l,\; h_l = \varphi(z_l)$ | `activation` | layer $l$ before and after its activation function $\varphi$ |
# | $\sigma_w^2$ | `weight_var` | variance of one weight, times the number of inputs (`fan_in`) of its layer |
# | $q_l$ | `q` | variance of $z_l$ in a very wide network |
# | $\chi = \sigma_w^2\,\mathbb E[\varphi'(z)^2]$ | `chi` | factor per layer on the mean *squared* activation gradient, going back |
#
# So $\sqrt\chi$ is the factor per layer on the gradient's norm. Below 1 it vanishes, above 1 it explodes.

# %% [markdown]
# ## 3 · Round 1: four flat loss curves
#
# Here are four sick networks and a healthy one. They read 8 × 8 pixels of handwritten digits, and every layer has 100
# units. You need not know yet what each word of a recipe does; the lessons to come explain them all.

# %%
RECIPES = {
    "vanishing": dict(depth=20, activation="sigmoid", initialization="pytorch_default"),
    "exploding": dict(depth=130, activation="tanh", initialization="gaussian", gain=10.0),
    "dead units": dict(depth=10, activation="relu", initialization="he_normal"),
    "collapsed": dict(depth=100, activation="relu", initialization="he_normal"),
    "healthy": dict(depth=50, activation="tanh", initialization="orthogonal"),
}

# %% [markdown]
# The readout, from the last layer to the ten classes, is the same mild one in all five, so that each starts near
# a loss of 2.3.

# %%
def network(name, dtype=torch.float64, seed=0, **changes):
    model = networks.DeepMLP(width=100, dtype=dtype, seed=seed, **RECIPES[name] | changes)
    draw = data.seeded_generator(seed + 1)
    initialization.initialize(model.readout, "pytorch_default", generator=draw)
    return model

# %% [markdown]
# One of the five was healthy until it had an accident: for two epochs, somebody trained it with Adam at a learning rate
# of 0.1, a hundred times the usual 0.001. You will see in a moment what those steps did to it.

# %%
digits = data.digits(dtype=torch.float64)
victim = network("dead units")
training.train(victim, digits, optimizer="adam", learning_rate=0.1, epochs=2, batch_size=32);

# %% [markdown]
# Each network now gets the same trial: two epochs of plain stochastic gradient descent. We compute in float64, so that
# your numbers are the ones printed here. The exploding network alone runs in float32, the format that everybody trains
# in, because its disease is to leave that format's range.

# %%
def patient(name, dtype=torch.float64):
    return copy.deepcopy(victim) if name == "dead units" else network(name, dtype)


def trial(name, learning_rate):
    dtype = torch.float32 if name == "exploding" else torch.float64
    split = data.digits(dtype=dtype)
    return training.train(patient(name, dtype), split, learning_rate=learning_rate, epochs=2, batch_size=32)

# %% [markdown]
# **Predict.** The four sick networks appear below as A, B, C and D, in an order that a seed has shuffled. Will you be able to
# tell from the curves which is which? Run both cells, look, and write down four letters.

# %%
sick = ["vanishing", "exploding", "dead units", "collapsed"]
letters = dict(zip("ABCD", np.random.default_rng(seed=7).permutation(sick)))
runs = {letter: trial(name, learning_rate=0.03) for letter, name in letters.items()}

# %% [markdown]
# If a run has stopped, the plot holds its last number, as a live display does when no new number comes.

# %%
ax = plots.losses(runs, chance=math.log(10), hold=True)
ax.set_ylim(0, 3);

# %% [markdown]
# **What you should see.** Four lines on the guessing line. Nobody can tell them apart, and you were not meant to.
#
# Perhaps the learning rate was wrong. So here are two more, ten and a hundred times smaller. The table has the mean loss
# of the second epoch.

# %%
rates = 0.0003, 0.003, 0.03
trials = {letter: {rate: trial(letters[letter], rate) for rate in rates[:2]} for letter in letters}

# %%
def settled(history):
    """Mean finite loss of the last epoch; the last finite loss of a run that stopped."""
    loss = history.train_loss[np.isfinite(history.train_loss)]
    return loss[-1] if history.stopped else loss[-history.steps_per_epoch :].mean()


for letter in letters:
    trials[letter][0.03] = runs[letter]
    row = [settled(trials[letter][rate]) for rate in rates]
    print(letter, *(f"   rate {rate:g}: {loss:.3g}" for rate, loss in zip(rates, row)))

# %% [markdown]
# Flat at every one of them, to within 0.15. **Why** is it always the same height? A network whose output does not depend on its
# input can still learn how frequent each class is. Here each of the ten is about a tenth of the images, and the best such answer costs
#
# $$-\sum_{k=1}^{10} \tfrac1{10} \ln \tfrac1{10} = \ln 10.$$
#
# All four have lost the way from the picture to the loss, or the way back. The curve shows *that* it is lost, never *where*.
# For comparison, the healthy network in the same trial, at the best of the same three rates:

# %%
healthy_runs = {rate: trial("healthy", rate) for rate in rates}
best = min(rates, key=lambda rate: settled(healthy_runs[rate]))
ax = plots.losses(runs | {f"healthy, rate {best:g}": healthy_runs[best]}, chance=math.log(10), hold=True)
ax.set_ylim(0, 3);
