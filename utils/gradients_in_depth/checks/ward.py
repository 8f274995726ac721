"""The patients of the gradient clinic (lesson 10), and what each treatment makes of them."""

import copy
import dataclasses
import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import arguments, data, networks, plots, signals, training
from gradients_in_depth.checks.common import WIDTH
from gradients_in_depth.diagnosis import DISEASES, Diagnosis, diagnose

DIAGNOSES: dict[str, str] = {
    name: disease.title
    for name, disease in DISEASES.items()
    if name not in ("not_finite", "vanishing", "rank_collapse")
} | {"healthy": "No disease"}

# What a cure changes in the recipe of a network; the same cure may be tried on every patient.
CURES: dict[str, dict] = {
    "nothing": {},
    "ReLU with He's weights": {"activation": "relu", "initialization": "he_normal", "gain": 1.0},
    "critical random weights": {"initialization": "critical", "gain": 1.0},
    "skip connections": {"skip": True, "pre_activation": True, "branch_scale": 0.3},
    "batch normalization": {"normalization": "batch"},
    "biases back to 0": {"bias": 0.0},
    "clip the gradient": {"clip_norm": 1.0},
    "warm-up": {"warmup_steps": 63},
    "norm before each branch": {"norm_placement": "pre"},
    "smaller queries and keys": {"sharpness": 1.0},
    "a shorter sequence": {"length": 8},
    "scale the loss": {"loss_scale": 1e7},
    "widen the narrow layer": {"waist": 0},
    "connect the branch": {"cut": None},
    "eval mode in use": {"use_mode": "eval"},
    "another learning rate": {"rate": None},
}

_MLP = {"kind": "mlp", "depth": 6, "width": 48, "activation": "relu", "initialization": "he_normal"}
_TOKENS = {"kind": "tokens", "depth": 2, "sharpness": 1.0, "norm_placement": "pre", "skip": True}

# number: the owner's words, the disease, the cures that help, the recipe.
_WARD: dict[int, tuple[str, str, tuple[str, ...], dict]] = {
    1: (
        "It has 14 layers and guesses. I think it needs more epochs.",
        "saturation",
        ("ReLU with He's weights",),
        _MLP | {"depth": 14, "activation": "sigmoid", "initialization": "xavier_normal"},
    ),
    2: (
        "The loss stands still. Surely the activation saturates.",
        "small_weights",
        ("critical random weights",),
        _MLP | {"depth": 20, "activation": "tanh", "initialization": "xavier_normal", "gain": 0.35},
    ),
    3: (
        "Lesson 00 told me: a deep network with a flat loss has a vanishing gradient.",
        "bottleneck",
        ("widen the narrow layer",),
        _MLP | {"activation": "tanh", "initialization": "xavier_normal", "waist": 1},
    ),
    4: (
        "It is deep, and it is learning so slowly. Its weights are He's, I checked.",
        "collapsed_correlation",
        ("skip connections",),
        _MLP | {"depth": 70, "width": 128},
    ),
    5: (
        "The loss was enormous at once. The data must be broken.",
        "exploding",
        ("critical random weights",),
        _MLP | {"depth": 12, "gain": 6.0},
    ),
    6: (
        "Every weight is tidy, and nothing explodes. Is the width wrong?",
        "symmetric",
        ("critical random weights", "ReLU with He's weights"),
        _MLP | {"depth": 3, "activation": "tanh", "initialization": "constant"},
    ),
    7: (
        "It worked, until one bad night. Since then it always gives the same answer.",
        "dead_units",
        ("biases back to 0",),
        _MLP | {"bias": -4.0},
    ),
    8: (
        "I normalize every layer, so it cannot be the gradient.",
        "norm_without_skips",
        ("skip connections",),
        _MLP | {"depth": 40, "normalization": "batch"},
    ),
    9: (
        "It trained well. In use, one customer at a time, it is bad. Does it overfit?",
        "forgotten_eval",
        ("eval mode in use",),
        _MLP | {"depth": 3, "normalization": "batch", "use_mode": "train", "trained": True},
    ),
    10: (
        "It cannot remember what it saw first. Does it need more units?",
        "long_sequence",
        ("a shorter sequence",),
        {"kind": "recurrent", "gain": 0.8, "length": 60},
    ),
    11: (
        "The loss does not move at all, so the gradient has vanished.",
        "learning_rate",
        ("another learning rate",),
        _MLP | {"depth": 3, "rate": 1e-6},
    ),
    12: (
        "I made it fast, and it stopped learning. Is it too deep?",
        "underflow",
        ("scale the loss",),
        _MLP | {"depth": 4, "share": 1e-7, "format": "float16"},
    ),
    13: (
        "It learns a little. I suspect the learning rate of the first layers.",
        "no_gradient",
        ("connect the branch",),
        _MLP | {"cut": 5, "width": 16},
    ),
    14: (
        "It attends to things, and loses them again.",
        "saturated_attention",
        ("smaller queries and keys",),
        _TOKENS | {"sharpness": 20.0},
    ),
    15: (
        "I built it from a famous paper, with Adam. Only the learning rate is mine, and I insist on it.",
        "post_norm",
        ("norm before each branch", "warm-up"),
        _TOKENS | {"depth": 6, "norm_placement": "post", "rate": 0.008, "optimizer": "adam"},
    ),
    16: (
        "My colleague says that it is too deep to train.",
        "healthy",
        ("nothing",),
        _MLP | {"depth": 12},
    ),
}

