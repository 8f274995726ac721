"""Lesson 01: long products, of numbers in a number format and of random matrices."""

import functools

import numpy as np
from matplotlib.axes import Axes

from gradients_in_depth import plots, signals, theory
from gradients_in_depth.experiments import products
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure


def chain() -> Explorer:
    """Lesson 01: a factor multiplied again and again, in a number format of one's choice.

    depth x local derivative x number format.
    """
    longest = 100
    figure = empty_figure({"xlabel": "factors multiplied", "ylabel": "product", "xlim": (0, 1.2 * longest)})

    def draw(axes: list[Axes], depth: int, factor: float, number_format: str) -> str:
        (ax,) = axes
        limits = theory.number_format(number_format)
        values = signals.running_product(factor, depth, number_format)
        steps = np.arange(1, depth + 1)
        plots.curve(steps, values, label=f"product kept in {number_format}", log_y=True, ax=ax)
        plots.curve(steps, factor**steps, label="exact product", kind="theory", ax=ax)
        for word, limit in (("smallest", limits.smallest_subnormal), ("largest", limits.largest)):
            if 1e-65 < limit < 1e65:  # those of float64 lie far outside the picture
                plots.guide(ax, limit, f"{word} {number_format}")
        plots.snap(ax, (1e-12, 1e12), (1e-24, 1e24), (1e-65, 1e65))
        lost = _first_lost(values)
        if lost:  # a log axis has no place for 0, so the marks simply end there
            plots.guide(ax, lost, "", vertical=True)
            ax.lines[-1].set_ydata([0, 0.78])  # it ends below the legend
        start = f"{factor:.3g} multiplied {depth} times is {factor**depth:.3g}. {number_format}"
        return f"{start} {_fate(values, factor)}"

    controls: Controls = {
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


def _first_lost(values: np.ndarray) -> int:
    """The first factor, counted from 1, after which the product is 0 or infinite; 0 if there is none."""
    lost = np.flatnonzero((values == 0) | np.isinf(values))
    return int(lost[0]) + 1 if lost.size else 0


def _fate(values: np.ndarray, factor: float) -> str:
    depth, lost, last = len(values), _first_lost(values), values[-1]
    if lost:
        end = "infinity" if np.isinf(values[lost - 1]) else "0"
        return f"holds {end} from factor {lost} on, at the dotted line."
    stuck = int(np.flatnonzero(values == last)[0]) + 1
    if factor != 1 and stuck < depth:
        return (
            f"is stuck at {last:.3g} from factor {stuck} on: among "
            "its last few numbers every product is rounded back up."
        )
    error = abs(last / factor**depth - 1)
    if error < 0.01:
        return "keeps it to within 1 %."
    return f"keeps {last:.3g}, which is {error:.0%} off."


def matrix_chain() -> Explorer:
    """Lesson 01: a product of random matrices, its largest and smallest singular value, beside theory.

    width x gain x kind of matrix, 100 factors, 16 seeds, in float64. The matrices are drawn once; the gain
    scales them (Gaussian entries of standard deviation gain / sqrt(width), or an orthogonal matrix).
    """
    longest, seeds = 100, 16
    steps = np.arange(1, longest + 1)
    frame = {"xlabel": "matrices", "xlim": (0, longest + 1)}
    figure = empty_figure(*(frame | {"ylabel": f"{end} singular value"} for end in ("largest", "smallest")))

    @functools.lru_cache(maxsize=16)
    def measure(width: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        return products.extreme_singular_values(products.random_matrices(kind, longest, width, seeds))

    def draw(axes: list[Axes], width: int, gain: float, kind: str) -> str:
        ends = [values * gain**steps for values in measure(width, kind)]
        rates = theory.lyapunov_exponents(width, gain / width**0.5)[[0, -1]]
        if kind == "orthogonal":
            rates = np.full(2, np.log(gain))
        for ax, values, rate in zip(axes, ends, rates, strict=True):
            plots.curve(steps, values, label="median and range", log_y=True, ax=ax)
            plots.curve(steps, np.exp(rate * steps), label="theory", kind="theory", ax=ax)
            plots.snap(ax, (1e-15, 1e15), (1e-40, 1e40), (1e-75, 1e25), (1e-160, 1e40))
        largest, smallest = (float(np.median(values[:, -1])) for values in ends)
        return (
            f"{longest} {kind} matrices of width {width}, gain {gain:.3g} (entries of standard deviation "
            f"{gain / width**0.5:.3g}): the largest singular value is {largest:.2g}, the smallest "
            f"{smallest:.2g}, a condition number of {largest / smallest:.2g} (medians of {seeds} seeds). "
            f"Theory: factors of {np.exp(rates[0]):.3g} and {np.exp(rates[1]):.3g} per matrix."
        )

    controls: Controls = {
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
