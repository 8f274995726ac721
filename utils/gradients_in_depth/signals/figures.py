"""The figures of one tensor: what an output is like, and what a gradient is like."""

import math
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from gradients_in_depth.catalogue import number_format

FORMATS = ("float16", "bfloat16", "float32")

# The outputs at and beyond which |phi'| is below 5 % of its maximum, by kind of activation.
_FLAT_BEYOND: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.5 - math.sqrt(0.2375), 0.5 + math.sqrt(0.2375)),  # a (1 - a) = 0.05 / 4
    nn.Tanh: (-math.sqrt(0.95), math.sqrt(0.95)),  # 1 - a**2 = 0.05
    nn.Softsign: (math.sqrt(0.05) - 1, 1 - math.sqrt(0.05)),  # (1 - |a|)**2 = 0.05
    nn.Hardsigmoid: (0.0, 1.0),
}
_EXACTLY_ZERO = (nn.ReLU, nn.ReLU6, nn.Hardswish)
ACTIVATIONS: tuple[type[nn.Module], ...] = (*_FLAT_BEYOND, nn.Hardtanh, *_EXACTLY_ZERO)


class ActivationFigures(TypedDict):
    """Of an output, by their names in `LayerSignals`."""

    activation_mean: float
    activation_variance: float
    cosine: float


class GradientFigures(TypedDict):
    """Of a gradient, by their names in `LayerSignals`."""

    activation_gradient_norm: float
    activation_gradient_rms: float
    underflow: dict[str, float]
    overflow: dict[str, float]


def widened(tensor: Tensor) -> Tensor:
    """In float32 or float64, with complex entries as pairs of real ones and sparse ones as their values."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.float32, torch.float64) and tensor.layout == torch.strided:
        return tensor
    if tensor.is_sparse:  # the gradient of nn.Embedding(sparse=True)
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def exact_norm(tensor: Tensor) -> float:
    """The norm of a widened tensor, also where the squares of its entries leave the range of its format."""
    norm = torch.linalg.vector_norm(tensor).item()
    if 1e-12 < norm < 1e12:
        return norm
    # Measure in units of the largest entry.
    largest = torch.linalg.vector_norm(tensor, ord=math.inf).item() if tensor.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * torch.linalg.vector_norm(tensor.double() / largest).item()


def activation_figures(output: Tensor) -> ActivationFigures:
    """Of a widened output, whose first dimension counts examples; NaN where it has no entries."""
    size = output.numel()
    if not size:
        return {"activation_mean": math.nan, "activation_variance": math.nan, "cosine": math.nan}
    rows = output.reshape(len(output) if output.ndim else 1, -1)
    lengths = torch.linalg.vector_norm(rows, dim=1)
    # One pass over the rows for both of their sums: as they are, and as directions. The small results go to
    # NumPy, whose calls cost less.
    sums = torch.stack([torch.ones_like(lengths), lengths.reciprocal()]) @ rows
    (total, directions), sizes = sums.cpu().numpy(), lengths.cpu().numpy().astype(np.float64)
    mean, mean_square = float(total.sum(dtype=np.float64)) / size, float(sizes @ sizes) / size
    cosine = mean_cosine(float(directions @ directions), len(rows))
    if rows.dtype != torch.float64 and not (1e-24 < mean_square < 1e24 and math.isfinite(cosine)):
        return activation_figures(output.double())  # in float32 squares may have left the range
    if math.isnan(cosine):
        known = lengths != 0
        directions = (lengths[known].reciprocal() @ rows[known]).cpu().numpy()
        cosine = mean_cosine(float(directions @ directions), int(known.sum()))
    variance = mean_square - mean * mean
    if not variance > 0.01 * mean_square:  # a difference of nearly equal numbers: shift by the first entry
        shifted = rows.double() - rows[0, 0]
        variance = (shifted.square().mean() - shifted.mean().square()).item()
    return {"activation_mean": mean, "activation_variance": variance, "cosine": cosine}


def mean_cosine(squared_sum: float, count: int) -> float:
    """Over all pairs of `count` unit vectors, from the square of their sum; NaN when there is no pair.

    The square is the sum of the cosines of all ordered pairs, and of 1 for each vector with itself.
    """
    return (squared_sum - count) / (count * (count - 1)) if count > 1 else math.nan


def activation_counts(module: nn.Module, output: Tensor) -> np.ndarray:
    """Saturated outputs, all outputs, dead units, all units; 0 where the kind of activation has none."""
    counts, output = np.zeros(4), output.detach()
    bounds = _flat_beyond(module)
    if bounds and output.numel():
        low, high = bounds
        if output.dtype not in (torch.float32, torch.float64):  # the bounds as the output rounds them
            low, high = torch.tensor((low, high), dtype=output.dtype).tolist()
        smallest, largest = torch.aminmax(output)
        if not low < smallest.item() <= largest.item() < high:
            values = widened(output).cpu().numpy()
            counts[0] = np.count_nonzero((values <= low) | (values >= high))
        counts[1] = output.numel()
    if isinstance(module, _EXACTLY_ZERO) and output.numel():
        unit_axis = {0: None, 1: None, 3: 2}.get(output.ndim, 1)
        others = tuple(axis for axis in range(output.ndim) if axis != unit_axis)
        alive = widened(output).cpu().numpy().any(axis=others)
        counts[2:] = np.count_nonzero(alive == 0), alive.size
    return counts


def _flat_beyond(module: nn.Module) -> tuple[float, float] | None:
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one: flat at 0 and at 6
        return module.min_val, module.max_val
    return next((bounds for kind, bounds in _FLAT_BEYOND.items() if isinstance(module, kind)), None)


def gradient_figures(gradient: Tensor | None) -> GradientFigures:
    """Of a widened gradient; NaN without one."""
    if gradient is None:
        norm, size, entries = math.nan, 1, None
    else:
        norm, size, entries = exact_norm(gradient), max(gradient.numel(), 1), gradient.cpu().numpy()
    underflow, overflow = range_shares(entries, norm)
    return {
        "activation_gradient_norm": norm,
        "activation_gradient_rms": norm / math.sqrt(size),
        "underflow": underflow,
        "overflow": overflow,
    }


def _rounded_away(name: str) -> tuple[float, float]:
    """Up to the first magnitude a number becomes 0 in the format, from the second on infinite."""
    numbers = number_format(name)
    return numbers.smallest_subnormal / 2, numbers.largest / 2 + 2.0 ** (math.frexp(numbers.largest)[1] - 1)


_ROUNDED_AWAY = {name: _rounded_away(name) for name in FORMATS}


def range_shares(gradient: np.ndarray | None, norm: float) -> tuple[dict[str, float], dict[str, float]]:
    """By format, the shares of the non-zero entries that become 0, and infinite; NaN without any."""
    underflow, overflow = dict.fromkeys(FORMATS, math.nan), dict.fromkeys(FORMATS, math.nan)
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
