"""Our figures against the official scripts' on random cases full of rare situations."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from .cases import CLASSES, LABEL_OF, random_case, random_pixels
from .official import official_pixel_results, official_results

__all__ = ["instance_difference", "pixel_difference"]


def instance_difference(cases: int) -> float:
    """Return the largest difference of any AP in percent; inf if one is nan and the other not."""
    from cityscapesscripts.helpers.labels import labels

    from deepfuse_d2.evaluation.instance_ap import accumulate, average
    from deepfuse_d2.evaluation.instance_matching import match
    from deepfuse_d2.structures.mask_crops import crops_from_masks

    void = [x.id for x in labels if x.ignoreInEval]
    evaluated = list(LABEL_OF.values())
    worst = 0.0
    for seed in range(cases):
        frames = random_case(seed)
        with tempfile.TemporaryDirectory() as folder:
            expected, _ = official_results(frames, Path(folder))
        records = [
            match(
                str(number),
                frame.gt_map,
                crops_from_masks(frame.masks),
                [LABEL_OF[name] for name in frame.names],
                frame.scores,
                labels=evaluated,
                void_labels=void,
            )
            for number, frame in enumerate(frames)
        ]
        result = average(accumulate(records, evaluated), CLASSES)
        worst = max(worst, _difference(expected, result, expected))
    return worst


def pixel_difference(cases: int) -> tuple[float, float]:
    """Return the largest differences of any IoU and of any iIoU in percent."""
    from cityscapesscripts.helpers.labels import trainId2label

    from deepfuse_d2.evaluation.cityscapes_iou import ROWS, reduce_image, row_table, scores
    from deepfuse_d2.evaluation.counting import add_up, count_pairs

    label_ids = np.array([trainId2label[x].id for x in range(19)] + [0])
    rows = row_table()
    worst = {"IoU": 0.0, "iIoU": 0.0}
    for seed in range(cases):
        frames = random_pixels(seed)
        with tempfile.TemporaryDirectory() as folder:
            expected = official_pixel_results(
                [(ids, label_ids[predicted]) for ids, predicted in frames], Path(folder)
            )
        records = [
            reduce_image(count_pairs(ids, predicted, rows, ROWS, 20), label_ids)
            for ids, predicted in frames
        ]
        result = scores(add_up([x.pairs for x in records], (34, 20)), records, label_ids)
        for kind in worst:
            keys = [key for key in result if key.split("-")[0].split("_")[0] == kind]
            worst[kind] = max(worst[kind], _difference(expected, result, keys))
    return worst["IoU"], worst["iIoU"]


def _difference(expected: dict[str, float], result: dict[str, float], keys: object) -> float:
    worst = 0.0
    for key in keys:
        if np.isnan(expected[key]) and np.isnan(result[key]):
            continue
        difference = abs(result[key] - expected[key])
        worst = max(worst, np.inf if np.isnan(difference) else difference)
    return worst
