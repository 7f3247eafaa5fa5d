"""Do both trainers learn alike: the curves of their losses, over several seeds each."""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from tqdm import tqdm

from deepfuse_d2.data.minicity import generate_minicity

from .candidates import Candidate, Kind, by_device

__all__ = ["add_arguments", "compare_curves", "distances", "report", "smooth"]

_CONFIG = Path(__file__).parents[2] / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"

# The quickstart's ResNet-18 with FPN on images of 128 x 256, with an optimizer that both have.
_SMALL = {
    "MODEL.NECK.NORM": "",
    "MODEL.NECK.OUT_CHANNELS": "128",
    "MODEL.FPN.OUT_CHANNELS": "128",
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "INPUT.CROP.ENABLED": "False",
    "DEEPFUSE_D2.INPUT.MIN_INSTANCE_AREA": "0",
    "DEEPFUSE_D2.SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": "0.01",
    "SOLVER.WEIGHT_DECAY": "0.0001",
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.AMP.ENABLED": "False",
    "DATALOADER.NUM_WORKERS": "0",
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with --curves")
    group.add_argument("--iterations", type=int, default=200)
    group.add_argument("--seeds", type=int, default=3, help="trainings of each (default: 3)")
    group.add_argument("--window", type=int, default=20, help="iterations that are averaged")
    group.add_argument("--plot", type=Path, metavar="FILE", help=".svg or .png")


def compare_curves(folder: Path, args: argparse.Namespace) -> bool:
    """Train, print and plot; returns whether all of ours lie within seed noise of stock's."""
    generate_minicity(folder, num_train=40, num_val=1, width=512, height=256, workers=1)
    kinds = _kinds()
    curves = {kind.name: [] for kind in kinds}
    with tqdm(total=len(kinds) * args.seeds * args.iterations, desc="Iterations") as progress:
        for seed in range(args.seeds):
            start = None
            for kind in kinds:
                candidate = _build(kind, folder, seed, args.iterations)
                if start is None:
                    start = candidate.model.state_dict()
                    start = {name: tensor.clone() for name, tensor in start.items()}
                candidate.model.load_state_dict(start)
                curves[kind.name].append(_train(candidate, args.iterations, progress))
    return report(curves, args.window, args.plot)


def report(curves: dict[str, list[list[float]]], window: int, plot: Path | None = None) -> bool:
    """Print how far the programs are from the first, and plot; see :func:`compare_curves`.

    Args:
        curves: losses of each seed, by the name of the program.
        window: iterations that are averaged.
        plot: file for the picture; None for none.
    """
    smoothed = {name: np.stack([smooth(c, window) for c in runs]) for name, runs in curves.items()}
    stock, *ours = curves
    rows, all_within = [], True
    for name in ours:
        between, seeds = distances(smoothed[stock], smoothed[name])
        within = bool((between <= seeds).all())
        all_within &= within
        rows.append([name, *between, *seeds, "yes" if within else "no"])
    headers = ["", "to stock: mean", "max", "seed to seed: mean", "max", "within"]
    seeds, iterations = len(curves[stock]), len(curves[stock][0])
    print(f"\nTotal loss, {iterations} iterations, {seeds} seeds, averages of {window}\n")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))
    if plot:
        _plot(smoothed, window, plot)
    return all_within


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Means of `window` neighbours: len(values) - window + 1 numbers."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def distances(stock: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far apart the programs are, and how far the seeds of one program.

    Args:
        stock, ours: (seeds, T) curves; the same row is of the same seed.

    Returns:
        mean and maximum over T of the distance between the mean curves; and the same of two curves
        of one program, as the mean over all pairs of seeds of both.
    """
    between = np.abs(stock.mean(0) - ours.mean(0))
    pairs = [np.abs(a - b) for runs in (stock, ours) for a, b in combinations(runs, 2)]
    seeds = np.array([[pair.mean(), pair.max()] for pair in pairs]).mean(0)
    return np.array([between.mean(), between.max()]), seeds


def _kinds() -> list[Kind]:
    import torch

    from deepfuse_d2.kernels.capabilities import has_bfloat16

    cuda = torch.cuda.is_available()
    found = by_device(cuda=cuda, bfloat16=cuda or has_bfloat16())
    return [kind for kind in found if "DeepFuse" not in kind.name]


def _build(kind: Kind, folder: Path, seed: int, iterations: int) -> Candidate:
    extra = {"NAME": "race", "FORMAT": "cityscapes_instances", "ROOT": str(folder)}
    return Candidate(
        kind,
        _CONFIG,
        {
            **_SMALL,
            "DATASETS.EXTRA": repr([{**extra, "SPLIT": "train"}]),
            "DATASETS.TRAIN": "('race',)",
            "DATASETS.TEST": "()",
            "SOLVER.MAX_ITER": str(iterations),
            "SOLVER.STEPS": f"({iterations * 3 // 4},)",
            "SOLVER.WARMUP_ITERS": str(iterations // 4),
        },
        seed,
    )


def _train(candidate: Candidate, iterations: int, progress: tqdm) -> list[float]:
    losses = []
    with EventStorage() as storage:
        for iteration in range(iterations):
            storage.iter = iteration
            candidate.step()
            losses.append(candidate.loss)
            progress.update()
    return losses


def _plot(smoothed: dict[str, np.ndarray], window: int, path: Path) -> None:
    """Mean curves, and the range of the seeds behind them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, runs in smoothed.items():
        iterations = np.arange(runs.shape[1]) + window
        (line,) = axes.plot(iterations, runs.mean(0), label=name, linewidth=1.2)
        axes.fill_between(
            iterations, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.15, linewidth=0
        )
    axes.set_xlabel("iteration")
    axes.set_ylabel(f"total loss, mean of {window}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", dpi=110)
    pyplot.close(figure)
