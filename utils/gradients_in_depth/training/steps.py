"""What the training of one network and of many have in common: settings, losses, penalties, warm-up."""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gradients_in_depth.arguments import (
    check_flag,
    check_function,
    check_integer,
    check_number,
    check_type,
)
from gradients_in_depth.data import Split
from gradients_in_depth.progress import progress_bar

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[..., torch.optim.Optimizer]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class Settings:
    """The arguments that `train` and `sweep` share; raises as they do."""

    data: Split
    loss_fn: Loss
    epochs: int
    batch_size: int
    record_gradients: bool
    clip_norm: float | None
    warmup_steps: int
    l1: float
    l2: float

    def __post_init__(self) -> None:
        check_type("data", self.data, Split, "a Split, such as data.digits() returns")
        check_function("loss_fn", self.loss_fn, "(outputs, targets)")
        check_integer("epochs", self.epochs, at_least=1)
        check_integer("batch_size", self.batch_size, at_least=1)
        check_flag("record_gradients", self.record_gradients)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        check_integer("warmup_steps", self.warmup_steps, at_least=0)
        check_number("l1", self.l1, at_least=0)
        check_number("l2", self.l2, at_least=0)

    @property
    def measures_norms(self) -> bool:
        """Whether each step measures the norm of all gradients together."""
        return self.record_gradients or self.clip_norm is not None

    @property
    def starts(self) -> range:
        """Where each step of an epoch begins in the order of its examples."""
        examples = len(self.data.train_inputs)
        starts = range(0, examples, self.batch_size)
        # No step for a single example that would remain: batch normalization cannot train on it.
        return starts[:-1] if examples > 1 and examples % self.batch_size == 1 else starts


def epoch_bar(epochs: int) -> tqdm:
    """0, 1, ... epochs - 1 with a progress bar."""
    return progress_bar(range(epochs), "training", "epoch")


def check_trainable(parameters: Sized) -> None:
    """Raise if there is no parameter that requires a gradient."""
    if not parameters:
        raise ValueError("model must have a parameter that requires a gradient, got nothing to train.")


def check_differentiable(loss: Tensor) -> None:
    """Raise if autograd cannot follow the loss back to the parameters."""
    if not loss.requires_grad:
        raise ValueError(
            "The loss must depend on the model's parameters through torch operations, got one that does not."
        )


def loss_of(
    model: Callable[[Tensor], Tensor], loss_fn: Loss, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs and loss; what torch cannot compute becomes one sentence that names shapes and dtypes."""
    try:
        outputs = model(inputs)
        loss = loss_fn(outputs, targets)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"The model and loss_fn do not fit inputs {tuple(inputs.shape)} of {inputs.dtype} "
            f"and targets {tuple(targets.shape)} of {targets.dtype}: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(loss, Tensor) or loss.ndim > 0:
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"loss_fn must return one number as a tensor of shape (), got {kind}.")
    return outputs, loss


def evaluate(model: nn.Module, settings: Settings) -> tuple[float, float | None]:
    """Loss and accuracy on the whole validation part, in evaluation mode; None where there are no classes."""
    model.eval()
    inputs, targets = settings.data.validation_inputs, settings.data.validation_targets
    with torch.no_grad():
        outputs, loss = loss_of(model, settings.loss_fn, inputs, targets)
    if not are_classes(targets, outputs):
        return loss.item(), None
    return loss.item(), (outputs.argmax(dim=1) == targets).double().mean().item()


def are_classes(targets: Tensor, outputs: Tensor) -> bool:
    """Whether targets (batch, ...) number the classes of outputs (batch, classes, ...)."""
    return not targets.is_floating_point() and outputs.ndim == targets.ndim + 1


@torch.no_grad()
def penalize(weights: Iterable[Tensor], settings: Settings) -> None:
    """Add the slope of l1 * sum|w| + l2 / 2 * sum w**2 to the gradients, in place."""
    if not settings.l1 and not settings.l2:
        return
    for weight in weights:
        if weight.grad is not None:
            weight.grad += settings.l2 * weight + settings.l1 * weight.sign()


class WarmUp:
    """An optimizer's steps, the first of them shorter; afterwards its learning rates are its own again."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup_steps: int) -> None:
        self.optimizer, self.warmup_steps, self.steps = optimizer, warmup_steps, 0

    def step(self) -> None:
        """One step of the optimizer."""
        self.steps += 1
        if self.steps > self.warmup_steps:
            self.optimizer.step()
            return
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.steps / self.warmup_steps
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
