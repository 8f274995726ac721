"""Lesson 05: what a normalization does to a deep random network."""

import functools

import numpy as np
from matplotlib.axes import Axes

from gradients_in_depth import data, plots
from gradients_in_depth.experiments.layers import gaussian_matrices
from gradients_in_depth.experiments.normalization import (
    GAINS,
    NORMALIZATIONS,
    expected_gradients,
    normalized_flow,
)
from gradients_in_depth.explorers.deep_networks import verdict
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure

_NAMES = {"none": "no normalization", "batch": "BatchNorm", "layer": "LayerNorm", "rms": "RMSNorm"}
_BATCH_OF_TWO = " In a batch of two every unit says +1 or -1 whatever its input: no gradient gets through."


def normalized_network() -> Explorer:
    """Lesson 05: what a normalization does to the gradient, and to the difference between inputs.

    depth x batch size x normalization x activation; width 64, no biases, in float64, PyTorch's eps, the
    normalization between the linear layer and the activation. The weights are drawn once, with the gain of
    He for ReLU and 1 otherwise; with a normalization the gain has no effect. The theory is that of infinite
    width. The gradient sent into the last layer is Gaussian.
    """
    longest, width, largest = 50, 64, 64
    xlim = (0, longest + 1)
    figure = empty_figure(
        {"ylabel": "activation gradient, last layer = 1", "xlim": xlim, "title": "SCALE"},
        {"ylabel": "cosine of two inputs", "xlim": xlim, "ylim": (-1.1, 1.1), "title": "CORRELATION"},
    )
    matrices = gaussian_matrices(longest, width, seed=0) / width**0.5
    weights = {name: (matrices * gain).unbind() for name, gain in GAINS.items()}
    inputs = data.gaussian_batch(largest, width, seed=1)
    arriving = data.gaussian_batch(largest, width, seed=2)
    expect = functools.lru_cache(maxsize=64)(expected_gradients)

    @functools.lru_cache(maxsize=64)
    def measure(depth: int, batch: int, norm: str, activation: str) -> tuple[np.ndarray, np.ndarray]:
        return normalized_flow(
            weights[activation][:depth], inputs[:batch], arriving[:batch], norm, activation
        )

    for name in GAINS:  # the slowest, once
        expect(longest, "none", name, None)

    def draw(axes: list[Axes], depth: int, batch: int, norm: str, activation: str) -> str:
        left, right = axes
        ratio, cosine = measure(depth, batch, norm, activation)
        law = expect(longest, norm, activation, batch if norm == "batch" else None)[:depth][::-1]
        plots.layers(ratio, label="measured", ax=left)
        plots.layers(law, label="theory", kind="theory", ax=left)
        plots.snap(left, (1e-8, 1e8), (1e-20, 1e20), (1e-35, 1e20), (1e-300, 1e20))
        plots.layers(cosine, log_y=False, ax=right)
        per_layer, expected_per_layer = (first ** (1 / max(depth - 1, 1)) for first in (ratio[0], law[0]))
        expectation = f" (theory {expected_per_layer:.3g})" if np.isfinite(law[0]) else ""
        remark = _BATCH_OF_TWO if norm == "batch" and batch == 2 else ""
        return (
            f"{depth} layers of {activation}, {_NAMES[norm]}, a batch of {batch}: the gradient in layer 1 is "
            f"{ratio[0]:.2g} of that in the last, a factor {per_layer:.3g} per layer{expectation}. "
            f"{verdict(per_layer, depth - 1)} The cosine of two inputs ends at {cosine[-1]:.2g}.{remark}"
        )

    controls: Controls = {
        "depth": Slider("depth", range(2, longest + 1), 30, "layers"),
        "batch": Slider("batch size", [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64], 64, "examples"),
        "norm": Choice("normalization", {name: name for name in NORMALIZATIONS}, "batch"),
        "activation": Choice("activation", {name: name for name in GAINS}, "relu"),
    }
    tries = (
        "Stay with BatchNorm and ReLU. Lower the batch size to 4, then to 2: what becomes of the gradient?",
        "Change ReLU from BatchNorm to LayerNorm. The left picture is healthy now. And the right one?",
        "Choose the sigmoid, and try all four normalizations. Which one saves its gradient?",
        "Is there any choice that keeps both pictures healthy at depth 50?",
    )
    return Explorer(controls, figure, draw, tries, legend="lower left")
