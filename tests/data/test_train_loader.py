"""Training batches: a function of the seed alone, for any workers, processes and interruptions."""

import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.samplers import TrainingSampler

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.data.loader.batches import Batches, SamplerState, aspect_groups
from deepfuse_d2.data.loader.train_loader import TrainLoader, build_train_loader
from deepfuse_d2.data.loader.workers import messages_alone
from deepfuse_d2.data.mappers.seeded_mapper import DAMAGED, RecordError, SeededSamples
from deepfuse_d2.engine import Trainer
from deepfuse_d2.errors import ConfigError, DatasetError, TrainingError
from deepfuse_d2.randomness import get_random_state, seeded, set_random_state

RECORDS = [
    {"file_name": f"{i}.png", "number": i, "width": 4 + i % 3, "height": 5} for i in range(11)
]


def mapper(record):
    drawn = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    return {"number": record["number"], "width": record["width"], "drawn": drawn}


def loader(num_workers=0, *, batch_size=4, groups=True, mapper=mapper, seed=5, keys=(), **options):
    batches = Batches(
        lambda seed: TrainingSampler(len(RECORDS), seed=seed),
        batch_size,
        aspect_groups(RECORDS) if groups else None,
        **dict(keys),
    )
    return TrainLoader(RECORDS, mapper, batches, seed=seed, num_workers=num_workers, **options)


def take(batches, count):
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


def test_order_and_augmentation_are_the_same_for_any_number_of_workers():
    alone = take(loader(0), 8)
    assert take(loader(1), 8) == alone
    assert take(loader(2), 8) == alone
    assert take(loader(0, seed=6), 8) != alone


