"""Plots draw their data on the axes they get, and say what is wrong with what they cannot draw."""

import dataclasses
import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gradients_in_depth import networks, pictures, plots, signals
from gradients_in_depth.training import History, Sweep


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(pictures.STYLE | {"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def test_the_words_say_how_many_seeds_and_how_far_they_spread(ax):
    plots.curve([1, 2], [[1, 10], [1, 30], [1, 20]], label="norm", ax=ax)
    words = pictures.description(ax.figure)
    assert "norm (median of 3 seeds, at the end 10 to 30): from 1 at 1 to 20 at 2." in words


def test_seeds_become_a_median_and_their_range(ax):
    values = np.array([[1.0, 10.0], [2.0, 30.0], [9.0, 20.0]])
    assert plots.curve([1, 2], values, label="three seeds", ax=ax) is ax
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 20])
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1, 30)


def test_one_seed_has_no_band(ax):
    plots.curve([1, 2], [3.0, 4.0], ax=ax)
    assert not ax.collections
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [3, 4])


def test_measured_is_markers_and_theory_is_a_line_of_ink(ax):
    plots.curve([1, 2], [3.0, 4.0], ax=ax)
    plots.curve([1, 2], [3.0, 4.0], kind="theory", ax=ax)
    plots.curve([1, 2], [3.0, 4.0], ax=ax)
    first, theory, second = ax.lines
    assert first.get_linestyle() == "None" and first.get_marker() != second.get_marker()
    assert theory.get_color() == pictures.INK and theory.get_linestyle() == "-"
    assert [first.get_color(), second.get_color()] == list(pictures.COLORS[:2])


def test_lines_of_one_name_share_one_entry_of_the_legend(ax):
    for height, kind in [(1, "measured"), (1, "theory"), (2, "measured"), (2, "theory")]:
        plots.curve(
            [1, 2], [height, height], label="theory" * (kind == "theory") or f"m{height}", kind=kind, ax=ax
        )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["m1", "theory", "m2"]


def test_a_legend_is_built_once_for_the_same_labels_and_options(ax):
    plots.curve([1, 2], [1, 2], label="a", ax=ax)
    default = ax.get_legend()
    above = plots.legend_above(ax, right=0.9).get_legend()
    assert above is not default
    ax.lines[0].remove()  # as an explorer does before it draws again
    plots.curve([1, 2], [3, 4], label="a", ax=ax)
    assert plots.legend_above(ax, right=0.9).get_legend() is above
    assert plots.legend_above(ax, right=0.8).get_legend() is not above
    plots.curve([1, 2], [3, 4], label="b", ax=ax)
    assert [text.get_text() for text in plots.legend_above(ax).get_legend().get_texts()] == ["a", "b"]


def test_a_legend_above_ends_at_its_right_end_and_covers_no_data(ax):
    for label in ("a", "b"):
        plots.curve([1, 2], [1, 2], label=label, ax=ax)
    plots.legend_above(ax, right=0.9, fontsize=8)
    ax.figure.draw_without_rendering()
    box = ax.get_legend().get_window_extent().transformed(ax.transAxes.inverted())
    assert box.x1 == pytest.approx(0.9, abs=0.01) and box.y0 > 0.98
    assert {text.get_fontsize() for text in ax.get_legend().get_texts()} == {8}
    a, b = (text.get_window_extent() for text in ax.get_legend().get_texts())
    assert a.y0 == b.y0 and a.x1 < b.x0  # on one line


def test_axes_without_labels_get_no_legend(ax):
    plots.curve([1, 2], [1, 2], ax=ax)
    assert plots.legend(ax).get_legend() is None


@pytest.mark.parametrize(("log", "expected"), [(True, [1.0]), (False, [1.0, 0.0, -2.0])])
def test_what_an_axis_cannot_show_is_a_gap(ax, log, expected):
    plots.curve([1, 2, 3, 4, 5], [1.0, 0.0, -2.0, math.nan, math.inf], log_y=log, ax=ax)
    drawn = ax.lines[0].get_ydata()
    np.testing.assert_array_equal(drawn[np.isfinite(drawn)], expected)


