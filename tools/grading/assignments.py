"""The assignments of a course, entered into the gradebook, and what their grading depends on."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.grading.book import Book, BookError, release
from tools.grading.book import settings as read_settings
from tools.grading.examine import NotebookSpec
from tools.grading.files import digest, read_folder, write

VERSION = 2  # of the rules by which points are given: what an older version graded is graded again


@dataclass(frozen=True)
class Assignment:
    """One assignment: where its files are, its notebooks, and what it all depends on."""

    name: str
    source: Path
    notebooks: tuple[NotebookSpec, ...]
    fingerprint: str


def assignment_folders(source: Path) -> list[Path]:
    """The folders of the assignments: those with a notebook in them."""
    return [path for path in sorted(source.iterdir()) if path.is_dir() and any(path.glob("*.ipynb"))]


def read_assignments(source: Path, only: Iterable[str], out: Path, book: Book) -> list[Assignment]:
    """The assignments, or `only` those of these names, entered into the gradebook where new or changed.

    Raises `BookError` where there is none, or none of such a name.
    """
    folders = [folder for folder in assignment_folders(source) if not only or folder.name in only]
    missing = set(only) - {folder.name for folder in folders}
    if missing or not folders:
        what = f"called {', '.join(sorted(missing))} " if missing else ""
        raise BookError(f"There is no assignment {what}in {source}: a folder NAME with NAME.ipynb in it.")
    return [_read_assignment(folder, out, book) for folder in folders]


def _read_assignment(folder: Path, out: Path, book: Book) -> Assignment:
    files, settings, released = read_folder(folder), read_settings(folder.parent), out / "released"
    parts = [part for item in files.items() for part in item]
    entered = digest(book.url, settings.read_bytes() if settings else b"", *parts)
    mark = out / "records" / folder.name / "assignment"
    is_known = (
        mark.exists() and mark.read_text(encoding="utf-8") == entered and (released / folder.name).exists()
    )
    if not (is_known and book.has(folder.name)):
        release(out, folder.name, folder.parent, released, book.url)
        write(mark, entered)
    notebooks = tuple(book.specs(folder.name, released))
    return Assignment(folder.name, folder, notebooks, fingerprint(book.url, notebooks, files))


def fingerprint(url: str, notebooks: Iterable[NotebookSpec], files: dict[str, bytes]) -> str:
    """What the points for an assignment depend on, apart from the submission.

    It has the names of the fields of a `NotebookSpec` in it: where one is renamed, every class is graded
    again.
    """
    cells = json.dumps([asdict(notebook) for notebook in notebooks], sort_keys=True)
    others = [part for name, data in files.items() if not name.endswith(".ipynb") for part in (name, data)]
    return digest(str(VERSION), url, cells, *others)
