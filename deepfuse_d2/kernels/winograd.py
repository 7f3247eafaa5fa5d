"""3x3 convolutions with fewer multiplications, in float32 on a CPU (arXiv 1509.09308).

F(m x m, 3 x 3) computes m x m outputs by (m + 2)^2 multiplications a channel in place of 9 m^2, for
m = 4 a quarter:

    Y = A^T [(G g G^T) * (B^T d B)] A

for a filter g and (m + 2) x (m + 2) inputs d; between the transforms stands, summed over channels,
one matrix product for each of the (m + 2)^2 places. The matrices follow from m + 1 points of a
polynomial and infinity (arXiv 1803.10986), and precision follows from the points: for 256 channels
the largest error of F(4 x 4) is 8e-6 standard deviations of the result with 0, 3/4, -3/4, 3/2,
-3/2, and 3e-5 with the customary 0, 1, -1, 2, -2; of F(5 x 5) 2e-5, and of the direct sum 1e-6.

In bfloat16, of F(3 x 3), the mean error is three times that of the direct sum; F(4 x 4) has five.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .capabilities import has_bfloat16, has_packed, isa
from .choice import is_chosen
from .packed_filters import PackedFilters

__all__ = ["POINTS", "WinogradConv2d", "transforms"]

# m -> the points, infinity apart
POINTS: dict[int, tuple[float, ...]] = {
    3: (1 / 2, -1 / 2, 5 / 4, -5 / 4),
    4: (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2),
    5: (7 / 8, -7 / 8, 7 / 4, -7 / 4, 1 / 4, -1 / 4),
}

# Tiles in work at once in float32, twice as many in 16 bits: their transformed inputs, 36 x 256
# channels, take 5 MB.
_TILES = 128


def transforms(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T (m, m + 2), G (m + 2, 3) and B^T (m + 2, m + 2) of F(m, 3)."""
    points = np.array(POINTS[m], dtype=np.float64)
    count = len(points)
    others = [np.delete(points, i) for i in range(count)]
    a = np.zeros((m, count + 1))
    a[:, :count] = points ** np.arange(m)[:, None]
    a[-1, -1] = 1
    g = np.zeros((count + 1, 3))
    scale = np.array([np.prod(p - rest) for p, rest in zip(points, others, strict=True)])
    g[:count] = points[:, None] ** np.arange(3) / scale[:, None]
    g[-1, -1] = 1
    b = np.zeros((count + 1, count + 1))
    for row, roots in zip(b, [*others, points], strict=True):
        row[: len(roots) + 1] = np.poly(roots)[::-1]
    return a, g, b


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, by tiles of m x m outputs.

    The products are a grouped 1x1 convolution: a group for each place, and tiles in place of
    pixels. Memory beside input and output is that of `_TILES` tiles.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, m: int | None = None):
        """
        Args:
            weight: (K, C, 3, 3) filters; packed where oneDNN can their type, and then opaque to
                ``state_dict`` and ``copy.deepcopy``.
            bias: (K,)
            m: side of the outputs computed at once, a key of :data:`POINTS`; by default 4, and 3
                for filters of bfloat16.
        """
        super().__init__()
        m = m or (3 if weight.dtype is torch.bfloat16 else 4)
        self.m, self.places = m, (m + 2) ** 2
        self.out_channels, self.in_channels = weight.shape[:2]
        a, g, b = (torch.from_numpy(x) for x in transforms(m))
        filters = torch.einsum("xi,yj,kcij->xykc", g, g, weight.detach().double())
        filters = filters.reshape(-1, self.in_channels, 1, 1).to(weight.dtype)
        # not a buffer: an opaque tensor can be neither saved nor copied nor moved
        self.filters = filters
        self.packed = None
        if has_packed(weight.dtype):
            self.packed = PackedFilters(filters, (0, 0), (1, 1), (1, 1), self.places)
            self.filters = None
        self.to_input = torch.kron(b, b).to(weight.dtype)
        self.to_output = torch.kron(a, a).to(weight.dtype)
        self.register_buffer("bias", None if bias is None else bias.detach().to(weight.dtype))

    @staticmethod
    def has_form(conv: nn.Conv2d) -> bool:
        """Whether the convolution is of this kind, and of a width that may gain by it.

        With fewer channels the transforms take what the products save. With more, maps are small,
        and four times the filters no longer fit the caches.
        """
        return (
            conv.kernel_size == (3, 3)
            and conv.stride == conv.padding == conv.dilation == (1, 1)
            and conv.groups == 1
            and {conv.in_channels, conv.out_channels} <= {128, 256}
        )

    @classmethod
    def fits(cls, conv: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether the convolution has that form and gains by it on this machine.

        AMX multiplies bfloat16 so fast that nothing is left to save; elsewhere, a measurement
        decides.
        """
        if not cls.has_form(conv):
            return False
        if dtype is torch.bfloat16:
            may = has_bfloat16() and isa() != "amx"
            return may and is_chosen("winograd bfloat16", lambda: _trial(torch.bfloat16))
        return dtype is torch.float32 and is_chosen("winograd", lambda: _trial(torch.float32))

    @staticmethod
    def best_side(side: int, dtype: torch.dtype) -> int:
        """The `m` of fewest multiplications for maps of side x side cells.

        14 cells, those of a mask head, are 4 x 4 tiles of 4 x 4 outputs with 576 multiplications a
        channel, or 3 x 3 tiles of 5 x 5 outputs with 441.
        """
        if dtype is torch.bfloat16:
            return 3
        return min((4, 5), key=lambda m: (-(-side // m) * (m + 2)) ** 2)

    @property
    def weight(self) -> Tensor:
        """(K, C, 3, 3) filters, up to rounding."""
        filters = self.filters if self.packed is None else self.packed.to_dense()
        inverse = torch.linalg.pinv(torch.from_numpy(transforms(self.m)[1]))
        places = filters.double().reshape(self.m + 2, self.m + 2, self.out_channels, -1)
        weight = torch.einsum("ix,jy,xykc->kcij", inverse, inverse, places)
        return weight.to(filters.dtype)

    def forward(
        self,
        x: Tensor,
        *,
        relu: bool = False,
        following: tuple[Tensor, Tensor | None] | None = None,
    ) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels innermost.

        Args:
            relu: apply it to the result.
            following: weight (L, K) and bias (L,) of a 1x1 convolution that alone takes the
                result; it is computed tile by tile, so that K channels of the whole map never
                exist, and the result is (N, L, H, W) of their type.
        """
        count, channels, height, width = x.shape
        m, side = self.m, self.m + 2
        rows, columns = -(-height // m), -(-width // m)
        padded = _with_border(x.permute(0, 2, 3, 1), rows * m + 2, columns * m + 2)
        per_image, row, column, _ = padded.stride()
        # (image, row of tiles, column of tiles, side, side, channel)
        inputs = padded.as_strided(
            (count, rows, columns, side, side, channels),
            (per_image, m * row, m * column, row, column, 1),
        )
        wide, dtype = self.out_channels, x.dtype
        if following is not None:
            wide, dtype = len(following[0]), following[0].dtype
        whole = x.new_empty(count, rows * m, columns * m, wide, dtype=dtype)
        outputs = whole.view(count, rows, m, columns, m, wide).permute(0, 1, 3, 2, 4, 5)
        # pieces of whole images, or of rows of one
        at_once = 2 * _TILES if x.element_size() == 2 else _TILES
        images = min(max(1, at_once // (rows * columns)), count)
        lines = min(max(1, at_once // columns), rows)
        # one set of buffers for all pieces: memory fresh from the system has to be cleared first
        tiles = images * lines * columns
        buffers = (
            x.new_empty(tiles, self.places, channels),
            x.new_empty(tiles, self.places, channels),
            x.new_empty(tiles, m * m, self.out_channels),
        )
        changes = [
            each.expand(tiles, -1, -1).contiguous() for each in (self.to_input, self.to_output)
        ]
        starts = itertools.product(range(0, count, max(images, 1)), range(0, rows, lines))
        for image, line in starts:
            piece = np.s_[image : image + images, line : line + lines]
            found, target = self._tiles(inputs[piece], *changes, *buffers), outputs[piece]
            if following is not None:
                found = found.relu_() if relu else found
                target.copy_(F.linear(found.to(dtype), *following).view(target.shape))
            elif relu:
                torch.clamp_min(found.view(target.shape), 0, out=target)
            else:
                target.copy_(found.view(target.shape))
        return whole[:, :height, :width].permute(0, 3, 1, 2)

    def _tiles(
        self,
        inputs: Tensor,
        to_input: Tensor,
        to_output: Tensor,
        given: Tensor,
        changed: Tensor,
        found: Tensor,
    ) -> Tensor:
        """(..., m + 2, m + 2, C) inputs -> (T, m m, K) outputs of T tiles, by way of buffers."""
        count = inputs.shape[:3].numel()
        given, changed, found = given[:count], changed[:count], found[:count]
        given.view(inputs.shape).copy_(inputs)
        torch.bmm(to_input[:count], given, out=changed)
        products = self._products(changed.flatten(1).T[None, :, :, None])
        products = products[0, :, :, 0].T.unflatten(1, (self.places, self.out_channels))
        torch.bmm(to_output[:count], products, out=found)
        return found if self.bias is None else found.add_(self.bias)

    def _products(self, changed: Tensor) -> Tensor:
        """(1, places C, T, 1) -> (1, places K, T, 1), channels innermost."""
        if self.packed is None:
            return F.conv2d(changed, self.filters, groups=self.places)
        return self.packed.convolve(changed, None)


def _trial(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A convolution as pyramids have them: by tiles, and as oneDNN or torch has it."""
    x = torch.rand(1, 256, 32, 64).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(256, 256, 3, 3).to(dtype)
    tiled = WinogradConv2d(weight, None)
    if has_packed(dtype):
        filters = PackedFilters(weight, (1, 1), (1, 1), (1, 1), 1)
        return lambda: tiled(x), lambda: filters.convolve(x, None)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: tiled(x), lambda: F.conv2d(x, weight, padding=1)


def _with_border(x: Tensor, height: int, width: int) -> Tensor:
    """(N, H, W, C) -> (N, height, width, C), zero around x from (1, 1) on.

    ``F.pad`` would write zeros everywhere first.
    """
    count, rows, columns, channels = x.shape
    padded = x.new_empty(count, height, width, channels)
    padded[:, 1 : rows + 1, 1 : columns + 1] = x
    for border in (
        padded[:, :1],
        padded[:, rows + 1 :],
        padded[:, 1 : rows + 1, :1],
        padded[:, 1 : rows + 1, columns + 1 :],
    ):
        border.zero_()
    return padded
