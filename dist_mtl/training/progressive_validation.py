"""Progressive validation: a partition of a stream is a test set before it is trained. Train day d, test day d + 1."""

from dataclasses import dataclass, replace

from dist_mtl.checkpoint.train_state import Tested, defined
from dist_mtl.config import Config
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import InFileOrder, Partitions
from dist_mtl.data.stream import files_of
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.scoring.evaluate import Evaluation, TestSet, carried, with_slices


@dataclass(frozen=True)
class Ahead:
    """The partitions of a stream as test sets. `whole`: all of them, in file order."""

    whole: Dataset
    order: Partitions

    @classmethod
    def of(cls, train: Dataset, config: Config, rt: Runtime) -> "Ahead | None":
        """Of the training rows, which were verified when they were opened; None if they are no stream.

        Raises DataError on every rank for a column of `metrics` that is not there.
        """
        if config.data.stream is None:
            return None
        folder = config.data.train
        whole = rt.all_ranks(lambda: Dataset.open_to_score(folder, config, carried(config), labelled=True))
        return cls(whole, train.order)

    def name(self, step: int) -> str | None:
        """The partition that is tested before global step `step` (from 1): one that begins there, but not the first."""
        k = self.order.part_of(step)
        return self.order.parts[k].name if k and self.order.starts_part(step) else None

    def test_set(self, name: str, config: Config, rt: Runtime) -> TestSet:
        """The rows of a partition. Raises DataError on every rank."""
        manifest = files_of(self.whole.manifest, config.data.stream, (name,))
        place = self.whole.folder.place
        folder = Folder(replace(place, ranges=place.ranges | {config.data.stream.by: (name, name)}))
        order = InFileOrder(
            tuple(rows for file in manifest.files for rows in file.row_groups if rows),
            self.order.global_batch,
            config.data.shuffle_rows,
        )
        return with_slices(replace(self.whole, folder=folder, manifest=manifest, order=order), config, rt)


def tested(evaluation: Evaluation, name: str, step: int) -> Tested:
    """What is kept of a partition's evaluation."""
    tasks = {
        task: {
            "rows": m.rows,
            "positives": m.positives,
            "auc": defined(m.auc.value),
            "logloss": defined(m.logloss),
            "normalised_entropy": defined(m.normalised_entropy),
            "pcoc": defined(m.pcoc),
        }
        for task, m in evaluation.tasks.items()
    }
    return Tested(name, step, evaluation.rows, tasks)
