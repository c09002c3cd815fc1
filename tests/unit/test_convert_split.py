"""`convert csv` splits rows at random: by their numbers, whatever the processes, the cuts, or the compression."""

import gzip
from pathlib import Path

import pytest

from dist_mtl.data.files.manifest import Manifest
from dist_mtl.errors import ConfigError, DataError
from dist_mtl.tools.convert import lines, tabular
from tests.support.samples import rows_of

ROWS = 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Rows in which one value follows the other, and the last half is like the first."""
    half = "".join(f"{k},{k % 7},{int(k % 3 == 0)},0\n" for k in range(ROWS // 2))
    path = tmp_path / "a.csv"
    path.write_text(f"x,user,c,v\n{half}{half}")
    return path


def converted(path: Path, out: str, split: tabular.Split, jobs: int = 1) -> dict[str, Manifest]:
    source = tabular.Csv((str(path),), "c", "v")
    return tabular.convert(source, split, path.parent / out, jobs).datasets


def test_shares_of_the_rows_hold_and_are_random(path: Path) -> None:
    made = converted(path, "out", tabular.Split(share=0.2, validation=0.1))
    rows = {name: listed.num_rows for name, listed in made.items()}
    assert rows["test"] / ROWS == pytest.approx(0.2, abs=0.01)
    assert rows["validation"] / ROWS == pytest.approx(0.1, abs=0.01)
    assert sum(rows.values()) == ROWS
    tables = {name: rows_of(path.parent / "out" / name)["x"].to_numpy() for name in made}
    everything = sorted(x for table in tables.values() for x in table)
    assert everything == sorted([*range(ROWS // 2)] * 2)
    test = tables["test"]
    assert test.mean() == pytest.approx(ROWS / 4, rel=0.03)  # neither the first rows nor the last
    assert len(set(test)) / len(test) == pytest.approx(1 - 0.2 / 2, abs=0.02)  # a row's copy goes its own way


def test_the_split_depends_on_nothing_but_the_numbers_of_the_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = tabular.Split(share=0.3, validation=0.2)
    whole = converted(path, "whole", split)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 9_000)
    monkeypatch.setattr(lines, "SEGMENT_BYTES", 40_000)
    one, two = (converted(path, f"jobs{jobs}", split, jobs) for jobs in (1, 2))
    assert {n: m.digest for n, m in one.items()} == {n: m.digest for n, m in two.items()}
    packed = path.with_suffix(".csv.gz")
    with gzip.open(packed, "wb") as stream:
        stream.write(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    converted(packed, "packed", split)
    for name in whole:
        first = rows_of(path.parent / "whole" / name)
        assert first.equals(rows_of(path.parent / "jobs1" / name)), name
        assert first.equals(rows_of(path.parent / "packed" / name)), name


def test_a_validation_share_moves_no_test_row(path: Path) -> None:
    with_one, without = (converted(path, f"v{v}", tabular.Split(share=0.3, validation=v)) for v in (0.2, 0.0))
    assert with_one["test"].digest == without["test"].digest and "validation" not in without


def test_validation_rows_beside_test_files(path: Path) -> None:
    made = converted(path, "out", tabular.Split((str(path),), validation=0.25))
    assert made["test"].num_rows == ROWS and made["train"].num_rows + made["validation"].num_rows == ROWS


def test_without_shares_there_are_train_rows_alone(path: Path) -> None:
    assert list(converted(path, "out", tabular.Split())) == ["train"]


def test_a_share_that_gets_no_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,c,v\n1,0,0\n2,0,0\n")
    with pytest.raises(DataError, match="out/test: the source has no rows for it"):
        converted(tmp_path / "a.csv", "out", tabular.Split(share=0.01))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        tabular.Split(share=1.0)
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        converted(tmp_path / "a.csv", "out", tabular.Split(share=0.5, validation=0.5))
