"""Spans of row groups -> Arrow, each row group decoded once although windows end within them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from dist_mtl.data.files.reader import Reader
from dist_mtl.data.order import Span


@dataclass
class Unfinished:
    """Reads windows in their order, and keeps the row groups of which a later window takes the rest: one a track."""

    reader: Reader
    _kept: dict[int, pa.Table] = field(default_factory=dict)  # block -> its rows from its first kept row on
    _first: dict[int, int] = field(default_factory=dict)  # block -> that row

    def read(self, spans: Sequence[Span]) -> pa.Table:
        """The rows of `spans`, one after the other. Raises DataError naming the file and the row group."""
        found = pa.concat_tables([self._rows(span) for span in spans])
        used: dict[int, int] = {}
        for span in spans:
            used[span.block] = max(used.get(span.block, 0), span.stop)
        rest = {block: stop for block, stop in used.items() if stop < self.reader.blocks[block].rows}
        # The slice lets go of the batches that lie before it.
        self._kept = {block: self._kept[block].slice(stop - self._first[block]) for block, stop in rest.items()}
        self._first = rest
        return found

    def _rows(self, span: Span) -> pa.Table:
        """A window's spans of a row group may come in any order, where two tracks meet in it."""
        if self._first.get(span.block, span.start + 1) > span.start:
            self._kept[span.block] = self.reader.read((Span(span.block, 0, self.reader.blocks[span.block].rows),))
            self._first[span.block] = 0
        return self._kept[span.block].slice(span.start - self._first[span.block], span.stop - span.start)
