"""Kinds of error, AP by size and the files of the report, worked by hand."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.evaluation_oracle.cases import LABEL_OF, random_case
from deepfuse_d2.evaluation import instance_ap
from deepfuse_d2.evaluation.instance_errors import KINDS, best_threshold, image_errors
from deepfuse_d2.evaluation.instance_matching import match
from deepfuse_d2.evaluation.instance_report import write_report
from deepfuse_d2.structures.mask_crops import crops_from_masks

PERSON, CAR = 24, 26
SIZE = (200, 200)


def _area(rows, columns):
    mask = np.zeros(SIZE, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def _match(ground_truth, predictions, image="a"):
    gt_map = np.full(SIZE, 7, dtype=np.uint16)
    for instance_id, mask in ground_truth.items():
        gt_map[mask] = instance_id
    masks = np.array([mask for mask, _, _ in predictions], dtype=bool).reshape(-1, *SIZE)
    return match(
        image,
        gt_map,
        crops_from_masks(masks),
        [label for _, label, _ in predictions],
        [score for _, _, score in predictions],
        labels=(PERSON, CAR),
        void_labels=(0, 4),
    )


LEFT = _area((0, 20), (0, 20))
RIGHT = _area((0, 20), (40, 60))
BELOW = _area((100, 120), (0, 20))
NOWHERE = _area((150, 170), (150, 170))


def _errors(*predictions, threshold=0.0, ground_truth=None):
    record = _match(ground_truth or {26001: LEFT, 24001: RIGHT}, predictions)
    return image_errors(record, (PERSON, CAR), {PERSON: threshold, CAR: threshold})


def _of(errors, label):
    counts = errors.counts[(PERSON, CAR).index(label)]
    return {kind: n for kind, n in zip(KINDS, counts.tolist(), strict=True) if n}


def test_each_prediction_is_of_one_kind():
    errors = _errors(
        (LEFT, CAR, 0.9),
        (LEFT, CAR, 0.8),
        (np.roll(LEFT, 10, axis=1), CAR, 0.7),  # IoU 1 / 3
        (RIGHT, CAR, 0.6),
        (NOWHERE, CAR, 0.5),
    )
    assert _of(errors, CAR) == {
        "found": 1,
        "duplicate": 1,
        "mislocalised": 1,
        "wrong class": 1,
        "background": 1,
    }
    assert _of(errors, PERSON) == {"missed": 1}
    assert errors.errors == 5
    np.testing.assert_array_equal(errors.confusion, [[0, 1], [0, 2]])


def test_the_best_score_finds_a_target_and_the_others_are_duplicates():
    errors = _errors((LEFT, CAR, 0.2), (LEFT, CAR, 0.9), (LEFT, CAR, 0.5))
    assert _of(errors, CAR) == {"found": 1, "duplicate": 2}


def test_predictions_on_groups_and_void_are_no_error():
    ground_truth = {26: LEFT, 24: RIGHT, 4: BELOW}
    predictions = [(LEFT, CAR, 0.9), (BELOW, CAR, 0.9)]
    assert _errors(*predictions, ground_truth=ground_truth).errors == 0


def test_predictions_below_the_threshold_do_not_count():
    errors = _errors((LEFT, CAR, 0.4), (NOWHERE, CAR, 0.1), threshold=0.5)
    assert _of(errors, CAR) == {"missed": 1}


@pytest.mark.parametrize("seed", range(30))
def test_kinds_add_up_to_what_average_precision_counts(seed):
    from cityscapesscripts.helpers.labels import labels as table

    labels = list(LABEL_OF.values())
    records = [
        match(
            str(number),
            frame.gt_map,
            crops_from_masks(frame.masks),
            [LABEL_OF[name] for name in frame.names],
            frame.scores,
            labels=labels,
            void_labels=[x.id for x in table if x.ignoreInEval],
        )
        for number, frame in enumerate(random_case(seed))
    ]
    everything = dict.fromkeys(labels, -np.inf)
    counts = sum(image_errors(record, labels, everything).counts for record in records)
    for row, label in zip(counts, labels, strict=True):
        outcome = instance_ap.outcomes(records, label, 0.5)
        assert row[0] == outcome.is_true.sum()
        assert row[1] == outcome.missed
        assert row[2:].sum() == (~outcome.is_true).sum()


def test_the_threshold_is_where_f1_is_best():
    record = _match(
        {26001: LEFT, 26002: RIGHT},
        [(LEFT, CAR, 0.9), (RIGHT, CAR, 0.6), (NOWHERE, CAR, 0.3), (BELOW, CAR, 0.2)],
    )
    assert best_threshold(instance_ap.outcomes([record], CAR, 0.5)) == 0.6
    assert best_threshold(instance_ap.outcomes([record], PERSON, 0.5)) == np.inf


def test_sizes_part_targets_and_false_positives_by_their_own_area():
    small, medium, large = (_area((0, n), (0, n)) for n in (20, 60, 120))
    for name, mask, others in (("s", small, "ml"), ("m", medium, "sl"), ("l", large, "sm")):
        record = _match({26001: mask}, [(mask, CAR, 0.5)])
        ap = {key: _scoped(record, key) for key in "sml"}
        assert ap[name] == 1
        assert all(np.isnan(ap[other]) for other in others)
    # a large false positive is an error of the large alone, and of all
    predictions = [(LEFT, CAR, 0.5), (_area((60, 190), (60, 190)), CAR, 0.9)]
    record = _match({26001: LEFT}, predictions)
    assert _scoped(record, "s") == 1
    assert instance_ap.accumulate([record], [CAR])[0, 0] < 1


def _scoped(record, name):
    scope = instance_ap.BY_SIZE[name]
    return instance_ap.mean_defined(instance_ap.accumulate([record], [CAR], scope=scope))


def test_the_report_sorts_images_by_their_errors(tmp_path):
    good = _match({26001: LEFT}, [(LEFT, CAR, 0.9)], "good")
    bad = _match({26001: LEFT, 26002: RIGHT}, [(NOWHERE, CAR, 0.9)], "bad")
    records = [good, bad]
    labels, names = [PERSON, CAR], ["person", "car"]
    ap = instance_ap.accumulate(records, labels)
    write_report(
        str(tmp_path / "made" / "here"),
        dataset="two_images",
        names=names,
        labels=labels,
        records=records,
        results=instance_ap.average(ap, names),
        ap=ap,
        at_50=[instance_ap.outcomes(records, label, 0.5) for label in labels],
    )
    folder = tmp_path / "made" / "here"
    with open(folder / "cityscapes_instance_images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["bad", "good"]
    assert rows[0]["missed"] == "2"
    assert rows[0]["background"] == "1"
    assert rows[0]["errors"] == "3"
    assert rows[1]["found"] == rows[1]["targets"] == "1"
    report = json.loads((folder / "cityscapes_instance_results.json").read_text())
    assert report["classes"]["car"]["outcomes"]["missed"] == 2
    assert report["classes"]["person"]["best_score_threshold"] is None
    for name in ("precision_recall", "errors"):
        with Image.open(folder / f"cityscapes_instance_{name}.png") as png:
            assert min(png.size) > 400
