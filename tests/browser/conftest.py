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
    # Tall, so that JupyterLab, which draws only the cells in sight, draws many of them.
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    yield page
    page.close()
