"""`signals.measure` on attention, Transformers and recurrent networks, of torch and of the course."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from gradients_in_depth.networks import RecurrentNetwork, Transformer, TransformerBlock
from gradients_in_depth.signals import measure
from tests.measuring import draws, mean_square


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_recurrent_layers(kind, mode):
    model = kind(3, 4, num_layers=2, batch_first=True).train(mode == "train")
    inputs = draws(5, 6, 3).float()
    signals = measure(model, inputs, None, lambda out: mean_square(out[0]))
    (layer,) = signals.layers
    mean_square(model(inputs)[0]).backward()
    weights = [p for n, p in model.named_parameters() if "weight" in n]
    assert layer.weight_norm == pytest.approx(
        torch.cat([p.flatten() for p in weights]).norm().item(), rel=1e-5
    )
    gradients = torch.cat([p.grad.flatten() for p in weights])
    assert layer.weight_gradient_norm == pytest.approx(gradients.norm().item(), rel=1e-5)
    assert layer.activation_mean == pytest.approx(model(inputs)[0].mean().item(), rel=1e-5)
    assert len(signals.parameters) == 8
    assert not any("time" in note for note in signals.notes)
    time_first = measure(kind(3, 4), inputs, None, lambda out: mean_square(out[0]))
    assert any("compares time steps: (model)" in note for note in time_first.notes)


def test_a_packed_sequence_as_input_and_output():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.readout = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.readout(pad_packed_sequence(self.lstm(x)[0])[0])

    packed = pack_sequence([draws(5, 3).float(), draws(2, 3).float()])
    signals = measure(Packed(), packed, None, mean_square)
    assert [layer.name for layer in signals.layers] == ["lstm", "readout"]
    assert signals.layers[0].activation_gradient_norm > 0
    assert any("compares time steps: lstm" in note for note in signals.notes)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_attention(mode):
    model = nn.MultiheadAttention(4, 2, batch_first=True).train(mode == "train")
    inputs = draws(3, 5, 4).float()
    (layer,) = measure(model, (inputs, inputs, inputs), None, lambda out: mean_square(out[0])).layers
    outputs, _ = model(inputs, inputs, inputs)
    mean_square(outputs).backward()
    gradients = [model.in_proj_weight.grad.norm().item(), model.out_proj.weight.grad.norm().item()]
    assert layer.weight_gradient_norm == pytest.approx(math.hypot(*gradients), rel=1e-5)
    assert layer.activation_variance == pytest.approx(outputs.var(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_transformer_is_seen_in_full_also_where_torch_has_a_fast_path(mode, frozen):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(mode == "train").requires_grad_(not frozen)
    inputs, mask = draws(3, 5, 8).float(), torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    signals = measure(model, {"src": inputs, "src_key_padding_mask": mask}, None, mean_square)
    parts = ["self_attn", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"]
    assert [layer.name for layer in signals.layers] == [
        f"layers.{i}.{part}" for i in (0, 1) for part in parts
    ]
    assert all(math.isnan(layer.activation_gradient_norm) == frozen for layer in signals.layers)
    assert any("No gradient at all" in note for note in signals.notes) == frozen
    blocks = measure(model, inputs, None, mean_square, layers=nn.TransformerEncoderLayer)
    assert [layer.name for layer in blocks.layers] == ["layers.0", "layers.1"]


@pytest.mark.parametrize("norm_placement", ["pre", "post", None])
def test_our_transformer_is_measured_block_by_block(norm_placement):
    model = Transformer(3, 8, num_heads=2, norm_placement=norm_placement, dtype=torch.float64)
    inputs = draws(4, 8, 8, seed=1)
    signals = measure(model, inputs, None, mean_square, layers=TransformerBlock)
    assert [layer.name for layer in signals.layers] == ["blocks.0", "blocks.1", "blocks.2"]
    assert not signals.notes
    stream = [model.embedding(inputs) + model.positions]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    for h in stream:
        h.retain_grad()
    last = stream[-1] if model.norm is None else model.norm(stream[-1])
    mean_square(model.readout(last.mean(dim=1))).backward()
    for layer, h, block in zip(signals.layers, stream[1:], model.blocks, strict=True):
        weights = [p.grad.norm().item() for p in block.parameters() if p.ndim > 1]
        assert layer.activation_variance == pytest.approx(h.var(correction=0).item())
        assert layer.activation_gradient_norm == pytest.approx(h.grad.norm().item())
        assert layer.weight_gradient_norm == pytest.approx(math.hypot(*weights))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_any_encoder_of_torch_is_measured_as_it_comes(norm_first, batch_first, activation):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, 0.1, activation, norm_first=norm_first, batch_first=batch_first
    )
    model = nn.TransformerEncoder(layer, 3, nn.LayerNorm(8), enable_nested_tensor=False)
    inputs, state = draws(4, 5, 8).float(), copy.deepcopy(model.state_dict())
    model.eval()
    signals = measure(model, inputs, None, mean_square_of_half, layers=nn.TransformerEncoderLayer)
    assert [layer.name for layer in signals.layers] == ["layers.0", "layers.1", "layers.2"]
    h, stream = inputs, []
    for block in model.layers:
        h = block(h)
        h.retain_grad()
        stream.append(h)
    mean_square_of_half(model.norm(h)).backward()
    for found, h in zip(signals.layers, stream, strict=True):
        assert found.activation_variance == pytest.approx(h.var(correction=0).item(), rel=1e-5)
        assert found.activation_gradient_norm == pytest.approx(h.grad.norm().item(), rel=1e-4)
    by_parameter = {parameter.name: parameter.gradient_norm for parameter in signals.parameters}
    for name, parameter in model.named_parameters():
        assert by_parameter[name] == pytest.approx(parameter.grad.norm().item(), rel=1e-4, abs=1e-9)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def mean_square_of_half(outputs):
    """Of half of the features: of all, a normalized output has a mean square of 1, whatever it is."""
    return outputs[..., :4].square().mean()


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_cell_that_is_called_once_for_each_step_is_measured_once_for_each_step(cell):
    """The gradient by the state after each step, against autograd on the same steps written out."""
    model = RecurrentNetwork(cell, 5, in_features=3, out_features=2, seed=0, dtype=torch.float64)
    inputs = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = measure(model, inputs, loss_fn=lambda outputs: outputs.square().mean(), layers="cell")
    assert [layer.name for layer in found.layers] == ["cell", *(f"cell#{k}" for k in range(2, 7))]
    state, outputs = model.cell.start(4), []
    for x in inputs.unbind(dim=1):
        state = model.cell(x, state)
        outputs.append(state[0] if cell == "lstm" else state)
    loss = model.readout(outputs[-1]).square().mean()
    gradients = torch.autograd.grad(loss, outputs)
    norms = [gradient.norm().item() for gradient in gradients]
    np.testing.assert_allclose(found.series("activation_gradient_norm"), norms, rtol=1e-9)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_network_of_torch_is_measured_as_it_comes(kind):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = kind(3, 5, batch_first=True, dtype=torch.float64)
            self.readout = nn.Linear(5, 2, dtype=torch.float64)

        def forward(self, x):
            return self.readout(self.recurrent(x)[0][:, -1])

    torch.manual_seed(0)
    model, inputs = Reader(), torch.randn(4, 6, 3, dtype=torch.float64)
    found = measure(model, inputs, loss_fn=lambda outputs: outputs.square().mean())
    assert [layer.kind for layer in found.layers] == [kind.__name__, "Linear"]
    model(inputs).square().mean().backward()
    norms = [p.grad.norm().item() for p in model.recurrent.parameters() if p.ndim > 1]
    assert found.layers[0].weight_gradient_norm == pytest.approx(np.linalg.norm(norms))
