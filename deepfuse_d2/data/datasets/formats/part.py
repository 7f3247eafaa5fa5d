"""FORMAT part: train or val of a registered data set that has no split, by a ratio and a seed.

Images of one group, by what GROUP_BY finds in their path, stay together: frames of one video, or
tiles of one slide, are no test of each other. The split does not depend on the order of images.
"""

import functools
import hashlib
import re
from collections import defaultdict
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ....errors import ConfigError, DatasetError
from ..catalog import register_dataset
from .base import Format
from .subset import metadata_of_part

__all__ = ["PART"]

_RATIO, _SEED = 0.2, 0


def _check(where: str, entry: dict[str, Any]) -> None:
    if entry["PART"] not in ("train", "val") or entry["OF"] == entry["NAME"]:
        raise ConfigError(
            f"{where}: PART = {entry['PART']!r}, OF = {entry['OF']!r}; expected train or val of a "
            "data set of another name."
        )
    if not 0 < entry.get("RATIO", _RATIO) < 1:
        raise ConfigError(f"{where}: RATIO = {entry['RATIO']} of val must be between 0 and 1.")
    try:
        re.compile(entry.get("GROUP_BY", ""))
    except re.error as error:
        raise ConfigError(
            f"{where}: GROUP_BY = {entry['GROUP_BY']!r} is no regular expression ({error})."
        ) from error


def _register(entry: dict[str, Any]) -> None:
    load = functools.partial(_load, entry)
    register_dataset(entry["NAME"], load, metadata_of_part(entry["OF"]), replace=True)


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    name, source = entry["NAME"], entry["OF"]
    records = DatasetCatalog.get(source)
    # some loaders name the classes only now
    MetadataCatalog.get(name).set(**metadata_of_part(source))
    groups: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        groups[_group(record["file_name"], entry.get("GROUP_BY"))].append(number)
    if len(groups) < 2:
        raise DatasetError(
            f'Data set "{name}": all {len(records)} images of "{source}" are one group by GROUP_BY '
            f"{entry.get('GROUP_BY')!r}, so there is nothing to split."
        )
    seed = entry.get("SEED", _SEED)
    drawn = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    wanted, val = entry.get("RATIO", _RATIO) * len(records), set()
    for group in drawn[:-1]:  # one at least is left to train on
        if val and len(val) + len(groups[group]) / 2 > wanted:
            break
        val.update(groups[group])
    return [record for i, record in enumerate(records) if (i in val) == (entry["PART"] == "val")]


def _group(path: str, pattern: str | None) -> str:
    """What `pattern` finds, its first group where it has one; without a pattern the file's name."""
    found = re.search(pattern, path) if pattern else None
    if found is None:
        return path.replace("\\", "/").rsplit("/", 1)[-1]
    return found[1] if found.re.groups else found[0]


PART = Format(
    {"OF": str, "PART": str},
    {"RATIO": float, "SEED": int, "GROUP_BY": str},
    (),
    _register,
    _check,
)
