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
# **Before this:** no other lesson. You know the chain rule, and you have trained a small network in PyTorch.
# **Time:** about 40 minutes, of which 20 are reading.

# %%
import copy
import math

import numpy as np
import torch
from torch.nn import functional as F

from gradients_in_depth import data, explorers, initialization, networks
from gradients_in_depth import plots, session, signals, theory, training

session.start(seed=0)

# %% [markdown]
# ## 1 · Is everything here?
#
# The next cell answers in one sentence. If it tells you to install something, do that first.

# %%
print(session.check_environment())

# %% [markdown]
# And here is your first slider. Every lesson has one. Move it with the mouse or the arrow keys, or type a number
# beside it. If the point moves and the sentence below the picture changes, everything works.
#
# **Look for** the dotted line. A network that has learned nothing sits on it, and so will most of the networks in this
# lesson.

# %% tags=["explorer"]
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
# On the way from layer 2 back to layer 1, the activation gradient fell to a tenth, but the weight gradient only to a
# fifth: it has picked up a factor $x = 2$ from the *forward* signal. The third quantity asks what an optimizer makes of
# it:

# %%
learning_rate = 0.1
ratios = [learning_rate * abs(d_w1) / abs(w1), learning_rate * abs(d_w2) / abs(w2)]
print(f"update ratios: layer 1 {ratios[0]:.2g}, layer 2 {ratios[1]:.2g}")

# %% [markdown]
# One step changes $w_1$ by 3.6 % of itself, and $w_2$ by 90 %. Three quantities, three different pictures of one
# network:
#
# | name in this course | formula | what it is |
# |---|---|---|
# | `activation_gradient` | $\partial\,\text{loss}/\partial h_l$ | the signal that backpropagation carries |
# | `weight_gradient` | $\partial\,\text{loss}/\partial W_l$ | that signal times the forward signal $h_{l-1}$ |
# | `update_ratio` | $\text{learning rate}\cdot\lVert\partial\,\text{loss}/\partial W_l\rVert \,/\, \lVert W_l\rVert$ | what the optimizer does with it |
#
# Nobody does this by hand for a hundred layers. `signals.measure` does it for any `torch.nn.Module`. Does it agree with
# you?

# %%
def half_square(h, goal):
    return ((h - goal) ** 2 / 2).sum()


layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
chain = torch.nn.Sequential(layer, copy.deepcopy(layer))
torch.nn.init.constant_(chain[0].weight, w1)
torch.nn.init.constant_(chain[1].weight, w2)
example = torch.tensor([[x]]).double(), torch.tensor([[target]]).double()
found = signals.measure(chain, *example, half_square, learning_rate=learning_rate)
assert np.allclose(found.series("activation_gradient_norm"), [abs(d_h1), abs(d_h2)])
assert np.allclose(found.series("weight_gradient_norm"), [abs(d_w1), abs(d_w2)])
assert np.allclose(found.series("update_ratio"), ratios)

# %% [markdown]
# It does: the last three lines check it. What is left of the notation fits in a table:
#
# | symbol | in code | meaning |
# |---|---|---|
# | $L$, $n$ | `depth`, `width` | hidden layers, and units in each |
# | $z_l = W_l h_{l-1} + b_l,\; h_l = \varphi(z_l)$ | `activation` | layer $l$ before and after its activation function $\varphi$ |
# | $\sigma_w^2$ | `weight_var` | variance of one weight, times the number of inputs of its layer (`fan_in`) |
# | $q_l$ | `q` | variance of $z_l$ in a very wide network |
# | $\chi = \sigma_w^2\,\mathbb E[\varphi'(z)^2]$ | `chi` | factor per layer on the mean *squared* activation gradient, going back |
#
# So $\sqrt\chi$ is the factor per layer on the gradient's norm. Below 1 the gradient vanishes, above 1 it explodes.

# %% [markdown]
# ## 3 · Round 1: four flat loss curves
#
# Here are four sick networks and a healthy one. They look at handwritten digits of 8 × 8 pixels, and each of their
# layers has 100 units. You need not know yet what every word of a recipe does. The lessons to come explain them all.

