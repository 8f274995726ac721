"""pyproject.toml (ranges), requirements*.txt (pins) and environment.yml (conda) agree, and say everything."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import ranges

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "utils" / "gradients_in_depth"
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
DEV = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
ENVIRONMENT = (ROOT / "environment.yml").read_text(encoding="utf-8")

# The names under which conda-forge carries what pip knows otherwise.
PIP_NAMES = {"matplotlib-base": "matplotlib", "playwright-python": "playwright", "pytorch": "torch"}

PLATFORMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"},
    "Darwin": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
    "Windows": {"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
}
MACHINES = [
    {**default_environment(), "extra": "", **platform, "platform_system": system}
    | {"python_version": python, "python_full_version": f"{python}.9"}
    for system, platform in PLATFORMS.items()
    for python in ("3.11", "3.12", "3.13")
]


def ranges_of_pyproject(text: str, *extras: str) -> dict[str, SpecifierSet]:
    """What the course needs, and what these extras add to it."""
    project = tomllib.loads(text)["project"]
    lines = [
        *project["dependencies"],
        *(line for e in extras for line in project["optional-dependencies"][e]),
    ]
    ranges = {canonicalize_name((r := Requirement(line)).name): r.specifier for line in lines}
    return ranges | {"python": SpecifierSet(project["requires-python"])}


def ranges_of_environment(text: str) -> dict[str, SpecifierSet]:
    ranges = {}
    for line in yaml.safe_load(text)["dependencies"]:
        if isinstance(line, str) and line != "pip":
            name, range_, *_build = line.split()
            ranges[canonicalize_name(PIP_NAMES.get(name, name))] = SpecifierSet(range_)
    return ranges


def pins_of(text: str) -> dict[str, Requirement]:
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]
    return {canonicalize_name((r := Requirement(line)).name): r for line in lines}


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


def disagreements(pyproject: str, requirements: str, dev: str, environment: str) -> list[str]:
    """Everything in which the four files differ, one sentence each."""
    direct, conda = ranges_of_pyproject(pyproject), ranges_of_environment(environment)
    faults = [f"{name} is in pyproject.toml only" for name in direct.keys() - conda.keys()]
    faults += [f"{name} is in environment.yml only" for name in conda.keys() - direct.keys()]
    for name in direct.keys() & conda.keys():
        if direct[name] != conda[name]:
            faults.append(f"{name} is {direct[name]} in pyproject.toml and {conda[name]} in environment.yml")
    learner, more = pins_of(requirements), pins_of(dev)
    faults += [f"{name} is pinned twice" for name in learner.keys() & more.keys()]
    everything = ranges_of_pyproject(pyproject, "test", "grading")
    for needed, pins in ((direct, learner), (everything, learner | more)):
        for name in needed.keys() - {"python"}:
            if name not in pins:
                faults.append(f"{name} has no pin")
            elif version_of(pins[name]) not in needed[name]:
                faults.append(f"{name} is pinned to {version_of(pins[name])}, outside of {needed[name]}")
    return sorted(faults)


def unusable_pins(requirements: str) -> list[str]:
    """Lines that are not one exact version of one package, wherever it comes from."""
    bad = []
    for line in requirements.splitlines():
        if line and not line.startswith("#") and line != "-r requirements.txt":
            try:
                pin = Requirement(line)
            except InvalidRequirement:
                bad.append(line)
                continue
            exact = [s.operator for s in pin.specifier] == ["=="]
            if pin.url or not exact or "+" in str(pin.specifier) or "*" in str(pin.specifier):
                bad.append(line)
    return bad


Needs = Callable[[str, str], list[Requirement] | None]


def needs_of(name: str, version: str) -> list[Requirement] | None:
    """What this release of a package needs; None where another release is installed, or none."""
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if Version(package.version).public != version:
        return None
    return [Requirement(line) for line in package.requires or []]


def incomplete_pins(roots: Iterable[str], pins: dict[str, Requirement], needs: Needs = needs_of) -> list[str]:
    """What an installation of `roots` would choose by itself on a supported system, and what nothing needs.

    `needs` tells what a pinned release needs. Where it does not know, as of packages for another system, or
    where other releases are installed than the pinned ones, nothing is said about that package's own needs.
    """
    faults, used, unknown = set(), set(), set()
    for machine in MACHINES:
        machine_name = f"{machine['platform_system']} with Python {machine['python_version']}"
        seen, todo = set(), [Requirement(name) for name in roots]
        while todo:
            need = todo.pop()
            name = canonicalize_name(need.name)
            pin = pins.get(name)
            if pin is None or (pin.marker and not pin.marker.evaluate(machine)):
                faults.add(f"{name} is not pinned for {machine_name}")
                continue
            if version_of(pin) not in need.specifier:
                faults.add(f"{name} is pinned to {version_of(pin)}, and {need} is needed on {machine_name}")
            used.add(name)
            if (name, *need.extras) in seen:
                continue
            seen.add((name, *need.extras))
            further = needs(name, version_of(pin))
            if further is None and not pin.marker:
                unknown.add(name)
            for more in further or []:
                # On Linux the PyTorch of PyPI brings its CUDA libraries, which requirements.txt leaves to it.
                if name == "torch" and more.name.startswith(("nvidia-", "cuda-", "triton")):
                    continue
                extras = need.extras or {""}
                if not more.marker or any(more.marker.evaluate({**machine, "extra": e}) for e in extras):
                    todo.append(more)
    if not unknown:
        faults |= {f"{name} is pinned and nothing needs it" for name in pins.keys() - used}
    return sorted(faults)


def imports_of(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names


def undeclared(sources: list[Path], own: set[str], declared: set[str]) -> list[str]:
    """Imported packages that are not among the declared ones; `own` are the project's own modules."""
    distributions = importlib.metadata.packages_distributions()
    found = []
    for path in sources:
        for module in sorted(imports_of(path.read_text(encoding="utf-8")) - own):
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not names & declared:
                found.append(f"{path.name} imports {module}, which pyproject.toml does not name")
    return found


