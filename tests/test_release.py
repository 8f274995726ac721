"""The archive for students has everything that they need, and no solution, hidden test or rubric."""

import difflib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat
import pytest

from gradients_in_depth import checks
from tests.branches import commit, git
from tools import release

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """This folder as it is now, all of it committed."""
    folder = tmp_path_factory.mktemp("course")
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def archive(course, tmp_path_factory):
    out = tmp_path_factory.mktemp("archive") / "course.zip"
    assert release.main(["--out", str(out)], course) == 0
    return out


@pytest.fixture(scope="module")
def files(archive):
    """All that a student gets, by its name."""
    with zipfile.ZipFile(archive) as opened:
        assert len(set(opened.namelist())) == len(opened.namelist())
        assert all(name.startswith(f"{release.FOLDER}/") for name in opened.namelist())
        return {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder / release.FOLDER


@pytest.fixture
def changed(course, tmp_path, monkeypatch):
    """A copy of the course for a test to change; what the exercises are made from is not looked at."""
    shutil.copytree(course, tmp_path / "changed")
    monkeypatch.setattr(release, "check_exercises", lambda *_: None)
    return tmp_path / "changed"


# --- What is in it -----------------------------------------------------------------------------------------


def lines_of(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


@functools.cache
def taken_out():
    """As `_taken_out` reads them from the notebooks, once for all tests."""
    return list(_taken_out())


def _taken_out():
    """What the exercises of all sets have not, and their solutions have: (where, consecutive lines)."""
    for path in sorted((ROOT / "solutions").glob("*/*.ipynb")):
        exercise = nbformat.read(ROOT / "exercises" / path.parent.name / path.name, nbformat.NO_CONVERT)
        given = {cell.id: lines_of(cell.source) for cell in exercise.cells}
        for cell in nbformat.read(path, nbformat.NO_CONVERT).cells:
            lines = [line for line in lines_of(cell.source) if not line.startswith("### ")]
            matcher = difflib.SequenceMatcher(None, lines, given[cell.id], autojunk=False)
            for kind, first, last, *_ in matcher.get_opcodes():
                if kind in ("delete", "replace"):
                    yield f"{path.stem}, {cell.metadata.nbgrader.grade_id}", lines[first:last]


def words_of(value):
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return "\n".join(map(words_of, inner))


def answers_shown(files):
    """Everything in which a student would find an answer, by name."""
    found = []
    for name, data in files.items():
        if name.endswith(".png"):
            continue
        text = words_of(json.loads(data)) if name.endswith(".ipynb") else data.decode()
        marks = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN", "END HIDDEN", "Rubric")
        found += [f"{name}: {mark}" for mark in marks if mark in text]
        whole = "\n".join(lines_of(text))
        for where, lines in taken_out():
            secret = "\n".join(lines)
            # Fewer characters may stand in a lesson by chance; in the exercises they may not.
            own = name.startswith("exercises/") and where.partition(",")[0] in name
            if secret in whole if len(secret) >= 25 else own and set(lines) & set(whole.splitlines()):
                found.append(f"{name}: {where}")
    return found


def test_nbgrader_takes_something_out_of_every_graded_cell_of_every_set():
    """Otherwise the next test would look for nothing."""
    seen = {where for where, _ in taken_out()}
    for path in (ROOT / "solutions").glob("*/*.ipynb"):
        for cell in nbformat.read(path, nbformat.NO_CONVERT).cells:
            about = cell.metadata.get("nbgrader", {})
            if about.get("solution") or "BEGIN HIDDEN" in cell.source:
                assert f"{path.stem}, {about['grade_id']}" in seen


def test_there_is_no_answer_in_it(files):
    assert answers_shown(files) == []


def solution_of_first_set():
    return sorted((ROOT / "solutions").glob("*/*.ipynb"))[0]


def as_notebook(text):
    cells = [nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=text)])]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells)).encode()


def in_an_exercise(files):
    name = f"exercises/{solution_of_first_set().stem}/{solution_of_first_set().name}"
    lines = min((lines for _, lines in taken_out()), key=lambda lines: len("\n".join(lines)))
    notebook = json.loads(files[name])
    notebook["cells"][-1]["source"] = [f"    {line}\n" for line in lines]
    return name, json.dumps(notebook).encode()


LEAKS = {
    "solution": lambda files: ("utils/gradients_in_depth/notes.ipynb", solution_of_first_set().read_bytes()),
    "script": lambda files: (
        "utils/gradients_in_depth/notes.py",
        (ROOT / "solutions" / f"{solution_of_first_set().stem}.py").read_bytes(),
    ),
    "a short answer in its exercise": in_an_exercise,
}
for where, lines in taken_out():
    if len("\n".join(lines)) >= 25:
        LEAKS |= {
            f"{where}, in a module": lambda files, lines=lines: (
                "utils/gradients_in_depth/data.py",
                files["utils/gradients_in_depth/data.py"]
                + "".join(f"\n\n        {line}  " for line in lines).encode(),
            ),
            f"{where}, in an output": lambda files, lines=lines: (
                "notebooks/00_start_here.ipynb",
                as_notebook("\n".join(lines)),
            ),
        }


