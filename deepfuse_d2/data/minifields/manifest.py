"""What a MiniFields on disk consists of: its parameters in ``minifields.json``, files by number."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .kinds import MODES

__all__ = ["IMAGE_FOLDER", "MANIFEST", "VERSION", "Manifest", "is_complete", "scene_paths"]

VERSION = 1  # raise it whenever the same seed gives other bytes than before
MANIFEST = "minifields.json"
IMAGE_FOLDER = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019"
_FIRST_ID = {"train": 10_001, "val": 50_001}
_RANGES = {
    "num_train": (0, 4 * 10**4 - 1),
    "num_val": (0, 4 * 10**4 - 1),
    "size": (8, 512),
    "ratio": (2, 20),
    "seed": (0, 2**31),
}


@dataclass(frozen=True)
class Manifest:
    """The parameters of a MiniFields; the defaults are those of the embedded data set."""

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
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"MiniFields: {name} = {value!r}; give a whole number from {low} to {high}"
                )
        if self.num_train + self.num_val == 0:
            raise ValueError("MiniFields: num_train = num_val = 0; ask for at least one scene")
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

    @classmethod
    def read(cls, root: Path) -> Manifest | None:
        """The manifest in ``root``; None where there is none or it cannot be read."""
        try:
            return cls(**json.loads((root / MANIFEST).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, root: Path) -> None:
        (root / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n")


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
    root = Path(root)
    manifest = Manifest.read(root)
    return manifest is not None and all(
        path.is_file()
        for number, _ in manifest.scenes()
        for path in (root / "metadata.geojson", *scene_paths(root, number).values())
    )
