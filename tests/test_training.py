"""The training loop: what it computes, what it leaves as it was, and how it stops."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth.data import Split, digits, gaussian_batch
from gradients_in_depth.networks import DeepMLP
from gradients_in_depth.training import OPTIMIZERS, train
from tests.training_tools import MODEL, gaussian_data, linear_regression, small_network


@pytest.fixture(scope="module")
def real_digits():
    return digits()


# What it computes


def test_a_small_relu_network_learns_the_digits(real_digits):
    for optimizer, learning_rate in [("adam", 3e-3), ("sgd", 0.1)]:
        model = DeepMLP(2, 64, activation="relu", initialization="he_normal")
        history = train(model, real_digits, optimizer=optimizer, learning_rate=learning_rate, epochs=8)
        assert history.validation_accuracy[0] < 0.3
        assert history.validation_accuracy[-1] > 0.9
        assert history.train_loss[-22:].mean() < 0.1 * history.train_loss[0]
        assert history.validation_loss[-1] < 0.3 * history.validation_loss[0]
        assert history.stopped is None


def test_the_history_describes_the_model_that_was_trained(real_digits):
    model = small = DeepMLP(1, 8)
    history = train(small, real_digits, learning_rate=0.1, epochs=2)
    outputs = model.eval()(real_digits.validation_inputs)
    right = outputs.argmax(dim=1) == real_digits.validation_targets
    assert history.validation_accuracy[-1] == pytest.approx(right.double().mean().item())
    loss = F.cross_entropy(outputs, real_digits.validation_targets).item()
    assert history.validation_loss[-1] == pytest.approx(loss, rel=1e-6)
    assert history.steps.tolist() == list(range(1, 45))  # 1347 images, 64 at a time: 22 steps an epoch
    assert history.epochs.tolist() == [0, 1, 2]
    assert history.steps_per_epoch == 22
    assert history.layer_names == ("blocks.0.linear", "readout")
    assert history.gradient_norms is None


def test_full_batch_training_is_gradient_descent_by_hand():
    model, data = linear_regression()
    history = train(
        model, data, loss_fn=F.mse_loss, learning_rate=0.1, epochs=6, batch_size=30, record_gradients=True
    )
    x, y = data.train_inputs.numpy(), data.train_targets.numpy()
    weight, bias = np.full((1, 3), 0.2), np.zeros(1)
    losses, norms, validation = [], [], []
    for _ in range(6):
        validation.append(np.mean((x[:7] @ weight.T + bias - y[:7]) ** 2))
        error = x @ weight.T + bias - y
        losses.append(np.mean(error**2))
        weight_gradient, bias_gradient = 2 * error.T @ x / 30, 2 * error.mean(axis=0)
        norms.append([np.sqrt(np.sum(weight_gradient**2))])
        weight, bias = weight - 0.1 * weight_gradient, bias - 0.1 * bias_gradient
    np.testing.assert_allclose(history.train_loss, losses)
    np.testing.assert_allclose(history.gradient_norms, norms)
    np.testing.assert_allclose(history.validation_loss[:-1], validation)
    np.testing.assert_allclose(model.weight.detach().numpy(), weight)
    np.testing.assert_allclose(model.bias.detach().numpy(), bias)
    assert history.validation_accuracy is None


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_penalties_are_the_slope_of_what_autograd_sees_in_the_loss(optimizer):
    """On the weights only: biases and the gain of a normalization have one axis."""
    data = gaussian_data(dtype=torch.float64)
    settings = {"normalization": "layer", "bias_var": 0.5, "dtype": torch.float64}
    model, by_hand = small_network(**settings), small_network(**settings)
    plan = {"optimizer": optimizer, "learning_rate": 0.01, "epochs": 6, "batch_size": 20}
    history = train(model, data, **plan, l1=0.02, l2=0.3, record_gradients=True)
    stepper = OPTIMIZERS[optimizer](by_hand.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(by_hand(data.train_inputs), data.train_targets)
        losses.append(loss.item())
        weights = [p for name, p in by_hand.named_parameters() if name.endswith("linear.weight")]
        weights.append(by_hand.readout.weight)
        penalty = sum(0.02 * w.abs().sum() + 0.15 * w.square().sum() for w in weights)
        stepper.zero_grad()
        (loss + penalty).backward()
        stepper.step()
    np.testing.assert_allclose(history.train_loss, losses, rtol=1e-10)  # the loss without its penalty
    for mine, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach(), theirs.detach(), rtol=1e-9, atol=1e-12)
    start = small_network(**settings)
    F.cross_entropy(start(data.train_inputs), data.train_targets).backward()
    assert history.gradient_norms[0, -1] == pytest.approx(start.readout.weight.grad.norm().item())


def test_numbers_as_targets_have_no_accuracy_whatever_their_shape():
    model, data = linear_regression()
    flat = Split(
        data.train_inputs, data.train_targets[:, 0], data.validation_inputs, data.validation_targets[:, 0]
    )
    history = train(
        model,
        flat,
        loss_fn=lambda outputs, targets: F.mse_loss(outputs[:, 0], targets),
        learning_rate=0.1,
        epochs=1,
    )
    assert history.validation_accuracy is None


class Recorder(nn.Module):
    """A linear model that writes down which examples it was given, and in which mode."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.seen, self.modes = [], []

    def forward(self, inputs):
        self.seen.append(inputs.flatten().int().tolist())
        self.modes.append(self.training)
        return self.linear(inputs)