@pytest.mark.parametrize("plant", LEAKS.values(), ids=LEAKS)
def test_a_leak_would_be_found(files, plant):
    """By this test, and by the command itself."""
    name, data = plant(files)
    assert answers_shown({name: data})
    assert release.answers_in({name: data}, ROOT)


def test_it_has_what_students_need_and_nothing_else(files, course):
    tracked = set(git(course, "ls-files", "-z").split("\0"))
    assert files.keys() <= tracked
    for name in tracked - files.keys() - {""}:
        assert not re.fullmatch(r"notebooks/\d\d_.*\.ipynb|exercises/.*|utils/.*|LICENSE.*", name)
    for name in files:
        assert re.fullmatch(
            r"notebooks/\d\d_\w+\.ipynb|exercises/(\d\d_\w+)/\1\.ipynb|utils/gradients_in_depth/(\w+/)?\w+\.(py|js|css)"
            r"|(exercises/)?README\.md|LICENSE(-text)?|CITATION\.cff|Makefile|\.github/explorer\.png"
            r"|pyproject\.toml|requirements\.txt|environment\.yml",
            name,
        )
    for name, data in files.items():
        if name not in ("README.md", "exercises/README.md", "Makefile"):
            assert data == (course / name).read_bytes()


def test_its_pages_name_nothing_that_is_not_there(files):
    targets = set(re.findall(rb"^([a-z]+):", files["Makefile"], re.MULTILINE))
    pages = {name: data.decode() for name, data in files.items() if name.endswith(".md")}
    for page in pages.values():
        assert "tests/" not in page and "solutions/" not in page and "sources/" not in page
        assert {word.encode() for word in re.findall(r"(?:`|^)make ([a-z]+)", page, re.MULTILINE)} <= targets
    for name in files:
        if name.endswith(".ipynb"):
            cells = json.loads(files[name])["cells"]
            pages[name] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for name, page in pages.items():
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page):
            if not re.match(r"[a-z]+:", link):
                place = os.path.normpath(os.path.join(os.path.dirname(name), link))
                assert place in files or any(file.startswith(f"{place}/") for file in files), (name, link)


# --- That it can be used -----------------------------------------------------------------------------------

RUN = """
import json, sys
from pathlib import Path
import gradients_in_depth
from gradients_in_depth import checks
assert Path(gradients_in_depth.__file__).resolve().parent == Path.cwd() / "utils/gradients_in_depth"
for path in sorted(Path("exercises").glob("*/*.ipynb")):
    names = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        about = cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] == "code":
            try:
                exec("".join(cell["source"]), names)
            except (NotImplementedError, checks.Mistake) as error:
                if about.get("locked"):
                    print(type(error).__name__, path.stem, error)
"""


def test_its_package_is_imported_and_its_checks_run(unpacked):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {
        "PYTHONPATH": str(unpacked / "utils"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "agg",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=unpacked, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("Mistake ")]
    assert len(said) == sum(isinstance(check, checks.Check) for check in vars(checks).values())
    assert all(checks.EMPTY in line for line in said)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_lab_works_in_it(unpacked):
    """As far as it goes without an installation; of the rest nothing is missing."""

    def make(*arguments):
        return subprocess.run(["make", *arguments], cwd=unpacked, capture_output=True, text=True, check=True)

    assert re.findall(r"^make (\w+)", make("help").stdout, re.MULTILINE) == ["help", "lab", "clean"]
    planned = make("--dry-run", "lab").stdout
    assert "-m jupyter lab" in planned and "solutions" not in planned and "tests" not in planned
    for name in ("requirements.txt", "notebooks/00_start_here.ipynb"):
        assert f" {name}\n" in planned and (unpacked / name).is_file()


# --- The same bytes ----------------------------------------------------------------------------------------


def test_the_same_commit_gives_the_same_bytes(course, archive, tmp_path, monkeypatch):
    """In another clone, with other times and modes, another time zone, and files that nobody committed."""
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(course), "other")
    for day, path in enumerate(sorted(other.rglob("*"), reverse=True)):
        if path.is_file() and ".git" not in path.parts:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
            path.chmod(0o600)
            os.utime(path, (day * 86_400, day * 86_400))
    git(other, "config", "core.fileMode", "false")
    (other / "solutions" / "more.py").write_text("# not committed, and not released\n", encoding="utf-8")
    monkeypatch.setattr(release, "check_exercises", lambda *_: None)  # it changes nothing
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert release.main(["--out", str(tmp_path / "new" / "again.zip")], other) == 0
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (tmp_path / "new" / "again.zip").read_bytes() == archive.read_bytes()


def test_its_times_are_in_the_past_wherever_it_is_unpacked(course, archive):
    committed = int(git(course, "log", "-1", "--format=%ct"))
    with zipfile.ZipFile(archive) as opened:
        (stored,) = {entry.date_time for entry in opened.infolist()}
        assert {entry.external_attr >> 16 for entry in opened.infolist()} == {0o100644}
    assert stored[:5] == time.gmtime(committed - 12 * 3600)[:5]