def test_the_four_files_agree():
    assert disagreements(PYPROJECT, REQUIREMENTS, DEV, ENVIRONMENT) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("pyproject", '"tqdm>=4.66",', "", "tqdm is in environment.yml only"),
        (
            "pyproject",
            "torch>=2.6",
            "torch>=2.99",
            "torch is >=2.99 in pyproject.toml and >=2.6 in environment.yml",
        ),
        ("pyproject", "torch>=2.6", "torch>=2.99", "torch is pinned to"),
        ("pyproject", 'requires-python = ">=3.11"', 'requires-python = ">=3.12"', "python is >=3.12"),
        ("environment", "  - traitlets >=5.14\n", "", "traitlets is in pyproject.toml only"),
        ("environment", "  - pip\n", "  - pip\n  - nbval >=0.11\n", "nbval is in environment.yml only"),
        ("environment", "numpy >=2.0", "numpy >=1.26", "numpy is >=2.0 in pyproject.toml and >=1.26"),
        ("requirements", "scipy==", "scipy-of-old==", "scipy has no pin"),
        ("requirements", "numpy==2", "numpy==1", "numpy is pinned to 1"),
        ("requirements", "scipy==", "nbval==0.11.0\nscipy==", "nbval is pinned twice"),
        ("dev", "nbval==", "# ", "nbval has no pin"),
        ("dev", "nbval==0.11", "nbval==0.1", "nbval is pinned to 0.1"),
    ],
)
def test_a_disagreement_is_named(file, old, new, sentence):
    files = {"pyproject": PYPROJECT, "requirements": REQUIREMENTS, "dev": DEV, "environment": ENVIRONMENT}
    assert old in files[file]
    files[file] = files[file].replace(old, new)
    assert any(fault.startswith(sentence) for fault in disagreements(**files))


def test_pip_alone_can_use_the_pins():
    assert unusable_pins(REQUIREMENTS) == unusable_pins(DEV) == []
    assert "\n-r requirements.txt\n" in DEV


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.13.0+cpu",
        "torch @ file:///somewhere/torch.whl",
        "--find-links wheels",
        "-e .",
        "tqdm>=4.66",
        "tqdm==4.*",
        "tqdm",
    ],
)
def test_a_pin_that_only_works_here_is_named(line):
    assert unusable_pins("numpy==2.4.6\n# a comment\n" + line) == [line]


