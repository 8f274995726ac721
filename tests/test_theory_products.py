"""theory.products: powers in number formats, and products of random matrices."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st
from scipy.special import psi
from torch import nn

from gradients_in_depth import theory
from tests.theory_tools import for_all, formats, log_uniform, prints_as


def test_powers():
    assert prints_as(0.25**10, "9.54e-7")
    assert prints_as(0.5**5, "0.03125")
    assert prints_as(0.5**100, "7.89e-31")
    assert prints_as(0.8**100, "2.04e-10")
    assert prints_as(2.0**100, "1.27e30")


@pytest.mark.parametrize(
    ("name", "first"), [("float16", 13), ("bfloat16", 67), ("float32", 75), ("float64", 538)]
)
def test_first_zero_of_a_quarter(name, first):
    assert theory.first_zero(0.25, name) == first


@pytest.mark.parametrize(
    ("name", "first"), [("float16", 16), ("bfloat16", 128), ("float32", 128), ("float64", 1024)]
)
def test_first_overflow_of_two(name, first):
    assert theory.first_overflow(2.0, name) == first


def test_lyapunov_figures():
    top = theory.lyapunov_exponents(4, 1.0)[0]
    assert top == pytest.approx((math.log(2) + psi(2)) / 2, rel=1e-14)
    assert prints_as(101 * top / math.log(10), "24.5")
    assert prints_as(theory.critical_weight_std(4), "0.572")


def powers(factor: float, count: int) -> torch.Tensor:
    """(count + 1,): factor**0 .. factor**count in float64."""
    return torch.tensor([factor**n for n in range(count + 1)], dtype=torch.float64)


@for_all(factor=st.floats(0.02, 0.98), name=st.sampled_from(["float16", "bfloat16", "float32"]))
@example(factor=0.5, name="float16")
@example(factor=0.25, name="bfloat16")
@example(factor=0.125, name="float32")
def test_first_zero_counts_as_torch_does(factor, name):
    first = theory.first_zero(factor, name)
    rounded = powers(factor, first).to(theory.FORMATS[name])
    assert rounded[first] == 0
    assert (rounded[:first] > 0).all()
    assert theory.first_zero(-factor, name) == first
    assert theory.first_overflow(factor, name) is None


@for_all(factor=st.floats(1.02, 50.0), name=st.sampled_from(["float16", "bfloat16", "float32"]))
@example(factor=2.0, name="float16")
@example(factor=4.0, name="float32")
@example(factor=65519.0, name="float16")
@example(factor=65520.0, name="float16")
def test_first_overflow_counts_as_torch_does(factor, name):
    first = theory.first_overflow(factor, name)
    rounded = powers(factor, first).to(theory.FORMATS[name])
    assert rounded[first].isinf()
    assert rounded[:first].isfinite().all()
    assert theory.first_overflow(-factor, name) == first
    assert theory.first_zero(factor, name) is None


@for_all(factor=st.floats(0.1, 0.95))
@example(factor=2 ** (-1 / 3))  # its powers pass the boundary by a hair
@example(factor=2 ** (-1 / 5))
def test_first_zero_of_float64_is_exact(factor):
    first = theory.first_zero(factor, "float64")
    assert float(Fraction(factor) ** first) == 0
    assert float(Fraction(factor) ** (first - 1)) > 0


@pytest.mark.parametrize("name", theory.FORMATS)
def test_boundary_cases_are_decided_exactly(name):
    # Factors beside the n-th root of the boundary, where n and n + 1 are equally likely: logarithms fail.
    numbers = theory.number_format(name)
    half_step = Fraction(numbers.smallest_subnormal) / 2
    exponent = {"float16": 16, "float64": 1024}.get(name, 128)
    half_past = Fraction(2) ** exponent * (1 - Fraction(numbers.epsilon) / 4)
    for n in range(2, 40):
        root = 2.0 ** ((math.log2(numbers.smallest_subnormal) - 1) / n)
        for factor in (math.nextafter(root, 0.0), root, math.nextafter(root, 1.0)):
            first = theory.first_zero(factor, name)
            assert Fraction(factor) ** first <= half_step < Fraction(factor) ** (first - 1)
        root = 2.0 ** ((exponent + math.log2(1 - numbers.epsilon / 4)) / n)
        for factor in (math.nextafter(root, 1.0), root, math.nextafter(root, math.inf)):
            first = theory.first_overflow(factor, name)
            assert Fraction(factor) ** first >= half_past > Fraction(factor) ** (first - 1)


@for_all(low=st.floats(0.01, 0.98), high=st.floats(0.01, 0.98), name=formats)
def test_smaller_factors_vanish_sooner(low, high, name):
    low, high = sorted([low, high])
    assert theory.first_zero(low, name) <= theory.first_zero(high, name)
    assert theory.first_overflow(1 / high, name) >= theory.first_overflow(1 / low, name)


def test_factors_that_never_get_there():
    for factor in (1.0, -1.0):
        assert theory.first_zero(factor, "float16") is None
        assert theory.first_overflow(factor, "float16") is None
    assert theory.first_zero(0.0, "float16") == theory.first_zero(1e-300, "float16") == 1
    assert theory.first_overflow(1e300, "float16") == 1
    assert theory.first_zero(np.float32(0.25), "float16") == 13
    assert theory.first_zero(1 - 1e-16, "float16") > 10**17


def test_multiplying_in_float16_is_not_rounding_the_power():
    product, factor = torch.tensor(1.0, dtype=torch.float16), torch.tensor(0.8, dtype=torch.float16)
    for _ in range(10 * theory.first_zero(0.8, "float16")):
        product = product * factor
    assert product == 2 * theory.number_format("float16").smallest_subnormal


@for_all(width=st.integers(1, 300), weight_std=log_uniform(0.01, 10.0))
def test_lyapunov_properties(width, weight_std):
    exponents = theory.lyapunov_exponents(width, weight_std)
    assert exponents.shape == (width,)
    assert (np.diff(exponents) < 0).all()
    assert exponents - theory.lyapunov_exponents(width, 1.0) == pytest.approx(
        np.full(width, math.log(weight_std)), abs=1e-12
    )
    assert theory.lyapunov_exponents(width, theory.critical_weight_std(width))[0] == pytest.approx(
        0, abs=1e-12
    )
    assert 1 < theory.critical_weight_std(width) * math.sqrt(width) < 1 + 1 / width  # above the wide limit


@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_lyapunov_exponents_agree_with_simulation(width):
    # 32 chains of 200 factors; the growth is read off the QR decomposition of factor @ frame. A Gaussian
    # matrix times an orthogonal one is Gaussian again, so the growths are independent and there is no
    # transient: the only error is that of the mean over chains, and 4 standard errors of 32 are 1 in 3000.
    generator = torch.Generator().manual_seed(width)
    frame = torch.eye(width, dtype=torch.float64).expand(32, width, width)
    growth = torch.zeros(32, width, dtype=torch.float64)
    for _ in range(200):
        factor = torch.randn(32, width, width, dtype=torch.float64, generator=generator)
        frame, triangle = torch.linalg.qr(0.7 * factor @ frame)
        growth += triangle.diagonal(dim1=1, dim2=2).abs().log() / 200
    error = growth.mean(0).numpy() - theory.lyapunov_exponents(width, 0.7)
    assert (np.abs(error) < 4 * growth.std(0).numpy() / math.sqrt(32)).all()


def products(count: int, length: int, weight_std: float, seed: int) -> torch.Tensor:
    """(count, 4, 4): products of `length` Gaussian 4 x 4 matrices."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.eye(4, dtype=torch.float64).expand(count, 4, 4)
    for _ in range(length):
        product = weight_std * torch.randn(count, 4, 4, dtype=torch.float64, generator=generator) @ product
    return product


