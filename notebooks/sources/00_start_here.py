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
for layer, weight in zip(chain, (w1, w2), strict=True):
    torch.nn.init.constant_(layer.weight, weight)
one_input, one_target = torch.tensor([[x]]).double(), torch.tensor([[target]]).double()
found = signals.measure(
    chain, one_input, one_target, lambda h, t: ((h - t) ** 2 / 2).sum(), learning_rate=learning_rate
)
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
    "healthy": dict(depth=30, activation="tanh", initialization="gaussian", skip=True, branch_scale=0.18),
}

# %% [markdown]
# The readout, from the last layer to the ten classes, is drawn alike in all five, and small, so that each of them starts
# near a loss of 2.3.

# %%
def network(name, dtype=torch.float64, seed=0, **changes):
    model = networks.DeepMLP(width=100, dtype=dtype, seed=seed, **RECIPES[name] | changes)
    draw = data.seeded_generator(seed + 1)
    initialization.initialize(model.readout, "pytorch_default", gain=0.3, generator=draw)
    return model

# %% [markdown]
# One of the five was healthy until it had an accident: for four epochs, somebody trained it with Adam at a learning rate
# of 0.1, a hundred times the usual 0.001. You will see in a moment what those steps did to it.

# %%
digits = data.digits(dtype=torch.float64)
victim = network("dead units")
training.train(victim, digits, optimizer="adam", learning_rate=0.1, epochs=4);

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
    return training.train(patient(name, dtype), split, learning_rate=learning_rate, epochs=2)

# %% [markdown]
# **Predict.** The four sick networks appear below as A, B, C and D, in an order that a seed has shuffled. Will you be able to
# tell from the curves which is which? Run both cells, look, and write down four letters.

# %%
sick = ["vanishing", "exploding", "dead units", "collapsed"]
letters = dict(zip("ABCD", np.random.default_rng(seed=7).permutation(sick), strict=True))
runs = {letter: trial(name, learning_rate=0.1) for letter, name in letters.items()}

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
rates = 0.001, 0.01, 0.1
trials = {letter: {rate: trial(letters[letter], rate) for rate in rates[:2]} for letter in letters}

# %%
def settled(history):
    """Mean finite loss of the last epoch; the last finite loss of a run that stopped."""
    loss = history.train_loss[np.isfinite(history.train_loss)]
    return loss[-1] if history.stopped else loss[-history.steps_per_epoch :].mean()


for letter in letters:
    trials[letter][0.1] = runs[letter]
    row = [settled(trials[letter][rate]) for rate in rates]
    assert max(abs(loss - math.log(10)) for loss in row) < 0.05
    print(letter, *(f"   rate {rate:g}: {loss:.3g}" for rate, loss in zip(rates, row, strict=True)))

# %% [markdown]
# Flat at every one of them, to within 0.05. **Why** is it always the same height? A network whose output does not depend on its
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

# %% [markdown]
# So the trial is fair: thirty layers pass it. A flat curve is a symptom, and symptoms do not name diseases.

# %% [markdown]
# ## 4 · Round 2: the dashboard, on a healthy network
#
# First ask of any flat curve whether it is a curve at all.

# %%
for letter, history in runs.items():
    print(letter, "·", history.stopped or f"ran all {len(history.train_loss)} steps")

# %% [markdown]
# C was not flat. C was one single number, held. Its second loss was NaN, *not a number*, and there was nothing left to
# plot. So you have one disease without any measurement: C is the exploding one. Between A, B and D the
# loss cannot decide.
#
# Throughout the course you will look at the same four panels instead. They need one forward and one backward pass
# through the untrained network, on 64 images:
#
# | panel | the question it answers | what is drawn |
# |---|---|---|
# | SCALE | How large is the signal, going forward and coming back? | variance of the activations and norm of the activation gradient, by layer |
# | CORRELATION | Can this layer still tell two images apart? | mean cosine between the activations of two different images, by layer |
# | SPECTRUM | In how many directions can the output still be moved? | singular values of the Jacobian ∂output/∂input at one image |
# | RANGE | Does the gradient fit into the number format? | share of its entries that become 0 (underflow) or infinite (overflow) |

# %%
images, labels = digits.train_inputs[:64], digits.train_targets[:64]


def examine(model):
    found = signals.measure(model, images, labels, F.cross_entropy, layers=networks.Block)
    plots.dashboard(found, signals.jacobian_singular_values(model, images[0]))
    return found

