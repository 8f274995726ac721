"""theory: bad input gets one sentence."""

import pytest
import torch

from gradients_in_depth import theory
from tests.theory_tools import COUNT, INF, NAN, POSITIVE, VARIANCE

NAMES = "must be one of identity, sigmoid, tanh, relu, leaky_relu, prelu, elu, selu, gelu, silu"


FORMATS = "must be one of float16, bfloat16, float32, float64"


NUMBER = "must be a finite number, got"


VARIANCES = "must be a finite number of at least 0, or a non-empty array of them, got"


SHAPE = "The function must return a tensor of its input's shape (768,), got"


BAD_INPUT = [  # error, sentence, function, arguments
    (ValueError, f"activation {NAMES}; got 'swish'.", theory.activation_module, "swish"),
    (ValueError, f"activation {NAMES}; got None.", theory.activation_module, None),
    (ValueError, f"activation {NAMES}; got 'swish'.", theory.chi, 1.0, "swish", 1.0),
    (
        TypeError,
        f"activation {NAMES} or a torch callable; got 3.",
        theory.variance_map,
        1.0,
        3,
        1.0,
    ),
    (ValueError, f"{SHAPE} torch.Size([]).", theory.variance_map, 1.0, torch.sum, 1.0),
    (ValueError, f"{SHAPE} float.", theory.gaussian_expectation, lambda z: 1.0),
    (
        TypeError,
        "function must be a function of a torch.Tensor, got 'tanh'.",
        theory.gaussian_expectation,
        "tanh",
    ),
    (ValueError, f"variance {VARIANCES} -1.0.", theory.gaussian_expectation, torch.tanh, -1.0),
    (ValueError, f"q {VARIANCES} nan.", theory.variance_map, NAN, "tanh", 1.0),
    (ValueError, f"q {VARIANCES} [1.0, inf].", theory.chi, [1.0, INF], "tanh", 1.0),
    (ValueError, f"q {VARIANCES} [].", theory.chi, [], "tanh", 1.0),
    (TypeError, f"q {VARIANCES} '1'.", theory.chi, "1", "tanh", 1.0),
    (TypeError, f"q {VARIANCES} [[1], [1, 2]].", theory.chi, [[1], [1, 2]], "tanh", 1.0),
    (ValueError, f"q {VARIANCES} -1.", theory.activation_moments, -1, "tanh"),
    (ValueError, f"weight_var {VARIANCE} -2.0.", theory.chi, 1.0, "tanh", -2.0),
    (TypeError, f"weight_var {VARIANCE} True.", theory.chi, 1.0, "tanh", True),
    (ValueError, f"weight_var {VARIANCE} nan.", theory.variance_map, 1.0, "tanh", NAN),
    (ValueError, f"bias_var {VARIANCE} -0.1.", theory.variance_map, 1.0, "tanh", 1.0, -0.1),
    (TypeError, f"bias_var {VARIANCE} '0'.", theory.variance_map, 1.0, "tanh", 1.0, "0"),
    (ValueError, f"start {POSITIVE} 0.0.", theory.fixed_point, "tanh", 1.0, 0.0, 0.0),
    (ValueError, f"weight_var {VARIANCE} -1.0.", theory.fixed_point, "tanh", -1.0),
    (ValueError, f"depth {COUNT} 0.", theory.variance_trajectory, 0, "tanh", 1.0),
    (TypeError, f"depth {COUNT} 2.0.", theory.variance_trajectory, 2.0, "tanh", 1.0),
    (ValueError, f"weight_var {VARIANCE} -1.0.", theory.variance_trajectory, 1, "tanh", -1.0),
    (ValueError, f"bias_var {VARIANCE} -1.0.", theory.variance_trajectory, 1, "tanh", 1.0, -1.0),
    (ValueError, f"first {VARIANCE} -1.0.", theory.variance_trajectory, 3, "tanh", 1.0, 0.0, -1.0),
    (ValueError, f"depth {COUNT} 0.", theory.gradient_norm_trajectory, 0, "tanh", 1.0),
    (ValueError, f"activation {NAMES}; got ''.", theory.gradient_norm_trajectory, 3, "", 1.0),
    (ValueError, f"width {COUNT} 0.", theory.lyapunov_exponents, 0, 1.0),
    (ValueError, f"weight_std {POSITIVE} 0.0.", theory.lyapunov_exponents, 4, 0.0),
    (TypeError, f"width {COUNT} True.", theory.critical_weight_std, True),
    (ValueError, f"number format {FORMATS}; got 'fp8'.", theory.number_format, "fp8"),
    (ValueError, f"number format {FORMATS}; got 'half'.", theory.first_zero, 1.0, "half"),
    (ValueError, f"number format {FORMATS}; got 16.", theory.first_overflow, 0.5, 16),
    (ValueError, f"factor {NUMBER} nan.", theory.first_zero, NAN, "float16"),
    (TypeError, f"factor {NUMBER} '0.5'.", theory.first_zero, "0.5", "float16"),
    (ValueError, f"factor {NUMBER} inf.", theory.first_overflow, INF, "float16"),
    (ValueError, "cosine must be a finite number from -1 to 1, got 1.5.", theory.relu_cosine_map, 1.5),
    (ValueError, "cosine must be a finite number from -1 to 1, got nan.", theory.relu_cosine_map, NAN),
    (ValueError, f"q {VARIANCES} -1.0.", theory.critical_gains, "relu", -1.0),
    (ValueError, f"activation {NAMES}; got 'swish'.", theory.critical_gains, "swish"),
    (
        ValueError,
        "c must be a finite number from -1 to 1, or a non-empty array of them, got 1.2.",
        *(theory.correlation_map, 1.2, "tanh", 1.0, 0.0, 1.0),
    ),
    (ValueError, f"q {POSITIVE} 0.0.", theory.correlation_map, 0.5, "tanh", 1.0, 0.0, 0.0),
    (
        ValueError,
        "weight_var and bias_var must not both be 0: a layer of zeros has no correlation.",
        *(theory.correlation_map, 0.5, "tanh", 0.0, 0.0, 1.0),
    ),
    (ValueError, f"bias_var {VARIANCE} -1.0.", theory.correlation_slope, 0, "tanh", 1.0, -1.0, 1.0),
    (ValueError, f"activation {NAMES}; got 'swish'.", theory.correlation_map, 0, "swish", 1, 0, 1),
    (ValueError, f"depth {COUNT} 0.", theory.correlation_trajectory, 0, "tanh", 1.0),
    (
        ValueError,
        "cosine must be a finite number from -1 to 1, or a non-empty array of them, got 2.",
        *(theory.correlation_trajectory, 3, "tanh", 1.0, 0.0, 1.0, 2),
    ),
    (ValueError, f"weight_var {VARIANCE} -1.0.", theory.correlation_fixed_point, "tanh", -1.0),
    (
        ValueError,
        "weight_var must be small enough for the variance to settle, got 3.0 (with bias_var 0.0).",
        *(theory.depth_scales, "relu", 3.0),
    ),
    (ValueError, f"bias_var {VARIANCE} -0.5.", theory.critical_weight_var, -0.5),
    (
        ValueError,
        "activation must have an edge of chaos at bias_var 0.1, got 'relu'.",
        *(theory.critical_weight_var, 0.1, "relu"),
    ),
    (ValueError, f"depth {COUNT} 0.", theory.log_gradient_norm_variance, 0, 10),
    (TypeError, f"width {COUNT} 2.5.", theory.log_gradient_norm_variance, 3, 2.5),
    (
        ValueError,
        "activation must be one of identity, relu, leaky_relu; got 'tanh'.",
        *(theory.log_gradient_norm_variance, 3, 10, "tanh"),
    ),
    (
        ValueError,
        "activation must be one of sigmoid, tanh; got 'relu'.",
        *(theory.saturated_share, 1.0, "relu"),
    ),
    (ValueError, f"q {VARIANCES} -1.0.", theory.saturated_share, -1.0, "tanh"),
    (
        ValueError,
        "threshold must be a finite number above 0 and below 1, got 1.0.",
        *(theory.saturated_share, 1.0, "tanh", 1.0),
    ),
    (
        ValueError,
        "weight must be a finite number, or a non-empty array of them, got nan.",
        *(theory.sigmoid_window_width, NAN),
    ),
    (
        ValueError,
        "loss must be one of squared_error, cross_entropy; got 'hinge'.",
        *(theory.output_delta, 1.0, 0.0, "hinge"),
    ),
    (
        ValueError,
        "z must be a finite number, or a non-empty array of them, got nan.",
        *(theory.output_delta, NAN, 0.0, "cross_entropy"),
    ),
    (
        ValueError,
        "target must be a finite number from 0 to 1, or a non-empty array of them, got 2.",
        *(theory.output_delta, 1.0, 2, "cross_entropy"),
    ),
    (
        ValueError,
        "z and target must have shapes that broadcast, got (2,) and (3,).",
        *(theory.output_delta, [1.0, 2.0], [0.0, 1.0, 0.0], "cross_entropy"),
    ),
    (
        ValueError,
        "function must be defined on all real numbers, got NaN at variance 2.0.",
        *(theory.gaussian_expectation, torch.log, 2.0),
    ),
    (
        ValueError,
        "The activation must be differentiable by autograd, got no graph.",
        *(theory.chi, 1.0, torch.ones_like, 1.0),
    ),
    (
        ValueError,
        "batch (unless it is None) must be an integer of at least 4, got 3.",
        *(theory.batch_norm_growth, "relu", 3),
    ),
    (
        TypeError,
        "batch (unless it is None) must be an integer of at least 4, got 8.0.",
        *(theory.batch_norm_growth, "relu", 8.0),
    ),
    (ValueError, f"activation {NAMES}; got 'swish'.", theory.batch_norm_growth, "swish"),
    (ValueError, f"activation {NAMES}; got 'swish'.", theory.layer_norm_growth, "swish"),
    (
        ValueError,
        "gradient must be a finite number, or a non-empty array of them, got nan.",
        *(theory.adam_first_step, NAN),
    ),
    (TypeError, f"learning_rate {NUMBER} '1'.", theory.adam_first_step, 1.0, "1"),
    (ValueError, f"eps {POSITIVE} 0.0.", theory.adam_first_step, 1.0, 1e-3, 0.0),
    (ValueError, f"step {COUNT} 0.", theory.adam_uncorrected_factor, 0),
    (
        ValueError,
        "beta1 must be a finite number of at least 0 and below 1, got 1.0.",
        theory.adam_uncorrected_factor,
        1,
        1.0,
    ),
    (
        ValueError,
        "beta2 must be a finite number of at least 0 and below 1, got -0.1.",
        theory.adam_uncorrected_factor,
        1,
        0.9,
        -0.1,
    ),
    (
        ValueError,
        "signal_to_noise must be a finite number, or a non-empty array of them, got inf.",
        *(theory.adam_noisy_step, INF),
    ),
    (
        ValueError,
        "beta1 must be a finite number of at least 0 and below 1, got 2.",
        theory.adam_noisy_step,
        1.0,
        2,
    ),
    (ValueError, "keep must be a finite number above 0 and at most 1, got 0.", theory.dropout_variance, 0),
    (
        ValueError,
        "keep must be a finite number above 0 and at most 1, got 1.5.",
        *(theory.dropout_variance, 1.5),
    ),
    (ValueError, f"variance {VARIANCES} -1.0.", theory.dropout_variance, 0.5, -1.0),
    (
        ValueError,
        "mean must be a finite number, or a non-empty array of them, got nan.",
        *(theory.dropout_variance, 0.5, 1.0, NAN),
    ),
    (
        ValueError,
        "variance and mean must have shapes that broadcast, got (2,) and (3,).",
        *(theory.dropout_variance, 0.5, [1.0, 2.0], [0.0, 1.0, 0.0]),
    ),
]


@pytest.mark.parametrize("case", BAD_INPUT, ids=[f"{case[2].__name__}: {case[1][:40]}" for case in BAD_INPUT])
def test_bad_input_gets_one_sentence(case):
    error, sentence, function, *arguments = case
    with pytest.raises(error) as caught:
        function(*arguments)
    assert str(caught.value) == sentence
