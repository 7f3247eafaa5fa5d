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
    # kept: less memory, a third more time. Any of its stage names, e.g. ["res3", "res4"], or none.
    cfg.MODEL.BACKBONE.CHECKPOINT_STAGES = []

    # build_res2net_backbone; MODEL.RESNETS says the rest: DEPTH (26, 50, 101, 152), NUM_GROUPS,
    # NORM, STRIDE_IN_1X1 (False in the paper and in all published weights) and so on.
    cfg.MODEL.RES2NET = CN()
    # Splits of a block, s in the paper: 1 (a plain ResNet), 2, 4, 6, 8, ...
    cfg.MODEL.RES2NET.SCALE = 4
    # Channels of one split in res2, w in the paper: 26, 48, 14, ..., or 64 with scale 1; of each of
    # NUM_GROUPS groups. For a WIDTH_PER_GROUP of 64, in proportion for another.
    cfg.MODEL.RES2NET.BASE_WIDTH = 26
    # Three 3x3 convolutions in the stem instead of one 7x7. True in v1b.
    cfg.MODEL.RES2NET.DEEP_STEM = False
    # Shortcuts that change the size average first, then convolve with stride 1. True in v1b.
    cfg.MODEL.RES2NET.AVG_DOWN = False
    # The last split of the first block of res2, where the stride is 1, goes through a 3x3 average
    # pool: so in the authors' code, timm and their weights; False for weights of mmdetection.
    cfg.MODEL.RES2NET.POOL_STRIDE_1 = True
    # Start every block as its shortcut; helps training from random weights.
    cfg.MODEL.RES2NET.ZERO_INIT_RESIDUAL = False

    # build_dla_backbone: deep layer aggregation of Res2Net blocks, which MODEL.RES2NET.{SCALE,
    # BASE_WIDTH} and MODEL.RESNETS.{NUM_GROUPS, NORM, STRIDE_IN_1X1, OUT_FEATURES} describe.
    cfg.MODEL.DLA = CN()
    # Height of the tree of res2, res3, res4, res5: 1 or more; DLA-60 has these.
    cfg.MODEL.DLA.LEVELS = [1, 2, 3, 1]
    # Channels that res2, res3, res4, res5 give; even numbers.
    cfg.MODEL.DLA.CHANNELS = [128, 256, 512, 1024]

    # build_fishnet_backbone
    cfg.MODEL.FISHNET = CN()
    # 99, 150 or 201: the blocks of the published networks.
    cfg.MODEL.FISHNET.DEPTH = 150
    # Own numbers of blocks instead, at least 1 each: of the ten stages on the main path, and of the
    # last six on the path beside it. [] takes those of DEPTH.
    cfg.MODEL.FISHNET.NUM_BLOCKS = []
    cfg.MODEL.FISHNET.NUM_TRANSFER_BLOCKS = []
    # Channels of the stem, a multiple of 4; all other widths are proportional. 64 in all published
    # networks.
    cfg.MODEL.FISHNET.WIDTH = 64
    # Normalisation: "BN", "FrozenBN", "SyncBN", "GN" (groups of WIDTH / 4 channels), ...; not "".
    cfg.MODEL.FISHNET.NORM = "FrozenBN"
    # Which maps are res2..res5: "head" (320, 832, 1600, 2112 channels) or "body" (320, 512, 768,
    # 512; without the head, which is then not built).
    cfg.MODEL.FISHNET.TAPS = "head"
    # Features to give: any of "res2".."res5"; stages that none of them needs are not built.
    cfg.MODEL.FISHNET.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # A new norm, of this name, and a ReLU on every feature. Advised for training, because the raw
    # features are unbounded sums; "" gives the raw ones, as the published network makes them.
    cfg.MODEL.FISHNET.OUT_NORM_ACT = ""

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
