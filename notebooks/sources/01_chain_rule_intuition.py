# %% [markdown]
# # 01 · The chain rule, one messenger at a time
#
# > **What happens to a message that is passed on a hundred times?**
#
# After this lesson you will be able to
#
# - follow a gradient by hand from the loss back to the first weight, with autograd beside you at every step;
# - say what is left of a product of a hundred factors, and why the *typical* factor decides, not the average one;
# - predict how fast a product of random matrices grows, and tell a stable norm from a stable spectrum;
# - say where float16, bfloat16 and float32 give up, and recognize a zero that only the number format made;
# - keep three quantities apart that are all called "the gradient".
#
# **Before this:** [00 · Start here](00_start_here.ipynb), a first course in calculus, and a little PyTorch.
# **Time:** about 75 minutes, of which 30 are reading. The rest is for predicting, running and moving sliders.

# %%
import math

import numpy as np
import torch
from torch.nn import functional as F

from gradients_in_depth import data, explorers, networks, plots, session, signals, theory

session.start(seed=0)

# %% [markdown]
# ## 1 · The courier
#
# A network makes its mistake at the very end, where the loss compares an answer with the truth. The weights that
# caused the mistake sit in every layer, all the way back to the first. So somebody has to carry the news.
#
# Think of a courier who walks from the last layer to the first. The message says: *if your value rose a little,
# the loss would change by this much.* At each layer the courier translates it for the layer before, and to
# translate is to multiply: by the **local derivative** of that one layer. In a plain chain of layers nothing is ever
# added on the way, so a message that passes a hundred layers is a product of a hundred factors. Three stories tell
# you what such a product does:
#
# - **The whisper chain.** A hundred people pass on a sentence. Each one keeps 80 % of its clarity.
# - **The long water pipe.** Each joint leaks, and half of the pressure gets through. Put a strong pump at each
#   joint instead, and sooner or later the pipe bursts.
# - **The loan.** Somebody owes one coin. At each telling, the sum is doubled.
#
# **Predict.** How much of the sentence is left after a hundred people? (a) about 1 %; (b) about a millionth;
# (c) less than a billionth. Choose before you read on: a guess that you wrote down is worth ten that you did not.

# %%
for story, factor in {"whisper": 0.8, "water pipe": 0.5, "loan": 2.0}.items():
    print(f"{story:>10}, factor {factor}:  5 times {factor**5:<7.3g} 100 times {factor**100:.3g}")

# %% [markdown]
# **What you should see.** Of the whisper, 2.04e-10 is left: answer (c). The pipe keeps 7.89e-31 of its pressure,
# and the single coin has become 1.27e30 coins.
#
# Look at the column in the middle too. After *five* steps even the leaking pipe still has 1/32 of its pressure,
# about 3 %. Shallow networks are safe: a factor of 32 can be made up for by a learning rate. No learning rate makes up
# for thirty decades.
#
# You may read that 0.25¹⁰, what ten sigmoid slopes leave at their very best, is 5.9e-6. Never trust a product that
# you did not compute:

# %%
print(f"0.25 ** 10 = {0.25**10:.3g}    0.3 ** 10 = {0.3**10:.3g}    ratio {1.2**10:.2g}")
assert abs(0.25**10 / 9.54e-7 - 1) < 1e-3

# %% [markdown]
# It is 9.54e-7, six times smaller. The circulating number equals 0.3¹⁰. A small difference in the factor is a large
# one in its power, and that is the whole subject of this lesson.

# %% [markdown]
# ## 2 · By hand: three nodes
#
# Here is the smallest network that has a "first" and a "last" layer with something between them. Each node
# multiplies by a weight and squashes with tanh:
#
# $$z_k = w_k\,h_{k-1}, \qquad h_k = \tanh z_k, \qquad h_0 = x, \qquad \text{loss} = \tfrac12 (h_3 - \text{target})^2.$$
#
# Going forward you keep every intermediate value. You will need them on the way back.

# %%
x, target = 1.0, 1.0
w1, w2, w3 = 0.8, 1.5, 1.2
z1 = w1 * x
h1 = math.tanh(z1)
z2 = w2 * h1
h2 = math.tanh(z2)
z3 = w3 * h2
h3 = math.tanh(z3)
loss = (h3 - target) ** 2 / 2

# %% [markdown]
# Now the courier sets out. Since $\tanh' z = 1 - \tanh^2 z$, the slope at a node can be read off its output. Each
# step back uses one of three rules, and no others:
#
# $$\frac{\partial\,\text{loss}}{\partial z_k} = \frac{\partial\,\text{loss}}{\partial h_k}\,(1 - h_k^2), \qquad
# \frac{\partial\,\text{loss}}{\partial w_k} = \frac{\partial\,\text{loss}}{\partial z_k}\,h_{k-1}, \qquad
# \frac{\partial\,\text{loss}}{\partial h_{k-1}} = \frac{\partial\,\text{loss}}{\partial z_k}\,w_k.$$
#
# Below, `d_h3` stands for ∂loss/∂h₃, and so on. The weight only *listens* to the message (second rule); what goes
# on to the next node is the third.

# %%
d_h3 = h3 - target
d_z3 = d_h3 * (1 - h3**2)
d_h2 = d_z3 * w3
d_z2 = d_h2 * (1 - h2**2)
d_h1 = d_z2 * w2
d_z1 = d_h1 * (1 - h1**2)
d_w3, d_w2, d_w1 = d_z3 * h2, d_z2 * h1, d_z1 * x

