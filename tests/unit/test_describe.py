"""A description against pandas, every planted fault found, and a suggested configuration that trains."""

import tomllib
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dist_mtl.config import Config, SampleLogs
from dist_mtl.config.file import parse
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.synthetic.bulk import Order, make_logs
from dist_mtl.data.synthetic.logs import write_logs
from dist_mtl.errors import DataError
from dist_mtl.tools.describe import html as page
from dist_mtl.tools.describe import sampling, scan, summary_tables
from dist_mtl.tools.describe.description import Description, Wish, describe, longer_than, mean_std, quantile
from dist_mtl.tools.describe.findings import findings, has_bad
from dist_mtl.tools.describe.suggested_config import suggestion
from tests.support.harness import run_script, run_verb
from tests.support.report_run import Document

ROWS, PER_DAY = 60_000, 10_000
DAYS = [f"2025-03-{day:02d}" for day in range(1, 7)]


def rows(seed: int = 0, count: int = ROWS) -> dict[str, np.ndarray | pa.Array]:
    """Six days of logs without a fault; labels follow the user and the price."""
    draw = np.random.default_rng(seed)
    user, price = draw.zipf(1.3, count) % 9_000, draw.lognormal(2, 1, count)
    click = draw.random(count) < 1 / (1 + np.exp(2.5 - (user % 7 - 3) * 0.4 - 0.3 * (np.log(price) - 2)))
    lengths = draw.integers(0, 40, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {
        "day": np.repeat(DAYS, count // len(DAYS)),
        "user": user - 50,
        "item": np.array([f"item-{i}" for i in draw.integers(0, 6_000, count)]),
        "kind": draw.integers(0, 8, count),
        "age": pa.array(draw.integers(16, 80, count), mask=draw.random(count) < 0.1),
        "price": price.astype(np.float32),
        "score": pa.array(draw.normal(5, 2, count), mask=draw.random(count) < 0.02),
        "tags": pa.ListArray.from_arrays(offsets, draw.integers(0, 500, offsets[-1])),
        "click": click.astype(np.int8),
        "conversion": (click & (draw.random(count) < 0.3)).astype(np.int8),
    }


def written(folder: Path, columns: dict[str, np.ndarray | pa.Array], **layout: int) -> str:
    write_dataset(folder, [pa.table(columns)], **({"file_rows": 25_000, "row_group_rows": 4_000} | layout))
    return str(folder)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Description, pd.DataFrame]:
    columns = rows()
    folder = written(tmp_path_factory.mktemp("logs") / "train", columns)
    return describe(Wish(folder)), pa.table(columns).to_pandas()


def text_of(description: Description) -> str:
    return "\n".join(f"{one.tone}: {one.text} {one.what}" for one in findings(description))


def test_figures_are_those_of_pandas(logs: tuple[Description, pd.DataFrame]) -> None:
    description, frame = logs
    assert description.counts.rows == ROWS and len(description.manifest.files) == 3
    for name in ("user", "kind", "age", "price", "score"):
        seen, truth = description.columns[name], frame[name]
        assert (seen.nulls + seen.nan, seen.zeros) == (truth.isna().sum(), (truth == 0).sum())
        assert (seen.lowest, seen.highest) == (truth.min(), truth.max())
        assert mean_std(seen) == pytest.approx((truth.mean(), truth.std(ddof=0)), rel=1e-6)
        for share in (0.01, 0.25, 0.5, 0.75, 0.99):
            below = (truth < (found := quantile(seen, share))).mean(), (truth <= found).mean()
            print(f"{name}: P{100 * share:g} {found:.4g}, of {below[0]:.4f} to {below[1]:.4f} of the rows")
            filled = 1 - truth.isna().mean()
            assert below[0] - 0.006 <= share * filled <= below[1] + 0.006
    for name in ("user", "item", "kind"):
        seen, truth = description.columns[name], frame[name].value_counts()
        exact = seen.cardinality.is_exact
        assert seen.cardinality.count == (len(truth) if exact else pytest.approx(len(truth), rel=0.06))
        counted = dict(zip(seen.column.words, seen.watched.tolist(), strict=True))
        assert all(counted[word] == truth[type(truth.index[0])(word)] for word in counted)
        if name != "item":  # its values are all alike
            assert counted[str(truth.index[0])] == truth.iloc[0]
    lengths = frame["tags"].map(len)
    tags = description.columns["tags"]
    assert (tags.lowest, tags.highest, tags.elements) == (lengths.min(), lengths.max(), lengths.sum())
    assert quantile(tags, 0.99) == np.quantile(lengths, 0.99) and longer_than(tags, 20) == (lengths > 20).sum()
    assert tags.cardinality.count == frame["tags"].explode().nunique()


def test_labels_and_days_are_those_of_pandas(logs: tuple[Description, pd.DataFrame]) -> None:
    description, frame = logs
    assert [task.name for task in description.outcomes.tasks] == ["click", "conversion given click", "conversion"]
    by_day = frame.groupby("day")
    assert [day.key for day in description.days] == DAYS and {day.rows for day in description.days} == {PER_DAY}
    clicked = frame[frame.click == 1].groupby("day")
    expected = np.stack([by_day.click.mean(), clicked.conversion.mean(), by_day.conversion.mean()], axis=1)
    assert np.allclose([day.rates for day in description.days], expected)


def test_clean_logs_are_told_to_be_clean(logs: tuple[Description, pd.DataFrame]) -> None:
    description, _ = logs
    print(text_of(description))
    assert not has_bad(description) and not description.suspects and description.counts.duplicates.extra == 0
    assert not [one for one in findings(description) if "PSI" in one.text and one.tone != "plain"]


def test_the_result_depends_on_neither_ranks_nor_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = rows(count=12_000)
    one = written(tmp_path / "one", columns)
    monkeypatch.setattr(scan, "PART_ROWS", 3_000)  # of the processes, too: parts are cut here
    alone, together = (describe(Wish(one, ranks=ranks)) for ranks in (1, 2))
    other = describe(Wish(written(tmp_path / "other", columns, row_group_rows=1_700)))
    for a, b in zip(summary_tables.tables(alone), summary_tables.tables(together), strict=True):
        assert a == b
    for name, seen in alone.columns.items():
        theirs = other.columns[name]
        assert (seen.nulls, seen.zeros, seen.lowest, seen.elements) == (
            theirs.nulls,
            theirs.zeros,
            theirs.lowest,
            theirs.elements,
        )
        assert np.array_equal(seen.bins.sum(axis=0), theirs.bins.sum(axis=0))
        assert seen.sums == pytest.approx(theirs.sums) and together.columns[name].sums.tolist() == seen.sums.tolist()
        if seen.values is not None:
            assert np.array_equal(seen.values.counts.sum(axis=1), theirs.values.counts.sum(axis=1))


def test_every_planted_fault_is_found(tmp_path: Path) -> None:
    columns, draw = rows(), np.random.default_rng(5)
    click, conversion = columns["click"], columns["conversion"]
    strays = np.flatnonzero(click == 0)[:7]
    conversion[strays] = 1
    columns["paid"] = np.where(conversion == 1, draw.lognormal(3, 1, ROWS), 0.0).astype(np.float32)  # a number
    columns["order"] = pa.array(draw.integers(0, 2**40, ROWS), mask=conversion == 0)  # being there
    columns["session"] = draw.permutation(ROWS)  # an id of each row's own: no leak
    fourth = slice(3 * PER_DAY, 4 * PER_DAY)
    columns["price"][fourth] *= 5
    click[fourth] |= (draw.random(PER_DAY) < 0.2).astype(np.int8)
    columns["page"] = 2 * draw.integers(0, 2_000, ROWS) + click  # by its ids
    columns["empty"] = pa.nulls(ROWS, pa.int64())
    table = pa.table(columns)
    table = pa.concat_tables([table, table.slice(100, 900)])  # copies, of another day's end
    write_dataset(tmp_path / "train", [table], file_rows=25_000, row_group_rows=4_000)
    description = describe(Wish(str(tmp_path / "train")))
    said = text_of(description)
    print(said)
    assert {name: signal.how for name, signal in description.suspects.items()} == {
        "paid": "number",
        "order": "missing",
        "page": "value",
    }
    assert "bad: `conversion` is 1 where `click` is 0 in 7 rows" in said
    assert description.counts.duplicates.extra == 900 and "look: 900 rows (1.478" in said
    assert "The rate of `click` is not the usual" in said and "on 1 day: 2025-03-04 (" in said
    assert "`price` (" in said and "on 2025-03-04" in said
    assert "`empty` is always missing" in said
    suggested = parse(tomllib.loads(suggestion(description)))
    assert not {"paid", "order", "page", "session", "empty", "day"} & suggested.features.keys()
    assert suggested.data.violations == "drop"


def test_bad_labels_and_values_that_training_refuses(tmp_path: Path) -> None:
    columns = rows(count=6_000)
    columns["conversion"] = pa.array(
        np.where(np.arange(6_000) == 7, 2, columns["conversion"]), mask=np.arange(6_000) == 9
    )
    columns["price"][5] = np.inf
    config = against(tmp_path, written(tmp_path / "train", columns), 'features.age.null="reject"')
    said = text_of(describe(Wish(str(tmp_path / "train"), config)))
    print(said)
    assert "bad: Label `conversion` is null in 1 row and neither 0 nor 1 in 1." in said
    assert "bad: `price` is infinite in 1 row" in said and "null = 'reject'" in said


def against(tmp_path: Path, folder: str, *overrides: str) -> Config:
    """A configuration for the logs above."""
    tree = {
        "run": {"dir": str(tmp_path / "run")},
        "data": {"train": folder},
        "tables": {"user": {"rows": 4_000}, "kind": {"rows": 7}, "tags": {"rows": 100_000}},
        "features": {
            "user": {"kind": "id"},
            "kind": {"kind": "id", "policy": "reject"},
            "tags": {"kind": "bag", "max_length": 10},
            "age": {"kind": "dense", "mean": 48, "std": 18},
            "price": {"kind": "dense", "log": True},
            "score": {"kind": "dense", "mean": 500},
        },
    }
    return parse(tree, overrides)


def test_a_configuration_is_compared_with_the_data(tmp_path: Path) -> None:
    columns = rows(count=12_000)
    folder = written(tmp_path / "train", columns)
    frame = pa.table(columns).to_pandas()
    description = describe(Wish(folder, against(tmp_path, folder)))
    said = text_of(description)
    print(said)
    tables = {table.name: table for table in description.tables}
    assert tables["kind"].outside == (frame.kind > 6).sum() and "bad: tables.kind: " in said
    ids = frame.user.nunique()
    place = np.random.default_rng(0).integers(0, 4_000, (50, ids))
    shared = np.mean([(np.bincount(row, minlength=4_000)[row] > 1).mean() for row in place])
    assert tables["user"].sharing == pytest.approx(shared, abs=0.01)
    cut = (frame.tags.map(len) > 10).mean()
    assert f"max_length = 10 cuts {100 * cut:.1f}" in said
    assert "features.score: the data have mean 5" in said and "features.age" not in said
    wrong = against(tmp_path, folder, 'features.color={kind="dense"}')
    assert "bad: " in text_of(described := describe(Wish(folder, wrong))) and "no column `color`" in described.unfit[0]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e300, "the year 11,000"])
