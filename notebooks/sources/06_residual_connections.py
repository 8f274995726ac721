# %% [markdown]
# # 06 · Residual connections
#
# > **Why does adding the input back make 1000 layers trainable?**
#
# After this lesson you will be able to
#
# - show that a deeper plain network can be worse in *training* error, and tell this degradation from overfitting;
# - write what a skip does to a Jacobian, and predict from the branch scale alone whether signal and gradient grow by
#   $2^L$, by $e$, or not at all;
# - count the paths of the gradient by length, and say when they are short and when they are not;
# - measure how gradients shatter, and explain it by the same number that makes batch normalization explode;
# - choose between zero-initialized branches, ReZero, pre- and post-activation, know an older cure (auxiliary classifiers),
#   and train a network of 1000 layers.
#
# **Before this:** [04 · Initialization](04_initialization.ipynb) for He's gain and seed bands, and [05 ·
# Batch normalization](05_batch_norm.ipynb). **Time:** about 110 minutes, of which 45 are reading.
#
# Initialization set the factor per layer to 1 at the start, and normalization held it there. In 2015 this was good for some
# thirty layers, and not for a hundred. Then somebody added one plus sign.

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import data, explorers, networks, pictures, plots, session, signals, theory
from gradients_in_depth.session import parallel_map
from gradients_in_depth.training import sweep

session.start(seed=0)

# %% [markdown]
# ## 1 · By hand: a by-pass pipe and a loudspeaker
#
# Lesson 01 had a long water pipe in which every segment passed on a tenth of the pressure. Now lay a **by-pass** beside
# each segment: what comes in also goes on unchanged. Where there was the factor $j$, there is now $1 + j$.
#
# **Predict.** Three segments with $j = 0.1$. What is left with and without the by-pass? And if $j = 1$?

# %%
for j in (0.1, 1.0, -1.0):
    plain, bypass = j**3, (1 + j) ** 3
    paths = [1, 3 * j, 3 * j**2, j**3]
    print(f"j = {j:4.1f}: plain {plain:.3g}, by-pass {bypass:.3g} = " + " + ".join(f"{p:.3g}" for p in paths))
    assert math.isclose(bypass, sum(paths), abs_tol=1e-12)

# %% [markdown]
# Three things to keep.
#
# - Plain, 0.001 of the pressure is left; with the by-pass all of it and a little more. The 1 in the sum is the path that
#   takes every by-pass. It cannot vanish, because no segment multiplies it.
# - With $j = 1$ the by-pass makes 8 of 1. A microphone beside its own **loudspeaker** howls for the same reason: the output
#   is added to the input, again and again. What cannot vanish can still explode.
# - With $j = -1$ everything is gone. A skip is no guarantee. It makes 1 the *default*, and zero a coincidence.
#
# For layers, $j$ is a matrix. A **residual block** computes $x_{l+1} = x_l + F_l(x_l)$. The line along which $x$ goes on is
# called the **stream**, $F$ the **branch**. Its Jacobian is $I + J_l$, and three blocks in a row have
#
# $$(I + J_3)(I + J_2)(I + J_1) = I + (J_1 + J_2 + J_3) + (J_2J_1 + J_3J_1 + J_3J_2) + J_3J_2J_1 .$$
#
# A plain network has the last term only.

# %%
J = torch.tensor([[0.1, 0.2], [0.0, 0.1]], dtype=torch.float64)
identity = torch.eye(2, dtype=torch.float64)
for name, matrix in {"J": J, "I + J": identity + J}.items():
    values = torch.linalg.svdvals(torch.linalg.matrix_power(matrix, 10))
    print(f"{name:>5}, ten times: singular values {values[0]:.2g} and {values[1]:.2g}")
assert values[1] > 1

# %% [markdown]
# An eigenvalue $\lambda$ of $J$ becomes $1 + \lambda$. Small $J$, which was fatal, is now the healthy case.

# %% [markdown]
# ## 2 · Degradation: deeper, and worse in training
#
# A network of 50 layers can do all that one of 10 layers can: copy those ten, and let forty layers pass their input on. So
# its *training* error should never be higher. He and others (2016) found that it is. Repeat it: 24 ReLU units per layer,
# He's start, the digits, momentum, five epochs. Each network gets its own best learning rate from one grid, three seeds at
# each rate.

# %%
digits = data.digits(dtype=torch.float64)
grid = (0.003, 0.01, 0.03, 0.1)
plan = {"seeds": range(3), "epochs": 5, "batch_size": 75, "optimizer": "momentum"}


# %% [markdown]
# The residual network is the same 50 layers with skips. Its blocks are $x + \frac{1}{\sqrt{50}}\, W\,\text{relu}(x)$;
# sections 3 and 7 say why the scale, and why ReLU comes first.


# %%
def deep(depth, **options):
    settings = {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64} | options
    return lambda seed: networks.DeepMLP(depth, 24, seed=seed, **settings)


# %% [markdown]
# Three recipes:

# %%
residual = {"skip": True, "pre_activation": True}
makers = {"plain, 10 layers": deep(10), "plain, 50 layers": deep(50)}
makers["residual, 50 layers"] = deep(50, branch_scale=50**-0.5, **residual)

# %% [markdown]
# **Predict.** Order the three by *training* loss in the fifth epoch, and then by *validation* accuracy after it.
# (`parallel_map` gives what a loop over the names would give, on several cores at a time.)

# %%
trained = parallel_map(lambda name: sweep(makers[name], digits, learning_rates=grid, **plan), makers)

# %% [markdown]
# Medians and ranges of three seeds; mind the logarithmic scale.

# %%
ax = plots.sweeps(trained, chance=math.log(10))
ax.set_ylim(0.03, 10);

