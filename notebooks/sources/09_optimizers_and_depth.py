# %% [markdown]
# # 09 · Optimizers and depth
#
# > **Is deeper better, and can a better optimizer save a sick network?**
#
# After this lesson you will be able to
#
# - write momentum, RMSProp and Adam in a few lines each, and show that they are PyTorch's;
# - say how far Adam carries a vanished gradient, and name the two floors where it does not: ε, and noise;
# - tell a network whose gradient vanishes from one with a bottleneck, whose loss is stuck as well;
# - read under- and overfitting from two curves, and treat the second with L1, L2, early stopping and dropout;
# - say what dropout does to the variance of a deep network, and answer "how deep?" by cross-validation.
#
# **Before this:** [02 · Sigmoid saturation](02_sigmoid_saturation.ipynb) and
# [04 · Initialization](04_initialization.ipynb). Where lessons 05 to 08 are mentioned, you can do without them.
# **Time:** about 120 minutes, of which 50 are reading.

# %%
import dataclasses
import math
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import data, explorers, initialization, networks, plots, session, signals, theory
from gradients_in_depth.training import sweep, train

session.start(seed=0)

# %% [markdown]
# ## 1 · By hand: one weight, one step
#
# Gradient descent moves a weight by `learning rate · gradient`. If the gradient is ten thousand times smaller, so is the
# step: this is why a vanished gradient hurts. Adam divides the gradient by an estimate of its own size. After one step this
# estimate is $|g|$ itself:
#
# $$\text{step} = \text{lr} \cdot \frac{g}{|g| + \varepsilon}, \qquad \varepsilon = 10^{-8}.$$
#
# With lr = 0.001 and $g = 1$ that is 0.001. **Predict** the step for $g = 10^{-4}$, for $g = 10^{-8}$, and for
# $g = 10^{-12}$.


# %%
def first_step(optimizer, gradient):
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    w.grad = torch.full_like(w, gradient)
    optimizer([w], lr=0.001).step()
    return -w.item()
for gradient in (1.0, 1e-4, 1e-8, 1e-12):
    sgd, adam_step = (first_step(optimizer, gradient) for optimizer in (torch.optim.SGD, torch.optim.Adam))
    print(f"gradient {gradient:5.0e}: step of SGD {sgd:.2g}, of Adam {adam_step:.2g}")
    assert math.isclose(adam_step, theory.adam_first_step(gradient), rel_tol=1e-9)

# %% [markdown]
# **What you should see.** Down to about $10^{-8}$ Adam's step does not depend on the gradient's size. At
# $g = \varepsilon$ it is half, and below that it falls as SGD's does, only from a higher place. So Adam might cure a
# vanishing gradient, down to a floor. First let us look inside.

# %% [markdown]
# ## 2 · Momentum, RMSProp, Adam: a few lines each
#
# **Momentum** (Polyak, 1964) walks along a sum of all gradients so far, in which each counts 0.9 times as much as the next
# one: what changes its sign from step to step cancels, and what stays adds up, to ten times itself. Each function changes
# one weight tensor, and keeps what it must remember in `state`.


# %%
@torch.no_grad()
def momentum(w, state, lr, beta=0.9):
    state["v"] = beta * state.get("v", 0) + w.grad
    w -= lr * state["v"]


# %% [markdown]
# **RMSProp** (Hinton, 2012, in a lecture) divides by the root of an average of the *squared* gradients: each weight gets a
# step of its own size.


# %%
@torch.no_grad()
def rmsprop(w, state, lr, alpha=0.99, eps=1e-8):
    state["s"] = alpha * state.get("s", 0) + (1 - alpha) * w.grad**2
    w -= lr * w.grad / (state["s"].sqrt() + eps)


# %% [markdown]
# **Adam** (Kingma and Ba, 2015) does both. Its two averages start at 0, so that after $t$ steps they have filled up only to
# $1 - \beta^t$ of their value; dividing by it is the *bias correction*.


# %%
@torch.no_grad()
def adam(w, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    state["t"] = t = state.get("t", 0) + 1
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * w.grad
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * w.grad**2
    m, v = state["m"] / (1 - beta1**t), state["v"] / (1 - beta2**t)
    w -= lr * m / (v.sqrt() + eps)


# %% [markdown]
# Are they PyTorch's? Two copies of one network, 100 steps on the digits, the same mini-batches, and after every step the
# largest difference between any two weights.

# %%
digits = data.digits(dtype=torch.float64)


def gradients(model, batch):
    model.zero_grad()
    F.cross_entropy(model(digits.train_inputs[batch]), digits.train_targets[batch]).backward()


# %% [markdown]
# Our functions take one weight after the other; PyTorch's take all of them.

# %%
def largest_difference(ours, theirs, lr, steps=100):
    mine, other = (networks.DeepMLP(3, 16, seed=0, dtype=torch.float64) for _ in range(2))
    states, optimizer, largest = [{} for _ in mine.parameters()], theirs(other.parameters(), lr=lr), 0.0
    for batch in torch.randint(1347, (steps, 64), generator=data.seeded_generator(0)):
        gradients(mine, batch)
        gradients(other, batch)
        optimizer.step()
        for w, state in zip(mine.parameters(), states, strict=True):
            ours(w, state, lr)
        pairs = zip(mine.parameters(), other.parameters(), strict=True)
        largest = max(largest, *((a - b).abs().max().item() for a, b in pairs))
    return largest


# %% [markdown]
# The learning rates are ordinary ones.

# %%
pairs = {
    "momentum": (momentum, lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.9), 0.05),
    "RMSProp": (rmsprop, torch.optim.RMSprop, 0.005),
    "Adam": (adam, torch.optim.Adam, 0.005),
}
for name, (ours, theirs, rate) in pairs.items():
    same = largest_difference(ours, theirs, rate) < 1e-6
    print(f"{name:>8}: 100 steps, every weight equal to torch.optim's to 1e-6: {same}")
    assert same

# %% [markdown]
# ### What the bias correction corrects
#
# **Predict.** Without it both averages are too small at first. Is Adam's first step then too small, or too large?

# %%
steps, m, v, sizes = np.arange(1, 2001), 0.0, 0.0, []
for _ in steps:  # a gradient of 1, and no correction
    m, v = 0.9 * m + 0.1, 0.999 * v + 0.001
    sizes.append(m / math.sqrt(v))
law = [theory.adam_uncorrected_factor(step) for step in steps.tolist()]

# %%
some = np.unique(np.geomspace(1, 2000, 24).astype(int))
ax = plots.curve(some, np.array(sizes)[some - 1], label="Adam without bias correction", log_x=True)
plots.curve(steps, law, kind="theory", label="theory", xlabel="step", ylabel="step / learning rate", ax=ax)
ax.set_ylim(0, 8);

# %% [markdown]
# In numbers, and beside it PyTorch's RMSProp:

# %%
first, worst = sizes[0], int(np.argmax(sizes))
ten = first_step(torch.optim.RMSprop, 1.0) / 0.001
print(f"first step: {first:.3g} learning rates; largest, at step {steps[worst]}: {sizes[worst]:.3g}")
print(f"RMSProp in PyTorch, which has no correction: first step {ten:.3g} learning rates")
assert worst == 11 and abs(first - 3.16) < 0.01 and abs(sizes[worst] - 6.57) < 0.01 and abs(ten - 10) < 0.01

