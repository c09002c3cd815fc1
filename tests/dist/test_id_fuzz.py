"""R6: whatever ids a row has, every sharding plan looks up the same rows of the tables, and refuses the same."""

from pathlib import Path

import pytest

from dist_mtl.data.files.writer import write_dataset
from tests.support.fuzz_workers import EDGES, PLANS, ROWS, Differences, N, cases, fuzz, one_bad, refusals
from tests.support.harness import Cluster

CASES = 200


@pytest.fixture(scope="module")
def ranks() -> list[list[Differences]]:
    """200 cases under 4 plans, on two real ranks over gloo."""
    return Cluster(2).run(fuzz, CASES, timeout=300)


@pytest.mark.parametrize("plan", PLANS)
def test_any_ids_give_the_same_under_every_plan(ranks: list[list[Differences]], plan: str) -> None:
    """Sums to the bit (the weights are small whole numbers), means to rounding.

    Not to the bit beside a mean without weights: TorchRec divides what row-wise tables give, whatever their pooling, by
    the number of ids (1 for a sum) plus 1e-6.
    """
    mine = [found for rank in ranks for found in rank if found.plan == plan]
    for found in mine:
        assert found.kinds == {plan}
        print(f"{plan}: {found.cases} cases, {found.wrong} wrong, means off by {found.off:.1e} at most")
        assert (found.cases, found.wrong) == (CASES, 0)
        assert 0 < found.off < 1e-4  # 10^4 ids, each with a weight of a rounded 10^-4
    first = [found for rank in ranks for found in rank if found.plan == PLANS[0]]
    assert [found.clamped for found in mine] == [found.clamped for found in first]
    assert min(found.clamped for found in mine) > CASES  # the edges were there


def test_the_cases_have_what_they_promise() -> None:
    made = list(cases(CASES))
    assert {i for case in made for i in case.any} > {*EDGES, None}
    assert {i for case in made for bag in case.bag for i in bag} > set(EDGES)
    lengths = [len(bag) for case in made for bag in case.bag]
    assert lengths.count(10_000) == CASES // 8 and lengths.count(0) > CASES
    twice = sum(len(set(bag)) < len(bag) for case in made for bag in case.valid_bag)
    print(
        f"{CASES} cases: {lengths.count(0)} empty lists, {lengths.count(10_000)} of 10^4 ids, {twice} with duplicates"
    )
    assert twice > CASES


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A dataset for each id that `reject` must refuse, alone and in a list, in the last row; and one without."""
    folder = tmp_path_factory.mktemp("bad")
    outside = [edge for edge in EDGES if not 0 <= edge < N]
    [case] = cases(1)
    write_dataset(folder / "00", [case.table()])
    for number, edge in enumerate(outside):
        for kind, single in (("bag", False), ("one", True)):
            write_dataset(folder / f"{number + 1:02d}-{kind}", [one_bad(case, edge, ROWS - 1, single).table()])
    return folder, [edge for edge in outside for _ in range(2)]


def test_reject_ends_every_rank_with_the_same_words(bad: tuple[Path, list[int]]) -> None:
    folder, outside = bad
    first, second = Cluster(2).run(refusals, folder)
    assert first == second and first[0] == "" and len(first) == len(outside) + 1
    for told, edge in zip(first[1:], outside, strict=True):
        assert told.startswith("DataError: ") and f"id {edge} is outside table `reject` of {N} rows" in told
        assert f"row {ROWS - 1}: " in told
    print(f"{len(outside)} datasets with one id outside the table: refused by both ranks, e.g. {first[1]}")