# %% [markdown]
# The same network in PyTorch. `retain_grad` keeps the gradient of intermediate values, which autograd would drop,
# and a hook on each value writes down when the courier came by.

# %%
values, visits = {}, []
for k, weight in enumerate((w1, w2, w3), start=1):
    values[f"w{k}"] = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    values[f"z{k}"] = values[f"w{k}"] * values.get(f"h{k - 1}", x)
    values[f"h{k}"] = torch.tanh(values[f"z{k}"])
values["loss"] = (values["h3"] - target) ** 2 / 2
for name, value in values.items():
    value.retain_grad()
    value.register_hook(lambda _, name=name: visits.append(name))
values["loss"].backward()
print(" → ".join(visits))

# %% [markdown]
# From the loss to the first node, and at each node past its weight: the courier's route is exactly the order in
# which you worked. Now every number, yours beside autograd's:

# %%
by_hand = {"w1": (w1, d_w1), "z1": (z1, d_z1), "h1": (h1, d_h1),
           "w2": (w2, d_w2), "z2": (z2, d_z2), "h2": (h2, d_h2),
           "w3": (w3, d_w3), "z3": (z3, d_z3), "h3": (h3, d_h3), "loss": (loss, 1.0)}
print(f"{'':>6}{'by hand':>9}{'torch':>9}{'gradient by hand':>20}{'autograd':>10}")
for name, (value, gradient) in by_hand.items():
    found = values[name].item(), values[name].grad.item()
    assert np.allclose((value, gradient), found, rtol=1e-14)
    print(f"{name:>6}{value:>9.3g}{found[0]:>9.3g}{gradient:>20.3g}{found[1]:>10.3g}")

# %% [markdown]
# All ten pairs agree to fourteen digits (the cell checks it). Backpropagation (Rumelhart, Hinton and Williams 1986) is
# no more than these three rules, and autograd is a courier that does not get tired.
#
# Read the column of gradients from the bottom up, and only at `h3`, `h2`, `h1`: that is the message on its walk.
# Each node has multiplied it by $w_k\,(1 - h_k^2)$, its local derivative:

# %%
factors = w3 * (1 - h3**2), w2 * (1 - h2**2)
print(f"{d_h3:.3f} × {factors[0]:.3f} × {factors[1]:.3f} = {d_h1:.3f}")

# %% [markdown]
# Two factors near 0.6 in a network that nobody designed to be sick. With three nodes, the first
# one still hears a third of the message.
#
# **Predict.** Make the chain a hundred nodes long, each with the same local derivative. What does a plot of the
# gradient look like, with the number of steps back on the horizontal axis and a *logarithmic* vertical axis?
# (a) a curve that bends down ever more steeply; (b) a curve that levels off; (c) a straight line.


# %%
def gradients(factor, depth=100):
    """What autograd brings to each node of a chain, the last node first: (depth + 1,)."""
    nodes = [torch.ones((), dtype=torch.float64, requires_grad=True)]
    for _ in range(depth):
        nodes.append(factor * nodes[-1])
    return torch.stack(torch.autograd.grad(nodes[-1], nodes)).numpy()[::-1]


back = np.arange(101)
assert np.allclose(gradients(0.8), 0.8**back, rtol=1e-12)

# %% [markdown]
# Autograd agrees with 0.8ⁿ at every one of the 101 nodes (the last line checks it). Now four chains, and the four
# powers as theory:

# %%
ax = plots.curve(back, gradients(2.0), label="factor 2", log_y=True)
for factor in (0.8, 0.5, 0.25):
    plots.curve(back, gradients(factor), label=f"factor {factor}", ax=ax)
for factor in (2.0, 0.8, 0.5, 0.25):
    plots.curve(back, factor**back, label="theory" if factor == 2 else "", kind="theory", ax=ax)
ax.set(xlabel="steps back", ylabel="gradient");

# %% [markdown]
# **What you should see.** Four straight lines: answer (c). **Why:** the logarithm turns the product into a sum,
#
# $$\log\Bigl|\frac{\partial\,\text{loss}}{\partial h_0}\Bigr|
# = \log\Bigl|\frac{\partial\,\text{loss}}{\partial h_L}\Bigr| + \sum_{k=1}^{L} \log|c_k|, \qquad c_k = w_k\,\varphi'(z_k),$$
#
# so with equal factors every step costs the same number of decades. Below 1 the line falls (the gradient
# **vanishes**), above 1 it rises (it **explodes**), and only a factor of 1 exactly stays level. This is why the course
# draws almost everything on a log axis: vanishing and exploding are two slopes of one line. Hochreiter (1991) and
# Bengio, Simard and Frasconi (1994) found it in recurrent networks, which are chains as long as their input.

# %% [markdown]
# ## 3 · Round 1: unequal messengers
#
# Real factors differ from layer to layer. Let each person toss a coin: heads, they mumble and halve the message;
# tails, they exaggerate and multiply it by 1.6. The average factor is (0.5 + 1.6)/2 = 1.05, more than 1.
#
# **Predict.** After a hundred people, a typical message has (a) grown about a hundredfold, as 1.05¹⁰⁰ does;
# (b) stayed about the same; (c) shrunk to less than a thousandth.

# %%
draws = [np.random.default_rng(seed).choice([0.5, 1.6], size=100) for seed in range(200)]
messages = np.cumprod(draws, axis=1)  # (200 seeds, 100 people)
typical, average = math.sqrt(0.5 * 1.6), (0.5 + 1.6) / 2
print(f"1.05 ** 100 = {average**100:.3g}, median of 200 chains {np.median(messages[:, -1]):.1g}")

