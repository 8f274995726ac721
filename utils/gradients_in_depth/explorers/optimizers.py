"""Lesson 09: four optimizers on a product of weights."""

import functools

import numpy as np
from matplotlib.axes import Axes

from gradients_in_depth import data, plots
from gradients_in_depth.experiments import optimizers
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure

_NAMES = {"sgd": "SGD", "momentum": "Momentum", "rmsprop": "RMSProp", "adam": "Adam"}


def optimizer_chain() -> Explorer:
    """Lesson 09: four optimizers on the simplest deep network, a product of weights that should become 1.

    optimizer x learning rate x depth x gradient noise; loss (w_1 ... w_depth - 1)**2 / 2, all weights 0.5 at
    the start, 400 steps, in float64. The noise, one number for each weight and step, is drawn once.
    """
    steps, deepest, lowest = 400, 50, 1e-14
    figure = empty_figure(
        {"xlabel": "step", "ylabel": "loss", "xlim": (0, steps), "ylim": (1e-7, 100)},
        {
            "xlabel": "step",
            "ylabel": "mean size in a weight",
            "xlim": (0, steps),
            "ylim": (lowest / 10, 1e4),
        },
    )
    draws = data.gaussian_batch(steps, deepest, seed=0).numpy()
    position = np.arange(steps + 1)

    @functools.lru_cache(maxsize=64)
    def train(optimizer: str, rate: float, depth: int, noise: float) -> optimizers.Descent:
        return optimizers.descend(optimizer, rate, noise * draws[:, :depth])

    def draw(axes: list[Axes], optimizer: str, rate: float, depth: int, noise: float) -> str:
        run = train(optimizer, rate, depth, noise)
        left, right = axes
        plots.curve(position, np.maximum(run.loss, 1e-6), label="loss", kind="line", log_y=True, ax=left)
        plots.guide(left, 0.5, "output 0")
        for sizes, label in ((run.gradient, "gradient"), (run.update, "update")):
            sizes = np.maximum(sizes, lowest)
            plots.curve(position[1:], sizes, label=label, kind="line", log_y=True, ax=right)
        plots.legend_above(right)
        plots.guide(right, rate, "learning rate")
        signal = (1 - optimizers.START**depth) * optimizers.START ** (depth - 1)
        return (
            f"{_NAMES[optimizer]}, rate {rate:g}, depth {depth}, noise {noise:.2g}: the true gradient is "
            f"{signal:.2g} at the start, and the first update {run.update[0]:.2g} on average. "
            f"{_fate(run.loss)}"
        )

    rates = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
    noises = {"none": 0.0} | {f"{10.0**k:g}": 10.0**k for k in range(-10, -1, 2)}
    choices = {"SGD": "sgd", "momentum": "momentum", "RMSProp": "rmsprop", "Adam": "adam"}
    controls: Controls = {
        "optimizer": Choice("optimizer", choices, "sgd"),
        "rate": Slider("learning rate", rates, 0.1),
        "depth": Slider("depth", range(2, deepest + 1), 10, "layers"),
        "noise": Choice("gradient noise", noises, 0.0),
    }
    tries = (
        "SGD at depth 10: which rate leaves the plateau and does not explode at its end? And at depth 20?",
        "Adam at 0.03 and depth 5, 10, 20: when is it near the target? Go on to 40: which floor is that?",
        "Adam, depth 10: raise the noise. How large is the update when the noise hides the gradient?",
        "Adam at 0.3 and at 0.003: what does a large step cost once the loss is small?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")


def _fate(loss: np.ndarray) -> str:
    steps, last = len(loss) - 1, loss[-1]
    exploded = np.flatnonzero(loss > optimizers.EXPLODED)
    if exploded.size:
        return f"It explodes at step {exploded[0]}."
    end = f"{last:.2g}" if last > 1e-6 else "below 1e-06"
    near = np.flatnonzero(loss < 0.125)  # the output has come within 0.5 of its target
    if not near.size:
        return f"It is never near the target: the loss is {end} after {steps} steps."
    if last > 0.125:
        return f"It meets the target at step {near[0]} and is thrown back: the loss ends at {end}."
    return f"It comes near the target at step {near[0]}; after {steps} steps the loss is {end}."
