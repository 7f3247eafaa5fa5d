"""Cityscapes instance AP as a detectron2 evaluator: in memory, any number of processes.

The figures are those of the official script (see :mod:`.instance_ap` for the rules). It
differs from detectron2's evaluator of the same name in its means: each image is reduced to a small
match record at once, so there is no PNG a mask, no temporary folder that all machines must share,
and no work that waits for the end.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from . import instance_ap
from .files import read_instance_ids, write_json
from .instance_matching import ImageMatches, match
from .mask_crops import MaskCrop, crops_from_masks, crops_from_rle, crops_from_unpasted

__all__ = ["CityscapesInstanceEvaluator"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "cityscapes_instance_results.json"


class CityscapesInstanceEvaluator(DatasetEvaluator):
    """Official Cityscapes AP and AP50, of all classes and of each, for the images that it is shown.

    ``process`` takes inputs with ``file_name`` (and ``instance_file_name``, the instance-id PNG;
    looked up in the data set where absent) and outputs ``{"instances": Instances}`` at the size of
    the ground truth with ``scores``, ``pred_classes`` and masks in one of three forms:

    - ``pred_masks``: bool tensor (N, H, W);
    - ``pred_masks``: float tensor (N, 1, M, M) as the mask head leaves them, with ``pred_boxes`` in
      pixels of the original image: pasted into their boxes only, for the same result at less cost;
    - ``pred_masks_rle``: list of N COCO RLE dicts.

    ``evaluate`` returns ``{"segm": {"AP", "AP50", "AP-person", "AP50-person", ..}}`` in percent,
    always with all eight classes, nan where undefined; ``{}`` off the main rank. Images are known
    by their ``file_name``; one that comes twice, as padding samplers do, counts once: the first of
    the lowest rank. Neither the order of images nor the number of processes changes a bit of the
    result.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ):
        """
        Args:
            dataset_name: a registered data set with ``thing_classes`` in its metadata, by the names
                of Cityscapes.
            output_dir: where ``cityscapes_instance_results.json`` is written; None writes nothing.
            distributed: gather the records of all ranks. With False, each rank evaluates its own.

        Raises:
            ValueError: the data set has no ``thing_classes``.
        """
        thing_classes = MetadataCatalog.get(dataset_name).get("thing_classes")
        if not thing_classes:
            raise ValueError(
                f'Data set "{dataset_name}" has no thing_classes in its metadata; register it '
                "first, with thing_classes named as in Cityscapes (person, rider, car, ...)."
            )
        from cityscapesscripts.helpers.labels import labels  # its label table only

        evaluated = {x.name: x.id for x in labels if x.hasInstances and not x.ignoreInEval}
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._names = list(evaluated)
        self._labels = list(evaluated.values())
        self._void_labels = [x.id for x in labels if x.ignoreInEval]
        # Class index of the model -> label id; predictions of -1 are left out.
        self._label_of_class = np.array([evaluated.get(name, -1) for name in thing_classes])
        self._gt_files: dict[str, str | None] | None = None
        _warn_of_class_names(dataset_name, list(thing_classes), self._names)
        self.reset()

    def reset(self) -> None:
        self._records: dict[str, ImageMatches] = {}
        self._undefined_scores = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Reduce each image to its match record.

        Raises: ValueError: an image of no data set or without ground truth, masks of another size
            than the ground truth, a class index that the data set does not have.
            FileNotFoundError: the ground-truth file is not there.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            image = os.path.abspath(entry["file_name"])
            if image in self._records:
                continue
            gt_map = read_instance_ids(self._gt_file(entry), image)
            instances = output.get("instances")
            if instances is None:
                instances = Instances(gt_map.shape, pred_masks_rle=[], scores=[], pred_classes=[])
            crops = _crops(instances.to("cpu"), gt_map.shape, image)
            labels = self._to_labels(_as_array(instances.pred_classes, np.int64), image)
            scores = _as_array(instances.scores, np.float64)
            undefined = np.isnan(scores)
            self._undefined_scores += int(undefined.sum())
            labels[undefined[: len(labels)].nonzero()] = -1
            self._records[image] = match(
                image,
                gt_map,
                crops,
                labels,
                scores,
                labels=self._labels,
                void_labels=self._void_labels,
            )

    def evaluate(self) -> dict:
        """Gather, average, log a table and write the JSON.

        Returns:
            ``OrderedDict(segm={name: percent})`` on the main rank, ``{}`` elsewhere.
        """
        gathered = [(self._records, self._undefined_scores)]
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(gathered[0])
            if not comm.is_main_process():
                return {}
        merged: dict[str, ImageMatches] = {}
        for records, _ in reversed(gathered):
            merged.update(records)  # the lowest rank last, so that its record stays
        records = [merged[image] for image in sorted(merged)]

        ap = instance_ap.accumulate(records, self._labels)
        at_50 = [instance_ap.outcomes(records, label, 0.5) for label in self._labels]
        results = instance_ap.average(ap, self._names)
        self._warn(records, at_50, sum(undefined for _, undefined in gathered))
        logger.info(
            "Instance AP on %d images of %s:\n%s",
            len(records),
            self._dataset_name,
            self._table(results, at_50),
        )
        if self._output_dir:
            report = {
                "dataset": self._dataset_name,
                "images": len(records),
                "segm": results,
                "overlaps": instance_ap.OVERLAPS.tolist(),
                "classes": {
                    name: {
                        "targets": outcome.targets,
                        "predictions": outcome.predictions,
                        "ap_at_overlaps": row.tolist(),
                    }
                    for name, outcome, row in zip(self._names, at_50, 100.0 * ap, strict=True)
                },
            }
            write_json(report, os.path.join(self._output_dir, RESULTS_FILE))
        return OrderedDict(segm=results)

    def _gt_file(self, entry: dict) -> str:
        """Return the instance-id PNG of an input, from itself or from the data set."""
        path = entry.get("instance_file_name")
        if path:
            return path
        if self._gt_files is None:
            self._gt_files = {
                os.path.abspath(x["file_name"]): x.get("instance_file_name")
                for x in DatasetCatalog.get(self._dataset_name)
            }
        image = os.path.abspath(entry["file_name"])
        if image not in self._gt_files:
            raise ValueError(
                f'Image {image} is not in data set "{self._dataset_name}" ({len(self._gt_files)} '
                "images); evaluate with the name of the data set that the images come from."
            )
        path = self._gt_files[image]
        if not path:
            raise ValueError(
                f'Image {image} of data set "{self._dataset_name}" has no ground truth '
                "(instance_file_name); a test split cannot be evaluated here, use a val split."
            )
        return path

    def _to_labels(self, classes: np.ndarray, image: str) -> np.ndarray:
        count = len(self._label_of_class)
        if classes.size and not 0 <= classes.min() <= classes.max() < count:
            raise ValueError(
                f"{image}: predicted class indices from {classes.min()} to {classes.max()}, but "
                f'data set "{self._dataset_name}" has {count} classes (0 .. {count - 1}); check '
                "MODEL.ROI_HEADS.NUM_CLASSES and the weights."
            )
        return self._label_of_class[classes]

    def _warn(
        self,
        records: list[ImageMatches],
        at_50: list[instance_ap.Outcomes],
        undefined_scores: int,
    ) -> None:
        """Say aloud what makes the figures meaningless or surprising."""
        name = self._dataset_name
        if undefined_scores:
            logger.warning(
                "%d predictions on %s have a score that is not a number and were left out; "
                "the model may have diverged.",
                undefined_scores,
                name,
            )
        if not records:
            logger.warning("No image of %s was evaluated: all figures are nan.", name)
            return
        if not any(outcome.targets for outcome in at_50):
            logger.warning(
                "The ground truth of the %d evaluated images of %s holds no instance of at least "
                "%d pixels: all figures are nan.",
                len(records),
                name,
                instance_ap.MIN_AREA,
            )
        if not any(outcome.predictions for outcome in at_50):
            logger.warning(
                "There is no prediction at all of an evaluated class on the %d images of %s: AP is "
                "0 where there is ground truth. Check the score threshold and the weights.",
                len(records),
                name,
            )
        elif not any(len(outcome.scores) for outcome in at_50):
            logger.warning(
                "Every prediction on %s is ignored: all lie on void, groups or instances under "
                "%d pixels.",
                name,
                instance_ap.MIN_AREA,
            )

    def _table(self, results: dict[str, float], at_50: list[instance_ap.Outcomes]) -> str:
        from tabulate import tabulate

        rows = [
            (name, results[f"AP-{name}"], results[f"AP50-{name}"], x.targets, x.predictions)
            for name, x in zip(self._names, at_50, strict=True)
        ]
        targets, predictions = (sum(row[column] for row in rows) for column in (3, 4))
        rows.append(("all", results["AP"], results["AP50"], targets, predictions))
        headers = ("class", "AP", "AP50", "instances", "predictions")
        return tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f")


