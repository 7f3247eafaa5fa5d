"""Write a data set of any format as one JSON file of COCO's instance annotations.

    deepfuse convert-data pennfudan_train --output pennfudan.json
    deepfuse convert-data --config-file my.yaml my_train --output train.json
    deepfuse convert-data --format yolo DATA=coco8-seg SPLIT=train --output train.json

The data set is a registered name, an entry of DATASETS.EXTRA in a config, or a format with its keys
(datasets/README.md lists them). File names start from --images, by default the folder that all
images share. What is left out is counted by reason.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .arguments import add_config_file

__all__ = ["add_arguments", "run"]

_NAME = "converted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="+", metavar="DATASET | KEY=VALUE", help="a name, or the keys of --format"
    )
    parser.add_argument("--format", metavar="FORMAT", help="one of those of DATASETS.EXTRA")
    add_config_file(parser, required=False, default="", help="for DATASETS.EXTRA")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="that file names start from")


def run(args: argparse.Namespace) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from ..config.loading import load_config
    from ..data.coco_file import write_coco
    from ..data.records.tally import tally_of

    load_config(args.config_file, ["MODEL.DEVICE", "cpu"])
    name = _register(args.format, args.what) if args.format else _named(args.what)
    records = DatasetCatalog.get(name)
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise ConfigError(f'The data set "{name}" has no classes of instances to write.')
    images = args.images or os.path.commonpath([os.path.dirname(r["file_name"]) for r in records])
    content = write_coco(args.output, records, classes, images)
    for line in tally_of(name).lines():
        print(f"  {line}")
    print(
        f"{args.output}: {len(content['images'])} images of {images}, "
        f"{len(content['annotations'])} instances of {', '.join(classes)}"
    )


def _named(what: list[str]) -> str:
    from ..config.checking import check_names_of_data_sets

    if len(what) > 1:
        raise ConfigError(f"One data set goes into a file; {len(what)} were given: {what}.")
    check_names_of_data_sets("DATASET", what)
    return what[0]


def _register(form: str, what: list[str]) -> str:
    """Register an entry of DATASETS.EXTRA that is given as KEY=VALUE."""
    import yaml

    from ..data import register_extra

    entry: dict[str, Any] = {"NAME": _NAME, "FORMAT": form}
    for pair in what:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(
                f"--format {form} takes KEY=VALUE, such as ROOT=folder; got {pair!r}."
            )
        entry[key] = yaml.safe_load(value) if value[:1] in "[{" else value
    register_extra([entry])
    return _NAME