# %% [markdown]
# **What you should see.** Too *large*: 3.16 times in the first step, and 6.57 times in the twelfth. (One often reads "too
# small".) **Why.** The average of the gradients is a tenth of its value, but the *root* of the average of squares is
# $\sqrt{0.001} = 0.032$ of its value, and one divides by it:
#
# $$\frac{1 - \beta_1^t}{\sqrt{1 - \beta_2^t}} .$$
#
# PyTorch's RMSProp begins with a step of ten learning rates for the same reason.

# %% [markdown]
# ## 3 · Where Adam helps: a gradient that is small, and nothing else
#
# Ten tanh layers whose weights are too small: $\sigma_w = 0.3$, no biases at the start. By lesson 04 each layer leaves 0.3 of
# the gradient's norm.
#
# **Predict.** Each optimizer at its own best rate from one grid of four decades. Which leave the cost of guessing,
# 2.303: SGD? Momentum? RMSProp? Adam?


# %%
def tanh_network(depth, sigma_w, width=24):
    settings = {"initialization": "gaussian", "gain": sigma_w, "dtype": torch.float64}
    return lambda seed: networks.DeepMLP(depth, width, seed=seed, **settings)


# %% [markdown]
# The plan, the same for all networks of sections 3 to 6:

# %%
grid = (0.0003, 0.003, 0.03, 0.3, 3.0)
plan = {"learning_rates": grid, "seeds": range(3), "epochs": 4, "batch_size": 75}

# %% [markdown]
# And who is compared:

# %%
names = {"SGD": "sgd", "momentum": "momentum", "RMSProp": "rmsprop", "Adam": "adam"}
small = tanh_network(10, 0.3)

# %% [markdown]
# Four optimizers, five rates, three seeds. (`parallel_map` gives what a loop over the names would give, on several cores
# at a time.)

# %%
rescued = session.parallel_map(lambda name: sweep(small, digits, optimizer=names[name], **plan), names)

# %% [markdown]
# And beside them, what lesson 04 would do: momentum, from $\sigma_w = 1$.

# %%
rescued["momentum, σ_w = 1"] = sweep(tanh_network(10, 1.0), digits, optimizer="momentum", **plan)
ax = plots.sweeps(rescued, chance=math.log(10), log_y=False)
ax.set_ylim(0, 4.4)
ax.get_legend().set_loc("upper right")

# %% [markdown]
# SGD and momentum, loss of the last epoch at all rates of the grid, median of the seeds:

# %%
for name in ("SGD", "momentum"):
    losses = np.median(rescued[name].loss_by_epoch[:, :, -1], axis=1)
    print(f"{name:>8}:", ", ".join(f"{loss:.3g}" if loss < 10 else "above 10" for loss in losses))
    assert losses[:4].min() > 2.29 and losses[:4].max() < 2.33 and (losses[4] > 10) == (name == "momentum")


# %% [markdown]
# One number for each, which we need again below:

# %%
def last_loss(run):
    """Training loss of the last epoch at the best rate, median of the seeds."""
    return float(np.median(run.loss_by_epoch[run.best, :, -1]))


# %%
for name, run in rescued.items():
    print(f"{name:>17}: loss {last_loss(run):.2g} at rate {run.learning_rates[run.best]:g}")
assert last_loss(rescued["SGD"]) > 2.29 and last_loss(rescued["momentum"]) > 2.29
assert last_loss(rescued["RMSProp"]) < 2 and last_loss(rescued["Adam"]) < 2
assert last_loss(rescued["momentum, σ_w = 1"]) < 0.7

# %% [markdown]
# **What you should see.** SGD stays at 2.3 at every rate; so does momentum, but for the largest, at which it explodes. One
# rate has to serve all layers, and the gradient of the first is here 50 000 times smaller than that of the last (section 6
# measures it). RMSProp and Adam leave, because they give every weight a step of its own size.
# So a better optimizer *can* save a sick network. But compare the last line: the right start costs nothing, and does
# much more in the same four epochs. **Adam treats the symptom. An initialization removes the cause.**

# %% [markdown]
# ## 4 · The first floor: ε
#
# Make the network sicker: thirty tanh layers, $\sigma_w$ from 1 down to 0.35. In each, look at the weights of layer 1: their
# typical gradient, and the first step that Adam takes with it.
#
# **Predict.** The gradients will span more than ten decades. And the steps?


# %%
def gradient_and_step(sigma_w, seed, depth=30):
    """Median |gradient| and median |first step of Adam| of the weights in layer 1."""
    model = tanh_network(depth, sigma_w)(seed)
    w = model.blocks[0].linear.weight
    before = w.detach().clone()
    gradients(model, torch.arange(75))
    torch.optim.Adam(model.parameters(), lr=0.001).step()
    return w.grad.abs().median().item(), (w - before).abs().median().item()


# %% [markdown]
# Twenty-seven networks, and the formula of section 1:

# %%
scales = np.linspace(1, 0.35, 9)
measured = np.array([gradient_and_step(s, seed) for s in scales for seed in range(3)])
measured = measured[measured[:, 0].argsort()]

# %%
size = np.geomspace(1e-18, 1e-2, 100)
ax = plots.curve(*measured.T, label="layer 1 of 27 networks", log_x=True, log_y=True)
plots.curve(size, theory.adam_first_step(size), kind="theory", label="theory", ax=ax)
plots.guide(ax, 1e-8, "ε", vertical=True)
ax.set(xlabel="typical gradient", ylabel="step, at lr = 0.001", ylim=(1e-13, 0.1));

# %% [markdown]
# The two ends in numbers:

# %%
for gradient, step in measured[[0, -1]]:
    law = theory.adam_first_step(gradient)
    print(f"gradient {gradient:.0e}: step {step:.0e}, theory {law:.0e}")
    assert abs(math.log(step / law)) < 0.01

# %% [markdown]
# **What you should see.** All steps are equal down to about $10^{-8}$, and below that Adam is SGD, with a learning rate of
# lr/ε. (The median of the steps is the step of the median: the formula never falls.)
#
# The floor is a setting, so it can be moved: a smaller ε, or, which is the same, a larger loss. Multiply the loss by
# $10^{10}$ and every $g$ grows by that factor: Adam's step does not notice, but for ε, which is now $10^{10}$ times smaller.
#
# **Predict.** Twenty layers with $\sigma_w = 0.2$: a typical gradient is far below ε. Does Adam train them? And with
# the larger loss?


# %%
def loud(outputs, targets):
    return 1e10 * F.cross_entropy(outputs, targets)


# %% [markdown]
# How sick it is:

# %%
sicker, typical = tanh_network(20, 0.2), gradient_and_step(0.2, seed=0, depth=20)[0]
print(f"typical gradient in layer 1: {typical:.0e}")
assert typical < 1e-14

# %% [markdown]
# Twice Adam; only the loss is louder the second time (and divided again, to be compared).

# %%
floors = {"ε = 1e-8": sweep(sicker, digits, optimizer="adam", **plan)}
run = sweep(sicker, digits, optimizer="adam", loss_fn=loud, **plan)
floors["loss · 1e10"] = dataclasses.replace(run, train_loss=run.train_loss / 1e10)

