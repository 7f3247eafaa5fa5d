"""Frames to predict: images, folders of images, video files and cameras, each a source of its own.

A frame that cannot be read ends nothing: it is told and left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import ImageError, UserError
from ..inference.reading import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image

__all__ = ["Frame", "Source", "find_sources"]

_FALLBACK_FPS = 25.0


class Frame(NamedTuple):
    """
    Args:
        name: of its results, different from that of every other frame.
        image: (H, W, 3) uint8 BGR.
        file: where it comes from; a frame of a video is "street.mp4#17", counted from 0.
    """

    name: str
    image: np.ndarray
    file: str


class Source:
    """Images in their order, or the frames of a video or a camera.

    Attributes:
        name: of its results, different from that of every other source.
        moves: whether its frames are those of a video or a camera.
        count: frames to expect; None if nobody knows.
        problems: what could not be read, one message each; filled as frames are taken.
    """

    def __init__(
        self, name: str, paths: Sequence[tuple[Path, str]] = (), stream: str | int | None = None
    ):
        """
        Args:
            paths: images, each with the name of its results.
            stream: a video file, the number of a camera, or what else OpenCV opens.
        """
        self.name, self.moves = name, stream is not None
        self.problems: list[str] = []
        self._paths, self._stream = list(paths), stream
        self._capture = None
        self._fps, self.count = math.nan, len(self._paths)
        if self.moves:
            self._capture = cv2.VideoCapture(stream)
            if not self._capture.isOpened():
                what = f"camera {stream}" if isinstance(stream, int) else str(stream)
                raise UserError(f"{what} cannot be opened as a video.")
            self._fps = self._capture.get(cv2.CAP_PROP_FPS)
            count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            # a live stream says 0, less, or something without meaning
            self.count = int(count) if 0 < count < 1e9 and not isinstance(stream, int) else None

    def fps(self, wanted: float | None = None) -> float:
        """Frames a second: as wanted, or as the video says, or 25."""
        said = self._fps if 0 < self._fps <= 1000 else _FALLBACK_FPS
        return wanted or said

    def __iter__(self) -> Iterator[Frame]:
        if not self.moves:
            yield from self._images()
            return
        number = 0
        try:
            while True:
                there, image = self._capture.read()
                if not there:
                    break
                yield Frame(f"{self.name}_{number:06d}", image, f"{self._stream}#{number}")
                number += 1
        finally:
            self._capture.release()
        if not number:
            self.problems.append(f"{self._stream} gives no frames")

    def _images(self) -> Iterator[Frame]:
        for path, name in self._paths:
            try:
                image = read_image(path)
            except ImageError as error:
                self.problems.append(str(error))
                continue
            yield Frame(name, image, str(path))


def find_sources(inputs: Sequence[Path], cameras: Sequence[str] = ()) -> list[Source]:
    """The sources that `inputs` and `cameras` are.

    A folder holds images, its subfolders too; videos in it are sources of their own.

    Args:
        inputs: images, video files and folders.
        cameras: numbers (0 is the first), or addresses of streams.

    Raises:
        UserError: something is neither, or there is nothing.
    """
    names = _Names()
    sources = []
    for path in inputs:
        if path.is_dir():
            files = sorted(path.rglob("*"))
            images = [x for x in files if x.suffix.lower() in IMAGE_SUFFIXES]
            if images:
                named = [(image, names.new(image.stem)) for image in images]
                sources.append(Source(names.new_source(path.resolve().name), named))
            videos = [x for x in files if x.suffix.lower() in VIDEO_SUFFIXES]
        elif path.is_file():
            videos = [path] if path.suffix.lower() in VIDEO_SUFFIXES else []
            if not videos:
                name = names.new(path.stem)
                sources.append(Source(names.new_source(path.stem), [(path, name)]))
        else:
            raise UserError(f"{path} is neither a file nor a folder.")
        sources += [Source(names.new_source(x.stem), stream=str(x)) for x in videos]
    for camera in cameras:
        stream = int(camera) if camera.isdigit() else camera
        sources.append(Source(names.new_source("camera"), stream=stream))
    if not sources:
        raise UserError(
            f"no images in {', '.join(map(str, inputs))}; an image ends in one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, a video in one of "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}."
        )
    return sources


class _Names:
    """Names that were not given before: two folders may hold files of one name."""

    def __init__(self):
        self._taken: set[str] = set()
        self._sources: set[str] = set()

    def new(self, stem: str) -> str:
        return _free(stem, self._taken)

    def new_source(self, stem: str) -> str:
        return _free(stem, self._sources)


def _free(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name
