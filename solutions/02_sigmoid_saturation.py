# %% [markdown]
# # Exercises 02 · Saturated, or not saturated
#
# For [lesson 02](../../notebooks/02_sigmoid_saturation.ipynb). Six exercises, 95 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | A count that is too high | 10 | warm-up | 2 |
# | 2 | The answer that is corrected most | 10 | easy | 2 |
# | 3 | The best of all steps with one sign | 15 | medium | 3 |
# | 4 | Who was treated how? | 15 | medium | 3 |
# | 5 | "None of our units is saturated" | 15 | medium | 4 |
# | 6 | The centering dial | 30 | expert | 4 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit

from gradients_in_depth import checks, plots, session, theory

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · A count that is too high
#
# *10 minutes · warm-up · 2 points*
#
# A colleague counts saturated units from what they *answer*, because the $z$ were not recorded. The lesson calls a unit
# saturated when its slope is below 5 % of the largest slope it could have. For a layer of sigmoids whose $z$ has
# standard deviation 2, the two do not agree.


# %%
def colleagues_count(outputs):
    """A unit that has come within 5 % of its limits is saturated, is it not?"""
    return np.mean((outputs < 0.05) | (outputs > 0.95))


z = np.random.default_rng(0).normal(0, 2, size=100_000)
print(f"The colleague counts {colleagues_count(expit(z)):.2g}.")
print(f"Theory, by the lesson's rule: {theory.saturated_share(4.0, 'sigmoid'):.2g}.")

# %% [markdown]
# Five times too many. Find out what went wrong, and write a count by the lesson's rule, for sigmoid and for tanh.
# `outputs` is an array of any shape that holds the answers of the units, and may not be changed; `activation` is
# `"sigmoid"` or `"tanh"`.


# %% answer saturation_count
def saturated(outputs, activation):
    """The share of the outputs that come from a saturated unit: a number from 0 to 1."""
    ### BEGIN SOLUTION
    # Both slopes, as shares of the largest one: ¼ for the sigmoid, 1 for tanh.
    slope = 4 * outputs * (1 - outputs) if activation == "sigmoid" else 1 - outputs**2
    return np.mean(slope < 0.05)  # at an output of 0.95, a fifth of the sigmoid's slope is still there
    ### END SOLUTION


