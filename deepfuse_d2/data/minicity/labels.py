"""The Cityscapes label ids that MiniCity uses, and how rough each surface looks.

The full table is cityscapesscripts' ``helpers.labels``; this excerpt spares the workers its
import, and a test compares the two.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CLASS_TEXTURE", "COLORS", "LABEL_IDS", "TRAIN_IDS", "has_instances", "label_id"]

# name: (label id, train id, colour)
_TABLE = {
    "unlabeled": (0, 255, (0, 0, 0)), "ego vehicle": (1, 255, (0, 0, 0)), "out of roi": (3, 255,
    (0, 0, 0)),
    "static": (4, 255, (0, 0, 0)), "dynamic": (5, 255, (111, 74, 0)), "road": (7, 0, (128, 64,
    128)),
    "sidewalk": (8, 1, (244, 35, 232)), "parking": (9, 255, (250, 170, 160)), "rail track": (10,
    255, (230, 150, 140)),
    "building": (11, 2, (70, 70, 70)), "wall": (12, 3, (102, 102, 156)), "fence": (13, 4, (190,
    153, 153)),
    "guard rail": (14, 255, (180, 165, 180)), "pole": (17, 5, (153, 153, 153)),
    "traffic light": (19, 6, (250, 170, 30)),
    "traffic sign": (20, 7, (220, 220, 0)), "vegetation": (21, 8, (107, 142, 35)), "terrain": (22,
    9, (152, 251, 152)),
    "sky": (23, 10, (70, 130, 180)), "person": (24, 11, (220, 20, 60)), "rider": (25, 12, (255, 0,
    0)),
    "car": (26, 13, (0, 0, 142)), "truck": (27, 14, (0, 0, 70)), "bus": (28, 15, (0, 60, 100)),
    "caravan": (29, 255, (0, 0, 90)), "trailer": (30, 255, (0, 0, 110)), "train": (31, 16, (0, 80,
    100)),
    "motorcycle": (32, 17, (0, 0, 230)), "bicycle": (33, 18, (119, 11, 32)),
}  # fmt: skip
_TEXTURE = {
    "road": 0.05, "parking": 0.05, "rail track": 0.06, "sidewalk": 0.05, "building": 0.035,
    "wall": 0.06, "fence": 0.05,
    "vegetation": 0.15, "terrain": 0.12, "person": 0.05, "rider": 0.05, "sky": 0.006,
}  # fmt: skip

LABEL_IDS = {name: row[0] for name, row in _TABLE.items()}


def _by_id(column: dict[str, object], default, dtype) -> np.ndarray:
    table = np.full((256, *np.shape(default)), default, dtype)
    for name, value in column.items():
        table[LABEL_IDS[name]] = value
    return table


TRAIN_IDS = _by_id({name: row[1] for name, row in _TABLE.items()}, 255, np.uint8)  # by label id
COLORS = _by_id(
    {name: row[2] for name, row in _TABLE.items()}, (0, 0, 0), np.uint8
)  # by label id, RGB
CLASS_TEXTURE = _by_id(_TEXTURE, 0.02, np.float32)  # by label id, relative brightness deviation


def label_id(label: str) -> int:
    """Label id of a name in polygons.json; groups ("cargroup") have the id of their class."""
    return LABEL_IDS[label] if label in LABEL_IDS else LABEL_IDS[label.removesuffix("group")]


def has_instances(label: str) -> bool:
    """Whether each object of this label gets a number of its own."""
    return label in LABEL_IDS and LABEL_IDS[label] >= 24
