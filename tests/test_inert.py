"""What happens while a module is imported: seen by whoever imports it, unless it only binds a name."""

from pathlib import Path

import pytest

from tests.small_course import COURSE, ONE, blocks, is_stale, package
from tools.inert import is_inert
from tools.modules import package_in
from tools.reach import reached

AT_IMPORT = blocks(
    """
    #: a decorator
    def register(f):
        TABLE[f.__name__] = f
        return f
    @register
    def one():
        return 1

    #: a decorator with arguments
    def register(name):
        def enter(f):
            TABLE[name] = f
            return f
        return enter
    @register('one')
    def one():
        return 1

    #: a decorator that calls another function
    def put(f):
        TABLE['one'] = f
    def register(f):
        put(f)
        return f
    @register
    def one():
        return 1

    #: a decorator that appends
    def note(f):
        FUNCTIONS.append(f)
        return f
    @note
    def one():
        return 1

    #: a decorator that adds
    def note(f):
        global FUNCTIONS
        FUNCTIONS = [*FUNCTIONS, f]
    @note
    def one():
        return 1

    #: a decorator that adds in place
    def note(f, functions=FUNCTIONS):
        functions += [f]
    @note
    def one():
        return 1

    #: a decorator that opens something
    def note(f):
        with lock(f):
            return f
    @note
    def one():
        return 1

    #: a decorator that is an object
    class Register:
        def __call__(self, f):
            TABLE['one'] = f
    register = Register()
    @register
    def one():
        return 1

    #: a decorator that is a method with a harmless name
    class Register:
        def get(self, f):
            TABLE['one'] = f
    register = Register()
    @register.get
    def one():
        return 1

    #: a decorator that is a class
    class register:
        def __init__(self, f):
            TABLE['one'] = f
    @register
    def one():
        return 1

    #: a decorator that calls the function
    def now(f):
        f()
        return f
    @now
    def one():
        TABLE['one'] = 'return 1'

    #: a decorator that is assigned
    def put(f):
        TABLE['one'] = f
    def make():
        def enter(f): ...
        enter = put
        return enter
    @make()
    def one():
        return 1

    #: a decorator that is returned
    def put(f):
        TABLE['one'] = f
    def make():
        return put
    @make()
    def one():
        return 1

    #: a decorator that a lambda makes
    def make():
        return lambda f: FUNCTIONS.append(f)
    @make()
    def one():
        return 1

    #: a decorator inside of a decorator
    def put(f):
        TABLE['one'] = f
        return f
    def make(f):
        @put
        def inner(): return f()
        return inner
    @make
    def one():
        return 1

    #: a decorator of a library
    from functools import singledispatch
    @singledispatch
    def show(x): ...
    @show.register
    def one(x: int):
        return 1

    #: a decorator for the end
    import atexit
    @atexit.register
    def one():
        return 1

    #: a base class
    class Base:
        def __init_subclass__(cls):
            FUNCTIONS.append(cls)
    class One(Base):
        def one(self):
            return 1

    #: a base class of a base class
    class Base:
        def __init_subclass__(cls):
            FUNCTIONS.append(cls)
    class Next(Base): ...
    class One(Next):
        def one(self):
            return 1

    #: a base class that is computed
    class One(max(FUNCTIONS)):
        def one(self):
            return 1

    #: a metaclass
    class Meta(type):
        def __init__(cls, *more):
            FUNCTIONS.append(cls)
    class One(metaclass=Meta):
        def one(self):
            return 1

    #: an attribute of a class
    class Field:
        def __set_name__(self, owner, name):
            FUNCTIONS.append(owner)
    class One:
        field = Field()
        def one(self):
            return 1

    #: a decorator of a method
    def note(f):
        FUNCTIONS.append(f)
        return f
    class One:
        @note
        def one(self):
            return 1

    #: a decorator of a class
    def note(f):
        FUNCTIONS.append(f)
        return f
    @note
    class One:
        def one(self):
            return 1

    #: the body of a class
    class One:
        def one():
            return 1
        FUNCTIONS.append(one)

    #: a call
    def one():
        return 1
    FUNCTIONS.append(one)

    #: a call that is kept
    def one():
        return 1
    _ = FUNCTIONS.append(one)

    #: a call in a default
    def one():
        return 1
    def other(x=FUNCTIONS.append(one)): ...

    #: a call in an annotation
    def one():
        return 1
    def other(x) -> FUNCTIONS.append(one): ...

    #: a call of a function that stores
    def put():
        TABLE['one'] = 1
        return 1
    _ = put()

    #: a call of a lambda
    def one():
        return 1
    _ = (lambda: FUNCTIONS.append(one))()

    #: a lambda that sorts
    def one():
        return 1
    _ = sorted([1], key=lambda x: FUNCTIONS.append(one))

    #: a lambda that a function calls
    def call(function, _=None):
        return function(2)
    def one(x):
        return 1
    _ = call(lambda x: FUNCTIONS.append(one))

    #: a function that a function calls
    def call(function, _=None):
        return function(2)
    def one(x):
        FUNCTIONS.append(1); return 1
    _ = call(one, lambda x: x)

    #: a lambda in another place than it seems
    def call(function, _=None):
        return function(2)
    def one(x):
        FUNCTIONS.append(1); return 1
    _ = call(*[one], lambda x: x)

    #: a lambda that another name hides
    def call(function):
        function = FUNCTIONS.append
        return function('return 1')
    _ = call(lambda x: x)

    #: a function that calls itself with something else
    def call(function, n=1):
        return function(n) if n else call(FUNCTIONS.append, 'return 1')
    _ = call(lambda x: x, 0)

    #: map
    def one(x):
        FUNCTIONS.append(x); return 1
    _ = list(map(one, [2]))

    #: next
    def one():
        return 1
    _ = next(FUNCTIONS.pop(one) for _ in [1])

    #: a function that sorts
    def one(x):
        FUNCTIONS.append(x)
        return 1
    _ = sorted([2], key=one)

    #: an assignment to an entry
    def one():
        return 1
    TABLE['one'] = one

    #: an assignment to an attribute
    from course import theory
    def one(x):
        return 1
    theory.chi = one

    #: an assignment that adds
    def one():
        return 1
    from course import signals
    SAME = signals.measure
    SAME += [one]

    #: an assignment that adds to what came from elsewhere
    def one():
        return 1
    from course.signals import measure
    measure += [one]

    #: a deletion
    NOT = 'return 1'
    del TABLE[NOT]

    #: a loop
    def one():
        return 1
    for f in (one,):
        TABLE['one'] = f

    #: a condition
    if TABLE == {}:
        def one():
            return 1
        TABLE['one'] = one

    #: an object that notes itself
    class One:
        def __init__(self, value):
            FUNCTIONS.append(self)
    IT = One('return 1')

    #: an object that its base class notes
    class Base:
        def __init__(self, value):
            FUNCTIONS.append(self)
    class One(Base): ...
    IT = One('return 1')

    #: an object that its class knows
    class One:
        def __new__(cls, value):
            cls.last = value
    IT = One('return 1')

    #: an object that is called
    class One:
        def __call__(self, value):
            FUNCTIONS.append(value)
    _ = One()('return 1')

    #: a partial function that is called
    from functools import partial
    def put(f):
        TABLE['one'] = f
    _ = partial(put, 'return 1')()

    #: a cached function that is called
    from functools import cache
    def put(f):
        TABLE['one'] = f
    _ = cache(put)('return 1')

    #: a function of a table that is called
    TABLE['one'] = FUNCTIONS.append
    _ = TABLE.get('one')('return 1')

    #: a decorated function that is called
    def twice(f):
        def inner(x):
            TABLE[f] = x
        return inner
    @twice
    def put(f): ...
    _ = put('return 1')

    #: a class that takes others in
    import numbers
    _ = numbers.Number.register(type('return 1'))

    #: a setting of a library
    import numpy as np
    _ = np.seterr(all='return 1')

    #: random numbers
    import numpy as np
    _ = np.random.rand(len('return 1'))

    #: an array that is changed
    import numpy as np
    _ = np.add.at(FUNCTIONS, 0, 'return 1')

    #: an array for the result
    import numpy as np
    _ = np.exp('return 1', out=FUNCTIONS)
    """
)
# In a module of the course that a lesson imports without using it.
ELSEWHERE = {"__init__.py": "from course import names, theory\nfrom course.names import FUNCTIONS, TABLE"}


