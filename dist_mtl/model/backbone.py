"""The backbone that a configuration names: a module with `outputs`, the width of each task's input."""

from collections.abc import Callable

from torch import nn

from dist_mtl.config import AITM, PLE, MMoE, OMoE, SharedBottom, SingleTask
from dist_mtl.config.extensions import HOW
from dist_mtl.config.model import AnyBackbone, CustomBackbone
from dist_mtl.errors import ConfigError
from dist_mtl.model.aitm import AITMBackbone
from dist_mtl.model.experts import MixtureBackbone, PLEBackbone, SharedBottomBackbone, SingleTaskBackbone

Custom = Callable[[int, int, float], nn.Module]


def build_backbone(
    spec: AnyBackbone, inputs: int, num_tasks: int, rate: float, custom: Custom | None = None
) -> nn.Module:
    """`forward(x_BI, noise)` gives `TaskInputs`. `rate`: of the dropout behind every hidden layer.

    Raises ConfigError: `custom` is wanted and not there, or makes something else.
    """
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
        case CustomBackbone():
            return _built(custom, inputs, num_tasks, rate)


def _built(custom: Custom | None, inputs: int, num_tasks: int, rate: float) -> nn.Module:
    if custom is None:
        raise ConfigError(f"model.backbone: a custom one, and none is here; {HOW}")
    module = custom(inputs, num_tasks, rate)
    if not isinstance(module, nn.Module) or not isinstance(getattr(module, "outputs", None), int):
        raise ConfigError(
            f"extensions.backbone: it made a {type(module).__name__}; it is to make a torch module with `outputs`, an "
            f"int: the width of each task's input"
        )
    return module
