#!/usr/bin/env python3
"""Time inference, interleaved in one run; or measure its memory.

    python -m benchmarks.inference
    python -m benchmarks.inference A.yaml B.yaml --size 512 1024 MODEL.DEEPFUSE.DEPTH 2
    python -m benchmarks.inference --memory --size 1024 2048

Without configs: Mask R-CNN R-50-FPN, the same weights in detectron2's DefaultPredictor, in
torchvision's maskrcnn_resnet50_fpn, and in our Predictor in each of --engines, in float32 and,
where the hardware has it, bfloat16; then DeepFuseFPN in place of FPN. With configs: detectron2's
DefaultPredictor on each. KEY VALUE pairs at the end override all configs.

An image goes the whole way from pixels (H, W, 3) to instances with pasted masks. Every round runs
every candidate once; printed are medians, and medians of ratios within a round. Without
MODEL.WEIGHTS the weights are random, adapted so that a model has as much to do as a trained one
(calibrated_weights.py); later configs get the weights of the first wherever they fit.

--memory: what one image takes at its peak above what was held before, each in its own process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from tabulate import tabulate

from benchmarks.calibrated_weights import calibrated_random_weights, copy_fitting
from benchmarks.evaluation_oracle.measuring import CLOCKS, Meter
from benchmarks.timing import run_rounds, summarize
from benchmarks.torchvision_baseline import TorchvisionPredictor
from deepfuse_d2.data.minicity.render import render_frame
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.optimize.precision import choose_dtype

CONFIGS = [
    "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml",
    "configs/Cityscapes/mask_rcnn_R_50_DeepFuseFPN.yaml",
]
# torchvision's ResNet has its strides there; so all candidates compute the same.
AS_TORCHVISION = ["MODEL.RESNETS.STRIDE_IN_1X1", "False"]


@dataclass
class Candidate:
    """One row: something that predicts."""

    name: str
    run: Callable[[np.ndarray], object]
    parameters: int
    # of several images at once; None takes them one by one
    run_all: Callable[[list[np.ndarray]], object] | None = None


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
        "--batch", type=int, default=1,
        help="our Predictor takes so many images at once, the others one (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall",
        help="cpu: what this process computes, whatever else the machine does",
    )  # fmt: skip
    parser.add_argument(
        "--engines", nargs="+", default=["native"], metavar="NAME",
        help="of our Predictor; see deepfuse_d2/inference/engines (default: native)",
    )  # fmt: skip
    parser.add_argument("--memory", action="store_true", help="measure memory in place of time")
    args = parser.parse_intermixed_args(argv)
    warnings.filterwarnings("ignore")
    try:
        configs, overrides = split(args.words)
        if args.memory:
            print(report_memory(overrides, args))
        else:
            print(report_times(configs, overrides, args))
    except UserError as error:
        print(f"benchmarks.inference: {error}", file=sys.stderr)
        return 2
    return 0


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Configs, which end in .yaml or .yml, and the KEY VALUE pairs behind them."""
    count = 0
    while count < len(words) and words[count].endswith((".yaml", ".yml")):
        count += 1
    if count == 1:
        raise ConfigError("One config was given; give two or more to compare, or none.")
    return words[:count], words[count:]


def report_times(configs: list[str], overrides: list[str], args: argparse.Namespace) -> str:
    images = make_images(max(args.images, args.batch), args.size)
    if configs:
        candidates, rivals = stock_of_each(configs, overrides, images, args), [0]
        note = "detectron2's DefaultPredictor, float32"
    else:
        candidates, rivals = peers(overrides, images, args), [0, 1]
        note = "Mask R-CNN R-50, the same weights for all"
    seconds = run_rounds(
        {c.name: timed(c, images, args.clock) for c in candidates}, args.rounds, desc="Rounds"
    )
    rows = []
    for c in candidates:
        row = [c.name, f"{1000 * summarize(seconds[c.name], seconds[c.name])[0] / len(images):.0f}"]
        for rival in rivals:
            # of configs, how much slower; of programs, how much faster
            pair = seconds[c.name], seconds[candidates[rival].name]
            row.append(f"{summarize(*(pair if configs else pair[::-1]))[1]:.3f}")
        share = c.parameters / candidates[0].parameters
        row += [f"{c.parameters / 1e6:.2f}", f"{share:.3f}"]
        rows.append([*row, f"{np.mean([count(c.run(image)) for image in images]):.0f}"])
    compared = ["ratio"] if configs else [f"times {candidates[i].name}" for i in rivals]
    headers = [
        "config" if configs else "program", f"ms an image ({args.clock})", *compared,
        "parameters, M", "ratio", "detections",
    ]  # fmt: skip
    return f"\n{conditions(args)}; {note}\n\n{as_table(rows, headers)}"


def stock_of_each(
    configs: Sequence[str], overrides: list[str], images: list, args: argparse.Namespace
) -> list[Candidate]:
    candidates, first = [], None
    for config in configs:
        cfg = load_benchmark_config(config, overrides, args.size)
        model = build(cfg, images, first)
        first = first or model
        candidates.append(Candidate(config, StockPredictor(cfg, model), parameters(model)))
    return candidates