@pytest.mark.parametrize("extras", [(), ("test", "grading")], ids=["learners", "everything"])
def test_the_pins_are_complete_on_every_system(extras):
    """And there are no others: learners install nothing that only tests, builds or grades the course."""
    roots = ranges_of_pyproject(PYPROJECT, *extras).keys() - {"python"}
    assert incomplete_pins(roots, pins_of(REQUIREMENTS + (DEV if extras else ""))) == []


WORLD = {  # what each release of a small world of packages needs
    "lessons 1.0": ["numbers>=2", "torch", "shell[color]"],
    "numbers 2.1": [],
    "torch 3.0": ["numbers", "nvidia-blas ; sys_platform == 'linux'"],
    "shell 1.5": [
        "windows ; sys_platform == 'win32'",
        "paint ; extra == 'color'",
        "stars ; extra == 'stars'",
    ],
    "paint 0.1": ["typing ; python_version < '3.12'"],
    "typing 4.0": [],
}
WORLD_PINS = """lessons==1.0
numbers==2.1
torch==3.0
shell==1.5
windows==7.0 ; sys_platform == "win32"
paint==0.1
typing==4.0
"""


def needs_in_world(name: str, version: str) -> list[Requirement] | None:
    lines = WORLD.get(f"{name} {version}")
    return None if lines is None else [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("", "", []),
        ("numbers==2.1\n", "", ["numbers is not pinned for Darwin with Python 3.11"]),
        ("windows==", "# ", ["windows is not pinned for Windows with Python 3.11"]),
        ('"win32"', '"cygwin"', ["windows is not pinned for Windows with Python 3.11"]),
        ("typing==4.0", "", ["typing is not pinned for Linux with Python 3.11"]),
        (
            "numbers==2.1",
            "numbers==1.9",
            ["numbers is pinned to 1.9, and numbers>=2 is needed on Linux with"],
        ),
        ("paint==", "stars==1.0\npaint==", ["stars is pinned and nothing needs it"]),
        ("shell==1.5", "shell==1.6", []),  # another release than the one that is installed: nobody knows
    ],
)
def test_an_incomplete_pin_is_named(old, new, sentences):
    assert old in WORLD_PINS
    faults = incomplete_pins(["lessons"], pins_of(WORLD_PINS.replace(old, new)), needs_in_world)
    for sentence in sentences:
        assert any(fault.startswith(sentence) for fault in faults), faults
    assert sentences or not faults


def test_every_import_is_declared():
    needed = set(ranges_of_pyproject(PYPROJECT))
    everything = set(ranges_of_pyproject(PYPROJECT, "test", "grading"))
    tests = sorted((ROOT / "tests").rglob("*.py"))
    names = (path.stem for path in tests)
    own = {"gradients_in_depth", "tools", "tests", "conftest", *names}

    scripts = [*(ROOT / "notebooks" / "sources").glob("*.py"), *(ROOT / "solutions").glob("[0-9]*.py")]
    learners = sorted([*PACKAGE.rglob("*.py"), *scripts])
    assert undeclared(learners, {"gradients_in_depth"}, needed) == []
    tools = sorted((ROOT / "tools").rglob("*.py"))
    assert undeclared([*tools, ROOT / "conftest.py", *tests], own, everything) == []


def test_an_undeclared_import_is_named(tmp_path):
    script = tmp_path / "lesson.py"
    script.write_text(
        "import json\nimport seaborn.utils\nfrom PIL import Image\nimport gradients_in_depth\n",
        encoding="utf-8",
    )
    assert undeclared([script], {"gradients_in_depth"}, {"pillow"}) == [
        "lesson.py imports seaborn, which pyproject.toml does not name"
    ]


def test_the_installed_course_is_this_one():
    """An environment that was made for another copy of the course would test that copy."""
    import gradients_in_depth

    assert Path(gradients_in_depth.__file__).parent == PACKAGE
    assert importlib.metadata.version("gradients-in-depth") == tomllib.loads(PYPROJECT)["project"]["version"]


