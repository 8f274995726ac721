"""One examination: the patient, what was measured on it, and what the rules have found so far."""

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradients_in_depth.diagnosis.diseases import DISEASES, FOLLOWS, FigureKey
from gradients_in_depth.diagnosis.probe import Probe, WeightCall
from gradients_in_depth.diagnosis.report import Diagnosis, Figure, Finding
from gradients_in_depth.signals import LayerSignals, Signals
from gradients_in_depth.signals.measuring import measured_with


@dataclass(frozen=True)
class Patient:
    """A model, and the batch on which it is examined."""

    model: nn.Module
    inputs: Tensor | Sequence | Mapping
    targets: object
    loss_fn: Callable[..., Tensor]
    learning_rate: float | None

    def in_float32(self) -> "Patient":
        """A copy, in which all that was float16 is float32."""
        model = copy.deepcopy(self.model).float()
        inputs, targets = (_each_tensor(part, _half_as_float) for part in (self.inputs, self.targets))
        return dataclasses.replace(self, model=model, inputs=inputs, targets=targets)

    def examine(self) -> tuple[Probe, Signals]:
        """Run the model once, measured and watched."""
        probe = Probe(self.model)
        inputs = self.inputs
        if any(isinstance(module, nn.RNNBase) for module in probe.names):
            inputs = _each_tensor(inputs, _requiring_gradient)  # or autograd stops at the weights
        # NumPy would warn of activations that overflow, which are a finding already.
        with probe, np.errstate(over="ignore", invalid="ignore"):
            signals = measured_with(
                probe.recorder, inputs, self.targets, self.loss_fn, learning_rate=self.learning_rate
            )
        return probe, signals


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with each tensor in its tuples, lists and dicts changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_tensor(part, change) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_each_tensor(part, change) for part in value)
    return value


def _requiring_gradient(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _half_as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class Layer(NamedTuple):
    """One call of a layer of weights: what the probe saw of it, and what `signals` measured."""

    call: WeightCall
    signals: LayerSignals


class Examination:
    """What the rules look at, and what they leave: each one figure or more, and at most one finding for each.

    by_module: the layers of weights, for each module its calls. chain: those that are called once, in the
    order of the forward pass; what is called again and again runs over time, and adds no depth. evaluation,
    number_format, warm_up: as for `diagnose`.
    """

    def __init__(self, patient: Patient, *, evaluation: bool, number_format: str | None, warm_up: bool):
        self.patient = patient
        self.probe, self.signals = patient.examine()
        self.evaluation, self.number_format, self.warm_up = evaluation, number_format, warm_up
        self.figures: list[Figure] = []
        self.findings: dict[str, Finding] = {}
        measured = {layer.name: layer for layer in self.signals.layers}
        self.by_module: dict[nn.Module, list[Layer]] = defaultdict(list)
        for call in self.probe.weights:
            if call.name in measured:
                self.by_module[call.module].append(Layer(call, measured[call.name]))
        self.chain = [layers[0] for layers in self.by_module.values() if len(layers) == 1]
        self.has_norms = self.probe.norm_calls >= max(1, len(self.chain) // 3)

    def look(
        self,
        disease: str,
        key: FigureKey,
        name: str,
        value: float,
        low: float,
        high: float,
        where: Sequence[str] = (),
    ) -> bool:
        """Keep the figure; where it lies outside its range, the disease is found. NaN is no figure."""
        if math.isnan(value):
            return False
        figure = Figure(key, name, value, low, high, tuple(dict.fromkeys(where)) or ("(model)",))
        self.figures.append(figure)
        if not figure.is_healthy:
            self.findings.setdefault(disease, Finding(disease, figure.where, figure))
        return not figure.is_healthy

    def diagnosis(self) -> Diagnosis:
        """Causes before what they bring along; among equals the one that is further off its range."""
        findings = [
            dataclasses.replace(finding, follows_from=self._cause(finding.disease))
            for finding in self.findings.values()
        ]
        findings.sort(key=lambda f: (f.follows_from is not None, -f.figure.decades_off))
        return Diagnosis(tuple(findings), tuple(self.figures), self.signals.notes)

    def _cause(self, disease: str) -> str | None:
        """The first finding that brings this one along; of two that do so mutually, the first in DISEASES."""
        order = list(DISEASES)
        for cause in self.findings:
            brings_it = cause != disease and disease in FOLLOWS.get(cause, ())
            is_brought = cause in FOLLOWS.get(disease, ())
            if brings_it and (not is_brought or order.index(cause) < order.index(disease)):
                return cause
        return None
