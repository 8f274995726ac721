"""The data: what the split promises, and the sentence for every bad argument."""

import random
import socket

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from gradients_in_depth.catalogue import DTYPES
from gradients_in_depth.data import Split, delayed_recall, digits, gaussian_batch


@pytest.fixture(scope="module")
def data():
    return digits(dtype=torch.float64)


def pixels(data):
    """The grey values of both parts: undoes ONE affine map per pixel, and fails where there is not one."""
    scaled = torch.cat([data.train_inputs, data.validation_inputs]).numpy()
    images = load_digits().data
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    step = np.where(high > low, high - low, 1)
    restored = (scaled - low) / step * np.ptp(images, axis=0) + images.min(axis=0)
    np.testing.assert_allclose(restored, restored.round(), atol=1e-9)
    restored = restored.round()
    np.testing.assert_array_equal(np.sort(restored, axis=0), np.sort(images, axis=0))
    return np.split(restored, [len(data.train_inputs)])


def test_each_pixel_is_standardized_over_the_training_images(data):
    mean = data.train_inputs.mean(dim=0)
    variance = data.train_inputs.var(dim=0, correction=0)
    blank = variance == 0
    assert blank.sum() < 10
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-12, rtol=0)
    torch.testing.assert_close(variance[~blank], torch.ones_like(variance[~blank]))
    assert (data.train_inputs[:, blank] == 0).all()


def test_the_validation_images_are_scaled_by_the_training_statistics(data):
    train_pixels, validation_pixels = pixels(data)
    mean, std = train_pixels.mean(axis=0), train_pixels.std(axis=0)
    expected = (validation_pixels - mean) / np.where(std > 0, std, 1)
    np.testing.assert_allclose(data.validation_inputs.numpy(), expected, atol=1e-9)


def test_every_image_is_in_exactly_one_part_and_keeps_its_label(data):
    images, labels = load_digits(return_X_y=True)
    label_of = {tuple(image): label for image, label in zip(images, labels, strict=True)}
    assert len(label_of) == len(images) == 1797
    train_pixels, validation_pixels = ([tuple(row) for row in part] for part in pixels(data))
    assert len(set(train_pixels) | set(validation_pixels)) == 1797
    assert set(train_pixels).isdisjoint(validation_pixels)
    assert [label_of[row] for row in train_pixels] == data.train_targets.tolist()
    assert [label_of[row] for row in validation_pixels] == data.validation_targets.tolist()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_each_digit_has_the_same_share_in_both_parts(share):
    data = digits(validation_share=share)
    everything = torch.cat([data.train_targets, data.validation_targets]).bincount(minlength=10)
    validation = data.validation_targets.bincount(minlength=10)
    assert (validation - share * everything).abs().max() <= 1  # images cannot be cut in two


