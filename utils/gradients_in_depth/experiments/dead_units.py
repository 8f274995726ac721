"""Rectifiers that one step too large, or a negative bias, switches off on every image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradients_in_depth import data

WIDTH, CLASSES, BATCH = 32, 10, 75
ORDINARY_STEP, ORDINARY_STEPS = 0.2, 20


@dataclass(frozen=True, eq=False)
class Start:
    """The digits in float32, and a network for them before its biases are set.

    parameters: weight and bias of three linear layers, the first two of `WIDTH` units. batches: the images
    (BATCH, 64) and labels (BATCH,) of each step, after the last of which the first comes again.
    """

    images: Tensor
    parameters: tuple[Tensor, ...]
    batches: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Units:
    """What became of the units of the second hidden layer.

    on (3, WIDTH): the share of images with z > 0, at the start, after the first step, and at the end.
    fall: by how much the first step lowered the mean z of those units that it switched off; 0 without any.
    spread: standard deviation of z over the images at the start, mean over the units.
    loss: of the last step, before its update.
    """

    on: np.ndarray
    fall: float
    spread: float
    loss: float


def prepare(seed: int) -> Start:
    """He weights, biases of 0 and mini-batches from one seed; see `Start`."""
    digits = data.digits(dtype=torch.float32)
    sizes = (digits.train_inputs.shape[1], WIDTH, WIDTH, CLASSES)
    parameters = []
    for k, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weight = data.gaussian_batch(fan_out, fan_in, seed + k, torch.float32) * (2 / fan_in) ** 0.5
        parameters += [weight, torch.zeros(fan_out)]
    images, labels = digits.train_inputs, digits.train_targets
    order = torch.randperm(len(images), generator=data.seeded_generator(seed))
    batches = order[: len(images) // BATCH * BATCH].reshape(-1, BATCH)
    return Start(images, tuple(parameters), tuple((images[chosen], labels[chosen]) for chosen in batches))


@torch.no_grad()
def train(start: Start, first_step: float, leak: float, bias: float) -> Units:
    """One step of size `first_step` and `ORDINARY_STEPS` of size `ORDINARY_STEP`; what becomes of the units.

    leak: slope of the activation below 0; bias: of all units in both hidden layers at the start.
    """
    parameters = [
        (p + (bias if k in (1, 3) else 0.0)).requires_grad_() for k, p in enumerate(start.parameters)
    ]
    seen = [second_layer(parameters, start.images, leak)]
    for step in range(ORDINARY_STEPS + 1):
        images, labels = start.batches[step % len(start.batches)]
        size = ORDINARY_STEP if step else first_step
        log_probabilities = descend(parameters, images, labels, leak, size)
        if step in (0, ORDINARY_STEPS):
            seen.append(second_layer(parameters, start.images, leak))
    before, after, _ = seen
    off = torch.stack([torch.count_nonzero(z <= 0, dim=0) for z in seen])  # a z that is NaN is not off
    on = (len(before) - off) / len(before)
    killed = (on[1] == 0) & (on[0] > 0)
    fall = (before.mean(dim=0) - after.mean(dim=0))[killed].mean().item() if killed.any() else 0.0
    spread = before.numpy().std(axis=0, ddof=1).mean()  # torch.std takes four times as long
    loss = F.nll_loss(log_probabilities, labels).item()
    return Units(on.numpy(), fall, float(spread), loss)


def second_layer(parameters: Sequence[Tensor], images: Tensor, leak: float) -> Tensor:
    """z of the second hidden layer, (images, WIDTH)."""
    hidden = F.leaky_relu(F.linear(images, parameters[0], parameters[1]), leak)
    return F.linear(hidden, parameters[2], parameters[3])


@torch.no_grad()
def descend(parameters: Sequence[Tensor], images: Tensor, labels: Tensor, leak: float, size: float) -> Tensor:
    """One step of gradient descent on the cross-entropy, in place.

    Returns the log-probabilities before it, (images, CLASSES).
    """
    with torch.enable_grad():
        hidden = F.leaky_relu(second_layer(parameters, images, leak), leak)
        logits = F.linear(hidden, parameters[4], parameters[5])
    log_probabilities = torch.log_softmax(logits, dim=1)
    # The gradient of F.cross_entropy differs from this in the last digit, which steps of 10 amplify.
    by_logits = log_probabilities.exp().sub_(F.one_hot(labels, CLASSES)).div_(len(labels))
    gradients = torch.autograd.grad(logits, parameters, by_logits)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.sub_(gradient, alpha=size)
    return log_probabilities