# --- Somebody else's project -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The course's wheel, unpacked as pip installs it, and nothing of this folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(PACKAGE, folder / "utils" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", folder]
    subprocess.run([*pip, *built], check=True, capture_output=True)
    (file,) = (folder / "dist").iterdir()
    installed = ["install", "--no-deps", "--no-index", "--target", folder / "site", file]
    subprocess.run([*pip, *installed], check=True, capture_output=True)
    return folder / "site"


def run_in(folder, wheel, code):
    """What a program says that stands in this folder, with the wheel installed."""
    (folder / "program.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "program.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_no_other_name(wheel):
    files = {path.relative_to(wheel / PACKAGE.name) for path in (wheel / PACKAGE.name).rglob("*.*")}
    here = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.*")}
    assert {f for f in files if f.suffix != ".pyc"} == {f for f in here if f.suffix != ".pyc"}
    assert {path.suffix for path in files} >= {".py", ".js", ".css"}
    names = {path.name for path in wheel.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {PACKAGE.name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "own", [["utils.py"], ["utils/helpers.py"], ["utils.py", "utils/helpers.py"]], ids=str
)
def test_it_lives_beside_utils_of_your_own(own, wheel, tmp_path):
    for name in own:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("MINE = __file__\n", encoding="utf-8")
    code = "import gradients_in_depth\nfrom gradients_in_depth import measure, diagnose\n"
    code += f"from {own[0].removesuffix('.py').replace('/', '.')} import MINE\n"
    code += "print(gradients_in_depth.__file__, MINE, measure.__name__, diagnose.__name__)"
    done = run_in(tmp_path, wheel, code)
    assert done.returncode == 0, done.stderr
    words = [str(wheel / PACKAGE.name / "__init__.py"), str(tmp_path / own[0]), "measure", "diagnose"]
    assert done.stdout.split() == words


@pytest.mark.slow
def test_it_brings_no_utils(wheel, tmp_path):
    assert "No module named 'utils'" in run_in(tmp_path, wheel, "import utils").stderr


# --- make --------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    """Tells what `make` would do where nothing is installed yet."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def make(*arguments):
        command = ["make", "--dry-run", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    return make


def test_learners_install_only_what_learners_need(make):
    planned = make("lab")
    assert "-r requirements.txt" in planned
    assert "requirements-dev" not in planned and "timm" not in planned


@pytest.mark.parametrize(
    "target", ["test", "check", "style", "notebooks", "exercises", "release", "grade", "formgrader"]
)
def test_what_staff_need_comes_with_their_first_command(target, make):
    planned = make(target)
    places = [planned.index(words) for words in ("-r requirements.txt", "-r requirements-dev.txt", "timm==")]
    assert places == sorted(places)


def test_the_oldest_releases_are_those_that_the_ranges_begin_with():
    oldest = ranges.requirements("oldest", ["torch==2.13.0"])
    everything = ranges_of_pyproject(PYPROJECT, "test", "grading")
    assert {canonicalize_name(Requirement(line).name) for line in oldest} == everything.keys() - {"python"}
    for line in oldest:
        assert unusable_pins(line) == []
        assert version_of(pin := Requirement(line)) in everything[canonicalize_name(pin.name)]
    assert {"numpy==2.0", "torch==2.13.0", "nbgrader==0.9.6"} <= set(oldest)
    assert {"numpy>=2.0", "torch>=2.6", "nbgrader==0.9.6"} <= set(ranges.requirements("newest"))


def test_a_package_without_an_oldest_release_is_named():
    with pytest.raises(ValueError, match="from which release on it needs 'numpy'"):
        ranges.requirements("oldest", pyproject=PYPROJECT.replace('"numpy>=2.0"', '"numpy"'))


# --- What is said in several places ------------------------------------------------------------------------


def test_a_lesson_takes_as_long_everywhere():
    """In the lesson, in the course's table, and in the instructor's guide."""
    table, guide = (
        path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "solutions/README.md")
    )
    for script in sorted((ROOT / "notebooks" / "sources").glob("*.py")):
        (said,) = re.findall(r"\*\*Time:\*\* about (\d+) minutes", script.read_text(encoding="utf-8"))
        assert re.findall(rf"notebooks/{script.stem}\.ipynb\) \|.*\| (\d+) \|", table) == [said]
        assert re.findall(rf"^## {script.stem[:2]} .* · (\d+) minutes$", guide, re.MULTILINE) == [said]
