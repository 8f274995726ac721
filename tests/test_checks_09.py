"""The checks of set 09 are checked: as in test_checks, and what they take for the truth is measured.

What the checks take for the truth is measured: by PyTorch's own dropout and optimizers, and by the scaler of
scikit-learn.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from gradients_in_depth import checks, data
from gradients_in_depth.checks import EMPTY
from gradients_in_depth.checks import set_09_optimizers_and_depth as own
from tests.check_banks import Bank, all_that_is_said, stub, verdict

# --- Dropout as it was in 2012 -----------------------------------------------------------------------------


def by_case(**replaced):
    """The right answer, with some of the four cases replaced."""
    cases = {
        "new_training": lambda p: 2 * p,
        "new_evaluation": lambda p: 2,
        "old_training": lambda p: 2 / p,
        "old_evaluation": lambda p: 2 / p**2,
    } | replaced
    return lambda keep, inverted, training: cases[
        f"{'new' if inverted else 'old'}_{'training' if training else 'evaluation'}"
    ](keep)


def everywhere(change):
    """What `change` makes of the right answer, in all cases."""
    right = by_case()
    return lambda *case: change(right(*case))


def by_sampling_a_mask(keep, inverted, training):
    """Weighs both outcomes of the mask."""
    values = {True: 1 / keep if inverted else 1.0, False: 0.0} if training else {True: 1.0, False: 1.0}
    if not training and not inverted:
        values = {True: keep, False: keep}
    square = keep * values[True] ** 2 + (1 - keep) * values[False] ** 2
    return torch.tensor(2.0 / square, dtype=torch.float64)


DROPOUT_START = Bank(
    checks.dropout_start,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "He": ((lambda *_: 2,), "the next layer hears the mean square"),
        "inverted, upside down": (
            (by_case(new_training=lambda p: 2 / p),),
            "Inverted dropout, training: upside",
        ),
        "inverted, division alone": ((by_case(new_training=lambda p: 2 * p**2),), "the division alone"),
        "inverted, mask forgotten": (
            (by_case(new_training=lambda p: 2 / p**2),),
            "that are dropped are forgotten",
        ),
        "inverted, evaluation as training": (
            (by_case(new_evaluation=lambda p: 2 * p),),
            "Inverted dropout, evaluation: that is for training",
        ),
        "inverted, evaluation made up for": (
            (by_case(new_evaluation=lambda p: 2 / p),),
            "what does this layer do to a signal in evaluation",
        ),
        "inverted, multiplied": ((by_case(new_evaluation=lambda p: 2 / p**2),), "the other kind of dropout"),
        "inverted, divided": ((by_case(new_evaluation=lambda p: 2 * p**2),), "the division belongs to"),
        "old as new": ((by_case(old_training=lambda p: 2 * p),), "Old dropout, training: that is for units"),
        "old, multiplied": ((by_case(old_training=lambda p: 2 / p**2),), "as if every unit were there"),
        "old, nothing lost": ((by_case(old_training=lambda p: 2),), "as if nothing were lost"),
        "old, root": ((by_case(old_training=lambda p: 2 / p**0.5),), "a root too many"),
        "old, not squared": ((by_case(old_evaluation=lambda p: 2 / p),), "to a mean SQUARE"),
        "old, half upside down": ((by_case(old_evaluation=lambda p: 2 * p),), "what becomes of its square"),
        "old, upside down": ((by_case(old_evaluation=lambda p: 2 * p**2),), "make up for what is lost"),
        "old, He": ((by_case(old_evaluation=lambda p: 2),), "the old kind multiplies in evaluation"),
        "no ReLU": ((everywhere(lambda x: x / 2),), "half of it is missing"),
        "what is left": ((everywhere(lambda x: 1 / x),), "what is left per layer"),
        "deviation": ((everywhere(math.sqrt),), "that is σ_w"),
        "drop for keep": ((lambda p, *case: by_case()(1 - p, *case),), "KEEP a unit, not to drop it"),
        "hard-coded": ((lambda *_: 1.3,), "it is not 1.3"),
        "modes exchanged": (
            (lambda p, inverted, training: by_case()(p, inverted, not training),),
            "the next layer hears the mean square",
        ),
        "not a number": ((lambda *_: math.nan,), "it is not nan"),
        "two numbers": ((lambda *_: np.ones(2),), "should be one number"),
    },
    right={
        "case by case": (by_case(),),
        "both outcomes of the mask": (by_sampling_a_mask,),
        "with powers": (lambda p, new, training: np.float64(2) * p ** (training - 2 * (not new)),),
    },
)


@pytest.mark.parametrize("keep", [0.5, 0.8])
@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_start_keeps_the_scale_through_real_dropout(keep, inverted, training):
    """Six layers of 500 units, torch's dropout, 64 inputs; the mean over eight seeds, to 4 % per layer."""
    weight_var = float(own._DROPOUT[inverted, training][0](np.array([keep]))[0])
    growth, width, depth = [], 500, 6
    for seed in range(8):
        torch.manual_seed(seed)  # F.dropout draws from torch's global generator
        weights = data.gaussian_batch(depth * width, width, seed).reshape(depth, width, width)
        z = first = data.gaussian_batch(64, width, 100 + seed)
        for weight in weights * math.sqrt(weight_var / width):
            h = F.dropout(torch.relu(z), 1 - keep, training=training)
            z = (h if inverted else keep * h) @ weight.T  # torch's mask is divided by keep
        growth.append(math.log(z.square().mean() / first.square().mean()) / depth)
    assert abs(np.mean(growth)) < 0.04


