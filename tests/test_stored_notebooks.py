"""The stored notebooks: made from their scripts, complete, and written by the house rules.

Strict nbval runs every cell again and compares what it says, and, by conftest.py, its pictures. These tests
close the hole it leaves: it passes cleared outputs in silence. Each rule takes a notebook and returns its
faults in words; at the end of the file, each is shown notebooks that break it.
"""

import ast
import functools
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.test_pictures import contrast
from tools.lessons import TRACES, is_current

FOLDER = Path(__file__).parent.parent / "notebooks"
SCRIPTS = {path.stem: path for path in sorted((FOLDER / "sources").glob("*.py"))}
STORED = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
LESSONS = sorted(SCRIPTS.keys() & STORED.keys())


def load(path: Path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    """(name of the cell, output) for every output."""
    return [(f"cell [{c.execution_count}]", output) for c in code_cells(notebook) for output in c.outputs]


class Page(HTMLParser):
    """The words of an HTML output, the pictures in it that have no words, and what is written in drawings."""

    VOID = {"br", "hr", "img", "input", "link", "meta", "source", "wbr"}

    def __init__(self, text: str):
        super().__init__()
        self.words: list[str] = []
        self.alternatives: list[str] = []
        self.mute: list[str] = []
        self.drawn: list[tuple[str, str, str]] = []  # words in an SVG, their colour, that of the last frame
        self._frame = ""
        self._open: list[tuple[str, bool, str]] = []  # tag, whether it speaks for what is inside, its colour
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        text = given.get("alt") or given.get("aria-label") or ""
        speaks = len(text.split()) >= 3
        if speaks:
            self.alternatives.append(text)
        if tag in ("svg", "img", "canvas") and not speaks and not any(inside for _, inside, _ in self._open):
            self.mute.append(tag)
        inherited = self._open[-1][2] if self._open else "black"
        fills = re.findall(r"\bfill: *([^;]+)", given.get("style", ""))
        fill = [given.get("fill", inherited), *fills][-1]
        if tag == "svg":
            self._frame = ""
        elif tag == "path" and " Q " in given.get("d", ""):  # a rounded box: a legend's frame
            self._frame = fill
        if tag not in self.VOID:
            self._open.append((tag, speaks and given.get("role") == "img", fill))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if any(name == tag for name, *_ in self._open):
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        tags = [tag for tag, *_ in self._open]
        if not {"svg", "style", "script"} & set(tags):
            self.words.append(data)
        elif tags[-1] in ("text", "tspan") and data.strip():
            self.drawn.append((data.strip(), self._open[-1][2], self._frame))


@functools.cache
def page_of(text: str) -> Page:
    """An output is read once for all rules."""
    return Page(text)


def words(output) -> str:
    """All that an output says: printed text, the texts of its other forms, text alternatives; no drawing."""
    texts = [output.get("text", "")]
    for kind, value in output.get("data", {}).items():
        if kind == "text/html":
            page = page_of(value)
            texts += [*page.words, *page.alternatives]
        elif not kind.startswith("image/"):
            texts.append(str(value))
    return "\n".join(texts)


def saying(notebook, pattern: str | re.Pattern, fault: str) -> list[str]:
    """Where the outputs say something that matches `pattern`."""
    found = ((where, re.search(pattern, words(output))) for where, output in outputs(notebook))
    return [f"{where} {fault}: {match.group().strip()[:60]!r}" for where, match in found if match]


# ---- The rules


def every_cell_was_run_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]


def no_errors(notebook):
    return [f"{where}: {o.ename}" for where, o in outputs(notebook) if o.output_type == "error"]


def nothing_on_stderr(notebook):
    return [f"{where}: {o.text.strip()}" for where, o in outputs(notebook) if o.get("name") == "stderr"]


def no_addresses(notebook):
    return saying(notebook, TRACES["an object's address"], "shows an address")


def no_absolute_paths(notebook):
    return saying(notebook, TRACES["a path of this machine"], "shows a path")


