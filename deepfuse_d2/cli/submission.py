"""Write what a model finds in a test split as the server takes it: checked, and packed for upload.

    deepfuse submission --config-file FILE --weights model_final.pth \\
        --output output/submission --dataset cityscapes_fine_instance_seg_test
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigError
from .arguments import add_config_file, add_overrides

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--dataset", metavar="NAME", help="a registered name (default: the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a submission that lies in --output"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from ..checkpoint import DeepFuseCheckpointer
    from ..config.checking import check_config
    from ..config.loading import load_config
    from ..engine import Trainer
    from ..submission import SubmissionWriter

    opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    if args.dataset:
        opts += ["DATASETS.TEST", f"('{args.dataset}',)"]
    cfg = load_config(args.config_file, opts)
    cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    check_config(cfg)
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a data set with --dataset.")
    cfg.freeze()
    setup_logger()
    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    # first, since it tells before minutes of work that --output is taken
    writer = SubmissionWriter(cfg.DATASETS.TEST[0], args.output, overwrite=args.overwrite)
    model = Trainer.build_model(cfg)
    checkpointer = DeepFuseCheckpointer(model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    Trainer.test(cfg, model, evaluators=[writer])
