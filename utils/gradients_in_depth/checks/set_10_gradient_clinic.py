"""The checks of set 10, The gradient clinic."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals
from gradients_in_depth.checks.common import (
    Mistake,
    as_number,
    as_whole_number,
    brief,
    call,
    check_choices,
    compare,
    exercise,
)


class _Here:
    """A model that `call` does not copy, so that one can see afterwards in which state it was left."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict) -> "_Here":
        return self

    def __repr__(self) -> str:
        return "model"


def _call_on(function: Callable, model: nn.Module, *inputs: object) -> object:
    """What the learner's function makes of a model; a sentence if it does not leave the model as it was."""
    if not callable(function):
        return call(function, model, *inputs)

    @functools.wraps(function)
    def on_the_model(here: _Here, *rest: object) -> object:
        return function(here.model, *rest)

    before = _state(model)
    found = call(on_the_model, _Here(model), *inputs)
    after = _state(model)
    for what, sentence in _HARM.items():
        if not _equal(before[what], after[what]):
            raise Mistake(sentence)
    return found


_HARM = {
    "hooks": "The hooks of the model are not those it came with: take away yours, and leave the owner's.",
    "mode": "The model comes back in another mode than it came in: train and eval are the owner's choice.",
    "asks": "Other parameters ask for a gradient than before: what is frozen is the owner's choice.",
    "statistics": "The running statistics of a batch norm have moved: your pass was counted as training.",
    "weights": "The weights are not what they were: a measurement does not treat.",
    "gradients": "What is in .grad is not what was there before: the owner may need it, and a "
    "later backward pass would add to yours.",
}


def _state(model: nn.Module) -> dict[str, list]:
    modules, parameters = list(model.modules()), list(model.parameters())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "hooks": [list(getattr(module, kind)) for module in modules for kind in kinds],
        "mode": [module.training for module in modules],
        "asks": [parameter.requires_grad for parameter in parameters],
        "statistics": [buffer.detach().clone() for buffer in model.buffers()],
        "weights": [parameter.detach().clone() for parameter in parameters],
        "gradients": [None if p.grad is None else p.grad.detach().clone() for p in parameters],
    }


def _equal(before: Sequence, after: Sequence) -> bool:
    def same(one: object, other: object) -> bool:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return torch.equal(one, other)
        return type(one) is type(other) and one == other

    return len(before) == len(after) and all(map(same, before, after))


# --- A census of parameters --------------------------------------------------------------------------------

WORDS = ("frozen", "no path", "zero", "faint", "alive")

# What a parameter is like, the right word, and what to ask somebody who chose another one.
_PEOPLE: dict[str, tuple[str, str, str]] = {
    "plain": ("A parameter with an ordinary gradient", "alive", "what is unusual about it?"),
    "unused": ("A parameter that asks for a gradient and got none", "no path", "is None a small number?"),
    "dead": ("A gradient of zeros only", "zero", "what do None, 0 and 1e-20 have in common, and what not?"),
    "frozen": ("A parameter that asks for no gradient", "frozen", "which row of the table comes first?"),
    "stale": (
        "A parameter that asks for no gradient, with an old one left in .grad",
        "frozen",
        "which row of the table comes first?",
    ),
    "negative": ("A gradient whose entries are all about -0.1", "alive", "are these small in SIZE?"),
    "cancelling": ("A gradient of 0.1 and -0.1 in equal parts", "alive", "do its entries cancel?"),
    "sparse": ("A gradient with a single entry that is not 0", "alive", "which entry decides?"),
    "small": ("A gradient with entries of about 1e-20", "faint", "are they 0, and are they large?"),
    "many": (
        "A gradient of 10,000 entries of 1e-13",
        "faint",
        "is it the size of each entry that you look at, or of all together?",
    ),
    "tiny": (
        "A float32 gradient with entries of about 1e-30",
        "faint",
        "what becomes of such a number when it is squared?",
    ),
}


