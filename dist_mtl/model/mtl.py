"""The model, as in the papers' figure: embed -> interact -> share -> one tower per task.

ids ---- tables --. interaction   x   backbone    tower t ---- h_t ---- logit t ---- head: CTR, CVR, CTCVR
dense ------------'    (shared input)                          |
                         |                                     `-- where inter-task alignment compares tasks
                         `-- what a relatedness network sees
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dist_mtl.config import Config, CrossInteraction, DotInteraction, ModelConfig
from dist_mtl.config.model import AnyInteraction
from dist_mtl.data.batch import Batch
from dist_mtl.data.features.encode import Encoder
from dist_mtl.model.backbone import build_backbone
from dist_mtl.model.embedding import PooledEmbeddings
from dist_mtl.model.layers import MLP, Cross, Dot, Noise
from dist_mtl.model.relatedness import Probe, TrainingOutputs, training_parts
from dist_mtl.model.tower import Tower


@dataclass(frozen=True)
class Outputs:
    """What a forward pass leaves for the losses: B rows, T tasks, I shared inputs."""

    shared_BI: Tensor
    representations: tuple[Tensor, ...]  # T of (B, H): h_t, the input of logit t, whatever the backbone
    logits_BT: Tensor
    gates: dict[str, Tensor] = field(default_factory=dict)  # of the backbone, see `TaskInputs`
    imputed_BC: Tensor | None = None  # logits of label t given label t-1, t >= 1: doubly robust, in training only
    training: TrainingOutputs | None = None  # of the parts that alignment and balance need, in training only


ALIGNMENT = (
    16  # columns; rows of 64 bytes: products over 429 columns are 12 % slower than over 432 (measured, one core)
)

BOTTOM = (64,)  # hidden widths of DLRM's MLP over the dense features, unless configured


class Interaction(nn.Module):
    """Pooled embeddings and dense features -> the shared input x, zero-padded to a multiple of ALIGNMENT columns."""

    def __init__(self, spec: AnyInteraction, dims: tuple[int, ...], dense: int) -> None:
        super().__init__()
        self.bottom = self.dot = self.cross = None
        self.dim = dims[0]  # of every table, where dot products are asked for
        width = sum(dims) + dense
        match spec:
            case DotInteraction():
                vectors = len(dims)
                if dense:
                    self.bottom = MLP(dense, (*(BOTTOM if spec.bottom is None else spec.bottom), dims[0]))
                    vectors, width = vectors + 1, sum(dims) + dims[0]
                self.dot = Dot(vectors)
                width += self.dot.outputs
            case CrossInteraction():
                self.cross = Cross(width, spec.layers, spec.rank)
        self.padding = -width % ALIGNMENT
        self.outputs = width + self.padding

    def forward(self, pooled_BP: Tensor, dense_BD: Tensor) -> Tensor:
        parts = [pooled_BP, dense_BD]
        if self.dot is not None:
            vectors_BP = pooled_BP if self.bottom is None else torch.cat([pooled_BP, self.bottom(dense_BD)], dim=1)
            parts = [vectors_BP, self.dot(vectors_BP.view(len(vectors_BP), -1, self.dim))]
        elif self.cross is not None:
            parts = [self.cross(torch.cat(parts, dim=1))]
        if self.padding:
            parts.append(dense_BD.new_zeros(len(dense_BD), self.padding))
        return torch.cat(parts, dim=1)


class MultiTaskModel(nn.Module):
    """A batch -> `Outputs`. Dense weights are drawn from torch's generator, seeded by the configuration alone.

    `scoring`: without the parts that only a loss needs. They are drawn last, so that with and without them all other
    weights are the same, and left out of a forward pass in evaluation mode.
    """

    def __init__(self, config: Config, table_device: torch.device, scoring: bool = False) -> None:
        super().__init__()
        encoder = Encoder(config)
        spec, num_tasks = config.model, len(config.data.labels)
        self.seed = config.seed
        self.noisy = spec.dropout > 0
        self.halves = config.train.dense == "bf16"
        self.embeddings = PooledEmbeddings(config, [*encoder.singles, *encoder.bags], encoder.weighted, table_device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.interaction = Interaction(spec.interaction, self.embeddings.dims, len(encoder.dense))
            self.backbone = build_backbone(
                spec.backbone, self.interaction.outputs, num_tasks, spec.dropout, config.extensions.backbone
            )
            self.towers = self._towers(num_tasks, spec)
            imputes = not scoring and spec.counterfactual is not None and spec.counterfactual.kind == "dr"
            self.imputation = self._towers(num_tasks - 1, spec) if imputes else None
            widths = self.interaction.outputs, self.towers[0].hidden.outputs
            self.training_parts = None if scoring else training_parts(config, *widths)
        # A function, not a module: the names of a state dict stay as they are. Shapes are the same at every step; what
        # else changes with the step comes in as a tensor, so that it is compiled once, and whole: what the compiler can
        # not follow is an error, for it would run as it does without one.
        compiles = config.train.compile and not scoring
        self._trained = torch.compile(self._above, fullgraph=True, dynamic=False) if compiles else self._above

    def _towers(self, count: int, spec: ModelConfig) -> nn.ModuleList:
        return nn.ModuleList(Tower(self.backbone.outputs, spec.tower, spec.dropout) for _ in range(count))

    def forward(self, batch: Batch) -> Outputs:
        noise = Noise(self.seed, batch.step, batch.slots_B) if self.training and self.noisy else None
        rows_B1 = None if noise is None else noise.rows_B1
        # Evaluation is never compiled: it has other shapes, and its scores are those of a scoring model to the bit.
        above = self._trained if self.training else self._above
        x_BI, representations, logits_BT, gates, imputed_BC = above(self.embeddings(batch.ids), batch.dense_BD, rows_B1)
        is_on = self.training and self.training_parts is not None
        return Outputs(
            shared_BI=x_BI,
            representations=representations,
            logits_BT=logits_BT,
            gates=gates,
            imputed_BC=imputed_BC,
            training=self.training_parts(x_BI, representations, self._probe(x_BI, batch)) if is_on else None,
        )

    def _above(
        self, pooled_BP: Tensor, dense_BD: Tensor, noise_B1: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor, dict[str, Tensor], Tensor | None]:
        """What is above the embeddings, up to the parts of `Outputs`, which are float32 whatever the products are in.

        The shared input is made float32 before it goes on, not beside it: losses take gradients there.
        """
        noise = None if noise_B1 is None else Noise.of_rows(noise_B1)
        with self._precision(pooled_BP):
            x_BI = self.interaction(pooled_BP, dense_BD).float()
            inputs = self.backbone(x_BI, noise)
            towers = [tower(task, noise) for tower, task in zip(self.towers, inputs.by_task, strict=True)]
            imputed_BC = self._impute(inputs.by_task, noise) if self.training else None
        return (
            x_BI,
            tuple(h_BO.float() for h_BO, _ in towers),
            torch.stack([logit_B for _, logit_B in towers], dim=1).float(),
            {name: gate_BGE.float() for name, gate_BGE in inputs.gates.items()},
            None if imputed_BC is None else imputed_BC.float(),
        )

    def _precision(self, x: Tensor) -> torch.autocast:
        """In training, evaluation and scoring alike, so that scores agree."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.halves)

    def _probe(self, x_BI: Tensor, batch: Batch) -> Probe | None:
        """Run what is above the shared input once more, on the rows whose gradients there a teacher asks for."""
        if self.training_parts.probed is None:
            return None
        x_RI = x_BI.detach()[self.training_parts.probed.rows(batch)].requires_grad_()
        with self._precision(x_RI):
            inputs = self.backbone(x_RI, None).by_task
            logits = [tower(task, None)[1] for tower, task in zip(self.towers, inputs, strict=True)]
        return Probe(x_RI, torch.stack(logits, dim=1).float())

    def _impute(self, by_task: list[Tensor], noise: Noise | None) -> Tensor | None:
        """The imputation towers look on: what they learn reaches nothing that they share with the tasks."""
        if self.imputation is None:
            return None
        towers = zip(self.imputation, by_task[1:], strict=True)
        return torch.stack([tower(task.detach(), noise)[1] for tower, task in towers], dim=1)


@torch.no_grad()
def begin_at(module: nn.Module, rates: Sequence[float]) -> None:
    """Set each tower's last bias to the logit of a rate in (0, 1): what the model in `module` predicts at first.

    An imputation tower begins with the tower whose label it predicts.
    """
    model = next(one for one in module.modules() if isinstance(one, MultiTaskModel))
    begun = list(zip(model.towers, rates, strict=True))
    if model.imputation is not None:
        begun += zip(model.imputation, rates[1:], strict=True)
    for tower, rate in begun:
        tower.logit.bias.fill_(math.log(rate / (1 - rate)))
