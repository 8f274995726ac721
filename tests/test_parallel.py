"""Work for several cores: what a loop would give, from processes that nobody has to think of."""

import os
import random
import threading
import time

import joblib
import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel

from gradients_in_depth import parallel
from gradients_in_depth.parallel import parallel_map
from gradients_in_depth.randomness import seed_everything


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)


@pytest.mark.slow  # processes start
def test_cases_run_at_the_same_time_elsewhere_with_one_thread_and_no_bar(two_cores, tmp_path):
    def met(x, what):
        """Whether the other case has begun, too; each waits for it."""
        (tmp_path / f"{what}{x}").touch()
        end = time.monotonic() + 60
        while not (tmp_path / f"{what}{3 - x}").exists() and time.monotonic() < end:
            time.sleep(0.01)
        return time.monotonic() < end

    def spoil(x):
        torch.set_num_threads(2)
        os.environ["TQDM_DISABLE"] = "0"
        return met(x, "spoil")

    def look(x):
        return met(x, "look"), os.getpid() == here, torch.get_num_threads(), os.environ["TQDM_DISABLE"]

    here = os.getpid()
    assert parallel_map(spoil, (2, 1)) == {2: True, 1: True}
    assert parallel_map(look, (2, 1)) == dict.fromkeys((2, 1), (True, False, 1, "1"))


@pytest.mark.slow  # processes start
def test_results_are_in_the_order_of_the_cases(two_cores):
    results = parallel_map(lambda x: (time.sleep(x / 10), x**2)[1], (3, 1, 2))
    assert list(results.items()) == [(3, 9), (1, 1), (2, 4)]


@pytest.mark.parametrize("cores", [pytest.param("two_cores", marks=pytest.mark.slow), "one_core"])
def test_each_case_draws_from_seed_0_and_nobody_elses_draws_change(request, cores):
    request.getfixturevalue(cores)
    seed_everything(0)
    expected = draw()
    seed_everything(5)
    later = draw()
    seed_everything(5)
    results = parallel_map(lambda _: draw(), "abc")
    assert results == dict.fromkeys("abc", expected)
    assert draw() == later


def test_one_core_or_one_case_needs_no_process(one_core, monkeypatch):
    assert set(parallel_map(lambda _: os.getpid(), "ab").values()) == {os.getpid()}
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    assert parallel_map(lambda _: os.getpid(), "a") == {"a": os.getpid()}
    assert parallel_map(lambda _: os.getpid(), "") == {}


@pytest.mark.parametrize(("cases", "processes"), [(9, parallel.MOST_PROCESSES), (3, 3)])
def test_no_more_processes_than_a_laptop_bears(cases, processes, monkeypatch):
    started = []
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    monkeypatch.setattr(joblib, "Parallel", lambda count, **_: started.append(count) or refuse)

    def refuse(_):
        raise OSError("no more processes")

    assert parallel_map(lambda x: x, range(cases)) == {x: x for x in range(cases)}
    assert started == [processes]


@pytest.mark.slow  # processes start
def test_an_error_names_its_case_and_its_line(two_cores):
    def inverse(x):
        return 1 / x

    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        parallel_map(lambda x: inverse(x), (1, 0))
    (note,) = caught.value.__notes__
    assert note.startswith("For the case 0:") and "return 1 / x" in note and "_from_seed_0" not in note


def test_what_cannot_be_sent_is_computed_here(two_cores):
    lock = threading.Lock()
    results = parallel_map(lambda x: (x, lock.locked(), os.getpid()), "ab")
    assert results == {x: (x, False, os.getpid()) for x in "ab"}


@pytest.mark.slow  # processes start
def test_where_a_process_dies_all_is_computed_here_and_the_next_call_has_processes_again(two_cores):
    here = os.getpid()
    die = lambda x: x if os.getpid() == here else os._exit(1)  # noqa: E731 - a def would be sent by name
    assert parallel_map(die, (1, 2)) == {1: 1, 2: 2}
    assert here not in parallel_map(lambda _: os.getpid(), (1, 2)).values()


@pytest.mark.parametrize(("function", "cases", "error", "sentence"), [
    (3, "ab", TypeError, "function must be a function of one case, got 3."),
    (str, "aa", ValueError, "cases must differ, because each is the key of its result, got ['a', 'a']."),
    (str, [[1]], TypeError, "cases must be hashable, such as names or numbers, got [[1]]."),
    (str, 3, TypeError, "cases must be a list or another iterable, got int."),
])  # fmt: skip
def test_bad_arguments_are_one_sentence(function, cases, error, sentence):
    with pytest.raises(error) as caught:
        parallel_map(function, cases)
    assert str(caught.value) == sentence


@pytest.mark.slow
def test_interrupted_it_ends_at_once_and_can_be_called_again():
    manager, client = start_new_kernel(kernel_name="python3")
    said = []

    def run(code):
        client.execute_interactive(code, output_hook=lambda message: said.append(message), timeout=60)
        messages = [m["content"] for m in said]
        said.clear()
        return [m["ename"] for m in messages if "ename" in m], [m["text"] for m in messages if "text" in m]

    doubled = "found = parallel_map(lambda x: (2 * x, os.getpid()), (1, 2))\n"
    doubled += (
        "print([y for y, _ in found.values()], os.getpid() in [process for _, process in found.values()])"
    )
    try:
        run("import os, time, joblib\nfrom gradients_in_depth.session import parallel_map")
        run("joblib.cpu_count = lambda: 2")
        assert run(doubled) == ([], ["[2, 4] False\n"])
        for waiting in ("parallel_map(lambda x: time.sleep(40), (1, 2))", "time.sleep(40)"):
            threading.Timer(3, manager.interrupt_kernel).start()
            started = time.monotonic()
            assert run(waiting) == (["KeyboardInterrupt"], [])
            assert time.monotonic() - started < 20
            assert run(doubled) == ([], ["[2, 4] False\n"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
