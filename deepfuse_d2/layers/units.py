"""Units of depth for the DeepFuse operation: what "go deep" after a fusion consists of.

A unit is the transform F of a residual step ``h + F(h)``; the shortcut belongs to
:class:`~deepfuse_d2.layers.deepen.Deepen`, which stacks units. Units are pre-activated (He et al.
2016, arXiv 1603.05027): a fused map is a plain sum without an activation, so the first thing a unit
does is to rectify it. Every convolution has a norm, or a bias where `norm` is "".
"""

import functools
from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from .conv import same_size_conv

__all__ = [
    "UNITS",
    "BottleneckUnit",
    "DenseUnit",
    "MultiScaleUnit",
    "ResidualUnit",
    "SeparableUnit",
]


_conv = functools.partial(same_size_conv, init=weight_init.c2_msra_fill)


def _depthwise_fill(conv: nn.Conv2d) -> None:
    # He's initialisation by the inputs of an output: by its outputs, as torch counts them, a
    # depthwise convolution would start with weights smaller by the root of its channels.
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _narrower(channels: int, divisor: int, unit: str) -> int:
    if channels % divisor:
        raise ValueError(
            f"A {unit} unit divides its channels by {divisor}; {channels} channels do not divide. "
            f"Choose a multiple of {divisor}, or the unit 'residual'."
        )
    return channels // divisor


class ResidualUnit(nn.Module):
    """Two rectified 3x3 convolutions: the residual convolution unit of RefineNet (1611.06612).

    Args:
        channels: of the input and of the output.
        norm: a name for detectron2's ``get_norm``; "" for none.
    """

    def __init__(self, channels: int, norm: str = ""):
        super().__init__()
        self.conv1 = _conv(channels, channels, 3, norm)
        self.conv2 = _conv(channels, channels, 3, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W), without the shortcut."""
        return self.conv2(torch.relu(self.conv1(torch.relu(x))))


class BottleneckUnit(nn.Module):
    """1x1 reduction, 3x3, 1x1 expansion (He et al. 2015, arXiv 1512.03385), pre-activated.

    Args:
        channels: of the input and of the output; divisible by `reduction`.
        norm: a name for detectron2's ``get_norm``; "" for none.
        reduction: channels of the 3x3 convolution are ``channels // reduction``.
    """

    def __init__(self, channels: int, norm: str = "", reduction: int = 4):
        super().__init__()
        middle = _narrower(channels, reduction, "bottleneck")
        self.conv1 = _conv(channels, middle, 1, norm)
        self.conv2 = _conv(middle, middle, 3, norm)
        self.conv3 = _conv(middle, channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W), without the shortcut."""
        x = torch.relu(self.conv1(torch.relu(x)))
        return self.conv3(torch.relu(self.conv2(x)))


class DenseUnit(nn.Module):
    """3x3 convolutions that each see all earlier maps, then 1x1 back (DenseNet, arXiv 1608.06993).

    ``d_0 = x``, ``d_i = conv_i(relu([d_0, ..., d_{i-1}]))`` with `growth` channels each, and
    ``F(x) = fuse(relu([d_0, ..., d_layers]))``.

    Args:
        channels: of the input and of the output; divisible by `reduction`.
        norm: a name for detectron2's ``get_norm``; "" for none.
        reduction: the growth is ``channels // reduction``.
        layers: number of 3x3 convolutions.
    """

    def __init__(self, channels: int, norm: str = "", reduction: int = 8, layers: int = 3):
        super().__init__()
        growth = _narrower(channels, reduction, "dense")
        self.convs = nn.ModuleList(
            _conv(channels + i * growth, growth, 3, norm) for i in range(layers)
        )
        self.fuse = _conv(channels + layers * growth, channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W), without the shortcut."""
        seen = torch.relu(x)
        for conv in self.convs:
            seen = torch.cat([seen, torch.relu(conv(seen))], dim=1)
        return self.fuse(seen)


class SeparableUnit(nn.Module):
    """Large-kernel depthwise convolution, then two pointwise ones with a rectifier between.

    The order of ConvNeXt's block (arXiv 2201.03545), without its widening: context of
    `kernel_size` pixels a side at the cost of 1x1 convolutions.

    Args:
        channels: of the input and of the output.
        norm: a name for detectron2's ``get_norm``; "" for none.
        kernel_size: of the depthwise convolution; odd.
    """

    def __init__(self, channels: int, norm: str = "", kernel_size: int = 7):
        super().__init__()
        self.depthwise = same_size_conv(
            channels, channels, kernel_size, norm, groups=channels, init=_depthwise_fill
        )
        self.pointwise1 = _conv(channels, channels, 1, norm)
        self.pointwise2 = _conv(channels, channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W), without the shortcut."""
        x = self.pointwise1(self.depthwise(torch.relu(x)))
        return self.pointwise2(torch.relu(x))


class MultiScaleUnit(nn.Module):
    """A bottleneck whose 3x3 convolution is a chain over groups (Res2Net, arXiv 1904.01169, eq. 1).

    The reduced map is split into `scales` groups x_1, x_2, ...; ``y_1 = x_1``,
    ``y_2 = conv_2(x_2)``, ``y_i = conv_i(x_i + y_{i-1})``: one unit sees fields of 1, 3, 5 and 7
    pixels.

    Args:
        channels: of the input and of the output; divisible by ``reduction * scales``.
        norm: a name for detectron2's ``get_norm``; "" for none.
        reduction: all groups together have ``channels // reduction`` channels.
        scales: number of groups.
    """

    def __init__(self, channels: int, norm: str = "", reduction: int = 2, scales: int = 4):
        super().__init__()
        width = _narrower(channels, reduction * scales, "multi_scale")
        self.width = width
        self.reduce = _conv(channels, scales * width, 1, norm)
        self.convs = nn.ModuleList(_conv(width, width, 3, norm) for _ in range(scales - 1))
        self.expand = _conv(scales * width, channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W), without the shortcut."""
        groups = torch.split(torch.relu(self.reduce(torch.relu(x))), self.width, dim=1)
        scales = [groups[0]]
        for i, conv in enumerate(self.convs):
            group = groups[i + 1] if i == 0 else groups[i + 1] + scales[i]
            scales.append(torch.relu(conv(group)))
        return self.expand(torch.cat(scales, dim=1))


# Unit name (MODEL.DEEPFUSE.UNIT) -> builder(channels, norm)
UNITS: dict[str, Callable[[int, str], nn.Module]] = {
    "residual": ResidualUnit,
    "bottleneck": BottleneckUnit,
    "dense": DenseUnit,
    "separable": SeparableUnit,
    "multi_scale": MultiScaleUnit,
}
