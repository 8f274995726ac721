"""The singular values of a model's Jacobian: by how much it stretches each direction of its inputs."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from gradients_in_depth.arguments import check_batch
from gradients_in_depth.hooks import check_model, first_tensor
from gradients_in_depth.signals.running import copied_arguments, left_as_it_was, run


def jacobian_singular_values(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Singular values of the Jacobian of outputs by inputs, largest first, for each example by itself.

    inputs: (features,) for one example, giving (k,); or (batch, ...), giving (batch, k). k is the smaller of
    the numbers of inputs and outputs. The model runs once on the whole batch, in its present mode, and is
    left as it was; with batch normalization in train mode the other examples are held fixed. NaN where the
    Jacobian is not finite.

    Raises TypeError or ValueError for inputs that are not finite floating-point numbers, for batch
    normalization in train mode with one example, and for outputs that do not depend on the inputs.
    """
    if not check_batch("inputs", inputs).is_floating_point():
        raise TypeError(f"inputs must be floating-point to be differentiated, got {inputs.dtype}.")
    check_model(model)
    (batch,), _ = copied_arguments(model, (inputs[None] if inputs.ndim == 1 else inputs,))
    batch = batch.detach().requires_grad_()
    with left_as_it_was(model), torch.enable_grad():
        outputs = first_tensor(run(model, (batch.clone(),), {}))  # a clone: the model may work in place
        if outputs is None or outputs.shape[:1] != batch.shape[:1] or not outputs.requires_grad:
            returned = "none" if outputs is None else f"shape {tuple(outputs.shape)}"
            raise ValueError(
                "The model must return rows of floating-point numbers that depend on the inputs, "
                f"{len(batch)} as the inputs; got {returned}."
            )
        rows = outputs.reshape(len(batch), -1)
        singular_values = [_singular_values(row, batch, example) for example, row in enumerate(rows)]
    return singular_values[0] if inputs.ndim == 1 else np.stack(singular_values)


def _singular_values(output: Tensor, batch: Tensor, example: int) -> np.ndarray:
    """Of the Jacobian of one row of outputs, (outputs,), by the same example of the batch."""
    (jacobian,) = torch.autograd.grad(
        output,
        batch,
        torch.eye(len(output)).to(output),
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,
    )
    if jacobian is None:  # this output depends on parameters alone
        jacobian = batch.new_zeros(len(output), *batch.shape)
    jacobian = jacobian[:, example].flatten(1).double().cpu()
    is_finite = bool(jacobian.isfinite().all())
    values = torch.linalg.svdvals(jacobian if is_finite else torch.zeros_like(jacobian)).numpy()
    return values if is_finite else values + math.nan
