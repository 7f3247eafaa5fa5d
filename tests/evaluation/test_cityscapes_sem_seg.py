"""Cityscapes IoU and iIoU: against the official script, by hand, and as detectron2 drives it."""

import json
import logging
import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from benchmarks.evaluation_oracle.cases import random_pixels
from benchmarks.evaluation_oracle.official import official_pixel_results
from deepfuse_d2.data.datasets.cityscapes import cityscapes_metadata
from deepfuse_d2.errors import ConfigError, DatasetError
from deepfuse_d2.evaluation import CityscapesSemSegEvaluator
from deepfuse_d2.evaluation.files import frame_file

NAME = "evaluation_test_pixels"
CLASSES = cityscapes_metadata("sem_seg")["stuff_classes"]
CASES = 60
ROAD, BUILDING, PERSON, RIDER, CAR = (
    CLASSES.index(x) for x in ("road", "building", "person", "rider", "car")
)
RESULTS = "cityscapes_sem_seg_results.json"


def _label_ids(train_ids):
    from cityscapesscripts.helpers.labels import trainId2label

    return np.array([trainId2label[x].id for x in range(19)])[train_ids]


def _write(root, frames):
    """Write ground truth as Cityscapes does; return the dataset dicts."""
    dicts = []
    for number, (ids, _) in enumerate(frames):
        folder = root / "leftImg8bit" / "val" / ("ulm" if number % 2 else "jena")
        image = str(folder / f"{folder.name}_{number:06d}_000019_leftImg8bit.png")
        gt_file = frame_file(image, "gtFine", "gtFine_instanceIds.png")
        _save(ids.astype(np.uint16), gt_file)
        dicts.append({"file_name": image, "sem_seg_file_name": "not there"})
    return dicts


def _save(array, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _register(dicts, classes=CLASSES):
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).set(stuff_classes=list(classes), ignore_label=255)


@pytest.fixture
def frames(tmp_path):
    """Frames and dataset dicts of a few cases; any test may register others."""
    frames = [frame for seed in range(5) for frame in random_pixels(seed)]
    dicts = _write(tmp_path / "data", frames)
    _register(dicts)
    yield frames, dicts
    _unregister()


def _unregister():
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def _evaluate(dicts, predictions, **options):
    evaluator = CityscapesSemSegEvaluator(NAME, **options)
    evaluator.reset()
    for entry, predicted in zip(dicts, predictions, strict=True):
        evaluator.process([entry], [{"sem_seg": torch.as_tensor(predicted)}])
    return evaluator.evaluate()["sem_seg"]


def _maps(frames):
    return [predicted for _, predicted in frames]


def _same(first, second):
    return list(first) == list(second) and np.array_equal(
        list(first.values()), list(second.values()), equal_nan=True
    )


@pytest.fixture
def registered():
    _register([])
    yield
    _unregister()


@pytest.mark.parametrize("seed", range(CASES))
def test_every_figure_equals_that_of_the_official_script(seed, tmp_path, registered):
    frames = random_pixels(seed)
    folder = tmp_path / "official"
    folder.mkdir()
    expected = official_pixel_results(
        [(ids, _label_ids(predicted)) for ids, predicted in frames], folder
    )
    result = _evaluate(_write(tmp_path, frames), _maps(frames))
    for key, value in result.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-9, err_msg=key)
        if not key.startswith("iIoU"):
            assert value == expected[key] or math.isnan(value)  # no sum of fractions: equal bits
    missing = {key for key, value in expected.items() if key not in result}
    assert all(math.isnan(expected[key]) for key in missing)


