"""The checks of set 07 are checked: as in test_checks, and what they take for the truth is measured."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from gradients_in_depth import checks, data
from tests.check_banks import Bank, all_that_is_said

# --- One norm for all --------------------------------------------------------------------------------------


def by_torch(gradients, threshold):
    parameters = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = torch.from_numpy(g.copy())
    torch.nn.utils.clip_grad_norm_(parameters, threshold)
    return [parameter.grad.numpy() for parameter in parameters]


def as_loop(gradients, threshold):
    total = 0.0
    for g in gradients:
        total += float(np.sum(np.square(g)))
    return tuple(g / max(1.0, total**0.5 / threshold) for g in gradients)


def with_nan(gradients, threshold):
    """0/0 where all gradients are 0."""
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in gradients]))
    return [g * min(1.0, threshold / norm) * (norm / norm) for g in gradients]


JOINT_CLIP = Bank(
    checks.joint_clip,
    wrong={
        "division by 0": ((with_nan,), "you divide by 0"),
        "one is lost": ((lambda gs, c: by_torch(gs, c)[:-1],), "3 gradients go in, and 2 come out"),
        "a text in it": ((lambda gs, c: [*by_torch(gs, c)[:-1], "text"],), "holds something else"),
        "flattened": ((lambda gs, c: [g.ravel() for g in by_torch(gs, c)],), "comes back with the shape"),
        "hard-coded": ((lambda gs, c: [np.ones(g.shape) for g in gs],), "lay all entries end to end"),
        "zeros only": (
            (lambda gs, c: by_torch(gs, c) if gs[0].any() else [np.ones(g.shape) for g in gs],),
            "Gradients of the global norm 0, clipped at 2, come out with 5.39",
        ),
    },
    right={"by PyTorch": (by_torch,), "a loop, a tuple": (as_loop,)},
)

# --- A bias that remembers ---------------------------------------------------------------------------------

GATE = 0.5 ** (1 / 100)
BIAS = math.log(GATE / (1 - GATE))

REMEMBERING_BIAS = Bank(
    checks.remembering_bias,
    wrong={
        "usual": ((1, 15), "the usual choice"),
        "another": ((3.0, 15), "is left after 100 steps, and not a half"),
        "huge": ((1e6, 15), "and not a half"),
        "far": ((BIAS, 40), "after 40 steps with a bias of 1, 3.6e-06 is left"),
        "not whole": ((BIAS, 14.7), "whole number"),
    },
    right={"exact": (BIAS, 15), "rounded": (4.97, 15.0), "approximation": (math.log(100 / math.log(2)), 15)},
)


def test_the_bias_is_what_an_lstm_of_torch_does():
    """Its cell path, with everything but the forget bias at 0, over 100 steps and over 14 and 15."""
    for bias, steps, low, high in ((BIAS, 100, 0.499, 0.501), (1.0, 14, 0.01, 1), (1.0, 15, 0, 0.01)):
        cell = torch.nn.LSTMCell(1, 1, dtype=torch.float64)
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.zero_()
            cell.bias_ih[1] = bias  # input, forget, cell, output
        c = start = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        h = x = torch.zeros(1, 1, dtype=torch.float64)
        for _ in range(steps):
            h, c = cell(x, (h, c))
        (left,) = torch.autograd.grad(c, start)
        assert low < left.item() < high


# --- Back through every step -------------------------------------------------------------------------------


def by_autograd(u, x, arriving):
    matrix, states = torch.from_numpy(u.copy()), [torch.zeros(len(u), dtype=torch.float64)]
    for now in torch.from_numpy(x.copy()):
        states.append(torch.tanh(matrix @ states[-1] + now))
        states[-1].requires_grad_()
    gradients = torch.autograd.grad(states[-1] @ torch.from_numpy(arriving.copy()), states[1:])
    return torch.stack(gradients).norm(dim=1).numpy()


def by_matrices(u, x, arriving):
    """One Jacobian after the other, as matrices."""
    h, jacobians = np.zeros(len(u)), []
    for now in x:
        h = np.tanh(u @ h + now)
        jacobians.append(np.diag(1 - h**2) @ u)
    row, norms = arriving[None], []
    for jacobian in reversed(jacobians):
        norms.insert(0, float(np.linalg.norm(row)))
        row = row @ jacobian
    return norms


STATE_GRADIENTS = Bank(
    checks.state_gradients,
    wrong={
        "one too many": ((lambda *case: np.append(by_matrices(*case), 1),), "One norm too many"),
        "one too few": ((lambda *case: by_matrices(*case)[:-1],), "One norm too few"),
        "vectors": ((lambda u, x, g: x,), "norms are asked for, and the shape is"),
        "hard-coded": ((lambda u, x, g: np.ones(len(x)),), "and yours is another number"),
        "only the last": ((lambda u, x, g: [*x[1:, 0], np.linalg.norm(g)],), "second-last state"),
        "a text": ((lambda *_: "norms",), "An array of norms is asked for"),
    },
    right={"by autograd": (by_autograd,), "by matrices, a list": (by_matrices,)},
)

# --- The angle of Laplace entries --------------------------------------------------------------------------


def by_quadrature(m, c):
    def mean(f):
        inside, outside = (
            quad(lambda g: f(g) * math.exp(-g / m) / m, *ends)[0] for ends in ((0, c), (c, 60 * m))
        )
        return inside + outside

    square = mean(lambda g: min(g, c) ** 2)
    return math.degrees(math.acos(mean(lambda g: g * min(g, c)) / math.sqrt(square * mean(lambda g: g * g))))


LAPLACE_ANGLE = Bank(
    checks.laplace_angle,
    wrong={"hard-coded": ((lambda m, c: 30.0,), "check the two ends first")},
    right={"by quadrature": (by_quadrature,)},
)


@pytest.mark.parametrize("ratio", [0.02, 0.5, 2.0, 5.0])
def test_the_angle_is_that_of_drawn_entries(ratio):
    """The mean of eight draws of 200,000 entries within 2 % (one draw: 5 % where few entries are clipped)."""
    angles = []
    for seed in range(8):
        uniform = torch.rand(2, 200_000, generator=data.seeded_generator(seed), dtype=torch.float64).numpy()
        g = -1.7 * np.log(uniform[0]) * np.sign(uniform[1] - 0.5)
        clipped = g.clip(-1.7 * ratio, 1.7 * ratio)
        cosine = g @ clipped / np.linalg.norm(g) / np.linalg.norm(clipped)
        angles.append(math.degrees(math.acos(cosine)))
    assert np.mean(angles) == pytest.approx(by_quadrature(1.7, 1.7 * ratio), rel=0.02)


# --- All of them, tried in test_checks ---------------------------------------------------------------------

BANKS = [JOINT_CLIP, REMEMBERING_BIAS, STATE_GRADIENTS, LAPLACE_ANGLE]


def test_neither_hint_nor_sentence_gives_the_number_away():
    said = all_that_is_said(REMEMBERING_BIAS)
    for text in said:
        assert "4.97" not in text and " 15 " not in text
