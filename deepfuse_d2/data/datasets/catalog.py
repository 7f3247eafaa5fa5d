"""Entering data sets into detectron2's catalogs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["datasets_root", "register_dataset"]


def datasets_root() -> Path:
    """Return the folder of all data sets: `$DETECTRON2_DATASETS`, by default `datasets`."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS") or "datasets"))


def register_dataset(
    name: str, load: Callable[[], list[dict]], metadata: dict[str, Any], *, replace: bool = False
) -> None:
    """Register a data set under `name`, with its metadata.

    Args:
        load: returns the list of dicts; called when the data set is used, not before.
        replace: whether a data set of that name, and all of its metadata, gives way.
    """
    if name in DatasetCatalog:
        if not replace:
            raise ValueError(
                f"Data set {name!r} is already registered; choose another name, or pass "
                "replace=True to take this one over."
            )
        DatasetCatalog.remove(name)
    if replace and name in MetadataCatalog:
        # an attribute of metadata that is set once cannot get another value
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)
