"""Grades a class: every submitted/STUDENT/NAME/NAME.ipynb, in a sandbox, into nbgrader's gradebook.

    make grade                                   all of submitted/
    make grade SUBMITTED=path GRADE_ARGS="--jobs 4"
    python -m tools.grading submitted --feedback

The assignments are the folders NAME of solutions/ (the instructor's version, with nbgrader's metadata). A
rerun grades what changed since and only that; grades and comments by a person stay; what was submitted is
never changed. Below --out: the gradebook, grades.csv and grades.html, what ran (autograded/), what was
submitted when it was graded (kept/), pages for students (feedback/, with --feedback), and a record of each
submission (records/).
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from tools.grading import examine, execute, feedback, report, sandbox
from tools.grading.book import CONFIG, Book, BookError, release, settings_of_formgrader
from tools.grading.book import settings as read_settings
from tools.grading.examine import CannotGradeError, NotebookSpec, printable
from tools.grading.report import GRADED, NOT_GRADED, PARTLY, WAITING, Row
from tools.grading.sandbox import Limits, Sandbox, SandboxError

ROOT = Path(__file__).resolve().parents[2]
VERSION = 2  # of the rules below: what an older version graded is graded again


@dataclass(frozen=True)
class Assignment:
    """One assignment: where its files are, its notebooks, and what it all depends on."""

    name: str
    source: Path
    notebooks: tuple[NotebookSpec, ...]
    fingerprint: str


@dataclass
class Outcome:
    """What came of one notebook of one submission.

    `scores` has the tests, `reasons` what a person has to look at, by cell; under "" what concerns all of it.
    `again` asks for another try: the fault was not the submission's.
    """

    scores: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    again: bool = False


@dataclass
class Job:
    """One submission of one assignment, and what is to be graded of it."""

    student: str
    assignment: Assignment
    folder: Path
    fingerprint: str
    ready: dict[str, NotebookNode]
    outcomes: dict[str, Outcome]
    kept: dict[str, bytes]
    files: dict[str, bytes]
    ran: dict[str, NotebookNode] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    submitted: Path
    source: Path
    out: Path
    url: str
    limits: Limits
    jobs: int
    sandboxed: bool
    only: tuple[str, ...]
    force: bool


def _hash(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _files_in(folder: Path) -> dict[str, bytes]:
    """All files of an assignment's own folder, which are trusted."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in inner.parts):
            found[str(inner)] = path.read_bytes()
    return found


def _folders(source: Path) -> list[Path]:
    """The folders of the assignments: those with a notebook in them."""
    return [path for path in sorted(source.iterdir()) if path.is_dir() and any(path.glob("*.ipynb"))]


def assignments(options: Options, book: Book) -> list[Assignment]:
    """The assignments, entered into the gradebook where they are new or changed."""
    found = []
    folders = [f for f in _folders(options.source) if not options.only or f.name in options.only]
    missing = set(options.only) - {folder.name for folder in folders}
    if missing or not folders:
        what = f"called {', '.join(sorted(missing))} " if missing else ""
        raise BookError(
            f"There is no assignment {what}in {options.source}: a folder NAME with NAME.ipynb in it."
        )
    released = options.out / "released"
    settings = read_settings(options.source)
    for folder in folders:
        files = _files_in(folder)
        parts = [part for item in files.items() for part in item]
        print_ = _hash(options.url, settings.read_bytes() if settings else b"", *parts)
        mark = options.out / "records" / folder.name / "assignment"
        known = mark.exists() and mark.read_text() == print_ and (released / folder.name).exists()
        if not (known and book.has(folder.name)):
            release(options.out, folder.name, options.source, released, options.url)
            report.write(mark, print_)
        notebooks = tuple(book.specs(folder.name, released))
        cells = json.dumps([asdict(notebook) for notebook in notebooks], sort_keys=True)
        others = [
            part for name, data in files.items() if not name.endswith(".ipynb") for part in (name, data)
        ]
        found.append(
            Assignment(folder.name, folder, notebooks, _hash(str(VERSION), options.url, cells, *others))
        )
    return found


