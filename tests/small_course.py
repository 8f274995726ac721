"""A package of the course's form, for tests that change one thing in it and ask what becomes stale."""

import re
from textwrap import dedent

from tools.modules import Package
from tools.reach import reached


def blocks(text):
    """{title: text} of a text in which each block has its title above it, behind a `#:`."""
    parts = re.split(r"^#: (.+)\n", dedent(text), flags=re.MULTILINE)
    return {title: part.strip("\n") + "\n" for title, part in zip(parts[1::2], parts[2::2], strict=True)}


COURSE = blocks(
    """
    #: __init__.py
    from course.signals import measure

    #: theory/__init__.py
    from .mean_field import chi, variance as fixed_point
    from . import formats

    #: theory/mean_field.py
    '''The theory.'''
    import math
    from functools import cache
    from .formats import FORMATS as _FORMATS

    def chi(x):
        '''The factor of a layer.'''
        return x * slope(x)  # of each layer

    def slope(x):
        return math.tanh(x)

    @cache
    def variance(x):
        return _FORMATS["half"] * x

    #: theory/formats.py
    FORMATS = {'half': 2}
    UNUSED = 3

    #: signals.py
    from dataclasses import dataclass, field

    @dataclass(frozen=True)
    class Signals:
        norms: list = field(default_factory=list)

        def largest(self):
            return max(self.norms)

    def measure(model):
        from course import theory

        return Signals([theory.fixed_point(1)])

    #: explorers.py
    from pathlib import Path
    import course.theory as laws
    from . import signals

    class Slider:
        '''A slider.'''
        _esm = Path(__file__).with_name("slider.js")

        def __init__(self, label):
            self.label = label

    class Wide(Slider):
        pass

    LABELS = {"depth": Slider("depth")}

    def chain(depth, start=laws.chi):
        return LABELS["depth"], [start(x) for x in range(depth)]

    def phases(slope=0):
        return Wide("slope"), signals.measure(None), [laws for laws in (slope,)]

    #: slider.js
    export default {};

    #: style.css
    p {}

    #: checks/__init__.py
    from course.checks.set_01 import doubling
    from course.checks.set_02 import tripling

    #: checks/common.py
    class Check:
        def __init__(self, look, points):
            self.look, self.points = look, points

        def __call__(self, answer):
            print(self.look(answer))

    def exercise(points):
        def decorate(look):
            return Check(look, points)

        return decorate

    #: checks/set_01.py
    from course.checks.common import exercise

    @exercise(2)
    def doubling(function):
        return function(2) == 4

    #: checks/set_02.py
    from course.checks.common import exercise

    @exercise(2)
    def tripling(function):
        return function(2) == 6
    """
)
MEAN_FIELD, FORMATS = "theory/mean_field.py", "theory/formats.py"
TANH = (MEAN_FIELD, "tanh", "tan")


def package(files):
    """The package of some files, by their path."""
    return Package("course", {path: text.encode() for path, text in files.items()})


def is_stale(script, path, old, new, files=COURSE):
    """Whether what a script reaches differs after a change of one file."""
    assert old in files[path], f"{path} does not have {old!r}"
    changed = files | {path: files[path].replace(old, new)}
    return reached(script, package(files)) != reached(script, package(changed))


# A change of a module that a test adds.
ONE = ("names.py", "return 1", "return 2")
