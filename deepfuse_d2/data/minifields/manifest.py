"""What a MiniFields on disk consists of: its parameters in ``minifields.json``, files by number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..generated import GeneratedSet
from .kinds import MODES

__all__ = ["IMAGE_FOLDER", "MANIFEST", "VERSION", "Manifest", "is_complete", "scene_paths"]

VERSION = 1  # raise it whenever the same seed gives other bytes than before
MANIFEST = "minifields.json"
IMAGE_FOLDER = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019"
_FIRST_ID = {"train": 10_001, "val": 50_001}


@dataclass(frozen=True)
class Manifest(GeneratedSet):
    """The parameters of a MiniFields; the defaults are those of the embedded data set."""

    title = "MiniFields"
    unit = "scene"
    file = MANIFEST
    ranges = {  # noqa: RUF012
        "num_train": (0, 4 * 10**4 - 1),
        "num_val": (0, 4 * 10**4 - 1),
        "size": (8, 512),
        "ratio": (2, 20),
        "seed": (0, 2**31),
    }

    version: int = VERSION
    mode: str = "mixed"
    seed: int = 0
    size: int = 40
    ratio: int = 5
    num_train: int = 64
    num_val: int = 16
    cloud_probability: float = 0.3

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'MiniFields: mode = "{self.mode}"; choose one of {list(MODES)}')
        super().__post_init__()
        if not 0 <= self.cloud_probability <= 1:
            raise ValueError(
                f"MiniFields: cloud_probability = {self.cloud_probability}; give 0 to 1"
            )

    def __str__(self) -> str:
        return (
            f"{self.num_train} + {self.num_val} scenes of {self.size} x {self.size} pixels, mode "
            f"{self.mode}, seed {self.seed}, version {self.version}"
        )

    def scenes(self) -> Iterator[tuple[int, int]]:
        """(number, fold) of every scene: folds 1 to 4 are the train split, 5 is val.

        The number also is what the scene is drawn from, so no scene of one split is in the other.
        """
        for i in range(self.num_train):
            yield _FIRST_ID["train"] + i, 1 + i % 4
        for i in range(self.num_val):
            yield _FIRST_ID["val"] + i, 5

    def files(self, root: Path) -> Iterator[Path]:
        yield root / "metadata.geojson"
        for number, _ in self.scenes():
            yield from scene_paths(root, number).values()


def scene_paths(root: Path, number: int) -> dict[str, Path]:
    """The files of a scene, in the names of PASTIS-HD; clouds are ours."""
    return {
        "series": root / f"DATA_S2/S2_{number}.npy",
        "clouds": root / f"DATA_CLOUDS/CLOUDS_{number}.npy",
        "image": root / IMAGE_FOLDER / f"SPOT6_RVB_1M00_2019_{number}.tif",
        "labels": root / f"ANNOTATIONS/TARGET_{number}.npy",
        "fields": root / f"ANNOTATIONS/ParcelIDs_{number}.npy",
    }


def is_complete(root: str | os.PathLike) -> bool:
    """Whether ``root`` holds every file that its manifest promises."""
    return Manifest.is_complete(Path(root))
