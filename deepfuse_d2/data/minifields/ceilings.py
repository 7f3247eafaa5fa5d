"""The best that any method can reach on scenes as they were drawn."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from .kinds import MODES
from .manifest import Manifest, scene_paths

__all__ = ["best_accuracies"]


def best_accuracies(root: str | os.PathLike, folds: Collection[int]) -> dict[str, float]:
    """Overall accuracy, in percent, of who knows all phenologies, all textures, or both.

    With one source, the class of most pixels wins among those that look alike in it. That is known
    of these scenes alone: who learned from others will not quite reach it.

    Args:
        root: of a MiniFields.
        folds: of the scenes that count.

    Returns:
        "series", "image" and "both".
    """
    root = Path(root)
    mode = MODES[Manifest.read(root).mode]
    pixels = np.zeros(len(mode.kinds))
    for feature in json.loads((root / "metadata.geojson").read_text())["features"]:
        scene = feature["properties"]
        if scene["Fold"] in folds:
            fields = np.load(scene_paths(root, scene["ID_PATCH"])["fields"])
            kinds = np.array(scene["Kinds"])[fields - 1]
            pixels += np.bincount(kinds.ravel(), minlength=len(pixels))
    best = {}
    for source, attribute in (("series", "phenology"), ("image", "texture")):
        groups: dict[str, np.ndarray] = {}
        for kind, count in zip(mode.kinds, pixels, strict=True):
            alike = groups.setdefault(getattr(kind, attribute), np.zeros(len(mode.classes)))
            alike[kind.label] += count
        best[source] = float(100 * sum(x.max() for x in groups.values()) / pixels.sum())
    return {**best, "both": 100.0}
