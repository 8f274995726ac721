"""Build the exercises: run each percent script of `solutions`, and let nbgrader take the answers out.

`NN_name.py` becomes `solutions/NN_name/NN_name.ipynb`, with its outputs, and from that nbgrader makes
`exercises/NN_name/NN_name.ipynb`. Both are made in a scratch folder, without nbgrader's database, looked
through, and only then moved here together: a set that fails leaves its last good files in place.
`solutions/built.json` says what they were made from (`tools/built.py`).

An exercise begins with `## Exercise 3 · Its title` and a line `*20 minutes · medium · 3 points*`. After that
come `# %% answer NAME` and `# %% check NAME`, where NAME is a function of `gradients_in_depth.checks`, or,
graded by hand, `# %% text NAME [markdown]`. What nbgrader has to know is made from these.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from traitlets.config import PyFileConfigLoader

from gradients_in_depth import checks
from tools.built import Record, hash_of
from tools.lessons import KERNEL, PACKAGE, BuildError, build, why_stale
from tools.lessons import origin as origin_of_script
from tools.modules import canonical, parse, without_docstrings

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "nbgrader_config.py"
DIFFICULTIES = ("warm-up", "easy", "medium", "hard", "expert")
HEADING = re.compile(r"^## Exercise (?P<number>\d+) · (?P<title>.+)\n\n(?P<facts>.*)$", re.MULTILINE)
FACTS = re.compile(
    rf"\*(?P<minutes>\d+) minutes · (?P<difficulty>{'|'.join(DIFFICULTIES)}) · (?P<points>\d+) points?\*"
)
MARKER = re.compile(r"(?P<kind>answer|check|text) (?P<name>[a-z][a-z0-9_]*)")
# The parts of a cell that nbgrader takes out, and the kind of cell that may have them.
REGIONS = {"SOLUTION": "answer", "HIDDEN TESTS": "check"}


@dataclass
class Exercise:
    """One exercise of a set: what its heading says, and its marked cells by their kind."""

    number: int
    title: str
    minutes: int
    difficulty: str
    points: int
    cells: dict[str, NotebookNode] = field(default_factory=dict)
    name: str = ""

    def row(self) -> str:
        """Its line in the table at the beginning of the set."""
        return f"| {self.number} | {self.title} | {self.minutes} | {self.difficulty} | {self.points} |"


def build_set(name: str, root: Path = ROOT) -> None:
    """Build the solution and the exercise of the set `name`.

    Raises `BuildError`, and leaves the files of the set as they were, when a cell fails, when a marker is
    wrong, and when the exercise would show an answer.
    """
    origin = origin_of(name, root)  # before: somebody may edit the code meanwhile
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        solution, exercise = targets(name, scratch)
        solution.parent.mkdir(parents=True)
        build(script_of(name, root), solution)
        notebook = nbformat.read(solution, as_version=nbformat.NO_CONVERT)
        mark(notebook, name)
        _write(notebook, solution)
        generate(name, scratch, root / CONFIG)
        faults = leaks(notebook, nbformat.read(exercise, as_version=nbformat.NO_CONVERT), root / CONFIG)
        if faults:
            raise BuildError(f"{name}: {faults[0]}")
        for new, target in zip((solution, exercise), targets(name, root), strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = shutil.copyfile(new, target.with_name(f".{target.name}.tmp"))
            os.replace(temporary, target)
    record_in(root).enter(name, origin | hashes_of_targets(name, root))


def script_of(name: str, root: Path) -> Path:
    """The percent script of a set."""
    return root / "solutions" / f"{name}.py"


def targets(name: str, root: Path) -> tuple[Path, Path]:
    """Where the solution and the exercise of a set are."""
    return root / "solutions" / name / f"{name}.ipynb", root / "exercises" / name / f"{name}.ipynb"


def _write(notebook: NotebookNode, path: Path) -> None:
    path.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8", newline="\n")


# --- Markers to metadata -----------------------------------------------------------------------------------


def mark(notebook: NotebookNode, name: str) -> list[Exercise]:
    """Turn the markers of the cells into nbgrader's metadata, in place; returns the exercises.

    Raises `BuildError` for the first thing that is not as the head of this file says.
    """
    exercises: list[Exercise] = []
    for cell in notebook.cells:
        title = cell.metadata.pop("title", "")
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's own note
        marker = MARKER.fullmatch(title)
        if title and not marker:
            raise BuildError(f"{name}: {title!r} is not a marker: an answer, a check or a text, and its NAME")
        kind, marked = marker.group("kind", "name") if marker else ("", "")
        _check_regions(cell, kind, f"{name}, {title or 'a cell without a marker'}")
        if cell.cell_type == "markdown" and not kind:
            exercises += _headings(cell.source, name)
        elif kind and not exercises:
            raise BuildError(f"{name}, {title}: it comes before the first exercise")
        elif kind:
            _mark_cell(cell, kind, marked, exercises[-1], name)
    _check_set(exercises, notebook.cells[0].source, name)
    return exercises


def _headings(text: str, name: str) -> Iterator[Exercise]:
    for number, line in enumerate(text.splitlines()):
        if line.startswith("## Exercise"):
            heading = HEADING.match("\n".join(text.splitlines()[number:]))
            facts = FACTS.fullmatch(heading["facts"]) if heading else None
            if not heading or not facts:
                raise BuildError(
                    f"{name}: {line!r} needs a number, a title, and below it a line such as "
                    f"'*20 minutes · medium · 3 points*' (difficulty: {', '.join(DIFFICULTIES)})"
                )
            minutes, difficulty, points = facts.groups()
            yield Exercise(int(heading["number"]), heading["title"], int(minutes), difficulty, int(points))


def _mark_cell(cell: NotebookNode, kind: str, marker: str, exercise: Exercise, name: str) -> None:
    where = f"{name}, exercise {exercise.number}"
    if kind in exercise.cells:
        raise BuildError(f"{where}: it has two cells marked {kind}")
    if exercise.name not in ("", marker):
        raise BuildError(f"{where}: its cells are named {exercise.name} and {marker}")
    if (cell.cell_type == "markdown") != (kind == "text"):
        raise BuildError(f"{where}: {kind} is for a {'markdown' if kind == 'text' else 'code'} cell")
    if kind == "check":
        check = getattr(checks, marker, None)
        if not isinstance(check, checks.Check):
            raise BuildError(f"{where}: there is no gradients_in_depth.checks.{marker}")
        if check.points != exercise.points:
            raise BuildError(
                f"{where}: its heading says {exercise.points} points, and checks.{marker} says {check.points}"
            )
        if not cell.source.startswith(f"checks.{marker}("):
            raise BuildError(f"{where}: its check begins with checks.{marker}(...)")
    exercise.name, exercise.cells[kind] = marker, cell
    graded = {"points": exercise.points} if kind != "answer" else {}
    cell.metadata["nbgrader"] = {
        "grade": kind != "answer",
        "grade_id": f"{marker}_check" if kind == "check" else marker,
        "locked": kind == "check",
        **graded,
        "schema_version": 3,
        "solution": kind != "check",
        "task": False,
    }


def _check_regions(cell: NotebookNode, kind: str, where: str) -> None:
    for region, owner in REGIONS.items():
        begins, ends = (cell.source.count(f"### {edge} {region}") for edge in ("BEGIN", "END"))
        if begins != ends or begins > 1 or cell.source.count(region) != begins + ends:
            raise BuildError(f"{where}: one '### BEGIN {region}' and one '### END {region}' belong together")
        if begins and kind != owner:
            raise BuildError(f"{where}: {region} belongs in a cell marked {owner}")
        if not begins and kind == owner == "answer":
            raise BuildError(f"{where}: what is the answer? Put it between '### BEGIN {region}' and its END")


def _check_set(exercises: Sequence[Exercise], opening: str, name: str) -> None:
    if not 4 <= len(exercises) <= 6:
        raise BuildError(f"{name}: a set has 4 to 6 exercises, and here are {len(exercises)}")
    if [exercise.number for exercise in exercises] != list(range(1, len(exercises) + 1)):
        raise BuildError(f"{name}: the exercises are not numbered from 1 on")
    for exercise in exercises:
        if set(exercise.cells) not in ({"answer", "check"}, {"text"}):
            raise BuildError(f"{name}, exercise {exercise.number}: it needs an answer and a check, or a text")
        if exercise.row() not in opening.splitlines():
            raise BuildError(f"{name}: the table at the beginning needs the line '{exercise.row()}'")
    names = [exercise.name for exercise in exercises]
    if len(set(names)) < len(names):
        raise BuildError(f"{name}: two exercises have one name")
    ranks = [DIFFICULTIES.index(exercise.difficulty) for exercise in exercises]
    if ranks != sorted(ranks) or (ranks[0], ranks[-1]) != (0, len(DIFFICULTIES) - 1):
        raise BuildError(
            f"{name}: a set begins with a warm-up, ends with an expert's, and rises between them"
        )
    texts = [exercise.cells["text"].source for exercise in exercises if "text" in exercise.cells]
    if not texts or not all("**Rubric" in text for text in texts):
        raise BuildError(f"{name}: a set has a text, and each text a **Rubric** in its solution")
    minutes, points = (sum(getattr(e, what) for e in exercises) for what in ("minutes", "points"))
    if f"{minutes} minutes, {points} points" not in opening:
        raise BuildError(f"{name}: the opening needs the words '{minutes} minutes, {points} points'")


# --- Solution to exercise ----------------------------------------------------------------------------------


def generate(name: str, course: Path, config: Path) -> None:
    """Let nbgrader make the exercise of `name` in the folder `course`, with no settings but `config`.

    nbgrader executes nothing here. Raises `BuildError` with its own words when it refuses.
    """
    shutil.copyfile(config, course / CONFIG)
    try:
        nbgrader(course, "generate_assignment", name, "--no-db", "--force")
    except BuildError as error:
        raise BuildError(f"{name}: nbgrader made no exercise. {error}") from None


def nbgrader(course: Path, *command: str) -> None:
    """Run one command of nbgrader in the folder `course`, without anybody's personal settings.

    Raises `BuildError` with its own words when it fails.
    """
    own = {f"JUPYTER_{what}_DIR": str(course / ".jupyter" / what) for what in ("CONFIG", "DATA", "RUNTIME")}
    ipython = course / ".jupyter" / "ipython"
    ipython.mkdir(parents=True, exist_ok=True)  # else IPython takes a temporary folder and leaves it
    environment = os.environ | KERNEL | own | {"IPYTHONDIR": str(ipython)}
    # It starts `alembic` by its name alone, and finds it only where an environment is activated.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *command],
        cwd=course,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        raise BuildError(f"It says: {errors[0] if errors else lines[-1]}")  # the first is the cause


def leaks(solution: NotebookNode, exercise: NotebookNode, config: Path) -> list[str]:
    """What is wrong with an exercise, in sentences: above all, what it shows of the solution."""
    settings = PyFileConfigLoader(config.name, path=str(config.parent)).load_config().ClearSolutions
    stub, text_stub = settings.code_stub["python"], settings.text_stub
    if [cell.get("id") for cell in solution.cells] != [cell.get("id") for cell in exercise.cells]:
        return ["the exercise has other cells than the solution"]
    if len({cell.id for cell in exercise.cells}) < len(exercise.cells):
        return ["two cells have one id"]
    faults = []
    for before, after in zip(solution.cells, exercise.cells, strict=True):
        about = before.metadata.get("nbgrader", {})
        where = f"the exercise's cell {about.get('grade_id', after.id)}"
        if after.get("outputs") or after.get("execution_count"):
            faults.append(f"{where} has outputs")
        if any(f"{edge} {region}" in after.source for region in REGIONS for edge in ("BEGIN", "END")):
            faults.append(f"{where} has a mark of what was taken out")
        if (
            about.get("solution")
            and after.source.count(stub if after.cell_type == "code" else text_stub) != 1
        ):
            faults.append(f"{where} does not say where the answer goes")
        faults += [f"{where} shows {line!r}" for line in _secret(before) if line in after.source]
        if after.cell_type == "code":
            try:
                parse(after.source)
            except SyntaxError as error:
                faults.append(f"{where} is no longer Python: {error.msg}")
    return faults


def _secret(cell: NotebookNode) -> list[str]:
    """The lines of a cell of the solution that the exercise may not have."""
    lines = [line for part in taken_out(cell) for line in part.splitlines()]
    if cell.cell_type == "markdown":
        return [line for line in lines if line.strip()]
    return [line.strip() for line in lines if len(line.strip()) > 3]


def taken_out(cell: NotebookNode) -> list[str]:
    """What nbgrader takes out of a cell of the solution: a model answer whole, of code its marked regions."""
    if cell.cell_type == "markdown":
        return [cell.source] if cell.metadata.get("nbgrader", {}).get("solution") else []
    return re.findall(rf"### BEGIN (?:{'|'.join(REGIONS)})\n(.*?)\s*### END", cell.source, re.DOTALL)


# --- The command line --------------------------------------------------------------------------------------


def sets(root: Path = ROOT) -> list[str]:
    """The names of all sets: flat files, because nbgrader takes every folder here for an assignment."""
    return sorted(path.stem for path in (root / "solutions").glob("[0-9][0-9]_*.py"))


def record_in(root: Path) -> Record:
    """Where it is written down what the sets were built from."""
    return Record(root / "solutions", root / "solutions")


def origin_of(name: str, root: Path, package: Path = PACKAGE) -> dict[str, str]:
    """Hashes of what a set is made from: its script with nbgrader's settings, the code that it reaches."""
    settings = without_docstrings(parse((root / CONFIG).read_text(encoding="utf-8")))
    return origin_of_script(script_of(name, root), package, canonical(settings))


