"""Suggest a learning rate: raise it step by step, and draw what the loss does.

    deepfuse find-lr --config-file FILE --output output/find_lr.png [KEY VALUE ...]

Writes the plot, and the same name with .json; nothing of the model is kept. The suggestion is the
rate at which the smoothed loss falls fastest: a BASE_LR to start from, for the config's own batch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_config_file, add_overrides

if TYPE_CHECKING:
    from ..engine.solver.lr_finder import Curve

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--output", type=Path, default=Path("output/find_lr.png"), metavar="PNG")
    parser.add_argument("--start", type=float, default=1e-6, help="first learning rate")
    parser.add_argument("--end", type=float, default=1.0, help="last learning rate")
    parser.add_argument("--steps", type=int, default=100, help="between the two")
    parser.add_argument(
        "--smoothing", type=float, default=0.9, help="of the loss, in [0, 1); 0 for none"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    curve = test(args)
    suggestion = curve.suggest()
    write(curve, suggestion, args.output)
    if suggestion is None:
        print(
            "The loss never fell. Start lower (--start), take more --steps, or check the data "
            f"(deepfuse visualize-data). Curve: {args.output}"
        )
        return 1
    print(f"Suggested SOLVER.BASE_LR: {suggestion:.2g} ({len(curve.rates)} steps; {args.output})")
    return 0


def test(args: argparse.Namespace) -> Curve:
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import EventStorage
    from tqdm import tqdm

    from ..checkpoint import DeepFuseCheckpointer
    from ..config.checking import check_config
    from ..config.loading import load_config
    from ..engine import Trainer
    from ..engine.solver.lr_finder import Curve, range_test

    cfg = load_config(args.config_file, args.opts)
    check_config(cfg)
    seed_all_rng(max(cfg.SEED, 0))
    model = Trainer.build_model(cfg)
    DeepFuseCheckpointer(model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH).load(
        cfg.MODEL.WEIGHTS
    )
    steps = range_test(
        model,
        Trainer.build_train_loader(cfg),
        Trainer.build_optimizer(cfg, model),
        start=args.start,
        end=args.end,
        steps=args.steps,
    )
    rates, losses = [], []
    with EventStorage():
        progress = tqdm(steps, total=args.steps, desc="Steps", unit="step")
        for rate, loss in progress:
            progress.set_postfix(lr=f"{rate:.1e}", loss=f"{loss:.3f}")
            rates.append(rate)
            losses.append(loss)
    return Curve(rates, losses, args.smoothing)


def write(curve: Curve, suggestion: float | None, output: Path) -> None:
    """Write the plot, and the numbers beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    output.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.plot(curve.rates, curve.losses, color="0.8", label="loss")
    axes.plot(curve.rates, curve.smoothed(), color="tab:blue", label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color="tab:red", linestyle="--", label=f"{suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("total loss")
    axes.legend()
    figure.savefig(output, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    report = {
        "suggestion": suggestion,
        "rates": list(curve.rates),
        "losses": list(curve.losses),
        "smoothed": curve.smoothed().tolist(),
    }
    output.with_suffix(".json").write_text(json.dumps(report))