def students(submitted: Path) -> list[Path]:
    """The folders of the students."""
    return sorted(path for path in submitted.iterdir() if path.is_dir() and not path.name.startswith("."))


def _record_path(options: Options, student: str, assignment: str) -> Path:
    # A student's name may be no file name elsewhere; its hash is one everywhere.
    return options.out / "records" / assignment / f"{_hash(student)[:32]}.json"


def _record(options: Options, student: str, assignment: str) -> dict:
    try:
        record = json.loads(_record_path(options, student, assignment).read_text())
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


def prepare(student: Path, assignment: Assignment, book: Book, limits: Limits) -> Job:
    """Reads and examines one submission; nothing of it runs."""
    folder = student / assignment.name
    remarks: list[str] = []
    try:
        if student.is_symlink() or folder.is_symlink():
            raise CannotGradeError("the folder is a link to another place")
        files = examine.files_of(folder, remarks)
    except (CannotGradeError, OSError):
        files = {}
    ready, outcomes, kept, found = {}, {}, {}, {}
    for spec in assignment.notebooks:
        outcome = outcomes[spec.name] = Outcome(remarks=list(remarks))
        try:
            path, said = examine.find_notebook(folder, spec)
            outcome.remarks += said
            kept[spec.name] = data = examine.read_bytes(path)
            found[spec.name] = path.name
            examined = examine.examine(data, spec, outcome.remarks)
            outcome.remarks, outcome.reasons = examined.remarks, dict(examined.for_a_person)
            ready[spec.name] = book.restored(examined.notebook, assignment.name, spec.name)
        except CannotGradeError as error:
            outcome.reasons[""] = str(error)
        except Exception as error:  # one student's file stops no other's, whatever is in it
            what = printable(f"{type(error).__name__}: {error}")
            outcome.reasons[""] = f"the file could not be examined ({what})"
    seen = [json.dumps([o.reasons, o.remarks, found.get(name)]) for name, o in sorted(outcomes.items())]
    parts = [part for name in sorted(kept) for part in (name, kept[name])]
    parts += [part for name in sorted(files) for part in (name, files[name])]
    fingerprint = _hash(assignment.fingerprint, repr(limits), *seen, *parts)
    return Job(student.name, assignment, folder, fingerprint, ready, outcomes, kept, files)