# %% [markdown]
# Not growth, but a loss of more than four decades. Draw the whole way:

# %%
people = np.arange(1, 101)
ax = plots.curve(people, messages, label="median and range of 200 seeds", log_y=True)
plots.curve(people, typical**people, label="theory: typical factor 0.894", kind="theory", ax=ax)
plots.curve(people, average**people, label="average factor 1.05", kind="line", ax=ax)
ax.set(xlabel="people", ylabel="message");

# %% [markdown]
# **What you should see.** Answer (c). Nearly every chain sinks, although the average factor is above 1.
#
# **Why.** The log of the product is a sum of logs, and a sum of many independent terms is close to its mean (the
# law of large numbers). So the typical product grows by the exponential of the *mean logarithm*, which is never
# more than the mean:
#
# $$\frac1L \log\prod_{k=1}^{L} c_k \;\to\; \mathbb E[\log c] \;\le\; \log \mathbb E[c]
# \qquad\text{(here } \tfrac12\log 0.5 + \tfrac12\log 1.6 = \log 0.894 < \log 1.05\text{).}$$
#
# The average is not wrong. It is made by a few lucky chains that you will almost never draw. The shaded band is a
# lesson of its own: it widens as you go right. A single run, one seed, tells you little about a deep product, and so
# this course shows seed bands wherever something is random.

# %%
print(f"chains that end below where they began: {np.mean(messages[:, -1] < 1):.0%}")
assert abs(typical - 0.894) < 5e-4 and np.mean(messages[:, -1] < 1) > 0.95

# %% [markdown]
# In a chain that amplifies *on average*, almost all of the 200 messages have shrunk.

# %% [markdown]
# ## 4 · Round 2: from numbers to matrices
#
# A layer has many units, so the message is a *vector*, and the local derivative is a matrix, the **Jacobian**. For
# a layer $h_l = \varphi(W_l h_{l-1})$ the courier multiplies by its transpose:
#
# $$\frac{\partial\,\text{loss}}{\partial h_{l-1}} = J_l^{\mathsf T}\,\frac{\partial\,\text{loss}}{\partial h_l}, \qquad
# J_l = \operatorname{diag}\bigl(\varphi'(z_l)\bigr)\,W_l.$$
#
# Leave the activation out for now ($\varphi' = 1$). What does a product of a hundred random matrices do? Take width
# $n = 4$ and independent Gaussian entries of standard deviation $s$. (The transpose of such a matrix is as random as
# the matrix, so forward and backward are the same question here.)
#
# Multiplying by one such matrix changes the *mean squared* length by a factor of $n s^2$. With $s = 1/\sqrt n = 0.5$
# that factor is exactly 1.
#
# **Predict.** After 101 matrices with $s = 0.5$, a message of length 1 typically has a length of (a) about 1;
# (b) about a millionth; (c) about a million.

# %%
draws = [data.gaussian_batch(101 * 4, 4, seed).reshape(101, 4, 4) for seed in range(32)]
matrices = torch.stack(draws)  # (32 seeds, 101, 4, 4), entries of standard deviation 1
products = signals.matrix_products(matrices)  # W₁, W₂W₁, W₃W₂W₁, …
lengths = products[..., 0].norm(dim=-1).numpy()  # what became of the message (1, 0, 0, 0)

# %% [markdown]
# To change $s$ there is no need to draw again: it multiplies each factor, so it multiplies a product of $l$
# factors by $s^l$.

# %%
depths = np.arange(1, 102)
growth = theory.lyapunov_exponents(4, weight_std=1.0)[0]  # explained below
ax = plots.curve(depths, lengths, label="s = 1", log_y=True)
for s in (0.572, 0.5):
    plots.curve(depths, lengths * s**depths, label=f"s = {s}", ax=ax)
for s in (1.0, 0.572, 0.5):
    plots.curve(depths, np.exp(growth * depths) * s**depths, label="theory" if s == 1 else "",
                kind="theory", ax=ax)
ax.set(xlabel="matrices", ylabel="length of the message");

# %% [markdown]
# **What you should see.** Answer (b): at $s = 0.5$ the message is all but gone. The level line is $s = 0.572$.
#
# **Why.** It is Round 1 again. One matrix stretches a message by a random factor; what counts is the mean of its
# *logarithm*. For Gaussian matrices it is known exactly, with $\psi$ the digamma function (`scipy.special.digamma`):
#
# $$\lambda_1 = \mathbb E\bigl[\log\lVert W v\rVert\bigr] = \tfrac12\bigl(\ln 2 + \psi(n/2)\bigr) + \ln s
# \qquad (\lVert v\rVert = 1).$$
#
# $\lambda_1$ is called the top **Lyapunov exponent**: growth per factor, in natural logarithms (Furstenberg and Kesten
# 1960). A product vanishes when it is negative and explodes when it is positive. The bands are wide because the log
# of the length wanders, with a variance of order $L/n$ (Hanin and Nica 2020): deep and narrow is a gamble.
#
# Check the claim on single matrices first:

# %%
single = 0.5 * data.gaussian_batch(20_000, 4, seed=0)  # what 20,000 matrices make of (1, 0, 0, 0)
stretch = single.norm(dim=1)
mean_square, typical = stretch.square().mean(), stretch.log().mean().exp()
print(f"mean squared stretch {mean_square:.2f}, theory {4 * 0.5**2:.2f}")
print(f"     typical stretch {typical:.2f}, theory {0.5 * math.exp(growth):.2f}")

