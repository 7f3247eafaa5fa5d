"""Blocks of SpineNet (arXiv 1912.05027) and SpineNet-MBConv, as in the authors' code.

Convolutions start by variance scaling over their inputs and have a norm and no bias; a block begins
and ends without a stride but in the stem. Stochastic depth and DropBlock act in training alone.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, StochasticDepth

from ...errors import ConfigError
from ...layers import get_norm
from .spinenet_tables import Block

__all__ = [
    "ACTIVATIONS",
    "BottleneckBlock",
    "MBConvBlock",
    "ResidualBlock",
    "Style",
    "conv_norm",
    "make_group",
]

# MODEL.SPINENET.ACTIVATION. Not in place: a map that goes into several blocks must stay.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "swish": F.silu,
    "hard_swish": F.hardswish,
}
_EXPANSION = 6
_SQUEEZE = 0.2


@dataclass(frozen=True)
class Style:
    """What all layers of a network have in common.

    Args:
        norm: a name for :func:`get_norm`.
        eps, momentum: of batch norms; torch's momentum is 1 - TensorFlow's.
        activation: a name in :data:`ACTIVATIONS`.
        same_pooling: pad max pools after the map alone, as TensorFlow's "SAME" does for even sizes,
            instead of on both sides.
        drop_block: probability of DropBlock (arXiv 1810.12890), in [0, 1).
        drop_block_size: side of what it drops, in positions.
    """

    norm: str = "BN"
    eps: float = 1e-3
    momentum: float = 0.01
    activation: str = "relu"
    same_pooling: bool = False
    drop_block: float = 0.0
    drop_block_size: int = 7

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f'MODEL.SPINENET.ACTIVATION = "{self.activation}" is unknown; choose one of '
                f'{list(ACTIVATIONS)}, or "" for that of the published network.'
            )
        if not 0 <= self.drop_block < 1 or self.drop_block_size < 1:
            raise ConfigError(
                f"MODEL.SPINENET.DROP_BLOCK is {self.drop_block} (allowed: 0 up to, not with, 1) "
                f"with DROP_BLOCK_SIZE {self.drop_block_size} (allowed: 1 or more)."
            )

    @property
    def activate(self) -> Callable[[Tensor], Tensor]:
        return ACTIVATIONS[self.activation]

    def make_norm(self, channels: int) -> nn.Module | None:
        norm = get_norm(self.norm, channels)
        if isinstance(norm, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)):
            norm.eps = self.eps
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = self.momentum
        return norm

    def max_pool(self, x: Tensor, stride: int) -> Tensor:
        """(N, C, H, W) -> (N, C, H / stride, W / stride), by windows of stride + 1."""
        if self.same_pooling:
            return F.max_pool2d(x, stride + 1, stride, ceil_mode=True)
        return F.max_pool2d(x, stride + 1, stride, padding=(stride + 1) // 2)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    style: Style,
    *,
    stride: int = 1,
    groups: int = 1,
) -> Conv2d:
    """Convolution and norm; the size changes by `stride` alone."""
    norm = style.make_norm(out_channels)
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=norm is None,
        norm=norm,
    )
    _variance_scaling(conv)
    return conv


def _variance_scaling(conv: nn.Conv2d) -> None:
    """TensorFlow's default of that name: normal of variance 1 / fan-in, cut at two deviations."""
    fan_in = conv.weight[0].numel()
    # what is left of the deviation after the cut
    std = math.sqrt(1 / fan_in) / 0.87962566103423978
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class _Block(CNNBlockBase):
    """What blocks share: the activation and what is dropped in training."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, style: Style, drop_path: float
    ):
        super().__init__(in_channels, out_channels, stride)
        self.activate = style.activate
        self.drop_path = StochasticDepth(drop_path, mode="row")
        self.drop_block: nn.Module = nn.Identity()
        if style.drop_block:
            self.drop_block = DropBlock2d(style.drop_block, style.drop_block_size)

    def _layer(self, conv: Conv2d, x: Tensor) -> Tensor:
        return self.drop_block(self.activate(conv(x)))


class ResidualBlock(_Block):
    """Two 3x3 convolutions beside the identity, or a 1x1 convolution where channels change."""

    def __init__(
        self, in_channels: int, width: int, style: Style, *, stride: int = 1, drop_path: float = 0.0
    ):
        super().__init__(in_channels, width, stride, style, drop_path)
        self.conv1 = conv_norm(in_channels, width, 3, style, stride=stride)
        self.conv2 = conv_norm(width, width, 3, style)
        self.shortcut = _shortcut(in_channels, width, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / stride, W / stride)."""
        y = self.drop_block(self.conv2(self._layer(self.conv1, x)))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.activate(self.drop_block(shortcut) + self.drop_path(y))


