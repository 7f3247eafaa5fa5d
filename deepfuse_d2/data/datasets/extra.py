"""A user's own data from a yaml: the entries of DATASETS.EXTRA.

DATASETS:
  EXTRA:
    - {NAME: my_train, FORMAT: coco, JSON: data/train.json, IMAGES: data/images}
    - {NAME: my_val, FORMAT: cityscapes_instances, ROOT: data/town, SPLIT: val}
  TRAIN: [my_train]
  TEST: [my_val]
"""

import difflib
import os
import re
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import ConfigError
from .formats import FORMATS
from .formats.base import ENTRY_MARK

__all__ = ["FORMATS", "register_extra"]

_NAME = re.compile(r"[\w.-]+")


def register_extra(entries: Sequence[dict[str, Any]]) -> None:
    """Register the entries of DATASETS.EXTRA. Read no file.

    An entry that is registered already stays; one with a new content takes the place of the older
    entry of its name, but never that of a data set that was registered otherwise.

    Raises:
        ConfigError: an entry is no mapping, has a wrong, missing or unknown key, or a name that is
            taken. Nothing is registered then.
    """
    if not isinstance(entries, (list, tuple)):
        raise ConfigError(
            f"DATASETS.EXTRA is {type(entries).__name__}; expected a list of mappings such as "
            "[{NAME: my_train, FORMAT: coco, JSON: train.json, IMAGES: images}]."
        )
    checked = [_checked(number, entry) for number, entry in enumerate(entries)]
    names = [entry["NAME"] for entry in checked]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"DATASETS.EXTRA[{number}].NAME = {name!r} is used twice.")
    for number, (name, entry) in enumerate(zip(names, checked, strict=True)):
        known = [*DatasetCatalog.list(), *names[:number]]
        if "OF" in entry and entry["OF"] not in known:
            near = difflib.get_close_matches(entry["OF"], known, n=5, cutoff=0.4)
            raise ConfigError(
                f"DATASETS.EXTRA[{number}] ({name}): OF = {entry['OF']!r} is not registered; name "
                "a data set of datasets/README.md or an entry above this one."
                + (f" Did you mean: {', '.join(near)}?" if near else "")
            )
        if name in DatasetCatalog and not _mark(name):
            raise ConfigError(
                f"DATASETS.EXTRA[{number}].NAME = {name!r} is the name of a data set that is "
                "registered already; choose another."
            )
        # a subset takes over the metadata of its source, which may have another content now
        if _mark(name) != entry or entry["FORMAT"] == "subset":
            FORMATS[entry["FORMAT"]].register(entry)
            MetadataCatalog.get(name).set(**{ENTRY_MARK: entry})


def _checked(number: int, entry: Any) -> dict[str, Any]:
    """Return an entry with absolute paths."""
    where = f"DATASETS.EXTRA[{number}]"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {entry!r}; expected a mapping with NAME and FORMAT.")
    where += f" ({entry['NAME']})" if isinstance(entry.get("NAME"), str) else ""
    if entry.get("FORMAT") not in FORMATS:
        given = f"FORMAT = {entry['FORMAT']!r} is unknown" if "FORMAT" in entry else "no FORMAT"
        raise ConfigError(f"{where}: {given}; choose one of {list(FORMATS)}.")
    form = FORMATS[entry["FORMAT"]]
    required = {"NAME": str, "FORMAT": str, **form.required}
    allowed = required | form.optional
    what = f"FORMAT {entry['FORMAT']} takes {', '.join(required)}"
    if form.optional:
        what += f" and, if wanted, {', '.join(form.optional)}"
    for key in entry:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{where}: key {key!r} is unknown; {what}.{hint}")
    missing = [key for key in required if key not in entry]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing; {what}.")
    for key, value in entry.items():
        kind = allowed[key]
        # a bool is an int to python, not to a reader of the yaml
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or value == "":
            raise ConfigError(
                f"{where}: {key} = {value!r} is {type(value).__name__}; expected a "
                f"{kind.__name__}{' that is not empty' if value == '' else ''}."
            )
    if not _NAME.fullmatch(entry["NAME"]):
        raise ConfigError(f"{where}: NAME holds more than letters, digits, '_', '-' and '.'.")
    form.check(where, entry)
    given = [key for key in form.paths if key in entry]
    paths = {key: os.path.abspath(os.path.expanduser(entry[key])) for key in given}
    return {**entry, **paths}


def _mark(name: str) -> dict[str, Any] | None:
    return MetadataCatalog.get(name).get(ENTRY_MARK) if name in MetadataCatalog else None