# %% [markdown]
# All rates, not only the best:

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: in the digits shown another processor may differ. The assertions hold on all.
for name, run in floors.items():
    for rate, loss in zip(grid, run.loss_by_epoch[:, :, -1], strict=True):
        spread = f"({min(loss):.2g} to {max(loss):.2g})"
        print(f"{name:>11}, rate {rate:g}: loss {np.median(loss):.2g} {spread}")
stuck, freed = (run.loss_by_epoch[1, :, -1] for run in floors.values())  # at 0.003
assert (stuck > 2.29).all() and (freed < 2.25).all()

# %% [markdown]
# **What you should see.** At 0.003, the rate at which Adam works elsewhere, all three seeds stay at 2.3, and all three
# leave with the larger loss. (A larger rate makes up for some of it: below ε the step is lr/ε · g.) In mixed precision
# one scales the loss for the same reason one floor lower, where the number format gives up.
#
# All of this in float64. In float16 or float32 the gradient may be exactly 0 long before, and nothing can be divided by that.

# %% [markdown]
# ## 5 · The second floor: noise
#
# A mini-batch gradient is a signal (the mean over all images) plus noise (the luck of the batch). Call $s$ the size of the
# signal over that of the noise. Adam divides by the root of the mean square, and the noise counts in it:
#
# $$\text{mean step} = \text{lr}\, \frac{s}{\sqrt{1 + s^2}}, \qquad
# \text{spread of a step} = \text{lr}\, \sqrt{\frac{1 - \beta_1}{1 + \beta_1}}\; \frac{1}{\sqrt{1 + s^2}} .$$
#
# **Predict.** $s = 0$: the gradient is nothing but noise. How large are Adam's steps: (a) 0; (b) about a quarter of the
# learning rate; (c) all of it?


# %%
def noisy_steps(signal, weights=500, steps=600):
    """Steps of torch's Adam, learning rate 1, for independent weights: (300, weights), the later half."""
    w = torch.zeros(weights, dtype=torch.float64, requires_grad=True)
    optimizer, places = torch.optim.Adam([w], lr=1.0), []
    for noise in data.gaussian_batch(steps, weights, seed=0):
        w.grad = signal + noise
        optimizer.step()
        places.append(w.detach().clone())
    return -torch.stack(places).diff(dim=0)[steps // 2 - 1 :]


# %% [markdown]
# Mean and spread against $s$, for 500 independent weights:

# %%
signal = np.geomspace(0.01, 10, 10)
runs = [noisy_steps(s) for s in signal]
mean, spread = theory.adam_noisy_step(signal)
ax = plots.curve(signal, [run.mean().item() for run in runs], label="mean step", log_x=True, log_y=True)
plots.curve(signal, mean, kind="theory", label="theory", ax=ax)
plots.curve(signal, [run.std().item() for run in runs], label="spread of a step", ax=ax)
plots.curve(signal, spread, kind="theory", label="theory", ax=ax)
ax.set(xlabel="signal / noise", ylabel="in learning rates", ylim=(0.003, 3));

# %% [markdown]
# And at $s = 0$: one step, and how far from the start 300 steps come.

# %%
walk = noisy_steps(0.0)
spread, far = walk.std().item(), walk.sum(dim=0).std().item()
print(f"no signal: spread of a step {spread:.2g} learning rates, theory {theory.adam_noisy_step(0.0)[1]:.2g}")
print(f"300 steps: {far:.2g} learning rates, √300 = {math.sqrt(300):.2g}")
assert abs(spread - 0.229) < 0.01 and abs(far / math.sqrt(300) - 1) < 0.1

# %% [markdown]
# **What you should see.** Answer (b), 0.23, *however small the noise is*. Adam cannot know that there is nothing to
# follow, and walks at random. In $T$ steps a random walk comes $\text{lr} \sqrt T$ far (what a gradient adds is spread
# over several steps, but adds up to one), and the signal $\text{lr}\, s\, T$. So the signal wins after about $1/s^2$
# steps: 100 for $s = 0.1$, a million for $s = 0.001$. This is the noise floor. No ε moves it.
#
# ### Where does a network have it?
#
# Take two networks of 16 layers with small gradients: one with small weights ($\sigma_w = 0.5$) and no biases, and one
# with biases ($\sigma_w^2 = \tfrac13$ and $\sigma_b^2 = \tfrac1{72}$, much like PyTorch's default at width 24). By
# lesson 04 both are ordered. But in the second the biases are the same for all images, and in the end they drown the
# difference between two of them.
#
# To be fair, both start where training gets in a few steps: the readout's bias is set so that each class gets, on
# average, the probability of its frequency. Then we ask Adam what it *would* do: 300 mini-batches, no step taken.


# %%
def ordered_network(weight_var, bias_var, seed, depth=16):
    settings = {"initialization": "gaussian", "gain": math.sqrt(weight_var), "bias_var": bias_var}
    model = networks.DeepMLP(depth, 24, seed=seed, dtype=torch.float64, **settings)
    with torch.no_grad():
        scores = model(digits.train_inputs)
        frequency = torch.bincount(digits.train_targets) / len(digits.train_targets)
        model.readout.bias += frequency.log() - scores.mean(dim=0)
    return model.requires_grad_(False)


# %% [markdown]
# The gradients of all mini-batches at once, and of each weight its signal over its noise, by which theory knows how far
# Adam goes the right way.


# %%
def mini_batch_gradients(model, count=300):
    """One tensor (count, rows, columns) for each layer, and the gradients over all images."""
    weights = {f"blocks.{k}.linear.weight": b.linear.weight for k, b in enumerate(model.blocks)}

    def loss(weights, images, labels):
        return F.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels)

    images, labels = digits.train_inputs, digits.train_targets
    batch = torch.randint(len(images), (count, 75), generator=data.seeded_generator(1))
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, images[batch], labels[batch])
    return list(each.values()), list(torch.func.grad(loss)(weights, images, labels).values())


# %% [markdown]
# Adam's steps, with ε out of the way, add up in a weight that the network does not see. What is useful is their mean in the
# direction of the signal.

# %%
def useful_step(each, whole):
    """In one layer: mean step of Adam in the direction of the signal, measured and by theory."""
    each, whole = each[:, whole != 0], whole[whole != 0]  # blank pixels have no gradient
    w = torch.zeros_like(whole, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=1.0, eps=1e-30)
    for w.grad in each:
        optimizer.step()
    ratio = (whole.abs() / (each - whole).square().mean(dim=0).sqrt()).numpy()
    return (-w * whole.sign()).mean().item() / len(each), theory.adam_noisy_step(ratio)[0].mean()


# %% [markdown]
# Four seeds of each. **Predict:** which of the two networks, and which of its layers, gives Adam something to follow?

# %%
kinds = {"small weights": (0.25, 0.0), "with biases": (1 / 3, 1 / 72)}
useful, norms = {}, {}
for name, (weight_var, bias_var) in kinds.items():
    found = [mini_batch_gradients(ordered_network(weight_var, bias_var, seed)) for seed in range(4)]
    useful[name] = np.array([[useful_step(*layer) for layer in zip(*run, strict=True)] for run in found])
    norms[name] = np.array([[whole.norm().item() for whole in run[1]] for run in found])

