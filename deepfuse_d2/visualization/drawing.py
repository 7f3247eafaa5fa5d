"""Pictures of instances and labels: predictions, annotations, differences, and sheets of them.

All images are (H, W, 3) BGR of 8 bits, as OpenCV reads them; what comes in is never changed. Masks
are drawn where they lie, so that a street with a hundred instances takes milliseconds and a video
can be drawn as it is predicted; colours of metadata are RGB, as everywhere in detectron2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances

from ..structures.mask_crops import EMPTY, MaskCrop, crops_from_rle, crops_of_instances

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

# Square pixels, as drawn; smaller instances get no text.
_SMALLEST_NAMED = 300
# RGB, for classes without a colour in their metadata.
_FALLBACK = [
    (220, 60, 60), (60, 130, 220), (240, 180, 40), (60, 170, 90), (160, 90, 200), (240, 130, 60),
]  # fmt: skip
# RGB, of a difference: what the first model alone finds, and the second. Told apart also by those
# who do not see red or green (Okabe and Ito's orange and sky blue).
FIRST_COLOR, SECOND_COLOR = (230, 159, 0), (86, 180, 233)
_PIXELS_COLOR = (204, 121, 167)


class Shape(NamedTuple):
    """An instance to draw.

    Args:
        crop: its mask; a filled rectangle for an instance that has but a box.
        text: written at its top left.
        color: RGB.
        is_box: draw an outline alone.
        is_crowd: hatch it.
    """

    crop: MaskCrop
    text: str
    color: tuple[float, float, float]
    is_box: bool = False
    is_crowd: bool = False


def draw_predictions(
    image: np.ndarray, instances: Instances, metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """A new image with the masks, or else boxes, of `instances`, their classes and scores.

    Args:
        image: (H, W, 3) BGR.
        instances: of an image of that size; masks in any form, also unpasted or as RLE.
        metadata: of the data set; `thing_classes` and `thing_colors` where it has them.
        scale: size of the drawing.
    """
    return draw_shapes(_resized(image, scale), shapes_of(instances, metadata), scale)


def draw_annotations(
    image: np.ndarray, record: dict[str, Any], metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """A new image with the annotations of a data set's `record`; crowds (groups) are hatched."""
    height, width = image.shape[:2]
    shapes = []
    for rank, annotation in enumerate(record.get("annotations", ())):
        crop = MaskCrop.of(mask_of(annotation, height, width))
        kind, crowd = annotation["category_id"], bool(annotation.get("iscrowd", 0))
        text = class_name(metadata, kind) + (" group" if crowd else "")
        shapes.append(Shape(crop, text, _color_of(metadata, kind, rank), is_crowd=crowd))
    return draw_shapes(_resized(image, scale), shapes, scale)


def draw_labels(image: np.ndarray, labels: np.ndarray, metadata: Metadata) -> np.ndarray:
    """A new image with the colours of classes over it; what has no class is darkened.

    Args:
        image: (H, W, 3) BGR.
        labels: (h, w) class of each pixel, resized to the image; 255 and whatever else is beyond
            the classes stand for none.
        metadata: of the data set; `stuff_classes` and `stuff_colors` where it has them.
    """
    names = list(metadata.get("stuff_classes") or [])
    colors = metadata.get("stuff_colors") or _FALLBACK
    table = np.zeros((256, 3), np.float32)
    for number in range(len(names) or 255):
        table[number] = colors[number % len(colors)][::-1]
    labels = np.where((labels >= 0) & (labels < 255), labels, 255).astype(np.uint8)
    labels = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return (0.3 * image + 0.7 * table[labels]).astype(np.uint8)


