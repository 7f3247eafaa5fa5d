"""Cityscapes IoU and iIoU as a detectron2 evaluator: in memory, any number of processes."""

from __future__ import annotations

import logging
import os

import numpy as np
from detectron2.data import MetadataCatalog

from ..errors import ConfigError, DatasetError
from . import notices
from .cityscapes_iou import LABELS, ROWS, ImagePixels, label_table, reduce_image, row_table, scores
from .counting import add_up, count_pairs
from .files import frame_file, read_label_image, write_json
from .label_maps import NOTHING, label_map
from .per_image import PerImageEvaluator

__all__ = ["CityscapesSemSegEvaluator"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "cityscapes_sem_seg_results.json"


class CityscapesSemSegEvaluator(PerImageEvaluator):
    """Official IoU and iIoU by class and category, for the images that it is shown.

    ``process`` takes inputs with ``file_name`` and outputs ``{"sem_seg": logits (C, H, W) or label
    map (H, W) of class indices (train ids)}`` of the size of the ground truth; in a label map, 255
    says that nothing is predicted. Ground truth is the ``instanceIds`` image of the frame, which
    knows both label and instance of a pixel; where there is none, the ``sem_seg_file_name`` of the
    data set (train ids), and iIoU is nan.

    ``evaluate`` returns ``{"sem_seg": {...}}`` in percent, see :func:`.cityscapes_iou.scores`;
    ``{}`` off the main rank. An image that comes twice counts once; neither the order of images nor
    the number of processes changes a bit. An image without ground truth is left out, with a
    warning.
    """

    task = "sem_seg"

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ):
        """
        Args:
            dataset_name: a registered data set with ``stuff_classes`` in its metadata, by the names
                of Cityscapes.
            output_dir: where ``cityscapes_sem_seg_results.json`` is written; None writes nothing.
            distributed: gather the counts of all ranks. With False, each rank evaluates its own.

        Raises:
            ConfigError: the data set has no ``stuff_classes``.
        """
        metadata = MetadataCatalog.get(dataset_name)
        names = list(metadata.get("stuff_classes") or ())
        if not names:
            raise ConfigError(
                f'Data set "{dataset_name}" has no stuff_classes in its metadata; register it '
                "first, with stuff_classes named as in Cityscapes (road, sidewalk, ...)."
            )
        ids = label_table().ids
        notices.warn_of_class_names(dataset_name, names, list(ids))
        super().__init__(dataset_name, output_dir, distributed, "sem_seg_file_name")
        self._ignore_label = metadata.get("ignore_label", 255)
        self._names = names
        # Unknown classes, and "nothing" in the last column, are predictions of "unlabeled".
        self._label_of_column = np.array([ids.get(name, 0) for name in names] + [0])
        self._row_of_id = row_table()
        self._row_of_class = np.full(1 << 16, ROWS - 1)
        self._row_of_class[: len(names)] = self._label_of_column[:-1]
        self._row_of_class[self._ignore_label] = 0

    def _reduce(
        self, ground_truth: tuple[str, np.ndarray], output: dict, image: str
    ) -> tuple[str, ImagePixels, bool]:
        """Return the image, its counts, and whether it has instances."""
        gt_file, row_of_value = ground_truth
        truth = read_label_image(gt_file, image)
        columns = len(self._names) + 1
        predicted, undefined = label_map(
            output["sem_seg"],
            classes=columns - 1,
            ignore_label=self._ignore_label,
            shape=truth.shape,
            image=image,
        )
        self._undefined += undefined
        counts = count_pairs(truth, predicted, row_of_value, ROWS, columns)
        if counts[-1].any():
            unknown = truth[row_of_value.take(truth) == ROWS - 1]
            raise DatasetError(
                f"Ground truth {gt_file} of image {image} holds the value {unknown[0]}, which "
                "is neither a label of Cityscapes nor an instance of one; prepare it again."
            )
        pixels = reduce_image(counts, self._label_of_column)
        return image, pixels, row_of_value is self._row_of_id

    def _average(
        self, records: list[tuple[str, ImagePixels, bool]], left_out: list[str], undefined: int
    ) -> dict[str, float]:
        images = [pixels for _, pixels, _ in records]
        without_instances = [image for image, _, has_instances in records if not has_instances]
        columns = len(self._names) + 1
        pairs = add_up([x.pairs for x in images], (LABELS, columns))
        results = scores(pairs, images, self._label_of_column)
        if without_instances:
            results |= {key: float("nan") for key in results if key.startswith("iIoU")}
            logger.warning(
                "%d of the %d images of %s have no instanceIds image, such as %s: iIoU is nan.",
                len(without_instances),
                len(records),
                self._dataset_name,
                without_instances[0],
            )
        evaluated = list(label_table().ids.values())
        names = self._names
        notices.warn_of_pixels(self._dataset_name, len(records), pairs[evaluated], names, undefined)
        logger.info(
            "Semantic segmentation of %d images of %s:\n%s",
            len(records),
            self._dataset_name,
            _table(results),
        )
        if self._output_dir:
            report = {
                "dataset": self._dataset_name,
                "images": len(records),
                "images_without_ground_truth": left_out,
                "sem_seg": results,
                "confusion": {
                    "rows": "label ids 0 .. 33 of the ground truth",
                    "columns": [*names, NOTHING],
                    "pixels": pairs.tolist(),
                },
            }
            write_json(report, os.path.join(self._output_dir, RESULTS_FILE))
        return results

    def _find_ground_truth(self, entry: dict, image: str) -> tuple[str, np.ndarray] | None:
        """Return the label image of a frame, and the row that each of its values is counted in."""
        instances = [
            entry.get("instance_file_name"),
            frame_file(image, "gtFine", "gtFine_instanceIds.png"),
        ]
        if not any(path and os.path.isfile(path) for path in instances):
            labels = self._gt_files.find(entry)
            if labels is None:
                return None
            beside = labels.replace("_labelTrainIds.png", "_instanceIds.png")
            if beside == labels or not os.path.isfile(beside):
                return labels, self._row_of_class
            instances = [beside]
        return next(path for path in instances if path and os.path.isfile(path)), self._row_of_id


def _table(results: dict[str, float]) -> str:
    from tabulate import tabulate

    table = label_table()
    rows = [(name, results[f"IoU-{name}"], results.get(f"iIoU-{name}")) for name in table.ids] + [
        ("classes", results["IoU"], results["iIoU"])
    ]
    rows += [
        (name, results[f"IoU_sup-{name}"], results.get(f"iIoU_sup-{name}"))
        for name in table.categories
    ] + [("categories", results["IoU_sup"], results["iIoU_sup"])]
    return tabulate(rows, ("", "IoU", "iIoU"), tablefmt="pipe", floatfmt=".3f")