def test_a_time_that_no_calendar_has_is_a_row_without_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: float | str
) -> None:
    """It stands behind the rows that the first look takes."""
    count, zeros = 20_000, np.zeros(20_000, np.int8)
    time = 1.7e9 + np.arange(count) * 10.0
    if isinstance(odd, str):
        time[-2:] = 9_000 * 365.25 * 86_400 + 1.7e9
        array = pa.array(time.astype(np.int64).astype("datetime64[s]"))
    else:
        time[-2:] = odd
        array = pa.array(time)
    table = pa.table({"time": array, "click": zeros, "conversion": zeros})
    write_dataset(tmp_path / "logs", [table], row_group_rows=4_096)
    monkeypatch.setattr(sampling, "LOOKED_AT", 4_000)
    found = describe(Wish(str(tmp_path / "logs")))
    assert found.counts.no_day == 2 and sum(day.rows for day in found.days) == count - 2
    assert "2 rows have no `time`, so no day" in text_of(found)


def test_a_column_of_moments_as_text_does_not_fill_the_memory(tmp_path: Path) -> None:
    """20,000 "days" of 22 columns, at 32 bins each, would be 113 MB a slice."""
    count = 20_000
    columns = {f"c{i}": np.arange(count) % 7 for i in range(20)} | {"dt": [f"2024-01-01 {i}" for i in range(count)]}
    write_dataset(tmp_path / "logs", [pa.table(columns | {"click": np.zeros(count, np.int8)})])
    tracemalloc.start()
    found = describe(Wish(str(tmp_path / "logs")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{peak / 1e6:.0f} MB at most")
    assert found.counts.too_many_days and not found.days and peak < 60e6


def test_days_come_from_partitions_times_and_names(tmp_path: Path) -> None:
    columns = rows(count=6_000)
    dates = columns.pop("day")
    seconds = (np.array(dates, "datetime64[s]").astype(np.int64) + 3_600).tolist()
    for name, values in (
        ("time", pa.array(seconds)),
        ("ts", pa.array(np.array(seconds) * 1_000)),
        ("at", pa.array(np.array(seconds, "datetime64[s]"))),
        ("dt", pa.array([int(date.replace("-", "")) for date in dates])),
    ):
        found = describe(Wish(written(tmp_path / name, columns | {name: values})))
        plan = found.counts.plan
        words = [plan.day.word(day.key) for day in found.days]
        print(name, plan.day, words[:2])
        assert words == (DAYS if name != "dt" else [day.replace("-", "") for day in DAYS])
        assert parse(tomllib.loads(suggestion(found))).features.keys().isdisjoint({name})
    with pytest.raises(DataError, match="--day"):
        describe(Wish(str(tmp_path / "time"), day="tags"))
    assert describe(Wish(str(tmp_path / "at"), day="kind")).days[0].key == 0


def test_the_page_refers_to_nothing_and_escapes_what_data_hold(tmp_path: Path) -> None:
    columns = rows(count=6_000)
    columns["<script>x"] = np.where(np.arange(6_000) % 2, "<img src=//x>", "{{ 7 * 7 }}")
    html = page.render(describe(Wish(written(tmp_path / "train", columns))))
    document = Document(html)
    assert not {"script", "img", "link"} - {"link"} & set(document.tags)
    assert not [one for one in document.attributes if one[1] in ("src", "action") or one[1].startswith("on")]
    assert "http" not in html.replace("http-equiv", "") and "{{ 7 * 7 }}" in document.text
    for words in ("Days", "A configuration to start from", "What single columns tell", "1 − (1 − 1/m)"):
        assert words in document.text or words.startswith("1 ")


def test_the_planted_truth_of_sample_logs_is_no_feature(tmp_path: Path) -> None:
    spec = SampleLogs(train_rows=1, test_rows=1, rows_per_day=3_000, delayed=True, cutoff_day=1)
    make_logs(Order(spec, "train", 6_000, by_day=True), tmp_path / "train")
    description = describe(Wish(f"{tmp_path / 'train'}?day=2025-01-01..2025-01-02"))  # a range has no ceiling
    features = parse(tomllib.loads(suggestion(description))).features.keys()
    hidden = {"true_ctr", "true_cvr", "true_ctcvr", "rho", "conversion_seen", "conversion_time", "day", "time"}
    assert features.isdisjoint(hidden) and {"segment", "price", "history"} <= features


def test_the_script_describes_and_its_suggestion_trains(tmp_path: Path) -> None:
    """In real processes: the sample logs, some steps of the suggested configuration, and --strict."""
    train, mine, html = (str(tmp_path / name) for name in ("train", "mine.toml", "report.html"))
    write_logs(SampleLogs(train_rows=1, test_rows=1), train, 20_000, "train")
    [done] = run_verb(1, "describe", train, "--suggest", mine, "--html", html, "--strict")
    assert done.code == 0, done.stderr
    assert "20,000 rows" in done.stdout and "A configuration to start from" in done.stdout and Path(html).exists()
    [trained] = run_script(
        1, "train.py", mine, "--set=train.max_steps=3", "--set=run.device=cpu", f"--set=run.dir={tmp_path / 'run'}"
    )
    assert trained.code == 0 and "3/3" in trained.stdout + trained.stderr, trained.stdout + trained.stderr
    [again] = run_verb(1, "describe", train, "--suggest", mine)
    assert again.code == 64 and "does not exist yet" in again.stderr
    write_dataset(tmp_path / "bad", [pa.table({"click": [0, 1] * 50, "conversion": [0] * 100, "seen": [1, 0] * 50})])
    [strict], [plain] = (run_verb(1, "describe", str(tmp_path / "bad"), *o) for o in (["--strict"], []))
    print(strict.stderr.strip().splitlines()[-1])
    assert (strict.code, plain.code) == (65, 0) and "✗ `seen` tells `click`" in plain.stdout
    [absent] = run_verb(1, "describe", str(tmp_path / "nowhere"))
    assert absent.code == 65 and "Traceback" not in absent.stderr and "no such" in absent.stderr