# %% [markdown]
# **Predict.** For a healthy network, sketch each panel in the air: flat, rising or falling?

# %%
healthy = examine(patient("healthy"))

# %% [markdown]
# **What you should see.** This is what normal looks like. Compare everything that follows with it.
#
# - **SCALE**: both curves stay within a factor of two over thirty layers.
# - **CORRELATION**: near 0 in every layer. Two different digits start at right angles, and stay there.
# - **SPECTRUM**: ten singular values, one for each output, all within a factor of four. Ten directions are open.
# - **RANGE**: no gradient is lost in any format.

# %%
norms, variances = healthy.series("activation_gradient_norm"), healthy.series("activation_variance")
assert max(norms) / min(norms) < 2 and max(variances) / min(variances) < 2
assert max(abs(healthy.series("cosine"))) < 0.05

# %% [markdown]
# ## 5 · Round 3: four patients
#
# Now A, B, C and D as they were before their trial (B after its accident). **Predict**, at each picture and before
# you read on: which panel is sick, and what is the disease called?
#
# ### Patient A

# %%
a = examine(patient(letters["A"]))

# %% [markdown]
# - **SCALE**: the activations keep their variance, but the gradient falls by about a decade at each step back, from 0.02
#   in layer 20 to 1e-18 in layer 1.
# - **RANGE**: in float16, most of that gradient is already 0.
# - **SPECTRUM**: no direction of the input moves the output by more than 1e-17.
# - **CORRELATION**: 1. The outputs of a sigmoid are all positive, so any two images look alike to it. A real patient
#   seldom has one complaint only; but the gradient is what is missing first.
#
# A has **vanishing gradients**. What factor does each layer cost?

# %%
norms = a.series("activation_gradient_norm")
per_layer = (norms[0] / norms[-1]) ** (1 / 19)
print(f"{letters['A']}: a factor of {per_layer:.3g} per layer")

# %% [markdown]
# You may have read that a sigmoid costs a factor of 0.25 per layer, because its slope is never more than that. It is
# worse: slopes multiply with weights, and PyTorch's default weights are small. Section 6 predicts the factor, and
# lesson 02 takes it apart.
#
# ### Patient B

# %%
b = examine(patient(letters["B"]))

# %% [markdown]
# - **SCALE** and **SPECTRUM** say it in words, because a log axis has no place for it: the gradient is *exactly* 0 in nine of
#   ten layers, and so is every singular value. A's gradient was tiny; there is none here to be tiny.
# - **RANGE** has nothing to report, for the same reason. An empty panel is not a healthy panel.
#
# B has **dead units**. A ReLU passes on $\max(0, z)$. Where $z$ is negative, both its output and its slope are 0. A unit
# is dead when that is so for *every* image: it gets no gradient, so no step will ever bring it back. How did
# B's units die?

# %%
everything = digits.train_inputs, digits.train_targets, F.cross_entropy
for epochs, batch_size, when in ((1, 1347, "one step"), (1, 64, "one epoch"), (4, 64, "four epochs")):
    model = network("dead units")
    training.train(model, digits, optimizer="adam", learning_rate=0.1, epochs=epochs, batch_size=batch_size)
    dead = signals.measure(model, *everything, layers=networks.Block).series("dead_share")
    print(f"after {when}, {dead[-1]:.0%} of the last layer is dead")

# %% [markdown]
# One step that is too large kills about half of a layer. The outputs of a ReLU layer are all positive, so a step that
# pushes a unit of the next layer down pushes it down for all images at once, and about half of the units are pushed down. The dead stay
# dead, and the next steps take the rest. After four epochs the last layer has no living unit: nothing of the
# image reaches the readout, which can learn only how frequent the classes are.
#
# ### Patient C

# %%
c = examine(patient(letters["C"]))

# %% [markdown]
# - **SCALE**: the activations look as healthy as can be, since tanh keeps them between -1 and 1. The gradient *grows* on its way back, from
#   0.02 in layer 130 to 1e45 in layer 1.
# - **CORRELATION**: near 0, as in the healthy network. Not every disease shows in every panel.
# - **SPECTRUM**: a nudge of the input moves the output 1e40 times as far. Such a network is chaotic.
# - **RANGE**: in float16 four of five gradient entries are infinite; in float32, the usual format, only 2 %, in the first few layers.
#
# C has **exploding gradients**, as its NaN told you. These 2 % are enough: one step with an infinite gradient, and
# the weights are infinite. The dashboard shows more than the NaN did, because it looks in float64, which reaches
# 1e308.

