"""The checks of set 10, The gradient clinic."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals
from gradients_in_depth.checks.common import (
    Case,
    Mistake,
    Trial,
    brief,
    check_choices,
    exercise,
    number,
    whole_number,
)
from gradients_in_depth.checks.models import as_figures, call_on, stack, with_batches

# --- A census of parameters --------------------------------------------------------------------------------

WORDS = ("frozen", "no path", "zero", "faint", "alive")

# What a parameter is like, the right word, and what to ask somebody who chose another one.
PEOPLE: dict[str, tuple[str, str, str]] = {
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
    parameter.requires_grad_(PEOPLE[kind][1] != "frozen")
    return parameter


def town(seed: int) -> tuple[nn.Module, dict[str, str]]:
    """A model with one parameter of each kind in an order of its own, and the kind by the name."""
    rng = np.random.default_rng([101, seed])
    model, kinds = nn.Module(), {}
    for place, kind in enumerate(rng.permutation(list(PEOPLE)).tolist()):
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
    model, kinds = town(seed)
    words = call_on(census, model)
    if not isinstance(words, Mapping):
        raise Mistake(f"The census should be a dictionary from names to words, and is {brief(words)}.")
    for name in kinds:
        if name not in words:
            raise Mistake(
                f"{name} is missing in the census: every name of model.named_parameters() belongs in it."
            )
    for name, word in words.items():
        if name not in kinds:
            raise Mistake(f"{brief(name)} is in the census, and is not a name of model.named_parameters().")
        if not isinstance(word, str) or word not in WORDS:
            raise Mistake(f"{brief(word)} is none of the words {', '.join(WORDS)}.")
    if len(set(words.values())) == 1:
        raise Mistake("One word for all: they are not all alike.")
    by_kind = {kind: words[name] for name, kind in kinds.items()}
    for kind, (what, right, question) in PEOPLE.items():
        if by_kind[kind] != right:
            raise Mistake(f"{what} is called {by_kind[kind]!r} by you: {question}")


# --- Two owners halve their weights ------------------------------------------------------------------------

RATIO, STEPS = 250.0, 29
_HALF = 2.0**STEPS


# The right ratio for each question, and what leads to others.
_RATIOS: dict[str, tuple[float, dict[str, float]]] = {
    "forward": (
        RATIO**2,
        {
            "that is the factor of a norm, and mean squares are asked for.": RATIO,
            "a root where a square belongs: is that what a mean square is?": math.sqrt(RATIO),
            "upside down: which way does a signal grow in weights that are too large?": RATIO**-2,
            "upside down, and a square is missing: which way does a signal grow?": 1 / RATIO,
            "that is how it is in the other network, where a norm holds it.": 1.0,
            "count the steps from layer 1 to layer 30.": 1.21**60,
            "that is after the halving, and it is asked for before.": (RATIO / _HALF) ** 2,
        },
    ),
    "plain": (
        RATIO / _HALF,
        {
            "as if nothing had happened: is there anything in this network that undoes a halving?": RATIO,
            "that is half of it: how many matrices lie between the two layers?": RATIO / 2,
            "count the matrices between the OUTPUTS of layer 30 and layer 1.": RATIO / 2**30,
            "there are more matrices between the outputs of layer 30 and layer 1.": RATIO / 2**28,
            "upside down: smaller weights pass less back.": RATIO * _HALF,
            "upside down: which of the two layers had the larger one at first?": 1 / (RATIO * _HALF),
            "squared: what does half a matrix do to a norm?": RATIO / _HALF**2,
            "the 250 from before is lost.": 1 / _HALF,
            "as if half the weights were critical: were they twice too large?": 1.0,
        },
    ),
    "normed": (
        RATIO,
        {
            "as in the other network: what does a batch norm make of inputs half as large?": RATIO / _HALF,
            "a layer's halves are multiplied out: what does its norm do to them?": RATIO * _HALF,
            "that is what happens to the gradients of the WEIGHTS, not of the activations.": 2 * RATIO,
            "a factor of one half is left over: where should it come from, after a norm?": RATIO / 2,
            "a batch norm holds the forward signal: was the gradient level before?": 1.0,
            "upside down: which of the two layers had the larger gradient?": 1 / RATIO,
        },
    ),
}


def _ratio(part: int, question: str) -> Trial:
    right, mistakes = _RATIOS[question]
    return Trial(
        part=part,
        read=number("The ratio forward" if question == "forward" else f"The ratio of {question}"),
        right=right,
        mistakes={f"For {question}: {sentence}": ratio for sentence, ratio in mistakes.items()},
        otherwise=lambda _, results, right: (
            f"For {question} it is not {results[0]:.3g}: go through two layers by hand, then count."
        ),
        tolerance=0.03,
        # Ratios lie near 0, and each of them is another number than 0.
        agrees=lambda results, ratios, tolerance: np.allclose(results, ratios, rtol=tolerance, atol=0),
    )


@exercise(
    2,
    praise="one cut, and two diseases with the same symptom answer differently.",
    hint=(
        "Count the matrices between the outputs of layer 30 and of layer 1. In the plain network a signal "
        "going forward and one going back meet the same matrices; one of the two questions is about squares. "
        "In the other one ask what a batch norm puts out if all that comes in is half as large."
    ),
    trials=[_ratio(*question) for question in enumerate(_RATIOS)],
)
def halved_weights(forward: float, plain: float, normed: float, seed: int) -> None:
    """A forward ratio, and two gradient ratios after all weights were halved."""


# --- Two pairs ---------------------------------------------------------------------------------------------

ILLNESSES = ("slope", "weight scale", "collapse", "waist")
_ILLNESS_OF = {1: "collapse", 2: "weight scale", 3: "waist", 4: "slope"}
WAIST = 4
_LAYERS_OF: dict[str, dict] = {
    "slope": {"activation": "sigmoid", "initialization": "xavier_normal"},
    "weight scale": {"activation": "tanh", "initialization": "xavier_normal", "gain": 0.25},
    "collapse": {"activation": "relu", "initialization": "he_normal"},
    "waist": {"activation": "tanh", "initialization": "orthogonal", "gain": 1.05},
}


def night_model(illness: str) -> nn.Module:
    """Thirty layers of 64 units and a readout."""
    width, options = 64, {"seed": 3, "dtype": torch.float64} | _LAYERS_OF[illness]
    model = networks.DeepMLP(30, width, **options)
    blocks = list(model.blocks)
    if illness == "waist":
        narrow = networks.DeepMLP(1, WAIST, **options)
        back = networks.DeepMLP(1, width, **options | {"in_features": WAIST, "gain": 3.0})
        blocks[14:16] = [narrow.blocks[0], back.blocks[0]]
    return nn.Sequential(*blocks, model.readout)


def night_chart(number: int) -> Sequence[Axes]:
    """Draw the dashboard of one of the four patients of set 10; returns its four axes.

    They are networks of thirty layers, untrained. Raises `ValueError` for another number.
    """
    arguments.check_choice("number", number, _ILLNESS_OF)
    model = night_model(_ILLNESS_OF[number])
    digits = data.digits(dtype=torch.float64)
    inputs, targets = digits.train_inputs[:64], digits.train_targets[:64]
    found = signals.measure(model, inputs, targets, F.cross_entropy, layers=networks.Block)
    values = signals.jacobian_singular_values(model, inputs[0])
    rounding = 1e-12 * values.max()
    return plots.dashboard(found, np.where(values > rounding, values, 0.0))


_NOT_ILL = {  # what speaks for a disease against the other one of its pair
    "slope": "the signal going forward keeps its size, see SCALE: would small weights leave it so?",
    "weight scale": "the signal going forward shrinks as well, by decades: would a sigmoid, which answers "
    "about one half, let it?",
    "collapse": "all of its directions are there, and look at CORRELATION: who is like whom?",
    "waist": "its inputs stay different, see CORRELATION, but most of SPECTRUM is missing: why at once?",
}


def _why_not_ill(chosen: str, truth: str) -> str:
    """What the dashboard of `truth` shows and that of `chosen` would not."""
    falls = ("slope", "weight scale")
    if (chosen in falls) == (truth in falls):
        return _NOT_ILL[truth]
    if truth in falls:
        return "in SCALE its gradient falls over many decades: that is one of another pair."
    return "in SCALE its gradient loses next to nothing: that is one of another pair."


_UNITS = Trial(
    part=1,
    read=whole_number("The number of units"),
    right=WAIST,
    mistakes={
        "That is how many numbers come out: how many of them can differ, once all has passed the waist?": 10,
        "So many are LOST: the waist lets the others through.": 10 - WAIST,
        "That is the width of the other layers: SPECTRUM says how little of it is left.": 64,
        "Count the points of SPECTRUM again, the largest one too.": WAIST - 1,
        "Count the points of SPECTRUM again: a tick on the axis is not a point.": WAIST + 1,
        "With one unit all that comes out would lie on one line: SPECTRUM has more points than that.": 1,
    },
    otherwise=lambda _, results, right: f"Not {results[0]:.0f}: which panel counts directions?",
)


@exercise(
    3,
    praise="SCALE made two pairs, and in each pair another panel told one from the other.",
    hint=(
        "SCALE first: in which two does the gradient fall, and in which two is it nearly level? In the first "
        "pair ask what happens to the signal going FORWARD: small weights shrink it, a sigmoid answers about "
        "one half to everything. In the second pair, CORRELATION and SPECTRUM."
    ),
    trials=[_UNITS],
)
def night_ward(disease: Mapping, units: int, seed: int) -> None:
    """A disease for each of four dashboards, and the width of the narrow layer."""
    expected = (
        "The diseases should be a dictionary with the keys 1, 2, 3 and 4, one for each dashboard, and are"
    )
    check_choices(disease, _ILLNESS_OF, ILLNESSES, expected, "Patient")
    if len(set(disease.values())) < len(ILLNESSES):
        raise Mistake("One disease is named twice: the four dashboards differ, and so do the diseases.")
    for patient, truth in _ILLNESS_OF.items():
        if disease[patient] != truth:
            raise Mistake(f"Patient {patient}: {_why_not_ill(disease[patient], truth)}")


# --- First, do no harm -------------------------------------------------------------------------------------


def _owners_hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
    """The owner's own; it does nothing, and has to stay."""


