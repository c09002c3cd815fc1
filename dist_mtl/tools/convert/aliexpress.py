"""AliExpress searching system (Tianchi 74690): one country, raw pair or processed CSV -> OUT/train and OUT/test.

Raw: `{cc}_user_{train,test}.csv`, one line per result page, and `{cc}_item_{train,test}.csv`, one line per shown item;
no header, joined on column 1. Processed: `train.csv` and `test.csv` with the 82 columns that the public benchmarks use,
in which `search_id` is the page: a group for metrics (GAUC), never a feature. Both give these 82 columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.errors import DataError
from dist_mtl.tools.convert.delimited import Layout, binary, refuse, table_of
from dist_mtl.tools.convert.join import Flat, Lookup
from dist_mtl.tools.convert.lines import COMPRESSED, Block, Place, Segment, blocks, first_line, segments
from dist_mtl.tools.convert.parts import Conversion, OnProgress, Report
from dist_mtl.tools.convert.split import TEST, TRAIN, Shares, entities
from dist_mtl.tools.convert.tally import Tally

USER_WIDTH, ITEM_WIDTH = 33, 49
# Columns, counted from 1, in the order in which NoahRSChallenge's `process_aliexpress.py` makes categorical_1 ... 16
# and numerical_1 ... 63 of them: those of the page first, then those of the item.
USER_IDS = (*range(2, 9), 32, 33)
USER_NUMBERS = tuple(range(9, 32))
ITEM_IDS = (19, 34, 35, 36, 40, 41, 42)
ITEM_NUMBERS = tuple(c for c in range(2, ITEM_WIDTH) if c not in ITEM_IDS)
IDS = tuple(f"categorical_{i}" for i in range(1, 17))
NUMBERS = tuple(f"numerical_{i}" for i in range(1, 64))
COLUMNS = ("search_id", *IDS, *NUMBERS, "click", "conversion")
NO_ID = -(2**31)  # stands for an empty categorical in the flat file
ADVICE = "`{column}` is not what the public files hold there; check that this is the file"
WITHOUT_PAGE = "item lines without a line for their page in the user file: dropped, as the published conversion does"
BROKEN = "rows have a conversion without a click; kept, data.violations decides"
REPEATED = "user lines for a page that had one before: left aside, its first line counts"

ID, NUMBER, KEY = pa.int32(), pa.float32(), pa.int64()
USER = Layout(
    {f"user_{c}": KEY if c == 1 else ID if c in USER_IDS else NUMBER for c in range(1, USER_WIDTH + 1)}, advice=ADVICE
)
ITEM = Layout(
    {
        f"item_{c}": KEY if c == 1 else pa.int8() if c == ITEM_WIDTH else ID if c in ITEM_IDS else NUMBER
        for c in range(1, ITEM_WIDTH + 1)
    },
    advice=ADVICE,
)
PROCESSED = Layout(
    {"search_id": KEY}
    | dict.fromkeys(IDS, ID)
    | dict.fromkeys(NUMBERS, NUMBER)
    | {"click": pa.int8(), "conversion": pa.int8()},
    advice=ADVICE,
)


@dataclass(frozen=True)
class Source:
    """The files of one country: split -> (user file, item file), or split -> (processed file,)."""

    splits: dict[str, tuple[Path, ...]]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for paths in self.splits.values() for path in paths)


def find(folder: str | Path, country: str | None = None) -> Source:
    """The files in a folder, plain or compressed. Raises DataError: none, or those of several countries."""
    folder = Path(folder)
    raw = {p.name.split("_user_train")[0] for p in folder.glob("*_user_train.*")}
    if country is None and len(raw) > 1:
        raise DataError(f"{folder}: holds the countries {', '.join(sorted(raw))}; name one with --country")
    if country is None and not raw:
        processed = {split: (_file(folder, split),) for split in (TRAIN, TEST)}
        return Source(processed)
    name = country.lower() if country is not None else raw.pop()
    return Source({s: (_file(folder, f"{name}_user_{s}"), _file(folder, f"{name}_item_{s}")) for s in (TRAIN, TEST)})


def convert(
    source: Source, out: str | Path, validation: float = 0.0, jobs: int = 1, on_progress: OnProgress | None = None
) -> tuple[dict[str, Manifest], Tally]:
    """Write OUT/train and OUT/test, with `validation` also OUT/validation: a share of train's pages. All or none.

    Raises DataError: a file is absent or not what it should be (names file and line); a dataset exists.
    """
    shares = Shares(validation=validation)
    number = 0
    with Conversion(out, (*shares.names, TEST), jobs, on_progress) as conversion:
        for split, paths in source.splits.items():
            mine = shares if split == TRAIN else Shares()
            if len(paths) == 1:
                _check_header(paths[0])
                work: Processed | Items = Processed(split, mine)
            else:
                work = Items(split, mine, pages(conversion, paths[0], split))
            cut = segments(paths[-1:], first=number, header=isinstance(work, Processed))
            number += len(cut)
            conversion.run(work, cut)
        return conversion.publish(), conversion.tally


@dataclass(frozen=True)
class Pages:
    """The user file, by search id."""

    lookup: Lookup
    ids: Flat
    numbers: Flat


@dataclass(frozen=True)
class Items:
    """`parts.Work`: lines of the item file, each with its page's columns."""

    name: str
    shares: Shares
    pages: Pages

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        items = table_of(block, ITEM)
        tally.read += items.num_rows
        search, label = _whole(items, "item_1", block), _whole(items, f"item_{ITEM_WIDTH}", block)
        refuse((label < 0) | (label > 2), block, "column `item_49` is the label: 0 shown, 1 clicked or 2 bought")
        place = self.pages.lookup.find(search.view(np.uint64))
        tally.note(WITHOUT_PAGE, place < 0, block)
        if (kept := place >= 0).all():
            kept = slice(None)
        else:
            items = items.filter(pa.array(kept))
        ids, numbers = (flat.mapped()[place[kept]] for flat in (self.pages.ids, self.pages.numbers))
        columns = [pa.array(search[kept])]
        columns += [pa.array(ids[:, i], mask=ids[:, i] == NO_ID) for i in range(len(USER_IDS))]
        columns += [items.column(f"item_{c}") for c in ITEM_IDS]
        columns += [pa.array(numbers[:, i], from_pandas=True) for i in range(len(USER_NUMBERS))]
        columns += [items.column(f"item_{c}") for c in ITEM_NUMBERS]
        columns += [pa.array((label[kept] >= stage).astype(np.int8)) for stage in (1, 2)]
        return _divide(pa.table(columns, COLUMNS), self.name, self.shares)


