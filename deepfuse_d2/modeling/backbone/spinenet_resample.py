"""How a map of SpineNet comes to the level and the channels of the block that takes it.

All of them end in a 1x1 convolution with norm and without activation, and go up by nearest
neighbours. They differ in the way down: strided convolution and pool on a fraction alpha of the
filters (SpineNet), depthwise convolutions (MBConv), space to depth (m0 to d4).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .spinenet_blocks import Style, conv_norm
from .spinenet_tables import Block

__all__ = ["AlphaConvResample", "DepthwiseChainResample", "SpaceToDepthResample", "make_resample"]


class _Resample(nn.Module):
    """Way down or up, then the 1x1 convolution.

    Args:
        steps: levels to go down, or if negative up.
    """

    def __init__(self, steps: int, style: Style):
        super().__init__()
        self.steps = steps
        self.activate = style.activate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_source, H, W) -> (N, C_target, H / 2^steps, W / 2^steps)."""
        x = self.first(x)
        if self.steps > 0:
            x = self.down(x)
        elif self.steps < 0:
            x = F.interpolate(x, scale_factor=float(2**-self.steps), mode="nearest")
        return self.expand(x)

    def first(self, x: Tensor) -> Tensor:
        """What is done before the size changes."""
        return x

    def down(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / 2^steps, W / 2^steps)."""
        raise NotImplementedError


class AlphaConvResample(_Resample):
    """1x1 to alpha * filters; 3x3 of stride 2, and a max pool for the rest of the way down.

    Args:
        source: block that the map comes from.
        channels: of the target.
        alpha: fraction of the source's filters (not of its channels); what remains is cut off.
    """

    def __init__(self, source: Block, channels: int, steps: int, alpha: float, style: Style):
        super().__init__(steps, style)
        middle = max(1, int(source.width * alpha))
        self.max_pool = style.max_pool
        self.squeeze = conv_norm(source.channels, middle, 1, style)
        if steps > 0:
            self.downsample = conv_norm(middle, middle, 3, style, stride=2)
        self.expand = conv_norm(middle, channels, 1, style)

    def first(self, x: Tensor) -> Tensor:
        return self.activate(self.squeeze(x))

    def down(self, x: Tensor) -> Tensor:
        x = self.activate(self.downsample(x))
        return x if self.steps == 1 else self.max_pool(x, 2 ** (self.steps - 1))


class DepthwiseChainResample(_Resample):
    """A depthwise 3x3 of stride 2 for each level down; see :class:`AlphaConvResample`."""

    def __init__(self, source: Block, channels: int, steps: int, alpha: float, style: Style):
        super().__init__(steps, style)
        width = source.channels
        self.downsamples = nn.ModuleList(
            conv_norm(width, width, 3, style, stride=2, groups=width) for _ in range(steps)
        )
        self.expand = conv_norm(width, channels, 1, style)

    def down(self, x: Tensor) -> Tensor:
        for conv in self.downsamples:
            x = self.activate(conv(x))
        return x


class SpaceToDepthResample(_Resample):
    """2x2 positions to channels and a norm, then one depthwise convolution for the rest of the way.

    torch's order of the channels is kept: the four of one channel stand together (TensorFlow: all
    channels of one position); checkpoints are permuted when they are converted.
    """

    def __init__(self, source: Block, channels: int, steps: int, alpha: float, style: Style):
        super().__init__(steps, style)
        width = source.channels * (4 if steps > 0 else 1)
        if steps > 0:
            self.norm = style.make_norm(width) or nn.Identity()
        if steps > 1:
            stride = 2 ** (steps - 1)
            self.downsample = conv_norm(
                width, width, stride + 1, style, stride=stride, groups=width
            )
        self.expand = conv_norm(width, channels, 1, style)

    def down(self, x: Tensor) -> Tensor:
        x = self.activate(self.norm(F.pixel_unshuffle(x, 2)))
        return x if self.steps == 1 else self.activate(self.downsample(x))


_RESAMPLINGS = {
    "alpha_conv": AlphaConvResample,
    "depthwise_chain": DepthwiseChainResample,
    "space_to_depth": SpaceToDepthResample,
}


def make_resample(
    resampling: str, source: Block, target: Block, alpha: float, style: Style
) -> nn.Module:
    """What brings maps of `source` to the level and the channels of `target`."""
    steps = target.level - source.level
    return _RESAMPLINGS[resampling](source, target.channels, steps, alpha, style)
