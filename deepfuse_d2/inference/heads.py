"""The box head of Mask R-CNN for features with channels innermost."""

import torch
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from torch import Tensor, nn

__all__ = ["FlattenChannelsLast", "flatten_channels_last"]


class FlattenChannelsLast(nn.Module):
    """(N, C, H, W) -> (N, H W C), which is no work if channels are innermost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def flatten_channels_last(model: nn.Module) -> int:
    """Let detectron2's box heads read pooled features in that order; returns how many do."""
    count = 0
    for heads in list(model.modules()):
        pooler, box_head = getattr(heads, "box_pooler", None), getattr(heads, "box_head", None)
        if pooler is None or box_head is None:
            continue
        height, width = pooler.output_size
        # of a cascade, a head for each stage
        for head in box_head if isinstance(box_head, nn.ModuleList) else [box_head]:
            if type(head) is not FastRCNNConvFCHead or not isinstance(
                getattr(head, "flatten", None), nn.Flatten
            ):
                continue
            weight = head.fc1.weight.unflatten(1, (-1, height, width))
            weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
            head.fc1.weight = nn.Parameter(weight, requires_grad=False)
            head.flatten = FlattenChannelsLast()
            count += 1
    return count
