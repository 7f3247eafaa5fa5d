"""Keys of the DeepFuse operation, MODEL.DEEPFUSE; deepfuse_d2/layers/fuse.py defines it.

What every fusion shares is one set of settings, :class:`FuseSettings`, for yaml and python alike: a
field is a key in capitals, and its default is the key's.
"""

import dataclasses

from detectron2.config import CfgNode as CN

__all__ = ["FuseSettings", "add", "fuse_settings"]


@dataclasses.dataclass(frozen=True)
class FuseSettings:
    """What one fusion does, wherever it stands.

    docs/deepfuse.md has the measurements behind the defaults of `merge`, `unit` and `depth`.

    Example:
        >>> FuseSettings(merge="sum", depth=0)  # simple fusion, as in FPN
    """

    # How maps are merged: "sum", "weighted_sum" (a learned weight an input), "gated" (a learned
    # weight a position), "channel_gated" (and one a channel), "attention" (a softmax over the
    # inputs at each position), "concat" (with a 1x1 convolution).
    merge: str = "gated"
    # What "deep" consists of: "residual" (two 3x3), "bottleneck" (1x1, 3x3, 1x1), "dense" (3x3s
    # that see all earlier maps), "separable" (7x7 depthwise, 1x1s), "multi_scale" (the chain of
    # 3x3s over groups of Res2Net).
    unit: str = "bottleneck"
    # Units after each fusion; 0 is simple fusion, and with "sum" it is FPN's.
    depth: int = 1
    # Normalisation inside the units, a name for detectron2's get_norm; "" for none. With a depth of
    # 0 it must be "".
    norm: str = ""
    # Normalisation of the convolutions that bring maps to one shape before they are merged; "" for
    # none. For backbones; necks and heads have laterals with a norm of their own, such as
    # MODEL.NECK.NORM, which holds here too.
    align_norm: str = ""
    # How coarser maps are enlarged: "nearest" (as in FPN), "bilinear", "carafe" (by weights that a
    # convolution reads off the map).
    upsample: str = "nearest"
    # How finer maps are reduced: "max_pool", "avg_pool", "conv" (3x3 of stride 2 for each halving).
    downsample: str = "max_pool"
    # What moves a source to where it belongs before it is merged: "" (nothing), "flow" (a flow that
    # is learned from target and source).
    alignment: str = ""
    # Probability, in [0, 1), to drop the deep branch of a sample in training (stochastic depth).
    drop_path: float = 0.0
    # Start as simple fusion, so that weights of an FPN or of a backbone keep their function.
    zero_init: bool = True


def fuse_settings(cfg: CN) -> FuseSettings:
    """MODEL.DEEPFUSE of a config."""
    keys = (field.name for field in dataclasses.fields(FuseSettings))
    return FuseSettings(**{key: cfg.MODEL.DEEPFUSE[key.upper()] for key in keys})


def add(cfg: CN) -> None:
    shared = dataclasses.asdict(FuseSettings())
    cfg.MODEL.DEEPFUSE = CN({key.upper(): default for key, default in shared.items()})
    # Which way DeepFuseFPN fuses: "top_down", "bottom_up" (after FPN's plain sums down),
    # "bidirectional" (down, then up).
    cfg.MODEL.DEEPFUSE.DIRECTION = "top_down"
    # How often DeepFuseFPN goes through its direction, 1 or more.
    cfg.MODEL.DEEPFUSE.REPEATS = 1
    # Stages of "build_deepfuse_resnet_backbone" that other stages are fused into: any of "res2",
    # "res3", "res4", "res5".
    cfg.MODEL.DEEPFUSE.BACKBONE_STAGES = ["res3", "res4", "res5"]
    # From where: "low_to_high" (detail of all earlier stages into the map the next stage gets; not
    # into res2), "high_to_low" (meaning of all later stages into the map that is returned; not into
    # the last), "both".
    cfg.MODEL.DEEPFUSE.BACKBONE_DIRECTION = "low_to_high"
    # A stage of C channels is fused on C / BACKBONE_REDUCTION channels; must divide.
    cfg.MODEL.DEEPFUSE.BACKBONE_REDUCTION = 4
