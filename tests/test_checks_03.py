"""The checks of set 03 are checked: as in test_checks, and what they take for the truth is measured."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, networks, signals, theory
from gradients_in_depth.checks import EMPTY
from gradients_in_depth.checks import set_03_relu_and_variants as own
from gradients_in_depth.training import sweep
from tests.check_banks import Bank, all_that_is_said, stub

# --- Who died, and who never lived? ------------------------------------------------------------------------


def off(batches):
    return ~np.any([(batch > 0).any(axis=0) for batch in batches], axis=0)


def counted(rule=off, combine=lambda one, two: (one & two, ~one & two, one & ~two)):
    """With one step replaced."""
    return lambda before, after: [np.count_nonzero(mask) for mask in combine(rule(before), rule(after))]


def of_batches(reduce):
    """The three counts of each pair of batches, then their mean or sum."""
    return lambda before, after: reduce(
        [counted()([one], [two]) for one, two in zip(before, after, strict=True)], axis=0
    )


def in_a_loop(before, after):
    """With sets of numbers of units, as somebody writes it who avoids arrays of True and False."""
    dead = []
    for record in (before, after):
        silent = set(range(record[0].shape[1]))
        for batch in record:
            for image in batch:
                silent -= {unit for unit in silent if image[unit] > 0}
        dead.append(silent)
    return torch.tensor([len(dead[0] & dead[1]), len(dead[1] - dead[0]), len(dead[0] - dead[1])])


def clipped_in_place(before, after):
    for batch in before + after:
        np.maximum(batch, 0, out=batch)
    return counted(lambda z: np.concatenate(z).sum(axis=0) == 0)(before, after)


def net(before, after):
    one, two = off(before), off(after)
    change = int(two.sum()) - int(one.sum())
    return np.sum(one & two), max(change, 0), max(-change, 0)


OBITUARY = Bank(
    checks.obituary,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "z of 0 is on": ((counted(lambda z: np.concatenate(z).max(axis=0) < 0),), "exactly 0"),
        "first batch": ((counted(lambda z: off(z[:1])),), "the first batch alone"),
        "last batch": ((counted(lambda z: off(z[-1:])),), "the last batch alone"),
        "some batch": ((counted(lambda z: np.any([off([b]) for b in z], axis=0)),), "in SOME batch"),
        "mean of batches": ((of_batches(np.mean),), "means over batches"),
        "sum of batches": ((of_batches(np.sum),), "sums over batches"),
        "on average": ((counted(lambda z: np.concatenate(z).mean(axis=0) <= 0),), "off ON AVERAGE"),
        "some image": ((counted(lambda z: np.concatenate(z).min(axis=0) <= 0),), "off on SOME image"),
        "wrong axis": ((counted(lambda z: np.concatenate(z).max(axis=1) <= 0),), "Images are counted"),
        "no comparison": ((counted(combine=lambda o, t: (o, t, o & ~t)),), "off at one time are all counted"),
        "all at the start": ((counted(combine=lambda o, t: (o, ~o & t, o & ~t)),), "everybody who was off"),
        "all of today": ((counted(combine=lambda o, t: (o & t, t, o & ~t)),), "were off on arrival"),
        "net": ((net,), "cancel in it"),
        "net died": (
            (lambda b, a: (counted()(b, a)[0], off(a).sum() - off(b).sum(), counted()(b, a)[2]),),
            "The second is a difference",
        ),
        "swapped": ((lambda b, a: counted()(a, b),), "have changed places"),
        "shares": ((lambda b, a: np.array(counted()(b, a)) / 60,), "Those are shares"),
        "hard-coded": ((lambda b, a: (5, 8, 3),), "make a log of three units"),
        "not numbers": ((lambda b, a: (math.nan,) * 3,), "make a log of three units"),
        "two numbers": ((lambda b, a: counted()(b, a)[:2],), "of shape (3,)"),
        "masks": ((lambda b, a: (off(b), off(a), off(a)),), "should be 3 numbers"),
        "words": ((lambda b, a: ("few", "many", "none"),), "something else comes back"),
        "in place": ((clipped_in_place,), "changes what it was given"),
    },
    right={
        "batch by batch": (counted(),),
        "in a loop, a tensor": (in_a_loop,),
        "by ReLU itself": (counted(lambda z: sum(F.relu(torch.tensor(b)).sum(0) for b in z).numpy() == 0),),
    },
)


def test_the_logs_have_what_the_sentences_speak_of():
    for seed in range(20):
        before, after = own._layer_log(np.random.default_rng([31, seed]))
        assert len(before) == len(after) and len({len(batch) for batch in before}) > 1
        assert sum(map(len, before)) == sum(map(len, after))
        one, two = off(before), off(after)
        for mask in (one & two, ~one & two, one & ~two):
            assert 3 <= mask.sum() <= 12
        for record in (before, after):
            z = np.concatenate(record)
            assert (z.max(axis=0) == 0).sum() == 1
            assert ((z > 0).sum(axis=0) == 1).sum() >= 10


def test_a_silent_unit_gets_no_gradient_from_any_image_and_every_other_one_does():
    before, _ = own._layer_log(np.random.default_rng(3))
    heard = 0
    for batch in before:
        z = torch.tensor(batch, requires_grad=True)
        (gradient,) = torch.autograd.grad(torch.relu(z).sum(), z)
        heard = heard + gradient.abs().sum(dim=0).numpy()
    assert ((heard == 0) == off(before)).all()


# --- Dead on one batch -------------------------------------------------------------------------------------

NORMAL = NormalDist()
BIAS, IMAGES = -2.2983, 637.8

SILENT_BY_CHANCE = Bank(
    checks.silent_by_chance,
    wrong={
        "untouched stub": ((None, None), EMPTY),
        "no images": ((BIAS, ...), EMPTY),
        "sign": ((2.3, IMAGES), "nearly every unit is on"),
        "half of the images": ((0.0, IMAGES), "half of the UNITS"),
        "share": ((0.01077, IMAGES), "the share of images for which"),
        "one in 64": ((NORMAL.inv_cdf(1 / 64), IMAGES), "ON AVERAGE"),
        "one in 128": ((NORMAL.inv_cdf(1 / 128), IMAGES), "multiply the chances to be off"),
        "two tails": ((-2.55, IMAGES), "two tails"),
        "power upside down": ((NORMAL.inv_cdf(0.5**64), IMAGES), "for the whole batch"),
        "square": ((BIAS**2, IMAGES), "A square"),
        "a guess": ((-2.0, IMAGES), "With a bias of -2, a share of 0.23"),
        "just too far": ((-2.33, IMAGES), "With a bias of -2.33"),
        "not a number": ((math.nan, IMAGES), "With a bias of nan"),
        "words": (("small", IMAGES), "should be one number"),
        "batches": ((BIAS, IMAGES / 64), "a number of batches"),
        "on top": ((BIAS, IMAGES - 64), "count it as well"),
        "natural logarithm": ((BIAS, 64 * math.log(1000)), "a factor of e"),
        "decimal logarithm": ((BIAS, 192), "a factor of 10"),
        "in proportion": ((BIAS, 32_000), "two batches would leave a quarter"),
        "in proportion to 1000": ((BIAS, 64_000), "not divided by their number"),
        "once on average": ((BIAS, 93), "has been on ONCE"),
        "units": ((BIAS, 1000), "counts units"),
        "images guessed": ((BIAS, 256), "a share of 0.062"),
        "negative": ((BIAS, -640), "Over -640 images"),
    },
    right={
        "numbers": (BIAS, IMAGES),
        "rounded": (-2.3, 638),
        "ten batches": (np.array(-2.29), 640),
        "by trying": (
            brentq(lambda b: NORMAL.cdf(-b) ** 64 - 0.5, -5, 0),
            next(n for n in range(1, 9999) if NORMAL.cdf(-BIAS) ** n <= 1e-3),
        ),
    },
)


def test_the_units_of_that_bias_are_silent_as_often_as_the_exercise_says():
    """Eight seeds of 4000 units; the standard error of a share is 0.003, and of the small one 0.0002."""
    short, long = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        largest = np.full(4000, -np.inf)
        for count in (64, 638 - 64):
            for _ in range(count):
                np.maximum(largest, rng.standard_normal(4000), out=largest)
            (short if count == 64 else long).append(np.mean(largest + BIAS <= 0))
    assert np.mean(short) == pytest.approx(0.5, abs=0.012)
    assert np.mean(long) == pytest.approx(1e-3, abs=8e-4)


# --- What a slope hears ------------------------------------------------------------------------------------


def forward(weights, slopes, inputs):
    """z and h of all layers."""
    kept, h = [], inputs
    for weight, slope in zip(weights, slopes, strict=True):
        z = h @ weight.T
        h = z * np.where(z < 0, slope, 1.0)
        kept.append((z, h))
    return kept


def by_hand(
    hears=lambda z, h, a: np.minimum(z, 0),
    passes=lambda z, h, a: np.where(z < 0, a, 1.0),
    matrix=lambda weight: weight,
    reduce=np.sum,
):
    """From the last layer down, with one step replaced."""

    def gradients(weights, slopes, inputs, message):
        found = []
        for (z, h), weight, a in reversed(
            list(zip(forward(weights, slopes, inputs), weights, slopes, strict=True))
        ):
            found.insert(0, reduce(message * hears(z, h, a)))
            message = (message * passes(z, h, a)) @ matrix(weight)
        return found

    return gradients


def by_autograd(weights, slopes, inputs, message):
    """With PyTorch's own PReLU."""
    parameters = torch.tensor(slopes, requires_grad=True)
    h = torch.tensor(inputs)
    for weight, a in zip(weights, parameters, strict=True):
        h = F.prelu(h @ torch.tensor(weight).T, a.reshape(1))
    return torch.autograd.grad(h, parameters, torch.tensor(message))[0]