# --- Nothing of the fold that is left out ------------------------------------------------------------------


def each_fold(statistics, blank=lambda s: np.where(s > 0, s, 1.0)):
    """All rows by the statistics of (rows seen, rows left out, all rows)."""

    def standardized(inputs, fold):
        found = []
        for f in range(fold.max() + 1):
            mean, spread = statistics(inputs[fold != f], inputs[fold == f], inputs)
            with np.errstate(all="ignore"):
                found.append((inputs - mean) / blank(np.asarray(spread)))
        return np.array(found)

    return standardized


def clean(seen, left, both):
    return seen.mean(axis=0), seen.std(axis=0)


def parts(of_left):
    """The rows seen are right; those left out are what `of_left` makes of (rows left out, rows seen)."""

    def standardized(inputs, fold):
        found = each_fold(clean)(inputs, fold)
        for f in range(fold.max() + 1):
            found[f][fold == f] = of_left(inputs[fold == f])
        return found

    return standardized


def own_scale(rows):
    spread = rows.std(axis=0)
    return (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1)


def by_scikit_learn(inputs, fold):
    return np.stack([StandardScaler().fit(inputs[fold != f]).transform(inputs) for f in np.unique(fold)])


def by_torch(inputs, fold):
    inputs, fold = torch.from_numpy(inputs), torch.from_numpy(fold)
    found = []
    for f in fold.unique():
        spread, mean = torch.std_mean(inputs[fold != f], dim=0, correction=0)
        found.append((inputs - mean) / (spread + (spread == 0)))
    return torch.stack(found)


def images_scaled(inputs, fold):
    one = (inputs - inputs.mean(axis=1, keepdims=True)) / inputs.std(axis=1, keepdims=True)
    return np.stack([one] * (fold.max() + 1))


def standardized_in_place(inputs, fold):
    right = each_fold(clean)(inputs, fold)
    inputs -= inputs.mean(axis=0)
    return right


