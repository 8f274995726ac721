"""Every stored lesson, opened and not run: legible in both themes, also where nobody trusts it."""

import pytest

from tests.browser.lab import FAINT_TEXT, LESSONS, MUTE_PICTURES, Notebook, cells

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("lesson", LESSONS)
def test_stored_lesson_is_legible_in_both_themes_and_untrusted(page, address, lesson, theme):
    # A copy that nobody trusted: JupyterLab strips the SVG, and the PNG inside must show instead.
    Notebook(page, address, f"{lesson}.ipynb", theme)
    pictures = 0
    for cell in cells(page):
        assert cell.evaluate(FAINT_TEXT) == []
        assert cell.evaluate(MUTE_PICTURES) == []
        for picture in cell.locator(".gid-picture").all():
            pictures += 1
            shown = picture.locator("img:visible, svg:visible")
            assert shown.count() == 1
            assert shown.bounding_box()["height"] > 100
            leftovers = picture.locator("> div").bounding_box()["height"]
            assert leftovers < 5 or picture.locator("svg").count(), "words of the stripped SVG show"
    assert pictures >= 1
    whole = page.locator("body")  # once more, for what JupyterLab may have drawn late
    assert whole.evaluate(FAINT_TEXT) == whole.evaluate(MUTE_PICTURES) == []
