"""Random draws that leave each other alone."""

import random

import numpy as np
import pytest
import torch

from gradients_in_depth.randomness import random_state_kept, seed_everything, seeded_generator


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_seeded_generators_are_independent_of_each_other():
    first, second = seeded_generator(1), seeded_generator(1)
    torch.randn(100, generator=first)
    assert torch.equal(torch.randn(5, generator=second), torch.randn(5, generator=seeded_generator(1)))


def test_one_seed_gives_the_same_draws_and_another_gives_others():
    draws = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        draws.append(draw())
    assert draws[0] == draws[1]
    assert all(one != other for one, other in zip(draws[0], draws[2], strict=True))


def test_the_random_state_is_back_afterwards_and_after_an_error():
    seed_everything(0)
    expected = draw()
    seed_everything(0)
    with random_state_kept():
        draw()
    with pytest.raises(KeyError), random_state_kept():
        raise KeyError(draw())
    assert draw() == expected
