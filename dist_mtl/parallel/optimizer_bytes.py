"""Bytes of weights, gradients and optimizer states, for plans and for the check before a model is built."""

STATE_NUMBERS = {  # of the embedding optimizers, float32: (one a row, one an element)
    "rowwise_adagrad": (1, 0),
    "adagrad": (0, 1),
    "sgd": (0, 0),
    "adam": (0, 2),
    "partial_rowwise_adam": (1, 1),
}


# Bytes of the dense part for each parameter: its weight, its gradient (DDP's bucket is the gradient itself), and the
# two moments of AdamW; all float32, also where train.dense = "bf16" multiplies in another type.
DENSE_BYTES = 16


def state_parts(kind: str, rows: int, columns: int) -> tuple[int, int]:
    """Bytes of an embedding optimizer's float32 states for a block of a table: by row, by element."""
    by_row, by_element = STATE_NUMBERS[kind]
    return 4 * rows * by_row, 4 * rows * by_element * columns


def state_bytes(kind: str, rows: int, columns: int) -> int:
    """Both."""
    return sum(state_parts(kind, rows, columns))
