"""A rank's batches, with agreement: when the data fail on one rank, every rank ends with that error."""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace

from dist_mtl.data.batch import Batch
from dist_mtl.data.files.quarantine import Lost, check_budget, merged
from dist_mtl.data.frame import FrameRows
from dist_mtl.data.loader import Dataset
from dist_mtl.parallel.preemption import StopFlag
from dist_mtl.parallel.runtime import Runtime

PATIENCE = 0.1  # seconds between two looks at the stop flag


def batches(
    dataset: Dataset | FrameRows,
    rt: Runtime,
    from_step: int = 0,
    to_step: int | None = None,
    lost: tuple[Lost, ...] = (),
) -> Iterator[Batch]:
    """The batches of steps from_step + 1 ... to_step for this rank (see `Dataset.batches`).

    Reading can fail only where a window begins, so the ranks agree once a window, not once a step. There they
    also tell each other which row groups they found damaged: `Batch.lost` is then that of all ranks, without those
    that were `lost` before. And there a signal to stop is honoured, also while the rows are waited for.
    Raises DataError; Preempted. Both on every rank.
    """
    order = dataset.order
    stop = order.steps_per_epoch if to_step is None else to_step
    source = dataset.batches(rt.rank, rt.size, from_step, stop, lost)
    try:
        for step in range(from_step + 1, stop + 1):
            agree = step == from_step + 1 or order.starts_window(step)
            phase = rt.watchdog.phase
            rt.watchdog.alive("reading")
            batch = rt.all_ranks(lambda: _waited_for(source, rt.stop)) if agree else next(source)
            rt.watchdog.alive(phase)
            if agree and (dataset.quarantine or lost):
                batch = replace(batch, lost=merged(rt.gather(batch.lost), lost))
                lost = (*lost, *batch.lost)
                rt.all_ranks(lambda all_ranks_lost=lost: check_budget(all_ranks_lost, dataset.quarantine))
            yield batch
    finally:
        if not source.gi_running:  # a rank that was stopped while it waited leaves its reader behind
            source.close()


def _waited_for(source: Generator[Batch], stop: StopFlag) -> Batch:
    """The next batch, taken in a thread: whoever waits for it can not be asked to stop, and it may never come."""
    stop.check()
    taken: Future[Batch] = Future()
    threading.Thread(target=_take, args=(source, taken), name="window", daemon=True).start()
    while not wait([taken], PATIENCE).done:
        stop.check()
    return taken.result()


def _take(source: Generator[Batch], taken: Future[Batch]) -> None:
    try:
        taken.set_result(next(source))
    except BaseException as error:  # raised where the batch is waited for
        taken.set_exception(error)
