"""`diagnose` names causes, with figures and places, on networks it has never seen, and touches nothing."""

import copy
import math
import re
from html.parser import HTMLParser
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradients_in_depth.diagnosis import DISEASES, LESSONS, Diagnosis, Figure, FigureKey, diagnose
from gradients_in_depth.diagnosis.attention import normalized_entropy
from gradients_in_depth.diagnosis.rules_gradient import trend
from gradients_in_depth.diagnosis.rules_units import dead_by_chance, share_of_twins
from gradients_in_depth.networks import DeepMLP
from gradients_in_depth.signals import measure
from tests.bench import bench_diagnosis


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INPUTS, TARGETS = draws(64, 64), torch.arange(64) % 10


def of(model, inputs=INPUTS, targets=TARGETS, loss_fn=F.cross_entropy, **arguments):
    return diagnose(model, inputs, targets, loss_fn, **arguments)


def names(diagnosis):
    return [finding.disease for finding in diagnosis.findings]


def mean_square(outputs):
    return outputs.square().mean()


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# ---- What is said


def test_a_cause_stands_above_what_follows_from_it():
    diagnosis = of(DeepMLP(20, 64, activation="sigmoid"))
    assert names(diagnosis) == ["saturation", "collapsed_correlation"]
    first, second = diagnosis.findings
    assert first.follows_from is None and second.follows_from == "saturation"
    assert first.where[0] == "blocks.0.activation" and len(first.where) == 20
    assert first.lesson.startswith("02") and first.figure.value < 1e-9 < first.figure.low
    # sqrt(chi) of sigmoid with Xavier: laws of the course
    assert diagnosis.figure("activation_slope").value == pytest.approx(0.236, abs=0.003)


def test_the_same_symptom_has_two_causes():
    by_slope = of(DeepMLP(16, 64, activation="sigmoid", initialization="he_normal"))
    by_weights = of(DeepMLP(16, 64, activation="tanh", gain=0.3))
    assert (names(by_slope)[0], names(by_weights)[0]) == ("saturation", "small_weights")


def test_a_healthy_model_gets_its_figures():
    diagnosis = of(DeepMLP(6, 64, activation="relu", initialization="he_normal"), learning_rate=0.05)
    assert diagnosis.is_healthy and all(figure.is_healthy for figure in diagnosis.figures)
    assert str(diagnosis).startswith("No disease found.\n\nThe figures behind it:\n")
    assert len(diagnosis.figures) >= 5
    for figure in diagnosis.figures:
        assert figure.name.split(",")[0].split()[0] in str(diagnosis)
        assert figure.low <= figure.value <= figure.high


def test_the_text_says_what_where_how_much_which_lesson_and_what_to_try():
    text = str(of(DeepMLP(20, 64, activation="sigmoid")))
    assert max(map(len, text.splitlines())) <= 92
    for words in (
        "where     blocks.0.activation",
        "measured",
        "healthy   0.001 to 1e+03",
        "02 Sigmoid saturation",
        "try ",
    ):
        assert words in text
    assert not re.search(r"[1-9]\.\d{3,}|0\.[1-9]\d{3,}", text)  # at most three significant digits


class _Tables(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_the_table_is_whole_has_heads_and_no_colours(activation):
    page = of(DeepMLP(12, 64, activation=activation))._repr_html_()
    parsed = _Tables(page)
    assert parsed.open == []
    assert {"table", "caption", "th", "td"} <= set(parsed.seen)
    assert ("scope", "col") in parsed.attributes
    assert not re.search(r"color|background|#[0-9a-f]{3}|<script|class=", page)


def test_names_of_layers_are_escaped_in_the_table():
    figure = Figure("twin_share", "a < b", math.inf, 0, 1, ("<img>",))
    page = Diagnosis((), (figure,), ())._repr_html_()
    assert "<img>" not in page and "&lt;img&gt;" in page and "a &lt; b" in page


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0, 0, "0"), (0.35, math.inf, "at least 0.35"), (0, 0.5, "at most 0.5"), (1e-5, 0.3, "1e-05 to 0.3")],
)
def test_ranges_in_words(low, high, words):
    assert Figure("twin_share", "f", 0.0, low, high, ()).healthy_range == words


