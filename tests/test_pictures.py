"""Figures as pictures: they follow the theme, speak, fall back to a PNG, and redraw only what changed."""

import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gradients_in_depth import pictures

# WCAG 2.2: 3 : 1 for lines and markers (1.4.11). The backgrounds are JupyterLab's, light and dark.
BACKGROUNDS = ("#ffffff", "#111111")


def luminance(color: str) -> float:
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def line_figure(values=(1.0, 0.1, 0.01), label="measured") -> Figure:
    with mpl.rc_context(pictures.STYLE):
        figure = Figure()
        ax = figure.subplots()
        pictures.log_scale(ax.yaxis)
        ax.plot(np.arange(1, len(values) + 1), values, "o-", label=label)
        ax.set(xlabel="layer", ylabel="gradient norm", title="SCALE", ylim=(1e-6, 10), xlim=(0, 5))
        ax.legend()
    return figure


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color", pictures.COLORS)
def test_every_colour_is_seen_in_both_themes(color, background):
    assert contrast(color, background) >= 3


def test_series_differ_without_colour():
    assert len(set(map(str, pictures.DASHES))) == len(set(pictures.MARKERS)) == len(pictures.COLORS)


def test_svg_is_well_formed_and_drawn_in_the_colour_of_the_text():
    svg = re.search(r"<svg.*</svg>", pictures.to_html(line_figure())).group()
    ElementTree.fromstring(svg)
    assert "currentColor" in svg and pictures.INK not in svg
    drawn = set(re.findall(r"#[0-9a-fA-F]{6}\b", re.sub(r'"#\S*"', "", svg)))
    assert drawn <= set(pictures.COLORS)  # no white background, no black text
    assert not re.search(r"<style[^>]*>\s*\*", svg)  # matplotlib's rule for everything would style the page


