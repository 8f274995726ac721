"""Runs the cells of one submission in a sandbox, each within its limits, and says how each one ended.

A test that is made of the course's checks runs outside of the sandbox, where nothing that happens in the
kernel decides it (outside.py). Any other test runs after a student's code, in the same process, and that code
can deceive it. A look before and after each such test (tampering.py) limits that: a kernel in which an
assertion does not fail any more, or in which `numpy.allclose` comes from a notebook's cell, gives no points.
What cannot be prevented there: an answer that is equal to everything, code that undoes its changes
within a test or writes the kernel's own messages, and code that is aimed at these very checks. The notebook
that ran is kept for the person who looks.
"""

import ast
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nbformat import NotebookNode

from tools.grading import outside, tampering, values
from tools.grading.exchange import CellRun, Exchange, StoppedError
from tools.grading.sandbox import Limits, Sandbox, SandboxError

MOST_RESTARTS = 3


@dataclass
class Execution:
    """All cells, by their index in the notebook; `tampered` names, by cell, what a test could not rely on."""

    cells: dict[int, CellRun]
    tampered: dict[int, str]
    remarks: list[str]


def is_test(cell: NotebookNode) -> bool:
    """Whether points come from running this cell."""
    about = cell.metadata.get("nbgrader", {})
    return cell.cell_type == "code" and bool(about.get("grade")) and not about.get("solution")


def score_of(cell: NotebookNode, run: CellRun) -> float | None:
    """The points of a test that ran to its end; None where only a person can tell.

    As nbgrader does: 0 for an error, the number that a test's last line gives, otherwise all points. Unlike
    nbgrader, a warning on stderr costs nothing, a number that something else displayed counts for nothing, an
    error after a number is an error, and a number outside of 0 to the maximum is a matter for a person.
    """
    most = float(cell.metadata.nbgrader["points"])
    if run.ended == "error":
        return 0.0
    if run.ended != "ok":
        return None
    body = outside.statements(cell.source)
    if not (body and isinstance(body[-1], ast.Expr)) or cell.source.rstrip().endswith(";"):
        return most
    results = [output for output in run.outputs if output.output_type == "execute_result"]
    if not results:
        return most
    if len(results) > 1:
        return None
    try:
        points = float(results[0].data.get("text/plain", ""))
    except ValueError:
        return most
    return points if 0 <= points <= most and math.isfinite(points) else None


class _Runner:
    """The cells of one notebook in one sandbox after another."""

    def __init__(
        self, notebook: NotebookNode, start: Callable[[], Sandbox], limits: Limits, stop: threading.Event
    ) -> None:
        self.notebook, self.limits, self._start, self._stop = notebook, limits, start, stop
        self.code = [
            i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()
        ]
        self.result = Execution({i: CellRun(i) for i in self.code}, {}, [])
        self.sandbox: Sandbox | None = None
        self.until = time.monotonic() + limits.total_seconds
        self.kept_size = 0
        self.outside: set[int] = set()

    def run_all(self) -> Execution:
        restarts = 0
        try:
            self.sandbox = self._start()
            for place, index in enumerate(self.code):
                run = self.result.cells[index] = self._grade(index)
                if self.sandbox is not None:
                    continue
                if restarts == MOST_RESTARTS or time.monotonic() > self.until or not self._restart(place):
                    for later in self.code[place + 1 :]:
                        self.result.cells[later].why = f"it comes after cell {index + 1}, where {run.why}"
                    break
                restarts += 1
            if self.sandbox is not None and (left := self.sandbox.other_processes()):
                many = "a process" if len(left) == 1 else f"{len(left)} processes"
                self.result.remarks.append(
                    f"It left {many} running in the background, which ended with the sandbox."
                )
        finally:
            self._end()
        return self.result

    def _end(self) -> None:
        if self.sandbox is not None:
            self.sandbox.stop()
            self.sandbox = None

    def _restart(self, place: int) -> bool:
        """A new kernel in which everything ran that had come to an end; False where that does not succeed."""
        self.sandbox = self._start()
        for index in self.code[: place + 1]:
            if self.result.cells[index].ended in ("ok", "error") and index not in self.outside:
                self._run(index, self.notebook.cells[index].source)
                if self.sandbox is None:
                    return False
        return True

    def _grade(self, index: int) -> CellRun:
        cell = self.notebook.cells[index]
        if not is_test(cell):
            return self._run(index, cell.source)
        if calls := outside.check_calls(cell.source):
            return self._check_outside(index, calls)
        tampered = self._find_tampering(index)
        if self.sandbox is None:
            return CellRun(index, "died", "the kernel did not answer before this test")
        run = self._run(index, cell.source)
        if self.sandbox is not None and not tampered:
            tampered = self._find_tampering(index)
        if tampered and run.ended in ("ok", "error"):
            self.result.tampered[index] = tampered
        return run

    def _check_outside(self, index: int, calls: tuple[outside.CheckCall, ...]) -> CellRun:
        """A test whose checks run outside, and call the answer in the kernel."""
        self.outside.add(index)
        run, checker = CellRun(index), outside.checker()
        try:
            checker.start()
        except outside.BrokenCheckError as error:
            raise SandboxError(str(error)) from None
        begun = time.monotonic()
        until = min(begun + self.limits.cell_seconds, self.until)

        def ask(expression: str) -> str:
            exchange = self._exchange(index, "pass", expression, until)
            last = exchange.run
            if last.ended != "ok":
                run.ended, run.why, run.error = last.ended, last.why, last.error
                raise outside.LostError
            return values.reply_text(exchange.replies)

        try:
            verdict, ended = checker.verdict(calls, ask, until)
        except outside.LostError:
            pass
        except outside.BrokenCheckError as error:
            run.ended, run.why = "check", f"the check itself did not work, ask whoever wrote it: {error}"
        else:
            run.outputs = outside.outputs(verdict)
            run.error = f"{verdict.kind}: {verdict.mistake}" if verdict.mistake else ""
            run.ended = "error" if run.error else "ok"
            if not ended:
                run.ended, run.why = "time", f"it was stopped after {self.limits.cell_seconds:.3g} seconds"
        run.seconds = time.monotonic() - begun
        return run

    def _find_tampering(self, index: int) -> str:
        """What makes a test in this kernel worthless, in words; empty where nothing was found."""
        nonce = secrets.token_hex(8)
        work = self.sandbox.work if self.sandbox is not None else "/work"
        return tampering.describe(self._run(index, tampering.probe(nonce, work)).error, nonce)

    def _run(self, index: int, source: str) -> CellRun:
        return self._exchange(index, source).run

    def _exchange(self, index: int, source: str, expression: str = "", until: float = math.inf) -> Exchange:
        """Runs one piece of source; the sandbox is gone afterwards if it could not be brought to an end."""
        assert self.sandbox is not None, "there is no kernel"
        exchange = Exchange(self.sandbox, self.limits, CellRun(index), self.kept_size)
        exchange.perform(source, expression, until, self.until, self._stop)
        self.kept_size += exchange.kept_size
        if not exchange.replied:
            self._end()
        return exchange


def execute(
    notebook: NotebookNode, start: Callable[[], Sandbox], limits: Limits, stop: threading.Event
) -> Execution:
    """Runs all code cells in order, going on in a new kernel after a cell that ended the first one.

    The notebook stays as it was. Raises `SandboxError` where no kernel can be started, `StoppedError` when
    `stop` is set.
    """
    return _Runner(notebook, start, limits, stop).run_all()


__all__ = ["CellRun", "Execution", "SandboxError", "StoppedError", "execute", "is_test", "score_of"]