# %% [markdown]
# Left the size of the signal, right the useful part of Adam's step, in learning rates.

# %%
axes = plt.subplots(1, 2)[1]
for name in kinds:
    plots.layers(norms[name], label=name, ylabel="weight gradient, all images", ax=axes[0])
    plots.layers(useful[name][..., 0], label=name, log_y=False, ax=axes[1])
    law = np.median(useful[name][..., 1], axis=0)
    plots.layers(law, kind="theory", label="theory", log_y=False, ax=axes[1])
axes[1].set(ylabel="useful part of Adam's step", ylim=(-0.1, 1.2))
axes[0].get_legend().remove()

# %% [markdown]
# The first layer and the last:

# %%
for name in kinds:
    measured, law = np.median(useful[name], axis=0).T
    print(f"{name:>13}: layer 1 {measured[0]:.1g} of the rate (theory {law[0]:.1g}), ", end="")
    print(f"layer 16 {measured[-1]:.1g} (theory {law[-1]:.1g})" if law[-1] > 0.05 else "layer 16 below 0.05")
    assert np.abs(measured - law).max() < 0.1
    assert measured.min() > 0.5 if name == "small weights" else measured[0] > 0.5 > 0.05 > measured[-1]
signals_by_layer = [np.median(norms[name], axis=0) for name in kinds]
assert (signals_by_layer[1] > 4 * signals_by_layer[0]).all()

# %% [markdown]
# **What you should see.** Left: both signals are small, and that of the small weights is the smaller one, by a factor
# of four or more. Right: it is the one that Adam can use, in every layer. With biases the *first* layers take useful
# steps, too; but in the last ones hardly anything of the step is useful. Nearly all of it is noise, at full size.
#
# **Why.** A weight gradient is $\sum_i \delta_i\, h_i^\top$ over the images. If all $h_i$ are nearly the same $h$, it is
# $(\sum_i \delta_i)\, h^\top$, and over *all* images the errors of a network that guesses the frequencies sum to 0; over a
# mini-batch they do not. The signal is in the differences between the $h_i$, and of those little is left.
# **Adam restores sizes, not information.**
#
# ### Explore: optimizer, learning rate, depth
#
# The smallest deep network there is: a product of weights that starts at $0.5^L$ and should become 1. Find both floors.

# %% tags=["explorer"]
explorers.optimizer_chain()

# %% [markdown]
# ## 6 · Misdiagnosis: the waist
#
# A colleague's network of ten tanh layers is far above zero when others are done, at every learning rate. "Vanishing
# gradient," she says. She has copied the sizes of its layers from a table: 24, 24, 24, **1**, 24, 24 …, a misprint that
# nobody noticed.
#
# **Predict.** Which of the four panels of the dashboard can tell her network from the one with small weights?


# %%
def with_waist(seed, waist=1, sigma_w=1.0):
    """Ten tanh layers of 24 units, but for the fourth."""
    model = tanh_network(10, sigma_w)(seed)
    generator = data.seeded_generator(100 + seed)
    for k, (fan_in, fan_out) in {3: (24, waist), 4: (waist, 24)}.items():
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        initialization.initialize(linear, "gaussian", gain=sigma_w, generator=generator)
        model.blocks[k].linear = linear
    return model


# %% [markdown]
# The dashboard for one network:

# %%
images, labels = digits.train_inputs[:75], digits.train_targets[:75]


def examine(model):
    """Draw the dashboard; singular values that are rounding are drawn at 1e-12. Returns both measurements."""
    found = signals.measure(model, images, labels, loss_fn=F.cross_entropy, layers=networks.Block)
    spectrum = np.maximum(signals.jacobian_singular_values(model, images[0]), 1e-12)
    axes = plots.dashboard(found, spectrum)
    plots.snap(axes[2], (1e-13, 10))
    return found, spectrum


# %% [markdown]
# The network with small weights, from section 3:

# %%
small_found, small_spectrum = examine(small(0))

# %% [markdown]
# And hers:

# %%
waist_found, waist_spectrum = examine(with_waist(0))

# %% [markdown]
# In numbers:

# %%
patients = {"small weights": (small_found, small_spectrum), "waist": (waist_found, waist_spectrum)}
for name, (found, values) in patients.items():
    norm, left = found.series("activation_gradient_norm"), np.sum(values > 1e-11)
    kept = norm[0] / norm[-1]
    assert np.abs(found.series("cosine")).max() < 0.05  # CORRELATION
    print(f"{name:>13}: gradient, layer 1 / layer 10 {kept:.1g}; {left} of 10 singular values left")
    assert (0.1 < kept < 0.4 and left == 1) if name == "waist" else (1e-6 < kept < 1e-4 and left == 10)

# %% [markdown]
# **What you should see.** SCALE tells that her gradient is healthy: it keeps a fifth of its norm, where the other keeps
# 2e-5 of it. And SPECTRUM tells what is wrong: **one** singular value, and nine that are 0 but for rounding (drawn at
# $10^{-12}$). CORRELATION says nothing here: at the waist two inputs are either equal or opposite in direction, and on
# average that is 0.
#
# **Why.** The rank of a product of matrices is at most that of its smallest factor. Whatever the image, the ten outputs move
# along one curve. (In principle ten classes could lie on that curve one after the other. Gradient descent is not good at
# finding such an order.)
#
# So momentum as before, and three treatments, for both patients, each at its own best rate of the same grid. Three of the
# eight results you have seen in section 3: small weights with momentum 2.3, with Adam 1.9, and with larger weights
# ($\sigma_w = 1$) 0.47. **Predict** the other five.

# %%
treated = {("small weights", "momentum"): rescued["momentum"], ("small weights", "Adam"): rescued["Adam"]}
healthy = rescued["momentum, σ_w = 1"]
treated["small weights", "larger weights"] = healthy
treated["small weights", "wider"] = sweep(tanh_network(10, 0.3, 48), digits, optimizer="momentum", **plan)

# %% [markdown]
# Now the waist: a larger $\sigma_w$, or 24 units in place of one.

# %%
cures = {"momentum": {}, "Adam": {}, "larger weights": {"sigma_w": 1.5}, "wider": {"waist": 24}}
for cure, change in cures.items():
    optimizer = "adam" if cure == "Adam" else "momentum"
    treated["waist", cure] = sweep(partial(with_waist, **change), digits, optimizer=optimizer, **plan)

# %% [markdown]
# Training loss after four epochs:

# %%
for cure in cures:
    small_weights, waist = (last_loss(treated[name, cure]) for name in patients)
    print(f"{cure:>15}: small weights {small_weights:.2g}, waist {waist:.2g}")
ends = {key: last_loss(run) for key, run in treated.items()}
assert ends["small weights", "larger weights"] < 0.7 and ends["small weights", "wider"] > 2.2
assert all(ends["waist", cure] > 1.2 for cure in cures if cure != "wider") and ends["waist", "wider"] < 0.8

# %% [markdown]
# **What you should see.** The two columns are mirror images. What cures small weights (Adam a little, larger weights
# much) leaves the waist about where it was; the width that cures the waist does nothing for small weights. The
# complaint was the same. Depth cannot make up for width: what one layer has thrown away, no later layer brings back.
#
# (It need not be a misprint. An embedding of too few numbers, a pooling layer too early, a narrow layer without a skip around
# it: each is a waist.)

