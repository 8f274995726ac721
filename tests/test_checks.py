"""The checks are checked: every wrong answer fails with the sentence meant for it, every right one passes.

The answers to the checks of a set are in tests/test_checks_NN.py, with the measurements of what its checks
take for the truth; here they are tried, and with them the mistakes that the checks list themselves, and
answers that are ill-formed. `pytest tests/test_checks.py -k NAME` tries one check, and `-k table -s` prints
how many wrong answers each has caught.
"""

import importlib
import io
import math
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from gradients_in_depth import checks
from gradients_in_depth.checks import Check, Mistake, common
from tests.check_banks import SEEDS, Bank, as_tensors, astray, right_answers, verdict

FILES = sorted(Path(__file__).parent.glob("test_checks_*.py"))
BANKS = [bank for file in FILES for bank in importlib.import_module(f"tests.{file.stem}").BANKS]


def bank_name(bank):
    return bank.check.name


def test_every_check_has_its_bank():
    names = [bank.check.name for bank in BANKS]
    assert sorted(names) == sorted(name for name, c in vars(checks).items() if isinstance(c, Check))
    for bank in BANKS:
        assert len(bank.wrong) + len(bank.sentences()) >= 6 and bank.right


@pytest.mark.parametrize("seed", [*SEEDS, 1])
@pytest.mark.parametrize("bank", BANKS, ids=bank_name)
def test_a_wrong_answer_is_told_what_it_looks_like(bank, seed):
    assert astray(bank, seed) == {}


@pytest.mark.parametrize("seed", [*SEEDS, 1, 2, 3])
@pytest.mark.parametrize(("bank", "name"), right_answers(BANKS))
def test_a_right_answer_passes(bank, name, seed):
    assert verdict(bank.check, bank.right[name], seed) is None


@pytest.mark.parametrize("bank", BANKS, ids=bank_name)
def test_a_right_answer_may_be_a_tensor(bank):
    assert verdict(bank.check, as_tensors(bank), 0) is None


@pytest.mark.slow  # it tries each wrong answer once more
def test_the_table(capsys):
    rows = [
        (bank.check.name, len(bank.all_wrong(0)), len(astray(bank, 0)), len(bank.right)) for bank in BANKS
    ]
    with capsys.disabled():
        print(f"\n{'exercise':>20} {'wrong answers':>14} {'astray':>7} {'right answers':>14}")
        for row in rows:
            print("{:>20} {:>14} {:>7} {:>14}".format(*row))
    assert not any(missed for _, _, missed, _ in rows)


# --- A check as data ---------------------------------------------------------------------------------------


def doubling_of(mistakes):
    """A bank whose check lists these mistakes."""
    trial = common.Trial(
        cases=lambda rng: [(x,) for x in rng.uniform(1, 2, size=3)],
        read=common.number("The double"),
        right=lambda x: 2 * x,
        mistakes=mistakes,
        otherwise="That is not it: try x = 1 by hand.",
    )

    @common.exercise(1, praise="that is twice as much.", hint="Add x to itself.", trials=[trial])
    def doubling(function, seed):
        pass

    return Bank(doubling, right={"a sum": (lambda x: x + x,)})


def test_a_mistake_that_is_never_named_is_seen():
    square, half = {"A square.": lambda x: x**2}, {"Upside down.": lambda x: x / 2}
    assert astray(doubling_of(square | half), 0) == {}
    passes = doubling_of(square | {"The sum is not right.": lambda x: x + x})
    assert astray(passes, 0) == {"trial 0, mistake 1: The sum is not right.": None}
    [(name, said)] = astray(doubling_of(square | half | {"It is a power.": lambda x: x * x}), 0).items()
    assert name == "trial 0, mistake 2: It is a power." and said.startswith("A square. ")
    [(name, _)] = astray(doubling_of({"Three sentences. Too long. By one.": 1.0}), 0).items()
    assert name.startswith("trial 0, mistake 0")


