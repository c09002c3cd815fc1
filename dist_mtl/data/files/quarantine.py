"""Quarantine: damaged row groups that training may skip. Off by default, with a budget over the whole run.

The rows of such a row group become padding (weight 0), in every step that would train them. What is damaged shows when
it is read; the ranks tell each other at the start of a window, and a commit keeps it, so that a resumed run skips the
same rows, even where the file was restored meanwhile. The set and the rows do not depend on the world size as long as
every rank reads the same bytes: damage that one machine alone sees (in its memory, its cache) takes out of the first
epoch what that machine's ranks would have trained.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from dist_mtl.data.order import EMPTY, Segment, Span
from dist_mtl.errors import DamageError, DataError
from dist_mtl.terminal.wording import plural


@dataclass(frozen=True)
class Lost:
    """A row group that is skipped, and what was found wrong with it."""

    path: str
    row_group: int
    rows: int
    reason: str = field(default="", compare=False)

    @property
    def place(self) -> tuple[str, int]:
        """Its identity: file and row group."""
        return self.path, self.row_group


def salvage(
    read: Callable[[Sequence[Span]], pa.Table], spans: Sequence[Span], lost: dict[int, str]
) -> tuple[tuple[Span, ...], pa.Table | None]:
    """The spans that can be read, and their rows (None: not one). What turns out damaged joins `lost` (block -> why).

    Raises DataError for whatever is no damage of a row group: a file that has gone, a storage that does not answer.
    """
    while sound := tuple(span for span in spans if span.block not in lost):
        try:
            return sound, read(sound)
        except DamageError as damage:
            lost[damage.block] = str(damage)
    return (), None


def without(segment: Segment, sound: tuple[Span, ...]) -> tuple[Segment, np.ndarray]:
    """The segment with `sound` alone of its spans; picks of the others are EMPTY. How many those are at each step."""
    if len(sound) == len(segment.spans):
        return segment, np.zeros(len(segment.picks), np.int64)
    kept, sizes = set(sound), [span.stop - span.start for span in segment.spans]
    kept_N = np.repeat([span in kept for span in segment.spans], sizes)
    place_N = np.where(kept_N, np.cumsum(kept_N) - 1, EMPTY)
    picks = np.where(segment.picks == EMPTY, EMPTY, place_N[segment.picks])
    gone = (segment.picks != EMPTY) & (picks == EMPTY)
    return replace(segment, spans=sound, picks=picks), gone.sum(axis=1)


def merged(found: Iterable[Sequence[Lost]], known: Sequence[Lost]) -> tuple[Lost, ...]:
    """What the ranks found, each once and in one order, without what is known."""
    places = {one.place for one in known}
    new = {one.place: one for part in reversed(list(found)) for one in part if one.place not in places}
    return tuple(new[place] for place in sorted(new))


def check_budget(lost: Sequence[Lost], budget: int) -> None:
    """Raise DataError if more row groups are skipped than the run may do without."""
    if len(lost) > budget:
        rows, last = sum(one.rows for one in lost), lost[-1]
        raise DataError(
            f"data.quarantine = {budget}: {plural(len(lost), 'row group')} ({plural(rows, 'row')}) are "
            "damaged, the last one is row "
            f"group {last.row_group} of {last.path}; restore the files and start again, or raise data.quarantine to "
            f"go on without these rows\n{last.reason}"
        )
