"""Matplotlib figures as pictures for a page: inline SVG that follows the theme, a PNG, and the same in words.

Matplotlib lays out the frame (axes, ticks, labels, legend) and draws the data; this module only puts the two
together. The frame of a figure is kept, so that a picture in which nothing but the data changed costs a few
milliseconds. Ink is drawn as `currentColor`, the colour of the text around the picture, light theme or dark.
"""

import base64
import hashlib
import html
import io
import math
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.container import BarContainer, Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform
from PIL import Image

# Each has a contrast of at least 3 : 1 against white and against JupyterLab's dark background (WCAG 1.4.11).
COLORS = ("#2b7bd0", "#d1620a", "#12926a", "#a45ad0", "#d83a56", "#7c7c7c")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 3, 3)), (0, (9, 3)))
MARKERS = ("o", "s", "^", "D", "v", "X")
INK = "#010203"  # stands for the colour of the surrounding text until the SVG is written

STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 13,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=DASHES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "figure.dpi": 72,  # one point is one pixel of the SVG's own grid, so text sizes are CSS sizes
    "figure.figsize": (9.0, 4.2),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 12.5,
    "grid.alpha": 0.16,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.handlelength": 2.6,
    "lines.linewidth": 2.2,
    "lines.markersize": 5.5,
    "patch.edgecolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "gradients-in-depth",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 12,
    "ytick.color": INK,
    "ytick.labelsize": 12,
}

_descriptions: weakref.WeakKeyDictionary[Artist, str] = weakref.WeakKeyDictionary()


@contextmanager
def style(**more: Any) -> Iterator[None]:
    """`STYLE`, and `more`, inside a `with`: only what differs is set, because `rc_context` copies all 300."""
    parameters: dict[Any, Any] = mpl.rcParams  # typed by a list of all its keys; ours are plain strings
    before = {key: parameters[key] for key, value in (STYLE | more).items() if parameters[key] != value}
    parameters.update({key: (STYLE | more)[key] for key in before})
    try:
        yield
    finally:
        parameters.update(before)


def describe(drawn: Artist, text: str) -> Artist:
    """Say in words what axes show, for the figure's text alternative; of a line, what its points are."""
    _descriptions[drawn] = text
    return drawn


def description(figure: Figure) -> str:
    """The figure in words: what `describe` was told, else titles, labels and the ends of every line."""
    return " ".join(_descriptions.get(ax) or _describe_axes(ax) for ax in figure.axes) or "An empty figure."


def _describe_axes(ax: Axes) -> str:
    title = ax.get_title(loc="left") or ax.get_title()
    head = f"{title}: " if title else ""
    log = ", logarithmic," if ax.get_yscale() == "log" else ""
    if ax.get_xlabel() or ax.get_ylabel():
        head += f"{ax.get_ylabel() or 'values'}{log} against {ax.get_xlabel() or 'kind'}."
    parts = [_describe_line(line, ax) for line in ax.lines] + [
        _describe_bars(bars, ax) for bars in ax.containers
    ]
    return " ".join(part for part in [head, *parts] if part).strip()


def _describe_line(line: Line2D, ax: Axes) -> str:
    label = str(line.get_label())
    if label.startswith("_"):
        label = ax.get_ylabel() if line.get_gid() == "series" else ""
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    known = np.isfinite(x) & np.isfinite(y)
    if not label or not known.any():
        return ""
    if line in _descriptions:
        label += f" ({_descriptions[line]})"
    x, y = x[known], y[known]
    if len(x) == 1:
        return f"{label}: {y[0]:.2g} at {x[0]:.3g}."
    middle = y[1:-1]
    ends = f"{label}: from {y[0]:.2g} at {x[0]:.3g} to {y[-1]:.2g} at {x[-1]:.3g}"
    if middle.size and (middle.max() > max(y[0], y[-1]) or middle.min() < min(y[0], y[-1])):
        ends += f", between {y.min():.2g} and {y.max():.2g}"
    return f"{ends}."


def _describe_bars(bars: Container, ax: Axes) -> str:
    if not isinstance(bars, BarContainer):
        return ""
    label = str(bars.get_label())
    names = [text.get_text() for text in ax.get_xticklabels()]
    heights = ", ".join(f"{name} {bar.get_height():.2g}" for name, bar in zip(names, bars, strict=False))
    return f"{'' if label.startswith('_') else f'{label}: '}{heights}."


