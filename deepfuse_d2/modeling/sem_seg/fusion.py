"""DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE: how a semantic head merges maps of one size and width."""

from collections.abc import Callable

from detectron2.config import CfgNode

from ...errors import ConfigError
from ...layers import DeepFuse
from ..deepfuse_config import deepfuse_arguments

__all__ = ["build_fuse"]


def build_fuse(cfg: CfgNode) -> Callable[[int, int], DeepFuse] | None:
    """builder(channels, num_maps) of a block called with the first map and a list of the others.

    None stands for the plain sum. With MODEL.DEEPFUSE.ZERO_INIT, the block starts as that sum.
    """
    name = cfg.DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE
    if name == "sum":
        return None
    if name != "deepfuse":
        raise ConfigError(
            f'DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE = "{name}" is unknown; choose "sum" or '
            '"deepfuse".'
        )
    # the maps come aligned: there is nothing to normalise
    keywords = deepfuse_arguments(cfg) | {"align_norm": ""}
    return lambda channels, num_maps: DeepFuse([channels] * num_maps, channels, **keywords)