def test_workers_stay_over_the_epochs_and_read_records_that_nobody_copies():
    def with_process(record):
        return {**mapper(record), "pid": os.getpid()}

    two = loader(2, mapper=with_process)
    # detectron2's list of serialized records: workers share its one tensor
    assert isinstance(two.records, DatasetFromList)
    stored = two.records._lst
    assert torch.is_tensor(stored._lst) or isinstance(stored._lst, np.ndarray)
    batches = take(two, 4 * len(RECORDS) // 4)
    assert {sample["number"] for batch in batches for sample in batch} == set(range(len(RECORDS)))
    pids = {sample["pid"] for batch in batches for sample in batch}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert two.records._lst is stored


def test_images_for_a_gpu_are_pinned(monkeypatch):
    seen = {}
    monkeypatch.setattr("deepfuse_d2.engine.trainer.load_train_records", lambda cfg: [])
    monkeypatch.setattr(
        "deepfuse_d2.engine.trainer.build_train_loader", lambda cfg, **options: seen.update(options)
    )
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    for device, is_pinned in (("cuda", True), ("cpu", False)):
        cfg.MODEL.DEVICE = device
        Trainer.build_train_loader(cfg)
        assert seen["pin_memory"] is is_pinned


def test_a_batch_holds_images_of_one_orientation_and_every_image_comes_up():
    drawn = take(loader(0), 11)
    assert all(len({sample["width"] > 5 for sample in batch}) == 1 for batch in drawn)
    assert {sample["number"] for batch in drawn for sample in batch} == set(range(11))


def test_without_groups_the_order_is_that_of_detectron2():
    numbers = [sample["number"] for batch in take(loader(groups=False), 8) for sample in batch]
    theirs = iter(TrainingSampler(len(RECORDS), seed=5))
    assert numbers == [next(theirs) for _ in range(32)]


@pytest.mark.parametrize("workers", [(0, 0), (2, 0), (0, 2)])
def test_a_loader_continues_where_another_one_stopped(workers):
    whole = take(loader(), 9)
    for stopped_at in (0, 1, 4):
        first = loader(workers[0])
        iterator = iter(first)
        assert [next(iterator) for _ in range(stopped_at)] == whole[:stopped_at]
        second = loader(workers[1], seed=99)
        second.load_state_dict(first.state_dict())
        assert take(second, 9 - stopped_at) == whole[stopped_at:]


def test_several_processes_share_the_batches_of_one():
    whole = take(loader(), 6)
    parts = [take(loader(keys={"rank": rank, "world_size": 2}), 6) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch[0::2] == first
        assert batch[1::2] == second


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 1)])
def test_another_batch_size_goes_on_without_losing_or_repeating_an_image(before, after):
    def picks(batches):
        return sorted(position for batch in batches for position, _ in batch)

    sizes = [
        Batches(lambda s: TrainingSampler(11, seed=s), n, aspect_groups(RECORDS))
        for n in (before, after)
    ]
    iterator = sizes[0].after(5, SamplerState())
    first = [next(iterator) for _ in range(4)]
    place = SamplerState.from_state_dict(first[-1][1].state_dict())
    iterator = sizes[1].after(5, place)
    second = [next(iterator) for _ in range(40 // after)]
    left = [pick for group in second[-1][1].waiting for pick in group]
    seen = picks([batch for batch, _ in first + second] + [left])
    assert seen == list(range(len(seen)))


def test_a_place_says_how_many_samples_it_took():
    place = Batches(lambda s: TrainingSampler(11, seed=s), 4).after(0, SamplerState())
    assert [next(place)[1].position for _ in range(3)] == [4, 8, 12]


def test_loading_leaves_the_random_state_of_the_training_alone():
    torch.manual_seed(3)
    before = get_random_state()
    for workers in (0, 2):
        take(loader(workers), 2)
        after = get_random_state()
        assert after["python"] == before["python"]
        assert after["numpy"] == before["numpy"]
        assert torch.equal(after["torch"], before["torch"])


def test_a_random_state_is_set_again_from_a_checkpoint(tmp_path):
    torch.save(get_random_state(), tmp_path / "state.pth")
    drawn = random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()  # noqa: NPY002
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert drawn == (random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist())  # noqa: NPY002


def test_borrowed_generators_depend_on_every_number_and_are_given_back():
    def draw(*numbers):
        with seeded(*numbers):
            return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    random.seed(1)
    expected = random.random()
    random.seed(1)
    draws = [draw(0, 0), draw(0, 1), draw(1, 0)]
    assert random.random() == expected
    assert draw(0, 1) == draws[1]
    for kind in zip(*draws, strict=True):
        assert len(set(kind)) == 3


def damaged_mapper(record):
    if record["number"] in (3, 7):
        raise OSError(f"image file is truncated: {record['file_name']}")
    return mapper(record)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_named_counted_and_replaced(workers, caplog):
    caplog.set_level(logging.ERROR)
    damaged = loader(workers, mapper=damaged_mapper, max_damaged=2)
    batches = take(damaged, 12)
    assert all(len(batch) == 4 for batch in batches)
    assert {sample["number"] for batch in batches for sample in batch} == set(range(11)) - {3, 7}
    assert all(DAMAGED not in sample for batch in batches for sample in batch)
    assert sorted(damaged.damaged) == ["3.png", "7.png"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert any(
        "3.png cannot be read and is left out" in text and "image file is truncated" in text
        for text in messages
    )
    # all other samples are what they are without damage
    for batch, healthy in zip(batches, take(loader(), 12), strict=True):
        for sample, expected in zip(batch, healthy, strict=True):
            assert (sample == expected) == (expected["number"] not in (3, 7))


def test_too_many_damaged_images_stop_the_training_with_a_list():
    with pytest.raises(
        DatasetError, match=r"2 files .*MAX_DAMAGED allows 1:\n  .\.png: OSError: im"
    ):
        take(loader(mapper=damaged_mapper, max_damaged=1), 12)


def test_the_count_of_damaged_images_survives_an_interruption():
    first = loader(mapper=damaged_mapper, max_damaged=2)
    take(first, 12)
    second = loader(mapper=damaged_mapper, max_damaged=1)
    second.load_state_dict(first.state_dict())
    assert sorted(second.damaged) == ["3.png", "7.png"]


def test_files_that_are_really_broken_count_as_damage(tmp_path):
    from detectron2.data import DatasetMapper
    from PIL import Image

    names = ["whole", "cut", "empty", "text", "missing", "other_size", "crc"]
    for name in names:
        pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "crc.png").write_bytes(content[:29] + b"\0\0\0\0" + content[33:])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>404</html>")
    (tmp_path / "missing.png").unlink()
    sizes = {"other_size": (61, 40)}
    records = [
        {
            "file_name": str(tmp_path / f"{name}.png"),
            "width": sizes.get(name, (60, 40))[0],
            "height": 40,
        }
        for name in [*names, *["whole"] * 20]
    ]
    own = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    samples = SeededSamples(records, own, 0)
    for index, name in enumerate(names):
        sample = samples[index, index]
        found = [one["file"] for one in sample.get(DAMAGED, [])]
        assert sample["file_name"].endswith("whole.png")
        assert (str(tmp_path / f"{name}.png") in found) == (name != "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_mapper_is_no_damage_and_names_the_record(workers):
    def wrong(record):
        return record["no_such_key"]

    with pytest.raises(RecordError, match=r"failed on \d+\.png \(record \d+\): KeyError"):
        take(loader(workers, mapper=wrong), 1)


def test_trouble_of_the_process_is_no_damage():
    def exhausted(record):
        raise OSError(24, "Too many open files")

    with pytest.raises(RecordError, match="Too many open files"):
        take(loader(mapper=exhausted), 1)


def test_a_data_set_that_is_gone_is_told_from_a_damaged_image():
    def gone(record):
        raise FileNotFoundError(2, "No such file", record["file_name"])

    with pytest.raises(OSError, match=r"16 records in a row.*No such file.*still where it was"):
        take(loader(mapper=gone), 1)


def test_a_mapper_may_leave_a_record_out():
    def picky(record):
        return None if record["number"] == 4 else mapper(record)

    picked = loader(mapper=picky)
    assert 4 not in {sample["number"] for batch in take(picked, 12) for sample in batch}
    assert not picked.damaged


def slow_mapper(record):
    time.sleep(0.02)
    return mapper(record)


def kill_a_worker():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def test_workers_that_died_are_explained_and_their_work_is_taken_up(caplog):
    whole = take(loader(), 12)
    iterator = iter(loader(2, mapper=slow_mapper))
    found = [next(iterator)]
    kill_a_worker()
    found += [next(iterator) for _ in range(11)]
    assert found == whole
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "1 of 2 data-loader workers died (pid" in message
    assert "SIGKILL, as a rule the kernel's out-of-memory killer" in message
    assert ".png" in message


def mapper_to_tensors(record):
    return {**mapper(record), "image": torch.full((3, 4, 4), float(record["number"]))}


def test_batches_that_a_worker_left_behind_are_made_again(caplog):
    whole = take(loader(mapper=mapper_to_tensors), 12)
    iterator = iter(loader(2, mapper=mapper_to_tensors))
    found = [next(iterator)]
    # their tensors are still with the workers: they are fetched when a batch is taken out
    time.sleep(0.5)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
    found += [next(iterator) for _ in range(11)]
    for one, other in zip(found, whole, strict=True):
        for sample, expected in zip(one, other, strict=True):
            assert torch.equal(sample.pop("image"), expected.pop("image"))
            assert sample == expected
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "data-loader workers died (pid" in message


class BreaksOnce:
    """An iterator whose worker is about to die, and whose connection to it is already gone."""

    def __init__(self, iterator, after):
        self.iterator, self.left = iterator, after
        self._workers = iterator._workers

    def __iter__(self):
        return self

    def __next__(self):
        self.left -= 1
        if self.left == 0:
            threading.Timer(0.2, os.kill, (self._workers[0].pid, signal.SIGKILL)).start()
            raise ConnectionResetError(104, "Connection reset by peer")
        return next(self.iterator)


def test_a_connection_that_breaks_as_its_worker_dies_is_a_death(monkeypatch, caplog):
    whole = take(loader(), 12)
    make, made = TrainLoader._loader, []

    def breaking(self, *args):
        made.append(iter(make(self, *args)))
        return BreaksOnce(made[-1], 3) if len(made) == 1 else made[-1]

    monkeypatch.setattr(TrainLoader, "_loader", breaking)
    assert take(loader(2), 12) == whole
    assert len(made) == 2
    assert "1 of 2 data-loader workers died (pid" in caplog.text


def test_workers_that_die_again_and_again_end_the_training():
    iterator = iter(loader(1, mapper=slow_mapper, max_worker_deaths=0))
    next(iterator)
    kill_a_worker()
    with pytest.raises(TrainingError, match=r"workers died .pid.*MAX_WORKER_DEATHS allows 0"):
        list(islice(iterator, 12))


def test_a_warning_of_the_scheduler_leaves_the_workers_at_work():
    whole = take(loader(), 12)
    iterator = iter(loader(2, max_worker_deaths=0))
    # both have given some, so both have started
    found = [next(iterator) for _ in range(4)]
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    assert found + [next(iterator) for _ in range(8)] == whole
    iterator.close()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.DATASETS.TRAIN = ("train_loader_test",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    # keys that two of detectron2's samplers read and its defaults lack
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("train_loader_test", 1.5)]
    annotated = [{**r, "annotations": [{"category_id": r["number"] // 10}]} for r in RECORDS]
    DatasetCatalog.register("train_loader_test", lambda: annotated)
    yield cfg
    DatasetCatalog.remove("train_loader_test")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
        ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler",
         "DATALOADER.RANDOM_SUBSET_RATIO", 0.5],
        ["DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"],
    ],
)  # fmt: skip
def test_every_sampler_of_detectron2_continues_where_it_was(cfg, overrides):
    cfg.merge_from_list(overrides)
    whole = build_train_loader(cfg, mapper=mapper)
    first = build_train_loader(cfg, mapper=mapper)
    first.seed = whole.seed
    expected = take(whole, 9)
    iterator = iter(first)
    assert [next(iterator) for _ in range(4)] == expected[:4]
    second = build_train_loader(cfg, mapper=mapper)
    second.load_state_dict(first.state_dict())
    assert take(second, 5) == expected[4:]


def test_a_batch_that_cannot_be_shared_among_the_processes_is_named(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ConfigError, match=r"SOLVER.IMS_PER_BATCH is 0; .*all 1 processes"):
        build_train_loader(cfg, mapper=mapper)


def test_a_mistake_that_a_worker_meets_is_its_message_alone():
    worker = (
        "Caught DatasetError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File x\ndeepfuse_d2.errors.DatasetError: 16 records in a row gave no sample."
    )
    message = r"^16 records in a row gave no sample\.$"
    with pytest.raises(DatasetError, match=message), messages_alone():
        raise DatasetError(worker)
    with pytest.raises(DatasetError, match=r"^as it is$"), messages_alone():
        raise DatasetError("as it is")
