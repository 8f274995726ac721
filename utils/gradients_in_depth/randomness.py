"""Random numbers: a generator for each draw, and the random state of the whole process."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from gradients_in_depth.arguments import check_seed


def seeded_generator(seed: int) -> torch.Generator:
    """A random generator of its own, so that no draw reads or moves torch's global random state."""
    return torch.Generator().manual_seed(check_seed(seed))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch for the whole process: the learner's own cells may draw from each."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def random_state_kept(gpus: Iterable[int] = ()) -> Iterator[None]:
    """Inside, draw as you like: torch, NumPy and Python have their random state back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
