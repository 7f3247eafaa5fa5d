"""Keys of necks and of the DeepFuse operation."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    # A bottom-up network and a neck on top of it: MODEL.BACKBONE.NAME = "build_neck_backbone"
    cfg.MODEL.NECK = CN()
    # Any name in detectron2's BACKBONE_REGISTRY, detectron2's own or ours.
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"
    # Any name in NECK_REGISTRY: "FPN", "DeepFuseFPN", "PAFPN", "BiFPN".
    cfg.MODEL.NECK.NAME = "DeepFuseFPN"
    # Bottom-up features to fuse, from high to low resolution; each stride twice the one before.
    cfg.MODEL.NECK.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Channels of every output feature.
    cfg.MODEL.NECK.OUT_CHANNELS = 256
    # Normalisation in the neck, a name for detectron2's get_norm; "" for none.
    cfg.MODEL.NECK.NORM = ""
    # Extra, coarser levels: "maxpool" (p6, for R-CNN), "p6p7" (for RetinaNet and FCOS), "none".
    cfg.MODEL.NECK.TOP_BLOCK = "maxpool"

    # The DeepFuse operation, wherever it is used; deepfuse_d2/layers/fuse.py defines it.
    cfg.MODEL.DEEPFUSE = CN()
    # How maps are merged: "sum", "weighted_sum" (a learned weight an input), "gated" (a learned
    # weight a position), "concat" (with a 1x1 convolution). docs/deepfuse.md has the measurements
    # behind this default and those of UNIT and DEPTH. With DEPTH 0, "sum" is FPN.
    cfg.MODEL.DEEPFUSE.MERGE = "gated"
    # What "deep" consists of: "residual" (two 3x3), "bottleneck" (1x1, 3x3, 1x1), "dense" (3x3s
    # that see all earlier maps), "separable" (7x7 depthwise, 1x1s), "multi_scale" (the chain of
    # 3x3s over groups of Res2Net).
    cfg.MODEL.DEEPFUSE.UNIT = "bottleneck"
    # Units after each fusion; 0 is simple fusion, as in FPN.
    cfg.MODEL.DEEPFUSE.DEPTH = 1
    # Normalisation inside the units; "" for none. With DEPTH 0 it must be "".
    cfg.MODEL.DEEPFUSE.NORM = ""
    # Normalisation of the convolutions that bring maps to one shape before they are merged, in
    # backbones and heads; "" for none. In a neck these are the laterals: MODEL.NECK.NORM.
    cfg.MODEL.DEEPFUSE.ALIGN_NORM = ""
    # How coarser maps are enlarged: "nearest" (as in FPN), "bilinear".
    cfg.MODEL.DEEPFUSE.UPSAMPLE = "nearest"
    # How finer maps are reduced: "max_pool", "avg_pool", "conv" (3x3 of stride 2 for each halving).
    cfg.MODEL.DEEPFUSE.DOWNSAMPLE = "max_pool"
    # Probability, in [0, 1), to drop the deep branch of a sample in training (stochastic depth).
    cfg.MODEL.DEEPFUSE.DROP_PATH = 0.0
    # Start as simple fusion, so that weights of an FPN or of a backbone keep their function.
    cfg.MODEL.DEEPFUSE.ZERO_INIT = True
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

    # The neck BiFPN; MODEL.NECK has its width and the norm of the lateral convolutions. The paper's
    # IN_FEATURES are [res3, res4, res5] with TOP_BLOCK "p6p7"; all levels take part in the fusion.
    cfg.MODEL.BIFPN = CN()
    # Layers (each once down and up the levels): 1 or more; 3 to 8 in the paper.
    cfg.MODEL.BIFPN.REPEATS = 3
    # Normalisation behind the convolution of each fusion, "BN" in the paper; "" for none.
    cfg.MODEL.BIFPN.NORM = "BN"
