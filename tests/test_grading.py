"""A class of right, wrong, broken and hostile submissions is graded as the tables beside this file say."""

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

fcntl = pytest.importorskip("fcntl", reason="the grading runs on Linux, on macOS and in WSL")
termios = pytest.importorskip("termios", reason="the grading runs on Linux, on macOS and in WSL")
grading_book = pytest.importorskip(
    "tools.grading.book", reason="nbgrader is not installed: pip install -e .[grading]"
)

from nbformat.v4 import new_code_cell, new_notebook, new_output  # noqa: E402
from sqlalchemy import Engine, event  # noqa: E402

from tests.grading_class import (  # noqa: E402 (after the line that skips without nbgrader)
    ANSWERS,
    NAME,
    RIGHT,
    SECRET,
    Case,
    edit,
    read,
    save,
    write_class,
    write_course,
)
from tests.grading_files import FILES  # noqa: E402
from tests.grading_hostile import ENDLESS, HOSTILE  # noqa: E402
from tools.grading import assignments, cli, examine, execute, report, run, submission  # noqa: E402
from tools.grading.examine import CannotGradeError  # noqa: E402
from tools.grading.sandbox import Limits, Sandbox  # noqa: E402

ROOT = Path(__file__).parent.parent
CLASS = ANSWERS | FILES | HOSTILE
TESTS = ("test_double", "test_slope", "test_parts")


