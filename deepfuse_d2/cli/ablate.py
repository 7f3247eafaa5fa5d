"""Train and evaluate settings x seeds, and compare them: table, paired differences, plot.

    deepfuse ablate configs/ablations/deepfuse_minicity.yaml --jobs 2
    deepfuse ablate configs/ablations/deepfuse_minicity.yaml --report-only
    deepfuse ablate --base MiniCity/mask_rcnn_R_18_FPN_quick --seeds 1 2 3 \\
        --metric segm/AP --output output/ablations/rate --overrides SOLVER.MAX_ITER 300 \\
        --setting "1e-3" SOLVER.BASE_LR 0.001 --setting "3e-4" SOLVER.BASE_LR 0.0003

Each cell (a setting with a seed) is a training of its own, in OUTPUT/<setting>/seed_<n>. Called
again, it goes on where it was stopped, and leaves finished cells alone. cells.csv, table.md,
plot.png and, where the plan has CURVES, curves.png lie in OUTPUT and grow with every cell.
Exit code: 0, all cells asked for are finished; 1, some failed; 2, wrong arguments; 130, stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys

from ..errors import ConfigError

__all__ = ["TRAINING", "add_arguments", "run"]

TRAINING = (sys.executable, "-m", "deepfuse_d2", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", help="yaml; deepfuse_d2/ablation/plan.py explains it")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument(
        "--report-only", action="store_true", help="report what there is; train nothing"
    )
    instead = parser.add_argument_group("in place of the plan's, or without a plan")
    instead.add_argument("--base", metavar="FILE", help="config file, or a recipe")
    instead.add_argument("--output", metavar="DIR")
    instead.add_argument("--seeds", type=int, nargs="+", metavar="N")
    instead.add_argument("--metric", nargs="+", metavar="NAME", help="such as segm/AP")
    instead.add_argument("--train-images", type=int, metavar="N", help="for the gap; 0: no gap")
    instead.add_argument(
        "--setting", nargs="+", action="append", metavar=("NAME", "KEY VALUE"),
        help="the first is the reference",
    )  # fmt: skip
    instead.add_argument(
        "--overrides", nargs="+", default=[], metavar="KEY VALUE", help="of every setting, last"
    )


def run(args: argparse.Namespace) -> int:
    from detectron2.utils.logger import setup_logger

    from ..ablation import CellRunner, load_plan, write_report

    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    plan = load_plan(args.plan, **fields(args))
    if not args.report_only:
        # a batch system's end of time is no different from Ctrl-C
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            CellRunner(plan, TRAINING, jobs=args.jobs).run(after_each=lambda: write_report(plan))
        except KeyboardInterrupt:
            print("\nStopped. The same command goes on from here.", file=sys.stderr)
            return 130
        finally:
            signal.signal(signal.SIGTERM, before)
    counts = write_report(plan)
    print((plan.output / "table.md").read_text(encoding="utf-8"))
    print(f"In {plan.output}: table.md, cells.csv, plot.png" + ", curves.png" * bool(plan.curves))
    return 1 if counts["failed"] else 0


def fields(args: argparse.Namespace) -> dict:
    """The fields of the plan that the command line gives."""
    given = {
        "BASE": args.base,
        "OUTPUT": args.output,
        "SEEDS": args.seeds,
        "METRIC": args.metric,
        "TRAIN_IMAGES": args.train_images,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if args.setting:
        names = [name for name, *_ in args.setting]
        if len(set(names)) < len(names):
            raise ConfigError(f"--setting is given twice with one name: {', '.join(names)}.")
        given["SETTINGS"] = {name: pairs for name, *pairs in args.setting}
    return given | {"OVERRIDES": args.overrides}
