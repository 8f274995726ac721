"""Explorers: controls, picture, sentence, and what a stored notebook keeps of them."""

import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from gradients_in_depth import data, explorers, networks, pictures, theory


def small_explorer(draw=None) -> explorers.Explorer:
    with mpl.rc_context(pictures.STYLE):
        figure = Figure()
        figure.subplots().set(xlim=(0, 10), ylim=(0, 100))

    def line(axes, depth, kind):
        axes[0].plot([0, depth], [0, depth**2], label="line")
        return f"depth {depth}, {kind}"

    controls = {
        "depth": explorers.Slider("depth", range(1, 11), 5, "layers"),
        "kind": explorers.Choice("kind", {"one": 1, "two": 2}, 1),
    }
    return explorers.Explorer(controls, figure, draw or line, ("Move it.", "Move it back."))


def displayed(explorer, monkeypatch) -> list:
    """What the explorer displays: a panel and two MIME bundles."""
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    monkeypatch.setattr(explorers, "display", lambda thing, **_: shown.append(thing) or Handle())
    explorer._ipython_display_()
    return shown


def test_moving_a_control_changes_picture_and_sentence():
    explorer = small_explorer()
    before = explorer.to_html()
    explorer.set(depth=7)
    assert explorer.sentence == "depth 7, 1"
    assert explorer.to_html() != before
    assert explorer.to_html().count("depth 7, 1") == 2  # seen below the picture, and its text alternative
    explorer.set(kind=2)
    assert explorer.sentence == "depth 7, 2"


def test_reset_gives_the_first_picture_again():
    explorer = small_explorer()
    before = explorer.to_html()
    explorer.set(depth=9, kind=2)
    explorer.reset()
    assert explorer.to_html() == before


def test_nothing_of_the_last_drawing_remains():
    def bars(axes, depth, kind):
        axes[0].bar([1, 2], [depth, 1])
        axes[0].fill_between([1, 2], [0, 1], [1, 2])
        axes[0].annotate("here", (1, 1))
        return "bars"

    explorer = small_explorer(bars)
    counts = len(re.findall("<path", explorer.to_html()))
    for depth in (6, 7, 8):
        explorer.set(depth=depth)
    assert len(re.findall("<path", explorer.to_html())) == counts


def test_height_is_the_same_for_every_value():
    explorer = small_explorer()
    heights = set()
    for depth in range(1, 11):
        explorer.set(depth=depth)
        heights |= set(re.findall(r'viewBox="([^"]+)"|<p [^>]*style="([^"]+)"', explorer.to_html()))
    assert len(heights) == 2


def test_an_update_goes_to_the_displayed_picture(monkeypatch):
    explorer = small_explorer()
    shown = displayed(explorer, monkeypatch)
    assert len(shown) == 3
    explorer.set(depth=8)
    assert shown[-1]["text/plain"] == "depth 8, 1" and shown[-1]["text/html"] == explorer.to_html()


def test_where_no_kernel_runs_the_names_of_many_controls_are_lines(monkeypatch):
    names = [f"{what} of the {which} layer" for what in ("mean", "variance") for which in ("first", "last")]
    controls = {name: explorers.Slider(name, (0, 1), 0) for name in names}
    explorer = explorers.Explorer(controls, Figure(), lambda _, **__: "", ())
    lines = displayed(explorer, monkeypatch)[0]._repr_mimebundle_()["text/plain"].splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80  # JupyterLab breaks a longer one within a word


def test_what_a_stored_notebook_keeps_reads_without_a_kernel(monkeypatch):
    panel, picture, tries = displayed(small_explorer(), monkeypatch)
    assert panel._repr_mimebundle_()["text/plain"] == (
        "Run this cell to move depth (1 to 10 layers); kind (one, two)."
    )
    assert picture["text/plain"] == "depth 5, 1" and 'aria-label="depth 5, 1"' in picture["text/html"]
    assert picture["image/png"] in picture["text/html"]  # for viewers that strip the SVG
    assert "<li>Move it.</li><li>Move it back.</li>" in tries["text/html"]


def test_sentences_are_escaped():
    explorer = small_explorer(lambda axes, depth, kind: 'a < b & "c"')
    assert "a < b" not in explorer.to_html() and explorer.to_html().count("a &lt; b &amp;") == 2


def test_an_unknown_control_lists_the_controls():
    with pytest.raises(ValueError, match="There is no control named 'width'; there are depth, kind."):
        small_explorer().set(width=3)


