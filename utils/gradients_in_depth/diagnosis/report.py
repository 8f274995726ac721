"""What a diagnosis says: figures, findings, and both as text and as tables."""

import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from gradients_in_depth.arguments import check_choice
from gradients_in_depth.diagnosis.diseases import DISEASES, LESSONS, FigureKey
from gradients_in_depth.hooks import listed


@dataclass(frozen=True)
class Figure:
    """One measured number beside the range in which healthy networks have it, and where it was measured.

    key: an identifier, which never changes. name: what it is, in English.
    """

    key: FigureKey
    name: str
    value: float
    low: float
    high: float
    where: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether the number lies within the range."""
        return self.low <= self.value <= self.high

    @property
    def healthy_range(self) -> str:
        """The range in words: "at least 0.3", "1e-5 to 0.1"."""
        if self.low == self.high:
            return _number(self.low)
        if self.high == math.inf:
            return f"at least {_number(self.low)}"
        if self.low == -math.inf or (self.low == 0 and self.high > 0):
            return f"at most {_number(self.high)}"
        return f"{_number(self.low)} to {_number(self.high)}"

    @property
    def decades_off(self) -> float:
        """Powers of ten between the number and the range; 0 inside it."""
        if self.is_healthy:
            return 0.0
        if not math.isfinite(self.value):
            return 99.0
        bound = self.low if self.value < self.low else self.high
        return min(abs(math.log10(max(self.value, 1e-30) / max(bound, 1e-3))), 98.0)


@dataclass(frozen=True)
class Finding:
    """One disease: its name in `DISEASES`, where it is, the figure that shows it, and what it follows from.

    where: names of layers (or of parameters) as the model has them, in the order of the forward pass.
    follows_from: the finding above it that brings it along; None for a cause of its own.
    """

    disease: str
    where: tuple[str, ...]
    figure: Figure
    follows_from: str | None = None

    @property
    def what(self) -> str:
        """The disease in one line."""
        return DISEASES[self.disease].title

    @property
    def lesson(self) -> str:
        """The lesson that explains it."""
        return LESSONS[DISEASES[self.disease].lesson]

    @property
    def what_to_try(self) -> str:
        """The remedy."""
        return DISEASES[self.disease].remedy


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: findings with the gravest cause first, and every figure it looked at.

    figures: also the healthy ones. notes: what could not be measured, as `signals.Signals` says it.
    """

    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def figure(self, key: FigureKey) -> Figure | None:
        """The first figure with this key; None if it was not measured here.

        Raises ValueError for a key that no figure has.
        """
        check_choice("key", key, get_args(FigureKey))
        return next((figure for figure in self.figures if figure.key == key), None)

    def __str__(self) -> str:
        lines = [self._headline()]
        for number, finding in enumerate(self.findings, 1):
            lines.append("")
            lines += _wrapped(f"{number}. ", finding.what)
            rows = [
                ("where", _places(finding.where)),
                ("measured", f"{finding.figure.name}: {_number(finding.figure.value)}"),
                ("healthy", finding.figure.healthy_range),
                ("lesson", finding.lesson),
                ("try", finding.what_to_try),
            ]
            if finding.follows_from:
                rows.insert(0, ("because", f"it follows from: {DISEASES[finding.follows_from].title}"))
            for label, text in rows:
                lines += _wrapped(f"   {label:9} ", text)
        lines += ["", "All figures:" if self.findings else "The figures behind it:"]
        for figure in self.figures:
            sign = "   " if figure.is_healthy else " ! "
            text = f"{figure.name}: {_number(figure.value)} (healthy: {figure.healthy_range})"
            lines += _wrapped(sign, text)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{html.escape(self._headline())}</strong></p>"]
        if self.findings:
            heads = ("What", "Where", "Measured", "Healthy", "Lesson", "Try")
            parts.append(_table("Findings, the gravest cause first", heads, map(_finding_row, self.findings)))
        rows = [
            (f.name, _number(f.value), f.healthy_range, "yes" if f.is_healthy else "no", _places(f.where))
            for f in self.figures
        ]
        table = _table("All figures", ("Figure", "Measured", "Healthy range", "Healthy", "Where"), rows)
        parts.append(f"<details><summary>All figures</summary>{table}</details>" if self.findings else table)
        return "".join(parts)

    def _headline(self) -> str:
        if not self.findings:
            return "No disease found."
        count = len(self.findings)
        return f"{count} finding{'s' if count > 1 else ''}; first: {self.findings[0].what}."


def _number(value: float) -> str:
    return f"{value:.3g}"


def _places(where: Sequence[str]) -> str:
    return listed(where, most=6)


def _finding_row(finding: Finding) -> tuple[str, ...]:
    what = finding.what
    if finding.follows_from:
        what += f" (follows from: {DISEASES[finding.follows_from].title})"
    measured = f"{finding.figure.name}: {_number(finding.figure.value)}"
    where, healthy = _places(finding.where), finding.figure.healthy_range
    return what, where, measured, healthy, finding.lesson, finding.what_to_try


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(text, 92, initial_indent=first, subsequent_indent=" " * len(first)) or [first]


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Without colours, because the page's theme draws it; text to the left, because these are sentences."""
    left = ' style="text-align: left; white-space: normal; vertical-align: top"'
    head = "".join(f'<th scope="col"{left}>{html.escape(text)}</th>' for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{left}>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