def by_differences(weights, slopes, inputs, message):
    """The loss is any with this message: the sum of message · h."""
    step, found = 1e-6, np.zeros(len(slopes))
    for layer in range(len(slopes)):
        shift = step * np.eye(len(slopes))[layer]
        up, down = (forward(weights, slopes + s, inputs)[-1][1] for s in (shift, -shift))
        found[layer] = np.sum(message * (up - down)) / (2 * step)
    return found


def same_message(weights, slopes, inputs, message):
    return [np.sum(message * np.minimum(z, 0)) for z, _ in forward(weights, slopes, inputs)]


def by_division(weights, slopes, inputs, message):
    """z from h by division: nothing comes of a slope of 0."""
    return by_hand(hears=lambda z, h, a: np.where(z < 0, h / a, 0))(weights, slopes, inputs, message)


def in_place(weights, slopes, inputs, message):
    message *= 2
    return by_hand()(weights, slopes, inputs, message / 2)


def told_by_outputs(**others):
    return by_hand(hears=lambda z, h, a: np.where(h < 0, z, 0), **others)


LEAK_GRADIENTS = Bank(
    checks.leak_gradients,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "mean": ((by_hand(reduce=np.mean),), "a mean over images and units"),
        "mean of images": ((by_hand(reduce=lambda x: x.mean(axis=0).sum()),), "a mean over the images"),
        "mean of units": ((by_hand(reduce=lambda x: x.mean(axis=1).sum()),), "a mean over the units"),
        "sign": ((lambda *case: -np.array(by_hand()(*case)),), "The sign is turned"),
        "reversed": ((lambda *case: by_hand()(*case)[::-1],), "The order is turned"),
        "other side": ((by_hand(hears=lambda z, h, a: np.maximum(z, 0)),), "the other side"),
        "both sides": ((by_hand(hears=lambda z, h, a: z),), "All of z is counted"),
        "absolute": ((by_hand(hears=lambda z, h, a: np.maximum(-z, 0)),), "The sign is turned"),
        "no z": ((by_hand(hears=lambda z, h, a: 1.0 * (z < 0)),), "z is missing"),
        "slope too many": ((by_hand(hears=lambda z, h, a: np.where(z < 0, h, 0)),), "A slope too many"),
        "sides by output": ((told_by_outputs(),), "told by the OUTPUT"),
        "sides by output, twice": (
            (told_by_outputs(passes=lambda z, h, a: np.where(h < 0, a, 1.0)),),
            "told by the OUTPUT",
        ),
        "back as a ReLU": ((by_hand(passes=lambda z, h, a: 1.0 * (z >= 0)),), "a plain ReLU"),
        "back as linear": ((by_hand(passes=lambda z, h, a: 1.0),), "through the weights alone"),
        "back with the value": ((by_hand(passes=lambda z, h, a: h),), "the activation's VALUE"),
        "transposed": ((by_hand(matrix=lambda w: w.T),), "the transposed matrix"),
        "no weights": ((by_hand(matrix=lambda w: np.eye(len(w))),), "never goes through the weights"),
        "same message": ((same_message,), "the message of the last one"),
        "by division": ((by_division,), "divided by a slope"),
        "last layer only": (
            (lambda *case: np.append(np.zeros(len(case[1]) - 1), by_hand()(*case)[-1]),),
            "The last layer's number is right",
        ),
        "all zero": ((lambda *case: np.zeros(len(case[1])),), "Not even the last"),
        "hard-coded": ((lambda *case: np.full(len(case[1]), 0.25),), "Not even the last"),
        "one number": ((lambda *case: sum(by_hand()(*case)),), "has shape ()"),
        "by unit": ((by_hand(reduce=lambda x: x.sum(axis=0)),), "and what comes back has shape"),
        "in place": ((in_place,), "changes what it was given"),
    },
    right={"by hand": (by_hand(),), "autograd": (by_autograd,), "differences": (by_differences,)},
)


