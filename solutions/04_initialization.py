# %% [markdown]
# # Exercises 04 · How large, exactly?
#
# For [lesson 04](../../notebooks/04_initialization.ipynb). Six exercises, 105 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | Where do two thirds of the variance go? | 15 | warm-up | 2 |
# | 2 | A purse of 400,000 weights | 10 | easy | 2 |
# | 3 | What is a layer worth? | 25 | medium | 3 |
# | 4 | Four starts | 15 | medium | 3 |
# | 5 | "Equal in all layers, so nothing vanishes" | 15 | medium | 4 |
# | 6 | The edge of an activation without a name | 25 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math

import numpy as np

from gradients_in_depth import checks, session, theory

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · Where do two thirds of the variance go?
#
# *15 minutes · warm-up · 2 points*
#
# A colleague builds deep networks of convolutions, each of which hears what a leaky ReLU lets through. He draws the
# weights uniformly between −s and s, and has looked three times: s is He's standard deviation, the 2 is there, and the
# slope of the leak. Still, from each layer to the next, two thirds of the variance is lost.
#
# Write his function for him. `shape` is the shape of a weight as PyTorch stores it: `(fan_out, fan_in)` for a linear
# layer, `(channels out, channels in, *kernel)` for a convolution over one, two or more dimensions. `slope` is what
# negative numbers are multiplied by in the activation before it. Return the bound of the uniform law that keeps
# the scale of the signal going *forward*.

# %% answer uniform_bound
def bound(shape, slope):
    """The b for which weights uniform on [-b, b] keep the forward scale: a number."""
    ### BEGIN SOLUTION
    fan_in = math.prod(shape[1:])  # one output sums over all channels and all places of the kernel
    variance = 2 / (1 + slope**2) / fan_in
    return math.sqrt(3 * variance)  # a uniform law on [-b, b] has variance b²/3
    ### END SOLUTION