def numbered_examples(n):
    inputs = torch.arange(n + 2, dtype=torch.float32)[:, None]
    targets = torch.zeros(n + 2, dtype=torch.int64)
    return Split(inputs[:n], targets[:n], inputs[n:], targets[n:])


def batches_seen(seed=0, n=10, batch_size=4, epochs=2):
    model = Recorder()
    train(model, numbered_examples(n), learning_rate=1e-6, epochs=epochs, batch_size=batch_size, seed=seed)
    assert [mode for batch, mode in zip(model.seen, model.modes, strict=True) if n in batch] == [False] * (
        epochs + 1
    )
    return [batch for batch, mode in zip(model.seen, model.modes, strict=True) if mode]


def test_each_epoch_takes_every_example_once_in_a_new_order():
    batches = batches_seen()
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != sorted(first)


def test_the_seed_alone_decides_the_order():
    torch.manual_seed(1)
    first = batches_seen(seed=3)
    torch.manual_seed(2)
    assert batches_seen(seed=3) == first
    assert batches_seen(seed=4) != first


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(9, 4, [4, 4]), (9, 8, [8]), (3, 8, [3]), (1, 1, [1]), (1, 8, [1]), (3, 1, [1] * 3)],
)
def test_a_lone_last_example_is_left_out(n, batch_size, sizes):
    assert [len(batch) for batch in batches_seen(n=n, batch_size=batch_size, epochs=1)] == sizes


def test_batch_normalization_trains_where_one_example_would_remain():
    history = train(
        small_network(normalization="batch"), gaussian_data(9), learning_rate=0.1, epochs=2, batch_size=4
    )
    assert history.steps_per_epoch == 2
    assert len(history.train_loss) == 4


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("sgd", torch.optim.SGD),
        ("momentum", partial(torch.optim.SGD, momentum=0.9)),
        ("rmsprop", torch.optim.RMSprop),
        ("adam", torch.optim.Adam),
    ],
)
def test_an_optimizer_can_be_named_or_made_or_brought(name, other):
    results = []
    for way in ("name", "function", "instance"):
        model = small_network()
        settings = {"optimizer": name if way == "name" else other, "learning_rate": 0.02}
        if way == "instance":
            settings = {"optimizer": other(model.parameters(), lr=0.02)}
        results.append(train(model, gaussian_data(), epochs=5, batch_size=5, **settings).train_loss)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_the_named_optimizers_differ():
    data, last = gaussian_data(), {}
    for name in OPTIMIZERS:
        last[name] = train(small_network(), data, optimizer=name, learning_rate=0.02, epochs=3).train_loss[-1]
    assert len(set(last.values())) == 4


def test_a_factory_without_learning_rate_keeps_its_own():
    model, twin = small_network(), small_network()
    train(model, gaussian_data(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3), epochs=1)
    train(twin, gaussian_data(), learning_rate=0.3, epochs=1)
    assert torch.equal(model.readout.weight, twin.readout.weight)


# Any model, any data


