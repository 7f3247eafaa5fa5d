"""A bottom-up network on the image and a second one on half of it: RefineNet's 2-scale variant.

The networks have weights of their own, as in the authors' code (arXiv 1611.06612, figure 7c).
Weights of one network start both.
"""

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from ..registration import register
from .protocol import child_builder

__all__ = ["TwoScaleBackbone", "build_two_scale_backbone"]


class TwoScaleBackbone(Backbone):
    """Features of the image under their names, those of half of the image as ``half_<name>``.

    Args:
        bottom_up: network for the image.
        half_scale: network of the same kind for half of the image.
    """

    def __init__(self, bottom_up: Backbone, half_scale: Backbone):
        super().__init__()
        self.bottom_up = bottom_up
        self.half_scale = half_scale

    def children_backbones(self) -> dict[str, Backbone]:
        return {"bottom_up": self.bottom_up, "half_scale": self.half_scale}

    @property
    def size_divisibility(self) -> int:
        return max(self.bottom_up.size_divisibility, 2 * self.half_scale.size_divisibility)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Strides are those in the image: ``half_res4`` is as large as ``res5``."""
        halves = {
            f"half_{name}": ShapeSpec(channels=shape.channels, stride=2 * shape.stride)
            for name, shape in self.half_scale.output_shape().items()
        }
        return self.bottom_up.output_shape() | halves

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, C, H/4, W/4), ..., "half_res2": (N, C, H/8, W/8), ...}."""
        size = [(side + 1) // 2 for side in image.shape[-2:]]
        # halving, bilinear is the mean of two by two pixels: nothing is skipped
        smaller = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        halves = {f"half_{name}": feature for name, feature in self.half_scale(smaller).items()}
        return self.bottom_up(image) | halves


@register(BACKBONE_REGISTRY)
def build_two_scale_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TwoScaleBackbone:
    """MODEL.TWO_SCALE.BOTTOM_UP, or else MODEL.NECK.BOTTOM_UP, twice."""
    builder = child_builder(cfg, "MODEL.TWO_SCALE.BOTTOM_UP", build_two_scale_backbone)
    return TwoScaleBackbone(builder(cfg, input_shape), builder(cfg, input_shape))
