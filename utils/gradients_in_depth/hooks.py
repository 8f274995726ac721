"""The calls of a model's modules while it runs: what `signals` measures and what `diagnosis` looks at.

One recorder hooks the modules, keeps the stack of open calls and names each call, so that all who listen to
a run speak of the same layers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(eq=False, slots=True)
class Call:
    """One call of one module.

    name: as in `model.named_modules()`, "(model)" for the model itself; its second call is "name#2".
    is_leaf: whether it has called no other watched module so far.
    """

    module: nn.Module
    name: str
    is_leaf: bool = True


class Listener:
    """Anyone who wants to know of calls overrides these; listeners are told in the order of the list."""

    def call_starts(self, call: Call, arguments: tuple, keywords: dict) -> tuple[tuple, dict] | None:
        """Before the module runs; may return other arguments for it."""

    def call_ends(self, call: Call, arguments: tuple, keywords: dict, output: object) -> None:
        """When the module has returned, before an in-place activation can change its output."""

    def activation_returns(self, module: nn.Module, output: object) -> None:
        """When one of the `activations` of `Recorder.hooks` has returned; its own call is still open."""


class Recorder:
    """Hooks on the modules of a model, which tell `listeners` of every call during the forward pass.

    names: of all modules, each by its first name. open: the calls that have not ended, the innermost last.
    calls: those that have ended, in the order in which they did. times_called: by module, with the calls that
    ended in an error. phase: what happens at present, set by whoever runs the model: calls count in "forward"
    (not those that the loss makes), gradients in "backward" (not those that the model or the loss takes for
    itself). Raises TypeError when `model` is not a module.
    """

    def __init__(self, model: nn.Module):
        self.model = check_model(model)
        self.listeners: list[Listener] = []
        self.names = {module: name or "(model)" for name, module in model.named_modules()}
        self.phase: Literal["idle", "forward", "loss", "backward"] = "idle"
        self.open: list[Call] = []
        self.calls: list[Call] = []
        self.times_called: Counter[nn.Module] = Counter()
        self._activations: set[nn.Module] = set()
        self._handles: list[RemovableHandle] = []

    @contextmanager
    def hooks(self, watched: Iterable[nn.Module], activations: Iterable[nn.Module] = ()) -> Iterator[None]:
        """Hooks for one run, after which they are gone and the listeners are let go.

        watched: modules whose calls are recorded. activations: modules whose outputs are told besides, also
        where their calls are not recorded.
        """
        watched, self._activations = set(watched), set(activations)
        try:
            for module in self._activations - watched:
                self._handles.append(module.register_forward_hook(self._after_activation))
            for module in watched:
                self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
                self._handles.append(module.register_forward_hook(self._after, with_kwargs=True))
            yield
        finally:
            self.phase = "idle"
            for handle in self._handles:
                handle.remove()
            # Without reference cycles, what was recorded is freed as soon as nobody needs it.
            self._handles.clear()
            self.listeners.clear()

    def when_gradient_arrives(self, tensor: Tensor, listen: Callable[[Tensor], None]) -> None:
        """Call `listen` with the gradient by the tensor, when the backward pass gets there."""

        def hear(gradient: Tensor) -> None:
            if self.phase == "backward":
                listen(gradient)

        self._handles.append(tensor.register_hook(hear))

    def _before(self, module: nn.Module, arguments: tuple, keywords: dict) -> tuple[tuple, dict] | None:
        if self.phase != "forward":
            return None
        self.times_called[module] += 1
        times = self.times_called[module]
        call = Call(module, self.names[module] + (f"#{times}" if times > 1 else ""))
        if self.open:
            self.open[-1].is_leaf = False
        self.open.append(call)
        replaced = None
        for listener in self.listeners:
            replaced = listener.call_starts(call, *(replaced or (arguments, keywords))) or replaced
        return replaced

    def _after(self, module: nn.Module, arguments: tuple, keywords: dict, output: object) -> None:
        if self.phase != "forward":
            return
        if module in self._activations:
            self._after_activation(module, arguments, output)
        while (call := self.open.pop()).module is not module:
            pass  # it ended in an error, which the model caught
        self.calls.append(call)
        for listener in self.listeners:
            listener.call_ends(call, arguments, keywords, output)

    def _after_activation(self, module: nn.Module, arguments: tuple, output: object) -> None:
        if self.phase == "forward":
            for listener in self.listeners:
                listener.activation_returns(module, output)


def check_model(model: nn.Module) -> nn.Module:
    """`model`, if hooks can be put on it; raises TypeError."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model must be a torch.nn.Module, and not TorchScript, got {type(model).__name__}.")
    return model


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, holds floating-point numbers, and gives them away."""
    dense = tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_nested
    # Inside torch.vmap a tensor stands for a batch of them. There is no public function that tells.
    return dense and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def first_tensor(value: object) -> Tensor | None:
    """The first plain tensor in a tuple, list, dict or dataclass; a scalar (a loss) only if alone."""
    if isinstance(value, Tensor):
        return value if is_plain(value) else None
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, f.name) for f in fields(value)]
    else:
        parts = list(value) if isinstance(value, tuple | list) else []
    tensors = [tensor for part in parts if (tensor := first_tensor(part)) is not None]
    return next((tensor for tensor in tensors if tensor.ndim), tensors[0] if tensors else None)


def listed(names: Iterable[str], most: int) -> str:
    """The first `most` names for a sentence, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
