"""Broken files, wrong places and damaged cells: what a class hands in without any bad intention."""

import copy
import json
import os

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from tests.grading_class import FULL, NAME, NONE, NOT, WAITS, Cases, after, cell_called, edit, save

FILES = Cases()


# Broken files.
@FILES.changed("empty-file", NOT, NONE, "is empty")
def _(folder, notebook):
    return b""


@FILES.changed("truncated", NOT, NONE, "not valid JSON")
def _(folder, notebook):
    return json.dumps(notebook).encode()[:-200]


@FILES.changed("merge-conflict", NOT, NONE, "unresolved merge")
def _(folder, notebook):
    return json.dumps(notebook, indent=1).replace('"cells"', '\n<<<<<<< HEAD\n"cells"', 1).encode()


@FILES.changed("not-utf8", NOT, NONE, "UTF-8")
def _(folder, notebook):
    return b'{"cells": "\xff\xfe"}'


@FILES.changed("json-but-no-notebook", NOT, NONE, "no notebook")
def _(folder, notebook):
    return b"[1, 2, 3]"


@FILES.changed("cells-are-no-list", NOT, NONE, "no list of cells")
def _(folder, notebook):
    return notebook | {"cells": {"a": 1}}


@FILES.changed("deep-json", NOT, NONE, "nested too deep")
def _(folder, notebook):
    return b"[" * 200_000


@FILES.changed("huge-file", NOT, NONE, "25 MB")
def _(folder, notebook):
    save(folder, b" " * (25 * 2**20))


@FILES.changed("byte-order-mark", WAITS, FULL, "byte order mark")
def _(folder, notebook):
    return b"\xef\xbb\xbf" + json.dumps(notebook).encode()


@FILES.changed("format-3", WAITS, FULL, "format 3")
def _(folder, notebook):
    return nbformat.writes(nbformat.convert(nbformat.reads(json.dumps(notebook), 4), 3), 3).encode()


@FILES.changed("format-5", NOT, NONE, "format 5")
def _(folder, notebook):
    return notebook | {"nbformat": 5}


@FILES.changed("format-4.9", WAITS, FULL, "newer than 4.5")
def _(folder, notebook):
    return notebook | {"nbformat_minor": 9}


@FILES.changed("cells-that-are-none", WAITS, FULL, "were left out")
def _(folder, notebook):
    notebook["cells"] += [3, {"cell_type": "video", "source": "", "metadata": {}}, {"cell_type": "code"}]
    return notebook


@FILES.changed("metadata-of-wrong-types", WAITS, FULL)
def _(folder, notebook):
    notebook["metadata"] = ["none"]
    notebook["cells"][0]["metadata"] = None
    notebook["cells"].append(
        {"cell_type": "code", "source": "1", "metadata": {"nbgrader": {"grade_id": ["x"]}}}
    )
    return notebook


@FILES.changed("old-schema", WAITS, FULL)
def _(folder, notebook):
    for cell in notebook["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"]["schema_version"] = 1
    return notebook


# Wrong places and names.
@FILES.changed("nothing-submitted", NOT, NONE, "nothing was submitted")
def _(folder, notebook):
    folder.parent.mkdir(parents=True)


@FILES.changed("no-notebook", NOT, NONE, "there is no slopes.ipynb")
def _(folder, notebook):
    save(folder, b"My homework", "homework.docx")


@FILES.changed("wrong-name", WAITS, FULL, "slopes (1).ipynb")
def _(folder, notebook):
    save(folder, notebook, "slopes (1).ipynb")


@FILES.changed("two-wrong-names", NOT, NONE, "cannot be told")
def _(folder, notebook):
    save(folder, notebook, "slopes (1).ipynb")
    save(folder, notebook, "slopes-final.ipynb")


@FILES.changed("a-copy-beside", WAITS, FULL, "slopes-Copy1.ipynb")
def _(folder, notebook):
    save(folder, edit(notebook, double="wrong"), "slopes-Copy1.ipynb")
    return notebook


@FILES.changed("beside-the-folder", WAITS, FULL, "beside the folder")
def _(folder, notebook):
    save(folder.parent, notebook)


@FILES.changed("one-folder-too-deep", NOT, NONE, "slopes/slopes.ipynb")
def _(folder, notebook):
    save(folder / NAME, notebook)


@FILES.changed("a-link", NOT, NONE, "is a link")
def _(folder, notebook):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.ipynb").symlink_to(folder.parents[1] / "right" / NAME / f"{NAME}.ipynb")


