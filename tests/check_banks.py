"""What the banks of all sets share: answers, the wrong ones that make themselves, and verdicts."""

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pytest
import torch

from gradients_in_depth.checks import EMPTY, Check, Mistake
from gradients_in_depth.checks.common import Outcome, Trial

SEEDS = (0, 7)  # what a learner's cell tries, and what the hidden tests try
MORE_SEEDS = (*SEEDS, 1)
UNLISTED = "a sentence that is not that of a listed mistake"
Answer = tuple[Any, ...]


@dataclass
class Bank:
    """Answers to one exercise; an answer is a tuple of what its check takes.

    The first right answer is written independently of the check. `wrong` has what the check does not list,
    such as one for each sentence that is made from the case. The mistakes that it lists, and answers that are
    ill-formed, make themselves.
    """

    check: Check
    wrong: dict[str, tuple[Answer, str]] = field(default_factory=dict)  # (the answer, a part of its sentence)
    right: dict[str, Answer] = field(default_factory=dict)

    def all_wrong(self, seed: int) -> dict[str, tuple[Answer, str]]:
        """The wrong answers of the bank, and those that make themselves."""
        return self.wrong | ill_formed(self) | listed_mistakes(self, seed)

    def sentences(self) -> list[str]:
        """The sentences of the listed mistakes."""
        return [sentence for trial in self.check.trials for sentence in trial.mistakes]

    def with_part(self, place: int, part: Any) -> Answer:
        """The right answer with another part in one place."""
        [right, *_] = self.right.values()
        return (*right[:place], part, *right[place + 1 :])


def stub(*_):
    raise NotImplementedError("Write your answer here, in place of this line.")


# --- Wrong answers that make themselves --------------------------------------------------------------------


def listed_mistakes(bank: Bank, seed: int) -> dict[str, tuple[Answer, str]]:
    """Each mistake that the check lists, made in its trial after right results in those before.

    Each trial has a near miss as well, just outside of its tolerance (with any sentence).
    """
    [right, *_] = bank.right.values()
    rng, before, answers = bank.check.generator(seed), [0] * len(right), {}
    for place, trial in enumerate(bank.check.trials):
        miss = 0.0 if trial.right is math.inf else _near_miss(trial)  # no number is near to infinity
        outcomes = [*trial.listed(), ("", miss)]
        for number, (sentence, outcome) in enumerate(outcomes):
            part = _made(trial, outcome, right[trial.part], before[trial.part])
            answers[f"trial {place}, mistake {number}"] = (bank.with_part(trial.part, part), sentence)
        if trial.cases:
            before[trial.part] += len(trial.cases(rng))
    return answers


def _near_miss(trial: Trial) -> Outcome:
    def off(right: Any) -> Any:
        if isinstance(right, tuple):
            return tuple(map(off, right))
        return np.multiply(right, 1 + 1.5 * trial.tolerance)

    return lambda *case: off(trial.right(*case) if callable(trial.right) else trial.right)


def _made(trial: Trial, outcome: Outcome, right: Any, before: int) -> Any:
    """The mistake as an answer: a function that is right in so many calls before, or a value."""
    if not trial.cases:
        return outcome() if callable(outcome) else outcome
    calls = itertools.count()

    def answer(*case):
        if next(calls) < before:
            return right(*case)
        return outcome(*case) if callable(outcome) else outcome

    return answer


def ill_formed(bank: Bank) -> dict[str, tuple[Answer, str]]:
    """Answers that are not even wrong, for each part of what the check takes."""
    [right, *_] = bank.right.values()
    answers = {"one part too many": ((*right, 0), "in this order, and nothing else")}
    for place, part in enumerate(right):
        made = _ill_functions(part, _first_case(bank, place)) if callable(part) else _ill_values(part)
        for name, ill, sentence in made:
            answers[f"part {place}, {name}"] = (bank.with_part(place, ill), sentence)
    return answers


def _ill_values(right: Any) -> Iterator[tuple[str, Any, str]]:
    yield "stub", None, EMPTY
    yield "three dots", ..., EMPTY
    yield "text", "text", UNLISTED
    yield "wrong shape", np.full((7, 2, 3), 0.5), UNLISTED
    yield "not a number", np.nan, UNLISTED
    if isinstance(right, Mapping):
        yield "empty", dict.fromkeys(right), EMPTY
        yield "a list", list(right.values()), UNLISTED
        yield "arrays", dict.fromkeys(right, np.zeros(2)), UNLISTED