def test_every_disease_has_its_lesson_its_remedy_and_its_benchmark():
    assert {disease.lesson for disease in DISEASES.values()} <= LESSONS.keys()
    assert all(disease.remedy.endswith(".") for disease in DISEASES.values())
    # What is left has no generator: a name for what overflows, and one for vanishing of unknown cause.
    assert {maker.__name__ for maker in bench_diagnosis.DISEASES} == DISEASES.keys() - {
        "not_finite",
        "vanishing",
    }


def test_figures_are_looked_up_by_key_and_the_first_of_several_is_given():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    diagnosis = of(model, learning_rate=0.1)
    for figure in diagnosis.figures:
        assert diagnosis.figure(figure.key) is figure
    assert diagnosis.figure("attention_entropy") is None
    with pytest.raises(ValueError, match="key must be one of layers_not_finite, .*; got 'update ratio'"):
        diagnosis.figure("update ratio")
    first, second = (Figure("gradient_over_time", name, 1.0, 0, 1, ()) for name in "ab")
    assert Diagnosis((), (first, second), ()).figure("gradient_over_time") is first


def test_every_key_is_that_of_some_figure_and_every_disease_is_found_by_one():
    keys = set(get_args(FigureKey))
    assert {disease.figure for disease in DISEASES.values()} <= keys
    seen = {}
    for diagnosis in _of_every_sort():
        seen |= {figure.key: figure for figure in diagnosis.figures}
    assert seen.keys() == keys
    assert len({figure.name for figure in seen.values()}) == len(keys)


def _of_every_sort():
    sigmoid, small = (DeepMLP(16, 64, activation=name, gain=0.3) for name in ("sigmoid", "tanh"))
    yield of(sigmoid, learning_rate=0.1, number_format="float16", evaluation=False)
    yield of(small)
    yield of(DeepMLP(300, 32, activation="relu", initialization="he_normal", gain=4.0))
    yield of(nn.Sequential(nn.Linear(64, 32), nn.Dropout(), nn.ReLU(), nn.Linear(32, 10)), evaluation=True)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 6)
    yield of(encoder, draws(16, 9, 32), None, mean_square)
    yield of(nn.RNN(8, 16, batch_first=True), draws(16, 20, 8), None, lambda out: mean_square(out[0]))
    widths = (64, 64, 2, 64, 10)
    pairs = zip(widths, widths[1:], strict=False)
    yield of(nn.Sequential(*(part for pair in pairs for part in (nn.Linear(*pair), nn.Tanh()))))


# ---- The benchmark


@pytest.mark.slow
def test_random_networks_are_named_rightly():
    """Two of each; the table of the whole benchmark is in tests/bench/diagnosis.md."""
    results = bench_diagnosis.evaluate("development", networks=2, healthy=20)
    right, sick = bench_diagnosis.shares(results)
    assert right >= bench_diagnosis.AIM_NAMED, results
    assert sick <= bench_diagnosis.AIM_SICK, results["healthy"]


def test_the_stored_table_is_of_this_benchmark_and_keeps_the_aims():
    text = bench_diagnosis.TABLE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| (\d+) \|", text, re.M))
    expected = {maker.__name__: "10" for maker in bench_diagnosis.DISEASES} | {"healthy": "100"}
    assert {name: count for name, count in rows.items() if name != "Disease"} == expected
    assert "(split: evaluation)" in text
    right, sick = (float(share) for share in re.findall(r": ([\d.]+) % of", text))
    assert right >= 95 and sick <= 2


def test_the_shares_of_the_benchmark_can_fall():
    counter = bench_diagnosis.Counter
    results = {"saturation": counter(saturation=9, healthy=1), "healthy": counter(healthy=97, exploding=3)}
    assert bench_diagnosis.shares(results) == pytest.approx((0.9, 0.03))


# ---- Parts


def test_twins_need_equal_weights_and_equal_gradients():
    rng = np.random.default_rng(0)
    random, equal = rng.normal(size=(20, 300)), np.ones((20, 300))
    assert share_of_twins(random, random) == 0
    assert share_of_twins(equal, random) == 0  # as in a layer that begins at 0 and learns
    assert share_of_twins(equal, equal) == 1
    assert share_of_twins(random, equal) == 0
    half = random.copy()
    half[:10] = half[0]
    assert share_of_twins(half, half) == 0.5


