"""The modules of a package as text: what each statement binds, and what it uses. Nothing is imported."""

import ast
import hashlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

OWN_FILE = {"__file__", "__path__"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Chain = tuple[str, ...]  # ("a", "b", "c") for a.b.c

# CPython 3.11 counts the depth of a syntax tree once for all threads: two at a time may disturb each other.
PARSING = threading.Lock()


def parse(source: str) -> ast.Module:
    """The syntax tree of a source, parsed by one thread at a time. Raises `SyntaxError`."""
    with PARSING:
        return ast.parse(source)


def digest(content: str | bytes) -> str:
    """The SHA-256 of a text or of a file."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


# --- Statements --------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One name of an import statement: what it binds, and what of which module that is ("": all of it)."""

    name: str  # "*" where everything is bound
    module: str
    attribute: str = ""
    imported: str = ""  # the module that is imported by `import a.b`, which binds `a`

    @property
    def target(self) -> str:
        """What it stands for: "a.b"."""
        return f"{self.module}.{self.attribute}" if self.attribute else self.module


@dataclass
class Uses:
    """What a statement uses."""

    chains: set[Chain] = field(default_factory=set)  # names of its module, and the attributes after them
    imports: list[Import] = field(default_factory=list)  # those inside of it
    attributes: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    own_file: list[set[str]] = field(default_factory=list)  # for each `__file__`, the texts beside it


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement at the top of a module, or one name of an import."""

    module: "Module"
    node: ast.stmt
    names: frozenset[str]
    alias: Import | None = None

    @cached_property
    def uses(self) -> Uses:
        """What it uses."""
        reader = _Reader(self.module)
        reader.visit(self.node)
        return reader.uses

    @cached_property
    def digest(self) -> str:
        """A hash of what it says, the same in each version of Python and for each formatting."""
        if self.alias:
            return digest(f"import {self.alias.target} as {self.alias.name}")
        return digest(canonical(self.node))

    @property
    def label(self) -> str:
        """How a message names it: "theory.chi"."""
        names = [f"{self.module.label}.{name}".removeprefix(".") for name in sorted(self.names)]
        return ", ".join(names) or f"a statement of {self.module.label or 'the package'}"


class Module:
    """The statements at the top of a module, and the names that they bind."""

    def __init__(self, name: str, source: str, is_package: bool = False) -> None:
        self.name, self.is_package, self.label = name, is_package, name.partition(".")[2]
        try:
            body = without_docstrings(parse(source)).body
        except (SyntaxError, ValueError):  # an IPython magic, or a mistake, which running it will name
            body = None
        self.is_readable = body is not None
        self.statements = [part for node in body or () for part in self._statements(node)]
        classes = (node for part in body or () for node in ast.walk(part) if isinstance(node, ast.ClassDef))
        self.methods = {node.name for part in classes for node in part.body if isinstance(node, DEFINITIONS)}
        self.bindings: dict[str, list[Statement]] = {}
        for statement in self.statements:
            for bound in statement.names:
                self.bindings.setdefault(bound, []).append(statement)

    def _statements(self, node: ast.stmt) -> Iterator[Statement]:
        inside = list(same_scope(node))
        for inner in inside:
            if isinstance(inner, ast.Import | ast.ImportFrom):
                for alias in self.imports(inner):
                    yield Statement(self, inner, frozenset({alias.name} - {"*"}), alias)
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass):
            yield Statement(self, node, frozenset(bound_names(inside)))

    def imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
        """The names of an import statement; a relative import starts from this module."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield Import(alias.asname or first, alias.name if alias.asname else first, "", alias.name)
            return
        around = self.name.split(".") if node.level else []
        around = around[: len(around) - node.level + self.is_package]
        source = ".".join([*around, *([node.module] if node.module else [])])
        for alias in node.names:
            yield Import(alias.asname or alias.name, source, "" if alias.name == "*" else alias.name)


class _Reader(ast.NodeVisitor):
    """Collects what a statement uses. A name that is local to a function is not one of the module."""

    def __init__(self, module: Module) -> None:
        self.module, self.uses = module, Uses()
        self._scopes: list[tuple[set[str], set[str]]] = []  # (local names, names that come from outside)
        self._beside: set[str] = set()  # the texts of the statement, unless it has other statements inside

    def visit(self, node: ast.AST) -> None:
        """Visit a node, and remember the texts of the statement that is visited."""
        before = self._beside
        if isinstance(node, ast.stmt):
            self._beside = set() if hasattr(node, "body") or hasattr(node, "cases") else texts(node)
        super().visit(node)
        self._beside = before

    def _visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.uses.imports += self.module.imports(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.uses.texts.add(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self._use((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.uses.attributes.add(node.attr)
        if chain := chain_of(node):
            self.uses.attributes.update(chain[1:])
            self._use(chain)
        else:
            self._note_own_file((node.attr,))
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if chain_of(node.func) == ("vars",) and node.args:
            self.visit(node.args[0])  # vars(thing) uses the thing, and only vars() all that there is
        else:
            self.generic_visit(node)

    def _visit_function(self, node: Function) -> None:
        body = body_of(node)
        for child in ast.iter_child_nodes(node):
            if child not in body:
                self.visit(child)
        self._visit_inside(body, *scope_of(node))

    def _visit_comprehension(self, node: Comprehension) -> None:
        targets = {n.id for part in node.generators for n in ast.walk(part.target) if isinstance(n, ast.Name)}
        self.visit(node.generators[0].iter)  # the one part that is looked up outside
        self._visit_inside(ast.iter_child_nodes(node), targets, set())

    def _visit_inside(self, nodes: Iterable[ast.AST], local: set[str], outer: set[str]) -> None:
        self._scopes.append((local, outer))
        for node in nodes:
            self.visit(node)
        self._scopes.pop()

    def _use(self, chain: Chain) -> None:
        for local, outer in reversed(self._scopes):
            if chain[0] in outer:
                break
            if chain[0] in local:
                return
        self.uses.chains.add(chain)
        self._note_own_file(chain)

    def _note_own_file(self, chain: Chain) -> None:
        if not OWN_FILE.isdisjoint(chain):
            self.uses.own_file.append(self._beside)

    visit_Import = visit_ImportFrom = _visit_import  # noqa: N815 - ast's names
    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function  # noqa: N815
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815


def body_of(function: Function) -> list[ast.AST]:
    """What runs when a function is called."""
    return [function.body] if isinstance(function, ast.Lambda) else [*function.body]


def scope_of(function: Function) -> tuple[set[str], set[str]]:
    """The names that are local to a function, and those that it takes from elsewhere: imports and globals."""
    every = function.args
    arguments = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
    inside = [node for part in body_of(function) for node in same_scope(part)]
    outer = {name for node in inside if isinstance(node, ast.Global) for name in node.names}
    for node in inside:
        if isinstance(node, ast.Import | ast.ImportFrom):
            outer |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    around = {name for node in inside if isinstance(node, ast.Nonlocal) for name in node.names}
    return ({a.arg for a in arguments if a} | bound_names(inside)) - outer - around, outer


def bound_names(nodes: Iterable[ast.AST]) -> set[str]:
    """What the nodes themselves bind, other than by an import."""
    names: set[str | None] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (*DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping):
            names.add(node.rest)
    return {name for name in names if name is not None}


def same_scope(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is inside of it, without the bodies of functions, classes and comprehensions."""
    yield node
    inside: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, DEFINITIONS):
        inside = node.decorator_list
    elif isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
        inside = ()
    for child in inside:
        yield from same_scope(child)


def chain_of(node: ast.AST) -> Chain:
    """("a", "b", "c") for the expression `a.b.c`; empty for any other."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (before := chain_of(node.value)):
        return (*before, node.attr)
    return ()


def texts(node: ast.AST) -> set[str]:
    """All strings inside of a node."""
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, in place, without the strings that stand as statements of their own."""
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, part, None), list):
                block[:] = [child for child in block if not _is_text(child)]
    return tree


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def canonical(node: object) -> str:
    """A syntax tree as text. `ast.dump` says the same in other words in each version of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind"))
        inside = ", ".join(f"{name}={canonical(value)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    return ascii(node)


# --- The package -------------------------------------------------------------------------------------------

# A statement, with the attributes that follow it; a module; or the full name of something in a library.
Meaning = tuple[Statement | Module | str, Chain]
Passed = tuple[tuple[Module, Chain], ...]


class Package:
    """The modules of a package, by dotted name, and its other files, by their path inside of it."""

    def __init__(self, name: str, contents: Mapping[str, bytes]) -> None:
        self.name = name
        self.contents = {
            path: data.replace(b"\r\n", b"\n")
            for path, data in sorted(contents.items())
            if not re.search(r"(^|/)(\.|__pycache__/)|~$", path)  # caches, and what editors leave behind
        }
        self.modules: dict[str, Module] = {}
        for path, data in self.contents.items():
            *folders, file = [name, *path.split("/")]
            for end in range(1, len(folders) + 1):  # a folder without an __init__.py is a package, too
                self.modules.setdefault(folder := ".".join(folders[:end]), _module(folder, b"", True))
            if file.endswith(".py"):
                is_package = file == "__init__.py"
                dotted = ".".join(folders if is_package else [*folders, file.removesuffix(".py")])
                self.modules[dotted] = _module(dotted, data, is_package)
        self.files = {path for path in self.contents if not path.endswith(".py")}
        every = {text for module in self.modules.values() for s in module.statements for text in s.uses.texts}
        self.methods = {name for module in self.modules.values() for name in module.methods}
        self._unnamed = {path for path in self.files if not any(is_named(path, text) for text in every)}

    def imported(self, alias: Import) -> Iterator[Module]:
        """The modules that run for a name of an import: those around its own from the outside in, and it."""
        parts = (alias.imported or alias.target).split(".")
        for end in range(1, len(parts) + 1):
            if module := self.modules.get(".".join(parts[:end])):
                yield module

    def modules_inside(self, module: Module) -> list[Module]:
        """The modules in the folder of a package, without those in folders further in."""
        return [other for name, other in self.modules.items() if name.rpartition(".")[0] == module.name]

    def files_beside(self, module: Module) -> set[str]:
        """The files in the folder of a package that no statement names."""
        folder = "/".join(module.name.split(".")[1:])
        return {path for path in self._unnamed if module.is_package and path.rpartition("/")[0] == folder}

    def meanings(self, module: Module, chain: Chain) -> Iterator[Meaning]:
        """What a name of `module`, with the attributes after it, stands for; nothing for Python's own names.

        The imports on the way are among it.
        """
        if chain[0] in module.bindings or f"{module.name}.{chain[0]}" in self.modules:
            yield from self._attributes(module, chain, ())

    def imports(self, alias: Import, attributes: Chain = (), passed: Passed = ()) -> Iterator[Meaning]:
        """What a name of an import, with the attributes after it, stands for."""
        chain = (alias.attribute, *attributes) if alias.attribute else attributes
        if module := self.modules.get(alias.module):
            yield from self._attributes(module, chain, passed)
        else:
            yield ".".join([alias.module, *chain]), ()

    def _attributes(self, module: Module, chain: Chain, passed: Passed) -> Iterator[Meaning]:
        if not chain:
            yield module, ()
        if not chain or (module, chain) in passed:
            return
        name, rest, passed = chain[0], chain[1:], (*passed, (module, chain))
        statements = module.bindings.get(name, [])
        inner = self.modules.get(f"{module.name}.{name}")
        is_hidden = False  # by what a package takes out of a module of the same name
        for statement in statements:
            yield statement, rest
            if statement.alias and not (inner and statement.alias.target == inner.name):
                yield from self.imports(statement.alias, rest, passed)
                is_hidden |= bool(inner and f"{statement.alias.module}.".startswith(f"{inner.name}."))
        if inner and not is_hidden:
            yield from self._attributes(inner, rest, passed)
        elif not statements:  # the text does not say what it is: then it may be anything of the module
            yield module, ()


@lru_cache(maxsize=500)
def _module(name: str, data: bytes, is_package: bool) -> Module:
    return Module(name, data.decode(errors="replace"), is_package)


@lru_cache(maxsize=4)
def _package(name: str, contents: tuple[tuple[str, bytes], ...]) -> Package:
    return Package(name, dict(contents))


def package_in(folder: Path) -> Package:
    """The package in a folder, which has its name; read anew only when a file has changed."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return _package(
        folder.name, tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)
    )


def is_named(path: str, text: str) -> bool:
    """Whether a text has the name of a file."""
    return path.rpartition("/")[2] in text
