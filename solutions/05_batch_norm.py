# %% [markdown]
# # Exercises 05 · In company
#
# For [lesson 05](../../notebooks/05_batch_norm.ipynb). Six exercises, 110 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | A layer that can go | 15 | warm-up | 2 |
# | 2 | A small variance is forgotten late | 10 | easy | 2 |
# | 3 | The way back through GroupNorm | 25 | medium | 3 |
# | 4 | Sixteen times four | 15 | medium | 4 |
# | 5 | A scale that saves LayerNorm | 20 | hard | 3 |
# | 6 | The learning rate drops | 25 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math

import numpy as np
from scipy.special import expit

from gradients_in_depth import checks, data, networks, session, signals

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · A layer that can go
#
# *15 minutes · warm-up · 2 points*
#
# A colleague puts a trained network on a small device, where it only has to answer: it stays in evaluation mode for good.
# She wants each linear layer, $z = W x + b$, and the BatchNorm right behind it replaced by *one* linear layer that gives
# the same outputs.
#
# Write it for her. `weight` is an array (units, fan_in); `bias`, `gamma`, `beta` and the running `mean` and `variance`
# are arrays (units,); `eps` is a number, not a negligible one. Return the new weight and the new bias, in this order. To
# $10^{-6}$.

# %% answer folded_norm
def fold(weight, bias, mean, variance, gamma, beta, eps):
    """(weight, bias) of one linear layer that does what the two do in evaluation mode."""
    ### BEGIN SOLUTION
    scale = gamma / np.sqrt(variance + eps)
    return scale[:, None] * weight, scale * (bias - mean) + beta
    ### END SOLUTION

