"""DeepFuse: a family of blocks that fuse feature maps of different strides, then go deep.

The family answers a paper that names "a generic family of building blocks for feature fusion",
holds that a simple fusion of low-level and high-level features is not enough, and does not publish
formulas. The definition here is therefore ours. For a target x_t and sources {x_s}:

    z_s = resample(align_s(x_s), to the size of x_t)      align: 1x1 convolution (+ norm)
                                                          resample: see resample.py
                                                          and warped by a flow, if so chosen: see
                                                          alignment.py
    m   = merge(align_t(x_t), {z_s})                      see merge.py
    y   = skip + scale * deepen(m)                        see deepen.py, units.py

with skip = m in a neck (fuse, then go deep) and skip = x_t inside a backbone (insertion). `scale`
is per channel (LayerScale, arXiv 2103.17239) and starts at 0 with `zero_init`. Stochastic depth
(arXiv 1603.09382) on the deepen branch works against overfitting. An insertion into wide maps may
merge and deepen on fewer channels, `width`; then deepen(m) is rectified and projected back by a
1x1 convolution before it is scaled.

Simple fusion, as in FPN (arXiv 1612.03144), is the member ``merge="sum", depth=0``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from ..config.keys.deepfuse import FuseSettings
from .alignment import ALIGNMENTS
from .conv import same_size_conv
from .deepen import Deepen
from .merge import MERGES
from .resample import DOWNSAMPLES, UPSAMPLES, Resample, resample

__all__ = ["DeepFuse", "FuseSettings", "resample"]


class DeepFuse(nn.Module):
    """One fusion of a target map with source maps: ``y = skip + scale * deepen(merge(...))``.

    Args:
        in_channels: of the target, then of each source.
        out_channels: of the result.
        settings: merge, unit, depth, norms, resampling, drop path, start; see
            :class:`FuseSettings`, and merge.py and units.py for what can be chosen.
        strides: of the target, then of each source, in pixels of the image: sources finer than the
            target are brought down. None: none is finer.
        align: put a 1x1 convolution on every input; without it, all must have `width` channels.
        skip: "merged" (y starts from m, for necks) or "target" (y starts from x_t, for insertion
            into a backbone; then the target must have `out_channels`).
        width: channels of the merged map and of the units; None for `out_channels`. Another width
            needs ``skip="target"``.
        changes: single settings, in place of those of `settings`.

    Example:
        >>> fuse = DeepFuse([64, 64], 64, FuseSettings(merge="gated", depth=2))
        >>> fuse(torch.rand(1, 64, 33, 65), [torch.rand(1, 64, 17, 33)]).shape
        torch.Size([1, 64, 33, 65])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        settings: FuseSettings = FuseSettings(),
        *,
        strides: Sequence[int] | None = None,
        align: bool = False,
        skip: str = "merged",
        width: int | None = None,
        **changes: Any,
    ):
        super().__init__()
        settings = dataclasses.replace(settings, **changes)
        align_norm = settings.align_norm
        width = out_channels if width is None else width
        strides = [1] * len(in_channels) if strides is None else list(strides)
        _check_name("merge", settings.merge, MERGES)
        _check_name("upsample", settings.upsample, UPSAMPLES)
        _check_name("downsample", settings.downsample, DOWNSAMPLES)
        _check_name("alignment", settings.alignment, ALIGNMENTS)
        _check_name("skip", skip, ("merged", "target"))
        _check_shapes(in_channels, out_channels, width, strides, align, skip)
        # Simple fusion has no deep branch: without parameters, it loads any FPN's weights.
        has_branch = settings.depth > 0 or skip == "target"
        _check_drop_path(settings.drop_path, has_branch)
        strided = settings.downsample == "conv" and min(strides) < strides[0]
        if align_norm and not (align or strided):
            raise ValueError(
                f'The DeepFuse align_norm "{align_norm}" has nothing to normalise: there is no '
                'aligning and no strided convolution. Set align_norm to "", or align to True.'
            )

        self.skip = skip
        self.align = nn.ModuleList(
            same_size_conv(channels, width, 1, align_norm) if align else nn.Identity()
            for channels in in_channels
        )
        self.resample = nn.ModuleList(
            Resample(
                width,
                stride,
                strides[0],
                upsample=settings.upsample,
                downsample=settings.downsample,
                norm=align_norm,
                start_plain=settings.zero_init,
            )
            for stride in strides[1:]
        )
        alignment = ALIGNMENTS[settings.alignment]
        self.warp: nn.ModuleList | None = None
        if alignment is not None:
            self.warp = nn.ModuleList(alignment(width, settings.zero_init) for _ in strides[1:])
        self.merge = MERGES[settings.merge](width, len(in_channels), settings.zero_init)
        self.deepen = Deepen(width, unit=settings.unit, depth=settings.depth, norm=settings.norm)
        self.project: nn.Module = nn.Identity()
        if width != out_channels:
            self.project = nn.Sequential(
                nn.ReLU(), same_size_conv(width, out_channels, 1, align_norm)
            )
        self.drop_path = StochasticDepth(settings.drop_path, mode="row")
        start = torch.full((out_channels, 1, 1), 0.0 if settings.zero_init else 1.0)
        self.register_parameter("scale", nn.Parameter(start) if has_branch else None)

    def forward(self, target: torch.Tensor, sources: list[torch.Tensor]) -> torch.Tensor:
        """Fuse `sources` into `target`.

        Args:
            target: (N, C_t, H, W).
            sources: maps (N, C_s, H_s, W_s) of any size, in the order of `in_channels[1:]`.

        Returns:
            (N, out_channels, H, W)
        """
        if len(sources) != len(self.resample):
            raise ValueError(
                f"This DeepFuse takes {len(self.resample)} source maps; {len(sources)} were given."
            )
        size = (target.shape[2], target.shape[3])
        maps = [align(target if i == 0 else sources[i - 1]) for i, align in enumerate(self.align)]
        for i, bring in enumerate(self.resample):
            maps[i + 1] = bring(maps[i + 1], size)
        if self.warp is not None:
            for i, warp in enumerate(self.warp):
                maps[i + 1] = warp(maps[0], maps[i + 1])
        merged = self.merge(maps)
        if self.scale is None:
            return merged
        deep = self.project(self.deepen(merged))
        start = merged if self.skip == "merged" else target
        # in the type of the maps, which autocast makes narrower than that of the parameters
        return start + self.drop_path(self.scale.to(deep.dtype) * deep)


