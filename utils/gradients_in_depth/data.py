"""The course's data, all of it on this machine: handwritten digits, Gaussian batches, sequences to recall."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradients_in_depth.arguments import check_batch, check_choice, check_integer, check_number, check_seed
from gradients_in_depth.catalogue import DTYPES
from gradients_in_depth.randomness import seeded_generator


@dataclass(frozen=True, eq=False)
class Split:
    """Examples to train on and examples to validate on; the first axis counts examples.

    `train_inputs` (n_train, ...), `train_targets` (n_train, ...), `validation_inputs` (n_validation, ...),
    `validation_targets` (n_validation, ...). Build one to hand data of your own to `training.train`.
    Raises `TypeError` for anything but tensors; `ValueError` when a part is empty, when inputs and targets
    differ in number, and for NaN or infinity.
    """

    train_inputs: Tensor
    train_targets: Tensor
    validation_inputs: Tensor
    validation_targets: Tensor

    def __post_init__(self) -> None:
        for part in ("train", "validation"):
            inputs = check_batch(f"{part}_inputs", getattr(self, f"{part}_inputs"))
            targets = check_batch(f"{part}_targets", getattr(self, f"{part}_targets"))
            if len(inputs) != len(targets):
                raise ValueError(
                    f"{part}_inputs and {part}_targets must hold equally many examples, "
                    f"got {len(inputs)} and {len(targets)}."
                )


class Digits(Split):
    """The digits: inputs (n, 64), one column per pixel; targets (n,), integers from 0 to 9."""


def digits(validation_share: float = 0.25, seed: int = 0, dtype: torch.dtype = torch.float32) -> Digits:
    """The 1797 handwritten digits of scikit-learn, 8 by 8 pixels, split and standardized; no download.

    Inputs (n, 64) have mean 0 and variance 1 in each pixel over the TRAINING images (a pixel that is blank in
    all of them stays 0 there); the validation images are scaled by the same two numbers. Each digit has the
    same share in both parts. Raises `ValueError` unless 0.01 <= `validation_share` <= 0.99.
    E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """
    check_number("validation_share", validation_share, at_least=0.01, at_most=0.99)
    check_seed(seed)
    check_choice("dtype", dtype, DTYPES)
    # Imported here: it takes more than a second, and most lessons do without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=validation_share, random_state=seed, stratify=labels)
    train_images, validation_images, train_labels, validation_labels = parts
    scaler = StandardScaler().fit(train_images)
    return Digits(
        train_inputs=torch.from_numpy(scaler.transform(train_images)).to(dtype),
        train_targets=torch.from_numpy(train_labels),
        validation_inputs=torch.from_numpy(scaler.transform(validation_images)).to(dtype),
        validation_targets=torch.from_numpy(validation_labels),
    )


def gaussian_batch(batch: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent standard normal numbers (batch, width): the same ones in every dtype, but for rounding.

    Raises `TypeError` or `ValueError` for a size below 1, a bad seed, or a dtype that is not floating.
    """
    check_integer("batch", batch, at_least=1)
    check_integer("width", width, at_least=1)
    check_choice("dtype", dtype, DTYPES)
    return torch.randn(batch, width, generator=seeded_generator(seed), dtype=torch.float64).to(dtype)


def delayed_recall(
    length: int,
    *,
    classes: int = 4,
    noise: float = 0.3,
    n_train: int = 1024,
    n_validation: int = 512,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Split:
    """Sequences whose first step says what to answer after the last: everything between is noise.

    Inputs (n, length, classes): Gaussian noise of standard deviation `noise`, and at the first step also a 1
    in the column of the target. Targets (n,): integers from 0 to `classes` - 1, all equally likely. One seed
    gives the same targets for every length. Raises `TypeError` or `ValueError` for arguments out of range.
    After Hochreiter and Schmidhuber 1997 (latching).
    """
    check_integer("length", length, at_least=1)
    check_integer("classes", classes, at_least=2)
    check_number("noise", noise, at_least=0)
    check_integer("n_train", n_train, at_least=1)
    check_integer("n_validation", n_validation, at_least=1)
    check_choice("dtype", dtype, DTYPES)
    generator = seeded_generator(seed)
    n = n_train + n_validation
    targets = torch.randint(classes, (n,), generator=generator)
    inputs = noise * torch.randn(n, length, classes, generator=generator, dtype=torch.float64)
    inputs[torch.arange(n), 0, targets] += 1
    inputs = inputs.to(dtype)
    return Split(inputs[:n_train], targets[:n_train], inputs[n_train:], targets[n_train:])
