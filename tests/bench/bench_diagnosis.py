"""How often `diagnosis.diagnose` names the disease of a random network rightly, first and by cause.

    python tests/bench/bench_diagnosis.py             # prints the table, exits 1 below the aims
    python tests/bench/bench_diagnosis.py --write     # and keeps it as tests/bench/diagnosis.md
    python tests/bench/bench_diagnosis.py --split development --networks 20

Every disease is given to random networks of varied kind, depth, width, data and seed; right is only a first
finding of the right name. Beside them stand healthy networks, of which none may be called sick. Thresholds
were chosen on the seeds of the split "development"; the table is of the split "evaluation", whose seeds were
looked at for nothing else.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradients_in_depth.data import digits
from gradients_in_depth.diagnosis import Diagnosis, diagnose
from gradients_in_depth.networks import DeepMLP

TABLE = Path(__file__).with_name("diagnosis.md")
FIRST_SEED = {"evaluation": 0, "development": 1_000_000}
AIM_NAMED, AIM_SICK = 0.95, 0.02
HEALTHY = "healthy"


@dataclass
class Case:
    """One network with a batch, and what is to be said about it besides."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor | None
    loss_fn: Callable[..., Tensor] = F.cross_entropy
    arguments: dict = field(default_factory=dict)
    under_no_grad: bool = False

    def diagnosis(self) -> Diagnosis:
        with torch.set_grad_enabled(not self.under_no_grad):
            return diagnose(self.model, self.inputs, self.targets, self.loss_fn, **self.arguments)


# --- Data and parts ----------------------------------------------------------------------------------------


def pick(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer, evenly in its logarithm: depth and width count by factors."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def one_of(rng: np.random.Generator, *options):
    return options[rng.integers(len(options))]


def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(batch, 64) digits or Gaussian numbers, ten classes."""
    count = int(rng.integers(48, 129))
    if rng.random() < 0.5:
        split = digits()
        chosen = torch.from_numpy(rng.permutation(len(split.train_inputs))[:count])
        return split.train_inputs[chosen], split.train_targets[chosen]
    return gaussian(rng, count, 64), labels(rng, count)


def gaussian(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).float()


def labels(rng: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, 10, count))


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def he_relu(rng: np.random.Generator, depth: tuple[int, int], width: tuple[int, int], **arguments) -> DeepMLP:
    chosen = {"activation": "relu", "initialization": one_of(rng, "he_normal", "he_uniform")} | arguments
    return DeepMLP(pick(rng, *depth), pick(rng, *width), seed=seed_of(rng), **chosen)


class SequenceClassifier(nn.Module):
    """A recurrent layer, read out at the last step or at all of them."""

    def __init__(
        self, kind: type[nn.RNNBase], width: int, layers: int = 1, every_step: bool = False, **arguments
    ):
        super().__init__()
        self.recurrent = kind(8, width, layers, batch_first=True, **arguments)
        self.readout = nn.Linear(width, 10)
        self.every_step = every_step

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        return self.readout(states.mean(dim=1) if self.every_step else states[:, -1])


class TokenClassifier(nn.Module):
    """Tokens of 16 numbers -> any encoder -> mean over tokens -> ten classes."""

    def __init__(self, encoder: nn.Module, d_model: int):
        super().__init__()
        self.embedding = nn.Linear(16, d_model)
        self.encoder = encoder
        self.readout = nn.Linear(d_model, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.encoder(self.embedding(x)).mean(dim=1))


def tokens(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    count = int(rng.integers(16, 49))
    return gaussian(rng, count, int(rng.integers(8, 25)), 16), labels(rng, count)


def transformer(
    rng: np.random.Generator, depth: tuple[int, int], norm_first: bool, width: int = 0
) -> TokenClassifier:
    d_model = width or int(one_of(rng, 32, 64, 96))
    layer = nn.TransformerEncoderLayer(
        d_model,
        4,
        2 * d_model,
        dropout=float(one_of(rng, 0.0, 0.1)),
        activation=one_of(rng, "relu", "gelu"),
        batch_first=True,
        norm_first=norm_first,
    )
    encoder = nn.TransformerEncoder(
        layer, pick(rng, *depth), nn.LayerNorm(d_model) if norm_first else None, enable_nested_tensor=False
    )
    for parameter in encoder.parameters():  # the layers are copies of one
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return TokenClassifier(encoder, d_model)


class OwnAttention(nn.Module):
    """Attention written by hand, as many do: with a skip and a norm, or without; scaled, or not."""

    def __init__(self, d_model: int, heads: int, scaled: bool = True, plain: bool = False):
        super().__init__()
        self.query, self.key = (
            nn.Linear(d_model, d_model, bias=False),
            nn.Linear(d_model, d_model, bias=False),
        )
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.Identity() if plain else nn.LayerNorm(d_model)
        self.heads, self.plain = heads, plain
        self.scale = (d_model // heads) ** -0.5 if scaled else 1.0
        for linear in (self.query, self.key, self.value):
            nn.init.normal_(linear.weight, std=d_model**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = ((q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        return mixed if self.plain else x + mixed


class FeedForward(nn.Module):
    """The other half of a pre-norm block."""

    def __init__(self, d_model: int):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.up, self.down = nn.Linear(d_model, 2 * d_model), nn.Linear(2 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def small_cnn(rng: np.random.Generator, with_norm: bool) -> nn.Sequential:
    layers, channels = [nn.Unflatten(1, (1, 8, 8))], 1
    for _ in range(int(rng.integers(2, 6))):
        out = int(one_of(rng, 8, 16, 32))
        convolution = nn.Conv2d(channels, out, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
        layers += [convolution, *([nn.BatchNorm2d(out)] if with_norm else []), nn.ReLU()]
        channels = out
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if rng.random() < 0.5 else [nn.Flatten()]
    return nn.Sequential(*layers, *pool, nn.LazyLinear(10))


class ResidualBlock(nn.Module):
    """x + scale * (linear, ReLU, linear): a branch that ends in ReLU only adds, and collapses at depth."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(width, width), nn.Linear(width, width), scale
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.xavier_normal_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(F.relu(self.first(x)))


class ResidualNet(nn.Module):
    """A small ResNet for the digits."""

    class Block(nn.Module):
        def __init__(self, channels: int):
            super().__init__()
            self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.first_norm = nn.BatchNorm2d(channels)
            self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.second_norm = nn.BatchNorm2d(channels)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.second_norm(self.second(F.relu(self.first_norm(self.first(x))))))

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(self.Block(channels) for _ in range(blocks)))
        self.readout = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.blocks(self.stem(x.unflatten(1, (1, 8, 8)))).mean(dim=(2, 3)))