# %% check saturation_count
checks.saturation_count(saturated)
### BEGIN HIDDEN TESTS
checks.saturation_count(saturated, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2 · The answer that is corrected most
#
# *10 minutes · easy · 2 points*
#
# A sigmoid unit at the output has the target 0. Under squared error, $\tfrac12(a-0)^2$, the answer 0.98 is corrected less
# than 0.9, and 0.9 less than 0.7. **Predict**, with paper and pencil:
#
# - Which answer $a$ of all is corrected *most*, that is, has the largest $|\partial\,\text{loss}/\partial z|$?
# - For the answer 0.99: *how many times* as large is the gradient under cross-entropy? Two digits are enough.

# %% answer largest_correction
worst = None  # an answer between 0 and 1
factor = None  # gradient under cross-entropy / gradient under squared error, at 0.99
### BEGIN SOLUTION
worst = 2 / 3  # the gradient is a²(1 - a), and its derivative a(2 - 3a)
factor = 1 / (0.99 * 0.01)  # all that cross-entropy does is to take the slope out
### END SOLUTION

# %% check largest_correction
checks.largest_correction(worst, factor)

# %% [markdown]
# ## Exercise 3 · The best of all steps with one sign
#
# *15 minutes · medium · 3 points*
#
# One unit, one example, one step: the weights move by $-\text{rate}\cdot\delta\, h$. All inputs $h_j$ are positive, so all
# weights go up together, or all go down. But they need not go equally far. Say that the weights *should* move along
# `direction`, an array (n,) with entries of both signs. Somebody kind may choose $\delta$ (of either sign) and the
# inputs (as small as you like, but none negative) for the best step there is.
#
# Return the cosine of the angle between that best step and `direction`: 1 would be straight to the goal. `direction` may
# not be changed, and has no zeros in it.


# %% answer one_signed_step
def best_cosine(direction):
    """The largest cosine between `direction` and a step in which all weights go one way: a number."""
    ### BEGIN SOLUTION
    # A weight that has to go the other way is best left alone; the others go exactly as far as they should.
    up, down = np.maximum(direction, 0), np.maximum(-direction, 0)
    return max(np.linalg.norm(up), np.linalg.norm(down)) / np.linalg.norm(direction)
    ### END SOLUTION


# %% check one_signed_step
checks.one_signed_step(best_cosine)
### BEGIN HIDDEN TESTS
checks.one_signed_step(best_cosine, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: for a random direction in a thousand dimensions, which cosine do you expect? Is that bad
# enough to explain the zigzag of the lesson?
#
# <details><summary>Answer</summary>
#
# Half of the squared length belongs to each sign, so it is about $\sqrt{1/2} = 0.71$, an angle of 45 degrees. That alone would
# be no disaster. But nobody is kind: the inputs are what the layer below answers, and around ½ they are all *alike*. With
# equal inputs the cosine is $|\sum_j d_j| / (\sqrt n\,\lVert d\rVert)$, and for a random direction that is about
# $0.8/\sqrt n = 0.025$: nearly a right angle. The sign forbids half of the ways; the common ½ forbids nearly all.
#
# </details>

# %%
rng = np.random.default_rng(1)
directions, ones = rng.normal(size=(500, 1000)), np.ones(1000)
sigmoids = expit(rng.normal(0, 0.5, size=1000))  # what a layer of the lesson's network answers
best = np.mean([best_cosine(direction) for direction in directions])
print(f"inputs chosen for each direction: {best:.2g}")
for name, step in {"equal inputs": ones, "a layer of sigmoids": sigmoids}.items():
    cosines = directions @ step / np.linalg.norm(directions, axis=1) / np.linalg.norm(step)
    print(f"{name}: {np.abs(cosines).mean():.2g}")

# %% [markdown]
# ## Exercise 4 · Who was treated how?
#
# *15 minutes · medium · 3 points*
#
# Four sigmoid networks of twelve layers, width 128, all from the same random Xavier weights. One is `"untouched"`. In one
# all weights were made `"fourfold"`, in one `"tenfold"`. And one is `"fourfold and centered"`, as in section 7 of the
# lesson: its biases subtract the ½. (The variance in SCALE is that of the units' answers, which lie between 0 and 1.)

# %%
checks.treated(1);
# %% [markdown]
# The second:

# %%
checks.treated(2);
# %% [markdown]
# The third:

# %%
checks.treated(3);
# %% [markdown]
# And the fourth:

# %%
checks.treated(4);
# %% [markdown]
# Who is who? Then, for the one that is `"fourfold"` and *not* centered: by which factor does one layer multiply the norm of
# the gradient, going back? Read it off the picture, to 2 %. (An error of 20 % in a reading is shared by all the layers.)

# %% answer treatments
who = {1: None, 2: None, 3: None, 4: None}
per_layer = None  # of the fourfold network
### BEGIN SOLUTION
who = {1: "fourfold", 2: "tenfold", 3: "untouched", 4: "fourfold and centered"}
per_layer = (9.5e-4 / 0.146) ** (1 / 11)  # layer 1 over layer 12, and 11 steps between them
### END SOLUTION

# %% check treatments
checks.treatments(who, per_layer)

# %% [markdown]
# ## Exercise 5 · "None of our units is saturated"
#
# *15 minutes · medium · 4 points*
#
# A colleague has a network of thirty sigmoid layers with Xavier weights. Its loss has been at $\ln 10$ for hours, and the
# gradient is suspected. "Impossible," says the colleague. "I have counted: in no layer is a single unit saturated. A gradient
# vanishes when units saturate. So it must be the data."
#
# Answer in four to eight sentences, without a formula. What is wrong with this conclusion? What does a unit that is *not*
# saturated do to a gradient, and what do thirty layers of them make of that? Which measurement would settle it, and
# what would it show in either case? And why would *ten times larger weights*, the next idea of your colleague, be no cure,
# although they do keep the norm of the gradient?

# %% text not_saturated [markdown]
# Saturation is one way to lose a gradient, and your count rules out only that one. A sigmoid is steepest in its
# center, and even there its slope is a quarter; so each healthy unit passes on at most a quarter of what arrives, and
# Xavier weights do not make up for it. Per layer a factor of a little less than a quarter is left, and thirty such factors
# make something like 1e-19, without a single stuck unit. I would plot the norm of the gradient by layer during training,
# on a log scale: if it is a straight line that falls by decades towards the first layer, it has vanished; if it is
# level, the network hears the error and I would look at the learning rate (update ratio) and at your data next. Tenfold
# weights do keep the norm. But they do it by pushing half of the units to 0 or 1, where they answer the same to nearly
# every input, while the few in their narrow steep windows carry everything: the gradient has the right size, and what it
# says changes wildly from one input to the next.
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *The conclusion:* saturation is sufficient, not necessary; a count of zero rules out one cause and not the symptom.
#   ("Your threshold may be wrong" alone: no point.)
# - *The mechanism:* a healthy sigmoid has a slope of at most a quarter, Xavier weights do not pay it back, and over thirty
#   layers this multiplies to nothing. (Half a point without "multiplies", or without the weights.)
# - *Measurement, with both outcomes:* gradient norm (or update ratio) layer by layer; falling towards the first layer, or level
#   and then the learning rate or the data. (Half a point for a measurement without the outcomes; none for "the gradient of the
#   last layer", or for the loss.)
# - *Larger weights:* they keep the norm by saturating about half of the units; the window of steep inputs becomes narrow,
#   similar inputs are driven apart. (Half a point for "then it saturates" alone. None for "it explodes".)
#
# Take off one point, once, for an answer that agrees that it must be the data without a measurement.

# %% [markdown]
# ## Exercise 6 · The centering dial
#
# *30 minutes · expert · 4 points*
#
# An uncentered sigmoid network keeps its gradient from a gain of 10.15 on. (The gain multiplies Xavier's weights:
# `weight_var` is its square. There are no biases.) How much of that is due to the ½? Put a dial on it:
#
# $$\varphi(z) = \sigma(z) - \tfrac{c}{2}.$$
#
# At $c = 0$ it is the sigmoid; at $c = 1$ it would be centered. Return the gain at which a deep and wide network of these
# units neither loses nor gains gradient from layer to layer, within 1 %, for any $c$ from 0 to 0.95. The $z$ of a deep
# layer has the variance that its own gain brings about. The functions of `theory` take an activation by its name, or as
# any function of a tensor, and `brentq(f, low, high)` finds a root of `f`; your own integral will do as well.


# %% answer centering_dial
def critical(c):
    """The gain at which layers of σ(z) - c/2 keep their gradient: a number."""
    ### BEGIN SOLUTION

    def shifted(z):
        return torch.sigmoid(z) - c / 2

    def growth(gain):
        q = theory.fixed_point(shifted, gain**2)
        return theory.chi(q, shifted, gain**2) - 1

    return brentq(growth, 3.9, 11)
    ### END SOLUTION


# %% check centering_dial
checks.centering_dial(critical)
### BEGIN HIDDEN TESTS
checks.centering_dial(critical, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: with your function the cells below draw the dial, and the share of saturated units at
# the gain that it gives. Which of the two repairs of the lesson, larger weights or centering, is it that keeps units from
# saturating?
#
# <details><summary>Answer</summary>
#
# At both ends of the dial the gradient is kept. With $c = 0$ half of the units are stuck, with $c = 0.95$ fewer than one in a million:
# centering lets the *same* be had from smaller weights on steeper units. The constant adds nothing that a network could
# use. It only makes $z$ large, and the weights have to be larger still to make up for the slopes that are lost by it.
# In one line: $\chi = 1$ and the variance map together say $\mathbb E[\varphi^2] = q\,\mathbb E[\varphi'^2]$, and
# the left side has $(1-c)^2/4$ in it, whatever $q$ is. At $c = 1$ that term is gone, $q$ goes to 0, and what is left is a gain of
# 4: tanh with Xavier weights.
#
# </details>

# %%
dial = np.linspace(0, 0.95, 20)
gains = np.array([critical(c) for c in dial])
ax = plots.curve(dial, gains, label="critical gain", xlabel="c, how much of the ½ is subtracted", kind="line")
plots.curve(dial, np.full(20, 4.0), label="every slope ¼", kind="theory", ax=ax)
ax.set(ylabel="gain", ylim=(0, 12));
# %% [markdown]
# And the units, at both ends and in the middle:

# %%
for c in (0, 0.5, 0.95):
    q = theory.fixed_point(lambda z, c=c: torch.sigmoid(z) - c / 2, critical(c) ** 2)
    share = theory.saturated_share(q, "sigmoid")
    print(f"c = {c:4}: gain {critical(c):.3g}, variance of z {q:.2g}, saturated units {share:.1g}")
