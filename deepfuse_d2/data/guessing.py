"""From a path, or the name of a data set, to entries of DATASETS.EXTRA that open it."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.data import DatasetCatalog

from ..errors import DatasetError
from .images import IMAGE_SUFFIXES

__all__ = ["DataSplits", "find_data"]

_IMAGE_FOLDERS = ("images", "imgs", "JPEGImages", "PNGImages", "train", ".")
_LABEL_FOLDERS = ("instances", "labels", "masks", "PedMasks", "annotations")


class DataSplits(NamedTuple):
    """Names of the data sets to train and to evaluate on, and the entries that register them."""

    entries: list[dict[str, Any]]
    train: str
    val: str


def find_data(
    data: str, val: str | None = None, *, images: str | None = None, val_images: str | None = None
) -> DataSplits:
    """Say how a data set is opened.

    Args:
        data: the name of a registered data set; a JSON file of COCO, an XML file of CVAT, a
            data.yaml of YOLO; or a folder of one of the formats.
        val: the same of what to evaluate on; by default the validation split that `data` has, else
            a fifth of it.
        images: folder of the images of a JSON or XML file; by default it is looked for beside it.
        val_images: the same of `val`; by default `images`.

    Raises: DatasetError: nothing that is known lies there.
    """
    if data in DatasetCatalog:
        other = val or data.replace("train", "val")
        if other == data or other not in DatasetCatalog:
            return _split([], data)
        return DataSplits([], data, other)
    entry = {"NAME": "own_train", **_entry(Path(data), images)}
    if val is not None:
        if val in DatasetCatalog:
            return DataSplits([entry], "own_train", val)
        other = {"NAME": "own_val", **_entry(Path(val), val_images or images)}
        return DataSplits([entry, other], "own_train", "own_val")
    if entry["FORMAT"] == "yolo":
        splits = _splits_of_yolo(entry["DATA"])
        if splits:
            other = {**entry, "NAME": "own_val", "SPLIT": splits[0]}
            return DataSplits([entry, other], "own_train", "own_val")
    if entry["FORMAT"] == "voc_instances":
        other = {**entry, "NAME": "own_val", "SPLIT": "val"}
        return DataSplits([entry, other], "own_train", "own_val")
    return _split([{**entry, "NAME": "own"}], "own")


def _split(entries: list[dict[str, Any]], name: str) -> DataSplits:
    parts = [{"NAME": f"own_{part}", "FORMAT": "part", "OF": name, "PART": part, "RATIO": 0.2}
             for part in ("train", "val")]  # fmt: skip
    return DataSplits([*entries, *parts], "own_train", "own_val")


def _entry(path: Path, images: str | None) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if not path.exists():
        raise DatasetError(
            f"{path} does not exist, and is no registered data set. Give a JSON, XML or yaml file, "
            "a folder, or a name of datasets/README.md."
        )
    if suffix == ".json":
        return {"FORMAT": "coco", "JSON": str(path), "IMAGES": images or _images_beside(path)}
    if suffix == ".xml":
        return {"FORMAT": "cvat", "XML": str(path), "IMAGES": images or _images_beside(path)}
    if suffix in (".yaml", ".yml"):
        return {"FORMAT": "yolo", "DATA": str(path), "SPLIT": "train"}
    if path.is_dir():
        return _entry_of_folder(path)
    raise DatasetError(f"{path} is of no format that is known; see datasets/README.md.")


def _entry_of_folder(folder: Path) -> dict[str, Any]:
    if any((folder / name).is_file() for name in ("data.yaml", "data.yml", "dataset.yaml")):
        return {"FORMAT": "yolo", "DATA": str(folder), "SPLIT": "train"}
    if (folder / "SegmentationObject").is_dir():
        return {"FORMAT": "voc_instances", "ROOT": str(folder), "SPLIT": "train"}
    jsons = sorted(folder.glob("*.json"))
    stems = {p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
    if jsons and all(p.stem in stems for p in jsons[:5]):
        return {"FORMAT": "labelme", "ROOT": str(folder)}
    if len(jsons) == 1:
        return _entry(jsons[0], None)
    for labels in _LABEL_FOLDERS:
        for pictures in _IMAGE_FOLDERS[:-1]:
            if labels != pictures and _stems(folder / labels) and _stems(folder / pictures):
                entry = {"FORMAT": "instance_label_images", "IMAGES": str(folder / pictures),
                         "LABELS": str(folder / labels)}  # fmt: skip
                names = sorted(os.listdir(folder / labels))
                if all(os.path.splitext(name)[0].endswith("_mask") for name in names):
                    entry["LABEL_SUFFIX"] = "_mask" + os.path.splitext(names[0])[1]
                return entry
    raise DatasetError(
        f"{folder} is no folder of a format that is known: no data.yaml (YOLO), no "
        "SegmentationObject (PASCAL VOC), no JSON beside each image (LabelMe), no single JSON "
        "(COCO), no folders images and instances (an id an object). Give the JSON or XML file."
    )


def _images_beside(path: Path) -> str:
    for folder in (path.parent, path.parent.parent):
        for name in (path.stem, path.stem.replace("instances_", ""), *_IMAGE_FOLDERS):
            if _stems(folder / name):
                return str(folder / name)
    raise DatasetError(f"There are no images beside {path}; say where with --images FOLDER.")


def _stems(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}


def _splits_of_yolo(data: str) -> list[str]:
    """Names of the validation split in the yaml, the first of which counts."""
    path = Path(data)
    files = [path] if path.is_file() else sorted(path.glob("*.y*ml"))
    try:
        content = yaml.safe_load(files[0].read_text(encoding="utf-8-sig"))
    except (OSError, IndexError, UnicodeError, yaml.YAMLError):
        return []
    return [key for key in ("val", "valid", "test") if isinstance(content, dict)
            and content.get(key)]  # fmt: skip
