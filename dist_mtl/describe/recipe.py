"""How to train on so many rows: batch, epochs, widths, rates. Found by experiment (docs/quality.md, first runs)."""

from dataclasses import dataclass

LEAST_BATCH, MOST_BATCH = 64, 4096  # powers of two, which 1, 2, 4 and 8 ranks can share


@dataclass(frozen=True)
class Recipe:
    """Everything of a suggestion that depends on the size of the data, not on the columns."""

    batch: int
    epochs: int
    evaluations: int  # an epoch
    patience: int
    hidden: tuple[int, ...]
    tower: tuple[int, ...]
    experts: int
    dropout: float
    weight_decay: float
    dense_lr: float
    embedding_lr: float
    dim: int  # of the widest table
    interaction: str = ""
    head: str = "esmm"
    buckets: int = 16
    bucket_dim: int = 4


def recipe(rows: int, has_validation: bool) -> Recipe:
    """For so many training rows."""
    batch = min(MOST_BATCH, max(LEAST_BATCH, 1 << max(0, rows // 512).bit_length()))
    small, large = rows < 20_000, rows >= 200_000
    return Recipe(
        batch=batch,
        epochs=10 if has_validation else 3,
        evaluations=2 if large else 1,
        patience=3,
        hidden=(64, 32) if not large else (128, 64),
        tower=(16,) if not large else (32,),
        experts=4,
        dropout=0.2 if small else 0.1,
        weight_decay=1e-2,
        dense_lr=1e-3,
        embedding_lr=0.02,
        dim=4 if small else 8 if not large else 16,
    )
