"""One short lesson in JupyterLab, as `make lab` opens it: it runs whole, and its first explorer is smooth."""

import pytest

from tests.browser.lab import (
    FAINT_TEXT,
    MUTE_PICTURES,
    NOTEBOOKS,
    THEMES,
    Notebook,
    explorer_cells,
    explorers,
)

pytestmark = pytest.mark.browser

LESSON = "01_chain_rule_intuition.ipynb"  # the one that runs in the least time


def test_it_runs_from_the_first_cell_to_the_last_and_nothing_lies_over_it(page, address):
    """As the Makefile's HIDDEN says: JupyterLab's question about news would cover the first explorer."""
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    notebook = Notebook(page, address, f"notebooks/{LESSON}")
    assert notebook.run_all() == []
    notebook.wait_until_drawn()
    for theme in THEMES:
        notebook.change_theme(theme)
        assert page.locator("body").evaluate(MUTE_PICTURES) == []
        for cell in explorers(page):
            assert cell.evaluate(FAINT_TEXT) == []
    # The question would have come by now, some time after the notebook.
    assert page.locator(".Toastify__toast").count() == 0
    assert [url for url in requests if "/lab/api/news" in url or "/lab/api/update" in url] == []
    assert page.get_by_role("menuitem", name="Kernel").count() == 1
    assert page.get_by_role("menuitem", name="Nbgrader").count() == 0  # the menu is for staff
    assert notebook.problems == []


def test_a_slow_drag_shows_every_value_and_a_fast_one_ends_at_the_last(page, address):
    Notebook(page, address, f"notebooks/{LESSON}").run(explorer_cells(NOTEBOOKS / LESSON))
    cell = next(explorers(page))
    slider, picture = cell.get_by_role("slider").first, cell.locator(".gid-picture")
    slider.focus()
    seen = [picture.get_attribute("aria-label")]
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
        seen.append(wait_for_change(page, picture, seen[-1]))
    assert len(set(seen)) == 6
    page.keyboard.press("End")
    wait_for_change(page, picture, seen[-1])
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    last = slider.get_attribute("aria-valuetext")
    page.wait_for_timeout(4000)
    words = picture.get_attribute("aria-label")
    assert last in words
    page.wait_for_timeout(1500)
    assert picture.get_attribute("aria-label") == words  # no backlog


def wait_for_change(page, picture, words: str) -> str:
    """The words of the picture once they are no longer these."""
    for _ in range(200):
        now = picture.get_attribute("aria-label")
        if now != words:
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the picture did not change within 10 s")