def test_the_digits_need_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("digits() opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(digits().train_inputs) == 1347


def test_the_seed_alone_decides_the_split(data):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    torch.testing.assert_close(digits(dtype=torch.float64).train_inputs, data.train_inputs, atol=0, rtol=0)
    assert not torch.equal(digits(seed=1).train_targets, data.train_targets)


def test_no_draw_moves_the_global_random_state():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    digits(seed=3)
    gaussian_batch(5, 5, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_digits_come_in_the_dtype_asked_for(dtype, data):
    rounded = digits(dtype=dtype)
    assert torch.equal(rounded.train_inputs, data.train_inputs.to(dtype))
    assert rounded.validation_inputs.dtype == dtype
    assert rounded.validation_targets.dtype == torch.int64


def test_a_gaussian_batch_is_standard_normal():
    sample = gaussian_batch(500, 100, seed=0).flatten().numpy()
    # Kolmogorov-Smirnov: the distance exceeds 1.95 / sqrt(n) once in a thousand seeds.
    assert stats.kstest(sample, "norm").statistic < 1.95 / np.sqrt(sample.size)


def test_columns_and_rows_of_a_gaussian_batch_are_independent():
    sample = gaussian_batch(400, 30, seed=0)
    limit = 5 / np.sqrt(400)  # five standard errors of a correlation of independent columns
    correlation = torch.corrcoef(sample.T) - torch.eye(30)
    assert correlation.abs().max() < limit
    assert torch.corrcoef(torch.stack([sample[:-1].flatten(), sample[1:].flatten()]))[0, 1].abs() < 0.05


def test_one_seed_gives_one_gaussian_batch_in_every_dtype():
    torch.manual_seed(8)
    exact = gaussian_batch(20, 30, seed=5)
    torch.manual_seed(9)
    assert exact.shape == (20, 30)
    for dtype in DTYPES:
        assert torch.equal(gaussian_batch(20, 30, seed=5, dtype=dtype), exact.to(dtype))
    assert not torch.equal(gaussian_batch(20, 30, seed=6), exact)


ONE = torch.ones(1, 2)
DTYPE_NAMES = "torch.float16, torch.bfloat16, torch.float32, torch.float64"
NAN = torch.tensor([[1.0, float("nan")]])


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: digits(0), ValueError, "validation_share must be a finite number from 0.01 to 0.99, got 0."),
        (
            lambda: digits(1.0),
            ValueError,
            "validation_share must be a finite number from 0.01 to 0.99, got 1.0.",
        ),
        (
            lambda: digits("a"),
            TypeError,
            "validation_share must be a finite number from 0.01 to 0.99, got 'a'.",
        ),
        (lambda: digits(seed=-1), ValueError, "seed must be an integer from 0 to 2**32 - 1, got -1."),
        (
            lambda: digits(seed=2**32),
            ValueError,
            "seed must be an integer from 0 to 2**32 - 1, got 4294967296.",
        ),
        (lambda: digits(seed=1.0), TypeError, "seed must be an integer from 0 to 2**32 - 1, got 1.0."),
        (
            lambda: digits(dtype=torch.int64),
            ValueError,
            f"dtype must be one of {DTYPE_NAMES}; got torch.int64.",
        ),
        (lambda: gaussian_batch(0, 3, 0), ValueError, "batch must be an integer of at least 1, got 0."),
        (lambda: gaussian_batch(3, -2, 0), ValueError, "width must be an integer of at least 1, got -2."),
        (lambda: gaussian_batch(3.0, 3, 0), TypeError, "batch must be an integer of at least 1, got 3.0."),
        (lambda: gaussian_batch(True, 3, 0), TypeError, "batch must be an integer of at least 1, got True."),
        (
            lambda: gaussian_batch(3, 3, None),
            TypeError,
            "seed must be an integer from 0 to 2**32 - 1, got None.",
        ),
        (
            lambda: gaussian_batch(3, 3, 0, dtype="float32"),
            ValueError,
            f"dtype must be one of {DTYPE_NAMES}; got 'float32'.",
        ),
        (
            lambda: Split(ONE, [1], ONE, ONE),
            TypeError,
            "train_targets must be a torch.Tensor, got list.",
        ),
        (
            lambda: Split(ONE, ONE, ONE[:0], ONE[:0]),
            ValueError,
            "validation_inputs must hold at least one example, got shape (0, 2).",
        ),
        (
            lambda: Split(ONE, ONE, ONE, torch.ones(3)),
            ValueError,
            "validation_inputs and validation_targets must hold equally many examples, got 1 and 3.",
        ),
        (
            lambda: Split(NAN, ONE, ONE, ONE),
            ValueError,
            "train_inputs must be finite, got NaN or infinity in 1 places.",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, error, sentence):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence


def test_numbers_of_numpy_are_numbers():
    assert torch.equal(gaussian_batch(np.int64(2), 2, seed=np.int64(1)), gaussian_batch(2, 2, seed=1))


# Delayed recall


def test_delayed_recall_shows_the_target_at_the_first_step_and_noise_afterwards():
    found = delayed_recall(6, classes=3, noise=0.0, n_train=50, n_validation=20, dtype=torch.float64)
    assert found.train_inputs.shape == (50, 6, 3)
    assert found.validation_inputs.shape == (20, 6, 3)
    assert torch.equal(found.train_inputs[:, 0].argmax(dim=1), found.train_targets)
    assert found.train_inputs.sum() == 50  # a single 1 each, at the first step
    assert not found.train_inputs[:, 1:].any()
    counts = delayed_recall(2, classes=3, n_train=3000).train_targets.bincount()
    assert (counts - 1000).abs().max() < 5 * (3000 * 2 / 9) ** 0.5  # five standard deviations


def test_the_noise_of_delayed_recall_says_nothing_about_the_target():
    found = delayed_recall(4, classes=2, noise=0.5, n_train=4000)
    later = found.train_inputs[:, 1:]
    assert later.std().item() == pytest.approx(0.5, rel=0.02)
    means = [later[found.train_targets == target].mean().item() for target in (0, 1)]
    assert np.abs(means).max() < 5 * 0.5 / (2000 * 6) ** 0.5


def test_delayed_recall_depends_on_its_seed_and_asks_the_same_at_every_length():
    short, again, long, other = (delayed_recall(n, seed=s) for n, s in ((3, 0), (3, 0), (9, 0), (3, 1)))
    assert torch.equal(short.train_inputs, again.train_inputs)
    assert torch.equal(short.train_targets, long.train_targets)
    assert not torch.equal(short.train_targets, other.train_targets)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"length": 0}, ValueError, "length must be an integer of at least 1, got 0."),
        ({"classes": 1}, ValueError, "classes must be an integer of at least 2, got 1."),
        ({"noise": -1}, ValueError, "noise must be a finite number of at least 0, got -1."),
        ({"n_train": 0}, ValueError, "n_train must be an integer of at least 1, got 0."),
        ({"n_validation": 0}, ValueError, "n_validation must be an integer of at least 1, got 0."),
        ({"seed": -1}, ValueError, "seed must be an integer from 0 to 2**32 - 1, got -1."),
        ({"dtype": int}, ValueError, f"dtype must be one of {DTYPE_NAMES}; got <class 'int'>."),
    ],
)
def test_a_bad_argument_of_delayed_recall_gets_one_sentence(arguments, error, sentence):
    with pytest.raises(error) as caught:
        delayed_recall(**({"length": 3} | arguments))
    assert str(caught.value) == sentence
