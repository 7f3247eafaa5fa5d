#!/usr/bin/env python3
"""Cost of SpineNet beside ResNet-FPN at the same input: multiply-adds, real time, memory.

python -m benchmarks.spinenet --rounds 3 --size 256 --batch 1

Each network gives p3 to p7 in float32 with live batch norms. Multiply-adds are those of one image;
memory is what a training step keeps for backward. Times are of a forward pass without gradients and
of a training step, once a round each, and ratios are medians over rounds.
"""

import argparse
import time
import warnings

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from tabulate import tabulate
from torch import nn

from benchmarks.backbones import forward_pass, timed, training_step
from benchmarks.evaluation_oracle.measuring import CLOCKS
from benchmarks.machine import measure_machine
from benchmarks.timing import run_rounds, summarize
from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.analysis.counting import count

REFERENCE = "R50-FPN"
FPN = ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.NAME", "FPN",
       "MODEL.NECK.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.NECK.TOP_BLOCK", "p6p7",
       "MODEL.NECK.NORM", "BN")  # fmt: skip
SPINENET = ("MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME")
CANDIDATES = {
    REFERENCE: (*FPN, "MODEL.RESNETS.DEPTH", 50),
    "R101-FPN": (*FPN, "MODEL.RESNETS.DEPTH", 101),
    "SpineNet-49S": (*SPINENET, "SpineNet-49S"),
    "SpineNet-49": (*SPINENET, "SpineNet-49"),
    "SpineNet-96": (*SPINENET, "SpineNet-96"),
    "SpineNet-143": (*SPINENET, "SpineNet-143"),
    "MBConv-49": (*SPINENET, "MBConv-49"),
}


def build(overrides: tuple) -> nn.Module:
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.merge_from_list(list(overrides))
    return build_backbone(cfg, ShapeSpec(channels=3))


def multiply_adds(overrides: tuple, size: int) -> float:
    """Giga multiply-adds of one image, counted without computing."""
    with torch.device("meta"):
        network = build(overrides).eval()
        image = torch.zeros(1, 3, size, size)
    counts, _ = count([network], network, [image])
    return counts[""]["multiply_adds"] / 1e9


def kept_for_backward(network: nn.Module, image: torch.Tensor) -> float:
    """MiB of different tensors that a training step keeps, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network.train()(image)
    del outputs
    return sum(kept.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each network")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=256, help="side of an image; of 128 a multiple")
    parser.add_argument("--names", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="of the CPU; cpu on a busy machine"
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    names = list(dict.fromkeys([REFERENCE, *args.names]))
    networks = {name: build(CANDIDATES[name]) for name in names}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = measure_machine(device)
    clock = CLOCKS[args.clock] if device == "cpu" else time.perf_counter
    image = torch.randn(args.batch, 3, args.size, args.size, device=device)
    networks = {name: network.to(device) for name, network in networks.items()}
    memory = {name: kept_for_backward(network, image) for name, network in networks.items()}
    forward, training = (
        run_rounds(
            {
                name: timed(make(network, image), device, clock)
                for name, network in networks.items()
            },
            args.rounds,
            desc,
        )
        for make, desc in ((forward_pass, "Forward"), (training_step, "Training"))
    )
    rows = []
    for name, network in networks.items():
        giga = multiply_adds(CANDIDATES[name], args.size)
        row = [name, sum(p.numel() for p in network.parameters()) / 1e6, giga, memory[name]]
        shares = []
        for seconds, times in ((forward, 1), (training, 3)):
            median, ratio = summarize(seconds[name], seconds[REFERENCE])
            row += [median, ratio]
            shares.append(machine.percent(2e9 * giga * times * args.batch, median))
        rows.append([*row, *shares])
    headers = [
        "network", "parameters, M", "multiply-adds, G", "kept, MiB", "forward, s", "ratio",
        "training step, s", "ratio", "% of the peak, forward", "training",
    ]  # fmt: skip
    print(
        f"\n{machine}\n{args.batch} x 3 x {args.size} x {args.size}, {device}, {args.clock} "
        f"seconds, {args.rounds} rounds\n"
    )
    formats = ("", ".2f", ".2f", ".0f", ".3f", ".2f", ".3f", ".2f", ".1f", ".1f")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=formats))


if __name__ == "__main__":
    main()
