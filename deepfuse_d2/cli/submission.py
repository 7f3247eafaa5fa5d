#!/usr/bin/env python3
"""Write what a model finds in a test split as the server takes it: checked, and packed for upload.

python tools/make_submission.py --config-file configs/... --weights model_final.pth \
    --output output/submission --dataset cityscapes_fine_instance_seg_test
"""

import argparse
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import Trainer, check_config, load_config
from deepfuse_d2.errors import UserError
from deepfuse_d2.submission import SubmissionWriter


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--dataset", metavar="NAME", help="a registered name (default: the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a submission that lies in --output"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")
    args = parser.parse_args(argv)
    try:
        make(args)
    except UserError as error:
        print(f"make_submission.py: {error}", file=sys.stderr)
        return 2
    return 0


def make(args: argparse.Namespace) -> None:
    opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    if args.dataset:
        opts += ["DATASETS.TEST", f"('{args.dataset}',)"]
    cfg = load_config(args.config_file, opts)
    cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    check_config(cfg)
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty; name a data set with --dataset.")
    cfg.freeze()
    setup_logger()
    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    # first, since it tells before minutes of work that --output is taken
    writer = SubmissionWriter(cfg.DATASETS.TEST[0], args.output, overwrite=args.overwrite)
    model = Trainer.build_model(cfg)
    checkpointer = DeepFuseCheckpointer(model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    Trainer.test(cfg, model, evaluators=[writer])


if __name__ == "__main__":
    sys.exit(main())
