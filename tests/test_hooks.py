"""One recorder: which calls it tells of, what it calls them, and that nothing is left of it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradients_in_depth import diagnose, measure
from gradients_in_depth.hooks import Call, Listener, Recorder, first_tensor, listed
from tests.measuring import mean_square


class Log(Listener):
    """What a listener hears, in the order in which it hears it."""

    def __init__(self, recorder):
        self.recorder, self.heard = recorder, []
        recorder.listeners.append(self)

    def call_starts(self, call, arguments, keywords):
        self.heard.append(("starts", call.name, [outer.name for outer in self.recorder.open]))

    def call_ends(self, call, arguments, keywords, output):
        self.heard.append(("ends", call.name, call.is_leaf))

    def activation_returns(self, module, output):
        self.heard.append(("returns", type(module).__name__, [call.name for call in self.recorder.open]))


def record(model, inputs, activations=(), phase="forward", watched=None):
    recorder = Recorder(model)
    log = Log(recorder)
    with recorder.hooks(list(model.modules()) if watched is None else watched, activations):
        recorder.phase = phase
        model(inputs)
    return recorder, log.heard


X = torch.ones(2, 3)


def test_calls_are_told_from_the_outside_in_and_named_as_the_model_names_them():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh()))
    recorder, heard = record(model, X)
    assert heard == [
        ("starts", "(model)", ["(model)"]),
        ("starts", "0", ["(model)", "0"]),
        ("ends", "0", True),
        ("starts", "1", ["(model)", "1"]),
        ("starts", "1.0", ["(model)", "1", "1.0"]),
        ("ends", "1.0", True),
        ("ends", "1", False),
        ("ends", "(model)", False),
    ]
    assert [call.name for call in recorder.calls] == ["0", "1.0", "1", "(model)"]
    assert recorder.open == []


def test_a_call_has_its_number_from_its_start_also_where_a_module_calls_itself():
    class Twice(nn.Module):
        def forward(self, x, deep=True):
            return self(x, deep=False) + 1 if deep else x

    recorder, _ = record(nn.Sequential(Twice(), nn.Identity()), X)
    assert [(call.name, call.is_leaf) for call in recorder.calls] == [
        ("0#2", True),
        ("0", False),
        ("1", True),
        ("(model)", False),
    ]


def test_a_module_under_two_names_has_its_first():
    linear = nn.Linear(3, 3)
    recorder, _ = record(nn.Sequential(linear, linear), X)
    assert [call.name for call in recorder.calls] == ["0", "0#2", "(model)"]


def test_a_call_that_ends_in_an_error_counts_and_is_not_told_to_end():
    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad = nn.Linear(99, 2)

        def forward(self, x):
            try:
                return self.bad(x)
            except RuntimeError:
                return x

    model = Catches()
    recorder, _ = record(model, X)
    assert [(call.name, call.is_leaf) for call in recorder.calls] == [("(model)", False)]
    assert recorder.times_called == {model: 1, model.bad: 1}


@pytest.mark.parametrize("phase", ["idle", "loss", "backward"])
def test_only_the_forward_pass_is_told_of(phase):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    recorder, heard = record(model, X, activations=[model[1]], phase=phase)
    assert heard == [] and recorder.calls == [] and not recorder.times_called


@pytest.mark.parametrize("is_watched", [True, False])
def test_an_activation_is_told_inside_all_open_calls(is_watched):
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    watched = [model[0], *([model[0][1]] if is_watched else [])]
    _, heard = record(model, X, activations=[model[0][1]], watched=watched)
    (told,) = [entry for entry in heard if entry[0] == "returns"]
    assert told == ("returns", "ReLU", ["0", "0.1"] if is_watched else ["0"])


def test_a_listener_may_give_the_module_other_arguments_and_the_next_one_sees_them():
    class Doubles(Listener):
        def call_starts(self, call, arguments, keywords):
            return (2 * arguments[0], *arguments[1:]), keywords

    model = nn.Identity()
    recorder = Recorder(model)
    recorder.listeners += [Doubles(), Doubles()]
    with recorder.hooks([model]):
        recorder.phase = "forward"
        assert torch.equal(model(X), 4 * X)
    assert torch.equal(model(X), X)


def test_a_gradient_is_told_in_the_backward_pass_only():
    recorder, heard = Recorder(nn.Identity()), []
    leaf = torch.ones(3, requires_grad=True)
    with recorder.hooks([]):
        tensor = 2 * leaf
        recorder.when_gradient_arrives(tensor, heard.append)
        recorder.phase = "forward"
        torch.autograd.grad(tensor.sum(), leaf, retain_graph=True)
        assert heard == []
        recorder.phase = "backward"
        torch.autograd.grad(3 * tensor.sum(), leaf, retain_graph=True)
        assert [gradient.tolist() for gradient in heard] == [[3, 3, 3]]
    torch.autograd.grad(tensor.sum(), leaf)
    assert len(heard) == 1


def test_no_hook_is_left_after_an_error_either():
    class Fails(nn.Module):
        def forward(self, x):
            raise ArithmeticError("own error")

    model = nn.Sequential(nn.ReLU(), Fails())
    with pytest.raises(ArithmeticError):
        record(model, X, activations=[model[0]])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("tool", [measure, diagnose])
def test_measuring_and_diagnosing_hook_a_module_once(tool):
    class Counts(nn.Module):
        hooks = ()

        def forward(self, x):
            Counts.hooks = len(self._forward_pre_hooks), len(self._forward_hooks)
            return F.relu(x)

    tool(nn.Sequential(nn.Linear(3, 3), Counts()), X, None, mean_square)
    assert Counts.hooks == (1, 1)


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor | None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (X, X),
        ((None, "text", 3), None),
        ([torch.arange(3), [X]], X),
        ({"loss": X.sum(), "logits": X}, X),
        (Output(X.sum(), X), X),
        (Output(X.sum(), None), X.sum()),
        (Output, None),
        (X.to_sparse(), None),
        (X.to(torch.complex64), None),
    ],
    ids=str,
)
def test_the_first_plain_tensor(value, expected):
    tensor = first_tensor(value)
    assert tensor is None if expected is None else torch.equal(tensor, expected)


def test_inside_vmap_no_tensor_is_plain():
    seen = []
    torch.vmap(lambda x: seen.append(first_tensor(x)) or x)(X)
    assert seen == [None]


def test_a_list_of_names_is_cut():
    assert listed(["a", "b"], most=2) == "a, b"
    assert listed(iter("abcd"), most=2) == "a, b and 2 more"
    assert listed([], most=2) == ""


@pytest.mark.parametrize("model", ["m", None, nn.Linear])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, and not TorchScript, got"):
        Recorder(model)


def test_calls_are_told_apart_by_identity():
    module = nn.Identity()
    assert len({Call(module, "a"), Call(module, "a")}) == 2
