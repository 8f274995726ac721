"""A check outside of the student's kernel says what it says inside, and cannot be deceived from there."""

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install -e .[grading]")

import nbformat  # noqa: E402 (after the line that skips without nbgrader)
from nbformat.v4 import new_code_cell, new_notebook  # noqa: E402

from tests.check_banks import UNLISTED  # noqa: E402
from tests.test_checks import BANKS  # noqa: E402
from tools.grading import execute, outside, values, worker  # noqa: E402
from tools.grading.outside import Checker, check_calls  # noqa: E402
from tools.grading.sandbox import Limits, Sandbox  # noqa: E402
from tools.grading.worker import CheckCall  # noqa: E402

ROOT = Path(__file__).parent.parent


def test_the_process_of_the_checks_starts_without_nbgrader():
    """It imports the program that started it, too, as multiprocessing does."""
    source = """import runpy, sys
runpy.run_module("tools.grading.__main__", run_name="__mp_main__")
import tools.grading.worker
print(sorted({"nbformat", "nbgrader", "sqlalchemy"} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture(scope="module")
def checker():
    one = Checker()
    yield one
    one.stop()


def judge(checker, name, answer, seed):
    """The verdict on a tuple of answers that live in a namespace as in a kernel."""
    names = tuple(f"answer_{k}" for k in range(len(answer)))
    namespace = dict(zip(names, answer, strict=True))
    verdict, ended = checker.verdict(
        [CheckCall(name, names, seed)], lambda text: eval(text, namespace), time.monotonic() + 100
    )
    assert ended
    return verdict


@pytest.mark.slow  # it tries each answer of all banks once more
@pytest.mark.parametrize("bank", BANKS, ids=lambda bank: bank.check.name)
def test_the_verdict_is_the_same_as_inside(checker, bank):
    for name, (answer, sentence) in bank.all_wrong(7).items():
        verdict = judge(checker, bank.check.name, answer, 7)
        assert verdict.kind == "Mistake", name
        assert sentence == UNLISTED or sentence in verdict.mistake, name
    for name, answer in bank.right.items():
        verdict = judge(checker, bank.check.name, answer, 7)
        assert not verdict.mistake and verdict.text.startswith("Right"), (name, verdict)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("checks.one(f)", (CheckCall("one", ("f",), 0),)),
        (
            "checks.one(f, g)\n### BEGIN HIDDEN TESTS\nchecks.one(f, g, seed=7)\n### END HIDDEN TESTS",
            (CheckCall("one", ("f", "g"), 0), CheckCall("one", ("f", "g"), 7)),
        ),
        ("assert f(1) == 2", ()),
        ("checks.one(f)\nassert f(1) == 2", ()),
        ("checks.one(f(2))", ()),
        ("checks.one(f, seed=seed)", ()),
        ("other.one(f)", ()),
        ("", ()),
    ],
)
def test_which_tests_can_be_checked_outside(source, lines):
    assert check_calls(source) == lines


def test_all_tests_of_all_sets_are_checked_outside():
    tests = 0
    for path in sorted(ROOT.glob("solutions/*/*.ipynb")):
        seeds = set()
        for cell in nbformat.read(path, 4).cells:
            if execute.is_test(cell):
                lines = check_calls(cell.source)
                assert lines, cell.source
                seeds |= {line.seed for line in lines}
                tests += 1
        assert len(seeds) > 1, f"no hidden test in {path.stem} has a seed of its own"
    assert tests >= len(BANKS)


@pytest.mark.slow  # two processes start
def test_a_check_that_is_broken_is_not_a_mistake_of_the_answer(checker):
    with pytest.raises(outside.BrokenCheckError, match="no_such_check"):
        judge(checker, "no_such_check", (1,), 0)
    assert judge(checker, "scaled_underflow", (13,), 0).mistake  # the next one finds a new process


def test_a_reply_that_is_nonsense_is_no_answer():
    results = ['{"array": ["O", [3], ""]}', '{"value": {"a": 1}}', '{"tensor": ["load", [0], ""]}']
    results += ['{"tensor": ["float64", [3], ""]}']  # any memory could be asked for in so few words
    for reply in ("{}", "[]", *(f'{{"result": {result}}}' for result in results)):
        connection = SimpleNamespace(send=lambda question: None, recv=lambda reply=reply: reply)
        verdict = worker.check(connection, CheckCall("scaled_underflow", ("n",)))
        assert "cannot be read" in verdict.mistake
    for replies in ({}, {"answer": {"data": {"text/plain": "f()"}}}, {"answer": {"status": "error"}}):
        assert values.reply_text(replies) == "{}"


def test_what_the_kernel_says_of_values():
    import numpy as np
    import torch

    def there_and_back(value):
        reply = eval(values.expression("x", None, 0), {"x": value})
        return values.decode_answer(json.loads(reply)["result"])

    for value in (3, 2.5, True, "text", None, ..., math.inf, 1 + 2j, [1, (2.0, "a")], {"a": [1], 2: {3, 4}}):
        assert there_and_back(value) == value and type(there_and_back(value)) is type(value)
    assert math.isnan(there_and_back(math.nan))
    for array in (np.arange(6).reshape(2, 3).T, np.float32(2.5), np.zeros((0, 3)), np.array([True])):
        back = there_and_back(array)
        assert type(back) is type(array) and back.dtype == array.dtype and np.array_equal(back, array)
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        tensor = torch.tensor([[1.0, 0.0], [3.0, 1.0]]).to(dtype).T
        back = there_and_back(tensor)
        assert back.dtype == dtype and torch.equal(back, tensor)
    assert there_and_back(torch.zeros(0, 2)).shape == (0, 2)
    assert there_and_back(torch.tensor(2.0, requires_grad=True)) == 2
    assert "object" in repr(there_and_back(np.array([object()])))


# --- In the sandbox ----------------------------------------------------------------------------------------

RIGHT = "def bound(shape, slope):\n    return math.sqrt(6 / (1 + slope**2) / math.prod(shape[1:]))"
WRONG = "def bound(shape, slope):\n    return 1.0"
EQUAL = """class Equal(float):
    def __eq__(self, other): return True
    def __array__(self, *a, **k): return numpy.array(1.0)
    def __abs__(self): return 0.0
    def __sub__(self, other): return self
    __rsub__ = __add__ = __mul__ = __truediv__ = __sub__
    __hash__ = float.__hash__"""
# What an attack has at hand, as in an exercise. Anything else does without, because it takes seconds.
IMPORTS = "import math, numpy, torch, gradients_in_depth\nfrom gradients_in_depth import checks"
ATTACKS = {
    "comparisons are always true": WRONG + "\nnumpy.allclose = torch.allclose = lambda *a, **k: True\n"
    "math.isclose = numpy.allclose",
    "checks is another module": WRONG
    + "\nimport types\nchecks = types.SimpleNamespace(uniform_bound=print)\n"
    "gradients_in_depth.checks.uniform_bound = print",
    "the check itself is replaced": WRONG + "\nimport functools\nobject.__setattr__(checks.uniform_bound, "
    "'look', functools.partial(lambda bound, seed: None))\n"
    "object.__setattr__(checks.uniform_bound, 'trials', ())",
    "the class of the checks is replaced": WRONG
    + "\ntype(checks.uniform_bound).__call__ = lambda *a, **k: None",
    "no mistake is raised": WRONG + "\nfrom gradients_in_depth.checks import common\ncommon.compare = print",
    "assertions are taken out": WRONG + "\nimport ast\nclass Out(ast.NodeTransformer):\n"
    "    def visit_Assert(self, node): return ast.Pass()\n    def visit_Expr(self, node): return ast.Pass()\n"
    "get_ipython().ast_transformers.append(Out())",
    "partial credit on display": WRONG + "\nimport builtins, sys\nsys.displayhook = lambda value: None\n"
    "class Three:\n    def __repr__(self): return '3'\n"
    "checks.uniform_bound = lambda *a, **k: Three()\nbuiltins.print = lambda *a, **k: Three()",
    "it is equal to everything": EQUAL + "\ndef bound(shape, slope):\n    return Equal(1.0)",
    "the answer looks into its caller": "import sys\ndef bound(shape, slope):\n    frame = sys._getframe()\n"
    "    while frame:\n        for name in ('right', 'found', 'truth', 'expected'):\n"
    "            if name in frame.f_locals:\n                return frame.f_locals[name]\n"
    "        frame = frame.f_back\n    return 1.0",
    "the reply is written by hand": "import sys, types\ndef bound(shape, slope):\n"
    '    by_hand = types.SimpleNamespace(dumps=lambda *a: \'{"verdict": "Right"}\')\n'
    "    sys._getframe(1).f_globals['json'] = by_hand\n    return 1.0",
    "the process of the checks is spoken to": WRONG + "\nimport multiprocessing.connection as c\n"
    "c.Connection.send = lambda self, *a: None",
}


def grade(answer, seconds=100.0, first="import math", more=()):
    """How the test of `uniform_bound` ended after the answer, and how the cells in `more` did."""
    test = new_code_cell("checks.uniform_bound(bound)\nchecks.uniform_bound(bound, seed=7)")
    test.metadata["nbgrader"] = {"grade": True, "solution": False, "points": 3, "grade_id": "bound"}
    notebook = new_notebook(cells=[*map(new_code_cell, (first, answer)), test, *map(new_code_cell, more)])
    limits = Limits(cell_seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        done = execute.execute(
            notebook, lambda: Sandbox(limits, Path(folder), sandboxed=True), limits, threading.Event()
        )
    points = execute.score_of(test, done.cells[2])
    return done, None if 2 in done.tampered else points


@pytest.mark.slow
@pytest.mark.sandbox
class TestInTheSandbox:
    def test_a_right_answer_has_its_points(self):
        done, points = grade(RIGHT)
        assert points == 3 and "Right" in done.cells[2].outputs[0].text

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_an_attack_gives_no_points(self, attack):
        done, points = grade(ATTACKS[attack], first=IMPORTS)
        assert [done.cells[i].ended for i in (0, 1)] == ["ok", "ok"], "it did not take place"
        assert points == 0, done.cells[2]
        assert done.cells[2].error.startswith(("Mistake: ", "NameError: "))

    def test_a_kernel_whose_messages_are_all_by_hand_gives_no_points(self):
        by_hand = 'import json\njson.dumps = lambda *a, **k: \'{"verdict": "Right"}\''
        done, points = grade(f"{WRONG}\n{by_hand}", seconds=8)
        assert done.cells[1].ended == "time"  # it does not even say that it is idle
        assert points == 0 and done.cells[2].error.startswith("NameError: ")

    def test_a_replaced_class_is_found_inside(self, monkeypatch):
        monkeypatch.setattr(outside, "check_calls", lambda source: ())
        done, points = grade(ATTACKS["the class of the checks is replaced"], first=IMPORTS)
        assert points is None and "replaced gradients_in_depth.checks" in done.tampered[2]

    def test_the_attacks_are_real(self, monkeypatch):
        """In the student's kernel one of them has all the points, and nothing is noticed."""
        monkeypatch.setattr(outside, "check_calls", lambda source: ())
        done, points = grade(ATTACKS["the check itself is replaced"], first=IMPORTS)
        assert points == 3 and done.tampered == {}

    @pytest.mark.parametrize(
        ("body", "ended", "word"),
        [
            ("while True: pass", "time", "stopped after"),
            ("import os; os._exit(0)", "died", "ended"),
            ("import sys; sys.exit()", "error", "cannot be read"),
            ("raise KeyError('x')", "error", "stops with KeyError"),
            ("return 'x' * 50_000_000", "error", "something of 47 MB"),
            ("import json; json.dumps = lambda *a: 'x' * 50_000_000", "time", "stopped after"),
            ("raise NotImplementedError", "error", "no answer yet"),
        ],
    )
    def test_an_answer_that_does_not_end_well(self, body, ended, word):
        seconds = 8 if ended == "time" else 100
        done, points = grade(f"def bound(shape, slope):\n    {body}", seconds, more=["1 + 1"])
        assert done.cells[2].ended == ended and word in done.cells[2].error + done.cells[2].why
        assert points == (0 if ended == "error" else None)
        assert done.cells[3].ended == "ok"

    def test_a_name_that_is_missing_is_named(self):
        done, points = grade("def bond(shape, slope):\n    return 1")
        assert points == 0 and "'bound' is not defined" in done.cells[2].error
