"""Where a backward pass is held: between the pooled embeddings and all that is above them.

TorchRec's fused optimizers update the tables inside the backward pass, so whatever is to be looked at before a weight
changes has to be looked at in the middle of it: the part above the embeddings first (dense gradients, summed over the
ranks by DDP), then, once the ranks have agreed, the part below.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dist_mtl.data.batch import Batch
from dist_mtl.errors import InternalError
from dist_mtl.model.embedding import PooledEmbeddings


class Cut:
    """`forward`, backward of its loss, then `backward` or `undo`. Anyone else's call of the module has no cut in it."""

    def __init__(self, module: nn.Module, dense: Sequence[nn.Parameter]) -> None:
        self._module, self.dense = module, tuple(dense)
        self._is_on = False
        self.is_laid_out = False  # whether DDP has its last layout
        self._below_BP: Tensor | None = None  # the pooled embeddings, with the tables behind them
        self._above_BP: Tensor | None = None  # the same numbers, as the model saw them
        for pooled in module.modules():
            if isinstance(pooled, PooledEmbeddings):
                pooled.register_forward_hook(self._part)

    def forward(self, batch: Batch) -> Any:
        """The module's outputs; their backward pass ends at the pooled embeddings."""
        self._is_on, self._below_BP = True, None
        try:
            outputs = self._module(batch)
        finally:
            self._is_on = False
        if self._below_BP is None:
            raise InternalError("the model did not look up its embeddings, so there is nothing to train them by")
        return outputs

    def _part(self, _module: nn.Module, _inputs: Any, pooled_BP: Tensor) -> Tensor | None:
        if not self._is_on:
            return None
        self._below_BP, self._above_BP = pooled_BP, pooled_BP.detach().requires_grad_()
        return self._above_BP

    def is_bad(self) -> Tensor:
        """(), bool: whether a gradient is not finite, of the dense weights or of this rank's pooled embeddings.

        By their norms, so that one whose square overflows float32 is bad, too: every optimizer here but plain SGD keeps
        squares, and a weight with an infinite one would never move again.
        """
        gradients = [p.grad for p in self.dense if p.grad is not None]
        return ~torch.stack(torch._foreach_norm([self._above_BP.grad, *gradients])).isfinite().all()

    def pooled_norm(self) -> float:
        """Of the gradient of this rank's pooled embeddings."""
        return float(torch.linalg.vector_norm(self._above_BP.grad))

    def backward(self) -> None:
        """The other half: the gradient goes on to the tables, and the fused ones are updated."""
        self._below_BP.backward(self._above_BP.grad)
        self._below_BP = self._above_BP = None

    def undo(self) -> None:
        """Instead of the other half: nothing of the step stays."""
        self._below_BP = self._above_BP = None
