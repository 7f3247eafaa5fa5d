"""The full report of an instance evaluation: figures, curves, errors, and where to look first."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np

from . import instance_ap
from .files import write_csv, write_json
from .instance_ap import Outcomes
from .instance_errors import KINDS, ImageErrors, best_threshold, image_errors
from .instance_matching import ImageMatches

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "cityscapes_instance_results.json"
IMAGES_FILE = "cityscapes_instance_images.csv"
CURVES_FILE = "cityscapes_instance_precision_recall.png"
ERRORS_FILE = "cityscapes_instance_errors.png"


def write_report(
    folder: str,
    *,
    dataset: str,
    names: Sequence[str],
    labels: Sequence[int],
    records: Sequence[ImageMatches],
    results: dict[str, float],
    ap: np.ndarray,
    at_50: Sequence[Outcomes],
    left_out: Sequence[str] = (),
) -> None:
    """Write the JSON, the CSV and the two images into ``folder``.

    Args:
        folder: made where it does not exist.
        dataset: its name.
        names, labels: the classes.
        records: one for each image.
        results: what the evaluator returns.
        ap: (classes, overlaps) in 0 .. 1.
        at_50: outcomes at overlap 0.5 for each class.
        left_out: images without ground truth.
    """
    thresholds = {
        label: best_threshold(outcome) for label, outcome in zip(labels, at_50, strict=True)
    }
    errors = [image_errors(record, labels, thresholds) for record in records]
    zeros = len(labels), len(KINDS)
    counts = sum((x.counts for x in errors), np.zeros(zeros, dtype=np.int64))
    confusion = sum((x.confusion for x in errors), np.zeros(zeros[:1] * 2, dtype=np.int64))
    classes = {}
    for row, (name, outcome) in enumerate(zip(names, at_50, strict=True)):
        threshold = thresholds[labels[row]]
        classes[name] = {
            "targets": outcome.targets,
            "predictions": outcome.predictions,
            "ap_at_overlaps": (100.0 * ap[row]).tolist(),
            "best_score_threshold": threshold if np.isfinite(threshold) else None,
            "outcomes": dict(zip(KINDS, counts[row].tolist(), strict=True)),
            "overlaps_predictions_of": dict(zip(names, confusion[row].tolist(), strict=True)),
        }
    report = {
        "dataset": dataset,
        "images": len(records),
        "images_without_ground_truth": list(left_out),
        "segm": results,
        "overlaps": instance_ap.OVERLAPS.tolist(),
        "classes": classes,
    }
    write_json(report, os.path.join(folder, RESULTS_FILE))
    _write_images(errors, os.path.join(folder, IMAGES_FILE))
    try:
        from .instance_plots import plot_errors, plot_precision_recall
    except ImportError as error:
        logger.warning("No curves are drawn: %s; `pip install matplotlib`.", error)
        return
    plot_precision_recall(names, at_50, os.path.join(folder, CURVES_FILE), title=dataset)
    plot_errors(names, counts, confusion, os.path.join(folder, ERRORS_FILE), title=dataset)


def _write_images(errors: Sequence[ImageErrors], path: str) -> None:
    """Write a row an image, the one with most errors first."""
    worst_first = sorted(errors, key=lambda x: (-x.errors, x.image))
    header = ["image", "errors", "targets", *(kind.replace(" ", "_") for kind in KINDS)]
    rows = []
    for entry in worst_first:
        totals = entry.counts.sum(axis=0)
        rows.append([entry.image, entry.errors, int(totals[:2].sum()), *totals.tolist()])
    write_csv(header, rows, path)
