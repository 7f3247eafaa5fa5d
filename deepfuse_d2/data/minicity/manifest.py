"""What a MiniCity on disk consists of: its parameters in ``minicity.json``, its files by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

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
_RANGES = {
    "width": (128, 2048),
    "height": (64, 1024),
    "num_train": (0, 10**6),
    "num_val": (0, 10**6),
    "seed": (0, 2**63),
}


@dataclass(frozen=True)
class Manifest:
    """The parameters of a MiniCity; the defaults are those of the embedded data set."""

    version: int = VERSION
    seed: int = 0
    width: int = 512
    height: int = 256
    num_train: int = 240
    num_val: int = 60

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"MiniCity: {name} = {value!r}; give a whole number from {low} to {high}"
                )
        if self.num_train + self.num_val == 0:
            raise ValueError("MiniCity: num_train = num_val = 0; ask for at least one frame")

    def __str__(self) -> str:
        return (
            f"{self.num_train} + {self.num_val} frames of {self.width} x {self.height}, "
            f"seed {self.seed}, version {self.version}"
        )

    def frames(self) -> Iterator[tuple[str, int]]:
        """(split, index) of every frame."""
        for split, count in (("train", self.num_train), ("val", self.num_val)):
            yield from ((split, k) for k in range(count))

    @classmethod
    def read(cls, root: Path) -> Manifest | None:
        """The manifest in ``root``; None where there is none or it cannot be read."""
        try:
            return cls(**json.loads((root / MANIFEST).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, root: Path) -> None:
        (root / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n")


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
    root = Path(root)
    manifest = Manifest.read(root)
    return manifest is not None and all(
        path.is_file() for split, k in manifest.frames() for path in frame_paths(root, split, k)
    )
