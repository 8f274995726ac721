# %% [markdown]
# # Exercises 10 · The night shift
#
# For [lesson 10](../../notebooks/10_gradient_clinic.ipynb). Six exercises, 105 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | A census of parameters | 15 | warm-up | 2 |
# | 2 | Two owners halve their weights | 10 | easy | 2 |
# | 3 | Two pairs | 15 | medium | 3 |
# | 4 | "It trains now, so that was it" | 15 | medium | 4 |
# | 5 | First, do no harm | 25 | hard | 3 |
# | 6 | Who lost the decades? | 25 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, networks, session, signals

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · A census of parameters
#
# *15 minutes · warm-up · 2 points*
#
# A network comes in at night, one backward pass behind it, its gradients still in `.grad`. Before anybody says "vanishing",
# somebody counts. Every parameter gets one word, the *first* of this table that fits:
#
# | Word | Fits when |
# |---|---|
# | `"frozen"` | it asks for no gradient |
# | `"no path"` | it asks for one, and there is none |
# | `"zero"` | all entries of its gradient are exactly 0 |
# | `"faint"` | no entry is larger in size than $10^{-12}$ |
# | `"alive"` | all others |
#
# Return a dictionary from names, as in `model.named_parameters()`, to words. The gradients are finite; the model
# has to stay as it is. (float32 goes down to $10^{-45}$, and not all that one does with so small a number stays in it.)


# %% answer gradient_census
def census(model):
    """One word for each parameter: a dictionary from names to words."""
    ### BEGIN SOLUTION
    words = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            words[name] = "frozen"  # first: an old gradient may still be there
        elif parameter.grad is None:
            words[name] = "no path"
        else:
            largest = parameter.grad.abs().max()  # a norm squares, and the square of 1e-30 is 0 in float32
            words[name] = "zero" if largest == 0 else "faint" if largest <= 1e-12 else "alive"
    return words
    ### END SOLUTION


