"""deepfuse crop-objects: what is cut out, and what it refuses."""

import json

import cv2
import numpy as np
import pytest


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def crop(deepfuse, image, tmp_path):
    """Call the tool on a COCO data set of one image; a name of its own for each."""

    def call(objects, *arguments, classes=("big car", "../dog")):
        cv2.imwrite(str(tmp_path / "0.png"), image)
        annotations = [
            {
                "id": number, "image_id": 1, "category_id": label, "bbox": box, "area": 1,
                "iscrowd": crowd, "segmentation": [[0, 0, 9, 0, 9, 9]],
            }
            for number, (label, box, crowd) in enumerate(objects, 1)
        ]  # fmt: skip
        content = {
            "images": [{"id": 1, "file_name": "0.png", "width": 80, "height": 60}],
            "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
            "annotations": [{**x, "segmentation": []} if x["iscrowd"] else x for x in annotations],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        name = f"crops_{tmp_path.name}"
        extra = {
            "NAME": name, "FORMAT": "coco", "JSON": str(tmp_path / "a.json"),
            "IMAGES": str(tmp_path),
        }  # fmt: skip
        config = tmp_path / "config.yaml"
        config.write_text(json.dumps({"VERSION": 2, "DATASETS": {"EXTRA": [extra]}}))
        return deepfuse(
            "crop-objects", name, "--config-file", config, "--output", tmp_path / "crops",
            *arguments,
        )  # fmt: skip

    return call


def test_a_crop_is_the_box_and_its_margin_within_the_image(crop, image, tmp_path, capsys):
    assert crop([(1, [20, 10, 20, 30], 0), (2, [70, 0, 10, 20], 0)], "--margin", "0.1") == 0
    written = cv2.imread(str(tmp_path / "crops" / "big_car" / "000000_000.png"))
    np.testing.assert_array_equal(written, image[7:43, 18:42])
    at_the_edge = cv2.imread(str(tmp_path / "crops" / "dog" / "000000_001.png"))
    np.testing.assert_array_equal(at_the_edge, image[0:22, 69:80])
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["big_car", "dog"]
    assert capsys.readouterr().out.split()[-6:-2] == ["../dog", "1", "all", "2"]


def test_groups_and_small_objects_are_left_out(crop, tmp_path):
    objects = [(1, [0, 0, 30, 30], 0), (1, [0, 0, 30, 30], 1), (1, [0, 0, 15, 15], 0)]
    assert crop(objects) == 0
    assert [path.name for path in tmp_path.glob("crops/*/*")] == ["000000_000.png"]


def test_a_folder_with_files_is_not_written_to(crop, tmp_path, capsys):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "mine").touch()
    assert crop([(1, [0, 0, 30, 30], 0)]) == 2
    assert "crops is not empty; give a new folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "crops").iterdir()] == ["mine"]


def test_classes_that_would_share_a_folder_are_refused(crop, tmp_path, capsys):
    assert crop([(1, [0, 0, 30, 30], 0)], classes=("a b", "a/b")) == 2
    assert "['a b', 'a/b'] give no folder of their own each" in capsys.readouterr().err
    assert not (tmp_path / "crops").exists()


@pytest.mark.parametrize("argument", [("--margin", "-1"), ("--min-size", "0")])
def test_sizes_that_mean_nothing_are_refused(crop, capsys, argument):
    assert crop([(1, [0, 0, 30, 30], 0)], *argument) == 2
    assert "--margin is 0 or more and --min-size 1 or more" in capsys.readouterr().err


def test_a_data_set_that_is_not_registered_is_named(deepfuse, tmp_path, capsys):
    assert (
        deepfuse("crop-objects", "minicity_fine_instance_seg_tran", "--output", str(tmp_path)) == 2
    )
    assert 'names the data set "minicity_fine_instance_seg_tran"' in capsys.readouterr().err


def test_a_data_set_of_label_maps_has_no_objects(deepfuse, tiny_minicity, tmp_path, capsys):
    from deepfuse_d2.data import register_cityscapes_layout

    name = f"crops_sem_{tmp_path.name}"
    register_cityscapes_layout(name, tiny_minicity / "minicity", "val", "sem_seg")
    assert deepfuse("crop-objects", name, "--output", str(tmp_path)) == 2
    assert "has no objects (annotations)" in capsys.readouterr().err
