"""Damaged files on real ranks: refused before step 1 or at the page, in one message; or skipped, where wanted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import Config
from dist_mtl.tools.report.page import write as write_report
from tests.support import samples
from tests.support.harness import Cluster, Exit, events, run_script
from tests.support.workers import commit_state, error_of_train, train

FIRST, SECOND = "part-00000.parquet", "part-00001.parquet"
ROWS, GROUP = 1_200, 50


def run(folder: Path, *overrides: str, world: int = 2) -> list[Exit]:
    """launch/train.py in `folder`."""
    path = samples.write_toml(folder / "run.toml", samples.tree(folder))
    return run_script(world, "train.py", str(path), *(f"--set={text}" for text in overrides))


def refused(exits: list[Exit], *words: str) -> None:
    """Every rank ends with 65, and the first one says why in one message."""
    assert [e.code for e in exits] == [65] * len(exits), [e.stderr for e in exits]
    told = [line for line in exits[0].stderr.splitlines() if line.startswith("error: ")]
    assert told and all(word in "\n".join(told) for word in words), exits[0].stderr
    assert [e.stderr for e in exits[1:]] == [""] * (len(exits) - 1) and "Traceback" not in exits[0].stderr


def exchange(folder: Path) -> None:
    first, second = (folder / FIRST).read_bytes(), (folder / SECOND).read_bytes()
    (folder / FIRST).write_bytes(second)
    (folder / SECOND).write_bytes(first)


def without_rows(folder: Path) -> None:
    pq.write_table(samples.logs(0), folder / SECOND)


def other_columns(folder: Path) -> None:
    table = pq.read_table(folder / SECOND)
    changed = table.set_column(table.schema.get_field_index("price"), "price", table["price"].cast(pa.float32()))
    pq.write_table(changed, folder / SECOND, row_group_size=GROUP)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda folder: os.truncate(folder / SECOND, 5_000),
    "empty": lambda folder: os.truncate(folder / SECOND, 0),
    "without rows": without_rows,
    "exchanged": exchange,
    "other columns": other_columns,
}


@pytest.mark.parametrize("verify", ["full", "footer"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_refused_before_step_1(tmp_path: Path, damage: str, verify: str) -> None:
    samples.write_logs(tmp_path / "train", ROWS, files=2, group_rows=GROUP)
    DAMAGES[damage](tmp_path / "train")
    name = FIRST if damage == "exchanged" else SECOND
    refused(run(tmp_path, f"data.verify='{verify}'"), f"{name}: changed since the manifest was written", "restore it")
    assert not events(tmp_path / "run", "step")


def flip(path: Path, *row_groups: int) -> None:
    """One bit in a page of `price` in each of these row groups."""
    parsed, content = pq.read_metadata(path), bytearray(path.read_bytes())
    column = [parsed.schema.column(i).path for i in range(parsed.num_columns)].index("price")
    for group in row_groups:
        content[parsed.row_group(group).column(column).data_page_offset + 30] ^= 1
    path.write_bytes(content)


def settings(folder: Path, name: str, *overrides: str) -> Config:
    """A run of two epochs on `folder`/train with two row groups of its second file damaged."""
    fixed = (f"run.dir='{folder / name}'", "train.epochs=2", "train.checkpoint_every=10", "data.verify='footer'")
    return samples.config(folder, *fixed, "data.quarantine=2", "data.shuffle_rows=192", *overrides, sharding="row_wise")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    samples.write_logs(folder / "train", ROWS, files=2, group_rows=GROUP)
    flip(folder / "train" / SECOND, 3, 7)
    return folder


@pytest.fixture(scope="module")
def whole(damaged: Path) -> Path:
    """A run on two ranks that was never interrupted."""
    Cluster(2).run(train, settings(damaged, "whole"))
    return damaged / "whole"


def test_at_the_page_one_too_many_ends_the_run(damaged: Path, tmp_path: Path) -> None:
    """Off, and over the budget: 65 on both ranks, told once, with the file and the row group."""
    shutil.copytree(damaged / "train", tmp_path / "train")
    common = ("data.verify='footer'", "data.shuffle_rows=192")
    refused(
        run(tmp_path, *common), f"{SECOND}, row group ", "damaged or unreadable (the CRC-32 of column `price` differs"
    )
    one = run(tmp_path, *common, "data.quarantine=1")
    refused(
        one, "data.quarantine = 1: 2 row groups (100 rows) are damaged, the last one is row group ", f" of {SECOND}"
    )
    [lost] = events(tmp_path / "run", "quarantine")
    assert lost["path"] == SECOND and lost["rows"] == GROUP and "CRC-32 of column `price`" in lost["reason"]
    assert one[0].stderr.count("quarantine   ") == 1


def test_skipped_told_and_counted(damaged: Path, whole: Path) -> None:
    told = events(whole, "quarantine")
    assert sorted((e["path"], e["row_group"], e["rows"]) for e in told) == [(SECOND, 3, GROUP), (SECOND, 7, GROUP)]
    [counts] = events(whole, "counts")
    assert (counts["quarantined"], counts["lost"]) == (2 * 2 * GROUP, 2)
    newest = sorted(whole.glob("checkpoints/step-*/commit.json"))[-1]
    kept = json.loads(newest.read_text())
    assert sorted((one["path"], one["row_group"]) for one in kept["lost"]) == [(SECOND, 3), (SECOND, 7)]
    assert kept["counts"]["quarantined"] == 200
    page = write_report(str(whole), None).read_text()
    assert f"2 damaged row groups of {SECOND} skipped, 200 rows over all epochs" in page
    assert f"{SECOND}, row group 3: 50 rows skipped" in page


@pytest.mark.parametrize("stops", [(7,), (10, 23)])
def test_resumed_it_counts_on_with_the_same_bits(damaged: Path, whole: Path, stops: tuple[int, ...]) -> None:
    """Stopped within a window and within an epoch; the last start finds the files restored, and skips the same."""
    name = f"resumed{len(stops)}"
    good = damaged / f"good{len(stops)}"
    samples.write_logs(good / "train", ROWS, files=2, group_rows=GROUP)
    for stop in stops:
        Cluster(2).run(train, settings(damaged, name, f"train.max_steps={stop}"))
    lost = json.loads(sorted((damaged / name).glob("checkpoints/step-*/commit.json"))[-1].read_text())["lost"]
    place = good if len(lost) == 2 else damaged
    Cluster(2).run(train, settings(damaged, name, f"data.train='{place / 'train'}'"))
    print(f"stopped at {stops}: {len(lost)} row groups known by then, then trained on {place.name}")
    [counts] = events(damaged / name, "counts")[-1:]
    assert (counts["quarantined"], counts["lost"]) == (200, 2)
    ours, theirs = (commit_state(sorted(run.glob("checkpoints/step-*"))[-1]) for run in (damaged / name, whole))
    assert [key for key in theirs if ours[key].tobytes() != theirs[key].tobytes()] == [] and len(theirs) > 40


@pytest.mark.parametrize("world", [1, 4])
def test_other_world_sizes_skip_the_same(damaged: Path, whole: Path, world: int) -> None:
    Cluster(world).run(train, settings(damaged, f"world{world}"))
    ours, theirs = ({e["step"]: e["loss"] for e in events(run, "step")} for run in (damaged / f"world{world}", whole))
    gap = max(abs(ours[step] - theirs[step]) for step in theirs)
    print(f"{world} ranks against 2: max difference of {len(theirs)} losses {gap:.1e}")
    assert ours.keys() == theirs.keys() and gap < 1e-5
    found = [{(e["path"], e["row_group"]): e["step"] for e in events(run, "quarantine")}
             for run in (damaged / f"world{world}", whole)]  # fmt: skip
    assert found[0] == found[1]


def test_a_smaller_budget_later_is_refused(damaged: Path, whole: Path) -> None:
    """The rows of a commit are gone from its weights; a run can not go on as if they had been there."""
    shutil.copytree(whole, damaged / "stricter")
    longer = settings(damaged, "stricter", "data.quarantine=1", "train.epochs=3")
    for name, message, code in Cluster(2).run(error_of_train, longer):
        assert (name, code) == ("DataError", 65) and "data.quarantine = 1: 2 row groups" in message


def test_a_step_of_nothing_but_lost_rows(tmp_path: Path) -> None:
    """In file order a row group fills whole steps: they are taken, and give no NaN."""
    samples.write_logs(tmp_path / "train", 1_024, files=2, group_rows=256)
    flip(tmp_path / "train" / SECOND, 0)
    options = ("data.shuffle=false", "data.quarantine=1", "data.shuffle_rows=64", "data.verify='footer'")
    one = samples.config(tmp_path, *options, "train.global_batch=32", "train.epochs=1")
    Cluster(2).run(train, one)
    assert [e["step"] for e in events(tmp_path / "run", "step")] == list(range(1, 33))
    [counts] = events(tmp_path / "run", "counts")
    assert counts["quarantined"] == 256


def test_evaluation_skips_nothing(damaged: Path, whole: Path) -> None:
    exits = run_script(2, "evaluate.py", str(whole), f"--data={damaged / 'train'}")
    refused(exits, f"{SECOND}, row group ", "damaged or unreadable")
    exits = run_script(2, "predict.py", str(whole), str(damaged / "train"), str(damaged / "scores"))
    refused(exits, f"{SECOND}, row group ")
    assert not (damaged / "scores").exists()
