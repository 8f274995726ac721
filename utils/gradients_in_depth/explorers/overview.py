"""Lesson 00: what a prediction costs, and the four panels for a network of one's choice."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor, nn

from gradients_in_depth import plots, signals
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure


def guessing() -> Explorer:
    """Lesson 00: what a prediction costs, beside a guess. classes x probability given to the right class."""
    figure = empty_figure(
        {
            "xlabel": "probability given to the right class",
            "ylabel": "loss",
            "xlim": (0, 1.02),
            "ylim": (-0.2, 4.8),
        },
        height=3.6,
    )
    grid = np.linspace(0.01, 1, 100)

    def draw(axes: list[Axes], classes: int, probability: float) -> str:
        (ax,) = axes
        loss, guess = -np.log(probability) + 0.0, np.log(classes)
        plots.curve(grid, -np.log(grid), label="loss = -ln(probability)", kind="line", ax=ax)
        plots.curve([probability], [loss], label="your network", ax=ax)
        plots.guide(ax, guess, f"guessing among {classes}: ln {classes} = {guess:.3g}")
        verdict = (
            "the same as" if np.isclose(loss, guess) else "better than" if loss < guess else "worse than"
        )
        return (
            f"The right class gets probability {probability:.3g}: a loss of -ln {probability:.3g} = "
            f"{loss:.3g}, {verdict} guessing. A network that gives each of {classes} classes the same "
            f"probability, {1 / classes:.2g}, has a loss of ln {classes} = {guess:.3g}."
        )

    controls: Controls = {
        "classes": Slider("classes", range(2, 51), 10, "classes"),
        "probability": Slider("probability", [k / 100 for k in range(1, 101)], 0.5),
    }
    tries = (
        "Give the right one of ten classes a probability of 0.1. Which number do you get?",
        "Halve the probability, from 0.5 to 0.25, then from 0.02 to 0.01. How much does each halving cost?",
        "How many classes has a task whose flat loss curve lies at 3.91?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")


def dashboard(
    networks: Mapping[str, Callable[[int], nn.Module]],
    inputs: Tensor,
    targets: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    layers: type[nn.Module],
    depths: Sequence[int] = range(2, 41),
) -> Explorer:
    """Lesson 00: the four panels for a network of one's choice, at a depth of one's choice.

    `networks` maps a name to a function from depth to a model; `layers` is the class that counts as a layer.
    A function that cuts one deep model off at `depth` answers a slider faster than one that draws weights.
    """
    by_layer = {"xlim": (0, max(depths) + 1)}
    figure = empty_figure(by_layer, by_layer, {}, {}, rows=2, height=6)

    @functools.lru_cache(maxsize=256)
    def measure(name: str, depth: int) -> tuple[signals.Signals, np.ndarray]:
        model = networks[name](depth)
        measurement = signals.measure(model, inputs, targets, loss_fn, layers=layers)
        return measurement, signals.jacobian_singular_values(model, inputs[0])

    def draw(axes: list[Axes], network: str, depth: int) -> str:
        measurement, singular_values = measure(network, depth)
        scale, _, spectrum, value_range = plots.dashboard(measurement, singular_values, axes=axes)
        for ax in (scale, spectrum):
            plots.snap(ax, (1e-8, 1e8), (1e-20, 1e20), (1e-40, 1e40), (1e-100, 1e100))
        norms, last = measurement.series("activation_gradient_norm"), measurement.layers[-1]
        lost, beyond = (bars[0].get_height() for bars in value_range.containers)  # float16 stands first
        cosine = f"{last.cosine:.3g}" if np.isfinite(last.cosine) else "unknown, for every output is 0"
        return (
            f"{network}, {depth} layers. Gradient norm: {norms[0]:.2g} in layer 1, {norms[-1]:.2g} in layer "
            f"{depth}. In the last layer, activation variance: {last.activation_variance:.2g}, cosine of two "
            f"inputs: {cosine}. Largest singular value: {singular_values[0]:.2g}. float16 turns {lost:.0%} "
            f"of the gradient to 0 and {beyond:.0%} to infinity."
        )

    names = list(networks)
    controls: Controls = {
        "network": Choice("network", {name: name for name in names}, names[0]),
        "depth": Slider("depth", depths, 20, "layers"),
    }
    tries = (
        "Take the first network from its smallest depth to its largest: which panel warns you first?",
        "Find a network whose gradient norms look healthy and whose correlation does not.",
        "At which depth does a network first lose gradient to the number format? Look at RANGE.",
    )
    return Explorer(controls, figure, draw, tries)
