"""What a single MiniCity frame shows, and that picture, label maps and polygons agree."""

from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from deepfuse_d2.data.minicity.cities import CITIES, frame_name
from deepfuse_d2.data.minicity.labels import COLORS, LABEL_IDS, TRAIN_IDS, has_instances, label_id
from deepfuse_d2.data.minicity.render import render_frame

INSTANCE_CLASSES = {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}


@pytest.fixture(scope="module")
def frames():
    """{split: the first 24 frames at half the default size}."""
    return {
        split: [render_frame(0, split, k, 256, 128) for k in range(24)]
        for split in ("train", "val")
    }


def test_label_table_is_that_of_cityscapesscripts():
    from cityscapesscripts.helpers.labels import name2label

    for name, identity in LABEL_IDS.items():
        official = name2label[name]
        assert identity == official.id
        assert TRAIN_IDS[identity] == official.trainId
        assert tuple(COLORS[identity]) == official.color
        assert has_instances(name) == official.hasInstances


def test_groups_have_the_id_of_their_class_and_no_number():
    assert label_id("cargroup") == label_id("car") == 26
    assert has_instances("car")
    assert not has_instances("cargroup")


def test_the_same_frame_comes_out_the_same_whatever_was_drawn_before():
    first = render_frame(3, "train", 5, 256, 128)
    render_frame(3, "val", 1, 320, 160)
    again = render_frame(3, "train", 5, 256, 128)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.instance_ids, again.instance_ids)


@pytest.mark.parametrize("other", [(1, "train", 0), (0, "val", 0), (0, "train", 1)])
def test_seed_split_and_index_each_give_another_street(other):
    assert (
        render_frame(0, "train", 0, 256, 128).image != render_frame(*other, 256, 128).image
    ).any()


def test_a_larger_size_shows_the_same_scene():
    small, large = render_frame(0, "train", 2, 256, 128), render_frame(0, "train", 2, 512, 256)
    shrunk = large.label_ids[::2, ::2]
    assert (shrunk == small.label_ids).mean() > 0.95
    means = cv2.resize(large.image, (256, 128), interpolation=cv2.INTER_AREA).mean((0, 1))
    np.testing.assert_allclose(small.image.mean((0, 1)), means, atol=3)


@pytest.mark.parametrize("size", [(128, 64), (321, 203), (200, 400), (1024, 512)])
def test_any_size_gives_arrays_of_that_size(size):
    frame = render_frame(0, "val", 3, *size)
    assert frame.image.shape == (size[1], size[0], 3)
    assert frame.image.dtype == np.uint8
    assert frame.instance_ids.shape == size[::-1]
    assert frame.instance_ids.dtype == np.uint16


def test_polygons_drawn_in_order_give_the_instance_ids(frames):
    for frame in frames["train"][:8]:
        counts = Counter()
        drawn = np.zeros(frame.instance_ids.shape, np.uint16)
        for label, polygon in frame.objects:
            identity = label_id(label)
            if has_instances(label):
                identity, counts[label] = identity * 1000 + counts[label], counts[label] + 1
            cv2.fillPoly(drawn, [polygon.astype(np.int32)], identity)
        np.testing.assert_array_equal(drawn, frame.instance_ids)


def test_the_official_way_to_draw_polygons_agrees_up_to_outlines(frames):
    # json2instanceImg.py of cityscapesScripts draws with Pillow, whose outlines differ a little.
    for frame in frames["val"][:8]:
        counts = Counter()
        height, width = frame.instance_ids.shape
        official = Image.new("I", (width, height), 0)
        pen = ImageDraw.Draw(official)
        for label, polygon in frame.objects:
            identity = label_id(label)
            if has_instances(label):
                identity, counts[label] = identity * 1000 + counts[label], counts[label] + 1
            pen.polygon([tuple(p) for p in polygon.tolist()], fill=identity)
        assert (np.array(official) == frame.instance_ids).mean() > 0.99


def test_polygons_lie_inside_the_image_and_have_three_corners(frames):
    for frame in frames["train"]:
        height, width = frame.instance_ids.shape
        for _, polygon in frame.objects:
            assert len(polygon) >= 3
            assert polygon.min() >= 0
            assert (polygon < (width, height)).all()


def test_every_pixel_has_a_label_but_for_a_few_at_the_seams(frames):
    unlabeled = np.mean([(f.instance_ids == 0).mean() for f in frames["train"]])
    assert unlabeled < 0.002


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_classes_occur_in_either_split(frames, split):
    train_ids, instances = set(), Counter()
    for frame in frames[split]:
        train_ids |= set(np.unique(TRAIN_IDS[frame.label_ids]).tolist())
        numbers = np.unique(frame.instance_ids[frame.instance_ids >= 1000]) // 1000
        instances.update(numbers.tolist())
    assert train_ids == {*range(19), 255}
    assert all(instances[LABEL_IDS[name]] >= 5 for name in INSTANCE_CLASSES)


def test_groups_void_things_and_the_own_car_occur(frames):
    labels = {label for f in frames["train"] + frames["val"] for label, _ in f.objects}
    assert {"cargroup", "persongroup", "bicyclegroup"} <= labels
    assert {"ego vehicle", "out of roi", "static", "dynamic", "parking", "rail track"} <= labels


def test_sizes_vary_and_a_fifth_of_the_instances_is_partly_hidden():
    areas, hidden = [], []
    for k in range(8):
        frame = render_frame(0, "train", k, 512, 256)
        counts = Counter()
        for label, polygon in frame.objects:
            if label not in INSTANCE_CLASSES:
                continue
            identity = LABEL_IDS[label] * 1000 + counts[label]
            counts[label] += 1
            whole = np.zeros(frame.instance_ids.shape, np.uint8)
            cv2.fillPoly(whole, [polygon.astype(np.int32)], 1)
            areas.append(int((frame.instance_ids == identity).sum()))
            hidden.append(areas[-1] < 0.9 * whole.sum())
    areas = np.array(areas)
    assert (areas < 32**2).sum() > 20
    assert ((areas >= 32**2) & (areas < 96**2)).sum() > 10
    assert (areas >= 96**2).sum() > 0
    assert np.mean(hidden) > 0.2
    assert len(areas) / 8 > 8


def test_cities_differ_between_the_splits_and_names_follow_cityscapes():
    assert not set(CITIES["train"]) & set(CITIES["val"])
    assert frame_name("train", 5) == "brickstad_000001_000019"
    names = [frame_name("train", k) for k in range(100)]
    assert len(set(names)) == 100
