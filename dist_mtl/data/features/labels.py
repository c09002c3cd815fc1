"""What came of an impression, and how much it counts: labels and the weights of rows."""

import numpy as np
import pyarrow as pa

from dist_mtl.config import DataConfig
from dist_mtl.data.features.numbers import complete
from dist_mtl.data.features.reject import Where, refuse, refuse_value
from dist_mtl.data.funnel import broken

LEAST_WEIGHT, MOST_WEIGHT = 2.0**-20, 2.0**10  # of a row that counts: metrics sum weights and their squares as integers


def labels_of(table: pa.Table, data: DataConfig, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """(labels_NT float32, dropped_N bool: a later label is set where an earlier one is not, under the policy `drop`).

    Raises DataError for a label that is not 0 or 1, and under `reject` for a row that breaks the funnel.
    """
    labels_NT = np.zeros((table.num_rows, len(data.labels)), np.float32)
    for i, name in enumerate(data.labels):
        numbers = complete(table.column(name), name, where)
        bad = (numbers != 0) & (numbers != 1)
        refuse_value(bad, where, f"label `{name}`", table.column(name), "not 0 or 1")
        labels_NT[:, i] = numbers
    if not data.funnel:
        return labels_NT, np.zeros(len(labels_NT), bool)
    breaks = broken(labels_NT)
    dropped = breaks.any(axis=1)
    if data.violations == "reject" and dropped.any():
        place = int(np.argmax(breaks[dropped][0]))
        later, earlier = data.labels[place + 1], data.labels[place]
        advice = "mend the data or set data.violations = 'drop'"
        refuse(dropped, where, f"`{later}` is 1 where `{earlier}` is 0; {advice}")
    return labels_NT, dropped


def weights_of(table: pa.Table, column: str, where: Where) -> np.ndarray:
    """Weights of rows as float64: 0, or what a sum over all rows has room for."""
    numbers = complete(table.column(column), column, where)
    bad = (numbers != 0) & ~((numbers >= LEAST_WEIGHT) & (numbers <= MOST_WEIGHT))
    room = f"0 or {LEAST_WEIGHT:.2g} (2^-20) to {MOST_WEIGHT:g}"
    advice = "only ratios of weights matter: divide all by their mean, and cap what is larger still"
    refuse_value(bad, where, f"`{column}`", table.column(column), f"but a row may weigh {room}; {advice}")
    return numbers
