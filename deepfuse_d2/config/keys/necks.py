"""Keys of necks."""

from detectron2.config import CfgNode as CN

__all__ = ["add"]


def add(cfg: CN) -> None:
    # A bottom-up network and a neck on top of it: MODEL.BACKBONE.NAME = "build_neck_backbone"
    cfg.MODEL.NECK = CN()
    # Any name in detectron2's BACKBONE_REGISTRY, detectron2's own or ours.
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"
    # Any name in NECK_REGISTRY: "FPN", "DeepFuseFPN", "PAFPN", "BiFPN", "NASFPN", "BFP", "HRFPN".
    cfg.MODEL.NECK.NAME = "DeepFuseFPN"
    # Bottom-up features to fuse, from high to low resolution; each stride twice the one before.
    cfg.MODEL.NECK.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Channels of every output feature.
    cfg.MODEL.NECK.OUT_CHANNELS = 256
    # Normalisation in the neck, a name for detectron2's get_norm; "" for none.
    cfg.MODEL.NECK.NORM = ""
    # Extra, coarser levels: "maxpool" (p6 by subsampling, for R-CNN), "p6p7" (convolutions, for
    # RetinaNet and FCOS), "avgpool" (p6, published with HRFPN), "maxpool_p6p7" (published with
    # NASFPN), "none".
    cfg.MODEL.NECK.TOP_BLOCK = "maxpool"

    # The neck BiFPN; MODEL.NECK has its width and the norm of the lateral convolutions. The paper's
    # IN_FEATURES are [res3, res4, res5] with TOP_BLOCK "p6p7"; all levels take part in the fusion.
    cfg.MODEL.BIFPN = CN()
    # Layers (each once down and up the levels): 1 or more; 3 to 8 in the paper.
    cfg.MODEL.BIFPN.REPEATS = 3
    # Normalisation behind the convolution of each fusion, "BN" in the paper; "" for none.
    cfg.MODEL.BIFPN.NORM = "BN"

    # The neck NASFPN, of five levels; MODEL.NECK has its width and the norm of the lateral
    # convolutions. The paper's IN_FEATURES are [res3, res4, res5] with TOP_BLOCK "maxpool_p6p7".
    cfg.MODEL.NASFPN = CN()
    # Cells: 1 or more; 3 to 7 in the paper. One has 4.1 million parameters at 256 channels.
    cfg.MODEL.NASFPN.REPEATS = 7
    # Normalisation behind the convolution of each merge, "BN" in the paper; "" for none.
    cfg.MODEL.NASFPN.NORM = "BN"

    # The neck BFP, the balanced feature pyramid of Libra R-CNN, on an FPN.
    cfg.MODEL.BFP = CN()
    # Level at which all levels meet; 4 is p4, of stride 16.
    cfg.MODEL.BFP.LEVEL = 4
    # What refines their mean: "non_local" (attention over all positions), "conv" (3x3) or "none".
    cfg.MODEL.BFP.REFINE = "non_local"
