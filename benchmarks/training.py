#!/usr/bin/env python3
"""Time a training iteration of stock detectron2 and of ours, interleaved in one run.

    python -m benchmarks.training                # seconds an iteration, and peak memory
    python -m benchmarks.training --curves       # losses of both over 200 iterations

Stock is detectron2's DefaultTrainer as it comes: its mapper, its network with its FPN, its SGD,
float32. Ours is our Trainer, with channels innermost. An iteration is all of it: reading the batch
(in the same process), forward, backward, update. Mask R-CNN R-50-FPN, MiniCity in Cityscapes'
layout, the same images in the same order, the same weights (random, with norms frozen at what the
images give: calibrated_weights.py), the same random numbers for the choice of regions. Each
candidate has a process of its own, and one of them works at a time. Every round runs every
candidate once; printed are medians, and medians of ratios within a round.

--curves trains a small network on small images (training_race/curves.py), several seeds each, and
says whether the curves of the two lie closer together than those of single seeds.
"""

import argparse
import contextlib
import logging
import multiprocessing
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from benchmarks.calibrated_weights import calibrated_random_weights
from benchmarks.machine import measure_machine
from benchmarks.timing import run_rounds, summarize
from benchmarks.training_race.candidates import Candidate, Kind, by_device
from benchmarks.training_race.curves import add_arguments, compare_curves
from deepfuse_d2.analysis import counting
from deepfuse_d2.data.minicity import generate_minicity
from deepfuse_d2.engine.hooks.peak_memory import peak_process_memory
from deepfuse_d2.kernels.capabilities import has_bfloat16

CONFIG = Path(__file__).parents[1] / "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="that are counted (default: 7)")
    parser.add_argument("--batch", type=int, default=2, help="images (default: 2)")
    parser.add_argument("--height", type=int, default=512, help="of them; twice as wide")
    parser.add_argument("--frames", type=int, default=4, help="of MiniCity that are drawn")
    parser.add_argument("--only", metavar="WORDS", help="candidates with these words in the name")
    parser.add_argument("--curves", action="store_true", help="compare losses in place of time")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for all candidates")
    add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        if args.curves:
            return 0 if compare_curves(Path(folder), args) else 1
        size = {"width": 2 * args.height, "height": args.height}
        generate_minicity(folder, num_train=args.frames, num_val=1, **size)
        print(report(folder, args))
    return 0


def kinds(args: argparse.Namespace) -> list[Kind]:
    cuda = torch.cuda.is_available()
    found = by_device(cuda=cuda, bfloat16=cuda or has_bfloat16())
    return [kind for kind in found if not args.only or args.only in kind.name or kind is found[0]]


def report(folder: str, args: argparse.Namespace) -> str:
    machine = measure_machine()
    context = multiprocessing.get_context("spawn")
    lines, flops, dtypes = {}, {}, {}
    for kind in kinds(args):
        lines[kind.name], other = context.Pipe()
        context.Process(target=serve, args=(kind, folder, args, other), daemon=True).start()
        other.close()
        flops[kind.name], dtypes[kind.name] = lines[kind.name].recv(), kind.dtype

    files: dict[int, tuple[str, ...]] = {}
    peaks: dict[str, int] = {}
    steps = Counter()

    def step(name: str) -> float:
        lines[name].send("step")
        seconds, read, peaks[name] = lines[name].recv()
        steps[name] += 1
        assert read == files.setdefault(steps[name], read), "not the same images"
        return seconds

    seconds = run_rounds({name: partial(step, name) for name in lines}, args.rounds, "Rounds")
    stock = next(iter(seconds.values()))
    rows = []
    for name, values in seconds.items():
        median, ratio = summarize(values, stock)
        share = machine.percent(flops[name], median, dtypes[name])
        rows.append([name, median, args.batch / median, 1 / ratio, share, peaks[name] / 2**30])
    headers = [
        "", "s an iteration", "images/s", "times as fast", "% of the peak", "peak memory, GiB",
    ]  # fmt: skip
    formats = ("", ".2f", ".2f", ".2f", ".0f", ".2f")
    table = tabulate(rows, headers, tablefmt="github", floatfmt=formats)
    return (
        f"\n{machine}\nMask R-CNN R-50, {args.height} x {2 * args.height}, batch {args.batch}, "
        f"{args.rounds} rounds\n\n{table}"
    )


def serve(kind: Kind, folder: str, args: argparse.Namespace, line: Connection) -> None:
    """Build a candidate and do a step whenever asked; answers seconds, files and peak memory.

    What it says first are the FLOPs of a step.
    """
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    candidate = build(kind, folder, args)
    flops = flops_of_step(candidate)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    line.send(flops)
    with contextlib.suppress(EOFError), EventStorage():
        while line.recv():
            seconds = candidate.step()
            on_gpu = torch.cuda.is_available()
            peak = torch.cuda.max_memory_allocated() if on_gpu else peak_process_memory()
            line.send((seconds, candidate.images.last, peak))


def flops_of_step(candidate: Candidate) -> float:
    """Of forward and backward on a batch, as the network is defined, whatever computes it.

    The gradients of inputs and of weights take what the forward pass takes, once each; of what is
    frozen there are none.
    """
    cfg = candidate.trainer.cfg
    model = build_model(cfg).train()
    model.load_state_dict(candidate.model.state_dict())
    batch = next(iter(candidate.trainer.build_train_loader(cfg)))
    torch.manual_seed(0)
    with EventStorage():
        counts, _ = counting.count([model], model, [batch])
    frozen = sum(
        counts[f"0.{path}"]["multiply_adds"]
        for path in frozen_paths(model)
        if f"0.{path}" in counts
    )
    return 2.0 * (3 * counts[""]["multiply_adds"] - 2 * frozen)


def frozen_paths(module: torch.nn.Module, path: str = "") -> Iterator[str]:
    """The outermost modules with parameters of which none is trained."""
    for name, child in module.named_children():
        trained = [p.requires_grad for p in child.parameters()]
        if trained and not any(trained):
            yield path + name
        else:
            yield from frozen_paths(child, f"{path}{name}.")


def build(kind: Kind, folder: str, args: argparse.Namespace) -> Candidate:
    """A candidate with stand-in weights, those of the first where they fit."""
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
    candidate = Candidate(kind, CONFIG, keys)
    weights = Path(folder, "weights.pth")
    if weights.exists():
        wanted, state = candidate.model.state_dict(), torch.load(weights, weights_only=True)
        fitting = {n: x for n, x in state.items() if n in wanted and x.shape == wanted[n].shape}
        candidate.model.load_state_dict(fitting, strict=False)
    else:
        batch = next(iter(candidate.trainer.build_train_loader(candidate.trainer.cfg)))
        calibrated_random_weights(candidate.model, batch)
        torch.save(candidate.model.state_dict(), weights)
    return candidate


if __name__ == "__main__":
    sys.exit(main())
