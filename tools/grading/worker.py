"""The process of the checks, in which no student's code ever ran; it asks the grading for the answers.

Nothing is imported here that only the grading needs, so that it starts at once.
"""

import contextlib
import io
import json
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tools.grading import values


@dataclass(frozen=True)
class CheckCall:
    """One line of a test: which check, of which names of the notebook, with which seed."""

    check: str
    names: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a test said: its text, and the sentence of the mistake that ended it, if one did."""

    text: str = ""
    mistake: str = ""
    kind: str = "Mistake"


class Answer:
    """A function of the notebook; to call it is to ask the kernel."""

    def __init__(self, connection: Connection, name: str, title: str, seed: int) -> None:
        self._connection, self._notebook_name, self._seed = connection, name, seed
        self.__name__ = title

    def __call__(self, *inputs: object) -> object:
        """What the answer makes of the inputs, which are left as it left them."""
        self._seed += 1
        self._connection.send(("ask", self._notebook_name, values.pickle_inputs(inputs), self._seed))
        reply = _receive(self._connection)
        with contextlib.suppress(Exception):  # whatever was written in place of an answer
            for part, encoded in zip(inputs, reply["after"], strict=True):
                values.write_back(part, encoded)
        return values.decode_answer(reply.get("result"))


def _receive(connection: Connection) -> dict:
    """What came back. Raises what the answer raised, under the same name."""
    reply = json.loads(connection.recv())
    if not isinstance(reply, dict):
        reply = {}
    if "missing" in reply:
        raise NameError(f"name {str(reply['missing'])!r} is not defined")
    if "error" in reply:
        name, text = map(str, reply["error"])
        known = {"NotImplementedError": NotImplementedError}
        raise known.get(name, type(name, (Exception,), {}))(text)
    return reply


def check(connection: Connection, call: CheckCall) -> Verdict:
    """What a check says of the answers that come over the connection. Raises what the check itself raises."""
    from gradients_in_depth import checks
    from gradients_in_depth.checks.common import Mistake

    text = io.StringIO()
    try:
        answers = [_answer(connection, name, 1000 * call.seed) for name in call.names]
        with contextlib.redirect_stdout(text):
            getattr(checks, call.check)(*answers, seed=call.seed)
    except Mistake as mistake:
        return Verdict(text.getvalue(), str(mistake))
    except NameError as error:
        return Verdict(text.getvalue(), str(error), "NameError")
    return Verdict(text.getvalue())


def _answer(connection: Connection, name: str, seed: int) -> object:
    """What the notebook has under a name: a value, or something to call."""
    connection.send(("ask", name, None, 0))
    encoded = _receive(connection).get("result")
    if isinstance(encoded, dict) and "function" in encoded:
        return Answer(connection, name, str(encoded["function"])[:60], seed)
    return values.decode_answer(encoded)


def work(connection: Connection) -> None:
    """Checks what it is sent until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        connection.send(("ready",))
        while True:
            call = connection.recv()
            try:
                verdict = check(connection, call)
            except (EOFError, OSError):
                raise
            except Exception:  # a fault of the check, not of the answer
                connection.send(("broken", traceback.format_exc(limit=-3)))
            else:
                connection.send(("verdict", verdict))
