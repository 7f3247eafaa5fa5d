"""Draw what models find beside the ground truth, as one PNG to judge at a glance.

    deepfuse compare --config-file FILE --weights FILE --output FILE.png
    deepfuse compare --output both.png --dataset camvid_sem_seg_test \\
        --config-file A.yaml --weights a.pth --config-file B.yaml --weights b.pth

Instances or labels of pixels, as the models have them; each model is a column.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigError
from .arguments import add_config_file, add_overrides

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser, action="append")
    parser.add_argument(
        "--weights", required=True, action="append", metavar="FILE", help="one for each config"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="PNG")
    parser.add_argument("--dataset", help="(default: the first of DATASETS.TEST)")
    parser.add_argument("--num", type=int, default=6, help="images, spread over the data set")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score drawn")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the drawing")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    if len(args.config_file) != len(args.weights):
        raise ConfigError(
            f"--config-file is there {len(args.config_file)} times and --weights "
            f"{len(args.weights)} times; give one with each."
        )
    if args.num < 1:
        raise ConfigError(f"--num is {args.num}; it must be 1 or more.")

    from ..config.checking import check_config
    from ..config.loading import load_config
    from ..demo.side_by_side import draw_side_by_side

    models = []
    for config_file, weights in zip(args.config_file, args.weights, strict=True):
        cfg = load_config(config_file, [*args.opts, "MODEL.WEIGHTS", weights])
        if args.dataset:
            cfg.DATASETS.TEST = (args.dataset,)
        check_config(cfg)
        models.append((config_file, cfg))
    draw_side_by_side(models, args.output, args.num, args.threshold, args.scale)
    print(f"Wrote {args.output}")
