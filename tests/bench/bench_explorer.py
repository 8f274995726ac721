"""From key press to changed picture: our explorer beside `ipywidgets.interact`, same network, same run.

    python tests/bench/bench_explorer.py [--presses 60] [--rounds 3]

Both compute the same: forward and backward through 45 to 55 layers of tanh, width 128, batch 64, float64, on
one thread, and draw gradient and theory by layer, in one size: ours as an explorer does, the other as one
writes it in plain matplotlib. In a real JupyterLab, one key press at a time, the two take
turns. Then our explorer alone: a drag of 30 events in a second, and the kernel's memory before and after 500
changes.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import v4

sys.path.insert(
    0, str(Path(__file__).parents[1] / "browser")
)  # no package: pytest collects neither folder's files
import lab

SETUP = """
import os
import matplotlib.pyplot as plt
import numpy as np
import psutil
import torch
from ipywidgets import IntSlider, interact
from gradients_in_depth import data, explorers, signals, theory
torch.set_num_threads(1)  # and not session.start: interact is to show plain inline figures
weights = (data.gaussian_batch(100 * 128, 128, seed=0).reshape(100, 128, 128) / 128**0.5).unbind()
inputs, arriving = data.gaussian_batch(64, 128, seed=1), data.gaussian_batch(64, 128, seed=2)
predicted = theory.gradient_norm_trajectory(100, "tanh", 1.0, first=1.0)
"""
OURS = 'explorers.deep_network().set(activation="tanh", depth=50)'
INTERACT = """
def show(depth):
    _, rms = signals.flow(weights[:depth], inputs, "tanh", arriving)
    layers = np.arange(1, depth + 1)
    figure, ax = plt.subplots(figsize=(9, 4.2))
    ax.semilogy(layers, rms / rms[-1], "o", label="measured")
    ax.semilogy(layers, predicted[:depth] / predicted[depth - 1], "k", label="theory, infinite width")
    ax.set(xlim=(0, 101), ylim=(1e-10, 1e5), xlabel="layer", ylabel="activation gradient, last layer = 1")
    ax.grid(alpha=0.16)
    ax.legend(loc="lower right")
    plt.show()
