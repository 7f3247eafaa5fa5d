"""Blocks of the Global Convolutional Network ("Large Kernel Matters", arXiv 1703.02719).

A large kernel sees a whole object and, split into two pairs of one-dimensional convolutions, costs
2k instead of k^2 a channel pair. Normalisation and activation are absent on purpose: without them a
global convolution is one dense k x k convolution of low rank.
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .resample import bilinear

__all__ = ["BoundaryRefinement", "GlobalConvolution", "Upsample2x", "crop_to"]


class GlobalConvolution(nn.Module):
    """``conv_1xk(conv_kx1(x)) + conv_kx1(conv_1xk(x))``, linear (figure 2B of the paper).

    Args:
        kernel_size: k, odd; 15 in the paper on maps of 16 x 16, 25 on maps of 25 x 25.
        bias: whether the four convolutions have biases. The counts of the paper have none.

    Example:
        >>> GlobalConvolution(512, 21, 7)(torch.rand(1, 512, 16, 16)).shape
        torch.Size([1, 21, 16, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"The kernel of a global convolution is {kernel_size}; it must be odd and 1 or "
                "more (MODEL.GCN.KERNEL_SIZE), so that the map keeps its size."
            )
        tall, wide = (kernel_size, 1), (1, kernel_size)

        def conv(channels: int, kernel: tuple[int, int]) -> Conv2d:
            padding = (kernel[0] // 2, kernel[1] // 2)
            made = Conv2d(channels, out_channels, kernel, padding=padding, bias=bias)
            weight_init.c2_xavier_fill(made)
            return made

        # l and r: the left and right branch of the figure
        self.conv_l1, self.conv_l2 = conv(in_channels, tall), conv(out_channels, wide)
        self.conv_r1, self.conv_r2 = conv(in_channels, wide), conv(out_channels, tall)
        # it ends in class scores: they start close to equal
        for last in (self.conv_l2, self.conv_r2):
            nn.init.normal_(last.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class BoundaryRefinement(nn.Module):
    """``x + conv3x3(relu(conv3x3(x)))`` (figure 2C). Starts as the identity, which is our choice.

    Args:
        bias: whether the two convolutions have biases.
    """

    def __init__(self, channels: int, bias: bool = True):
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=bias)
        weight_init.c2_msra_fill(self.conv1)
        nn.init.zeros_(self.conv2.weight)
        if bias:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        return x + self.conv2(torch.relu(self.conv1(x)))


class Upsample2x(nn.Module):
    """Twice the size: a learned transposed convolution that starts as bilinear, or bilinear itself.

    Args:
        out_channels: a multiple of `in_channels`; more than `in_channels` needs "deconv", which
            starts with copies, channel ``g * in_channels + c`` being a copy of channel c.
        kind: "deconv" (4 x 4, stride 2, padding 1, no bias) or "bilinear". The paper says "deconv"
            without a size; at the start the two differ in the outermost ring only, where the
            transposed convolution meets zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, kind: str = "deconv"):
        super().__init__()
        if kind not in ("deconv", "bilinear"):
            raise ValueError(
                f'The upsampling "{kind}" (MODEL.GCN.UPSAMPLING) is unknown; choose "deconv" or '
                '"bilinear".'
            )
        if out_channels % in_channels or (kind == "bilinear" and out_channels != in_channels):
            raise ValueError(
                f'Upsampling of kind "{kind}" cannot turn {in_channels} channels into '
                f'{out_channels}: "bilinear" keeps their number, "deconv" gives a multiple. With '
                'MODEL.EXFUSE.DAP_SIZE over 1, set MODEL.GCN.UPSAMPLING "deconv".'
            )
        self.deconv = None
        if kind == "deconv":
            self.deconv = nn.ConvTranspose2d(
                in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False
            )
            line = torch.tensor([0.25, 0.75, 0.75, 0.25])
            copies = torch.eye(in_channels).repeat(1, out_channels // in_channels)
            self.deconv.weight.data.copy_(copies[:, :, None, None] * torch.outer(line, line))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, 2 H, 2 W)."""
        if self.deconv is not None:
            return self.deconv(x)
        return bilinear(x, (2 * x.shape[-2], 2 * x.shape[-1]))


def crop_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left `size` of x: what is left of a doubled map where the finer one has odd sides."""
    return x[..., : size[0], : size[1]]
