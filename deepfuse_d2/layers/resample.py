"""Bringing a source map to the size of its target: coarser ones up, finer ones down.

Which of the two a source needs is decided at construction, by declared strides, because going down
may need weights. The size at hand has the last word, so maps of odd sizes work.
"""

from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from .carafe import Carafe
from .norm import get_norm

__all__ = ["DOWNSAMPLES", "UPSAMPLES", "Resample", "StridedConvs", "bilinear", "resample"]

# MODEL.DEEPFUSE.UPSAMPLE: torch's interpolations, and what learns
UPSAMPLES = ("nearest", "bilinear", "carafe")


def resample(x: torch.Tensor, size: tuple[int, int], mode: str = "nearest") -> torch.Tensor:
    """(N, C, H_s, W_s) -> (N, C, height, width) of `size`, by "nearest" or "bilinear" (of areas).

    The nearest neighbour is FPN's upsampling for an exact factor of two.
    """
    if x.shape[2] == size[0] and x.shape[3] == size[1]:
        return x
    return _interpolate(x, size, mode)


def bilinear(x: torch.Tensor, size: tuple[int, int], align_corners: bool = False) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, height, width) of `size`; float32 where autocast has made x smaller.

    torch's kernels round the positions and weights of bfloat16 maps; here only the result is.
    """
    if x.dtype == torch.float16 or x.dtype == torch.bfloat16:
        wide = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=align_corners)
        return wide.to(x.dtype)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def _interpolate(x: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    if mode == "bilinear":
        return bilinear(x, size)
    return F.interpolate(x, size=size, mode="nearest")


class StridedConvs(nn.Module):
    """`steps` 3x3 convolutions of stride 2, rectified in between.

    Args:
        channels: of the input and of the output.
        steps: the size is halved so often, rounding up.
        norm: a name for :func:`get_norm`; "" gives biases instead.
    """

    def __init__(self, channels: int, steps: int, norm: str = ""):
        super().__init__()
        self.convs = nn.ModuleList(
            Conv2d(
                channels,
                channels,
                kernel_size=3,
                stride=2,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, channels),
            )
            for _ in range(steps)
        )
        for conv in self.convs:
            weight_init.c2_msra_fill(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H / 2^steps, W / 2^steps), rounded up."""
        for i, conv in enumerate(self.convs):
            x = conv(x if i == 0 else torch.relu(x))
        return x


# Downsampling name (MODEL.DEEPFUSE.DOWNSAMPLE) -> builder(channels, steps, norm). The windows of
# pooling are 2^steps wide and do not overlap; at the border they cover what there is.
DOWNSAMPLES: dict[str, Callable[[int, int, str], nn.Module]] = {
    "max_pool": lambda channels, steps, norm: nn.MaxPool2d(2**steps, ceil_mode=True),
    "avg_pool": lambda channels, steps, norm: nn.AvgPool2d(2**steps, ceil_mode=True),
    "conv": StridedConvs,
}


class Resample(nn.Module):
    """Brings a map of stride `stride` to the size of a map of stride `target_stride`.

    Args:
        channels: of the map.
        stride, target_stride: in pixels of the image. Where the source is finer, their ratio must
            be a power of two.
        upsample: a name in `UPSAMPLES`; also closes a difference of a pixel after downsampling
            ("carafe", which needs a source that is coarser by a whole factor, by the nearest).
        downsample: a name in `DOWNSAMPLES`.
        norm: of strided convolutions; "" for none.
        start_plain: begin as the nearest neighbour where the upsampling learns.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        target_stride: int,
        *,
        upsample: str = "nearest",
        downsample: str = "max_pool",
        norm: str = "",
        start_plain: bool = True,
    ):
        super().__init__()
        self.mode = "nearest" if upsample == "carafe" else upsample
        self.coarser = stride > target_stride
        self.down: nn.Module = nn.Identity()
        self.up: nn.Module | None = None
        if self.coarser and upsample == "carafe":
            if stride % target_stride:
                raise ValueError(
                    f"A source of stride {stride} cannot be enlarged to stride {target_stride} by "
                    '"carafe", which takes whole factors; choose "nearest" or "bilinear" '
                    "(MODEL.DEEPFUSE.UPSAMPLE)."
                )
            self.up = Carafe(channels, stride // target_stride, start_plain)
        if stride < target_stride:
            ratio = target_stride // stride
            if target_stride % stride or ratio & (ratio - 1):
                raise ValueError(
                    f"A source of stride {stride} cannot be brought down to stride "
                    f"{target_stride}; the ratio must be a power of two."
                )
            self.down = DOWNSAMPLES[downsample](channels, ratio.bit_length() - 1, norm)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, C, H_s, W_s) -> (N, C, height, width) of `size`"""
        if self.up is not None:
            return self.up(x, size)
        if self.coarser:
            # without a look at the sizes: a trace of tiny, equal ones must serve larger maps too
            return _interpolate(x, size, self.mode)
        return resample(self.down(x), size, self.mode)
