"""MovieLens-100K as impressions: a rating is a click, five stars are a conversion, non-clicks are sampled.

Two inputs: `ml100k_mtl_derived.csv.gz`, where the impressions have been sampled before, or the raw files
`ml-100k.{inter,item,user}` (RecBole's layout: tab-separated, a header of `name:type`). GroupLens allows no
redistribution, so neither belongs into a repository.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.data.files import manifest
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert.delimited import Layout, table_of
from dist_mtl.tools.convert.lines import Segment, blocks, first_line
from dist_mtl.tools.convert.parts import Conversion

DERIVED = "ml100k_mtl_derived.csv.gz"
NEGATIVES = 9  # non-clicks per click: CTR 10 %
POPULARITY_POWER = 0.75  # of an item's number of ratings; word2vec's choice, between uniform and proportional
LIKED = 5  # stars that count as a conversion: 21 % of the ratings
TEST_SHARE = 0.2
REDRAWS = 100  # of sampled non-clicks that the user did rate; what is left then is dropped
INTEGERS = ("user_id", "item_id", "ts", "click", "conversion", "age", "year", "hour", "dow")
NAMES = {"ts": "time", "dow": "weekday", "zip2": "zip"}


def convert(
    source: str | Path, out: str | Path, seed: int = 7, validation: bool = False, kept: float = 1.0
) -> dict[str, manifest.Manifest]:
    """Write OUT/train and OUT/test: the last fifth of each user's rows, in order of time, is the test split.

    With `validation` also OUT/fit and OUT/validation: the rows of OUT/train, split again in the same way. What is
    chosen on these two has seen no row of the test split, and the final training can use all of OUT/train.
    `kept` below 1: this share of the non-clicks stays in what is trained on, OUT/train and OUT/fit; to score traffic as
    it comes, train with data.kept = [kept, 1].

    Columns: user_id, item_id, time (s, UTC), click, conversion, age, gender, occupation, year (0: unknown),
    genres (list<string>), hour, weekday (Monday 0), zip (its first two characters). `seed` decides which non-clicks
    are sampled (of the raw files) and which are kept. Returns the manifests by the names of their folders. Raises
    DataError: no input, an unexpected column, or one of the folders exists (then none is written); ConfigError: `kept`
    is no share.
    """
    if not 0 < kept <= 1:
        raise ConfigError(f"kept {kept}: a share of the non-clicks, above 0 and at most 1")
    source, out = Path(source), Path(out)
    table = read_derived(source / DERIVED) if (source / DERIVED).exists() else read_raw(source, seed)
    parts = dict(zip(("train", "test"), split(table), strict=True))
    if validation:
        parts |= zip(("fit", "validation"), split(parts["train"]), strict=True)
    if kept < 1:
        parts |= {name: thinned(parts[name], kept, seed) for name in ("train", "fit") if name in parts}
    with Conversion(out, tuple(parts)) as conversion:
        for name, part in parts.items():
            conversion.write(name, part)
        return conversion.publish()


def split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The earlier rows of each user, and the last TEST_SHARE of them; both in the order of `table`."""
    late = last_rows(table.column("user_id").to_numpy(), table.column("time").to_numpy(), TEST_SHARE)
    return table.filter(pa.array(~late)), table.filter(pa.array(late))


def thinned(table: pa.Table, kept: float, seed: int) -> pa.Table:
    """All clicks, and the non-clicks of a share `kept` of all (user, item)."""
    user, item, click = (table.column(name).to_numpy() for name in ("user_id", "item_id", "click"))
    stays = draws.uniform(draws.words_of((user << 32) + item, seed, "kept")) < kept
    return table.filter(pa.array(stays | (click == 1)))


def last_rows(users: np.ndarray, times: np.ndarray, share: float) -> np.ndarray:
    """Which rows are among the last `share` of their user's rows by time; equal times keep their order."""
    order = np.lexsort((np.arange(len(users)), times, users))
    ordered = users[order]
    start = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(users) else np.zeros(0, np.int64)
    count = np.diff(np.append(start, len(users)))
    place = np.arange(len(users)) - np.repeat(start, count)
    late = np.empty(len(users), bool)
    late[order] = place >= np.repeat(np.ceil((1 - share) * count - 1e-9), count)
    return late


def read_derived(path: Path) -> pa.Table:
    """The derived impressions, with our names and types."""
    types = {name: pa.int64() for name in INTEGERS} | {"zip2": pa.string(), "genres": pa.string()}
    table = _read(path, ",", types, quoted=True)
    _need(path, table, (*INTEGERS, "gender", "occupation", "genres", "zip2"))
    return _finish(table, "|")


