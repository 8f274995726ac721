"""Runs the cells of one submission in a sandbox, each within its limits, and says how each one ended.

A test that is made of the course's checks runs outside of the sandbox, where nothing that happens in the
kernel decides it (outside.py). Any other test runs after a student's code, in the same process, and
can be deceived by that code. How far that is bounded: before and after each such test a cell runs that must
fail, with a number that nobody can know before, and that looks for replaced builtins and library functions. A
kernel in which an assertion does not fail any more, or in which `numpy.allclose` comes from a notebook's
cell, gives no points. What cannot be prevented there: an answer that is equal to everything, code that undoes
its changes within a test or writes the kernel's own messages, and code that is aimed at these very checks.
The notebook that ran is kept for the person who looks.
"""

import ast
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import nbformat
import zmq
from nbformat import NotebookNode

from tools.grading import outside, sandbox
from tools.grading.sandbox import MB, Limits, Sandbox, SandboxError

KEPT_CHARACTERS = 100_000  # of the output of one cell
KEPT_IN_ALL = 5_000_000  # of one notebook
KEPT_OUTPUTS = 200
INTERRUPT_SECONDS = 3.0
MOST_RESTARTS = 3

# Runs in the kernel, out of the notebook's names. Cells are compiled as files of a folder "ipykernel_...".
_LOOK = r"""
import builtins, os, sys, types
def own(file):
    return file.startswith(here) and not file.startswith(installed)
def strange(value):
    if type(value) is types.MethodType:
        value = value.__func__
    if type(value) is types.FunctionType:
        file = value.__code__.co_filename
        return "ipykernel_" in file or own(file)
    return "__main__" in (type(value).__module__, isinstance(value, type) and value.__module__)
here = os.path.realpath(start) + os.sep
installed = tuple(os.path.realpath(path) + os.sep for path in shown)
found = []
for name in dir(builtins):
    if strange(getattr(builtins, name)):
        found.append(name)
watched = ("math", "cmath", "random", "unittest.case", "numpy", "numpy.testing", "numpy.linalg")
watched += ("numpy.random", "torch", "torch.random", "torch.testing", "torch.nn.functional")
watched += ("IPython.core.interactiveshell", "ipykernel.ipkernel")
for name, module in sorted(sys.modules.items()):
    file = str(getattr(module, "__file__", None) or "")
    if (name in watched or name.split(".")[0] == "gradients_in_depth") and not own(file):
        for attribute, value in sorted(vars(module).items()):
            if not attribute.startswith("__") and strange(value):
                found.append(name + "." + attribute)
            if isinstance(value, type) and name.split(".")[0] == "gradients_in_depth":
                of_class = [part for part in vars(value).values() if type(part) is types.FunctionType]
                if any(strange(part) for part in of_class):
                    found.append(name + "." + attribute)
compared = ("numpy.allclose", "numpy.isclose", "numpy.array_equal", "torch.allclose", "torch.equal")
for name in (*compared, "math.isclose"):
    module, _, attribute = name.rpartition(".")
    value = getattr(sys.modules.get(module), attribute, None)
    if value is not None and getattr(value, "__name__", None) != attribute:
        found.append(name)
shell = builtins.get_ipython()
for name in ("run_cell", "run_cell_async", "run_ast_nodes", "showtraceback", "_showtraceback", "run_code"):
    if name in vars(shell) and strange(getattr(shell, name)) or strange(getattr(type(shell), name, None)):
        found.append("get_ipython()." + name)
if shell.ast_transformers:
    found.append("get_ipython().ast_transformers")
if shell.input_transformers_post:
    found.append("get_ipython().input_transformers_post")
if shell.custom_exceptions:
    found.append("get_ipython().set_custom_exc")
if found:
    raise RuntimeError(nonce + " " + ", ".join(sorted(set(found))[:5]))
"""


class StoppedError(Exception):
    """The person who grades wants no more of it."""