def _patients(rng: np.random.Generator) -> list[Case]:
    models = [
        stack(rng, 9, "tanh", 8, "sigmoid", 3),
        stack(rng, 9, "norm", "relu", 8, "relu in place", 5),
        stack(rng, 6, "tanh", "cut", 8, "tanh", 4),
        stack(rng, 9, "norm", "tanh", 4),
    ]
    models[3].eval()
    for model in models[1], models[3]:
        model[1].get_buffer("running_mean").add_(torch.tensor(rng.normal(size=9)))
    for linear in list(models[0])[::4]:
        weight = linear.get_parameter("weight")
        weight.grad = torch.ones_like(weight)
    models[1][3].register_forward_hook(_owners_hook)
    return with_batches(rng, *models)


def _outputs(model: nn.Sequential, inputs: Tensor, clone: bool = True) -> list[Tensor]:
    """The outputs of all layers of a copy, after the inputs.

    clone: whether an output is kept as it was; without it, what works in place writes over it.
    """
    outputs = [inputs]
    for layer in copy.deepcopy(model):
        outputs.append(layer(outputs[-1].clone() if clone or len(outputs) == 1 else outputs[-1]))
    return outputs


Norm = Callable[[Tensor], Tensor]


def _norms(norm: Norm = torch.linalg.vector_norm, clone: bool = True) -> Callable[..., np.ndarray]:
    """The norm of the gradient of the loss at the output of each layer (layers,), NaN where none arrives."""

    def norms(model: nn.Sequential, inputs: Tensor, targets: Tensor, loss_fn: Callable) -> np.ndarray:
        [_, *outputs] = _outputs(model, inputs, clone)
        reached = [k for k, output in enumerate(outputs) if output.requires_grad]
        loss = loss_fn(outputs[-1], targets)
        gradients = torch.autograd.grad(loss, [outputs[k] for k in reached], allow_unused=True)
        result = np.full(len(outputs), math.nan)
        for k, gradient in zip(reached, gradients, strict=True):
            if gradient is not None:
                result[k] = float(norm(gradient))
        return result

    return norms


