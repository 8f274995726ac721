"""One exchange with a kernel: source goes in, and what comes back is read until it is idle, within limits."""

import contextlib
import math
import threading
import time
from dataclasses import dataclass, field

import nbformat
import zmq
from nbformat import NotebookNode

from tools.grading.sandbox import MB, Limits, Sandbox

KEPT_CHARACTERS = 100_000  # of the output of one cell
KEPT_IN_ALL = 5_000_000  # of one notebook
KEPT_OUTPUTS = 200
INTERRUPT_SECONDS = 3.0
LAST_SECONDS = 2.0  # for outputs, after the reply
# What a message raises that does not follow the protocol: whoever wrote it gets no answer.
NONSENSE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RecursionError,
    nbformat.ValidationError,
)


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


class Exchange:
    """One piece of source in the kernel of a sandbox, and what came back.

    `kept_before` is the size of the outputs that the notebook has already. Afterwards `run` says how the
    source ran, `replied` whether it came to an end, `kept_size` how large its outputs are, and `replies` what
    the kernel made of the expression that was sent with it.
    """

    def __init__(self, box: Sandbox, limits: Limits, run: CellRun, kept_before: int = 0) -> None:
        self.run, self.replied, self.kept_size = run, False, 0
        self.replies: dict = {}
        self._box, self._client, self._limits = box, box.client, limits
        self._kept_before, self._traffic = kept_before, 0
        self._idle, self._reply_error = False, ""
        self._deadline, self._message = math.inf, ""

    def perform(
        self, source: str, expression: str, until: float, notebook_until: float, stop: threading.Event
    ) -> None:
        """Runs the source, and evaluates the expression after it, where there is one.

        `until` and `notebook_until` are times of `time.monotonic`. Raises `StoppedError` when `stop` is set.
        """
        client, begun = self._client, time.monotonic()
        self._deadline = min(begun + self._limits.cell_seconds, notebook_until, until)
        sockets = {client.iopub_channel.socket: "iopub", client.shell_channel.socket: "shell"}
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        self._message = client.execute(
            source,
            allow_stdin=False,
            stop_on_error=False,
            user_expressions={"answer": expression} if expression else {},
            store_history=not expression,
        )
        while not (self.replied and self._idle):
            if stop.is_set():
                raise StoppedError
            if self._is_over(notebook_until):
                break
            for socket, _ in poller.poll(100):
                with contextlib.suppress(zmq.Again, *NONSENSE):
                    self._receive(socket, sockets[socket])
        self.run.seconds = time.monotonic() - begun
        self.run.error = self.run.error or self._reply_error
        self.run.outputs = _join_streams(self.run.outputs)
        if not self.run.why:
            self.run.ended = "error" if self.run.error else "ok"

    def _is_over(self, notebook_until: float) -> bool:
        """Whether nothing more is to be waited for. A cell whose time is up is interrupted first."""
        run, now = self.run, time.monotonic()
        if self._box.process.poll() is not None:
            run.ended, run.why = "died", self._box.reason or run.why or "the kernel ended"
            return True
        if now <= self._deadline:
            return False
        if self.replied or run.why:  # the end of a flood may be lost; or it was interrupted, and goes on
            return True
        seconds = self._limits.total_seconds if now > notebook_until else self._limits.cell_seconds
        self._interrupt("time", f"it was stopped after {seconds:.3g} seconds")
        return False

    def _interrupt(self, ended: str, why: str) -> None:
        self.run.ended, self.run.why = ended, why
        self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))
        self._deadline = time.monotonic() + INTERRUPT_SECONDS

    def _receive(self, socket: zmq.Socket, channel: str) -> None:
        """Reads one message. Raises one of `NONSENSE` for what is none."""
        frames = socket.recv_multipart(zmq.NOBLOCK)
        self._traffic += sum(map(len, frames))
        if self._traffic > self._limits.output_mb * MB:
            if not self.run.why:
                self._interrupt("output", f"it wrote more than {self._limits.output_mb} MB of output")
            if channel == "iopub" and len(frames[-1]) > 1000:
                return
        _, frames = self._client.session.feed_identities(frames)
        message = self._client.session.deserialize(frames)
        kind, content = message["header"]["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != self._message:
            return
        if channel == "shell":
            self._take_reply(content)
        elif kind == "status":
            self._idle = content.get("execution_state") == "idle"
        elif kind in ("stream", "display_data", "execute_result", "error"):
            self._take_output(kind, message, len(frames[-1]))

    def _take_reply(self, content: dict) -> None:
        self.replied = True
        self._deadline = min(self._deadline, time.monotonic() + LAST_SECONDS)
        if content.get("status") != "ok":
            self._reply_error = _describe_error(content)
        self.replies = content.get("user_expressions", {})

    def _take_output(self, kind: str, message: dict, size: int) -> None:
        run = self.run
        if kind == "error" and not run.error:
            run.error = _describe_error(message["content"])
        kept = self.kept_size + size
        fits = kept <= KEPT_CHARACTERS and self._kept_before + kept <= KEPT_IN_ALL
        if fits and len(run.outputs) < KEPT_OUTPUTS:
            self.kept_size = kept
            run.outputs.append(nbformat.v4.output_from_msg(message))
        elif kind in ("execute_result", "error"):
            run.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="(cut off)\n"))


def _describe_error(content: dict) -> str:
    return f"{content.get('ename', 'error')}: {content.get('evalue', '')}"[:500]


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
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
