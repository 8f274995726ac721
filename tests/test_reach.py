"""What a script reaches, on a small package: each case is one change that must, or must not, be seen."""

import pytest

from tests.small_course import COURSE, FORMATS, MEAN_FIELD, ONE, TANH, blocks, is_stale, package
from tools.modules import canonical, digest, package_in, parse
from tools.reach import reached

CHECK = "from course import checks\nchecks.doubling(f)"
CHAIN = "from course import explorers\nexplorers.chain(3)"
PHASES = "from course import explorers\nexplorers.phases()[1].largest()"
REACHED = {
    "a function": ("from course import theory\ntheory.chi(2)", MEAN_FIELD, "x * slope", "2 * slope"),
    "what it calls": ("from course import theory\ntheory.chi(2)", *TANH),
    "what a name stands for": (CHAIN, MEAN_FIELD, "import math", "import cmath as math"),
    "an imported function": ("from course.theory import chi\nchi(2)", *TANH),
    "an imported function under another name": ("from course.theory import chi as f\nf(2)", *TANH),
    "a module under another name": ("import course.theory.mean_field as m\nm.slope(1)", *TANH),
    "a module with its whole name": ("import course.theory.formats\ncourse.theory.chi(2)", *TANH),
    "a module of a package": ("from course.theory import mean_field\nmean_field.chi(2)", *TANH),
    "a constant": ("import course.theory\ncourse.theory.fixed_point(1)", FORMATS, "2}", "3}"),
    "a re-exported module": ("from course.theory import formats\nformats.FORMATS", FORMATS, "2}", "3}"),
    "a name of the package itself": ("import course\ncourse.measure(1)", "signals.py", "norms", "sizes"),
    "an import inside of a function": ("from course import measure\nmeasure(1)", FORMATS, "2}", "3}"),
    "a default": (CHAIN, *TANH),
    "a base class": (PHASES, "explorers.py", "self.label", "self.name"),
    "a method": (PHASES, "signals.py", "max(", "min("),
    "an object": (CHAIN, "explorers.py", 'Slider("depth")', 'Slider("width")'),
    "a file that is named": (CHAIN, "slider.js", "{}", "{ render }"),
    "a file that nothing names": (CHECK, "style.css", "p", "q"),
    "a check": (CHECK, "checks/set_01.py", "== 4", "== 5"),
    "what makes a check": (CHECK, "checks/common.py", "print(", "repr("),
    "in a function": ("def f(x):\n    from course import theory as t\n    return t.chi(x)", *TANH),
    "in a class": ("from course import theory\nclass A:\n    def f(self, x=theory.chi(2)): ...", *TANH),
    "in a decorator": ("from course import theory\n@theory.chi\ndef f(x): ...", *TANH),
    "in a comprehension": ("from course.theory import chi\n[chi(y) for y in (1, 2)]", *TANH),
    "before it is a local name": ("from course.theory import chi\n[chi for chi in [chi(2)]]", *TANH),
    "beside a local name": ("from course.theory import chi\ndef f(chi): ...\nchi(2)", *TANH),
    "a global name in a function": (
        "from course.theory import chi\ndef f(chi):\n    def g():\n        global chi\n        chi(2)",
        *TANH,
    ),
    "an import that hides a local name": (
        "def f(chi):\n    def g():\n        from course.theory import chi\n        chi(2)",
        *TANH,
    ),
}


@pytest.mark.parametrize(("script", "path", "old", "new"), REACHED.values(), ids=REACHED)
def test_what_is_reached_is_seen(script, path, old, new):
    assert is_stale(script, path, old, new)