def peers(overrides: list[str], images: list, args: argparse.Namespace) -> list[Candidate]:
    cfgs = [load_benchmark_config(c, [*AS_TORCHVISION, *overrides], args.size) for c in CONFIGS]
    model = build(cfgs[0], images)
    deep = build(cfgs[1], images, model)
    device = torch.device(cfgs[0].MODEL.DEVICE)
    lower = choose_dtype("auto", device)
    size, deep_size = parameters(model), parameters(deep)
    dtypes = [torch.float32] if lower is torch.float32 else [torch.float32, lower]
    return [
        Candidate("detectron2", StockPredictor(cfgs[0], model), size),
        Candidate("torchvision", TorchvisionPredictor(model, cfgs[0]), size),
        *(ours("ours", model, cfgs[0], dtype, x, args) for x in args.engines for dtype in dtypes),
        Candidate("detectron2, DeepFuseFPN", StockPredictor(cfgs[1], deep), deep_size),
        *(
            ours("ours, DeepFuseFPN", deep, cfgs[1], dtype, x, args)
            for x in args.engines
            for dtype in dtypes
        ),
    ]


def ours(
    name: str, model, cfg: CfgNode, dtype: torch.dtype, engine: str, args: argparse.Namespace
) -> Candidate:
    name = f"{name}, {str(dtype).removeprefix('torch.')}"
    if engine != "native":
        name += f", {engine}"
    predictor = Predictor.from_model(model, cfg, dtype=dtype, engine=engine, batch_size=args.batch)
    everything = predictor if args.batch > 1 else None
    return Candidate(name, predictor, parameters(model), everything)


def report_memory(overrides: list[str], args: argparse.Namespace) -> str:
    rows = []
    spawn = multiprocessing.get_context("spawn")
    for name, dtype, output in [
        ("detectron2", None, "native"),
        ("ours, float32", "float32", "native"),
        ("ours, float32, run lengths", "float32", "rle"),
        ("ours, auto", "auto", "native"),
        ("ours, auto, run lengths", "auto", "rle"),
    ]:
        # its own process: what one leaves to the allocator another would take for free
        with spawn.Pool(1) as pool:
            found, peak = pool.apply(memory_of, (dtype, output, overrides, args))
        rows.append([name, f"{peak:.0f}", found])
    table = as_table(rows, ["program", "peak, MB", "instances"])
    return (
        f"\nMemory of one image, {conditions(args)}; masks at full size or run lengths\n\n{table}"
    )


def memory_of(
    dtype: str | None, output: str, overrides: list[str], args: argparse.Namespace
) -> tuple[int, float]:
    """Instances found in an image, and the peak of memory in MB above what was held before."""
    warnings.filterwarnings("ignore")
    cfg = load_benchmark_config(CONFIGS[0], overrides, args.size)
    small = make_images(1, (256, 512))
    model = build(cfg, small)
    image = make_images(1, args.size)[0]
    if dtype is None:
        predictor = StockPredictor(cfg, model)
    else:
        predictor = Predictor.from_model(model, cfg, dtype=dtype, output=output)
    predictor(small[0])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = count(predictor(image))
        return found, (torch.cuda.max_memory_allocated() - before) / 1024**2
    with Meter() as meter:
        found = count(predictor(image))
    return found, meter.peak_mb


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
    if source is not None:
        copy_fitting(source, model)
    inputs = [{"image": torch.from_numpy(x).permute(2, 0, 1).float()} for x in images[:2]]
    calibrated_random_weights(model, inputs)
    return model


class StockPredictor(DefaultPredictor):
    """detectron2's own, around a model that is built already."""

    def __init__(self, cfg: CfgNode, model: torch.nn.Module):
        self.cfg, self.model = cfg, model
        self.aug = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT


def make_images(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """MiniCity frames (H, W, 3), uint8, blue first."""
    height, width = size
    frames = [render_frame(0, "val", index, width, height) for index in range(count)]
    return [np.ascontiguousarray(np.asarray(frame.image)[:, :, ::-1]) for frame in frames]


def timed(candidate: Candidate, images: list[np.ndarray], clock: str) -> Callable[[], float]:
    """Function that predicts all images and returns its seconds."""

    def once() -> float:
        start = CLOCKS[clock]()
        if candidate.run_all is not None:
            candidate.run_all(images)
        else:
            for image in images:
                candidate.run(image)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return CLOCKS[clock]() - start

    return once


def count(result: object) -> int:
    """Instances in a prediction of any of the candidates."""
    if isinstance(result, dict):
        result = result["instances"] if "instances" in result else result["scores"]
    return len(result)


def parameters(model: torch.nn.Module) -> int:
    """Trained or not; norms that are frozen hold buffers, which do not count."""
    return sum(p.numel() for p in model.parameters())


def as_table(rows: list[list], headers: list[str]) -> str:
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


def conditions(args: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    text = f"{args.size[0]} x {args.size[1]}, {device}, {torch.get_num_threads()} threads, torch "
    text += torch.__version__
    if args.memory:
        return text
    batch = f", batches of {args.batch} in our Predictor" if args.batch > 1 else ""
    return f"{text}, median of {args.rounds} rounds of {max(args.images, args.batch)} images{batch}"


if __name__ == "__main__":
    sys.exit(main())