class HalfFriendly(nn.Module):
    """A network without `DeepMLP`'s checks of its inputs."""

    def __init__(self, model: DeepMLP):
        super().__init__()
        self.layers = nn.Sequential(*model.blocks, model.readout)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Detached(nn.Module):
    """A stack of layers in which one hands on a value and no gradient."""

    def __init__(self, layers: nn.ModuleList, at: int):
        super().__init__()
        self.layers, self.at = layers, at

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number == self.at:
                x = x.detach()
        return x


class WithBranch(nn.Module):
    """A trunk, and a branch whose result is computed and forgotten, or detached and added."""

    def __init__(self, trunk: nn.Module, branch: nn.Module, added: bool):
        super().__init__()
        self.trunk, self.branch, self.added = trunk, branch, added

    def forward(self, x: Tensor) -> Tensor:
        outputs, side = self.trunk(x), self.branch(x)
        return outputs + side.detach() if self.added else outputs


# --- Diseases: each takes a random generator and gives one case --------------------------------------------


def saturation(rng):
    scheme = one_of(rng, "xavier_normal", "pytorch_default", "he_normal", "lecun_normal")
    model = DeepMLP(
        pick(rng, 8, 40), pick(rng, 16, 128), activation="sigmoid", initialization=scheme, seed=seed_of(rng)
    )
    return Case(model, *batch(rng))


def small_weights(rng):
    activation, scheme, gain, depth = one_of(
        rng,
        ("relu", "pytorch_default", 1.0, (10, 40)),
        ("relu", "xavier_uniform", 1.0, (26, 60)),
        ("relu", "he_normal", 0.4, (10, 30)),
        ("tanh", "xavier_normal", float(rng.uniform(0.1, 0.5)), (14, 40)),
        ("gelu", "pytorch_default", 1.0, (12, 40)),
    )
    model = DeepMLP(
        pick(rng, *depth),
        pick(rng, 32, 128),
        activation=activation,
        initialization=scheme,
        gain=gain,
        seed=seed_of(rng),
    )
    return Case(model, *batch(rng))


