"""Checks an answer out of its reach: the check runs here, and only the answer itself runs in the sandbox.

A test that is nothing but lines such as `checks.NAME(answer, seed=7)` never enters the student's kernel. The
check runs in a process in which no student's code ever ran. What it asks of the answer goes into the kernel
as inputs, and comes back as numbers, texts and plain arrays in JSON. So a kernel in which `numpy.allclose` is
always true, assertions are gone, or `checks` is another module, decides nothing: it can only give values for
inputs that it has not seen, and they are compared elsewhere.
"""

import ast
import base64
import contextlib
import io
import json
import multiprocessing
import signal
import textwrap
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cloudpickle
import nbformat
from nbformat import NotebookNode

START_SECONDS = 120.0  # PyTorch from a cold disk
DEEPEST = 20
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_parsing = threading.Lock()
LARGEST_ANSWER = 4 * 2**20  # of a kernel's message of at most 8 MB

# Runs in the kernel as an expression, out of the notebook's names: looks at an answer, or calls it.
_IN_KERNEL = r"""
import base64, contextlib, io, json, pickle, random, sys, warnings
import numpy, torch

def array(value, deep):
    if value.dtype.kind == "O" and value.size < 10000 and deep < deepest:
        return {"objects": [list(value.shape), [told(part, deep + 1) for part in value.flat]]}
    if value.dtype.kind not in "biufc":
        return {"strange": "an array of " + str(value.dtype)}
    data = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode()
    return {"array": [value.dtype.str, list(value.shape), data]}

def told(value, deep=0):
    if value is None or isinstance(value, (bool, str)):
        return {"value": value if value is None or type(value) in (bool, str) else str(value)}
    if value is ...:
        return {"ellipsis": True}
    if isinstance(value, int):
        return {"value": int(value)}
    if isinstance(value, float) and not isinstance(value, numpy.generic):
        return {"value": float(value)}
    if isinstance(value, complex) and not isinstance(value, numpy.generic):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        data = base64.b64encode(plain.view(-1).view(torch.uint8).numpy().tobytes()).decode()
        return {"tensor": [str(plain.dtype).split(".")[1], list(plain.shape), data]}
    if isinstance(value, numpy.generic):
        return {"scalar": array(numpy.asarray(value), deep)}
    if isinstance(value, numpy.ndarray):
        return array(value, deep)
    if isinstance(value, (list, tuple, set, frozenset)) and deep < deepest:
        kind = next(k.__name__ for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return {kind: [told(part, deep + 1) for part in value]}
    if isinstance(value, dict) and deep < deepest:
        return {"dict": [[told(k, deep + 1), told(v, deep + 1)] for k, v in value.items()]}
    if isinstance(value, torch.nn.Module):
        modules, parameters = list(value.modules()), list(value.parameters())
        model = {
            "state": {name: told(part) for name, part in value.state_dict().items()},
            "modes": [module.training for module in modules],
            "hooks": [[list(getattr(module, kind)) for kind in hooks] for module in modules],
            "asks": [parameter.requires_grad for parameter in parameters],
            "gradients": [told(parameter.grad) for parameter in parameters],
        }
        return {"strange": type(value).__name__, "model": model}
    if callable(value):
        return {"function": getattr(value, "__name__", "your_function")}
    return {"strange": type(value).__name__}

def answered():
    try:
        if name not in user:
            return {"missing": name}
        value = user[name]
        if inputs is None:
            return {"result": told(value)}
        given, gradients = pickle.loads(base64.b64decode(inputs))
        handle = torch.utils.hooks.RemovableHandle
        for model, brought in zip(given, gradients):
            if brought is not None:
                for parameter, gradient in zip(model.parameters(), brought):
                    parameter.grad = gradient
                taken = [key for m in model.modules() for kind in hooks for key in getattr(m, kind)]
                handle.next_id = max([handle.next_id, *(key + 1 for key in taken)])
        random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
        quiet = io.StringIO()
        with warnings.catch_warnings(), numpy.errstate(all="ignore"):
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                warnings.simplefilter("ignore")
                result = value(*given)
        return {"result": told(result), "after": [told(part) for part in given]}
    except Exception as error:
        return {"error": [type(error).__name__, str(error)[:500]]}

answer = json.dumps(answered())
if len(answer) > most:
    answer = json.dumps({"result": {"strange": "something of " + str(len(answer) >> 20) + " MB"}})
"""


class LostError(Exception):
    """The kernel did not bring an answer to an end; the one who asked knows why."""


@dataclass(frozen=True)
class Asked:
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


def statements(source: str) -> list[ast.stmt]:
    """The statements of a source, parsed by one thread at a time (see PARSING in tools/lessons.py)."""
    with _parsing:
        return ast.parse(source).body


