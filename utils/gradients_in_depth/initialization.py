"""Random weights: every scheme of the course for one `nn.Linear`, the variance of each, and LSUV."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from gradients_in_depth.arguments import check_batch, check_choice, check_integer, check_number, check_type
from gradients_in_depth.randomness import seeded_generator

# Name -> function that fills a (fan_out, fan_in) weight from a generator, at gain 1.
SCHEMES: dict[str, Callable[..., Tensor]] = {
    "zero": lambda weight, generator: nn.init.zeros_(weight),
    # 1 / fan_in keeps the scale of equal units: what fails is their symmetry alone.
    "constant": lambda weight, generator: nn.init.constant_(weight, 1 / weight.shape[1]),
    # At gain 1 the same as lecun_normal; its gain is the sigma_w of the mean-field theory.
    "gaussian": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
    # What nn.Linear does by itself. Its function is "kaiming", yet with a = sqrt(5) it is NOT He: 1/3, not 2.
    "pytorch_default": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
}


def initialize(
    linear: nn.Linear,
    scheme: str,
    *,
    gain: float = 1.0,
    bias_var: float = 0.0,
    generator: torch.Generator,
) -> None:
    """Fill the weight (fan_out, fan_in) and the bias (fan_out,) of `linear` in place.

    `gain` multiplies the weights that `scheme` draws at gain 1; the variance that results is
    `weight_variance(...)`. The bias is normal with variance `bias_var`, except under "pytorch_default", which
    draws its own: uniform, variance 1 / (3 fan_in). The draw is made in float64 and then rounded, so that one
    seed gives one network in every dtype. Raises `TypeError` for anything but an `nn.Linear` and a
    `torch.Generator`; `ValueError` for an unknown scheme, a negative gain or variance, and a `bias_var` that
    has no bias to go to.
    LeCun et al. 1998; Glorot and Bengio 2010; Saxe, McClelland, Ganguli 2014; He et al. 2015.
    """
    check_type("linear", linear, nn.Linear, "an nn.Linear")
    check_type("generator", generator, torch.Generator, "a torch.Generator")
    check_choice("scheme", scheme, SCHEMES)
    check_number("gain", gain, at_least=0)
    check_number("bias_var", bias_var, at_least=0)
    if bias_var > 0 and linear.bias is None:
        raise ValueError(f"bias_var must be 0 for a layer without bias, got {bias_var!r}.")
    if bias_var > 0 and scheme == "pytorch_default":
        raise ValueError(
            f"bias_var must be 0 with pytorch_default, which draws its own bias, got {bias_var!r}."
        )

    with torch.no_grad():
        weight = torch.empty(linear.weight.shape, dtype=torch.float64)
        linear.weight.copy_(gain * SCHEMES[scheme](weight, generator=generator))
        if linear.bias is not None:
            bias = torch.zeros(linear.bias.shape, dtype=torch.float64)
            if scheme == "pytorch_default":
                bound = 1 / math.sqrt(linear.in_features)
                bias.uniform_(-bound, bound, generator=generator)
            elif bias_var > 0:
                bias.normal_(0, math.sqrt(bias_var), generator=generator)
            linear.bias.copy_(bias)


def weight_variance(scheme: str, fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """`weight_var` = Var(W_ij) * fan_in of the weights that `initialize` draws, to hand to `theory`.

    0 for "zero" and "constant", which draw nothing; the maps of `theory` are for independent weights,
    and do not describe "constant". Raises as `initialize` does, and for a fan below 1.
    """
    check_choice("scheme", scheme, SCHEMES)
    check_integer("fan_in", fan_in, at_least=1)
    check_integer("fan_out", fan_out, at_least=1)
    check_number("gain", gain, at_least=0)
    xavier = 2 * fan_in / (fan_in + fan_out)
    at_gain_1 = {
        "zero": 0.0,
        "constant": 0.0,
        "gaussian": 1.0,
        "lecun_normal": 1.0,
        "xavier_normal": xavier,
        "xavier_uniform": xavier,
        "he_normal": 2.0,
        "he_uniform": 2.0,
        # The shorter side is orthonormal: min(fan_in, fan_out) unit vectors share fan_in * fan_out entries.
        "orthogonal": fan_in / max(fan_in, fan_out),
        "pytorch_default": 1 / 3,
    }
    return gain**2 * at_gain_1[scheme]


def lsuv(
    model: nn.Module,
    inputs: Tensor,
    *,
    seed: int = 0,
    tolerance: float = 0.01,
    most_rescalings: int = 10,
) -> tuple[float, ...]:
    """Layer-sequential unit-variance initialization, in place: orthogonal weights, each rescaled on data.

    Every `nn.Linear` of `model` gets orthogonal weights and bias 0. Then, in the order in which the layers
    are first called, each weight is divided by the standard deviation of its layer's outputs (over examples
    and units) until their variance is within `tolerance` of 1. The last layer is rescaled as the others.
    Returns (layers,): the number that each orthogonal weight was multiplied by, in the order of the calls.

    inputs: a batch (batch, ...) as the model takes it; the more varied, the better. Runs in evaluation mode.
    Modes, gradients, buffers and torch's global random state are left as they were; after an error (a layer
    that gives one value for everything, a model that fails) the weights too.
    Raises TypeError for anything but an `nn.Module` and a tensor; ValueError for a model without an
    `nn.Linear` that it calls, for one with two layers that share a weight, for a layer whose outputs do not
    vary or whose variance does not settle in `most_rescalings`, and for arguments that are not allowed.
    Mishkin and Matas 2016.
    """
    check_type("model", model, nn.Module, "an nn.Module")
    check_batch("inputs", inputs)
    check_number("tolerance", tolerance, at_least=1e-12)
    check_integer("most_rescalings", most_rescalings, at_least=1)
    generator = seeded_generator(seed)
    linears = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if len({id(linear.weight) for linear in linears}) < len(linears):
        raise ValueError("model must not share a weight between layers: it cannot be scaled for both.")
    parameters = [parameter for linear in linears for parameter in linear.parameters()]
    with _left_as_it_was(model, parameters), torch.random.fork_rng(devices=[]), torch.no_grad():
        model.eval()
        for linear in linears:
            initialize(linear, "orthogonal", generator=generator)
        order = _output_variances(model, inputs, linears)
        if not order:
            raise ValueError("model must have an nn.Linear that it calls, got none.")
        return tuple(
            _rescale(model, inputs, linear, linears[linear], tolerance, most_rescalings) for linear in order
        )


def _rescale(
    model: nn.Module, inputs: Tensor, linear: nn.Linear, name: str, tolerance: float, most_rescalings: int
) -> float:
    """Bring the variance of the layer's outputs to 1; returns what its weight was multiplied by."""
    scale = 1.0
    for _ in range(most_rescalings):
        variance = _output_variances(model, inputs, [linear])[linear]
        if abs(variance - 1) <= tolerance:
            return scale
        if not 0 < variance < math.inf:
            raise ValueError(f"The outputs of {name} must vary over the inputs, got variance {variance:.3g}.")
        linear.weight.div_(math.sqrt(variance))
        scale /= math.sqrt(variance)
    raise ValueError(
        f"The variance of the outputs of {name} must settle at 1 within {most_rescalings} rescalings, "
        f"got {variance:.3g}."
    )


def _output_variances(
    model: nn.Module, inputs: Tensor, linears: Iterable[nn.Linear]
) -> dict[nn.Linear, float]:
    """Variance of what each of the layers gives at its first call, in the order of these calls."""
    variances: dict[nn.Linear, float] = {}

    def measure(linear: nn.Linear, _inputs: tuple, output: Tensor) -> None:
        if linear not in variances:
            variances[linear] = output.double().var(correction=0).item()

    hooks = [linear.register_forward_hook(measure) for linear in linears]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return variances


@contextmanager
def _left_as_it_was(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Afterwards modes and buffers are what they were; after an error, the parameters too."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    values = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    except BaseException:
        _put_back(values)
        raise
    finally:
        for module, training in modes:
            module.training = training
        _put_back(buffers)


@torch.no_grad()
def _put_back(values: Iterable[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in values:
        tensor.copy_(value)
