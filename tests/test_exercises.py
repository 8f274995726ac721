"""The exercises: nbgrader makes them of solutions that run, without the answers; and the builder of both."""

import csv
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from gradients_in_depth import checks
from tests import test_stored_notebooks as house
from tests.branches import merge_two_branches
from tools import exercises as builder
from tools.lessons import KERNEL, PACKAGE, BuildError, read

ROOT = Path(__file__).parent.parent
SETS = builder.sets()
SCRIPT = ROOT / "solutions" / f"{SETS[0]}.py"
CONFIG = ROOT / builder.CONFIG


def load(path: Path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def solution(name):
    return load(builder.targets(name, ROOT)[0])


def exercise(name):
    return load(builder.targets(name, ROOT)[1])


def graded(notebook):
    return {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}


# --- The sets that are here --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_both_notebooks_were_built_from_the_code_as_it_is_now(name):
    assert builder.is_built(name), "run: make exercises"


@pytest.mark.slow  # nbgrader starts, once for each set
@pytest.mark.parametrize("name", SETS)
def test_nbgrader_makes_of_the_solution_what_is_stored(name, tmp_path):
    """Byte by byte; no cell is executed for it."""
    stored, made = (builder.targets(name, root)[1] for root in (ROOT, tmp_path))
    shutil.copytree(builder.targets(name, ROOT)[0].parent, builder.targets(name, tmp_path)[0].parent)
    builder.generate(name, tmp_path, CONFIG)
    assert made.read_bytes() == stored.read_bytes(), "run: make exercises NAMES=--force"


@pytest.mark.parametrize("name", SETS)
def test_the_solution_says_what_its_script_says(name):
    script = read(ROOT / "solutions" / f"{name}.py")
    assert house.texts_that_differ(solution(name), script) == [], "run: make exercises"


@pytest.mark.parametrize("name", SETS)
def test_the_exercise_shows_nothing_of_the_solution(name):
    assert builder.leaks(solution(name), exercise(name), CONFIG) == []


# An answer and its check stand together, so a set has more code than prose.
RULES = [rule for rule in house.RULES if rule is not house.as_much_prose_as_code]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_solution_follows_the_house_rules(rule, name):
    assert rule(solution(name)) == []


@pytest.mark.parametrize("name", SETS)
def test_functions_are_tried_with_other_seeds_when_they_are_graded(name):
    """A prediction has no inputs to draw; for everything else hidden tests use seeds that nobody has seen."""
    cells = graded(solution(name))
    for grade_id, cell in cells.items():
        if grade_id.endswith("_check"):
            seen, _, hidden = cell.source.partition("### BEGIN HIDDEN TESTS")
            is_function = "def " in cells[grade_id.removesuffix("_check")].source
            assert ("seed=" in hidden) == is_function
            assert "seed" not in seen


def run(notebook, folder, allow_errors=True):
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=allow_errors)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in KERNEL.items():
            environment.setenv(name, value)
        client.execute(cwd=str(folder))
    return notebook


