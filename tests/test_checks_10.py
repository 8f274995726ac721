"""The checks of set 10 are checked: as in test_checks, and what they take for the truth is measured."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, networks, signals
from gradients_in_depth.checks import models
from gradients_in_depth.checks import set_10_gradient_clinic as own
from tests.check_banks import SEEDS, Bank, all_that_is_said, swapped

# --- A census of parameters --------------------------------------------------------------------------------


def by_word(word):
    """A census with one function (parameter) -> word."""
    return lambda model: {name: word(p) for name, p in model.named_parameters()}


def size_first(size, limit=1e-12):
    """The right order of questions, and some size of a gradient."""

    def word(p):
        if not p.requires_grad:
            return "frozen"
        if p.grad is None:
            return "no path"
        extent = size(p.grad)
        return "zero" if extent == 0 else "faint" if extent <= limit else "alive"

    return by_word(word)


def largest(gradient):
    return gradient.abs().max()


def frozen_last(p):
    if p.grad is None:
        return "no path"
    return "zero" if not p.grad.any() else "faint" if largest(p.grad) <= 1e-12 else "alive"


def frozen_among_the_missing(p):
    if p.grad is None:
        return "no path" if p.requires_grad else "frozen"
    return frozen_last(p)


def none_is_zero(p):
    if not p.requires_grad:
        return "frozen"
    return "zero" if p.grad is None else frozen_last(p)


def without_a_gradient(p):
    return "no path" if p.requires_grad else "frozen"


def nearly_zero_is_zero(p):
    if not p.requires_grad or p.grad is None:
        return without_a_gradient(p)
    close = torch.allclose(p.grad, torch.zeros_like(p.grad))
    return "zero" if close else "alive"


def any_zero(p):
    if not p.requires_grad or p.grad is None:
        return without_a_gradient(p)
    return "zero" if (p.grad == 0).any() else "faint" if largest(p.grad) <= 1e-12 else "alive"


def zeroes_the_gradients(model):
    words = size_first(largest)(model)
    model.zero_grad()
    return words


def thaws(model):
    words = size_first(largest)(model)
    model.requires_grad_(True)
    return words


def without_the_frozen(model):
    return {name: word for name, word in size_first(largest)(model).items() if word != "frozen"}


def in_float64(model):
    """With a norm per entry, in float64."""
    words = {}
    for name, p in model.named_parameters():
        g = None if p.grad is None else np.abs(p.grad.double().numpy())
        rules = [("frozen", not p.requires_grad), ("no path", g is None)]
        rules += [] if g is None else [("zero", not g.any()), ("faint", not (g > 1e-12).any())]
        words[name] = next((word for word, fits in rules if fits), "alive")
    return words


GRADIENT_CENSUS = Bank(
    checks.gradient_census,
    wrong={
        "frozen last": ((by_word(frozen_last),), "asks for no gradient is called 'no path'"),
        "frozen only where there is none": (
            (by_word(frozen_among_the_missing),),
            "with an old one left in .grad is called 'alive'",
        ),
        "None is zero": ((by_word(none_is_zero),), "got none is called 'zero'"),
        "allclose": ((by_word(nearly_zero_is_zero),), "about 1e-20 is called 'zero'"),
        "any zero": ((by_word(any_zero),), "a single entry that is not 0 is called 'zero'"),
        "sum": ((size_first(lambda g: g.sum().abs()),), "0.1 and -0.1 in equal parts is called 'zero'"),
        "no abs": ((size_first(torch.max),), "all about -0.1 is called 'faint'"),
        "norm": ((size_first(lambda g: g.norm()),), "10,000 entries of 1e-13 is called 'alive'"),
        "squares": (
            (size_first(lambda g: g.square().max().sqrt()),),
            "when it is squared",
        ),
        "larger limit": ((size_first(largest, 0.5),), "ordinary gradient is called"),
        "zeroes the gradients": ((zeroes_the_gradients,), "What is in .grad is not what was there"),
        "thaws": ((thaws,), "Other parameters ask for a gradient"),
        "one word": ((by_word(lambda p: "alive"),), "One word for all"),
        "another word": ((by_word(lambda p: "vanished"),), "'vanished' is none of the words"),
        "without the frozen": ((without_the_frozen,), "is missing in the census"),
        "one name too many": (
            (lambda model: size_first(largest)(model) | {"bias": "alive"},),
            "'bias' is in the census",
        ),
        "a list": ((lambda model: list(size_first(largest)(model).values()),), "should be a dictionary"),
    },
    right={"in float64": (in_float64,), "in steps": (size_first(largest),)},
)


def test_the_words_are_what_autograd_leaves_behind():
    """Five linear layers in float32: one frozen, one behind a detach, one dead, one after tiny weights."""
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    frozen, cut, dead, faint, alive = (nn.Linear(5, 5) for _ in range(5))
    frozen.requires_grad_(False)
    nn.init.constant_(dead.bias, -1e3)
    outputs = frozen(x) + cut(x).detach() + F.relu(dead(x)) + 1e-30 * faint(x) + alive(x)
    outputs.square().mean().backward()
    model = nn.ModuleDict({"frozen": frozen, "no path": cut, "zero": dead, "faint": faint, "alive": alive})
    for right in GRADIENT_CENSUS.right.values():
        assert right[0](model) == {name: name.split(".")[0] for name, _ in model.named_parameters()}


def test_a_float32_norm_of_a_faint_gradient_can_be_zero():
    """The trap of the exercise is real: the squares leave the format, and the entries do not."""
    model, kinds = own.town(0)
    name = next(name for name, kind in kinds.items() if kind == "tiny")
    gradient = dict(model.named_parameters())[name].grad
    assert gradient.all() and gradient.square().sum().sqrt() == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_parameter_is_as_its_sentence_says(seed):
    model, kinds = own.town(seed)
    assert {name: own.PEOPLE[kind][1] for name, kind in kinds.items()} == in_float64(model)
    assert sorted(kinds.values()) == sorted(own.PEOPLE)


# --- Two owners halve their weights ------------------------------------------------------------------------

HALF = 2**29

HALVED_WEIGHTS = Bank(
    checks.halved_weights,
    wrong={
        "plain: last over first": ((62_500, HALF / 250, 250), "For plain it is not"),
        "plain: zero": ((62_500, 0.0, 250), "For plain it is not 0"),
        "forward: zero": ((0.0, 250 / HALF, 250), "For forward it is not 0"),
        "a guess": ((62_500, 250 / HALF, 77), "For normed it is not 77"),
        "two answers": ((62_500, 250 / HALF), "takes forward and plain and normed"),
    },
    right={
        "from the factor": (1.21**58, (1.21 / 2) ** 29, 1.21**29),
        "rounded, of several kinds": (np.array(62_000.0), torch.tensor(4.7e-7), np.float32(250)),
    },
)


def two_owners(seed, width=128, **options):
    model = networks.DeepMLP(
        30,
        width,
        activation="relu",
        initialization="he_normal",
        bias=False,
        seed=seed,
        dtype=torch.float64,
        **options,
    )
    for block in model.blocks:
        if block.norm is not None:
            block.norm.eps = 1e-30
    return model


def ratios(model, seed):
    """Mean squared activation, last layer over first, and gradient norm, first over last; a linear loss."""
    inputs = data.gaussian_batch(64, 64, seed=100 + seed)
    outward = data.gaussian_batch(64, 10, seed=200 + seed)
    record = signals.measure(
        model, inputs, outward, lambda outputs, g: (outputs * g).sum(), layers=networks.Block
    )
    norms = record.series("activation_gradient_norm")
    squares = record.series("activation_variance") + record.series("activation_mean") ** 2
    return squares[-1] / squares[0], norms[0] / norms[-1]


def halved(model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block in model.blocks:
            block.linear.weight /= 2
    return model


def test_halving_the_weights_does_what_the_check_says():
    """After over before: exact for a plain network, for any seed; and nothing at all for a normed one."""
    for seed in range(8):
        plain, normed = two_owners(seed, gain=1.21), two_owners(seed, normalization="batch")
        before, after = ratios(plain, seed)[1], ratios(halved(plain), seed)[1]
        assert after / before == pytest.approx(2.0**-own.STEPS, rel=1e-9)
        before, after = ratios(normed, seed)[1], ratios(halved(normed), seed)[1]
        assert after / before == pytest.approx(1, rel=1e-6)


def test_the_plain_network_has_the_ratios_of_the_question():
    """In the mean of logarithms over 12 seeds, 256 units wide; a factor of 1.4 in a norm is let through."""
    logs = np.log([ratios(two_owners(seed, 256, gain=1.21), seed) for seed in range(12)])
    forward, backward = logs.mean(axis=0)
    assert backward == pytest.approx(math.log(own.RATIO), abs=0.35)
    assert forward == pytest.approx(2 * math.log(own.RATIO), abs=0.7)


# --- Two pairs ---------------------------------------------------------------------------------------------

RIGHT = {1: "collapse", 2: "weight scale", 3: "waist", 4: "slope"}


NIGHT_WARD = Bank(
    checks.night_ward,
    wrong={
        "another word": ((RIGHT | {2: "exploding"}, 4), "'exploding' is none"),
        "one twice": ((RIGHT | {2: "slope"}, 4), "named twice"),
        "1 and 2": ((swapped(RIGHT, 1, 2), 4), "Patient 1: in SCALE its gradient loses next to nothing"),
        "1 and 3": ((swapped(RIGHT, 1, 3), 4), "Patient 1: all of its directions are there"),
        "1 and 4": ((swapped(RIGHT, 1, 4), 4), "Patient 1: in SCALE its gradient loses next to nothing"),
        "2 and 3": ((swapped(RIGHT, 2, 3), 4), "Patient 2: in SCALE its gradient falls over many decades"),
        "2 and 4": ((swapped(RIGHT, 2, 4), 4), "Patient 2: the signal going forward shrinks as well"),
        "3 and 4": ((swapped(RIGHT, 3, 4), 4), "Patient 3: in SCALE its gradient loses next to nothing"),
        "a circle": (
            ({1: RIGHT[1], 2: RIGHT[3], 3: RIGHT[4], 4: RIGHT[2]}, 4),
            "Patient 2: in SCALE its gradient falls",
        ),
        "a guess": ((RIGHT, 8), "Not 8"),
        "a fraction": ((RIGHT, 4.5), "should be a whole number"),
    },
    right={"as read": (RIGHT, 4), "in another order": (dict(reversed(RIGHT.items())), 4.0)},
)


@pytest.fixture(scope="module")
def drawings():
    """What the four dashboards show: by disease, the lines of SCALE, CORRELATION and SPECTRUM."""
    import matplotlib.pyplot as plt

    shown = {}
    for number, name in RIGHT.items():
        scale, correlation, spectrum, _ = checks.night_chart(number)
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in scale.lines}
        shown[name] = (
            lines["activation variance"],
            lines["gradient norm"],
            correlation.lines[0].get_ydata(),
            spectrum.lines[0].get_ydata(),
        )
        plt.close("all")
    return shown


def test_the_dashboards_show_what_the_sentences_say(drawings):
    for name, (variance, gradient, cosine, singular) in drawings.items():
        falls = name in ("slope", "weight scale")
        assert (gradient[0] / gradient[-1] < 1e-10) == falls
        assert falls or gradient[0] / gradient[-1] > 0.1
        assert (variance[-1] / variance[0] < 1e-10) == (name == "weight scale")
        assert (cosine[-1] > 0.9) == (name in ("collapse", "slope"))
        drawn = np.isfinite(singular) & (np.nan_to_num(singular) > 0)
        assert drawn.sum() == (own.WAIST if name == "waist" else 10)


def test_each_patient_has_its_disease():
    """The recipe says so, and so does the model: slope, weight scale, width."""
    inputs = data.digits(dtype=torch.float64).train_inputs[:64]
    for name in RIGHT.values():
        model = own.night_model(name)
        assert sum(isinstance(layer, networks.Block) for layer in model) == 30
        weights = [layer.linear.weight for layer in model[:-1]]
        scale = np.median([w.std().item() * w.shape[1] ** 0.5 for w in weights])
        assert (scale < 0.5) == (name == "weight scale")
        assert min(len(w) for w in weights) == (own.WAIST if name == "waist" else 64)
        assert torch.isfinite(model(inputs)).all()


def test_a_patient_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="number must be one of 1, 2, 3, 4; got 5"):
        checks.night_chart(5)


# --- First, do no harm -------------------------------------------------------------------------------------


def walked(model, inputs, targets, loss_fn, norm=torch.linalg.vector_norm):
    """By a walk through a copy."""
    outputs = [inputs]
    for layer in copy.deepcopy(model):
        outputs.append(layer(outputs[-1].clone()))
        if outputs[-1].requires_grad:
            outputs[-1].retain_grad()
    loss_fn(outputs[-1], targets).backward()
    gradients = [h.grad if h.requires_grad else None for h in outputs[1:]]
    return np.array([math.nan if g is None else norm(g).item() for g in gradients])


def with_hooks(model, inputs, targets, loss_fn, remove=True, restore=True):
    """With forward hooks that put a hook on each output: the patient itself, restored by hand."""
    norms, handles = [math.nan] * len(model), []
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def watch(place):
        def keep(gradient):
            norms[place] = gradient.norm().item()

        def hook(module, inputs, output):
            if output.requires_grad:
                output.register_hook(keep)

        return hook

    for place, layer in enumerate(model):
        handles.append(layer.register_forward_hook(watch(place)))
    loss = loss_fn(model(inputs), targets)
    torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    if remove:
        for handle in handles:
            handle.remove()
    if restore:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(statistics[name])
    return norms


def by_backward(model, inputs, targets, loss_fn):
    """Autograd's own method, which writes into .grad."""
    outputs = [inputs]
    for layer in model:
        outputs.append(layer(outputs[-1].clone()))
        if outputs[-1].requires_grad:
            outputs[-1].retain_grad()
    loss_fn(outputs[-1], targets).backward()
    return [math.nan if h.grad is None else h.grad.norm().item() for h in outputs[1:]]


