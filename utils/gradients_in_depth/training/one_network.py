"""The training of one network, and its history."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradients_in_depth.arguments import check_choice, check_flag, check_number, check_type
from gradients_in_depth.data import Split
from gradients_in_depth.randomness import seeded_generator
from gradients_in_depth.training.steps import (
    OPTIMIZERS,
    Loss,
    MakeOptimizer,
    Settings,
    WarmUp,
    check_differentiable,
    check_trainable,
    epoch_bar,
    evaluate,
    loss_of,
    penalize,
)


@dataclass(frozen=True, eq=False)
class History:
    """What `train` saw. Step 1 is the first mini-batch; epoch 0 is the network before training.

    train_loss           (steps,): loss of each step's mini-batch, before that step's update
    steps_per_epoch      steps / steps_per_epoch puts the steps on the axis of the epochs
    validation_loss      (epochs + 1,): over the whole validation part, in evaluation mode
    validation_accuracy  (epochs + 1,): share of validation examples whose largest output is the target;
                         None when the targets are not classes
    layer_names          names of the weights: the trainable parameters with two axes or more
    gradient_norms       (steps, layers): Frobenius norm of each weight's gradient on each step's mini-batch,
                         so row 0 is the network at initialization; NaN for a weight that gets no
                         gradient; None unless asked for
    stopped              None, or the sentence that says why training ended early; an epoch that it cut short
                         is in the arrays of the steps and not in those of the epochs
    total_norms          (steps,): norm of the gradient by all trainable parameters as one vector, before
                         clipping; None unless gradients are recorded or clipped
    """

    train_loss: np.ndarray
    steps_per_epoch: int
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray | None
    layer_names: tuple[str, ...]
    gradient_norms: np.ndarray | None
    stopped: str | None
    total_norms: np.ndarray | None = None

    @property
    def steps(self) -> np.ndarray:
        """(steps,) integers from 1."""
        return np.arange(1, len(self.train_loss) + 1)

    @property
    def epochs(self) -> np.ndarray:
        """(epochs + 1,) integers from 0."""
        return np.arange(len(self.validation_loss))


def train(
    model: nn.Module,
    data: Split,
    *,
    loss_fn: Loss = F.cross_entropy,
    optimizer: str | torch.optim.Optimizer | MakeOptimizer = "sgd",
    learning_rate: float | None = None,
    epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    record_gradients: bool = False,
    clip_norm: float | None = None,
    progress: bool = True,
    warmup_steps: int = 0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> History:
    """Train `model` on `data` and return the history. The model's parameters and running statistics change.

    model          any `nn.Module` from a batch of `data.train_inputs` to the outputs that `loss_fn` takes
    loss_fn        a function of (outputs, targets), to one number
    optimizer      "sgd", "momentum" (0.9), "rmsprop" or "adam"; or a function of (parameters, lr), such as
                   `torch.optim.AdamW`; or an optimizer that already holds the model's parameters
    learning_rate  required with a name; left out with an optimizer, which brings its own
    batch_size     examples per step; the last step of an epoch takes those that remain, but a single one is
                   left out, because batch normalization cannot train on it
    seed           decides the shuffling, and the model's own draws such as dropout; torch's global random
                   state is left as it was
    clip_norm      before each update, gradients whose norm over all parameters together is larger are scaled
                   down to it (Pascanu, Mikolov, Bengio 2013); None does not clip
    progress       whether to show a progress bar; without one, many short trainings leave no trace in a cell
    warmup_steps   over so many steps the learning rate rises to its value in equal parts: step t of the first
                   warmup_steps takes t / warmup_steps of it (Vaswani et al. 2017)
    l1, l2         penalty l1 * sum|w| + l2 / 2 * sum w**2 on the weights (not biases, nor other vectors): its
                   slope is added to their gradients, whatever the optimizer; losses and norms are without it

    Modes (training or evaluation) are left as they were, also when the model raises; gradients are cleared.
    In float64 the history does not depend on the number of threads (1e-11 measured). In float32 it does: the
    order of sums changes the last bit, and training lets that grow (to percents in two epochs with Adam).
    A loss that is NaN or infinite ends the training without an exception: see `History.stopped`.
    Raises `TypeError` or `ValueError` with one sentence for any argument that is not allowed.
    Robbins and Monro 1951 (SGD); Polyak 1964 (momentum); Kingma and Ba 2015 (Adam).
    """
    check_type("model", model, nn.Module, "an nn.Module")
    check_flag("progress", progress)
    settings = Settings(
        data, loss_fn, epochs, batch_size, record_gradients, clip_norm, warmup_steps, l1=l1, l2=l2
    )
    return _Training(model, _optimizer_of(model, optimizer, learning_rate), settings).run(seed, progress)


class _Training:
    """The state of one call of `train`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.warm_up = WarmUp(optimizer, settings.warmup_steps)
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2}
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.train_loss: list[float] = []
        self.gradient_norms: list[list[float]] = []
        self.total_norms: list[float] = []
        self.validation: list[tuple[float, float | None]] = []

    def run(self, seed: int, progress: bool) -> History:
        epochs = self.settings.epochs
        shuffling, examples = seeded_generator(seed), len(self.settings.data.train_inputs)
        modes = [(module, module.training) for module in self.model.modules()]
        stopped = None
        # The fork gives torch's global random state back afterwards; dropout has no generator of its own.
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(int(seed))
            try:
                self.validate()
                for _ in epoch_bar(epochs) if progress else range(epochs):
                    stopped = self.epoch(torch.randperm(examples, generator=shuffling))
                    if stopped:
                        break
            finally:
                self.clear_gradients()
                for module, training in modes:
                    module.training = training
        return self.history(stopped)

    def epoch(self, order: Tensor) -> str | None:
        """Train on the examples in this order and validate; returns why training ends here, if it does."""
        self.model.train()
        for start in self.settings.starts:
            stopped = self.step(order[start : start + self.settings.batch_size])
            if stopped:
                return stopped
        return _divergence(self.validate(), "the validation loss", step=len(self.train_loss))

    def step(self, batch: Tensor) -> str | None:
        """Update the model from these examples, or return why training ends instead."""
        settings, data = self.settings, self.settings.data
        _, loss = loss_of(self.model, settings.loss_fn, data.train_inputs[batch], data.train_targets[batch])
        check_differentiable(loss)
        self.clear_gradients()
        loss.backward()
        self.train_loss.append(loss.item())
        if settings.record_gradients:
            self.gradient_norms.append([_norm(weight.grad) for weight in self.weights.values()])
        if settings.measures_norms:
            self.total_norms.append(_clip(self.trainable, settings.clip_norm))
        stopped = _divergence(self.train_loss[-1], "the loss", step=len(self.train_loss))
        if not stopped:
            penalize(self.weights.values(), settings)
            self.warm_up.step()
        return stopped

    def validate(self) -> float:
        self.validation.append(evaluate(self.model, self.settings))
        return self.validation[-1][0]

    def clear_gradients(self) -> None:
        # Both, because an optimizer that was brought may hold fewer parameters than the model, or more.
        self.model.zero_grad()
        self.optimizer.zero_grad()

    def history(self, stopped: str | None) -> History:
        losses, accuracies = zip(*self.validation, strict=True)
        return History(
            train_loss=np.array(self.train_loss),
            steps_per_epoch=len(self.settings.starts),
            validation_loss=np.array(losses),
            validation_accuracy=None if accuracies[0] is None else np.array(accuracies),
            layer_names=tuple(name.removesuffix(".weight") for name in self.weights),
            gradient_norms=np.array(self.gradient_norms) if self.settings.record_gradients else None,
            stopped=stopped,
            total_norms=np.array(self.total_norms) if self.settings.measures_norms else None,
        )


