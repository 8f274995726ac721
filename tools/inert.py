"""Whether a statement at the top of a module does nothing but bind its names while the module is imported.

A decorator may enter its function in a table, a class may keep a list of its subclasses, a call may change
a setting. A statement that calls something is inert only where the text proves it: each function is in a list
below, or belongs to the package, assigns to its own local names alone, and calls nothing that is not inert.
Where the proof fails although the statement is inert, notebooks are built too often, and that is all.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tools.modules import DEFINITIONS, Chain, Module, Package, Statement, bound_names, chain_of

# What changes nothing, draws no random numbers, and calls nothing at once: of libraries, as patterns, ...
LIBRARY = re.compile(
    r"(abc\.abstract\w+|collections\.(ChainMap|Counter|OrderedDict|defaultdict|deque|namedtuple)"
    r"|contextlib\.(asynccontextmanager|contextmanager)|dataclasses\.(dataclass|field)|enum\.(auto|unique)"
    r"|fractions\.Fraction"
    r"|functools\.(cache|cached_property|lru_cache|partial|singledispatch|total_ordering|wraps)"
    r"|math\.\w+|(matplotlib|matplotlib\.rcsetup|cycler)\.cycler"
    r"|numpy\.(abs|arange|argmax|array|asarray|clip|cos|cosh|cumprod|cumsum|diag|errstate|exp|eye|float64|full|geomspace|isfinite"
    r"|isnan|linspace|log|log10|logspace|maximum|minimum|ones|random\.default_rng|sin|sinh|sqrt|stack|tan"
    r"|tanh|where|zeros)"
    r"|pathlib\.\w*Path|re\.compile|statistics\.NormalDist|string\.Template"
    r"|torch\.(arange|device|eye|finfo|full|iinfo|inference_mode|linspace|no_grad|ones|tensor|zeros)"
    r"|traitlets\.\w+|types\.(MappingProxyType|SimpleNamespace)"
    r"|typing\.(NamedTuple|NewType|ParamSpec|TypeVar|final|overload|runtime_checkable)"
    r"|weakref\.(ref|Weak\w+))$"
)
# (these give a decorator)
FACTORIES = re.compile(
    r"(dataclasses\.dataclass|functools\.(lru_cache|wraps)|numpy\.errstate|torch\.(inference_mode|no_grad))$"
)
# ... of Python itself, ...
BUILTINS = re.compile(
    r"(abs|all|any|bool|bytes|classmethod|complex|dict|enumerate|float|frozenset|int|isinstance|issubclass"
    r"|len|list|max|min|object|property|range|repr|reversed|round|set|slice|sorted|staticmethod|str|sum|super"
    r"|tuple|zip)$"
)
# ... and methods, unless a class of the package has one of the same name.
METHODS = re.compile(
    r"(all|any|astype|copy|count|endswith|format|fromkeys|get|index|inv_cdf|item|items|join|keys|lower|max"
    r"|mean|min|nonzero|replace|reshape|setter|split|square|startswith|strip|sum|tag|title|to|tolist|upper"
    r"|values|with_name)$"
)
# Libraries whose classes keep no list, of those that inherit from them, which the course would read.
BASES = re.compile(
    r"(abc|anywidget|collections|enum|ipywidgets|matplotlib|numbers|string|torch|traitlets|types|typing)\."
)
CONSTRUCTORS = {"__init__", "__new__", "__post_init__"}
HOOKS = {"__init_subclass__", "__set_name__"}  # they run when another class is made
# Values that are new, and Python's own or numbers: nothing else knows them by another name.
NEW = (
    *(ast.BinOp, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set),
    *(ast.ListComp, ast.DictComp, ast.SetComp),
)
# `+=` may change a list that has another name elsewhere.
NEVER_INERT = (
    *(ast.AugAssign, ast.Global, ast.Import, ast.ImportFrom, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.With, ast.AsyncWith, ast.Await, ast.Yield, ast.YieldFrom),
)
Step = tuple[ast.FunctionDef, int, frozenset[str]]  # how often in a row it is called, and with which lambdas


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
    given: frozenset[str] = frozenset()  # arguments that are lambdas, and inert
    own: str = ""  # in a constructor, the name of the object that is being made
    trail: frozenset[Step] = frozenset()  # what is being looked through

    def binds_only(self, node: ast.stmt) -> bool:
        """A definition, with its decorators, defaults, base classes and values."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            around = [node.args, *([node.returns] if node.returns else [])]
            return all(map(self.decorates, node.decorator_list)) and all(map(self.computes, around))
        if isinstance(node, ast.ClassDef):
            inside = replace(self, local=self.local | stored_names(node))
            return self.is_plain(node) and all(map(inside.binds_only, node.body))
        if isinstance(node, ast.Assign | ast.AnnAssign):
            return self.computes(node)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            values = [other.node for other in self.module.bindings[node.target.id]]
            new = (
                isinstance(other, ast.AugAssign) or isinstance(getattr(other, "value", None), NEW)
                for other in values
            )
            return all(new) and self.computes(node.value)
        return isinstance(node, ast.Pass) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )

    def decorates(self, decorator: ast.expr) -> bool:
        """A decorator, which is called with what it decorates."""
        return self.computes(decorator) and self.calls(decorator)

    def is_plain(self, node: ast.ClassDef) -> bool:
        """A class that no decorator or base class notes anywhere, and that does not note other classes."""
        hooks = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} & HOOKS
        made_by = [word.arg for word in node.keywords if word.arg in ("metaclass", None)]
        inherits = not made_by and all(map(self._inherits, node.bases))
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
            return self._is_inert_call(node)
        if isinstance(node, ast.FunctionDef):
            return all(map(self.decorates, node.decorator_list))
        if is_place(node):
            return bool(self.own) and isinstance(node, ast.Attribute) and chain_of(node)[:-1] == (self.own,)
        return not isinstance(node, NEVER_INERT)

    def _is_inert_call(self, node: ast.Call) -> bool:
        chain, first = chain_of(node.func), node.args[0] if node.args else None
        if self.own and chain == ("object", "__setattr__"):  # as a frozen dataclass does
            return first is not None and chain_of(first) == (self.own,)
        if self.own and ast.unparse(node.func) == "super().__init__":
            return True
        if chain == ("next",) and isinstance(first, ast.GeneratorExp):
            return True
        if chain in (("map",), ("filter",)) and isinstance(first, ast.Name | ast.Lambda):
            return self.calls(first)
        words = {word.arg for word in node.keywords if not isinstance(word.value, ast.Lambda)}
        return words.isdisjoint({"key", "out"}) and self.calls(node.func, 1, node)

    def calls(self, function: ast.expr, times: int = 1, call: ast.Call | None = None) -> bool:
        """To call `function`, then what that returns, and so on, `times` times in all."""
        if isinstance(function, ast.Call):
            return self.calls(function.func, times + 1)
        if isinstance(function, ast.Lambda):
            return times == 1 and self.computes(function.body)
        chain = chain_of(function)
        if known := [node for node in self.functions if chain == (node.name,)]:
            return all(self.runs(node, times) for node in known)
        is_local = not chain or chain[0] in self.local  # or what an expression gives: it may be anything
        meanings = [] if is_local else list(self.package.meanings(self.module, chain))
        if meanings:
            return all(self._calls(what, attributes, times, call) for what, attributes in meanings)
        if times > 1:
            return False
        if isinstance(function, ast.Attribute):
            return self._is_method(function.attr)
        return chain[0] in self.given if is_local and chain else not is_local and is_inert_builtin(chain[0])

    def _calls(
        self, what: Statement | Module | str, attributes: Chain, times: int, call: ast.Call | None
    ) -> bool:
        if isinstance(what, str):
            return bool((LIBRARY if times == 1 else FACTORIES).match(what)) and times <= 2
        if isinstance(what, Module):
            return False
        if what.alias:
            return True  # what it stands for is among the meanings, too
        if attributes:
            is_new = isinstance(getattr(what.node, "value", None), NEW)
            return times == 1 and self._is_method(attributes[-1], is_new)
        node, there = what.node, _Proof(self.package, what.module, trail=self.trail)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            return False
        if not all(there._passes_on(decorator, times) for decorator in node.decorator_list):
            return False
        if isinstance(node, ast.ClassDef):
            return there._makes(node, times)
        return there.runs(node, times, given=self._lambdas(node, call) if call else frozenset())

    def _is_method(self, name: str, is_new: bool = False) -> bool:
        return METHODS.match(name) is not None and (is_new or name not in self.package.methods)

    def _lambdas(self, function: ast.FunctionDef, call: ast.Call) -> frozenset[str]:
        """The arguments of a function for which a call gives an inert lambda: the function may call them."""
        names = [] if any(isinstance(value, ast.Starred) for value in call.args) else function.args.args
        given = [(name.arg, value) for name, value in zip(names, call.args, strict=False)]
        given += [(word.arg, word.value) for word in call.keywords if word.arg]
        return frozenset(n for n, v in given if isinstance(v, ast.Lambda) and self.computes(v.body))

    def _passes_on(self, decorator: ast.expr, times: int) -> bool:
        """To call what a decorator has made of a function; one of a library only calls the function."""
        chain = chain_of(decorator.func if isinstance(decorator, ast.Call) else decorator)
        meanings = self.package.meanings(self.module, chain) if chain else ()
        is_library = all(
            isinstance(what, str) or (isinstance(what, Statement) and what.alias) for what, _ in meanings
        )
        return self.calls(decorator, 1 if is_library else times + 1)

    def runs(
        self, function: ast.FunctionDef, times: int = 1, own: str = "", given: frozenset[str] = frozenset()
    ) -> bool:
        """The body of a function; where it is called more than once in a row, also what it returns."""
        if (step := (function, times, given)) in self.trail:
            return True
        body = [node for part in function.body for node in running(part)]
        stored, assigned = stored_names(function), bound_names(n for n in body if isinstance(n, ast.Name))
        inner = [n for n in body if isinstance(n, ast.FunctionDef) and n.name not in assigned]
        inside = replace(
            self,
            local=self.local | stored,
            functions=(*(node for node in self.functions if node.name not in stored), *inner),
            given=(self.given - stored) | (given - assigned),
            own=own,
            trail=self.trail | {step},
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
                if isinstance(what, Statement) and not self._calls(what, attributes, times, None):
                    return False
        names = CONSTRUCTORS | ({"__call__"} if times > 1 else set())
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name in names]
        return all(self.runs(method, 1, own_name(method)) for method in methods)


def own_name(method: ast.FunctionDef) -> str:
    """The name of the object in a method; empty where that is a class, which others see."""
    return method.args.args[0].arg if method.args.args and method.name != "__new__" else ""


def is_inert_builtin(name: str) -> bool:
    """Whether to call a name of Python itself changes nothing: some functions, and all exceptions."""
    what = getattr(builtins, name, None)
    return bool(BUILTINS.match(name)) or (isinstance(what, type) and issubclass(what, BaseException))


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
    """The node and what runs with it: not the body of a function, except of a lambda that sorts."""
    yield node
    inside: list[ast.AST] = [*ast.iter_child_nodes(node)]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        inside = [*node.decorator_list, node.args]
    elif isinstance(node, ast.ClassDef):
        inside = [*node.decorator_list]
    elif isinstance(node, ast.Lambda):
        inside = [node.args]
    elif isinstance(node, ast.Call):
        keys = [word.value for word in node.keywords if word.arg == "key"]
        inside += [key.body for key in keys if isinstance(key, ast.Lambda)]
    for child in inside:
        yield from running(child)
