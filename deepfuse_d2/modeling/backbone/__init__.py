"""Bottom-up networks: image -> {"res2": ..., "res5": ...}, in detectron2's BACKBONE_REGISTRY."""

from .fishnet import Fish, FishNet
from .fishnet_backbone import FishNetBackbone, build_fishnet_backbone
from .timm_features import TimmBackbone, build_timm_backbone

__all__ = [
    "Fish",
    "FishNet",
    "FishNetBackbone",
    "TimmBackbone",
    "build_fishnet_backbone",
    "build_timm_backbone",
]
