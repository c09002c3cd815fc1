"""Sample logs as a stream: time ascends, ids come and go, conversions come late; row i is a function of its number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import SampleLogs
from dist_mtl.config.file import load
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws, timeline
from dist_mtl.data.synthetic.logs import SHARD_ROWS, SPEC, generate, write_sample
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import DataError

ROOT = Path(__file__).parents[2]
STREAM = {"rows_per_day": 50_000, "new_ids_per_day": 0.05, "delayed": True, "cutoff_day": 2}
SHOP = SampleLogs(train_rows=200_000, test_rows=1_000, **STREAM)
WIDE = BenchmarkLogs(ids=3, rows_per_table=2_000, dense=2, **STREAM)
KINDS = pytest.mark.parametrize("spec", [SHOP, WIDE], ids=["shop", "benchmark"])


@KINDS
def test_rows_are_ordered_by_time_and_days_are_full(spec: SampleLogs | BenchmarkLogs) -> None:
    table = pa.concat_tables(generate(spec, 200_000, "train"))
    day, time = (table.column(name).to_numpy() for name in ("day", "time"))
    assert np.bincount(day).tolist() == [50_000] * 4
    assert np.all(np.diff(time) >= 0) and np.array_equal((time - timeline.FIRST_SECOND) // 86_400, day)
    by_hour = np.bincount((time - timeline.FIRST_SECOND) // 3_600 % 24)
    print(f"rows by hour: {by_hour.min()} (at {by_hour.argmin()} h) to {by_hour.max()} (at {by_hour.argmax()} h)")
    assert (by_hour.argmin(), by_hour.argmax()) in (
        (8, 20),
        (7, 19),
        (8, 19),
        (7, 20),
    ) and by_hour.max() > 5 * by_hour.min()


@KINDS
def test_a_row_does_not_depend_on_how_many_are_made_or_on_the_split(spec: SampleLogs | BenchmarkLogs) -> None:
    whole = pa.concat_tables(generate(spec, SHARD_ROWS + 500, "train"))
    part = pa.concat_tables(generate(spec, 900, "test", first_row=SHARD_ROWS - 400))
    assert part.equals(whole.slice(SHARD_ROWS - 400, 900))


@KINDS
def test_a_twentieth_of_the_living_ids_is_new_every_day(spec: SampleLogs | BenchmarkLogs) -> None:
    name, slots = ("item_id", SHOP.num_items) if spec is SHOP else ("c1", WIDE.rows_per_table)
    table = pa.concat_tables(generate(spec, 200_000, "train"))
    ids, days = table.column(name).to_numpy(), table.column("day").to_numpy()
    last_slot = ids % slots  # of a slot, the ids follow one another: none comes back
    for slot in np.unique(last_slot)[:50]:
        assert np.all(np.diff(ids[last_slot == slot]) >= 0)
    renewed = [np.mean(np.unique(ids[days == day]) >= slots) for day in range(4)]
    print(f"share of a day's ids that were born after the first second: {np.round(renewed, 3)}")
    # Born by the end of the day: 5, 10, 15, 20 %; an id that died on the day stands beside its successor.
    assert renewed == pytest.approx([0.045, 0.09, 0.14, 0.19], abs=0.02)


def test_all_slots_change_once_within_their_ids_life() -> None:
    slots = np.arange(10_000)
    born = [timeline.alive(slots, 10_000, np.full(10_000, day, float), 0.05, 7, "x") // 10_000 for day in range(21)]
    changes = np.diff(born, axis=0)
    print(f"new ids a day, of 10,000: {changes.sum(axis=1).min()} to {changes.sum(axis=1).max()}")
    assert changes.sum(axis=1) == pytest.approx(500, abs=100) and np.all(changes.sum(axis=0) == 1)
    assert np.array_equal(timeline.alive(slots, 10_000, np.zeros(10_000), 0.0), slots)


def test_conversions_come_as_late_as_measured_and_differ_by_campaign() -> None:
    campaigns = np.repeat(np.arange(1_000), 100)
    delay = timeline.delays(campaigns, 7, "train", 0)
    shares = [(delay <= limit).mean() for limit in (3_600, 86_400, 14 * 86_400)]
    print(f"within 1 h, 24 h, 14 days: {np.round(shares, 3)}")
    assert shares == pytest.approx([0.35, 0.50, 0.87], abs=0.03)
    assert 0 <= delay.min() and delay.max() <= timeline.WINDOW
    fast = (delay <= 3_600).reshape(1_000, 100).mean(axis=1)
    assert fast.std() > 2 * (0.35 * 0.65 / 100) ** 0.5  # more than chance
    assert np.array_equal(delay, timeline.delays(campaigns, 7, "train", 0))


@KINDS
def test_late_conversions_are_hidden_at_the_cutoff(spec: SampleLogs | BenchmarkLogs) -> None:
    table = pa.concat_tables(generate(spec, 200_000, "train"))
    came, time = table.column("conversion_time"), table.column("time").to_numpy()
    converted = table.column("conversion").to_numpy() == 1
    assert np.array_equal(came.is_valid().to_numpy(), converted)
    moments = came.to_numpy(zero_copy_only=False)[converted]
    assert np.all(moments >= time[converted])
    known = np.zeros(200_000, bool)
    known[converted] = moments < timeline.FIRST_SECOND + 2 * 86_400
    assert np.array_equal(table.column("conversion_seen").to_numpy() == 1, known)
    print(f"{converted.sum()} conversions, {known.sum()} of them known when day 2 begins")
    assert 0 < known.sum() < converted[time < timeline.FIRST_SECOND + 2 * 86_400].sum()


def test_logs_without_the_options_have_no_new_column() -> None:
    names = next(generate(SampleLogs(train_rows=1, test_rows=1), 1, "train")).column_names
    assert not {"conversion_time", "conversion_seen"} & set(names)
    assert not {"day", "time"} & set(next(generate(BenchmarkLogs(ids=1, dense=1), 1, "train")).column_names)


def test_the_lengths_of_histories_are_long_tailed() -> None:
    lengths = draws.lengths(random_bits(25_000, "lengths"), 100_000, 50.0)
    low, middle, high = np.quantile(lengths, [0.01, 0.5, 0.99])
    print(f"mean {lengths.mean():.1f}, P1 {low}, median {middle}, P99 {high}, longest {lengths.max()}")
    assert (
        lengths.mean() == pytest.approx(50, rel=0.02) and high > 5 * 50 and middle < 0.7 * 50 and lengths.max() == 500
    )


def test_histories_are_as_popular_as_the_columns() -> None:
    spec = BenchmarkLogs(ids=1, rows_per_table=1_000, dense=0, histories=2, history_length=20)
    table = next(generate(spec, SHARD_ROWS, "train"))
    assert table.column_names[:3] == ["c0", "h0", "h1"]
    for name in ("h0", "h1"):
        lists = table.column(name).combine_chunks()
        ids = lists.flatten().to_numpy()
        assert len(lists) == SHARD_ROWS and lists.null_count == 0 and 0 <= ids.min() and ids.max() < 1_000
        shares = [
            np.sort(np.bincount(x, minlength=1_000))[::-1][:100].sum() / len(x) for x in (ids, table["c0"].to_numpy())
        ]
        print(f"{name}: the top 10 % of the ids take {shares[0]:.3f} of the places, of c0 {shares[1]:.3f} of the rows")
        assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert not table.column("h0").equals(table.column("h1"))


def test_test_rows_of_a_stream_follow_its_train_rows(tmp_path: Path) -> None:
    spec = SHOP.model_copy(update={"train_rows": 60_000, "test_rows": 20_000})
    write_sample(spec, tmp_path / "train", tmp_path / "test")
    paths = [tmp_path / split / "part-00000.parquet" for split in ("train", "test")]
    last, first = (pq.read_table(path, columns=["time"])["time"].to_numpy() for path in paths)
    assert last.max() <= first.min() and len(first) == 20_000
    with pytest.raises(DataError, match="train_rows: 60000 -> 70000"):  # its test rows would be others
        write_sample(spec.model_copy(update={"train_rows": 70_000}), tmp_path / "other", tmp_path / "test")


def test_sample_logs_that_were_made_before_the_options_are_accepted(tmp_path: Path) -> None:
    spec = SampleLogs(train_rows=3_000, test_rows=2_000)
    write_sample(spec, tmp_path / "train", None)
    told = json.loads((tmp_path / "train" / SPEC).read_text())
    old = {key: value for key, value in told.items() if key not in STREAM}
    (tmp_path / "train" / SPEC).write_text(json.dumps(old))
    write_sample(spec, tmp_path / "train", None)
    with pytest.raises(DataError, match="delayed: False -> True"):
        write_sample(spec.model_copy(update={"delayed": True}), tmp_path / "train", None)


def test_options_that_need_another_are_refused(tmp_path: Path) -> None:
    for options, words in (
        (["--new-ids-per-day", "0.05"], "set rows_per_day"),
        (["--cutoff-day", "3"], "set delayed = true"),
        (["--kind", "benchmark", "--delayed"], "set rows_per_day"),
        (["--by-day"], "add --rows-per-day"),
        (["--new-ids-per-day", "2", "--rows-per-day", "10"], "--new-ids-per-day 2: "),
    ):
        command = [sys.executable, "-m", "dist_mtl", "synthesize", tmp_path / "out", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
        print(done.stderr.strip())
        assert done.returncode == 64 and words in done.stderr, done.stderr


def test_the_quickstart_can_be_a_stream() -> None:
    overrides = ["data.sample.rows_per_day=100_000", "data.sample.delayed=true", "data.shuffle=false"]
    config = load(ROOT / "configs/quickstart.toml", overrides)
    assert config.data.sample.rows_per_day == 100_000 and config.data.sample.delayed
