"""Explorers: sliders over real computations, one class behind all. The only module that knows widgets."""

import functools
import html
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import torch
import traitlets
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from scipy.interpolate import CubicSpline, RectBivariateSpline
from torch import Tensor, nn
from torch.nn import functional

from gradients_in_depth import data, networks, pictures, plots, signals, theory


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

    def __init__(self, label: str, values: Sequence[float], value: float, unit: str = ""):
        if len(values) < 2 or not np.all(np.diff(values) > 0):
            raise ValueError(f"The values of the slider '{label}' must increase and be at least two.")
        self._whole = all(float(v).is_integer() for v in values)
        numbers = [float(v) for v in values]
        super().__init__(label=label, unit=unit, values=numbers, index=_nearest(numbers, value))

    @property
    def value(self) -> float:
        """The chosen value; an `int` where all values are whole."""
        chosen = self.values[self.index]
        return int(chosen) if self._whole else chosen

    @value.setter
    def value(self, wanted: float) -> None:
        self.index = _nearest(self.values, wanted)

    def summary(self) -> str:
        """The slider in words, for a notebook that is not running."""
        return f"{self.label} ({self.values[0]:.3g} to {self.values[-1]:.3g}{self.unit and ' ' + self.unit})"


class Choice(ipywidgets.Dropdown):
    """A labelled list to choose one value from; `options` maps what is read to what is computed with."""

    def __init__(self, label: str, options: dict[str, Any], value: Any):
        super().__init__(description=label, options=list(options.items()), value=value)
        self.style.description_width = "150px"  # as in slider.css
        self.layout.width = "400px"

    def summary(self) -> str:
        """The list in words, for a notebook that is not running."""
        return f"{self.description} ({', '.join(label for label, _ in self.options)})"


def _nearest(values: Sequence[float], wanted: float) -> int:
    if not np.isfinite(wanted):
        raise ValueError(
            f"A slider takes finite numbers from {values[0]:g} to {values[-1]:g}, got {wanted!r}."
        )
    return int(np.argmin(np.abs(np.asarray(values) - wanted)))


class _Panel(ipywidgets.VBox):
    """Controls below each other; where no kernel runs, they are a sentence."""

    def __init__(self, children: Sequence[ipywidgets.Widget], sentence: str):
        super().__init__(children)
        self._sentence = sentence

    def _repr_mimebundle_(self, **kwargs):
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": self._sentence}


class Explorer:
    """Controls, a picture, a sentence that says what it shows now, a reset, and things to try.

    `draw(axes, **values)` draws on `axes` (those of `figure`) for the chosen `values` (name to value, one for
    each of `controls`) and returns the sentence; the last drawing has been removed before. Displayed, an
    explorer is three outputs: controls, picture with its sentence, list. Stored, the controls are a sentence.
    """

    def __init__(
        self,
        controls: dict[str, Slider | Choice],
        figure: Figure,
        draw: Callable[..., str],
        tries: Sequence[str],
        legend: str = "lower right",
    ):
        self.controls = controls
        self.sentence = ""
        self._figure, self._draw, self._tries = figure, draw, tuple(tries)
        self._canvas = pictures.Canvas(figure)
        self._legend = legend  # one that looks for the best place jumps
        self._start = self.values
        self._handle = None
        for control in controls.values():
            control.observe(self._changed, _trait(control))
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
        for ax in self._figure.axes:
            _remove_data(ax)
        with pictures.style(**{"legend.loc": self._legend}):
            self.sentence = self._draw(self._figure.axes, **self.values)
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
        fallback = pictures.bundle(self._figure)["image/png"]
        stored = {"text/html": self._picture(fallback), "image/png": fallback, "text/plain": self.sentence}
        self._handle = display(stored, raw=True, display_id=True)
        items = "".join(f"<li>{html.escape(item)}</li>" for item in self._tries)
        text = "What to try: " + " ".join(self._tries)
        display({"text/html": f"<b>What to try</b><ul>{items}</ul>", "text/plain": text}, raw=True)


def _trait(control: Slider | Choice) -> str:
    return "index" if isinstance(control, Slider) else "value"


def _remove_data(ax: Axes) -> None:
    for artist in [*ax.containers, *ax.images, *ax.patches, *ax.collections, *ax.lines, *ax.texts]:
        if artist in ax.containers or artist.axes is not None:  # bars leave with their container
            artist.remove()
    ax.set_prop_cycle(None)


# --- The explorers of the lessons ----------------------------------------------------------------------


def _figure(rows: int = 1, columns: int = 1, height: float = 4.2) -> Figure:
    """A figure that the notebook does not show by itself."""
    with pictures.style():
        figure = Figure(figsize=(9, height))
        figure.subplots(rows, columns)
    return figure


def _verdict(per_layer: float, depth: int) -> str:
    whole = per_layer**depth
    if not np.isfinite(whole):
        return "It explodes."
    if 0.1 <= whole <= 10:
        return "It arrives."
    return "It vanishes." if whole < 1 else "It explodes."


def chain() -> Explorer:
    """Lesson 01: a factor multiplied again and again, in a number format of one's choice.

    depth x local derivative x number format.
    """
    figure = _figure()
    longest = 100

    def draw(axes: list[Axes], depth: int, factor: float, number_format: str) -> str:
        (ax,) = axes
        limits = theory.number_format(number_format)
        kept = signals.running_product(factor, depth, number_format)
        steps = np.arange(1, depth + 1)
        plots.curve(steps, kept, label=f"product kept in {number_format}", log_y=True, ax=ax)
        plots.curve(steps, factor**steps, label="exact product", kind="theory", ax=ax)
        for word, limit in (("smallest", limits.smallest_subnormal), ("largest", limits.largest)):
            if 1e-65 < limit < 1e65:  # those of float64 lie far outside the picture
                plots.guide(ax, limit, f"{word} {number_format}")
        ax.set(xlabel="factors multiplied", ylabel="product", xlim=(0, 1.2 * longest))
        plots.snap(ax, (1e-12, 1e12), (1e-24, 1e24), (1e-65, 1e65))
        gone = (kept == 0) | np.isinf(kept)
        if gone.any():  # a log axis has no place for 0, so the marks simply end there
            lost, held = steps[gone][0], "infinity" if np.isinf(kept[gone][0]) else "0"
            plots.guide(ax, lost, "", vertical=True)
            ax.lines[-1].set_ydata([0, 0.78])  # it ends below the legend
        exact = factor**depth
        start = f"{factor:.3g} multiplied {depth} times is {exact:.3g}."
        if gone.any():
            return f"{start} {number_format} holds {held} from factor {lost} on, at the dotted line."
        stuck = np.flatnonzero(kept == kept[-1])[0]
        if factor != 1 and stuck < depth - 1:
            return (
                f"{start} {number_format} is stuck at {kept[-1]:.3g} from factor {steps[stuck]} on: among "
                "its last few numbers every product is rounded back up."
            )
        error = abs(kept[-1] / exact - 1)
        if error < 0.01:
            return f"{start} {number_format} keeps it to within 1 %."
        return f"{start} {number_format} keeps {kept[-1]:.3g}, which is {error:.0%} off."

    controls = {
        "depth": Slider("depth", range(1, longest + 1), 50, "factors"),
        "factor": Slider("local derivative", np.round(np.arange(0.25, 2.51, 0.05), 2).tolist(), 0.5),
        "number_format": Choice("number format", {name: name for name in theory.FORMATS}, "float16"),
    }
    tries = (
        "Set the local derivative to 0.25, a sigmoid's maximum. Where does float16 hold 0? And float32?",
        "Choose float16 and depth 100: between which two local derivatives does the product survive?",
        "Choose bfloat16 and 0.8: it has 16 bits as float16 has, and goes much further. What did it give up?",
        "Choose float16 and 0.8, and raise the depth past 70: what do the marks do? Is it good news?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper left")


