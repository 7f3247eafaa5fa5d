"""What a MiniCity on disk consists of: its parameters in ``minicity.json``, its files by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..generated import GeneratedSet
from .cities import frame_name

__all__ = ["FOLDERS", "MANIFEST", "VERSION", "Manifest", "frame_paths", "is_complete"]

VERSION = 1  # raise it whenever the same seed gives other bytes than before
MANIFEST = "minicity.json"
FOLDERS = ("leftImg8bit", "gtFine")
_SUFFIXES = (
    "leftImg8bit.png",
    "gtFine_instanceIds.png",
    "gtFine_labelIds.png",
    "gtFine_labelTrainIds.png",
    "gtFine_color.png",
    "gtFine_polygons.json",
)


@dataclass(frozen=True)
class Manifest(GeneratedSet):
    """The parameters of a MiniCity; the defaults are those of the embedded data set."""

    title = "MiniCity"
    unit = "frame"
    file = MANIFEST
    ranges = {  # noqa: RUF012
        "width": (128, 2048),
        "height": (64, 1024),
        "num_train": (0, 10**6),
        "num_val": (0, 10**6),
        "seed": (0, 2**63),
    }

    version: int = VERSION
    seed: int = 0
    width: int = 512
    height: int = 256
    num_train: int = 240
    num_val: int = 60

    def __str__(self) -> str:
        return (
            f"{self.num_train} + {self.num_val} frames of {self.width} x {self.height}, "
            f"seed {self.seed}, version {self.version}"
        )

    def frames(self) -> Iterator[tuple[str, int]]:
        """(split, index) of every frame."""
        for split, count in (("train", self.num_train), ("val", self.num_val)):
            yield from ((split, k) for k in range(count))

    def files(self, root: Path) -> Iterator[Path]:
        for split, k in self.frames():
            yield from frame_paths(root, split, k)


def frame_paths(root: Path, split: str, index: int) -> list[Path]:
    """The six files of a frame: picture, instance ids, label ids, train ids, colours, polygons."""
    name = frame_name(split, index)
    city = name.split("_")[0]
    return [
        root / FOLDERS[k > 0] / split / city / f"{name}_{suffix}"
        for k, suffix in enumerate(_SUFFIXES)
    ]


def is_complete(root: str | os.PathLike) -> bool:
    """Whether ``root`` holds every file that its manifest promises."""
    return Manifest.is_complete(Path(root))
