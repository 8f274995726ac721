"""Bad arguments of `signals` raise one clear sentence; the model's own errors pass unchanged."""

import math
import re

import pytest
import torch
from torch import nn

from gradients_in_depth.networks import DeepMLP
from gradients_in_depth.signals import (
    flow,
    jacobian_singular_values,
    matrix_products,
    measure,
    running_product,
)
from tests.measuring import mean_square


def model_and_inputs():
    return nn.Linear(3, 2), torch.ones(4, 3)


class Lists(nn.Module):
    def forward(self, x):
        return [x]


BAD = {
    "no model": (
        lambda m, x: measure("m", x, None, mean_square),
        TypeError,
        "model must be a torch.nn.Module, and not TorchScript, got str.",
    ),
    "no inputs": (
        lambda m, x: measure(m, 3, None, mean_square),
        TypeError,
        "inputs must be a tensor, a tuple of positional arguments, or a dict of keyword arguments, got int.",
    ),
    "empty": (
        lambda m, x: measure(m, x[:0], None, mean_square),
        ValueError,
        "inputs must hold at least one example, got shape (0, 3).",
    ),
    "NaN": (
        lambda m, x: measure(m, x * math.nan, None, mean_square),
        ValueError,
        "inputs must not contain NaN, got it in 12 places.",
    ),
    "integers": (
        lambda m, x: measure(m, x.long(), None, mean_square),
        TypeError,
        "inputs must have the dtype of the model, torch.float32, got torch.int64.",
    ),
    "double": (
        lambda m, x: measure(m, x.double(), None, mean_square),
        TypeError,
        "inputs must have the dtype of the model, torch.float32, got torch.float64.",
    ),
    "no loss": (
        lambda m, x: measure(m, x),
        TypeError,
        "loss_fn must be a function of (outputs, targets), or of (outputs) when there are no targets, "
        "such as torch.nn.functional.cross_entropy; got None.",
    ),
    "loss of many": (
        lambda m, x: measure(m, x, None, lambda h: h),
        ValueError,
        "loss_fn must return one number, such as a mean, got shape (4, 2).",
    ),
    "loss no tensor": (
        lambda m, x: measure(m, x, None, lambda h: h.sum().item()),
        TypeError,
        "loss_fn must return a floating-point tensor (without .item()), got float.",
    ),
    "loss an integer": (
        lambda m, x: measure(m, x, None, lambda h: h.argmax()),
        TypeError,
        "loss_fn must return a floating-point tensor (without .item()), got torch.int64.",
    ),
    "learning rate": (
        lambda m, x: measure(m, x, None, mean_square, learning_rate=-1.0),
        ValueError,
        "learning_rate must be a finite number of at least 0.0, got -1.0.",
    ),
    "unknown layer": (
        lambda m, x: measure(DeepMLP(1, 2), x, None, mean_square, layers="block.0"),
        ValueError,
        "layers must be names or classes of modules in the model, which are (model), blocks, blocks.0, "
        "blocks.0.linear, blocks.0.activation, readout; got 'block.0'.",
    ),
    "unknown class": (
        lambda m, x: measure(DeepMLP(1, 2), x, None, mean_square, layers=nn.Conv2d),
        ValueError,
        "layers must be names or classes of modules in the model, which are Block, DeepMLP, Linear, "
        "ModuleList, Tanh; got <class 'torch.nn.modules.conv.Conv2d'>.",
    ),
    "neither": (
        lambda m, x: measure(m, x, None, mean_square, layers=[3]),
        ValueError,
        "layers must be names or classes of modules in the model, which are (model); got 3.",
    ),
    "not iterable": (
        lambda m, x: measure(m, x, None, mean_square, layers=3),
        TypeError,
        "layers must be None, names or classes of modules, got 3.",
    ),
    "lazy": (
        lambda m, x: measure(nn.Sequential(nn.LazyLinear(2)), x, None, mean_square),
        ValueError,
        "The model must have values, got none yet for 0.weight: run it once before.",
    ),
    "meta": (
        lambda m, x: measure(nn.Linear(3, 2, device="meta"), x, None, mean_square),
        ValueError,
        "The model must have values, got none yet for weight: run it once before.",
    ),
    "batch of one": (
        lambda m, x: measure(nn.BatchNorm1d(3), x[:1], None, mean_square),
        ValueError,
        "Batch normalization in train mode needs at least 2 examples, got 1: "
        "give a batch, or call model.eval().",
    ),
    "jacobian of a batch of one": (
        lambda m, x: jacobian_singular_values(nn.BatchNorm1d(3), x[0]),
        ValueError,
        "Batch normalization in train mode needs at least 2 examples, got 1: "
        "give a batch, or call model.eval().",
    ),
    "jacobian by integers": (
        lambda m, x: jacobian_singular_values(m, x.long()),
        TypeError,
        "inputs must be floating-point to be differentiated, got torch.int64.",
    ),
    "jacobian by no tensor": (
        lambda m, x: jacobian_singular_values(m, [1.0]),
        TypeError,
        "inputs must be a torch.Tensor, got list.",
    ),
    "jacobian at infinity": (
        lambda m, x: jacobian_singular_values(m, x / 0),
        ValueError,
        "inputs must be finite, got NaN or infinity in 12 places.",
    ),
    "jacobian of a number": (
        lambda m, x: jacobian_singular_values(m, x[0, 0]),
        ValueError,
        "inputs must hold at least one example, got shape ().",
    ),
    "jacobian of another dtype": (
        lambda m, x: jacobian_singular_values(m, x.double()),
        TypeError,
        "inputs must have the dtype of the model, torch.float32, got torch.float64.",
    ),
    "jacobian of nothing": (
        lambda m, x: jacobian_singular_values(nn.Sequential(m, Argmax()), x),
        ValueError,
        "The model must return rows of floating-point numbers that depend on the inputs, "
        "4 as the inputs; got none.",
    ),
    "jacobian of a sum": (
        lambda m, x: jacobian_singular_values(nn.Sequential(m, nn.Flatten(0)), x),
        ValueError,
        "The model must return rows of floating-point numbers that depend on the inputs, "
        "4 as the inputs; got shape (8,).",
    ),
    "jacobian of no model": (
        lambda m, x: jacobian_singular_values(None, x),
        TypeError,
        "model must be a torch.nn.Module, and not TorchScript, got NoneType.",
    ),
    "flow of other shapes": (
        lambda m, x: flow(torch.ones(2, 3, 3), torch.ones(4, 2), "tanh", torch.ones(4, 3)),
        ValueError,
        None,
    ),
    "unknown format": (lambda m, x: running_product(0.5, 3, "float8"), ValueError, None),
    "no factors": (lambda m, x: running_product(0.5, 0, "float16"), ValueError, None),
    "no matrices": (lambda m, x: matrix_products(torch.ones(3, 3)), ValueError, None),
    "integer matrices": (lambda m, x: matrix_products(torch.ones(2, 3, 3).long()), TypeError, None),
}


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(1)


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_raise_one_clear_sentence(case):
    call, error, sentence = BAD[case]
    with pytest.raises(error) as raised:
        call(*model_and_inputs())
    assert type(raised.value) is error
    if sentence is not None:
        assert str(raised.value) == sentence
    assert re.fullmatch(r"[^\n]+\.", str(raised.value))


