"""An assignment and a class for the tests of the grading: what students save, and what hostile ones would."""

import copy
import json
import os
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
        _cell(new_markdown_cell, "YOUR ANSWER HERE", "why", grade=True, solution=True, points=3),
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


@dataclass(frozen=True)
class Case:
    """One submission and what must come of it: the state, the points of the three tests, a word of the reason."""

    state: str
    points: tuple[float | None, float | None, float | None]
    word: str
    write: Callable[[Path, dict], None]


WAITS, DONE, PARTLY, NOT = "NEEDS A PERSON", "GRADED", "PARTLY GRADED", "NOT GRADED"
FULL, NONE = (2, 3, 2), (None, None, None)
CLASS: dict[str, Case] = {}


def submission(student: str, state: str, points: tuple, word: str = "", **sources: str):
    """Adds a student: right but for the cells of these names."""
    answers = RIGHT | sources
    CLASS[student] = Case(state, points, word, lambda folder, given: save(folder, edited(given, **answers)))


def changed(student: str, state: str, points: tuple, word: str = ""):
    """Adds a student whose right notebook is changed, or written elsewhere, by the decorated function."""

    def add(change: Callable) -> Callable:
        def write(folder: Path, given: dict) -> None:
            notebook = edited(given, **RIGHT)
            new = change(folder, notebook)  # a dict, the bytes of a file, or None where it wrote by itself
            if new is not None:
                save(folder, new)

        CLASS[student] = Case(state, points, word, write)
        return change

    return add


def save(folder: Path, notebook: dict | bytes, name: str = f"{NAME}.ipynb") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = notebook if isinstance(notebook, bytes) else json.dumps(notebook, indent=1).encode()
    (folder / name).write_bytes(data)


def named(notebook: dict, name: str) -> dict:
    (cell,) = [c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == name]
    return cell


def with_first(code: str) -> str:
    """The right answer to the first task after some code of another kind."""
    return f"{code}\n{RIGHT['double']}"


# Right, partly right and wrong.
submission("right", WAITS, FULL)
submission("right-otherwise", WAITS, FULL, double="double = lambda x: x * 2")
submission(
    "right-with-a-warning",
    WAITS,
    FULL,
    double="import warnings\ndef double(x):\n    warnings.warn('old')\n    return 2 * x",
)
submission(
    "right-with-libraries", WAITS, FULL, double=with_first("import numpy as np, unittest, random, decimal")
)
submission("right-and-talkative", WAITS, FULL, double=with_first("for i in range(3000): print(i)"))
submission(
    "right-with-a-lessons-parallel-map",  # which starts no process here, for a sandbox bears few
    WAITS,
    FULL,
    double="import os\nfrom gradients_in_depth.session import parallel_map\ndef double(x):\n"
    "    found = parallel_map(lambda factor: (factor * x, os.getpid()), (1, 2))\n"
    "    return found[2][0] if {process for _, process in found.values()} == {os.getpid()} else None",
)
submission("right-with-own-tests", WAITS, FULL, double=with_first("%matplotlib inline\n!true\ntotal = 3\n"))
submission(
    "right-with-given-file", WAITS, FULL, double=with_first("assert open('given.txt').read() == 'given'")
)
submission("no-answer", DONE, FULL, why="YOUR ANSWER HERE")
submission(
    "nothing-done",
    DONE,
    (0, 0, 0),
    double="def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
    slope="def slope(depth):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
    why="YOUR ANSWER HERE",
)
submission("partly-right", WAITS, (2, 0, 1), slope="def slope(depth):\n    return 1 if depth == 0 else 0.2")
submission("only-the-visible-test", WAITS, (0, 3, 2), double="def double(x):\n    return 4")
submission("partial-credit", WAITS, (2, 0, 1), slope="def slope(depth):\n    return 1.0")
submission(
    "wrong",
    WAITS,
    (0, 0, 0),
    double="def double(x):\n    return None",
    slope="def slope(depth):\n    return None",
)
submission("syntax-error", WAITS, (0, 3, 2), double="def double(x)\n    return 2 * x")
submission("crash-in-a-cell", WAITS, FULL, double=with_first("") + "\n1 / 0")
submission("odd <b>name & 'co'", WAITS, FULL)
submission("=HYPERLINK(1)", WAITS, FULL)
submission("ünï cödé", WAITS, FULL)
submission("-starts-with-a-dash", WAITS, FULL)


