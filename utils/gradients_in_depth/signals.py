"""Measure what flows through any `torch.nn.Module`: activations forward, gradients backward, and weights.

The model runs once forward and once backward, in its present mode, and is left as it was. Forward hooks
record a layer's output at the moment it returns, before an in-place activation can change it; activation
gradients come from hooks on the output tensors, which, unlike full backward hooks, bear in-place changes.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradients_in_depth.arguments import check_batch, check_integer, check_number
from gradients_in_depth.catalogue import FORMATS as FORMAT_DTYPES
from gradients_in_depth.catalogue import activation_module, number_format
from gradients_in_depth.randomness import random_state_kept

FORMATS = ("float16", "bfloat16", "float32")
NAN = math.nan


@dataclass(frozen=True)
class LayerSignals:
    """One call of one layer; NaN where a figure has no meaning or no gradient arrived (`Signals.notes`: why).

    name: as in `model.named_modules()`, "(model)" for the model itself; its second call is "name#2".
    kind: class name of the module.
    activation_mean, activation_variance: over all entries of the output.
    activation_gradient_norm, activation_gradient_rms: of the loss's gradient by the output, whole batch.
    saturated_share: share of outputs where |phi'(z)| is below 5 % of its maximum; bounded activations only.
    dead_share: share of units that are 0 on the whole batch; ReLU, ReLU6 and Hardswish only. A unit is an
        entry of dimension 1 (a channel), in outputs (batch, time, features) one of the last.
    cosine: mean cosine between the outputs for two different examples (dimension 0); zero outputs left out.
    weight_gradient_norm, weight_norm: over the parameters inside that have at least two dimensions.
    update_ratio: learning_rate * weight_gradient_norm / weight_norm; None without a learning rate.
    underflow, overflow: by number format, the share of the non-zero entries of the activation gradient that
        become 0, or infinite, when rounded to it.
    """

    name: str
    kind: str
    activation_mean: float
    activation_variance: float
    activation_gradient_norm: float
    activation_gradient_rms: float
    saturated_share: float
    dead_share: float
    cosine: float
    weight_gradient_norm: float
    weight_norm: float
    update_ratio: float | None
    underflow: dict[str, float]
    overflow: dict[str, float]


@dataclass(frozen=True)
class ParameterSignals:
    """One parameter, the module that holds it, and its gradient: NaN where there is none (frozen, unused).

    gradient: the gradient itself, to look at and not to write to; None where there is none.
    underflow, overflow: as in `LayerSignals`, but worked out only when asked for.
    """

    name: str
    layer: str
    norm: float
    gradient_norm: float
    update_ratio: float | None
    frozen: bool
    gradient: np.ndarray | None = field(repr=False, compare=False)

    @cached_property
    def underflow(self) -> dict[str, float]:
        """By number format, the share of the gradient's non-zero entries that become 0 in it."""
        return _range_shares(self.gradient, self.gradient_norm)[0]

    @cached_property
    def overflow(self) -> dict[str, float]:
        """By number format, the share of the gradient's non-zero entries that become infinite in it."""
        return _range_shares(self.gradient, self.gradient_norm)[1]


@dataclass(frozen=True)
class Signals:
    """What `measure` saw: layers in the order in which they returned, parameters, and sentences to read."""

    loss: float
    layers: tuple[LayerSignals, ...]
    parameters: tuple[ParameterSignals, ...]
    notes: tuple[str, ...]

    def series(self, name: str) -> np.ndarray:
        """One figure of every layer, (layers,); shares by format are "underflow.float16" and the like.

        Raises ValueError for an unknown name (and lists the others), and for update_ratio if there is none.
        """
        allowed = [f.name for f in fields(LayerSignals) if f.name not in ("underflow", "overflow")]
        allowed += [f"{share}.{number}" for share in ("underflow", "overflow") for number in FORMATS]
        if name not in allowed:
            raise ValueError(f"The series must be one of {', '.join(allowed)}; got {name!r}.")
        attribute, _, number = name.partition(".")
        values = [getattr(layer, attribute) for layer in self.layers]
        if None in values:
            raise ValueError("The series update_ratio needs measure(..., learning_rate=...), got None.")
        return np.array([value[number] for value in values] if number else values)


