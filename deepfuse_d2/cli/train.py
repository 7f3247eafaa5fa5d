#!/usr/bin/env python3
"""Train or evaluate a model: python train_net.py --config-file configs/... [KEY VALUE ...]

The options are detectron2's: --eval-only, --resume, --num-gpus N (on a machine without GPUs: N CPU
processes), --num-machines, --machine-rank, --dist-url. torchrun works as well.
"""

import sys

from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import Trainer, launch, setup
from deepfuse_d2.errors import UserError


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = DeepFuseCheckpointer(
            model, cfg.OUTPUT_DIR, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args):
    """main(args), where a mistake of the user ends in its message alone."""
    try:
        main(args)
    except UserError as error:
        if comm.is_main_process():
            print(f"train_net.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    try:
        launch(run, args)
    except UserError as error:
        sys.exit(f"train_net.py: {error}")
