"""Build the notebooks: run each percent script of `sources` and store it, with its outputs, as `NAME.ipynb`.

A notebook is built when its script has changed, or something in the package that the script reaches
(`tools/reach.py`); `notebooks/built.json` holds the hashes. Two builds give the same bytes. A notebook that
fails leaves its last good file in place; the others are still built.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from tqdm import tqdm

from tools.built import Record, hash_of
from tools.history import package_when
from tools.modules import Package, digest, package_in
from tools.reach import reached

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PACKAGE = ROOT / "utils" / "gradients_in_depth"

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# No progress bars, and one thread: two notebooks at a time fill a small machine.
KERNEL = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# What would differ on the next machine, or in the next run.
TRACES = {
    "an object's address": re.compile(r"\bat 0x[0-9a-fA-F]+|\b0x[0-9a-f]{11,12}\b"),
    "a progress bar": re.compile(r"\d%\|.*\[\d+:\d\d<"),
    "a path of this machine": re.compile(r"(?<![^\s\"'(\[<>=,])(?:/[\w.+-]+){2,}|\b[A-Za-z]:\\\w+|file://"),
}
DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class BuildError(Exception):
    """One sentence: which notebook, which cell, which line, and what was wrong."""


class Place(NamedTuple):
    """A line of a code cell, for messages: "02_sigmoid, cell 14 (line 203 of sources/02_sigmoid.py)"."""

    script: Path
    cell: int
    line: int

    def __str__(self) -> str:
        script = self.script
        return f"{script.stem}, cell {self.cell} (line {self.line} of {script.parent.name}/{script.name})"


def build(script: Path, target: Path, on_cell: Callable[[], object] = lambda: None) -> None:
    """Run `script` in the folder of `target` and store it there; `on_cell` is called after each code cell.

    Raises `BuildError`, and leaves `target` as it was, when a cell fails, writes to stderr, or shows what no
    stored notebook may hold: an address, a path of this machine, a widget that is nothing without its kernel.
    """
    notebook = read(script)
    places = _places(notebook, script)
    _execute(notebook, places, target.parent, on_cell)
    for cell in code_cells(notebook):
        cell.outputs = [_storable(output, places[cell.id]) for output in _merge_streams(cell.outputs)]
    notebook.metadata = METADATA
    nbformat.validate(notebook)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8", newline="\n")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def build_all(
    pairs: Sequence[tuple[Path, Path]], record: Record, package: Path = PACKAGE, jobs: int | None = None
) -> list[str]:
    """Build each (script, target), `jobs` at a time, and say so; returns a sentence for each that failed."""
    origins = [origin(script, package) for script, _ in pairs]  # before: somebody may edit the code meanwhile
    failures = []
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        builds = [
            pool.submit(_build_one, *pair, record, hashes)
            for pair, hashes in zip(pairs, origins, strict=True)
        ]
        for future in as_completed(builds):
            message, failed = future.result()
            failures += [message] if failed else []
            tqdm.write(
                f"{'FAILED' if failed else 'built'}  {message}", file=sys.stderr if failed else sys.stdout
            )
    return failures


def _build_one(script: Path, target: Path, record: Record, hashes: dict[str, str]) -> tuple[str, bool]:
    started, cells = time.monotonic(), len(code_cells(read(script)))
    try:  # the bar appears in a terminal only
        with tqdm(desc=script.stem, total=cells, unit="cell", leave=False, disable=None) as bar:
            build(script, target, bar.update)
    except BuildError as error:
        return str(error), True
    record.enter(script.stem, hashes | {"notebook": hash_of(target)})
    return f"{script.stem} ({cells} cells, {time.monotonic() - started:.0f} s)", False


def pairs_of(sources: Path, targets: Path, names: Iterable[str] = ()) -> list[tuple[Path, Path]]:
    """(script, notebook) for each script of the folder `sources`, or for those of the `names`.

    Raises `BuildError` for a name that has no script.
    """
    scripts = {path.stem: path for path in sorted(sources.glob("*.py"))}
    chosen = [Path(name).stem for name in names] or list(scripts)
    if unknown := [name for name in chosen if name not in scripts]:
        raise BuildError(
            f"There is no script named {unknown[0]!r}; there are {', '.join(scripts) or 'none'}."
        )
    return [(scripts[name], targets / f"{name}.ipynb") for name in chosen]


# --- What is current ---------------------------------------------------------------------------------------


def record_in(notebooks: Path) -> Record:
    """Where it is written down what the lessons of a folder were built from."""
    return Record(notebooks, notebooks / "sources")


def is_current(script: Path, target: Path, package: Path = PACKAGE) -> bool:
    """Whether `target` is what the builder made of `script` and of `package` as they are now.

    A notebook that something else has saved is not: JupyterLab, for one, adds to its metadata.
    """
    now = origin(script, package) | {"notebook": hash_of(target)}
    return not record_in(target.parent).differences(script.stem, now)


def origin(script: Path, package: Path = PACKAGE, settings: str = "") -> dict[str, str]:
    """Hashes of what a notebook is made from: its script with the settings, and the code that it reaches."""
    used = [KERNEL, METADATA, reached(code_of(script), package_in(package))]
    return {"code": digest(json.dumps(used)), "source": digest(hash_of(script) + settings)}


def why_stale(script: Path, now: dict[str, str], record: Record, package: Path = PACKAGE) -> str:
    """Why the notebooks of a script have to be built, in a few words; empty when they are current."""
    differences = record.differences(script.stem, now)
    then = record.hashes().get(script.stem)
    if not differences:
        return ""
    if then is None or "" in now.values():
        return "it was never built"
    if "source" in differences:
        return "its source has changed"
    if "code" not in differences:
        return "something else has saved it"
    before = package_when(then.get("code", "-"), record.path, package)
    names = changes(code_of(script), before, package_in(package)) if before else []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"changed: {', '.join(names[:3])}{more}" if names else "code that it reaches has changed"


def changes(code: str, before: Package, after: Package) -> list[str]:
    """The names of what some code reaches in a package, and that is not as it was."""
    return sorted({name for name, _ in {*reached(code, before)} ^ {*reached(code, after)}})


def code_of(script: Path) -> str:
    """All code cells of a script."""
    return "\n".join(cell.source for cell in code_cells(read(script)))


def read(script: Path) -> NotebookNode:
    """The notebook of a percent script, not run yet. A cell's id is made from its own text alone."""
    notebook = jupytext.read(script, fmt="py:percent")
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        name = digest(f"{cell.cell_type}\n{cell.source}")[:12]
        seen[name] += 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _places(notebook: NotebookNode, script: Path) -> dict[str, Place]:
    """Where each code cell begins, by its id."""
    text, end, places = script.read_text(encoding="utf-8"), 0, {}
    for number, cell in enumerate(code_cells(notebook), start=1):
        start = max(text.find(cell.source, end), end)
        if not cell.source.strip():
            raise BuildError(f"{script.stem}, cell {number}: the cell is empty")
        places[cell.id] = Place(script, number, text.count("\n", 0, start) + 1)
        end = start + len(cell.source)
    return places


