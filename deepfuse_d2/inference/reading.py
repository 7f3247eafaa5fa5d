"""Images as people have them: files, bytes, arrays, of any mode; what is none is named."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError

__all__ = [
    "IMAGE_SUFFIXES", "MAX_PIXELS", "VIDEO_SUFFIXES", "find_images", "read_channels", "read_image",
    "video",
]  # fmt: skip

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({
    ".avi", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm",
})  # fmt: skip

# Where Pillow refuses as well, by default: 13,377 x 13,377.
MAX_PIXELS = 178_956_970


def read_image(
    source: str | os.PathLike | bytes | np.ndarray | Image.Image,
    max_pixels: int = MAX_PIXELS,
    *,
    name: str = "",
) -> np.ndarray:
    """Read an image upright, as (H, W, 3) uint8, blue first.

    Grey becomes three equal channels, transparency is dropped, 16 bits become the upper 8, the
    orientation of EXIF is applied. Of several frames (GIF, TIFF) the first is read.

    Args:
        source: file, the bytes of one, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) with
            blue first, or (H, W, 4), of uint8 or uint16.
        max_pixels: a larger image is refused, before it is decoded.
        name: of a PIL image, or of bytes, in messages.

    Raises:
        ImageError: there is no image, or it is damaged, too large, or of a kind that cannot be
            shown in 8 bits.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, name or "the image", max_pixels)
    if isinstance(source, (bytes, bytearray)):
        name, content = name or f"the image ({len(source)} bytes)", bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        name, content = os.fspath(source), _content(Path(source))
    else:
        raise ImageError(
            f"A {type(source).__name__} is not an image; give a file name, the bytes of a file, an "
            "array (H, W, 3) or a PIL image."
        )
    if not content:
        raise ImageError(f"{name} is empty (0 bytes).")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _from_pillow(image, name, max_pixels)
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not an image, or of a format that is not known; it starts with "
            f"{content[:8]!r}. PNG, JPEG, WebP, TIFF and BMP are known."
        ) from None
    except Image.DecompressionBombError as error:
        # Pillow's own limit, for the whole process; OpenCV has another one
        if max_pixels <= MAX_PIXELS:
            raise ImageError(f"{name} has too many pixels. {_limit(max_pixels)}") from error
        return _from_opencv(content, name, max_pixels)


def read_channels(
    source: str | os.PathLike | bytes | np.ndarray | Image.Image,
    channels: int,
    image_format: str,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Read an image of a model whose images have other than three channels, as (H, W, C).

    Args:
        source: see :func:`read_image`. An array (H, W, C), or (H, W) for one channel, stays as it
            is; all others become what Pillow calls `image_format`, as in detectron2's training.
        channels: C.
        image_format: INPUT.FORMAT: "L" for one channel, "RGBA" or "CMYK" for four.

    Raises: ImageError: there is no image, or it has other channels.
    """
    if isinstance(source, np.ndarray):
        image = source[:, :, None] if source.ndim == 2 else source
        if image.ndim != 3 or image.shape[2] != channels:
            raise ImageError(
                f"An array of shape {source.shape} is no image of {channels} channels, which the "
                f"model takes; expected (H, W, {channels})."
            )
        _check_size("The array", *image.shape[:2], max_pixels)
        return image
    is_file = isinstance(source, (str, os.PathLike))
    name = os.fspath(source) if is_file else "The image"
    try:
        if not isinstance(source, Image.Image):
            source = Image.open(io.BytesIO(_content(Path(source)) if is_file else source))
        _check_size(name, source.height, source.width, max_pixels)
        image = np.array(ImageOps.exif_transpose(source).convert(image_format))
    except ImageError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"{name} cannot be read as {image_format}: {error}.") from error
    image = image[:, :, None] if image.ndim == 2 else image
    if image.shape[2] != channels:
        raise ImageError(
            f"{name} has {image.shape[2]} channels as {image_format} (INPUT.FORMAT); the model "
            f"takes {channels} (MODEL.PIXEL_MEAN). Give an array (H, W, {channels})."
        )
    return image


def find_images(folder: Path) -> list[Path]:
    """Image files in a folder and below, in the order of their names."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ImageError(
            f"There are no images in {folder}; an image ends in one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return paths


def video(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video file, blue first."""
    capture = cv2.VideoCapture(os.fspath(path))
    try:
        if not capture.isOpened():
            raise ImageError(f"{path} cannot be opened as a video by OpenCV {cv2.__version__}.")
        count = 0
        while True:
            more, frame = capture.read()
            if not more:
                break
            count += 1
            yield frame
        if not count:
            raise ImageError(f"{path} is a video without a frame that can be decoded.")
    finally:
        capture.release()


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist (folder: {os.getcwd()}).") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    width, height = image.size
    _check_size(name, height, width, max_pixels)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # I;16 and its variants, or I of a 16-bit file
            return _from_array(_sixteen_bits(image, name), max_pixels)
        if image.mode == "F":
            raise ImageError(
                f"{name} holds floating-point numbers, whose range is not known; convert it to 8 "
                "or 16 bits."
            )
        pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged: {error}.") from error
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _sixteen_bits(image: Image.Image, name: str) -> np.ndarray:
    values = np.asarray(image)
    if values.dtype != np.uint16:
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError(
                f"{name} holds 32-bit numbers from {values.min()} to {values.max()}; convert it to "
                "8 or 16 bits."
            )
        values = values.astype(np.uint16)
    return values


def _from_array(array: np.ndarray, max_pixels: int) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"An array of shape {array.shape} is not an image; expected (H, W), (H, W, 1), "
            "(H, W, 3) or (H, W, 4)."
        )
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"An image of {array.dtype} has no known range; convert it to uint8 (0 .. 255)."
        )
    _check_size("The array", *array.shape[:2], max_pixels)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.shape[2] == 1:
        return array.repeat(3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _from_opencv(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"{name} is too large for OpenCV: {error}") from error
    if pixels is None:
        raise ImageError(f"{name} is too large for Pillow, and OpenCV cannot read it.")
    _check_size(name, *pixels.shape[:2], max_pixels)
    return pixels


def _check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels. {_limit(max_pixels)}")


def _limit(max_pixels: int) -> str:
    return (
        f"At most {max_pixels:,} are read, against files that fill the memory; "
        "Predictor(max_pixels=...) raises the limit, and tile=(1024, 2048) keeps the network's "
        "memory small."
    )