def grade(course: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """The real command, from a folder other than the course's own."""
    command = [sys.executable, "-P", "-m", "tools.grading", course / "submitted", "--source", "source"]
    command += ["--memory-mb", "1024", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)


def grade_here(course: Path, *options: str) -> int:
    """The same in this process, which has imported nbgrader already."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return cli.main([str(course / "submitted"), "--source", str(course / "source"), *options])
    finally:
        signal.signal(signal.SIGTERM, handler)


def rows(course: Path) -> dict[str, dict]:
    with open(course / "grading" / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["student"].removeprefix("'"): row for row in csv.DictReader(file)}


def points(course: Path, student: str, url: str = "") -> tuple:
    book = grading_book.Book(url or f"sqlite:///{course / 'grading' / 'gradebook.db'}")
    with contextlib.closing(book):
        grades = {g.name: g.auto for g in book.grades(student, NAME, NAME) or []}
    return tuple(grades.get(name) for name in TESTS)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> dict:
    """The notebook as students get it."""
    folder = tmp_path_factory.mktemp("released")
    place = folder / "exercises"
    grading_book.release(folder, NAME, write_course(folder), place, f"sqlite:///{folder / 'x.db'}")
    return read(place / NAME / f"{NAME}.ipynb")


@pytest.fixture(scope="module")
def graded(tmp_path_factory, released):
    """The whole class, graded once, and what was there before and left afterwards."""
    course = tmp_path_factory.mktemp("course")
    source = write_course(course)
    paths = [str(course / name) for name in ("source", "submitted", "grading")]
    paths += [*(str(ROOT / name) for name in ("solutions", "tests", "tools")), "/etc/passwd"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        write_class(course / "submitted", CLASS, released, server.getsockname()[1], paths)
        before = hashes(course / "submitted") | hashes(source)
        options = ("--feedback", "--jobs", "4", "--cell-seconds", "60")
        done = grade(course, *options, PASSWORD_OF_GRADER="grader-secret")
    assert done.returncode == 0, done.stderr
    return course, before


def assert_outcome(course: Path, student: str, case: Case) -> None:
    row = rows(course)[student]
    assert (row["state"], points(course, student)) == (case.state, case.points), row
    assert case.word in row["reasons"] + row["remarks"]
    if case.state == "GRADED":
        assert float(row["score"]) == sum(case.points)
    else:
        assert row["score"] == ""
        assert row["reasons"]
    if case.state == "NOT GRADED":
        assert row["points_so_far"] == ""


@pytest.mark.slow
@pytest.mark.sandbox
class TestClass:
    def test_it_is_large_enough(self):
        assert len(CLASS) >= 90

    @pytest.mark.parametrize("student", CLASS)
    def test_outcome(self, graded, student):
        course, *_ = graded
        assert_outcome(course, student, CLASS[student])

    def test_what_was_submitted_is_as_it_was(self, graded):
        course, before, *_ = graded
        assert hashes(course / "submitted") | hashes(course / "source") == before

    def test_nothing_is_left_running(self, graded):
        assert [p for p in psutil.process_iter(["cmdline"]) if "98765" in (p.info["cmdline"] or [])] == []
        marked = []
        for process in psutil.process_iter():
            try:
                marked += [process] if "PASSWORD_OF_GRADER" in process.environ() else []
            except psutil.Error:
                continue
        assert marked == []

    def test_feedback_shows_no_hidden_test_and_runs_no_script(self, graded):
        course, *_ = graded
        pages = list((course / "grading" / "feedback").rglob("*.html"))
        assert len(pages) == len(CLASS)
        for page in pages:
            text = page.read_text(encoding="utf-8")
            assert SECRET not in text
            assert "slope(10)" not in text
            assert "<script" not in text.lower()
            assert "code replaced" not in text  # what follows are words that the submission chose
        empty = course / "grading" / "feedback" / "empty-file" / NAME / f"{NAME}.html"
        assert "the file is empty" in empty.read_text(encoding="utf-8")
        autograded = course / "grading" / "autograded" / "spreads-hidden-tests" / NAME / f"{NAME}.ipynb"
        notebook = nbformat.read(autograded, 4)
        leaked = [
            str(c.get("outputs"))
            for c in notebook.cells
            if c.metadata.get("nbgrader", {}).get("grade_id") == "slope"
        ]
        assert SECRET in leaked[0]  # otherwise the page above hides nothing

    def test_the_report_escapes_what_students_write(self, graded):
        course, *_ = graded
        page = (course / "grading" / "grades.html").read_text(encoding="utf-8")
        assert "odd &lt;b&gt;name" in page
        assert "<b>name" not in page
        assert "<script" not in page.lower()
        assert "'=HYPERLINK(1)" in (course / "grading" / "grades.csv").read_text(encoding="utf-8")

    def test_not_graded_is_never_0(self, graded):
        course, *_ = graded
        page = (course / "grading" / "grades.html").read_text(encoding="utf-8")
        (row,) = [line for line in page.splitlines() if "empty-file" in line]
        assert 'class="not-graded"' in row
        assert rows(course)["empty-file"]["points_so_far"] == ""

    def test_what_was_graded_is_kept(self, graded):
        course, *_ = graded
        (kept,) = (course / "grading" / "kept" / "right" / NAME).glob(f"*/{NAME}.ipynb")
        assert kept.read_bytes() == (course / "submitted" / "right" / NAME / f"{NAME}.ipynb").read_bytes()


@pytest.fixture(scope="module")
def graded_endless(tmp_path_factory, released):
    """Those that come to no end, whose time is up sooner than that of the others."""
    course = tmp_path_factory.mktemp("endless")
    write_course(course)
    write_class(course / "submitted", ENDLESS, released, 0, [])
    assert grade_here(course, "--jobs", "4", "--cell-seconds", "6") == 0
    return course


@pytest.mark.slow
@pytest.mark.sandbox
class TestEndless:
    @pytest.mark.parametrize("student", ENDLESS)
    def test_outcome(self, graded_endless, student):
        assert_outcome(graded_endless, student, ENDLESS[student])


def restore(folder: Path, name: str) -> Path:
    """Puts a copy of `name` where the course is, always in one place, which is in the gradebook's address.

    For another gradebook everything would be graded again.
    """
    shutil.rmtree(folder / "course", ignore_errors=True)
    shutil.copytree(folder / name, folder / "course")
    return folder / "course"


@pytest.fixture(scope="module")
def three_students(tmp_path_factory, released) -> Path:
    """A folder with a course, `fresh`, of which nothing is graded."""
    folder = tmp_path_factory.mktemp("three")
    write_course(folder / "fresh")
    for student, answers in {"ada": RIGHT, "bob": RIGHT | {"slope": ""}, "cem": RIGHT}.items():
        save(folder / "fresh" / "submitted" / student / NAME, edit(released, **answers))
    return folder


@pytest.fixture(scope="module")
def graded_once(three_students) -> Path:
    """The same folder, also with `graded`."""
    course = restore(three_students, "fresh")
    assert grade_here(course) == 0
    shutil.copytree(course, three_students / "graded")
    return three_students


@pytest.fixture
def course(three_students) -> Path:
    """Three students, nothing graded yet."""
    return restore(three_students, "fresh")


@pytest.fixture
def graded_course(graded_once) -> Path:
    """Three students, graded."""
    return restore(graded_once, "graded")


def notebook_of(course: Path, student: str) -> Path:
    return course / "submitted" / student / NAME / f"{NAME}.ipynb"


def by_hand(course: Path, student: str, cell: str, score: float, comment: str) -> None:
    """What a person enters in nbgrader's formgrader."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'grading' / 'gradebook.db'}") as gradebook:
        grade = gradebook.find_grade(cell, NAME, NAME, student)
        grade.manual_score, grade.needs_manual_grade = score, False
        gradebook.find_comment(cell, NAME, NAME, student).manual_comment = comment
        gradebook.db.commit()


@pytest.mark.slow
@pytest.mark.sandbox
class TestReruns:
    def test_only_what_changed_and_grades_by_hand_stay(self, graded_course):
        course = graded_course
        by_hand(course, "ada", "why", 2.5, "Well said.")
        by_hand(course, "bob", "why", 1, "Too short.")
        notebook = notebook_of(course, "bob")
        save(notebook.parent, edit(read(notebook), slope=RIGHT["slope"]))
        records = {path: path.stat().st_mtime_ns for path in (course / "grading" / "records").rglob("*.json")}
        assert len(records) == 3
        assert grade_here(course, "--feedback") == 0
        assert sum(path.stat().st_mtime_ns != then for path, then in records.items()) == 1
        now = rows(course)
        assert (now["ada"]["state"], now["ada"]["score"]) == ("GRADED", "9.5")
        # The answer that was graded by hand may be another one now: its points stay, a person looks again.
        assert (now["bob"]["state"], now["bob"]["points_so_far"]) == ("NEEDS A PERSON", "8")
        assert points(course, "bob") == (2, 3, 2)
        page = (course / "grading" / "feedback" / "bob" / NAME / f"{NAME}.html").read_text(encoding="utf-8")
        assert "Too short." in page
        assert len(list((course / "grading" / "kept" / "bob" / NAME).iterdir())) == 2

    def test_a_broken_resubmission_takes_the_old_score_back_and_no_grade_by_hand(self, graded_course):
        course = graded_course
        by_hand(course, "ada", "why", 2.5, "Well said.")
        assert rows(course)["ada"]["points_so_far"] == "7"
        good = notebook_of(course, "ada").read_bytes()
        save(course / "submitted" / "ada" / NAME, good[:100])
        assert grade_here(course) == 0
        row = rows(course)["ada"]
        assert (row["state"], row["score"], row["points_so_far"]) == ("NOT GRADED", "", "")
        assert points(course, "ada") == (None, None, None)
        save(course / "submitted" / "ada" / NAME, good)
        assert grade_here(course) == 0
        assert rows(course)["ada"]["points_so_far"] == "9.5"

    def test_interrupted_it_goes_on(self, graded_course):
        course, records = graded_course, graded_course / "grading" / "records" / NAME
        right = read(notebook_of(course, "cem"))
        save(course / "submitted" / "bob" / NAME, right)
        save(course / "submitted" / "dan" / NAME, edit(right, double="import time\ntime.sleep(25)"))
        first = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
        command = [sys.executable, "-m", "tools.grading", course / "submitted", "--jobs", "1"]
        command += ["--source", course / "source"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(1200):
            if any(path.stat().st_mtime_ns != then for path, then in first.items()):
                break
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "run it again to go on" in errors
        now = rows(course)
        assert [now[student]["points_so_far"] for student in ("ada", "bob", "dan")] == ["7", "7", ""]
        assert now["dan"]["state"] == "NOT GRADED"
        assert "interrupted" in now["dan"]["reasons"]
        before = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
        assert len(before) == 3
        save(course / "submitted" / "dan" / NAME, right)
        assert grade_here(course) == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert rows(course)["dan"]["points_so_far"] == "7"

    def test_a_terminal_sees_how_far_it_is(self, course):
        """And a second run, which has nothing to do, is at its end at once."""
        for student in ("bob", "cem"):
            shutil.rmtree(course / "submitted" / student)
        for _ in range(2):
            command = [sys.executable, "-m", "tools.grading", course / "submitted"]
            command += ["--source", course / "source", "--jobs", "1"]
            terminal, theirs = os.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs)
            os.close(theirs)
            seen = b""
            with contextlib.suppress(OSError):  # the other end of a terminal that is closed
                while part := os.read(terminal, 10_000):
                    seen += part
            os.close(terminal)
            assert process.wait(60) == 0
            assert re.search(rb"Grading: +0%.* 0/1 .*Grading: +100%.* 1/1 ", seen, re.DOTALL), seen

    def test_formgrader_opens_on_what_was_graded(self, graded_course):
        """From the folder of the grades, as `make formgrader` starts it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "jupyter", "server", "--allow-root", f"--ServerApp.port={port}"]
        command += ["--ServerApp.root_dir=.", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
        log, address = graded_course / "server.log", f"http://127.0.0.1:{port}/formgrader"
        with log.open("w", encoding="utf-8") as file:
            server = subprocess.Popen(command, cwd=graded_course / "grading", stdout=file, stderr=file)
        try:
            submissions = json.loads(get(f"{address}/api/submissions/{NAME}", log))
            assert {one["student"]: one["needs_manual_grade"] for one in submissions}["ada"]
            (ada,) = [one for one in submissions if one["student"] == "ada"]
            notebooks = json.loads(get(f"{address}/api/submitted_notebooks/{NAME}/{NAME}", log))
            (of_ada,) = [one["id"] for one in notebooks if one["student"] == "ada"]
            page = get(f"{address}/submissions/{of_ada}/", log)
            assert ada["score"] == 7 and 'id="why-comment"' in page
        finally:
            server.terminate()
            server.wait(20)

    def test_another_gradebook_by_its_url(self, course):
        for student in ("bob", "cem"):
            shutil.rmtree(course / "submitted" / student)
        url = f"sqlite:///{course / 'elsewhere.sqlite'}"
        assert grade_here(course, "--db", url) == 0
        assert not (course / "grading" / "gradebook.db").exists()
        assert points(course, "ada", url) == (2, 3, 2)
        # The records are of that gradebook: a new one starts from the beginning.
        assert grade_here(course) == 0
        assert points(course, "ada") == (2, 3, 2)


def get(url: str, log: Path) -> str:
    """What an address gives, once its server is there."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=30) as page:
                return page.read().decode()
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"{url} does not answer: {log.read_text(encoding='utf-8')[-1000:]}")


