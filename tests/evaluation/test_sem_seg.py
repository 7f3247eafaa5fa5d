"""IoU, accuracy and boundary IoU of any data set: by hand, by plain references, by detectron2's."""

import json
import logging
import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from deepfuse_d2.errors import ConfigError, DatasetError
from deepfuse_d2.evaluation import SemSegEvaluator
from deepfuse_d2.evaluation.boundary import boundary, boundary_width
from deepfuse_d2.evaluation.sem_seg import semantic_scores
from deepfuse_d2.structures.best_class import best_class

NAME = "evaluation_test_sem_seg"
CLASSES = ["sky", "tree", "road", "boat"]
IGNORE = 9
SHAPE = (60, 80)


def _random(seed, *, ignore=True):
    """Return ground truth and prediction of one image; boats are in some only."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(SHAPE, dtype=np.uint8)
    predicted = np.zeros(SHAPE, dtype=np.uint8)
    for image in (truth, predicted):
        for label in rng.permutation(len(CLASSES) - (seed % 2)):
            top, left = rng.integers(0, 40, 2)
            image[top : top + rng.integers(5, 40), left : left + rng.integers(5, 60)] = label
    predicted[rng.random(SHAPE) < 0.5] = truth[0, 0]
    if ignore:
        truth[rng.integers(0, 50) :, : rng.integers(5, 30)] = IGNORE
    return truth, predicted


def _write(root, truths):
    root.mkdir(parents=True, exist_ok=True)
    dicts = []
    for number, truth in enumerate(truths):
        path = root / f"{number}.png"
        Image.fromarray(truth).save(path)
        dicts.append({"file_name": str(root / f"{number}.jpg"), "sem_seg_file_name": str(path)})
    return dicts


def _register(dicts, **metadata):
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).set(**{"stuff_classes": CLASSES, "ignore_label": IGNORE, **metadata})


def _unregister():
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def registered():
    _register([])
    yield
    _unregister()


@pytest.fixture
def dataset(tmp_path):
    pairs = [_random(seed) for seed in range(8)]
    dicts = _write(tmp_path / "data", [truth for truth, _ in pairs])
    _register(dicts)
    yield dicts, [predicted for _, predicted in pairs]
    _unregister()


def _evaluate(dicts, predictions, **options):
    evaluator = SemSegEvaluator(NAME, **options)
    evaluator.reset()
    for entry, predicted in zip(dicts, predictions, strict=True):
        evaluator.process([entry], [{"sem_seg": torch.as_tensor(predicted)}])
    return evaluator.evaluate()["sem_seg"]


def _same(first, second):
    return list(first) == list(second) and np.array_equal(
        list(first.values()), list(second.values()), equal_nan=True
    )


def _plain_boundary(mask, width):
    """Erode a mask ``width`` times by 3 x 3, the outside of the image being outside of it."""
    eroded = mask.copy()
    for _ in range(width):
        padded = np.pad(eroded, 1)
        eroded = np.all(
            [padded[y : y + SHAPE[0], x : x + SHAPE[1]] for y in range(3) for x in range(3)], axis=0
        )
    return mask & ~eroded


def test_figures_are_those_worked_by_hand(tmp_path, registered):
    truth = np.zeros((10, 10), dtype=np.uint8)
    truth[5:] = 1
    truth[:, 9] = IGNORE
    predicted = truth.copy()
    predicted[4, :9] = 1
    predicted[9, :3] = IGNORE  # nothing predicted
    predicted[0, 0] = 2  # a class that the ground truth lacks
    predicted[:, 9] = 3  # ignored
    result = _evaluate(_write(tmp_path, [truth]), [predicted])
    sky, tree = 35 / 45, 42 / 54
    assert result["IoU-sky"] == pytest.approx(100 * sky)
    assert result["IoU-tree"] == pytest.approx(100 * tree)
    assert math.isnan(result["IoU-road"])
    assert math.isnan(result["IoU-boat"])
    assert result["mIoU"] == pytest.approx(50 * (sky + tree))
    assert result["fwIoU"] == pytest.approx(50 * (sky + tree))
    assert result["ACC-sky"] == pytest.approx(100 * 35 / 45)
    assert result["ACC-tree"] == pytest.approx(100 * 42 / 45)
    assert result["mACC"] == pytest.approx(50 * (35 + 42) / 45)
    assert result["pACC"] == pytest.approx(100 * (35 + 42) / 90)


@pytest.mark.parametrize("seed", range(20))
def test_figures_are_those_of_detectron2s_evaluator(seed, tmp_path, registered):
    from detectron2.evaluation import SemSegEvaluator as Detectron2sEvaluator

    pairs = [_random(10 * seed + number) for number in range(3)]
    dicts = _write(tmp_path, [truth for truth, _ in pairs])
    _unregister()
    _register(dicts)
    maps = [predicted for _, predicted in pairs]

    def load(path, dtype):  # its own function stops on NumPy 2
        return np.array(Image.open(path), dtype=dtype)

    theirs = Detectron2sEvaluator(NAME, distributed=False, sem_seg_loading_fn=load)
    theirs.reset()
    for entry, predicted in zip(dicts, maps, strict=True):
        logits = torch.nn.functional.one_hot(torch.as_tensor(predicted).long(), len(CLASSES))
        theirs.process([entry], [{"sem_seg": logits.permute(2, 0, 1)}])
    expected = theirs.evaluate()["sem_seg"]
    result = _evaluate(dicts, maps)
    # its boundaries are those of the numbers of the classes, so they are not compared
    shared = [key for key in result if key in expected and "Boundary" not in key]
    assert len(shared) == 4 + 2 * len(CLASSES)
    for key in shared:
        np.testing.assert_allclose(result[key], expected[key], rtol=0, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("seed", range(20))
def test_boundary_iou_is_that_of_a_plain_reference(seed, tmp_path, registered):
    truth, predicted = _random(seed)
    result = _evaluate(_write(tmp_path, [truth]), [predicted])
    ignored = truth == IGNORE
    painted = np.where(ignored, IGNORE, predicted)
    width = boundary_width(SHAPE)
    assert width == 2
    for label, name in enumerate(CLASSES):
        ours = _plain_boundary(painted == label, width)
        theirs = _plain_boundary(truth == label, width)
        if theirs.any():
            expected = 100 * (ours & theirs).sum() / (ours | theirs).sum()
            assert result[f"BoundaryIoU-{name}"] == pytest.approx(expected, abs=1e-9)
        else:
            assert math.isnan(result[f"BoundaryIoU-{name}"])


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_boundary_is_what_erosions_take_away(width):
    truth, _ = _random(4)
    found = boundary(truth, width)
    for label in np.unique(truth):
        expected = _plain_boundary(truth == label, width)
        np.testing.assert_array_equal(found & (truth == label), expected)


def test_the_boundary_is_2_percent_of_the_diagonal_wide():
    assert boundary_width((1024, 2048)) == 46
    assert boundary_width((4, 4)) == 1


def test_a_perfect_prediction_has_100_everywhere_whatever_it_says_of_ignored_pixels(
    tmp_path, registered
):
    truth, _ = _random(2)
    predicted = truth.copy()
    predicted[truth == IGNORE] = np.arange((truth == IGNORE).sum()) % 4
    result = _evaluate(_write(tmp_path, [truth]), [predicted])
    assert all(math.isnan(value) or value == 100 for value in result.values())
    assert result["mIoU"] == result["mBoundaryIoU"] == 100


def test_logits_give_the_figures_of_their_best_class(dataset):
    dicts, maps = dataset
    generator = torch.Generator().manual_seed(0)
    logits = [torch.rand(len(CLASSES), *SHAPE, generator=generator) for _ in maps]
    for dtype in (torch.float32, torch.bfloat16):
        typed = [x.to(dtype) for x in logits]
        best = [x.argmax(dim=0) for x in typed]
        assert _same(_evaluate(dicts, typed), _evaluate(dicts, best))


def test_the_best_class_is_the_first_of_equal_ones():
    generator = torch.Generator().manual_seed(0)
    for classes in (1, 2, 19, 300):
        logits = torch.randint(0, 5, (classes, 33, 47), generator=generator).float()
        found, highest = best_class(logits)
        np.testing.assert_array_equal(found, logits.numpy().argmax(axis=0))
        assert torch.equal(highest, logits.amax(0))


def test_neither_order_nor_repetition_of_images_changes_a_bit(dataset):
    dicts, maps = dataset
    expected = _evaluate(dicts, maps)
    assert 0 < expected["mIoU"] < 100
    assert _same(_evaluate(dicts[::-1], maps[::-1]), expected)
    assert _same(_evaluate(dicts + dicts[:3], maps + maps[:3]), expected)


def _worker(rank, rendezvous, root, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    pairs = [_random(seed) for seed in range(8)]
    dicts = [
        {**entry, "file_name": str(root / "data" / f"{number}.jpg")}
        for number, entry in enumerate(_write(root / str(rank), [truth for truth, _ in pairs]))
    ]
    _register(dicts)
    evaluator = SemSegEvaluator(NAME, str(results))
    for i in [*list(range(8))[rank::2], 1 - rank]:
        evaluator.process([dicts[i]], [{"sem_seg": torch.as_tensor(pairs[i][1])}])
    text = repr({k: dict(v) for k, v in evaluator.evaluate().items()})
    (results / f"rank{rank}.txt").write_text(text)
    torch.distributed.barrier()  # a rank that leaves early can take the other one down
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_bits_as_one(dataset, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    torch.multiprocessing.spawn(
        _worker, args=(tmp_path / "rendezvous", tmp_path, results), nprocs=2
    )
    alone = _evaluate(*dataset, output_dir=str(tmp_path / "one"))
    assert (results / "rank0.txt").read_text() == repr({"sem_seg": dict(alone)})
    assert (results / "rank1.txt").read_text() == "{}"
    name = "sem_seg_results.json"
    assert (results / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_results_and_confusion_are_written(dataset, tmp_path):
    dicts, maps = dataset
    _evaluate(dicts, maps, output_dir=str(tmp_path / "made"))
    report = json.loads((tmp_path / "made" / "sem_seg_results.json").read_text())
    pixels = np.array(report["confusion"]["pixels"])
    assert pixels.shape == (4, 5)
    truths = [_random(seed)[0] for seed in range(8)]
    assert pixels.sum() == sum((truth != IGNORE).sum() for truth in truths)


def test_ground_truth_is_looked_up_and_images_without_it_are_left_out(dataset, caplog):
    dicts, maps = dataset
    expected = _evaluate(dicts, maps)
    bare = [{"file_name": entry["file_name"]} for entry in dicts]
    assert _same(_evaluate([*bare, {"file_name": "/no.jpg"}], [*maps, maps[0]]), expected)
    assert f"1 of the 9 images of this run have no ground truth in {NAME}" in caplog.text


def test_nothing_to_say_is_nan_with_a_warning(tmp_path, registered, caplog):
    assert all(math.isnan(x) for x in _evaluate([], []).values())
    assert f"No image of {NAME} was evaluated" in caplog.text
    dicts = _write(tmp_path, [np.full(SHAPE, IGNORE, dtype=np.uint8)])
    predicted = np.zeros(SHAPE, dtype=np.uint8)
    assert all(math.isnan(x) for x in _evaluate(dicts, [predicted]).values())
    assert "is ignored: all figures are nan. Check ignore_label" in caplog.text


def test_no_prediction_and_one_class_only_are_said_aloud(dataset, caplog):
    dicts, maps = dataset
    result = _evaluate(dicts, [np.full_like(x, IGNORE) for x in maps])
    assert result["mIoU"] == result["pACC"] == 0
    assert "There is no prediction at all" in caplog.text
    _evaluate(dicts, [np.zeros_like(x) for x in maps])
    assert 'is predicted as "sky"' in caplog.text


def test_a_table_is_logged(dataset, caplog):
    with caplog.at_level(logging.INFO, "deepfuse_d2"):
        _evaluate(*dataset)
    assert "| boat" in caplog.text
    assert "pixel accuracy" in caplog.text


def test_values_beyond_the_classes_are_refused_by_file(tmp_path, registered):
    dicts = _write(tmp_path, [np.full(SHAPE, 5, dtype=np.uint8)])
    with pytest.raises(DatasetError, match=r"0.png of .* holds the value 5.* 0 .. 3 and 9 to"):
        _evaluate(dicts, [np.zeros(SHAPE, dtype=np.uint8)])


def test_a_data_set_without_classes_is_refused():
    with pytest.raises(ConfigError, match='"no_such_set" has no stuff_classes'):
        SemSegEvaluator("no_such_set")


def test_kappa_and_f1_are_those_of_a_confusion_matrix_worked_by_hand():
    # rows: class; columns: predicted class, and no class
    pairs = np.array([[40, 10, 0, 0], [5, 30, 0, 5], [0, 0, 0, 0]])
    result = semantic_scores(pairs, np.zeros((4, 4), dtype=int), ["a", "b", "c"])
    assert result["pACC"] == pytest.approx(100 * 70 / 90)
    chance = (50 * 45 + 40 * 40) / 90**2
    assert result["kappa"] == pytest.approx(100 * (70 / 90 - chance) / (1 - chance))
    f1 = {"a": 2 * 40 / (50 + 45), "b": 2 * 30 / (40 + 40)}
    assert result["F1-a"] == pytest.approx(100 * f1["a"])
    assert result["F1-b"] == pytest.approx(100 * f1["b"])
    assert math.isnan(result["F1-c"])
    assert result["mF1"] == pytest.approx(50 * (f1["a"] + f1["b"]))
    assert result["fwF1"] == pytest.approx(100 * (50 * f1["a"] + 40 * f1["b"]) / 90)
    assert result["mIoU"] == pytest.approx(50 * (40 / 55 + 30 / 50))


def test_kappa_is_nothing_where_chance_is_all():
    pairs = np.array([[9, 0, 0], [0, 0, 0]])
    assert math.isnan(semantic_scores(pairs, np.zeros((3, 3), dtype=int), ["a", "b"])["kappa"])
    empty = semantic_scores(0 * pairs, np.zeros((3, 3), dtype=int), ["a", "b"])
    assert math.isnan(empty["kappa"])