def test_iou_and_iiou_are_those_worked_by_hand(tmp_path, registered):
    ids = np.full((20, 20), 7)
    ids[:10] = 24  # a group of persons: no instance, but pixels of the class
    ids[10, :10] = 24001  # 10 pixels
    ids[11:15, :10] = 24002  # 40 pixels
    ids[19] = 0  # void
    predicted = np.full((20, 20), ROAD)
    predicted[:5] = PERSON
    predicted[10, :10] = PERSON
    predicted[11, :10] = RIDER
    predicted[12, :10] = PERSON
    predicted[15, :5] = PERSON
    predicted[19] = PERSON  # on void: no false positive
    result = _evaluate(_write(tmp_path, [(ids, predicted)]), [predicted])
    # 250 pixels of persons, 120 of them right, 5 false on the road
    assert result["IoU-person"] == pytest.approx(100 * 120 / 255)
    weight = 3462.4756337644
    true = weight * (10 / 10 + 10 / 40)
    assert result["iIoU-person"] == pytest.approx(
        100 * true / (true + 5 + weight * 30 / 40), rel=1e-12
    )
    # as a category, the rider is right, too
    assert result["IoU_sup-human"] == pytest.approx(100 * 130 / 255)
    true = weight * (10 / 10 + 20 / 40)
    assert result["iIoU_sup-human"] == pytest.approx(100 * true / (true + 5 + weight * 20 / 40))
    road = 400 - 20 - 250
    assert result["IoU-road"] == pytest.approx(100 * (road - 5) / (road + 130 - 10))
    assert result["IoU-rider"] == 0
    assert math.isnan(result["IoU-car"])
    assert result["IoU"] == pytest.approx((result["IoU-person"] + result["IoU-road"]) / 3)


def test_logits_give_the_figures_of_their_best_class(frames):
    maps, dicts = _maps(frames[0]), frames[1]
    generator = torch.Generator().manual_seed(0)
    logits = []
    for predicted in maps:
        noise = torch.rand(19, *predicted.shape, generator=generator)
        one_hot = torch.nn.functional.one_hot(torch.as_tensor(predicted).long(), 19)
        logits.append(noise + 1.5 * one_hot.permute(2, 0, 1))
    assert _same(_evaluate(dicts, logits), _evaluate(dicts, maps))


def test_neither_order_nor_repetition_of_images_changes_a_bit(frames):
    maps, dicts = _maps(frames[0]), frames[1]
    expected = _evaluate(dicts, maps)
    assert _same(_evaluate(dicts[::-1], maps[::-1]), expected)
    assert _same(_evaluate(dicts + dicts[:3], maps + maps[:3]), expected)


def test_keys_are_the_same_whatever_was_evaluated(frames):
    keys = list(_evaluate(frames[1], _maps(frames[0])))
    assert keys[:4] == ["IoU", "iIoU", "IoU_sup", "iIoU_sup"]
    assert len(keys) == 4 + 19 + 8 + 7 + 2
    assert list(_evaluate([], [])) == keys


