"""Datasets by URL and by partition, on real ranks and through every script that takes one."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dist_mtl.data.files import manifest
from tests.support import samples
from tests.support.harness import Exit, events, run_script, run_verb

DAYS = [f"2024-01-0{day}" for day in range(1, 7)]
ROWS = 200  # a day


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days, train on four of them by URL, test on the fifth, the last is left; listed by the script."""
    folder = tmp_path_factory.mktemp("places")
    table = samples.logs(ROWS * len(DAYS))
    for i, day in enumerate(DAYS):
        (folder / "logs" / f"day={day}").mkdir(parents=True)
        pq.write_table(table.slice(i * ROWS, ROWS), folder / "logs" / f"day={day}" / "x.parquet", row_group_size=50)
    [listed] = run_verb(1, "convert", "manifest", (folder / "logs").as_uri())
    assert listed.code == 0 and "1,200 rows in 6 files" in listed.stdout and "all of them read" in listed.stdout
    return folder


def toml(folder: Path, name: str, *, url: bool) -> Path:
    """A run on the logs, as a user would write it down."""
    tree = samples.tree(folder)
    logs = (folder / "logs").as_uri() if url else str(folder / "logs")
    tree["run"]["dir"] = str(folder / name)
    tree["data"] |= {"train": logs, "test": logs, "partitions.day": [DAYS[0], DAYS[3]]}
    tree["data"] |= {"test_partitions.day": [DAYS[4], DAYS[4]]}
    tree["features"]["day"] = {"kind": "id"}
    tree["tables"]["day"] = {"rows": 50, "dim": 8}
    tree["metrics"] = {"slices": ["day"], "groups": ["day"]}
    return samples.write_toml(folder / f"{name}.toml", tree)


@pytest.fixture(scope="module")
def by_url(folder: Path) -> Path:
    done(run_script(2, "train.py", str(toml(folder, "by_url", url=True))))
    return folder / "by_url"


def done(exits: list[Exit]) -> str:
    """What the first rank said on stdout."""
    assert [e.code for e in exits] == [0] * len(exits), [e.stderr for e in exits]
    return exits[0].stdout


def test_a_url_trains_as_a_path(folder: Path, by_url: Path) -> None:
    """The same rows, the same losses to the bit, and the manifest's digest is that of the days in range."""
    done(run_script(2, "train.py", str(toml(folder, "by_path", url=False))))
    losses = [[e["loss"] for e in events(folder / name, "step")] for name in ("by_url", "by_path")]
    assert losses[0] == losses[1] and len(losses[0]) == -(-4 * ROWS // 64)
    [start] = events(by_url, "start")
    train, test = start["data"]["train"], start["data"]["test"]
    logs = (folder / "logs").as_uri()
    assert (
        train["folder"] == f"{logs}?day={DAYS[0]}..{DAYS[3]}" and test["folder"] == f"{logs}?day={DAYS[4]}..{DAYS[4]}"
    )
    assert (train["rows"], test["rows"]) == (4 * ROWS, ROWS) and train["columns"]["day"] == "string"
    assert train["digest"] == manifest.read(f"{folder / 'logs'}?day={DAYS[0]}..{DAYS[3]}").digest
    [evaluation] = events(by_url, "evaluation")
    assert evaluation["data"] == test["folder"] and list(evaluation["slices"]["day"]) == [DAYS[4]]


def test_a_day_that_comes_later_does_not_end_a_run(folder: Path, by_url: Path) -> None:
    """New partitions in the folder, outside the range: a longer run goes on from the commit."""
    late = folder / "logs" / "day=2024-01-09" / "x.parquet"
    late.parent.mkdir()
    pq.write_table(samples.logs(50), late)
    told = done(run_verb(1, "convert", "manifest", str(folder / "logs"), "--append"))
    assert "6 kept as they were listed, 1 read, 0 gone" in told
    done(run_script(2, "train.py", str(folder / "by_url.toml"), "--set=train.epochs=2"))
    assert [e["step"] for e in events(by_url, "resume")] == [13]


@pytest.mark.parametrize("url", [True, False])
def test_scripts_take_a_range_with_the_folder(folder: Path, by_url: Path, url: bool) -> None:
    place = f"{(folder / 'logs').as_uri() if url else folder / 'logs'}?day={DAYS[5]}..{DAYS[5]}"
    out = folder / f"evaluation{url}.json"
    done(run_script(2, "evaluate.py", str(by_url), f"--data={place}", f"--json={out}"))
    found = json.loads(out.read_text())
    assert found["rows"] == ROWS and list(found["slices"]["day"]) == [DAYS[5]]
    scores = folder / f"scores{url}"
    done(run_script(2, "predict.py", str(by_url), place, str(scores), "--keep=row"))
    rows = samples.rows_of(scores)
    assert rows["row"].to_pylist() == list(range(5 * ROWS, 6 * ROWS)) and set(rows["day"].to_pylist()) == {DAYS[5]}
    told = done(run_script(2, "recalibrate.py", str(by_url), place, "--tasks=ctr"))
    assert "before, on" in told


def test_compare_takes_the_days_of_both(folder: Path, by_url: Path) -> None:
    """Two runs whose data.test is one range of one folder have a test set in common."""
    name = "other"
    done(run_script(2, "train.py", str(toml(folder, name, url=True)), "--set=seed=5"))
    told = done(run_script(2, "compare.py", str(by_url), str(folder / name)))
    assert "200" in told and f"day={DAYS[4]}" in told


def test_days_that_were_trained_on_are_refused_or_told(folder: Path, by_url: Path) -> None:
    place = f"{(folder / 'logs').as_uri()}?day={DAYS[3]}..{DAYS[4]}"
    exits = run_script(2, "recalibrate.py", str(by_url), place)
    assert [e.code for e in exits] == [65, 65] and "trained on these very rows or on some of them" in exits[0].stderr


def test_a_range_without_a_file(folder: Path, by_url: Path) -> None:
    exits = run_script(
        2, "train.py", str(folder / "by_url.toml"), "--set=data.partitions={day=['2025-01-01', '2025-01-02']}"
    )
    assert [e.code for e in exits] == [65, 65]
    assert (
        "no file with `day` from 2025-01-01 to 2025-01-02; there are 7 values: 2024-01-01 to 2024-01-09"
        in exits[0].stderr
    )


def test_predictions_go_to_a_local_folder(folder: Path, by_url: Path) -> None:
    exits = run_script(2, "predict.py", str(by_url), str(folder / "logs"), "memory://out")
    assert [e.code for e in exits] == [64, 64] and "a dataset is written to a local folder" in exits[0].stderr