# %% [markdown]
# The mean training loss *of* the last epoch (as in the picture), and the validation accuracy *after* it, at the best rate of
# each:


# %%
def report(runs):
    """Print the mean losses of the last epoch; return their medians."""
    found = {}
    for name, run in runs.items():
        loss, accuracy = run.loss_by_epoch[run.best, :, -1], run.validation_accuracy[run.best, :, -1]
        found[name] = np.median(loss)
        print(f"{name:>20}: training loss {found[name]:.2g} ({min(loss):.2g} to {max(loss):.2g}), ", end="")
        print(f"validation accuracy {np.median(accuracy):.0%}")
    return found


# %%
last = report(trained)
assert 3 * last["plain, 10 layers"] < last["plain, 50 layers"]
assert 3 * last["residual, 50 layers"] < last["plain, 10 layers"]

# %% [markdown]
# **What you should see.** Forty more layers make the plain network worse, even at its best learning rate. With skips the same
# fifty layers beat both.
#
# **A misdiagnosis to avoid.** Somebody who looks at the validation accuracy alone sees a large network that does badly, and
# writes: "overfitting; use dropout, or fewer parameters." An overfitting network has a *low training* loss. This one has
# not even learned its training images. Always look at the training loss first. (Nor is
# it a matter of scale: He's start keeps it. Lesson 04 saw why this network is hard to train all the same.)
#
# **Why.** The copying solution exists, but a stack of random nonlinear layers is far from it. With a skip, "pass it on" is
# not something to be learned. It is what a block does when its weights are 0.

# %% [markdown]
# ## 3 · How large may a branch be?
#
# Take blocks $x_{l+1} = x_l + a\, W_l\, \text{relu}(x_l)$ with He's weights. The two terms are uncorrelated, because $W_l$
# is random with mean 0, so their mean squares add:
#
# $$q_{l+1} = q_l + a^2\, \tfrac{\sigma_w^2}{2}\, q_l = (1 + a^2)\, q_l .$$
#
# Backward it is the same sum, with $\chi = \sigma_w^2/2 = 1$: the mean squared gradient grows by $1 + a^2$ for each block
# on its way back.
#
# **Predict.** 30 blocks. By what factor does the mean square grow with $a = 1$? With $a = 1/\sqrt{30}$? With $a = 0$?


# %% [markdown]
# To measure the way back, send in a random message behind the last block, one that knows nothing of the weights:


# %%
def sent_in(outputs, message):
    return (outputs * message).sum()


def stream(scale, seed, depth=30, width=128, order=True):
    settings = {"activation": "relu", "initialization": "he_normal", "bias": False, "dtype": torch.float64}
    settings |= {"in_features": width, "out_features": width, "skip": True}
    model = networks.DeepMLP(depth, width, branch_scale=scale, pre_activation=order, seed=seed, **settings)
    inputs, message = data.gaussian_batch(128, width, seed=100 + seed).split(64)
    return signals.measure(model, inputs, message, sent_in, layers=networks.Block)


# %%
scales = {"1": 1.0, "1/√L": 30**-0.5, "0": 0.0}
runs = {name: [stream(scale, seed) for seed in range(8)] for name, scale in scales.items()}


# %% [markdown]
# The mean square is the variance plus the square of the mean. Both series as arrays of seeds by layers, relative to where
# they begin:


# %%
def mean_squares(found):
    names = ("activation_variance", "activation_mean", "activation_gradient_rms")
    variance, mean, gradient = (np.array([run.series(name) for run in found]) for name in names)
    signal, gradient = variance + mean**2, gradient**2
    return signal / signal[:, :1], gradient / gradient[:, -1:]


# %% [markdown]
# Left the stream, layer by layer; right the gradient, which comes from the right.

# %%
axes = plt.subplots(1, 2, sharey=True)[1]
for name, scale in scales.items():
    law = theory.residual_flow(29, scale)
    for ax, values in zip(axes, mean_squares(runs[name]), strict=True):
        plots.layers(values, label=f"a = {name}", ax=ax)
    plots.layers(law.second_moments, kind="theory", label="theory", ax=axes[0])
    plots.layers(law.gradient_norms**2, kind="theory", label="theory", ax=axes[1])
axes[0].set(ylabel="mean square of the stream", ylim=(0.3, 1e11))
axes[1].set(ylabel="mean squared gradient")
axes[1].get_legend().remove()

# %% [markdown]
# Thirty blocks, in numbers: the median of eight networks and their range. One block lies before the first measurement, so
# that theory has $L = 29$ here.

# %%
for name, scale in scales.items():
    law = theory.residual_flow(29, scale).second_moments[-1]
    signal, gradient = mean_squares(runs[name])
    print(f"a = {name:>4}: theory {law:.2g}", end="")
    for what, values in {"stream": signal[:, -1], "gradient": gradient[:, 0]}.items():
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        print(f"; {what} {middle:.2g} ({low:.2g} to {high:.2g})", end="")
        assert low - 1e-9 <= law <= high + 1e-9 and -1.2 < math.log(middle / law) < 0.3
    print()

# %% [markdown]
# Theory is a mean over networks, to which a few large ones contribute most; at $a = 1$ and this width the median lies below it,
# and a single network may lie a factor of ten away (lesson 04: the logarithm of a product spreads as $\sqrt{L/n}$). For all 30
# blocks, theory says:

# %%
print(f"2^30 = {2.0**30:.3g}, its root 2^15 = {2.0**15:.2g}")
print(f"(1 + 1/30)^30 = {(1 + 1 / 30) ** 30:.3g}, e = {math.e:.3g}")
assert 0 < math.e - (1 + 1 / 30) ** 30 < 0.1

