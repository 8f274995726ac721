"""Every exercise, as a learner opens it: it runs up to the first missing answer, and says what to do."""

import shutil

import pytest

from tests.browser.lab import FAINT_TEXT, NOTEBOOKS, THEMES, Notebook, jupyterlab

pytestmark = pytest.mark.browser

EXERCISES = NOTEBOOKS.parent / "exercises"
SETS = sorted(path.stem for path in EXERCISES.glob("*/*.ipynb"))
# What a cell that waits for an answer says, and what the check of an empty function says.
KIND = (
    "Write your answer here, in place of this line",
    "There is no answer yet: write yours in the cell above",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A JupyterLab with a copy of the exercises, and nothing else of the course's folder."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(EXERCISES, folder / "exercises", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with jupyterlab(folder / "exercises", folder) as address:
        yield address


@pytest.mark.parametrize("name", SETS)
def test_an_exercise_runs_up_to_its_first_stub_which_says_what_to_do(page, address, name):
    notebook = Notebook(page, address, f"{name}/{name}.ipynb")
    (said,) = notebook.run_all()
    assert said.startswith(KIND)
    shown = page.locator(".jp-OutputArea-output", has_text=KIND[said.startswith(KIND[1])])
    shown.scroll_into_view_if_needed()
    assert shown.is_visible()
    if said.startswith(KIND[1]):
        assert "Traceback" not in shown.inner_text()
    for theme in THEMES:
        notebook.change_theme(theme)
        assert shown.is_visible()
        assert page.locator("body").evaluate(FAINT_TEXT) == []
    assert notebook.problems == []