def _optimizer_of(
    model: nn.Module, optimizer: str | MakeOptimizer | torch.optim.Optimizer, learning_rate: float | None
) -> torch.optim.Optimizer:
    """The optimizer that `train` is to use: the one that was brought, or one that is made here."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    check_trainable(parameters)
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, at_least=0)
    if isinstance(optimizer, torch.optim.Optimizer):
        _check_own(optimizer, parameters, learning_rate)
        made = optimizer
    elif callable(optimizer):
        rate = {} if learning_rate is None else {"lr": learning_rate}
        made = optimizer(parameters, **rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(f"optimizer must make a torch.optim.Optimizer, got {type(made).__name__}.")
    else:
        check_choice("optimizer", optimizer, OPTIMIZERS)
        if learning_rate is None:
            raise ValueError(f"learning_rate must be a number with the optimizer {optimizer!r}, got None.")
        made = OPTIMIZERS[optimizer](parameters, lr=learning_rate)
    if isinstance(made, torch.optim.LBFGS):
        raise ValueError("optimizer must take one gradient per step; LBFGS evaluates the loss several times.")
    return made


def _check_own(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], learning_rate: float | None
) -> None:
    if learning_rate is not None:
        raise ValueError(
            f"learning_rate must be left out with an optimizer, which brings its own, got {learning_rate!r}."
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held.isdisjoint(map(id, parameters)):
        raise ValueError("optimizer must hold parameters of this model, got one that holds only others.")


def _clip(parameters: Sequence[nn.Parameter], clip_norm: float | None) -> float:
    """The norm of all gradients together; with `clip_norm`, they are then scaled down to it where larger."""
    total = nn.utils.get_total_norm([p.grad.double() for p in parameters if p.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, total)
    return total.item()


def _divergence(loss: float, what: str, step: int) -> str | None:
    """None for a finite loss, else the sentence for `History.stopped`."""
    if math.isfinite(loss):
        return None
    value = "NaN" if math.isnan(loss) else "infinite"
    advice = "Lower the learning rate, or check the initialization."
    if step == 1 and what == "the loss":
        advice = "Check the initialization: no update has been made yet."
    return f"Stopped at step {step}: {what} is {value}. {advice}"


def _norm(gradient: Tensor | None) -> float:
    # In float64, because the square of 1e-25 is already 0 in float32.
    return math.nan if gradient is None else torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
