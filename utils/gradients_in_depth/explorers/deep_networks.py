"""Lessons 02 to 04: the gradient through a deep random network of one activation."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from gradients_in_depth import data, plots, signals, theory
from gradients_in_depth.experiments.layers import gaussian_matrices
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure

_SATURATING = ("sigmoid", "tanh")


def deep_network(activations: Sequence[str] = ("sigmoid", "tanh"), gain: float = 1.0) -> Explorer:
    """Lessons 02 to 04: the gradient through a random network, measured, beside the theory of wide networks.

    depth x weight gain x activation; width 128, batch 64, no biases, in float64. The random weights are drawn
    once; gain scales them (1 is weight_var = 1, Xavier). The gradient sent into the last layer is Gaussian.
    """
    longest, width = 100, 128
    figure = empty_figure({"ylabel": "activation gradient, last layer = 1", "xlim": (0, longest + 1)})
    weights = gaussian_matrices(longest, width, seed=0) / width**0.5
    buffer = torch.empty_like(weights)
    inputs, arriving = data.gaussian_batch(64, width, seed=1), data.gaussian_batch(64, width, seed=2)

    @functools.lru_cache(maxsize=1)
    def scale(gain: float) -> tuple[Tensor, ...]:
        return torch.mul(weights, gain, out=buffer).unbind()

    @functools.lru_cache(maxsize=64)
    def expect(activation: str, gain: float) -> np.ndarray:
        return theory.gradient_norm_trajectory(longest, activation, gain**2, first=gain**2)

    def draw(axes: list[Axes], depth: int, gain: float, activation: str) -> str:
        (ax,) = axes
        activations, gradients = signals.flow(scale(gain)[:depth], inputs, activation, arriving)
        ratio, law = gradients / gradients[-1], expect(activation, gain)[:depth]
        plots.layers(ratio, label="measured", ax=ax)
        plots.layers(law / law[-1], label="theory, infinite width", kind="theory", ax=ax)
        plots.snap(ax, (1e-10, 1e5), (1e-25, 1e10), (1e-50, 1e20), (1e-140, 1e60), (1e-140, 1e110))
        per_layer = ratio[0] ** (1 / max(depth - 1, 1))
        saturation = ""
        if activation in _SATURATING:
            spread = gain * (activations[-2] if depth > 1 else 1.0)
            share = theory.saturated_share(spread**2, activation)
            saturation = (
                f" In the last layer z spreads by {spread:.2g}, which saturates {share:.0%} of the units."
            )
        return (
            f"{depth} layers of {activation}, weight gain {gain:.3g}: the gradient in the first layer is "
            f"{ratio[0]:.2g} of that in the last, a factor {per_layer:.3g} per layer "
            f"(float32 would hold {_in_float32(ratio[0])}). {verdict(per_layer, depth)}{saturation}"
        )

    controls: Controls = {
        "depth": Slider("depth", range(1, longest + 1), 30, "layers"),
        "gain": Slider("weight gain", [round(2 ** (k / 8), 3) for k in range(-16, 33)], gain),
        "activation": Choice("activation", {name: name for name in activations}, activations[0]),
    }
    saturates = activations[0] in _SATURATING
    tries = (
        f"Raise the weight gain: does a {activations[0]} network ever keep its gradient over 50 layers? "
        + ("How many of its units are saturated there?" if saturates else "At which gain, and how sharply?"),
        f"Change to {activations[-1]} and look for the gain at which the line is flat.",
        "At that gain double the depth. Is it still flat?",
    )
    return Explorer(controls, figure, draw, tries)


def _in_float32(value: float) -> str:
    single = torch.tensor(value, dtype=torch.float32).item()
    return "0" if single == 0 else "infinity" if np.isinf(single) else f"{single:.2g}"


def verdict(per_layer: float, depth: int) -> str:
    """What becomes of a gradient that each of `depth` layers multiplies by `per_layer`, as a sentence."""
    whole = per_layer**depth
    if not np.isfinite(whole):
        return "It explodes."
    if 0.1 <= whole <= 10:
        return "It arrives."
    return "It vanishes." if whole < 1 else "It explodes."
