"""The first line of every lesson: seeds, one thread, print precision, how figures are shown."""

from importlib.metadata import PackageNotFoundError, requires, version

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from matplotlib.figure import Figure
from packaging.requirements import Requirement

from gradients_in_depth import pictures
from gradients_in_depth.arguments import check_seed
from gradients_in_depth.parallel import parallel_map
from gradients_in_depth.randomness import seed_everything

__all__ = ["check_environment", "parallel_map", "start"]

DISTRIBUTION = "gradients-in-depth"


def start(seed: int = 0) -> None:
    """Make the session reproducible: seed Python, NumPy and torch, one thread, three digits in print.

    One thread, because results then do not depend on how many cores the machine has, and because small
    networks run faster and more evenly on it. Figures are shown as themed pictures with a text alternative.
    Raises `TypeError` when `seed` is not an integer, and `ValueError` when it is not in [0, 2³²).
    """
    seed_everything(check_seed(seed))
    torch.set_num_threads(1)
    np.set_printoptions(precision=3, suppress=False, linewidth=100)
    torch.set_printoptions(precision=3, linewidth=100)
    plt.style.use(pictures.STYLE)
    shell = get_ipython()
    if shell is not None:
        plt.ion()  # loads the inline backend, whose own formatters ours then replace
        formatter = shell.display_formatter
        formatter.formatters["image/png"].pop(Figure, None)
        formatter.mimebundle_formatter.for_type(Figure, _figure_bundle)
        shell.run_line_magic("precision", "3")


def _figure_bundle(figure: Figure, include=None, exclude=None) -> dict[str, str]:
    """What IPython's formatter of bundles asks for: all forms of a figure at once, drawn once."""
    return pictures.bundle(figure)


def check_environment() -> str:
    """One sentence: whether every package that the course needs is here, in a version it was written for."""
    try:
        needed = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        return "The course's own package is not installed: run `pip install -e .` in the course's folder."
    needed = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    faults = [fault for need in needed if (fault := _fault(need))]
    if faults:
        return f"{'; '.join(faults)}. Run `pip install -r requirements.txt` in the course's folder."
    return "Every package is here, in a version that this course was written for."


def _fault(need: Requirement) -> str:
    try:
        installed = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is missing"
    if need.specifier.contains(installed, prereleases=True):
        return ""
    return f"{need.name} is {installed}, not {need.specifier}"
