"""Large-scale jitter, for instances and for labels of pixels."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.data.mappers.instance_mapper import InstanceMapper, build_instance_mapper
from deepfuse_d2.data.mappers.large_scale_jitter import LargeScaleJitter
from deepfuse_d2.data.mappers.record_mapper import RecordMapper
from deepfuse_d2.data.mappers.sem_seg_augmentation import build_sem_seg_augmentation
from deepfuse_d2.errors import ConfigError


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    keys = cfg.DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER
    keys.ENABLED, keys.SIZE = True, [32, 48]
    cfg.merge_from_list(list(overrides))
    return cfg


@pytest.fixture
def record(tmp_path):
    """40 x 50: a bright rectangle on black, and the same as an instance."""
    image = np.zeros((40, 50, 3), dtype=np.uint8)
    image[10:30, 20:40] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    runs = mask_util.encode(np.asfortranarray(image[..., 0] // 255))
    annotation = {
        "bbox": [20, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
        "segmentation": runs,
    }  # fmt: skip
    return {
        "file_name": str(tmp_path / "image.png"), "height": 40, "width": 50,
        "annotations": [annotation],
    }  # fmt: skip


def test_an_image_fits_the_scaled_size_and_at_most_the_size_is_kept():
    np.random.seed(0)  # noqa: NPY002
    jitter, factors = LargeScaleJitter(0.1, 2.0, (32, 48)), []
    for _ in range(300):
        resize, crop = jitter.get_transform(np.zeros((40, 50, 3), np.uint8)).transforms
        factors.append(resize.new_h / 32)
        assert resize.new_w / resize.new_h == pytest.approx(50 / 40, rel=0.2)
        assert (crop.h, crop.w) == (min(resize.new_h, 32), min(resize.new_w, 48))
        assert 0 <= crop.x0 <= resize.new_w - crop.w
        assert 0 <= crop.y0 <= resize.new_h - crop.h
    assert min(factors) < 0.2
    assert max(factors) > 1.9
    assert np.mean(factors) == pytest.approx(1.05, abs=0.1)


def test_scale_1_is_the_long_side_resized_to_the_size():
    (resize, crop) = (
        LargeScaleJitter(1.0, 1.0, (64, 64))
        .get_transform(np.zeros((40, 50, 3), np.uint8))
        .transforms
    )
    assert (resize.new_h, resize.new_w) == (51, 64) == (crop.h, crop.w)


@pytest.mark.parametrize("scale", [[0.1, 0.9], [1.0, 2.0], [0.5, 2.0]])
def test_samples_of_instances_are_those_of_detectron2s_mapper(record, scale):
    cfg = config("DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SCALE", scale)
    ours = build_instance_mapper(cfg)
    assert isinstance(ours, InstanceMapper)
    stock = DatasetMapper(
        cfg, True, augmentations=ours.augmentations, recompute_boxes=ours.recompute_boxes
    )
    sizes = set()
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        expected = stock(record)
        np.random.seed(seed)  # noqa: NPY002
        found = ours(record)
        assert torch.equal(found["image"], expected["image"])
        assert torch.equal(
            found["instances"].gt_masks.tensor, expected["instances"].gt_masks.tensor
        )
        assert torch.equal(
            found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor
        )
        sizes.add(tuple(found["image"].shape[1:]))
    assert len(sizes) > 1 or scale[0] == 1.0
    assert all(height <= 32 and width <= 48 for height, width in sizes)


def test_a_box_ends_where_its_mask_was_cut(record):
    np.random.seed(1)  # noqa: NPY002
    mapper = build_instance_mapper(config("DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SCALE", [2.0, 2.0]))
    for _ in range(20):
        instances = mapper(record)["instances"]
        for box, mask in zip(instances.gt_boxes.tensor, instances.gt_masks.tensor, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            inside = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(value) for value in inside]


def test_a_polygon_that_sticks_out_of_the_crop_is_the_mask_of_its_inside(record):
    mapper = build_instance_mapper(config("DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SCALE", [1.5, 2.0]))
    by_runs, polygons = [], []
    for segmentation, masks in (
        (record["annotations"][0]["segmentation"], by_runs),
        ([[20, 10, 40, 10, 40, 30, 20, 30]], polygons),
    ):
        annotation = {**record["annotations"][0], "segmentation": segmentation}
        for seed in range(10):
            np.random.seed(seed)  # noqa: NPY002
            instances = mapper({**record, "annotations": [annotation]})["instances"]
            masks.append(instances.gt_masks.tensor)
    for first, second in zip(by_runs, polygons, strict=True):
        assert first.shape == second.shape
        # a row of pixels more or less, by the rounding of the edges
        assert (first != second).float().mean() < 0.1
    assert {len(masks) for masks in polygons} == {1}


def test_where_detectron2s_mapper_makes_the_samples_they_are_jittered_too(record):
    mapper = build_instance_mapper(config("DEEPFUSE_D2.INPUT.FAST_MAPPER", False))
    assert isinstance(mapper, RecordMapper)
    assert mapper.recompute_boxes
    np.random.seed(0)  # noqa: NPY002
    sizes = {tuple(mapper(record)["image"].shape[1:]) for _ in range(20)}
    assert len(sizes) > 5
    assert all(height <= 32 and width <= 48 for height, width in sizes)


def test_labels_of_pixels_move_with_the_image():
    cfg = config("INPUT.RANDOM_FLIP", "none")
    (jitter,) = build_sem_seg_augmentation(cfg)
    np.random.seed(0)  # noqa: NPY002
    for _ in range(20):
        image = np.zeros((40, 50, 3), np.uint8)
        image[:, 25:] = 200
        entry = T.AugInput(image, sem_seg=(image[..., 0] > 0).astype(np.uint8))
        jitter(entry)
        assert entry.sem_seg.shape == entry.image.shape[:2]
        assert np.mean((entry.image[..., 0] > 100) == entry.sem_seg) > 0.9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SCALE", [2.0, 0.1]), r"SCALE is \[2\.0, 0\.1\]"),
        (("DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SIZE", [640]), r"SIZE is \[640\]; give height"),
        (("INPUT.CROP.ENABLED", True), r"set INPUT\.CROP\.ENABLED False"),
        (("DEEPFUSE_D2.INPUT.SCALE_JITTER", [0.5, 2.0]), r"SCALE_JITTER \[1\.0, 1\.0\] with it"),
    ],
)
def test_a_wrong_recipe_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_instance_mapper(config(*overrides))