@changed("right-with-own-module", WAITS, FULL)
def _(folder, notebook):
    save(folder, b"def twice(x):\n    return 2 * x\n", "helper.py")
    return edited(notebook, double="from helper import twice as double")


@changed("own-random-module", WAITS, FULL)
def _(folder, notebook):
    for module in ("random", "json", "zmq", "ipykernel_launcher", "sitecustomize"):
        save(folder, b"raise RuntimeError('not the library')", f"{module}.py")
    return notebook


# Broken files.
@changed("empty-file", NOT, NONE, "is empty")
def _(folder, notebook):
    return b""


@changed("truncated", NOT, NONE, "not valid JSON")
def _(folder, notebook):
    return json.dumps(notebook).encode()[:-200]


@changed("merge-conflict", NOT, NONE, "unresolved merge")
def _(folder, notebook):
    return json.dumps(notebook, indent=1).replace('"cells"', '\n<<<<<<< HEAD\n"cells"', 1).encode()


@changed("not-utf8", NOT, NONE, "UTF-8")
def _(folder, notebook):
    return b'{"cells": "\xff\xfe"}'


@changed("json-but-no-notebook", NOT, NONE, "no notebook")
def _(folder, notebook):
    return b"[1, 2, 3]"


@changed("cells-are-no-list", NOT, NONE, "no list of cells")
def _(folder, notebook):
    return notebook | {"cells": {"a": 1}}


@changed("deep-json", NOT, NONE, "nested too deep")
def _(folder, notebook):
    return b"[" * 200_000


@changed("huge-file", NOT, NONE, "25 MB")
def _(folder, notebook):
    save(folder, b" " * (25 * 2**20))


@changed("byte-order-mark", WAITS, FULL, "byte order mark")
def _(folder, notebook):
    return b"\xef\xbb\xbf" + json.dumps(notebook).encode()


@changed("format-3", WAITS, FULL, "format 3")
def _(folder, notebook):
    return nbformat.writes(nbformat.convert(nbformat.reads(json.dumps(notebook), 4), 3), 3).encode()


@changed("format-5", NOT, NONE, "format 5")
def _(folder, notebook):
    return notebook | {"nbformat": 5}


@changed("format-4.9", WAITS, FULL, "newer than 4.5")
def _(folder, notebook):
    return notebook | {"nbformat_minor": 9}


@changed("cells-that-are-none", WAITS, FULL, "were left out")
def _(folder, notebook):
    notebook["cells"] += [3, {"cell_type": "video", "source": "", "metadata": {}}, {"cell_type": "code"}]
    return notebook


@changed("metadata-of-wrong-types", WAITS, FULL)
def _(folder, notebook):
    notebook["metadata"] = ["none"]
    notebook["cells"][0]["metadata"] = None
    notebook["cells"].append(
        {"cell_type": "code", "source": "1", "metadata": {"nbgrader": {"grade_id": ["x"]}}}
    )
    return notebook


@changed("old-schema", WAITS, FULL)
def _(folder, notebook):
    for cell in notebook["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"]["schema_version"] = 1
    return notebook


# Wrong places and names.
@changed("nothing-submitted", NOT, NONE, "nothing was submitted")
def _(folder, notebook):
    folder.parent.mkdir(parents=True)


@changed("no-notebook", NOT, NONE, "there is no slopes.ipynb")
def _(folder, notebook):
    save(folder, b"My homework", "homework.docx")


@changed("wrong-name", WAITS, FULL, "slopes (1).ipynb")
def _(folder, notebook):
    save(folder, notebook, "slopes (1).ipynb")


