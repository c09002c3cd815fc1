"""How many rows of each class a dataset has for each task: read from label columns alone, before anything is scored."""

import numpy as np
import pyarrow as pa

from dist_mtl.data.funnel import broken, spaces
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Span


def count_classes(dataset: Dataset, part: int, parts: int) -> np.ndarray:
    """(M, 2) int64: negatives and positives of each task in every `parts`-th row group from `part` on.

    Rows that break the funnel are in none. Raises DataError for a damaged row group.
    """
    data = dataset.encoder.config.data
    blocks, reader = dataset.blocks, dataset.reader(data.labels)
    found = spaces(len(data.labels), data.funnel)
    counts = np.zeros((len(found), 2), np.int64)
    for index in range(part, len(blocks), parts):
        table = reader.read([Span(index, 0, blocks[index].rows)])
        columns = (table.column(name).combine_chunks().cast(pa.float64(), safe=False) for name in data.labels)
        labels_NT = np.stack([column.to_numpy(zero_copy_only=False) > 0 for column in columns], axis=1)
        if data.funnel:
            labels_NT = labels_NT[~broken(labels_NT).any(axis=1)]
        for task, space in enumerate(found):
            rows = slice(None) if space.given is None else labels_NT[:, space.given]
            positives = int(labels_NT[rows, space.label].sum())
            counts[task] += len(labels_NT[rows]) - positives, positives
    return counts
