"""Every stored lesson, opened and not run: legible in both themes, also where nobody trusts it."""

import pytest

from tests.browser.lab import FAINT_TEXT, LESSONS, MUTE_PICTURES, THEMES, Notebook

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("lesson", LESSONS)
def test_stored_lesson_is_legible_in_both_themes_and_untrusted(page, address, lesson):
    # A copy that nobody trusted: JupyterLab strips the SVG, and the PNG inside must show instead.
    notebook = Notebook(page, address, f"{lesson}.ipynb")
    notebook.wait_until_drawn()
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
