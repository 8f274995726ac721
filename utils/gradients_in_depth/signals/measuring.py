"""`measure`: one run of a model with hooks, and what was recorded made into figures."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradients_in_depth.arguments import check_number
from gradients_in_depth.hooks import Call, Listener, Recorder, first_tensor, listed
from gradients_in_depth.signals.figures import (
    ACTIVATIONS,
    ActivationFigures,
    GradientFigures,
    activation_counts,
    activation_figures,
    exact_norm,
    gradient_figures,
    widened,
)
from gradients_in_depth.signals.results import LayerSignals, ParameterSignals, Signals
from gradients_in_depth.signals.running import Inputs, copied_arguments, left_as_it_was, loss_of, run

Layers = str | type | Iterable[str | type]


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
    RuntimeError, with one sentence when measuring is impossible; what could be measured only in part is in
    `notes`. The model's own errors pass unchanged.
    """
    recorder = Recorder(model)
    return measured_with(recorder, inputs, targets, loss_fn, layers=layers, learning_rate=learning_rate)


def measured_with(
    recorder: Recorder,
    inputs: Inputs,
    targets: object,
    loss_fn: Callable[..., Tensor] | None,
    *,
    layers: Layers | None = None,
    learning_rate: float | None = None,
) -> Signals:
    """What `measure` gives, in a run to which the listeners of the recorder listen too."""
    model = recorder.model
    arguments, keywords = copied_arguments(model, inputs)
    if not callable(loss_fn):
        raise TypeError(
            "loss_fn must be a function of (outputs, targets), or of (outputs) when there are no targets, "
            f"such as torch.nn.functional.cross_entropy; got {loss_fn!r}."
        )
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, at_least=0.0)
    measured = _LayerListener(recorder, layers)
    names: dict[Tensor, list[str]] = defaultdict(list)  # a tied parameter has several
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    with left_as_it_was(model), recorder.hooks(*measured.hooked()), torch.enable_grad():
        recorder.phase = "forward"
        outputs = run(model, arguments, keywords)
        recorder.phase = "loss"  # which may call the model again, or differentiate it
        loss = loss_of(loss_fn, outputs, targets)
        recorder.phase = "backward"
        gradients = _gradients(loss, [*names, *arguments, *keywords.values()])
    parameters = _parameter_signals(names, gradients, learning_rate)
    return Signals(
        loss=loss.item(),
        layers=tuple(
            _layer_signals(layer, parameters, gradients, learning_rate) for layer in measured.layers
        ),
        parameters=tuple(parameters.values()),
        notes=_notes(measured, names, loss.item(), gradients),
    )


# --- While the model runs ----------------------------------------------------------------------------------


@dataclass
class _Layer:
    """A call that is measured; `gradient` stays None unless a gradient arrives."""

    call: Call
    activation: ActivationFigures
    saturated_share: float
    dead_share: float
    is_differentiable: bool = False
    is_view: bool = False
    gradient: GradientFigures | None = None


class _LayerListener(Listener):
    """Takes the figures of the calls of chosen modules; None: of those that call no other module."""

    def __init__(self, recorder: Recorder, layers: Layers | None):
        self.recorder = recorder
        self.chosen = None if layers is None else _chosen_modules(recorder.names, layers)
        self.layers: list[_Layer] = []
        self.notes: dict[str, list[str]] = defaultdict(list)  # what to say -> of which layers
        self._counts: dict[Call, np.ndarray] = defaultdict(lambda: np.zeros(4))  # of the activations inside
        recorder.listeners.append(self)

    def hooked(self) -> tuple[Collection[nn.Module], Collection[nn.Module]]:
        """The modules whose calls are to be recorded, and the activations inside them."""
        # What a parametrization computes is a weight, and no activation.
        names = self.recorder.names
        modules = {module for module, name in names.items() if "parametrizations" not in name.split(".")}
        activations = {module for module in modules if isinstance(module, ACTIVATIONS)}
        if self.chosen is None:
            return modules, activations
        inside = {module for layer in self.chosen for module in layer.modules()}
        return self.chosen, activations & inside

    def activation_returns(self, module: nn.Module, output: object) -> None:
        """Count what is saturated and dead, for all calls inside which it happens."""
        if (tensor := first_tensor(output)) is not None:
            counts = activation_counts(module, tensor)
            for call in self.recorder.open:
                self._counts[call] += counts

    def call_ends(self, call: Call, arguments: tuple, keywords: dict, output: object) -> None:
        """Measure what counts as a layer."""
        if not (call.is_leaf if self.chosen is None else call.module in self.chosen):
            return
        tensor, kind = first_tensor(output), type(output).__name__
        if tensor is None:
            reason = f"Not measured, because there is no plain floating-point tensor in the {kind} it returns"
            self.notes[reason].append(call.name)
            return
        if tensor is not output:
            reason = f"Measured at the first floating-point tensor in the {kind} it returns"
            self.notes[reason].append(call.name)
        if _is_time_first(call.module, tensor, output):
            self.notes["Dimension 0 is time, so that the cosine compares time steps"].append(call.name)
        saturated, outputs, dead, units = self._counts[call]
        layer = _Layer(
            call,
            activation_figures(widened(tensor)),
            saturated_share=saturated / outputs if outputs else math.nan,
            dead_share=dead / units if units else math.nan,
        )
        self.layers.append(layer)
        if tensor.requires_grad:
            layer.is_differentiable = True
            layer.is_view = tensor._is_view()  # private: torch has no public function that tells

            def keep(gradient: Tensor) -> None:
                # At once: all gradients together are so large that they would get new memory each time.
                layer.gradient = gradient_figures(widened(gradient))

            self.recorder.when_gradient_arrives(tensor, keep)


