"""What a converter saw go by, column by column, and the configuration that it suggests. Fixed memory per column."""

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_mtl.data.distinct import Distinct, hashes_of
from dist_mtl.data.suggest import Facts, Sources, config, infinities, standard_of


@dataclass
class Column:
    """One column so far."""

    kind: str  # id, bag, dense
    rows: int = 0
    nulls: int = 0
    values: int = 0  # of a bag: its elements
    longest: int = 0  # of a bag
    distinct: Distinct = field(default_factory=Distinct)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))  # x, x**2, f(x), f(x)**2; f = sign(x) log(1 + |x|)
    largest: float = 0.0  # |x|
    infinite: int = 0  # they are in neither of the two

    def merge(self, other: "Column") -> None:
        """Take in what was seen of other rows."""
        self.rows += other.rows
        self.nulls += other.nulls
        self.values += other.values
        self.longest = max(self.longest, other.longest)
        self.distinct.merge(other.distinct)
        self.sums = self.sums + other.sums
        self.largest = max(self.largest, other.largest)
        self.infinite += other.infinite

    @property
    def cardinality(self) -> int:
        """The number of distinct values, estimated where there are more than the sketch holds."""
        return self.distinct.count

    @property
    def facts(self) -> Facts:
        """What a suggestion is made of."""
        standard = standard_of(self.rows - self.nulls - self.infinite, tuple(self.sums), self.largest)
        facts = Facts(self.kind, self.rows, self.nulls, self.cardinality, max_length=self.longest, standard=standard)
        return replace(facts, out=infinities(self.infinite))


@dataclass
class Profile:
    """The columns of the rows seen so far."""

    labels: tuple[str, str]
    funnel: bool = True  # false: neither label implies the other
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

    def merge(self, other: "Profile") -> None:
        """Take in what was seen of other rows of the same columns."""
        self.rows += other.rows
        self.clicks += other.clicks
        self.conversions += other.conversions
        self.violations += other.violations
        for name, column in other.columns.items():
            self.columns.setdefault(name, Column(column.kind)).merge(column)

    def config(self, train: str, test: str | None, validation: str | None = None) -> str:
        """A configuration for these data, as TOML: a start to edit, and valid as it is."""
        counts = f"{self.rows:,} train rows, {self.clicks:,} clicks, {self.conversions:,} conversions."
        sources = Sources(train, test, self.labels, validation, self.funnel, self.violations, counts)
        return config({name: column.facts for name, column in self.columns.items()}, sources)


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
        finite = np.isfinite(x)
        column.infinite += int((~finite).sum())
        x = x[finite]
        fx = np.sign(x) * np.log1p(np.abs(x))
        column.sums += [x.sum(), (x * x).sum(), fx.sum(), (fx * fx).sum()]
        column.largest = max(column.largest, float(np.abs(x).max(initial=0)))
        return
    column.distinct.add(hashes_of(array))
