"""A class of right, wrong, broken and hostile submissions is graded as the table in grading_class.py says."""

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

from tests.grading_class import CLASS, NAME, RIGHT, SECRET, edited, released, save, write_class, write_course  # noqa: E402
from tools.grading import cli as grading  # noqa: E402 (after the line that skips without nbgrader)
from tools.grading import examine, execute, report  # noqa: E402
from tools.grading.examine import CannotGradeError  # noqa: E402
from tools.grading.sandbox import Limits, Sandbox  # noqa: E402

ROOT = Path(__file__).parent.parent
TESTS = ("test_double", "test_slope", "test_parts")


def grade(course: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.grading", course / "submitted"]
    command += ["--source", course / "source", "--cell-seconds", "15", "--memory-mb", "1024", *options]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def rows(course: Path) -> dict[str, dict]:
    with open(course / "grading" / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["student"].removeprefix("'"): row for row in csv.DictReader(file)}


def book(course: Path) -> grading_book.Book:
    return grading_book.Book(f"sqlite:///{course / 'grading' / 'gradebook.db'}")


def points(course: Path, student: str) -> tuple:
    with_book = book(course)
    grades = {g.name: g.auto for g in with_book.grades(student, NAME, NAME) or []}
    with_book.close()
    return tuple(grades.get(name) for name in TESTS)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def given(course: Path) -> dict:
    """The released notebook, made in a folder of its own."""
    place = course / "given"
    place.mkdir()
    grading_book.release(course, NAME, course / "source", place, f"sqlite:///{place / 'x.db'}")
    return released(place / NAME / f"{NAME}.ipynb")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The whole class, graded once, and what was there before and left afterwards."""
    course = tmp_path_factory.mktemp("course")
    source = write_course(course)
    paths = [str(course / name) for name in ("source", "submitted", "grading", "given")]
    paths += [str(ROOT / "solutions"), str(ROOT / "tests"), "/etc/passwd", "/home"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        write_class(course / "submitted", given(course), server.getsockname()[1], paths[:-1])
        before = hashes(course / "submitted") | hashes(source)
        done = grade(course, "--feedback", "--jobs", "4", PASSWORD_OF_GRADER="grader-secret")
    assert done.returncode == 0, done.stderr
    return course, before


@pytest.mark.slow
@pytest.mark.sandbox
class TestClass:
    def test_it_is_large_enough(self):
        assert len(CLASS) >= 40

    @pytest.mark.parametrize("student", CLASS)
    def test_outcome(self, graded, student):
        course, *_ = graded
        case, row = CLASS[student], rows(course)[student]
        assert (row["state"], points(course, student)) == (case.state, case.points), row
        assert case.word in row["reasons"] + row["remarks"]
        if case.state == "GRADED":
            assert float(row["score"]) == sum(case.points)
        else:
            assert row["score"] == ""
            assert row["reasons"]
        if case.state == "NOT GRADED":
            assert row["points_so_far"] == ""

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
            text = page.read_text()
            assert SECRET not in text
            assert "slope(10)" not in text
            assert "<script" not in text.lower()
            assert "code replaced" not in text  # what follows are words that the submission chose
        empty = course / "grading" / "feedback" / "empty-file" / NAME / f"{NAME}.html"
        assert "the file is empty" in empty.read_text()
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
        page = (course / "grading" / "grades.html").read_text()
        assert "odd &lt;b&gt;name" in page
        assert "<b>name" not in page
        assert "<script" not in page.lower()
        assert "'=HYPERLINK(1)" in (course / "grading" / "grades.csv").read_text()

    def test_not_graded_is_never_0(self, graded):
        course, *_ = graded
        page = (course / "grading" / "grades.html").read_text()
        (row,) = [line for line in page.splitlines() if "empty-file" in line]
        assert 'class="not-graded"' in row
        assert rows(course)["empty-file"]["points_so_far"] == ""

    def test_what_was_graded_is_kept(self, graded):
        course, *_ = graded
        (kept,) = (course / "grading" / "kept" / "right" / NAME).glob(f"*/{NAME}.ipynb")
        assert kept.read_bytes() == (course / "submitted" / "right" / NAME / f"{NAME}.ipynb").read_bytes()


@pytest.fixture
def course(tmp_path):
    """Three students, nothing graded yet."""
    write_course(tmp_path)
    notebook = given(tmp_path)
    for student, answers in {"ada": RIGHT, "bob": RIGHT | {"slope": ""}, "cem": RIGHT}.items():
        save(tmp_path / "submitted" / student / NAME, edited(notebook, **answers))
    return tmp_path


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
    def test_only_what_changed_and_grades_by_hand_stay(self, course):
        assert grade(course).returncode == 0
        by_hand(course, "ada", "why", 2.5, "Well said.")
        by_hand(course, "bob", "why", 1, "Too short.")
        notebook = course / "submitted" / "bob" / NAME / f"{NAME}.ipynb"
        save(notebook.parent, edited(json.loads(notebook.read_text()), slope=RIGHT["slope"]))
        records = {path: path.stat().st_mtime_ns for path in (course / "grading" / "records").rglob("*.json")}
        assert len(records) == 3
        done = grade(course, "--feedback")
        assert done.returncode == 0
        assert sum(path.stat().st_mtime_ns != then for path, then in records.items()) == 1
        now = rows(course)
        assert (now["ada"]["state"], now["ada"]["score"]) == ("GRADED", "9.5")
        # The answer that was graded by hand may be another one now: its points stay, a person looks again.
        assert (now["bob"]["state"], now["bob"]["points_so_far"]) == ("NEEDS A PERSON", "8")
        assert points(course, "bob") == (2, 3, 2)
        page = (course / "grading" / "feedback" / "bob" / NAME / f"{NAME}.html").read_text()
        assert "Too short." in page
        assert len(list((course / "grading" / "kept" / "bob" / NAME).iterdir())) == 2

    def test_a_broken_resubmission_takes_the_old_score_back_and_no_grade_by_hand(self, course):
        assert grade(course).returncode == 0
        by_hand(course, "ada", "why", 2.5, "Well said.")
        assert rows(course)["ada"]["points_so_far"] == "7"
        good = (course / "submitted" / "ada" / NAME / f"{NAME}.ipynb").read_bytes()
        save(course / "submitted" / "ada" / NAME, good[:100])
        assert grade(course).returncode == 0
        row = rows(course)["ada"]
        assert (row["state"], row["score"], row["points_so_far"]) == ("NOT GRADED", "", "")
        assert points(course, "ada") == (None, None, None)
        save(course / "submitted" / "ada" / NAME, good)
        assert grade(course).returncode == 0
        assert rows(course)["ada"]["points_so_far"] == "9.5"

    def test_interrupted_it_goes_on(self, course):
        endless = edited(json.loads((course / "submitted" / "cem" / NAME / f"{NAME}.ipynb").read_text()))
        slow = edited(endless, double="import time\ntime.sleep(40)")
        save(course / "submitted" / "cem" / NAME, slow)
        command = [sys.executable, "-m", "tools.grading", course / "submitted", "--jobs", "1"]
        command += ["--source", course / "source", "--cell-seconds", "60"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        records = course / "grading" / "records" / NAME
        for _ in range(1200):
            if len(list(records.glob("*.json"))) == 2:
                break
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "run it again to go on" in said
        now = rows(course)
        assert now["ada"]["points_so_far"] == "7"
        assert now["cem"]["state"] == "NOT GRADED"
        assert "interrupted" in now["cem"]["reasons"]
        before = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
        save(course / "submitted" / "cem" / NAME, edited(endless, **RIGHT))
        command[-1] = "60"
        assert subprocess.run(command, capture_output=True).returncode == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert rows(course)["cem"]["points_so_far"] == "7"

    def test_a_terminal_sees_how_far_it_is(self, course):
        """And a second run, which has nothing to do, is at its end at once."""
        for _ in range(2):
            command = [sys.executable, "-m", "tools.grading", course / "submitted"]
            command += ["--source", course / "source", "--jobs", "1"]
            terminal, theirs = os.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
            os.close(theirs)
            seen = b""
            with contextlib.suppress(OSError):  # the other end of a terminal that is closed
                while part := os.read(terminal, 10_000):
                    seen += part
            os.close(terminal)
            assert process.wait(60) == 0
            assert re.search(rb"Grading: +0%.* 0/3 .*Grading: +100%.* 3/3 ", seen, re.DOTALL), seen

    def test_formgrader_opens_on_what_was_graded(self, course):
        """From the folder of the grades, as `make formgrader` starts it."""
        assert grade(course).returncode == 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "jupyter", "server", "--allow-root", f"--ServerApp.port={port}"]
        command += ["--ServerApp.root_dir=.", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
        log, address = course / "server.log", f"http://127.0.0.1:{port}/formgrader"
        with log.open("w") as file:
            server = subprocess.Popen(command, cwd=course / "grading", stdout=file, stderr=file)
        try:
            submissions = json.loads(opened(f"{address}/api/submissions/{NAME}", log))
            assert {one["student"]: one["needs_manual_grade"] for one in submissions}["ada"]
            (ada,) = [one for one in submissions if one["student"] == "ada"]
            notebooks = json.loads(opened(f"{address}/api/submitted_notebooks/{NAME}/{NAME}", log))
            (of_ada,) = [one["id"] for one in notebooks if one["student"] == "ada"]
            page = opened(f"{address}/submissions/{of_ada}/", log)
            assert ada["score"] == 7 and 'id="why-comment"' in page
        finally:
            server.terminate()
            server.wait(20)

    def test_another_gradebook_by_its_url(self, course):
        url = f"sqlite:///{course / 'elsewhere.sqlite'}"
        assert grade(course, "--db", url).returncode == 0
        assert not (course / "grading" / "gradebook.db").exists()
        other = grading_book.Book(url)
        assert [g.auto for g in other.grades("ada", NAME, NAME) if g.name == "test_slope"] == [3]
        other.close()
        # The records are of that gradebook: a new one starts from the beginning.
        assert grade(course).returncode == 0
        assert points(course, "ada") == (2, 3, 2)


def opened(url: str, log: Path) -> str:
    """What an address gives, once its server is there."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=30) as page:
                return page.read().decode()
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"{url} does not answer: {log.read_text()[-1000:]}")


