"""FORMAT subset: COUNT images of a registered data set, spread evenly over it, such as a part of
the train split to evaluate on."""

import functools
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ....errors import ConfigError, DatasetError
from ..catalog import register_dataset
from .base import ENTRY_MARK, Format

__all__ = ["SUBSET", "metadata_of_part"]


def _check(where: str, entry: dict[str, Any]) -> None:
    if entry["COUNT"] < 1 or entry["OF"] == entry["NAME"]:
        raise ConfigError(
            f"{where}: COUNT = {entry['COUNT']}, OF = {entry['OF']!r}; expected 1 or more images "
            "of a data set of another name."
        )


def _register(entry: dict[str, Any]) -> None:
    load = functools.partial(_load, entry)
    register_dataset(entry["NAME"], load, metadata_of_part(entry["OF"]), replace=True)


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    name, source, count = entry["NAME"], entry["OF"], entry["COUNT"]
    records = DatasetCatalog.get(source)
    if len(records) < count:
        raise DatasetError(
            f'Data set "{name}" is COUNT = {count} images of "{source}", which has '
            f"{len(records)}; ask for fewer."
        )
    # some loaders name the classes only now
    MetadataCatalog.get(name).set(**metadata_of_part(source))
    return [records[index * len(records) // count] for index in range(count)]


def metadata_of_part(source: str) -> dict[str, Any]:
    """Metadata of the source, but not its COCO file: an evaluator would miss what is left out."""
    metadata = MetadataCatalog.get(source).as_dict()
    return {key: metadata[key] for key in metadata if key not in ("name", "json_file", ENTRY_MARK)}


SUBSET = Format({"OF": str, "COUNT": int}, {}, (), _register, _check)