# %% check gradient_census
checks.gradient_census(census)
### BEGIN HIDDEN TESTS
checks.gradient_census(census, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: which of the five words can a larger learning rate change, which a factor on the loss, and
# which neither?
#
# <details><summary>Answer</summary>
#
# The rate changes no gradient, so none of them. It makes the steps of what is `faint` larger, if that was all. A factor on
# the loss can make `faint` into `alive`; it can bring a `zero` back only where the format had rounded it to 0 (before the
# backward pass, not after it). `frozen`, `no path`, and the `zero` of a dead unit are facts of the graph: 0 times anything
# is 0.
#
# </details>
#
# ## Exercise 2 · Two owners halve their weights
#
# *10 minutes · easy · 2 points*
#
# Two networks of thirty ReLU layers, wide, without skips and biases. In both the norm of the activation gradient (at the output of
# a layer) falls evenly from layer 1 to layer 30: it is 250 times as large in layer 1 as in layer 30.
#
# - `plain` has He's weights, all of them times 1.21, and nothing else;
# - `normed` has He's weights, and batch normalization between weights and ReLU.
#
# Both owners say "my weights are too large", and halve *every weight matrix* of the thirty layers. **Predict**, with a
# calculator, to 3 %. The last matrix, which reads out from layer 30, stays; nothing is trained.

# %% answer halved_weights
forward = None  # plain, BEFORE the halving: mean squared activation of layer 30 over that of layer 1
plain = None  # gradient norm of layer 1 over that of layer 30, AFTER the halving
normed = None  # the same for the other network
### BEGIN SOLUTION
forward = 250**2  # the same 1.21 per layer as the gradient, and squared
plain = 250 / 2**29  # 29 matrices lie between layer 30 and layer 1, and each passes on half
normed = 250  # the norm divides by whatever the weights multiply by, forward and backward
### END SOLUTION

# %% check halved_weights
checks.halved_weights(forward, plain, normed)

# %% [markdown]
# So one cut parts two diseases that share a symptom. Try it on two real networks, 64 units wide, so that the number
# before the cut need not be 250. (A loss with the same gradient before and after: the sum of the outputs for the right classes.)

# %%
digits = data.digits(dtype=torch.float64)
images, classes = digits.train_inputs[:64], digits.train_targets[:64]


# %%
def right_outputs(outputs, classes):
    return outputs.gather(1, classes[:, None]).sum()


# %% [markdown]
# Gradient norm of layer 1 over that of layer 30:

# %%
for name, options in {"plain": {"gain": 1.21}, "normed": {"normalization": "batch"}}.items():
    owner = {"activation": "relu", "initialization": "he_normal", "bias": False, "seed": 1} | options
    model = networks.DeepMLP(30, 64, dtype=torch.float64, **owner)
    for what in ("before", "after"):
        found = signals.measure(model, images, classes, right_outputs, layers=networks.Block)
        norms = found.series("activation_gradient_norm")
        print(f"{name}, {what}: {norms[0] / norms[-1]:.3g}")
        for block in model.blocks:
            block.linear.weight.data /= 2

# %% [markdown]
# That `normed` moves at all is the ε of its norms, which nobody halved.
#
# ## Exercise 3 · Two pairs
#
# *15 minutes · medium · 3 points*
#
# Four networks of thirty layers of 64 units, before training; digits go in, ten numbers come out. In two pairs they
# share what SCALE says of the gradient. Each has one disease, which may bring another symptom along:
#
# - `"slope"`: the slope of the activation;
# - `"weight scale"`: weights that are too small;
# - `"collapse"`: different inputs become the same;
# - `"waist"`: one layer is much narrower than the others.

# %%
checks.night_chart(1);
# %% [markdown]
# The second:

# %%
checks.night_chart(2);
# %% [markdown]
# The third:

# %%
checks.night_chart(3);
# %% [markdown]
# And the fourth:

# %%
checks.night_chart(4);
# %% [markdown]
# Which is which? And how many units does the narrow layer of the `"waist"` have?

# %% answer night_ward
disease = {1: None, 2: None, 3: None, 4: None}
units = None  # a whole number
### BEGIN SOLUTION
disease = {1: "collapse", 2: "weight scale", 3: "waist", 4: "slope"}
units = 4  # so many singular values are left of ten, and the rest is 0 at once
### END SOLUTION

# %% check night_ward
checks.night_ward(disease, units)

# %% [markdown]
# ## Exercise 4 · "It trains now, so that was it"
#
# *15 minutes · medium · 4 points*
#
# A case report. "Twenty tanh layers, their weights drawn by a routine of my own; loss at ln 10 for an hour; the gradient in
# layer 1 is a billionth of that in layer 20. Diagnosis: tanh saturates. I put ReLU in its place, drew the weights by
# He's rule, which belongs to ReLU, and took the learning rate from 0.001 to 0.01, since ReLU can bear that. After one epoch it is right on
# 95 % of the digits. The cure confirms the diagnosis."
#
# Answer in five to nine sentences. What does the cure confirm, and what not? Which other disease fits all that was
# *measured*? Which figure of the *old* network, one for each of the two diseases, would have decided, and what would it
# show in either case? And which training runs would you add to find out which part of the treatment worked: with which
# learning rates?

# %% text one_cure_three_changes [markdown]
# The cure confirms that the network can be trained in its new form, and nothing about why the old one could not: three
# things were changed at once, the activation, the scale of the weights, and the learning rate. What was measured, a gradient
# that loses about two thirds per layer, is the product of the slope and the weight scale, so weights that are three times too
# small explain it just as well as saturation, with a tanh that is nowhere flat. On the old network I would measure two
# figures. The slope of tanh, one minus the mean squared activation (or the share of saturated units): if it is near 1 nothing
# saturates, if it is far below 1 your name is right. And the scale of the weights, their standard deviation times the root of
# `fan_in`: near 1 it clears the weights, at about a third it convicts them, and then the activation variance also falls from
# layer to layer. For the treatment I would add the crossed runs: tanh with weights of Xavier's scale, and ReLU with its weights
# drawn as before and brought to the old scale. Each of them, and the old and the new network too, at its own best rate from one
# grid, because at one rate for all, or at two rates that somebody liked, I would compare rates. If tanh with good weights
# trains, it was the weights, and ReLU did no more than bring the right rule with it.
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *What it confirms:* several things were changed at once (activation, weights, rate: at least two of them named), so that success does
#   not tell which one worked, nor what was wrong before. ("It could be chance" alone: no point.)
# - *The other disease:* weights that are too small, because the gradient ratio is a product of slope and weight scale. (Half
#   a point without the reason. None for a learning rate that is too small: it does not change a gradient.)
# - *Two figures of the old network, with outcomes:* slope or saturated share, and weight scale (or the forward variance, which stays
#   large when units saturate and falls when weights are small); what they show in either case. (Half a point for one figure,
#   or without outcomes.)
# - *Runs:* at least one crossed run (tanh with good weights, or ReLU with the old scale), and each at its own best rate of one
#   grid. (Half a point for the crossed run without a word on the rates.)
#
# Take off one point, once, for "measure the gradient again": both diseases agree on it.

# %% [markdown]
# ## Exercise 5 · First, do no harm
#
# *25 minutes · hard · 3 points*
#
# `signals.measure` has been doing this for you. Now write it yourself. `model` is an `nn.Sequential`; `loss_fn(outputs,
# targets)` is one number. Return an array `(len(model),)`: for each layer, the norm over the whole batch of the gradient of the loss
# with respect to *the layer's output*, the output as that layer returned it. Where none comes (the output asks for
# no gradient, or its way to the loss is cut), it is NaN, not 0.
#
# And the patient leaves as it came: in its mode, with its weights and running statistics, with what was in
# `.grad`, and with no hook that was not there before. Two things to know: a batch norm in training mode keeps a record of
# every batch it sees, and an `nn.ReLU(inplace=True)` writes over the output of the layer below it.


# %% answer message_norms
def message_norms(model, inputs, targets, loss_fn):
    """Norms of the gradients at the outputs of all layers: an array (len(model),)."""
    ### BEGIN SOLUTION
    outputs = [inputs]
    for layer in copy.deepcopy(model):  # whatever happens now happens to a copy
        outputs.append(layer(outputs[-1].clone()))  # what works in place writes over a clone
    asked = [k for k, output in enumerate(outputs) if k > 0 and output.requires_grad]
    loss = loss_fn(outputs[-1], targets)
    found = torch.autograd.grad(loss, [outputs[k] for k in asked], allow_unused=True)
    norms = np.full(len(outputs), np.nan)
    for k, gradient in zip(asked, found, strict=True):
        norms[k] = np.nan if gradient is None else gradient.norm().item()
    return norms[1:]
    ### END SOLUTION


# %% check message_norms
checks.message_norms(message_norms)
### BEGIN HIDDEN TESTS
checks.message_norms(message_norms, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 6 · Who lost the decades?
#
# *25 minutes · expert · 4 points*
#
# Slope or weights? In the lesson a second figure decided, and the two were compared by eye. But the loss can be *shared
# out*, exactly. Going back through an activation and then through a weight matrix, the norm of the gradient is multiplied twice,
# and the logarithms of what it is multiplied by add up.
#
# `model` is an `nn.Sequential` of hidden layers and a last `nn.Linear` that reads out. A hidden layer is `nn.Linear`, then
# perhaps `nn.BatchNorm1d`, then an activation module (Tanh, Sigmoid, ReLU, ...). Look at the way back from the output
# of the *last* activation to the output of the *first*. How many decades (powers of ten) does the norm of the gradient, over the whole
# batch, lose in the weights, and how many in the slopes? A gain is a negative loss.
#
# One thing more. Make every weight of a normalized layer ten times larger: nothing changes in what the network computes, so the blame may not
# change either. Batch norm stands on the side of the account on which this holds.


# %% answer lost_decades
def blame(model, inputs, targets, loss_fn):
    """Decades lost in the weights, decades lost in the slopes: two numbers, in this order."""
    ### BEGIN SOLUTION
    norms = np.log10(message_norms(model, inputs, targets, loss_fn))
    straight = [isinstance(layer, nn.Linear | nn.BatchNorm1d) for layer in model]
    first, last = straight.index(False), len(straight) - 1 - straight[::-1].index(False)
    lost = [0.0, 0.0]
    for k in range(first + 1, last + 1):  # through layer k, from its output back to its input
        lost[0 if straight[k] else 1] += norms[k] - norms[k - 1]
    return lost[0], lost[1]
    ### END SOLUTION


# %% check lost_decades
checks.lost_decades(blame)
### BEGIN HIDDEN TESTS
checks.lost_decades(blame, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Five networks of twelve layers on the account. **Predict** before you run it: what do the slopes of a ReLU cost per layer? Who is to
# blame in the network with batch norm?


# %%
def network(activation, gain, normed=False):
    rng, layers, fan_in = data.seeded_generator(3), [], 64
    for _ in range(12):
        linear = nn.Linear(fan_in, 96, bias=False, dtype=torch.float64)
        nn.init.normal_(linear.weight, 0, gain / fan_in**0.5, generator=rng)
        layers += [linear, nn.BatchNorm1d(96, dtype=torch.float64)][: 1 + normed] + [activation]
        fan_in = 96
    readout = nn.Linear(96, 10, bias=False, dtype=torch.float64)
    nn.init.normal_(readout.weight, 0, 0.1, generator=rng)
    return nn.Sequential(*layers, readout)


# %% [markdown]
# Decades per layer that it crosses (eleven of them):

# %%
for name, model in {
    "sigmoid, Xavier": network(nn.Sigmoid(), 1.0),
    "tanh, small": network(nn.Tanh(), 0.25),
    "tanh, large": network(nn.Tanh(), 3.0),
    "ReLU, He": network(nn.ReLU(), 2**0.5),
    "ReLU, batch norm": network(nn.ReLU(), 2**0.5, normed=True),
}.items():
    weights, slopes = blame(model, images, classes, F.cross_entropy)
    per_layer = [round(decades / 11, 2) + 0.0 for decades in (weights, slopes)]  # + 0.0: no "-0.00"
    print(f"{name:17} weights {per_layer[0]:5.2f}   slopes {per_layer[1]:4.2f}")

# %% [markdown]
# <details><summary>What it shows</summary>
#
# The same symptom twice (sigmoid, small tanh), and the account names two culprits. Large weights with tanh: the weights
# give 0.48, and the slopes take 0.34 of it back, so that SCALE alone shows less than half of either. ReLU costs half of a squared gradient, $\log_{10}\sqrt 2 = 0.15$ per
# layer, and He's weights pay exactly that. With batch norm the slopes cost the same 0.15, but weights and norm together pay
# more. That surplus, 0.09 per layer, is the growth of lesson 05: $\log_{10} 1.21 = 0.08$ in wide networks.
#
# </details>
