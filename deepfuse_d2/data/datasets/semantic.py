"""Semantic data sets made of pairs: an image, and a label file with a class id in each pixel."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import DatasetError
from ...files import cache_home
from ..cache import Frame, cache_folder, parse_cached
from ..images import IMAGE_SUFFIXES, upright_size
from ..label_images import check_same_size, read_labels, save_labels
from ..problems import report

__all__ = ["Pair", "load_images", "load_pairs", "pair_by_stem"]

LABEL_SUFFIXES = (".png", ".tif", ".tiff")

# Raise this when the meaning of what the parser returns changes: it makes old caches void.
_VERSION = 1


class Pair(NamedTuple):
    #: Unique in the data set; the `image_id` of its record.
    key: str
    #: Absolute paths.
    image: str
    labels: str


def pair_by_stem(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    label_suffix: str | None = None,
    *,
    skip_suffix: str | None = None,
) -> list[Pair]:
    """Find the label file of the same stem for every image of a folder, sorted by stem.

    Args:
        label_suffix: what follows the stem in the name of a label file, such as "_mask.png"; by
            default the first there is of :data:`LABEL_SUFFIXES`.
        skip_suffix: files that end so are no images, where both lie in one folder.

    Raises:
        DatasetError: a folder does not exist or is empty, or an image has no label file.
    """
    for folder in (images, labels):
        if not os.path.isdir(folder):
            raise DatasetError(f"Folder {folder} does not exist.")
    stems = {}
    # of several formats of one image the last counts: .png
    for name in sorted(os.listdir(images), key=lambda name: (name.lower().endswith(".png"), name)):
        stem, suffix = os.path.splitext(name)
        if skip_suffix and name.endswith(skip_suffix):
            continue
        if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
            stems[stem] = os.path.abspath(os.path.join(images, name))
    if not stems:
        raise DatasetError(f"Folder {images} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    present = set(os.listdir(labels))
    pairs, missing = [], []
    for stem, image in sorted(stems.items()):
        names = [stem + suffix for suffix in ([label_suffix] if label_suffix else LABEL_SUFFIXES)]
        name = next((name for name in names if name in present), None)
        path = os.path.abspath(os.path.join(labels, name or names[0]))
        if name:
            pairs.append(Pair(stem, image, path))
        else:
            missing.append(f"Label file {path} is missing.")
    report(missing)
    return pairs


def load_pairs(
    pairs: Sequence[Pair],
    *,
    root: str | os.PathLike,
    name: str,
    num_classes: int,
    ignore_label: int,
    read: Callable[[str], np.ndarray] = read_labels,
) -> list[dict[str, Any]]:
    """Load pairs in detectron2's format, after a check of sizes and ids (once, see the cache).

    Detectron2's mapper reads grey 8-bit images only: it takes the brightness of a palette's colour
    for the id. Label files of any other form are converted into the cache folder.

    Args:
        root: folder of the data set; decides where the cache lies.
        name: of the cache file, one for each kind of content.
        num_classes: ids 0 .. num_classes - 1 and `ignore_label` are allowed.
        read: returns the (H, W) ids of a label file; a module-level function.

    Returns:
        dicts of `file_name`, `image_id`, `height`, `width`, `sem_seg_file_name`.

    Raises:
        DatasetError: a file is missing or damaged, image and labels differ in size, an id is not
            allowed.
    """
    folder = cache_folder(root)
    frames = []
    for pair in pairs:
        products: tuple[str, ...] = ()
        if not _is_grey(pair.labels):
            if folder is None:
                raise DatasetError(
                    f"There is no place for the converted form of {pair.labels}: the user's cache "
                    f"folder, {cache_home()}, cannot be written. Set DEEPFUSE_CACHE to a folder "
                    "that can."
                )
            products = (os.path.join(folder, "labels", name, f"{pair.key}.png"),)
        frames.append(Frame(pair.key, (pair.image, pair.labels), products))
    parsed = parse_cached(
        frames,
        functools.partial(_parse, read, num_classes, ignore_label),
        root=root,
        # what was checked against other ids has to be checked again
        name=f"{name}_{num_classes}_{ignore_label}",
        version=_VERSION,
    )
    return [
        {
            "file_name": frame.sources[0],
            "image_id": frame.key,
            "height": height,
            "width": width,
            "sem_seg_file_name": (frame.products or frame.sources[1:])[0],
        }
        for frame, (height, width) in parsed
    ]


def load_images(images: Sequence[str]) -> list[dict[str, Any]]:
    """Load images without labels in detectron2's format; `image_id` is the stem of the file."""
    records, problems = [], []
    for image in images:
        try:
            height, width = upright_size(image)
        except DatasetError as error:
            problems.append(str(error))
            continue
        stem = os.path.splitext(os.path.basename(image))[0]
        records.append(
            {"file_name": image, "image_id": stem, "height": height, "width": width}
        )  # fmt: skip
    report(problems)
    return records


def _is_grey(path: str) -> bool:
    """Whether detectron2's mapper reads the ids of a label file; True for what is no image."""
    if not path.lower().endswith(".png"):
        return False
    try:
        with Image.open(path) as image:
            return image.mode == "L"
    except (OSError, SyntaxError, ValueError):
        return True  # the parser explains it


def _parse(
    read: Callable[[str], np.ndarray], num_classes: int, ignore_label: int, frame: Frame
) -> list[int]:
    """Check a pair, convert its labels where the frame has a product; return (H, W)."""
    image, label_file = frame.sources
    labels = read(label_file)
    check_same_size(image, label_file, labels.shape)
    ids = np.unique(labels)
    wrong = ids[((ids < 0) | (ids >= num_classes)) & (ids != ignore_label)]
    if wrong.size:
        hint = ""
        if set(ids.tolist()) <= {0, 255}:
            hint = " A mask of 0 and 255 is no label image: 1, not 255, stands for the object."
        raise DatasetError(
            f"{label_file} holds the id {wrong[0]}; expected 0..{num_classes - 1}, or "
            f"{ignore_label} where there is nothing to learn.{hint}"
        )
    if frame.products:
        save_labels(labels.astype(np.uint8), frame.products[0])
    return list(labels.shape)
