"""Words for messages: the nearest known name to a misspelt one, and counts."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the nearest of `known`, or an empty string when none is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean `{match[0]}`?" if match else ""


def plural(n: float, singular: str, many: str = "") -> str:
    """1 step, 1,500 steps."""
    return f"{n:,.0f} {singular if n == 1 else many or singular + 's'}"
