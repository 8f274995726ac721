"""The files of the grading itself; what students hand in is read by `examine` alone."""

import hashlib
import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Replaces a file at once, so that no interruption leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def read_folder(folder: Path) -> dict[str, bytes]:
    """All files of an assignment's own folder, which are trusted, by their path in it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in inner.parts):
            files[str(inner)] = path.read_bytes()
    return files


def digest(*parts: bytes | str) -> str:
    """A hash of the parts; it is another one where their order, or the borders between them, are others."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        sha256.update(len(data).to_bytes(8, "big") + data)
    return sha256.hexdigest()
