"""Criteo attribution: impressions cut by day, labels as they are and the two that imply a click beside them."""

import csv
import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import criteo
from tests.support import raw_logs
from tests.support.samples import rows_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    raw_logs.write_criteo(tmp_path / "criteo_attribution_dataset.tsv.gz", 6_000)
    return tmp_path / "criteo_attribution_dataset.tsv.gz"


def lines_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_every_impression_once_cut_by_day_with_all_labels(path: Path, tmp_path: Path) -> None:
    made, tally = criteo.convert(path, tmp_path / "out", criteo.Days(25, 2))
    tables = {name: rows_of(tmp_path / "out" / name) for name in made}
    days = {name: (min(t["day"].to_pylist()), max(t["day"].to_pylist())) for name, t in tables.items()}
    assert days == {"train": (0, 22), "validation": (23, 24), "test": (25, 29)}
    rows, wanted = pa.concat_tables(tables.values()).to_pylist(), lines_of(path)
    assert len(rows) == len(wanted) == 6_000
    for row, line in zip(rows, wanted, strict=True):  # in order of time, as the file is
        assert all(float(value) == row[name] for name, value in line.items())
        click, conversion = line["click"] == "1", line["conversion"] == "1"
        last = int(line["click_pos"]) == int(line["click_nb"]) - 1
        assert row["click_conversion"] == (click and conversion)
        assert row["last_click"] == (click and conversion and line["attribution"] == "1" and last)
        assert row["day"] == int(line["timestamp"]) // 86_400
    alone = sum(line["conversion"] > line["click"] for line in wanted)
    assert alone > 50 and tally.told()[1].startswith(f"{alone} rows convert without a click: kept")
    assert 0 < sum(r["last_click"] for r in rows) < sum(r["click_conversion"] for r in rows)


def test_without_validation_days_there_are_two_datasets(path: Path, tmp_path: Path) -> None:
    made, _ = criteo.convert(path, tmp_path / "out")
    assert list(made) == ["train", "test"] and made["train"].num_rows + made["test"].num_rows == 6_000
    with pytest.raises(ConfigError, match="leave no train rows"):
        criteo.Days(5, 5)
    with pytest.raises(DataError, match="new/test: the source has no rows for it"):
        criteo.convert(path, tmp_path / "new", criteo.Days(31))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("click", "2", "line 5: label `click` is 2.0, not 0 or 1"),
        ("conversion", "", "line 5: label `conversion` is empty"),
        ("timestamp", "", "line 5: column `timestamp` is empty"),
        ("cat3", "x", "line 5: column `cat3`: no int64 'x'"),
    ],
)
def test_a_bad_line_is_told_by_its_number(path: Path, tmp_path: Path, column: str, value: str, says: str) -> None:
    rows = lines_of(path)
    rows[3][column] = value
    with (tmp_path / "bad.tsv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=f"bad.tsv, {says}"):
        criteo.convert(tmp_path / "bad.tsv", tmp_path / "out")


def test_another_header_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("\t".join([*list(criteo.TYPES)[1:], "surprise"]) + "\n")
    with pytest.raises(DataError, match=r"missing \['click'\], extra \['surprise'\]; for other files use"):
        criteo.convert(tmp_path / "a.tsv", tmp_path / "out")
