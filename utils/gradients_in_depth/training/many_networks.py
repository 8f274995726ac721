"""The training of many networks that differ in values only, side by side: rates and seeds."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradients_in_depth.arguments import check_choice, check_function, check_number
from gradients_in_depth.data import Split
from gradients_in_depth.randomness import seeded_generator
from gradients_in_depth.training.steps import (
    OPTIMIZERS,
    Loss,
    MakeOptimizer,
    Settings,
    WarmUp,
    are_classes,
    check_differentiable,
    check_trainable,
    epoch_bar,
    evaluate,
    loss_of,
    penalize,
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
    loss_fn: Loss = F.cross_entropy,
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
    check_function("make_model", make_model, "a seed")
    settings = Settings(
        data, loss_fn, epochs, batch_size, record_gradients, clip_norm, warmup_steps, l1=l1, l2=l2
    )
    if not len(learning_rates) or not len(seeds):
        raise ValueError("learning_rates and seeds must each hold at least one number, got an empty list.")
    rates = tuple(check_number("learning_rates", rate, at_least=0) for rate in learning_rates)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    shuffling = [seeded_generator(seed) for seed in seeds]
    models = [make_model(seed) for seed in seeds]
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"make_model must return an nn.Module, got {type(model).__name__}.")
    networks = _Networks(models, rates, OPTIMIZERS[optimizer], settings)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(int(seeds[0]))
        networks.validate()
        for _ in epoch_bar(epochs):
            orders = [torch.randperm(len(data.train_inputs), generator=generator) for generator in shuffling]
            networks.epoch(torch.stack(orders).repeat(len(rates), 1))
    return networks.result(tuple(int(seed) for seed in seeds))


class _Networks:
    """The state of one call of `sweep`: each value is stacked over all networks, sorted by learning rate.

    The networks of one learning rate are one group of the optimizer's parameters: views of the stacks, on
    which it works in place.
    """

    def __init__(
        self,
        models: list[nn.Module],
        rates: tuple[float, ...],
        make_optimizer: MakeOptimizer,
        settings: Settings,
    ) -> None:
        self.rates, self.settings = rates, settings
        try:
            self.state = torch.func.stack_module_state(models * len(rates))
        except (AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"make_model must return modules that differ in values only, but: {reason}"
            ) from None
        self.code = copy.deepcopy(models[0])  # its values are not used: they come from the stacks
        evaluate(self.code, settings)  # alone, so that an error names shapes as the caller knows them
        self.trainable = {name: stack for name, stack in self.state[0].items() if stack.requires_grad}
        check_trainable(self.trainable)
        self.weights = [name for name, stack in self.trainable.items() if stack.ndim >= 3]
        # For each stack, its views by learning rate.
        self.views = [
            [nn.Parameter(part) for part in stack.detach().chunk(len(rates))]
            for stack in self.trainable.values()
        ]
        self.weight_views = [part for parts in self.views for part in parts if part.ndim >= 3]
        groups = [
            {"params": list(group), "lr": rate}
            for group, rate in zip(zip(*self.views, strict=True), rates, strict=True)
        ]
        self.warm_up = WarmUp(make_optimizer(groups, lr=rates[0]), settings.warmup_steps)
        self.train_loss: list[Tensor] = []
        self.gradient_norms: list[Tensor] = []
        self.total_norms: list[Tensor] = []
        self.validation: list[tuple[Tensor, Tensor | None]] = []

    def epoch(self, orders: Tensor) -> None:
        """Train each network on the examples in its order (networks, examples), and validate."""
        self.code.train()
        for start in self.settings.starts:
            self.step(orders[:, start : start + self.settings.batch_size])
        self.validate()

    def step(self, batch: Tensor) -> None:
        """One update of each network from its examples (networks, batch)."""
        settings, data = self.settings, self.settings.data
        _, loss = self._losses(data.train_inputs[batch], data.train_targets[batch], data_axis=0)
        check_differentiable(loss)
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss.sum(), list(self.trainable.values()), allow_unused=True
        )
        self.train_loss.append(loss.detach())
        if settings.record_gradients:
            by_name = dict(zip(self.trainable, gradients, strict=True))
            self.gradient_norms.append(
                torch.stack([_norms(by_name[name], loss) for name in self.weights], dim=1)
            )
        if settings.measures_norms:
            gradients, total = _clip_each(gradients, settings.clip_norm)
            self.total_norms.append(total)
        self._set_gradients(gradients)
        penalize(self.weight_views, settings)
        self.warm_up.step()

    def _set_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        for parts, gradient in zip(self.views, gradients, strict=True):
            slices = [None] * len(parts) if gradient is None else gradient.chunk(len(parts))
            for part, part_gradient in zip(parts, slices, strict=True):
                part.grad = part_gradient

    def validate(self) -> None:
        """Loss (networks,) and accuracy (networks,) on the whole validation part, in evaluation mode."""
        self.code.eval()
        data = self.settings.data
        with torch.no_grad():
            outputs, loss = self._losses(data.validation_inputs, data.validation_targets, data_axis=None)
        accuracy = None
        if are_classes(data.validation_targets, outputs[0]):
            right = outputs.argmax(dim=2) == data.validation_targets
            accuracy = right.double().flatten(1).mean(dim=1)
        self.validation.append((loss, accuracy))

    def _losses(self, inputs: Tensor, targets: Tensor, data_axis: int | None) -> tuple[Tensor, Tensor]:
        """Outputs and losses of all networks, each on its data along an axis, or all on the same data."""

        def one(state: tuple[dict, dict], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            network = partial(torch.func.functional_call, self.code, state)
            return loss_of(network, self.settings.loss_fn, inputs, targets)

        side_by_side = torch.func.vmap(one, in_dims=(0, data_axis, data_axis), randomness="different")
        return side_by_side(self.state, inputs, targets)

    def result(self, seeds: tuple[int, ...]) -> Sweep:
        def by_rate_and_seed(stacks: Sequence[Tensor]) -> np.ndarray:
            values = torch.stack(tuple(stacks), dim=1).double()
            return values.reshape(len(self.rates), len(seeds), *values.shape[1:]).numpy()

        losses, accuracies = zip(*self.validation, strict=True)
        return Sweep(
            learning_rates=self.rates,
            seeds=seeds,
            train_loss=by_rate_and_seed(self.train_loss),
            steps_per_epoch=len(self.settings.starts),
            validation_loss=by_rate_and_seed(losses),
            validation_accuracy=None if accuracies[0] is None else by_rate_and_seed(accuracies),
            layer_names=tuple(name.removesuffix(".weight") for name in self.weights),
            gradient_norms=by_rate_and_seed(self.gradient_norms) if self.settings.record_gradients else None,
            total_norms=by_rate_and_seed(self.total_norms) if self.settings.measures_norms else None,
        )


def _clip_each(
    gradients: Sequence[Tensor | None], clip_norm: float | None
) -> tuple[Sequence[Tensor | None], Tensor]:
    """`_clip` for stacks of gradients (models, ...): what is left of them, and the norms (models,)."""
    flat = [gradient.double().flatten(1) for gradient in gradients if gradient is not None]
    total = torch.linalg.vector_norm(torch.cat(flat, dim=1), dim=1)
    if clip_norm is None:
        return gradients, total
    left = (clip_norm / (total + 1e-6)).clamp(max=1)  # as `nn.utils.clip_grad_norm_`
    scaled = [None if g is None else g * left.to(g).reshape(-1, *[1] * (g.ndim - 1)) for g in gradients]
    return scaled, total


def _norms(gradient: Tensor | None, loss: Tensor) -> Tensor:
    """The norm of each model's gradient; NaN without one. `loss` (models,) says how many there are."""
    if gradient is None:
        return torch.full(loss.shape, math.nan, dtype=torch.float64)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
