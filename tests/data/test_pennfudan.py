import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data.datasets.pennfudan import load_pennfudan
from deepfuse_d2.errors import DatasetError


def add(root, stem, ids, suffix=".png"):
    for folder in ("PNGImages", "PedMasks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    height, width = ids.shape
    Image.new("RGB", (width, height), (90, 120, 60)).save(root / "PNGImages" / f"{stem}{suffix}")
    Image.fromarray(ids).save(root / "PedMasks" / f"{stem}_mask.png")


@pytest.fixture
def ids():
    ids = np.zeros((40, 50), dtype=np.uint8)
    ids[5:30, 4:14] = 1
    ids[10:39, 20:32] = 2
    return ids


@pytest.fixture
def root(tmp_path, ids):
    root = tmp_path / "PennFudanPed"
    for number in range(1, 9):
        add(root, f"FudanPed{number:05d}", ids)
    for number in range(3, 6):
        add(root, f"PennPed{number:05d}", ids, suffix=".jpg")
    return root


def test_the_split_is_by_number_in_each_series(root):
    names = [record["image_id"] for record in load_pennfudan(root, "val")]
    assert names == ["FudanPed00004", "FudanPed00008", "PennPed00004"]
    names = [record["image_id"] for record in load_pennfudan(root, "train")]
    fudan = [f"FudanPed0000{i}" for i in (1, 2, 3, 5, 6, 7)]
    assert names == [*fudan, "PennPed00003", "PennPed00005"]


def test_each_id_is_a_person_with_mask_and_tight_box(root, ids):
    record = load_pennfudan(root, "val")[2]
    assert record["file_name"] == str(root / "PNGImages" / "PennPed00004.jpg")
    assert (record["height"], record["width"]) == (40, 50)
    assert [a["bbox"] for a in record["annotations"]] == [[4, 5, 14, 30], [20, 10, 32, 39]]
    for number, annotation in enumerate(record["annotations"], start=1):
        assert (annotation["category_id"], annotation["iscrowd"]) == (0, 0)
        mask = mask_util.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, ids == number)
    assert load_pennfudan(root, "val")[2] == record


def test_detectron2s_mapper_trains_from_the_dicts(root, ids):
    mapper = DatasetMapper(
        True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    instances = mapper(load_pennfudan(root, "train")[0])["instances"]
    expected = torch.from_numpy(np.stack([ids == 1, ids == 2]))
    assert torch.equal(instances.gt_masks.tensor, expected)


def test_of_two_formats_the_original_png_is_taken(root, ids):
    add(root, "FudanPed00004", ids, suffix=".jpeg")
    name = load_pennfudan(root, "val")[0]["file_name"]
    assert name.endswith("FudanPed00004.png")


def test_an_incomplete_set_is_told(root, caplog):
    load_pennfudan(root, "val")
    assert "has 3 val images; the whole data set has 42" in caplog.text


def test_an_unknown_split_is_refused(root):
    with pytest.raises(ValueError, match=r"split = 'test' is unknown; .*'train', 'val'"):
        load_pennfudan(root, "test")


def test_what_is_missing_or_damaged_is_named_with_the_remedy(root, tmp_path):
    remedy = r".*deepfuse prepare pennfudan"
    with pytest.raises(DatasetError, match="PNGImages does not exist" + remedy):
        load_pennfudan(tmp_path / "nothing", "train")

    mask = root / "PedMasks" / "FudanPed00008_mask.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:70])
    with pytest.raises(DatasetError, match=r"FudanPed00008_mask\.png is damaged" + remedy):
        load_pennfudan(root, "val")
    mask.unlink()
    with pytest.raises(DatasetError, match=r"FudanPed00008_mask\.png is missing\." + remedy):
        load_pennfudan(root, "val")
    mask.write_bytes(whole)

    image = root / "PNGImages" / "PennPed00004.jpg"
    image.write_bytes(image.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"PennPed00004\.jpg is damaged" + remedy):
        load_pennfudan(root, "val")

    for file in (root / "PNGImages").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="holds no val image" + remedy):
        load_pennfudan(root, "val")


def perfect(record):
    """What a model without error would answer for a dataset dict."""
    instances = Instances((record["height"], record["width"]))
    people = record["annotations"]
    instances.pred_boxes = Boxes(torch.tensor([person["bbox"] for person in people]))
    instances.scores = torch.ones(len(people))
    instances.pred_classes = torch.zeros(len(people), dtype=torch.int64)
    masks = np.stack([mask_util.decode(person["segmentation"]) for person in people])
    instances.pred_masks = torch.from_numpy(masks).bool()
    return {"instances": instances}


def evaluate(records, answers, output_dir):
    from detectron2.data import MetadataCatalog

    # the evaluator leaves the file of its COCO annotations in the metadata
    metadata = copy.deepcopy(MetadataCatalog["pennfudan_val"])
    try:
        evaluator = COCOEvaluator(
            "pennfudan_val", output_dir=str(output_dir), use_fast_impl=False, distributed=False
        )
        evaluator.reset()
        evaluator.process(records, answers)
        return evaluator.evaluate()
    finally:
        MetadataCatalog["pennfudan_val"] = metadata


def test_perfect_predictions_have_an_ap_of_100_by_detectron2s_evaluator(
    root, tmp_path, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = DatasetCatalog.get("pennfudan_val")
    results = evaluate(records, [perfect(record) for record in records], tmp_path / "output")
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)

    records = load_pennfudan(root, "val")
    answers = [perfect(record) for record in records]
    for answer in answers:
        answer["instances"].pred_masks[0] = False
        answer["instances"].pred_boxes.tensor[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    results = evaluate(records, answers, tmp_path / "output2")
    assert 0 < results["segm"]["AP"] < 60


def test_the_real_photographs_load_and_evaluate(shared_data, tmp_path, monkeypatch, unchanged):
    folder = shared_data / "PennFudanPed"
    if not folder.is_dir():
        pytest.skip(f"needs the photographs in {folder}")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    unchanged(folder)
    train, val = DatasetCatalog.get("pennfudan_train"), DatasetCatalog.get("pennfudan_val")
    assert (len(train), len(val)) == (128, 42)
    assert sum(len(record["annotations"]) for record in train + val) == 423
    results = evaluate(val, [perfect(record) for record in val], tmp_path / "output")
    assert results["segm"]["AP"] == pytest.approx(100)
