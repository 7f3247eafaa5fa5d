"""What the formats of submissions share: reading outputs, checking files, packing them."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import upright_size
from ..errors import ConfigError, DatasetError
from ..evaluation.label_maps import check_classes
from ..structures.best_class import best_class

__all__ = ["compare_files", "label_map", "pack", "stem_of", "wrong_png"]

# A submission packed twice is the same file.
_DATE = (2000, 1, 1, 0, 0, 0)


def stem_of(record: dict[str, Any]) -> str:
    """Return the file name of a record's image without what follows the name of the frame."""
    name = os.path.basename(record["file_name"])
    return os.path.splitext(name)[0].removesuffix("_leftImg8bit")


def label_map(output: dict[str, Any], record: dict[str, Any], num_classes: int) -> np.ndarray:
    """Return the (H, W) class indices that a model found in the image of a record.

    Args:
        output: `sem_seg` is a tensor of logits (C, H, W), or of class indices (H, W).
        num_classes: how many the data set has.

    Raises:
        ConfigError: there is no `sem_seg`; its size is not the image's; a class that the data set
            does not have.
    """
    image, size = record["file_name"], (record["height"], record["width"])
    if "sem_seg" not in output:
        raise ConfigError(
            f"{image}: the model gives {sorted(output)} and no sem_seg; a submission of pixel "
            "labels needs a semantic model, or a data set of instances."
        )
    found = output["sem_seg"].detach()
    classes = (best_class(found)[0] if found.ndim == 3 else found).cpu().numpy()
    if classes.shape != size:
        raise ConfigError(
            f"{image}: the model's sem_seg is {classes.shape} (height, width) and the image {size};"
            " predictions must be resized to the size of the original image."
        )
    check_classes(classes, num_classes, image, "MODEL.SEM_SEG_HEAD.NUM_CLASSES")
    return classes


def wrong_png(path: Path, name: str, record: dict[str, Any], mode: str) -> str:
    """Return what is wrong with form or size of a PNG that shall have Pillow's `mode`, or ""."""
    try:
        height, width = upright_size(path)
        with Image.open(path) as image:
            found = image.mode
    except (DatasetError, OSError) as error:
        return str(error)
    if found != mode:
        expected = {"L": "is no grey image of 8 bits", "P": "has no palette"}[mode]
        return f"{name} {expected} (mode {found})"
    if (height, width) != (record["height"], record["width"]):
        return (
            f"{name} is {width} x {height} pixels, its image {record['width']} x {record['height']}"
        )
    return ""


def compare_files(folder: Path, expected: Sequence[str]) -> list[str]:
    """Return which of the expected files are missing, and which files are there beside them."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = set(expected)
    problems = [f"{name} is missing" for name in sorted(wanted - there)]
    return problems + [f"{name} is no file of the submission" for name in sorted(there - wanted)]


def pack(folder: Path, archive: Path, *, inside: str = "") -> None:
    """Pack the files of a folder into a .zip or .tgz, below the folder `inside` of the archive."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [str(Path(inside) / path.relative_to(folder)) for path in paths]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path, name in zip(paths, names, strict=True):
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                # a PNG does not get smaller
                is_png = path.suffix == ".png"
                entry.compress_type = zipfile.ZIP_STORED if is_png else zipfile.ZIP_DEFLATED
                packed.writestr(entry, path.read_bytes())
        return
    with tarfile.open(archive, "w:gz") as tape:
        for path, name in zip(paths, names, strict=True):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tape.addfile(member, io.BytesIO(content))