@changed("two-wrong-names", NOT, NONE, "cannot be told")
def _(folder, notebook):
    save(folder, notebook, "slopes (1).ipynb")
    save(folder, notebook, "slopes-final.ipynb")


@changed("a-copy-beside", WAITS, FULL, "slopes-Copy1.ipynb")
def _(folder, notebook):
    save(folder, edited(notebook, double="wrong"), "slopes-Copy1.ipynb")
    return notebook


@changed("beside-the-folder", WAITS, FULL, "beside the folder")
def _(folder, notebook):
    save(folder.parent, notebook)


@changed("one-folder-too-deep", NOT, NONE, "slopes/slopes.ipynb")
def _(folder, notebook):
    save(folder / NAME, notebook)


@changed("a-link", NOT, NONE, "is a link")
def _(folder, notebook):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.ipynb").symlink_to(folder.parents[1] / "right" / NAME / f"{NAME}.ipynb")


@changed("a-linked-folder", NOT, NONE, "link to another place")
def _(folder, notebook):
    folder.parent.mkdir(parents=True)
    folder.symlink_to(folder.parents[1] / "right" / NAME)


@changed("a-pipe", NOT, NONE, "is not a file")
def _(folder, notebook):
    folder.mkdir(parents=True)
    os.mkfifo(folder / f"{NAME}.ipynb")


@changed("a-linked-file-beside", WAITS, FULL, "is a link")
def _(folder, notebook):
    folder.mkdir(parents=True)
    (folder / "data.txt").symlink_to("/etc/passwd")
    return edited(notebook, double=with_first("import os\nassert not os.path.exists('data.txt')"))


@changed("another-notebook", NOT, NONE, "right notebook")
def _(folder, notebook):
    return nbformat.writes(new_notebook(cells=[new_code_cell("1 + 1")])).encode()


# Cells that nbgrader needs.
@changed("duplicated-test", WAITS, FULL, "test_double was there 2 times")
def _(folder, notebook):
    notebook["cells"].insert(3, copy.deepcopy(named(notebook, "test_double")))
    return notebook


@changed("duplicated-solution", WAITS, FULL, "double was there 2 times")
def _(folder, notebook):
    first = copy.deepcopy(named(notebook, "double"))
    first["source"] = "def double(x):\n    return 0"
    notebook["cells"].insert(1, first)
    return notebook


@changed("two-answers", WAITS, FULL, "2 different answers")
def _(folder, notebook):
    notebook["cells"].append(copy.deepcopy(named(notebook, "why")) | {"source": "Or for another reason."})
    return notebook


@changed("missing-tests", WAITS, FULL, "put back: test_double, test_slope, test_parts")
def _(folder, notebook):
    for name in ("test_double", "test_slope", "test_parts"):
        notebook["cells"].remove(named(notebook, name))
    return notebook


@changed("missing-solution", WAITS, (0, 3, 2), "put back: double")
def _(folder, notebook):
    notebook["cells"].remove(named(notebook, "double"))
    return notebook


@changed("missing-answer", WAITS, FULL, "answer cell why is missing")
def _(folder, notebook):
    notebook["cells"].remove(named(notebook, "why"))
    return notebook


@changed("altered-test", WAITS, (0, 3, 2), "test_double")
def _(folder, notebook):
    return edited(notebook, double="def double(x):\n    return 0", test_double="assert True")


@changed("altered-points", WAITS, (2, 0, 0), "test_double")
def _(folder, notebook):
    named(notebook, "test_double")["metadata"]["nbgrader"]["points"] = 100
    return edited(notebook, slope="")


@changed("altered-type", WAITS, FULL)
def _(folder, notebook):
    cell = named(notebook, "why")
    cell |= {"cell_type": "code", "outputs": [], "execution_count": None}
    named(notebook, "test_double")["cell_type"] = "raw"
    return notebook


