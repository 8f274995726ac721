"""One training loop for every network of the course."""

import copy
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from gradients_in_depth.arguments import check_choice, check_flag, check_integer, check_number
from gradients_in_depth.data import Split, seeded_generator

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


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
                         so that row 0 is the network at initialization; NaN for a weight that gets no
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
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: str | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer] = "sgd",
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
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}.")
    if not isinstance(data, Split):
        raise TypeError(f"data must be a Split, such as data.digits() returns, got {type(data).__name__}.")
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of (outputs, targets), got {loss_fn!r}.")
    check_integer("epochs", epochs, at_least=1)
    check_integer("batch_size", batch_size, at_least=1)
    check_flag("record_gradients", record_gradients)
    _check_clip_norm(clip_norm)
    check_flag("progress", progress)
    check_integer("warmup_steps", warmup_steps, at_least=0)
    check_number("l1", l1, at_least=0)
    check_number("l2", l2, at_least=0)
    shuffling = seeded_generator(seed)
    optimizer = _optimizer(model, optimizer, learning_rate)
    warm_up = _WarmUp(optimizer, warmup_steps)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2}
    trainable = [p for p in model.parameters() if p.requires_grad]
    n_train = len(data.train_inputs)
    starts = range(0, n_train, batch_size)
    if n_train > 1 and n_train % batch_size == 1:
        starts = starts[:-1]  # no step for one example

    train_loss, gradient_norms, validation, stopped = [], [], [], None
    total_norms = None if clip_norm is None and not record_gradients else []
    modes = [(module, module.training) for module in model.modules()]
    # The fork gives torch's global random state back afterwards; dropout has no generator of its own.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(int(seed))
        try:
            validation.append(_evaluate(model, loss_fn, data))
            for _ in _progress(epochs) if progress else range(epochs):
                model.train()
                order = torch.randperm(n_train, generator=shuffling)
                for start in starts:
                    batch = order[start : start + batch_size]
                    _, loss = _loss(model, loss_fn, data.train_inputs[batch], data.train_targets[batch])
                    _check_differentiable(loss)
                    _clear_gradients(model, optimizer)
                    loss.backward()
                    train_loss.append(loss.item())
                    if record_gradients:
                        gradient_norms.append([_norm(weight.grad) for weight in weights.values()])
                    if total_norms is not None:
                        total_norms.append(_clip(trainable, clip_norm))
                    stopped = _divergence(loss.item(), "the loss", step=len(train_loss))
                    if stopped:
                        break
                    _penalize(weights.values(), l1, l2)
                    warm_up.step()
                else:
                    validation.append(_evaluate(model, loss_fn, data))
                    stopped = _divergence(validation[-1][0], "the validation loss", step=len(train_loss))
                if stopped:
                    break
        finally:
            _clear_gradients(model, optimizer)
            for module, training in modes:
                module.training = training

    losses, accuracies = zip(*validation, strict=True)
    return History(
        train_loss=np.array(train_loss),
        steps_per_epoch=len(starts),
        validation_loss=np.array(losses),
        validation_accuracy=None if accuracies[0] is None else np.array(accuracies),
        layer_names=tuple(name.removesuffix(".weight") for name in weights),
        gradient_norms=np.array(gradient_norms) if record_gradients else None,
        stopped=stopped,
        total_norms=None if total_norms is None else np.array(total_norms),
    )


