"""Deep layer aggregation (arXiv 1707.06484) of Res2Net blocks (arXiv 1904.01169, table 3).

Every stage is a tree: its leaves are blocks, and its roots, 1x1 convolutions, aggregate blocks of
different depth. A builder of its own rather than a key of Res2Net: nothing but the block is shared.

Differs from the authors' code in two ways that no published weight notices: maps are halved with
sizes rounded up, as the convolutions beside do, so that odd sizes work; and the projections that
the code builds for trees of trees but never uses are left out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor

from ...errors import ConfigError
from ..registration import register
from .published import published_or_own
from .res2net_blocks import MultiScaleBranch, conv_norm
from .staged import StagedBackbone, refuse_deformable

__all__ = ["DLA", "VARIANTS", "Tree", "TreeBlock", "build_dla_backbone"]


class TreeBlock(MultiScaleBranch):
    """A Res2Net block whose shortcut comes from outside, where the tree shares it."""

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """`x` (N, in_channels, H, W), `shortcut` and result (N, out_channels, H/stride, ...)."""
        return F.relu_(self.branch(x) + shortcut)


class Tree(CNNBlockBase):
    """Two blocks, or two trees one level lower, and a root that aggregates them (figure 3).

    The root of the lowest tree on the right takes, concatenated: its second block, its first, the
    halved input of the whole tree if `level_root`, and the results of the trees to its left.

    Args:
        levels: 1 for two blocks, 2 for two trees of blocks, ...
        level_root: let the root see the halved input too.
        handed_down: channels of what trees above hand down for the root.
        block: the other arguments of :class:`MultiScaleBranch`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        levels: int,
        stride: int,
        norm: str,
        level_root: bool = False,
        handed_down: int = 0,
        **block,
    ):
        super().__init__(in_channels, out_channels, stride)
        self.level_root = level_root
        self.project = self.root = None
        if level_root:
            handed_down += in_channels
        if levels > 1:
            common = {"levels": levels - 1, "norm": norm, **block}
            self.tree1 = Tree(in_channels, out_channels, stride=stride, **common)
            self.tree2 = Tree(
                out_channels,
                out_channels,
                stride=1,
                handed_down=handed_down + out_channels,
                **common,
            )
            return
        # what is halved cannot be hierarchical, as in a Res2Net
        self.tree1 = TreeBlock(
            in_channels, out_channels, stride=stride, hierarchical=stride == 1, norm=norm, **block
        )
        self.tree2 = TreeBlock(out_channels, out_channels, hierarchical=True, norm=norm, **block)
        if in_channels != out_channels:
            self.project = conv_norm(in_channels, out_channels, 1, norm=norm)
        self.root = conv_norm(2 * out_channels + handed_down, out_channels, 1, norm=norm)

    def forward(self, x: Tensor, handed_down: tuple[Tensor, ...] = ()) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        bottom = x
        if self.stride > 1:
            bottom = F.max_pool2d(x, self.stride, self.stride, ceil_mode=True)
        if self.level_root:
            handed_down = (*handed_down, bottom)
        if self.root is None:
            first = self.tree1(x)
            return self.tree2(first, (*handed_down, first))
        first = self.tree1(x, bottom if self.project is None else self.project(bottom))
        second = self.tree2(first, first)
        return F.relu_(self.root(torch.cat([second, first, *handed_down], dim=1)))


class DLAStem(CNNBlockBase):
    """Three convolutions at the strides 1, 1 and 2 of the image."""

    def __init__(self, in_channels: int, middle: int, out_channels: int, norm: str):
        super().__init__(in_channels, out_channels, 2)
        self.conv1 = conv_norm(in_channels, middle, 7, norm=norm)
        self.conv2 = conv_norm(middle, middle, 3, norm=norm)
        self.conv3 = conv_norm(middle, out_channels, 3, norm=norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/2, W/2)."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(conv(x))
        return x


# Arguments of what has public weights, by timm's names (MODEL.DLA.NAME): DLA-60, DLA-X-60, and the
# Res2Net paper's Res2Net-DLA-60 and Res2NeXt-DLA-60.
VARIANTS = {
    "dla60": {"scale": 1, "base_width": 64},
    "dla60x": {"scale": 1, "base_width": 4, "num_groups": 32},
    "dla60_res2net": {"scale": 4, "base_width": 28},
    "dla60_res2next": {"scale": 4, "base_width": 4, "num_groups": 8},
}

