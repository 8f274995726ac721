# %% [markdown]
# # Exercises 07 · How long may a step be?
#
# For [lesson 07](../../notebooks/07_gradient_clipping.ipynb). Five exercises, 85 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | One norm for all of them | 10 | warm-up | 2 |
# | 2 | A bias that remembers | 10 | easy | 3 |
# | 3 | Back through every step | 20 | medium | 4 |
# | 4 | "A smaller threshold is safer" | 15 | medium | 4 |
# | 5 | The angle of a clipped Laplace gradient | 30 | expert | 5 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math

import numpy as np

from gradients_in_depth import checks, data, plots, session

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · One norm for all of them
#
# *10 minutes · warm-up · 2 points*
#
# `gradients` is a list of NumPy arrays of any shapes, one for each parameter of a network; `threshold` is a positive number.
# Clip them by their *global* norm: return a list of new arrays, of the same shapes and in the same order. The list
# that you are given stays as it is. (All gradients may be 0. No small number against division by 0 is needed, if you ask
# the right question first.)


# %% answer joint_clip
def clip(gradients, threshold):
    """The gradients, clipped by their global norm: a list of arrays."""
    ### BEGIN SOLUTION
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    factor = threshold / norm if norm > threshold else 1.0
    return [factor * g for g in gradients]
    ### END SOLUTION


