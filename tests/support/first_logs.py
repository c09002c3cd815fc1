"""Logs as a newcomer has them, as plain CSV files: the public ones at hand, sample logs of three sizes, and one of two
labels of which neither implies the other."""

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dist_mtl.config import SampleLogs
from dist_mtl.data.synthetic.logs import generate

PLANTED = ["true_ctr", "true_cvr", "true_ctcvr", "rho"]
SAMPLES = {"shop_5k": 5_000, "shop_50k": 50_000, "shop_500k": 500_000}  # rows of the CSV
TEST_ROWS = 100_000
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Log:
    """A CSV and how it is converted. `seeds`: runs that its figures are the mean of."""

    path: Path
    options: tuple[str, ...]  # of `convert csv` besides the source, OUT and --suggest
    labels: tuple[str, str] = ("click", "conversion")
    test: Path | None = None
    seeds: int = 3


def sample_log(path: Path, rows: int, split: str = "train", seed: int = 11) -> None:
    """Sample logs as CSV, without the planted truth; histories as text with `|`."""
    spec = SampleLogs(train_rows=rows, test_rows=1, seed=seed)
    for number, table in enumerate(generate(spec, rows, split)):
        table = table.drop_columns([name for name in PLANTED if name in table.column_names])
        for name in table.column_names:
            if pa.types.is_list(table.schema.field(name).type):
                texts = table.column(name).combine_chunks().cast(pa.list_(pa.string()))
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, pc.binary_join(texts, "|"))
        with path.open("ab") as stream:
            pa.csv.write_csv(table, stream, pa.csv.WriteOptions(include_header=number == 0))


def two_labels(path: Path, rows: int, seed: int = 3) -> None:
    """`liked` and `shared`: of one impression each, neither implies the other; ids, a few values, numbers, nulls."""
    draw, world = np.random.default_rng(seed), np.random.default_rng(0)
    user, item = draw.zipf(1.3, rows) % 3_000, draw.zipf(1.2, rows) % 700
    of_user, of_item, of_color = (world.normal(size=(count, 2)) for count in (3_000, 700, 8))
    color, hour, age = draw.integers(0, 8, rows), draw.integers(0, 24, rows), draw.integers(16, 80, rows)
    income, score = draw.lognormal(10, 0.7, rows), draw.normal(size=rows)
    shape = np.stack([np.sin(age / 12), np.abs(score) - 0.8], axis=1)
    logit = 0.5 * of_user[user] + 0.6 * of_item[item] + 0.5 * of_color[color] + 0.7 * shape
    logit[:, 0] += 0.5 * (np.log(income) - 10) - 2.2
    logit[:, 1] += 0.4 * (hour > 17) - 3.2
    labels = (draw.random((rows, 2)) < 1 / (1 + np.exp(-logit))).astype(int)
    names = np.array(["red", "green", "blue", "black", "white", "grey", "pink", "teal"])
    columns = {
        "user": [f"u{k}" for k in user],
        "item": item * 1_000_003,
        "color": names[color],
        "hour": hour,
        "age": age,
        "income": pa.array(income.round(2), mask=draw.random(rows) < 0.05),
        "score": score.round(4),
        "liked": labels[:, 0],
        "shared": labels[:, 1],
    }
    pa.csv.write_csv(pa.table(columns), path)


def logs(folder: Path, shared: Path = SHARED) -> dict[str, Log]:
    """Every log as CSV below `folder`, made where it is not there yet; public ones only where they are at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Log] = {}
    shop_test, both_test = folder / "shop_test.csv", folder / "two_labels_test.csv"
    if not shop_test.exists():
        sample_log(shop_test, TEST_ROWS, "test")
        two_labels(both_test, TEST_ROWS, seed=4)
    for name, rows in SAMPLES.items():
        path = folder / f"{name}.csv"
        if not path.exists():
            sample_log(path, rows)
        options = ("--bag", "history:|", "--split-by", "user_id", "--validation", "0.1")
        found[name] = Log(path, options, test=shop_test, seeds=1 if rows > 100_000 else 3)
    path = folder / "two_labels.csv"
    if not path.exists():
        two_labels(path, 40_000)
    options = ("--no-funnel", "--split-by", "user", "--validation", "0.1")
    found["two_labels"] = Log(path, options, ("liked", "shared"), both_test)
    return found | _public(folder, shared)


def _public(folder: Path, shared: Path) -> dict[str, Log]:
    found = {}
    if (source := shared / "ml100k" / "ml100k_mtl_derived.csv.gz").exists():
        path, quarter = folder / "ml100k.csv", folder / "ml100k_quarter.csv"
        if not path.exists():
            with gzip.open(source) as packed, path.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
            with path.open() as whole, quarter.open("w") as some:
                some.writelines(line for number, line in enumerate(whole) if number % 4 == 0)
        found["ml100k"] = Log(path, ("--bag", "genres:|", "--split-by", "user_id", "--validation", "0.1"), seeds=1)
        found["ml100k_quarter"] = Log(quarter, ("--bag", "genres:|", "--test-share", "0.2"), seeds=1)
    if (source := shared / "aliexpress" / "train.csv").exists():
        options = ("--split-by", "search_id", "--validation", "0.2")
        found["aliexpress"] = Log(source, options, test=source.with_name("test.csv"), seeds=3)
    if (source := shared / "aliccp" / "ali_ccp_train_sample.csv").exists():
        found["aliccp"] = Log(
            source, (), ("click", "purchase"), test=source.with_name("ali_ccp_test_sample.csv"), seeds=1
        )
    return found
