"""What the checks of measurements share: models to measure, which have to come back as they were."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradients_in_depth.checks.common import Case, Mistake, as_number, brief, call, same

# --- What comes of a measurement ---------------------------------------------------------------------------

_HARM = {
    "hooks": "The hooks of the model are not those it came with: take away yours, and leave the owner's.",
    "mode": "The model comes back in another mode than it came in: train and eval are the owner's choice.",
    "asks": "Other parameters ask for a gradient than before: what is frozen is the owner's choice.",
    "statistics": "The running statistics of a batch norm have moved: your pass was counted as training.",
    "weights": "The weights are not what they were: a measurement does not treat.",
    "gradients": "What is in .grad is not what was there before: the owner may need it, and a "
    "later backward pass would add to yours.",
}
# PyTorch has no public way to list the hooks of a module.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _state(model: nn.Module) -> dict[str, list]:
    modules, parameters = list(model.modules()), list(model.parameters())
    return {
        "hooks": [list(getattr(module, kind)) for module in modules for kind in _HOOKS],
        "mode": [module.training for module in modules],
        "asks": [parameter.requires_grad for parameter in parameters],
        "statistics": [buffer.detach().clone() for buffer in model.buffers()],
        "weights": [parameter.detach().clone() for parameter in parameters],
        "gradients": [[] if p.grad is None else [p.grad.detach().clone()] for p in parameters],
    }


class _Here:
    """A model that `call` does not copy, so that one can see afterwards in which state it was left."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict) -> "_Here":
        return self

    def __repr__(self) -> str:
        return "model"


def call_on(function: object, model: nn.Module, *inputs: object) -> object:
    """What the learner's function makes of a model; a sentence if it does not leave the model as it was."""
    if not callable(function):
        return call(function, model, *inputs)

    @wraps(function)
    def on_the_model(here: _Here, *rest: object) -> object:
        return function(here.model, *rest)

    before = _state(model)
    result = call(on_the_model, _Here(model), *inputs)
    after = _state(model)
    for what, sentence in _HARM.items():
        if not same(before[what], after[what]):
            raise Mistake(sentence)
    return result


def as_figures(value: object, count: int, what: str) -> np.ndarray:
    """`count` numbers in an array or a sequence, as floats; NaN is let through."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, Mapping | str) or not isinstance(value, Sequence | np.ndarray):
        raise Mistake(f"{what} should come as an array, and you return {brief(value)}.")
    if any(part is None for part in value):
        raise Mistake(f"{what} hold a None: write NaN where there is no number.")
    try:
        figures = np.array([as_number(part, "each of them") for part in value], dtype=float)
    except Mistake as mistake:
        raise Mistake(f"{what} should be plain numbers: {mistake}") from None
    if len(figures) != count:
        raise Mistake(f"{what} should be {count} numbers here, and you return {len(figures)}.")
    return figures


# --- Models to measure -------------------------------------------------------------------------------------


class Detached(nn.Module):
    """Hands on its input, and lets no gradient back."""

    def forward(self, x: Tensor) -> Tensor:
        """(any shape) -> (the same)."""
        return x.detach()


_PARTS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "cut": Detached,
}


def stack(rng: np.random.Generator, *parts: str | int, gain: float = 1.0) -> nn.Sequential:
    """Layers by their names, a number for a linear layer of so many units; the first one takes 7 features."""
    layers: list[nn.Module] = []
    fan_in = 7
    for part in parts:
        if isinstance(part, int):
            linear = nn.Linear(fan_in, part, dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(rng.normal(0, gain / fan_in**0.5, (part, fan_in))))
                linear.bias.copy_(torch.tensor(rng.normal(0, 0.1, part)))
            fan_in = part
            layers.append(linear)
        elif part == "norm":
            layers.append(nn.BatchNorm1d(fan_in, dtype=torch.float64))
        else:
            layers.append(_PARTS[part]())
    return nn.Sequential(*layers)


def with_batches(rng: np.random.Generator, *models: nn.Sequential) -> list[Case]:
    """Each model, and after it inputs (12, 7), targets (12, outputs) and the loss."""
    cases = []
    for model in models:
        outputs = len(model[-1].get_parameter("weight"))
        batch = [torch.tensor(rng.normal(size=(12, features))) for features in (7, outputs)]
        cases.append((model, *batch, F.mse_loss))
    return cases
