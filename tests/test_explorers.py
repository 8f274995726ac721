"""The lessons' explorers: they draw what `experiments` computes, and say what they draw."""

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gradients_in_depth import data, explorers, networks, theory
from gradients_in_depth.experiments import (
    attention,
    dead_units,
    layers,
    normalization,
    optimizers,
    phases,
    recurrent,
    residual,
)


def drawn(ax) -> list[np.ndarray]:
    """What the lines on `ax` are drawn through."""
    return [np.asarray(line.get_ydata()) for line in ax.lines]


def extremes(explorer):
    """Every combination of the ends of all controls."""
    names = list(explorer.controls)
    ends = []
    for control in explorer.controls.values():
        slider = isinstance(control, explorers.Slider)
        ends.append(
            [control.values[0], control.values[-1]] if slider else [value for _, value in control.options]
        )
    for combination in np.array(np.meshgrid(*[range(len(end)) for end in ends])).reshape(len(ends), -1).T:
        yield {name: end[k] for name, end, k in zip(names, ends, combination, strict=True)}


def dashboard() -> explorers.Explorer:
    digits = data.digits(dtype=torch.float64)
    factories = {
        "sigmoid": lambda depth: networks.DeepMLP(depth, 16, activation="sigmoid", dtype=torch.float64),
        "too large": lambda depth: networks.DeepMLP(
            depth, 16, activation="relu", gain=1e4, dtype=torch.float64
        ),
    }
    return explorers.dashboard(
        factories, digits.train_inputs[:16], digits.train_targets[:16], F.cross_entropy, networks.Block
    )


