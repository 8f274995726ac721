"""The checks of set 10 are checked: as in test_checks, and what they take for the truth is measured."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, networks, signals
from gradients_in_depth.checks import EMPTY
from gradients_in_depth.checks import set_10_gradient_clinic as own
from tests.check_banks import SEEDS, Bank, all_that_is_said, stub, swapped

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
        found = size(p.grad)
        return "zero" if found == 0 else "faint" if found <= limit else "alive"

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


def by_layer(model):
    return {name.split(".")[0]: word for name, word in size_first(largest)(model).items()}


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
        "untouched stub": ((stub,), EMPTY),
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
        "median": ((size_first(lambda g: g.abs().median()),), "a single entry that is not 0"),
        "smallest": ((size_first(lambda g: g.abs().min()),), "a single entry that is not 0"),
        "larger limit": ((size_first(largest, 0.5),), "ordinary gradient is called"),
        "zeroes the gradients": ((zeroes_the_gradients,), "What is in .grad is not what was there"),
        "thaws": ((thaws,), "Other parameters ask for a gradient"),
        "one word": ((by_word(lambda p: "alive"),), "One word for all"),
        "another word": ((by_word(lambda p: "vanished"),), "'vanished' is none of the words"),
        "without the frozen": ((without_the_frozen,), "is missing in the census"),
        "by layer": ((by_layer,), "is missing in the census"),
        "a list": ((lambda model: list(size_first(largest)(model).values()),), "should be a dictionary"),
        "nothing": ((lambda model: None,), "returns None"),
    },
    right={
        "in steps": (size_first(largest),),
        "in float64": (in_float64,),
        "two limits": (
            by_word(
                lambda p: (
                    "frozen"
                    if not p.requires_grad
                    else "no path"
                    if p.grad is None
                    else "zero"
                    if torch.equal(p.grad, torch.zeros_like(p.grad))
                    else "alive"
                    if max(p.grad.max(), -p.grad.min()) > 1e-12
                    else "faint"
                )
            ),
        ),
    },
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
    model, kinds = own._town(0)
    name = next(name for name, kind in kinds.items() if kind == "tiny")
    gradient = dict(model.named_parameters())[name].grad
    assert gradient.all() and gradient.square().sum().sqrt() == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_parameter_is_as_its_sentence_says(seed):
    model, kinds = own._town(seed)
    assert {name: own._PEOPLE[kind][1] for name, kind in kinds.items()} == in_float64(model)
    assert sorted(kinds.values()) == sorted(own._PEOPLE)


# --- Two owners halve their weights ------------------------------------------------------------------------

HALF = 2**29

HALVED_WEIGHTS = Bank(
    checks.halved_weights,
    wrong={
        "untouched stub": ((None, None, None), EMPTY),
        "forward: a norm": ((250, 250 / HALF, 250), "For forward: that is the factor of a norm"),
        "forward: a root": ((250**0.5, 250 / HALF, 250), "a root where a square belongs"),
        "forward: upside down": ((250**-2, 250 / HALF, 250), "For forward: upside down: which way"),
        "forward: both": ((1 / 250, 250 / HALF, 250), "upside down, and a square is missing"),
        "forward: level": ((1, 250 / HALF, 250), "in the other network, where a norm"),
        "forward: 30 steps": ((1.21**60, 250 / HALF, 250), "count the steps"),
        "forward: after": (((250 / HALF) ** 2, 250 / HALF, 250), "after the halving"),
        "plain: nothing": ((62_500, 250, 250), "For plain: as if nothing"),
        "plain: one half": ((62_500, 125, 250), "that is half of it"),
        "plain: 30 matrices": ((62_500, 250 / 2**30, 250), "count the matrices"),
        "plain: 28 matrices": ((62_500, 250 / 2**28, 250), "there are more matrices"),
        "plain: upside down": ((62_500, 250 * HALF, 250), "smaller weights pass less back"),
        "plain: last over first": ((62_500, HALF / 250, 250), "For plain it is not"),
        "plain: squared": ((62_500, 250 / HALF**2, 250), "For plain: squared"),
        "plain: no 250": ((62_500, 1 / HALF, 250), "the 250 from before is lost"),
        "plain: level": ((62_500, 1, 250), "as if half the weights were critical"),
        "normed: as plain": ((62_500, 250 / HALF, 250 / HALF), "For normed: as in the other network"),
        "normed: grows": ((62_500, 250 / HALF, 250 * HALF), "halves are multiplied out"),
        "normed: weight gradients": ((62_500, 250 / HALF, 500), "gradients of the WEIGHTS"),
        "normed: half": ((62_500, 250 / HALF, 125), "a factor of one half is left over"),
        "normed: level": ((62_500, 250 / HALF, 1), "was the gradient level before"),
        "normed: upside down": ((62_500, 250 / HALF, 1 / 250), "For normed: upside down"),
        "a guess": ((62_500, 250 / HALF, 77), "For normed it is not 77"),
        "zero": ((62_500, 0.0, 250), "For plain it is not 0"),
        "words": ((62_500, "small", 250), "should be one number"),
        "two answers": ((62_500, 250 / HALF), "takes forward and plain and normed"),
    },
    right={
        "exactly": (250**2, 250 / HALF, 250),
        "from the factor": (1.21**58, (1.21 / 2) ** 29, 1.21**29),
        "rounded, arrays": (np.array(62_000.0), torch.tensor(4.7e-7), np.float32(250)),
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
    found = signals.measure(
        model, inputs, outward, lambda outputs, g: (outputs * g).sum(), layers=networks.Block
    )
    norms = found.series("activation_gradient_norm")
    squares = found.series("activation_variance") + found.series("activation_mean") ** 2
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
        assert after / before == pytest.approx(2.0**-own._STEPS, rel=1e-9)
        before, after = ratios(normed, seed)[1], ratios(halved(normed), seed)[1]
        assert after / before == pytest.approx(1, rel=1e-6)


def test_the_plain_network_has_the_ratios_of_the_question():
    """In the mean of logarithms over 12 seeds, 256 units wide; a factor of 1.4 in a norm is let through."""
    logs = np.log([ratios(two_owners(seed, 256, gain=1.21), seed) for seed in range(12)])
    forward, backward = logs.mean(axis=0)
    assert backward == pytest.approx(math.log(own._RATIO), abs=0.35)
    assert forward == pytest.approx(2 * math.log(own._RATIO), abs=0.7)


# --- Two pairs ---------------------------------------------------------------------------------------------

RIGHT = {1: "collapse", 2: "weight scale", 3: "waist", 4: "slope"}


NIGHT_WARD = Bank(
    checks.night_ward,
    wrong={
        "untouched stub": ((dict.fromkeys(RIGHT), None), EMPTY),
        "empty diseases": ((dict.fromkeys(RIGHT), 4), EMPTY),
        "no number": ((RIGHT, None), EMPTY),
        "one answer": ((RIGHT,), "takes disease and units"),
        "a list": ((list(RIGHT.values()), 4), "a dictionary with the keys 1, 2, 3 and 4"),
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
        "outputs": ((RIGHT, 10), "how many numbers come out"),
        "what is lost": ((RIGHT, 6), "So many are LOST"),
        "width": ((RIGHT, 64), "width of the other layers"),
        "one less": ((RIGHT, 3), "the largest one too"),
        "one more": ((RIGHT, 5), "a tick on the axis"),
        "as in the lesson": ((RIGHT, 1), "lie on one line"),
        "a guess": ((RIGHT, 8), "Not 8"),
        "a fraction": ((RIGHT, 4.5), "should be a whole number"),
        "words": ((RIGHT, "few"), "should be one number"),
    },
    right={
        "as read": (RIGHT, 4),
        "another order, an array": (dict(reversed(RIGHT.items())), np.array(4.0)),
    },
)


@pytest.fixture(scope="module")
def drawings():
    """What the four dashboards show: by disease, the lines of SCALE, CORRELATION and SPECTRUM."""
    import matplotlib.pyplot as plt

    found = {}
    for number, name in RIGHT.items():
        scale, correlation, spectrum, _ = checks.night_chart(number)
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in scale.lines}
        found[name] = (
            lines["activation variance"],
            lines["gradient norm"],
            correlation.lines[0].get_ydata(),
            spectrum.lines[0].get_ydata(),
        )
        plt.close("all")
    return found


def test_the_dashboards_show_what_the_sentences_say(drawings):
    for name, (variance, gradient, cosine, singular) in drawings.items():
        falls = name in ("slope", "weight scale")
        assert (gradient[0] / gradient[-1] < 1e-10) == falls
        assert falls or gradient[0] / gradient[-1] > 0.1
        assert (variance[-1] / variance[0] < 1e-10) == (name == "weight scale")
        assert (cosine[-1] > 0.9) == (name in ("collapse", "slope"))
        drawn = np.isfinite(singular) & (np.nan_to_num(singular) > 0)
        assert drawn.sum() == (own._WAIST if name == "waist" else 10)


def test_each_patient_has_its_disease():
    """The recipe says so, and so does the model: slope, weight scale, width."""
    inputs = data.digits(dtype=torch.float64).train_inputs[:64]
    for name in RIGHT.values():
        model = own._night_model(name)
        assert sum(isinstance(layer, networks.Block) for layer in model) == 30
        weights = [layer.linear.weight for layer in model[:-1]]
        scale = np.median([w.std().item() * w.shape[1] ** 0.5 for w in weights])
        assert (scale < 0.5) == (name == "weight scale")
        assert min(len(w) for w in weights) == (own._WAIST if name == "waist" else 64)
        assert torch.isfinite(model(inputs)).all()


def test_a_patient_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="number must be one of 1, 2, 3, 4; got 5"):
        checks.night_chart(5)


# --- First, do no harm -------------------------------------------------------------------------------------


def walked(norm=torch.linalg.vector_norm, clone=True, missing=math.nan, mode=None, order=1):
    """By a walk through a copy, with one thing replaced."""

    def answer(model, inputs, targets, loss_fn):
        model = copy.deepcopy(model)
        if mode is not None:
            model.train(mode)
        outputs = [inputs]
        for layer in model:
            outputs.append(layer(outputs[-1].clone() if clone or len(outputs) == 1 else outputs[-1]))
        asked = [h for h in outputs[1:] if h.requires_grad]
        found = torch.autograd.grad(loss_fn(outputs[-1], targets), asked, allow_unused=True)
        known = {id(h): g for h, g in zip(asked, found, strict=True) if g is not None}
        norms = [float(norm(known[id(h)])) if id(h) in known else missing for h in outputs[1:]]
        return np.array(norms)[::order]

    return answer


def with_hooks(model, inputs, targets, loss_fn, remove=True, restore=True):
    """With forward hooks that put a hook on each output: the patient itself, restored by hand."""
    norms, handles = [math.nan] * len(model), []
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def watch(place):
        def keep(gradient):
            norms[place] = gradient.norm().item()

        def hook(module, given, output):
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


def gradients_zeroed(model, inputs, targets, loss_fn):
    norms = with_hooks(model, inputs, targets, loss_fn)
    model.zero_grad()
    return norms


def left_in_eval(model, inputs, targets, loss_fn):
    norms = walked()(model, inputs, targets, loss_fn)
    model.eval()
    return norms


def all_hooks_cleared(model, inputs, targets, loss_fn):
    for layer in model:
        layer._forward_hooks.clear()
    return walked()(model, inputs, targets, loss_fn)


def weights_changed(model, inputs, targets, loss_fn):
    norms = walked()(model, inputs, targets, loss_fn)
    with torch.no_grad():
        model[0].weight -= 0.01
    return norms


def inputs_scaled(model, inputs, targets, loss_fn):
    inputs *= 2
    return walked()(model, inputs, targets, loss_fn)


def of_what_goes_in(model, inputs, targets, loss_fn):
    norms = walked()(model, inputs, targets, loss_fn)
    return np.concatenate([[math.nan], norms[:-1]])


def of_what_goes_in_and_the_inputs(model, inputs, targets, loss_fn):
    padded = nn.Sequential(nn.Identity(), *model)
    return walked()(padded, inputs.clone().requires_grad_(), targets, loss_fn)[:-1]


def of_the_outputs(model, inputs, targets, loss_fn):
    norms, h = [], inputs
    for layer in copy.deepcopy(model):
        h = layer(h.clone())
        norms.append(h.norm().item())
    return norms


def by_the_course(model, inputs, targets, loss_fn):
    names = [name for name, _ in model.named_children()]
    found = signals.measure(model, inputs, targets, loss_fn, layers=names)
    return found.series("activation_gradient_norm")


MESSAGE_NORMS = Bank(
    checks.message_norms,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "zeros": ((walked(missing=0.0),), "0 says that a gradient came"),
        "None": ((walked(missing=None),), "write NaN where there is no number"),
        "in place": ((walked(clone=False),), "right but where the next layer works in place"),
        "squared": ((walked(lambda g: g.square().sum()),), "a root is missing"),
        "root mean square": ((walked(lambda g: g.square().mean() ** 0.5),), "root mean square"),
        "sizes": ((walked(lambda g: g.abs().sum()),), "a norm adds squares"),
        "largest": ((walked(lambda g: g.abs().max()),), "the largest entry"),
        "mean over examples": ((walked(lambda g: g.norm(dim=1).mean()),), "mean of the examples' norms"),
        "sum over examples": ((walked(lambda g: g.norm(dim=1).sum()),), "examples' norms are added up"),
        "averaged first": ((walked(lambda g: g.mean(0).norm()),), "averaged first"),
        "summed first": ((walked(lambda g: g.sum(0).norm()),), "added up first: they cancel"),
        "wrong axis": ((walked(lambda g: g.norm(dim=0).mean()),), "Even with linear layers"),
        "backwards": ((walked(order=-1),), "order is that of the way back"),
        "one off": ((of_what_goes_in,), "One off"),
        "one off, inputs too": ((of_what_goes_in_and_the_inputs,), "One off"),
        "outputs": ((of_the_outputs,), "norms of the outputs themselves"),
        "in eval mode": ((walked(mode=False),), "how it would be in eval mode"),
        "in training mode": ((walked(mode=True),), "how it would be in training mode"),
        "a larger mistake": ((lambda *a: 2 * walked()(*a),), "Even with linear layers"),
        "plain ones only": (
            (lambda *a: walked(lambda g: g.norm() * (1 if len(a[0]) == 5 and a[0].training else 3))(*a),),
            "A plain network is right",
        ),
        "hooks left": ((lambda *a: with_hooks(*a, remove=False),), "take away yours"),
        "hooks cleared": ((all_hooks_cleared,), "leave the owner's"),
        "statistics": ((lambda *a: with_hooks(*a, restore=False),), "running statistics of a batch norm"),
        "gradients": ((by_backward,), "What is in .grad is not what was there"),
        "gradients zeroed": ((gradients_zeroed,), "What is in .grad is not what was there"),
        "left in eval mode": ((left_in_eval,), "comes back in another mode"),
        "weights": ((weights_changed,), "The weights are not what they were"),
        "inputs": ((inputs_scaled,), "changes what it was given"),
        "too few": ((lambda *a: walked()(*a)[:-1],), "should be 5 numbers here, and you return 4"),
        "one number": ((lambda *a: walked()(*a)[0],), "should come as an array"),
        "a dictionary": ((lambda *a: dict(enumerate(walked()(*a))),), "should come as an array"),
        "hard-coded": ((lambda model, *_: np.ones(len(model)),), "Even with linear layers"),
        "negative": ((lambda *a: -walked()(*a),), "never negative"),
        "minus one for NaN": ((walked(missing=-1.0),), "never negative"),
        "takes the model alone": ((lambda model: None,), "stops with TypeError"),
        "no function": (([1.0],), "takes your function"),
    },
    right={
        "a walk": (walked(),),
        "hooks": (with_hooks,),
        "signals.measure": (by_the_course,),
        "a tensor": (lambda *a: torch.tensor(walked(lambda g: g.flatten().norm())(*a)),),
    },
)


@pytest.mark.parametrize("seed", range(8))
def test_the_norms_are_those_of_finite_differences(seed):
    """A push of the output of layer k, and what the loss makes of it: no autograd at all."""
    rng = np.random.default_rng(seed)
    model = own._stack(rng, 6, "norm", "relu", 5, "tanh", 3)
    inputs, targets = own._batch(rng, 3)
    found = own._norms(own._gradients(model, inputs, targets))
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
            assert found[k] == pytest.approx(gradient.norm().item(), rel=1e-5)


# --- Who lost the decades? ---------------------------------------------------------------------------------


def accounted(
    kinds=(nn.Linear, nn.BatchNorm1d), skip=(), start=0, end=0, log=np.log10, share=lambda w, s, n: (w, s)
):
    """The account, with one thing replaced; start, end: how many modules more on either side."""

    def answer(model, inputs, targets, loss_fn):
        levels = log(walked()(model, inputs, targets, loss_fn))
        bends = [k for k, layer in enumerate(model) if not isinstance(layer, nn.Linear | nn.BatchNorm1d)]
        lost = [0.0, 0.0]
        for k in range(bends[0] + 1 - start, bends[-1] + 1 + end):
            if not isinstance(model[k], tuple(skip)):
                lost[0 if isinstance(model[k], kinds) else 1] += levels[k] - levels[k - 1]
        return share(*lost, len(bends) - 1)

    return answer


def theory_only(model, inputs, targets, loss_fn):
    """Weight scales and mean squared slopes, as on paper."""
    weights = slopes = 0.0
    h, seen = inputs, False
    for layer in list(copy.deepcopy(model))[:-1]:
        z = h.detach().requires_grad_()
        h = layer(z)
        if isinstance(layer, nn.Linear) and seen:
            weights -= math.log10(layer.weight.square().mean().sqrt().item() * len(layer.weight) ** 0.5)
        elif not isinstance(layer, nn.Linear | nn.BatchNorm1d):
            if seen:
                slope = torch.autograd.grad(h.sum(), z)[0]
                slopes -= math.log10(slope.square().mean().sqrt().item())
            seen = True
    return weights, slopes


def telescoped(model, inputs, targets, loss_fn):
    """The slopes one by one, and the weights as what is left of the whole."""
    norms = np.array(by_the_course(model, inputs, targets, loss_fn))
    bends = [k for k, m in enumerate(model) if isinstance(m, nn.Sigmoid | nn.Tanh | nn.ReLU)]
    slopes = sum(math.log10(norms[k] / norms[k - 1]) for k in bends[1:])
    return [math.log10(norms[bends[-1]] / norms[bends[0]]) - slopes, slopes]


def left_in_evaluation(model, *rest):
    found = accounted()(model, *rest)
    model.eval()
    return found


LOST_DECADES = Bank(
    checks.lost_decades,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "gains": ((accounted(share=lambda w, s, n: (-w, -s)),), "signs are those of a gain"),
        "natural": ((accounted(log=np.log),), "natural logarithms"),
        "squared": ((accounted(log=lambda x: 2 * np.log10(x)),), "squared norms have twice"),
        "per layer": ((accounted(share=lambda w, s, n: (w / n, s / n)),), "That is per layer"),
        "factors": ((accounted(share=lambda w, s, n: (10**-w, 10**-s)),), "factors themselves"),
        "factors, upside down": ((accounted(share=lambda w, s, n: (10**w, 10**s)),), "factors themselves"),
        "swapped": ((accounted(share=lambda w, s, n: (s, w)),), "the wrong way round"),
        "norms with slopes": ((accounted(kinds=nn.Linear),), "batch norms stand with the slopes"),
        "norms left out": ((accounted(skip=(nn.BatchNorm1d,)),), "on no account"),
        "readout": ((accounted(end=1),), "The readout is on the account"),
        "first slope": ((accounted(start=1),), "slope of the first layer is on the account"),
        "whole model": ((accounted(start=1, end=1),), "The readout and the slope of the first layer"),
        "theory": ((theory_only,), "has to be measured"),
        "nothing lost": ((lambda *a: (0.0, 0.0),), "Nothing is lost anywhere"),
        "all to the weights": ((accounted(share=lambda w, s, n: (w + s, 0.0)),), "on the wrong one"),
        "halves": ((accounted(share=lambda w, s, n: ((w + s) / 2, (w + s) / 2)),), "on the wrong one"),
        "one layer too few": ((accounted(start=-2),), "add up to"),
        "hard-coded": ((lambda *a: (0.1, 0.6),), "add up to"),
        "not a number": ((lambda *a: (math.nan, math.nan),), "add up to nan"),
        "left in eval mode": ((left_in_evaluation,), "comes back in another mode"),
        "one number": ((accounted(share=lambda w, s, n: w + s),), "should come as an array"),
        "three numbers": ((accounted(share=lambda w, s, n: (w, s, w + s)),), "should be 2 numbers here"),
        "a dictionary": ((accounted(share=lambda w, s, n: {"w": w, "s": s}),), "should come as an array"),
    },
    right={
        "module by module": (accounted(),),
        "what is left": (telescoped,),
        "an array": (lambda *a: np.array(accounted()(*a)),),
        "a tensor": (lambda *a: torch.tensor(accounted()(*a)),),
    },
)


@pytest.mark.parametrize("seed", range(8))
def test_the_account_is_the_chain_rule_by_hand(seed):
    """Messages through W and through the slope, written down without autograd, for a plain tanh network."""
    rng = np.random.default_rng(seed)
    model = own._stack(rng, 9, "tanh", 7, "tanh", 8, "tanh", 3, gain=0.7)
    inputs, targets = own._batch(rng, 3)
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
    account = own._account(model, inputs, targets)
    assert [account["weights"], account["slopes"]] == pytest.approx(lost, rel=1e-9)
    assert account["norms"] == 0 and account["layers"] == 2


@pytest.mark.parametrize("seed", range(8))
def test_only_weights_and_norms_together_keep_their_blame(seed):
    """What the exercise says of weights ten times larger, and of no other way to do the account."""
    rng = np.random.default_rng(seed)
    model = own._stack(rng, 9, "norm", "relu", 9, "norm", "relu", 9, "norm", "relu", 4)
    for layer in model[1::3]:
        layer.eps = 1e-30
    inputs, targets = own._batch(rng, 4)
    before = own._account(model, inputs, targets)
    with torch.no_grad():
        for layer in model[:-1:3]:
            layer.weight *= 10
            layer.bias *= 10
    after = own._account(model, inputs, targets)
    assert after["slopes"] == pytest.approx(before["slopes"], rel=1e-9)
    assert after["weights"] + after["norms"] == pytest.approx(before["weights"] + before["norms"], rel=1e-9)
    assert after["weights"] == pytest.approx(before["weights"] - 2, rel=1e-9)


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
