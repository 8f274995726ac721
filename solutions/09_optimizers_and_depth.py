# %% [markdown]
# # Exercises 09 · What an average remembers
#
# For [lesson 09](../../notebooks/09_optimizers_and_depth.ipynb). Six exercises, 105 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | Dropout as it was in 2012 | 10 | warm-up | 2 |
# | 2 | Nothing of the fold that is left out | 15 | easy | 2 |
# | 3 | A penalty that Adam cannot divide away | 20 | medium | 3 |
# | 4 | One bad image | 15 | medium | 3 |
# | 5 | "Five times as many layers, so it overfits" | 15 | hard | 4 |
# | 6 | The word that comes once in a thousand steps | 30 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import numpy as np
import torch

from gradients_in_depth import checks, data, plots, session

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · Dropout as it was in 2012
#
# *10 minutes · warm-up · 2 points*
#
# The dropout of the lesson, and of PyTorch, is *inverted*: in training each unit is kept with probability `keep` and then
# divided by `keep`, and in evaluation nothing happens. The dropout of the first papers was the other way round. In training a unit was
# kept with probability `keep` and left as it was, or set to 0. In evaluation every unit was there, multiplied by `keep`.
#
# A wide network has no biases. Each layer is a matrix of Gaussian weights, a ReLU, dropout. Which `weight_var`, that is
# $\mathrm{Var}(w)\cdot$ `fan_in`, keeps the mean square of the pre-activations from layer to layer? Answer for both kinds of
# dropout (`inverted` is True or False) and for both modes (`training` is True or False); `keep` is a number above 0, at most 1.

# %% answer dropout_start
def start(keep, inverted, training):
    """The weight_var that keeps the mean square of the pre-activations: a number."""
    ### BEGIN SOLUTION
    if training:  # a share `keep` of the squares is left, and each is divided by keep² or not
        factor = keep / keep**2 if inverted else keep
    else:
        factor = 1 if inverted else keep**2
    return 2 / factor  # 2: the ReLU leaves half of a mean square
    ### END SOLUTION

