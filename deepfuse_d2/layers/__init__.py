"""Building blocks: tensors in, tensors out. They know torch, no config and no registry."""

from .conv import same_size_conv
from .fuse import DeepFuse
from .merge import MERGES
from .norm import get_norm
from .units import UNITS

__all__ = ["MERGES", "UNITS", "DeepFuse", "get_norm", "same_size_conv"]
