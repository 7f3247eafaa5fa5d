"""What a FishNet (arXiv 1901.03495) is made of: bottlenecks, three kinds of stages, the bridge.

Written from the shapes and orders of the public implementation (kevin-ssy/FishNet), which all
public weights follow. Every block is fully pre-activated (He et al. 2016, arXiv 1603.05027): norm
and ReLU come before a convolution, and no activation follows a sum. A gradient thus meets no
isolated convolution between the head and the tail, which is the point of the paper: only the
tail's and the bridge's first blocks project their shortcut.

In the docstrings, (C, s) is a map (N, C, H/s, W/s) of an image (N, 3, H, W).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ...layers import get_norm

__all__ = [
    "Bridge",
    "DownRefinement",
    "PreActBottleneck",
    "Stem",
    "TailStage",
    "UpRefinement",
    "bottlenecks",
    "channel_reduction",
    "fish_conv",
]

# What detectron2's get_norm takes: a name, or a function of the number of channels.
Norm = str | Callable[[int], nn.Module]


def fish_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: Norm = "",
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> Conv2d:
    """Convolution, padded to keep the size at stride 1, and the norm after it; He's start."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=bias,
        norm=get_norm(norm, out_channels),
    )
    # std = sqrt(2 / (k * k * out_channels)); a bias keeps torch's start
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def channel_reduction(x: Tensor, k: int) -> Tensor:
    """r(x) of the paper: sums of `k` consecutive channels, (N, k * C, H, W) -> (N, C, H, W).

    ``out[c] = x[c * k] + ... + x[c * k + k - 1]``; the identity for ``k = 1``.
    """
    return x if k == 1 else x.unflatten(1, (-1, k)).sum(dim=2)


class PreActBottleneck(nn.Module):
    """norm, ReLU, 1x1, norm, ReLU, 3x3, norm, ReLU, 1x1; the shortcut is added without activation.

    The norms before ``conv2`` and ``conv3`` are kept as ``conv1.norm`` and ``conv2.norm``, where
    detectron2 keeps a norm that follows a convolution: there, an optimiser for inference finds
    them and folds them into the convolution.

    Args:
        out_channels: divisible by 4; the 3x3 convolution has a quarter of them.
        norm: see :data:`Norm`.
        dilation: of the 3x3 convolution.
        reduce: where the widths differ, add ``channel_reduction(x)``, which has no parameters,
            instead of a projection.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Norm,
        *,
        dilation: int = 1,
        reduce: bool = False,
    ):
        super().__init__()
        middle = out_channels // 4
        self.norm = get_norm(norm, in_channels)
        self.conv1 = fish_conv(in_channels, middle, 1, norm)
        self.conv2 = fish_conv(middle, middle, 3, norm, dilation=dilation)
        self.conv3 = fish_conv(middle, out_channels, 1)
        self.reduction = in_channels // out_channels if reduce else 1
        self.shortcut = None
        if not reduce and in_channels != out_channels:
            self.shortcut = Projection(in_channels, out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(C_in, s) -> (C_out, s)."""
        # In-place ReLU only on what a norm just made: x itself is read again, here and elsewhere.
        out = F.relu_(self.conv1(F.relu_(self.norm(x))))
        out = self.conv3(F.relu_(self.conv2(out)))
        out += channel_reduction(x, self.reduction) if self.shortcut is None else self.shortcut(x)
        return out


class Projection(nn.Module):
    """norm, ReLU, 1x1 convolution: the shortcut where the width grows. Its norm is its own."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm):
        super().__init__()
        self.norm = get_norm(norm, in_channels)
        self.conv = fish_conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(C_in, s) -> (C_out, s)."""
        return self.conv(F.relu_(self.norm(x)))


def bottlenecks(
    in_channels: int, out_channels: int, number: int, norm: Norm, **arguments
) -> nn.Sequential:
    """`number` blocks in a row; the first changes the width."""
    return nn.Sequential(
        *(
            PreActBottleneck(out_channels if i else in_channels, out_channels, norm, **arguments)
            for i in range(number)
        )
    )