def _worker(rank, rendezvous, root, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    frames = [frame for seed in range(5) for frame in random_pixels(seed)]
    dicts = _write(root / f"rank{rank}", frames)
    for entry, shared in zip(dicts, _write(root / "data", frames), strict=True):
        entry["instance_file_name"] = frame_file(
            entry["file_name"], "gtFine", "gtFine_instanceIds.png"
        )
        entry["file_name"] = shared["file_name"]
    _register(dicts)
    chosen = [*list(range(len(frames)))[rank::2], 1 - rank]
    evaluator = CityscapesSemSegEvaluator(NAME, str(results))
    for i in chosen:
        evaluator.process([dicts[i]], [{"sem_seg": torch.as_tensor(frames[i][1])}])
    (results / f"rank{rank}.txt").write_text(
        repr({k: dict(v) for k, v in evaluator.evaluate().items()})
    )
    torch.distributed.barrier()  # a rank that leaves early can take the other one down
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_bits_as_one(frames, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    torch.multiprocessing.spawn(
        _worker, args=(tmp_path / "rendezvous", tmp_path, results), nprocs=2
    )
    alone = _evaluate(frames[1], _maps(frames[0]), output_dir=str(tmp_path / "one"))
    assert (results / "rank0.txt").read_text() == repr({"sem_seg": dict(alone)})
    assert (results / "rank1.txt").read_text() == "{}"
    assert (results / RESULTS).read_bytes() == (tmp_path / "one" / RESULTS).read_bytes()


def test_the_confusion_of_all_pixels_is_written(frames, tmp_path):
    _evaluate(frames[1], _maps(frames[0]), output_dir=str(tmp_path / "made" / "here"))
    report = json.loads((tmp_path / "made" / "here" / RESULTS).read_text())
    pixels = np.array(report["confusion"]["pixels"])
    assert pixels.shape == (34, 20)
    assert pixels.sum() == sum(ids.size for ids, _ in frames[0])
    assert report["images"] == len(frames[1])


def test_without_instance_ids_there_is_iou_alone_with_a_warning(tmp_path, frames, caplog):
    from cityscapesscripts.helpers.labels import id2label

    expected = _evaluate(frames[1], _maps(frames[0]))
    bare = []
    for number, (ids, _) in enumerate(frames[0]):
        to_train_id = np.array([id2label[x].trainId for x in range(34)])
        train_ids = to_train_id[np.where(ids < 1000, ids, ids // 1000)].astype(np.uint8)
        path = str(tmp_path / f"{number}_labelTrainIds.png")
        _save(train_ids, path)
        bare.append({"file_name": str(tmp_path / f"{number}.png"), "sem_seg_file_name": path})
    result = _evaluate(bare, _maps(frames[0]))
    assert result["IoU"] == expected["IoU"]
    assert result["IoU_sup"] == expected["IoU_sup"]
    assert math.isnan(result["iIoU"])
    assert math.isnan(result["iIoU-person"])
    assert "have no instanceIds image" in caplog.text


def test_images_without_ground_truth_are_left_out_with_a_warning(frames, caplog):
    maps, dicts = _maps(frames[0]), frames[1]
    stranger = {"file_name": "/images/stranger.png"}
    result = _evaluate([stranger, *dicts], [maps[0], *maps])
    assert _same(result, _evaluate(dicts, maps))
    assert f"1 of the {len(dicts) + 1} images of this run have no ground truth" in caplog.text


def test_nothing_to_say_is_nan_with_a_warning(tmp_path, registered, caplog):
    assert all(math.isnan(x) for x in _evaluate([], []).values())
    assert f"No image of {NAME} was evaluated" in caplog.text
    void = np.zeros((8, 8), dtype=np.uint16)
    dicts = _write(tmp_path, [(void, None)])
    assert all(math.isnan(x) for x in _evaluate(dicts, [void.astype(np.uint8)]).values())
    assert "Every pixel of the ground truth" in caplog.text


def test_no_prediction_and_one_class_only_are_said_aloud(frames, caplog):
    maps, dicts = _maps(frames[0]), frames[1]
    assert _evaluate(dicts, [np.full_like(x, 255) for x in maps])["IoU"] == 0
    assert "There is no prediction at all" in caplog.text
    _evaluate(dicts, [np.full_like(x, CAR) for x in maps])
    assert 'is predicted as "car"' in caplog.text


def test_logits_that_are_not_numbers_are_said_aloud(frames, caplog):
    maps, dicts = _maps(frames[0]), frames[1]
    logits = torch.full((19, *maps[0].shape), float("nan"))
    _evaluate(dicts[:1], [logits])
    assert f"{maps[0].size} pixels predicted on {NAME} have logits that are not" in caplog.text


def test_class_names_that_differ_from_cityscapes_are_said_aloud(caplog):
    _register([], ["road", "lava"])
    CityscapesSemSegEvaluator(NAME)
    _unregister()
    assert f"Classes ['lava'] of {NAME} are unknown" in caplog.text


def test_a_table_is_logged(frames, caplog):
    with caplog.at_level(logging.INFO, "deepfuse_d2"):
        _evaluate(frames[1], _maps(frames[0]))
    assert "| traffic light" in caplog.text
    assert "| vehicle" in caplog.text


def test_a_data_set_without_classes_is_refused():
    with pytest.raises(ConfigError, match='"no_such_pixels" has no stuff_classes'):
        CityscapesSemSegEvaluator("no_such_pixels")


def test_unknown_ids_in_the_ground_truth_are_refused_by_name(tmp_path, registered):
    ids = np.full((8, 8), 7)
    ids[3, 3] = 60000
    with pytest.raises(DatasetError, match=r"instanceIds.png of .* holds the value 60000"):
        _evaluate(_write(tmp_path, [(ids, None)]), [np.zeros((8, 8), dtype=np.uint8)])


def test_predictions_that_do_not_fit_are_refused(frames):
    dicts, shape = frames[1][:1], frames[0][0][0].shape
    with pytest.raises(ValueError, match=r"has the shape \(8, 8\), the ground truth \(64, 128\)"):
        _evaluate(dicts, [np.zeros((8, 8), dtype=np.uint8)])
    with pytest.raises(ConfigError, match=r"has 5 channels, but the data set has 19 classes"):
        _evaluate(dicts, [torch.zeros(5, *shape)])
    with pytest.raises(ConfigError, match=r"holds the value 19;.*\(train ids\)"):
        _evaluate(dicts, [np.full(shape, 19, dtype=np.uint8)])
    with pytest.raises(ValueError, match="a label map of float32; expected integers"):
        _evaluate(dicts, [np.zeros(shape, dtype=np.float32)])