def test_an_answer_is_compared_with_a_tolerance_of_its_own_and_case_by_case():
    def trial(**changes):
        fields = {
            "cases": lambda rng: [(1.0,), (2.0,)],
            "read": common.number("It"),
            "right": lambda x: x,
            "mistakes": {"Ten.": 10.0, "Twice or thrice.": (lambda x: 2 * x, lambda x: 3 * x)},
            "otherwise": lambda cases, results, right: (
                f"{len(cases)} cases, {results[-1] - right[-1]:g} off."
            ),
            "impossible": {"Negative.": lambda results: (results < 0).any()},
        }
        return common.Trial(**(fields | changes))

    def heard(trial, answer):
        try:
            trial.compare(answer, np.random.default_rng(0))
        except Mistake as mistake:
            return str(mistake)
        return ""

    assert heard(trial(), lambda x: x) == ""
    assert heard(trial(), lambda x: 10) == "Ten."
    assert heard(trial(), lambda x: 2 * x) == heard(trial(), lambda x: 3 * x) == "Twice or thrice."
    assert heard(trial(), lambda x: 1 - x) == "Negative."
    assert heard(trial(), lambda x: x + (x > 1)) == "2 cases, 1 off."
    assert heard(trial(one_by_one=True), lambda x: x + 2 * (x > 1)) == "Twice or thrice."
    assert heard(trial(one_by_one=True), lambda x: x + 9) == "Ten."
    assert heard(trial(one_by_one=True), lambda x: x + 4) == "1 cases, 4 off."
    assert heard(trial(tolerance=0.1), lambda x: 1.09 * x) == ""
    assert heard(trial(tolerance=0.1), lambda x: 2.18 * x) == "Twice or thrice."
    strict = trial(tolerance=0.1, mistake_tolerance=lambda wrong: 0.01)
    assert heard(strict, lambda x: 1.09 * x) == ""
    assert heard(strict, lambda x: 2.18 * x).startswith("2 cases")
    value = trial(cases=None, right=5.0, mistakes={"Ten.": lambda: 10})
    assert heard(value, 5) == "" and heard(value, 10) == "Ten." and heard(value, 7) == "1 cases, 2 off."


def test_the_furthest_result_may_be_one_that_is_not_a_number():
    assert common.furthest(np.array([1.0, 5.0, 2.0]), 1) == 1
    assert common.furthest(np.array([1.0, 5.0, np.nan]), np.ones(3)) == 2


# --- What a learner sees -----------------------------------------------------------------------------------


def test_a_hint_is_printed_on_demand(capsys):
    checks.growth_rate.hint()
    assert " ".join(capsys.readouterr().out.split()) == checks.growth_rate.advice


def test_a_notebook_shows_the_sentence_without_a_traceback():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    with redirect_stdout(io.StringIO()) as shown:
        shell.run_cell("from gradients_in_depth import checks\nchecks.scaled_underflow(13)")
    assert shown.getvalue().startswith("So many it takes without any scaling")
    assert "Traceback" not in shown.getvalue() and "line" not in shown.getvalue()


def test_an_answer_may_print_and_warn(capfd):
    """A warning on stderr would cost the points: nbgrader takes it for a failure."""
    import sys
    import warnings

    [right] = next(bank.right for bank in BANKS if bank.check is checks.shared_weight)["forward mode"]

    def noisy(weight, x, target, depth):
        print("here")
        print("there", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return right(weight, x, target, depth)

    checks.shared_weight(noisy)
    said = capfd.readouterr()
    assert said.out.startswith("Right") and "here" not in said.out and said.err == ""


@pytest.mark.parametrize(
    ("make", "damage"),
    [
        (lambda: np.ones(3), lambda x: x.__imul__(2)),
        (lambda: np.array([1, np.nan]), lambda x: x.fill(np.nan)),
        (lambda: torch.ones(3, dtype=torch.bfloat16), lambda x: x.mul_(2)),
        (lambda: [np.ones(2), np.ones(2)], lambda x: x[1].fill(0)),
        (lambda: [3.0, 1.0], lambda x: x.sort()),
        (lambda: {"a": np.ones(2)}, lambda x: x.update(b=1)),
        (lambda: (1, torch.ones(2)), lambda x: x[1].zero_()),
        (lambda: torch.nn.Linear(2, 2), lambda x: torch.nn.init.zeros_(x.weight)),
        (lambda: torch.nn.Linear(2, 2), lambda x: x.eval()),
    ],
)
def test_a_damaged_input_is_named_and_the_caller_keeps_it(make, damage):
    value = make()
    with pytest.raises(Mistake, match="changes what it was given"):
        common.call(lambda x: (damage(x), 1.0)[1], value)
    assert common.call(lambda x: 1.0, value) == 1.0  # neither damaged nor taken for it
    assert common.call(lambda x, f: f(1.0), value, math.exp) == math.e
    assert common.call(lambda x, g: 1.0, value, torch.Generator()) == 1.0


@pytest.mark.parametrize("seed", [-1, 2**32, "0"])
def test_a_bad_seed_is_named(seed):
    with pytest.raises((TypeError, ValueError), match="seed must be an integer"):
        checks.scaled_underflow(21, seed=seed)
