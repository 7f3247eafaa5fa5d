"""MODEL.DEEPFUSE as arguments, for everything that fuses: necks, backbones and heads."""

import contextlib
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from ..errors import ConfigError

__all__ = ["config_errors", "deepfuse_arguments"]


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """A ValueError of a constructor with arguments from a config is a mistake in the config."""
    try:
        yield
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


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
