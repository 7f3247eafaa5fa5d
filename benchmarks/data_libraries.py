"""What libraries that open many formats get of the forms of benchmarks/data_forms.py.

    python -m venv /somewhere/libraries
    /somewhere/libraries/bin/pip install datumaro labelformat supervision pycocotools tabulate
    /somewhere/libraries/bin/python -m benchmarks.data_libraries > table.md

In an environment of its own: none of these packages is needed by ours, and ours by none of them.
Each form, a data set of three images and three objects, is opened by the reader that a library has
for its format, laid out as that asks for. Right is: the three objects, each with its class and its
mask, and no other; of boxes alone, the three with their classes.

Each reading is a process of its own: some readers take all memory for a number that is wrong. It
then ends in "memory"; one of more than a minute in "time".
"""

import importlib
import json
import logging
import multiprocessing
import resource
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util
from tabulate import tabulate

from tests.data.forms import (
    CHANGED_FORMS,
    CLASSES,
    FORMS,
    KEYPOINT_FORMS,
    LABEL_FORMS,
    OBJECTS,
    REFUSED_FORMS,
    SIZE,
    mask_of,
)

#: stem of the image, class, mask or None
Found = tuple[str, str, np.ndarray | None]

# Of those with one record that is wrong, the other two objects are what can be had.
_DAMAGED = ("one polygon", "one RLE", "one image_id", "one category_id", "one box without")

#: Seconds and bytes of addresses that a reading may take.
_SECONDS, _MEMORY = 60, 3 << 30
# the libraries are imported once, before the processes are forked
_FORK = multiprocessing.get_context("fork")


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    for module in ("datumaro", "labelformat.formats", "supervision"):
        importlib.import_module(module)
    forms = {**FORMS, **LABEL_FORMS, **KEYPOINT_FORMS, **CHANGED_FORMS}
    forms = {name: write for name, write in forms.items() if name not in REFUSED_FORMS}
    rows, right = [], Counter()
    for name, write in forms.items():
        row = [name]
        for library, read in READERS.items():
            with tempfile.TemporaryDirectory() as folder:
                told = _limited(read, write(Path(folder)), Path(folder), name)
            right[library] += told == "right"
            row.append(told)
        rows.append(row)
    rows.append([f"right, of {len(forms)}", *(right[library] for library in READERS)])
    columns = ["form", *(f"{library} {version(library)}" for library in READERS)]
    print(tabulate(rows, columns, tablefmt="pipe"))


def _limited(read: Callable, entry: dict[str, Any], folder: Path, name: str) -> str:
    """What :func:`_tried` says in a process that :data:`_SECONDS` and :data:`_MEMORY` bound."""
    told, teller = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_tell, args=(teller, read, entry, folder, name))
    process.start()
    teller.close()  # so that the end of the process is the end of what it says
    try:
        return told.recv() if told.poll(_SECONDS) else "time"
    except EOFError:
        process.join()
        code = process.exitcode or 0
        # pycocotools writes to memory that it asked for and did not get
        return f"memory ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    finally:
        process.kill()
        process.join()
        told.close()


def _tell(teller: Connection, *args: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    teller.send(_tried(*args))


def _tried(read: Callable, entry: dict[str, Any], folder: Path, name: str) -> str:
    try:
        found = list(read(entry, folder))
    except NotImplementedError:
        return "no reader"
    except MemoryError:
        return "memory"
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = " ".join(str(cause).replace(f"{folder}/", "").replace(f"{folder}", "").split())
        return f"{type(cause).__name__}: {said[:80]}"
    expected = [(stem, kind, box) for stem, some in OBJECTS.items() for kind, box in some]
    if "label images" in name:  # an id an object says no class
        expected = [(stem, "cell", box) for stem, _, box in expected]
        found = [(stem, "cell", mask) for stem, _, mask in found]
    if any(part in name for part in _DAMAGED):
        expected = expected[1:]
        found = [one for one in found if _is_one_of(one, expected) or one[2] is not None]
    matched = sum(any(_is_same(one, wanted) for one in found) for wanted in expected)
    if matched == len(expected) == len(found):
        return "right"
    bare = sum(mask is None for *_, mask in found)
    if "boxes alone" in name and len(found) == len(expected):
        return "right" if bare == len(found) or "one image" in name else "boxes as masks"
    without = f", {bare} without a mask" if bare else ""
    return f"{matched} of {len(expected)} right, {len(found)} found{without}"


def _is_one_of(one: Found, expected: list) -> bool:
    return any(_is_same(one, wanted) for wanted in expected)


def _is_same(one: Found, wanted: tuple) -> bool:
    stem, kind, mask = one
    if (stem, kind) != wanted[:2] or mask is None or mask.shape != SIZE:
        return False
    truth = mask_of(wanted[2]) > 0
    return bool((mask & truth).sum() >= 0.99 * (mask | truth).sum())


def _drawn(polygons: list[list[float]]) -> np.ndarray:
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, *SIZE))) > 0


