"""The cities of each split, what their streets are like, and how their frames are named."""

from __future__ import annotations

__all__ = ["CITIES", "frame_name"]

# No city is in both splits. Values: the weight of each style of street.
CITIES = {
    "train": {
        "aldermoor": {"old": 5, "boulevard": 2, "suburb": 2, "works": 1},
        "brickstad": {"old": 2, "boulevard": 2, "suburb": 2, "works": 4},
        "calmouth": {"old": 1, "boulevard": 3, "suburb": 5, "works": 1},
        "dunhaven": {"old": 2, "boulevard": 5, "suburb": 1, "works": 2},
    },
    "val": {
        "elmsford": {"old": 3, "boulevard": 4, "suburb": 2, "works": 2},
        "farrowick": {"old": 3, "boulevard": 2, "suburb": 3, "works": 3},
    },
}


def frame_name(split: str, index: int) -> str:
    """``<city>_<sequence>_<frame>``, as Cityscapes names its files; the cities take turns."""
    cities = list(CITIES[split])
    return f"{cities[index % len(cities)]}_{index // len(cities):06d}_000019"
