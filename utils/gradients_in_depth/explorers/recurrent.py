"""Lesson 07: what comes back through time, and what clipping makes of it."""

import numpy as np
import torch
from matplotlib.axes import Axes

from gradients_in_depth import data, plots, theory
from gradients_in_depth.experiments.recurrent import gradient_through_time
from gradients_in_depth.explorers.widgets import Controls, Explorer, Slider, empty_figure


def recurrence() -> Explorer:
    """Lesson 07: what comes back through time, and what clipping makes of it.

    spectral radius x sequence length x threshold. h' = tanh(W h + x / 10), width 32, in float64; W, 8
    sequences and their targets are drawn once; the loss is half the squared distance of the last state from
    the target, the mean over the sequences. Pascanu, Mikolov, Bengio 2013.
    """
    width, batch, longest = 32, 8, 60
    frame = {"xlabel": "steps back in time", "xlim": (-1, longest + 1)}
    ylabels = ("gradient by the state", "part of the gradient by W")
    figure = empty_figure(*(frame | {"ylabel": ylabel} for ylabel in ylabels), height=4.4)
    weight = data.gaussian_batch(width, width, seed=0)
    weight = weight / torch.linalg.eigvals(weight).abs().max()
    largest = torch.linalg.matrix_norm(weight, 2).item()
    inputs = data.gaussian_batch(longest * batch, width, seed=1).reshape(longest, batch, width) / 10
    target = data.gaussian_batch(batch, width, seed=2)

    def draw(axes: list[Axes], radius: float, length: int, threshold: float) -> str:
        state, parts = axes
        gradient = gradient_through_time(radius * weight, inputs[longest - length :], target)
        by_state, factor = gradient.by_state / gradient.by_state[0], min(1.0, threshold / gradient.total)
        back = np.arange(length + 1)
        bound = np.asarray(theory.recurrent_gradient_bound(back, radius * largest))
        plots.curve(back, by_state, label="measured", log_y=True, ax=state)
        plots.curve(back, bound, kind="theory", label="bound", ax=state)
        plots.guide(state, 1, "")
        plots.snap(state, (1e-8, 1e8), (1e-20, 1e20), (1e-40, 1e40))
        plots.legend(state, loc="lower left")  # where neither line comes soon
        plots.curve(back[:-1], gradient.parts, label="as it is", log_y=True, ax=parts)
        plots.curve(back[:-1], gradient.parts * factor, label="clipped", ax=parts)
        plots.guide(parts, threshold, "threshold")
        plots.snap(parts, (1e-8, 1e4), (1e-20, 1e8), (1e-40, 1e20))
        if factor == 1:
            clipping = f"below the threshold {threshold:g}: nothing is clipped"
        else:
            clipping = f"above the threshold {threshold:g}: all of it is multiplied by {factor:.2g}"
        return (
            f"Spectral radius {radius:.3g}, largest singular value {radius * largest:.3g}: over {length} "
            f"steps the gradient by the state is multiplied by {by_state[-1]:.2g} (bound {bound[-1]:.2g}). "
            f"The gradient by W has norm {gradient.total:.2g}, {clipping}. "
            f"The part of the first half is {gradient.early:.1g} times as long as the whole, clipped or not."
        )

    controls: Controls = {
        "radius": Slider("spectral radius", np.round(np.arange(0.3, 2.01, 0.05), 2).tolist(), 1.2),
        "length": Slider("sequence length", range(4, longest + 1), 40, "steps"),
        "threshold": Slider("threshold", [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10], 1),
    }
    tries = (
        "Set the spectral radius to 0.8. The bound explodes: does the gradient?",
        "Find the smallest spectral radius at which the gradient by the state grows over 40 steps.",
        "At a spectral radius of 0.6 and 60 steps, lower the threshold. Does the first half of the sequence "
        "get a larger part?",
        "Raise the spectral radius to 2. Compare the gradient with its bound: what keeps it small?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")