@dataclass(frozen=True, eq=False)
class Sweep:
    """What `sweep` saw: the figures of `History` for every learning rate (first axis) and seed (second axis).

    learning_rates       (rates,)
    seeds                (seeds,)
    train_loss           (rates, seeds, steps)
    steps_per_epoch      as in `History`
    validation_loss      (rates, seeds, epochs + 1)
    validation_accuracy  (rates, seeds, epochs + 1), or None
    layer_names          as in `History`
    gradient_norms       (rates, seeds, steps, layers), or None
    total_norms          (rates, seeds, steps), or None

    A run whose loss is NaN or infinite keeps its place: its figures are NaN from there on.
    """

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    train_loss: np.ndarray
    steps_per_epoch: int
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray | None
    layer_names: tuple[str, ...]
    gradient_norms: np.ndarray | None
    total_norms: np.ndarray | None = None

    @property
    def loss_by_epoch(self) -> np.ndarray:
        """(rates, seeds, epochs): training loss, the mean over the steps of each epoch."""
        rates, seeds, steps = self.train_loss.shape
        return self.train_loss.reshape(rates, seeds, steps // self.steps_per_epoch, -1).mean(axis=-1)

    @property
    def best(self) -> int:
        """Row of the learning rate with the lowest training loss in the last epoch, median over the seeds."""
        last = self.loss_by_epoch[:, :, -1]
        return int(np.argmin(np.median(np.where(np.isfinite(last), last, np.inf), axis=1)))


def sweep(
    make_model: Callable[[int], nn.Module],
    data: Split,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: str = "sgd",
    epochs: int,
    batch_size: int = 64,
    record_gradients: bool = False,
    warmup_steps: int = 0,
    clip_norm: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
) -> Sweep:
    """Train `make_model(seed)` at every learning rate and from every seed, all of them side by side.

    Gives what `train(make_model(seed), data, learning_rate=rate, seed=seed, ...)` gives for each pair, but
    for rounding and for the draws of dropout, in a fraction of the time: a small network spends most of its
    time between the sums, not in them. The models must differ in values only, and are not changed.
    Other arguments and errors as in `train`; `optimizer` must be a name.
    """
    if not callable(make_model):
        raise TypeError(f"make_model must be a function of a seed, got {type(make_model).__name__}.")
    if not isinstance(data, Split):
        raise TypeError(f"data must be a Split, such as data.digits() returns, got {type(data).__name__}.")
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of (outputs, targets), got {loss_fn!r}.")
    if not len(learning_rates) or not len(seeds):
        raise ValueError("learning_rates and seeds must each hold at least one number, got an empty list.")
    rates = tuple(check_number("learning_rates", rate, at_least=0) for rate in learning_rates)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    check_integer("epochs", epochs, at_least=1)
    check_integer("batch_size", batch_size, at_least=1)
    check_flag("record_gradients", record_gradients)
    check_integer("warmup_steps", warmup_steps, at_least=0)
    _check_clip_norm(clip_norm)
    check_number("l1", l1, at_least=0)
    check_number("l2", l2, at_least=0)
    shuffling = [seeded_generator(seed) for seed in seeds]
    models = [make_model(seed) for seed in seeds]
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"make_model must return an nn.Module, got {type(model).__name__}.")
    try:
        parameters, buffers = torch.func.stack_module_state(models * len(rates))
    except (AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"make_model must return modules that differ in values only, but: {reason}"
        ) from None
    one = copy.deepcopy(models[0])  # its code; the values come from the stacks
    _evaluate(one, loss_fn, data)  # alone it names shapes as the caller knows them
    trainable = {name: stack for name, stack in parameters.items() if stack.requires_grad}
    if not trainable:
        raise ValueError(
            "The model must have a parameter that requires a gradient; there is nothing to train."
        )
    # Each learning rate is a group of the optimizer, which works on views of the stacks, in place.
    views = [
        [nn.Parameter(part) for part in stack.detach().chunk(len(rates))] for stack in trainable.values()
    ]
    groups = [
        {"params": list(group), "lr": rate}
        for group, rate in zip(zip(*views, strict=True), rates, strict=True)
    ]
    stepper = _WarmUp(OPTIMIZERS[optimizer](groups, lr=rates[0]), warmup_steps)
    weights = [name for name, stack in trainable.items() if stack.ndim >= 3]
    stacked_weights = [part for parts in views for part in parts if part.ndim >= 3]
    n_train = len(data.train_inputs)
    starts = range(0, n_train, batch_size)
    if n_train > 1 and n_train % batch_size == 1:
        starts = starts[:-1]  # as in `train`

    def run(state: tuple[dict, dict], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return _loss(lambda x: torch.func.functional_call(one, state, (x,)), loss_fn, inputs, targets)

    side_by_side = torch.func.vmap(run, in_dims=(0, 0, 0), randomness="different")
    on_same_data = torch.func.vmap(run, in_dims=(0, None, None), randomness="different")

    def evaluate() -> tuple[Tensor, Tensor | None]:
        one.eval()
        targets = data.validation_targets
        with torch.no_grad():
            outputs, loss = on_same_data((parameters, buffers), data.validation_inputs, targets)
        if targets.is_floating_point() or outputs.ndim != targets.ndim + 2:
            return loss, None
        right = outputs.argmax(dim=2) == targets
        return loss, right.double().flatten(1).mean(dim=1)

    train_loss, gradient_norms, total_norms = [], [], []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(int(seeds[0]))
        validation = [evaluate()]
        for _ in _progress(epochs):
            one.train()
            orders = torch.stack([torch.randperm(n_train, generator=g) for g in shuffling]).repeat(
                len(rates), 1
            )
            for start in starts:
                batch = orders[:, start : start + batch_size]
                inputs, targets = data.train_inputs[batch], data.train_targets[batch]
                _, loss = side_by_side((parameters, buffers), inputs, targets)
                _check_differentiable(loss)
                found = torch.autograd.grad(loss.sum(), list(trainable.values()), allow_unused=True)
                applied = found
                if clip_norm is not None or record_gradients:
                    applied, total = _clip_each(found, clip_norm)
                    total_norms.append(total)
                for parts, gradient in zip(views, applied, strict=True):
                    slices = [None] * len(rates) if gradient is None else gradient.chunk(len(rates))
                    for part, part_gradient in zip(parts, slices, strict=True):
                        part.grad = part_gradient
                train_loss.append(loss.detach())
                if record_gradients:
                    gradients = dict(zip(trainable, found, strict=True))
                    gradient_norms.append(
                        torch.stack([_norms(gradients[name], loss) for name in weights], dim=1)
                    )
                _penalize(stacked_weights, l1, l2)
                stepper.step()
            validation.append(evaluate())

    def by_rate_and_seed(stacks: Sequence[Tensor]) -> np.ndarray:
        values = torch.stack(tuple(stacks), dim=1).double()
        return values.reshape(len(rates), len(seeds), *values.shape[1:]).numpy()

    losses, accuracies = zip(*validation, strict=True)
    return Sweep(
        learning_rates=rates,
        seeds=tuple(int(seed) for seed in seeds),
        train_loss=by_rate_and_seed(train_loss),
        steps_per_epoch=len(starts),
        validation_loss=by_rate_and_seed(losses),
        validation_accuracy=None if accuracies[0] is None else by_rate_and_seed(accuracies),
        layer_names=tuple(name.removesuffix(".weight") for name in weights),
        gradient_norms=by_rate_and_seed(gradient_norms) if record_gradients else None,
        total_norms=by_rate_and_seed(total_norms) if total_norms else None,
    )


class _WarmUp:
    """An optimizer's steps, the first of them shorter; afterwards its learning rates are its own again."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup_steps: int) -> None:
        self.optimizer, self.warmup_steps, self.steps = optimizer, warmup_steps, 0

    def step(self) -> None:
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


def _check_clip_norm(clip_norm: float | None) -> None:
    if clip_norm is not None and check_number("clip_norm", clip_norm, at_least=0) == 0:
        raise ValueError("clip_norm must be above 0, got 0: no update would be left.")


def _clip(parameters: Sequence[nn.Parameter], clip_norm: float | None) -> float:
    """The norm of all gradients together; with `clip_norm`, they are then scaled down to it where larger."""
    total = nn.utils.get_total_norm([p.grad.double() for p in parameters if p.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, total)
    return total.item()


def _clip_each(
    gradients: Sequence[Tensor | None], clip_norm: float | None
) -> tuple[list[Tensor | None], Tensor]:
    """`_clip` for stacks of gradients (models, ...): what is left of them, and the norms (models,)."""
    flat = [gradient.double().flatten(1) for gradient in gradients if gradient is not None]
    total = torch.linalg.vector_norm(torch.cat(flat, dim=1), dim=1)
    if clip_norm is None:
        return list(gradients), total
    left = (clip_norm / (total + 1e-6)).clamp(max=1)  # as `nn.utils.clip_grad_norm_`
    scaled = [None if g is None else g * left.to(g).reshape(-1, *[1] * (g.ndim - 1)) for g in gradients]
    return scaled, total


@torch.no_grad()
def _penalize(weights: Iterable[Tensor], l1: float, l2: float) -> None:
    """Add the slope of l1 * sum|w| + l2 / 2 * sum w**2 to the gradients, in place."""
    if not l1 and not l2:
        return
    for weight in weights:
        if weight.grad is not None:
            weight.grad += l2 * weight + l1 * weight.sign()


def _norms(gradient: Tensor | None, loss: Tensor) -> Tensor:
    """The norm of each model's gradient; NaN without one. `loss` (models,) says how many there are."""
    if gradient is None:
        return torch.full(loss.shape, math.nan, dtype=torch.float64)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)