@pytest.mark.slow
class TestWithoutBubblewrap:
    def test_it_refuses_unless_told_otherwise(self, course, tmp_path):
        programs = tmp_path / "programs"
        programs.mkdir()
        for name in ("sh", "prlimit", "git"):
            if program := shutil.which(name):
                (programs / name).symlink_to(program)
        done = grade(course, PATH=str(programs))
        assert done.returncode == 2
        assert "bubblewrap is not installed" in done.stderr
        assert "--no-sandbox" in done.stderr
        assert not (course / "grading" / "grades.csv").exists()
        background = "import subprocess\nsubprocess.Popen(['sleep', '87654'], start_new_session=True)\n"
        notebook = notebook_of(course, "cem")
        save(notebook.parent, edit(read(notebook), double=background + RIGHT["double"]))
        done = grade(course, "--no-sandbox", PATH=f"{programs}:/bin")
        assert done.returncode == 0, done.stderr
        assert points(course, "ada") == points(course, "cem") == (2, 3, 2)
        assert points(course, "bob") == (2, 0, 0)
        assert [p for p in psutil.process_iter(["cmdline"]) if "87654" in (p.info["cmdline"] or [])] == []

    def test_wrong_folders_are_said_in_a_sentence(self, course, capsys):
        assert grade_here(course, "--assignment", "slops", "--no-sandbox") == 2
        assert "no assignment called slops" in capsys.readouterr().err
        with pytest.raises(SystemExit) as caught:
            grade_here(course / "nowhere")
        assert caught.value.code == 2
        assert "there is no folder" in capsys.readouterr().err


