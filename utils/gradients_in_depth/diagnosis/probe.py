"""Watch what no layer returns while `signals` measures the layers.

Attention probabilities, activations called as functions, sums of the residual stream, gradients over time.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradients_in_depth.diagnosis.attention import attention_probabilities, normalized_entropy
from gradients_in_depth.hooks import Call, Listener, Recorder, first_tensor, is_plain
from gradients_in_depth.signals.figures import mean_cosine

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TABLES = (nn.Embedding, nn.EmbeddingBag)  # rows are looked up, and multiply nothing
_NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)

# phi'(z)**2 in terms of the output phi(z), by the name of torch's function.
_SQUARED_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda a: (a * (1 - a)).square(),
    "tanh": lambda a: (1 - a.square()).square(),
    "hardsigmoid": lambda a: ((a > 0) & (a < 1)) / 36.0,
    "hardtanh": lambda a: ((a > -1) & (a < 1)).float(),
    "softsign": lambda a: (1 - a.abs()).pow(4),
}
_RELUS = {"relu", "relu6"}
_PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum"}
_SAME_NUMBERS = {"dropout", "to", "float", "type_as", "type", "expand", "reshape", "view"}
_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class WeightCall:
    """One call of a layer that multiplies by weights; the name is that of `LayerSignals`."""

    name: str
    module: nn.Module
    units: int  # what it passes on of one example (or of one token)
    input_units: int
    scale: float  # sqrt(Var(W_ij) * fan_in)
    input_cosine: float
    token_spread: float


@dataclass(frozen=True)
class ActivationCall:
    """One call of an activation function, as a module or not; `name` is the innermost module around it."""

    name: str
    kind: str
    slope: float  # root mean square of phi'(z), NaN for ReLU
    dead_share: float  # NaN for all others
    units: int
    input_cosine: float  # of the weight layer before it


class Probe(TorchFunctionMode, Listener):
    """Listens to the calls of a model that is measured, and as a context to torch's functions inside them.

    weights, activations: calls in their order. attention: (module, normalized entropy) of each. over_time:
    (module, norms of the gradient by its input at each time step) of each recurrent layer. norms_in_stream:
    normalizations whose outputs are added to something. skips: sums of two signals. output: the model's.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.recorder = Recorder(model)
        self.recorder.listeners.append(self)
        self.names = self.recorder.names
        self.time_axis = 0 if any(getattr(m, "batch_first", True) is False for m in self.names) else 1
        self.weights: list[WeightCall] = []
        self.activations: list[ActivationCall] = []
        self.attention: list[tuple[str, float]] = []
        self.over_time: list[tuple[str, np.ndarray]] = []
        self.norm_calls = 0
        self.norms_in_stream: list[str] = []
        self.skips = 0
        self.output: Tensor | None = None
        # By id; the tensors are kept, so that no other one gets their id.
        self._norm_outputs: dict[int, tuple[Tensor, str]] = {}
        self._softmax_outputs: dict[int, tuple[Tensor, str, float]] = {}

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._norm_outputs.clear()
        self._softmax_outputs.clear()

    # --- Calls of modules

    def call_starts(self, call: Call, arguments: tuple, keywords: dict) -> tuple[tuple, dict] | None:
        """Before a recurrent layer: a copy of its input, whose gradient is the gradient over time."""
        if not (isinstance(call.module, nn.RNNBase) and arguments and isinstance(arguments[0], Tensor)):
            return None
        sequence = arguments[0]
        if not sequence.requires_grad or sequence.ndim not in (2, 3):
            return None
        sequence, name = sequence.clone(), self.names[call.module]
        axis = 1 if sequence.ndim == 3 and call.module.batch_first else 0

        def keep(gradient: Tensor) -> None:
            norms = gradient.detach().double().movedim(axis, 0).flatten(1).norm(dim=1)
            self.over_time.append((name, norms.cpu().numpy()))

        self.recorder.when_gradient_arrives(sequence, keep)
        return (sequence, *arguments[1:]), keywords

    def call_ends(self, call: Call, arguments: tuple, keywords: dict, output: object) -> None:
        """Keep what layers of weights and normalizations did, and the model's output."""
        tensor = first_tensor(output)
        if tensor is None or not (tensor.ndim and tensor.numel()):
            return
        if not self.recorder.open:
            self.output = tensor.detach().clone()
        # Other libraries have norms of their own, which their names tell.
        if isinstance(call.module, _NORMS) or re.search("(Layer|RMS)Norm", type(call.module).__name__):
            self.norm_calls += 1
            if not isinstance(call.module, BATCH_NORMS):
                self._norm_outputs[id(tensor)] = (tensor, call.name)
        weight = next((p for p in call.module.parameters(recurse=False) if p.ndim >= 2), None)
        inputs = first_tensor([*arguments, *keywords.values()])
        if call.is_leaf and weight is not None and inputs is not None and not isinstance(call.module, TABLES):
            self.weights.append(self._weight_call(call, weight.detach(), inputs.detach().float(), tensor))

    def _weight_call(self, call: Call, weight: Tensor, inputs: Tensor, output: Tensor) -> WeightCall:
        is_convolution = isinstance(call.module, _CONVOLUTIONS)
        fan_out = weight.shape[1] if is_transposed(call.module) else weight.shape[0]
        spread = math.nan
        if inputs.ndim == 3 and not is_convolution and inputs.shape[self.time_axis] > 1:
            around_mean = inputs - inputs.mean(self.time_axis, keepdim=True)
            spread = (around_mean.norm() / inputs.norm().clamp_min(1e-38)).item()
        per_example = is_convolution and output.ndim > 2
        return WeightCall(
            name=call.name,
            module=call.module,
            units=output[0].numel() if per_example else output.shape[-1],
            input_units=inputs[0].numel() if per_example else inputs.shape[-1] if inputs.ndim else 1,
            scale=(weight.double().norm() / math.sqrt(fan_out)).item(),
            input_cosine=_cosine_of_examples(inputs),
            token_spread=spread,
        )

    # --- Calls of functions

    def __torch_function__(self, function, types, arguments=(), keywords=None):  # noqa: D102 (torch's own name)
        keywords = keywords or {}
        if self.recorder.phase != "forward" or not self.recorder.open:
            return function(*arguments, **keywords)
        if function is F.multi_head_attention_forward:
            return self._multi_head_attention(arguments, keywords)
        result = function(*arguments, **keywords)
        with torch.no_grad():
            if isinstance(result, Tensor) and is_plain(result) and result.numel():
                self._look_at(getattr(function, "__name__", ""), arguments, keywords, result)
        return result

    def _where(self) -> str:
        return self.names[self.recorder.open[-1].module]

    def _look_at(self, name: str, arguments: tuple, keywords: dict, result: Tensor) -> None:
        kind = name.strip("_")
        if kind in _RELUS or kind in _SQUARED_SLOPES:
            self._keep_activation(kind, result.detach())
        elif kind == "softmax" and result.ndim >= 3 and result.shape[-1] > 1:
            entropy = normalized_entropy(result.detach())
            self._softmax_outputs[id(result)] = (result, self._where(), entropy)
        elif name in _SAME_NUMBERS and arguments and id(arguments[0]) in self._softmax_outputs:
            _, where, entropy = self._softmax_outputs[id(arguments[0])]
            self._softmax_outputs[id(result)] = (result, where, entropy)
        elif name in _PRODUCTS:
            self._keep_attention(arguments)
        elif name == "scaled_dot_product_attention":
            probabilities = attention_probabilities(*arguments, **keywords)
            self.attention.append((self._where(), normalized_entropy(probabilities)))
        elif name in _ADDITIONS and len(arguments) == 2:
            self._keep_addition(*arguments)

    def _keep_activation(self, kind: str, output: Tensor) -> None:
        slope, dead, units = math.nan, math.nan, 1
        if kind in _SQUARED_SLOPES:
            slope = math.sqrt(_SQUARED_SLOPES[kind](output.double()).mean().item())
        else:
            axis = {0: None, 1: None, 3: 2}.get(output.ndim, 1)
            others = [a for a in range(output.ndim) if a != axis]
            alive = (output != 0).sum(dim=others) if others else output != 0
            dead, units = (alive == 0).float().mean().item(), alive.numel()
        before = self.weights[-1].input_cosine if self.weights else math.nan
        self.activations.append(ActivationCall(self._where(), kind, slope, dead, units, before))

    def _keep_attention(self, arguments: tuple) -> None:
        """A softmax that weighs values is attention, and no output of the model."""
        operands = [a for a in arguments if isinstance(a, Tensor)]
        for operand in operands or (arguments[1] if len(arguments) > 1 else ()):
            if id(operand) in self._softmax_outputs:
                _, where, entropy = self._softmax_outputs.pop(id(operand))
                self.attention.append((where, entropy))

    def _keep_addition(self, left: object, right: object) -> None:
        if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
            return
        for operand in (left, right):
            if id(operand) in self._norm_outputs:
                self.norms_in_stream.append(self._norm_outputs.pop(id(operand))[1])
        # A bias is a leaf; positions are added to tokens before any layer.
        are_signals = left.grad_fn is not None and right.grad_fn is not None
        if left.shape == right.shape and left.ndim >= 2 and are_signals:
            self.skips += 1

    def _multi_head_attention(self, arguments: tuple, keywords: dict) -> tuple[Tensor, Tensor | None]:
        need_weights, average = keywords.get("need_weights", True), keywords.get("average_attn_weights", True)
        keywords = {**keywords, "need_weights": True, "average_attn_weights": False}
        output, probabilities = F.multi_head_attention_forward(*arguments, **keywords)
        assert probabilities is not None  # they are needed
        with torch.no_grad():
            self.attention.append((self._where(), normalized_entropy(probabilities.detach())))
        if average:
            probabilities = probabilities.mean(dim=-3)
        return output, probabilities if need_weights else None


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is (fan_in, fan_out): transposed convolutions, and `Conv1D` of transformers."""
    return isinstance(module, _TRANSPOSED) or type(module).__name__ == "Conv1D"


def _cosine_of_examples(inputs: Tensor) -> float:
    """Mean over all pairs of different examples, as in `LayerSignals.cosine`, always in float64."""
    if not inputs.ndim:
        return math.nan
    rows = inputs.reshape(len(inputs), -1).double()
    norms = rows.norm(dim=1, keepdim=True)
    known = (norms[:, 0] > 0) & norms[:, 0].isfinite()
    directions = (rows[known] / norms[known]).sum(dim=0)
    return mean_cosine(directions.square().sum().item(), int(known.sum()))