_RATES = (0.001, 0.01, 0.1)


class _Passage(nn.Module):
    """Hands on its input; backward, nothing at all (`cut`), or what the number format keeps."""

    def __init__(self, cut: bool = False, rounded: bool = False) -> None:
        super().__init__()
        self.cut, self.rounded = cut, rounded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cut:
            return x.detach()
        if self.rounded and x.requires_grad:
            x.register_hook(lambda gradient: gradient.half().to(gradient.dtype))
        return x


def _clinic_model(recipe: Mapping, seed: int) -> nn.Module:
    """The network of a recipe, in float64."""
    if recipe["kind"] == "recurrent":
        return networks.RecurrentNetwork("rnn", 24, gain=recipe["gain"], seed=seed, dtype=torch.float64)
    if recipe["kind"] == "tokens":
        return _transformer(recipe, seed)
    mlp = _perceptron(recipe, seed)
    layers: list[nn.Module] = list(mlp.blocks)
    if recipe.get("waist"):
        narrow = networks.DeepMLP(
            2,
            recipe["waist"],
            in_features=recipe["width"],
            out_features=recipe["width"],
            activation="tanh",
            seed=seed,
            dtype=torch.float64,
        )
        layers[3:4] = [narrow.blocks[0], narrow.readout]
    for place in range(len(layers), 0, -1):
        if recipe.get("format") == "float16":
            layers.insert(place, _Passage(rounded=True))
        if recipe.get("cut") == place:
            layers.insert(place, _Passage(cut=True))
    return nn.Sequential(*layers, mlp.readout)


def _transformer(r: Mapping, seed: int) -> nn.Module:
    """Of the eight rows of a digit, with sharper or softer attention."""
    placement = r["norm_placement"]
    model = networks.Transformer(
        r["depth"], 32, norm_placement=placement, skip=r["skip"], seed=seed, dtype=torch.float64
    )
    with torch.no_grad():
        for attention in model.modules():
            if isinstance(attention, networks.SelfAttention):
                attention.query.weight *= r["sharpness"]
                attention.key.weight *= r["sharpness"]
    return nn.Sequential(nn.Unflatten(1, (8, 8)), model)


def _perceptron(r: Mapping, seed: int) -> networks.DeepMLP:
    start = r["initialization"]
    if start == "critical":
        start = "he_normal" if r["activation"] == "relu" else "xavier_normal"
    mlp = networks.DeepMLP(
        r["depth"],
        r["width"],
        activation=r["activation"],
        initialization=start,
        gain=r.get("gain", 1.0),
        normalization=r.get("normalization"),
        skip=r.get("skip", False),
        pre_activation=r.get("pre_activation", False),
        branch_scale=r.get("branch_scale", 1.0),
        seed=seed,
        dtype=torch.float64,
    )
    for block in mlp.modules():
        if isinstance(block, networks.Block) and r.get("bias"):
            nn.init.constant_(block.linear.bias, r["bias"])
    if start == "constant":  # one number for each class: with one for all, only rounding errors come back
        rows = torch.randn(10, 1, generator=data.seeded_generator(seed), dtype=torch.float64)
        with torch.no_grad():
            mlp.readout.weight.copy_(rows.expand(10, r["width"]) / r["width"] ** 0.5)
    return mlp