@changed("claims-more-cells", WAITS, FULL, "does not have")
def _(folder, notebook):
    extra = copy.deepcopy(named(notebook, "test_double"))
    extra["metadata"]["nbgrader"] |= {"grade_id": "bonus", "points": 50}
    notebook["cells"].append(extra | {"source": "assert True"})
    return notebook


@changed("stripped-metadata", WAITS, FULL, "metadata of 6 cell(s)")
def _(folder, notebook):
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    return notebook


@changed("stripped-and-more-cells", WAITS, FULL, "metadata of")
def _(folder, notebook):
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    more = {"cell_type": "code", "source": "1 + 1", "metadata": {}, "outputs": [], "execution_count": None}
    notebook["cells"].insert(2, more)
    return notebook


@changed("another-order", WAITS, (0, 3, 2), "another order")
def _(folder, notebook):
    notebook["cells"].append(notebook["cells"].pop(1))
    return notebook


@changed("forged-outputs", WAITS, (0, 3, 2))
def _(folder, notebook):
    cell = named(notebook, "test_double")
    result = {
        "output_type": "execute_result",
        "data": {"text/plain": "2"},
        "metadata": {},
        "execution_count": 1,
    }
    cell["outputs"], cell["execution_count"] = [result], 1
    return edited(notebook, double="def double(x):\n    return 0")


