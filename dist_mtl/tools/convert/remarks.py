"""What a user should know of the columns of a CSV: values that are not kept, or not as they might be meant."""

import shlex

import pyarrow as pa

from dist_mtl.tools.convert.evidence import ODD, SHOWN, Evidence, Kind, shown, type_of

MOSTLY = 0.5  # a text column of which so many values are numbers is spoken of


def remarks_of(name: str, evidence: Evidence, nulls: tuple[str, ...]) -> list[str]:
    """What a user should know of a column whose type was decided: its values as they are kept, and the other choice."""
    n, kind, quoted = evidence.counts, type_of(evidence), shlex.quote(name)
    lines = []
    if kind == pa.string():
        lines += _why_text(name, quoted, evidence)
        lines += kept_token(name, evidence, nulls)
    elif n[Kind.POINTED] == n[Kind.FRACTION] and n[Kind.FRACTION] and not n[Kind.SPECIAL]:
        lines.append(
            f"`{name}`: a number, though all its values are whole ({evidence.first(Kind.POINTED)}); "
            f"--type {quoted}=int64 reads them as ids"
        )
    if kind == pa.float64() and not n[Kind.FRACTION]:
        lines.append(
            f"`{name}`: numbers with a fraction, not whole ones: {rows_of(n[Kind.SPECIAL])} no number "
            f"({evidence.first(Kind.SPECIAL)}); {as_null(evidence.firsts[Kind.SPECIAL][0])} makes it missing"
        )
    if kind == pa.float64() and n[Kind.ZEROED] and len(set(evidence.decimals)) > 1:
        lines.append(
            f"`{name}`: {rows_of(n[Kind.ZEROED])} a number such as 1.10, others have fewer decimals; 1.10 and 1.1 are "
            f"then one value ({evidence.first(Kind.ZEROED)}); --id {quoted} keeps them apart"
        )
    if kind == pa.float64() and n[Kind.ROUNDED]:
        lines.append(rounded(name, evidence))
    if n[Kind.QUOTED] and n[Kind.EMPTY]:
        lines.append(
            f'`{name}`: {rows_of(n[Kind.QUOTED])} "" and {n[Kind.EMPTY]:,} nothing at all; both are read as missing'
        )
    return lines


def kept_token(name: str, evidence: Evidence, nulls: tuple[str, ...]) -> list[str]:
    """The line about texts that would be nothing in a number column, and are values here."""
    if not evidence.counts[Kind.TOKEN] or (token := evidence.firsts[Kind.TOKEN][0].strip()) in nulls:
        return []
    return [
        f"`{name}`: {rows_of(evidence.counts[Kind.TOKEN])} a text such as {shown(token)}, kept as a value "
        f"({evidence.first(Kind.TOKEN)}); {as_null(token)} reads it as missing"
    ]


def rounded(name: str, evidence: Evidence) -> str:
    """The line about numbers that a double does not hold."""
    kind = Kind.ROUNDED if evidence.counts[Kind.ROUNDED] else Kind.BIG
    return (
        f"`{name}`: {rows_of(evidence.counts[kind])} more digits than a double holds, and are rounded "
        f"({evidence.first(kind)}); --type {shlex.quote(name)}=string keeps them"
    )


def rows_of(count: int) -> str:
    """`1 row holds`, `2 rows hold`."""
    return f"{count:,} row{' holds' if count == 1 else 's hold'}"


def _why_text(name: str, quoted: str, evidence: Evidence) -> list[str]:
    """Why a column is text whose values look like numbers."""
    n, values = evidence.counts, evidence.values
    if n[Kind.TEXT]:
        several = len(evidence.odd) > 1
        if (n[Kind.TEXT] > MOSTLY * values and several) or n[Kind.TEXT] == values or (n[Kind.PADDED] and several):
            return []  # ids, such as post codes
        tokens = " ".join(as_null(token) for token in evidence.odd) if len(evidence.odd) < ODD else "--null=TOKEN"
        them = "it" if len(evidence.odd) == 1 else "them"
        return [
            f"`{name}`: text, though {values - n[Kind.TEXT]:,} of {values:,} values are numbers: "
            f"{rows_of(n[Kind.TEXT])} no number ({evidence.first(Kind.TEXT)}); {tokens} reads {them} as "
            f"missing, --type {quoted}=double refuses {them} by the line, --id {quoted} says that text is meant"
        ]
    reasons = (
        (Kind.PADDED, "a number that would not come back as it is written", "int64"),
        (Kind.WIDE, "a whole number beyond int64, which a double would merge with others", "double"),
        (Kind.BIG, "a number that a double would merge with others", "double"),
        (Kind.EXPONENT, "what may be a number or an id", "double"),
    )
    for kind, what, other in reasons:
        if n[kind]:
            if kind == Kind.WIDE and _fits_uint64(evidence):
                other = "uint64"
            return [
                f"`{name}`: text, not numbers: {rows_of(n[kind])} {what} ({evidence.first(kind)}); "
                f"--type {quoted}={other} reads numbers"
            ]
    return []


def _fits_uint64(evidence: Evidence) -> bool:
    return int(evidence.firsts[Kind.WIDE][0][:400]) > 0


def as_null(token: str) -> str:
    """The option that makes a text stand for nothing."""
    return f"--null={shlex.quote(token.strip())}" if len(token) <= SHOWN and token.isprintable() else "--null=TOKEN"
