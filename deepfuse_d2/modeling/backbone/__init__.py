"""Bottom-up networks in detectron2's BACKBONE_REGISTRY: image -> {"res2": ..., "res5": ...}.

SpineNet gives {"p3": ..., "p7": ...} and needs no neck.
"""

from .composite import CompositeBackbone, build_composite_backbone
from .deepfuse_resnet import DeepFuseResNet, build_deepfuse_resnet_backbone
from .dla import DLA, build_dla_backbone
from .fishnet import Fish, FishNet
from .fishnet_backbone import FishNetBackbone, build_fishnet_backbone
from .mobilenet_v2 import MobileNetV2, build_mobilenet_v2_backbone
from .rearranged_resnet import build_rearranged_resnet_backbone
from .res2net import Res2Net, build_res2net_backbone
from .spinenet import SpineNet, build_spinenet_backbone
from .staged import StagedBackbone
from .swin import Swin, build_swin_backbone
from .timm_features import TimmBackbone, build_timm_backbone
from .two_scale import TwoScaleBackbone, build_two_scale_backbone

__all__ = [
    "DLA",
    "CompositeBackbone",
    "DeepFuseResNet",
    "Fish",
    "FishNet",
    "FishNetBackbone",
    "MobileNetV2",
    "Res2Net",
    "SpineNet",
    "StagedBackbone",
    "Swin",
    "TimmBackbone",
    "TwoScaleBackbone",
    "build_composite_backbone",
    "build_deepfuse_resnet_backbone",
    "build_dla_backbone",
    "build_fishnet_backbone",
    "build_mobilenet_v2_backbone",
    "build_rearranged_resnet_backbone",
    "build_res2net_backbone",
    "build_spinenet_backbone",
    "build_swin_backbone",
    "build_timm_backbone",
    "build_two_scale_backbone",
]
