"""How inputs get into a student's kernel, and how what an answer makes of them comes back.

Inputs are pickled. What comes back never is, because a student's code could have written it: it is JSON, with
numbers, texts and plain arrays, and anything else in it becomes `Strange`.
"""

import ast
import base64
import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import cloudpickle

DEEPEST = 20
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
LARGEST_ANSWER = 4 * 2**20  # of a kernel's message of at most 8 MB
CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}

# Runs in the kernel as an expression, out of the notebook's names: looks at an answer, or calls it.
_IN_KERNEL = r"""
import base64, contextlib, io, json, pickle, random, sys, warnings
import numpy, torch

def encode_array(value, deep):
    if value.dtype.kind == "O" and value.size < 10000 and deep < deepest:
        return {"objects": [list(value.shape), [encode(part, deep + 1) for part in value.flat]]}
    if value.dtype.kind not in "biufc":
        return {"strange": "an array of " + str(value.dtype)}
    data = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode()
    return {"array": [value.dtype.str, list(value.shape), data]}

def encode(value, deep=0):
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
        return {"scalar": encode_array(numpy.asarray(value), deep)}
    if isinstance(value, numpy.ndarray):
        return encode_array(value, deep)
    if isinstance(value, (list, tuple, set, frozenset)) and deep < deepest:
        kind = next(k.__name__ for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return {kind: [encode(part, deep + 1) for part in value]}
    if isinstance(value, dict) and deep < deepest:
        return {"dict": [[encode(k, deep + 1), encode(v, deep + 1)] for k, v in value.items()]}
    if isinstance(value, torch.nn.Module):
        modules, parameters = list(value.modules()), list(value.parameters())
        model = {
            "state": {name: encode(part) for name, part in value.state_dict().items()},
            "modes": [module.training for module in modules],
            "hooks": [[list(getattr(module, kind)) for kind in hooks] for module in modules],
            "asks": [parameter.requires_grad for parameter in parameters],
            "gradients": [encode(parameter.grad) for parameter in parameters],
        }
        return {"strange": type(value).__name__, "model": model}
    if callable(value):
        return {"function": getattr(value, "__name__", "your_function")}
    return {"strange": type(value).__name__}

def evaluate():
    try:
        if name not in user:
            return {"missing": name}
        value = user[name]
        if pickled is None:
            return {"result": encode(value)}
        inputs, gradients = pickle.loads(base64.b64decode(pickled))
        handle = torch.utils.hooks.RemovableHandle
        for model, of_model in zip(inputs, gradients):
            if of_model is not None:
                for parameter, gradient in zip(model.parameters(), of_model):
                    parameter.grad = gradient
                keys = [key for m in model.modules() for kind in hooks for key in getattr(m, kind)]
                handle.next_id = max([handle.next_id, *(key + 1 for key in keys)])
        random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
        quiet = io.StringIO()
        with warnings.catch_warnings(), numpy.errstate(all="ignore"):
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                warnings.simplefilter("ignore")
                result = value(*inputs)
        return {"result": encode(result), "after": [encode(part) for part in inputs]}
    except Exception as error:
        return {"error": [type(error).__name__, str(error)[:500]]}

answer = json.dumps(evaluate())
if len(answer) > most:
    answer = json.dumps({"result": {"strange": "something of " + str(len(answer) >> 20) + " MB"}})
"""


def expression(name: str, pickled: str | None, seed: int) -> str:
    """What the kernel has to evaluate: what `name` is, or, with pickled inputs, what it makes of them."""
    names = f'"name": {name!r}, "pickled": {pickled!r}, "seed": {seed!r}'
    names += f', "most": {LARGEST_ANSWER}, "hooks": {HOOKS}, "deepest": {DEEPEST}'
    evaluate = f"(lambda n: (__import__('builtins').exec({_IN_KERNEL!r}, n), n['answer'])[1])"
    return f"{evaluate}({{{names}, 'user': globals()}})"


def pickle_inputs(inputs: tuple) -> str:
    """The inputs as they go into the kernel, with what is in .grad of the models among them."""
    return base64.b64encode(cloudpickle.dumps((inputs, _gradients(inputs)))).decode()


