"""One training loop for every network of the course: `train` for one network, `sweep` for many at a time."""

from gradients_in_depth.training.many_networks import Sweep, sweep
from gradients_in_depth.training.one_network import History, train
from gradients_in_depth.training.steps import OPTIMIZERS

__all__ = ["OPTIMIZERS", "History", "Sweep", "sweep", "train"]
