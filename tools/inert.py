"""Whether a statement at the top of a module does nothing but bind its names while the module is imported.

A decorator may enter its function in a table, a class may keep a list of its subclasses, a call may change a
setting. What calls something at that time is inert only where the text proves it: the function is in a list
below, or is one of the package that assigns to its own local names alone, and calls nothing that is not inert.
What is inert without a proof is built a little too often, and no harm is done.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tools.modules import DEFINITIONS, Chain, Module, Package, Statement, chain_of

# Library functions and decorators that change nothing, draw no random number, and call nothing at once.
LIBRARY = re.compile(
    r"(abc|enum|fractions|math|numbers|string|traitlets|typing)\."
    r"|collections\.(ChainMap|Counter|OrderedDict|defaultdict|deque|namedtuple)$"
    r"|contextlib\.(asynccontextmanager|contextmanager)$"
    r"|dataclasses\.(dataclass|field)$"
    r"|functools\.(cache|cached_property|lru_cache|partial|singledispatch|total_ordering|wraps)$"
    r"|matplotlib\.cycler$"
    r"|numpy\.(?!random\.(?!default_rng$)|set|apply|frompyfunc|fromfunction|piecewise|vectorize|load|save)"
    r"|pathlib\.\w*Path$|re\.compile$|statistics\.NormalDist$"
    r"|torch\.(no_grad|inference_mode|finfo|iinfo|tensor|zeros|ones|full|eye|arange|linspace|device)$"
    r"|types\.(MappingProxyType|SimpleNamespace)$|weakref\.(ref|Weak\w+)$"
)
BUILTINS = {"abs", "all", "any", "bool", "bytes", "classmethod", "complex", "dict", "enumerate", "float"}
BUILTINS |= {
    "frozenset",
    "int",
    "isinstance",
    "issubclass",
    "len",
    "list",
    "max",
    "min",
    "object",
    "property",
}
BUILTINS |= {"range", "repr", "reversed", "round", "set", "slice", "sorted", "staticmethod", "str", "sum"}
BUILTINS |= {"super", "tuple", "zip"}
# Methods that change nothing, unless a class of the package has one of the same name.
METHODS = {"copy", "count", "endswith", "format", "get", "index", "items", "join", "keys", "lower", "replace"}
METHODS |= {"setter", "split", "startswith", "strip", "tag", "title", "upper", "values", "with_name"}
# Libraries whose classes keep no list, of those that inherit from them, which the course would read.
BASES = re.compile(
    r"(abc|anywidget|collections|enum|ipywidgets|matplotlib|numbers|string|torch|traitlets|types|typing)\."
)
CONSTRUCTORS = {"__init__", "__new__", "__post_init__"}
HOOKS = {"__init_subclass__", "__set_name__"}  # they run when another class is made
# `+=` may change a list that has another name elsewhere.
NEVER_INERT = (ast.AugAssign, ast.Global, ast.Import, ast.ImportFrom, ast.AsyncFunctionDef, ast.ClassDef)
NEVER_INERT += (ast.With, ast.AsyncWith, ast.Await, ast.Yield, ast.YieldFrom)


@lru_cache(maxsize=20_000)
def is_inert(statement: Statement, package: Package) -> bool:
    """Whether nothing but the names of the statement differs once it has run."""
    if statement.alias:
        return statement.alias.name != "*" and not statement.alias.target.startswith("__future__")
    return _Proof(package, statement.module).binds_only(statement.node)


@dataclass(frozen=True)
class _Proof:
    """What runs in one scope of a module; each method says whether something is inert there."""

    package: Package
    module: Module
    local: frozenset[str] = frozenset()  # names of the scope, which may be anything
    functions: tuple[ast.FunctionDef, ...] = ()  # those of them that are known
    own: str = ""  # in a constructor, the name of the object that is being made
    trail: frozenset[tuple[ast.FunctionDef, int]] = frozenset()  # what is being looked through

    def binds_only(self, node: ast.stmt) -> bool:
        """A definition, with its decorators, defaults, base classes and values."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            around = [node.args, *([node.returns] if node.returns else [])]
            return all(map(self.decorates, node.decorator_list)) and all(map(self.computes, around))
        if isinstance(node, ast.ClassDef):
            inside = replace(self, local=self.local | stored_names(node))
            return self.is_plain(node) and all(map(inside.binds_only, node.body))
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            places = (inner for target in targets for inner in ast.walk(target))
            return not any(map(is_place, places)) and self.computes(node)
        return isinstance(node, ast.Pass) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )

    def decorates(self, decorator: ast.expr) -> bool:
        """A decorator, which is called with what it decorates."""
        return self.computes(decorator) and self.calls(decorator)

    def is_plain(self, node: ast.ClassDef) -> bool:
        """A class of which neither its decorators nor its base classes take notice, nor it of other classes."""
        hooks = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} & HOOKS
        inherits = not node.keywords and all(map(self._inherits, node.bases))
        return not hooks and inherits and all(map(self.decorates, node.decorator_list))

    def _inherits(self, base: ast.expr) -> bool:
        chain = chain_of(base.value if isinstance(base, ast.Subscript) else base)  # Generic[T]
        meanings = list(self.package.meanings(self.module, chain)) if chain else []
        if not meanings:
            return len(chain) == 1 and isinstance(getattr(builtins, chain[0], None), type)
        return all(self._is_base(what) for what, _ in meanings)

    def _is_base(self, what: Statement | Module | str) -> bool:
        if isinstance(what, str):
            return BASES.match(what) is not None
        if isinstance(what, Module):
            return False
        there = _Proof(self.package, what.module)
        return what.alias is not None or (isinstance(what.node, ast.ClassDef) and there.is_plain(what.node))

    def computes(self, node: ast.AST) -> bool:
        """An expression, or a statement without others inside of it."""
        inside = replace(self, local=self.local | stored_names(node))
        return all(map(inside.leaves_alone, running(node)))

    def leaves_alone(self, node: ast.AST) -> bool:
        """One node by itself: it assigns to nothing but local names, and calls nothing that is not inert."""
        if isinstance(node, ast.Call):
            if self.own and self._makes_itself(node):
                return True
            sorts = any(
                word.arg == "key" and not isinstance(word.value, ast.Lambda) for word in node.keywords
            )
            return not sorts and self.calls(node.func)
        if isinstance(node, ast.FunctionDef):
            return all(map(self.decorates, node.decorator_list))
        if is_place(node):
            return bool(self.own) and isinstance(node, ast.Attribute) and chain_of(node)[:-1] == (self.own,)
        return not isinstance(node, NEVER_INERT)

    def _makes_itself(self, node: ast.Call) -> bool:
        if chain_of(node.func) == ("object", "__setattr__"):  # as a frozen dataclass does
            return bool(node.args) and chain_of(node.args[0]) == (self.own,)
        return ast.unparse(node.func) == "super().__init__"

    def calls(self, function: ast.expr, times: int = 1) -> bool:
        """To call `function`, then what that returns, and so on, `times` times in all."""
        if isinstance(function, ast.Call):
            return self.calls(function.func, times + 1)
        if isinstance(function, ast.Lambda):
            return times == 1 and self.computes(function.body)
        chain = chain_of(function)
        if not chain:  # a method of what an expression gives
            return isinstance(function, ast.Attribute) and self._is_method(("", function.attr))
        if chain[0] in self.local:
            known = [node for node in self.functions if chain == (node.name,)]
            return all(self.runs(node, times) for node in known) if known else self._is_method(chain)
        meanings = list(self.package.meanings(self.module, chain))
        if not meanings:
            return is_inert_builtin(chain[0]) if len(chain) == 1 else self._is_method(chain)
        return all(self._calls(what, attributes, times) for what, attributes in meanings)

    def _is_method(self, chain: Chain) -> bool:
        return len(chain) > 1 and chain[-1] in METHODS - self.package.methods

    def _calls(self, what: Statement | Module | str, attributes: Chain, times: int) -> bool:
        if isinstance(what, str):
            return LIBRARY.match(what) is not None and (times == 1 or what != "functools.partial")
        if isinstance(what, Module):
            return False
        if what.alias or attributes:
            return what.alias is not None or self._is_method(("", *attributes))
        node, there = what.node, _Proof(self.package, what.module, trail=self.trail)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            return False
        if not all(there.calls(decorator, times + 1) for decorator in node.decorator_list):
            return False
        return there.runs(node, times) if isinstance(node, ast.FunctionDef) else there._makes(node, times)

    def runs(self, function: ast.FunctionDef, times: int = 1, own: str = "") -> bool:
        """The body of a function; where it is called more than once in a row, also what it returns."""
        if (function, times) in self.trail:
            return True
        body = [node for part in function.body for node in running(part)]
        assigned = {
            node.id for node in body if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        inner = [n for n in body if isinstance(n, ast.FunctionDef) and n.name not in assigned]
        inside = replace(
            self,
            local=self.local | stored_names(function),
            functions=(*self.functions, *inner),
            own=own,
            trail=self.trail | {(function, times)},
        )
        returned = [node.value for node in body if isinstance(node, ast.Return) and times > 1]
        next_is_inert = all(value is not None and inside.calls(value, times - 1) for value in returned)
        return next_is_inert and all(map(inside.leaves_alone, body))

    def _makes(self, node: ast.ClassDef, times: int) -> bool:
        """An object of a class of the package; called as well, where `times` is more than 1."""
        if not self.is_plain(node):
            return False
        for base in node.bases:
            for what, attributes in self.package.meanings(self.module, chain_of(base)):
                if isinstance(what, Statement) and not self._calls(what, attributes, times):
                    return False
        names = CONSTRUCTORS | ({"__call__"} if times > 1 else set())
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name in names]
        return all(m.args.args and self.runs(m, 1, m.args.args[0].arg) for m in methods)


