"""What the evaluators share: each image becomes a small record; records are gathered at the end."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import OrderedDict
from typing import Any, TypeVar

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from . import notices
from .ground_truth import GroundTruthFiles

__all__ = ["PerImageEvaluator", "gather_by_image"]

Record = TypeVar("Record")


class PerImageEvaluator(DatasetEvaluator):
    """detectron2's ``reset/process/evaluate`` around :meth:`_reduce` and :meth:`_average`.

    An image that comes twice counts once; neither the order of images nor the number of processes
    changes a bit. An image without ground truth is left out, with a warning.

    Attributes:
        task: name of the results in what ``evaluate`` returns.
    """

    task: str

    def __init__(self, dataset_name: str, output_dir: str | None, distributed: bool, gt_key: str):
        """
        Args:
            dataset_name: a registered data set.
            output_dir: where the report goes; None writes nothing.
            distributed: gather the records of all ranks. With False, each rank evaluates its own.
            gt_key: entry of the dataset dicts with the path of the ground truth.
        """
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._gt_files = GroundTruthFiles(dataset_name, gt_key)
        self.reset()

    def reset(self) -> None:
        self._records: dict[str, Any] = {}
        self._left_out: set[str] = set()
        # scores or pixels of predictions that are not numbers
        self._undefined = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Reduce each image to its record.

        Raises: ValueError, ConfigError: a prediction that does not fit the ground truth or the
            data set. DatasetError: a ground-truth file is damaged.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            image = os.path.abspath(entry["file_name"])
            if image in self._records:
                continue
            ground_truth = self._find_ground_truth(entry, image)
            if ground_truth is None:
                self._left_out.add(image)
            else:
                self._records[image] = self._reduce(ground_truth, output, image)

    def evaluate(self) -> dict:
        """Gather, average, log a table and write the report.

        Returns:
            ``OrderedDict({task: {name: percent}})`` on the main rank, ``{}`` elsewhere.
        """
        extra = (self._left_out, self._undefined)
        gathered = gather_by_image(self._records, extra, distributed=self._distributed)
        if gathered is None:
            return {}
        by_image, extras = gathered
        records = list(by_image.values())
        left_out = sorted(set().union(*(images for images, _ in extras)))
        notices.warn_of_left_out(self._dataset_name, left_out, len(records))
        results = self._average(records, left_out, sum(count for _, count in extras))
        return OrderedDict({self.task: results})

    def _find_ground_truth(self, entry: dict, image: str) -> Any:
        """Return what :meth:`_reduce` needs to read the ground truth of an input: here its path.

        None if it has none.
        """
        return self._gt_files.find(entry)

    @abstractmethod
    def _reduce(self, ground_truth: Any, output: dict, image: str) -> Any:
        """Return the record of an image: small, and picklable."""

    @abstractmethod
    def _average(self, records: list[Any], left_out: list[str], undefined: int) -> dict[str, float]:
        """Return the results of all images in percent; warn, log and write what there is to say."""


def gather_by_image(
    records: dict[Any, Record], extra: object, *, distributed: bool
) -> tuple[dict[Any, Record], list[Any]] | None:
    """Return the records of all ranks by image, in the order of their names, each image once.

    Of an image that several ranks have, as padding samplers do, the lowest rank's record stays.

    Args:
        records: image -> record of this rank.
        extra: anything small; all ranks' are returned, by rank.
        distributed: False keeps to this rank.

    Returns:
        records and extras; None off the main rank.
    """
    gathered = [(records, extra)]
    if distributed:
        comm.synchronize()
        gathered = comm.gather(gathered[0])
        if not comm.is_main_process():
            return None
    merged: dict[Any, Record] = {}
    for of_rank, _ in reversed(gathered):
        merged.update(of_rank)  # the lowest rank last, so that its record stays
    ordered = sorted(merged, key=lambda image: (type(image).__name__, image))
    return {image: merged[image] for image in ordered}, [extra for _, extra in gathered]
