"""The run of a class: all that is new or changed is graded, and the report on the class is written."""

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
from tqdm import tqdm

from tools.grading import feedback, report, sandbox
from tools.grading.assignments import Assignment, assignment_folders, read_assignments
from tools.grading.book import CONFIG, Book, BookError, settings_of_formgrader
from tools.grading.examine import NotebookSpec, printable
from tools.grading.files import write
from tools.grading.report import NOT_GRADED, Row
from tools.grading.sandbox import Limits
from tools.grading.submission import Job, grade, prepare, read_record, row, save


@dataclass(frozen=True)
class Options:
    """What is to be graded, where the results go, and within which limits students' code runs."""

    submitted: Path
    source: Path
    out: Path
    url: str
    limits: Limits
    jobs: int
    sandboxed: bool
    only: tuple[str, ...]
    force: bool


def run(options: Options, with_feedback: bool = False) -> tuple[list[Row], list[str]]:
    """Grades what is new or changed, and writes the report on the class; returns its rows and its notes.

    `with_feedback` writes a page for each student, too. Raises `BookError`, `SandboxError`, and what
    SQLAlchemy raises.
    """
    if options.sandboxed:
        sandbox.check()
        sandbox.refuse_visible([options.submitted, options.source, options.out])
    options.out.mkdir(parents=True, exist_ok=True)
    with _alone(options.out), contextlib.closing(Book(options.url)) as book:
        return _run(options, book, with_feedback)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two at a time would undo each other's work; the lock ends with the process, however that ends."""
    with open(out / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BookError(f"Another grading into {out} is running. Wait for its end.") from None
        yield


def _run(options: Options, book: Book, with_feedback: bool) -> tuple[list[Row], list[str]]:
    students = student_folders(options.submitted)
    assignments = read_assignments(options.source, options.only, options.out, book)
    assignments, notes = choose_assignments(options.source, options.only, assignments, students)
    named = [student for student in students if printable(student.name) == student.name]
    pairs = [(student, assignment) for assignment in assignments for student in named]
    try:
        _grade_all(pairs, options, book)
    finally:
        rows = [
            row(options.out, book, student.name, assignment, spec)
            for student, assignment in pairs
            for spec in assignment.notebooks
        ]
        rows += [
            _row_without_name(student, assignment, spec)
            for assignment in assignments
            for student in students
            if student not in named
            for spec in assignment.notebooks
        ]
        if with_feedback:
            _write_feedback(pairs, options.out, book)
        settings = options.out / CONFIG
        write(settings, settings_of_formgrader(options.source, options.url))
        settings.chmod(0o600)  # a gradebook's address may have a password in it
        write(options.out / "grades.csv", report.as_csv(rows))
        write(options.out / "grades.html", report.as_page(rows, notes))
    return rows, notes


def _row_without_name(student: Path, assignment: Assignment, spec: NotebookSpec) -> Row:
    why = ("the name of the folder cannot stand in a gradebook; rename it",)
    name = printable(student.name)
    return Row(name, assignment.name, spec.name, NOT_GRADED, None, None, spec.max_score, why, ())


def student_folders(submitted: Path) -> list[Path]:
    """The folders of the students."""
    return sorted(path for path in submitted.iterdir() if path.is_dir() and not path.name.startswith("."))


def choose_assignments(
    source: Path, only: tuple[str, ...], assignments: list[Assignment], students: list[Path]
) -> tuple[list[Assignment], list[str]]:
    """The assignments that somebody handed in, or that are in `only`, and sentences on what is left out."""
    folders = {student.name: _content(student) for student in students}
    names = {name for content in folders.values() for name in content}
    chosen = [one for one in assignments if one.name in names or one.name in only]
    known = {folder.name for folder in assignment_folders(source)}
    notes = []
    if missing := [one.name for one in assignments if one not in chosen]:
        notes.append(f"Nobody handed in {', '.join(missing)}.")
    if others := sorted((names & known) - {one.name for one in assignments}):
        notes.append(f"Not asked for, and not in this report: {', '.join(others)}.")
    for student, content in folders.items():
        unknown = sorted(name for name in content.keys() - known if not name.startswith("."))
        strange = [printable(name) for name in unknown if content[name].is_dir() or name.endswith(".ipynb")]
        if strange:
            notes.append(
                f"{printable(student)} has {', '.join(strange)}, which is no folder of an assignment."
            )
    return chosen, notes


def _content(student: Path) -> dict[str, Path]:
    """What stands in a student's folder; nothing where it cannot be read, or is a link."""
    try:
        return {} if student.is_symlink() else {path.name: path for path in student.iterdir()}
    except OSError:
        return {}


def _grade_all(pairs: list[tuple[Path, Assignment]], options: Options, book: Book) -> None:
    stop = threading.Event()
    running: dict[Future, Job] = {}
    with tqdm(total=len(pairs), desc="Grading", unit="submission", disable=None) as bar:
        pool = ThreadPoolExecutor(options.jobs)

        def finish(until_left: int) -> None:
            while len(running) > until_left:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    _finish(running.pop(future), future, options.out, book)
                    bar.update()

        try:
            for student, assignment in pairs:
                job = prepare(student, assignment, book, options.limits)
                if not options.force and _is_graded(job, options.out, book):
                    bar.update()
                    continue
                running[pool.submit(grade, job, options.limits, options.sandboxed, stop)] = job
                finish(options.jobs)
            finish(0)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _is_graded(job: Job, out: Path, book: Book) -> bool:
    """Whether this very submission is in the gradebook already."""
    name = job.assignment.name
    is_known = book.grades(job.student, name, job.assignment.notebooks[0].name) is not None
    return is_known and read_record(out, job.student, name).get("fingerprint") == job.fingerprint


def _finish(job: Job, future: Future, out: Path, book: Book) -> None:
    try:
        future.result()
    except Exception as error:  # one student's failure stops no other's
        for outcome in job.outcomes.values():
            outcome.reasons[""] = f"the grading failed ({type(error).__name__}: {error})"
            outcome.again = True
        job.executed.clear()
    save(job, out, book)


def _write_feedback(pairs: list[tuple[Path, Assignment]], out: Path, book: Book) -> None:
    for student, assignment in pairs:
        for spec in assignment.notebooks:
            place = Path(student.name, assignment.name)
            executed = out / "autograded" / place / f"{spec.name}.ipynb"
            record = read_record(out, student.name, assignment.name)
            outcome = record.get("outcomes", {}).get(spec.name, {})
            text = feedback.as_page(
                row(out, book, student.name, assignment, spec),
                spec,
                nbformat.read(executed, 4) if executed.exists() else None,
                book.grades(student.name, assignment.name, spec.name) or [],
                book.comments(student.name, assignment.name, spec.name),
                file_is_why=not outcome.get("again", True),
            )
            write(out / "feedback" / place / f"{spec.name}.html", text)
