"""Grades a class: every submitted/STUDENT/NAME/NAME.ipynb, in a sandbox, into nbgrader's gradebook.

    make grade                                   all of submitted/
    make grade SUBMITTED=path GRADE_ARGS="--jobs 4"
    python -m tools.grading submitted --feedback     in the folder of the course; elsewhere with PYTHONPATH

The assignments are the folders NAME of solutions/ (the instructor's version, with nbgrader's metadata). A
rerun grades what changed since and only that; grades and comments by a person stay; what was submitted is
never changed. Below --out: the gradebook, grades.csv and grades.html, what ran (autograded/), what was
submitted when it was graded (kept/), pages for students (feedback/, with --feedback), and a record of each
submission (records/).
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tools.grading import report
from tools.grading.book import BookError
from tools.grading.run import Options, run
from tools.grading.sandbox import ROOT, Limits, SandboxError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.grading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, limits = parser.add_argument, Limits()
    add("submitted", type=Path, nargs="?", default=Path("submitted"), help="folder STUDENT/NAME/NAME.ipynb")
    add(
        "--source",
        type=Path,
        default=ROOT / "solutions",
        help="folder of the assignments (default: solutions)",
    )
    add("--out", type=Path, default=None, help="folder for all results (default: beside SUBMITTED, grading)")
    add("--db", default=None, metavar="URL", help="gradebook, any SQLAlchemy URL (default: OUT/gradebook.db)")
    add("--assignment", action="append", default=[], metavar="NAME", help="only this one (may be repeated)")
    jobs = os.cpu_count() or 1
    add("--jobs", type=int, default=jobs, help="submissions at a time (default: one per processor)")
    add("--cell-seconds", type=float, default=limits.cell_seconds)
    add("--total-seconds", type=float, default=limits.total_seconds)
    together = "of one submission, all its processes together"
    add("--memory-mb", type=int, default=limits.memory_mb, help=together)
    add("--processes", type=int, default=limits.processes)
    add("--file-mb", type=int, default=limits.file_mb, help="largest file that it may write")
    add("--output-mb", type=int, default=limits.output_mb, help="largest output of one cell")
    add("--force", action="store_true", help="grade everything again")
    add("--feedback", action="store_true", help="write a page for each student, too")
    add("--no-sandbox", action="store_true", help="run students' code unprotected, as yourself")
    return parser


def _parse(arguments: Sequence[str] | None) -> tuple[Options, bool]:
    """What is to be graded, and whether there will be feedback. Ends the program where that is impossible."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    submitted, jobs = chosen.submitted, chosen.jobs
    if not submitted.is_dir():
        parser.error(f"there is no folder {submitted} with submissions (STUDENT/NAME/NAME.ipynb)")
    if jobs < 1:
        parser.error(f"--jobs must be at least 1, not {jobs}")
    submitted = submitted.resolve()
    out = (chosen.out or submitted.parent / "grading").resolve()
    options = Options(
        submitted=submitted,
        source=chosen.source.resolve(),
        out=out,
        url=chosen.db or f"sqlite:///{out / 'gradebook.db'}",
        limits=Limits(
            cell_seconds=chosen.cell_seconds,
            total_seconds=chosen.total_seconds,
            memory_mb=chosen.memory_mb,
            processes=chosen.processes,
            file_mb=chosen.file_mb,
            output_mb=chosen.output_mb,
        ),
        jobs=jobs,
        sandboxed=not chosen.no_sandbox,
        only=tuple(chosen.assignment),
        force=chosen.force,
    )
    return options, chosen.feedback


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    options, with_feedback = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with everything stopped
    try:
        rows, notes = run(options, with_feedback)
    except (BookError, SandboxError) as error:
        print(error, file=sys.stderr)
        return 2
    except SQLAlchemyError as error:
        what = str(error).splitlines()[0]
        sentence = f"The gradebook failed ({what}). What was graded before is kept; run it again."
        print(sentence, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. What was graded is kept; run it again to go on.", file=sys.stderr)
        return 130
    for state in report.EXPLAINED:
        print(f"{sum(r.state == state for r in rows):5d}  {state}: {report.EXPLAINED[state]}")
    for note in notes:
        print(note)
    print(f"Report: {options.out / 'grades.html'} and {options.out / 'grades.csv'}")
    return 0
