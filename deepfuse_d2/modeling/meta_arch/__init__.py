"""Meta-architectures: from images to losses or predictions."""

from .assistants import supervise_assistants
from .dense_inference import DenseInference
from .fcos import FCOS
from .fusion_sem_seg import FusionSemanticSegmentor
from .m3fusion import M3FusionSegmentor

__all__ = [
    "FCOS",
    "DenseInference",
    "FusionSemanticSegmentor",
    "M3FusionSegmentor",
    "supervise_assistants",
]
