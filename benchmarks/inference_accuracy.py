#!/usr/bin/env python3
"""What optimize_for_inference changes: accuracy and detections of a trained model.

    python -m benchmarks.inference_accuracy --config-file configs/... --weights model_final.pth
    python -m benchmarks.inference_accuracy ... --dtypes bfloat16 DATASETS.TEST '("...",)'

Evaluates the model as it is and optimised in each type on DATASETS.TEST, and prints the main
figures with their differences. Of an R-CNN, detections are compared too: the detections of every
image whose class, box (to half a pixel) and image agree are partners, and printed are the share
that has none and how far the partners are apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.structures import Instances
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import Trainer, check_config, load_config
from deepfuse_d2.errors import UserError, WeightsError
from deepfuse_d2.inference import optimize_for_inference

DTYPES = ("float32", "bfloat16", "float16")
# corners of partners are at most so far apart, in pixels
NEAR = 0.5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", metavar="FILE", help="(default: MODEL.WEIGHTS of the config)")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"], metavar="TYPE",
        help=f"of {', '.join(DTYPES)} (default: float32 bfloat16)",
    )  # fmt: skip
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args(argv)
    try:
        for text in report(args):
            print(text, flush=True)
    except UserError as error:
        print(f"evaluate_inference.py: {error}", file=sys.stderr)
        return 2
    return 0


def report(args: argparse.Namespace) -> Iterator[str]:
    """One table after the other, as they are ready."""
    weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
    cfg = load_config(args.config_file, [*args.opts, *weights])
    model = load_model(cfg)
    models = {"as it is": model}
    models |= {dtype: optimize_for_inference(model, dtype) for dtype in args.dtypes}
    figures = {name: main_figures(Trainer.test(cfg, each)) for name, each in models.items()}
    rows = []
    for name, found in figures.items():
        differences = {key: value - figures["as it is"][key] for key, value in found.items()}
        rows.append([name, *(f"{v:.3f} ({differences[k]:+.3f})" for k, v in found.items())])
    yield as_table(rows, ["model", *figures["as it is"]])
    if hasattr(model, "roi_heads"):
        rows = [[name, *compare(cfg, model, models[name])] for name in args.dtypes]
        headers = ["model", "detections", "without partner", "boxes, px", "scores", "mask, pixels"]
        yield f"\nLargest difference of partners\n\n{as_table(rows, headers)}"


def load_model(cfg: CfgNode) -> nn.Module:
    check_config(cfg)
    if not cfg.MODEL.WEIGHTS:
        raise WeightsError(
            "There are no weights to evaluate: give a file with --weights, or MODEL.WEIGHTS."
        )
    model = build_model(cfg).eval()
    DeepFuseCheckpointer(model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH).load(
        cfg.MODEL.WEIGHTS
    )
    return model


def main_figures(results: dict) -> dict[str, float]:
    """Without those of each class, by "task figure"; of several data sets by its name as well."""
    figures = {}
    for name, value in results.items():
        if isinstance(value, dict):
            figures |= {f"{name} {key}": one for key, one in main_figures(value).items()}
        elif "-" not in name:
            figures[name] = value
    return figures


@torch.no_grad()
def compare(cfg: CfgNode, model: nn.Module, other: nn.Module) -> list[str]:
    """Cells of the table for `other`."""
    total = alone = 0
    box = score = mask = 0.0
    for inputs in batches(cfg):
        for a, b in zip(model(inputs), other(inputs), strict=True):
            expected, found = a["instances"].to("cpu"), b["instances"].to("cpu")
            pairs = partners(found, expected)
            total += max(len(found), len(expected))
            alone += max(len(found), len(expected)) - len(pairs)
            if pairs:
                ours, theirs = map(list, zip(*pairs, strict=True))
                found, expected = found[ours], expected[theirs]
                apart = found.pred_boxes.tensor - expected.pred_boxes.tensor
                box = max(box, float(apart.abs().max()))
                score = max(score, float((found.scores - expected.scores).abs().max()))
                if found.has("pred_masks"):
                    pixels = (found.pred_masks != expected.pred_masks).flatten(1).sum(dim=1)
                    mask = max(mask, float(pixels.max()))
    return [str(total), str(alone), f"{box:.1e}", f"{score:.1e}", f"{mask:.0f}"]


def batches(cfg: CfgNode) -> Iterator[list[dict]]:
    for name in cfg.DATASETS.TEST:
        yield from tqdm(build_detection_test_loader(cfg, name), desc=f"Comparing on {name}")


def partners(found: Instances, expected: Instances) -> list[tuple[int, int]]:
    """Indices of detections of one class and nearly one box, the best first."""
    free = torch.ones(len(found), dtype=torch.bool)
    pairs = []
    for j, (box, label) in enumerate(
        zip(expected.pred_boxes.tensor, expected.pred_classes, strict=True)
    ):
        far = (found.pred_boxes.tensor - box).abs().amax(dim=1)
        far[~free | (found.pred_classes != label)] = float("inf")
        if len(far) and far.min() <= NEAR:
            i = int(far.argmin())
            free[i] = False
            pairs.append((i, j))
    return pairs


def as_table(rows: list[list[str]], headers: list[str]) -> str:
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


if __name__ == "__main__":
    sys.exit(main())