def is_inert_builtin(name: str) -> bool:
    """Whether to call a name of Python itself changes nothing: some functions, and all exceptions."""
    what = getattr(builtins, name, None)
    return name in BUILTINS or (isinstance(what, type) and issubclass(what, BaseException))


def is_place(node: ast.AST) -> bool:
    """Whether something is stored in, or deleted from, an object: `thing.name = ...`, `del thing[0]`."""
    return isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)


def stored_names(node: ast.AST) -> frozenset[str]:
    """All names that are bound anywhere inside of a node."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    names |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    names |= {n.name for n in ast.walk(node) if isinstance(n, (*DEFINITIONS, ast.ExceptHandler)) and n.name}
    return frozenset(names)


def running(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what runs with it: not the body of a function, unless it is a lambda that a call gets."""
    yield node
    inside: list[ast.AST] = [*ast.iter_child_nodes(node)]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        inside = [*node.decorator_list, node.args]
    elif isinstance(node, ast.ClassDef):
        inside = [*node.decorator_list]
    elif isinstance(node, ast.Lambda):
        inside = [node.args]
    elif isinstance(node, ast.Call):
        given = [*node.args, *(word.value for word in node.keywords)]
        inside += [argument.body for argument in given if isinstance(argument, ast.Lambda)]
    for child in inside:
        yield from running(child)
