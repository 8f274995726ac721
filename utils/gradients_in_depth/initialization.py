"""Random weights: every scheme of the course for one `nn.Linear`, the variance of each, and LSUV."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gradients_in_depth.arguments import check_batch, check_choice, check_integer, check_number
from gradients_in_depth.data import seeded_generator

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
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"initialize fills an nn.Linear, got {type(linear).__name__}.")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}.")
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
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}.")
    check_batch("inputs", inputs)
    check_number("tolerance", tolerance, at_least=1e-12)
    check_integer("most_rescalings", most_rescalings, at_least=1)
    generator = seeded_generator(seed)
    linears = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if len({id(linear.weight) for linear in linears}) < len(linears):
        raise ValueError("model must not share a weight between layers: it cannot be scaled for both.")
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    before = [(p, p.detach().clone()) for linear in linears for p in linear.parameters()]
    calls: dict[nn.Linear, Tensor] = {}  # in order; of a layer that is called twice, the first

    def keep(linear: nn.Linear, _inputs: tuple, output: Tensor) -> None:
        calls.setdefault(linear, output)

    hooks = [linear.register_forward_hook(keep) for linear in linears]
    try:
        model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for linear in linears:
                initialize(linear, "orthogonal", generator=generator)
            model(inputs)
            order = list(calls)
            if not order:
                raise ValueError("model must have an nn.Linear that it calls, and it has none.")
            scales = []
            for linear in order:
                scales.append(1.0)
                for _ in range(most_rescalings):
                    calls.clear()
                    model(inputs)
                    variance = calls[linear].double().var(correction=0).item()
                    if abs(variance - 1) <= tolerance:
                        break
                    if not 0 < variance < math.inf:
                        raise ValueError(
                            f"The outputs of {linears[linear]} must vary over the inputs, "
                            f"but their variance is {variance:.3g}."
                        )
                    linear.weight.div_(math.sqrt(variance))
                    scales[-1] /= math.sqrt(variance)
                else:
                    raise ValueError(
                        f"The variance of the outputs of {linears[linear]} must settle at 1 within "
                        f"{most_rescalings} rescalings, but it is {variance:.3g}."
                    )
    except BaseException:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return tuple(scales)
