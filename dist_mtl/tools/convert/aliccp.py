r"""Ali-CCP (Tianchi 408), as downloaded -> OUT/train and OUT/test: every value of every field, histories with weights.

`sample_skeleton_{train,test}.csv`: sample_id, click, conversion, common_feature_index, feature_num, feature_list; no
header. `common_features_{train,test}.csv`: common_feature_index, feature_num, feature_list, joined on the index. A list
is `field \x02 id \x03 value` joined by \x01. Or `train*.txt` and `test*.txt`, joined and without values:
id,click,purchase,field:id,field:id,...

Columns: sample_id, common_feature_index (text), click, conversion; a field of one value as int32 (null: absent), a
field of many as list<int32>; and FIELD_weight beside the fields of WEIGHTED.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.data.hashing import mix
from dist_mtl.errors import ConfigError, DataError, nearest
from dist_mtl.tools.convert.delimited import Layout, binary, refuse, table_of
from dist_mtl.tools.convert.join import Flat, Lookup
from dist_mtl.tools.convert.lines import COMPRESSED, Block, Place, Segment, blocks, segments
from dist_mtl.tools.convert.parts import Conversion, OnProgress, Report
from dist_mtl.tools.convert.split import TEST, TRAIN, Shares
from dist_mtl.tools.convert.tally import Tally
from dist_mtl.tools.convert.tokens import Picked, TokenFile, Tokens, keys_of, pick, tokens_of

COMMON = ("101", "121", "122", "124", "125", "126", "127", "128", "129", "109_14", "110_14", "127_14", "150_14")
SKELETON = ("205", "206", "207", "210", "216", "508", "509", "702", "853", "301")
FIELDS = (*COMMON, *SKELETON)
MANY = ("109_14", "110_14", "127_14", "150_14", "210", "853")  # fields that occur more than once in a row
WEIGHTED = (*MANY, "508", "509", "702")  # histories and crosses; the value of every other field is 1

HEAD = {"sample_id": pa.int64(), "click": pa.float64(), "conversion": pa.float64()}
COMMON_LINE = Layout({"common_feature_index": pa.binary(), "feature_num": pa.int32(), "feature_list": pa.binary()})
SKELETON_LINE = Layout(HEAD | COMMON_LINE.types)
JOINED_LINE = Layout(HEAD | {"feature_list": pa.binary()}, delimiter="\t")

ORPHAN = "lines without a line in the common features: kept, without user fields"
REPEATED = "common feature lines with an index that one before had: left aside, the first one counts"
MISCOUNT = "lines whose feature_num is not the length of their list: kept as they are"
BROKEN = "lines convert without a click"
UNKEPT = "lines with a value other than 1 in a field without weight column: not kept (--weighted FIELD keeps it)"


@dataclass(frozen=True)
class Schema:
    """Which fields are lists, and which have their values beside them."""

    many: tuple[str, ...] = MANY
    weighted: tuple[str, ...] = WEIGHTED

    def __post_init__(self) -> None:
        for name in (*self.many, *self.weighted):
            if name not in FIELDS:
                hint = nearest(name, FIELDS) or f"it has {', '.join(FIELDS)}"
                raise ConfigError(f"Ali-CCP has no field `{name}`; {hint}")
        if "101" in self.many:
            raise ConfigError("field 101 is the user, by whom rows are split: it can not be a list")

    def check(self, tokens: Tokens, block: Block, tally: Tally) -> None:
        """Refuse what has no place in the columns, by the line of its file, and count what is left out of them."""
        for place, name in enumerate(FIELDS):
            if name not in self.many:
                twice = tokens.counts_NF[:, place] > 1
                refuse(twice, block, f"field {name} occurs more than once; --many {name} makes it a list")
        bare = np.array([name not in self.weighted for name in FIELDS])
        rows, fields = tokens.owners()
        odd = np.zeros(len(tokens.counts_NF), bool)
        odd[rows[(tokens.values != 1) & bare[fields]]] = True
        tally.note(UNKEPT, odd, block)

    def columns(self, picked: list[tuple[str, Picked]]) -> dict[str, pa.Array]:
        """The columns of the fields, each in the tokens that it comes from."""
        made: dict[str, pa.Array] = {}
        for name, tokens in picked:
            lengths = tokens.lengths(place := FIELDS.index(name))
            ids, values = tokens.flat(place)
            beside = name in self.weighted
            if name in self.many:
                offsets = pa.array(np.append(0, np.cumsum(lengths, dtype=np.int64)).astype(np.int32))
                made[name] = pa.ListArray.from_arrays(offsets, pa.array(ids))
                if beside:
                    made[f"{name}_weight"] = pa.ListArray.from_arrays(offsets, pa.array(values))
                continue
            present = lengths == 1
            made[name] = _spread(ids, present)
            if beside:
                made[f"{name}_weight"] = _spread(values, present)
        return made


@dataclass(frozen=True)
class Source:
    """The files: split -> (common features, skeleton), or split -> (joined text,)."""

    splits: dict[str, tuple[Path, ...]]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for paths in self.splits.values() for path in paths)


def find(folder: str | Path) -> Source:
    """The files in a folder, or in its sub-folders `sample_train` and `sample_test` as unpacked. Raises DataError."""
    folder = Path(folder)
    if not list(folder.rglob("sample_skeleton_train.csv*")):
        joined = {split: sorted(folder.glob(f"{split}*.txt*")) for split in (TRAIN, TEST)}
        if all(len(paths) == 1 for paths in joined.values()):
            return Source({split: (paths[0],) for split, paths in joined.items()})
    stems = ("common_features", "sample_skeleton")
    return Source({split: tuple(_file(folder, f"{stem}_{split}.csv") for stem in stems) for split in (TRAIN, TEST)})


def convert(
    source: Source,
    out: str | Path,
    validation: float = 0.0,
    drop: bool = False,
    schema: Schema = Schema(),
    jobs: int = 1,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Manifest], Tally]:
    """Write OUT/train and OUT/test, with `validation` also OUT/validation: a share of train's users. All or none.

    A user (field 101; where it is absent the common features) stands on one side of the split. `drop`: leave out the
    rows that convert without a click, else they are kept for `data.violations`; counted both ways. Raises DataError: a
    file is absent or malformed (file and line); a dataset exists.
    """
    shares, number = Shares(validation=validation), 0
    with Conversion(out, (*shares.names, TEST), jobs, on_progress) as conversion:
        for split, paths in source.splits.items():
            rows = Rows(split, shares if split == TRAIN else Shares(), drop, schema)
            work = Joined(rows) if len(paths) == 1 else Skeleton(rows, commons(conversion, paths[0], split, schema))
            cut = segments(paths[-1:], first=number)
            number += len(cut)
            conversion.run(work, cut)
        return conversion.publish(), conversion.tally


@dataclass(frozen=True)
class Rows:
    """What is done with the rows of both forms once their tokens are known."""

    name: str
    shares: Shares
    drop: bool
    schema: Schema

    def of(
        self, head: dict[str, pa.Array], picked: list[tuple[str, Picked]], keys: np.ndarray, block: Block, tally: Tally
    ) -> dict[str, pa.Table]:
        """`head`: the first columns, labels included. `keys`: stand for the user of a row without field 101."""
        click, conversion = (np.asarray(head[label]) for label in ("click", "conversion"))
        broken = conversion > click
        tally.read += len(broken)
        tally.note(f"{BROKEN}: {'dropped' if self.drop else 'kept, data.violations decides'}", broken, block)
        columns = self.schema.columns(picked)
        table = pa.table(head | columns)
        users = columns["101"]
        known = users.is_valid().to_numpy(zero_copy_only=False)
        entity = np.where(known, mix(users.fill_null(0).to_numpy().astype(np.uint64) + np.uint64(1)), mix(keys))
        if self.drop and broken.any():
            table, entity = table.filter(pa.array(~broken)), entity[~broken]
        return {self.name: table} if self.shares == Shares() else self.shares.split(table, entity)


@dataclass(frozen=True)
class Commons:
    """The common features, by their index."""

    lookup: Lookup
    tokens: TokenFile


@dataclass(frozen=True)
class Skeleton:
    """`parts.Work`: lines of the skeleton, each with its common features."""

    row: Rows
    commons: Commons

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        table = table_of(block, SKELETON_LINE, _with_ends(block))
        own = _lists(table, SKELETON, self.row.schema, block, tally)
        keys = keys_of(_column(table, "common_feature_index"), block)
        place = self.commons.lookup.find(keys)
        tally.note(ORPHAN, place < 0, block)
        common, own = pick(self.commons.tokens.mapped(), place), pick(own, np.arange(table.num_rows))
        index = {"common_feature_index": _column(table, "common_feature_index").cast(pa.string())}
        picked = [(name, common) for name in COMMON] + [(name, own) for name in SKELETON]
        return self.row.of(_head(table, block, index), picked, keys, block, tally)


@dataclass(frozen=True)
class Joined:
    """`parts.Work`: lines of the joined text."""

    row: Rows

    def tally(self) -> Tally:
        return Tally()

    def rows(self, block: Block, tally: Tally) -> dict[str, pa.Table]:
        table = table_of(block, JOINED_LINE, _as_lists(block))
        found = tokens_of(_column(table, "feature_list"), FIELDS, np.ones(len(FIELDS), bool), False, block)
        self.row.schema.check(found, block, tally)
        tokens = pick(found, np.arange(table.num_rows))
        samples = table.column("sample_id").to_numpy().view(np.uint64)
        return self.row.of(_head(table, block, {}), [(name, tokens) for name in FIELDS], samples, block, tally)


def commons(conversion: Conversion, path: Path, split: str, schema: Schema) -> Commons:
    """Read the common features into flat files in the scratch folder. Memory: 24 bytes a line."""
    folder = conversion.scratch / split
    folder.mkdir()
    file = TokenFile(
        Flat(folder / "ids", "<i4"), Flat(folder / "values", "<f4"), Flat(folder / "counts", "<u4", len(FIELDS)),
        Flat(folder / "starts", "<i8"),
    )  # fmt: skip
    keys, before = [np.zeros(0, np.uint64)], 0
    for found, tokens, tally in conversion.each(partial(_commons_of, schema), segments([path])):
        keys.append(found)
        file.append(tokens, before)
        before += len(tokens.ids)
        conversion.tally.add(tally)
    lookup, again = Lookup.build(folder, np.concatenate(keys))
    if len(again):
        conversion.tally.note_at(REPEATED, len(again), Place(Segment(str(path), 0), int(again.min()) + 1))
    return Commons(lookup, file)


def _commons_of(schema: Schema, segment: Segment, report: Report) -> Iterator[tuple[np.ndarray, Tokens, Tally]]:
    """(keys, tokens, what was found odd) of the common features, block by block."""
    for block in blocks(segment, lambda num_bytes: report(num_bytes, 0)):
        tally, table = Tally(), table_of(block, COMMON_LINE, _with_ends(block))
        yield keys_of(_column(table, "common_feature_index"), block), _lists(table, COMMON, schema, block, tally), tally


def _lists(table: pa.Table, fields: tuple[str, ...], schema: Schema, block: Block, tally: Tally) -> Tokens:
    """The feature lists of a block, whose lengths are what the lines say."""
    tokens = tokens_of(_column(table, "feature_list"), FIELDS, np.isin(FIELDS, fields), True, block)
    wrong = tokens.counts_NF.sum(axis=1) != table.column("feature_num").to_numpy()
    if not block.complete and len(wrong) and wrong[-1]:
        raise DataError(f"{block.place(len(wrong) - 1)}: the file ends in the middle of a line: download it again")
    tally.note(MISCOUNT, wrong, block)
    schema.check(tokens, block, tally)
    return tokens


def _head(table: pa.Table, block: Block, more: dict[str, pa.Array]) -> dict[str, pa.Array]:
    labels = {label: pa.array(binary(table, label, block, "label")) for label in ("click", "conversion")}
    return {"sample_id": _column(table, "sample_id"), **more, **labels}


def _with_ends(block: Block) -> bytes:
    r"""The lines with a \x01 after their last token, too; without empty lines and carriage returns."""
    data = block.data.replace(b"\r", b"") if b"\r" in block.data else block.data
    if data.startswith(b"\n") or b"\n\n" in data:
        data = re.sub(rb"\n+", b"\n", data.lstrip(b"\n"))
    return data.replace(b"\n", b"\x01\n")


def _as_lists(block: Block) -> bytes:
    r"""Lines of joined text as `id TAB click TAB purchase TAB list`, the list as in the skeleton."""
    text = np.frombuffer(_with_ends(block), np.uint8).copy()
    commas = np.flatnonzero(text == ord(","))
    starts = np.append(0, np.flatnonzero(text == ord("\n")) + 1)[:-1]
    first = np.searchsorted(commas, starts)[:, None] + np.arange(3)
    heads = commas[first[first < len(commas)]]
    text[commas] = 1
    text[text == ord(":")] = 2
    text[heads] = ord("\t")
    return text.tobytes()


def _spread(values: np.ndarray, present: np.ndarray) -> pa.Array:
    """`values` in the rows that are `present`, null in the others."""
    wide = np.zeros(len(present), values.dtype)
    wide[present] = values
    return pa.array(wide, mask=~present)


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _file(folder: Path, name: str) -> Path:
    """The file of that name in the folder or below it, plain or compressed."""
    found = [path for end in ("", *COMPRESSED) for path in sorted(folder.rglob(name + end))]
    if len({path.parent for path in found}) > 1:
        raise DataError(f"{folder}: holds {found[0]} and {found[-1]}; name the folder of the ones that you mean")
    if not found:
        raise DataError(
            f"{folder / name}: there is no such file, nor one with .gz, .bz2 or .zip; SRC is a folder with "
            f"sample_skeleton_train.csv, common_features_train.csv and the same for test (unpack sample_train.tar.gz "
            f"and sample_test.tar.gz), or with train*.txt and test*.txt in joined form"
        )
    return found[0]