def no_timings(notebook):
    timed = [cell for cell in code_cells(notebook) if "execution" in cell.metadata]
    unit = r"Wall time|CPU times|\d[\d.]*\s?(?:ms|µs|us|ns|seconds|it/s)\b|\[\d+:\d\d<"
    faults = [f"cell [{cell.execution_count}] has times" for cell in timed]
    return faults + saying(notebook, unit, "shows a time")


def no_versions(notebook):
    return saying(notebook, r"\b\d+\.\d+\.\d+\b", "shows a version")


def no_raw_tensors(notebook):
    return saying(notebook, r"\b(?:tensor|Parameter)\(", "shows a raw tensor")


def no_bare_objects(notebook):
    """`<Axes: …>`, `[<matplotlib.lines.Line2D …>]`: the `;` at the end of a plotting cell is missing."""
    return saying(notebook, r"<[A-Za-z_][\w.]*(?: object|[: ][^<>]*)>", "shows an object")


def no_widget_state(notebook):
    views = [where for where, o in outputs(notebook) if any("widget" in kind for kind in o.get("data", {}))]
    faults = [f"{where} holds a widget" for where in views]
    return faults + (["the metadata hold widgets"] if "widgets" in notebook.metadata else [])


def only_the_builders_metadata(notebook):
    expected = {"kernelspec", "language_info"}
    extra = set(notebook.metadata) ^ expected | set(notebook.metadata.get("language_info", {})) ^ {"name"}
    return [f"metadata: {name}" for name in sorted(extra)]


def pictures_have_words(notebook):
    """A picture is HTML with a text alternative of three words or more; a PNG alone cannot have one."""
    faults = []
    for where, output in outputs(notebook):
        data = output.get("data", {})
        page = page_of(data.get("text/html", ""))
        faults += [f"{where} has a picture without words: {tag}" for tag in page.mute]
        if any(kind.startswith("image/") for kind in data) and not page.alternatives:
            faults.append(f"{where} has an image without a text alternative")
    return faults


def drawings_are_legible(notebook):
    """Their words have the colour of the page's text, or 4.5 : 1 on their own frame (WCAG 2.2, 1.4.3)."""
    faults = []
    for where, output in outputs(notebook):
        for text, color, frame in page_of(output.get("data", {}).get("text/html", "")).drawn:
            framed = color.startswith("#") and frame.startswith("#") and contrast(color, frame) >= 4.5
            if color != "currentColor" and not framed:
                faults.append(f"{where} draws {text!r} in {color}, faint on a page that is light or dark")
    return faults


def at_most_three_digits(notebook):
    """Decimal numbers only: counts (1797 images) are exact."""
    faults = []
    for where, output in outputs(notebook):
        for number in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\.\d)", words(output)):
            if len(number.replace(".", "").lstrip("0")) > 3:
                faults.append(f"{where} prints {number}: more than three significant digits")
    return faults


def short_code_cells(notebook):
    lines = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    faults = [f"code cell {n} has {count} lines" for n, count in enumerate(lines, 1) if count > 15]
    if lines and statistics.median(lines) > 5:
        faults.append("half of the code cells have more than five lines")
    return faults


def short_lines(notebook):
    code = [(n, line) for n, cell in enumerate(code_cells(notebook), 1) for line in cell.source.splitlines()]
    return [f"code cell {n} has a line of {len(line)} characters" for n, line in code if len(line) > 110]


def as_much_prose_as_code(notebook):
    code, prose = len(code_cells(notebook)), sum(cell.cell_type == "markdown" for cell in notebook.cells)
    return [] if prose >= code else [f"{prose} markdown cells for {code} code cells"]


