"""Many trainings side by side are what each would be alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth.training import sweep, train
from tests.training_tools import MODEL, SIDE_BY_SIDE, gaussian_data, linear_regression, small_network


@pytest.mark.parametrize(
    ("optimizer", "settings", "penalties"),
    [
        ("sgd", {"activation": "sigmoid"}, {}),
        ("adam", {"activation": "prelu"}, {"l1": 0.01, "l2": 0.1}),
        ("momentum", {"normalization": "batch"}, {}),
        ("rmsprop", {"normalization": "layer", "skip": True}, {"l2": 0.1}),
    ],
)
def test_a_sweep_is_each_of_its_runs(optimizer, settings, penalties):
    """20 examples, 6 a step: the last step has 2."""
    data = gaussian_data(dtype=torch.float64)

    def make_model(seed):
        return small_network(seed=seed, dtype=torch.float64, **settings)

    found = sweep(make_model, data, **SIDE_BY_SIDE, optimizer=optimizer, record_gradients=True, **penalties)
    assert found.learning_rates == (0.01, 0.1)
    assert found.seeds == (3, 0)
    for row, learning_rate in enumerate(found.learning_rates):
        for column, seed in enumerate(found.seeds):
            alone = train(
                make_model(seed),
                data,
                optimizer=optimizer,
                learning_rate=learning_rate,
                epochs=2,
                batch_size=6,
                seed=seed,
                record_gradients=True,
                **penalties,
            )
            assert found.steps_per_epoch == alone.steps_per_epoch == 4
            assert found.layer_names == alone.layer_names
            for name in ("train_loss", "validation_loss", "validation_accuracy", "gradient_norms"):
                one = getattr(found, name)[row, column]
                np.testing.assert_allclose(one, getattr(alone, name), rtol=1e-7, atol=1e-12, err_msg=name)


def test_a_sweep_leaves_models_and_the_random_state_alone():
    models = {seed: small_network(seed=seed, normalization="batch") for seed in SIDE_BY_SIDE["seeds"]}
    before = {seed: copy.deepcopy(model.state_dict()) for seed, model in models.items()}
    state = torch.get_rng_state()
    sweep(models.__getitem__, gaussian_data(), **SIDE_BY_SIDE)
    assert torch.equal(torch.get_rng_state(), state)
    for seed, model in models.items():
        assert model.training
        assert all(torch.equal(value, before[seed][name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_the_best_learning_rate_is_that_of_the_median_seed_and_never_one_that_diverged():
    model, data = linear_regression()
    settings = {"loss_fn": F.mse_loss, "seeds": [0, 1, 2], "epochs": 30, "batch_size": 10}
    found = sweep(lambda _: model, data, learning_rates=[1e-3, 0.1, 1e4, 1e200], **settings)
    assert found.loss_by_epoch.shape == (4, 3, 30)
    np.testing.assert_allclose(found.loss_by_epoch[0, 0, 0], found.train_loss[0, 0, :3].mean())
    assert found.learning_rates[found.best] == 0.1
    assert not np.isfinite(found.train_loss[3, :, -1]).any()
    assert np.isfinite(found.train_loss[1]).all()
    assert found.validation_accuracy is None


def test_a_sweep_lists_what_gets_no_gradient_as_nan_and_leaves_out_what_is_frozen():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(x) + self.frozen(x)

    found = sweep(lambda _: Partly(), gaussian_data(), **SIDE_BY_SIDE, record_gradients=True)
    assert found.layer_names == ("used", "unused")
    assert np.isnan(found.gradient_norms[..., 1]).all()
    assert (found.gradient_norms[..., 0] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"make_model": "mlp"}, TypeError, "make_model must be a function of a seed, got 'mlp'."),
        (
            {"data": (1, 2)},
            TypeError,
            "data must be a Split, such as data.digits() returns, got tuple.",
        ),
        ({"loss_fn": "mse"}, TypeError, "loss_fn must be a function of (outputs, targets), got 'mse'."),
        (
            {"seeds": []},
            ValueError,
            "learning_rates and seeds must each hold at least one number, got an empty list.",
        ),
        (
            {"learning_rates": [0.1, -1]},
            ValueError,
            "learning_rates must be a finite number of at least 0, got -1.",
        ),
        ({"l2": -1}, ValueError, "l2 must be a finite number of at least 0, got -1."),
        ({"l1": None}, TypeError, "l1 must be a finite number of at least 0, got None."),
        ({"seeds": [0.5]}, TypeError, "seed must be an integer from 0 to 2**32 - 1, got 0.5."),
        (
            {"optimizer": "lion"},
            ValueError,
            "optimizer must be one of sgd, momentum, rmsprop, adam; got 'lion'.",
        ),
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0."),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0."),
        ({"record_gradients": 1}, TypeError, "record_gradients must be True or False, got 1."),
        (
            {"make_model": lambda seed: nn.Linear(4, 3 + seed)},
            ValueError,
            "make_model must return modules that differ in values only, but: "
            "stack expects each tensor to be equal size, but got [6, 4] at entry 0 and [3, 4] at entry 1",
        ),
        (
            {"make_model": lambda seed: "a network"},
            TypeError,
            "make_model must return an nn.Module, got str.",
        ),
        (
            {"make_model": lambda seed: nn.Flatten()},
            ValueError,
            "model must have a parameter that requires a gradient, got nothing to train.",
        ),
        (
            {"loss_fn": lambda outputs, targets: outputs.detach().sum()},
            ValueError,
            "The loss must depend on the model's parameters through torch operations, got one that does not.",
        ),
        (
            {"make_model": lambda seed: nn.Linear(5, 3)},
            ValueError,
            "The model and loss_fn do not fit inputs (10, 4) of torch.float32 "
            "and targets (10,) of torch.int64: mat1 and mat2 shapes cannot be multiplied (10x4 and 5x3)",
        ),
    ],
)
def test_a_bad_argument_of_a_sweep_gets_one_sentence(arguments, error, sentence):
    settings = {"make_model": lambda seed: MODEL, "data": gaussian_data()} | SIDE_BY_SIDE | arguments
    with pytest.raises(error) as caught:
        sweep(settings.pop("make_model"), settings.pop("data"), **settings)
    assert str(caught.value) == sentence