# %% [markdown]
# **What you should see.** With $a = 1$ every block doubles both: $2^{29}$ from the first to the last, half a billion. Nothing
# vanishes; it howls, like the loudspeaker. With $a = 1/\sqrt L$ the growth is $(1 + 1/L)^L$, which never
# passes $e = 2.718$, at any depth. With $a = 0$ nothing changes at all, exactly.
#
# **Two uses of the formula.** First: $(1 + a^2)^L$ is always below $e^{a^2 L}$, so the mean square grows by less than $e$ as
# long as $a^2 L \le 1$. A *fixed* small number, such as 0.1, satisfies that up to 100 blocks, and not beyond:

# %%
for depth in (100, 1000, 10_000):
    print(f"a = 0.1, {depth:5d} blocks: a²L = {0.1**2 * depth:3.0f}, growth {1.01**depth:.2g}")
assert 1.01**100 < math.e < 1.01**1000

# %% [markdown]
# Second: a skip does not repair a wrong scale. On average it never lets the gradient *vanish*, since
# $1 + a^2 \chi \ge 1$; and it makes it easy to explode.

# %% [markdown]
# ## 4 · Misdiagnosis: "It explodes, so lower the learning rate"
#
# A colleague builds 30 residual blocks with $a = 1$. At step 0, before any update, the loss is enormous. "Exploding
# gradients," she writes; "the learning rate is too high." She goes down with it, from 0.03 to one in a million.
#
# **Predict.** Does it help? Think of the loss at step 0: what does it depend on?


# %%
def small_readout(seed):
    model = deep(30, **residual)(seed)
    with torch.no_grad():
        model.readout.weight /= 2**15
    return model


def frozen(make, seed):
    model = make(seed)
    model.readout.requires_grad_(False)
    return model


# %% [markdown]
# A second colleague, above, divides the readout by the growth, $2^{15}$, so that the loss is reasonable at step 0. A third
# one does so, too, and does not train the readout at all. The last two have small branches, and the readout trained or
# frozen: they tell what freezing alone costs.

# %%
small_branches = deep(30, branch_scale=30**-0.5, **residual)
treated = {"a = 1": deep(30, **residual), "a = 1, small readout": small_readout}
treated["a = 1, small, frozen"] = partial(frozen, small_readout)
treated |= {"a = 1/√30": small_branches, "a = 1/√30, frozen": partial(frozen, small_branches)}

# %% [markdown]
# Four rates, from one in a million to 0.03; three seeds, three epochs.

# %%
low_grid = (1e-6, 1e-3, 0.01, 0.03)
few = plan | {"learning_rates": low_grid, "epochs": 3}
runs_of = parallel_map(lambda name: sweep(treated[name], digits, **few), treated)

# %% [markdown]
# Medians of the mean loss in epoch 3; a rate at which one of the seeds ends in infinity or NaN is called "diverged".

# %%
for name, run in runs_of.items():
    start, final = np.median(run.train_loss[0, :, 0]), np.median(run.loss_by_epoch[:, :, -1], axis=1)
    final = [f"{loss:.2g}" if np.isfinite(loss) else "diverged" for loss in final]
    print(f"{name:>20}: step 0 {start:.2g}; in epoch 3, by rate: {', '.join(final)}")

# %% [markdown]
# What this shows is asserted with room, because such runs are chaotic:

# %%
best = [np.median(run.loss_by_epoch[run.best, :, -1]) for run in runs_of.values()]
assert np.median(runs_of["a = 1"].train_loss[0, :, 0]) > 5e3
assert best[0] > 5 and best[1] > 3 and 1.5 < best[2] < 2.3 and max(best[3:]) < 0.3
diverged = [~np.isfinite(run.loss_by_epoch[:, :, -1]).all(axis=1) for run in runs_of.values()]
assert diverged[0][1:].all() and diverged[1][1:].all() and not np.any(diverged[2:])

# %% [markdown]
# **What you should see.** The lowest rate does bring the loss down, by decades, and that looks like success. But it ends
# far above 2.3, the cost of *guessing*, and every larger rate of this grid diverges. With the small readout the loss
# begins in the right place, and the same rates diverge. With that readout *frozen* nothing diverges; but the loss stays
# close to that of guessing. Only the small branches learn, with a trained readout or a frozen one.
#
# **Why.** No rate can change the loss at step 0: no step has been made. The stream's size there is $\sqrt{2^{30}}$ = 3.3e4,
# and so are the outputs; a softmax that is so sure of itself is wrong by tens of thousands of nats. The readout can divide
# that away, but its own gradient is made of the stream: $2^{15}$ times as large as usual, for weights $2^{15}$ times as small,
# so that a small step throws them out again. That is why it diverges, and the control shows it: keep the
# readout from moving, and the divergence is gone.
#
# The control also shows that divergence is not the whole disease: without it the network hardly learns, and it is not the
# freezing that holds it back (last line). With $a = 1$ the gradient comes through half of the 30 random layers (section 5), as in
# a plain network. The branch is too loud, and rate and readout are the wrong knobs.
#
# **The test.** Print the loss before the first step. Far above $\ln(\text{classes})$: do not touch the optimizer. Look at
# the SCALE panel, find the factor per block, and correct the branch.