LEAKFREE_FOLDS = Bank(
    checks.leakfree_folds,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "the leak": ((each_fold(lambda seen, left, both: clean(both, 0, 0)),), "the leak that was"),
        "left out": ((each_fold(lambda seen, left, both: clean(left, 0, 0)),), "left out sets the scale"),
        "each its own": ((parts(own_scale),), "scaled by their own numbers"),
        "left as they were": ((parts(lambda rows: rows),), "stay as they were"),
        "leak in the deviation": (
            (each_fold(lambda seen, left, both: (seen.mean(axis=0), both.std(axis=0))),),
            "The means are clean",
        ),
        "leak in the mean": (
            (each_fold(lambda seen, left, both: (both.mean(axis=0), seen.std(axis=0))),),
            "The standard deviations are clean",
        ),
        "one for all pixels": ((each_fold(lambda s, *_: (s.mean(), s.std())),), "each pixel has its own"),
        "other axis": ((images_scaled,), "the other axis"),
        "variance": ((each_fold(lambda s, *_: (s.mean(axis=0), s.var(axis=0))),), "a root is missing"),
        "one less": (
            (each_fold(lambda s, *_: (s.mean(axis=0), s.std(axis=0, ddof=1))),),
            "not by one less",
        ),
        "no mean": ((each_fold(lambda s, *_: (0.0, s.std(axis=0))),), "no mean is taken off"),
        "no deviation": ((each_fold(lambda s, *_: (s.mean(axis=0), 1.0)),), "the spread is left as it was"),
        "divided by 0": ((each_fold(clean, blank=lambda s: s),), "not finite"),
        "divided by little": ((each_fold(clean, blank=lambda s: s + 1e-8),), "divided by a tiny number"),
        "set to 0": (
            (each_fold(clean, blank=lambda s: np.where(s > 0, s, np.inf)),),
            "set to 0: in the images left out",
        ),
        "one fold late": (
            (lambda x, fold: np.roll(each_fold(clean)(x, fold), 1, axis=0),),
            "With fold 0 left out",
        ),
        "only the last": (
            (lambda x, fold: np.stack([each_fold(clean)(x, fold)[-1]] * (fold.max() + 1)),),
            "is each entry in its place",
        ),
        "only those left out": ((lambda x, fold: own_scale(x),), "yours has shape (14, 5)"),
        "a fold missing": ((lambda x, fold: each_fold(clean)(x, fold)[:-1],), "yours has shape (2, 14, 5)"),
        "zeros": (
            (lambda x, fold: np.zeros((fold.max() + 1, *x.shape)),),
            "(0 and 1 would be right)",
        ),
        "a ragged list": (
            (lambda x, fold: [x[fold != f] for f in range(fold.max() + 1)],),
            "should be an array of shape",
        ),
        "in place": ((standardized_in_place,), "changes what it was given"),
    },
    right={
        "fold by fold": (each_fold(clean),),
        "by scikit-learn": (by_scikit_learn,),
        "by torch": (by_torch,),
        "a list of lists": (lambda x, fold: by_scikit_learn(x, fold).tolist(),),
    },
)


@pytest.mark.parametrize("seed", range(8))
def test_the_folds_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    inputs, fold = rng.normal(size=(40, 3)), rng.permutation(np.arange(40) % 5)
    inputs[:, 1] = np.where(np.arange(40) == 3, 2.0, 0.0)
    right, mistakes = own._folded(inputs, fold)
    assert np.allclose(right, by_scikit_learn(inputs, fold), rtol=1e-12)
    assert not any(np.allclose(right, wrong, rtol=1e-6) for wrong, _ in mistakes)


# --- A penalty that Adam cannot divide away ----------------------------------------------------------------


def by_optimizer(optimizer, **options):
    """The path of one of torch's optimizers."""

    def path(gradients, start, lr, weight_decay):
        w = torch.tensor(start, requires_grad=True)
        descent, found = optimizer([w], lr=lr, weight_decay=weight_decay, **options), []
        for w.grad in torch.tensor(gradients):
            descent.step()
            found.append(w.detach().clone())
        return torch.stack(found)

    return path


def stepped(
    decay=lambda w, w0, step, root, lr, lam: lr * lam * w,
    m_fill=lambda t: 1 - 0.9**t,
    v_fill=lambda t: 1 - 0.999**t,
    root_of=lambda v, fill: np.sqrt(v / fill) + 1e-8,
    keep=lambda path, start: np.array(path),
    betas=(0.9, 0.999),
    first=1,
):
    """AdamW as a loop, with one part replaced; decay is what a step takes off besides Adam's."""

    def path(gradients, start, lr, lam):
        w, m, v, found = start, 0.0, 0.0, []
        for t, g in enumerate(gradients, first):
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
            root = root_of(v, v_fill(t))
            step = lr * (m / m_fill(t)) / root
            w = w - step - decay(w, start, step, root, lr, lam)
            found.append(w)
        return keep(found, start)

    return path


def forgetful(gradients, start, lr, lam):
    """Begins anew in every step."""
    path = [start]
    for g in gradients:
        path.append(path[-1] * (1 - lr * lam) - lr * g / (np.abs(g) + 1e-8))
    return np.array(path[1:])


def adamw_in_place(gradients, start, lr, lam):
    path = []
    for w in stepped()(gradients, start, lr, lam):
        start[:] = w
        path.append(w)
    return np.array(path)


def decayed_once(gradients, start, lr, lam):
    return stepped(decay=lambda *_: 0)(gradients, start, lr, lam) - lr * lam * start