def _check_name(argument: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(
            f'The DeepFuse {argument} "{value}" is unknown; choose one of {list(known)}.'
        )


def _check_drop_path(drop_path: float, has_branch: bool) -> None:
    if not 0 <= drop_path < 1:
        raise ValueError(f"DeepFuse drop_path is {drop_path}; it must be in [0, 1).")
    if drop_path and not has_branch:
        raise ValueError(
            f"DeepFuse drop_path is {drop_path} (MODEL.DEEPFUSE.DROP_PATH), but simple fusion has "
            "no deep branch to drop; set drop_path to 0, or depth to 1 or more."
        )


def _check_shapes(
    in_channels: Sequence[int],
    out_channels: int,
    width: int,
    strides: Sequence[int],
    align: bool,
    skip: str,
) -> None:
    if len(in_channels) < 2:
        raise ValueError(
            f"DeepFuse got in_channels {list(in_channels)}: a target alone has nothing to be fused "
            "with. Name the channels of the target and of at least one source."
        )
    if len(strides) != len(in_channels):
        raise ValueError(
            f"DeepFuse got {len(strides)} strides for {len(in_channels)} maps; give the stride of "
            "the target and of each source."
        )
    if width < 1:
        raise ValueError(f"The DeepFuse width is {width}; it must be 1 or more channels.")
    if not align and any(c != width for c in in_channels):
        raise ValueError(
            f"Inputs with {list(in_channels)} channels cannot be fused to {width} "
            "without alignment; pass align=True."
        )
    if skip == "target" and in_channels[0] != out_channels:
        raise ValueError(
            f"skip='target' adds to the target, so its {in_channels[0]} channels must equal "
            f"out_channels, which are {out_channels}."
        )
    if skip == "merged" and width != out_channels:
        raise ValueError(
            f"skip='merged' adds to the merged map, so its width of {width} channels must equal "
            f"out_channels, which are {out_channels}; leave width out, or use skip='target'."
        )