def _person(kind: str, rng: np.random.Generator) -> nn.Parameter:
    """A parameter in float32 with the gradient of its kind."""
    shape = (100, 100) if kind == "many" else tuple(rng.integers(2, 6, size=2).tolist())
    even = (shape[0], 2 * shape[1])
    ordinary = rng.uniform(0.05, 0.2, size=even) * rng.choice([-1.0, 1.0], size=even)
    lone = np.zeros(even)
    lone.flat[rng.integers(lone.size)] = 0.1
    gradient = {
        "unused": None,
        "frozen": None,
        "dead": np.zeros(even),
        "negative": -np.abs(ordinary),
        "cancelling": 0.125 * np.tile([1.0, -1.0], (shape[0], shape[1])),
        "sparse": lone,
        "small": 1e-19 * ordinary,
        "many": np.full(even, 1e-13),
        "tiny": 1e-29 * ordinary,
    }.get(kind, ordinary)
    parameter = nn.Parameter(torch.tensor(rng.normal(size=even), dtype=torch.float32))
    if gradient is not None:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
    parameter.requires_grad_(_PEOPLE[kind][1] != "frozen")
    return parameter


def _town(seed: int) -> tuple[nn.Module, dict[str, str]]:
    """A model with one parameter of each kind in an order of its own, and the kind by the name."""
    rng = np.random.default_rng([101, seed])
    model, kinds = nn.Module(), {}
    for place, kind in enumerate(rng.permutation(list(_PEOPLE)).tolist()):
        house = nn.Module()
        house.register_parameter("weight", _person(kind, rng))
        model.add_module(f"layer{place}", house)
        kinds[f"layer{place}.weight"] = kind
    return model, kinds


@exercise(
    2,
    praise="five words for what many call a vanished gradient, and only one of them is one.",
    hint=(
        "Go down the table in its order, for each parameter. Where does it say whether a parameter asks for "
        "a gradient? And the size of a gradient: which of sum, norm and largest entry can be misled, by "
        "signs, by how many entries there are, by squares that leave float32?"
    ),
)
def gradient_census(census: Callable, seed: int) -> None:
    """A word for each parameter of a model after a backward pass: a dictionary from names to words."""
    model, kinds = _town(seed)
    found = _call_on(census, model)
    if not isinstance(found, Mapping):
        raise Mistake(f"The census should be a dictionary from names to words, and is {brief(found)}.")
    for name in kinds:
        if name not in found:
            raise Mistake(
                f"{name} is missing in the census: every name of model.named_parameters() belongs into it."
            )
    for name, word in found.items():
        if name not in kinds:
            raise Mistake(f"{brief(name)} is in the census, and is no name of model.named_parameters().")
        if not isinstance(word, str) or word not in WORDS:
            raise Mistake(f"{brief(word)} is none of the words {', '.join(WORDS)}.")
    if len(set(found.values())) == 1:
        raise Mistake("One word for all: they are not all alike.")
    by_kind = {kind: found[name] for name, kind in kinds.items()}
    for kind, (what, right, question) in _PEOPLE.items():
        if by_kind[kind] != right:
            raise Mistake(f"{what} is called {by_kind[kind]!r} by you: {question}")


# --- Two owners halve their weights ------------------------------------------------------------------------

_RATIO, _STEPS = 250.0, 29


