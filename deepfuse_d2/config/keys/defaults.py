"""All keys of ours with their defaults, as a tree of their own, and how they get into a config."""

import copy
import functools
from collections.abc import Mapping

from detectron2.config import CfgNode as CN

from ...errors import ConfigError
from . import backbones, data, deepfuse, monitor, necks, semantic, series, training

__all__ = ["defaults", "fill_in"]


@functools.cache
def defaults() -> CN:
    """Our keys alone. Not to be changed."""
    tree = CN()
    tree.MODEL = CN()
    tree.DATASETS = CN()
    tree.DEEPFUSE_D2 = CN()
    # the nodes of detectron2's that we have keys for
    tree.DEEPFUSE_D2.MODEL = CN({"BACKBONE": CN(), "SEM_SEG_HEAD": CN()})
    tree.DEEPFUSE_D2.INPUT = CN({"CROP": CN()})
    tree.DEEPFUSE_D2.DATALOADER = CN()
    tree.DEEPFUSE_D2.SOLVER = CN({"AMP": CN()})
    tree.DEEPFUSE_D2.TEST = CN()
    for room in (necks, deepfuse, backbones, semantic, series, training, data, monitor):
        room.add(tree)
    return tree


def fill_in(cfg: CN) -> None:
    """Give `cfg` each key of ours that it lacks, with its default.

    A project that is added after us may have put an empty node in place of one of ours; its keys
    and ours then live in one node.
    """
    _fill(cfg, defaults(), "")


def _fill(node: CN, keys: CN, prefix: str) -> None:
    for key, value in keys.items():
        if key not in node:
            node[key] = copy.deepcopy(value)
            if node.is_frozen() and isinstance(value, CN):
                node[key].freeze()
        elif isinstance(value, Mapping) != isinstance(node[key], Mapping):
            ours, theirs = "a node of keys", "one value"
            if not isinstance(value, Mapping):
                ours, theirs = theirs, ours
            raise ConfigError(
                f"The config has {theirs} at {prefix}{key}, where deepfuse_d2 has {ours}. Another "
                "project that was added to this config uses the name; the two need a config each."
            )
        elif isinstance(value, Mapping):
            _fill(node[key], value, f"{prefix}{key}.")
