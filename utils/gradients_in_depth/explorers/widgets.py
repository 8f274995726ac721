"""The controls, and the class behind every explorer: the only module that knows widgets."""

import html
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets
from IPython.display import display
from matplotlib.figure import Figure

from gradients_in_depth import pictures


class Slider(anywidget.AnyWidget):
    """A slider over a list of values, labelled, with its unit and a number field beside it.

    ipywidgets' own sliders have no accessible name, whatever their description says; here the label belongs
    to the slider. `value` is always one of `values`; setting another value chooses the nearest.
    """

    _esm = Path(__file__).with_name("slider.js")
    _css = Path(__file__).with_name("slider.css")
    label = traitlets.Unicode().tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    values = traitlets.List(traitlets.Float()).tag(sync=True)
    index = traitlets.Int().tag(sync=True, echo_update=False)
    chosen = "index"  # the trait that changes when another value is chosen

    def __init__(self, label: str, values: Sequence[float], value: float, unit: str = ""):
        if len(values) < 2 or not np.all(np.diff(values) > 0):
            raise ValueError(f"The values of the slider '{label}' must increase and be at least two.")
        self._whole = all(float(v).is_integer() for v in values)
        numbers = [float(v) for v in values]
        super().__init__(label=label, unit=unit, values=numbers, index=_nearest(numbers, value))

    @property
    def value(self) -> float:
        """The chosen value; an `int` where all values are whole."""
        value = self.values[self.index]
        return int(value) if self._whole else value

    @value.setter
    def value(self, value: float) -> None:
        self.index = _nearest(self.values, value)

    def summary(self) -> str:
        """The slider in words, for a notebook that is not running."""
        return f"{self.label} ({self.values[0]:.3g} to {self.values[-1]:.3g}{self.unit and ' ' + self.unit})"


class Choice(ipywidgets.Dropdown):
    """A labelled list to choose one value from; `options` maps what is read to what is computed with."""

    chosen = "value"  # as in `Slider`

    def __init__(self, label: str, options: dict[str, Any], value: Any):
        super().__init__(description=label, options=list(options.items()), value=value)
        self.style.description_width = "150px"  # as in slider.css
        self.layout.width = "400px"

    def summary(self) -> str:
        """The list in words, for a notebook that is not running."""
        return f"{self.description} ({', '.join(label for label, _ in self.options)})"


def _nearest(values: Sequence[float], value: float) -> int:
    if not np.isfinite(value):
        raise ValueError(
            f"A slider takes finite numbers from {values[0]:g} to {values[-1]:g}, got {value!r}."
        )
    return int(np.argmin(np.abs(np.asarray(values) - value)))


Controls = dict[str, Slider | Choice]


class _Panel(ipywidgets.VBox):
    """Controls below each other; where no kernel runs, a sentence in their place."""

    def __init__(self, children: Sequence[ipywidgets.Widget], sentence: str):
        super().__init__(children)
        self._sentence = sentence

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": self._sentence}


class Explorer:
    """Controls, a picture, a sentence that says what it shows now, a reset, and things to try.

    `draw(axes, **values)` draws on `axes` (those of `figure`) for the chosen `values` (name to value, one for
    each of `controls`) and returns the sentence. What it drew before has been removed; the frame (labels,
    limits, legends) stays, so that `empty_figure` can set it once. `legend` is the place of a legend.
    Displayed, an explorer is three outputs: controls, picture with its sentence, list. Stored, the controls
    are a sentence.
    """

    def __init__(
        self,
        controls: Controls,
        figure: Figure,
        draw: Callable[..., str],
        tries: Sequence[str],
        legend: str = "lower right",
    ):
        self.controls = controls
        self.figure = figure
        self.sentence = ""
        self._draw, self._tries = draw, tuple(tries)
        self._canvas = pictures.Canvas(figure)
        self._legend = legend  # a fixed place, because the best place jumps from picture to picture
        self._start = self.values
        self._handle: Any = None  # of the displayed picture
        for control in controls.values():
            control.observe(self._changed, control.chosen)
        self._html = self._picture()

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say now, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values: Any) -> "Explorer":
        """Move controls from code. Raises `ValueError` for a control that is not there."""
        unknown = [name for name in values if name not in self.controls]
        if unknown:
            raise ValueError(
                f"There is no control named {unknown[0]!r}; there are {', '.join(self.controls)}."
            )
        for name, value in values.items():
            self.controls[name].value = value
        return self

    def reset(self, _button: object = None) -> None:
        """Put every control back to where it was at first."""
        self.set(**self._start)

    def to_html(self) -> str:
        """The picture and its sentence as they are now."""
        return self._html

    def _changed(self, _change: object) -> None:
        self._html = self._picture()
        if self._handle is not None:
            self._handle.update({"text/html": self._html, "text/plain": self.sentence}, raw=True)

    def _picture(self, fallback: str = "") -> str:
        for ax in self.figure.axes:
            pictures.remove_data(ax)
        with pictures.style(**{"legend.loc": self._legend}):
            self.sentence = self._draw(self.figure.axes, **self.values)
            picture = pictures.wrap(self._canvas.svg(), self.sentence, fallback)
        # Three lines are kept for the sentence, so that what follows never moves.
        style = "height:4.5em;line-height:1.5;margin:0.2em 0;overflow-y:auto;max-width:56em"
        return f'{picture}<p aria-hidden="true" style="{style}">{html.escape(self.sentence)}</p>'

    def _ipython_display_(self) -> None:
        reset = ipywidgets.Button(
            description="Reset", tooltip="Put every control back to where it was at first"
        )
        reset.layout.margin = "2px 2px 6px 160px"
        reset.on_click(self.reset)
        moves = "; ".join(control.summary() for control in self.controls.values())
        # In lines, because JupyterLab breaks one that is too long within a word.
        sentence = textwrap.fill(f"Run this cell to move {moves}.", 80)
        display(_Panel([*self.controls.values(), reset], sentence))
        fallback = pictures.bundle(self.figure)["image/png"]
        stored = {"text/html": self._picture(fallback), "image/png": fallback, "text/plain": self.sentence}
        self._handle = display(stored, raw=True, display_id=True)
        items = "".join(f"<li>{html.escape(item)}</li>" for item in self._tries)
        text = "What to try: " + " ".join(self._tries)
        display({"text/html": f"<b>What to try</b><ul>{items}</ul>", "text/plain": text}, raw=True)


def empty_figure(*panels: dict[str, Any], rows: int = 1, height: float = 4.2) -> Figure:
    """Axes to draw on, which a notebook does not show by itself.

    `panels` holds what the axes keep, whatever is drawn: labels, limits, title, as for `Axes.set`.
    """
    with pictures.style():
        figure = Figure(figsize=(9, height))
        figure.subplots(rows, len(panels) // rows)
        for ax, frame in zip(figure.axes, panels, strict=True):
            ax.set(**frame)
    return figure
