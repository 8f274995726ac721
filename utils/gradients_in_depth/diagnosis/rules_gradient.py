"""Rules about the gradient as a whole: whether there is one, whether it is finite, and how it changes.

Here as in the other rules, ranges are from theory or from the healthy networks of tests/bench (split
development).
"""

import math
from collections.abc import Iterator

import numpy as np
from torch import nn

from gradients_in_depth.diagnosis.examination import Examination, Layer
from gradients_in_depth.diagnosis.probe import BATCH_NORMS
from gradients_in_depth.diagnosis.report import Figure

_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


def not_finite(examination: Examination) -> None:
    """Layers with NaN or infinity; if so, whether the activations explode before."""
    signals = examination.signals
    outputs = [layer.name for layer in signals.layers if not math.isfinite(layer.activation_mean)]
    gradients = [
        p.layer
        for p in reversed(signals.parameters)
        if p.gradient is not None and not math.isfinite(p.gradient_norm)
    ]
    if math.isfinite(signals.loss) and not gradients:
        outputs = []  # a mask of minus infinity, which a softmax takes away
    broken = outputs or gradients
    count = float(len(broken) or not math.isfinite(signals.loss))
    name = "layers with NaN or infinity"
    if examination.look("not_finite", "layers_not_finite", name, count, 0, 0, broken[:3]):
        _exploding_activations(examination)


def _exploding_activations(examination: Examination) -> None:
    """Whether the activations grow from layer to layer as long as they are finite."""
    finite = [(c.name, s.activation_variance) for c, s in examination.chain]
    finite = [(name, variance) for name, variance in finite if 0 < variance < math.inf]
    if len(finite) >= 3:
        growth = 1 / trend(0.5 * np.log10([variance for _, variance in finite]))
        where = [name for name, _ in finite]
        name = f"activations in the last over those in the first of {len(finite)} finite layers"
        examination.look("exploding", "activation_trend", name, growth, 1e-3, 1e3, where)


def no_gradient(examination: Examination) -> None:
    """Trainable parameters that the loss does not reach."""
    trainable = [p for p in examination.signals.parameters if not p.frozen]
    without = [p for p in trainable if math.isnan(p.gradient_norm) and p.gradient is None]
    if trainable:
        share = len(without) / len(trainable)
        where = [p.layer for p in without]
        name = "share of the trainable parameters without a gradient"
        examination.look("no_gradient", "parameters_without_gradient", name, share, 0, 0, where)


def depth(examination: Examination) -> None:
    """Decades by which the gradient by the layers' outputs changes from the last layer to the first."""
    chain = [layer for layer in examination.chain if layer.signals.activation_gradient_rms >= 0]
    if len(chain) < 3:
        return
    where = [layer.call.name for layer in chain]
    gradients = np.array([layer.signals.activation_gradient_rms for layer in chain])
    ratio = trend(np.log10(np.maximum(gradients, 1e-60)))
    name = f"gradient in the first layer over that in the last, by the trend over {len(chain)} layers"
    # Norm layers hold the forward pass, and theory gives 1.211 per layer: 10 is reached after 12 layers.
    grows = _batch_norms(examination) >= len(chain) // 2 and ratio > 1.1 ** (len(chain) - 1)
    if grows and examination.probe.skips < len(chain) // 4:
        examination.look("norm_without_skips", "gradient_trend", name, ratio, 1e-3, 10, where)
        return
    # Healthy networks of the benchmark stay within two decades; sixteen such layers lose three.
    if ratio > 1:
        examination.look("exploding", "gradient_trend", name, ratio, 1e-3, 1e3, where)
        return
    disease, where, reason = _why_vanishing(examination, where)
    if examination.look(disease, "gradient_trend", name, ratio, 1e-3, 1e3, where) and reason:
        examination.figures.append(reason)