def test_a_slider_takes_the_nearest_value_and_keeps_whole_numbers_whole():
    slider = explorers.Slider("gain", [0.1, 1.0, 10.0], 2.0)
    assert slider.value == 1.0 and isinstance(slider.value, float)
    slider.value = 7
    assert slider.value == 10.0
    depth = explorers.Slider("depth", range(1, 4), 2)
    assert depth.value == 2 and isinstance(depth.value, int)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_slider_refuses_what_is_no_number(value):
    slider = explorers.Slider("gain", [0.1, 1.0], 1.0)
    with pytest.raises(ValueError, match="A slider takes finite numbers from 0.1 to 1, got"):
        slider.value = value


@pytest.mark.parametrize("values", [[1.0], [], [2.0, 1.0], [1.0, 1.0]])
def test_a_slider_needs_increasing_values(values):
    with pytest.raises(
        ValueError, match="The values of the slider 'gain' must increase and be at least two."
    ):
        explorers.Slider("gain", values, 1.0)


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


def network_of_dying_units(leak: float, bias: float, seed: int = 2) -> torch.nn.Sequential:
    """The network of `explorers.dying_units` at the start, in the words of torch."""
    activation = torch.nn.LeakyReLU(leak)
    sizes = (64, 32, 32, 10)
    layers = []
    for k in range(3):
        linear = torch.nn.Linear(sizes[k], sizes[k + 1])
        weight = data.gaussian_batch(sizes[k + 1], sizes[k], seed + k, torch.float32)
        linear.weight.data = weight * (2 / sizes[k]) ** 0.5
        linear.bias.data.fill_(bias if k < 2 else 0.0)
        layers += [linear, activation] if k < 2 else [linear]
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize(("first_step", "leak", "bias"), [(10, 0.0, 0.0), (5, 0.1, 0.0), (0.2, 0.0, -3.0)])
def test_dying_units_counts_what_gradient_descent_kills(first_step, leak, bias):
    digits, model = data.digits(), network_of_dying_units(leak, bias)

    def off() -> int:
        with torch.no_grad():
            return int((model[:3](digits.train_inputs).amax(dim=0) <= 0).sum())

    counts = [off()]
    order = torch.randperm(1347, generator=torch.Generator().manual_seed(2))
    for step in range(21):
        batch = order[:1275].reshape(-1, 75)[step % 17]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2 if step else first_step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(digits.train_inputs[batch]), digits.train_targets[batch])
        loss.backward()
        optimizer.step()
        if step in (0, 20):
            counts.append(off())
    sentence = explorers.dying_units().set(first_step=first_step, leak=leak, bias=bias).sentence
    said = re.search(r"layer 2, (\d+) are .* start, (\d+) after the first step, (\d+) after 20", sentence)
    assert [int(number) for number in said.groups()] == counts
    assert f"The loss is {loss.item():.2g};" in sentence


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


@pytest.mark.parametrize("width", [2, 4, 32])
def test_matrix_chain_measures_the_lyapunov_exponents(width):
    explorer = explorers.matrix_chain().set(width=width)
    axes, rates = explorer._figure.axes, theory.lyapunov_exponents(width, width**-0.5)[[0, -1]]
    for ax, expected in zip(axes, rates, strict=True):
        measured = np.log(ax.lines[0].get_ydata()[-1])
        # The log of a stretch has a variance of at most 1.23 (width 1), and this is a median of 16 seeds.
        assert abs(measured - 100 * expected) < 3 * np.sqrt(100 * 1.23 * 1.57 / 16)


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
    _, scale, two = explorer._figure.axes
    measured, expected = (line.get_ydata() for line in scale.lines)
    first = sigma_w**2 + sigma_b**2
    q = theory.variance_trajectory(50, "tanh", sigma_w**2, sigma_b**2, first)
    assert np.abs(expected / q - 1).max() < 1e-3
    # The mean of 128 squares, over inputs of one network: sqrt(2 / 128) = 0.125 if all inputs were alike.
    assert np.abs(measured / q - 1).mean() < 0.125
    for start, (dots, line) in zip(
        (0.0, 0.9), zip(two.lines[::2], two.lines[1::2], strict=True), strict=True
    ):
        cosine = (sigma_w**2 * start + sigma_b**2) / first
        c = theory.correlation_trajectory(50, "tanh", sigma_w**2, sigma_b**2, first, cosine)
        assert np.abs(line.get_ydata() - c).max() < 2e-3
        # A correlation of 128 units is known to 1 / sqrt(128) = 0.09; in chaos the errors of layers add up.
        assert np.abs(dots.get_ydata() - c).mean() < 0.2


