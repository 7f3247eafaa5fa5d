"""Cut the objects of a data set out, a folder a class: images to pre-train a classifier on.

    deepfuse crop-objects minicity_fine_instance_seg_train --output output/objects/train
    deepfuse pretrain --images output/objects/train ...

A crop is the object's box and a margin, as the image shows it. Groups (iscrowd) are left out, and
boxes whose longer side has fewer than --min-size pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_config_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="registered name")
    add_config_file(parser, required=False, default="", help="for DATASETS.EXTRA")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new one")
    parser.add_argument(
        "--margin", type=float, default=0.2, help="on each side, of the box's (default: 0.2)"
    )
    parser.add_argument("--min-size", type=int, default=16, help="pixels (default: 16)")


def run(args: argparse.Namespace) -> None:
    from tabulate import tabulate

    from ..config.checking import check_config
    from ..config.loading import load_config
    from ..data.crops import crop_objects

    # whose names are checked there
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATASETS.TEST", str((args.dataset,))]
    check_config(load_config(args.config_file, overrides))
    counts = crop_objects(args.dataset, args.output, args.margin, args.min_size)
    print(tabulate([*counts.items(), ("all", counts.total())], ["class", "objects"]))
    print(f"In {args.output}")
