"""A real JupyterLab in a real Chromium, for the browser tests and the benchmarks."""

import json
import os
import shutil
import socket
import subprocess
import symtable
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, sync_playwright

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
THEMES = ("JupyterLab Light", "JupyterLab Dark")

# Chromium's own services would each try to reach a network that a test must not need.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# JupyterLab's own error. It was seen once in hundreds of notebooks, in an exercise: nothing on that page runs
# code of ours, and the page was whole all the same.
OF_JUPYTERLAB = "Failed to execute 'removeChild' on 'Node'"
# A kernel that is not connected yet takes an execution request and loses it in silence.
READY = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  const kernel = context?.isReady ? context.session?.kernel : null;
  return kernel?.connectionStatus === 'connected' && kernel?.status === 'idle';
}"""
RUN = """async cells => {
  const {commands, shell} = window.jupyterapp;
  for (const cell of cells) {
    shell.currentWidget.content.deselectAll();
    shell.currentWidget.content.activeCellIndex = cell;
    await commands.execute('notebook:run-cell');
  }
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .flatMap(cell => cell.model.outputs.toJSON())
  .filter(output => output.output_type === 'error' || output.name === 'stderr')
  .map(output => output.evalue ?? output.text)"""
# Every output of the notebook is in the page, also below what is in sight, and every picture is loaded.
DRAWN = """() => {
  const outputs = window.jupyterapp.shell.currentWidget.content.widgets
    .flatMap(cell => cell.model.type === 'code' ? cell.model.outputs.toJSON() : []);
  return outputs.length && outputs.length === document.querySelectorAll('.jp-OutputArea-output').length
    && [...document.images].every(image => image.complete);
}"""


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def jupyterlab(root: Path, scratch: Path):
    """Serve `root` with a JupyterLab that keeps its own files in `scratch`; yields its address."""
    settings = {"@jupyterlab/docmanager-extension/plugin": {"autosave": False}}
    folders = {
        name: scratch / name for name in ("config", "data", "runtime", "ipython", "settings", "workspaces")
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for plugin, values in settings.items():
        package, name = plugin.rsplit("/", 1)
        file = folders["settings"] / package / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folders["config"]),
        "JUPYTER_DATA_DIR": str(folders["data"]),
        "JUPYTER_RUNTIME_DIR": str(folders["runtime"]),
        "IPYTHONDIR": os.environ.get("IPYTHONDIR", str(folders["ipython"])),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
    ]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"]
    command += ["--KernelManager.shutdown_wait_time=1"]  # else 2.5 s pass at the end of each page
    command += ["--LabApp.expose_app_in_browser=True", f"--LabApp.user_settings_dir={folders['settings']}"]
    command += [f"--LabApp.workspaces_dir={folders['workspaces']}"]
    address = f"http://127.0.0.1:{port}"
    with (scratch / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"{address}/api/status", server, scratch / "server.log")
            yield address
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise RuntimeError(f"JupyterLab does not answer:\n{log.read_text(encoding='utf-8')[-2000:]}")


@contextmanager
def chromium(executable: str):
    """A headless browser; yields it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Notebook:
    """One notebook, open in one page. `problems` holds what the console called an error."""

    def __init__(self, page: Page, address: str, path: str):
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self._note(error.message, f"\n{error.stack}"))
        page.on("console", lambda message: message.type == "error" and self._note(message.text))
        page.goto(f"{address}/lab/tree/{path}?reset", wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=90_000)

    def _note(self, said: str, where: str = "") -> None:
        if not said.startswith(OF_JUPYTERLAB):
            self.problems.append(said + where)

    def wait_until_drawn(self) -> None:
        """Wait until every output is there to look at."""
        self.page.wait_for_function(DRAWN, timeout=60_000)

    def change_theme(self, theme: str) -> None:
        """Change to one of THEMES, and wait for it."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        self.page.wait_for_selector(f'body[data-jp-theme-name="{theme}"]', state="attached")

    def run(self, cells: Iterable[int], timeout: float = 120.0) -> list[str]:
        """Run the cells with these numbers, one after the other; returns what went to error or stderr."""
        self.page.evaluate(RUN, list(cells))
        self.page.wait_for_function(READY, timeout=timeout * 1000)
        return self.page.evaluate(ERRORS)

    def run_all(self, timeout: float = 500.0) -> list[str]:
        """Run every cell and wait for the kernel; returns what went to error or stderr."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        done = """() => { const cells = window.jupyterapp.shell.currentWidget.content.widgets
          .filter(cell => cell.model.type === 'code' && cell.model.sharedModel.source.trim());
          const failed = cells.some(cell => cell.model.outputs.toJSON().some(o => o.output_type === 'error'));
          return failed || cells.every(cell => Number.isInteger(cell.model.executionCount)
            && cell.model.executionState !== 'running'); }"""
        self.page.wait_for_function(done, timeout=timeout * 1000)
        self.page.wait_for_function(READY, timeout=timeout * 1000)
        return self.page.evaluate(ERRORS)


def explorer_cells(notebook: Path) -> list[int]:
    """The numbers of the cells tagged `explorer`, and of those that define what they use, directly or not.

    A name is traced to the last cell above that assigns it or imports it. A cell that only changes a value in
    place is not found.
    """
    chosen, missing = [], set()
    for number, cell in reversed(list(enumerate(nbformat.read(notebook, nbformat.NO_CONVERT).cells))):
        if cell.cell_type == "code":
            defined, used = _names(cell.source)
            if defined & missing or "explorer" in cell.metadata.get("tags", []):
                chosen.append(number)
                missing = missing - defined | used
    return chosen[::-1]


def _names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell defines, and those that it uses, also within its functions."""
    cell = symtable.symtable(source, "cell", "exec")
    scopes = [cell]
    for scope in scopes:
        scopes += scope.get_children()
    symbols = cell.get_symbols()
    defined = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in symbols if s.is_referenced()}
    return defined, used | {
        s.get_name() for scope in scopes[1:] for s in scope.get_symbols() if s.is_global()
    }


def explorers(page: Page) -> Iterator[Locator]:
    """The cells with sliders, each in sight: a cell that is not has a height that is only estimated."""
    for cell in page.locator(".jp-CodeCell:has(.gid-slider)").all():
        cell.scroll_into_view_if_needed()
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        yield cell


# Of an element: text whose colour is too close to what lies behind it, as (text, contrast); WCAG 2.2, 1.4.3.
FAINT_TEXT = """root => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = channels(color).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0.5) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const faint = [];
  const outputs = '.jp-OutputArea-output, .jp-OutputArea-output *';
  for (const element of root.querySelectorAll(outputs)) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || !element.getClientRects().length || element.closest('style')) continue;
    const style = getComputedStyle(element);
    const drawn = element instanceof SVGElement ? style.fill : style.color;
    const [high, low] = [luminance(drawn), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.push([text.slice(0, 40), contrast]);
  }
  return faint;
}"""
# Of an element: pictures without words. Our own must say what they show; no bare <img> may stand for them.
MUTE_PICTURES = """root => [...root.querySelectorAll('.jp-OutputArea-output :is(img, svg, .gid-picture)')]
  .filter(e => e.getClientRects().length && !e.alt)
  .filter(e => !e.closest('[role="img"][aria-label]:not([aria-label=""])'))
  .filter(e => !e.querySelector('img[alt]:not([alt=""])'))
  .map(e => e.outerHTML.slice(0, 80))"""