def test_two_figures_on_a_page_share_no_id():
    one, other = (pictures.to_html(line_figure((1.0, value, 0.01))) for value in (0.1, 0.2))
    ids = [set(re.findall(r'\bid="([^"]+)"', html)) for html in (one, other)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    for html, own in zip((one, other), ids, strict=True):
        assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', html)) <= own


def test_the_same_figure_gives_the_same_bytes():
    assert pictures.bundle(line_figure()) == pictures.bundle(line_figure())


def test_text_alternative_says_what_the_line_does():
    text = pictures.description(line_figure())
    assert text == ("SCALE: gradient norm, logarithmic, against layer. measured: from 1 at 1 to 0.01 at 3.")
    assert "between 0.01 and 5" in pictures.description(line_figure((1.0, 5.0, 0.01)))
    assert f'aria-label="{text}"' in pictures.to_html(line_figure())


def test_bars_and_own_words_are_in_the_text_alternative():
    with mpl.rc_context(pictures.STYLE):
        figure = Figure()
        one, two = figure.subplots(1, 2)
        one.bar(["float16", "float32"], [0.82, 0.0], label="underflow")
        one.set_ylabel("share")
        pictures.describe(two, "A cliff.")
    assert pictures.description(figure) == (
        "share against kind. underflow: float16 0.82, float32 0. A cliff."
    )


def test_text_alternative_is_escaped():
    figure = line_figure(label='a "quoted" <b> & c')
    html = pictures.to_html(figure)
    label = re.search(r'aria-label="([^"]*)"', html).group(1)
    assert "&quot;quoted&quot; &lt;b&gt; &amp; c" in label


def test_png_is_small_opaque_and_white():
    image = Image.open(io.BytesIO(pictures.png(line_figure()))).convert("RGB")
    assert image.getpixel((2, 2)) == (255, 255, 255)
    assert image.width >= 800
    assert len(pictures.png(line_figure())) < 30_000


def test_fallback_is_hidden_only_by_a_style_inside_the_svg():
    html = pictures.to_html(line_figure(), fallback="QUJD")
    assert 'src="data:image/png;base64,QUJD"' in html
    outside = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    assert "<img" in outside and "display:none" not in outside  # so that stripping the SVG shows the PNG


def counted(monkeypatch, canvas):
    frames = []
    draw = canvas._draw_frame
    monkeypatch.setattr(canvas, "_draw_frame", lambda: frames.append(1) or draw())
    return frames


def test_only_data_are_redrawn_when_only_data_change(monkeypatch):
    figure = line_figure()
    canvas = pictures.Canvas(figure)
    with mpl.rc_context(pictures.STYLE):
        frames = counted(monkeypatch, canvas)
        before = canvas.svg()
        figure.axes[0].lines[0].set_ydata([1.0, 0.5, 0.2])
        after = canvas.svg()
        assert before != after and len(frames) == 1
        figure.axes[0].set_ylim(1e-9, 10)
        canvas.svg()
        assert len(frames) == 2
        figure.axes[0].set_ylim(1e-6, 10)
        assert canvas.svg() == after and len(frames) == 2  # kept from the first time


def test_data_are_removed_and_the_frame_stays():
    ax = line_figure().axes[0]
    ax.bar([1, 2], [1, 2])
    ax.errorbar([1, 2], [1, 2], [0.1, 0.1])
    ax.fill_between([1, 2], [0.1, 0.1], [1, 2])
    ax.imshow([[0.0, 1.0]], extent=(1, 2, 1, 2), aspect="auto")
    ax.annotate("here", (1, 1))

    def frame() -> tuple:
        return ax.get_title(loc="left"), ax.get_xlim(), ax.get_ylim(), ax.get_yscale(), ax.get_legend()

    before = frame()
    # An image, two bars, the bars of the errors, an area, two lines, a text.
    assert len(pictures.data_artists(ax)) == 1 + 2 + 1 + 1 + 2 + 1
    pictures.remove_data(ax)
    assert pictures.data_artists(ax) == [] and list(ax.containers) == []
    assert frame() == before


@pytest.mark.parametrize("change", [
    lambda ax: ax.set_title("other"),
    lambda ax: ax.set_xlabel("other"),
    lambda ax: ax.set_xlim(0, 9),
    lambda ax: ax.set_yscale("linear"),
    lambda ax: ax.legend(["other"]),
])  # fmt: skip
def test_a_changed_frame_is_drawn_anew(monkeypatch, change):
    figure = line_figure()
    canvas = pictures.Canvas(figure)
    with mpl.rc_context(pictures.STYLE):
        frames = counted(monkeypatch, canvas)
        canvas.svg()
        change(figure.axes[0])
        canvas.svg()
    assert len(frames) == 2


def path_points(svg: str, color: str) -> list[tuple[float, float]]:
    path = re.search(rf'<path d="([^"]+)"[^>]*stroke: {color}', svg).group(1)
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", path)]


def test_redrawn_paths_are_where_the_axes_say():
    figure = line_figure()
    canvas = pictures.Canvas(figure)
    with mpl.rc_context(pictures.STYLE):
        canvas.svg()
        figure.axes[0].lines[0].set_ydata([0.5, 0.05, 1e-4])
        svg = canvas.svg()
    expected = figure.axes[0].transData.transform(figure.axes[0].lines[0].get_xydata())
    height = figure.get_size_inches()[1] * 72
    found = np.array(path_points(svg, pictures.COLORS[0]))
    np.testing.assert_allclose(found, np.c_[expected[:, 0], height - expected[:, 1]], atol=0.011)


@pytest.mark.parametrize("marker", ["o", "s", "^"])
def test_all_markers_of_a_line_are_one_path_at_the_points(marker):
    figure = line_figure((1.0, np.nan, 0.01))
    line = figure.axes[0].lines[0]
    line.set(marker=marker, linestyle="", markersize=8, color=pictures.COLORS[1])
    svg = pictures.Canvas(figure).svg()
    expected = figure.axes[0].transData.transform(line.get_xydata()[[0, 2]])
    expected[:, 1] = figure.get_size_inches()[1] * 72 - expected[:, 1]
    drawn = [p for p in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
             if pictures.COLORS[1] in p.get("style", "")]  # fmt: skip
    assert len(drawn) == 1  # the legend was made in the colour before
    outlines = [np.array(path_numbers(outline)) for outline in drawn[0].get("d").split("M")[1:]]
    middles = [(outline.min(axis=0) + outline.max(axis=0)) / 2 for outline in outlines]
    np.testing.assert_allclose(middles, expected, atol=0.02)
    if marker == "o":  # a dot of that width, as a line of no length
        assert "stroke-width: 9" in drawn[0].get("style") and "stroke-linecap: round" in drawn[0].get("style")


def path_numbers(path: str) -> np.ndarray:
    return np.array(re.findall(r"-?\d+\.?\d*", path), dtype=float).reshape(-1, 2)


def test_the_drawing_has_no_empty_groups_and_no_style_of_its_own():
    svg = pictures.Canvas(line_figure()).svg()
    assert "<g>" not in svg and svg.count("<g ") == svg.count("</g>")
    assert "<style" not in svg  # a page would compute all its styles anew
    assert "<metadata" not in svg and "\n" not in svg


@pytest.mark.parametrize(("limits", "expected"), [
    ((1e-40, 1e40), ["10⁻⁴⁰", "10⁻²⁰", "1", "10²⁰", "10⁴⁰"]),
    ((1e-4, 1e2), ["10⁻⁴", "10⁻³", "0.01", "0.1", "1", "10", "100"]),
    ((0.5, 20), ["0.5", "1", "2", "5", "10", "20"]),
])  # fmt: skip
def test_log_ticks_are_round_and_few(limits, expected):
    ax = Figure().subplots()
    pictures.log_scale(ax.yaxis)
    ax.set_ylim(limits)
    ticks = [ax.yaxis.get_major_formatter()(tick) for tick in ax.yaxis.get_majorticklocs()]
    assert ticks == expected


def test_log_ticks_exist_within_one_decade():
    ax = Figure().subplots()
    pictures.log_scale(ax.yaxis)
    ax.set_ylim(1.1, 1.9)
    assert sum(1.1 <= tick <= 1.9 for tick in ax.yaxis.get_majorticklocs()) >= 3


def test_numbers_in_words_keep_their_digits():
    with mpl.rc_context(pictures.STYLE):
        figure = Figure()
        ax = figure.subplots()
        ax.plot([0, 1], [0.0101, 0.0149], label="slope 0.8944")
        ax.set(yticks=[0.0125], xlabel="0.1234 and 0.5678")
        ax.legend()
    html = pictures.to_html(figure)
    assert all(f">{text}<" in html for text in ("slope 0.8944", "0.0125", "0.1234 and 0.5678"))
    assert not re.search(r"\d\.\d{3}", " ".join(re.findall(r' d="([^"]*)"', html)))
