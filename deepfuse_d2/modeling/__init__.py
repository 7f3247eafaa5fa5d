"""Networks: backbones, necks, heads and meta-architectures, registered with detectron2."""

from . import backbone  # noqa: F401  (registers the bottom-up networks)
from .meta_arch import FusionSemanticSegmentor, M3FusionSegmentor
from .neck import NECK_REGISTRY, DeepFuseFPN, build_neck_backbone
from .sem_seg import DeepFuseSemSegHead, ExFuseHead, GCNHead, RefineNetHead, SMPDecoderHead

__all__ = [
    "NECK_REGISTRY",
    "DeepFuseFPN",
    "DeepFuseSemSegHead",
    "ExFuseHead",
    "FusionSemanticSegmentor",
    "GCNHead",
    "M3FusionSegmentor",
    "RefineNetHead",
    "SMPDecoderHead",
    "build_neck_backbone",
]