def left_in_eval(model, *rest):
    norms = walked(model, *rest)
    model.eval()
    return norms


def all_hooks_cleared(model, *rest):
    for layer in model:
        layer._forward_hooks.clear()
    return walked(model, *rest)


def weights_changed(model, *rest):
    norms = walked(model, *rest)
    with torch.no_grad():
        model[0].weight -= 0.01
    return norms


def by_the_course(model, inputs, targets, loss_fn):
    names = [name for name, _ in model.named_children()]
    record = signals.measure(model, inputs, targets, loss_fn, layers=names)
    return record.series("activation_gradient_norm")


def right_if_plain(model, *rest):
    return walked(model, *rest) * (1 if len(model) == 5 and model.training else 3)


MESSAGE_NORMS = Bank(
    checks.message_norms,
    wrong={
        "None": (
            (lambda *case: [None if math.isnan(x) else x for x in walked(*case)],),
            "write NaN where there is no number",
        ),
        "wrong axis": (
            (lambda *case: walked(*case, norm=lambda g: g.norm(dim=0).mean()),),
            "Even with linear layers",
        ),
        "plain ones only": ((right_if_plain,), "A plain network is right"),
        "hooks left": ((lambda *case: with_hooks(*case, remove=False),), "take away yours"),
        "hooks cleared": ((all_hooks_cleared,), "leave the owner's"),
        "statistics": ((lambda *case: with_hooks(*case, restore=False),), "running statistics of a batch"),
        "gradients": ((by_backward,), "What is in .grad is not what was there"),
        "left in eval mode": ((left_in_eval,), "comes back in another mode"),
        "weights": ((weights_changed,), "The weights are not what they were"),
        "too few": ((lambda *case: walked(*case)[:-1],), "should be 5 numbers here, and you return 4"),
        "a dictionary": ((lambda *case: dict(enumerate(walked(*case))),), "should come as an array"),
        "lists": ((lambda *case: [[x] for x in walked(*case)],), "should be plain numbers"),
        "negative": ((lambda *case: -walked(*case),), "never negative"),
        "minus one for NaN": ((lambda *case: np.nan_to_num(walked(*case), nan=-1.0),), "never negative"),
        "takes the model alone": ((lambda model: None,), "stops with TypeError"),
    },
    right={"signals.measure": (by_the_course,), "hooks": (with_hooks,), "a walk": (walked,)},
)


