"""The checks of set 01 are checked: as in test_checks, and what they take for the truth is measured."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma

from gradients_in_depth import checks, theory
from gradients_in_depth.checks import EMPTY
from tests.check_banks import Bank, all_that_is_said, stub

# --- 01: one weight, many nodes ----------------------------------------------------------------------------


def by_hand(
    loss_slope=lambda h, target: h - target,
    slope=lambda z, h: 1 - h**2,
    heard=lambda h, k: h[k - 1],
    passed_on=lambda at_node, weight: at_node * weight,
    collect=sum,
    nodes=lambda depth: range(depth, 0, -1),
):
    """Backpropagation by hand, with one step of it replaced."""

    def weight_gradient(weight, x, target, depth):
        z, h = [math.nan], [x]
        for _ in range(depth):
            z.append(weight * h[-1])
            h.append(math.tanh(z[-1]))
        message, reports = loss_slope(h[-1], target), []
        for k in nodes(depth):
            at_node = message * slope(z[k], h[k])
            reports.append(at_node * heard(h, k))
            message = passed_on(at_node, weight)
        return collect(reports)

    return weight_gradient


def by_autograd(weight, x, target, depth):
    w = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    h = torch.tensor(x, dtype=torch.float64)
    for _ in range(depth):
        h = torch.tanh(w * h)
    ((h - target) ** 2 / 2).backward()
    return w.grad


def forwards(weight, x, target, depth):
    """dh/dw carried along with h: no way back at all."""
    h, change = x, 0.0
    for _ in range(depth):
        h, change = math.tanh(weight * h), (1 - math.tanh(weight * h) ** 2) * (h + weight * change)
    return (h - target) * change


SHARED_WEIGHT = Bank(
    checks.shared_weight,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "no return": ((lambda *_: None,), "is the return statement missing"),
        "called": ((0.25,), "without brackets"),
        "hard-coded": ((lambda *_: 0.123,), "With one node only"),
        "minus": ((by_hand(loss_slope=lambda h, t: t - h),), "the wrong way"),
        "no slope": ((by_hand(slope=lambda z, h: 1),), "slope of tanh is missing"),
        "slope of the input": ((by_hand(slope=lambda z, h: 1 - z**2),), "output that belongs there"),
        "off by one": ((by_hand(heard=lambda h, k: h[k]),), "One index too far"),
        "no loss": ((by_hand(loss_slope=lambda h, t: 1),), "The message never starts"),
        "last node only": ((by_hand(collect=lambda r: r[0]),), "Only the last node"),
        "first node only": ((by_hand(collect=lambda r: r[-1]),), "Only the first node"),
        "mean": ((by_hand(collect=np.mean),), "are averaged"),
        "product": ((by_hand(collect=np.prod),), "are multiplied"),
        "stops early": ((by_hand(nodes=lambda depth: range(depth, min(depth - 1, 1), -1)),), "first node's"),
        "weight forgotten": ((by_hand(passed_on=lambda m, w: m),), "times the weight and the slope"),
        "every report": ((by_hand(collect=lambda r: np.array(r)),), "one number, and is an array"),
        "divides by zero": ((lambda *_: 1 / 0,), "ZeroDivisionError: division by zero"),
    },
    right={"by hand": (by_hand(),), "autograd": (by_autograd,), "forward mode": (forwards,)},
)

# --- 01: how many layers does a scale buy? -----------------------------------------------------------------

SCALED_UNDERFLOW = Bank(
    checks.scaled_underflow,
    wrong={
        "untouched stub": ((None,), EMPTY),
        "three dots": ((...,), EMPTY),
        "without the scale": ((13,), "without any scaling"),
        "one too few": ((20,), "Within one layer"),
        "one too many": ((22,), "Within one layer"),
        "one power of two each": ((29,), "one power of two"),
        "smallest normal": ((16,), "smallest NORMAL"),
        "bfloat16": ((75,), "bfloat16"),
        "float32": ((83,), "float32"),
        "wrong direction": ((5,), "works against you"),
        "a fraction": ((20.5,), "a whole number"),
        "the exponent": ((-26,), "a whole number"),
        "words": (("twenty",), "should be one number"),
        "a guess": ((50,), "50 is not it"),
    },
    right={"an integer": (21,), "a whole float": (21.0,), "a tensor": (torch.tensor(21),)},
)

# --- 01: a growth rate that survives 600 matrices ----------------------------------------------------------


def step_by_step(
    log=np.log,
    mean=lambda lengths, log: log(lengths).mean(),
    begin=np.linalg.norm,
    order=lambda matrices: matrices,
    turn=lambda matrix: matrix,
):
    """Renormalized at every matrix, with one step replaced."""

    def growth(matrices, message):
        message, lengths = message / begin(message), []
        for matrix in order(matrices):
            message = turn(matrix) @ message
            lengths.append(np.linalg.norm(message))
            message = message / lengths[-1]
        return mean(np.array(lengths), log)

    return growth


def naive(matrices, message):
    start = np.linalg.norm(message)
    for matrix in matrices:
        message = matrix @ message
    return np.log(np.linalg.norm(message) / start) / len(matrices)


def naive_in_place(matrices, message):
    matrices *= 2.0
    return naive(matrices, message) - math.log(2)


def message_in_place(matrices, message):
    message /= np.linalg.norm(message)
    return step_by_step()(matrices, message)


def by_qr(matrices, message):
    """The same from the outside: a triangular matrix whose first diagonal entry is the stretch."""
    basis = np.column_stack([message, np.eye(len(message))[:, 1:]])
    basis, total = np.linalg.qr(basis)[0], 0.0
    for matrix in matrices:
        basis, triangle = np.linalg.qr(matrix @ basis)
        total += math.log(abs(triangle[0, 0]))
    return torch.tensor(total / len(matrices))


def last_axis(matrices, message):
    return np.log(np.linalg.norm(matrices @ message, axis=1) / np.linalg.norm(message))


GROWTH_RATE = Bank(
    checks.growth_rate,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "underflow": ((naive,), "beyond float64"),
        "matrices damaged": ((naive_in_place,), "changes what it was given"),
        "message damaged": ((message_in_place,), "changes what it was given"),
        "base 10": ((step_by_step(log=np.log10),), "base 10"),
        "whole chain": ((step_by_step(mean=lambda n, log: log(n).sum()),), "per matrix"),
        "off by one": ((step_by_step(mean=lambda n, log: log(n).sum() / (len(n) - 1)),), "L - 1"),
        "no logarithm": ((step_by_step(mean=lambda n, log: np.exp(log(n).mean())),), "its logarithm"),
        "not relative": ((step_by_step(begin=lambda message: 1.0),), "did not begin with length 1"),
        "average stretch": ((step_by_step(mean=lambda n, log: log(n.mean())),), "AVERAGE stretch"),
        "mean square": ((step_by_step(mean=lambda n, log: log((n**2).mean()) / 2),), "mean SQUARED"),
        "backwards": ((step_by_step(order=lambda matrices: matrices[::-1]),), "wrong order"),
        "transposed": ((step_by_step(turn=np.transpose),), "wrong side"),
        "norms": ((lambda W, v: np.log(np.linalg.norm(W, 2, axis=(1, 2))).mean(),), "largest singular value"),
        "one by one": ((lambda W, v: last_axis(W, v).mean(),), "the original message"),
        "wrong shape": ((last_axis,), "one number, and is an array of shape (7,)"),
        "hard-coded theory": ((lambda W, v: (math.log(2) + digamma(len(v) / 2)) / 2,), "what theory says"),
        "a constant": ((lambda W, v: 0.0,), "try one matrix"),
    },
    right={"step by step": (step_by_step(),), "by QR": (by_qr,)},
)

# --- 01: three patients ------------------------------------------------------------------------------------

FORMAT, VANISHING, COLLAPSED = "number format", "vanishing gradient", "collapsed spectrum"
RIGHT = {1: FORMAT, 2: VANISHING, 3: COLLAPSED}
PATIENTS = Bank(
    checks.patients,
    wrong={
        "untouched stub": ((RIGHT | {1: None}, None), EMPTY),
        "empty diagnosis": (({1: None, 2: None, 3: None}, 0.6), EMPTY),
        "no factor": ((RIGHT,), "takes diagnosis and factor, in this order"),
        "an array": ((RIGHT | {1: np.zeros(2)}, 0.6), "is none"),
        "a list": ((list(RIGHT.values()), 0.6), "a dictionary with the keys 1, 2 and 3"),
        "another word": ((RIGHT | {1: "exploding"}, 0.6), "'exploding' is none"),
        "all alike": ((dict.fromkeys(RIGHT, VANISHING), 0.6), "Three times the same"),
        "1 vanishes": (({1: VANISHING, 2: FORMAT, 3: COLLAPSED}, 0.6), "Patient 1: the bar in RANGE is full"),
        "1 collapses": (
            ({1: COLLAPSED, 2: VANISHING, 3: FORMAT}, 0.6),
            "Patient 1: the bar in RANGE is full, and",
        ),
        "2 is a format": (({1: FORMAT, 2: FORMAT, 3: COLLAPSED}, 0.6), "Patient 2: RANGE shows a bar"),
        "2 collapses": (({1: FORMAT, 2: COLLAPSED, 3: VANISHING}, 0.6), "Patient 2: all singular values"),
        "3 vanishes": (({1: FORMAT, 2: VANISHING, 3: VANISHING}, 0.6), "Patient 3: in SCALE"),
        "3 is a format": (({1: FORMAT, 2: VANISHING, 3: FORMAT}, 0.6), "Patient 3: nothing in it"),
        "variance": ((RIGHT, 0.36), "SQUARED"),
        "forward": ((RIGHT, 1.67), "going forward"),
        "twenty steps": ((RIGHT, (1.5e-6 / 2.5e-2) ** (1 / 20)), "not twenty"),
        "eighteen steps": ((RIGHT, (1.5e-6 / 2.5e-2) ** (1 / 18)), "more than that"),
        "logarithm": ((RIGHT, -0.222), "a logarithm"),
        "whole way": ((RIGHT, 1.5e-6 / 2.5e-2), "ONE layer"),
        "half": ((RIGHT, 0.5), "another slope"),
    },
    right={
        "as read": (RIGHT, (1.5e-6 / 2.5e-2) ** (1 / 19)),
        "coarsely read": (RIGHT, (2e-6 / 3e-2) ** (1 / 19)),
    },
)

# --- 01: the critical weight of a narrow, leaky network ----------------------------------------------------


@cache
def lengths(width, slope, coins):
    """What 200,000 layers with s = 1 make of a signal of length 1."""
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(200_000, width))
    sides = rng.random(size=(200_000, coins)) < 0.5
    return np.linalg.norm(np.where(sides, draws, slope * draws), axis=1)


def simulated(
    mean=lambda length: np.exp(np.log(length).mean()), coins=lambda width: width, result=lambda s: s
):
    """From many draws of one layer, with one step replaced."""

    def critical(width, slope):
        return result(1 / mean(lengths(width, slope, coins(width))))

    return critical


def integrated(width, slope):
    """Over the number of units that let through, and the logarithm by Frullani's integral."""
    total = 0.0
    for on in range(width + 1):
        share = math.comb(width, on) / 2**width

        def change(t, on=on):
            laplace = (1 + 2 * t) ** (-on / 2) * (1 + 2 * slope**2 * t) ** ((on - width) / 2)
            return (math.exp(-t) - laplace) / t

        total += share * sum(quad(change, *ends, limit=200)[0] for ends in ((0, 1), (1, 100), (100, np.inf)))
    return math.exp(-total / 2)


