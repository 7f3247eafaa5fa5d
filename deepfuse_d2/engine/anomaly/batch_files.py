"""A batch that went wrong, on disk, to be looked at again: tensors and plain containers alone."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from torch import Tensor

from ...checkpoint.safe_load import load_torch
from ...checkpoint.writing import write_torch
from ...errors import WeightsError
from ...structures.cropped_masks import CroppedMasks

__all__ = ["describe_batch", "files_of", "pack", "read_batch", "unpack", "write_batch"]

_KIND = "deepfuse_kind"


def pack(item: Any) -> Any:
    """`item` with detectron2's structures as mappings that say what they were.

    What else is not plain becomes its text: no model needs it.
    """
    if isinstance(item, Tensor):
        # a copy, for a part of a larger tensor would bring all of it along
        return item.detach().cpu().clone()
    if isinstance(item, Instances):
        fields = {name: pack(value) for name, value in item.get_fields().items()}
        return {_KIND: "Instances", "size": list(item.image_size), "fields": fields}
    if isinstance(item, (Boxes, Keypoints)):
        return {_KIND: type(item).__name__, "tensor": pack(item.tensor)}
    if isinstance(item, CroppedMasks):
        return {
            _KIND: "CroppedMasks",
            "pixels": pack(item.pixels),
            "windows": pack(item.windows),
            "size": list(item.image_size),
            "index": pack(item.index),
        }
    if isinstance(item, BitMasks):
        return {_KIND: "BitMasks", "tensor": pack(item.tensor)}
    if isinstance(item, PolygonMasks):
        polygons = [[torch.as_tensor(part) for part in parts] for parts in item.polygons]
        return {_KIND: "PolygonMasks", "polygons": polygons}
    if isinstance(item, Mapping):
        return {str(key): pack(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [pack(value) for value in item]
    return item if isinstance(item, (bool, int, float, str, type(None))) else str(item)


def unpack(item: Any) -> Any:
    """What :func:`pack` was given."""
    if isinstance(item, list):
        return [unpack(value) for value in item]
    if not isinstance(item, Mapping):
        return item
    kind = item.get(_KIND)
    if kind is None:
        return {key: unpack(value) for key, value in item.items()}
    if kind == "Instances":
        fields = {name: unpack(value) for name, value in item["fields"].items()}
        return Instances(tuple(item["size"]), **fields)
    if kind == "CroppedMasks":
        size = tuple(item["size"])
        return CroppedMasks(item["pixels"], item["windows"], size, item["index"])
    if kind == "PolygonMasks":
        return PolygonMasks([[part.numpy() for part in parts] for parts in item["polygons"]])
    if kind not in ("Boxes", "Keypoints", "BitMasks"):
        raise WeightsError(f"A batch holds a {kind!r}; this version knows no such structure.")
    return {"Boxes": Boxes, "Keypoints": Keypoints, "BitMasks": BitMasks}[kind](item["tensor"])


def write_batch(path: Path, batch: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Write `batch` and `facts` about it, plain ones, states and tensors, to `path`."""
    write_torch(path, {"batch": pack(batch), "written": time.strftime("%F %T"), **pack(facts)})


def read_batch(path: str | Path) -> dict[str, Any]:
    """What :func:`write_batch` was given, read without executing anything.

    Raises: WeightsError: the file is missing, damaged, or no file of a batch.
    """
    if not Path(path).is_file():
        raise WeightsError(f"The file of a batch {path} does not exist (folder: {Path.cwd()}).")
    content = load_torch(path)
    if not isinstance(content, Mapping) or "batch" not in content:
        raise WeightsError(
            f"{path} is no file of a batch; a training writes them to OUTPUT_DIR/faults."
        )
    return {**content, "batch": unpack(content["batch"])}


def files_of(batch: Any) -> list[str]:
    """Names of the images of a batch, as far as it tells."""
    if not isinstance(batch, (list, tuple)):
        return []
    return [str(x.get("file_name", "?")) for x in batch if isinstance(x, Mapping)]


def describe_batch(batch: Any) -> str:
    """One line an image: its file, its size as the model gets it, its instances."""
    lines = []
    for sample in batch if isinstance(batch, (list, tuple)) else []:
        if not isinstance(sample, Mapping):
            continue
        parts = [str(sample.get("file_name", "?"))]
        if isinstance(sample.get("image"), Tensor):
            height, width = sample["image"].shape[-2:]
            parts.append(f"{height} x {width} pixels")
        if isinstance(sample.get("instances"), Instances):
            parts.append(f"{len(sample['instances'])} instances")
        lines.append("  " + ", ".join(parts))
    return "\n".join(lines)
