"""detectron2's RPN for inference: chooses the best anchors before it decodes boxes.

What it gives is what detectron2's gives. Of some 130,000 anchors of a 512 x 1024 image, at most
5,000 pass the first choice; detectron2 decodes, and on the way copies, the boxes of all.
"""

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ...kernels.packed_conv import InferenceConv2d

__all__ = ["InferenceRPN", "MergedRPNHead"]

# Grids of anchors that are kept: 13 MB for five levels of a 2048 x 1024 image.
_GRIDS = 8


class InferenceRPN(nn.Module):
    """An RPN in evaluation; the modules in it are those of the RPN it is made from."""

    def __init__(self, rpn: RPN):
        super().__init__()
        self.in_features = rpn.in_features
        self.rpn_head = rpn.rpn_head
        self.anchor_generator = rpn.anchor_generator
        self.box2box_transform = rpn.box2box_transform
        self.pre_nms_topk = rpn.pre_nms_topk[False]
        self.post_nms_topk = rpn.post_nms_topk[False]
        self.nms_thresh = rpn.nms_thresh
        self.min_box_size = rpn.min_box_size
        self._grids: dict[tuple, list[Tensor]] = {}

    @staticmethod
    def fits(module: nn.Module | None) -> bool:
        """Whether the proposal generator is detectron2's RPN of upright boxes, unchanged."""
        return (
            type(module) is RPN
            and type(module.anchor_generator) is DefaultAnchorGenerator
            and isinstance(module.box2box_transform, Box2BoxTransform)
        )

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: None = None
    ) -> tuple[list[Instances], dict]:
        """Proposals of each image, best first, and no losses, as detectron2's RPN."""
        maps = [features[name] for name in self.in_features]
        anchors = self._anchors(maps)
        scores, boxes, levels = [], [], []
        for level, (logits, deltas) in enumerate(zip(*self.rpn_head(maps), strict=True)):
            best, chosen = self._choose(logits.float())
            scores.append(best)
            boxes.append(self._decode(anchors[level], deltas, chosen))
            levels.append(torch.full_like(chosen[0], level))
        scores, boxes, levels = torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(levels)
        proposals = [
            self._suppress(*one, levels, size)
            for *one, size in zip(boxes, scores, images.image_sizes, strict=True)
        ]
        return proposals, {}

    def _anchors(self, maps: list[Tensor]) -> list[Tensor]:
        key = tuple((tuple(m.shape[-2:]), m.device) for m in maps)
        grid = self._grids.get(key)
        if grid is None:
            grid = [boxes.tensor for boxes in self.anchor_generator(maps)]
            # a new dict, so that another thread never sees one that is being changed
            kept = list(self._grids.items())[1 - _GRIDS :]
            self._grids = {**dict(kept), key: grid}
        return grid

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A, H, W) -> scores and indices (N, k) of the best anchors, best first."""
        flat = logits.permute(0, 2, 3, 1).flatten(1)
        return flat.topk(min(flat.shape[1], self.pre_nms_topk), dim=1)

    def _decode(self, anchors: Tensor, deltas: Tensor, chosen: Tensor) -> Tensor:
        """(HWA, 4) anchors, (N, 4A, H, W) deltas, (N, k) indices -> (N, k, 4) boxes."""
        count = chosen.shape[0]
        flat = deltas.permute(0, 2, 3, 1).reshape(count, -1, 4)
        flat = flat.gather(1, chosen[..., None].expand(-1, -1, 4))
        boxes = self.box2box_transform.apply_deltas(
            flat.reshape(-1, 4), anchors[chosen].reshape(-1, 4)
        )
        return boxes.view(count, -1, 4)

    def _suppress(
        self, tensor: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]
    ) -> Instances:
        finite = torch.isfinite(tensor).all(dim=1) & torch.isfinite(scores)
        boxes = Boxes(tensor)
        boxes.clip(size)
        valid = finite & boxes.nonempty(threshold=self.min_box_size)
        tensor, scores, levels = boxes.tensor[valid], scores[valid], levels[valid]
        keep = batched_nms(tensor, scores, levels, self.nms_thresh)[: self.post_nms_topk]
        result = Instances(size)
        result.proposal_boxes = Boxes(tensor[keep])
        result.objectness_logits = scores[keep]
        return result


class MergedRPNHead(nn.Module):
    """detectron2's ``StandardRPNHead`` with one 1x1 convolution for scores and boxes."""

    def __init__(self, head: StandardRPNHead, *, pack: bool):
        super().__init__()
        self.conv = head.conv
        self.anchors = head.objectness_logits.out_channels
        parts = (head.objectness_logits, head.anchor_deltas)
        merged = nn.Conv2d(parts[0].in_channels, 5 * self.anchors, kernel_size=1)
        merged.weight = nn.Parameter(torch.cat([p.weight for p in parts]), requires_grad=False)
        merged.bias = nn.Parameter(torch.cat([p.bias for p in parts]), requires_grad=False)
        self.predictor = InferenceConv2d(merged, dtype=torch.float32, pack=pack)

    @staticmethod
    def fits(head: nn.Module) -> bool:
        return (
            type(head) is StandardRPNHead
            and head.anchor_deltas.out_channels == 4 * head.objectness_logits.out_channels
            and head.objectness_logits.bias is not None
            and head.anchor_deltas.bias is not None
        )

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (N, C, H, W) -> scores (N, A, H, W) and deltas (N, 4A, H, W) of each."""
        if isinstance(self.conv, InferenceConv2d):
            both = [self.conv.followed_by(x, self.predictor) for x in features]
        else:
            both = [self.predictor(self.conv(x)) for x in features]
        return [x[:, : self.anchors] for x in both], [x[:, self.anchors :] for x in both]
