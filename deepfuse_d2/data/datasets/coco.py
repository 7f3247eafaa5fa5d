"""A COCO JSON file by path: detectron2's loader, with messages that name file and next step."""

import os
from typing import Any

from ...errors import DatasetError

__all__ = ["load_coco"]


def load_coco(json_file: str, images: str, name: str) -> list[dict[str, Any]]:
    """Loads instance annotations in detectron2's format, and the class names into the metadata.

    Args:
        json_file: in COCO's format, with "images", "annotations" and "categories".
        images: the folder that the file names in it start from.
        name: of the registered data set; gets `thing_classes` in its metadata.

    Raises:
        DatasetError: the file or folder does not exist, or the file is not in that format.
    """
    from detectron2.data.datasets import load_coco_json

    if not os.path.isfile(json_file):
        raise DatasetError(f'Data set "{name}": annotation file {json_file} does not exist.')
    if not os.path.isdir(images):
        raise DatasetError(f'Data set "{name}": image folder {images} does not exist.')
    try:
        records = load_coco_json(json_file, images, name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f'Data set "{name}": {json_file} is not in COCO\'s format for instances ({reason}). '
            "Expected: images (id, file_name, height, width), annotations (id, image_id, "
            "category_id, bbox, segmentation, iscrowd) and categories (id, name)."
        ) from error
    if not records:
        raise DatasetError(f'Data set "{name}": {json_file} holds no image.')
    return records
