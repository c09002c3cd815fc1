r"""Ali-CCP's feature lists, `field \x02 id \x03 value` joined by \x01, parsed without a loop over rows or tokens.

The bytes are rewritten so that every token is a line of three columns, which Arrow's CSV parser then reads, with errors
by line: 110 MB/s on one core with sorting and checks, where a plain loop does 43
(`benchmarks/figures/convert_parts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_mtl.errors import DataError
from dist_mtl.tools.convert.delimited import Layout, parse, reason_of, refuse
from dist_mtl.tools.convert.join import Flat
from dist_mtl.tools.convert.lines import Block

AS_LINES = bytes.maketrans(b"\x01\x02\x03", b"\n,,")
FIELD, ID, VALUE = pa.dictionary(pa.int32(), pa.string()), pa.int32(), pa.float32()


@dataclass(frozen=True)
class Tokens:
    """The tokens of N rows over F fields, row after row, in a row field after field."""

    ids: np.ndarray  # int32
    values: np.ndarray  # float32
    counts_NF: np.ndarray  # uint32
    starts_N: np.ndarray  # int64

    def owners(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, field) of every token."""
        rows, fields = self.counts_NF.shape
        cells = np.repeat(np.arange(rows * fields), self.counts_NF.ravel())
        return cells // fields, cells % fields


@dataclass(frozen=True)
class TokenFile:
    """`Tokens` in flat files, which any process can map."""

    ids: Flat
    values: Flat
    counts: Flat
    starts: Flat

    def append(self, tokens: Tokens, before: int) -> None:
        """Write the rows that come next; `before` tokens were written."""
        self.ids.append(tokens.ids)
        self.values.append(tokens.values)
        self.counts.append(tokens.counts_NF)
        self.starts.append(tokens.starts_N + before)

    def mapped(self) -> Tokens:
        """All rows."""
        return Tokens(*(flat.mapped() for flat in (self.ids, self.values, self.counts, self.starts)))


