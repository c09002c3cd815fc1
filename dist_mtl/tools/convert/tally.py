"""What a conversion did to the rows that it read: nothing is dropped, mended or left without its partner uncounted."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from dist_mtl.tools.convert.lines import Block, Place


@dataclass
class Tally:
    """Counts of one segment, or of several added up in their order.

    `notes`: a sentence -> (how many rows it is true of, where first).
    """

    read: int = 0
    written: Counter[str] = field(default_factory=Counter)  # rows of each dataset
    notes: dict[str, tuple[int, Place]] = field(default_factory=dict)

    def note(self, sentence: str, rows: np.ndarray, block: Block) -> None:
        """Count the rows of a block where the mask `rows` is set, and keep the first one's place."""
        if rows.any():
            known = self.notes[sentence][1] if sentence in self.notes else block.place(int(np.argmax(rows)))
            self.note_at(sentence, int(rows.sum()), known)

    def note_at(self, sentence: str, count: int, place: Place) -> None:
        """Count `count` rows, of which the first stands at `place`."""
        before, first = self.notes.get(sentence, (0, place))
        self.notes[sentence] = (before + count, first)

    def add(self, other: "Tally") -> None:
        """Take in what was counted of later rows."""
        self.read += other.read
        self.written += other.written
        for sentence, (count, place) in other.notes.items():
            self.note_at(sentence, count, place)

    def told(self) -> list[str]:
        """Lines for the user: what became of the rows."""
        parts = ", ".join(f"{rows:,} {name}" for name, rows in self.written.items())
        return [
            f"{self.read:,} rows read: {parts}",
            *(f"{count:,} {sentence} (first: {place})" for sentence, (count, place) in self.notes.items()),
        ]
