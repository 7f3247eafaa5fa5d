#!/usr/bin/env python3
"""Time Res2Net-50 and FishNet-150 against timm's Res2Net-50 and detectron2's ResNet-50.

python -m benchmarks.backbones --rounds 7 --size 224
python -m benchmarks.backbones --parity

Features of four strides, in float32 with live batch norms: a forward pass without gradients, and a
training step (forward, backward, SGD). All are timed once a round, in one process, on the CPU and
on a GPU where there is one; ratios are medians over rounds. --parity prints instead how far our
features are from timm's in float64, with the same random weights and perturbed batch norms.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence

import timm
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.evaluation_oracle.measuring import CLOCKS
from benchmarks.machine import measure_machine
from benchmarks.timing import run_rounds, summarize
from deepfuse_d2.analysis import counting
from deepfuse_d2.checkpoint.sources.res2net_names import rename_dla, rename_res2net
from deepfuse_d2.modeling.backbone import DLA, FishNetBackbone, Res2Net, dla, fishnet, res2net

FEATURES = ["res2", "res3", "res4", "res5"]
REFERENCE = "timm: Res2Net-50 26w4s"


def candidates() -> dict[str, nn.Module]:
    """Networks that give features of the strides 4, 8, 16 and 32, by the names in the table."""
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm="BN")
    return {
        REFERENCE: timm.create_model(
            "res2net50_26w_4s", features_only=True, out_indices=(1, 2, 3, 4)
        ),
        "ours: Res2Net-50 26w4s": Res2Net(out_features=FEATURES),
        "ours: FishNet-150": FishNetBackbone(*fishnet.VARIANTS[150], norm="BN"),
        "detectron2: ResNet-50": ResNet(BasicStem(norm="BN"), stages, out_features=FEATURES),
    }


def benchmark(args: argparse.Namespace, device: str) -> None:
    """Print the table of one device."""
    machine = measure_machine(device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    image = torch.randn(args.batch, 3, args.size, args.size, device=device)
    image = image.contiguous(memory_format=layout)
    networks = {
        name: network.to(device=device, memory_format=layout)
        for name, network in candidates().items()
    }
    # a GPU works on after a call has returned, and uses no processor time
    clock = CLOCKS[args.clock] if device == "cpu" else time.perf_counter
    passes, steps = (
        {name: timed(make(network, image), device, clock) for name, network in networks.items()}
        for make in (forward_pass, training_step)
    )
    forward = run_rounds(passes, args.rounds, f"Forward, {device}")
    training = run_rounds(steps, args.rounds, f"Training, {device}")

    rows = []
    for name, network in networks.items():
        flops = flops_of(network.eval(), image)
        row = [name, sum(p.numel() for p in network.parameters()) / 1e6]
        # the gradients of inputs and of weights take as much as the forward pass each
        for seconds, times in ((forward, 1), (training, 3)):
            median, ratio = summarize(seconds[name], seconds[REFERENCE])
            row += [median, ratio, machine.percent(times * flops, median)]
        rows.append(row)
    where = "" if device == "cuda" else f", {args.clock} seconds"
    print(
        f"\n{machine}\n{args.batch} x 3 x {args.size} x {args.size}, {device}{where}, "
        f"{'channels last' if args.channels_last else 'contiguous'}, {args.rounds} rounds\n"
    )
    headers = [
        "network", "parameters, M", "s a forward pass", "ratio", "% of the peak",
        "s a training step", "ratio", "% of the peak",
    ]  # fmt: skip
    formats = ("", ".2f", *[".4f", ".3f", ".0f"] * 2)
    print(tabulate(rows, headers, tablefmt="github", floatfmt=formats))


def flops_of(network: nn.Module, image: Tensor) -> float:
    """Of a forward pass of the whole batch; a multiply-add is two."""
    with torch.no_grad():
        counts, _ = counting.count([network], network, [image])
    return 2 * counts[""]["multiply_adds"]


def forward_pass(network: nn.Module, image: Tensor) -> Callable[[], None]:
    """A function that computes the features once."""

    def run() -> None:
        network.eval()
        with torch.no_grad():
            network(image)

    return run


def training_step(network: nn.Module, image: Tensor) -> Callable[[], None]:
    """A function that trains once."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, foreach=True)

    def run() -> None:
        network.train()
        optimizer.zero_grad()
        sum(feature.mean() for feature in features_of(network(image))).backward()
        optimizer.step()

    return run


def timed(work: Callable[[], None], device: str, clock: Callable[[], float]) -> Callable[[], float]:
    """A function that does `work` and returns its seconds."""

    def run() -> float:
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    return run


def features_of(outputs: dict[str, Tensor] | list[Tensor]) -> list[Tensor]:
    """Maps from high to low resolution, of a detectron2 backbone or a timm network."""
    return list(outputs.values()) if isinstance(outputs, dict) else outputs


def parity(size: Sequence[int] = (64, 96)) -> None:
    """Print the largest difference to timm's features, of every variant that timm has."""
    families = (
        (Res2Net, res2net.VARIANTS, rename_res2net, (1, 2, 3, 4)),
        (DLA, dla.VARIANTS, rename_dla, (2, 3, 4, 5)),
    )
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    rows = []
    for network_class, variants, rename, indices in families:
        for name, arguments in tqdm(variants.items(), desc="Networks"):
            theirs = timm.create_model(name, features_only=True, out_indices=indices)
            perturb_norms(theirs)
            ours = network_class(**arguments, out_features=FEATURES)
            found = ours.load_state_dict(rename(theirs.state_dict()), strict=False)
            strangers = [k for k in found.missing_keys if not k.endswith("num_batches_tracked")]
            if strangers or found.unexpected_keys:
                raise RuntimeError(f"{name}: {strangers[:3]} {found.unexpected_keys[:3]}")
            with torch.no_grad():
                pairs = zip(
                    features_of(ours.double().eval()(image)),
                    theirs.double().eval()(image),
                    strict=True,
                )
                rows.append([name, *(float((a - b).abs().max()) for a, b in pairs)])
    print(f"\nLargest absolute difference to timm {timm.__version__}, float64, 1 x 3 x {size}\n")
    print(tabulate(rows, ["network", *FEATURES], tablefmt="github", floatfmt=".1e"))


def perturb_norms(network: nn.Module) -> None:
    """Give every batch norm weights and statistics of its own, as training does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each network")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="height and width of an image")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="of the CPU; cpu on a busy machine"
    )
    parser.add_argument("--parity", action="store_true", help="compare features, not seconds")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.parity:
        torch.manual_seed(0)
        parity()
        return
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        benchmark(args, device)


if __name__ == "__main__":
    main()
