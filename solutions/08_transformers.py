# %% [markdown]
# # Exercises 08 · Where does attention look, and who minds?
#
# For [lesson 08](../../notebooks/08_transformers.ipynb). Five exercises, 100 minutes, 18 points.
#
# | | Exercise | Minutes | Difficulty | Points |
# |---|---|---|---|---|
# | 1 | Better than the mean | 15 | warm-up | 2 |
# | 2 | The first of a thousand | 15 | easy | 3 |
# | 3 | Who tells the query? | 25 | medium | 4 |
# | 4 | "Adam will see to it" | 15 | medium | 4 |
# | 5 | How many blocks until all tokens are one? | 30 | expert | 5 |
#
# Write each answer in place of the line that says so, run the cell, then run the check below it. A check says
# in one sentence what your answer looks like; `checks.NAME.hint()` in a cell of your own gives a hint.

# %%
import math

import numpy as np
import torch

from gradients_in_depth import checks, data, networks, session

session.start(seed=0)

# %% [markdown]
# ## Exercise 1 · Better than the mean
#
# *15 minutes · warm-up · 2 points*
#
# In the lesson one query sent its message back through the softmax. Here are all queries at once, and with
# what a real model has: some keys are masked, which means that their logit is −∞, and logits may be as
# large as ±2000.
#
# `logits` is a NumPy array (queries, keys); each row has at least one finite logit, and its softmax gives the
# weights of that query. `to_weights`, of the same shape, is the gradient of the loss by each weight. Return
# the gradient of the loss by each logit: an array (queries, keys), finite everywhere, and 0 for a masked key.

# %% answer logit_messages
def messages(logits, to_weights):
    """The gradient of the loss by each logit: (queries, keys)."""
    ### BEGIN SOLUTION
    p = np.exp(logits - logits.max(axis=1, keepdims=True))  # the largest becomes 1, a masked one 0
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * to_weights).sum(axis=1, keepdims=True)  # what the loss gets already, from each query
    return p * (to_weights - mean)
    ### END SOLUTION

