#!/usr/bin/env python3
"""Convert public weights to detectron2's and our names; say what they expect of a config.

python tools/convert_weights.py resnet50-0676ba61.pth weights/r50.safetensors
python tools/convert_weights.py res2net50_v1b.pth weights/r2_50.pth --config-file configs/...
python tools/convert_weights.py fishnet150_ckpt.tar --report-only

Reads torchvision's and timm's ResNet, ResNeXt and DLA, Res2Net, FishNet, light-weight RefineNet,
detectron2's .pkl and .pth, and safetensors, recognised by their names. Nothing in a file is
executed. OUT is .pth or .safetensors; beside it lies a yaml for the _BASE_ of a config, with the
mean, deviation, channel order and stride placement that the weights expect. With --config-file, the
weights are held against the model of that config, as training would.
"""

import argparse
import sys
from pathlib import Path

from deepfuse_d2.checkpoint.expectations import to_yaml
from deepfuse_d2.checkpoint.loading import fit
from deepfuse_d2.checkpoint.reading import Weights, read_weights
from deepfuse_d2.checkpoint.report import describe, describe_weights
from deepfuse_d2.checkpoint.writing import check_suffix, write_weights
from deepfuse_d2.errors import UserError
from deepfuse_d2.files import written_whole


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="IN", type=Path)
    parser.add_argument("output", metavar="OUT", type=Path, nargs="?")
    parser.add_argument(
        "--config-file", metavar="FILE", help="refuse weights that do not fit this config's model"
    )
    parser.add_argument("--report-only", action="store_true", help="write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT and its yaml")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..."
    )
    args = parser.parse_args(argv)
    if (args.output is None) != args.report_only:
        parser.error("give OUT, or --report-only and no OUT")
    try:
        convert(args)
    except UserError as error:
        print(f"convert_weights.py: {error}", file=sys.stderr)
        return 2
    return 0


def convert(args: argparse.Namespace) -> None:
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
    from deepfuse_d2.engine import Trainer, check_config, load_config

    cfg = load_config(args.config_file or "", [*args.opts, "MODEL.WEIGHTS", ""])
    check_config(cfg)
    model = Trainer.build_model(cfg)
    found = fit(weights, str(args.input), model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH)
    print(f"In the model of {args.config_file or 'these keys'}:\n{describe(found)}")


if __name__ == "__main__":
    sys.exit(main())
