"""Write a trained model as a folder that stands alone: config, weights, labels, card, sample.

    deepfuse pack --config-file output/config.yaml --weights output/model_final.pth \\
        --output my_model
    deepfuse predict --model my_model --input street.png --output results/

Predictor("my_model") and MODEL.WEIGHTS my_model take it too. No file of it is executed, and it
names no path of this machine.
"""

from __future__ import annotations

import argparse
import json
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
    parser.add_argument("--overwrite", action="store_true", help="replace a packed model")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..config.loading import load_config

    cfg = load_config(
        args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights, "MODEL.DEVICE", "cpu"]
    )
    results = args.results or Path(args.weights).parent / "results.json"
    pack_model(
        cfg, args.output, results, args.results is not None, name=args.name, license=args.license,
        image=args.image, overwrite=args.overwrite,
    )  # fmt: skip


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