def _chosen_modules(names: dict[nn.Module, str], layers: Layers) -> set[nn.Module]:
    named = {name: module for module, name in names.items()}
    if not isinstance(layers, Iterable | type):
        raise TypeError(f"layers must be None, names or classes of modules, got {layers!r}.")
    chosen: set[nn.Module] = set()
    for layer in [layers] if isinstance(layers, str | type) else layers:
        if isinstance(layer, type):
            modules = {module for module in named.values() if isinstance(module, layer)}
            allowed = sorted({type(module).__name__ for module in named.values()})
        else:
            modules = {named[layer]} if layer in named else set()
            allowed = list(named)
        if not modules:
            raise ValueError(
                f"layers must be names or classes of modules in the model, which are "
                f"{listed(allowed, most=20)}; got {layer!r}."
            )
        chosen |= modules
    return chosen


def _is_time_first(module: nn.Module, tensor: Tensor, output: object) -> bool:
    """Whether a recurrent or attention layer of torch puts time before the batch, or packs the two."""
    packed = isinstance(output, tuple) and any(isinstance(part, PackedSequence) for part in (output, *output))
    return packed or (tensor.ndim == 3 and getattr(module, "batch_first", True) is False)


def _gradients(loss: Tensor, candidates: list) -> dict[Tensor, Tensor]:
    """Gradients of the loss; on its way back, autograd also calls the hooks on the layers' outputs."""
    # autograd.grad touches no .grad. Inputs are candidates so that layers before any parameter are reached.
    sources = [t for t in candidates if isinstance(t, Tensor) and t.requires_grad]
    if not (sources and loss.requires_grad):
        return {}
    gradients = torch.autograd.grad(loss, sources, allow_unused=True)
    return {tensor: grad for tensor, grad in zip(sources, gradients, strict=True) if grad is not None}


# --- Results -----------------------------------------------------------------------------------------------


def _update_ratio(learning_rate: float | None, gradient_norm: float, norm: float) -> float | None:
    if learning_rate is None:
        return None
    update = learning_rate * gradient_norm
    # From zero weights: infinite, or NaN without an update.
    return update / norm if norm else update * math.inf


def _parameter_signals(
    names: dict[Tensor, list[str]], gradients: dict[Tensor, Tensor], learning_rate: float | None
) -> dict[Tensor, ParameterSignals]:
    signals = {}
    for parameter, (name, *_) in names.items():
        gradient = widened(gradients[parameter]) if parameter in gradients else None
        gradient_norm = math.nan if gradient is None else exact_norm(gradient)
        norm = exact_norm(widened(parameter))
        signals[parameter] = ParameterSignals(
            name=name,
            layer=name.rpartition(".")[0] or "(model)",
            norm=norm,
            gradient_norm=gradient_norm,
            update_ratio=_update_ratio(learning_rate, gradient_norm, norm),
            frozen=not parameter.requires_grad,
            gradient=None if gradient is None else gradient.cpu().numpy(),
        )
    return signals