# %% [markdown]
# ## 5 · Which way does the gradient go?
#
# Multiply out $L$ blocks and you have $2^L$ terms, one for each subset of branches: **paths**. Through exactly $k$ branches
# go $\binom Lk$ of them. Veit and others (2016) called a residual network "an ensemble of relatively shallow networks":
# most of the gradient of their trained network came along *short* paths. Is that so at the start?
#
# Contributions of different paths are uncorrelated over random weights, so squares add up. A path through $k$ branches has
# $(a^2\chi)^k$:
#
# $$\text{share of length } k = \binom Lk \frac{(a^2\chi)^k}{(1 + a^2\chi)^L},$$
#
# the binomial law: each branch is on the path with probability $p = a^2\chi/(1 + a^2\chi)$.
#
# **Predict.** 30 blocks, $a = 1$: what is the most common length of a path, weighted by gradient? And for
# $a = 1/\sqrt{30}$?
#
# It can be measured exactly. Carry $L + 1$ gradients back, one for each length. A skip leaves the list as it is, and
# a branch moves everything to the next length.


# %%
def gradient_by_length(scale, seed, depth=30, width=128):
    """Share of the squared gradient for each number of branches: (depth + 1,)."""
    weights = data.gaussian_batch(depth * width, width, seed).reshape(depth, width, width)
    x, inputs = data.gaussian_batch(1, width, 100 + seed)[0], []
    for weight in weights * math.sqrt(2 / width):
        inputs.append(x)
        x = x + scale * weight @ torch.relu(x)
    g = torch.zeros(depth + 1, width, dtype=torch.float64)
    g[0] = data.gaussian_batch(1, width, 200 + seed)[0]
    for weight, x in zip(weights.flip(0) * math.sqrt(2 / width), inputs[::-1], strict=True):
        g[1:] = g[1:] + scale * (x > 0) * (g[:-1] @ weight)
    return (g.square().sum(dim=1) / g.square().sum()).numpy()


# %%
lengths = np.arange(31)
shares = {k: np.array([gradient_by_length(scales[k], seed) for seed in range(8)]) for k in ("1", "1/√L")}
laws = {k: theory.path_length_weights([scales[k] ** 2] * 30) for k in shares}

# %% [markdown]
# Markers are the median of eight networks, black lines the binomial law.

# %%
ax = plt.subplots()[1]
for name in shares:
    plots.curve(lengths, shares[name], label=f"a = {name}", ax=ax)
    plots.curve(lengths, laws[name], kind="theory", label="theory", ax=ax)
ax.set(xlabel="branches on the path", ylabel="share of squared gradient");

# %% [markdown]
# The mean lengths:

# %%
for name in shares:
    mean, law = (shares[name] @ lengths).mean(), laws[name] @ lengths
    print(f"a = {name:>4}: mean length {mean:.2g}, theory {law:.2g}")
    assert abs(mean - law) < 1

# %% [markdown]
# **What you should see.** With $a = 1$ the typical path passes 15 of 30 branches: not short at all. With $a = 1/\sqrt L$ it
# passes one, at any depth: the law becomes that of Poisson with mean 1. So "the gradient takes short paths" is a statement
# about *branches that are small beside the stream*, and no property of the plus sign.
#
# Veit and others had batch normalization, which makes branches small already at the start. It gives every branch the same size,
# 1, while the stream grows: after $l$ blocks the branch has about $1/l$ of the stream's variance, and its factor is
# $1/(1 + (1 - \frac1\pi)\,l)$.

# %%
for depth in (10, 100, 1000):
    law = theory.residual_flow(depth, 1.0, normalization="batch")
    mean = theory.path_length_weights(law.branch_factors) @ np.arange(depth + 1)
    print(f"{depth:4d} blocks: mean length {mean:.2g}, gradient norm × {law.gradient_norms[0]:.2g}, ", end="")
    print(f"without skips × {(math.pi / (math.pi - 1)) ** (depth / 2):.1g}")

# %% [markdown]
# Ten times the depth adds about three branches: the length grows like a logarithm. And look at the gradient, at the first
# block beside the last. Plain batch-normalized layers multiply its norm by 1.21 each (lesson 05), which is absurd after a
# thousand. With skips, the exponential has become a power of the depth.
#
# ### Explore: the stream
#
# Left, measurement and theory of this lesson; right, the paths.

# %% tags=["explorer"]
explorers.residual_stream()

# %% [markdown]
# ## 6 · Shattered gradients
#
# A gradient of the right size is of use only if it says something about a neighborhood: a step goes some way, and the
# gradient must still hold there. Balduzzi and others (2017) gave networks *one number* as input and plotted the gradient of
# the output by it.
#
# Here is such a family: a linear stem, 24 ReLU layers of width 128 with He's weights, 256 inputs evenly from −2 to 2. Batch
# normalization takes them as one batch, with its statistics held fixed while we differentiate.


# %%
def line_gradient(seed, normalization, skip, width=128, depth=24):
    x = torch.linspace(-2, 2, 256, dtype=torch.float64)[:, None].requires_grad_()
    draws = data.gaussian_batch(depth * width + 3, width, seed)
    z = x * draws[0] + draws[1]
    for weight in draws[3:].reshape(depth, width, width) * math.sqrt(2 / width):
        h = z
        if normalization == "batch":
            h = (z - z.mean(0).detach()) / z.std(0, correction=0).detach()
        branch = torch.relu(h) @ weight
        z = z + branch if skip else branch
    (gradient,) = torch.autograd.grad((z @ draws[2]).sum(), x)
    return gradient[:, 0].numpy()


# %%
kinds = {"plain": (None, False), "skips": (None, True)}
kinds |= {"batch norm": ("batch", False), "batch norm + skips": ("batch", True)}
lines = {name: np.array([line_gradient(seed, *kind) for seed in range(32)]) for name, kind in kinds.items()}

# %% [markdown]
# **Predict.** Plain layers and batch normalization, each without skips and with them. In which of the four does the gradient
# at $x$ tell you the gradient at $x + 0.016$, the next of the 256 points?

