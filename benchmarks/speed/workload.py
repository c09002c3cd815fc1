"""The benchmark's model and data: one shape, which every contender trains."""

from dataclasses import dataclass

from dist_mtl.config import Config
from dist_mtl.config.file import parse


@dataclass(frozen=True)
class Shape:
    """`ids` id features of `rows` rows each, `dense` numbers, an MMoE of two tasks."""

    rows: int = 1_000_000
    ids: int = 26
    dense: int = 13
    dim: int = 16
    experts: int = 4
    expert: tuple[int, ...] = (256, 128)
    tower: tuple[int, ...] = (64,)
    batch: int = 4096

    @property
    def inputs(self) -> int:
        """Width of the shared input."""
        return self.ids * self.dim + self.dense

    @property
    def flops_per_step(self) -> float:
        """Of the matrix products of one step: forward, and twice that backward."""
        layers = [(self.inputs, self.expert[0]), *zip(self.expert, self.expert[1:], strict=False)]
        experts = self.experts * sum(i * o for i, o in layers)
        towers = 2 * sum(i * o for i, o in zip((self.expert[-1], *self.tower), (*self.tower, 1), strict=True))
        return 3 * 2 * self.batch * (experts + towers + self.inputs * 2 * self.experts)

    def config(self, folder: str) -> Config:
        """The shape as a run of ours, on the dataset in `folder`."""
        return parse(
            {
                "run": {"dir": f"{folder}/run"},
                # Windows of 8 steps: a round of some 20 steps then reads what it trains, not much more or less.
                "data": {"train": f"{folder}/train", "shuffle_rows": 8 * self.batch},
                "tables": {f"c{i}": {"rows": self.rows, "dim": self.dim} for i in range(self.ids)},
                "features": {f"c{i}": {"kind": "id"} for i in range(self.ids)}
                | {f"d{i}": {"kind": "dense"} for i in range(self.dense)},
                "model": {
                    "head": "ctcvr",
                    "backbone": {"kind": "mmoe", "experts": self.experts, "hidden": list(self.expert)},
                    "tower": list(self.tower),
                },
                "train": {"global_batch": self.batch, "epochs": 1000},
            }
        )
