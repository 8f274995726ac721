# %% [markdown]
# # Exercises 01 · The chain rule, one messenger at a time
#
# For [lesson 01](../../notebooks/01_chain_rule_intuition.ipynb). Six exercises, 95 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | One weight, many nodes | 15 | warm-up | 2 |
# | 2 | How many layers does a scale buy? | 5 | easy | 2 |
# | 3 | A growth rate that survives 600 matrices | 20 | medium | 3 |
# | 4 | Three patients | 15 | medium | 3 |
# | 5 | Explain it to a colleague | 15 | medium | 4 |
# | 6 | The critical weight of a narrow, leaky network | 25 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math

import numpy as np

from gradients_in_depth import checks, session, theory

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · One weight, many nodes
#
# *15 minutes · warm-up · 2 points*
#
# In the lesson every node had a weight of its own. A recurrent network has *one*, and uses it at every node:
#
# $$h_k = \tanh(w\,h_{k-1}), \qquad k = 1, \dots, \text{depth}, \qquad h_0 = x, \qquad
# \text{loss} = \tfrac12 (h_{\text{depth}} - \text{target})^2.$$
#
# Return ∂loss/∂w. Work as the courier does, from the loss back to the first node; no autograd. All arguments are
# plain numbers, and depth is 1 or more.

# %% answer shared_weight
def weight_gradient(weight, x, target, depth):
    """The gradient of the loss with respect to the one weight: a number."""
    ### BEGIN SOLUTION
    h = [x]
    for _ in range(depth):
        h.append(math.tanh(weight * h[-1]))
    message, gradient = h[-1] - target, 0.0
    for k in range(depth, 0, -1):
        at_node = message * (1 - h[k] ** 2)
        gradient += at_node * h[k - 1]
        message = at_node * weight
    return gradient
    ### END SOLUTION

# %% [markdown]
# The check tries several depths and random numbers.

