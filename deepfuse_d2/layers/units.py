"""Units of depth for the DeepFuse operation: what "go deep" after a fusion consists of.

A unit is the transform F of a residual step ``h + F(h)``; the shortcut belongs to
:class:`Deepen`, which stacks units. Units are pre-activated (He et al. 2016, arXiv 1603.05027): a
fused map is a plain sum without an activation, so the first thing a unit does is to rectify it.
"""

import functools
from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from .conv import same_size_conv

__all__ = ["UNITS", "BottleneckUnit", "Deepen", "ResidualUnit"]


_conv = functools.partial(same_size_conv, init=weight_init.c2_msra_fill)


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
        if channels % reduction:
            raise ValueError(
                f"A bottleneck unit divides its channels by {reduction}; {channels} channels do "
                f"not divide. Choose a multiple of {reduction}, or the unit 'residual'."
            )
        middle = channels // reduction
        self.conv1 = _conv(channels, middle, 1, norm)
        self.conv2 = _conv(middle, middle, 3, norm)
        self.conv3 = _conv(middle, channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W), without the shortcut."""
        x = torch.relu(self.conv1(torch.relu(x)))
        return self.conv3(torch.relu(self.conv2(x)))


# Unit name (MODEL.DEEPFUSE.UNIT) -> builder(channels, norm)
UNITS: dict[str, Callable[[int, str], nn.Module]] = {
    "residual": ResidualUnit,
    "bottleneck": BottleneckUnit,
}


class Deepen(nn.Module):
    """Units in a row: ``h_1 = F_1(x)``, ``h_i = h_{i-1} + F_i(h_{i-1})``; returns ``h_depth``.

    The first unit has no shortcut here, because the fusion adds the result to its own skip: inside
    the whole ``skip + scale * deepen(m)`` every unit has exactly one.

    Args:
        channels: of the input and of the output.
        unit: a name in `UNITS`.
        depth: number of units; 0 gives the identity.
        norm: a name for detectron2's ``get_norm``; "" for none.
    """

    def __init__(self, channels: int, *, unit: str, depth: int, norm: str = ""):
        super().__init__()
        if unit not in UNITS:
            raise ValueError(f'The DeepFuse unit "{unit}" is unknown; choose one of {list(UNITS)}.')
        if depth < 0:
            raise ValueError(f"The DeepFuse depth is {depth}; it must be 0 or more units.")
        self.units = nn.ModuleList(UNITS[unit](channels, norm) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        for i, unit in enumerate(self.units):
            x = unit(x) if i == 0 else x + unit(x)
        return x
