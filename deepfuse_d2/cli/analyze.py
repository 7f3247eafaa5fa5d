"""Count parameters, multiply-adds and activations of a model, part by part; or compare two.

    deepfuse analyze Cityscapes/mask_rcnn_R_50_DeepFuseFPN
    deepfuse analyze A.yaml B.yaml --size 512 1024 MODEL.ROI_HEADS.NUM_CLASSES 8

KEY VALUE pairs at the end override both configs. No weights and no data set are read.
Exit code: 0, or 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json

from ..config.recipes import list_configs
from ..errors import ConfigError
from .arguments import files_and_recipes, offer

__all__ = ["add_arguments", "run"]

# What a config may ask for that is of no interest here: nothing is loaded or fetched.
NOTHING_LOADED = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "",
    "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.CHECKPOINT", "",
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = parser.add_argument("words", nargs="+", metavar="CONFIG [CONFIG] [KEY VALUE ...]")
    offer(words, files_and_recipes)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"),
        help="of the image (default: 512 1024)",
    )  # fmt: skip
    parser.add_argument("--proposals", type=int, default=1000, help="for box heads (default: 1000)")
    parser.add_argument("--detections", type=int, default=100, help="for mask heads (default: 100)")
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")


def run(args: argparse.Namespace) -> None:
    configs, overrides = split(args.words)

    from ..analysis import analyze
    from ..analysis.report import as_json, report
    from ..config.building import build_model
    from ..config.loading import load_config

    found = [
        analyze(
            build_model(load_config(config, [*overrides, *NOTHING_LOADED])),
            tuple(args.size),
            proposals=args.proposals,
            detections=args.detections,
        )
        for config in configs
    ]
    said = (configs, found, args.size, args.proposals, args.detections)
    print(json.dumps(as_json(*said), indent=2) if args.json else report(*said))


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Configs, which end in .yaml or .yml or are recipes, and the KEY VALUE pairs behind them."""
    recipes = list_configs()
    count = 0
    while count < len(words) and (
        words[count].endswith((".yaml", ".yml")) or words[count] in recipes
    ):
        count += 1
    if count not in (1, 2):
        raise ConfigError(
            f"{count} configs were given (*.yaml, or recipes); give one, or two to compare."
        )
    return words[:count], words[count:]
