"""Cityscapes instance AP as a detectron2 evaluator: in memory, any number of processes.

The figures are those of the official script (see :mod:`.instance_ap` for the rules). It
differs from detectron2's evaluator of the same name in its means: each image is reduced to a small
match record at once, so there is no PNG a mask, no temporary folder that all machines must share,
and no work that waits for the end.
"""

from __future__ import annotations

import logging

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances

from ..data.datasets.cityscapes_labels import instance_label_ids
from ..errors import ConfigError, DatasetError
from ..structures.mask_crops import crops_of_instances
from . import instance_ap, notices
from .distances import read_distances
from .files import read_label_image
from .instance_matching import ImageMatches, match
from .instance_report import write_report
from .label_maps import check_classes
from .per_image import PerImageEvaluator

__all__ = ["CityscapesInstanceEvaluator"]

logger = logging.getLogger(__name__)


class CityscapesInstanceEvaluator(PerImageEvaluator):
    """Official Cityscapes AP and AP50, of all classes and of each, for the images that it is shown.

    ``process`` takes inputs with ``file_name`` (and ``instance_file_name``, the instance-id PNG;
    looked up in the data set where absent) and outputs ``{"instances": Instances}`` at the size of
    the ground truth with ``scores``, ``pred_classes`` and masks in one of three forms:

    - ``pred_masks``: bool tensor (N, H, W);
    - ``pred_masks``: float tensor (N, 1, M, M) as the mask head leaves them, with ``pred_boxes`` in
      pixels of the original image: pasted into their boxes only, for the same result at less cost;
    - ``pred_masks_rle``: list of N COCO RLE dicts.

    ``evaluate`` returns ``{"segm": {"AP", "AP50", "AP-person", "AP50-person", .., "APs", "APm",
    "APl"}}`` in percent, always with all eight classes, nan where undefined; ``{}`` off the main
    rank. Where the images lie in the layout of Cityscapes with ``disparity/`` and ``camera/``
    beside ``leftImg8bit/``, "AP100m" and "AP50m" come on top. Images are known
    by their ``file_name``; one that comes twice, as padding samplers do, counts once: the first of
    the lowest rank. Neither the order of images nor the number of processes changes a bit of the
    result. An image without ground truth is left out, with a warning in the end.
    """

    task = "segm"
    # Masks need not be pasted into full images for it; see modeling/postprocessing/unpasted.py.
    accepts_unpasted_masks = True

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ):
        """
        Args:
            dataset_name: a registered data set with ``thing_classes`` in its metadata, by the names
                of Cityscapes.
            output_dir: where the report goes, see :mod:`.instance_report`; None writes nothing.
            distributed: gather the records of all ranks. With False, each rank evaluates its own.

        Raises:
            ConfigError: the data set has no ``thing_classes``.
        """
        thing_classes = MetadataCatalog.get(dataset_name).get("thing_classes")
        if not thing_classes:
            raise ConfigError(
                f'Data set "{dataset_name}" has no thing_classes in its metadata; register it '
                "first, with thing_classes named as in Cityscapes (person, rider, car, ...)."
            )
        from cityscapesscripts.helpers.labels import labels  # its label table only

        super().__init__(dataset_name, output_dir, distributed, "instance_file_name")
        evaluated = instance_label_ids()
        self._names = list(evaluated)
        self._labels = list(evaluated.values())
        self._void_labels = [x.id for x in labels if x.ignoreInEval]
        # Class index of the model -> label id; predictions of -1 are left out.
        self._label_of_class = np.array([evaluated.get(name, -1) for name in thing_classes])
        notices.warn_of_class_names(dataset_name, thing_classes, self._names)

    def _reduce(self, ground_truth: str, output: dict, image: str) -> ImageMatches:
        gt_map = read_label_image(ground_truth, image)
        distances = read_distances(image)
        if distances is not None and distances.shape != gt_map.shape:
            raise DatasetError(
                f"The disparity of {image} has the size {distances.shape} (height, width), its "
                f"ground truth {gt_map.shape}; unpack disparity_trainvaltest.zip again."
            )
        instances = output.get("instances")
        if instances is None:
            instances = Instances(gt_map.shape, pred_masks_rle=[], scores=[], pred_classes=[])
        crops = crops_of_instances(instances.to("cpu"), gt_map.shape, image)
        classes = _as_array(instances.pred_classes, np.int64)
        check_classes(classes, len(self._label_of_class), image, "MODEL.ROI_HEADS.NUM_CLASSES")
        labels = self._label_of_class[classes]
        scores = _as_array(instances.scores, np.float64)
        undefined = np.isnan(scores)
        self._undefined += int(undefined.sum())
        labels[undefined[: len(labels)].nonzero()] = -1
        return match(
            image,
            gt_map,
            crops,
            labels,
            scores,
            labels=self._labels,
            void_labels=self._void_labels,
            distances=distances,
        )

    def _average(
        self, records: list[ImageMatches], left_out: list[str], undefined: int
    ) -> dict[str, float]:
        ap = instance_ap.accumulate(records, self._labels)
        at_50 = [instance_ap.outcomes(records, label, 0.5) for label in self._labels]
        results = instance_ap.average(ap, self._names)
        results |= self._in_scopes("AP", instance_ap.BY_SIZE, records)
        if any(record.has_distances for record in records):
            results |= self._in_scopes("AP", instance_ap.BY_DISTANCE, records)
        notices.warn_of_instances(self._dataset_name, records, at_50, undefined)
        logger.info(
            "Instance AP on %d images of %s:\n%s",
            len(records),
            self._dataset_name,
            self._table(results, at_50),
        )
        if self._output_dir:
            write_report(
                self._output_dir,
                dataset=self._dataset_name,
                names=self._names,
                labels=self._labels,
                records=records,
                results=results,
                ap=ap,
                at_50=at_50,
                left_out=left_out,
            )
        return results

    def _in_scopes(
        self, prefix: str, scopes: dict[str, instance_ap.Scope], records: list[ImageMatches]
    ) -> dict[str, float]:
        """Return the mean AP of all classes in each scope, in percent."""
        return {
            prefix + name: 100.0
            * instance_ap.mean_defined(instance_ap.accumulate(records, self._labels, scope=scope))
            for name, scope in scopes.items()
        }

    def _table(self, results: dict[str, float], at_50: list[instance_ap.Outcomes]) -> str:
        from tabulate import tabulate

        rows = [
            (name, results[f"AP-{name}"], results[f"AP50-{name}"], x.targets, x.predictions)
            for name, x in zip(self._names, at_50, strict=True)
        ]
        targets, predictions = sum(row[3] for row in rows), sum(row[4] for row in rows)
        rows.append(("all", results["AP"], results["AP50"], targets, predictions))
        headers = ("class", "AP", "AP50", "instances", "predictions")
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f")
        others = (key for key in ("APs", "APm", "APl", "AP100m", "AP50m") if key in results)
        return table + "\n" + ", ".join(f"{key} {results[key]:.3f}" for key in others)


def _as_array(values: object, dtype: type) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=dtype)