def long_sequence(rng):
    kind = one_of(rng, nn.RNN, nn.LSTM, nn.GRU)
    model = SequenceClassifier(kind, pick(rng, 16, 64), layers=int(rng.integers(1, 3)))
    inputs = gaussian(rng, 32, pick(rng, 40, 150), 8)
    return Case(model, inputs, labels(rng, 32))


def exploding(rng):
    kind = one_of(rng, "plain", "residual", "recurrent")
    if kind == "plain":
        return Case(he_relu(rng, (20, 40), (32, 128), gain=float(rng.uniform(1.7, 3))), *batch(rng))
    if kind == "residual":
        return Case(he_relu(rng, (40, 80), (32, 128), skip=True), *batch(rng))
    model = SequenceClassifier(nn.RNN, pick(rng, 16, 64), nonlinearity="relu")
    nn.init.orthogonal_(model.recurrent.weight_hh_l0, gain=float(rng.uniform(2.2, 3)))
    return Case(model, gaussian(rng, 32, pick(rng, 20, 40), 8), labels(rng, 32))


def dead_units(rng):
    if rng.random() < 0.3:
        model = small_cnn(rng, with_norm=False)
        model(torch.zeros(1, 64))
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.bias, -float(rng.uniform(8, 12)))
        return Case(model, *batch(rng))
    model = he_relu(rng, (3, 10), (32, 128))
    for block in model.blocks:
        nn.init.constant_(block.linear.bias, -float(rng.uniform(3.5, 5)))
    return Case(model, *batch(rng))


def collapsed_correlation(rng):
    return Case(he_relu(rng, (45, 90), (128, 256)), *batch(rng))


def symmetric(rng):
    scheme = one_of(rng, "constant", "constant", "zero")
    model = DeepMLP(
        pick(rng, 2, 12),
        pick(rng, 8, 64),
        activation=one_of(rng, "tanh", "relu", "gelu"),
        initialization=scheme,
        seed=seed_of(rng),
    )
    return Case(model, *batch(rng))


def forgotten_eval(rng):
    kind = one_of(rng, "batch norm", "dropout", "convolution")
    if kind == "batch norm":
        model = he_relu(rng, (2, 6), (32, 128), normalization="batch", skip=True)
    elif kind == "dropout":
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10))
    else:
        model = ResidualNet(int(one_of(rng, 8, 16)), int(rng.integers(1, 4)))
    inputs, targets = batch(rng)
    with torch.no_grad():
        for _ in range(5):  # the running statistics have seen data
            model(inputs + 0.5 * gaussian(rng, *inputs.shape))
    by_argument = rng.random() < 0.5
    return Case(
        model,
        inputs,
        targets,
        arguments={"evaluation": True} if by_argument else {},
        under_no_grad=not by_argument,
    )


def norm_without_skips(rng):
    return Case(he_relu(rng, (22, 60), (64, 128), normalization="batch"), *batch(rng))


def saturated_attention(rng):
    depth = int(rng.integers(1, 5))
    if rng.random() < 0.5:
        d_model = int(one_of(rng, 64, 128))
        blocks = [
            part
            for _ in range(depth)
            for part in (OwnAttention(d_model, 1, scaled=False), FeedForward(d_model))
        ]
        return Case(TokenClassifier(nn.Sequential(*blocks), d_model), *tokens(rng))
    model = transformer(rng, (1, 4), norm_first=True)
    for layer in model.encoder.layers:
        with torch.no_grad():
            layer.self_attn.in_proj_weight[: 2 * layer.linear1.in_features] *= float(rng.uniform(4, 8))
    return Case(model, *tokens(rng))


def post_norm(rng):
    return Case(transformer(rng, (6, 20), norm_first=False), *tokens(rng))


def underflow(rng):
    model = he_relu(rng, (3, 10), (32, 128))
    inputs, targets = batch(rng)
    # A mean over many tokens or pixels divides the gradient by their number.
    share = float(10 ** rng.uniform(-6.5, -4.5))
    if rng.random() < 0.5:
        arguments = {"number_format": "float16"}
    else:
        model, inputs, arguments = model.half(), inputs.half(), {}
    model = HalfFriendly(model)
    return Case(model, inputs, targets, lambda outputs, y: share * F.cross_entropy(outputs, y), arguments)


def bottleneck(rng):
    width = pick(rng, 48, 128)
    depth, narrow = int(rng.integers(4, 10)), int(rng.integers(1, 5))
    at = int(rng.integers(1, depth - 1))
    widths = [64, *[narrow if number == at else width for number in range(depth)]]
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=fan_in**-0.5)
        layers += [linear, one_of(rng, nn.Tanh(), nn.GELU())]
    return Case(nn.Sequential(*layers, nn.Linear(width, 10)), *batch(rng))