@dataclass
class CellRun:
    """How one cell ran.

    `ended` is "ok", "error", or what prevented an end: "time", "died", "output", "check", "stopped", "not
    run". `why` says it in words where it is neither of the first two.
    """

    index: int
    ended: str = "not run"
    why: str = ""
    error: str = ""
    outputs: list[NotebookNode] = field(default_factory=list)
    seconds: float = 0.0


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
        self.kept = 0
        self.replied: dict = {}
        self.outside: set[int] = set()

    def all(self) -> Execution:
        restarts = 0
        try:
            self.sandbox = self._start()
            for place, index in enumerate(self.code):
                run = self.result.cells[index] = self._graded(index)
                if self.sandbox is not None:
                    continue
                if restarts == MOST_RESTARTS or time.monotonic() > self.until or not self._again(place):
                    for later in self.code[place + 1 :]:
                        self.result.cells[later].why = f"it comes after cell {index + 1}, where {run.why}"
                    break
                restarts += 1
            if self.sandbox is not None and (left := self.sandbox.others()):
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

    def _again(self, place: int) -> bool:
        """A new kernel in which everything ran that had come to an end; False where that does not succeed."""
        self.sandbox = self._start()
        for index in self.code[: place + 1]:
            if self.result.cells[index].ended in ("ok", "error") and index not in self.outside:
                self._run(index, self.notebook.cells[index].source)
                if self.sandbox is None:
                    return False
        return True

    def _graded(self, index: int) -> CellRun:
        cell = self.notebook.cells[index]
        if not is_test(cell):
            return self._run(index, cell.source)
        if lines := outside.asked(cell.source):
            return self._checked(index, lines)
        found = self._tampering(index)
        if self.sandbox is None:
            return CellRun(index, "died", "the kernel did not answer before this test")
        run = self._run(index, cell.source)
        if self.sandbox is not None and not found:
            found = self._tampering(index)
        if found and run.ended in ("ok", "error"):
            self.result.tampered[index] = found
        return run

    def _checked(self, index: int, lines: tuple[outside.Asked, ...]) -> CellRun:
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
            self.replied = {}
            last = self._run(index, "pass", expression, until)
            if last.ended != "ok":
                run.ended, run.why, run.error = last.ended, last.why, last.error
                raise outside.LostError
            return outside.reading(self.replied)

        try:
            verdict, ended = checker.verdict(lines, ask, until)
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

    def _tampering(self, index: int) -> str:
        """What makes a test in this kernel worthless, in words; empty where nothing was found."""
        nonce = secrets.token_hex(8)
        # The course may be installed below a folder of the same name as the one that a submission runs in.
        shown = [str(path) for path in sandbox.visible()]
        names = f'{{"nonce": {nonce!r}, "start": {str(self._work())!r}, "shown": {shown!r}}}'
        run = self._run(index, f"exec({_LOOK!r}, {names})\nassert not {nonce!r}, {nonce!r}")
        if run.error == f"AssertionError: {nonce}":
            return ""
        if run.error.startswith(f"RuntimeError: {nonce} "):
            return "the submission's code replaced " + run.error.split(nonce, 1)[1].strip()
        return (
            f"an assertion that must fail before each test ended otherwise ({run.error[:80] or 'not at all'})"
        )

    def _work(self) -> str:
        return self.sandbox.work if self.sandbox is not None else "/work"

    def _run(self, index: int, source: str, expression: str = "", until: float = math.inf) -> CellRun:
        """Runs one piece of source; the sandbox is gone afterwards if it could not be brought to an end.

        What the kernel replies of an `expression`, evaluated after the source, is in `replied` then.
        """
        run, begun = CellRun(index), time.monotonic()
        box, client = self.sandbox, self.sandbox.client
        deadline = min(begun + self.limits.cell_seconds, self.until, until)
        sockets = {client.iopub_channel.socket: "iopub", client.shell_channel.socket: "shell"}
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        expressions = {"answer": expression} if expression else {}
        asked = client.execute(
            source,
            allow_stdin=False,
            stop_on_error=False,
            user_expressions=expressions,
            store_history=not expression,
        )
        traffic = kept = 0
        replied, idle, reply_error = False, False, ""
        while not (replied and idle):
            if self._stop.is_set():
                raise StoppedError
            now = time.monotonic()
            if box.process.poll() is not None:
                run.ended, run.why = "died", box.reason or run.why or "the kernel ended"
                break
            if now > deadline:
                if replied:  # the end of a flood of messages may be lost
                    break
                if run.why:  # it was interrupted, and goes on
                    break
                whole = self.limits.total_seconds if now > self.until else self.limits.cell_seconds
                run.ended, run.why = "time", f"it was stopped after {whole:.3g} seconds"
                deadline = self._interrupt()
            for socket, _ in poller.poll(100):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                    traffic += sum(map(len, frames))
                    if traffic > self.limits.output_mb * MB:
                        if not run.why:
                            run.ended, run.why = (
                                "output",
                                f"it wrote more than {self.limits.output_mb} MB of output",
                            )
                            deadline = self._interrupt()
                        if sockets[socket] == "iopub" and len(frames[-1]) > 1000:
                            continue
                    _, frames = client.session.feed_identities(frames)
                    message = client.session.deserialize(frames)
                    kind, content = message["header"]["msg_type"], message["content"]
                    if message["parent_header"].get("msg_id") != asked:
                        continue
                    if sockets[socket] == "shell":
                        replied = True
                        deadline = min(deadline, time.monotonic() + 2)
                        if content.get("status") != "ok":
                            reply_error = _error(content)
                        self.replied = content.get("user_expressions", {})
                    elif kind == "status":
                        idle = content.get("execution_state") == "idle"
                    elif kind in ("stream", "display_data", "execute_result", "error"):
                        if kind == "error" and not run.error:
                            run.error = _error(content)
                        size = len(frames[-1])
                        fits = kept + size <= KEPT_CHARACTERS and self.kept + size <= KEPT_IN_ALL
                        if fits and len(run.outputs) < KEPT_OUTPUTS:
                            kept += size
                            self.kept += size
                            run.outputs.append(nbformat.v4.output_from_msg(message))
                        elif kind in ("execute_result", "error"):
                            run.outputs.append(
                                nbformat.v4.new_output("stream", name="stderr", text="(cut off)\n")
                            )
                except zmq.Again:
                    continue
                except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
                    continue  # not a message of the protocol: whoever wrote it gets no answer
        run.seconds = time.monotonic() - begun
        run.error = run.error or reply_error
        run.outputs = _joined(run.outputs)
        if not run.why:
            run.ended = "error" if run.error else "ok"
        if not replied:
            self._end()
        return run

    def _interrupt(self) -> float:
        client = self.sandbox.client
        client.control_channel.send(client.session.msg("interrupt_request", {}))
        return time.monotonic() + INTERRUPT_SECONDS


def _error(content: dict) -> str:
    return f"{content.get('ename', 'error')}: {content.get('evalue', '')}"[:500]


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbours of one stream become one output, as JupyterLab stores them."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def execute(
    notebook: NotebookNode, start: Callable[[], Sandbox], limits: Limits, stop: threading.Event
) -> Execution:
    """Runs all code cells in order, going on in a new kernel after a cell that ended the first one.

    The notebook stays as it was. Raises `SandboxError` where no kernel can be started, `StoppedError` when
    `stop` is set.
    """
    return _Runner(notebook, start, limits, stop).all()


__all__ = ["CellRun", "Execution", "SandboxError", "StoppedError", "execute", "is_test", "score_of"]
