"""Every lesson in JupyterLab: legible as it is stored; its explorers have names, move, and are legible."""

import re

import pytest

from tests.browser.lab import (
    FAINT_TEXT,
    LESSONS,
    MUTE_PICTURES,
    NOTEBOOKS,
    THEMES,
    Notebook,
    explorer_cells,
    explorers,
)

pytestmark = pytest.mark.browser

CONTROLS = ("slider", "spinbutton", "combobox", "button")
TAGGED = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.getMetadata('tags')?.includes('explorer')).length"""
# Of each stored picture: how many forms of it are in sight, the height of one, and that of words beside it.
STORED_PICTURES = """() => {
  const height = element => element?.getBoundingClientRect().height ?? 0;
  return [...document.querySelectorAll('.jp-OutputArea-output .gid-picture')].map(picture => {
    const shown = [...picture.querySelectorAll('img, svg')].filter(e => e.getClientRects().length);
    const words = picture.querySelector('svg') ? null : picture.querySelector(':scope > div');
    return [shown.length, height(shown[0]), height(words)];
  });
}"""


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_is_legible_in_both_themes_and_its_explorers_move(page, address, lesson):
    """First as it is stored, in a copy that nobody trusted; then only what its explorers need is run."""
    notebook = Notebook(page, address, f"notebooks/{lesson}.ipynb")
    notebook.wait_until_drawn()
    for theme in THEMES:
        notebook.change_theme(theme)
        check_stored(page)
    assert notebook.run(explorer_cells(NOTEBOOKS / f"{lesson}.ipynb")) == []
    notebook.wait_until_drawn()
    for theme in THEMES:
        notebook.change_theme(theme)
        cells = list(explorers(page))
        assert len(cells) == page.evaluate(TAGGED) > 0
        for cell in cells:
            check_explorer(page, cell)
    assert notebook.problems == []


def check_stored(page):
    """JupyterLab strips the SVG from what nobody trusted, and the PNG inside must show instead."""
    assert page.locator("body").evaluate(FAINT_TEXT) == []
    assert page.locator("body").evaluate(MUTE_PICTURES) == []
    pictures = page.evaluate(STORED_PICTURES)
    assert pictures
    for shown, height, words in pictures:
        assert shown == 1 and height > 100
        assert words < 5, "words of the stripped SVG show"


def check_explorer(page, cell):
    """Its controls have names; every slider moves by key, changes picture and words, and nothing jumps."""
    cell.scroll_into_view_if_needed()
    assert cell.locator(".gid-picture svg:visible").count() == 1
    controls = control_names(cell)
    assert all(name for _, name in controls), controls
    sliders = [name for role, name in controls if role == "slider"]
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
    assert cell.evaluate(FAINT_TEXT) == []
    assert cell.evaluate(MUTE_PICTURES) == []
    cell.get_by_role("button", name="Reset").click()
    page.wait_for_function(
        "([e, words]) => e.querySelector('.gid-picture').getAttribute('aria-label') === words",
        arg=[cell.element_handle(), first],
        timeout=20_000,
    )
    assert cell.evaluate("e => e.offsetHeight") == height


def control_names(cell) -> list[tuple[str, str]]:
    """(role, accessible name) of every control of a cell's outputs, as a screen reader has them."""
    snapshot = cell.locator(".jp-Cell-outputArea").aria_snapshot()
    return re.findall(rf'- (?:\')?({"|".join(CONTROLS)})\b(?: "([^"]*)")?', snapshot)
