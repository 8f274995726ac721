"""Every lesson in a real JupyterLab: it opens, runs whole, its sliders have names and move, in any theme."""

import re
import shutil
from pathlib import Path

import pytest

from tests.browser.lab import Notebook, chromium, find_chromium, jupyterlab

pytestmark = pytest.mark.browser

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
CONTROLS = ("slider", "spinbutton", "combobox", "button")

# Text whose colour is too close to what lies behind it, as (text, contrast); WCAG 2.2, 1.4.3.
FAINT_TEXT = """() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = channels(color).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0.5) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const faint = [];
  const outputs = '.jp-OutputArea-output, .jp-OutputArea-output *';
  for (const element of document.querySelectorAll(outputs)) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || !element.getClientRects().length || element.closest('style')) continue;
    const style = getComputedStyle(element);
    const drawn = element instanceof SVGElement ? style.fill : style.color;
    const [high, low] = [luminance(drawn), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.push([text.slice(0, 40), contrast]);
  }
  return faint;
}"""
# Pictures without words: our own must say what they show, and no bare <img> may stand for them.
MUTE_PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea-output :is(img, svg, .gid-picture)')]
  .filter(e => e.getClientRects().length && !e.alt)
  .filter(e => !e.closest('[role="img"][aria-label]:not([aria-label=""])'))
  .filter(e => !e.querySelector('img[alt]:not([alt=""])'))
  .map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with jupyterlab(folder / "notebooks", folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium(find_chromium()) as browser:
        yield browser


@pytest.fixture
def page(browser):
    # Tall, so that JupyterLab, which draws only the cells in sight, draws many of them.
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    yield page
    page.close()


def cells(page, selector=".jp-CodeCell"):
    """All cells, each scrolled into view: JupyterLab attaches a cell only then."""
    count = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length")
    for index in range(count):
        page.evaluate("i => window.jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')", index)
        cell = page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')
        cell.wait_for()
        if cell.locator(f"xpath=self::*[contains(@class, '{selector[1:]}')]").count():
            yield cell


def names(cell) -> list[tuple[str, str]]:
    """(role, accessible name) of every control of a cell's outputs, as a screen reader has them."""
    snapshot = cell.locator(".jp-Cell-outputArea").aria_snapshot()
    return re.findall(rf'- (?:\')?({"|".join(CONTROLS)})\b(?: "([^"]*)")?', snapshot)


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_runs_and_its_explorers_move(page, address, lesson):
    notebook = Notebook(page, address, f"{lesson}.ipynb")
    assert notebook.run_all() == []
    explorers = 0
    for cell in cells(page):
        assert page.evaluate(MUTE_PICTURES) == []
        if cell.locator(".gid-slider").count():
            explorers += 1
            check_explorer(page, cell)
    assert explorers >= 1
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


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("lesson", LESSONS)
def test_stored_lesson_is_legible_in_both_themes_and_untrusted(page, address, lesson, theme):
    # A copy that nobody trusted: JupyterLab strips the SVG, and the PNG inside must show instead.
    Notebook(page, address, f"{lesson}.ipynb", theme)
    pictures = 0
    for cell in cells(page):
        assert page.evaluate(FAINT_TEXT) == []
        assert page.evaluate(MUTE_PICTURES) == []
        for picture in cell.locator(".gid-picture").all():
            pictures += 1
            shown = picture.locator("img:visible, svg:visible")
            assert shown.count() == 1
            assert shown.bounding_box()["height"] > 100
            leftovers = picture.locator("> div").bounding_box()["height"]
            assert leftovers < 5 or picture.locator("svg").count(), "words of the stripped SVG show"
    assert pictures >= 1


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_running_explorer_is_legible(page, address, theme):
    notebook = Notebook(page, address, f"{LESSONS[0]}.ipynb", theme)
    assert notebook.run_all() == []
    for cell in cells(page):
        assert page.evaluate(FAINT_TEXT) == []
        if cell.locator(".gid-slider").count():
            assert cell.locator(".gid-picture svg:visible").count() == 1


def test_a_slow_drag_shows_every_value_and_a_fast_one_ends_at_the_last(page, address):
    Notebook(page, address, f"{LESSONS[0]}.ipynb").run_all()
    cell = next(cell for cell in cells(page) if cell.locator(".gid-slider").count())
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
