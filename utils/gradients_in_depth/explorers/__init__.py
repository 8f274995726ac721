"""Explorers: sliders over real computations, which are in `experiments`. Each lesson has its own."""

from gradients_in_depth.explorers.attention import transformer_depth
from gradients_in_depth.explorers.dead_units import dying_units
from gradients_in_depth.explorers.deep_networks import deep_network
from gradients_in_depth.explorers.normalization import normalized_network
from gradients_in_depth.explorers.optimizers import optimizer_chain
from gradients_in_depth.explorers.overview import dashboard, guessing
from gradients_in_depth.explorers.phases import phase_diagram
from gradients_in_depth.explorers.products import chain, matrix_chain
from gradients_in_depth.explorers.recurrent import recurrence
from gradients_in_depth.explorers.residual import residual_stream
from gradients_in_depth.explorers.widgets import Choice, Explorer, Slider

__all__ = [
    "Choice",
    "Explorer",
    "Slider",
    "chain",
    "dashboard",
    "deep_network",
    "dying_units",
    "guessing",
    "matrix_chain",
    "normalized_network",
    "optimizer_chain",
    "phase_diagram",
    "recurrence",
    "residual_stream",
    "transformer_depth",
]
