"""One JupyterLab with copies of all lessons and one Chromium for each module of tests."""

import shutil

import pytest

from tests.browser.lab import NOTEBOOKS, chromium, find_chromium, jupyterlab


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
    """A page whose kernel ends with it: the next one opens a notebook as a learner does, with a new kernel.

    In one that is warm an exercise's first error comes before JupyterLab has sent the last cell, and that
    still runs; and a lesson's kernel keeps its memory, and processes.
    """
    # Tall, so that JupyterLab, which draws only the cells in sight, draws many of them.
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    yield page
    page.evaluate("() => window.jupyterapp?.shell.currentWidget?.sessionContext.shutdown()")
    page.close()