def test_norm_of_a_hundred_and_one_factors():
    # What grows by 10**24.5 is a vector that passes through. Its log10 is a sum of 101 independent terms
    # with a standard deviation of 1.75, so the median of 4000 has a standard error of 1.25 * 1.75 /
    # sqrt(4000) = 0.035. The norm of the product itself is that of its four columns, about 10**25.
    product = products(4000, 101, 1.0, seed=0)
    top = 101 * theory.lyapunov_exponents(4, 1.0)[0] / math.log(10)
    assert product[:, :, 0].norm(dim=1).log10().median() == pytest.approx(top, abs=4 * 0.035)
    for order in ("fro", 2):
        assert torch.linalg.matrix_norm(product, order).log10().median() == pytest.approx(25.0, abs=4 * 0.035)


def test_critical_std_keeps_the_norm_and_its_neighbours_do_not():
    critical = theory.critical_weight_std(4)
    for weight_std in (critical, 0.5, 0.65):
        growth = products(1000, 200, weight_std, seed=1)[:, :, 0].norm(dim=1).log() / 200
        error = 4 * float(growth.std()) / math.sqrt(1000)  # independent products: 1 in 16000
        assert growth.mean() == pytest.approx(math.log(weight_std / critical), abs=error)


def test_a_stable_norm_is_not_a_stable_spectrum():
    length = 20
    exponents = theory.lyapunov_exponents(4, 1.0)
    log_condition = torch.linalg.cond(products(2000, length, theory.critical_weight_std(4), seed=2)).log()
    assert log_condition.mean() / length == pytest.approx(
        exponents[0] - exponents[-1], rel=0.15
    )  # O(1 / length)
    generator = torch.Generator().manual_seed(2)
    product = torch.eye(4, dtype=torch.float64)
    for _ in range(length):
        product = nn.init.orthogonal_(torch.empty(4, 4, dtype=torch.float64), generator=generator) @ product
    assert torch.linalg.cond(product) == pytest.approx(1, abs=1e-9)