def _gradients(inputs: Iterable[object]) -> list[list | None]:
    """What is in .grad of the parameters of each model, because no pickle of a model takes it along."""
    import torch

    return [
        [parameter.grad for parameter in part.parameters()] if isinstance(part, torch.nn.Module) else None
        for part in inputs
    ]


def reply_text(replies: dict) -> str:
    """The JSON in a kernel's reply to an `expression`, or a text that no answer is read from."""
    try:
        answer = ast.literal_eval(replies["answer"]["data"]["text/plain"])
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        answer = "{}"
    try:
        json.loads(answer)
    except (TypeError, ValueError, RecursionError):
        answer = "{}"
    return answer


class Strange:
    """An answer that no value stands for; a check says what it should have been instead."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


def decode_answer(encoded: object) -> Any:
    """The value that JSON from the kernel stands for; something strange where there is none in it."""
    try:
        return _decode(encoded)
    except Exception:  # whatever was written in place of an answer
        return Strange("something that cannot be read")


def _decode(encoded: Any, deep: int = 0) -> Any:
    """The same; raises whatever nonsense in it leads to."""
    if deep > DEEPEST:
        raise ValueError("too deep")
    ((kind, data),) = [(k, v) for k, v in encoded.items() if k != "model"]
    match kind:
        case "value" if data is None or isinstance(data, bool | int | float | str):
            return data
        case "ellipsis":
            return ...
        case "complex":
            return complex(*map(float, data))
        case "array":
            return _decode_array(*data)
        case "tensor":
            return _decode_tensor(*data)
        case "objects":
            shape, parts = data
            return _decode_objects(shape, parts, deep)
        case "scalar":
            return _decode(data, deep + 1)[()]
        case "list" | "tuple" | "set" | "frozenset":
            return CONTAINERS[kind](_decode(part, deep + 1) for part in data)
        case "dict":
            return {_decode(key, deep + 1): _decode(value, deep + 1) for key, value in data}
        case "strange" | "function":
            return Strange(str(data)[:60])
    raise ValueError("no such kind")


def _decode_array(name: str, shape: list[int], content: str) -> Any:
    import numpy as np

    dtype = np.dtype(name)
    if dtype.kind not in "biufc":
        raise ValueError("not a plain array")
    return np.frombuffer(bytearray(base64.b64decode(content)), dtype=dtype).reshape(shape)


def _decode_tensor(name: str, shape: list[int], content: str) -> Any:
    import torch

    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError("not a dtype")
    raw = bytearray(base64.b64decode(content))
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


def _decode_objects(shape: list[int], parts: list, deep: int) -> Any:
    import numpy as np

    objects = np.empty(len(parts), dtype=object)
    for place, part in enumerate(parts):
        objects[place] = _decode(part, deep + 1)
    return objects.reshape(shape)


def write_back(value: Any, encoded: dict) -> None:
    """Leaves an input as the answer left it, so that the check sees what was done to it."""
    import numpy as np
    import torch

    if isinstance(value, torch.nn.Module):
        _write_model_back(value, encoded["model"])
        return
    if isinstance(value, tuple):
        for part, of_part in zip(value, encoded["tuple"], strict=True):
            write_back(part, of_part)
    if not isinstance(value, np.ndarray | torch.Tensor | list | dict):
        return
    after = _decode(encoded)
    if isinstance(value, np.ndarray):
        value[...] = after
    elif isinstance(value, torch.Tensor):
        with torch.no_grad():
            value.copy_(after)
    elif isinstance(value, list):
        value[:] = after
    else:
        value.clear()
        value.update(after)


def _write_model_back(model: Any, encoded: dict) -> None:
    model.load_state_dict({name: _decode(part) for name, part in encoded["state"].items()})
    for module, mode, hooks in zip(model.modules(), encoded["modes"], encoded["hooks"], strict=True):
        module.training = bool(mode)
        for kind, keys in zip(HOOKS, hooks, strict=True):
            before = getattr(module, kind)
            after = OrderedDict((key, before.get(key, _left_by_the_answer)) for key in map(int, keys))
            setattr(module, kind, after)
    parameters = zip(model.parameters(), encoded["asks"], encoded["gradients"], strict=True)
    for parameter, asks, gradient in parameters:
        parameter.requires_grad_(bool(asks))
        parameter.grad = _decode(gradient)


def _left_by_the_answer(*_: object) -> None:
    """Stands for a hook that the answer did not take away."""
