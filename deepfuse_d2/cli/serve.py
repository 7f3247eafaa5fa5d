"""Serve models by HTTP: post an image, get JSON (COCO's run lengths, polygons, boxes) or a PNG.

    deepfuse serve --model FOLDER
    deepfuse serve --model street=FOLDER --model fields=hf://owner/name --port 8000
    curl --data-binary @street.png 'http://127.0.0.1:8000/predict?output=polygons&threshold=0.5'

/docs describes what may be asked, /health and /metrics tell how it is. docs/serving.md has limits,
a client and what was measured. Needs the extra "serve". Ctrl-C or SIGTERM ends it when all that it
took is answered.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import ConfigError
from .arguments import add_config_and_weights, add_engine, check_model

__all__ = ["add_arguments", "check", "run"]

_COUNTS = ("workers", "threads", "batch", "max_bytes", "max_pixels", "queue", "connections")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]FOLDER",
        help="that deepfuse pack wrote, or hf://owner/name; may be repeated; the first is also "
        "at /predict",
    )  # fmt: skip
    add_config_and_weights(parser)
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on; any other than the default lets others in",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument(
        "--workers", type=int, help="processes (default: as cores, GPUs and memory allow)"
    )
    parser.add_argument("--threads", type=int, help="of each process (default: cores / processes)")
    parser.add_argument(
        "--batch", type=int, default=8,
        help="images that a process takes at once, if as many wait (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype",
        default="float32",
        help="float32, bfloat16, float16, auto; int8 of --engine openvino",
    )
    add_engine(parser)
    parser.add_argument(
        "--max-bytes", type=int, default=20 * 2**20, help="of an image (default: %(default)s)"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=64 * 10**6, help="of an image (default: %(default)s)"
    )
    parser.add_argument(
        "--queue", type=int, default=64,
        help="images that may wait; more are answered with 429 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--connections", type=int, default=256, help="at once (default: %(default)s)"
    )
    parser.add_argument(
        "--read-timeout", type=float, default=15, metavar="SECONDS",
        help="in which a client has to send an image (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS",
        help="from there to the answer (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    check_model(args, parser)
    for name in (*_COUNTS, "read_timeout", "timeout"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} {value}: give more than 0")


def run(args: argparse.Namespace) -> None:
    try:
        from ..serving import Limits, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
            raise
        raise ConfigError(f'serve needs {error.name}: pip install "deepfuse-d2[serve]".') from error

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    serve(
        _by_name(args.model) if args.model else {"model": args.config_file},
        weights=args.weights,
        opts=args.opts or [],
        host=args.host,
        port=args.port,
        workers=args.workers,
        threads=args.threads,
        batch=args.batch,
        dtype=args.dtype,
        engine=args.engine,
        limits=Limits(
            bytes=args.max_bytes,
            pixels=args.max_pixels,
            queue=args.queue,
            connections=args.connections,
            read=args.read_timeout,
            answer=args.timeout,
        ),
        tell=lambda text: print(text, flush=True),
    )
    print("Stopped; all that was taken is answered.")


def _by_name(given: list[str]) -> dict[str, str]:
    """[NAME=]FOLDER as a mapping; without a name, it is the last part of the folder's."""
    models: dict[str, str] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals:
            name, folder = Path(one.partition("@")[0]).name, one
        if not name or not all(x.isalnum() or x in "-_." for x in name):
            raise ConfigError(f"--model {one}: give a name of letters, digits, -, _ and .")
        if name in models:
            raise ConfigError(f"--model {one}: {name} is taken; give another name, NAME={folder}.")
        models[name] = folder
    return models