# %% [markdown]
# One network of each kind; every gradient is divided by its spread.

# %%
axes, x = plt.subplots(2, 2, sharex=True, sharey=True)[1].ravel(), np.linspace(-2, 2, 256)
for ax, (name, gradients) in zip(axes, lines.items(), strict=True):
    gradient = gradients[0] / gradients[0].std()
    plots.curve(x, gradient, kind="line", title=name, ax=ax)
    alike = np.corrcoef(gradient[:-1], gradient[1:])[0, 1]
    pictures.describe(ax, f"{name}: gradient against input; neighboring points correlate by {alike:.1f}.")
for ax in axes[2:]:
    ax.set_xlabel("input")
for ax in axes[::2]:
    ax.set_ylabel("gradient")

# %% [markdown]
# The picture of batch normalization alone is not noise: no random number was drawn between two points. It is one fixed
# function, whose slope is like **white noise**. In numbers: the autocorrelation, that is how alike the gradient is to itself
# some points away, in eight groups of four networks.


# %%
def autocorrelation(gradients, groups=8, lags=24):
    """(groups, lags + 1), each for the networks of a group together."""
    g = (gradients - gradients.mean(axis=1, keepdims=True)).reshape(groups, -1, gradients.shape[1])
    sums = [(g[..., lag:] * g[..., : g.shape[2] - lag]).sum(axis=(1, 2)) for lag in range(lags + 1)]
    return (np.array(sums) / sums[0]).T


# %% [markdown]
# **Theory.** Over random weights, the gradients at two inputs have a covariance, and it can be carried through the layers
# as lesson 04 carried the correlation of two inputs: for ReLU every average is an arc-cosine formula.
# `theory.relu_gradient_kernel` does it for all pairs of inputs at once.

# %%
kernels = {}
for name, (normalization, skip) in kinds.items():
    kernels[name] = theory.relu_gradient_kernel(x, 24, normalization=normalization, skip=skip)

# %%
ax = plt.subplots()[1]
laws = {name: theory.kernel_autocorrelation(kernel)[:25] for name, kernel in kernels.items()}
for name, gradients in lines.items():
    plots.curve(np.arange(25), autocorrelation(gradients), label=name, xlabel="points apart", ax=ax)
    plots.curve(np.arange(25), laws[name], kind="theory", label="theory" if name == "plain" else "", ax=ax)
ax.set(ylabel="autocorrelation of the gradient", ylim=(-0.5, 1.05))
ax.legend(loc="lower center", ncols=3);

# %% [markdown]
# Between neighboring points:

# %%
for name, gradients in lines.items():
    measured = np.median(autocorrelation(gradients)[:, 1])
    print(f"{name:>18}: measured {measured:.2f}, theory {laws[name][1]:.2f}")
    assert abs(measured - laws[name][1]) < 0.1

# %% [markdown]
# **What you should see.** About 0.9 between neighbors for plain layers and 0.95 for skips alone; 0 with batch normalization,
# and 0.8 when skips are added to it: they restore much of what it broke. (Skips alone shatter least, and their gradient
# grows by $2^{12}$ in norm all the same: section 3. With Glorot's start the plain network would give the same: a scale drops
# out, for ReLU passes it on. Taken network by network, the numbers are lower: the networks whose gradient varies most vary slowly, and
# the theory is a ratio of two averages over networks. Hence the groups.)
#
# **Why.** Lesson 05 found that batch normalization multiplies the squared gradient by $\pi/(\pi-1) = 1.467$ per layer.
# Lesson 04 found that what makes gradients grow also drives neighboring inputs apart. So 1 − correlation of two neighbors
# grows by the same 1.467 per layer, as long as it is small:

# %%
factor = math.pi / (math.pi - 1)
spacing = (x[1] - x[0]) / x.std()
apart = spacing**2 / 2
print(f"1 - correlation: {apart:.1g} at first, times {factor:.3g}^24 = {factor**24:.1g}", end="")
print(f" is {apart * factor**24:.1g}")
assert 0.5 < apart * factor**24 < 2

# %% [markdown]
# After 24 layers neighbors are strangers. **Explosion and shattering are one disease**, chaos, and you have now seen both of
# its faces. With skips the squared gradient grows in block $l$ by $1 + 1/(1 + (1 - \frac1\pi)\,l)$ only, and 1 − correlation
# by less still, because the stream grows beside it. The exponentials have become powers.
#
# Mind what the plain network pays for its smooth gradient: all inputs become alike (lesson 03). Smooth since it sees
# little. It is one panel that batch normalization cures, and another that it spoils.

# %% [markdown]
# ## 7 · Start with nothing: zero branches and ReZero
#
# Why not begin with $a = 0$, where everything is exactly kept? Two ways:
#
# - **Zero-initialized last layer** (Goyal 2017 for the scale of a last normalization, Zhang 2019 for weights): what writes
#   into the stream starts at 0.
# - **ReZero, SkipInit** (De and Smith 2020, Bachlechner 2021): He's weights, times one *learned* number per block that
#   starts at 0.
#
# Lesson 04 showed that zero weights are fatal. **Predict.** Are they here? In which of the two do the weights of a branch
# get a gradient in the first step?


# %%
def zero_initialized(seed):
    model = makers["residual, 50 layers"](seed)
    for block in model.blocks[1:]:
        nn.init.zeros_(block.linear.weight)
    return model


def rezero(seed):
    model = deep(50, **residual)(seed)
    for block in model.blocks[1:]:
        block.branch_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
    return model


# %% [markdown]
# One backward pass on all training images, and a look at a block in the middle:

