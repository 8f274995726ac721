"""Draws what was measured. A plotting function takes data and `ax`, returns `ax`, and computes nothing.

Measured values are coloured markers with a band over seeds; a theory is a line in the colour of the text on
the same axes; a guide is a thin labelled line. `pictures` makes text alternatives of what is drawn.
"""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from gradients_in_depth import pictures
from gradients_in_depth.catalogue import activation_module
from gradients_in_depth.signals import FORMATS, Signals
from gradients_in_depth.training import History, Sweep

LEGEND: dict[str, Any] = {
    "handlelength": 0.9,
    "handletextpad": 0.3,
    "columnspacing": 0.8,
    "borderaxespad": 0.2,
    "ncols": 2,
}
KINDS = ("measured", "theory", "line")

_legend_options: weakref.WeakKeyDictionary[Legend, dict[str, Any]] = weakref.WeakKeyDictionary()


def curve(
    x: ArrayLike,
    y: ArrayLike,
    *,
    label: str = "",
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    kind: str = "measured",
    log_x: bool = False,
    log_y: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw `y` against `x`: one line, or a median and the range of several seeds.

    x (points,); y (points,) or (seeds, points). kind "measured" draws markers, "theory" a line in the text's
    colour, "line" a line in the next colour. Values that are not finite (or not positive on a log axis) are
    gaps. Raises `ValueError` for another kind, and when the shapes do not fit.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    if x.ndim != 1 or x.size == 0 or y.shape[-1:] != x.shape or y.ndim not in (1, 2):
        raise ValueError(
            f"y must be (points,) or (seeds, points) for x (points,); got {y.shape} and {x.shape}."
        )
    ax = ax or plt.subplots()[1]
    _label(ax, xlabel, ylabel, title)
    for axis, log in ((ax.xaxis, log_x), (ax.yaxis, log_y)):
        if log and axis.get_scale() != "log":
            pictures.log_scale(axis)
    seeds = np.where(np.isfinite(y) & ((y > 0) | (not log_y)), y, np.nan).reshape(-1, x.size)
    known = ~np.isnan(seeds).all(axis=0)
    middle = seeds[0].copy()
    if len(seeds) > 1:
        middle[known] = np.nanmedian(seeds[:, known], axis=0)
    style: dict[str, Any] = {"color": pictures.INK, "linestyle": "-", "linewidth": 1.4, "zorder": 3}
    if kind != "theory":
        number = sum(line.get_gid() == "series" for line in ax.lines) % len(pictures.COLORS)
        style = {"color": pictures.COLORS[number], "linestyle": pictures.DASHES[number], "gid": "series"}
    if kind == "measured":
        style |= {"linestyle": "", "marker": pictures.MARKERS[number], "markevery": max(1, x.size // 25)}
    if len(seeds) > 1:
        low, high = np.nanmin(seeds[:, known], axis=0), np.nanmax(seeds[:, known], axis=0)
        ax.fill_between(x[known], low, high, color=style["color"], alpha=0.22, linewidth=0)
    (line,) = ax.plot(x, middle, label=label or "_", **style)
    if len(seeds) > 1:
        ends = f", at the end {low[-1]:.2g} to {high[-1]:.2g}" if low.size else ""
        pictures.describe(line, f"median of {len(seeds)} seeds{ends}")
    return _legend(ax)


def layers(
    values: ArrayLike, *, ylabel: str = "", label: str = "", log_y: bool = True, **options: Any
) -> Axes:
    """Draw one figure of every layer: values (layers,) or (seeds, layers); options as in `curve`."""
    values = np.asarray(values, dtype=float)
    position = np.arange(1, values.shape[-1] + 1 if values.ndim else 1)
    ax = curve(position, values, xlabel="layer", ylabel=ylabel, label=label, log_y=log_y, **options)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return ax


def span(ax: Axes, decades: float) -> Axes:
    """Widen the log axis of `ax` to at least so many decades, so that small changes look small."""
    low, high = np.log10(ax.get_ylim())
    more = max(0.0, decades - (high - low)) / 2
    ax.set_ylim(10 ** (low - more), 10 ** (high + more))
    return ax


def snap(ax: Axes, *ranges: tuple[float, float]) -> Axes:
    """Set the y limits to the first of `ranges` that holds all data, or to the last: they rarely change."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines] or [np.empty(0)])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    fits = [(low, high) for low, high in ranges if ((drawn >= low) & (drawn <= high)).all()]
    ax.set_ylim(fits[0] if fits else ranges[-1])
    return ax


def guide(ax: Axes, value: float, label: str, *, vertical: bool = False) -> Axes:
    """A thin line across `ax` at `value` with its label beside it: a bound, a limit, a chance level."""
    line = ax.axvline if vertical else ax.axhline
    line(value, color=pictures.INK, linewidth=0.9, linestyle=(0, (2, 2)), alpha=0.8, label="_")
    place: dict[str, Any]
    if vertical:
        place = {"xy": (value, 0.98), "xycoords": ax.get_xaxis_transform(), "xytext": (3, -2)}
        place |= {"ha": "left", "va": "top"}
    else:
        place = {"xy": (0.99, value), "xycoords": ax.get_yaxis_transform(), "xytext": (3, 2)}
        place |= {"ha": "right", "va": "bottom"}
    ax.annotate(label, textcoords="offset points", fontsize=11, **place)
    return ax


def legend(ax: Axes, **options: Any) -> Axes:
    """Give `ax` a legend of all that is labelled, one entry for each label; options as for `Axes.legend`.

    A legend that this module built with the same options, and that has all labels, stays: building one costs
    more than drawing the lines.
    """
    return _legend(ax, options)


def legend_above(ax: Axes, *, right: float = 1.0, **options: Any) -> Axes:
    """Put a panel's legend on one line above it, where it covers no data.

    right: where it ends, as a share of the panel's width; options as for `Axes.legend`.
    """
    return legend(ax, loc="lower right", bbox_to_anchor=(right, 0.98), **LEGEND | options)


def losses(
    histories: Mapping[str, History],
    *,
    chance: float | None = None,
    hold: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Training loss against epochs, smoothed over half an epoch, one line a run; `chance` draws a guide.

    With `hold`, a run that stopped early keeps its last finite loss until the end of the longest run, as on a
    live display to which no new number comes.
    """
    ax = ax or plt.subplots()[1]
    longest = max((len(history.train_loss) for history in histories.values()), default=0)
    for label, history in histories.items():
        loss = history.train_loss
        finite = loss[np.isfinite(loss)]
        if hold and finite.size:
            loss = np.concatenate([finite, np.full(longest - finite.size, finite[-1])])
        window = max(1, min(history.steps_per_epoch // 2, len(loss)))
        epochs = np.arange(window, len(loss) + 1) / history.steps_per_epoch
        loss = np.convolve(loss, np.ones(window) / window, mode="valid")
        curve(epochs, loss, label=label, xlabel="epoch", ylabel="training loss", kind="line", ax=ax)
    if chance is not None:
        guide(ax, chance, f"guessing: {chance:.3g}")
    return ax


def sweeps(
    runs: Mapping[str, Sweep], *, log_y: bool = True, chance: float | None = None, ax: Axes | None = None
) -> Axes:
    """Training loss by epoch, each sweep at its own best learning rate, which the legend names.

    Median and range over the seeds; `chance` draws a guide.
    """
    ax = ax or plt.subplots()[1]
    for label, run in runs.items():
        loss = run.loss_by_epoch[run.best]
        epochs = np.arange(1, loss.shape[1] + 1)
        label = f"{label} (rate {run.learning_rates[run.best]:g})"
        curve(
            epochs, loss, label=label, xlabel="epoch", ylabel="training loss", kind="line", log_y=log_y, ax=ax
        )
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if chance is not None:
        guide(ax, chance, f"guessing: {chance:.3g}")
    return ax


def weight_gradients(run: Sweep | History, layers: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """Norms of the weight gradients during training, the mean of each epoch, for `layers` counted from 1.

    Of a sweep, the seeds (median and range) at its best learning rate. Raises `ValueError` for a run without
    recorded gradients and for a layer that it does not have.
    """
    if run.gradient_norms is None:
        raise ValueError("The run must have recorded gradients (record_gradients=True), but it has none.")
    norms = run.gradient_norms[run.best] if isinstance(run, Sweep) else run.gradient_norms[None]
    unknown = [layer for layer in layers if layer not in range(1, norms.shape[2] + 1)]
    if unknown:
        raise ValueError(f"layers must be from 1 to {norms.shape[2]}, but {unknown[0]!r} was given.")
    ax = ax or plt.subplots()[1]
    epochs = norms.shape[1] // run.steps_per_epoch
    steps = norms[:, : epochs * run.steps_per_epoch]  # an epoch that was cut short is left out
    by_epoch = steps.reshape(len(norms), epochs, run.steps_per_epoch, -1).mean(axis=2)
    for layer in layers:
        curve(np.arange(1, epochs + 1), by_epoch[:, :, layer - 1], label=f"layer {layer}", xlabel="epoch",
              ylabel="weight gradient", kind="line", log_y=True, ax=ax)  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return ax


def activation(name: str, *, ax: Axes | None = None, reach: float = 6.0) -> Axes:
    """An activation and its derivative over [-reach, reach]."""
    ax = ax or plt.subplots()[1]
    z = torch.linspace(-reach, reach, 241, dtype=torch.float64, requires_grad=True)
    values = activation_module(name).double()(z)
    (slope,) = torch.autograd.grad(values.sum(), z)
    position = z.detach().numpy()
    curve(position, values.detach().numpy(), label=f"{name}(z)", xlabel="z", kind="line", ax=ax)
    return curve(position, slope.numpy(), label="its derivative", xlabel="z", kind="line", ax=ax)


def bars(shares: Mapping[str, float], *, ylabel: str = "", label: str = "", ax: Axes | None = None) -> Axes:
    """Named shares (from 0 to 1) as bars, each with its value above it."""
    ax = ax or plt.subplots()[1]
    _label(ax, "", ylabel, "")
    number = len(ax.containers)
    places = np.arange(len(shares)) + 0.4 * number
    heights = [0.0 if np.isnan(share) else float(share) for share in shares.values()]
    ax.bar(
        places, heights, 0.38, color=pictures.COLORS[number], hatch=("", "//")[number % 2], label=label or "_"
    )
    for place, height in zip(places, heights, strict=True):
        ax.annotate(
            f"{height:.0%}", (place, height), (0, 2), textcoords="offset points", ha="center", fontsize=10.5
        )
    ax.set_xticks(np.arange(len(shares)) + 0.2 * number, list(shares))
    ax.set_ylim(0, 1.2)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    return _legend(ax)


def dashboard(
    signals: Signals, singular_values: ArrayLike, *, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """The course's four panels: SCALE, CORRELATION, SPECTRUM, RANGE.

    signals as `signals.measure` returns them, singular_values (k,) of the input-output Jacobian. RANGE
    is the mean over layers of the share of activation-gradient entries that a format turns to 0 or inf.
    A log axis has no place for 0, so the panels say in words where a gradient or a spectrum is exactly 0.
    """
    if axes is None:
        axes = plt.subplots(2, 2, figsize=(9, 6))[1].ravel()
    scale, correlation, spectrum, value_range = axes
    _scale_panel(scale, signals)
    layers(signals.series("cosine"), log_y=False, ylabel="cosine of two inputs", ax=correlation)
    correlation.set(ylim=(-0.25, 1.1), title="CORRELATION")
    _spectrum_panel(spectrum, np.asarray(singular_values, dtype=float))
    for fault in ("underflow", "overflow"):
        shares = {name: _known_mean(signals.series(f"{fault}.{name}")) for name in FORMATS}
        bars(shares, label=fault, ylabel="gradient entries", ax=value_range)
    value_range.set_title("RANGE")
    legend_above(scale, right=1.1, fontsize=10.5)  # it ends between the columns, clear of the title
    legend_above(value_range, right=1.05, fontsize=10.5)
    return axes


def _scale_panel(ax: Axes, signals: Signals) -> None:
    gradient_norms = signals.series("activation_gradient_norm")
    layers(signals.series("activation_variance"), label="activation variance", ax=ax, title="SCALE")
    layers(gradient_norms, label="gradient norm", ylabel="variance, norm", ax=ax)
    span(ax, 6)
    gone = int(np.sum(gradient_norms == 0))
    if gone:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.15)  # room for the words
        _note(ax, f"gradient exactly 0 in {gone} of {len(signals.layers)} layers")


def _spectrum_panel(ax: Axes, singular_values: np.ndarray) -> None:
    rank = np.arange(1, len(singular_values) + 1)
    curve(rank, singular_values, xlabel="rank", ylabel="singular value", log_y=True, ax=ax, title="SPECTRUM")
    span(ax, 4).xaxis.set_major_locator(MaxNLocator(8, integer=True))
    margin = max(0.5, 0.03 * len(rank))  # so that no marker is cut
    ax.set_xlim(1 - margin, len(rank) + margin)
    if not np.any(singular_values):
        _note(ax, "every singular value is exactly 0")
        pictures.describe(ax, "SPECTRUM: every singular value is exactly 0.")


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]  # a layer whose gradient is exactly 0 has no share that becomes 0
    return float(known.mean()) if known.size else 0.0


def _note(ax: Axes, text: str) -> None:
    ax.annotate(text, (0.5, 0.97), xycoords="axes fraction", ha="center", va="top", fontsize=11)


def _label(ax: Axes, xlabel: str, ylabel: str, title: str) -> None:
    for text, change in ((xlabel, ax.set_xlabel), (ylabel, ax.set_ylabel), (title, ax.set_title)):
        if text:
            change(text)


def _legend(ax: Axes, options: dict[str, Any] | None = None) -> Axes:
    """As `legend`; without options, a legend that has all labels stays whatever its options are."""
    labelled: list[Line2D | Container] = [*ax.lines, *ax.containers]
    labels = {str(artist.get_label()) for artist in labelled}
    present = ax.get_legend()
    entries = set() if present is None else {text.get_text() for text in present.get_texts()}
    fits = options is None or present is None or _legend_options.get(present) == options
    if fits and all(label.startswith("_") for label in labels - entries):
        return ax
    handles, names = ax.get_legend_handles_labels()
    handle_of = dict(zip(names, handles, strict=True))  # two theories need only one entry
    options = options or {}
    _legend_options[ax.legend(handle_of.values(), handle_of.keys(), **options)] = options
    return ax
