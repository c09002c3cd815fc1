"""How a run trains, evaluates and chooses its best checkpoint: every section but those of data, model and tables."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dist_mtl.config.section import MAX_COUNT, PathText, Positive, Seconds, Section
from dist_mtl.observability.run_dir import check_path


class EmbeddingOptim(Section):
    """The embedding optimizer, fused into the backward pass. The Adam family has CUDA kernels only."""

    kind: Literal["rowwise_adagrad", "adagrad", "sgd", "adam", "partial_rowwise_adam"] = "rowwise_adagrad"
    # At most 1e6: under sgd gradients are those of a mean over the batch, so a rate as large as the batch may be meant.
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.02
    # None: 1e-8 for the kinds that have one (all but sgd). Below 1e-30 float32 comes to 0, and a quotient to no number.
    eps: Annotated[float, Field(ge=1e-30, le=1)] | None = None


class DenseOptim(Section):
    """AdamW for everything that is not a table, with a linear warm-up."""

    lr: Annotated[float, Field(gt=0, le=10)] = (
        1e-3  # AdamW moves a weight by about so much a step; weights begin below 1
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # a weight shrinks by lr * weight_decay of itself a step
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _keeps_some(self) -> Self:
        if self.lr * self.weight_decay >= 1:
            raise ValueError(
                f"weight_decay: {self.weight_decay:g} at lr = {self.lr:g} leaves nothing of a weight; lower it"
            )
        return self


class OptimConfig(Section):
    """Both optimizers; `decay` takes both learning rates to zero over the run, or leaves them constant."""

    decay: Literal["none", "linear", "cosine"] = "none"
    embedding: EmbeddingOptim = EmbeddingOptim()
    dense: DenseOptim = DenseOptim()


class TrainConfig(Section):
    """The loop. Steps count global optimizer steps from 1."""

    global_batch: Positive = 4096
    epochs: Positive = 1
    max_steps: Positive | None = None
    log_every: Positive = 50  # steps
    checkpoint_every: Positive = 500  # steps
    evaluate_every: Positive | None = None  # steps; none: at the end only
    evaluate_every_rows: Positive | None = None  # the same in rows, whatever the batch
    # Steps of the whole run that may be left untrained because a loss or a gradient is not finite; their rows are
    # listed in RUN/bad_steps.jsonl. 0: the first one ends the run. (A dynamic table has seen the ids of such a step.)
    skip_nonfinite: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    keep: Annotated[int, Field(ge=2)] = 2  # commits; one may turn out damaged, so never fewer than 2
    commit: Literal["blocking", "background"] = "blocking"  # background: training waits for a copy in memory only
    failed_commits: Annotated[int, Field(ge=0)] = 3  # in a row that a full disk may cost; one more ends the run
    dense: Literal["fp32", "bf16"] = "fp32"  # of the products above the embeddings; weights and sums are fp32 always
    compile: bool = False  # torch.compile of what is above the embeddings, in training: minutes at the start


class MetricsConfig(Section):
    """What an evaluation tells besides each task's metrics on its own space. Columns of the data, features or not."""

    slices: tuple[str, ...] = ()  # every metric for each value of these columns; a bucketised feature by its buckets
    max_slices: Annotated[int, Field(ge=2, le=10_000)] = (
        50  # values a column, by rows; the others are one slice, `other`
    )
    groups: tuple[str, ...] = ()  # GAUC, NDCG and MRR within the rows of one value: a user, a search
    ndcg_at: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=64)] = (5, 10)


class SelectConfig(Section):
    """Which commit is the best, and when to stop: by a weighted mix of an evaluation's metrics.

    `metrics`: "ctcvr.auc" = 1.0. TASK.METRIC with auc, logloss, ne, pcoc, ece; or TASK.COLUMN.METRIC with gauc, mrr,
    ndcg@10 for a column of metrics.groups. Better always counts up: the sign is the metric's own; pcoc counts as
    -|log pcoc|.
    """

    metrics: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    patience: Positive | None = None  # evaluations without a gain, then the run stops; none: it only marks the best
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # what the mix must rise by to be a gain


class DiagnoseConfig(Section):
    """What a step tells of itself for the report: temperatures, relatedness, similarities, gates, tasks' gradients."""

    every: Positive | None = None  # steps; none: never, which costs nothing


class RunConfig(Section):
    dir: PathText  # everything that a run writes is below it
    tensorboard: bool = False  # also write RUN/tensorboard; needs the extra `tensorboard`
    resume: Literal["auto", "off", "required"] = "auto"  # off: never from a commit; required: never from the start
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(gt=0, le=4096)] | None = (
        None  # of the dense kernels, per rank; none: what the launcher set
    )
    start_timeout: Seconds = 600  # seconds for start-up collectives: ranks import, read and plan at their own pace
    step_timeout: Seconds = 300  # seconds in which a rank must move after step 1; a healthy step takes well under one
    commit_timeout: Seconds = 1800  # the same while a commit is written or read: 1 TB a rank takes 17 minutes at 1 GB/s
    watchdog: bool = True  # end a rank that hangs, with its stacks on stderr; false: while a debugger holds one
    attempts: Positive = 3  # starts from one step that may die without a further commit; then a person is needed

    @classmethod
    def at(cls, run_dir: str | Path) -> Self:
        """Of a run that was trained. Raises ConfigError: that is no path."""
        check_path(run_dir)
        return cls(dir=str(run_dir))