class _Decades(LogLocator):
    """Ticks of a log axis: decades where there are several, 1-2-5 where few, even steps within one."""

    def tick_values(self, low: float, high: float) -> Sequence[float]:
        first, last = math.log10(low), math.log10(high)
        if last - first < 0.7:
            return MaxNLocator(5).tick_values(low, high)
        if last - first < 2.2:
            ticks = np.multiply.outer(10.0 ** np.arange(math.floor(first), last + 1), (1.0, 2.0, 5.0)).ravel()
        else:
            stride = next((s for s in (1, 2, 3, 5, 10, 20, 50) if (last - first) / s <= 7), 100)
            ticks = 10.0 ** np.arange(math.ceil(first / stride - 1e-9) * stride, last + 1e-9, stride)
        return ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001)].tolist()


def _plain_number(value: float, _position: object = None) -> str:
    """10⁻³ or 0.02 as plain text: matplotlib's math takes 11 ms a label, and screen readers skip it."""
    exponent = math.log10(value) if value > 0 else math.nan
    if exponent.is_integer() and abs(exponent) > 2:
        return "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value:.3g}"


def log_scale(axis: Axis) -> None:
    """Put an axis (`ax.xaxis` or `ax.yaxis`) on a log scale with few labels, in plain text."""
    set_scale = axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale
    set_scale("log")
    axis.set_major_locator(_Decades())
    axis.set_major_formatter(FuncFormatter(_plain_number))
    axis.set_minor_locator(NullLocator())


def plain(text: str) -> str:
    """`text` without matplotlib's math markup, which a screen reader would read out."""
    return re.sub(r"[${}\\]", "", text)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as a small PNG on white (64 colours), for viewers that remove inline SVG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, facecolor="white")
    image = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="PNG", optimize=True)
    return small.getvalue()


def bundle(figure: Figure) -> dict[str, str]:
    """The figure as a MIME bundle of a stored output: `text/html`, `image/png` and `text/plain`."""
    picture = base64.b64encode(png(figure)).decode()
    return {
        "text/html": to_html(figure, fallback=picture),
        "image/png": picture,
        "text/plain": plain(description(figure)),
    }


def to_html(figure: Figure, *, text: str | None = None, fallback: str = "") -> str:
    """The figure as one HTML element with a text alternative.

    `text` replaces the figure's own description. `fallback` is a PNG in base64: where a viewer strips the SVG
    it also strips the style that hides this image, so exactly one of the two is seen.
    """
    with style():
        return wrap(Canvas(figure).svg(), text or plain(description(figure)), fallback)


def wrap(svg: str, text: str, fallback: str = "") -> str:
    """An `<svg>` element as an accessible picture; see `to_html`."""
    alternative = html.escape(text, quote=True)
    image = f'<img alt="{alternative}" src="data:image/png;base64,{fallback}">' if fallback else ""
    # Where the SVG's tags are stripped, its words stay behind: the size 0 hides them, and only them.
    if fallback:
        svg = svg.replace("</svg>", "<style>.gid-picture>img{display:none}</style></svg>")
    drawing = f'<div style="font-size:0">{svg}</div>'
    return f'<div class="gid-picture" role="img" aria-label="{alternative}">{drawing}{image}</div>'


def data_artists(ax: Axes) -> list[Artist]:
    """What is drawn on `ax`: all but its frame, which is axes, ticks, labels and legend."""
    return [*ax.images, *ax.patches, *ax.collections, *ax.lines, *ax.texts]


def remove_data(ax: Axes) -> None:
    """Take away all that is drawn on `ax`, and keep its frame."""
    for container in [*ax.containers]:
        container.remove()  # which takes its bars along
    for artist in data_artists(ax):
        artist.remove()
    ax.set_prop_cycle(None)


class Canvas:
    """Draws one figure again and again, under `STYLE`; only what changed is drawn anew.

    Everything but the data (lines, areas, bars, annotations) is the frame: matplotlib lays it out when it
    changes (limits, labels, legend), and it is kept. The place of the axes is fixed by the first drawing, so
    that the picture never jumps.
    """

    def __init__(self, figure: Figure, most_frames: int = 32):
        self.figure = figure
        self._frames: dict[tuple, tuple[str, str]] = {}
        self._most_frames = most_frames
        width, height = figure.get_size_inches() * 72
        self._size = float(width), float(height)
        self._prefix = ""

    def svg(self) -> str:
        """The figure as an `<svg>` element in `currentColor`; ids begin with a hash of the first drawing."""
        self.figure.dpi = 72
        back, front = self._frame()
        return _element(back + self._draw(self._data_artists()) + front, *self._size)

    def _data_artists(self) -> list[Artist]:
        return [artist for ax in self.figure.axes for artist in data_artists(ax)]

    def _frame(self) -> tuple[str, str]:
        """What lies behind the data and what lies before them."""
        layout = self.figure.get_layout_engine()
        if layout is not None:  # once, with the legend and all the data in place
            layout.execute(self.figure)
            self.figure.set_layout_engine("none")
        key = tuple(_frame_key(ax) for ax in self.figure.axes)
        if key not in self._frames:
            if len(self._frames) >= self._most_frames:
                self._frames.pop(next(iter(self._frames)))
            self._frames[key] = self._draw_frame()
        return self._frames[key]

    def _draw_frame(self) -> tuple[str, str]:
        legends: list[Artist] = [legend for ax in self.figure.axes if (legend := ax.get_legend()) is not None]
        hidden = [artist for artist in self._data_artists() + legends if artist.get_visible()]
        if not self._prefix:  # ids are global to a page: two figures must not share them
            content = self._draw([self.figure])
            self._prefix = "g" + hashlib.sha256(content.encode()).hexdigest()[:8] + "-"
        for artist in hidden:
            artist.set_visible(False)
        back = self._draw([self.figure])
        for artist in hidden:
            artist.set_visible(True)
        return back, self._draw(legends)

    def _draw(self, artists: list[Artist]) -> str:
        stream = io.StringIO()
        width, height = self._size
        renderer = _Renderer(width, height, stream, metadata=_NO_METADATA)
        for artist in sorted(artists, key=lambda a: a.get_zorder()):
            artist.draw(renderer)
        renderer.finalize()
        return _tidy(stream.getvalue(), self._prefix)


