"""Cityscapes (arXiv 1604.01685) in its official folder layout, and whatever shares that layout.

    <root>/leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png
    <root>/gtFine/<split>/<city>/<frame>_gtFine_{instanceIds,labelIds,labelTrainIds}.png

Instances come from the `instanceIds` images, as masks: unlike the polygons, they know what
occludes what, and the official evaluation is made on them. An id is `1000 * label + n` for an
instance, and the plain label for a group whose members cannot be told apart (`iscrowd` here).

This module reads and registers; it needs nothing of detectron2's own Cityscapes loader, which
recent versions cannot import everywhere (facebookresearch/detectron2 issue 5436).
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from detectron2.structures import BoxMode

from ...errors import DatasetError
from ...files import cache_home
from ..cache import Frame, cache_folder, parse_cached
from ..images import upright_size
from ..problems import explained, report
from .catalog import register_dataset
from .cityscapes_labels import INSTANCES_VERSION, SEMANTIC_VERSION, parse_instances, parse_semantic
from .cityscapes_layout import layout_folders, list_images, list_labelled_images

__all__ = [
    "cityscapes_metadata",
    "load_cityscapes_instances",
    "load_cityscapes_semantic",
    "register_cityscapes_layout",
]

IGNORE_LABEL = 255

_DEFAULT_REMEDY = (
    "Expected layout: {root}/leftImg8bit/<split>/<city>/*_leftImg8bit.png and "
    "{root}/gtFine/<split>/<city>/*_gtFine_{instanceIds,labelIds}.png; see datasets/README.md."
)


def load_cityscapes_instances(
    root: str | os.PathLike,
    split: str,
    *,
    with_labels: bool = True,
    remedy: str = _DEFAULT_REMEDY,
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Load a split for instance segmentation, in detectron2's format.

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`.
        split: name of a folder in both.
        with_labels: False for a split without ground truth: images only.
        remedy: what to do when something is missing; ends the error messages. `{root}` stands for
            the root.
        workers: see :func:`~deepfuse_d2.data.cache.parse_cached`.

    Returns:
        dicts of `file_name`, `image_id` (the image's file name), `height`, `width` and, with
        labels, `instance_file_name` and `annotations`: each a tight box (XYXY_ABS), the contiguous
        category (person, rider, car, truck, bus, train, motorcycle, bicycle), a compressed RLE
        mask, and `iscrowd` = 1 for a group.

    Raises:
        DatasetError: a folder or file is missing or damaged; names it and ends with `remedy`.
    """
    root = os.path.abspath(root)
    with explained(remedy.replace("{root}", root)):
        if not with_labels:
            return _images_only(root, split)
        frames = [
            Frame(key, (image, labels))
            for key, image, labels in list_labelled_images(root, split, ("instanceIds",))
        ]
        parsed = parse_cached(
            frames,
            parse_instances,
            root=root,
            name=f"instances_{split}",
            version=INSTANCES_VERSION,
            workers=workers,
        )
    return _told_apart([
        {
            **_image_dict(frame.sources[0], height, width),
            "instance_file_name": frame.sources[1],
            "annotations": [_annotation(entry, height, width) for entry in entries],
        }
        for frame, (height, width, entries) in parsed
    ])  # fmt: skip


