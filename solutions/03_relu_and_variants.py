# %% [markdown]
# # Exercises 03 · Off, dead, and merely alike
#
# For [lesson 03](../../notebooks/03_relu_and_variants.ipynb). Five exercises, 105 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | Who died, and who never lived? | 15 | warm-up | 2 |
# | 2 | Dead on one batch | 10 | easy | 3 |
# | 3 | What a slope hears | 25 | medium | 4 |
# | 4 | "A leak of 0.3 cured it, so its units were dying" | 20 | hard | 4 |
# | 5 | The smallest leak that keeps two inputs apart | 35 | expert | 5 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says in one
# sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math
from statistics import NormalDist

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, networks, session, theory
from gradients_in_depth.training import sweep

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · Who died, and who never lived?
#
# *15 minutes · warm-up · 2 points*
#
# Somebody recorded what enters one ReLU layer, the $z$, for a whole data set, twice: at step 0 and now. Each record is a list of
# batches, arrays (images, units). The data were shuffled in between, so the images come in another order the second time; the
# units do not.
#
# Return three numbers of units, in this order:
#
# - off on every image at step 0, and off on every image now;
# - *died*: on for some image at step 0, off on every image now;
# - *revived*: off on every image at step 0, on for some image now.
#
# As in the lesson, a unit is off for an image when its $z$ is not above 0.


# %% answer obituary
def census(before, after):
    """(off from the start and still off, died, revived): three whole numbers."""
    ### BEGIN SOLUTION
    # Over all batches first: a unit that one batch shows as silent may be on in the next.
    at_start, now = (np.concatenate(z).max(axis=0) <= 0 for z in (before, after))
    return np.sum(at_start & now), np.sum(~at_start & now), np.sum(at_start & ~now)
    ### END SOLUTION