def points_of(source: str, *outputs, ended: str = "ok", most: float = 4):
    cell = new_code_cell(source, metadata={"nbgrader": {"grade": True, "solution": False, "points": most}})
    return execute.score_of(cell, execute.CellRun(0, ended, outputs=list(outputs)))


def result(text: str):
    return new_output("execute_result", {"text/plain": text}, execution_count=1)


def test_points_of_a_test():
    warning = new_output("stream", name="stderr", text="old")
    assert points_of("assert True", warning) == 4
    assert points_of("assert False", ended="error") == 0
    assert points_of("f()", result("2.5"), warning) == 2.5
    assert points_of("f()", result("'fine'")) == 4
    assert points_of("f()", result("1"), ended="error") == 0
    assert points_of("assert f()", result("1")) == 4  # something displayed it that is not the test
    for text in ("5", "-1", "nan", "inf"):
        assert points_of("f()", result(text)) is None
    assert points_of("f()", result("1"), result("4")) is None
    assert points_of("assert True", ended="time") is None


def test_numbers_and_formulas_in_the_report():
    assert [report.number(v) for v in (None, 0.0, 7.0, 2.5, 1 / 3)] == ["", "0", "7", "2.5", "0.333"]
    row = report.Row("=1+1", "a", "a", "NOT GRADED", None, None, 3, ("<i>\n=x",), ())
    assert "'=1+1,a,a,NOT GRADED,,,3,<i> =x," in report.as_csv([row])
    assert "<i>" not in report.as_page([row], ["<b>"])


