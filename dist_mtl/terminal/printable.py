"""Text of others as it may be shown: names of columns, files and runs, values of slices, messages of libraries."""

from __future__ import annotations

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # controls, formats (bidi, zero width), surrogates, private use, lines
# Letters and marks by their category, and yet without a glyph. (U+FE00 to U+FE0F stay: they are part of emoji.)
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")


def printable(text: str, keep: str = "") -> str:
    """`text` with each character that moves the cursor, turns the direction or hides as an escape: `\\x1b`, `\\u202e`.

    `keep`: characters that stay, such as the newline in text that we wrote ourselves. Applied twice it is the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _is_hidden(c) else ascii(c)[1:-1] for c in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN or character in INVISIBLE
