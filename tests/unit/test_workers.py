"""Tasks on several processes: results in the order of the tasks, few of them waiting, and a killed one is told."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from dist_mtl.data.workers import AHEAD, Workers
from dist_mtl.errors import DataError, InternalError


def squared(number: int) -> tuple[int, int]:
    """The square, and the process that made it. Later tasks are faster."""
    time.sleep(0.002 * (20 - number))
    return number * number, os.getpid()


def failing(number: int) -> int:
    if number in (3, 4):
        raise DataError(f"task {number}")
    if number == 7:
        raise TimeoutError("of the task, not of the wait for it")
    return number


def dying(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_tasks(count: int) -> None:
    with Workers(count, "") as workers:
        found = list(workers.each(squared, range(20)))
    assert [square for square, _ in found] == [n * n for n in range(20)]
    assert (os.getpid() in {process for _, process in found}) == (count == 1)


def test_few_results_wait_for_their_turn() -> None:
    """Whoever is slow to take results holds few of them: tasks are given out as they are taken."""
    given, taken, looks = [], [], []

    def tasks() -> Iterator[int]:
        for number in range(20):
            given.append(number)
            yield number

    with Workers(2, "") as workers:
        for square, _ in workers.each(squared, tasks(), lambda: looks.append(len(taken))):
            taken.append(square)
            assert len(given) <= len(taken) + AHEAD * 2
    assert len(taken) == 20 and set(looks) == set(range(20))


@pytest.mark.parametrize("count", [1, 2])
def test_the_earliest_fault_is_told_and_the_tasks_of_another_call_still_run(count: int) -> None:
    with Workers(count, "") as workers:
        with pytest.raises(DataError, match="task 3"):
            list(workers.each(failing, range(6)))
        with pytest.raises(TimeoutError, match="of the task"):
            list(workers.each(failing, [7]))
        assert list(workers.each(failing, [1, 2])) == [1, 2]


def test_a_killed_process_is_told_with_the_advice_whenever_it_shows() -> None:
    """While its result is waited for, and when the next task is given out."""
    with Workers(2, "take fewer") as workers:
        with pytest.raises(InternalError, match="killed, perhaps for want of memory; take fewer"):
            list(workers.each(dying, range(4)))
        with pytest.raises(InternalError, match="take fewer"):
            list(workers.each(dying, [5]))
