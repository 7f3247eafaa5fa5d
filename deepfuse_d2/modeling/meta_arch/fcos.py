"""FCOS by a yaml: detectron2 has the network, but sets it up from a python config alone.

"FCOS: Fully Convolutional One-Stage Object Detection", arXiv 1904.01355, as detectron2 builds it:
without the learned scale of each level, and with the score of arXiv 2006.09214, equation 4.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch import fcos

from ..registration import register

__all__ = ["FCOS"]


@register(META_ARCH_REGISTRY)
class FCOS(fcos.FCOS):
    """detectron2's FCOS; MODEL.RETINANET describes its head, as detectron2's python config does.

    Of that node count NUM_CLASSES, IN_FEATURES, NUM_CONVS, NORM ("GN" in the paper), PRIOR_PROB,
    FOCAL_LOSS_ALPHA and GAMMA, and the three keys of inference (0.2 and 0.6 for SCORE_THRESH_TEST
    and NMS_THRESH_TEST in detectron2's config). There are no anchors to set.
    """

    @configurable
    def __init__(self, **arguments: Any):
        """
        Args:
            arguments: see :class:`detectron2.modeling.meta_arch.fcos.FCOS`.
        """
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        features = [shapes[name] for name in keys.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": fcos.FCOSHead(
                input_shape=features,
                num_classes=keys.NUM_CLASSES,
                conv_dims=[features[0].channels] * keys.NUM_CONVS,
                norm=keys.NORM,
                prior_prob=keys.PRIOR_PROB,
            ),
            "head_in_features": keys.IN_FEATURES,
            "num_classes": keys.NUM_CLASSES,
            "focal_loss_alpha": keys.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": keys.FOCAL_LOSS_GAMMA,
            "test_score_thresh": keys.SCORE_THRESH_TEST,
            "test_topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": keys.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }
