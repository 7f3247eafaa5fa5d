"""What a model found in a picture, drawn over it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from detectron2.data import Metadata

from ..visualization import draw_labels, draw_predictions

__all__ = ["overlay"]


def overlay(
    image: np.ndarray, found: dict[str, Any], metadata: Metadata, layers: Collection[str]
) -> np.ndarray:
    """A new image with labels below and instances above, as far as they are there and wanted.

    Args:
        image: (H, W, 3) BGR.
        found: of :class:`.DemoModel`.
        metadata: of the data set whose classes the model knows.
        layers: of "instances" and "semantics".
    """
    drawn = image.copy()
    if "labels" in found and "semantics" in layers:
        drawn = draw_labels(drawn, found["labels"], metadata)
    if "instances" in found and "instances" in layers:
        drawn = draw_predictions(drawn, found["instances"], metadata)
    return drawn
