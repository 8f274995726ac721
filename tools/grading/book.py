"""nbgrader's gradebook: what an assignment consists of, and what a student has got for it."""

import json
import logging
import os
import shutil
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry, SubmittedNotebook
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import CheckCellMetadata, OverwriteCells
from nbgrader.utils import compute_checksum, determine_grade
from sqlalchemy.exc import SAWarning
from traitlets.config import Config, PyFileConfigLoader

from tools.grading.examine import CellSpec, NotebookSpec

CONFIG = "nbgrader_config.py"
COURSE = (
    "gradients-in-depth"  # all that is in a gradebook belongs to it, and PostgreSQL insists that it exists
)


class BookError(Exception):
    """The course or its gradebook is not as it must be: one sentence."""


@dataclass(frozen=True)
class Grades:
    """What the gradebook says of one cell of one submission."""

    name: str
    auto: float | None
    manual: float | None
    extra: float | None
    needs_a_person: bool
    max_score: float

    @property
    def points(self) -> float | None:
        """The points that stand; None where there are none, which is not 0."""
        points = self.manual if self.manual is not None else self.auto
        return None if points is None else points + (self.extra or 0)


class _Messages(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _find_alembic() -> None:
    """nbgrader runs the program `alembic` to make a gradebook, and looks for it on the PATH only."""
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += os.pathsep + scripts


def settings(source: Path) -> Path | None:
    """The course's own settings of nbgrader, beside the folder of the assignments; None where it has none."""
    path = source.parent / CONFIG
    return path if path.is_file() else None


def settings_of_formgrader(source: Path, url: str) -> str:
    """What nbgrader's formgrader has to know, to be used from the folder that the grades are in."""
    return f'''"""Written by tools/grading, for `make formgrader`."""

c = get_config()
c.CourseDirectory.course_id = {COURSE!r}
c.CourseDirectory.source_directory = {str(source)!r}
c.CourseDirectory.db_url = {url!r}
'''


def release(root: Path, name: str, source: Path, released: Path, url: str) -> None:
    """Enters an assignment into the gradebook as `nbgrader generate_assignment` does.

    With the course's own settings: what stands in place of an answer must be what students were given, or an
    untouched answer is taken for one. The release version is written below `released`. Raises `BookError`
    with what nbgrader said.
    """
    _find_alembic()
    config = Config()
    if own := settings(source):
        config.merge(PyFileConfigLoader(own.name, path=str(own.parent)).load_config())
        config.pop("CourseDirectory", None)  # its folders are not those of the grading
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.source_directory = os.path.relpath(source, root)
    config.CourseDirectory.release_directory = os.path.relpath(released, root)
    config.CourseDirectory.course_id = COURSE
    config.CourseDirectory.db_url = url
    config.CourseDirectory.assignment_id = name
    config.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__"]
    handler = _Messages()
    log = logging.getLogger("grading.release")
    log.propagate, log.handlers = False, [handler]
    course = CourseDirectory(config=config, log=log)
    converter = GenerateAssignment(coursedir=course, config=config, log=log)
    converter.force = True
    shutil.rmtree(released / name, ignore_errors=True)
    try:
        converter.start()
    except Exception as error:
        traces = [text for text in handler.messages if text.startswith("Traceback")]
        why = (traces or handler.messages or [str(error)])[0].strip().splitlines()[-1]
        raise BookError(f"The assignment {name} cannot be entered into the gradebook: {why}") from None


class Book:
    """One open gradebook."""

    def __init__(self, url: str) -> None:
        _find_alembic()
        try:
            self._book = Gradebook(url, COURSE)
        except Exception as error:  # SQLAlchemy and every database driver have errors of their own
            raise BookError(f"The gradebook {_without_password(url)} cannot be opened: {error}") from None
        self.url = url

    def close(self) -> None:
        """Ends the connection."""
        self._book.close()

    def has(self, assignment: str) -> bool:
        """Whether the gradebook knows this assignment."""
        return any(known.name == assignment for known in self._book.assignments)

    def specs(self, assignment: str, released: Path) -> list[NotebookSpec]:
        """The notebooks of an assignment, from the gradebook and the version that was given out."""
        try:
            notebooks = self._book.find_assignment(assignment).notebooks
        except MissingEntry:
            raise BookError(f"The gradebook has no assignment called {assignment}.") from None
        specs = []
        for notebook in sorted(notebooks, key=lambda n: n.name):
            released_cells = nbformat.read(released / assignment / f"{notebook.name}.ipynb", 4).cells
            names = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in released_cells]
            sources = {name: cell.source for name, cell in zip(names, released_cells, strict=True) if name}
            points = {cell.name: cell.max_score for cell in [*notebook.grade_cells, *notebook.task_cells]}
            grades = {cell.name for cell in notebook.grade_cells}
            solutions = {cell.name for cell in notebook.solution_cells}
            tasks = {cell.name for cell in notebook.task_cells}
            cells = {
                cell.name: CellSpec(
                    cell.name,
                    cell.cell_type,
                    bool(cell.locked),
                    cell.name in grades,
                    cell.name in solutions,
                    cell.name in tasks,
                    points.get(cell.name),
                    cell.checksum or "",
                    cell.source,
                    sources.get(cell.name, cell.source),
                )
                for cell in notebook.source_cells
            }
            order = tuple(cells[name] for name in names if name in cells)
            all_cells = tuple((c.cell_type, c.source, n) for n, c in zip(names, released_cells, strict=True))
            specs.append(
                NotebookSpec(notebook.name, order, all_cells, json.loads(notebook.kernelspec or "null") or {})
            )
        return specs

    def restore(self, notebook: NotebookNode, assignment: str, name: str) -> NotebookNode:
        """The notebook as nbgrader itself restores and checks it, the last thing before it runs."""
        resources = {"nbgrader": {"assignment": assignment, "notebook": name, "db_url": self.url}}
        log = logging.getLogger("grading.restore")
        log.propagate, log.handlers = False, [logging.NullHandler()]
        for preprocessor in (OverwriteCells(add_missing_cells=True, log=log), CheckCellMetadata(log=log)):
            notebook, resources = preprocessor.preprocess(notebook, resources)
        return notebook

    def _submitted(self, student: str, assignment: str, name: str) -> SubmittedNotebook:
        return self._book.find_submission_notebook(name, assignment, student)

    def record(
        self,
        student: str,
        assignment: str,
        results: dict[str, tuple[NotebookNode, dict[str, float | None]] | None],
        timestamp: str | None = None,
    ) -> None:
        """Writes the automatic scores of all notebooks of a submission, in one transaction.

        `results` has for each notebook what ran and the scores of its tests; None where nothing could be
        graded, which takes back what an earlier submission got. Grades and comments by a person stay.
        """
        book = self._book
        # nbgrader 0.9.6 builds a submission in a way that SQLAlchemy 2 warns about, and that does no harm.
        warnings.filterwarnings("ignore", category=SAWarning, module=r"nbgrader\.api")
        book.update_or_create_student(student)
        about = {"timestamp": timestamp} if timestamp else {}
        book.update_or_create_submission(assignment, student, **about)
        try:
            for name, result in results.items():
                notebook, scores = result if result is not None else (nbformat.v4.new_notebook(), {})
                self._enter(self._submitted(student, assignment, name), notebook, scores)
            book.db.commit()
        except BaseException:
            book.db.rollback()
            raise

    @staticmethod
    def _enter(submitted: SubmittedNotebook, notebook: NotebookNode, scores: dict[str, float | None]) -> None:
        cells = {
            cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata
        }
        for grade in submitted.grades:
            cell = cells.get(grade.name)
            if cell is None:
                grade.auto_score = None
            elif grade.name in scores:
                grade.auto_score = scores[grade.name]
            else:  # free text: 0 where it is as it was given out, otherwise for a person
                grade.auto_score = determine_grade(cell)[0]
            grade.needs_manual_grade = grade.manual_score is not None or grade.auto_score is None
        for comment in submitted.comments:
            cell = cells.get(comment.name)
            untouched = cell is not None and cell.metadata.nbgrader.checksum == compute_checksum(cell)
            comment.auto_comment = "No response." if untouched else None

    def grades(self, student: str, assignment: str, name: str) -> list[Grades] | None:
        """What stands in the gradebook now; None where nothing does."""
        try:
            submitted = self._submitted(student, assignment, name)
        except MissingEntry:
            return None
        return [
            Grades(g.name, g.auto_score, g.manual_score, g.extra_credit, g.needs_manual_grade, g.max_score)
            for g in submitted.grades
        ]

    def comments(self, student: str, assignment: str, name: str) -> dict[str, str]:
        """What a person, or nbgrader, wrote to each answer."""
        try:
            submitted = self._submitted(student, assignment, name)
        except MissingEntry:
            return {}
        return {comment.name: comment.comment for comment in submitted.comments if comment.comment}


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    return f"{before.split('://')[0]}://…@{after}" if at else url
