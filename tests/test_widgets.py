"""Controls, and the class Explorer: picture, sentence, and what a stored notebook keeps of them."""

import re

import pytest
from matplotlib.figure import Figure

from gradients_in_depth import explorers, pictures
from gradients_in_depth.explorers import widgets


def small_explorer(draw=None) -> explorers.Explorer:
    figure = widgets.empty_figure({"xlim": (0, 10), "ylim": (0, 100)})

    def line(axes, depth, kind):
        axes[0].plot([0, depth], [0, depth**2], label="line")
        return f"depth {depth}, {kind}"

    controls = {
        "depth": explorers.Slider("depth", range(1, 11), 5, "layers"),
        "kind": explorers.Choice("kind", {"one": 1, "two": 2}, 1),
    }
    return explorers.Explorer(controls, figure, draw or line, ("Move it.", "Move it back."))


def displayed(explorer, monkeypatch) -> list:
    """What the explorer displays: a panel and two MIME bundles."""
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    monkeypatch.setattr(widgets, "display", lambda thing, **_: shown.append(thing) or Handle())
    explorer._ipython_display_()
    return shown


def test_moving_a_control_changes_picture_and_sentence():
    explorer = small_explorer()
    before = explorer.to_html()
    explorer.set(depth=7)
    assert explorer.sentence == "depth 7, 1"
    assert explorer.to_html() != before
    assert explorer.to_html().count("depth 7, 1") == 2  # seen below the picture, and its text alternative
    explorer.set(kind=2)
    assert explorer.sentence == "depth 7, 2"


def test_reset_gives_the_first_picture_again():
    explorer = small_explorer()
    before = explorer.to_html()
    explorer.set(depth=9, kind=2)
    explorer.reset()
    assert explorer.to_html() == before


def test_nothing_of_the_last_drawing_remains():
    def bars(axes, depth, kind):
        axes[0].bar([1, 2], [depth, 1])
        axes[0].fill_between([1, 2], [0, 1], [1, 2])
        axes[0].annotate("here", (1, 1))
        return "bars"

    explorer = small_explorer(bars)
    counts = len(re.findall("<path", explorer.to_html()))
    for depth in (6, 7, 8):
        explorer.set(depth=depth)
    assert len(re.findall("<path", explorer.to_html())) == counts


def test_height_is_the_same_for_every_value():
    explorer = small_explorer()
    heights = set()
    for depth in range(1, 11):
        explorer.set(depth=depth)
        heights |= set(re.findall(r'viewBox="([^"]+)"|<p [^>]*style="([^"]+)"', explorer.to_html()))
    assert len(heights) == 2


def test_an_update_goes_to_the_displayed_picture(monkeypatch):
    explorer = small_explorer()
    shown = displayed(explorer, monkeypatch)
    assert len(shown) == 3
    explorer.set(depth=8)
    assert shown[-1]["text/plain"] == "depth 8, 1" and shown[-1]["text/html"] == explorer.to_html()


def test_where_no_kernel_runs_the_names_of_many_controls_are_lines(monkeypatch):
    names = [f"{what} of the {which} layer" for what in ("mean", "variance") for which in ("first", "last")]
    controls = {name: explorers.Slider(name, (0, 1), 0) for name in names}
    figure = Figure()
    figure.subplots()
    explorer = explorers.Explorer(controls, figure, lambda _, **__: "", ())
    lines = displayed(explorer, monkeypatch)[0]._repr_mimebundle_()["text/plain"].splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80  # JupyterLab breaks a longer one within a word


def test_what_a_stored_notebook_keeps_reads_without_a_kernel(monkeypatch):
    panel, picture, tries = displayed(small_explorer(), monkeypatch)
    assert panel._repr_mimebundle_()["text/plain"] == (
        "Run this cell to move depth (1 to 10 layers); kind (one, two)."
    )
    assert picture["text/plain"] == "depth 5, 1" and 'aria-label="depth 5, 1"' in picture["text/html"]
    assert picture["image/png"] in picture["text/html"]  # for viewers that strip the SVG
    assert "<li>Move it.</li><li>Move it back.</li>" in tries["text/html"]


def test_sentences_are_escaped():
    explorer = small_explorer(lambda axes, depth, kind: 'a < b & "c"')
    assert "a < b" not in explorer.to_html() and explorer.to_html().count("a &lt; b &amp;") == 2


def test_an_unknown_control_lists_the_controls():
    with pytest.raises(ValueError, match="There is no control named 'width'; there are depth, kind."):
        small_explorer().set(width=3)


def test_a_slider_takes_the_nearest_value_and_keeps_whole_numbers_whole():
    slider = explorers.Slider("gain", [0.1, 1.0, 10.0], 2.0)
    assert slider.value == 1.0 and isinstance(slider.value, float)
    slider.value = 7
    assert slider.value == 10.0
    depth = explorers.Slider("depth", range(1, 4), 2)
    assert depth.value == 2 and isinstance(depth.value, int)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_slider_refuses_what_is_not_a_number(value):
    slider = explorers.Slider("gain", [0.1, 1.0], 1.0)
    with pytest.raises(ValueError, match="A slider takes finite numbers from 0.1 to 1, got"):
        slider.value = value


@pytest.mark.parametrize("values", [[1.0], [], [2.0, 1.0], [1.0, 1.0]])
def test_a_slider_needs_increasing_values(values):
    with pytest.raises(
        ValueError, match="The values of the slider 'gain' must increase and be at least two."
    ):
        explorers.Slider("gain", values, 1.0)


def test_an_empty_figure_has_the_frames_of_its_panels_in_the_style_of_the_course():
    frames = [{"title": name, "xlim": (0, k)} for k, name in enumerate(("A", "B", "C", "D"), 1)]
    figure = widgets.empty_figure(*frames, rows=2, height=6)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["A", "B", "C", "D"]
    assert [ax.get_xlim()[1] for ax in figure.axes] == [1, 2, 3, 4]
    assert figure.axes[2].get_subplotspec().rowspan.start == 1 and figure.get_size_inches()[1] == 6
    assert figure.axes[0].title.get_color() == pictures.INK
