"""JupyterLab as `make lab` opens it, and the first explorer of one lesson: smooth."""

import pytest

from tests.browser.lab import Notebook, explorers

pytestmark = pytest.mark.browser

LESSON = "01_chain_rule_intuition.ipynb"


def test_nothing_lies_over_the_lesson_and_no_menu_is_the_staffs(page, address):
    """As the Makefile's HIDDEN says: JupyterLab's question about news covers the first explorer."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    Notebook(page, address, LESSON)
    page.wait_for_timeout(3000)  # the question comes some time after the notebook
    assert page.locator(".Toastify__toast").count() == 0
    assert [url for url in asked if "/lab/api/news" in url or "/lab/api/update" in url] == []
    assert page.get_by_role("menuitem", name="Kernel").count() == 1
    assert page.get_by_role("menuitem", name="Nbgrader").count() == 0


def test_a_slow_drag_shows_every_value_and_a_fast_one_ends_at_the_last(page, address):
    Notebook(page, address, LESSON).run_all()
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