# %%
for name, make in {"zero-initialized": zero_initialized, "ReZero": rezero}.items():
    model = make(0)
    F.cross_entropy(model(digits.train_inputs), digits.train_targets).backward()
    block = model.blocks[25]
    weight, scale = block.linear.weight.grad.norm().item(), getattr(block.branch_scale, "grad", None)
    print(f"{name:>16}, block 26: gradient of the weights {weight:.2g}", end="")
    print(f", of the scale {abs(scale.item()):.2g}" if scale is not None else "")
    assert (weight > 0) == (scale is None)

# %% [markdown]
# The weights of a zero branch *do* get a gradient: it comes back along the stream and not through these weights, and the
# input of the branch is not 0. The units differ, because the stream already makes them differ. In ReZero the scales move
# first, and the weights follow from step 2 on. Same plan and grid as in section 2:

# %%
starts = {"zero-initialized": zero_initialized, "ReZero": rezero}
nothing = parallel_map(lambda name: sweep(starts[name], digits, learning_rates=grid, **plan), starts)
nothing = {"a = 1/√L": trained["residual, 50 layers"]} | nothing

# %%
ax = plots.sweeps(nothing, chance=math.log(10))
ax.set_ylim(0.02, 10);

# %% [markdown]
# The last epoch:

# %%
last = report(nothing)
assert max(last.values()) < 0.2

# %% [markdown]
# **What you should see.** All three train 50 layers without any normalization, and the differences between them are small
# beside that between any of them and the plain network. The plus sign does the work; the start only has to keep out of its
# way.

# %% [markdown]
# ## 8 · Where to put the ReLU
#
# He and others compared several orders in 2016. Three of them, with $N$ for batch normalization:
#
# - **original** (He 2015): $x_{l+1} = \text{relu}(x + N(Wx))$, a ReLU *on the stream*;
# - **branch ends in ReLU**: $x_{l+1} = x + \text{relu}(N(Wx))$, the first repair that comes to mind;
# - **pre-activation** (He 2016): $x_{l+1} = x + W\,\text{relu}(N(x))$, nothing on the stream, and both signs written into
#   it.
#
# **Predict.** The second looks harmless. What does a branch that is never negative do to the stream over 30 blocks?

# %%
orders = {"pre-activation": True, "branch ends in ReLU": False}
found = {name: [stream(1.0, seed, order=order) for seed in range(8)] for name, order in orders.items()}


# %% [markdown]
# Without normalization theory is two lines. If the stream has mean square $q$ and mean $m$, then the branch adds a mean of
# $\sqrt{q/\pi}$, and what it adds is correlated with what is there: $q' = 2q + 2m\sqrt{q/\pi}$, $\; m' = m + \sqrt{q/\pi}$.

# %%
q, m, law = 1.0, 0.0, []
for _ in range(30):
    q, m = 2 * q + 2 * m * math.sqrt(q / math.pi), m + math.sqrt(q / math.pi)
    law.append(q)
print(f"growth of the mean square per block, in the end: {law[-1] / law[-2]:.3g} instead of 2")
assert abs(law[-1] / law[-2] - 2.9) < 0.05

# %%
grown = {name: mean_squares(runs)[0] for name, runs in found.items()}
cosines = {name: np.array([run.series("cosine") for run in runs]) for name, runs in found.items()}
for name, cosine in cosines.items():
    print(f"{name:>19}: cosine of two inputs after 30 blocks {np.median(cosine[:, -1]):.2g}")
assert np.median(cosine[:, -1]) > 0.99

# %% [markdown]
# By layer:

# %%
axes = plt.subplots(1, 2)[1]
for name in orders:
    plots.layers(grown[name], label=name, ylabel="mean square", ax=axes[0])
    plots.layers(cosines[name], log_y=False, ylabel="cosine of two inputs", ax=axes[1])
for line in (2.0 ** np.arange(30), np.array(law) / law[0]):
    plots.layers(line, kind="theory", label="theory", ax=axes[0])
axes[0].set_ylim(0.3, 1e18);

# %% [markdown]
# **What you should see.** The stream grows by 2.9 per block instead of 2, since every branch pushes the same way; all
# examples get the same push, and the cosine goes to 1. Now the three orders in training: 50 layers, batch normalization, no
# branch scale, each at its best rate from the grid.


# %%
class ReLUOnStream(networks.Block):
    def forward(self, x):
        return torch.relu(x + self.norm(self.linear(x)))


# %% [markdown]
# It takes the place of every block but the first:


# %%
def original(seed):
    model = deep(50, normalization="batch")(seed)
    for number, block in list(enumerate(model.blocks))[1:]:
        model.blocks[number] = ReLUOnStream(block.linear, block.activation, block.norm)
    return model


# %%
places = {"original": original, "branch ends in ReLU": deep(50, skip=True, normalization="batch")}
places["pre-activation"] = deep(50, normalization="batch", **residual)
placed = parallel_map(lambda name: sweep(places[name], digits, learning_rates=grid, **plan), places)

# %% [markdown]
# The scale is wider this time:

# %%
ax = plots.sweeps(placed, chance=math.log(10))
ax.set_ylim(0.03, 100);

# %% [markdown]
# The last epoch:

# %%
last = report(placed)
assert 2 * last["pre-activation"] < last["original"] < last["branch ends in ReLU"]

# %% [markdown]
# **What you should see.** Pre-activation learns best, and the branch that only adds worst, as in the paper of 2016. All
# three begin above the cost of guessing, because 50 normalized branches add up before the readout (section 4). A branch
# scale or a last normalization, which we left out to compare the orders alone, would begin lower.
#
# With a ReLU on the stream every block can shut a unit's path. It does so ever more rarely, for a unit that has long been
# positive is far from 0 (the exercises of this lesson count how many stay open). At 50 layers this costs some;
# at 1000 He and others could not train it well, and the clean stream they could.

