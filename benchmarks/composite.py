#!/usr/bin/env python3
"""What a composite of two ResNet-50 costs beside ResNet-50, -101 and -152, for Mask R-CNN.

    python -m benchmarks.composite
    python -m benchmarks.composite --size 256 512 --rounds 5

A training step (forward, backward, SGD; one image with 20 instances) and the prediction of an
image, on the CPU, with calibrated random weights and frozen norms. The composites are CBNetV2's:
dhlc with the lead's res2 taken from the assistant, without and with losses on the assistant, and
with all stages in CHECKPOINT_STAGES. Each candidate has a process of its own, so that its peak
memory is; times are processor time of the process, on one thread, the best of the rounds. The first
round warms up. The share of the peak is that of a prediction with 1,000 proposals and 100
detections in what a matrix product reaches. Memory is the most that all rounds take beyond what is
held before them.
"""

import argparse
import multiprocessing
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from benchmarks.calibrated_weights import calibrated_random_weights
from benchmarks.evaluation_oracle.measuring import Meter
from benchmarks.machine import measure_machine

CONFIG = Path(__file__).parents[1] / "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml"
COMPOSITE = [
    "MODEL.NECK.BOTTOM_UP", "build_composite_backbone",
    "MODEL.COMPOSITE.BOTTOM_UP", "build_resnet_backbone",
]  # fmt: skip
SUPERVISED = [*COMPOSITE, "MODEL.COMPOSITE.ASSISTANT_WEIGHTS", "[0.5]"]
STAGES = ["DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", "['res2', 'res3', 'res4', 'res5']"]
CANDIDATES = {
    "R-50": [],
    "R-101": ["MODEL.RESNETS.DEPTH", "101"],
    "R-152": ["MODEL.RESNETS.DEPTH", "152"],
    "DB-R-50": COMPOSITE,
    "DB-R-50, supervised": SUPERVISED,
    "DB-R-50, stages checkpointed": [*COMPOSITE, *STAGES],
    "DB-R-50, supervised, stages checkpointed": [*SUPERVISED, *STAGES],
}


def batch(size: tuple[int, int]) -> list[dict]:
    """One image with 20 instances."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = size
    instances = Instances(size)
    corners = torch.rand(20, 2, generator=generator) * torch.tensor([0.8 * columns, 0.7 * rows])
    sides = 16 + torch.rand(20, 2, generator=generator) * torch.tensor(
        [0.15 * columns, 0.25 * rows]
    )
    instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    instances.gt_classes = torch.arange(20) % 8
    masks = torch.zeros(20, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, instances.gt_boxes.tensor.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return [{"image": image, "instances": instances, "height": rows, "width": columns}]


def measure(overrides: list[str], size: tuple[int, int], rounds: int, training: bool) -> dict:
    """Best processor time of a step or a prediction, and what the process takes at most, in MB."""
    warnings.filterwarnings("ignore")
    from deepfuse_d2.analysis import analyze
    from deepfuse_d2.engine import Trainer, load_config

    torch.set_num_threads(1)
    fixed = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "0"]
    torch.manual_seed(0)
    cfg = load_config(str(CONFIG), [*fixed, *overrides])
    source = build_model(cfg)
    multiply_adds = analyze(source.eval(), size).total.multiply_adds
    # before Trainer folds norms, which could then not take statistics
    calibrated_random_weights(source, batch((128, 256)))
    model = Trainer.build_model(cfg)
    model.load_state_dict(source.state_dict())
    del source
    model.train(training)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    inputs = batch(size)
    times = []
    with Meter() as memory:
        for _ in range(rounds + 1):
            start = time.process_time()
            if training:
                with EventStorage():
                    loss = sum(model(inputs).values())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            else:
                with torch.no_grad():
                    model(inputs)
            times.append(time.process_time() - start)
    return {
        "parameters": parameters,
        "seconds": min(times[1:]),
        "multiply_adds": multiply_adds,
        "memory": memory.peak_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("ROWS", "COLS"))
    parser.add_argument("--rounds", type=int, default=2, help="after one that warms up")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in each of the processes
    machine = measure_machine("cpu")
    rows = []
    for name in args.only:
        cells = []
        for training in (True, False):
            run = partial(measure, CANDIDATES[name], tuple(args.size), args.rounds, training)
            # a process that forks would bring its own peak along
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                cells.append(pool.apply(run))
        step, prediction = cells
        rows.append(
            [
                name,
                step["parameters"] / 1e6,
                step["seconds"],
                step["memory"],
                prediction["seconds"],
                machine.percent(2 * prediction["multiply_adds"], prediction["seconds"]),
                prediction["memory"],
            ]
        )
        print(f"{name}: done", flush=True)
    print(f"\n{machine}\n{args.size[0]} x {args.size[1]}, {args.rounds} rounds\n")
    headers = [
        "network", "parameters, M", "step, s", "step, MB", "prediction, s", "% of the peak",
        "prediction, MB",
    ]  # fmt: skip
    print(
        tabulate(
            rows,
            headers=headers,
            tablefmt="github",
            floatfmt=("", ".2f", ".1f", ".0f", ".1f", ".0f", ".0f"),
        )
    )


if __name__ == "__main__":
    main()
