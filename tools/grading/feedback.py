"""The page that a student gets back: points, comments and their own work, and nothing of the hidden tests.

Once a hidden test has run, the student's code has been in one process with its text, and whatever that code
writes afterwards, in whatever encoding, may carry it. Outputs are therefore shown up to the first hidden test
only, and of a test the page shows the part that was given out, and how it ended.
"""

import base64
import binascii
import builtins

from nbformat import NotebookNode

from tools.grading.book import Grades
from tools.grading.examine import NotebookSpec
from tools.grading.report import NOT_GRADED, PARTLY, Row, number, page, safe_html

MOST_TEXT = 20_000


def _exception(name: str) -> str:
    """The name of an exception of Python; any other could be a message."""
    known = getattr(builtins, name, None)
    return name if isinstance(known, type) and issubclass(known, BaseException) else "an error"


def _describe_error(name: str) -> str:
    """What an error says of a test, in our own words alone."""
    if name == "Mistake":
        return (
            "The check found a mistake. Run its cell in your own notebook and it says which one; where it "
            "says Right there, the answer fits the inputs of that cell, and not others."
        )
    return f"The tests ended with {_exception(name)}."


def _outputs(cell: NotebookNode) -> list[str]:
    lines = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            text = output.text
        elif output.output_type == "error":
            text = f"{output.ename}: {output.evalue}"
        else:
            data = output.get("data", {})
            picture = "".join(str(data.get("image/png", "")).split())
            try:
                if base64.b64decode(picture, validate=True).startswith(b"\x89PNG"):
                    lines.append(
                        f'<p><img alt="A picture from this cell" src="data:image/png;base64,{picture}"></p>'
                    )
                    continue
            except binascii.Error:
                pass
            text = str(data.get("text/plain", ""))
        lines.append(f"<pre>{safe_html(text[:MOST_TEXT])}</pre>")
    return lines


def _result(cell: NotebookNode | None, grade: Grades | None) -> str:
    if grade is None:
        return ""
    if grade.points is None:
        waits = "is not graded yet" if grade.needs_a_person else "has no points"
        return f"<p><b>This cell {waits}</b> (up to {number(grade.max_score)} points).</p>"
    ended = ""
    errors = [o for o in (cell.get("outputs", []) if cell else []) if o.output_type == "error"]
    if errors and grade.manual is None:
        ended = f" {_describe_error(errors[0].ename)}"
    return f"<p><b>{number(grade.points)} of {number(grade.max_score)} points.</b>{ended}</p>"


def as_page(
    row: Row,
    spec: NotebookSpec,
    notebook: NotebookNode | None,
    grades: list[Grades],
    comments: dict[str, str],
    *,
    file_is_why: bool = True,
) -> str:
    """One student's page for one notebook; `notebook` is what ran, None where nothing did.

    `file_is_why` says whether nothing ran because of the file. Why a test has no points is not shown: that
    sentence can have words in it that the student's code chose while it knew the hidden tests.
    """
    total = (
        f"{number(row.score)} of {number(row.most)} points" if row.score is not None else row.state.lower()
    )
    lines = [f"<p>{safe_html(row.student)}: <b>{total}</b></p>"]
    if notebook is None:  # what is said of a file comes from nothing that ran
        reasons = (
            row.reasons if file_is_why else ("It could not be graded yet, and not because of the file.",)
        )
        lines += [f"<p>{safe_html(reason)}</p>" for reason in reasons]
        return page(f"Feedback: {row.notebook}", "\n".join(lines))
    if row.state in (NOT_GRADED, PARTLY):
        lines.append("<p>Some of it could not be graded; a person will look at it.</p>")
    lines += [f"<p>{safe_html(remark)}</p>" for remark in row.remarks]
    specs, grade_of = {one.name: one for one in spec.cells}, {grade.name: grade for grade in grades}
    may_know = False
    for cell in notebook.cells:
        one = specs.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        lines.append("<section>")
        if one is not None and one.is_test:
            lines += [f"<h2>{safe_html(one.name)}</h2>", f"<pre>{safe_html(one.released)}</pre>"]
            if one.source != one.released:
                lines.append("<p>Further tests ran here.</p>")
                may_know = True
        else:
            if one is not None and one.points is not None:
                lines.append(f"<h2>{safe_html(one.name)}</h2>")
            lines.append(f"<pre>{safe_html(cell.source[:MOST_TEXT])}</pre>")
            if cell.get("outputs"):
                hidden = [
                    "<p>Outputs after the first hidden test are not shown; your own notebook has them.</p>"
                ]
                lines += hidden if may_know else _outputs(cell)
        if one is not None:
            lines.append(_result(cell, grade_of.get(one.name)))
            if one.name in comments:
                lines.append(f"<p>Comment:</p><pre>{safe_html(comments[one.name])}</pre>")
        lines.append("</section>")
    return page(f"Feedback: {row.notebook}", "\n".join(lines))
