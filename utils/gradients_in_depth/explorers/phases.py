"""Lesson 04: the plane of order and chaos."""

import functools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from gradients_in_depth import data, pictures, plots, theory
from gradients_in_depth.experiments import phases
from gradients_in_depth.experiments.layers import gaussian_matrices
from gradients_in_depth.explorers.widgets import Controls, Explorer, Slider


def phase_diagram() -> Explorer:
    """Lesson 04: order and chaos of tanh networks, and what becomes of the scale and of two inputs.

    sigma_w x sigma_b (standard deviations of the weights, times the root of fan_in, and of the biases). One
    network of 50 layers of width 128, in float64, whose random numbers are drawn once; 8 pairs of inputs, of
    correlation 0 and of 0.9 before the first layer. Poole et al. 2016.
    """
    depth, width, pairs, starts = 50, 128, 8, (0.0, 0.9)
    weights = gaussian_matrices(depth, width, seed=0) / width**0.5
    biases = data.gaussian_batch(depth, width, seed=1)
    inputs = phases.correlated_pairs(starts, pairs, width, seed=2)
    steps = np.arange(1, depth + 1)
    sentence = functools.lru_cache(maxsize=256)(_sentence)

    def draw(axes: list[Axes], sigma_w: float, sigma_b: float) -> str:
        plane, scale, two = axes
        plane.plot(sigma_w, sigma_b, "o", color=pictures.INK, markersize=10, label="_", clip_on=False)
        squares, correlations = phases.pair_statistics(weights, biases, inputs, sigma_w, sigma_b)
        q, c = phases.tanh_trajectory(depth, sigma_w, sigma_b, starts)
        plots.curve(steps, squares, label="measured", log_y=True, ax=scale)
        plots.curve(steps, q, label="theory", kind="theory", ax=scale)
        plots.snap(scale, (1e-3, 30), (1e-16, 30))
        for start, values, line in zip(starts, correlations, c, strict=True):
            plots.curve(steps, values, label=f"start {start:g}", ax=two)
            plots.curve(steps, line, label="theory", kind="theory", ax=two)
        plots.legend(two, loc="lower center", **plots.LEGEND | {"ncols": 3, "handlelength": 1.4})
        return sentence(sigma_w, sigma_b)

    controls: Controls = {
        "sigma_w": Slider("σ_w (weights)", np.round(np.arange(0.5, 3.01, 0.05), 2).tolist(), 1.5),
        "sigma_b": Slider("σ_b (biases)", np.round(np.arange(0, 1.01, 0.05), 2).tolist(), 0.2),
    }
    tries = (
        "Cross the line from left to right: which of the two pictures beside it changes its mind?",
        "Stay in the ordered phase and walk towards the line. What happens to ξ_c, and what to ξ_q?",
        "Xavier is σ_w = 1, σ_b = 0. In which phase is it? How fast does its variance fall?",
        "Go deep into chaos. Two inputs that were nearly the same: what are they after ten layers?",
    )
    return Explorer(controls, _figure(depth), draw, tries, legend="lower right")


def _sentence(sigma_w: float, sigma_b: float) -> str:
    scales = theory.depth_scales("tanh", sigma_w**2, sigma_b**2)
    chi, layers = scales.chi, scales.correlation
    phase = "at the edge of chaos" if abs(chi - 1) < 0.005 else "ordered" if chi < 1 else "chaotic"
    fate = {"ordered": "vanishes", "chaotic": "explodes"}.get(phase, "keeps its size")
    start = f"σ_w = {sigma_w:.3g}, σ_b = {sigma_b:.3g}: {phase}. χ = {chi:.3g}: the gradient {fate}, "
    start += f"a factor {chi**0.5:.3g} per layer."
    if layers > 300:
        return f"{start} What two inputs differ by is not forgotten exponentially: ξ_c has no bound."
    if scales.end_variance == 0:
        return (
            f"{start} Without biases the signal itself dies, by e every {scales.variance:.2g} layers: "
            f"trainable to about {6 * scales.variance:.0f} layers."
        )
    return (
        f"{start} The correlation goes to {scales.end_correlation:.2g}, by e every ξ_c = {layers:.2g} "
        f"layers, the variance to {scales.end_variance:.2g}, by e every ξ_q = {scales.variance:.2g}. "
        f"Trainable to about 6 ξ_c = {6 * layers:.0f} layers."
    )


def _figure(depth: int) -> Figure:
    """The plane of tanh beside two panels.

    The plane lies on the figure, because what lies on the axes is drawn anew with every change.
    """
    with pictures.style():
        figure = Figure(figsize=(9, 4.9))
        figure.subplot_mosaic([["plane", "scale"], ["plane", "two"]], width_ratios=(1, 1.15))
        ax, scale, two = figure.axes
        scale.set(ylabel="variance q", xlim=(0, depth + 1), title="SCALE")
        two.set(xlabel="layer", ylabel="correlation", xlim=(0, depth + 1), ylim=(-0.8, 1.05))
        two.set_title("TWO INPUTS")
        ax.set(xlabel="σ_w", ylabel="σ_b", xlim=(0.5, 3.0), ylim=(0, 1), title="PHASES OF TANH")
        line_b, line_w = phases.critical_line()
        for color, edge in zip(pictures.COLORS, (0.5, 3.0), strict=False):
            area = np.column_stack([np.append(line_w, (edge, edge)), np.append(line_b, (1, 0))])
            patch = Polygon(area, color=color, alpha=0.16, linewidth=0, transform=ax.transData, zorder=-1)
            figure.add_artist(patch)
        line = Line2D(line_w, line_b, color=pictures.INK, linewidth=1.4, transform=ax.transData, zorder=-1)
        figure.add_artist(line)
        for x, y, words in ((0.6, 0.85, "ordered"), (2.3, 0.85, "chaotic"), (1.9, 0.93, "χ = 1")):
            figure.text(x, y, words, transform=ax.transData)
    return figure
