"""Read an image for training: decoded as far as it is kept, and left to Pillow all the way.

detectron2 takes the image out of Pillow after decoding, out of its order of channels, and back for
each resizing: five copies of six megabytes for a frame of Cityscapes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import _apply_exif_orientation
from detectron2.utils.file_io import PathManager
from PIL import Image
from torch import Tensor

from ..images import eight_bits

__all__ = ["FORMATS", "read_transformed"]

# INPUT.FORMAT -> which of Pillow's R, G, B comes first, second, third
FORMATS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}

_FLIPS = {T.HFlipTransform: Image.FLIP_LEFT_RIGHT, T.VFlipTransform: Image.FLIP_TOP_BOTTOM}


def read_transformed(
    path: str, image_format: str, draw: Callable[[int, int], Sequence[T.Transform]]
) -> Tensor:
    """(3, H, W) bytes: what :func:`..images.read_as` and then the transforms give.

    Args:
        path: of the file.
        image_format: a key of :data:`FORMATS`.
        draw: gets the height and the width of the image, orientation by EXIF included, and returns
            crops, resizings and flips. What the first, a crop, does not keep at the bottom of a PNG
            is not decoded.
    """
    with PathManager.open(path, "rb") as file:
        image = Image.open(file)
        if image.format == "PNG" and "exif" not in image.info:
            # Asking a PNG for its orientation would decode it. In practice there is none; where it
            # stands behind the pixels, it is known below.
            transforms = draw(image.height, image.width)
            _decode_until(image, _lowest_row(transforms, image.height))
            if image.getexif().get(0x0112, 1) != 1:
                file.seek(0)
                image = _apply_exif_orientation(Image.open(file))
        else:
            image = _apply_exif_orientation(image)
            transforms = draw(image.height, image.width)
        # an image that nothing changes is decoded only now, while the file is open
        pixels = np.asarray(_transform(image, transforms, path))
    planes = np.empty((3, *pixels.shape[:2]), dtype=np.uint8)
    for plane, channel in zip(planes, FORMATS[image_format], strict=True):
        plane[...] = pixels[..., channel]
    return torch.from_numpy(planes)


def _lowest_row(transforms: Sequence[T.Transform], height: int) -> int:
    crop = transforms[0] if transforms else None
    return min(crop.y0 + crop.h, height) if isinstance(crop, T.CropTransform) else height


def _decode_until(image: Image.Image, row: int) -> None:
    """Decode a PNG up to `row`; those below stay black."""
    if row < image.height and len(image.tile) == 1 and not image.info.get("interlace"):
        tile = image.tile[0]
        decoder, _, *rest = tile
        # a plain tuple before Pillow 11
        make = getattr(type(tile), "_make", tuple)
        image.tile = [make([decoder, (0, 0, image.width, row), *rest])]
    image.load()


def _transform(image: Image.Image, transforms: Sequence[T.Transform], path: str) -> Image.Image:
    for one in transforms:
        if isinstance(one, T.CropTransform):
            image = image.crop((one.x0, one.y0, one.x0 + one.w, one.y0 + one.h))
        elif isinstance(one, T.ResizeTransform):
            # the indices of a palette cannot be mixed
            image = _rgb(image, path).resize((one.new_w, one.new_h), one.interp)
        elif type(one) in _FLIPS:
            image = image.transpose(_FLIPS[type(one)])
        else:
            assert isinstance(one, T.NoOpTransform), f"{one} is no crop, resizing or flip"
    return _rgb(image, path)


def _rgb(image: Image.Image, path: str) -> Image.Image:
    return image if image.mode == "RGB" else eight_bits(image, path).convert("RGB")
