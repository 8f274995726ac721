"""`signals.measure` leaves everything as it was, after an error too."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.signals import jacobian_singular_values, measure
from tests.measuring import draws, mean_square


class Restless(nn.Module):
    """Draws, counts, caches, registers, switches modes and calls backward: hard to leave as it was."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Linear(4, 4)
        self.register_buffer("counter", torch.zeros(()))
        self.last_output = "nothing yet"
        self.fails = False

    def forward(self, x):
        self.counter += 1 + random.random() + np.random.rand()  # noqa: NPY002 (models in the wild do)
        hidden = self.dropout(self.linear(self.norm(x)))
        self.last_output = hidden
        if "cache" not in dict(self.named_buffers()):
            self.register_buffer("cache", hidden.detach())
        self.linear.weight.requires_grad_(True)
        self.frozen.bias.requires_grad_(True)
        self.linear(x.detach()).sum().backward()
        self.eval()
        if self.fails:
            raise ArithmeticError("this model's own error")
        return self.frozen(hidden)


def state_of(model):
    """Everything that was promised, with identities; tensors as copies."""
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "grads": {
            name: (id(p.grad), None if p.grad is None else p.grad.clone())
            for name, p in model.named_parameters()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "parameters": {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()},
        "buffers": {name: (id(b), b.clone()) for name, b in model.named_buffers()},
        "attributes": {name: {k: id(v) for k, v in vars(m).items()} for name, m in model.named_modules()},
        "hooks": {
            name: [list(v) for k, v in vars(m).items() if k.endswith("hooks") and v is not None]
            for name, m in model.named_modules()
        },
        "tensor hooks": {name: dict(p._backward_hooks or {}) for name, p in model.named_parameters()},
        "random": (torch.get_rng_state(), str(np.random.get_state()), random.getstate()),  # noqa: NPY002
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_same(before, after, path=""):
    if isinstance(before, dict):
        assert list(before) == list(after), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, tuple | list):
        assert len(before) == len(after), path
        for index, pair in enumerate(zip(before, after, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(before, torch.Tensor):
        assert torch.equal(before, after), path
    else:
        assert before == after, path


def loss_that_fails(outputs):
    raise ArithmeticError("this loss's own error")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("what", ["works", "model raises", "loss raises", "loss is no scalar", "jacobian"])
def test_everything_is_left_as_it_was(what, grad_mode, mode):
    torch.manual_seed(0)
    model = Restless().train(mode == "train")
    model.dropout.train()
    model.linear.weight.grad = torch.full((4, 4), 3.0)
    model.fails = what == "model raises"
    inputs = draws(6, 4).float()
    untouched = inputs.clone()
    with grad_mode():
        before = state_of(model)
        if what == "works":
            measure(model, inputs, None, mean_square)
        elif what == "jacobian":
            jacobian_singular_values(model, inputs)
        elif what == "loss is no scalar":
            with pytest.raises(ValueError, match="one number"):
                measure(model, inputs, None, lambda h: h)
        else:
            with pytest.raises(ArithmeticError, match="own error"):
                measure(model, inputs, None, loss_that_fails if what == "loss raises" else mean_square)
        assert_same(before, state_of(model))
    assert torch.equal(inputs, untouched)
    assert inputs.grad is None


def test_the_result_is_the_same_each_time_and_follows_the_random_state():
    model = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5), nn.Linear(40, 2))
    inputs = draws(5, 4).float()
    first, second = (measure(model, inputs, None, mean_square) for _ in range(2))
    assert first.loss == second.loss
    torch.rand(1)
    assert measure(model, inputs, None, mean_square).loss != first.loss


def test_dropout_and_batch_normalization_run_in_the_present_mode():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    inputs = 3 + draws(50, 4).float()
    norm, dropout = measure(model, inputs, None, mean_square).layers
    assert norm.activation_mean == pytest.approx(0.0, abs=1e-6)
    assert dropout.activation_variance == pytest.approx(2.0, rel=0.3)
    norm, dropout = measure(model.eval(), inputs, None, mean_square).layers
    assert norm.activation_mean == pytest.approx(3.0, rel=0.1)
    assert dropout.activation_variance == norm.activation_variance


def test_a_graph_that_the_caller_holds_can_still_be_differentiated():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    inputs = draws(6, 4).float().requires_grad_()
    hidden = inputs * 2
    loss = mean_square(model(hidden))
    measure(model, hidden, None, mean_square)
    loss.backward()
    assert inputs.grad is not None
    assert model[0].weight.grad is not None


def test_inputs_that_require_a_gradient_give_one_to_the_layers_before_any_parameter():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    inputs = draws(3, 2, 2).float()
    assert math.isnan(measure(model, inputs, None, mean_square).layers[0].activation_gradient_norm)
    inputs.requires_grad_()
    assert measure(model, inputs, None, mean_square).layers[0].activation_gradient_norm > 0
    assert inputs.grad is None


def test_hooks_of_the_caller_stay_and_are_seen():
    model = nn.Sequential(nn.Linear(4, 2))
    calls = []
    model[0].register_forward_hook(lambda module, arguments, output: calls.append(output) or output * 0 + 5)
    (layer,) = measure(model, draws(3, 4).float(), None, mean_square).layers
    assert layer.activation_mean == pytest.approx(5.0)
    model(draws(3, 4).float())
    assert len(calls) == 2
