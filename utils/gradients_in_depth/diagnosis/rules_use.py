"""Rules about how the model is used: the number format, the mode, the learning rate."""

import math

import numpy as np
from torch import nn

from gradients_in_depth.diagnosis.examination import Examination
from gradients_in_depth.diagnosis.probe import BATCH_NORMS

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def range_of_format(examination: Examination) -> None:
    """Entries of the gradient that a short number format cannot hold."""
    number_format = examination.number_format
    if number_format not in ("float16", "bfloat16"):
        return
    shares = [(c.name, s.underflow[number_format]) for c, s in examination.chain]
    shares = [(name, share) for name, share in shares if not math.isnan(share)]
    if not shares:
        return
    value = float(np.median([share for _, share in shares]))
    where = [name for name, share in shares if share > 0.1]
    name = f"share of the gradient's entries that become 0 in {number_format}, median over layers"
    # Entries are spread around their root mean square: a tenth of them below the range puts that near it.
    examination.look("underflow", "underflow_share", name, value, 0, 0.1, where)


def mode(examination: Examination) -> None:
    """Batch normalization or dropout that still train while the model is evaluated."""
    modules = [
        (name, module)
        for module, name in examination.probe.names.items()
        if (isinstance(module, BATCH_NORMS) and module.track_running_stats)
        or (isinstance(module, _DROPOUTS) and module.p > 0)
    ]
    if not examination.evaluation or not modules:
        return
    training = [name for name, module in modules if module.training]
    change = _change_by_eval(examination) if training else 0.0
    name = "relative change of the outputs when the model is put into eval mode"
    examination.look("forgotten_eval", "change_by_eval", name, change, 0, 0.01, training)


def _change_by_eval(examination: Examination) -> float:
    """NaN where the outputs cannot be compared."""
    model = examination.patient.model
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        probe, _ = examination.patient.examine()
    finally:
        for module in training:
            module.training = True
    before, after = examination.probe.output, probe.output
    if before is None or after is None or before.shape != after.shape:
        return math.nan
    return ((before - after).norm() / after.norm().clamp_min(1e-30)).item()


def learning_rate(examination: Examination) -> None:
    """The size of one step of SGD beside the size of the weights."""
    ratios = [
        (p.name, p.update_ratio)
        for p in examination.signals.parameters
        if p.update_ratio is not None
        and math.isfinite(p.update_ratio)
        and p.gradient is not None
        and p.gradient.ndim >= 2
    ]
    if ratios:
        value = float(np.median([ratio for _, ratio in ratios]))
        name = "update ratio lr * |gradient| / |weight|, median over the weights"
        # The rule of thumb is 1e-3; the healthy networks of the benchmark, with SGD at 0.01 to 0.1,
        # are at 5e-4 to 8e-2. Beyond 0.3 a step replaces the weights.
        where = [name for name, _ in ratios]
        examination.look("learning_rate", "update_ratio", name, value, 1e-5, 0.3, where)
