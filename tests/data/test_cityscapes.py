import os
import time

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data import register_cityscapes_layout
from deepfuse_d2.data.datasets.cityscapes import load_cityscapes_instances, load_cityscapes_semantic
from deepfuse_d2.errors import DatasetError

CAR, PERSON = 2, 0


def test_instances_become_masks_and_groups_become_crowd(city, instance_ids):
    city.add("aachen_000000_000019", instanceIds=instance_ids)
    (record,) = load_cityscapes_instances(city.root, "train")

    image = city.image_file("train", "aachen", "aachen_000000_000019")
    labels = city.label_file("train", "aachen", "aachen_000000_000019", "instanceIds")
    assert record["file_name"] == str(image)
    assert record["image_id"] == image.name
    assert record["instance_file_name"] == str(labels)
    assert (record["height"], record["width"]) == (20, 30)
    # the trailer is no class of the benchmark
    found = [(a["category_id"], a["iscrowd"], a["bbox"]) for a in record["annotations"]]
    assert found == [
        (PERSON, 1, [20, 0, 30, 3]),
        (CAR, 0, [3, 2, 9, 6]),
        (CAR, 0, [0, 10, 10, 18]),
    ]
    for annotation, value in zip(record["annotations"], (24, 26000, 26001), strict=True):
        mask = mask_util.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, instance_ids == value)


def test_the_second_load_equals_the_first(city, instance_ids):
    city.add("aachen_000000_000019", instanceIds=instance_ids)
    city.add("bonn_000000_000019", city="bonn", instanceIds=np.zeros((20, 30), np.uint16))
    first = load_cityscapes_instances(city.root, "train")
    assert [len(record["annotations"]) for record in first] == [3, 0]
    assert load_cityscapes_instances(city.root, "train") == first


def test_a_changed_label_image_changes_the_annotations(city, instance_ids):
    city.add("aachen_000000_000019", instanceIds=instance_ids)
    assert len(load_cityscapes_instances(city.root, "train")[0]["annotations"]) == 3
    city.add("aachen_000000_000019", instanceIds=np.where(instance_ids == 24, 7, instance_ids))
    assert len(load_cityscapes_instances(city.root, "train")[0]["annotations"]) == 2


def test_all_eight_classes_have_the_ids_of_detectron2(city):
    ids = np.repeat(np.array([24, 25, 26, 27, 28, 31, 32, 33]) * 1000, 3).astype(np.uint16)
    city.add("aachen_000000_000019", size=(2, 24), instanceIds=np.stack([ids, ids]))
    (record,) = load_cityscapes_instances(city.root, "train")
    assert [a["category_id"] for a in record["annotations"]] == list(range(8))


def test_detectron2s_mapper_trains_from_the_dicts_without_the_crowd(city, instance_ids):
    city.add("aachen_000000_000019", instanceIds=instance_ids)
    (record,) = load_cityscapes_instances(city.root, "train")
    options = {"image_format": "BGR", "use_instance_mask": True, "instance_mask_format": "bitmask"}

    mapper = DatasetMapper(True, augmentations=[], **options)
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [CAR, CAR]
    expected = np.stack([instance_ids == 26000, instance_ids == 26001])
    assert torch.equal(instances.gt_masks.tensor, torch.from_numpy(expected))
    assert torch.equal(instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor)

    # a box of integers would lose its fractions here
    mapper = DatasetMapper(True, augmentations=[T.Resize((30, 45))], **options)
    boxes = mapper(record)["instances"].gt_boxes.tensor
    assert boxes.tolist() == [[4.5, 3, 13.5, 9], [0, 15, 15, 27]]


def test_semantic_maps_that_exist_are_used(city):
    train_ids = np.full((20, 30), 255, dtype=np.uint8)
    train_ids[:5] = 18
    city.add("aachen_000000_000019", labelTrainIds=train_ids, labelIds=train_ids * 0)
    (record,) = load_cityscapes_semantic(city.root, "train")
    path = city.label_file("train", "aachen", "aachen_000000_000019", "labelTrainIds")
    assert record["sem_seg_file_name"] == str(path)
    assert (record["height"], record["width"]) == (20, 30)