def no_gradient(rng):
    inputs, targets = batch(rng)
    if rng.random() < 0.5:
        model = he_relu(rng, (4, 10), (32, 128))
        layers = nn.ModuleList([*model.blocks, model.readout])
        return Case(Detached(layers, int(rng.integers(0, len(layers) - 1))), inputs, targets)
    trunk, branch = he_relu(rng, (2, 8), (32, 128)), he_relu(rng, (1, 4), (16, 64))
    return Case(WithBranch(trunk, branch, added=bool(rng.random() < 0.5)), inputs, targets)


def learning_rate(rng):
    case = healthy_perceptron(rng)
    small = rng.random() < 0.5
    rate = 10 ** (rng.uniform(-7, -5.5) if small else rng.uniform(2, 3.5))
    case.arguments = {"learning_rate": float(rate)}
    return case


def rank_collapse(rng):
    d_model = int(one_of(rng, 32, 64))
    blocks = [
        OwnAttention(d_model, int(one_of(rng, 1, 4)), plain=True) for _ in range(int(rng.integers(5, 13)))
    ]
    return Case(TokenClassifier(nn.Sequential(*blocks), d_model), *tokens(rng))


DISEASES = [
    saturation,
    small_weights,
    long_sequence,
    exploding,
    dead_units,
    collapsed_correlation,
    symmetric,
    forgotten_eval,
    norm_without_skips,
    saturated_attention,
    post_norm,
    underflow,
    bottleneck,
    no_gradient,
    learning_rate,
    rank_collapse,
]


# --- Healthy networks --------------------------------------------------------------------------------------

RATES = (0.01, 0.03, 0.1)


def healthy_perceptron(rng):
    if rng.random() < 0.5:
        model = he_relu(rng, (2, 12), (48, 192))
    else:
        scheme = one_of(rng, "xavier_normal", "orthogonal", "lecun_normal")
        model = DeepMLP(pick(rng, 2, 20), pick(rng, 32, 192), initialization=scheme, seed=seed_of(rng))
    return Case(model, *batch(rng), arguments={"learning_rate": one_of(rng, *RATES)})


