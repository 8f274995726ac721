"""The builder, on small scripts and a package of their own."""

import json
import os
import re

import nbformat
import pytest

from tools.lessons import BuildError, build, build_all, fingerprint, is_current, main, pairs_of, read

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
    """A folder of notebooks, and a package of two modules of which the lessons import one."""
    package = tmp_path / "gradients_in_depth"
    sources = tmp_path / "notebooks" / "sources"
    package.mkdir()
    sources.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "pictures.py").write_text("WIDTH = 9\n")
    (package / "plots.py").write_text("from gradients_in_depth import pictures\n")
    (package / "training.py").write_text("import math\n")
    (package / "slider.js").write_text("export default {};\n")
    return tmp_path


def write(course, name, text):
    script = course / "notebooks" / "sources" / f"{name}.py"
    script.write_text(text, encoding="utf-8")
    return script, course / "notebooks" / f"{name}.ipynb"


def command(course, *arguments):
    return main(arguments, course / "notebooks", course / "gradients_in_depth")


def failure(course, text):
    with pytest.raises(BuildError) as caught:
        build(*write(course, "02_sigmoid", text), course / "gradients_in_depth")
    assert not list((course / "notebooks").glob("*.ipynb*")), "a notebook that failed was stored"
    return str(caught.value)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A lesson with one of everything, built twice: (notebook, bytes of the first build, of the second)."""
    folder = tmp_path_factory.mktemp("rich")
    (script := folder / "rich.py").write_text(RICH)
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
    assert set(notebook.metadata) == {"kernelspec", "language_info", "gradients_in_depth"}
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
    (script := tmp_path / "rich.py").write_text(RICH.replace("# %%\n1 + 1", "# %%\n2 + 2\n\n# %%\n1 + 1"))
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
    build(*write(course, "picture", f"# %%\n{picture}\n"), course / "gradients_in_depth")


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
    said = capsys.readouterr()
    assert (course / "notebooks" / "01_bad.ipynb").read_bytes() == good
    assert '"10"' in (course / "notebooks" / "00_good.ipynb").read_text()
    assert re.search(r"built +00_good \(1 cells, \d+ s\)", said.out)
    assert "01_bad, cell 2 (line 5 of sources/01_bad.py): ZeroDivisionError" in said.err
    assert sorted(path.name for path in (course / "notebooks").iterdir()) == [
        "00_good.ipynb",
        "01_bad.ipynb",
        "sources",
    ]


def test_only_what_changed_is_built(course, capsys):
    write(course, "00_plots", "# %%\nfrom gradients_in_depth.plots import pictures as p\n")
    write(course, "01_alone", "# %%\n2\n")
    write(course, "02_math", "# %%\nimport gradients_in_depth.training\n")
    lessons = pairs_of(course / "notebooks" / "sources", course / "notebooks")
    for script, target in lessons:  # as the builder stores them, without the wait
        built = {"gradients_in_depth": {"built_from": fingerprint(script, course / "gradients_in_depth")}}
        target.write_text(json.dumps({"metadata": METADATA | built}))

    def stale():
        capsys.readouterr()
        code = command(course, "--check")
        names = re.findall(r"not current: (\w+)", capsys.readouterr().out)
        assert code == (1 if names else 0)
        return names

    def changed(path, text):
        path.write_text(text, newline="")

    package = course / "gradients_in_depth"
    assert stale() == []
    os.utime(package / "pictures.py")
    os.utime(lessons[0][0])
    assert stale() == []
    changed(package / "pictures.py", "WIDTH = 9\r\n")  # what git does on Windows
    assert stale() == []
    changed(package / "pictures.py", "WIDTH = 10\n")  # imported by what the lesson imports
    assert stale() == ["00_plots"]
    changed(package / "pictures.py", "WIDTH = 9\n")
    assert stale() == []
    changed(package / "training.py", "import cmath\n")
    assert stale() == ["02_math"]
    changed(package / "slider.js", "export default { render };\n")
    assert stale() == ["00_plots", "02_math"]
    changed(package / "__init__.py", "1\n")
    changed(lessons[1][0], "# %%\n3\n")
    assert stale() == ["00_plots", "01_alone", "02_math"]


METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@pytest.mark.slow
def test_a_notebook_saved_by_hand_is_not_current(course):
    script, target = write(course, "00_start", "# %%\n1\n")
    assert not is_current(script, target, course / "gradients_in_depth")
    build(script, target, course / "gradients_in_depth")
    assert is_current(script, target, course / "gradients_in_depth")
    notebook = json.loads(target.read_text())
    notebook["metadata"]["language_info"]["version"] = "3.11.2"
    target.write_text(json.dumps(notebook))
    assert not is_current(script, target, course / "gradients_in_depth")
    target.write_text("{ not a notebook")
    assert not is_current(script, target, course / "gradients_in_depth")


@pytest.mark.slow
def test_the_command_line(course, capsys):
    write(course, "00_start", "# %%\n1\n")
    write(course, "01_chain", "# %%\n2\n")
    assert command(course, "00_start.ipynb") == 0
    assert command(course, "--check") == 1
    assert capsys.readouterr().out.endswith("not current: 01_chain\n")
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
    assert build_all([(script, target)], course / "gradients_in_depth") == []
    assert "'04_initialization'" in target.read_text()