# %% [markdown]
# ## 7 · Two errors
#
# So far we looked at the *training* loss: can the network learn at all? What one wants is a low loss on images it has
# never seen. To see the difference clearly, take only 150 training images, two hidden ReLU layers, He's start, Adam, 60
# epochs. The validation images come in two halves; the second is for later.

# %%
half = len(digits.validation_inputs) // 2
few = (digits.train_inputs[:150], digits.train_targets[:150])
choose = data.Split(*few, digits.validation_inputs[:half], digits.validation_targets[:half])
report = data.Split(*few, digits.validation_inputs[half:], digits.validation_targets[half:])

# %% [markdown]
# One grid of rates for all widths:

# %%
course = {"learning_rates": (0.0003, 0.001, 0.003, 0.01), "seeds": range(5), "epochs": 60, "batch_size": 25}


# %% [markdown]
# The network, for any width and depth:

# %%
def relu_network(width, depth=2):
    settings = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64}
    return lambda seed: networks.DeepMLP(depth, width, seed=seed, **settings)


# %% [markdown]
# **Predict.** Networks from 2 to 64 units per layer. Which of them has the highest validation loss?

# %% [markdown]
# Four rates, five seeds, each width:

# %%
widths = (2, 8, 24, 64)
by_width = session.parallel_map(lambda n: sweep(relu_network(n), choose, optimizer="adam", **course), widths)

# %% [markdown]
# Three of the four, at the rate 0.01, at which the training loss gets lowest, over the epochs:

# %%
axes, epochs = plt.subplots(1, 3, sharey=True)[1], np.arange(1, 61)
for ax, width in zip(axes, (2, 8, 64), strict=True):
    run = by_width[width]
    both = {"training": run.loss_by_epoch[-1], "validation": run.validation_loss[-1, :, 1:]}
    for label, loss in both.items():
        plots.curve(epochs, loss, label=label, xlabel="epoch", kind="line", log_y=True, ax=ax)
    ax.set(title=f"{width} units", ylabel="loss" if width == 2 else "", ylim=(1e-4, 10))
    ax.get_legend().set_loc("lower left") if width == 2 else ax.get_legend().remove()

# %% [markdown]
# All four at that rate, after the last epoch, and the lowest validation loss on the way, with the number of parameters:

# %%
def parameters(depth, width):
    return sum(p.numel() for p in networks.DeepMLP(depth, width).parameters())


# %%
ends = {}
for width, run in by_width.items():
    training, validation = (np.median(x[-1, :, -1]) for x in (run.loss_by_epoch, run.validation_loss))
    lowest = np.median(run.validation_loss[-1].min(axis=1))
    assert training == np.median(run.loss_by_epoch[:, :, -1], axis=1).min()
    ends[width] = training, validation, lowest
    print(f"{width:2d} units, {parameters(2, width):4d} parameters: training {training:.2g}, ", end="")
    print(f"validation {validation:.2g}, lowest {lowest:.2g}")
assert ends[2][0] > 1 and ends[64][0] < 0.001 and ends[64][1] > 1.1 * ends[64][2]
assert abs(parameters(2, 64) / 150 - 60) < 1


# %% [markdown]
# But one rate need not suit all widths. So each at its own best:

# %%
def best_rate(run):
    """Row of the rate with the lowest validation loss at the end, and the five losses it has."""
    row = int(np.argmin(np.median(run.validation_loss[:, :, -1], axis=1)))
    return row, run.validation_loss[row, :, -1]


# %%
for width, run in by_width.items():
    row, losses = best_rate(run)
    low, middle, high = min(losses), np.median(losses), max(losses)
    lowest = np.median(run.validation_loss[row].min(axis=1))
    ends[width] = middle, lowest, low, high
    print(f"{width:2d} units, rate {run.learning_rates[row]:g}: validation {middle:.2g} ", end="")
    print(f"({low:.2g} to {high:.2g}), lowest {lowest:.2g}")
    assert 0 < row < 3  # inside of the grid

# %% [markdown]
# The order of the widths, seed against seed or median against median, and that the largest ends where it was lowest:

# %%
assert ends[2][2] > 1.2 * ends[8][3] and ends[8][2] > 1.2 * ends[64][3] and ends[24][0] > 1.1 * ends[64][0]
assert ends[64][0] < 1.02 * ends[64][1]

# %% [markdown]
# **What you should see.**
#
# - **Underfitting** (2 units): both losses are high, at every rate. It cannot even learn what it has seen.
# - **Overfitting** (64 units, rate 0.01): the training loss goes on to fall by decades, while the validation loss has
#   long stopped, and *rises*. The network gets surer, also where it is wrong.
#
# And a surprise, if you know the textbook curve, a U of the validation loss over the size of the network: from 2 to 64
# units there is none. The largest network, with sixty parameters for each image, has the lowest validation loss (though
# between 24 and 64 units the seeds overlap). Overfitting shows here along the *epochs*, not along the width; and at its
# best rate, a small one, 60 epochs do not go so far: the loss at the end is about the lowest one. That larger networks can
# generalize better has been found again and again (Zhang and others 2017; Belkin and others 2019). So do not choose the
# size in order not to overfit: choose it large enough, and regularize.

# %% [markdown]
# ## 8 · Four treatments for overfitting
#
# - **L2** adds $\tfrac{\lambda}{2} \sum w^2$ to the loss: every step of SGD shrinks each weight in proportion.
# - **L1** adds $\lambda \sum |w|$: every step of SGD shrinks each weight by the same amount, and small ones to about 0.
# - **Dropout** (Srivastava and others, 2014) keeps each unit with probability $p$ and sets it to 0 otherwise, anew for
#   every image. Mind the name: the `p` of PyTorch's `nn.Dropout` is the opposite, the probability that a unit is
#   *dropped*. In this course $p$ is always what is **kept**; in the code it is `keep`, and PyTorch gets `1 - keep`.
# - **Early stopping** takes the network as it was after the epoch with the lowest validation loss.
#
# **Predict.** For L1 and L2 the loss has a U over $\lambda$. What is at its two ends?


# %%
def with_dropout(keep):
    def make(seed):
        model = relu_network(64)(seed)
        first, second = model.blocks
        return nn.Sequential(first, nn.Dropout(1 - keep), second, nn.Dropout(1 - keep), model.readout)

    return make


# %% [markdown]
# The rates of section 7 but for the smallest, which was best for no width:

# %%
rates = {"learning_rates": (0.001, 0.003, 0.01)}

# %% [markdown]
# Three strengths of each treatment, and five seeds as before:

# %%
plain = relu_network(64)
treatments = {("nothing", 0): (plain, {})}
treatments |= {("L2", strength): (plain, {"l2": strength}) for strength in (0.001, 0.01, 0.1)}
treatments |= {("L1", strength): (plain, {"l1": strength}) for strength in (0.0003, 0.003, 0.03)}
treatments |= {("dropout", keep): (with_dropout(keep), {}) for keep in (0.8, 0.5, 0.2)}

# %% [markdown]
# The untreated network was trained in section 7.

