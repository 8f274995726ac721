"""Rules about tokens and attention."""

import math

import numpy as np

from gradients_in_depth.diagnosis.examination import Examination, Layer


def tokens(examination: Examination) -> None:
    """Whether what sets the tokens apart is lost on the way."""
    spreads = [(c.name, c.token_spread) for c, _ in examination.chain if not math.isnan(c.token_spread)]
    if not examination.probe.attention or len(spreads) < 3:
        return
    start, end = spreads[0][1], spreads[-1][1]
    if start < 0.1:
        return
    # With skip connections the tokens keep most of what sets them apart; without, it falls to 0.
    where = [name for name, spread in spreads if spread < 0.1 * start]
    name = "share of the tokens' norm that sets them apart, at the end over the beginning"
    examination.look("rank_collapse", "token_spread", name, end / start, 0.1, math.inf, where)


def attention(examination: Examination) -> None:
    """Whether the softmax has chosen single keys."""
    entropies = [(name, entropy) for name, entropy in examination.probe.attention if not math.isnan(entropy)]
    if not entropies:
        return
    # Scaled logits of unit variance give 0.85 at 16 keys; unscaled ones of 32 dimensions 0.25.
    saturated = [(name, entropy) for name, entropy in entropies if entropy < 0.35]
    value = _median(entropies)
    if len(saturated) > len(entropies) // 4:
        value = min(value, _median(saturated))
    where = [name for name, _ in saturated]
    name = "entropy of the attention, in shares of that of uniform attention"
    examination.look("saturated_attention", "attention_entropy", name, value, 0.35, 1, where)


def _median(named_values: list[tuple[str, float]]) -> float:
    return float(np.median([value for _, value in named_values]))


def post_norm(examination: Examination) -> None:
    """Norms in the residual stream, with a weight gradient that does not fall toward the end."""
    stream = list(dict.fromkeys(examination.probe.norms_in_stream))
    if len(stream) < 5:  # two blocks train without warm-up
        return
    layers = [layer for layer in examination.chain if layer.signals.weight_gradient_norm > 0]
    if len(layers) < 6 or examination.warm_up:
        return
    third = max(1, len(layers) // 3)
    ratio = _median_weight_gradient(layers[-third:]) / _median_weight_gradient(layers[:third])
    # Under Pre-LN it falls toward the end, as depth**-0.5; under Post-LN it does not (Xiong et al. 2020).
    name = "weight gradient in the last third of the layers over that in the first, with Post-LN"
    examination.look("post_norm", "late_weight_gradient", name, ratio, 0, 1.0, stream)


def _median_weight_gradient(layers: list[Layer]) -> float:
    return float(np.median([layer.signals.weight_gradient_norm for layer in layers]))
