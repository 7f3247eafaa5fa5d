"""Classes of several data sets meet by their names, whatever ids their files give them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..errors import DatasetError

__all__ = ["class_names", "meet_by_name"]

logger = logging.getLogger(__name__)

_KEYS = ("thing_classes", "thing_dataset_id_to_contiguous_id", "thing_colors")


def class_names(name: str) -> list[str]:
    """Names of the instance classes of a registered data set, which is loaded if need be."""
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_classes"):
        DatasetCatalog.get(name)  # some loaders name the classes only now
    return list(metadata.get("thing_classes") or ())


def meet_by_name(name: str, wanted: Sequence[str], source: str) -> bool:
    """Let a registered data set number its instance classes as `wanted`; returns if it does now.

    Args:
        wanted: names, in the order in which a model learned or learns them.
        source: where that order comes from, in messages.

    Raises:
        DatasetError: the data set has other names.
    """
    names = class_names(name)
    if not names or names == list(wanted):
        return False
    missing = [x for x in wanted if x not in names]
    others = [x for x in names if x not in wanted]
    if missing or others:
        parts = [f"lacks {missing}"] * bool(missing) + [f"has also {others}"] * bool(others)
        raise DatasetError(
            f'The classes of the data set "{name}", {names}, are not those of {source}, '
            f"{list(wanted)}: it {' and '.join(parts)}. Name them alike; or, in DATASETS.EXTRA, "
            f"name those to take: CLASSES: {list(wanted)}."
        )
    logger.info('"%s" has the classes of %s in another order; they meet by name.', name, source)
    load = DatasetCatalog[name]
    metadata = MetadataCatalog.get(name)
    if isinstance(load, _InOrder):
        load.restore()
        load = load.load
    own = {key: metadata.get(key) for key in _KEYS if metadata.get(key)}
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, _InOrder(load, name, own, list(wanted)))
    DatasetCatalog.get(name)
    return True


class _InOrder:
    """Records of a loader, with classes numbered in an order of their names.

    Args:
        load: of the data set `name`.
        own: what its metadata say of classes without this.
        wanted: the order.
    """

    def __init__(
        self,
        load: Callable[[], list[dict[str, Any]]],
        name: str,
        own: dict[str, Any],
        wanted: list[str],
    ):
        self.load, self.name, self.own, self.wanted = load, name, own, wanted

    def __call__(self) -> list[dict[str, Any]]:
        self.restore()
        records = self.load()
        metadata = MetadataCatalog.get(self.name)
        names = list(metadata.get("thing_classes"))
        if sorted(names) != sorted(self.wanted):
            raise DatasetError(
                f'The data set "{self.name}" has the classes {names} now, and had {self.wanted}. '
                "Start again."
            )
        place = {number: self.wanted.index(one) for number, one in enumerate(names)}
        changed: dict[str, Any] = {"thing_classes": self.wanted}
        if metadata.get("thing_dataset_id_to_contiguous_id"):
            ids = metadata.thing_dataset_id_to_contiguous_id
            changed["thing_dataset_id_to_contiguous_id"] = {k: place[v] for k, v in ids.items()}
        if metadata.get("thing_colors"):
            colors = dict(zip(names, metadata.thing_colors, strict=False))
            changed["thing_colors"] = [colors.get(one, [200, 60, 60]) for one in self.wanted]
        _set(metadata, changed)
        return [_renumbered(record, place) for record in records]

    def restore(self) -> None:
        """Let the metadata be as the loader knows them."""
        _set(MetadataCatalog.get(self.name), self.own)


def _renumbered(record: dict[str, Any], place: dict[int, int]) -> dict[str, Any]:
    annotations = record.get("annotations")
    if annotations is None:
        return record
    changed = [{**one, "category_id": place[one["category_id"]]} for one in annotations]
    return {**record, "annotations": changed}


def _set(metadata: Metadata, values: dict[str, Any]) -> None:
    for key, value in values.items():
        vars(metadata).pop(key, None)  # an attribute of metadata is set but once
        metadata.set(**{key: value})