def _execute(
    notebook: NotebookNode, places: dict[str, Place], folder: Path, on_cell: Callable[[], object]
) -> None:
    started: list[str] = []
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        store_widget_state=False,
        on_cell_start=lambda cell, **_: started.append(cell.id),
        on_cell_executed=lambda **_: on_cell(),
    )
    with tempfile.TemporaryDirectory() as settings:  # nobody's personal ones
        environment = os.environ | KERNEL | {"IPYTHONDIR": settings}
        environment.pop("MPLBACKEND", None)
        try:
            client.execute(cwd=str(folder), env=environment, stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            place = places[started[-1]]
            lines = re.findall(r"Cell In\[\d+\], line (\d+)", _plain(error.traceback))
            place = place._replace(line=place.line + int(lines[0]) - 1) if lines else place
            raise BuildError(f"{place}: {error.ename}: {_plain(error.evalue)}") from error
        except Exception as error:  # the kernel died, took too long, or never began
            place = places[started[-1]] if started else next(iter(places.values()))
            raise BuildError(f"{place}: {str(error).strip().splitlines()[0]}") from error


def _plain(text: str) -> str:
    return ANSI.sub("", text)


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: where a kernel cuts its text is chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _storable(output: NotebookNode, place: Place) -> NotebookNode:
    """`output` without its widget; raises `BuildError` for what a stored notebook may not hold."""
    if output.output_type == "error":
        raise BuildError(f"{place}: {output.ename}: {_plain(output.evalue)}")
    if output.get("name") == "stderr":
        raise BuildError(f"{place}: this went to stderr: {output.text.strip()}")
    data = output.get("data", {"text/plain": output.get("text")})
    if data.pop(WIDGET_VIEW, None) and not data:
        raise BuildError(f"{place}: the widget has no text/plain, and shows nothing without its kernel")
    texts = [DATA_URI.sub("", str(value)) for kind, value in data.items() if not kind.startswith("image/")]
    for trace, pattern in TRACES.items():
        if match := pattern.search("\n".join(texts)):
            raise BuildError(f"{place}: the output shows {trace}: {match.group()}")
    return output


def main(arguments: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS, package: Path = PACKAGE) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which notebooks (all of them when none is named)")
    parser.add_argument("--force", action="store_true", help="build also what is current")
    parser.add_argument("--check", action="store_true", help="build nothing, list what is not current")
    parser.add_argument("--jobs", type=int, help="notebooks at a time (one for each core)")
    options = parser.parse_args(arguments)
    try:
        chosen = pairs_of(notebooks / "sources", notebooks, options.names)
    except BuildError as error:
        parser.error(str(error))
    stale = [pair for pair in chosen if options.force or not is_current(*pair, package)]
    record = record_in(notebooks)
    if not stale:
        print(f"All {len(chosen)} notebooks are current.")
    elif options.check:
        for script, target in stale:
            now = origin(script, package) | {"notebook": hash_of(target)}
            print(f"not current: {script.stem} ({why_stale(script, now, record, package)})")
    else:
        return 1 if build_all(stale, record, package, options.jobs) else 0
    return 1 if stale else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # at once: the kernels end with this process
    sys.exit(main())