def _clinic_data(recipe: Mapping) -> data.Split:
    if recipe["kind"] == "recurrent":
        return data.delayed_recall(
            recipe["length"], noise=0.1, n_train=512, n_validation=256, dtype=torch.float64
        )
    split = data.digits(dtype=torch.float64)
    if recipe["kind"] == "tokens":  # whole batches: Adam takes a step on the last three images for a gradient
        whole = len(split.train_inputs) // 64 * 64
        inputs, targets = split.train_inputs[:whole], split.train_targets[:whole]
        split = dataclasses.replace(split, train_inputs=inputs, train_targets=targets)
    return split


class Patient:
    """One network of the clinic: measure it, `name` its disease, `treat` it.

    `model`, `inputs`, `targets`, `loss_fn` are what `signals.measure` takes; `learning_rate` is the
    owner's, or None, and `optimizer` "momentum" or "adam"; `layers` are the modules that count as layers;
    `complaint` is what the owner says.
    """

    def __init__(self, number: int, seed: int = 0) -> None:
        self.number, self.seed = number, seed
        self.complaint, self._disease, self._cures, self._recipe = _WARD[number]
        self.data = _clinic_data(self._recipe)
        self.model = _clinic_model(self._recipe, seed)
        if self._recipe.get("trained"):
            training.train(self.model, self.data, learning_rate=0.03, epochs=3, seed=seed, progress=False)
        self.in_use = bool(self._recipe.get("trained"))
        self.inputs, self.targets = self.data.train_inputs[:64], self.data.train_targets[:64]
        self.loss_fn = _clinic_loss(self._recipe)
        self.learning_rate = self._recipe.get("rate")
        self.optimizer = self._recipe.get("optimizer", "momentum")
        self.number_format = self._recipe.get("format")
        kinds = (networks.Block, networks.TransformerBlock, networks.RNNCell)
        self.layers = [kind for kind in kinds if any(isinstance(m, kind) for m in self.model.modules())]

    def measure(self) -> signals.Signals:
        """What `signals.measure` says of its layers."""
        rate = self.learning_rate
        return signals.measure(
            self.model, self.inputs, self.targets, self.loss_fn, layers=self.layers, learning_rate=rate
        )

    def chart(self) -> Sequence[Axes]:
        """Draw the four panels of the course's dashboard."""
        model = copy.deepcopy(self.model)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.momentum = 1.0  # the statistics of this batch, in eval mode: one example has none
        with torch.no_grad():
            model.train()(self.inputs)
        values = signals.jacobian_singular_values(model.eval(), self.inputs[:1])[0]
        values = np.where(values > 1e-12 * values.max(), values, 0.0)  # the rest is rounding
        axes = plots.dashboard(self.measure(), values)
        axes[1].set_xlim(axes[0].get_xlim())  # also where only one layer has a cosine
        return axes

    def name(self, disease: str | None) -> None:
        """Say whether that is the disease; if not, which measured figure speaks against it."""
        print(textwrap.fill(self._judgement(disease), WIDTH))

    def treat(self, *cures: str | None) -> Axes | None:
        """Train it untreated and with each cure, each at its best rate: say and draw what happened.

        The losses are drawn without the factor that an owner or a cure puts before them. None: no cure yet.
        """
        if not cures or None in cures:
            print("No cure yet: write one of checks.CURES between the brackets, and run the cell again.")
            return None
        for cure in cures:
            arguments.check_choice("cure", cure, CURES)
        before = self._course("nothing")
        after_each = {cure: self._course(cure) for cure in cures if cure is not None}
        for cure, after in after_each.items():
            text = f"Patient {self.number}: right on {before.right:.0%} of the validation examples untreated"
            text += f", and on {after.right:.0%} after this: {cure}. {_verdict(before.right, after.right)}"
            print(textwrap.fill(text, WIDTH))
        courses = {"untreated": before} | after_each
        named = {f"{name} ({course.rate_in_words})": course.history for name, course in courses.items()}
        chance = math.log(int(self.data.train_targets.max()) + 1)
        ax = plots.losses(named, chance=chance)
        ax.set_ylim(0, 2 * chance)  # what explodes leaves the picture
        return ax

    def outcome(self, cure: str) -> float:
        """Share of validation examples that are right after 6 epochs, at the grid's best rate.

        With momentum, or with the owner's optimizer. Best by the mean training loss of the last epoch; where
        an owner insists on a rate, it is that.
        """
        return self._course(cure).right

    def _course(self, cure: str) -> "_Course":
        arguments.check_choice("cure", cure, CURES)
        recipe = self._recipe | CURES[cure]
        return _clinic_course(tuple(sorted(recipe.items(), key=lambda item: item[0])), self.seed)

    def _judgement(self, disease: str | None) -> str:
        if disease is None or disease is ...:
            return "No name yet: take your time, look at the chart, and write one of checks.DIAGNOSES."
        arguments.check_choice("disease", disease, DIAGNOSES)
        if disease == self._disease:
            return f"Right: patient {self.number}: {DIAGNOSES[disease]}. Now prescribe."
        return f"Look again. {self._against(disease)}"

    def diagnosis(self) -> Diagnosis:
        """What `diagnosis.diagnose` says; look here last."""
        return diagnose(
            self.model,
            self.inputs,
            self.targets,
            self.loss_fn,
            learning_rate=self.learning_rate,
            number_format=self.number_format,
            evaluation=self.in_use,
        )

    def _against(self, disease: str) -> str:
        """The measured figure that speaks against this name."""
        report = self.diagnosis()
        if disease == "healthy":
            off = sum(not figure.is_healthy for figure in report.figures)
            lie = "lies outside its" if off == 1 else "lie outside their"
            return f"Of {len(report.figures)} figures that were measured here, {off} {lie} range."
        figure = report.figure(DISEASES[disease].figure)
        if figure is None:
            return f"That was not measured here: it takes {_NEEDS[disease]}."
        quoted = f"{figure.name}; it is {figure.value:.2g}"
        if figure.is_healthy:
            return f"Then this would be out of its range: {quoted}."
        if disease in _FALLING and figure.value > 1:
            return f"Then this would be below its range: {quoted}."
        if disease in _GROWING and figure.value < 1:
            return f"Then this would be above its range: {quoted}."
        return self._second_figure(disease, report) or (
            f"This is out of its range indeed: {quoted}. But something else that was measured brings it "
            "along: ask what comes first."
        )

    def _second_figure(self, disease: str, report: Diagnosis) -> str | None:
        """Where the gradient does fall or grow: what tells this disease from others with that symptom."""
        if disease == "small_weights":
            linear = [m for m in self.model.modules() if isinstance(m, nn.Linear) and m.in_features > 1]
            scale = float(np.median([m.weight.std().item() * m.in_features**0.5 for m in linear]))
            return f"Here sqrt(Var(W) fan_in) is {scale:.2g} in the median layer: that is not small."
        if disease == "saturation" and (slope := self._slope(report)) is not None:
            return f"The mean slope of its activations is {slope:.2g}: they pass the gradient on."
        if disease == "exploding":
            first, *_, last = self.measure().series("activation_variance")
            return (
                f"Forward, the variance of the last layer is {last / first:.2g} times that of the first: "
                "weights that are too large would show there."
            )
        norms = sum(isinstance(m, nn.BatchNorm1d) for m in self.model.modules())
        if disease == "norm_without_skips" and norms == 0:
            return "The gradient grows, but 0 layers of batch normalization were found."
        return None

    def _slope(self, report: Diagnosis) -> float | None:
        """The mean slope of the activations, as the clinic measured it or as measured here; else None."""
        figure = report.figure("activation_slope")
        if figure is not None:
            return figure.value
        if self._recipe.get("activation") != "tanh":
            return None
        blocks = signals.measure(self.model, self.inputs, self.targets, self.loss_fn, layers=networks.Block)
        return 1 - float(np.median(blocks.series("activation_variance")))


