"""Bottom-up networks: image -> {"res2": ..., "res5": ...}, in detectron2's BACKBONE_REGISTRY."""

from .deepfuse_resnet import DeepFuseResNet, build_deepfuse_resnet_backbone
from .dla import DLA, build_dla_backbone
from .fishnet import Fish, FishNet
from .fishnet_backbone import FishNetBackbone, build_fishnet_backbone
from .res2net import Res2Net, build_res2net_backbone
from .staged import StagedBackbone
from .timm_features import TimmBackbone, build_timm_backbone

__all__ = [
    "DLA",
    "DeepFuseResNet",
    "Fish",
    "FishNet",
    "FishNetBackbone",
    "Res2Net",
    "StagedBackbone",
    "TimmBackbone",
    "build_deepfuse_resnet_backbone",
    "build_dla_backbone",
    "build_fishnet_backbone",
    "build_res2net_backbone",
    "build_timm_backbone",
]
