"""How the tests themselves run: without a Chromium, in CI, and notebooks under strict nbval."""

import base64
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tools.lessons import build

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
SUITE = """
import os
import pytest

@pytest.mark.browser
def test_a_slider():
    pass

@pytest.mark.browser
def test_that_skips_by_itself():
    pytest.skip("no slider")

@pytest.mark.skip(reason="not today")
def test_other():
    pass

def test_what_kernels_inherit():
    assert os.environ["TQDM_DISABLE"] == os.environ["OMP_NUM_THREADS"] == "1"
"""


@pytest.fixture
def run(tmp_path):
    """Runs a suite with the course's conftest, on a machine that has a Chromium or none."""

    def run(chromium: str | None, suite: str = SUITE, **environment: str) -> str:
        shutil.copy(ROOT / "conftest.py", tmp_path)
        (tmp_path / "pyproject.toml").write_text(
            "[tool.pytest.ini_options]\nmarkers = ['browser: x', 'sandbox: x']\n", encoding="utf-8"
        )
        (tmp_path / "test_suite.py").write_text(suite, encoding="utf-8")
        (tmp_path / "tests" / "browser").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / "browser" / "lab.py").write_text(
            f"def find_chromium():\n    return {chromium!r}\n", encoding="utf-8"
        )
        command = [sys.executable, "-m", "pytest", "-rsfp", "-p", "no:cacheprovider", "-p", "no:nbval"]
        clean = clean_environment() | environment
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True).stdout

    return run


def clean_environment() -> dict[str, str]:
    """Without what this run of pytest was told: another one would take its options, and empty its folder."""
    mine = ("CI", "TQDM_DISABLE")
    return {k: value for k, value in os.environ.items() if k not in mine and not k.startswith("PYTEST")}


def test_without_a_chromium_browser_tests_are_skipped_with_advice(run):
    said = run(None)
    assert "1 passed, 3 skipped" in said
    assert "apt install chromium" in said
    assert "CHROMIUM=/path/to/chromium make test" in said


def test_in_ci_a_skipped_browser_test_is_a_failure(run):
    said = run(None, CI="true")
    assert "1 passed, 1 skipped, 2 errors" in said
    assert "may not be skipped in CI" in said
    assert "apt install chromium" in said


def test_with_a_chromium_only_what_skips_by_itself_fails_in_ci(run):
    said = run("/usr/bin/chromium", CI="true")
    assert "1 failed, 2 passed, 1 skipped" in said
    assert "no slider" in said


SANDBOXED = "import pytest\n\n@pytest.mark.sandbox\ndef test_a_kernel():\n    pass\n"


def test_without_bubblewrap_sandbox_tests_are_skipped_and_a_failure_in_ci(run, tmp_path):
    nowhere = str(tmp_path)
    said = run(None, SANDBOXED, PATH=nowhere)
    assert "1 skipped" in said
    assert "apt install bubblewrap" in " ".join(said.split())
    said = run(None, SANDBOXED, PATH=nowhere, CI="true")
    assert "1 error" in said
    assert "may not be skipped in CI" in said


LESSON = """# %%
from IPython.display import display

said = f"It falls to {1 / 100}."
path, png = f"M{1 / 8} 0", "data:image/png;base64,A" + "A=="
picture = f'<div aria-label="{said}"><svg><path d="{path}"/></svg><img src="{png}"></div>'
display({"text/html": picture, "text/plain": said, "image/png": "NEERG"[::-1]}, raw=True)
print(f"{1 / 3:.3f}")

# %%
1 + 1;
"""


def square(color: str) -> str:
    """A PNG of one colour, in base64."""
    Image.new("RGB", (8, 8), color).save(drawn := BytesIO(), "png")
    return base64.b64encode(drawn.getvalue()).decode()


def test_strict_nbval_compares_words_numbers_and_pictures_and_no_paths(tmp_path):
    (tmp_path / "lesson.py").write_text(LESSON.replace("NEERG", square("green")[::-1]), encoding="utf-8")
    build(tmp_path / "lesson.py", tmp_path / "good.ipynb")
    good = (tmp_path / "good.ipynb").read_text(encoding="utf-8")
    changed = {
        "other_path": good.replace("M0.125", "M0.126"),
        "other_png": good.replace("AA==", "AB=="),
        "other_picture": good.replace(square("green"), square("blue")),
        "other_number": good.replace("0.333", "0.334"),
        "other_sentence": good.replace('label=\\"It falls', 'label=\\"It rises'),
        "forgotten_semicolon": good.replace("1 + 1;", "1 + 1"),
    }
    for name, text in changed.items():
        assert text != good
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "same_pictures.py", tmp_path / "tests")
    options = [
        "--nbval",
        "--nbval-current-env",
        f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval_sanitize.cfg'}",
    ]
    command = [sys.executable, "-m", "pytest", "-rf", "--color=no", "-p", "no:cacheprovider", *options]
    clean = clean_environment()
    said = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True).stdout
    failed = {line.split()[1].split(".")[0] for line in said.splitlines() if line.startswith("FAILED")}
    assert failed == {"other_picture", "other_number", "other_sentence", "forgotten_semicolon"}
    assert "10 passed" in said
    assert "Picture 1 differs from the one that is stored" in said
