"""How rows are refused: the place of the first bad one, and how many there are."""

from collections.abc import Callable

import numpy as np

from dist_mtl.errors import DataError

Where = Callable[[int], str]  # row number -> file and row


def refuse(bad: np.ndarray, where: Where, message: str) -> None:
    """Raise DataError if any row of `bad` is set; `where` names the place of the first."""
    if bad.any():
        raise DataError(f"{where(int(np.argmax(bad)))}: {message} ({int(bad.sum())} such in this read)")
