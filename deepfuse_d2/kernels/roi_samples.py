"""Where RoIAlign (arXiv 1703.06870) samples, one axis at a time.

RoIAlign averages bilinear samples over a grid in each bin. Bilinear weights, the grid and what lies
outside of the map are all products of a factor of y and one of x. So a pooled map is
``A_y @ map @ A_x^T`` with small matrices that depend on the boxes alone, whatever the channels.
"""

import torch
from torch import Tensor

__all__ = ["axis_matrices", "axis_weights"]


def axis_weights(
    start: Tensor, end: Tensor, bins: int, length: int, *, sampling_ratio: int = 0
) -> tuple[Tensor, Tensor]:
    """What each position of an axis contributes to each bin.

    Positions, grids and borders are those of torchvision's ``roi_align``, computed in the same
    order in the same type, so that no sample falls on another side of a position.

    Args:
        start, end: (K,) edges of the boxes in positions of the map, less 0.5 where aligned.
        bins: along the axis.
        length: positions of the axis.
        sampling_ratio: samples a bin; 0 takes as many as there are positions in a bin.

    Returns:
        (K, bins) integers, the first position of each bin; and (K, bins, F) weights of that
        position and those after it. Positions that the map does not have get weight 0.
    """
    size = end - start
    step = size / bins
    if sampling_ratio > 0:
        count = torch.full_like(start, sampling_ratio)
    else:
        count = torch.ceil(step).clamp(min=0)
    most = max(int(count.max()) if len(count) else 0, 1)
    bin_index = torch.arange(bins, dtype=start.dtype, device=start.device)
    sample_index = torch.arange(most, dtype=start.dtype, device=start.device)
    within = (sample_index + 0.5) * step[:, None] / count.clamp(min=1)[:, None]
    at = (start[:, None] + bin_index * step[:, None])[:, :, None] + within[:, None]

    taken = (sample_index < count[:, None])[:, None] & (at >= -1) & (at <= length)
    at = at.clamp(min=0)
    low = at.floor().clamp(max=length - 1)
    to_high = torch.where(low >= length - 1, torch.zeros_like(at), at - low)
    share = taken / count.clamp(min=1)[:, None, None]
    low = low.long()
    # of the samples of a bin, the first is the lowest; those not taken do not widen the window
    first = low[:, :, 0]
    offset = torch.where(taken, low - first[:, :, None], torch.zeros_like(low))
    width = int(offset.max()) + 2 if offset.numel() else 2
    weights = start.new_zeros(len(start), bins, width)
    weights.scatter_add_(2, offset, share * (1 - to_high))
    weights.scatter_add_(2, offset + 1, share * to_high)
    return first, weights


def axis_matrices(first: Tensor, weights: Tensor, begin: int, length: int) -> Tensor:
    """(K, bins, length) matrices of :func:`axis_weights` for `length` positions from `begin` on."""
    columns = first[:, :, None] + torch.arange(weights.shape[2], device=first.device) - begin
    inside = (columns >= 0) & (columns < length)
    matrices = weights.new_zeros(*first.shape, length)
    return matrices.scatter_add_(2, columns.clamp(0, length - 1), weights * inside)
