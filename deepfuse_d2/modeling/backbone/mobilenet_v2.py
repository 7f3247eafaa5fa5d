"""MobileNet-v2 (arXiv 1801.04381) with the six features that Light-Weight RefineNet reads.

As in that network's public weights, and other than in most implementations, the block without
expansion (the first) has its 1x1 convolution all the same. MODEL.RESNETS.{NORM, OUT_FEATURES} serve
here too.
"""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import ConfigError
from ..registration import register
from .protocol import Stage, freeze_stages

__all__ = ["MobileNetV2", "build_mobilenet_v2_backbone"]

# name, expansion, channels, blocks, stride of the first; "a": the first of two stages of one stride
_STAGES = (
    ("res1", 1, 16, 1, 1),
    ("res2", 6, 24, 2, 2),
    ("res3", 6, 32, 3, 2),
    ("res4a", 6, 64, 4, 2),
    ("res4", 6, 96, 3, 1),
    ("res5a", 6, 160, 3, 2),
    ("res5", 6, 320, 1, 1),
)
_STEM_CHANNELS = 32


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, norm: str, *, active=True, **arguments
) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=F.relu6 if active else None,
        **arguments,
    )
    weight_init.c2_msra_fill(conv)
    return conv


class Stem(CNNBlockBase):
    """3x3 convolution of stride 2."""

    def __init__(self, in_channels: int, norm: str):
        super().__init__(in_channels, _STEM_CHANNELS, 2)
        self.conv1 = _conv(in_channels, _STEM_CHANNELS, 3, norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 32, H/2, W/2)."""
        return self.conv1(x)


class InvertedResidual(CNNBlockBase):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection, with a shortcut where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, norm: str):
        super().__init__(in_channels, out_channels, stride)
        width = expansion * in_channels
        self.conv1 = _conv(in_channels, width, 1, norm)
        self.conv2 = _conv(width, width, 3, norm, stride=stride, groups=width)
        self.conv3 = _conv(width, out_channels, 1, norm, active=False)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        out = self.conv3(self.conv2(self.conv1(x)))
        return x + out if self.has_shortcut else out


class MobileNetV2(Backbone):
    """Image -> features "res2" to "res5", and "res4a", "res5a" before the last of their stride.

    Args:
        norm: a name for detectron2's get_norm.
        out_features: names to return; stages that none of them needs are not built.
        freeze_at: 1 freezes the stem and the block at stride 2, 2 also res2, and so on.
    """

    def __init__(
        self,
        *,
        norm: str = "BN",
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
        in_channels: int = 3,
    ):
        super().__init__()
        known = [name for name, *_ in _STAGES[1:]]
        if not out_features or not set(out_features) <= set(known):
            raise ConfigError(
                f"MODEL.RESNETS.OUT_FEATURES is {list(out_features)}; MobileNet-v2 gives one or "
                f"more of {known}."
            )
        self.stem = Stem(in_channels, norm)
        self.stage_names: list[str] = []
        self._shapes: dict[str, ShapeSpec] = {}
        channels, stride = _STEM_CHANNELS, 2
        for name, expansion, width, num_blocks, first_stride in _STAGES:
            blocks = []
            for block_stride in [first_stride] + [1] * (num_blocks - 1):
                blocks.append(InvertedResidual(channels, width, expansion, block_stride, norm))
                channels, stride = width, stride * block_stride
            self.add_module(name, nn.Sequential(*blocks))
            self.stage_names.append(name)
            if name in out_features:
                self._shapes[name] = ShapeSpec(channels=channels, stride=stride)
            if set(out_features) <= set(self.stage_names):
                break
        freeze_stages(self, freeze_at)

    def stages(self) -> list[Stage]:
        """By depth: the stem and the block at stride 2, res2, res3, res4a and res4, ..."""
        rest = [Stage(name, int(name[3]), (getattr(self, name),)) for name in self.stage_names]
        return [Stage("stem", 1, (self.stem,)), *rest]

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, 24, H/4, W/4), ...}, sizes rounded up; any H and W."""
        outputs = {}
        x = image
        for name in ("stem", *self.stage_names):
            x = self.run_stage(name, x)
            if name in self._shapes:
                outputs[name] = x
        return outputs

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """The result of "stem" for the image, or of a stage for that of the one before."""
        return getattr(self, name)(x)


@register(BACKBONE_REGISTRY)
def build_mobilenet_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """MobileNet-v2 with the norm and the features of MODEL.RESNETS."""
    return MobileNetV2(
        norm=cfg.MODEL.RESNETS.NORM,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
    )
