"""pyproject.toml (ranges), requirements.txt (pins) and environment.yml (conda) agree, and say everything."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "utils" / "gradients_in_depth"
PYPROJECT = (ROOT / "pyproject.toml").read_text()
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
ENVIRONMENT = (ROOT / "environment.yml").read_text()

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


def ranges_of_pyproject(text: str) -> dict[str, SpecifierSet]:
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["test"], *extras["grading"]]
    ranges = {canonicalize_name((r := Requirement(line)).name): r.specifier for line in declared}
    return ranges | {"python": SpecifierSet(project["requires-python"])}


def ranges_of_environment(text: str) -> dict[str, SpecifierSet]:
    ranges = {}
    for line in yaml.safe_load(text)["dependencies"]:
        if isinstance(line, str) and line != "pip":
            name, range_, *_build = line.split()
            ranges[canonicalize_name(PIP_NAMES.get(name, name))] = SpecifierSet(range_)
    return ranges


def pins_of(text: str) -> dict[str, Requirement]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name((r := Requirement(line)).name): r for line in lines}


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


def disagreements(pyproject: str, requirements: str, environment: str) -> list[str]:
    """Everything in which the three files differ, one sentence each."""
    ranges, conda, pins = (
        ranges_of_pyproject(pyproject),
        ranges_of_environment(environment),
        pins_of(requirements),
    )
    found = [f"{name} is in pyproject.toml only" for name in ranges.keys() - conda.keys()]
    found += [f"{name} is in environment.yml only" for name in conda.keys() - ranges.keys()]
    for name in ranges.keys() & conda.keys():
        if ranges[name] != conda[name]:
            found.append(f"{name} is {ranges[name]} in pyproject.toml and {conda[name]} in environment.yml")
    for name in ranges.keys() - {"python"}:
        if name not in pins:
            found.append(f"{name} has no pin")
        elif version_of(pins[name]) not in ranges[name]:
            found.append(f"{name} is pinned to {version_of(pins[name])}, outside of {ranges[name]}")
    return sorted(found)


def unusable_pins(requirements: str) -> list[str]:
    """Lines that are not one exact version of one package, wherever it comes from."""
    bad = []
    for line in requirements.splitlines():
        if line and not line.startswith("#"):
            try:
                pin = Requirement(line)
            except InvalidRequirement:
                bad.append(line)
                continue
            exact = [s.operator for s in pin.specifier] == ["=="]
            if pin.url or not exact or "+" in str(pin.specifier) or "*" in str(pin.specifier):
                bad.append(line)
    return bad


@cache
def needs_of(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []


def incomplete_pins(pyproject: str, requirements: str) -> list[str]:
    """What an installation on any supported system would still have to choose by itself, or has no use for.

    Follows the metadata of the packages that are installed here: of the few that only another system needs,
    it knows the names alone.
    """
    pins = pins_of(requirements)
    roots = ranges_of_pyproject(pyproject).keys() - {"python"}
    found, used = set(), set()
    for machine in MACHINES:
        machine_name = f"{machine['platform_system']} with Python {machine['python_version']}"
        seen, todo = set(), [Requirement(name) for name in roots]
        while todo:
            wanted = todo.pop()
            name = canonicalize_name(wanted.name)
            pin = pins.get(name)
            if pin is None or (pin.marker and not pin.marker.evaluate(machine)):
                found.add(f"{name} is not pinned for {machine_name}")
                continue
            if version_of(pin) not in wanted.specifier:
                found.add(f"{name} is pinned to {version_of(pin)}, and {wanted} is needed on {machine_name}")
            used.add(name)
            if (name, *wanted.extras) in seen:
                continue
            seen.add((name, *wanted.extras))
            for needs in needs_of(name):
                # On Linux the PyTorch of PyPI brings its CUDA libraries, which requirements.txt leaves to it.
                if name == "torch" and needs.name.startswith(("nvidia-", "cuda-", "triton")):
                    continue
                extras = wanted.extras or {""}
                if not needs.marker or any(needs.marker.evaluate({**machine, "extra": e}) for e in extras):
                    todo.append(needs)
    return sorted(found | {f"{name} is pinned and nothing needs it" for name in pins.keys() - used})


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
        for module in sorted(imports_of(path.read_text()) - own):
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not names & declared:
                found.append(f"{path.name} imports {module}, which pyproject.toml does not name")
    return found


def names_in(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_the_three_files_agree():
    assert disagreements(PYPROJECT, REQUIREMENTS, ENVIRONMENT) == []


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
        ("environment", "  - nbval >=0.11\n", "", "nbval is in pyproject.toml only"),
        ("environment", "numpy >=2.0", "numpy >=1.26", "numpy is >=2.0 in pyproject.toml and >=1.26"),
        ("requirements", "scipy==", "scipy-of-old==", "scipy has no pin"),
        ("requirements", "numpy==2", "numpy==1", "numpy is pinned to 1"),
    ],
)
def test_a_disagreement_is_named(file, old, new, sentence):
    files = {"pyproject": PYPROJECT, "requirements": REQUIREMENTS, "environment": ENVIRONMENT}
    assert old in files[file]
    files[file] = files[file].replace(old, new)
    assert any(found.startswith(sentence) for found in disagreements(**files))


def test_pip_alone_can_use_the_pins():
    assert unusable_pins(REQUIREMENTS) == []


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


def test_the_pins_are_complete_on_every_system():
    assert incomplete_pins(PYPROJECT, REQUIREMENTS) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("traitlets==", "# ", "traitlets is not pinned for Linux"),
        ("pywinpty==", "# ", "pywinpty is not pinned for Windows"),
        ("appnope==", "# ", "appnope is not pinned for Darwin"),
        ('"win32"', '"cygwin"', "colorama is not pinned for Windows"),
        ("tornado==6", "tornado==1", "tornado is pinned to 1"),
        ("tqdm==", "tqdm-notebook==1.0\ntqdm==", "tqdm-notebook is pinned and nothing needs it"),
    ],
)
def test_an_incomplete_pin_is_named(old, new, sentence):
    assert old in REQUIREMENTS
    found = incomplete_pins(PYPROJECT, REQUIREMENTS.replace(old, new))
    assert any(line.startswith(sentence) for line in found), found


def test_every_import_is_declared():
    project = tomllib.loads(PYPROJECT)["project"]
    needed = names_in(project["dependencies"])
    everything = needed | names_in(project["optional-dependencies"]["test"])
    everything |= names_in(project["optional-dependencies"]["grading"])
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
    script.write_text("import json\nimport seaborn.utils\nfrom PIL import Image\nimport gradients_in_depth\n")
    assert undeclared([script], {"gradients_in_depth"}, {"pillow"}) == [
        "lesson.py imports seaborn, which pyproject.toml does not name"
    ]


def test_the_installed_course_is_this_one():
    """An environment that was made for another copy of the course would test that copy."""
    import gradients_in_depth

    assert Path(gradients_in_depth.__file__).parent == PACKAGE
    assert importlib.metadata.version("gradients-in-depth") == tomllib.loads(PYPROJECT)["project"]["version"]


def test_front_end_files_are_packaged():
    data = tomllib.loads(PYPROJECT)["tool"]["setuptools"]["package-data"]["*"]
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert [path.name for path in files if not any(path.match(pattern) for pattern in data)] == []


def test_a_lesson_takes_as_long_everywhere():
    """In the lesson, in the course's table, and in the instructor's guide."""
    table, guide = (
        path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "solutions/README.md")
    )
    for script in sorted((ROOT / "notebooks" / "sources").glob("*.py")):
        (said,) = re.findall(r"\*\*Time:\*\* about (\d+) minutes", script.read_text(encoding="utf-8"))
        assert re.findall(rf"notebooks/{script.stem}\.ipynb\) \|.*\| (\d+) \|", table) == [said]
        assert re.findall(rf"^## {script.stem[:2]} .* · (\d+) minutes$", guide, re.MULTILINE) == [said]
