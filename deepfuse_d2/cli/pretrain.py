"""Train a config's bottom-up network to classify images, every stage of it (semantic supervision).

    deepfuse pretrain --config-file VOC/sem_seg_X_101_ExFuse \\
        --images FOLDER --output output/pretrained.pth [KEY VALUE ...]

FOLDER has one folder of images a class (torchvision's ImageFolder). Each stage gets a classifier of
its own, as in ExFuse (arXiv 1804.03821); losses are summed with --weights. The file written holds
the bottom-up network alone: MODEL.WEIGHTS loads it into any model with that network.

This is a plain training loop for networks without public weights, such as the rearranged ResNet,
and for small data; ImageNet at full length asks for a cluster and a loop made for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_config_file, add_overrides

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.pth")
    parser.add_argument("--val-images", type=Path, metavar="FOLDER", help="report accuracy on it")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="side of the crops, in pixels")
    parser.add_argument("--lr", type=float, default=0.1, help="for 256 images a batch; scaled")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--width", type=int, default=256, help="channels of the classifiers")
    parser.add_argument(
        "--weights", type=float, nargs="+", default=[1.0], metavar="W",
        help="of the stages' losses from fine to coarse, or one for all (default: 1)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from ..config.loading import load_config
    from ..engine.pretraining import pretrain

    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    names = (
        "val_images", "epochs", "batch", "size", "lr", "weight_decay", "width", "weights",
        "workers", "seed",
    )  # fmt: skip
    pretrain(
        load_config(args.config_file, args.opts),
        args.images,
        args.output,
        **{name: getattr(args, name) for name in names},
    )