@pytest.mark.parametrize(
    "make",
    [
        explorers.chain,
        explorers.matrix_chain,
        explorers.deep_network,
        lambda: explorers.deep_network(("relu", "selu", "gelu")),
        explorers.dying_units,
        explorers.guessing,
        dashboard,
        explorers.phase_diagram,
        explorers.normalized_network,
        explorers.residual_stream,
        explorers.transformer_depth,
        explorers.recurrence,
        explorers.optimizer_chain,
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_corner_of_every_explorer_draws_and_speaks(make):
    explorer = make()
    said = set()
    for values in extremes(explorer):
        explorer.set(**values)
        said.add(explorer.sentence)
        assert "nan" not in explorer.sentence.lower() and "nan" not in explorer.to_html()
        digits = re.findall(r"(?<![\w.])\d+\.?\d*(?:e[+-]?\d+)?", explorer.sentence)
        assert all(len(re.sub(r"e.*|\.|^0+", "", d.replace(".", "").lstrip("0"))) <= 3 for d in digits), (
            digits
        )
    assert len(said) == len(list(extremes(explorer)))


@pytest.mark.parametrize(
    ("activation", "gain"), [("sigmoid", 1.0), ("sigmoid", 10.0), ("tanh", 1.0), ("tanh", 1.5)]
)
def test_deep_network_measures_what_theory_says(activation, gain):
    # One draw of width 128: the log of the norm wanders by about sqrt(depth / width) (laws.md, finite width).
    explorer = explorers.deep_network().set(activation=activation, gain=gain, depth=20)
    said = float(re.search(r"a factor (\S+) per layer", explorer.sentence).group(1))
    expected = theory.gradient_norm_trajectory(20, activation, explorer.values["gain"] ** 2, first=gain**2)[0]
    assert abs(np.log(said) * 19 - np.log(expected)) < 3 * np.sqrt(20 / 128)


def test_deep_network_says_how_many_units_are_saturated():
    explorer = explorers.deep_network(("sigmoid", "relu")).set(gain=10.4, depth=40)
    gain = explorer.values["gain"]
    expected = theory.saturated_share(theory.fixed_point("sigmoid", gain**2), "sigmoid")
    said = float(re.search(r"saturates (\d+)% of the units", explorer.sentence).group(1))
    assert abs(said - 100 * expected) < 3
    explorer.set(activation="relu")
    assert "saturates" not in explorer.sentence


def test_dying_units_says_what_became_of_the_units():
    explorer = explorers.dying_units().set(first_step=10, leak=0.01, bias=-0.5)
    units = dead_units.train(dead_units.prepare(seed=2), 10, 0.01, -0.5)
    for line, shares in zip(drawn(explorer.figure.axes[0]), units.on, strict=True):
        np.testing.assert_allclose(line, np.sort(shares))
    counts = re.search(
        r"layer 2, (\d+) are .* start, (\d+) after the first step, (\d+) after 20", explorer.sentence
    )
    assert [int(count) for count in counts.groups()] == (units.on == 0).sum(axis=1).tolist()
    assert f"lowered the z of those it switched off by {units.fall:.2g} on average" in explorer.sentence
    assert f"differs by only {units.spread:.2g}." in explorer.sentence
    assert f"The loss is {units.loss:.2g};" in explorer.sentence


def test_dying_units_says_that_the_training_has_exploded(monkeypatch):
    explorer = explorers.dying_units()
    broken = dead_units.Units(np.ones((3, 32)), 0.0, 1.0, float("nan"))
    monkeypatch.setattr(dead_units, "train", lambda *_: broken)
    assert "exploded: its loss is not a number any more." in explorer.set(first_step=10).sentence


def test_dying_units_die_of_a_large_step_and_of_a_negative_bias_and_a_leak_helps():
    explorer = explorers.dying_units()
    assert "0 are dead at the start, 0 after the first step, 0 after 20 more. The loss" in explorer.sentence
    assert "That step lowered the z of those it switched off by" in explorer.set(first_step=10).sentence
    assert "0 after the first step, 0 after" in explorer.set(leak=0.3).sentence
    explorer.reset()
    assert "They start below 0 for every image. The loss is 2.3" in explorer.set(bias=-3).sentence
    assert "they still get a gradient" in explorer.set(leak=0.1).sentence


def test_chain_finds_where_a_format_gives_up():
    explorer = explorers.chain().set(factor=0.25, depth=100, number_format="float16")
    assert f"0 from factor {theory.first_zero(0.25, 'float16')} on" in explorer.sentence


def test_chain_says_when_a_product_is_stuck_among_subnormals():
    explorer = explorers.chain().set(factor=0.8, depth=100, number_format="float16")
    assert "stuck at 1.19e-07 from factor 71 on" in explorer.sentence
    explorer.set(number_format="bfloat16")
    assert "14% off" in explorer.sentence
    explorer.set(number_format="float32")
    assert "within 1 %" in explorer.sentence


@pytest.mark.parametrize("gain", [0.8, 1.3])
def test_matrix_chain_scales_what_it_measures_and_the_theory(gain):
    one, other = (explorers.matrix_chain().set(width=4, gain=g).figure.axes for g in (1.0, gain))
    powers = gain ** np.arange(1, 101)
    for before, after, rate in zip(
        one, other, theory.lyapunov_exponents(4, 0.5 * gain)[[0, -1]], strict=True
    ):
        np.testing.assert_allclose(drawn(after)[0], drawn(before)[0] * powers)
        np.testing.assert_allclose(drawn(after)[1], np.exp(rate * np.arange(1, 101)))


def test_orthogonal_matrices_keep_every_singular_value():
    explorer = explorers.matrix_chain().set(kind="orthogonal", gain=1.0, width=8)
    assert "a condition number of 1 " in explorer.sentence


def test_guessing_knows_the_loss_of_a_guess():
    explorer = explorers.guessing().set(classes=10, probability=0.1)
    assert "a loss of -ln 0.1 = 2.3, the same as guessing" in explorer.sentence
    assert "better than guessing" in explorer.set(probability=0.11).sentence
    assert "worse than guessing" in explorer.set(classes=2).sentence


@pytest.mark.filterwarnings("error")
def test_a_dashboard_of_dead_units_says_what_is_exactly_zero():
    def dead(depth: int) -> networks.DeepMLP:
        model = networks.DeepMLP(depth, 8, activation="relu", dtype=torch.float64)
        with torch.no_grad():
            model.blocks[-1].linear.bias.fill_(-1e6)
        return model

    digits = data.digits(dtype=torch.float64)
    inputs, targets = digits.train_inputs[:16], digits.train_targets[:16]
    explorer = explorers.dashboard({"dead": dead}, inputs, targets, F.cross_entropy, networks.Block)
    explorer.set(depth=4)
    assert "Gradient norm: 0 in layer 1" in explorer.sentence
    assert "cosine of two inputs: unknown, for every output is 0" in explorer.sentence
    assert "gradient exactly 0 in 3 of 4 layers" in explorer.to_html()
    assert "every singular value is exactly 0" in explorer.to_html()


@pytest.mark.filterwarnings("error")
def test_a_dashboard_without_any_gradient_is_drawn():
    def detached(depth: int) -> networks.DeepMLP:
        model = networks.DeepMLP(depth, 8, dtype=torch.float64)
        with torch.no_grad():
            model.readout.weight.zero_()
        return model

    digits = data.digits(dtype=torch.float64)
    inputs, targets = digits.train_inputs[:16], digits.train_targets[:16]
    explorer = explorers.dashboard({"none": detached}, inputs, targets, F.cross_entropy, networks.Block)
    assert "float16 turns 0% of the gradient to 0" in explorer.sentence


@pytest.mark.parametrize(
    ("sigma_w", "sigma_b", "phase"), [(1.0, 0.4, "ordered"), (1.5, 0.1, "chaotic"), (2.5, 0.3, "chaotic")]
)
def test_phase_diagram_says_what_theory_says_and_measures_it(sigma_w, sigma_b, phase):
    explorer = explorers.phase_diagram().set(sigma_w=sigma_w, sigma_b=sigma_b)
    scales = theory.depth_scales("tanh", sigma_w**2, sigma_b**2)
    assert f": {phase}. χ = {scales.chi:.3g}:" in explorer.sentence
    assert f"6 ξ_c = {6 * scales.correlation:.0f} layers" in explorer.sentence
    plane, scale, two = explorer.figure.axes
    assert plane.lines[0].get_xydata().tolist() == [[sigma_w, sigma_b]]
    weights = layers.gaussian_matrices(50, 128, seed=0) / 128**0.5
    inputs = phases.correlated_pairs((0.0, 0.9), pairs=8, width=128, seed=2)
    biases = data.gaussian_batch(50, 128, seed=1)
    squares, correlations = phases.pair_statistics(weights, biases, inputs, sigma_w, sigma_b)
    q, c = phases.tanh_trajectory(50, sigma_w, sigma_b, (0.0, 0.9))
    np.testing.assert_allclose(drawn(scale), [squares, q])
    first, second = np.median(correlations, axis=1)
    np.testing.assert_allclose(drawn(two), [first, c[0], second, c[1]])


def test_phase_diagram_knows_the_edge_and_the_axis():
    explorer = explorers.phase_diagram().set(sigma_w=1.0, sigma_b=0.0)
    assert "at the edge of chaos. χ = 1:" in explorer.sentence and "no bound" in explorer.sentence
    explorer.set(sigma_w=0.8)
    assert "the signal itself dies, by e every 2.2 layers: trainable to about 13 layers" in explorer.sentence


@pytest.mark.parametrize(
    ("norm", "activation", "batch"), [("batch", "relu", 8), ("rms", "tanh", 16), ("none", "sigmoid", 64)]
)
def test_normalized_network_says_what_theory_says_and_measures_it(norm, activation, batch):
    explorer = explorers.normalized_network().set(depth=20, norm=norm, activation=activation, batch=batch)
    weights = normalization.GAINS[activation] * layers.gaussian_matrices(50, 64, seed=0)[:20] / 8
    inputs, arriving = (data.gaussian_batch(64, 64, seed)[:batch] for seed in (1, 2))
    norms, cosines = normalization.normalized_flow(weights.unbind(), inputs, arriving, norm, activation)
    law = normalization.expected_gradients(50, norm, activation, batch)[:20][::-1]  # the last 20 of 50 layers
    left, right = explorer.figure.axes
    np.testing.assert_allclose(drawn(left), [norms, law])
    np.testing.assert_allclose(drawn(right), [cosines])
    factors = [values[0] ** (1 / 19) for values in (norms, law)]
    assert "a factor {:.3g} per layer (theory {:.3g})".format(*factors) in explorer.sentence
    assert f"The cosine of two inputs ends at {cosines[-1]:.2g}." in explorer.sentence


def test_normalized_network_loses_its_gradient_in_a_batch_of_two():
    explorer = explorers.normalized_network().set(batch=2, depth=20)
    assert "It vanishes." in explorer.sentence and "batch of two" in explorer.sentence
    assert "theory" not in explorer.sentence
    assert "It explodes." in explorer.set(batch=4).sentence
    assert "It arrives. The cosine of two inputs ends at 0.9" in explorer.set(norm="layer", batch=64).sentence


@pytest.mark.parametrize("name", ["none", "rms", "batch"])
def test_residual_stream_says_what_theory_says_and_measures_it(name):
    explorer = explorers.residual_stream().set(depth=40, branch_scale=0.2, normalization=name)
    flow = theory.residual_flow(40, 0.2, normalization=None if name == "none" else name)
    weights = layers.gaussian_matrices(60, 128, seed=0)[:40] * (2 / 128) ** 0.5
    inputs, arriving = data.gaussian_batch(32, 128, seed=1), data.gaussian_batch(32, 128, seed=2)
    inputs = inputs / inputs.square().mean().sqrt()
    signal, gradient = residual.stream_flow(weights.unbind(), inputs, arriving, 0.2, name)
    scale, paths = explorer.figure.axes
    np.testing.assert_allclose(drawn(scale), [signal, gradient, flow.second_moments, flow.gradient_norms**2])
    np.testing.assert_allclose(drawn(paths)[0], theory.path_length_weights(flow.branch_factors))
    numbers = re.findall(r"(?:ends at|theory|is|passes) (\d\S*?)[) ]", explorer.sentence)
    mean = sum(f / (1 + f) for f in flow.branch_factors)
    expected = [signal[-1], flow.second_moments[-1], gradient[0], flow.gradient_norms[0] ** 2, mean]
    assert numbers == [f"{value:.2g}" for value in expected]


def test_a_list_shows_what_is_chosen():
    """ipywidgets shows the value None as an empty list."""
    choice = explorers.residual_stream().controls["normalization"]
    assert choice.index == 0 and choice.value is not None


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_transformer_depth_measures_what_theory_says(placement):
    explorer = explorers.transformer_depth().set(depth=12, placement=placement)
    _, differences = explorer.figure.axes
    measured, law = (np.asarray(line.get_ydata()) for line in differences.lines)
    expected = theory.transformer_trajectory(12, 8, placement).difference[1:]
    np.testing.assert_allclose(law**2 * 8 / 7, expected)
    # One network of width 32, whose attention is not quite uniform; without the law's depth it is off by 10.
    assert np.abs(np.log(measured / law)).max() < 0.7
    kept = float(re.search(r"hands on (\S+)\.$", explorer.sentence).group(1))
    assert kept == pytest.approx(measured[-1], rel=0.01)


def test_transformer_depth_measures_the_gradients_of_that_network():
    explorer = explorers.transformer_depth().set(depth=3, placement="post", skip=True)
    blocks = attention.random_blocks(24, 32, "post", skip=True)[:3]
    inputs, arriving = (data.gaussian_batch(32, 32, seed).reshape(4, 8, 32) for seed in (101, 102))
    flow = attention.token_flow(blocks, inputs, arriving)
    stream, query = drawn(explorer.figure.axes[0])
    np.testing.assert_allclose(stream, flow.stream_gradient / flow.stream_gradient[-1])
    np.testing.assert_allclose(query, flow.query_gradient / flow.query_gradient[0])


def test_transformer_depth_says_when_all_tokens_are_the_same():
    sentence = explorers.transformer_depth().set(depth=12, skip=False).sentence
    assert "without skips" in sentence and sentence.endswith("hands on nothing but rounding.")


@pytest.mark.parametrize(("radius", "length", "threshold"), [(0.6, 30, 0.5), (1.2, 40, 1), (2.0, 12, 10)])
def test_recurrence_shows_gradients_through_time_and_what_clipping_leaves(radius, length, threshold):
    explorer = explorers.recurrence().set(radius=radius, length=length, threshold=threshold)
    weight = data.gaussian_batch(32, 32, seed=0)
    weight = radius * weight / torch.linalg.eigvals(weight).abs().max()
    inputs = data.gaussian_batch(60 * 8, 32, seed=1).reshape(60, 8, 32)[60 - length :] / 10
    gradient = recurrent.gradient_through_time(weight, inputs, data.gaussian_batch(8, 32, seed=2))
    largest = torch.linalg.matrix_norm(weight, 2).item()
    state, parts = explorer.figure.axes
    np.testing.assert_allclose(drawn(state)[0], gradient.by_state / gradient.by_state[0])
    np.testing.assert_allclose(drawn(state)[1], largest ** np.arange(length + 1))
    factor = min(1, threshold / gradient.total)
    # The first state is 0, so is what its step adds: a gap.
    np.testing.assert_allclose(drawn(parts)[0][:-1], gradient.parts[:-1])
    np.testing.assert_allclose(drawn(parts)[1][:-1], gradient.parts[:-1] * factor)
    side = "above" if gradient.total > threshold else "below"
    assert f"has norm {gradient.total:.2g}, {side} the threshold {threshold:g}: " in explorer.sentence
    assert f"(bound {largest**length:.2g})" in explorer.sentence
    assert f"The part of the first half is {gradient.early:.1g} times" in explorer.sentence


@pytest.mark.parametrize("optimizer", optimizers.RULES)
def test_optimizer_chain_shows_the_descent(optimizer):
    noise = 1e-2 * data.gaussian_batch(400, 50, seed=0)[:, :6].numpy()
    run = optimizers.descend(optimizer, 0.01, noise)
    explorer = explorers.optimizer_chain().set(optimizer=optimizer, rate=0.01, depth=6, noise=1e-2)
    left, right = explorer.figure.axes
    np.testing.assert_allclose(drawn(left)[0], np.maximum(run.loss, 1e-6))
    np.testing.assert_allclose(drawn(right)[:2], [run.gradient, run.update])
    assert (run.loss[-1] < 0.125) == ("It comes near the target" in explorer.sentence)
    assert f"{run.loss[-1]:.2g}" in explorer.sentence or "below 1e-06" in explorer.sentence


def test_optimizer_chain_shows_both_floors_of_adam():
    explorer = explorers.optimizer_chain().set(optimizer="adam", rate=0.03)
    for depth in (5, 10, 20):
        assert "It comes near the target at step 1" in explorer.set(depth=depth).sentence
    assert "It is never near the target" in explorer.set(depth=40).sentence  # 0.5**39 = 1.8e-12, eps 1e-8
    explorer.set(depth=20, noise=1e-2)
    assert "It is never near the target" in explorer.sentence
    # At first |noise| / (|noise| + eps) of the rate, whatever the signal.
    assert "the first update 0.03 on average" in explorer.sentence
    assert "It explodes" in explorer.set(optimizer="sgd", noise=0.0, depth=10, rate=100).sentence
