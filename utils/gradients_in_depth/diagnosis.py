"""Name the disease of any `torch.nn.Module` from one batch: what, where, how far from healthy, what to try.

`signals.measure` gives the figures of every layer; while it runs, a probe also watches what no layer
returns: attention probabilities, activations called as functions, residual sums, gradients over time.
"""

import copy
import html
import math
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradients_in_depth.arguments import check_choice, check_number
from gradients_in_depth.signals import FORMATS, LayerSignals, Signals, measure

NAN = math.nan

LESSONS = {
    2: "02 Sigmoid saturation",
    3: "03 ReLU and variants",
    4: "04 Initialization",
    5: "05 Batch norm",
    6: "06 Residual connections",
    7: "07 Gradient clipping",
    8: "08 Transformers",
    9: "09 Optimizers and depth",
}


@dataclass(frozen=True)
class Disease:
    """What is always said about a disease: its name, the lesson that explains it, what to try."""

    title: str
    lesson: int
    remedy: str


DISEASES: dict[str, Disease] = {
    "not_finite": Disease(
        "The signal is infinite or NaN",
        7,
        "Look at the first layer named. Divide its weights, lower the learning rate, or clip the gradient; "
        "in float16 use bfloat16 or a loss scale.",
    ),
    "no_gradient": Disease(
        "Trainable parameters get no gradient",
        6,
        "Look for .detach(), .data, .item(), torch.no_grad() or an output that the loss does not use on "
        "the way from these layers to the loss; freeze what is not meant to learn (requires_grad_(False)).",
    ),
    "symmetric": Disease(
        "Units are copies of each other, and stay so",
        4,
        "Draw the weights at random (nn.init.xavier_normal_, nn.init.kaiming_normal_): equal units get equal "
        "gradients and never part. Biases alone may be 0.",
    ),
    "saturation": Disease(
        "Vanishing gradient: the slope of the activation",
        2,
        "Replace sigmoid by ReLU or tanh with matching weights, or normalize what goes into it: a sigmoid "
        "passes on at most a quarter of the gradient, a saturated unit next to nothing.",
    ),
    "small_weights": Disease(
        "Vanishing gradient: weights too small",
        4,
        "Initialize with the critical variance: He (2 / fan_in) before ReLU, Xavier before tanh. PyTorch's "
        "default for nn.Linear is 1 / (3 fan_in).",
    ),
    "vanishing": Disease(
        "Vanishing gradient",
        6,
        "Add skip connections, or normalize before each branch instead of after each sum.",
    ),
    "long_sequence": Disease(
        "Vanishing gradient over time: the sequence is too long",
        7,
        "Cut the sequence (truncated backpropagation), set the forget bias of an LSTM to 1 or more, start a "
        "plain RNN from orthogonal recurrent weights, or use attention. Clipping brings no gradient back.",
    ),
    "exploding": Disease(
        "Exploding gradient: weights too large",
        7,
        "Initialize with the critical variance, scale residual branches by 1 / sqrt(depth), and clip the "
        "gradient by its norm.",
    ),
    "norm_without_skips": Disease(
        "Exploding gradient: batch normalization without skip connections",
        5,
        "Add skip connections around the layers: without them the gradient's norm grows by "
        "sqrt(pi / (pi - 1)) = 1.21 in each layer of batch normalization and ReLU, whatever the weights.",
    ),
    "dead_units": Disease(
        "Dead ReLU units",
        3,
        "Bring the biases back to 0, lower the learning rate that drove them down, or use leaky ReLU or "
        "ELU, which pass a gradient on for negative inputs too.",
    ),
    "collapsed_correlation": Disease(
        "The network forgets its input: different examples become the same",
        4,
        "Add skip connections, or normalize over the batch; a smooth activation at the edge of chaos forgets "
        "more slowly than ReLU. The gradient's size may look perfect.",
    ),
    "rank_collapse": Disease(
        "Tokens become the same: rank collapse of attention",
        8,
        "Put a skip connection around each attention, and an MLP after it: attention alone averages "
        "the tokens.",
    ),
    "saturated_attention": Disease(
        "Saturated attention: the softmax has chosen",
        8,
        "Divide the logits by sqrt(head dimension), scale queries and keys down, or normalize them.",
    ),
    "post_norm": Disease(
        "Post-LN without warm-up: the last layers get the largest gradients",
        8,
        "Normalize before each branch (norm_first=True), or warm the learning rate up in the first thousand "
        "steps (then say warm_up=True here).",
    ),
    "bottleneck": Disease(
        "A bottleneck of width",
        6,
        "Widen the layer, or lead a skip connection around it: whatever it does not pass on is lost, forward "
        "and backward. If this is the code of an autoencoder, it is meant.",
    ),
    "underflow": Disease(
        "The gradient is below the range of float16",
        9,
        "Scale the loss (torch.amp.GradScaler), or compute in bfloat16, which has the range of float32.",
    ),
    "forgotten_eval": Disease(
        "The model is evaluated in train mode",
        5,
        "Call model.eval() before evaluating, and model.train() before training on.",
    ),
    "learning_rate": Disease(
        "The learning rate does not fit: the gradient is not the problem",
        9,
        "Change the learning rate by the factor that brings lr * |gradient| / |weight| to about 1e-3.",
    ),
}

