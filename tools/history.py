"""Files as they were at an earlier commit, as far as git is here to say."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

from tools.modules import Package


class NoHistoryError(Exception):
    """There is no git here, or it does not know what it is asked for: "git says: ..."."""


def git(root: Path, *arguments: str) -> bytes:
    """What git prints. Raises `NoHistoryError`."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except OSError as error:
        raise NoHistoryError(f"git cannot be started: {error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise NoHistoryError(f"git says: {lines[0]}")
    return done.stdout


def files_at(root: Path, commit: str, pattern: str) -> dict[str, bytes]:
    """The files of a commit whose whole path matches a pattern. Raises `NoHistoryError`."""
    listed = git(root, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).decode().split("\0")
    paths = [path for path in listed if re.fullmatch(pattern, path)]
    if not paths:
        return {}
    packed = git(root, "archive", "--format=tar", commit, "--", *paths)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: file.read() for name, file in files if file}


def package_when(text: str, written: Path, folder: Path) -> Package | None:
    """The package in `folder` as it was when `text` came into the file `written`; None if git cannot say."""
    try:
        root = Path(git(folder, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
        inside = git(folder, "rev-parse", "--show-prefix").decode().rstrip("\n")
        log = git(written.parent, "log", "-1", "--format=%H", f"-S{text}", "--", written.name)
        files = files_at(root, log.decode().strip(), re.escape(inside) + ".*") if log else {}
    except NoHistoryError:
        return None
    contents = {path.removeprefix(inside): data for path, data in files.items()}
    return Package(folder.name, contents) if contents else None