message_norms_of = _norms()


def _of_what_goes_in(with_inputs: bool) -> Callable[..., np.ndarray]:
    def norms(model: nn.Sequential, inputs: Tensor, *rest: object) -> np.ndarray:
        padded = nn.Sequential(nn.Identity(), *model)
        return message_norms_of(padded, inputs.clone().requires_grad_(with_inputs), *rest)[:-1]

    return norms


def _in_mode(training: bool) -> Callable[..., np.ndarray]:
    return lambda model, *batch: message_norms_of(copy.deepcopy(model).train(training), *batch)


def _plain_or_not(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    plain = slice(0, len(cases[0][0]))
    if not np.allclose(results[plain], right[plain], rtol=1e-6):
        return (
            "Even with linear layers, tanh and sigmoid alone, in training mode, the norms are others: "
            "compare with signals.measure."
        )
    return (
        "A plain network is right, and another is not: try one with batch norm, one that works in place, and "
        "one with a detach."
    )


_NORMS = Trial(
    cases=_patients,
    caller=call_on,
    read=lambda result, model, *_: as_figures(result, len(model), "The norms"),
    impossible={
        "A norm is never negative, and one of yours is.": lambda results: (results < 0).any(),
    },
    right=message_norms_of,
    # NaN is right where no gradient arrives.
    agrees=lambda results, norms, tolerance: np.allclose(results, norms, rtol=tolerance, equal_nan=True),
    mistakes={
        "0 says that a gradient came and was nothing: none came, and that is another disease.": (
            lambda *case: np.nan_to_num(message_norms_of(*case))
        ),
        "That is right but where the next layer works in place: there you have the gradient at what it made "
        "of the output.": _norms(clone=False),
        "Those are squared norms: a root is missing.": _norms(lambda g: g.square().sum()),
        "That is the root mean square of the entries, not a norm.": _norms(
            lambda g: g.square().mean().sqrt()
        ),
        "The sizes are added up: a norm adds squares.": _norms(lambda g: g.abs().sum()),
        "That is the largest entry, not the norm.": _norms(lambda g: g.abs().max()),
        "That is the mean of the examples' norms: all of them are one.": _norms(
            lambda g: g.norm(dim=1).mean()
        ),
        "The examples' norms are added up: their squares would add.": _norms(lambda g: g.norm(dim=1).sum()),
        "The examples' gradients are averaged first: they cancel.": _norms(lambda g: g.mean(dim=0).norm()),
        "The gradients of the examples are added up first: they cancel.": _norms(
            lambda g: g.sum(dim=0).norm()
        ),
        "The order is that of the way back: the first layer of the model comes first.": (
            lambda *case: message_norms_of(*case)[::-1]
        ),
        "One off: that is the gradient at what goes INTO each layer.": (
            _of_what_goes_in(with_inputs=False),
            _of_what_goes_in(with_inputs=True),
        ),
        "Those are the norms of the outputs themselves, and not of the gradients.": (
            lambda model, inputs, *_: [h.norm().item() for h in _outputs(model, inputs)[1:]]
        ),
        "That is how it would be in eval mode: measure in the mode in which the model is.": _in_mode(False),
        "That is how it would be in training mode: measure in the mode in which the model is.": (
            _in_mode(True)
        ),
    },
    otherwise=_plain_or_not,
)


@exercise(
    3,
    praise="a measurement of your own, and the patient noticed nothing.",
    hint=(
        "The easiest way to leave a model as it was is to work on a copy of it. An nn.Sequential can be "
        "walked through layer by layer, so you need no hooks at all; torch.autograd.grad gives gradients at "
        "tensors and writes into no .grad. If the next layer works in place, what could you hand it instead?"
    ),
    stream=105,
    trials=[_NORMS],
)
def message_norms(norms: Callable, seed: int) -> None:
    """Norms of the activation gradients of any nn.Sequential; the model stays as it was."""


# --- Who lost the decades? ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Decades lost between the last and the first activation, and what lies outside of that.

    lost: by the weights (with their norms) and by the slopes, (2,); norms: how much of it by the norms.
    """

    lost: np.ndarray
    norms: float
    readout: float
    first_slope: float
    layers: int


def account(*case: Any) -> Account:
    """The account of a model, given what the learner's function takes."""
    levels = np.log10(message_norms_of(*case))
    kinds = [{nn.Linear: "linear", nn.BatchNorm1d: "norm"}.get(type(layer), "slope") for layer in case[0]]
    first = kinds.index("slope")
    last = len(kinds) - 1 - kinds[::-1].index("slope")
    lost = {"linear": 0.0, "norm": 0.0, "slope": 0.0}
    for k in range(first + 1, last + 1):
        lost[kinds[k]] += levels[k] - levels[k - 1]
    return Account(
        lost=np.array([lost["linear"] + lost["norm"], lost["slope"]]),
        norms=lost["norm"],
        readout=levels[-1] - levels[-2],
        first_slope=levels[first] - levels[first - 1],
        layers=kinds.count("slope") - 1,
    )


def _decades(collect: Callable[[Account], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *case: collect(account(*case))


def _by_theory(model: nn.Sequential, inputs: Tensor, *_: object) -> tuple[float, float]:
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


def _does_not_add_up(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    sums, lost = results.reshape(-1, 2).sum(axis=1), right.reshape(-1, 2).sum(axis=1)
    off = np.flatnonzero(~np.isclose(sums, lost, rtol=1e-6))
    if not len(off):
        return "All that is lost is on the two accounts, but some of it is on the wrong one: whose is what?"
    return (
        f"In a network with {account(*cases[off[0]]).layers + 1} activations your two numbers add up to "
        f"{sums[off[0]]:.3g}, and from the last activation to the first it is {lost[off[0]]:.3g} decades."
    )


_LOST = Trial(
    cases=lambda rng: with_batches(
        rng,
        stack(rng, 9, "sigmoid", 12, "sigmoid", 8, "sigmoid", 10, "sigmoid", 4),
        stack(rng, 11, "tanh", 9, "tanh", 12, "tanh", 3, gain=0.4),
        stack(rng, 9, "tanh", 14, "tanh", 3, gain=4.0),
        stack(rng, 12, "norm", "relu", 12, "norm", "relu", 12, "norm", "relu", 4, gain=2.5),
    ),
    caller=call_on,
    read=lambda result, *_: as_figures(result, 2, "The decades lost"),
    right=_decades(lambda a: a.lost),
    mistakes={
        "The signs are those of a gain: what makes the gradient smaller on its way back is a loss.": (
            _decades(lambda a: -a.lost)
        ),
        "Those are natural logarithms: decades are powers of ten.": _decades(lambda a: a.lost * math.log(10)),
        "That is twice too much: squared norms have twice the decades.": _decades(lambda a: 2 * a.lost),
        "That is per layer: the decades of the whole way are asked for.": _decades(
            lambda a: a.lost / a.layers
        ),
        "Those are the factors themselves: how many powers of ten are they?": (
            _decades(lambda a: 10**-a.lost),
            _decades(lambda a: 10**a.lost),
        ),
        "The two are the wrong way round: the weights come first.": _decades(lambda a: a.lost[::-1]),
        "The batch norms stand with the slopes: multiply the weights of such a layer by ten, and see whose "
        "account moves.": _decades(lambda a: a.lost + [-a.norms, a.norms]),
        "The batch norms stand on no account: then the two do not add up to all that is lost.": (
            _decades(lambda a: a.lost - [a.norms, 0])
        ),
        "The readout is on the account: the way back begins below it, at the last activation.": (
            _decades(lambda a: a.lost + [a.readout, 0])
        ),
        "The slope of the first layer is on the account: the way ends at what that layer puts out.": (
            _decades(lambda a: a.lost + [0, a.first_slope])
        ),
        "The readout and the slope of the first layer are on the account: read again where the way begins "
        "and ends.": _decades(lambda a: a.lost + [a.readout, a.first_slope]),
        "That is what the scale of the weights and the mean slope say: what THIS gradient lost has to be "
        "measured on it.": _by_theory,
        "Nothing is lost anywhere, you say: look at one network in SCALE.": lambda *_: (0.0, 0.0),
    },
    otherwise=_does_not_add_up,
)


@exercise(
    4,
    praise="the account closes, and it does not change when somebody moves a factor into a norm.",
    hint=(
        "You have the norm of the gradient at the output of every module. The quotient of two neighbours is "
        "what ONE module did to it, and its logarithm goes to one of two accounts. Take care where the way "
        "begins and ends: the readout and the first activation are outside of it. For the norm: if the "
        "weights are ten times larger, by how much does each of the two change what passes back?"
    ),
    stream=106,
    trials=[_LOST],
)
def lost_decades(blame: Callable, seed: int) -> None:
    """Decades of the gradient lost in the weights (with their norms) and in the slopes: two numbers."""