# %%
RECIPES = {
    "vanishing": dict(depth=20, activation="sigmoid", initialization="pytorch_default"),
    "exploding": dict(depth=130, activation="tanh", initialization="gaussian", gain=10.0),
    "dead units": dict(depth=10, activation="relu", initialization="he_normal"),
    "collapsed": dict(depth=100, activation="relu", initialization="he_normal"),
    "healthy": dict(depth=30, activation="tanh", initialization="gaussian",
                    skip=True, branch_scale=0.18),
}

# %% [markdown]
# The readout, from the last layer to the ten classes, is drawn alike in all five and small, so that each of them starts
# near a loss of 2.3. All are drawn with seed 0; the tests of this course repeat the trial below with other seeds.

# %%
def network(name, dtype=torch.float64, seed=0, **changes):
    recipe = RECIPES[name] | changes
    model = networks.DeepMLP(width=100, dtype=dtype, seed=seed, **recipe)
    draw = data.seeded_generator(seed + 1)
    initialization.initialize(model.readout, "pytorch_default", gain=0.3, generator=draw)
    return model

# %% [markdown]
# One of the five was healthy until it had an accident: for four epochs, somebody trained it with Adam at a learning
# rate of 0.1, a hundred times the usual 0.001. You will see in section 5 what those steps did to it.

# %%
digits = data.digits(dtype=torch.float64)
victim = network("dead units")
training.train(victim, digits, optimizer="adam", learning_rate=0.1, epochs=4);

# %% [markdown]
# Now each network gets the same trial: two epochs of plain stochastic gradient descent. We compute in float64, so that
# your numbers are the ones printed here. The exploding network alone runs in float32, the format that everybody trains
# in, because its disease is to leave that format's range.

# %%
def patient(name, dtype=torch.float64):
    return copy.deepcopy(victim) if name == "dead units" else network(name, dtype)


def trial(name, learning_rate):
    dtype = torch.float32 if name == "exploding" else torch.float64
    model, split = patient(name, dtype), data.digits(dtype=dtype)
    return training.train(model, split, learning_rate=learning_rate, epochs=2)

# %% [markdown]
# **Predict.** Below, the sick four are called A, B, C and D, in an order that a seed has shuffled. Which of them will
# you recognize by its loss curve? Run both cells, look, and write down four letters.

# %%
sick = ["vanishing", "exploding", "dead units", "collapsed"]
letters = dict(zip("ABCD", np.random.default_rng(seed=7).permutation(sick), strict=True))
runs = {letter: trial(name, learning_rate=0.1) for letter, name in letters.items()}

# %% [markdown]
# If a run has stopped, the plot holds its last number, as a live display does when no new number comes.

# %%
ax = plots.losses(runs, chance=math.log(10), hold=True)
ax.set(xlim=(0, 2.05), ylim=(0, 3));

# %% [markdown]
# **What you should see.** Four lines on top of each other, all at the height of a guess. Nobody can tell them apart,
# and you were not meant to.
#
# Perhaps the learning rate was wrong? Here are two more, ten and a hundred times smaller.

# %%
rates = (0.001, 0.01, 0.1)
trials = {
    letter: {rate: trial(name, rate) for rate in rates[:2]} for letter, name in letters.items()
}

# %% [markdown]
# The table has the mean loss of the second epoch, or the last number of a run that stopped.

# %%
def settled(history):
    loss = history.train_loss[np.isfinite(history.train_loss)]
    return loss[-1] if history.stopped else loss[-history.steps_per_epoch :].mean()


for letter in letters:
    row = {rate: settled(run) for rate, run in trials[letter].items()} | {0.1: settled(runs[letter])}
    print(letter, *(f"   rate {rate:g}: {loss:.2f}" for rate, loss in row.items()))
    assert max(abs(loss - math.log(10)) for loss in row.values()) < 0.05

# %% [markdown]
# Flat at every rate, to within 0.05. **Why** always at this height? A network whose output does not depend on its input
# can still learn how frequent each class is. Here each of the ten is about a tenth of the images, and the best such
# answer costs
#
# $$-\sum_{k=1}^{10} \tfrac1{10} \ln \tfrac1{10} = \ln 10.$$
#
# All four have lost the way from the picture to the loss, or the way back. The curve shows *that* it is lost, never
# *where*. For comparison, the healthy network in the same trial, at its own best of the three rates:

