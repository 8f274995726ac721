"""What every test of the course shares, the notebooks included."""

import functools
import os
import subprocess
import tempfile

import pytest
from hypothesis import settings
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

# Kernels inherit this: no progress bars in outputs; one thread, because two workers share the machine; and
# nobody's personal settings.
os.environ.update(TQDM_DISABLE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.pop("MPLBACKEND", None)
_ipython = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
os.environ["IPYTHONDIR"] = _ipython.name

# Property tests try the same examples everywhere, and a slow machine is not a failure.
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")

NO_CHROMIUM = (
    "There is no Chromium here. Install one (Debian and Ubuntu: apt install chromium; elsewhere Chromium or "
    "Google Chrome from its own site), or say where it is: CHROMIUM=/path/to/chromium make test"
)


def _execute_as_a_notebook_does(self: RunningKernel, source: str, allow_stdin: bool | None = None) -> str:
    return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)


# nbval keeps cells out of the history, and there IPython looks for the `;` that silences a cell.
RunningKernel.execute_cell_input = _execute_as_a_notebook_does

_same_words = IPyNbCell.compare_outputs


def _same_words_and_pictures(self: IPyNbCell, now: list, stored: list, *skipped: tuple) -> bool:
    from tests.same_pictures import changed_pictures  # here: NumPy must not start before the lines above

    if not _same_words(self, now, stored, *skipped):
        return False
    self.comparison_traceback += changed_pictures(now, stored)
    return not self.comparison_traceback


# nbval compares no images. Here every lesson runs anyway, so that no second run is needed to see them.
IPyNbCell.compare_outputs = _same_words_and_pictures


NO_BUBBLEWRAP = (
    "There is no bubblewrap here, or it may not be used: {}. Install it (Debian and Ubuntu: apt install "
    "bubblewrap); in a container, user namespaces must be permitted"
)


@functools.cache
def _no_bubblewrap() -> str:
    """Why no sandbox can be started; empty where one can."""
    everything = [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
    ]
    try:
        done = subprocess.run(["bwrap", *everything, "true"], capture_output=True, text=True, timeout=30)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("browser"):
        from tests.browser.lab import find_chromium  # here, because most runs need no browser

        if find_chromium() is None:
            pytest.skip(NO_CHROMIUM)
    if item.get_closest_marker("sandbox") and _no_bubblewrap():
        pytest.skip(NO_BUBBLEWRAP.format(_no_bubblewrap()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With CI set, a skipped browser or sandbox test is a failure, because nobody would read the skip."""
    report = yield
    marked = item.get_closest_marker("browser") or item.get_closest_marker("sandbox")
    if report.skipped and marked and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped in CI.\n{reason}"
    return report