def self_contained_code(notebook):
    """No edits of the import path, no star imports, nothing that reaches for the network."""
    network = {"urllib", "requests", "http", "httpx", "socket", "ftplib", "wget", "gdown", "torchvision"}
    faults = []
    for number, cell in enumerate(code_cells(notebook), 1):
        where = f"code cell {number}"
        if magic := re.search(r"^\s*[!%].*\b(?:pip|conda|wget|curl|git|cd)\b.*", cell.source, re.MULTILINE):
            faults.append(f"{where} runs {magic.group().strip()}")
        source = re.sub(r"^\s*[!%].*", "", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                faults.append(f"{where} imports * from {node.module}")
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            faults += [f"{where} imports {name}" for name in modules if name.split(".")[0] in network]
            if isinstance(node, ast.Attribute | ast.Name | ast.alias):
                used = ast.unparse(node)
                if re.fullmatch(r"sys\.path|torch\.hub(\..*)?|(.*\.)?(fetch_\w+|urlopen|urlretrieve)", used):
                    faults.append(f"{where} uses {used}")
    return faults


def nothing_hidden(notebook):
    faults = []
    for number, cell in enumerate(notebook.cells, 1):
        hidden = [tag for tag in cell.metadata.get("tags", []) if re.match(r"(hide|remove|collapse)", tag)]
        hidden += [key for key in ("jupyter", "collapsed", "hidden", "cellView") if cell.metadata.get(key)]
        faults += [f"cell {number} is hidden: {name}" for name in hidden]
    return faults


def no_exception_without_a_reason(notebook):
    """Tags and comments that take a cell out of the tests."""
    faults = []
    for number, cell in enumerate(code_cells(notebook), 1):
        comments = [line.strip("# ") for line in cell.source.splitlines() if line.lstrip().startswith("#")]
        markers = [line for line in comments if re.fullmatch(r"(NBVAL|PYTEST)_[A-Z_]+", line)]
        tags = [tag for tag in cell.metadata.get("tags", []) if re.match(r"nbval|raises-exception", tag)]
        if markers + tags and len(comments) == len(markers):
            faults.append(f"code cell {number} says {(markers + tags)[0]} and not why")
    return faults


def explorers_are_tagged(notebook):
    """The browser's tests find explorers by their tag."""
    faults = []
    for number, cell in enumerate(code_cells(notebook), 1):
        shows = any("Run this cell to move" in words(output) for output in cell.outputs)
        tagged = "explorer" in cell.metadata.get("tags", [])
        if shows and not tagged:
            faults.append(f"code cell {number} shows an explorer, and has no tag explorer")
        if tagged and not shows:
            faults.append(f"code cell {number} has the tag explorer, and shows none")
    return faults


def ids_are_unique(notebook):
    ids = [cell.get("id") for cell in notebook.cells]
    return [] if None not in ids and len(set(ids)) == len(ids) else ["cells without an id of their own"]


RULES = [
    every_cell_was_run_in_order,
    no_errors,
    nothing_on_stderr,
    no_addresses,
    no_absolute_paths,
    no_timings,
    no_versions,
    no_raw_tensors,
    no_bare_objects,
    no_widget_state,
    only_the_builders_metadata,
    pictures_have_words,
    drawings_are_legible,
    at_most_three_digits,
    short_code_cells,
    short_lines,
    as_much_prose_as_code,
    self_contained_code,
    nothing_hidden,
    no_exception_without_a_reason,
    explorers_are_tagged,
    ids_are_unique,
]


# ---- The lessons


def test_every_script_has_its_notebook_and_every_notebook_its_script():
    assert sorted(SCRIPTS) == sorted(STORED)


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule, lesson):
    assert rule(load(STORED[lesson])) == []


def texts_that_differ(notebook, script) -> list[str]:
    stored, written = ([(cell.cell_type, cell.source) for cell in n.cells] for n in (notebook, script))
    if len(stored) != len(written):
        return [f"{len(stored)} cells in the notebook, {len(written)} in the script"]
    return [f"cell {n}" for n, (a, b) in enumerate(zip(stored, written, strict=True), 1) if a != b]


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_notebook_says_what_its_script_says(lesson):
    script = jupytext.read(SCRIPTS[lesson], fmt="py:percent")
    assert texts_that_differ(load(STORED[lesson]), script) == [], "run: make notebooks"


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_notebook_was_built_from_the_code_as_it_is_now(lesson):
    assert is_current(SCRIPTS[lesson], STORED[lesson]), "run: make notebooks"


