"""What the texts of a column are, counted over all rows, and the type that follows: one that loses no value.

The counts do not depend on how the files are cut into blocks, nor on the order in which they are added up.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.tools.convert.lines import Block, Place
from dist_mtl.tools.convert.values import (
    NULLS,
    NUMBER,
    SPECIAL,
    WHOLE,
    among,
    are_canonical,
    cast,
    matches,
    places_of,
    trimmed,
)

PADDED = r"^[+-]?([0-9]+|0[xX][0-9a-fA-F]+)$"  # a whole number that does not come back as it was written, unless WHOLE
EXPONENT = r"^(-0|[+-]?[0-9]+[eE]\+?[0-9]+)$"  # 1e5: a number beside fractions, else perhaps an id
ZEROED = r"\.[0-9]+0$"
NUMBERLIKE = f"{NUMBER}|{SPECIAL}|{PADDED}"
SAFE_DIGITS = 15  # so many decimal digits always come back from a double
LONGEST = 300  # digits: what has more is beyond every type
LOOKED_AT = 500  # of the longer fractions of a block that are not the shortest text of their double
ODD = 4  # texts that are no numbers, which are kept; fewer are all named
SHOWN = 40  # characters of a value in a line


class Kind(StrEnum):
    """What a text can be. BIG, WIDE count among WHOLE; ROUNDED, POINTED, ZEROED among FRACTION."""

    EMPTY = "empty"  # nothing between two delimiters
    QUOTED = "quoted"  # ""
    BLANK = "blank"  # spaces alone: nothing in a number column, a value in a text column
    TOKEN = "token"  # NA, NULL ...: nothing in a number column, a value in a text column
    WHOLE = "whole"
    BIG = "big"  # a whole number that no double has, or a number beyond its range
    WIDE = "wide"  # beyond int64
    PADDED = "padded"
    EXPONENT = "exponent"
    FRACTION = "fraction"
    ROUNDED = "rounded"  # a double has fewer digits
    POINTED = "pointed"  # 12.0
    ZEROED = "zeroed"  # 1.10
    SPECIAL = "special"  # nan, inf
    TEXT = "text"
    MISFIT = "misfit"  # is not of the type that was asked for
    LOOSE = "loose"  # is of it, but would be written otherwise


KINDS = tuple(Kind)
CODE = {kind: code for code, kind in enumerate(KINDS)}
# The last one that fits counts.
PATTERNS = {Kind.PADDED: PADDED, Kind.WHOLE: WHOLE, Kind.EXPONENT: EXPONENT, Kind.SPECIAL: SPECIAL}
VALUES = (Kind.WHOLE, Kind.PADDED, Kind.EXPONENT, Kind.FRACTION, Kind.SPECIAL, Kind.TEXT)


@dataclass
class Evidence:
    """How many rows hold a text of each kind, and the first text with its place."""

    counts: Counter[Kind] = field(default_factory=Counter)
    firsts: dict[Kind, tuple[str, Place]] = field(default_factory=dict)
    decimals: tuple[int, ...] = ()  # of fractions, but for 12.0: the fewest and the most
    odd: tuple[str, ...] = ()  # distinct texts that are no numbers, ODD of them at most

    def note(self, kind: Kind, rows: np.ndarray, text: pa.Array, block: Block) -> None:
        """Count the rows (numbers within the block) of a kind."""
        if len(rows):
            self.counts[kind] += len(rows)
            if kind not in self.firsts:
                row = int(rows[0])
                self.firsts[kind] = ((text[row].as_py() or "")[:LONGEST], block.place(row))

    def add(self, other: "Evidence") -> None:
        """Take in what was seen of later rows."""
        self.counts += other.counts
        self.spread(*other.decimals)
        self.odd = tuple(dict.fromkeys((*self.odd, *other.odd)))[:ODD]
        self.firsts = other.firsts | self.firsts

    def spread(self, *decimals: int) -> None:
        """Take in numbers of decimals."""
        if every := (*self.decimals, *decimals):
            self.decimals = (min(every), max(every))

    def first(self, kind: Kind) -> str:
        """The first text of a kind with its place, for a line."""
        text, place = self.firsts[kind]
        return f"first {shown(text)}: {place}"

    @property
    def values(self) -> int:
        """Rows with a value, whatever it is."""
        return sum(self.counts[kind] for kind in VALUES)


def shown(text: str) -> str:
    """A value as a line shows it: in quotes, not too long, nothing that moves a cursor."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def see(evidence: Evidence, text: pa.Array, block: Block, tokens: tuple[str, ...] = NULLS) -> None:
    """Count what the texts of a block are. A null is nothing between two delimiters; '' was in quotes."""
    evidence.note(Kind.EMPTY, np.flatnonzero(text.is_null().to_numpy(zero_copy_only=False)), text, block)
    whole = cast(text, pa.int64())
    if whole is not None and are_canonical(text):
        rows = np.flatnonzero(text.is_valid().to_numpy(zero_copy_only=False))
        evidence.note(Kind.WHOLE, rows, text, block)
        numbers = whole.fill_null(0).to_numpy(zero_copy_only=False)
        if len(numbers) and (numbers.max() > 2**53 or numbers.min() < -(2**53)):
            with np.errstate(invalid="ignore"):
                evidence.note(
                    Kind.BIG, np.flatnonzero(numbers.astype(np.float64).astype(np.int64) != numbers), text, block
                )
        return
    plain = np.zeros(len(text), bool)
    numbers = cast(text, pa.float64()) if not tokens_are_numbers(tokens) else None
    if numbers is not None and pc.all(pc.is_finite(numbers)).as_py() is not False:
        plain = pc.match_substring(text, ".").fill_null(False).to_numpy(zero_copy_only=False)
        evidence.note(Kind.FRACTION, np.flatnonzero(plain), text, block)
        _see_fractions(evidence, text, numbers.fill_null(0).to_numpy(zero_copy_only=False), plain, block)
    _see_each(evidence, text, np.flatnonzero(~plain & text.is_valid().to_numpy(zero_copy_only=False)), block, tokens)


