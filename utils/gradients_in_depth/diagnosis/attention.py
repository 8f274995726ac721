"""How an attention spreads over its keys."""

import math

import torch
from torch import Tensor

_MOST_EXAMPLES = 16  # are looked at: each has T**2 numbers for each head


def attention_probabilities(
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


def normalized_entropy(probabilities: Tensor) -> float:
    """Mean entropy over rows, each divided by the log of the number of keys that some row like it may see.

    probabilities: (examples, ..., queries, keys). NaN where every row sees one key only.
    """
    p = probabilities[:_MOST_EXAMPLES].double()
    # Masked keys are exactly 0 in every example and head; in a saturated softmax only in some.
    allowed = (p > 0).flatten(0, -3).any(dim=0).sum(dim=-1)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(dim=-1)
    rows = (entropy / allowed.clamp_min(2).log())[..., allowed > 1]
    return rows.nanmean().item() if rows.numel() else math.nan
