"""Blocks of Res2Net (arXiv 1904.01169) and its stem; res2net.py says where they follow the code."""

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d
from torch import Tensor, nn

from ...layers import get_norm

__all__ = ["DeepStem", "MultiScaleBranch", "Res2NetBlock", "conv_norm"]


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: str,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Conv2d:
    """Convolution without bias, then `norm`; the size changes by `stride` alone, rounded up."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_msra_fill(conv)
    return conv


class MultiScaleBranch(CNNBlockBase):
    """1x1, the hierarchy of 3x3s, 1x1: a Res2Net block without its shortcut.

    With splits x_0 .. x_{s-1} of the rectified first convolution, and K_i a 3x3 convolution with
    norm and ReLU:

        y_0 = K_0(x_0),  y_i = K_i(x_i + y_{i-1}),  y_{s-1} = x_{s-1}         hierarchical
        y_i = K_i(x_i),  y_{s-1} = average3x3(x_{s-1})                        not hierarchical

    and all y are concatenated. With scale 1 there is one split, and it is convolved.

    Args:
        width: channels of one split.
        scale: number of splits, s.
        hierarchical: whether a split gets the result of the one before; not in a stage's first
            block, which may have a stride.
        stride: of the 3x3 convolutions and the pool, or of the first 1x1 with `stride_in_1x1`.
        num_groups: of the 3x3 convolutions.
        pool_stride_1: average the last split also where the pool's stride is 1.
        zero_init_residual: start with a branch that gives 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        scale: int,
        hierarchical: bool,
        stride: int = 1,
        num_groups: int = 1,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
        pool_stride_1: bool = True,
        zero_init_residual: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride)
        if hierarchical and stride != 1:
            raise ValueError(f"A hierarchical Res2Net block has stride 1; it is {stride} here.")
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.width = width
        self.hierarchical = hierarchical
        self.pool_stride = stride_3x3
        self.pooled = scale > 1 and not hierarchical and (stride_3x3 > 1 or pool_stride_1)

        self.conv1 = conv_norm(in_channels, width * scale, 1, norm=norm, stride=stride_1x1)
        self.convs = nn.ModuleList(
            conv_norm(
                width, width, 3, norm=norm, stride=stride_3x3, dilation=dilation, groups=num_groups
            )
            for _ in range(max(scale - 1, 1))
        )
        self.conv3 = conv_norm(width * scale, out_channels, 1, norm=norm)
        if zero_init_residual:
            last = self.conv3 if self.conv3.norm is None else self.conv3.norm
            nn.init.zeros_(last.weight)

    def branch(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), not rectified."""
        splits = F.relu_(self.conv1(x)).split(self.width, dim=1)
        ys: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            split = splits[i] + ys[-1] if self.hierarchical and i > 0 else splits[i]
            ys.append(F.relu_(conv(split)))
        if len(splits) == 1:
            return self.conv3(ys[0])
        last = splits[-1]
        if self.pooled:
            last = F.avg_pool2d(last, kernel_size=3, stride=self.pool_stride, padding=1)
        return self.conv3(torch.cat([*ys, last], dim=1))


class Res2NetBlock(MultiScaleBranch):
    """:class:`MultiScaleBranch` with a shortcut: the bottleneck of Res2Net and Res2NeXt.

    Args:
        avg_down: where the size changes, the shortcut averages 2x2 before a 1x1 convolution of
            stride 1 (ResNet-D, arXiv 1812.01187), instead of convolving with a stride.
        others: see :class:`MultiScaleBranch`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: str = "BN",
        avg_down: bool = False,
        **others,
    ):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm, **others)
        self.shortcut_pool = stride if avg_down else 1
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            conv_stride = 1 if avg_down else stride
            self.shortcut = conv_norm(in_channels, out_channels, 1, norm=norm, stride=conv_stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        out = self.branch(x)
        if self.shortcut is not None:
            if self.shortcut_pool > 1:
                # borders that stick out count with the pixels they have
                size = self.shortcut_pool
                x = F.avg_pool2d(x, size, size, ceil_mode=True, count_include_pad=False)
            x = self.shortcut(x)
        out += x
        return F.relu_(out)


class DeepStem(CNNBlockBase):
    """Three 3x3 convolutions and a max pool, stride 4 in all (ResNet-C, arXiv 1812.01187)."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN"):
        super().__init__(in_channels, out_channels, 4)
        middle = out_channels // 2
        self.conv1_1 = conv_norm(in_channels, middle, 3, norm=norm, stride=2)
        self.conv1_2 = conv_norm(middle, middle, 3, norm=norm)
        self.conv1_3 = conv_norm(middle, out_channels, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/4, W/4)."""
        for conv in (self.conv1_1, self.conv1_2, self.conv1_3):
            x = F.relu_(conv(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
