"""What the course calls by a name: activations and number formats, one list of each for all modules."""

from dataclasses import dataclass

import torch
from torch import nn

from gradients_in_depth.arguments import check_choice

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
FORMATS: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
DTYPES = tuple(FORMATS.values())


def activation_module(name: str) -> nn.Module:
    """A new module of the named activation, with PyTorch's default arguments.

    Raises ValueError, which lists the names, when the name is unknown.
    """
    return ACTIVATIONS[check_choice("activation", name, ACTIVATIONS)]()


@dataclass(frozen=True)
class NumberFormat:
    """The range of a binary floating-point format (IEEE 754-2019; bfloat16 has float32's exponent)."""

    name: str
    smallest_subnormal: float
    smallest_normal: float
    largest: float
    epsilon: float


def number_format(name: str) -> NumberFormat:
    """The range of float16, bfloat16, float32 or float64; raises ValueError for another name."""
    info = torch.finfo(FORMATS[check_choice("number format", name, FORMATS)])
    return NumberFormat(name, info.smallest_normal * info.eps, info.smallest_normal, info.max, info.eps)
