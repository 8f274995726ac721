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
from tests.check_banks import Bank, all_that_is_said, verdict

# --- Dropout as it was in 2012 -----------------------------------------------------------------------------


def by_both_outcomes(keep, inverted, training):
    """Weighs a unit that is there and one that is not."""
    there = (1 / keep if inverted else 1.0) if training else 1.0 if inverted else keep
    dropped = 0.0 if training else there
    return 2.0 / (keep * there**2 + (1 - keep) * dropped**2)


DROPOUT_START = Bank(
    checks.dropout_start,
    wrong={
        "hard-coded": ((lambda *_: 1.3,), "it is not 1.3"),
        "modes exchanged": (
            (lambda keep, inverted, training: by_both_outcomes(keep, inverted, not training),),
            "the next layer hears the mean square",
        ),
        "drop for keep": ((lambda keep, *mode: by_both_outcomes(1 - keep, *mode),), "KEEP a unit"),
    },
    right={"both outcomes of the mask": (by_both_outcomes,)},
)


@pytest.mark.parametrize("keep", [0.5, 0.8])
@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_start_keeps_the_scale_through_real_dropout(keep, inverted, training):
    """Six layers of 500 units, torch's dropout, 64 inputs; the mean over eight seeds, to 4 % per layer."""
    weight_var = by_both_outcomes(keep, inverted, training)
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


def by_scikit_learn(inputs, fold):
    return np.stack([StandardScaler().fit(inputs[fold != f]).transform(inputs) for f in np.unique(fold)])


def by_hand(inputs, fold, spread_of):
    """With another rule for the spread of a pixel."""
    seen = [inputs[fold != f] for f in range(fold.max() + 1)]
    return np.stack([(inputs - rows.mean(axis=0)) / spread_of(rows.std(axis=0)) for rows in seen])


LEAKFREE_FOLDS = Bank(
    checks.leakfree_folds,
    wrong={
        "divided by 0": ((lambda x, fold: by_hand(x, fold, lambda s: s),), "not finite"),
        "divided by little": ((lambda x, fold: by_hand(x, fold, lambda s: s + 1e-8),), "by a tiny number"),
        "one fold late": (
            (lambda x, fold: np.roll(by_scikit_learn(x, fold), 1, axis=0),),
            "With fold 0 left out",
        ),
        "only the last": (
            (lambda x, fold: np.stack([by_scikit_learn(x, fold)[-1]] * (fold.max() + 1)),),
            "is each entry in its place",
        ),
        "only those left out": ((lambda x, fold: StandardScaler().fit_transform(x),), "has shape (14, 5)"),
        "a fold missing": ((lambda x, fold: by_scikit_learn(x, fold)[:-1],), "yours has shape (2, 14, 5)"),
        "zeros": (
            (lambda x, fold: np.zeros((fold.max() + 1, *x.shape)),),
            "(0 and 1 would be right)",
        ),
        "a ragged list": (
            (lambda x, fold: [x[fold != f] for f in range(fold.max() + 1)],),
            "should be an array of shape",
        ),
    },
    right={
        "by scikit-learn": (by_scikit_learn,),
        "a list of lists": (lambda x, fold: by_scikit_learn(x, fold).tolist(),),
    },
)


@pytest.mark.parametrize("seed", range(8))
def test_the_folds_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    inputs, fold = rng.normal(size=(40, 3)), rng.permutation(np.arange(40) % 5)
    inputs[:, 1] = np.where(np.arange(40) == 3, 2.0, 0.0)
    right = checks.leakfree_folds.trials[0].right(inputs, fold)
    assert np.allclose(right, by_scikit_learn(inputs, fold), rtol=1e-12)


# --- A penalty that Adam cannot divide away ----------------------------------------------------------------


def by_optimizer(optimizer, **options):
    """The path of one of torch's optimizers."""

    def path(gradients, start, lr, weight_decay):
        w = torch.tensor(start, requires_grad=True)
        descent, weights = optimizer([w], lr=lr, weight_decay=weight_decay, **options), []
        for w.grad in torch.tensor(gradients):
            descent.step()
            weights.append(w.detach().clone())
        return torch.stack(weights)

    return path


by_torch = by_optimizer(torch.optim.AdamW)


def stepped(root_of=lambda v: np.sqrt(v) + 1e-8, first=1):
    """AdamW as a loop, with one part replaced."""

    def path(gradients, start, lr, lam):
        w, m, v, weights = start, 0.0, 0.0, []
        for t, g in enumerate(gradients, first):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - lr * (m / (1 - 0.9**t)) / root_of(v / (1 - 0.999**t)) - lr * lam * w
            weights.append(w)
        return weights

    return path