def test_inference_mode_is_refused_in_a_sentence():
    model, inputs = model_and_inputs()
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=r"inference_mode\(\) forbids gradients: measure outside"):
            measure(model, inputs, None, mean_square)
        made_inside, inputs_inside = model_and_inputs()
    with pytest.raises(ValueError, match="weight was made in inference mode, which forbids gradients: clone"):
        measure(made_inside, inputs, None, mean_square)
    with pytest.raises(
        ValueError, match="inputs were made in inference mode, which forbids gradients: clone"
    ):
        measure(model, inputs_inside, None, mean_square)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match="and not TorchScript, got RecursiveScriptModule"):
        measure(torch.jit.script(nn.Linear(3, 2)), torch.ones(4, 3), None, mean_square)


def test_the_models_own_errors_pass_unchanged():
    error = RuntimeError("of the model itself, of whatever type")

    class Fails(nn.Linear):
        def forward(self, x):
            raise error

    for call in (
        lambda m: measure(m, torch.ones(4, 3), None, mean_square),
        lambda m: jacobian_singular_values(m, torch.ones(4, 3)),
    ):
        with pytest.raises(RuntimeError) as raised:
            call(Fails(3, 2))
        assert raised.value is error
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        measure(nn.Linear(3, 2), torch.ones(4, 5), None, mean_square)
