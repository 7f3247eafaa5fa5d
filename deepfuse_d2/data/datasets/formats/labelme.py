"""FORMAT labelme: a folder of LabelMe's JSON files, one an image, beside the images or below.

Polygons, rectangles, circles and masks are taken; shapes of one `group_id` and label are one
instance. Points and lines have no area, and are counted as left out.
"""

import base64
import binascii
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....errors import DatasetError
from ....structures.mask_crops import MaskCrop
from ...images import DECODE_ERRORS, IMAGE_SUFFIXES
from ...problems import report
from ...records.json_file import read_json
from .annotated import image_entry, register_annotated
from .base import Format, check_class_names

__all__ = ["LABELME", "read_labelme"]

_CIRCLE_POINTS = 32


def read_labelme(entry: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """COCO's content of all JSON files below a folder, and that folder."""
    root = Path(entry["ROOT"])
    if not root.is_dir():
        raise DatasetError(f"Folder {root} does not exist.")
    images, shapes, problems = [], [], []
    for number, file in enumerate(sorted(root.rglob("*.json"))):
        try:
            one = read_json(file)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if not isinstance(one, dict) or not isinstance(one.get("shapes"), list):
            continue  # another JSON file that lies there
        name = str(one.get("imagePath") or "").replace("\\", "/")
        path = os.path.normpath(os.path.join(file.parent, name))
        if not name or not os.path.isfile(path):  # moved since: the image of the same stem
            siblings = sorted(file.parent.glob(f"{_literal(file.stem)}.*"))
            found = [p for p in siblings if p.suffix.lower() in IMAGE_SUFFIXES]
            path = str(found[0]) if found else path
        size = one.get("imageHeight"), one.get("imageWidth")
        images.append(image_entry(number, os.path.relpath(path, root), size))
        shapes += [(number, file.name, *shape) for shape in _instances(one["shapes"], size)]
    report(problems)
    if not images:
        raise DatasetError(f"Folder {root} holds no JSON file of LabelMe.")
    labels = entry.get("CLASSES") or sorted({label for _, _, label, _ in shapes})
    ids = {label: place for place, label in enumerate(labels, start=1)}
    annotations = [
        {"id": f"{file} ({label})", "image_id": image, "category_id": ids.get(label, label),
         "segmentation": mask}
        for image, file, label, mask in shapes
    ]  # fmt: skip
    categories = [{"id": ids[label], "name": label} for label in labels]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, str(root)


def _literal(stem: str) -> str:
    """`stem` for a pattern of file names, where brackets stand for themselves."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)


def _instances(shapes: list, size: tuple) -> list[tuple[str, Any]]:
    """Label and segmentation of each instance."""
    groups: dict[Any, tuple[str, Any]] = {}
    for place, shape in enumerate(shapes):
        if not isinstance(shape, dict):
            continue
        label, group = str(shape.get("label")), shape.get("group_id")
        mask = _mask(shape, size)
        key = (label, str(group)) if group is not None and isinstance(mask, list) else place
        if key in groups and isinstance(mask, list):
            groups[key][1].extend(mask)
        else:
            groups[key] = (label, mask)
    return list(groups.values())


def _mask(shape: dict, size: tuple) -> Any:
    """Polygons or RLE; what has no area stays as it is, to be counted by the one who cleans it."""
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    try:
        if kind == "mask":
            return _pasted(shape["mask"], points, size)
        if kind == "rectangle":
            (x0, y0), (x1, y1) = points[0], points[-1]
            return [[x0, y0, x1, y0, x1, y1, x0, y1]]
        if kind == "circle":
            (x, y), (a, b) = points
            radius = math.hypot(a - x, b - y)
            angles = np.arange(_CIRCLE_POINTS) * (2 * math.pi / _CIRCLE_POINTS)
            around = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
            return [around.ravel().tolist()]
    except (KeyError, TypeError, ValueError, IndexError):
        return f"{kind} that cannot be read"
    if kind != "polygon":
        return f"a {kind}"
    return [[x for point in points for x in point]] if _is_points(points) else [points]


def _is_points(points: Any) -> bool:
    return isinstance(points, list) and all(isinstance(p, (list, tuple)) for p in points)


def _pasted(text: str, points: list, size: tuple) -> dict[str, Any] | str:
    """RLE of a mask of a part of the image: PNG in base64, with its top left corner."""
    try:
        crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) > 0
    except (*DECODE_ERRORS, binascii.Error):
        return "mask that cannot be decoded"
    left, top = (round(x) for x in points[0])
    height, width = (int(side) for side in size)
    return MaskCrop(top, left, crop).part(0, 0, height, width).rle(height, width)


LABELME = Format(
    {"ROOT": str},
    {"CLASSES": list},
    ("ROOT",),
    lambda entry: register_annotated(entry, read_labelme),
    check_class_names,
)