def _optimizer(
    model: nn.Module, optimizer: str | Callable | torch.optim.Optimizer, learning_rate: float | None
) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "The model must have a parameter that requires a gradient; there is nothing to train."
        )
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, at_least=0)
    if isinstance(optimizer, torch.optim.Optimizer):
        if learning_rate is not None:
            raise ValueError(
                f"An optimizer brings its own learning rate: leave learning_rate={learning_rate!r} out."
            )
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if held.isdisjoint(map(id, parameters)):
            raise ValueError("The optimizer must hold parameters of this model, but it holds only others.")
    elif callable(optimizer):
        optimizer = (
            optimizer(parameters) if learning_rate is None else optimizer(parameters, lr=learning_rate)
        )
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must make a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    else:
        check_choice("optimizer", optimizer, OPTIMIZERS)
        if learning_rate is None:
            raise ValueError(f"learning_rate must be given with the optimizer {optimizer!r}.")
        optimizer = OPTIMIZERS[optimizer](parameters, lr=learning_rate)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("optimizer must take one gradient per step; LBFGS evaluates the loss several times.")
    return optimizer


def _clear_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    # Both, because an optimizer that was brought may hold fewer parameters than the model, or more.
    model.zero_grad()
    optimizer.zero_grad()


def _loss(model: nn.Module, loss_fn: Callable, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
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


def _check_differentiable(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise ValueError(
            "The loss must depend on the model's parameters through torch operations, it does not."
        )


def _evaluate(model: nn.Module, loss_fn: Callable, data: Split) -> tuple[float, float | None]:
    """Loss and accuracy on the whole validation part, in evaluation mode."""
    model.eval()
    targets = data.validation_targets
    with torch.no_grad():
        outputs, loss = _loss(model, loss_fn, data.validation_inputs, targets)
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1:
        return loss.item(), None
    return loss.item(), (outputs.argmax(dim=1) == targets).double().mean().item()


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


def _progress(epochs: int) -> tqdm:
    # The notebook's bar does not read TQDM_DISABLE, as the terminal's does.
    quiet = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(range(epochs), desc="training", unit="epoch", leave=False, disable=quiet)