def _batch_norms(examination: Examination) -> int:
    """Calls of batch normalization."""
    times_called = examination.probe.recorder.times_called
    return sum(times for module, times in times_called.items() if isinstance(module, BATCH_NORMS))


def _why_vanishing(examination: Examination, where: list[str]) -> tuple[str, list[str], Figure | None]:
    """The backward factor of a layer is weight times slope: which of the two is too small, and where."""
    activations, chain = examination.probe.activations, examination.chain
    bounded = [a for a in activations if not math.isnan(a.slope)]
    relus = [a for a in activations if not math.isnan(a.dead_share)]
    scale = float(np.median([call.scale for call, _ in chain]))
    slope = float(np.median([a.slope for a in bounded])) if bounded else math.nan
    if len(bounded) >= len(chain) // 2 and slope < 0.5 and slope < scale:
        name = "root mean square of the activation's slope"
        figure = Figure("activation_slope", name, slope, 0.5, 1, ())
        return "saturation", list(dict.fromkeys(a.name for a in bounded)), figure
    critical = math.sqrt(2) if len(relus) > len(bounded) else 1.0
    if not examination.has_norms and scale < 0.9 * critical:
        name = "weight scale sqrt(Var(W) fan_in)"
        figure = Figure("weight_scale", name, scale, 0.9 * critical, 1.1 * critical, ())
        return "small_weights", where, figure
    return "vanishing", where, None


def time(examination: Examination) -> None:
    """The gradient at the first time step over that at the last, in everything that runs over time."""
    for layer, norms in _over_time(examination):
        norms = norms[np.isfinite(norms)]
        if len(norms) < 5 or not norms.any():
            continue
        norms = norms[: int(np.flatnonzero(norms)[-1]) + 1]  # padding at the end gets no gradient
        ends = max(1, len(norms) // 20)
        ratio = float(max(np.median(norms[:ends]), 1e-60) / np.median(norms[-ends:]))
        name = f"gradient at the first of {len(norms)} time steps over that at the last, in {layer}"
        # An LSTM with forget bias 0 halves the gradient in each step: four decades are 13 steps.
        disease = "long_sequence" if ratio < 1 else "exploding"
        examination.look(disease, "gradient_over_time", name, ratio, 1e-4, 1e3, [layer])


def _over_time(examination: Examination) -> Iterator[tuple[str, np.ndarray]]:
    """Names, and norms of the gradient by time step: (steps,) each."""
    probe = examination.probe
    yield from probe.over_time
    for module, layers in examination.by_module.items():
        if len(layers) >= 5:
            yield probe.names[module], _gradients(layers)
    measured = {layer.name: layer for layer in examination.signals.layers}
    for module, name in probe.names.items():
        if isinstance(module, _CELLS) and module not in examination.by_module:
            calls = [call for call in probe.recorder.calls if call.module is module and call.name in measured]
            yield name, np.array([measured[call.name].activation_gradient_rms for call in calls])


def _gradients(layers: list[Layer]) -> np.ndarray:
    return np.array([layer.signals.activation_gradient_rms for layer in layers])


def trend(logs: np.ndarray) -> float:
    """First value over last, by the trend of the decimal logarithms.

    Layers beside the main path do not count: queries and keys get far less gradient than the layers around
    them. So a rise is judged by the largest value up to each layer, a fall by the largest from each layer on;
    the steeper of the two counts.
    """
    rise = max(_median_slope(np.maximum.accumulate(logs)), 0.0)
    fall = min(_median_slope(np.maximum.accumulate(logs[::-1])[::-1]), 0.0)
    slope = rise if rise > -fall else fall
    return float(10.0 ** np.clip(-slope * (len(logs) - 1), -60, 60))


def _median_slope(values: np.ndarray) -> float:
    """Theil and Sen: the median over all pairs, which a few layers of another kind do not move."""
    i, j = np.triu_indices(len(values), 1)
    return float(np.median((values[j] - values[i]) / (j - i)))
