"""An assignment and a class for the tests of the grading: what students save, and what hostile ones would."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NAME = "slopes"
SECRET = "the_hidden_value_4711"


def _cell(kind, source: str, name: str, **about) -> NotebookNode:
    about = {"grade": False, "solution": False, "locked": False, "task": False, **about}
    return kind(source, metadata={"nbgrader": {"grade_id": name, "schema_version": 3, **about}})


def instructor_notebook() -> NotebookNode:
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
        _cell(new_markdown_cell, "YOUR ANSWER HERE", "why", grade=True, solution=True, points=3),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def write_course(folder: Path) -> Path:
    """The folder of the assignments, with one in it."""
    (folder / "source" / NAME).mkdir(parents=True)
    nbformat.write(instructor_notebook(), folder / "source" / NAME / f"{NAME}.ipynb")
    (folder / "source" / NAME / "given.txt").write_text("given", encoding="utf-8")
    return folder / "source"


def read(path: Path) -> dict:
    """The notebook as students get it."""
    return json.loads(path.read_text(encoding="utf-8"))


def edit(notebook: dict, **sources: str) -> dict:
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


@dataclass(frozen=True)
class Case:
    """One submission, and what must come of it: state, points of the three tests, a word of the reason."""

    state: str
    points: tuple[float | None, float | None, float | None]
    word: str
    write: Callable[[Path, dict], None]


WAITS, DONE, PARTLY, NOT = "NEEDS A PERSON", "GRADED", "PARTLY GRADED", "NOT GRADED"
FULL, NONE = (2, 3, 2), (None, None, None)


class Cases(dict[str, Case]):
    """Submissions by the name of the student."""

    def add(self, student: str, state: str, points: tuple, word: str = "", **sources: str) -> None:
        """Adds a student: right but for the cells of these names."""
        answers = RIGHT | sources
        self[student] = Case(
            state, points, word, lambda folder, released: save(folder, edit(released, **answers))
        )

    def changed(self, student: str, state: str, points: tuple, word: str = "") -> Callable:
        """Adds a student whose right notebook is changed, or written elsewhere, by the decorated function."""

        def add(change: Callable) -> Callable:
            def write(folder: Path, released: dict) -> None:
                new = change(folder, edit(released, **RIGHT))
                if new is not None:  # a dict, or the bytes of a file; None where it wrote by itself
                    save(folder, new)

            self[student] = Case(state, points, word, write)
            return change

        return add


def save(folder: Path, notebook: dict | bytes, name: str = f"{NAME}.ipynb") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = notebook if isinstance(notebook, bytes) else json.dumps(notebook, indent=1).encode()
    (folder / name).write_bytes(data)


def cell_called(notebook: dict, name: str) -> dict:
    (cell,) = [c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == name]
    return cell


def after(code: str) -> str:
    """The right answer to the first task after some code of another kind."""
    return f"{code}\n{RIGHT['double']}"


def write_class(folder: Path, cases: dict[str, Case], released: dict, port: int, paths: list[str]) -> None:
    """Writes every submission below `folder`; `port` and `paths` are what hostile code tries to reach."""
    first = edit(released, double=RIGHT["double"])
    setting = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    for student, case in cases.items():
        notebook = copy.deepcopy(first)
        if student in ("network", "looks-around", "deletes"):
            notebook["cells"].insert(
                0, setting | {"source": f"PORT, PATHS = {port}, {paths!r}", "id": "setting"}
            )
        case.write(folder / student / NAME, notebook)


# Right, partly right and wrong.
ANSWERS = Cases()

ANSWERS.add("right", WAITS, FULL)
ANSWERS.add("right-otherwise", WAITS, FULL, double="double = lambda x: x * 2")
ANSWERS.add(
    "right-with-a-warning",
    WAITS,
    FULL,
    double="import warnings\ndef double(x):\n    warnings.warn('old')\n    return 2 * x",
)
ANSWERS.add(
    "right-with-libraries", WAITS, FULL, double=after("import numpy as np, unittest, random, decimal")
)
ANSWERS.add("right-and-talkative", WAITS, FULL, double=after("for i in range(3000): print(i)"))
ANSWERS.add(
    "right-with-a-lessons-parallel-map",  # which starts no process here, for a sandbox bears few
    WAITS,
    FULL,
    double="import os\nfrom gradients_in_depth.session import parallel_map\ndef double(x):\n"
    "    found = parallel_map(lambda factor: (factor * x, os.getpid()), (1, 2))\n"
    "    return found[2][0] if {process for _, process in found.values()} == {os.getpid()} else None",
)
ANSWERS.add("right-with-own-tests", WAITS, FULL, double=after("%matplotlib inline\n!true\ntotal = 3\n"))
ANSWERS.add("right-with-given-file", WAITS, FULL, double=after("assert open('given.txt').read() == 'given'"))
ANSWERS.add("no-answer", DONE, FULL, why="YOUR ANSWER HERE")
ANSWERS.add(
    "nothing-done",
    DONE,
    (0, 0, 0),
    double="def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
    slope="def slope(depth):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
    why="YOUR ANSWER HERE",
)
ANSWERS.add("partly-right", WAITS, (2, 0, 1), slope="def slope(depth):\n    return 1 if depth == 0 else 0.2")
ANSWERS.add("only-the-visible-test", WAITS, (0, 3, 2), double="def double(x):\n    return 4")
ANSWERS.add("partial-credit", WAITS, (2, 0, 1), slope="def slope(depth):\n    return 1.0")
ANSWERS.add(
    "wrong",
    WAITS,
    (0, 0, 0),
    double="def double(x):\n    return None",
    slope="def slope(depth):\n    return None",
)
ANSWERS.add("syntax-error", WAITS, (0, 3, 2), double="def double(x)\n    return 2 * x")
ANSWERS.add("crash-in-a-cell", WAITS, FULL, double=after("") + "\n1 / 0")
ANSWERS.add("odd <b>name & 'co'", WAITS, FULL)
ANSWERS.add("=HYPERLINK(1)", WAITS, FULL)
ANSWERS.add("ünï cödé", WAITS, FULL)
ANSWERS.add("-starts-with-a-dash", WAITS, FULL)


@ANSWERS.changed("right-with-own-module", WAITS, FULL)
def _(folder, notebook):
    save(folder, b"def twice(x):\n    return 2 * x\n", "helper.py")
    return edit(notebook, double="from helper import twice as double")


@ANSWERS.changed("own-random-module", WAITS, FULL)
def _(folder, notebook):
    for module in ("random", "json", "zmq", "ipykernel_launcher", "sitecustomize"):
        save(folder, b"raise RuntimeError('not the library')", f"{module}.py")
    return notebook
