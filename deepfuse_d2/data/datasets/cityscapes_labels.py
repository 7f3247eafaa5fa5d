"""Parsing the label images of one Cityscapes frame.

The parsers are module-level functions of a :class:`~deepfuse_d2.data.cache.Frame`, so that other
processes can run them, and return what JSON can hold.
"""

import functools

import numpy as np

from ...errors import DatasetError
from ..cache import Frame
from ..label_images import check_same_size, encode_regions, read_labels, save_labels

__all__ = [
    "INSTANCES_VERSION",
    "SEMANTIC_VERSION",
    "instance_label_ids",
    "parse_instances",
    "parse_semantic",
]

# Raise these when the meaning of what the parsers return changes: it makes old caches void.
INSTANCES_VERSION = 1
SEMANTIC_VERSION = 1


def parse_instances(frame: Frame) -> list:
    """Return [height, width, [[category, crowd, x0, y0, x1, y1, counts], ...]]."""
    image, label_file = frame.sources
    ids = read_labels(label_file)
    check_same_size(image, label_file, ids.shape)
    categories = {label: k for k, label in enumerate(instance_label_ids().values())}
    wanted = list(categories)

    regions = encode_regions(
        ids, lambda ids: np.isin(np.where(ids < 1000, ids, ids // 1000), wanted)
    )
    entries = []
    for region in regions:
        label, crowd = (region.id, 1) if region.id < 1000 else (region.id // 1000, 0)
        entries.append([categories[label], crowd, *region.box, region.counts])
    return [*ids.shape, entries]


def parse_semantic(frame: Frame) -> list:
    """Check the label image, convert it where the frame has a product; return its size."""
    image, label_file = frame.sources
    labels = read_labels(label_file)
    check_same_size(image, label_file, labels.shape)
    to_train_id = _to_train_id()
    allowed = to_train_id if not frame.products else np.arange(len(to_train_id))
    unknown = np.setdiff1d(np.flatnonzero(np.bincount(labels.ravel())), allowed)
    if unknown.size:
        what = "label ids 0..33" if frame.products else "train ids 0..18 and 255"
        raise DatasetError(f"{label_file} holds the value {unknown[0]}; expected {what}.")
    if frame.products:
        save_labels(to_train_id[labels], frame.products[0])
    return list(labels.shape)


@functools.lru_cache(maxsize=1)
def instance_label_ids() -> dict[str, int]:
    """Return name -> label id of the eight instance classes that are evaluated, in their order."""
    from cityscapesscripts.helpers.labels import labels

    return {x.name: x.id for x in labels if x.hasInstances and not x.ignoreInEval}


@functools.lru_cache(maxsize=1)
def _to_train_id() -> np.ndarray:
    """Return the uint8 table label id 0..33 -> train id."""
    from cityscapesscripts.helpers.labels import labels

    known = {label.id: label.trainId for label in labels if label.id >= 0}
    return np.array([known[i] for i in range(len(known))], dtype=np.uint8)
