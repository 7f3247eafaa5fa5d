#!/usr/bin/env python3
"""Time a training iteration of stock detectron2 and of ours, interleaved in one run.

python tools/benchmark_training.py --rounds 5

Mask R-CNN R-50 on the same MiniCity frames: detectron2's own FPN builder, the same network through
our composition, and with DeepFuseFPN, in float32; then ours with channels innermost and bfloat16,
where the hardware has it. Ratios are medians over rounds, each round timing every model once.
"""

import argparse
import time
import warnings
from dataclasses import dataclass, field

import torch
from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from interleaved import summarize
from tabulate import tabulate
from tqdm import trange

from deepfuse_d2.engine import load_config
from deepfuse_d2.engine.mixed_precision import cpu_has_bfloat16

BASE = "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml"
STOCK = [
    "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
    "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
]  # fmt: skip
DEEPFUSE = ["MODEL.NECK.NAME", "DeepFuseFPN"]


@dataclass
class Contestant:
    """A model in training and the seconds of its iterations."""

    name: str
    opts: list[str]
    fast: bool = False
    seconds: list[float] = field(default_factory=list)

    def build(self, common: list[str]) -> None:
        self.cfg = load_config(BASE, [*common, *self.opts])
        torch.manual_seed(0)
        self.model = build_model(self.cfg).train()
        if self.fast:
            self.model = self.model.to(memory_format=torch.channels_last)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, foreach=True)

    def step(self, batch: list[dict]) -> None:
        start = time.perf_counter()
        with torch.autocast(self.cfg.MODEL.DEVICE, torch.bfloat16, enabled=self.fast):
            loss = sum(self.model(batch).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.cfg.MODEL.DEVICE == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed iterations of each model")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--height", type=int, default=512, help="of images; width is twice that")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    common = [
        # Random weights need live statistics: with frozen ones the activations overflow.
        "MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "BN", "SEED", "0", "DATALOADER.NUM_WORKERS", "0",
        "DATASETS.TRAIN", "('minicity_fine_instance_seg_train',)",
        "INPUT.MIN_SIZE_TRAIN", f"({args.height},)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice",
        "SOLVER.IMS_PER_BATCH", str(args.batch),
    ]  # fmt: skip
    contestants = [
        Contestant("detectron2: R-50-FPN", STOCK),
        Contestant("ours: R-50-FPN", []),
        Contestant("ours: R-50-DeepFuseFPN", DEEPFUSE),
    ]
    if torch.cuda.is_available() or cpu_has_bfloat16():
        contestants.append(Contestant("ours: R-50-FPN, channels last, bfloat16", [], fast=True))
        contestants.append(
            Contestant("ours: R-50-DeepFuseFPN, channels last, bfloat16", DEEPFUSE, fast=True)
        )
    for contestant in contestants:
        contestant.build(common)

    batches = iter(build_detection_train_loader(contestants[0].cfg))
    with EventStorage():
        # one round to warm up: allocation, and kernels chosen for the shapes
        for _ in trange(args.rounds + 1, desc="Rounds"):
            batch = next(batches)
            for contestant in contestants:
                contestant.step(batch)

    stock = contestants[0].seconds[1:]
    rows = []
    for contestant in contestants:
        seconds = contestant.seconds[1:]
        parameters = sum(p.numel() for p in contestant.model.parameters()) / 1e6
        rows.append([contestant.name, parameters, *summarize(seconds, stock)])
    print(
        f"\nMask R-CNN, {args.height} x {2 * args.height}, batch {args.batch}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds\n"
    )
    headers = ["model", "parameters, M", "s an iteration", "ratio to detectron2"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
