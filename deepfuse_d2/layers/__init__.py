"""Building blocks: tensors in, tensors out. They know torch, no config and no registry."""

from .alignment import ALIGNMENTS, FlowAlignment
from .carafe import Carafe
from .checkpointing import check_checkpoint_stages, run_stage
from .conv import same_size_conv
from .deepen import Deepen
from .exfuse import DenselyAdjacentPrediction, SemanticEmbeddingBranch, SubPixelUpsample
from .fuse import DeepFuse, FuseSettings
from .global_conv import BoundaryRefinement, GlobalConvolution, Upsample2x, crop_to
from .merge import MERGES
from .norm import get_norm
from .refine import ChainedResidualPooling, MultiResolutionFusion, ResidualConvUnit
from .resample import DOWNSAMPLES, UPSAMPLES, resample
from .units import UNITS

__all__ = [
    "ALIGNMENTS",
    "DOWNSAMPLES",
    "MERGES",
    "UNITS",
    "UPSAMPLES",
    "BoundaryRefinement",
    "Carafe",
    "ChainedResidualPooling",
    "DeepFuse",
    "Deepen",
    "DenselyAdjacentPrediction",
    "FlowAlignment",
    "FuseSettings",
    "GlobalConvolution",
    "MultiResolutionFusion",
    "ResidualConvUnit",
    "SemanticEmbeddingBranch",
    "SubPixelUpsample",
    "Upsample2x",
    "check_checkpoint_stages",
    "crop_to",
    "get_norm",
    "resample",
    "run_stage",
    "same_size_conv",
]