# What a disease brings along by itself: these are listed below it, whatever their figures.
_FOLLOWS = {
    "not_finite": set(DISEASES) - {"not_finite", "symmetric", "exploding"},
    "symmetric": set(DISEASES) - {"symmetric", "not_finite"},
    "saturation": {"underflow", "learning_rate", "collapsed_correlation", "vanishing"},
    "small_weights": {"underflow", "learning_rate", "collapsed_correlation", "vanishing"},
    "vanishing": {"underflow", "learning_rate", "collapsed_correlation"},
    "long_sequence": {"underflow", "learning_rate", "collapsed_correlation", "vanishing"},
    "exploding": {"not_finite", "learning_rate", "saturation"},
    "norm_without_skips": {"learning_rate", "exploding"},
    "dead_units": {"collapsed_correlation", "learning_rate", "underflow", "vanishing", "small_weights"},
    "collapsed_correlation": {"dead_units", "learning_rate"},
    "rank_collapse": {"collapsed_correlation", "learning_rate", "vanishing", "small_weights", "underflow"},
    "saturated_attention": {"learning_rate", "vanishing", "exploding", "post_norm"},
    "post_norm": {"rank_collapse", "collapsed_correlation", "vanishing", "learning_rate"},
    "bottleneck": {"learning_rate", "collapsed_correlation", "vanishing", "dead_units"},
    "no_gradient": {"learning_rate"},
}


@dataclass(frozen=True)
class Figure:
    """One measured number beside the range in which healthy networks have it, and where it was found."""

    name: str
    value: float
    low: float
    high: float
    where: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether the number lies within the range."""
        return self.low <= self.value <= self.high

    @property
    def healthy_range(self) -> str:
        """The range in words: "at least 0.3", "1e-5 to 0.1"."""
        if self.low == self.high:
            return _number(self.low)
        if self.high == math.inf:
            return f"at least {_number(self.low)}"
        if self.low == -math.inf or (self.low == 0 and self.high > 0):
            return f"at most {_number(self.high)}"
        return f"{_number(self.low)} to {_number(self.high)}"

    @property
    def decades_off(self) -> float:
        """Powers of ten between the number and the range; 0 inside of it."""
        if self.is_healthy:
            return 0.0
        if not math.isfinite(self.value):
            return 99.0
        off = abs(
            math.log10(max(self.value, 1e-30) / max(self.low if self.value < self.low else self.high, 1e-3))
        )
        return min(off, 98.0)


@dataclass(frozen=True)
class Finding:
    """One disease: its name in `DISEASES`, where it is, the figure that shows it, and what it follows from.

    where: names of layers (or of parameters) as the model has them, in the order of the forward pass.
    follows_from: the finding above it that brings it along; None for a cause of its own.
    """

    disease: str
    where: tuple[str, ...]
    figure: Figure
    follows_from: str | None = None

    @property
    def what(self) -> str:
        """The disease in one line."""
        return DISEASES[self.disease].title

    @property
    def lesson(self) -> str:
        """The lesson that explains it."""
        return LESSONS[DISEASES[self.disease].lesson]

    @property
    def what_to_try(self) -> str:
        """The remedy."""
        return DISEASES[self.disease].remedy


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: findings with the gravest cause first, and every figure it looked at.

    figures: also the healthy ones. notes: what could not be measured, as `signals.Signals` says it.
    """

    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        lines = [self._headline()]
        for number, finding in enumerate(self.findings, 1):
            lines.append("")
            lines += _wrapped(f"{number}. ", finding.what)
            rows = [
                ("where", _listed(finding.where)),
                ("measured", f"{finding.figure.name}: {_number(finding.figure.value)}"),
                ("healthy", finding.figure.healthy_range),
                ("lesson", finding.lesson),
                ("try", finding.what_to_try),
            ]
            if finding.follows_from:
                rows.insert(0, ("because", f"it follows from: {DISEASES[finding.follows_from].title}"))
            for label, text in rows:
                lines += _wrapped(f"   {label:9} ", text)
        lines += ["", "All figures:" if self.findings else "The figures behind it:"]
        for figure in self.figures:
            sign = "   " if figure.is_healthy else " ! "
            text = f"{figure.name}: {_number(figure.value)} (healthy: {figure.healthy_range})"
            lines += _wrapped(sign, text)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{html.escape(self._headline())}</strong></p>"]
        if self.findings:
            heads = ("What", "Where", "Measured", "Healthy", "Lesson", "Try")
            rows = []
            for finding in self.findings:
                what = finding.what
                if finding.follows_from:
                    what += f" (follows from: {DISEASES[finding.follows_from].title})"
                measured = f"{finding.figure.name}: {_number(finding.figure.value)}"
                healthy = finding.figure.healthy_range
                where = _listed(finding.where)
                rows.append((what, where, measured, healthy, finding.lesson, finding.what_to_try))
            parts.append(_table("Findings, the gravest cause first", heads, rows))
        rows = [
            (f.name, _number(f.value), f.healthy_range, "yes" if f.is_healthy else "no", _listed(f.where))
            for f in self.figures
        ]
        table = _table("All figures", ("Figure", "Measured", "Healthy range", "Healthy", "Where"), rows)
        parts.append(f"<details><summary>All figures</summary>{table}</details>" if self.findings else table)
        return "".join(parts)

    def _headline(self) -> str:
        if not self.findings:
            return "No disease found."
        count = len(self.findings)
        return f"{count} finding{'s' if count > 1 else ''}; first: {self.findings[0].what}."


def _number(value: float) -> str:
    return f"{value:.3g}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(text, 92, initial_indent=first, subsequent_indent=" " * len(first)) or [first]


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """No colours: the page's own theme draws it. Text to the left, for these are sentences."""
    left = ' style="text-align: left; white-space: normal; vertical-align: top"'
    head = "".join(f'<th scope="col"{left}>{html.escape(text)}</th>' for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{left}>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


# --- Watching what no layer returns -------------------------------------------------------------------------

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_TABLES = (nn.Embedding, nn.EmbeddingBag)  # rows are looked up, and multiply nothing

# phi'(z)**2 in terms of the output phi(z), by the name of torch's function.
_SQUARED_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda a: (a * (1 - a)).square(),
    "tanh": lambda a: (1 - a.square()).square(),
    "hardsigmoid": lambda a: ((a > 0) & (a < 1)) / 36.0,
    "hardtanh": lambda a: ((a > -1) & (a < 1)).float(),
    "softsign": lambda a: (1 - a.abs()).pow(4),
}
_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_MOST_EXAMPLES = 16  # attention is looked at in so many examples: T**2 numbers for each head


