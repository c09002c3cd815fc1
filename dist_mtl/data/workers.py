"""Tasks on several processes of this machine; results come in the order of the tasks, whoever was first.

The processes are spawned, not forked, for Arrow's threads do not survive a fork. So they import the program again: one
that uses them must be started behind `if __name__ == "__main__"`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Self, TypeVar

import pyarrow as pa

from dist_mtl.errors import InternalError

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 2  # tasks given out before the first of them is taken back, per process: they bound the memory
TICK = 0.2  # seconds between two looks at what others have done


def cores() -> int:
    """Processes that may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`count` processes, in a `with`; 1 is this one alone.

    `advice`: what to do when one of them is killed. `begin(*arguments)` is the first that each of them does.
    """

    def __init__(
        self, count: int, advice: str, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
    ) -> None:
        self._ahead, self._advice = AHEAD * count, advice
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, _begin, (begin, arguments)) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[Result]:
        """function(task) of every task. Raises what it raises, of the earliest task; InternalError: one was killed."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        given: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                given.append(self._pool.submit(function, task))
                if len(given) > self._ahead:
                    yield _result(given.popleft(), while_waiting)
            while given:
                yield _result(given.popleft(), while_waiting)
        except BrokenProcessPool:
            raise InternalError(f"a process was killed, perhaps for want of memory; {self._advice}") from None


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    pa.set_cpu_count(1)
    if begin is not None:
        begin(*arguments)


def _result(future: Future[Result], while_waiting: Callable[[], None]) -> Result:
    done = False
    while not done:
        done = bool(wait([future], TICK).done)
        while_waiting()
    return future.result()
