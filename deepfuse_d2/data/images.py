"""Images as people have them: files, bytes, arrays, of any mode; what is none is named.

Training, evaluation, check, drawing and Predictor read their images here, so that a file has one
meaning everywhere: upright by EXIF, 16 bits as the upper 8, floating-point numbers from 0 to 1.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import ConfigError, DatasetError, ImageError

__all__ = [
    "DECODE_ERRORS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "damaged",
    "eight_bits",
    "read_as",
    "read_channels",
    "read_image",
    "to_format",
    "upright_size",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# What Pillow lets through for a file that is not, or no longer, a whole image.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, zlib.error,
                 Image.DecompressionBombError)  # fmt: skip

# What the last bytes of a whole file hold; a transfer that broke off lacks it.
_TRAILERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_TRAILER_BYTES = 1024

_ORIENTATION = 0x0112

# INPUT.FORMAT that is made of red, green and blue
_OF_COLOURS = ("BGR", "RGB", "YUV-BT.601")

# Where Pillow refuses as well, by default: 13,377 x 13,377.
MAX_PIXELS = 178_956_970


def read_image(
    source: str | os.PathLike | bytes | bytearray | BinaryIO | np.ndarray | Image.Image,
    max_pixels: int = MAX_PIXELS,
    *,
    name: str = "",
) -> np.ndarray:
    """Read an image upright, as (H, W, 3) uint8, blue first.

    Grey becomes three equal channels, transparency is dropped, 16 bits become the upper 8, the
    orientation of EXIF is applied. Of several frames (GIF, TIFF) the first is read.

    Args:
        source: file, by name or open, the bytes of one, a PIL image, or an array (H, W),
            (H, W, 1), (H, W, 3) with blue first, or (H, W, 4), of uint8 or uint16.
        max_pixels: a larger image is refused, before it is decoded.
        name: of a PIL image, or of bytes, in messages.

    Raises:
        ImageError: there is no image, or it is damaged, too large, or of a kind that cannot be
            shown in 8 bits.
    """
    source, name = _in_memory(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, name or "the image", max_pixels)
    if isinstance(source, bytes):
        name, content = name or f"the image ({len(source)} bytes)", source
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


def _in_memory(source: Any, name: str) -> tuple[Any, str]:
    """What an open file or a buffer holds, as bytes, and its name; else `source`, as it is."""
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source), name
    if hasattr(source, "read") and not isinstance(source, Image.Image):
        name = name or str(getattr(source, "name", "the open file"))
        try:
            content = source.read()
        except (OSError, ValueError) as error:  # of a text file: no UTF-8; or it is closed
            raise ImageError(f"{name} cannot be read: {error}.") from error
        if not isinstance(content, bytes):
            raise ImageError(f'{name} is open as text; open it with mode "rb".')
        return content, name
    if isinstance(source, Tensor):
        raise ImageError(
            f"A tensor of shape {tuple(source.shape)} does not say how its colours are ordered; "
            "give an array (H, W, 3) with blue first, of uint8."
        )
    if isinstance(source, str) and "://" in source:
        raise ImageError(f"{source} is an address; fetch it first, and give the bytes or the file.")
    return source, name


def read_as(path: str | os.PathLike, image_format: str) -> np.ndarray:
    """Read an image file upright, (H, W, C) in the colours of INPUT.FORMAT.

    Args:
        image_format: what detectron2's INPUT.FORMAT may be: "BGR", "RGB", "YUV-BT.601" (as floats),
            or a mode of Pillow such as "L" or "RGBA".
    """
    if image_format in _OF_COLOURS:
        return to_format(read_image(path), image_format)
    return _read_mode(path, image_format, MAX_PIXELS)[0]


def to_format(image: np.ndarray, image_format: str) -> np.ndarray:
    """(H, W, 3) uint8, blue first, in the colours of INPUT.FORMAT, see :func:`read_as`."""
    if image_format == "BGR":
        return image
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    if image_format == "RGB":
        return rgb
    if image_format == "YUV-BT.601":
        return convert_PIL_to_numpy(Image.fromarray(rgb), image_format)
    return _in_mode(Image.fromarray(rgb), image_format)


def read_channels(
    source: str | os.PathLike | bytes | bytearray | BinaryIO | np.ndarray | Image.Image,
    channels: int,
    image_format: str,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Read an image of a model whose images have other than three channels, as (H, W, C).

    Args:
        source: see :func:`read_image`. An array (H, W, C), or (H, W) for one channel, stays as it
            is; all others become what Pillow calls `image_format`, as in training.
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
    image, name = _read_mode(source, image_format, max_pixels)
    if image.shape[2] != channels:
        raise ImageError(
            f"{name} has {image.shape[2]} channels as {image_format} (INPUT.FORMAT); the model "
            f"takes {channels} (MODEL.PIXEL_MEAN). Give an array (H, W, {channels})."
        )
    return image


def _read_mode(
    source: str | os.PathLike | bytes | Image.Image, mode: str, max_pixels: int
) -> tuple[np.ndarray, str]:
    """(H, W, C) in a mode of Pillow, and the name of the image."""
    source, name = _in_memory(source, "")
    is_file = isinstance(source, (str, os.PathLike))
    name = os.fspath(source) if is_file else name or "The image"
    try:
        if not isinstance(source, Image.Image):
            source = Image.open(io.BytesIO(_content(Path(source)) if is_file else source))
        _check_size(name, source.height, source.width, max_pixels)
        return _in_mode(eight_bits(ImageOps.exif_transpose(source), name), mode), name
    except (ImageError, ConfigError):
        raise
    except (*DECODE_ERRORS, TypeError) as error:
        raise ImageError(f"{name} cannot be read as {mode}: {error}.") from error


def _in_mode(image: Image.Image, mode: str) -> np.ndarray:
    try:
        converted = np.array(image.convert(mode))
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f'INPUT.FORMAT = "{mode}" is no colour format; choose "BGR", "RGB", "L", "YUV-BT.601" '
            "or another mode of Pillow."
        ) from error
    return converted if converted.ndim == 3 else converted[:, :, None]


def upright_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of an image file as it is read, from its header: no pixel is decoded.

    Raises:
        DatasetError: the file is missing, no image, or cut off.
    """
    with _opened(path) as image:
        width, height = image.size
        trailer = _TRAILERS.get(image.format)
        # asking a PNG for its orientation would decode it; in practice there is none
        orientation = 1
        if image.format != "PNG" or "exif" in image.info:
            orientation = image.getexif().get(_ORIENTATION, 1)
        if trailer is not None:
            with open(path, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TRAILER_BYTES))
                if trailer not in file.read():
                    raise OSError("the end of the file is missing")
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """An image file of a data set; whatever goes wrong with it is a DatasetError."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise DatasetError(f"Image {path} is missing.") from error
    except DECODE_ERRORS as error:
        raise DatasetError(damaged(path, error)) from error


def damaged(path: str | os.PathLike, error: Exception) -> str:
    """The message for a file of a data set that cannot be decoded."""
    # Pillow's own message may repeat the path
    reason = str(error).split(str(path))[0].rstrip(" '\"") or type(error).__name__
    return f"{path} is damaged or incomplete ({reason}). Copy or download this file again."


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist (folder: {os.getcwd()}).") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"{str(path)!r} is no name of a file: {error}.") from error


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    width, height = image.size
    _check_size(name, height, width, max_pixels)
    try:
        pixels = np.asarray(eight_bits(ImageOps.exif_transpose(image), name).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged: {error}.") from error
    return np.ascontiguousarray(pixels[:, :, ::-1])


def eight_bits(image: Image.Image, name: str) -> Image.Image:
    """`image`, or what it shows in 8 bits: the upper ones of 16, floating-point numbers times 255.

    Args:
        name: of the image, in messages.

    Raises:
        ImageError: it holds numbers of another range.
    """
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also where they are nan
            raise ImageError(
                f"{name} holds floating-point numbers from {low:g} to {high:g}, whose range is not "
                "known; convert it to 8 or 16 bits, or to 0 .. 1."
            )
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if image.mode.startswith("I"):  # I;16 and its variants, or I of a 16-bit file
        values = np.asarray(image)
        if values.dtype != np.uint16 and (values.min() < 0 or values.max() > 0xFFFF):
            raise ImageError(
                f"{name} holds 32-bit numbers from {values.min()} to {values.max()}; convert it to "
                "8 or 16 bits."
            )
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    return image


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
    import cv2

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