def forgetful(gradients, start, lr, lam):
    """Begins anew in every step."""
    path = [start]
    for g in gradients:
        path.append(path[-1] * (1 - lr * lam) - lr * g / (np.abs(g) + 1e-8))
    return np.array(path[1:])


DECOUPLED_DECAY = Bank(
    checks.decoupled_decay,
    wrong={
        "no ε": ((stepped(np.sqrt),), "is not finite"),
        "larger ε": (
            (stepped(lambda v: np.sqrt(v) + 1e-6),),
            "After step 1 the weight with gradients of size 1e-08",
        ),
        "t from 0": ((stepped(first=0),), "is not finite"),
        "t from 2": ((stepped(first=2),), "is your function Adam for weight_decay 0"),
        "no memory": ((forgetful,), "The first step is right, and step 2 is not"),
        "with the start": (
            (lambda g, start, *rates: np.array([start, *by_torch(g, start, *rates)[:-1]]),),
            "is your function Adam for weight_decay 0",
        ),
        "the last only": ((lambda *case: by_torch(*case)[-1],), "yours has shape (5,)"),
        "transposed": ((lambda *case: by_torch(*case).T,), "yours has shape (5, 1)"),
    },
    right={"by torch": (by_torch,), "a list of rows": (stepped(),)},
)


@pytest.mark.parametrize("seed", range(8))
def test_adamw_is_that_of_torch(seed):
    """100 steps, gradients of five sizes, all weights to 1e-9."""
    rng = np.random.default_rng(seed)
    gradients = 10.0 ** np.array([-9, -6, -2, 0, 2]) * rng.normal(size=(100, 5))
    case = gradients, rng.normal(size=5), 0.01, 0.4
    [trial] = checks.decoupled_decay.trials
    with_l2, *_ = trial.mistakes.values()
    assert np.abs(trial.right(*case) - by_torch(*case).numpy()).max() < 1e-9
    l2 = by_optimizer(torch.optim.Adam)(*case).numpy()
    assert np.abs(with_l2(*case) - l2).max() < 1e-9
    assert np.abs(trial.right(*case) - l2).max() > 0.1


# --- One bad image -----------------------------------------------------------------------------------------

V = 0.001 * 400**2  # what the image leaves in v


def memory(surplus, left, beta=0.999):
    return math.log(surplus / left) / -math.log(beta)


AFTER_SPIKE = Bank(
    checks.after_spike,
    wrong={
        "half-life": ((693,), "v forgets half"),
        "on the way down": ((19.1,), "BELOW half the rate"),
        "m alone": ((35,), "the other average remembers longer"),
        "at once": ((0,), "0 is not it"),
        "a guess": ((3000,), "3e+03 is not it"),
        "infinite": ((math.inf,), "not a number of steps"),
    },
    right={
        "by trying": (next(k for k in range(1, 9999) if 1 + V * 0.999**k <= 4),),
        "rounded": (4000,),
        "with 1/1000 for the logarithm": (1000 * math.log(V / 3),),
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


def simulated(periods_settled=None, corrected=False):
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
        return sum(steps[-period:])

    return movement


def closed(period, beta1, beta2):
    r = beta1 / math.sqrt(beta2)
    lone = (1 - beta1) / math.sqrt(1 - beta2) * (1 - r**period) / (1 - r)
    return lone / (1 - beta1**period) * math.sqrt(1 - beta2**period)


RARE_GRADIENT = Bank(
    checks.rare_gradient,
    wrong={
        "first period": ((simulated(1, corrected=True),), "the FIRST period"),
        "not settled": ((simulated(2),), "of a training that has settled"),
        "hard-coded": ((lambda *_: 31.8,), "For period 1,"),
        "not a number": ((lambda *_: math.nan,), "it is not nan"),
    },
    right={
        "simulated": (simulated(),),
        "closed": (closed,),
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
    right = checks.rare_gradient.trials[0].right(period, beta1, beta2)
    assert (before - w.detach()).tolist() == pytest.approx([right] * 2, rel=1e-3)


def test_what_the_answer_says_about_the_root_and_its_end():
    assert closed(100, 0.9, 0.999) == pytest.approx(10, rel=0.06)
    assert closed(100_000, 0.9, 0.999) == pytest.approx(32, rel=0.01)


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [DROPOUT_START, LEAKFREE_FOLDS, DECOUPLED_DECAY, AFTER_SPIKE, RARE_GRADIENT]


def test_neither_hint_nor_sentence_gives_the_number_away():
    said = all_that_is_said(AFTER_SPIKE)
    numbers = ("3974", "3970", "3975", "4000", "3.97e+03")
    assert not [text for text in said if any(number in text for number in numbers)]
