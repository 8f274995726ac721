"""Measure what flows through any `torch.nn.Module`: activations forward, gradients backward, and weights.

The model runs once forward and once backward, in its present mode, and is left as it was. Forward hooks
record a layer's output at the moment it returns, before an in-place activation can change it; activation
gradients come from hooks on the output tensors, which, unlike full backward hooks, bear in-place changes.
"""

from gradients_in_depth.signals.chains import flow, matrix_products, running_product
from gradients_in_depth.signals.figures import FORMATS
from gradients_in_depth.signals.jacobian import jacobian_singular_values
from gradients_in_depth.signals.measuring import measure
from gradients_in_depth.signals.results import LayerSignals, ParameterSignals, Signals

__all__ = [
    "FORMATS",
    "LayerSignals",
    "ParameterSignals",
    "Signals",
    "flow",
    "jacobian_singular_values",
    "matrix_products",
    "measure",
    "running_product",
]
