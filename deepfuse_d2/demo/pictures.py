"""Pictures that come from a browser: bytes of unknown origin, decoded with care."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np

from ..errors import ImageError
from ..inference.reading import read_image

__all__ = ["FORMATS", "MOST_PIXELS", "decode", "reduced"]

#: Formats that are decoded, by Pillow's names. No others: a decoder is a door.
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
#: 8000 x 8000; the header tells before anything is decoded.
MOST_PIXELS = 64_000_000


def decode(content: bytes, name: str = "The file") -> np.ndarray:
    """(H, W, 3) uint8 BGR of an encoded picture, as :func:`.read_image` reads it.

    In addition, what is transparent becomes white.

    Args:
        content: the whole file.
        name: for messages alone.

    Raises:
        ImageError: says what is wrong with it.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise ImageError(f"{name} is empty (0 bytes); give a photograph.")
    try:
        with warnings.catch_warnings():
            # our own limit is below the one that Pillow warns about
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture; known formats are {', '.join(FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} has far more than {MOST_PIXELS // 10**6} million pixels, the most that are "
            "taken. Give a smaller picture."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _damaged(name, error) from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels; at most {MOST_PIXELS // 10**6} million are "
            "taken. Give a smaller picture."
        )
    try:
        return read_image(_on_white(image), MOST_PIXELS, name=name)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, ImageError):
            raise
        raise _damaged(name, error) from error


def reduced(image: np.ndarray, longest: int) -> np.ndarray:
    """`image` with no side over `longest` pixels; itself if it has none."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _on_white(image):
    """A PIL image without transparency, its EXIF entries kept."""
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image
    exif = image.getexif()
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(white, image).convert("RGB")
    flat.info["exif"] = exif.tobytes()
    return flat


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} is damaged: {error}. Save it anew.")
