"""The typed, frozen configuration of a run. Imports no torch, so that a mistake is told in milliseconds.

TOML -> `load()` -> `Config`. A key that does not exist is an error that names the nearest one; a value of the wrong
type is an error, never a conversion. Every default stands here once, with its unit and its reason.
"""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# No count here needs more, and up to 2**43 rows of a table have initial values of their own (model/embedding.py).
MAX_COUNT = 2**43
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Population = Annotated[int, Field(gt=0, le=2**31)]  # of the sample logs, which hold arrays as long in memory
Dim = Annotated[int, Field(gt=0, le=2**16, multiple_of=4)]  # a multiple of 4: FBGEMM's vector width
Seconds = Annotated[int, Field(gt=0, le=10**6)]  # 11 days; a C++ duration overflows beyond 292 years
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # int64
Widths = Annotated[tuple[Positive, ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen table of the configuration file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------------- data and features
class SampleLogs(Section):
    """Sample logs with planted truth, made where `data.train` does not exist yet (see `data/synthetic.py`)."""

    train_rows: Positive
    test_rows: Positive
    seed: Seed = 7
    num_users: Population = 20_000
    num_items: Population = 5_000
    ctr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    cvr: Annotated[float, Field(gt=0, lt=1)] = 0.10
    accidents: Share = 0.2  # share of the clicks that have nothing to do with interest; they never convert
    accidents_in_test: bool = True  # else an impression of the test split is clicked by interest only
    # Whether all user segments convert equally often once they click. Else the rate differs between segments, whose rho
    # differs, too, and what learns the one seems to have found the other.
    equal_cvr: bool = False


class DataConfig(Section):
    """Where the impressions are and in which order they are trained.

    `labels` is the funnel: each label implies the one before it. A row that breaks this is refused or dropped (weight 0).
    With `funnel` false no label implies another, and every row is as good as the next.
    """

    train: str
    test: str | None = None  # evaluated once, at the end
    validation: str | None = (
        None  # evaluated on the way, for `select`; none: data.test, whose metrics are then optimistic
    )
    labels: Annotated[tuple[str, ...], Field(min_length=1)] = ("click", "conversion")
    funnel: bool = True
    weight: str | None = None  # column with a weight per row, 0 or 2**-20 to 2**10; none: every row weighs 1
    violations: Literal["reject", "drop"] = "reject"
    leaks: Literal["reject", "warn"] = "reject"  # a feature that tells a label without an error on the first steps
    # Down-sampled training logs, one number a label: the share of the rows that stop short of this label (not clicked;
    # clicked, not converted) that was kept. Scores are corrected for it, so test and validation are traffic as it comes.
    kept: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    shuffle: bool = True
    shuffle_rows: Positive = 262_144  # rows of a shuffle window over all ranks; bounds the loader's memory
    verify: Literal["full", "footer"] = "full"  # full: sha256 of every file before step 1 (about 1 GB/s a rank)
    sample: SampleLogs | None = None


class TableConfig(Section):
    """An embedding table. Its name is a name in torch, too: `config_rules` says which ones can not be."""

    rows: Positive
    dim: Dim = 16
    pooling: Literal["sum", "mean"] = "sum"
    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel"] = (
        "auto"
    )


class Feature(Section):
    """What every feature has: the Parquet column it comes from, by default its own name."""

    column: str | None = None


class TableFeature(Feature):
    """A feature that is looked up in a table, by default the table of its own name."""

    table: str | None = None


class IdFeature(TableFeature):
    """One id a row (integer or string; null: no id, the zero vector)."""

    kind: Literal["id"]
    # hash: any id, by a seeded hash modulo rows. clamp: below 0 -> 0, beyond the last row -> the last row.
    # reject: an id outside the table stops the run. Strings can only be hashed.
    policy: Literal["hash", "clamp", "reject"] = "hash"


class BagFeature(TableFeature):
    """A list of ids a row, pooled; optionally weighted, optionally cut to `max_length`."""

    kind: Literal["bag"]
    policy: Literal["hash", "clamp", "reject"] = "hash"
    weights: str | None = None  # column with a list of numbers, as long as the ids
    max_length: Positive | None = None
    keep: Literal["first", "last"] | None = None  # which end of a longer list stays; none: last, where histories grow

    @model_validator(mode="after")
    def _keep_needs_a_length(self) -> Self:
        if self.keep is not None and self.max_length is None:
            raise ValueError("`keep` says which end of a longer list stays, so it needs `max_length`")
        return self


class BucketFeature(TableFeature):
    """A number looked up by its bucket: len(boundaries) + 1 rows, bucket k holds boundaries[k-1] <= x < boundaries[k]."""

    kind: Literal["bucket"]
    boundaries: Annotated[tuple[float, ...], Field(min_length=1)]
    dim: Dim = 16

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError("boundaries must be strictly ascending")
        return self


class DenseFeature(Feature):
    """A number given to the network as (f(x) - mean) / std, f = sign(x) log(1 + |x|) if `log`, else x; null -> `fill`."""

    kind: Literal["dense"]
    log: bool = False
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    fill: float = 0.0


AnyFeature = Annotated[IdFeature | BagFeature | BucketFeature | DenseFeature, Field(discriminator="kind")]


# --------------------------------------------------------------------------------------------------------------- model
class NoInteraction(Section):
    kind: Literal["none"] = "none"


class DotInteraction(Section):
    """DLRM: pairwise dot products of the embeddings and of a bottom MLP's output (arXiv 1906.00091)."""

    kind: Literal["dot"]
    bottom: tuple[Positive, ...] | None = (
        None  # hidden widths of the MLP over dense features; none: (64,); its last is dim
    )


class CrossInteraction(Section):
    """DCN-v2 cross layers (arXiv 2008.13535); `rank` none: full matrices, else low-rank U V."""

    kind: Literal["dcn"]
    layers: Positive = 2
    rank: Positive | None = None


class SingleTask(Section):
    """An MLP for each task: tasks share the embeddings and the interaction only."""

    kind: Literal["single_task"]
    hidden: Widths = (256, 128)


class SharedBottom(Section):
    """One MLP that all tasks share."""

    kind: Literal["shared_bottom"]
    hidden: Widths = (256, 128)


class OMoE(Section):
    """Mixture of experts with one gate: every task sees the same mixture (the KDD 2018 paper's baseline of MMoE)."""

    kind: Literal["omoe"]
    experts: Positive = 4
    hidden: Widths = (256, 128)


class MMoE(Section):
    """Multi-gate mixture of experts (KDD 2018): every task mixes the same experts by a gate of its own."""

    kind: Literal["mmoe"]
    experts: Positive = 4
    hidden: Widths = (256, 128)


class PLE(Section):
    """Progressive layered extraction (RecSys 2020): levels of experts, some of one task and some of all.

    With two tasks the defaults make 1 + 1 + 2 experts a level, as many as an MMoE has.
    """

    kind: Literal["ple"]
    levels: Positive = 2  # 1 is the paper's CGC
    task_experts: Positive = 1  # of each task, at each level
    shared_experts: Positive = 2  # at each level
    hidden: Widths = (256, 128)  # of every expert, at each level


class AITM(Section):
    """Adaptive information transfer (KDD 2021): an MLP for each task, each told what the task before it found."""

    kind: Literal["aitm"]
    hidden: Widths = (256, 128)
    # Weight of the penalty on P(label t) above P(label t-1). None: 0.6, the paper's, for head `ctcvr`; else 0, because
    # a product of probabilities never exceeds its first factor, and independent labels bound nothing.
    calibrator: Annotated[float, Field(ge=0)] | None = None


class Counterfactual(Section):
    """ESCM2 (arXiv 2204.05125): the conversion loss on clicks, weighted so that it stands for all impressions."""

    kind: Literal["ips", "dr"]  # inverse propensity; doubly robust, which adds an imputation tower in training
    weight: Annotated[float, Field(gt=0)] = 0.1  # our choice: beside cross-entropies of weight 1; the paper tunes it
    clip: Annotated[float, Field(gt=0, le=1)] = 0.01  # least propensity: no click stands for over 100 impressions


# ------------------------------------------------------------------------------------- what is trained beside the tasks
Temperature = Annotated[float, Field(ge=0.02, le=100)]  # below 0.02, exp(1 / tau), summed, comes near float32's end


class NoAlignment(Section):
    kind: Literal["off"] = "off"


class Alignment(Section):
    """What every inter-task alignment has (arXiv 2208.13442; see `model/alignment.py` for the formula)."""

    weight: Annotated[float, Field(gt=0)] = 0.01  # of the mean over pairs of tasks; 0.1 harmed AUC on MovieLens
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # steps in which the weight rises linearly from 0
    negatives: Literal["all", "sampled"] = "sampled"  # all: every other row of the global batch
    num_negatives: Positive = 256  # of `sampled`: rows drawn anew each step, shared by the whole global batch
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] | None = (
        None  # (anchor, compared with), two labels each; none: neighbours in data.labels, both ways
    )
    projection: Widths | None = None  # widths of an MLP between h and the comparison, the last linear; none: h itself
    stop_gradient: bool = False  # true: the task that an anchor is compared with learns nothing from it

    def ordered(self, labels: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """The pairs (anchor, compared with) as positions in `labels`."""
        if self.pairs is not None:
            return tuple((labels.index(a), labels.index(b)) for a, b in self.pairs)
        return tuple(pair for t in range(1, len(labels)) for pair in ((t - 1, t), (t, t - 1)))

    def pairs_of(self, labels: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """The pairs regardless of direction, lower position first: each has a relatedness of its own."""
        return tuple(sorted({(min(pair), max(pair)) for pair in self.ordered(labels)}))


class FixedAlignment(Alignment):
    """One temperature for all rows."""

    kind: Literal["fixed"]
    temperature: Temperature = 1.0


class LearnedAlignment(Alignment):
    """A temperature for each row: low + (high - low)(1 - r), r from a network that sees the shared input."""

    temperatures: tuple[Temperature, Temperature] = (0.5, 2.0)  # low, high; (0.1, 1) harmed AUC on MovieLens
    hidden: Widths = (32,)  # of the network; 32 units cost 1 to 2 % of a step
    # Against the collapse of all temperatures to the lower bound, which L_align alone leads to (r 0.9997 measured):
    # `standardise` gives the logits of r mean 0 and variance 1 over the global batch, so that only their order is left
    # to learn; `prior_weight` (beside L_align's 1) asks for KL(r || prior), so that a row must earn its distance.
    standardise: bool = False
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.5
    prior_weight: Annotated[float, Field(ge=0)] = 0.0


class PICO(LearnedAlignment):
    """The network learns from L_align alone (v1 of the paper), so something has to hold the temperatures apart."""

    kind: Literal["pico"]
    standardise: bool = True


class AdaFTR(LearnedAlignment):
    """The network is also taught what relatedness is (v2 of the paper)."""

    kind: Literal["adaftr"]
    # agreement: the two labels are equal. conversion_given_click: the later label, on rows that have the earlier one.
    # gradient_agreement: (1 + cosine of the tasks' logit gradients at x_i) / 2, which no base rate enters.
    target: Literal["agreement", "conversion_given_click", "gradient_agreement"] = "gradient_agreement"
    target_weight: Annotated[float, Field(gt=0)] = 1.0  # beside L_align's 1
    # gradient_agreement is computed on one row in so many, other ones at each step: a small forward pass and a backward
    # pass a task of everything above the shared input.
    probe_stride: Positive = 32
    from_alignment: bool = True  # false: the network learns from the target alone


AnyAlignment = FixedAlignment | PICO | AdaFTR


Margin = Annotated[float, Field(gt=0)]


class NoPairwise(Section):
    kind: Literal["off"] = "off"


class PWiseR(Section):
    """Pairwise ranking beside the cross-entropies (arXiv 2406.02163): conversions above clicks, and above the rest."""

    kind: Literal["pwiser"]
    weight: Annotated[float, Field(gt=0)] = 0.02  # the paper's lambda; 1 took CTR AUC from 0.66 to 0.54 on MovieLens
    margins: tuple[Margin, Margin] = (0.05, 0.1)  # over clicks without a conversion, over the rest
    on: Literal["probability", "logit"] = "probability"  # what the margins are measured on


class ModelConfig(Section):
    """Embeddings -> interaction -> backbone -> one tower a task -> head."""

    interaction: Annotated[NoInteraction | DotInteraction | CrossInteraction, Field(discriminator="kind")] = (
        NoInteraction()
    )
    backbone: Annotated[SingleTask | SharedBottom | OMoE | MMoE | PLE | AITM, Field(discriminator="kind")] = MMoE(
        kind="mmoe"
    )
    tower: Widths = (64,)
    head: Literal["ctcvr", "esmm", "clicked", "independent"] = "esmm"  # independent: for labels that are no funnel
    counterfactual: Counterfactual | None = None
    dropout: Share = 0.0
    task_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None  # one a label; none: all 1
    # uncertainty: learned weights (Kendall et al. 2018). pcgrad: gradients of conflicting tasks are projected at the
    # shared input, before they reach the tables; a partial backward pass a task more.
    balance: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    alignment: Annotated[NoAlignment | FixedAlignment | PICO | AdaFTR, Field(discriminator="kind")] = NoAlignment()
    pairwise: Annotated[NoPairwise | PWiseR, Field(discriminator="kind")] = NoPairwise()

    @property
    def calibrator(self) -> float:
        """Weight of AITM's calibrator, 0 without one."""
        if not isinstance(self.backbone, AITM):
            return 0.0
        if self.backbone.calibrator is None:
            return 0.6 if self.head == "ctcvr" else 0.0
        return self.backbone.calibrator


# ----------------------------------------------------------------------------------------------------- optimizers, run
class EmbeddingOptim(Section):
    """The embedding optimizer, fused into the backward pass. The Adam family has CUDA kernels only."""

    kind: Literal["rowwise_adagrad", "adagrad", "sgd", "adam", "partial_rowwise_adam"] = "rowwise_adagrad"
    lr: Annotated[float, Field(gt=0)] = 0.02
    eps: Annotated[float, Field(gt=0)] | None = None  # none: 1e-8 for the kinds that have one (all but sgd)


class DenseOptim(Section):
    """AdamW for everything that is not a table, with a linear warm-up."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0


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
    keep: Annotated[int, Field(ge=2)] = 2  # commits; one may turn out damaged, so never fewer than 2


class MetricsConfig(Section):
    """What an evaluation tells besides each task's metrics on its own space. Columns of the data, features or not."""

    slices: tuple[str, ...] = ()  # every metric for each value of these columns; a bucketised feature by its buckets
    max_slices: Annotated[int, Field(ge=2, le=10_000)] = (
        50  # values a column, by rows; the others are one slice, `other`
    )
    groups: tuple[str, ...] = ()  # GAUC, NDCG and MRR within the rows of one value: a user, a search
    ndcg_at: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10)


class SelectConfig(Section):
    """Which commit is the best, and when to stop: by a weighted mix of an evaluation's metrics.

    `metrics`: "ctcvr.auc" = 1.0. TASK.METRIC with auc, logloss, ne, pcoc, ece; or TASK.COLUMN.METRIC with gauc, mrr, ndcg@10
    for a column of metrics.groups. Better always counts up: the sign is the metric's own; pcoc counts as -|log pcoc|.
    """

    metrics: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    patience: Positive | None = None  # evaluations without a gain, then the run stops; none: it only marks the best
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # what the mix must rise by to be a gain


class DiagnoseConfig(Section):
    """What a step tells of itself for the report: temperatures, relatedness, similarities, gates, the tasks' gradients."""

    every: Positive | None = None  # steps; none: never, which costs nothing


class RunConfig(Section):
    dir: str
    tensorboard: bool = False  # also write RUN/tensorboard; needs the extra `tensorboard`
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(gt=0, le=4096)] | None = (
        None  # of the dense kernels, per rank; none: what the launcher set
    )
    start_timeout: Seconds = 600  # seconds for start-up collectives: ranks import, read and plan at their own pace
    step_timeout: Seconds = 300  # seconds for a collective after step 1; a healthy step takes well under one