class BottleneckBlock(_Block):
    """1x1, 3x3, 1x1 to four times the width, beside the identity or a 1x1 convolution."""

    def __init__(
        self, in_channels: int, width: int, style: Style, *, stride: int = 1, drop_path: float = 0.0
    ):
        super().__init__(in_channels, 4 * width, stride, style, drop_path)
        self.conv1 = conv_norm(in_channels, width, 1, style)
        self.conv2 = conv_norm(width, width, 3, style, stride=stride)
        self.conv3 = conv_norm(width, 4 * width, 1, style)
        self.shortcut = _shortcut(in_channels, 4 * width, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 * width, H / stride, W / stride)."""
        y = self._layer(self.conv2, self._layer(self.conv1, x))
        y = self.drop_block(self.conv3(y))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.activate(self.drop_block(shortcut) + self.drop_path(y))


def _shortcut(in_channels: int, out_channels: int, stride: int, style: Style) -> Conv2d | None:
    if in_channels == out_channels and stride == 1:
        return None
    return conv_norm(in_channels, out_channels, 1, style, stride=stride)


class SqueezeExcitation(nn.Module):
    """A factor of each channel, from the means of all (arXiv 1709.01507).

    Args:
        channels: of the map.
        reduced: of the hidden layer.
    """

    def __init__(self, channels: int, reduced: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.activate = activation
        self.reduce = Conv2d(channels, reduced, 1)
        self.expand = Conv2d(reduced, channels, 1)
        for conv in (self.reduce, self.expand):
            _variance_scaling(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(self.activate(self.reduce(means))))


class MBConvBlock(_Block):
    """1x1 expansion, 3x3 depthwise, squeeze-excitation, linear 1x1 (arXiv 1801.04381, 1905.11946).

    The shortcut is there where the shape stays. Nothing is rectified after the sum.
    """

    def __init__(
        self, in_channels: int, width: int, style: Style, *, stride: int = 1, drop_path: float = 0.0
    ):
        super().__init__(in_channels, width, stride, style, drop_path)
        middle = _EXPANSION * in_channels
        self.conv1 = conv_norm(in_channels, middle, 1, style)
        self.conv2 = conv_norm(middle, middle, 3, style, stride=stride, groups=middle)
        # of the block's input, not of the expansion; the fraction is cut off
        reduced = max(1, int(_SQUEEZE * in_channels))
        self.squeeze_excitation = SqueezeExcitation(middle, reduced, style.activate)
        self.conv3 = conv_norm(middle, width, 1, style)
        self.has_shortcut = in_channels == width and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / stride, W / stride)."""
        y = self.squeeze_excitation(self._layer(self.conv2, self._layer(self.conv1, x)))
        y = self.drop_block(self.conv3(y))
        return x + self.drop_path(y) if self.has_shortcut else y


_KINDS = {"residual": ResidualBlock, "bottleneck": BottleneckBlock, "mbconv": MBConvBlock}


def make_group(
    block: Block, in_channels: int, style: Style, *, stride: int = 1, drop_path: float = 0.0
) -> nn.Sequential:
    """The repeats of `block`, each fed by the one before; the first may change shape and size."""
    make = functools.partial(_KINDS[block.kind], style=style, drop_path=drop_path)
    first = make(in_channels, block.width, stride=stride)
    others = [make(block.channels, block.width) for _ in range(block.repeats - 1)]
    return nn.Sequential(first, *others)
