"""Where the ground truth of an image lies: in the input itself, or in its data set."""

from __future__ import annotations

import os

from detectron2.data import DatasetCatalog

__all__ = ["GroundTruthFiles"]


class GroundTruthFiles:
    """Finds the ground-truth file of the images of a data set.

    Args:
        dataset_name: a registered data set; it is loaded when an input does not say it itself.
        key: entry of the dataset dicts with the path.
    """

    def __init__(self, dataset_name: str, key: str):
        self._dataset_name = dataset_name
        self._key = key
        self._files: dict[str, str | None] | None = None

    def find(self, entry: dict) -> str | None:
        """Return the path for an input with ``file_name``; None if there is no ground truth."""
        path = entry.get(self._key)
        if not path:
            if self._files is None:
                self._files = {
                    os.path.abspath(x["file_name"]): x.get(self._key)
                    for x in DatasetCatalog.get(self._dataset_name)
                }
            path = self._files.get(os.path.abspath(entry["file_name"]))
        return path if path and os.path.isfile(path) else None
