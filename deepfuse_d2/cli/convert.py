"""Convert public weights to detectron2's and our names; say what they expect of a config.

    deepfuse convert resnet50-0676ba61.pth weights/r50.safetensors
    deepfuse convert res2net50_v1b.pth weights/r2_50.pth --config-file configs/...
    deepfuse convert fishnet150_ckpt.tar --report-only

Reads torchvision's and timm's ResNet, ResNeXt and DLA, Res2Net, FishNet, SpineNet (TensorFlow's
model.ckpt.index too), light-weight RefineNet, detectron2's .pkl and .pth, and safetensors,
recognised by their names. Nothing in a file is
executed. OUT is .pth or .safetensors; beside it lies a yaml for the _BASE_ of a config, with the
mean, deviation, channel order and stride placement that the weights expect. With --config-file, the
weights are held against the model of that config, as training would.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import written_whole
from .arguments import add_config_file

if TYPE_CHECKING:
    from ..checkpoint.reading import Weights

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", type=Path)
    parser.add_argument("output", metavar="OUT", type=Path, nargs="?")
    add_config_file(
        parser, required=False, help="refuse weights that do not fit this config's model"
    )
    parser.add_argument("--report-only", action="store_true", help="write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT and its yaml")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..."
    )


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if (args.output is None) != args.report_only:
        parser.error("give OUT, or --report-only and no OUT")


def run(args: argparse.Namespace) -> None:
    from ..checkpoint.expectations import to_yaml
    from ..checkpoint.reading import read_weights
    from ..checkpoint.report import describe_weights
    from ..checkpoint.writing import check_suffix, write_weights

    if args.output is not None:
        fragment = args.output.with_suffix(".yaml")
        check_suffix(args.output)
        taken = [path for path in (args.output, fragment) if path.exists()]
        if taken and not args.overwrite:
            raise UserError(
                f"{' and '.join(map(str, taken))} exists; choose another name, or replace it with "
                "--overwrite."
            )
    weights = read_weights(args.input)
    print(describe_weights(weights, str(args.input)))
    if args.config_file or args.opts:
        check_against(args, weights)
    if args.output is None:
        return
    write_weights(args.output, weights.state, weights.origin, weights.expects)
    with written_whole(fragment) as temporary:
        temporary.write_text(
            to_yaml(weights.expects, str(args.output), weights.origin or "names of no known source")
        )
    print(f"Wrote {args.output}, read again and equal, and {fragment}")


def check_against(args: argparse.Namespace, weights: Weights) -> None:
    """Print which tensors the model of the config takes; raise as loading would."""
    from detectron2.modeling import build_model

    from ..checkpoint.loading import choose, fit
    from ..checkpoint.report import describe
    from ..config.checking import check_config
    from ..config.loading import load_config

    cfg = load_config(args.config_file or "", [*args.opts, "MODEL.WEIGHTS", ""])
    check_config(cfg)
    model = build_model(cfg)
    weights = choose(weights, model)
    found = fit(weights, str(args.input), model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH)
    print(f"In the model of {args.config_file or 'these keys'}:\n{describe(found)}")
