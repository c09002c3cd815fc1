"""What a converter saw go by, column by column, and the configuration that it suggests. Fixed memory per column."""

import json
import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.config.rules import table_name_for
from dist_mtl.data.hashing import hash_strings, mix

SKETCH = 4096  # hashes kept per column: cardinalities are exact below it, within 3 % (two sigma) above


@dataclass
class Column:
    """One column so far. `sketch` holds the smallest distinct hashes (k minimum values; Bar-Yossef et al. 2002)."""

    kind: str  # id, bag, dense
    rows: int = 0
    nulls: int = 0
    values: int = 0  # of a bag: its elements
    longest: int = 0  # of a bag
    sketch: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))  # x, x**2, f(x), f(x)**2; f = sign(x) log(1 + |x|)
    largest: float = 0.0  # |x|

    @property
    def cardinality(self) -> int:
        """The number of distinct values, estimated where there are more than the sketch holds."""
        if len(self.sketch) < SKETCH:
            return len(self.sketch)
        return round((SKETCH - 1) / (float(self.sketch[-1]) / 2**64))

    @property
    def moments(self) -> tuple[bool, float, float]:
        """(log, mean, std): how to standardise the number, by its logarithm if it is heavy-tailed."""
        count = max(1, self.rows - self.nulls)
        mean, square, log_mean, log_square = self.sums / count
        std = max(square - mean**2, 0.0) ** 0.5
        if std and (self.largest - abs(mean)) / std > 10:  # a normal column of 10**9 rows reaches 6
            return True, log_mean, max(log_square - log_mean**2, 1e-12) ** 0.5
        return False, mean, std or 1.0


@dataclass
class Profile:
    """The columns of the rows seen so far."""

    labels: tuple[str, str]
    rows: int = 0
    clicks: int = 0
    conversions: int = 0
    violations: int = 0  # conversion without a click
    columns: dict[str, Column] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """See the rows of a table."""
        click, conversion = (table.column(label).to_numpy() == 1 for label in self.labels)
        self.rows += table.num_rows
        self.clicks += int(click.sum())
        self.conversions += int(conversion.sum())
        self.violations += int((conversion & ~click).sum())
        for name in table.column_names:
            if name not in self.labels:
                array = table.column(name).combine_chunks()
                _see(self.columns.setdefault(name, Column(_kind(array.type))), array)

    def config(self, train: str, test: str | None) -> str:
        """A configuration for these data, as TOML: a start to edit, and valid as it is."""
        tables, features, left_out = [], [], []
        names, used = _feature_names(self.columns), set()
        for name, column in self.columns.items():
            feature, key = names[name], "" if names[name] == name else f"column = {json.dumps(name)}, "
            if column.nulls == column.rows:
                left_out.append(f"{name}: always null")
            elif column.kind == "dense":
                log, mean, std = column.moments
                features.append(
                    f'{feature} = {{ kind = "dense", {key}{"log = true, " * log}mean = {mean:.6g}, std = {std:.6g} }}'
                )
            elif column.cardinality < 2:
                left_out.append(f"{name}: one value only")
            elif column.kind == "id" and column.cardinality > 0.9 * column.rows and column.rows > 100:
                left_out.append(f"{name}: nearly every row has a value of its own")
            else:
                ids = column.cardinality
                table = table_name_for(feature, used | ({*names.values()} - {feature}))  # `items` -> `items_`
                used.add(table)
                key += "" if table == feature else f'table = "{table}", '
                tables.append(f"{table} = {{ rows = {_table_rows(ids)} }}  # about {ids:,} ids")
                length = f", max_length = {column.longest}" if column.kind == "bag" else ""
                features.append(f'{feature} = {{ kind = "{column.kind}"{", " + key[:-2] if key else ""}{length} }}')
        lines = [
            "# Suggested from the data: edit at will. Integers became ids: make counts and amounts kind = 'dense'.",
            f"# {self.rows:,} train rows, {self.clicks:,} clicks, {self.conversions:,} conversions.",
            *(f"# Left out: {reason}" for reason in left_out),
            "\n[run]",
            'dir = "runs/mine"',
            "\n[data]",
            f"train = {json.dumps(train)}",
            f"test = {json.dumps(test)}" if test else '# test = "..."',
            f"labels = {json.dumps(list(self.labels))}",
            *([f'violations = "drop"  # {self.violations:,} conversions without a click'] if self.violations else []),
            "\n[tables]",
            *tables,
            "\n[features]",
            *features,
        ]
        return "\n".join(lines) + "\n"


def hash_column(array: pa.Array) -> np.ndarray:
    """A 64-bit hash per value (nulls give any), for integers, floats and text."""
    if pa.types.is_string(array.type):
        array = array.cast(pa.large_string())
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        return hash_strings(np.frombuffer(data or b"", np.uint8), bounds).view(np.uint64)
    numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
    return mix(numbers.view(np.uint64) + np.uint64(1))  # + 1: `mix` leaves 0 where it is


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return "bag"
    return "dense" if pa.types.is_floating(kind) else "id"


def _see(column: Column, array: pa.Array) -> None:
    column.rows += len(array)
    column.nulls += array.null_count
    if column.kind == "bag":
        column.longest = max(column.longest, pc.max(pc.list_value_length(array)).as_py() or 0)
        array = array.flatten()
        column.values += len(array)
    array = array.drop_null()
    if column.kind == "dense":
        x = array.to_numpy(zero_copy_only=False)
        fx = np.sign(x) * np.log1p(np.abs(x))
        column.sums += [x.sum(), (x * x).sum(), fx.sum(), (fx * fx).sum()]
        column.largest = max(column.largest, float(np.abs(x).max(initial=0)))
        return
    hashes = hash_column(array)
    if len(column.sketch) == SKETCH:
        hashes = hashes[hashes < column.sketch[-1]]
    if len(hashes):
        column.sketch = np.unique(np.append(column.sketch, hashes))[:SKETCH]


def _table_rows(cardinality: int) -> int:
    """Twice the ids, in two digits: an id then shares its row with probability 0.4, and new ids find room."""
    rows = max(16, 2 * cardinality)
    scale = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // scale) * scale


def _feature_names(columns: dict[str, Column]) -> dict[str, str]:
    """Column -> a name that TOML takes without quotes; two columns never get one name."""
    names: dict[str, str] = {}
    for column in columns:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", column) or "_"
        while plain in names.values() or (plain != column and plain in columns):
            plain += "_"
        names[column] = plain
    return names