@pytest.mark.parametrize("seed", range(8))
def test_the_norms_are_those_of_finite_differences(seed):
    """A push of the output of layer k, and what the loss makes of it: no autograd at all."""
    rng = np.random.default_rng(seed)
    model = models.stack(rng, 6, "norm", "relu", 5, "tanh", 3)
    [case] = models.with_batches(rng, model)
    _, inputs, targets, _ = case
    norms = checks.message_norms.trials[0].right(*case)
    with torch.no_grad():
        for k in range(len(model)):
            output = model[: k + 1](inputs)
            rest = model[k + 1 :]
            gradient = torch.zeros_like(output)
            for place in np.ndindex(*output.shape):
                up, down = output.clone(), output.clone()
                up[place] += 1e-5
                down[place] -= 1e-5
                gradient[place] = (F.mse_loss(rest(up), targets) - F.mse_loss(rest(down), targets)) / 2e-5
            assert norms[k] == pytest.approx(gradient.norm().item(), rel=1e-5)


# --- Who lost the decades? ---------------------------------------------------------------------------------


def telescoped(model, inputs, targets, loss_fn):
    """The slopes one by one, and the weights as what is left of the whole."""
    norms = np.array(by_the_course(model, inputs, targets, loss_fn))
    bends = [k for k, m in enumerate(model) if isinstance(m, nn.Sigmoid | nn.Tanh | nn.ReLU)]
    slopes = sum(math.log10(norms[k] / norms[k - 1]) for k in bends[1:])
    return np.array([math.log10(norms[bends[-1]] / norms[bends[0]]) - slopes, slopes])