CHI = "from course import theory, signals, explorers, checks\ntheory.chi(2)"
POINT = "from course.theory import fixed_point\nfixed_point(2)"
NOT_REACHED = {
    "a comment": (CHI, MEAN_FIELD, "# of each layer", "# of every layer"),
    "a new comment": (CHI, MEAN_FIELD, "import math", "import math  # for tanh\n"),
    "a docstring": (CHI, MEAN_FIELD, "The factor of", "By how much grows"),
    "no docstring": (CHI, MEAN_FIELD, "'''The factor of a layer.'''", ""),
    "the docstring of a module": (CHI, MEAN_FIELD, "The theory", "A theory"),
    "the docstring of a class": (CHAIN, "explorers.py", "A slider", "It slides"),
    "blank lines": (CHI, MEAN_FIELD, "def slope", "\n\n\ndef slope"),
    "brackets and line breaks": (CHI, MEAN_FIELD, "x * slope(x)", "(\n  x\n  * slope(x,)\n )"),
    "quotes": (POINT, MEAN_FIELD, '"half"', "'''ha''' 'lf'"),
    "a mark of Python 2": (POINT, MEAN_FIELD, '"half"', 'u"half"'),
    "how a number is written": (POINT, FORMATS, "2}", "0x2}"),
    "line ends": (CHI, MEAN_FIELD, "\n", "\r\n"),
    "another function": (CHI, MEAN_FIELD, '"half"', '"double"'),
    "a new function": (CHI, MEAN_FIELD, "def slope", "def new(x): ...\n\ndef slope"),
    "a function that is gone": (CHI, MEAN_FIELD, "@cache\ndef variance", "def other"),
    "another import": (CHI, MEAN_FIELD, "import math", "import math, os"),
    "another constant": (CHI, FORMATS, "UNUSED = 3", "UNUSED = [4]"),
    "a class that is not used": (CHI, "signals.py", "max(", "min("),
    "an object that is not used": (CHI, "explorers.py", 'Slider("depth")', 'Slider("width")'),
    "a function with a decorator": (CHI, "checks/set_01.py", "== 4", "== 5"),
    "another check": (CHECK, "checks/set_02.py", "== 6", "== 7"),
    "a file of what is not used": (CHI, "slider.js", "{}", "{ render }"),
    "a local name": ("from course.theory import chi\ndef f(chi):\n    return chi(2)", *TANH),
    "a local name of a comprehension": ("from course.theory import chi\n[chi for chi in range(3)]", *TANH),
    "a local name in the package": (PHASES, *TANH),
    "a name in a sentence": ("from course import measure\nprint('course.theory.chi of a layer')", *TANH),
}


@pytest.mark.parametrize(("script", "path", "old", "new"), NOT_REACHED.values(), ids=NOT_REACHED)
def test_what_is_not_reached_is_not_seen(script, path, old, new):
    assert not is_stale(script, path, old, new)


# --- What the text does not say counts as reached ----------------------------------------------------------

NAMES = """
def one():
    return 1

def pick(name):
    return globals()[name]()

def two(): ...
"""
DYNAMIC = blocks(
    """
    #: getattr
    from course import names
    getattr(names, 'o' + 'ne')()

    #: attrgetter
    from operator import attrgetter
    import course.names
    attrgetter('names.o' + 'ne')(course)()

    #: vars of a module
    from course import names
    vars(names)['o' + 'ne']()

    #: __dict__
    from course import names
    names.__dict__['o' + 'ne']()

    #: a module that is passed on
    from course import names
    print(names)

    #: a module under a second name
    from course import names
    same = names
    same.one()

    #: a module in a list
    from course import names
    [names][0].one()

    #: a module that is returned
    def f():
        from course import names
        return names
    f().one()

    #: the package
    import course.names
    print(course)

    #: a module of a module
    from course import holder
    print(holder)

    #: globals
    from course.names import pick
    pick('o' + 'ne')

    #: vars of everything
    from course.names import two
    vars()['o' + 'ne']()

    #: locals
    from course.names import two
    locals()['o' + 'ne']()

    #: eval
    from course import names
    eval('names.o' + 'ne()')

    #: exec
    exec('from cour' + 'se.names import one')

    #: __import__
    __import__('course.' + 'names').names.one()

    #: importlib
    import importlib
    importlib.import_module('cour' + 'se.names').one()

    #: a function of importlib
    from importlib import import_module as load
    load('cour' + 'se.names').one()

    #: sys.modules
    import sys, course.names
    sys.modules['cour' + 'se.names'].one()

    #: the globals of a function
    from course.names import two
    two.__globals__['o' + 'ne']()

    #: a star import
    from course.names import *
    one()

    #: a star import in the package
    from course.others import one
    one()

    #: an attribute that only __getattr__ has
    from course.lazy import three
    three()

    #: an import in a text
    import subprocess
    subprocess.run(['python', '-c', 'import course.names'])

    #: a module in a text
    import subprocess
    name = 'names'
    subprocess.run(['python', '-m', f'course.{name}'])

    #: a path in a text
    open('../utils/course/names.py').read()

    #: a magic
    from course import names
    %time names.one()

    #: a script that is not Python
    from course import names
    names.one(
    """
)


