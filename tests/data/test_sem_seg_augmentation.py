"""Augmentation of labelled images: sizes, crops that look at the labels, colours, mistakes."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.data.mappers.sem_seg_augmentation import (
    ClassAwareCrop,
    RandomSaturation,
    ScaleJitter,
    build_sem_seg_augmentation,
    check_labels,
)
from deepfuse_d2.errors import ConfigError

IGNORE = 255


@pytest.fixture(autouse=True)
def _numpy_seed():
    np.random.seed(0)  # noqa: NPY002  (detectron2's augmentations draw from it)


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.merge_from_list(list(overrides))
    return cfg


def applied(augmentation, image, labels):
    given = T.AugInput(image, sem_seg=labels)
    augmentation(given)
    return given.image, given.sem_seg


def street(height=60, width=80):
    """Road (0) almost everywhere, a rider (1) of 4 pixels, void (255) on top."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[:20] = IGNORE
    labels[40:42, 70:72] = 1
    return np.stack([labels] * 3, axis=-1), labels


def test_scale_jitter_draws_the_factor_from_its_range_and_keeps_the_ratio():
    image, labels = street()
    heights = []
    for _ in range(200):
        jitter = ScaleJitter([0], 1000, 0.5, 2.0)
        found, found_labels = applied(jitter, image, labels)
        assert found.shape[:2] == found_labels.shape
        assert found.shape[1] == pytest.approx(found.shape[0] * 80 / 60, abs=1)
        heights.append(found.shape[0])
        assert set(np.unique(found_labels)) <= {0, 1, IGNORE}
    assert 30 <= min(heights) < 35
    assert 115 < max(heights) <= 120
    assert np.mean(heights) == pytest.approx(75, abs=5)


def test_scale_jitter_starts_from_the_shorter_edge_within_the_limit_of_the_longer():
    image, labels = street()
    found, _ = applied(ScaleJitter([30], 1000, 1.0, 1.0), image, labels)
    assert found.shape[:2] == (30, 40)
    found, _ = applied(ScaleJitter([120], 100, 2.0, 2.0), image, labels)
    assert found.shape[:2] == (150, 200)


def test_a_balanced_crop_holds_a_rare_class_about_every_second_time():
    image, labels = street()

    def share(balanced):
        crop = ClassAwareCrop("absolute", (16, 16), balanced=balanced)
        return np.mean([(applied(crop, image, labels)[1] == 1).any() for _ in range(300)])

    assert share(0.0) < 0.12
    # of two classes each is drawn every second time, and is then in the crop
    assert share(1.0) == pytest.approx(0.5, abs=0.1)
    assert share(0.5) == pytest.approx(0.27, abs=0.1)


def test_a_balanced_crop_always_holds_the_drawn_class_and_stays_inside():
    labels = np.full((30, 40), IGNORE, dtype=np.uint8)
    for row, column in ((0, 0), (29, 39), (0, 39), (13, 20)):
        truth = labels.copy()
        truth[row, column] = 3
        image = np.stack([truth] * 3, axis=-1)
        corners = set()
        for _ in range(60):
            crop = ClassAwareCrop("absolute", (12, 10), balanced=1.0)
            transform = crop.get_transform(image, truth)
            found = transform.apply_segmentation(truth)
            assert found.shape == (12, 10)
            assert (found == 3).sum() == 1
            corners.add((transform.x0, transform.y0))
        # around a pixel in the middle, the crop lies in many places
        assert len(corners) > (30 if (row, column) == (13, 20) else 0)


def test_an_image_without_any_label_is_cropped_anywhere():
    labels = np.full((30, 40), IGNORE, dtype=np.uint8)
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    crop = ClassAwareCrop("absolute", (12, 10), max_area=0.5, balanced=1.0)
    lefts = {crop.get_transform(image, labels).x0 for _ in range(80)}
    assert min(lefts) < 5
    assert max(lefts) > 25


def test_no_class_has_more_than_its_share_where_such_a_crop_exists():
    labels = np.zeros((40, 80), dtype=np.uint8)
    labels[:, 40:] = 1
    labels[:, :8] = IGNORE
    image = np.stack([labels] * 3, axis=-1)

    def largest(crop):
        found = applied(crop, image, labels)[1]
        pixels = np.bincount(found[found != IGNORE], minlength=2)
        return pixels.max() / pixels.sum()

    limited = [largest(ClassAwareCrop("absolute", (20, 40), max_area=0.75)) for _ in range(200)]
    free = [largest(ClassAwareCrop("absolute", (20, 40))) for _ in range(200)]
    assert np.mean(np.array(limited) <= 0.75) > 0.98
    assert np.mean(np.array(free) <= 0.75) < 0.7