def test_a_convolution_and_an_embedding_train_too():
    images, labels = (
        gaussian_batch(8, 36, seed=0, dtype=torch.float32).reshape(8, 1, 6, 6),
        torch.zeros(8).long(),
    )
    image = Split(images, labels, images, labels)
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    history = train(convolution, image, learning_rate=0.1, epochs=2, record_gradients=True)
    assert history.layer_names == ("0", "3")
    assert (history.gradient_norms > 0).all()

    words = torch.arange(12).reshape(6, 2)
    text = Split(words, torch.zeros(6).long(), words, torch.zeros(6).long())
    embedding = nn.Sequential(nn.Embedding(12, 3), nn.Flatten(), nn.Linear(6, 2))
    history = train(embedding, text, optimizer="adam", learning_rate=0.1, epochs=20)
    assert history.validation_accuracy[-1] == 1


def test_accuracy_counts_every_position_of_a_sequence():
    outputs = nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Linear(3, 3, bias=False)
    )  # (batch, classes, positions)
    nn.init.eye_(outputs[1].weight)
    inputs = torch.tensor([[1.0, 0, 1, 0, 1, 0]])
    data = Split(inputs, torch.zeros(1, 3).long(), inputs, torch.tensor([[0, 1, 1]]))
    assert train(outputs, data, learning_rate=0.0, epochs=1).validation_accuracy[0] == pytest.approx(2 / 3)


def test_frozen_parameters_stay_and_are_not_listed():
    model = small_network()
    model.blocks[0].linear.requires_grad_(False)
    before = model.blocks[0].linear.weight.clone()
    history = train(model, gaussian_data(), learning_rate=0.1, epochs=1, record_gradients=True)
    assert torch.equal(model.blocks[0].linear.weight, before)
    assert history.layer_names == ("blocks.1.linear", "readout")


# Gradient norms


def test_the_first_row_of_gradient_norms_is_the_network_at_initialization():
    model, data = small_network(normalization="batch"), gaussian_data()
    twin = copy.deepcopy(model)
    history = train(model, data, learning_rate=0.5, epochs=3, batch_size=20, record_gradients=True)
    F.cross_entropy(twin(data.train_inputs), data.train_targets).backward()
    layers = [*(block.linear for block in twin.blocks), twin.readout]
    assert history.layer_names == ("blocks.0.linear", "blocks.1.linear", "readout")
    assert history.gradient_norms.shape == (3, 3)
    expected = [layer.weight.grad.norm().item() for layer in layers]
    np.testing.assert_allclose(history.gradient_norms[0], expected, rtol=1e-5)
    assert (abs(history.gradient_norms[2] / history.gradient_norms[0] - 1) > 0.01).all()


def test_recording_gradients_changes_nothing():
    plain, recorded = small_network(), small_network()
    train(plain, gaussian_data(), learning_rate=0.1, epochs=2)
    train(recorded, gaussian_data(), learning_rate=0.1, epochs=2, record_gradients=True)
    assert torch.equal(plain.readout.weight, recorded.readout.weight)


def test_a_gradient_whose_square_underflows_is_not_recorded_as_zero():
    settings = {
        "in_features": 4,
        "out_features": 3,
        "activation": "sigmoid",
        "initialization": "pytorch_default",
    }
    model = DeepMLP(30, 32, **settings)
    history = train(model, gaussian_data(), learning_rate=0.1, epochs=1, record_gradients=True)
    exact, data = DeepMLP(30, 32, dtype=torch.float64, **settings), gaussian_data(dtype=torch.float64)
    F.cross_entropy(exact(data.train_inputs), data.train_targets).backward()
    norm = exact.blocks[0].linear.weight.grad.norm().item()
    assert 0 < norm < 1e-23  # the smallest float32 is 1.4e-45
    np.testing.assert_allclose(history.gradient_norms[0, 0], norm, rtol=1e-3)  # pytest.approx would allow 0


def test_a_weight_without_gradient_is_nan():
    model = small_network()
    model.unused = nn.Linear(3, 3)
    history = train(model, gaussian_data(), learning_rate=0.1, epochs=2, record_gradients=True)
    assert history.layer_names[-1] == "unused"
    assert np.isnan(history.gradient_norms[:, -1]).all()
    assert np.isfinite(history.gradient_norms[:, :-1]).all()


