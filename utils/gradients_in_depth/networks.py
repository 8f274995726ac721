"""Deep perceptrons, recurrent networks and Transformers, each plain enough to read in a minute."""

import copy
import math
from functools import partial
from typing import TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from gradients_in_depth.arguments import check_choice, check_flag, check_integer, check_number, check_type
from gradients_in_depth.catalogue import DTYPES, activation_module
from gradients_in_depth.initialization import SCHEMES, initialize
from gradients_in_depth.randomness import seeded_generator

NORMALIZATIONS: dict[str, type[nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


def _check_inputs(x: Tensor, dtype: torch.dtype, shape: tuple[int | str, ...]) -> None:
    """Raise unless `x` has the network's dtype and shape, in which a name stands for any size from 1."""
    check_type("inputs", x, Tensor, "a torch.Tensor")
    if x.dtype != dtype:
        raise TypeError(f"inputs must have the network's dtype {dtype}, got {x.dtype}.")
    fits = x.ndim == len(shape) and all(
        size >= 1 if isinstance(allowed, str) else size == allowed
        for size, allowed in zip(x.shape, shape, strict=True)
    )
    if not fits:
        free = " and ".join(f"{allowed} >= 1" for allowed in shape if isinstance(allowed, str))
        whole = ", ".join(map(str, shape))
        raise ValueError(f"inputs must have shape ({whole}) with {free}, got {tuple(x.shape)}.")


class Block(nn.Module):
    """linear -> norm -> activation, or with `pre_activation` norm -> activation -> linear; `skip` adds x.

    Maps (batch, in_features) to (batch, out_features). With `skip`, x + branch_scale * (that), so that what
    is added to x is the output of the activation, or with `pre_activation` that of the linear layer, which
    has both signs; without `skip` the order alone differs, and `branch_scale` does not count. `norm` may be
    None; with `pre_activation` it takes the block's input. `branch_scale` is a number; for one that is
    learned (ReZero), assign an `nn.Parameter` to `block.branch_scale` afterwards.
    Raises `ValueError` for a skip around a linear layer that changes the width, `TypeError` for one that is
    not an `nn.Linear` and for a flag that is neither True nor False.
    He et al. 2016 (residual connections; pre-activation: "Identity mappings in deep residual networks").
    """

    def __init__(
        self,
        linear: nn.Linear,
        activation: nn.Module,
        norm: nn.Module | None = None,
        skip: bool = False,
        branch_scale: float = 1.0,
        pre_activation: bool = False,
    ) -> None:
        super().__init__()
        check_type("linear", linear, nn.Linear, "an nn.Linear")
        if check_flag("skip", skip) and linear.in_features != linear.out_features:
            raise ValueError(
                "skip needs a linear layer with as many outputs as inputs, "
                f"got {linear.in_features} inputs and {linear.out_features} outputs."
            )
        self.linear = linear
        self.norm = norm
        self.activation = activation
        self.skip = skip
        self.branch_scale = check_number("branch_scale", branch_scale)
        self.pre_activation = check_flag("pre_activation", pre_activation)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, out_features)."""
        branch = x if self.pre_activation else self.linear(x)
        if self.norm is not None:
            branch = self.norm(branch)
        branch = self.activation(branch)
        if self.pre_activation:
            branch = self.linear(branch)
        return x + self.branch_scale * branch if self.skip else branch


class DeepMLP(nn.Module):
    """`depth` hidden blocks of `width` units, then a linear readout.

    (batch, in_features) -> (batch, out_features). `blocks` is the list of hidden blocks, `readout` the last
    `nn.Linear`. Every linear layer, the readout too, is filled by `initialize(linear, initialization,
    gain=gain, bias_var=bias_var)`, in order, from `seed`: one seed gives the same weights in every dtype.
    `normalization` is None, "batch", "layer" or "rms". `skip` puts a skip around each block whose two sizes
    agree (so not the first, unless in_features == width); `branch_scale` counts only there.
    `pre_activation` turns the order in each block into norm -> activation -> linear, with or without skips. A
    first block whose two sizes differ is then a linear layer alone, the stem: an activation on the raw inputs
    would cut away a part of the data. The readout takes the last block's output as it is, so that a last
    norm and activation, as in He et al. 2016, are the caller's to add.
    Raises `TypeError` or `ValueError` with one sentence for any argument that is not allowed; `forward` does
    so for inputs of another shape or dtype.
    Ioffe and Szegedy 2015 (batch); Ba, Kiros, Hinton 2016 (layer); Zhang and Sennrich 2019 (rms).
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        in_features: int = 64,
        out_features: int = 10,
        activation: str = "tanh",
        initialization: str = "xavier_normal",
        gain: float = 1.0,
        bias: bool = True,
        bias_var: float = 0.0,
        normalization: str | None = None,
        skip: bool = False,
        branch_scale: float = 1.0,
        pre_activation: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_integer("depth", depth, at_least=1)
        check_integer("width", width, at_least=1)
        check_integer("in_features", in_features, at_least=1)
        check_integer("out_features", out_features, at_least=1)
        check_choice("initialization", initialization, SCHEMES)
        check_flag("bias", bias)
        check_choice("normalization", normalization, [None, *NORMALIZATIONS])
        check_flag("skip", skip)
        check_flag("pre_activation", pre_activation)
        check_choice("dtype", dtype, DTYPES)
        generator = seeded_generator(seed)

        def linear(fan_in: int, fan_out: int) -> nn.Linear:
            # skip_init: nn.Linear would draw from torch's global random state only to be drawn again.
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias, dtype=dtype)
            initialize(layer, initialization, gain=gain, bias_var=bias_var, generator=generator)
            return layer

        self.blocks = nn.ModuleList()
        for fan_in in [in_features] + [width] * (depth - 1):
            stem = pre_activation and fan_in != width
            block = Block(
                linear(fan_in, width),
                nn.Identity() if stem else activation_module(activation),
                norm=NORMALIZATIONS[normalization](width) if normalization and not stem else None,
                skip=skip and fan_in == width,
                branch_scale=branch_scale,
                pre_activation=pre_activation,
            )
            self.blocks.append(block)
        self.readout = linear(width, out_features)
        self.to(dtype)  # normalizations and PReLU come in the default dtype

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, out_features), before any softmax."""
        self._check(x)
        for block in self.blocks:
            x = block(x)
        return self.readout(x)

    def _check(self, x: Tensor) -> None:
        first = cast(Block, self.blocks[0])  # an nn.ModuleList does not say what it holds
        _check_inputs(x, self.readout.weight.dtype, ("batch", first.linear.in_features))
        norms = (block.norm for block in self.blocks)
        if self.training and len(x) == 1 and any(isinstance(norm, nn.BatchNorm1d) for norm in norms):
            raise ValueError(
                "Batch normalization needs at least 2 examples in training mode, got a batch of 1."
            )


# --- Transformers ------------------------------------------------------------------------------------------

NORM_PLACEMENTS = ("pre", "post", None)
TOKEN_NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


class SelfAttention(nn.Module):
    """Self-attention: each token gathers the values of all, weighted by softmax(query . key / sqrt(d_k)).

    (batch, tokens, d_model) -> the same shape. `query`, `key`, `value` and `output` are linear layers of
    d_model x d_model; each of `num_heads` heads works on its own d_k = d_model / num_heads features of the
    first three. With `qk_norm` queries and keys are normalized (RMS, over d_k) before they meet. Plain matrix
    products, and no fused kernel, so that it runs under torch.func.vmap and can be read.
    Raises `TypeError` or `ValueError` for sizes below 1 and for heads that do not divide d_model.
    Vaswani et al. 2017; Dehghani et al. 2023 (qk_norm).
    """

    def __init__(self, d_model: int, num_heads: int = 1, *, qk_norm: bool = False) -> None:
        super().__init__()
        check_integer("d_model", d_model, at_least=1)
        if d_model % check_integer("num_heads", num_heads, at_least=1):
            raise ValueError(f"num_heads must divide d_model, got {num_heads} heads for {d_model} features.")
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model) for _ in range(4))
        d_k = d_model // num_heads
        norm = check_flag("qk_norm", qk_norm)
        self.query_norm, self.key_norm = (nn.RMSNorm(d_k) if norm else nn.Identity() for _ in range(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, d_model) -> (batch, heads, tokens, d_k)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def logits(self, x: Tensor) -> Tensor:
        """What the softmax is taken of, (batch, heads, tokens, tokens): the last axis counts the keys."""
        query, key = self.query_norm(self._heads(self.query(x))), self.key_norm(self._heads(self.key(x)))
        return query @ key.mT / math.sqrt(query.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, d_model) -> (batch, tokens, d_model)."""
        gathered = self.logits(x).softmax(dim=-1) @ self._heads(self.value(x))
        return self.output(gathered.transpose(-3, -2).flatten(-2))


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network on each token; each a branch with a norm and a skip.

    (batch, tokens, d_model) -> the same shape. For a branch f, with s = `branch_scale`:
    "pre":  x + s f(norm(x));  "post":  norm(x + s f(x));  None:  x + s f(x).  Without `skip`, "x +" is gone.
    dim_feedforward: hidden units of the second branch, 4 d_model unless given; 0 leaves the branch out.
    norm: "layer" or "rms". Equal to `nn.TransformerEncoderLayer` (norm_first is "pre") for the same weights.
    Raises `TypeError` or `ValueError` for any argument that is not allowed; `forward` a `ValueError` for
    inputs of another shape.
    Vaswani et al. 2017 (post); Xiong et al. 2020 (pre); Zhang and Sennrich 2019 (rms).
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 1,
        dim_feedforward: int | None = None,
        *,
        norm_placement: str | None = "pre",
        norm: str = "layer",
        skip: bool = True,
        branch_scale: float = 1.0,
        qk_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(d_model, num_heads, qk_norm=qk_norm)
        hidden = 4 * d_model if dim_feedforward is None else dim_feedforward
        self.norm_placement = check_choice("norm_placement", norm_placement, NORM_PLACEMENTS)
        self.skip = check_flag("skip", skip)
        self.branch_scale = check_number("branch_scale", branch_scale)
        self.feed_forward = None
        if check_integer("dim_feedforward", hidden, at_least=0):
            up, down = nn.Linear(d_model, hidden), nn.Linear(hidden, d_model)
            self.feed_forward = nn.Sequential(up, activation_module(activation), down)
        kind = TOKEN_NORMS[check_choice("norm", norm, TOKEN_NORMS)] if norm_placement else nn.Identity
        self.attention_norm = kind(d_model)
        self.feed_forward_norm = kind(d_model) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, d_model) -> (batch, tokens, d_model)."""
        if x.ndim != 3 or x.shape[-1] != self.attention.query.in_features:
            allowed = f"(batch, tokens, {self.attention.query.in_features})"
            raise ValueError(f"inputs must have shape {allowed}, got {tuple(x.shape)}.")
        x = self._branch(x, self.attention, self.attention_norm)
        if self.feed_forward is None or self.feed_forward_norm is None:
            return x
        return self._branch(x, self.feed_forward, self.feed_forward_norm)

    def _branch(self, x: Tensor, branch: nn.Module, norm: nn.Module) -> Tensor:
        out = self.branch_scale * branch(norm(x) if self.norm_placement == "pre" else x)
        out = x + out if self.skip else out
        return norm(out) if self.norm_placement == "post" else out


class BlockOptions(TypedDict, total=False):
    """What a `Transformer` hands on to each `TransformerBlock`."""

    dim_feedforward: int | None
    norm_placement: str | None
    norm: str
    skip: bool
    branch_scale: float
    qk_norm: bool
    activation: str


class Transformer(nn.Module):
    """`depth` Transformer blocks between an embedding of each token and a linear readout of their mean.

    (batch, tokens, in_features) -> (batch, out_features). `embedding` is a linear layer, to which learned
    `positions` (tokens, d_model), drawn with standard deviation 0.5, are added; then `blocks`, `norm` (only
    with "pre", whose blocks leave the stream as large as it has grown), and `readout`. Linear layers are
    filled by `initialize(linear, initialization, gain=gain)`, in order, from `seed`, with biases 0; gain does
    not apply to queries, keys, embedding and readout, as in DeepNorm. One seed gives the same weights in
    every dtype, and for every norm, skip and scale. Other arguments and errors as `TransformerBlock`.
    Radford et al. 2019 (the last norm); Wang et al. 2022 (DeepNorm).
    """

    def __init__(
        self,
        depth: int,
        d_model: int,
        *,
        num_heads: int = 1,
        tokens: int = 8,
        in_features: int = 8,
        out_features: int = 10,
        initialization: str = "xavier_normal",
        gain: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        check_integer("depth", depth, at_least=1)
        check_integer("d_model", d_model, at_least=1)
        check_integer("tokens", tokens, at_least=1)
        check_integer("in_features", in_features, at_least=1)
        check_integer("out_features", out_features, at_least=1)
        check_choice("dtype", dtype, DTYPES)
        generator = seeded_generator(seed)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws weights, which are drawn again below
            self.embedding = nn.Linear(in_features, d_model)
            blocks = [TransformerBlock(d_model, num_heads, **block) for _ in range(depth)]
            self.blocks = nn.ModuleList(blocks)
            self.readout = nn.Linear(d_model, out_features)
        self.norm = copy.deepcopy(blocks[0].attention_norm) if blocks[0].norm_placement == "pre" else None
        self.to(dtype)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scaled = name.endswith(("value", "output")) or "feed_forward" in name
                initialize(module, initialization, gain=gain if scaled else 1.0, generator=generator)
                nn.init.zeros_(module.bias)
        positions = torch.randn(tokens, d_model, generator=generator, dtype=torch.float64) / 2
        self.positions = nn.Parameter(positions.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, in_features) -> (batch, out_features), before any softmax."""
        shape = ("batch", len(self.positions), self.embedding.in_features)
        _check_inputs(x, self.positions.dtype, shape)
        x = self.embedding(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.readout((x if self.norm is None else self.norm(x)).mean(dim=1))


# --- Recurrent networks ------------------------------------------------------------------------------------

State = Tensor | tuple[Tensor, Tensor]


class _Cell(nn.Module):
    """Two linear maps, of the input and of the last state, with one group of `width` rows for each gate."""

    gates = 1

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        gain: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features, at_least=1)
        check_integer("width", width, at_least=1)
        check_number("gain", gain)
        check_choice("dtype", dtype, DTYPES)
        generator = seeded_generator(seed)
        rows = self.gates * width
        self.from_input = nn.utils.skip_init(nn.Linear, in_features, rows, dtype=dtype)
        self.from_state = nn.utils.skip_init(nn.Linear, width, rows, dtype=dtype)
        for linear, scheme, scale in (
            (self.from_input, "xavier_normal", 1.0),
            (self.from_state, "orthogonal", gain),
        ):
            for rows_of_gate in linear.weight.detach().chunk(self.gates):  # each gate is a matrix of its own
                one = nn.utils.skip_init(nn.Linear, linear.in_features, width, bias=False, dtype=dtype)
                initialize(one, scheme, gain=scale, generator=generator)
                rows_of_gate.copy_(one.weight.detach())
            nn.init.zeros_(linear.bias)

    def start(self, batch: int) -> State:
        """The state before the first step: zeros (batch, width)."""
        return self._zeros(batch)

    def _zeros(self, batch: int) -> Tensor:
        return self.from_state.weight.new_zeros(batch, self.from_state.in_features)