def test_every_key_in_the_gradebook_leads_somewhere(tmp_path):
    """PostgreSQL refuses others; SQLite does so when it is told to."""
    source, url = write_course(tmp_path), f"sqlite:///{tmp_path / 'gradebook.db'}"

    def insist(connection, _):
        connection.execute("PRAGMA foreign_keys = ON")

    event.listen(Engine, "connect", insist)
    try:
        grading_book.release(tmp_path, NAME, source, tmp_path / "released", url)
        one = grading_book.Book(url)
        one.record("ada", NAME, {NAME: None})
        assert one.has(NAME) and [grade.points for grade in one.grades("ada", NAME, NAME)] == [None] * 4
        one.close()
    finally:
        event.remove(Engine, "connect", insist)


def test_what_the_report_leaves_out_is_named(tmp_path):
    for path in ("source/one", "source/two", "source/three", "submitted/ada/one", "submitted/ada/tow"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "notebook.ipynb").write_text("{}", encoding="utf-8")
    (tmp_path / "source" / "no assignment").mkdir()
    (tmp_path / "submitted" / "bob").mkdir()
    (tmp_path / "submitted" / "bob" / "two.ipynb").write_text("{}", encoding="utf-8")
    (tmp_path / "submitted" / "eve").symlink_to(tmp_path / "source")

    def left_out(only, names):
        source, students = tmp_path / "source", run.student_folders(tmp_path / "submitted")
        tasks = [assignments.Assignment(name, source / name, (), "") for name in names]
        chosen, notes = run.choose_assignments(source, only, tasks, students)
        return [task.name for task in chosen], notes

    strange = [
        "ada has tow, which is no folder of an assignment.",
        "bob has two.ipynb, which is no folder of an assignment.",
    ]
    assert left_out((), ("one", "two", "three")) == (["one"], ["Nobody handed in two, three.", *strange])
    others = ["Not asked for, and not in this report: one.", *strange]
    assert left_out(("two",), ("two",)) == (["two"], others)


def test_nothing_is_graded_again_after_a_change_of_the_program_alone(tmp_path):
    """Where this fails, every class is graded again: raise VERSION if the points may differ, and say so."""
    cell = examine.CellSpec("test", "code", True, True, False, False, 2.0, "abc", "assert f()", "")
    spec = examine.NotebookSpec(NAME, (cell,), (("code", "", "test"),), {"name": "python3"})
    files = {f"{NAME}.ipynb": b"{}", "given.txt": b"given"}
    of_assignment = assignments.fingerprint("sqlite:///gradebook.db", [spec], files)
    assert of_assignment.startswith("1c656e83f1806d02")
    save(tmp_path / "ada" / NAME, b"")
    assignment = assignments.Assignment(NAME, tmp_path / "source", (spec,), of_assignment)
    job = submission.prepare(tmp_path / "ada", assignment, None, Limits())
    assert job.outcomes[NAME].reasons == {"": "the file is empty"}
    assert job.fingerprint.startswith("d91622c2ed86a785")


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("{}", encoding="utf-8")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "secret")
    with pytest.raises(CannotGradeError) as caught:
        examine.read_bytes(tmp_path / "link.ipynb")
    assert str(caught.value) == "link.ipynb is a link, not a file"


@pytest.mark.slow
@pytest.mark.sandbox
def test_honest_libraries_are_not_taken_for_tampering(tmp_path):
    """Everything that a lesson imports, torch's functions and an open figure, before a test."""
    import threading

    # A name with a dot for each module: `gradients_in_depth.checks` is a folder.
    paths = [path.relative_to(ROOT / "utils").with_suffix("") for path in (ROOT / "utils").rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)
    assert {
        "gradients_in_depth",
        "gradients_in_depth.checks",
        "gradients_in_depth.checks.common",
        "gradients_in_depth.training",
    } <= set(names)
    modules = ", ".join(names)
    cells = [
        new_code_cell(f"import torch, numpy, scipy.stats, sklearn, random, unittest, math\nimport {modules}"),
        new_code_cell("assert True", metadata={"nbgrader": {"grade": True, "solution": False, "points": 1}}),
    ]
    limits = Limits(cell_seconds=120)
    done = execute.execute(
        new_notebook(cells=cells), lambda: Sandbox(limits, tmp_path), limits, threading.Event()
    )
    assert [run.ended for run in done.cells.values()] == ["ok", "ok"], done
    assert done.tampered == {}
