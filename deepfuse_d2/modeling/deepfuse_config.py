"""MODEL.DEEPFUSE as arguments, for everything that fuses: necks, backbones and heads."""

from typing import Any

from detectron2.config import CfgNode

__all__ = ["deepfuse_arguments"]


def deepfuse_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The keyword arguments of :class:`deepfuse_d2.layers.DeepFuse` that a config decides.

    What depends on the place of a fusion (channels, strides, align, skip, width) is left to it.
    """
    deepfuse = cfg.MODEL.DEEPFUSE
    return {
        "merge": deepfuse.MERGE,
        "unit": deepfuse.UNIT,
        "depth": deepfuse.DEPTH,
        "norm": deepfuse.NORM,
        "align_norm": deepfuse.ALIGN_NORM,
        "upsample": deepfuse.UPSAMPLE,
        "downsample": deepfuse.DOWNSAMPLE,
        "drop_path": deepfuse.DROP_PATH,
        "zero_init": deepfuse.ZERO_INIT,
    }
