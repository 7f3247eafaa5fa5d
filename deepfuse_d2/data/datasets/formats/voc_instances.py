"""FORMAT voc_instances: PASCAL VOC's folders, with a label image of objects and one of classes.

    JPEGImages/a.jpg  SegmentationObject/a.png  SegmentationClass/a.png
    ImageSets/Segmentation/SPLIT.txt

The class of an object is that of most of its pixels; 0 is background and 255 a border that belongs
to nothing. CLASSES are the names of 1, 2, ...; by default VOC's twenty.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import DatasetError
from ...images import IMAGE_SUFFIXES
from ...label_images import encode_regions, read_labels
from ...problems import report
from ...text_files import read_lines
from ..voc import VOC_CLASSES
from .annotated import image_entry, register_annotated
from .base import Format, check_class_names

__all__ = ["VOC_INSTANCES", "read_voc"]

_VOID = 255


def read_voc(entry: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """COCO's content of a split, and the folder of its images."""
    root = Path(entry["ROOT"])
    folders = [root / name for name in ("JPEGImages", "SegmentationObject", "SegmentationClass")]
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"Folder {folder} does not exist.")
    images, objects, classes = folders
    listed = root / "ImageSets" / "Segmentation" / f"{entry['SPLIT']}.txt"
    if not listed.is_file():
        raise DatasetError(f"File {listed} with the names of the split does not exist.")
    stems = [line.split()[0] for line in read_lines(listed)]
    files = {os.path.splitext(name)[0]: name for name in sorted(os.listdir(images))
             if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}  # fmt: skip
    names = entry.get("CLASSES") or list(VOC_CLASSES[1:])
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names, start=1)],
    }
    problems = []
    for number, stem in enumerate(stems):
        try:
            if stem not in files:
                raise DatasetError(f"Image {images / stem} is missing, with any suffix.")
            ids, kinds = (read_labels(folder / f"{stem}.png") for folder in (objects, classes))
            if ids.shape != kinds.shape:
                raise DatasetError(f"{stem}.png has two sizes in {objects} and {classes}.")
        except DatasetError as error:
            problems.append(str(error))
            continue
        content["images"].append(image_entry(number, files[stem], ids.shape))
        for region in encode_regions(ids, lambda ids: (ids > 0) & (ids != _VOID)):
            values, counts = np.unique(kinds[ids == region.id], return_counts=True)
            content["annotations"].append(
                {
                    "id": f"{stem}.png, object {region.id}",
                    "image_id": number,
                    "category_id": int(values[counts.argmax()]),
                    "segmentation": {"size": list(ids.shape), "counts": region.counts},
                    "bbox": _xywh(region.box),
                }
            )
    report(problems)
    return content, str(images)


def _xywh(box: tuple[int, int, int, int]) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


VOC_INSTANCES = Format(
    {"ROOT": str, "SPLIT": str},
    {"CLASSES": list},
    ("ROOT",),
    lambda entry: register_annotated(entry, read_voc),
    check_class_names,
)