def test_only_gaps_draw_nothing_and_warn_of_nothing(ax):
    plots.curve([1, 2], [[math.nan, math.inf], [math.nan, math.nan]], ax=ax)
    assert "nan" not in pictures.description(ax.figure)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1.0]), ([], []), ([[1]], [[1.0]]), ([1], [[[1.0]]]), ([1], 1.0)]
)
def test_shapes_that_do_not_fit_are_one_sentence(x, y):
    with pytest.raises(
        ValueError, match=r"y must be \(points,\) or \(seeds, points\) for x \(points,\); got"
    ):
        plots.curve(x, y)


def test_an_unknown_kind_lists_the_kinds():
    with pytest.raises(ValueError, match="kind must be one of measured, theory, line; got 'dotted'"):
        plots.curve([1], [1.0], kind="dotted")


def test_layers_are_counted_from_one(ax):
    plots.layers([0.1, 0.2, 0.3], ylabel="gradient norm", ax=ax)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("layer", "gradient norm", "log")


def test_span_widens_but_never_narrows(ax):
    plots.layers([0.5, 2.0], ax=ax)
    plots.span(ax, 4)
    low, high = ax.get_ylim()
    assert math.log10(high / low) == pytest.approx(4)
    assert math.sqrt(high * low) == pytest.approx(1)
    plots.span(ax, 2)
    assert ax.get_ylim() == (low, high)


@pytest.mark.parametrize(("values", "expected"), [
    ([0.1, 1.0], (1e-2, 1e2)),
    ([1e-3, 1.0], (1e-6, 1e6)),
    ([1e-9, 1.0], (1e-6, 1e6)),
    ([0.5, math.nan, math.inf], (1e-2, 1e2)),
])  # fmt: skip
def test_snap_takes_the_first_range_that_holds_the_data(ax, values, expected):
    ax.set_yscale("log")
    ax.plot(values)
    plots.snap(ax, (1e-2, 1e2), (1e-6, 1e6))
    assert ax.get_ylim() == expected


@pytest.mark.parametrize("vertical", [False, True])
def test_a_guide_lies_at_its_value_and_is_labelled(ax, vertical):
    ax.plot([0, 4], [0, 4])
    plots.guide(ax, 3.0, "limit", vertical=vertical)
    line = ax.lines[-1]
    assert set(line.get_xdata() if vertical else line.get_ydata()) == {3.0}
    assert [text.get_text() for text in ax.texts] == ["limit"]


def history(losses, steps_per_epoch=4) -> History:
    empty = np.array([math.nan])
    return History(np.asarray(losses, dtype=float), steps_per_epoch, empty, None, (), None, None)


def test_losses_are_smoothed_over_half_an_epoch(ax):
    plots.losses({"A": history([1, 3, 5, 7])}, ax=ax, chance=math.log(10))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 4, 6])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.5, 0.75, 1.0])
    assert ax.texts[0].get_text() == "guessing: 2.3"


def test_a_run_that_stopped_early_is_drawn(ax):
    plots.losses({"A": history([1.0, 3.0], steps_per_epoch=40)}, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2])


def test_a_run_that_stopped_is_held_at_its_last_finite_loss(ax):
    runs = {
        "stopped": history([2.5, math.nan]),
        "never finite": history([math.nan]),
        "whole": history([1.0] * 4),
    }
    plots.losses(runs, hold=True, ax=ax)
    stopped, never, whole = ax.lines
    np.testing.assert_allclose(stopped.get_ydata(), [2.5] * 3)
    np.testing.assert_allclose(stopped.get_xdata(), whole.get_xdata())
    assert np.isnan(never.get_ydata()).all()


def test_activation_draws_the_derivative_too(ax):
    plots.activation("sigmoid", ax=ax)
    values, slope = (line.get_ydata() for line in ax.lines)
    assert values[120] == pytest.approx(0.5) and slope.max() == pytest.approx(0.25)
    np.testing.assert_allclose(slope, values * (1 - values), rtol=1e-9)


