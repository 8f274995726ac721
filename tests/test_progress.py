"""The progress bar: there while it computes, and gone afterwards."""

import pytest
import tqdm.notebook

from gradients_in_depth import progress
from gradients_in_depth.training import train
from tests.training_tools import gaussian_data, small_network


def test_the_bar_is_there_and_leaves_no_line(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE")
    train(small_network(), gaussian_data(), learning_rate=0.1, epochs=2)
    shown = capsys.readouterr()
    assert "training:" in shown.err
    assert "epoch/s" in shown.err
    assert shown.err.rsplit("\r", 2)[-2].strip() == ""  # wiped at the end
    assert shown.out == ""


def test_tqdm_disable_silences_the_terminal(capsys):
    train(small_network(), gaussian_data(), learning_rate=0.1, epochs=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("value", "shown"), [(None, 1), ("", 1), ("0", 1), ("1", 0)])
def test_tqdm_disable_silences_the_notebook(value, shown, monkeypatch):
    """The notebook's bar does not read the variable by itself."""
    displayed = []
    monkeypatch.setattr(tqdm.notebook, "display", displayed.append)
    monkeypatch.setattr(progress, "tqdm", tqdm.notebook.tqdm)
    if value is None:
        monkeypatch.delenv("TQDM_DISABLE")
    else:
        monkeypatch.setenv("TQDM_DISABLE", value)
    train(small_network(), gaussian_data(), learning_rate=0.1, epochs=2)
    assert len(displayed) == shown


def test_a_training_without_progress_shows_none(monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    train(small_network(), gaussian_data(), learning_rate=0.1, epochs=2, progress=False)
    assert capsys.readouterr().err == ""