# %%
overflow = c.series("overflow.float32")
last = np.flatnonzero(overflow)[-1] + 1
print(f"float32: {overflow.mean():.1%} of all entries overflow; the last layer with any is {last}")

# %% [markdown]
# ### Patient D

# %%
d = examine(patient(letters["D"]))

# %% [markdown]
# - **SCALE**: healthy. It wanders, as a hundred random layers will, but the gradient in layer 1 is as large as in layer 100.
# - **RANGE**: healthy.
# - **CORRELATION**: from 0.3 to 0.999. By layer 100, all images point the same way.
# - **SPECTRUM**: one large value, and nine that fall away. The output can be moved in *one* direction, the same for every image.
#
# D has a **collapsed correlation**. The gradient arrives, in full size, and carries hardly anything about the
# image. This is often reported as a vanishing gradient. It is not one, and what helps against vanishing
# gradients does not help here.
#
# Does it train with more patience? With Adam at a learning rate of 0.0003 and twice the epochs:

# %%
patience = training.train(
    patient("collapsed"), digits, optimizer="adam", learning_rate=0.0003, epochs=4
)
for name, run in (("collapsed", patience), ("healthy", healthy_runs[best])):
    print(f"{name:>9}: loss {settled(run):.3g}, accuracy {run.validation_accuracy[-1]:.2g}")

# %% [markdown]
# So it can be trained: the curve leaves the guessing line. The price is an optimizer and a rate to be found, twice the time, and still a small part of what
# the healthy network learns with plain SGD. Collapsed is sick, not dead.

# %% [markdown]
# ## 6 · Round 4: known before the first step
#
# You diagnosed these networks without training them. One can do better, and diagnose them without *building* them: the recipe
# is enough. In a wide network the gradient's norm changes by $\sqrt\chi$ per layer,
#
# $$\chi = \sigma_w^2\,\mathbb E\bigl[\varphi'(z)^2\bigr], \qquad z \sim \mathcal N(0, q).$$
#
# **Predict.** All four recipes at 20 layers: which lines go down, which go up, which stay level as you walk *back* from
# layer 20 to layer 1?

# %%
MAPS = {"vanishing": ("sigmoid", 1 / 3, 1 / 300), "exploding": ("tanh", 100.0), "collapsed": ("relu", 2.0)}


def back_from_layer_20(name, seed):
    model = network(name, seed=seed, depth=20)
    found = signals.measure(model, images, labels, F.cross_entropy, layers=networks.Block)
    norms = found.series("activation_gradient_norm")
    return norms / norms[-1]

# %% [markdown]
# `MAPS` has, for each recipe, the activation, `weight_var` and `bias_var`. Each is measured with eight seeds.

# %%
ax = None
for name in MAPS:
    measured = np.stack([back_from_layer_20(name, seed) for seed in range(8)])
    ax = plots.layers(measured, label=name, ylabel="gradient norm, layer 20 = 1", ax=ax)
for name, recipe in MAPS.items():
    label = "theory" if name == "vanishing" else ""
    plots.layers(theory.gradient_norm_trajectory(20, *recipe), label=label, kind="theory", ax=ax);

# %% [markdown]
# **What you should see.** Three straight lines on a log axis, so three constant factors per layer, and the theory runs through the
# measurements. **Why** the factors are what they are fits in one cell:

# %%
for name, recipe in MAPS.items():
    q = theory.fixed_point(*recipe)
    print(f"{name}: q = {q:.3g}, factor per layer = {theory.chi(q, *recipe[:2]) ** 0.5:.3g}")

# %% [markdown]
# The factor of A is the one that you measured above. And the collapsed network has a factor of exactly 1: *by this formula it is
# healthy*. Its disease needs another one. Take two images whose activations have the cosine $c$. One random ReLU layer on, it is
#
# $$c' = \tfrac1\pi\Bigl(\sqrt{1 - c^2} + c\,(\pi - \arccos c)\Bigr),$$
#
# which is larger than $c$ for every $c < 1$. So two images that start at right angles come closer at every layer, whatever the scale of the
# weights:

# %%
def cosines(seed):
    model = network("collapsed", seed=seed)
    return signals.measure(model, images, labels, F.cross_entropy, layers=networks.Block).series("cosine")


predicted = [theory.relu_cosine_map(0.0)]
while len(predicted) < 100:
    predicted.append(theory.relu_cosine_map(predicted[-1]))

# %% [markdown]
# Eight seeds of the whole patient, a hundred layers deep, beside the formula applied a hundred times:

