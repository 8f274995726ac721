"""How many notebooks the last changes of the package have made stale: by its files, and by what each reaches.

Compares the package after each of the last commits that changed it with the package before, for each script
as it was after the commit, and prints how many lessons and sets of exercises would have to be built again:

    python -m tests.bench.bench_stale
    python -m tests.bench.bench_stale --commits 98 --until 446a622 --each

By its files is the rule until 446a622: every module that a script imports, and that these import, and the
other files beside them, byte by byte. Exits with 1 when more lessons are stale than --limit.
"""

import argparse
import ast
import sys
from functools import cache
from pathlib import Path

import jupytext

from tools.history import files_at, git
from tools.modules import Package
from tools.reach import reached

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("utils/gradients_in_depth/", "utils/")  # where the package is, and where it was
SCRIPTS = {"lessons": "notebooks/sources/", "sets": "solutions/"}
PATTERN = r"utils/(?!.*\.egg-info/).*|notebooks/sources/[^/]+\.py|solutions/\d\d_[^/]+\.py"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=98, help="how many that changed the package")
    parser.add_argument("--until", default="HEAD", help="the last of them is in the history of this commit")
    parser.add_argument("--limit", type=int, default=140, help="how many lessons may be stale in all")
    parser.add_argument("--each", action="store_true", help="print a line for each commit")
    options = parser.parse_args()

    listed = git(ROOT, "log", f"-{options.commits}", "--format=%h %p", options.until, "--", "utils/*.py")
    commits = [line.split() for line in listed.decode().splitlines()]
    until = git(ROOT, "log", "-1", "--format=%h of %cs", options.until).decode().strip()
    print(f"{len(commits)} commits that changed the package, counted back from {until}")
    totals = dict.fromkeys(SCRIPTS, (0, 0))
    for commit, *parents in reversed(commits):
        for kind, folder in SCRIPTS.items():
            old, new = stale(folder, parents[0], commit) if parents else (0, 0)
            totals[kind] = totals[kind][0] + old, totals[kind][1] + new
            if options.each:
                print(f"{commit}  {kind}: {old} by files, {new} by what is reached", flush=True)
    for kind, (old, new) in totals.items():
        print(f"stale {kind}: {old} by the files of the package, {new} by what the scripts reach of it")
    return 1 if totals["lessons"][1] > options.limit else 0


def stale(folder: str, before: str, after: str) -> tuple[int, int]:
    """How many scripts have other files, and how many reach something else, after a commit than before."""
    packages = package(before), package(after)
    scripts = [data.decode() for path, data in files(after).items() if path.startswith(folder)]
    by_files = [len({old_rule(script, each) for each in packages}) > 1 for script in scripts]
    by_reach = [len({tuple(reached(code_of(script), each)) for each in packages}) > 1 for script in scripts]
    return sum(by_files), sum(by_reach)


@cache
def files(commit: str) -> dict[str, bytes]:
    return files_at(ROOT, commit, PATTERN)


@cache
def package(commit: str) -> Package:
    here = files(commit)
    place = next((place for place in PACKAGES if f"{place}__init__.py" in here), PACKAGES[0])
    contents = {path.removeprefix(place): data for path, data in here.items() if path.startswith(place)}
    return Package(place.rstrip("/").rpartition("/")[2], contents)


@cache
def code_of(script: str) -> str:
    cells = jupytext.reads(script, fmt="py:percent").cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@cache
def old_rule(script: str, package: Package) -> tuple[tuple[str, bytes], ...]:
    """The files that made a notebook stale until 446a622."""
    paths: set[str] = set()
    todo = [script]
    while todo:
        names = set(imported(todo.pop(), package.name))
        candidates = {"__init__.py" for _ in names} | {f"{name}.py" for name in names}
        candidates |= {
            p for p in package.contents if p.rpartition("/")[0] in names - {""} and p.endswith(".py")
        }
        new = (candidates & package.contents.keys()) - paths
        paths |= new
        todo += [package.contents[path].decode() for path in new]
    if paths:
        paths |= {path for path in package.files if "/" not in path}
    return tuple((path, package.contents[path]) for path in sorted(paths))


@cache
def imported(source: str, package: str) -> tuple[str, ...]:
    """What a source takes from the package: "theory" in `from package.theory import chi`, "" for itself."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    parts = (f"{name}.".split(".") for name in names)
    return tuple({second for first, second, *_ in parts if first == package})


if __name__ == "__main__":
    sys.exit(main())
