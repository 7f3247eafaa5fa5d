"""detectron2's pooling of regions from a pyramid for inference: one copy in place of four."""

import torch
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes
from torch import Tensor, nn

from ...kernels.roi_align import RowROIAlign
from .heads import InferenceMaskHead

__all__ = ["InferencePooler", "pool_for_inference"]

# What casts by itself, and computes whatever type and layout it is given; a subclass of somebody
# else's may not.
_HEADS = (FastRCNNConvFCHead, MaskRCNNConvUpsampleHead, InferenceMaskHead)


class InferencePooler(ROIPooler):
    """A pooler that writes each region once: in its place, in the type of the head, channels last.

    detectron2's fills all regions with zeros, writes each level's into them with channels
    outermost, and leaves it to the head to turn and cast them. Maps in a lower precision are summed
    as they are, boxes stay in float32: half of what is read, and the result is rounded anyway.
    """

    #: of the result
    dtype = torch.float32

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Maps (N, C, H, W), a level each, and boxes an image -> (K, C, *output_size)."""
        is_recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if is_recorded or len(self.level_poolers) == 1 or not box_lists:
            return super().forward([features.float() for features in x], box_lists)
        boxes = convert_boxes_to_pooler_format(box_lists)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        shape = len(boxes), *self.output_size, x[0].shape[1]
        pooled = torch.empty(shape, dtype=self.dtype, device=x[0].device)
        for level, (features, pooler) in enumerate(zip(x, self.level_poolers, strict=True)):
            chosen = (levels == level).nonzero()[:, 0]
            found = pooler(features, boxes[chosen]).permute(0, 2, 3, 1)
            pooled[chosen] = found.to(self.dtype)
        return pooled.permute(0, 3, 1, 2)


def pool_for_inference(model: nn.Module, dtype: torch.dtype) -> int:
    """Put :class:`InferencePooler` before detectron2's heads, in place; returns how many.

    Args:
        dtype: of the layers of the heads, which cast to it what they get.
    """
    count = 0
    for owner in list(model.modules()):
        for kind in ("box", "mask"):
            pooler = getattr(owner, f"{kind}_pooler", None)
            head = getattr(owner, f"{kind}_head", None)
            stages = list(head) if isinstance(head, nn.ModuleList) else [head]
            if type(pooler) is not ROIPooler or not all(type(x) in _HEADS for x in stages):
                continue
            if not all(type(level) is RowROIAlign for level in pooler.level_poolers):
                continue
            pooler.__class__, pooler.dtype = InferencePooler, dtype
            count += 1
    return count