# %%
healthy_runs = {rate: trial("healthy", rate) for rate in rates}
best = min(rates, key=lambda rate: settled(healthy_runs[rate]))
shown = runs | {f"healthy, rate {best:g}": healthy_runs[best]}
ax = plots.losses(shown, chance=math.log(10), hold=True)
ax.set(xlim=(0, 2.05), ylim=(0, 3));

# %% [markdown]
# So the trial is fair: a network of thirty layers passes it. A flat curve is a symptom, and a symptom does not name the
# disease.

# %% [markdown]
# ## 4 · Round 2: the dashboard, on a healthy network
#
# Of any flat curve, first ask whether it is a curve at all.

# %%
for letter, history in runs.items():
    print(f"{letter}: {history.stopped or f'ran all {len(history.train_loss)} steps.'}")

# %% [markdown]
# C was not flat. C was one single number, held. Its second loss was NaN, *not a number*, and from then on there was
# nothing to plot. That gives you one disease without any measurement: C is the exploding network. Between A, B and D
# the loss cannot decide.
#
# Throughout the course you will look at the same four panels instead. They need one forward and one backward pass of 64
# images, and no training:
#
# | panel | the question it answers | what is drawn |
# |---|---|---|
# | SCALE | How large is the signal, going forward and coming back? | variance of the activations, and norm of the activation gradient, by layer |
# | CORRELATION | Can this layer still tell two images apart? | mean cosine between the activations of two different images, by layer |
# | SPECTRUM | In how many directions can the output still be moved? | singular values of the Jacobian ∂output/∂input at one image |
# | RANGE | Does the gradient fit into the number format? | share of its entries that become 0 (underflow) or infinite (overflow) |

# %%
images, labels = digits.train_inputs[:64], digits.train_targets[:64]


def measure(model, **options):
    return signals.measure(
        model, images, labels, F.cross_entropy, layers=networks.Block, **options
    )


def examine(model):
    found = measure(model)
    plots.dashboard(found, signals.jacobian_singular_values(model, images[0]))
    return found

# %% [markdown]
# **Predict.** The healthy network first. Draw each panel in the air: level, rising or falling?

# %%
healthy = examine(patient("healthy"))
for name in ("activation_variance", "activation_gradient_norm"):
    assert healthy.series(name).max() < 2 * healthy.series(name).min()
assert abs(healthy.series("cosine")).max() < 0.05

# %% [markdown]
# **What you should see.** This is what normal looks like. Compare everything that follows with it.
#
# - **SCALE**: both curves stay within a factor of two over thirty layers (the cell checks it).
# - **CORRELATION**: close to 0 in every layer. Two different digits are at right angles on average, and stay so.
# - **SPECTRUM**: ten singular values, one for each output, all of them within a factor of five. Ten directions are open.
# - **RANGE**: no gradient is lost in any format.

# %% [markdown]
# ## 5 · Round 3: four patients
#
# Now A, B, C and D, as they were before their trial. **Predict**, at each picture and before you read on: which panel
# is sick, and what is the disease called?
#
# ### Patient A

# %%
a = examine(patient(letters["A"]))

# %% [markdown]
# - **SCALE**: the activations keep their variance. The gradient does not keep its norm: it falls at every step back,
#   from 0.02 in layer 20 to 1e-18 in layer 1.
# - **SPECTRUM**: a nudge of the input moves the output by less than 1e-17 of its length, in any direction.
# - **RANGE**: in float16, most of that gradient is already 0.
# - **CORRELATION**: 1. The outputs of a sigmoid are all positive, so any two images look alike to it. A real patient
#   seldom has one complaint only. But it is the gradient that does not come through.
#
# A has **vanishing gradients**. What factor does each layer cost?

# %%
norms = a.series("activation_gradient_norm")
per_layer = (norms[0] / norms[-1]) ** (1 / 19)
print(f"{letters['A']}: a factor of {per_layer:.2g} per layer")

