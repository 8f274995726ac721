"""`diagnose`: the arguments, the examination, and the order of the rules."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gradients_in_depth.arguments import check_choice, check_flag, check_number
from gradients_in_depth.diagnosis import rules_gradient, rules_tokens, rules_units, rules_use
from gradients_in_depth.diagnosis.examination import Examination, Patient
from gradients_in_depth.diagnosis.report import Diagnosis
from gradients_in_depth.hooks import check_model
from gradients_in_depth.signals import FORMATS

# Each leaves the figures it looked at, in this order.
RULES: tuple[Callable[[Examination], None], ...] = (
    rules_gradient.not_finite,
    rules_gradient.no_gradient,
    rules_units.symmetric,
    rules_gradient.depth,
    rules_gradient.time,
    rules_units.dead_units,
    rules_units.correlation,
    rules_tokens.tokens,
    rules_tokens.attention,
    rules_tokens.post_norm,
    rules_units.bottleneck,
    rules_use.range_of_format,
    rules_use.mode,
    rules_use.learning_rate,
)


def diagnose(
    model: nn.Module,
    inputs: Tensor | Sequence | Mapping,
    targets: object = None,
    loss_fn: Callable[..., Tensor] | None = None,
    *,
    learning_rate: float | None = None,
    evaluation: bool | None = None,
    number_format: str | None = None,
    warm_up: bool = False,
) -> Diagnosis:
    """Name what is wrong with a model, from one batch: the gravest cause first, with figures and remedies.

    model, inputs, targets, loss_fn: as for `signals.measure`; the model is left as it was.
    learning_rate: of plain SGD; without it, nothing is said about the size of the updates.
    evaluation: whether these outputs are meant for evaluating, so that train mode is a mistake. None: they
        are under `torch.no_grad()`, and when the model is in eval mode (where parts of it may not be).
    number_format: in which the gradient is or will be computed; None: that of the parameters. Models in
        float16 are examined as copies in float32, so that what would be rounded to 0 can still be counted.
    warm_up: whether training begins with a learning rate that rises; Post-LN then is no disease.

    A small batch hides things: give at least 16 examples. Raises TypeError or ValueError as `measure` does,
    and for the arguments of its own. Names and thresholds are tried on random networks in
    tests/bench/bench_diagnosis.py.
    """
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, at_least=0.0)
    if evaluation is not None:
        check_flag("evaluation", evaluation)
    check_flag("warm_up", warm_up)
    if number_format is not None:
        check_choice("number_format", number_format, FORMATS)
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of (outputs, targets), got {loss_fn!r}.")
    patient = Patient(check_model(model), inputs, targets, loss_fn, learning_rate)
    if evaluation is None:
        evaluation = not torch.is_grad_enabled() or not model.training
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        number_format = number_format or "float16"
        patient = patient.in_float32()
    examination = Examination(patient, evaluation=evaluation, number_format=number_format, warm_up=warm_up)
    for rule in RULES:
        rule(examination)
    return examination.diagnosis()
