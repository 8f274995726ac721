"""The first line of every lesson: seeds, threads and processes, print precision, how figures are shown."""

import os
import random
import traceback
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, requires, version
from pickle import PicklingError

import joblib
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from matplotlib.figure import Figure
from packaging.requirements import Requirement
from tqdm.auto import tqdm

from gradients_in_depth import pictures
from gradients_in_depth.arguments import check_seed
from gradients_in_depth.data import random_state_kept

DISTRIBUTION = "gradients-in-depth"
MOST_PROCESSES = 4  # each holds a torch of its own, and with what it computes up to 700 MB


def start(seed: int = 0) -> None:
    """Make the session reproducible: seed Python, NumPy and torch, one thread, three digits in print.

    One thread, because results then do not depend on how many cores the machine has, and because small
    networks run faster and more evenly on it. Figures are shown as themed pictures with a text alternative.
    Raises `TypeError` when `seed` is no integer, and `ValueError` when it is not in [0, 2³²).
    """
    _seed_all(check_seed(seed))
    torch.set_num_threads(1)
    np.set_printoptions(precision=3, suppress=False, linewidth=100)
    torch.set_printoptions(precision=3, linewidth=100)
    mpl.rcParams.update(pictures.STYLE)
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


def parallel_map(function: Callable, cases: Iterable[Hashable]) -> dict:
    """{case: function(case)} for each case, in their order, on several cores at a time.

    For a function that takes seconds: the first call needs a few for the start of the processes (up to 4, and
    no more than there are cores). Each case runs on one thread and begins with the random numbers of seed 0,
    so that results depend neither on the number of cores nor on the order. Where processes cannot be had,
    or the function cannot be sent to one, it all happens here.
    Raises what `function` raises; `TypeError` or `ValueError` when `function` cannot be called, or the cases
    are not different and hashable.
    """
    if not callable(function):
        raise TypeError(f"function must be a function of one case, got {type(function).__name__}.")
    if not isinstance(cases, Iterable):
        raise TypeError(f"cases must be a list, or something else to go through, got {type(cases).__name__}.")
    cases = list(cases)
    try:
        different = len(set(cases)) == len(cases)
    except TypeError:
        raise TypeError(f"cases must be hashable, such as names or numbers, got {cases!r}.") from None
    if not different:
        raise ValueError(f"cases must differ, for each is the key of its result, got {cases!r}.")
    processes = min(len(cases), joblib.cpu_count(), MOST_PROCESSES)
    if processes > 1:
        try:
            results, error = _in_processes(function, cases, processes)
        except (BrokenProcessPool, PicklingError, OSError):
            results, error = None, None  # more slowly, then, and to the same end
        if error is not None:
            raise error
        if results is not None:
            return results
    return {case: _from_seed_0(function, case) for case in _progress(cases, len(cases))}


def _in_processes(function: Callable, cases: list, processes: int) -> tuple[dict, Exception | None]:
    """The results, and what the first case that failed has raised."""
    pool = joblib.Parallel(processes, backend="loky", batch_size=1, pre_dispatch="all", return_as="generator")
    outcomes, results = pool(joblib.delayed(_in_a_process)(function, case) for case in cases), {}
    with _progress(outcomes, len(cases)) as bar:
        for case, (result, error) in zip(cases, bar, strict=True):
            if error is not None:
                return results, error
            results[case] = result
    return results, None


def _in_a_process(function: Callable, case: Hashable) -> tuple[object, Exception | None]:
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    try:
        return _from_seed_0(function, case), None
    except Exception as error:
        # What is sent to the kernel would lose its lines; those from here down to `function` tell nothing.
        lines = traceback.format_exception(error.with_traceback(error.__traceback__.tb_next.tb_next))
        error.add_note(f"For the case {case!r}:\n{''.join(lines)}")
        return None, error


def _from_seed_0(function: Callable, case: Hashable) -> object:
    with random_state_kept():
        _seed_all(0)
        return function(case)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the learner's own cells may draw from it
    torch.manual_seed(seed)


def _progress(what: Iterable, total: int) -> tqdm:
    # The notebook's bar does not read TQDM_DISABLE, as the terminal's does.
    quiet = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(what, total=total, desc="computing", unit="case", leave=False, disable=quiet)


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
        found = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is missing"
    return (
        ""
        if need.specifier.contains(found, prereleases=True)
        else f"{need.name} is {found}, not {need.specifier}"
    )
