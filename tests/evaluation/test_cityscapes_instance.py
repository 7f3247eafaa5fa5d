"""The evaluator as detectron2 drives it, on a data set in the layout of Cityscapes."""

import json
import logging
import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.evaluation_oracle.cases import CLASSES, random_case
from benchmarks.evaluation_oracle.official import importable_by_detectron2, runnable
from deepfuse_d2.errors import DatasetError
from deepfuse_d2.evaluation import CityscapesInstanceEvaluator

NAME = "evaluation_test_instances"
FRAMES = 12


def _frames():
    return [frame for seed in range(9) for frame in random_case(seed)][:FRAMES]


def _write_dataset(root, frames):
    """Write the ground truth as Cityscapes does and return the dataset dicts."""
    dicts = []
    for number, frame in enumerate(frames):
        city = "aachen" if number % 2 else "zurich"
        stem = f"{city}_{number:06d}_000019"
        gt_file = root / "gtFine" / "val" / city / f"{stem}_gtFine_instanceIds.png"
        gt_file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.gt_map).save(gt_file)
        dicts.append(
            {
                "file_name": str(root / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png"),
                "image_id": f"{stem}_leftImg8bit.png",
                "height": frame.gt_map.shape[0],
                "width": frame.gt_map.shape[1],
                "instance_file_name": str(gt_file),
            }
        )
    return dicts


def _register(root, dicts, name=NAME, classes=CLASSES):
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(
        thing_classes=list(classes), gt_dir=str(root / "gtFine" / "val"), evaluator_type="any"
    )


def _unregister(name=NAME):
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _output(frame, form="bool"):
    instances = Instances(frame.gt_map.shape)
    if form == "bool":
        instances.pred_masks = torch.from_numpy(frame.masks)
    else:
        fortran = [np.asfortranarray(mask.astype(np.uint8)) for mask in frame.masks]
        instances.pred_masks_rle = [coco_mask.encode(mask) for mask in fortran]
    instances.pred_classes = torch.tensor([CLASSES.index(x) for x in frame.names]).long()
    instances.scores = torch.from_numpy(frame.scores)
    return {"instances": instances}


@pytest.fixture
def dataset(tmp_path):
    """The frames, their dataset dicts and a folder; the data set is registered as NAME."""
    frames = _frames()
    dicts = _write_dataset(tmp_path / "data", frames)
    _register(tmp_path / "data", dicts)
    yield frames, dicts, tmp_path
    _unregister()


def _evaluate(dicts, outputs, **options):
    evaluator = CityscapesInstanceEvaluator(NAME, **options)
    evaluator.reset()
    for entry, output in zip(dicts, outputs, strict=True):
        evaluator.process([entry], [output])
    return evaluator.evaluate()["segm"]


def _same(first, second):
    return list(first) == list(second) and np.array_equal(
        list(first.values()), list(second.values()), equal_nan=True
    )


def test_it_equals_detectron2s_evaluator_with_the_official_script(dataset, tmp_path):
    from detectron2.evaluation import CityscapesInstanceEvaluator as Detectron2sEvaluator

    frames, dicts, _ = dataset
    outputs = [_output(frame) for frame in frames]
    theirs = Detectron2sEvaluator(NAME)
    theirs.reset()
    with importable_by_detectron2(), runnable(tmp_path):
        theirs.process(dicts, outputs)
        expected = theirs.evaluate()["segm"]
    ours = _evaluate(dicts, outputs)
    assert 0 < ours["AP"] < ours["AP50"] < 100
    for key in ("AP", "AP50"):
        assert ours[key] == pytest.approx(expected[key], abs=1e-9)


def test_run_length_masks_give_the_same_figures(dataset):
    frames, dicts, _ = dataset
    expected = _evaluate(dicts, [_output(frame) for frame in frames])
    assert _same(_evaluate(dicts, [_output(frame, "rle") for frame in frames]), expected)


def test_unpasted_masks_give_the_figures_of_pasted_ones(dataset):
    frames, dicts, _ = dataset
    generator = torch.Generator().manual_seed(0)
    pasted, unpasted = [], []
    for frame in frames:
        instances = _output(frame)["instances"]
        boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        shape = (len(instances), 1, 28, 28)
        soft = (torch.rand(shape, generator=generator) * 0.6 + 0.45).clamp(max=1)
        instances.remove("pred_masks")
        instances.pred_boxes, instances.pred_masks = boxes, soft
        unpasted.append({"instances": instances})
        instances = Instances(instances.image_size, **instances.get_fields())
        instances.pred_masks = paste_masks_in_image(soft[:, 0], boxes, frame.gt_map.shape).bool()
        pasted.append({"instances": instances})
    expected = _evaluate(dicts, pasted)
    assert expected["AP50"] > 0
    assert _same(_evaluate(dicts, unpasted), expected)


def test_keys_are_the_same_whatever_was_evaluated(dataset):
    frames, dicts, _ = dataset
    keys = ["AP", "AP50"] + [f"{kind}-{name}" for name in CLASSES for kind in ("AP", "AP50")]
    keys += ["APs", "APm", "APl"]
    assert list(_evaluate(dicts, [_output(frame) for frame in frames])) == keys
    assert list(_evaluate([], [])) == keys


def test_ground_truth_is_looked_up_in_the_data_set_where_the_input_lacks_it(dataset):
    frames, dicts, _ = dataset
    outputs = [_output(frame) for frame in frames]
    bare = [{"file_name": entry["file_name"]} for entry in dicts]
    assert _same(_evaluate(bare, outputs), _evaluate(dicts, outputs))


def test_a_subset_of_the_images_is_evaluated_by_itself(dataset):
    frames, dicts, tmp_path = dataset
    part = [_output(frame) for frame in frames[:5]]
    ours = _evaluate(dicts[:5], part)
    other_root = tmp_path / "other"
    other = _write_dataset(other_root, frames[:5])
    assert _same(ours, _evaluate(other, part))
    assert not _same(ours, _evaluate(dicts, [_output(frame) for frame in frames]))


def test_neither_order_nor_repetition_of_images_changes_a_bit(dataset):
    frames, dicts, _ = dataset
    outputs = [_output(frame) for frame in frames]
    expected = _evaluate(dicts, outputs)
    assert _same(_evaluate(dicts[::-1], outputs[::-1]), expected)
    assert _same(_evaluate(dicts + dicts[:3], outputs + outputs[:3]), expected)


def test_reset_forgets_the_round_before(dataset):
    frames, dicts, _ = dataset
    evaluator = CityscapesInstanceEvaluator(NAME)
    evaluator.process(dicts, [_output(frame) for frame in frames])
    evaluator.reset()
    assert math.isnan(evaluator.evaluate()["segm"]["AP"])


def _worker(rank, rendezvous, root, results):
    """One of two ranks: every second image, and one that the other rank has too."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    frames = _frames()
    dicts = _write_dataset(root / str(rank), frames)
    for entry, shared in zip(dicts, _write_dataset(root / "data", frames), strict=True):
        entry["file_name"] = shared["file_name"]  # each rank its own copy of the ground truth
    _register(root, dicts)
    chosen = [*list(range(FRAMES))[rank::2], 1 - rank]
    evaluator = CityscapesInstanceEvaluator(NAME, str(results))
    evaluator.process([dicts[i] for i in chosen], [_output(frames[i]) for i in chosen])
    result = evaluator.evaluate()
    (results / f"rank{rank}.txt").write_text(repr({k: dict(v) for k, v in result.items()}))
    torch.distributed.barrier()  # a rank that leaves early can take the other one down
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_bits_as_one(dataset):
    frames, dicts, tmp_path = dataset
    results = tmp_path / "results"
    results.mkdir()
    torch.multiprocessing.spawn(
        _worker, args=(tmp_path / "rendezvous", tmp_path, results), nprocs=2
    )
    alone = _evaluate(dicts, [_output(frame) for frame in frames], output_dir=str(tmp_path / "one"))
    assert (results / "rank0.txt").read_text() == repr({"segm": dict(alone)})
    assert (results / "rank1.txt").read_text() == "{}"
    name = "cityscapes_instance_results.json"
    assert (results / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_results_are_written_as_json_with_null_for_undefined(dataset):
    frames, dicts, tmp_path = dataset
    folder = tmp_path / "made" / "here"
    result = _evaluate(dicts[:3], [_output(x) for x in frames[:3]], output_dir=str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "cityscapes_instance_errors.png",
        "cityscapes_instance_images.csv",
        "cityscapes_instance_precision_recall.png",
        "cityscapes_instance_results.json",
    ]
    report = json.loads((folder / "cityscapes_instance_results.json").read_text())
    assert report["images"] == 3
    assert any(value is None for value in report["segm"].values())
    for key, value in report["segm"].items():
        assert math.isnan(result[key]) if value is None else result[key] == value
    person = report["classes"]["person"]
    assert set(person) == {
        "targets",
        "predictions",
        "ap_at_overlaps",
        "best_score_threshold",
        "outcomes",
        "overlaps_predictions_of",
    }
    assert len(person["ap_at_overlaps"]) == len(report["overlaps"]) == 10


def test_a_table_of_the_classes_is_logged(dataset, caplog):
    frames, dicts, _ = dataset
    with caplog.at_level(logging.INFO, "deepfuse_d2"):
        _evaluate(dicts, [_output(frame) for frame in frames])
    assert f"Instance AP on {FRAMES} images of {NAME}" in caplog.text
    assert "| bicycle" in caplog.text
    assert "| all" in caplog.text


def test_nothing_evaluated_is_nan_with_a_warning(dataset, caplog):
    assert all(math.isnan(value) for value in _evaluate([], []).values())
    assert f"No image of {NAME} was evaluated" in caplog.text


def test_no_prediction_at_all_is_0_with_a_warning(dataset, caplog):
    _, dicts, _ = dataset
    assert _evaluate(dicts, [{} for _ in dicts])["AP"] == 0
    assert "There is no prediction at all" in caplog.text


def test_ground_truth_without_instances_is_nan_with_a_warning(dataset, caplog):
    frames, dicts, _tmp_path = dataset
    Image.fromarray(np.full_like(frames[0].gt_map, 7)).save(dicts[0]["instance_file_name"])
    assert math.isnan(_evaluate(dicts[:1], [_output(frames[0])])["AP"])
    assert "holds no instance of at least 100 pixels" in caplog.text


def test_predictions_that_are_all_ignored_are_0_with_a_warning(dataset, caplog):
    frames, dicts, _ = dataset
    gt_map = np.zeros_like(frames[0].gt_map)
    gt_map[:20, :20] = 26001
    Image.fromarray(gt_map).save(dicts[0]["instance_file_name"])
    output = _output(frames[0])["instances"]
    masks = torch.zeros_like(output.pred_masks)
    masks[:, 30:50] = True
    output.pred_masks = masks
    output.pred_classes = torch.full_like(output.pred_classes, CLASSES.index("car"))
    result = _evaluate(dicts[:1], [{"instances": output}])
    assert result["AP"] == result["AP-car"] == 0
    assert "Every prediction on" in caplog.text


def test_scores_that_are_not_numbers_are_left_out_with_a_warning(dataset, caplog):
    frames, dicts, _ = dataset
    outputs = [_output(frame) for frame in frames]
    expected = _evaluate(dicts, outputs)
    for output in outputs:
        instances = output["instances"]
        if len(instances):
            broken = instances[:1]
            broken.scores = torch.tensor([float("nan")])
            output["instances"] = Instances.cat([instances, broken])
    assert _same(_evaluate(dicts, outputs), expected)
    assert "have a score that is not a number" in caplog.text


def test_class_names_that_differ_from_cityscapes_are_said_aloud(tmp_path, caplog):
    _register(tmp_path, [], "evaluation_test_dogs", ["dog", "car"])
    CityscapesInstanceEvaluator("evaluation_test_dogs")
    _unregister("evaluation_test_dogs")
    assert "Classes ['dog'] of evaluation_test_dogs are unknown" in caplog.text
    assert "Classes ['person', 'rider', 'truck'" in caplog.text


def test_a_data_set_without_classes_is_refused():
    with pytest.raises(ValueError, match='"no_such_data_set" has no thing_classes'):
        CityscapesInstanceEvaluator("no_such_data_set")


def test_images_without_ground_truth_are_left_out_with_a_warning_that_counts_them(dataset, caplog):
    frames, dicts, tmp_path = dataset
    outputs = [_output(frame) for frame in frames]
    expected = _evaluate(dicts[2:], outputs[2:])
    caplog.clear()
    del dicts[0]["instance_file_name"]  # as in a test split
    dicts[1]["instance_file_name"] = str(tmp_path / "nowhere.png")
    stranger = {"file_name": "/images/stranger.png"}
    result = _evaluate([stranger, *dicts], [outputs[0], *outputs], output_dir=str(tmp_path / "o"))
    assert _same(result, expected)
    assert f"3 of the {FRAMES + 1} images of this run have no ground truth in {NAME}" in caplog.text
    assert "/images/stranger.png" in caplog.text
    report = json.loads((tmp_path / "o" / "cityscapes_instance_results.json").read_text())
    assert len(report["images_without_ground_truth"]) == 3
    assert all(math.isnan(x) for x in _evaluate([stranger], outputs[:1]).values())
    assert f"No image of {NAME} was evaluated" in caplog.text


def test_a_damaged_ground_truth_file_is_named(dataset):
    frames, dicts, tmp_path = dataset
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no PNG")
    with pytest.raises(DatasetError, match=r"Ground truth .*damaged.png of .* cannot be read"):
        _evaluate([{**dicts[0], "instance_file_name": str(damaged)}], [_output(frames[0])])
    with open(dicts[1]["instance_file_name"], "rb") as file:
        damaged.write_bytes(file.read()[:-40])
    with pytest.raises(DatasetError, match=r"damaged.png"):
        _evaluate([{**dicts[1], "instance_file_name": str(damaged)}], [_output(frames[1])])
    Image.new("RGB", (128, 64)).save(damaged)
    with pytest.raises(DatasetError, match=r"shape \(64, 128, 3\); a label image has one"):
        _evaluate([{**dicts[0], "instance_file_name": str(damaged)}], [_output(frames[0])])


@pytest.mark.parametrize("form", ["bool", "rle"])
def test_masks_of_another_size_are_refused_with_both_shapes(dataset, form):
    frames, dicts, _ = dataset
    frame = next(x for x in frames if len(x.masks))
    frame.masks = frame.masks[:, :32]
    with pytest.raises(
        ValueError, match=r"masks of size \[\(32, 128\)\].*ground truth of \(64, 128\)"
    ):
        _evaluate(dicts[:1], [_output(frame, form)])


def test_class_indices_beyond_the_data_set_are_refused(dataset):
    frames, dicts, _ = dataset
    frame = next(x for x in frames if len(x.masks))
    output = _output(frame)
    output["instances"].pred_classes[:] = 57
    with pytest.raises(ValueError, match=r"class indices from 57 to 57, but .* has 8 classes"):
        _evaluate(dicts[:1], [output])


def test_instances_without_masks_are_refused(dataset):
    frames, dicts, _ = dataset
    output = _output(frames[0])
    output["instances"].remove("pred_masks")
    with pytest.raises(ValueError, match="but no masks; expected pred_masks or pred_masks_rle"):
        _evaluate(dicts[:1], [output])
