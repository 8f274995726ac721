"""Work for several cores: the same function for many cases, each in a process of its own."""

import os
import traceback
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures.process import BrokenProcessPool
from pickle import PicklingError

import joblib
import torch

from gradients_in_depth.arguments import check_function, check_type
from gradients_in_depth.progress import progress_bar
from gradients_in_depth.randomness import random_state_kept, seed_everything

MOST_PROCESSES = 4  # each holds a torch of its own, and with what it computes up to 700 MB


def parallel_map(function: Callable, cases: Iterable[Hashable]) -> dict:
    """{case: function(case)} for each case, in their order, on several cores at a time.

    For a function that takes seconds: the first call needs a few for the start of the processes (up to 4, and
    no more than there are cores). Each case runs on one thread and begins with the random numbers of seed 0,
    so that results depend neither on the number of cores nor on the order. Where no process can be
    started, or the function cannot be sent to one, it all happens here.
    Raises what `function` raises; `TypeError` or `ValueError` when `function` cannot be called, or the cases
    are not different and hashable.
    """
    check_function("function", function, "one case")
    cases = list(check_type("cases", cases, Iterable, "a list or another iterable"))
    try:
        different = len(set(cases)) == len(cases)
    except TypeError:
        raise TypeError(f"cases must be hashable, such as names or numbers, got {cases!r}.") from None
    if not different:
        raise ValueError(f"cases must differ, because each is the key of its result, got {cases!r}.")
    processes = min(len(cases), joblib.cpu_count(), MOST_PROCESSES)
    if processes > 1:
        try:
            results, error = _in_processes(function, cases, processes)
        except (BrokenProcessPool, PicklingError, OSError):
            pass  # then here: it takes longer, and gives the same
        else:
            if error is not None:
                raise error
            return results
    return {case: _from_seed_0(function, case) for case in _bar(cases, len(cases))}


def _in_processes(function: Callable, cases: list, processes: int) -> tuple[dict, Exception | None]:
    """The results, and what the first case that failed has raised."""
    pool = joblib.Parallel(processes, backend="loky", batch_size=1, pre_dispatch="all", return_as="generator")
    outcomes = pool(joblib.delayed(_in_a_process)(function, case) for case in cases)
    results: dict[Hashable, object] = {}
    with _bar(outcomes, len(cases)) as bar:
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
        # On its way to the kernel an error loses its lines, so they go into a note.
        report = traceback.TracebackException.from_exception(error)
        del report.stack[:2]  # the lines of this module, down to the call of `function`
        error.add_note(f"For the case {case!r}:\n{''.join(report.format())}")
        return None, error


def _from_seed_0(function: Callable, case: Hashable) -> object:
    with random_state_kept():
        seed_everything(0)
        return function(case)


def _bar(iterable: Iterable, total: int):
    return progress_bar(iterable, "computing", "case", total)
