"""Building blocks: tensors in, tensors out. They know torch, no config and no registry."""

from .checkpointing import check_checkpoint_stages, run_stage
from .conv import same_size_conv
from .deepen import Deepen
from .fuse import DeepFuse
from .merge import MERGES
from .norm import get_norm
from .units import UNITS

__all__ = [
    "MERGES",
    "UNITS",
    "DeepFuse",
    "check_checkpoint_stages",
    "get_norm",
    "run_stage",
    "same_size_conv",
]