# %% [markdown]
# You may have read that each sigmoid layer costs a factor of 0.25, because its slope is never more than that. It is
# worse: the slopes multiply with the weights, and PyTorch's default weights are small. Section 6 predicts the factor, and
# lesson 02 takes it apart.
#
# ### Patient B

# %%
b = examine(patient(letters["B"]))

# %% [markdown]
# - **SCALE** and **SPECTRUM** have to say it in words, because a log axis has no place for it: the gradient is *exactly* 0
#   in nine of ten layers, and so is every singular value. A's gradient was tiny. B has none that could be tiny.
# - **RANGE** has nothing to report, for the same reason. An empty panel is not a healthy panel.
# - What else SCALE and **CORRELATION** show are scars of the accident: activations with a variance of up to a million.
#
# B has **dead units**. A ReLU computes $\max(0, z)$; where $z$ is negative, its output and its slope are both 0. A unit
# is dead when that is so for *every* image. Then its weights get no gradient, and no step moves them again. How did B's
# units die? The cell repeats the accident, and stops early twice.

# %%
everything = digits.train_inputs, digits.train_targets, F.cross_entropy
for epochs, batch_size, after in ((1, 1347, "1 step"), (1, 64, "1 epoch"), (4, 64, "4 epochs")):
    model, options = network("dead units"), dict(epochs=epochs, batch_size=batch_size)
    training.train(model, digits, optimizer="adam", learning_rate=0.1, **options)
    found = signals.measure(model, *everything, layers=networks.Block)
    print(f"after {after}: {found.series('dead_share')[-1]:.0%} of the last layer is dead")

# %% [markdown]
# One step that is too large kills more than half of the layer. The outputs of a ReLU layer are never negative, so a step
# that pushes a unit of the next layer down pushes it down for all images at once. The dead stay dead, and further steps
# take the rest. In the end the last layer has no living unit. Nothing of the image reaches the readout, which can learn
# only how frequent the classes are.
#
# ### Patient C

# %%
c = examine(patient(letters["C"]))
overflow = c.series("overflow.float32")
print(f"float32 overflows in layers 1 to {np.flatnonzero(overflow)[-1] + 1}")

# %% [markdown]
# - **SCALE**: the activations look as healthy as can be, since tanh keeps them between -1 and 1. But the gradient *grows*
#   on its way back, from 0.02 in layer 130 to 1e45 in layer 1.
# - **SPECTRUM**: a nudge of the input moves the output by 1e42 times its length. Such a network is called chaotic.
# - **RANGE**: in float16, four of five gradient entries are infinite; in float32 only 2 %, all of them in the first
#   layers.
# - **CORRELATION**: close to 0, as in the healthy network. Not every disease shows in every panel.
#
# C has **exploding gradients**, as its NaN told you. Those 2 % are enough: one step along an infinite gradient, and the
# weights are infinite too. The dashboard shows more than the NaN did, because it looks in float64, whose range ends
# at 1e308.
#
# ### Patient D

# %%
d = examine(patient(letters["D"]))
print(f"cosine in layer 100: {d.layers[-1].cosine:.3f}")

# %% [markdown]
# - **SCALE**: it wanders, as a hundred random layers will, but the gradient in layer 1 is within a factor of three of
#   that in layer 100.
# - **RANGE**: no gradient is lost.
# - **CORRELATION**: from 0.33 to 0.999. By layer 100, all images point the same way.
# - **SPECTRUM**: it falls by six decades. The output can be moved in two or three directions, and not in ten.
#
# D has a **collapsed correlation**. Its gradient arrives, and in good size, but it carries hardly anything about the
# image. This is often reported as a vanishing gradient. It is not one, and larger weights, which would lift a vanishing
# gradient, do nothing for D: section 6 shows why.
#
# Can D be trained with more care? Here is Adam at a learning rate of 0.0003, for twice as many epochs.

# %%
care = dict(optimizer="adam", learning_rate=0.0003, epochs=4)
patience = training.train(patient("collapsed"), digits, **care)
for name, run in {"collapsed": patience, "healthy": healthy_runs[best]}.items():
    print(f"{name}: loss {settled(run):.2f}, accuracy {run.validation_accuracy[-1]:.0%}")