# What a name decides: argument -> key.
_KEYS = {
    "levels": "MODEL.DLA.LEVELS",
    "channels": "MODEL.DLA.CHANNELS",
    "scale": "MODEL.RES2NET.SCALE",
    "base_width": "MODEL.RES2NET.BASE_WIDTH",
    "num_groups": "MODEL.RESNETS.NUM_GROUPS",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
}


class DLA(StagedBackbone):
    """DLA-60 and its Res2Net and Res2NeXt forms, which `VARIANTS` names; Res2Net-DLA-60 by default.

    Example:
        >>> network = DLA(scale=4, base_width=4, num_groups=8, out_features=["res2", "res5"])
        >>> {name: tuple(f.shape) for name, f in network(torch.rand(1, 3, 65, 64)).items()}
        {'res2': (1, 128, 17, 16), 'res5': (1, 1024, 3, 2)}
    """

    @configurable
    def __init__(
        self,
        *,
        levels: Sequence[int] = (1, 2, 3, 1),
        channels: Sequence[int] = (128, 256, 512, 1024),
        scale: int = 4,
        base_width: int = 28,
        num_groups: int = 1,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        in_channels: int = 3,
        stem_channels: tuple[int, int] = (16, 32),
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        checkpoint_stages: Sequence[str] = (),
    ):
        """
        Args:
            levels: height of the tree of res2, res3, res4, res5.
            channels: of their results.
            scale: splits of a block.
            base_width: of one split and group; a split has
                ``num_groups * floor(channels * base_width / 64) / 2`` channels.
            num_groups: of the 3x3 convolutions.
            norm: a name for detectron2's ``get_norm``.
            stride_in_1x1: put strides in the first 1x1 convolution of a block; False in all
                published weights.
            stem_channels: at stride 1 and stride 2.
            num_classes, out_features, freeze_at, checkpoint_stages: see :class:`StagedBackbone`.
        """
        if len(levels) != 4 or len(channels) != 4 or min(levels) < 1:
            raise ConfigError(
                f"MODEL.DLA.LEVELS is {list(levels)} and MODEL.DLA.CHANNELS {list(channels)}; both "
                "have four entries, for res2 to res5, and a tree has at least one level."
            )
        stages = []
        sources = (stem_channels[1], *channels)
        for i, (level, out) in enumerate(zip(levels, channels, strict=True)):
            width = num_groups * (out * base_width // 64) // 2
            if scale < 1 or width < 1 or width % num_groups:
                raise ConfigError(
                    f"MODEL.RES2NET.SCALE = {scale} and BASE_WIDTH = {base_width} with "
                    f"MODEL.RESNETS.NUM_GROUPS = {num_groups} make no block of {out} channels "
                    f"(MODEL.DLA.CHANNELS): {width} channels a split. The scale must be 1 or more "
                    "and a split's channels a multiple of the groups."
                )
            tree = Tree(
                sources[i],
                out,
                levels=level,
                stride=2,
                norm=norm,
                level_root=i > 0,
                width=width,
                scale=scale,
                num_groups=num_groups,
                stride_in_1x1=stride_in_1x1,
            )
            stages.append([tree])
        super().__init__(
            DLAStem(in_channels, *stem_channels, norm),
            stages,
            num_classes=num_classes,
            out_features=out_features,
            freeze_at=freeze_at,
            checkpoint_stages=checkpoint_stages,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        refuse_deformable(cfg, "build_dla_backbone")
        resnets = cfg.MODEL.RESNETS
        if resnets.RES5_DILATION != 1:
            raise ConfigError(
                f"MODEL.RESNETS.RES5_DILATION is {resnets.RES5_DILATION}; build_dla_backbone has "
                "no dilation. Set it to 1, or take build_res2net_backbone."
            )
        return {
            **published_or_own(cls, cfg, "MODEL.DLA.NAME", VARIANTS, _KEYS),
            "norm": resnets.NORM,
            "in_channels": input_shape.channels,
            "out_features": resnets.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "checkpoint_stages": cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES,
        }


@register(BACKBONE_REGISTRY)
def build_dla_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLA:
    """DLA from MODEL.DLA, MODEL.RES2NET and MODEL.RESNETS."""
    return DLA(cfg, input_shape)