_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class _Renderer(RendererSVG):
    """Matplotlib's, but all markers of a line are one path: a page lays that out sooner than many copies."""

    def draw_markers(self, gc, marker_path, marker_trans, path, trans, rgbFace=None):  # noqa: N803
        places = trans.transform(path.vertices)
        places = places[np.isfinite(places).all(axis=1)]
        shape = marker_path.transformed(marker_trans)
        stroke, fill = self.new_gc(), rgbFace
        stroke.copy_properties(gc)
        if marker_path is Path.unit_circle() and fill is not None and tuple(fill[:3]) == gc.get_rgb()[:3]:
            # A disc is a line of no length with a round end, a tenth of the text of eight curves.
            stroke.set_linewidth(np.ptp(shape.vertices[:, 0]) + gc.get_linewidth())
            stroke.set_capstyle("round")
            shape, fill = Path([(0, 0), (0, 0)], [Path.MOVETO, Path.LINETO]), None
        if len(places):
            vertices = (places[:, None] + shape.vertices).reshape(-1, 2).round(2)
            codes = [Path.MOVETO] + [Path.LINETO] * (len(shape) - 1) if shape.codes is None else shape.codes
            self.draw_path(stroke, Path(vertices, np.tile(codes, len(places))), IdentityTransform(), fill)


def _frame_key(ax: Axes) -> tuple:
    legend = ax.get_legend()
    entries = [text.get_text() for text in legend.get_texts()] if legend is not None else []
    words = (ax.get_title(), ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel(), *entries)
    return (*ax.get_xlim(), *ax.get_ylim(), ax.get_xscale(), ax.get_yscale(), ax.get_visible(), *words)


def _tidy(document: str, prefix: str) -> str:
    """The drawing inside a matplotlib SVG: no header, no page-wide style, short numbers, prefixed ids."""
    drawing = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = _without_bare_groups(re.sub(r'<path d="[^"]*" style="fill: none"/>', "", drawing))
    # Patterns that begin with a letter of their own are found ten times as fast.
    drawing = re.sub(r' transform="rotate\(-0 [^"]*"', "", drawing)
    drawing = re.sub(r'font-family: [^;"]*; ', "", drawing)
    drawing = re.sub(r"<[^>]*>", _round_numbers, drawing)  # what stands between tags is text, and stays
    for reference in (' id="', 'xlink:href="#', "url(#"):
        drawing = drawing.replace(reference, reference + prefix)
    return re.sub(r"\n\s*", " ", drawing.replace(" \n", "\n")).replace(INK, "currentColor")


def _round_numbers(tag: re.Match) -> str:
    """A hundredth of a pixel is enough."""
    return re.sub(r"(\.\d\d)\d+", lambda number: number[1], tag[0])


def _without_bare_groups(drawing: str) -> str:
    """The drawing without `<g>` that says nothing: half of what a page would have to lay out."""
    opened: list[str] = []

    def keep(tag: re.Match) -> str:
        if tag[0] != "</g>":
            opened.append(tag[0])
            return "" if tag[0] == "<g>" else tag[0]
        return "" if opened.pop() == "<g>" else tag[0]

    return re.sub(r"</?g\b[^>]*>", keep, drawing)


def _element(drawing: str, width: float, height: float) -> str:
    fonts = ", ".join(STYLE["font.sans-serif"])
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true" '
        f'style="display:block;width:100%;max-width:{1.2 * width:.0f}px;font-family:{fonts};'
        'stroke-linejoin:round;stroke-linecap:butt">'
        f"{drawing}</svg>"
    )
