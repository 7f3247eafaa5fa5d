"""What a check finds in small data sets that are broken in one place each."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data import register_cityscapes_layout
from deepfuse_d2.data.check import check_dataset, duplicates_between
from deepfuse_d2.data.check_annotations import check_annotations
from deepfuse_d2.data.datasets.catalog import register_dataset

BOX = {"bbox": [2, 3, 12, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}


@pytest.fixture(autouse=True)
def _catalogs_stay_as_they_were():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def town(city, instance_ids):
    """Register three sound frames as my_town, and return their folder."""
    for number in range(3):
        city.add(f"bonn_{number:06d}_000019" + "x" * number, instanceIds=instance_ids)
    register_cityscapes_layout("my_town", city.root, "train")
    return city


@pytest.fixture
def pairs(tmp_path):
    """Register three images with labels of two classes, unchecked, as my_pairs."""
    records = []
    for number in range(3):
        image, labels = tmp_path / f"{number}.png", tmp_path / f"{number}_labels.png"
        Image.effect_noise((30, 20), 50).convert("RGB").save(image)
        Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(labels)
        records.append(
            {"file_name": str(image), "image_id": number, "height": 20, "width": 30,
             "sem_seg_file_name": str(labels)}
        )  # fmt: skip
    metadata = {"stuff_classes": ["cell", "wall"], "ignore_label": 255}
    register_dataset("my_pairs", lambda: records, metadata)
    return records


def errors(name):
    return [problem.text for problem in check_dataset(name).errors]


def warnings(name):
    return [problem.text for problem in check_dataset(name).warnings]


def test_a_sound_set_is_counted_and_has_no_errors(town):
    report = check_dataset("my_town")
    assert report.errors == []
    assert len(report.records) == 3
    car = report.thing_classes.index("car")
    assert report.instances_by_class() == {car: 6}
    assert report.areas().tolist() == [24] * 3 + [64] * 3
    assert [facts.groups for facts in report.facts] == [1, 1, 1]
    assert warnings("my_town") == [
        "my_town has none of: person, rider, truck, bus, train, motorcycle, bicycle."
    ]


def test_all_damaged_missing_and_mismatched_files_are_named_and_the_sound_are_counted(
    town, instance_ids
):
    frames = ["bonn_000000_000019", "bonn_000001_000019x", "bonn_000002_000019xx"]
    for number in (3, 4):
        frames.append(f"bonn_{number:06d}_000019" + "x" * number)
        town.add(frames[-1], instanceIds=instance_ids)
    image = town.image_file("train", "aachen", frames[0])
    image.write_bytes(image.read_bytes()[:-30])
    label = town.label_file("train", "aachen", frames[1], "instanceIds")
    label.write_bytes(label.read_bytes()[:60])
    town.label_file("train", "aachen", frames[2], "instanceIds").unlink()
    Image.new("RGB", (31, 20)).save(town.image_file("train", "aachen", frames[3]))
    report = check_dataset("my_town")
    text = "\n".join(problem.text for problem in report.errors)
    assert len(report.errors) == 4
    assert f"{frames[0]}_leftImg8bit.png is damaged" in text
    assert f"{frames[1]}_gtFine_instanceIds.png is damaged" in text
    assert f"{frames[2]}_gtFine_instanceIds.png is missing" in text
    assert "is 31 x 20 pixels, but its label" in text
    assert [frame.image for frame in report.facts] == [
        str(town.image_file("train", "aachen", frames[4]))
    ]


def test_an_absent_folder_is_one_error(tmp_path):
    register_cityscapes_layout("my_town", tmp_path / "nowhere", "train")
    (problem,) = errors("my_town")
    assert "gtFine/train does not exist. Expected layout" in problem


def test_ids_that_cityscapes_does_not_have_are_a_warning(town, instance_ids):
    instance_ids[0, 0] = 60000
    town.add("bonn_000009_000019", instanceIds=instance_ids)
    assert any("[60000], ids of no label of Cityscapes" in text for text in warnings("my_town"))
    assert errors("my_town") == []


def test_pixels_are_counted_by_class(pairs):
    report = check_dataset("my_pairs")
    assert report.errors == []
    assert report.pixels_by_class() == {0: 3 * 580, 1: 3 * 20}


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (np.full((20, 30), 2, np.uint8), r"holds the ids [2]; expected 0..1, or 255"),
        (np.zeros((20, 31), np.uint8), "is 31 x 20 pixels, the image 30 x 20"),
        (np.zeros((20, 30, 3), np.uint8), "Is it a colour image?"),
        (np.zeros((20, 30), np.uint16), "; detectron2 reads other ids"),
    ],
)
def test_wrong_label_files_are_errors(pairs, labels, problem):
    Image.fromarray(labels).save(pairs[1]["sem_seg_file_name"])
    (text,) = errors("my_pairs")
    assert problem in text
    assert "1_labels.png" in text


def test_palette_labels_are_an_error_since_the_mapper_reads_their_colours(pairs):
    image = Image.fromarray(np.zeros((20, 30), np.uint8))
    image.putpalette([9] * 768)
    image.save(pairs[0]["sem_seg_file_name"])
    (text,) = errors("my_pairs")
    assert "has mode P" in text


def test_images_that_training_cannot_read_are_errors(pairs, tmp_path):
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    pairs[2]["height"] = 40
    texts = errors("my_pairs")
    assert len(texts) == 3
    assert "0.png is missing" in texts[0]
    assert "1.png is damaged" in texts[1]
    assert "2.png is 30 x 20 pixels, its labels are for 30 x 40" in texts[2]


def test_everything_ignored_is_a_warning(pairs):
    for record in pairs:
        Image.fromarray(np.full((20, 30), 255, np.uint8)).save(record["sem_seg_file_name"])
    assert errors("my_pairs") == []
    assert sum("nothing but 255 (ignored)" in text for text in warnings("my_pairs")) == 3


def test_one_image_twice_and_one_id_for_two_are_told(pairs, tmp_path):
    Image.open(tmp_path / "0.png").save(tmp_path / "1.png", compress_level=1)  # other bytes
    pairs[2]["image_id"] = 0
    (text,) = errors("my_pairs")
    assert "uses an image_id for several images (0)" in text
    (text,) = warnings("my_pairs")
    assert "holds one image 2 times" in text


def test_images_that_two_splits_share_are_told_by_their_pixels(pairs, tmp_path):
    Image.open(tmp_path / "1.png").save(tmp_path / "copy.png", compress_level=1)
    records = [{**pairs[1], "file_name": str(tmp_path / "copy.png")}]
    register_dataset("my_val", lambda: records, {"stuff_classes": ["cell", "wall"]})
    reports = [check_dataset(name) for name in ("my_pairs", "my_val")]
    (problem,) = duplicates_between(reports)
    assert not problem.is_error
    assert "my_pairs and my_val share 1 images" in problem.text
    assert "1.png and" in problem.text
    assert duplicates_between(reports[:1]) == []


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], "holds no image"),
        ([{"annotations": []}], "holds no instance: training has nothing to learn"),
        ([{}], "No record of my_set has labels"),
    ],
)
def test_nothing_to_learn_from_is_an_error(pairs, records, problem):
    records = [{"file_name": pairs[0]["file_name"], **record} for record in records]
    register_dataset("my_set", lambda: records, {"thing_classes": ["cell"]})
    assert any(problem in text for text in errors("my_set"))


def test_a_split_without_labels_needs_none(pairs):
    records = [{"file_name": pairs[0]["file_name"]}]
    register_dataset("my_test", lambda: records, {"thing_classes": ["a"], "has_labels": False})
    assert check_dataset("my_test").problems == []


def annotate(**changes):
    return {**BOX, "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]], **changes}


def rle(height, width):
    return mask_util.encode(np.asfortranarray(np.ones((height, width), np.uint8)))


def test_sound_annotations_are_measured_by_their_masks():
    found = check_annotations(
        [annotate(), annotate(segmentation=rle(20, 30)), annotate(iscrowd=1)], (20, 30), 1
    )
    assert (found.errors, found.warnings, found.groups) == ([], [], 1)
    assert found.instances == [(0, 50), (0, 600)]
    assert check_annotations([BOX], (20, 30), 1).instances == [(0, 50)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"category_id": 1}, r"category_id 1; expected 0..0"),
        ({"category_id": None}, "category_id None"),
        ({"bbox": [1, 2, 3]}, "has the box [1, 2, 3]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "has the box [1, 2, 3, nan]"),
        ({"bbox_mode": None}, "has the box"),
        ({"segmentation": rle(30, 20)}, "a mask of size (30, 20) (height, width) in an image of"),
        ({"segmentation": {"size": [20, 30]}}, "a mask that cannot be decoded"),
        ({"segmentation": []}, "a segmentation of type list without content"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("inf")]]}, "coordinates that are no numbers"),
    ],
)
def test_annotations_that_training_stops_at_are_errors(changes, problem):
    (text,) = check_annotations([annotate(**changes)], (20, 30), 1).errors
    assert problem in text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bbox": [5, 5, 5, 9]}, "an empty box"),
        ({"bbox": [5, 5, 40, 9]}, "beyond the image"),
        ({"segmentation": mask_util.encode(np.zeros((20, 30), np.uint8, "F"))}, "an empty mask"),
    ],
)
def test_annotations_that_training_survives_are_warnings(changes, problem):
    found = check_annotations([annotate(**changes)], (20, 30), 1)
    assert found.errors == []
    assert any(problem in text for text in found.warnings)


def test_masks_for_some_annotations_only_are_an_error():
    found = check_annotations([annotate(), BOX], (20, 30), 1)
    assert found.errors == ["1 of 2 annotations have no segmentation"]
