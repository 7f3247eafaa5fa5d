"""Pictures of instances and labels, and of the samples of data sets."""

from .drawing import (
    FIRST_COLOR,
    SECOND_COLOR,
    Shape,
    class_name,
    draw_annotations,
    draw_difference,
    draw_labels,
    draw_predictions,
    draw_shapes,
    label_names,
    mask_of,
    shapes_of,
    sheet,
)

__all__ = [
    "FIRST_COLOR",
    "SECOND_COLOR",
    "Shape",
    "class_name",
    "draw_annotations",
    "draw_difference",
    "draw_labels",
    "draw_predictions",
    "draw_shapes",
    "label_names",
    "mask_of",
    "shapes_of",
    "sheet",
]