# %% [markdown]
# It can: the loss leaves the guessing line. But it took another optimizer, a rate found by search, and twice the time to
# learn a small part of what the healthy network learns from plain SGD. D is sick, not dead.

# %% [markdown]
# ## 6 · Round 4: known before the first step
#
# You diagnosed these networks without training them. Three of the four can be diagnosed without even building them: the
# recipe is enough. In a wide network the gradient's norm changes by $\sqrt\chi$ at each layer,
#
# $$\chi = \sigma_w^2\,\mathbb E\bigl[\varphi'(z)^2\bigr], \qquad z \sim \mathcal N(0, q).$$
#
# **Predict.** Take the recipes of A, C and D at 20 layers each. Walking *back* from layer 20 to layer 1, whose gradient
# goes down, whose goes up, whose stays level? And will the theory fit networks that are only 100 wide?

# %%
MAPS = {  # activation, weight_var, bias_var
    "vanishing": ("sigmoid", 1 / 3, 1 / 300),
    "exploding": ("tanh", 100.0, 0.0),
    "collapsed": ("relu", 2.0, 0.0),
}


def back_from_layer_20(name, seed):
    norms = measure(network(name, seed=seed, depth=20)).series("activation_gradient_norm")
    return norms / norms[-1]

# %% [markdown]
# Each recipe is measured with eight seeds, drawn as their median and range; the theory is one line. (It starts from
# $q_1 = \sigma_w^2$, because the pixels are standardized to variance 1.)

# %%
ax, ylabel = None, "gradient norm, layer 20 = 1"
for name in MAPS:
    measured = np.stack([back_from_layer_20(name, seed) for seed in range(8)])
    ax = plots.layers(measured, label=name, ylabel=ylabel, ax=ax)
for activation, weight_var, bias_var in MAPS.values():
    expected = theory.gradient_norm_trajectory(20, activation, weight_var, bias_var, weight_var)
    plots.layers(expected, label="theory", kind="theory", ax=ax);

# %% [markdown]
# **What you should see.** Three straight lines on a log axis, that is, three constant factors per layer, and the theory
# runs through the measurements. **Why** these factors: $q$ settles at a fixed value after a few layers, and $\sqrt\chi$
# with it.

# %%
for name, (activation, weight_var, bias_var) in MAPS.items():
    q = theory.fixed_point(activation, weight_var, bias_var)
    factor = math.sqrt(theory.chi(q, activation, weight_var))
    print(f"{name}: q = {q:.3g}, factor per layer = {factor:.2g}")

# %% [markdown]
# The factor of A is the one that you measured. And D's is exactly 1: *by this formula D is healthy*. Its disease needs
# another one. Take two images whose activations have the cosine $c$. One random ReLU layer further on, it is
#
# $$c' = \tfrac1\pi\Bigl(\sqrt{1 - c^2} + c\,(\pi - \arccos c)\Bigr),$$
#
# which is larger than $c$ for every $c < 1$, and in which no $\sigma_w$ appears. So two images that start at right angles
# come closer at every layer, however large the weights are.

# %%
predicted = [theory.relu_cosine_map(0.0)]
while len(predicted) < 100:
    predicted.append(theory.relu_cosine_map(predicted[-1]))

# %% [markdown]
# Eight seeds of D's recipe, a hundred layers deep, beside the formula applied a hundred times:

# %%
measured = np.stack([measure(network("collapsed", seed=seed)).series("cosine") for seed in range(8)])
ax = plots.layers(measured, label="collapsed", ylabel="cosine of two images", log_y=False)
plots.layers(predicted, label="theory", kind="theory", log_y=False, ax=ax)
ax.set_ylim(0, 1.05);

# %% [markdown]
# **What you should see.** Most of the way is done in ten layers, and the rest follows slowly. The measurement runs a
# little ahead of the theory, because 100 units are not infinitely many.

# %%
for layer in (10, 50, 100):
    middle = np.median(measured[:, layer - 1])
    print(f"layer {layer}: theory {predicted[layer - 1]:.3g}, median of 8 seeds {middle:.3g}")

