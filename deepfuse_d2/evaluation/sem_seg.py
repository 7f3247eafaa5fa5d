"""Semantic segmentation of any data set: IoU, boundary IoU, accuracy, F1 and kappa."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import MetadataCatalog

from ..errors import ConfigError, DatasetError
from . import notices
from .boundary import boundary, boundary_width
from .counting import SparseCounts, add_up, count_pairs, sparse
from .files import read_label_image, write_json
from .instance_ap import mean_defined
from .label_maps import NOTHING, label_map
from .per_image import PerImageEvaluator

__all__ = ["SemSegEvaluator", "semantic_scores"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "sem_seg_results.json"
_VALUES = 1 << 16  # that a label image can hold


@dataclass(frozen=True)
class _Counts:
    """Of one image: pairs of (class, predicted class or nothing), in all and on boundaries."""

    pairs: SparseCounts
    boundaries: SparseCounts


class SemSegEvaluator(PerImageEvaluator):
    """IoU, boundary IoU, accuracy, F1 and kappa of a data set with ``sem_seg_file_name`` and
    stuff_classes.

    ``process`` takes inputs with ``file_name`` (and ``sem_seg_file_name``, looked up in the data
    set where absent) and outputs ``{"sem_seg": logits (C, H, W) or label map (H, W)}`` of the size
    of the ground truth. In a label map, the data set's ignore label says that nothing is predicted.

    ``evaluate`` returns ``{"sem_seg": {...}}`` in percent, see :func:`semantic_scores`; ``{}`` off
    the main rank. An image that comes twice counts once; neither the order of images nor the number
    of processes changes a bit. An image without ground truth is left out, with a warning.
    """

    task = "sem_seg"

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ):
        """
        Args:
            dataset_name: a registered data set with ``stuff_classes`` in its metadata, and
                ``ignore_label`` if that is not 255.
            output_dir: where ``sem_seg_results.json`` is written; None writes nothing.
            distributed: gather the counts of all ranks. With False, each rank evaluates its own.

        Raises:
            ConfigError: the data set has no ``stuff_classes``.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._names = list(metadata.get("stuff_classes") or ())
        if not self._names:
            raise ConfigError(
                f'Data set "{dataset_name}" has no stuff_classes in its metadata; register it '
                "first, with the names of its classes in the order of their ids."
            )
        super().__init__(dataset_name, output_dir, distributed, "sem_seg_file_name")
        self._ignore_label = metadata.get("ignore_label", 255)
        count = len(self._names)
        # Rows of the counts: classes, ignored, values that should not be there.
        self._row_of_value = np.full(_VALUES, count + 1)
        self._row_of_value[:count] = np.arange(count)
        self._row_of_value[self._ignore_label] = count

    def _reduce(self, ground_truth: str, output: dict, image: str) -> _Counts:
        count = len(self._names)
        truth = read_label_image(ground_truth, image)
        predicted, undefined = label_map(
            output["sem_seg"],
            classes=count,
            ignore_label=self._ignore_label,
            shape=truth.shape,
            image=image,
        )
        self._undefined += undefined
        pairs = count_pairs(truth, predicted, self._row_of_value, count + 2, count + 1)
        if pairs[-1].any():
            unknown = self._row_of_value.take(truth) == count + 1
            raise DatasetError(
                f"Ground truth {ground_truth} of image {image} holds the value "
                f"{truth[unknown][0]}; "
                f'data set "{self._dataset_name}" has the classes 0 .. {count - 1} and '
                f"{self._ignore_label} to ignore. Prepare it again, or set ignore_label."
            )
        return _Counts(sparse(pairs[:-2]), sparse(self._boundary_pairs(truth, predicted)))

    def _average(
        self, records: list[_Counts], left_out: list[str], undefined: int
    ) -> dict[str, float]:
        count = len(self._names)
        pairs = add_up([x.pairs for x in records], (count, count + 1))
        boundaries = add_up([x.boundaries for x in records], (count + 1, count + 1))
        results = semantic_scores(pairs, boundaries, self._names)
        notices.warn_of_pixels(self._dataset_name, len(records), pairs, self._names, undefined)
        logger.info(
            "Semantic segmentation of %d images of %s:\n%s",
            len(records),
            self._dataset_name,
            self._table(results),
        )
        if self._output_dir:
            report = {
                "dataset": self._dataset_name,
                "images": len(records),
                "images_without_ground_truth": left_out,
                "sem_seg": results,
                "classes": self._names,
                "confusion": {"columns": [*self._names, NOTHING], "pixels": pairs.tolist()},
            }
            write_json(report, os.path.join(self._output_dir, RESULTS_FILE))
        return results

    def _boundary_pairs(self, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Count pairs of classes on boundaries; the last row and column stand for elsewhere."""
        count = len(self._names)
        truth = self._row_of_value.take(truth).astype(np.uint16)
        ignored = truth == count
        # `count + 1` inside ignored regions, so that "nothing" of a prediction has a contour there
        truth[ignored] = count + 1
        predicted = np.where(ignored, np.uint16(count + 1), predicted.astype(np.uint16))
        width = boundary_width(truth.shape)
        truth[~boundary(truth, width) | ignored] = count
        predicted[~boundary(predicted, width) | ignored] = count
        return count_pairs(truth, predicted, np.arange(count + 2), count + 1, count + 1)

    def _table(self, results: dict[str, float]) -> str:
        from tabulate import tabulate

        rows = [
            (name, *(results[f"{key}-{name}"] for key in ("IoU", "BoundaryIoU", "ACC")))
            for name in self._names
        ]
        rows.append(("mean", *(results[key] for key in ("mIoU", "mBoundaryIoU", "mACC"))))
        table = tabulate(
            rows, ("class", "IoU", "boundary IoU", "accuracy"), tablefmt="pipe", floatfmt=".3f"
        )
        return (
            f"{table}\npixel accuracy {results['pACC']:.3f}, kappa {results['kappa']:.3f}, "
            f"mF1 {results['mF1']:.3f}, fwF1 {results['fwF1']:.3f}, fwIoU {results['fwIoU']:.3f}"
        )


def semantic_scores(
    pairs: np.ndarray, boundaries: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Return the figures in percent, by the names of detectron2's evaluator.

    A class without ground truth is nan and left out of the means; pixels that are ignored in the
    ground truth count nowhere.

    Args:
        pairs: (C, C + 1) pixels by class and predicted class; the last column is no class.
        boundaries: (C + 1, C + 1) pixels by class whose boundary they are on, and the same of the
            prediction; the last row and column stand for no boundary.
        names: of the C classes.

    Returns:
        mIoU, fwIoU (weighted by the pixels of a class), mBoundaryIoU, mACC, pACC (the "overall
        accuracy" of remote sensing), mF1, fwF1 and Cohen's kappa, times 100, then IoU-<name>,
        BoundaryIoU-<name>, ACC-<name> and F1-<name> of each class.
    """
    right, truth, predicted = np.diagonal(pairs), pairs.sum(axis=1), pairs[:, :-1].sum(axis=0)
    iou = _ratio(right, truth + predicted - right, truth)
    accuracy, f1 = _ratio(right, truth, truth), _ratio(2 * right, truth + predicted, truth)
    on_both = np.diagonal(boundaries)[:-1]
    edge = boundaries[:-1].sum(axis=1)
    edge_iou = _ratio(on_both, edge + boundaries[:, :-1].sum(axis=0) - on_both, edge)
    total = truth.sum()
    nan = float("nan")
    results = {
        "mIoU": mean_defined(iou),
        "fwIoU": float(np.nansum(iou * truth) / total) if total else nan,
        "mBoundaryIoU": mean_defined(edge_iou),
        "mACC": mean_defined(accuracy),
        "pACC": float(right.sum() / total) if total else nan,
        "mF1": mean_defined(f1),
        "fwF1": float(np.nansum(f1 * truth) / total) if total else nan,
        "kappa": _kappa(right, truth, predicted),
    }
    for key, values in (("IoU", iou), ("BoundaryIoU", edge_iou), ("ACC", accuracy), ("F1", f1)):
        results |= {f"{key}-{name}": float(x) for name, x in zip(names, values, strict=True)}
    return {key: 100.0 * value for key, value in results.items()}


def _kappa(right: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> float:
    """Agreement beyond chance: (p_o - p_e) / (1 - p_e); nan where chance alone is all."""
    total = float(truth.sum())
    if not total:
        return float("nan")
    agreement = right.sum() / total
    chance = float((truth / total * (predicted / total)).sum())
    return float((agreement - chance) / (1 - chance)) if chance < 1 else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return part / whole, nan for classes without ground truth."""
    return np.where(truth > 0, part / np.maximum(whole, 1), np.nan)
