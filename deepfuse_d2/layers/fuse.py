"""DeepFuse: a family of blocks that fuse feature maps of different strides, then go deep.

The family answers a paper that names "a generic family of building blocks for feature fusion",
holds that a simple fusion of low-level and high-level features is not enough, and does not publish
formulas. The definition here is therefore ours. For a target x_t and sources {x_s}:

    z_s = resample(align_s(x_s), to the size of x_t)      align: 1x1 convolution (+ norm)
    m   = merge(align_t(x_t), {z_s})                      see merge.py
    y   = skip + scale * deepen(m)                        see units.py

with skip = m in a neck (fuse, then go deep) and skip = x_t inside a backbone (insertion). `scale`
is per channel (LayerScale, arXiv 2103.17239) and starts at 0 with `zero_init`. Stochastic depth
(arXiv 1603.09382) on the deepen branch works against overfitting.

Simple fusion, as in FPN (arXiv 1612.03144), is the member ``merge="sum", depth=0``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from .conv import same_size_conv
from .merge import MERGES
from .deepen import Deepen

__all__ = ["DeepFuse"]


class DeepFuse(nn.Module):
    """One fusion of a target map with source maps: ``y = skip + scale * deepen(merge(...))``.

    Args:
        in_channels: of the target, then of each source.
        out_channels: of the result.
        merge: "sum", "weighted_sum", "gated" or "concat".
        unit: "residual", "bottleneck", "dense", "separable" or "multi_scale"; see units.py.
        depth: number of units; 0 is simple fusion.
        norm: normalisation inside the units and after the aligning convolutions; "" for none.
        align: put a 1x1 convolution on every input; without it, all must have `out_channels`.
        skip: "merged" (y starts from m, for necks) or "target" (y starts from x_t, for insertion
            into a backbone; then the target must have `out_channels`).
        drop_path: probability to drop the deepen branch of a sample in training, in [0, 1).
        zero_init: start as plain fusion (skip "merged") or as the identity (skip "target").

    Example:
        >>> fuse = DeepFuse([64, 64], 64, merge="gated", unit="bottleneck", depth=2)
        >>> fuse(torch.rand(1, 64, 33, 65), [torch.rand(1, 64, 17, 33)]).shape
        torch.Size([1, 64, 33, 65])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        merge: str = "sum",
        unit: str = "residual",
        depth: int = 1,
        norm: str = "",
        align: bool = False,
        skip: str = "merged",
        drop_path: float = 0.0,
        zero_init: bool = True,
    ):
        super().__init__()
        if merge not in MERGES:
            raise ValueError(
                f'The DeepFuse merge "{merge}" is unknown; choose one of {list(MERGES)}.'
            )
        if skip not in ("merged", "target"):
            raise ValueError(f'The DeepFuse skip "{skip}" is unknown; choose "merged" or "target".')
        if not 0 <= drop_path < 1:
            raise ValueError(f"DeepFuse drop_path is {drop_path}; it must be in [0, 1).")
        if not align and any(c != out_channels for c in in_channels):
            raise ValueError(
                f"Inputs with {list(in_channels)} channels cannot be fused to {out_channels} "
                "without alignment; pass align=True."
            )
        if skip == "target" and in_channels[0] != out_channels:
            raise ValueError(
                f"skip='target' adds to the target, so its {in_channels[0]} channels must equal "
                f"out_channels, which are {out_channels}."
            )
        self.skip = skip
        self.align = nn.ModuleList(
            same_size_conv(channels, out_channels, 1, norm) if align else nn.Identity()
            for channels in in_channels
        )
        self.merge = MERGES[merge](out_channels, len(in_channels), zero_init)
        self.deepen = Deepen(out_channels, unit=unit, depth=depth, norm=norm)
        # Simple fusion has nothing to scale: without parameters, it loads any FPN's weights.
        self.has_branch = depth > 0 or skip == "target"
        if self.has_branch:
            self.scale = nn.Parameter(torch.full((out_channels, 1, 1), 0.0 if zero_init else 1.0))
            self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, target: torch.Tensor, sources: list[torch.Tensor]) -> torch.Tensor:
        """Fuse `sources` into `target`.

        Args:
            target: (N, C_t, H, W).
            sources: maps (N, C_s, H_s, W_s) of any size, in the order of `in_channels[1:]`.

        Returns:
            (N, out_channels, H, W)
        """
        aligned = [align(x) for align, x in zip(self.align, [target, *sources], strict=True)]
        size = target.shape[-2:]
        merged = self.merge([aligned[0]] + [resample(x, size) for x in aligned[1:]])
        if not self.has_branch:
            return merged
        start = merged if self.skip == "merged" else target
        return start + self.drop_path(self.scale * self.deepen(merged))


def resample(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, H_s, W_s) -> (N, C, *size), by the nearest neighbour.

    For an exact factor of two this is FPN's upsampling; odd sizes work as well.
    """
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="nearest")
