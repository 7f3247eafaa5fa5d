"""A user's own data from a yaml: the entries of DATASETS.EXTRA.

DATASETS:
  EXTRA:
    - {NAME: my_train, FORMAT: coco, JSON: data/train.json, IMAGES: data/images}
    - {NAME: my_val, FORMAT: cityscapes_instances, ROOT: data/town, SPLIT: val}
  TRAIN: [my_train]
  TEST: [my_val]
"""

import difflib
import functools
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import ConfigError, DatasetError
from .catalog import register_dataset
from .cityscapes import register_cityscapes_layout
from .coco import load_coco
from .semantic import load_pairs, pair_by_stem

__all__ = ["FORMATS", "register_extra"]

# Metadata of a data set that came from DATASETS.EXTRA: its entry, to recognise it again.
_MARK = "deepfuse_extra_entry"
_NAME = re.compile(r"[\w.-]+")


class Format(NamedTuple):
    """Keys of one FORMAT beside NAME and FORMAT, each with the type of its value."""

    required: dict[str, type]
    optional: dict[str, type]
    #: Those of the keys that are paths, relative to the working directory.
    paths: tuple[str, ...]


FORMATS = {
    # A JSON file of COCO's instance annotations, and the folder its file names start from.
    "coco": Format({"JSON": str, "IMAGES": str}, {}, ("JSON", "IMAGES")),
    # leftImg8bit/SPLIT and gtFine/SPLIT below ROOT, with the classes of Cityscapes. HAS_LABELS
    # False: images only, to write a submission for; by default so for SPLIT "test".
    "cityscapes_instances": Format({"ROOT": str, "SPLIT": str}, {"HAS_LABELS": bool}, ("ROOT",)),
    "cityscapes_semantic": Format({"ROOT": str, "SPLIT": str}, {"HAS_LABELS": bool}, ("ROOT",)),
    # A folder of images, a folder of label PNGs of the same stems, and the names of ids 0, 1, ...
    "label_images": Format(
        {"IMAGES": str, "LABELS": str, "CLASSES": list},
        {"IGNORE_LABEL": int, "LABEL_SUFFIX": str},
        ("IMAGES", "LABELS"),
    ),
    # COUNT images of a registered data set, spread evenly over it, such as a part of the train
    # split to evaluate on.
    "subset": Format({"OF": str, "COUNT": int}, {}, ()),
}


def register_extra(entries: Sequence[dict[str, Any]]) -> None:
    """Registers the entries of DATASETS.EXTRA. Reads no file.

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
            _register(entry)


def _checked(number: int, entry: Any) -> dict[str, Any]:
    """Returns an entry with absolute paths."""
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
    if "CLASSES" in entry:
        _check_classes(where, entry)
    if entry["FORMAT"] == "subset" and (entry["COUNT"] < 1 or entry["OF"] == entry["NAME"]):
        raise ConfigError(
            f"{where}: COUNT = {entry['COUNT']}, OF = {entry['OF']!r}; expected 1 or more images "
            "of a data set of another name."
        )
    paths = {key: os.path.abspath(os.path.expanduser(entry[key])) for key in form.paths}
    return {**entry, **paths}


def _check_classes(where: str, entry: dict[str, Any]) -> None:
    classes, ignore = entry["CLASSES"], entry.get("IGNORE_LABEL", 255)
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{where}: CLASSES = {classes!r}; expected the names of ids 0, 1, ...")
    if len(set(classes)) < len(classes) or len(classes) > 255:
        raise ConfigError(f"{where}: CLASSES holds a name twice, or more than 255 names.")
    if not len(classes) <= ignore <= 255:
        raise ConfigError(
            f"{where}: IGNORE_LABEL = {ignore} is outside {len(classes)}..255, the ids that are "
            "no class."
        )


def _mark(name: str) -> dict[str, Any] | None:
    return MetadataCatalog.get(name).get(_MARK) if name in MetadataCatalog else None


def _register(entry: dict[str, Any]) -> None:
    name = entry["NAME"]
    if entry["FORMAT"] == "coco":
        load = functools.partial(load_coco, entry["JSON"], entry["IMAGES"], name)
        metadata = {
            "evaluator_type": "coco",
            "json_file": entry["JSON"],
            "image_root": entry["IMAGES"],
            "has_labels": True,
        }
        register_dataset(name, load, metadata, replace=True)
    elif entry["FORMAT"] == "label_images":
        metadata = {
            "evaluator_type": "sem_seg",
            "stuff_classes": entry["CLASSES"],
            "ignore_label": entry.get("IGNORE_LABEL", 255),
            "has_labels": True,
        }
        register_dataset(name, functools.partial(_load_label_images, entry), metadata, replace=True)
    elif entry["FORMAT"] == "subset":
        load = functools.partial(_load_subset, entry)
        register_dataset(name, load, _metadata_for_subset(entry["OF"]), replace=True)
    else:
        register_cityscapes_layout(
            name,
            entry["ROOT"],
            entry["SPLIT"],
            {"cityscapes_instances": "instance_seg", "cityscapes_semantic": "sem_seg"}[
                entry["FORMAT"]
            ],
            with_labels=entry.get("HAS_LABELS"),
            replace=True,
        )
    MetadataCatalog.get(name).set(**{_MARK: entry})


def _load_label_images(entry: dict[str, Any]) -> list[dict[str, Any]]:
    suffix = entry.get("LABEL_SUFFIX", ".png")
    return load_pairs(
        pair_by_stem(entry["IMAGES"], entry["LABELS"], suffix),
        root=entry["LABELS"],
        name=entry["NAME"],
        num_classes=len(entry["CLASSES"]),
        ignore_label=entry.get("IGNORE_LABEL", 255),
    )


def _load_subset(entry: dict[str, Any]) -> list[dict[str, Any]]:
    name, source, count = entry["NAME"], entry["OF"], entry["COUNT"]
    records = DatasetCatalog.get(source)
    if len(records) < count:
        raise DatasetError(
            f'Data set "{name}" is COUNT = {count} images of "{source}", which has '
            f"{len(records)}; ask for fewer."
        )
    # some loaders name the classes only now
    MetadataCatalog.get(name).set(**_metadata_for_subset(source))
    return [records[index * len(records) // count] for index in range(count)]


def _metadata_for_subset(source: str) -> dict[str, Any]:
    """Metadata of the source, but not its COCO file: an evaluator would miss what is left out."""
    metadata = MetadataCatalog.get(source).as_dict()
    return {key: metadata[key] for key in metadata if key not in ("name", "json_file", _MARK)}
