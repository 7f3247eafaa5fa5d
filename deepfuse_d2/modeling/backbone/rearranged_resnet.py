"""ResNet and ResNeXt with blocks moved to early stages: ExFuse's layer rearrangement (1804.03821).

ResNeXt-101 has {3, 4, 23, 3} blocks in res2 to res5; the paper's has {8, 8, 9, 8}, so that early
stages are deep enough to carry meaning. Depth and multiply-adds stay the same: a block costs as
much in every stage, with twice the channels on a quarter of the positions. Widths are the standard
ones, as the paper prints none others; parameters grow by a fifth.

There are no public weights: deepfuse pretrain trains some. Parameter names are those of
detectron2's ResNet.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock

from ...errors import ConfigError
from ..registration import register
from .staged import STAGES, StagedBackbone, refuse_deformable

__all__ = ["build_rearranged_resnet_backbone"]


@register(BACKBONE_REGISTRY)
def build_rearranged_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> StagedBackbone:
    """detectron2's ResNet as MODEL.RESNETS says, with MODEL.EXFUSE.STAGE_BLOCKS blocks a stage.

    MODEL.RESNETS.DEPTH 18 and 34 stand for basic blocks, all others for bottlenecks.
    """
    resnets, num_blocks = cfg.MODEL.RESNETS, list(cfg.MODEL.EXFUSE.STAGE_BLOCKS)
    if len(num_blocks) != len(STAGES) or min(num_blocks) < 1:
        raise ConfigError(
            f"MODEL.EXFUSE.STAGE_BLOCKS is {num_blocks}; it has four entries, the blocks of res2, "
            "res3, res4 and res5, 1 or more each."
        )
    if resnets.RES5_DILATION != 1:
        raise ConfigError(
            f"MODEL.RESNETS.RES5_DILATION is {resnets.RES5_DILATION}; "
            "build_rearranged_resnet_backbone has no dilation. Set it to 1."
        )
    refuse_deformable(cfg, "build_rearranged_resnet_backbone")
    basic = resnets.DEPTH in (18, 34)
    if basic and (resnets.RES2_OUT_CHANNELS != 64 or resnets.NUM_GROUPS != 1):
        raise ConfigError(
            f"MODEL.RESNETS.DEPTH {resnets.DEPTH} has basic blocks, whose RES2_OUT_CHANNELS must "
            f"be 64 and NUM_GROUPS 1; they are {resnets.RES2_OUT_CHANNELS} and "
            f"{resnets.NUM_GROUPS}."
        )
    stem = BasicStem(
        in_channels=input_shape.channels,
        out_channels=resnets.STEM_OUT_CHANNELS,
        norm=resnets.NORM,
    )
    return StagedBackbone(
        stem,
        _stages(cfg, num_blocks, basic),
        out_features=resnets.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        checkpoint_stages=cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES,
    )


def _stages(cfg: CfgNode, num_blocks: Sequence[int], basic: bool) -> list[list[CNNBlockBase]]:
    resnets = cfg.MODEL.RESNETS
    stages = []
    in_channels = resnets.STEM_OUT_CHANNELS
    for index, number in enumerate(num_blocks):
        factor = 2**index
        arguments = {
            "num_blocks": number,
            "stride_per_block": [1 if index == 0 else 2] + [1] * (number - 1),
            "in_channels": in_channels,
            "out_channels": resnets.RES2_OUT_CHANNELS * factor,
            "norm": resnets.NORM,
        }
        if not basic:
            arguments |= {
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * factor,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
            }
        stages.append(ResNet.make_stage(BasicBlock if basic else BottleneckBlock, **arguments))
        in_channels = arguments["out_channels"]
    return stages
