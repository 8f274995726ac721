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
from scipy.special import digamma, expit, ndtr
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


# --- 9. Optimizers and dropout -----------------------------------------------------------------------------


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
