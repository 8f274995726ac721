"""Deep multilayer perceptrons, plain enough to read in a minute."""

import torch
from torch import Tensor, nn

from utils.data import DTYPES, check_choice, check_flag, check_integer, check_number, seeded_generator
from utils.initialization import SCHEMES, initialize
from utils.theory import activation_module

NORMALIZATIONS: dict[str, type[nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


class Block(nn.Module):
    """linear -> norm -> activation; with `skip`, x + branch_scale * (that).

    Maps (batch, in_features) to (batch, out_features). `norm` may be None. Raises `ValueError` for a skip
    around a linear layer that changes the width, `TypeError` for one that is no `nn.Linear`.
    He et al. 2016 (residual connections).
    """

    def __init__(
        self,
        linear: nn.Linear,
        activation: nn.Module,
        norm: nn.Module | None = None,
        skip: bool = False,
        branch_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear must be an nn.Linear, got {type(linear).__name__}.")
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

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, out_features)."""
        branch = self.linear(x)
        if self.norm is not None:
            branch = self.norm(branch)
        branch = self.activation(branch)
        return x + self.branch_scale * branch if self.skip else branch


class DeepMLP(nn.Module):
    """`depth` hidden blocks of `width` units, then a linear readout.

    (batch, in_features) -> (batch, out_features). `blocks` is the list of hidden blocks, `readout` the last
    `nn.Linear`. Every linear layer, the readout too, is filled by `initialize(linear, initialization,
    gain=gain, bias_var=bias_var)`, in order, from `seed`: one seed gives the same weights in every dtype.
    `normalization` is None, "batch", "layer" or "rms". `skip` puts a skip around each block whose two sizes
    agree (so not the first, unless in_features == width); `branch_scale` counts only there.
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
        check_choice("dtype", dtype, DTYPES)
        generator = seeded_generator(seed)

        def linear(fan_in: int, fan_out: int) -> nn.Linear:
            # skip_init: nn.Linear would draw from torch's global random state only to be drawn again.
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias, dtype=dtype)
            initialize(layer, initialization, gain=gain, bias_var=bias_var, generator=generator)
            return layer

        self.blocks = nn.ModuleList()
        for fan_in in [in_features] + [width] * (depth - 1):
            block = Block(
                linear(fan_in, width),
                activation_module(activation),
                norm=NORMALIZATIONS[normalization](width) if normalization else None,
                skip=skip and fan_in == width,
                branch_scale=branch_scale,
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
        in_features, dtype = self.blocks[0].linear.in_features, self.readout.weight.dtype
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be a torch.Tensor, got {type(x).__name__}.")
        if x.dtype != dtype:
            raise TypeError(f"inputs must have the network's dtype {dtype}, got {x.dtype}.")
        if x.ndim != 2 or x.shape[1] != in_features or len(x) == 0:
            raise ValueError(
                f"inputs must have shape (batch, {in_features}) with batch >= 1, got {tuple(x.shape)}."
            )
        if self.training and len(x) == 1 and isinstance(self.blocks[0].norm, nn.BatchNorm1d):
            raise ValueError(
                "Batch normalization needs at least 2 examples in training mode, got a batch of 1."
            )


# --- Recurrent networks ------------------------------------------------------------------------------------


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

    def start(self, batch: int) -> Tensor:
        """The state before the first step: zeros (batch, width)."""
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
        return super().start(batch), super().start(batch)

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
        options = {"gain": gain, "seed": seed, "dtype": dtype}
        if forget_bias is not None:
            if cell != "lstm":
                raise ValueError(f"forget_bias is for the cell lstm, but the cell {cell} was given.")
            options["forget_bias"] = forget_bias
        self.cell = CELLS[cell](in_features, width, **options)
        self.readout = nn.utils.skip_init(nn.Linear, width, out_features, dtype=dtype)
        # Drawn apart from the cell, so that two kinds of cells get the same readout.
        initialize(self.readout, "xavier_normal", generator=seeded_generator((int(seed) + 2**31) % 2**32))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, in_features) -> (batch, out_features), before any softmax."""
        self._check(x)
        state = self.cell.start(len(x))
        for step in x.unbind(dim=1):
            state = self.cell(step, state)
        h = state[0] if isinstance(state, tuple) else state
        return self.readout(h)

    def _check(self, x: Tensor) -> None:
        in_features, dtype = self.cell.from_input.in_features, self.readout.weight.dtype
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be a torch.Tensor, got {type(x).__name__}.")
        if x.dtype != dtype:
            raise TypeError(f"inputs must have the network's dtype {dtype}, got {x.dtype}.")
        if x.ndim != 3 or x.shape[2] != in_features or 0 in x.shape:
            raise ValueError(
                f"inputs must have shape (batch, length, {in_features}) with batch >= 1 and length >= 1, "
                f"got {tuple(x.shape)}."
            )