# %% check logit_messages
checks.logit_messages(messages)
### BEGIN HIDDEN TESTS
checks.logit_messages(messages, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# To think about, without points: for which `to_weights` does your function return nothing but zeros, whatever
# the logits?
#
# <details><summary>Answer</summary>
#
# For those that have one and the same number in all places of a row. Weights that sum to 1 cannot all grow:
# what would do equally well everywhere is no reason to look elsewhere. Equal values in all tokens are of this
# kind.
#
# </details>
#
# ## Exercise 2 · The first of a thousand
#
# *15 minutes · easy · 3 points*
#
# A language model's attention is *causal*: position $i$ sees the tokens 1 to $i$ and no later one. Take
# $T = 1000$ tokens, and attention that looks at all it sees alike, with weight $1/i$. The loss sends a
# message, a vector of length 1, back to the output of each position. The value of token $j$ gets a gradient
# from every position that sees it; we count this way only, with no skip, and say "size" for the root mean
# square of its length.
#
# **Predict**, with paper and a calculator, or with two lines of code:
#
# - `first`: the size of the gradient that the value of token 1 gets, when the messages of different positions
#   are independent and point every which way. Within 2 %.
# - `faint`: the number of the first token whose size, with the same messages, is less than a tenth of that.
#   Within 2 %.
# - `agreed`: the size for token 1 again, when all positions send *one and the same* message. Within 2 %.

# %% answer causal_shares
first = None  # a number
faint = None  # a whole number, from 1 to 1000
agreed = None  # a number
### BEGIN SOLUTION
i = np.arange(1, 1001)
size = np.sqrt(np.cumsum((1 / i**2)[::-1])[::-1])  # token j is seen from position j on; squares add up
first, faint = size[0], int(np.argmax(size < size[0] / 10)) + 1
agreed = (1 / i).sum()  # no cancelling: the lengths themselves add up
### END SOLUTION

# %% check causal_shares
checks.causal_shares(first, faint, agreed)

# %% [markdown]
# To think about, without points: without the mask every token got $1/\sqrt T$ (lesson, section 3). Have the
# first tokens gained what the others lost?
#
# <details><summary>Answer</summary>
#
# Each position hands out weights that sum to 1, with a mask or without. So if all messages agree, the
# gradients of all tokens add up to $T$ in both cases, and what the first have more the others have less. If
# the messages point every which way, *squares* add up, and their sum has grown: weights $1/i$ are less even
# than weights $1/T$, and a few large weights cancel less than many small ones. Either way, at the start of
# training the first tokens are heard by everybody, whatever they say.
#
# </details>
#
# ## Exercise 3 · Who tells the query?
#
# *25 minutes · medium · 4 points*
#
# Attention with one head as in the lesson, but causal: queries, keys and values are linear maps of the tokens,
# without biases; a logit is query · key / $\sqrt{d_k}$; token $i$ looks at the tokens up to and including
# itself; the output of a token is the mean of the values with its weights (no output matrix after that). In
# NumPy:
#
# - `x` is an array (tokens, d_model);
# - `w_query`, `w_key`, `w_value` are arrays (d_k, d_model), as PyTorch stores them: the query of a token is
#   `w_query @ token`;
# - `to_outputs` (tokens, d_k) is the gradient of the loss by each output.
#
# Return the gradient of the loss by `w_query`. Write it by hand, without autograd: you have all parts.

# %% answer query_gradient
def gradient(x, w_query, w_key, w_value, to_outputs):
    """The gradient of the loss by w_query: (d_k, d_model)."""
    ### BEGIN SOLUTION
    query, key, value = x @ w_query.T, x @ w_key.T, x @ w_value.T  # (tokens, d_k) each
    root = math.sqrt(len(w_query))
    later = np.triu(np.ones((len(x), len(x)), dtype=bool), k=1)
    logits = np.where(later, -np.inf, query @ key.T / root)
    to_logits = messages(logits, to_outputs @ value.T)  # a weight is worth its value times what is asked for
    to_query = to_logits @ key / root  # the root a second time: it stands between query and logit
    return to_query.T @ x
    ### END SOLUTION

# %% check query_gradient
checks.query_gradient(gradient)
### BEGIN HIDDEN TESTS
checks.query_gradient(gradient, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Now let all tokens be nearly one: the same vector, plus `r` times what is their own. When `r` becomes ten
# times smaller, by what factor does the gradient of `w_query` shrink? Guess before you run this, and then say
# why.

# %%
rng = np.random.default_rng(8)
common, own, asked = rng.normal(size=(1, 16)), rng.normal(size=(10, 16)), rng.normal(size=(10, 8))
weights = rng.normal(size=(3, 8, 16)) / 4

# %% [markdown]
# Three sizes of what is their own:

# %%
for r in (1e-1, 1e-2, 1e-3):
    found = gradient(common + r * own, *weights, asked)
    print(f"r = {r:g}: the gradient of w_query has length {np.linalg.norm(found):.1g}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# By 100. The message to a logit is a difference of *values*, and from the logits back to a query it is
# multiplied by *keys*; since the messages of one query sum to 0, only differences of keys count. Two
# differences: $r^2$, as in section 6 of the lesson.
#
# </details>
#
# ## Exercise 4 · "Adam will see to it"
#
# *15 minutes · medium · 4 points*
#
# In a Post-LN Transformer of 24 blocks the tokens have become nearly equal, and $W_Q$ of the last block gets
# a gradient that is a millionth of that in the first. A colleague is not worried: "That matters for plain
# gradient descent. I train with Adam. It divides each gradient by its own size, so this $W_Q$ moves as far in
# each step as any other. I have logged the updates, and they are as large in block 24 as in block 1."
#
# Answer in five to nine sentences, without a formula. In what is she right, and in what respect do such steps
# not help the loss? Next door is another network, whose $W_Q$ gets no gradient either, because its softmax is
# very sharp: every query looks at one token only, and the tokens are different. Which experiment with $W_Q$,
# which needs
# *no gradient*, tells the two networks apart, and what comes out in each? And what has to change in hers?

# %% text full_size_steps [markdown]
# She is right about the length of the steps: Adam divides a gradient by its own size, so a small one makes a
# step as long as a large one, as long as it is above Adam's ε and above the rounding of the number format.
# But the gradient is not small because of its units: it says that it makes next to no difference to the loss
# where this block looks. All tokens offer nearly the same value, and every mean of equal values is the same
# vector. So a step of full length changes the attention and leaves the output as it is, and Adam's division
# cannot create an effect that is not there. The experiment: replace $W_Q$ of the last block by another random
# matrix of the same size (or shuffle it), and see how much the output changes. In her network next to nothing
# happens, with *any* $W_Q$. Next door the output changes a lot, because other tokens are chosen: there the
# choice matters, and only the slope at this point is zero. What has to change in hers is the forward pass, so
# that tokens stay different: a smaller branch (DeepNorm) or Pre-LN. No optimizer and no learning rate does
# that.
#
# **Rubric (4 points).** One point each, whatever the words:
#
# - *Where she is right:* Adam's steps do not depend on the size of the gradient, so $W_Q$ does move. (Half a
#   point for "no, Adam's steps are small as well" if it is argued with ε or rounding.)
# - *Why it does not help:* the gradient is small because the effect is; equal values have the same mean,
#   wherever one looks. (Half a point for "because of rank collapse" without saying why then the loss has no
#   opinion.)
# - *Experiment, with both outcomes:* a large change of $W_Q$ (a new draw, zero, shuffled), and what becomes
#   of output or loss: nothing in hers, much next door. (Half a point for entropy and cosine, which tell the
#   two apart but change nothing in $W_Q$; half a point with one outcome only.)
# - *Remedy:* tokens have to stay different on the way forward: smaller branches, DeepNorm, or Pre-LN.
#
# Take off one point, once, for "the gradient gets lost on its way back through the blocks": the last block is
# next to the loss.

# %% [markdown]
# ## Exercise 5 · How many blocks until all tokens are one?
#
# *30 minutes · expert · 5 points*
#
# A Post-LN network of $L$ blocks with branches of scale $s$: $x \leftarrow \mathrm{LN}(x + s\,f(x))$, for the
# attention and then for the feed-forward network of each block. The deeper a network is to be, the smaller
# one makes $s$, and people disagree how much:
#
# $$s = (2L)^{-\text{power}}, \qquad \text{power} = 0 \text{ (2017)},\quad \tfrac14 \text{ (DeepNorm's } 1/\alpha
# \text{, without its smaller weights)},\quad \tfrac12 \text{ (GPT-2's, there in Pre-LN)}.$$
#
# The network is very wide and has random Xavier weights; the tokens that come in are *nearly equal*. Then
# (lesson, section 4)
#
# - after each norm the stream has mean square 1, and what a branch adds is at a right angle to it;
# - attention adds *one and the same* vector to all tokens, of mean square $s^2$;
# - the feed-forward network adds vectors of mean square $0.32\,s^2$, and those for two tokens have the same
#   cosine as the two tokens it reads.
#
# Return the largest depth $L$, a whole number, at which 1 − cosine between two tokens is at the end still at
# least 1/`fall` of what it was at the start; `math.inf` if *every* depth will do. `power` is a number from 0
# to ½, and `fall` is large enough for one block. (A loop that only counts upward does not end where every
# depth will do.)

# %% answer collapse_depth
def deepest(fall, power):
    """The largest depth at which 1 - cosine has fallen by at most `fall`: a whole number, or math.inf."""
    ### BEGIN SOLUTION
    if power == 0.5 and fall >= math.exp(0.5):
        return math.inf  # (1 + 1/2L)^L grows with L, and stays below the root of e

    def too_deep(depth):  # attention divides 1 - cosine by 1 + s², the feed-forward network leaves it
        return depth * math.log1p((2 * depth) ** (-2 * power)) > math.log(fall)

    depth = 1
    while not too_deep(depth + 1):
        depth += 1
    return depth
    ### END SOLUTION

# %% check collapse_depth
checks.collapse_depth(deepest)
### BEGIN HIDDEN TESTS
checks.collapse_depth(deepest, seed=7)
### END HIDDEN TESTS

# %% [markdown]
# Is it true of a real network, 64 wide? Blocks of the lesson, random weights, eight tokens that are nearly
# equal: how far 1 − cosine has fallen after 24 blocks.


# %%
@torch.no_grad()
def fallen_by(power, seed, depth=24, d_model=64):
    settings = {"norm_placement": "post", "branch_scale": (2 * depth) ** -power, "dtype": torch.float64}
    blocks = networks.Transformer(depth, d_model, seed=seed, **settings).blocks
    common, own = (data.gaussian_batch(n, d_model, seed=100 * n + seed) for n in (1, 8))
    x, shares = blocks[0].attention_norm(common + 1e-4 * own)[None], []
    for block in [torch.nn.Identity(), *blocks]:
        x = block(x)
        shares.append((x - x.mean(dim=1)).square().mean().item())
    return shares[0] / shares[-1]

# %% [markdown]
# The geometric mean of twenty networks, and what your function makes of it, which should be near 24:

# %%
for power in (0, 1 / 8, 1 / 4):
    fall = np.exp(np.mean([math.log(fallen_by(power, seed)) for seed in range(20)]))
    print(f"power {power:g}: 1 − cosine falls by {fall:.2g}; you allow {deepest(fall, power)} blocks for it")

# %% [markdown]
# To think about, without points: DeepNorm in full also multiplies the weights of its branches by
# $(8L)^{-1/4}$, two matrices in each branch (values and output, up and down). Which power is that in all, and
# what becomes of 1 − cosine in a very deep DeepNorm network at its start?
#
# <details><summary>Answer</summary>
#
# $s = (2L)^{-1/4}\,(8L)^{-1/2} = \tfrac12\,(2L)^{-3/4}$: power ¾, beyond the powers of this exercise. All
# blocks together add $L\,s^2 = \tfrac18\,(2L)^{-1/2}$, which falls with the depth: a deeper network keeps its
# tokens *better*. The price is the one that the lesson names in section 9, for each block does next to
# nothing at the start.
#
# </details>