# %% check shared_weight
checks.shared_weight(weight_gradient)
### BEGIN HIDDEN TESTS
checks.shared_weight(weight_gradient, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2 · How many layers does a scale buy?
#
# *5 minutes · easy · 2 points*
#
# A message passes layers that each multiply it by 0.25. In float16 nothing is left of 0.25ⁿ from n = 13 on. Now
# somebody multiplies the loss by $2^{16}$ before the courier sets out, so that after n layers the message is
# $2^{16}\cdot 0.25^n$. (Never mind that $2^{16}$ itself is infinite in float16: the product is computed exactly, and
# rounded once.)
#
# **Predict**, with paper and pencil: what is the smallest n at which this message is exactly 0 in float16?

# %% answer scaled_underflow
layers = None  # a whole number
### BEGIN SOLUTION
layers = 21  # 2^(16 - 2n) <= 2^-25, half of the smallest float16: n >= 20.5
### END SOLUTION

# %% check scaled_underflow
checks.scaled_underflow(layers)

# %% [markdown]
# ## Exercise 3 · A growth rate that survives 600 matrices
#
# *20 minutes · medium · 3 points*
#
# Lesson 01 measured Gaussian matrices against a formula. Most matrices have no formula, and a product of many of them
# leaves every number format. Write a function that measures the growth per matrix anyway,
#
# $$\frac1L\,\log\frac{\lVert W_L \cdots W_2 W_1\,v\rVert}{\lVert v\rVert},$$
#
# for the matrices that it is given, `matrices[0]` first. `matrices` is an array (L, n, n), `message` an array (n,) of
# any length but 0; neither may be changed. With 600 matrices the answer has to be as good as with one.

# %% answer growth_rate
def growth(matrices, message):
    """The growth of the message's length per matrix, in natural logarithms: a number."""
    ### BEGIN SOLUTION
    message = message / np.linalg.norm(message)
    total = 0.0
    for matrix in matrices:
        message = matrix @ message
        stretch = np.linalg.norm(message)
        total += math.log(stretch)
        message = message / stretch
    return total / len(matrices)
    ### END SOLUTION

# %% check growth_rate
checks.growth_rate(growth)
### BEGIN HIDDEN TESTS
checks.growth_rate(growth, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 4 · Three patients
#
# *15 minutes · medium · 3 points*
#
# Three networks of twenty linear layers, width 24. One has a **vanishing gradient**, one a **collapsed spectrum**,
# and one nothing but the wrong **number format**. Here are their dashboards. Read them as in lesson 01: SCALE first.

# %%
checks.patient(1);

# %% [markdown]
# The second patient:

# %%
checks.patient(2);

# %% [markdown]
# And the third:

# %%
checks.patient(3);

# %% [markdown]
# Name the disease of each, in the words `"vanishing gradient"`, `"collapsed spectrum"`, `"number format"`. Then, for
# the one whose gradient vanishes: by which factor does one layer multiply the norm of the gradient? Read it off the
# picture, to 2 %. (That is easier than it sounds: an error of 30 % in a reading is shared by all the layers.)

# %% answer patients
diagnosis = {1: None, 2: None, 3: None}
factor = None  # per layer, going back
### BEGIN SOLUTION
diagnosis = {1: "number format", 2: "vanishing gradient", 3: "collapsed spectrum"}
factor = (1.5e-6 / 2.5e-2) ** (1 / 19)  # layer 1 over layer 20, and 19 steps between them
### END SOLUTION

# %% check patients
checks.patients(diagnosis, factor)

# %% [markdown]
# ## Exercise 5 · Explain it to a colleague
#
# *15 minutes · medium · 4 points*
#
# A colleague has tuned the weights until the gradient norm is the same in all of a hundred layers, and says: "Level from
# end to end. Backpropagation in my network is healthy."
#
# Answer in four to eight sentences, without a formula. Why does a level norm not settle it? What may go wrong
# behind it, and what does that do to the first layers? Which *one* measurement would you ask for, and what would you
# expect to see if you are right, and if your colleague is?

# %% text level_norm [markdown]
# A norm is one number, and the message is a vector. Each layer stretches some directions of it more than others, and
# over a hundred layers these differences multiply: the ratio between the best-heard and the worst-heard direction
# grows exponentially even when the weights are tuned so that the typical length stays. Then all errors arrive in the first
# layers as nearly the same message, or its negative: those layers learn how large an error is, and no longer which.
# I would ask for the singular values of the Jacobian from input to output (or the angle between two messages
# that set out at a right angle). If I am right, a few are near 1 and the others fall over many decades (the
# angle closes); if you are right, they all lie within a factor of ten or so (the angle stays), as with orthogonal weights.
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *One number for a vector:* the norm cannot say what happens to different directions, or different errors.
# - *Mechanism:* the differences between directions multiply over layers, also when the typical length is
#   kept. ("Random weights are noisy" alone: no point.)
# - *Consequence:* errors become alike, the first layers cannot tell which error it is. ("It trains badly" alone: no
#   point.)
# - *Measurement, with both outcomes:* singular values or condition number of the Jacobian, or the angle between
#   two messages; what it would show in either case. (Half a point for a measurement without the outcomes, or for
#   "plot the activation norms as well".)
#
# Take off one point, once, for "the gradient vanishes": its norm does not.

# %% [markdown]
# ## Exercise 6 · The critical weight of a narrow, leaky network
#
# *25 minutes · expert · 4 points*
#
# One layer of width $n$ takes a signal $h$ to $\varphi(W h)$, with independent Gaussian weights of mean 0 and standard
# deviation $s$, and $\varphi$ leaky ReLU: $\varphi(z) = z$ for $z > 0$ and $\varphi(z) = a z$ for $z \le 0$. All layers
# have the same width, and the signal passes very many of them.
#
# Return the $s$ at which a **typical** signal neither grows nor shrinks, within 1 %, for widths from 2 to 16 and slopes
# $a$ from 0.1 to 1. A formula, an integral and a simulation are all welcome. (A simulation needs some 100,000 draws
# of *one* layer, and a seed of its own.) `theory.critical_weight_std` knows $a = 1$.

# %% answer critical_std
def critical(width, slope):
    """The critical standard deviation of the weights: a number."""
    ### BEGIN SOLUTION
    draws = np.random.default_rng(0).normal(size=(200_000, width))  # W h for |h| = 1 and s = 1
    signals = np.where(draws > 0, draws, slope * draws)
    return math.exp(-np.log(np.linalg.norm(signals, axis=1)).mean())
    ### END SOLUTION

# %% check critical_std
checks.critical_std(critical)
### BEGIN HIDDEN TESTS
checks.critical_std(critical, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: your function has no answer for $a = 0$. Why not? (What is the chance that a ReLU layer of
# width $n$ answers with nothing but zeros?) And how far off is the mean-square rule $s = \sqrt{2/(n(1+a^2))}$?
#
# <details><summary>Answer</summary>
#
# With a chance of $2^{-n}$ all units are on the wrong side of 0. Nothing passes such a layer, whatever $s$ is: the mean logarithm
# is $-\infty$, and after some $2^n$ layers the signal is gone. In wide layers nobody lives to see it. How far off the rule is,
# the cell below prints: at a slope of 0.1 a lot for four units, and little for sixteen.
#
# </details>

# %%
for width in (4, 16):
    rule = math.sqrt(2 / (width * (1 + 0.1**2)))
    print(f"width {width:>2}, slope 0.1: your s is {critical(width, 0.1) / rule:.2f} times the rule")
ratio = critical(4, 1.0) / theory.critical_weight_std(4)
print(f"width  4, slope 1.0: your s is {ratio:.2f} times what theory says")