def measure(
    model: nn.Module,
    inputs: Tensor | Sequence | Mapping,
    targets: object = None,
    loss_fn: Callable[..., Tensor] | None = None,
    *,
    layers: str | type | Iterable[str | type] | None = None,
    learning_rate: float | None = None,
) -> Signals:
    """Measure the layers of a model in one forward and one backward pass, and leave the model as it was.

    inputs: a tensor (batch, ...), a tuple of positional arguments, or a dict of keyword arguments.
    loss_fn: called as loss_fn(outputs, targets), or as loss_fn(outputs) when `targets` is None.
    layers: None for every module that calls no other; or names; or classes. A container is measured at its
        output, and its saturated and dead shares are those of the activation modules inside it.

    Restored, after an error too: train or eval mode, `.grad`, `requires_grad`, buffers, attributes, hooks,
    and the random state of torch, NumPy and Python (but not what a model appends to a list of its own).
    Works under `torch.no_grad()`. Raises TypeError or ValueError, under `torch.inference_mode()`
    RuntimeError, with one sentence when measuring is impossible; what is only partial is in `notes`. The
    model's own errors pass unchanged.
    """
    arguments, keywords = _checked_arguments(model, inputs)
    if not callable(loss_fn):
        raise TypeError(
            "loss_fn must be a function of (outputs, targets), or of (outputs) when there are no targets, "
            f"such as torch.nn.functional.cross_entropy; got {loss_fn!r}."
        )
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, at_least=0.0)
    named_modules = list(model.named_modules(remove_duplicate=False))
    recorder = _Recorder(named_modules, layers)
    names: dict[Tensor, list[str]] = defaultdict(list)  # a tied parameter has several
    for layer, module in named_modules:
        for key, parameter in module._parameters.items():
            if parameter is not None:
                names[parameter].append(f"{layer}.{key}".lstrip("."))
    with _left_as_it_was(model), recorder.hooks(), torch.enable_grad():
        recorder.phase = "forward"
        outputs = _run(model, arguments, keywords)
        recorder.phase = "loss"  # which may call the model again, or differentiate it
        loss = _checked_loss(loss_fn(outputs) if targets is None else loss_fn(outputs, targets))
        recorder.phase = "backward"
        gradients = _gradients(loss, [*names, *arguments, *keywords.values()])
    parameters = _parameter_signals(names, gradients, learning_rate)
    return Signals(
        loss=loss.item(),
        layers=tuple(_layer_signals(call, parameters, gradients, learning_rate) for call in recorder.calls),
        parameters=tuple(parameters.values()),
        notes=_notes(recorder, names, loss.item(), gradients),
    )