DECOUPLED_DECAY = Bank(
    checks.decoupled_decay,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "Adam with L2": ((by_optimizer(torch.optim.Adam),), "Adam with an L2 penalty"),
        "divided": (
            (stepped(decay=lambda w, w0, step, root, lr, lam: lr * lam * w / root),),
            "still divided by the root",
        ),
        "no decay": ((stepped(decay=lambda *_: 0),), "Adam alone"),
        "no lr": ((stepped(decay=lambda w, w0, step, root, lr, lam: lam * w),), "a share of λ"),
        "no λ": ((stepped(decay=lambda w, w0, step, root, lr, lam: lr * w),), "a share of lr"),
        "sign": ((stepped(decay=lambda w, w0, step, root, lr, lam: -lr * lam * w),), "a sign is wrong"),
        "twice": ((stepped(decay=lambda w, w0, step, root, lr, lam: 2 * lr * lam * w),), "Twice the share"),
        "after": (
            (stepped(decay=lambda w, w0, step, root, lr, lam: lr * lam * (w - step)),),
            "taken after Adam's step",
        ),
        "of the start": ((stepped(decay=lambda w, w0, step, root, lr, lam: lr * lam * w0),), "BEGAN"),
        "once": ((decayed_once,), "taken once, and not"),
        "no correction": ((stepped(m_fill=lambda t: 1, v_fill=lambda t: 1),), "both averages lack"),
        "m uncorrected": ((stepped(m_fill=lambda t: 1),), "average of the gradients lacks"),
        "v uncorrected": ((stepped(v_fill=lambda t: 1),), "average of the squares lacks"),
        "β exchanged": (
            (stepped(betas=(0.999, 0.9), m_fill=lambda t: 1 - 0.999**t, v_fill=lambda t: 1 - 0.9**t),),
            "longer memory",
        ),
        "ε inside": ((stepped(root_of=lambda v, fill: np.sqrt(v / fill + 1e-8)),), "ε stands under"),
        "ε too early": (
            (stepped(root_of=lambda v, fill: (np.sqrt(v) + 1e-8) / np.sqrt(fill)),),
            "ε is added before",
        ),
        "no ε": ((stepped(root_of=lambda v, fill: np.sqrt(v / fill)),), "is not finite"),
        "larger ε": (
            (stepped(root_of=lambda v, fill: np.sqrt(v / fill) + 1e-6),),
            "After step 1 the weight with gradients of size 1e-08",
        ),
        "t from 0": ((stepped(first=0),), "is not finite"),
        "t from 2": ((stepped(first=2),), "is your function Adam for weight_decay 0"),
        "no memory": ((forgetful,), "The first step is right, and step 2 is not"),
        "with the start": (
            (stepped(keep=lambda path, start: np.array([start, *path[:-1]])),),
            "is your function Adam for weight_decay 0",
        ),
        "one row too many": ((stepped(keep=lambda path, start: np.array([start, *path])),), "shape (2, 5)"),
        "the last only": ((stepped(keep=lambda path, start: path[-1]),), "yours has shape (5,)"),
        "transposed": ((stepped(keep=lambda path, start: np.array(path).T),), "yours has shape (5, 1)"),
        "changes the start": ((adamw_in_place,), "changes what it was given"),
        "words": ((lambda *_: "AdamW",), "should be an array"),
    },
    right={
        "by torch": (by_optimizer(torch.optim.AdamW),),
        "as a loop": (stepped(),),
        "a list of rows": (stepped(keep=lambda path, start: path),),
    },
)


@pytest.mark.parametrize("seed", range(8))
def test_adamw_is_that_of_torch(seed):
    """100 steps, gradients of five sizes, all weights to 1e-9."""
    rng = np.random.default_rng(seed)
    gradients = 10.0 ** np.array([-9, -6, -2, 0, 2]) * rng.normal(size=(100, 5))
    case = gradients, rng.normal(size=5), 0.01, 0.4
    assert np.abs(own._adamw(*case) - by_optimizer(torch.optim.AdamW)(*case).numpy()).max() < 1e-9
    l2 = by_optimizer(torch.optim.Adam)(*case).numpy()
    assert np.abs(own._adamw(*case, where="gradient") - l2).max() < 1e-9
    assert np.abs(own._adamw(*case) - l2).max() > 0.1


# --- One bad image -----------------------------------------------------------------------------------------

V = 0.001 * 400**2  # what the image leaves in v