def test_what_the_check_takes_for_the_gradient_is_that_of_autograd():
    for seed in range(30):  # in some of them the layer of slope 0 would be off altogether for an image
        case = own._leaky_case(np.random.default_rng(seed), 4)
        assert sorted(case[1])[:2] == [-0.3, 0.0]
        np.testing.assert_allclose(own._went_back(*case), by_autograd(*case), rtol=1e-9)
        np.testing.assert_allclose(own._went_back(*case), by_differences(*case), rtol=1e-4, atol=1e-6)


def test_a_prelu_at_slope_0_wakes_a_unit_that_is_off_on_all_images():
    """What the fold says: the slope hears in the first step, the weights from the second one on."""
    x = torch.rand(50, 3, dtype=torch.float64)
    linear, activation = nn.Linear(3, 4, dtype=torch.float64), nn.PReLU(init=0.0, dtype=torch.float64)
    nn.init.constant_(linear.weight, -1.0)
    nn.init.constant_(linear.bias, -0.1)
    gradients = []
    for _ in range(2):
        activation(linear(x)).sum().backward()
        gradients.append((linear.weight.grad.abs().max().item(), activation.weight.grad.item()))
        with torch.no_grad():
            activation.weight -= 0.001 * activation.weight.grad
    assert gradients[0][0] == 0 != gradients[0][1]
    assert gradients[1][0] > 0


