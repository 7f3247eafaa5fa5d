"""What a model found in an image as plain values and bytes: for files, networks and other programs.

``Predictor(..., output="record")`` gives it, of every model in the same form.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import cv2
import numpy as np
from torch import Tensor

__all__ = ["FORMS", "Record", "image_of_png", "labels_as_png", "record_of"]

#: What a model predicts -> the output of its converter that a record is made of.
FORMS = {"instances": "rle", "sem_seg": "native", "panoptic_seg": "native", "proposals": "rle"}

# of zlib, 0..9: label maps have large areas of one value
_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class Record(TypedDict, total=False):
    """One image; what the model does not give is not there.

    Attributes:
        height, width: of the image.
        instances: COCO's results: category_id, bbox (x, y, w, h), score; segmentation (compressed
            run lengths), keypoints.
        labels: PNG of one channel, the class of each pixel; 16 bits from 257 classes on.
        panoptic: PNG in COCO's panoptic form: R + 256 G + 65536 B is the id of a segment.
        segments: of the panoptic labels: id, category_id, isthing; score and area of things.
    """

    height: int
    width: int
    instances: list[dict]
    labels: bytes
    panoptic: bytes
    segments: list[dict]


def record_of(found: Mapping[str, Any], size: tuple[int, int]) -> Record:
    """What the converters of :data:`FORMS` gave for an image of `size` (height, width)."""
    record = Record(height=size[0], width=size[1])
    for name in ("proposals", "instances"):
        if name in found:
            record["instances"] = found[name]
    if "sem_seg" in found:
        record["labels"] = labels_as_png(np.asarray(found["sem_seg"]))
    if "panoptic_seg" in found:
        ids, segments = found["panoptic_seg"]
        record["panoptic"] = ids_as_png(ids)
        record["segments"] = [{k: _plain(v) for k, v in one.items()} for one in segments]
    return record


def labels_as_png(labels: np.ndarray) -> bytes:
    """(H, W) whole numbers below 65,536, as grey of 8 or 16 bits."""
    return _png(labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16))


def ids_as_png(ids: Tensor) -> bytes:
    """(H, W) whole numbers, as COCO's panoptic PNG."""
    values = ids.numpy().astype(np.uint32)
    return _png(np.stack([values >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8))


def image_of_png(content: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3), blue first, of one of the PNGs of a record."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None, content[:8]
    return image


def _png(image: np.ndarray) -> bytes:
    done, content = cv2.imencode(".png", image, _COMPRESSION)
    assert done, image.shape
    return content.tobytes()


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch as Python's."""
    return value.item() if hasattr(value, "item") else value