def hashes_of_targets(name: str, root: Path) -> dict[str, str]:
    """Hashes of the solution and the exercise that are stored."""
    return dict(zip(("solution", "exercise"), map(hash_of, targets(name, root)), strict=True))


def hashes_now(name: str, root: Path, package: Path = PACKAGE) -> dict[str, str]:
    """All hashes of a set."""
    return origin_of(name, root, package) | hashes_of_targets(name, root)


def is_built(name: str, root: Path = ROOT, package: Path = PACKAGE) -> bool:
    """Whether both notebooks of a set are what was made from its script and the package as they are now."""
    return not record_in(root).differences(name, hashes_now(name, root, package))


def _build_one(name: str, root: Path) -> bool:
    try:
        build_set(name, root)
    except BuildError as error:
        print(f"FAILED  {error}", file=sys.stderr)
        return False
    print(f"built  {name}")
    return True


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which sets (all of them when none is named)")
    parser.add_argument("--force", action="store_true", help="build also what is current")
    parser.add_argument("--check", action="store_true", help="build nothing, list what is not current")
    options = parser.parse_args(arguments)
    chosen = [Path(name).stem for name in options.names] or sets(root)
    if unknown := [name for name in chosen if name not in sets(root)]:
        parser.error(f"There is no set named {unknown[0]!r}; there are {', '.join(sets(root)) or 'none'}.")
    stale = [name for name in chosen if options.force or not is_built(name, root)]
    if not stale:
        print(f"All {len(chosen)} sets are current.")
    if options.check:
        for name in stale:
            reason = why_stale(script_of(name, root), hashes_now(name, root), record_in(root))
            print(f"not current: {name} ({reason})")
        return 1 if stale else 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return 0 if all(list(pool.map(lambda name: _build_one(name, root), stale))) else 1


if __name__ == "__main__":
    sys.exit(main())