# %% check folded_norm
checks.folded_norm(fold)
### BEGIN HIDDEN TESTS
checks.folded_norm(fold, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: she tries the same with the network's LayerNorms. Why does it not work?
#
# <details><summary>Answer</summary>
#
# BatchNorm in evaluation mode computes with numbers that were fixed when training ended, so it is a line. LayerNorm has
# no such numbers: it takes mean and variance from each example anew, so its scale depends on $x$ and no matrix does the
# same. Only its $\gamma$ and $\beta$ can go, when a linear layer comes next.
#
# </details>
#
# ## Exercise 2 · A small variance is forgotten late
#
# *10 minutes · easy · 2 points*
#
# In a network of sigmoids the pre-activations of a unit have the variance 0.01, in each batch, from the first to the last
# (the batches are large, and the layers below are frozen). Its BatchNorm is PyTorch's, with `momentum=0.1`; its running
# variance starts at 1. "After 22 batches nine tenths of the start are forgotten," says a colleague, "that will do."
#
# **Predict**, with paper, pencil and calculator: after how many batches is the running standard deviation for the first
# time at most 10 % larger than the true one? (Leave $\epsilon$ aside.)

# %% answer forgetting_variance
batches = None  # a whole number
### BEGIN SOLUTION
# running variance after n batches: 0.01 + 0.99 · 0.9ⁿ, and it may be 1.1² · 0.01 = 0.0121
batches = math.ceil(math.log(0.0021 / 0.99) / math.log(0.9))
### END SOLUTION

# %% check forgetting_variance
checks.forgetting_variance(batches)

# %% [markdown]
# To think about, without points: how large is the spread of the unit's normalized output in evaluation mode after the
# colleague's 22 batches? And for a true variance of 100, how soon is the running deviation within 10 %?
#
# <details><summary>Answer</summary>
#
# The running variance is $0.01 + 0.99 \cdot 0.9^{22} = 0.11$, eleven times too large, and the spread is
# $1/\sqrt{11} = 0.3$ instead of 1: the sigmoid behind it sees a third of its signal. For a variance of 100 what is left
# of the start hardly matters: $1 - 0.99 \cdot 0.9^n \ge 0.81$ holds from the 16th batch on. Too large is forgotten late,
# too small soon.
#
# </details>
#
# ## Exercise 3 · The way back through GroupNorm
#
# *25 minutes · medium · 3 points*
#
# The lesson wrote the way back through BatchNorm, and then let PyTorch do the other norms. Do GroupNorm by hand. The
# output is
#
# $$\text{output} = \gamma\, y + \beta, \qquad y = \frac{x - \mu}{\sigma},$$
#
# where $\mu$ is the mean, and $\sigma^2$ the variance (divided by the count) plus $\epsilon$, over all pixels of one
# group of channels of one example. The channels are cut into `groups` groups of neighbours, all of one size, as in
# `nn.GroupNorm`. There is one $\gamma$ for each *channel*. `arriving` is the gradient by the output, an array of the
# shape of `x`, (examples, channels, height, width); `gamma` is an array (channels,). Return the gradient by `x`, in
# NumPy, to $10^{-6}$. (`eps` is not negligible.)

# %% answer group_backward
def backward(arriving, x, gamma, groups, eps):
    """The gradient by x: an array of the shape of x."""
    ### BEGIN SOLUTION
    def normalized(a):  # a group of an example is one row, and the lesson's batch lies along it
        return a.reshape(len(x) * groups, -1)

    def mean(a):
        return a.mean(axis=1, keepdims=True)

    z, g = normalized(x), normalized(gamma[:, None, None] * arriving)
    sigma = np.sqrt(mean((z - mean(z)) ** 2) + eps)
    y = (z - mean(z)) / sigma
    return ((g - mean(g) - y * mean(g * y)) / sigma).reshape(x.shape)
    ### END SOLUTION

# %% check group_backward
checks.group_backward(backward)
### BEGIN HIDDEN TESTS
checks.group_backward(backward, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: how many numbers of the gradient does GroupNorm lose, and how many BatchNorm, for (64,
# 32, 8, 8) and 8 groups? And when does GroupNorm pass nothing at all, as BatchNorm does in a batch of two?
#
# <details><summary>Answer</summary>
#
# Two for each group: 2 · 64 · 8 = 1024 of 131,072, and 2 · 32 = 64. Nothing passes when a group has two numbers: two
# channels of a single pixel. No batch, however small, can do that to it, but a choice of `groups` can.
#
# </details>
#
# ## Exercise 4 · Sixteen times four
#
# *15 minutes · medium · 4 points*
#
# A colleague's deep network with BatchNorm in every layer trains well with batches of 64. On her new device only 4
# examples fit. She writes: "I run 16 batches of 4, one after the other, divide each loss by 16, let the gradients add up,
# and take one step. The gradient of a mean is the mean of the gradients. So this *is* the batch of 64, to the last
# digits, only slower." (For her network without BatchNorm she has measured it, and there it is true.)
#
# Answer in five to nine sentences. Where does her argument break? Name *two* things in her training that belong to a
# batch of 4 and not to one of 64, and what each does to the network. Which *one* measurement, without any training,
# settles it, and what does it show if she is right, and if you are? What would you change so that her sentence becomes
# true on this one device, and why does that help?

# %% text accumulated_batches [markdown]
# The gradient of a mean is the mean of the gradients if the loss of an example depends on that example alone, and with
# BatchNorm it does not: it depends on the company. In a batch of 4 each example is normalized with the mean and variance
# of these 4, so that the 16 small losses are not parts of the large one: their mean is another function, with another
# gradient. First, the statistics themselves are of 4: the output of an example changes with its three companions by half
# a standard deviation and more, so that there is much more noise on the way forward, and the network is trained for
# outputs that `eval()`, with its running statistics, will never give it. Second, the way back: at 4 the bracket keeps
# half of the squared gradient and $1/\sigma^2$ is now and then huge, so that random ReLU layers explode by about 1.6 per
# layer instead of 1.2. (Besides, the running statistics now move 16 times in each step.) To settle it I would take the
# same weights and the same 64 images, in training mode, and compare the gradient of one batch of 64 with the sum of the
# 16: if you are right, they agree to rounding error in every layer, as they do in your network without BatchNorm; if I
# am, they point in clearly different directions, the more so the deeper. On one device I would replace BatchNorm by a
# norm that stays within one example, GroupNorm or LayerNorm: then a loss again depends on one example alone, and your
# sentence is true whatever the size of the parts. (`nn.SyncBatchNorm` shares statistics between devices at the same
# moment, and there is one device.)
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *Where it breaks:* the loss of one example depends on the other examples of its small batch, so the loss of 64 is no
#   mean of the 16 losses. ("BatchNorm needs large batches" alone: no point.)
# - *Two things of size 4, with what they do:* two of: noise of the statistics; difference between training and evaluation
#   mode; a larger factor per layer on the way back, or half of the gradient lost; running statistics that move 16 times
#   per step. (Half a point for one.)
# - *Measurement, with both outcomes:* same weights, same examples, training mode; gradients (or outputs, or losses) of 64
#   at once against 16 times 4; equal to rounding, or not. (Half a point without the outcomes. Two training runs side by
#   side: no point, they differ for many reasons.)
# - *Remedy with its reason:* a norm within the example (GroupNorm, LayerNorm), or frozen statistics (BatchNorm in
#   evaluation mode, for a network that has been trained), or activations that are computed again on the way back
#   (checkpointing) so that 64 fit; because the loss of an example then depends on itself alone, or the batch is really
#   one of 64. (Half a point without the reason.)
#
# Take off one point, once, for a remedy that leaves the statistics at 4 and is said to make the sentence true: a smaller
# learning rate, another momentum of the statistics, more small batches.

# %% [markdown]
# ## Exercise 5 · A scale that saves LayerNorm
#
# *20 minutes · hard · 3 points*
#
# In the lesson LayerNorm did not save the sigmoids: of the gradient's norm 0.391 was left per layer. But that was with
# the scale and shift that LayerNorm starts with, $\gamma = 1$ and $\beta = 0$. Suppose that all $\gamma$ of all layers
# are one number $g$, and all $\beta$ are 0. As $g$ grows, more and more of the sigmoid's output is signal, and less of it
# the constant ½.
#
# Somebody hands you a smooth activation as a plain NumPy function of an array, such as `expit`, the sigmoid. For very
# wide random layers, linear → LayerNorm → activation, return the $g$ at which the squared gradient keeps its size from
# layer to layer. To 2 %. There is exactly one, between 0.1 and 50. (At such scales the activation is steep, so let your
# grid or your sample be dense.)

# %% answer rescuing_scale
def scale(activation):
    """The common gamma at which LayerNorm keeps the squared gradient: a number."""
    ### BEGIN SOLUTION
    y = np.linspace(-8, 8, 8001)  # standard normal, as a sum
    chance = np.exp(-(y**2) / 2) / np.exp(-(y**2) / 2).sum()
    low, high = 0.1, 50.0
    for _ in range(40):
        g = math.sqrt(low * high)
        slope = (activation(g * y + 1e-5) - activation(g * y - 1e-5)) / 2e-5
        factor = chance @ (g * slope) ** 2 / (chance @ activation(g * y) ** 2)  # d/dy of φ(g y) is g φ'
        low, high = (g, high) if factor < 1 else (low, g)
    return g
    ### END SOLUTION

# %% check rescuing_scale
checks.rescuing_scale(scale)
### BEGIN HIDDEN TESTS
checks.rescuing_scale(scale, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Measured, in eight networks of ten sigmoid layers, as in the lesson: what reaches layer 1 of the gradient in layer 10.

# %%
def reaching(gamma, seed):
    settings = {"normalization": "layer", "initialization": "xavier_normal", "in_features": 128}
    model = networks.DeepMLP(10, 128, activation="sigmoid", seed=seed, **settings).double()
    for block in model.blocks:
        block.norm.weight.data.fill_(gamma)
    x, arriving = data.gaussian_batch(64, 128, 100 + seed), data.gaussian_batch(64, 10, 200 + seed)
    run = signals.measure(model, x, loss_fn=lambda out: (out * arriving).sum(), layers=networks.Block)
    norms = run.series("activation_gradient_norm")
    return norms[0] / norms[-1]

# %% [markdown]
# With the scale that LayerNorm starts with, and with yours:

# %%
for gamma in (1.0, scale(expit)):
    found = [reaching(gamma, seed) for seed in range(8)]
    print(f"scale {gamma:.3g}: {np.median(found):.2g} of it ({min(found):.2g} to {max(found):.2g})")

# %% [markdown]
# To think about, without points: no scale at all is needed if one subtracts a constant from the activation. Which one?
# And why does the same exercise have no answer for BatchNorm?
#
# <details><summary>Answer</summary>
#
# Its mean, ½ for the sigmoid: then mean square and variance are the same, and LayerNorm has BatchNorm's factor, 1.02. For
# BatchNorm the Poincaré inequality, applied to $\psi(y) = \varphi(g\,y)$, gives a factor above 1 for every scale, and 1
# only in the limit $g \to 0$, where $\psi$ is a straight line.
#
# </details>
#
# ## Exercise 6 · The learning rate drops
#
# *25 minutes · expert · 4 points*
#
# The weights of a layer before BatchNorm are trained by plain SGD, without momentum, with weight decay:
# $W \leftarrow (1 - \eta\lambda)\,W - \eta\, g$, with $\eta = 0.1$ and $\lambda = 0.01$. That has gone on for so long
# that shrinking and growing balance. Now the learning rate drops to a tenth, $\eta = 0.01$, and stays there.
#
# The loss does not know the length of $W$. So $g$ is perpendicular to $W$, and $\lVert g\rVert = c / \lVert W \rVert$;
# assume that $c$ is the same number in every step, before and after. Look at the angle by which one step turns the
# weights.
#
# **Predict**, with paper and pencil (a loop may be the judge afterwards), all three to 2 %:
#
# - `at_once`: the angle of the first step after the drop, divided by that of the last step before it;
# - `in_the_end`: the angle when shrinking and growing balance again, divided by that of the last step before the drop;
# - `steps`: how many steps after the drop the angle is *twice* that of the first step after it.

# %% answer turning_rate
at_once = None  # a number
in_the_end = None  # a number
steps = None  # a number
### BEGIN SOLUTION
# The angle is η‖g‖/‖W‖ = η c / ‖W‖². At once η changes, and ‖W‖ does not:
at_once = 1 / 10
# Balance: sqrt(2 η λ), as in the lesson.
in_the_end = 1 / math.sqrt(10)
# ‖W‖² -> (1 - 2ηλ) ‖W‖² + η²c²/‖W‖². Times itself, without the smaller terms:
# ‖W‖⁴ -> (1 - 4ηλ) ‖W‖⁴ + 2η²c², exponentially from 1 to 1/10 (it balances at ηc² / 2λ).
# Twice the angle is a quarter of ‖W‖⁴: 1/10 + 9/10 exp(-4ηλ n) = 1/4, and exp(4ηλ n) = 6
steps = math.log(6) / (4 * 0.01 * 0.01)
### END SOLUTION

# %% check turning_rate
checks.turning_rate(at_once, in_the_end, steps)

# %% [markdown]
# To think about, without points: the classical recipe for ImageNet has $\eta = 0.1$, then 0.01 from epoch 30 on,
# $\lambda = 0.0001$, momentum 0.9, and 5000 steps per epoch. Momentum 0.9 acts roughly like a learning rate ten times as
# large. Is the new balance reached before the next drop, at epoch 60? And what would you see in the training loss on the
# way?
#
# <details><summary>Answer</summary>
#
# $1/(4\eta\lambda)$ is $1/(4 \cdot 0.1 \cdot 0.0001)$ = 25,000 steps, five epochs. So yes, within some 15 epochs. The
# drop makes the steps ten times smaller and the loss falls at once, as in every such curve; then the angle creeps up to
# three times its value just after the drop, and with it the noise of SGD, so that the loss may rise again a little. It is
# not overfitting: the *training* loss does it.
#
# </details>