_FALLING = {"saturation", "small_weights", "long_sequence"}
_GROWING = {"exploding", "norm_without_skips"}
# What a network must have so that the figure of a disease can be measured.
_NEEDS = {
    "no_gradient": "trainable parameters",
    "symmetric": "layers of weights that get a gradient",
    "saturation": "three layers or more that a gradient reaches",
    "small_weights": "three layers or more that a gradient reaches",
    "long_sequence": "a layer that is called at each of five time steps or more",
    "exploding": "three layers or more that a gradient reaches",
    "norm_without_skips": "three layers or more that a gradient reaches",
    "dead_units": "ReLU units",
    "collapsed_correlation": "nine layers or more",
    "saturated_attention": "layers of attention",
    "post_norm": "normalizations after the sum in five places or more",
    "bottleneck": "a layer that is far narrower than its neighbours and the outputs, and cannot be passed by",
    "underflow": "a gradient in half precision",
    "forgotten_eval": "batch normalization or dropout, in a model that is in use",
    "learning_rate": "a learning rate on which the owner insists",
}


def _clinic_loss(recipe: Mapping) -> Callable:
    share = recipe.get("share", 1.0) * recipe.get("loss_scale", 1.0)
    return lambda outputs, targets: share * F.cross_entropy(outputs, targets)


