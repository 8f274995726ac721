"""Every stored lesson, opened and not run: legible in both themes, also where nobody trusts it."""

import shutil

import pytest

from tests.browser.lab import FAINT_TEXT, LESSONS, MUTE_PICTURES, NOTEBOOKS, THEMES, Notebook, jupyterlab

pytestmark = pytest.mark.browser

# Every output of the notebook is in the page, and every picture of them is loaded.
DRAWN = """() => {
  const stored = window.jupyterapp.shell.currentWidget.content.widgets
    .flatMap(cell => cell.model.type === 'code' ? cell.model.outputs.toJSON() : []);
  return stored.length && stored.length === document.querySelectorAll('.jp-OutputArea-output').length
    && [...document.images].every(image => image.complete);
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A JupyterLab that draws whole lessons, so that one question reaches all that they show."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with jupyterlab(folder / "notebooks", folder, whole=True) as address:
        yield address


@pytest.mark.parametrize("lesson", LESSONS)
def test_stored_lesson_is_legible_in_both_themes_and_untrusted(page, address, lesson):
    # A copy that nobody trusted: JupyterLab strips the SVG, and the PNG inside must show instead.
    notebook = Notebook(page, address, f"{lesson}.ipynb")
    page.wait_for_function(DRAWN, timeout=60_000)
    for theme in THEMES:
        notebook.change_theme(theme)
        assert page.locator("body").evaluate(FAINT_TEXT) == []
        assert page.locator("body").evaluate(MUTE_PICTURES) == []
        pictures = page.locator(".jp-OutputArea-output .gid-picture").all()
        assert pictures
        for picture in pictures:
            shown = picture.locator("img:visible, svg:visible")
            assert shown.count() == 1
            assert shown.bounding_box()["height"] > 100
            leftovers = picture.locator("> div").bounding_box()["height"]
            assert leftovers < 5 or picture.locator("svg").count(), "words of the stripped SVG show"
