"""Which cells of a lesson the browser runs."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.browser.lab import explorer_cells

LESSON = [
    "import math, explorers",
    "A lesson. depths = prose",
    "def network(depth):\n    local = [width for width in WIDTHS]\n    return lambda: (local, depth)",
    "WIDTHS = [1]",
    "WIDTHS = [network(width) for width in [2]]",
    "def training():\n    global depth\n    depth = WIDTHS",
    "networks = {}\nfor name in WIDTHS:\n    networks[name] = network(name)",
    "depth = name = 3",
    "explorers.chain(networks)",
    "explorers = None",
]


@pytest.fixture
def lesson(tmp_path):
    kinds = {1: new_markdown_cell}
    cells = [kinds.get(number, new_code_cell)(source) for number, source in enumerate(LESSON)]
    cells[8].metadata["tags"] = ["explorer"]
    nbformat.write(new_notebook(cells=cells), tmp_path / "lesson.ipynb")
    return tmp_path / "lesson.ipynb"


def test_an_explorer_needs_what_defines_its_names_also_those_within_functions(lesson):
    """And no earlier value of a name, nothing below, and no cell in which a name is only local."""
    assert explorer_cells(lesson) == [0, 2, 4, 6, 8]
