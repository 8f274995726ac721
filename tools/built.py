"""What was built from what: a file of hashes beside the scripts, for all notebooks that are made from them.

The file is made to be merged. Each hash has a line of its own, and between those of two scripts are lines
that never change, so that branches which build different notebooks do not conflict. Branches that build the
same notebook from different code do conflict: neither of them has built what the merge gives.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tools.modules import digest

NAME = "built.json"


@dataclass(frozen=True)
class Record:
    """The file of hashes in `folder`, for the notebooks of the scripts in `scripts`."""

    folder: Path
    scripts: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / NAME

    def hashes(self) -> dict[str, dict[str, str]]:
        """What is written there: for each script, by its name, a hash of each thing by its own."""
        try:
            hashes = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: dict(entry) for name, entry in hashes.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # nothing yet, or a merge that was not finished: all is built again

    def differences(self, name: str, now: Mapping[str, str]) -> list[str]:
        """The things that are not as they were when the notebooks of a script were built."""
        then = self.hashes().get(name, {})
        return [thing for thing in now if now[thing] != then.get(thing)]

    def enter(self, name: str, hashes: Mapping[str, str]) -> None:
        """Write down the hashes of a script, and leave out scripts that are gone.

        Other threads and processes may do this for other scripts at the same time.
        """
        temporary = self.path.with_name(f".{NAME}.tmp")
        with FileLock(self.path.with_name(f".{NAME}.lock")):
            every = self.hashes() | {name: dict(hashes)}
            here = {script.stem for script in self.scripts.glob("*.py")}
            kept = {script: every[script] for script in every if script in here}
            text = json.dumps(kept, indent=2, sort_keys=True) + "\n"
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, self.path)


def hash_of(path: Path) -> str:
    """The hash of a text file, the same for both kinds of line ends; empty where there is no such file."""
    try:
        return digest(path.read_bytes().replace(b"\r\n", b"\n"))
    except OSError:
        return ""
