"""COCO's instance annotations as clean records: the one reading of such a file.

Training, evaluation, check and drawing see what comes out of here, and nothing else of the file.
What can be computed is filled in: area, `iscrowd`, sizes of images, boxes. What is wrong in one
record is left out and counted by reason; what is wrong in the file is one error.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.structures import BoxMode

from ...errors import DatasetError
from ...structures.run_lengths import mask_area
from ..images import upright_size
from ..problems import report
from .boxes import BOX_FORMS, clean_box, form_of_boxes
from .files import FileFinder
from .json_file import read_json
from .keypoints import clean_keypoints, keypoint_names
from .masks import Unusable, clean_segmentation, extent_of
from .tally import Tally

__all__ = ["Annotations", "read_coco", "records_of_coco"]

_XYWH = BoxMode.XYWH_ABS
_EXPECTED = (
    "Expected: images (id, file_name, height, width), annotations (id, image_id, category_id, "
    "bbox, segmentation, iscrowd) and categories (id, name)."
)
# What other JSON files of labels hold: key -> what to do.
_OTHERS = {
    "shapes": "It is a file of LabelMe; give the folder with FORMAT labelme.",
    "flags": "It is a file of LabelMe; give the folder with FORMAT labelme.",
    "_via_img_metadata": "It is a project of the VGG Image Annotator; export it as COCO there.",
    "pages": "It seems to be no export for training; export it as COCO.",
}


class Annotations(NamedTuple):
    """What an annotation file holds, clean."""

    #: In detectron2's format; category ids are positions in `classes`.
    records: list[dict[str, Any]]
    classes: list[str]
    #: The file's id of each class, for results that go back to where the file came from.
    category_ids: list[Any]
    tally: Tally
    #: Names of the keypoints of an object, in order, where a category tells them.
    keypoints: list[str]


def read_coco(
    json_file: str | os.PathLike,
    images: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    crowds_are_objects: bool = False,
) -> Annotations:
    """Read a JSON file of COCO's instance annotations.

    Args:
        images: the folder that its file names start from.
        classes: the classes to take, in this order; by default those of the file, by their ids.
        crowds_are_objects: take annotations with `iscrowd` 1 as single objects, which some
            exporters write with each run-length mask.

    Raises:
        DatasetError: the file is not in that format, nothing in it can be used, or image files are
            missing.
    """
    content = read_json(json_file)
    try:
        return records_of_coco(
            content, images, classes=classes, crowds_are_objects=crowds_are_objects
        )
    except DatasetError as error:
        raise DatasetError(f"{json_file}: {error}") from error


def records_of_coco(
    content: Any,
    images: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    crowds_are_objects: bool = False,
) -> Annotations:
    """As :func:`read_coco`, from what the file holds; takes its list of annotations to pieces."""
    raw_images, raw_annotations, raw_categories = _parts(content)
    has_labels = "annotations" in content
    tally = Tally()
    names, ids, class_of = _classes(raw_categories, classes, tally)
    records = _images(raw_images, images, tally)
    if has_labels:
        _add_annotations(records, raw_annotations, class_of, crowds_are_objects, tally)
    else:  # a split whose labels are kept back
        for record in records.values():
            record.pop("annotations", None)
    kept = list({id(record): record for record in records.values()}.values())
    try:
        kept.sort(key=lambda record: record["image_id"])
    except TypeError:
        kept.sort(key=lambda record: str(record["image_id"]))
    return Annotations(kept, names, ids, tally, keypoint_names(raw_categories))


def _parts(content: Any) -> tuple[list, list, list]:
    if isinstance(content, list):
        raise DatasetError(
            "it holds a list, as files of COCO's results do, and no annotations. " + _EXPECTED
        )
    if not isinstance(content, dict):
        raise DatasetError(f"it holds a {type(content).__name__}. {_EXPECTED}")
    parts = []
    for key in ("images", "annotations", "categories"):
        # a test split has no annotations
        value = content.get(key, [] if key == "annotations" else None)
        if value is None:
            hint = next((hint for other, hint in _OTHERS.items() if other in content), _EXPECTED)
            raise DatasetError(f'it is not in COCO\'s format: it has no "{key}". {hint}')
        if not isinstance(value, list):
            raise DatasetError(
                f'it is not in COCO\'s format: "{key}" is a {type(value).__name__}, no list. '
                + _EXPECTED
            )
        parts.append(value)
    first = next((x for x in parts[1] if isinstance(x, dict)), {})
    if "segments_info" in first:
        raise DatasetError("it holds panoptic annotations; this format takes instances.")
    if not parts[0]:
        raise DatasetError("it holds no image.")
    return tuple(parts)


def _classes(
    categories: list, wanted: Sequence[str] | None, tally: Tally
) -> tuple[list[str], list[Any], dict[Any, int]]:
    """Names, the file's id of each, and the class of every id."""
    name_of: dict[Any, str] = {}
    for number, category in enumerate(categories):
        if not isinstance(category, dict) or not _is_id(category.get("id")):
            tally.leave_out("category", "it has no id", f"number {number}")
            continue
        key, name = category["id"], category.get("name")
        if not isinstance(name, str) or not name.strip():
            name = f"category {key}" if name in (None, "") or isinstance(name, str) else str(name)
            tally.mend("a category without a name gets one by its id", name)
        name = name.strip()
        if name_of.get(key, name) != name:
            raise DatasetError(
                f"its categories {name_of[key]!r} and {name!r} have one id, {key!r}. Give each its "
                "own."
            )
        name_of[key] = name
    if not name_of:
        raise DatasetError("it holds no category, so no class to learn.")
    try:
        ordered = sorted(name_of)
    except TypeError:
        ordered = sorted(name_of, key=str)
    names = list(dict.fromkeys(name_of[key] for key in ordered))
    if len(names) < len(ordered):
        twice = next(n for n in names if sum(x == n for x in name_of.values()) > 1)
        tally.mend("categories of one name are one class", twice, len(ordered) - len(names))
    if wanted is not None:
        missing = [name for name in wanted if name not in names]
        if len(missing) == len(wanted):
            raise DatasetError(f"it has none of CLASSES {list(wanted)}, but {names}.")
        names = list(wanted)
    position = {name: number for number, name in enumerate(names)}
    class_of = {key: position.get(name_of[key], -1) for key in ordered}
    first_id = {}
    for key in ordered:
        first_id.setdefault(name_of[key], key)
    return names, [first_id.get(name, name) for name in names], class_of


