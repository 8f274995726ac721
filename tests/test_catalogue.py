"""What the course calls by a name."""

import pytest
import torch

from gradients_in_depth import theory


@pytest.mark.parametrize("name", sorted(theory.FORMATS))
def test_formats_are_those_of_torch(name):
    numbers, dtype = theory.number_format(name), theory.FORMATS[name]
    one, two = (torch.tensor(value, dtype=dtype) for value in (1.0, 2.0))
    assert torch.tensor(numbers.smallest_subnormal, dtype=dtype) > 0
    assert torch.tensor(numbers.smallest_subnormal, dtype=dtype) / two == 0
    assert torch.tensor(numbers.largest, dtype=dtype).isfinite()
    assert (torch.tensor(numbers.largest, dtype=dtype) * two).isinf()
    assert one + torch.tensor(numbers.epsilon, dtype=dtype) > one
    assert one + torch.tensor(numbers.epsilon, dtype=dtype) / two == one
    assert numbers.smallest_normal * numbers.epsilon == numbers.smallest_subnormal
