"""Penn-Fudan pedestrians: 170 photographs with an instance mask for each person.

    <root>/PNGImages/FudanPed00001.png         .jpg and .jpeg are read as well
    <root>/PedMasks/FudanPed00001_mask.png     0 background, 1..n one id a person

The data set has no split of its own. Here train is the files whose number mod 4 is not 0, and val
the rest, in each of the two name series (FudanPed, PennPed).

Wang, Shi, Song, Shen: "Object Detection Combining Recognition and Segmentation", ACCV 2007.
"""

import os
import re
from typing import Any

from ...errors import DatasetError
from ..problems import explained, report
from .instance_labels import load_instance_labels
from .published import check_split, warn_if_incomplete
from .semantic import Pair

__all__ = ["NUM_IMAGES", "PENNFUDAN_METADATA", "load_pennfudan"]

PENNFUDAN_METADATA = {
    "evaluator_type": "coco",
    "thing_classes": ["person"],
    "thing_colors": [[220, 20, 60]],
}

_REMEDY = (
    "Prepare Penn-Fudan by `deepfuse prepare pennfudan --source PennFudanPed.zip`, or "
    "set DETECTRON2_DATASETS to the folder that holds PennFudanPed/. See datasets/README.md."
)

NUM_IMAGES = {"train": 128, "val": 42}
_IMAGE_NAME = re.compile(r"((?:FudanPed|PennPed)(\d+))\.(?:png|jpg|jpeg)", re.IGNORECASE)
_MASK_SUFFIX = "_mask.png"


def load_pennfudan(root: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """Load a split in detectron2's format.

    Args:
        root: the folder PennFudanPed, which holds PNGImages and PedMasks.
        split: "train" or "val".

    Returns:
        dicts of `file_name`, `image_id` (the file name without suffix), `height`, `width` and
        `annotations`: each a tight box (XYXY_ABS), category 0 and a compressed RLE mask.

    Raises:
        DatasetError: a folder or file is missing or damaged; names it and says what to do.
    """
    check_split(split, NUM_IMAGES)
    root = os.path.abspath(root)
    with explained(_REMEDY):
        pairs = _list_pairs(root, split)
        records = load_instance_labels(pairs, root=root, name=f"pennfudan_{split}")
    warn_if_incomplete(root, split, len(pairs), NUM_IMAGES)
    return records


def _list_pairs(root: str, split: str) -> list[Pair]:
    images_folder, masks_folder = (os.path.join(root, name) for name in ("PNGImages", "PedMasks"))
    for folder in (images_folder, masks_folder):
        if not os.path.isdir(folder):
            raise DatasetError(f"Folder {folder} does not exist.")

    images: dict[str, str] = {}
    # of several formats of one image the last counts: .png
    matches = [_IMAGE_NAME.fullmatch(name) for name in sorted(os.listdir(images_folder))]
    for match in filter(None, matches):
        if (int(match[2]) % 4 == 0) == (split == "val"):
            images[match[1]] = os.path.join(images_folder, match[0])
    masks = {
        name.removesuffix(_MASK_SUFFIX)
        for name in os.listdir(masks_folder)
        if name.endswith(_MASK_SUFFIX)
    }
    if not images:
        raise DatasetError(f"Folder {images_folder} holds no {split} image of Penn-Fudan.")
    report(
        [
            f"Mask {os.path.join(masks_folder, stem + _MASK_SUFFIX)} is missing."
            for stem in sorted(images.keys() - masks)
        ]
    )
    return [
        Pair(stem, image, os.path.join(masks_folder, stem + _MASK_SUFFIX))
        for stem, image in sorted(images.items())
        if stem in masks
    ]
