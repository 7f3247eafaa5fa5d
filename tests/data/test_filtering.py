"""Instances too small to learn from are left out of training, and only they."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from deepfuse_d2.data.mappers.filtering import drop_small_instances, instance_area
from deepfuse_d2.errors import DatasetError


def annotation(side, crowd=0):
    """A square of side x side pixels, run-length encoded."""
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[:side, :side] = 1
    return {"segmentation": mask_util.encode(mask), "iscrowd": crowd}


def record(*annotations):
    return {"height": 40, "width": 60, "annotations": list(annotations)}


def test_instances_under_the_area_go_and_those_of_it_stay():
    (kept,) = drop_small_instances([record(annotation(9), annotation(10), annotation(30))], 100)
    assert [instance_area(a, kept) for a in kept["annotations"]] == [100, 900]


def test_images_without_an_instance_go_and_groups_do_not_keep_them():
    records = [record(annotation(5)), record(annotation(5), annotation(30, crowd=1))]
    with pytest.raises(DatasetError, match=r"All 2 instances .*Lower .*MIN_INSTANCE_AREA"):
        drop_small_instances(records, 100)


def test_groups_stay_whatever_their_size():
    (kept,) = drop_small_instances([record(annotation(20), annotation(2, crowd=1))], 100)
    assert len(kept["annotations"]) == 2


def test_the_records_given_are_left_as_they_are():
    given = record(annotation(5), annotation(20))
    drop_small_instances([given], 100)
    assert len(given["annotations"]) == 2


def test_polygons_are_measured_too():
    square = {"segmentation": [[0, 0, 20, 0, 20, 10, 0, 10]]}
    assert instance_area(square, record()) == pytest.approx(200, rel=0.05)