def jacobian_singular_values(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Singular values of the Jacobian of outputs by inputs, largest first, for each example by itself.

    inputs: (features,) for one example, giving (k,); or (batch, ...), giving (batch, k). k is the smaller of
    the numbers of inputs and outputs. The model runs once on the whole batch, in its present mode, and is
    left as it was; with batch normalization in train mode the other examples are held fixed. NaN where the
    Jacobian is not finite.

    Raises TypeError or ValueError for inputs that are not finite floating-point numbers, for batch
    normalization in train mode with one example, and for outputs that do not depend on the inputs.
    """
    if not check_batch("inputs", inputs).is_floating_point():
        raise TypeError(f"inputs must be floating-point to be differentiated, got {inputs.dtype}.")
    (batch,), _ = _checked_arguments(model, (inputs[None] if inputs.ndim == 1 else inputs,))
    batch = batch.detach().requires_grad_()
    with _left_as_it_was(model), torch.enable_grad():
        outputs = _first_tensor(_run(model, (batch.clone(),), {}))  # a clone: the model may work in place
        if outputs is None or outputs.shape[:1] != batch.shape[:1] or not outputs.requires_grad:
            given = "none" if outputs is None else f"shape {tuple(outputs.shape)}"
            raise ValueError(
                "The model must return rows of floating-point numbers that depend on the inputs, "
                f"{len(batch)} as the inputs; got {given}."
            )
        singular_values = []
        for example, output in enumerate(outputs.reshape(len(batch), -1)):
            (jacobian,) = torch.autograd.grad(
                output,
                batch,
                torch.eye(len(output)).to(output),
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
            if jacobian is None:  # this output depends on parameters alone
                jacobian = batch.new_zeros(len(output), *batch.shape)
            jacobian = jacobian[:, example].flatten(1).double().cpu()
            finite = bool(jacobian.isfinite().all())
            values = torch.linalg.svdvals(jacobian if finite else torch.zeros_like(jacobian)).numpy()
            singular_values.append(values if finite else values + NAN)
    return singular_values[0] if inputs.ndim == 1 else np.stack(singular_values)


def flow(
    weights: Sequence[Tensor], inputs: Tensor, activation: str, output_gradient: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Forward and backward through the plain layers h -> activation(h @ W): what the explorers move.

    weights: depth matrices (width, width); inputs and output_gradient (batch, width), all of one dtype.
    Returns the root mean square of the activations and that of their gradients, (depth,) each. Without
    parameters, hooks and other statistics it costs a third of `measure`, which finds the same gradients.
    Raises ValueError for shapes that do not fit and for an unknown activation.
    """
    shapes = {(inputs.shape[-1], inputs.shape[-1])} | {tuple(weight.shape) for weight in weights}
    if len(weights) == 0 or len(shapes) > 1 or output_gradient.shape != inputs.shape or inputs.ndim != 2:
        raise ValueError(
            "flow needs at least one weight matrix (width, width), inputs (batch, width) and an output "
            f"gradient like them, got {len(weights)} matrices of shapes {sorted(shapes)}, inputs "
            f"{tuple(inputs.shape)} and gradient {tuple(output_gradient.shape)}."
        )
    phi = activation_module(activation).to(inputs.dtype)
    with torch.enable_grad():
        hidden = [phi(inputs.detach().requires_grad_() @ weights[0])]
        for weight in weights[1:]:
            hidden.append(phi(hidden[-1] @ weight))
        gradients = torch.autograd.grad(hidden[-1], hidden, output_gradient)
    # One small tensor at a time: a stack of all of them is large enough to be paged in anew each time.
    sides = [[t.detach().numpy() for t in side] for side in (hidden, gradients)]
    return tuple(np.sqrt([[np.vdot(t, t) / t.size for t in side] for side in sides]))


def running_product(factor: float, count: int, format_name: str) -> np.ndarray:
    """factor, factor**2, ... multiplied one by one in the arithmetic of a number format.

    Returns (count,). Raises ValueError for an unknown format and for a count below 1.
    """
    number_format(format_name)
    check_integer("count", count, at_least=1)
    step = torch.tensor(check_number("factor", factor), dtype=FORMAT_DTYPES[format_name])
    products = [step]
    while len(products) < count:
        products.append(products[-1] * step)
    return torch.stack(products).double().numpy()


def matrix_products(matrices: Tensor) -> Tensor:
    """The running products of a chain of matrices: W_1, W_2 W_1, W_3 W_2 W_1, ...

    matrices (..., depth, width, width), the factor nearest to the vector first; returns the same
    shape. Raises TypeError or ValueError for anything but finite floating-point square matrices.
    """
    if not isinstance(matrices, Tensor) or not matrices.is_floating_point():
        given = matrices.dtype if isinstance(matrices, Tensor) else type(matrices).__name__
        raise TypeError(f"matrices must be a floating-point tensor, got {given}.")
    if matrices.ndim < 3 or matrices.shape[-1] != matrices.shape[-2] or not matrices.numel():
        raise ValueError(f"matrices must be (..., depth, width, width), got shape {tuple(matrices.shape)}.")
    check_batch("matrices", matrices)
    products = [matrices[..., 0, :, :]]
    for matrix in matrices.unbind(-3)[1:]:
        products.append(matrix @ products[-1])
    return torch.stack(products, dim=-3)


# --- Figures of one tensor ---------------------------------------------------------------------------------

# The outputs at and beyond which |phi'| is below 5 % of its maximum, by kind of activation.
_FLAT_BEYOND: dict[type[nn.Module], Callable[[nn.Module], tuple[float, float]]] = {
    nn.Sigmoid: lambda module: (0.5 - math.sqrt(0.2375), 0.5 + math.sqrt(0.2375)),  # a (1 - a) = 0.05 / 4
    nn.Tanh: lambda module: (-math.sqrt(0.95), math.sqrt(0.95)),  # 1 - a**2 = 0.05
    nn.Softsign: lambda module: (math.sqrt(0.05) - 1, 1 - math.sqrt(0.05)),  # (1 - |a|)**2 = 0.05
    nn.Hardtanh: lambda module: (module.min_val, module.max_val),  # ReLU6 is one: flat at 0 and at 6
    nn.Hardsigmoid: lambda module: (0.0, 1.0),
}
_EXACTLY_ZERO = (nn.ReLU, nn.ReLU6, nn.Hardswish)
_ACTIVATIONS = (*_FLAT_BEYOND, *_EXACTLY_ZERO)


def _rounded_away(name: str) -> tuple[float, float]:
    """Up to the first magnitude a number becomes 0 in the format, from the second on infinite."""
    numbers = number_format(name)
    return numbers.smallest_subnormal / 2, numbers.largest / 2 + 2.0 ** (math.frexp(numbers.largest)[1] - 1)


_ROUNDED_AWAY = {name: _rounded_away(name) for name in FORMATS}


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or float64, with complex entries as pairs of real ones and sparse ones as their values."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.float32, torch.float64) and tensor.layout == torch.strided:
        return tensor
    if tensor.is_sparse:  # the gradient of nn.Embedding(sparse=True)
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _norm(tensor: Tensor) -> float:
    return _exact_norm(tensor, torch.linalg.vector_norm(tensor).item())


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    """Of each tensor; in one call, as `clip_grad_norm_` does it, for a call costs more than a small norm."""
    norms = torch._foreach_norm(tensors) if tensors else ()
    return [_exact_norm(tensor, norm.item()) for tensor, norm in zip(tensors, norms, strict=True)]


def _exact_norm(tensor: Tensor, norm: float) -> float:
    if 1e-12 < norm < 1e12:
        return norm
    # The squares may have left the range of the format: measure in units of the largest entry.
    largest = tensor.abs().amax().item() if tensor.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * torch.linalg.vector_norm(tensor.double() / largest).item()


def _activation_figures(output: Tensor) -> dict[str, float]:
    size = output.numel()
    if not size:
        return {"activation_mean": NAN, "activation_variance": NAN, "cosine": NAN}
    rows = output.reshape(len(output) if output.ndim else 1, -1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    # One pass over the rows for both of their sums: as they are, and as directions. What is small goes to
    # NumPy, whose calls cost less.
    sums = torch.stack([torch.ones_like(norms), norms.reciprocal()]) @ rows
    (total, directions), lengths = sums.cpu().numpy(), norms.cpu().numpy().astype(np.float64)
    mean, mean_square = float(total.sum(dtype=np.float64)) / size, float(lengths @ lengths) / size
    cosine = _mean_cosine(directions, len(rows))
    if rows.dtype != torch.float64 and not (1e-24 < mean_square < 1e24 and math.isfinite(cosine)):
        return _activation_figures(output.double())  # in float32 squares may have left the range
    if math.isnan(cosine):
        known = norms != 0
        cosine = _mean_cosine((norms[known].reciprocal() @ rows[known]).cpu().numpy(), int(known.sum()))
    variance = mean_square - mean * mean
    if not variance > 0.01 * mean_square:  # a difference of nearly equal numbers: again, and from near by
        shifted = rows.double() - rows[0, 0]
        variance = (shifted.square().mean() - shifted.mean().square()).item()
    return {"activation_mean": mean, "activation_variance": variance, "cosine": cosine}


def _mean_cosine(directions: np.ndarray, count: int) -> float:
    """Over pairs: the square of the summed directions is the sum of all cosines, and of 1 for each row."""
    return (float(directions @ directions) - count) / (count * (count - 1)) if count > 1 else NAN


def _activation_counts(module: nn.Module, output: Tensor) -> np.ndarray:
    """Saturated outputs, all outputs, dead units, all units; 0 where the kind of activation has none."""
    counts, output = np.zeros(4), output.detach()
    bounds = next((bounds for kind, bounds in _FLAT_BEYOND.items() if isinstance(module, kind)), None)
    if bounds and output.numel():
        low, high = bounds(module)
        if output.dtype not in (torch.float32, torch.float64):  # the bounds as the output rounds them
            low, high = torch.tensor((low, high), dtype=output.dtype).tolist()
        smallest, largest = torch.aminmax(output)
        if not low < smallest.item() <= largest.item() < high:
            values = _wide(output).cpu().numpy()
            counts[0] = np.count_nonzero((values <= low) | (values >= high))
        counts[1] = output.numel()
    if isinstance(module, _EXACTLY_ZERO) and output.numel():
        unit_axis = {0: None, 1: None, 3: 2}.get(output.ndim, 1)
        others = tuple(axis for axis in range(output.ndim) if axis != unit_axis)
        alive = _wide(output).cpu().numpy().any(axis=others)
        counts[2:] = np.count_nonzero(alive == 0), alive.size
    return counts


def _gradient_figures(gradient: Tensor | None) -> dict:
    """By their names in `LayerSignals`; NaN without a gradient."""
    norm = NAN if gradient is None else _norm(gradient)
    underflow, overflow = _range_shares(None if gradient is None else gradient.cpu().numpy(), norm)
    return {
        "activation_gradient_norm": norm,
        "activation_gradient_rms": NAN if gradient is None else norm / math.sqrt(max(gradient.numel(), 1)),
        "underflow": underflow,
        "overflow": overflow,
    }


def _range_shares(gradient: np.ndarray | None, norm: float) -> tuple[dict[str, float], dict[str, float]]:
    """By format, the shares of the non-zero entries that become 0, and infinite; NaN without any."""
    underflow, overflow = dict.fromkeys(FORMATS, NAN), dict.fromkeys(FORMATS, NAN)
    if gradient is None or not gradient.size:
        return underflow, overflow
    # NumPy compares and counts three times as fast as torch. No entry is larger than the norm, and few are
    # small: most often one look is enough for all formats.
    widest = max(low for low, _ in _ROUNDED_AWAY.values())
    small = np.abs(gradient[(gradient <= widest) & (gradient >= -widest)])
    zeros = np.count_nonzero(small == 0)
    nonzero = gradient.size - zeros
    for name in FORMATS if nonzero else ():
        low, high = _ROUNDED_AWAY[name]
        underflow[name] = (np.count_nonzero(small <= low) - zeros) / nonzero
        beyond = 0 if norm < high else np.count_nonzero(np.abs(gradient) >= np.float64(high))
        overflow[name] = beyond / nonzero
    return underflow, overflow


# --- Recording ---------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """One call of one module; `gradient` stays None unless a gradient arrives."""

    module: nn.Module
    number: int  # among all calls of all modules
    counts: list[np.ndarray] = field(default_factory=list)  # of the activations inside
    name: str = ""
    activation: dict[str, float] = field(default_factory=dict)
    gradient: dict | None = None
    differentiable: bool = False
    is_view: bool = False


class _Recorder:
    """Hooks that record every call of the chosen modules; None: of those that call no other module."""

    def __init__(self, named_modules: list[tuple[str, nn.Module]], layers: str | type | Iterable | None):
        self.names: dict[nn.Module, str] = {}
        for name, module in named_modules:
            self.names.setdefault(module, name or "(model)")
        self.chosen = None if layers is None else _chosen_layers(self.names, layers)
        self.calls: list[_Call] = []
        self.times_called: Counter[nn.Module] = Counter()
        self.notes: dict[str, list[str]] = defaultdict(list)  # what to say -> of which layers
        self.phase = "idle"
        self._number = 0
        self._open: list[_Call] = []
        self._handles: list = []

    @contextmanager
    def hooks(self) -> Iterator[None]:
        watched = self.chosen
        if watched is None:
            # What a parametrization computes is a weight, and no activation.
            watched = [m for m, name in self.names.items() if "parametrizations" not in name.split(".")]
        activations = {m for layer in watched for m in layer.modules() if isinstance(m, _ACTIVATIONS)}
        try:
            for module in activations:
                self._handles.append(module.register_forward_hook(self._after_activation))
            for module in watched:
                self._handles.append(module.register_forward_pre_hook(self._before))
                self._handles.append(module.register_forward_hook(self._after))
            yield
        finally:
            for handle in self._handles:
                handle.remove()

    def _before(self, module: nn.Module, arguments: tuple) -> None:
        if self.phase == "forward":
            self._number += 1
            self.times_called[module] += 1
            self._open.append(_Call(module, self._number))

    def _after_activation(self, module: nn.Module, arguments: tuple, output: object) -> None:
        if self.phase == "forward" and (tensor := _first_tensor(output)) is not None:
            counts = _activation_counts(module, tensor)
            for call in self._open:
                call.counts.append(counts)

    def _after(self, module: nn.Module, arguments: tuple, output: object) -> None:
        if self.phase != "forward":
            return
        while (call := self._open.pop()).module is not module:
            pass  # it ended in an error, which the model caught
        if self.chosen is None and call.number < self._number:
            return  # it has called another module
        times, kind = self.times_called[module], type(output).__name__
        call.name = self.names[module] + (f"#{times}" if times > 1 else "")
        tensor = _first_tensor(output)
        if tensor is None:
            reason = f"Not measured, for it returns {kind} without a plain floating-point tensor"
            self.notes[reason].append(call.name)
            return
        if tensor is not output:
            reason = f"Measured at the first floating-point tensor in the {kind} it returns"
            self.notes[reason].append(call.name)
        if _is_time_first(module, tensor, output):
            self.notes["Dimension 0 is time, so that the cosine compares time steps"].append(call.name)
        saturated, outputs, dead, units = sum(call.counts, np.zeros(4))
        call.activation = _activation_figures(_wide(tensor))
        call.activation["saturated_share"] = saturated / outputs if outputs else NAN
        call.activation["dead_share"] = dead / units if units else NAN
        self.calls.append(call)
        if tensor.requires_grad:
            call.differentiable, call.is_view = True, tensor._is_view()
            self._handles.append(tensor.register_hook(lambda gradient: self._keep(call, gradient)))

    def _keep(self, call: _Call, gradient: Tensor) -> None:
        if self.phase == "backward":
            # At once: to keep all gradients costs more, for memory that has to be paged in anew each time.
            call.gradient = _gradient_figures(_wide(gradient))


def _first_tensor(output: object) -> Tensor | None:
    """The first floating-point tensor in a tuple, list, dict or dataclass; a scalar (a loss) if alone."""
    if isinstance(output, Tensor):
        plain = output.is_floating_point() and output.layout == torch.strided and not output.is_nested
        # Inside torch.vmap a tensor stands for a batch of them, and gives no numbers away.
        return output if plain and not torch._C._functorch.is_functorch_wrapped_tensor(output) else None
    if isinstance(output, Mapping):
        values = list(output.values())
    elif is_dataclass(output) and not isinstance(output, type):
        values = [getattr(output, f.name) for f in fields(output)]
    else:
        values = output if isinstance(output, tuple | list) else []
    found = [tensor for value in values if (tensor := _first_tensor(value)) is not None]
    return next((tensor for tensor in found if tensor.ndim), found[0] if found else None)


def _is_time_first(module: nn.Module, tensor: Tensor, output: object) -> bool:
    """Whether a recurrent or attention layer of torch puts time before the batch, or packs the two."""
    packed = isinstance(output, tuple) and any(isinstance(part, PackedSequence) for part in (output, *output))
    return packed or (tensor.ndim == 3 and getattr(module, "batch_first", True) is False)


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    registries = [r for m in modules for r in (vars(m), m._parameters, m._buffers, m._modules)]
    bindings = [(registry, dict(registry)) for registry in registries]  # `training` is among them
    buffers = [b for m in modules for b in m._buffers.values() if b is not None and b.layout == torch.strided]
    values = [buffer.clone() for buffer in buffers]
    parameters = [
        (p, p.requires_grad, p.grad) for m in modules for p in m._parameters.values() if p is not None
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    gpus = {p.device.index for p, _, _ in parameters if p.is_cuda}
    try:
        with random_state_kept(gpus):
            # The fast path passes over the layers of a frozen Transformer.
            torch.backends.mha.set_fastpath_enabled(False)
            for parameter, _, _ in parameters:
                parameter.grad = None  # so that a model that calls backward itself adds nothing to it
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for registry, binding in bindings:
            registry.clear()
            registry.update(binding)
        for buffer, value in zip(buffers, values, strict=True):
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)  # .data: a graph that the caller still holds stays valid
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad).grad = grad


# --- Arguments ---------------------------------------------------------------------------------------------


def _checked_arguments(model: nn.Module, inputs: Tensor | Sequence | Mapping) -> tuple[tuple, dict]:
    """Positional and keyword arguments, with the tensors copied, because a model may change them in place."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model must be a torch.nn.Module, and not TorchScript, got {type(model).__name__}.")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() forbids gradients: measure outside of it, or in no_grad()."
        )
    if isinstance(inputs, Mapping):
        arguments, keywords = (), dict(inputs)
    elif isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
        arguments, keywords = tuple(inputs), {}
    elif isinstance(inputs, Tensor | PackedSequence):
        arguments, keywords = (inputs,), {}
    else:
        raise TypeError(
            "inputs must be a tensor, a tuple of positional arguments, or a dict of keyword arguments, "
            f"got {type(inputs).__name__}."
        )
    given = [a for a in [*arguments, *keywords.values()] if isinstance(a, Tensor)]
    for tensor in given:
        if not tensor.numel():
            raise ValueError(f"inputs must hold at least one example, got shape {tuple(tensor.shape)}.")
        if tensor.is_inference():
            raise ValueError("inputs were made in inference mode, which forbids gradients: clone them.")
        if tensor.is_floating_point() and tensor.isnan().any():
            raise ValueError(f"inputs must not contain NaN, got it in {int(tensor.isnan().sum())} places.")
    for layer, module in model.named_modules():
        for key, tensor in (module._parameters | module._buffers).items():
            if tensor is None:
                continue
            if nn.parameter.is_lazy(tensor) or tensor.is_meta:
                name = f"{layer}.{key}".lstrip(".")
                raise ValueError(f"The model must have values, got none yet for {name}: run it once before.")
            if tensor.is_inference():
                name = f"{layer}.{key}".lstrip(".")
                raise ValueError(f"{name} was made in inference mode, which forbids gradients: clone it.")
    with torch.enable_grad():
        arguments = tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)
        return arguments, {k: a.clone() if isinstance(a, Tensor) else a for k, a in keywords.items()}


def _chosen_layers(names: dict[nn.Module, str], layers: str | type | Iterable) -> set[nn.Module]:
    named = {name: module for module, name in names.items()}
    if not isinstance(layers, Iterable | type):
        raise TypeError(f"layers must be None, names or classes of modules, got {layers!r}.")
    chosen = set()
    for layer in [layers] if isinstance(layers, str | type) else layers:
        if isinstance(layer, type):
            found = {module for module in named.values() if isinstance(module, layer)}
            allowed = sorted({type(module).__name__ for module in named.values()})
        else:
            found = {named[layer]} if layer in named else set()
            allowed = list(named)
        if not found:
            raise ValueError(
                f"layers must be names or classes of modules in the model, which are "
                f"{_listed(allowed, 20)}; got {layer!r}."
            )
        chosen |= found
    return chosen


def _run(model: nn.Module, arguments: tuple, keywords: dict) -> object:
    """The model's outputs; two errors of torch that are due to the inputs become plain sentences."""
    try:
        return model(*arguments, **keywords)
    except (RuntimeError, ValueError) as error:
        given = next((a.dtype for a in [*arguments, *keywords.values()] if isinstance(a, Tensor)), None)
        allowed = {p.dtype for p in model.parameters() if p.is_floating_point()}
        if "type" in str(error) and given is not None and allowed and given not in allowed:
            allowed = _listed(map(str, allowed))
            raise TypeError(f"inputs must have the dtype of the model, {allowed}, got {given}.") from error
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                "Batch normalization in train mode needs at least 2 examples, got 1: "
                "give a batch, or call model.eval()."
            ) from error
        raise