def draw_difference(
    image: np.ndarray,
    both: Iterable[Shape] = (),
    first: Iterable[Shape] = (),
    second: Iterable[Shape] = (),
    pixels: np.ndarray | None = None,
) -> np.ndarray:
    """A new image, grey, with what two models find and what one of them alone does.

    Args:
        both: outlined in white.
        first, second: found by one model alone; tinted in FIRST_COLOR and SECOND_COLOR.
        pixels: (H, W) bool, True where their labels differ; tinted.
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    out = (0.75 * grey).astype(np.uint8)
    if pixels is not None:
        out[pixels] = (0.4 * out[pixels] + 0.6 * np.array(_PIXELS_COLOR[::-1])).astype(np.uint8)
    shapes = [x._replace(color=(255, 255, 255), text="", is_box=True) for x in both]
    shapes += [x._replace(color=FIRST_COLOR) for x in first]
    shapes += [x._replace(color=SECOND_COLOR) for x in second]
    return draw_shapes(out, shapes)


def sheet(
    tiles: Sequence[np.ndarray], columns: int, titles: Sequence[str] = (), gap: int = 6
) -> np.ndarray:
    """Tiles of any size in rows of `columns`, on white, with a title over each column, if any,
    as large as fits it."""
    header = 34 if titles else gap
    width = max(tile.shape[1] for tile in tiles) + gap
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) + gap for row in rows]
    canvas = np.full((header + sum(heights), gap + columns * width, 3), 255, np.uint8)
    for number, title in enumerate(titles):
        (text_width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1)
        size = 0.7 * min(1, (width - gap - 4) / max(text_width, 1))
        cv2.putText(
            canvas, title, (gap + number * width + 4, 24), cv2.FONT_HERSHEY_SIMPLEX, size,
            (40, 40, 40), 1, cv2.LINE_AA,
        )  # fmt: skip
    top = header
    for row, height in zip(rows, heights, strict=True):
        for number, tile in enumerate(row):
            left = gap + number * width
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += height
    return canvas


def draw_shapes(image: np.ndarray, shapes: Iterable[Shape], scale: float = 1.0) -> np.ndarray:
    """A new image with `shapes`, the large ones below; their crops are scaled by `scale`."""
    out = image.copy()
    shapes = [shape._replace(crop=_scaled(shape.crop, scale)) for shape in shapes]
    shapes = sorted((x for x in shapes if x.crop.area), key=lambda x: -x.crop.area)
    for shape in shapes:
        _draw_shape(out, shape)
    size = 0.33 * max(1.0, image.shape[1] / 600)
    for shape in shapes:
        if shape.text and shape.crop.area >= _SMALLEST_NAMED:
            _write(out, shape.text, (shape.crop.left + 1, shape.crop.top), size)
    return out


def shapes_of(instances: Instances, metadata: Metadata) -> list[Shape]:
    """Shapes to draw, in the order of predicted `instances`, with text such as "car 93%"."""
    instances = instances.to("cpu")
    has_masks = instances.has("pred_masks") or instances.has("pred_masks_rle")
    if has_masks:
        crops = list(crops_of_instances(instances, instances.image_size, "this image"))
    else:
        crops = [_box_crop(box, instances.image_size) for box in instances.pred_boxes.tensor]
    scores = instances.scores.tolist() if instances.has("scores") else [None] * len(crops)
    kinds = instances.pred_classes.tolist()
    shapes = []
    for rank, (crop, kind, score) in enumerate(zip(crops, kinds, scores, strict=True)):
        text = class_name(metadata, kind) + ("" if score is None else f" {score:.0%}")
        shapes.append(Shape(crop, text, _color_of(metadata, kind, rank), is_box=not has_masks))
    return shapes


def mask_of(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """(H, W) uint8 of an annotation, whatever form its segmentation has; its box if it has none."""
    shape = annotation.get("segmentation")
    mask = np.zeros((height, width), np.uint8)
    if isinstance(shape, dict):
        (crop,) = crops_from_rle([shape])
        return crop.paste(mask)
    if shape:
        polygons = [np.asarray(p, float).reshape(-1, 2) for p in shape]
    else:
        mode = annotation.get("bbox_mode", BoxMode.XYXY_ABS)
        x0, y0, x1, y1 = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
        polygons = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])]
    cv2.fillPoly(mask, [np.rint(p).astype(np.int32) for p in polygons], 1)
    return mask


def class_name(metadata: Metadata, kind: int) -> str:
    """Name of a thing class; its number where the data set has no name for it."""
    names = metadata.get("thing_classes") or []
    return names[kind] if kind < len(names) else f"class {kind}"


def label_names(metadata: Metadata, count: int) -> list[str]:
    """Names of the first `count` classes of labels; numbers where the data set has no names."""
    names = list(metadata.get("stuff_classes") or [])[:count]
    return names + [f"class {number}" for number in range(len(names), count)]


def _draw_shape(out: np.ndarray, shape: Shape) -> None:
    top, left, inside = shape.crop
    color = np.array(shape.color[::-1])
    region = out[top : top + inside.shape[0], left : left + inside.shape[1]]
    if not shape.is_box:
        filled = inside
        if shape.is_crowd:
            rows, columns = np.ogrid[: inside.shape[0], : inside.shape[1]]
            filled = inside & ((rows + columns + top + left) % 8 < 3)
        region[filled] = (0.45 * region[filled] + 0.55 * color).astype(np.uint8)
    outlines = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    light = tuple(int(c) for c in np.minimum(color + 60, 255))
    cv2.drawContours(out, outlines[0], -1, light, 1, cv2.LINE_AA, offset=(left, top))


def _write(out: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    """White text on a dark ground with its top left at `at` (x, y), moved into the image."""
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    height += base
    x = max(min(at[0], out.shape[1] - width), 0)
    y = max(min(at[1], out.shape[0] - height), 0)
    ground = out[y : y + height + 2, x : x + width]
    ground[:] = (0.3 * ground).astype(np.uint8)
    origin = (x, y + height - base + 1)
    cv2.putText(out, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)


def _color_of(metadata: Metadata, kind: int, rank: int) -> tuple[float, float, float]:
    """RGB of a class; neighbours of one class differ a little, to see where the one ends."""
    colors = metadata.get("thing_colors") or _FALLBACK
    jitter = np.random.default_rng(rank).uniform(20, 110, 3)
    return tuple(np.clip(np.array(colors[kind % len(colors)]) * 0.75 + jitter, 0, 255).tolist())


def _box_crop(box: Iterable[float], size: tuple[int, int]) -> MaskCrop:
    height, width = size
    x0, y0, x1, y1 = (round(float(side)) for side in box)
    left, top = min(max(x0, 0), width), min(max(y0, 0), height)
    right, bottom = min(max(x1, left), width), min(max(y1, top), height)
    return MaskCrop(top, left, np.ones((bottom - top, right - left), dtype=bool))


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return image
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    height, width = image.shape[:2]
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=how)


def _scaled(crop: MaskCrop, scale: float) -> MaskCrop:
    top, left, inside = crop
    if scale == 1 or not inside.size:
        return crop
    y0, y1 = round(top * scale), round((top + inside.shape[0]) * scale)
    x0, x1 = round(left * scale), round((left + inside.shape[1]) * scale)
    if y0 == y1 or x0 == x1:
        return EMPTY
    scaled = cv2.resize(
        inside.astype(np.uint8), (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST
    )
    return MaskCrop(y0, x0, scaled.astype(bool))
