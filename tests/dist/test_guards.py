"""A value that is no number reaches no weight: at any site, on any rank, the run stops or does without that step."""

import json
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config import Config
from dist_mtl.data.files.writer import write_dataset
from tests.support import samples
from tests.support.fault_lane import LONG
from tests.support.guard_workers import run_cli, trained
from tests.support.harness import Cluster, Exit, RankFailure, events, run_script
from tests.support.workers import commit_state

SITES = ("label", "dense", "weight", "logits", "gradient", "dense gradient")
STEPS = 16
# Every site on either rank, at steps that also begin the run, follow each other, and end it.
PLAN = {step: (site, rank) for step, (site, rank) in zip(
    (1, 2, 4, 5, 6, 7, 9, 11, 12, 13, 14, 16), [(site, rank) for rank in (1, 0) for site in SITES], strict=True
)}  # fmt: skip
VARIANTS = {
    "row_wise": ("row_wise", ()),
    "data_parallel": ("data_parallel", ()),
    "sparse_dist, decay": ("row_wise", ("sharding.pipeline='sparse_dist'", "optim.decay='linear'")),
    "semi_sync, decay": ("row_wise", ("sharding.pipeline='semi_sync'", "optim.decay='linear'")),
    "pcgrad, diagnosed": ("table_wise", ("model.balance='pcgrad'", "diagnose.every=2")),
    "uncertainty, dynamic": (
        "row_wise",
        ("model.balance='uncertainty'", "features.user.policy='dynamic'", "tables.user={rows=200, dim=16, dynamic={}}"),
    ),
    "adaftr, dropout, decay": (
        "table_wise",
        (
            "model.alignment={kind='adaftr', negatives='all'}",
            "model.dropout=0.2",
            "optim.decay='cosine'",
            "optim.dense.warmup_steps=5",
        ),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    return folder


def settings(folder: Path, run: str, *overrides: str, sharding: str = "row_wise") -> Config:
    # In `esmm` a label is asked whether it is above 0, so one that is no number would be a 0.
    head = "model.head='ctcvr'"
    fixed = (
        head,
        f"run.dir='{folder / run}'",
        f"train.max_steps={STEPS}",
        "train.checkpoint_every=4",
        "train.log_every=3",
    )
    return samples.config(folder, *fixed, *overrides, sharding=sharding)


def state_of(run: Path, step: int) -> dict[str, np.ndarray]:
    return commit_state(run / f"checkpoints/step-{step:010d}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_without_some_steps_equals_one_that_never_trained_them(folder: Path, variant: str) -> None:
    """Bit for bit: weights, both optimizers' states, the window of metrics, the map of dynamic tables."""
    sharding, overrides = VARIANTS[variant]
    overrides = (*overrides, f"train.skip_nonfinite={len(PLAN)}")
    runs = {name: f"{variant} {name}" for name in ("skipped", "reference")}
    rows = {
        name: Cluster(2).run(trained, settings(folder, run, *overrides, sharding=sharding), PLAN, name == "reference")
        for name, run in runs.items()
    }
    skipped, reference = (state_of(folder / run, STEPS) for run in runs.values())
    different = [name for name, value in skipped.items() if value.tobytes() != reference[name].tobytes()]
    print(f"{variant}: {len(PLAN)} of {STEPS} steps skipped, {len(different)} of {len(skipped)} tensors differ")
    assert skipped.keys() == reference.keys() and len(skipped) > 30 and not different
    assert all(np.isfinite(value).all() for value in skipped.values())
    first = state_of(folder / runs["skipped"], 12)
    assert any(value.tobytes() != first[name].tobytes() for name, value in skipped.items()), "nothing was trained"

    told = events(folder / runs["skipped"], "skip")
    assert [e["step"] for e in told] == list(PLAN) and told[-1]["skipped"] == len(PLAN)
    assert events(folder / runs["skipped"], "counts")[0]["skipped"] == len(PLAN)
    without_loss = [e["step"] for e in events(folder / runs["skipped"], "step") if e["loss"] is None]
    assert without_loss == [6, 16], "lines of steps 4 to 6, and of 16: none of them was trained"
    assert rows["skipped"] == rows["reference"]
    lines = [json.loads(line) for line in (folder / runs["skipped"] / "bad_steps.jsonl").read_text().splitlines()]
    for line, (step, (site, rank)) in zip(lines, PLAN.items(), strict=True):
        saw = [one["rank"] for one in line["ranks"] if not one["finite"]]
        expected = [] if site == "dense gradient" else [rank]
        # Alignment compares with rows of all ranks, so there the others see what is wrong with one.
        assert line["step"] == step and (saw == expected or "adaftr" in variant and set(expected) <= set(saw)), site
        for one in line["ranks"]:
            numbers = [n for group in one["rows"] for n in numbers_of(group)]
            assert sorted(numbers) == sorted(n for n in rows["skipped"][one["rank"]][step] if n >= 0)


def numbers_of(group: dict) -> list[int]:
    """The numbers of the rows that a line of bad_steps.jsonl names: 1,500 rows a file, 100 a row group."""
    first = int(group["path"][5:10]) * 1500 + group["row_group"] * 100
    return [first + n for start, stop in group["ranges"] for n in range(start, stop)]


@pytest.mark.parametrize("rank", [0, 1] if LONG else [1])
@pytest.mark.parametrize("site", SITES)
def test_a_run_stops_before_a_weight_has_changed(folder: Path, site: str, rank: int) -> None:
    """Every rank ends with the same error; the newest commit is that of the step before, and finite."""
    run = folder / f"stop {site} {rank}"
    with pytest.raises(RankFailure) as caught:
        Cluster(2).run(trained, settings(folder, run.name), {5: (site, rank)})
    told = [e.trace.strip().splitlines()[-2:] for e in caught.value.exits]
    print(told[0][0])
    where = "once summed over the ranks" if site == "dense gradient" else f"on rank {rank}"
    for lines in told:
        assert "NonFiniteError: step 5: the losses are click " in lines[0] and f"not finite {where}" in lines[0]
        assert f"its rows are in {run / 'bad_steps.jsonl'}" in lines[0] and "Lower optim.dense.lr" in lines[0]
    assert [e["step"] for e in events(run, "commit")] == [4]
    state = state_of(run, 4)
    assert all(np.isfinite(value).all() for value in state.values())
    assert len((run / "bad_steps.jsonl").read_text().splitlines()) == 1


def test_the_budget_holds_over_restarts(folder: Path) -> None:
    """Two steps may be skipped: one before a restart, one after it; the third ends the run with 65."""
    run = folder / "budget"
    plan = {3: ("label", 0), 9: ("logits", 1), 14: ("gradient", 0)}
    Cluster(2).run(trained, settings(folder, run.name, "train.skip_nonfinite=2", "train.max_steps=8"), plan)
    with pytest.raises(RankFailure) as caught:
        Cluster(2).run(trained, settings(folder, run.name, "train.skip_nonfinite=2"), plan)
    assert all("step 14: the losses" in e.trace for e in caught.value.exits)
    assert all("2 steps were skipped before, as many as train.skip_nonfinite" in e.trace for e in caught.value.exits)
    assert [(e["step"], e["skipped"]) for e in events(run, "skip")] == [(3, 1), (9, 2)]
    counted = json.loads((run / "checkpoints/step-0000000012/commit.json").read_text())["counts"]["skipped"]
    assert counted == 2
    Cluster(2).run(trained, settings(folder, run.name, "train.skip_nonfinite=3"), plan)  # a larger budget goes on
    assert events(run, "counts")[-1]["skipped"] == 3


def told(exits: list[Exit]) -> str:
    """What the first rank said; the others say nothing, and all end with 65."""
    assert [e.code for e in exits] == [65] * len(exits), [e.stderr for e in exits]
    assert [e.stderr for e in exits[1:]] == [""] * (len(exits) - 1)
    return exits[0].stderr


def test_a_number_of_the_data_that_float32_can_not_hold(tmp_path: Path) -> None:
    """3e38 is a number in a Parquet file, and an infinite gradient in a network: told by step, file and row; 65."""
    logs = samples.logs(400)
    price = logs["price"].to_pylist()
    price[130] = 3e38
    logs = logs.set_column(logs.schema.get_field_index("price"), "price", [price])
    write_dataset(tmp_path / "train", [logs], file_rows=200, row_group_rows=50)
    tree = samples.tree(tmp_path)
    tree["features"]["price"] = {"kind": "dense"}
    path = samples.write_toml(tmp_path / "run.toml", tree)
    said = told(run_script(2, "train.py", str(path)))
    [line] = [json.loads(line) for line in (tmp_path / "run" / "bad_steps.jsonl").read_text().splitlines()]
    print(said)
    assert f"error: step {line['step']}: the losses are click " in said and "not finite once summed over" in said
    groups = [group for one in line["ranks"] for group in one["rows"]]
    [group] = [one for one in groups if (one["path"], one["row_group"]) == ("part-00000.parquet", 2)]
    assert any(start <= 30 < stop for start, stop in group["ranges"]), "row 130 is row 30 of row group 2"
    [first, second] = run_script(2, "train.py", str(path), "--set=train.skip_nonfinite=1")
    assert (first.code, second.code) == (0, 0), first.stderr
    assert f"SKIPPED      step {line['step']}: the losses" in first.stderr and "1 step not trained" in first.stderr


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_of_bad_steps_alone(folder: Path, steps: int) -> None:
    """Nothing is trained, nothing fails: not the look at the first rows, nor the metrics of no rows."""
    plan = {step: ("label", 0) for step in range(1, steps + 1)}
    run = f"nothing {steps}"
    Cluster(2).run(trained, settings(folder, run, "train.skip_nonfinite=9", f"train.max_steps={steps}"), plan)
    assert events(folder / run, "done")[0]["steps"] == steps


def test_a_run_without_room_for_two_commits_says_so(folder: Path) -> None:
    """A file system with less than two commits' room: a warning at the start, and the run goes on."""
    from tests.support.guard_workers import little_room

    [first, _] = Cluster(2).start(little_room, settings(folder, "room"), 50_000).wait(60)
    assert first.code == 0, first.stderr
    [warning] = [e["message"] for e in events(folder / "room", "warning")]
    print(warning)
    assert "are free, and 3 commits of " in warning and warning in first.stderr
    size = sum(p.stat().st_size for p in (folder / "room/checkpoints/step-0000000016").iterdir())
    said = float(warning.split(" commits of ")[1].split(" MB")[0]) * 1e6
    print(f"a commit has {size:,} bytes in all its files, and was said to have {said:,.0f}")
    assert size <= 1.01 * said <= 1.2 * size  # the metrics' sums are most of it here; MB are told to one place
    Cluster(2).run(run_quietly, settings(folder, "roomy"))
    assert not events(folder / "roomy", "warning")


def run_quietly(config: Config) -> None:
    run_cli(config)
