"""Necks: features of a bottom-up network -> a pyramid of one width."""

from . import fpn  # noqa: F401  (registers detectron2's FPN)
from .bifpn import BiFPN
from .build import NECK_REGISTRY, build_neck_backbone
from .deepfuse_fpn import DeepFuseFPN, build_resnet_deepfuse_fpn_backbone
from .pafpn import PAFPN

__all__ = [
    "NECK_REGISTRY",
    "PAFPN",
    "BiFPN",
    "DeepFuseFPN",
    "build_neck_backbone",
    "build_resnet_deepfuse_fpn_backbone",
]