def asked(source: str) -> tuple[Asked, ...]:
    """The lines of a test that can be checked outside; none where it is, or has a line of, another kind."""
    lines = []
    for statement in statements(source):
        match statement:
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("checks"), name), given, keywords)):
                pass
            case _:
                return ()
        seeds = [k.value.value for k in keywords if k.arg == "seed" and isinstance(k.value, ast.Constant)]
        plain = all(isinstance(part, ast.Name) for part in given) and len(seeds) == len(keywords)
        if not plain:
            return ()
        lines.append(Asked(name, tuple(part.id for part in given), *seeds))
    return tuple(lines)


def expression(name: str, inputs: str | None, seed: int) -> str:
    """What the kernel has to evaluate: what `name` is, or, with pickled inputs, what it makes of them."""
    given = f'"name": {name!r}, "inputs": {inputs!r}, "seed": {seed!r}'
    given += f', "most": {LARGEST_ANSWER}, "hooks": {HOOKS}, "deepest": {DEEPEST}'
    evaluate = f"(lambda n: (__import__('builtins').exec({_IN_KERNEL!r}, n), n['answer'])[1])"
    return f"{evaluate}({{{given}, 'user': globals()}})"


def outputs(verdict: Verdict) -> list[NotebookNode]:
    """What the cell of such a test shows."""
    shown = []
    if verdict.text:
        shown.append(nbformat.v4.new_output("stream", name="stdout", text=verdict.text))
    if verdict.mistake:
        trace = textwrap.wrap(verdict.mistake, 100)
        shown.append(
            nbformat.v4.new_output("error", ename=verdict.kind, evalue=verdict.mistake, traceback=trace)
        )
    return shown


# --- The process of the checks -----------------------------------------------------------------------------


class Strange:
    """An answer that no value stands for; a check says what it should have been instead."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _value(told: dict, deep: int = 0) -> object:
    """The plain value that JSON from the kernel stands for. Raises whatever nonsense in it leads to."""
    import numpy as np
    import torch

    if deep > DEEPEST:
        raise ValueError("too deep")
    ((kind, data),) = [(k, v) for k, v in told.items() if k != "model"]
    match kind:
        case "value":
            if not isinstance(data, None | bool | int | float | str):
                raise ValueError("not a plain value")
            return data
        case "ellipsis":
            return ...
        case "complex":
            return complex(*map(float, data))
        case "array" | "tensor":
            name, shape, content = data
            raw = bytearray(base64.b64decode(content))
            if kind == "tensor":
                dtype = getattr(torch, name)
                if not isinstance(dtype, torch.dtype):
                    raise ValueError("not a dtype")
                return (
                    torch.frombuffer(raw, dtype=dtype).reshape(shape)
                    if raw
                    else torch.zeros(shape, dtype=dtype)
                )
            dtype = np.dtype(name)
            if dtype.kind not in "biufc":
                raise ValueError("not a plain array")
            return np.frombuffer(raw, dtype=dtype).reshape(shape)
        case "objects":
            shape, parts = data
            objects = np.empty(len(parts), dtype=object)
            for place, part in enumerate(parts):
                objects[place] = _value(part, deep + 1)
            return objects.reshape(shape)
        case "scalar":
            return _value(data, deep + 1)[()]
        case "list" | "tuple" | "set" | "frozenset":
            make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind]
            return make(_value(part, deep + 1) for part in data)
        case "dict":
            return {_value(key, deep + 1): _value(value, deep + 1) for key, value in data}
        case "strange" | "function":
            return Strange(str(data)[:60])
    raise ValueError("no such kind")


def _read(told: object) -> object:
    """The same, and something strange for what no value can be read from."""
    try:
        return _value(told)
    except Exception:  # whatever was written in place of an answer
        return Strange("something that cannot be read")


def _write_back(given: object, told: dict) -> None:
    """Leaves an input as the answer left it, so that the check sees what was done to it."""
    import numpy as np
    import torch

    if isinstance(given, torch.nn.Module):
        left = told["model"]
        given.load_state_dict({name: _value(part) for name, part in left["state"].items()})
        for module, mode, hooks in zip(given.modules(), left["modes"], left["hooks"], strict=True):
            module.training = bool(mode)
            for kind, keys in zip(HOOKS, hooks, strict=True):
                before = getattr(module, kind)
                after = OrderedDict((key, before.get(key, _left_by_the_answer)) for key in map(int, keys))
                setattr(module, kind, after)
        parameters = zip(given.parameters(), left["asks"], left["gradients"], strict=True)
        for parameter, asks, gradient in parameters:
            parameter.requires_grad_(bool(asks))
            parameter.grad = _value(gradient)
        return
    if isinstance(given, tuple):
        for part, of_part in zip(given, told["tuple"], strict=True):
            _write_back(part, of_part)
    if not isinstance(given, np.ndarray | torch.Tensor | list | dict):
        return
    after = _value(told)
    if isinstance(given, np.ndarray):
        given[...] = after
    elif isinstance(given, torch.Tensor):
        with torch.no_grad():
            given.copy_(after)
    elif isinstance(given, list):
        given[:] = after
    else:
        given.clear()
        given.update(after)


def _left_by_the_answer(*_: object) -> None:
    """Stands for a hook that the answer did not take away."""


def _gradients(given: Iterable[object]) -> list[list | None]:
    """What is in .grad of the parameters of each model, for no pickle of a model takes it along."""
    import torch

    return [
        [parameter.grad for parameter in part.parameters()] if isinstance(part, torch.nn.Module) else None
        for part in given
    ]


class Answer:
    """A function of the notebook; to call it is to ask the kernel."""

    def __init__(self, connection: Connection, name: str, title: str, seed: int) -> None:
        self._connection, self._notebook_name, self._seed = connection, name, seed
        self.__name__ = title

    def __call__(self, *given: object) -> object:
        """What the answer makes of the inputs, which are left as it left them."""
        self._seed += 1
        pickled = base64.b64encode(cloudpickle.dumps((given, _gradients(given)))).decode()
        self._connection.send(("ask", self._notebook_name, pickled, self._seed))
        reply = _reply(self._connection)
        with contextlib.suppress(Exception):  # as above
            for part, told in zip(given, reply["after"], strict=True):
                _write_back(part, told)
        return _read(reply.get("result"))


def _reply(connection: Connection) -> dict:
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


def _checked(connection: Connection, line: Asked) -> Verdict:
    from gradients_in_depth import checks
    from gradients_in_depth.checks.common import Mistake

    said = io.StringIO()
    try:
        answers = []
        for name in line.names:
            connection.send(("ask", name, None, 0))
            told = _reply(connection).get("result")
            if isinstance(told, dict) and "function" in told:
                answers.append(Answer(connection, name, str(told["function"])[:60], 1000 * line.seed))
            else:
                answers.append(_read(told))
        with contextlib.redirect_stdout(said):
            getattr(checks, line.check)(*answers, seed=line.seed)
    except Mistake as mistake:
        return Verdict(said.getvalue(), str(mistake))
    except NameError as error:
        return Verdict(said.getvalue(), str(error), "NameError")
    return Verdict(said.getvalue())


def _work(connection: Connection) -> None:
    """Checks what it is sent until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        connection.send(("ready",))
        while True:
            line = connection.recv()
            try:
                verdict = _checked(connection, line)
            except (EOFError, OSError):
                raise
            except Exception:  # a fault of the check, not of the answer
                connection.send(("broken", traceback.format_exc(limit=-3)))
            else:
                connection.send(("verdict", verdict))