@pytest.mark.parametrize(("cosine", "count"), [(0.0, 4), (0.5, 8), (0.9, 64), (0.99, 64)])
def test_dead_by_chance_agrees_with_a_simulation(cosine, count):
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(20000, 1)), rng.normal(size=(20000, count))
    z = math.sqrt(cosine) * shared + math.sqrt(1 - cosine) * own
    assert dead_by_chance(cosine, count) == pytest.approx((z < 0).all(axis=1).mean(), abs=0.02)


def test_entropy_of_masked_attention_counts_the_keys_it_may_see():
    causal = torch.full((5, 5), 1.0).tril()
    uniform = (causal / causal.sum(-1, keepdim=True)).expand(3, 2, 5, 5)
    assert normalized_entropy(uniform) == pytest.approx(1)
    chosen = torch.eye(5).expand(3, 2, 5, 5).clone()
    chosen[0] = torch.eye(5).roll(1, 0)
    assert normalized_entropy(chosen) == pytest.approx(0)


def test_a_trend_leaves_out_what_lies_beside_the_path():
    assert trend(np.linspace(-10, 0, 11)) == pytest.approx(1e-10)
    assert trend(np.linspace(6, 0, 11)) == pytest.approx(1e6)
    beside = np.zeros(12)
    beside[1::3] = -6  # queries
    assert trend(beside) == 1


# ---- Nothing is touched


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    model.train(training)
    model[3].eval()  # one part is in another mode than the rest
    F.cross_entropy(model(INPUTS), TARGETS).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    state, inputs = torch.get_rng_state(), INPUTS.clone()
    of(model, evaluation=True)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(inputs, INPUTS)
    assert [module.training for module in model] == [training, training, training, False, training]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient) and parameter.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def test_the_figures_agree_with_measure_and_repeat():
    model = DeepMLP(5, 32, normalization="batch", activation="relu")
    assert of(model) == of(model)
    layers = [la for la in measure(model, INPUTS, TARGETS, F.cross_entropy).layers if la.kind == "Linear"]
    logs = np.log10([layer.activation_gradient_rms for layer in layers])
    assert of(model).figure("gradient_trend").value == pytest.approx(trend(logs))


# ---- Modes, formats, rates


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(32)])
def test_eval_forgotten(layer):
    model = nn.Sequential(nn.Linear(64, 32), layer, nn.ReLU(), nn.Linear(32, 10))
    assert names(of(model)) == []  # while training, train mode is right
    assert names(of(model, evaluation=True)) == ["forgotten_eval"]
    with torch.no_grad():
        (finding,) = of(model).findings
    assert finding.where == ("1",)
    assert names(of(model, evaluation=False)) == []
    model.eval()
    assert names(of(model, evaluation=True)) == []
    layer.train()  # a part left behind in train mode
    assert names(of(model)) == ["forgotten_eval"]


def test_a_loss_scale_cures_underflow():
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def scaled(factor):
        return lambda outputs, targets: factor * F.cross_entropy(outputs, targets)

    assert names(of(model, loss_fn=scaled(1e-5))) == []  # float32 bears it
    assert names(of(model, loss_fn=scaled(1e-5), number_format="float16")) == ["underflow"]
    assert names(of(model, loss_fn=scaled(1e-5), number_format="bfloat16")) == []
    assert names(of(model, loss_fn=scaled(1), number_format="float16")) == []
    half = copy.deepcopy(model).half()
    assert names(of(half, INPUTS.half(), loss_fn=scaled(1e-5))) == ["underflow"]
    assert names(of(half, INPUTS.half(), loss_fn=scaled(1))) == []


@pytest.mark.parametrize(("rate", "found"), [(1e-7, True), (0.03, False), (1e3, True)])
def test_a_learning_rate_out_of_scale(rate, found):
    diagnosis = of(DeepMLP(4, 64), learning_rate=rate)
    assert names(diagnosis) == (["learning_rate"] if found else [])


def test_overflow_is_traced_to_its_cause():
    diagnosis = of(DeepMLP(300, 32, activation="relu", initialization="he_normal", gain=4.0))
    assert names(diagnosis)[:2] == ["exploding", "not_finite"]
    assert diagnosis.findings[1].follows_from == "exploding"


