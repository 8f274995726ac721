"""What an argument may be: the value comes back, or one sentence says what is allowed and what was given."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradients_in_depth.arguments import (
    check_batch,
    check_broadcast,
    check_choice,
    check_flag,
    check_function,
    check_integer,
    check_number,
    check_numbers,
    check_seed,
    check_type,
)

NAN, INF = math.nan, math.inf
NOT_HASHABLE = np.array(["a", "b"])


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: check_integer("n", 1, at_least=2), ValueError, "n must be an integer of at least 2, got 1."),
        (lambda: check_integer("n", 2.0, 1), TypeError, "n must be an integer of at least 1, got 2.0."),
        (lambda: check_integer("n", True, 1), TypeError, "n must be an integer of at least 1, got True."),
        (lambda: check_number("x", NAN), ValueError, "x must be a finite number, got nan."),
        (lambda: check_number("x", True), TypeError, "x must be a finite number, got True."),
        (lambda: check_number("x", "1"), TypeError, "x must be a finite number, got '1'."),
        (
            lambda: check_number("x", -1, at_least=0),
            ValueError,
            "x must be a finite number of at least 0, got -1.",
        ),
        (
            lambda: check_number("x", 2, at_least=0.5, at_most=1),
            ValueError,
            "x must be a finite number from 0.5 to 1, got 2.",
        ),
        (lambda: check_number("x", 0, above=0), ValueError, "x must be a finite number above 0, got 0."),
        (
            lambda: check_number("x", 2, above=0, at_most=1),
            ValueError,
            "x must be a finite number above 0 and at most 1, got 2.",
        ),
        (
            lambda: check_number("x", 1.0, above=0, below=1),
            ValueError,
            "x must be a finite number above 0 and below 1, got 1.0.",
        ),
        (
            lambda: check_number("x", INF, at_least=0, below=1),
            ValueError,
            "x must be a finite number of at least 0 and below 1, got inf.",
        ),
        (
            lambda: check_numbers("x", [1.0, INF]),
            ValueError,
            "x must be a finite number, or a non-empty array of them, got [1.0, inf].",
        ),
        (
            lambda: check_numbers("x", [], at_least=0),
            ValueError,
            "x must be a finite number of at least 0, or a non-empty array of them, got [].",
        ),
        (
            lambda: check_numbers("x", [[1], [1, 2]], at_least=0, at_most=1),
            TypeError,
            "x must be a finite number from 0 to 1, or a non-empty array of them, got [[1], [1, 2]].",
        ),
        (
            lambda: check_numbers("x", (1, 0), above=0),
            ValueError,
            "x must be a finite number above 0, or a non-empty array of them, got (1, 0).",
        ),
        (
            lambda: check_numbers("x", [True]),
            TypeError,
            "x must be a finite number, or a non-empty array of them, got [True].",
        ),
        (
            lambda: check_broadcast("a and b", np.ones(2), np.ones((2, 3))),
            ValueError,
            "a and b must have shapes that broadcast, got (2,) and (2, 3).",
        ),
        (
            lambda: check_seed(2**32),
            ValueError,
            "seed must be an integer from 0 to 2**32 - 1, got 4294967296.",
        ),
        (lambda: check_seed(0.0), TypeError, "seed must be an integer from 0 to 2**32 - 1, got 0.0."),
        (lambda: check_flag("x", 1), TypeError, "x must be True or False, got 1."),
        (lambda: check_choice("x", "c", ["a", "b"]), ValueError, "x must be one of a, b; got 'c'."),
        (lambda: check_choice("x", ["a"], ["a", "b"]), ValueError, "x must be one of a, b; got ['a']."),
        (
            lambda: check_choice("x", NOT_HASHABLE, ["a", None]),
            ValueError,
            f"x must be one of a, None; got {NOT_HASHABLE!r}.",
        ),
        (
            lambda: check_type("model", 3, nn.Module, "an nn.Module"),
            TypeError,
            "model must be an nn.Module, got int.",
        ),
        (
            lambda: check_function("f", "sin", "a number"),
            TypeError,
            "f must be a function of a number, got 'sin'.",
        ),
        (lambda: check_batch("inputs", [1.0]), TypeError, "inputs must be a torch.Tensor, got list."),
        (
            lambda: check_batch("inputs", torch.tensor(1.0)),
            ValueError,
            "inputs must hold at least one example, got shape ().",
        ),
        (
            lambda: check_batch("inputs", torch.tensor([NAN, 1.0, INF])),
            ValueError,
            "inputs must be finite, got NaN or infinity in 2 places.",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, error, sentence):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence


def test_a_good_argument_comes_back():
    function, module, batch = math.sin, nn.Identity(), torch.ones(2, 3)
    assert check_integer("n", np.int64(3), at_least=3) == 3
    assert check_number("x", np.float32(0.5)) == 0.5
    assert check_number("x", 0, at_least=0, at_most=1) == 0.0
    assert check_seed(2**32 - 1) == 2**32 - 1
    assert check_flag("x", False) is False
    assert check_choice("x", None, ["a", None]) is None
    assert check_function("f", function, "a number") is function
    assert check_type("model", module, nn.Module, "an nn.Module") is module
    assert check_batch("inputs", batch) is batch
    check_broadcast("a and b", np.ones((2, 1)), np.ones(3))


@pytest.mark.parametrize("value", [2, [[1, 2]], np.float32(2), np.arange(3), torch.ones(2)])
def test_numbers_become_arrays_of_their_shape(value):
    array = check_numbers("x", value, at_least=0)
    assert array.dtype == np.float64 and array.shape == np.shape(value)
    np.testing.assert_array_equal(array, np.asarray(value))


def test_a_good_argument_is_not_printed():
    class Number(float):
        def __repr__(self):
            raise AssertionError("printed")

    class Array(np.ndarray):
        __repr__ = Number.__repr__

    assert check_number("x", Number(1), above=0, below=2) == 1
    assert check_numbers("x", np.ones(3).view(Array), at_least=0).shape == (3,)
