"""How to train on so many rows: batch, epochs, widths, rates. Found by experiment: docs/quality.md, first runs."""

from dataclasses import dataclass

LEAST_BATCH, MOST_BATCH = 64, 4096  # powers of two, which 1, 2, 4 and 8 ranks can share
STEPS = 512  # of an epoch, or half as many: tables and towers then have enough updates within an epoch or two
SMALL, LARGE, HUGE = 20_000, 200_000, 2_000_000  # rows


@dataclass(frozen=True)
class Recipe:
    """Everything of a suggestion that depends on the number of rows. `dim`: of the widest table."""

    batch: int
    epochs: int  # without early stopping
    most_epochs: int  # with it
    evaluations: int  # an epoch
    patience: int
    hidden: tuple[int, ...]
    tower: tuple[int, ...]
    dropout: float
    dim: int
    bucket_dim: int = 4
    buckets: int = 16
    experts: int = 4
    weight_decay: float = 0.01
    dense_lr: float = 1e-3
    embedding_lr: float = 0.02


def recipe(rows: int) -> Recipe:
    """For so many training rows.

    Without early stopping the epochs are few: at the second or third one small logs are known by heart. With it they
    may be many, because logs whose ids come again (MovieLens) gain for 20.
    """
    batch = min(MOST_BATCH, max(LEAST_BATCH, 1 << (rows // STEPS).bit_length()))
    if rows < SMALL:
        return Recipe(batch, 4, 10, 1, 3, hidden=(64, 32), tower=(16,), dropout=0.0, dim=4)
    if rows < LARGE:
        return Recipe(batch, 2, 20, 1, 3, hidden=(64, 32), tower=(16,), dropout=0.1, dim=8)
    return Recipe(batch, 1, 20 if rows < HUGE else 5, 2, 4, hidden=(128, 64), tower=(32,), dropout=0.1, dim=16)
