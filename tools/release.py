"""Make the archive of the course for students: everything that they need, and no answer.

    make release                                  dist/gradients-in-depth.zip
    make release RELEASE_ARGS="--out course.zip"
    python -m tools.release --out course.zip

It is made of what git has committed, and of `RELEASED` only: a new file stays here until somebody lists it.
What stands between BEGIN STAFF and END STAFF is left out of it. The same commit gives the same bytes.
"""

import argparse
import datetime
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat

from tools.exercises import CONFIG, generate, leaks, mark, sets, taken_out, targets
from tools.lessons import BuildError, read

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "gradients-in-depth"
RELEASED = (
    "README.md",
    ".github/explorer.png",
    "LICENSE",
    "LICENSE-text",
    "CITATION.cff",
    "Makefile",
    "pyproject.toml",
    "requirements.txt",
    "environment.yml",
    ":(glob)notebooks/*.ipynb",
    "exercises",
    "utils",
)
FOR_STAFF = re.compile(rb"^[^\n]*BEGIN STAFF[^\n]*\n.*?^[^\n]*END STAFF[^\n]*\n", re.DOTALL | re.MULTILINE)
MARKS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS", "**Rubric")
MARKS += ("BEGIN STAFF", "END STAFF")
SHORTEST = 25  # characters of an answer that cannot stand in a lesson by chance


class ReleaseError(Exception):
    """Why there is no archive: one sentence."""


def release(out: Path, root: Path = ROOT) -> str:
    """Write the archive to `out`; returns a sentence about it.

    Raises `ReleaseError`, and leaves what was there, when the exercises are not what their sources give, when
    something released is not committed, and when the archive would show an answer.
    """
    commit, seconds, files = committed(root)
    check_exercises(files, root)
    files = {name: for_students(data) for name, data in files.items()}
    if shown := answers_in(files, root):
        raise ReleaseError(f"There is an answer in what students would get: {shown[0]}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.tmp")
    new.write_bytes(zipped(files, seconds))
    os.replace(new, out)
    return f"{out}: {len(files)} files, {len(sets(root))} sets of exercises, of commit {commit[:12]}."


# --- What git has ------------------------------------------------------------------------------------------


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except OSError:
        raise ReleaseError(
            "The archive is made of what git has committed, and there is no git here."
        ) from None
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[0]
        raise ReleaseError(f"The archive is made of what git has committed here, and git says: {said}")
    return done.stdout


def committed(root: Path) -> tuple[str, int, dict[str, bytes]]:
    """The last commit, its time, and its released files by name; all of them must be as they are here."""
    commit, seconds = _git(root, "log", "-1", "--format=%H %ct").decode().split()
    status = _git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--", *RELEASED).decode()
    if changed := [entry[3:] for entry in status.split("\0") if entry[2:3] == " "]:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ReleaseError(f"{changed[0]}{more} would be released, and is not committed as it is here.")
    files = {}
    tar = io.BytesIO(_git(root, "archive", "--format=tar", commit, "--", *RELEASED))
    with tarfile.open(fileobj=tar) as archive:
        for member in archive:
            if not member.isfile() and not member.isdir():
                raise ReleaseError(f"{member.name} would be released, and is a link.")
            if member.isfile():
                files[member.name] = archive.extractfile(member).read()
    return commit, int(seconds), files


# --- What must not be in it --------------------------------------------------------------------------------


def check_exercises(files: dict[str, bytes], root: Path) -> None:
    """Raise `ReleaseError` unless the exercises are what nbgrader makes of the scripts as they are now."""
    found = {name for name in files if name.startswith("exercises/")} - {"exercises/README.md"}
    for name in sets(root):
        inside = f"exercises/{name}/"
        stored = {path: files[path] for path in found if path.startswith(inside)}
        if f"{inside}{name}.ipynb" not in stored:
            raise ReleaseError(f"The exercise of {name} is missing: make exercises, then commit it.")
        made = {inside + path: data for path, data in generated(name, root).items()}
        if different := [
            path for path in sorted(made | stored) if not _same(made.get(path), stored.get(path))
        ]:
            raise ReleaseError(
                f"{different[0]} is not what its source gives: make exercises NAMES='{name} --force', "
                "then commit it."
            )
        found -= stored.keys()
    if found:
        raise ReleaseError(f"{min(found)} belongs to no set of exercises: which script is it made from?")


