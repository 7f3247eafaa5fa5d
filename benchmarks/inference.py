#!/usr/bin/env python3
"""Time inference, interleaved in one run; or measure its memory.

    python -m benchmarks.inference
    python -m benchmarks.inference A.yaml B.yaml --size 512 1024 MODEL.DEEPFUSE.DEPTH 2
    python -m benchmarks.inference --memory --size 1024 2048

Without configs: Mask R-CNN R-50-FPN, the same weights in detectron2's DefaultPredictor, in
torchvision's maskrcnn_resnet50_fpn, in detectron2's model with all dense parts in each of --peers
(whole_models.py), and in our Predictor in each of --engines, in float32 and, where the hardware has
it, bfloat16; then DeepFuseFPN in place of FPN. With configs: detectron2's DefaultPredictor on each.
KEY VALUE pairs at the end override all configs.

An image goes the whole way from pixels (H, W, 3) to instances with pasted masks. Every round runs
every candidate once; printed are medians, medians of ratios within a round, the share of what a
matrix product reaches in the type of the row (machine.py), and the seconds from the model in memory
to the first result. Without MODEL.WEIGHTS the weights are random, adapted so that a model has as
much to do as a trained one (calibrated_weights.py); later configs get the weights of the first
wherever they fit.

--memory: what one image takes at its peak above what was held before, each in its own process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.evaluation_oracle.measuring import CLOCKS, Meter
from benchmarks.inference_candidates import (
    CONFIGS,
    Candidate,
    StockPredictor,
    build,
    load_benchmark_config,
    make_images,
    programs,
    stock_of_each,
)
from benchmarks.machine import measure_machine
from benchmarks.timing import run_rounds, summarize
from benchmarks.whole_models import PEERS, parts_outside
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.inference import Predictor
from deepfuse_d2.kernels.allocator import keep_freed_memory


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
    parser.add_argument(
        "--peers", nargs="*", default=list(PEERS), choices=list(PEERS), metavar="NAME",
        help="engines for detectron2's model; those that are not installed are left out "
        f"(default: {' '.join(PEERS)})",
    )  # fmt: skip
    parser.add_argument("--memory", action="store_true", help="measure memory in place of time")
    parser.add_argument(
        "--keep-freed-memory", action="store_true",
        help="all candidates, as `deepfuse predict`, `predict-many` and `serve` do",
    )  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    warnings.filterwarnings("ignore")
    if args.keep_freed_memory:
        keep_freed_memory()
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
    machine = measure_machine()
    notes: list[str] = []
    if configs:
        candidates, rivals = stock_of_each(configs, overrides, images, args), [0]
        title = "detectron2's DefaultPredictor, float32"
    else:
        candidates, rivals = programs(overrides, images, args, notes), [0, 1]
        title = "Mask R-CNN R-50, the same weights for all"
    for c in candidates:
        c.ready += timed(c, images[:1], "wall")()
    seconds = run_rounds(
        {c.name: timed(c, images, args.clock) for c in candidates}, args.rounds, desc="Rounds"
    )
    rows = []
    for c in candidates:
        an_image = summarize(seconds[c.name], seconds[c.name])[0] / len(images)
        row = [c.name, f"{1000 * an_image:.0f}"]
        for rival in rivals:
            # of configs, how much slower; of programs, how much faster
            pair = seconds[c.name], seconds[candidates[rival].name]
            row.append(f"{summarize(*(pair if configs else pair[::-1]))[1]:.3f}")
        found = float(np.mean([count(c.run(image)) for image in images]))
        row.append(f"{machine.percent(c.flops(images[0], round(found)), an_image, c.dtype):.0f}")
        share = c.parameters / candidates[0].parameters
        row += [f"{c.ready:.1f}", f"{c.parameters / 1e6:.2f}", f"{share:.3f}", f"{found:.0f}"]
        rows.append(row)
        if outside := parts_outside(getattr(c.run, "model", c.model)):
            notes.append(f"{c.name}: not in the engine, see the log: {', '.join(outside)}")
    compared = ["ratio"] if configs else [f"times {candidates[i].name}" for i in rivals]
    headers = [
        "config" if configs else "program", f"ms an image ({args.clock})", *compared,
        "% of the peak", "s to the first", "parameters, M", "ratio", "detections",
    ]  # fmt: skip
    text = f"\n{machine}\n{conditions(args)}; {title}\n\n{as_table(rows, headers)}"
    necks = ratios_of_necks(candidates, seconds, len(images))
    if necks:
        headers = ["both necks in", "FPN, ms", "DeepFuseFPN, ms", "ratio"]
        text += f"\n\n{as_table(necks, headers)}"
    return "\n".join([text, *([""] if notes else []), *notes])


def ratios_of_necks(
    candidates: list[Candidate], seconds: dict[str, list[float]], images: int
) -> list[list[str]]:
    """A row for each program that ran with both necks."""
    plain = {c.runs_in: c for c in candidates if c.runs_in and not c.is_deep}
    rows = []
    for deep in candidates:
        if deep.is_deep:
            fpn, deep_seconds = seconds[plain[deep.runs_in].name], seconds[deep.name]
            times = [f"{1000 * statistics.median(x) / images:.0f}" for x in (fpn, deep_seconds)]
            rows.append([deep.runs_in, *times, f"{summarize(deep_seconds, fpn)[1]:.3f}"])
    return rows


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
    what = f"Memory of one image, {conditions(args)}; masks at full size or run lengths"
    return f"\n{measure_machine()}\n{what}\n\n{table}"


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


def as_table(rows: list[list], headers: list[str]) -> str:
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


def conditions(args: argparse.Namespace) -> str:
    text = f"{args.size[0]} x {args.size[1]}"
    if args.memory:
        return text
    batch = f", batches of {args.batch} in our Predictor" if args.batch > 1 else ""
    return f"{text}, median of {args.rounds} rounds of {max(args.images, args.batch)} images{batch}"


if __name__ == "__main__":
    sys.exit(main())
