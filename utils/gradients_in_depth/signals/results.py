"""What a measurement gives: figures of layers and of parameters, and sentences to read beside them."""

from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from gradients_in_depth.signals.figures import FORMATS, range_shares


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
        return range_shares(self.gradient, self.gradient_norm)[0]

    @cached_property
    def overflow(self) -> dict[str, float]:
        """By number format, the share of the gradient's non-zero entries that become infinite in it."""
        return range_shares(self.gradient, self.gradient_norm)[1]


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
