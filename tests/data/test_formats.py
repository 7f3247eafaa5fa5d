"""The formats that people have, each read into the same records."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.cli.main import main
from deepfuse_d2.data import register_extra
from deepfuse_d2.data.records.tally import tally_of
from deepfuse_d2.errors import ConfigError, DatasetError
from deepfuse_d2.evaluation import COCOInstanceEvaluator
from deepfuse_d2.evaluation.perfect import perfect_output
from deepfuse_d2.structures.run_lengths import to_rle
from tests.data.forms import (
    CLASSES,
    FORMS,
    OBJECTS,
    SIZE,
    cvat,
    labelme,
    mask_of,
    write_images,
    yolo,
)

NAME = "my_form"


@pytest.fixture(autouse=True)
def _catalogs_stay_as_they_were():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def load(entry, name=NAME):
    register_extra([{"NAME": name, **entry}])
    return DatasetCatalog.get(name)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_objects_and_perfect_predictions_score_100(tmp_path, form):
    records = load(FORMS[form](tmp_path))
    assert MetadataCatalog.get(NAME).thing_classes == CLASSES
    assert not tally_of(NAME)
    assert [record["file_name"].rsplit("/")[-1] for record in records] == [
        f"{stem}.png" for stem in OBJECTS]  # fmt: skip
    for record, objects in zip(records, OBJECTS.values(), strict=True):
        assert (record["height"], record["width"]) == SIZE
        found = [CLASSES[a["category_id"]] for a in record["annotations"]]
        assert found == [name for name, _ in objects]
        for annotation, (_, box) in zip(record["annotations"], objects, strict=True):
            mask = mask_util.decode(to_rle(annotation["segmentation"], *SIZE))
            np.testing.assert_array_equal(mask, mask_of(box))
            x0, y0, x1, y1 = box
            assert np.allclose(annotation["bbox"], [x0, y0, x1 - x0, y1 - y0])
    evaluator = COCOInstanceEvaluator(NAME)
    evaluator.reset()
    for record in records:
        evaluator.process([record], [perfect_output(record)])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_written_as_coco_and_read_back(tmp_path, form, capsys):
    entry = FORMS[form](tmp_path)
    records = load(entry)
    pairs = [f"{key}={value}" for key, value in entry.items() if key != "FORMAT"]
    output = tmp_path / "out.json"
    assert main(["convert-data", "--format", entry["FORMAT"], *pairs, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "3 images of" in said
    assert "3 instances of cell, wall" in said
    folder = records[0]["file_name"].rsplit("/", 1)[0]
    again = load({"FORMAT": "coco", "JSON": str(output), "IMAGES": folder}, "again")
    for one, other in zip(records, again, strict=True):
        assert one["file_name"] == other["file_name"]
        for a, b in zip(one["annotations"], other["annotations"], strict=True):
            masks = [to_rle(x["segmentation"], *SIZE) for x in (a, b)]
            assert mask_util.iou([masks[0]], [masks[1]], [0])[0, 0] == 1
            assert a["category_id"] == b["category_id"]


def test_lines_of_yolo_that_are_no_polygon_are_counted(tmp_path):
    entry = yolo(tmp_path)
    (tmp_path / "labels" / "train" / "c.txt").write_text(
        "0 0.1 0.1 0.5\n0 a b c d e f\n9 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 0.2 0.4\nx y\n"
    )
    records = load(entry)
    (box,) = records[2]["annotations"]
    assert np.allclose(box["bbox"], [24, 12, 12, 16])
    lines = "\n".join(tally_of(NAME).lines())
    for told in ("odd number of coordinates (annotation c.txt:1)", "is no number",
                 "that of no category (annotation c.txt:3)"):  # fmt: skip
        assert told in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "cannot be read as yaml"),
        ("- a", "holds no mapping"),
        ("train: images/train", "has no names"),
        ("names: {x: a}\ntrain: images/train", "not numbered by whole numbers"),
        ("names: [a]\nval: images/train", r"has no split 'train'; it has \['val'\]"),
        ("names: [a]\ntrain: images/no", "names 'images/no', which does not exist"),
    ],
)
def test_a_wrong_yaml_of_yolo_is_explained(tmp_path, text, message):
    entry = yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load(entry)


def test_roboflows_yaml_names_folders_above_it(tmp_path):
    entry = yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cell, wall]\ntrain: ../images/train\n")
    assert len(load(entry)) == 3


def test_groups_of_labelme_are_one_instance_and_points_are_counted(tmp_path):
    entry = labelme(tmp_path)
    shapes = [
        {"label": "cell", "points": [[1, 1], [5, 1], [5, 5]], "group_id": 4},
        {"label": "cell", "points": [[11, 1], [15, 1], [15, 5]], "group_id": 4},
        {"label": "cell", "points": [[30, 20], [34, 20]], "shape_type": "circle"},
        {"label": "cell", "points": [[3, 3]], "shape_type": "point"},
        {"label": "cell", "points": [[3, 3], [5, 5]]},
        {"label": "cell", "points": None},
    ]
    content = {"shapes": shapes, "imagePath": "elsewhere\\c.png"}
    (tmp_path / "c.json").write_text(json.dumps(content))
    (record,) = [r for r in load(entry) if r["file_name"].endswith("c.png")]
    assert [len(a["segmentation"]) for a in record["annotations"]] == [2, 1]
    assert record["annotations"][1]["area"] == pytest.approx(np.pi * 16, rel=0.1)
    lines = "\n".join(tally_of(NAME).lines())
    assert "it is 'a point', which has no area" in lines
    assert "fewer than 3 points" in lines


def test_what_cvat_cannot_mean_is_counted_or_refused(tmp_path):
    entry = cvat(tmp_path)
    text = (tmp_path / "x.xml").read_text()
    more = ('<polyline label="cell" points="1,1;2,2"></polyline>'
            '<mask label="cell" rle="1, 2" left="0" top="0" width="9" height="9"></mask>'
            '<ellipse label="cell" cx="30" cy="20" rx="8" ry="4" rotation="90"></ellipse>'
            '<box label="cell" xtl="1" ytl="2" xbr="5" ybr="9"></box></image>')  # fmt: skip
    (tmp_path / "x.xml").write_text(text.replace("</image>", more, 1))
    record = load(entry)[0]
    ellipse, box = record["annotations"][2:]
    assert np.allclose(ellipse["bbox"], [26, 12, 8, 16])
    assert box["bbox"] == [1, 2, 4, 7]
    assert "segmentation" not in box
    lines = "\n".join(tally_of(NAME).lines())
    assert "it is 'a polyline', which has no area" in lines
    assert "it is 'a mask'" in lines
    for text, message in (("<a", "cannot be read as XML"), ("<a></a>", "holds no <image>")):
        (tmp_path / "x.xml").write_text(text)
        with pytest.raises(DatasetError, match=message):
            DatasetCatalog.get(NAME)


def test_roboflows_masks_are_labels_of_pixels(tmp_path):
    write_images(tmp_path)
    for stem, objects in OBJECTS.items():
        labels = sum(((CLASSES.index(n) + 1) * mask_of(b) for n, b in objects), np.uint8(0))
        labels = np.zeros(SIZE, np.uint8) + labels
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / f"{stem}_mask.png")
    entry = {"FORMAT": "roboflow_masks", "ROOT": str(tmp_path)}
    with pytest.raises(DatasetError, match=r"_classes\.csv .*does not exist"):
        load(entry)
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n2, wall\n")
    records = load(entry)
    assert [r["image_id"] for r in records] == ["a", "b", "c"]
    assert MetadataCatalog.get(NAME).stuff_classes == ["background", "cell", "wall"]
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n1, cell\n")
    with pytest.raises(DatasetError, match=r"numbers its classes \[1\]; expected 0, 1"):
        DatasetCatalog.get(NAME)


def test_a_data_set_without_a_split_gets_one_that_keeps_groups_together(tmp_path):
    records = [
        {"file_name": f"/x/video{n // 10}_frame{n % 10}.png", "image_id": n, "annotations": []}
        for n in range(100)
    ]
    DatasetCatalog.register("all_of_it", lambda: records)
    MetadataCatalog.get("all_of_it").set(thing_classes=["cell"], evaluator_type="coco")
    part = {"FORMAT": "part", "OF": "all_of_it", "RATIO": 0.3, "GROUP_BY": r"(video\d+)_"}
    train = load({**part, "PART": "train"}, "train_part")
    val = load({**part, "PART": "val"}, "val_part")
    assert (len(train), len(val)) == (70, 30)
    videos = [{r["file_name"].split("_")[0] for r in half} for half in (train, val)]
    assert not videos[0] & videos[1]
    assert load({**part, "PART": "val", "SEED": 1}, "other_part") != val
    records.reverse()
    assert {r["image_id"] for r in DatasetCatalog.get("val_part")} == {r["image_id"] for r in val}
    with pytest.raises(DatasetError, match="are one group by GROUP_BY"):
        load({**part, "PART": "val", "GROUP_BY": "/x/"}, "one_group")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PART": "test"}, "expected train or val"),
        ({"RATIO": 1.5}, "must be between 0 and 1"),
        ({"GROUP_BY": "("}, "no regular expression"),
    ],
)
def test_a_wrong_split_is_refused(changes, message):
    entry = {"NAME": "p", "FORMAT": "part", "OF": "pennfudan_train", "PART": "val", **changes}
    with pytest.raises(ConfigError, match=message):
        register_extra([entry])


def test_converting_says_what_it_needs(tmp_path, capsys):
    output = ["--output", str(tmp_path / "x.json")]
    for words, told in (
        (["pennfudan_trian"], "Did you mean: pennfudan_train"),
        (["a", "b"], "One data set goes into a file"),
        (["--format", "yolo", "here"], "takes KEY=VALUE"),
        (["--format", "yolov8", "DATA=x"], "FORMAT = 'yolov8' is unknown"),
    ):
        assert main(["convert-data", *words, *output]) == 2
        assert told in capsys.readouterr().err
