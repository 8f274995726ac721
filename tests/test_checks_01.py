"""The checks of set 01 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from gradients_in_depth import checks
from tests.check_banks import Bank, all_that_is_said

# --- One weight, many nodes --------------------------------------------------------------------------------


def forwards(weight, x, target, depth):
    """dh/dw carried along with h: no way back at all."""
    h, change = x, 0.0
    for _ in range(depth):
        h, change = math.tanh(weight * h), (1 - math.tanh(weight * h) ** 2) * (h + weight * change)
    return (h - target) * change


SHARED_WEIGHT = Bank(
    checks.shared_weight,
    wrong={
        "hard-coded": ((lambda *_: 0.123,), "With one node only"),
        "wrong from two nodes on": (
            (lambda w, x, t, depth: forwards(w, x, t, depth) * (1.1 if depth > 1 else 1),),
            "times the weight and the slope",
        ),
    },
    right={"forward mode": (forwards,)},
)

# --- How many layers does a scale buy? ---------------------------------------------------------------------

SCALED_UNDERFLOW = Bank(
    checks.scaled_underflow,
    wrong={
        "a fraction": ((20.5,), "a whole number"),
        "the exponent": ((-26,), "a whole number"),
        "a guess": ((50,), "50 is not it"),
    },
    right={"an integer": (21,), "a whole float": (21.0,)},
)

# --- A growth rate that survives 600 matrices --------------------------------------------------------------


def naive(matrices, message):
    start = np.linalg.norm(message)
    for matrix in matrices:
        message = matrix @ message
    return np.log(np.linalg.norm(message) / start) / len(matrices)


def by_qr(matrices, message):
    """The same from the outside: a triangular matrix whose first diagonal entry is the stretch."""
    basis = np.column_stack([message, np.eye(len(message))[:, 1:]])
    basis, total = np.linalg.qr(basis)[0], 0.0
    for matrix in matrices:
        basis, triangle = np.linalg.qr(matrix @ basis)
        total += math.log(abs(triangle[0, 0]))
    return torch.tensor(total / len(matrices))


GROWTH_RATE = Bank(
    checks.growth_rate,
    wrong={
        "underflow": ((naive,), "vanishes beyond float64, and the growth comes out as -inf"),
        "overflow": (
            (lambda W, v: naive(W, v) if len(W) < 600 or W[0, 0, 0] ** 2 > 1 else by_qr(W, v),),
            "explodes",
        ),
        "a constant": ((lambda W, v: 0.0,), "try one matrix"),
    },
    right={"by QR": (by_qr,)},
)

# --- Three patients ----------------------------------------------------------------------------------------

FORMAT, VANISHING, COLLAPSED = "number format", "vanishing gradient", "collapsed spectrum"
RIGHT = {1: FORMAT, 2: VANISHING, 3: COLLAPSED}
PATIENTS = Bank(
    checks.patients,
    wrong={
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
        "twenty steps": ((RIGHT, (1.5e-6 / 2.5e-2) ** (1 / 20)), "not twenty"),
        "eighteen steps": ((RIGHT, (1.5e-6 / 2.5e-2) ** (1 / 18)), "more than that"),
        "whole way": ((RIGHT, 1.5e-6 / 2.5e-2), "ONE layer"),
        "half": ((RIGHT, 0.5), "another slope"),
    },
    right={
        "as read": (RIGHT, (1.5e-6 / 2.5e-2) ** (1 / 19)),
        "coarsely read": (RIGHT, (2e-6 / 3e-2) ** (1 / 19)),
    },
)

# --- The critical weight of a narrow, leaky network --------------------------------------------------------


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
        "logarithm": ((lambda *case: math.log(integrated(*case)),), "is that its logarithm"),
        "hard-coded": ((lambda n, a: 0.572,), "does not keep its length"),
    },
    right={"integrated": (integrated,)},
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
