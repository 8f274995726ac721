"""The closed forms of the course: what a product, a random layer or a saturated unit should do.

Throughout, `q` is the variance of a pre-activation z ~ N(0, q), `weight_var` is Var(W_ij) * fan_in and
`bias_var` is the variance of a bias. Networks are infinitely wide; weights and biases are independent with
mean 0. Functions of `q` (and of a single weight) also take an array, and then return one of its shape.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from numbers import Integral, Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import digamma, expit, gammaincinv, ndtr
from torch import nn

TensorFunction = Callable[[torch.Tensor], torch.Tensor]
Activation = str | TensorFunction
Values = float | np.ndarray

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
FORMATS: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
OUTPUT_LOSSES = ("squared_error", "cross_entropy")


# --- What is allowed, in one sentence each -----------------------------------------------------------------


def _check_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, but {value!r} was given.")


def _check_number(what: str, value: object, above: float = -math.inf, *, or_equal: bool = False) -> None:
    def sentence() -> str:
        bound = "" if above == -math.inf else f" {'>=' if or_equal else '>'} {above:g}"
        return f"{what} must be a finite number{bound}, but {value!r} was given."

    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(sentence())
    if not math.isfinite(value) or not (value > above or (or_equal and value == above)):
        raise ValueError(sentence())


def _check_count(what: str, value: object) -> None:
    sentence = f"{what} must be an integer >= 1, but {value!r} was given."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(sentence)
    if value < 1:
        raise ValueError(sentence)


def _check_share(what: str, value: object) -> None:
    _check_number(what, value, 0.0, or_equal=True)
    if value >= 1:
        raise ValueError(f"{what} must be below 1, but {value!r} was given.")


def _numbers(what: str, value: ArrayLike, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """The value, a number or an array, as a float64 array."""

    def sentence() -> str:  # only on demand: printing an array costs more than integrating over it
        above = f" >= {low:g}" if low > -math.inf else ""
        bound = f" from {low:g} to {high:g}" if high < math.inf else above
        allowed = f"a finite number{bound}, or a non-empty array of them"
        return f"{what} must be {allowed}, but {value!r} was given."

    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(sentence()) from None
    if array.dtype.kind not in "iuf":
        raise TypeError(sentence())
    if array.size == 0 or not (np.isfinite(array) & (array >= low) & (array <= high)).all():
        raise ValueError(sentence())
    return array.astype(float)


def _check_broadcast(what: str, first: np.ndarray, second: np.ndarray) -> None:
    try:
        np.broadcast_shapes(first.shape, second.shape)
    except ValueError:
        shapes = f"{first.shape} and {second.shape}"
        raise ValueError(f"{what} must broadcast, but their shapes {shapes} were given.") from None


def _plain(array: np.ndarray) -> Values:
    return array.item() if array.ndim == 0 else array


# --- Activations and Gaussian averages ---------------------------------------------------------------------


def activation_module(name: str) -> nn.Module:
    """A new module of the named activation, with PyTorch's default arguments.

    Raises ValueError, which lists the names, when the name is unknown.
    """
    _check_choice("activation", name, tuple(ACTIVATIONS))
    return ACTIVATIONS[name]()


def _as_function(activation: Activation) -> TensorFunction:
    """The activation as a plain float64 function: a module is copied, so that the caller's stays as it is."""
    if isinstance(activation, str):
        activation = activation_module(activation)
    if isinstance(activation, nn.Module):
        with torch.inference_mode(False):  # autograd refuses parameters that were made in inference mode
            return copy.deepcopy(activation).double().eval().forward
    if not callable(activation):
        names = ", ".join(ACTIVATIONS)
        raise TypeError(
            f"activation must be one of {names} or a torch callable, but {activation!r} was given."
        )
    return activation


def _evaluate(function: TensorFunction, z: torch.Tensor) -> torch.Tensor:
    values = function(z.clone())  # a copy, because the function may work in place
    if getattr(values, "shape", None) != z.shape:
        given = getattr(values, "shape", type(values).__name__)
        raise ValueError(
            f"The function must return a tensor of its input's shape {(*z.shape,)}, but gave {given}."
        )
    return values