# %% [markdown]
# The mean square is conserved, the typical stretch is 0.87, and $0.87^{101}$ is your millionth. Now the end of the
# chain of 101 matrices with $s = 1$, drawn two thousand times, so that the median is sharp:

# %%
many = data.gaussian_batch(2000 * 101 * 4, 4, seed=1).reshape(2000, 101, 4, 4)
last = signals.matrix_products(many)[:, -1]
message, norm = last[..., 0].norm(dim=-1), torch.linalg.matrix_norm(last, 2)
expected = 101 * growth / math.log(10)
print(f"theory 10^{expected:.1f}; median message 10^{message.median().log10():.1f}, "
      f"norm of the product 10^{norm.median().log10():.1f}")
assert abs(expected - 24.5) < 0.05 and abs(message.median().log10() - 24.5) < 0.2

# %% [markdown]
# A typical message has grown to about $10^{24.5}$. The *norm* of the product, which is the length of the luckiest of all
# messages, is three times that. It grows at the same rate: the head start is a constant.
#
# And which $s$ is critical, in the sense that $\lambda_1 = 0$? The rule $1/\sqrt n$ is what the mean square says, and
# it is right only for infinitely wide layers:

# %%
for width in (4, 16, 64, 256):
    critical = theory.critical_weight_std(width)
    excess = 100 * (critical * math.sqrt(width) - 1)
    print(f"width {width:>3}: critical s = {critical:<7.3g}{excess:.2g} % above 1/√width")
assert abs(theory.critical_weight_std(4) - 0.572) < 5e-4

# %% [markdown]
# At width 4 it is 0.572 and not 0.5. At width 256 the two differ by 0.2 %, and the rule is good. Lesson 04 turns it
# into the initializations that everybody uses.

# %% [markdown]
# ## 5 · Round 3: a stable norm is not a stable spectrum
#
# You have tuned $s$ to 0.572, and messages keep their length. Are they healthy?
#
# **Predict.** Two different errors set out at a right angle: (1, 0, 0, 0) and (0, 1, 0, 0). After twenty matrices,
# the angle between them is typically (a) still about 90°; (b) anything; (c) nearly 0° or nearly 180°.

# %%
def sine(products):
    """Sine of the angle between what became of the first two messages: (seeds, depth)."""
    one, other = F.normalize(products[..., 0], dim=-1), F.normalize(products[..., 1], dim=-1)
    along = (one * other).sum(dim=-1, keepdim=True) * one
    return (other - along).norm(dim=-1).numpy()

# %% [markdown]
# Once through the Gaussian matrices, and once through as many random **orthogonal** matrices, which only turn and
# reflect:

# %%
angles = sine(products)
orthogonal = torch.linalg.qr(matrices).Q  # (32 seeds, 101, 4, 4)
mirrors = sine(signals.matrix_products(orthogonal))
for name, sines in (("Gaussian", angles), ("orthogonal", mirrors)):
    print(f"{name:>10}: median angle after 20 {np.degrees(np.arcsin(np.median(sines[:, 19]))):.1f}°")
assert np.median(angles[:, 19]) < 0.03 and mirrors.min() > 1 - 1e-12

# %% [markdown]
# **What you should see.** Answer (c). The courier still arrives, and always with the same letter: the first layers
# learn *how large* the error is and no longer *which* error it is. Orthogonal
# matrices keep a right angle a right angle. The whole way, beside a theory that is explained below:

# %%
rates = theory.lyapunov_exponents(4, weight_std=0.572)
ax = plots.curve(depths[:40], angles[:, :40], label="Gaussian", log_y=True)
plots.curve(depths[:40], mirrors[:, :40], label="orthogonal", ax=ax)
closing = np.exp((rates[1] - rates[0]) * depths[:40])
plots.curve(depths[:40], closing, label="theory", kind="theory", ax=ax)
ax.set(xlabel="matrices", ylabel="sine of the angle", ylim=(1e-8, 10));

# %% [markdown]
# **Why.** A matrix stretches different directions differently. The stretches are its **singular values**, and a
# product has one rate for each of them. For Gaussian matrices all $n$ rates are known (Newman 1986):
#
# $$\lambda_k = \tfrac12\bigl(\ln 2 + \psi\bigl(\tfrac{n-k+1}{2}\bigr)\bigr) + \ln s, \qquad k = 1, \dots, n.$$
#
# One number $s$ moves all of them together. It can make the first one 0, and then all others are negative. That is
# what closes the angle: all but the first direction fade, the second slowest, so the sine falls as
# $e^{(\lambda_2 - \lambda_1)L}$. Measure the four singular values at the critical $s$, beside the four rates:

# %%
shown = depths[:16]
spectrum = torch.linalg.svdvals(products[:, :16]).numpy() * 0.572 ** shown[:, None]
ax = plots.curve(shown, spectrum[..., 0], label="largest", log_y=True)
for k, label in enumerate(("second", "third", "smallest"), start=1):
    plots.curve(shown, spectrum[..., k], label=label, ax=ax)
for k, rate in enumerate(rates):
    plots.curve(shown, np.exp(rate * shown), label="" if k else "theory", kind="theory", ax=ax)
ax.set(xlabel="matrices", ylabel="singular value", title="s = 0.572: the norm is stable");

