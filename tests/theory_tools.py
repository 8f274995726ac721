"""What the tests of theory share."""

import math
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from gradients_in_depth import theory


def prints_as(value: float, printed: str) -> bool:
    """Whether the value, rounded to as many digits as are printed, is what is printed."""
    unit = 10.0 ** Decimal(printed).as_tuple().exponent
    return abs(value - float(printed)) <= 0.5 * unit * (1 + 1e-9)


def for_all(**strategies):
    """Hypothesis, with the same examples in each run."""
    repeatable = settings(derandomize=True, deadline=None, max_examples=40)
    return lambda test: repeatable(given(**strategies)(test))


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


def sigma(z: float) -> float:
    """The sigmoid, independent of torch and scipy."""
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


variances = log_uniform(1e-6, 1e6)
weight_vars = log_uniform(0.05, 20.0)
names = st.sampled_from(sorted(theory.ACTIVATIONS))
formats = st.sampled_from(sorted(theory.FORMATS))

# How the sentences on bad input begin.
NAN, INF = math.nan, math.inf
POSITIVE = "must be a finite number above 0, got"
VARIANCE = "must be a finite number of at least 0, got"
COUNT = "must be an integer of at least 1, got"