# --- The side of the grading -------------------------------------------------------------------------------


class Checker:
    """A process that checks, started when it is first needed, and again after a check that did not end."""

    def __init__(self) -> None:
        self._process, self._connection = None, None

    def start(self) -> Connection:
        """The way to the process, which is there afterwards.

        Raises `BrokenCheckError` when it does not start.
        """
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            if not self._connection.poll(START_SECONDS):
                raise BrokenCheckError("The process of the checks does not start.")
            self._connection.recv()
        return self._connection

    def verdict(
        self, lines: Iterable[Asked], ask: Callable[[str], str], until: float
    ) -> tuple[Verdict, bool]:
        """What the lines of one test say together, and whether they came to an end before `until`.

        `ask` evaluates an expression in the kernel and gives the JSON that it returns; `until` is a time of
        `time.monotonic`. Raises `BrokenCheckError` for a fault of the check, and whatever `ask` raises.
        """
        text = ""
        try:
            for line in lines:
                connection = self.start()
                connection.send(line)
                while True:
                    if not connection.poll(max(0.0, until - time.monotonic())):
                        self.stop()
                        return Verdict(text), False
                    kind, *content = connection.recv()
                    if kind == "ask":
                        connection.send(ask(expression(*content)))
                        continue
                    if kind == "broken":
                        raise BrokenCheckError(f"The check {line.check} itself fails: {content[0]}")
                    break
                (verdict,) = content
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

    def stop(self) -> None:
        """Ends the process; the next check starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None


class BrokenCheckError(Exception):
    """The check does not work; it says nothing about a submission."""


_of_thread = threading.local()


def checker() -> Checker:
    """The checker of this thread, which serves one submission after another."""
    if not hasattr(_of_thread, "checker"):
        _of_thread.checker = Checker()
    return _of_thread.checker


def reading(replies: dict) -> str:
    """The JSON in a kernel's reply to `expression`, or a text that no answer is read from."""
    try:
        answer = ast.literal_eval(replies["answer"]["data"]["text/plain"])
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        answer = "{}"
    try:
        json.loads(answer)
    except (TypeError, ValueError, RecursionError):
        answer = "{}"
    return answer