def generated(name: str, root: Path) -> dict[str, bytes]:
    """The files that nbgrader makes of a set's script, which is not run: outputs are taken out anyway."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        solution, exercise = targets(name, scratch)
        shutil.copytree(targets(name, root)[0].parent, solution.parent)
        try:
            notebook = read(root / "solutions" / f"{name}.py")
            mark(notebook, name)
            nbformat.write(notebook, solution)
            generate(name, scratch, root / CONFIG)
        except BuildError as error:
            raise ReleaseError(f"{error}.") from None
        paths = [path for path in exercise.parent.rglob("*") if path.is_file()]
        return {path.relative_to(exercise.parent).as_posix(): path.read_bytes() for path in paths}


def _same(made: bytes | None, stored: bytes | None) -> bool:
    """Whether two files are equal; of notebooks the cells: the head says with which code it was run."""
    if made == stored or None in (made, stored):
        return made == stored
    try:
        return json.loads(made)["cells"] == json.loads(stored)["cells"]
    except (ValueError, KeyError, TypeError):
        return False


def for_students(data: bytes) -> bytes:
    """A file without what is for staff only."""
    left = FOR_STAFF.sub(b"", data)
    return data if left == data else re.sub(rb"\n{3,}", b"\n\n", left)


def answers_in(files: dict[str, bytes], root: Path) -> list[str]:
    """Where the released files show an answer, a hidden test or a rubric, in words."""
    texts = {}
    for name, data in files.items():
        try:
            text = data.decode()
        except UnicodeDecodeError:  # a picture
            continue
        texts[name] = _plain("\n".join(_strings(json.loads(text)) if name.endswith(".ipynb") else [text]))
    shown = [
        f"{name} has the words {mark!r}" for name, text in texts.items() for mark in MARKS if mark in text
    ]
    for assignment in sets(root):
        solution, exercise = (nbformat.read(path, nbformat.NO_CONVERT) for path in targets(assignment, root))
        shown += [f"{assignment}, {fault}" for fault in leaks(solution, exercise, root / CONFIG)]
        for label, secret in secrets(solution):
            shown += [
                f"{name} has {label} of {assignment}"
                for name, text in texts.items()
                if len(secret) >= SHORTEST and secret in text
            ]
    return shown


def secrets(solution: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """What nbgrader takes out of each cell, with a name for it."""
    for cell in solution.cells:
        kind = "the model answer" if cell.cell_type == "markdown" else "what is hidden in"
        for part in taken_out(cell):
            yield f"{kind} {cell.metadata.nbgrader.grade_id}", _plain(part)


def _plain(text: str) -> str:
    """The lines without the space around them: an answer is one at any indentation."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _strings(value: object) -> Iterator[str]:
    """All texts in a notebook; its format keeps them as lists of lines."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(line, str) for line in value):
        yield "".join(value)
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


# --- The archive -------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes], seconds: int) -> bytes:
    """A zip, which every system opens; its bytes depend on the files, and on the commit's time, alone."""
    # A zip has no time zone. Twelve hours earlier it is the future nowhere, which `make` would not take well.
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC) - datetime.timedelta(hours=12)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}", when.timetuple()[:6])
            entry.create_system = 3  # Unix, on Windows too: then modes are modes
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=root / "dist" / f"{FOLDER}.zip",
        help=f"where to write it (default: dist/{FOLDER}.zip)",
    )
    options = parser.parse_args(arguments)
    try:
        print(release(options.out, root))
    except (ReleaseError, OSError) as error:
        print(f"No archive was made. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
