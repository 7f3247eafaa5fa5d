"""Distances from disparity and camera, and AP within a distance, from files on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from deepfuse_d2.errors import DatasetError
from deepfuse_d2.evaluation import CityscapesInstanceEvaluator
from deepfuse_d2.evaluation.distances import read_distances, region_distances
from deepfuse_d2.evaluation.files import frame_file

NAME = "distance_test_instances"
SHAPE = (64, 128)
PRODUCT = 0.25 * 2000  # baseline x focal length: 500 / d metres


def _write(root, metres=None):
    """Write a frame with a near car (left) and a far one (right); return its dataset dict."""
    image = root / "leftImg8bit" / "val" / "ulm" / "ulm_000000_000019_leftImg8bit.png"
    gt_map = np.full(SHAPE, 7, dtype=np.uint16)
    gt_map[:40, :40] = 26001
    gt_map[:40, 80:120] = 26002
    gt_file = frame_file(str(image), "gtFine", "gtFine_instanceIds.png")
    _save(gt_map, gt_file)
    if metres is not None:
        stored = np.where(np.isnan(metres), 0, np.round(PRODUCT / metres * 256) + 1)
        _save(stored.astype(np.uint16), frame_file(str(image), "disparity", "disparity.png"))
        camera = frame_file(str(image), "camera", "camera.json")
        Path(camera).parent.mkdir(parents=True)
        with open(camera, "w") as file:
            json.dump({"extrinsic": {"baseline": 0.25}, "intrinsic": {"fx": 2000}}, file)
    return {"file_name": str(image), "instance_file_name": gt_file}


def _save(array, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _metres(left=20.0, right=80.0):
    metres = np.full(SHAPE, np.nan)
    metres[:, :64] = left
    metres[:, 64:] = right
    return metres


def _evaluate(entry, columns):
    """Evaluate car predictions of rows 0..40 and the columns given."""
    DatasetCatalog.register(NAME, lambda: [entry])
    MetadataCatalog.get(NAME).set(thing_classes=["car"])
    try:
        evaluator = CityscapesInstanceEvaluator(NAME)
        masks = torch.zeros(len(columns), *SHAPE, dtype=torch.bool)
        for mask, (start, stop) in zip(masks, columns, strict=True):
            mask[:40, start:stop] = True
        instances = Instances(SHAPE)
        instances.pred_masks = masks
        instances.scores = torch.linspace(0.9, 0.5, len(columns))
        instances.pred_classes = torch.zeros(len(columns), dtype=torch.int64)
        evaluator.process([entry], [{"instances": instances}])
        return evaluator.evaluate()["segm"]
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_distance_is_baseline_times_focal_length_by_disparity(tmp_path):
    metres = _metres(20.0, 62.5)
    metres[0, 0] = np.nan
    read = read_distances(_write(tmp_path, metres)["file_name"])
    np.testing.assert_allclose(read, metres, rtol=1e-3)
    assert np.isnan(read[0, 0])


def test_a_disparity_of_0_is_infinitely_far(tmp_path):
    entry = _write(tmp_path, _metres())
    path = frame_file(entry["file_name"], "disparity", "disparity.png")
    _save(np.ones(SHAPE, dtype=np.uint16), path)
    assert np.isinf(read_distances(entry["file_name"])).all()


def test_there_are_no_distances_without_disparity_or_layout(tmp_path):
    assert read_distances(_write(tmp_path)["file_name"]) is None
    assert read_distances(str(tmp_path / "photo.jpg")) is None


def test_a_camera_file_of_another_kind_is_refused_by_name(tmp_path):
    entry = _write(tmp_path, _metres())
    camera = frame_file(entry["file_name"], "camera", "camera.json")
    with open(camera, "w") as file:
        file.write('{"intrinsic": {}}')
    with pytest.raises(DatasetError, match=r"Camera file .*camera.json cannot be used.*baseline"):
        read_distances(entry["file_name"])


def test_a_disparity_of_another_size_is_refused(tmp_path):
    entry = _write(tmp_path, _metres()[:32])
    with pytest.raises(DatasetError, match=r"has the size \(32, 128\).*ground truth \(64, 128\)"):
        _evaluate(entry, [(0, 40)])


def test_medians_and_densities_are_those_of_each_region():
    codes = np.array([[0, 2, 2, 2], [3, 3, 4, 4]])
    nan = np.nan
    metres = np.array([[1.0, 5.0, 7.0, nan], [nan, nan, 4.0, 9.0]])
    medians, shares = region_distances(codes, metres, 3, first=2)
    np.testing.assert_array_equal(medians, [6.0, -1.0, 6.5])
    np.testing.assert_allclose(shares, [2 / 3, 0, 1])


def test_far_instances_are_no_targets_of_ap_within_50_metres(tmp_path):
    entry = _write(tmp_path, _metres(20.0, 80.0))
    result = _evaluate(entry, [(0, 40)])  # the near car alone is found
    assert result["AP50m"] == 100
    assert result["AP100m"] == result["AP"] < 100
    both = _evaluate(entry, [(0, 40), (80, 120)])  # the far one counts neither for nor against
    assert both["AP50m"] == both["AP100m"] == both["AP"] == 100


def test_instances_of_uncertain_distance_are_no_targets(tmp_path):
    metres = _metres(20.0, 30.0)
    metres[:21, 80:120] = np.nan  # more than half of the right car
    result = _evaluate(_write(tmp_path, metres), [(0, 40)])
    assert result["AP50m"] == result["AP100m"] == 100
    assert result["AP"] < 100


def test_there_are_no_figures_by_distance_without_disparity(tmp_path):
    assert not {"AP100m", "AP50m"} & set(_evaluate(_write(tmp_path), [(0, 40)]))
