"""The objects of a data set cut out, a folder a class: images to pre-train a classifier on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from tqdm import tqdm

from ..errors import ConfigError, DatasetError
from .images import read_image

__all__ = ["crop_objects"]


def crop_objects(dataset: str, output: Path, margin: float, min_size: int) -> Counter[str]:
    """Write the crops; return how many of each class.

    Groups (iscrowd) are left out.

    Args:
        dataset: registered name.
        output: a folder that is not there, or is empty.
        margin: on each side, as a part of the box's.
        min_size: of a box's longer side, in pixels; smaller objects are left out.
    """
    if margin < 0 or min_size < 1:
        raise ConfigError("--margin is 0 or more and --min-size 1 or more.")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output {output} is not empty; give a new folder.")
    records = DatasetCatalog.get(dataset)
    classes = getattr(MetadataCatalog.get(dataset), "thing_classes", None)
    if not classes or not any(record.get("annotations") for record in records):
        raise DatasetError(f'The data set "{dataset}" has no objects (annotations).')
    folders = [output / folder_name(name) for name in classes]
    if len(set(folders)) < len(folders):
        raise DatasetError(f"Classes {list(classes)} give no folder of their own each.")

    counts = Counter(dict.fromkeys(classes, 0))
    for number, record in enumerate(tqdm(records, unit="image")):
        image = None
        for index, (label, box) in enumerate(objects(record, min_size)):
            if image is None:
                image = read_image(record["file_name"])
            crop = cut(image, box, margin)
            if crop.size:
                folders[label].mkdir(parents=True, exist_ok=True)
                file = folders[label] / f"{number:06d}_{index:03d}.png"
                if not cv2.imwrite(str(file), crop):
                    raise DatasetError(f"{file} could not be written: is the disk full?")
                counts[classes[label]] += 1
    return counts


def folder_name(label: str) -> str:
    """A class name as the name of a folder: it may come from a file of somebody else."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", label).strip("_") or "_"


def objects(record: dict, min_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Class and box (x0, y0, x1, y1), in pixels, of the objects that count."""
    for annotation in record.get("annotations", ()):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        box = np.asarray(box, float)
        if not annotation.get("iscrowd", 0) and max(box[2:] - box[:2]) >= min_size:
            yield annotation["category_id"], box


def cut(image: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """The part of `image` (H, W, 3) in `box` and `margin` of its sides around it."""
    more = margin * (box[2:] - box[:2])
    low = np.maximum(np.floor(box[:2] - more), 0).astype(int)
    high = np.minimum(np.ceil(box[2:] + more), image.shape[1::-1]).astype(int)
    return image[low[1] : high[1], low[0] : high[0]]
