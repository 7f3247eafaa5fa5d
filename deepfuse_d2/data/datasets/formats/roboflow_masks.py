"""FORMAT roboflow_masks: Roboflow's "semantic segmentation masks": a PNG of class ids an image.

ROOT/a.jpg  ROOT/a_mask.png  ROOT/_classes.csv: `Pixel Value, Class`
"""

import csv
import functools
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ....errors import DatasetError
from ..catalog import register_dataset
from ..semantic import load_pairs, pair_by_stem
from .base import Format

__all__ = ["ROBOFLOW_MASKS"]

_SUFFIX = "_mask.png"


def _register(entry: dict[str, Any]) -> None:
    metadata = {"evaluator_type": "sem_seg", "ignore_label": 255, "has_labels": True}
    load = functools.partial(_load, entry)
    register_dataset(entry["NAME"], load, metadata, replace=True)
    if (Path(entry["ROOT"]) / "_classes.csv").is_file():
        # evaluators ask for the names before the images are looked at
        MetadataCatalog.get(entry["NAME"]).set(stuff_classes=_classes(Path(entry["ROOT"])))


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    root = Path(entry["ROOT"])
    classes = _classes(root)
    MetadataCatalog.get(entry["NAME"]).set(stuff_classes=classes)
    pairs = pair_by_stem(root, root, _SUFFIX, skip_suffix=_SUFFIX)
    return load_pairs(
        pairs, root=root, name=entry["NAME"], num_classes=len(classes), ignore_label=255
    )


def _classes(root: Path) -> list[str]:
    file = root / "_classes.csv"
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
        numbered = {int(number): name for number, name, *_ in rows[1:]}
    except FileNotFoundError as error:
        raise DatasetError(f"File {file} with the names of the classes does not exist.") from error
    except (OSError, UnicodeError, ValueError, csv.Error) as error:
        raise DatasetError(f"{file} holds no lines `Pixel Value, Class` ({error}).") from error
    if sorted(numbered) != list(range(len(numbered))) or not numbered:
        raise DatasetError(f"{file} numbers its classes {sorted(numbered)}; expected 0, 1, 2, ...")
    return [numbered[number] for number in range(len(numbered))]


ROBOFLOW_MASKS = Format({"ROOT": str}, {}, ("ROOT",), _register)