CRITICAL_STD = Bank(
    checks.critical_std,
    wrong={
        "untouched stub": ((stub,), EMPTY),
        "mean square": ((lambda n, a: math.sqrt(2 / (n * (1 + a**2))),), "mean SQUARED"),
        "wide and linear": ((lambda n, a: 1 / math.sqrt(n),), "infinitely wide"),
        "He": ((lambda n, a: math.sqrt(2 / n),), "He's rule"),
        "no activation": ((lambda n, a: theory.critical_weight_std(n),), "activation is missing"),
        "one coin per layer": ((simulated(coins=lambda width: 1),), "the same side"),
        "upside down": ((simulated(result=lambda s: 1 / s),), "Upside down"),
        "variance": ((simulated(result=lambda s: s**2),), "a variance"),
        "logarithm": ((simulated(result=np.log),), "is that its logarithm"),
        "mean length": ((simulated(mean=np.mean),), "AVERAGE length"),
        "mean slope": ((lambda n, a: theory.critical_weight_std(n) * 2 / (1 + a),), "average slope"),
        "hard-coded": ((lambda n, a: 0.572,), "does not keep its length"),
        "not a number": ((lambda n, a: math.nan,), "does not keep its length"),
        "wrong shape": ((lambda n, a: np.full(n, 0.5),), "one number, and is an array"),
    },
    right={"simulated": (simulated(),), "integrated": (integrated,)},
)

BANKS = [SHARED_WEIGHT, SCALED_UNDERFLOW, GROWTH_RATE, PATIENTS, CRITICAL_STD]


def test_neither_hint_nor_sentence_gives_the_number_away():
    said = all_that_is_said(SCALED_UNDERFLOW)
    assert not [text for text in said if "21" in text]
    said = all_that_is_said(PATIENTS)
    assert not [text for text in said if "0.6" in text]


def test_a_patient_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="number must be one of 1, 2, 3; got 4"):
        checks.patient(4)
