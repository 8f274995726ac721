"""Attention: how sharp a softmax is, and what a random Transformer does to its tokens."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import fftconvolve
from scipy.special import gammaincinv

from gradients_in_depth.arguments import check_choice, check_integer, check_number, check_numbers
from gradients_in_depth.theory.correlations import relu_cosine_map
from gradients_in_depth.theory.gaussian import Values, as_values


@dataclass(frozen=True)
class SoftmaxMoments:
    """Averages over random logits: how sharp a softmax is, and how much gradient it lets through.

    entropy: mean entropy in nats, from 0 (all weight on one key) to ln(keys) (the same on all).
    jacobian_norm: root mean square of the Frobenius norm of its Jacobian diag(p) - p p^T.
    concentration: mean of sum(p**2), the inverse of the number of keys that count.
    """

    entropy: float
    jacobian_norm: float
    concentration: float


def softmax_moments(keys: int, logit_variance: float) -> SoftmaxMoments:
    """Averages over a softmax of `keys` independent normal logits, to about 1e-6.

    Powers of 1 / Z, Z the sum of the exponentials, are integrals of exp(-t Z) over t, and the mean of
    exp(-t Z) is that for one key to the power `keys`. So each average is one integral over ln t. Entropy and
    concentration are related by integration by parts: E[sum(p z)] = logit_variance * (1 - E[sum(p**2)]).
    Raises TypeError or ValueError unless keys is an integer >= 1 and logit_variance is >= 0.
    """
    check_integer("keys", keys, at_least=1)
    check_number("logit_variance", logit_variance, at_least=0)
    if logit_variance < 1e-6 or keys == 1:
        return SoftmaxMoments(math.log(keys), math.sqrt(1 / keys - 1 / keys**2), 1 / keys)
    spread = math.sqrt(logit_variance)
    step = min(0.2, spread / 3)  # the trapezoidal rule: its error is below exp(-pi**2 / 0.2)
    reach = math.ceil(9 * spread / step)
    density = np.exp(-((np.arange(-reach, reach + 1) * step / spread) ** 2) / 2)
    density /= density.sum()
    u = np.arange(math.floor(-(9 * spread + 40) / step), math.ceil((9 * spread + 6) / step)) * step
    wide = np.arange(-reach, len(u) + reach) * step + u[0]
    w = np.exp(np.minimum(wide, 300.0))

    def mean(power: int) -> np.ndarray:
        """E[w**power exp(-w)] over one logit, w = exp(u + logit), for every u."""
        return fftconvolve(np.exp(power * np.minimum(wide, 300.0) - w), density, mode="valid").clip(0)

    one, two, three, four = (mean(power) for power in (0, 2, 3, 4))
    others = one.clip(0, 1) ** (keys - 1)
    square, cube, fourth = (
        keys * (values * others).sum() * step / math.factorial(power - 1)
        for power, values in ((2, two), (3, three), (4, four))
    )
    pairs = keys * (keys - 1) / 6 * (two**2 * one.clip(0, 1) ** (keys - 2)).sum() * step
    log_sum = (np.exp(-np.exp(np.minimum(u, 300.0))) - others * one).sum() * step
    entropy = log_sum - logit_variance * (1 - square)
    return SoftmaxMoments(
        float(max(entropy, 0.0)),
        float(math.sqrt(max(square - 2 * cube + fourth + pairs, 0.0))),
        float(square),
    )


def attention_moments(d_k: int, keys: int, scaled: bool = True) -> SoftmaxMoments:
    """`softmax_moments` of attention: logits are products of standard normal queries and keys of d_k entries.

    For one query the logits are independent and normal, of variance |q|**2 (a chi-squared number of mean
    d_k), and of |q|**2 / d_k if `scaled`: the averages over it are exact, to about 1e-3 (Vaswani et al. 2017
    give the variance d_k). Raises TypeError or ValueError unless d_k and keys are integers >= 1.
    """
    check_integer("d_k", d_k, at_least=1)
    points, weights = np.polynomial.legendre.leggauss(24)
    squares = 2 * gammaincinv(d_k / 2, (1 + points) / 2) / (d_k if scaled else 1)
    moments = [softmax_moments(keys, float(square)) for square in squares]

    def mean(values: list[float]) -> float:
        return float(np.dot(values, weights) / 2)

    return SoftmaxMoments(
        mean([each.entropy for each in moments]),
        math.sqrt(mean([each.jacobian_norm**2 for each in moments])),
        mean([each.concentration for each in moments]),
    )


@dataclass(frozen=True)
class TransformerTrajectory:
    """What a random Transformer does to its tokens.

    variance (depth + 1,): mean square of the entries of the stream, before the first block and after each.
    difference (depth + 1,): 1 - cosine between two tokens of one sequence, there.
    last_gradient: norm of the gradient by the last feed-forward weights, 1 for a stream of mean square 1.
    """

    variance: np.ndarray
    difference: np.ndarray
    last_gradient: float


def transformer_trajectory(
    depth: int, tokens: int, norm_placement: str, first: float = 1.0, cosine: float = 0.0
) -> TransformerTrajectory:
    """Variance, and difference of tokens, in a wide random Transformer with skips and uniform attention.

    Xavier weights, 4 d_model hidden ReLU units; `first` and `cosine` (between tokens) are those of the input.
    Attention adds the same vector to all tokens, of mean square c + (1 - c) / tokens of what it reads, c the
    cosine; the feed-forward network adds 0.32 of what it reads, its cosine by the arc-cosine kernel.
    "pre": branches read from a normalized copy, so the stream grows like the depth. "post": each sum is
    normalized, and differences shrink by nearly 2 at each attention. The gradient of what is added last is
    divided by the root of the variance there, which grows with depth for "pre" alone (Xiong et al. 2020).
    Uniform attention is exact for W_Q = 0, and close for Xavier's.
    Raises TypeError or ValueError unless depth and tokens are integers >= 1, norm_placement is "pre" or
    "post", first > 0 and the cosine is from 0 to 1.
    """
    check_integer("depth", depth, at_least=1)
    check_integer("tokens", tokens, at_least=1)
    check_choice("norm_placement", norm_placement, ("pre", "post"))
    check_number("first", first, above=0)
    check_number("cosine", cosine, at_least=0, at_most=1)
    q, difference = first, 1 - cosine
    variances, differences = [q], [difference]
    # What the second branch adds: 4 d (2 / 5 d) and d (2 / 5 d) are Xavier's variances, ReLU keeps one half.
    feed_forward = 0.5 * (2 / 5) * (8 / 5)
    for _ in range(depth):
        for branch in ("attention", "feed_forward"):
            read = 1.0 if norm_placement == "pre" else q  # mean square of what the branch reads
            if branch == "attention":
                added, added_difference = read * (1 - difference * (1 - 1 / tokens)), 0.0
            else:
                added = read * feed_forward
                # Below 1e-8, 1 - cosine is lost in rounding; there ReLU changes it by 1e-4 of itself.
                small = difference < 1e-8
                added_difference = difference if small else 1 - relu_cosine_map(1 - difference)
            total = q + added
            difference = (q * difference + added * added_difference) / total
            q = total if norm_placement == "pre" else 1.0
        variances.append(q)
        differences.append(difference)
    return TransformerTrajectory(np.array(variances), np.array(differences), 1 / math.sqrt(total))


def attention_residual(residual: ArrayLike, tokens: int, d_model: int) -> Values:
    """What is left of the differences between nearly equal tokens after attention alone: residual**3 * const.

    residual = |X - mean| / |X|, over all tokens, of inputs with mean square 1. Xavier weights, any number of
    heads, no skip. Tokens get different outputs only where their queries differ AND keys differ AND values
    differ, hence the cube; the constant is sqrt(1 / (tokens - 1) + 1 / d_model) for differences that point
    everywhere. From block to block this is doubly exponential (Dong, Cordonnier, Loukas 2021, as a bound).
    Raises TypeError or ValueError unless residual is from 0 to 1, tokens is >= 2 and d_model >= 1.
    """
    residual = check_numbers("residual", residual, at_least=0, at_most=1)
    check_integer("tokens", tokens, at_least=2)
    check_integer("d_model", d_model, at_least=1)
    return as_values(residual**3 * math.sqrt(1 / (tokens - 1) + 1 / d_model))