@dataclass(frozen=True)
class _WeightCall:
    """One call of a layer that multiplies by weights; the name is that of `LayerSignals`."""

    name: str
    module: nn.Module
    units: int  # what it passes on of one example (or of one token)
    input_units: int
    scale: float  # sqrt(Var(W_ij) * fan_in)
    input_cosine: float
    token_spread: float
    signals: LayerSignals | None = None


@dataclass(frozen=True)
class _ActivationCall:
    name: str
    kind: str
    slope: float  # root mean square of phi'(z), NaN for ReLU
    dead_share: float  # NaN for all others
    units: int
    input_cosine: float  # of the weight layer before it


class _Probe(TorchFunctionMode):
    """Forward hooks and a function mode, on a model that `measure` runs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names: dict[nn.Module, str] = {}
        for name, module in model.named_modules():
            self.names.setdefault(module, name or "(model)")
        self.time_axis = 0 if any(getattr(m, "batch_first", True) is False for m in self.names) else 1
        self.is_recording = True
        self.weights: list[_WeightCall] = []
        self.activations: list[_ActivationCall] = []
        self.attention: list[tuple[str, float]] = []  # normalized entropy
        self.over_time: list[tuple[str, np.ndarray]] = []  # norms of the gradient by the input, by time step
        self.norm_calls = 0
        self.norms_in_stream: list[str] = []
        self.skips = 0
        self.output: Tensor | None = None
        self.times_called: Counter[nn.Module] = Counter()
        self._stack: list[tuple[nn.Module, int]] = []
        self._calls = 0
        self._kept: dict[
            int, tuple[Tensor, str]
        ] = {}  # outputs of normalizations, by id; kept so that ids stay
        self._softmax: dict[int, tuple[Tensor, str, float]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        try:
            for module in self.names:
                handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
                handles.append(module.register_forward_hook(self._after, with_kwargs=True))
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._kept.clear()
            self._softmax.clear()

    def _before(self, module: nn.Module, arguments: tuple, keywords: dict) -> tuple[tuple, dict] | None:
        if not self.is_recording:
            return None
        self._calls += 1
        self.times_called[module] += 1
        self._stack.append((module, self._calls))
        if isinstance(module, nn.RNNBase) and arguments and isinstance(arguments[0], Tensor):
            sequence = arguments[0]
            if sequence.ndim == 3 or sequence.ndim == 2:
                axis = 1 if sequence.ndim == 3 and module.batch_first else 0
                if sequence.requires_grad:
                    sequence, name = sequence.clone(), self.names[module]
                    sequence.register_hook(lambda gradient: self._keep_time(name, gradient, axis))
                    return (sequence, *arguments[1:]), keywords
        return None

    def _keep_time(self, name: str, gradient: Tensor, axis: int) -> None:
        norms = gradient.detach().double().movedim(axis, 0).flatten(1).norm(dim=1)
        self.over_time.append((name, norms.cpu().numpy()))

    def _after(self, module: nn.Module, arguments: tuple, keywords: dict, output: object) -> None:
        if not self.is_recording or not self._stack:
            return
        while (opened := self._stack.pop())[0] is not module:
            pass  # it ended in an error, which the model caught
        tensor = _floating(output)
        if not self._stack:
            self.output = None if tensor is None else tensor.detach().clone()
        if tensor is None:
            return
        times = self.times_called[module]
        name = self.names[module] + (f"#{times}" if times > 1 else "")
        kind = type(module).__name__
        if isinstance(module, _NORMS) or re.search("(Layer|RMS)Norm", kind):
            self.norm_calls += 1
            if not isinstance(module, _BATCH_NORMS):
                self._kept[id(tensor)] = (tensor, name)
        is_leaf = opened[1] == self._calls
        weights = [p for p in module._parameters.values() if p is not None and p.ndim >= 2]
        given = _floating([*arguments, *keywords.values()])
        if is_leaf and weights and given is not None and not isinstance(module, _TABLES):
            self.weights.append(self._weight_call(name, module, weights[0], given, tensor))

    def _weight_call(
        self, name: str, module: nn.Module, weight: Tensor, given: Tensor, output: Tensor
    ) -> _WeightCall:
        given, weight = given.detach().float(), weight.detach()
        is_convolution = isinstance(module, nn.modules.conv._ConvNd)
        fan_out = weight.shape[1] if _is_transposed(module) else weight.shape[0]
        tokens = given if given.ndim == 3 and not is_convolution and given.shape[self.time_axis] > 1 else None
        spread = NAN
        if tokens is not None:
            around_mean = tokens - tokens.mean(self.time_axis, keepdim=True)
            spread = (around_mean.norm() / tokens.norm().clamp_min(1e-38)).item()
        per_example = is_convolution and output.ndim > 2
        return _WeightCall(
            name=name,
            module=module,
            units=output[0].numel() if per_example else output.shape[-1] if output.ndim else 1,
            input_units=given[0].numel() if per_example else given.shape[-1] if given.ndim else 1,
            scale=(weight.double().norm() / math.sqrt(fan_out)).item(),
            input_cosine=_mean_cosine(given),
            token_spread=spread,
        )

    def __torch_function__(self, function, types, arguments=(), keywords=None):  # noqa: D102 (torch's own name)
        keywords = keywords or {}
        if not self.is_recording or not self._stack:
            return function(*arguments, **keywords)
        name = getattr(function, "__name__", "")
        if function is F.multi_head_attention_forward:
            return self._multi_head_attention(arguments, keywords)
        result = function(*arguments, **keywords)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            self._look_at(name, arguments, keywords, result)
        return result

    def _where(self) -> str:
        return self.names[self._stack[-1][0]]

    def _look_at(self, name: str, arguments: tuple, keywords: dict, result: object) -> None:
        if not isinstance(result, Tensor) or not result.is_floating_point() or result.numel() == 0:
            return
        if torch._C._functorch.is_functorch_wrapped_tensor(result):
            return
        kind = name.strip("_")
        if kind in ("relu", "relu6") or kind in _SQUARED_SLOPES:
            self._keep_activation(kind, result.detach())
        elif kind == "softmax" and result.ndim >= 3 and result.shape[-1] > 1:
            self._softmax[id(result)] = (result, self._where(), _normalized_entropy(result.detach()))
        elif name in ("dropout", "to", "float", "type_as", "type", "expand", "reshape", "view") and arguments:
            if id(arguments[0]) in self._softmax:  # still the same probabilities
                self._softmax[id(result)] = (result, *self._softmax[id(arguments[0])][1:])
        elif name in ("matmul", "__matmul__", "bmm", "einsum"):
            operands = [a for a in arguments if isinstance(a, Tensor)]
            for operand in operands or (arguments[1] if len(arguments) > 1 else ()):
                if id(operand) in self._softmax:  # it weighs values: attention, and no output of the model
                    _, where, entropy = self._softmax.pop(id(operand))
                    self.attention.append((where, entropy))
        elif name == "scaled_dot_product_attention":
            probabilities = _attention_probabilities(*arguments, **keywords)
            self.attention.append((self._where(), _normalized_entropy(probabilities)))
        elif name in _ADDITIONS and len(arguments) == 2:
            self._keep_addition(*arguments)

    def _keep_activation(self, kind: str, output: Tensor) -> None:
        slope, dead, units = NAN, NAN, 1
        if kind in _SQUARED_SLOPES:
            slope = math.sqrt(_SQUARED_SLOPES[kind](output.double()).mean().item())
        else:
            axis = {0: None, 1: None, 3: 2}.get(output.ndim, 1)
            others = [a for a in range(output.ndim) if a != axis]
            alive = (output != 0).sum(dim=others) if others else output != 0
            dead, units = (alive == 0).float().mean().item(), alive.numel()
        before = self.weights[-1].input_cosine if self.weights else NAN
        self.activations.append(_ActivationCall(self._where(), kind, slope, dead, units, before))

    def _keep_addition(self, left: object, right: object) -> None:
        if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
            return
        for operand in (left, right):
            if id(operand) in self._kept:
                self.norms_in_stream.append(self._kept.pop(id(operand))[1])
        # A bias is a leaf; positions are added to tokens before any layer.
        if (
            left.shape == right.shape
            and left.ndim >= 2
            and left.grad_fn is not None
            and right.grad_fn is not None
        ):
            self.skips += 1

    def _multi_head_attention(self, arguments: tuple, keywords: dict) -> tuple[Tensor, Tensor | None]:
        wanted, average = keywords.get("need_weights", True), keywords.get("average_attn_weights", True)
        keywords = {**keywords, "need_weights": True, "average_attn_weights": False}
        output, probabilities = F.multi_head_attention_forward(*arguments, **keywords)
        with torch.no_grad():
            self.attention.append((self._where(), _normalized_entropy(probabilities.detach())))
        if average:
            probabilities = probabilities.mean(dim=-3)
        return output, probabilities if wanted else None


def _is_transposed(module: nn.Module) -> bool:
    """Whether the weight is (fan_in, fan_out): transposed convolutions, and `Conv1D` of transformers."""
    return type(module).__name__ == "Conv1D" or "ConvTranspose" in type(module).__name__


def _floating(value: object) -> Tensor | None:
    """The first floating-point tensor of at least one axis in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        plain = value.is_floating_point() and value.layout == torch.strided and not value.is_nested
        plain = plain and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        return value if plain and value.ndim and value.numel() else None
    values = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | tuple | list):
        return None
    return next((tensor for part in values if (tensor := _floating(part)) is not None), None)