# %%
def treat(key):
    make, penalty = treatments[key]
    return sweep(make, choose, optimizer="adam", **(course | rates), **penalty)


results = {("nothing", 0): by_width[64]}
results |= session.parallel_map(treat, [key for key in treatments if key not in results])

# %% [markdown]
# Validation loss after the last epoch, each at its own best rate. The dotted line is the network without treatment.

# %%
axes = plt.subplots(1, 3, sharey=True)[1]
untreated = np.median(best_rate(results["nothing", 0])[1])
xlabels = {"L2": "λ of L2", "L1": "λ of L1", "dropout": "keep probability p"}
for ax, (name, xlabel) in zip(axes, xlabels.items(), strict=True):
    strengths = [strength for kind, strength in results if kind == name]
    losses = np.array([best_rate(results[name, strength])[1] for strength in strengths]).T
    plots.curve(strengths, losses, label="", xlabel=xlabel, log_x=name != "dropout", log_y=True, ax=ax)
    plots.guide(ax, untreated, "")
axes[0].set_ylabel("validation loss");

# %% [markdown]
# In numbers, with the range of the seeds:

# %%
for (kind, strength), run in results.items():
    row, losses = best_rate(run)
    print(f"{kind} {strength:g}, rate {run.learning_rates[row]:g}: {np.median(losses):.2g} ", end="")
    print(f"({min(losses):.2g} to {max(losses):.2g})")

# %% [markdown]
# What the text below says of them:

# %%
middle = {key: np.median(best_rate(run)[1]) for key, run in results.items()}
_, seeds = best_rate(results["nothing", 0])
assert max(middle["L2", 0.01], middle["L1", 0.003]) < min(seeds)
assert all(min(seeds) < middle["dropout", keep] < max(seeds) for keep in (0.8, 0.5))
assert min(middle["L2", 0.1], middle["L1", 0.03], middle["dropout", 0.2]) > 1.1 * untreated

# %% [markdown]
# The best of each kind was chosen on the first half of the validation images, and choosing flatters. So the comparison
# is made on the **second half**, which no choice has seen: each is trained once more from the same seeds. Early stopping
# chooses its epoch on the first half, too.

# %%
table = {}
for kind in ("nothing", "L2", "L1", "dropout"):
    key = min((k for k in results if k[0] == kind), key=middle.get)
    row, _ = best_rate(results[key])
    rate, (make, penalty) = [results[key].learning_rates[row]], treatments[key]
    again = sweep(make, report, optimizer="adam", **(course | {"learning_rates": rate}), **penalty)
    table[kind] = key[1], again.validation_loss[0, :, -1], again.validation_accuracy[0, :, -1]
    if kind == "nothing":
        stop = results[key].validation_loss[row].argmin(axis=1)
        at = 0, np.arange(5), stop
        stopped = again.validation_loss[at], again.validation_accuracy[at]
        table["early stopping"] = int(np.median(stop)), *stopped

# %% [markdown]
# In brackets the strength that was chosen: λ, the keep probability, or the median epoch.

# %%
for kind, (strength, loss, accuracy) in table.items():
    error, low, high = 1 - np.median(accuracy), min(loss), max(loss)
    print(f"{kind:>14} ({strength:g}): loss {np.median(loss):.2g} ({low:.2g} to {high:.2g}), ", end="")
    print(f"errors {error:.0%}")
medians = {kind: np.median(loss) for kind, (_, loss, _) in table.items()}
wrong = {kind: 1 - np.median(accuracy) for kind, (_, _, accuracy) in table.items()}
assert max(medians["L2"], medians["L1"]) < 0.8 * medians["nothing"]
assert max(wrong["L2"], wrong["L1"]) < 0.7 * wrong["nothing"]
low, high = min(table["nothing"][1]), max(table["nothing"][1])
assert low < medians["dropout"] < high and abs(medians["early stopping"] / medians["nothing"] - 1) < 0.1

# %% [markdown]
# **What you should see.** The U of L1 and L2: at λ = 0, off to the left, is the untreated network; towards the right the
# penalty is all that counts, and the network underfits. Between them both lower the loss clearly and about halve the
# errors. Dropout has its untreated end at the right, $p = 1$. At 0.8 and at 0.5 its loss lies within the range of the
# untreated network's seeds (and so does that of the chosen $p$ on the second half): five seeds cannot tell which $p$ is
# better, or whether any helps. At 0.2 it underfits. Early stopping brings nothing, because at the best rate of the
# untreated network the validation loss hardly rises in 60 epochs (section 7). Do not take the ranking for a law: it is one task of many, and a jury of some 220
# images. Take the method: one grid, several seeds, a second half.
#
# What is the difference between L1 and L2, if their losses are alike? Look at the weights of layer 1. Some belong to
# pixels that are the same in all 150 images: such a weight cannot tell one image from another, and says nothing about the
# two penalties. We leave them out.

# %%
varies = few[0].std(dim=0) > 0
print(f"{(~varies).sum()} of {len(varies)} pixels are the same in all 150 images")


# %% [markdown]
# Of the weights that are left:


# %%
def sizes(seed, **penalty):
    """Share of the weights below 2 % of the largest, the largest, and their root mean square."""
    model = plain(seed)
    settings = {"optimizer": "adam", "learning_rate": 0.003, "epochs": 60, "batch_size": 25, "seed": seed}
    train(model, choose, **settings, **penalty)
    weights = model.blocks[0].linear.weight.detach()[:, varies].abs()
    return [(weights < 0.02 * weights.max()).double().mean(), weights.max(), weights.square().mean().sqrt()]


# %% [markdown]
# Medians of three seeds, with the strengths that were chosen:

# %%
for name, penalty in {"L2": {"l2": 0.01}, "L1": {"l1": 0.003}}.items():
    near, largest, rms = np.median([sizes(seed, **penalty) for seed in range(3)], axis=0)
    print(f"{name}: {near:.0%} of the weights are below 2 % of the largest, which is {largest:.1g}; ", end="")
    print(f"root mean square {rms:.2g}")
    assert near > 0.7 and largest > 0.5 if name == "L1" else near < 0.2 and largest < 0.5

# %% [markdown]
# At the same root mean square L1 leaves few weights, and those are larger; L2 leaves many and smaller ones. (The slope of
# L2 is proportional to the weight, and becomes harmless as the weight does; that of L1 is $\pm\lambda$ to the end.)
#
# A trap: with Adam the slope of the penalty is divided by $\sqrt v$ too, so that a weight with large gradients is hardly
# shrunk (exercise 3 measures it). AdamW (Loshchilov and Hutter, 2019) shrinks the weight directly, past the division. For
# SGD without momentum the two are the same.

# %% [markdown]
# ## 9 · Dropout and the variance
#
# PyTorch divides what it keeps by the keep probability $p$ (*inverted* dropout), so that the mean stays as it is and nothing
# needs to be done at evaluation. **Predict.** And the variance: smaller, the same, or larger?
#
# $$\mathbb E[\tilde x] = \mathbb E[x], \qquad \mathbb E[\tilde x^2] = \frac{\mathbb E[x^2]}{p}, \qquad
# \mathrm{Var}[\tilde x] = \frac{\mathrm{Var}[x]}{p} + \mathbb E[x]^2\, \frac{1 - p}{p} .$$