def test_bars_stand_beside_each_other_and_carry_their_values(ax):
    plots.bars({"float16": 0.82, "float32": math.nan}, label="underflow", ax=ax)
    plots.bars({"float16": 0.0, "float32": 0.1}, label="overflow", ax=ax)
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bars in ax.containers for bar in bars]
    assert all(a[1] <= b[0] + 1e-9 or b[1] <= a[0] + 1e-9 for a in edges for b in edges if a is not b)
    assert [text.get_text() for text in ax.texts] == ["82%", "0%", "0%", "10%"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["float16", "float32"]


def test_dashboard_shows_what_was_measured():
    model = networks.DeepMLP(4, 8, in_features=6, activation="sigmoid", dtype=torch.float64)
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measured = signals.measure(model, inputs, torch.arange(16) % 10, F.cross_entropy, layers=networks.Block)
    values = signals.jacobian_singular_values(model, inputs[0])
    scale, correlation, spectrum, number_range = plots.dashboard(measured, values)
    assert [ax.get_title(loc="left") for ax in (scale, correlation, spectrum, number_range)] == [
        "SCALE", "CORRELATION", "SPECTRUM", "RANGE",
    ]  # fmt: skip
    for line, name in zip(scale.lines, ("activation_variance", "activation_gradient_norm"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), measured.series(name))
    np.testing.assert_allclose(correlation.lines[0].get_ydata(), measured.series("cosine"))
    np.testing.assert_allclose(spectrum.lines[0].get_ydata(), values)
    heights = [bar.get_height() for bar in number_range.containers[0]]
    np.testing.assert_allclose(
        heights, [measured.series(f"underflow.{name}").mean() for name in signals.FORMATS]
    )
    text = pictures.description(scale.figure)
    assert all(word in text for word in ("SCALE", "CORRELATION", "SPECTRUM", "RANGE", "underflow"))


def test_a_dashboard_of_overflowed_signals_is_drawn():
    model = networks.DeepMLP(3, 8, in_features=6, dtype=torch.float64)
    inputs = torch.ones(4, 6, dtype=torch.float64)
    measured = signals.measure(model, inputs, torch.arange(4), F.cross_entropy, layers=networks.Block)
    sick = dataclasses.replace(measured, layers=tuple(
        dataclasses.replace(layer, activation_variance=math.inf, activation_gradient_norm=math.nan)
        for layer in measured.layers
    ))  # fmt: skip
    axes = plots.dashboard(sick, np.full(6, math.nan))
    assert "SPECTRUM" in pictures.to_html(axes[0].figure)


def test_sweeps_are_drawn_at_their_own_best_learning_rate(ax):
    loss = np.array([[[2.0, 2.0, 1.0, 1.0]] * 3, [[2.0, 2.0, 0.5, 0.1], [2, 2, 0.2, 0.2], [2, 2, 9.0, 9.0]]])
    run = Sweep((0.1, 1.0), (0, 1, 2), loss, 2, loss[..., :3], None, ("readout",), None)
    plots.sweeps({"deep": run}, chance=2.3, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 0.3])  # median over seeds of each epoch's mean
    assert ax.get_legend().get_texts()[0].get_text() == "deep (rate 1)"
    assert [text.get_text() for text in ax.texts] == ["guessing: 2.3"]
    assert ax.get_yscale() == "log"


def test_weight_gradients_are_the_means_of_the_epochs(ax):
    norms = np.arange(1.0, 25.0).reshape(1, 2, 4, 3)  # 2 seeds, 2 epochs of 2 steps, 3 layers
    loss = np.ones((1, 2, 4))
    run = Sweep((0.1,), (0, 1), loss, 2, loss[..., :3], None, ("a", "b", "c"), norms)
    plots.weight_gradients(run, [1, 3], ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2.5 + 6, 8.5 + 6])  # medians of the two seeds
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["layer 1", "layer 3"]
    alone = History(loss[0, 0, :3], 2, loss[0, 0, :3], None, ("a", "b", "c"), norms[0, 0, :3], "Stopped.")
    other = plots.weight_gradients(alone, [2])
    np.testing.assert_allclose(other.lines[0].get_ydata(), [3.5])


def test_weight_gradients_that_are_not_there_are_one_sentence():
    loss = np.ones((1, 1, 2))
    run = Sweep((0.1,), (0,), loss, 2, loss, None, ("a",), None)
    with pytest.raises(ValueError) as caught:
        plots.weight_gradients(run, [1])
    sentence = "The run must have recorded gradients (record_gradients=True), but it has none."
    assert str(caught.value) == sentence
    run = dataclasses.replace(run, gradient_norms=np.ones((1, 1, 2, 3)))
    with pytest.raises(ValueError) as caught:
        plots.weight_gradients(run, [1, 4])
    assert str(caught.value) == "layers must be from 1 to 3, but 4 was given."
