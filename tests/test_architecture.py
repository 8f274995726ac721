"""The shape of the package: few modules, imports one way, widgets in one place, everything explained."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import gradients_in_depth

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "utils" / "gradients_in_depth"

# What each module may import of the package: only what stands above it.
NUMBERS = ["arguments", "data", "theory", "initialization", "networks", "signals", "diagnosis", "training"]
MAY_IMPORT = {
    "pictures": [],
    "arguments": [],
    "data": ["arguments"],
    "session": ["pictures", "arguments", "data"],
    "theory": ["arguments"],
    "initialization": ["arguments", "data", "theory"],
    "networks": ["arguments", "data", "theory", "initialization"],
    "signals": ["arguments", "data", "theory", "initialization", "networks"],
    "diagnosis": ["arguments", "data", "theory", "initialization", "networks", "signals"],
    "training": ["arguments", "data", "theory", "initialization", "networks", "signals"],
    "experiments": ["arguments", "data", "theory", "initialization", "networks", "signals"],
    "plots": ["pictures", "session", *NUMBERS],
    "explorers": ["pictures", "session", *NUMBERS, "experiments", "plots"],
    "checks": ["pictures", "session", *NUMBERS, "plots", "explorers"],
}
WIDGETS = {"ipywidgets", "anywidget", "traitlets", "comm"}
DRAWING = {"matplotlib", "PIL", "IPython"} | WIDGETS  # the numbers do not know how they are shown
MOST_MODULES = 14


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


def wrong_imports(module: str, source: str) -> list[str]:
    whole, _, part = module.partition(".")
    assert whole in MAY_IMPORT, f"{module}.py has no place in the order of imports"
    tree = ast.parse(source)
    allowed = {*MAY_IMPORT[whole], *([whole] if part else [])}
    faults = [f"{module} imports {other}" for other in modules_of(tree) - allowed]
    roots = {name.split(".")[0] for name in imports_of(tree)}
    barred = WIDGETS if module != "explorers.widgets" else set()
    barred = DRAWING if whole in [*NUMBERS, "experiments"] else barred
    faults += [f"{module} imports {name}" for name in roots & barred]
    faults += [f"{module} imports *" for name in imports_of(tree) if name.endswith(".*")]
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


# By dotted name, such as `explorers.widgets`.
PARTED = {"checks", "experiments", "explorers"}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}
NAMED = {name: source for name, source in MODULES.items() if name != "__init__"}


def test_at_most_twelve_modules():
    assert len({name.split(".")[0] for name in NAMED}) <= MOST_MODULES, sorted(NAMED)
    folders = [path.name for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    assert set(folders) == PARTED


def test_the_package_itself_offers_the_two_tools_for_any_model():
    assert gradients_in_depth.__all__ == ["diagnose", "measure"]
    assert all(callable(getattr(gradients_in_depth, name)) for name in gradients_in_depth.__all__)


@pytest.mark.parametrize("module", NAMED)
def test_imports_run_one_way(module):
    assert wrong_imports(module, NAMED[module]) == []


@pytest.mark.parametrize("module", NAMED)
def test_everything_public_is_explained(module):
    assert unexplained(NAMED[module]) == []


# Not session: through it a lesson seeds the whole process, in sight.
@pytest.mark.parametrize("module", [name for name in NAMED if name != "session"])
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
        ("explorers.phases", "import ipywidgets", "explorers.phases imports ipywidgets"),
        ("experiments.phases", "import matplotlib", "experiments.phases imports matplotlib"),
        ("experiments.phases", "from gradients_in_depth import plots", "experiments.phases imports plots"),
        ("plots", "from gradients_in_depth.explorers import Explorer", "plots imports explorers"),
        ("pictures", "from gradients_in_depth.session import start", "pictures imports session"),
        ("plots", "from gradients_in_depth.theory import *", "plots imports *"),
        ("training", "import sys\nsys.path.append('.')", "training edits sys.path"),
    ],
)
def test_a_wrong_import_is_named(module, source, fault):
    assert fault in wrong_imports(module, source)


def test_right_imports_pass():
    assert wrong_imports("session", "from gradients_in_depth import pictures") == []
    assert wrong_imports("signals", "import torch\nfrom gradients_in_depth.theory import number_format") == []
    assert (
        wrong_imports("explorers.widgets", "import anywidget\nfrom gradients_in_depth.plots import dashboard")
        == []
    )
    with pytest.raises(AssertionError, match=r"helpers\.py has no place"):
        wrong_imports("helpers", "")


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
        scratch([*bad, "utils/gradients_in_depth/theory.py", "notebooks/00_start_here.ipynb", ".ci/run"])
        == bad
    )
