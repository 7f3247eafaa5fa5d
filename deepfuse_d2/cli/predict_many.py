"""Predict any number of images into Parquet files, each exactly once, whatever ends a run between.

    deepfuse predict-many --model FOLDER --input photos/ --output results/
    deepfuse predict-many --model FOLDER --input 'day/**/*.jpg' more.txt crops.parquet \\
        --output results/ --coco results.json
    deepfuse predict-many --model FOLDER --input photos/ --output results/ --engine ray --workers 32

The same command goes on with a run that was stopped or killed. docs/scaling.md says what the files
hold. Needs the extra "many", or "ray" for --engine ray.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from ..errors import ConfigError
from .arguments import add_model, check_model

__all__ = ["add_arguments", "check", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="PATH",
        help="images, folders, patterns in quotes, text files of paths, Parquet files of paths or "
        "of image files",
    )  # fmt: skip
    parser.add_argument("--column", default="", help="of Parquet files (default: by usual names)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--coco", type=Path, metavar="JSON", help="also one file for COCO's API")
    parser.add_argument("--engine", default="local", choices=("local", "ray"))
    parser.add_argument(
        "--workers", type=int, help="processes (default: as cores, GPUs and memory allow)"
    )
    parser.add_argument("--threads", type=int, help="of each process (default: cores / processes)")
    parser.add_argument("--batch", type=int, default=4, help="images of one shape at once")
    parser.add_argument("--threshold", type=float, help="lowest score (default: the config's)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or auto")
    parser.add_argument(
        "--tile", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="cut up larger images"
    )
    parser.add_argument("--augment", action="store_true", help="average scales and mirrored images")
    parser.add_argument(
        "--part-size", type=int, help="images a file of results (default: 16 to 1000, by number)"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    check_model(args, parser)
    for name in ("workers", "threads", "batch", "part_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: give 1 or more")


def run(args: argparse.Namespace) -> int:
    try:
        from ..batch import Settings, predict_many
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ConfigError('predict-many needs pyarrow: pip install "deepfuse-d2[many]".') from error

    # as Ctrl-C: processes are ended, and what is written stays
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        done = predict_many(
            args.model or args.config_file,
            args.weights,
            args.input,
            args.output,
            settings=Settings(
                score_threshold=args.threshold,
                dtype=args.dtype,
                tile=tuple(args.tile) if args.tile else None,
                augment=args.augment,
                column=args.column,
            ),
            opts=args.opts or [],
            engine=args.engine,
            workers=args.workers,
            threads=args.threads,
            batch_size=args.batch,
            part_size=args.part_size,
            coco=args.coco,
        )
    except KeyboardInterrupt:
        print(f"Stopped; the same command goes on in {args.output}.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    errors = f", {done.errors} of them errors (column error)" if done.errors else ""
    print(
        f"{done.images} images in {args.output}: {done.predicted} of this run{errors}, "
        f"{done.images - done.predicted} there before"
    )
    return 0