# %% [markdown]
# The largest stays (with the head start of a norm that you saw above); the other three die, each at its own rate.
# Their spread has a name, the **condition number**
# $\kappa = \sigma_{\max}/\sigma_{\min}$: how much better the best-heard message fares than the worst-heard. Theory says
# $\kappa \approx e^{(\lambda_1 - \lambda_n)L}$ for Gaussian matrices, *whatever* $s$ is, and 1 for orthogonal ones.
#
# After some 30 matrices the smallest singular value is 10¹⁶ times smaller than the largest, and float64, which keeps
# sixteen digits, cannot see it beside the other any more. The cell measures it where it is large instead: as
# one over the norm of the *inverse* product.


# %%
def condition_number(factors):
    """Of each running product: its norm times the norm of its inverse, (seeds, depth)."""
    pair = factors, torch.linalg.inv(factors).mT  # transposed, for their order is reversed
    norms = [torch.linalg.matrix_norm(signals.matrix_products(chain), 2) for chain in pair]
    return (norms[0] * norms[1]).numpy()

# %% [markdown]
# Both kinds of matrices again, to the full depth:

# %%
ax = plots.curve(depths, condition_number(matrices), label="Gaussian", log_y=True)
plots.curve(depths, condition_number(orthogonal), label="orthogonal", ax=ax)
plots.curve(depths, np.exp((rates[0] - rates[3]) * depths), label="theory", kind="theory", ax=ax)
plots.curve(depths, np.ones(101), kind="theory", ax=ax)
ax.set(xlabel="matrices", ylabel="condition number");

# %% [markdown]
# In decades:

# %%
decades = np.median(np.log10(condition_number(matrices)), axis=0)
for depth in (31, 101):
    expected = depth * (rates[0] - rates[3]) / math.log(10)
    print(f"condition number after {depth:>3}: theory 10^{expected:.0f}, median 10^{decades[depth - 1]:.0f}")
assert condition_number(orthogonal).max() < 1 + 1e-9 and abs(decades[-1] - 52.3) < 3

# %% [markdown]
# Fifty decades between the best-heard and the worst-heard message, behind a norm that looks perfectly healthy. It is
# why the course's dashboard has a SPECTRUM panel beside SCALE, and why lesson 04 comes back to orthogonal matrices
# (Saxe, McClelland and Ganguli 2014 call their virtue *dynamical isometry*).
#
# **Explore.** Both ends of the spectrum, for the width and the gain $s\sqrt n$ of your choice. Look for a gain at which
# *both* lines are level.

# %% tags=["explorer"]
explorers.matrix_chain()

# %% [markdown]
# ## 6 · Round 4: where the numbers give up
#
# So far all was computed in float64, which hardly ever runs out of numbers. Networks are trained in smaller formats.
# Each has a largest number, beyond which everything is infinity: the pipe bursts. Each has a smallest one, below half
# of which everything is 0: the pipe is dry. **Normal** numbers have full precision. Below them lies a
# small zone of **subnormal** numbers, equally spaced, which lose digits as they shrink. Epsilon is the gap between 1
# and the next number, so it says how coarse the format is.

# %%
formats = ("float16", "bfloat16", "float32")
print(f"{'':>9}{'smallest':>10}{'normal from':>13}{'largest':>10}{'epsilon':>10}")
for name in formats:
    n = theory.number_format(name)
    numbers = n.smallest_subnormal, n.smallest_normal, n.largest, n.epsilon
    print("{:>9}{:>10.1e}{:>13.1e}{:>10.1e}{:>10.1e}".format(name, *numbers))

# %% [markdown]
# float16 and bfloat16 both spend 16 bits. float16 buys precision with them, bfloat16 buys range, nearly that of float32.
#
# **Predict.** Multiply by 0.25, layer after layer. float16 is the first to say 0. When does bfloat16?
# (a) at about the same layer, for it has as many bits; (b) about five times later; (c) at the same layer as float32.

# %%
steps = np.arange(1, 86)
exact = torch.tensor(0.25, dtype=torch.float64) ** torch.from_numpy(steps)
ax = plots.curve(steps, exact, label="exact", kind="theory", log_y=True)
for name in reversed(formats):  # the one that ends first is drawn last
    rounded, zero = exact.to(theory.FORMATS[name]).double(), theory.first_zero(0.25, name)
    plots.curve(steps, rounded, label=f"{name}: 0 from layer {zero} on", ax=ax)
    plots.guide(ax, zero, "", vertical=True)
ax.set(xlabel="layers", ylabel="0.25 to the power of layers");

# %% [markdown]
# Three factors, and the same question upwards:

# %%
for factor in (0.25, 0.5, 0.8):
    print(f"{factor:<4} is 0 from:", {name: theory.first_zero(factor, name) for name in formats})
print("2    is infinite from:", {name: theory.first_overflow(2.0, name) for name in formats})
assert [theory.first_zero(0.25, name) for name in formats] == [13, 67, 75]

# %% [markdown]
# **What you should see.** Answer (b): 13, 67, 75. **Why:** a power $c^n$ is 0 as soon as it is at most half of the
# smallest number (a tie goes to 0), that is from $n = \lceil \log(\text{smallest}/2)\,/\,\log c \rceil$ on. There is no seed
# band here, for nothing is random. Upwards it is the same story: 2¹⁰⁰ fits into float32 and bfloat16, which end
# at 2¹²⁸, and float16 ends at 2¹⁶.
#
# These are powers that were computed exactly and rounded **once**. A network rounds at *every* layer, and then
# something odd can happen.
#
# **Predict.** In exact arithmetic, 0.8ⁿ rounds to 0 in float16 from n = 78 on, as the table says. Multiply by 0.8 *step
# by step in float16*: when do you get 0? (a) at 78 too; (b) somewhat earlier, for rounding loses something each
# time; (c) never.

