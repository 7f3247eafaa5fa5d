"""Every config key that deepfuse_d2 adds to detectron2's, with meaning, unit and allowed values."""

from detectron2.config import CfgNode as CN

__all__ = ["add_deepfuse_config"]


def add_deepfuse_config(cfg: CN) -> None:
    """Add the keys of deepfuse_d2 to `cfg`, in place. Calling it again changes nothing.

    No default of detectron2 is changed.
    """
    if "NECK" in cfg.MODEL:
        return

    # A bottom-up network and a neck on top of it: MODEL.BACKBONE.NAME = "build_neck_backbone"
    cfg.MODEL.NECK = CN()
    # Any name in detectron2's BACKBONE_REGISTRY, detectron2's own or ours.
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"
    # Any name in NECK_REGISTRY: "FPN", "DeepFuseFPN".
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
    # How maps are merged: "sum", "weighted_sum", "gated", "concat".
    cfg.MODEL.DEEPFUSE.MERGE = "sum"
    # What "deep" consists of: "residual" (two 3x3), "bottleneck" (1x1, 3x3, 1x1), "dense" (3x3s that
    # see all earlier maps), "separable" (7x7 depthwise, 1x1s), "multi_scale" (Res2Net's split).
    cfg.MODEL.DEEPFUSE.UNIT = "bottleneck"
    # Units after each fusion; 0 is simple fusion, as in FPN.
    cfg.MODEL.DEEPFUSE.DEPTH = 1
    # Normalisation inside the units; "" for none.
    cfg.MODEL.DEEPFUSE.NORM = ""
    # Probability, in [0, 1), to drop the deep branch of a sample in training (stochastic depth).
    cfg.MODEL.DEEPFUSE.DROP_PATH = 0.0
    # Start as simple fusion, so that weights of an FPN keep their function.
    cfg.MODEL.DEEPFUSE.ZERO_INIT = True

    # Stages of a backbone of ours whose activations are computed again in backward instead of being
    # kept: less memory, a third more time. Any of its stage names, e.g. ["res3", "res4"]; [] = none.
    cfg.MODEL.BACKBONE.CHECKPOINT_STAGES = []

    # Keep convolution maps and weights with channels innermost: faster on CPUs and tensor cores.
    cfg.MODEL.CHANNELS_LAST = False
    # Element type of the forward pass where SOLVER.AMP.ENABLED: "float16" (a GPU) or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"

    # "SGD" (detectron2's, with SOLVER.MOMENTUM) or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"

    # Instances whose mask has fewer pixels, in the original image, are left out of training; 0
    # keeps all. The Cityscapes evaluation asks for instances of 100 pixels and more.
    cfg.INPUT.MIN_INSTANCE_AREA = 0
    # Own data sets by path, registered when the config is loaded: a list of mappings, by default
    # none. Keys NAME (for DATASETS.TRAIN and TEST), FORMAT and those of the format:
    #   coco                  JSON (file), IMAGES (folder)
    #   cityscapes_instances  ROOT (folder of leftImg8bit and gtFine), SPLIT; HAS_LABELS (default:
    #   cityscapes_semantic     all but SPLIT "test"; False gives images only)
    #   label_images          IMAGES, LABELS (folders), CLASSES (names of ids 0, 1, ...);
    #                         IGNORE_LABEL (default 255), LABEL_SUFFIX (default ".png")
    #   subset                OF (a registered data set), COUNT (images, spread evenly over it)
    # Relative paths start from the working directory. See datasets/README.md.
    cfg.DATASETS.EXTRA = []