# ---- Models of torch


def test_transformer_encoders():
    def encoder(depth, **arguments):
        layer = nn.TransformerEncoderLayer(32, 4, 64, **arguments)
        return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    sequence = draws(9, 16, 32)  # time first
    assert names(of(encoder(4, norm_first=True), sequence, None, mean_square)) == []
    post = encoder(8)
    assert names(of(post, sequence, None, mean_square))[0] == "post_norm"
    assert "post_norm" not in names(of(post, sequence, None, mean_square, warm_up=True))
    assert names(of(encoder(2), sequence, None, mean_square)) == []  # two blocks need no warm-up


class Decoder(nn.Module):
    """Integer inputs, tied weights, a dict as output, a frozen layer, an unused one."""

    def __init__(self, unused):
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.recurrent = nn.LSTM(16, 16, batch_first=True)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.readout = nn.Linear(16, 30, bias=False)
        self.readout.weight = self.embedding.weight
        if unused:
            self.unused = nn.Linear(3, 3)

    def forward(self, ids):
        states, _ = self.recurrent(self.embedding(ids))
        return {"logits": self.readout(torch.tanh(self.frozen(states)))}


@pytest.mark.parametrize("unused", [True, False])
def test_integers_dicts_tied_frozen_and_unused(unused):
    ids = torch.randint(30, (16, 8))
    diagnosis = of(
        Decoder(unused), ids, ids, lambda out, y: F.cross_entropy(out["logits"].flatten(0, 1), y.flatten())
    )
    assert names(diagnosis) == (["no_gradient"] if unused else [])
    if unused:
        assert diagnosis.findings[0].where == ("unused",)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_gradient_over_time(kind):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = kind(8, 16, batch_first=True)

        def forward(self, x):
            return self.recurrent(x)[0][:, -1]

    model = Last()
    assert names(of(model, draws(16, 6, 8), None, mean_square)) == []
    (finding,) = of(model, draws(16, 120, 8), None, mean_square).findings
    assert finding.disease == "long_sequence" and finding.where == ("recurrent",)


def test_a_gradient_that_the_loss_takes_for_itself_is_not_the_one_over_time():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.LSTM(8, 16, batch_first=True)

        def forward(self, x):
            return self.recurrent(x)[0][:, -1]

    def with_penalty(outputs):
        torch.autograd.grad(outputs[:, 0].sum(), outputs, retain_graph=True)
        model.recurrent(inputs)
        torch.autograd.grad(outputs.sum(), model.recurrent.weight_ih_l0, retain_graph=True)
        return mean_square(outputs)

    model, inputs = Last(), draws(16, 12, 8)
    plain, penalized = (of(model, inputs, None, loss) for loss in (mean_square, with_penalty))
    assert [figure.key for figure in plain.figures].count("gradient_over_time") == 1
    assert penalized == plain


def test_a_cell_in_a_loop_runs_over_time_too():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(8, 16)

        def forward(self, x):
            hidden = x.new_zeros(len(x), 16)
            for step in x.unbind(1):
                hidden = self.cell(step, hidden)
            return hidden

    assert names(of(Loop(), draws(16, 5, 8), None, mean_square)) == []
    assert names(of(Loop(), draws(16, 80, 8), None, mean_square)) == ["long_sequence"]


# ---- Bad arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": 3}, "model must be a torch.nn.Module"),
        ({"loss_fn": None}, "loss_fn must be a function of (outputs, targets), got None."),
        ({"loss_fn": lambda o, y: 1.0}, "loss_fn must return a floating-point tensor"),
        ({"inputs": "text"}, "inputs must be a tensor"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number of at least 0.0, got -1.0."),
        ({"evaluation": "yes"}, "evaluation must be True or False, got 'yes'."),
        ({"warm_up": 1}, "warm_up must be True or False, got 1."),
        (
            {"number_format": "float8"},
            "number_format must be one of float16, bfloat16, float32; got 'float8'.",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises((TypeError, ValueError)) as caught:
        of(**({"model": DeepMLP(2, 8)} | arguments))
    assert str(caught.value).startswith(sentence)
