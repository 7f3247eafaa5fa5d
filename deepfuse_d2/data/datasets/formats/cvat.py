"""FORMAT cvat: the XML file of "CVAT for images", and the folder of its images.

Polygons, boxes, ellipses and masks are taken; polygons of one `group_id` and label are one
instance, where that is not 0. Points and lines are counted as left out.
"""

import math
import os
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ....errors import DatasetError
from ....structures.mask_crops import MaskCrop
from .annotated import image_entry, register_annotated
from .base import Format, check_class_names

__all__ = ["CVAT", "read_cvat"]

_ELLIPSE_POINTS = 32


def read_cvat(entry: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """COCO's content of an XML file, and the folder of its images."""
    file = entry["XML"]
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise DatasetError(f"Annotation file {file} does not exist.") from error
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read as XML: {error}.") from error
    found = root.findall("image")
    if not found:
        raise DatasetError(
            f'{file} holds no <image>; expected an export of CVAT as "CVAT for images 1.1" (that '
            "for video has tracks: export those frame by frame)."
        )
    labels = [label.text or "" for label in root.findall(".//label/name")]
    images, shapes = [], []
    for number, image in enumerate(found):
        size = _whole(image.get("height")), _whole(image.get("width"))
        images.append(image_entry(number, image.get("name") or "", size))
        shapes += [(number, *shape) for shape in _instances(image, size)]
    used = sorted({label for _, label, _ in shapes} - set(labels))
    names = list(dict.fromkeys([*labels, *used]))
    ids = {name: place for place, name in enumerate(names, start=1)}
    annotations = [
        {"id": f"{images[image]['file_name']} ({label})", "image_id": image,
         "category_id": ids[label], **shape}
        for image, label, shape in shapes
    ]  # fmt: skip
    categories = [{"id": place, "name": name} for name, place in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, os.path.abspath(entry["IMAGES"])


def _instances(image: ElementTree.Element, size: tuple[int, int]) -> list[tuple[str, dict]]:
    groups: dict[Any, tuple[str, dict]] = {}
    for place, shape in enumerate(image):
        label, group = shape.get("label") or "", shape.get("group_id", "0")
        if not label and shape.tag not in _SHAPES:
            continue  # a tag, or an attribute of the image
        try:
            one = _SHAPES[shape.tag](shape, size)
        except (KeyError, TypeError, ValueError, OverflowError):
            one = {"segmentation": f"a {shape.tag}"}  # counted by the one who cleans it
        key = (label, group) if group != "0" and shape.tag == "polygon" else place
        if key in groups:
            groups[key][1]["segmentation"] += one["segmentation"]
        else:
            groups[key] = (label, one)
    return list(groups.values())


def _polygon(shape: ElementTree.Element, size: tuple[int, int]) -> dict[str, Any]:
    points = [point.split(",") for point in shape.get("points", "").split(";") if point]
    return {"segmentation": [[float(x) for point in points for x in point]]}


def _box(shape: ElementTree.Element, size: tuple[int, int]) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    return {"bbox": [x0, y0, x1 - x0, y1 - y0]}


def _ellipse(shape: ElementTree.Element, size: tuple[int, int]) -> dict[str, Any]:
    x, y, rx, ry = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
    angles = np.arange(_ELLIPSE_POINTS) * (2 * math.pi / _ELLIPSE_POINTS)
    turn = math.radians(float(shape.get("rotation", 0)))
    across, down = rx * np.cos(angles), ry * np.sin(angles)
    xs = x + across * math.cos(turn) - down * math.sin(turn)
    ys = y + across * math.sin(turn) + down * math.cos(turn)
    return {"segmentation": [np.stack([xs, ys], axis=1).ravel().tolist()]}


def _mask(shape: ElementTree.Element, size: tuple[int, int]) -> dict[str, Any]:
    """Runs go along the rows of a part of the image, background first."""
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    left, top, width, height = (int(shape.attrib[k]) for k in ("left", "top", "width", "height"))
    if min(runs) < 0 or sum(runs) != width * height or width * height > size[0] * size[1]:
        raise ValueError(f"runs of {sum(runs)} pixels for {width} x {height}")
    crop = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(height, width)
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"a mask at {left}, {top} that reaches beyond its image")
    return {"segmentation": MaskCrop(top, left, crop).rle(*size)}


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


_SHAPES = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}

CVAT = Format(
    {"XML": str, "IMAGES": str},
    {"CLASSES": list},
    ("XML", "IMAGES"),
    lambda entry: register_annotated(entry, read_cvat),
    check_class_names,
)
