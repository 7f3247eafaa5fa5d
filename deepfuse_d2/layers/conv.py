"""The convolution that all fusion is made of."""

from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d
from torch import nn

from .norm import get_norm

__all__ = ["same_size_conv"]


def same_size_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str = "",
    *,
    groups: int = 1,
    init: Callable[[nn.Conv2d], None] = weight_init.c2_xavier_fill,
) -> Conv2d:
    """Convolution of stride 1 that keeps height and width, with `norm`, or a bias where it is "".

    Args:
        kernel_size: odd.
        norm: a name for :func:`get_norm`.
        groups: as in torch's Conv2d; `in_channels` of them make a depthwise convolution.
        init: fills weight and bias.
    """
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        groups=groups,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )
    init(conv)
    return conv