# %% check joint_clip
checks.joint_clip(clip)
### BEGIN HIDDEN TESTS
checks.joint_clip(clip, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2 · A bias that remembers
#
# *10 minutes · easy · 3 points*
#
# Along the cell of an LSTM the gradient is multiplied by its forget gates. At the start of training take each of them to be the
# sigmoid of the forget bias, and look at this path alone. **Predict**, with a calculator:
#
# - `bias`: the forget bias with which half of the gradient is left after 100 steps (to 1 %);
# - `steps`: with a forget bias of 1, the first number of steps after which less than a hundredth is left (a whole number).

# %% answer remembering_bias
bias = None  # a number
steps = None  # a whole number
### BEGIN SOLUTION
gate = 0.5 ** (1 / 100)  # 0.9931: the hundredth root of what is left
bias = math.log(gate / (1 - gate))  # the sigmoid turned around; nearly log(100 / log 2)
steps = math.ceil(math.log(0.01) / math.log(1 / (1 + math.exp(-1))))  # 14.7, so the 15th
### END SOLUTION

# %% check remembering_bias
checks.remembering_bias(bias, steps)

# %% [markdown]
# To think about, without points: a forget bias of 5 nearly does it for 100 steps. What would it do to a task in which the cell has to
# forget?
#
# ## Exercise 3 · Back through every step
#
# *20 minutes · medium · 4 points*
#
# A plain recurrent network, its inputs $x_t$ already multiplied by their weights:
#
# $$h_t = \tanh(U h_{t-1} + x_t), \qquad t = 1, \dots, T, \qquad h_0 = 0 .$$
#
# `U` is $(n, n)$, `x` is $(T, n)$, and `arriving` $(n)$ is $\partial\,\text{loss} / \partial h_T$. Return the norms of
# $\partial\,\text{loss} / \partial h_t$ for $t = 1, \dots, T$, in this order: an array $(T)$. By hand, with NumPy; no autograd.


# %% answer state_gradients
def gradient_norms(U, x, arriving):
    """Norms of the gradient of the loss by each state, the first state first: an array (T,)."""
    ### BEGIN SOLUTION
    states = [np.zeros(len(U))]
    for x_t in x:
        states.append(np.tanh(U @ states[-1] + x_t))
    gradient, norms = arriving, []
    for state in reversed(states[1:]):
        norms.append(np.linalg.norm(gradient))
        gradient = U.T @ ((1 - state**2) * gradient)  # from h_t to h_{t-1}
    return np.array(norms[::-1])
    ### END SOLUTION


# %% check state_gradients
checks.state_gradients(gradient_norms)
### BEGIN HIDDEN TESTS
checks.state_gradients(gradient_norms, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Three networks of 64 units over 60 steps, with a random rotation times 1.2 for $U$, and inputs of three sizes. **Predict** before
# you run it: which of them explodes, which vanishes, although all have the same $U$?

# %%
rotation = np.linalg.qr(data.gaussian_batch(64, 64, seed=1).numpy())[0]
noise, last = data.gaussian_batch(60, 64, seed=2).numpy(), np.ones(64) / 8

# %% [markdown]
# The last step is on the right, where the gradient begins its way back with norm 1:

# %%
ax = None
for size in (0.01, 0.3, 1.0):
    norms, name = gradient_norms(1.2 * rotation, size * noise, last), f"inputs of size {size:g}"
    ax = plots.curve(np.arange(1, 61), norms, kind="line", xlabel="step t", label=name, log_y=True, ax=ax)
ax.set(ylabel="norm of ∂loss/∂h", ylim=(1e-10, 1e6));

# %% [markdown]
# <details><summary>What it shows</summary>
#
# All singular values of $U$ are 1.2, so the gradient *may* grow by 1.2 per step. It does so only on the left of the first line, where
# small inputs have not yet filled the states. Then the states settle at a size at which the slopes take back what
# $U$ gives, or more: with small inputs the two nearly cancel; with large ones tanh saturates and the gradient vanishes. Above 1 the largest singular value is necessary for an explosion, and not sufficient.
#
# </details>
#
# ## Exercise 4 · "A smaller threshold is safer"
#
# *15 minutes · medium · 4 points*
#
# A log of the global gradient norm, *before* clipping, of 20,000 steps of SGD: median 0.8, 90 % of the steps below 1.4, 99.9 % below
# 3; and seven steps between 200 and 9000. After the third of these seven the loss rose from 1.2 to 4.1 and took 2000 steps to come
# back. So far nothing is clipped. A colleague writes: "I set the clipping threshold to 0.05, to be on the safe side. A smaller threshold
# is always safer: no step can do harm any more."
#
# Answer in four to seven sentences: What does a threshold of 0.05 do to the *ordinary* steps of this run, and to the loss curve?
# Which threshold would you choose from this log, and what does it do to the ordinary steps and to the seven? What would you
# look at in the log afterwards? And what will no threshold repair?

# %% text smaller_is_safer [markdown]
# With 0.05 nearly every step is clipped, since the median is 0.8: every update has the same length, a sixteenth of what an ordinary
# one had, so that it amounts to a learning rate about sixteen times smaller, and one that no longer falls as the gradient does near
# a minimum. Training becomes slow, and nobody who reads the learning rate in the configuration will know why. I would set it just
# above the ordinary steps, at 3 to 5: fewer than one step in a thousand is touched, the directions of the ordinary ones and their
# lengths stay, and the seven are cut by a factor of 40 to 3000 to the length of a large ordinary step. Afterwards I would keep
# logging the norm before clipping, and the share of clipped steps: if it grows beyond a per cent or so, something has changed, and
# the threshold or the learning rate has to be chosen anew. No threshold repairs the cause of the seven (a bad batch, a cliff, a number format near its
# limit), and a gradient that is too small is not made any larger by it; the direction of a step over a cliff is also still one
# that an ordinary step might better not take.
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *What 0.05 does:* nearly all steps are clipped, which is a learning rate about sixteen times smaller (any number from 10 to 20, or
#   "much smaller" with the reason). Half a point for "slow" without the reason.
# - *A threshold from the quantiles:* between the 99.9 % quantile and the spikes (3 to about 100 counts if it is argued), and that it leaves ordinary steps alone
#   and cuts the seven. Half a point for the number alone.
# - *What to look at:* the norm before clipping and the share of clipped steps (half a point for one of them).
# - *What it does not repair:* the cause of the spikes, or a vanished gradient (one is enough, with a reason).
#
# Take off one point, once, for "clipping changes the direction of the step" without the word "by value".

# %% [markdown]
# ## Exercise 5 · The angle of a clipped Laplace gradient
#
# *30 minutes · expert · 5 points*
#
# In the lesson, clipping Gaussian entries *by value* turned their vector by 37 degrees at most, and the entries of a real network
# by more. Real entries have heavier tails. Take very many independent entries $g$ whose sizes $|g|$ have the density
# $e^{-|g|/m}/m$ on $|g| > 0$, with either sign equally likely (a Laplace law; $m$ is the mean size). Each is
# clipped to $[-c, c]$.
#
# By how many **degrees** does the vector turn? Write it as a function of the mean size $m > 0$ and the threshold $c > 0$, with one number for an
# answer, to 1 %. $c$ lies between $m/50$ and $5 m$. (A simulation is too noisy for the check; two integrals, by hand or by
# `scipy.integrate.quad`, are not.)


# %% answer laplace_angle
def turned_by(m, c):
    """Degrees between many Laplace entries of mean size m and the same, clipped at c: a number."""
    ### BEGIN SOLUTION
    t, tail = c / m, math.exp(-c / m)  # only the ratio matters
    product = 2 - (t + 2) * tail  # E[g clip(g)] / m²
    square = 2 - (2 * t + 2) * tail  # E[clip(g)²] / m²
    return math.degrees(math.acos(product / math.sqrt(2 * square)))  # E[g²] = 2 m²
    ### END SOLUTION


# %% check laplace_angle
checks.laplace_angle(turned_by)
### BEGIN HIDDEN TESTS
checks.laplace_angle(turned_by, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# From a tiny threshold, where only signs are left, to a large one:

# %%
for ratio in (0.02, 0.5, 1, 2, 5):
    print(f"threshold {ratio:4.2g} times the mean size: {turned_by(1.0, ratio):.2g} degrees")

# %% [markdown]
# To think about, without points: the limit for a tiny threshold is 45 degrees here and 37 for Gaussian entries. Which number, that can be
# measured from any gradient without clipping it, gives this limit for *every* law?
#
# <details><summary>Answer</summary>
#
# The mean size over the root mean square: $\cos\angle = \mathbb E|g| / \sqrt{\mathbb E[g^2]}$, for a vector of signs has the
# product $\mathbb E|g|$ with $g$, and length 1. It is $\sqrt{2/\pi}$ for a normal law, $1/\sqrt2$ for this one, and $1/\sqrt n$ for one entry among $n$.
#
# </details>
