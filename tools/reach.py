"""What a script reaches of a package: the definitions that it uses, and what these use, through imports.

A definition is a statement at the top of a module that only binds names: a function, a class with all of its
methods, an assignment, one name of an import. Any other statement (a call that registers something, a loop, a
setting) runs when its module is imported, and is reached as soon as the module is; so is a definition that
does more than bind its names while it runs (`tools/inert.py`). `theory.chi` reaches `chi` alone, through any
number of re-exports. A module that is used in any other way (passed on, given to `getattr`) is reached whole.

All this is read off the text. Where the text does not say what is used (`eval`, `globals()`, a module that is
imported by a computed name, a docstring that is read: see `DYNAMIC_NAMES` and what follows it), every file of
the package is reached, byte by byte. Otherwise comments, docstrings, blank lines and formatting do not count.
"""

import re
from collections.abc import Iterable

from tools.inert import is_inert
from tools.modules import Import, Meaning, Module, Package, Statement, digest, is_named

# Names, attributes and library functions with which code can use, or read, what it does not name.
DYNAMIC_NAMES = {"__builtins__", "__doc__", "__import__", "__loader__", "__spec__"}
DYNAMIC_NAMES |= {"compile", "eval", "exec", "globals", "help", "locals", "vars"}
DYNAMIC_ATTRIBUTES = {"__builtins__", "__doc__", "__globals__", "__loader__", "__spec__", "__subclasses__"}
DYNAMIC_ATTRIBUTES |= {
    "f_back",
    "f_globals",
    "f_locals",
    "run_cell",
    "run_cell_magic",
    "user_global_ns",
    "user_ns",
}
DYNAMIC_LIBRARY = re.compile(
    r"(builtins|cloudpickle|code|cProfile|ctypes|dill|doctest|gc|imp|importlib|inspect|linecache|pkgutil|profile"
    r"|pydoc|runpy|shelve|timeit)\b"
    r"|sys\.(modules|_getframe|_current_frames|meta_path|path_hooks)\b|unittest\.mock\b"
    r"|(pickle|joblib|torch|marshal)\.(load|loads|Unpickler)\b|typing\.get_type_hints\b"
)
NOT_DYNAMIC = re.compile(r"importlib\.metadata\b|inspect\.(signature|Signature|Parameter|is[a-z]+)\b")


def reached(source: str, package: Package) -> list[tuple[str, str]]:
    """(name, digest) of each statement and file of `package` that the script `source` reaches, in order."""
    walk = _Walk(package)
    walk.run(Module("__main__", source))
    if walk.is_lost:
        return [(path, digest(data)) for path, data in package.contents.items()]
    statements = [s for module in package.modules.values() for s in module.statements if s in walk.reached]
    files = [(path, digest(package.contents[path])) for path in sorted(walk.files)]
    return [(statement.label, statement.digest) for statement in statements] + files


class _Walk:
    """Goes from a script through all that it reaches; lost where the text does not say what that is."""

    def __init__(self, package: Package) -> None:
        self.package, self.is_lost = package, False
        # Code in a text, for another process perhaps; a path; or the name of something in the package.
        self._code = re.compile(
            rf"\b(from|import|-m)\s+{package.name}\b|\b{package.name}/|^{package.name}[\w.:]*$"
        )
        self.reached: set[Statement] = set()
        self.files: set[str] = set()
        self._imported: set[Module] = set()
        self._whole: set[Module] = set()
        self._todo: list[Statement] = []

    def run(self, script: Module) -> None:
        """Reach all that the script reaches."""
        self.is_lost = not script.is_readable
        self._todo += script.statements
        while self._todo and not self.is_lost:
            self._follow(self._todo.pop())

    def _follow(self, statement: Statement) -> None:
        """Reach what a statement uses; what an import stands for is reached where its name is used."""
        uses = statement.uses
        for alias in uses.imports:
            self._import(alias)
        if statement.alias:
            return
        for chain in uses.chains:
            name, *attributes = chain
            meanings = [*self.package.meanings(statement.module, chain)]
            for alias in uses.imports:
                if alias.name == name:
                    meanings += self.package.imports(alias, tuple(attributes))
            self._reach(meanings)
            self.is_lost |= not meanings and name in DYNAMIC_NAMES
        for text in uses.texts:
            self.files |= {path for path in self.package.files if is_named(path, text)}
            self.is_lost |= self._code.search(text) is not None
        for beside in uses.own_file:
            self.is_lost |= not any(is_named(path, text) for text in beside for path in self.package.files)
        self.is_lost |= not DYNAMIC_ATTRIBUTES.isdisjoint(uses.attributes)

    def _import(self, alias: Import) -> None:
        """Reach what runs when something is imported."""
        for module in self.package.imported(alias):
            if module not in self._imported:
                self._imported.add(module)
                self.is_lost |= not module.is_readable
                self.files |= self.package.files_beside(module)
                for statement in module.statements:
                    if statement.alias:
                        self._import(statement.alias)
                    if not is_inert(statement, self.package):
                        self._reach([(statement, ())])
        if alias.name == "*":
            self._reach(self.package.imports(alias))

    def _reach(self, meanings: Iterable[Meaning]) -> None:
        for what, _ in meanings:
            if isinstance(what, str):
                self.is_lost |= bool(DYNAMIC_LIBRARY.match(what) and not NOT_DYNAMIC.match(what))
            elif isinstance(what, Module):
                self._reach_whole(what)
            elif what not in self.reached:
                self.reached.add(what)
                self._todo.append(what)

    def _reach_whole(self, module: Module) -> None:
        """Reach all that is in a module, and all modules in a package."""
        if module not in self._whole:
            self._whole.add(module)
            self._import(Import(module.name, module.name))
            for statement in module.statements:
                self._reach([(statement, ())])
                if statement.alias:
                    self._reach(self.package.imports(statement.alias))
            for inner in self.package.modules_inside(module):
                self._reach_whole(inner)
