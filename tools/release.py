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
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat

from tools.exercises import CONFIG, leaks, origin_of, record_in, sets, taken_out, targets
from tools.history import NoHistoryError, git
from tools.modules import digest

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
MARKS = (
    *("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS", "**Rubric"),
    *("BEGIN STAFF", "END STAFF"),
)
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
        return git(root, *arguments)
    except NoHistoryError as error:
        raise ReleaseError(f"The archive is made of what git has committed here, and {error}") from None


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
            if file := archive.extractfile(member):
                files[member.name] = file.read()
    return commit, int(seconds), files


# --- What must not be in it --------------------------------------------------------------------------------


def check_exercises(files: dict[str, bytes], root: Path) -> None:
    """Raise `ReleaseError` unless the exercises are what was built from the scripts as they are now."""
    left = {name for name in files if name.startswith("exercises/")} - {"exercises/README.md"}
    for name in sets(root):
        folder, stored = f"exercises/{name}/", f"exercises/{name}/{name}.ipynb"
        if stored not in files:
            raise ReleaseError(f"The exercise of {name} is missing: make exercises, then commit it.")
        now = {"source": origin_of(name, root)["source"], "exercise": digest(files[stored])}
        wrong = [path for path in sorted(left) if path.startswith(folder) and path != stored]
        wrong += [stored] if record_in(root).differences(name, now) else []
        if wrong:
            raise ReleaseError(
                f"{wrong[0]} is not what its source gives: make exercises NAMES='{name} --force', "
                "then commit it."
            )
        left.remove(stored)
    if left:
        raise ReleaseError(f"{min(left)} belongs to no set of exercises: which script is it made from?")


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
