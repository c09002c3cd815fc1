"""Which commit of a run is the best, and whether to go on: a pure function of the evaluations so far."""

from dataclasses import dataclass, field, replace

from dist_mtl.config import SelectConfig


@dataclass(frozen=True)
class Selection:
    """The best evaluation so far, and how many have come since without a gain. It is part of every commit.

    `validation` (the digest of the rows) and `metrics`: what the scores are of. Scores of anything else do not compare.
    """

    best_step: int | None = None
    best_score: float | None = None
    stale: int = 0
    validation: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, spec: SelectConfig | None, validation: str | None) -> "Selection":
        """Before the first evaluation."""
        return cls() if spec is None else cls(validation=validation, metrics=dict(spec.metrics))

    def compares_with(self, other: "Selection") -> bool:
        """Whether the scores of both are of the same metrics on the same rows."""
        return (self.validation, self.metrics) == (other.validation, other.metrics)

    def after(self, step: int, score: float, spec: SelectConfig) -> "Selection":
        """The selection once the evaluation at `step` has this score; more is better."""
        if self.best_score is None or score > self.best_score + spec.min_gain:
            return replace(self, best_step=step, best_score=score, stale=0)
        return replace(self, stale=self.stale + 1)

    def stops(self, spec: SelectConfig | None) -> bool:
        """Whether the run has gone on for long enough without a gain."""
        return spec is not None and spec.patience is not None and self.stale >= spec.patience