# %%
count = np.arange(1, 201)
kept = signals.running_product(0.8, 200, "float16")
ax = plots.curve(count, kept, label="step by step in float16", log_y=True)
plots.curve(count, 0.8**count, label="exact", kind="theory", ax=ax)
ax.set(xlabel="factors of 0.8", ylabel="product", xlim=(-5, 260), ylim=(1e-20, 10))
plots.guide(ax, theory.number_format("float16").smallest_subnormal, "smallest float16");

# %% [markdown]
# **What you should see.** Answer (c). The line levels off just above the smallest float16:

# %%
smallest, stuck = theory.number_format("float16").smallest_subnormal, kept[-1]
first = count[kept == stuck][0]
print(f"from factor {first} on: {stuck:.3g} = {stuck / smallest:g} × the smallest number")
assert all(signals.running_product(c, 400, "float16")[-1] > 0 for c in (0.55, 0.6, 0.7, 0.9, 0.95))

# %% [markdown]
# **Why:** the subnormal numbers are equally spaced. Two spacings times 0.8 are 1.6 spacings, and the nearest number
# to that is two spacings. Every factor between 0.5 and 1 gets stuck like this somewhere (the last line tries a few).
#
# It is a trap, because it looks like good news: a gradient that has *stopped vanishing*. A gradient of exactly
# 1.19e-7 in float16 is no gradient at all. Learn the number by heart, or better, look at the RANGE panel.
#
# **Explore.** Depth × local derivative × number format. The line is the exact product, the marks are what a network
# that computes in this format would hold. Look for the place where the marks leave the line.

# %% tags=["explorer"]
explorers.chain()

# %% [markdown]
# ## 7 · Round 5: three things called "the gradient"
#
# Somebody tells you that "the gradient vanishes". The gradient of *what*? There are three candidates, and this course
# never mixes them up:
#
# | name | formula | it answers |
# |---|---|---|
# | `activation_gradient` | $\partial\,\text{loss}/\partial h_l$ | Does the message arrive? |
# | `weight_gradient` | $\partial\,\text{loss}/\partial W_l = \delta_l\,h_{l-1}^{\mathsf T}$, with $\delta_l = \partial\,\text{loss}/\partial z_l$ | What is this weight told to do? |
# | `update_ratio` | $\eta\,\lVert\partial\,\text{loss}/\partial W_l\rVert \,/\, \lVert W_l\rVert$, with learning rate $\eta$ | Does the weight move? (Rule of thumb: about 1e-3 per step.) |
#
# You met the first two by hand: `d_h1` is an activation gradient, `d_w1` a weight gradient. Here is a network in which
# they disagree: twenty ReLU layers with the initialization of Glorot and Bengio (2010), called Xavier, which is too
# small for ReLU (lesson 04).
#
# **Predict.** The message loses a factor of $\sqrt{1/2}$ per layer. Compare the first layer with the last:
# in which of the three do you *see* the loss? (a) in all three; (b) in the first two; (c) in the first only.

# %%
inputs, targets = data.gaussian_batch(64, 128, seed=100), data.gaussian_batch(64, 10, seed=101)


def small_network(seed):
    """Twenty ReLU layers with Xavier weights, without biases."""
    return networks.DeepMLP(20, 128, in_features=128, activation="relu", bias=False,
                            initialization="xavier_normal", seed=seed, dtype=torch.float64)


def examine(model):
    return signals.measure(model, inputs, targets, F.mse_loss, layers=networks.Block,
                           learning_rate=0.1)

# %% [markdown]
# `signals.measure` runs any PyTorch module once forward and once backward, and reports all three for each layer.
# Twelve seeds; divide by the last layer, so that the three share one axis:

# %%
found = [examine(small_network(seed)) for seed in range(12)]
three, ax = ("activation_gradient_norm", "weight_gradient_norm", "update_ratio"), None
for name in three:
    series = np.array([one.series(name) for one in found])  # (seeds, layers)
    ax = plots.layers(series / series[:, -1:], label=name.removesuffix("_norm"), ax=ax)
arriving = theory.gradient_norm_trajectory(20, "relu", weight_var=1.0)
plots.layers(arriving, label="theory: √½ per layer", kind="theory", ax=ax)
ax.set(ylabel="relative to the last layer", ylim=(3e-4, 30));

# %% [markdown]
# In numbers, first layer over last, with the variance of the activations beside the gradients:

# %%
ratios = {name: np.median([one.series(name)[0] / one.series(name)[-1] for one in found])
          for name in ("activation_gradient_norm", "weight_gradient_norm", "activation_variance")}
for name, ratio in ratios.items():
    print(f"{name:>24}: layer 1 / layer 20 = {ratio:.1g}")
assert 5e-4 < ratios["activation_gradient_norm"] < 4e-3
assert 0.5 < ratios["weight_gradient_norm"] < 2

