"""COCO's AP as a detectron2 evaluator that reads the data set's records, never its JSON file.

The figures are those of pycocotools. It differs from detectron2's evaluator in its ground truth:
the records that training and drawing see, with annotations numbered anew; in that only the images
it was shown count; and in masks, which it takes unpasted.
"""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from ..errors import ConfigError
from ..files import written_whole
from ..structures.detected_instances import DetectedInstances
from ..structures.run_lengths import mask_area
from .coco_scores import METRICS, coco_scores, ground_truth_of, proposal_recall
from .label_maps import check_classes
from .per_image import gather_by_image

__all__ = ["COCO_MAX_DETECTIONS", "COCOInstanceEvaluator"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"

#: Detections of an image that COCO's own evaluation takes.
COCO_MAX_DETECTIONS = 100


class COCOInstanceEvaluator(DatasetEvaluator):
    """COCO's AP of boxes, masks and keypoints, by what the predictions have.

    ``process`` takes inputs with ``image_id`` or ``file_name`` and outputs ``{"instances":
    Instances}`` with ``pred_boxes``, ``scores``, ``pred_classes`` and, where the model has them,
    masks in any form of :func:`..structures.mask_crops.crops_of_instances` and ``pred_keypoints``.

    ``evaluate`` returns ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>", ..},
    "segm": .., "keypoints": ..}`` in percent, nan where undefined; ``{}`` off the main rank.
    ``coco_instances_results.json`` in the output folder has the predictions in COCO's format, under
    the ids of the file that the data set came from.
    """

    # Masks need not be pasted into full images for it; see modeling/postprocessing/unpasted.py.
    accepts_unpasted_masks = True

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        max_detections: int = COCO_MAX_DETECTIONS,
        oks_sigmas: Sequence[float] = (),
        distributed: bool = True,
    ):
        """
        Args:
            dataset_name: a registered data set in detectron2's format.
            output_dir: where the predictions go; None writes nothing.
            max_detections: of an image, those of the best scores, count; by default COCO's own
                100. Give what the model gives (TEST.DETECTIONS_PER_IMAGE) for cells and crowds.
            oks_sigmas: of keypoints; by default COCO's 17.
            distributed: gather the records of all ranks. With False, each rank evaluates its own.

        Raises:
            ConfigError: the data set has no ``thing_classes``.
        """
        records = DatasetCatalog.get(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        self._names = list(metadata.get("thing_classes") or ())
        if not self._names:
            raise ConfigError(
                f'Data set "{dataset_name}" has no thing_classes in its metadata; register it with '
                "the names of its classes."
            )
        original = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._category_ids = {number: key for key, number in original.items()}
        self._dataset_name, self._output_dir = dataset_name, output_dir
        self._max_detections, self._oks_sigmas = max_detections, oks_sigmas
        self._distributed = distributed
        self._records = {_key(record): record for record in records}
        self.reset()

    def reset(self) -> None:
        self._predictions: dict[Any, list[dict]] = {}
        self._proposals: dict[Any, Instances] = {}
        self._undefined = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the predictions of each image, as COCO's results without ids of images."""
        for entry, output in zip(inputs, outputs, strict=True):
            key = _key(entry)
            if key not in self._records:
                continue
            if "instances" in output and key not in self._predictions:
                instances = output["instances"].to("cpu")
                self._predictions[key] = self._results(instances, self._records[key])
            elif "proposals" in output:
                self._proposals.setdefault(key, output["proposals"].to("cpu"))

    def evaluate(self) -> dict[str, dict[str, float]]:
        extra = self._undefined, self._proposals
        gathered = gather_by_image(self._predictions, extra, distributed=self._distributed)
        if gathered is None:
            return {}
        predictions, extras = gathered
        undefined = [count for count, _ in extras]
        proposals = {key: found for _, some in extras for key, found in some.items()}
        if proposals and not predictions:
            return {"box_proposals": self._recall_of(proposals)}
        self._warn(predictions, sum(undefined))
        if self._output_dir:
            self._write(predictions)
        records = {key: self._records[key] for key in predictions}
        if not any("annotations" in record for record in records.values()):
            logger.info("%s has no annotations; there is nothing to score.", self._dataset_name)
            return {}
        truth = {key: ground_truth_of(record) for key, record in records.items()}
        results = OrderedDict()
        for task in self._tasks(predictions, truth):
            images = self._images(task, predictions, truth)
            results[task] = coco_scores(
                images,
                task,
                self._names,
                max_detections=self._max_detections,
                oks_sigmas=self._oks_sigmas,
            )
            logger.info(
                "%s on %d images of %s, at most %d detections an image%s:\n%s",
                task,
                len(images),
                self._dataset_name,
                self._max_detections,
                " (COCO's own setting)" if self._max_detections == COCO_MAX_DETECTIONS else "",
                _table(results[task]),
            )
        return results

    def _results(self, instances: Instances, record: dict) -> list[dict]:
        image, size = record["file_name"], (record["height"], record["width"])
        classes = np.asarray(instances.pred_classes)
        check_classes(classes, len(self._names), image, "MODEL.ROI_HEADS.NUM_CLASSES")
        results = DetectedInstances.of(instances, size, image).coco_results()
        defined = [one for one in results if one["score"] == one["score"]]
        self._undefined += len(results) - len(defined)
        return defined

    def _recall_of(self, proposals: dict[Any, Instances]) -> dict[str, float]:
        """AR of class-agnostic boxes, as detectron2's evaluator names it."""
        keys = list(proposals)
        truth = [ground_truth_of(self._records[key]) for key in keys]
        results = proposal_recall([(image, proposals[key]) for image, key in zip(
            truth, keys, strict=True)])  # fmt: skip
        logger.info("Proposals on %d images of %s: %s", len(keys), self._dataset_name, results)
        return results

    def _tasks(self, predictions: dict, truth: dict) -> list[str]:
        """What predictions and ground truth have: boxes, where there are no predictions at all."""
        keys = {key for found in predictions.values() for one in found for key in one}
        tasks = ["bbox"]
        for task, key in (("segm", "segmentation"), ("keypoints", "keypoints")):
            if key in keys and any(key in one for image in truth.values() for one in image):
                tasks.append(task)
        return tasks

    def _images(self, task: str, predictions: dict, truth: dict) -> list[tuple]:
        """Ground truth and predictions of the images that a task can be evaluated on."""
        images, without, empty = [], 0, 0
        for key, targets in truth.items():
            if task == "segm":
                if any("segmentation" not in one for one in targets):
                    without += 1
                    continue
                rles = [one["segmentation"] for one in targets]
                kept = [
                    one
                    for one, rle in zip(targets, rles, strict=True)
                    if mask_area(rle, *rle["size"])
                ]
                empty += len(targets) - len(kept)
                targets = kept
            elif task == "keypoints":
                targets = [
                    one if "keypoints" in one else {**one, "keypoints": [], "num_keypoints": 0}
                    for one in targets
                ]
                targets = [one for one in targets if one["keypoints"]]
            images.append((targets, predictions[key]))
        if without:
            logger.warning(
                "%d images of %s have instances without a mask; masks are evaluated on the others.",
                without, self._dataset_name,
            )  # fmt: skip
        if empty:
            logger.warning(
                "%d instances of %s have a mask without a pixel; no prediction is asked for.",
                empty, self._dataset_name,
            )  # fmt: skip
        return images

    def _warn(self, predictions: dict, undefined: int) -> None:
        if len(predictions) < len(self._records):
            logger.warning(
                "%d of %d images of %s were evaluated.",
                len(predictions), len(self._records), self._dataset_name,
            )  # fmt: skip
        if undefined:
            logger.warning("%d predictions have a score of nan; they do not count.", undefined)
        if not any(predictions.values()):
            logger.warning("There is no prediction at all on %s.", self._dataset_name)
        counts = [
            sum(not a.get("iscrowd", 0) for a in self._records[key].get("annotations", ()))
            for key in predictions
        ]
        over = sum(count > self._max_detections for count in counts)
        if over:
            logger.warning(
                "%d images of %s have more than the %d instances that are evaluated, up to %d: no "
                "model can find all. Set TEST.DETECTIONS_PER_IMAGE %d.",
                over, self._dataset_name, self._max_detections, max(counts), max(counts),
            )  # fmt: skip

    def _write(self, predictions: dict[Any, list[dict]]) -> None:
        results = [
            {
                "image_id": self._records[key].get("image_id", key),
                **one,
                "category_id": self._category_ids.get(one["category_id"], one["category_id"]),
            }
            for key, found in predictions.items()
            for one in found
        ]
        assert self._output_dir is not None
        with written_whole(os.path.join(self._output_dir, RESULTS_FILE)) as temporary:
            temporary.write_text(json.dumps(results), encoding="utf-8")


def _key(entry: dict) -> Any:
    """What tells images apart: `image_id`, or the file where there is none."""
    return entry["image_id"] if "image_id" in entry else os.path.abspath(entry["file_name"])


def _table(scores: dict[str, float]) -> str:
    from tabulate import tabulate

    shown = {name: scores[name] for name in METRICS if name in scores}
    table = tabulate([list(shown.values())], list(shown), tablefmt="pipe", floatfmt=".3f")
    rows = [(name[3:], score) for name, score in scores.items() if name.startswith("AP-")]
    if rows:
        table += "\n" + tabulate(rows, ("class", "AP"), tablefmt="pipe", floatfmt=".3f")
    return table