class RNNCell(_Cell):
    """One step of a plain recurrent network: h' = tanh(W x + U h + b) (Elman 1990).

    Maps x (batch, in_features) and the state h (batch, width) to the next state. U is a random rotation
    times `gain`, each W is Xavier's, biases are 0; `from_input` and `from_state` hold what `nn.RNN` calls ih
    and hh. With several gates, each has a rotation of its own.
    Raises `TypeError` or `ValueError` with one sentence for any argument that is not allowed.
    """

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(batch, in_features), (batch, width) -> (batch, width)."""
        return torch.tanh(self.from_input(x) + self.from_state(state))


class GRUCell(_Cell):
    """One step of a gated recurrent unit (Cho et al. 2014): h' = (1 - z) * candidate + z * h.

    Arguments and shapes as in `RNNCell`; the rows are those of r, z and the candidate, as in `nn.GRU`.
    """

    gates = 3

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(batch, in_features), (batch, width) -> (batch, width)."""
        x_r, x_z, x_n = self.from_input(x).chunk(3, dim=-1)
        h_r, h_z, h_n = self.from_state(state).chunk(3, dim=-1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        candidate = torch.tanh(x_n + r * h_n)
        return (1 - z) * candidate + z * state


class LSTMCell(_Cell):
    """One step of a long short-term memory: c' = f * c + i * g, h' = o * tanh(c').

    The state is (h, c), each (batch, width); other arguments and shapes as in `RNNCell`; the rows are those
    of i, f, g and o, as in `nn.LSTM`. `forget_bias` is the bias of f at the start: 0 lets half of the cell
    pass, 1 lets 73 % pass (Hochreiter and Schmidhuber 1997; Gers et al. 2000; Jozefowicz et al. 2015).
    """

    gates = 4

    def __init__(self, in_features: int, width: int, *, forget_bias: float = 0.0, **options) -> None:
        super().__init__(in_features, width, **options)
        check_number("forget_bias", forget_bias)
        nn.init.constant_(self.from_input.bias.detach().chunk(4)[1], forget_bias)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """The state before the first step: two times zeros (batch, width)."""
        return self._zeros(batch), self._zeros(batch)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(batch, in_features), two times (batch, width) -> two times (batch, width)."""
        h, c = state
        i, f, g, o = (self.from_input(x) + self.from_state(h)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


CELLS: dict[str, type[_Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}


class RecurrentNetwork(nn.Module):
    """One cell, called once for each time step, then a linear readout of the last state.

    (batch, length, in_features) -> (batch, out_features). `cell` is "rnn", "lstm" or "gru"; `gain` multiplies
    its recurrent rotations; `forget_bias` is for an LSTM only. `cell` and `readout` are the two modules.
    Raises `TypeError` or `ValueError` with one sentence for any argument that is not allowed; `forward` does
    so for inputs of another shape or dtype.
    """

    def __init__(
        self,
        cell: str,
        width: int,
        *,
        in_features: int = 4,
        out_features: int = 4,
        gain: float = 1.0,
        forget_bias: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_choice("cell", cell, CELLS)
        check_integer("out_features", out_features, at_least=1)
        if forget_bias is not None and cell != "lstm":
            raise ValueError(f"cell must be lstm when there is a forget_bias, got {cell!r}.")
        make_cell = CELLS[cell] if forget_bias is None else partial(LSTMCell, forget_bias=forget_bias)
        self.cell = make_cell(in_features, width, gain=gain, seed=seed, dtype=dtype)
        self.readout = nn.utils.skip_init(nn.Linear, width, out_features, dtype=dtype)
        # Drawn apart from the cell, so that two kinds of cells get the same readout.
        initialize(self.readout, "xavier_normal", generator=seeded_generator((int(seed) + 2**31) % 2**32))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, in_features) -> (batch, out_features), before any softmax."""
        _check_inputs(x, self.readout.weight.dtype, ("batch", "length", self.cell.from_input.in_features))
        state = self.cell.start(len(x))
        for step in x.unbind(dim=1):
            state = self.cell(step, state)
        h = state[0] if isinstance(state, tuple) else state
        return self.readout(h)
