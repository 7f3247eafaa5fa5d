"""Pictures of instances, drawn by detectron2's Visualizer, and sheets of them."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

__all__ = ["draw_annotations", "draw_predictions", "sheet"]


def draw_predictions(
    image: np.ndarray, instances: Instances, metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """`image` (H, W, 3) BGR with masks, boxes, classes and scores; a new BGR image.

    Instances of one class share its colour, jittered, where `metadata` has ``thing_colors``.
    """
    visualizer = _visualizer(image, metadata, scale)
    return _bgr(visualizer.draw_instance_predictions(instances.to("cpu")))


def draw_annotations(
    image: np.ndarray, record: dict, metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """`image` (H, W, 3) BGR with the annotations of a data set `record`; a new BGR image."""
    return _bgr(_visualizer(image, metadata, scale).draw_dataset_dict(record))


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], gap: int = 6) -> np.ndarray:
    """Images in a grid on white, with a title over each column.

    Args:
        rows: BGR images; those of a column are resized to the width of its first.
        titles: one a column.
        gap: pixels between images.
    """
    height, width = rows[0][0].shape[:2]
    header = 34
    canvas = np.full(
        (header + len(rows) * (height + gap), len(titles) * (width + gap) - gap, 3), 255, np.uint8
    )
    for column, title in enumerate(titles):
        left = column * (width + gap)
        cv2.putText(
            canvas, title, (left + 4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 40, 40), 1,
            cv2.LINE_AA,
        )  # fmt: skip
        for row, images in enumerate(rows):
            top = header + row * (height + gap)
            image = images[column]
            if image.shape[:2] != (height, width):
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            canvas[top : top + height, left : left + width] = image
    return canvas


def _visualizer(image: np.ndarray, metadata: Metadata, scale: float) -> Visualizer:
    mode = ColorMode.SEGMENTATION if metadata.get("thing_colors") else ColorMode.IMAGE
    return Visualizer(image[:, :, ::-1], metadata, scale=scale, instance_mode=mode)


def _bgr(drawn) -> np.ndarray:
    return np.ascontiguousarray(drawn.get_image()[:, :, ::-1])
