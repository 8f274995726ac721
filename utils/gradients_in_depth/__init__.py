"""Gradients in Depth: measure what flows through a network, and name what keeps it from training."""

from gradients_in_depth.diagnosis import diagnose
from gradients_in_depth.signals import measure

__all__ = ["diagnose", "measure"]