def _checked_loss(loss: object) -> Tensor:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        given = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"loss_fn must return a floating-point tensor (without .item()), got {given}.")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must return one number, such as a mean, got shape {tuple(loss.shape)}.")
    return loss


# --- Results -----------------------------------------------------------------------------------------------


def _gradients(loss: Tensor, candidates: list) -> dict[Tensor, Tensor]:
    """Gradients of the loss; on its way back, autograd also calls the hooks on the layers' outputs."""
    # autograd.grad touches no .grad. Inputs are candidates so that layers before any parameter are reached.
    wanted = [t for t in candidates if isinstance(t, Tensor) and t.requires_grad]
    if not (wanted and loss.requires_grad):
        return {}
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {tensor: gradient for tensor, gradient in zip(wanted, found, strict=True) if gradient is not None}


def _update_ratio(learning_rate: float | None, gradient_norm: float, norm: float) -> float | None:
    if learning_rate is None:
        return None
    update = learning_rate * gradient_norm
    # From zero weights: infinite, or NaN without an update.
    return update / norm if norm else update * math.inf


def _parameter_signals(
    names: dict[Tensor, list[str]], gradients: dict[Tensor, Tensor], learning_rate: float | None
) -> dict[Tensor, ParameterSignals]:
    wide = {parameter: _wide(gradients[parameter]) for parameter in names if parameter in gradients}
    gradient_norms = dict(zip(wide, _norms(list(wide.values())), strict=True))
    found = {}
    for (parameter, same), norm in zip(names.items(), _norms([_wide(p) for p in names]), strict=True):
        gradient_norm = gradient_norms.get(parameter, NAN)
        found[parameter] = ParameterSignals(
            name=same[0],
            layer=same[0].rpartition(".")[0] or "(model)",
            norm=norm,
            gradient_norm=gradient_norm,
            update_ratio=_update_ratio(learning_rate, gradient_norm, norm),
            frozen=not parameter.requires_grad,
            gradient=wide[parameter].cpu().numpy() if parameter in wide else None,
        )
    return found


