"""Pictures that an eye could not tell apart are the same, and no others."""

import base64
from functools import cache

import numpy as np
from matplotlib.figure import Figure
from nbformat.v4 import new_output

from gradients_in_depth import pictures
from tests.same_pictures import TOLERANCE, changed_pictures, difference


@cache
def drawn(shift: float = 0.0, *, color: int = 0, size: tuple[int, int] = (6, 3)) -> str:
    figure = Figure(figsize=size)
    ax = figure.subplots()
    x = np.linspace(0, 10, 200)
    ax.plot(x, np.sin(x) + shift, color=pictures.COLORS[color])
    ax.set(xlim=(0, 10), ylim=(-2, 2), xlabel="layer", ylabel="norm")
    return base64.b64encode(pictures.png(figure)).decode()


def test_rounding_is_no_change_of_a_picture_and_one_pixel_is():
    pixel = 4 / 230  # the axes are about 230 pixels high
    assert difference(drawn(), drawn()) == 0
    assert difference(drawn(), drawn(0.01 * pixel)) < TOLERANCE / 2
    assert difference(drawn(), drawn(pixel)) > 2 * TOLERANCE
    assert difference(drawn(), drawn(color=1)) > 2 * TOLERANCE
    assert difference(drawn(), drawn(size=(6, 4))) == np.inf


def test_a_picture_that_moved_or_is_lost_is_named():
    words = new_output("stream", text="0.333")
    stored = [words, new_output("display_data", {"image/png": drawn(), "text/plain": "Norms."})]
    moved = new_output("display_data", {"image/png": drawn(0.2), "text/plain": "Norms."})
    assert changed_pictures(stored, stored) == []
    (sentence,) = changed_pictures([words, moved], stored)
    assert sentence.startswith("Picture 1 differs from the one that is stored (rms")
    assert changed_pictures([words], stored) == ["The cell now draws 0 pictures, and 1 are stored."]
    assert changed_pictures(stored, [words]) == ["The cell now draws 1 pictures, and 0 are stored."]