def left_in_evaluation(model, *rest):
    lost = telescoped(model, *rest)
    model.eval()
    return lost


LOST_DECADES = Bank(
    checks.lost_decades,
    wrong={
        "all to the weights": ((lambda *case: (sum(telescoped(*case)), 0.0),), "on the wrong one"),
        "hard-coded": ((lambda *case: (0.1, 0.6),), "add up to"),
        "not a number": ((lambda *case: (math.nan, math.nan),), "add up to nan"),
        "left in eval mode": ((left_in_evaluation,), "comes back in another mode"),
        "one number": ((lambda *case: sum(telescoped(*case)),), "should come as an array"),
        "three numbers": ((lambda *case: [*telescoped(*case), 0.0],), "should be 2 numbers here"),
    },
    right={"what is left": (telescoped,)},
)


@pytest.mark.parametrize("seed", range(8))
def test_the_account_is_the_chain_rule_by_hand(seed):
    """Messages through W and through the slope, written down without autograd, for a plain tanh network."""
    rng = np.random.default_rng(seed)
    model = models.stack(rng, 9, "tanh", 7, "tanh", 8, "tanh", 3, gain=0.7)
    [case] = models.with_batches(rng, model)
    _, inputs, targets, _ = case
    weights = [layer.weight.detach() for layer in model[::2]]
    h = [inputs]
    for layer in model[:-1:2]:
        h.append(torch.tanh(layer(h[-1])).detach())
    message = 2 * (model[-1](h[-1]).detach() - targets) / targets.numel() @ weights[-1]
    lost = [0.0, 0.0]
    for k in (3, 2):
        through_slope = message * (1 - h[k] ** 2)
        lost[1] += math.log10(message.norm() / through_slope.norm())
        message = through_slope @ weights[k - 1]
        lost[0] += math.log10(through_slope.norm() / message.norm())
    account = own.account(*case)
    assert account.lost == pytest.approx(lost, rel=1e-9)
    assert account.norms == 0 and account.layers == 2


