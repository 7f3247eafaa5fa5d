"""detectron2's own FPN (arXiv 1612.03144) as an entry of the neck registry."""

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone

from .build import NECK_REGISTRY
from .top_block import build_top_block

__all__ = ["build_fpn"]


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """detectron2's FPN with the keys of MODEL.NECK."""
    neck = cfg.MODEL.NECK
    top_block = build_top_block(neck.TOP_BLOCK, bottom_up, neck.IN_FEATURES, neck.OUT_CHANNELS)
    return FPN(bottom_up, neck.IN_FEATURES, neck.OUT_CHANNELS, norm=neck.NORM, top_block=top_block)


# Registered by the name of what it builds, like every neck.
build_fpn.__name__ = "FPN"
NECK_REGISTRY.register(build_fpn)
