"""The closed forms of the course: what a product, a random layer or a saturated unit should do.

Throughout, `q` is the variance of a pre-activation z ~ N(0, q), `weight_var` is Var(W_ij) * fan_in and
`bias_var` is the variance of a bias. Networks are infinitely wide; weights and biases are independent with
mean 0. Functions of `q` (and of a single weight) also take an array, and then return one of its shape.
"""

from gradients_in_depth.catalogue import (
    ACTIVATIONS,
    FORMATS,
    NumberFormat,
    activation_module,
    number_format,
)
from gradients_in_depth.theory.attention import (
    SoftmaxMoments,
    TransformerTrajectory,
    attention_moments,
    attention_residual,
    softmax_moments,
    transformer_trajectory,
)
from gradients_in_depth.theory.correlations import (
    DepthScales,
    correlation_fixed_point,
    correlation_map,
    correlation_slope,
    correlation_trajectory,
    depth_scales,
    relu_cosine_map,
)
from gradients_in_depth.theory.gaussian import (
    Activation,
    TensorFunction,
    Values,
    activation_moments,
    gaussian_expectation,
)
from gradients_in_depth.theory.mean_field import (
    chi,
    critical_gains,
    critical_weight_var,
    fixed_point,
    gradient_norm_trajectory,
    log_gradient_norm_variance,
    variance_map,
    variance_trajectory,
)
from gradients_in_depth.theory.normalization import batch_norm_growth, layer_norm_growth
from gradients_in_depth.theory.optimizers import (
    adam_first_step,
    adam_noisy_step,
    adam_uncorrected_factor,
    dropout_variance,
)
from gradients_in_depth.theory.products import (
    critical_weight_std,
    first_overflow,
    first_zero,
    lyapunov_exponents,
)
from gradients_in_depth.theory.recurrence import (
    cell_path,
    gaussian_power_norms,
    recurrent_gradient_bound,
    value_clipping_cosine,
)
from gradients_in_depth.theory.residual import (
    RESIDUAL_NORMALIZATIONS,
    ResidualFlow,
    path_length_weights,
    residual_flow,
)
from gradients_in_depth.theory.saturation import (
    OUTPUT_LOSSES,
    output_delta,
    saturated_share,
    sigmoid_window_width,
    widest_sigmoid_window,
)
from gradients_in_depth.theory.shattering import kernel_autocorrelation, relu_gradient_kernel

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "DepthScales",
    "FORMATS",
    "NumberFormat",
    "OUTPUT_LOSSES",
    "RESIDUAL_NORMALIZATIONS",
    "ResidualFlow",
    "SoftmaxMoments",
    "TensorFunction",
    "TransformerTrajectory",
    "Values",
    "activation_module",
    "activation_moments",
    "adam_first_step",
    "adam_noisy_step",
    "adam_uncorrected_factor",
    "attention_moments",
    "attention_residual",
    "batch_norm_growth",
    "cell_path",
    "chi",
    "correlation_fixed_point",
    "correlation_map",
    "correlation_slope",
    "correlation_trajectory",
    "critical_gains",
    "critical_weight_std",
    "critical_weight_var",
    "depth_scales",
    "dropout_variance",
    "first_overflow",
    "first_zero",
    "fixed_point",
    "gaussian_expectation",
    "gaussian_power_norms",
    "gradient_norm_trajectory",
    "kernel_autocorrelation",
    "layer_norm_growth",
    "log_gradient_norm_variance",
    "lyapunov_exponents",
    "number_format",
    "output_delta",
    "path_length_weights",
    "recurrent_gradient_bound",
    "relu_cosine_map",
    "relu_gradient_kernel",
    "residual_flow",
    "saturated_share",
    "sigmoid_window_width",
    "softmax_moments",
    "transformer_trajectory",
    "value_clipping_cosine",
    "variance_map",
    "variance_trajectory",
    "widest_sigmoid_window",
]