def errors(cell):
    return [o for o in cell.get("outputs", []) if o.output_type == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_a_blank_exercise_says_kindly_what_to_do_and_no_check_passes(name, tmp_path):
    notebook = run(exercise(name), tmp_path)
    failed = [cell for cell in notebook.cells if errors(cell)]
    first = errors(failed[0])[0]
    assert (first.ename, first.evalue.split(":")[0]) in {
        ("NotImplementedError", "Write your answer here, in place of this line."),
        ("Mistake", "There is no answer yet"),
    }
    for grade_id, cell in graded(notebook).items():
        if grade_id.endswith("_check"):
            (error,) = errors(cell)
            assert error.ename == "Mistake" and error.evalue.startswith(checks.EMPTY)
            assert "Traceback" not in "".join(error.traceback)
    others = [c for c in notebook.cells if c.cell_type == "code" and "nbgrader" not in c.metadata]
    assert {error.ename for cell in others for error in errors(cell)} <= {"NotImplementedError"}


@pytest.mark.slow
def test_grading_gives_all_points_for_the_solution_and_none_for_a_blank(tmp_path, monkeypatch):
    """The whole way through nbgrader, with a gradebook; its text waits for a person."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    name = SETS[0]
    for folder in ("solutions", "exercises"):
        shutil.copytree(ROOT / folder / name, tmp_path / folder / name)
    shutil.copy(CONFIG, tmp_path)
    answered, answers = exercise(name), graded(solution(name))
    for grade_id, cell in graded(answered).items():
        if cell.metadata.nbgrader.solution:
            cell.source = re.sub(r"### (BEGIN|END) SOLUTION", "# mine", answers[grade_id].source)
        else:
            cell.source = "pass  # whoever edits a check gets it back"
    for student, notebook in (("diligent", answered), ("absent", exercise(name))):
        target = tmp_path / "submitted" / student / name / f"{name}.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(notebook, target)
    for command in ("generate_assignment", "autograde"):
        builder.nbgrader(tmp_path, command, name, "--force")
    scores = tmp_path / "scores.csv"
    builder.nbgrader(tmp_path, "export", f"--to={scores}")
    with scores.open(encoding="utf-8") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    points = {i: c.metadata.nbgrader.points for i, c in answers.items() if c.metadata.nbgrader.grade}
    by_hand = sum(points[i] for i in points if not i.endswith("_check"))
    assert by_hand > 0
    assert float(rows["diligent"]["score"]) == sum(points.values()) - by_hand
    assert float(rows["absent"]["score"]) == 0
    assert float(rows["absent"]["max_score"]) == sum(points.values())
    assert list((tmp_path / "temporary").iterdir()) == []  # nothing stays on the machine


def test_the_folders_hold_what_nbgrader_may_release_and_nothing_else():
    """nbgrader lists every folder of solutions/, and copies every file of one to the exercise."""
    folders = {path.name for path in (ROOT / "solutions").iterdir() if path.is_dir()}
    assert folders - {".ipynb_checkpoints"} == set(SETS), "an assignment without a script, or a stray folder"
    for name in SETS:
        for target in builder.targets(name, ROOT):
            files = [path.name for path in target.parent.iterdir() if path.name != ".ipynb_checkpoints"]
            assert files == [target.name]


def test_every_check_belongs_to_one_exercise():
    used = [i.removesuffix("_check") for n in SETS for i in graded(solution(n)) if i.endswith("_check")]
    assert sorted(used) == sorted(n for n, c in vars(checks).items() if isinstance(c, checks.Check))


@pytest.mark.parametrize("name", SETS)
def test_the_readmes_name_the_set(name):
    for readme in ("exercises/README.md", "solutions/README.md"):
        assert name[:2] in re.findall(r"\b\d\d\b", (ROOT / readme).read_text(encoding="utf-8"))
    assert f"({name}/{name}.ipynb)" in (ROOT / "exercises" / "README.md").read_text(encoding="utf-8")


# --- The builder: what an author does wrong is named -------------------------------------------------------


DAMAGE = {
    "answr": ("# %% answer growth_rate", "# %% answr growth_rate", "'answr growth_rate' is not a marker"),
    "title": ("# %% check growth_rate", "# %% Check it", "'Check it' is not a marker"),
    "unmarked": ("# %% answer growth_rate\n", "# %%\n", "SOLUTION belongs in a cell marked answer"),
    "no end": ("    return gradient\n    ### END SOLUTION", "    return gradient", "belong together"),
    "misspelt": ("### BEGIN HIDDEN TESTS\nchecks.growth", "### BEGIN HIDEN TESTS\nchecks.growth", "belong"),
    "no region": (
        "### BEGIN SOLUTION\nlayers = 21  # 2^(16 - 2n) <= 2^-25, half of the smallest float16: "
        "n >= 20.5\n### END SOLUTION",
        "layers = 21",
        "what is the answer?",
    ),
    "no such check": ("# %% check growth_rate", "# %% check growth_rates", "growth_rate and growth_rates"),
    "unknown": ("growth_rate", "growth_speed", "there is no gradients_in_depth.checks.growth_speed"),
    "other check": (
        "\nchecks.growth_rate(growth)",
        "\nchecks.shared_weight(growth)",
        "its check begins with",
    ),
    "points": ("medium · 3 points*\n#\n# Lesson", "medium · 5 points*\n#\n# Lesson", "growth_rate says 3"),
    "no facts": ("*20 minutes · medium · 3 points*", "about 20 minutes", "needs a number, a title"),
    "difficulty": ("*20 minutes · medium", "*20 minutes · tricky", "needs a number, a title"),
    "order": (
        "*5 minutes · easy",
        "*5 minutes · expert",
        "| 2 | How many layers does a scale buy? | 5 | expert",
    ),
    "table": ("| 4 | Three patients", "| 4 | Two patients", "needs the line '| 4 | Three patients"),
    "sum": ("95 minutes, 18 points", "90 minutes, 18 points", "needs the words '95 minutes, 18 points'"),
    "numbers": ("## Exercise 3", "## Exercise 7", "not numbered from 1 on"),
    "rubric": ("**Rubric", "**Points", "a **Rubric** in its solution"),
    "text as code": (
        "# %% text level_norm [markdown]",
        "# %% text level_norm",
        "text is for a markdown cell",
    ),
    "no check": (
        "# %% check scaled_underflow\nchecks.scaled_underflow(layers)\n",
        "",
        "an answer and a check",
    ),
}


@pytest.mark.parametrize(("old", "new", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_a_fault_of_a_script_is_named(old, new, sentence, tmp_path):
    text = SCRIPT.read_text(encoding="utf-8")
    assert old in text
    damaged = tmp_path / SCRIPT.name
    damaged.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        builder.mark(read(damaged), SCRIPT.stem)
    assert sentence in str(caught.value)


def test_too_few_exercises_are_named(tmp_path):
    text = SCRIPT.read_text(encoding="utf-8")
    short = tmp_path / SCRIPT.name
    short.write_text(text[: text.index("# %% [markdown]\n# ## Exercise 4")], encoding="utf-8")
    with pytest.raises(BuildError, match="4 to 6 exercises, and here are 3"):
        builder.mark(read(short), SCRIPT.stem)


def secret_line(notebook):
    graded(notebook)["growth_rate"].source += "\n    # total += math.log(stretch)"


def marking_left(notebook):
    graded(notebook)["growth_rate_check"].source += "\n### BEGIN HIDDEN TESTS"


def stub_gone(notebook):
    graded(notebook)["growth_rate"].source = "def growth(matrices, message):\n    pass"


def text_left(notebook):
    cell = graded(notebook)["level_norm"]
    cell.source += '\nTake off one point, once, for "the gradient vanishes": its norm does not.'


def broken_code(notebook):
    graded(notebook)["growth_rate"].source += "\n  )"


def output_left(notebook):
    notebook.cells[1].execution_count = 1


def same_ids(notebook):
    notebook.cells[1].id = notebook.cells[0].id


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (secret_line, "growth_rate shows 'total += math.log(stretch)'"),
        (marking_left, "growth_rate_check has a mark"),
        (stub_gone, "growth_rate does not say where the answer goes"),
        (text_left, "level_norm shows 'Take off one point"),
        (broken_code, "growth_rate is no longer Python"),
        (output_left, "has outputs"),
        (same_ids, "other cells than the solution"),
    ],
)
def test_a_leak_is_named(damage, sentence):
    damage(notebook := exercise(SETS[0]))
    assert sentence in " ".join(builder.leaks(solution(SETS[0]), notebook, CONFIG))


@pytest.fixture
def course(tmp_path):
    """A course with the first set, as it is stored."""
    for target in builder.targets(SETS[0], ROOT):
        shutil.copytree(target.parent, tmp_path / target.parent.relative_to(ROOT))
    shutil.copy(SCRIPT, tmp_path / "solutions")
    shutil.copy(CONFIG, tmp_path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_nbgrader_refuses_leaves_everything_in_place(course, monkeypatch):
    """Its own --force deletes the exercise first."""
    before = contents(course)
    stored = solution(SETS[0])
    graded(stored)["growth_rate"].metadata.nbgrader.grade_id = "shared_weight"
    monkeypatch.setattr(
        builder, "build", lambda script, target: target.write_text(nbformat.writes(stored), encoding="utf-8")
    )
    monkeypatch.setattr(builder, "mark", lambda notebook, name: [])
    with pytest.raises(BuildError, match="It says: .*Duplicate grade id: shared_weight"):
        builder.build_set(SETS[0], course)
    assert contents(course) == before


@pytest.mark.slow
def test_a_script_that_fails_leaves_everything_in_place_and_is_named(course, capsys):
    script = course / "solutions" / SCRIPT.name
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace("layers = 21 ", "layers = 22 "), encoding="utf-8")
    before = contents(course)
    assert builder.main([], course) == 1
    message = capsys.readouterr().err
    assert "cell 5 (line" in message and "Mistake: Within one layer of it" in message
    assert contents(course) == before


def write_down(course, name=SETS[0], package=PACKAGE):
    """As the builder does it when a set is built."""
    builder.record_in(course).enter(name, builder.hashes_now(name, course, package))


def test_what_is_current_is_left_alone(course, capsys):
    write_down(course)
    before = contents(course)
    assert builder.main([], course) == 0
    assert capsys.readouterr().out == "All 1 sets are current.\n"
    assert contents(course) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        (f"solutions/{SETS[0]}.py", "layers = 21 ", "layers = 21  ", "its source has changed"),
        (builder.CONFIG, "Write your answer here", "Answer here", "its source has changed"),
        (f"solutions/{SETS[0]}/{SETS[0]}.ipynb", '"nbformat"', ' "nbformat"', "something else has saved it"),
        (f"exercises/{SETS[0]}/{SETS[0]}.ipynb", "pencil", "pen", "something else has saved it"),
    ],
    ids=["script", "settings", "solution", "exercise"],
)
def test_a_set_of_which_something_has_changed_is_named(course, capsys, file, old, new, why):
    write_down(course)
    path = course / file
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert builder.main(["--check"], course) == 1
    assert capsys.readouterr().out == f"not current: {SETS[0]} ({why})\n"


def test_a_comment_in_the_settings_changes_no_set(course):
    write_down(course)
    with (course / builder.CONFIG).open("a", encoding="utf-8") as file:
        file.write("\n# A comment.\n")
    assert builder.is_built(SETS[0], course)


def test_a_set_that_was_never_built_is_named(course, capsys):
    assert builder.main(["--check"], course) == 1
    assert capsys.readouterr().out == f"not current: {SETS[0]} (it was never built)\n"


def test_branches_that_change_two_checks_do_not_conflict(tmp_path):
    """Each builds its own set, neighbours in the file of hashes, and both are current after the merge."""
    for folder in ("utils/gradients_in_depth", "solutions", "exercises"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "built.json")
        )
    shutil.copy(CONFIG, tmp_path)
    package = tmp_path / "utils" / "gradients_in_depth"
    for name in SETS:
        write_down(tmp_path, name, package)

    def change(name):
        check = next(
            c for n in graded(solution(name)) if isinstance(c := getattr(checks, n, None), checks.Check)
        )
        module = tmp_path / "utils" / Path(*check.look.__module__.split(".")).with_suffix(".py")
        text = module.read_text(encoding="utf-8")
        assert text.count(f"def {check.name}(") == 1
        module.write_text(
            text.replace(f"def {check.name}(", f"def {check.name}(  # noqa\n    "), encoding="utf-8"
        )
        assert stale(tmp_path, package) == []
        line = f'    """{check.look.__doc__.splitlines()[0]}'
        module.write_text(text.replace(line, f"    assert True\n{line}"), encoding="utf-8")
        assert stale(tmp_path, package) == [name]
        path = builder.targets(name, tmp_path)[0]  # as if it printed something else now
        path.write_text(path.read_text(encoding="utf-8").replace('"Right (', '"Right! ('), encoding="utf-8")
        write_down(tmp_path, name, package)

    words = merge_two_branches(tmp_path, lambda: change(SETS[0]), lambda: change(SETS[1]))
    assert "CONFLICT" not in words and "solutions/built.json" in words
    assert stale(tmp_path, package) == []


def stale(root, package):
    return [name for name in SETS if not builder.is_built(name, root, package)]


def test_an_unknown_set_is_named(course, capsys):
    with pytest.raises(SystemExit):
        builder.main(["99_nothing"], course)
    assert "There is no set named '99_nothing'; there are 01_chain" in capsys.readouterr().err
