"""The shape of the code: one job a file, imports one way, widgets in one place, everything explained."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gradients_in_depth

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "utils" / "gradients_in_depth"

# What each module may import of the package: only what stands above it.
SHARED = ["arguments", "randomness", "progress", "catalogue"]
NUMBERS = [
    *SHARED,
    "data",
    "theory",
    "initialization",
    "networks",
    "hooks",
    "signals",
    "diagnosis",
    "training",
]
MAY_IMPORT = {
    "pictures": [],
    "arguments": [],
    "randomness": ["arguments"],
    "progress": [],
    "catalogue": ["arguments"],
    "data": SHARED,
    "parallel": SHARED,
    "session": ["pictures", "parallel", *SHARED, "data"],
    "theory": SHARED,
    "initialization": [*SHARED, "data", "theory"],
    "networks": [*SHARED, "data", "theory", "initialization"],
    "hooks": SHARED,
    "signals": [*SHARED, "data", "theory", "initialization", "networks", "hooks"],
    "diagnosis": [*SHARED, "data", "theory", "initialization", "networks", "hooks", "signals"],
    "training": [*SHARED, "data", "theory", "initialization", "networks", "hooks", "signals"],
    "experiments": NUMBERS,
    "plots": ["pictures", "parallel", "session", *NUMBERS],
    "explorers": ["pictures", "parallel", "session", *NUMBERS, "experiments", "plots"],
    "checks": ["pictures", "parallel", "session", *NUMBERS, "experiments", "plots", "explorers"],
}
# These may be folders, one file for each topic. Inside, too, imports run one way.
PACKAGES = {"theory", "signals", "diagnosis", "training", "experiments", "explorers", "checks"}
WIDGETS = {"ipywidgets", "anywidget", "traitlets", "comm"}
DRAWING = {"matplotlib", "PIL", "IPython"} | WIDGETS  # the numbers do not know how they are shown

# A file that is longer has two jobs; a function that is longer cannot be read in one go. How many branches a
# function may have stands in pyproject.toml (`max-complexity`), with the files that still have too many.
MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 60
# What is longer all the same, each with its reason. An entry that is no longer needed fails a test.
LONG_FILES = {
    "tests/bench/bench_diagnosis.py",  # random networks of all diseases, read side by side
}
LONG_FUNCTIONS: set[str] = set()


def imports_of(tree: ast.AST) -> set[str]:
    """Full names of all that is imported: `gradients_in_depth.theory`, `matplotlib.pyplot`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ("gradients_in_depth." if node.level else "") + (node.module or "")
            names |= {f"{base.rstrip('.')}.{alias.name}" for alias in node.names}
    return names


def modules_of(tree: ast.AST) -> set[str]:
    """The modules of the package among the imports."""
    return {name.split(".")[1] for name in imports_of(tree) if name.startswith("gradients_in_depth.")}


def is_private(name: str) -> bool:
    """Whether it is a name that a module of the package keeps for itself, such as `_scale`."""
    root, *parts = name.split(".")
    return root == "gradients_in_depth" and any(part.startswith("_") for part in parts)


