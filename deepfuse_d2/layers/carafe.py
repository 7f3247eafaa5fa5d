"""CARAFE (arXiv 1905.02188): content-aware reassembly of features, an upsampling that learns.

A coarse map x of C channels is enlarged by r = 2, 3, ... Each position of the result is a weighted
mean of k x k neighbours of the cell that it lies in, and the weights are read off the map:

    W = softmax over k^2 of PixelShuffle_r(encode(compress(x)))       (N, k^2, r h, r w)
    y(i, j) = sum over (a, b) in k x k of W_ab(i, j) x(i div r + a, j div r + b)

`compress` is a 1x1 convolution to 64 channels (fewer where x has fewer), `encode` a 3x3 to r^2 k^2;
k = 5. Beyond the border x is 0, as in the authors' code.
"""

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

__all__ = ["Carafe"]


class Carafe(nn.Module):
    """Enlarges a map by `ratio`, by weights that it computes from the map.

    Args:
        channels: of the map.
        ratio: by which height and width grow.
        start_as_nearest: begin as the nearest neighbour: then the result is
            ``nearest + scale * (y - nearest)`` with a scale for each channel that starts at 0, not
            at 1, where it is y itself.
        kernel_size: k, odd.
        compressed: channels that weights are read off, at most `channels`.

    Example:
        >>> Carafe(64, 2)(torch.rand(1, 64, 5, 7), (9, 14)).shape
        torch.Size([1, 64, 9, 14])
    """

    def __init__(
        self,
        channels: int,
        ratio: int,
        start_as_nearest: bool = True,
        kernel_size: int = 5,
        compressed: int = 64,
    ):
        super().__init__()
        self.ratio = ratio
        self.kernel_size = kernel_size
        compressed = min(compressed, channels)
        self.compress = Conv2d(channels, compressed, kernel_size=1)
        self.encode = Conv2d(compressed, (ratio * kernel_size) ** 2, kernel_size=3, padding=1)
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        for conv in (self.compress, self.encode):
            nn.init.zeros_(conv.bias)
        start = 0.0 if start_as_nearest else 1.0
        self.scale = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, C, h, w) -> (N, C, height, width) of `size`, that of r h x r w, or near it."""
        nearest = F.interpolate(x, size=size, mode="nearest")
        # larger by a pixel where the finer map has an odd side
        learned = _fit(self._reassemble(x), size[0], size[1])
        return nearest + self.scale.to(x.dtype) * (learned - nearest)

    def _reassemble(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, C, r h, r w)."""
        n, _, h, w = x.shape
        k, r = self.kernel_size, self.ratio
        # PixelShuffle's order of channels: the weight's number, then the place in the cell
        weights = self.encode(self.compress(x)).view(n, k * k, r * r, h, w)
        weights = weights.softmax(dim=1).to(x.dtype)
        border = k // 2
        padded = F.pad(x, [border, border, border, border])
        result = torch.zeros_like(x)[:, :, None]
        for number in range(k * k):
            top, left = number // k, number % k
            neighbour = padded[:, :, top : top + h, left : left + w]
            result = result + neighbour[:, :, None] * weights[:, number][:, None]
        return F.pixel_shuffle(result.flatten(1, 2), r)


def _fit(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The upper left of x; beyond its last row and column, these again."""
    rows = torch.arange(height, device=x.device).clamp(max=x.shape[2] - 1)
    columns = torch.arange(width, device=x.device).clamp(max=x.shape[3] - 1)
    return x.index_select(2, rows).index_select(3, columns)
