"""The model, and what is trained beside its tasks."""

from typing import Annotated, Literal

from pydantic import Field

from dist_mtl.config.section import Count, Depth, Positive, Section, Share, Weight, Width, Widths


class NoInteraction(Section):
    kind: Literal["none"] = "none"


class DotInteraction(Section):
    """DLRM: pairwise dot products of the embeddings and of a bottom MLP's output (arXiv 1906.00091)."""

    kind: Literal["dot"]
    bottom: Annotated[tuple[Width, ...], Field(max_length=64)] | None = (
        None  # hidden widths of the MLP over dense features; none: (64,); its last is dim
    )


class CrossInteraction(Section):
    """DCN-v2 cross layers (arXiv 2008.13535); `rank` none: full matrices, else low-rank U V."""

    kind: Literal["dcn"]
    layers: Depth = 2
    rank: Width | None = None


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
    experts: Count = 4
    hidden: Widths = (256, 128)


class MMoE(Section):
    """Multi-gate mixture of experts (KDD 2018): every task mixes the same experts by a gate of its own."""

    kind: Literal["mmoe"]
    experts: Count = 4
    hidden: Widths = (256, 128)


class PLE(Section):
    """Progressive layered extraction (RecSys 2020): levels of experts, some of one task and some of all.

    With two tasks the defaults make 1 + 1 + 2 experts a level, as many as an MMoE has.
    """

    kind: Literal["ple"]
    levels: Depth = 2  # 1 is the paper's CGC
    task_experts: Count = 1  # of each task, at each level
    shared_experts: Count = 2  # at each level
    hidden: Widths = (256, 128)  # of every expert, at each level


class AITM(Section):
    """Adaptive information transfer (KDD 2021): an MLP for each task, each told what the task before it found."""

    kind: Literal["aitm"]
    hidden: Widths = (256, 128)
    # Weight of the penalty on P(label t) above P(label t-1). None: 0.6, the paper's, for head `ctcvr`; else 0, because
    # a product of probabilities never exceeds its first factor, and independent labels bound nothing.
    calibrator: Weight | None = None


class CustomBackbone(Section):
    """A module that is passed from Python (`config/extensions.py`); written there, not by hand."""

    kind: Literal["custom"]


AnyBackbone = SingleTask | SharedBottom | OMoE | MMoE | PLE | AITM | CustomBackbone
AnyInteraction = NoInteraction | DotInteraction | CrossInteraction


class Counterfactual(Section):
    """ESCM2 (arXiv 2204.05125): the conversion loss on clicks, weighted so that it stands for all impressions."""

    kind: Literal["ips", "dr"]  # inverse propensity; doubly robust, which adds an imputation tower in training
    weight: Annotated[Weight, Field(gt=0)] = 0.1  # our choice: beside cross-entropies of weight 1; the paper tunes it
    clip: Annotated[float, Field(gt=0, le=1)] = 0.01  # least propensity: no click stands for over 100 impressions


# ------------------------------------------------------------------------------------- what is trained beside the tasks
Temperature = Annotated[float, Field(ge=0.02, le=100)]  # below 0.02, exp(1 / tau), summed, comes near float32's end


class NoAlignment(Section):
    kind: Literal["off"] = "off"


class Alignment(Section):
    """What every inter-task alignment has (arXiv 2208.13442; see `model/alignment.py` for the formula)."""

    weight: Annotated[Weight, Field(gt=0)] = 0.01  # of the mean over pairs of tasks; 0.1 harmed AUC on MovieLens
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
    prior_weight: Weight = 0.0


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
    target_weight: Annotated[Weight, Field(gt=0)] = 1.0  # beside L_align's 1
    # gradient_agreement is computed on one row in so many, other ones at each step: a small forward pass and a backward
    # pass a task of everything above the shared input.
    probe_stride: Positive = 32
    from_alignment: bool = True  # false: the network learns from the target alone


AnyAlignment = FixedAlignment | PICO | AdaFTR


Margin = Annotated[float, Field(gt=0, le=1e3)]  # of probabilities, or of logits, which end near 100


class NoPairwise(Section):
    kind: Literal["off"] = "off"


class PWiseR(Section):
    """Pairwise ranking beside the cross-entropies (arXiv 2406.02163): conversions above clicks, and above the rest."""

    kind: Literal["pwiser"]
    weight: Annotated[Weight, Field(gt=0)] = 0.02  # the paper's lambda; 1 took CTR AUC from 0.66 to 0.54 on MovieLens
    margins: tuple[Margin, Margin] = (0.05, 0.1)  # over clicks without a conversion, over the rest
    on: Literal["probability", "logit"] = "probability"  # what the margins are measured on


class ModelConfig(Section):
    """Embeddings -> interaction -> backbone -> one tower a task -> head."""

    interaction: Annotated[AnyInteraction, Field(discriminator="kind")] = NoInteraction()
    backbone: Annotated[AnyBackbone, Field(discriminator="kind")] = MMoE(kind="mmoe")
    tower: Widths = (64,)
    head: Literal["ctcvr", "esmm", "clicked", "independent"] = "esmm"  # independent: for labels that are no funnel
    counterfactual: Counterfactual | None = None
    # The last bias of each tower at step 1. base_rate: the logit of how often its label is set on its space, counted
    # over the training rows (of a stream: its first partition), so that the first predictions are right on average and
    # no step is spent on that. random: as torch draws it, which predicts about 1/2 whatever the base rate.
    initial_bias: Literal["base_rate", "random"] = "base_rate"
    dropout: Share = 0.0
    task_weights: tuple[Weight, ...] | None = None  # one a label; none: all 1
    # uncertainty: learned weights (Kendall et al. 2018). pcgrad: gradients of conflicting tasks are projected at the
    # shared input, before they reach the tables; a partial backward pass a task more.
    balance: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    alignment: Annotated[NoAlignment | AnyAlignment, Field(discriminator="kind")] = NoAlignment()
    pairwise: Annotated[NoPairwise | PWiseR, Field(discriminator="kind")] = NoPairwise()

    @property
    def calibrator(self) -> float:
        """Weight of AITM's calibrator, 0 without one."""
        if not isinstance(self.backbone, AITM):
            return 0.0
        if self.backbone.calibrator is None:
            return 0.6 if self.head == "ctcvr" else 0.0
        return self.backbone.calibrator
