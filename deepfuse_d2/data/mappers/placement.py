"""What detectron2's geometric transforms do, known before there are any pixels.

Which part of an image a crop keeps, and from which pixel a resized label comes, follows from the
sizes alone. So transforms are drawn first, and pixels are read only where they are kept.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

from .large_scale_jitter import LargeScaleJitter

__all__ = ["draw_transforms", "is_drawn_by_size", "resized_positions", "source_positions"]

# Augmentations whose transforms depend on random numbers and the size of the image.
_BY_SIZE = (
    T.RandomCrop,
    T.RandomFlip,
    T.Resize,
    T.ResizeScale,
    T.ResizeShortestEdge,
    LargeScaleJitter,
)


def is_drawn_by_size(augmentation: T.Augmentation) -> bool:
    """Whether :func:`draw_transforms` can take it."""
    return type(augmentation) in _BY_SIZE


def draw_transforms(
    augmentations: Sequence[T.Augmentation], height: int, width: int
) -> list[T.Transform]:
    """The transforms that `augmentations` would draw for an image of that size, in their order.

    They take the same random numbers as if they were applied to the image.
    """
    drawn = _Size(height, width)
    for augmentation in augmentations:
        augmentation(drawn)
    return drawn.transforms


class _Size(T.AugInput):
    """Stands in for an image of which only the size is known."""

    def __init__(self, height: int, width: int):
        self.transforms: list[T.Transform] = []
        self._resize(height, width)

    def _resize(self, height: int, width: int) -> None:
        # an array of that shape without memory: all its pixels are one
        self.image = np.broadcast_to(np.uint8(0), (height, width, 3))

    def transform(self, tfm: T.Transform) -> None:
        for one in tfm.transforms if isinstance(tfm, T.TransformList) else [tfm]:
            self.transforms.append(one)
            rows, columns = source_positions([one], *self.image.shape[:2])
            self._resize(len(rows), len(columns))


def source_positions(
    transforms: Iterable[T.Transform], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the source, of every row and every column of the transformed label image.

    Example:
        >>> source_positions([T.CropTransform(2, 0, 3, 4), T.HFlipTransform(3)], 4, 6)
        (array([0, 1, 2, 3]), array([4, 3, 2]))
    """
    rows, columns = np.arange(height), np.arange(width)
    for one in transforms:
        if isinstance(one, T.CropTransform):
            rows, columns = rows[one.y0 : one.y0 + one.h], columns[one.x0 : one.x0 + one.w]
        elif isinstance(one, T.ResizeTransform):
            assert (len(rows), len(columns)) == (one.h, one.w), (len(rows), len(columns), one)
            rows = rows[resized_positions(one.h, one.new_h)]
            columns = columns[resized_positions(one.w, one.new_w)]
        elif isinstance(one, T.HFlipTransform):
            columns = columns[::-1]
        elif isinstance(one, T.VFlipTransform):
            rows = rows[::-1]
        else:
            assert isinstance(one, T.NoOpTransform), f"{one} is none of what _BY_SIZE draws"
    return rows, columns


@functools.lru_cache(maxsize=4096)
def resized_positions(length: int, new_length: int) -> np.ndarray:
    """Position, of `length`, that each of `new_length` comes from when a label image is resized.

    Pillow itself is asked: it adds up steps, which rounds differently from any formula.
    """
    ruler = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(ruler.resize((new_length, 1), Image.NEAREST))[0].astype(np.int64)
