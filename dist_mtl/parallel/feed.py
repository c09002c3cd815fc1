"""A rank's batches, with agreement: when the data fail on one rank, every rank ends with that error."""

from collections.abc import Iterator

from dist_mtl.data.batch import Batch
from dist_mtl.data.loader import Dataset
from dist_mtl.parallel.runtime import Runtime


def batches(dataset: Dataset, rt: Runtime, from_step: int = 0, to_step: int | None = None) -> Iterator[Batch]:
    """The batches of steps from_step + 1 ... to_step for this rank (see `Dataset.batches`).

    Reading can fail only where a window begins, so the ranks agree once a window, not once a step. Raises DataError.
    """
    order = dataset.order
    stop = order.steps_per_epoch if to_step is None else to_step
    source = dataset.batches(rt.rank, rt.size, from_step, stop)
    try:
        for step in range(from_step + 1, stop + 1):
            agree = step == from_step + 1 or (step - 1) % order.steps_per_epoch % order.steps_per_window == 0
            yield rt.all_ranks(lambda: next(source)) if agree else next(source)
    finally:
        source.close()
