"""Every lesson in JupyterLab: it opens and runs whole; its explorers have names, move, and are legible."""

import re

import pytest

from tests.browser.lab import FAINT_TEXT, LESSONS, MUTE_PICTURES, THEMES, Notebook, explorers

pytestmark = pytest.mark.browser

CONTROLS = ("slider", "spinbutton", "combobox", "button")


def names(cell) -> list[tuple[str, str]]:
    """(role, accessible name) of every control of a cell's outputs, as a screen reader has them."""
    snapshot = cell.locator(".jp-Cell-outputArea").aria_snapshot()
    return re.findall(rf'- (?:\')?({"|".join(CONTROLS)})\b(?: "([^"]*)")?', snapshot)


def check_lesson(page, address, lesson):
    notebook = Notebook(page, address, f"{lesson}.ipynb")
    assert notebook.run_all() == []
    notebook.wait_until_drawn()
    assert page.locator("body").evaluate(MUTE_PICTURES) == []
    moved = [check_explorer(page, cell) for cell in explorers(page)]
    assert moved
    for theme in THEMES:
        notebook.change_theme(theme)
        for cell in explorers(page):
            assert cell.locator(".gid-picture svg:visible").count() == 1
            assert cell.evaluate(FAINT_TEXT) == []
    assert notebook.problems == []


def check_explorer(page, cell):
    """Its controls have names; every slider moves by key, changes picture and words, and nothing jumps."""
    found = names(cell)
    assert all(name for _, name in found), found
    sliders = [name for role, name in found if role == "slider"]
    assert len(sliders) == cell.locator(".gid-slider").count()
    assert len(set(sliders)) == len(sliders)
    picture = cell.locator(".gid-picture")
    height = cell.evaluate("e => e.offsetHeight")
    first = picture.get_attribute("aria-label")
    for name in sliders:
        before = picture.inner_html(), picture.get_attribute("aria-label")
        slider = cell.get_by_role("slider", name=name, exact=True)
        slider.focus()
        value = slider.get_attribute("aria-valuetext")
        page.keyboard.press("ArrowRight")
        if slider.get_attribute("aria-valuetext") == value:  # it stood at its right end
            page.keyboard.press("ArrowLeft")
        page.wait_for_function(
            "([e, words, drawing]) => e.isConnected && e.querySelector('.gid-picture').innerHTML !== drawing"
            " && e.querySelector('.gid-picture').getAttribute('aria-label') !== words",
            arg=[cell.element_handle(), before[1], before[0]],
            timeout=20_000,
        )
        assert picture.get_attribute("aria-label") in cell.inner_text()  # the sentence is there to read
    cell.get_by_role("button", name="Reset").click()
    page.wait_for_function(
        "([e, words]) => e.querySelector('.gid-picture').getAttribute('aria-label') === words",
        arg=[cell.element_handle(), first],
        timeout=20_000,
    )
    assert cell.evaluate("e => e.offsetHeight") == height


# In two classes, because pytest-xdist keeps a class together, and two workers then share the lessons.


@pytest.mark.parametrize("lesson", LESSONS[::2])
class TestEvenLessons:
    def test_lesson_runs_and_its_explorers_move(self, page, address, lesson):
        check_lesson(page, address, lesson)


@pytest.mark.parametrize("lesson", LESSONS[1::2])
class TestOddLessons:
    def test_lesson_runs_and_its_explorers_move(self, page, address, lesson):
        check_lesson(page, address, lesson)