# Hostile code. Where looking or reaching out must fail, the answer is right only if it did.
submission("endless-loop", WAITS, (0, 3, 2), "stopped after", double="while True:\n    pass")
submission(
    "endless-loop-in-a-test",
    PARTLY,
    (None, 3, 2),
    "did not come to a result",
    double="def double(x):\n    while True:\n        pass",
)
submission(
    "endless-and-deaf",
    WAITS,
    (0, 3, 2),
    "stopped after",
    double="import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass",
)
submission("exits", WAITS, (0, 3, 2), "kernel ended", double="import os\nos._exit(0)")
submission(
    "exits-in-a-test",
    PARTLY,
    (None, 3, 2),
    "kernel ended",
    double="import os\ndef double(x):\n    os._exit(0)",
)
submission("sys-exit", WAITS, (0, 3, 2), double="import sys\nsys.exit(0)")
submission("asks", WAITS, (0, 3, 2), double="n = input('?')\ndef double(x): return 2 * x")
submission("memory", WAITS, (0, 3, 2), double="x = bytearray(8 * 10**9)\ndef double(x): return 2 * x")
submission(
    "memory-in-pieces",
    WAITS,
    (0, 3, 2),
    "of memory",
    double="x = []\nwhile True:\n    x.append(bytearray(10**8))",
)
submission(
    "much-output",
    WAITS,
    (0, 3, 2),
    "MB of output",
    double="line = 'x' * 10**5\nfor i in range(5000):\n    print(line, flush=True)\ndef double(x): return 2 * x",
)
submission("one-large-output", WAITS, (0, 3, 2), double="print('x' * 500 * 10**6)\n1 / 0")
submission(
    "output-by-the-back-door",
    WAITS,
    (0, 3, 2),
    "Cell 2: it",
    double="import os\nwhile True:\n    os.write(1, b'x' * 10**6)",
)
submission("fork-bomb", WAITS, (0, 3, 2), double="import os\nwhile True:\n    os.fork()")
submission(
    "background",
    WAITS,
    FULL,
    "in the background",
    double=with_first("import subprocess\nsubprocess.Popen(['sleep', '98765'], start_new_session=True)"),
)
submission(
    "background-thread",
    WAITS,
    FULL,
    double=with_first(
        "import threading\nt = threading.Thread(target=lambda: [print('x') for _ in iter(int, 1)], daemon=True)\nt.start()"
    ),
)
submission(
    "network",
    WAITS,
    FULL,
    double="import socket\ntry:\n    socket.create_connection(('127.0.0.1', PORT), 2)\nexcept OSError:\n    double = lambda x: 2 * x",
)
submission(
    "looks-around",
    WAITS,
    FULL,
    double="import os\nif not any(os.path.exists(p) for p in PATHS):\n    double = lambda x: 2 * x",
)
submission(
    "reads-the-environment",
    WAITS,
    FULL,
    double="import os\ntext = str(os.environ)\ntry:\n    text += open('/proc/1/environ').read()\nexcept OSError:\n    pass\nif 'grader-secret' not in text:\n    double = lambda x: 2 * x",
)
submission(
    "deletes",
    WAITS,
    FULL,
    double=with_first(
        "import shutil\nfor p in [*PATHS, '/work', '/tmp', '/ipc', '/files']:\n    shutil.rmtree(p, ignore_errors=True)"
    ),
)
submission(
    "fills-the-disk",
    WAITS,
    FULL,
    double=with_first(
        "written = 0\ntry:\n    for i in range(100):\n        written += open(f'f{i}', 'wb').write(bytes(10**7))\nexcept OSError:\n    pass\nassert written < 5 * 10**8"
    ),
)
submission(
    "one-huge-file",
    WAITS,
    FULL,
    double=with_first(
        "try:\n    with open('f', 'wb') as f:\n        for i in range(200): f.write(bytes(10**6))\n    1 / 0\nexcept OSError:\n    pass"
    ),
)
submission(
    "kills",
    WAITS,
    FULL,
    double=with_first(
        "import os, signal\nfor p in range(1, 3):\n    try:\n        if p != os.getpid(): os.kill(p, signal.SIGKILL)\n    except OSError:\n        pass"
    ),
)
submission(
    "replaces-a-builtin",
    NOT,
    NONE,
    "replaced abs",
    double=with_first("import builtins\nbuiltins.abs = lambda x: 0"),
)
submission(
    "replaces-a-library",
    NOT,
    NONE,
    "replaced numpy.allclose",
    double=with_first("import numpy\nnumpy.allclose = lambda *a: True"),
)
submission(
    "removes-assertions",
    NOT,
    NONE,
    "ast_transformers",
    double="import ast\nclass No(ast.NodeTransformer):\n    def visit_Assert(self, node):\n        return ast.Pass()\nget_ipython().ast_transformers.append(No())",
)
submission(
    "swallows-errors",
    NOT,
    NONE,
    "set_custom_exc",
    double="get_ipython().set_custom_exc((Exception,), lambda *a, **k: None)",
)
submission(
    "shell-replaced",
    NOT,
    NONE,
    "",
    double="shell = get_ipython()\nold = shell.run_cell\ndef run_cell(source, *a, **k):\n    return old('pass', *a, **k)\nshell.run_cell = shell.run_cell_async = run_cell",
)
submission(
    "displays-points",
    WAITS,
    (0, 0, 0),
    double="def double(x):\n    get_ipython().displayhook(2)\n    return 0",
    slope="",
)
submission(
    "writes-markup",
    WAITS,
    FULL,
    double=with_first(
        "from IPython.display import HTML, display\ndisplay(HTML('<script>alert(1)</script>'))\nprint('<script>alert(2)</script>')"
    ),
    why="<script>alert(3)</script>",
)
submission(
    "spreads-hidden-tests",
    WAITS,
    FULL,
    double=with_first("get_ipython().events.register('pre_run_cell', lambda info: print(info.raw_cell))"),
    slope=RIGHT["slope"] + "\nprint(In)",
)


def write_class(folder: Path, given: dict, port: int, paths: list[str]) -> None:
    """Writes every submission below `folder`; `port` and `paths` are what hostile code tries to reach."""
    first = edited(given, double=RIGHT["double"])
    setting = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    for student, case in CLASS.items():
        notebook = copy.deepcopy(first)
        if student in ("network", "looks-around", "deletes"):
            notebook["cells"].insert(
                0, setting | {"source": f"PORT, PATHS = {port}, {paths!r}", "id": "setting"}
            )
        case.write(folder / student / NAME, notebook)