@exercise(
    2,
    praise="one cut, and two diseases with the same symptom answer differently.",
    hint=(
        "Count the matrices between the outputs of layer 30 and of layer 1. In the plain network a signal "
        "going forward and one going back meet the same matrices; one of the two questions is about squares. "
        "In the other one ask what a batch norm puts out if all that comes in is half as large."
    ),
)
def halved_weights(forward: float, plain: float, normed: float, seed: int) -> None:
    """A forward ratio, and two gradient ratios after all weights were halved."""
    given = [
        as_number(forward, "The ratio forward"),
        as_number(plain, "The ratio of plain"),
        as_number(normed, "The ratio of normed"),
    ]
    half = 2.0**_STEPS
    truths = [_RATIO**2, _RATIO / half, _RATIO]
    questions = ["forward", "plain", "normed"]
    mistakes: list[list[tuple[float, str]]] = [
        [
            (_RATIO, "that is the factor of a norm, and mean squares are asked for."),
            (
                math.sqrt(_RATIO),
                "a root where a square belongs: is that what a mean square is?",
            ),
            (_RATIO**-2, "upside down: which way does a signal grow in weights that are too large?"),
            (
                1 / _RATIO,
                "upside down, and a square is missing: which way does a signal grow?",
            ),
            (1.0, "that is how it is in the other network, where a norm holds it."),
            (1.21**60, "count the steps from layer 1 to layer 30."),
            ((_RATIO / half) ** 2, "that is after the halving, and it is asked for before."),
        ],
        [
            (_RATIO, "as if nothing had happened: is there anything in this network that undoes a halving?"),
            (_RATIO / 2, "that is half of it: how many matrices lie between the two layers?"),
            (_RATIO / 2**30, "count the matrices between the OUTPUTS of layer 30 and layer 1."),
            (
                _RATIO / 2**28,
                "there are more matrices between the outputs of layer 30 and layer 1.",
            ),
            (_RATIO * half, "upside down: smaller weights pass less back."),
            (
                1 / (_RATIO * half),
                "upside down: which of the two layers had the larger one at first?",
            ),
            (_RATIO / half**2, "squared: what does half a matrix do to a norm?"),
            (1 / half, "the 250 from before is lost."),
            (
                1.0,
                "as if half the weights were critical: were they twice too large?",
            ),
        ],
        [
            (_RATIO / half, "as in the other network: what does a batch norm make of inputs half as large?"),
            (_RATIO * half, "a layer's halves are multiplied out: what does its norm do to them?"),
            (2 * _RATIO, "that is what happens to the gradients of the WEIGHTS, not of the activations."),
            (_RATIO / 2, "a factor of one half is left over: where should it come from, after a norm?"),
            (1.0, "a batch norm holds the forward signal: was the gradient level before?"),
            (1 / _RATIO, "upside down: which of the two layers had the larger gradient?"),
        ],
    ]
    for question, found, truth, known in zip(questions, given, truths, mistakes, strict=True):
        # Not `close`: what is right for `plain` and what is wrong lie near 0, where it takes all for equal.
        if math.isclose(found, truth, rel_tol=0.03):
            continue
        for wrong, sentence in known:
            if math.isclose(found, wrong, rel_tol=0.03):
                raise Mistake(f"For {question}: {sentence}")
        raise Mistake(f"For {question} it is not {found:.3g}: go through two layers by hand, then count.")


# --- Two pairs ---------------------------------------------------------------------------------------------

ILLNESSES = ("slope", "weight scale", "collapse", "waist")
_ILLNESS_OF = {1: "collapse", 2: "weight scale", 3: "waist", 4: "slope"}
_WAIST = 4
_LAYERS_OF: dict[str, dict] = {
    "slope": {"activation": "sigmoid", "initialization": "xavier_normal"},
    "weight scale": {"activation": "tanh", "initialization": "xavier_normal", "gain": 0.25},
    "collapse": {"activation": "relu", "initialization": "he_normal"},
    "waist": {"activation": "tanh", "initialization": "orthogonal", "gain": 1.05},
}


def _night_model(illness: str) -> nn.Module:
    """Thirty layers of 64 units and a readout."""
    width, options = 64, {"seed": 3, "dtype": torch.float64} | _LAYERS_OF[illness]
    model = networks.DeepMLP(30, width, **options)
    blocks = list(model.blocks)
    if illness == "waist":
        narrow = networks.DeepMLP(1, _WAIST, **options)
        back = networks.DeepMLP(1, width, **options | {"in_features": _WAIST, "gain": 3.0})
        blocks[14:16] = [narrow.blocks[0], back.blocks[0]]
    return nn.Sequential(*blocks, model.readout)