@pytest.mark.parametrize("script", DYNAMIC.values(), ids=DYNAMIC)
def test_a_name_that_is_looked_up_at_run_time_is_seen(script):
    more = {
        "names.py": NAMES,
        "others.py": "from course.names import *",
        "holder.py": "from . import names",
        "lazy.py": "def __getattr__(name):\n    from course import names\n    return names.one",
    }
    assert is_stale(script, *ONE, COURSE | more)


@pytest.mark.parametrize(
    "use", ["print(theory.chi.__doc__)", "help(theory.chi)", "inspect.getdoc(theory.chi)"]
)
def test_a_docstring_that_is_read_is_seen(use):
    script = f"import inspect\nfrom course import theory\n{use}"
    assert is_stale(script, MEAN_FIELD, "The factor of", "By how much grows")


def test_a_comment_that_is_read_is_seen():
    script = "import inspect\nfrom course import theory\ninspect.getsource(theory.chi)"
    assert is_stale(script, MEAN_FIELD, "# of each layer", "# of every layer")
    signature = "import inspect\nfrom course import theory\ninspect.signature(theory.chi)"
    assert not is_stale(signature, MEAN_FIELD, "# of each layer", "# of every layer")


READERS = blocks(
    """
    #: in a statement
    from pathlib import Path
    def read(name):
        return Path(__file__).with_name(f'{name}.js').read_text()

    #: beside a file that is named
    from pathlib import Path
    def read(name):
        Path(__file__).with_name('style.css')
        return Path(__file__).with_name(f'{name}.js').read_text()

    #: in the head of a block
    from pathlib import Path
    def read(name):
        with open(Path(__file__).with_name(f'{name}.js')) as file:
            file.seek('style.css')

    #: through a constant
    from pathlib import Path
    FOLDER = Path(__file__).parent
    def read(name):
        return (FOLDER / f'{name}.js').read_text()

    #: through the package
    import course
    def read(name):
        return course.__path__[0] + name
    """
)


@pytest.mark.parametrize("code", READERS.values(), ids=READERS)
def test_a_file_whose_name_is_computed_is_seen(code):
    script = "from course.reader import read\nread('slider')"
    assert is_stale(script, "slider.js", "{}", "{ render }", COURSE | {"reader.py": code})


def test_a_module_that_is_not_python_makes_everything_stale():
    assert is_stale(CHI, "slider.js", "{}", "{ render }", COURSE | {FORMATS: "FORMATS = {"})


# --- How names are found -----------------------------------------------------------------------------------


def test_a_new_definition_that_hides_a_name_of_python_is_seen():
    assert is_stale(
        "import course\ncourse.measure(1)", "signals.py", "def measure", "def max(x): ...\n\ndef measure"
    )


def test_a_definition_hides_the_module_that_has_its_name():
    files = {
        "theory/__init__.py": "from course.theory.chi import chi",
        "theory/chi.py": "def chi(x):\n    return 1\ndef slope(x):\n    return 2",
    }
    for script in ("from course import theory\ntheory.chi(1)", "import course.theory.chi as m\nm(1)"):
        assert is_stale(script, "theory/chi.py", "return 1", "return 3", files)
    assert not is_stale("from course import theory\ntheory.chi(1)", "theory/chi.py", "return 2", "3", files)


