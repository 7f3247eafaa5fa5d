"""Augmentations of instances that look at pixels or at other images, behind any mapper of them.

Colours by torchvision's functions; rotation with masks by the same angle; copy-paste as in "Simple
Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (arXiv 2012.07177): some
objects of another image are laid over this one, whose masks lose what is covered. Here they keep
their place, and edges are not blended, which the paper found to make no difference.

Mosaic as in YOLOv4 (arXiv 2004.10934): an image of parts of four, which meet in a point. Here parts
are cut and not scaled, so that objects keep the size that the resizing gave them. Cut-out as in
random erasing (arXiv 1708.04896): a rectangle of one grey, and masks lose what it covers.
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
# Where the parts of a mosaic meet, as shares of its sides.
_CENTRE = (0.3, 0.7)
# Area of a cut-out as a share of the image's, and the ratio of its sides; those of random erasing,
# with a smaller largest area, as there are many objects in an image and not one.
_CUT_AREA, _CUT_RATIO = (0.02, 0.1), (0.3, 3.3)
_GREY = 114


class AugmentedInstances:
    """`mapper` with more augmentation of what it gives; draws from NumPy's generator.

    Args:
        mapper: record -> sample with "image" (3, H, W) of bytes and "instances" with bitmaps.
        color_jitter: brightness, contrast and saturation change by factors in 1 +- this number.
        rotation: degrees, to both sides.
        copy_paste: probability that objects of another image are laid over one.
        mosaic: probability that an image is made of parts of four.
        cutout: probability that a rectangle is blotted out.
    """

    def __init__(
        self,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        color_jitter: float = 0.0,
        rotation: float = 0.0,
        copy_paste: float = 0.0,
        mosaic: float = 0.0,
        cutout: float = 0.0,
    ):
        self.mapper = mapper
        self.color_jitter, self.rotation, self.copy_paste = color_jitter, rotation, copy_paste
        self.mosaic, self.cutout = mosaic, cutout
        self.records: Sequence[dict[str, Any]] = ()

    def use_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Take the other images of copy-paste and mosaic from `records`, which the loader gives."""
        self.records = records

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        random = np.random  # seeded by the loader, as for all augmentations
        sample = self._turned(self.mapper(record))
        if len(self.records) and random.random() < self.mosaic:
            sample = _mosaic([sample, *(self._another() for _ in range(3))])
        if len(self.records) and random.random() < self.copy_paste:
            for _ in range(_ATTEMPTS):
                other = self._another()
                if len(other["instances"]):
                    sample = _pasted(sample, other)
                    break
        if random.random() < self.cutout:
            sample = _blotted(sample)
        if self.color_jitter:
            image = sample["image"]
            for change in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
                image = change(image, 1 + float(random.uniform(-1, 1)) * self.color_jitter)
            sample = {**sample, "image": image}
        return sample

    def _another(self) -> dict[str, Any]:
        """A sample of any record."""
        place = int(np.random.randint(len(self.records)))  # noqa: NPY002
        return self._turned(self.mapper(self.records[place]))

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
    together = _together([below, pasted], (height, width))
    return {**sample, "image": result, "instances": together}


def _mosaic(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Four samples as one of the size of the first: each fills a quarter around a drawn centre."""
    height, width = samples[0]["image"].shape[1:]
    middle = [int(side * np.random.uniform(*_CENTRE)) for side in (height, width)]  # noqa: NPY002
    image = torch.full((3, height, width), _GREY, dtype=torch.uint8)
    parts = []
    for number, sample in enumerate(samples):
        rows, columns = ((0, edge) if side == 0 else (edge, end) for side, edge, end in zip(
            divmod(number, 2), middle, (height, width), strict=True))  # fmt: skip
        cut = [_part(length, end - start) for length, (start, end) in zip(
            sample["image"].shape[1:], (rows, columns), strict=True)]  # fmt: skip
        source = (slice(None), *cut)
        masks = _masks(sample["instances"])
        placed = torch.zeros(len(masks), height, width, dtype=torch.bool)
        tall, wide = (piece.stop - piece.start for piece in cut)
        target = (slice(None), slice(rows[0], rows[0] + tall), slice(columns[0], columns[0] + wide))
        image[target] = sample["image"][source]
        placed[target] = masks[source]
        parts.append(_with_masks(sample["instances"], placed))
    return {**samples[0], "image": image, "instances": _together(parts, (height, width))}


def _part(length: int, wanted: int) -> slice:
    """Any `wanted` of `length` pixels; all where there are no more."""
    start = int(np.random.randint(max(length - wanted, 0) + 1))  # noqa: NPY002
    return slice(start, start + min(length, wanted))


def _blotted(sample: dict[str, Any]) -> dict[str, Any]:
    """`sample` with a rectangle of one grey in place of what was there."""
    height, width = sample["image"].shape[1:]
    area = height * width * np.random.uniform(*_CUT_AREA)  # noqa: NPY002
    ratio = np.exp(np.random.uniform(*np.log(_CUT_RATIO)))  # noqa: NPY002
    tall, wide = (min(round(side), end) for side, end in (
        ((area * ratio) ** 0.5, height), ((area / ratio) ** 0.5, width)))  # fmt: skip
    top, left = (int(np.random.randint(end + 1)) for end in (height - tall, width - wide))  # noqa: NPY002
    grey = torch.full((1, 1, 1), _GREY, dtype=torch.uint8)
    image = F.erase(sample["image"], top, left, tall, wide, grey)
    masks = _masks(sample["instances"]).clone()
    masks[:, top : top + tall, left : left + wide] = False
    return {**sample, "image": image, "instances": _with_masks(sample["instances"], masks)}


def _together(parts: Sequence[Instances], size: tuple[int, int]) -> Instances:
    """All instances of several parts of one image."""
    result = Instances(size)
    result.gt_classes = torch.cat([part.gt_classes for part in parts])
    result.gt_masks = BitMasks(torch.cat([part.gt_masks.tensor for part in parts]))
    result.gt_boxes = result.gt_masks.get_bounding_boxes()
    return result


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
        ("MOSAIC", ours.MOSAIC, "[0, 1]", 0 <= ours.MOSAIC <= 1),
        ("CUTOUT", ours.CUTOUT, "[0, 1]", 0 <= ours.CUTOUT <= 1),
    ):
        if not is_right:
            raise ConfigError(f"DEEPFUSE_D2.INPUT.{key} is {value}; allowed: {allowed}.")
    moves = ours.ROTATION or ours.COPY_PASTE or ours.MOSAIC or ours.CUTOUT
    if not (moves or ours.COLOR_JITTER):
        return mapper
    if moves and (not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT != "bitmask"):
        raise ConfigError(
            "DEEPFUSE_D2.INPUT.ROTATION, COPY_PASTE, MOSAIC and CUTOUT change masks, and so need "
            f"MODEL.MASK_ON: True and INPUT.MASK_FORMAT: bitmask; they are {cfg.MODEL.MASK_ON} and "
            f"{cfg.INPUT.MASK_FORMAT}."
        )
    if moves and cfg.MODEL.KEYPOINT_ON:
        raise ConfigError(
            "DEEPFUSE_D2.INPUT.ROTATION, COPY_PASTE, MOSAIC and CUTOUT do not know keypoints: set "
            "them to 0, or MODEL.KEYPOINT_ON: False."
        )
    return AugmentedInstances(
        mapper,
        color_jitter=ours.COLOR_JITTER,
        rotation=ours.ROTATION,
        copy_paste=ours.COPY_PASTE,
        mosaic=ours.MOSAIC,
        cutout=ours.CUTOUT,
    )