def test_phase_diagram_knows_the_edge_and_the_axis():
    explorer = explorers.phase_diagram().set(sigma_w=1.0, sigma_b=0.0)
    assert "at the edge of chaos. χ = 1:" in explorer.sentence and "no bound" in explorer.sentence
    explorer.set(sigma_w=0.8)
    assert "the signal itself dies, by e every 2.2 layers: trainable to about 13 layers" in explorer.sentence


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
def test_normalized_network_measures_what_theory_says(norm, activation, batch):
    explorer = explorers.normalized_network().set(depth=50, norm=norm, activation=activation, batch=batch)
    said, law = re.search(r"a factor (\S+) per layer \(theory (\S+)\)", explorer.sentence).groups()
    growth = {"batch": lambda a: theory.batch_norm_growth(a, batch), "none": None}
    growth = growth.get(norm, theory.layer_norm_growth)
    if growth is None:
        expected = theory.gradient_norm_trajectory(50, activation, 1.0)[0] ** (1 / 49)
    else:
        expected = growth(activation) ** 0.5
    assert float(law) == pytest.approx(expected, rel=0.006)  # three printed digits
    # One network of width 64: the log wanders by sqrt(5 * 50 / 4 / 64) = 1 at most, 0.02 per layer; BatchNorm
    # needs some ten layers from either end to settle.
    assert float(said) == pytest.approx(expected, rel=0.06)


def test_normalized_network_loses_its_gradient_in_a_batch_of_two():
    explorer = explorers.normalized_network().set(batch=2, depth=20)
    assert "It vanishes." in explorer.sentence and "batch of two" in explorer.sentence
    assert "theory" not in explorer.sentence
    assert "It explodes." in explorer.set(batch=4).sentence
    assert "It arrives. The cosine of two inputs ends at 0.9" in explorer.set(norm="layer", batch=64).sentence


@pytest.mark.parametrize("normalization", ["none", "rms", "batch"])
@pytest.mark.parametrize("branch_scale", [0.0, 0.2, 1.0])
def test_residual_stream_says_what_theory_says_and_measures_it(normalization, branch_scale):
    depth = 40
    explorer = explorers.residual_stream().set(
        depth=depth, branch_scale=branch_scale, normalization=normalization
    )
    known = None if normalization == "none" else normalization
    flow = theory.residual_flow(depth, branch_scale, normalization=known)
    numbers = [
        float(number)
        for number in re.findall(r"(?:ends at|theory|is|passes) (\d\S*?)[) ]", explorer.sentence)
    ]
    signal, said_signal, gradient, said_gradient, mean = numbers
    assert said_signal == pytest.approx(flow.second_moments[-1], rel=0.06)  # two digits
    assert said_gradient == pytest.approx(flow.gradient_norms[0] ** 2, rel=0.06)
    assert mean == pytest.approx(sum(f / (1 + f) for f in flow.branch_factors), rel=0.06)
    # The log of a squared norm has a deviation of sqrt(5 depth / width) = 1.25 in a plain network, if all
    # examples go the same way; paths through half of the branches leave about one, and small branches none.
    assert abs(np.log(signal / said_signal)) < 1.25 and abs(np.log(gradient / said_gradient)) < 1.25
    if branch_scale == 0:
        assert signal == gradient == 1 and mean == 0


def test_a_list_shows_what_is_chosen():
    """ipywidgets shows the value None as an empty list."""
    choice = explorers.residual_stream().controls["normalization"]
    assert choice.index == 0 and choice.value is not None


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_transformer_depth_measures_what_theory_says(placement):
    explorer = explorers.transformer_depth().set(depth=12, placement=placement)
    _, differences = explorer._figure.axes
    measured, law = (np.asarray(line.get_ydata()) for line in differences.lines)
    expected = theory.transformer_trajectory(12, 8, placement).difference[1:]
    np.testing.assert_allclose(law**2 * 8 / 7, expected)
    # One network of width 32, whose attention is not quite uniform; without the law's depth it is off by 10.
    assert np.abs(np.log(measured / law)).max() < 0.7
    kept = float(re.search(r"hands on (\S+)\.$", explorer.sentence).group(1))
    assert kept == pytest.approx(measured[-1], rel=0.01)