def _mean_cosine(given: Tensor) -> float:
    """Over all pairs of different examples, as in `LayerSignals.cosine`; zero rows left out."""
    rows = given.reshape(len(given), -1).double()
    norms = rows.norm(dim=1, keepdim=True)
    known = (norms[:, 0] > 0) & norms[:, 0].isfinite()
    count = int(known.sum())
    if count < 2:
        return NAN
    total = (rows[known] / norms[known]).sum(dim=0)
    return (total.square().sum().item() - count) / (count * (count - 1))


def _attention_probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `F.scaled_dot_product_attention` computes on its way; its arguments."""
    query, key = query.detach()[:_MOST_EXAMPLES].float(), key.detach()[:_MOST_EXAMPLES].float()
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        allowed = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        logits = logits.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        mask = attn_mask.detach()
        if mask.ndim == logits.ndim and len(mask) > 1:
            mask = mask[:_MOST_EXAMPLES]
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(dim=-1)


def _normalized_entropy(probabilities: Tensor) -> float:
    """Mean entropy over rows, each divided by the log of the number of keys that some row like it may see."""
    p = probabilities[:_MOST_EXAMPLES].double()
    # Masked keys are exactly 0 in every example and head; in a saturated softmax only in some.
    allowed = (p > 0).flatten(0, -3).any(dim=0).sum(dim=-1)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(dim=-1)
    rows = (entropy / allowed.clamp_min(2).log())[..., allowed > 1]
    return rows.nanmean().item() if rows.numel() else NAN


# --- The examination ----------------------------------------------------------------------------------------


def diagnose(
    model: nn.Module,
    inputs: Tensor | Sequence | Mapping,
    targets: object = None,
    loss_fn: Callable[..., Tensor] | None = None,
    *,
    learning_rate: float | None = None,
    evaluation: bool | None = None,
    number_format: str | None = None,
    warm_up: bool = False,
) -> Diagnosis:
    """Name what is wrong with a model, from one batch: the gravest cause first, with figures and remedies.

    model, inputs, targets, loss_fn: as for `signals.measure`; the model is left as it was.
    learning_rate: of plain SGD; without it, nothing is said about the size of the updates.
    evaluation: whether these outputs are meant for evaluating, so that train mode is a mistake. None: they
        are under `torch.no_grad()`, and when the model is in eval mode (where parts of it may not be).
    number_format: in which the gradient is or will be computed; None: that of the parameters. Models in
        float16 are examined as copies in float32, so that what would be rounded to 0 can still be counted.
    warm_up: whether training begins with a learning rate that rises; Post-LN then is no disease.

    A small batch hides things: give at least 16 examples. Raises TypeError or ValueError as `measure` does,
    and for the arguments of its own. Names and thresholds are tried on random networks in
    tests/bench/bench_diagnosis.py.
    """
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, at_least=0.0)
    for name, flag in (("evaluation", evaluation), ("warm_up", warm_up)):
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}.")
    if number_format is not None:
        check_choice("number_format", number_format, FORMATS)
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of (outputs, targets), got {loss_fn!r}.")
    patient = _Patient(model, inputs, targets, loss_fn, learning_rate)
    if evaluation is None and isinstance(model, nn.Module):
        evaluation = not torch.is_grad_enabled() or not model.training
    formats = {p.dtype for p in model.parameters()} if isinstance(model, nn.Module) else set()
    if torch.float16 in formats:
        number_format = number_format or "float16"
        patient = patient.in_float32()
    probe, signals = patient.examine()
    return _Examination(patient, probe, signals, bool(evaluation), number_format, warm_up).diagnosis()


@dataclass(frozen=True)
class _Patient:
    model: nn.Module
    inputs: object
    targets: object
    loss_fn: Callable[..., Tensor]
    learning_rate: float | None

    def in_float32(self) -> "_Patient":
        model = copy.deepcopy(self.model).float()
        return _Patient(model, _wider(self.inputs), _wider(self.targets), self.loss_fn, self.learning_rate)

    def examine(self) -> tuple[_Probe, Signals]:
        probe = _Probe(self.model) if isinstance(self.model, nn.Module) else None

        def loss_fn(*arguments: object) -> Tensor:
            probe.is_recording = False  # the loss may call the model again
            return self.loss_fn(*arguments)

        if probe is None:  # measure says in a sentence what it needs
            measure(self.model, self.inputs, self.targets, self.loss_fn)
        inputs = self.inputs
        if any(isinstance(module, nn.RNNBase) for module in probe.names):
            inputs = _requiring_gradient(inputs)  # or autograd goes back no further than the weights
        # Where activations overflow, NumPy would warn of it beside the finding.
        with probe.watching(), np.errstate(over="ignore", invalid="ignore"):
            signals = measure(self.model, inputs, self.targets, loss_fn, learning_rate=self.learning_rate)
        return probe, signals


def _requiring_gradient(inputs: object) -> object:
    """The same inputs, with floating-point tensors among them as leaves that require a gradient."""
    if isinstance(inputs, Tensor):
        return inputs.detach().requires_grad_() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: _requiring_gradient(part) for key, part in inputs.items()}
    return tuple(map(_requiring_gradient, inputs)) if type(inputs) in (tuple, list) else inputs


def _wider(value: object) -> object:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.float16 else value
    if isinstance(value, Mapping):
        return {key: _wider(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_wider(part) for part in value)
    return value


class _Examination:
    """The rules, each of which leaves one figure and at most one finding."""

    def __init__(
        self,
        patient: _Patient,
        probe: _Probe,
        signals: Signals,
        evaluation: bool,
        number_format: str | None,
        warm_up: bool,
    ):
        self.patient, self.probe, self.signals = patient, probe, signals
        self.evaluation, self.number_format, self.warm_up = evaluation, number_format, warm_up
        self.figures: list[Figure] = []
        self.found: dict[str, Finding] = {}
        layers = {layer.name: layer for layer in signals.layers}
        calls = [(call, layers.get(call.name)) for call in probe.weights]
        self.by_module: dict[nn.Module, list[tuple[_WeightCall, LayerSignals]]] = defaultdict(list)
        for call, layer in calls:
            if layer is not None:
                self.by_module[call.module].append((call, layer))
        # What is called again and again runs over time, and is no depth.
        self.chain = [calls[0] for calls in self.by_module.values() if len(calls) == 1]
        self.has_norms = probe.norm_calls >= max(1, len(self.chain) // 3)

    def diagnosis(self) -> Diagnosis:
        for rule in (
            self._not_finite,
            self._no_gradient,
            self._symmetric,
            self._depth,
            self._time,
            self._dead_units,
            self._correlation,
            self._tokens,
            self._attention,
            self._post_norm,
            self._bottleneck,
            self._range_of_format,
            self._mode,
            self._learning_rate,
        ):
            rule()
        return Diagnosis(tuple(self._in_order()), tuple(self.figures), self.signals.notes)

    def _in_order(self) -> list[Finding]:
        """Causes before what they bring along; among equals the one that is further off its range."""
        findings = []
        for finding in self.found.values():
            causes = [
                c for c in self.found if finding.disease in _FOLLOWS.get(c, ()) and c != finding.disease
            ]
            # Of two that could each bring the other along, the first in DISEASES is the cause.
            order = list(DISEASES)
            causes = [
                c
                for c in causes
                if c not in _FOLLOWS.get(finding.disease, ()) or order.index(c) < order.index(finding.disease)
            ]
            findings.append(
                Finding(finding.disease, finding.where, finding.figure, causes[0] if causes else None)
            )
        return sorted(findings, key=lambda f: (f.follows_from is not None, -f.figure.decades_off))

    def _look(
        self, disease: str, name: str, value: float, low: float, high: float, where: Sequence[str] = ()
    ) -> bool:
        """Keep the figure; where it lies outside of the range, the disease is found."""
        if math.isnan(value):
            return False
        figure = Figure(name, value, low, high, tuple(dict.fromkeys(where)) or ("(model)",))
        self.figures.append(figure)
        if not figure.is_healthy:
            self.found.setdefault(disease, Finding(disease, figure.where, figure))
        return not figure.is_healthy

    # Every range below is from theory, or from the healthy networks of tests/bench (split development).

    def _not_finite(self) -> None:
        layers = [la.name for la in self.signals.layers if not math.isfinite(la.activation_mean)]
        gradients = [
            p.layer
            for p in reversed(self.signals.parameters)
            if p.gradient is not None and not math.isfinite(p.gradient_norm)
        ]
        if math.isfinite(self.signals.loss) and not gradients:
            layers = []  # a mask of minus infinity, which a softmax takes away
        bad = layers or gradients
        count = len(bad) or int(not math.isfinite(self.signals.loss))
        if self._look("not_finite", "layers with NaN or infinity", float(count), 0, 0, bad[:3]):
            self._why_not_finite()

    def _why_not_finite(self) -> None:
        """Exploding, if the activations grow from layer to layer where they are finite yet."""
        pairs = [
            (c.name, s.activation_variance) for c, s in self.chain if 0 < s.activation_variance < math.inf
        ]
        if len(pairs) >= 3:
            growth = 1 / _trend(0.5 * np.log10([variance for _, variance in pairs]))
            name = f"activations in the last over those in the first of {len(pairs)} finite layers"
            self._look("exploding", name, growth, 1e-3, 1e3, [name for name, _ in pairs])

    def _no_gradient(self) -> None:
        trainable = [p for p in self.signals.parameters if not p.frozen]
        without = [p for p in trainable if math.isnan(p.gradient_norm) and p.gradient is None]
        if trainable:
            share = len(without) / len(trainable)
            name = "share of the trainable parameters without a gradient"
            self._look("no_gradient", name, share, 0, 0, [p.layer for p in without])

    def _symmetric(self) -> None:
        """Equal rows of a weight with equal rows of its gradient, which branches begun at 0 do not have."""
        tables = {n for m, n in self.probe.names.items() if isinstance(m, _TABLES)}
        modules = {n: m for m, n in self.probe.names.items()}
        parameters = dict(self.patient.model.named_parameters(remove_duplicate=False))
        worst, where = 0.0, []
        for signal in self.signals.parameters:
            gradient, weight = signal.gradient, parameters[signal.name].detach()
            if gradient is None or weight.ndim < 2 or signal.layer in tables or weight.is_sparse:
                continue
            if gradient.shape != tuple(weight.shape) or not np.isfinite(gradient).all():
                continue
            axis = 1 if signal.layer in modules and _is_transposed(modules[signal.layer]) else 0
            share = _twins(weight.float().movedim(axis, 0).cpu().numpy(), np.moveaxis(gradient, axis, 0))
            if share > 0.5:
                where.append(signal.layer)
            worst = max(worst, share)
        # Independent random weights have no twins at all; half leaves room for units that are dead.
        self._look("symmetric", "share of units with a twin, in the worst layer", worst, 0, 0.5, where)

    def _depth(self) -> None:
        """Decades by which the gradient by the layers' outputs changes from the last layer to the first."""
        chain = [(c, s) for c, s in self.chain if s.activation_gradient_rms >= 0]
        if len(chain) < 3:
            return
        names = [c.name for c, _ in chain]
        gradients = np.array([s.activation_gradient_rms for _, s in chain])
        depth = len(chain) - 1
        ratio = _trend(np.log10(np.maximum(gradients, 1e-60)))
        name = f"gradient in the first layer over that in the last, by the trend over {len(chain)} layers"
        # Norm layers hold the forward pass, and theory gives 1.211 per layer: 10 is reached after 12 layers.
        grows = self._batch_norms() >= len(chain) // 2 and ratio > 1.1**depth
        if grows and self.probe.skips < len(chain) // 4:
            self._look("norm_without_skips", name, ratio, 1e-3, 10, names)
            return
        # Healthy networks of the benchmark stay within two decades; sixteen such layers lose three.
        if ratio > 1:
            self._look("exploding", name, ratio, 1e-3, 1e3, names)
            return
        disease, where, figure = self._why_vanishing(names)
        if self._look(disease, name, ratio, 1e-3, 1e3, where) and figure:
            self.figures.append(figure)

    def _batch_norms(self) -> int:
        return sum(self.probe.times_called[m] for m in self.probe.names if isinstance(m, _BATCH_NORMS))

    def _why_vanishing(self, names: list[str]) -> tuple[str, list[str], Figure | None]:
        """The backward factor of a layer is weight times slope: which of the two is too small."""
        bounded = [a for a in self.probe.activations if not math.isnan(a.slope)]
        relus = [a for a in self.probe.activations if not math.isnan(a.dead_share)]
        scale = float(np.median([c.scale for c, _ in self.chain]))
        slope = float(np.median([a.slope for a in bounded])) if bounded else NAN
        if len(bounded) >= len(self.chain) // 2 and slope < 0.5 and slope < scale:
            figure = Figure("root mean square of the activation's slope", slope, 0.5, 1, ())
            return "saturation", list(dict.fromkeys(a.name for a in bounded)), figure
        critical = math.sqrt(2) if len(relus) > len(bounded) else 1.0
        if not self.has_norms and scale < 0.9 * critical:
            figure = Figure("weight scale sqrt(Var(W) fan_in)", scale, 0.9 * critical, 1.1 * critical, ())
            return "small_weights", names, figure
        return "vanishing", names, None

    def _time(self) -> None:
        series = list(self.probe.over_time)
        for module, calls in self.by_module.items():
            if len(calls) >= 5:
                series.append(
                    (self.probe.names[module], np.array([s.activation_gradient_rms for _, s in calls]))
                )
        for layer in self.probe.names:
            if isinstance(layer, _CELLS) and layer not in self.by_module:
                name = self.probe.names[layer]
                norms = [
                    s.activation_gradient_rms for s in self.signals.layers if s.name.split("#")[0] == name
                ]
                series.append((name, np.array(norms)))
        for name, norms in series:
            norms = norms[np.isfinite(norms)]
            if len(norms) < 5 or not norms.any():
                continue
            norms = norms[: int(np.flatnonzero(norms)[-1]) + 1]  # padding at the end gets no gradient
            ends = max(1, len(norms) // 20)
            ratio = float(max(np.median(norms[:ends]), 1e-60) / np.median(norms[-ends:]))
            text = f"gradient at the first of {len(norms)} time steps over that at the last, in {name}"
            # An LSTM with forget bias 0 halves the gradient in each step: four decades are 13 steps.
            self._look("long_sequence" if ratio < 1 else "exploding", text, ratio, 1e-4, 1e3, [name])

    def _dead_units(self) -> None:
        """More dead units than random weights leave by chance, which is up to half when inputs look alike."""
        relus = [a for a in self.probe.activations if not math.isnan(a.dead_share)]
        if not relus:
            return
        highs = []
        for relu in relus:
            chance = _dead_by_chance(relu.input_cosine, self._examples())
            # Three standard deviations of a share of so many units; 0.15 is for examples that are not alike.
            highs.append(min(0.95, chance + 0.15 + 3 * math.sqrt(chance * (1 - chance) / relu.units)))
        excess = [relu.dead_share - high for relu, high in zip(relus, highs, strict=True)]
        worst = int(np.argmax(excess))
        where = [relu.name for relu, more in zip(relus, excess, strict=True) if more > 0]
        name = "share of ReLU units that are 0 on the whole batch, in the worst layer"
        value = relus[worst].dead_share
        self._look("dead_units", name, value, 0, highs[worst], where or [relus[worst].name])

    def _examples(self) -> int:
        return max((len(t) for t in [_floating(self.probe.output)] if t is not None), default=2)

    def _correlation(self) -> None:
        # The last layer is left out: its few outputs may well be alike. And ReLU takes 25 layers from 0 to
        # 0.95: in a short network something else has happened, such as averaging over pixels.
        cosines = [(c.name, s.cosine) for c, s in self.chain[:-1] if not math.isnan(s.cosine)]
        if len(cosines) < 8:
            return
        start = next((c.input_cosine for c, _ in self.chain if not math.isnan(c.input_cosine)), NAN)
        if math.isnan(start):
            return
        last = cosines[-max(1, len(cosines) // 4) :]
        end = float(np.median([cosine for _, cosine in last]))
        # What began alike may end so.
        high = max(0.95, 1 - 0.2 * (1 - start))
        where = [name for name, cosine in cosines if cosine > high]
        name = "cosine between different examples in the last quarter of the layers"
        self._look("collapsed_correlation", name, end, -1, high, where)

    def _tokens(self) -> None:
        spreads = [(c.name, c.token_spread) for c, _ in self.chain if not math.isnan(c.token_spread)]
        if not self.probe.attention or len(spreads) < 3:
            return
        start, end = spreads[0][1], spreads[-1][1]
        if start < 0.1:
            return
        # With skip connections the tokens keep most of what sets them apart; without, it falls to 0.
        where = [name for name, spread in spreads if spread < 0.1 * start]
        name = "share of the tokens' norm that sets them apart, at the end over the beginning"
        self._look("rank_collapse", name, end / start, 0.1, math.inf, where)

    def _attention(self) -> None:
        entropies = [(name, e) for name, e in self.probe.attention if not math.isnan(e)]
        if not entropies:
            return
        # Scaled logits of unit variance give 0.85 at 16 keys; unscaled ones of 32 dimensions 0.25.
        where = [name for name, e in entropies if e < 0.35]
        value = float(np.median([e for _, e in entropies]))
        if len(where) > len(entropies) // 4:
            value = min(value, float(np.median([e for _, e in entropies if e < 0.35])))
        name = "entropy of the attention, in shares of that of uniform attention"
        self._look("saturated_attention", name, value, 0.35, 1, where)

    def _post_norm(self) -> None:
        stream = list(dict.fromkeys(self.probe.norms_in_stream))
        if len(stream) < 5:  # two blocks train without warm-up
            return
        pairs = [(c, s) for c, s in self.chain if s.weight_gradient_norm > 0]
        if len(pairs) < 6 or self.warm_up:
            return
        third = max(1, len(pairs) // 3)
        first, last = (
            float(np.median([s.weight_gradient_norm for _, s in part]))
            for part in (pairs[:third], pairs[-third:])
        )
        # Under Pre-LN it falls toward the end, as depth**-0.5; under Post-LN it does not (Xiong et al. 2020).
        name = "weight gradient in the last third of the layers over that in the first, with Post-LN"
        self._look("post_norm", name, last / first, 0, 1.0, stream)

    def _bottleneck(self) -> None:
        calls = [c for c, _ in self.chain]
        if len(calls) < 3 or self.probe.output is None:
            return
        outputs = self.probe.output.shape[-1] if self.probe.output.ndim else 1
        for index in range(1, len(calls) - 1):
            call = calls[index]
            before = max(c.input_units for c in calls[: index + 1])
            after = max(c.units for c in calls[index + 1 : -1] or calls[-1:])
            if call.units * 8 <= min(before, after) and call.units < outputs - 1 and self._is_cut(call):
                name = f"units in the narrowest layer that everything passes through (outputs: {outputs})"
                self._look("bottleneck", name, float(call.units), outputs - 1, math.inf, [call.name])
                return

    def _is_cut(self, call: _WeightCall) -> bool:
        """Whether all earlier layers lose their gradient when this one's output is detached."""
        earlier = {c.name for c, _ in self.chain[: [c.name for c, _ in self.chain].index(call.name)]}

        def detached(module: nn.Module, arguments: tuple, output: object) -> object:
            return output.detach() if isinstance(output, Tensor) else output

        handle = call.module.register_forward_hook(detached)
        try:
            p = self.patient
            signals = measure(p.model, p.inputs, p.targets, p.loss_fn)
        finally:
            handle.remove()
        return all(math.isnan(s.activation_gradient_norm) for s in signals.layers if s.name in earlier)

    def _range_of_format(self) -> None:
        if self.number_format not in ("float16", "bfloat16"):
            return
        shares = [
            (c.name, s.underflow[self.number_format])
            for c, s in self.chain
            if not math.isnan(s.underflow[self.number_format])
        ]
        if not shares:
            return
        value = float(np.median([share for _, share in shares]))
        where = [name for name, share in shares if share > 0.1]
        name = f"share of the gradient's entries that become 0 in {self.number_format}, median over layers"
        # Entries are spread around their root mean square: a tenth of them below the range puts that near it.
        self._look("underflow", name, value, 0, 0.1, where)

    def _mode(self) -> None:
        modes = [
            (name, module)
            for module, name in self.probe.names.items()
            if (isinstance(module, _BATCH_NORMS) and module.track_running_stats)
            or (isinstance(module, _DROPOUTS) and module.p > 0)
        ]
        wrong = [name for name, module in modes if module.training]
        if not self.evaluation or not modes:
            return
        change = self._change_by_eval() if wrong else 0.0
        name = "relative change of the outputs when the model is put into eval mode"
        self._look("forgotten_eval", name, change, 0, 0.01, wrong)

    def _change_by_eval(self) -> float:
        p = self.patient
        training = [module for module in p.model.modules() if module.training]
        try:
            p.model.eval()
            probe, _ = p.examine()
        finally:
            for module in training:
                module.training = True
        before, after = self.probe.output, probe.output
        if before is None or after is None or before.shape != after.shape:
            return NAN
        return ((before - after).norm() / after.norm().clamp_min(1e-30)).item()

    def _learning_rate(self) -> None:
        ratios = [
            (p.name, p.update_ratio)
            for p in self.signals.parameters
            if p.update_ratio is not None and math.isfinite(p.update_ratio) and np.ndim(p.gradient) >= 2
        ]
        if ratios:
            value = float(np.median([ratio for _, ratio in ratios]))
            name = "update ratio lr * |gradient| / |weight|, median over the weights"
            # The rule of thumb is 1e-3; the healthy networks of the benchmark, with SGD at 0.01 to 0.1,
            # are at 5e-4 to 8e-2. Beyond 0.3 a step replaces the weights.
            self._look("learning_rate", name, value, 1e-5, 0.3, [name for name, _ in ratios])


def _twins(weight: np.ndarray, gradient: np.ndarray, most: int = 128) -> float:
    """Share of the rows that have an equal row, with an equal gradient; looks at the first `most`."""
    if len(weight) < 2:
        return 0.0
    together = _distances(weight[:most])
    if (together.min(axis=1) < 1e-4).any():  # random weights need no second look
        together = np.maximum(together, _distances(gradient[:most]))
    return float((together.min(axis=1) < 1e-4).mean())


def _distances(rows: np.ndarray) -> np.ndarray:
    """(rows, rows) between the rows in units of the largest, infinite from a row to itself.

    Of at most 64 columns; the rest are added to them with random signs, which keeps different rows different.
    """
    rows = rows.reshape(len(rows), -1)
    columns = rows.shape[1]
    if columns > 64:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], columns)
        padded = np.zeros((len(rows), -(-columns // 64) * 64))
        padded[:, :columns] = rows * signs
        rows = padded.reshape(len(rows), -1, 64).sum(axis=1)
    rows = rows.astype(float)
    largest = np.abs(rows).max()
    rows = rows / largest if largest else rows
    distances = np.abs(rows[:, None] - rows).max(axis=2)
    np.fill_diagonal(distances, math.inf)
    return distances


def _trend(logs: np.ndarray) -> float:
    """First value over last, by the trend of the logarithms; layers beside the main path do not count.

    Queries and keys get far less gradient than the layers around them. So a rise is judged by the largest
    value up to each layer, a fall by the largest from each layer on; the steeper of the two counts.
    """
    rise = max(_median_slope(np.maximum.accumulate(logs)), 0.0)
    fall = min(_median_slope(np.maximum.accumulate(logs[::-1])[::-1]), 0.0)
    slope = rise if rise > -fall else fall
    return float(10.0 ** np.clip(-slope * (len(logs) - 1), -60, 60))


def _median_slope(values: np.ndarray) -> float:
    """Theil and Sen: the median over all pairs, which a few layers of another kind do not move."""
    i, j = np.triu_indices(len(values), 1)
    return float(np.median((values[j] - values[i]) / (j - i)))


def _dead_by_chance(cosine: float, count: int) -> float:
    """Expected share of units that are negative on `count` examples of this mean cosine, by random weights.

    P(all z_i < 0) for equally correlated normal z: the mean of ndtr(-t sqrt(c / (1 - c)))**count over t.
    """
    cosine = min(max(0.0 if math.isnan(cosine) else cosine, 0.0), 1 - 1e-9)
    # A grid: close to cosine 1 the integrand is a step, which no polynomial fits.
    t = np.linspace(-8, 8, 2001)
    density = np.exp(-(t**2) / 2)
    below = ndtr(-t * math.sqrt(cosine / (1 - cosine))) ** count
    return float(below @ density / density.sum())