# %% check dropout_start
checks.dropout_start(start)
### BEGIN HIDDEN TESTS
checks.dropout_start(start, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: the lesson found no start that is right in both modes. Would the old dropout have one?
#
# <details><summary>Answer</summary>
#
# No. Either way the mean square in training is 1/`keep` times that in evaluation, in every layer: where the division stands
# moves both modes, and leaves their ratio. Both kinds keep the *mean* the same in both modes, and a mask adds variance to it.
#
# </details>
#
# ## Exercise 2 · Nothing of the fold that is left out
#
# *15 minutes · easy · 2 points*
#
# The small print of the lesson's last section confesses: the pixels were standardized once, and not anew in each fold. Do it right.
# `inputs` is an array (images, pixels). `fold` is an array (images,) of whole numbers from 0 to k − 1: image `i` is left
# out, to be tested on, when fold `fold[i]` is.
#
# Return an array (k, images, pixels). Entry `[f]` has **all** images, those left out too, as the network meets them that is trained
# when fold f is left out: each pixel minus its mean, divided by its standard deviation (that of `np.std`). Both numbers come
# from the images which that training may look at. A pixel that has the same value in all of these is divided by 1.

# %% answer leakfree_folds
def standardized(inputs, fold):
    """All images once for each fold, by the statistics of the other folds: (k, images, pixels)."""
    ### BEGIN SOLUTION
    found = []
    for f in range(fold.max() + 1):
        seen = inputs[fold != f]
        spread = np.where(np.ptp(seen, axis=0) > 0, seen.std(axis=0), 1.0)
        found.append((inputs - seen.mean(axis=0)) / spread)
    return np.array(found)
    ### END SOLUTION

# %% check leakfree_folds
checks.leakfree_folds(standardized)
### BEGIN HIDDEN TESTS
checks.leakfree_folds(standardized, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Does it matter for the digits? Of each fold that is left out, the mean square of all pixels. Four of the 64 are blank in all
# images, so without any luck it would be 60/64 = 0.94.

# %%
digits = data.digits(dtype=torch.float64)
images, fold = digits.train_inputs.numpy(), np.arange(len(digits.train_inputs)) % 5
squares = [np.mean(part[fold == f] ** 2) for f, part in enumerate(standardized(images, fold))]
print("left out:", ", ".join(f"{square:.2f}" for square in squares))

# %% [markdown]
# To think about, without points: which fold stands out, and what kind of pixel makes it so? And which leak of the lesson
# flatters its table more?
#
# <details><summary>Answer</summary>
#
# The fourth. Some pixels at the edge are blank but for a handful of images. If these are left out together, the others say that this
# pixel hardly ever varies, and divide by next to nothing: such an image then lies far outside of what the network knows. Standardized
# once, it helps to set its own scale and looks tame, which flatters. Choosing the learning rate by the same folds flatters more as a rule:
# that choice looks at the *labels* of the images left out, and the standardization at their pixels only.
#
# </details>
#
# ## Exercise 3 · A penalty that Adam cannot divide away
#
# *20 minutes · medium · 3 points*
#
# With Adam an L2 penalty is divided by $\sqrt v$ as everything else is. AdamW takes it out of the gradient. One step: first
# every weight is multiplied by $1 - \text{lr}\,\lambda$; then the weight takes Adam's step, both averages of which have never
# seen λ.
#
# Write it, in NumPy. `gradients` (steps, weights) are those of the loss alone, whatever the weights do; `start` (weights,) is where they
# begin; `lr` and `weight_decay` (that is λ) are numbers. The rest is as in the lesson: $\beta_1 = 0.9$, $\beta_2 = 0.999$,
# $\varepsilon = 10^{-8}$, both averages with their bias correction. Return the weights after each step: (steps, weights).

# %% answer decoupled_decay
def adamw(gradients, start, lr, weight_decay):
    """The weights after each step of AdamW: (steps, weights)."""
    ### BEGIN SOLUTION
    w, m, v, path = start, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w * (1 - lr * weight_decay) - lr * step
        path.append(w)
    return np.array(path)
    ### END SOLUTION

# %% check decoupled_decay
checks.decoupled_decay(adamw)
### BEGIN HIDDEN TESTS
checks.decoupled_decay(adamw, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# What is it good for? Three groups of 500 weights start at 1. Their gradients are noise of three sizes, and λ is the same for all.
# What is left of each group after 1000 steps: with Adam, where λ times the weight is a part of the gradient, and with yours?

# %%
def with_penalty(gradients, lr=0.001, weight_decay=0.3):
    """Mean of the weights after torch.optim.Adam has had the gradients and the slope of the penalty."""
    w = torch.ones(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=lr, weight_decay=weight_decay)
    for w.grad in gradients:
        optimizer.step()
    return w.mean().item()

# %% [markdown]
# Both on the same gradients:

# %%
for size in (30.0, 3.0, 0.3):
    noise = size * data.gaussian_batch(1000, 500, seed=0)
    left = adamw(noise.numpy(), np.ones(500), 0.001, 0.3)[-1].mean()
    print(f"noise {size:4}: Adam with L2 leaves {with_penalty(noise):5.2f}, AdamW leaves {left:.2f}")

# %% [markdown]
# L2 in the gradient takes much from weights with small gradients and hardly anything from those with large ones. AdamW takes the
# same share of all.
#
# ## Exercise 4 · One bad image
#
# *15 minutes · medium · 3 points*
#
# Adam with $\beta_1 = 0.9$ and $\beta_2 = 0.999$ has run for a very long time, and ε is far too small to matter. The
# gradient of one weight has been 1 in every step, and so each of its steps is one learning rate. Then comes an image with a broken pixel: in
# *one* step the gradient is 400. After that it is 1 again, in every step.
#
# For a moment the steps are larger than usual. Then they are much smaller, and grow again. **Predict**, with paper and a
# calculator: how many steps after the bad one is a step back at *half* the learning rate? Within 2 % will do.

# %% answer after_spike
steps = None  # a number
### BEGIN SOLUTION
# m has long forgotten it: m = 1. A step of ½ is v = 4, and v = 1 + 0.001 · (400² - 1) · 0.999^k
steps = np.log(0.001 * (400**2 - 1) / 3) / -np.log(0.999)
### END SOLUTION

# %% check after_spike
checks.after_spike(steps)

# %% [markdown]
# To think about, without points: what does a bad image of 4000 in place of 400 cost? And what does clipping the
# gradient at 10 (lesson 07) save?
#
# <details><summary>Answer</summary>
#
# A factor of 10 in the gradient is one of 100 in its square, and adds ln 100 / 0.001 = 4600 steps, to any spike: the time
# grows as its logarithm. Clipped at 10 the spike adds 0.001 · 99 = 0.1 to v, and no step is ever smaller than 0.95 of the rate.
# With Adam it is the square in v that clipping is for: what the spike itself moves, by way of m, is some thirty learning rates,
# and what it keeps from being moved are thousands.
#
# </details>
#
# ## Exercise 5 · "Five times as many layers, so it overfits"
#
# *15 minutes · hard · 4 points*
#
# A colleague trains two plain ReLU networks of one width on the same images: He's start, Adam, no normalization, no skips. With 4 layers
# 3 % of the validation images are wrong, with 20 layers 12 %. "Five times as many layers, five times as many parameters," he writes, "so it
# overfits." He puts dropout with $p = 0.5$ behind each of the twenty layers and leaves everything else as it is. Now it is 70 %, in
# training and in validation.
#
# Answer in five to nine sentences, without a formula. Which one curve, which he has already, decides whether he is right, and what does
# it look like in either case? Why does *this* dropout hurt *this* network, even if he is right: what do twenty such layers
# do to its signals in training, and what in evaluation? If he is wrong, what would you measure next, and what could you find?
# And what do you advise him to do first, in either case?

# %% text deeper_is_worse [markdown]
# The training loss decides. If he is right it is about as low for 20 layers as for 4, or lower, while the validation loss has turned
# upwards: the network has learned its images by heart. If he is wrong, the training loss of the deep network is higher as well: it never gets there, and
# whatever holds a network back from fitting makes that worse. His dropout does more harm than that. Inverted dropout keeps the mean of a
# unit, but doubles its mean square in each layer, and He's start was exactly right without it. So in training the signal grows by a factor of two in
# every layer, a million over the twenty, and the gradient with it; in evaluation no unit is dropped and the factor is gone, so that the network is tested at
# another scale than the one it was trained at. No choice of the weights is right in both. If he is wrong I would put the dashboard on the deep network:
# signals and gradients that fall or rise by layer are a matter of the start; inputs that become alike, or singular values that
# are lost, are not, and ask for skips or normalization. First of all, take the dropout out. If it overfits, try a penalty or fewer
# epochs on the network as it is, chosen on images that do not report; if it does not get there, use the 4 layers, which are better already, or
# add skips.
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *Training loss, with both outcomes:* as low as (or lower than) that of 4 layers means overfitting, higher means that it is
#   not trained. (Half a point without one of the outcomes. The *validation* loss or the gap alone: no point, if it is not said that the
#   training loss of 20 layers has to be compared with that of 4.)
# - *Dropout and scale in training:* the mean square grows by 1/p in each of twenty layers, since He's start is critical without dropout; signals
#   and gradients explode. ("It loses information" alone: half a point.)
# - *Evaluation:* there the factor is missing, so the two modes differ by it, and no start is right in both. (Half a point for "dropout is off in
#   evaluation" without what follows for the scale.)
# - *Next measurement and advice:* signals and gradients by layer, or cosines, or singular values, with one thing that could be found; and advice that fits
#   each case: regularization only for overfitting; fewer layers, skips, normalization for the other. (Half a point for one of the two.)
#
# Take off one point, once, for "vanishing" as a fact: nothing in the question has measured it.

# %% [markdown]
# ## Exercise 6 · The word that comes once in a thousand steps
#
# *30 minutes · expert · 4 points*
#
# A weight belongs to a rare word (or to a unit that is seldom awake). Its gradient is 0, but for one step in every `period` steps,
# and there it is always the same number $g > 0$. With SGD each occurrence moves the weight by one learning rate times $g$, however rare it is.
# And with Adam?
#
# ε is 0, and training has gone on for so long that nothing depends on how it began. Return how far the weight moves in *one
# period*, in learning rates: a positive number, to 1 %. `period` is a whole number from 1 on, `beta1` and `beta2` are Adam's, with
# `beta1`² < `beta2`. A formula and a simulation are both welcome.

# %% answer rare_gradient
def movement(period, beta1, beta2):
    """How far Adam moves the weight from one occurrence to the next, in learning rates: a number."""
    ### BEGIN SOLUTION
    # g = 1: it drops out. k steps after an occurrence m and v are what is left of it and of all before.
    k = np.arange(period)
    m = (1 - beta1) * beta1**k / (1 - beta1**period)
    v = (1 - beta2) * beta2**k / (1 - beta2**period)
    return np.sum(m / np.sqrt(v))
    ### END SOLUTION

# %% check rare_gradient
checks.rare_gradient(movement)
### BEGIN HIDDEN TESTS
checks.rare_gradient(movement, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Your function against the period, beside its root:

# %%
periods = np.unique(np.geomspace(1, 30_000, 25).astype(int))
moved = [movement(period, 0.9, 0.999) for period in periods.tolist()]
ax = plots.curve(periods, moved, label="Adam", xlabel="period", log_x=True, log_y=True)
plots.curve(periods, np.sqrt(periods), kind="line", label="√period", ax=ax)
ax.set(ylabel="learning rates per occurrence", ylim=(0.7, 300));

# %% [markdown]
# To think about, without points: why the root, and why does it end? And what happens if `beta1`² is *larger* than `beta2`?
#
# <details><summary>Answer</summary>
#
# What m hands out over a period adds up to g, whatever the period. As long as that is short beside the memory of v, v hardly changes:
# it is g² / period, the mean of the squares, and √v is g / √period. So each occurrence counts √period times, where it counts
# once with SGD. That is how Adam helps rare words. Beyond some 1000 steps v forgets one occurrence before the next, and each is a lone gradient:
# it moves the weight by about 32 learning rates, however small it is, and less only where ε stops it.
#
# m falls by `beta1` in each step, and √v by √`beta2`. If m falls more slowly, the steps *grow* while nothing comes in, the
# longer the more. Proofs about Adam and its relatives ask for `beta1` < √`beta2` (Reddi, Kale, Kumar 2018); the defaults are on the
# safe side.
#
# </details>
