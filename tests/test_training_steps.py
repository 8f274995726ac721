"""Steps that are shorter than the learning rate says: warm-up and clipping."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth.data import Split
from gradients_in_depth.training import sweep, train
from tests.training_tools import MODEL, SIDE_BY_SIDE, gaussian_data, linear_regression, small_network

# Warm-up


def weights_by_step(**settings):
    """The one weight, whose gradient is 1, before each step and after the last: minus the sum of rates."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    seen = []

    def loss_fn(outputs, targets):
        seen.append(model.weight.item())
        return model.weight.sum() + 0 * outputs.sum()

    ones = torch.ones(6, 1, dtype=torch.float64)
    train(model, Split(ones, ones, ones, ones), loss_fn=loss_fn, epochs=1, batch_size=1, **settings)
    return np.array(seen[1:])  # the first is the evaluation before training


def test_warm_up_takes_equal_parts_and_then_the_whole_rate():
    steps = -np.diff(weights_by_step(learning_rate=0.4, warmup_steps=4))
    np.testing.assert_allclose(steps, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    np.testing.assert_allclose(-np.diff(weights_by_step(learning_rate=0.4)), 0.4)


def test_an_optimizer_that_is_brought_has_its_own_rates_back_after_warm_up():
    model, data = linear_regression()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    train(model, data, loss_fn=F.mse_loss, optimizer=optimizer, epochs=1, batch_size=10, warmup_steps=100)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_a_sweep_warms_up_as_each_of_its_runs():
    data = gaussian_data(dtype=torch.float64)

    def make_model(seed):
        return small_network(seed=seed, dtype=torch.float64)

    settings = {"optimizer": "adam", "warmup_steps": 5}
    found = sweep(make_model, data, **SIDE_BY_SIDE, **settings)
    for row, rate in enumerate(found.learning_rates):
        for column, seed in enumerate(found.seeds):
            alone = train(
                make_model(seed), data, learning_rate=rate, epochs=2, batch_size=6, seed=seed, **settings
            )
            np.testing.assert_allclose(found.train_loss[row, column], alone.train_loss, rtol=1e-7)
    without = sweep(make_model, data, **SIDE_BY_SIDE, optimizer="adam")
    assert not np.allclose(found.train_loss[..., 2:], without.train_loss[..., 2:])


@pytest.mark.parametrize("warmup_steps", [-1, 1.5])
def test_warm_up_steps_are_counted(warmup_steps):
    error = ValueError if warmup_steps == -1 else TypeError
    sentence = f"warmup_steps must be an integer of at least 0, got {warmup_steps}."
    for run in (
        lambda: train(MODEL, gaussian_data(), learning_rate=0.1, epochs=1, warmup_steps=warmup_steps),
        lambda: sweep(lambda _: MODEL, gaussian_data(), **SIDE_BY_SIDE, warmup_steps=warmup_steps),
    ):
        with pytest.raises(error) as caught:
            run()
        assert str(caught.value) == sentence


# Clipping


def gradient_of_first_step(model, data, clip_norm):
    """What SGD with a learning rate of 1 subtracted in one step on all examples."""
    before = [p.detach().clone() for p in model.parameters()]
    history = train(
        model, data, loss_fn=F.mse_loss, learning_rate=1.0, epochs=1, batch_size=30, clip_norm=clip_norm
    )
    step = [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]
    return torch.cat([s.flatten() for s in step]), history


@pytest.mark.parametrize("clip_norm", [1e-4, 0.5, 1e6])
def test_clipping_shortens_the_step_over_all_parameters_together_and_keeps_its_direction(clip_norm):
    model, data = linear_regression()
    x, y = data.train_inputs.numpy(), data.train_targets.numpy()
    error = x @ np.full((3, 1), 0.2) - y
    gradient = np.append(2 * error.T @ x / 30, 2 * error.mean())  # weight and bias as one vector
    norm = np.linalg.norm(gradient)
    assert 0.5 < norm < 1e6
    step, history = gradient_of_first_step(model, data, clip_norm)
    expected = gradient * min(1, clip_norm / norm)
    np.testing.assert_allclose(step.numpy(), expected, rtol=1e-5)  # torch divides by norm + 1e-6
    assert history.total_norms == pytest.approx([norm])  # as it was before clipping


def test_total_norms_are_recorded_with_the_gradients_and_not_otherwise():
    settings = {"learning_rate": 0.1, "epochs": 1, "batch_size": 6}
    data, model = gaussian_data(dtype=torch.float64), small_network(bias_var=0.1, dtype=torch.float64)
    assert train(model, data, **settings).total_norms is None
    history = train(model, data, record_gradients=True, **settings)
    assert history.total_norms.shape == (4,)
    # The biases are in the total, and not in the norms of the weights.
    assert (history.total_norms > np.linalg.norm(history.gradient_norms, axis=1)).all()


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_sweep_clips_each_of_its_models_by_itself(clip_norm):
    data = gaussian_data(dtype=torch.float64)

    def make_model(seed):
        return small_network(seed=seed, gain=1 + seed, dtype=torch.float64)

    found = sweep(make_model, data, **SIDE_BY_SIDE, record_gradients=True, clip_norm=clip_norm)
    clipped = 0
    for row, rate in enumerate(SIDE_BY_SIDE["learning_rates"]):
        for column, seed in enumerate(SIDE_BY_SIDE["seeds"]):
            model = make_model(seed)
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            shuffling = torch.Generator().manual_seed(seed)
            norms = []
            for _ in range(2):
                order = torch.randperm(20, generator=shuffling)
                for batch in order.split(6):
                    optimizer.zero_grad()
                    F.cross_entropy(model(data.train_inputs[batch]), data.train_targets[batch]).backward()
                    most = float("inf") if clip_norm is None else clip_norm
                    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), most).item())
                    optimizer.step()
            np.testing.assert_allclose(found.total_norms[row, column], norms, rtol=1e-7)
            clipped += sum(norm > most for norm in norms)
    assert clip_norm is None or clipped > 10


def test_a_clipped_sweep_is_each_of_its_clipped_runs():
    data, settings = gaussian_data(dtype=torch.float64), {"clip_norm": 0.1, "optimizer": "momentum"}

    def make_model(seed):
        return small_network(seed=seed, dtype=torch.float64)

    found = sweep(make_model, data, **SIDE_BY_SIDE, **settings)
    alone = train(make_model(0), data, learning_rate=0.1, epochs=2, batch_size=6, seed=0, **settings)
    np.testing.assert_allclose(found.train_loss[1, 1], alone.train_loss, rtol=1e-7)
    np.testing.assert_allclose(found.total_norms[1, 1], alone.total_norms, rtol=1e-7)
    assert sweep(make_model, data, **SIDE_BY_SIDE).total_norms is None


@pytest.mark.parametrize("run", [train, sweep])
@pytest.mark.parametrize(
    ("clip_norm", "error", "sentence"),
    [
        (0, ValueError, "clip_norm must be a finite number above 0, got 0."),
        (-1, ValueError, "clip_norm must be a finite number above 0, got -1."),
        ("1", TypeError, "clip_norm must be a finite number above 0, got '1'."),
    ],
)
def test_a_bad_threshold_gets_one_sentence(run, clip_norm, error, sentence):
    arguments = {train: (MODEL, gaussian_data()), sweep: (lambda seed: MODEL, gaussian_data())}[run]
    settings = {train: {"learning_rate": 0.1, "epochs": 1}, sweep: SIDE_BY_SIDE}[run]
    with pytest.raises(error) as caught:
        run(*arguments, **settings, clip_norm=clip_norm)
    assert str(caught.value) == sentence
