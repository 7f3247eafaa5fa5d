"""Leave instances out of training that are too small to learn from."""

import logging

from detectron2.structures import BoxMode

from ...errors import DatasetError
from ...structures.run_lengths import mask_area

__all__ = ["drop_small_instances", "instance_area"]


def drop_small_instances(records: list[dict], min_area: float) -> list[dict]:
    """Data set `records` without annotations of less than `min_area` pixels, and without those
    images that have none left.

    Returns new records; those given stay as they are. Groups (iscrowd) are not counted and kept.
    """
    kept, dropped = [], 0
    for record in records:
        annotations = [
            annotation
            for annotation in record["annotations"]
            if annotation.get("iscrowd", 0) or instance_area(annotation, record) >= min_area
        ]
        dropped += len(record["annotations"]) - len(annotations)
        if any(not annotation.get("iscrowd", 0) for annotation in annotations):
            kept.append({**record, "annotations": annotations})
    logging.getLogger(__name__).info(
        "Left out %d instances of less than %g pixels; %d of %d images remain",
        dropped, min_area, len(kept), len(records),
    )  # fmt: skip
    if records and not kept:
        raise DatasetError(
            f"All {dropped} instances have less than {min_area:g} pixels, so nothing is left to "
            "train on. Lower DEEPFUSE_D2.INPUT.MIN_INSTANCE_AREA; 0 keeps all."
        )
    return kept


def instance_area(annotation: dict, record: dict) -> float:
    """Pixels of an annotation's mask, run-length encoded or polygons, in the original image; of its
    box where it has no mask."""
    if not annotation.get("segmentation"):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
        return float(box[2] * box[3])
    return mask_area(annotation["segmentation"], record["height"], record["width"])
