"""PASCAL VOC 2012 segmentation, with the training images that SBD adds.

    <root>/VOCdevkit/VOC2012/JPEGImages/<stem>.jpg
    <root>/VOCdevkit/VOC2012/SegmentationClass/<stem>.png       palette: 0 background, 1..20, 255
    <root>/VOCdevkit/VOC2012/SegmentationObject/<stem>.png      palette: 0 background, 1..n, 255
    <root>/VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,test}.txt
    <root>/benchmark_RELEASE/dataset/{train,val}.txt, cls/<stem>.mat, img/<stem>.jpg        (SBD)

`trainaug` is the usual list of 10,582 images: SBD's train and val and VOC's train, without VOC's
val. Labels are VOC's where it has some (they are finer, with void along the contours), else those
of `VOCdevkit/VOC2012/SegmentationClassAug/<stem>.png` where that folder exists, else SBD's.

Everingham, Van Gool, Williams, Winn, Zisserman: "The PASCAL Visual Object Classes Challenge 2012".
"""

import os
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..label_images import read_labels
from ..problems import explained
from .published import check_split, warn_if_incomplete
from .sbd import read_sbd
from .semantic import Pair, load_images, load_pairs

__all__ = ["VOC_CLASSES", "load_voc", "voc_metadata", "voc_palette"]

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_VOID = 255
_NUM_IMAGES = {"train": 1464, "trainaug": 10582, "val": 1449, "test": 1456}
_REMEDY = (
    "Prepare VOC 2012 by `deepfuse prepare voc --source VOCtrainval_11-May-2012.tar "
    "benchmark.tgz`, or set DETECTRON2_DATASETS to the folder that holds VOCdevkit/. See "
    "datasets/README.md."
)


def voc_palette() -> np.ndarray:
    """Return the official colour of every id, (256, 3) uint8 RGB.

    Bits 0, 1, 2 of the id become the highest bits of red, green, blue, the next three the second
    highest, and so on.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (ids >> (3 * place + channel)) & 1
            palette[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return palette


def voc_metadata(split: str) -> dict[str, Any]:
    return {
        "evaluator_type": "sem_seg",
        "stuff_classes": list(VOC_CLASSES),
        "stuff_colors": voc_palette()[: len(VOC_CLASSES)].tolist(),
        "ignore_label": _VOID,
        "has_labels": split != "test",
        "submission_format": "voc",
        "split": split,
    }


def load_voc(root: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """Load a split in detectron2's format.

    Args:
        root: the folder that holds VOCdevkit and, for "trainaug", benchmark_RELEASE.
        split: "train", "trainaug", "val", or "test" (images only).

    Returns:
        dicts of `file_name`, `image_id` (the file name without suffix), `height`, `width`,
        `sem_seg_file_name` (grey, in the cache folder) and, where VOC has it, `object_file_name`:
        SegmentationObject's image of instances.

    Raises:
        DatasetError: a folder or file is missing or damaged; names it and says what to do.
    """
    check_split(split, _NUM_IMAGES)
    root = os.path.abspath(root)
    with explained(_REMEDY):
        records = _load(root, split)
    warn_if_incomplete(root, split, len(records), _NUM_IMAGES)
    return records


def _load(root: str, split: str) -> list[dict[str, Any]]:
    voc = os.path.join(root, "VOCdevkit", "VOC2012")
    sbd = os.path.join(root, "benchmark_RELEASE", "dataset")
    if split == "test":
        images = [os.path.join(voc, "JPEGImages", f"{stem}.jpg") for stem in _list(voc, "test")]
        return load_images(images)
    if split == "trainaug":
        pairs = _augmented_pairs(voc, sbd)
    else:
        pairs = [_voc_pair(voc, stem) for stem in _list(voc, split)]
    records = load_pairs(
        pairs,
        root=root,
        name=f"voc_2012_{split}",
        num_classes=len(VOC_CLASSES),
        ignore_label=_VOID,
        read=_read,
    )
    objects = os.path.join(voc, "SegmentationObject")
    names = set(os.listdir(objects)) if os.path.isdir(objects) else set()
    for record in records:
        name = f"{record['image_id']}.png"
        if name in names:
            record["object_file_name"] = os.path.join(objects, name)
    return records


def _read(path: str) -> np.ndarray:
    return read_sbd(path) if path.endswith(".mat") else read_labels(path)


def _voc_pair(voc: str, stem: str) -> Pair:
    image = os.path.join(voc, "JPEGImages", f"{stem}.jpg")
    return Pair(stem, image, os.path.join(voc, "SegmentationClass", f"{stem}.png"))


def _augmented_pairs(voc: str, sbd: str) -> list[Pair]:
    train, val = _list(voc, "train"), _list(voc, "val")
    added = os.path.join(voc, "SegmentationClassAug")
    given = os.path.isdir(added)
    if given:
        names = sorted(name for name in os.listdir(added) if name.endswith(".png"))
        extra = [name.removesuffix(".png") for name in names]
    else:
        extra = [stem for part in ("train", "val") for stem in _read_list(sbd, f"{part}.txt")]
    stems = sorted({*train, *extra} - set(val))
    own = set(train)
    folder = os.path.join(voc, "JPEGImages")
    images = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    pairs = []
    for stem in stems:
        pair = _voc_pair(voc, stem)
        if stem not in own:
            image = pair.image
            if f"{stem}.jpg" not in images:  # SBD brings its images along
                image = os.path.join(sbd, "img", f"{stem}.jpg")
            if given:
                pair = Pair(stem, image, os.path.join(added, f"{stem}.png"))
            else:
                pair = Pair(stem, image, os.path.join(sbd, "cls", f"{stem}.mat"))
        pairs.append(pair)
    return pairs


def _list(voc: str, split: str) -> list[str]:
    return _read_list(os.path.join(voc, "ImageSets", "Segmentation"), f"{split}.txt")


def _read_list(folder: str, name: str) -> list[str]:
    """Return the stems of a list file, one a line."""
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            stems = file.read().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"List {path} is missing or cannot be read.") from error
    if not stems:
        raise DatasetError(f"List {path} is empty.")
    return stems
