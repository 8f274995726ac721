"""Checks an answer out of its reach: the check runs here, and only the answer itself runs in the sandbox.

A test that is nothing but lines such as `checks.NAME(answer, seed=7)` never enters the student's kernel. The
check runs in a process in which no student's code ever ran. What it asks of the answer goes into the kernel
as inputs, and comes back as numbers, texts and plain arrays in JSON. So a kernel in which `numpy.allclose` is
always true, assertions are gone, or `checks` is another module, decides nothing: it can only give values for
inputs that it has not seen, and they are compared elsewhere.
"""

import ast
import multiprocessing
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import nbformat
from nbformat import NotebookNode

from tools.grading import values
from tools.grading.worker import CheckCall, Verdict, work

START_SECONDS = 120.0  # PyTorch from a cold disk
_parsing = threading.Lock()


class LostError(Exception):
    """The kernel did not bring an answer to an end; the one who asked knows why."""


class BrokenCheckError(Exception):
    """The check does not work; it says nothing about a submission."""


def statements(source: str) -> list[ast.stmt]:
    """The statements of a source, parsed by one thread at a time (see PARSING in tools/lessons.py)."""
    with _parsing:
        return ast.parse(source).body


def check_calls(source: str) -> tuple[CheckCall, ...]:
    """The lines of a test that can be checked outside; none where it is, or has a line of, another kind."""
    calls = [_check_call(statement) for statement in statements(source)]
    return tuple(call for call in calls if call is not None) if None not in calls else ()


def _check_call(statement: ast.stmt) -> CheckCall | None:
    match statement:
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("checks"), check), answers, keywords)):
            names = tuple(answer.id for answer in answers if isinstance(answer, ast.Name))
            seeds = [k.value for k in keywords if k.arg == "seed"]
        case _:
            return None
    if len(names) < len(answers) or len(seeds) < len(keywords):
        return None
    match seeds:
        case []:
            return CheckCall(check, names)
        case [ast.Constant(int(seed))]:
            return CheckCall(check, names, seed)
    return None


def outputs(verdict: Verdict) -> list[NotebookNode]:
    """What the cell of such a test shows."""
    cells = []
    if verdict.text:
        cells.append(nbformat.v4.new_output("stream", name="stdout", text=verdict.text))
    if verdict.mistake:
        trace = textwrap.wrap(verdict.mistake, 100)
        cells.append(
            nbformat.v4.new_output("error", ename=verdict.kind, evalue=verdict.mistake, traceback=trace)
        )
    return cells


class Checker:
    """A process that checks, started when it is first needed, and again after a check that did not end."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> Connection:
        """The way to the process, which is there afterwards.

        Raises `BrokenCheckError` when it does not start.
        """
        if self._connection is not None and self._process is not None and self._process.is_alive():
            return self._connection
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs,), daemon=True)
        process.start()
        self._connection, self._process = connection, process
        theirs.close()
        if not connection.poll(START_SECONDS):
            self.stop()
            raise BrokenCheckError("The process of the checks does not start.")
        connection.recv()
        return connection

    def verdict(
        self, calls: Iterable[CheckCall], ask: Callable[[str], str], until: float
    ) -> tuple[Verdict, bool]:
        """What the lines of one test say together, and whether they came to an end before `until`.

        `ask` evaluates an expression in the kernel and gives the JSON that it returns; `until` is a time of
        `time.monotonic`. Raises `BrokenCheckError` for a fault of the check, and whatever `ask` raises.
        """
        text = ""
        try:
            for call in calls:
                verdict = self._verdict_of(call, ask, until)
                if verdict is None:
                    self.stop()
                    return Verdict(text), False
                text += verdict.text
                if verdict.mistake:
                    return Verdict(text, verdict.mistake, verdict.kind), True
        except (EOFError, OSError) as error:
            self.stop()
            raise BrokenCheckError(f"The process of the checks ended: {error}") from None
        except BaseException:
            self.stop()
            raise
        return Verdict(text), True

    def _verdict_of(self, call: CheckCall, ask: Callable[[str], str], until: float) -> Verdict | None:
        """What one line says; None where it says nothing before `until`."""
        connection = self.start()
        connection.send(call)
        while connection.poll(max(0.0, until - time.monotonic())):
            kind, *content = connection.recv()
            if kind == "ask":
                connection.send(ask(values.expression(*content)))
            elif kind == "broken":
                raise BrokenCheckError(f"The check {call.check} itself fails: {content[0]}")
            else:
                return content[0]
        return None

    def stop(self) -> None:
        """Ends the process; the next check starts another."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None


_of_thread = threading.local()


def checker() -> Checker:
    """The checker of this thread, which serves one submission after another."""
    if not hasattr(_of_thread, "checker"):
        _of_thread.checker = Checker()
    return _of_thread.checker