def tokens_are_numbers(tokens: tuple[str, ...]) -> bool:
    """Whether a number can stand for nothing, as -1 and -999 do in some files."""
    return bool(matches(pa.array(tokens, pa.string()), NUMBER).any())


def _see_fractions(evidence: Evidence, text: pa.Array, x: np.ndarray, chosen: np.ndarray, block: Block) -> None:
    """Count what is special about fractions whose values are at hand."""
    evidence.note(Kind.BIG, np.flatnonzero(chosen & ~np.isfinite(x)), text, block)
    chosen = chosen & np.isfinite(x)
    pointed = pc.ends_with(text, ".0").fill_null(False).to_numpy(zero_copy_only=False)
    evidence.note(Kind.POINTED, np.flatnonzero(chosen & pointed), text, block)
    lengths = pc.binary_length(text).fill_null(0).to_numpy(zero_copy_only=False)
    point = pc.find_substring(text, ".").fill_null(-1).to_numpy(zero_copy_only=False)
    if (cut := chosen & (point >= 0) & ~pointed).any():
        decimals = (lengths - point - 1)[cut]
        evidence.spread(int(decimals.min()), int(decimals.max()))
        rows = np.flatnonzero(cut & pc.ends_with(text, "0").fill_null(False).to_numpy(zero_copy_only=False))
        evidence.note(Kind.ZEROED, rows[matches(text.take(pa.array(rows)), ZEROED)], text, block)
    long = chosen & ((lengths > SAFE_DIGITS) | ((x == 0) & (lengths > 5)))  # 1e-400 is short, and 0 as a double
    if not long.any():
        return
    rows = np.flatnonzero(long)
    shortest = pa.array(x[rows]).cast(pa.string())
    rows = rows[~pc.equal(shortest, text.take(pa.array(rows))).to_numpy(zero_copy_only=False)]
    # A writer of 17 or more digits makes all of them so: then a part tells whether doubles were written.
    part = rows[:: -(-len(rows) // LOOKED_AT)] if len(rows) > LOOKED_AT else rows
    lost = [row for row in part if not comes_back(text[row].as_py(), float(x[row]))]
    if lost and len(part) < len(rows):
        lost = [row for row in rows if not comes_back(text[row].as_py(), float(x[row]))]
    evidence.note(Kind.ROUNDED, np.array(lost, np.int64), text, block)


def comes_back(text: str, x: float) -> bool:
    """Whether a double, written with as many digits, is the number in the text."""
    mantissa = re.split("[eE]", text.strip())[0]
    digits = re.sub(r"[^0-9]", "", mantissa).strip("0")
    return np.isfinite(x) and Decimal(f"{x:.{max(0, len(digits) - 1)}e}") == Decimal(text.strip())


def _see_each(evidence: Evidence, text: pa.Array, rows: np.ndarray, block: Block, tokens: tuple[str, ...]) -> None:
    """Count the texts of these rows, each distinct one looked at once."""
    coded = text.take(pa.array(rows)).dictionary_encode()
    if not len(coded):
        return
    words, places = coded.dictionary, places_of(coded)
    kinds = _kinds(words, tokens)
    if len(evidence.odd) < ODD and (odd := np.flatnonzero(kinds == CODE[Kind.TEXT])[:ODD]).size:
        texts = trimmed(words.take(pa.array(odd))).to_pylist()
        evidence.odd = tuple(dict.fromkeys((*evidence.odd, *(word[:LONGEST] for word in texts))))[:ODD]
    for kind in np.unique(kinds):
        evidence.note(KINDS[kind], rows[(kinds == kind)[places]], text, block)
    far = (kinds == CODE[Kind.WHOLE]) & (pc.binary_length(words).to_numpy(zero_copy_only=False) > SAFE_DIGITS)
    if far.any():
        wide, big = np.zeros(len(words), bool), np.zeros(len(words), bool)
        for i in np.flatnonzero(far):
            word = words[int(i)].as_py().strip()
            number = int(word) if len(word) < LONGEST else None
            wide[i] = number is None or not -(2**63) <= number < 2**63
            big[i] = number is None or int(float(number)) != number
        evidence.note(Kind.WIDE, rows[wide[places]], text, block)
        evidence.note(Kind.BIG, rows[big[places]], text, block)
    if (fraction := np.isin(kinds, (CODE[Kind.FRACTION], CODE[Kind.EXPONENT]))[places]).any():
        chosen, numbers = np.zeros(len(text), bool), np.zeros(len(text))
        chosen[rows[fraction]] = True
        numbers[chosen] = trimmed(text.filter(pa.array(chosen))).cast(pa.float64()).to_numpy(zero_copy_only=False)
        _see_fractions(evidence, text, numbers, chosen, block)


def _kinds(words: pa.Array, tokens: tuple[str, ...]) -> np.ndarray:
    """The kind of each text, as its place in KINDS."""
    bare = trimmed(words)
    kinds = np.full(len(words), CODE[Kind.TEXT], np.int8)
    if (like := matches(bare, NUMBERLIKE)).any():
        kinds[like] = CODE[Kind.FRACTION]
        for kind, pattern in PATTERNS.items():
            kinds[matches(bare, pattern)] = CODE[kind]
    kinds[among(words, tokens)] = CODE[Kind.TOKEN]
    kinds[among(words, ("",))] = CODE[Kind.BLANK]
    kinds[pc.equal(words, "").to_numpy(zero_copy_only=False)] = CODE[Kind.QUOTED]
    return kinds


def type_of(evidence: Evidence) -> pa.DataType:
    """int64, double or text: the first that holds every value as it is."""
    n = evidence.counts
    if not evidence.values or n[Kind.TEXT] or n[Kind.PADDED]:
        return pa.string()
    if not n[Kind.FRACTION] and not n[Kind.SPECIAL]:
        return pa.string() if n[Kind.WIDE] or n[Kind.EXPONENT] else pa.int64()
    return pa.string() if n[Kind.BIG] else pa.float64()
