"""Predictions as plain values and PNGs: the same content as the other forms, for every model."""

import json

import cv2
import numpy as np
import pytest
from inference_models import busy_rcnn, images, rcnn_cfg

from deepfuse_d2.inference import Predictor

PANOPTIC = (
    "MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.FPN.NORM", "BN",
)  # fmt: skip


@pytest.fixture
def image():
    return images((70, 100), seed=2)[0]["image"].numpy().transpose(1, 2, 0).astype(np.uint8)


def decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_instances_are_cocos_results(image):
    predictor = Predictor.from_model(busy_rcnn(), rcnn_cfg())
    record = predictor(image, "record")
    assert set(record) == {"height", "width", "instances"}
    assert (record["height"], record["width"]) == (70, 100)
    assert record["instances"] == predictor(image, "rle")
    assert len(record["instances"]) > 5
    json.dumps(record)


def test_instances_of_tiles_are_too(image):
    predictor = Predictor.from_model(busy_rcnn(), rcnn_cfg(), tile=(64, 64), tile_overlap=32)
    record = predictor(image, "record")
    assert record["instances"] == predictor(image, "rle")
    assert len(record["instances"]) > 5


def test_labels_are_a_png_of_one_channel(labels_folder, image):
    predictor = Predictor(labels_folder)
    record = predictor(image, "record")
    assert set(record) == {"height", "width", "labels"}
    np.testing.assert_array_equal(decoded(record["labels"]), predictor(image))


def test_a_panoptic_model_gives_instances_labels_and_cocos_panoptic_png(image):
    predictor = Predictor.from_model(busy_rcnn(*PANOPTIC), rcnn_cfg(*PANOPTIC))
    record, native = predictor(image, "record"), predictor(image)
    ids, segments = native["panoptic_seg"]
    blue, green, red = np.moveaxis(decoded(record["panoptic"]).astype(int), -1, 0)
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, ids)
    assert [one["id"] for one in record["segments"]] == [one["id"] for one in segments]
    np.testing.assert_array_equal(decoded(record["labels"]), native["sem_seg"])
    assert len(record["instances"]) == len(native["instances"])
    json.dumps(record["segments"])
