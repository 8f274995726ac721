"""What people who join rely on: guides that name what is there, versions in step, hooks and workflows."""

import ast
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from packaging.specifiers import SpecifierSet
from torch import nn

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").iterdir()
}
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
GUIDES = ["README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "solutions/README.md", "exercises/README.md"]
PACKAGE = ROOT / "utils" / "gradients_in_depth"
MODULES = [
    path.stem
    for path in PACKAGE.iterdir()
    if path.stem != "__init__" and (path.suffix == ".py" or (path / "__init__.py").exists())
]
PYTHONS = [
    words.rsplit(" ", 1)[1]
    for words in PROJECT["project"]["classifiers"]
    if re.fullmatch(r".*:: Python :: 3\.\d+", words)
]
# Not installed with the course.
ELSEWHERE = {"pip", "pre_commit_hooks"}


# ---- Commands


def unknown_commands(text: str) -> list[str]:
    """Make targets that the Makefile does not have, and modules for `python -m` that cannot be imported."""
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    faults = [
        f"make {word}"
        for word in re.findall(r"(?:^|[`;&|] *|run: )make ([a-z]+)", text, re.MULTILINE)
        if word not in targets
    ]
    for module in re.findall(r"python(?:3|\.exe)? -m ([\w.]+)", text):
        if module.split(".")[0] not in ELSEWHERE and find_spec(module) is None:
            faults.append(f"python -m {module}")
    files = re.findall(r"\b(?:tests|notebooks)/\w+\.(?:py|ipynb)", "\n".join(re.findall(r"pytest .*", text)))
    files += re.findall(r"(?:-r|--requirement) (\S+)", text)
    return faults + [file for file in files if not (ROOT / file).exists()]


def test_a_command_that_is_not_there_is_named():
    assert unknown_commands("Run `make check`, then\n    make lab\n") == []
    assert unknown_commands("Run `make tests`.") == ["make tests"]
    assert unknown_commands("      - run: make latest\n") == ["make latest"]
    assert unknown_commands(".venv/bin/python -m tools.lesson --check") == ["python -m tools.lesson"]
    assert unknown_commands(".venv/bin/python -m pytest tests/test_none.py") == ["tests/test_none.py"]
    assert unknown_commands("python -m pip install -r needs.txt") == ["needs.txt"]
    assert unknown_commands("People make mistakes.") == []


# ---- Guides


def missing_places(text: str, folder: Path) -> list[str]:
    """Links of a page, and paths of the project in code font, that lead nowhere."""
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if ":" not in link]
    faults = [link for link in links if not (folder / link).exists()]
    rooms = ["tools", "tests", "utils", "notebooks", "solutions", "exercises", r"\.github", *MODULES]
    for path in re.findall(rf"`((?:{'|'.join(rooms)})/[\w./-]*)`", text):
        if not ((ROOT / path).exists() or (PACKAGE / path).exists() or re.search(r"NAME|NN|TOPIC", path)):
            faults.append(path)
    return faults


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_names_what_is_there(guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    assert unknown_commands(text) == []
    assert missing_places(text, (ROOT / guide).parent) == []


def test_a_place_that_is_not_there_is_named():
    assert missing_places("[a](LICENSE) `tools/lessons.py` `solutions/NN_name.py`", ROOT) == []
    assert missing_places("[a](LICENCE) `tools/build.py`", ROOT) == ["LICENCE", "tools/build.py"]
    assert missing_places("`checks/ward.py` `checks/wards.py`", ROOT) == ["checks/wards.py"]


def test_the_readme_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("| Module | Job |")[2]
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(MODULES)


def test_the_example_for_a_model_of_your_own_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    model, inputs = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.ones(16, 4)
    names = {
        "model": model,
        "inputs": inputs,
        "targets": torch.zeros(16, 2),
        "loss_fn": nn.functional.mse_loss,
    }
    exec(code, names)
    assert capsys.readouterr().out
    assert [layer.name for layer in names["signals"].layers] == ["0", "1", "2"]


def test_contributing_is_read_in_ten_minutes():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 2400, "at 240 words per minute"


# ---- Versions


def versions_out_of_step(project: str, citation: str, changelog: str) -> list[str]:
    """What the three files disagree about, and dates that a changelog may not have."""
    version = tomllib.loads(project)["project"]["version"]
    cited = yaml.safe_load(citation)["version"]
    entries = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (.+)$", changelog, re.MULTILINE)
    faults = [] if cited == version else [f"CITATION.cff has {cited}"]
    faults += [] if entries and entries[0][0] == version else [f"CHANGELOG.md does not begin with {version}"]
    for place, (number, date) in enumerate(entries):
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date) and (place or date != "Unreleased"):
            faults.append(f"{number} has no date")
    return faults


def test_the_version_is_the_same_everywhere():
    names = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")
    assert versions_out_of_step(*[(ROOT / name).read_text(encoding="utf-8") for name in names]) == []


