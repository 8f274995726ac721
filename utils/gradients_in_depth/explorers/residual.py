"""Lesson 06: signal, gradient and paths in a residual network."""

import numpy as np
from matplotlib.axes import Axes

from gradients_in_depth import data, plots, theory
from gradients_in_depth.experiments.layers import gaussian_matrices
from gradients_in_depth.experiments.residual import stream_flow
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure

_NAMES = {"none": "no normalization", "rms": "RMS normalization", "batch": "batch normalization"}


def residual_stream() -> Explorer:
    """Lesson 06: what the blocks x + scale * W relu(norm(x)) do to signal, gradient and paths.

    depth x branch scale x normalization; width 128, 32 unrelated inputs, He weights, in float64. The random
    weights are drawn once. Side by side: mean squares of stream and gradient, measured and by
    `theory.residual_flow`; and the share of the gradient by path length, by `theory.path_length_weights`.
    """
    longest, width, batch = 60, 128, 32
    xlim = (-1, longest + 1)
    figure = empty_figure(
        {"xlabel": "blocks passed", "ylabel": "mean square", "xlim": xlim, "title": "SCALE"},
        {
            "xlabel": "branches on the path",
            "ylabel": "share of squared gradient",
            "xlim": xlim,
            "title": "PATHS",
        },
    )
    weights = (gaussian_matrices(longest, width, seed=0) * (2 / width) ** 0.5).unbind()
    inputs = data.gaussian_batch(batch, width, seed=1)
    inputs = inputs / inputs.square().mean().sqrt()
    arriving = data.gaussian_batch(batch, width, seed=2)

    def draw(axes: list[Axes], depth: int, branch_scale: float, normalization: str) -> str:
        scale, paths = axes
        signal, gradient = stream_flow(weights[:depth], inputs, arriving, branch_scale, normalization)
        norm = None if normalization == "none" else normalization
        flow = theory.residual_flow(depth, branch_scale, normalization=norm)
        blocks = np.arange(depth + 1)
        plots.curve(blocks, signal, label="stream", log_y=True, ax=scale)
        plots.curve(blocks, gradient, label="gradient, at the end 1", ax=scale)
        plots.curve(blocks, flow.second_moments, kind="theory", label="theory", ax=scale)
        plots.curve(blocks, flow.gradient_norms**2, kind="theory", label="theory", ax=scale)
        plots.snap(scale, (0.3, 1e3), (0.3, 1e11), (0.3, 1e21), (0.3, 1e33))
        scale.set_ylim(0.3, scale.get_ylim()[1] ** 1.4)  # room for the legend
        shares = theory.path_length_weights(flow.branch_factors)
        mean = float(shares @ blocks)
        plots.curve(blocks, shares, kind="line", ax=paths)
        plots.guide(paths, mean, f"mean {mean:.2g}", vertical=True)
        paths.set_ylim(0, 1.05 if shares.max() > 0.48 else 0.5)
        return (
            f"{depth} blocks, branch scale {branch_scale:.3g}, {_NAMES[normalization]}: the mean square of "
            f"the stream ends at {signal[-1]:.2g} (theory {flow.second_moments[-1]:.2g}); the squared "
            f"gradient at the start is {gradient[0]:.2g} times that at the end (theory "
            f"{flow.gradient_norms[0] ** 2:.2g}). The average path of the gradient passes {mean:.2g} "
            "branches."
        )

    controls: Controls = {
        "depth": Slider("depth", range(1, longest + 1), 30, "blocks"),
        "branch_scale": Slider("branch scale", np.round(np.arange(0, 1.51, 0.05), 2).tolist(), 1.0),
        "normalization": Choice("normalization", {"none": "none", "RMS": "rms", "batch": "batch"}, "none"),
    }
    tries = (
        "Without normalization double the depth at branch scale 1. What happens to the number at the end?",
        "At depth 25 find the branch scale at which the stream ends at about e = 2.7.",
        "Turn batch normalization on at branch scale 1 and 60 blocks: how long are the paths now?",
        "Set the branch scale to 0. Why is this network easy to train, although its branches do nothing?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")
