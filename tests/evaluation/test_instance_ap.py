"""The rules of Cityscapes instance AP, each worked by hand on a frame of 40 x 40 pixels."""

import numpy as np
import pytest

from deepfuse_d2.evaluation import instance_ap
from deepfuse_d2.evaluation.instance_matching import match
from deepfuse_d2.structures.mask_crops import crops_from_masks

PERSON, CAR = 24, 26
SIZE = (40, 40)


def _area(rows, columns):
    mask = np.zeros(SIZE, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


LEFT = _area((0, 20), (0, 10))  # 200 pixels
RIGHT = _area((0, 20), (20, 30))  # 200 pixels
BELOW = _area((30, 40), (0, 20))  # 200 pixels
EMPTY = _area((0, 0), (0, 0))


def _match(ground_truth, predictions, image="a"):
    """ground_truth: {id: mask}; predictions: [(mask, label, score)]."""
    gt_map = np.full(SIZE, 7, dtype=np.uint16)  # road
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
        void_labels=(0, 4, -1),
    )


def _ap(*records, label=CAR):
    return instance_ap.accumulate(records, [label])[0]


def test_a_perfect_prediction_has_ap_1_at_every_overlap():
    np.testing.assert_array_equal(_ap(_match({26001: LEFT}, [(LEFT, CAR, 0.3)])), np.ones(10))


def test_an_overlap_equal_to_the_threshold_is_no_match():
    half = _area((0, 10), (0, 10))  # IoU 100 / 200
    np.testing.assert_array_equal(_ap(_match({26001: LEFT}, [(half, CAR, 0.9)])), np.zeros(10))
    more = half | _area((10, 11), (0, 10))  # IoU 0.55, which is not above 0.55
    ap = _ap(_match({26001: LEFT}, [(more, CAR, 0.9)]))
    assert ap[0] == 1.0
    np.testing.assert_array_equal(ap[1:], 0.0)