def test_train_ids_are_made_from_label_ids_once_and_kept(city):
    from cityscapesscripts.helpers.labels import id2label

    label_ids = np.arange(34, dtype=np.uint8).repeat(2).reshape(2, 34)
    city.add("aachen_000000_000019", size=(2, 34), labelIds=label_ids)
    (record,) = load_cityscapes_semantic(city.root, "train")
    made = np.asarray(Image.open(record["sem_seg_file_name"]))
    np.testing.assert_array_equal(made, np.vectorize(lambda i: id2label[i].trainId)(label_ids))
    assert made.dtype == np.uint8

    options = {"is_train": True, "augmentations": [], "image_format": "RGB"}
    mapped = DatasetMapper(**options)(record)
    np.testing.assert_array_equal(mapped["sem_seg"], made)

    # another map, and a map that was deleted, are made again
    city.add("aachen_000000_000019", size=(2, 34), labelIds=np.full((2, 34), 7, np.uint8))
    (record,) = load_cityscapes_semantic(city.root, "train")
    assert not np.asarray(Image.open(record["sem_seg_file_name"])).any()
    os.unlink(record["sem_seg_file_name"])
    (record,) = load_cityscapes_semantic(city.root, "train")
    assert not np.asarray(Image.open(record["sem_seg_file_name"])).any()


def test_converted_maps_lie_in_the_users_folder(city, user_cache, unchanged):
    city.add("aachen_000000_000019", labelIds=np.full((20, 30), 26, np.uint8))
    unchanged(city.root)
    (record,) = load_cityscapes_semantic(city.root, "train")
    assert record["sem_seg_file_name"].startswith(str(user_cache))
    user_cache.rename(user_cache.with_name("gone"))
    user_cache.write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match="Set DEEPFUSE_CACHE"):
        load_cityscapes_semantic(city.root, "train")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [("labelTrainIds", 33, "train ids 0..18 and 255"), ("labelIds", 34, "label ids 0..33")],
)
def test_a_label_outside_the_table_is_named(city, kind, value, expected):
    city.add("aachen_000000_000019", **{kind: np.full((20, 30), value, np.uint8)})
    with pytest.raises(DatasetError, match=rf"{kind}\.png holds the value {value}; .*{expected}"):
        load_cityscapes_semantic(city.root, "train")


def test_a_test_split_has_images_alone(city, instance_ids):
    # the official archive has dummy labels for it
    city.add("berlin_000000_000019", split="test", city="berlin", instanceIds=instance_ids)
    for task, name in (("instance_seg", "town_i"), ("sem_seg", "town_s")):
        register_cityscapes_layout(name, city.root, "test", task)
        try:
            (record,) = DatasetCatalog.get(name)
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        assert sorted(record) == ["file_name", "height", "image_id", "width"]
        assert (record["height"], record["width"]) == (20, 30)


def test_frames_come_sorted_and_other_files_are_left_alone(city, instance_ids):
    for town, frame in (("bonn", "bonn_000001_000019"), ("aachen", "aachen_000000_000019")):
        city.add(frame, city=town, instanceIds=instance_ids)
    folder = city.root / "leftImg8bit" / "train"
    (folder / ".hidden").mkdir()
    (folder / "bonn" / ".DS_Store").write_text("")
    (folder / "readme.txt").write_text("")
    names = [r["image_id"] for r in load_cityscapes_instances(city.root, "train")]
    assert names == ["aachen_000000_000019_leftImg8bit.png", "bonn_000001_000019_leftImg8bit.png"]


LOADERS = [
    (load_cityscapes_instances, "instanceIds", np.uint16),
    (load_cityscapes_semantic, "labelIds", np.uint8),
]


