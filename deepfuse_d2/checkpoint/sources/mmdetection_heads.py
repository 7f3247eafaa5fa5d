"""mmdetection's FPN, RPN, box and mask heads under detectron2's names; alone or in a cascade."""

import re

import torch
from torch import Tensor

__all__ = ["background_last", "rename_head"]

_HEADS = (
    (r"^neck\.lateral_convs\.(\d)\.conv\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
    (r"^rpn_head\.rpn_conv\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn_head\.rpn_cls\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn_head\.rpn_reg\.", "proposal_generator.rpn_head.anchor_deltas."),
    (
        r"^(?:roi_head\.)?bbox_head\.(\d\.)?shared_fcs\.(\d)\.",
        lambda m: f"roi_heads.box_head.{m[1] or ''}fc{int(m[2]) + 1}.",
    ),
    (
        r"^(?:roi_head\.)?bbox_head\.(\d\.)?shared_convs\.(\d)\.(conv|bn)\.",
        lambda m: (
            f"roi_heads.box_head.{m[1] or ''}conv{int(m[2]) + 1}"
            + (".norm." if m[3] == "bn" else ".")
        ),
    ),
    (
        r"^(?:roi_head\.)?bbox_head\.(\d\.)?fc_cls\.",
        lambda m: f"roi_heads.box_predictor.{m[1] or ''}cls_score.",
    ),
    (
        r"^(?:roi_head\.)?bbox_head\.(\d\.)?fc_reg\.",
        lambda m: f"roi_heads.box_predictor.{m[1] or ''}bbox_pred.",
    ),
    (
        r"^(?:roi_head\.)?mask_head\.convs\.(\d)\.conv\.",
        lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.",
    ),
    (r"^(?:roi_head\.)?mask_head\.upsample\.", "roi_heads.mask_head.deconv."),
    (r"^(?:roi_head\.)?mask_head\.conv_logits\.", "roi_heads.mask_head.predictor."),
)


def rename_head(name: str) -> str:
    """detectron2's name of a tensor of a neck or head; `name` itself where it is none of these."""
    for pattern, replacement in _HEADS:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


def background_last(name: str, value: Tensor) -> Tensor:
    """A tensor of mmdetection 1, whose first class is the background, in detectron2's order.

    Boxes and masks of the background, which detectron2 has not, are left out.
    """
    if ".fc_cls." in name:
        return torch.cat([value[1:], value[:1]])
    if (".fc_reg." in name and len(value) > 4) or (".conv_logits." in name and len(value) > 1):
        return value[4:] if ".fc_reg." in name else value[1:]
    return value
