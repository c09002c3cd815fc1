"""Dynamic tables on real ranks: one map, whatever the world and the plan; exact resume; scores that change nothing."""

from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config import Config
from dist_mtl.tools.study.relatedness import recover_run
from tests.support.dynamic_workers import (
    config,
    deviation_of,
    error_of_load,
    follow,
    logits_of,
    saved_again,
    write_fuzz,
    write_logs,
)
from tests.support.harness import Cluster, events, run_script, run_verb
from tests.support.samples import rows_of
from tests.support.workers import assemble, commit_state, train

STEPS = 24
PLANS = [
    (1, "table_wise"),
    (2, "row_wise"),
    (2, "column_wise"),
    (2, "data_parallel"),
    (4, "table_wise"),
    (4, "table_row_wise"),
    (4, "grid"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dynamic")
    write_logs(folder / "train", 64 * STEPS)
    write_logs(folder / "test", 400, seed=1)
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple:
    return _joined(Cluster(2).run(follow, config(folder, sharding="row_wise"), STEPS, timeout=240))


def _joined(ranks: list) -> tuple[dict, np.ndarray, dict, int]:
    """All ranks' rows by row number and feature; losses and renewals are the same on each; the whole state."""
    rows = {place: found for one in ranks for place, found in one[0].items() if place[0] >= 0}
    assert all(np.array_equal(one[1], ranks[0][1]) and one[3] == ranks[0][3] for one in ranks)
    return rows, ranks[0][1], assemble([one[2] for one in ranks]), ranks[0][3]


@pytest.mark.parametrize(("world", "sharding"), PLANS)
def test_the_rows_do_not_depend_on_ranks_or_plan(folder: Path, reference: tuple, world: int, sharding: str) -> None:
    """Each rank also compares with a single map, and looks at every row that changed hands."""
    ranks = Cluster(world).run(follow, config(folder, sharding=sharding), STEPS, timeout=240)
    rows, losses, state, renewed = _joined(ranks)
    assert rows == reference[0] and renewed == reference[3] > 300
    gap = np.abs(losses - reference[1]).max()
    weights = max(np.abs(state[name] - reference[2][name]).max() for name in state if name.startswith("model/"))
    print(f"{world} ranks, {sharding}: {renewed} rows renewed, losses within {gap:.1e}, weights within {weights:.1e}")
    assert gap < 1e-5 and weights < 1e-4


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "sgd"])
@pytest.mark.parametrize("sharding", ["row_wise", "data_parallel"])
def test_a_row_that_changes_hands_begins_anew(folder: Path, kind: str, sharding: str) -> None:
    """Weights and optimizer state; looked at by every rank at every step, under the other optimizers."""
    settings = config(folder, f"optim.embedding.kind='{kind}'", sharding=sharding, evict="lru")
    for *_, renewed in Cluster(2).run(follow, settings, 10, timeout=120):
        assert renewed > 50


def test_wild_ids_are_ids_under_every_plan(tmp_path: Path) -> None:
    """-1, n, n + 1, 2**63 - 1, ...: each rank compares with the single map; the plans with each other."""
    write_fuzz(tmp_path / "train", 192)
    found = {}
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        found[sharding] = _joined(
            Cluster(2).run(
                follow, config(tmp_path, "features.history.max_length=20000", sharding=sharding), 3, timeout=120
            )
        )
    first = found["table_wise"]
    assert len(first[0][96, "history"]) == 10_000 and first[3] > 0
    for rows, losses, _, renewed in found.values():
        assert rows == first[0] and renewed == first[3] and np.abs(losses - first[1]).max() < 1e-5