def _images(raw_images: list, folder: str | os.PathLike, tally: Tally) -> dict[Any, dict]:
    """Records without annotations, by the id of the image."""
    if not os.path.isdir(folder):
        raise DatasetError(f"image folder {folder} does not exist.")
    finder = FileFinder(folder)
    records: dict[Any, dict] = {}
    missing: list[str] = []
    taken: dict[str, Any] = {}
    for number, raw in enumerate(raw_images):
        if not isinstance(raw, dict) or not _is_id(raw.get("id")):
            tally.leave_out("image", "it has no id", f"number {number}")
            continue
        key, name = raw["id"], raw.get("file_name")
        if not isinstance(name, str) or not name:
            tally.leave_out("image", "it has no file_name", f"image {key}")
            continue
        path, change = finder.find(name)
        if change and path in taken:  # another image's, by a name that only looks like this one
            path = None
        elif change:
            tally.mend(change, name)
        if key in records:
            if records[key]["file_name"] == path:
                tally.leave_out("image", "it is listed twice", name)
                continue
            raise DatasetError(
                f"two images have one id, {key!r}: {records[key]['file_name']} and {name}. "
                "Number them anew."
            )
        if path is None:
            missing.append(
                f"Image {os.path.join(finder.root, name)} is missing ({finder.explain(name)})."
            )
            continue
        height, width = _size(raw.get("height")), _size(raw.get("width"))
        if not height or not width:
            try:
                height, width = upright_size(path)
            except DatasetError as error:
                missing.append(str(error))
                continue
            tally.mend("its size is read from the file", name)
        if path in taken:
            tally.mend("two images of one file are one", name)
            records[key] = records[taken[path]]
            continue
        taken[path] = key
        records[key] = {
            "file_name": path,
            "height": height,
            "width": width,
            "image_id": key,
            "annotations": [],
        }
    report(missing)
    if not records:
        raise DatasetError("it holds no image that can be used: " + "; ".join(tally.lines()))
    return records