# %%
measured = np.stack([cosines(seed) for seed in range(8)])
ax = plots.layers(measured, label="collapsed", ylabel="cosine of two images", log_y=False)
plots.layers(predicted, label="theory", kind="theory", log_y=False, ax=ax)
ax.set_ylim(0, 1.05);

# %% [markdown]
# **What you should see.** The cosine passes 0.87 at layer 10 and reaches 0.996 at layer 100. What distinguishes the images is then
# the small rest, and every layer makes it smaller.

# %%
for layer in (10, 50, 100):
    middle = np.median(measured[:, layer - 1])
    print(f"layer {layer}: theory {predicted[layer - 1]:.3g}, median of 8 seeds {middle:.3g}")

# %% [markdown]
# ## 7 · Move it yourself
#
# The dashboard with a depth slider. To be quick, each network is drawn once, a hundred layers deep, and then cut off. The dead
# units here come from biases of -1 instead of an accident in training, which no slider could wait for.
#
# **Look for** the depth at which you would first call each network sick, and for the panel that told you.

# %%
trunks = {name: network(name, depth=100) for name in (*sick, "healthy")}
for block in trunks["dead units"].blocks:
    torch.nn.init.constant_(block.linear.bias, -1.0)
cut = {
    name: lambda depth, trunk=trunk: torch.nn.Sequential(*trunk.blocks[:depth], trunk.readout)
    for name, trunk in trunks.items()
}

# %% [markdown]
# All the rest is one line:

# %%
explorers.dashboard(cut, images, labels, F.cross_entropy, networks.Block, depths=range(2, 101, 2))

# %% [markdown]
# ## 8 · Misdiagnosis: a fifth flat curve
#
# Somebody brings you patient E: thirty layers, loss flat at 2.3, and a weight gradient so small that every step changes
# next to nothing. Vanishing gradients?
#
# **Predict.** E's dashboard is the one that you saw in section 4. What is wrong with E?

# %%
slow = {"E": trial("healthy", 0.0001), "A": trial("vanishing", 0.1)}
ax = plots.losses(slow, chance=math.log(10))
ax.set_ylim(0, 3);

# %% [markdown]
# E is the healthy network. It had a learning rate of 0.0001, a thousand times less than in its trial. No panel of the dashboard can show
# that, because the dashboard never asks how large a step will be. The third of the three gradients does:

# %%
for patient_name, rate in (("healthy", 0.0001), ("healthy", 0.1), ("vanishing", 0.1)):
    model = patient(patient_name)
    found = signals.measure(
        model, images, labels, F.cross_entropy, layers=networks.Block, learning_rate=rate
    )
    ratio = found.series("update_ratio")[0]
    print(f"{patient_name} at learning rate {rate:g}: update ratio {ratio:.1g} in layer 1")

# %% [markdown]
# A rule of thumb says that an update ratio near 1e-3 is about right. E's is a thousand times too small, and so a thousandfold learning
# rate cures it: you saw the cured E in section 3. A's is too small by fifteen decades in the first layer alone, and no one learning rate fits all of its
# layers. *Same curve, and both have a tiny gradient times a learning rate; the dashboard tells the disease from the dose.*

# %% [markdown]
# ## 9 · Check yourself
#
# Answer first, then unfold.
#
# **1.** Two networks, for ten classes and for a hundred, have flat loss curves, at 2.3 and at 4.6. Which one is worse off?
#
# <details><summary>Answer</summary>
#
# Neither. Both guess: the curves lie at ln 10 and ln 100. The height of the line tells you the number of classes, nothing else.
#
# </details>
#
# **2.** In the example by hand, why did the weight gradient shrink less than the activation gradient between layer 2 and layer 1?
#
# <details><summary>Answer</summary>
#
# A weight gradient is the activation gradient times the input of its layer. That input was $h_1 = 1$ in layer 2 and $x = 2$ in layer 1.
# So a ratio of weight gradients alone can hide a disease; lesson 03 has a network in which it stays near 1 while everything shrinks.
#
# </details>
#
# **3.** A's gradient in layer 1 is 1e-18, B's is exactly 0. Both curves are flat. Why does the difference matter?
#
# <details><summary>Answer</summary>
#
# A's gradient still has a direction. Better weights, another activation or an optimizer that rescales could use
# it. Of B's nothing is left to rescale: the units are off for every image, and only new weights or another activation help.
#
# </details>
#
# **4.** SCALE is level and RANGE is empty, but the loss is flat. What do you look at next, and what do you expect?
#
# <details><summary>Answer</summary>
#
# CORRELATION and SPECTRUM: perhaps the cosine goes to 1 and one singular value dwarfs the others (collapsed correlation). If they are healthy too,
# the update ratio: perhaps only the learning rate is too small. And if the gradient is exactly 0, RANGE is empty because there is nothing to count.
#
# </details>
#
# **5.** A loss curve shows one point and then nothing. Why is it a good idea to measure this network in float64?
#
# <details><summary>Answer</summary>
#
# In float32 the gradient is infinite or NaN from some layer on, and you would see where it broke but not how it grew. float64 reaches 1e308, so the growth per layer can be
# read off, and with it the cause.
#
# </details>

