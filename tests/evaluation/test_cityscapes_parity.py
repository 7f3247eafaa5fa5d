"""Our instance AP against the official script, on random frames full of rare situations."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.evaluation_oracle.cases import CLASSES, LABEL_OF, random_case
from benchmarks.evaluation_oracle.official import official_results
from deepfuse_d2.evaluation import instance_ap
from deepfuse_d2.evaluation.instance_matching import label_of, match
from deepfuse_d2.structures.mask_crops import crops_from_masks

CASES = 240


def _records(frames, distances=None):
    from cityscapesscripts.helpers.labels import labels

    return [
        match(
            str(number),
            frame.gt_map,
            crops_from_masks(frame.masks),
            [LABEL_OF[name] for name in frame.names],
            frame.scores,
            labels=list(LABEL_OF.values()),
            void_labels=[x.id for x in labels if x.ignoreInEval],
            distances=distances[number] if distances else None,
        )
        for number, frame in enumerate(frames)
    ]


@pytest.mark.parametrize("seed", range(CASES))
def test_every_figure_equals_that_of_the_official_script(seed, tmp_path):
    frames = random_case(seed)
    expected, expected_matrix = official_results(frames, tmp_path)
    matrix = instance_ap.accumulate(_records(frames), list(LABEL_OF.values()))
    np.testing.assert_allclose(matrix, expected_matrix, rtol=0, atol=1e-9)
    result = instance_ap.average(matrix, CLASSES)
    assert list(result) == list(expected)
    np.testing.assert_allclose(list(result.values()), list(expected.values()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_ap_within_a_distance_equals_that_of_the_official_script(seed, tmp_path):
    # 16 times as large: only instances of 1000 pixels are targets
    frames = [
        replace(
            frame,
            gt_map=frame.gt_map.repeat(4, 0).repeat(4, 1),
            masks=frame.masks.repeat(4, 1).repeat(4, 2),
        )
        for frame in random_case(seed)
    ]
    rng = np.random.default_rng(seed)
    distances = []
    for frame in frames:
        ids = np.unique(frame.gt_map)
        of_id = rng.choice([20.0, 49.0, 50.0, 51.0, 99.0, 101.0, np.inf], 1 << 16)
        metres = of_id[frame.gt_map]
        share = rng.choice([0.1, 0.5, 0.9])
        metres[rng.random(metres.shape) > share] = np.nan
        metres[frame.gt_map == rng.choice(ids)] = np.nan
        distances.append(metres)
    expected, _ = official_results(frames, tmp_path, distances)
    records = _records(frames, distances)
    for name, scope in instance_ap.BY_DISTANCE.items():
        ap = instance_ap.accumulate(records, list(LABEL_OF.values()), scope=scope)
        result = 100 * instance_ap.mean_defined(ap)
        np.testing.assert_allclose(result, expected[f"AP{name}"], rtol=0, atol=1e-9)


def test_the_random_cases_hold_all_rare_situations():
    seen = Counter()
    for seed in range(CASES):
        frames = random_case(seed)
        records = _records(frames)
        for record, frame in zip(records, frames, strict=True):
            is_group = record.gt_ids < 1000
            is_small = record.gt_areas < instance_ap.MIN_AREA
            union = record.gt_areas[record.pair_gt] + record.pred_areas[record.pair_pred]
            iou = record.pair_pixels / (union - record.pair_pixels)
            gt_labels = label_of(record.gt_ids)
            same = gt_labels[record.pair_gt] == record.pred_labels[record.pair_pred]
            hits = np.bincount(record.pair_gt[same & (iou > 0.5)], minlength=1)
            seen["group"] += is_group.any()
            seen["small instance"] += is_small.any()
            seen["small group"] += (is_group & is_small).any()
            seen["void overlap"] += record.pred_void.any()
            seen["several predictions on one instance"] += hits.max() > 1
            seen["overlap equal to a threshold"] += np.isin(iou[same], instance_ap.OVERLAPS).any()
            seen["equal scores"] += len(set(record.pred_scores)) < len(record.pred_scores)
            seen["empty mask"] += len(record.pred_scores) < len(frame.names)
            seen["image without ground truth"] += not record.gt_ids.size
            seen["image without predictions"] += not record.pred_scores.size
            seen["image without either"] += not record.gt_ids.size + record.pred_scores.size
        for label in LABEL_OF.values():
            outcome = instance_ap.outcomes(records, label, 0.5)
            has_gt, has_pred = outcome.targets > 0, outcome.predictions > 0
            seen["class without ground truth"] += has_pred and not has_gt
            seen["class without predictions"] += has_gt and not has_pred
            seen["all predictions ignored (issue 89)"] += (
                has_gt and has_pred and not len(outcome.scores)
            )
    assert min(seen.values()) >= 5, seen
    assert len(seen) == 14
