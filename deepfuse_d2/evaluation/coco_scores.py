"""COCO's AP by pycocotools' own matching, of records that were normalised once.

The JSON file that a data set came from is not read again: what was trained on is what is evaluated.
pycocotools numbers annotations from 1; a file that counts from 0 loses a match by it.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..errors import ConfigError
from ..structures.run_lengths import mask_area, to_rle

__all__ = ["METRICS", "TASKS", "coco_scores", "ground_truth_of", "proposal_recall"]

TASKS = ("bbox", "segm", "keypoints")

# Detections of an image that COCO's own evaluation of keypoints takes.
_COCO_MAX_KEYPOINTS = 20

# name -> IoU threshold (None for the mean of all ten) and range of areas
METRICS = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}


def ground_truth_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """COCO's annotations, without ids, of a record in detectron2's format.

    Masks become compressed RLE; "area" is that of the file where it had one, else the mask's or the
    box's.
    """
    result = []
    for annotation in record.get("annotations", ()):
        box = BoxMode.convert(
            [float(x) for x in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYWH_ABS
        )
        one = {
            "category_id": int(annotation["category_id"]),
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "bbox": [float(x) for x in box],
            "area": annotation.get("area"),
        }
        if annotation.get("segmentation"):
            size = record["height"], record["width"]
            one["segmentation"] = to_rle(annotation["segmentation"], *size)
            if one["area"] is None:
                one["area"] = mask_area(one["segmentation"], *size)
        if one["area"] is None:
            one["area"] = one["bbox"][2] * one["bbox"][3]
        if "keypoints" in annotation:
            # detectron2's are coordinates, COCO's are positions of pixels
            points = [x if i % 3 == 2 else x - 0.5 for i, x in enumerate(annotation["keypoints"])]
            one["keypoints"] = points
            one["num_keypoints"] = sum(x > 0 for x in points[2::3])
        result.append(one)
    return result


def coco_scores(
    images: Sequence[tuple[Sequence[dict], Sequence[dict]]],
    task: str,
    class_names: Sequence[str],
    *,
    max_detections: int = 100,
    oks_sigmas: Sequence[float] = (),
) -> dict[str, float]:
    """AP of a task in percent, nan where it is undefined.

    Args:
        images: ground truth as :func:`ground_truth_of` gives it, and predictions (category_id,
            score, bbox as left, top, width, height, and by task segmentation as RLE, or keypoints)
            of each image.
        task: one of :data:`TASKS`.
        class_names: by category id.
        max_detections: of an image and class, those of the best scores; 100 is COCO's own setting.
            Of keypoints COCO takes 20; as many as there are to find are taken here, and more where
            this number is above 100.
        oks_sigmas: of keypoints; by default COCO's 17.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, and ``AP-<name>`` of each of several
        classes. Keypoints have no small ones.
    """
    from pycocotools.cocoeval import COCOeval

    truth, found = _as_coco(images, task, len(class_names))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, task)
        if task == "keypoints":
            if len(oks_sigmas):
                evaluation.params.kpt_oks_sigmas = np.array(oks_sigmas)
            _check_sigmas(images, len(evaluation.params.kpt_oks_sigmas))
            most = max((len(targets) for targets, _ in images), default=0)
            limit = max_detections if max_detections > 100 else _COCO_MAX_KEYPOINTS
            evaluation.params.maxDets = [max(limit, most)]
        else:
            evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    # thresholds x recalls x classes x ranges of areas x limits of detections
    precision = evaluation.eval["precision"][..., -1]
    areas, thresholds = evaluation.params.areaRngLbl, evaluation.params.iouThrs
    scores = {}
    for name, (threshold, area) in METRICS.items():
        if area in areas:
            chosen = slice(None) if threshold is None else np.isclose(thresholds, threshold)
            scores[name] = _mean(precision[chosen][..., areas.index(area)])
    if len(class_names) > 1:
        for number, name in enumerate(class_names):
            scores[f"AP-{name}"] = _mean(precision[:, :, number, 0])
    return scores


def _check_sigmas(images: Sequence, count: int) -> None:
    found = {len(one.get("keypoints", ())) // 3 for targets, _ in images for one in targets} - {0}
    if found - {count}:
        raise ConfigError(
            f"There are {count} sigmas for the keypoints, and objects with {sorted(found)}. Give "
            "one a keypoint with TEST.KEYPOINT_OKS_SIGMAS, such as 0.05; COCO's own are for its 17."
        )


def proposal_recall(images: Sequence[tuple[Sequence[dict], Any]]) -> dict[str, float]:
    """Average recall of class-agnostic boxes in percent, by detectron2's own count.

    Args:
        images: ground truth as :func:`ground_truth_of` gives it, and Instances with
            ``proposal_boxes`` and ``objectness_logits`` of each image.

    Returns:
        ``AR@100``, ``AR@1000``, and those of small, medium and large objects: ``ARs@100``, ...
    """
    from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals

    truth, _ = _as_coco([(targets, ()) for targets, _ in images], "bbox", 1)
    found = [{"image_id": n, "proposals": proposals} for n, (_, proposals) in enumerate(images)]
    results = {}
    for limit in (100, 1000):
        for area, suffix in (("all", ""), ("small", "s"), ("medium", "m"), ("large", "l")):
            stats = _evaluate_box_proposals(found, truth, area=area, limit=limit)
            results[f"AR{suffix}@{limit}"] = float(stats["ar"]) * 100
    return results


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(100 * defined.mean()) if defined.size else float("nan")


def _as_coco(images: Sequence, task: str, num_classes: int) -> tuple[Any, Any]:
    from pycocotools.coco import COCO

    categories = [{"id": number} for number in range(num_classes)]
    # masks are RLE already: the sizes are asked for, and not used
    listed = [{"id": number, "height": 0, "width": 0} for number in range(len(images))]
    result = []
    for place in (0, 1):
        coco = COCO()
        annotations: list[dict[str, Any]] = []
        for number, image in enumerate(images):
            for one in image[place]:
                one = {**one, "image_id": number, "id": len(annotations) + 1}
                annotations.append(_as_detection(one, task) if place else one)
        coco.dataset = {"images": listed, "categories": categories, "annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        result.append(coco)
    return tuple(result)


def _as_detection(one: dict, task: str) -> dict:
    """What COCO.loadRes makes of a prediction: its area is that of what is evaluated."""
    one["iscrowd"] = 0
    if task == "bbox":
        one["area"] = one["bbox"][2] * one["bbox"][3]
    elif task == "segm":
        one["area"] = mask_area(one["segmentation"], *one["segmentation"]["size"])
    else:
        xs, ys = one["keypoints"][0::3], one["keypoints"][1::3]
        one["area"] = (max(xs) - min(xs)) * (max(ys) - min(ys))
        one["bbox"] = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return one
