"""A rank's batches, with agreement: when the data fail on one rank, every rank ends with that error."""

from collections.abc import Iterator
from dataclasses import replace

from dist_mtl.data.batch import Batch
from dist_mtl.data.files.quarantine import Lost, check_budget, merged
from dist_mtl.data.loader import Dataset
from dist_mtl.parallel.runtime import Runtime


def batches(
    dataset: Dataset, rt: Runtime, from_step: int = 0, to_step: int | None = None, lost: tuple[Lost, ...] = ()
) -> Iterator[Batch]:
    """The batches of steps from_step + 1 ... to_step for this rank (see `Dataset.batches`).

    Reading can fail only where a window begins, so the ranks agree once a window, not once a step. There they
    also tell each other which row groups they found damaged: `Batch.lost` is then that of all ranks, without those
    that were `lost` before. Raises DataError.
    """
    order = dataset.order
    stop = order.steps_per_epoch if to_step is None else to_step
    source = dataset.batches(rt.rank, rt.size, from_step, stop, lost)
    try:
        for step in range(from_step + 1, stop + 1):
            agree = step == from_step + 1 or order.starts_window(step)
            batch = rt.all_ranks(lambda: next(source)) if agree else next(source)
            if agree and (dataset.quarantine or lost):
                batch = replace(batch, lost=merged(rt.gather(batch.lost), lost))
                lost = (*lost, *batch.lost)
                rt.all_ranks(lambda all_ranks_lost=lost: check_budget(all_ranks_lost, dataset.quarantine))
            yield batch
    finally:
        source.close()
