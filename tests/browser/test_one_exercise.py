"""An exercise as a learner opens it: it runs up to the first missing answer, and says what to do.

One set is enough here: tests/test_exercises.py runs all of them, and on the page they differ in nothing.
"""

import nbformat
import pytest

from tests.browser.lab import FAINT_TEXT, NOTEBOOKS, THEMES, Notebook

pytestmark = pytest.mark.browser

EXERCISE = next((NOTEBOOKS.parent / "exercises").glob("01_*/*.ipynb"))
# What a cell that waits for an answer says, and what the check of an empty function says.
WAITS = "Write your answer here, in place of this line"
EMPTY = "There is no answer yet: write yours in the cell above"


def test_an_exercise_runs_up_to_its_first_stub_which_says_what_to_do(page, address):
    notebook = Notebook(page, address, f"exercises/{EXERCISE.parent.name}/{EXERCISE.name}")
    (error,) = notebook.run_all()
    assert error.startswith(EMPTY)
    assert "Traceback" not in output_with(page, EMPTY).inner_text()
    for theme in THEMES:
        notebook.change_theme(theme)
        assert output_with(page, EMPTY).is_visible()
        assert page.locator("body").evaluate(FAINT_TEXT) == []
    assert any(error.startswith(WAITS) for error in notebook.run([prediction()]))
    assert output_with(page, WAITS).is_visible()
    assert notebook.problems == []


def output_with(page, words: str):
    """The output that says these words, in sight."""
    shown = page.locator(".jp-OutputArea-output", has_text=words)
    shown.scroll_into_view_if_needed()
    return shown


def prediction() -> int:
    """The number of the first cell that waits for an answer outside of a function."""
    cells = nbformat.read(EXERCISE, nbformat.NO_CONVERT).cells
    return next(
        number for number, cell in enumerate(cells) if f'\nraise NotImplementedError("{WAITS}' in cell.source
    )
