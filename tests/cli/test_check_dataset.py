"""deepfuse check-data: the table, the sheet and the exit code."""

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from deepfuse_d2.cli.check_data import tell
from deepfuse_d2.data.check import Problem
from tests.data.forms import coco_rle


@pytest.fixture
def config(tmp_path):
    """A yaml of two splits of label images, four and two."""
    entries = []
    for split, count in (("train", 4), ("val", 2)):
        for folder in ("images", "labels"):
            (tmp_path / split / folder).mkdir(parents=True)
        for i in range(count):
            Image.effect_noise((60, 40), 80).convert("RGB").save(
                tmp_path / split / "images" / f"{i}.png"
            )
            labels = np.eye(40, 60, dtype=np.uint8)
            Image.fromarray(labels).save(tmp_path / split / "labels" / f"{i}.png")
        entries.append(
            f"{{NAME: my_{split}, FORMAT: label_images, IMAGES: {tmp_path}/{split}/images, "
            f"LABELS: {tmp_path}/{split}/labels, CLASSES: [cell, wall]}}"
        )
    file = tmp_path / "my.yaml"
    file.write_text(
        f"DATASETS:\n  EXTRA: [{', '.join(entries)}]\n  TRAIN: [my_train]\n  TEST: [my_val]\n"
    )
    yield file
    for name in ("my_train", "my_val"):
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)


def test_sound_sets_of_a_config_end_with_0_a_table_and_a_sheet(deepfuse, config, tmp_path, capsys):
    sheet = tmp_path / "out" / "sheet.png"
    assert deepfuse("check-data", "--config-file", str(config), "--sheet", str(sheet)) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]]
             for line in capsys.readouterr().out.splitlines()]  # fmt: skip
    assert ["", "my_train", "my_val"] in lines
    assert ["images", "4", "2"] in lines
    assert ["width x height", "60 x 40", "60 x 40"] in lines
    assert ["wall px", "1.67%", "1.67%"] in lines
    assert ["errors", "0", "0"] in lines
    # six tiles in rows of four
    assert cv2.imread(str(sheet)).shape[1] == 4 * 384 + 5 * 6


def test_damage_ends_with_1_and_is_marked_on_the_sheet(deepfuse, config, tmp_path, capsys):
    Image.fromarray(np.full((40, 60), 7, np.uint8)).save(tmp_path / "val" / "labels" / "1.png")
    Image.open(tmp_path / "train" / "images" / "0.png").save(tmp_path / "val" / "images" / "0.png")
    sheet = tmp_path / "sheet.png"
    assert deepfuse("check-data", "--config-file", str(config), "--sheet", str(sheet)) == 1
    output = capsys.readouterr().out
    assert "labels/1.png holds the id 7; expected 0..1, or 255" in output
    assert "warning: my_train and my_val share 1 images" in output
    assert "Training would fail on my_val." in output
    assert sheet.is_file()


def test_long_lists_are_cut_unless_asked_for(capsys):
    problems = [Problem(i == 20, f"number {i}") for i in range(21)]
    tell("mine", problems, 10)
    output = capsys.readouterr().out
    assert output.splitlines()[2] == "  error: number 20"
    assert "and 11 more (--all)" in output
    tell("mine", problems, None)
    assert "number 19" in capsys.readouterr().out


def test_wrong_arguments_end_with_2(deepfuse, config, capsys):
    assert deepfuse("check-data") == 2
    assert "Name the data sets, or a --config-file" in capsys.readouterr().err
    assert deepfuse("check-data", "camvid_sem_seg_trian") == 2
    assert "Did you mean: camvid_sem_seg_train" in capsys.readouterr().err
    assert deepfuse("check-data", "--config-file", str(config), "--sheet", "sheet.jpg") == 2
    assert "ending in .png" in capsys.readouterr().err


def test_instances_are_checked_against_what_a_config_learns_of_them(deepfuse, tmp_path, capsys):
    entry = coco_rle(tmp_path)
    file = tmp_path / "my.yaml"
    file.write_text(
        "MODEL: {MASK_ON: True}\nINPUT: {MASK_FORMAT: polygon}\nTEST: {DETECTIONS_PER_IMAGE: 1}\n"
        f"DATASETS:\n  EXTRA: [{{NAME: my_train, FORMAT: coco, JSON: {entry['JSON']}, "
        f"IMAGES: {entry['IMAGES']}}}]\n  TRAIN: [my_train]\n  TEST: []\n"
    )
    try:
        assert deepfuse("check-data", "--config-file", str(file), "--num", "0") == 1
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop("my_train", None)
    output = capsys.readouterr().out
    assert 'error: 3 of 3 instances of "my_train" have a run-length mask' in output
    assert "my_train has up to 2 objects an image, and TEST.DETECTIONS_PER_IMAGE is 1" in output


def test_every_image_is_made_a_sample_with_the_crops_of_the_config(deepfuse, tmp_path, capsys):
    entry = coco_rle(tmp_path)
    file = tmp_path / "my.yaml"
    file.write_text(
        "MODEL: {MASK_ON: True}\n"
        "INPUT: {MASK_FORMAT: bitmask, MIN_SIZE_TRAIN: [40], CROP: {ENABLED: True, "
        "TYPE: absolute, SIZE: [2, 2]}}\n"
        f"DATASETS:\n  EXTRA: [{{NAME: my_train, FORMAT: coco, JSON: {entry['JSON']}, "
        f"IMAGES: {entry['IMAGES']}}}]\n  TRAIN: [my_train]\n  TEST: []\nSEED: 3\n"
    )
    try:
        assert deepfuse("check-data", "--config-file", str(file), "--num", "0") == 0
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop("my_train", None)
    output = capsys.readouterr().out
    assert "of 2 images with objects gave a training sample without one" in output
