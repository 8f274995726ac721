"""The first line of every lesson."""

import os
import random
import subprocess
import sys
import threading
import time

import joblib
import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel

from gradients_in_depth import session


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_one_seed_gives_one_session_and_another_another():
    session.start(seed=3)
    first = draw()
    session.start(seed=4)
    second = draw()
    session.start(seed=3)
    assert draw() == first
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_one_thread_and_three_digits():
    torch.set_num_threads(2)
    session.start()
    assert torch.get_num_threads() == 1
    assert str(np.array([1 / 3])) == "[0.333]"
    assert str(torch.tensor([1 / 3])) == "tensor([0.333])"


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (-1, ValueError),
        (2**32, ValueError),
        (1.5, TypeError),
        ("a", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_a_bad_seed_is_one_sentence(seed, kind):
    with pytest.raises(kind, match=r"seed must be an integer from 0 to 2\*\*32 - 1, got"):
        session.start(seed)


def test_environment_is_found_complete():
    assert session.check_environment().startswith("Every package is here")


@pytest.mark.parametrize(("requirement", "expected"), [
    ("no-such-package>=1", "no-such-package is missing"),
    ("numpy<1", f"numpy is {np.__version__}, not <1"),
])  # fmt: skip
def test_what_is_missing_or_too_old_is_named(monkeypatch, requirement, expected):
    monkeypatch.setattr(session, "requires", lambda _: ["numpy", requirement])
    sentence = session.check_environment()
    assert sentence.startswith(expected) and "pip install -r requirements.txt" in sentence


def test_a_course_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(session, "DISTRIBUTION", "no-such-distribution")
    assert "pip install -e ." in session.check_environment()


def test_figures_are_shown_as_pictures_in_a_kernel():
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
from gradients_in_depth import session
session.start()
import matplotlib.pyplot as plt
figure, ax = plt.subplots()
ax.plot([1, 2], [3, 4], label="line")
ax.set(xlabel="x", ylabel="y")
data, _ = shell.display_formatter.format(figure)
assert 'role="img" aria-label="y against x. line: from 3 at 1 to 4 at 2."' in data["text/html"], data
assert data["text/plain"] == "y against x. line: from 3 at 1 to 4 at 2.", data["text/plain"]
assert data["image/png"][:4] in (b"\\x89PNG", "iVBO"), data["image/png"][:8]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"}
    )
    assert done.returncode == 0, done.stderr


class TestParallelMap:
    @pytest.fixture
    def two_cores(self, monkeypatch):
        monkeypatch.setattr(joblib, "cpu_count", lambda: 2)

    @pytest.fixture
    def one_core(self, monkeypatch):
        monkeypatch.setattr(joblib, "cpu_count", lambda: 1)

    @pytest.mark.slow  # processes start
    def test_cases_run_at_the_same_time_elsewhere_with_one_thread_and_no_bar(self, two_cores, tmp_path):
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
        assert session.parallel_map(spoil, (2, 1)) == {2: True, 1: True}
        assert session.parallel_map(look, (2, 1)) == dict.fromkeys((2, 1), (True, False, 1, "1"))

    @pytest.mark.slow  # processes start
    def test_results_are_in_the_order_of_the_cases(self, two_cores):
        found = session.parallel_map(lambda x: (time.sleep(x / 10), x**2)[1], (3, 1, 2))
        assert list(found.items()) == [(3, 9), (1, 1), (2, 4)]

    @pytest.mark.parametrize("cores", [pytest.param("two_cores", marks=pytest.mark.slow), "one_core"])
    def test_each_case_draws_from_seed_0_and_nobody_elses_draws_change(self, request, cores):
        request.getfixturevalue(cores)
        session.start(seed=0)
        expected = draw()
        session.start(seed=5)
        later = draw()
        session.start(seed=5)
        found = session.parallel_map(lambda _: draw(), "abc")
        assert found == dict.fromkeys("abc", expected)
        assert draw() == later

    def test_one_core_or_one_case_needs_no_process(self, one_core, monkeypatch):
        assert set(session.parallel_map(lambda _: os.getpid(), "ab").values()) == {os.getpid()}
        monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
        assert session.parallel_map(lambda _: os.getpid(), "a") == {"a": os.getpid()}
        assert session.parallel_map(lambda _: os.getpid(), "") == {}

    def test_no_more_processes_than_a_laptop_bears(self, monkeypatch):
        asked = []
        monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
        monkeypatch.setattr(joblib, "Parallel", lambda processes, **_: asked.append(processes) or list)
        monkeypatch.setattr(session, "_in_a_process", lambda function, case: (function(case), None))
        monkeypatch.setattr(joblib, "delayed", lambda function: function)
        assert session.parallel_map(lambda x: x, range(9)) == {x: x for x in range(9)}
        assert asked == [session.MOST_PROCESSES]

    @pytest.mark.slow  # processes start
    def test_an_error_names_its_case_and_its_line(self, two_cores):
        def inverse(x):
            return 1 / x

        with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
            session.parallel_map(lambda x: inverse(x), (1, 0))
        (note,) = caught.value.__notes__
        assert note.startswith("For the case 0:") and "return 1 / x" in note and "_from_seed_0" not in note

    def test_what_cannot_be_sent_is_computed_here(self, two_cores):
        lock = threading.Lock()
        found = session.parallel_map(lambda x: (x, lock.locked(), os.getpid()), "ab")
        assert found == {x: (x, False, os.getpid()) for x in "ab"}

    @pytest.mark.slow  # processes start
    def test_where_a_process_dies_all_is_computed_here_and_the_next_call_has_processes_again(self, two_cores):
        here = os.getpid()
        die = lambda x: x if os.getpid() == here else os._exit(1)  # noqa: E731 - a def would be sent by name
        assert session.parallel_map(die, (1, 2)) == {1: 1, 2: 2}
        assert here not in session.parallel_map(lambda _: os.getpid(), (1, 2)).values()

    @pytest.mark.parametrize(("function", "cases", "error", "sentence"), [
        (3, "ab", TypeError, "function must be a function of one case, got int."),
        (str, "aa", ValueError, "cases must differ, for each is the key of its result, got ['a', 'a']."),
        (str, [[1]], TypeError, "cases must be hashable, such as names or numbers, got [[1]]."),
        (str, 3, TypeError, "cases must be a list, or something else to go through, got int."),
    ])  # fmt: skip
    def test_bad_arguments_are_one_sentence(self, function, cases, error, sentence):
        with pytest.raises(error) as caught:
            session.parallel_map(function, cases)
        assert str(caught.value) == sentence

    @pytest.mark.slow
    def test_interrupted_it_ends_at_once_and_can_be_called_again(self):
        manager, client = start_new_kernel(kernel_name="python3")
        said = []

        def run(code):
            client.execute_interactive(code, output_hook=lambda message: said.append(message), timeout=60)
            messages = [m["content"] for m in said]
            said.clear()
            return [m["ename"] for m in messages if "ename" in m], [
                m["text"] for m in messages if "text" in m
            ]

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