# %% [markdown]
# ## 10 · How to use this course
#
# **Alone.** Run each lesson from the top. At each *Predict*, commit to an answer before you run the next cell; being wrong there is
# what you came for. Move every slider. Unfold an answer only after you have one of your own.
#
# **In a lab.** One lesson fills one session. Work in pairs: one predicts, one argues against. The notes for instructors are beside the exercises.
#
# **For credit.** Graded exercises for this lesson and all others live in [exercises](../exercises/README.md).
#
# | lesson | question |
# |---|---|
# | **00 Start here** | Four flat loss curves, four different diseases: how would you tell them apart? |
# | [01 Chain rule intuition](01_chain_rule_intuition.ipynb) | What happens to a message that is passed on a hundred times? |
# | [02 Sigmoid saturation](02_sigmoid_saturation.ipynb) | Why did deep sigmoid networks not train for twenty years? |
# | 03 ReLU and variants | Is a derivative of 1 enough? |
# | 04 Initialization | How large should a random weight be, exactly? |
# | 05 Batch norm | Can normalization prevent vanishing, and what does it cost? |
# | 06 Residual connections | Why does adding the input back make 1000 layers trainable? |
# | 07 Gradient clipping | What does one do about a cliff? |
# | 08 Transformers | Where do gradients vanish in self-attention? |
# | 09 Optimizers and depth | Is deeper better, and can a better optimizer save a sick network? |
# | 10 Gradient clinic | Here is a network that does not train. What is wrong with it? |
#
# Each cure in lessons 03 to 09 moves some panels of the dashboard and leaves others as they are. To know which is to know
# when to use it.

# %% [markdown]
# ## Summary
#
# - You checked the environment and moved a slider.
# - You kept activation gradient, weight gradient and update ratio apart, by hand and then with `signals.measure`.
# - You read SCALE, CORRELATION, SPECTRUM and RANGE, on a healthy network first.
# - You told four diseases apart that one flat curve had hidden:
#
# | disease | what gave it away |
# |---|---|
# | vanishing gradients | SCALE: the gradient falls by a constant factor per layer going back |
# | dead units | SCALE and SPECTRUM: a gradient that is exactly 0, not small |
# | exploding gradients | NaN in the loss; SCALE: the gradient rises going back; RANGE: overflow |
# | collapsed correlation | CORRELATION: the cosine goes to 1 while SCALE stays level |
#
# - You recognized a healthy network with too small a learning rate, by its update ratio.
#
# ## References
#
# - S. Hochreiter (1991). *Untersuchungen zu dynamischen neuronalen Netzen.* Diploma thesis, TU München. (Vanishing gradients.)
# - Y. Bengio, P. Simard, P. Frasconi (1994). Learning long-term dependencies with gradient descent is difficult.
#   *IEEE Transactions on Neural Networks* 5(2).
# - Y. Cho, L. K. Saul (2009). Kernel methods for deep learning. *NeurIPS.* (The map of the cosine.)
# - X. Glorot, Y. Bengio (2010). Understanding the difficulty of training deep feedforward neural networks. *AISTATS.*
# - K. He, X. Zhang, S. Ren, J. Sun (2015). Delving deep into rectifiers. *ICCV.*
# - B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli (2016). Exponential expressivity in deep neural networks
#   through transient chaos. *NeurIPS.*
# - S. S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein (2017). Deep information propagation. *ICLR.* (The factor χ.)
# - E. Alpaydin, C. Kaynak (1998). Optical recognition of handwritten digits. *UCI Machine Learning Repository.*
#
# ## Next
#
# [01 · The chain rule](01_chain_rule_intuition.ipynb): what happens to a message that is passed on a hundred times? Patient A
# and patient C are the two answers.