# --- "A leak of 0.3 cured it" ------------------------------------------------------------------------------

DIGITS = data.digits(dtype=torch.float64)


def thirty_layers(leak):
    def make(seed):
        settings = {"initialization": "gaussian", "gain": math.sqrt(2), "dtype": torch.float64}
        model = networks.DeepMLP(30, 20, activation="relu", seed=seed, **settings)
        for block in model.blocks:
            block.activation = nn.LeakyReLU(leak)
        return model

    return make


def cosine_of_digits(leak, seed):
    found = signals.measure(
        thirty_layers(leak)(seed),
        DIGITS.train_inputs[:64],
        loss_fn=lambda outputs: outputs.square().mean(),
        layers=networks.Block,
    )
    return found.series("cosine")[-1]


def test_a_leak_of_the_other_sign_leaves_units_alive_and_does_not_cure():
    """The notebook shows 2.05 for a leak of 0.3, with the same plan."""
    plan = {"learning_rates": (0.02, 0.06), "seeds": range(5), "epochs": 4, "batch_size": 75}
    loss = sweep(thirty_layers(-0.3), DIGITS, **plan).loss_by_epoch[:, :, -1]
    assert np.nanmedian(loss, axis=1).min() > 2.25
    cosine = {leak: np.median([cosine_of_digits(leak, seed) for seed in range(8)]) for leak in (0.3, 0, -0.3)}
    assert cosine[0.3] < cosine[0] < cosine[-0.3]