def _ill_functions(right: Callable, case: Answer) -> Iterator[tuple[str, Any, str]]:
    yield "stub", stub, EMPTY
    yield "no return", lambda *_: None, "is the return statement missing"
    yield "called", 0.25, "without brackets"
    yield "an error", lambda *_: 1 / 0, "ZeroDivisionError: division by zero"
    yield "text", lambda *_: "text", UNLISTED
    yield "wrong shape", lambda *_: np.full((7, 2, 3), 0.5), UNLISTED
    yield "not a number", lambda *case: _nothing_but_nan(right(*case)), UNLISTED
    for place, value in enumerate(case):
        if damage := _damage(value):
            # A check of measurements says what became of a model in words of its own.
            sentence = UNLISTED if isinstance(value, torch.nn.Module) else "changes what it was given"
            yield f"damage to input {place}", _damaging(right, place, damage), sentence


def _nothing_but_nan(result: Any) -> Any:
    if isinstance(result, list | tuple):
        return [_nothing_but_nan(part) for part in result]
    return np.full(np.shape(result), np.nan)


def _damage(value: Any) -> Callable[[Any], None] | None:
    """What changes an input of this kind; None where nothing can."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return lambda array: array.__setitem__(..., 0 * array + 17)
    if isinstance(value, list):
        return lambda items: items.pop()
    if isinstance(value, torch.nn.Module):
        return lambda model: torch.nn.init.constant_(next(model.parameters()), 17)
    return None


def _damaging(right: Callable, place: int, damage: Callable[[Any], None]) -> Callable:
    def answer(*case):
        result = right(*case)
        damage(case[place])
        return result

    return answer


def _first_case(bank: Bank, place: int) -> Answer:
    """What the check gives to the function in this place of the answer when it first calls it."""
    cases: list[Answer] = []
    with contextlib.suppress(Mistake):
        bank.check(*bank.with_part(place, lambda *case: cases.append(case)))
    return cases[0]


def as_tensors(bank: Bank) -> Answer:
    """The right answer with PyTorch's numbers in place of Python's and NumPy's."""
    [right, *_] = bank.right.values()

    def tensor(value: Any) -> Any:
        return torch.as_tensor(value) if isinstance(value, Real | np.ndarray) else value

    return tuple(
        (lambda *case, part=part: tensor(part(*case))) if callable(part) else tensor(part) for part in right
    )


# --- Tests of them -----------------------------------------------------------------------------------------


def right_answers(banks: Iterable[Bank]) -> list:
    """One (bank, name) for each right answer, with a readable id."""
    return [pytest.param(bank, name, id=f"{bank.check.name}-{name}") for bank in banks for name in bank.right]


def astray(bank: Bank, seed: int) -> dict[str, str | None]:
    """What is said of the wrong answers that do not get the one short sentence meant for them."""
    return {
        f"{name}: {sentence}": said
        for name, (answer, sentence) in bank.all_wrong(seed).items()
        if not _is_meant(said := verdict(bank.check, answer, seed), sentence, bank)
    }


def _is_meant(said: str | None, sentence: str, bank: Bank) -> bool:
    if said is None or not is_one_short_sentence(said, bank.check.name):
        return False
    if sentence == UNLISTED:
        return said.split(" (A hint: ")[0] not in bank.sentences()
    return sentence in said


def swapped(answers: dict, one: int, other: int) -> dict:
    """The same, with two of them in each other's place."""
    return answers | {one: answers[other], other: answers[one]}


def verdict(check: Callable, answer: tuple, seed: int) -> str | None:
    """What a check says against an answer, or None when it passes."""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            returned = check(*answer, seed=seed)
    except Mistake as mistake:
        return str(mistake)
    assert output.getvalue().startswith(f"Right ({check.points} point")
    assert returned is None, "nbgrader would read a value as partial credit"
    return None


def is_one_short_sentence(text: str, name: str) -> bool:
    """Whether a verdict is one sentence, perhaps with a clause of its own, and says where the hint is."""
    sentence, call = text.split(" (A hint: ")
    brief = sentence[-1] in ".?" and len(sentence) < 330 and "\n" not in sentence
    return call == f"checks.{name}.hint())" and brief and len(sentence.split(". ")) <= 2


def all_that_is_said(bank: Bank, but: Iterable[str] = ()) -> list[str]:
    """All sentences on wrong answers, but for those of the bank that are named, and the hint."""
    verdicts = [verdict(bank.check, a, 0) for name, (a, _) in bank.wrong.items() if name not in but]
    return [*verdicts, *bank.sentences(), bank.check.advice]