# %%
def dropped(x, keep, seed):
    torch.manual_seed(200 + seed)  # F.dropout draws from torch's global generator
    return F.dropout(x, 1 - keep)


# %% [markdown]
# First the scaling itself, on 100 000 ReLU units with $p = \tfrac12$: what becomes of one that is kept, of the mean,
# and of the mean square?

# %%
x = torch.relu(data.gaussian_batch(1, 100_000, seed=0))
after = dropped(x, 0.5, seed=0)
factor = (after[after > 0] / x[after > 0]).unique().tolist()
means, squares = ([f(v).mean().item() for v in (x, after)] for f in (torch.abs, torch.square))
print(f"a kept unit is multiplied by {factor}; mean {means[0]:.2g}, then {means[1]:.2g}; ", end="")
print(f"mean square {squares[0]:.2g}, then {squares[1]:.2g}")
assert factor == [2.0] and abs(means[1] / means[0] - 1) < 0.02 and abs(squares[1] / squares[0] - 2) < 0.06

# %% [markdown]
# Then the variance, for any $p$: eight draws of 20 000 units each, of three kinds.

# %%
keeps = np.linspace(0.2, 1, 9)
units = {"Gaussian, mean 0": lambda z: z, "Gaussian, mean 2": lambda z: z + 2, "ReLU": torch.relu}
moments = {"Gaussian, mean 0": (1, 0), "Gaussian, mean 2": (1, 2)}
moments["ReLU"] = 0.5 - 0.5 / math.pi, 1 / math.sqrt(2 * math.pi)

# %% [markdown]
# (The variance and the mean of $\mathrm{relu}(z)$ are integrals over half a Gaussian.)

# %%
ax = plt.subplots()[1]
for name, function in units.items():
    x = [function(data.gaussian_batch(1, 20_000, seed)) for seed in range(8)]
    measured = [[dropped(x[seed], p, seed).var().item() for p in keeps] for seed in range(8)]
    law = [theory.dropout_variance(p, *moments[name]) for p in keeps.tolist()]
    plots.curve(keeps, measured, label=name, xlabel="keep probability p", log_y=True, ax=ax)
    plots.curve(keeps, law, kind="theory", label="theory", ylabel="variance after dropout", ax=ax)
    assert np.abs(np.median(measured, axis=0) / law - 1).max() < 0.05

# %% [markdown]
# **What you should see.** Larger, for every $p$ below 1. And what the next layer sees is the mean square (lesson 04), which grows by exactly
# $1/p$. Through $L$ layers of ReLU with He's start that is $p^{-L}$: dropout makes deep networks *explode*, in training. In
# evaluation mode nothing is dropped.
#
# **Predict.** So start with He's variance times $p$, which is right in training. What does the network do in evaluation mode?


# %%
def mean_squares(keep, weight_var, seed, training=True, width=256, depth=20):
    """Mean square of the pre-activations of ReLU layers with dropout, first layer 1: (depth,)."""
    torch.manual_seed(300 + seed)
    weights = data.gaussian_batch(depth * width, width, seed).reshape(depth, width, width)
    h, found = data.gaussian_batch(64, width, 100 + seed), []
    for weight in weights * math.sqrt(weight_var / width):
        z = h @ weight.T
        found.append(z.square().mean().item())
        h = F.dropout(torch.relu(z), 1 - keep, training=training)
    return np.array(found) / found[0]


# %% [markdown]
# Twenty layers, eight seeds; theory is $(\sigma_w^2 / 2p)^{l-1}$ in training and without $p$ in evaluation.

# %%
axes, layer = plt.subplots(1, 2, sharey=True)[1], np.arange(20)
starts = {"He, p = 0.8": (0.8, 2), "He · p, p = 0.8": (0.8, 1.6), "He, p = 0.5": (0.5, 2)}
for ax, training in zip(axes, (True, False), strict=True):
    for name, (keep, weight_var) in starts.items():
        measured = np.array([mean_squares(keep, weight_var, seed, training) for seed in range(8)])
        law = (weight_var / 2 / (keep if training else 1)) ** layer
        plots.layers(measured, label=name, ax=ax)
        plots.layers(law, kind="theory", label="theory", ax=ax)
    ax.set_title("training" if training else "evaluation")
axes[0].set_ylabel("mean square of z")
axes[1].get_legend().remove()

# %% [markdown]
# In numbers:

# %%
he, scaled = (
    np.median([mean_squares(0.8, weight_var, seed, mode)[-1] for seed in range(8)])
    for weight_var, mode in ((2, True), (1.6, False))
)
print(f"p = 0.8, layer 20: He in training {he:.2g} (theory {0.8**-19:.2g}), ", end="")
print(f"He · p in evaluation {scaled:.1g} (theory {0.8**19:.1g})")
assert abs(math.log(he * 0.8**19)) < 0.6 and abs(math.log(scaled / 0.8**19)) < 0.6

# %% [markdown]
# **What you should see.** No variance of the weights is right in both modes: what is kept in training vanishes in
# evaluation. The scaling keeps the mean, and a deep ReLU network passes on the mean square. In practice this is mild,
# because dropout is used in a few layers, lightly, and beside normalization. But it adds a trap of its own there: batch
# normalization stores the variance that it saw *in training*, which is too large for evaluation (Li and others, 2019).

# %% [markdown]
# ## 10 · So, how deep?
#
# One split of the data is one opinion. **k-fold cross-validation** cuts the data into $k$ parts, trains $k$ times on
# all but one, and tests on the one left out: every image is tested once, and the spread over the folds tells how much
# to believe.
#
# Five folds, all 1797 digits. To compare depths fairly each network gets about 6000 parameters: the deeper, the
# narrower. He's start, ReLU, Adam; each depth at its own best rate from one grid.
#
# **Predict.** Which depth has the lowest error: 1, 2, 4, 8, or 16? And if deep ones are worse: is it because they overfit?

# %%
grid = (0.003, 0.01, 0.03, 0.1)
inputs = torch.cat([digits.train_inputs, digits.validation_inputs])
targets = torch.cat([digits.train_targets, digits.validation_targets])

# %% [markdown]
# Stratified: each digit has the same share in every fold.

# %%
folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(inputs, targets))


# %% [markdown]
# One training for each fold, its number as the seed:

# %%
def cross_validate(make, epochs=12):
    """Training loss and error at the end: two arrays (folds, rates)."""
    losses, errors = [], []
    for fold, (rest, left_out) in enumerate(folds):
        split = data.Split(inputs[rest], targets[rest], inputs[left_out], targets[left_out])
        settings = {"epochs": epochs, "batch_size": 96, "optimizer": "adam"}
        run = sweep(make, split, learning_rates=grid, seeds=[fold], **settings)
        losses.append(run.loss_by_epoch[:, 0, -1])
        errors.append(1 - run.validation_accuracy[:, 0, -1])
    return np.array(losses), np.array(errors)


# %% [markdown]
# The width is the one that comes nearest to 6000 parameters.

# %%
depths = (1, 2, 4, 8, 16)
widths = {L: min(range(4, 100), key=lambda n: abs(parameters(L, n) - 6000)) for L in depths}
print("width by depth:", widths)
assert all(abs(parameters(L, n) / 6000 - 1) < 0.03 for L, n in widths.items())