@pytest.mark.parametrize("code", AT_IMPORT.values(), ids=AT_IMPORT)
@pytest.mark.parametrize("use", ["course.TABLE['one']", "course.theory.chi(2)"], ids=["used", "unused"])
def test_what_happens_at_import_is_seen(code, use):
    """Something is registered, patched or set: whoever imports the module gets it."""
    names = {"names.py": f"TABLE = {{}}\nFUNCTIONS = []\n{code}"}
    assert is_stale(f"import course\n{use}", *ONE, COURSE | ELSEWHERE | names)


def test_a_statement_without_a_name_is_called_one():
    names = {"names.py": "TABLE = {}\nTABLE['one'] = 1"}
    labels = [name for name, _ in reached("import course.names", package(COURSE | names))]
    assert "a statement of names" in labels and "names.TABLE" in labels


INERT = blocks(
    """
    #: decorators of libraries
    import contextlib, functools, torch
    @functools.lru_cache(maxsize=3)
    @torch.no_grad()
    @contextlib.contextmanager
    def one():
        return 1

    #: a decorator that wraps
    import functools
    def logged(text):
        def decorate(f):
            @functools.wraps(f)
            def inner(*args):
                print(text)
                return f(*args)
            return inner
        return decorate
    @logged('return 1')
    def one(): ...

    #: a base class of a library
    from torch import nn
    class One(nn.Module):
        def one(self):
            return 1

    #: an exception
    class One(ValueError):
        def one(self):
            return 1

    #: a property
    class One:
        @property
        def x(self):
            return 1
        @x.setter
        def x(self, y): ...

    #: a table of functions
    from functools import partial
    FUNCTIONS = {'one': partial(max, key=lambda x: 'return 1')}

    #: a table that is computed
    def one(x):
        if x < 0:
            raise ValueError(f'{x} is below 0.')
        return {x: 'return 1'}.get(x)
    TABLE = {k: one(k) for k in (1, 2)}
    PAIRS = [v for _, v in TABLE.items()]

    #: a decorator that changes how numbers are handled
    import numpy as np
    @np.errstate(all='ignore')
    def one():
        return 1

    #: an array, changed where it is made
    import numpy as np
    X = np.linspace(0, len('return 1'), 9) * 2
    X /= X.sum()

    #: a lambda that a function gets
    def reports(f):
        return lambda x: f(x)
    TABLE = {'one': reports(lambda x: x.sum() + len('return 1'))}

    #: a lambda that a function calls
    def first(condition, start=0):
        return next(n for n in range(start, 9) if condition(n))
    X = first(lambda n: n > len('return 1'))
    Y = first(start=1, condition=lambda n: n > 2)

    #: a class of fields
    from typing import TypedDict
    class One(TypedDict, total=False):
        x: "return 1"

    #: methods of a table, although a class has one of the same name
    TABLE = {'one': 'return 1'}
    NAMES = tuple(TABLE.values()) + tuple(dict.fromkeys('return 1'))
    class One:
        def values(self): ...

    #: an object
    from dataclasses import dataclass
    @dataclass(frozen=True)
    class A:
        x: str
        def __post_init__(self):
            object.__setattr__(self, 'y', 2)
    X = A('return 1')

    #: an object with a base class
    class B:
        def __init__(self, x):
            self.x = x
    class A(B):
        def __init__(self, x):
            super().__init__(x)
    X = A('return 1')

    #: a cached function that is called
    from functools import cache
    @cache
    def one(x):
        return x + 1
    X = one(len('return 1'))
    """
)


@pytest.mark.parametrize("code", INERT.values(), ids=INERT)
def test_what_only_binds_a_name_at_import_is_not_seen(code):
    names = {"names.py": code, "__init__.py": "from course import names, theory"}
    assert not is_stale("import course\ncourse.theory.chi(2)", *ONE, COURSE | names)


# Each makes every notebook stale whose script imports `checks`: a value that is computed at import, in a way
# that cannot be proven to change nothing else.
NOT_INERT = {
    "checks.set_02_sigmoid_saturation._UNTOUCHED",
    "checks.set_03_relu_and_variants._LEAKS",
    "checks.set_06_residual_connections._LAW",
    "checks.set_07_gradient_clipping._ANGLE",
}


def test_the_modules_of_the_course_only_bind_names():
    """A statement that does more belongs in a function, or in `NOT_INERT` with its reason."""
    course = package_in(Path(__file__).parent.parent / "utils" / "gradients_in_depth")
    statements = [statement for module in course.modules.values() for statement in module.statements]
    assert len(statements) > 900
    assert {s.label for s in statements if not is_inert(s, course)} <= NOT_INERT