# %% [markdown]
# ## 7 · Move it yourself
#
# The dashboard, with a slider for the depth. To be quick, each network is drawn once, a hundred layers deep, and then
# cut off. The dead units here come from biases of -1, because no slider could wait for the accident.
#
# **Look for** the depth at which you would first call each network sick, and for the panel that told you.

# %%
trunks = {name: network(name, depth=100) for name in (*sick, "healthy")}
for block in trunks["dead units"].blocks:
    torch.nn.init.constant_(block.linear.bias, -1.0)


def cut(trunk):
    return lambda depth: torch.nn.Sequential(*trunk.blocks[:depth], trunk.readout)

# %% [markdown]
# The explorer takes one function for each name, from a depth to a model. It would take yours as well.

# %% tags=["explorer"]
models = {name: cut(trunk) for name, trunk in trunks.items()}
explorers.dashboard(models, images, labels, F.cross_entropy, networks.Block, range(2, 101, 2))

# %% [markdown]
# ## 8 · Misdiagnosis: a fifth flat curve
#
# Somebody brings you patient E: thirty layers, loss flat near 2.3, and steps so small that the weights hardly change.
# Vanishing gradients?
#
# **Predict.** E's dashboard is the one that you saw in section 4, panel by panel. What is wrong with E?

# %%
slow = {"E": trial("healthy", 0.0001), "A": runs["A"]}
ax = plots.losses(slow)
plots.guide(ax, math.log(10), "")
ax.set(xlim=(0, 2.05), ylim=(0, 3));

# %% [markdown]
# E *is* the healthy network, at a learning rate of 0.0001: a thousandth of the rate that suits it. No panel can show
# that, because the dashboard does not ask how large a step will be. The third of the three gradients does:

# %%
for name, rate in (("healthy", 0.0001), ("healthy", 0.1), ("vanishing", 0.1)):
    ratio = measure(patient(name), learning_rate=rate).series("update_ratio")[0]
    print(f"{name} at learning rate {rate:g}: update ratio {ratio:.0e} in layer 1")

# %% [markdown]
# A rule of thumb says that an update ratio near 1e-3 is about right. E's is hundreds of times too small, and a larger
# learning rate cures it: you saw the cured E in section 3. A's, at the largest rate of the trial, is too small by sixteen
# decades in layer 1, and no one rate suits all of A's layers. **Same curve; one has a disease, the other got too small a
# dose.**

# %% [markdown]
# ## 9 · Check yourself
#
# Answer first, then unfold.
#
# **1.** Two networks have flat loss curves: one for ten classes at ln 10, one for a hundred classes at ln 100. Which one
# is worse off?
#
# <details><summary>Answer</summary>
#
# Neither. Both guess. The height of the line tells you the number of classes, and nothing else.
#
# </details>
#
# **2.** In the example by hand, why did the weight gradient shrink less than the activation gradient?
#
# <details><summary>Answer</summary>
#
# A weight gradient is the activation gradient times the input of its layer. That input was $h_1 = 1$ in layer 2 and
# $x = 2$ in layer 1. So weight gradients alone can hide a disease: lesson 04 has a network in which their ratio stays near
# 1 while everything shrinks.
#
# </details>
#
# **3.** A's gradient in layer 1 is about 1e-18, B's is exactly 0. Both curves are flat. Why does the difference matter?
#
# <details><summary>Answer</summary>
#
# A's gradient still has a direction, which an optimizer that rescales it could follow. Of B's nothing is left to
# rescale: the units are off for every image, and only new weights or another activation function help.
#
# </details>
#
# **4.** SCALE is level and RANGE is empty, and yet the loss is flat. What do you look at next?
#
# <details><summary>Answer</summary>
#
# At CORRELATION and SPECTRUM: does the cosine go to 1, and do the singular values fall away (collapsed correlation)? If
# these are healthy too, at the update ratio: perhaps only the learning rate is too small.
#
# </details>
#
# **5.** A loss curve shows one point and then nothing. Why is it a good idea to measure this network in float64?
#
# <details><summary>Answer</summary>
#
# In float32 you would see where the gradient became infinite, but not how it got there. In float64 it stays finite much
# longer, so that you can read off the growth per layer, and with it the cause.
#
# </details>

