"""Texts of a column -> values of an Arrow type, exactly: a text that does not fit is reported, never guessed.

Spaces around a number, a date or a null token do not count; in a text column they are a part of the value.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NULLS = ("", "NULL", "null", "NA", "N/A", "NaN", "nan", "None", "\\N")  # of a number column, and of labels
WHOLE = r"^(0|-?[1-9][0-9]*)$"  # the one way to write a whole number that comes back from it as it was
LOOSE = r"^\+?(-?)0*([0-9]+)(?:\.0*)?$"  # a whole number with zeros, a plus sign or a point around it
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
SPECIAL = r"^[+-]?(?i:nan|inf|infinity)$"
PROBED = 50  # texts that are tried before all are
DATE = r"^[0-9]{4}-"  # Arrow takes other texts for dates, too


@dataclass(frozen=True)
class Target:
    """What the texts of a column become. `nulls`: the texts that stand for nothing.

    `separator`: of the values in a text; the column is then a list, and `kind` its elements' type. Not `exact`: a whole
    number may also be written as '007', '+7' or '7.0'.
    """

    kind: pa.DataType
    nulls: tuple[str, ...] = ("",)
    separator: str = ""
    exact: bool = True

    @property
    def type(self) -> pa.DataType:
        """Of the column."""
        return pa.list_(self.kind) if self.separator else self.kind


def typed(text: pa.Array, target: Target) -> tuple[pa.Array, np.ndarray | None]:
    """(values, which of the texts do not fit; None: all do). What does not fit is null among the values."""
    if target.separator:
        return _lists(text, target)
    if _is_text(target.kind):
        return _without(text, target.nulls).cast(target.kind), None
    if any(matches(pa.array([n]), NUMBER)[0] for n in target.nulls):
        text = _without(text, target.nulls)
    if (values := _at_once(text, target.kind)) is not None:
        return values, None
    coded = text.dictionary_encode()
    values, bad = _one_by_one(trimmed(coded.dictionary), target)
    return values.take(coded.indices), (np.append(bad, False)[places_of(coded)] if bad.any() else None)


def cast(text: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Arrow's cast; None: it refuses a text. A text that fails takes it twenty times as long: try few of them first."""
    try:
        if len(text) > PROBED:
            text[:PROBED].cast(kind)
        return text.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def are_canonical(text: pa.Array) -> bool:
    """Whether texts that Arrow reads as whole numbers are written as Arrow would: no 007, no 0x7, no -0."""
    _, offsets, data = text.buffers()
    if data is None or not data.size:
        return not len(text) or text.null_count == len(text)
    bounds = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    starts, lengths = bounds[:-1], np.diff(bounds)
    letters = np.frombuffer(data, np.uint8)
    last = len(letters) - 1  # where an empty text at the end would begin behind it
    zero, minus = ord("0"), ord("-")
    first = letters[np.minimum(starts, last)]
    if (first == zero).any() and ((first == zero) & (lengths > 1)).any():
        return False
    negative = np.flatnonzero((first == minus) & (lengths > 1))
    return not (letters[starts[negative] + 1] == zero).any()


def places_of(coded: pa.DictionaryArray) -> np.ndarray:
    """Where each row's value is in the dictionary; -1: it has none."""
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def trimmed(text: pa.Array) -> pa.Array:
    """Without the spaces around it."""
    return pc.utf8_trim_whitespace(text)


def matches(text: pa.Array, pattern: str) -> np.ndarray:
    """Which of the texts fit a pattern; a null does not."""
    return pc.match_substring_regex(text, pattern).fill_null(False).to_numpy(zero_copy_only=False)


def among(text: pa.Array, words: tuple[str, ...]) -> np.ndarray:
    """Which of the texts are one of the words, spaces around them aside."""
    return pc.is_in(trimmed(text), pa.array(words, pa.string())).to_numpy(zero_copy_only=False)


def can_hold(kind: pa.DataType) -> bool:
    """Whether a text can become a value of this type."""
    kinds = pa.types
    return kinds.is_primitive(kind) or _is_text(kind) or kinds.is_fixed_size_binary(kind) or kinds.is_decimal(kind)


def _is_text(kind: pa.DataType) -> bool:
    kinds = pa.types
    texts = kinds.is_string(kind) or kinds.is_large_string(kind)
    return texts or kinds.is_binary(kind) or kinds.is_large_binary(kind)


def _without(text: pa.Array, nulls: tuple[str, ...]) -> pa.Array:
    """Null where a text stands for nothing. Of spaces alone, a text column keeps them."""
    if nulls == ("",):
        gone = pc.equal(text, "")
    else:
        gone = pa.array(
            among(text, nulls) & (matches(text, r"\S") | pc.equal(text, "").fill_null(False).to_numpy(False))
        )
    return pc.if_else(gone, pa.scalar(None, text.type), text) if pc.any(gone).as_py() else text


