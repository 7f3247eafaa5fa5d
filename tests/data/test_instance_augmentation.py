"""Rotation, copy-paste and colours of instances: masks follow the pixels."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks, Instances

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.data.mappers.build import build_mapper
from deepfuse_d2.data.mappers.instance_augmentation import AugmentedInstances
from deepfuse_d2.data.mappers.instance_mapper import InstanceMapper
from deepfuse_d2.data.mappers.seeded_mapper import SeededSamples
from deepfuse_d2.errors import ConfigError


def mapper(record):
    """A sample whose pixels say which object they are of: 100 + its number in its image's value."""
    height, width = record["size"]
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(record["boxes"]), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1), value in zip(masks, record["boxes"], record["values"], strict=True):
        mask[y0:y1, x0:x1] = True
        image[:, mask] = value
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(record["values"])
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return {"image": image, "instances": instances}


A = {"size": (40, 60), "boxes": [(5, 5, 15, 15), (30, 10, 50, 35)], "values": [100, 101]}
B = {"size": (30, 80), "boxes": [(8, 8, 28, 28), (40, 2, 79, 29)], "values": [200, 201]}
EMPTY = {"size": (40, 60), "boxes": [], "values": []}


def assert_masks_follow_pixels(sample):
    """Each mask lies on pixels of its object alone, and its box around it."""
    instances = sample["instances"]
    for mask, value in zip(instances.gt_masks.tensor, instances.gt_classes, strict=True):
        assert (sample["image"][0][mask] == value).all()
    tight = instances.gt_masks.get_bounding_boxes().tensor
    assert torch.equal(instances.gt_boxes.tensor, tight)


def test_pasted_objects_cover_what_lies_below():
    augmented = AugmentedInstances(mapper, copy_paste=1.0)
    augmented.use_records([B])
    seen = set()
    for seed in range(8):
        np.random.seed(seed)  # noqa: NPY002
        sample = augmented(A)
        assert_masks_follow_pixels(sample)
        assert not sample["instances"].gt_masks.tensor.sum(0).gt(1).any()
        seen.add(tuple(sample["instances"].gt_classes.tolist()))
        assert sample["image"].shape == (3, 40, 60)
    assert len(seen) > 1


def test_images_without_objects_are_pasted_on_and_never_from():
    augmented = AugmentedInstances(mapper, copy_paste=1.0)
    augmented.use_records([EMPTY, EMPTY])
    assert len(augmented(A)["instances"]) == 2
    augmented.use_records([B])
    sample = augmented(EMPTY)
    assert len(sample["instances"]) >= 1
    assert_masks_follow_pixels(sample)
    augmented.use_records([])
    assert len(augmented(EMPTY)["instances"]) == 0


def test_a_mosaic_is_made_of_parts_of_four_images_with_their_masks():
    augmented = AugmentedInstances(mapper, mosaic=1.0)
    augmented.use_records([A, B, EMPTY])
    seen = set()
    for seed in range(12):
        np.random.seed(seed)  # noqa: NPY002
        sample = augmented(B)
        assert sample["image"].shape == (3, 30, 80)
        assert_masks_follow_pixels(sample)
        # every pixel of an object whose mask was not left out as too small is in a mask
        masked = sample["instances"].gt_masks.tensor.sum(0)
        assert masked.max() <= 1
        seen |= set(sample["instances"].gt_classes.tolist())
    assert seen == {100, 101, 200, 201}
    augmented.use_records([])
    assert len(augmented(A)["instances"]) == 2


def test_what_is_cut_out_is_cut_out_of_the_masks():
    augmented = AugmentedInstances(mapper, cutout=1.0)
    sizes, plain = set(), mapper(A)
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        sample = augmented(A)
        assert_masks_follow_pixels(sample)
        sizes.add(int((sample["image"] != plain["image"]).any(0).sum()))
    assert min(sizes) > 0.015 * 2400
    assert max(sizes) < 0.11 * 2400
    assert len(sizes) > 10
    assert len(augmented(EMPTY)["instances"]) == 0


def test_masks_turn_with_the_image():
    augmented = AugmentedInstances(mapper, rotation=30.0)
    for seed in range(5):
        np.random.seed(seed)  # noqa: NPY002
        sample = augmented(A)
        for mask, value in zip(
            sample["instances"].gt_masks.tensor, sample["instances"].gt_classes, strict=True
        ):
            # the image is interpolated: its border differs by a pixel
            assert (sample["image"][0][mask] == value).float().mean() > 0.8
    assert len(augmented(EMPTY)["instances"]) == 0


def test_colours_change_pixels_and_nothing_else():
    sample, plain = AugmentedInstances(mapper, color_jitter=0.5)(A), mapper(A)
    assert not torch.equal(sample["image"], plain["image"])
    assert torch.equal(sample["instances"].gt_masks.tensor, plain["instances"].gt_masks.tensor)


def test_the_same_seed_and_place_give_the_same_sample():
    records = [A, B, EMPTY]
    samples = [
        SeededSamples(
            records, AugmentedInstances(mapper, rotation=9.0, copy_paste=0.9, mosaic=0.5), seed=3
        )
        for _ in range(2)
    ]
    for place in range(6):
        one, other = (some[place, place % 3] for some in samples)
        assert torch.equal(one["image"], other["image"])


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.merge_from_list(list(overrides))
    return cfg


def test_all_is_off_by_default_and_wrong_values_are_refused():
    assert type(build_mapper("instances", config(), "train")) is InstanceMapper
    on = build_mapper("instances", config("DEEPFUSE_D2.INPUT.COPY_PASTE", 0.5), "train")
    assert type(on) is AugmentedInstances
    for key, value in (
        ("COPY_PASTE", 1.5), ("ROTATION", -1.0), ("COLOR_JITTER", 1.0), ("MOSAIC", 2.0),
        ("CUTOUT", 7.0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"INPUT\.{key} is .*; allowed"):
            build_mapper("instances", config(f"DEEPFUSE_D2.INPUT.{key}", value), "train")
    for overrides in (("INPUT.MASK_FORMAT", "polygon"), ("MODEL.MASK_ON", False)):
        cfg = config(*overrides, "DEEPFUSE_D2.INPUT.ROTATION", 5.0)
        with pytest.raises(ConfigError, match=r"need MODEL\.MASK_ON: True"):
            build_mapper("instances", cfg, "train")
