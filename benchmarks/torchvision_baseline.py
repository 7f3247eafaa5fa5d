"""torchvision's Mask R-CNN with the weights of a detectron2 model: the same network, for timing."""

import re

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

__all__ = ["TorchvisionPredictor"]

# name in detectron2 -> name in torchvision
_NAMES = [
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", r"backbone.body.bn1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", r"backbone.body.conv1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.", r"layer\1.\2.downsample.1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.", r"layer\1.\2.downsample.0."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"layer\1.\2.bn\3."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.", r"layer\1.\2.conv\3."),
    (r"backbone\.fpn_lateral(\d)\.", r"inner_blocks.\1.0."),
    (r"backbone\.fpn_output(\d)\.", r"layer_blocks.\1.0."),
    (r"proposal_generator\.rpn_head\.conv\.", r"rpn.head.conv.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", r"rpn.head.cls_logits."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", r"rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc1\.", r"roi_heads.box_head.fc6."),
    (r"roi_heads\.box_head\.fc2\.", r"roi_heads.box_head.fc7."),
    (r"roi_heads\.box_predictor\.", r"roi_heads.box_predictor."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", r"mask_fcn.\1.0."),
    (r"roi_heads\.mask_head\.deconv\.", r"roi_heads.mask_predictor.conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", r"roi_heads.mask_predictor.mask_fcn_logits."),
]
# what counts from another number there
_SHIFTED = [
    (r"^layer(\d)\.", 1, "backbone.body.layer{}."),
    (r"^inner_blocks\.(\d)\.", 2, "backbone.fpn.inner_blocks.{}."),
    (r"^layer_blocks\.(\d)\.", 2, "backbone.fpn.layer_blocks.{}."),
    (r"^mask_fcn\.(\d)\.", 1, "roi_heads.mask_head.{}."),
]


class TorchvisionPredictor:
    """``maskrcnn_resnet50_fpn`` as torchvision builds it for its trained weights: frozen norms.

    What differs from detectron2: anchors are rounded to pixels, RoIAlign takes 2 x 2 samples of a
    bin and has no offset of half a pixel, masks are returned as float32 probabilities.

    Args:
        model: Mask R-CNN R-50-FPN of detectron2, strides in the 3x3 convolutions.
        cfg: it was built from.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode):
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        heads = cfg.MODEL.ROI_HEADS
        self.model = MaskRCNN(
            resnet_fpn_backbone(backbone_name="resnet50", weights=None),
            num_classes=heads.NUM_CLASSES + 1,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_mean=[value / 255 for value in cfg.MODEL.PIXEL_MEAN],
            image_std=[value / 255 for value in cfg.MODEL.PIXEL_STD],
            rpn_pre_nms_top_n_test=cfg.MODEL.RPN.PRE_NMS_TOPK_TEST,
            rpn_post_nms_top_n_test=cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
            box_score_thresh=heads.SCORE_THRESH_TEST,
            box_nms_thresh=heads.NMS_THRESH_TEST,
            box_detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        )
        self.model.load_state_dict(_rename(model.state_dict()))
        self.model.eval().to(cfg.MODEL.DEVICE)
        self.device = cfg.MODEL.DEVICE

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> dict[str, Tensor]:
        """(H, W, 3) uint8 -> boxes, labels, scores, masks; channels as the weights expect them."""
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(self.device).float() / 255
        return self.model([pixels])[0]


def _rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("proposal_generator.anchor_generator") or name.startswith("pixel_"):
            continue
        for pattern, replacement in _NAMES:
            new, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                break
        else:
            raise KeyError(f"{name} has no place in torchvision's Mask R-CNN")
        for pattern, offset, form in _SHIFTED:
            new = re.sub(pattern, lambda m, o=offset, f=form: f.format(int(m[1]) - o), new)
        renamed[new] = _background_first(new, tensor)
    return renamed


def _background_first(name: str, tensor: Tensor) -> Tensor:
    """torchvision's first class is the background; it also has a box and a mask."""
    if ".box_predictor.cls_score." in name:
        return torch.cat([tensor[-1:], tensor[:-1]])
    if ".box_predictor.bbox_pred." in name:
        return torch.cat([torch.zeros_like(tensor[:4]), tensor])
    if ".mask_predictor.mask_fcn_logits." in name:
        return torch.cat([torch.zeros_like(tensor[:1]), tensor])
    return tensor
