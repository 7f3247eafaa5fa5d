"""Samples of registered data sets as pictures: image, instances, semantic labels."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.images import read_image
from ..data.label_images import read_labels
from ..errors import DatasetError
from .drawing import draw_annotations, draw_labels

__all__ = ["draw_sample", "load_samples"]


def load_samples(dataset: str, count: int) -> list[dict]:
    """``count`` dicts spread evenly over a data set, with semantic maps of its sibling, if any."""
    if dataset not in DatasetCatalog.list():
        near = ", ".join(
            sorted(n for n in DatasetCatalog.list() if n.split("_")[0] == dataset.split("_")[0])
        )
        known = near or ", ".join(sorted(DatasetCatalog.list()))
        raise DatasetError(f'--dataset "{dataset}" is unknown; known are {known}')
    dicts = DatasetCatalog.get(dataset)
    if not dicts:
        raise DatasetError(f'--dataset "{dataset}" has no pictures')
    chosen = [dicts[k] for k in np.linspace(0, len(dicts) - 1, min(count, len(dicts))).astype(int)]
    sibling = dataset.replace("_instance_seg_", "_sem_seg_")
    if sibling != dataset and sibling in DatasetCatalog.list():
        maps = {d["file_name"]: d.get("sem_seg_file_name") for d in DatasetCatalog.get(sibling)}
        chosen = [{"sem_seg_file_name": maps.get(d["file_name"]), **d} for d in chosen]
    return chosen


def draw_sample(sample: dict, dataset: str, tile_width: int) -> np.ndarray:
    """One sample, from top to bottom: picture, instances, semantic classes, as there are."""
    image = read_image(sample["file_name"])
    scale = tile_width / image.shape[1]
    size = (tile_width, round(image.shape[0] * scale))
    metadata = MetadataCatalog.get(dataset)
    large = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    panels = [large]
    if "annotations" in sample:
        panels.append(draw_annotations(image, sample, metadata, scale))
    if sample.get("sem_seg_file_name"):
        classes = read_labels(sample["sem_seg_file_name"])
        stuff = MetadataCatalog.get(dataset.replace("_instance_seg_", "_sem_seg_"))
        panels.append(draw_labels(large, classes, stuff))
    return np.concatenate(panels)