def healthy_residual(rng):
    depth, width = pick(rng, 4, 50), pick(rng, 32, 128)
    arguments = {"learning_rate": one_of(rng, *RATES)}
    if rng.random() < 0.5:
        blocks = [ResidualBlock(width, depth**-0.5) for _ in range(depth // 2)]
        model = nn.Sequential(nn.Linear(64, width), *blocks, nn.Linear(width, 10))
    else:
        model = DeepMLP(depth, width, skip=True, branch_scale=depth**-0.5, seed=seed_of(rng))
    return Case(model, *batch(rng), arguments=arguments)


def healthy_batch_norm(rng):
    depth, skip = one_of(rng, ((2, 6), False), ((4, 20), True))
    model = he_relu(rng, depth, (48, 128), normalization="batch", skip=skip)
    return Case(model, *batch(rng))


def healthy_pre_norm(rng):
    d_model = int(one_of(rng, 32, 64, 128))
    blocks = [FeedForward(d_model) for _ in range(pick(rng, 2, 16))]
    return Case(
        nn.Sequential(nn.Linear(64, d_model), *blocks, nn.LayerNorm(d_model), nn.Linear(d_model, 10)),
        *batch(rng),
    )


def healthy_cnn(rng):
    model = small_cnn(rng, with_norm=bool(rng.random() < 0.5))
    model(torch.randn(2, 64))
    return Case(model, *batch(rng), arguments={"learning_rate": one_of(rng, *RATES)})


def healthy_resnet(rng):
    return Case(ResidualNet(int(one_of(rng, 8, 16, 24)), int(rng.integers(1, 7))), *batch(rng))


def healthy_recurrent(rng):
    kind, layers = one_of(rng, nn.LSTM, nn.GRU), int(rng.integers(1, 3))
    model = SequenceClassifier(kind, pick(rng, 16, 96), layers, every_step=bool(rng.random() < 0.3))
    return Case(model, gaussian(rng, 32, int(rng.integers(3, 11)), 8), labels(rng, 32))


def healthy_transformer(rng):
    return Case(transformer(rng, (1, 12), norm_first=True), *tokens(rng))


def healthy_attention(rng):
    d_model = int(one_of(rng, 32, 64, 128))
    blocks = [
        part
        for _ in range(int(rng.integers(1, 7)))
        for part in (OwnAttention(d_model, int(one_of(rng, 1, 2, 4))), FeedForward(d_model))
    ]
    return Case(TokenClassifier(nn.Sequential(*blocks), d_model), *tokens(rng))


def healthy_evaluated(rng):
    """In eval mode, under no_grad, after enough training steps for the running statistics."""
    case = one_of(rng, healthy_batch_norm, healthy_resnet)(rng)
    with torch.no_grad():
        for _ in range(30):
            case.model(case.inputs)
    case.model.eval()
    case.under_no_grad = True
    return case


HEALTHY_KINDS = [
    healthy_perceptron,
    healthy_residual,
    healthy_batch_norm,
    healthy_pre_norm,
    healthy_cnn,
    healthy_resnet,
    healthy_recurrent,
    healthy_transformer,
    healthy_attention,
    healthy_evaluated,
]


# --- The evaluation ----------------------------------------------------------------------------------------


def make(maker: Callable[[np.random.Generator], Case], split: str, number: int) -> Case:
    """The case with this number; nothing of the process's random state goes in, or is changed."""
    kind = [*DISEASES, *HEALTHY_KINDS].index(maker)
    rng = np.random.default_rng([FIRST_SEED[split], kind, number])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(rng))
        return maker(rng)


def named(case: Case) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for dropout
        diagnosis = case.diagnosis()
    return diagnosis.findings[0].disease if diagnosis.findings else HEALTHY


def evaluate(split: str, networks: int, healthy: int, only: str | None = None) -> dict[str, Counter]:
    """For each disease, and for "healthy", how often each name came first."""
    results: dict[str, Counter] = {}
    for maker in DISEASES:
        if only in (None, maker.__name__):
            results[maker.__name__] = Counter(named(make(maker, split, n)) for n in range(networks))
    if only in (None, HEALTHY):
        kinds = [HEALTHY_KINDS[n % len(HEALTHY_KINDS)] for n in range(healthy)]
        results[HEALTHY] = Counter(named(make(kind, split, n)) for n, kind in enumerate(kinds))
    return results


def shares(results: dict[str, Counter]) -> tuple[float, float]:
    """Share of the diseases named rightly, share of the healthy called sick."""
    sick = {truth: counts for truth, counts in results.items() if truth != HEALTHY}
    right = sum(counts[truth] for truth, counts in sick.items())
    total = sum(counts.total() for counts in sick.values())
    well = results.get(HEALTHY, Counter({HEALTHY: 1}))
    return right / max(total, 1), 1 - well[HEALTHY] / well.total()


def table(results: dict[str, Counter], split: str) -> str:
    named_rightly, called_sick = shares(results)
    count = sum(counts.total() for truth, counts in results.items() if truth != HEALTHY)
    well = results[HEALTHY].total() if HEALTHY in results else 0
    lines = [
        "# What `diagnose` names first",
        "",
        f"Written by `python tests/bench/bench_diagnosis.py --write` (split: {split}). Thresholds were",
        "chosen on the networks of another split, whose seeds are others. Named rightly: as first finding.",
        "",
        f"- Named rightly: {100 * named_rightly:.1f} % of {count} sick networks "
        f"(aim: at least {100 * AIM_NAMED:.0f} %).",
        f"- Called sick: {100 * called_sick:.1f} % of {well} healthy networks "
        f"(aim: at most {100 * AIM_SICK:.0f} %).",
        "",
        "| Disease | Networks | Named rightly | Named instead |",
        "|---|---:|---:|---|",
    ]
    for truth, counts in results.items():
        instead = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items()) if name != truth)
        lines.append(f"| {truth} | {counts.total()} | {counts[truth]} | {instead} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=list(FIRST_SEED), default="evaluation")
    parser.add_argument("--networks", type=int, default=10, help="of each disease")
    parser.add_argument("--healthy", type=int, default=100)
    parser.add_argument("--only", choices=[*(m.__name__ for m in DISEASES), HEALTHY])
    parser.add_argument("--write", action="store_true", help=f"keep the table as {TABLE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = evaluate(options.split, options.networks, options.healthy, options.only)
    text = table(results, options.split)
    print(text)
    if options.write:
        TABLE.write_text(text, encoding="utf-8")
    named_rightly, called_sick = shares(results)
    raise SystemExit(named_rightly < AIM_NAMED or called_sick > AIM_SICK)


if __name__ == "__main__":
    main()