def memory(surplus, left, beta=0.999):
    return math.log(surplus / left) / -math.log(beta)


AFTER_SPIKE = Bank(
    checks.after_spike,
    wrong={
        "untouched stub": ((None,), EMPTY),
        "three dots": ((...,), EMPTY),
        "v of 2": ((memory(V, 1),), "There v has fallen to 2"),
        "the ones forgotten": ((memory(V, 4),), "the gradients of 1 are in v as well"),
        "whole square": ((memory(400**2, 3),), "with its whole square: how much"),
        "whole square, no ones": ((memory(400**2, 4),), "the gradients of 1 were gone"),
        "whole square, v of 2": ((memory(400**2, 1),), "half the rate is not v = 2"),
        "not squared": ((memory(400, 3),), "an average of sizes"),
        "not squared, v of 2": ((memory(400, 1),), "an average of sizes"),
        "not squared, a half": ((memory(400, 2),), "an average of sizes"),
        "root of β": ((2 * memory(V, 3),), "the root of β₂"),
        "half in v": ((memory(V, 0.5),), "the rest of the image in v is one half"),
        "decimal logarithm": ((memory(V, 3) / math.log(10),), "but for the logarithm"),
        "one memory": ((1000,), "the length of v's memory"),
        "half-life": ((693,), "v forgets half"),
        "on the way down": ((19.1,), "BELOW half the rate"),
        "on the way down, rounded up": ((20,), "BELOW half the rate"),
        "m alone": ((35,), "the other average remembers longer"),
        "β₁": ((memory(0.1 * 400**2, 3, 0.9),), "That is with β₁"),
        "at once": ((0,), "0 is not it"),
        "a guess": ((3000,), "3e+03 is not it"),
        "infinite": ((math.inf,), "no number of steps"),
        "words": (("long",), "should be one number"),
    },
    right={
        "a number": (3974,),
        "rounded": (4000,),
        "with 1/1000 for the logarithm, an array": (np.array(1000 * math.log(V / 3)),),
        "by trying": (next(k for k in range(1, 9999) if 1 + V * 0.999**k <= 4),),
    },
)


def test_torchs_adam_is_back_at_half_the_rate_when_the_check_says():
    """A training that has run for long is a state in which both averages are 1."""
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, sizes = torch.optim.Adam([w], lr=1.0, eps=1e-30), []
    w.grad = torch.ones_like(w)
    optimizer.step()
    state = optimizer.state[w]
    state["step"].fill_(100_000)
    state["exp_avg"].fill_(1.0)
    state["exp_avg_sq"].fill_(1.0)
    for step in range(4100):
        before = w.item()
        w.grad = torch.full_like(w, 400.0 if step == 0 else 1.0)
        optimizer.step()
        sizes.append(before - w.item())
    sizes = np.array(sizes)  # sizes[k] is the step k steps after the bad one
    assert sizes[0] > 3 and (sizes[100:3900] < 0.5).all() and sizes.min() < 0.1
    back = 100 + int(np.argmax(sizes[100:] >= 0.5))
    assert back == pytest.approx(3974, abs=1.5)
    assert verdict(checks.after_spike, (back,), 0) is None
    assert int(np.argmax(sizes < 0.5)) == 20  # what "on the way down" is told about


def test_what_the_answer_says_about_clipping_and_a_larger_spike():
    assert memory(100 * V, 3) - memory(V, 3) == pytest.approx(4600, rel=0.002)
    assert 1 / math.sqrt(1 + 0.001 * (10**2 - 1)) > 0.95
    k = np.arange(3974)
    root = np.sqrt(1 + V * 0.999**k)
    assert (40 * 0.9**k / root).sum() == pytest.approx(31, abs=2)  # moved by the spike
    assert (1 - 1 / root).sum() > 2000  # kept from being moved


# --- The word that comes once in a thousand steps ----------------------------------------------------------


def simulated(periods_settled=None, choose=lambda steps: steps.sum(), corrected=False):
    """NumPy's Adam, step by step, and the last period of it."""

    def movement(period, beta1, beta2):
        count = periods_settled or math.ceil(12 / (1 - beta2) / period) + 2
        m = v = 0.0
        steps = []
        for t in range(count * period):
            g = float(t % period == 0)
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g
            fills = (1 - beta1 ** (t + 1), 1 - beta2 ** (t + 1)) if corrected else (1, 1)
            steps.append(m / fills[0] / math.sqrt(v / fills[1]))
        return choose(np.array(steps[-period:]))

    return movement


