"""Folders and videos of images to predict."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..data.images import IMAGE_SUFFIXES, MAX_PIXELS, read_channels, read_image
from ..errors import ImageError

__all__ = [
    "IMAGE_SUFFIXES", "MAX_PIXELS", "VIDEO_SUFFIXES", "find_images", "read_channels", "read_image",
    "video",
]  # fmt: skip

VIDEO_SUFFIXES = frozenset({
    ".avi", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm",
})  # fmt: skip


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
