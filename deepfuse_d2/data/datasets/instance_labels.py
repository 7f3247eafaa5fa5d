"""Instance data sets made of pairs: an image, and a label image with an id an object."""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

from ..cache import Frame, parse_cached
from ..label_images import check_same_size, encode_regions, read_labels
from .semantic import Pair

__all__ = ["load_instance_labels"]

# Raise this when the meaning of what the parser returns changes: it makes old caches void.
_VERSION = 1


def load_instance_labels(
    pairs: Sequence[Pair], *, root: str | os.PathLike, name: str
) -> list[dict[str, Any]]:
    """Load pairs in detectron2's format; label images are parsed once, see the cache.

    Args:
        root: folder of the data set; decides where the cache lies.
        name: of the cache file, one for each kind of content.

    Returns:
        dicts of `file_name`, `image_id`, `height`, `width` and `annotations`: each a tight box
        (XYXY_ABS), category 0 and a compressed RLE mask. Pixels of id 0 belong to no object.

    Raises:
        DatasetError: a file is missing or damaged, or image and labels differ in size.
    """
    frames = [Frame(pair.key, (pair.image, pair.labels)) for pair in pairs]
    parsed = parse_cached(frames, _parse, root=root, name=name, version=_VERSION)
    return [
        {
            "file_name": frame.sources[0],
            "image_id": frame.key,
            "height": height,
            "width": width,
            "annotations": [
                {
                    # floats: detectron2's transforms scale coordinates in place
                    "bbox": [float(edge) for edge in box],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 0,
                    "segmentation": {"size": [height, width], "counts": counts},
                    "iscrowd": 0,
                }
                for *box, counts in objects
            ],
        }
        for frame, (height, width, objects) in parsed
    ]


def _parse(frame: Frame) -> list:
    """Return [height, width, [[x0, y0, x1, y1, counts], ...]]."""
    image, label_file = frame.sources
    ids = read_labels(label_file)
    check_same_size(image, label_file, ids.shape)
    objects = encode_regions(ids, lambda ids: ids > 0)
    return [*ids.shape, [[*one.box, one.counts] for one in objects]]
