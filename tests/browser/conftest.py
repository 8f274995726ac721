"""One JupyterLab, with copies of all notebooks, and one Chromium for each process of the tests."""

import shutil

import pytest

from tests.browser.lab import NOTEBOOKS, chromium, find_chromium, jupyterlab


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """A JupyterLab with copies of the notebooks, and nothing else of the course's folder."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "exercises"):
        ignored = shutil.ignore_patterns(".ipynb_checkpoints", "sources")
        shutil.copytree(NOTEBOOKS.parent / name, folder / "course" / name, ignore=ignored)
    with jupyterlab(folder / "course", folder) as address:
        yield address


@pytest.fixture(scope="session")
def pages():
    """Where pages come from; they share what JupyterLab's own page has loaded."""
    with chromium(find_chromium()) as browser:
        # Tall, so that JupyterLab, which draws only the cells in sight, draws many of them.
        yield browser.new_context(viewport={"width": 1280, "height": 1600})


@pytest.fixture
def page(pages):
    """A page whose kernel ends with it: the next one opens a notebook as a learner does, with a new kernel.

    In a warm kernel, an error comes before JupyterLab has sent the last cell, which then still runs.
    And the kernel of a lesson holds memory and processes.
    """
    page = pages.new_page()
    yield page
    page.evaluate("() => window.jupyterapp?.shell.currentWidget?.sessionContext.shutdown()")
    page.close()
