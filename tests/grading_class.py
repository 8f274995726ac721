"""An assignment and a class for the tests of the grading: what students save, and what hostile ones would."""

import copy
import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NAME = "slopes"
SECRET = "the_hidden_value_4711"


def _cell(kind, source: str, name: str, **about) -> NotebookNode:
    about = {"grade": False, "solution": False, "locked": False, "task": False, **about}
    return kind(source, metadata={"nbgrader": {"grade_id": name, "schema_version": 3, **about}})


def source() -> NotebookNode:
    """The instructor's notebook: two tasks with hidden tests, one partial credit, one answer to be read."""
    cells = [
        new_markdown_cell("# Slopes"),
        _cell(
            new_code_cell,
            "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
            "double",
            solution=True,
        ),
        _cell(
            new_code_cell,
            "assert double(2) == 4\n### BEGIN HIDDEN TESTS\n"
            f"{SECRET} = 3\nassert double({SECRET}) == 6\n### END HIDDEN TESTS",
            "test_double",
            grade=True,
            locked=True,
            points=2,
        ),
        new_markdown_cell("## The second task"),
        _cell(
            new_code_cell,
            "def slope(depth):\n    ### BEGIN SOLUTION\n    return 0.25**depth\n    ### END SOLUTION",
            "slope",
            solution=True,
        ),
        _cell(
            new_code_cell,
            "assert slope(1) == 0.25\n### BEGIN HIDDEN TESTS\nassert slope(10) < 1e-6\n### END HIDDEN TESTS",
            "test_slope",
            grade=True,
            locked=True,
            points=3,
        ),
        _cell(
            new_code_cell,
            "sum([slope(0) == 1, slope(2) == 0.0625])",
            "test_parts",
            grade=True,
            locked=True,
            points=2,
        ),
        _cell(new_markdown_cell, "Your answer here", "why", grade=True, solution=True, points=3),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def write_course(folder: Path) -> Path:
    """The folder of the assignments, with one in it."""
    (folder / "source" / NAME).mkdir(parents=True)
    nbformat.write(source(), folder / "source" / NAME / f"{NAME}.ipynb")
    (folder / "source" / NAME / "given.txt").write_text("given")
    return folder / "source"


def released(path: Path) -> dict:
    """The notebook as students get it."""
    return json.loads(path.read_text())


def edited(notebook: dict, **sources: str) -> dict:
    """A copy in which the cells of these names have these sources."""
    notebook = copy.deepcopy(notebook)
    for name, text in sources.items():
        (cell,) = [c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == name]
        cell["source"] = text.splitlines(keepends=True)
    return notebook


RIGHT = {
    "double": "def double(x):\n    return x + x",
    "slope": "def slope(depth):\n    return 0.25**depth",
    "why": "Because each layer multiplies by at most a quarter.",
}
