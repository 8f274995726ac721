"""The first line of every lesson."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from gradients_in_depth import parallel, session


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


def test_a_lesson_has_everything_of_the_session_in_one_place():
    assert session.parallel_map is parallel.parallel_map


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
from gradients_in_depth import parallel, session
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
