"""MODEL.BACKBONE.CHECKPOINT_STAGES for networks that are not ours, such as detectron2's ResNet."""

from detectron2.config import CfgNode
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import run_stage

__all__ = ["CheckpointedStage", "checkpoint_stages"]


class CheckpointedStage(nn.Sequential):
    """A sequence that remembers its input alone and computes the rest again in backward."""

    def forward(self, x: Tensor) -> Tensor:
        return run_stage(self, x, checkpointed=True, call=super().forward)


def checkpoint_stages(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` with the stages that MODEL.BACKBONE.CHECKPOINT_STAGES names checkpointed.

    Networks of ours see to it themselves and stay; of others, a stage is a sequence of blocks that
    is a direct child, such as "res2" of detectron2's ResNet or "s1" of its RegNet. Parameters and
    their names stay.

    Raises: ConfigError: the network has no such stage.
    """
    asked = cfg.MODEL.BACKBONE.CHECKPOINT_STAGES
    backbone = getattr(model, "backbone", None)
    network = getattr(backbone, "bottom_up", backbone)
    own = __name__.split(".")[0]
    if not asked or network is None or type(network).__module__.split(".")[0] == own:
        return model
    known = {n: m for n, m in network.named_children() if isinstance(m, nn.Sequential)}
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(
            f"MODEL.BACKBONE.CHECKPOINT_STAGES names {unknown}, which {type(network).__name__} "
            f"does not have as a sequence of blocks; choose among {list(known)}, or leave it []."
        )
    for name in asked:
        if type(known[name]) is nn.Sequential:
            known[name].__class__ = CheckpointedStage
    return model