@pytest.mark.slow
class TestWithoutBubblewrap:
    def test_it_refuses_unless_told_otherwise(self, course, tmp_path):
        programs = tmp_path / "programs"
        programs.mkdir()
        for name in ("sh", "prlimit", "git"):
            if found := shutil.which(name):
                (programs / name).symlink_to(found)
        done = grade(course, PATH=str(programs))
        assert done.returncode == 2
        assert "bubblewrap is not installed" in done.stderr
        assert "--no-sandbox" in done.stderr
        assert not (course / "grading" / "grades.csv").exists()
        cell = edited(json.loads((course / "submitted" / "cem" / NAME / f"{NAME}.ipynb").read_text()))
        background = "import subprocess\nsubprocess.Popen(['sleep', '87654'], start_new_session=True)\n"
        save(course / "submitted" / "cem" / NAME, edited(cell, double=background + RIGHT["double"]))
        done = grade(course, "--no-sandbox", PATH=f"{programs}:/bin")
        assert done.returncode == 0, done.stderr
        assert points(course, "ada") == points(course, "cem") == (2, 3, 2)
        assert points(course, "bob") == (2, 0, 0)
        assert [p for p in psutil.process_iter(["cmdline"]) if "87654" in (p.info["cmdline"] or [])] == []

    def test_wrong_folders_are_said_in_a_sentence(self, course):
        done = grade(course, "--assignment", "slops", "--no-sandbox")
        assert done.returncode == 2
        assert "no assignment called slops" in done.stderr
        done = grade(course / "nowhere")
        assert done.returncode == 2
        assert "there is no folder" in done.stderr


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
        (tmp_path / path / "notebook.ipynb").write_text("{}")
    (tmp_path / "source" / "no assignment").mkdir()
    (tmp_path / "submitted" / "bob").mkdir()
    (tmp_path / "submitted" / "bob" / "two.ipynb").write_text("{}")
    (tmp_path / "submitted" / "eve").symlink_to(tmp_path / "source")

    def left_out(only, names):
        options = grading.Options(
            *[tmp_path / "submitted", tmp_path / "source", tmp_path], "", None, 1, True, only, False
        )
        tasks = [grading.Assignment(name, tmp_path / "source" / name, (), "") for name in names]
        taken, said = grading.handed_in(options, tasks, grading.students(tmp_path / "submitted"))
        return [task.name for task in taken], said

    strange = [
        "ada has tow, which is no folder of an assignment.",
        "bob has two.ipynb, which is no folder of an assignment.",
    ]
    assert left_out((), ("one", "two", "three")) == (["one"], ["Nobody handed in two, three.", *strange])
    asked = ["Not asked for, and not in this report: one.", *strange]
    assert left_out(("two",), ("two",)) == (["two"], asked)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("{}")
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
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "utils").rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)
    assert {
        "utils",
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
