"""Annotation files as people have them: what is taken, what is mended, what is left out and why."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data import register_extra
from deepfuse_d2.data.records.coco import read_coco, records_of_coco
from deepfuse_d2.data.records.masks import Unusable, clean_segmentation
from deepfuse_d2.data.records.tally import Tally, tally_of
from deepfuse_d2.errors import DatasetError

SQUARE = [12.0, 13.0, 22.0, 13.0, 22.0, 18.0, 12.0, 18.0]
SIZE = (40, 60)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / name)
    return tmp_path


def annotation(number=1, **changes):
    one = {"id": number, "image_id": 1, "category_id": 1, "bbox": [12, 13, 10, 5], "area": 50.0,
           "segmentation": [list(SQUARE)], "iscrowd": 0}  # fmt: skip
    one.update(changes)
    return {key: value for key, value in one.items() if value is not ...}


def content(*annotations, **changes):
    images = [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60},
              {"id": 2, "file_name": "b.jpg", "height": 40, "width": 60}]  # fmt: skip
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "wall"}]
    whole = {"images": images, "annotations": list(annotations), "categories": categories}
    return {**whole, **changes}


def uncompressed():
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[13:18, 12:22] = 1
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return {"size": list(SIZE), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def test_what_is_missing_is_computed(folder):
    one = annotation(area=..., iscrowd=..., bbox=...)
    whole = content(one)
    for image in whole["images"]:
        del image["height"]
    found = records_of_coco(whole, folder)
    (record, empty) = found.records
    assert (record["height"], record["width"]) == SIZE
    (kept,) = record["annotations"]
    assert (kept["area"], kept["iscrowd"], kept["bbox"]) == (50.0, 0, [12, 13, 10, 5])
    assert empty["annotations"] == []
    assert found.classes == ["cell", "wall"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        SQUARE,  # flat
        [[12, 13], [22, 13], [22, 18], [12, 18]],  # points
        [[[12, 13], [22, 13], [22, 18], [12, 18]]],
        [[str(x) for x in SQUARE]],
        [SQUARE, [1, 2, 3, 4]],  # four numbers are a box to pycocotools
        uncompressed(),
        mask_util.frPyObjects(uncompressed(), *SIZE),
    ],
)
def test_every_form_of_a_mask_is_the_same_mask(segmentation):
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        segmentation = {**segmentation, "counts": segmentation["counts"].decode()}
    clean, _ = clean_segmentation(segmentation, *SIZE)
    if isinstance(clean, list):
        clean = mask_util.merge(mask_util.frPyObjects(clean, *SIZE))
    expected = np.zeros(SIZE, bool)
    expected[13:18, 12:22] = True
    np.testing.assert_array_equal(mask_util.decode(clean), expected)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, float("inf")]], "not finite"),
        ([[1, 2, 3, 4, 5, 10**400]], "no number"),
        ([[1, 2, 3, 4, 5, 1e12]], "more than 10 images beyond"),
        ([[1, 2, 3, 4, 5, None]], "no number"),
        ([[1, 2, 3, 4, 5, "x"]], "no number"),
        ([[1, 2, 3, 4, 5]], "odd number"),
        ([[1, 2, 3, 4]], "fewer than 3 points"),
        ("a linestrip", "which has no area"),
        (7, "is a int"),
        ({"size": [40, 60], "counts": [0, 5000]}, "do not add up"),
        ({"size": [40, 60], "counts": [10, -20, 2410]}, "do not add up"),
        ({"size": [60, 40], "counts": [0, 2400]}, "another size \\(40 x 60, its image 60 x 40\\)"),
        ({"size": [40, 60], "counts": [0.5, 2399.5]}, "no whole numbers"),
        ({"size": [40, 60], "counts": "~~~"}, "do not add up|cannot be decoded"),
        ({"size": [40, 60]}, "cannot be decoded"),
        ({"size": None, "counts": "04"}, "cannot be decoded"),
    ],
)
def test_what_is_no_mask_says_why(segmentation, reason):
    with pytest.raises(Unusable, match=reason):
        clean_segmentation(segmentation, *SIZE)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"image_id": 9}, "its image_id is that of no image (annotation 2)"),
        ({"category_id": 9}, "its category_id is that of no category"),
        ({"image_id": [1]}, "its ids are no numbers"),
        ({"bbox": [12, 13, 0, 5], "segmentation": None}, "a box without area, and no mask"),
        ({"bbox": None, "segmentation": None}, "it has neither mask nor box"),
        ({"bbox": ["x", 1, 2, 3], "segmentation": []}, "a box without area, and no mask"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]], "area": 0}, "its mask has no pixel"),
    ],
)
def test_what_is_wrong_in_one_annotation_is_left_out_and_counted(folder, changes, line):
    found = records_of_coco(content(annotation(), annotation(2, **changes)), folder)
    assert len(found.records[0]["annotations"]) == 1
    (said,) = found.tally.lines()
    assert said.startswith("1 annotation is left out: ")
    assert line in said


def test_ids_of_another_type_are_matched_and_said(folder):
    found = records_of_coco(content(annotation(image_id="1", category_id="2")), folder)
    assert found.records[0]["annotations"][0]["category_id"] == 1
    assert len(found.tally.lines()) == 2


@pytest.mark.parametrize(
    ("form", "box"), [("centre", [17, 15.5, 10, 5]), ("corners", [12, 13, 22, 18])]
)
def test_boxes_that_hold_the_centre_or_two_corners_are_known_by_their_masks(folder, form, box):
    found = records_of_coco(content(*(annotation(n, bbox=box) for n in range(4))), folder)
    assert all(a["bbox"] == [12, 13, 10, 5] for a in found.records[0]["annotations"])
    assert "by the masks beside the boxes" in found.tally.lines()[0]


def test_masks_that_are_all_groups_say_why_nothing_is_left_and_what_to_do(folder):
    whole = content(annotation(iscrowd=1), annotation(2, iscrowd=1))
    with pytest.raises(DatasetError, match=r"all of its 2 annotations .*CROWDS_ARE_OBJECTS: True"):
        records_of_coco(json.loads(json.dumps(whole)), folder)
    found = records_of_coco(whole, folder, crowds_are_objects=True)
    assert [a["iscrowd"] for a in found.records[0]["annotations"]] == [0, 0]


def test_nothing_that_can_be_used_says_what_was_left_out(folder):
    whole = content(*(annotation(n, image_id=7) for n in range(3)))
    with pytest.raises(DatasetError, match=r"none of its 3 .*3 annotations are left out: its im"):
        records_of_coco(whole, folder)


def test_categories_without_a_name_or_of_one_name_twice(folder):
    categories = [{"id": 0, "name": "cell"}, {"id": 1, "name": "cell "}, {"id": 5}]
    found = records_of_coco(content(annotation(), categories=categories), folder)
    assert found.classes == ["cell", "category 5"]
    assert found.records[0]["annotations"][0]["category_id"] == 0
    categories = [{"id": 1, "name": "cell"}, {"id": 1, "name": "wall"}]
    with pytest.raises(DatasetError, match="'cell' and 'wall' have one id"):
        records_of_coco(content(annotation(), categories=categories), folder)


def test_classes_can_be_named_and_then_meet_by_name(folder):
    whole = content(annotation(), annotation(2, category_id=2))
    found = records_of_coco(whole, folder, classes=["wall", "door"])
    assert found.classes == ["wall", "door"]
    assert [a["category_id"] for a in found.records[0]["annotations"]] == [0]
    assert "its class is none of CLASSES" in found.tally.lines()[0]


@pytest.mark.parametrize("name", ["sub\\a.jpg", "data/sub/a.jpg", "sub/sub/a.jpg", "./sub/a.jpg"])
def test_names_of_other_systems_find_their_files(folder, name):
    (folder / "sub").mkdir()
    (folder / "a.jpg").rename(folder / "sub" / "a.jpg")
    images = [{"id": 1, "file_name": name, "height": 40, "width": 60}]
    found = records_of_coco(content(annotation(), images=images), folder)
    assert (folder / "sub" / "a.jpg").samefile(found.records[0]["file_name"])


def test_decomposed_unicode_finds_its_file(folder):
    (folder / "a.jpg").rename(folder / "Zürich.jpg")
    images = [{"id": 1, "file_name": "Zürich.jpg", "height": 40, "width": 60}]
    found = records_of_coco(content(annotation(), images=images), folder)
    assert found.records[0]["file_name"] == str(folder / "Zürich.jpg")


@pytest.mark.parametrize(
    ("name", "why"),
    [("A.JPG", "there is a.jpg, in other letters"), ("a.png", "there is a.jpg, of another suffix"),
     ("c.jpg", "holds 2 other files"), ("no/c.jpg", "folder .*no does not exist")],
)  # fmt: skip
def test_a_missing_image_is_explained(folder, name, why):
    images = [{"id": 1, "file_name": name, "height": 40, "width": 60}]
    with pytest.raises(DatasetError, match=rf"is missing \(.*{why}"):
        records_of_coco(content(annotation(), images=images), folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "holds no JSON"),
        (b"\xff\xff", "holds no JSON"),
        (json.dumps({"shapes": [], "version": 1}).encode(), "file of LabelMe"),
        (json.dumps({**content(), "images": {}}).encode(), '"images" is a dict, no list'),
        (json.dumps({**content(), "images": []}).encode(), "holds no image"),
        (json.dumps(content({"segments_info": []})).encode(), "panoptic"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_error(folder, text, message):
    (folder / "x.json").write_bytes(text)
    with pytest.raises(DatasetError, match=rf"x\.json.* {message}"):
        read_coco(folder / "x.json", folder)


def test_a_byte_order_mark_does_not_matter(folder):
    text = json.dumps(content(annotation()))
    for encoding in ("utf-8-sig", "utf-16", "utf-8"):
        (folder / "x.json").write_bytes(text.encode(encoding))
        assert len(read_coco(folder / "x.json", folder).records[0]["annotations"]) == 1


def test_one_line_of_the_log_says_what_is_left_out(folder, caplog):
    (folder / "x.json").write_text(json.dumps(content(annotation(), annotation(2, image_id=5))))
    register_extra([{"NAME": "my_counted", "FORMAT": "coco", "JSON": str(folder / "x.json"),
                     "IMAGES": str(folder)}])  # fmt: skip
    try:
        with caplog.at_level("WARNING"):
            DatasetCatalog.get("my_counted")
        assert "my_counted: 1 annotation is left out: its image_id" in caplog.text
        assert tally_of("my_counted").lines()
    finally:
        DatasetCatalog.remove("my_counted")
        MetadataCatalog.remove("my_counted")
    assert Tally().lines() == []