def cycle(modules: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, from {name: source}; a package stands there as its name."""
    modules = {name.removesuffix(".__init__"): source for name, source in modules.items()}
    graph = {}
    for module, source in modules.items():
        names = imports_of(ast.parse(source))
        names = {
            name.removeprefix("gradients_in_depth.")
            for name in names
            if name.startswith("gradients_in_depth.")
        }
        # `from gradients_in_depth.theory import gaussian` imports a part, `... import chi` a name.
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & {*modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def long_functions(source: str, most: int) -> list[str]:
    """Functions and methods of more than `most` lines, from the line of `def` (docstrings are part of it)."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return [node.name for node in functions if node.end_lineno - node.lineno + 1 > most]


def wrong_imports(module: str, source: str) -> list[str]:
    whole, _, part = module.partition(".")
    assert whole in MAY_IMPORT, f"{module}.py has no place in the order of imports"
    tree = ast.parse(source)
    allowed = {*MAY_IMPORT[whole], *([whole] if part else [])}
    faults = [f"{module} imports {other}" for other in modules_of(tree) - allowed]
    roots = {name.split(".")[0] for name in imports_of(tree)}
    barred = DRAWING if whole in [*NUMBERS, "experiments"] else WIDGETS if whole != "explorers" else set()
    faults += [f"{module} imports {name}" for name in roots & barred]
    faults += [f"{module} imports *" for name in imports_of(tree) if name.endswith(".*")]
    faults += [f"{module} imports the private {name}" for name in imports_of(tree) if is_private(name)]
    faults += [f"{module} edits sys.path" for node in ast.walk(tree) if ast.unparse(node) == "sys.path"]
    return sorted(set(faults))


def public_definitions(tree: ast.Module):
    """(name, node) of the module's public functions and classes, and of the classes' public methods."""

    def is_public(node: ast.AST) -> bool:
        named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        return named and not any(ast.unparse(d).endswith(".setter") for d in node.decorator_list)

    for node in filter(is_public, tree.body):
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{method.name}", method) for method in filter(is_public, node.body))


def unexplained(source: str) -> list[str]:
    """Public things without a docstring of one first line, or functions without type hints."""
    tree = ast.parse(source)
    faults = [] if ast.get_docstring(tree) else ["the module has no docstring"]
    for name, node in public_definitions(tree):
        first, *rest = (ast.get_docstring(node) or "").split("\n")
        if not re.search(r"[.?!:)]$", first) or (rest and rest[0]):
            faults.append(f"{name} has no docstring that begins with one line")
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            faults += [
                f"{name} does not say what its {argument.arg} is"
                for argument in given
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            if node.returns is None:
                faults.append(f"{name} does not say what it returns")
    return faults


def breaks_plotting_form(source: str) -> list[str]:
    """Public functions of `plots` take `ax`, and return it; those that make whole figures return a Figure."""
    faults = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
            returns = ast.unparse(node.returns) if node.returns else "nothing"
            if "ax" in arguments and not returns.endswith("Axes"):
                faults.append(f"{node.name} takes ax and returns {returns}")
            if "ax" not in arguments and not re.search(r"Figure|Axes", returns):
                faults.append(f"{node.name} takes no ax and returns {returns}")
    return faults


def global_randomness(source: str) -> list[str]:
    """Draws from, and seeds of, the random state of the whole process; to save and restore it is fine."""
    pattern = (
        r"(np|numpy)\.random\.(?!default_rng|Generator|SeedSequence|PCG64|get_state|set_state)\w+"
        r"|torch\.(manual_seed|seed|rand|randn|randint|randperm|normal|bernoulli)"
        r"|random\.(random|seed|choice|shuffle|gauss|uniform|randint)"
    )
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if all(keyword.arg != "generator" for keyword in call.keywords)]
    names = [(call.lineno, ast.unparse(call.func)) for call in calls]
    return [f"line {line}: {name}" for line, name in names if re.fullmatch(pattern, name)]


def scratch(tracked: list[str]) -> list[str]:
    """Files that nobody meant to keep."""
    pattern = (
        r"(.*/)?((__pycache__|\.ipynb_checkpoints|\.venv|[^/]*\.egg-info|node_modules|scratch|tmp)/.*"
        r"|[^/]*(\.py[co]|\.tmp|\.orig|\.rej|\.log|\.bak|\.swp|~|-checkpoint\.ipynb|-Copy\d+\.ipynb)"
        r"|Untitled[^/]*|\.DS_Store|Thumbs\.db|gradebook\.db)"
    )
    return [name for name in tracked if re.fullmatch(pattern, name)]


# By dotted name, such as `theory`, `theory.__init__`, `theory.products`.
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
NAMED = {name: source for name, source in MODULES.items() if name != "__init__"}


# Percent scripts are notebooks, and as long as a lesson; what students hand in is made by tests.
CODE = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "conftest.py",
        *(p for top in ("utils", "tools", "tests") for p in (ROOT / top).rglob("*.py")),
    ]
}


