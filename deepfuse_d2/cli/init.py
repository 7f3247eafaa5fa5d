"""Look at data of your own and at the machine, and write a config that fits both.

    deepfuse init my/train.json --val my/val.json -o my.yaml
    deepfuse init my/yolo_folder -o my.yaml --time 30m --weights torchvision://resnet18
    deepfuse init pennfudan_train -o people.yaml && deepfuse train --config-file people.yaml

DATA is a JSON file of COCO, an XML file of CVAT, a data.yaml of YOLO, a folder of these, of
LabelMe, of PASCAL VOC or of label images, or a registered name. Without --val, its own validation
split is taken, else a fifth of it. The yaml says in comments what was found and why it is as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigError
from ..files import written_whole

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="what to train on")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="YAML")
    parser.add_argument("--val", metavar="DATA", help="what to evaluate on")
    parser.add_argument("--images", metavar="FOLDER", help="images of a JSON or XML file")
    parser.add_argument("--val-images", metavar="FOLDER", help="(default: those of --images)")
    parser.add_argument("--time", default="", help="of the training: 30m, 2h (default: epochs)")
    parser.add_argument(
        "--weights", default="", metavar="FILE|NAME|random",
        help="to start from: a file of a ResNet, torchvision://resnet18, timm://resnet18.a1_in1k, "
        "or any other network of timm (default: torchvision's or timm's ResNet-18, on a GPU "
        "ResNet-50, where it can be fetched or was; else random)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: what there is)")
    parser.add_argument("--output-dir", metavar="FOLDER", help="(default: output/<name of YAML>)")
    parser.add_argument("--force", action="store_true", help="write over a YAML that is there")


def run(args: argparse.Namespace) -> None:
    import torch

    from ..config.own_data import facts_of, write_config
    from ..config.start_weights import choose_weights
    from ..data import register_extra
    from ..data.guessing import find_data
    from ..engine.hooks.time_budget import seconds_of

    if args.output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output {args.output} must end in .yaml.")
    if args.output.exists() and not args.force:
        raise ConfigError(f"{args.output} is there already; --force writes over it.")
    seconds_of(args.time)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = find_data(args.data, args.val, images=args.images, val_images=args.val_images)
    register_extra(found.entries)
    facts = facts_of(found.train, found.val)
    text = write_config(
        found,
        facts,
        start=choose_weights(args.weights, device),
        time=args.time,
        device=device,
        output=args.output_dir or f"output/{args.output.stem}",
    )
    with written_whole(args.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print("\n".join(line[2:] for line in text.splitlines() if line.startswith("#")))
    print(f"\ndeepfuse check-data --config-file {args.output}    # looks at every file")
    print(f"deepfuse train --config-file {args.output}")
