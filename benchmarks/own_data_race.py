"""As a new user: `deepfuse init`, then train for some minutes, beside torchvision's Mask R-CNN.

    python -m benchmarks.own_data_race --weights resnet18.pth --time 6m > table.md

Penn-Fudan and the nuclei (datasets/README.md) are written as COCO's JSON with run lengths by
`deepfuse convert-data`. Then, in turn and each in processes of its own: `deepfuse init` and
`deepfuse train` in an empty folder, and torchvision_mask_rcnn.py from the same weights, for the
same time, on images of the same size. pycocotools scores what both have written.
"""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from deepfuse_d2.config.loading import load_config
from deepfuse_d2.engine.hooks.time_budget import seconds_of

DATA = ("pennfudan", "nuclei")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", required=True, help="of a ResNet-18, torchvision's names")
    parser.add_argument("--time", default="6m", help="of each training (default: %(default)s)")
    parser.add_argument("--only", choices=DATA, help="one of the data sets")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for what is written")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for our training")
    args = parser.parse_intermixed_args(argv)
    rows = []
    with contextlib.ExitStack() as stack:
        root = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in (args.only,) if args.only else DATA:
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            images = _convert(name, folder)
            side, limit, steps, file = _ours(folder, images, args)
            rows.append([name, "deepfuse init", steps, *_scores(folder, file, limit)])
            if not args.ours_only:
                file = folder / "torchvision.json"
                told = _run(
                    folder, sys.executable, "-m", "benchmarks.torchvision_mask_rcnn", "train.json",
                    "val.json", images, os.path.abspath(args.weights), seconds_of(args.time), side,
                    file, limit,
                )  # fmt: skip
                steps = re.search(r"(\d+) steps", told)[1] + " x 2"
                rows.append([name, "torchvision", steps, *_scores(folder, file, limit)])
    columns = ["data", f"{args.time} of", "steps x images", "AP", "AP50", "AP75"]
    print(tabulate(rows, columns, tablefmt="pipe", floatfmt=".1f"))


def _convert(name: str, folder: Path) -> str:
    """Write train.json and val.json; returns the folder of the images."""
    for split in ("train", "val"):
        told = _run(folder, sys.executable, "-m", "deepfuse_d2", "convert-data", f"{name}_{split}",
                    "--output", f"{split}.json")  # fmt: skip
    return re.search(r"images of (.+),", told)[1]


def _ours(folder: Path, images: str, args: argparse.Namespace) -> tuple[int, int, str, Path]:
    """Side of the images, detections an image, steps, and the file of predictions."""
    command = [sys.executable, "-m", "deepfuse_d2"]
    _run(folder, *command, "init", "train.json", "--val", "val.json", "--images", images, "-o",
         "my.yaml", "--time", args.time, "--weights", os.path.abspath(args.weights),
         "--force")  # fmt: skip
    _run(folder, *command, "train", "--config-file", "my.yaml", *args.opts)
    output = folder / "output/my"
    steps = json.loads((output / "results.json").read_text())["iterations"]
    cfg = load_config(output / "config.yaml")
    return (
        cfg.INPUT.MIN_SIZE_TEST,
        cfg.TEST.DETECTIONS_PER_IMAGE,
        f"{steps} x {cfg.SOLVER.IMS_PER_BATCH}",
        output / "inference/own_val/coco_instances_results.json",
    )


def _scores(folder: Path, results: Path, limit: int) -> list[float]:
    """AP, AP50 and AP75 of masks by pycocotools, in percent; 0 of a model that finds nothing."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not json.loads(results.read_text()):
        return [0.0, 0.0, 0.0]  # pycocotools cannot load an empty list
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "val.json")
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "segm")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return [100 * precision[chosen].mean() for chosen in (slice(None), slice(1), slice(5, 6))]


def _run(folder: Path, *command: object) -> str:
    """Run in `folder`; returns what it printed, and raises with it after a failure."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
