"""The scale file, what it asks for, and the figures of what was measured."""

import csv
from pathlib import Path

import pytest

from benchmarks.scaling.measure import Measured
from benchmarks.scaling.page import write_page
from benchmarks.scaling.points import Series, series_of
from benchmarks.scaling.results import rows_of, split_of
from benchmarks.scaling.scale_file import Scale, read_scale
from benchmarks.speed.memory import Memory
from dist_mtl.errors import ConfigError
from dist_mtl.tools.study.cell_results import Code

FILE = """
dir = "DIR"
ranks = [1, 2, 4]
rows = [1_000, 8_000]
rows_per_rank = 64
global_batch = 128
[logs]
folder = "DIR/logs"
ids = 3
dense = 2
rows_per_table = 8_000
"""


def scale_of(tmp_path: Path, text: str = FILE) -> Scale:
    path = tmp_path / "scale.toml"
    path.write_text(text.replace("DIR", str(tmp_path / "out")))
    return read_scale(str(path))


def test_every_series_of_a_file(tmp_path: Path) -> None:
    series = series_of(scale_of(tmp_path))
    weak, strong, tables = "{}, {:,} rows a table", "{}, {:,} rows a table", "tables, 1 rank"
    assert [one.name for one in series] == [
        *(name.format(kind, rows) for rows in (1_000, 8_000) for kind, name in (("weak", weak), ("strong", strong))),
        tables,
    ]
    assert [(p.ranks, p.global_batch) for p in series[0].points] == [(1, 64), (2, 128), (4, 256)]
    assert [(p.ranks, p.global_batch) for p in series[1].points] == [(1, 128), (2, 128), (4, 128)]
    assert [(p.ranks, p.rows) for p in series[4].points] == [(1, 1_000), (1, 8_000)]
    for one in series:
        for point in one.points:
            config = point.config
            assert {table.rows for table in config.all_tables.values()} == {point.rows}
            assert config.train.global_batch == point.global_batch <= config.data.shuffle_rows
            assert point.weight_bytes == 3 * point.rows * 16 * 4
            assert all(f.policy == "hash" for f in config.features.values() if f.kind == "id")


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    text = 'dir = "DIR"\nranks = [1, 2]\nscaling = ["weak"]\nrows_per_rank = 64\nbase = "configs/quickstart.toml"\n'
    settings = '[settings]\n"train.epochs" = 7\n'
    [weak] = series_of(scale_of(tmp_path, text + settings))
    assert [p.rows for p in weak.points] == [None, None] and weak.name == "weak"
    assert all(p.config.train.epochs == 7 for p in weak.points)
    assert weak.points[0].config.all_tables == weak.points[1].config.all_tables
    with pytest.raises(ConfigError, match=r"rows: features.user_id has policy 'reject', and only hashed ids fit"):
        series_of(scale_of(tmp_path, text + "rows = [500]\n"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("ranks = [1, 2, 4]", "ranks = [1, 2, 2]", "ranks: a value stands there twice"),
        ("ranks = [1, 2, 4]", "ranks = [1, 3]", "global_batch: 128 rows can not be cut evenly over 3 ranks"),
        ("ranks = [1, 2, 4]", "rank = [1]", "rank is not a key; did you mean `ranks`?"),
        ("[logs]", 'base = "x.toml"\n[logs]', "base, logs: name one of the two"),
        ("ids = 3", "id = 3", "logs.id is not a key; did you mean `ids`?"),
        ("[logs]", '[settings]\n"train.global_batch" = 5\n[logs]', "settings.train.global_batch: "),
        ("[logs]", '[settings]\n"train.epoch" = 5\n[logs]', "train.epoch is not a key; did you mean `epochs`?"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        series_of(scale_of(tmp_path, FILE.replace(old, new)))
    assert says in str(caught.value)


def measured(series: Series, seconds: list[list[float]], tables: list[list[int]]) -> list[Measured]:
    """As if each point had taken so long in each round, and its ranks held so much."""
    return [
        Measured(
            series,
            point,
            True,
            times,
            [{"data": 0.001, "forward": 0.002 * rank} for rank in range(1, point.ranks + 1)],
            [{"gloo:all_reduce": 0.001 * rank} for rank in range(1, point.ranks + 1)],
            [{"device": "cpu", "table_bytes": size, "dense_bytes": 1, "device_peak": None} for size in sizes],
            memory=[Memory(10**6, 10**6 * rank) for rank in range(1, point.ranks + 1)],
        )
        for point, times, sizes in zip(series.points, seconds, tables, strict=True)
    ]


def test_the_figures_by_hand(tmp_path: Path) -> None:
    weak, strong, *_, tables = series_of(scale_of(tmp_path))
    sizes = [[4_000], [1_000, 3_000], [1_000] * 4]
    one, two, four = rows_of(measured(weak, [[1.0, 2.0, 1.0], [1.25, 2.5, 1.25], [2.0, 4.0, 2.0]], sizes))
    assert (one.gain, two.gain, four.gain) == (1.0, 0.8, 0.5)  # as many rows a rank, in 1.25 and 2 times the time
    assert (two.rows_per_second, two.step_ms) == (128 / 1.25, 1250.0)
    assert (two.tables_mb, two.tables_imbalance, four.tables_imbalance) == (0.003, 1.5, 1.0)
    assert (two.collectives_ms, two.memory_mb) == (2.0, 2.0)
    one, two, four = rows_of(measured(strong, [[1.0] * 3, [0.5] * 3, [0.5] * 3], sizes))
    assert (one.gain, two.gain, four.gain) == (1.0, 1.0, 0.5)  # a half of the time on 2 ranks is all that there is
    small, large = rows_of(measured(tables, [[1.0] * 3, [1.2, 1.3, 1.4]], [[1], [2]]))
    assert (small.gain, large.gain) == (1.0, 1.3) and large.low < 1.3 < large.high
    assert split_of(measured(weak, [[1.0]] * 3, sizes)[1]) == pytest.approx({"data wait": 1.0, "dense forward": 3.0})


def test_the_page_and_its_files(tmp_path: Path) -> None:
    scale = scale_of(tmp_path)
    weak, *_, tables = series_of(scale)
    found = measured(weak, [[1.0] * 3, [1.25] * 3, [2.0] * 3], [[4], [2, 2], [1] * 4])
    found += measured(tables, [[1.0] * 3, [1.3] * 3], [[1], [2]])
    text = write_page(scale, found, "python -m benchmarks.scaling x.toml", Code("0.1.0", "abc", False))
    assert "| 2 | 1,000 | 128 | 1250.0 | 102 | 0.80 | 0.80 to 0.80 |" in text and "commit abc" in text
    folder = Path(scale.dir)
    assert (folder / "scale.md").read_text() == text + "\n"
    with (folder / "scale.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["ranks"], row["gain"]) for row in rows[1:3]] == [
        ("weak", "2", "0.8"),
        ("weak", "4", "0.5"),
    ]
    for name in ("speed.png", "split.png"):
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000
