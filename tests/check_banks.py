"""What the banks of all sets share: an answer, its verdict, and the parameters that make tests of them."""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass

import pytest

from gradients_in_depth.checks import Check, Mistake

SEEDS = (0, 7)  # what a learner's cell tries, and what the hidden tests try


@dataclass
class Bank:
    """Answers to one exercise; an answer is a tuple of what its check takes."""

    check: Check
    wrong: dict[str, tuple[tuple, str]]  # what is wrong: (the answer, a part of the sentence meant for it)
    right: dict[str, tuple]


def stub(*_):
    raise NotImplementedError("Write your answer here, in place of this line.")


def wrong_answers(banks: Iterable[Bank]) -> list:
    """One (bank, name) for each wrong answer, with a readable id."""
    return [pytest.param(bank, name, id=f"{bank.check.name}-{name}") for bank in banks for name in bank.wrong]


def right_answers(banks: Iterable[Bank]) -> list:
    """One (bank, name) for each right answer, with a readable id."""
    return [pytest.param(bank, name, id=f"{bank.check.name}-{name}") for bank in banks for name in bank.right]


def swapped(answers: dict, one: int, other: int) -> dict:
    """The same, with two of them in each other's place."""
    return answers | {one: answers[other], other: answers[one]}


def verdict(check: Callable, answer: tuple, seed: int) -> str | None:
    """What a check says against an answer, or None when it passes."""
    try:
        with redirect_stdout(io.StringIO()) as said:
            returned = check(*answer, seed=seed)
    except Mistake as mistake:
        return str(mistake)
    assert said.getvalue().startswith(f"Right ({check.points} point")
    assert returned is None, "nbgrader would read a value as partial credit"
    return None


def is_one_short_sentence(said: str, name: str) -> bool:
    """Whether a verdict is one sentence, perhaps with a clause of its own, and says where the hint is."""
    sentence, call = said.split(" (A hint: ")
    brief = sentence[-1] in ".?" and len(sentence) < 330 and "\n" not in sentence
    return call == f"checks.{name}.hint())" and brief and len(sentence.split(". ")) <= 2


def all_that_is_said(bank: Bank, but: Iterable[str] = ()) -> list[str]:
    """The verdicts on the wrong answers, all but those named, and the hint: none may give the answer away."""
    return [verdict(bank.check, a, 0) for name, (a, _) in bank.wrong.items() if name not in but] + [
        bank.check.advice
    ]
