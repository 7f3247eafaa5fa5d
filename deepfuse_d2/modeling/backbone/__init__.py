"""Bottom-up networks: image -> {"res2": ..., "res5": ...}, in detectron2's BACKBONE_REGISTRY."""

from .fishnet import Fish, FishNet
from .fishnet_backbone import FishNetBackbone, build_fishnet_backbone

__all__ = ["Fish", "FishNet", "FishNetBackbone", "build_fishnet_backbone"]