def _lists(text: pa.Array, target: Target) -> tuple[pa.Array, np.ndarray | None]:
    """Nothing between two separators is no value, a null an empty list."""
    parts = pc.split_pattern(pc.fill_null(_without(text, target.nulls), ""), target.separator)
    words, lengths = parts.flatten(), pc.list_value_length(parts).to_numpy()
    there = pc.not_equal(words, "").to_numpy(zero_copy_only=False)
    before = np.append(0, np.cumsum(there))  # values among the first so many parts
    offsets = before[np.append(0, np.cumsum(lengths))].astype(np.int32)
    values, bad = typed(words.filter(pa.array(there)), Target(target.kind, (), exact=target.exact))
    if bad is not None:
        bad = np.diff(np.append(0, np.cumsum(bad))[offsets]) > 0
    return pa.ListArray.from_arrays(pa.array(offsets), values), bad


def _at_once(text: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The values, if every text has the plain form that Arrow reads and that comes back; else None."""
    if (values := cast(text, kind)) is None:
        return None
    if pa.types.is_integer(kind):
        return values if are_canonical(text) else None
    if pa.types.is_floating(kind):  # Arrow reads 1e400 and nan(x), too
        return values if pc.all(pc.is_finite(values)).as_py() is not False else None
    return values if pa.types.is_boolean(kind) else None


def _one_by_one(words: pa.Array, target: Target) -> tuple[pa.Array, np.ndarray]:
    """The same of distinct texts without spaces around them, whatever they are."""
    kind = target.kind
    gone = among(words, (*target.nulls, "") if target.nulls else ())
    fits, parse = ~gone, _parser(kind)
    if pa.types.is_integer(kind) or pa.types.is_duration(kind):
        fits &= matches(words, WHOLE if target.exact else LOOSE)
        words = words if target.exact else pc.replace_substring_regex(words, LOOSE, r"\1\2")
    elif pa.types.is_floating(kind):
        special = matches(words, SPECIAL)
        fits &= special | matches(words, NUMBER)
    elif pa.types.is_decimal(kind):
        fits &= matches(words, NUMBER)
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        fits &= matches(words, DATE)
    elif pa.types.is_boolean(kind):
        words = pc.utf8_lower(words)
    values = _halved(pc.if_else(pa.array(fits), words, pa.scalar(None, words.type)), kind, parse)
    if pa.types.is_floating(kind):
        beyond = pa.array(values.to_numpy(zero_copy_only=False).astype(np.float64))
        beyond = pc.is_inf(beyond).to_numpy(zero_copy_only=False) & ~special
        values = pc.if_else(pa.array(beyond), pa.scalar(None, kind), values)
    return values, values.is_null().to_numpy(zero_copy_only=False) & ~gone


def _parser(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """How texts become values of this type: Arrow's cast, but for types to which it has none."""
    if pa.types.is_null(kind):
        return lambda words: pa.nulls(len(words))
    if pa.types.is_time(kind):
        stamp = pa.timestamp(kind.unit)
        return lambda words: pc.binary_join_element_wise("1970-01-01", words, " ").cast(stamp).cast(kind)
    if pa.types.is_duration(kind):
        return lambda words: words.cast(pa.int64()).cast(kind)
    return lambda words: words.cast(kind)


def _halved(words: pa.Array, kind: pa.DataType, parse: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Null where a text is not of the type: Arrow refuses an array as a whole, so it is halved to find the bad ones."""
    try:
        return parse(words)
    except pa.ArrowInvalid:
        if len(words) == 1:
            return pa.nulls(1, kind)
    half = len(words) // 2
    return pa.concat_arrays([_halved(part, kind, parse) for part in (words[:half], words[half:])])


def labels_of(text: pa.Array, positive: str | None, nulls: tuple[str, ...]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """A label's texts as (int8, which are neither 0 nor 1, which are empty). `positive`: the text that stands for 1."""
    if positive is None:
        try:
            values = text.cast(pa.int8())
            if not text.null_count and pc.all(pc.less_equal(values.view(pa.uint8()), 1)).as_py() is not False:
                none = np.zeros(len(text), bool)
                return values, none, none
        except pa.ArrowInvalid:
            pass
    coded = text.dictionary_encode()
    bare = trimmed(coded.dictionary)
    empty = np.append(among(bare, tuple(word for word in nulls if word != positive)), True)
    if positive is not None:
        numbers = np.array([word == positive for word in bare.to_pylist()] + [False], np.int8)
        bad = np.zeros(len(numbers), bool)
    else:
        spelt = {"true": "1", "false": "0"}
        words = pa.array([spelt.get(word.lower(), word) for word in bare.to_pylist()], pa.string())
        values, _ = _one_by_one(words, Target(pa.float64(), nulls))
        values = np.append(values.fill_null(-1).to_numpy(zero_copy_only=False), -1)
        bad = (values != 0) & (values != 1) & ~empty
        numbers = (values == 1).astype(np.int8)
    places = places_of(coded)
    return pa.array(numbers[places]), bad[places], empty[places]
