"""Draw contact sheets of a registered data set: pictures, instances and semantic labels.

    deepfuse visualize-data --dataset minicity_fine_instance_seg_val --output output/val.png
    deepfuse visualize-data --dataset pennfudan_train --output output/pennfudan --num 24

An output that ends in .png gives one sheet; any other is a folder that also gets each sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DatasetError
from .arguments import add_config_file

__all__ = ["add_arguments", "check", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="a registered name")
    add_config_file(parser, required=False, default="", help="for DATASETS.EXTRA")
    parser.add_argument("--output", type=Path, required=True, help="a .png file, or a folder")
    parser.add_argument(
        "--num", type=int, default=12, help="samples, spread evenly over the data set"
    )
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--tile-width", type=int, default=512, help="pixels")


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for name in ("num", "columns", "tile_width"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} = {getattr(args, name)}; give 1 or more")


def run(args: argparse.Namespace) -> None:
    from ..visualization import sheet
    from ..visualization.samples import draw_sample, load_samples

    if args.config_file:
        from ..config.loading import load_config

        load_config(args.config_file, ["MODEL.DEVICE", "cpu"])
    samples = load_samples(args.dataset, args.num)
    tiles = [draw_sample(sample, args.dataset, args.tile_width) for sample in samples]
    file = args.output if args.output.suffix == ".png" else args.output / f"{args.dataset}.png"
    save(file, sheet(tiles, min(args.columns, len(tiles))))
    if file != args.output:
        for sample, tile in zip(samples, tiles, strict=True):
            save(args.output / f"{Path(sample['file_name']).stem}.png", tile)
    print(f"{len(tiles)} samples of {args.dataset}: {file}")


def save(path: Path, image) -> None:
    """Write a picture (H, W, 3), BGR of 8 bits."""
    import cv2

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), image)
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error}") from error
    if not written:
        raise DatasetError(f"cannot write {path}")
