"""Recurrent networks compute what torch's own do."""

import pytest
import torch
from torch import nn

from gradients_in_depth.data import gaussian_batch
from gradients_in_depth.networks import (
    CELLS,
    RecurrentNetwork,
)

TORCHS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def torchs_own(cell: str, model: RecurrentNetwork) -> nn.Module:
    """PyTorch's network with the model's weights."""
    own = TORCHS[cell](3, 8, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for theirs, ours in (("ih", model.cell.from_input), ("hh", model.cell.from_state)):
            getattr(own, f"weight_{theirs}_l0").copy_(ours.weight)
            getattr(own, f"bias_{theirs}_l0").copy_(ours.bias)
    return own


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [1, 7])
def test_recurrent_networks_equal_those_of_torch(cell, length):
    model = RecurrentNetwork(cell, 8, in_features=3, out_features=2, seed=1, dtype=torch.float64)
    with torch.no_grad():  # biases, too, that differ in all places
        model.cell.from_input.bias += gaussian_batch(1, len(model.cell.from_input.bias), seed=2)[0]
        model.cell.from_state.bias += gaussian_batch(1, len(model.cell.from_state.bias), seed=3)[0]
    own, inputs = torchs_own(cell, model), gaussian_batch(5 * length, 3, seed=4).reshape(5, length, 3)
    last = own(inputs)[0][:, -1]
    torch.testing.assert_close(model(inputs), model.readout(last), rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(model(inputs).square().sum(), model.cell.from_state.weight)
    theirs = torch.autograd.grad(model.readout(own(inputs)[0][:, -1]).square().sum(), own.weight_hh_l0)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, -2.5])
def test_the_forget_bias_is_in_the_rows_of_the_forget_gate_alone(forget_bias):
    cell = RecurrentNetwork("lstm", 5, forget_bias=forget_bias).cell
    assert cell.from_input.bias.tolist() == [0.0] * 5 + [forget_bias] * 5 + [0.0] * 10
    assert not cell.from_state.bias.any()
    h, c = cell(torch.zeros(2, 4), (torch.zeros(2, 5), torch.ones(2, 5)))
    torch.testing.assert_close(c, torch.full((2, 5), torch.sigmoid(torch.tensor(forget_bias)).item()))


@pytest.mark.parametrize("cell", CELLS)
def test_each_gate_has_its_own_rotation(cell):
    gates = RecurrentNetwork(cell, 6, gain=1.5, dtype=torch.float64).cell.from_state.weight.detach().split(6)
    for gate in gates:
        torch.testing.assert_close(gate @ gate.T, 1.5**2 * torch.eye(6, dtype=torch.float64))
    assert all(not torch.allclose(gates[0], gate) for gate in gates[1:])


def test_recurrent_networks_are_decided_by_their_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (RecurrentNetwork("gru", 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert name.endswith("bias") or not torch.equal(a, c)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_networks_run_side_by_side(cell):
    models = [RecurrentNetwork(cell, 4, seed=seed, dtype=torch.float64) for seed in range(3)]
    inputs = gaussian_batch(10, 4, seed=0).reshape(2, 5, 4)
    state = torch.func.stack_module_state(models)
    together = torch.func.vmap(lambda s: torch.func.functional_call(models[0], s, (inputs,)))(state)
    torch.testing.assert_close(together, torch.stack([model(inputs) for model in models]))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"cell": "elman"}, ValueError, "cell must be one of rnn, lstm, gru; got 'elman'."),
        ({"width": 0}, ValueError, "width must be an integer of at least 1, got 0."),
        ({"in_features": 0}, ValueError, "in_features must be an integer of at least 1, got 0."),
        ({"out_features": 1.5}, TypeError, "out_features must be an integer of at least 1, got 1.5."),
        ({"gain": "1"}, TypeError, "gain must be a finite number, got '1'."),
        ({"forget_bias": 1.0}, ValueError, "cell must be lstm when there is a forget_bias, got 'rnn'."),
        (
            {"cell": "lstm", "forget_bias": float("nan")},
            ValueError,
            "forget_bias must be a finite number, got nan.",
        ),
        ({"seed": -1}, ValueError, "seed must be an integer from 0 to 2**32 - 1, got -1."),
    ],
)
def test_bad_arguments_of_recurrent_networks_get_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as caught:
        RecurrentNetwork(**({"cell": "rnn", "width": 4} | arguments))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("inputs", "error", "sentence"),
    [
        (None, TypeError, "inputs must be a torch.Tensor, got NoneType."),
        (torch.zeros(2, 5, 4).half(), TypeError, "inputs must have the network's dtype torch.float32, got"),
        (
            torch.zeros(2, 4),
            ValueError,
            "inputs must have shape (batch, length, 4) with batch >= 1 and",
        ),
        (torch.zeros(2, 0, 4), ValueError, "inputs must have shape (batch, length, 4) with batch >= 1 and"),
        (torch.zeros(2, 5, 3), ValueError, "inputs must have shape (batch, length, 4) with batch >= 1 and"),
    ],
)
def test_bad_inputs_of_recurrent_networks_get_one_sentence(inputs, error, sentence):
    with pytest.raises(error) as caught:
        RecurrentNetwork("rnn", 4)(inputs)
    assert str(caught.value).startswith(sentence)
