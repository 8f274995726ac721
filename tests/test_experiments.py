"""The computations behind the explorers, as plain functions: against theory, autograd and torch.optim."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import data, networks, theory
from gradients_in_depth.experiments import (
    attention,
    dead_units,
    layers,
    normalization,
    optimizers,
    phases,
    products,
    recurrent,
    residual,
)


def linear(weight: torch.Tensor) -> nn.Linear:
    """h @ weight as a layer of torch."""
    layer = nn.Linear(*weight.shape, bias=False, dtype=weight.dtype)
    layer.weight.data = weight.T
    return layer


def kept_gradients(modules, inputs, output_gradient) -> tuple[list, list]:
    """Outputs of the modules and the gradients that torch keeps for them, of the inputs first."""
    stream = [inputs.clone().requires_grad_()]
    for module in modules:
        stream.append(module(stream[-1]))
        stream[-1].retain_grad()
    (stream[-1] * output_gradient).sum().backward()
    return [h.detach() for h in stream], [h.grad for h in stream]


# --- Layers ------------------------------------------------------------------------------------------------


def test_gaussian_matrices_are_the_numbers_of_gaussian_batch():
    matrices = layers.gaussian_matrices(3, 4, seed=5)
    assert matrices.shape == (3, 4, 4) and matrices.dtype == torch.float64
    torch.testing.assert_close(matrices.reshape(12, 4), data.gaussian_batch(12, 4, seed=5))


@torch.no_grad()  # as a caller may have it
def test_forward_backward_finds_the_gradients_that_torch_keeps():
    blocks = networks.DeepMLP(4, 6, in_features=6, dtype=torch.float64).blocks
    inputs, arriving = data.gaussian_batch(5, 6, seed=1), data.gaussian_batch(5, 6, seed=2)
    weights = [block.linear.weight for block in blocks]
    outputs, gradients = layers.forward_backward(blocks, inputs, arriving, weights)
    with torch.enable_grad():
        stream, expected = kept_gradients(blocks, inputs, arriving)
    torch.testing.assert_close(outputs, stream[1:])
    torch.testing.assert_close(list(gradients), expected[1:] + [weight.grad for weight in weights])
    assert not any(output.requires_grad for output in outputs)


# --- Products of matrices ----------------------------------------------------------------------------------


def test_singular_values_are_those_of_the_products():
    matrices = products.random_matrices("Gaussian", count=3, width=4, seeds=2)
    largest, smallest = products.extreme_singular_values(matrices)
    assert largest.shape == smallest.shape == (2, 3)
    for chain, (one, two, three) in enumerate(matrices):
        for k, product in enumerate((one, two @ one, three @ two @ one)):
            values = torch.linalg.svdvals(product)
            assert largest[chain, k] == pytest.approx(values[0].item())
            assert smallest[chain, k] == pytest.approx(values[-1].item())


def test_the_smallest_singular_value_is_not_lost_in_rounding():
    matrices = products.random_matrices("Gaussian", count=100, width=2, seeds=4)
    largest, smallest = products.extreme_singular_values(matrices)
    log_determinants = torch.linalg.slogdet(matrices).logabsdet.cumsum(dim=1).numpy()
    assert (smallest[:, -1] / largest[:, -1]).min() < 1e-20
    np.testing.assert_allclose(np.log(largest) + np.log(smallest), log_determinants, atol=1e-8)


@pytest.mark.parametrize("width", [2, 4, 32])
def test_random_matrices_grow_by_their_lyapunov_exponents(width):
    matrices = products.random_matrices("Gaussian", count=100, width=width, seeds=16)
    rates = theory.lyapunov_exponents(width, width**-0.5)[[0, -1]]
    for values, expected in zip(products.extreme_singular_values(matrices), rates, strict=True):
        # The log of a stretch has a variance of at most 1.23 (width 1), and this is a median of 16 seeds.
        error = np.log(np.median(values[:, -1])) - 100 * expected
        assert abs(error) < 3 * np.sqrt(100 * 1.23 * 1.57 / 16)


def test_orthogonal_matrices_keep_every_length():
    matrices = products.random_matrices("orthogonal", count=20, width=8, seeds=2)
    for values in products.extreme_singular_values(matrices):
        np.testing.assert_allclose(values, 1)


# --- Order and chaos ---------------------------------------------------------------------------------------


def test_pairs_have_exactly_their_correlations():
    inputs = phases.correlated_pairs((0.0, 0.9), pairs=3, width=16, seed=2)
    assert inputs.shape == (2, 3, 2, 16)
    torch.testing.assert_close(inputs.square().mean(-1), torch.ones(2, 3, 2, dtype=torch.float64))
    cosines = F.cosine_similarity(*inputs.unbind(2), dim=-1)
    torch.testing.assert_close(cosines, torch.tensor([[0.0] * 3, [0.9] * 3], dtype=torch.float64))


def test_pair_statistics_are_those_of_a_plain_tanh_network():
    weights, biases = layers.gaussian_matrices(3, 16, seed=0) / 4, data.gaussian_batch(3, 16, seed=1)
    inputs = phases.correlated_pairs((0.0, 0.9), pairs=2, width=16, seed=2)
    squares, correlations = phases.pair_statistics(weights, biases, inputs, 1.5, 0.3)
    assert correlations.shape == (2, 2, 3)
    hidden = inputs
    for k in range(3):
        z = 1.5 * hidden @ weights[k] + 0.3 * biases[k]
        assert squares[k] == pytest.approx(z.square().mean().item())
        one, other = z.unbind(2)
        np.testing.assert_allclose(correlations[..., k], F.cosine_similarity(one, other, dim=-1))
        hidden = torch.tanh(z)


@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(0.5, 0.0), (1.0, 0.4), (1.5, 0.1), (2.5, 0.3), (3.0, 1.0)])
def test_the_tables_of_tanh_are_theory(sigma_w, sigma_b):
    first = sigma_w**2 + sigma_b**2
    q, c = phases.tanh_trajectory(50, sigma_w, sigma_b, (0.0, 0.9))
    expected = theory.variance_trajectory(50, "tanh", sigma_w**2, sigma_b**2, first)
    np.testing.assert_allclose(q, expected, rtol=1e-3)
    for start, correlations in zip((0.0, 0.9), c, strict=True):
        cosine = (sigma_w**2 * start + sigma_b**2) / first
        expected = theory.correlation_trajectory(50, "tanh", sigma_w**2, sigma_b**2, first, cosine)
        np.testing.assert_allclose(correlations, expected, atol=2e-3)


@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(1.0, 0.4), (1.5, 0.1), (2.5, 0.3)])
def test_wide_tanh_networks_follow_the_theory(sigma_w, sigma_b):
    weights, biases = (
        layers.gaussian_matrices(50, 128, seed=0) / 128**0.5,
        data.gaussian_batch(50, 128, seed=1),
    )
    inputs = phases.correlated_pairs((0.0, 0.9), pairs=8, width=128, seed=2)
    squares, correlations = phases.pair_statistics(weights, biases, inputs, sigma_w, sigma_b)
    q, c = phases.tanh_trajectory(50, sigma_w, sigma_b, (0.0, 0.9))
    # The mean of 128 squares, over inputs of one network: sqrt(2 / 128) = 0.125 if all inputs were alike.
    assert np.abs(squares / q - 1).mean() < 0.125
    # A correlation of 128 units is known to 1 / sqrt(128) = 0.09; in chaos the errors of layers add up.
    assert (np.abs(np.median(correlations, axis=1) - c).mean(axis=1) < 0.2).all()


def test_on_the_critical_line_gradients_keep_their_size():
    sigma_b, sigma_w = phases.critical_line()
    assert sigma_b[0] == 0 and sigma_b[-1] == 1 and sigma_w[0] == pytest.approx(1)
    for b, w in [(sigma_b[10], sigma_w[10]), (sigma_b[-1], sigma_w[-1])]:
        q = theory.fixed_point("tanh", w**2, b**2)
        assert theory.chi(q, "tanh", w**2) == pytest.approx(1, abs=1e-3)


# --- Dead units --------------------------------------------------------------------------------------------


def network_of(start: dead_units.Start, leak: float, bias: float) -> nn.Sequential:
    """The network of `dead_units` at the start, in the words of torch."""
    modules = []
    for k in range(3):
        weight, offset = start.parameters[2 * k : 2 * k + 2]
        module = nn.Linear(weight.shape[1], weight.shape[0])
        module.weight.data, module.bias.data = weight.clone(), offset + (bias if k < 2 else 0.0)
        modules += [module, nn.LeakyReLU(leak)]
    return nn.Sequential(*modules[:-1])


def test_the_digits_start_with_he_weights_and_whole_batches():
    start = dead_units.prepare(seed=2)
    order = torch.randperm(1347, generator=torch.Generator().manual_seed(2))
    assert len(start.batches) == 17 and start.batches[0][0].shape == (75, 64)
    labels = torch.cat([labels for _, labels in start.batches])
    torch.testing.assert_close(labels, data.digits().train_targets[order[:1275]])
    torch.testing.assert_close(start.batches[3][0], start.images[order[225:300]])
    assert start.parameters[0].std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert not any(offset.any() for offset in start.parameters[1::2])


@pytest.mark.parametrize(("first_step", "leak", "bias"), [(10, 0.0, 0.0), (5, 0.1, 0.0), (0.2, 0.0, -3.0)])
def test_units_die_as_under_the_optimizer_of_torch(first_step, leak, bias):
    start = dead_units.prepare(seed=2)
    units, model = dead_units.train(start, first_step, leak, bias), network_of(start, leak, bias)
    assert all(offset.eq(0).all() for offset in start.parameters[1::2])  # left as it was

    def second_layer() -> torch.Tensor:
        with torch.no_grad():
            return model[:3](start.images)

    seen = [second_layer()]
    for step in range(21):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2 if step else first_step)
        optimizer.zero_grad()
        images, labels = start.batches[step % 17]
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if step in (0, 20):
            seen.append(second_layer())
    expected = np.stack([(z > 0).float().mean(dim=0) for z in seen])
    np.testing.assert_allclose(units.on, expected, atol=2 / 1347)  # two images may round to the other side
    np.testing.assert_array_equal(units.on == 0, expected == 0)
    killed = (expected[1] == 0) & (expected[0] > 0)
    fall = (seen[0] - seen[1]).mean(dim=0)[killed].mean().item() if killed.any() else 0.0
    assert units.fall == pytest.approx(fall, rel=1e-4)
    assert units.spread == pytest.approx(seen[0].std(dim=0).mean().item(), rel=1e-5)
    assert units.loss == pytest.approx(loss.item(), rel=1e-3)


def test_a_step_that_explodes_switches_nothing_off():
    units = dead_units.train(dead_units.prepare(seed=2), 1e30, 0.0, 0.0)
    assert not np.isfinite(units.loss) and (units.on[2] == 1).all()  # z is NaN, which is not 0


# --- Normalization -----------------------------------------------------------------------------------------

NORMS = {
    "none": nn.Identity(),
    "batch": nn.BatchNorm1d(8, affine=False, dtype=torch.float64),
    "layer": nn.LayerNorm(8, dtype=torch.float64),
    "rms": nn.RMSNorm(8, eps=1e-5, dtype=torch.float64),
}


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("norm", NORMS)
def test_normalized_layers_are_those_of_torch(norm, activation):
    weights = layers.gaussian_matrices(3, 8, seed=0) / 8**0.5
    inputs, arriving = data.gaussian_batch(5, 8, seed=1), data.gaussian_batch(5, 8, seed=2)
    norms, cosines = normalization.normalized_flow(weights.unbind(), inputs, arriving, norm, activation)
    phi = theory.activation_module(activation)
    blocks = [networks.Block(linear(weight), phi, NORMS[norm]) for weight in weights]
    hidden, gradients = kept_gradients(blocks, inputs, arriving)
    expected = np.array([gradient.norm().item() for gradient in gradients[1:]])
    np.testing.assert_allclose(norms, expected / expected[-1])
    for h, cosine in zip(hidden[1:], cosines, strict=True):
        pairs = F.cosine_similarity(h[:, None], h[None], dim=-1)
        assert cosine == pytest.approx(pairs[~torch.eye(5, dtype=torch.bool)].mean().item())


@pytest.mark.parametrize(
    ("norm", "activation", "batch"),
    [
        ("batch", "relu", 64),
        ("batch", "relu", 8),
        ("batch", "sigmoid", 32),
        ("layer", "sigmoid", 32),
        ("layer", "relu", 64),
        ("rms", "tanh", 16),
        ("none", "sigmoid", 64),
    ],
)
def test_normalized_networks_follow_the_theory(norm, activation, batch):
    weights = normalization.GAINS[activation] * layers.gaussian_matrices(50, 64, seed=0) / 8
    inputs, arriving = data.gaussian_batch(batch, 64, seed=1), data.gaussian_batch(batch, 64, seed=2)
    norms, _ = normalization.normalized_flow(weights.unbind(), inputs, arriving, norm, activation)
    expected = normalization.expected_gradients(50, norm, activation, batch)
    # One network of width 64: the log wanders by sqrt(5 * 50 / 4 / 64) = 1 at most, 0.02 per layer; BatchNorm
    # needs some ten layers from either end to settle.
    assert (norms[0] / expected[-1]) ** (1 / 49) == pytest.approx(1, rel=0.06)


def test_expected_gradients_count_layers_back():
    growth = theory.batch_norm_growth("relu", 8)
    np.testing.assert_allclose(
        normalization.expected_gradients(3, "batch", "relu", 8) ** 2, growth ** np.arange(3)
    )
    growth = theory.layer_norm_growth("tanh")
    np.testing.assert_allclose(
        normalization.expected_gradients(3, "rms", "tanh", 8) ** 2, growth ** np.arange(3)
    )
    law = theory.gradient_norm_trajectory(4, "relu", 2.0, first=2.0)
    np.testing.assert_allclose(normalization.expected_gradients(4, "none", "relu", None), law[::-1])
    assert np.isnan(normalization.expected_gradients(4, "batch", "relu", 3)).all()


# --- Residual networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "rms", "batch"])
def test_residual_blocks_are_those_of_networks(name):
    weights = layers.gaussian_matrices(4, 8, seed=0) / 2
    inputs, arriving = data.gaussian_batch(5, 8, seed=1), data.gaussian_batch(5, 8, seed=2)
    signal, gradient = residual.stream_flow(weights.unbind(), inputs, arriving, 0.7, name)
    norm = {"none": None, "rms": nn.RMSNorm(8, dtype=torch.float64), "batch": NORMS["batch"]}[name]
    options = {"skip": True, "branch_scale": 0.7, "pre_activation": True}
    blocks = [networks.Block(linear(weight), nn.ReLU(), norm, **options) for weight in weights]
    stream, gradients = kept_gradients(blocks, inputs, arriving)
    np.testing.assert_allclose(signal, [h.square().mean().item() for h in stream])
    squares = np.array([g.square().mean().item() for g in gradients])
    np.testing.assert_allclose(gradient, squares / squares[-1])


@pytest.mark.parametrize("name", ["none", "rms", "batch"])
@pytest.mark.parametrize("branch_scale", [0.0, 0.2, 1.0])
def test_residual_streams_follow_the_theory(name, branch_scale):
    weights = layers.gaussian_matrices(40, 128, seed=0) / 8
    inputs, arriving = data.gaussian_batch(32, 128, seed=1), data.gaussian_batch(32, 128, seed=2)
    inputs = inputs / inputs.square().mean().sqrt()
    signal, gradient = residual.stream_flow(weights.unbind(), inputs, arriving, branch_scale, name)
    flow = theory.residual_flow(40, branch_scale, normalization=None if name == "none" else name)
    # The log of a squared norm has a deviation of sqrt(5 depth / width) = 1.25 in a plain network, if all
    # examples go the same way; paths through half of the branches leave about one, and small branches none.
    assert abs(np.log(signal[-1] / flow.second_moments[-1])) < 1.25
    assert abs(np.log(gradient[0] / flow.gradient_norms[0] ** 2)) < 1.25
    if branch_scale == 0:
        np.testing.assert_allclose([signal, gradient], 1)


# --- Recurrent networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "length"), [(0.6, 30), (1.2, 40), (2.0, 13)])
def test_gradients_through_time_are_those_of_one_copy_of_the_weights_for_each_step(radius, length):
    weight = data.gaussian_batch(16, 16, seed=0)
    weight = radius * weight / torch.linalg.eigvals(weight).abs().max()
    inputs = data.gaussian_batch(length * 4, 16, seed=1).reshape(length, 4, 16) / 10
    target = data.gaussian_batch(4, 16, seed=2)
    gradient = recurrent.gradient_through_time(weight, inputs, target)
    uses = [weight.clone().requires_grad_() for _ in range(length)]
    states = [torch.zeros(4, 16, dtype=torch.float64, requires_grad=True)]
    for use, x in zip(uses, inputs, strict=True):
        states.append(torch.tanh(states[-1] @ use.T + x))
    loss = (states[-1] - target).square().sum(dim=1).mean() / 2
    expected = torch.autograd.grad(loss, [*states[::-1], *uses[::-1]])
    by_state, parts = expected[: length + 1], torch.stack(expected[length + 1 :])
    np.testing.assert_allclose(gradient.by_state, [g.norm().item() for g in by_state])
    np.testing.assert_allclose(gradient.parts, parts.flatten(1).norm(dim=1), atol=1e-300)
    assert gradient.total == pytest.approx(parts.sum(0).norm().item())
    early = parts[(length + 1) // 2 :].sum(0).norm() / parts.sum(0).norm()
    assert gradient.early == pytest.approx(early.item())
    bound = theory.recurrent_gradient_bound(np.arange(length + 1), torch.linalg.matrix_norm(weight, 2).item())
    assert (gradient.by_state / gradient.by_state[0] <= bound * (1 + 1e-9)).all()


# --- Transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("placement", ["pre", "post", None])
def test_token_flow_measures_the_network_of_networks(placement, skip):
    blocks = attention.random_blocks(3, 16, placement, skip)
    inputs = data.gaussian_batch(4 * 8, 16, seed=101).reshape(4, 8, 16)
    arriving = data.gaussian_batch(4 * 8, 16, seed=102).reshape(4, 8, 16)
    flow = attention.token_flow(blocks, inputs, arriving)
    model = networks.Transformer(3, 16, norm_placement=placement, skip=skip, dtype=torch.float64)
    stream, gradients = kept_gradients(model.blocks, inputs, arriving)
    query = [block.attention.query.weight.grad.norm().item() for block in model.blocks]
    np.testing.assert_allclose(flow.stream_gradient, [g.norm().item() for g in gradients[1:]])
    np.testing.assert_allclose(flow.query_gradient, query)
    apart = [(h - h.mean(dim=1, keepdim=True)).square().sum() / h.square().sum() for h in stream[1:]]
    np.testing.assert_allclose(flow.difference**2, apart)


# --- Optimizers --------------------------------------------------------------------------------------------

TORCH = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


@pytest.mark.parametrize("name", optimizers.RULES)
def test_the_rules_are_those_of_torch(name):
    weights = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    stepper, averages = TORCH[name]([weights], lr=0.3), (np.zeros(5), np.zeros(5))
    scales = 10.0 ** -np.arange(0, 15, 3)  # down to the eps of RMSProp and Adam
    for step, draw in enumerate(data.gaussian_batch(30, 5, seed=0).numpy() * scales, 1):
        update, averages = optimizers.RULES[name](draw, averages, step, 0.3)
        weights.data.zero_()  # so that the update itself can be read, whatever its size
        weights.grad = torch.from_numpy(draw.copy())
        stepper.step()
        np.testing.assert_allclose(update, -weights.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", optimizers.RULES)
def test_a_product_of_weights_learns_as_under_torch(name):
    noise = 1e-2 * data.gaussian_batch(400, 6, seed=0)
    run = optimizers.descend(name, 0.01, noise.numpy())
    weights = nn.Parameter(torch.full((6,), 0.5, dtype=torch.float64))
    stepper = TORCH[name]([weights], lr=0.01)
    for step in range(401):
        loss = (weights.prod() - 1).square() / 2
        assert run.loss[step] == pytest.approx(loss.item(), rel=1e-6)
        if step < 400:
            stepper.zero_grad()
            loss.backward()
            weights.grad += noise[step]
            before = weights.detach().clone()
            stepper.step()
            assert run.gradient[step] == pytest.approx(weights.grad.abs().mean().item(), rel=1e-6)
            assert run.update[step] == pytest.approx((weights - before).abs().mean().item(), rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_after_an_explosion_there_are_no_numbers():
    run = optimizers.descend("sgd", 100.0, np.zeros((400, 10)))
    last = int(np.flatnonzero(~np.isnan(run.loss))[-1])
    assert run.loss[last] >= optimizers.EXPLODED and last < 400
    assert np.isnan(run.loss[last + 1 :]).all() and np.isnan(run.update[last:]).all()
    assert np.isfinite(run.update[:last]).all()
