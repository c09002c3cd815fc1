"""A configuration against the data: tables against the ids that they will be asked for.

n ids that a hash spreads evenly over m rows: the expected share of the ids that share their row with another one is
1 - (1 - 1/m)^(n - 1), about 1 - exp(-(n - 1) / m).
"""

import math
from dataclasses import dataclass

from dist_mtl.config import BagFeature, Config, IdFeature
from dist_mtl.data.cardinality import Distinct
from dist_mtl.tools.describe.column_stats import Seen


@dataclass(frozen=True)
class TableUse:
    """A table and the distinct ids of all columns that are looked up in it. `policies` of its features."""

    name: str
    rows: int
    ids: Distinct
    policies: frozenset[str]
    columns: tuple[str, ...]
    seen: tuple[Seen, ...]

    @property
    def sharing(self) -> float | None:
        """The expected share of the ids that share a row, under `hash`; None: no id is hashed."""
        return expected_sharing(self.ids.count, self.rows) if "hash" in self.policies else None

    @property
    def outside(self) -> int:
        """Ids (rows; of lists, elements) beyond the table."""
        return sum(seen.outside for seen in self.seen)


def expected_sharing(ids: int, rows: int) -> float:
    """The share of `ids` ids, hashed to `rows` rows, that share their row with another; see the module."""
    return -math.expm1((ids - 1) * math.log1p(-1 / rows)) if ids > 1 and rows > 1 else float(ids > 1)


def bounded(config: Config) -> dict[str, int]:
    """Column -> rows of its table, for ids that must be rows of it: policy reject or clamp."""
    found: dict[str, int] = {}
    for name, feature in config.features.items():
        if isinstance(feature, IdFeature | BagFeature) and feature.policy in ("reject", "clamp"):
            rows = config.tables[config.table_of(name)].rows
            column = feature.column or name
            found[column] = min(rows, found.get(column, rows))
    return found


def uses(config: Config, columns: dict[str, Seen]) -> list[TableUse]:
    """The declared tables whose columns are all there. Crosses are left out: their ids are in no column."""
    found = []
    for table, spec in config.tables.items():
        features = {
            name: feature
            for name, feature in config.features.items()
            if isinstance(feature, IdFeature | BagFeature) and config.table_of(name) == table
        }
        names = [feature.column or name for name, feature in features.items()]
        seen = [columns[name] for name in names if name in columns and columns[name].cardinality is not None]
        if not seen or len(seen) != len(names):
            continue
        ids = Distinct()
        for one in seen:
            ids.merge(one.cardinality)
        policies = frozenset(feature.policy for feature in features.values())
        found.append(TableUse(table, spec.rows, ids, policies, tuple(names), tuple(seen)))
    return found
