"""Which features a semantic head reads, checked once for all heads."""

import itertools

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from ...errors import ConfigError

__all__ = ["check_doubling", "chosen_features", "from_fine_to_coarse"]


def chosen_features(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The entries of `input_shape` that MODEL.SEM_SEG_HEAD.IN_FEATURES names."""
    names = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    unknown = [name for name in names if name not in input_shape]
    if unknown or not names:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(names)}, but the backbone gives "
            f"{list(input_shape)}. Choose among those; for detectron2's ResNet, "
            "MODEL.RESNETS.OUT_FEATURES says what it gives."
        )
    return {name: input_shape[name] for name in names}


def from_fine_to_coarse(input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """Ordered from high to low resolution; features of one stride keep their order."""
    return dict(sorted(input_shape.items(), key=lambda item: item[1].stride))


def check_doubling(input_shape: dict[str, ShapeSpec], head: str) -> None:
    """Raise unless strides, from fine to coarse, are powers of two, each twice the one before."""
    strides = [shape.stride for shape in input_shape.values()]
    doubling = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if not strides or not doubling or strides[0] & (strides[0] - 1):
        raise ConfigError(
            f"{head} reads {list(input_shape)} of strides {strides}; it needs powers of two, each "
            "twice the one before. Choose others with MODEL.SEM_SEG_HEAD.IN_FEATURES."
        )
