"""One submission on its way: examined, run, entered into the gradebook, and its row of the report."""

import json
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.grading import examine, execute
from tools.grading.assignments import Assignment
from tools.grading.book import Book
from tools.grading.examine import CannotGradeError, NotebookSpec, printable
from tools.grading.files import digest, read_folder, write
from tools.grading.report import GRADED, NOT_GRADED, PARTLY, WAITING, Row
from tools.grading.sandbox import Limits, Sandbox, SandboxError


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
    """One submission of one assignment, and what is to be graded of it.

    By notebook: `submitted` is what the student saved, `examined` what can be run of it, `executed` what ran.
    `files` lie beside the notebooks when they run.
    """

    student: str
    assignment: Assignment
    folder: Path
    files: dict[str, bytes]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    submitted: dict[str, bytes] = field(default_factory=dict)
    examined: dict[str, NotebookNode] = field(default_factory=dict)
    executed: dict[str, NotebookNode] = field(default_factory=dict)
    fingerprint: str = ""


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
    job = Job(student.name, assignment, folder, files)
    names = {spec.name: _prepare_notebook(job, spec, book, remarks) for spec in assignment.notebooks}
    outcomes = [
        json.dumps([outcome.reasons, outcome.remarks, names[name]])
        for name, outcome in sorted(job.outcomes.items())
    ]
    parts = [part for name in sorted(job.submitted) for part in (name, job.submitted[name])]
    parts += [part for name in sorted(files) for part in (name, files[name])]
    job.fingerprint = digest(assignment.fingerprint, repr(limits), *outcomes, *parts)
    return job


def _prepare_notebook(job: Job, spec: NotebookSpec, book: Book, remarks: list[str]) -> str | None:
    """Puts one notebook into the job, or why it cannot be graded; the name of its file, if there is one."""
    outcome = job.outcomes[spec.name] = Outcome(remarks=list(remarks))
    file_name = None
    try:
        path, notes = examine.find_notebook(job.folder, spec)
        outcome.remarks += notes
        job.submitted[spec.name] = data = examine.read_bytes(path)
        file_name = path.name
        examined = examine.examine(data, spec, outcome.remarks)
        outcome.remarks, outcome.reasons = examined.remarks, dict(examined.for_a_person)
        job.examined[spec.name] = book.restore(examined.notebook, job.assignment.name, spec.name)
    except CannotGradeError as error:
        outcome.reasons[""] = str(error)
    except Exception as error:  # one student's file stops no other's, whatever is in it
        what = printable(f"{type(error).__name__}: {error}")
        outcome.reasons[""] = f"the file could not be examined ({what})"
    return file_name


def grade(job: Job, limits: Limits, sandboxed: bool, stop: threading.Event) -> Job:
    """Runs the notebooks of one submission, each in a sandbox of its own."""
    with tempfile.TemporaryDirectory() as name:
        files = {n: d for n, d in read_folder(job.assignment.source).items() if not n.endswith(".ipynb")}
        for path, data in {**job.files, **files}.items():  # the assignment's own files come last
            target = Path(name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for notebook_name, notebook in job.examined.items():
            outcome = job.outcomes[notebook_name]
            try:
                execution = execute.execute(
                    notebook, lambda: Sandbox(limits, Path(name), sandboxed=sandboxed), limits, stop
                )
            except SandboxError as error:
                outcome.reasons[""], outcome.again = f"the sandbox failed, not the submission: {error}", True
                continue
            _enter(notebook, execution, outcome)
            job.executed[notebook_name] = notebook
    return job


def _enter(notebook: NotebookNode, execution: execute.Execution, outcome: Outcome) -> None:
    """Puts what ran into the notebook, and its tests' points and everything worth saying into the outcome."""
    outcome.remarks += execution.remarks
    for index, run in execution.cells.items():
        cell = notebook.cells[index]
        cell.outputs = run.outputs
        is_test = execute.is_test(cell)
        if not is_test and run.why and run.ended != "not run":
            outcome.remarks.append(f"Cell {index + 1}: {run.why}.")
        if not is_test:
            continue
        name = cell.metadata.nbgrader.grade_id
        if index in execution.tampered:
            outcome.scores[name], outcome.reasons[name] = None, f"test {name}: {execution.tampered[index]}"
            continue
        outcome.scores[name] = points = execute.score_of(cell, run)
        if points is None:
            why = run.why or "its last line gave no number from 0 to the maximum"
            outcome.reasons[name] = f"test {name} did not come to a result: {why}"


def save(job: Job, out: Path, book: Book) -> None:
    """Enters a graded submission into the gradebook; last of all the record, which makes it count as done."""
    name = job.assignment.name
    executed = out / "autograded" / job.student / name
    submitted = out / "kept" / job.student / name / job.fingerprint[:12]
    for spec in job.assignment.notebooks:
        if spec.name in job.executed:
            write(executed / f"{spec.name}.ipynb", nbformat.writes(job.executed[spec.name]))
        else:
            (executed / f"{spec.name}.ipynb").unlink(missing_ok=True)
        if spec.name in job.submitted:
            submitted.mkdir(parents=True, exist_ok=True)
            (submitted / f"{spec.name}.ipynb").write_bytes(job.submitted[spec.name])
    results = {
        spec.name: (job.executed[spec.name], job.outcomes[spec.name].scores)
        if spec.name in job.executed
        else None
        for spec in job.assignment.notebooks
    }
    try:
        timestamp = examine.read_bytes(job.folder / "timestamp.txt", 1000).decode().strip()
    except (CannotGradeError, UnicodeDecodeError):
        timestamp = None
    try:
        book.record(job.student, name, results, timestamp)
    except (ValueError, OverflowError):  # a timestamp that is none
        book.record(job.student, name, results)
    outcomes = {notebook: asdict(outcome) for notebook, outcome in job.outcomes.items()}
    again = any(outcome.again for outcome in job.outcomes.values())
    record = {"fingerprint": "" if again else job.fingerprint, "outcomes": outcomes}
    write(_record_path(out, job.student, name), json.dumps(record))


def _record_path(out: Path, student: str, assignment: str) -> Path:
    # A student's name may be no file name elsewhere; its hash is one everywhere.
    return out / "records" / assignment / f"{digest(student)[:32]}.json"


def read_record(out: Path, student: str, assignment: str) -> dict:
    """What was saved of a submission when it was graded last; nothing where that cannot be read."""
    try:
        record = json.loads(_record_path(out, student, assignment).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


def row(out: Path, book: Book, student: str, assignment: Assignment, spec: NotebookSpec) -> Row:
    """What stands for one notebook of one student: the record's reasons, the gradebook's points."""
    outcome = read_record(out, student, assignment.name).get("outcomes", {}).get(spec.name)
    most = spec.max_score
    if outcome is None:
        why = ("it was not graded yet: the grading was interrupted; run it again",)
        return Row(student, assignment.name, spec.name, NOT_GRADED, None, None, most, why, ())
    grades = book.grades(student, assignment.name, spec.name) or []
    points = [grade.points for grade in grades if grade.points is not None]
    so_far = sum(points) if points else None
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
    sentences = [*reasons.values()]
    sentences += [f"{cell} waits to be read" for cell in waiting if cell not in reasons and "" not in reasons]
    return Row(student, assignment.name, spec.name, state, None, so_far, most, tuple(sentences), remarks)
