#!/usr/bin/env python3
"""Time inference of configs side by side, interleaved in one run.

    python tools/benchmark_inference.py
    python tools/benchmark_inference.py A.yaml B.yaml --size 512 1024 MODEL.DEEPFUSE.DEPTH 2

Without configs: Mask R-CNN R-50 with FPN and with DeepFuseFPN. KEY VALUE pairs at the end override
all configs. An image goes the whole way from pixels (H, W, 3) to instances with pasted masks.
Every round runs every model once; printed are medians, and medians of ratios within a round.

Without MODEL.WEIGHTS the weights are random, adapted so that a model has as much to do as a trained
one (stand_in_weights.py). Later configs get the weights of the first wherever they fit.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from evaluation_oracle.measuring import CLOCKS
from interleaved import run_rounds, summarize
from stand_in_weights import copy_fitting, stand_in_weights
from tabulate import tabulate

from deepfuse_d2.data.minicity.render import render_frame
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError, UserError

CONFIGS = [
    "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml",
    "configs/Cityscapes/mask_rcnn_R_50_DeepFuseFPN.yaml",
]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="[CONFIG ...] [KEY VALUE ...]")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"),
        help="of the image (default: 512 1024)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9, help="that are counted (default: 9)")
    parser.add_argument("--images", type=int, default=2, help="different ones (default: 2)")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall",
        help="cpu: what this process computes, whatever else the machine does",
    )  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    warnings.filterwarnings("ignore")
    try:
        configs, overrides = split(args.words)
        compare(configs, overrides, args)
    except UserError as error:
        print(f"benchmark_inference.py: {error}", file=sys.stderr)
        return 2
    return 0


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Configs, which end in .yaml or .yml, and the KEY VALUE pairs behind them."""
    count = 0
    while count < len(words) and words[count].endswith((".yaml", ".yml")):
        count += 1
    if count == 1:
        raise ConfigError("One config was given; give two or more to compare, or none.")
    return words[:count] or CONFIGS, words[count:]


def compare(configs: list[str], overrides: list[str], args: argparse.Namespace) -> None:
    images = make_images(args.images, args.size)
    predictors: dict[str, DefaultPredictor] = {}
    for config in configs:
        cfg = load_benchmark_config(config, overrides, args.size)
        first = next(iter(predictors.values()), None)
        predictors[config] = StockPredictor(cfg, build(cfg, images, first and first.model))
    measured = run_rounds(
        {config: timed(stock, images, args.clock) for config, stock in predictors.items()},
        args.rounds,
        desc="Rounds",
    )
    rows = []
    for config, predictor in predictors.items():
        seconds, ratio = summarize(measured[config], measured[configs[0]])
        found = [len(predictor(image)["instances"]) for image in images]
        rows.append(
            [
                config,
                f"{1000 * seconds / len(images):.0f}",
                f"{ratio:.3f}",
                f"{parameters(predictor.model) / 1e6:.2f}",
                f"{parameters(predictor.model) / parameters(predictors[configs[0]].model):.3f}",
                f"{np.mean(found):.0f}",
            ]
        )
    headers = [
        "config", f"ms an image ({args.clock})", "ratio", "parameters, M", "ratio", "detections",
    ]  # fmt: skip
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    print(f"\n{conditions(args)}; detectron2's DefaultPredictor, float32\n")
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned))


def load_benchmark_config(config: str, overrides: list[str], size: tuple[int, int]) -> CfgNode:
    """The config for images of `size`, which are not resized; random weights by default."""
    fixed = [
        "MODEL.WEIGHTS", "", "SEED", "0",
        "INPUT.MIN_SIZE_TEST", str(min(size)), "INPUT.MAX_SIZE_TEST", str(max(size)),
    ]  # fmt: skip
    return load_config(config, [*fixed, *overrides])


def build(cfg: CfgNode, images: list[np.ndarray], source: torch.nn.Module | None = None):
    """The model of a config in evaluation: its weights, those of `source`, or stand-ins."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        return model
    inputs = [{"image": torch.from_numpy(x).permute(2, 0, 1).float()} for x in images]
    if source is not None:
        copy_fitting(source, model)
    stand_in_weights(model, inputs)
    return model


class StockPredictor(DefaultPredictor):
    """detectron2's own, around a model that is built already."""

    def __init__(self, cfg: CfgNode, model: torch.nn.Module):
        weightless = cfg.clone()
        weightless.MODEL.WEIGHTS = ""
        super().__init__(weightless)
        self.model = model


def make_images(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """MiniCity frames (H, W, 3), uint8, blue first."""
    height, width = size
    frames = [render_frame(0, "val", index, width, height) for index in range(count)]
    return [np.ascontiguousarray(np.asarray(frame.image)[:, :, ::-1]) for frame in frames]


def timed(run: Callable, images: list[np.ndarray], clock: str) -> Callable[[], float]:
    """Function that predicts all images, one by one, and returns its seconds."""

    def once() -> float:
        start = CLOCKS[clock]()
        for image in images:
            run(image)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return CLOCKS[clock]() - start

    return once


def parameters(model: torch.nn.Module) -> int:
    """Trained or not; norms that are frozen hold buffers, which do not count."""
    return sum(p.numel() for p in model.parameters())


def conditions(args: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"{args.size[0]} x {args.size[1]}, {device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, median of {args.rounds} rounds of {args.images} images"
    )


if __name__ == "__main__":
    sys.exit(main())