def _layer_signals(
    call: _Call,
    parameters: dict[Tensor, ParameterSignals],
    gradients: dict[Tensor, Tensor],
    learning_rate: float | None,
) -> LayerSignals:
    weights = [
        p for m in call.module.modules() for p in m._parameters.values() if p is not None and p.ndim > 1
    ]
    weights = [weight for weight in dict.fromkeys(weights) if weight in parameters]
    gradient_norms = [parameters[weight].gradient_norm for weight in weights if weight in gradients]
    weight_norm = math.hypot(*(parameters[weight].norm for weight in weights)) if weights else NAN
    weight_gradient_norm = math.hypot(*gradient_norms) if gradient_norms else NAN
    return LayerSignals(
        name=call.name,
        kind=type(call.module).__name__,
        **call.activation,
        **(call.gradient or _gradient_figures(None)),
        weight_gradient_norm=weight_gradient_norm,
        weight_norm=weight_norm,
        update_ratio=_update_ratio(learning_rate, weight_gradient_norm, weight_norm),
    )


def _notes(
    recorder: _Recorder, names: dict[Tensor, list[str]], loss: float, gradients: dict[Tensor, Tensor]
) -> tuple[str, ...]:
    """What to know beside the figures: a sentence for each reason, with the names it holds for."""
    notes = recorder.notes
    if not math.isfinite(loss):
        notes[f"The loss is {loss}"] = []
    if not gradients:
        notes["No gradient at all, for the loss is detached, or depends on nothing that requires one"] = []
    broken = [call.name for call in recorder.calls if not math.isfinite(call.activation["activation_mean"])]
    if broken:
        notes["NaN or infinity in the output, here first"] = broken[:1]
    arrived = [
        (call.name, call.gradient["activation_gradient_norm"]) for call in recorder.calls if call.gradient
    ]
    broken = [name for name, norm in arrived if not math.isfinite(norm)]
    if broken:
        notes["NaN or infinity in the gradient, here first on the way back"] = broken[-1:]
    for call in recorder.calls:
        if gradients and call.gradient is None:
            notes[_why_no_gradient(call)].append(call.name)
    measured = {inner for call in recorder.calls for inner in call.module.modules()}
    for module, name in recorder.names.items():
        has_weights = any(parameter is not None for parameter in module._parameters.values())
        uncovered = has_weights and module not in measured
        expected = uncovered if recorder.chosen is None else module in recorder.chosen
        if expected and not recorder.times_called[module]:
            notes["Not measured, for it is not called as a module"].append(name)
        if has_weights and recorder.times_called[module] > 1:
            notes["Called more than once, and its weight gradient is the sum over the calls"].append(name)
    for parameter, same in names.items():
        if not parameter.requires_grad:
            notes["Frozen"] += same[:1]
        elif gradients and parameter not in gradients:
            notes["No weight gradient, for the loss does not depend on it"] += same[:1]
        if len(same) > 1:
            notes["One parameter under several names, and its gradient is the sum over its uses"] += same
    return tuple(f"{reason}: {_listed(where)}." if where else f"{reason}." for reason, where in notes.items())


def _why_no_gradient(call: _Call) -> str:
    if call.is_view:
        return (
            "No activation gradient, for the output is a view that is changed in place later, or is not used"
        )
    if call.differentiable:
        return (
            "No activation gradient, for the loss does not depend on the output (unused, or detached later)"
        )
    if any(parameter.requires_grad for parameter in call.module.parameters()):
        return "No activation gradient, for the output is detached although parameters inside are trainable"
    return "No activation gradient, for nothing trainable comes before the output"


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
