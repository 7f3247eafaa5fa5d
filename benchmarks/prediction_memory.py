#!/usr/bin/env python3
"""Memory of a process that predicts thousands of images of changing sizes: it stays flat.

    python -m benchmarks.prediction_memory --images 5000

A narrow Mask R-CNN, as an application would run it, sees images of a few dozen sizes, of which some
are damaged. Printed is the resident memory of the process after each tenth, after the first.
Exit code: 0; 1 if it grows by more than --allowed MiB from the third tenth to the last.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from benchmarks.calibrated_weights import calibrated_random_weights
from deepfuse_d2 import get_config
from deepfuse_d2.inference import Predictor

RECIPE = "MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick"
NARROW = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.NECK.OUT_CHANNELS", "16",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.RPN.PRE_NMS_TOPK_TEST", "50",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "12", "TEST.DETECTIONS_PER_IMAGE", "8",
    "INPUT.MIN_SIZE_TEST", "48", "INPUT.MAX_SIZE_TEST", "96",
]  # fmt: skip
SIZES = 40
# one in so many is no image
DAMAGED = 50


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--output", default="rle", choices=("native", "rle"))
    parser.add_argument("--allowed", type=float, default=16.0, help="MiB (default: %(default)s)")
    args = parser.parse_args(argv)
    model, cfg = busy_model()
    predictor = Predictor.from_model(
        model, cfg, batch_size=args.batch, output=args.output, errors="return"
    )
    start, found, failed, curve = time.perf_counter(), 0, 0, []
    every = max(args.images // 10, 1)
    for number, result in enumerate(predictor.stream(images(args.images)), start=1):
        failed += isinstance(result, Exception)
        found += 0 if isinstance(result, Exception) else len(result)
        if number % every == 0:
            gc.collect()
            curve.append(resident_mib())
            print(f"{number:6d} images: {curve[-1]:7.1f} MiB", flush=True)
    seconds = time.perf_counter() - start
    grown = curve[-1] - curve[min(2, len(curve) - 1)]
    print(
        f"{args.images} images in {seconds:.0f} s, {found} instances, {failed} of them damaged; "
        f"from the third tenth to the last {grown:+.1f} MiB"
    )
    return int(grown > args.allowed)


def busy_model() -> tuple[nn.Module, CfgNode]:
    """A narrow network that finds some objects in every image, and its config."""
    cfg = get_config(RECIPE, NARROW)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    calibrated_random_weights(model, [{"image": 255 * torch.rand(3, 64, 96)}])
    return model, cfg


def images(count: int) -> Iterator[np.ndarray | bytes]:
    rng = np.random.default_rng(0)
    sizes = [tuple(rng.integers(48, 160, 2)) for _ in range(SIZES)]
    for number in range(count):
        if number % DAMAGED == DAMAGED - 1:
            yield b"no image"
            continue
        height, width = sizes[rng.integers(SIZES)]
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
        yield np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]


def resident_mib() -> float:
    """Of this process, now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    sys.exit(main())