def test_further_matches_of_a_target_are_false_whatever_their_order():
    predictions = [(LEFT, CAR, 0.5), (LEFT, CAR, 0.9), (LEFT, CAR, 0.7)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        record = _match({26001: LEFT}, [predictions[i] for i in order])
        outcome = instance_ap.outcomes([record], CAR, 0.5)
        assert sorted(zip(outcome.scores, outcome.is_true, strict=True)) == [
            (0.5, 0),
            (0.7, 0),
            (0.9, 1),
        ]


def test_equal_scores_enter_the_curve_together():
    # One point (precision 1/2, recall 1) and the end (1, 0): each is half a recall wide.
    record = _match({26001: LEFT}, [(LEFT, CAR, 0.9), (LEFT, CAR, 0.9)])
    np.testing.assert_allclose(_ap(record), 0.75)


def test_the_curve_is_integrated_with_the_official_widths():
    # Scores 0.9 true, 0.8 false, 0.7 true, three targets. Points from low score to high:
    # precision 2/3, 1/2, 1, 1; recall 2/3, 1/3, 1/3, 0; widths 1/6, 1/6, 1/6, 1/6.
    record = _match(
        {26001: LEFT, 26002: RIGHT, 26003: BELOW},
        [(LEFT, CAR, 0.9), (_area((20, 30), (30, 40)), CAR, 0.8), (RIGHT, CAR, 0.7)],
    )
    np.testing.assert_allclose(_ap(record), (2 / 3 + 1 / 2 + 1 + 1) / 6)


def test_a_group_is_no_target_and_what_matches_it_counts_for_nothing():
    ground_truth = {26001: LEFT, 26: RIGHT}
    with_group = _match(ground_truth, [(LEFT, CAR, 0.5), (RIGHT, CAR, 0.9)])
    np.testing.assert_array_equal(_ap(with_group), np.ones(10))
    assert instance_ap.outcomes([with_group], CAR, 0.5).targets == 1


def test_a_group_of_another_class_excuses_nothing():
    record = _match({26001: LEFT, 24: RIGHT}, [(RIGHT, CAR, 0.9)])
    assert instance_ap.outcomes([record], CAR, 0.5).scores.tolist() == [0.9]


def test_a_prediction_is_ignored_only_where_more_than_the_threshold_is_void():
    # 120 of 200 pixels are void: ignored at 0.5 and 0.55, false from 0.6000000000000001 on.
    ground_truth = {26001: LEFT, 4: _area((0, 12), (20, 30))}
    record = _match(ground_truth, [(LEFT, CAR, 0.5), (RIGHT, CAR, 0.9)])
    counts = [len(instance_ap.outcomes([record], CAR, t).scores) for t in instance_ap.OVERLAPS]
    assert counts == [1, 1] + [2] * 8


def test_instances_under_100_pixels_are_no_targets_and_excuse_what_lies_on_them():
    small = _area((0, 9), (20, 31))  # 99 pixels
    record = _match({26001: small}, [(small, CAR, 0.9)])
    assert np.isnan(_ap(record)).all()
    covering = _area((0, 9), (20, 37))  # 153 pixels, IoU 0.65, 65 % ignored
    record = _match({26001: small, 26002: LEFT}, [(covering, CAR, 0.9)])
    assert [len(instance_ap.outcomes([record], CAR, t).scores) for t in (0.5, 0.7)] == [0, 1]


def test_an_instance_of_exactly_100_pixels_is_a_target():
    tiny = _area((0, 10), (20, 30))
    np.testing.assert_array_equal(_ap(_match({26001: tiny}, [(tiny, CAR, 0.9)])), np.ones(10))


def test_a_small_group_counts_twice_among_ignored_pixels():
    # 60 of 200 pixels lie on a group of 60 pixels: 2 * 60 / 200 = 0.6 is more than 0.5.
    record = _match({26001: LEFT, 26: _area((0, 6), (20, 30))}, [(RIGHT, CAR, 0.9)])
    assert len(instance_ap.outcomes([record], CAR, 0.5).scores) == 0
    assert len(instance_ap.outcomes([record], CAR, 0.65).scores) == 1


def test_ap_is_0_where_all_predictions_of_a_class_with_targets_are_ignored():
    # cityscapesScripts issue 89: the official script stops here.
    record = _match({26001: LEFT, 4: RIGHT}, [(RIGHT, CAR, 0.9)])
    outcome = instance_ap.outcomes([record], CAR, 0.5)
    assert (outcome.predictions, len(outcome.scores), outcome.missed) == (1, 0, 1)
    np.testing.assert_array_equal(_ap(record), np.zeros(10))


def test_ap_is_nan_without_targets_and_0_without_predictions():
    assert np.isnan(_ap(_match({}, [(LEFT, CAR, 0.9)]))).all()
    assert np.isnan(_ap(_match({}, []))).all()
    np.testing.assert_array_equal(_ap(_match({26001: LEFT}, [])), np.zeros(10))
    assert np.isnan(_ap()).all()


def test_an_empty_mask_and_a_class_that_is_not_evaluated_are_no_predictions():
    record = _match({26001: LEFT}, [(EMPTY, CAR, 0.9), (LEFT, 7, 0.9), (LEFT, CAR, 0.1)])
    assert record.pred_scores.tolist() == [0.1]


def test_targets_missed_in_other_images_lower_recall():
    found = _match({26001: LEFT}, [(LEFT, CAR, 0.9)], "a")
    missed = _match({26001: LEFT}, [], "b")
    np.testing.assert_allclose(_ap(found, missed), 0.5)


def test_the_order_of_images_changes_no_bit():
    rng = np.random.default_rng(0)
    records = []
    for image in range(6):
        predictions = [
            (_area((0, int(rng.integers(8, 21))), (0, 10)), CAR, float(rng.choice([0.5, 0.9])))
            for _ in range(4)
        ]
        records.append(_match({26001: LEFT, 26002: RIGHT}, predictions, str(image)))
    expected = _ap(*records)
    for _ in range(5):
        shuffled = [records[i] for i in rng.permutation(6)]
        np.testing.assert_array_equal(_ap(*shuffled), expected)


def test_the_record_keeps_overlaps_between_classes():
    record = _match({26001: LEFT, 24001: RIGHT}, [(LEFT | RIGHT, CAR, 0.9)])
    assert record.gt_ids.tolist() == [24001, 26001]
    assert record.pair_gt.tolist() == [0, 1]
    assert record.pair_pixels.tolist() == [200, 200]


def test_more_than_250_instances_in_one_frame_are_kept_apart():
    gt_map = 26000 + np.arange(1600, dtype=np.uint16).reshape(SIZE) // 4  # 400 cars of 4 pixels
    record = match(
        "a",
        gt_map,
        crops_from_masks(gt_map[None] == 26399),
        [CAR],
        [1.0],
        labels=(CAR,),
        void_labels=(),
    )
    assert record.gt_ids[record.pair_gt].tolist() == [26399]
    assert record.pair_pixels.tolist() == [4]


def test_averages_leave_out_undefined_classes():
    ap = np.full((2, 10), np.nan)
    assert np.isnan(list(instance_ap.average(ap, ["person", "car"]).values())).all()
    ap[1] = [1.0] + [0.0] * 9
    result = instance_ap.average(ap, ["person", "car"])
    assert list(result) == ["AP", "AP50", "AP-person", "AP50-person", "AP-car", "AP50-car"]
    np.testing.assert_allclose(list(result.values()), [10, 100, np.nan, np.nan, 10, 100])


def test_overlaps_under_one_half_are_refused():
    with pytest.raises(ValueError, match=r"0.3 is below 0.5"):
        instance_ap.accumulate([_match({26001: LEFT}, [])], [CAR], [0.3])


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match="a: 1 masks, 2 classes and 1 scores"):
        match(
            "a",
            np.zeros(SIZE, dtype=np.uint16),
            crops_from_masks(LEFT[None]),
            [CAR, CAR],
            [1.0],
            labels=(CAR,),
            void_labels=(),
        )


def test_ids_beyond_16_bits_are_refused():
    with pytest.raises(ValueError, match="frame: ground truth holds ids from -1 to 5"):
        match(
            "frame",
            np.array([[-1, 5]], dtype=np.int32),
            iter(()),
            [],
            [],
            labels=(CAR,),
            void_labels=(),
        )