@pytest.mark.parametrize(("load", "kind", "dtype"), LOADERS)
def test_what_is_missing_is_named_with_the_remedy(city, load, kind, dtype):
    labels = {kind: np.zeros((20, 30), dtype)}
    with pytest.raises(DatasetError, match=r"gtFine/train does not exist\. Get it from \S+/town!"):
        load(city.root, "train", remedy="Get it from {root}!")

    city.add("aachen_000000_000019", **labels)
    (city.root / "leftImg8bit").rename(city.root / "elsewhere")
    with pytest.raises(DatasetError, match=r"leftImg8bit/train does not exist\. Expected layout"):
        load(city.root, "train")
    (city.root / "leftImg8bit" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no city folder"):
        load(city.root, "train")
    (city.root / "leftImg8bit" / "train" / "bonn").mkdir()
    with pytest.raises(DatasetError, match="holds no city folder with images"):
        load(city.root, "train")

    city.add("bonn_000000_000019", city="bonn", **labels)
    city.add("bonn_000001_000019", city="bonn")
    message = rf"bonn_000001_000019_gtFine_{kind}\.png is missing\. Expected"
    with pytest.raises(DatasetError, match=message):
        load(city.root, "train")
    city.add("cologne_000001_000019", city="cologne")
    with pytest.raises(
        DatasetError, match=r"is missing\. So it is with 1 other file: deepfuse check-data"
    ):
        load(city.root, "train")


@pytest.mark.parametrize(("load", "kind", "dtype"), LOADERS)
def test_a_damaged_file_is_named_with_the_remedy_and_others_are_kept(city, load, kind, dtype):
    labels = {kind: np.random.default_rng(0).integers(0, 33, (20, 30)).astype(dtype)}
    for i in range(3):
        city.add(f"aachen_00000{i}_000019", **labels)
    path = city.label_file("train", "aachen", "aachen_000002_000019", kind)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match=r"aachen_000002\S+\.png is damaged .* Expected layout"):
        load(city.root, "train")
    path.write_bytes(whole)
    assert len(load(city.root, "train")) == 3

    image = city.image_file("train", "aachen", "aachen_000001_000019")
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(DatasetError, match=r"aachen_000001_000019_leftImg8bit\.png is damaged"):
        load(city.root, "train")


@pytest.mark.parametrize(("load", "kind", "dtype"), LOADERS)
def test_an_image_that_does_not_fit_its_label_is_named(city, load, kind, dtype):
    city.add("aachen_000000_000019", size=(30, 20), **{kind: np.zeros((20, 30), dtype)})
    with pytest.raises(DatasetError, match=r"leftImg8bit\.png is 20 x 30 .* is 30 x 20"):
        load(city.root, "train")


def test_a_full_size_frame_parses_fast_and_a_large_cache_loads_fast(city):
    ids = np.full((1024, 2048), 7, dtype=np.uint16)
    rows, columns = np.ogrid[:1024, :2048]
    for i in range(30):
        y, x = 200 + 20 * i, 60 * i + 100
        ids[(rows - y) ** 2 + (columns - x) ** 2 < (20 + 4 * i) ** 2] = 26000 + i
    city.add("aachen_000000_000019", size=ids.shape, instanceIds=ids)
    load_cityscapes_instances(city.root, "train")  # the first call also imports
    source = city.label_file("train", "aachen", "aachen_000000_000019", "instanceIds")
    image = city.image_file("train", "aachen", "aachen_000000_000019")
    for i in range(1, 6):
        name = f"aachen_00000{i}_000019"
        city.image_file("train", "aachen", name).hardlink_to(image)
        city.label_file("train", "aachen", name, "instanceIds").hardlink_to(source)

    start = time.process_time()
    records = load_cityscapes_instances(city.root, "train")
    # 30 ms of CPU a frame when measured; a busy machine does not count
    assert (time.process_time() - start) / 5 < 0.2
    assert [len(record["annotations"]) for record in records] == [30] * 6

    start = time.process_time()
    load_cityscapes_instances(city.root, "train")
    # loading is a fraction of parsing; 2975 frames took 1 s when measured
    assert time.process_time() - start < 0.25


def test_a_stray_folder_is_left_out_with_a_warning(city, instance_ids, caplog):
    city.add("bonn_000000_000019", city="bonn", instanceIds=instance_ids)
    (city.root / "leftImg8bit" / "train" / "__MACOSX").mkdir()
    with caplog.at_level("WARNING"):
        assert len(load_cityscapes_instances(city.root, "train", workers=1)) == 1
    assert "__MACOSX holds no image *_leftImg8bit.png, and is left out" in caplog.text


def test_one_frame_name_in_two_cities_is_two_images(city, instance_ids):
    for name in ("bonn", "ulm"):
        city.add("frame_000000_000019", city=name, instanceIds=instance_ids)
    city.add("other_000000_000019", city="ulm", instanceIds=instance_ids)
    ids = [r["image_id"] for r in load_cityscapes_instances(city.root, "train", workers=1)]
    assert ids == [
        "bonn/frame_000000_000019_leftImg8bit.png",
        "ulm/frame_000000_000019_leftImg8bit.png",
        "other_000000_000019_leftImg8bit.png",
    ]
