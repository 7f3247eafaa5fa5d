"""Augmentations of instances that look at pixels or at other images, behind any mapper of them.

Colours by torchvision's functions; rotation with masks by the same angle; copy-paste as in "Simple
Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (arXiv 2012.07177): some
objects of another image are laid over this one, whose masks lose what is covered. Here they keep
their place, and edges are not blended, which the paper found to make no difference.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ...errors import ConfigError

__all__ = ["AugmentedInstances", "build_instance_augmentation"]

# An instance of which less than this share is left, covered or turned out of the image, goes.
_LEFT = 0.25
# As often is another image drawn for one without an instance.
_ATTEMPTS = 5


class AugmentedInstances:
    """`mapper` with more augmentation of what it gives; draws from NumPy's generator.

    Args:
        mapper: record -> sample with "image" (3, H, W) of bytes and "instances" with bitmaps.
        color_jitter: brightness, contrast and saturation change by factors in 1 +- this number.
        rotation: degrees, to both sides.
        copy_paste: probability that objects of another image are laid over one.
    """

    def __init__(
        self,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        color_jitter: float = 0.0,
        rotation: float = 0.0,
        copy_paste: float = 0.0,
    ):
        self.mapper = mapper
        self.color_jitter, self.rotation, self.copy_paste = color_jitter, rotation, copy_paste
        self.records: Sequence[dict[str, Any]] = ()

    def use_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Take the other images of copy-paste from `records`; the loader says which they are."""
        self.records = records

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        random = np.random  # seeded by the loader, as for all augmentations
        sample = self._turned(self.mapper(record))
        if len(self.records) and random.random() < self.copy_paste:
            for _ in range(_ATTEMPTS):
                other = self.records[int(random.randint(len(self.records)))]
                other = self._turned(self.mapper(other))
                if len(other["instances"]):
                    sample = _pasted(sample, other)
                    break
        if self.color_jitter:
            image = sample["image"]
            for change in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
                image = change(image, 1 + float(random.uniform(-1, 1)) * self.color_jitter)
            sample = {**sample, "image": image}
        return sample

    def _turned(self, sample: dict[str, Any]) -> dict[str, Any]:
        if not self.rotation:
            return sample
        angle = float(np.random.uniform(-1, 1)) * self.rotation  # noqa: NPY002
        image = F.rotate(sample["image"], angle, F.InterpolationMode.BILINEAR)
        masks = _masks(sample["instances"])
        turned = F.rotate(masks.byte(), angle).bool() if len(masks) else masks
        return {**sample, "image": image, "instances": _with_masks(sample["instances"], turned)}


def _pasted(sample: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`sample` under some objects of `other`, where both images overlap from their top left."""
    height, width = sample["image"].shape[1:]
    found = other["instances"]
    chosen = np.random.random(len(found)) < 0.5  # noqa: NPY002
    chosen[np.random.randint(len(found))] = True  # noqa: NPY002
    found = found[torch.from_numpy(chosen)]
    masks, image = _masks(found), other["image"]
    fitted = torch.zeros(len(masks), height, width, dtype=torch.bool)
    rows, columns = min(height, masks.shape[1]), min(width, masks.shape[2])
    fitted[:, :rows, :columns] = masks[:, :rows, :columns]
    over = fitted.any(0)
    result = sample["image"].clone()
    result[:, :rows, :columns] = torch.where(
        over[:rows, :columns], image[:, :rows, :columns], result[:, :rows, :columns]
    )
    # those of `other` first: `_with_masks` measures what is left of each
    pasted = _with_masks(found, fitted)
    below = _with_masks(sample["instances"], _masks(sample["instances"]) & ~over)
    together = Instances((height, width))
    together.gt_classes = torch.cat([below.gt_classes, pasted.gt_classes])
    together.gt_masks = BitMasks(torch.cat([below.gt_masks.tensor, pasted.gt_masks.tensor]))
    together.gt_boxes = together.gt_masks.get_bounding_boxes()
    return {**sample, "image": result, "instances": together}


def _masks(instances: Instances) -> Tensor:
    """(N, H, W) bool."""
    if not instances.has("gt_masks"):
        return torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
    return instances.gt_masks.tensor


def _with_masks(instances: Instances, masks: Tensor) -> Instances:
    """Those instances of whose mask enough is left, with the new masks and their boxes."""
    before = _masks(instances).flatten(1).sum(1) if len(instances) else torch.zeros(0)
    after = masks.flatten(1).sum(1) if len(masks) else torch.zeros(0)
    kept = (after > 0) & (after >= _LEFT * before)
    result = Instances(tuple(masks.shape[1:]))
    result.gt_classes = instances.gt_classes[kept]
    result.gt_masks = BitMasks(masks[kept])
    result.gt_boxes = result.gt_masks.get_bounding_boxes()
    return result


def build_instance_augmentation(
    cfg: CfgNode, mapper: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`mapper`, with what DEEPFUSE_D2.INPUT asks for beyond crops, resizings and flips.

    Raises: ConfigError: a value is not allowed, or masks are no bitmaps.
    """
    ours = cfg.DEEPFUSE_D2.INPUT
    for key, value, allowed, is_right in (
        ("COLOR_JITTER", ours.COLOR_JITTER, "[0, 1)", 0 <= ours.COLOR_JITTER < 1),
        ("ROTATION", ours.ROTATION, "[0, 180]", 0 <= ours.ROTATION <= 180),
        ("COPY_PASTE", ours.COPY_PASTE, "[0, 1]", 0 <= ours.COPY_PASTE <= 1),
    ):
        if not is_right:
            raise ConfigError(f"DEEPFUSE_D2.INPUT.{key} is {value}; allowed: {allowed}.")
    if not (ours.COLOR_JITTER or ours.ROTATION or ours.COPY_PASTE):
        return mapper
    moves = ours.ROTATION or ours.COPY_PASTE
    if moves and (not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT != "bitmask"):
        raise ConfigError(
            "DEEPFUSE_D2.INPUT.ROTATION and COPY_PASTE change masks, and so need MODEL.MASK_ON: "
            f"True and INPUT.MASK_FORMAT: bitmask; they are {cfg.MODEL.MASK_ON} and "
            f"{cfg.INPUT.MASK_FORMAT}."
        )
    if moves and cfg.MODEL.KEYPOINT_ON:
        raise ConfigError("DEEPFUSE_D2.INPUT.ROTATION and COPY_PASTE do not know keypoints.")
    return AugmentedInstances(
        mapper,
        color_jitter=ours.COLOR_JITTER,
        rotation=ours.ROTATION,
        copy_paste=ours.COPY_PASTE,
    )
