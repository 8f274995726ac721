"""The progress bar of what takes seconds; it leaves no trace in a cell."""

import os
from collections.abc import Iterable

from tqdm.auto import tqdm


def progress_bar(iterable: Iterable, description: str, unit: str, total: int | None = None) -> tqdm:
    """`iterable`, with a bar that counts its `total` items in `unit`s; TQDM_DISABLE turns the bar off."""
    # The notebook's bar does not read TQDM_DISABLE, as the terminal's does.
    quiet = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(iterable, total=total, desc=description, unit=unit, leave=False, disable=quiet)
