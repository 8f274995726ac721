"""Print what pyproject.toml needs, in the newest or the oldest releases, for pip (make newest, make oldest).

    python -m tools.ranges newest            numpy>=2.0 and so on, of which pip takes the newest
    python -m tools.ranges oldest            numpy==2.0 and so on
    python -m tools.ranges oldest torch==2.13.0

What is named after that takes the place of its package, where that release cannot be had.
"""

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:>=|==)(?P<oldest>[\w.]+)(?:,.*)?")


def requirements(which: str, instead: Sequence[str] = (), pyproject: str | None = None) -> list[str]:
    """One line for each package that the course, its tests and its grading need by their name.

    Raises `ValueError` for a package without an oldest release.
    """
    project = tomllib.loads(pyproject or PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    replaced = {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in instead}
    lines = []
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        parts = REQUIREMENT.fullmatch(line)
        if parts is None:
            raise ValueError(f"pyproject.toml does not say from which release on it needs {line!r}.")
        chosen = f"{parts['name']}=={parts['oldest']}" if which == "oldest" else line
        lines.append(replaced.get(parts["name"], chosen))
    return lines


if __name__ == "__main__":
    print(*requirements(sys.argv[1], sys.argv[2:]), sep="\n")
