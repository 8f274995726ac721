"""Rules about the units of layers: copies of each other, dead ones, the same for all examples, too few."""

import math

import numpy as np
from scipy.special import ndtr
from torch import Tensor, nn

from gradients_in_depth.diagnosis.examination import Examination
from gradients_in_depth.diagnosis.probe import TABLES, WeightCall, is_transposed
from gradients_in_depth.signals import measure


def symmetric(examination: Examination) -> None:
    """Equal rows of a weight with equal rows of its gradient, which branches begun at 0 do not have."""
    modules = {name: module for module, name in examination.probe.names.items()}
    parameters = dict(examination.patient.model.named_parameters(remove_duplicate=False))
    worst, where = 0.0, []
    for signal in examination.signals.parameters:
        gradient, weight = signal.gradient, parameters[signal.name].detach()
        module = modules.get(signal.layer)
        if gradient is None or weight.ndim < 2 or weight.is_sparse or isinstance(module, TABLES):
            continue
        if gradient.shape != tuple(weight.shape) or not np.isfinite(gradient).all():
            continue
        if not weight.isfinite().all():
            continue
        axis = 1 if module is not None and is_transposed(module) else 0
        share = share_of_twins(weight.float().movedim(axis, 0).cpu().numpy(), np.moveaxis(gradient, axis, 0))
        if share > 0.5:
            where.append(signal.layer)
        worst = max(worst, share)
    # Independent random weights have no twins at all; half leaves room for units that are dead.
    name = "share of units with a twin, in the worst layer"
    examination.look("symmetric", "twin_share", name, worst, 0, 0.5, where)


def share_of_twins(weight: np.ndarray, gradient: np.ndarray, most: int = 128) -> float:
    """Share of the rows that have an equal row, with an equal gradient; looks at the first `most`."""
    if len(weight) < 2:
        return 0.0
    together = _distances(weight[:most])
    if (together.min(axis=1) < 1e-4).any():  # random weights need no second look
        together = np.maximum(together, _distances(gradient[:most]))
    return float((together.min(axis=1) < 1e-4).mean())


def _distances(rows: np.ndarray) -> np.ndarray:
    """Pairwise distances (rows, rows), in units of the largest entry; infinite from a row to itself.

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


def dead_units(examination: Examination) -> None:
    """More dead units than random weights leave by chance, which is up to half when inputs look alike."""
    relus = [a for a in examination.probe.activations if not math.isnan(a.dead_share)]
    if not relus:
        return
    output = examination.probe.output
    examples = 2 if output is None else len(output)
    highs = []
    for relu in relus:
        chance = dead_by_chance(relu.input_cosine, examples)
        # Three standard deviations of a share of so many units; 0.15 is for examples that are not alike.
        highs.append(min(0.95, chance + 0.15 + 3 * math.sqrt(chance * (1 - chance) / relu.units)))
    excess = [relu.dead_share - high for relu, high in zip(relus, highs, strict=True)]
    worst = int(np.argmax(excess))
    where = [relu.name for relu, more in zip(relus, excess, strict=True) if more > 0]
    value, high = relus[worst].dead_share, highs[worst]
    name = "share of ReLU units that are 0 on the whole batch, in the worst layer"
    examination.look("dead_units", "dead_share", name, value, 0, high, where or [relus[worst].name])


def dead_by_chance(cosine: float, count: int) -> float:
    """Expected share of units that are negative on `count` examples of this mean cosine, by random weights.

    P(all z_i < 0) for equally correlated normal z: the mean of ndtr(-t sqrt(c / (1 - c)))**count over t.
    """
    cosine = min(max(0.0 if math.isnan(cosine) else cosine, 0.0), 1 - 1e-9)
    # A grid: close to cosine 1 the integrand is a step, which no polynomial fits.
    t = np.linspace(-8, 8, 2001)
    density = np.exp(-(t**2) / 2)
    below = ndtr(-t * math.sqrt(cosine / (1 - cosine))) ** count
    return float(below @ density / density.sum())


def correlation(examination: Examination) -> None:
    """Whether different examples have become the same in the last quarter of the layers."""
    chain = examination.chain
    # The last layer is left out: its few outputs may well be alike. And ReLU takes 25 layers from 0 to
    # 0.95: in a short network something else has happened, such as averaging over pixels.
    cosines = [(c.name, s.cosine) for c, s in chain[:-1] if not math.isnan(s.cosine)]
    if len(cosines) < 8:
        return
    start = next((c.input_cosine for c, _ in chain if not math.isnan(c.input_cosine)), math.nan)
    if math.isnan(start):
        return
    last = cosines[-max(1, len(cosines) // 4) :]
    end = float(np.median([cosine for _, cosine in last]))
    # What began alike may end so.
    high = max(0.95, 1 - 0.2 * (1 - start))
    where = [name for name, cosine in cosines if cosine > high]
    name = "cosine between different examples in the last quarter of the layers"
    examination.look("collapsed_correlation", "example_cosine", name, end, -1, high, where)


def bottleneck(examination: Examination) -> None:
    """A layer far narrower than those before and after it, and than the outputs, that nothing passes by."""
    calls, output = [call for call, _ in examination.chain], examination.probe.output
    if len(calls) < 3 or output is None:
        return
    outputs = output.shape[-1]
    for index in range(1, len(calls) - 1):
        call = calls[index]
        before = max(c.input_units for c in calls[: index + 1])
        after = max(c.units for c in calls[index + 1 : -1] or calls[-1:])
        is_narrow = call.units * 8 <= min(before, after) and call.units < outputs - 1
        if is_narrow and _is_cut(examination, call, calls[:index]):
            name = f"units in the narrowest layer that everything passes through (outputs: {outputs})"
            units = float(call.units)
            examination.look("bottleneck", "narrowest_units", name, units, outputs - 1, math.inf, [call.name])
            return


def _is_cut(examination: Examination, call: WeightCall, earlier: list[WeightCall]) -> bool:
    """Whether all earlier layers lose their gradient when this one's output is detached."""

    def detached(module: nn.Module, arguments: tuple, output: object) -> object:
        return output.detach() if isinstance(output, Tensor) else output

    patient, names = examination.patient, {c.name for c in earlier}
    handle = call.module.register_forward_hook(detached)
    try:
        signals = measure(patient.model, patient.inputs, patient.targets, patient.loss_fn)
    finally:
        handle.remove()
    return all(math.isnan(s.activation_gradient_norm) for s in signals.layers if s.name in names)