class _Course(NamedTuple):
    """How a training went: share of right validation examples, rate, history with the plain loss."""

    right: float
    rate: float | None
    history: training.History

    @property
    def rate_in_words(self) -> str:
        return "diverges at each rate" if self.rate is None else f"rate {self.rate:g}"


def _verdict(before: float, after: float) -> str:
    if after > max(0.7, before + 0.1):
        return "It trains: that is a cure."
    if before > 0.7:
        return "It trained before, and it trains now." if after > 0.7 else "It trained before: that did harm."
    return "That was worth a try, and it is not a cure: look at the chart again."


@functools.lru_cache(maxsize=256)
def _clinic_course(items: tuple, seed: int) -> _Course:
    """The best training over the rates; items: of the recipe, sorted, because a dict cannot be a key."""
    recipe = dict(items)
    split = _clinic_data(recipe)
    # A scaled loss is divided out of the step again, as GradScaler does.
    scale = recipe.get("share", 1.0) * recipe.get("loss_scale", 1.0)
    best, lowest = None, math.inf
    for rate in [recipe["rate"]] if recipe.get("rate") else _RATES:
        model = _clinic_model(recipe, seed)
        history = training.train(
            model,
            split,
            loss_fn=_clinic_loss(recipe),
            optimizer=recipe.get("optimizer", "momentum"),
            learning_rate=rate / scale,
            epochs=6,
            seed=seed,
            progress=False,
            clip_norm=recipe.get("clip_norm"),
            warmup_steps=recipe.get("warmup_steps", 0),
        )
        history = dataclasses.replace(history, train_loss=history.train_loss / scale)
        loss = float(history.train_loss[-history.steps_per_epoch :].mean())
        if history.stopped or not loss < lowest:
            best = best or _Course(0.0, None, history)
            continue
        best, lowest = _Course(_right(model, split, history, recipe), rate, history), loss
    assert best is not None  # there is a rate
    return best


def _right(model: nn.Module, split: data.Split, history: training.History, recipe: Mapping) -> float:
    """The share of validation examples that are right, in the mode in which the model is used."""
    if recipe.get("use_mode") == "train":
        return _one_customer_at_a_time(model, split)
    assert history.validation_accuracy is not None  # the loss is that of a classifier
    return float(history.validation_accuracy[-1])


@torch.no_grad()
def _one_customer_at_a_time(model: nn.Module, split: data.Split) -> float:
    """Accuracy in train mode, on batches of 8 of one class: who else is in the batch decides."""
    model = copy.deepcopy(model).train()
    order = split.validation_targets.argsort(stable=True)
    chunks = [chunk for chunk in order.split(8) if len(chunk) > 1]
    right = [(model(split.validation_inputs[c]).argmax(1) == split.validation_targets[c]) for c in chunks]
    return torch.cat(right).double().mean().item()


def clinic(number: int, seed: int = 0) -> Patient:
    """Patient 1 to 16 of lesson 10. The same number and seed give the same network."""
    if arguments.check_integer("number", number, at_least=1) > len(_WARD):
        raise ValueError(f"number must be at most {len(_WARD)}, got {number}.")
    return Patient(number, arguments.check_seed(seed))
