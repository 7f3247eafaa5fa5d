"""PatchNetwork: the image branch of M3Fusion (arXiv 1803.01945), patch by patch or over an image.

A patch of 25 x 25 pixels around a place becomes one vector (layer sizes of the public code of one
of the authors, in the repository remicres/otbtf; D = 512):

    25 x 25 x C   conv1 7x7        19 x 19 x D/2
                  max pool 2x2      9 x  9 x D/2
                  conv2 3x3         7 x  7 x D
                  conv3 3x3, same   7 x  7 x D
    [conv2, conv3]                  7 x  7 x 2D
                  conv4 1x1         7 x  7 x D
                  average           D

Each convolution is followed by ReLU, then by its norm. The last row and column of a patch are never
used: the pool drops what they reach.

**Dense.** Neighbouring patches share nearly all of their work. Over a whole image, pooling becomes
stride 1 and what follows dilated by 2; only conv3 resists, because its zero padding is at the
border of each *patch*. There, a position is one of nine kinds (first, middle or last of the seven
rows; the same for columns), which see 3x3, 2x3, 3x2 or 2x2 taps. So the products of the nine taps
are computed once, summed in nine ways, and each position of the average takes the map of its own
kind: the same numbers, for a thirty-fifth of the work a pixel (D = 512). ``border="valid"`` leaves
the padding of conv3 out (7x7 -> 5x5, beside the middle 5x5 of conv2), for two thirds of the dense
work; the parameters are the same, the network is another.

**At the pixels of a coarser grid**, patches still share the first layer, which is computed once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError

__all__ = ["BORDERS", "PATCH", "PATCH_NORMS", "ChannelAffine", "PatchNetwork"]

#: Side of a patch in pixels.
PATCH = 25
BORDERS = ("exact", "valid")
_HALF = PATCH // 2
_POSITIONS = 7  # along a side of what conv2 gives for a patch
_POOLED = 17  # along a side of the first layer with stride 1: the nine of a patch, two apart
_EPS = 1e-3


class ChannelAffine(nn.Module):
    """``weight x / sqrt(1 + eps) + bias``: a batch norm whose statistics stay 0 and 1 for ever.

    That is what the public code computes, which builds its norms without telling them to train.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        scale = self.weight / (1 + _EPS) ** 0.5
        return x * scale[:, None, None] + self.bias[:, None, None]


# MODEL.M3FUSION.NORM -> builder(channels)
PATCH_NORMS = {"BN": lambda channels: nn.BatchNorm2d(channels, eps=_EPS), "affine": ChannelAffine}


