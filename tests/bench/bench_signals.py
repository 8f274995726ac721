"""What `signals.measure` costs beside a bare forward and backward pass of the same network.

Runs the two in turn, so that a busy machine slows both, and prints the median, least and largest ratio of
the pairs, by the clock and by processor time (which other processes disturb less):

    python tests/bench/bench_signals.py
    python tests/bench/bench_signals.py --threads 2 --layers leaves --repeats 60

Exits with 1 when a median by the clock is above --limit.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from gradients_in_depth.networks import Block, DeepMLP
from gradients_in_depth.signals import measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--activation", default="tanh")
    parser.add_argument("--dtype", choices=["float32", "float64", "bfloat16"], default="float32")
    parser.add_argument("--layers", choices=["blocks", "leaves"], default="blocks")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--limit", type=float, default=1.3)
    options = parser.parse_args()

    dtype = getattr(torch, options.dtype)
    model = DeepMLP(
        options.depth, options.width, in_features=options.width, activation=options.activation, dtype=dtype
    )
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(options.batch, options.width, generator=generator).to(dtype)
    targets = torch.randint(10, (options.batch,), generator=generator)
    layers = Block if options.layers == "blocks" else None

    def bare() -> None:
        F.cross_entropy(model(inputs), targets).backward()
        model.zero_grad()  # measure gives its memory back, too

    def measured() -> None:
        measure(model, inputs, targets, F.cross_entropy, layers=layers, learning_rate=0.1)

    def seconds(function: Callable[[], None]) -> tuple[float, float]:
        clock, processor = time.perf_counter(), time.process_time()
        function()
        return time.perf_counter() - clock, time.process_time() - processor

    print(
        f"depth {options.depth}, width {options.width}, batch {options.batch}, {options.activation}, "
        f"{options.dtype}, layers: {options.layers}, {options.repeats} pairs"
    )
    slowest = 0.0
    for threads in options.threads:
        torch.set_num_threads(threads)
        for _ in range(3):  # the first runs allocate
            seconds(bare), seconds(measured)
        pairs = [(seconds(bare), seconds(measured)) for _ in range(options.repeats)]
        for kind, name in enumerate(["clock", "processor"]):
            before, after = ([run[kind] for run in runs] for runs in zip(*pairs, strict=True))
            ratios = sorted(b / a for a, b in zip(before, after, strict=True))
            print(
                f"threads {threads}, {name:9}: ratio {statistics.median(ratios):.3f} "
                f"(min {ratios[0]:.3f}, max {ratios[-1]:.3f}); least ms: bare {1e3 * min(before):.1f}, "
                f"measured {1e3 * min(after):.1f}, ratio of the two {min(after) / min(before):.3f}"
            )
            if name == "clock":
                slowest = max(slowest, statistics.median(ratios))
    raise SystemExit(slowest > options.limit)


if __name__ == "__main__":
    main()