def read_raw(source: Path, seed: int) -> pa.Table:
    """Impressions from the raw ratings: every rating, and NEGATIVES items a rating that its user never rated."""
    ratings = _read_recbole(source / "ml-100k.inter", ("user_id", "item_id", "rating", "timestamp"))
    items = _read_recbole(source / "ml-100k.item", ("item_id", "release_year", "class"))
    users = _read_recbole(source / "ml-100k.user", ("user_id", "age", "gender", "occupation", "zip_code"))
    user, item = _integers(ratings, "user_id"), _integers(ratings, "item_id")
    stars, time = _integers(ratings, "rating"), _integers(ratings, "timestamp")
    owner, sampled = sample_non_clicks(user, item, seed)
    click = np.append(np.ones(len(user), np.int64), np.zeros(len(owner), np.int64))
    owner, item = np.append(np.arange(len(user)), owner), np.append(item, sampled)
    # A click and its non-clicks share user and time; ordered by item, so that the click's place says nothing.
    order = np.lexsort((item, owner, user[owner], time[owner]))
    owner, item, click = owner[order], item[order], click[order]
    when = time[owner]
    of_user = _rows_of(users, "user_id", user[owner])
    of_item = _rows_of(items, "item_id", item)
    table = pa.table(
        {
            "user_id": user[owner],
            "item_id": item,
            "ts": when,
            "click": click,
            "conversion": click * (stars[owner] == LIKED),
            "age": _integers(users, "age")[of_user],
            "gender": users.column("gender").take(of_user),
            "occupation": users.column("occupation").take(of_user),
            "year": _years(items)[of_item],
            "genres": items.column("class").take(of_item),
            "hour": when // 3600 % 24,
            "dow": (when // 86_400 + 3) % 7,  # 1970-01-01 was a Thursday
            "zip2": pc.utf8_slice_codeunits(users.column("zip_code").take(of_user), 0, 2),
        }
    )
    return _finish(table, " ")


def sample_non_clicks(user: np.ndarray, item: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(place of the rating, sampled item): NEGATIVES a rating, by popularity, never an item that the user rated."""
    known, ratings = np.unique(item, return_counts=True)
    edges = np.cumsum(ratings**POPULARITY_POWER)
    width = int(known.max()) + 1
    rated = np.unique(user * width + item)
    owner = np.repeat(np.arange(len(user)), NEGATIVES)
    sampled = np.full(len(owner), -1, np.int64)
    missing = np.arange(len(owner))
    for attempt in range(REDRAWS):
        u = draws.uniform(random_bits(len(missing), seed, "movielens", attempt))
        drawn = known[np.minimum(np.searchsorted(edges, u * edges[-1], side="right"), len(known) - 1)]
        free = ~np.isin(user[owner[missing]] * width + drawn, rated)
        sampled[missing[free]] = drawn[free]
        missing = missing[~free]
        if not len(missing):
            break
    return owner[sampled >= 0], sampled[sampled >= 0]


def _finish(table: pa.Table, separator: str) -> pa.Table:
    """Our names, genres as lists, labels as int8; a row without a genre has an empty list."""
    genres = pc.split_pattern(table.column("genres"), separator).combine_chunks()
    empty = pc.equal(table.column("genres"), "").combine_chunks()
    lists = pc.if_else(empty, pa.scalar([], genres.type), genres)
    table = table.set_column(table.schema.get_field_index("genres"), "genres", lists)
    for label in ("click", "conversion"):
        table = table.set_column(table.schema.get_field_index(label), label, table.column(label).cast(pa.int8()))
    return table.rename_columns([NAMES.get(name, name) for name in table.column_names])


def _read(path: Path, delimiter: str, types: dict[str, pa.DataType], quoted: bool) -> pa.Table:
    """All rows of a file with a header; columns without a type here are text."""
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; SRC is a folder with {DERIVED}, or with ml-100k.inter, .item and .user"
        )
    names = first_line(path).split(delimiter)
    layout = Layout({n: types.get(n, pa.string()) for n in names}, delimiter, nulls=(), quoted=quoted)
    return pa.concat_tables(table_of(block, layout) for block in blocks(Segment(str(path), 0, header=True)))


def _read_recbole(path: Path, columns: tuple[str, ...]) -> pa.Table:
    """A file of RecBole's layout, all columns as text, without the types in their names."""
    table = _read(path, "\t", {}, quoted=False)
    table = table.rename_columns([name.partition(":")[0] for name in table.column_names])
    _need(path, table, columns)
    return table


def _need(path: Path, table: pa.Table, columns: tuple[str, ...]) -> None:
    if absent := [name for name in columns if name not in table.column_names]:
        raise DataError(f"{path}: there is no column {', '.join(absent)}; it has {', '.join(table.column_names)}")


def _integers(table: pa.Table, name: str) -> np.ndarray:
    try:
        return pc.cast(table.column(name).cast(pa.float64()), pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"MovieLens column `{name}`: {error}") from None


def _years(items: pa.Table) -> np.ndarray:
    """The release year; 0 where it is not a number (one film of the set)."""
    text = items.column("release_year")
    return pc.if_else(pc.match_substring_regex(text, r"^\d{4}$"), text, "0").cast(pa.int64()).to_numpy()


def _rows_of(table: pa.Table, name: str, wanted: np.ndarray) -> np.ndarray:
    """The row of `table` whose `name` is wanted[i]; DataError where there is none."""
    ids = _integers(table, name)
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)]
    if (bad := ids[place] != wanted).any():
        raise DataError(f"MovieLens: {name} {wanted[bad][0]} has a rating, but no line in its own file")
    return place