# %% [markdown]
# And because lesson 06 is about it, the deepest once more, with skip connections (branches scaled by $1/\sqrt{16}$):


# %%
def residual_network(seed):
    settings = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64}
    return networks.DeepMLP(16, widths[16], skip=True, branch_scale=0.25, seed=seed, **settings)


# %% [markdown]
# Six networks, five folds, four rates:

# %%
makers = {L: relu_network(widths[L], L) for L in depths} | {"16 + skips": residual_network}
answers = session.parallel_map(lambda name: cross_validate(makers[name]), makers)

# %% [markdown]
# Each depth at the rate with fewest errors, mean and standard deviation over the folds:

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: in the digits shown another processor may differ. The assertions hold on all.
table = {}
for name, (losses, errors) in answers.items():
    best = errors.mean(axis=0).argmin()
    table[name] = losses[:, best].mean(), errors[:, best].mean(), errors[:, best].std(ddof=1)
    loss, error, spread = table[name]
    assert 0 < best < 3  # inside of the grid
    print(f"depth {name!s:>10}, rate {grid[best]:g}: ", end="")
    print(f"training loss {loss:.1g}, errors {error:.1%} ± {spread:.1%} (5 folds)")

# %% [markdown]
# The median of the folds and their range; the square, drawn without its range, is the network with skips.

# %% tags=["nbval-ignore-output"]
# Such runs are chaotic: another processor may draw them a little differently.
shares = {name: 100 * e[:, e.mean(axis=0).argmin()] for name, (_, e) in answers.items()}
skips = shares.pop("16 + skips")
ax = plots.curve(depths, np.array(list(shares.values())).T, label="plain", log_x=True, log_y=True)
plots.curve([16], skips[:, None], label="with skips", ax=ax)
ax.set(xlabel="depth, at 6000 parameters", ylabel="errors in %", xticks=depths, ylim=(1, 40))
ax.set_xticklabels(depths);

# %% [markdown]
# What follows says three things about this table. They hold:

# %%
errors, training = ({name: row[k] for name, row in table.items()} for k in (1, 0))
assert max(errors[L] for L in (1, 2, 4)) < 0.05 < errors[8] < errors[16]
assert min(training[8], training[16]) > 4 * max(training[L] for L in (1, 2, 4))
assert errors[1] < errors["16 + skips"] < 0.6 * errors[16] and training["16 + skips"] < 0.2 * training[16]

# %% [markdown]
# **What you should see.** From one to four layers the differences are of the size of the spread over the folds: choose the
# simplest. Beyond that it gets worse, and *not* by overfitting: the training loss gets worse, too. The deep network does
# not fit too well. In these twelve epochs it does not get there: the degradation of lesson 06. With skips it does, and
# still it does not beat one hidden layer.
#
# (Small print. The rate was chosen by the same folds, which flatters every row, and most those whose folds spread most. The
# pixels were standardized once, and not anew in each fold. And at equal parameters deeper means narrower, so depth pays twice: that is the question
# one has in practice, but not the only one.)
#
# **So, how deep?** As deep as your validation error asks for, and no deeper than you can train. On 8 × 8 digits that is
# one layer. Where problems are made of parts of parts (images, language), depth pays, and then everything of this
# course is needed: a start, normalization, skips; an optimizer comes after them.

# %% [markdown]
# ## Check yourself
#
# **1.** You multiply the loss by 1000. What changes for SGD, and what for Adam?
#
# <details><summary>Answer</summary>
#
# For SGD every step is 1000 times larger, as with a larger learning rate. For Adam nothing, except that ε is in effect 1000
# times smaller.
#
# </details>
#
# **2.** Adam's updates in layer 12 are as large as the learning rate says. Does layer 12 learn?
#
# <details><summary>Answer</summary>
#
# You cannot tell from that. A gradient that is pure noise gives steps of 0.23 learning rates. Compare the mean of several
# mini-batch gradients with their spread.
#
# </details>
#
# **3.** A network is stuck; Adam does not help, larger weights do not help. The dashboard's SCALE is flat. Where do you look
# next, and what for?
#
# <details><summary>Answer</summary>
#
# At SPECTRUM: how many singular values are left? One or two mean that some layer lets nothing more through: a waist. And at
# CORRELATION: cosines near 1 mean that all inputs have become alike.
#
# </details>
#
# **4.** The training loss falls and the validation loss rises. Somebody proposes a network of half the width. Your answer?
#
# <details><summary>Answer</summary>
#
# First a penalty, or fewer epochs. In section 7 the narrower networks had the *higher* validation loss.
#
# </details>
#
# **5.** Dropout with $p = 0.5$ after each of 10 ReLU layers, He's start. What is the mean square of the last layer in
# training, relative to evaluation?
#
# <details><summary>Answer</summary>
#
# $2^{10} \approx 1000$ times as large if all ten masks lie before it, and the gradient that comes back grows alike.
#
# </details>
#
# **6.** Five folds give errors of 3.1 % ± 0.6 % and 2.5 % ± 0.7 %. Is the second network better?
#
# <details><summary>Answer</summary>
#
# It cannot be said from that: the difference is as large as the spread. Compare fold by fold, repeat with other folds,
# or take the simpler network.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [09_optimizers_and_depth](../exercises/09_optimizers_and_depth/09_optimizers_and_depth.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You wrote momentum, RMSProp and Adam, found them equal to PyTorch's over 100 steps, and saw that Adam without its bias
#   correction begins with steps that are too *large*.
# - You rescued a network with a vanished gradient by Adam, and found where that ends: at ε, which a larger loss moves, and at
#   the noise, which nothing moves but more steps or larger batches. The right start did more than any optimizer.
# - You told a waist from a vanishing gradient by SPECTRUM, and saw that what cures the one leaves the other as it was.
# - You read under- and overfitting from two curves, found no U over the width, and compared L1, L2, early stopping and dropout on
#   images that no choice had seen.
# - You measured that inverted dropout keeps the mean and raises the mean square by $1/p$ per layer, so that no start is right in
#   both modes; and you answered "how deep?" with five folds: one layer, for these digits, at this size.
#
# ## References
#
# - Polyak (1964), *Some methods of speeding up the convergence of iteration methods*, USSR Computational Mathematics and
#   Mathematical Physics 4.
# - Hinton, Srivastava, Swersky (2012), *Neural networks for machine learning*, lecture 6 (RMSProp).
# - Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov (2014), *Dropout: a simple way to prevent neural networks from
#   overfitting*, JMLR 15.
# - Kingma, Ba (2015), *Adam: a method for stochastic optimization*, ICLR.
# - Zhang, Bengio, Hardt, Recht, Vinyals (2017), *Understanding deep learning requires rethinking generalization*, ICLR.
# - Belkin, Hsu, Ma, Mandal (2019), *Reconciling modern machine-learning practice and the classical bias-variance trade-off*,
#   PNAS 116.
# - Li, Chen, Hu, Yang (2019), *Understanding the disharmony between dropout and batch normalization by variance shift*, CVPR.
# - Loshchilov, Hutter (2019), *Decoupled weight decay regularization*, ICLR.
#
# **Next:** [10 · The gradient clinic](10_gradient_clinic.ipynb). Here is a network that does not train. What is wrong with it?
