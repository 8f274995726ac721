"""`signals.measure` finds the layers of any module, and says in its notes what it could not measure."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradients_in_depth.networks import Block, DeepMLP
from gradients_in_depth.signals import measure
from tests.measuring import by_name, draws, mean_square


def test_a_container_has_the_shares_of_the_activations_inside_it():
    model = DeepMLP(3, 8, in_features=8, activation="tanh", gain=2.0, skip=True, dtype=torch.float64)
    inputs = draws(10, 8)
    leaves, blocks = (
        by_name(measure(model, inputs, None, mean_square, layers=kind)) for kind in (None, Block)
    )
    for name, block in blocks.items():
        activation = leaves[f"{name}.activation"]
        assert block.kind == "Block"
        assert block.saturated_share == activation.saturated_share > 0
        assert block.activation_variance != pytest.approx(activation.activation_variance)
        assert block.weight_gradient_norm == leaves[f"{name}.linear"].weight_gradient_norm
    dead = DeepMLP(3, 8, in_features=8, activation="relu", dtype=torch.float64)
    with torch.no_grad():
        dead.blocks[1].linear.bias[:6] = -100.0
    assert measure(dead, inputs, None, mean_square, layers=Block).layers[1].dead_share >= 6 / 8


def test_one_activation_in_several_containers_counts_in_each_for_its_own_call():
    relu = nn.ReLU()
    blocks = [nn.Sequential(nn.Linear(4, 4), relu) for _ in range(3)]
    for bias, block in zip((-100.0, 100.0, -100.0), blocks, strict=True):
        nn.init.constant_(block[0].bias, bias)
    signals = measure(nn.Sequential(*blocks), draws(5, 4).float(), None, mean_square, layers=["0", "1", "2"])
    assert signals.series("dead_share").tolist() == [1.0, 0.0, 1.0]
    two = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 12), nn.Tanh()))
    nn.init.constant_(two[0][0].bias, 100.0)
    nn.init.zeros_(two[0][2].weight)
    (pooled,) = measure(two, draws(5, 4).float(), None, mean_square, layers="0").layers
    assert pooled.saturated_share == 4 / 16


def test_layers_by_name_by_class_and_by_several():
    model = DeepMLP(2, 4, in_features=3)
    inputs = draws(5, 3).float()

    def measured(layers):
        return [layer.name for layer in measure(model, inputs, None, mean_square, layers=layers).layers]

    assert measured("readout") == ["readout"]
    assert measured(["readout", "blocks.0"]) == ["blocks.0", "readout"]
    assert measured(nn.Linear) == ["blocks.0.linear", "blocks.1.linear", "readout"]
    assert measured((Block, nn.Tanh))[:2] == ["blocks.0.activation", "blocks.0"]
    assert measured("(model)") == ["(model)"]
    assert measured([]) == []


def test_in_place_activations_do_not_change_what_the_layer_before_them_returned():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
    )
    in_place = copy.deepcopy(model)
    for module in in_place:
        if isinstance(module, nn.ReLU):
            module.inplace = True
    inputs = draws(6, 4).float()
    expected, signals = (measure(m, inputs, None, mean_square) for m in (model, in_place))
    assert signals == expected
    assert signals.notes == ()
    first = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    measure(first, inputs, None, mean_square)
    assert inputs.min() < 0  # the caller's inputs are a copy's


def test_a_view_that_is_changed_in_place_is_reported():
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.ReLU(inplace=True))
    signals = measure(model, draws(3, 4).float(), None, mean_square)
    linear, view, relu = signals.layers
    assert math.isnan(view.activation_gradient_norm)
    assert linear.activation_gradient_norm > 0 < relu.activation_gradient_norm
    assert any("a view that is changed in place" in note and note.endswith(": 1.") for note in signals.notes)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.act = nn.Tanh()

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.layer(x))
        return x


def test_a_module_that_is_called_several_times():
    model = Reused()
    inputs = draws(5, 3).float()
    signals = measure(model, inputs, None, mean_square)
    names = ["layer", "act", "layer#2", "act#2", "layer#3", "act#3"]
    assert [layer.name for layer in signals.layers] == names
    mean_square(model(inputs)).backward()
    for name in ("layer", "layer#2", "layer#3"):
        layer = by_name(signals)[name]
        assert layer.weight_gradient_norm == pytest.approx(model.layer.weight.grad.norm().item())
    assert len(set(signals.series("activation_gradient_norm"))) == 6
    (note,) = signals.notes
    assert note == "Called more than once; its weight gradient is the sum over the calls: layer."


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class ModelOutput(dict):
    """As in transformers: a dict whose entries are attributes too."""

    def __getattr__(self, name):
        return self[name]


CONTAINERS = {
    "tuple": lambda h: (h, h * 2),
    "list": lambda h: [torch.arange(3), [h]],
    "dict": lambda h: {"step": 3, "nested": {"h": h}},
    "dataclass": lambda h: Output(h.sum(), h),
    "ModelOutput": lambda h: ModelOutput(loss=h.sum(), logits=h),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_modules_that_return_more_than_a_tensor(container):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return CONTAINERS[container](self.linear(x))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            inner = self.inner(x)
            return {
                "tuple": lambda: inner[0],
                "list": lambda: inner[1][0],
                "dict": lambda: inner["nested"]["h"],
            }.get(container, lambda: inner.logits)()

    model, inputs = Outer(), draws(4, 3).float()
    signals = measure(model, inputs, None, mean_square, layers=["inner", "inner.linear"])
    linear, inner = signals.layers
    for name in ("activation_mean", "activation_variance", "cosine", "activation_gradient_norm"):
        assert getattr(inner, name) == getattr(linear, name), name
    assert any("first floating-point tensor in the" in note and "inner" in note for note in signals.notes)


def test_modules_that_return_nothing_to_measure():
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    class Indices(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing, self.indices, self.linear = Nothing(), Indices(), nn.Linear(3, 2)

        def forward(self, x):
            self.nothing(x), self.indices(x)
            return self.linear(x)

    signals = measure(Model(), draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["linear"]
    assert signals.notes == (
        "Not measured, because there is no plain floating-point tensor in the NoneType it returns: nothing.",
        "Not measured, because there is no plain floating-point tensor in the Tensor it returns: indices.",
    )


def test_integer_inputs_to_an_embedding_and_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.readout = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.readout.weight = self.embedding.weight

        def forward(self, tokens):
            return self.readout(self.embedding(tokens))

    model, tokens = Tied(), torch.tensor([[0, 1], [2, 6]])
    signals = measure(model, tokens, tokens, lambda out, t: F.cross_entropy(out.flatten(0, 1), t.flatten()))
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    embedding, readout = signals.layers
    norm = model.embedding.weight.grad.norm().item()
    assert embedding.weight_gradient_norm == readout.weight_gradient_norm == pytest.approx(norm, rel=1e-5)
    assert [parameter.name for parameter in signals.parameters] == ["embedding.weight"]
    (note,) = signals.notes
    assert note.startswith("One parameter under several names")
    assert note.endswith("embedding.weight, readout.weight.")
    sparse = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 2))
    assert measure(sparse, tokens, None, mean_square).layers[0].weight_gradient_norm > 0


def test_frozen_unused_uncalled_and_detached_parts_are_reported():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.trunk, self.lost, self.detached, self.head = (nn.Linear(3, 3) for _ in range(4))
            self.uncalled, self.inside_no_grad = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = self.trunk(self.frozen(x))
            self.lost(x)
            with torch.no_grad():
                y = self.inside_no_grad(x)
            return self.head(x + y + self.detached(x).detach())

    signals = measure(Parts(), draws(4, 3).float(), None, mean_square, learning_rate=0.1)
    layers = by_name(signals)
    assert list(layers) == ["frozen", "trunk", "lost", "inside_no_grad", "detached", "head"]
    for name, layer in layers.items():
        assert math.isnan(layer.activation_gradient_norm) == (name not in ("trunk", "head"))
        assert math.isnan(layer.weight_gradient_norm) == (name not in ("trunk", "head"))
        assert math.isnan(layer.update_ratio) == (name not in ("trunk", "head"))
        assert layer.activation_variance > 0
    assert signals.notes == (
        "No activation gradient, because nothing trainable comes before the output: frozen.",
        "No activation gradient, because the loss does not depend on the output (unused, or detached later): "
        "lost, detached.",
        "No activation gradient, because the output is detached although parameters inside are trainable: "
        "inside_no_grad.",
        "Not measured, because it is not called as a module: uncalled.",
        "Frozen: frozen.weight, frozen.bias.",
        "No weight gradient, because the loss does not depend on it: lost.weight, lost.bias, "
        "detached.weight, detached.bias, uncalled.weight, uncalled.bias, inside_no_grad.weight, "
        "inside_no_grad.bias.",
    )
    frozen = {parameter.name for parameter in signals.parameters if parameter.frozen}
    assert frozen == {"frozen.weight", "frozen.bias"}
    named = measure(Parts(), draws(4, 3).float(), None, mean_square, layers=["uncalled", "head"])
    assert [layer.name for layer in named.layers] == ["head"]
    assert "Not measured, because it is not called as a module: uncalled." in named.notes


def test_a_long_list_of_names_is_cut():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(6)], nn.Linear(2, 2)).requires_grad_(False)
    model[6].requires_grad_(True)
    notes = measure(model, draws(3, 2).float(), None, mean_square).notes
    assert notes[1].endswith("3.weight, 3.bias and 4 more.")


def test_losses_that_are_detached_or_not_finite_are_reported():
    model, inputs = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), draws(4, 3).float()
    signals = measure(model, inputs, None, lambda out: mean_square(out.detach()))
    assert signals.notes[0].startswith("No gradient at all, because the loss is detached")
    assert np.isnan(signals.series("activation_gradient_norm")).all()
    assert not np.isnan(signals.series("activation_variance")).any()
    signals = measure(model, inputs, None, lambda out: mean_square(out) * math.nan)
    assert signals.notes[:2] == (
        "The loss is nan.",
        "NaN or infinity in the gradient, here first on the way back: 1.",
    )
    assert math.isnan(signals.loss)
    assert math.isnan(signals.layers[0].weight_gradient_norm)
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    signals = measure(model, inputs, None, mean_square)
    assert "NaN or infinity in the output, here first: 0." in signals.notes


def test_layers_are_what_calls_no_other_module():
    class Weights(nn.Module):
        """Keeps its weights in a ParameterList, a child that is never called."""

        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.eye(3) for _ in range(2)])

        def forward(self, x):
            return x @ self.weights[0] @ self.weights[1]

    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3, bias=False))
    model = nn.Sequential(Weights(), normed, spectral, nn.Sequential(nn.Linear(3, 2)))
    signals = measure(model, draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["0", "1", "2", "3.0"]
    assert signals.layers[0].weight_norm == pytest.approx(math.sqrt(6))
    assert signals.notes == ()
    (alone,) = measure(nn.Linear(3, 2), draws(4, 3).float(), None, mean_square).layers
    assert (alone.name, alone.kind) == ("(model)", "Linear")


def test_an_error_that_the_model_catches():
    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad, self.good = nn.Linear(99, 2), nn.Linear(3, 2)

        def forward(self, x):
            try:
                return self.bad(x)
            except RuntimeError:
                return self.good(x)

    signals = measure(Catches(), draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["good"]


def test_checkpoints_second_derivatives_and_calls_from_the_loss_are_not_recorded_twice():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(lambda z: torch.tanh(self.linear(z)), x, use_reentrant=False)

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(self.linear(x)).sum(), x, create_graph=True)
            return slope

    inputs = draws(4, 3).float()

    def loss_that_calls_the_model(model):
        def loss(outputs):
            x = inputs.clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(model.linear(x)).sum(), x, create_graph=True)
            torch.autograd.grad(outputs.sum(), model.linear.weight, retain_graph=True)
            return mean_square(outputs) + 0 * mean_square(slope)

        return loss

    for model in (Checkpointed(), Slope()):
        kept = []

        def keep(module, arguments, output, kept=kept):
            output.retain_grad()
            kept.append(output)

        handle = model.linear.register_forward_hook(keep)
        outputs = model(inputs)
        kept[0].grad = None  # that of the derivative inside the model
        mean_square(outputs).backward()
        handle.remove()
        expected = kept[0].grad.norm().item()
        for loss in (mean_square, loss_that_calls_the_model(model)):
            (layer,) = measure(model, inputs, None, loss, layers="linear").layers
            assert layer.name == "linear"
            assert layer.activation_gradient_norm == pytest.approx(expected, rel=1e-5)


def test_vmap_inside_a_model_is_reported():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.outer(torch.vmap(self.inner)(x))

    signals = measure(Mapped(), draws(4, 3).float(), None, mean_square)
    assert [layer.name for layer in signals.layers] == ["outer"]
    assert any(note.startswith("Not measured") and "inner" in note for note in signals.notes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_in_other_dtypes(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    exact = copy.deepcopy(model).double()
    inputs = draws(16, 6).to(dtype)
    signals = measure(model, inputs, None, lambda out: out.float().square().mean())
    expected = measure(exact, inputs.double(), None, mean_square)
    for name in ("activation_variance", "cosine", "activation_gradient_norm", "weight_gradient_norm"):
        np.testing.assert_allclose(signals.series(name), expected.series(name), rtol=0.05, atol=0.01)


def test_complex_weights():
    model = nn.Linear(3, 2, dtype=torch.complex64)
    signals = measure(model, draws(4, 3).to(torch.complex64), None, lambda out: out.abs().mean())
    assert signals.layers == ()
    assert signals.parameters[0].norm == pytest.approx(
        model.weight.detach().abs().square().sum().sqrt().item()
    )
    assert signals.parameters[0].gradient_norm > 0


def test_convolutions():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2)
    )
    signals = measure(model, draws(5, 1, 4, 4).float(), None, mean_square, learning_rate=0.1)
    assert signals.notes == ()
    assert [layer.kind for layer in signals.layers] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert not np.isnan(signals.series("activation_gradient_norm")).any()


def test_several_arguments_by_position_and_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x, scale=1.0, shift=None):
            return self.linear(x) * scale + (0 if shift is None else shift)

    model, inputs, shift = Two(), draws(4, 3).float(), torch.ones(2)
    losses = [
        measure(model, given, None, mean_square).loss
        for given in ((inputs, 2.0, shift), [inputs, 2.0, shift], {"x": inputs, "scale": 2.0, "shift": shift})
    ]
    assert losses == [mean_square(model(inputs, 2.0, shift)).item()] * 3
