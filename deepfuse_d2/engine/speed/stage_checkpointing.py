"""DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES for networks that do not see to it themselves."""

import functools
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from ...errors import ConfigError
from ...layers import run_stage
from ...modeling.backbone.protocol import networks_of, stages_of

__all__ = ["CheckpointedStage", "checkpoint_stages", "checkpointed"]


class CheckpointedStage:
    """Mixed into the class of a module: it remembers its input alone and computes the rest twice.

    The module, its parameters and their names stay what they are.
    """

    def forward(self, *inputs: Any) -> Any:
        return run_stage(self, *inputs, checkpointed=True, call=super().forward)


def checkpoint_stages(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` with the stages that DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES names checkpointed.

    In every network of its backbone: below a neck, at both scales, in all of a composite. Stages
    are those of :func:`..modeling.backbone.protocol.stages_of`; networks with `checkpoint_stages`
    of their own have been built with the key.

    Raises: ConfigError: a network has no such stage.
    """
    asked = cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES
    backbone = getattr(model, "backbone", None)
    if not asked or backbone is None:
        return model
    for network in networks_of(backbone).values():
        if hasattr(network, "checkpoint_stages"):
            continue
        stages = stages_of(network)
        known = list(dict.fromkeys(stage.name for stage in stages))
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise ConfigError(
                f"DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES names {unknown}, which "
                f"{type(network).__name__} does not have; choose among {known}, or leave it []."
            )
        for module in (m for stage in stages if stage.name in asked for m in stage.modules):
            checkpointed(module)
    return model


def checkpointed(module: nn.Module) -> nn.Module:
    """`module`, which from now on computes what it does twice in training."""
    if not isinstance(module, CheckpointedStage):
        module.__class__ = _checkpointed_class(type(module))
    return module


@functools.cache
def _checkpointed_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Checkpointed{kind.__name__}", (CheckpointedStage, kind), {})