# --- What the command refuses ------------------------------------------------------------------------------


def refusal(folder, capsys):
    """What the command says; it must leave an older archive as it was."""
    out = folder.parent / "old.zip"
    out.write_text("old", encoding="utf-8")
    assert release.main(["--out", str(out)], folder) == 1
    assert out.read_text(encoding="utf-8") == "old" and not list(folder.parent.glob(".old.zip*"))
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("No archive was made. ")
    return said


@pytest.mark.parametrize(
    "name", ["README.md", "utils/gradients_in_depth/data.py", "exercises/new.txt", "notebooks/11_new.ipynb"]
)
def test_what_is_not_committed_is_named(name, changed, capsys):
    with open(changed / name, "a", encoding="utf-8") as file:
        file.write("\n")
    assert f"{name} would be released, and is not committed" in refusal(changed, capsys)
    git(changed, "add", "--all")
    assert f"{name} would be released, and is not committed" in refusal(changed, capsys)


def test_a_deleted_lesson_is_named(changed, capsys):
    (changed / "notebooks" / "00_start_here.ipynb").unlink()
    assert "00_start_here.ipynb would be released, and is not committed" in refusal(changed, capsys)


def test_what_is_not_released_may_be_unfinished(changed, tmp_path):
    (changed / "tests" / "test_data.py").write_text("# half of it\n", encoding="utf-8")
    (changed / "notebooks" / "sources" / "11_new.py").write_text("# half of it\n", encoding="utf-8")
    assert release.main(["--out", str(tmp_path / "course.zip")], changed) == 0


def test_a_link_is_named(changed, capsys):
    (changed / "exercises" / "key.ipynb").symlink_to(solution_of_first_set())
    commit(changed)
    assert "exercises/key.ipynb would be released, and is a link" in refusal(changed, capsys)


def test_an_answer_is_named(changed, capsys):
    shutil.copy(solution_of_first_set(), changed / "notebooks" / "11_answers.ipynb")
    commit(changed)
    assert "answer in what students would get: notebooks/11_answers.ipynb has the words" in refusal(
        changed, capsys
    )


def test_an_unfinished_mark_for_staff_is_named(changed, capsys):
    page = changed / "README.md"
    page.write_text(page.read_text(encoding="utf-8").replace("END STAFF", "END STUFF"), encoding="utf-8")
    commit(changed)
    assert "README.md has the words 'BEGIN STAFF'" in refusal(changed, capsys)


def test_a_folder_without_git_is_named(changed, capsys):
    shutil.rmtree(changed / ".git")
    assert "is made of what git has committed here, and git says: fatal: not a git" in refusal(
        changed, capsys
    )


@pytest.fixture
def one_set(course, tmp_path):
    """The course with nothing but its first set of exercises."""
    shutil.copytree(course, tmp_path / "one")
    first, *others = sorted(path.stem for path in (tmp_path / "one" / "solutions").glob("[0-9]*.py"))
    for name in others:
        (tmp_path / "one" / "solutions" / f"{name}.py").unlink()
        shutil.rmtree(tmp_path / "one" / "exercises" / name)
    commit(tmp_path / "one")
    return tmp_path / "one", tmp_path / "one" / "exercises" / first / f"{first}.ipynb"


def test_a_missing_exercise_is_named(one_set, capsys):
    folder, exercise = one_set
    exercise.unlink()
    commit(folder)
    assert f"The exercise of {exercise.stem} is missing" in refusal(folder, capsys)


def test_an_exercise_that_is_not_of_its_source_is_named(one_set, capsys):
    folder, exercise = one_set
    exercise.write_text(
        exercise.read_text(encoding="utf-8").replace("paper and pencil", "pencil and paper"), encoding="utf-8"
    )
    commit(folder)
    assert f"{exercise.name} is not what its source gives" in refusal(folder, capsys)


def test_a_source_that_went_on_is_named(one_set, capsys):
    folder, exercise = one_set
    script = folder / "solutions" / f"{exercise.stem}.py"
    script.write_text(
        script.read_text(encoding="utf-8").replace("paper and pencil", "pencil and paper"), encoding="utf-8"
    )
    assert f"{exercise.name} is not what its source gives" in refusal(folder, capsys)


def test_a_file_beside_an_exercise_is_named(one_set, capsys):
    folder, exercise = one_set
    (exercise.parent / "key.txt").write_text("21", encoding="utf-8")
    commit(folder)
    assert "key.txt is not what its source gives" in refusal(folder, capsys)


def test_an_exercise_without_a_source_is_named(one_set, capsys):
    folder, exercise = one_set
    shutil.copytree(exercise.parent, exercise.parent.parent / "99_old")
    commit(folder)
    assert f"exercises/99_old/{exercise.name} belongs to no set of exercises" in refusal(folder, capsys)