def test_folders_are_packages_by_topic():
    folders = {path.name for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert folders <= PACKAGES
    assert all((PACKAGE / folder / "__init__.py").exists() for folder in folders)


def test_a_file_has_one_job():
    longest = {name for name, source in CODE.items() if len(source.splitlines()) > MOST_LINES_OF_A_FILE}
    assert longest - LONG_FILES == set(), "split these"
    assert LONG_FILES - longest == set(), "these are no exceptions any more: take them off LONG_FILES"


def test_a_function_is_read_in_one_go():
    longest = {
        f"{file}: {function}"
        for file, source in CODE.items()
        if file.startswith(("utils/", "tools/"))
        for function in long_functions(source, MOST_LINES_OF_A_FUNCTION)
    }
    assert longest - LONG_FUNCTIONS == set(), "split these"
    assert LONG_FUNCTIONS - longest == set(), "these are no exceptions any more: take them off LONG_FUNCTIONS"


def test_a_file_may_be_too_complex_only_where_it_is():
    """ruff holds the limit; here: a file that is excused from it in pyproject.toml needs the excuse."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    excused = {name for name, rules in lint["per-file-ignores"].items() if "C901" in rules}
    assert "C90" in lint["select"]
    limit = f"lint.mccabe.max-complexity = {lint['mccabe']['max-complexity']}"
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "C901", "--config", limit]
    run = subprocess.run(
        [*command, "--output-format", "json", *excused], cwd=ROOT, capture_output=True, text=True
    )
    complex_files = {Path(fault["filename"]).relative_to(ROOT).as_posix() for fault in json.loads(run.stdout)}
    assert excused - complex_files == set(), "take their C901 out of pyproject.toml"


def test_the_package_itself_offers_the_two_tools_for_any_model():
    assert gradients_in_depth.__all__ == ["diagnose", "measure"]
    assert all(callable(getattr(gradients_in_depth, name)) for name in gradients_in_depth.__all__)


@pytest.mark.parametrize("module", NAMED)
def test_imports_run_one_way(module):
    assert wrong_imports(module, NAMED[module]) == []


def test_no_modules_import_each_other():
    assert cycle(MODULES) == []


@pytest.mark.parametrize("module", NAMED)
def test_everything_public_is_explained(module):
    assert unexplained(NAMED[module]) == []


# Not randomness: through it `session.start` seeds the whole process, in sight of the learner.
@pytest.mark.parametrize("module", [name for name in NAMED if name != "randomness"])
def test_library_code_leaves_the_global_random_state_alone(module):
    assert global_randomness(NAMED[module]) == []


@pytest.mark.skipif("plots" not in NAMED, reason="there is no gradients_in_depth.plots yet")
def test_plotting_functions_take_and_return_ax():
    assert breaks_plotting_form(NAMED["plots"]) == []


def test_no_scratch_file_is_tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy of the course is not a git repository")
    assert scratch(listed.stdout.splitlines()) == []


# ---- Each rule can fail


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("data", "from gradients_in_depth.theory import chi", "data imports theory"),
        ("theory", "from gradients_in_depth import data", "theory imports data"),
        ("theory", "import gradients_in_depth.networks", "theory imports networks"),
        ("theory", "from . import training", "theory imports training"),
        ("theory", "def f():\n    from gradients_in_depth.plots import g", "theory imports plots"),
        ("signals", "from gradients_in_depth import pictures", "signals imports pictures"),
        ("signals", "import matplotlib.pyplot as plt", "signals imports matplotlib"),
        ("plots", "import ipywidgets", "plots imports ipywidgets"),
        ("plots", "from gradients_in_depth.explorers import Explorer", "plots imports explorers"),
        ("pictures", "from gradients_in_depth.session import start", "pictures imports session"),
        ("plots", "from gradients_in_depth.theory import *", "plots imports *"),
        ("theory.gaussian", "from gradients_in_depth.data import digits", "theory.gaussian imports data"),
        (
            "explorers.lesson_00",
            "from gradients_in_depth import checks",
            "explorers.lesson_00 imports checks",
        ),
        (
            "plots",
            "from gradients_in_depth.theory.mean_field import _scale",
            "plots imports the private gradients_in_depth.theory.mean_field._scale",
        ),
        ("training", "import sys\nsys.path.append('.')", "training edits sys.path"),
    ],
)
def test_a_wrong_import_is_named(module, source, fault):
    assert fault in wrong_imports(module, source)


def test_right_imports_pass():
    assert wrong_imports("session", "from gradients_in_depth import pictures") == []
    assert wrong_imports("signals", "import torch\nfrom gradients_in_depth.theory import number_format") == []
    assert (
        wrong_imports("explorers", "import anywidget\nfrom gradients_in_depth.plots import dashboard") == []
    )
    with pytest.raises(AssertionError, match=r"helpers\.py has no place"):
        wrong_imports("helpers", "")


def test_modules_that_import_each_other_are_named():
    one_way = {
        "theory.__init__": "from gradients_in_depth.theory.products import first_zero",
        "theory.products": "from gradients_in_depth.theory import gaussian",
        "theory.gaussian": "from gradients_in_depth import arguments",
        "arguments": "import math",
        "data": "from gradients_in_depth import theory\nfrom gradients_in_depth.theory import chi",
    }
    assert cycle(one_way) == []
    back = {"theory.gaussian": "from gradients_in_depth.theory.products import first_zero"}
    assert set(cycle(one_way | back)) == {"theory.products", "theory.gaussian"}
    whole = {"theory.gaussian": "def f():\n    from gradients_in_depth.theory import chi"}
    assert {"theory", "theory.gaussian"} <= set(cycle(one_way | whole))


def test_long_functions_are_named():
    source = (
        "@property\ndef f():\n    '''One.'''\n    return 1\n\n\nclass A:\n    def g(self):\n        return 1"
    )
    assert long_functions(source, 2) == ["f"]
    assert long_functions(source, 1) == ["f", "g"]
    assert long_functions(source, 3) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f() -> None:\n    '''One.'''", "the module has no docstring"),
        ("'''M.'''\ndef f() -> None: ...", "f has no docstring that begins with one line"),
        ("'''M.'''\nclass A:\n    pass", "A has no docstring that begins with one line"),
        ("'''M.'''\nclass A:\n    '''One.'''\n    def g(self) -> int: ...", "A.g has no docstring"),
        (
            "'''M.'''\ndef f() -> None:\n    '''One\n    two.'''",
            "f has no docstring that begins with one line",
        ),
        ("'''M.'''\ndef f(x) -> None:\n    '''One.'''", "f does not say what its x is"),
        ("'''M.'''\ndef f(*, x) -> None:\n    '''One.'''", "f does not say what its x is"),
        ("'''M.'''\ndef f(x: int):\n    '''One.'''", "f does not say what it returns"),
    ],
)
def test_what_is_not_explained_is_named(source, fault):
    assert any(found.startswith(fault) for found in unexplained(source))


def test_private_names_need_no_docstring():
    assert unexplained("'''M.'''\ndef _f(x): ...\nclass _A:\n    def g(self): ...") == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def norms(ax: Axes, x: int) -> None: ...", "norms takes ax and returns None"),
        ("def norms(x: int) -> list: ...", "norms takes no ax and returns list"),
    ],
)
def test_a_plotting_function_of_another_form_is_named(source, fault):
    assert breaks_plotting_form(source) == [fault]
    assert breaks_plotting_form("def norms(x: int, ax: Axes) -> Axes: ...\ndef all() -> Figure: ...") == []


def test_global_randomness_is_named():
    assert global_randomness("import torch\ntorch.manual_seed(0)") == ["line 2: torch.manual_seed"]
    assert global_randomness("torch.randn(3)\nnp.random.rand(3)\nrandom.random()") != []
    assert global_randomness("torch.randn(3, generator=g)\nnp.random.default_rng(seed)") == []


def test_scratch_files_are_named():
    bad = [
        "notebooks/Untitled1.ipynb",
        "utils/gradients_in_depth/__pycache__/a.pyc",
        "notes.bak",
        "a/.ipynb_checkpoints/b.ipynb",
    ]
    assert (
        scratch([*bad, "utils/gradients_in_depth/data.py", "notebooks/00_start_here.ipynb", ".ci/run"]) == bad
    )
