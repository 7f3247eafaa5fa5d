#!/usr/bin/env python3
"""Train or evaluate a model: python train_net.py --config-file configs/... [KEY VALUE ...]

The options are detectron2's: --eval-only, --resume, --num-gpus N (on a machine without GPUs: N CPU
processes), --num-machines, --machine-rank, --dist-url. torchrun works as well. The same from an
installed package is ``deepfuse train``; deepfuse_d2/cli/train.py is what runs.
"""

import sys

from deepfuse_d2.cli.main import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("train"))
