"""What the tests of `signals` share."""

import torch


def mean_square(outputs):
    return outputs.square().mean()


def by_name(signals):
    return {layer.name: layer for layer in signals.layers}


def draws(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