@dataclass(frozen=True)
class Picked:
    """Some rows of `Tokens`, R of them, in any order and as often as wanted."""

    tokens: Tokens
    counts_RF: np.ndarray
    starts_RF: np.ndarray  # int64

    def lengths(self, field: int) -> np.ndarray:
        """The number of tokens of a field, row by row."""
        return self.counts_RF[:, field]

    def flat(self, field: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, values) of a field, row after row."""
        lengths = self.lengths(field).astype(np.int64)
        ends = np.cumsum(lengths)
        at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.starts_RF[:, field] - (ends - lengths), lengths)
        return self.tokens.ids[at], self.tokens.values[at]


def pick(tokens: Tokens, rows: np.ndarray) -> Picked:
    """The tokens of `rows`; a row of -1 has none."""
    if not len(tokens.starts_N):
        nothing = np.zeros((len(rows), tokens.counts_NF.shape[1]), np.int64)
        return Picked(tokens, nothing, nothing)
    known = np.maximum(rows, 0)
    counts_RF = tokens.counts_NF[known] * (rows >= 0)[:, None].astype(np.uint32)
    before_RF = np.cumsum(counts_RF, axis=1, dtype=np.int64) - counts_RF
    return Picked(tokens, counts_RF, tokens.starts_N[known][:, None] + before_RF)


def tokens_of(lists: pa.Array, fields: Sequence[str], allowed: np.ndarray, valued: bool, block: Block) -> Tokens:
    """The feature lists of a block's rows (binary, every token ended by \\x01).

    `allowed`: which of `fields` may occur (bool). Not `valued`: tokens are `field \\x02 id`, and every value is 1.
    Raises DataError with the line: a token that is not of this form, an unknown field, a value that is not finite.
    """
    text, counts = _text(lists, block)
    columns = {"field": FIELD, "id": ID} | ({"value": VALUE} if valued else {})
    layout = Layout(columns, nulls=())
    rows = np.repeat(np.arange(len(counts)), counts)
    try:
        table = parse(text.translate(AS_LINES), layout) if text else None
    except pa.ArrowInvalid as error:
        token, reason = reason_of(error, layout)
        raise DataError(f"{block.place(int(rows[token]))}: in the feature list, token {reason}") from None
    if table is None:
        empty = np.zeros((len(counts), len(fields)), np.uint32)
        return Tokens(np.zeros(0, np.int32), np.zeros(0, np.float32), empty, np.zeros(len(counts), np.int64))
    if table.num_rows != len(rows):
        raise DataError(f"{block.place(0)}: the feature list of this line, or of one after it, has an empty token")
    codes = _codes(table.column("field").combine_chunks(), fields, allowed, rows, block)
    ids = table.column("id").to_numpy()
    values = table.column("value").to_numpy() if valued else np.ones(len(ids), np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{block.place(int(rows[np.argmin(np.isfinite(values))]))}: a value that is not finite")
    cell = rows * len(fields) + codes
    if (np.diff(cell) < 0).any():
        order = np.argsort(cell, kind="stable")
        ids, values = ids[order], values[order]
    counts_NF = np.bincount(cell, minlength=len(counts) * len(fields)).reshape(-1, len(fields)).astype(np.uint32)
    return Tokens(ids, values, counts_NF, np.cumsum(counts) - counts)


def keys_of(column: pa.Array, block: Block) -> np.ndarray:
    """Keys of 16 hexadecimal digits -> uint64. Raises DataError with the line of another one."""
    offsets, data = _buffers(column)
    refuse(np.diff(offsets) != 16, block, "the common feature index is not 16 hexadecimal digits")
    digits_N16 = HEX[data[offsets[0] : offsets[-1]].reshape(-1, 16)]
    refuse((digits_N16 > 15).any(axis=1), block, "the common feature index is not 16 hexadecimal digits")
    keys = np.zeros(len(column), np.uint64)
    for place in range(16):
        keys = (keys << np.uint64(4)) | digits_N16[:, place]
    return keys


def _hex() -> np.ndarray:
    table = np.full(256, 255, np.uint8)
    for digit in range(16):
        for text in (f"{digit:x}", f"{digit:X}"):
            table[ord(text)] = digit
    return table


HEX = _hex()


def _text(lists: pa.Array, block: Block) -> tuple[bytes, np.ndarray]:
    """(all tokens, each ended by \\x01; tokens of each row)."""
    offsets, _ = _buffers(lists)
    counts = np.zeros(len(lists), np.int64)
    full = np.diff(offsets) > 1  # an empty list is a lone \x01
    offsets, data = _buffers(lists if full.all() else lists.filter(pa.array(full)))
    if not full.any():
        return b"", counts
    data, offsets = data[offsets[0] : offsets[-1]], offsets - offsets[0]
    ends = np.flatnonzero(data == 1)
    counts[full] = np.diff(np.searchsorted(ends, offsets))
    gaps = np.flatnonzero(np.diff(ends) == 1)
    if len(gaps):
        row = int(np.flatnonzero(full)[np.searchsorted(offsets, ends[gaps[0]], side="right") - 1])
        raise DataError(f"{block.place(row)}: an empty token in the feature list")
    return data.tobytes(), counts


def _buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, bytes) of a binary array."""
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return bounds, np.frombuffer(data if data is not None else b"", np.uint8)


def _codes(column: pa.Array, fields: Sequence[str], allowed: np.ndarray, rows: np.ndarray, block: Block) -> np.ndarray:
    """The place of each token's field in `fields`."""
    known = {name: place for place, name in enumerate(fields) if allowed[place]}
    names = column.dictionary.to_pylist()
    indices = column.indices.to_numpy()
    for number, name in enumerate(names):  # a few dozen
        if name not in known:
            row = int(rows[np.argmax(indices == number)])
            raise DataError(f"{block.place(row)}: field `{name[:40]}` has no place in this file of Ali-CCP")
    return np.array([known[name] for name in names])[indices]
