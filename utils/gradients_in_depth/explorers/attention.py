"""Lesson 08: gradients and tokens in a deep Transformer."""

import functools

import numpy as np
from matplotlib.axes import Axes

from gradients_in_depth import data, plots, theory
from gradients_in_depth.experiments import attention
from gradients_in_depth.explorers.widgets import Choice, Controls, Explorer, Slider, empty_figure

_NAMES = {"pre": "Pre-LN", "post": "Post-LN", "none": "No norm"}


def transformer_depth() -> Explorer:
    """Lesson 08: a random Transformer: what comes back to each block, and how different its tokens still are.

    depth x norm placement x skips; 4 sequences of 8 random tokens, d_model 32, Xavier weights drawn once, in
    float64. The gradient that enters the last block is Gaussian. Black: theory, for skips with a norm.
    """
    longest, tokens, d_model = 24, 8, 32
    figure = empty_figure(
        {"ylabel": "gradient", "xlim": (0, longest + 1), "title": "GRADIENT"},
        {"ylabel": "share of the stream", "xlim": (0, longest + 1), "title": "WHAT DIFFERS BETWEEN TOKENS"},
    )
    inputs = data.gaussian_batch(4 * tokens, d_model, seed=101).reshape(4, tokens, d_model)
    arriving = data.gaussian_batch(4 * tokens, d_model, seed=102).reshape(4, tokens, d_model)
    stacks = {
        (placement or "none", skip): attention.random_blocks(longest, d_model, placement, skip)
        for placement in ("pre", "post", None)
        for skip in (True, False)
    }

    @functools.lru_cache(maxsize=256)
    def measure(depth: int, placement: str, skip: bool) -> attention.TokenFlow:
        return attention.token_flow(stacks[placement, skip][:depth], inputs, arriving)

    def draw(axes: list[Axes], depth: int, placement: str, skip: bool) -> str:
        flow = measure(depth, placement, skip)
        gradient = flow.stream_gradient / flow.stream_gradient[-1]
        query = flow.query_gradient / flow.query_gradient[0]
        back, differences = axes
        plots.layers(gradient, label="stream, last block = 1", ax=back, kind="line")
        plots.layers(query, label="W_Q, first block = 1", ax=back)
        plots.snap(back, (1e-4, 1e4), (1e-10, 1e10), (1e-30, 1e30))
        plots.layers(np.maximum(flow.difference, 1e-17), label="measured", ax=differences)
        if skip and placement != "none":
            law = theory.transformer_trajectory(depth, tokens, placement).difference[1:]
            plots.layers((law * (1 - 1 / tokens)) ** 0.5, label="theory", kind="theory", ax=differences)
        plots.snap(differences, (1e-3, 30), (1e-8, 1e3), (1e-18, 1e6))
        for ax in axes:
            ax.set_xlabel("block")
        last = flow.difference[-1]
        handed_on = f"{last:.2g}" if last > 1e-14 else "nothing but rounding"
        return (
            f"{_NAMES[placement]}, {depth} blocks, {'with' if skip else 'without'} skips. The stream's "
            f"gradient in the first block is {gradient[0]:.2g} of that in the last; W_Q's gradient in the "
            f"last block is {query[-1]:.2g} of that in the first. Of the differences between "
            f"tokens the last block hands on {handed_on}."
        )

    controls: Controls = {
        "depth": Slider("depth", range(1, longest + 1), 12, "blocks"),
        "placement": Choice("norm", {"Pre-LN": "pre", "Post-LN": "post", "no norm": "none"}, "post"),
        "skip": Choice("skips", {"with": True, "without": False}, True),
    }
    tries = (
        "Post-LN with skips: raise the depth. Which gradient disappears, and at which end of the network?",
        "Change to Pre-LN at the same depth: what happens to the tokens now? Exponentially, or as a power?",
        "Take the skips away. After how many blocks are all tokens the same?",
        "No norm, with skips: what grows, and at which end?",
    )
    return Explorer(controls, figure, draw, tries, legend="upper right")
