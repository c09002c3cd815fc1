"""Generated files of the exact raw formats that the public sets are downloaded in; not one row of theirs.

Fast enough for a million rows, so that `benchmarks/figures/convert_speed.py` measures on them, too.
"""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dist_mtl.tools.convert import aliccp, aliexpress, criteo

HISTORY = {"109_14": 70, "110_14": 252, "127_14": 155, "150_14": 136}  # mean lengths of the real ones
LIST = {"210": 6, "853": 3}
USER = dict.fromkeys(("121", "122", "124", "125", "127", "128"), 0.87) | {"101": 0.998, "126": 0.4, "129": 0.6}
ITEM = dict.fromkeys(("205", "206", "207", "301"), 1.0) | {"216": 0.7, "508": 0.7, "509": 0.2, "702": 0.2}
PIECE = 50_000  # rows that are made at once
IDS = {"101": 300_000, "205": 4_000_000, "206": 9_000, "207": 700_000, "216": 200_000}


def write_lines(path: Path, table: pa.Table, delimiter: str = ",", header: bool = False) -> None:
    """A table as text without quotes, gzip by the name; a plain file that is there already goes on."""
    # The header is written by hand: Arrow puts it in quotes, whatever the style.
    options = pa.csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
    opened = gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("ab")
    with opened as stream:
        if header:
            stream.write((delimiter.join(table.column_names) + "\n").encode())
        pa.csv.write_csv(table, stream, options)