def _add_annotations(
    records: dict[Any, dict],
    annotations: list,
    class_of: dict[Any, int],
    crowds_are_objects: bool,
    tally: Tally,
) -> None:
    form = form_of_boxes(annotations)
    if form != "xywh":
        reason = f"its box is {BOX_FORMS[form]}, by the masks beside the boxes, not COCO's form"
        tally.mend(reason, "all of the file", len(annotations))
    by_text: dict[str, Any] | None = None
    classes_by_text: dict[str, int] | None = None
    count, crowds = len(annotations), 0
    annotations.reverse()
    while annotations:
        # what was read is let go, so that the file is not in memory twice
        raw = annotations.pop()
        if type(raw) is not dict:
            tally.leave_out("annotation", "it is no mapping", f"a {type(raw).__name__}")
            continue
        try:
            record = records.get(raw.get("image_id"))
            kind = class_of.get(raw.get("category_id"))
        except TypeError:  # a list or mapping for an id
            tally.leave_out("annotation", "its ids are no numbers", _name(raw))
            continue
        if record is None:
            by_text = by_text or {str(key): key for key in records}
            record = records.get(by_text.get(str(raw.get("image_id"))))
            if record is None:
                tally.leave_out("annotation", "its image_id is that of no image", _name(raw))
                continue
            tally.mend("image_id is of another type than the image's id", _name(raw))
        if kind is None:
            classes_by_text = classes_by_text or {str(key): x for key, x in class_of.items()}
            kind = classes_by_text.get(str(raw.get("category_id")))
            if kind is None:
                tally.leave_out("annotation", "its category_id is that of no category", _name(raw))
                continue
            tally.mend("category_id is of another type than the category's id", _name(raw))
        if kind < 0:
            tally.leave_out("annotation", "its class is none of CLASSES", _name(raw))
            continue
        annotation = _clean(raw, record, kind, form, tally)
        if annotation is not None:
            if annotation["iscrowd"]:
                crowds += 1
                annotation["iscrowd"] = 0 if crowds_are_objects else 1
            record["annotations"].append(annotation)
    _check_something_is_left(records, count, crowds, crowds_are_objects, tally)


def _check_something_is_left(
    records: dict[Any, dict], count: int, crowds: int, crowds_are_objects: bool, tally: Tally
) -> None:
    distinct = {id(record): record for record in records.values()}.values()
    kept = sum(len(record["annotations"]) for record in distinct)
    if count and not kept:
        reasons = "; ".join(tally.lines())
        raise DatasetError(f"none of its {count} annotations can be used: {reasons}.")
    if kept and kept == crowds and not crowds_are_objects:
        raise DatasetError(
            f"all of its {kept} annotations are marked as groups (iscrowd 1), which nothing is "
            "learned from and which no prediction is asked for. Some exporters mark every "
            "run-length mask so: if each is a single object, add CROWDS_ARE_OBJECTS: True to this "
            "entry of DATASETS.EXTRA."
        )


def _clean(raw: dict, record: dict, kind: int, form: str, tally: Tally) -> dict | None:
    """One annotation; None if it cannot be used."""
    height, width = record["height"], record["width"]
    try:
        segmentation, change = clean_segmentation(raw.get("segmentation"), height, width)
        if change:
            tally.mend(change, _name(raw))
    except Unusable as error:
        tally.leave_out("annotation", str(error), _name(raw))
        return None
    box = clean_box(raw.get("bbox"), form)
    area = raw.get("area")
    if type(area) not in (float, int) or not 1 <= area < 1e18:
        area = None
    if segmentation is not None and area is None:
        area = mask_area(segmentation, height, width)
        if not area:
            tally.leave_out("annotation", "its mask has no pixel", _name(raw))
            return None
    if box is None and segmentation is not None:
        extent = extent_of(segmentation)
        if extent is not None:
            x0, y0, x1, y1 = extent
            box = clean_box([x0, y0, x1 - x0, y1 - y0])
            if "bbox" in raw:
                tally.mend("a box without area is computed from its mask", _name(raw))
    if box is None:
        what = "neither mask nor box" if not raw.get("bbox") else "a box without area, and no mask"
        tally.leave_out("annotation", f"it has {what}", _name(raw))
        return None
    crowd = _is_true(raw.get("iscrowd")) or _is_true(raw.get("ignore"))
    annotation = {
        "iscrowd": int(crowd),
        "bbox": box,
        "bbox_mode": _XYWH,
        "category_id": kind,
        "area": box[2] * box[3] if area is None else area,
    }
    if segmentation is not None:
        annotation["segmentation"] = segmentation
    keypoints = raw.get("keypoints")
    if keypoints:
        keypoints = clean_keypoints(keypoints)
        if keypoints is None:
            tally.mend("keypoints that are no numbers are left out", _name(raw))
        else:
            annotation["keypoints"] = keypoints
    return annotation


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) or (isinstance(value, float) and value == value)


def _size(value: Any) -> int:
    """Whole pixels; 0 for what is no size."""
    try:
        size = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0
    return size if 0 < size < 1 << 31 and not isinstance(value, bool) else 0


def _is_true(value: Any) -> bool:
    if type(value) is int:
        return value != 0
    return value is True or (isinstance(value, str) and value.strip().lower() in ("1", "true"))


def _name(raw: dict) -> str:
    return f"annotation {raw.get('id', 'without id')}"
