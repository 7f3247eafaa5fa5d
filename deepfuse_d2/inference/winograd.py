"""3x3 convolutions with fewer multiplications, in float32 on a CPU (arXiv 1509.09308).

F(m x m, 3 x 3) computes m x m outputs by (m + 2)^2 multiplications a channel in place of 9 m^2:

    Y = A^T [(G g G^T) * (B^T d B)] A

for a filter g and (m + 2) x (m + 2) inputs d; between the transforms stands, summed over channels,
one matrix product for each of the (m + 2)^2 places. The matrices follow from m + 1 points of a
polynomial and infinity. Precision follows from the points: for 256 channels the largest error of
F(4 x 4) is 2e-5 standard deviations of the result with 0, 1, -1, 1/2, -2, and 7e-5 with the
customary 0, 1, -1, 2, -2; of oneDNN's direct sum, 1e-5.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["POINTS", "WinogradConv2d", "transforms"]

# m -> the points, infinity apart
POINTS: dict[int, tuple[float, ...]] = {
    2: (0, 1, -1),
    4: (0, 1, -1, 1 / 2, -2),
    5: (0, 1, -1, 1 / 2, -2, 2),
}

# Tiles in work at once: their transformed inputs, 36 x 256 channels, take 5 MB.
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
    """A 3x3 convolution of stride 1 and padding 1 with an optional ReLU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, relu: bool, m: int = 4):
        """
        Args:
            weight: (K, C, 3, 3) filters.
            bias: (K,)
            relu: applied to the result.
            m: side of the outputs computed at once, a key of :data:`POINTS`.
        """
        super().__init__()
        self.m, self.relu, self.out_channels = m, relu, len(weight)
        a, g, b = (torch.from_numpy(x) for x in transforms(m))
        filters = torch.einsum("xi,yj,kcij->xyck", g, g, weight.detach().double())
        filters = filters.flatten(0, 1).to(weight.dtype).contiguous()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("to_input", torch.kron(b, b).to(weight.dtype), persistent=False)
        self.register_buffer("to_output", torch.kron(a, a).to(weight.dtype), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        # what is added at the place of the point (1, 1) is added to every output
        self.everywhere = POINTS[m].index(1) * (m + 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels innermost."""
        count, channels, height, width = x.shape
        m, side = self.m, self.m + 2
        rows, columns = -(-height // m), -(-width // m)
        padded = F.pad(
            x.permute(0, 2, 3, 1),
            (0, 0, 1, columns * m + 1 - width, 1, rows * m + 1 - height),
        )
        image, row, column, _ = padded.stride()
        # (side, side, image, row of tiles, column of tiles, channel)
        inputs = padded.as_strided(
            (side, side, count, rows, columns, channels),
            (row, column, image, m * row, m * column, 1),
        )
        whole = x.new_empty(count, rows * m, columns * m, self.out_channels)
        outputs = whole.view(count, rows, m, columns, m, self.out_channels).permute(
            2, 4, 0, 1, 3, 5
        )
        if count > 1:
            dim, step = 2, max(1, _TILES // (rows * columns))
        else:
            dim, step = 3, max(1, _TILES // columns)
        for first in range(0, inputs.shape[dim], step):
            size = min(step, inputs.shape[dim] - first)
            self._tiles(inputs.narrow(dim, first, size), outputs.narrow(dim, first, size))
        return whole[:, :height, :width].permute(0, 3, 1, 2)

    def _tiles(self, inputs: Tensor, outputs: Tensor) -> None:
        places, channels = (self.m + 2) ** 2, inputs.shape[-1]
        changed = self.to_input.mm(inputs.reshape(places, -1)).view(places, -1, channels)
        products = torch.bmm(changed, self.filters)
        if self.bias is not None:
            products[self.everywhere] += self.bias
        result = self.to_output.mm(products.view(places, -1)).view(outputs.shape)
        if self.relu:
            torch.clamp_min(result, 0, out=outputs)
        else:
            outputs.copy_(result)