def _warn_of_class_names(dataset_name: str, given: list[str], known: list[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        logger.warning(
            "Classes %s of %s are unknown to the ground truth of Cityscapes (it knows %s): "
            "their predictions do not count.",
            unknown,
            dataset_name,
            known,
        )
    absent = [name for name in known if name not in given]
    if absent:
        logger.warning(
            "Classes %s of Cityscapes are not among the thing_classes of %s: where the ground "
            "truth holds them, they count as missed.",
            absent,
            dataset_name,
        )


def _crops(instances: Instances, shape: tuple[int, int], image: str) -> Iterator[MaskCrop]:
    """Return the crops of the predicted masks, after a check of their size and form."""
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        if masks.ndim == 4 and instances.has("pred_boxes"):
            sizes = {tuple(instances.image_size)}
            crops = crops_from_unpasted(masks, instances.pred_boxes.tensor, shape)
        else:
            sizes = {tuple(masks.shape[1:])}
            crops = crops_from_masks(np.asarray(masks))
    elif instances.has("pred_masks_rle"):
        rles = instances.pred_masks_rle
        sizes = {tuple(int(side) for side in rle["size"]) for rle in rles}
        crops = crops_from_rle(rles)
    else:
        fields = sorted(instances.get_fields())
        raise ValueError(
            f"{image}: the predicted instances have the fields {fields}, but no masks; expected "
            "pred_masks or pred_masks_rle (MODEL.MASK_ON True)."
        )
    if len(instances) and sizes != {tuple(shape)}:
        raise ValueError(
            f"{image}: predicted masks of size {sorted(sizes)} (height, width), ground truth of "
            f"{tuple(shape)}; predictions must be resized to the size of the original image."
        )
    return crops


def _as_array(values: object, dtype: type) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=dtype)