def settings(folder: Path, run: str, *overrides: str, sharding: str = "row_wise") -> Config:
    fixed = (f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", "train.checkpoint_every=10", "train.keep=9")
    return config(folder, *fixed, *overrides, sharding=sharding)


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict:
    """A run that was never interrupted."""
    [table, _] = Cluster(2).run(train, settings(folder, "whole"), timeout=240)
    return {"table": table, "state": commit_state(folder / "whole" / _commit(STEPS))}


def _commit(step: int) -> str:
    return f"checkpoints/step-{step:010d}"


def _losses(run: Path) -> dict[int, dict]:
    return {e["step"]: e["losses"] for e in events(run, "step")}


def test_resumed_it_ends_with_the_same_bits(folder: Path, whole: dict) -> None:
    for steps in (7, 15, STEPS):
        tables = Cluster(2).run(train, settings(folder, "resumed", f"train.max_steps={steps}"), timeout=240)
    assert [e["step"] for e in events(folder / "resumed", "resume")] == [7, 15]
    assert _losses(folder / "resumed") == _losses(folder / "whole") and tables[0] == whole["table"]
    state = commit_state(folder / "resumed" / _commit(STEPS))
    assert state.keys() == whole["state"].keys()
    assert [name for name in state if state[name].tobytes() != whole["state"][name].tobytes()] == []
    maps = {name: state[name] for name in state if name.startswith("dynamic/")}
    assert len(maps) == 12 and (maps["dynamic/user/key"] >= 0).mean() > 0.9
    counts = [events(folder / run, "counts")[-1]["dynamic"] for run in ("resumed", "whole")]
    assert counts[0] == counts[1] and counts[0]["user"]["evicted"] > 50  # counted over all restarts


@pytest.mark.parametrize("worlds", [(1, 2, 4, 1), (4, 2, 1)])
def test_resumed_on_other_ranks_every_key_keeps_its_row(folder: Path, whole: dict, worlds: tuple) -> None:
    run = "-".join(map(str, worlds))
    ends = [STEPS * (stage + 1) // len(worlds) for stage in range(len(worlds))]
    for world, steps in zip(worlds, ends, strict=True):
        Cluster(world).run(train, settings(folder, run, f"train.max_steps={steps}"), timeout=240)
    assert [e["step"] for e in events(folder / run, "resume")] == ends[:-1]
    state = commit_state(folder / run / _commit(STEPS))
    maps = [name for name in whole["state"] if name.startswith("dynamic/")]
    assert [name for name in maps if state[name].tobytes() != whole["state"][name].tobytes()] == []
    ours, reference = _losses(folder / run), _losses(folder / "whole")
    gap = max(abs(ours[s][label] - reference[s][label]) for s in reference for label in reference[s])
    print(f"{worlds} ranks: the same map to the bit, losses within {gap:.1e}")
    assert ours.keys() == reference.keys() and gap < 1e-5


def test_carried_over_1_2_4_and_1_ranks_it_is_the_same_to_the_bit(folder: Path, whole: dict) -> None:
    """Weights, optimizer states and the map; each world loads what the one before has saved."""
    place = str(folder / "whole" / _commit(STEPS))
    for stage, world in enumerate((1, 2, 4, 1)):
        [place, *_] = Cluster(world).run(saved_again, settings(folder, f"carried-{stage}"), place, timeout=120)
    state = commit_state(place)
    kept = [name for name in whole["state"] if not name.startswith("window/")]
    assert sorted(state) == sorted(kept) and any(name.startswith("dynamic/") for name in kept)
    assert [name for name in kept if state[name].tobytes() != whole["state"][name].tobytes()] == []


def test_a_map_with_keys_in_the_wrong_place_is_refused(folder: Path, whole: dict) -> None:
    """By every rank, also by those whose part is whole."""
    commit = str(folder / "whole" / _commit(STEPS))
    for misplace in (False, True):
        one = settings(folder, f"misplaced-{misplace}")
        [place] = Cluster(1).run(saved_again, one, commit, misplace, timeout=120)
        errors = Cluster(2).run(error_of_load, one, place, timeout=120)
        if not misplace:
            assert errors == [None, None]
            continue
        for name, message, code in errors:
            assert (name, code) == ("CheckpointError", 66) and "Take an older commit" in message


def test_the_relatedness_is_that_of_the_rows(folder: Path) -> None:
    """`dist-mtl relatedness` looks up, too: raw keys would be read as rows, silently."""
    method = "model.alignment={kind='adaftr', weight=0.1, num_negatives=16}"
    one = settings(folder, "aligned", "train.max_steps=6", method)
    Cluster(1).run(train, one, timeout=120)
    [expected] = Cluster(1).run(deviation_of, one, str(folder / "aligned" / _commit(6)), str(folder / "test"))
    [[told]] = Cluster(1).run(recover_run, str(folder / "aligned"), "row")
    print(f"standard deviation of the relatedness: {told.deviation:.8f}, by the map's rows {expected:.8f}")
    assert told.deviation == pytest.approx(expected, rel=1e-6)


def test_scoring_changes_nothing_and_is_the_same_on_any_ranks(folder: Path, whole: dict) -> None:
    commit, test, scores = str(folder / "whole" / _commit(STEPS)), str(folder / "test"), {}
    for world in (1, 2, 4):
        found = Cluster(world).run(logits_of, settings(folder, "whole"), commit, test, timeout=120)
        numbers, logits = (np.concatenate([one[i] for one in found]) for i in (0, 1))
        order = np.argsort(numbers[numbers >= 0])
        scores[world] = logits[numbers >= 0][order]
    assert len(scores[1]) == 400
    gap = max(np.abs(scores[world] - scores[1]).max() for world in (2, 4))
    print(f"1, 2, 4 ranks: logits within {gap:.1e}")
    assert gap < 2e-5


def test_evaluating_on_the_way_leaves_the_map_alone(folder: Path, whole: dict) -> None:
    Cluster(2).run(train, settings(folder, "judged", "train.evaluate_every=5"), timeout=240)
    state = commit_state(folder / "judged" / _commit(STEPS))
    assert [name for name in whole["state"] if state[name].tobytes() != whole["state"][name].tobytes()] == []


def test_the_report_shows_how_the_tables_fill(folder: Path, whole: dict) -> None:
    [made] = run_verb(1, "report", str(folder / "whole"), timeout=120)
    assert made.code == 0, made.stderr
    [page] = (folder / "whole").glob("*.html")
    assert all(text in page.read_text() for text in ("Lookups without a row of their own", "Rows taken"))


def test_predict_and_evaluate_agree(folder: Path, whole: dict) -> None:
    [evaluated] = run_script(1, "evaluate.py", str(folder / "whole"), timeout=120)
    [predicted] = run_script(
        1, "predict.py", str(folder / "whole"), str(folder / "test"), str(folder / "scores"), timeout=120
    )
    assert (evaluated.code, predicted.code) == (0, 0), evaluated.stderr + predicted.stderr
    table = rows_of(folder / "scores")
    p, click = (table.column(name).to_numpy().astype(np.float64) for name in ("p_ctr", "click"))
    loss = -np.mean(np.where(click > 0, np.log(p), np.log1p(-p)))
    print(f"logloss of the predictions {loss:.6f}, of the run's own evaluation {whole['table']['ctr']['logloss']:.6f}")
    assert abs(loss - whole["table"]["ctr"]["logloss"]) < 1e-5
    assert f"{whole['table']['ctr']['auc']['value']:.4f}" in evaluated.stdout
