"""DeepFuseSemSegHead: a pixel-level decoder whose every fusion is the DeepFuse operation.

Meaning comes down level by level, each step fusing and going deep; at the finest level, all levels
meet once more, so that a pixel is decided with every context at hand:

    res5 - lateral - y5 ---------------------------------+
    res4 - lateral - DeepFuse(., y5) - y4 ---------------+
    res3 - lateral ------- DeepFuse(., y4) - y3 ---------+
    res2 - lateral ------------- DeepFuse(., y3) - y2 - DeepFuse(y2; y3, y4, y5) - scores

The head is ours. With ``depth=0, merge="sum"`` it is simple fusion: FPN's sums, and a sum of the
levels as in Panoptic FPN; with `zero_init` every member of the family starts there.
"""

import dataclasses
import itertools

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...config.keys.deepfuse import fuse_settings
from ...errors import ConfigError
from ...layers import DeepFuse, FuseSettings, same_size_conv
from ..registration import register
from .features import chosen_features, from_fine_to_coarse

__all__ = ["DeepFuseSemSegHead"]


@register(SEM_SEG_HEADS_REGISTRY)
class DeepFuseSemSegHead(nn.Module):
    """Top-down DeepFuse, then one DeepFuse of all levels at the finest; a 1x1 classifier.

    Attributes:
        auxiliary_weights: weights of the auxiliary outputs; none here.

    Example:
        >>> shapes = {"res4": ShapeSpec(channels=64, stride=16), "res5": ShapeSpec(channels=128, stride=32)}
        >>> head = DeepFuseSemSegHead(shapes, num_classes=19, width=32, settings=FuseSettings(depth=2))
        >>> head({"res4": torch.rand(1, 64, 5, 9), "res5": torch.rand(1, 128, 3, 5)})["sem_seg"].shape
        torch.Size([1, 19, 5, 9])
    """  # noqa: E501

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        width: int = 128,
        norm: str = "",
        settings: FuseSettings = FuseSettings(),
    ):
        """
        Args:
            input_shape: of the features to read, each of another stride; two or more.
            num_classes: C.
            width: channels of all levels.
            norm: of the lateral convolutions; "" for none.
            settings: of every fusion. Its `align_norm` has no use: the laterals align.
        """
        super().__init__()
        shapes = from_fine_to_coarse(input_shape)
        strides = [shape.stride for shape in shapes.values()]
        if len(shapes) < 2 or len(set(strides)) < len(strides):
            raise ConfigError(
                f"DeepFuseSemSegHead reads {list(shapes)} of strides {strides}; it needs two or "
                "more features, each of another stride. Choose them with "
                "MODEL.SEM_SEG_HEAD.IN_FEATURES."
            )
        settings = dataclasses.replace(settings, align_norm="")
        self.in_features = tuple(shapes)
        self.auxiliary_weights: dict[str, float] = {}
        self.laterals = nn.ModuleList(
            same_size_conv(shape.channels, width, 1, norm) for shape in shapes.values()
        )
        # Entry i fuses level i + 1 into level i.
        self.top_down = nn.ModuleList(
            DeepFuse([width, width], width, settings, strides=list(pair))
            for pair in itertools.pairwise(strides)
        )
        self.gather = DeepFuse([width] * len(strides), width, settings, strides=strides)
        self.classifier = Conv2d(width, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return {
            "input_shape": chosen_features(cfg, input_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "width": cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
            "norm": cfg.MODEL.SEM_SEG_HEAD.NORM,
            "settings": fuse_settings(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: (N, C_l, H_l, W_l)} -> {"sem_seg": (N, C, H, W)} at the size of the finest."""
        levels = [
            lateral(features[name])
            for lateral, name in zip(self.laterals, self.in_features, strict=True)
        ]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = self.top_down[i](levels[i], [levels[i + 1]])
        return {"sem_seg": self.classifier(self.gather(levels[0], levels[1:]))}