def _derivative(function: TensorFunction) -> TensorFunction:
    """phi', by automatic differentiation."""

    def slope(z: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = _evaluate(function, z)
            if not values.requires_grad:
                raise ValueError(
                    "The activation must be differentiable by autograd, but it returned no graph."
                )
            return torch.autograd.grad(values.sum(), z)[0]

    return slope


@cache
def _gaussian_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of E[f(x)], x ~ N(0, 1): 16 Gauss-Legendre points on each of 48 panels.

    The panels halve in size towards 0, so that a kink at 0 falls between panels and a step as narrow as
    1e-6 is still resolved (Gauss-Hermite points are too sparse for both). Beyond 12 lies a mass of 4e-33.
    """
    points, weights = np.polynomial.legendre.leggauss(16)
    edges = np.concatenate([[0.0], 12.0 * 2.0 ** np.arange(-23, 1)])
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + points)).ravel()
    w = (half * weights).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.concatenate([-x[::-1], x]), np.concatenate([w[::-1], w])


def gaussian_expectation(function: TensorFunction, variance: ArrayLike = 1.0) -> Values:
    """E[function(z)] for z ~ N(0, variance), by piecewise Gauss-Legendre quadrature.

    `function` works elementwise on a float64 tensor. Smooth functions, functions with a kink or jump at 0,
    and steps as narrow as sqrt(variance) / 1e6 are integrated to about 1e-14; a kink elsewhere costs digits.
    Raises TypeError or ValueError when the function is not callable, changes the shape or gives NaN, and
    when a variance is negative or not finite.
    """
    variance = _numbers("variance", variance, low=0.0)
    if not callable(function):
        raise TypeError(f"function must be a torch callable, but {function!r} was given.")
    nodes, weights = _gaussian_nodes()
    with torch.inference_mode(False), torch.no_grad():
        values = _evaluate(function, torch.from_numpy(np.multiply.outer(np.sqrt(variance), nodes)))
    with np.errstate(over="ignore"):  # inf is the answer
        expectation = values.double().numpy() @ weights
    if np.isnan(expectation).any():
        raise ValueError(
            f"The function must be defined on all real numbers, but it gave NaN at variance {variance}."
        )
    return _plain(np.asarray(expectation))


# --- 1. Products -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumberFormat:
    """The range of a binary floating-point format (IEEE 754-2019; bfloat16 has float32's exponent)."""

    name: str
    smallest_subnormal: float
    smallest_normal: float
    largest: float
    epsilon: float


def number_format(name: str) -> NumberFormat:
    """The range of float16, bfloat16, float32 or float64; raises ValueError for another name."""
    _check_choice("number format", name, tuple(FORMATS))
    info = torch.finfo(FORMATS[name])
    return NumberFormat(name, info.smallest_normal * info.eps, info.smallest_normal, info.max, info.eps)


def _first_power_beyond(factor: float, boundary: Fraction) -> int:
    """Smallest n >= 1 at which factor**n has reached the boundary, which lies on the factor's side of 1."""
    log2_boundary = math.log2(boundary.numerator) - math.log2(boundary.denominator)
    exponent = log2_boundary / math.log2(factor)
    nearest = max(round(exponent), 1)
    if abs(exponent - nearest) > 1e-9 or nearest > 100_000:
        return max(math.ceil(exponent), 1)
    power = Fraction(factor) ** nearest  # too close for logarithms: decide exactly
    return nearest if power == boundary or (power < boundary) == (factor < 1) else nearest + 1


def first_zero(factor: float, format_name: str) -> int | None:
    """First n at which factor**n, rounded once into the format, is exactly 0; None when |factor| >= 1.

    That is |factor|**n <= smallest_subnormal / 2, for ties go to the even neighbour, 0 (IEEE 754-2019).
    Multiplying step by step in the format is something else: there every product is rounded, and among
    subnormals it can be rounded back up. In float16 the powers of 0.8 then never get to 0: two subnormal
    steps times 0.8 are 1.6 steps, which round to two again.
    Raises TypeError or ValueError when the factor is not a finite number or the format is unknown.
    """
    _check_number("factor", factor)
    factor = abs(float(factor))
    boundary = Fraction(number_format(format_name).smallest_subnormal) / 2
    if factor >= 1:
        return None
    return _first_power_beyond(factor, boundary) if factor > 0 else 1


def first_overflow(factor: float, format_name: str) -> int | None:
    """First n at which factor**n, rounded once into the format, is infinite; None when |factor| <= 1.

    That is |factor|**n at or past the middle between the largest number and what would be the next one, a
    power of two: ties go to the even neighbour, here infinity (IEEE 754-2019).
    Raises TypeError or ValueError when the factor is not a finite number or the format is unknown.
    """
    _check_number("factor", factor)
    factor, numbers = abs(float(factor)), number_format(format_name)
    next_step = Fraction(2) ** math.frexp(numbers.largest)[1]  # where the next number would be
    boundary = (Fraction(numbers.largest) + next_step) / 2
    return _first_power_beyond(factor, boundary) if factor > 1 else None


def lyapunov_exponents(width: int, weight_std: float) -> np.ndarray:
    """Growth per factor of the log singular values of a product of iid Gaussian matrices.

    Returns (width,), in nats, largest first: (ln 2 + digamma(k / 2)) / 2 + ln weight_std, k = width .. 1, for
    matrices (width, width) with entries N(0, weight_std**2) (Newman 1986). The first is that of the norm.
    Raises TypeError or ValueError unless width is an integer >= 1 and weight_std > 0.
    """
    _check_count("width", width)
    _check_number("weight_std", weight_std, 0.0)
    return (math.log(2) + digamma(np.arange(width, 0, -1) / 2)) / 2 + math.log(weight_std)


def critical_weight_std(width: int) -> float:
    """The weight_std at which the norm of the Gaussian product neither grows nor shrinks (Newman 1986).

    Tends to 1 / sqrt(width) for large widths, from above.
    Raises TypeError or ValueError unless width is an integer >= 1.
    """
    return math.exp(-lyapunov_exponents(width, 1.0)[0])


# --- 2. Variance and gradient maps -------------------------------------------------------------------------


def activation_moments(q: ArrayLike, activation: Activation) -> tuple[Values, Values]:
    """(E[phi(z)], E[phi(z)**2]) for z ~ N(0, q).

    Raises TypeError or ValueError when q is negative or not finite, or on a bad activation.
    """
    q = _numbers("q", q, low=0.0)
    function = _as_function(activation)
    return gaussian_expectation(function, q), gaussian_expectation(lambda z: function(z) ** 2, q)


def variance_map(q: ArrayLike, activation: Activation, weight_var: float, bias_var: float = 0.0) -> Values:
    """Variance one layer on: weight_var * E[phi(z)**2] + bias_var, z ~ N(0, q) (Poole et al. 2016).

    Raises TypeError or ValueError when a variance is negative or not finite, or on a bad activation.
    """
    q = _numbers("q", q, low=0.0)
    _check_number("weight_var", weight_var, 0.0, or_equal=True)
    _check_number("bias_var", bias_var, 0.0, or_equal=True)
    function = _as_function(activation)
    return weight_var * gaussian_expectation(lambda z: function(z) ** 2, q) + bias_var


def chi(q: ArrayLike, activation: Activation, weight_var: float) -> Values:
    """Factor per layer on the mean squared gradient: weight_var * E[phi'(z)**2], z ~ N(0, q).

    Below 1 gradients vanish, above 1 they explode (Schoenholz et al. 2017). At q = 0 it is the limit from
    above, because phi' may jump there.
    Raises TypeError or ValueError when a variance is negative or not finite, or on a bad activation.
    """
    q = _numbers("q", q, low=0.0)
    _check_number("weight_var", weight_var, 0.0, or_equal=True)
    slope = _derivative(_as_function(activation))
    return weight_var * gaussian_expectation(lambda z: slope(z) ** 2, np.maximum(q, 1e-300))


def fixed_point(
    activation: Activation, weight_var: float, bias_var: float = 0.0, start: float = 1.0
) -> float:
    """The variance that variance_map, applied again and again from `start`, tends to (Poole et al. 2016).

    Returns inf when it diverges and 0.0 when it dies. The map must grow with q, as it does for every name in
    ACTIVATIONS: then the variances move one way only, up to the next root of variance_map(q) = q, which
    bracketing finds in a few evaluations also where iteration takes millions (tanh near weight_var = 1).
    Raises TypeError or ValueError when a variance is negative or not finite, when start is 0, or on a bad
    activation.
    """
    _check_number("start", start, 0.0)
    function = _as_function(activation)

    def gain(q: float) -> float:
        return variance_map(q, function, weight_var, bias_var) - q

    change = gain(start)
    if abs(change) <= 1e-12 * start:  # every variance is a fixed point of ReLU with weight_var 2
        return float(start)
    sign = 1 if change > 0 else -1
    floor = 0.0 if gain(0.0) > 0 else 1e-10
    ceiling = 1e12 * max(1.0, start, weight_var, bias_var)
    near = far = float(start)
    while (progress := sign * gain(far)) > -1e-12 * far:  # until clearly on the other side of the root
        if progress > 0:
            near = far
        far *= 2.0**sign
        if far > ceiling:
            return math.inf
        if far < floor:
            return 0.0
    return float(brentq(gain, min(near, far), max(near, far), xtol=1e-300, rtol=1e-14))


def variance_trajectory(
    depth: int, activation: Activation, weight_var: float, bias_var: float = 0.0, first: float = 1.0
) -> np.ndarray:
    """Variances q_1 .. q_depth of the pre-activations, q_1 = first (Poole et al. 2016).

    Returns (depth,), inf from the layer at which float64 overflows. Raises TypeError or ValueError unless
    depth is an integer >= 1 and the variances are finite and >= 0, or on a bad activation.
    """
    _check_count("depth", depth)
    _check_number("first", first, 0.0, or_equal=True)
    _check_number("weight_var", weight_var, 0.0, or_equal=True)
    _check_number("bias_var", bias_var, 0.0, or_equal=True)
    function = _as_function(activation)
    variances = [float(first)]
    while len(variances) < depth:
        q = variances[-1]
        variances.append(variance_map(q, function, weight_var, bias_var) if math.isfinite(q) else q)
    return np.array(variances)


def gradient_norm_trajectory(
    depth: int, activation: Activation, weight_var: float, bias_var: float = 0.0, first: float = 1.0
) -> np.ndarray:
    """RMS activation gradient of layers 1 .. depth relative to the last (Schoenholz et al. 2017).

    Returns (depth,): entry l is the product of sqrt(chi(q_k)), k = l + 1 .. depth, so the last is 1. Layers
    are equally wide; q_k is variance_trajectory with the same arguments. Raises as variance_trajectory.
    """
    function = _as_function(activation)
    variances = variance_trajectory(depth, function, weight_var, bias_var, first).clip(max=1e300)
    factors = np.sqrt(chi(variances, function, weight_var))
    with np.errstate(over="ignore"):
        return np.cumprod([1.0, *factors[:0:-1]])[::-1].copy()  # from the last layer back; q_1 is not needed


def relu_cosine_map(cosine: float) -> float:
    """Cosine between the ReLU outputs for two inputs whose pre-activations have the given cosine.

    The arc-cosine kernel of degree 1 (Cho and Saul 2009), without biases. Applied layer after layer it tends
    to 1, whatever the scale of the weights.
    Raises TypeError or ValueError unless the cosine is a number from -1 to 1.
    """
    _check_number("cosine", cosine)
    if abs(cosine) > 1:
        raise ValueError(f"cosine must be from -1 to 1, but {cosine!r} was given.")
    return (math.sqrt(1 - cosine**2) + cosine * (math.pi - math.acos(cosine))) / math.pi


def critical_gains(activation: Activation, q: ArrayLike = 1.0) -> tuple[Values, Values]:
    """(forward, backward): gains at which a layer keeps the variance q, and the mean squared gradient.

    The gain is sigma_w, so weight_var = gain**2. Forward it is sqrt(q / E[phi(z)**2]): variance_map(q) = q.
    Backward it is 1 / sqrt(E[phi'(z)**2]): chi(q) = 1. z ~ N(0, q); at q = 0 both are limits from above.
    The two agree where phi is linear on either side of 0 (He et al. 2015): sqrt(2) for ReLU, sqrt(2 / (1 +
    a**2)) for a leak of slope a. Elsewhere no single gain keeps both. `torch.nn.init.calculate_gain` has
    these for ReLU and leaky ReLU; its 5/3 for tanh, 1 for sigmoid and 3/4 for SELU are conventions, and it
    knows no ELU, GELU or SiLU. A gain is inf where nothing comes through.
    Raises TypeError or ValueError when q is negative or not finite, or on a bad activation.
    """
    q = np.maximum(_numbers("q", q, low=0.0), 1e-200)
    function = _as_function(activation)
    slope = _derivative(function)
    scale = np.sqrt(q)[..., None]  # before squaring, because the square of 1e-200 is 0
    forward = gaussian_expectation(lambda z: (function(z) / torch.from_numpy(scale)) ** 2, q)
    backward = gaussian_expectation(lambda z: slope(z) ** 2, q)
    with np.errstate(divide="ignore"):
        return tuple(_plain(1 / np.sqrt(np.asarray(kept))) for kept in (forward, backward))


# --- 2b. Two inputs, the edge of chaos, finite width -------------------------------------------------------


@cache
def _panel_nodes(levels: int, outer: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights from 0 to 1 (or the last of `outer`): 10 Gauss-Legendre points on each panel."""
    points, weights = np.polynomial.legendre.leggauss(10)
    edges = np.concatenate([[0.0], 4.0 ** np.arange(-levels, 1), outer])
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + points)).ravel(), (half * weights).ravel()


def _angular_nodes(angle: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles from 0 to pi and their weights, (..., nodes), for inputs that are `angle` (..., 1) apart.

    The two pre-activations change sign at (pi - angle) / 2 and (pi + angle) / 2. Panels shrink by 4 towards
    both, `levels` times, so that a kink at 0 falls between panels and a step is resolved.
    """
    away, share = _panel_nodes(levels, ())
    first, last, middle = (math.pi - angle) / 2, (math.pi + angle) / 2, angle / 2
    angles = [first - first * away, first + middle * away, last - middle * away, last + first * away]
    shares = [first * share, middle * share, middle * share, first * share]
    return np.concatenate(angles, -1), np.concatenate(shares, -1)


def _pair_expectation(function: TensorFunction, cosine: np.ndarray, q: float) -> np.ndarray:
    """E[f(u) f(v)] for normal u, v of variance q and the given correlations (any shape).

    In polar coordinates u and v are r cos(theta +- angle / 2): lines through the origin, along which a kink
    or a step at 0 lies, are single angles (the trick of Cho and Saul 2009). Swapping u and v mirrors theta.
    """
    levels = 1 + max(0, math.ceil(math.log(max(q, 1e-300)) / (2 * math.log(4))))  # as sharp as a sigmoid
    angle = np.arccos(cosine)[..., None]
    theta, theta_weights = _angular_nodes(angle, levels)
    radius, radius_weights = _panel_nodes(levels, (2.0, 3.5, 5.0, 7.0, 12.0))
    radius_weights = radius_weights * radius * np.exp(-(radius**2) / 2)
    values = []
    with torch.inference_mode(False), torch.no_grad():
        for side in (1, -1):
            z = math.sqrt(q) * np.cos(theta + side * angle / 2)[..., None] * radius
            values.append(_evaluate(function, torch.from_numpy(z)).double().numpy())
    return ((values[0] * values[1]) @ radius_weights * theta_weights).sum(-1) / math.pi


def _check_pair(weight_var: float, bias_var: float, q: float) -> None:
    _check_number("weight_var", weight_var, 0.0, or_equal=True)
    _check_number("bias_var", bias_var, 0.0, or_equal=True)
    _check_number("q", q, 0.0)
    if weight_var == bias_var == 0:
        raise ValueError("weight_var and bias_var must not both be 0: a layer of zeros has no correlation.")


def correlation_map(
    c: ArrayLike, activation: Activation, weight_var: float, bias_var: float, q: float
) -> Values:
    """Correlation, one layer on, of the pre-activations for two inputs (Poole et al. 2016).

    Both have variance q and correlation c now: (weight_var * E[phi(u) phi(v)] + bias_var) divided by
    variance_map(q). `c` is a number or an array. Exactly 1 at c = 1; for ReLU without biases it is
    relu_cosine_map. Right to about 1e-9 for smooth functions at any q, and 1e-13 for a kink at 0 alone.
    Raises TypeError or ValueError when c is not from -1 to 1, q is not positive, a variance is negative or
    not finite, both are 0, or on a bad activation.
    """
    c = _numbers("c", c, low=-1.0, high=1.0)
    _check_pair(weight_var, bias_var, q)
    function = _as_function(activation)
    variance = variance_map(q, function, weight_var, bias_var)
    after = (weight_var * _pair_expectation(function, c, q) + bias_var) / variance
    return _plain(np.where(c == 1, 1.0, np.clip(after, -1, 1)))


def correlation_slope(
    c: ArrayLike, activation: Activation, weight_var: float, bias_var: float, q: float
) -> Values:
    """The derivative of correlation_map by c: weight_var * E[phi'(u) phi'(v)] * q / variance_map(q).

    At c = 1 and at the fixed point q it is chi: what separates two nearly equal inputs is what makes
    gradients explode (Schoenholz et al. 2017). Raises as correlation_map.
    """
    c = _numbers("c", c, low=-1.0, high=1.0)
    _check_pair(weight_var, bias_var, q)
    function = _as_function(activation)
    growth = weight_var * q / variance_map(q, function, weight_var, bias_var)
    at_one = chi(q, function, growth)
    return _plain(np.where(c == 1, at_one, growth * _pair_expectation(_derivative(function), c, q)))


def correlation_trajectory(
    depth: int,
    activation: Activation,
    weight_var: float,
    bias_var: float = 0.0,
    first: float = 1.0,
    cosine: ArrayLike = 0.0,
) -> np.ndarray:
    """Correlations c_1 .. c_depth of the pre-activations for two inputs, c_1 = cosine (Poole et al. 2016).

    Returns (depth,), or (..., depth) for an array of starts. Both inputs have the variances of
    variance_trajectory with the same arguments; where those die or diverge, the last correlation is kept.
    Raises as variance_trajectory, when a cosine is not from -1 to 1, and when first is 0.
    """
    variances = variance_trajectory(depth, activation, weight_var, bias_var, first)
    correlations = [_numbers("cosine", cosine, low=-1.0, high=1.0)]
    _check_pair(weight_var, bias_var, first)
    function = _as_function(activation)
    for q, after in zip(variances, variances[1:], strict=False):
        if not 1e-200 < q < 1e200:
            correlations.append(correlations[-1])
            continue
        c = (weight_var * _pair_expectation(function, correlations[-1], q) + bias_var) / after
        correlations.append(np.where(correlations[-1] == 1, 1.0, np.clip(c, -1, 1)))
    return np.stack(correlations, axis=-1)


def correlation_fixed_point(activation: Activation, weight_var: float, bias_var: float = 0.0) -> float:
    """The correlation that two different inputs tend to, layer after layer (Poole et al. 2016).

    1 in the ordered phase (chi <= 1) and at its edge; below 1 in the chaotic phase, because the map is convex
    on [0, 1] and steeper than 1 at its end. Where the variance dies it is 1, the limit of small biases.
    Raises TypeError or ValueError when a variance is negative or not finite, when the variance of the
    pre-activations diverges, or on a bad activation.
    """
    return depth_scales(activation, weight_var, bias_var).end_correlation


@dataclass(frozen=True)
class DepthScales:
    """Where signals settle, and the layers over which the distance from there shrinks by e.

    variance (xi_q) and correlation (xi_c) are those numbers of layers; end_variance (q*) and end_correlation
    (c*) the fixed points; chi is the factor per layer on the mean squared gradient at q*.
    """

    variance: float
    correlation: float
    end_variance: float
    end_correlation: float
    chi: float


def depth_scales(activation: Activation, weight_var: float, bias_var: float = 0.0) -> DepthScales:
    """How many layers forget: xi_q of the variance and xi_c of the correlation (Schoenholz et al. 2017).

    -1 / ln(slope) of variance_map at its fixed point, and of correlation_map at its own. In the ordered phase
    the second slope is chi, so that gradients shrink over the same depth. inf at the edge of chaos, where
    nothing is forgotten exponentially. Networks train up to a depth of about 6 xi_c.
    Where the variance dies, both are those of the limit of small biases, -1 / ln(chi). Raises as
    correlation_fixed_point.
    """
    function = _as_function(activation)
    q = fixed_point(function, weight_var, bias_var)
    if not math.isfinite(q):
        raise ValueError(
            "weight_var must be small enough for the variance to settle, but it diverges with weight_var "
            f"{weight_var!r} and bias_var {bias_var!r}."
        )
    at_one = chi(q, function, weight_var)
    if q < 1e-12:
        return DepthScales(_scale(at_one), _scale(at_one), q, 1.0, at_one)
    derivative = _derivative(function)
    variance_slope = weight_var * gaussian_expectation(lambda z: function(z) * derivative(z) * z, q) / q
    c = _correlation_end(function, weight_var, bias_var, q, at_one - 1)
    slope = at_one if c == 1 else correlation_slope(c, function, weight_var, bias_var, q)
    return DepthScales(_scale(variance_slope), _scale(slope), q, c, at_one)


def _correlation_end(
    function: TensorFunction, weight_var: float, bias_var: float, q: float, excess: float
) -> float:
    """The stable fixed point of the correlation at that of the variance; excess is chi - 1."""
    if excess < 1e-6:
        return 1.0

    def gain(c: float) -> float:
        product = _pair_expectation(function, np.asarray(c), q)
        return float((weight_var * product + bias_var) / q) - c

    if gain(0.0) <= 1e-12:  # an odd activation without biases: orthogonal inputs stay orthogonal
        return 0.0
    return float(brentq(gain, 0.0, 1 - 1e-3 * min(excess, 1.0), xtol=1e-9))


def _scale(slope: float) -> float:
    if slope <= 0:
        return 0.0  # forgotten at once
    return -1 / math.log(slope) if slope < 1 - 1e-9 else math.inf


def critical_weight_var(bias_var: float = 0.0, activation: Activation = "tanh") -> float:
    """The weight_var at which chi is 1 at the fixed point: the edge of chaos (Poole et al. 2016).

    For tanh it is 1 without biases and grows with bias_var; He's 2 is that of ReLU, which has one without
    biases only. Along the line weight_var is 1 / E[phi'(z)**2], which leaves one equation for q.
    Raises TypeError or ValueError when bias_var is negative or not finite, when there is no such weight_var,
    or on a bad activation.
    """
    _check_number("bias_var", bias_var, 0.0, or_equal=True)
    function = _as_function(activation)

    def bias_left(q: float) -> float:
        weight_var = 1 / chi(q, function, 1.0)
        return q - variance_map(q, function, weight_var) - bias_var

    smallest = 1e-12
    if abs(bias_left(smallest)) <= 1e-12:
        return 1 / chi(0.0, function, 1.0)
    for exponent in range(-9, 10):
        largest = 10.0**exponent
        if bias_left(largest) > 0 > bias_left(smallest):
            q = brentq(bias_left, smallest, largest, xtol=1e-300, rtol=1e-13)
            return 1 / chi(q, function, 1.0)
        smallest = largest
    raise ValueError(f"{activation!r} has no critical weight_var for bias_var {bias_var!r}.")


def log_gradient_norm_variance(depth: int, width: int, activation: str = "relu") -> float:
    """Variance, over random networks, of ln(gradient norm) after `depth` layers of `width` units.

    Of the activation gradient for ONE input (over a batch part of it averages out), relative to that which
    enters the last of these layers; Gaussian weights of any variance, for the scale drops out. To leading
    order in 1 / width it is depth * (3 kappa - 1) / (4 width), kappa = E[phi'**4] / E[phi'**2]**2.
    Why: one layer multiplies the squared norm by a sum over its units of (phi' g)**2, whose relative
    variance given g is 3 (kappa - 1) / width, and by a chi-squared number of `width` degrees of freedom,
    2 / width. Layers are independent, so that their logs add up, and the log of a norm is half of its
    square's. ReLU (kappa = 2): 5 depth / (4 width); linear networks: depth / (2 width). (Hanin and Rolnick
    2018; Hanin and Nica 2020.) Only where phi' does not depend on the scale of z.
    Raises TypeError or ValueError for another activation, and unless depth and width are integers >= 1.
    """
    _check_count("depth", depth)
    _check_count("width", width)
    _check_choice("activation", activation, ("identity", "relu", "leaky_relu"))
    slope = _derivative(_as_function(activation))
    fourth, second = (gaussian_expectation(lambda z, power=power: slope(z) ** power) for power in (4, 2))
    return depth * (3 * fourth / second**2 - 1) / (4 * width)


# --- 3. Saturation -----------------------------------------------------------------------------------------


def saturated_share(q: ArrayLike, activation: str, threshold: float = 0.05) -> Values:
    """Share of units with |phi'(z)| < threshold * sup|phi'|, z ~ N(0, q), for sigmoid or tanh.

    phi' / sup|phi'| is 1 / cosh(z)**2 for tanh and 1 / cosh(z / 2)**2 for sigmoid, so |z| has to pass
    arccosh(1 / sqrt(threshold)), or twice that (Glorot and Bengio 2010 show the saturation).
    Raises TypeError or ValueError when q < 0, threshold is not between 0 and 1, or for another activation.
    """
    q = _numbers("q", q, low=0.0)
    _check_choice("activation", activation, ("sigmoid", "tanh"))
    _check_number("threshold", threshold)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, but {threshold!r} was given.")
    edge = math.acosh(1 / math.sqrt(threshold)) * (2 if activation == "sigmoid" else 1)
    return _plain(np.asarray(2 * ndtr(-edge / np.sqrt(np.maximum(q, 1e-300)))))


def sigmoid_window_width(weight: ArrayLike) -> Values:
    """Length of the interval of inputs a where |weight * sigmoid'(weight * a + bias)| >= 1.

    sigmoid'(z) = 1 / (4 cosh(z / 2)**2), hence 4 / |w| * arccosh(sqrt(|w|) / 2), which is the same as
    2 / |w| * ln(|w| * (1 + sqrt(1 - 4 / |w|)) / 2 - 1) (Nielsen 2015, chapter 5). It is 0.0 for |w| <= 4.
    Raises TypeError or ValueError when a weight is not a finite number.
    """
    w = np.maximum(np.abs(_numbers("weight", weight)), 4.0)
    return _plain(np.asarray(4 / w * np.arccosh(np.sqrt(w) / 2)))


def widest_sigmoid_window() -> tuple[float, float]:
    """(weight, width) of the widest window of sigmoid_window_width (Nielsen 2015, chapter 5).

    With w = 4 cosh(u)**2 the width is u / cosh(u)**2, which is largest where 2 u tanh(u) = 1.
    """
    u = brentq(lambda u: 2 * u * math.tanh(u) - 1, 0.0, 2.0)
    return 4 * math.cosh(u) ** 2, u / math.cosh(u) ** 2


def output_delta(z: ArrayLike, target: ArrayLike, loss: str) -> Values:
    """dloss/dz of a sigmoid output a = sigmoid(z), elementwise (Nielsen 2015, chapter 3).

    "squared_error", (a - target)**2 / 2, gives (a - target) * a * (1 - a): it vanishes when the unit is
    saturated, right or wrong. "cross_entropy" gives a - target: it does not. `z` and `target` broadcast.
    Raises TypeError or ValueError for another loss, and unless z is finite and the targets are from 0 to 1.
    """
    _check_choice("loss", loss, OUTPUT_LOSSES)
    z, target = _numbers("z", z), _numbers("target", target, low=0.0, high=1.0)
    _check_broadcast("z and target", z, target)
    active, inactive = expit(z), expit(-z)  # inactive is 1 - a, without its cancellation
    error = (1 - target) * active - target * inactive
    return _plain(np.asarray(error * active * inactive if loss == "squared_error" else error))


# --- 4. Normalization --------------------------------------------------------------------------------------


def batch_norm_growth(activation: Activation, batch: int | None = None) -> float:
    """Factor per layer, going back, on the mean squared gradient of linear -> BatchNorm -> activation layers.

    Its root is the factor on the norm. For a large batch (None) it is E[phi'(z)**2] / Var[phi(z)],
    z ~ N(0, 1): the gradient is divided by what spreads the batch, and that is the variance alone, because
    batch normalization removes what all examples share. ReLU: pi / (pi - 1) = 1.4669. By the Gaussian
    Poincare inequality it is never below 1, and is 1 for linear layers only.
    With a batch of finite size it is larger: (batch - 2) / (batch - 3) for linear layers. Of wide layers with
    random weights of any scale, scale 1 and shift 0, deep enough for all pairs of examples to have become
    equally different, which takes some ten layers. (Yang et al. 2019, appendix.)
    Raises TypeError or ValueError when batch is no integer >= 4 (with 3, the mean is infinite), for an
    activation that is constant, or on a bad activation.
    """
    function = _as_function(activation)
    slope = _derivative(function)
    if batch is None:
        mean, mean_square = activation_moments(1.0, function)
        return chi(1.0, function, 1.0) / _spread(activation, mean_square - mean**2, mean_square)
    if isinstance(batch, bool) or not isinstance(batch, Integral):
        raise TypeError(f"batch must be None or an integer >= 4, but {batch!r} was given.")
    if batch < 4:
        raise ValueError(f"batch must be None or an integer >= 4, but {batch!r} was given.")
    # z of one unit over the batch is a random direction among those orthogonal to (1, .., 1), of length
    # sqrt(batch): any two examples u, v have variance 1 and correlation -1 / (batch - 1).
    u, v, weights = _sphere_nodes(int(batch))
    with torch.inference_mode(False), torch.no_grad():
        h, k = (_evaluate(function, torch.from_numpy(z)).double().numpy() for z in (u, v))
    d, e = (_evaluate(slope, torch.from_numpy(z)).double().numpy() for z in (u, v))
    mean_square, product = weights @ h**2, weights @ (h * k)
    n, along = batch, weights @ (u * d) ** 2
    # The gradient arrives with covariance 1 - 1/n over the batch, passes phi', and loses its mean over the
    # batch and its component along z.
    kept = (n - 1) ** 2 / n * (weights @ d**2) + (n - 1) / n * (weights @ (d * e))
    kept -= along - (along + (n - 1) * (weights @ (u * d * v * e))) / n
    return float(n * kept / ((n - 1) * (n - 3) * _spread(activation, mean_square - product, mean_square)))


def layer_norm_growth(activation: Activation) -> float:
    """Factor per layer, going back, on the mean squared gradient of linear -> LayerNorm -> activation layers.

    Its root is the factor on the norm. It is E[phi'(z)**2] / E[phi(z)**2], z ~ N(0, 1), with RMSNorm and
    GroupNorm (large groups) too: over the units of a wide random layer z has mean 0 in any case. As in
    batch_norm_growth, but what all examples share stays: ReLU keeps its gradient (1), a sigmoid loses it.
    Scale 1 and shift 0; random weights of any scale. (Ba, Kiros and Hinton 2016; Zhang and Sennrich 2019.)
    Raises TypeError or ValueError for an activation that is constantly 0, or on a bad activation.
    """
    function = _as_function(activation)
    mean_square = activation_moments(1.0, function)[1]
    return chi(1.0, function, 1.0) / _spread(activation, mean_square, 1.0)


def _spread(activation: Activation, variance: float, scale: float) -> float:
    if not variance > 1e-12 * scale:
        raise ValueError(f"activation must not be constant, but {activation!r} was given.")
    return variance


def _sphere_nodes(batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (u, v) and weights of E[f(u, v)], two entries of a random vector of mean 0 and mean square 1.

    Two coordinates of a uniform direction in k = batch - 1 dimensions: density (1 - r**2)**((k - 4) / 2).
    Polar coordinates as in _pair_expectation: a kink at 0 is a single angle.
    """
    k = batch - 1
    theta, theta_weights = _angular_nodes(np.arccos([-1 / k]), 4)
    points, weights = np.polynomial.legendre.leggauss(24)
    edges = np.minimum(np.array([0, 0.5, 1, 2, 3, 4.5, 6, 9, 12]) / math.sqrt(k), 1)
    edges = np.arcsin(np.unique(edges if k > 144 else np.append(edges, 1.0)))
    half = np.diff(edges)[:, None] / 2
    psi = (edges[:-1, None] + half * (1 + points)).ravel()
    radial = (half * weights).ravel() * (k - 2) * np.sin(psi) * np.cos(psi) ** (k - 3)
    angle = math.acos(-1 / k) / 2
    u, v = (math.sqrt(k) * np.outer(np.cos(theta + side * angle), np.sin(psi)) for side in (1, -1))
    # theta from pi to 2 pi has u and v swapped: only the functions of u alone see a difference.
    everything = np.outer(theta_weights, radial).ravel() / (2 * math.pi)
    pairs = [np.concatenate(both) for both in ((u.ravel(), v.ravel()), (v.ravel(), u.ravel()))]
    return pairs[0], pairs[1], np.concatenate([everything, everything])


# --- 5. Residual connections -------------------------------------------------------------------------------

RESIDUAL_NORMALIZATIONS = (None, "batch", "layer", "rms")


@dataclass(frozen=True, eq=False)
class ResidualFlow:
    """Scale and gradient along the stream of a residual network, before block 1 to after block `depth`.

    second_moments   (depth + 1,): mean square of the stream; the first is 1
    gradient_norms   (depth + 1,): root mean square of the activation gradient; the last is 1
    branch_factors   (depth,): what each branch multiplies the mean squared gradient by
    """

    second_moments: np.ndarray
    gradient_norms: np.ndarray
    branch_factors: np.ndarray


def residual_flow(
    depth: int,
    branch_scale: float = 1.0,
    *,
    activation: Activation = "relu",
    weight_var: float = 2.0,
    normalization: str | None = None,
) -> ResidualFlow:
    """What `depth` pre-activation blocks x + branch_scale * W phi(norm(x)) do to the scale of x.

    W is independent of x, so that mean squares add up: q + branch_scale**2 * variance_map(q), and going back
    1 + branch_scale**2 * chi(q). For ReLU with weight_var 2 both are 1 + branch_scale**2 per block: 2**depth
    at branch_scale 1, up to e at 1 / sqrt(depth), exactly 1 at 0 (Hanin and Rolnick 2018; Zhang, Dauphin, Ma
    2019). "rms" and "layer" divide the branch's input by the stream's own size: it then grows by a constant
    per block, and the branch's gradient is divided by it. "batch" divides each unit by its deviation over a
    large batch of unrelated inputs, which grows by the variance of phi alone, without its mean (De and Smith
    2020). Entries are inf from where float64 overflows.
    Raises TypeError or ValueError unless depth is an integer >= 1, branch_scale a finite number and
    weight_var one >= 0; for an unknown normalization or a bad activation.
    """
    _check_count("depth", depth)
    _check_number("branch_scale", branch_scale)
    _check_number("weight_var", weight_var, 0.0, or_equal=True)
    if normalization not in RESIDUAL_NORMALIZATIONS:
        allowed = ", ".join(map(str, RESIDUAL_NORMALIZATIONS))
        raise ValueError(f"normalization must be one of {allowed}, but {normalization!r} was given.")
    function, share = _as_function(activation), float(branch_scale) ** 2
    with np.errstate(over="ignore"):
        if normalization is None:
            moments, factors = _growing_branches(depth, share, function, weight_var)
        else:
            mean, square = activation_moments(1.0, function)
            steps = np.arange(depth + 1) * share * weight_var
            moments = 1 + steps * square
            scale = 1 + steps * (square - mean**2) if normalization == "batch" else moments
            factors = share * chi(1.0, function, weight_var) / scale[:-1]
        gradients = np.sqrt(np.cumprod([1.0, *(1 + factors[::-1])])[::-1])
    return ResidualFlow(moments, gradients, factors)


def _growing_branches(
    depth: int, share: float, function: TensorFunction, weight_var: float
) -> tuple[np.ndarray, np.ndarray]:
    moments = [1.0]
    for _ in range(depth):
        q = moments[-1]
        if math.isfinite(q) and share > 0:
            q += share * variance_map(q, function, weight_var)
        moments.append(q)
    moments = np.array(moments)
    return moments, share * chi(moments[:-1].clip(max=1e300), function, weight_var) * np.ones(depth)


def path_length_weights(branch_factors: ArrayLike) -> np.ndarray:
    """Share of the mean squared gradient that comes along paths through 0, 1, ... depth branches.

    `depth` blocks have 2**depth paths, C(depth, k) of them through k branches (Veit, Wilber, Belongie 2016).
    branch_factors (depth,) are what each branch multiplies the mean squared gradient by, as in
    `residual_flow`. Contributions of different paths are uncorrelated over random weights, so that the shares
    are the coefficients of prod((1 + f_l s) / (1 + f_l)): binomial for equal factors. Returns (depth + 1,).
    Raises TypeError or ValueError unless the factors are finite numbers >= 0 on one axis.
    """
    factors = _numbers("branch_factors", branch_factors, low=0.0)
    if factors.ndim != 1:
        raise ValueError(f"branch_factors must be (depth,), but shape {factors.shape} was given.")
    shares = np.ones(1)
    for factor in factors:
        shares = np.convolve(shares, [1 / (1 + factor), factor / (1 + factor)])
    return shares


def relu_gradient_kernel(
    inputs: ArrayLike,
    depth: int,
    *,
    normalization: str | None = None,
    skip: bool = False,
    branch_scale: float = 1.0,
    weight_var: float = 2.0,
    bias_var: float = 1.0,
) -> np.ndarray:
    """Covariance, over wide random ReLU networks, of the gradients d(output)/d(input) at two inputs.

    inputs (points,): numbers that lie on a line; returns (points, points), scaled to a mean diagonal of 1.
    The network: a linear stem w x + b with w ~ N(0, 1) and b ~ N(0, bias_var), then `depth` pre-activation
    blocks W relu(norm(z)), with `skip` z + branch_scale * that, and a linear readout. normalization is None
    or "batch": then all `inputs` are one batch, whose statistics are held fixed while differentiating.

    Three kernels go through the layers together: of z, of z with its derivative dz/dx, and of dz/dx. Means
    over ReLU are arc-cosine formulas (Cho and Saul 2009), derivatives enter by Gaussian integration by parts,
    and 1 / deviation**2 is an integral over t of exp(-t deviation**2), which leaves z Gaussian (Yang et al.
    2019). What it explains is the shattering of Balduzzi et al. 2017.
    Raises TypeError or ValueError unless the inputs are at least 3 different numbers on one axis, depth is an
    integer >= 1 and the rest are finite numbers, variances >= 0, with bias_var > 0 where nothing normalizes.
    """
    x = _numbers("inputs", inputs)
    if x.ndim != 1 or len(np.unique(x)) < max(3, x.size):
        raise ValueError(f"inputs must be at least 3 different numbers (points,), but {inputs!r} was given.")
    _check_count("depth", depth)
    if normalization not in (None, "batch"):
        raise ValueError(f"normalization must be one of None, batch, but {normalization!r} was given.")
    _check_number("branch_scale", branch_scale)
    _check_number("weight_var", weight_var, 0.0)
    _check_number("bias_var", bias_var, 0.0, or_equal=normalization == "batch")
    average = _relu_moments if normalization is None else _batch_normalized_moments
    kernels = [np.outer(x, x) + bias_var, np.multiply.outer(x, np.ones(x.size)), np.ones((x.size, x.size))]
    for _ in range(depth):
        branch = average(*kernels)
        if skip:
            kernels = [k + branch_scale**2 * weight_var * b for k, b in zip(kernels, branch, strict=True)]
        else:
            kernels = [weight_var * b for b in branch]
        scale = np.trace(kernels[0]) / x.size if not skip else 1.0  # drops out of every correlation
        kernels = [kernel / scale for kernel in kernels]
    return kernels[2] / np.trace(kernels[2]) * x.size


def _relu_moments(zz: np.ndarray, zd: np.ndarray, dd: np.ndarray) -> tuple[np.ndarray, ...]:
    """E[h h'], E[h d'] and E[d d'] of h = relu(z) and d = dh/dx; zd[i, k] is that of z_i with dz_k/dx."""
    deviation, own = np.sqrt(np.diag(zz)), np.diag(zd)
    product = np.outer(deviation, deviation)
    cosine = np.clip(zz / product, -1, 1)
    sine = np.sqrt(1 - cosine**2)
    both_on = (math.pi - np.arccos(cosine)) / (2 * math.pi)
    ratio = deviation[:, None] / deviation
    hh = product * (sine / (2 * math.pi) + cosine * both_on)
    hd = zd * both_on + own * ratio * sine / (2 * math.pi)
    edges = np.outer(own, own) + zd.T * zd - cosine * (own[:, None] * zd / ratio + own * zd.T * ratio)
    apart = sine > 1e-7  # on the diagonal z is either on or off, and no edge lies between
    edges = np.divide(edges, 2 * math.pi * product * sine, out=np.zeros_like(edges), where=apart)
    return hh, hd, dd * both_on + edges


def _batch_normalized_moments(zz: np.ndarray, zd: np.ndarray, dd: np.ndarray) -> list[np.ndarray]:
    """The same behind batch normalization over all inputs, with its two statistics held fixed."""
    centred = zz - zz.mean(axis=0) - zz.mean(axis=1)[:, None] + zz.mean()
    variances, directions = np.linalg.eigh(centred)
    kept = variances > 1e-13 * variances[-1]
    variances, directions = variances[kept], directions[:, kept]
    slopes = directions.T @ (zd - zd.mean(axis=0))
    total, step, moments = variances.sum(), 1.5, [np.zeros_like(zz) for _ in range(3)]
    for t in np.exp(np.arange(-12.0, 18.0, step)) / total:  # the trapezoidal rule in ln t
        damped = 1 + 2 * t * variances
        share = step * t * total * math.exp(-np.log(damped).sum() / 2)
        if share < 1e-7:
            continue
        tilted = (
            (directions * (variances / damped)) @ directions.T,
            (directions / damped) @ slopes,
            dd - (slopes.T * (2 * t / damped)) @ slopes,
        )
        for moment, value in zip(moments, _relu_moments(*tilted), strict=True):
            moment += share * len(zz) / total * value
    return moments


def kernel_autocorrelation(kernel: ArrayLike) -> np.ndarray:
    """Autocorrelation that a covariance over evenly spaced points leads one to expect, at lags 0, 1, ...

    kernel (points, points), as of `relu_gradient_kernel`; returns (points,). Expected sum of products of two
    values that lag apart, divided by the expected sum of squares, both after the mean over the points has
    been taken away. A ratio of means: the median of measured ratios can be some hundredths lower (Balduzzi et
    al. 2017 plot measured ones).
    Raises TypeError or ValueError unless the kernel is a square array of finite numbers that vary.
    """
    kernel = _numbers("kernel", kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel must be (points, points), but shape {kernel.shape} was given.")
    centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
    sums = np.array([np.trace(centred, lag) for lag in range(len(kernel))])
    if sums[0] <= 1e-12 * np.trace(kernel):
        raise ValueError("kernel must vary over the points, but all values are the same.")
    return sums / sums[0]


# --- 6. Recurrence and clipping ----------------------------------------------------------------------------


def recurrent_gradient_bound(steps: ArrayLike, largest_singular_value: float, slope: float = 1.0) -> Values:
    """Upper bound of the norm of dh_T / dh_t, T - t = steps: (slope * largest_singular_value)**steps.

    For h_t = phi(W h_{t-1} + ...) with |phi'| <= slope (1 for tanh and ReLU, 1/4 for the sigmoid). Below 1 it
    is a proof that the gradient vanishes; above 1 it proves nothing (Pascanu, Mikolov, Bengio 2013).
    Returns inf where float64 overflows. Raises TypeError or ValueError when an argument is negative or not
    finite.
    """
    steps = _numbers("steps", steps, low=0.0)
    _check_number("largest_singular_value", largest_singular_value, 0.0, or_equal=True)
    _check_number("slope", slope, 0.0, or_equal=True)
    with np.errstate(over="ignore"):
        return _plain(np.asarray((slope * largest_singular_value) ** steps))


def gaussian_power_norms(steps: ArrayLike, spectral_radius: float) -> tuple[Values, Values]:
    """(typical, largest) factor by which the power W**steps of a wide Gaussian matrix stretches a vector.

    W has independent entries of variance spectral_radius**2 / width. A random vector is stretched by
    spectral_radius**k, the one that is stretched most by sqrt((k + 1)**(k + 1) / k**k) times as much: at
    k = 1 that is the largest singular value, 2 * spectral_radius. For a width much larger than k
    (Larsen 2002, on powers of R-diagonal elements). Returns inf where float64 overflows.
    Raises TypeError or ValueError when an argument is negative or not finite.
    """
    k = _numbers("steps", steps, low=0.0)
    _check_number("spectral_radius", spectral_radius, 0.0, or_equal=True)
    with np.errstate(over="ignore"):
        typical = np.asarray(spectral_radius**k)
        excess = np.exp(((k + 1) * np.log(k + 1) - k * np.log(np.maximum(k, 1e-300))) / 2)
        return _plain(typical), _plain(np.asarray(typical * excess))


def cell_path(steps: ArrayLike, forget_bias: float) -> Values:
    """dc_T / dc_t of an LSTM along its cell, T - t = steps: sigmoid(forget_bias)**steps.

    The product of the forget gates where their inputs have mean 0 and little variance, as at initialization;
    0.5**steps for forget_bias 0, 0.731**steps for 1 (Gers, Schmidhuber, Cummins 2000; Jozefowicz, Zaremba,
    Sutskever 2015). The gradient has other paths besides, through h.
    Raises TypeError or ValueError when steps is negative or not finite, or forget_bias is not finite.
    """
    steps = _numbers("steps", steps, low=0.0)
    _check_number("forget_bias", forget_bias)
    return _plain(np.asarray(expit(forget_bias) ** steps))


def value_clipping_cosine(threshold: ArrayLike) -> Values:
    """Cosine between a long Gaussian gradient and itself clipped by value at `threshold` deviations.

    E[g c(g)] / sqrt(E[c(g)**2]) for g ~ N(0, 1) and c(g) = g cut off at +- threshold. Down to sqrt(2 / pi) =
    0.798 for small thresholds, where only the signs are left. Clipping by norm has cosine 1. Gradients with
    a few large entries lose more: down to 1 / sqrt(number of entries).
    Raises TypeError or ValueError unless threshold > 0.
    """
    t = _numbers("threshold", threshold, low=0.0)
    if (t == 0).any():
        raise ValueError("threshold must be above 0, but 0 was given: nothing would be left of the gradient.")
    t = np.clip(t, 1e-6, 40.0)  # beyond, both ends have been reached
    inside = 1 - 2 * ndtr(-t)  # E[g c(g)] = E[c'(g)], by parts
    density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    square = inside - 2 * t * density + 2 * t**2 * ndtr(-t)
    return _plain(np.asarray(inside / np.sqrt(square)))


# --- 7. Transformers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoftmaxMoments:
    """Averages over random logits: how sharp a softmax is, and how much gradient it lets through.

    entropy: mean entropy in nats, from 0 (all weight on one key) to ln(keys) (the same on all).
    jacobian_norm: root mean square of the Frobenius norm of its Jacobian diag(p) - p p^T.
    concentration: mean of sum(p**2), the inverse of the number of keys that count.
    """

    entropy: float
    jacobian_norm: float
    concentration: float


def softmax_moments(keys: int, logit_variance: float) -> SoftmaxMoments:
    """Averages over a softmax of `keys` independent normal logits, to about 1e-6.

    Powers of 1 / Z, Z the sum of the exponentials, are integrals of exp(-t Z) over t, and the mean of
    exp(-t Z) is that for one key to the power `keys`. So each average is one integral over ln t. Entropy and
    concentration hang together by parts: E[sum(p z)] = logit_variance * (1 - E[sum(p**2)]).
    Raises TypeError or ValueError unless keys is an integer >= 1 and logit_variance is >= 0.
    """
    _check_count("keys", keys)
    _check_number("logit_variance", logit_variance, 0.0, or_equal=True)
    if logit_variance < 1e-6 or keys == 1:
        return SoftmaxMoments(math.log(keys), math.sqrt(1 / keys - 1 / keys**2), 1 / keys)
    spread = math.sqrt(logit_variance)
    step = min(0.2, spread / 3)  # the trapezoidal rule: its error is below exp(-pi**2 / 0.2)
    reach = math.ceil(9 * spread / step)
    density = np.exp(-((np.arange(-reach, reach + 1) * step / spread) ** 2) / 2)
    density /= density.sum()
    u = np.arange(math.floor(-(9 * spread + 40) / step), math.ceil((9 * spread + 6) / step)) * step
    wide = np.arange(-reach, len(u) + reach) * step + u[0]
    w = np.exp(np.minimum(wide, 300.0))

    def mean(power: int) -> np.ndarray:
        """E[w**power exp(-w)] over one logit, w = exp(u + logit), for every u."""
        return fftconvolve(np.exp(power * np.minimum(wide, 300.0) - w), density, mode="valid").clip(0)

    one, two, three, four = (mean(power) for power in (0, 2, 3, 4))
    others = one.clip(0, 1) ** (keys - 1)
    square, cube, fourth = (
        keys * (values * others).sum() * step / math.factorial(power - 1)
        for power, values in ((2, two), (3, three), (4, four))
    )
    pairs = keys * (keys - 1) / 6 * (two**2 * one.clip(0, 1) ** (keys - 2)).sum() * step
    log_sum = (np.exp(-np.exp(np.minimum(u, 300.0))) - others * one).sum() * step
    entropy = log_sum - logit_variance * (1 - square)
    return SoftmaxMoments(
        float(max(entropy, 0.0)),
        float(math.sqrt(max(square - 2 * cube + fourth + pairs, 0.0))),
        float(square),
    )


def attention_moments(d_k: int, keys: int, scaled: bool = True) -> SoftmaxMoments:
    """`softmax_moments` of attention: logits are products of standard normal queries and keys of d_k entries.

    For one query the logits are independent and normal, of variance |q|**2 (a chi-squared number of mean
    d_k), and of |q|**2 / d_k if `scaled`: the averages over it are exact, to about 1e-3 (Vaswani et al. 2017
    give the variance d_k). Raises TypeError or ValueError unless d_k and keys are integers >= 1.
    """
    _check_count("d_k", d_k)
    points, weights = np.polynomial.legendre.leggauss(24)
    squares = 2 * gammaincinv(d_k / 2, (1 + points) / 2) / (d_k if scaled else 1)
    found = [softmax_moments(keys, float(square)) for square in squares]
    means = [
        float(np.dot([value(m) for m in found], weights) / 2)
        for value in (lambda m: m.entropy, lambda m: m.jacobian_norm**2, lambda m: m.concentration)
    ]
    return SoftmaxMoments(means[0], math.sqrt(means[1]), means[2])


@dataclass(frozen=True)
class TransformerTrajectory:
    """What a random Transformer does to its tokens.

    variance (depth + 1,): mean square of the entries of the stream, before the first block and after each.
    difference (depth + 1,): 1 - cosine between two tokens of one sequence, there.
    last_gradient: norm of the gradient by the last feed-forward weights, 1 for a stream of mean square 1.
    """

    variance: np.ndarray
    difference: np.ndarray
    last_gradient: float


def transformer_trajectory(
    depth: int, tokens: int, norm_placement: str, first: float = 1.0, cosine: float = 0.0
) -> TransformerTrajectory:
    """Variance, and difference of tokens, in a wide random Transformer with skips and uniform attention.

    Xavier weights, 4 d_model hidden ReLU units; `first` and `cosine` (between tokens) are those of the input.
    Attention adds the same vector to all tokens, of mean square c + (1 - c) / tokens of what it reads, c the
    cosine; the feed-forward network adds 0.32 of what it reads, its cosine by the arc-cosine kernel.
    "pre": branches read from a normalized copy, so the stream grows like the depth. "post": each sum is
    normalized, and differences shrink by nearly 2 at each attention. The gradient of what is added last is
    divided by the root of the variance there, which grows with depth for "pre" alone (Xiong et al. 2020).
    Uniform attention is exact for W_Q = 0, and close for Xavier's.
    Raises TypeError or ValueError unless depth and tokens are integers >= 1, norm_placement is "pre" or
    "post", first > 0 and the cosine is from 0 to 1.
    """
    _check_count("depth", depth)
    _check_count("tokens", tokens)
    _check_choice("norm_placement", norm_placement, ("pre", "post"))
    _check_number("first", first, 0.0)
    _check_number("cosine", cosine)
    if not 0 <= cosine <= 1:
        raise ValueError(f"cosine must be a finite number from 0 to 1, but {cosine!r} was given.")
    q, difference = first, 1 - cosine
    variances, differences = [q], [difference]
    # What the second branch adds: 4 d (2 / 5 d) and d (2 / 5 d) are Xavier's variances, ReLU keeps one half.
    feed_forward = 0.5 * (2 / 5) * (8 / 5)
    for _ in range(depth):
        for branch in ("attention", "feed_forward"):
            kept, read = q, 1.0 if norm_placement == "pre" else q
            if branch == "attention":
                added, added_difference = read * (1 - difference * (1 - 1 / tokens)), 0.0
            else:
                added = read * feed_forward
                # Below 1e-8, 1 - cosine is lost in rounding; there ReLU changes it by 1e-4 of itself.
                small = difference < 1e-8
                added_difference = difference if small else 1 - relu_cosine_map(1 - difference)
            total = kept + added
            difference = (kept * difference + added * added_difference) / total
            q = total if norm_placement == "pre" else 1.0
        variances.append(q)
        differences.append(difference)
    return TransformerTrajectory(np.array(variances), np.array(differences), 1 / math.sqrt(total))


def attention_residual(residual: ArrayLike, tokens: int, d_model: int) -> Values:
    """What is left of the differences between nearly equal tokens after attention alone: residual**3 * const.

    residual = |X - mean| / |X|, over all tokens, of inputs with mean square 1. Xavier weights, any number of
    heads, no skip. Tokens get different outputs only where their queries differ AND keys differ AND values
    differ, hence the cube; the constant is sqrt(1 / (tokens - 1) + 1 / d_model) for differences that point
    everywhere. From block to block this is doubly exponential (Dong, Cordonnier, Loukas 2021, as a bound).
    Raises TypeError or ValueError unless residual is from 0 to 1, tokens is >= 2 and d_model >= 1.
    """
    residual = _numbers("residual", residual, low=0.0, high=1.0)
    _check_count("tokens", tokens)
    _check_count("d_model", d_model)
    if tokens == 1:
        raise ValueError("tokens must be an integer >= 2, but 1 was given.")
    return _plain(residual**3 * math.sqrt(1 / (tokens - 1) + 1 / d_model))


# --- 8. Optimizers and dropout -----------------------------------------------------------------------------


def adam_first_step(gradient: ArrayLike, learning_rate: float = 1e-3, eps: float = 1e-8) -> Values:
    """What Adam's first step subtracts from a weight: learning_rate * g / (|g| + eps), elementwise.

    With bias correction both averages hold the one gradient g, so that its size drops out, down to eps
    (Kingma and Ba 2015, section 2.1). Every later step is the same for as long as g does not change.
    Raises TypeError or ValueError unless gradients and learning_rate are finite and eps > 0.
    """
    g = _numbers("gradient", gradient)
    _check_number("learning_rate", learning_rate)
    _check_number("eps", eps, 0.0)
    return _plain(np.asarray(learning_rate * (g / (np.abs(g) + eps))))


def adam_uncorrected_factor(step: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """By how much Adam's step number `step` is too large without bias correction, under a constant gradient.

    (1 - beta1**t) / sqrt(1 - beta2**t): the two averages start at 0 and have filled up so far (Kingma and Ba
    2015, section 3). 3.16 at step 1, 6.57 at step 12, 1 in the end.
    Raises TypeError or ValueError unless step is an integer >= 1 and both betas are in [0, 1).
    """
    _check_count("step", step)
    _check_share("beta1", beta1)
    _check_share("beta2", beta2)
    # 1 - beta**t, without its cancellation.
    filled = [-math.expm1(step * math.log(beta)) if beta else 1.0 for beta in (beta1, beta2)]
    return filled[0] / math.sqrt(filled[1])


def adam_noisy_step(signal_to_noise: ArrayLike, beta1: float = 0.9) -> tuple[Values, Values]:
    """Mean and standard deviation of an Adam step, in learning rates, when the gradient is signal + noise.

    Gradients s + N(0, 1), independent from step to step: the squares average to s**2 + 1, and the average of
    the gradients has mean s and variance (1 - beta1) / (1 + beta1). Hence s / sqrt(1 + s**2) and
    sqrt((1 - beta1) / (1 + beta1)) / sqrt(1 + s**2); for beta2 near 1, far below eps's reach, and after the
    first steps. (Kingma and Ba 2015, section 2.1, call m / sqrt(v) the signal-to-noise ratio.)
    Raises TypeError or ValueError unless signal_to_noise is finite and beta1 is in [0, 1).
    """
    s = _numbers("signal_to_noise", signal_to_noise)
    _check_share("beta1", beta1)
    size = np.hypot(1.0, s)
    return _plain(np.asarray(s / size)), _plain(np.asarray(math.sqrt((1 - beta1) / (1 + beta1)) / size))


def dropout_variance(keep: float, variance: ArrayLike = 1.0, mean: ArrayLike = 0.0) -> Values:
    """Variance of a unit after inverted dropout: variance / keep + mean**2 * (1 - keep) / keep.

    A unit is kept with probability `keep` and then divided by it, so that its mean stays and its mean square
    grows by 1 / keep (Srivastava et al. 2014). `variance` and `mean` are those before, and broadcast.
    Raises TypeError or ValueError unless 0 < keep <= 1, and for a variance that is negative.
    """
    _check_number("keep", keep, 0.0)
    if keep > 1:
        raise ValueError(f"keep must be above 0 and at most 1, but {keep!r} was given.")
    variance, mean = _numbers("variance", variance, low=0.0), _numbers("mean", mean)
    _check_broadcast("variance and mean", variance, mean)
    return _plain(np.asarray(variance / keep + mean**2 * (1 - keep) / keep))
