"""Keys of necks."""

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

    # The neck BiFPN; MODEL.NECK has its width and the norm of the lateral convolutions. The paper's
    # IN_FEATURES are [res3, res4, res5] with TOP_BLOCK "p6p7"; all levels take part in the fusion.
    cfg.MODEL.BIFPN = CN()
    # Layers (each once down and up the levels): 1 or more; 3 to 8 in the paper.
    cfg.MODEL.BIFPN.REPEATS = 3
    # Normalisation behind the convolution of each fusion, "BN" in the paper; "" for none.
    cfg.MODEL.BIFPN.NORM = "BN"
