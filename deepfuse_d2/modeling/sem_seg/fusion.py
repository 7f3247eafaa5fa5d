"""DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE: how a semantic head merges maps of one size and width."""

import dataclasses
from collections.abc import Callable

from detectron2.config import CfgNode

from ...config.keys.deepfuse import fuse_settings
from ...errors import ConfigError
from ...layers import DeepFuse

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
    settings = dataclasses.replace(fuse_settings(cfg), align_norm="")
    return lambda channels, num_maps: DeepFuse([channels] * num_maps, channels, settings)