def test_gradients_do_not_add_up_in_parameters_that_the_optimizer_does_not_hold():
    model = small_network()
    optimizer = torch.optim.SGD(model.readout.parameters(), lr=0.0)
    history = train(
        model, gaussian_data(), optimizer=optimizer, epochs=4, batch_size=20, record_gradients=True
    )
    np.testing.assert_allclose(history.gradient_norms, np.tile(history.gradient_norms[0], (4, 1)), rtol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


# How it stops


def test_a_diverging_loss_stops_with_a_sentence(real_digits):
    model = DeepMLP(3, 32, activation="relu", initialization="he_normal")
    history = train(model, real_digits, learning_rate=1e4, epochs=5, record_gradients=True)
    step = len(history.train_loss)
    assert 1 < step < 50
    assert history.stopped in (
        f"Stopped at step {step}: the loss is {value}. Lower the learning rate, or check the initialization."
        for value in ("NaN", "infinite")
    )
    assert np.isfinite(history.train_loss[:-1]).all()
    assert not np.isfinite(history.train_loss[-1])
    assert len(history.gradient_norms) == step
    assert len(history.validation_loss) == 1 + (step - 1) // 22


class Scripted(nn.Module):
    """A model whose loss at each training step is taken from a list."""

    def __init__(self, losses, validation=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.losses, self.validation = list(losses), validation

    def forward(self, inputs):
        return self.weight * (self.losses.pop(0) if self.training else self.validation)


def scripted(losses, **settings):
    model = Scripted(losses, **settings)
    history = train(
        model,
        gaussian_data(),
        loss_fn=lambda outputs, targets: outputs,
        learning_rate=1e-9,
        epochs=3,
        batch_size=10,
    )
    return history, model


def test_the_sentence_says_what_and_when():
    history, model = scripted([1.0, 2.0, 3.0, float("nan"), 5.0, 6.0])
    assert history.stopped == (
        "Stopped at step 4: the loss is NaN. Lower the learning rate, or check the initialization."
    )
    assert len(history.train_loss) == 4
    assert history.epochs.tolist() == [0, 1]
    assert model.weight.isfinite()  # the update with the NaN gradient was not made

    history, _ = scripted([1.0, float("inf")])
    assert history.stopped.startswith("Stopped at step 2: the loss is infinite.")
    history, _ = scripted([float("nan")])
    assert history.stopped == (
        "Stopped at step 1: the loss is NaN. Check the initialization: no update has been made yet."
    )
    history, _ = scripted([1.0, 1.0], validation=float("inf"))
    assert history.stopped == (
        "Stopped at step 2: the validation loss is infinite. "
        "Lower the learning rate, or check the initialization."
    )
    assert scripted([1.0] * 6)[0].stopped is None


# What it leaves as it was


def test_modes_are_left_as_they_were():
    model = small_network(normalization="batch").train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    train(model, gaussian_data(), learning_rate=0.1, epochs=1)
    assert [module.training for module in model.modules()] == before

    def fails_in_training(outputs, targets):
        if torch.is_grad_enabled():
            raise KeyError("mine")
        return F.cross_entropy(outputs, targets)

    state = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        train(model, gaussian_data(), loss_fn=fails_in_training, learning_rate=0.1, epochs=1)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_on_in_training_and_off_in_validation():
    data = gaussian_data()
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    history = train(model, data, learning_rate=0.0, epochs=3, batch_size=20)
    assert len(set(history.train_loss)) == 3  # new units dropped at each step, although nothing is learned
    expected = F.cross_entropy(model[0](data.validation_inputs), data.validation_targets).item()
    np.testing.assert_allclose(history.validation_loss, expected, rtol=1e-6)


def test_the_models_own_draws_follow_the_seed_and_leave_the_global_state():
    def losses(seed):
        model = nn.Sequential(small_network(), nn.Dropout(0.5))
        return train(model, gaussian_data(), learning_rate=0.1, epochs=2, batch_size=20, seed=seed).train_loss

    torch.manual_seed(1)
    first = losses(seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = losses(seed=5), losses(seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_gradients_are_cleared_and_no_grad_outside_does_not_matter():
    model = small_network()
    with torch.no_grad():
        history = train(model, gaussian_data(), learning_rate=0.5, epochs=20)
        assert not torch.is_grad_enabled()
    assert history.train_loss[-1] < 0.8 * history.train_loss[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_results_do_not_depend_on_the_number_of_threads():
    """In float64. Threads change the order of sums; in float32 that grows to percents within two epochs."""
    data, before, histories = digits(dtype=torch.float64), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = DeepMLP(3, 128, activation="relu", normalization="batch", dtype=torch.float64)
            settings = {"optimizer": "adam", "learning_rate": 1e-3, "record_gradients": True}
            histories.append(train(model, data, epochs=2, **settings))
    finally:
        torch.set_num_threads(before)
    one, two = histories
    for name in ("train_loss", "validation_loss", "validation_accuracy", "gradient_norms"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-6)


FOREIGN = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"model": [MODEL]}, TypeError, "model must be an nn.Module, got list."),
        (
            {"data": (1, 2)},
            TypeError,
            "data must be a Split, such as data.digits() returns, got tuple.",
        ),
        ({"loss_fn": "mse"}, TypeError, "loss_fn must be a function of (outputs, targets), got 'mse'."),
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0."),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer of at least 1, got 1.5."),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0."),
        ({"l1": -0.1}, ValueError, "l1 must be a finite number of at least 0, got -0.1."),
        ({"l2": "0"}, TypeError, "l2 must be a finite number of at least 0, got '0'."),
        ({"seed": -3}, ValueError, "seed must be an integer from 0 to 2**32 - 1, got -3."),
        ({"record_gradients": 1}, TypeError, "record_gradients must be True or False, got 1."),
        ({"progress": None}, TypeError, "progress must be True or False, got None."),
        (
            {"optimizer": "adagrad"},
            ValueError,
            "optimizer must be one of sgd, momentum, rmsprop, adam; got 'adagrad'.",
        ),
        (
            {"learning_rate": None},
            ValueError,
            "learning_rate must be a number with the optimizer 'sgd', got None.",
        ),
        (
            {"learning_rate": -0.1},
            ValueError,
            "learning_rate must be a finite number of at least 0, got -0.1.",
        ),
        (
            {"learning_rate": "0.1"},
            TypeError,
            "learning_rate must be a finite number of at least 0, got '0.1'.",
        ),
        (
            {"optimizer": torch.optim.SGD(MODEL.parameters(), lr=0.1)},
            ValueError,
            "learning_rate must be left out with an optimizer, which brings its own, got 0.1.",
        ),
        (
            {"optimizer": FOREIGN, "learning_rate": None},
            ValueError,
            "optimizer must hold parameters of this model, got one that holds only others.",
        ),
        (
            {"optimizer": lambda parameters, lr: None},
            TypeError,
            "optimizer must make a torch.optim.Optimizer, got NoneType.",
        ),
        (
            {"optimizer": torch.optim.LBFGS},
            ValueError,
            "optimizer must take one gradient per step; LBFGS evaluates the loss several times.",
        ),
        (
            {"model": nn.Flatten()},
            ValueError,
            "model must have a parameter that requires a gradient, got nothing to train.",
        ),
        (
            {"loss_fn": partial(F.cross_entropy, reduction="none")},
            TypeError,
            "loss_fn must return one number as a tensor of shape (), got shape (10,).",
        ),
        (
            {"loss_fn": lambda outputs, targets: 1.0},
            TypeError,
            "loss_fn must return one number as a tensor of shape (), got float.",
        ),
        (
            {"loss_fn": lambda outputs, targets: outputs.detach().sum()},
            ValueError,
            "The loss must depend on the model's parameters through torch operations, got one that does not.",
        ),
        (
            {"data": gaussian_data(width=5)},
            ValueError,
            "inputs must have shape (batch, 4) with batch >= 1, got (10, 5).",
        ),
        (
            {"data": gaussian_data(dtype=torch.float64)},
            TypeError,
            "inputs must have the network's dtype torch.float32, got torch.float64.",
        ),
        (
            {"model": nn.Linear(5, 3)},
            ValueError,
            "The model and loss_fn do not fit inputs (10, 4) of torch.float32 "
            "and targets (10,) of torch.int64: mat1 and mat2 shapes cannot be multiplied (10x4 and 5x3)",
        ),
        (
            {"model": nn.Linear(4, 2)},
            ValueError,
            "The model and loss_fn do not fit inputs (10, 4) of torch.float32 "
            "and targets (10,) of torch.int64: Target 2 is out of bounds.",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(arguments, error, sentence):
    settings = {"model": MODEL, "data": gaussian_data(), "learning_rate": 0.1, "epochs": 1} | arguments
    with pytest.raises(error) as caught:
        train(settings.pop("model"), settings.pop("data"), **settings)
    assert str(caught.value) == sentence