interact(show, depth=IntSlider(50, 1, 100));
"""
MEMORY = "round(psutil.Process(os.getpid()).memory_info().rss / 2**20)"

# What a cell shows, watched at every change of its outputs: time, a mark of the picture, height, emptiness.
WATCH = """cell => {
  const area = cell.querySelector('.jp-Cell-outputArea');
  const look = () => {
    const time = performance.now();
    const picture = area.querySelector('.gid-picture, .jp-RenderedImage img');
    const mark = picture?.getAttribute('aria-label') ?? picture?.src ?? '';
    const last = window.seen.at(-1);
    if (!last || last.mark !== mark || last.height !== area.offsetHeight)
      window.seen.push({time, mark, height: area.offsetHeight, blank: !picture});
  };
  window.watcher?.disconnect();
  window.watcher = new MutationObserver(look);
  window.seen = []; window.keys = [];
  look();
  window.watcher.observe(area, {subtree: true, childList: true, attributes: true, characterData: true});
  window.listener ??= document.addEventListener(
    'keydown', () => window.keys.push(performance.now()), true) ?? true;
}"""


def notebook(folder: Path) -> None:
    """Three cells: what both need, ours, interact; and one that says how much memory the kernel has."""
    cells = [v4.new_code_cell(source.strip()) for source in (SETUP, OURS, INTERACT, MEMORY)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), folder / "bench.ipynb")


def watch(page, cell: int):
    """Watch a cell and put the focus on its first slider."""
    code = page.locator(".jp-CodeCell").nth(cell)
    code.scroll_into_view_if_needed()
    slider = code.get_by_role("slider").first
    slider.focus()
    code.evaluate(WATCH)
    return slider


def press(
    page, presses: int, pause: float, keys=("ArrowRight", "ArrowLeft")
) -> tuple[list[float], list[dict]]:
    """Milliseconds from each key press to the picture that follows it, and all that was seen."""
    for number in range(presses):
        page.keyboard.press(keys[number // 5 % len(keys)])
        page.wait_for_timeout(pause)
    page.wait_for_timeout(1000)
    keys_at, seen = page.evaluate("[window.keys, window.seen]")
    delays = []
    for start, end in zip(keys_at, [*keys_at[1:], float("inf")], strict=True):
        changes = zip(seen[1:], seen, strict=False)
        new = [now["time"] for now, before in changes if now["mark"] != before["mark"] and not now["blank"]]
        pictures = [time for time in new if start < time < end]
        if pictures:
            delays.append(pictures[-1] - start)
    return delays, seen


def summary(name: str, delays: list[float]) -> float:
    """Print median and 95th percentile; return the median."""
    ordered = sorted(delays)
    median, late = statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{name:12s} median {median:6.1f} ms   p95 {late:6.1f} ms   ({len(ordered)} pictures)")
    return median


def kernel_memory(page) -> int:
    """Megabytes of the kernel, by running the last cell."""
    page.evaluate("""async () => {
      const panel = window.jupyterapp.shell.currentWidget;
      panel.content.activeCellIndex = 3;
      await window.jupyterapp.commands.execute('notebook:run-cell');
    }""")
    page.wait_for_timeout(500)
    outputs = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets[3].model.outputs.toJSON()")
    return int(outputs[0]["data"]["text/plain"])


def main() -> None:
    """Run the whole benchmark and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presses", type=int, default=40, help="key presses per round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chromium = lab.find_chromium()
    if chromium is None:
        raise SystemExit("No Chromium found: install one, or name it in the environment variable CHROMIUM.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "notebooks"
        folder.mkdir()
        notebook(folder)
        with lab.jupyterlab(folder, Path(scratch)) as address, lab.chromium(chromium) as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            errors = lab.Notebook(page, address, "bench.ipynb").run_all()
            if errors:
                raise SystemExit("\n".join(errors))
            measure(page, options)


def measure(page, options: argparse.Namespace) -> None:
    """The three measurements, on an open page."""
    delays: dict[str, list[float]] = {"ours": [], "interact": []}
    heights: set[int] = set()
    blanks = 0
    for turn in range(options.rounds + 1):
        for name, cell in (("ours", 1), ("interact", 2)):
            watch(page, cell)
            found, seen = press(page, options.presses if turn else 10, 600)
            if turn:  # the first is warm-up
                delays[name] += found
            if name == "ours":
                heights |= {s["height"] for s in seen}
                blanks += sum(s["blank"] for s in seen)
    ours, interact = (summary(name, found) for name, found in delays.items())
    print(f"ratio of medians: {ours / interact:.2f}")
    print(f"ours: heights seen {sorted(heights)}, blank frames {blanks}")

    page.locator(".jp-CodeCell").nth(1).get_by_role("button", name="Reset").click()
    page.wait_for_timeout(1000)
    watch(page, 1)
    page.evaluate("""async () => {
      const range = document.activeElement;
      for (let step = 0; step < 30; step++) {
        window.keys.push(performance.now());
        range.value = Number(range.value) + 1;
        range.dispatchEvent(new Event('input', {bubbles: true}));
        await new Promise(resolve => setTimeout(resolve, 1000 / 30));
      }
    }""")
    page.wait_for_timeout(1500)
    keys, seen = page.evaluate("[window.keys, window.seen]")
    drawn = [s for s, before in zip(seen[1:], seen, strict=False) if s["mark"] != before["mark"]]
    last = page.get_by_role("slider").first.get_attribute("aria-valuetext")
    delay = drawn[-1]["time"] - keys[-1]
    print(f"fast drag: 30 events in {(keys[-1] - keys[0]) / 1000:.2f} s, {len(drawn)} pictures")
    print(f"the last came {delay:.0f} ms after the last event, for {last}: {drawn[-1]['mark'][:20]!r}")

    before = kernel_memory(page)
    watch(page, 1)
    press(page, 500, 60)
    print(f"memory of the kernel: {before} MB, after 500 changes {kernel_memory(page)} MB")


if __name__ == "__main__":
    main()