def closed(m_fill=True, v_fill=True, lone=False):
    def movement(period, beta1, beta2):
        r = beta1 / math.sqrt(beta2)
        total = (1 - beta1) / math.sqrt(1 - beta2) * (1 if lone else 1 - r**period) / (1 - r)
        if m_fill:
            total /= 1 - beta1**period
        return total * (math.sqrt(1 - beta2**period) if v_fill else 1)

    return movement


def frozen(which):
    """v stands still at its value in one step of the period."""

    def movement(period, beta1, beta2):
        v = (1 - beta2) * beta2 ** np.arange(period) / (1 - beta2**period)
        return 1 / math.sqrt(v[which])

    return movement


def without_root(period, beta1, beta2):
    k = np.arange(period)
    v = (1 - beta2) * beta2**k / (1 - beta2**period)
    return ((1 - beta1) * beta1**k / (1 - beta1**period) / v).sum()


RARE_GRADIENT = Bank(
    checks.rare_gradient,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "as SGD": ((lambda *_: 1.0,), "As with SGD"),
        "full steps": ((lambda period, *_: period,), "As if every step were a whole learning rate"),
        "root": ((lambda period, *_: period**0.5,), "while v hardly changes within a period: here"),
        "one over the root": ((lambda period, *_: period**-0.5,), "about one STEP"),
        "lone": ((closed(m_fill=False, v_fill=False, lone=True),), "a single gradient that never comes"),
        "first step": ((simulated(choose=lambda s: s[0]),), "the step WITH the gradient alone"),
        "v of the gradient": ((frozen(0),), "As if v stood still"),
        "v at the end": ((frozen(-1),), "just before the next occurrence"),
        "no root": ((without_root,), "where is the root"),
        "per step": ((simulated(choose=np.mean),), "the movement per STEP"),
        "m of the last": ((closed(m_fill=False),), "In m only the last"),
        "v of the last": ((closed(v_fill=False),), "In v only the last"),
        "first period": ((simulated(1, corrected=True),), "the FIRST period"),
        "begins late": ((simulated(choose=lambda s: s[1:].sum()),), "begin to count there"),
        "sign": ((lambda *case: -closed()(*case),), "The sign"),
        "not settled": ((simulated(2),), "of a training that has settled"),
        "hard-coded": ((lambda *_: 31.8,), "For period 1,"),
        "in steps": ((lambda period, *_: np.ones(period),), "should be one number"),
        "not a number": ((lambda *_: math.nan,), "it is not nan"),
    },
    right={
        "closed": (closed(),),
        "simulated": (simulated(),),
        "simulated, with corrections": (simulated(corrected=True),),
    },
)


@pytest.mark.parametrize(("period", "beta1", "beta2"), [(1, 0.9, 0.99), (7, 0.8, 0.99), (300, 0.9, 0.98)])
def test_the_movement_is_that_of_torchs_adam_whatever_the_gradient(period, beta1, beta2):
    """Two sizes of the gradient; the last period of some 1500 steps, to 0.1 %."""
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=1.0, betas=(beta1, beta2), eps=0.0)
    count = math.ceil(1500 / period)
    for t in range(count * period):
        if t == (count - 1) * period:
            before = w.detach().clone()
        w.grad = torch.tensor([1e-3, 1e3], dtype=torch.float64) * (t % period == 0)
        optimizer.step()
    m, v = own._occurrence(period, beta1, beta2)
    moved = (before - w.detach()).tolist()
    assert moved == pytest.approx([np.sum(m / np.sqrt(v))] * 2, rel=1e-3)


def test_what_the_answer_says_about_the_root_and_its_end():
    assert closed()(100, 0.9, 0.999) == pytest.approx(10, rel=0.06)
    assert closed()(100_000, 0.9, 0.999) == pytest.approx(32, rel=0.01)


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [DROPOUT_START, LEAKFREE_FOLDS, DECOUPLED_DECAY, AFTER_SPIKE, RARE_GRADIENT]


def test_neither_hint_nor_sentence_gives_the_number_away():
    said = all_that_is_said(AFTER_SPIKE)
    numbers = ("3974", "3970", "3975", "4000", "3.97e+03")
    assert not [text for text in said if any(number in text for number in numbers)]