# %% [markdown]
# ## 9 · An older cure: auxiliary classifiers
#
# A year before skips, GoogLeNet (Szegedy 2015) and deeply-supervised nets (Lee 2015) had another answer to a gradient that
# fades on the way: start new gradients on the way. Small classifiers are attached to hidden layers, their losses are added
# with a weight of 0.3, and after training they are thrown away.
#
# **Predict.** 30 plain ReLU layers with Xavier's start, which halves the squared gradient per layer. Classifiers after
# layers 10 and 20, each with a readout of its own. Draw the gradient by layer.


# %%
def gradients_with_heads(heads, seed):
    """Root mean square of the activation gradient by layer, (30,)."""
    model = networks.DeepMLP(30, 64, activation="relu", bias=False, seed=seed, dtype=torch.float64)
    readouts = data.gaussian_batch(64 * 30, 10, seed=100 + seed).reshape(30, 64, 10) / 8
    x, hidden, loss = digits.train_inputs[:256], [], 0.0
    for layer, (block, readout) in enumerate(zip(model.blocks, readouts, strict=True), 1):
        x = block(x)
        hidden.append(x)
        if layer in heads:
            loss = loss + heads[layer] * F.cross_entropy(x @ readout, digits.train_targets[:256])
    return [g.square().mean().sqrt().item() for g in torch.autograd.grad(loss, hidden)]


# %% [markdown]
# Each classifier is a new source, and each source fades alone: at layer $l$ the mean square is
# $\sum_{h \ge l} w_h^2\, 2^{-(h-l)}$, in units of what the last classifier sends in.

# %%
sources = {"one classifier": {30: 1.0}, "three": {10: 0.3, 20: 0.3, 30: 1.0}}
layer, measured, laws = np.arange(1, 31), {}, {}
for name, heads in sources.items():
    gradients = np.array([gradients_with_heads(heads, seed) for seed in range(8)])
    measured[name] = gradients / gradients[:, -1:]
    parts = [weight**2 * np.where(layer <= h, 2.0 ** (layer - h), 0) for h, weight in heads.items()]
    laws[name] = np.sqrt(sum(parts))

# %% [markdown]
# The gradient by layer:

# %%
ax = plt.subplots()[1]
for name in sources:
    plots.layers(measured[name], label=name, ax=ax)
    plots.layers(laws[name], kind="theory", label="theory", ax=ax)
ax.set_ylabel("activation gradient, last layer = 1");

# %% [markdown]
# From the last layer to the first:

# %%
for name, law in laws.items():
    first = np.median(measured[name][:, 0])
    print(f"{name:>14}: gradient of layer 1 / layer 30 {first:.1g}, theory {law[0]:.1g}")
    assert abs(math.log(first / law[0])) < 1

# %% [markdown]
# **What you should see.** A saw. The first layers get their gradient, from a classifier ten layers away. But each source
# cures only its own neighborhood, and what reaches layer 1 serves the goal of layer 10: to classify *there*. The signal of
# the last classifier is as faint as before, as is the activation that arrives at it. A skip carries the *final* goal to
# every layer, and adds no second loss that has to be weighed.

# %% [markdown]
# ## 10 · A thousand layers
#
# Everything together: 1000 residual blocks of 32 units with $a = 1/\sqrt L$, beside 1000 plain layers with He's start.
# First the dashboard, on 64 digits.


# %%
def thousand(seed=0, **options):
    options |= {"activation": "relu", "initialization": "he_normal", "dtype": torch.float64}
    return networks.DeepMLP(1000, 32, seed=seed, **options)


# %% [markdown]
# Two recipes and a batch:

# %%
recipes = {"plain": {}, "residual": residual | {"branch_scale": 1000**-0.5}}
batch = digits.train_inputs[:64], digits.train_targets[:64]

# %% [markdown]
# **Predict.** For each of the four panels: which of the two networks is healthy there?

# %% tags=["nbval-ignore-output"]
# The smallest singular values of the plain network are rounding, which differs between processors.
for options in recipes.values():
    model = thousand(**options)
    found = signals.measure(model, *batch, F.cross_entropy, layers=networks.Block)
    plots.dashboard(found, signals.jacobian_singular_values(model, batch[0][0]))

# %% [markdown]
# Above plain, below residual. Layer 1 against layer 1000:


# %%
def ends(model):
    found = signals.measure(model, *batch, F.cross_entropy, layers=networks.Block)
    variance, gradient = found.series("activation_variance"), found.series("activation_gradient_norm")
    return variance[-1] / variance[0], gradient[0] / gradient[-1], found.series("cosine")[-1]


# %% [markdown]
# Medians of three networks of each kind:

# %%
all_ends = parallel_map(lambda name: [ends(thousand(s, **recipes[name])) for s in range(3)], recipes)
for name, several in all_ends.items():
    variance, gradient, cosine = np.median(several, axis=0)
    print(f"{name:>8}: variance × {variance:.2g}, gradient × {gradient:.2g}, cosine {cosine:.2g}")
assert 1 < variance < 6 and 1 < gradient < 4

# %% [markdown]
# Theory for the residual network is $e$ for the variance and $\sqrt e = 1.6$ for the gradient. At width 32 and depth 1000
# the plain network is the case $L/n = 31$ of lesson 04: He's start is right on average, and the typical network is decades
# from the average.
#
# Does it train? Twenty steps on mini-batches, no normalization, one learning rate, 0.03, for both. (This is a check that
# the thing moves, not a comparison of methods.)


