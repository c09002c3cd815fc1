"""How rows are refused: the place of the first bad one, its value as it stands in the data, how many there are."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from dist_mtl.errors import DataError

LONGEST = 80  # characters of a value in a message
Where = Callable[[int], str]  # row number -> file and row


def refuse(bad: np.ndarray, where: Where, message: str) -> None:
    """Raise DataError if any row of `bad` is set; `where` names the place of the first."""
    if bad.any():
        raise DataError(f"{where(int(np.argmax(bad)))}: {message} ({int(bad.sum())} such in this read)")


def refuse_value(bad: np.ndarray, where: Where, name: str, column: pa.Array | pa.ChunkedArray, problem: str) -> None:
    """The same, with the value of the first bad row as `column` has it: NAME is VALUE, PROBLEM."""
    if bad.any():
        refuse(bad, where, f"{name} is {shown(column[int(np.argmax(bad))])}, {problem}")


def shown(value: pa.Scalar) -> str:
    """A value as it stands in the data: 1e300, 18446744073709551615, 1.5; not what a cast makes of it."""
    plain = value.as_py()
    if plain is None:
        return "null"
    if pa.types.is_float32(value.type):
        plain = np.float32(plain)  # 1e+30, where as a double it has the digits of a rounding
    text = str(plain).replace("e+", "e")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