# %% [markdown]
# **What you should see.** Answer (c). The message loses a factor of about a thousand, and the weight gradients are
# level, as if nothing had happened. (The update ratios lie on top of them: all these weight matrices have the same
# norm.)
#
# **Why.** A weight gradient is a *product* of two signals, one from each side: $\delta_l$, which the courier brings
# back, and $h_{l-1}$, which came forward. Here both shrink by $\sqrt{1/2}$ per layer, in opposite directions, so
#
# $$\lVert\delta_l\rVert\,\lVert h_{l-1}\rVert \;\propto\; 2^{-(L-l)/2}\cdot 2^{-(l-1)/2} = 2^{-(L-1)/2},$$
#
# the same in every layer $l$. Layer 1 has a strong forward signal and a faint message; layer 20 has a faint
# forward signal and a strong message. (The last number printed says so: the activation variance of layer 1 is hundreds
# of thousands of times that of layer 20.) Who plots weight gradients alone, first layer against last, misses the
# disease. Plot both signals; SCALE does.
#
# The third quantity can part from the second as well. Multiply the weights of one layer by 10 and divide those of the
# next by 10: ReLU lets positive factors through, so the network computes *exactly the same function*.

# %%
model = small_network(seed=0)
before = examine(model)
with torch.no_grad():
    model.blocks[9].linear.weight.mul_(10)  # layer 10
    model.blocks[10].linear.weight.div_(10)  # layer 11
after = examine(model)
for name in three:
    change = after.series(name) / before.series(name)
    print(f"{name:>24}: layer 9 × {change[8]:<5.3g} 10 × {change[9]:<5.3g} 11 × {change[10]:.3g}")

# %% [markdown]
# Three quantities, and three different answers in layer 11. Here is the one that the optimizer feels:

# %%
assert math.isclose(before.loss, after.loss, rel_tol=1e-9)
ax = plots.layers(before.series("update_ratio"), label="before", ylabel="update ratio")
plots.layers(after.series("update_ratio"), label="after rescaling", ax=ax)
plots.guide(ax, 1e-3, "rule of thumb: 1e-3").set_ylim(1e-8, 1e-2);

# %% [markdown]
# Same outputs, same loss, and yet layer 10 now moves a hundred times less per step, relative to its size, and layer 11 a hundred
# times more: ten from the gradient, ten from the norm that it is compared with. A gradient by itself is
# neither large nor small. Say *of what*, and *compared with what*.

# %% [markdown]
# ## 8 · Misdiagnosis: a zero that is not a vanished gradient
#
# Two patients, both twenty layers deep, both trained in float16. Their charts say the same thing: *the gradient in
# layer 1 is exactly 0.* One of them has a vanishing gradient. The other has nothing wrong with its chain at all.


# %%
def patient(activation, initialization, dtype=torch.float64):
    return networks.DeepMLP(20, 64, out_features=64, activation=activation,
                            initialization=initialization, seed=0, dtype=dtype)


def chart(model, weight, scale=1.0):
    """Measure a model that has to reproduce its inputs: mean squared error × weight × scale."""
    images = (0.1 * data.gaussian_batch(1024, 64, seed=5)).to(model.readout.weight.dtype)
    return signals.measure(model, images, images, layers=networks.Block,
                           loss_fn=lambda out, truth: F.mse_loss(out, truth) * (weight * scale))

# %% [markdown]
# Patient A has tanh units and orthogonal weights; its loss is one term of a larger one and carries a weight of 0.001, as
# auxiliary losses do. Patient B has sigmoid units.

# %%
patients = {"A": (("tanh", "orthogonal"), 1e-3), "B": (("sigmoid", "xavier_normal"), 1.0)}
for name, (recipe, weight) in patients.items():
    norms = chart(patient(*recipe, torch.float16), weight).series("activation_gradient_norm")
    print(f"patient {name}: gradient {norms[0]:.1g} in layer 1, {norms[-1]:.1g} in layer 20")

# %% [markdown]
# **Predict.** Which one has the vanishing gradient? Note what the second number adds.
#
# A chain begins at the loss. Whatever its factors are, the *last* layer stands at the beginning and has lost nothing
# yet. Patient A's last layer is 0 as well, so no product of factors can be to blame. Look at both in float64, where
# range is no concern (one seed gives the same weights in every format):

# %%
healthy, vanished = (chart(patient(*recipe), weight) for recipe, weight in patients.values())
ax = plots.layers(healthy.series("activation_gradient_norm"), label="patient A")
plots.layers(vanished.series("activation_gradient_norm"), label="patient B", ax=ax)
ax.set(title="in float64", ylabel="gradient norm");

# %% [markdown]
# From this measurement one can also read which share of the entries *would* become 0 in float16:

# %%
for name, seen in (("A", healthy), ("B", vanished)):
    shares, norms = seen.series("underflow.float16"), seen.series("activation_gradient_norm")
    print(f"patient {name}: lost {shares[0]:.0%} in layer 1, {shares[-1]:.0%} in layer 20; "
          f"norm of layer 1 over layer 20: {norms[0] / norms[-1]:.1g}")

# %% [markdown]
# Patient A's line is level: the courier loses nothing. But *every entry* of the message is smaller than half of the smallest
# float16. It is a matter of units, like measuring a mouse in kilometers. Patient B's line falls twelve decades: that
# is the disease, and the next lesson is about it.
#
# If you are still in doubt, treat. Multiply the loss by 2¹⁵ before going back, and divide the gradients by it afterwards
# (**loss scaling**, Micikevicius et al. 2018). It shifts a line on the log axis, and cannot change its slope:

# %%
for (name, (recipe, weight)), exact in zip(patients.items(), (healthy, vanished), strict=True):
    scaled = chart(patient(*recipe, torch.float16), weight, scale=2.0**15)
    share, true = (one.series("activation_gradient_norm") for one in (scaled, exact))
    share = share / 2**15 / true
    print(f"patient {name}: restored {share[0]:.0%} in layer 1, {share[-1]:.0%} in layer 20")