# ---- The rules are rules: each is broken once


def figure_html(alternative: str, word_style: str = "fill: currentColor", frame: str = "") -> str:
    drawn = f'<path d="M0.12345 0"/>{frame}<text style="{word_style}">layer</text>'
    drawing = f'<svg viewBox="0 0 9 4">{drawn}</svg>'
    return f'<div role="img" aria-label="{alternative}">{drawing}</div>'


FRAME = '<path d="M 1 2 Q 3 4 5 6 z" style="fill: #777777; stroke: #cccccc"/>'


def good_notebook():
    sentence = "The norm falls from 1 to 0.01."
    picture = {"text/html": figure_html(sentence), "image/png": "", "text/plain": sentence}
    cells = [
        new_markdown_cell("# A lesson", id="a"),
        new_code_cell(
            "print(1 / 3, 1797)",
            id="b",
            execution_count=1,
            outputs=[new_output("stream", name="stdout", text="0.333 of 1797\n8.99e-16 at layer 100\n")],
        ),
        new_markdown_cell("An observation.", id="c"),
        new_code_cell(
            "ax.plot(norms);",
            id="d",
            execution_count=2,
            outputs=[new_output("display_data", picture)],
            metadata={"tags": ["kept"]},
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def saying_(text):
    return lambda notebook: notebook.cells[1].outputs[0].update(text=text)


def code_(source):
    return lambda notebook: notebook.cells[1].update(source=source)


def cell_metadata_(**metadata):
    return lambda notebook: notebook.cells[1].metadata.update(metadata)


def html_(text):
    return lambda notebook: notebook.cells[3].outputs[0].data.update({"text/html": text})


def output_(output):
    return lambda notebook: notebook.cells[1].outputs.append(output)


BREAKS = [
    (every_cell_was_run_in_order, lambda n: n.cells[3].update(execution_count=None), "[1, None]"),
    (every_cell_was_run_in_order, lambda n: n.cells[3].update(execution_count=3), "[1, 3]"),
    (no_errors, output_(new_output("error", ename="ValueError", evalue="", traceback=[])), "ValueError"),
    (nothing_on_stderr, output_(new_output("stream", name="stderr", text="careful")), "careful"),
    (no_addresses, saying_("<function f at 0x7f00aa00bb00>"), "at 0x7f"),
    (no_addresses, html_(figure_html("The tensor at 0x7f00aa00bb00 grows")), "at 0x7f"),
    (no_absolute_paths, saying_("saved to /home/someone/figure.png"), "/home/someone"),
    (no_absolute_paths, saying_("'C:\\Users\\someone'"), "C:"),
    (no_absolute_paths, saying_("file://host/figure.png"), "file://"),
    (no_timings, saying_("trained in 3.1 seconds"), "3.1 seconds"),
    (no_timings, saying_("12 ms per loop"), "12 ms"),
    (no_timings, cell_metadata_(execution={"iopub.execute_input": "now"}), "has times"),
    (no_versions, saying_("torch 2.13.0"), "2.13.0"),
    (no_raw_tensors, saying_("tensor([0.1, 0.2], grad_fn=<MulBackward0>)"), "tensor("),
    (no_bare_objects, saying_("[<matplotlib.lines.Line2D object>]"), "Line2D"),
    (no_bare_objects, saying_("<Axes: xlabel='layer'>"), "Axes"),
    (no_bare_objects, saying_("<Figure size 640x480 with 1 Axes>"), "Figure size"),
    (no_widget_state, lambda n: n.metadata.update(widgets={}), "widgets"),
    (
        no_widget_state,
        output_(new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})),
        "holds a widget",
    ),
    (only_the_builders_metadata, lambda n: n.metadata.update(jupytext={}), "jupytext"),
    (only_the_builders_metadata, lambda n: n.metadata.language_info.update(version="3.11.2"), "version"),
    (only_the_builders_metadata, lambda n: n.metadata.pop("kernelspec"), "kernelspec"),
    (pictures_have_words, html_(figure_html("")), "svg"),
    (pictures_have_words, html_(figure_html("a figure")), "svg"),
    (pictures_have_words, html_('<img src="x.png" alt="">'), "img"),
    (pictures_have_words, html_(figure_html("The norm falls fast.") + "<svg></svg>"), "svg"),
    (
        pictures_have_words,
        lambda n: n.cells[3].outputs[0].data.pop("text/html"),
        "without a text alternative",
    ),
    (drawings_are_legible, html_(figure_html("It falls.", "font-size: 12px")), "'layer' in black"),
    (drawings_are_legible, html_(figure_html("It falls.", "fill: #d1620a")), "'layer' in #d1620a"),
    (drawings_are_legible, html_(figure_html("It falls.", "fill: #cccccc", FRAME)), "'layer' in #cccccc"),
    (at_most_three_digits, saying_("loss 2.303"), "2.303"),
    (at_most_three_digits, saying_("0.03125e-6"), "0.03125"),
    (at_most_three_digits, html_(figure_html("The norm falls to 0.01234 at once.")), "0.01234"),
    (short_code_cells, code_("x = 1\n" * 16), "16 lines"),
    (short_code_cells, code_("x = 1\n" * 11), "half of the code"),
    (short_lines, code_("x = '" + "a" * 110 + "'"), "116 characters"),
    (as_much_prose_as_code, lambda n: n.cells.pop(0), "1 markdown cells for 2"),
    (self_contained_code, code_("import sys\nsys.path.insert(0, '..')"), "sys.path"),
    (self_contained_code, code_("from sys import path\nfrom gradients_in_depth.plots import *"), "imports *"),
    (self_contained_code, code_("import urllib.request"), "urllib.request"),
    (self_contained_code, code_("from requests import get"), "requests"),
    (self_contained_code, code_("from sklearn.datasets import fetch_openml"), "fetch_openml"),
    (self_contained_code, code_("import torch\ntorch.hub.load('a', 'b')"), "torch.hub"),
    (self_contained_code, code_("!pip install torch"), "!pip"),
    (nothing_hidden, cell_metadata_(tags=["hide-input"]), "hide-input"),
    (nothing_hidden, cell_metadata_(jupyter={"source_hidden": True}), "jupyter"),
    (
        no_exception_without_a_reason,
        code_("# NBVAL_IGNORE_OUTPUT\nx = 1"),
        "NBVAL_IGNORE_OUTPUT",
    ),
    (no_exception_without_a_reason, cell_metadata_(tags=["nbval-skip"]), "nbval-skip"),
    (explorers_are_tagged, cell_metadata_(tags=["explorer"]), "shows none"),
    (
        explorers_are_tagged,
        output_(new_output("display_data", {"text/plain": "Run this cell to move depth (1 to 9)."})),
        "no tag explorer",
    ),
    (ids_are_unique, lambda n: n.cells[3].update(id="a"), "id"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_follows_every_rule(rule):
    assert rule(good_notebook()) == []
    assert rule in [broken for broken, *_ in BREAKS], "no example breaks this rule"


@pytest.mark.parametrize(
    ("rule", "damage", "words_"), BREAKS, ids=[f"{rule.__name__}-{words_}" for rule, _, words_ in BREAKS]
)
def test_a_broken_rule_is_named(rule, damage, words_):
    damage(notebook := good_notebook())
    faults = rule(notebook)
    assert faults
    assert words_ in " ".join(faults)


def test_a_reason_beside_an_exception_is_enough():
    notebook = good_notebook()
    notebook.cells[1].source = "# The seed is the learner's own.\n# NBVAL_IGNORE_OUTPUT\nx = 1"
    assert no_exception_without_a_reason(notebook) == []


def test_a_text_that_was_changed_in_one_place_only_is_named():
    stored, script = good_notebook(), good_notebook()
    assert texts_that_differ(stored, script) == []
    script.cells[1].source += "\n"
    assert texts_that_differ(stored, script) == ["cell 2"]
    script.cells.pop()
    assert texts_that_differ(stored, script) == ["4 cells in the notebook, 3 in the script"]