# %% check uniform_bound
checks.uniform_bound(bound)
### BEGIN HIDDEN TESTS
checks.uniform_bound(bound, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2 · A purse of 400,000 weights
#
# *10 minutes · easy · 2 points*
#
# You may spend 400,000 weights on the hidden layers of a ReLU network with He's start: $L$ layers of $n$ units, $n^2$
# weights each, so $L\,n^2 = 400{,}000$. With 40 layers of 100 units two seeds typically differ by a factor of $e$ in their
# gradients: the variance of one logarithm is $\tfrac54 L/n = \tfrac12$, that of a difference of two is 1. (As in the lesson, the
# typical factor is $e$ to the power of one standard deviation of the difference.)
#
# **Predict**, with paper and pencil (and a calculator): you spend the same weights on more and more layers. At how many
# layers is the typical factor between two seeds 10? Within 2 % will do.

# %% answer layer_budget
layers = None  # a number
### BEGIN SOLUTION
# 2 · 5/4 · L/n = (ln 10)², and n = sqrt(400,000 / L): 57 units, as it turns out
# L/n = L^1.5 / sqrt(400,000), and that is to be (ln 10)² / 2.5
layers = (math.log(10) ** 2 / 2.5 * math.sqrt(400_000)) ** (2 / 3)
### END SOLUTION

# %% check layer_budget
checks.layer_budget(layers)

# %% [markdown]
# To think about, without points: ten times as many weights, and the same factor of 10. How many layers are that?
#
# <details><summary>Answer</summary>
#
# Depth over width has to stay. Twice the depth with twice the width costs 2 · 4 = 8 times the weights, so that depth grows as
# the cube root of the purse: about 2.15 times the layers for ten times the weights.
#
# </details>
#
# ## Exercise 3 · What is a layer worth?
#
# *25 minutes · medium · 3 points*
#
# In the lesson all weights of a layer were equal, its gradient had rank 1, and 16 units were worth one. Between that
# and random weights lies everything that people do to a start: they copy units to make a network wider, mirror them to
# make its first output 0, set some weights to 0.
#
# A network has one hidden layer, $h = \tanh(W_{\text{in}}\,x)$, outputs $W_{\text{out}}\,h$, no biases, and is trained by plain
# gradient descent with all the data in each step. Data and targets have no special structure. Given both weights at the
# *start*, return what the layer is worth:
#
# - units that send the same signal at the start and after every step, or one the opposite of the other, count as *one*;
# - a unit that sends 0 at the start and after every step counts as *none*.
#
# `incoming` is an array (width, fan_in), `outgoing` an array (fan_out, width), as PyTorch stores them. Numbers that should be
# equal are exactly equal.

# %% answer lasting_units
def units(incoming, outgoing):
    """The number of units that training can tell apart: a whole number."""
    ### BEGIN SOLUTION
    # Gradient of a weight in: (message from above) * (1 - h²) * x; of one out: (error) * h. What is equal
    # on both sides stays equal, what is opposite stays opposite (tanh is odd), and 0 stays 0; nothing else.
    both = np.hstack([incoming, outgoing.T])
    found = []
    for unit in both[both.any(axis=1)]:
        if not any(np.array_equal(unit, old) or np.array_equal(unit, -old) for old in found):
            found.append(unit)
    return len(found)
    ### END SOLUTION

# %% check lasting_units
checks.lasting_units(units)
### BEGIN HIDDEN TESTS
checks.lasting_units(units, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 4 · Four starts
#
# *15 minutes · medium · 3 points*
#
# Four networks of thirty layers of 64 units, without biases, before the first step of training:
#
# - `"ReLU He"`: ReLU, Gaussian weights with He's variance;
# - `"ReLU too small"`: ReLU, Gaussian weights with a smaller variance, which is in no table;
# - `"tanh Gaussian"`: tanh, Gaussian weights with Xavier's variance;
# - `"tanh orthogonal"`: tanh, orthogonal weights, the same variance.
#
# Here are their dashboards.

# %%
checks.start_dashboard(1);
# %% [markdown]
# The second:

# %%
checks.start_dashboard(2);
# %% [markdown]
# The third:

# %%
checks.start_dashboard(3);
# %% [markdown]
# And the fourth:

# %%
checks.start_dashboard(4);
# %% [markdown]
# Which is which? And for the one whose weights are too small: what is its `weight_var`, that is $\mathrm{Var}(w)\cdot$
# `fan_in`? Read it off the picture, to 4 %. (An error of 30 % in a reading is shared by 29 layers.)

# %% answer four_starts
start = {1: None, 2: None, 3: None, 4: None}
weight_var = None  # of the start that is too small
### BEGIN SOLUTION
start = {1: "ReLU He", 2: "tanh orthogonal", 3: "ReLU too small", 4: "tanh Gaussian"}
weight_var = 2 * (1.6e-7 / 0.038) ** (1 / 29)  # the variance has a factor of weight_var / 2 per layer
### END SOLUTION

# %% check four_starts
checks.four_starts(start, weight_var)

# %% [markdown]
# ## Exercise 5 · "Equal in all layers, so nothing vanishes"
#
# *15 minutes · medium · 4 points*
#
# A colleague trains thirty ReLU layers from Xavier's start. The loss stays where it is, and she writes: "The weight gradients are
# equal in all layers, up to a factor of two, so nothing vanishes. They are small, I grant that. But small is one number, and the learning
# rate is one number: I shall raise it until the updates have the usual size."
#
# Answer in five to nine sentences, without a formula. Why are her weight gradients equal, and why does that not settle it? Which
# *two* curves would you ask for, and what would they show if you are right, and if she is? Why does one number
# at the end, a learning rate or a factor on the loss, not repair this network, and what does?

# %% text equal_gradients [markdown]
# The gradient of a weight is a product of two signals, the message that comes back to the layer and the activation that goes
# into it. Here the activation shrinks from layer to layer on its way forward, and the message shrinks by the same factor on its way
# back. Where one has passed many layers the other has passed few, so the product is the same everywhere, and
# it is equally small everywhere: equality says that the two losses balance, not that there are none. I would ask for the
# activation variance and the *activation* gradient, both by layer on a log axis. If I am right, one falls to the right and the other to
# the left, straight over many decades; if you are right, both are level. A larger learning rate does not help, because the
# loss sits on the way *forward* as well: the network's output hardly depends on its input any more, so there is nothing to tell the classes
# by. And the output is a product of thirty factors: a step that is large enough to move them all is far too large as soon as
# they have moved. The factor is lost in each layer and has to be given back in each layer: twice the variance, which is He's start (or a
# normalization in every layer).
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *Product:* the weight gradient is a forward signal times a backward signal, one shrinks one way and one the other, so that the
#   product is level. ("Xavier is wrong for ReLU" alone: no point.)
# - *Measurement, with both outcomes:* activation variance (or norm) and activation gradient by layer, both; what they show in either case.
#   (Half a point for only one of the two curves, or without the outcomes.)
# - *Why one number does not repair it:* the forward signal has vanished too, so outputs do not depend on inputs; or the right step
#   changes by orders of magnitude once the weights move. (Half a point for "the learning rate would have to be too large" without a reason.)
# - *Remedy in each layer:* weights with twice the variance, or a normalization per layer, or LSUV.
#
# Take off one point, once, for "the gradient in the first layer is smaller than in the last" said of the *weight* gradient: it is
# not.

# %% [markdown]
# ## Exercise 6 · The edge of an activation without a name
#
# *25 minutes · expert · 4 points*
#
# `theory.critical_weight_var` finds the edge of chaos for activations that autograd can differentiate. Here somebody hands you an
# activation as a plain NumPy function of an array: no formula, no derivative, not odd, and its slope at 0 is not 1. It is
# smooth, and that is all you know. Such as this one:

# %%
def somebodys(z):
    return 0.6 * np.tanh(1.4 * z + 0.5) + 0.5 * np.arctan(z)

# %% [markdown]
# For a very wide network with Gaussian weights and biases of variance `bias_var`, return the `weight_var` at which the
# network is on the edge: where the variance of its pre-activations has settled, the squared gradient keeps its size from layer to layer.
# To 2 %. A quadrature and a simulation are both welcome (a simulation with a seed of its own).

# %% answer critical_variance
def critical(activation, bias_var):
    """The weight_var at which χ is 1 where the variance has settled: a number."""
    ### BEGIN SOLUTION
    z = np.linspace(-8, 8, 2001)  # standard normal, as a sum
    chance = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    low, high = 1e-6, 1e3  # of q; with weight_var = 1 / E[φ'²], so that χ = 1, one equation is left for it
    for _ in range(60):
        q = math.sqrt(low * high)
        x = math.sqrt(q) * z
        slope = (activation(x + 1e-5) - activation(x - 1e-5)) / 2e-5
        forward, backward = chance @ activation(x) ** 2, chance @ slope**2
        low, high = (q, high) if q < forward / backward + bias_var else (low, q)
    return 1 / backward
    ### END SOLUTION

# %% check critical_variance
checks.critical_variance(critical)
### BEGIN HIDDEN TESTS
checks.critical_variance(critical, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: for $\varphi = \sin$ the edge can be written down with a hyperbolic tangent. How? And for ReLU with
# biases your function finds nothing sensible: why not?
#
# <details><summary>Answer</summary>
#
# $\mathbb E[\sin^2 z] = (1 - e^{-2q})/2$ and $\mathbb E[\cos^2 z] = (1 + e^{-2q})/2$. Their ratio is $\tanh q$, so the edge has
# $q - \tanh q = \sigma_b^2$ and $\sigma_w^2 = 2/(1 + e^{-2q})$. For ReLU the ratio of $\mathbb E[\varphi^2]$ to
# $\mathbb E[\varphi'^2]$ is $q$ itself, and what remains of the equation is $\sigma_b^2 = 0$: at weight variance 2 every bias is added to
# a variance that never forgets, and it grows for ever. An edge needs an activation that bends.
#
# </details>

# %%
q = 1.0
for _ in range(1000):
    q = math.tanh(q) + 0.2
print(f"sin, bias_var 0.2: yours {critical(np.sin, 0.2):.3g}, by hand {2 / (1 + math.exp(-2 * q)):.3g}")
print(
    f"tanh, bias_var 0.05: yours {critical(np.tanh, 0.05):.3g}, theory {theory.critical_weight_var(0.05):.3g}"
)
