"""Train a model from a recipe or a config, and evaluate it.

    deepfuse train MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick OUTPUT_DIR output/quick
    deepfuse train --config-file my.yaml --resume --num-gpus 8 SOLVER.BASE_LR 0.01

The options are detectron2's; torchrun works as well (torchrun ... -m deepfuse_d2 train). On a
machine without GPUs --num-gpus N starts N processes on the CPU. The screen shows how far the
training is, and its results; OUTPUT_DIR/log.txt has all that --verbose shows besides.
docs/training.md says how to train fast, and docs/scaling.md how on several machines.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..errors import UserError
from .arguments import add_recipe, config_and_overrides
from .pack import pack_model

__all__ = ["add_arguments", "add_launch_arguments", "run", "run_in_process"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_launch_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT_DIR, if it can")
    parser.add_argument("--pack", action="store_true", help="as OUTPUT_DIR/model, at the end")
    parser.add_argument("--eval-only", action="store_true", help="train nothing (deepfuse eval)")


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is evaluated or trained, on how many processes, and what the screen shows."""
    add_recipe(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="show all of OUTPUT_DIR/log.txt on the screen"
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="of this machine")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="counted from 0")
    # A free port: neither another user nor another training of the same one is met at it.
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL",
        help="where the processes meet: auto (a free port of this machine), env://, or "
        "tcp://HOST:PORT (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from ..checkpoint.model_folder import is_model_folder, open_folder
    from ..config.recipes import find_config
    from ..engine.distributed.launch import launch

    args.config_file, args.opts = config_and_overrides(args)
    if is_model_folder(args.config_file):
        folder = open_folder(args.config_file, verify=False)
        args.config_file = folder.config_file
        args.opts = ["MODEL.WEIGHTS", str(folder.path), *args.opts]
    elif args.config_file:
        args.config_file = find_config(args.config_file)
    launch(run_in_process, args)


def run_in_process(args: argparse.Namespace) -> None:
    """Train or evaluate in one process of the group; a mistake is told by the first of them."""
    from detectron2.utils import comm

    try:
        train(args)
    except UserError as error:
        if comm.is_main_process():
            print(f"{args.prog}: {error}", file=sys.stderr)
        sys.exit(2)


def train(args: argparse.Namespace):
    """Set up, then train; or evaluate alone, with ``args.eval_only``."""
    from detectron2.utils import comm

    from ..checkpoint import DeepFuseCheckpointer
    from ..engine import Trainer, setup
    from ..engine.preflight import check_classes

    cfg = setup(args)
    output = Path(cfg.OUTPUT_DIR)
    logger = logging.getLogger(__name__)
    logger.info("The log of all: %s", output / "log.txt")
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = DeepFuseCheckpointer(
            model, cfg.OUTPUT_DIR, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        found = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        check_classes(cfg, model, found.get("thing_classes") or (), training=False)
        results = Trainer.evaluate(cfg, model)
        logger.info("Files of the evaluation: %s", output / "inference")
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    if not comm.is_main_process():
        return results
    if args.pack:
        trained = cfg.clone()
        trained.defrost()
        trained.MODEL.WEIGHTS = str(output / "model_final.pth")
        pack_model(trained, output / "model", output / "results.json", overwrite=True)
    kept = [output / name for name in ("model_final.pth", "model", "results.json", "inference")]
    logger.info("Kept: %s", ", ".join(str(path) for path in kept if path.exists()))
    return results
