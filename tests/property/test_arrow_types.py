"""Arrow schemas of every type that Parquet takes, at random: every verb accepts a dataset, or every one refuses it.

What is drawn: types and nesting, nulls, empty lists, rows of a group, files, and how a column's type differs from file
to file. `make arrow-fuzz` draws 2,000 cases; ARROW_FUZZ_CASES sets how many.
"""

import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import Config
from dist_mtl.config.file import parse
from dist_mtl.data.files import manifest
from dist_mtl.data.files.schema import subset
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.findings import findings
from tests.support.arrow_values import FAMILIES, LISTS, WHOLE, array

CASES = int(os.environ.get("ARROW_FUZZ_CASES", "100"))
CHUNKS = 20  # cases of a test
STOPS = re.compile(r"Training (would stop|stops|refuses)")


def _struct(inner: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field("x", inner)])


class Column:
    """How a column looks in each file: a family of types, in lists or not, or all kinds of nesting."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.family = draw.choice(list(FAMILIES))
        self.shape = draw.choices(["plain", "list", "struct", "map", "deep"], [50, 25, 8, 5, 12])[0]
        self.outer = draw.choice([pa.list_, _struct, lambda inner: pa.map_(pa.int8(), inner)])
        self.fixed = self._kind() if draw.random() < 0.4 else None
        self.breaks = draw.random() < 0.04  # of another class in some file
        self.is_null = draw.random() < 0.1  # of no type in some file

    def _kind(self) -> pa.DataType:
        draw, inner = self.draw, self.draw.choice(FAMILIES[self.family])
        nullable = draw.random() < 0.7 or self.family == "null"
        field = pa.field(draw.choice(["item", "element"]), inner, nullable=nullable)
        match self.shape:
            case "plain":
                return inner
            case "list":
                return draw.choice(LISTS)(field)
            case "struct":
                return pa.struct([pa.field("x", inner, nullable=nullable), pa.field("n", draw.choice(WHOLE[:4]))])
            case "map":
                return pa.map_(pa.string(), inner)
        return self.outer(draw.choice(LISTS)(field))

    def kind(self) -> pa.DataType:
        """In one file."""
        if self.breaks and self.draw.random() < 0.5:
            return self.draw.choice([pa.string(), pa.int32(), pa.bool_(), pa.list_(pa.string())])
        if self.is_null and self.draw.random() < 0.4:
            return self.draw.choice([pa.null(), pa.list_(pa.null())]) if self.shape == "list" else pa.null()
        return self._kind() if self.fixed is None else self.fixed

    def feature(self, name: str) -> dict[str, Any] | None:
        """A feature that mostly fits the column."""
        numbers = self.family in ("real", "decimal", "tensor")
        kinds = {"plain": ["dense", "bucket"] if numbers else ["id", "dynamic", "cross"], "list": ["bag"]}
        kind = self.draw.choice(kinds.get(self.shape, [None]))
        if self.draw.random() < 0.1:
            kind = self.draw.choice(["id", "dynamic", "cross", "dense", "bucket", "bag"])
        match kind:
            case "id" | "bag":
                return {"kind": kind, "column": name, "table": "t"}
            case "dynamic":
                return {"kind": "id", "column": name, "table": "d", "policy": "dynamic"}
            case "dense":
                null = self.draw.choice(["fill", "indicator"])
                return {"kind": "dense", "column": name, "clip": [-100.0, 100.0], "null": null}
            case "bucket":
                return {"kind": "bucket", "column": name, "boundaries": [0.5, 2.0]}
            case "cross":
                return {"kind": "cross", "of": [name, "k"], "table": "t"}
        return None


def written(draw: random.Random, folder: Path) -> dict[str, Any]:
    """Files of a drawn schema; features of their columns. Raises ArrowNotImplementedError for what is not writable."""
    folder.mkdir(parents=True)
    columns = {f"c{i}": Column(draw) for i in range(draw.randint(1, 5))}
    twice = draw.random() < 0.04
    for number in range(draw.choice([1, 2, 3])):
        rows = draw.choice([0, 1, 9, 30]) if number else draw.choice([1, 9, 30])
        fields = []
        for name, column in columns.items():
            kind = column.kind()
            fields.append(pa.field(name, kind, nullable=draw.random() < 0.8 or "null" in str(kind)))
        fields += [fields[0]] if twice else []
        fields += [pa.field(label, draw.choice([pa.int8(), pa.int32()])) for label in ("click", "conversion", "k")]
        if draw.random() < 0.2 and not twice:
            draw.shuffle(fields)
        parity = {"click": 1, "k": 1, "conversion": 0}
        arrays = [
            pa.array([i % 2 * parity[field.name] for i in range(rows)], field.type)
            if field.name in parity
            else array(draw, field, rows)
            for field in fields
        ]
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        options = {"store_schema": draw.random() < 0.9, "use_dictionary": draw.random() < 0.7}
        path = folder / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=draw.choice([4, 100]), **options)
        try:
            pq.ParquetFile(path).read()
        except (
            OSError,
            pa.ArrowInvalid,
        ) as error:  # a null fixed-size list within another nesting: Arrow writes it and cannot read it
            raise pa.ArrowNotImplementedError(str(error)) from None
    used = {f"f_{name}": column.feature(name) for name, column in columns.items() if draw.random() < 0.7}
    return {"k": {"kind": "id", "table": "t"}} | {name: feature for name, feature in used.items() if feature}


def config(folder: Path, chosen: dict[str, Any]) -> Config:
    used = {feature.get("table") for feature in chosen.values()}
    tables = {"t": {"rows": 64}, "d": {"rows": 256, "dynamic": {}}}
    return parse(
        {
            "run": {"dir": str(folder.parent / "run"), "device": "cpu"},
            "data": {"train": str(folder)},
            "tables": {name: table for name, table in tables.items() if name in used},
            "features": chosen,
            "train": {"global_batch": 8},
        }
    )


def trained(folder: Path, one: Config) -> None:
    """Everything that the model would be given, read and encoded."""
    dataset = Dataset.open(str(folder), one, shuffle=True)
    dataset.verify(0, 1, full=True)
    for _ in dataset.batches(0, 1):
        pass


def predicted(folder: Path, one: Config) -> None:
    """The same in the order of the files, and all columns kept beside the scores."""
    names = manifest.arrow_schema(folder, manifest.read(folder)).names
    keep = [name for name in names if names.count(name) == 1]
    dataset = Dataset.open_to_score(str(folder), one, keep, labelled=False)
    with pq.ParquetWriter(folder.parent / "kept", subset(dataset.schema, keep)) as writer:
        for batch in dataset.batches(0, 1):
            writer.write_table(batch.carried.table.select(keep))


def described(folder: Path, one: Config) -> None:
    """A description and all that it says. It refuses where it says that a training would."""
    for finding in findings(describe(Wish(str(folder), one))):
        if finding.tone == "bad" and STOPS.search(finding.what):
            raise DataError(finding.text)


def verdict(action: Callable[[], Any]) -> str | None:
    """None: accepted. Any other error than one of data or configuration is no verdict and ends the test."""
    try:
        action()
    except (DataError, ConfigError) as error:
        return str(error)
    return None


def verdicts(seed: int, folder: Path) -> dict[str, str | None]:
    """One case: what each verb says of it; if the listing refuses it, there is no other."""
    for attempt in range(20):
        try:
            chosen = written(random.Random(f"{seed} {attempt}"), folder)
            break
        except pa.ArrowNotImplementedError:  # some nestings cannot be written
            shutil.rmtree(folder)
    if refused := verdict(lambda: manifest.write(folder, manifest.build(folder))):
        return {"listing": refused}
    one = config(folder, chosen)
    actions = {"train": trained, "predict": predicted, "describe": described}
    return {verb: verdict(lambda action=action: action(folder, one)) for verb, action in actions.items()}


@pytest.mark.parametrize("chunk", range(-(-CASES // CHUNKS)))
def test_every_verb_says_the_same(chunk: int, tmp_path: Path) -> None:
    told: Counter[str] = Counter()
    for seed in range(chunk * CHUNKS, min(CASES, (chunk + 1) * CHUNKS)):
        try:
            by_verb = verdicts(seed, tmp_path / f"{seed}" / "logs")
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        refusing = [verb for verb, error in by_verb.items() if error is not None]
        assert len(refusing) in (0, len(by_verb)), f"seed {seed}: {by_verb}"
        told["accepted" if not refusing else f"refused by {'all' if len(refusing) > 1 else 'the listing'}"] += 1
    print(dict(told))
