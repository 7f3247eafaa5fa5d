"""Write a trained model as a folder that stands alone: config, weights, labels, card, sample.

    deepfuse pack --config-file output/config.yaml --weights output/model_final.pth \\
        --output my_model
    deepfuse predict --model my_model --input street.png --output results/

Predictor("my_model") and MODEL.WEIGHTS my_model take it too. No file of it is executed, and it
names no path of this machine. --aot cpu adds the dense parts compiled for this machine; they are
code, and run where Predictor("my_model", engine="aot") asks for them alone.

--int8 adds the dense parts in 8-bit integers for Predictor("my_model", engine="openvino",
dtype="int8"): calibrated on images of DATASETS.TRAIN (or --calibrate-on), evaluated on
DATASETS.TEST, and refused where a figure (AP, mIoU, PQ) falls by more than --max-loss points. Needs
the extra "int8".
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from .arguments import add_config_file, add_overrides

__all__ = ["add_arguments", "pack_model", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new one")
    parser.add_argument("--name", default="", help="on the card (default: that of the folder)")
    parser.add_argument(
        "--license", default="", help="of the weights, as hubs abbreviate it: apache-2.0, cc-by-4.0"
    )
    parser.add_argument("--image", metavar="FILE", help="for the sample (default: a drawn street)")
    parser.add_argument(
        "--results", type=Path, metavar="JSON",
        help="figures for the card (default: results.json beside the weights)",
    )  # fmt: skip
    parser.add_argument(
        "--aot", default="", choices=("cpu", "cuda"),
        help="compile for this machine's CPU or GPU as well, which takes some minutes",
    )  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="add 8-bit integers, for OpenVINO")
    parser.add_argument(
        "--calibrate-on", type=Path, metavar="FOLDER",
        help="of images for --int8 (default: those of DATASETS.TRAIN)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-images", type=int, default=300, metavar="N",
        help="at most (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-loss", type=float, default=0.5, metavar="POINTS",
        help="that a figure may fall by in integers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a packed model")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from ..config.loading import load_config

    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    cfg = load_config(
        args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights, "MODEL.DEVICE", "cpu"]
    )
    results = args.results or Path(args.weights).parent / "results.json"
    pack_model(
        cfg, args.output, results, args.results is not None, name=args.name, license=args.license,
        image=args.image, overwrite=args.overwrite, aot=args.aot,
        int8=calibration(cfg, args) if args.int8 else None,
    )  # fmt: skip


def calibration(cfg, args: argparse.Namespace):
    """What --int8 and the options beside it ask for."""
    from detectron2.data import DatasetCatalog

    from ..config.checking import check_config
    from ..engine import Trainer
    from ..errors import ConfigError
    from ..inference.packing import Calibration
    from ..inference.reading import find_images

    if not cfg.DATASETS.TEST:
        raise ConfigError(
            "--int8 evaluates on DATASETS.TEST, which names no data set; add DATASETS.TEST "
            "\"('my_val',)\" to the command."
        )
    if args.calibrate_on:
        files = [str(file) for file in find_images(args.calibrate_on)]
    else:
        names = cfg.DATASETS.TRAIN
        files = [record["file_name"] for name in names for record in DatasetCatalog.get(name)]
    if not files:
        raise ConfigError(
            "--int8 calibrates on images, and there are none: give --calibrate-on FOLDER, or name "
            "data sets in DATASETS.TRAIN."
        )
    check_config(cfg)
    files = files[:: max(1, len(files) // args.calibration_images)][: args.calibration_images]

    def evaluate(model):
        with tempfile.TemporaryDirectory() as folder:
            judged = cfg.clone()
            judged.defrost()
            judged.OUTPUT_DIR = folder
            return Trainer.test(judged, model)

    return Calibration(files, evaluate, args.max_loss)


def pack_model(cfg, output: Path, results: Path, must_exist: bool = False, **options) -> None:
    """Pack, with the figures of a training's results.json where it is there, and say so."""
    from ..errors import ConfigError
    from ..inference.packing import pack

    figures = {}
    if results.is_file():
        figures = json.loads(results.read_text(encoding="utf-8")).get("results", {})
    elif must_exist:
        raise ConfigError(f"--results {results} does not exist.")
    print(f"Packed as {pack(cfg, output, results=figures, **options)}")