class LeakOnTheWayBack(nn.Module):
    """ReLU to the last digit; its gradient is a leaky ReLU's of slope 0.3."""

    def forward(self, z):
        leaky = F.leaky_relu(z, 0.3)
        return leaky + (F.relu(z) - leaky).detach()


def test_the_model_answers_treatment_does_what_it_says_there():
    """Exercise 4's model answer: its control keeps units alive and the cosines ReLU's, and does not cure."""

    def make(seed):
        model = thirty_layers(0.0)(seed)
        for block in model.blocks:
            block.activation = LeakOnTheWayBack()
        return model

    assert torch.allclose(make(0)(DIGITS.train_inputs), thirty_layers(0.0)(0)(DIGITS.train_inputs))
    plan = {"learning_rates": (0.002, 0.02, 0.06), "seeds": range(5), "epochs": 4, "batch_size": 75}
    loss = sweep(make, DIGITS, **plan).loss_by_epoch[:, :, -1]
    diverged = np.isnan(loss).sum(axis=1)
    assert diverged[0] == 0 and set(diverged[1:]) <= {2, 3}
    assert np.nanmedian(loss, axis=1).min() >= 2.265


def test_the_gain_of_a_leak_depends_on_its_square_alone():
    for leak in (0.3, -0.3):
        z = data.gaussian_batch(4000, 100, seed=1)
        assert 2 * F.leaky_relu(z, leak).square().mean().item() == pytest.approx(1.09, abs=0.01)


# --- The smallest leak that keeps two inputs apart ---------------------------------------------------------


def share(a):
    return (1 - a) ** 2 / (1 + a**2)


def leaky_map(a, c):
    return (2 * a * c + (1 - a) ** 2 * theory.relu_cosine_map(c)) / (1 + a**2)


def searched(one_layer=leaky_map, more=0, begin=lambda start: start, result=lambda a: a):
    """By a root finder, with one step replaced."""

    def smallest(depth, start, limit):
        def excess(a):
            c = begin(start)
            for _ in range(depth + more):
                c = min(one_layer(a, c), 1.0)
            return c - limit

        return result(brentq(excess, 0, 1))

    return smallest


def relu(c):
    return theory.relu_cosine_map(c)


def by_table(depth, start, limit):
    """Nobody's formula: the map of one layer by a sum over a grid of angles, for each slope of the search."""
    angles = np.linspace(0, 2 * np.pi, 1440, endpoint=False)

    def one_layer(a, c):
        u, v = np.cos(angles), np.cos(angles - math.acos(min(max(c, -1), 1)))
        fu, fv = (np.where(z < 0, a * z, z) for z in (u, v))
        return np.mean(fu * fv) / np.mean(fu**2)

    return searched(one_layer)(depth, start, limit)


