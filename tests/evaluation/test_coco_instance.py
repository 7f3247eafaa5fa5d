"""COCO's AP of clean records: pycocotools' figures, and 100 for perfect predictions."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.evaluation import COCOInstanceEvaluator
from deepfuse_d2.evaluation.perfect import perfect_output

NAME = "my_evaluated"


@pytest.fixture
def register(tmp_path):
    def register(records, classes=("cell", "wall")):
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(NAME, None)
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=list(classes))
        return records

    yield register
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def square(x, y, side, kind=0, **more):
    polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"bbox": [x, y, side, side], "bbox_mode": BoxMode.XYWH_ABS, "category_id": kind,
            "segmentation": [polygon], "iscrowd": 0, **more}  # fmt: skip


def records_of(*images):
    return [
        {"file_name": f"{number}.png", "image_id": number, "height": 90, "width": 120,
         "annotations": list(annotations)}
        for number, annotations in enumerate(images)
    ]  # fmt: skip


def score(records, output, **options):
    evaluator = COCOInstanceEvaluator(NAME, **options)
    for record in records:
        evaluator.process([record], [output(record)])
    return evaluator.evaluate()


def guesses(record, seed=3):
    """Ground truth that is moved a little, some of it twice, some of another class."""
    random = np.random.default_rng([seed, record["image_id"]])
    boxes, masks, kinds = [], [], []
    for annotation in record["annotations"]:
        for _ in range(random.integers(0, 3)):
            x, y, w, h = np.asarray(annotation["bbox"]) + random.integers(-3, 4, 4)
            mask = np.zeros((90, 120), bool)
            mask[max(y, 0) : y + h, max(x, 0) : x + w] = True
            boxes.append([x, y, x + w, y + h])
            masks.append(mask)
            kinds.append(int(random.integers(0, 2)))
    result = Instances((90, 120))
    result.pred_boxes = Boxes(torch.tensor(np.array(boxes, float).reshape(-1, 4)).float())
    result.scores = torch.from_numpy(random.random(len(boxes)))
    result.pred_classes = torch.tensor(kinds, dtype=torch.int64)
    result.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, 90, 120))
    return {"instances": result}


def test_the_figures_are_those_of_detectron2s_evaluator(register, tmp_path):
    random = np.random.default_rng(0)
    images = [
        [square(*random.integers(0, 60, 2).tolist(), int(random.integers(8, 50)),
                int(random.integers(0, 2)), iscrowd=int(random.random() < 0.1))
         for _ in range(6)]
        for _ in range(5)
    ]  # fmt: skip
    records = register(records_of(*images))
    ours = score(records, guesses)
    theirs = COCOEvaluator(
        NAME, output_dir=str(tmp_path), use_fast_impl=False, allow_cached_coco=False
    )
    theirs.reset()
    for record in records:
        theirs.process([record], [guesses(record)])
    expected = theirs.evaluate()
    assert set(ours) == set(expected) == {"bbox", "segm"}
    for task, scores in expected.items():
        assert set(ours[task]) == set(scores)
        for name, value in scores.items():
            np.testing.assert_allclose(ours[task][name], value, atol=1e-9, err_msg=name)


def test_perfect_predictions_score_100_also_beyond_100_objects(register):
    many = [square(x, y, 4) for x in range(0, 110, 6) for y in range(0, 80, 6)]
    records = register(records_of(many, [square(3, 4, 30, 1)], []))
    limited = score(records, perfect_output)
    assert limited["segm"]["AP"] < 80
    results = score(records, perfect_output, max_detections=len(many))
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-wall"] == pytest.approx(100)


def test_more_objects_than_are_evaluated_are_named(register, caplog):
    records = register(records_of([square(5 * n, 0, 4) for n in range(12)]))
    with caplog.at_level("WARNING"):
        score(records, perfect_output, max_detections=10)
    assert "Set TEST.DETECTIONS_PER_IMAGE 12" in caplog.text


def test_only_images_that_were_shown_count(register, caplog):
    records = register(records_of([square(3, 4, 30)], [square(3, 4, 20)]))
    with caplog.at_level("WARNING"):
        results = score(records[:1], perfect_output)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert "1 of 2 images" in caplog.text


def test_instances_without_a_mask_leave_their_image_out_of_the_masks_alone(register):
    bare = square(50, 40, 20)
    del bare["segmentation"]
    records = register(records_of([square(3, 4, 30)], [bare]))
    results = score(records, perfect_output)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_predictions_are_written_under_the_ids_of_the_file(register, tmp_path):
    records = register(records_of([square(3, 4, 30, 1)]))
    MetadataCatalog.get(NAME).set(thing_dataset_id_to_contiguous_id={7: 0, 3: 1})
    score(records, perfect_output, output_dir=str(tmp_path))
    (one,) = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert (one["image_id"], one["category_id"], one["bbox"]) == (0, 3, [3, 4, 30, 30])


def test_a_class_that_the_data_set_does_not_have_is_an_error(register):
    records = register(records_of([square(3, 4, 30, 1)]), classes=("cell",))
    with pytest.raises(ConfigError, match=r"NUM_CLASSES"):
        score(records, perfect_output)
