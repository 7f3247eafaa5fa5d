"""Evaluate a trained model on the data sets of a recipe or a config.

    deepfuse eval MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick --weights output/model_final.pth
    deepfuse eval packed_model DATASETS.TEST "('pennfudan_val',)"
    deepfuse eval --config-file output/config.yaml --weights output/model_final.pth \\
        DATASETS.TEST "('pennfudan_val',)"

Results are printed, and lie in OUTPUT_DIR/inference. On a test split, which has no labels, the
files for its server are written there.
"""

from __future__ import annotations

import argparse

from . import train

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_launch_arguments(parser)
    parser.add_argument(
        "--weights", metavar="FILE", help="of the model (default: MODEL.WEIGHTS of the config)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="the last checkpoint of OUTPUT_DIR in place of them"
    )


def run(args: argparse.Namespace) -> None:
    args.eval_only = True
    if args.weights:
        args.opts += ["MODEL.WEIGHTS", args.weights]
    train.run(args)
