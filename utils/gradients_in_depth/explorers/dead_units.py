"""Lesson 03: units that are switched off on every image."""

import functools

import numpy as np
from matplotlib.axes import Axes

from gradients_in_depth import plots
from gradients_in_depth.experiments import dead_units
from gradients_in_depth.explorers.widgets import Controls, Explorer, Slider, empty_figure


def dying_units(seed: int = 2) -> Explorer:
    """Lesson 03: units that one step too large, or a negative bias, switches off on every image.

    first step x slope of the leak x bias at the start; the second of two hidden layers of 32 units, He, on
    the digits, in float32: one step of the chosen size and 20 ordinary ones (0.2), on mini-batches of 75. A
    unit is off when its z is <= 0 on every training image; with slope 0 it gets no gradient there, so it is
    dead. The weights are drawn once.
    """
    start = dead_units.prepare(seed)
    width, steps, ordinary = dead_units.WIDTH, dead_units.ORDINARY_STEPS, dead_units.ORDINARY_STEP
    figure = empty_figure(
        {
            "xlabel": "units of layer 2, each time in order",
            "ylabel": "share of images that switch it on",
            "xlim": (0, width + 1),
            "ylim": (-0.05, 1.3),
        }
    )

    @functools.lru_cache(maxsize=64)
    def train(first_step: float, leak: float, bias: float) -> dead_units.Units:
        return dead_units.train(start, first_step, leak, bias)

    def draw(axes: list[Axes], first_step: float, leak: float, bias: float) -> str:
        (ax,) = axes
        units = train(first_step, leak, bias)
        before, once, later = np.sort(units.on, axis=1)
        place = np.arange(1, width + 1)
        plots.curve(place, before, label="at the start", kind="line", ax=ax)
        plots.curve(place, once, label="after the first step", ax=ax)
        plots.curve(place, later, label=f"after {steps} more steps of {ordinary:g}", ax=ax)
        return f"First step {first_step:.3g}, leak {leak:g}, bias {bias:g}: {_obituary(units, leak)}"

    controls: Controls = {
        "first_step": Slider("size of the first step", [0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.2),
        "leak": Slider("slope of the leak", [0, 0.01, 0.03, 0.1, 0.2, 0.3], 0),
        "bias": Slider("bias at the start", np.arange(-4, 0.1, 0.5).tolist(), 0),
    }
    tries = (
        "Raise the size of the first step: where does the first unit die, and how many are dead at 10? "
        "Do the ordinary steps that follow bring them back?",
        "Stay at 10 and raise the leak. Is 0.01, PyTorch's default, enough?",
        "Put the first step back to 0.2 and lower the bias. At which bias does the loss stay at 2.3?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper left")


def _obituary(units: dead_units.Units, leak: float) -> str:
    start, after, end = (int(np.sum(shares == 0)) for shares in units.on)
    word = "dead" if leak == 0 else "off on every image"
    sentences = [
        f"of {dead_units.WIDTH} units in layer 2, {start} are {word} at the start, {after} after the first "
        f"step, {end} after {dead_units.ORDINARY_STEPS} more."
    ]
    if units.fall > 0:
        sentences.append(
            f"That step lowered the z of those it switched off by {units.fall:.2g} on average; between "
            f"images, z differs by only {units.spread:.2g}."
        )
    elif after:
        sentences.append("They start below 0 for every image.")
    if leak and after:
        sentences.append("Their slope is not 0, so they still get a gradient.")
    if np.isfinite(units.loss):
        sentences.append(f"The loss is {units.loss:.2g}; guessing costs 2.3.")
    else:
        sentences.append("The training has exploded: its loss is not a number any more.")
    return " ".join(sentences)
