"""Small models whose predictions are spread enough to be compared."""

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from benchmarks.calibrated_weights import calibrated_random_weights
from deepfuse_d2 import add_deepfuse_config


def rcnn_cfg(*opts) -> CfgNode:
    """Mask R-CNN R-50, narrow, for images of 64 x 96 and so."""
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.merge_from_list([
        "MODEL.DEVICE", "cpu",
        "MODEL.WEIGHTS", "",
        "MODEL.MASK_ON", True,
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
        "MODEL.RESNETS.DEPTH", 50,
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 8,
        "MODEL.RESNETS.WIDTH_PER_GROUP", 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
        "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS", 16,
        "MODEL.NECK.OUT_CHANNELS", 16,
        "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]],
        "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.RPN.PRE_NMS_TOPK_TEST", 200,
        "MODEL.RPN.POST_NMS_TOPK_TEST", 60,
        "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_HEADS.NUM_CLASSES", 8,
        "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC", 2,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 32,
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV", 2,
        "MODEL.ROI_MASK_HEAD.CONV_DIM", 16,
        "INPUT.MIN_SIZE_TEST", 64,
        "TEST.DETECTIONS_PER_IMAGE", 40,
        "INPUT.MAX_SIZE_TEST", 128,
        *opts,
    ])  # fmt: skip
    return cfg


def images(*sizes: tuple[int, int], seed: int = 0) -> list[dict]:
    """Inputs of a model: smooth random images, so that neighbouring anchors differ."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for height, width in sizes:
        coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=generator)
        image = nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
        inputs.append({"image": (255 * image.clamp(0, 1)).round()})
    return inputs


def busy_rcnn(*opts) -> nn.Module:
    """A model of :func:`rcnn_cfg` that finds dozens of instances in :func:`images`."""
    torch.manual_seed(0)
    model = build_model(rcnn_cfg(*opts)).eval()
    calibrated_random_weights(model, images((128, 192), (128, 192), seed=9), candidates=150)
    return model
