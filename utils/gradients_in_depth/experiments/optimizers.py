"""Four optimizers on the simplest deep network: a product of weights, which should become 1.

The rules are those of torch.optim with its default arguments (momentum: 0.9), written for a few numbers in
NumPy. A step of torch.optim takes three to five times as long, too long for 400 of them behind a slider; and
it hands out no update, only the difference of two weights, in which a small update is lost in rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

START = 0.5  # each weight
EXPLODED = 1e6  # loss

Averages = tuple[np.ndarray, np.ndarray]  # running averages of the gradient, and of its square
Rule = Callable[[np.ndarray, Averages, int, float], tuple[np.ndarray, Averages]]


def sgd(gradient: np.ndarray, averages: Averages, step: int, rate: float) -> tuple[np.ndarray, Averages]:
    """What to subtract from the weights in step 1, 2, ..., and the new averages; so do all rules."""
    return rate * gradient, averages


def momentum(gradient: np.ndarray, averages: Averages, step: int, rate: float) -> tuple[np.ndarray, Averages]:
    """As `sgd`, with a sum of all gradients that forgets a tenth of itself in each step."""
    average = 0.9 * averages[0] + gradient
    return rate * average, (average, averages[1])


def rmsprop(gradient: np.ndarray, averages: Averages, step: int, rate: float) -> tuple[np.ndarray, Averages]:
    """As `sgd`, divided by the root mean square of the last hundred gradients or so."""
    square = 0.99 * averages[1] + 0.01 * gradient**2
    return rate * gradient / (np.sqrt(square) + 1e-8), (averages[0], square)


def adam(gradient: np.ndarray, averages: Averages, step: int, rate: float) -> tuple[np.ndarray, Averages]:
    """Both averages, each corrected for its start at 0 (Kingma and Ba 2015)."""
    average = 0.9 * averages[0] + 0.1 * gradient
    square = 0.999 * averages[1] + 0.001 * gradient**2
    size = np.sqrt(square / (1 - 0.999**step)) + 1e-8
    return rate * average / (1 - 0.9**step) / size, (average, square)


RULES: dict[str, Rule] = {"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adam": adam}


@dataclass(frozen=True, eq=False)
class Descent:
    """loss (steps + 1,), mean size of gradient and of update in a weight (steps,); NaN after an explosion."""

    loss: np.ndarray
    gradient: np.ndarray
    update: np.ndarray


@np.errstate(over="ignore")  # an explosion may pass 1e308 in its last step
def descend(optimizer: str, rate: float, noise: np.ndarray) -> Descent:
    """Train the weights w_1 ... w_depth, each 0.5 at the start, on (w_1 * ... * w_depth - 1)**2 / 2.

    noise (steps, depth) is added to the gradients. Training ends early when the loss is no longer below 1e6.
    """
    steps, depth = noise.shape
    weights, averages = np.full(depth, START), (np.zeros(depth), np.zeros(depth))
    losses, gradients, updates = np.full((3, steps + 1), np.nan)
    for step in range(steps + 1):
        product = float(np.clip(weights.prod(), -1e9, 1e9))
        losses[step] = (product - 1) ** 2 / 2
        if step == steps or not losses[step] < EXPLODED:
            break
        gradient = (product - 1) * (product / weights) + noise[step]
        update, averages = RULES[optimizer](gradient, averages, step + 1, rate)
        gradients[step], updates[step] = np.abs(gradient).mean(), np.abs(update).mean()
        weights = weights - update
    return Descent(losses, gradients[:-1], updates[:-1])
