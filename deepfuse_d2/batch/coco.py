"""The parts of a folder of results as one file that COCO's API reads, with the memory of a part."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from ..inference.records import image_of_png
from ..structures.mask_crops import MaskCrop
from .folder import written

__all__ = ["write_coco"]

# rows of a part that are in memory
_ROWS = 64
_OF_IMAGES = ["id", "name", "height", "width", "error"]
_OF_INSTANCES = ["boxes", "scores", "category_ids", "masks", "keypoints"]


def write_coco(parts: Sequence[Path], path: Path, labels: Mapping[str, Any]) -> tuple[int, int]:
    """Write images, annotations with scores, and categories; return the numbers of the first two.

    Images with an error are left out. Where a model gives labels of pixels alone, they become a
    mask for each class of an image.

    Args:
        labels: names of the classes and ids of the data set, as a model folder holds them.
    """
    with written(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"images": [')
        images = _write(file, map(_image, _rows(parts, _OF_IMAGES)))
        file.write('],\n"annotations": [')
        kinds: set[str] = set()
        annotations = _write(file, _numbered(_annotations(parts, kinds)))
        file.write(f'],\n"categories": {json.dumps(_categories(labels, kinds))}}}\n')
    return images, annotations


def _rows(parts: Iterable[Path], columns: list[str]) -> Iterator[dict[str, Any]]:
    for part in parts:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_ROWS, columns=columns):
                yield from (row for row in batch.to_pylist() if row["error"] is None)


def _write(file: TextIO, entries: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for count, entry in enumerate(entries, start=1):
        file.write((",\n" if count > 1 else "\n") + json.dumps(entry))
    return count


def _image(row: Mapping[str, Any]) -> dict[str, Any]:
    size = {name: row[name] for name in ("height", "width")}
    return {"id": row["id"], "file_name": row["name"], **size}


def _numbered(annotations: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    # from 1: COCO's evaluation takes an id of 0 for no match
    for number, annotation in enumerate(annotations, start=1):
        yield {"id": number, "iscrowd": 0, **annotation}


def _annotations(parts: Iterable[Path], kinds: set[str]) -> Iterator[dict[str, Any]]:
    columns = [*_OF_IMAGES, *_OF_INSTANCES, "labels"]
    for row in _rows(parts, columns):
        if row["boxes"] is not None:
            kinds.add("thing")
            yield from _of_instances(row)
        elif row["labels"] is not None:
            kinds.add("stuff")
            yield from _of_labels(row)


def _of_instances(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for number, (box, score, category) in enumerate(
        zip(row["boxes"], row["scores"], row["category_ids"], strict=True)
    ):
        found = {"image_id": row["id"], "category_id": category, "bbox": box, "score": score}
        if row["masks"]:
            found["segmentation"] = row["masks"][number]
            found["area"] = int(coco_mask.area(found["segmentation"]))
        else:
            found["area"] = box[2] * box[3]
        if row["keypoints"]:
            found["keypoints"] = row["keypoints"][number]
        yield found


def _of_labels(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    labels = image_of_png(row["labels"])
    for kind in np.unique(labels).tolist():
        rle = MaskCrop.of(labels == kind).rle(*labels.shape)
        yield {
            "image_id": row["id"],
            "category_id": kind,
            "bbox": coco_mask.toBbox(rle).tolist(),
            "area": int(coco_mask.area(rle)),
            "segmentation": rle,
        }


def _categories(labels: Mapping[str, Any], kinds: set[str]) -> list[dict[str, Any]]:
    kind = "stuff" if kinds == {"stuff"} else "thing"
    names = labels.get(f"{kind}_classes") or []
    ids = {}
    if kind == "thing":  # of pixels, the number of a class is what a label map holds
        given = labels.get("thing_dataset_id_to_contiguous_id") or {}
        ids = {contiguous: own for own, contiguous in given.items()}
    return [{"id": int(ids.get(k, k)), "name": name} for k, name in enumerate(names)]
