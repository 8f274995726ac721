"""Examines a submitted file before anything in it runs, repairs what is safe to repair, and says so.

What a student saved is only read. From its cells a new notebook is made, in which everything that concerns
the grading (which cells are tests, their source, their points) comes from the gradebook.
"""

import json
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

LARGEST_FILE = 20 * 2**20
MOST_FILES = 200
MOST_CELLS = 2000
SCHEMA = 3  # of nbgrader's metadata


class CannotGradeError(Exception):
    """Why a submission needs a person: one sentence."""


@dataclass(frozen=True)
class CellSpec:
    """One cell that nbgrader knows. `source` has the hidden tests, `released` is what students were given."""

    name: str
    cell_type: str
    locked: bool
    grade: bool
    solution: bool
    task: bool
    points: float | None
    checksum: str
    source: str
    released: str

    @property
    def is_test(self) -> bool:
        """Whether points come from running it."""
        return self.grade and not self.solution and self.cell_type == "code"

    @property
    def is_manual(self) -> bool:
        """Whether points come from a person."""
        return self.task or (self.grade and self.solution)

    def metadata(self) -> dict[str, object]:
        """As nbgrader stores it in a notebook."""
        marks = {"grade": self.grade, "solution": self.solution, "locked": self.locked, "task": self.task}
        identity = {"grade_id": self.name, "cell_type": self.cell_type, "schema_version": SCHEMA}
        points = {} if self.points is None else {"points": self.points}
        return {**marks, **identity, **points, "checksum": self.checksum}


@dataclass(frozen=True)
class NotebookSpec:
    """A notebook as it was given out: its name, the cells that nbgrader knows, all cells, in order."""

    name: str
    cells: tuple[CellSpec, ...]
    released: tuple[tuple[str, str, str | None], ...]  # cell type, source, name
    kernelspec: dict

    @property
    def max_score(self) -> float:
        """The points of all cells."""
        return sum(cell.points or 0 for cell in self.cells)


@dataclass
class Examined:
    """A notebook that can be run, what was repaired, and the cells that only a person can grade."""

    notebook: NotebookNode
    remarks: list[str]
    for_a_person: dict[str, str] = field(default_factory=dict)


def printable(text: str) -> str:
    """A name as it may be shown: on one line, without what terminals and databases cannot take."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:200]


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """The content of a regular file of bounded size; no link is followed, no pipe or device waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if path.is_symlink():
            raise CannotGradeError(f"{printable(path.name)} is a link, not a file") from None
        raise CannotGradeError(f"{printable(path.name)} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CannotGradeError(f"{printable(path.name)} is not a file")
        if status.st_size > largest:
            size, most = f"{status.st_size / 2**20:.3g} MB", f"{largest / 2**20:.3g} MB"
            raise CannotGradeError(f"{printable(path.name)} has {size}, more than the {most} allowed")
        return file.read(largest + 1)


def find_notebook(folder: Path, spec: NotebookSpec) -> tuple[Path, list[str]]:
    """The file to grade in the folder of one student and assignment, and what is to be said about it."""
    expected = folder / f"{spec.name}.ipynb"
    if folder.is_symlink() or folder.parent.is_symlink():
        raise CannotGradeError("the folder is a link to another place")
    if not folder.is_dir():
        beside = folder.parent / expected.name
        if beside.is_file() and not beside.is_symlink():
            return beside, [f"{expected.name} was beside the folder {folder.name}, not in it."]
        raise CannotGradeError("nothing was submitted")
    notebooks = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".ipynb")
    if expected in notebooks:
        others = ", ".join(printable(path.name) for path in notebooks if path != expected)
        return expected, [f"Not graded beside it: {others}."] if others else []
    if not notebooks:
        inner = sorted(path for path in folder.glob("*/*.ipynb") if not path.parent.name.startswith("."))
        hint = f"; there is a {printable(str(inner[0].relative_to(folder)))}" if inner else ""
        raise CannotGradeError(f"there is no {expected.name} in the folder{hint}")
    known = {cell.name for cell in spec.cells}
    fitting = [path for path in notebooks if len(_names_in(path) & known) * 2 > len(known)]
    if len(fitting) == 1:
        return fitting[0], [f"The file is called {printable(fitting[0].name)}; graded as {expected.name}."]
    names = ", ".join(printable(path.name) for path in notebooks)
    raise CannotGradeError(f"there is no {expected.name}, and which file is meant cannot be told: {names}")


