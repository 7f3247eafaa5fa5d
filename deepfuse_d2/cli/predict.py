"""Draw what a model finds in images, folders, video files and cameras; write it down as JSON.

    deepfuse predict --model FOLDER --input a.jpg folder/ street.mp4 --output results/
    deepfuse predict --config-file FILE --weights model_final.pth --camera 0 \\
        --output results/ --save video coco
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ImageError
from .arguments import add_engine, add_model, check_model

__all__ = ["add_arguments", "check", "run"]

SAVED = ("pictures", "video", "coco", "cityscapes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--input", type=Path, nargs="+", default=[], metavar="PATH",
        help="images, video files and folders",
    )  # fmt: skip
    parser.add_argument(
        "--camera", nargs="+", default=[], metavar="N", help="0 is the first; or a stream's address"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--save", nargs="+", choices=SAVED,
        help="pictures of all frames, videos also of folders, COCO's results, Cityscapes' layout; "
        "by default a picture of an image and a video of a video",
    )  # fmt: skip
    parser.add_argument(
        "--show", nargs="+", choices=("instances", "semantics"),
        default=["instances", "semantics"], help="what of a model that gives both is drawn",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score drawn and written"
    )
    parser.add_argument("--fps", type=float, help="of written videos; default: the input's, or 25")
    parser.add_argument("--max-frames", type=int, help="stop after so many, of each input")
    add_engine(parser)
    parser.add_argument(
        "--dtype", default="float32",
        help="float32, bfloat16, float16, auto; int8 of --engine openvino (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    check_model(args, parser)
    if not args.input and not args.camera:
        parser.error("nothing to look at: give --input or --camera")
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold {args.threshold:g}: give 0 to 1")
    for name in ("fps", "max_frames"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} {value:g}: give more than 0")


def run(args: argparse.Namespace) -> None:
    from ..config.recipes import find_config
    from ..demo import DemoModel, TrainedModel
    from ..demo.drawn_files import predict_files
    from ..demo.sources import find_sources
    from ..kernels.allocator import keep_freed_memory

    keep_freed_memory()
    sources = find_sources(args.input, args.camera)
    how = {"engine": args.engine, "dtype": args.dtype}
    if args.model:
        model = DemoModel(args.model, opts=args.opts or [], **how)
    else:
        trained = TrainedModel("model", Path(find_config(args.config_file)), Path(args.weights))
        model = DemoModel.load(trained, args.opts or [], **how)
    made = predict_files(
        model,
        sources,
        args.output,
        save=args.save,
        show=args.show,
        threshold=args.threshold,
        fps=args.fps,
        max_frames=args.max_frames,
    )
    print(f"Wrote {made}")
    problems = [problem for source in sources for problem in source.problems]
    if problems:
        raise ImageError("not readable, skipped: " + " ".join(problems))
