"""The model, as in the papers' figure: embed -> interact -> share -> one tower per task.

ids ---- tables --. interaction   x   backbone    tower t ---- h_t ---- logit t ---- head: CTR, CVR, CTCVR
dense ------------'    (shared input)                          |
                         |                                     `-- where inter-task alignment compares tasks
                         `-- what a relatedness network sees
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_mtl.config import Config, CrossInteraction, DotInteraction, NoInteraction
from dist_mtl.data.batch import Batch
from dist_mtl.data.encode import Encoder
from dist_mtl.model.embedding import PooledEmbeddings
from dist_mtl.model.experts import build_backbone
from dist_mtl.model.layers import MLP, Cross, Dot, Noise
from dist_mtl.model.tower import Tower


@dataclass(frozen=True)
class Outputs:
    """What a forward pass leaves for the losses: B rows, T tasks, I shared inputs."""

    shared_BI: Tensor
    representations: tuple[Tensor, ...]  # T of (B, H): h_t
    logits_BT: Tensor


ALIGNMENT = (
    16  # columns; rows of 64 bytes: products over 429 columns are 12 % slower than over 432 (measured, one core)
)

BOTTOM = (64,)  # hidden widths of DLRM's MLP over the dense features, unless configured


class Interaction(nn.Module):
    """Pooled embeddings and dense features -> the shared input x, padded with zeros to a multiple of ALIGNMENT columns."""

    def __init__(
        self, spec: NoInteraction | DotInteraction | CrossInteraction, dims: tuple[int, ...], dense: int
    ) -> None:
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
    """A batch -> `Outputs`. Dense weights are drawn from torch's generator, seeded by the configuration alone."""

    def __init__(self, config: Config, table_device: torch.device) -> None:
        super().__init__()
        encoder = Encoder(config)
        spec, num_tasks = config.model, len(config.data.labels)
        self.seed = config.seed
        self.noisy = spec.dropout > 0
        self.embeddings = PooledEmbeddings(config, [*encoder.singles, *encoder.bags], encoder.weighted, table_device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.interaction = Interaction(spec.interaction, self.embeddings.dims, len(encoder.dense))
            self.backbone = build_backbone(spec.backbone, self.interaction.outputs, num_tasks, spec.dropout)
            self.towers = nn.ModuleList(
                Tower(self.backbone.outputs, spec.tower, spec.dropout) for _ in range(num_tasks)
            )

    def forward(self, batch: Batch) -> Outputs:
        noise = Noise(self.seed, batch.step, batch.slots_B) if self.training and self.noisy else None
        x_BI = self.interaction(self.embeddings(batch.ids), batch.dense_BD)
        inputs = self.backbone(x_BI, noise)
        towers = [tower(task, noise) for tower, task in zip(self.towers, inputs, strict=True)]
        return Outputs(
            shared_BI=x_BI,
            representations=tuple(h_BO for h_BO, _ in towers),
            logits_BT=torch.stack([logit_B for _, logit_B in towers], dim=1),
        )