@FILES.changed("a-linked-folder", NOT, NONE, "link to another place")
def _(folder, notebook):
    folder.parent.mkdir(parents=True)
    folder.symlink_to(folder.parents[1] / "right" / NAME)


@FILES.changed("a-pipe", NOT, NONE, "is not a file")
def _(folder, notebook):
    folder.mkdir(parents=True)
    os.mkfifo(folder / f"{NAME}.ipynb")


@FILES.changed("a-linked-file-beside", WAITS, FULL, "is a link")
def _(folder, notebook):
    folder.mkdir(parents=True)
    (folder / "data.txt").symlink_to("/etc/passwd")
    return edit(notebook, double=after("import os\nassert not os.path.exists('data.txt')"))


@FILES.changed("another-notebook", NOT, NONE, "right notebook")
def _(folder, notebook):
    return nbformat.writes(new_notebook(cells=[new_code_cell("1 + 1")])).encode()


# Cells that nbgrader needs.
@FILES.changed("duplicated-test", WAITS, FULL, "test_double was there 2 times")
def _(folder, notebook):
    notebook["cells"].insert(3, copy.deepcopy(cell_called(notebook, "test_double")))
    return notebook


@FILES.changed("duplicated-solution", WAITS, FULL, "double was there 2 times")
def _(folder, notebook):
    first = copy.deepcopy(cell_called(notebook, "double"))
    first["source"] = "def double(x):\n    return 0"
    notebook["cells"].insert(1, first)
    return notebook


@FILES.changed("two-answers", WAITS, FULL, "2 different answers")
def _(folder, notebook):
    notebook["cells"].append(
        copy.deepcopy(cell_called(notebook, "why")) | {"source": "Or for another reason."}
    )
    return notebook


@FILES.changed("missing-tests", WAITS, FULL, "put back: test_double, test_slope, test_parts")
def _(folder, notebook):
    for name in ("test_double", "test_slope", "test_parts"):
        notebook["cells"].remove(cell_called(notebook, name))
    return notebook


@FILES.changed("missing-solution", WAITS, (0, 3, 2), "put back: double")
def _(folder, notebook):
    notebook["cells"].remove(cell_called(notebook, "double"))
    return notebook


@FILES.changed("missing-answer", WAITS, FULL, "answer cell why is missing")
def _(folder, notebook):
    notebook["cells"].remove(cell_called(notebook, "why"))
    return notebook


@FILES.changed("altered-test", WAITS, (0, 3, 2), "test_double")
def _(folder, notebook):
    return edit(notebook, double="def double(x):\n    return 0", test_double="assert True")


@FILES.changed("altered-points", WAITS, (2, 0, 0), "test_double")
def _(folder, notebook):
    cell_called(notebook, "test_double")["metadata"]["nbgrader"]["points"] = 100
    return edit(notebook, slope="")


@FILES.changed("altered-type", WAITS, FULL)
def _(folder, notebook):
    cell = cell_called(notebook, "why")
    cell |= {"cell_type": "code", "outputs": [], "execution_count": None}
    cell_called(notebook, "test_double")["cell_type"] = "raw"
    return notebook


@FILES.changed("claims-more-cells", WAITS, FULL, "does not have")
def _(folder, notebook):
    extra = copy.deepcopy(cell_called(notebook, "test_double"))
    extra["metadata"]["nbgrader"] |= {"grade_id": "bonus", "points": 50}
    notebook["cells"].append(extra | {"source": "assert True"})
    return notebook


@FILES.changed("stripped-metadata", WAITS, FULL, "metadata of 6 cell(s)")
def _(folder, notebook):
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    return notebook


@FILES.changed("stripped-and-more-cells", WAITS, FULL, "metadata of")
def _(folder, notebook):
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    more = {"cell_type": "code", "source": "1 + 1", "metadata": {}, "outputs": [], "execution_count": None}
    notebook["cells"].insert(2, more)
    return notebook


@FILES.changed("another-order", WAITS, (0, 3, 2), "another order")
def _(folder, notebook):
    notebook["cells"].append(notebook["cells"].pop(1))
    return notebook


@FILES.changed("forged-outputs", WAITS, (0, 3, 2))
def _(folder, notebook):
    cell = cell_called(notebook, "test_double")
    result = {
        "output_type": "execute_result",
        "data": {"text/plain": "2"},
        "metadata": {},
        "execution_count": 1,
    }
    cell["outputs"], cell["execution_count"] = [result], 1
    return edit(notebook, double="def double(x):\n    return 0")
