"""DeepFuseFPN: the feature pyramid with the DeepFuse operation in place of the plain sum.

Maps of one width pass through levels of fusions, each fusing the result of the level before:

    top_down       DeepFuse from the coarsest level down, repeats - 1 times more
    bottom_up      FPN's plain sums down, then `repeats` times DeepFuse from the finest level up
    bidirectional  `repeats` times DeepFuse down and up

The first pass down fuses with ``skip="merged"``, as FPN does. Every later pass adds to what it
finds, ``skip="target"``. So with `zero_init` every member of the family, in every direction and
number of repeats, starts as detectron2's FPN (arXiv 1612.03144); with bilinear upsampling, as that
FPN with bilinear upsampling. With ``depth=0, merge="sum"``, one pass down, it is detectron2's FPN,
parameter names included: the same weights give the same output bit for bit. Unlike detectron2's,
maps may have odd sizes.

Going up after going down is PANet's idea (arXiv 1803.01534), going down and up repeatedly that of
BiFPN (arXiv 1911.09070).
"""

import dataclasses
import itertools

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import Tensor, nn

from ...config.keys.deepfuse import fuse_settings
from ...errors import config_errors
from ...layers import DeepFuse, FuseSettings
from ..registration import register
from .build import NECK_REGISTRY
from .pyramid import LateralPyramid

__all__ = ["DIRECTIONS", "DeepFuseFPN", "build_resnet_deepfuse_fpn_backbone"]

# MODEL.DEEPFUSE.DIRECTION
DIRECTIONS = ("top_down", "bottom_up", "bidirectional")


@NECK_REGISTRY.register()
class DeepFuseFPN(LateralPyramid):
    """Lateral 1x1 convolutions, passes of DeepFuse over the levels, 3x3 output convolutions.

    Example:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> neck = DeepFuseFPN(bottom_up, ["res2", "res3", "res4", "res5"], 256)
        >>> {name: tuple(p.shape) for name, p in neck(torch.rand(1, 3, 64, 128)).items()}
        {'p2': (1, 256, 16, 32), 'p3': (1, 256, 8, 16), 'p4': (1, 256, 4, 8), 'p5': (1, 256, 2, 4)}
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
        settings: FuseSettings = FuseSettings(),
        direction: str = "top_down",
        repeats: int = 1,
    ):
        """
        Args:
            bottom_up, in_features, out_channels, top_block: see :class:`.pyramid.Pyramid`.
            norm: normalisation of the lateral, output and strided convolutions; "" for none.
            settings: of every fusion. `norm` takes the place of its `align_norm`.
            direction: "top_down", "bottom_up" or "bidirectional"; see the top of this file.
            repeats: how often the direction is gone through, 1 or more.
        """
        super().__init__(bottom_up, in_features, out_channels, norm=norm, top_block=top_block)
        self.passes = _plan(direction, repeats)
        for i, (order, is_deep) in enumerate(self.passes):
            of_pass = _settings_of_pass(settings, norm, order, is_deep)
            if i == 0 and settings.depth == 0 and len(self.passes) > 1:
                # no deep branch in this pass alone; drop path is for the others
                of_pass = dataclasses.replace(of_pass, drop_path=0.0)
            for previous, level in itertools.pairwise(self._levels_in(order)):
                fuse = DeepFuse(
                    [out_channels, out_channels],
                    out_channels,
                    of_pass,
                    strides=[2**level, 2**previous],
                    skip="merged" if i == 0 else "target",
                )
                self.add_module(_fuse_name(level, i), fuse)

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        return {
            **super().from_config(cfg, bottom_up),
            "settings": fuse_settings(cfg),
            "direction": cfg.MODEL.DEEPFUSE.DIRECTION,
            "repeats": cfg.MODEL.DEEPFUSE.REPEATS,
        }

    def _levels_in(self, order: str) -> tuple[int, ...]:
        return self.levels[::-1] if order == "down" else self.levels

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        maps = self.laterals(features)
        for i, (order, _) in enumerate(self.passes):
            for previous, level in itertools.pairwise(self._levels_in(order)):
                fuse = getattr(self, _fuse_name(level, i))
                maps[level] = fuse(maps[level], [maps[previous]])
        maps = self.with_top(features, self.outputs(maps))
        return {f"p{level}": x for level, x in maps.items()}


def _settings_of_pass(settings: FuseSettings, norm: str, order: str, is_deep: bool) -> FuseSettings:
    """Of the fusions of a pass. The laterals align; strided convolutions alone get `norm`."""
    if not is_deep:
        return FuseSettings(merge="sum", depth=0, upsample=settings.upsample)
    is_strided = order == "up" and settings.downsample == "conv"
    return dataclasses.replace(settings, align_norm=norm if is_strided else "")


def _plan(direction: str, repeats: int) -> list[tuple[str, bool]]:
    """The passes over the levels, each ("down" or "up", whether it goes deep)."""
    if direction not in DIRECTIONS:
        raise ValueError(
            f'The direction "{direction}" of DeepFuseFPN (MODEL.DEEPFUSE.DIRECTION) is unknown; '
            f"choose one of {list(DIRECTIONS)}."
        )
    if repeats < 1:
        raise ValueError(
            f"The repeats of DeepFuseFPN (MODEL.DEEPFUSE.REPEATS) are {repeats}; "
            "they must be 1 or more."
        )
    if direction == "top_down":
        return [("down", True)] * repeats
    if direction == "bottom_up":
        return [("down", False)] + [("up", True)] * repeats
    return [("down", True), ("up", True)] * repeats


def _fuse_name(level: int, index: int) -> str:
    """Of the fusion into a level in the pass of that index: fuse2, then fuse2_pass2, ..."""
    return f"fuse{level}" if index == 0 else f"fuse{level}_pass{index + 1}"


@register(BACKBONE_REGISTRY)
def build_resnet_deepfuse_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DeepFuseFPN:
    """The short way: detectron2's ResNet with a DeepFuseFPN, whatever MODEL.NECK names."""
    with config_errors():
        return DeepFuseFPN(cfg, build_resnet_backbone(cfg, input_shape))
