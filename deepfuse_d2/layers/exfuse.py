"""Blocks of ExFuse ("Enhancing Feature Fusion for Semantic Segmentation", arXiv 1804.03821).

:class:`SemanticEmbeddingBranch` gives meaning to low-level features, :class:`SubPixelUpsample` is
the parameter-free step of the explicit channel resolution embedding (ECRE), and
:class:`DenselyAdjacentPrediction` lets every position vote for its neighbours.
"""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .resample import bilinear

__all__ = ["DenselyAdjacentPrediction", "SemanticEmbeddingBranch", "SubPixelUpsample"]


class SemanticEmbeddingBranch(nn.Module):
    """``x * prod_q up(conv3x3_q(x_q))`` over the deeper levels q (figure 4 of the paper).

    The figure's caption asks for one convolution a deeper level, applied at that level's size, and
    for the product of all. Every factor starts as 1 (zero weights, bias 1), so that the branch
    starts as the identity: this is ours, because factors around zero would silence the level.

    Args:
        channels: of x and of the result.
        deeper_channels: of each deeper level.

    Example:
        >>> seb = SemanticEmbeddingBranch(64, [128, 256])
        >>> deeper = [torch.rand(1, 128, 17, 33), torch.rand(1, 256, 9, 17)]
        >>> seb(torch.rand(1, 64, 33, 65), deeper).shape
        torch.Size([1, 64, 33, 65])
    """

    def __init__(self, channels: int, deeper_channels: Sequence[int]):
        super().__init__()
        convs = [Conv2d(c, channels, 3, padding=1) for c in deeper_channels]
        self.convs = nn.ModuleList(convs)
        for conv in convs:
            nn.init.zeros_(conv.weight)
            nn.init.ones_(conv.bias)

    def forward(self, x: Tensor, deeper: list[Tensor]) -> Tensor:
        """(N, channels, H, W) and maps (N, C_q, H_q, W_q) of any size -> (N, channels, H, W)."""
        for conv, x_q in zip(self.convs, deeper, strict=True):
            x = x * bilinear(conv(x_q), (x.shape[-2], x.shape[-1]))
        return x


class SubPixelUpsample(nn.Module):
    """Twice the size by ``e[c, 2h + i, 2w + j] = conv3x3(x)[4c + 2i + j, h, w]``.

    The rearrangement itself has no parameters. The convolution C -> 4C before it is our reading:
    the paper's figure 2 shows C channels before and after. Its output are logits, so nothing
    rectifies it.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, 4 * channels, 3, padding=1)
        weight_init.c2_xavier_fill(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, 2 H, 2 W)."""
        return F.pixel_shuffle(self.conv(x), 2)


class DenselyAdjacentPrediction(nn.Module):
    """The mean of what a position's ``size`` x ``size`` neighbours, and itself, say about it.

    With C classes, k = size and r = k // 2, from ``C * k * k`` channels X in groups of C:

        R[c, i, j] = 1 / k^2 * sum_{l, m < k} X[(l * k + m) * C + c, i + l - r, j + m - r]

    with 0 outside the map. Group (l, m) at a position is thus its vote for the label of the
    position (l - r, m - r) away from it, backwards. It is linear and has no parameters;
    ``size=1`` is the identity. ``PixelShuffle`` followed by an average pooling, found in public
    code, is something else: it averages channels of one position.

    Args:
        size: k, odd; 3 in the paper.
        divide_by_valid: divide by the number of neighbours inside the map rather than by k^2. It
            rescales the border and changes no arg max there.
    """

    def __init__(self, size: int = 3, divide_by_valid: bool = False):
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"Densely adjacent prediction has size {size} (MODEL.EXFUSE.DAP_SIZE); it must be "
                "odd and 1 or more: a position and as many neighbours on either side."
            )
        self.size = size
        self.divide_by_valid = divide_by_valid

    def forward(self, x: Tensor) -> Tensor:
        """(N, C * size^2, H, W) -> (N, C, H, W)."""
        if self.size == 1:
            return x
        votes = self._votes(x)
        if self.divide_by_valid:
            return votes / self._votes(torch.ones_like(x[:1, : self.size**2]))
        return votes / self.size**2

    def _votes(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        radius = self.size // 2
        groups = x.chunk(self.size**2, dim=1)
        total = None
        for index, group in enumerate(groups):
            row, column = divmod(index, self.size)
            padded = F.pad(group, [radius] * 4)
            shifted = padded[..., row : row + height, column : column + width]
            total = shifted if total is None else total + shifted
        assert total is not None, "no votes"
        return total
