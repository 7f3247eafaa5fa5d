"""Run a model again on a batch that a training kept: what is not finite, where, in which image.

    deepfuse replay output/faults/nonfinite_0000123_rank0.pth
    deepfuse replay output/faults/out_of_memory_0000123_rank0.pth --device cpu \\
        --opts SOLVER.AMP.ENABLED False

The file holds the batch, the weights and the random states of then, and the config. Nothing in it
is executed. Other weights go with --weights, other settings with --opts.
Exit code: 0, all losses and gradients are finite this time; 1, some are not; 2, wrong arguments.
"""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="that a training wrote to OUTPUT_DIR/faults")
    parser.add_argument("--weights", default="", help="default: those that the training had")
    parser.add_argument("--device", default="", help="default: the training's, or the CPU")
    parser.add_argument("--each", action="store_true", help="also run each image alone")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..."
    )


def run(args: argparse.Namespace) -> int:
    from ..engine.anomaly.replay import replay

    is_finite = replay(
        args.file,
        weights=args.weights,
        device=args.device,
        each=args.each,
        opts=args.opts,
        say=print,
    )
    return 0 if is_finite else 1
