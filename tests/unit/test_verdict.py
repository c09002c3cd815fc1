"""What a comparison says in words, and what it finds different between two commits."""

import math
from pathlib import Path

import pytest

from dist_mtl.checkpoint.format import Commit
from dist_mtl.metrics.paired import Paired
from dist_mtl.tools.compare import verdict
from dist_mtl.tools.compare.config_diff import ABSENT, Change, differences, parameters
from dist_mtl.tools.compare.statistics import TaskDifference
from tests.support import samples


def found(
    a: float, b: float, error: float, adjusted: float, positives: int = 900, identical: bool = False
) -> TaskDifference:
    reach = 1.96 * error
    p = math.erfc(abs(b - a) / error / math.sqrt(2)) if error else 1.0
    auc = Paired(a, b, b - a, error, b - a - reach, b - a + reach, p)
    return TaskDifference(10_000, positives, None, identical, auc, adjusted, auc, auc, auc, {})


@pytest.mark.parametrize(
    ("one", "better", "words"),
    [
        (
            found(0.8, 0.8012, 0.00046, 0.008),
            "B",
            "CTCVR AUC: B is better by 0.0012 (95 % interval 0.0003 to 0.0021, p = 0.008 after Holm over 3 tasks).",
        ),
        (
            found(0.8012, 0.8, 0.00046, 0.0001),
            "A",
            "CTCVR AUC: A is better by 0.0012 (95 % interval 0.0003 to 0.0021, p < 0.001 after Holm over 3 tasks).",
        ),
        (
            found(0.8, 0.8001, 0.00029, 0.73),
            None,
            "CTCVR: no difference can be told (+0.0001, p = 0.73 after Holm over 3 tasks); with these rows only "
            "differences above 0.0008 could be (80 % power).",
        ),
        (
            found(0.8, 0.802, 0.00095, 0.07),
            None,
            "CTCVR: no difference can be told (+0.0020, p = 0.070 after Holm over 3 tasks, p = 0.035 alone); with "
            "these rows only differences above 0.0027 could be (80 % power).",
        ),
        (found(0.8, 0.8, 0, 1, identical=True), None, "CTCVR: identical, every row has the same score in A and B."),
        (found(0.8, 0.8, 0, 1), None, "CTCVR: A and B rank the rows alike, only their probabilities differ."),
    ],
)
def test_verdict_of_a_task(one: TaskDifference, better: str | None, words: str) -> None:
    told = verdict.task_verdict("ctcvr", one, 3)
    assert (told.better, told.words) == (better, words)


def test_overall_verdict() -> None:
    sides = {"ctr": (0.7, 0.71, 0.001), "cvr": (0.7, 0.69, 0.001), "ctcvr": (0.7, 0.7, 1)}
    cases = {name: found(a, b, 0.001, adjusted) for name, (a, b, adjusted) in sides.items()}
    told = {name: verdict.task_verdict(name, one, 3) for name, one in cases.items()}
    expected = "Overall: A is better in CVR; B is better in CTR; no difference can be told in CTCVR."
    assert verdict.overall(told, cases, []) == expected
    assert verdict.overall(told, cases, ["x"]).endswith("Do not rely on it before reading the warnings.")
    same = {"ctr": found(0.7, 0.7, 0, 1, identical=True)}
    assert "identical" in verdict.overall({"ctr": verdict.task_verdict("ctr", same["ctr"], 1)}, same, [])


def test_few_positives_are_warned_of() -> None:
    [few] = verdict.sample_warnings(
        {"ctr": found(0.7, 0.7, 0.1, 1, positives=49), "cvr": found(0.7, 0.7, 0.1, 1)}, None
    )
    assert few.startswith("CTR: 49 positives only")


# ---------------------------------------------------------------------------------------------------------- differences
def commit(plan: list[dict], world: int = 2, **versions: str) -> Commit:
    return Commit(2, 10, world, "digest", {}, {}, plan, versions)


def placed(table: str, sharding: str, *shards: tuple[int, int, int], kernel: str = "fused") -> dict:
    parts = [{"rank": rank, "offset": [0, 0], "size": [rows, dim]} for rank, rows, dim in shards]
    return {"table": table, "sharding": sharding, "kernel": kernel, "shards": parts}


def test_exactly_what_differs(tmp_path: Path) -> None:
    a = samples.config(tmp_path, "seed=3")
    b = samples.config(
        tmp_path, "run.dir='elsewhere'", "seed=4", "optim.dense.lr=0.01", "data.test='t'", "model.tower=[8,4]",
        "features.extra={kind='dense',log=true}",
    )  # fmt: skip
    one = [placed("user", "table_wise", (0, 101, 16)), placed("tag", "table_wise", (1, 37, 24))]
    other = [placed("user", "data_parallel", kernel="dense"), placed("tag", "table_wise", (1, 37, 24))]
    told = differences((a, commit(one, torch="1")), (b, commit(other, torch="2")))
    assert told.config == {
        "seed": Change("3", "4"),
        "data.test": Change("none", "t"),
        "features.extra": Change(ABSENT, "{kind = dense, log = true, mean = 0.0, std = 1.0, null = fill, fill = 0.0}"),
        "model.tower": Change("[8]", "[8, 4]"),
        "optim.dense.lr": Change("0.001", "0.01"),
    }
    assert told.plan == {"user": Change("table_wise, fused, rank 0", "data_parallel, dense, every rank")}
    assert told.versions == {"torch": Change("1", "2")}
    user, tag = 4 * 101 * 16, 4 * 37 * 24
    assert told.bytes_by_rank == ((user, tag), (user, user + tag))
    assert differences((a, commit(one)), (a, commit(one))).config == {}
    size = parameters(a)
    assert size.tables == 101 * 16 + 53 * 8 + 37 * 24 + 5 * 8 and size.dense > 100
