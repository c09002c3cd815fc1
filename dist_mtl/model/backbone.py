"""The backbone that a configuration names: a module with `outputs`, the width of each task's input."""

from torch import nn

from dist_mtl.config import AITM, PLE, MMoE, OMoE, SharedBottom, SingleTask
from dist_mtl.model.aitm import AITMBackbone
from dist_mtl.model.experts import MixtureBackbone, PLEBackbone, SharedBottomBackbone, SingleTaskBackbone


def build_backbone(
    spec: SingleTask | SharedBottom | OMoE | MMoE | PLE | AITM, inputs: int, num_tasks: int, rate: float
) -> nn.Module:
    """`forward(x_BI, noise)` gives `TaskInputs`. `rate`: of the dropout behind every hidden layer."""
    match spec:
        case SingleTask():
            return SingleTaskBackbone(spec, inputs, num_tasks, rate)
        case SharedBottom():
            return SharedBottomBackbone(spec, inputs, num_tasks, rate)
        case OMoE() | MMoE():
            return MixtureBackbone(spec, inputs, num_tasks, rate)
        case PLE():
            return PLEBackbone(spec, inputs, num_tasks, rate)
        case AITM():
            return AITMBackbone(spec, inputs, num_tasks, rate)
