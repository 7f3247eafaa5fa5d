#!/usr/bin/env python3
"""Time a training iteration of stock detectron2 and of ours, interleaved in one run.

    python tools/benchmark_training.py                # seconds an iteration
    python tools/benchmark_training.py --memory       # peaks, each in a process of its own
    python tools/benchmark_training.py --curves       # losses of both over 200 iterations

Stock is detectron2's DefaultTrainer as it comes: its mapper, its network with its FPN, its SGD,
float32. Ours is our Trainer, with channels innermost. An iteration is all of it: reading the batch
(in the same process), forward, backward, update. Mask R-CNN R-50-FPN, MiniCity in Cityscapes'
layout, the same images in the same order, the same weights (random, with norms frozen at what the
images give: stand_in_weights.py), the same random numbers for the choice of regions. Every round
runs every contestant once; printed are medians, and medians of ratios within a round.

--curves trains a small network on small images (training_race/curves.py), several seeds each, and
says whether the curves of the two lie closer together than those of single seeds.
"""

import argparse
import logging
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from interleaved import run_rounds, summarize
from stand_in_weights import copy_fitting, stand_in_weights
from tabulate import tabulate
from training_race.contestants import Contestant, Kind, by_device
from training_race.curves import add_arguments, compare_curves

from deepfuse_d2.data.minicity import generate_minicity
from deepfuse_d2.engine.hooks.peak_memory import peak_process_memory
from deepfuse_d2.engine.mixed_precision import cpu_has_bfloat16

CONFIG = Path(__file__).parents[1] / "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="that are counted (default: 7)")
    parser.add_argument("--batch", type=int, default=2, help="images (default: 2)")
    parser.add_argument("--height", type=int, default=512, help="of them; twice as wide")
    parser.add_argument("--frames", type=int, default=4, help="of MiniCity that are drawn")
    parser.add_argument("--only", metavar="WORDS", help="contestants with these words in the name")
    parser.add_argument("--memory", action="store_true", help="measure memory in place of time")
    parser.add_argument("--curves", action="store_true", help="compare losses in place of time")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for all contestants")
    add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        if args.curves:
            return 0 if compare_curves(Path(folder), args) else 1
        size = {"width": 2 * args.height, "height": args.height}
        generate_minicity(folder, num_train=args.frames, num_val=1, **size)
        print((report_memory if args.memory else report_times)(folder, args))
    return 0


def kinds(args: argparse.Namespace) -> list[Kind]:
    cuda = torch.cuda.is_available()
    found = by_device(cuda=cuda, bfloat16=cuda or cpu_has_bfloat16())
    return [kind for kind in found if not args.only or args.only in kind.name or kind is found[0]]


def report_times(folder: str, args: argparse.Namespace) -> str:
    contestants = {}
    for kind in kinds(args):
        contestants[kind.name] = build(kind, folder, args, next(iter(contestants.values()), None))
    first = next(iter(contestants.values()))

    def step(contestant: Contestant) -> float:
        with EventStorage():
            seconds = contestant.step()
        # whoever comes first in a round reads other images than in the round before
        of_step.setdefault(contestant.steps, contestant.images.last)
        assert contestant.images.last == of_step[contestant.steps], "not the same images"
        return seconds

    of_step: dict[int, tuple[str, ...]] = {}
    runs = {name: (lambda c=c: step(c)) for name, c in contestants.items()}
    seconds = run_rounds(runs, args.rounds, "Rounds")
    stock = seconds[first.kind.name]
    rows = []
    for name, values in seconds.items():
        median, ratio = summarize(values, stock)
        rows.append([name, median, args.batch / median, 1 / ratio])
    headers = ["", "s an iteration", "images/s", "times as fast"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=".2f")
    return f"\n{conditions(args)}, {args.rounds} rounds\n\n{table}"


def report_memory(folder: str, args: argparse.Namespace) -> str:
    context = multiprocessing.get_context("spawn")
    rows = []
    for kind in kinds(args):
        with context.Pool(1) as pool:
            rows.append([kind.name, pool.apply(peak_of, (kind, folder, args)) / 2**30])
    headers = ["", "peak memory, GiB"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=".2f")
    what = "of the GPU" if torch.cuda.is_available() else "of the process"
    return f"\n{conditions(args)}, peak {what} over two iterations\n\n{table}"


def peak_of(kind: Kind, folder: str, args: argparse.Namespace) -> int:
    """Bytes that a process of this kind alone has held at most."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    contestant = build(kind, folder, args)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with EventStorage():
        contestant.step()
        contestant.step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_process_memory()


def build(
    kind: Kind, folder: str, args: argparse.Namespace, first: Contestant | None = None
) -> Contestant:
    """A contestant with stand-in weights, those of `first` where they fit."""
    extra = {"NAME": "race", "FORMAT": "cityscapes_instances", "ROOT": str(folder)}
    keys = {
        "MODEL.WEIGHTS": "",
        "DATASETS.EXTRA": repr([{**extra, "SPLIT": "train"}]),
        "DATASETS.TRAIN": "('race',)",
        "DATASETS.TEST": "()",
        "DATALOADER.NUM_WORKERS": "0",
        # what both read shall be the same to the last pixel
        "INPUT.RANDOM_FLIP": "none",
        "INPUT.MIN_SIZE_TRAIN": f"({args.height},)",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "SOLVER.IMS_PER_BATCH": str(args.batch),
        # weights stay what they are: the same work in every round
        "SOLVER.BASE_LR": "1e-7",
        **dict(zip(args.opts[::2], args.opts[1::2], strict=True)),
    }
    contestant = Contestant(kind, CONFIG, keys)
    if first is not None:
        copy_fitting(first.model, contestant.model)
    else:
        batch = next(iter(contestant.trainer.build_train_loader(contestant.trainer.cfg)))
        stand_in_weights(contestant.model, batch)
    return contestant


def conditions(args: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"Mask R-CNN R-50, {args.height} x {2 * args.height}, batch {args.batch}, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
