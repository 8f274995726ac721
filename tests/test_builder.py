"""The builder, on small scripts and a package of their own."""

import json
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import nbformat
import pytest

from tests.branches import commit, git, merge_two_branches
from tools.built import Record, hash_of
from tools.lessons import METADATA, BuildError, build, is_current, main, origin, pairs_of, read, record_in

# Everything that makes a notebook hard to store twice: a figure, a widget, a progress bar, chopped output.
RICH = """# %% [markdown]
# # A lesson
# One line of prose.

# %%
import sys

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from tqdm import tqdm

# %% [markdown]
# A figure, and a set whose order is chance.

# %%
figure, ax = plt.subplots()
ax.plot(np.random.default_rng(0).normal(size=50));

# %%
print("in pieces", flush=True)
print("of one text", flush=True)
for _ in tqdm(range(3)):
    pass

# %%
display(ipywidgets.IntSlider(description="depth"))
handle = display("first", display_id=True)
handle.update("second")

# %%
from gradients_in_depth import explorers, session

session.start(seed=0)
explorers.chain()

# %%
1 + 1

# %% tags=["kept"]
1 + 1
"""


@pytest.fixture
def course(tmp_path):
    """A folder of notebooks, and a small package."""
    package = tmp_path / "gradients_in_depth"
    sources = tmp_path / "notebooks" / "sources"
    package.mkdir()
    sources.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "pictures.py").write_text("WIDTH = 9\nHEIGHT = 6  # inches\n", encoding="utf-8")
    (package / "plots.py").write_text(
        "from gradients_in_depth import pictures\n\ndef curve():\n    return pictures.WIDTH\n"
        "\ndef layers():\n    return pictures.HEIGHT\n",
        encoding="utf-8",
    )
    (package / "slider.js").write_text("export default {};\n", encoding="utf-8")
    return tmp_path


def write(course, name, text):
    script = course / "notebooks" / "sources" / f"{name}.py"
    script.write_text(text, encoding="utf-8")
    return script, course / "notebooks" / f"{name}.ipynb"


def command(course, *arguments):
    return main(arguments, course / "notebooks", course / "gradients_in_depth")


