#!/usr/bin/env python3
"""Cut the objects of a data set out, a folder a class: images to pre-train a classifier on.

    python tools/crop_objects.py minicity_fine_instance_seg_train --output output/objects/train
    python tools/pretrain_classifier.py --images output/objects/train ...

A crop is the object's box and a margin, as the image shows it. Groups (iscrowd) are left out, and
boxes whose longer side has fewer than --min-size pixels.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from tqdm import tqdm

from deepfuse_d2.engine import check_config, load_config
from deepfuse_d2.errors import ConfigError, DatasetError, UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="registered name")
    parser.add_argument("--config-file", default="", metavar="FILE", help="for DATASETS.EXTRA")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new one")
    parser.add_argument(
        "--margin", type=float, default=0.2, help="on each side, of the box's (default: 0.2)"
    )
    parser.add_argument("--min-size", type=int, default=16, help="pixels (default: 16)")
    args = parser.parse_args(argv)
    try:
        print(table(crop_objects(args)))
    except UserError as error:
        print(f"crop_objects.py: {error}", file=sys.stderr)
        return 2
    print(f"In {args.output}")
    return 0


def crop_objects(args: argparse.Namespace) -> Counter[str]:
    """Write the crops; returns how many of each class."""
    if args.margin < 0 or args.min_size < 1:
        raise ConfigError("--margin is 0 or more and --min-size 1 or more.")
    if args.output.exists() and any(args.output.iterdir()):
        raise ConfigError(f"--output {args.output} is not empty; give a new folder.")
    # whose names are checked there
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATASETS.TEST", str((args.dataset,))]
    check_config(load_config(args.config_file, overrides))
    records = DatasetCatalog.get(args.dataset)
    classes = getattr(MetadataCatalog.get(args.dataset), "thing_classes", None)
    if not classes or not any(record.get("annotations") for record in records):
        raise DatasetError(f'The data set "{args.dataset}" has no objects (annotations).')
    folders = [args.output / folder_name(name) for name in classes]
    if len(set(folders)) < len(folders):
        raise DatasetError(f"Classes {list(classes)} give no folder of their own each.")

    counts = Counter(dict.fromkeys(classes, 0))
    for number, record in enumerate(tqdm(records, unit="image")):
        image = None
        for index, (label, box) in enumerate(objects(record, args.min_size)):
            if image is None:
                image = read_image(record["file_name"], format="BGR")
            crop = cut(image, box, args.margin)
            if crop.size:
                folders[label].mkdir(parents=True, exist_ok=True)
                file = folders[label] / f"{number:06d}_{index:03d}.png"
                if not cv2.imwrite(str(file), crop):
                    raise DatasetError(f"{file} could not be written: is the disk full?")
                counts[classes[label]] += 1
    return counts


def folder_name(label: str) -> str:
    """A class name as the name of a folder: it may come from a file of somebody else."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", label).strip("_") or "_"


def objects(record: dict, min_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Class and box (x0, y0, x1, y1), in pixels, of the objects that count."""
    for annotation in record.get("annotations", ()):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        box = np.asarray(box, float)
        if not annotation.get("iscrowd", 0) and max(box[2:] - box[:2]) >= min_size:
            yield annotation["category_id"], box


def cut(image: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """The part of `image` (H, W, 3) in `box` and `margin` of its sides around it."""
    more = margin * (box[2:] - box[:2])
    low = np.maximum(np.floor(box[:2] - more), 0).astype(int)
    high = np.minimum(np.ceil(box[2:] + more), image.shape[1::-1]).astype(int)
    return image[low[1] : high[1], low[0] : high[0]]


def table(counts: Counter[str]) -> str:
    from tabulate import tabulate

    return tabulate([*counts.items(), ("all", counts.total())], ["class", "objects"])


if __name__ == "__main__":
    sys.exit(main())