# %%
def twenty_steps(model):
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9), []
    for part in torch.arange(1280).reshape(20, 64):
        loss = F.cross_entropy(model(digits.train_inputs[part]), digits.train_targets[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
def losses_of(name):
    return np.array([twenty_steps(thousand(seed, **recipes[name])) for seed in range(2)])


losses = parallel_map(losses_of, recipes)

# %% [markdown]
# Two seeds each:

# %%
ax = plt.subplots()[1]
for name, values in losses.items():
    plots.curve(np.arange(1, 21), values, label=f"{name}, 1000 layers", xlabel="step", ax=ax)
plots.guide(ax, math.log(10), "guessing: ln 10").set(ylabel="training loss", xticks=range(0, 21, 5));

# %% [markdown]
# The last five steps:

# %%
for name, values in losses.items():
    print(f"{name:>8}: mean loss {values[:, -5:].mean():.2g}")
assert values[:, -5:].mean() < 1 < 2.2 < losses["plain"][:, -5:].mean()

# %% [markdown]
# **What you should see.** A thousand layers that learn from the first step, and a thousand that do nothing. The only
# differences are a plus sign, a number in front of the branch, and the order inside the block.

# %% [markdown]
# ## Check yourself
#
# **1.** A plain network of 50 layers has 60 % training accuracy and 58 % validation accuracy; one of 10 layers has 99 % and
# 95 %. Overfitting?
#
# <details><summary>Answer</summary>
#
# No. Its training accuracy is low: degradation. Overfitting is a gap between the two numbers, with the first one high.
#
# </details>
#
# **2.** You build 100 blocks $x + a\,W\,\text{relu}(x)$ with He's weights and $a = 0.2$. How large is the mean square at
# the end, and which $a$ would give $e$?
#
# <details><summary>Answer</summary>
#
# $1.04^{100} = 50.5$. $a = 1/\sqrt{100} = 0.1$ gives $1.01^{100} = 2.70$, nearly $e$.
#
# </details>
#
# **3.** With a skip, can a gradient still vanish?
#
# <details><summary>Answer</summary>
#
# For random branches not on average: the factor is $1 + a^2\chi \ge 1$. But $I + J$ can be 0 where $J = -I$; a ReLU
# *on the stream* shuts units, and a normalization there divides the skip as well.
#
# </details>
#
# **4.** "Residual networks work since the gradient takes short paths." For which branch scale is that wrong at the start?
#
# <details><summary>Answer</summary>
#
# For $a = 1$ without normalization: the mean path passes half of the branches. It is right where branches are small beside
# the stream: $1/\sqrt L$, or normalized branches deep in the network.
#
# </details>
#
# **5.** Gradient norms are equal in all layers of a deep batch-normalized network without skips, after somebody rescaled
# them layer by layer. Is it healthy?
#
# <details><summary>Answer</summary>
#
# Its scale is. Its gradients are shattered all the same: rescaling does not change a correlation. Neighboring inputs ask
# for unrelated updates.
#
# </details>
#
# **6.** Zero weights everywhere stop a plain network from learning. Why not the last layers of branches?
#
# <details><summary>Answer</summary>
#
# The gradient gets to every block along the stream, and the inputs of the branch differ from unit to unit. Nothing is
# symmetric, and nothing is blocked.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [06_residual_connections](../exercises/06_residual_connections/06_residual_connections.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You showed that 50 plain layers are worse than 10 in training loss, each at its best learning rate, and told degradation
#   from overfitting.
# - You wrote a block's Jacobian as $I + J$, and predicted and measured $2^L$, $e$ and exactly 1 for the branch scales 1,
#   $1/\sqrt L$ and 0. You also met a loss that starts huge since the signal doubled, and left the learning rate alone.
# - You counted paths by length: binomial, with half of the branches on the typical path at $a = 1$ and one at $1/\sqrt L$.
# - You measured shattered gradients, and explained them by the 1.467 per layer of batch normalization; skips turn that
#   exponential into a power.
# - You compared zero branches and ReZero, pre- and post-activation, saw what auxiliary classifiers can and cannot do, and
#   trained 1000 layers.
#
# **So, why?** Since a block that does nothing passes everything on. The gradient reaches each layer along a path that no
# weight multiplies; what remains to be chosen is how loud the branches may be.
#
# ## References
#
# - Lee, Xie, Gallagher, Zhang, Tu (2015), *Deeply-supervised nets*, AISTATS.
# - Szegedy et al. (2015), *Going deeper with convolutions*, CVPR.
# - He, Zhang, Ren, Sun (2016), *Deep residual learning for image recognition*, CVPR.
# - He, Zhang, Ren, Sun (2016), *Identity mappings in deep residual networks*, ECCV.
# - Veit, Wilber, Belongie (2016), *Residual networks behave like ensembles of relatively shallow networks*, NIPS.
# - Balduzzi, Frean, Leary, Lewis, Ma, McWilliams (2017), *The shattered gradients problem: if resnets are the answer, then
#   what is the question?*, ICML.
# - Goyal et al. (2017), *Accurate, large minibatch SGD: training ImageNet in 1 hour*, arXiv 1706.02677.
# - Hanin, Rolnick (2018), *How to start training: the effect of initialization and architecture*, NeurIPS.
# - Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz (2019), *A mean field theory of batch normalization*, ICLR.
# - Zhang, Dauphin, Ma (2019), *Fixup initialization: residual learning without normalization*, ICLR.
# - De, Smith (2020), *Batch normalization biases residual blocks towards the identity function in deep networks*, NeurIPS.
# - Bachlechner, Majumder, Mao, Cottrell, McAuley (2021), *ReZero is all you need: fast convergence at large depth*, UAI.
#
# **Next:** [07 · Gradient clipping](07_gradient_clipping.ipynb). What does one do about a cliff?