def night_chart(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the four patients of set 10; returns its four axes.

    They are networks of thirty layers, untrained. Raises `ValueError` for another number.
    """
    arguments.check_choice("number", number, _ILLNESS_OF)
    model = _night_model(_ILLNESS_OF[number])
    digits = data.digits(dtype=torch.float64)
    inputs, targets = digits.train_inputs[:64], digits.train_targets[:64]
    found = signals.measure(model, inputs, targets, F.cross_entropy, layers=networks.Block)
    values = signals.jacobian_singular_values(model, inputs[0])
    rounding = 1e-12 * values.max()
    return plots.dashboard(found, np.where(values > rounding, values, 0.0))


@exercise(
    3,
    praise="SCALE made two pairs, and in each pair another panel told one from the other.",
    hint=(
        "SCALE first: in which two does the gradient fall, and in which two is it nearly level? In the first "
        "pair ask what happens to the signal going FORWARD: small weights shrink it, a sigmoid answers about "
        "one half to everything. In the second pair, CORRELATION and SPECTRUM."
    ),
)
def night_ward(disease: Mapping, units: int, seed: int) -> None:
    """A disease for each of four dashboards, and the width of the narrow layer."""
    wanted = (
        "The diseases should be a dictionary with the keys 1, 2, 3 and 4, one for each dashboard, and are"
    )
    check_choices(disease, _ILLNESS_OF, ILLNESSES, wanted, "Patient")
    if len(set(disease.values())) < len(ILLNESSES):
        raise Mistake("One disease is named twice: the four dashboards differ, and so do the diseases.")
    for number, truth in _ILLNESS_OF.items():
        if disease[number] != truth:
            raise Mistake(f"Patient {number}: {_why_not_ill(disease[number], truth)}")
    found = as_whole_number(units, "The number of units")
    if found == _WAIST:
        return
    mistakes = {
        10: "That is how many numbers come out: how many of them can differ, once all has passed the waist?",
        10 - _WAIST: "So many are LOST: the waist lets the others through.",
        64: "That is the width of the other layers: SPECTRUM says how little of it is left.",
        _WAIST - 1: "Count the points of SPECTRUM again, the largest one too.",
        _WAIST + 1: "Count the points of SPECTRUM again: a tick on the axis is no point.",
        1: "With one unit all that comes out would lie on one line: SPECTRUM has more points than that.",
    }
    raise Mistake(mistakes.get(found, f"Not {found}: which panel counts directions?"))


def _why_not_ill(given: str, truth: str) -> str:
    """What the dashboard of `truth` shows and that of `given` would not."""
    falls = ("slope", "weight scale")
    if (given in falls) != (truth in falls):
        if truth in falls:
            return "in SCALE its gradient falls over many decades: that is one of another pair."
        return "in SCALE its gradient loses next to nothing: that is one of another pair."
    return {
        "slope": "the signal going forward keeps its size, see SCALE: would small weights leave it so?",
        "weight scale": "the signal going forward shrinks as well, by decades: would a sigmoid, which "
        "answers about one half, let it?",
        "collapse": "all of its directions are there, and look at CORRELATION: who is like whom?",
        "waist": "its inputs stay different, see CORRELATION, but most of SPECTRUM is missing: why at once?",
    }[truth]


# --- First, do no harm -------------------------------------------------------------------------------------


class Detached(nn.Module):
    """Hands on its input, and lets no gradient back."""

    def forward(self, x: Tensor) -> Tensor:
        """(any shape) -> (the same)."""
        return x.detach()


def _stack(rng: np.random.Generator, *parts: str | int, gain: float = 1.0) -> nn.Sequential:
    """Layers by their names, a number for a linear layer of so many units; the first one takes 7 features."""
    layers: list[nn.Module] = []
    fan_in = 7
    for part in parts:
        if isinstance(part, int):
            linear = nn.Linear(fan_in, part, dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(rng.normal(0, gain / fan_in**0.5, (part, fan_in))))
                linear.bias.copy_(torch.tensor(rng.normal(0, 0.1, part)))
            fan_in = part
            layers.append(linear)
        elif part == "norm":
            layers.append(nn.BatchNorm1d(fan_in, dtype=torch.float64))
        else:
            layers.append(_PARTS[part]())
    return nn.Sequential(*layers)


_PARTS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "cut": Detached,
}


def _width(readout: nn.Module) -> int:
    return readout.out_features if isinstance(readout, nn.Linear) else 0


def _batch(rng: np.random.Generator, outputs: int) -> tuple[Tensor, Tensor]:
    return torch.tensor(rng.normal(size=(12, 7))), torch.tensor(rng.normal(size=(12, outputs)))


def _gradients(
    model: nn.Sequential, inputs: Tensor, targets: Tensor, clone: bool = True, mode: bool | None = None
) -> list[Tensor | None]:
    """The gradients of the mean squared error at the outputs of all layers, None where none arrives.

    clone: whether a layer's output is kept as it was; without it, what works in place writes over it.
    """
    model = copy.deepcopy(model)
    if mode is not None:
        model.train(mode)
    outputs = [inputs]
    for layer in model:
        outputs.append(layer(outputs[-1].clone() if clone or len(outputs) == 1 else outputs[-1]))
    places = [k for k, output in enumerate(outputs) if k and output.requires_grad]
    loss = F.mse_loss(outputs[-1], targets)
    found = torch.autograd.grad(loss, [outputs[k] for k in places], allow_unused=True)
    known = dict(zip(places, found, strict=True))
    return [known.get(k) for k in range(1, len(outputs))]


def _norms(gradients: Sequence[Tensor | None], norm: Callable = torch.linalg.vector_norm) -> np.ndarray:
    return np.array([math.nan if g is None else float(norm(g)) for g in gradients])


def _as_figures(value: object, count: int, what: str) -> np.ndarray:
    """`count` numbers in an array or a sequence, as floats; NaN is let through."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, Mapping | str) or not isinstance(value, Sequence | np.ndarray):
        raise Mistake(f"{what} should come as an array, and you return {brief(value)}.")
    if any(part is None for part in value):
        raise Mistake(f"{what} hold a None: write NaN where there is no number.")
    try:
        found = np.array([as_number(part, "each of them") for part in value], dtype=float)
    except Mistake as mistake:
        raise Mistake(f"{what} should be plain numbers: {mistake}") from None
    if len(found) != count:
        raise Mistake(f"{what} should be {count} numbers here, and you return {len(found)}.")
    return found


@exercise(
    3,
    praise="a measurement of your own, and the patient noticed nothing.",
    hint=(
        "The easiest way to leave a model as it was is to work on a copy of it. An nn.Sequential can be "
        "walked through layer by layer, so you need no hooks at all; torch.autograd.grad gives gradients at "
        "tensors and writes into no .grad. If the next layer works in place, what could you hand it instead?"
    ),
)
def message_norms(norms: Callable, seed: int) -> None:
    """Norms of the activation gradients of any nn.Sequential; the model stays as it was."""
    rng = np.random.default_rng([105, seed])
    models = [
        _stack(rng, 9, "tanh", 8, "sigmoid", 3),
        _stack(rng, 9, "norm", "relu", 8, "relu in place", 5),
        _stack(rng, 6, "tanh", "cut", 8, "tanh", 4),
        _stack(rng, 9, "norm", "tanh", 4),
    ]
    models[3].eval()
    for norm in (models[1][1], models[3][1]):
        if isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None:
            norm.running_mean += torch.tensor(rng.normal(size=9))
    for layer in list(models[0])[::4]:
        if isinstance(layer, nn.Linear):
            layer.weight.grad = torch.ones_like(layer.weight)
    models[1][3].register_forward_hook(_owners_hook)
    batches = [_batch(rng, _width(model[-1])) for model in models]
    found = []
    for model, batch in zip(models, batches, strict=True):
        value = _call_on(norms, model, *batch, F.mse_loss)
        found.append(_as_figures(value, len(model), "The norms"))
    cases = list(zip(models, batches, strict=True))
    figures = np.concatenate(found)
    if (figures < 0).any():
        raise Mistake("A norm is never negative, and one of yours is.")

    def each(make: Callable) -> np.ndarray:
        return np.concatenate([make(model, *batch) for model, batch in cases])

    def by(norm: Callable) -> np.ndarray:
        return each(lambda *case: _norms(_gradients(*case), norm))

    def shifted(model: nn.Sequential, inputs: Tensor, targets: Tensor, with_inputs: bool) -> np.ndarray:
        wanted = inputs.clone().requires_grad_(with_inputs)
        padded = nn.Sequential(nn.Identity(), *copy.deepcopy(model))
        return _norms(_gradients(padded, wanted, targets))[:-1]

    def activations(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> np.ndarray:
        outputs = [inputs]
        for layer in copy.deepcopy(model):
            outputs.append(layer(outputs[-1].clone()))
        return _norms([output.detach() for output in outputs[1:]])

    right = by(torch.linalg.vector_norm)
    zeros = np.nan_to_num(right)
    mistakes = [
        (zeros, "0 says that a gradient came and was nothing: none came, and that is another disease."),
        (
            each(lambda model, x, y: _norms(_gradients(model, x, y, clone=False))),
            "That is right but where the next layer works in place: there you have the gradient at what it "
            "made of the output.",
        ),
        (by(lambda g: g.square().sum()), "Those are squared norms: a root is missing."),
        (
            by(lambda g: g.square().mean().sqrt()),
            "That is the root mean square of the entries, no norm.",
        ),
        (by(lambda g: g.abs().sum()), "The sizes are added up: a norm adds squares."),
        (by(lambda g: g.abs().max()), "That is the largest entry, not the norm."),
        (by(lambda g: g.norm(dim=1).mean()), "That is the mean of the examples' norms: all of them are one."),
        (
            by(lambda g: g.norm(dim=1).sum()),
            "The examples' norms are added up: their squares would add.",
        ),
        (
            by(lambda g: g.mean(dim=0).norm()),
            "The examples' gradients are averaged first: they cancel.",
        ),
        (by(lambda g: g.sum(dim=0).norm()), "The gradients of the examples are added up first: they cancel."),
        (
            each(lambda *case: _norms(_gradients(*case))[::-1]),
            "The order is that of the way back: the first layer of the model comes first.",
        ),
        (
            each(functools.partial(shifted, with_inputs=False)),
            "One off: that is the gradient at what goes INTO each layer.",
        ),
        (
            each(functools.partial(shifted, with_inputs=True)),
            "One off: that is the gradient at what goes INTO each layer.",
        ),
        (each(activations), "Those are the norms of the outputs themselves, and not of the gradients."),
        (
            each(lambda model, x, y: _norms(_gradients(model, x, y, mode=False))),
            "That is how it would be in eval mode: measure in the mode in which the model is.",
        ),
        (
            each(lambda model, x, y: _norms(_gradients(model, x, y, mode=True))),
            "That is how it would be in training mode: measure in the mode in which the model is.",
        ),
    ]
    plain = slice(0, len(models[0]))
    otherwise = (
        "Even with linear layers, tanh and sigmoid alone, in training mode, the norms are others: compare "
        "with signals.measure."
        if not np.allclose(figures[plain], right[plain], rtol=1e-6)
        else "A plain network is right, and another is not: try one with batch norm, one that works in "
        "place, and one with a detach."
    )
    known = [(_marked(wrong), sentence) for wrong, sentence in mistakes]
    compare(_marked(figures), _marked(right), known, otherwise, 1e-6)


def _owners_hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
    """The owner's own; it does nothing, and has to stay."""


def _marked(figures: np.ndarray) -> np.ndarray:
    """With -1 for NaN, which equals nothing, not even itself; a norm is never negative."""
    return np.where(np.isnan(figures), -1.0, figures)


# --- Who lost the decades? ---------------------------------------------------------------------------------


def _account(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Decades lost by kind, between the first and the last activation, and what lies outside of that."""
    levels = np.log10(_norms(_gradients(model, inputs, targets)))
    kinds = [{nn.Linear: "weights", nn.BatchNorm1d: "norms"}.get(type(layer), "slopes") for layer in model]
    first = kinds.index("slopes")
    last = len(kinds) - 1 - kinds[::-1].index("slopes")
    account = dict.fromkeys(["weights", "norms", "slopes"], 0.0)
    for k in range(first + 1, last + 1):
        account[kinds[k]] += levels[k] - levels[k - 1]
    account["readout"] = levels[-1] - levels[-2]
    account["first slope"] = levels[first] - levels[first - 1]
    account["layers"] = kinds.count("slopes") - 1
    return account


def _by_theory(model: nn.Sequential, inputs: Tensor) -> tuple[float, float]:
    """Decades lost as the scales of the weights and the mean squared slopes say, without any gradient."""
    weights = slopes = 0.0
    signal, seen = inputs, 0
    for layer in list(copy.deepcopy(model))[:-1]:
        before = signal.detach().requires_grad_()
        signal = layer(before)
        if isinstance(layer, nn.Linear):
            scale = layer.weight.detach().square().mean().item() * layer.out_features
            weights -= 0.5 * math.log10(scale) if seen else 0.0
        elif not isinstance(layer, nn.BatchNorm1d):
            (slope,) = torch.autograd.grad(signal.sum(), before)
            slopes -= 0.5 * math.log10(slope.square().mean().item()) if seen else 0.0
            seen += 1
    return weights, slopes


@exercise(
    4,
    praise="the account closes, and it does not change when somebody moves a factor into a norm.",
    hint=(
        "You have the norm of the gradient at the output of every module. The quotient of two neighbours is "
        "what ONE module did to it, and its logarithm goes to one of two accounts. Take care where the way "
        "begins and ends: the readout and the first activation are outside of it. For the norm: if the "
        "weights are ten times larger, by how much does each of the two change what passes back?"
    ),
)
def lost_decades(blame: Callable, seed: int) -> None:
    """Decades of the gradient lost in the weights (with their norms) and in the slopes: two numbers."""
    rng = np.random.default_rng([106, seed])
    models = [
        _stack(rng, 9, "sigmoid", 12, "sigmoid", 8, "sigmoid", 10, "sigmoid", 4),
        _stack(rng, 11, "tanh", 9, "tanh", 12, "tanh", 3, gain=0.4),
        _stack(rng, 9, "tanh", 14, "tanh", 3, gain=4.0),
        _stack(rng, 12, "norm", "relu", 12, "norm", "relu", 12, "norm", "relu", 4, gain=2.5),
    ]
    batches = [_batch(rng, _width(model[-1])) for model in models]
    found = np.concatenate(
        [
            _as_figures(_call_on(blame, model, *batch, F.mse_loss), 2, "The decades lost")
            for model, batch in zip(models, batches, strict=True)
        ]
    )
    accounts = [_account(model, *batch) for model, batch in zip(models, batches, strict=True)]

    def pairs(weights: Callable, slopes: Callable) -> np.ndarray:
        return np.concatenate([(weights(account), slopes(account)) for account in accounts])

    def all_weights(account: Mapping) -> float:
        return account["weights"] + account["norms"]

    def only_slopes(account: Mapping) -> float:
        return account["slopes"]

    right = pairs(all_weights, only_slopes)
    by_theory = [_by_theory(model, batch[0]) for model, batch in zip(models, batches, strict=True)]
    layers = np.repeat([account["layers"] for account in accounts], 2)
    swapped = pairs(only_slopes, all_weights)
    mistakes = [
        (-right, "The signs are those of a gain: what makes the gradient smaller on its way back is a loss."),
        (right * math.log(10), "Those are natural logarithms: decades are powers of ten."),
        (2 * right, "That is twice too much: squared norms have twice the decades."),
        (right / layers, "That is per layer: the decades of the whole way are asked for."),
        (10**-right, "Those are the factors themselves: how many powers of ten are they?"),
        (10**right, "Those are the factors themselves: how many powers of ten are they?"),
        (swapped, "The two are the wrong way round: the weights come first."),
        (
            pairs(lambda a: a["weights"], lambda a: a["slopes"] + a["norms"]),
            "The batch norms stand with the slopes: multiply the weights of such a layer by ten, and see "
            "whose account moves.",
        ),
        (
            pairs(lambda a: a["weights"], only_slopes),
            "The batch norms stand on no account: then the two do not add up to all that is lost.",
        ),
        (
            pairs(lambda a: all_weights(a) + a["readout"], only_slopes),
            "The readout is on the account: the way back begins below it, at the last activation.",
        ),
        (
            pairs(all_weights, lambda a: a["slopes"] + a["first slope"]),
            "The slope of the first layer is on the account: the way ends at what that layer puts out.",
        ),
        (
            pairs(lambda a: all_weights(a) + a["readout"], lambda a: a["slopes"] + a["first slope"]),
            "The readout and the slope of the first layer are on the account: read again where the way "
            "begins and ends.",
        ),
        (
            np.concatenate(by_theory),
            "That is what the scale of the weights and the mean slope say: what THIS gradient lost has to be "
            "measured on it.",
        ),
        (np.zeros(len(right)), "Nothing is lost anywhere, you say: look at one network in SCALE."),
    ]
    sums, wanted = found.reshape(-1, 2).sum(axis=1), right.reshape(-1, 2).sum(axis=1)
    off = np.flatnonzero(~np.isclose(sums, wanted, rtol=1e-6))
    otherwise = (
        f"In a network with {accounts[off[0]]['layers'] + 1} activations your two numbers add up to "
        f"{sums[off[0]]:.3g}, and from the last activation to the first it is {wanted[off[0]]:.3g} decades."
        if len(off)
        else "All that is lost is on the two accounts, but some of it is on the wrong one: whose is what?"
    )
    compare(found, right, mistakes, otherwise, 1e-6)
