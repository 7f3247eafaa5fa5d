"""Alignment of a source with the target before they are merged: a map is sampled where it belongs.

What a coarse map has found lies, after it was enlarged, beside the edges that the fine map sees.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

__all__ = ["ALIGNMENTS", "FlowAlignment"]


class FlowAlignment(nn.Module):
    """Warps a source by a flow that is learned from target and source.

    The flow alignment module of SFNet (arXiv 2002.10120, section 3.2); FaPN (arXiv 2108.07058) does
    the same by deformable convolutions, which are not exported everywhere:

        flow = conv3x3(concat(conv1x1(x_t), conv1x1'(z)))       2 channels, in pixels of the target
        y(p) = z(p + flow(p))                                   bilinear; beyond the border the edge

    with z the source at the size of the target. Both convolutions to one width have half of the
    channels.

    Args:
        channels: of target and source.
        start_as_given: begin with y = z: then the result is ``z + scale * (y - z)``, with a scale
            for each channel that starts at 0, not at 1, where it is y itself.
    """

    def __init__(self, channels: int, start_as_given: bool = True):
        super().__init__()
        half = max(channels // 2, 1)
        self.target = Conv2d(channels, half, kernel_size=1, bias=False)
        self.source = Conv2d(channels, half, kernel_size=1, bias=False)
        self.flow = Conv2d(2 * half, 2, kernel_size=3, padding=1, bias=False)
        nn.init.normal_(self.flow.weight, std=0.01)
        start = 0.0 if start_as_given else 1.0
        self.scale = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Two maps (N, C, H, W) -> the source, warped, (N, C, H, W)."""
        both = torch.cat([self.target(target), self.source(source)], dim=1)
        return source + self.scale.to(source.dtype) * (warp(source, self.flow(both)) - source)


def warp(x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) sampled at p + flow(p); `flow` (N, 2, H, W) is (x, y) in pixels."""
    height, width = x.shape[2], x.shape[3]
    # positions in float32: bfloat16 counts no further than 256
    rows = torch.arange(height, device=x.device, dtype=torch.float32)
    columns = torch.arange(width, device=x.device, dtype=torch.float32)
    flow = flow.to(rows.dtype if x.dtype != torch.float64 else x.dtype)
    across = columns[None, None, :] + flow[:, 0]
    down = rows[None, :, None] + flow[:, 1]
    # grid_sample counts from -1 to 1 between the outer edges of the pixels
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)
    sampled = F.grid_sample(
        x.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.to(x.dtype)


# Alignment name (MODEL.DEEPFUSE.ALIGNMENT) -> builder(channels, start_as_given); "" does without.
ALIGNMENTS: dict[str, Callable[[int, bool], nn.Module] | None] = {
    "": None,
    "flow": FlowAlignment,
}
