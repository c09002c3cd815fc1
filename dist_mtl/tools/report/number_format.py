"""Numbers as a reader wants them: separators, units, and no more digits than they are worth."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from dist_mtl.terminal import wording

NBSP = "\u00a0"  # a number and its unit stay on one line
MISSING = "–"


def known(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def count(x: float | None) -> str:
    """1,500,000."""
    return f"{x:,.0f}" if known(x) else MISSING


def fixed(x: float | None, digits: int = 4) -> str:
    """0.7536; a minus sign, not a hyphen."""
    return f"{x:,.{digits}f}".replace("-", "−") if known(x) else MISSING


def significant(x: float | None, digits: int = 3) -> str:
    """0.000512, 12.3, 4,120: `digits` significant ones."""
    if not known(x):
        return MISSING
    if x == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(x)))
    if places > 7:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return f"{mantissa}·10{superscript(int(exponent))}".replace("-", "−")
    return fixed(x, max(places, 0))


def superscript(n: int) -> str:
    """-4 as ⁻⁴."""
    return str(n).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent(x: float | None, digits: int = 1) -> str:
    """90.4 %, of a share."""
    return f"{fixed(100 * x, digits)}{NBSP}%" if known(x) else MISSING


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """0.7489–0.7581."""
    return f"{fixed(low, digits)}–{fixed(high, digits)}" if known(low) and known(high) else MISSING


def size(x: float | None) -> str:
    """1.6 MB; decimal units."""
    if not known(x):
        return MISSING
    value, unit = scaled_bytes(x)
    return f"{significant(x / value) if x < 1000 * value else count(x / value)}{NBSP}{unit}"


def scaled_bytes(x: float) -> tuple[float, str]:
    """The unit that `x` bytes read best in, as (bytes, name)."""
    return next(((10**n, name) for n, name in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")) if x >= 10**n), (1, "B"))


def duration(seconds: float | None) -> str:
    """120 ms, 31.8 s, 4 min 12 s, 3 h 05 min, 2 d 4 h."""
    if not known(seconds):
        return MISSING
    if seconds < 1:
        return f"{significant(1000 * seconds)}{NBSP}ms"
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    parts = [("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    first = next(i for i, (_, n) in enumerate(parts) if n)
    return " ".join(f"{n}{NBSP}{unit}" for unit, n in parts[first : first + 2] if n)


def moment(unix: float) -> str:
    """2026-11-24 10:12 UTC."""
    try:
        return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, OSError, ValueError):
        return MISSING


def plural(n: float | None, singular: str, many: str = "") -> str:
    """`wording.plural` of a figure that may be absent."""
    return wording.plural(n, singular, many) if known(n) else f"{MISSING} {many or singular + 's'}"


def listing(words: Sequence[str], most: int = 3) -> str:
    """a, b and c; beyond `most`: a, b, c and 4 more."""
    shown = list(words[:most])
    if len(words) > most:
        return f"{', '.join(shown)} and {len(words) - most} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def ranges(numbers: Sequence[int]) -> str:
    """0–3, 6: ranks in few words."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs) or MISSING