class Config(Section):
    """One training run, complete. Equal configs on equal data give equal bits."""

    seed: Seed = 1
    run: RunConfig
    data: DataConfig
    tables: dict[str, TableConfig] = {}
    features: Annotated[dict[str, AnyFeature], Field(min_length=1)]
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    metrics: MetricsConfig = MetricsConfig()
    select: SelectConfig | None = None
    diagnose: DiagnoseConfig = DiagnoseConfig()

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is reported for the funnel: `ctr`, `cvr`, `ctcvr` for two labels; else P(b|a) and P(b) by label.

        Labels that are no funnel: each by its name.
        """
        labels = self.data.labels
        if not self.data.funnel:
            return labels
        if len(labels) == 2:
            return ("ctr", "cvr", "ctcvr")
        rest = [name for before, label in pairwise(labels) for name in (f"{label}|{before}", label)]
        return (labels[0], *rest)

    @property
    def evaluation_steps(self) -> int | None:
        """Steps between evaluations on the way; None: only at the end."""
        if (rows := self.train.evaluate_every_rows) is not None:
            return -(-rows // self.train.global_batch)
        return self.train.evaluate_every

    @property
    def validation(self) -> str | None:
        """The dataset that is evaluated on the way."""
        return self.data.validation or self.data.test

    @property
    def all_tables(self) -> dict[str, TableConfig]:
        """The declared tables, then those that bucketised features imply."""
        implied = {
            name: TableConfig(rows=len(f.boundaries) + 1, dim=f.dim)
            for name, f in self.features.items()
            if isinstance(f, BucketFeature)
        }
        return {**self.tables, **implied}

    def table_of(self, feature: str) -> str | None:
        """The table that a feature is looked up in; None for a dense feature."""
        spec = self.features[feature]
        return (spec.table or feature) if isinstance(spec, TableFeature) else None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        from dist_mtl.config_rules import check  # the rules need the classes above

        check(self)
        return self
