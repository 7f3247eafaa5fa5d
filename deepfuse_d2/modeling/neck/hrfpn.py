"""HRFPN: all features at the finest resolution, pooled to a pyramid.

High-Resolution Representations for Labeling Pixels and Regions, arXiv 1904.04514, section 3 and
figure 4 (HRNetV2p). With every feature F_i enlarged bilinearly to the finest,

    R   = conv1x1(concatenation of all F_i)
    P_l = conv3x3(R, average pooled to level l)

The 1x1 convolution of a concatenation is the sum of one for each part, and a 1x1 convolution may
change places with the enlarging, whose weights sum to one. So each feature is narrowed first, at
its own resolution: the same function and the same parameters, at an eighth of the multiply-adds of
that convolution for a ResNet, and without a map of all channels at the finest resolution.

The paper pools R to the levels above the last feature as well: TOP_BLOCK "avgpool". Other top
blocks make them from the pooled maps or from a feature; all levels have an output convolution.
"""

import math
from collections.abc import Sequence

from detectron2.config import configurable
from detectron2.layers import Conv2d
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...layers import get_norm, same_size_conv
from ...layers.resample import Resample
from .build import NECK_REGISTRY
from .pyramid import Pyramid

__all__ = ["HRFPN"]


@NECK_REGISTRY.register()
class HRFPN(Pyramid):
    """One map of all features at the finest resolution, average pooling, 3x3 convolutions.

    Example:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> neck = HRFPN(bottom_up, ["res2", "res3", "res4", "res5"], 256)
        >>> {name: tuple(p.shape) for name, p in neck(torch.rand(1, 3, 64, 128)).items()}
        {'p2': (1, 256, 16, 32), 'p3': (1, 256, 8, 16), 'p4': (1, 256, 4, 8), 'p5': (1, 256, 2, 4)}
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
    ):
        """
        Args:
            bottom_up, in_features, out_channels, top_block: see :class:`.pyramid.Pyramid`.
            norm: normalisation of the map that all features are joined in; "" for none, as
                published.
        """
        super().__init__(bottom_up, in_features, out_channels, top_block)
        shapes = bottom_up.output_shape()
        channels = [shapes[feature].channels for feature in in_features]
        finest = 2 ** self.levels[0]
        # Xavier's, of the one convolution that the laterals are parts of
        bound = math.sqrt(3 / sum(channels))
        self.enlarge, self.pool = nn.ModuleList(), nn.ModuleList()
        for level, width in zip(self.levels, channels, strict=True):
            # it has one bias, in place of a norm; behind the sum as good as here
            bias = norm == "" and level == self.levels[0]
            lateral = Conv2d(width, out_channels, 1, bias=bias)
            nn.init.uniform_(lateral.weight, -bound, bound)
            if bias:
                nn.init.zeros_(lateral.bias)
            self.add_module(f"lateral{level}", lateral)
            self.enlarge.append(Resample(out_channels, 2**level, finest, upsample="bilinear"))
            self.pool.append(Resample(out_channels, finest, 2**level, downsample="avg_pool"))
        self.norm = get_norm(norm, out_channels) or nn.Identity()
        for level in self.all_levels:
            self.add_module(f"output{level}", same_size_conv(out_channels, out_channels, 3))

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        sizes = [features[name].shape[-2:] for name in self.in_features]
        first, *others = (
            enlarge(getattr(self, f"lateral{level}")(features[name]), sizes[0])
            for level, name, enlarge in zip(
                self.levels, self.in_features, self.enlarge, strict=True
            )
        )
        joined = self.norm(sum(others, start=first))
        pooled = {
            level: pool(joined, size)
            for level, pool, size in zip(self.levels, self.pool, sizes, strict=True)
        }
        maps = self.with_top(features, pooled)
        return {f"p{level}": getattr(self, f"output{level}")(maps[level]) for level in maps}
