"""Joined tiles and the forms of results, against plain references."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco

from deepfuse_d2.errors import ConfigError, ImageError
from deepfuse_d2.inference.instance_tiles import merge_tiles, tiles_of
from deepfuse_d2.inference.results import (
    convert,
    convert_labels,
    labels_of_logits,
)
from deepfuse_d2.structures import detected_instances
from deepfuse_d2.structures.detected_instances import DetectedInstances
from deepfuse_d2.structures.mask_crops import MaskCrop


def found(size, *entries):
    """(class, score, (x0, y0, x1, y1)) with the box, or all but its first column, as the mask."""
    crops = []
    for _, _, (x0, y0, x1, y1) in entries:
        crops.append(MaskCrop(y0, x0, np.ones((y1 - y0, x1 - x0), dtype=bool)))
    return DetectedInstances(
        size,
        np.array([box for _, _, box in entries], dtype=np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in entries], dtype=np.float32),
        np.array([label for label, _, _ in entries], dtype=np.int64),
        crops,
    )


def test_tiles_cover_the_image_and_overlap():
    tiles = list(tiles_of(100, 250, (64, 128), 20))
    seen = np.zeros((100, 250), dtype=int)
    for top, left, bottom, right in tiles:
        assert (bottom - top, right - left) == (64, 128)
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1
    assert [t[1] for t in tiles[:3]] == [0, 108, 122]
    assert list(tiles_of(50, 60, (64, 128), 20)) == [(0, 0, 50, 60)]


@pytest.mark.parametrize("masked", [True, False])
def test_an_object_cut_by_a_border_becomes_one_and_one_seen_twice_too(masked):
    left, right = (0, 0, 60, 100), (0, 80, 60, 180)
    parts = [
        # cut by the border, whole in the overlap, in the left tile alone
        (left, found((60, 100), (1, 0.9, (70, 10, 100, 30)), (2, 0.6, (84, 40, 96, 50)),
                     (1, 0.3, (5, 5, 20, 20)))),
        # in pixels of the tile at 80
        (right, found((60, 100), (1, 0.7, (0, 10, 40, 30)), (2, 0.8, (4, 40, 16, 50)))),
    ]  # fmt: skip
    if not masked:
        for _, part in parts:
            part.crops = None
    merged = merge_tiles(parts, (60, 180))
    assert merged.size == (60, 180)
    assert merged.classes.tolist() == [1, 2, 1]
    assert merged.scores == pytest.approx([0.9, 0.8, 0.3])
    assert merged.boxes.tolist() == [[70, 10, 120, 30], [84, 40, 96, 50], [5, 5, 20, 20]]
    assert len(merge_tiles(parts, (60, 180), limit=2)) == 2
    if not masked:
        assert merged.crops is None
        return
    expected = np.zeros((60, 180), dtype=bool)
    expected[10:30, 70:120] = True
    assert np.array_equal(merged.instances().pred_masks[0].numpy(), expected)
    assert merged.rles()[0] == MaskCrop.of(expected).rle(60, 180)


def test_an_object_over_four_tiles_becomes_one():
    tiles = list(tiles_of(100, 100, (60, 60), 20))
    parts = []
    for top, left, bottom, right in tiles:
        box = (
            max(20, left) - left,
            max(30, top) - top,
            min(90, right) - left,
            min(85, bottom) - top,
        )
        parts.append(((top, left, bottom, right), found((60, 60), (0, 0.5, box))))
    assert len(parts) == 4
    merged = merge_tiles(parts, (100, 100))
    assert merged.boxes.tolist() == [[20, 30, 90, 85]]
    assert merged.crops[0].pixels.all()
    assert merged.crops[0].pixels.shape == (55, 70)


def test_different_objects_in_an_overlap_stay_apart():
    left, right = (0, 0, 60, 100), (0, 80, 60, 180)
    parts = [
        (left, found((60, 100), (1, 0.9, (70, 10, 100, 30)), (1, 0.5, (82, 40, 90, 50)))),
        # another class there; another place; touching the overlap only with its border
        (right, found((60, 100), (2, 0.7, (0, 10, 40, 30)), (1, 0.8, (12, 40, 19, 50)),
                      (1, 0.6, (0, 28, 40, 50)))),
    ]  # fmt: skip
    assert len(merge_tiles(parts, (60, 180))) == 5
    assert len(merge_tiles([(left, found((60, 100)))], (60, 180))) == 0


@pytest.fixture
def raw():
    """Instances as heads leave them, for an image of half the size."""
    instances = Instances((32, 48))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 3, 20, 30], [10, 5, 40, 20], [5, 5, 5, 9]]))
    instances.scores = torch.tensor([0.9, 0.6, 0.5])
    instances.pred_classes = torch.tensor([1, 0, 1])
    instances.pred_masks = torch.rand(3, 1, 28, 28)
    return instances


METADATA = SimpleNamespace(
    thing_dataset_id_to_contiguous_id={26: 0, 24: 1}, thing_classes=["car", "person"]
)


def test_native_and_rle_hold_the_same_masks(raw):
    before = raw.pred_boxes.tensor.clone()
    native = convert(raw, 64, 96, "native", METADATA)
    assert native.pred_masks.shape == (2, 64, 96)  # the empty box is dropped
    rles = convert(raw, 64, 96, "rle", METADATA)
    assert [entry["category_id"] for entry in rles] == [24, 26]
    assert rles[0]["score"] == pytest.approx(0.9)
    assert rles[0]["bbox"] == [4, 6, 36, 54]
    for entry, mask in zip(rles, native.pred_masks.numpy(), strict=True):
        assert np.array_equal(coco.decode(entry["segmentation"]).astype(bool), mask)
    assert torch.equal(raw.pred_boxes.tensor, before)


def test_pasted_masks_are_those_of_detectron2(raw):
    from detectron2.modeling import detector_postprocess

    found = convert(raw, 64, 96, "native", METADATA)
    expected = detector_postprocess(raw, 64, 96)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_supervision_gets_arrays_and_names(raw):
    supervision = pytest.importorskip("supervision", reason="needs the extra supervision")
    detections = convert(raw, 64, 96, "supervision", METADATA)
    assert type(detections) is supervision.Detections
    # what its users do with them: choose by a condition, draw
    (person,) = detections[detections.confidence > 0.5 * detections.confidence.max()][:1]
    assert person[0].shape == (4,)
    scene = np.zeros((64, 96, 3), np.uint8)
    drawn = supervision.MaskAnnotator().annotate(scene.copy(), detections)
    drawn = supervision.LabelAnnotator().annotate(drawn, detections)
    assert drawn.shape == scene.shape
    assert drawn.any()
    assert detections.xyxy.shape == (2, 4)
    assert detections.mask.shape == (2, 64, 96)
    assert detections.mask.dtype == bool
    assert detections.class_id.tolist() == [1, 0]
    assert detections.data["class_name"].tolist() == ["person", "car"]
    labels = torch.tensor([[3, 3], [0, 3]], dtype=torch.uint8)
    found = convert_labels(labels, *labels.shape, "supervision", SimpleNamespace())
    assert found.class_id.tolist() == [0, 3]
    assert found.mask[0].tolist() == [[False, False], [True, False]]
    assert found.xyxy.tolist() == [[0, 1, 1, 2], [0, 0, 2, 2]]


def test_supervision_that_is_not_installed_is_named(raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        convert(raw, 64, 96, "supervision", METADATA)


def test_label_maps_become_masks_of_classes():
    logits = torch.randn(5, 6, 7)
    labels = labels_of_logits(logits)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), logits.argmax(0))
    assert labels_of_logits(labels) is labels
    for entry in convert_labels(labels, *labels.shape, "rle", METADATA):
        decoded = coco.decode(entry["segmentation"]).astype(bool)
        assert np.array_equal(decoded, (labels == entry["category_id"]).numpy())


def test_masks_that_would_fill_the_memory_are_refused(raw, monkeypatch):
    monkeypatch.setattr(detected_instances, "_MAX_MASK_BYTES", 10_000)
    with pytest.raises(ImageError, match=r'2 masks of 96 x 64 pixels.*output="rle"'):
        convert(raw, 64, 96, "native", METADATA)
    assert len(convert(raw, 64, 96, "rle", METADATA)) == 2