def _datumaro(entry: dict[str, Any], folder: Path) -> Iterator[Found]:
    import datumaro as dm
    from datumaro.util.mask_tools import generate_colormap

    form, place = entry["FORMAT"], folder
    if form == "coco":
        name = "coco_person_keypoints" if _has_keypoints(entry) else "coco_instances"
        place = folder / "as_coco"
        shutil.copytree(entry["IMAGES"], place / "images/default")
        (place / "annotations").mkdir()
        kind = name.removeprefix("coco_")
        shutil.copy(entry["JSON"], place / "annotations" / f"{kind}_default.json")
    elif form == "cvat":
        name, place = "cvat", Path(entry["XML"])
    elif form in ("yolo", "voc_instances"):  # its "label_me" reads the XML of the tool before
        name = "yolo" if form == "yolo" else "voc_instance_segmentation"
        if form == "voc_instances":
            # it knows classes and objects by the colours of VOC's own palette
            colors = [tuple(map(int, color)) for color in generate_colormap(256).values()]
            for path in [*folder.glob("Segmentation*/*.png")]:
                image = Image.open(path)
                image.putpalette([value for color in colors for value in color])
                image.save(path)
            (folder / "labelmap.txt").write_text(
                "".join(
                    f"{name}:{r},{g},{b}::\n"
                    for name, (r, g, b) in zip(["background", *CLASSES], colors, strict=False)
                )
            )
    else:
        raise NotImplementedError
    data = dm.Dataset.import_from(str(place), name)
    names = [one.name for one in data.categories()[dm.AnnotationType.label].items]
    for item in data:
        # an object's box comes beside its mask, with the same numbers
        masked = {
            (one.id, one.group) for one in item.annotations if one.type != dm.AnnotationType.bbox
        }
        for one in item.annotations:
            if one.type == dm.AnnotationType.polygon:
                mask = _drawn([list(one.points)])
            elif one.type == dm.AnnotationType.mask:
                mask = np.asarray(one.image) > 0
            elif one.type == dm.AnnotationType.bbox and (one.id, one.group) not in masked:
                mask = None
            else:
                continue
            yield Path(item.id).name, names[one.label], mask


def _labelformat(entry: dict[str, Any], folder: Path) -> Iterator[Found]:
    import labelformat.formats as formats

    form = entry["FORMAT"]
    if form == "coco":
        data = formats.COCOInstanceSegmentationInput(Path(entry["JSON"]))
    elif form == "yolo":
        data = formats.YOLOv8InstanceSegmentationInput(folder / "data.yaml", "train")
    elif form == "instance_label_images":
        suffix = next(Path(entry["LABELS"]).iterdir()).suffix
        data = formats.MaskPairInstanceSegmentationInput(
            image_glob="images/*.png", mask_glob=f"instances/*{suffix}", base_path=folder,
            segmentation_type="rle", min_area=0,
        )  # fmt: skip
    else:
        raise NotImplementedError
    for label in data.get_labels():
        for one in label.objects:
            segmentation = one.segmentation
            if hasattr(segmentation, "polygons"):
                polygons = [[x for point in p for x in point] for p in segmentation.polygons]
                mask = _drawn(polygons)
            else:
                mask = np.asarray(segmentation.get_binary_mask()) > 0
            yield Path(label.image.filename).stem, one.category.name, mask


def _supervision(entry: dict[str, Any], folder: Path) -> Iterator[Found]:
    import supervision as sv

    form = entry["FORMAT"]
    if form == "coco":
        data = sv.DetectionDataset.from_coco(entry["IMAGES"], entry["JSON"], force_masks=True)
    elif form == "yolo":
        data = sv.DetectionDataset.from_yolo(
            str(folder / "images/train"), str(folder / "labels/train"), str(folder / "data.yaml"),
            force_masks=True,
        )  # fmt: skip
    elif form == "labelme":
        data = sv.DetectionDataset.from_labelme(str(folder), str(folder))
    else:
        raise NotImplementedError
    for path, _, found in data:
        for number, kind in enumerate(found.class_id):
            mask = None if found.mask is None else np.asarray(found.mask[number]) > 0
            yield Path(path).stem, data.classes[kind], mask


def _has_keypoints(entry: dict[str, Any]) -> bool:
    content = json.loads(Path(entry["JSON"]).read_text())
    return any("keypoints" in (one or {}) for one in content["annotations"])


READERS = {"datumaro": _datumaro, "labelformat": _labelformat, "supervision": _supervision}


if __name__ == "__main__":
    main()
