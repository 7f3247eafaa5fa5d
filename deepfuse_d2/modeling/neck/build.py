"""Composition: any bottom-up network with any neck, in place of one builder a pair."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.utils.registry import Registry

from ...config.look_up import look_up
from ...errors import config_errors
from ..registration import register

__all__ = ["NECK_REGISTRY", "build_neck_backbone"]

NECK_REGISTRY = Registry("NECK")
NECK_REGISTRY.__doc__ = """
Registry of necks: modules that turn the features of a bottom-up network into a pyramid.

An entry is called as ``entry(cfg, bottom_up)`` and returns a :class:`Backbone` that holds
`bottom_up` and maps images (N, 3, H, W) to {"p2": (N, C, H/4, W/4), "p3": ..., ...}.
"""


@register(BACKBONE_REGISTRY)
def build_neck_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """MODEL.NECK.NAME on top of MODEL.NECK.BOTTOM_UP."""
    bottom_up_builder = look_up(BACKBONE_REGISTRY, cfg.MODEL.NECK.BOTTOM_UP, "MODEL.NECK.BOTTOM_UP")
    neck_builder = look_up(NECK_REGISTRY, cfg.MODEL.NECK.NAME, "MODEL.NECK.NAME")
    bottom_up = bottom_up_builder(cfg, input_shape)
    with config_errors():
        return neck_builder(cfg, bottom_up)