def _layer_signals(
    layer: _Layer,
    parameters: dict[Tensor, ParameterSignals],
    gradients: dict[Tensor, Tensor],
    learning_rate: float | None,
) -> LayerSignals:
    weights = [p for p in layer.call.module.parameters() if p.ndim > 1 and p in parameters]
    gradient_norms = [parameters[weight].gradient_norm for weight in weights if weight in gradients]
    weight_norm = math.hypot(*(parameters[weight].norm for weight in weights)) if weights else math.nan
    weight_gradient_norm = math.hypot(*gradient_norms) if gradient_norms else math.nan
    return LayerSignals(
        name=layer.call.name,
        kind=type(layer.call.module).__name__,
        **layer.activation,
        **(layer.gradient or gradient_figures(None)),
        saturated_share=layer.saturated_share,
        dead_share=layer.dead_share,
        weight_gradient_norm=weight_gradient_norm,
        weight_norm=weight_norm,
        update_ratio=_update_ratio(learning_rate, weight_gradient_norm, weight_norm),
    )


# --- Sentences ---------------------------------------------------------------------------------------------


def _notes(
    measured: _LayerListener, names: dict[Tensor, list[str]], loss: float, gradients: dict[Tensor, Tensor]
) -> tuple[str, ...]:
    """What to know beside the figures: a sentence for each reason, with the names it holds for."""
    notes = measured.notes
    if not math.isfinite(loss):
        notes[f"The loss is {loss}"] = []
    if not gradients:
        reason = "No gradient at all, because the loss is detached, or depends on nothing that requires one"
        notes[reason] = []
    _note_what_is_not_finite(notes, measured.layers)
    for layer in measured.layers:
        if gradients and layer.gradient is None:
            notes[_why_no_gradient(layer)].append(layer.call.name)
    _note_calls(notes, measured, {name.rpartition(".")[0] for same in names.values() for name in same})
    _note_parameters(notes, names, gradients)
    return tuple(
        f"{reason}: {listed(where, most=8)}." if where else f"{reason}." for reason, where in notes.items()
    )


def _note_what_is_not_finite(notes: dict[str, list[str]], layers: list[_Layer]) -> None:
    broken = [x.call.name for x in layers if not math.isfinite(x.activation["activation_mean"])]
    if broken:
        notes["NaN or infinity in the output, here first"] = broken[:1]
    arrived = [(x.call.name, x.gradient["activation_gradient_norm"]) for x in layers if x.gradient]
    broken = [name for name, norm in arrived if not math.isfinite(norm)]
    if broken:
        notes["NaN or infinity in the gradient, here first on the way back"] = broken[-1:]


def _why_no_gradient(layer: _Layer) -> str:
    if layer.is_view:
        why = "the output is a view that is changed in place later, or is not used"
    elif layer.is_differentiable:
        why = "the loss does not depend on the output (unused, or detached later)"
    elif any(parameter.requires_grad for parameter in layer.call.module.parameters()):
        why = "the output is detached although parameters inside are trainable"
    else:
        why = "nothing trainable comes before the output"
    return f"No activation gradient, because {why}"


def _note_calls(notes: dict[str, list[str]], measured: _LayerListener, owners: set[str]) -> None:
    """Which modules were not called, or more than once; owners: the names of those that have parameters."""
    recorder, expected = measured.recorder, measured.chosen
    owning = {module for module, name in recorder.names.items() if name.removeprefix("(model)") in owners}
    if expected is None:
        expected = owning - {inner for layer in measured.layers for inner in layer.call.module.modules()}
    for module, name in recorder.names.items():
        times = recorder.times_called[module]
        if module in expected and not times:
            notes["Not measured, because it is not called as a module"].append(name)
        if module in owning and times > 1:
            notes["Called more than once; its weight gradient is the sum over the calls"].append(name)


def _note_parameters(
    notes: dict[str, list[str]], names: dict[Tensor, list[str]], gradients: dict[Tensor, Tensor]
) -> None:
    """Which parameters have no gradient, or one that is a sum."""
    for parameter, same in names.items():
        if not parameter.requires_grad:
            notes["Frozen"] += same[:1]
        elif gradients and parameter not in gradients:
            notes["No weight gradient, because the loss does not depend on it"] += same[:1]
        if len(same) > 1:
            notes["One parameter under several names; its gradient is the sum over its uses"] += same
