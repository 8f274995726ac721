"""The report on a class: a CSV for machines, a page for people. What was not graded has no score."""

import csv
import html
import io
from collections import Counter
from dataclasses import dataclass

GRADED, WAITING, PARTLY, NOT_GRADED = "GRADED", "NEEDS A PERSON", "PARTLY GRADED", "NOT GRADED"
EXPLAINED = {
    GRADED: "every cell has its points",
    WAITING: "all tests ran; answers wait to be read",
    PARTLY: "some tests could not be graded; see the reasons",
    NOT_GRADED: "nothing could be graded; see the reason. It is not 0",
}
COLUMNS = [
    "student",
    "assignment",
    "notebook",
    "state",
    "score",
    "points_so_far",
    "max_score",
    "reasons",
    "remarks",
]


@dataclass(frozen=True)
class Row:
    """One notebook of one student; `score` is None unless all of it is graded, `points` unless some is."""

    student: str
    assignment: str
    notebook: str
    state: str
    score: float | None
    points: float | None
    most: float
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]


def number(value: float | None) -> str:
    """As few digits as say it, at most three after the point; nothing for None."""
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def as_csv(rows: list[Row]) -> str:
    """One line for each notebook of each student."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        texts = [_cell(row.student), _cell(row.assignment), _cell(row.notebook), row.state]
        texts += [number(row.score), number(row.points), number(row.most)]
        writer.writerow([*texts, _cell("; ".join(row.reasons)), _cell(" ".join(row.remarks))])
    return file.getvalue()


STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: bold; padding: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #8886; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.not-graded td, tr.partly-graded td { background: #d5510022; }
tr.needs-a-person td { background: #0072b218; }
.state { white-space: nowrap; font-weight: bold; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .6rem; margin: .3rem 0; }
section { border: 1px solid #8886; border-radius: 6px; padding: .3rem 1rem; margin: 1rem 0; }
"""


def page(title: str, body: str) -> str:
    """An HTML page that runs no script and loads nothing; `body` is HTML already."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def safe_html(text: str) -> str:
    """Text from anywhere, made safe to stand in a page."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return html.escape(
        "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def as_page(rows: list[Row], notes: list[str]) -> str:
    """The class at a glance: what needs a person comes first, below sentences on what is left out."""
    counts = Counter(row.state for row in rows)
    lines = [f"<p>{len(rows)} notebooks.</p><ul>"]
    lines += [f"<li><b>{state}</b>: {counts[state]} ({EXPLAINED[state]})</li>" for state in EXPLAINED]
    lines.append("</ul>")
    lines += [f"<p>{safe_html(sentence)}</p>" for sentence in notes]
    lines.append("<table><caption>Notebooks, those that need somebody first</caption><thead><tr>")
    heads = ("Student", "Assignment", "State", "Score", "Points so far", "Of", "Reasons", "Remarks")
    for head in heads:
        kind = ' class="number"' if head in ("Score", "Points so far", "Of") else ""
        lines.append(f'<th scope="col"{kind}>{head}</th>')
    lines.append("</tr></thead><tbody>")
    order = [NOT_GRADED, PARTLY, WAITING, GRADED]
    for row in sorted(
        rows, key=lambda row: (order.index(row.state), row.assignment, row.student, row.notebook)
    ):
        what = row.assignment if row.assignment == row.notebook else f"{row.assignment}/{row.notebook}"
        lines.append(
            f'<tr class="{row.state.lower().replace(" ", "-")}"><th scope="row">{safe_html(row.student)}</th>'
        )
        lines.append(f'<td>{safe_html(what)}</td><td class="state">{row.state}</td>')
        lines += [f'<td class="number">{number(v) or "–"}</td>' for v in (row.score, row.points, row.most)]
        for texts in (row.reasons, row.remarks):
            lines.append(f"<td>{'<br>'.join(safe_html(text) for text in texts)}</td>")
        lines.append("</tr>")
    lines.append("</tbody></table>")
    return page("Grades", "\n".join(lines))
