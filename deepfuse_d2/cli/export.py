"""Write a trained model for other runtimes, and verify what was written.

    deepfuse export --config-file FILE --weights model_final.pth --output folder
    deepfuse export ... --formats onnx --part rpn --image street.png KEY VALUE ...

The folder gets model.ts (TorchScript), model.pt2 (torch.export) and model.onnx, sample.npz (an
image as the network takes it, and what the model gives), config.yaml, and a README.md of inputs,
outputs and measured differences. ONNX needs the extra "export" of the package.

Every file is loaded again and compared with the model, on the sample and on images of other sizes.
Exit code: 0; 1 if a file gives something else than the model; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_config_file, add_overrides

__all__ = ["FORMATS", "PARTS", "add_arguments", "run"]

# Those of inference/export, whose import loads torch.
FORMATS = ("torchscript", "torch_export", "onnx")
PARTS = ("semantic", "features", "rpn", "detector", "panoptic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--weights", metavar="FILE", help="(default: MODEL.WEIGHTS of the config)")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--part", default="", choices=PARTS, help="(default: all there is)")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, metavar="FORMAT",
        help="of torchscript, torch_export, onnx (default: all that can hold the part)",
    )  # fmt: skip
    parser.add_argument("--image", metavar="FILE", help="for the sample (default: a drawn street)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    from ..config.loading import load_config
    from ..inference.export.folder import export_folder

    weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
    cfg = load_config(args.config_file, [*args.opts, *weights, "MODEL.DEVICE", "cpu"])
    verdicts, agree = export_folder(cfg, args.output, args.part, args.formats or (), args.image)
    for file, verdict in verdicts.items():
        print(f"{file}: {verdict}")
    print(args.output / "README.md")
    return 0 if agree else 1
