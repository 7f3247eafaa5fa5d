#!/usr/bin/env python3
"""Draws contact sheets of a registered data set: pictures, instances and semantic labels.

    python tools/visualize_data.py --dataset minicity_fine_instance_seg_val --output output/val.png
    python tools/visualize_data.py --dataset pennfudan_train --output output/pennfudan --num 24

An output that ends in .png gives one sheet; any other is a folder that also gets each sample.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

import deepfuse_d2  # noqa: F401  registers the data sets
from deepfuse_d2.errors import DatasetError, UserError
from deepfuse_d2.visualization import draw_annotations, draw_labels, sheet


def load_samples(dataset: str, count: int) -> list[dict]:
    """``count`` dicts spread evenly over a data set, with semantic maps of its sibling, if any."""
    if dataset not in DatasetCatalog.list():
        near = ", ".join(
            sorted(n for n in DatasetCatalog.list() if n.split("_")[0] == dataset.split("_")[0])
        )
        known = near or ", ".join(sorted(DatasetCatalog.list()))
        raise DatasetError(f'--dataset "{dataset}" is unknown; known are {known}')
    dicts = DatasetCatalog.get(dataset)
    if not dicts:
        raise DatasetError(f'--dataset "{dataset}" has no pictures')
    chosen = [dicts[k] for k in np.linspace(0, len(dicts) - 1, min(count, len(dicts))).astype(int)]
    sibling = dataset.replace("_instance_seg_", "_sem_seg_")
    if sibling != dataset and sibling in DatasetCatalog.list():
        maps = {d["file_name"]: d.get("sem_seg_file_name") for d in DatasetCatalog.get(sibling)}
        chosen = [{"sem_seg_file_name": maps.get(d["file_name"]), **d} for d in chosen]
    return chosen


def draw_sample(sample: dict, dataset: str, tile_width: int) -> np.ndarray:
    """One sample, from top to bottom: picture, instances, semantic classes, as there are."""
    image = cv2.imread(sample["file_name"])
    if image is None:
        raise DatasetError(
            f"cannot read {sample['file_name']}; prepare the data set again, see datasets/README.md"
        )
    scale = tile_width / image.shape[1]
    size = (tile_width, round(image.shape[0] * scale))
    metadata = MetadataCatalog.get(dataset)
    large = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    panels = [large]
    if "annotations" in sample:
        panels.append(draw_annotations(image, sample, metadata, scale))
    if sample.get("sem_seg_file_name"):
        classes = cv2.imread(sample["sem_seg_file_name"], cv2.IMREAD_GRAYSCALE)
        if classes is None:
            raise DatasetError(
                f"cannot read {sample['sem_seg_file_name']}; prepare the data set again"
            )
        stuff = MetadataCatalog.get(dataset.replace("_instance_seg_", "_sem_seg_"))
        panels.append(draw_labels(large, classes, stuff))
    return np.concatenate(panels)


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise DatasetError(f"cannot write {path}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a registered name")
    parser.add_argument("--output", type=Path, required=True, help="a .png file, or a folder")
    parser.add_argument(
        "--num", type=int, default=12, help="samples, spread evenly over the data set"
    )
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--tile-width", type=int, default=512, help="pixels")
    args = parser.parse_args(argv)
    for name in ("num", "columns", "tile_width"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} = {getattr(args, name)}; give 1 or more")
    try:
        samples = load_samples(args.dataset, args.num)
        tiles = [draw_sample(sample, args.dataset, args.tile_width) for sample in samples]
        file = args.output if args.output.suffix == ".png" else args.output / f"{args.dataset}.png"
        _save(file, sheet(tiles, min(args.columns, len(tiles))))
        if file != args.output:
            for sample, tile in zip(samples, tiles, strict=True):
                _save(args.output / f"{Path(sample['file_name']).stem}.png", tile)
    except (UserError, OSError) as error:
        print(f"visualize_data.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(tiles)} samples of {args.dataset}: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
