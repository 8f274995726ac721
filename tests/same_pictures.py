"""Whether a notebook that was run again shows the same pictures; conftest.py gives it to nbval.

Strict nbval compares what outputs say, and no image. PNG bytes differ between processors in nothing that an
eye could see, so pictures are compared in tiles of 32 × 32 pixels, by the root mean square of the difference
(0 to 255) in the worst tile: over a whole picture, the mean hides a curve that moved. Rounding in another
processor moves a line by a small part of a pixel; tests/test_same_pictures.py shows that this stays far under
the tolerance, and that a curve moved by one pixel, or drawn in another colour, is far beyond it.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from nbformat import NotebookNode
from PIL import Image

TILE, TOLERANCE = 32, 10.0


def difference(one: str, other: str) -> float:
    """The root mean square difference of two PNGs (in base64) in their worst tile; inf for two sizes."""
    images = [Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in (one, other)]
    if images[0].size != images[1].size:
        return np.inf
    squares = np.subtract(*(np.asarray(image, dtype=float) for image in images)) ** 2
    squares = squares.mean(axis=2)
    height, width = (-(-size // TILE) for size in squares.shape)
    padded = np.zeros((height * TILE, width * TILE))
    padded[: squares.shape[0], : squares.shape[1]] = squares
    return float(np.sqrt(padded.reshape(height, TILE, width, TILE).mean(axis=(1, 3)).max()))


def changed_pictures(now: Sequence[NotebookNode], stored: Sequence[NotebookNode]) -> list[str]:
    """A sentence for each picture among a cell's outputs that is not the one that is stored."""
    pngs, before = (
        [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
        for outputs in (now, stored)
    )
    if len(pngs) != len(before):
        return [f"The cell now draws {len(pngs)} pictures, and {len(before)} are stored."]
    found = [difference(*pair) for pair in zip(pngs, before, strict=True)]
    return [
        f"Picture {number} differs from the one that is stored (rms {rms:.0f})."
        for number, rms in enumerate(found, 1)
        if rms > TOLERANCE
    ]
