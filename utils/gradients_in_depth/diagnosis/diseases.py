"""The diseases by name: what is always said of each, which figure shows it, and what it brings along."""

from dataclasses import dataclass
from typing import Literal

LESSONS = {
    2: "02 Sigmoid saturation",
    3: "03 ReLU and variants",
    4: "04 Initialization",
    5: "05 Batch norm",
    6: "06 Residual connections",
    7: "07 Gradient clipping",
    8: "08 Transformers",
    9: "09 Optimizers and depth",
}

# Figures are looked up by their keys: what they are called in English may be reworded.
FigureKey = Literal[
    "layers_not_finite",
    "activation_trend",
    "parameters_without_gradient",
    "twin_share",
    "gradient_trend",
    "activation_slope",
    "weight_scale",
    "gradient_over_time",
    "dead_share",
    "example_cosine",
    "token_spread",
    "attention_entropy",
    "late_weight_gradient",
    "narrowest_units",
    "underflow_share",
    "change_by_eval",
    "update_ratio",
]


@dataclass(frozen=True)
class Disease:
    """What is always said about a disease: its name, the lesson that explains it, what to try.

    figure: the key of the figure that speaks for it or against it, as `Diagnosis.figure` takes it.
    """

    title: str
    lesson: int
    figure: FigureKey
    remedy: str


DISEASES: dict[str, Disease] = {
    "not_finite": Disease(
        "The signal is infinite or NaN",
        7,
        "layers_not_finite",
        "Look at the first layer named. Divide its weights, lower the learning rate, or clip the gradient; "
        "in float16 use bfloat16 or a loss scale.",
    ),
    "no_gradient": Disease(
        "Trainable parameters get no gradient",
        6,
        "parameters_without_gradient",
        "Look for .detach(), .data, .item(), torch.no_grad() or an output that the loss does not use on "
        "the way from these layers to the loss; freeze what is not meant to learn (requires_grad_(False)).",
    ),
    "symmetric": Disease(
        "Units are copies of each other, and stay so",
        4,
        "twin_share",
        "Draw the weights at random (nn.init.xavier_normal_, nn.init.kaiming_normal_): equal units get equal "
        "gradients and never part. Biases alone may be 0.",
    ),
    "saturation": Disease(
        "Vanishing gradient: the slope of the activation",
        2,
        "gradient_trend",
        "Replace sigmoid by ReLU or tanh with matching weights, or normalize what goes into it: a sigmoid "
        "passes on at most a quarter of the gradient, a saturated unit next to nothing.",
    ),
    "small_weights": Disease(
        "Vanishing gradient: weights too small",
        4,
        "gradient_trend",
        "Initialize with the critical variance: He (2 / fan_in) before ReLU, Xavier before tanh. PyTorch's "
        "default for nn.Linear is 1 / (3 fan_in).",
    ),
    "vanishing": Disease(
        "Vanishing gradient",
        6,
        "gradient_trend",
        "Add skip connections, or normalize before each branch instead of after each sum.",
    ),
    "long_sequence": Disease(
        "Vanishing gradient over time: the sequence is too long",
        7,
        "gradient_over_time",
        "Cut the sequence (truncated backpropagation), set the forget bias of an LSTM to 1 or more, start a "
        "plain RNN from orthogonal recurrent weights, or use attention. Clipping brings no gradient back.",
    ),
    "exploding": Disease(
        "Exploding gradient: weights too large",
        7,
        "gradient_trend",
        "Initialize with the critical variance, scale residual branches by 1 / sqrt(depth), and clip the "
        "gradient by its norm.",
    ),
    "norm_without_skips": Disease(
        "Exploding gradient: batch normalization without skip connections",
        5,
        "gradient_trend",
        "Add skip connections around the layers: without them the gradient's norm grows by "
        "sqrt(pi / (pi - 1)) = 1.21 in each layer of batch normalization and ReLU, whatever the weights.",
    ),
    "dead_units": Disease(
        "Dead ReLU units",
        3,
        "dead_share",
        "Bring the biases back to 0, lower the learning rate that drove them down, or use leaky ReLU or "
        "ELU, which pass a gradient on for negative inputs too.",
    ),
    "collapsed_correlation": Disease(
        "The network forgets its input: different examples become the same",
        4,
        "example_cosine",
        "Add skip connections, or normalize over the batch; a smooth activation at the edge of chaos forgets "
        "more slowly than ReLU. The gradient's size may look perfect.",
    ),
    "rank_collapse": Disease(
        "Tokens become the same: rank collapse of attention",
        8,
        "token_spread",
        "Put a skip connection around each attention, and an MLP after it: attention alone averages "
        "the tokens.",
    ),
    "saturated_attention": Disease(
        "Saturated attention: the softmax has chosen",
        8,
        "attention_entropy",
        "Divide the logits by sqrt(head dimension), scale queries and keys down, or normalize them.",
    ),
    "post_norm": Disease(
        "Post-LN without warm-up: the last layers get the largest gradients",
        8,
        "late_weight_gradient",
        "Normalize before each branch (norm_first=True), or warm the learning rate up in the first thousand "
        "steps (then say warm_up=True here).",
    ),
    "bottleneck": Disease(
        "A bottleneck of width",
        6,
        "narrowest_units",
        "Widen the layer, or lead a skip connection around it: whatever it does not pass on is lost, forward "
        "and backward. If this is the code of an autoencoder, it is meant.",
    ),
    "underflow": Disease(
        "The gradient is below the range of float16",
        9,
        "underflow_share",
        "Scale the loss (torch.amp.GradScaler), or compute in bfloat16, which has the range of float32.",
    ),
    "forgotten_eval": Disease(
        "The model is evaluated in train mode",
        5,
        "change_by_eval",
        "Call model.eval() before evaluating, and model.train() before training on.",
    ),
    "learning_rate": Disease(
        "The learning rate does not fit: the gradient is not the problem",
        9,
        "update_ratio",
        "Change the learning rate by the factor that brings lr * |gradient| / |weight| to about 1e-3.",
    ),
}

# What a disease brings along by itself: these are listed below it, whatever their figures.
FOLLOWS: dict[str, set[str]] = {
    "not_finite": set(DISEASES) - {"not_finite", "symmetric", "exploding"},
    "symmetric": set(DISEASES) - {"symmetric", "not_finite"},
    "saturation": {"underflow", "learning_rate", "collapsed_correlation", "vanishing"},
    "small_weights": {"underflow", "learning_rate", "collapsed_correlation", "vanishing"},
    "vanishing": {"underflow", "learning_rate", "collapsed_correlation"},
    "long_sequence": {"underflow", "learning_rate", "collapsed_correlation", "vanishing"},
    "exploding": {"not_finite", "learning_rate", "saturation"},
    "norm_without_skips": {"learning_rate", "exploding"},
    "dead_units": {"collapsed_correlation", "learning_rate", "underflow", "vanishing", "small_weights"},
    "collapsed_correlation": {"dead_units", "learning_rate"},
    "rank_collapse": {"collapsed_correlation", "learning_rate", "vanishing", "small_weights", "underflow"},
    "saturated_attention": {"learning_rate", "vanishing", "exploding", "post_norm"},
    "post_norm": {"rank_collapse", "collapsed_correlation", "vanishing", "learning_rate"},
    "bottleneck": {"learning_rate", "collapsed_correlation", "vanishing", "dead_units"},
    "no_gradient": {"learning_rate"},
}
