"""Serve a page to look at trained models: drop a photo, choose models, slide the threshold.

    deepfuse demo
    deepfuse demo --model config.yaml model_final.pth --port 8000

Offers the models below output/ (config.yaml beside model_final.pth) and those given. Needs the
extra "demo". Stop it with Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError, UserError

if TYPE_CHECKING:
    from ..demo import TrainedModel

__all__ = ["add_arguments", "run"]

_FRAMES = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="output", metavar="DIR", help="trained models lie below it"
    )
    parser.add_argument(
        "--model", nargs=2, action="append", default=[], metavar=("CONFIG", "WEIGHTS"),
        help="one more model; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--dataset", default="minicity_fine_instance_seg_val", metavar="NAME",
        help="registered data set whose frames can be picked (made on first use, if MiniCity); "
        'none with ""',
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on; any other than the default lets others in",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")


def run(args: argparse.Namespace) -> None:
    from ..demo import DemoModel, find_models
    from ..demo.page import Gallery, serve

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    models = [given(*pair) for pair in args.model] + find_models(args.output)
    if not models:
        raise UserError(
            f"no trained model below {args.output} (config.yaml beside model_final.pth); train one "
            "with make quickstart, or give one with --model CONFIG WEIGHTS."
        )
    gallery = Gallery(
        models,
        frames_of(args.dataset) if args.dataset else [],
        lambda model: DemoModel.load(model, args.opts or []),
    )
    server = serve(gallery, args.host, args.port)
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"{len(models)} models at http://{host}:{server.port}/ (stop with Ctrl-C)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


def given(config: str, weights: str) -> TrainedModel:
    for path in (config, weights):
        if not Path(path).is_file():
            raise UserError(f"--model: {path} does not exist; give a config and a weights file.")
    from ..demo import TrainedModel

    folder = Path(weights).resolve().parent.name
    return TrainedModel(f"{folder}/{Path(weights).name}", Path(config), Path(weights))


def frames_of(dataset: str) -> list[Path]:
    """Up to 24 pictures, spread evenly over a data set; none, and a warning, if it is not there."""
    from detectron2.data import DatasetCatalog

    if dataset not in DatasetCatalog:
        raise UserError(f'--dataset "{dataset}" is not registered; datasets/README.md lists them.')
    try:
        records = DatasetCatalog.get(dataset)
    except DatasetError as error:
        print(f"No frames to pick: {error}", file=sys.stderr)
        return []
    step = max(len(records) / _FRAMES, 1)
    count = min(len(records), _FRAMES)
    return [Path(records[int(k * step)]["file_name"]) for k in range(count)]
