"""Semantic heads: features -> class scores, in detectron2's SEM_SEG_HEADS_REGISTRY; losses."""

from .deepfuse import DeepFuseSemSegHead
from .exfuse import ExFuseHead
from .gcn import GCNHead
from .refinenet import RefineNetHead
from .smp_decoder import SMPDecoderHead

__all__ = ["DeepFuseSemSegHead", "ExFuseHead", "GCNHead", "RefineNetHead", "SMPDecoderHead"]