# %% check obituary
checks.obituary(census)
### BEGIN HIDDEN TESTS
checks.obituary(census, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2 · Dead on one batch
#
# *10 minutes · easy · 3 points*
#
# A layer has very many ReLU units. They are all alike: from image to image the $z$ of a unit is normal with standard deviation 1
# around the unit's bias, which is the same for all units and negative. Images are independent of each other.
# Somebody takes one mini-batch of 64 images and reports: "Half of the units are dead."
#
# **Predict**, with paper, pencil and a table of the normal law (in Python, `NormalDist().cdf` and `.inv_cdf`):
#
# - `bias`: what is the bias of these units? To 0.02.
# - `images`: over how many images does one have to count until only one unit in 1000 looks dead? To 2 %.

# %% answer silent_by_chance
bias = None  # a number, in standard deviations of z
images = None  # a number
### BEGIN SOLUTION
off_once = 0.5 ** (1 / 64)  # off on one image; 64 in a row have a chance of ½
bias = -NormalDist().inv_cdf(off_once)  # -2.30: on for one image in 93
images = 64 * math.log2(1000)  # every 64 images halve the share: nearly ten halvings
### END SOLUTION

# %% check silent_by_chance
checks.silent_by_chance(bias, images)

# %% [markdown]
# To think about, without points: in a real network the count falls with more images as well, but it does not go on
# halving. What is different there, and what does the count tend to?
#
# <details><summary>Answer</summary>
#
# Units are not alike. Some have a $z$ so far below 0, compared with its spread between images, that no image of the set reaches
# them; they stay in the count for good. Those that are on now and then leave it, the more often on the sooner. The count
# falls fast at first and then levels off, at the units that are dead on this data set.
#
# </details>
#
# ## Exercise 3 · What a slope hears
#
# *25 minutes · medium · 4 points*
#
# In the lesson a network of PReLUs moved its own slopes. Here you compute what moves them, by hand. Each of the layers, without
# bias, does
#
# $$z_l = h_{l-1} W_l^{\top}, \qquad h_l = \begin{cases} z_l & z_l \ge 0 \\ a_l\, z_l & z_l < 0, \end{cases}$$
#
# with one slope $a_l$ for all units of the layer. You are given
#
# - `weights`: a list of `depth` arrays (width, width), as PyTorch stores them; `slopes`: an array (depth,);
# - `inputs`: $h_0$, an array (batch, width);
# - `message`: an array (batch, width), the derivative of the loss by each number of the *last* $h$. (The loss is whatever it is, a
#   mean over the batch or not: the message knows.)
#
# Return the derivative of the loss by each of the slopes, an array (depth,), first layer first. NumPy will do, without
# autograd. A slope is what training made of it: it may be 0, or negative.


# %% answer leak_gradients
def slope_gradients(weights, slopes, inputs, message):
    """(depth,): the derivative of the loss by the slope of each layer."""
    ### BEGIN SOLUTION
    z, h = [], inputs
    for weight, slope in zip(weights, slopes, strict=True):
        z.append(h @ weight.T)
        h = np.where(z[-1] < 0, slope * z[-1], z[-1])
    found = np.zeros(len(slopes))
    for layer in reversed(range(len(slopes))):
        off = z[layer] < 0
        found[layer] = np.sum(message[off] * z[layer][off])  # a is shared: what all of them say adds up
        message = np.where(off, slopes[layer] * message, message) @ weights[layer]
    return found
    ### END SOLUTION


# %% check leak_gradients
checks.leak_gradients(slope_gradients)
### BEGIN HIDDEN TESTS
checks.leak_gradients(slope_gradients, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: a PReLU that starts at slope 0 *is* a ReLU. A unit that is off on all images is dead in
# a ReLU network. Can it come back here?
#
# <details><summary>Answer</summary>
#
# Yes, and it wakes in two steps. In the first step its weights get nothing, as in a ReLU network; but the slope's gradient is
# message times $z$, which is not 0, so the slope moves. From the second step on the weights get a gradient as well.
#
# </details>
#
# ## Exercise 4 · "A leak of 0.3 cured it, so its units were dying"
#
# *20 minutes · hard · 4 points*
#
# A colleague has thirty ReLU layers of 20 units, He's weights (Gaussian, variance 2/fan_in), no biases at the start, and the
# digits. Nothing trains. She replaces the activation, and nothing else: same weights, same seeds, same two
# learning rates to choose from.

# %%
digits = data.digits(dtype=torch.float64)


def thirty_layers(leak):
    """A function that makes the network from a seed: He's gain, whatever the leak."""

    def make(seed):
        settings = {"initialization": "gaussian", "gain": math.sqrt(2), "dtype": torch.float64}
        model = networks.DeepMLP(30, 20, activation="relu", seed=seed, **settings)
        for block in model.blocks:
            block.activation = nn.LeakyReLU(leak)
        return model

    return make


# %% [markdown]
# Loss after four epochs, at the better of the two rates:

# %%
plan = {"learning_rates": (0.02, 0.06), "seeds": range(5), "epochs": 4, "batch_size": 75}
for leak in (0.0, 0.01, 0.3):
    run = sweep(thirty_layers(leak), digits, **plan)
    loss = np.nanmedian(run.loss_by_epoch[run.best, :, -1])
    print(f"leak {leak:4.2g}: loss {loss:.3g} (median of 5 seeds; guessing {math.log(10):.3g})")

# %% [markdown]
# She writes: "With a leak no unit is dead. 0.01 was too small, as lesson 03 says, and 0.3 is enough. So its units were
# dying: that was the disease."
#
# Answer in five to nine sentences. A leak of 0.3 changes more than one thing in this network: name *three*, each with its
# direction. Which count, before any training, would tell her most about dying units? And propose *one* further treatment that
# separates her explanation from another one, because it changes one of the three and leaves another alone; say what each of
# the two predicts. (Not the lesson's control, a leak of the opposite sign.)

# %% text one_cure_three_causes [markdown]
# A leak of 0.3 does three things at once. Units that are off get a gradient, 0.3 of the message instead of nothing. The factor of a
# layer grows: with the weights left as they are the mean square is multiplied by 1 + 0.3² = 1.09 per layer, forward and back, so
# the gain is no longer the critical one. And different inputs become alike more slowly, because the layer is more nearly
# linear. I would count the units that are off on all training images at step 0: those never died, they were off on arrival,
# and in a deep He network they are many *because* the images have become alike. So the count goes with the third explanation as
# well as with hers, unless it grows during training. To separate the two I would use ReLU on the way forward, and the slope of 0.3
# on the way *back* alone: `h = leaky + (relu - leaky).detach()`. Units that are off get the same 0.3 of the message, and yet all
# outputs, and so all cosines, are ReLU's to the last digit. If dying units were the disease, this would cure as the leak does; if
# inputs that become alike are, it would not. (It does not: at each of the two rates two or three of the five
# seeds diverge, and the median of the others is 2.27 or more. At a rate of 0.002 none diverges, and the median is 2.3.)
#
# **Rubric (4 points).** Whatever the words:
#
# - *Three changes, with directions* (1½ points, ½ each): a gradient for units that are off; a larger factor per layer (1.09 in the mean
#   square, 1.04 in the norm); cosines that grow more slowly. ("More linear" alone counts for the third.)
# - *The count* (1 point): units off on every image of the *whole* data set, at *step 0* (and again later). Half a point without the
#   data set or without step 0.
# - *The treatment* (1½ points): one that keeps alive and leaves the correlation, or the other way round (a ReLU without leak whose inputs are
#   kept apart, such as by batch normalization), with both predictions. A leak in the backward pass alone is the cleanest. A ReLU
#   whose weights are enlarged to the factor of 1.09, or the leak of 0.3 at its own gain, separates only the *gain* from the other two: 1
#   point. The lesson's leak of the opposite sign: ½ point. Without predictions: ½ point.
#
# Take off half a point, once, for "0.01 leaves the units dead": they get a gradient, a hundred times smaller.

# %% [markdown]
# ## Exercise 5 · The smallest leak that keeps two inputs apart
#
# *35 minutes · expert · 5 points*
#
# In the lesson a leak of ½ let inputs become equal "more slowly". How much more slowly? A leaky ReLU passes $z$ where it is
# positive and $a z$ where it is negative, with one slope $a$ from 0 to 1 for all layers. The network is very wide, its weights are Gaussian,
# it has no biases, and each of its `depth` layers is a matrix and an activation.
#
# Two inputs have the cosine `start`. Return the *smallest* slope for which the cosine of their activations after `depth` layers is at
# most `limit` (which is above `start`, and so low that a plain ReLU exceeds it). To 1 %.
#
# Derive what one layer does to a cosine before you search for the slope. `theory.relu_cosine_map(c)` is the lesson's arc-cosine
# map, for one number; a simulation is too noisy for 1 %, and good enough to see whether you are on the right track.


# %% answer saving_leak
def smallest_leak(depth, start, limit):
    """The smallest slope from 0 to 1 that keeps the cosine at or below the limit: a number."""
    ### BEGIN SOLUTION
    # a z + (1 - a) ReLU(z), multiplied out: a² c + 2 a (1 - a) c/2 + (1 - a)² f(c)/2; at c = 1, (1 + a²)/2.
    # So a layer goes only a share (1 - a)² / (1 + a²) of ReLU's way from c to f(c).
    low, high = 0.0, 1.0
    for _ in range(40):
        slope, cosine = (low + high) / 2, start
        for _ in range(depth):
            way = theory.relu_cosine_map(cosine) - cosine
            cosine += (1 - slope) ** 2 / (1 + slope**2) * way
        low, high = (slope, high) if cosine > limit else (low, slope)
    return high
    ### END SOLUTION


# %% check saving_leak
checks.saving_leak(smallest_leak)
### BEGIN HIDDEN TESTS
checks.saving_leak(smallest_leak, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# A simulation, for two perpendicular inputs and twenty layers of 400 units:


# %%
def cosine_after_20_layers(slope):
    h = torch.eye(2, 400, dtype=torch.float64)
    for layer in range(20):
        h = F.normalize(F.leaky_relu(h @ data.gaussian_batch(400, 400, seed=layer), slope))
    return (h[0] @ h[1]).item()


# %% [markdown]
# It is one network, and not very wide, so expect the second digit to differ from the limit.

# %%
slope = smallest_leak(20, 0.0, 0.5)
print(f"Slope {slope:.3g}: cosine {cosine_after_20_layers(slope):.2g}, and 0.5 was the limit.")

# %% [markdown]
# To think about, without points: why does your formula hold for a slope of −1 as well, where the activation is $|z|$? And
# which leak goes exactly half of a ReLU's way towards equal inputs, in every layer?
#
# <details><summary>Answer</summary>
#
# Nothing in its derivation asks for a positive slope. At −1 every layer goes *twice* a ReLU's way, and two perpendicular
# inputs have the cosine 2/π after one. Half of a ReLU's way it is for $a = 2 - \sqrt 3$, about 0.27: put it into yours.
# (Close to 1 the way is short for both: the gap to 1 falls as one over the square of the depth, not exponentially. With half
# the way the same gap takes about twice the depth.)
#
# </details>