# %% [markdown]
# Patient A is cured with one multiplication. Patient B's first layer still hears nothing. Two diseases, one
# symptom; what told them apart was the shape over depth, and a look at RANGE beside SCALE. Here is the whole
# dashboard of patient A, as you will see it from now on:

# %%
image = 0.1 * data.gaussian_batch(1024, 64, seed=5)[0]
singular_values = signals.jacobian_singular_values(patient(*patients["A"][0]), image)
scale = plots.dashboard(healthy, singular_values)[0]
scale.get_legend().set_loc("center right");

# %% [markdown]
# SCALE is level in both signals, SPECTRUM is narrow (orthogonal weights, as in Round 3), and RANGE has one bar that should
# not be there. The patient needs other units, not another architecture.

# %% [markdown]
# ## 9 · Check yourself
#
# **1.** In a chain, half of the factors are 0.25 and half are 4, in random order. Does the message typically vanish,
# explode, or neither?
#
# <details><summary>Answer</summary>
#
# Neither. The typical factor is the exponential of the mean logarithm, and ln 0.25 + ln 4 = 0. The *average* factor is
# above 2, which says nothing about a typical chain. The message does wander, though, by ever more decades.
#
# </details>
#
# **2.** A colleague builds linear layers of width 4 with $s = 1/\sqrt4$ and reports: "The variance is preserved
# on average, and still my signal dies. There must be a bug." Is there?
#
# <details><summary>Answer</summary>
#
# No. The mean square is preserved, the mean logarithm is not: a typical message shrinks by 0.87 per layer. At width 4 the
# critical value is 0.572. The rule $1/\sqrt n$ is for wide layers.
#
# </details>
#
# **3.** All activation gradients of a network have the same norm. Is backpropagation healthy?
#
# <details><summary>Answer</summary>
#
# You do not know yet. The norm can be stable while the spectrum collapses: then every error arrives as the same message.
# Look at the singular values of the Jacobian.
#
# </details>
#
# **4.** Weight gradients are equally large in the first and in the last layer. Can the network still have a
# vanishing activation gradient?
#
# <details><summary>Answer</summary>
#
# Yes. A weight gradient is a product of a backward and a forward signal. When the forward signal shrinks towards the
# last layer as fast as the backward signal shrinks towards the first, their product is level.
#
# </details>
#
# **5.** A monitor that computes in float16 shows the same tiny gradient in ten neighboring layers. What do you suspect, and how
# do you check?
#
# <details><summary>Answer</summary>
#
# A product stuck among the subnormal numbers: a small multiple of the smallest float16, 6e-8, that every rounding restores.
# Measure the same network in float32 or float64, or look at the RANGE panel.
#
# </details>
#
# **6.** Why does training in bfloat16 usually need no loss scaling, and what does it pay for that?
#
# <details><summary>Answer</summary>
#
# Its range is nearly that of float32, so gradients rarely leave it. It pays with precision: its epsilon is eight times
# that of float16.
#
# </details>

# %% [markdown]
# ## 10 · Exercise
#
# The exercises of this lesson: [01_chain_rule_intuition](../exercises/01_chain_rule_intuition/01_chain_rule_intuition.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.

# %% [markdown]
# ## Summary
#
# - You followed a gradient by hand from the loss to the first weight, and autograd agreed at every step.
# - You said what is left of a hundred factors: 0.8¹⁰⁰ = 2.04e-10. You saw that the typical factor decides, the exponential of
#   the mean logarithm, and not the average.
# - You predicted how products of random matrices grow from their Lyapunov exponent, found the critical $s$ (0.572 at width 4),
#   and told a stable norm from a stable spectrum.
# - You found where formats give up (0.25ⁿ is 0 at n = 13, 67 and 75), saw a product get stuck among subnormals, and recognized a
#   zero that only the format had made.
# - You kept activation gradient, weight gradient and update ratio apart, in a network in which all three disagree.
#
# ## References
#
# - Bengio, Y., Simard, P., Frasconi, P. (1994). Learning long-term dependencies with gradient descent is difficult. *IEEE
#   Transactions on Neural Networks* 5(2).
# - Furstenberg, H., Kesten, H. (1960). Products of random matrices. *Annals of Mathematical Statistics* 31(2).
# - Glorot, X., Bengio, Y. (2010). Understanding the difficulty of training deep feedforward neural networks. *AISTATS*.
# - Hanin, B., Nica, M. (2020). Products of many large random matrices and gradients in deep neural networks. *Communications in
#   Mathematical Physics* 376.
# - Hochreiter, S. (1991). *Untersuchungen zu dynamischen neuronalen Netzen*. Diploma thesis, Technische Universität München.
# - Micikevicius, P., et al. (2018). Mixed precision training. *ICLR*.
# - Newman, C. M. (1986). The distribution of Lyapunov exponents: exact results for random matrices. *Communications in
#   Mathematical Physics* 103.
# - Rumelhart, D. E., Hinton, G. E., Williams, R. J. (1986). Learning representations by back-propagating errors. *Nature* 323.
# - Saxe, A. M., McClelland, J. L., Ganguli, S. (2014). Exact solutions to the nonlinear dynamics of learning in deep linear neural
#   networks. *ICLR*.
#
# ## Next
#
# [02 · Why did deep sigmoid networks not train for twenty years?](02_sigmoid_saturation.ipynb) You now know what a factor of 0.25
# does to a message. Next you will meet the layer that multiplies by it.
