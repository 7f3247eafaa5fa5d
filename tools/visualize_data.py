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
import pycocotools.mask
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

import deepfuse_d2  # noqa: F401  registers the data sets
from deepfuse_d2.data.masks import to_rle
from deepfuse_d2.errors import DatasetError, UserError

_SMALLEST_NAMED = (
    300  # square pixels of a tile; smaller instances are drawn without their class name
)
_FALLBACK = [
    (220, 60, 60),
    (60, 130, 220),
    (240, 180, 40),
    (60, 170, 90),
    (160, 90, 200),
    (240, 130, 60),
]


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


def _colors(names: list[str], given) -> list[tuple[int, int, int]]:
    return (
        [tuple(c) for c in given]
        if given
        else [_FALLBACK[k % len(_FALLBACK)] for k in range(len(names))]
    )


def _mask(annotation: dict, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 of an annotation, whatever form its segmentation has; its box if it has none."""
    shape = annotation.get("segmentation")
    if isinstance(shape, dict):
        return pycocotools.mask.decode(to_rle(shape, height, width))
    mask = np.zeros((height, width), np.uint8)
    if shape:
        polygons = [np.asarray(p, float).reshape(-1, 2) for p in shape]
    else:
        mode = annotation.get("bbox_mode", BoxMode.XYXY_ABS)
        x0, y0, x1, y1 = BoxMode.convert(annotation["bbox"], mode, BoxMode.XYXY_ABS)
        polygons = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])]
    cv2.fillPoly(mask, [np.rint(p).astype(np.int32) for p in polygons], 1)
    return mask


def draw_instances(image: np.ndarray, annotations: list[dict], metadata) -> np.ndarray:
    """RGB picture with tinted, outlined and named instances; crowds (groups) are hatched."""
    names = list(metadata.get("thing_classes", []))
    colors = _colors(names, metadata.get("thing_colors"))
    out, (height, width) = image.copy(), image.shape[:2]
    texts = []
    rng = np.random.default_rng(0)
    for annotation in annotations:
        mask = _mask(annotation, height, width)
        if mask.shape != (height, width):
            mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        inside = mask.astype(bool)
        if not inside.any():
            continue
        kind = annotation["category_id"]
        # Neighbours of one class differ a little, so that one sees where the one ends.
        color = np.clip(np.array(colors[kind]) * 0.75 + rng.uniform(20, 110, 3), 0, 255)
        crowd = annotation.get("iscrowd", 0)
        if crowd:
            rows, columns = np.indices((height, width), sparse=True)
            inside &= (rows + columns) % 8 < 3
        out[inside] = (0.45 * out[inside] + 0.55 * color).astype(np.uint8)
        outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(
            out, outlines, -1, tuple(int(c) for c in np.minimum(color + 60, 255)), 1, cv2.LINE_AA
        )
        if mask.sum() >= _SMALLEST_NAMED and kind < len(names):
            x, y, _, _ = cv2.boundingRect(mask)
            texts.append((names[kind] + (" group" if crowd else ""), (x + 1, max(y + 9, 9))))
    for text, at in texts:
        for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                out, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.33, color, thickness, cv2.LINE_AA
            )
    return out


def draw_semantic(image: np.ndarray, classes: np.ndarray, metadata) -> np.ndarray:
    """Classes as colours over the picture; what is ignored stays as it is, darkened."""
    names = list(metadata.get("stuff_classes", []))
    table = np.zeros((256, 3), np.float32)
    for k, color in enumerate(_colors(names, metadata.get("stuff_colors"))):
        table[k] = color
    classes = cv2.resize(classes, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
    out = 0.3 * image + 0.7 * table[classes]
    return out.astype(np.uint8)


def draw_sample(sample: dict, dataset: str, tile_width: int) -> np.ndarray:
    """One sample, from top to bottom: picture, instances, semantic classes, as there are."""
    image = cv2.imread(sample["file_name"])
    if image is None:
        raise DatasetError(
            f"cannot read {sample['file_name']}; prepare the data set again, see datasets/README.md"
        )
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    scale = tile_width / image.shape[1]
    size = (tile_width, round(image.shape[0] * scale))
    height, width = image.shape[:2]
    metadata = MetadataCatalog.get(dataset)
    large = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    panels = [large]
    if "annotations" in sample:
        scaled = [
            {**a, "segmentation": _rescaled(a, height, width, size)} for a in sample["annotations"]
        ]
        panels.append(draw_instances(large, scaled, metadata))
    if sample.get("sem_seg_file_name"):
        classes = cv2.imread(sample["sem_seg_file_name"], cv2.IMREAD_GRAYSCALE)
        if classes is None:
            raise DatasetError(
                f"cannot read {sample['sem_seg_file_name']}; prepare the data set again"
            )
        stuff = MetadataCatalog.get(dataset.replace("_instance_seg_", "_sem_seg_"))
        panels.append(draw_semantic(large, classes, stuff))
    return np.concatenate(panels)


def _rescaled(annotation: dict, height: int, width: int, size: tuple[int, int]) -> dict:
    mask = cv2.resize(_mask(annotation, height, width), size, interpolation=cv2.INTER_NEAREST)
    return pycocotools.mask.encode(np.asfortranarray(mask))


def contact_sheet(tiles: list[np.ndarray], columns: int, gap: int = 6) -> np.ndarray:
    """Tiles of any height in rows of ``columns``, on white."""
    rows = []
    for start in range(0, len(tiles), columns):
        row = tiles[start : start + columns]
        height, width = max(t.shape[0] for t in row), max(t.shape[1] for t in tiles)
        sheet = np.full((height + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
        for k, tile in enumerate(row):
            x = gap + k * (width + gap)
            sheet[gap : gap + tile.shape[0], x : x + tile.shape[1]] = tile
        rows.append(sheet)
    bottom = np.full((gap, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([*rows, bottom])


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
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
        sheet = args.output if args.output.suffix == ".png" else args.output / f"{args.dataset}.png"
        _save(sheet, contact_sheet(tiles, min(args.columns, len(tiles))))
        if sheet != args.output:
            for sample, tile in zip(samples, tiles, strict=True):
                _save(args.output / f"{Path(sample['file_name']).stem}.png", tile)
    except (UserError, OSError) as error:
        print(f"visualize_data.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(tiles)} samples of {args.dataset}: {sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