class PatchNetwork(nn.Module):
    """Patches (P, C, 25, 25) -> (P, dim), or images (N, C, H, W) -> (N, dim, H, W).

    Args:
        in_channels: of the image, C.
        dim: of the feature, even; 512 in the paper.
        norm: "BN", or "affine" for the public code's. What is computed once for several patches
            counts once in the statistics of BN, in training; in evaluation all forms are the same.
        border: of conv3, "exact" (the paper) or "valid".

    Example:
        >>> network = PatchNetwork(4, 32, norm="affine")
        >>> network(torch.rand(8, 4, 25, 25)).shape, network.dense(torch.rand(1, 4, 40, 50)).shape
        (torch.Size([8, 32]), torch.Size([1, 32, 40, 50]))
    """

    def __init__(
        self, in_channels: int, dim: int = 512, *, norm: str = "BN", border: str = "exact"
    ):
        super().__init__()
        if norm not in PATCH_NORMS:
            raise ConfigError(
                f'MODEL.M3FUSION.NORM = "{norm}" is unknown; choose one of {list(PATCH_NORMS)}.'
            )
        if border not in BORDERS:
            raise ConfigError(
                f'MODEL.M3FUSION.PATCH_BORDER = "{border}" is unknown; choose one of '
                f"{list(BORDERS)}."
            )
        if dim < 2 or dim % 2:
            raise ConfigError(f"MODEL.M3FUSION.IMAGE_DIM is {dim}; it must be even, 2 or more.")
        self.border = border
        self.out_channels = dim
        same = 1 if border == "exact" else 0
        self.conv1 = nn.Conv2d(in_channels, dim // 2, 7)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3)
        self.conv3 = nn.Conv2d(dim, dim, 3, padding=same)
        self.conv4 = nn.Conv2d(2 * dim, dim, 1)
        build = PATCH_NORMS[norm]
        self.norm1, self.norm2, self.norm3, self.norm4 = map(build, (dim // 2, dim, dim, dim))
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(P, C, 25, 25) -> (P, dim)"""
        return self.pooled(F.max_pool2d(self.norm1(F.relu(self.conv1(patches))), 2))

    def pooled(self, x: Tensor) -> Tensor:
        """(P, dim / 2, 9, 9), the first convolution of patches after its pool -> (P, dim)"""
        second = self.norm2(F.relu(self.conv2(x)))
        third = self.norm3(F.relu(self.conv3(second)))
        if self.border == "valid":
            second = second[..., 1:-1, 1:-1]
        x = self.norm4(F.relu(self.conv4(torch.cat([second, third], dim=1))))
        return x.mean(dim=(2, 3))

    def at_centres(
        self, image: Tensor, ratio: int, chosen: Tensor | None = None, chunk: int = 0
    ) -> Tensor:
        """Patches around the middle of each pixel of a coarser grid, the first layer shared.

        A patch at an even ratio begins 12 pixels before the middle, which is between two pixels;
        the 24 that are used lie around it. Outside of the image is 0.

        Args:
            image: (N, C, H, W), sides multiples of `ratio`.
            ratio: pixels of the image along a side of a pixel of the grid.
            chosen: numbers of the patches to compute, image by image, row by row; None for all.
            chunk: patches at once; 0 takes all. Not in training with BN, whose statistics would be
                those of parts.

        Returns:
            (P, dim), in the order of `chosen`; of all, P = N * H / ratio * W / ratio.
        """
        height, width = image.shape[-2] // ratio, image.shape[-1] // ratio
        middle = ratio // 2
        x = self._first(F.pad(image, [_HALF, _HALF, _HALF, _HALF]))[..., middle:, middle:]
        windows = x.unfold(2, _POOLED, ratio).unfold(3, _POOLED, ratio)[..., ::2, ::2]
        # (N, h, w, D/2, 9, 9), without a copy
        windows = windows[:, :, :height, :width].permute(0, 2, 3, 1, 4, 5)
        if chosen is None:
            chosen = torch.arange(len(image) * height * width, device=image.device)
        parts = []
        for part in chosen.split(chunk or max(len(chosen), 1)):
            place = part // (height * width), part // width % height, part % width
            parts.append(self.pooled(windows[place]))
        return torch.cat(parts)

    @staticmethod
    def patches(image: Tensor, ratio: int) -> Tensor:
        """(N, C, H, W) -> (N * H/ratio * W/ratio, C, 25, 25), around the same middles."""
        padded = F.pad(image, [_HALF, PATCH, _HALF, PATCH])
        middle, height, width = ratio // 2, image.shape[-2] // ratio, image.shape[-1] // ratio
        windows = padded[..., middle:, middle:].unfold(2, PATCH, ratio).unfold(3, PATCH, ratio)
        windows = windows[:, :, :height, :width]
        return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def dense(self, image: Tensor, band: int = 0) -> Tensor:
        """(N, C, H, W) -> (N, dim, H, W): at each pixel what its patch gives; outside is 0.

        The patch of a pixel begins 12 above and left of it.

        Args:
            band: rows at once, which bounds the memory; 0 takes all.
        """
        height, width = image.shape[-2:]
        padded = F.pad(image, [_HALF, _HALF, _HALF, _HALF])
        combine = self._dense_valid if self.border == "valid" else self._dense_exact
        bands = []
        for top in range(0, height, band or height):
            rows = min(band or height, height - top)
            x = self._first(padded.narrow(-2, top, rows + 2 * _HALF))
            second = self.norm2(F.relu(F.conv2d(x, self.conv2.weight, self.conv2.bias, dilation=2)))
            bands.append(combine(second, (rows, width)))
        return torch.cat(bands, dim=-2)

    def _first(self, padded: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, dim / 2, H - 7, W - 7): what any patch gives at a place."""
        return F.max_pool2d(self.norm1(F.relu(self.conv1(padded))), 2, stride=1)

    def _dense_valid(self, second: Tensor, size: tuple[int, int]) -> Tensor:
        third = F.conv2d(second, self.conv3.weight, self.conv3.bias, dilation=2)
        third = self.norm3(F.relu(third))
        both = torch.cat([second[..., 2:-2, 2:-2], third], dim=1)
        last = self.norm4(F.relu(self.conv4(both)))
        side = _POSITIONS - 2
        rows = sum(_shifted(last, -2, 2 * i, size[0]) for i in range(side))
        return sum(_shifted(rows, -1, 2 * i, size[1]) for i in range(side)) / side**2

    def _dense_exact(self, second: Tensor, size: tuple[int, int]) -> Tensor:
        # [row tap][column tap]: the product of that tap with what lies there, seen from its centre
        products = [[self._tap(second, row, column) for column in range(3)] for row in range(3)]
        # Taps inside the patch, for the first, a middle and the last of its rows or columns.
        inside = ((1, 2), (0, 1, 2), (0, 1))
        weights, bias = self.conv4.weight.chunk(2, dim=1), self.conv4.bias
        of_second = F.conv2d(second, weights[0], bias)
        rows = []
        for column_taps in inside:
            sums = [sum(products[row][column] for column in column_taps) for row in range(3)]
            maps = []
            for row_taps in inside:
                third = sum(sums[row] for row in row_taps) + self.conv3.bias[:, None, None]
                third = F.conv2d(self.norm3(F.relu(third)), weights[1])
                maps.append(self.norm4(F.relu(of_second + third)))
            rows.append(self._take_by_kind(maps, -2, size[0]))
        return self._take_by_kind(rows, -1, size[1]) / _POSITIONS**2

    def _tap(self, second: Tensor, row: int, column: int) -> Tensor:
        product = F.conv2d(second, self.conv3.weight[:, :, row : row + 1, column : column + 1])
        down, right = 2 * (row - 1), 2 * (column - 1)
        # negative padding cuts; what is shifted in lies outside of every patch that is asked for
        return F.pad(product, [-right, right, -down, down])

    @staticmethod
    def _take_by_kind(maps: list[Tensor], axis: int, length: int) -> Tensor:
        """Sum of the seven positions along an axis, each from the map of its kind."""
        first, middle, last = maps
        total = _shifted(first, axis, 0, length)
        for i in range(1, _POSITIONS - 1):
            total = total + _shifted(middle, axis, 2 * i, length)
        return total + _shifted(last, axis, 2 * (_POSITIONS - 1), length)


def _shifted(x: Tensor, axis: int, start: int, length: int) -> Tensor:
    return x.narrow(axis, start, length)
