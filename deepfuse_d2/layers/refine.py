"""Blocks of RefineNet (arXiv 1611.06612) and of its light-weight form (arXiv 1810.03272).

Light-weight is the same with 1x1 convolutions (``kernel_size=1``) and without residual units. The
paper's figure 3 leaves biases and counts open; they follow the authors' code.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .resample import bilinear

__all__ = ["ChainedResidualPooling", "MultiResolutionFusion", "ResidualConvUnit"]


class ResidualConvUnit(nn.Module):
    """``x + conv2(relu(conv1(relu(x))))``: the shortcut is x itself, not its rectified form.

    Args:
        channels: of the input and of the output. conv1 has a bias, conv2 has none.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class ChainedResidualPooling(nn.Module):
    """``r + t_1 + ... + t_n`` with ``r = relu(x)``, ``t_0 = r``, ``t_i = conv(maxpool(t_{i-1}))``.

    Poolings are 5 x 5 with stride 1. Each block reads what the block before it made, so that the
    n-th sees a context of 4 n + 1 positions, and a convolution weighs it.

    Args:
        channels: of the input and of the output. No biases.
        num_blocks: n; 2 in the paper's text, 4 in the authors' code and all public weights.
        order: "pool_conv" (the paper's figure) or "conv_pool" (the authors' later, "improved" one).
        kernel_size: of the convolutions; 3, or 1 for light-weight.
        activation: what rectifies x; ``relu6`` in the light-weight network on MobileNet-v2.
    """

    def __init__(
        self,
        channels: int,
        num_blocks: int = 4,
        *,
        order: str = "pool_conv",
        kernel_size: int = 3,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        if order not in ("pool_conv", "conv_pool"):
            raise ValueError(
                f'The order "{order}" of chained residual pooling (MODEL.REFINENET.POOL_ORDER) is '
                'unknown; choose "pool_conv" or "conv_pool".'
            )
        if num_blocks < 0:
            raise ValueError(
                f"Chained residual pooling has {num_blocks} blocks (MODEL.REFINENET.POOL_BLOCKS); "
                "it must be 0 or more."
            )
        self.order = order
        self.activation = activation
        self.convs = nn.ModuleList(
            Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
            for _ in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        x = self.activation(x)
        path = x
        for conv in self.convs:
            path = conv(_pool(path)) if self.order == "pool_conv" else _pool(conv(path))
            x = x + path
        return x


class MultiResolutionFusion(nn.Module):
    """Paths of several sizes -> one map: a convolution each, resized to the largest, then summed.

    All convolutions lead to the smallest number of channels among the paths and have no bias. They
    come before the resizing, where maps are small.

    Args:
        in_channels: of each path.
        convolved: whether each path has a convolution; a path without one must already have the
            smallest number of channels. By default all have.
        kernel_size: of the convolutions; 3, or 1 for light-weight.
        align_corners: of the bilinear resizing; True in all public weights.
        fuse: builder(channels, num_paths) of what merges the maps of one size and width, called
            with the first and the list of the others; the plain sum by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        convolved: Sequence[bool] | None = None,
        kernel_size: int = 3,
        align_corners: bool = False,
        fuse: Callable[[int, int], Callable[[Tensor, list[Tensor]], Tensor]] | None = None,
    ):
        super().__init__()
        self.out_channels = min(in_channels)
        self.align_corners = align_corners
        self.convs = nn.ModuleList(
            Conv2d(channels, self.out_channels, kernel_size, padding=kernel_size // 2, bias=False)
            if has_conv
            else nn.Identity()
            for channels, has_conv in zip(
                in_channels, convolved or [True] * len(in_channels), strict=True
            )
        )
        self.fuse = _plain_sum if fuse is None else fuse(self.out_channels, len(in_channels))

    def forward(self, paths: list[Tensor]) -> Tensor:
        """Maps (N, C_p, H_p, W_p) -> (N, out_channels, max H_p, max W_p)."""
        maps = [conv(path) for conv, path in zip(self.convs, paths, strict=True)]
        size = max(map_.shape[-2] for map_ in maps), max(map_.shape[-1] for map_ in maps)
        maps = [
            map_ if map_.shape[-2:] == size else bilinear(map_, size, self.align_corners)
            for map_ in maps
        ]
        return self.fuse(maps[0], maps[1:])


def _plain_sum(first: Tensor, others: list[Tensor]) -> Tensor:
    """``first + others[0] + ...``, maps (N, C, H, W)."""
    for other in others:
        first = first + other
    return first


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=5, stride=1, padding=2)