def test_a_crop_larger_than_the_image_is_the_image():
    image, labels = street()
    found, found_labels = applied(ClassAwareCrop("absolute", (100, 50)), image, labels)
    assert found.shape == (60, 50, 3)
    assert found_labels.shape == (60, 50)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_saturation_mixes_with_the_grey_of_the_channel_order(image_format):
    rgb = np.array([[[200, 100, 40]]], dtype=np.uint8)
    image = rgb if image_format == "RGB" else rgb[..., ::-1]
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 40
    found = RandomSaturation(0.0, 0.0, image_format).get_transform(image).apply_image(image)
    assert np.abs(found.astype(float) - grey).max() < 1
    same = RandomSaturation(1.0, 1.0, image_format).get_transform(image).apply_image(image)
    assert np.array_equal(same, image)


def test_the_config_says_which_steps_there_are_and_in_which_order():
    cfg = config(
        "DEEPFUSE_D2.INPUT.SCALE_JITTER", [0.5, 2.0], "DEEPFUSE_D2.INPUT.COLOR_JITTER", 0.3,
        "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [32, 48],
    )  # fmt: skip
    names = [type(x).__name__ for x in build_sem_seg_augmentation(cfg)]
    assert names == [
        "ScaleJitter", "ClassAwareCrop", "RandomFlip", "RandomBrightness", "RandomContrast",
        "RandomSaturation",
    ]  # fmt: skip
    assert build_sem_seg_augmentation(config("INPUT.RANDOM_FLIP", "none")) == []
    short = build_sem_seg_augmentation(
        config("INPUT.MIN_SIZE_TRAIN", (32, 34), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range")
    )
    assert short[0].short_edges == [32, 33, 34]


def test_detectron2s_mapper_takes_the_list_and_moves_image_and_labels_together(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (60, 80)).astype(np.uint8)
    labels = labels.repeat(4, axis=0).repeat(4, axis=1)
    Image.fromarray(np.stack([labels * 40] * 3, axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    cfg = config(
        "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [64, 64],
        "DEEPFUSE_D2.INPUT.CROP.CLASS_BALANCED", 0.5,
    )  # fmt: skip
    mapper = DatasetMapper(cfg, is_train=True, augmentations=build_sem_seg_augmentation(cfg))
    record = {
        "file_name": str(tmp_path / "a.png"), "sem_seg_file_name": str(tmp_path / "labels.png"),
        "height": 240, "width": 320, "image_id": "a",
    }  # fmt: skip
    for _ in range(20):
        found = mapper(record)
        assert found["image"].shape == (3, 64, 64)
        assert (found["image"][0] == found["sem_seg"] * 40).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["DEEPFUSE_D2.INPUT.SCALE_JITTER", [2.0, 0.5]],
            r"SCALE_JITTER is \[2.0, 0.5\]; give the smallest",
        ),
        (["DEEPFUSE_D2.INPUT.SCALE_JITTER", [1.0]], "SCALE_JITTER"),
        (["DEEPFUSE_D2.INPUT.COLOR_JITTER", 1.0], r"COLOR_JITTER is 1.0; it must be in \[0, 1\)"),
        (
            ["DEEPFUSE_D2.INPUT.CROP.CLASS_BALANCED", 1.5],
            r"CLASS_BALANCED is 1.5; it must be in \[0, 1\]",
        ),
        (
            ["DEEPFUSE_D2.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.0],
            r"MAX_AREA is 0.0; it must be in \(0, 1\]",
        ),
        (
            ["DEEPFUSE_D2.INPUT.CROP.CLASS_BALANCED", 0.5],
            "INPUT.CROP.ENABLED is False; set it True",
        ),
    ],
)
def test_a_wrong_recipe_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_sem_seg_augmentation(config(*overrides))


def test_classes_and_ignored_label_of_the_data_set_must_be_the_heads():
    MetadataCatalog.get("three_classes").set(stuff_classes=["a", "b", "c"], ignore_label=3)
    cfg = config(
        "DATASETS.TRAIN", ("three_classes",), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3,
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 3,
    )  # fmt: skip
    check_labels(cfg)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    with pytest.raises(ConfigError, match=r"VALUE is 255.*have the label 3 in .* three_classes"):
        check_labels(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    with pytest.raises(ConfigError, match="CLASSES is 4; the data set three_classes has 3 classes"):
        check_labels(cfg)
    MetadataCatalog.pop("three_classes")