def failure(course, text):
    with pytest.raises(BuildError) as caught:
        build(*write(course, "02_sigmoid", text))
    assert not list((course / "notebooks").glob("*.ipynb*")), "a notebook that failed was stored"
    return str(caught.value)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A lesson with one of everything, built twice: (notebook, bytes of the first build, of the second)."""
    folder = tmp_path_factory.mktemp("rich")
    (script := folder / "rich.py").write_text(RICH, encoding="utf-8")
    builds = []
    for _ in range(2):
        build(script, folder / "rich.ipynb")
        builds.append((folder / "rich.ipynb").read_bytes())
    assert sorted(path.name for path in folder.iterdir()) == ["rich.ipynb", "rich.py"]
    return nbformat.reads(builds[0].decode(), as_version=4), *builds


@pytest.mark.slow
def test_two_builds_give_the_same_bytes(rich):
    _, first, second = rich
    assert first == second
    assert first.endswith(b"}\n")
    assert b"\r" not in first


@pytest.mark.slow
def test_what_is_stored(rich):
    notebook, *_ = rich
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5, 6, 7]
    assert notebook.metadata == METADATA
    assert [cell.metadata for cell in code] == [{}, {}, {}, {}, {}, {}, {"tags": ["kept"]}]
    (figure,) = code[1].outputs
    assert "image/png" in figure.data
    assert [output.text for output in code[2].outputs] == ["in pieces\nof one text\n"]
    widget, updated = code[3].outputs
    assert set(widget.data) == {"text/plain"}
    assert widget.data["text/plain"].startswith("IntSlider(")
    assert updated.data["text/plain"] == "'second'"
    assert any("image/png" in output.data for output in code[4].outputs)  # the explorer's picture
    assert code[5].outputs[0].data["text/plain"] == "2"


@pytest.mark.slow
def test_ids_stay_when_another_cell_comes_in(tmp_path, rich):
    notebook, *_ = rich
    (script := tmp_path / "rich.py").write_text(
        RICH.replace("# %%\n1 + 1", "# %%\n2 + 2\n\n# %%\n1 + 1"), encoding="utf-8"
    )
    before, after = [cell.id for cell in notebook.cells], [cell.id for cell in read(script).cells]
    assert len(set(after)) == len(after), "two cells of the same text share an id"
    assert [id for id in after if id in before] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "place", "words"),
    [
        ("x = 1\nundefined + x", "cell 2 (line 9", "NameError: name 'undefined' is not defined"),
        ("x = 1\ny = (", "cell 2 (line 9", "SyntaxError"),
        ("helper()", "cell 2 (line 8", "ZeroDivisionError: division by zero"),
        ("import sys\nprint('loud', file=sys.stderr)", "cell 2 (line 8", "this went to stderr: loud"),
        ("import warnings\nwarnings.warn('careful')", "cell 2 (line 8", "careful"),
        ("object()", "cell 2 (line 8", "the output shows an object's address: at 0x"),
        ("print(hex(id(helper)))", "cell 2 (line 8", "the output shows an object's address: 0x"),
        ("import os\nprint(os.getcwd())", "cell 2 (line 8", "the output shows a path of this machine: /"),
        (
            "from pathlib import Path\nPath('/home/someone')",
            "cell 2 (line 8",
            "a path of this machine: /home/someone",
        ),
        ("# the file\nprint('C:\\\\Users')", "cell 2 (line 8", "the output shows a path of this machine: C:"),
        ("print('file://here')", "cell 2 (line 8", "the output shows a path of this machine: file://"),
        ("from tqdm.auto import tqdm\nbar = tqdm(range(3))", "cell 2 (line 8", "shows a progress bar: 0%|"),
        ("import os\nos._exit(3)", "cell 2 (line 8", "Kernel died"),
    ],
)
def test_the_message_names_cell_and_line(course, cell, place, words):
    if os.name == "nt" and "getcwd" in cell:
        pytest.skip("a path of Windows has its own example")
    text = f"# %%\ndef helper():\n    return 1 / 0\n\n# %% [markdown]\n# Prose.\n\n# %%\n{cell}\n\n# %%\n3\n"
    text = text.replace("# Prose.\n\n# %%", "# Prose.\n# %%")
    message = failure(course, text)
    assert message.startswith(f"02_sigmoid, {place} of sources/02_sigmoid.py): ")
    assert words in message
    assert "\x1b" not in message


def test_an_empty_cell_is_an_error(course):
    assert failure(course, "# %%\n1\n\n# %%\n") == "02_sigmoid, cell 2: the cell is empty"


@pytest.mark.slow
def test_an_expected_error_is_an_error(course):
    assert "ZeroDivisionError" in failure(course, '# %% tags=["raises-exception"]\n1 / 0\n')


@pytest.mark.slow
def test_figures_are_not_read_for_paths(course):
    picture = "from IPython.display import HTML, Image\n"
    picture += "HTML('<img src=\"data:image/png;base64,/home/abcd/0x7f0000000000\">')"
    build(*write(course, "picture", f"# %%\n{picture}\n"))


@pytest.mark.slow
def test_a_failure_keeps_the_last_good_file_and_the_other_notebooks_are_built(course, capsys):
    write(course, "00_good", "# %%\n1\n")
    write(course, "01_bad", "# %%\n2\n")
    assert command(course) == 0
    good = (course / "notebooks" / "01_bad.ipynb").read_bytes()
    write(course, "00_good", "# %%\n10\n")
    write(course, "01_bad", "# %%\n20\n\n# %%\n1 / 0\n")
    capsys.readouterr()
    assert command(course, "--jobs", "1") == 1
    printed = capsys.readouterr()
    assert (course / "notebooks" / "01_bad.ipynb").read_bytes() == good
    assert '"10"' in (course / "notebooks" / "00_good.ipynb").read_text(encoding="utf-8")
    assert re.search(r"built +00_good \(1 cells, \d+ s\)", printed.out)
    assert "01_bad, cell 2 (line 5 of sources/01_bad.py): ZeroDivisionError" in printed.err
    assert {path.name for path in (course / "notebooks").iterdir()} - {".built.json.lock"} == {
        "00_good.ipynb",
        "01_bad.ipynb",
        "built.json",
        "sources",
    }
    assert command(course, "--check") == 1  # what failed is not written down as built
    assert capsys.readouterr().out == "not current: 01_bad (its source has changed)\n"


def built_without_the_wait(course, name):
    """What the builder leaves behind: a notebook, and its hashes."""
    ((script, target),) = pairs_of(course / "notebooks" / "sources", course / "notebooks", [name])
    hashes = origin(script, course / "gradients_in_depth")
    target.write_text(
        json.dumps({"cells": [hashes["code"], hashes["source"]], "metadata": METADATA}, indent=1),
        encoding="utf-8",
    )
    record_in(course / "notebooks").enter(name, hashes | {"notebook": hash_of(target)})


@pytest.fixture
def lessons(course):
    """Three lessons that are current, in the folder of the course."""
    write(course, "00_curve", "# %%\nfrom gradients_in_depth.plots import curve as c\nc()\n")
    write(course, "01_alone", "# %%\n2\n")
    write(course, "02_layers", "# %%\nfrom gradients_in_depth import plots\nplots.layers()\n")
    for name in ("00_curve", "01_alone", "02_layers"):
        built_without_the_wait(course, name)
    return course


def test_only_what_changed_is_built(lessons, capsys):
    def stale():
        capsys.readouterr()
        code = command(lessons, "--check")
        names = re.findall(r"not current: (\w+)", capsys.readouterr().out)
        assert code == (1 if names else 0)
        return names

    def changed(path, old, new):
        assert old in path.read_text(encoding="utf-8")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), newline="", encoding="utf-8")

    pictures, plots = (lessons / "gradients_in_depth" / f"{name}.py" for name in ("pictures", "plots"))
    script = lessons / "notebooks" / "sources" / "01_alone.py"
    assert stale() == []
    os.utime(pictures)
    os.utime(script)
    assert stale() == []
    changed(pictures, "# inches", "# of a page")
    changed(pictures, "\n", "\r\n")  # what git does on Windows
    changed(script, "\n", "\r\n")
    assert stale() == []
    changed(pictures, "WIDTH = 9", "WIDTH = 10")  # reached through what the lesson imports
    assert stale() == ["00_curve"]
    changed(pictures, "WIDTH = 10", "WIDTH = 9")
    assert stale() == []
    changed(plots, "return pictures.HEIGHT", "return pictures.HEIGHT / 2")
    assert stale() == ["02_layers"]
    changed(lessons / "gradients_in_depth" / "slider.js", "{}", "{ render }")
    assert stale() == ["00_curve", "02_layers"]
    changed(script, "2", "3")
    assert stale() == ["00_curve", "01_alone", "02_layers"]
    changed(script, "3", "2")
    changed(script, "# %%", "# %% [markdown]\n# A sentence.\n\n# %%")
    assert "01_alone" in stale()


def test_the_settings_of_the_kernel_are_part_of_what_is_built(lessons, monkeypatch):
    monkeypatch.setattr("tools.lessons.KERNEL", {"OMP_NUM_THREADS": "2"})
    assert command(lessons, "--check") == 1


@pytest.mark.slow
def test_a_notebook_saved_by_hand_is_not_current(course):
    script, target = write(course, "00_start", "# %%\n1\n")
    package = course / "gradients_in_depth"
    assert not is_current(script, target, package)
    assert command(course) == 0
    assert is_current(script, target, package)
    stored = target.read_text(encoding="utf-8")
    for old, new in (
        ('"name": "python"', '"name": "python", "version": "3.11.2"'),
        ('"1"', '"2"'),
        ("\n}", "}"),
    ):
        assert old in stored
        target.write_text(stored.replace(old, new), encoding="utf-8")
        assert not is_current(script, target, package)
    target.write_text("{ not a notebook", encoding="utf-8")
    assert not is_current(script, target, package)
    target.write_bytes(stored.replace("\n", "\r\n").encode())
    assert is_current(script, target, package)
    target.unlink()
    assert not is_current(script, target, package)


def test_a_lesson_says_why_it_is_not_current(lessons, capsys):
    notebooks, pictures = lessons / "notebooks", lessons / "gradients_in_depth" / "pictures.py"

    def reason():
        capsys.readouterr()
        assert command(lessons, "--check") == 1
        return capsys.readouterr().out

    pictures.write_text("HEIGHT = 6\nWIDTH = 10\n", encoding="utf-8")
    assert reason() == "not current: 00_curve (code that it reaches has changed)\n"  # there is no git here
    pictures.write_text("HEIGHT = 6\nWIDTH = 9\n", encoding="utf-8")
    git(lessons, "init", "--quiet", "--initial-branch=main")
    commit(lessons, "as it is")
    pictures.write_text("HEIGHT = 6\nWIDTH = 10\n", encoding="utf-8")
    assert reason() == "not current: 00_curve (changed: pictures.WIDTH)\n"
    commit(lessons, "wider")  # that the notebook is older is still known
    assert reason() == "not current: 00_curve (changed: pictures.WIDTH)\n"
    plots = lessons / "gradients_in_depth" / "plots.py"
    plots.write_text(
        "WIDTHS = [1]\ndef curve():\n    return max(WIDTHS + few())\ndef few(): ...\ndef layers(): ...\n",
        encoding="utf-8",
    )
    assert "00_curve (changed: pictures.WIDTH, plots.WIDTHS, plots.curve and 2 more)" in reason()
    git(lessons, "checkout", "--quiet", "HEAD~", "gradients_in_depth")
    git(lessons, "reset", "--quiet")
    plots.write_text(plots.read_text(encoding="utf-8").replace("HEIGHT", "WIDTH"), encoding="utf-8")
    (notebooks / "sources" / "01_alone.py").write_text("# %%\n3\n", encoding="utf-8")
    (notebooks / "00_curve.ipynb").write_text("{}", encoding="utf-8")
    write(lessons, "03_new", "# %%\n1\n")
    assert reason().splitlines() == [
        "not current: 00_curve (something else has saved it)",
        "not current: 01_alone (its source has changed)",
        "not current: 02_layers (changed: pictures.HEIGHT, pictures.WIDTH, plots.layers)",
        "not current: 03_new (it was never built)",
    ]


# --- The file of hashes ------------------------------------------------------------------------------------


def test_branches_that_build_two_lessons_do_not_conflict(lessons):
    """Neighbours in the file: git takes changed lines side by side for one change."""

    def change(name, file, old, new):
        path = lessons / file
        assert old in path.read_text(encoding="utf-8")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        built_without_the_wait(lessons, name)

    script = "notebooks/sources/01_alone.py"
    words = merge_two_branches(
        lessons,
        lambda: change("00_curve", "gradients_in_depth/pictures.py", "WIDTH = 9", "WIDTH = 10"),
        lambda: change("01_alone", script, "2", "3"),
    )
    assert "CONFLICT" not in words and "built.json" in words
    assert command(lessons, "--check") == 0


def test_branches_that_build_one_lesson_from_different_code_conflict(lessons, capsys):
    """Neither has built what the merge gives, even where both notebooks look the same."""

    def change(file, old, new):
        path = lessons / "gradients_in_depth" / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        built_without_the_wait(lessons, "00_curve")

    words = merge_two_branches(
        lessons,
        lambda: change("pictures.py", "WIDTH = 9", "WIDTH = 10"),
        lambda: change("plots.py", "return pictures.WIDTH", "return 2 * pictures.WIDTH"),
    )
    assert "CONFLICT (content): Merge conflict in notebooks/built.json" in words
    assert command(lessons, "--check") == 1  # a file with marks of a conflict says nothing
    assert "00_curve" in capsys.readouterr().out


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_many_can_write_down_what_they_have_built_at_once(tmp_path, pool):
    options = {"mp_context": multiprocessing.get_context("spawn")} if pool is ProcessPoolExecutor else {}
    hashes = {f"{number:02}": {"code": str(number)} for number in range(40)}
    for name in hashes:
        (tmp_path / f"{name}.py").touch()
    record = Record(tmp_path, tmp_path)
    with pool(4, **options) as workers:
        list(workers.map(record.enter, hashes.keys(), hashes.values()))
    assert record.hashes() == hashes
    assert not list(tmp_path.glob("*.tmp"))


def test_a_lesson_that_is_gone_is_forgotten(lessons):
    (lessons / "notebooks" / "sources" / "01_alone.py").unlink()
    built_without_the_wait(lessons, "02_layers")
    assert list(record_in(lessons / "notebooks").hashes()) == ["00_curve", "02_layers"]


@pytest.mark.parametrize("text", ["", "<<<<<<< ours\n{}", "[1, 2]", '{"00_curve": 3}', "null"])
def test_a_file_that_makes_no_sense_makes_everything_stale(lessons, text, capsys):
    (lessons / "notebooks" / "built.json").write_text(text, encoding="utf-8")
    assert command(lessons, "--check") == 1
    assert capsys.readouterr().out.count("it was never built") == 3
    built_without_the_wait(lessons, "00_curve")
    assert list(record_in(lessons / "notebooks").hashes()) == ["00_curve"]


# --- The command line --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line(course, capsys):
    write(course, "00_start", "# %%\n1\n")
    write(course, "01_chain", "# %%\n2\n")
    assert command(course, "00_start.ipynb") == 0
    assert command(course, "--check") == 1
    assert capsys.readouterr().out.endswith("not current: 01_chain (it was never built)\n")
    assert command(course, "01_chain") == 0
    assert command(course) == 0
    assert capsys.readouterr().out.endswith("All 2 notebooks are current.\n")
    assert command(course, "00_start", "--force") == 0
    assert "built" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command(course, "02_nothing")
    assert "There is no script named '02_nothing'; there are 00_start, 01_chain." in capsys.readouterr().err


@pytest.mark.slow
def test_any_script_to_any_place(course):
    """As the exercises need it: each notebook in a folder of its own."""
    script, _ = write(course, "04_initialization", "# %%\nimport os\nos.path.basename(os.getcwd())\n")
    target = course / "solutions" / "04_initialization" / "04_initialization.ipynb"
    target.parent.mkdir(parents=True)
    build(script, target)
    assert "'04_initialization'" in target.read_text(encoding="utf-8")
