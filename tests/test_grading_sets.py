"""The sets that are here, through the real command: all points for the solution, 0 for a blank exercise."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install -e .[grading]")

ROOT = Path(__file__).parent.parent
SETS = sorted(path.stem for path in (ROOT / "solutions").glob("[0-9]*.py"))
STUDENTS = {"diligent": "solutions", "blank": "exercises"}  # what each hands in, as it is stored

pytestmark = [pytest.mark.slow, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What the report says of each, by student and set; all sets are graded in one run."""
    folder = tmp_path_factory.mktemp("class")
    for student, source in STUDENTS.items():
        for name in SETS:
            target = folder / "submitted" / student / name / f"{name}.ipynb"
            target.parent.mkdir(parents=True)
            shutil.copy(ROOT / source / name / target.name, target)
    command = [sys.executable, "-m", "tools.grading", folder / "submitted"]
    # Far above what they take: on a busy machine a slow check is no wrong answer.
    command += ["--cell-seconds", "300", "--total-seconds", "1500"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(folder / "grading" / "grades.csv", encoding="utf-8", newline="") as file:
        return {(row["student"], row["assignment"]): row for row in csv.DictReader(file)}


def points_of(name):
    """What a set gives automatically, and what a person gives."""
    notebook = nbformat.read(ROOT / "solutions" / name / f"{name}.ipynb", nbformat.NO_CONVERT)
    graded = [about for cell in notebook.cells if (about := cell.metadata.get("nbgrader", {})).get("grade")]
    by_hand = sum(about["points"] for about in graded if about["solution"])
    return sum(about["points"] for about in graded) - by_hand, by_hand


@pytest.mark.timeout(3600)  # the first test waits for all of them
@pytest.mark.parametrize("name", SETS)
class TestSets:
    def test_the_solution_has_all_automatic_points(self, rows, name):
        row, (automatic, by_hand) = rows["diligent", name], points_of(name)
        assert automatic > 0 and by_hand > 0
        assert float(row["max_score"]) == automatic + by_hand
        assert (row["state"], float(row["points_so_far"] or "nan")) == ("NEEDS A PERSON", automatic), row

    def test_a_blank_is_graded_with_0(self, rows, name):
        row = rows["blank", name]
        assert (row["state"], row["score"], row["points_so_far"]) == ("GRADED", "0", "0"), row
