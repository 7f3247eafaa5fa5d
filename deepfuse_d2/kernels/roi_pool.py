"""RoIAlign on a CPU as weighted sums of rows of a table of features (arXiv 1703.06870).

A bin of RoIAlign is the mean of g_y x g_x bilinear samples. Samples on a grid are separable: along
each axis the bin has a weight for each cell it touches, and the weight of a cell is the product.
With channels innermost, a cell is a row of a table (cells, C), and a bin is a weighted sum of rows,
which is what ``F.embedding_bag`` computes with vector instructions. torchvision's operator goes
through the map once for each channel, and visits a cell once for each sample instead of once.
"""

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn

__all__ = ["TableROIPooler"]

# Indices and weights made at once: 24 MB.
_MAX_ENTRIES = 2_000_000


class TableROIPooler(nn.Module):
    """detectron2's ``ROIPooler`` with adaptive sampling, each level a table.

    Gives the type of the features, with channels innermost. Boxes are float32 for any type; in a
    lower precision, features and weights of a sum are rounded, and sums are not.
    """

    def __init__(self, pooler: ROIPooler):
        super().__init__()
        self.output_size = pooler.output_size
        self.scales = [level.spatial_scale for level in pooler.level_poolers]
        self.aligned = pooler.level_poolers[0].aligned
        self.levels = (pooler.min_level, pooler.max_level)
        self.canonical = (pooler.canonical_box_size, pooler.canonical_level)

    @staticmethod
    def fits(pooler: nn.Module) -> bool:
        """Whether it pools upright boxes by RoIAlign, the number of samples by their size."""
        return type(pooler) is ROIPooler and all(
            type(level) is ROIAlign and level.sampling_ratio == 0 for level in pooler.level_poolers
        )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Maps (N, C, H, W) and the boxes of N images -> (M, C, h, w), boxes in order."""
        boxes = torch.cat([b.tensor for b in box_lists]).float()
        counts = torch.tensor([len(b) for b in box_lists])
        image = torch.repeat_interleave(torch.arange(len(box_lists)), counts)
        if len(self.scales) == 1:
            level = torch.zeros_like(image)
        else:
            level = assign_boxes_to_levels(box_lists, *self.levels, *self.canonical)
        output = x[0].new_empty(len(boxes), *self.output_size, x[0].shape[1])
        for number, (features, scale) in enumerate(zip(x, self.scales, strict=True)):
            chosen = (level == number).nonzero()[:, 0]
            if len(chosen):
                self._pool(features, boxes[chosen] * scale, image[chosen], chosen, output)
        return output.permute(0, 3, 1, 2)

    def _pool(
        self, features: Tensor, corners: Tensor, image: Tensor, places: Tensor, output: Tensor
    ) -> None:
        """Boxes of one level into ``output[places]``.

        Args:
            features: (N, C, H, W)
            corners: (m, 4) in cells.
            image: (m,) that each box is in.
            places: (m,)
            output: (M, h, w, C)
        """
        channels, height, width = features.shape[1:]
        # no copy where channels are innermost
        table = features.permute(0, 2, 3, 1).reshape(-1, channels)
        base = image * (height * width)
        corners = corners - (0.5 if self.aligned else 0.0)
        extent = corners[:, 2:] - corners[:, :2]
        if not self.aligned:
            extent = extent.clamp(min=1.0)
        bins = extent / torch.tensor(self.output_size[::-1])
        grid = bins.ceil().long().clamp(min=0)
        rows, columns = self.output_size
        for grid_x, grid_y in grid.unique(dim=0).tolist():
            alike = ((grid[:, 0] == grid_x) & (grid[:, 1] == grid_y)).nonzero()[:, 0]
            if min(grid_x, grid_y) == 0:
                output[places[alike]] = 0  # empty boxes: no samples
                continue
            entries = rows * columns * (grid_x + 1) * (grid_y + 1)
            for chosen in alike.split(max(1, _MAX_ENTRIES // entries)):
                left, top = corners[chosen, 0], corners[chosen, 1]
                y, weight_y = _cells(top, bins[chosen, 1], grid_y, rows, height)
                x, weight_x = _cells(left, bins[chosen, 0], grid_x, columns, width)
                # (m, rows, columns, cells along y, cells along x)
                index = (y * width)[:, :, None, :, None]
                index = index + (x + base[chosen, None, None])[:, None, :, None, :]
                weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
                bags = F.embedding_bag(
                    index.flatten(3).flatten(0, 2),
                    table,
                    mode="sum",
                    per_sample_weights=weight.flatten(3).flatten(0, 2).to(table.dtype),
                )
                output[places[chosen]] = bags.view(len(chosen), rows, columns, channels)


def _cells(start: Tensor, size: Tensor, grid: int, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """Cells that the bins touch along one axis, and their weights.

    Args:
        start: (m,) first coordinate of each box, in cells.
        size: (m,) of a bin, at most `grid` cells.
        grid: samples in a bin.
        bins: in a box.
        length: cells of the map.

    Returns:
        (m, bins, grid + 1) indices, int64, and weights.
    """
    first = start[:, None] + torch.arange(bins) * size[:, None]
    offset = (torch.arange(grid) + 0.5) * size[:, None] / grid
    at = first[:, :, None] + offset[:, None, :]
    # as torchvision: nothing beyond a cell outside, and the border goes on within it
    outside = (at < -1.0) | (at > length)
    at = at.clamp(min=0)
    low = at.long().clamp(max=length - 1)
    at = torch.where(low == length - 1, low.to(at.dtype), at)
    high = (low + 1).clamp(max=length - 1)
    share = at - low
    none = torch.zeros((), dtype=at.dtype)
    to_low = torch.where(outside, none, (1 - share) / grid)
    to_high = torch.where(outside, none, share / grid)

    # samples are at most a cell apart, so that those of a bin touch at most grid + 1 cells
    origin = low[:, :, :1]
    weights = at.new_zeros(*low.shape[:2], grid + 1)
    weights.scatter_add_(2, low - origin, to_low)
    weights.scatter_add_(2, (high - origin).clamp(max=grid), to_high)
    cells = (origin + torch.arange(grid + 1)).clamp(max=length - 1)
    return cells, weights