@dataclass(frozen=True)
class Processed:
    """`parts.Work`: lines of the processed file, as they are."""

    name: str
    shares: Shares

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        table = table_of(block, PROCESSED)
        tally.read += table.num_rows
        _whole(table, "search_id", block)
        click, conversion = (binary(table, label, block, "label") for label in ("click", "conversion"))
        tally.note(BROKEN, conversion > click, block)
        return _divide(table, self.name, self.shares)


def pages(conversion: Conversion, path: Path, split: str) -> Pages:
    """Read the user file into flat files in the scratch folder. Memory: 24 bytes a page."""
    folder = conversion.scratch / split
    folder.mkdir()
    ids, numbers = Flat(folder / "ids", "<i4", len(USER_IDS)), Flat(folder / "numbers", "<f4", len(USER_NUMBERS))
    keys = [np.zeros(0, np.int64)]
    for search, page_ids, page_numbers in conversion.each(_pages_of, segments([path])):
        keys.append(search)
        ids.append(page_ids)
        numbers.append(page_numbers)
    lookup, again = Lookup.build(folder, np.concatenate(keys).view(np.uint64))
    if len(again):
        conversion.tally.note_at(REPEATED, len(again), Place(Segment(str(path), 0), int(again.min()) + 1))
    return Pages(lookup, ids, numbers)


def _pages_of(segment: Segment, report: Report) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(search ids, ids, numbers) of the user file, block by block."""
    for block in blocks(segment, lambda num_bytes: report(num_bytes, 0)):
        table = table_of(block, USER)
        ids = [table.column(f"user_{c}").fill_null(NO_ID).to_numpy() for c in USER_IDS]
        numbers = [table.column(f"user_{c}").to_numpy() for c in USER_NUMBERS]  # nulls become NaN
        yield _whole(table, "user_1", block), np.stack(ids, axis=1), np.stack(numbers, axis=1)


def _whole(table: pa.Table, name: str, block: Block) -> np.ndarray:
    """A column in which nothing may be empty."""
    column = table.column(name)
    if column.null_count:
        refuse(column.is_null().to_numpy(), block, f"column `{name}` is empty")
    return column.to_numpy()


def _divide(table: pa.Table, name: str, shares: Shares) -> dict[str, pa.Table]:
    if shares == Shares():
        return {name: table}
    return shares.split(table, entities(table.column("search_id")))


def _check_header(path: Path) -> None:
    names = first_line(path).split(",")
    if tuple(names) == COLUMNS:
        return
    raise DataError(
        f"{path}: {len(names)} columns, {_first_difference(names)}; a processed file has the 82 columns search_id, "
        f"categorical_1 to 16, numerical_1 to 63, click, conversion. The raw files are called CC_user_train.csv, "
        f"CC_item_train.csv, CC_user_test.csv and CC_item_test.csv"
    )


def _first_difference(names: Sequence[str]) -> str:
    for i, (got, wanted) in enumerate(zip(names, COLUMNS, strict=False)):
        if got != wanted:
            return f"of which number {i + 1} is `{got[:40]}`, not `{wanted}`"
    return "too many" if len(names) > len(COLUMNS) else "too few"


def _file(folder: Path, stem: str) -> Path:
    """The file of that name, plain or compressed."""
    candidates = [folder / f"{stem}{end}" for end in (".csv", *(f".csv{end}" for end in COMPRESSED), ".zip")]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f"{candidates[0]}: there is no such file, nor one with .gz, .bz2 or .zip; SRC is a folder with train.csv and "
        f"test.csv, or with CC_user_train.csv, CC_item_train.csv, CC_user_test.csv and CC_item_test.csv (unpack the "
        f"archive of the country, not those in it)"
    )