def matrix_chain() -> Explorer:
    """Lesson 01: a product of random matrices, its largest and smallest singular value, beside theory.

    width x gain x kind of matrix, 100 factors, 16 seeds, in float64. The matrices are drawn once; the gain
    scales them (Gaussian entries of standard deviation gain / sqrt(width), or an orthogonal matrix).
    """
    longest, seeds = 100, 16
    steps = np.arange(1, longest + 1)
    figure = _figure(1, 2)

    @functools.lru_cache(maxsize=16)
    def measured(width: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        shape = (longest, width, width)
        draws = [data.gaussian_batch(longest * width, width, seed).reshape(shape) for seed in range(seeds)]
        matrices = torch.stack(draws) / width**0.5
        if kind == "orthogonal":
            matrices = torch.linalg.qr(matrices).Q
        # Smaller than 1e-16 of the largest, a singular value is lost in rounding: that of the inverse is not.
        inverses = torch.linalg.inv(matrices).mT
        norms = [
            torch.linalg.matrix_norm(signals.matrix_products(m), 2).numpy() for m in (matrices, inverses)
        ]
        return norms[0], 1 / norms[1]

    def draw(axes: list[Axes], width: int, gain: float, kind: str) -> str:
        ends = [values * gain**steps for values in measured(width, kind)]
        rates = theory.lyapunov_exponents(width, gain / width**0.5)[[0, -1]]
        if kind == "orthogonal":
            rates = np.full(2, np.log(gain))
        for ax, values, rate, end in zip(axes, ends, rates, ("largest", "smallest"), strict=True):
            plots.curve(steps, values, label="median and range", log_y=True, ax=ax)
            plots.curve(steps, np.exp(rate * steps), label="theory", kind="theory", ax=ax)
            ax.set(xlabel="matrices", ylabel=f"{end} singular value", xlim=(0, longest + 1))
            plots.snap(ax, (1e-15, 1e15), (1e-40, 1e40), (1e-75, 1e25), (1e-160, 1e40))
        largest, smallest = (float(np.median(values[:, -1])) for values in ends)
        return (
            f"{longest} {kind} matrices of width {width}, gain {gain:.3g} (entries of standard deviation "
            f"{gain / width**0.5:.3g}): the largest singular value is {largest:.2g}, the smallest "
            f"{smallest:.2g}, a condition number of {largest / smallest:.2g} (medians of {seeds} seeds). "
            f"Theory: factors of {np.exp(rates[0]):.3g} and {np.exp(rates[1]):.3g} per matrix."
        )

    controls = {
        "width": Choice("width", {str(n): n for n in (2, 4, 8, 16, 32)}, 4),
        "gain": Slider("gain", np.round(np.arange(0.5, 2.01, 0.05), 2).tolist(), 1.0),
        "kind": Choice("matrices", {"Gaussian": "Gaussian", "orthogonal": "orthogonal"}, "Gaussian"),
    }
    tries = (
        "Look for the gain at which the largest singular value stays near 1, at width 2, 4 and 32.",
        "Keep that gain and watch the smallest singular value: does any gain save both?",
        "Change to orthogonal matrices. Which gain is right now, and how exact must it be?",
    )
    return Explorer(controls, figure, draw, tries, legend="lower left")


def deep_network(activations: Sequence[str] = ("sigmoid", "tanh"), gain: float = 1.0) -> Explorer:
    """Lessons 02 to 04: the gradient through a random network, measured, beside the theory of wide networks.

    depth x weight gain x activation; width 128, batch 64, no biases, in float64. The random weights are drawn
    once; gain scales them (1 is weight_var = 1, Xavier). The gradient sent into the last layer is Gaussian.
    """
    longest, width = 100, 128
    figure = _figure()
    weights = data.gaussian_batch(longest * width, width, seed=0).reshape(longest, width, width) / width**0.5
    buffer = torch.empty_like(weights)
    inputs, arriving = data.gaussian_batch(64, width, seed=1), data.gaussian_batch(64, width, seed=2)

    @functools.lru_cache(maxsize=1)
    def scaled(gain: float) -> tuple[Tensor, ...]:
        return torch.mul(weights, gain, out=buffer).unbind()

    @functools.lru_cache(maxsize=64)
    def expected(activation: str, gain: float) -> np.ndarray:
        return theory.gradient_norm_trajectory(longest, activation, gain**2, first=gain**2)

    def draw(axes: list[Axes], depth: int, gain: float, activation: str) -> str:
        (ax,) = axes
        activations, gradients = signals.flow(scaled(gain)[:depth], inputs, activation, arriving)
        ratio = gradients / gradients[-1]
        predicted = expected(activation, gain)
        plots.layers(ratio, label="measured", ax=ax)
        plots.layers(
            predicted[:depth] / predicted[depth - 1], label="theory, infinite width", kind="theory", ax=ax
        )
        ax.set(ylabel="activation gradient, last layer = 1", xlim=(0, longest + 1))
        plots.snap(ax, (1e-10, 1e5), (1e-25, 1e10), (1e-50, 1e20), (1e-140, 1e60), (1e-140, 1e110))
        per_layer = ratio[0] ** (1 / max(depth - 1, 1))
        single = torch.tensor(ratio[0], dtype=torch.float32).item()
        shown = "0" if single == 0 else "infinity" if np.isinf(single) else f"{single:.2g}"
        saturation = ""
        if activation in ("sigmoid", "tanh"):
            spread = gain * (activations[-2] if depth > 1 else 1.0)
            share = theory.saturated_share(spread**2, activation)
            saturation = (
                f" In the last layer z spreads by {spread:.2g}, which saturates {share:.0%} of the units."
            )
        return (
            f"{depth} layers of {activation}, weight gain {gain:.3g}: the gradient in the first layer is "
            f"{ratio[0]:.2g} of that in the last, a factor {per_layer:.3g} per layer "
            f"(float32 would hold {shown}). {_verdict(per_layer, depth)}{saturation}"
        )

    controls = {
        "depth": Slider("depth", range(1, longest + 1), 30, "layers"),
        "gain": Slider("weight gain", [round(2 ** (k / 8), 3) for k in range(-16, 33)], gain),
        "activation": Choice("activation", {name: name for name in activations}, activations[0]),
    }
    saturates = activations[0] in ("sigmoid", "tanh")
    tries = (
        f"Raise the weight gain: does a {activations[0]} network ever keep its gradient over 50 layers? "
        + ("How many of its units are saturated there?" if saturates else "At which gain, and how sharply?"),
        f"Change to {activations[-1]} and look for the gain at which the line is flat.",
        "At that gain double the depth. Is it still flat?",
    )
    return Explorer(controls, figure, draw, tries)


def dying_units(seed: int = 2) -> Explorer:
    """Lesson 03: units that one step too large, or a negative bias, switches off on every image.

    first step x slope of the leak x bias at the start; the second of two hidden layers of 32 units, He, on
    the digits, in float32: one step of the chosen size and 20 ordinary ones (0.2), on mini-batches of 75. A
    unit is off when its z is <= 0 on every training image; with slope 0 it gets no gradient there, so it is
    dead. The weights are drawn once.
    """
    width, batch, ordinary, steps = 32, 75, 0.2, 20
    figure = _figure()
    digits = data.digits(dtype=torch.float32)
    images, labels = digits.train_inputs, digits.train_targets
    classes = functional.one_hot(labels, 10).float()
    sizes = (images.shape[1], width, width, 10)
    drawn = []
    for k, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weight = data.gaussian_batch(fan_out, fan_in, seed + k, torch.float32) * (2 / fan_in) ** 0.5
        drawn += [weight, torch.zeros(fan_out)]
    order = torch.randperm(len(images), generator=data.seeded_generator(seed))
    batches = order[: len(images) // batch * batch].reshape(-1, batch)

    def forward(parameters: Sequence[Tensor], inputs: Tensor, leak: float) -> tuple[Tensor, ...]:
        first = torch.addmm(parameters[1], inputs, parameters[0].T)
        hidden = functional.leaky_relu(first, leak)
        return first, hidden, torch.addmm(parameters[3], hidden, parameters[2].T)

    def descend(parameters: Sequence[Tensor], leak: float, size: float, chosen: Tensor) -> float:
        """One step, in place; returns the loss. By hand, because that is quicker than autograd."""
        inputs, targets = images[chosen], labels[chosen]
        first, hidden, second = forward(parameters, inputs, leak)
        rectified = functional.leaky_relu(second, leak)
        scores = torch.log_softmax(torch.addmm(parameters[5], rectified, parameters[4].T), dim=1)
        delta = scores.exp().sub_(classes[chosen]).div_(batch)
        back = (delta @ parameters[4]) * torch.where(second > 0, 1.0, leak)
        further = (back @ parameters[2]) * torch.where(first > 0, 1.0, leak)
        pairs = ((further, inputs), (back, hidden), (delta, rectified))
        gradients = [g for d, h in pairs for g in (d.T @ h, d.sum(dim=0))]
        torch._foreach_sub_(parameters, gradients, alpha=size)
        return functional.nll_loss(scores, targets).item()

    @functools.lru_cache(maxsize=64)
    def trained(first_step: float, leak: float, bias: float) -> tuple[np.ndarray, float, float, float]:
        """Shares of images with z > 0, (3, width): at the start, after one step, at the end; three numbers.

        They are the mean fall of z in the units that the first step switched off, the spread of z between
        images at the start, and the last loss.
        """
        parameters = [p + (bias if k in (1, 3) else 0.0) for k, p in enumerate(drawn)]
        on, means, spread, loss = [], [], 0.0, 0.0
        for step in range(steps + 2):
            if step in (0, 1, steps + 1):
                z = forward(parameters, images, leak)[2]
                on.append((~(z <= 0)).float().mean(dim=0).numpy())  # a z that is NaN is not off
                means.append(z.mean(dim=0))
                spread = spread if step else z.std(dim=0).mean().item()
            if step <= steps:
                loss = descend(
                    parameters, leak, ordinary if step else first_step, batches[step % len(batches)]
                )
        killed = torch.from_numpy((on[1] == 0) & (on[0] > 0))
        fall = (means[0] - means[1])[killed].mean().item() if killed.any() else 0.0
        return np.stack(on), fall, spread, loss

    def draw(axes: list[Axes], first_step: float, leak: float, bias: float) -> str:
        (ax,) = axes
        on, fall, spread, loss = trained(first_step, leak, bias)
        start, after, end = (int(np.sum(shares == 0)) for shares in on)
        before, once, later = np.sort(on, axis=1)
        units = np.arange(1, width + 1)
        plots.curve(units, before, label="at the start", kind="line", ax=ax)
        plots.curve(units, once, label="after the first step", ax=ax)
        plots.curve(units, later, label=f"after {steps} more steps of {ordinary:g}", ax=ax)
        ax.set(xlabel="units of layer 2, each time in order", ylabel="share of images that switch it on")
        ax.set(xlim=(0, width + 1), ylim=(-0.05, 1.3))
        word = "dead" if leak == 0 else "off on every image"
        said = (
            f"First step {first_step:.3g}, leak {leak:g}, bias {bias:g}: of {width} units in layer 2, "
            f"{start} are {word} at the start, {after} after the first step, {end} after {steps} more."
        )
        if fall > 0:
            said += (
                f" That step lowered the z of those it switched off by {fall:.2g} on average; between "
                f"images, z differs by only {spread:.2g}."
            )
        elif after:
            said += " They start below 0 for every image."
        if leak and after:
            said += " Their slope is not 0, so they still get a gradient."
        if not np.isfinite(loss):
            return f"{said} The training has exploded: its loss is not a number any more."
        return f"{said} The loss is {loss:.2g}; guessing costs 2.3."

    controls = {
        "first_step": Slider("size of the first step", [0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.2),
        "leak": Slider("slope of the leak", [0, 0.01, 0.03, 0.1, 0.2, 0.3], 0),
        "bias": Slider("bias at the start", np.arange(-4, 0.1, 0.5).tolist(), 0),
    }
    tries = (
        "Raise the size of the first step: where does the first unit die, and how many are dead at 10? "
        "Do the ordinary steps that follow bring them back?",
        "Stay at 10 and raise the leak. Is 0.01, PyTorch's default, enough?",
        "Put the first step back to 0.2 and lower the bias. At which bias does the loss stay at 2.3?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper left")


def guessing() -> Explorer:
    """Lesson 00: what a prediction costs, beside a guess. classes x probability given to the right class."""
    figure = _figure(height=3.6)
    grid = np.linspace(0.01, 1, 100)

    def draw(axes: list[Axes], classes: int, probability: float) -> str:
        (ax,) = axes
        loss, guess = -np.log(probability) + 0.0, np.log(classes)
        plots.curve(grid, -np.log(grid), label="loss = -ln(probability)", kind="line", ax=ax)
        plots.curve([probability], [loss], label="your network", ax=ax)
        plots.guide(ax, guess, f"guessing among {classes}: ln {classes} = {guess:.3g}")
        ax.set(xlabel="probability given to the right class", ylabel="loss", xlim=(0, 1.02), ylim=(-0.2, 4.8))
        verdict = (
            "the same as" if np.isclose(loss, guess) else "better than" if loss < guess else "worse than"
        )
        return (
            f"The right class gets probability {probability:.3g}: a loss of -ln {probability:.3g} = "
            f"{loss:.3g}, {verdict} guessing. A network that gives each of {classes} classes the same "
            f"probability, {1 / classes:.2g}, has a loss of ln {classes} = {guess:.3g}."
        )

    controls = {
        "classes": Slider("classes", range(2, 51), 10, "classes"),
        "probability": Slider("probability", [k / 100 for k in range(1, 101)], 0.5),
    }
    tries = (
        "Give the right one of ten classes a probability of 0.1. Which number do you get?",
        "Halve the probability, from 0.5 to 0.25, then from 0.02 to 0.01. How much does each halving cost?",
        "How many classes has a task whose flat loss curve lies at 3.91?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")


def dashboard(
    networks: dict[str, Callable[[int], nn.Module]],
    inputs: Tensor,
    targets: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    layers: type[nn.Module],
    depths: Sequence[int] = range(2, 41),
) -> Explorer:
    """Lesson 00: the four panels for a network of one's choice, at a depth of one's choice.

    `networks` maps a name to a function from depth to a model; `layers` is the class that counts as a layer.
    A function that cuts one deep model off at `depth` answers a slider faster than one that draws weights.
    """
    figure = _figure(2, 2, height=6)

    @functools.lru_cache(maxsize=256)
    def measured(name: str, depth: int) -> tuple[signals.Signals, np.ndarray]:
        model = networks[name](depth)
        found = signals.measure(model, inputs, targets, loss_fn, layers=layers)
        return found, signals.jacobian_singular_values(model, inputs[0])

    def draw(axes: list[Axes], network: str, depth: int) -> str:
        found, singular_values = measured(network, depth)
        *_, value_range = plots.dashboard(found, singular_values, axes=axes)
        scale, correlation, spectrum, _ = axes
        for ax in (scale, correlation):
            ax.set_xlim(0, max(depths) + 1)
        for ax in (scale, spectrum):
            plots.snap(ax, (1e-8, 1e8), (1e-20, 1e20), (1e-40, 1e40), (1e-100, 1e100))
        norms, last = found.series("activation_gradient_norm"), found.layers[-1]
        lost, beyond = (bars.patches[0].get_height() for bars in value_range.containers)
        cosine = f"{last.cosine:.3g}" if np.isfinite(last.cosine) else "unknown, for every output is 0"
        return (
            f"{network}, {depth} layers. Gradient norm: {norms[0]:.2g} in layer 1, {norms[-1]:.2g} in layer "
            f"{depth}. In the last layer, activation variance: {last.activation_variance:.2g}, cosine of two "
            f"inputs: {cosine}. Largest singular value: {singular_values[0]:.2g}. float16 turns {lost:.0%} "
            f"of the gradient to 0 and {beyond:.0%} to infinity."
        )

    names = list(networks)
    controls = {
        "network": Choice("network", {name: name for name in names}, names[0]),
        "depth": Slider("depth", depths, 20, "layers"),
    }
    tries = (
        "Take the first network from its smallest depth to its largest: which panel warns you first?",
        "Find a network whose gradient norms look healthy and whose correlation does not.",
        "At which depth does a network first lose gradient to the number format? Look at RANGE.",
    )
    return Explorer(controls, figure, draw, tries)


def normalized_network() -> Explorer:
    """Lesson 05: what a normalization does to the gradient, and to the difference between inputs.

    depth x batch size x normalization x activation; width 64, no biases, in float64, PyTorch's eps, the
    normalization between the linear layer and the activation. The weights are drawn once, with the gain of
    He for ReLU and 1 otherwise; with a normalization the gain has no effect. Theory: theory, for
    infinite width. The gradient sent into the last layer is Gaussian.
    """
    longest, width, largest = 50, 64, 64
    figure = _figure(1, 2)
    weights = data.gaussian_batch(longest * width, width, seed=0).reshape(longest, width, width) / width**0.5
    inputs, arriving = (
        data.gaussian_batch(largest, width, seed=1),
        data.gaussian_batch(largest, width, seed=2),
    )
    normalize = {
        "none": lambda z: z,
        "batch": lambda z: functional.batch_norm(z, None, None, training=True),
        "layer": lambda z: functional.layer_norm(z, (width,)),
        "rms": lambda z: functional.rms_norm(z, (width,), eps=1e-5),
    }
    scaled = {
        name: (weights * (2**0.5 if name == "relu" else 1.0)).unbind() for name in ("relu", "tanh", "sigmoid")
    }

    @functools.lru_cache(maxsize=64)
    def measured(depth: int, batch: int, norm: str, activation: str) -> tuple[np.ndarray, np.ndarray]:
        phi, scale = getattr(torch, activation), normalize[norm]
        with torch.enable_grad():
            h, hidden = inputs[:batch].clone().requires_grad_(), []
            for weight in scaled[activation][:depth]:
                h = phi(scale(h @ weight))
                hidden.append(h)
            gradients = torch.autograd.grad(h, hidden, arriving[:batch])
        norms = np.array([float(g.norm()) for g in gradients])
        with torch.no_grad():  # the mean over all pairs of different inputs
            rows = [functional.normalize(h, dim=1) for h in hidden]
            squares = np.array([float(r.sum(dim=0).square().sum()) for r in rows])
        return norms / norms[-1], (squares - batch) / (batch * (batch - 1))

    @functools.lru_cache(maxsize=64)
    def expected(batch: int, norm: str, activation: str) -> np.ndarray:
        """RMS gradient so many layers back; NaN where theory has no number."""
        back = np.arange(longest)
        if norm == "none":
            gain = 2.0 if activation == "relu" else 1.0
            return theory.gradient_norm_trajectory(longest, activation, gain, first=gain)[::-1]
        if norm != "batch":
            return theory.layer_norm_growth(activation) ** (back / 2)
        return theory.batch_norm_growth(activation, batch) ** (back / 2) if batch > 3 else back * np.nan

    for name in scaled:  # the slowest, once
        expected(largest, "none", name)

    def draw(axes: list[Axes], depth: int, batch: int, norm: str, activation: str) -> str:
        left, right = axes
        ratio, cosine = measured(depth, batch, norm, activation)
        law = expected(batch, norm, activation)[:depth][::-1]
        plots.layers(ratio, label="measured", ax=left)
        plots.layers(law, label="theory", kind="theory", ax=left)
        left.set(ylabel="activation gradient, last layer = 1", xlim=(0, longest + 1), title="SCALE")
        plots.snap(left, (1e-8, 1e8), (1e-20, 1e20), (1e-35, 1e20), (1e-300, 1e20))
        plots.layers(cosine, log_y=False, ax=right)
        right.set(ylabel="cosine of two inputs", xlim=(0, longest + 1), ylim=(-1.1, 1.1), title="CORRELATION")
        per_layer = ratio[0] ** (1 / max(depth - 1, 1))
        words = {"none": "no normalization", "batch": "BatchNorm", "layer": "LayerNorm", "rms": "RMSNorm"}
        said = (
            f"{depth} layers of {activation}, {words[norm]}, a batch of {batch}: the gradient in layer 1 is "
            f"{ratio[0]:.2g} of that in the last, a factor {per_layer:.3g} per layer"
        )
        if np.isfinite(law[0]):
            said += f" (theory {law[0] ** (1 / max(depth - 1, 1)):.3g})"
        said += f". {_verdict(per_layer, depth - 1)} The cosine of two inputs ends at {cosine[-1]:.2g}."
        if norm == "batch" and batch == 2:
            said += (
                " In a batch of two every unit says +1 or -1 whatever its input: no gradient gets through."
            )
        return said

    controls = {
        "depth": Slider("depth", range(2, longest + 1), 30, "layers"),
        "batch": Slider("batch size", [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64], 64, "examples"),
        "norm": Choice("normalization", {name: name for name in normalize}, "batch"),
        "activation": Choice("activation", {name: name for name in scaled}, "relu"),
    }
    tries = (
        "Stay with BatchNorm and ReLU. Lower the batch size to 4, then to 2: what becomes of the gradient?",
        "Change ReLU from BatchNorm to LayerNorm. The left picture is healthy now. And the right one?",
        "Choose the sigmoid, and try all four normalizations. Which one saves its gradient?",
        "Is there any choice that keeps both pictures healthy at depth 50?",
    )
    return Explorer(controls, figure, draw, tries, legend="lower left")


def phase_diagram() -> Explorer:
    """Lesson 04: order and chaos of tanh networks, and what becomes of the scale and of two inputs.

    sigma_w x sigma_b (standard deviations of the weights, times the root of fan_in, and of the biases). One
    network of 50 layers of width 128, in float64, whose random numbers are drawn once; 8 pairs of inputs, of
    correlation 0 and of 0.9 before the first layer. Poole et al. 2016.
    """
    depth, width, pairs, starts = 50, 128, 8, (0.0, 0.9)
    with pictures.style():
        figure = Figure(figsize=(9, 4.9))
        figure.subplot_mosaic([["plane", "scale"], ["plane", "two"]], width_ratios=(1, 1.15))
        _draw_phases(figure, figure.axes[0])
    weights = data.gaussian_batch(depth * width, width, seed=0).reshape(depth, width, width) / width**0.5
    biases = data.gaussian_batch(depth, width, seed=1)
    inputs = _correlated_pairs(pairs, width, starts)
    second_moment, product = _tanh_tables()
    steps = np.arange(1, depth + 1)

    @torch.no_grad()
    def measured(sigma_w: float, sigma_b: float) -> tuple[np.ndarray, np.ndarray]:
        hidden, z = inputs, torch.empty(depth, *inputs.shape, dtype=inputs.dtype)
        for weight, bias, after in zip(weights.unbind(), biases.unbind(), z.unbind(), strict=True):
            torch.addmm(bias, hidden, weight, beta=sigma_b, alpha=sigma_w, out=after)
            hidden = torch.tanh(after)
        a, b = z.reshape(depth, len(starts), pairs, 2, width).unbind(-2)
        squares, product = (a.square().mean(-1), b.square().mean(-1)), (a * b).mean(-1)
        correlation = product / (squares[0] * squares[1]).sqrt()
        return (sum(squares) / 2).mean((1, 2)).numpy(), correlation.permute(1, 2, 0).numpy()

    def expected(sigma_w: float, sigma_b: float) -> tuple[np.ndarray, np.ndarray]:
        q = [sigma_w**2 + sigma_b**2]
        c = [(sigma_w**2 * np.array(starts) + sigma_b**2) / q[0]]
        for _ in range(depth - 1):
            variance = sigma_w**2 * second_moment(q[-1]) + sigma_b**2
            c.append((sigma_w**2 * product(q[-1], c[-1]) + sigma_b**2) / variance)
            q.append(variance)
        return np.array(q), np.transpose(c)

    @functools.lru_cache(maxsize=256)
    def verdict(sigma_w: float, sigma_b: float) -> str:
        found = theory.depth_scales("tanh", sigma_w**2, sigma_b**2)
        chi, layers = found.chi, found.correlation
        phase = "at the edge of chaos" if abs(chi - 1) < 0.005 else "ordered" if chi < 1 else "chaotic"
        fate = {"ordered": "vanishes", "chaotic": "explodes"}.get(phase, "keeps its size")
        start = f"σ_w = {sigma_w:.3g}, σ_b = {sigma_b:.3g}: {phase}. χ = {chi:.3g}: the gradient {fate}, "
        start += f"a factor {chi**0.5:.3g} per layer."
        if layers > 300:
            return f"{start} What two inputs differ by is not forgotten exponentially: ξ_c has no bound."
        if found.end_variance == 0:
            return (
                f"{start} Without biases the signal itself dies, by e every {found.variance:.2g} layers: "
                f"trainable to about {6 * found.variance:.0f} layers."
            )
        return (
            f"{start} The correlation goes to {found.end_correlation:.2g}, by e every ξ_c = {layers:.2g} "
            f"layers, the variance to {found.end_variance:.2g}, by e every ξ_q = {found.variance:.2g}. "
            f"Trainable to about 6 ξ_c = {6 * layers:.0f} layers."
        )

    def draw(axes: list[Axes], sigma_w: float, sigma_b: float) -> str:
        plane, scale, two = axes
        plane.plot(sigma_w, sigma_b, "o", color=pictures.INK, markersize=10, label="_", clip_on=False)
        (squares, correlations), (q, c) = measured(sigma_w, sigma_b), expected(sigma_w, sigma_b)
        plots.curve(steps, squares, label="measured", log_y=True, ax=scale)
        plots.curve(steps, q, label="theory", kind="theory", ax=scale)
        scale.set(ylabel="variance q", xlim=(0, depth + 1), title="SCALE")
        plots.snap(scale, (1e-3, 30), (1e-16, 30))
        for start, values, line in zip(starts, correlations, c, strict=True):
            plots.curve(steps, values, label=f"start {start:g}", ax=two)
            plots.curve(steps, line, label="theory", kind="theory", ax=two)
        two.set(xlabel="layer", ylabel="correlation", xlim=(0, depth + 1), ylim=(-0.8, 1.05))
        two.set_title("TWO INPUTS")
        if two.get_legend()._ncols == 1:  # below the data; built once
            entries = dict(zip(*reversed(two.get_legend_handles_labels()), strict=True))
            options = plots.LEGEND | {"ncols": 3, "handlelength": 1.4}
            two.legend(entries.values(), entries.keys(), loc="lower center", **options)
        return verdict(sigma_w, sigma_b)

    controls = {
        "sigma_w": Slider("σ_w (weights)", np.round(np.arange(0.5, 3.01, 0.05), 2).tolist(), 1.5),
        "sigma_b": Slider("σ_b (biases)", np.round(np.arange(0, 1.01, 0.05), 2).tolist(), 0.2),
    }
    tries = (
        "Cross the line from left to right: which of the two pictures beside it changes its mind?",
        "Stay in the ordered phase and walk towards the line. What happens to ξ_c, and what to ξ_q?",
        "Xavier is σ_w = 1, σ_b = 0. In which phase is it? How fast does its variance fall?",
        "Go deep into chaos. Two inputs that were nearly the same: what are they after ten layers?",
    )
    return Explorer(controls, figure, draw, tries, legend="lower right")


def residual_stream() -> Explorer:
    """Lesson 06: what the blocks x + scale * W relu(norm(x)) do to signal, gradient and paths.

    depth x branch scale x normalization; width 128, 32 unrelated inputs, He weights, in float64. The random
    weights are drawn once. Beside each other: mean squares of stream and gradient, measured and by
    `theory.residual_flow`; and by `theory.path_length_weights` the share of the gradient by path length.
    """
    longest, width, batch = 60, 128, 32
    figure = _figure(columns=2)
    weights = data.gaussian_batch(longest * width, width, seed=0).reshape(longest, width, width)
    weights = (weights * (2 / width) ** 0.5).unbind()
    inputs, arriving = data.gaussian_batch(batch, width, seed=1), data.gaussian_batch(batch, width, seed=2)
    inputs = inputs / inputs.square().mean().sqrt()
    normalize = {
        "none": lambda x: x,  # a name, because the list shows None as nothing chosen
        "rms": lambda x: functional.rms_norm(x, (width,)),
        "batch": lambda x: functional.batch_norm(x, None, None, training=True),
    }
    names = {"none": "no normalization", "rms": "RMS normalization", "batch": "batch normalization"}

    def measured(depth: int, scale: float, normalization: str) -> list[np.ndarray]:
        stream = [inputs.detach().requires_grad_()]
        with torch.enable_grad():
            for weight in weights[:depth]:
                hidden = torch.relu(normalize[normalization](stream[-1]))
                stream.append(torch.addmm(stream[-1], hidden, weight, alpha=scale))
            gradients = torch.autograd.grad(stream[-1], stream, arriving)
        sides = [[t.detach().numpy() for t in side] for side in (stream, gradients)]
        signal, gradient = ([np.vdot(t, t) / t.size for t in side] for side in sides)
        return [np.array(signal), np.array(gradient) / gradient[-1]]

    def draw(axes: list[Axes], depth: int, branch_scale: float, normalization: str) -> str:
        scale, paths = axes
        signal, gradient = measured(depth, branch_scale, normalization)
        known = None if normalization == "none" else normalization
        flow = theory.residual_flow(depth, branch_scale, normalization=known)
        blocks = np.arange(depth + 1)
        plots.curve(blocks, signal, label="stream", log_y=True, ax=scale)
        plots.curve(blocks, gradient, label="gradient, at the end 1", ax=scale)
        plots.curve(blocks, flow.second_moments, kind="theory", label="theory", ax=scale)
        plots.curve(blocks, flow.gradient_norms**2, kind="theory", label="theory", ax=scale)
        scale.set(xlabel="blocks passed", ylabel="mean square", xlim=(-1, longest + 1), title="SCALE")
        plots.snap(scale, (0.3, 1e3), (0.3, 1e11), (0.3, 1e21), (0.3, 1e33))
        scale.set_ylim(0.3, scale.get_ylim()[1] ** 1.4)  # room for the legend
        shares = theory.path_length_weights(flow.branch_factors)
        mean = float(shares @ blocks)
        plots.curve(blocks, shares, kind="line", ylabel="share of squared gradient", ax=paths)
        plots.guide(paths, mean, f"mean {mean:.2g}", vertical=True)
        top = 1.05 if shares.max() > 0.48 else 0.5
        paths.set(xlabel="branches on the path", xlim=(-1, longest + 1), ylim=(0, top), title="PATHS")
        kind, squared = names[normalization], flow.gradient_norms[0] ** 2
        return (
            f"{depth} blocks, branch scale {branch_scale:.3g}, {kind}: the mean square of the stream ends at "
            f"{signal[-1]:.2g} (theory {flow.second_moments[-1]:.2g}); the squared gradient at the start "
            f"is {gradient[0]:.2g} times that at the end (theory {squared:.2g}). The average path of the "
            f"gradient passes {mean:.2g} branches."
        )

    controls = {
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


def transformer_depth() -> Explorer:
    """Lesson 08: a random Transformer: what comes back to each block, and how different its tokens still are.

    depth x norm placement x skips; 4 sequences of 8 random tokens, d_model 32, Xavier weights drawn once, in
    float64. The gradient that enters the last block is Gaussian. Black: theory, for skips with a norm.
    """
    longest, tokens, d_model = 24, 8, 32
    figure = _figure(1, 2)
    inputs = data.gaussian_batch(4 * tokens, d_model, seed=101).reshape(4, tokens, d_model)
    arriving = data.gaussian_batch(4 * tokens, d_model, seed=102).reshape(4, tokens, d_model)
    stacks = {}
    for placement in ("pre", "post", None):
        for skip in (True, False):
            settings = {"norm_placement": placement, "skip": skip, "dtype": torch.float64}
            model = networks.Transformer(longest, d_model, **settings).requires_grad_(False)
            for block in model.blocks:
                block.attention.query.weight.requires_grad_()
            stacks[placement or "none", skip] = model.blocks

    @functools.lru_cache(maxsize=256)
    def measured(depth: int, placement: str, skip: bool) -> np.ndarray:
        """Stream gradient and query gradient by block, and difference of its tokens: (3, depth)."""
        stream, x = [], inputs
        blocks = stacks[placement, skip][:depth]
        for block in blocks:
            x = block(x)
            stream.append(x)
        weights = [block.attention.query.weight for block in blocks]
        gradients = torch.autograd.grad(x, stream + weights, arriving)
        norms = [g.norm().item() for g in gradients]
        apart = [(h - h.mean(dim=1, keepdim=True)).norm() / h.norm() for h in map(Tensor.detach, stream)]
        return np.array([norms[:depth], norms[depth:], [float(a) for a in apart]])

    def draw(axes: list[Axes], depth: int, placement: str, skip: bool) -> str:
        gradient, query, apart = measured(depth, placement, skip)
        back, differences = axes
        plots.layers(gradient / gradient[-1], label="stream, last block = 1", ax=back, kind="line")
        plots.layers(query / query[0], label="W_Q, first block = 1", ax=back)
        back.set(xlabel="block", ylabel="gradient", xlim=(0, longest + 1), title="GRADIENT")
        plots.snap(back, (1e-4, 1e4), (1e-10, 1e10), (1e-30, 1e30))
        plots.layers(np.maximum(apart, 1e-17), label="measured", ax=differences)
        if skip and placement != "none":
            law = theory.transformer_trajectory(depth, tokens, placement).difference[1:]
            plots.layers((law * (1 - 1 / tokens)) ** 0.5, label="theory", kind="theory", ax=differences)
        differences.set(xlabel="block", xlim=(0, longest + 1), title="WHAT DIFFERS BETWEEN TOKENS")
        differences.set(ylabel="share of the stream")
        plots.snap(differences, (1e-3, 30), (1e-8, 1e3), (1e-18, 1e6))
        name = {"pre": "Pre-LN", "post": "Post-LN", "none": "No norm"}[placement]
        kept = f"{apart[-1]:.2g}" if apart[-1] > 1e-14 else "nothing but rounding"
        return (
            f"{name}, {depth} blocks, {'with' if skip else 'without'} skips. The stream's gradient in the "
            f"first block is {gradient[0] / gradient[-1]:.2g} of that in the last; W_Q's gradient in the "
            f"last block is {query[-1] / query[0]:.2g} of that in the first. Of the differences between "
            f"tokens the last block hands on {kept}."
        )

    controls = {
        "depth": Slider("depth", range(1, longest + 1), 12, "blocks"),
        "placement": Choice("norm", {"Pre-LN": "pre", "Post-LN": "post", "no norm": "none"}, "post"),
        "skip": Choice("skips", {"with": True, "without": False}, True),
    }
    tries = (
        "Post-LN with skips: raise the depth. Which gradient disappears, and at which end of the network?",
        "Change to Pre-LN at the same depth: what happens to the tokens now? Exponentially, or as a power?",
        "Take the skips away. After how many blocks are all tokens the same?",
        "No norm, with skips: what grows, and at which end?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")


def optimizer_chain() -> Explorer:
    """Lesson 09: four optimizers on the smallest deep network, a product of weights that should become 1.

    optimizer x learning rate x depth x gradient noise; loss (w_1 ... w_depth - 1)**2 / 2, all weights 0.5 at
    the start, 400 steps, in float64. The noise, one number for each weight and step, is drawn once.
    """
    steps, deepest, start, lowest = 400, 50, 0.5, 1e-14
    draws = data.gaussian_batch(steps, deepest, seed=0).numpy()
    position = np.arange(steps + 1)
    figure = _figure(1, 2)

    @functools.lru_cache(maxsize=64)
    @np.errstate(over="ignore")  # an explosion may pass 1e308 in its last step
    def trained(optimizer: str, rate: float, depth: int, noise: float) -> tuple[np.ndarray, ...]:
        """Loss (steps + 1,), mean size of gradient and update (steps,); NaN once the loss has passed 1e6."""
        weights, average, square = np.full(depth, start), np.zeros(depth), np.zeros(depth)
        losses, gradients, updates = np.full((3, steps + 1), np.nan)
        for step in range(steps + 1):
            product = float(np.clip(weights.prod(), -1e9, 1e9))
            losses[step] = (product - 1) ** 2 / 2
            if step == steps or not losses[step] < 1e6:
                break
            gradient = (product - 1) * (product / weights) + noise * draws[step, :depth]
            if optimizer == "sgd":
                update = rate * gradient
            elif optimizer == "momentum":
                average = 0.9 * average + gradient
                update = rate * average
            elif optimizer == "rmsprop":
                square = 0.99 * square + 0.01 * gradient**2
                update = rate * gradient / (np.sqrt(square) + 1e-8)
            else:
                average = 0.9 * average + 0.1 * gradient
                square = 0.999 * square + 0.001 * gradient**2
                size = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
                update = rate * average / (1 - 0.9 ** (step + 1)) / size
            gradients[step], updates[step] = np.abs(gradient).mean(), np.abs(update).mean()
            weights = weights - update
        return losses, gradients[:-1], updates[:-1]

    def draw(axes: list[Axes], optimizer: str, rate: float, depth: int, noise: float) -> str:
        loss, gradients, updates = trained(optimizer, rate, depth, noise)
        left, right = axes
        plots.curve(position, np.maximum(loss, 1e-6), label="loss", kind="line", log_y=True, ax=left)
        plots.guide(left, 0.5, "output 0")
        left.set(xlabel="step", ylabel="loss", xlim=(0, steps), ylim=(1e-7, 100))
        for values, label in ((gradients, "gradient"), (updates, "update")):
            values = np.maximum(values, lowest)
            plots.curve(position[1:], values, label=label, kind="line", log_y=True, ax=right)
        plots.legend_above(right)
        plots.guide(right, rate, "learning rate")
        right.set(xlabel="step", ylabel="mean size in a weight", xlim=(0, steps), ylim=(lowest / 10, 1e4))
        signal = (1 - start**depth) * start ** (depth - 1)
        name = {"sgd": "SGD", "momentum": "Momentum", "rmsprop": "RMSProp", "adam": "Adam"}[optimizer]
        said = (
            f"{name}, rate {rate:g}, depth {depth}, noise {noise:.2g}: the true gradient is {signal:.2g} at "
            f"the start, and the first update {updates[0]:.2g} on average. "
        )
        large = np.flatnonzero(loss > 1e6)
        if large.size:
            return f"{said}It explodes at step {large[0]}."
        end = f"{loss[-1]:.2g}" if loss[-1] > 1e-6 else "below 1e-06"
        half = np.flatnonzero(loss < 0.125)  # the output has come within 0.5 of its target
        if not half.size:
            return f"{said}It is never near the target: the loss is {end} after {steps} steps."
        if loss[-1] > 0.125:
            return f"{said}It meets the target at step {half[0]} and is thrown back: the loss ends at {end}."
        return f"{said}It comes near the target at step {half[0]}; after {steps} steps the loss is {end}."

    rates = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
    noises = {"none": 0.0} | {f"{10.0**k:g}": 10.0**k for k in range(-10, -1, 2)}
    names = {"SGD": "sgd", "momentum": "momentum", "RMSProp": "rmsprop", "Adam": "adam"}
    controls = {
        "optimizer": Choice("optimizer", names, "sgd"),
        "rate": Slider("learning rate", rates, 0.1),
        "depth": Slider("depth", range(2, deepest + 1), 10, "layers"),
        "noise": Choice("gradient noise", noises, 0.0),
    }
    tries = (
        "SGD at depth 10: which rate leaves the plateau and does not explode at its end? And at depth 20?",
        "Adam at 0.03 and depth 5, 10, 20: when is it near the target? Go on to 40: which floor is that?",
        "Adam, depth 10: raise the noise. How large is the update when the noise hides the gradient?",
        "Adam at 0.3 and at 0.003: what does a large step cost once the loss is small?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")


def _correlated_pairs(pairs: int, width: int, correlations: Sequence[float]) -> Tensor:
    """Inputs (len(correlations) * pairs * 2, width) of mean square 1, in pairs with exactly these cosines."""
    frame = data.gaussian_batch(pairs * len(correlations) * width, 2, seed=2)
    first, other = torch.linalg.qr(frame.reshape(-1, width, 2)).Q.unbind(-1)
    cosine = torch.tensor(correlations, dtype=torch.float64).repeat_interleave(pairs)[:, None]
    second = cosine * first + (1 - cosine**2).sqrt() * other
    return torch.stack([first, second], dim=1).reshape(-1, width) * width**0.5


def _draw_phases(figure: Figure, ax: Axes) -> None:
    """The plane of tanh, drawn on the figure: what lies on the axes is drawn anew with every change."""
    ax.set(xlabel="σ_w", ylabel="σ_b", xlim=(0.5, 3.0), ylim=(0, 1), title="PHASES OF TANH")
    line_b, line_w = _critical_line()
    place = {"transform": ax.transData, "zorder": -1}
    for number, edge in enumerate((0.5, 3.0)):
        area = np.column_stack([np.append(line_w, (edge, edge)), np.append(line_b, (1, 0))])
        figure.add_artist(Polygon(area, color=pictures.COLORS[number], alpha=0.16, linewidth=0, **place))
    figure.add_artist(Line2D(line_w, line_b, color=pictures.INK, linewidth=1.4, **place))
    for x, y, words in ((0.6, 0.85, "ordered"), (2.3, 0.85, "chaotic"), (1.9, 0.93, "χ = 1")):
        figure.text(x, y, words, transform=ax.transData)


@functools.cache
def _critical_line() -> tuple[np.ndarray, np.ndarray]:
    """sigma_b from 0 to 1, and the sigma_w of tanh at which chi is 1."""
    sigma_b = np.linspace(0, 1, 41)
    return sigma_b, np.sqrt([theory.critical_weight_var(float(b) ** 2) for b in sigma_b])


@functools.cache
def _tanh_tables() -> tuple[Callable[[float], float], Callable[[float, np.ndarray], np.ndarray]]:
    """E[tanh(u)**2] by variance, and E[tanh(u) tanh(v)] by variance and correlation (from 0 to 1).

    Interpolated from theory, to about 1e-4 of their value: 50 layers of quadrature take too long for a
    slider.
    """
    q, angle = np.geomspace(1e-3, 12, 20), np.linspace(0, np.pi / 2, 17)
    shares = [theory.correlation_map(np.cos(angle), "tanh", 1.0, 0.0, float(v)) for v in q]
    surface = RectBivariateSpline(np.log(q), angle, shares)
    curve = CubicSpline(np.log(q), np.log(theory.variance_map(q, "tanh", 1.0) / q))

    def second_moment(q: float) -> float:
        # Below the table tanh(u)**2 is u**2 - 2 / 3 u**4, whose mean is q - 2 q**2.
        return float(q * np.exp(curve(np.log(q)))) if q > 1e-3 else q - 2 * q * q

    def product(q: float, c: np.ndarray) -> np.ndarray:
        c = np.clip(c, 0, 1)
        return second_moment(q) * (surface.ev(np.log(q), np.arccos(c)) if q > 1e-3 else c)

    return second_moment, product


def recurrence() -> Explorer:
    """Lesson 07: what comes back through time, and what clipping makes of it.

    spectral radius x sequence length x threshold. h' = tanh(W h + x / 10), width 32, in float64; W, 8
    sequences and their targets are drawn once; the loss is half the squared distance of the last state from
    the target, the mean over the sequences. Pascanu, Mikolov, Bengio 2013.
    """
    width, batch, longest = 32, 8, 60
    figure = _figure(1, 2, height=4.4)
    weight = data.gaussian_batch(width, width, seed=0)
    weight = weight / torch.linalg.eigvals(weight).abs().max()
    largest = torch.linalg.matrix_norm(weight, 2).item()
    inputs = data.gaussian_batch(longest * batch, width, seed=1).reshape(longest, batch, width) / 10
    target = data.gaussian_batch(batch, width, seed=2)

    @torch.no_grad()
    def backward(radius: float, length: int) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Norms by steps back: of the gradient by the state, and of each step's part of the gradient by W."""
        recurrent = radius * weight
        states = [torch.zeros(batch, width, dtype=torch.float64)]
        for x in inputs[longest - length :].unbind():
            states.append(torch.tanh(states[-1] @ recurrent.T + x))
        gradient = (states[-1] - target) / batch
        norms, parts = [gradient.norm().item()], []
        for after, before in zip(states[:0:-1], states[-2::-1], strict=True):
            delta = gradient * (1 - after.square())
            parts.append(delta.T @ before)
            gradient = delta @ recurrent
            norms.append(gradient.norm().item())
        stack = torch.stack(parts)
        early = stack[(length + 1) // 2 :].sum(0).norm() / stack.sum(0).norm()
        sizes = stack.flatten(1).norm(dim=1).numpy()
        return np.array(norms), sizes, stack.sum(0).norm().item(), early.item()

    def draw(axes: list[Axes], radius: float, length: int, threshold: float) -> str:
        state, parts = axes
        norms, sizes, total, early = backward(radius, length)
        back = np.arange(length + 1)
        bound = theory.recurrent_gradient_bound(back, radius * largest)
        factor = min(1.0, threshold / total)
        plots.curve(back, norms / norms[0], label="measured", log_y=True, ax=state)
        plots.curve(back, bound, kind="theory", label="bound", ax=state)
        plots.guide(state, 1, "")
        state.set(xlabel="steps back in time", ylabel="gradient by the state", xlim=(-1, longest + 1))
        plots.snap(state, (1e-8, 1e8), (1e-20, 1e20), (1e-40, 1e40))
        state.get_legend().set_loc("lower left")  # where neither line comes soon
        plots.curve(back[:-1], sizes, label="as it is", log_y=True, ax=parts)
        plots.curve(back[:-1], sizes * factor, label="clipped", ax=parts)
        plots.guide(parts, threshold, "threshold")
        parts.set(xlabel="steps back in time", ylabel="part of the gradient by W", xlim=(-1, longest + 1))
        plots.snap(parts, (1e-8, 1e4), (1e-20, 1e8), (1e-40, 1e20))
        said = (
            f"Spectral radius {radius:.3g}, largest singular value {radius * largest:.3g}: over {length} "
            f"steps the gradient by the state is multiplied by {norms[-1] / norms[0]:.2g} "
            f"(bound {bound[-1]:.2g}). The gradient by W has norm {total:.2g}, "
        )
        if factor == 1:
            said += f"below the threshold {threshold:g}: nothing is clipped. "
        else:
            said += f"above the threshold {threshold:g}: all of it is multiplied by {factor:.2g}. "
        return f"{said}The part of the first half is {early:.1g} times as long as the whole, clipped or not."

    controls = {
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
