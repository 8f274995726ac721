"""Run somebody's model on copies of the inputs, and leave it as it was."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradients_in_depth.hooks import listed
from gradients_in_depth.randomness import random_state_kept

Inputs = Tensor | Sequence | Mapping


def copied_arguments(model: nn.Module, inputs: Inputs) -> tuple[tuple, dict]:
    """Positional and keyword arguments, with the tensors copied, because a model may change them in place.

    Raises TypeError or ValueError for inputs, and for values of the model, on which no gradient can be taken;
    RuntimeError under `torch.inference_mode()`.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() forbids gradients: measure outside of it, or in no_grad()."
        )
    arguments: tuple
    keywords: dict
    if isinstance(inputs, Mapping):
        arguments, keywords = (), dict(inputs)
    elif isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
        arguments, keywords = tuple(inputs), {}
    elif isinstance(inputs, Tensor | PackedSequence):
        arguments, keywords = (inputs,), {}
    else:
        raise TypeError(
            "inputs must be a tensor, a tuple of positional arguments, or a dict of keyword arguments, "
            f"got {type(inputs).__name__}."
        )
    for part in (*arguments, *keywords.values()):
        _check_input(part)
    _check_values(model)
    with torch.enable_grad():
        copied = tuple(part.clone() if isinstance(part, Tensor) else part for part in arguments)
        return copied, {key: p.clone() if isinstance(p, Tensor) else p for key, p in keywords.items()}


def _check_input(part: object) -> None:
    if not isinstance(part, Tensor):
        return
    if not part.numel():
        raise ValueError(f"inputs must hold at least one example, got shape {tuple(part.shape)}.")
    if part.is_inference():
        raise ValueError("inputs were made in inference mode, which forbids gradients: clone them.")
    if part.is_floating_point() and part.isnan().any():
        raise ValueError(f"inputs must not contain NaN, got it in {int(part.isnan().sum())} places.")


def _check_values(model: nn.Module) -> None:
    """Whether all parameters and buffers have values, and such as gradients can be taken of."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise ValueError(f"The model must have values, got none yet for {name}: run it once before.")
        if tensor.is_inference():
            raise ValueError(f"{name} was made in inference mode, which forbids gradients: clone it.")


def run(model: nn.Module, arguments: tuple, keywords: dict) -> object:
    """The model's outputs; two errors of torch that are due to the inputs become plain sentences."""
    try:
        return model(*arguments, **keywords)
    except (RuntimeError, ValueError) as error:
        # torch has no classes for these errors: only its words tell them from the model's own.
        dtype = next((a.dtype for a in [*arguments, *keywords.values()] if isinstance(a, Tensor)), None)
        allowed = {p.dtype for p in model.parameters() if p.is_floating_point()}
        if "type" in str(error) and dtype is not None and allowed and dtype not in allowed:
            dtypes = listed(map(str, allowed), most=8)
            raise TypeError(f"inputs must have the dtype of the model, {dtypes}, got {dtype}.") from error
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                "Batch normalization in train mode needs at least 2 examples, got 1: "
                "give a batch, or call model.eval()."
            ) from error
        raise


def loss_of(loss_fn: Callable[..., Tensor], outputs: object, targets: object) -> Tensor:
    """The loss, one floating-point number with its graph; raises TypeError or ValueError otherwise."""
    loss: object = loss_fn(outputs) if targets is None else loss_fn(outputs, targets)
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        kind = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"loss_fn must return a floating-point tensor (without .item()), got {kind}.")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must return one number, such as a mean, got shape {tuple(loss.shape)}.")
    return loss


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Restore the model and the random states of torch, NumPy and Python at the end, after an error too."""
    registries = [_registries(module) for module in model.modules()]
    bindings = [(registry, dict(registry)) for same in registries for registry in same]
    tensors = [b for _, _, held, _ in registries for b in held.values() if b is not None]
    buffers = [(buffer, buffer.clone()) for buffer in tensors if buffer.layout == torch.strided]
    tensors = [p for _, held, _, _ in registries for p in held.values() if p is not None]
    parameters = [(p, p.requires_grad, p.grad) for p in tensors]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    gpus = {p.device.index for p, _, _ in parameters if p.is_cuda}
    try:
        with random_state_kept(gpus):
            # The fast path passes over the layers of a frozen Transformer.
            torch.backends.mha.set_fastpath_enabled(False)
            for parameter, _, _ in parameters:
                parameter.grad = None  # so that a model that calls backward itself adds nothing to it
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for registry, binding in bindings:
            registry.clear()
            registry.update(binding)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)  # .data: a graph that the caller still holds stays valid
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad).grad = grad


def _registries(module: nn.Module) -> list[dict]:
    """Where a module keeps what it has: attributes (`training` is one), parameters, buffers, submodules.

    Private: torch has no public way to bind a name to what it was bound to before, at the same place.
    """
    return [vars(module), module._parameters, module._buffers, module._modules]