def test_transformer_depth_measures_the_gradients_of_that_network():
    explorer = explorers.transformer_depth().set(depth=3, placement="post", skip=True)
    blocks = networks.Transformer(24, 32, norm_placement="post", dtype=torch.float64).blocks[:3]
    x, stream = data.gaussian_batch(32, 32, seed=101).reshape(4, 8, 32), []
    for block in blocks:
        x = block(x)
        x.retain_grad()
        stream.append(x)
    (x * data.gaussian_batch(32, 32, seed=102).reshape(4, 8, 32)).sum().backward()
    query = [block.attention.query.weight.grad.norm().item() for block in blocks]
    found = [np.asarray(line.get_ydata()) for line in explorer._figure.axes[0].lines]
    np.testing.assert_allclose(found[0], [(h.grad.norm() / stream[-1].grad.norm()).item() for h in stream])
    np.testing.assert_allclose(found[1], np.array(query) / query[0])


def test_transformer_depth_says_when_all_tokens_are_the_same():
    sentence = explorers.transformer_depth().set(depth=12, skip=False).sentence
    assert "without skips" in sentence and sentence.endswith("hands on nothing but rounding.")


@pytest.mark.parametrize(("radius", "length", "threshold"), [(0.6, 30, 0.5), (1.2, 40, 1), (2.0, 12, 10)])
def test_recurrence_measures_what_autograd_finds(radius, length, threshold):
    """The network of the explorer written out, with autograd instead of its own backward pass."""
    explorer = explorers.recurrence().set(radius=radius, length=length, threshold=threshold)
    weight = data.gaussian_batch(32, 32, seed=0)
    weight = radius * weight / torch.linalg.eigvals(weight).abs().max()
    uses = [weight.clone().requires_grad_() for _ in range(length)]  # one copy for each step
    states = [torch.zeros(8, 32, dtype=torch.float64, requires_grad=True)]
    inputs = data.gaussian_batch(60 * 8, 32, seed=1).reshape(60, 8, 32)[60 - length :] / 10
    for use, x in zip(uses, inputs, strict=True):
        states.append(torch.tanh(states[-1] @ use.T + x))
    loss = (states[-1] - data.gaussian_batch(8, 32, seed=2)).square().sum() / 16
    gradients = torch.autograd.grad(loss, [*states, *uses])
    by_state = np.array([g.norm().item() for g in gradients[length::-1]])
    by_use = np.array([g.norm().item() for g in gradients[:length:-1]])
    total = sum(gradients[length + 1 :]).norm().item()
    state, parts = explorer._figure.axes
    np.testing.assert_allclose(state.lines[0].get_ydata(), by_state / by_state[0], rtol=1e-6)
    drawn, clipped = (
        line.get_ydata()[:-1] for line in parts.lines[:2]
    )  # the first state is 0, so is its part
    np.testing.assert_allclose(drawn, by_use[:-1], rtol=1e-6)
    np.testing.assert_allclose(clipped, by_use[:-1] * min(1, threshold / total), rtol=1e-6)
    assert f"has norm {total:.2g}, {'above' if total > threshold else 'below'}" in explorer.sentence
    largest = torch.linalg.matrix_norm(weight, 2).item()
    assert (state.lines[0].get_ydata() <= state.lines[1].get_ydata() * (1 + 1e-9)).all()
    assert f"(bound {largest**length:.2g})" in explorer.sentence


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam"])
def test_optimizer_chain_takes_the_steps_of_torch(optimizer):
    make = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
    make["momentum"] = lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    weights = torch.nn.Parameter(torch.full((6,), 0.5, dtype=torch.float64))
    stepper = make[optimizer]([weights], lr=0.01)
    noise, losses = data.gaussian_batch(400, 50, seed=0), []
    for step in range(401):
        loss = (weights.prod() - 1).square() / 2
        losses.append(loss.item())
        if step < 400:
            stepper.zero_grad()
            loss.backward()
            weights.grad += 1e-2 * noise[step, :6]
            stepper.step()
    explorer = explorers.optimizer_chain().set(optimizer=optimizer, rate=0.01, depth=6, noise=1e-2)
    drawn = explorer._figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(drawn, np.maximum(losses, 1e-6), rtol=1e-6)
    assert (losses[-1] < 0.125) == ("It comes near the target" in explorer.sentence)
    assert f"{losses[-1]:.2g}" in explorer.sentence or "below 1e-06" in explorer.sentence


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
