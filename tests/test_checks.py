"""The checks are checked: every wrong answer fails with the sentence meant for it, every right one passes.

The answers to the checks of a set are in tests/test_checks_NN.py, with the measurements of what its checks
take for the truth; here they are tried. `pytest tests/test_checks.py -k NAME` tries one check, and
`-k table -s` prints how many wrong answers each has caught.
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
from tests.check_banks import SEEDS, is_one_short_sentence, right_answers, verdict, wrong_answers

FILES = sorted(Path(__file__).parent.glob("test_checks_*.py"))
BANKS = [bank for file in FILES for bank in importlib.import_module(f"tests.{file.stem}").BANKS]


def test_every_check_has_its_bank():
    names = [bank.check.name for bank in BANKS]
    assert sorted(names) == sorted(name for name, c in vars(checks).items() if isinstance(c, Check))
    for bank in BANKS:
        assert len(bank.wrong) >= 6 and len(bank.right) >= 2
        assert any("stub" in name for name in bank.wrong)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("bank", "name"), wrong_answers(BANKS))
def test_a_wrong_answer_is_told_what_it_looks_like(bank, name, seed):
    answer, sentence = bank.wrong[name]
    said = verdict(bank.check, answer, seed)
    assert said is not None, "it passes"
    assert sentence in said
    assert is_one_short_sentence(said, bank.check.name)


@pytest.mark.parametrize("seed", [*SEEDS, 1, 2, 3])
@pytest.mark.parametrize(("bank", "name"), right_answers(BANKS))
def test_a_right_answer_passes(bank, name, seed):
    assert verdict(bank.check, bank.right[name], seed) is None


@pytest.mark.slow  # it tries each wrong answer once more
def test_the_table(capsys):
    rows = []
    for bank in BANKS:
        found = [(verdict(bank.check, answer, 0), said) for answer, said in bank.wrong.values()]
        caught = sum(verdict is not None and said in verdict for verdict, said in found)
        rows.append((bank.check.name, len(found), caught, len(bank.right)))
    with capsys.disabled():
        print(f"\n{'exercise':>20} {'wrong answers':>14} {'caught':>7} {'right answers':>14}")
        for row in rows:
            print("{:>20} {:>14} {:>7} {:>14}".format(*row))
    assert all(wrong == caught for _, wrong, caught, _ in rows)


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

    [right] = next(bank.right for bank in BANKS if bank.check is checks.shared_weight)["by hand"]

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