def test_modules_that_import_each_other():
    files = {
        "a.py": "from course import b\nfrom course.b import two\ndef one():\n    return b.two()",
        "b.py": "from course import a\ndef two():\n    return a.one() + 1",
        "c.py": "from course.d import x",
        "d.py": "from course.c import x",
    }
    assert is_stale("from course.a import one\none()", "b.py", "+ 1", "+ 2", files)
    assert [name for name, _ in reached("from course.c import x\nx()", package(files))] == ["c.x", "d.x"]


def test_a_name_that_is_bound_twice_is_both():
    files = {"a.py": "try:\n    from course.b import x\nexcept ImportError:\n    x = 1\n", "b.py": "x = 2"}
    for path, old in (("a.py", "x = 1"), ("b.py", "x = 2")):
        assert is_stale("from course.a import x\nx", path, old, "x = 3", files)
    files["a.py"] = "import sys\nif sys:\n    from course.b import x\ndef f():\n    return x"
    assert is_stale("from course.a import f\nf()", "b.py", "x = 2", "x = 3", files)


def test_a_folder_without_init_is_a_package():
    files = {"theory/laws/chi.py": "def chi(x):\n    return 1\ndef other():\n    return 2"}
    script = "from course.theory.laws import chi\nchi.chi(1)"
    assert is_stale(script, "theory/laws/chi.py", "return 1", "return 3", files)
    assert not is_stale(script, "theory/laws/chi.py", "return 2", "return 3", files)


def test_what_editors_and_caches_leave_behind_is_not_part_of_a_package(tmp_path):
    before = reached(CHI, package_in(tmp_path / "course"))
    for path, text in COURSE.items():
        (tmp_path / "course" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "course" / path).write_text(text, encoding="utf-8")
    assert before != (after := reached(CHI, package_in(tmp_path / "course")))
    for path in (
        ".DS_Store",
        ".chi.py.swp",
        "signals.py~",
        "__pycache__/a.js",
        "theory/.ipynb_checkpoints/b.css",
    ):
        (tmp_path / "course" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "course" / path).write_text("left behind", encoding="utf-8")
    assert reached(CHI, package_in(tmp_path / "course")) == after
    (tmp_path / "course" / "new.css").write_text("p {}", encoding="utf-8")
    assert reached(CHI, package_in(tmp_path / "course")) != after


def test_what_is_reached_has_names():
    names = {name for name, _ in reached(CHAIN, package(COURSE))}
    assert {"explorers.chain", "explorers.Slider", "theory.mean_field.chi", "slider.js", "style.css"} <= names
    assert not {"explorers.phases", "signals.Signals", "checks.set_01.doubling"} & names


def test_what_is_reached_has_the_same_hashes_everywhere():
    """In each version of Python, on each system. When the rules for a hash change, all lessons are stale."""
    hashes = digest(repr(reached(PHASES, package(COURSE))))
    assert hashes == "811907f68c665c387508f1c3443dc0e510a6a81bd298def31f9e2772f5482982"


def test_a_syntax_tree_is_the_same_text_in_each_version_of_python():
    source = (
        "def f(a, /, *b, c: int = 1) -> str:\n    return f'{a!r:>{c}} é' if not b else {**a, 'x': -1.5}\n"
    )
    assert canonical(parse(source)) == (
        "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[arg(arg='a')], vararg=arg(arg='b'), "
        "kwonlyargs=[arg(arg='c', annotation=Name(id='int'))], kw_defaults=[Constant(value=1)]), "
        "body=[Return(value=IfExp(test=UnaryOp(op=Not(), operand=Name(id='b')), body=JoinedStr(values=["
        "FormattedValue(value=Name(id='a'), conversion=114, format_spec=JoinedStr(values=["
        "Constant(value='>'), FormattedValue(value=Name(id='c'), conversion=-1)])), "
        "Constant(value=' \\xe9')]), orelse=Dict(keys=[None, Constant(value='x')], values=[Name(id='a'), "
        "UnaryOp(op=USub(), operand=Constant(value=1.5))])))], returns=Name(id='str'))])"
    )