def test_versions_out_of_step_are_named():
    project, citation = '[project]\nversion = "1.1.0"', "version: 1.1.0"
    changes = "## [1.1.0] - Unreleased\n\n## [1.0.0] - 2026-11-28\n"
    assert versions_out_of_step(project, citation, changes) == []
    assert versions_out_of_step(project, "version: 1.0.0", changes) == ["CITATION.cff has 1.0.0"]
    assert versions_out_of_step(project, citation, changes.partition("\n\n")[2]) == [
        "CHANGELOG.md does not begin with 1.1.0"
    ]
    assert versions_out_of_step(project, citation, changes.replace("2026-11-28", "Unreleased")) == [
        "1.0.0 has no date"
    ]


# ---- Workflows and hooks


def faults_of_workflow(text: str) -> list[str]:
    """What a workflow must say, and commands in it that are not there."""
    workflow = yaml.safe_load(text)
    faults = unknown_commands(text)
    if workflow.get("permissions") != {"contents": "read"}:
        faults.append("it may do more than read")
    if "concurrency" not in workflow:
        faults.append("an older run goes on beside a newer one")
    for name, job in workflow["jobs"].items():
        faults += [] if "timeout-minutes" in job else [f"{name} has no time limit"]
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        faults += [
            f"{action} has no version" for action in uses if not re.search(r"@v\d+$|@[0-9a-f]{40}$", action)
        ]
    return faults


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_safe_and_can_run(name):
    assert faults_of_workflow(WORKFLOWS[name]) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("make test", "make tests", "make tests"),
        ("contents: read", "contents: write", "it may do more than read"),
        ("timeout-minutes", "# timeout-minutes", "suite has no time limit"),
        ("concurrency:", "env:", "an older run goes on beside a newer one"),
        ("actions/checkout@v7", "actions/checkout@main", "actions/checkout@main has no version"),
    ],
)
def test_a_fault_of_a_workflow_is_named(old, new, fault):
    assert old in WORKFLOWS["suite.yml"]
    assert faults_of_workflow(WORKFLOWS["suite.yml"].replace(old, new)) == [fault]


def test_the_quick_part_runs_on_every_python_and_system_that_is_promised():
    matrix = yaml.safe_load(WORKFLOWS["check.yml"])["jobs"]["quick"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert SpecifierSet(PROJECT["project"]["requires-python"]) == SpecifierSet(f">={PYTHONS[0]}")
    assert {system.split("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}


def test_the_ends_of_the_ranges_are_tried_with_the_ends_of_the_pythons():
    jobs = yaml.safe_load(WORKFLOWS["versions.yml"])["jobs"]
    pythons = {name: job["steps"][1]["with"]["python-version"] for name, job in jobs.items()}
    assert pythons == {"newest": PYTHONS[-1], "oldest": PYTHONS[0]}


def test_hooks_need_no_network_and_can_run():
    assert {repository["repo"] for repository in HOOKS} == {"local"}
    for hook in HOOKS[0]["hooks"]:
        assert hook["language"] == "system"
        assert unknown_commands(hook["entry"]) == []


# ---- Texts are UTF-8 on Windows, too


def calls_without_encoding(tree: ast.AST) -> list[ast.Call]:
    """Calls that read or write a text file and leave its encoding to the system."""
    faults = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function, names = ast.unparse(call.func), {keyword.arg for keyword in call.keywords}
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        words = [str(value.value) for value in values if isinstance(value, ast.Constant)]
        mode = next((word for word in words if re.fullmatch("[rwaxbt+]+", word)), "")
        is_open = function == "open" or (function.endswith(".open") and (mode or not values))
        reads = function.endswith(".read_text") and not call.args
        writes = function.endswith(".write_text") and len(call.args) == 1
        if "encoding" not in names and (reads or writes or (is_open and "b" not in mode)):
            faults.append(call)
    return faults


def test_a_text_file_is_read_and_written_with_its_encoding():
    paths = [path for folder in ("tests", "tools", "utils") for path in (ROOT / folder).rglob("*.py")]
    faults = [
        f"{path.relative_to(ROOT)}, line {call.lineno}: {ast.unparse(call)}"
        for path in sorted([*paths, ROOT / "conftest.py"])
        for call in calls_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert faults == []


def test_a_text_file_without_its_encoding_is_named():
    bad = "p.read_text()\np.write_text(t)\nopen(p)\nopen(p, 'a')\np.open()\np.open('w')\np.write_text('b')"
    assert len(calls_without_encoding(ast.parse(bad))) == 7
    good = (
        "p.read_text('utf-8')\nopen(p, 'rb')\np.open('wb')\nos.open(p, flags)\nImage.open(p)\np.read_bytes()"
    )
    good += "\nopen(p, encoding='utf-8')\ntarfile.open(fileobj=t)\nos.fdopen(d, 'rb')\nopen(p, mode='rb')"
    assert calls_without_encoding(ast.parse(good)) == []