@pytest.mark.parametrize("seed", range(8))
def test_only_weights_and_norms_together_keep_their_blame(seed):
    """What the exercise says of weights ten times larger, and of no other way to do the account."""
    rng = np.random.default_rng(seed)
    model = models.stack(rng, 9, "norm", "relu", 9, "norm", "relu", 9, "norm", "relu", 4)
    for layer in model[1::3]:
        layer.eps = 1e-30
    [case] = models.with_batches(rng, model)
    before = own.account(*case)
    with torch.no_grad():
        for layer in model[:-1:3]:
            layer.weight *= 10
            layer.bias *= 10
    after = own.account(*case)
    assert after.lost == pytest.approx(before.lost, rel=1e-9)
    assert after.norms == pytest.approx(before.norms + 2, rel=1e-9)


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [GRADIENT_CENSUS, HALVED_WEIGHTS, NIGHT_WARD, MESSAGE_NORMS, LOST_DECADES]


def test_neither_hint_nor_sentence_gives_the_number_away():
    numbers = {
        HALVED_WEIGHTS.check.name: ("62", "4.66", "e-07"),
        NIGHT_WARD.check.name: ("four units", "Not 4"),
    }
    for bank in (HALVED_WEIGHTS, NIGHT_WARD):
        said = all_that_is_said(bank)
        texts = [text.split(" (A hint")[0] for text in said]
        assert not [text for text in texts if any(n in text for n in numbers[bank.check.name])]
