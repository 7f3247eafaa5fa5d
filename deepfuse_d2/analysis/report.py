#!/usr/bin/env python3
"""Parameters, multiply-adds and activations of a config's model, part by part; or of two, compared.

    python tools/analyze_model.py configs/Cityscapes/mask_rcnn_R_50_DeepFuseFPN.yaml
    python tools/analyze_model.py A.yaml B.yaml --size 512 1024 MODEL.ROI_HEADS.NUM_CLASSES 8

KEY VALUE pairs at the end override both configs. No weights and no data set are read.
Exit code: 0, or 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict

from detectron2.modeling import build_model
from tabulate import tabulate

from deepfuse_d2.analysis import Analysis, Cost, analyze
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError, UserError

# What a config may ask for that is of no interest here: nothing is loaded or fetched.
NOTHING_LOADED = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "",
    "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.CHECKPOINT", "",
]  # fmt: skip
# Column: field of Cost, unit
COLUMNS = {
    "parameters, M": ("parameters", 1e6),
    "trained, M": ("trained", 1e6),
    "multiply-adds, G": ("multiply_adds", 1e9),
    "activations, M": ("activations", 1e6),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="CONFIG [CONFIG] [KEY VALUE ...]")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"),
        help="of the image (default: 512 1024)",
    )  # fmt: skip
    parser.add_argument("--proposals", type=int, default=1000, help="for box heads (default: 1000)")
    parser.add_argument("--detections", type=int, default=100, help="for mask heads (default: 100)")
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")
    args = parser.parse_intermixed_args(argv)
    try:
        configs, overrides = split(args.words)
        found = [
            analyze(
                build_model(load_config(config, [*overrides, *NOTHING_LOADED])),
                tuple(args.size),
                proposals=args.proposals,
                detections=args.detections,
            )
            for config in configs
        ]
    except UserError as error:
        print(f"analyze_model.py: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(as_json(configs, found, args), indent=2))
    else:
        print(report(configs, found, args))
    return 0


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Configs, which end in .yaml or .yml, and the KEY VALUE pairs behind them."""
    count = 0
    while count < len(words) and words[count].endswith((".yaml", ".yml")):
        count += 1
    if count not in (1, 2):
        raise ConfigError(f"{count} config files were given (*.yaml); give one, or two to compare.")
    return words[:count], words[count:]


def report(configs: list[str], found: list[Analysis], args: argparse.Namespace) -> str:
    lines = [f"{letter}: {config}" for letter, config in zip("AB", configs, strict=False)]
    sizes = " and ".join(dict.fromkeys("{} x {}".format(*analysis.size) for analysis in found))
    lines += [
        "",
        table(found),
        "",
        f"One image of {args.size[0]} x {args.size[1]} (padded: {sizes}); {args.proposals} "
        f"proposals for each box head, {args.detections} detections for mask and keypoint heads.",
        "Counted are convolutions, linear layers and matrix products, a multiply-add as one (as "
        "fvcore counts flops),",
        "and as activations the elements that they give; not norms, activation functions, "
        "resizing, RoI pooling, NMS.",
    ]
    for letter, analysis in zip("AB", found, strict=False):
        if analysis.unsupported:
            listed = ", ".join(f"{name} ({n})" for name, n in analysis.unsupported.items())
            lines.append(f"Not known how to count in {letter}: {listed}")
    return "\n".join(lines)


def table(found: list[Analysis]) -> str:
    """A row for each part; of two models, each column twice, with the ratio of the second."""
    names = [*dict.fromkeys(name for analysis in found for name in analysis.parts), "total"]
    headers, rows = ["part"], [[name] for name in names]
    for title, (field, unit) in COLUMNS.items():
        if field == "trained" and len(found) == 2:
            continue  # what is compared is the network, not which part of it learns
        headers += [title] if len(found) == 1 else [f"A: {title}", "B", "B / A"]
        for name, row in zip(names, rows, strict=True):
            costs = [{**analysis.parts, "total": analysis.total}.get(name) for analysis in found]
            values = [getattr(cost or Cost(), field) for cost in costs]
            row += [f"{value / unit:.2f}" for value in values]
            if len(values) == 2:
                row.append(f"{values[1] / values[0]:.3f}" if values[0] else "")
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


def as_json(configs: list[str], found: list[Analysis], args: argparse.Namespace) -> dict:
    return {
        "size": list(args.size),
        "proposals": args.proposals,
        "detections": args.detections,
        "models": [
            {
                "config": config,
                "padded_size": list(analysis.size),
                "parts": {name: asdict(cost) for name, cost in analysis.parts.items()},
                "total": asdict(analysis.total),
                "unsupported": Counter(analysis.unsupported),
            }
            for config, analysis in zip(configs, found, strict=True)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