def load_cityscapes_semantic(
    root: str | os.PathLike,
    split: str,
    *,
    with_labels: bool = True,
    remedy: str = _DEFAULT_REMEDY,
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Load a split for semantic segmentation, in detectron2's format.

    Frames without a `labelTrainIds` image get one made from `labelIds`, in the cache folder.

    Args: as for :func:`load_cityscapes_instances`.

    Returns:
        dicts of `file_name`, `image_id`, `height`, `width` and, with labels, `sem_seg_file_name`:
        a PNG of train ids 0..18, and 255 where there is nothing to learn.

    Raises:
        DatasetError: a folder or file is missing or damaged; names it and ends with `remedy`.
    """
    root = os.path.abspath(root)
    with explained(remedy.replace("{root}", root)):
        if not with_labels:
            return _images_only(root, split)
        labelled = list_labelled_images(root, split, ("labelTrainIds", "labelIds"))
        frames = _semantic_frames(root, split, labelled)
        parsed = parse_cached(
            frames,
            parse_semantic,
            root=root,
            name=f"semantic_{split}",
            version=SEMANTIC_VERSION,
            workers=workers,
        )
    return _told_apart([
        {
            **_image_dict(frame.sources[0], height, width),
            "sem_seg_file_name": frame.products[0] if frame.products else frame.sources[1],
        }
        for frame, (height, width) in parsed
    ])  # fmt: skip


def _semantic_frames(root: str, split: str, labelled: list[tuple[str, str, str]]) -> list[Frame]:
    """Add the `labelTrainIds` image that is to be made to each frame that has none."""
    folder = cache_folder(root)
    frames = []
    for key, image, labels in labelled:
        products: tuple[str, ...] = ()
        if labels.endswith("_labelIds.png"):
            if folder is None:
                raise DatasetError(
                    f"There is no place for the labelTrainIds image of {labels}: the user's cache "
                    f"folder, {cache_home()}, cannot be written. Set DEEPFUSE_CACHE to a folder "
                    "that can."
                )
            converted = key + "_gtFine_labelTrainIds.png"
            products = (os.path.join(folder, "labelTrainIds", split, *converted.split("/")),)
        frames.append(Frame(key, (image, labels), products))
    return frames


_LOADERS = {"instance_seg": load_cityscapes_instances, "sem_seg": load_cityscapes_semantic}


def register_cityscapes_layout(
    name: str,
    root: str | os.PathLike | Callable[[], str | os.PathLike],
    split: str,
    task: str = "instance_seg",
    *,
    with_labels: bool | None = None,
    remedy: str = _DEFAULT_REMEDY,
    replace: bool = False,
) -> None:
    """Register a folder in the layout of Cityscapes as a data set of detectron2.

    Nothing is read until the data set is used.

    Args:
        name: what to write in `DATASETS.TRAIN` or `DATASETS.TEST`.
        root: the folder that holds `leftImg8bit` and `gtFine`, or a function that returns it (and
            may prepare it), called whenever the data set is used.
        split: name of a folder in both, such as "train".
        task: "instance_seg" or "sem_seg".
        with_labels: whether the split has ground truth; by default each but "test".
        remedy: what to do when something is missing; ends the error messages.
        replace: whether a data set already registered under `name` gives way.

    Example:
        >>> register_cityscapes_layout("my_town_train", "/data/my_town", "train")
    """
    if task not in _LOADERS:
        raise ValueError(f"task = {task!r} is unknown; choose one of {sorted(_LOADERS)}.")
    if with_labels is None:
        with_labels = split != "test"
    metadata = cityscapes_metadata(task) | {"has_labels": with_labels}
    if not callable(root):
        metadata |= layout_folders(root, split)
    register_dataset(
        name,
        functools.partial(_load, root, split, task, with_labels=with_labels, remedy=remedy),
        metadata,
        replace=replace,
    )


def cityscapes_metadata(task: str) -> dict[str, Any]:
    """Return class names, colours and evaluator type for "instance_seg" or "sem_seg"."""
    from cityscapesscripts.helpers.labels import trainId2label

    classes = [trainId2label[i] for i in range(19)]
    things = [label for label in classes if label.hasInstances]
    return {
        "evaluator_type": {
            "instance_seg": "cityscapes_instance",
            "sem_seg": "cityscapes_sem_seg",
        }[task],
        "thing_classes": [label.name for label in things],
        "thing_colors": [list(label.color) for label in things],
        "stuff_classes": [label.name for label in classes],
        "stuff_colors": [list(label.color) for label in classes],
        "ignore_label": IGNORE_LABEL,
    }


def _load(root, split, task, **options) -> list[dict[str, Any]]:
    return _LOADERS[task](root() if callable(root) else root, split, **options)


def _image_dict(image: str, height: int, width: int) -> dict[str, Any]:
    return {
        "file_name": image,
        "image_id": os.path.basename(image),
        "height": height,
        "width": width,
    }


def _annotation(entry: list, height: int, width: int) -> dict[str, Any]:
    category, crowd, *box, counts = entry
    return {
        # floats: detectron2's transforms write scaled coordinates into an array of this type
        "bbox": [float(edge) for edge in box],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "segmentation": {"size": [height, width], "counts": counts},
        "iscrowd": crowd,
    }


def _images_only(root: str, split: str) -> list[dict[str, Any]]:
    records, problems = [], []
    for _, _, image in list_images(root, split):
        try:
            records.append(_image_dict(image, *upright_size(image)))
        except DatasetError as error:
            problems.append(str(error))
    report(problems)
    return records


def _told_apart(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`records`, with the city before those names that two cities have."""
    counts = Counter(record["image_id"] for record in records)
    for record in records:
        if counts[record["image_id"]] > 1:
            city = os.path.basename(os.path.dirname(record["file_name"]))
            record["image_id"] = f"{city}/{record['image_id']}"
    return records
