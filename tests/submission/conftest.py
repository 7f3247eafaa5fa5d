"""Small data sets of every layout that submissions are written for, and outputs of a model."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from deepfuse_d2.data import register_cityscapes_layout
from deepfuse_d2.data.datasets.catalog import register_dataset
from deepfuse_d2.data.datasets.voc import load_voc, voc_metadata

SIZE = (20, 40)
FRAMES = ("bonn_000000_000019", "bonn_000001_000019")


@pytest.fixture
def ground_truth():
    """Instance ids: a car and two persons."""
    ids = np.full(SIZE, 7, dtype=np.uint16)
    ids[2:18, 2:14] = 26000
    ids[4:16, 20:30] = 24000
    ids[4:16, 30:39] = 24001
    return ids


@pytest.fixture
def town(tmp_path, ground_truth):
    """Register two frames as my_instances, my_pixels and, without labels, my_test."""
    root = tmp_path / "town"
    for frame in FRAMES:
        path = root / "leftImg8bit" / "val" / "bonn" / f"{frame}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(path)
        labels = root / "gtFine" / "val" / "bonn"
        labels.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ground_truth).save(labels / f"{frame}_gtFine_instanceIds.png")
        ids = np.where(ground_truth < 1000, ground_truth, ground_truth // 1000)
        Image.fromarray(ids.astype(np.uint8)).save(labels / f"{frame}_gtFine_labelIds.png")
    register_cityscapes_layout("my_instances", root, "val", "instance_seg")
    register_cityscapes_layout("my_pixels", root, "val", "sem_seg")
    register_cityscapes_layout("my_test", root, "val", "instance_seg", with_labels=False)
    yield root
    for name in ("my_instances", "my_pixels", "my_test"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def voc(tmp_path):
    """Register two images without labels as my_voc."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "test.txt").write_text("2008_000006\n2008_000011\n")
    for stem in ("2008_000006", "2008_000011"):
        Image.new("RGB", SIZE[::-1]).save(folder / "JPEGImages" / f"{stem}.jpg")
    metadata = voc_metadata("test")
    register_dataset("my_voc", lambda: load_voc(tmp_path, "test"), metadata)
    yield folder
    DatasetCatalog.remove("my_voc")
    MetadataCatalog.remove("my_voc")


@pytest.fixture
def perfect(ground_truth):
    """What a model without error finds: the three instances, and a mask that is empty."""
    masks = np.stack([ground_truth == x for x in (26000, 24000, 24001, 1)])
    return {"instances": found(masks, [2, 0, 0, 1], [0.9, 0.8, 0.7, 0.6])}


def found(masks, classes, scores):
    instances = Instances(SIZE)
    instances.pred_masks = torch.from_numpy(np.asarray(masks))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]] * len(classes)))
    instances.pred_classes = torch.tensor(classes)
    instances.scores = torch.tensor(scores)
    return instances