SAVING_LEAK = Bank(
    checks.saving_leak,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "mixed": ((searched(lambda a, c: a * c + (1 - a) * relu(c)),), "slope and 1 - slope"),
        "mixed squares": ((searched(lambda a, c: a**2 * c + (1 - a**2) * relu(c)),), "slope² and 1 - slope²"),
        "left side linear": (
            (searched(lambda a, c: (relu(c) + a**2 * c) / (1 + a**2)),),
            "stops with ValueError",
        ),
        "two of four terms": (
            (searched(lambda a, c: (a**2 * c + (1 - a) ** 2 * relu(c)) / (a**2 + (1 - a) ** 2)),),
            "Two of four terms",
        ),
        "no scale": ((searched(lambda a, c: c + (1 - a) ** 2 * (relu(c) - c)),), "The scale is missing"),
        "a layer more": ((searched(more=1),), "one layer more"),
        "a layer less": ((searched(more=-1),), "one layer less"),
        "right angle": ((searched(begin=lambda _: 0.0),), "starts at a right angle"),
        "share": ((searched(result=share),), "the share of ReLU's pull"),
        "1 - slope": ((searched(result=lambda a: 1 - a),), "how much of the ReLU is left"),
        "linear": ((lambda *_: 1.0,), "a linear layer"),
        "ReLU": ((lambda *_: 0.0,), "a plain ReLU"),
        "PyTorch's leak": ((lambda *_: 0.01,), "With a slope of 0.01"),
        "hard-coded": ((lambda *_: 0.5,), "With a slope of 0.5"),
        "a little off": ((searched(result=lambda a: 1.03 * a),), "just keeps it"),
        "too large": ((lambda *_: 2.0,), "A slope from 0 to 1 is asked for"),
        "not a number": ((lambda *_: math.nan,), "yours is nan"),
        "infinite": ((lambda *_: math.inf,), "yours is inf"),
        "an array": ((lambda depth, *_: np.ones(depth),), "one number, and is an array"),
        "no return": ((lambda *_: None,), "returns None"),
    },
    right={
        "searched": (searched(),),
        "by the share": (searched(lambda a, c: c + share(a) * (relu(c) - c)),),
        "by a table": (by_table,),
    },
)


@pytest.mark.parametrize("slope", [0.5, 0.2, -0.3, -1.0])
def test_the_cosine_behind_leaky_layers_is_that_of_wide_networks(slope):
    """Eight networks of six layers, 1000 units each, two inputs of cosine 0.1."""
    found = []
    for seed in range(8):
        h = torch.zeros(2, 1000)
        h[0, 0], h[1, 0], h[1, 1] = 1.0, 0.1, math.sqrt(1 - 0.01)
        generator = data.seeded_generator(seed)
        for _ in range(6):
            h = F.leaky_relu(h @ torch.randn(1000, 1000, generator=generator), slope)
            h = h / h.norm(dim=1, keepdim=True)
        found.append((h[0] @ h[1]).item())
    assert np.mean(found) == pytest.approx(own._alike(slope, 0.1, 6), abs=0.02)


def test_at_the_ends_the_map_is_known():
    assert own._alike(0.0, 0.3, 1) == pytest.approx(theory.relu_cosine_map(0.3))
    assert own._alike(1.0, 0.3, 50) == pytest.approx(0.3)
    assert own._alike(-1.0, 0.0, 1) == pytest.approx(2 / math.pi)
    assert share(2 - math.sqrt(3)) == pytest.approx(0.5)


def test_a_larger_slope_keeps_inputs_apart_so_there_is_a_smallest_one():
    for seed in range(20):
        for depth, start, limit in own._leak_cases(np.random.default_rng([35, seed])):
            after = [own._alike(slope, start, depth) for slope in np.linspace(0, 1, 21)]
            assert (np.diff(after) < 0).all()
            assert after[-1] < limit < after[0]


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [OBITUARY, SILENT_BY_CHANCE, LEAK_GRADIENTS, SAVING_LEAK]


def test_neither_hint_nor_sentence_gives_the_number_away():
    bank = SILENT_BY_CHANCE
    rights = {"2.30", "2.29", "2.298", "637", "638", "640 images"}
    said = all_that_is_said(bank, but=["negative"])
    assert not [text for text in said if any(number in text for number in rights)]
