"""What grading a class costs beside plain `nbgrader autograde`, on the same submissions, in the same run.

Both grade from the start, in turn, so that a busy machine slows both. Prints seconds per submission, and how
often as many submissions as nbgrader's this command grades in the same time:

    python -m tests.bench.bench_grading
    python -m tests.bench.bench_grading --submissions 40 --repeats 5 --jobs 1 2 4

Plain nbgrader grades one at a time, without a sandbox. The submissions are right ones: nbgrader would stop at
the broken ones, and at the hostile ones the machine would.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.grading_class import NAME, RIGHT, edit, read, save, write_course
from tools.grading import book

ROOT = Path(__file__).resolve().parents[2]


def seconds(command: list[str], folder: Path) -> float:
    """The time that a command takes; it must succeed."""
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": scripts, "PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Runs the benchmark that the command line asks for."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--submissions", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--no-sandbox", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        course = Path(name)
        write_course(course)
        (course / "release").mkdir()
        url = f"sqlite:///{course / 'gradebook.db'}"
        book.release(course, NAME, course / "source", course / "release", url)
        notebook = read(course / "release" / NAME / f"{NAME}.ipynb")
        for i in range(options.submissions):
            save(course / "submitted" / f"student{i:03d}" / NAME, edit(notebook, **RIGHT))
        shutil.copy(course / "gradebook.db", course / "empty.db")

        def plain() -> float:
            shutil.copy(course / "empty.db", course / "gradebook.db")
            shutil.rmtree(course / "autograded", ignore_errors=True)
            return seconds([sys.executable, "-m", "nbgrader", "autograde", NAME], course)

        def ours(jobs: int) -> float:
            shutil.rmtree(course / "grading", ignore_errors=True)
            command = [sys.executable, "-m", "tools.grading", "submitted", "--source", "source"]
            command += ["--jobs", str(jobs), *(["--no-sandbox"] if options.no_sandbox else [])]
            return seconds(command, course)

        times: dict[str, list[float]] = {"nbgrader autograde": []}
        for _ in range(options.repeats):
            times["nbgrader autograde"].append(plain())
            for jobs in options.jobs:
                times.setdefault(f"ours --jobs {jobs}", []).append(ours(jobs))
    usual = statistics.median(times["nbgrader autograde"])
    print(f"{options.submissions} submissions, {options.repeats} repeats, medians:")
    for what, taken in times.items():
        median = statistics.median(taken)
        spread = f"{min(taken) / options.submissions:.3g} to {max(taken) / options.submissions:.3g}"
        each = f"{median / options.submissions:6.3g} s each ({spread})"
        print(f"{what:20s} {each}, {usual / median:.3g} times nbgrader's throughput")


if __name__ == "__main__":
    main()