def labels(draw: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    click = draw.random(rows) < 0.2
    return click, click & (draw.random(rows) < 0.2)


def write_aliexpress(folder: Path, pages: int, per_page: int = 13, country: str = "nl", seed: int = 0) -> None:
    """The four raw files of a country, the test split a third of the train split."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    first = 0
    for split, count in (("train", pages), ("test", max(1, pages // 3))):
        ids = np.arange(first, first + count) * 3 + 7
        first += count
        user = {"user_1": draw.permutation(ids)}
        for c in range(2, aliexpress.USER_WIDTH + 1):
            user[f"user_{c}"] = draw.integers(0, 9, count) if c in aliexpress.USER_IDS else draw.random(count).round(6)
        write_lines(folder / f"{country}_user_{split}.csv", pa.table(user))
        rows = count * per_page
        click, conversion = labels(draw, rows)
        item = {"item_1": np.repeat(ids, per_page)}
        for c in range(2, aliexpress.ITEM_WIDTH):
            item[f"item_{c}"] = draw.integers(0, 9, rows) if c in aliexpress.ITEM_IDS else draw.random(rows).round(6)
        item[f"item_{aliexpress.ITEM_WIDTH}"] = click.astype(int) + conversion
        write_lines(folder / f"{country}_item_{split}.csv", pa.table(item))


def feature_lists(fields: np.ndarray, ids: np.ndarray, values: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """Token k is `fields[k] \\x02 ids[k] \\x03 values[k]`; row i joins those of offsets[i]:offsets[i+1] by \\x01."""
    number = pa.array(values).cast(pa.string())
    number = pc.if_else(pc.equal(number, "1"), "1.0", number)
    token = pc.binary_join_element_wise(pa.array(fields), pa.array(ids).cast(pa.string()), "\x02")
    token = pc.binary_join_element_wise(token, number, "\x03")
    return pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), token), "\x01")


def _tokens(draw: np.random.Generator, rows: int, mean: dict[str, float], share: dict[str, float]) -> dict:
    """Tokens of `rows` lists: fields of many values (Poisson lengths), and of one value, present in a share of rows."""
    owner, names, ids, values = [], [], [], []
    for field in (*share, *mean):
        counts = draw.poisson(mean[field], rows) if field in mean else (draw.random(rows) < share[field]).astype(int)
        total = int(counts.sum())
        owner.append(np.repeat(np.arange(rows), counts))
        names.append(np.full(total, field))
        ids.append(draw.integers(1, IDS.get(field, 9_000_000 if field in aliccp.MANY else 100), total))
        weighted = field in aliccp.WEIGHTED
        values.append(np.log(draw.integers(1, 90, total)).round(5) if weighted else np.ones(total))
    owner_T = np.concatenate(owner)
    order = np.argsort(owner_T, kind="stable")
    counts = np.bincount(owner_T, minlength=rows)
    parts = (np.concatenate(part)[order] for part in (names, ids, values))
    return dict(zip(("fields", "ids", "values"), parts, strict=True)) | {"offsets": np.append(0, np.cumsum(counts))}


def write_aliccp(
    folder: Path, rows: int, commons: int, scale: float = 1.0, seed: int = 0, violations: int = 2, orphans: int = 0
) -> None:
    """The four raw files; histories of the real mean lengths times `scale`. Test is a quarter of train."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for split, count, users in (("train", rows, commons), ("test", max(1, rows // 4), max(1, commons // 4))):
        index = np.array([f"{k:016x}" for k in draw.integers(0, 2**63, users)])
        for first in range(0, users, PIECE // 50):
            piece = index[first : first + PIECE // 50]
            lists = _tokens(draw, len(piece), {f: m * scale for f, m in HISTORY.items()}, USER)
            _append(folder / f"common_features_{split}.csv", {"index": piece}, lists)
        click, conversion = labels(draw, count)
        conversion[np.flatnonzero(~click)[:violations]] = True
        # One user's rows follow each other, as in the real files.
        shown = index[np.sort(draw.integers(0, users, count))]
        shown[:orphans] = "0123456789abcdef"
        head = {"sample": np.arange(1, count + 1), "click": click.astype(int), "conversion": conversion.astype(int)}
        head["index"] = shown
        for first in range(0, count, PIECE):
            piece = {name: column[first : first + PIECE] for name, column in head.items()}
            lists = _tokens(draw, len(piece["index"]), dict(LIST), ITEM)
            _append(folder / f"sample_skeleton_{split}.csv", piece, lists)


def _append(path: Path, head: dict[str, np.ndarray], lists: dict[str, np.ndarray]) -> None:
    """Lines: `head`, the length of the feature list, the list."""
    tail = {"number": np.diff(lists["offsets"]), "list": feature_lists(**lists).cast(pa.string())}
    write_lines(path, pa.table(head | tail))


def write_criteo(path: Path, rows: int, seed: int = 0) -> None:
    """The TSV, gzip by the name: 30 days in order of time, a third of the conversions without a click."""
    draw = np.random.default_rng(seed)
    click = draw.random(rows) < 0.36
    conversion = draw.random(rows) < np.where(click, 0.1, 0.03)
    nb = np.where(conversion, draw.integers(1, 4, rows), -1)
    columns = {
        "timestamp": np.sort(draw.integers(0, 30 * criteo.DAY, rows)),
        "uid": draw.integers(0, max(2, rows // 3), rows),
        "campaign": draw.integers(0, 700, rows) * 31_337,
        "conversion": conversion.astype(int),
        "conversion_timestamp": np.where(conversion, 1_000_000, -1),
        "conversion_id": np.where(conversion, draw.integers(0, 10**7, rows), -1),
        "attribution": (conversion & (draw.random(rows) < 0.5)).astype(int),
        "click": click.astype(int),
        "click_pos": np.where(conversion & click, draw.integers(0, 3, rows) % np.maximum(nb, 1), -1),
        "click_nb": nb,
        "cost": draw.random(rows).round(8),
        "cpo": draw.random(rows).round(8),
        "time_since_last_click": np.where(draw.random(rows) < 0.5, -1, draw.integers(0, 10**6, rows)),
        **{f"cat{i}": draw.integers(0, 10 ** min(i, 5), rows) * 7_919 for i in range(1, 10)},
    }
    write_lines(path, pa.table(columns), "\t", header=True)


def write_csv(path: Path, rows: int, seed: int = 0) -> None:
    """A CSV of 5 ids, 10 numbers, a bag and both labels."""
    draw = np.random.default_rng(seed)
    click, conversion = labels(draw, rows)
    columns = {f"id{i}": draw.integers(0, 10 ** (i + 2), rows) for i in range(5)}
    columns |= {f"number{i}": draw.normal(size=rows).round(5) for i in range(10)}
    words = np.array(["", "red", "red|blue", "green", "blue|green|red"])
    columns["tags"] = words[draw.integers(0, 5, rows)]
    columns |= {"click": click.astype(int), "conversion": conversion.astype(int)}
    write_lines(path, pa.table(columns), header=True)
