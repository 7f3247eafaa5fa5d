"""Pictures of unknown origin, decoded with care: bytes in, an image as models take it out."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np

from ..errors import UserError

__all__ = ["FORMATS", "MOST_PIXELS", "PictureError", "decode", "reduced"]

#: Formats that are decoded, by Pillow's names. No others: a decoder is a door.
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
#: 8000 x 8000; the header tells before anything is decoded.
MOST_PIXELS = 64_000_000


class PictureError(UserError, ValueError):
    """A file is no picture, is damaged, or is too large."""


def decode(content: bytes, name: str = "The file") -> np.ndarray:
    """(H, W, 3) uint8 BGR of an encoded picture, upright as its camera says.

    Grey becomes three equal channels, 16 bits become 8, and what is transparent becomes white.

    Args:
        content: the whole file.
        name: for messages alone.

    Raises:
        PictureError: says what is wrong with it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise PictureError(f"{name} is empty (0 bytes); give a photograph.")
    try:
        with warnings.catch_warnings():
            # our own limit is below the one that Pillow warns about
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise PictureError(
                    f"{name} has {width} x {height} pixels; at most {MOST_PIXELS // 10**6} million "
                    "are taken. Give a smaller picture."
                )
            image = ImageOps.exif_transpose(image)
            return _bgr(image)
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name} is not a picture; known formats are {', '.join(FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has far more than {MOST_PIXELS // 10**6} million pixels, the most that are "
            "taken. Give a smaller picture."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"{name} is damaged: {error}. Save it anew.") from error


def reduced(image: np.ndarray, longest: int) -> np.ndarray:
    """`image` with no side over `longest` pixels; itself if it has none."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _bgr(image) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if image.mode.startswith("I"):
            values /= 256  # 16 bits; Pillow reads some of them into 32
        grey = np.clip(values, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