class Stem(nn.Module):
    """Three 3x3 convolutions, the first with stride 2, and a 3x3 max pool; post-activated.

    Args:
        in_channels: of the image.
        width: channels of the result; even.
    """

    def __init__(self, in_channels: int, width: int, norm: Norm):
        super().__init__()
        self.conv1 = fish_conv(in_channels, width // 2, 3, norm, stride=2)
        self.conv2 = fish_conv(width // 2, width // 2, 3, norm)
        self.conv3 = fish_conv(width // 2, width, 3, norm)

    def forward(self, image: Tensor) -> Tensor:
        """(3, 1) -> (width, 4)."""
        x = image
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(conv(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class TailStage(nn.Module):
    """Blocks, then a 2x2 max pool: one stage of a plain classification network."""

    def __init__(self, main: nn.Sequential):
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """(C_in, s) -> (C_out, 2s)."""
        return _halve(self.main(x))


class UpRefinement(nn.Module):
    """A stage of the body: the map so far, refined and doubled, beside one of the tail, refined.

    With the channel reduction in the first block of `main`, this is the paper's UR block:
    ``x' = up(M(x~) + r(x~))``, and x~ of the next stage is its concatenation with T(tail).

    Args:
        main: blocks M on the coarser map.
        transfer: blocks T on the tail's map, which has the target's size.
    """

    def __init__(self, main: nn.Sequential, transfer: nn.Sequential):
        super().__init__()
        self.main = main
        self.transfer = transfer

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """(C_in, 2s), (C_other, s) -> (C_main + C_other, s)."""
        # To the size of `other`, not times two: a side of odd length was rounded up on its way.
        main = F.interpolate(self.main(x), size=other.shape[-2:], mode="nearest")
        return torch.cat([main, self.transfer(other)], dim=1)


class DownRefinement(nn.Module):
    """A stage of the head: the map so far, refined and pooled, beside an earlier one, refined.

    The paper's DR block, ``x' = pool(M(x~) + x~)``: no channel is lost, the shortcut is the
    identity.

    Args:
        main: blocks M on the finer map.
        transfer: blocks T on the map of the body, or of the bridge, that has the target's size.
    """

    def __init__(self, main: nn.Sequential, transfer: nn.Sequential):
        super().__init__()
        self.main = main
        self.transfer = transfer

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """(C_in, s), (C_other, 2s) -> (C_in + C_other, 2s)."""
        return torch.cat([_halve(self.main(x)), self.transfer(other)], dim=1)


class Bridge(nn.Module):
    """From the tail to the body: R(score) * a + a, with a gate a of one value a channel.

    The public code adds the gate, where one would expect the map; all weights were trained so.

    Args:
        channels: of the input and of the output; divisible by 16.
        number: residual blocks.
    """

    def __init__(self, channels: int, number: int, norm: Norm):
        super().__init__()
        self.norm = get_norm(norm, channels)
        self.conv1 = fish_conv(channels, channels // 2, 1, norm)
        self.conv2 = fish_conv(channels // 2, 2 * channels, 1, bias=True)
        self.gate = Gate(2 * channels, channels, channels // 16, norm)
        self.main = bottlenecks(2 * channels, channels, number, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(C, 32) -> (C, 32)."""
        score = self.conv2(F.relu_(self.conv1(F.relu_(self.norm(x)))))
        gate = self.gate(score)
        return self.main(score) * gate + gate


class Gate(nn.Module):
    """Squeeze and excitation (arXiv 1709.01507), pre-activated, with a width of its own."""

    def __init__(self, in_channels: int, out_channels: int, middle: int, norm: Norm):
        super().__init__()
        self.norm = get_norm(norm, in_channels)
        self.conv1 = fish_conv(in_channels, middle, 1, bias=True)
        self.conv2 = fish_conv(middle, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, 1, 1), in (0, 1)."""
        x = F.adaptive_avg_pool2d(F.relu_(self.norm(x)), 1)
        return torch.sigmoid(self.conv2(F.relu_(self.conv1(x))))


def _halve(x: Tensor) -> Tensor:
    """2x2 max pool. An odd side is rounded up, as the stem rounds, so that sizes meet again."""
    return F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True)
