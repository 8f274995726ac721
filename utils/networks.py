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
    """linear -> norm -> activation, or with `pre_activation` norm -> activation -> linear; `skip` adds x.

    Maps (batch, in_features) to (batch, out_features). With `skip`, x + branch_scale * (that), so that what
    is added to x is the output of the activation, or with `pre_activation` that of the linear layer, which
    has both signs; without `skip` the order alone differs, and `branch_scale` does not count. `norm` may be
    None; with `pre_activation` it takes the block's input. `branch_scale` is a number; for one that is
    learned (ReZero), assign an `nn.Parameter` to `block.branch_scale` afterwards.
    Raises `ValueError` for a skip around a linear layer that changes the width, `TypeError` for one that is
    no `nn.Linear` and for a flag that is neither True nor False.
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
        in_features, dtype = self.blocks[0].linear.in_features, self.readout.weight.dtype
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be a torch.Tensor, got {type(x).__name__}.")
        if x.dtype != dtype:
            raise TypeError(f"inputs must have the network's dtype {dtype}, got {x.dtype}.")
        if x.ndim != 2 or x.shape[1] != in_features or len(x) == 0:
            raise ValueError(
                f"inputs must have shape (batch, {in_features}) with batch >= 1, got {tuple(x.shape)}."
            )
        norms = (block.norm for block in self.blocks)
        if self.training and len(x) == 1 and any(isinstance(norm, nn.BatchNorm1d) for norm in norms):
            raise ValueError(
                "Batch normalization needs at least 2 examples in training mode, got a batch of 1."
            )
