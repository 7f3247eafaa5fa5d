"""Predictions in the forms that others take: COCO's run lengths, `supervision`, label maps."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..modeling.postprocessing import row_bands
from ..modeling.postprocessing.paste import paste_masks
from ..modeling.postprocessing.unpasted import scale_unpasted
from ..structures.mask_crops import (
    MaskCrop,
    crops_from_masks,
    crops_from_unpasted,
    encode_crop,
    rle_as_text,
)

__all__ = [
    "OUTPUTS",
    "DetectedInstances",
    "convert",
    "convert_labels",
    "convert_predictions",
    "labels_of_logits",
]

#: native: detectron2's Instances, or a label map (H, W); see :class:`.Predictor` for the others
OUTPUTS = ("native", "rle", "supervision")

# Bytes that masks of one image may take; 100 masks of 8192 x 8192.
_MAX_MASK_BYTES = 7 * 1024**3


class DetectedInstances:
    """Instances of one image with masks as crops, in whatever order they are."""

    def __init__(
        self,
        size: tuple[int, int],
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        crops: list[MaskCrop] | None,
    ):
        """
        Args:
            size: (height, width) of the image.
            boxes: (N, 4) corners in pixels.
            scores, classes: (N,)
            crops: of the masks; None where the model has none.
        """
        self.size, self.boxes, self.scores, self.classes = size, boxes, scores, classes
        self.crops = crops

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, raw: Instances, height: int, width: int) -> "DetectedInstances":
        """From what the heads give, for an image of that size."""
        instances = scale_unpasted(raw, height, width)
        boxes = instances.pred_boxes.tensor
        crops = None
        if instances.has("pred_masks"):
            crops = list(crops_from_unpasted(instances.pred_masks.float(), boxes, (height, width)))
        return cls(
            (height, width),
            boxes.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
            crops,
        )

    @classmethod
    def of_finished(cls, instances: Instances) -> "DetectedInstances":
        """From what a model returns: boxes and masks of the size of the image."""
        crops = None
        if instances.has("pred_masks"):
            crops = list(crops_from_masks(instances.pred_masks.numpy()))
        return cls(
            tuple(instances.image_size),
            instances.pred_boxes.tensor.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
            crops,
        )

    def instances(self) -> Instances:
        """detectron2's, with masks of the size of the image."""
        height, width = self.size
        result = Instances(self.size)
        result.pred_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(self.boxes)))
        result.scores = torch.from_numpy(np.ascontiguousarray(self.scores))
        result.pred_classes = torch.from_numpy(np.ascontiguousarray(self.classes))
        if self.crops is not None:
            _check_memory(len(self), height, width)
            masks = torch.zeros(len(self), height, width, dtype=torch.bool)
            for mask, (top, left, crop) in zip(masks.numpy(), self.crops, strict=True):
                mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            result.pred_masks = masks
        return result

    def rles(self) -> list[dict]:
        """Masks in COCO's compressed run lengths."""
        return [encode_crop(crop, *self.size) for crop in self.crops]


def convert(
    raw: Instances, height: int, width: int, output: str, metadata: Metadata
) -> Instances | list[dict] | Any:
    """Instances as the heads leave them, on the CPU, in the form of `output`.

    Args:
        height, width: of the image.
        output: one of :data:`OUTPUTS`.
        metadata: of the data set, for its category ids.
    """
    unpasted = raw.has("pred_masks") and raw.pred_masks.ndim == 4
    if output == "native":
        result = scale_unpasted(raw, height, width)
        if unpasted:
            _check_memory(len(result), height, width)
            result.pred_masks = paste_masks(
                result.pred_masks, result.pred_boxes.tensor, (height, width)
            )
        return result
    if output == "rle":
        return coco_results(DetectedInstances.of(raw, height, width), metadata)
    return to_supervision(convert(raw, height, width, "native", metadata), metadata)


def convert_predictions(
    found: DetectedInstances, output: str, metadata: Metadata
) -> Instances | list[dict] | Any:
    """Instances with crops for masks in the form of `output`."""
    if output == "rle":
        return coco_results(found, metadata)
    instances = found.instances()
    return instances if output == "native" else to_supervision(instances, metadata)


def coco_results(found: DetectedInstances, metadata: Metadata) -> list[dict]:
    """COCO's results of one image: category_id, bbox (x, y, w, h), score, segmentation."""
    ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", None) or {}
    category = {contiguous: given for given, contiguous in ids.items()}
    rles = found.rles() if found.crops is not None else [None] * len(found)
    results = []
    for (x0, y0, x1, y1), score, label, rle in zip(
        found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), rles, strict=True
    ):
        results.append(
            {
                "category_id": category.get(label, label),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
        )
        if rle is not None:
            results[-1]["segmentation"] = rle
    return results


def to_supervision(instances: Instances, metadata: Metadata):
    """``supervision.Detections`` with masks and, as ``data["class_name"]``, names."""
    Detections = _supervision().Detections
    classes = instances.pred_classes.numpy()
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    return Detections(
        xyxy=instances.pred_boxes.tensor.numpy(),
        mask=masks,
        confidence=instances.scores.numpy(),
        class_id=classes,
        data=_names(classes, getattr(metadata, "thing_classes", None)),
    )


def convert_labels(labels: Tensor, output: str, metadata: Metadata):
    """Label map (H, W) in the form of `output`: itself, or a mask for each class in it."""
    if output == "native":
        return labels
    classes = labels.unique().tolist()
    if output == "rle":
        from pycocotools import mask as coco

        rles = [coco.encode(np.asfortranarray(labels.numpy() == c).view(np.uint8)) for c in classes]
        return [
            {"category_id": c, "segmentation": rle_as_text(rle)}
            for c, rle in zip(classes, rles, strict=True)
        ]
    Detections = _supervision().Detections
    masks = np.stack([labels.numpy() == c for c in classes])
    boxes = np.array([_extent(mask) for mask in masks], dtype=np.float32)
    found = np.array(classes)
    names = _names(found, getattr(metadata, "stuff_classes", None))
    return Detections(xyxy=boxes, mask=masks, class_id=found, data=names)


def labels_of_logits(logits: Tensor) -> Tensor:
    """(K, H, W) logits, or labels (H, W) already, as labels: uint8, int32 from 257 classes on."""
    return logits if logits.ndim == 2 else row_bands.labels_of(row_bands.in_pieces([logits]))


def _supervision():
    try:
        import supervision
    except ImportError as error:
        raise ConfigError(
            'output="supervision" needs the package supervision: pip install supervision'
        ) from error
    return supervision


def _names(classes: np.ndarray, names: Iterable[str] | None) -> dict:
    if names is None:
        return {}
    names = list(names)
    return {"class_name": np.array([names[c] if c < len(names) else str(c) for c in classes])}


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _check_memory(count: int, height: int, width: int) -> None:
    needed = count * height * width
    if needed > _MAX_MASK_BYTES:
        raise ImageError(
            f"{count} masks of {width} x {height} pixels would take {needed / 1024**3:.0f} GB; ask "
            'for output="rle", which takes a few MB, or raise score_threshold.'
        )
