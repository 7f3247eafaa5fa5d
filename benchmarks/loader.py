#!/usr/bin/env python3
"""Frames a second that detectron2's mapper and ours make for training, interleaved in one run.

python -m benchmarks.loader --rounds 5
python -m benchmarks.loader --root /data/cityscapes --split train --workers 4

Without --root, frames of MiniCity are drawn at 2048 x 1024 into a temporary folder. Each round maps
the same frames with the same random numbers by both; ratios are medians over rounds. --clock cpu
(default) counts the time that one core computes, whatever else the machine does. With --workers,
whole loaders with that many processes are timed too, by the clock on the wall.
"""

import argparse
import itertools
import statistics
import tempfile
import time
import warnings

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from tabulate import tabulate

from benchmarks.evaluation_oracle.measuring import CLOCKS
from benchmarks.machine import measure_machine
from benchmarks.timing import run_rounds, summarize
from deepfuse_d2.data.datasets.cityscapes import load_cityscapes_instances
from deepfuse_d2.data.loader.train_loader import build_train_loader
from deepfuse_d2.data.mappers.instance_mapper import InstanceMapper
from deepfuse_d2.data.minicity import generate_minicity
from deepfuse_d2.engine import load_config

BASE = "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml"
CHOICE = ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice"]
SETTINGS = {
    "resized to 800..1024": [],
    "original size": ["INPUT.MIN_SIZE_TRAIN", "(0,)", *CHOICE],
    "crop 512 x 1024": [
        "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute",
        "INPUT.CROP.SIZE", "[512, 1024]", "INPUT.MIN_SIZE_TRAIN", "(512,)", *CHOICE,
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", help="a folder in the layout of Cityscapes; default: MiniCity")
    parser.add_argument("--split", default="train")
    parser.add_argument("--frames", type=int, default=8, help="a round; those of MiniCity drawn")
    parser.add_argument("--height", type=int, default=1024, help="of MiniCity; twice as wide")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes of whole loaders")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, split = args.root, args.split
        if root is None:
            root, split = folder, "train"
            size = {"width": 2 * args.height, "height": args.height}
            generate_minicity(folder, num_train=args.frames, num_val=1, **size)
        records = load_cityscapes_instances(root, split)[: args.frames]
        instances = sum(not a["iscrowd"] for r in records for a in r["annotations"])
        print(
            f"\n{measure_machine('cpu')}\n"
            f"{len(records)} frames of {records[0]['width']} x {records[0]['height']} with "
            f"{instances / len(records):.1f} instances each, {args.rounds} rounds\n"
        )
        by_mapper = [_mappers(name, records, args) for name in SETTINGS]
        headers = ["input", "detectron2, frames/s", "ours, frames/s", "times as fast"]
        print(f"One core, {args.clock} clock\n")
        print(tabulate(by_mapper, headers, tablefmt="github", floatfmt=".2f"))
        if args.workers:
            by_loader = [_loaders(name, records, args) for name in SETTINGS]
            print(f"\nLoaders with {args.workers} processes, wall clock\n")
            print(tabulate(by_loader, headers, tablefmt="github", floatfmt=".2f"))


def _config(setting: str, workers: int) -> CfgNode:
    common = [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", str(workers),
        "SOLVER.IMS_PER_BATCH", "2",
    ]  # fmt: skip
    return load_config(BASE, [*common, *SETTINGS[setting]])


def _mappers(setting: str, records: list[dict], args: argparse.Namespace) -> list:
    cfg, clock = _config(setting, 0), CLOCKS[args.clock]
    mappers = {"detectron2": DatasetMapper(cfg, is_train=True), "ours": InstanceMapper(cfg)}
    round_of = dict.fromkeys(mappers, 0)

    def map_all(name: str) -> float:
        round_of[name] += 1
        np.random.seed(round_of[name])  # noqa: NPY002  (detectron2 draws from this state)
        start = clock()
        for record in records:
            mappers[name](record)
        return clock() - start

    candidates = {name: lambda name=name: map_all(name) for name in mappers}
    return _row(setting, run_rounds(candidates, args.rounds, setting), len(records))


def _loaders(setting: str, records: list[dict], args: argparse.Namespace) -> list:
    cfg = _config(setting, args.workers)
    mapper = DatasetMapper(cfg, is_train=True)
    loaders = {
        "detectron2": build_detection_train_loader(cfg, mapper=mapper, dataset=records),
        "ours": build_train_loader(cfg, mapper=InstanceMapper(cfg), records=records),
    }
    batches = max(len(records) // cfg.SOLVER.IMS_PER_BATCH, 1)

    def fetch(name: str) -> float:
        # workers of one at a time: those of the other would prepare its batches meanwhile
        iterator = iter(loaders[name])
        for _ in range(args.workers):
            next(iterator)
        start = time.perf_counter()
        for _ in itertools.islice(iterator, batches):
            pass
        return time.perf_counter() - start

    candidates = {name: lambda name=name: fetch(name) for name in loaders}
    frames = batches * cfg.SOLVER.IMS_PER_BATCH
    return _row(setting, run_rounds(candidates, args.rounds, setting), frames)


def _row(setting: str, seconds: dict[str, list[float]], frames: int) -> list:
    stock = seconds["detectron2"]
    ours, ratio = summarize(seconds["ours"], stock)
    return [setting, frames / statistics.median(stock), frames / ours, 1 / ratio]


if __name__ == "__main__":
    main()