# %% [markdown]
# ## 10 · How to use this course
#
# **Alone.** Run each lesson from the top. At each *Predict*, commit to an answer before you run the next cell: being
# wrong there is what you came for. Move every slider. Unfold an answer only after you have one of your own.
#
# **In a lab.** One lesson fills one session. Work in pairs: one predicts, the other argues against it, then you run the
# cell.
#
# **For credit.** Graded exercises for lessons 01 to 10 live in [exercises](../exercises/README.md).
#
# | lesson | question |
# |---|---|
# | **00 Start here** | Four flat loss curves, four different diseases: how would you tell them apart? |
# | [01 Chain rule intuition](01_chain_rule_intuition.ipynb) | What happens to a message that is passed on a hundred times? |
# | [02 Sigmoid saturation](02_sigmoid_saturation.ipynb) | Why did deep sigmoid networks not train for twenty years? |
# | [03 ReLU and variants](03_relu_and_variants.ipynb) | Is a derivative of 1 enough? |
# | [04 Initialization](04_initialization.ipynb) | How large should a random weight be, exactly? |
# | [05 Batch norm](05_batch_norm.ipynb) | Can normalization prevent vanishing, and what does it cost? |
# | [06 Residual connections](06_residual_connections.ipynb) | Why does adding the input back make 1000 layers trainable? |
# | [07 Gradient clipping](07_gradient_clipping.ipynb) | What does one do about a cliff? |
# | [08 Transformers](08_transformers.ipynb) | Where do gradients vanish in self-attention? |
# | [09 Optimizers and depth](09_optimizers_and_depth.ipynb) | Is deeper better, and can a better optimizer save a sick network? |
# | [10 Gradient clinic](10_gradient_clinic.ipynb) | Here is a network that does not train. What is wrong with it? |
#
# Each cure in these lessons moves some panels of the dashboard and leaves the others as they are. To know which is to
# know when to use it.

# %% [markdown]
# ## Summary
#
# - You checked that everything is here, and moved a slider.
# - You kept activation gradient, weight gradient and update ratio apart, by hand and with `signals.measure`.
# - You read SCALE, CORRELATION, SPECTRUM and RANGE, first of a healthy network, then of four sick ones.
# - You told four diseases apart whose loss curves looked the same:
#
#   | disease | what gave it away |
#   |---|---|
#   | vanishing gradients | SCALE: going back, the gradient falls by a constant factor per layer |
#   | exploding gradients | NaN in the loss; SCALE: going back, the gradient rises; RANGE: overflow |
#   | dead units | SCALE and SPECTRUM: a gradient that is not small, but exactly 0 |
#   | collapsed correlation | CORRELATION: the cosine goes to 1 while SCALE stays level |
#
# - You recognized a healthy network that only looked sick, by its update ratio.
#
# ## References
#
# - S. Hochreiter (1991). *Untersuchungen zu dynamischen neuronalen Netzen.* Diploma thesis, TU München.
# - Y. Bengio, P. Simard, P. Frasconi (1994). Learning long-term dependencies with gradient descent is difficult.
#   *IEEE Transactions on Neural Networks* 5(2). (Vanishing and exploding gradients.)
# - E. Alpaydin, C. Kaynak (1998). Optical recognition of handwritten digits. *UCI Machine Learning Repository.*
# - Y. Cho, L. K. Saul (2009). Kernel methods for deep learning. *NeurIPS.* (The map of the cosine.)
# - X. Glorot, Y. Bengio (2010). Understanding the difficulty of training deep feedforward neural networks. *AISTATS.*
# - K. He, X. Zhang, S. Ren, J. Sun (2015). Delving deep into rectifiers. *ICCV.*
# - B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli (2016). Exponential expressivity in deep neural networks
#   through transient chaos. *NeurIPS.* (The map of $q$.)
# - S. S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein (2017). Deep information propagation. *ICLR.* (The factor χ.)
#
# ## Next
#
# [01 · What happens to a message that is passed on a hundred times?](01_chain_rule_intuition.ipynb) Patients A and C are
# the two answers.
