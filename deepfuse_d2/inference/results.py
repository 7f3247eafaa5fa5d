"""Predictions in the forms that others take: COCO's run lengths, `supervision`, label maps."""

from collections.abc import Callable, Iterable
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
from ..structures.proposals import instances_of_proposals

__all__ = [
    "CONVERTERS",
    "OUTPUTS",
    "DetectedInstances",
    "convert",
    "convert_labels",
    "convert_panoptic",
    "convert_predictions",
    "convert_proposals",
    "labels_of_logits",
    "scaled_instances",
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
        keypoints: np.ndarray | None = None,
    ):
        """
        Args:
            size: (height, width) of the image.
            boxes: (N, 4) corners in pixels.
            scores, classes: (N,)
            crops: of the masks; None where the model has none.
            keypoints: (N, K, 3) x, y in pixels and score; None where the model has none.
        """
        self.size, self.boxes, self.scores, self.classes = size, boxes, scores, classes
        self.crops, self.keypoints = crops, keypoints

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, raw: Instances, height: int, width: int) -> "DetectedInstances":
        """From what the heads give, or the whole model, for an image of that size."""
        instances = scaled_instances(raw, height, width)
        boxes = instances.pred_boxes.tensor
        crops = None
        if instances.has("pred_masks") and instances.pred_masks.ndim == 4:
            crops = list(crops_from_unpasted(instances.pred_masks.float(), boxes, (height, width)))
        elif instances.has("pred_masks"):
            crops = list(crops_from_masks(instances.pred_masks.numpy()))
        return cls(
            (height, width),
            boxes.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
            crops,
            instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None,
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
        if self.keypoints is not None:
            result.pred_keypoints = torch.from_numpy(np.ascontiguousarray(self.keypoints))
        return result

    def rles(self) -> list[dict]:
        """Masks in COCO's compressed run lengths."""
        return [encode_crop(crop, *self.size) for crop in self.crops or ()]


def convert(
    raw: Instances, height: int, width: int, output: str, metadata: Metadata
) -> Instances | list[dict] | Any:
    """Instances as the heads or the model leave them, on the CPU, in the form of `output`.

    Args:
        height, width: of the image.
        output: one of :data:`OUTPUTS`.
        metadata: of the data set, for its category ids.
    """
    if output == "native":
        result = scaled_instances(raw, height, width)
        if result.has("pred_masks") and result.pred_masks.ndim == 4:
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
    """COCO's results of one image: category_id, bbox (x, y, w, h), score; segmentation and
    keypoints, where the model has them."""
    category = _given_ids(getattr(metadata, "thing_dataset_id_to_contiguous_id", None))
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
    if found.keypoints is not None:
        for result, keypoints in zip(results, found.keypoints, strict=True):
            # COCO counts pixels, and detectron2 measures from their border
            shifted = keypoints - np.array([0.5, 0.5, 0], dtype=keypoints.dtype)
            result["keypoints"] = shifted.flatten().tolist()
    return results


def to_supervision(instances: Instances, metadata: Metadata):
    """``supervision.Detections`` with masks; names and keypoints in its ``data``, as "class_name"
    and "keypoints" (K, 3)."""
    Detections = _supervision().Detections
    classes = instances.pred_classes.numpy()
    data = _names(classes, getattr(metadata, "thing_classes", None))
    if instances.has("pred_keypoints"):
        data["keypoints"] = instances.pred_keypoints.numpy()
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    return Detections(
        xyxy=instances.pred_boxes.tensor.numpy(),
        mask=masks,
        confidence=instances.scores.numpy(),
        class_id=classes,
        data=data,
    )


def convert_labels(
    given: Tensor, height: int, width: int, output: str, metadata: Metadata
) -> Tensor | list[dict] | Any:
    """Logits (K, H, W), or labels (H, W), in the form of `output`: a label map, or a mask for each
    class in it.

    Args: see :func:`convert`.
    """
    labels = labels_of_logits(given)
    if output == "native":
        return labels
    classes = labels.unique().tolist()
    masks = [labels.numpy() == c for c in classes]
    if output == "rle":
        return [
            {"category_id": c, "segmentation": _rle(m)} for c, m in zip(classes, masks, strict=True)
        ]
    found = np.array(classes)
    return _masks_as_detections(masks, found, getattr(metadata, "stuff_classes", None))


def convert_panoptic(
    given: tuple[Tensor, list[dict]], height: int, width: int, output: str, metadata: Metadata
) -> tuple[Tensor, list[dict]] | list[dict] | Any:
    """detectron2's panoptic prediction in the form of `output`: itself, or a mask a segment.

    Args: see :func:`convert`.
    """
    if output == "native":
        return given
    labels, segments = given[0].numpy(), given[1]
    masks = [labels == segment["id"] for segment in segments]
    if output == "rle":
        kinds = {True: "thing", False: "stuff"}
        ids = {
            is_thing: _given_ids(getattr(metadata, f"{kind}_dataset_id_to_contiguous_id", None))
            for is_thing, kind in kinds.items()
        }
        return [
            {
                **{name: segment[name] for name in ("isthing", "score", "area") if name in segment},
                "category_id": ids[bool(segment["isthing"])].get(
                    segment["category_id"], segment["category_id"]
                ),
                "segmentation": _rle(mask),
            }
            for segment, mask in zip(segments, masks, strict=True)
        ]
    found = np.array([segment["category_id"] for segment in segments], dtype=int)
    result = _masks_as_detections(masks, found, None, size=labels.shape)
    result.data["isthing"] = np.array([segment["isthing"] for segment in segments], dtype=bool)
    return result


def convert_proposals(
    proposals: Instances, height: int, width: int, output: str, metadata: Metadata
) -> Instances | list[dict] | Any:
    """Proposals in the form of `output`: themselves, or as instances of a class without a name.

    Args: see :func:`convert`.
    """
    if output == "native":
        return proposals
    return convert(instances_of_proposals(proposals), height, width, output, Metadata())


#: What a model predicts -> converter(value, height, width, output, metadata)
CONVERTERS: dict[str, Callable[..., Any]] = {
    "instances": convert,
    "sem_seg": convert_labels,
    "panoptic_seg": convert_panoptic,
    "proposals": convert_proposals,
}


def _masks_as_detections(
    masks: list[np.ndarray],
    classes: np.ndarray,
    names: Iterable[str] | None,
    size: tuple[int, int] = (0, 0),
):
    Detections = _supervision().Detections
    boxes = np.array([_extent(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
    stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
    return Detections(xyxy=boxes, mask=stacked, class_id=classes, data=_names(classes, names))


def _rle(mask: np.ndarray) -> dict:
    from pycocotools import mask as coco

    return rle_as_text(coco.encode(np.asfortranarray(mask).view(np.uint8)))


def _given_ids(contiguous_ids: dict[int, int] | None) -> dict[int, int]:
    """Contiguous id -> id of the data set."""
    return {contiguous: given for given, contiguous in (contiguous_ids or {}).items()}


def scaled_instances(raw: Instances, height: int, width: int) -> Instances:
    """For an image of that size; what the model has finished already is returned as it is."""
    if raw.has("pred_masks") and raw.pred_masks.ndim == 3:
        return raw
    return scale_unpasted(raw, height, width)


def labels_of_logits(logits: Tensor) -> Tensor:
    """(K, H, W) logits, or labels (H, W) already, as labels: uint8, int32 from 257 classes on."""
    return logits if logits.ndim == 2 else row_bands.labels_of(row_bands.in_pieces([logits]))


def _supervision():
    try:
        import supervision
    except ImportError as error:
        raise ConfigError(
            'output="supervision" needs the package supervision: pip install supervision, or the '
            "extra of that name of this package."
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
