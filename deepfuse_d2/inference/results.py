"""Predictions in the forms that others take: COCO's run lengths, `supervision`, label maps."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from torch import Tensor

from ..errors import ConfigError
from ..modeling.postprocessing import row_bands
from ..modeling.postprocessing.paste import paste_masks
from ..modeling.postprocessing.unpasted import scale_unpasted
from ..structures.detected_instances import DetectedInstances, check_memory
from ..structures.mask_crops import MaskCrop
from ..structures.proposals import instances_of_proposals

__all__ = [
    "CONVERTERS",
    "OUTPUTS",
    "convert",
    "convert_labels",
    "convert_panoptic",
    "convert_predictions",
    "convert_proposals",
    "labels_of_logits",
    "scaled_instances",
]

#: native: detectron2's Instances, or a label map (H, W); see :class:`.Predictor` for the others
OUTPUTS = ("native", "rle", "record", "supervision")


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
            check_memory(len(result), height, width)
            result.pred_masks = paste_masks(
                result.pred_masks, result.pred_boxes.tensor, (height, width)
            )
        return result
    if output == "rle":
        size = height, width
        found = DetectedInstances.of(scaled_instances(raw, height, width), size)
        return _coco_results(found, metadata)
    return to_supervision(convert(raw, height, width, "native", metadata), metadata)


def convert_predictions(
    found: DetectedInstances, output: str, metadata: Metadata
) -> Instances | list[dict] | Any:
    """Instances with crops for masks in the form of `output`."""
    if output == "rle":
        return _coco_results(found, metadata)
    instances = found.instances()
    return instances if output == "native" else to_supervision(instances, metadata)


def _coco_results(found: DetectedInstances, metadata: Metadata) -> list[dict]:
    ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
    return found.coco_results(_given_ids(ids))


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
            {"category_id": c, "segmentation": MaskCrop.of(m).rle(*labels.shape)}
            for c, m in zip(classes, masks, strict=True)
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
                "segmentation": MaskCrop.of(mask).rle(*mask.shape),
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
    boxes = np.array([MaskCrop.of(mask).box for mask in masks], dtype=np.float32).reshape(-1, 4)
    boxes = boxes[:, [1, 0, 3, 2]]  # top and left to x and y
    stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
    return Detections(xyxy=boxes, mask=stacked, class_id=classes, data=_names(classes, names))


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