def grade(job: Job, limits: Limits, sandboxed: bool, stop: threading.Event) -> Job:
    """Runs the notebooks of one submission, each in a sandbox of its own."""
    with tempfile.TemporaryDirectory() as name:
        files = {n: d for n, d in _files_in(job.assignment.source).items() if not n.endswith(".ipynb")}
        for path, data in {**job.files, **files}.items():  # the assignment's own files come last
            target = Path(name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for notebook_name, notebook in job.ready.items():
            outcome = job.outcomes[notebook_name]
            try:
                done = execute.execute(
                    notebook, lambda: Sandbox(limits, Path(name), sandboxed=sandboxed), limits, stop
                )
            except SandboxError as error:
                outcome.reasons[""], outcome.again = f"the sandbox failed, not the submission: {error}", True
                continue
            _enter(notebook, done, outcome)
            job.ran[notebook_name] = notebook
    return job


def _enter(notebook: NotebookNode, done: execute.Execution, outcome: Outcome) -> None:
    """Puts what ran into the notebook, and its tests' points and everything worth saying into the outcome."""
    outcome.remarks += done.remarks
    for index, run in done.cells.items():
        cell = notebook.cells[index]
        cell.outputs = run.outputs
        test = execute.is_test(cell)
        if not test and run.why and run.ended != "not run":
            outcome.remarks.append(f"Cell {index + 1}: {run.why}.")
        if not test:
            continue
        name = cell.metadata.nbgrader.grade_id
        if index in done.tampered:
            outcome.scores[name], outcome.reasons[name] = None, f"test {name}: {done.tampered[index]}"
            continue
        outcome.scores[name] = points = execute.score_of(cell, run)
        if points is None:
            why = run.why or "its last line gave no number from 0 to the maximum"
            outcome.reasons[name] = f"test {name} did not come to a result: {why}"


def save(job: Job, options: Options, book: Book) -> None:
    """Enters a graded submission into the gradebook; last of all the record, which makes it count as done."""
    name = job.assignment.name
    results = {
        spec.name: (job.ran[spec.name], job.outcomes[spec.name].scores) if spec.name in job.ran else None
        for spec in job.assignment.notebooks
    }
    ran = options.out / "autograded" / job.student / name
    kept = options.out / "kept" / job.student / name / job.fingerprint[:12]
    for spec in job.assignment.notebooks:
        if spec.name in job.ran:
            report.write(ran / f"{spec.name}.ipynb", nbformat.writes(job.ran[spec.name]))
        else:
            (ran / f"{spec.name}.ipynb").unlink(missing_ok=True)
        if spec.name in job.kept:
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{spec.name}.ipynb").write_bytes(job.kept[spec.name])
    try:
        text = examine.read_bytes(job.folder / "timestamp.txt", 1000).decode().strip()
    except (CannotGradeError, UnicodeDecodeError):
        text = None
    try:
        book.record(job.student, name, results, text)
    except (ValueError, OverflowError):  # a timestamp that is none
        book.record(job.student, name, results)
    outcomes = {notebook: asdict(outcome) for notebook, outcome in job.outcomes.items()}
    again = any(outcome.again for outcome in job.outcomes.values())
    record = {"fingerprint": "" if again else job.fingerprint, "outcomes": outcomes}
    report.write(_record_path(options, job.student, name), json.dumps(record))


def row(options: Options, book: Book, student: str, assignment: Assignment, spec: NotebookSpec) -> Row:
    """What stands for one notebook of one student: the record's reasons, the gradebook's points."""
    outcome = _record(options, student, assignment.name).get("outcomes", {}).get(spec.name)
    most = spec.max_score
    if outcome is None:
        why = ("it was not graded yet: the grading was interrupted; run it again",)
        return Row(student, assignment.name, spec.name, NOT_GRADED, None, None, most, why, ())
    grades = book.grades(student, assignment.name, spec.name) or []
    points = [grade.points for grade in grades]
    so_far = sum(p for p in points if p is not None) if any(p is not None for p in points) else None
    by_hand = {grade.name for grade in grades if grade.manual is not None}
    reasons = {cell: why for cell, why in outcome["reasons"].items() if cell not in by_hand}
    remarks = tuple(outcome["remarks"])
    waiting = [grade.name for grade in grades if grade.needs_a_person]
    if grades and not waiting:
        return Row(student, assignment.name, spec.name, GRADED, so_far, so_far, most, (), remarks)
    if "" in reasons:  # what stands was for another version of the file
        state, so_far = NOT_GRADED, None
    elif any(cell in reasons for cell in outcome["scores"]):
        state = NOT_GRADED if so_far is None else PARTLY
    else:
        state = WAITING
    said = [*reasons.values()]
    said += [f"{cell} waits to be read" for cell in waiting if cell not in reasons and "" not in reasons]
    return Row(student, assignment.name, spec.name, state, None, so_far, most, tuple(said), remarks)


def _inside(student: Path) -> dict[str, Path]:
    """What stands in a student's folder; nothing where it cannot be read, or is a link."""
    try:
        return {} if student.is_symlink() else {path.name: path for path in student.iterdir()}
    except OSError:
        return {}


def handed_in(
    options: Options, tasks: list[Assignment], class_: list[Path]
) -> tuple[list[Assignment], list[str]]:
    """The assignments that somebody handed in, or that were asked for, and sentences on what is left out."""
    there = {student.name: _inside(student) for student in class_}
    names = {name for found in there.values() for name in found}
    taken = [task for task in tasks if task.name in names or task.name in options.only]
    known = {folder.name for folder in _folders(options.source)}
    said = []
    if missing := [task.name for task in tasks if task not in taken]:
        said.append(f"Nobody handed in {', '.join(missing)}.")
    if others := sorted((names & known) - {task.name for task in tasks}):
        said.append(f"Not asked for, and not in this report: {', '.join(others)}.")
    for student, found in there.items():
        unknown = sorted(name for name in found.keys() - known if not name.startswith("."))
        strange = [printable(name) for name in unknown if found[name].is_dir() or name.endswith(".ipynb")]
        if strange:
            said.append(
                f"{printable(student)} has {', '.join(strange)}, which is no folder of an assignment."
            )
    return taken, said


def run(options: Options, feedback: bool = False) -> tuple[list[Row], list[str]]:
    """Grades what is new or changed, writes the report on the class, and gives its rows and what it lacks.

    With `feedback`, writes a page for each student, too.
    """
    if options.sandboxed:
        sandbox.check()
        sandbox.hidden_from_students([options.submitted, options.source, options.out])
    options.out.mkdir(parents=True, exist_ok=True)
    with _alone(options.out):
        return _run(options, feedback)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two at a time would undo each other's work; the lock ends with the process, however that ends."""
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BookError(f"Another grading into {out} is running. Wait for its end.") from None
        yield


def _run(options: Options, feedback: bool) -> tuple[list[Row], list[str]]:
    book = Book(options.url)
    try:
        class_ = students(options.submitted)
        tasks, left_out = handed_in(options, assignments(options, book), class_)
        pairs = [(student, task) for task in tasks for student in class_]
        unnamed = [student for student, _ in pairs if printable(student.name) != student.name]
        pairs = [pair for pair in pairs if pair[0] not in unnamed]
        try:
            _grade_all(pairs, options, book)
        finally:
            rows = [row(options, book, s.name, task, spec) for s, task in pairs for spec in task.notebooks]
            why = ("the name of the folder cannot stand in a gradebook; rename it",)
            for task in tasks:
                for student in sorted(set(unnamed)):
                    said = printable(student.name)
                    for spec in task.notebooks:
                        rows.append(
                            Row(said, task.name, spec.name, NOT_GRADED, None, None, spec.max_score, why, ())
                        )
            if feedback:
                _write_feedback(pairs, options, book)
            settings = options.out / CONFIG
            report.write(settings, settings_of_formgrader(options.source, options.url))
            settings.chmod(0o600)  # a gradebook's address may have a password in it
            report.write(options.out / "grades.csv", report.as_csv(rows))
            report.write(options.out / "grades.html", report.as_page(rows, left_out))
        return rows, left_out
    finally:
        book.close()


def _write_feedback(pairs: list[tuple[Path, Assignment]], options: Options, book: Book) -> None:
    for student, task in pairs:
        for spec in task.notebooks:
            place = Path(student.name, task.name)
            ran = options.out / "autograded" / place / f"{spec.name}.ipynb"
            notebook = nbformat.read(ran, 4) if ran.exists() else None
            record = _record(options, student.name, task.name)
            outcome = record.get("outcomes", {}).get(spec.name, {})
            text = feedback.as_page(
                row(options, book, student.name, task, spec),
                spec,
                notebook,
                book.grades(student.name, task.name, spec.name) or [],
                book.comments(student.name, task.name, spec.name),
                file_is_why=not outcome.get("again", True),
            )
            report.write(options.out / "feedback" / place / f"{spec.name}.html", text)


def _grade_all(pairs: Iterable[tuple[Path, Assignment]], options: Options, book: Book) -> None:
    pairs = list(pairs)
    stop = threading.Event()
    running: dict[Future, Job] = {}
    with tqdm(total=len(pairs), desc="Grading", unit="submission", disable=None) as bar:
        pool = ThreadPoolExecutor(options.jobs)

        def finish(wanted: int) -> None:
            while len(running) > wanted:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        future.result()
                    except Exception as error:  # one student's failure stops no other's
                        for outcome in job.outcomes.values():
                            outcome.reasons[""] = f"the grading failed ({type(error).__name__}: {error})"
                            outcome.again = True
                        job.ran.clear()
                    save(job, options, book)
                    bar.update()

        try:
            for student, assignment in pairs:
                job = prepare(student, assignment, book, options.limits)
                old = _record(options, student.name, assignment.name)
                known = book.grades(student.name, assignment.name, assignment.notebooks[0].name) is not None
                if not options.force and known and old.get("fingerprint") == job.fingerprint:
                    bar.update()
                    continue
                running[pool.submit(grade, job, options.limits, options.sandboxed, stop)] = job
                finish(options.jobs)
            finish(0)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _options() -> tuple[Options, bool]:
    about, formatter = __doc__, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m tools.grading", description=about, formatter_class=formatter
    )
    add, limits = parser.add_argument, Limits()
    add("submitted", type=Path, nargs="?", default=Path("submitted"), help="folder STUDENT/NAME/NAME.ipynb")
    add(
        "--source",
        type=Path,
        default=ROOT / "solutions",
        help="folder of the assignments (default: solutions)",
    )
    add("--out", type=Path, default=None, help="folder for all results (default: beside SUBMITTED, grading)")
    add("--db", default=None, metavar="URL", help="gradebook, any SQLAlchemy URL (default: OUT/gradebook.db)")
    add("--assignment", action="append", default=[], metavar="NAME", help="only this one (may be repeated)")
    add(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="submissions at a time (default: one per processor)",
    )
    add("--cell-seconds", type=float, default=limits.cell_seconds)
    add("--total-seconds", type=float, default=limits.total_seconds)
    add(
        "--memory-mb",
        type=int,
        default=limits.memory_mb,
        help="of one submission, all its processes together",
    )
    add("--processes", type=int, default=limits.processes)
    add("--file-mb", type=int, default=limits.file_mb, help="largest file that it may write")
    add("--output-mb", type=int, default=limits.output_mb, help="largest output of one cell")
    add("--force", action="store_true", help="grade everything again")
    add("--feedback", action="store_true", help="write a page for each student, too")
    add("--no-sandbox", action="store_true", help="run students' code unprotected, as yourself")
    got = parser.parse_args()
    if not got.submitted.is_dir():
        parser.error(f"there is no folder {got.submitted} with submissions (STUDENT/NAME/NAME.ipynb)")
    if got.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {got.jobs}")
    out = (got.out or got.submitted.resolve().parent / "grading").resolve()
    url = got.db or f"sqlite:///{out / 'gradebook.db'}"
    bounds = Limits(
        got.cell_seconds, got.total_seconds, got.memory_mb, got.processes, got.file_mb, got.output_mb
    )
    submitted, source, only = got.submitted.resolve(), got.source.resolve(), tuple(got.assignment)
    options = Options(submitted, source, out, url, bounds, got.jobs, not got.no_sandbox, only, got.force)
    return options, got.feedback


def main() -> int:
    """The command line; its exit code."""
    options, feedback = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with everything stopped
    try:
        rows, left_out = run(options, feedback)
    except (BookError, SandboxError) as error:
        print(error, file=sys.stderr)
        return 2
    except SQLAlchemyError as error:
        what = str(error).splitlines()[0]
        print(
            f"The gradebook failed ({what}). What was graded before is kept; run it again.", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("Interrupted. What was graded is kept; run it again to go on.", file=sys.stderr)
        return 130
    for state in report.EXPLAINED:
        print(f"{sum(r.state == state for r in rows):5d}  {state}: {report.EXPLAINED[state]}")
    for sentence in left_out:
        print(sentence)
    print(f"Report: {options.out / 'grades.html'} and {options.out / 'grades.csv'}")
    return 0
