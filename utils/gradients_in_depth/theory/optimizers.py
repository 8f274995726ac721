"""Optimizers and dropout: the size of a step of Adam, and of a unit behind dropout."""

import math

import numpy as np
from numpy.typing import ArrayLike

from gradients_in_depth.arguments import check_broadcast, check_integer, check_number, check_numbers
from gradients_in_depth.theory.gaussian import Values, as_values


def adam_first_step(gradient: ArrayLike, learning_rate: float = 1e-3, eps: float = 1e-8) -> Values:
    """What Adam's first step subtracts from a weight: learning_rate * g / (|g| + eps), elementwise.

    With bias correction both averages hold the one gradient g, so its size drops out, down to eps
    (Kingma and Ba 2015, section 2.1). Every later step is the same for as long as g does not change.
    Raises TypeError or ValueError unless gradients and learning_rate are finite and eps > 0.
    """
    g = check_numbers("gradient", gradient)
    check_number("learning_rate", learning_rate)
    check_number("eps", eps, above=0)
    return as_values(learning_rate * (g / (np.abs(g) + eps)))


def adam_uncorrected_factor(step: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """By how much Adam's step number `step` is too large without bias correction, under a constant gradient.

    (1 - beta1**t) / sqrt(1 - beta2**t): the two averages start at 0 and have filled up so far (Kingma and Ba
    2015, section 3). 3.16 at step 1, 6.57 at step 12, 1 in the end.
    Raises TypeError or ValueError unless step is an integer >= 1 and both betas are in [0, 1).
    """
    check_integer("step", step, at_least=1)
    check_number("beta1", beta1, at_least=0, below=1)
    check_number("beta2", beta2, at_least=0, below=1)
    # 1 - beta**t, without its cancellation.
    filled = [-math.expm1(step * math.log(beta)) if beta else 1.0 for beta in (beta1, beta2)]
    return filled[0] / math.sqrt(filled[1])


def adam_noisy_step(signal_to_noise: ArrayLike, beta1: float = 0.9) -> tuple[Values, Values]:
    """Mean and standard deviation of an Adam step, in learning rates, when the gradient is signal + noise.

    Gradients s + N(0, 1), independent from step to step: the squares average to s**2 + 1, and the average of
    the gradients has mean s and variance (1 - beta1) / (1 + beta1). Hence s / sqrt(1 + s**2) and
    sqrt((1 - beta1) / (1 + beta1)) / sqrt(1 + s**2); for beta2 near 1, far below eps's reach, and after the
    first steps. (Kingma and Ba 2015, section 2.1, call m / sqrt(v) the signal-to-noise ratio.)
    Raises TypeError or ValueError unless signal_to_noise is finite and beta1 is in [0, 1).
    """
    s = check_numbers("signal_to_noise", signal_to_noise)
    check_number("beta1", beta1, at_least=0, below=1)
    size = np.hypot(1.0, s)
    return as_values(s / size), as_values(math.sqrt((1 - beta1) / (1 + beta1)) / size)


def dropout_variance(keep: float, variance: ArrayLike = 1.0, mean: ArrayLike = 0.0) -> Values:
    """Variance of a unit after inverted dropout: variance / keep + mean**2 * (1 - keep) / keep.

    A unit is kept with probability `keep` and then divided by it, so its mean stays and its mean square
    grows by 1 / keep (Srivastava et al. 2014). `variance` and `mean` are those before, and broadcast.
    Raises TypeError or ValueError unless 0 < keep <= 1, and for a variance that is negative.
    """
    check_number("keep", keep, above=0, at_most=1)
    variance, mean = check_numbers("variance", variance, at_least=0), check_numbers("mean", mean)
    check_broadcast("variance and mean", variance, mean)
    return as_values(variance / keep + mean**2 * (1 - keep) / keep)
