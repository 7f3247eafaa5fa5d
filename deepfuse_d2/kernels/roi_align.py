"""RoIAlign (arXiv 1703.06870) on a CPU, as sums of whole rows of channels.

torchvision's kernel for CPUs, which :class:`RowROIAlign` falls back on, walks through the channels
outside and through the samples inside, in one thread, and works out every sample again for each
channel in backward. Here the samples of a bin that lie on one position are added up first
(roi_samples.py); a bin then is a weighted sum of positions, each a row of all its channels, which
is what ``embedding_bag`` does forward and backward with vectors and threads.
"""

import torch
from detectron2.layers import ROIAlign
from torch import Tensor
from torch.nn import functional as F

from .roi_samples import axis_weights

__all__ = ["RowROIAlign", "roi_align"]

# Positions summed at once; what describes them takes 150 MB.
_MOST = 2_000_000


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """torchvision's ``roi_align``, to the rounding of sums in another order.

    Args:
        features: (N, C, H, W); fastest with channels innermost, which no copy is made of.
        rois: (K, 5), number of the image and XYXY in its pixels.
        output_size: bins, (height, width).
        spatial_scale: positions a pixel.
        sampling_ratio: samples a bin and axis; 0 takes as many as there are positions in a bin.
        aligned: shift by half a position, as detectron2's ROIAlignV2.

    Returns:
        (K, C, *output_size), with channels innermost.
    """
    _, channels, height, width = features.shape
    bins_y, bins_x = output_size
    if not len(rois):
        # still part of the graph: every parameter gets a gradient, if of zeros
        nothing = features[:, :, :0, :0].sum()
        return nothing + features.new_zeros(0, channels, bins_y, bins_x)
    with torch.no_grad():
        x0, y0, x1, y1 = (rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)).unbind(1)
        if not aligned:
            # as before that version: no box is smaller than a position
            x1, y1 = x0 + (x1 - x0).clamp(min=1), y0 + (y1 - y0).clamp(min=1)
        rows = axis_weights(y0, y1, bins_y, height, sampling_ratio=sampling_ratio)
        columns = axis_weights(x0, x1, bins_x, width, sampling_ratio=sampling_ratio)
        first = rois[:, 0].long() * (height * width)
        # boxes one after the other, as many at once as there is memory for
        ends = (_used(rows[1]).sum(1) * _used(columns[1]).sum(1)).cumsum(0)
        sizes = torch.bincount((ends - 1).clamp(min=0) // _MOST)
        parts = torch.arange(len(rois)).split(sizes[sizes > 0].tolist())
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = []
    for part in parts:
        chosen = slice(int(part[0]), int(part[-1]) + 1)
        with torch.no_grad():
            index, weights, offsets = _sums(
                first[chosen],
                (rows[0][chosen], rows[1][chosen]),
                (columns[0][chosen], columns[1][chosen]),
                width,
            )
        pooled.append(
            F.embedding_bag(
                index, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype)
            )
        )
    bins = pooled[0] if len(pooled) == 1 else torch.cat(pooled)
    return bins.view(len(rois), bins_y, bins_x, channels).permute(0, 3, 1, 2)


def _sums(
    first: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each bin as a sum over positions: their numbers, their weights, and where each bin begins.

    Args:
        first: (K,) number of the first position of the box's image.
        rows, columns: what :func:`axis_weights` returns.
        width: positions a row.
    """
    (top, of_row), (left, of_column) = rows, columns
    high, wide = _used(of_row), _used(of_column)
    begin = first[:, None, None] + top[:, :, None] * width + left[:, None, :]
    row_of_bin = torch.arange(top.numel()).view(*top.shape, 1).expand_as(begin).reshape(-1)
    column_of_bin = torch.arange(left.numel()).view(len(left), 1, -1).expand_as(begin).reshape(-1)
    count = (high[:, :, None] * wide[:, None, :]).reshape(-1)
    offsets = count.cumsum(0) - count
    # from here on one entry a position
    bin_of = torch.repeat_interleave(count)
    within = torch.arange(len(bin_of)) - offsets[bin_of]
    across = wide.reshape(-1)[column_of_bin][bin_of]
    y = within // across
    x = within - y * across
    index = begin.reshape(-1)[bin_of] + y * width + x
    weights = of_row.reshape(-1)[row_of_bin[bin_of] * of_row.shape[2] + y]
    weights = weights * of_column.reshape(-1)[column_of_bin[bin_of] * of_column.shape[2] + x]
    return index, weights, offsets


def _used(weights: Tensor) -> Tensor:
    """(K, bins): positions of each bin up to the last that counts."""
    places = torch.arange(1, weights.shape[2] + 1)
    return ((weights != 0) * places).amax(2)


class RowROIAlign(ROIAlign):
    """detectron2's ``ROIAlign``, by :func:`roi_align` on a CPU, and itself anywhere else.

    A module of that class becomes one of this by its ``__class__``: it has no state of its own.
    """

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """(N, C, H, W) and (K, 5) -> (K, C, *output_size)."""
        # how many positions there are depends on the boxes: nothing for a graph that is recorded
        is_recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if features.device.type != "cpu" or is_recorded:
            return super().forward(features, rois)
        size = self.output_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        dtype = features.dtype
        if features.requires_grad:
            # what autocast has made smaller is pooled in float32, as by torchvision; to predict, a
            # map in a lower precision is read as it is
            features = features.float() if dtype.itemsize < 4 else features
        return roi_align(
            features,
            rois.to(torch.promote_types(features.dtype, torch.float32)),
            size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        ).to(dtype)