def _names_in(path: Path) -> set[str]:
    try:
        cells = json.loads(read_bytes(path))["cells"]
        return {cell["metadata"]["nbgrader"]["grade_id"] for cell in cells if "nbgrader" in cell["metadata"]}
    except (CannotGradeError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _parse(data: bytes, remarks: list[str]) -> dict:
    """The notebook's JSON, in the current format."""
    text = _decode(data, remarks)
    notebook = _load(text)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise CannotGradeError("the file is JSON, but no notebook")
    notebook = _upgrade(notebook, text, remarks)
    if not isinstance(notebook.get("cells"), list):
        raise CannotGradeError("the notebook has no list of cells")
    if len(notebook["cells"]) > MOST_CELLS:
        raise CannotGradeError(f"the notebook has {len(notebook['cells'])} cells, more than {MOST_CELLS}")
    return notebook


def _decode(data: bytes, remarks: list[str]) -> str:
    if not data.strip():
        raise CannotGradeError("the file is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CannotGradeError(f"the file is not text in UTF-8 (byte {error.start})") from None
    if text.encode() != data:
        remarks.append("A byte order mark before the text was left out.")
    return text


def _load(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise CannotGradeError("the file is nested too deep to be a notebook") from None
    except ValueError as error:
        place = f" (line {error.lineno}, {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        conflict = " It has the marks of an unresolved merge." if "\n<<<<<<< " in text else ""
        raise CannotGradeError(f"the file is not valid JSON{place}.{conflict}".rstrip(".")) from None


def _upgrade(notebook: dict, text: str, remarks: list[str]) -> dict:
    """The notebook in format 4, whatever of the formats that can be read it has."""
    version, minor = notebook["nbformat"], notebook.get("nbformat_minor")
    if version == 3:
        try:
            notebook = nbformat.reads(text, 4)
        except Exception as error:  # whatever a converter of 2014 meets in a file that it does not know
            raise CannotGradeError(f"the notebook has format 3 and cannot be converted: {error}") from None
        remarks.append("The notebook had format 3 and was converted to 4.")
    elif version != 4:
        raise CannotGradeError(f"the notebook has format {version}, and only format 4 (and 3) can be read")
    elif isinstance(minor, int) and minor > 5:
        remarks.append(f"The notebook has format 4.{minor}, newer than 4.5; read as 4.5.")
    return notebook


@dataclass
class _Cell:
    cell_type: str
    source: str
    name: str | None
    about: dict
    attachments: dict


def _cells_of(notebook: dict, remarks: list[str]) -> list[_Cell]:
    cells: list[_Cell] = []
    bad = 0
    for cell in notebook["cells"]:
        source = cell.get("source") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str) or cell.get("cell_type") not in ("code", "markdown", "raw"):
            bad += 1
            continue
        source = source.encode("utf-8", "replace").decode()  # JSON can hold halves of characters
        about = _dict_in(_dict_in(cell, "metadata"), "nbgrader")
        name = about.get("grade_id") if isinstance(about.get("grade_id"), str) else None
        cells.append(_Cell(cell["cell_type"], source, name, about, _dict_in(cell, "attachments")))
    if bad:
        remarks.append(f"{bad} cell(s) that no notebook can have were left out.")
    return cells


def _dict_in(parent: dict, key: str) -> dict:
    """What stands under a key, if it is what belongs there."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _same(one: str, other: str) -> bool:
    """Equal but for white space at line ends, which editors change."""
    return [line.rstrip() for line in one.strip().splitlines()] == [
        line.rstrip() for line in other.strip().splitlines()
    ]


def _forget_unknown(cells: list[_Cell], specs: dict[str, CellSpec], remarks: list[str]) -> None:
    unknown = [cell for cell in cells if cell.name is not None and cell.name not in specs]
    for cell in unknown:
        cell.name = None
    if unknown:
        remarks.append(
            f"{len(unknown)} cell(s) claim to be graded that this assignment does not have; ignored."
        )


def _remove_duplicates(
    cells: list[_Cell], specs: dict[str, CellSpec], remarks: list[str], for_a_person: dict[str, str]
) -> None:
    """Leaves each name to one cell; no source is lost."""
    for name, many in Counter(cell.name for cell in cells if cell.name).items():
        if many == 1:
            continue
        spec, twins = specs[name], [cell for cell in cells if cell.name == name]
        # What runs last counts, as in JupyterLab. An answer that was never filled in is no answer.
        filled = [cell for cell in twins if not _same(cell.source, spec.released)] or twins
        keep = filled[-1] if spec.solution else twins[-1]
        for cell in twins:
            if cell is not keep:
                cell.name = None
                if spec.locked or _same(cell.source, keep.source) or _same(cell.source, spec.released):
                    cells[:] = [other for other in cells if other is not cell]
        different = {cell.source.strip() for cell in filled}
        if spec.is_manual and len(different) > 1:
            for_a_person[name] = f"there are {len(different)} different answers in cells named {name}"
        remarks.append(f"Cell {name} was there {many} times; the last one counts.")


def _restore_names(cells: list[_Cell], spec: NotebookSpec, remarks: list[str]) -> None:
    """Gives cells that lost their metadata their names back, where it is certain which cell it is."""
    present = {cell.name for cell in cells}
    lost = [one for one in spec.cells if one.name not in present]
    restored = []
    for one in lost:
        same = [c for c in cells if c.name is None and one.released.strip() and _same(c.source, one.released)]
        if len(same) == 1:
            same[0].name = one.name
            restored.append(one.name)
    # An answer: the only cell without a place between two that have one.
    places = spec.released
    for one in lost:
        if one.name in restored or not one.solution:
            continue
        at = next(i for i, (_, _, name) in enumerate(places) if name == one.name)
        before = _position(cells, places[at - 1]) if at else -1
        after = _position(cells, places[at + 1]) if at + 1 < len(places) else len(cells)
        if before is None or after is None:
            continue
        between = [cell for cell in cells[before + 1 : after] if cell.name is None]
        if len(between) == 1 and between[0].cell_type == one.cell_type:
            between[0].name = one.name
            restored.append(one.name)
    if restored:
        remarks.append(
            f"The metadata of {len(restored)} cell(s) was lost and restored: {', '.join(restored)}."
        )


def _position(cells: list[_Cell], place: tuple[str, str, str | None]) -> int | None:
    kind, source, name = place
    if name is not None:
        positions = [i for i, cell in enumerate(cells) if cell.name == name]
    else:
        positions = [
            i for i, cell in enumerate(cells) if cell.cell_type == kind and _same(cell.source, source)
        ]
    return positions[0] if len(positions) == 1 else None


def _add_missing(
    cells: list[_Cell], spec: NotebookSpec, remarks: list[str], for_a_person: dict[str, str]
) -> None:
    added = []
    for i, one in enumerate(spec.cells):
        if any(cell.name == one.name for cell in cells):
            continue
        before = next(
            (p.name for p in reversed(spec.cells[:i]) if any(c.name == p.name for c in cells)), None
        )
        at = next((k for k, cell in enumerate(cells) if cell.name == before), -1) + 1
        source = one.released
        if one.is_manual:
            for_a_person[one.name] = (
                f"the answer cell {one.name} is missing, or could not be told from other cells"
            )
            source = f"(The cell {one.name} was missing from the submission.)"
        elif one.solution:  # students may answer in a cell of their own
            source = f"# The cell {one.name} was missing from the submission."
        cells.insert(at, _Cell(one.cell_type, source, one.name, one.metadata(), {}))
        added.append(one.name)
    if added:
        remarks.append(f"Missing cell(s) put back: {', '.join(added)}.")


def examine(data: bytes, spec: NotebookSpec, remarks: list[str] | None = None) -> Examined:
    """Makes a notebook to be graded from the bytes of a submitted file.

    Raises `CannotGradeError` where a person has to look.
    """
    remarks = list(remarks or [])
    for_a_person: dict[str, str] = {}
    cells = _cells_of(_parse(data, remarks), remarks)
    specs = {one.name: one for one in spec.cells}
    if not cells:
        raise CannotGradeError("the notebook has no cells")
    _forget_unknown(cells, specs, remarks)
    own = [cell for cell in cells if cell.name is not None]
    if not own and not any(
        one.locked and any(_same(one.released, c.source) for c in cells) for one in spec.cells
    ):
        raise CannotGradeError("no cell of this notebook belongs to the assignment; is it the right notebook")
    _remove_duplicates(cells, specs, remarks, for_a_person)
    _restore_names(cells, spec, remarks)
    _add_missing(cells, spec, remarks, for_a_person)
    _remark_on_changes(cells, spec, remarks)
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": spec.kernelspec} if spec.kernelspec else {})
    notebook.cells = [_new_cell(cell, specs, f"cell-{i}") for i, cell in enumerate(cells)]
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError:
        for cell in notebook.cells:
            cell.pop("attachments", None)
        remarks.append("Attachments of cells were damaged and left out.")
        nbformat.validate(notebook)
    return Examined(notebook, remarks, for_a_person)


def _remark_on_changes(cells: list[_Cell], spec: NotebookSpec, remarks: list[str]) -> None:
    specs, changed, mislabelled = {one.name: one for one in spec.cells}, [], []
    order = [cell.name for cell in cells if cell.name is not None]
    for cell in cells:
        if cell.name is None:
            continue
        one = specs[cell.name]
        if one.locked and not _same(cell.source, one.released):
            changed.append(one.name)
        elif any(cell.about.get(key, value) != value for key, value in _claims(one)):
            mislabelled.append(one.name)
    if changed:
        remarks.append(f"Test cell(s) had been changed; the original counts: {', '.join(changed)}.")
    if mislabelled:
        remarks.append(
            f"Points or marks of cell(s) had been changed; the original counts: {', '.join(mislabelled)}."
        )
    if order != [one.name for one in spec.cells]:
        remarks.append(
            "The cells are in another order than in the assignment, and ran in the student's order."
        )


def _new_cell(cell: _Cell, specs: dict[str, CellSpec], identity: str) -> NotebookNode:
    """The cell that is graded: of the student's it has the source, where that is the student's to write."""
    one = specs[cell.name] if cell.name is not None else None
    cell_type = one.cell_type if one is not None else cell.cell_type
    source = one.source if one is not None and one.locked else cell.source
    new = getattr(nbformat.v4, f"new_{cell_type}_cell")(source)
    new.id = identity
    if one is not None:
        new.metadata["nbgrader"] = nbformat.from_dict(one.metadata())
    if cell.attachments and cell_type == "markdown":
        new["attachments"] = nbformat.from_dict(cell.attachments)
    return new


def _claims(one: CellSpec) -> list[tuple[str, object]]:
    claims: list[tuple[str, object]] = [("grade", one.grade), ("solution", one.solution)]
    return [*claims, ("points", one.points)] if one.points is not None else claims


def files_of(folder: Path, remarks: list[str]) -> dict[str, bytes]:
    """The other files of a submission, by their path in it, that may lie beside the notebook when it runs."""
    files: dict[str, bytes] = {}
    refused: list[str] = []
    total = 0
    if folder.is_dir():
        for place, folders, names in os.walk(folder, followlinks=False):
            folders[:] = sorted(
                n for n in folders if not n.startswith(".") and not Path(place, n).is_symlink()
            )
            for name in sorted(names):
                path = Path(place, name)
                if path.suffix.lower() == ".ipynb" or name.startswith("."):
                    continue
                try:
                    if len(files) == MOST_FILES:
                        raise CannotGradeError(f"there are more than {MOST_FILES} files")
                    data = read_bytes(path, LARGEST_FILE - total)
                except CannotGradeError as error:
                    refused.append(str(error))
                    continue
                total += len(data)
                files[str(path.relative_to(folder))] = data
    if refused:
        remarks.append(f"Left out: {'; '.join(refused[:3])}{' and more' if len(refused) > 3 else ''}.")
    return files
