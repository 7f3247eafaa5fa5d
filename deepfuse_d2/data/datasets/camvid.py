"""CamVid in SegNet's split: 701 street frames of 480 x 360 with 11 classes.

    <root>/{train,val,test}/<stem>.png            .jpg and .jpeg are read as well
    <root>/{train,val,test}annot/<stem>.png       ids 0..10, and 11 = void

Brostow, Fauqueur, Cipolla: "Semantic object classes in video", Pattern Recognition Letters 2009;
split and class ids of SegNet (arXiv 1511.00561).
"""

import os
from typing import Any

from ..problems import explained
from .published import check_split, warn_if_incomplete
from .semantic import load_pairs, pair_by_stem

__all__ = ["CAMVID_METADATA", "NUM_IMAGES", "load_camvid"]

_CLASSES = {
    "Sky": [128, 128, 128],
    "Building": [128, 0, 0],
    "Pole": [192, 192, 128],
    "Road": [128, 64, 128],
    "Pavement": [60, 40, 222],
    "Tree": [128, 128, 0],
    "SignSymbol": [192, 128, 128],
    "Fence": [64, 64, 128],
    "Car": [64, 0, 128],
    "Pedestrian": [64, 64, 0],
    "Bicyclist": [0, 128, 192],
}
_VOID = 11

CAMVID_METADATA = {
    "evaluator_type": "sem_seg",
    "stuff_classes": list(_CLASSES),
    "stuff_colors": list(_CLASSES.values()),
    "ignore_label": _VOID,
    "has_labels": True,
}

_REMEDY = (
    "Prepare CamVid by `deepfuse prepare camvid --source FOLDER_OR_ZIP`, or set "
    "DETECTRON2_DATASETS to the folder that holds camvid/. See datasets/README.md."
)

NUM_IMAGES = {"train": 367, "val": 101, "test": 233}


def load_camvid(root: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """Load a split in detectron2's format.

    Args:
        root: the folder that holds `train`, `trainannot` and so on.
        split: "train", "val" or "test" (its labels are public).

    Returns:
        dicts of `file_name`, `image_id` (the file name without suffix), `height`, `width` and
        `sem_seg_file_name`.

    Raises:
        DatasetError: a folder or file is missing or damaged; names it and says what to do.
    """
    check_split(split, NUM_IMAGES)
    root = os.path.abspath(root)
    with explained(_REMEDY):
        records = load_pairs(
            pair_by_stem(os.path.join(root, split), os.path.join(root, split + "annot")),
            root=root,
            name=f"camvid_{split}",
            num_classes=len(_CLASSES),
            ignore_label=_VOID,
        )
    warn_if_incomplete(root, split, len(records), NUM_IMAGES)
    return records
