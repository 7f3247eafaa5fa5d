"""Necks: features of a bottom-up network -> a pyramid of one width."""

from . import fpn  # noqa: F401  (registers detectron2's FPN)
from .bfp import BFP
from .bifpn import BiFPN
from .build import NECK_REGISTRY, build_neck_backbone
from .deepfuse_fpn import DeepFuseFPN, build_resnet_deepfuse_fpn_backbone
from .hrfpn import HRFPN
from .nas_fpn import NASFPN
from .pafpn import PAFPN
from .top_block import PooledLevels

__all__ = [
    "BFP",
    "HRFPN",
    "NASFPN",
    "NECK_REGISTRY",
    "PAFPN",
    "BiFPN",
    "DeepFuseFPN",
    "PooledLevels",
    "build_neck_backbone",
    "build_resnet_deepfuse_fpn_backbone",
]
