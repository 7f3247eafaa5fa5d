"""What goes wrong in a training is named, kept for a second look, and costs nothing done."""

import errno
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import get_event_storage
from tiny_training import (
    NAME,
    FaultAt,
    TinyTrainer,
    losses,
    make_data,
    tiny_config,
    train,
)

from deepfuse_d2.engine.anomaly.batch_files import pack, read_batch, unpack, write_batch
from deepfuse_d2.engine.anomaly.detection import first_not_finite
from deepfuse_d2.engine.anomaly.out_of_memory import explain_out_of_memory, is_out_of_memory
from deepfuse_d2.engine.resume.checkpoints import Checkpoints
from deepfuse_d2.errors import ConfigError, TrainingError, WeightsError
from deepfuse_d2.randomness import get_random_state
from deepfuse_d2.structures.cropped_masks import CroppedMasks
from deepfuse_d2.structures.mask_crops import MaskCrop


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    yield make_data(tmp_path_factory.mktemp("images"))
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Folder of a training in which nothing went wrong."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny_config(folder))
    return folder


def weights(folder, name="model_final"):
    return torch.load(folder / f"{name}.pth", weights_only=True)["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def poison(x):
    return torch.where(x > 0.9, float("nan"), x)


def test_losses_that_are_not_finite_are_named_with_iteration_images_and_term(tmp_path):
    with pytest.raises(TrainingError) as caught:
        train(tiny_config(tmp_path), hooks=[FaultAt([6], poison)])
    message = str(caught.value)
    assert message.startswith("Iteration 6: loss_a and loss_b are not finite (loss_a = nan, loss_b")
    kept = read_batch(tmp_path / "faults" / "nonfinite_0000006_rank0.pth")
    for sample in kept["batch"]:
        assert f"  {sample['file_name']}, 8 x 8 pixels" in message
    assert "deepfuse replay" in message
    assert "SOLVER.CLIP_GRADIENTS" in message


def test_one_bad_term_of_several_is_told_from_the_others(tmp_path):
    class Far(HookBase):
        def before_step(self):
            if self.trainer.iter == 2:
                with torch.no_grad():  # exp of it is infinite
                    self.trainer.model.head.bias[1] = 1e5

    with pytest.raises(
        TrainingError, match=r"Iteration 2: loss_b is not finite .loss_a = [\d.]+, "
    ):
        train(tiny_config(tmp_path), hooks=[Far()])


def test_after_such_a_stop_nothing_is_lost(whole, tmp_path):
    with pytest.raises(TrainingError, match="Iteration 6"):
        train(tiny_config(tmp_path), hooks=[FaultAt([6], poison)])
    assert (tmp_path / "last_checkpoint").read_text() == "model_latest.pth"
    assert torch.load(tmp_path / "model_latest.pth", weights_only=True)["iteration"] == 5
    train(tiny_config(tmp_path), resume=True)
    assert losses(tmp_path) == losses(whole)
    assert same(weights(tmp_path), weights(whole))


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_model_that_finds_out_by_itself_is_treated_alike(whole, tmp_path, action, caplog):
    def fail(x):
        raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")

    cfg = tiny_config(tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE", action)
    expected = (
        r"Iteration 6: no loss is computed \(Predicted boxes or scores contain Inf/NaN.\) on\n"
    )
    if action == "skip":
        watch = Watch()
        train(cfg, hooks=[FaultAt([6], fail), watch])
        assert same(watch.states[6], watch.states[5])
        assert re.search(expected, caplog.text)
        return
    with pytest.raises(TrainingError, match=expected):
        train(cfg, hooks=[FaultAt([6], fail)])
    assert (tmp_path / "faults" / "nonfinite_0000006_rank0.pth").exists()
    train(cfg, resume=True)
    assert losses(tmp_path) == losses(whole)


def test_a_floating_point_error_outside_of_the_model_stays_one(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise FloatingPointError("of the writer")

    monkeypatch.setattr("detectron2.engine.SimpleTrainer.write_metrics", fail)
    with pytest.raises(FloatingPointError, match="of the writer"):
        train(tiny_config(tmp_path))


def test_what_an_unfinished_step_put_down_is_forgotten(whole, tmp_path):
    def put_and_fail(x):
        get_event_storage().put_scalar("within", 1.0)
        raise ValueError("later on")

    with pytest.raises(ValueError, match="later on"):
        train(tiny_config(tmp_path), hooks=[FaultAt([11], put_and_fail)])
    state = torch.load(tmp_path / "model_latest.pth", weights_only=True)["trainer"]
    assert "within" not in state["resume"]["metrics"]
    assert state["resume"]["metrics"]["loss_a"]["values"][-1][1] == 10


class Watch(HookBase):
    """Weights and statistics after each step."""

    def __init__(self):
        self.states = {}

    def after_step(self):
        state = self.trainer.checkpointer.model.state_dict()
        self.states[self.trainer.iter] = {name: x.clone() for name, x in state.items()}


def test_a_skipped_iteration_changes_nothing_and_the_training_goes_on(tmp_path, caplog):
    cfg = tiny_config(tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE", "skip")
    watch = Watch()
    trainer = train(cfg, hooks=[FaultAt([6, 7, 15], poison), watch])
    assert trainer.iter == 24
    assert same(watch.states[6], watch.states[5])
    assert same(watch.states[7], watch.states[5])
    assert not same(watch.states[8], watch.states[7])
    assert same(watch.states[15], watch.states[14])
    assert first_not_finite(trainer.model) is None
    assert caplog.text.count("The iteration is skipped.") == 3
    # the schedule counts iterations, skipped or not
    assert float.fromhex(losses(tmp_path)[23][2]) == pytest.approx(0.005)


def test_a_training_that_skips_all_the_time_stops(tmp_path):
    overrides = [
        "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE",
        "skip",
        "DEEPFUSE_D2.SOLVER.SAFETY.MAX_SKIPPED",
        2,
    ]
    cfg = tiny_config(tmp_path, *overrides)
    with pytest.raises(TrainingError, match=r"Iteration 9: (?s:.*)number 3 in a row.*allows 2"):
        train(cfg, hooks=[FaultAt([3, 7, 8, 9], poison)])


class BreakWeights(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            with torch.no_grad():
                self.trainer.model.head.weight[0, 0] = float("inf")


def test_weights_that_are_broken_already_are_told_from_a_bad_image(tmp_path):
    cfg = tiny_config(tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE", "skip")
    with pytest.raises(TrainingError, match=r"weights were broken before: head.weight is not fin"):
        train(cfg, hooks=[BreakWeights(6)])
    # nor do they take the place of a good checkpoint
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


def test_broken_weights_are_not_written(tmp_path):
    trainer = TinyTrainer(tiny_config(tmp_path))
    # right before the checkpoint, so that no loss has told of it
    breaking = BreakWeights(9)
    breaking.trainer = trainer
    trainer._hooks.insert(0, breaking)
    trainer.resume_or_load(resume=False)
    with pytest.raises(TrainingError, match=r"iteration 9 head.weight is not fin.*is model_latest"):
        trainer.train()
    assert not (tmp_path / "model_0000009.pth").exists()
    assert first_not_finite(trainer.model) == "head.weight"


def test_the_kept_batch_gives_the_same_losses_again(deepfuse, tmp_path, capsys):
    overrides = [
        "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE",
        "skip",
        "DEEPFUSE_D2.SOLVER.SAFETY.KEPT_BATCHES",
        1,
    ]
    train(tiny_config(tmp_path, *overrides), hooks=[FaultAt([6, 8], poison)])
    files = sorted(path.name for path in (tmp_path / "faults").iterdir())
    assert files == ["nonfinite_0000006_rank0.pth"]
    capsys.readouterr()

    words = ["--each", "--opts", "SEED", "3"]
    assert deepfuse("replay", tmp_path / "faults" / files[0], *words) == 0
    out = capsys.readouterr().out
    assert out.startswith("Iteration 6 of 20")
    # without the fault, which lay in the model, what is kept has finite losses
    assert "First output that is not finite: none" in out
    assert re.search(r"Gradients that are not finite: 0 of 6", out)
    assert out.count(" alone:") == 4


def test_a_replay_starts_from_the_weights_and_random_states_of_then(deepfuse, tmp_path, capsys):
    def fail(x):
        raise ValueError("in the model")

    with pytest.raises(ValueError, match="in the model"):
        train(tiny_config(tmp_path / "a"), hooks=[FaultAt([6], fail)])
    train(tiny_config(tmp_path / "b"))
    capsys.readouterr()
    deepfuse("replay", str(tmp_path / "a" / "faults" / "error_0000006_rank0.pth"))
    out = capsys.readouterr().out
    expected = [float.fromhex(x) for x in losses(tmp_path / "b")[6][:2]]
    found = [float(re.search(rf"{name} +(\S+)", out)[1]) for name in ("loss_a", "loss_b")]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_replay_finds_the_module_and_the_image(deepfuse, tmp_path, capsys):
    kept = tmp_path / "batch.pth"
    cfg = tiny_config(tmp_path)
    trainer = TinyTrainer(cfg)
    batch = next(iter(trainer._trainer.data_loader))
    batch[1]["target"] = torch.tensor(float("nan"))
    with torch.no_grad():
        trainer.model.norm.weight[0] = float("inf")
    facts = {"model": trainer.model.state_dict(), "config": cfg.dump(), "losses": {"loss_a": 1.0}}
    write_batch(kept, batch, iteration=3, reason="x", random=get_random_state(), **facts)
    assert deepfuse("replay", kept) == 1
    out = capsys.readouterr().out
    assert f"{batch[1]['file_name']}: target is not finite in 1 places" in out
    assert "The weights are broken already: norm.weight is not finite." in out
    assert "First output that is not finite: norm (BatchNorm2d; its input is finite)" in out
    assert re.search(r"loss_a +nan +1\n", out)


def test_an_error_of_a_step_names_the_batch_and_stays_what_it_is(whole, tmp_path, caplog):
    def fail(x):
        raise ZeroDivisionError("somewhere inside")

    with pytest.raises(ZeroDivisionError, match="somewhere inside"):
        train(tiny_config(tmp_path), hooks=[FaultAt([11], fail)])
    assert re.search(r"step of iteration 11 failed on this batch:\n  .*\.png, 8 x 8", caplog.text)
    train(tiny_config(tmp_path), resume=True)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_full_memory_names_the_batch_the_largest_image_and_what_to_lower(tmp_path, error, whole):
    def full(x):
        raise error

    cfg = tiny_config(tmp_path, "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4)
    with pytest.raises(TrainingError) as caught:
        train(cfg, hooks=[FaultAt([11], full)])
    message = str(caught.value)
    assert message.startswith("Iteration 11: the memory of the machine is full")
    assert "The batch, padded to 4 x 8 x 8 pixels:" in message
    assert re.search(r"The largest image: .*\d\.png\.", message)
    assert "SOLVER.IMS_PER_BATCH 2 (is 4, 4 a process), with SOLVER.BASE_LR 0.025" in message
    assert "INPUT.MIN_SIZE_TRAIN (is (800,))" in message
    assert "faults/out_of_memory_0000011_rank0.pth" in message
    train(tiny_config(tmp_path), resume=True)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize(("name", "told"), [("PanopticFPN", True), ("RetinaNet", False)])
def test_every_r_cnn_is_told_to_look_at_fewer_regions(tmp_path, name, told):
    cfg = tiny_config(tmp_path, "MODEL.META_ARCHITECTURE", name)
    advice = explain_out_of_memory(MemoryError(), cfg, [], 1)
    assert ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 256 (is 512)" in advice) is told


def test_other_errors_are_not_taken_for_a_full_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_an_error_within_the_update_leaves_no_checkpoint_of_half_an_update(tmp_path):
    class Interrupted(HookBase):
        def before_step(self):
            if self.trainer.iter == 7:
                self.trainer.optimizer.register_step_pre_hook(self.fail)

        def fail(self, *args):
            raise RuntimeError("in the middle of an update")

    with pytest.raises(RuntimeError, match="in the middle"):
        train(tiny_config(tmp_path), hooks=[Interrupted()])
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


def test_an_interruption_at_the_keyboard_leaves_a_checkpoint(whole, tmp_path):
    def interrupt(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(tmp_path), hooks=[FaultAt([12], interrupt)])
    assert torch.load(tmp_path / "model_latest.pth", weights_only=True)["iteration"] == 11
    train(tiny_config(tmp_path), resume=True)
    assert losses(tmp_path) == losses(whole)


class FullDisk:
    """``torch.save`` on a disk that is full for some of its calls."""

    def __init__(self, monkeypatch, calls):
        self.save, self.calls, self.number = torch.save, calls, 0
        monkeypatch.setattr(torch, "save", self)

    def __call__(self, content, file):
        self.number += 1
        if self.number not in self.calls:
            return self.save(content, file)
        file.write(b"half a checkpoint")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            # as torch's writer of zip files ends when it cannot write its end
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904


def test_a_full_disk_leaves_the_last_checkpoint_and_the_training_goes_on(
    whole, tmp_path, monkeypatch, caplog
):
    # 1: iteration 4, 2: model_latest before the evaluation after 7, 3: iteration 9, ...
    FullDisk(monkeypatch, {2, 3})
    seen = []

    class Look(HookBase):
        def after_step(self):
            if (tmp_path / "last_checkpoint").exists():
                seen.append((tmp_path / "last_checkpoint").read_text())

    train(tiny_config(tmp_path), hooks=[Look()])
    assert seen[5] == "model_0000004.pth"  # iteration 9
    assert seen[10] == "model_0000014.pth"
    assert not list(tmp_path.glob("*.tmp"))
    texts = [x.getMessage() for x in caplog.records if "could not be written" in x.getMessage()]
    assert len(texts) == 2
    assert "The checkpoint of iteration 9 could not be written" in texts[1]
    assert "No space left on device" in texts[1]
    assert "the last good one is model_0000004.pth. The training goes on" in texts[1]
    assert "failure 2 of 3" in texts[1]
    assert losses(tmp_path) == losses(whole)


def test_a_disk_that_stays_full_stops_the_training(whole, tmp_path, monkeypatch):
    cfg = tiny_config(
        tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.MAX_FAILED_WRITES", 1, "TEST.EVAL_PERIOD", 0
    )
    with monkeypatch.context() as context:
        FullDisk(context, set(range(2, 100)))
        with pytest.raises(TrainingError, match=r"iteration 14 could .*is model_0000004.*--resume"):
            train(cfg)
    train(tiny_config(tmp_path), resume=True)
    assert losses(tmp_path) == losses(whole)


def test_the_last_checkpoint_must_be_written(tmp_path, monkeypatch):
    cfg = tiny_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 1000, "TEST.EVAL_PERIOD", 0)
    FullDisk(monkeypatch, {1})
    with pytest.raises(TrainingError, match=r"iteration 23 could .*there is no checkpoint yet"):
        train(cfg)


def test_a_writer_that_finds_the_disk_full_is_named(tmp_path):
    class Writer(HookBase):
        def after_step(self):
            if self.trainer.iter == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrainingError, match=r"Iteration 3: Writer could not write .*No space"):
        train(tiny_config(tmp_path), hooks=[Writer()])


def test_another_error_of_writing_is_not_hidden(tmp_path, monkeypatch):
    def wrong(content, file):
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        train(tiny_config(tmp_path))


def test_old_checkpoints_make_room_for_new_ones(tmp_path):
    train(tiny_config(tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.KEPT_CHECKPOINTS", 2))
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000014.pth",
        "model_0000019.pth",
        "model_final.pth",
        "model_latest.pth",
    ]


def test_leftovers_of_a_killed_write_are_swept_away_and_nothing_else(tmp_path):
    leftover = tmp_path / f"model_0000009.pth.{'0' * 32}.tmp"
    mine = tmp_path / "notes.tmp"
    for path in (leftover, mine):
        path.write_text("x")
    train(tiny_config(tmp_path, "SOLVER.MAX_ITER", 2))
    assert not leftover.exists()
    assert mine.exists()


def test_damaged_images_are_survived_and_counted_over_a_resume(data, tmp_path, caplog):
    class Stop(HookBase):
        def after_step(self):
            if self.trainer.iter == 15:
                raise RuntimeError("crashed")

    paths = [Path(record["file_name"]) for record in data[3:5]]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content[:50])
    try:
        cfg = tiny_config(tmp_path, "DEEPFUSE_D2.DATALOADER.MAX_DAMAGED", 2)
        with pytest.raises(RuntimeError, match="crashed"):
            train(cfg, hooks=[Stop()])
        assert caplog.text.count("cannot be read and is left out") == 2
        trainer = train(cfg, resume=True)
        assert caplog.text.count("cannot be read and is left out") == 2
        assert set(trainer._trainer.data_loader.damaged) == set(map(str, paths))
        assert len(losses(tmp_path)) == 24
    finally:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NONFINITE", "ignore", r'NONFINITE = "ignore" is unknown; choose one of .*stop.*skip'),
        ("MAX_SKIPPED", -1, "MAX_SKIPPED is -1"),
        ("EXIT_CODE", 0, r"EXIT_CODE is 0; it must be in 1\.\.255"),
        ("KEPT_CHECKPOINTS", -1, "KEPT_CHECKPOINTS is -1"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, key, value, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(tmp_path, f"DEEPFUSE_D2.SOLVER.SAFETY.{key}", value))


def test_a_period_of_no_iterations_is_named():
    with pytest.raises(ConfigError, match="CHECKPOINT_PERIOD is 0"):
        Checkpoints(None, 0)


def instances(masks):
    found = Instances((6, 8))
    found.gt_boxes = Boxes(torch.tensor([[0.0, 0, 3, 4], [1, 1, 5, 5]]))
    found.gt_classes = torch.tensor([1, 2])
    found.gt_masks = masks
    return found


@pytest.mark.parametrize("kind", ["bits", "polygons", "crops"])
def test_a_batch_comes_back_from_its_file(tmp_path, kind):
    generator = np.random.default_rng(0)
    bits = torch.from_numpy(generator.random((2, 6, 8)) > 0.5)
    masks = {
        "bits": BitMasks(bits),
        "polygons": PolygonMasks([[np.arange(6.0)], [np.arange(8.0), np.arange(6.0)]]),
        "crops": CroppedMasks.from_crops(
            [MaskCrop(1, 1, np.ones((2, 3))), MaskCrop(0, 0, np.eye(2))], (6, 8)
        ),
    }[kind]
    batch = [
        {"file_name": "a.png", "image": torch.ones(3, 6, 8), "instances": instances(masks)},
        {"file_name": "b.png", "sem_seg": torch.zeros(6, 8), "extra": ("x", None, {1: 2.5})},
    ]
    write_batch(tmp_path / "batch.pth", batch, iteration=7)
    kept = read_batch(tmp_path / "batch.pth")
    assert kept["iteration"] == 7
    first, second = kept["batch"]
    assert torch.equal(first["image"], batch[0]["image"])
    assert first["instances"].image_size == (6, 8)
    assert torch.equal(first["instances"].gt_boxes.tensor, batch[0]["instances"].gt_boxes.tensor)
    found = first["instances"].gt_masks
    assert type(found) is type(masks)
    if kind == "polygons":
        for ours, theirs in zip(found.polygons, masks.polygons, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    else:
        assert torch.equal(found.tensor, masks.tensor)
    assert second["extra"] == ["x", None, {"1": 2.5}]


def test_a_part_of_a_large_tensor_is_kept_alone():
    packed = pack({"image": torch.zeros(1000, 1000)[:2, :2]})
    assert packed["image"].untyped_storage().nbytes() == 16


def test_a_file_of_something_else_is_no_batch(tmp_path):
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="is no file of a batch"):
        read_batch(tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="does not exist"):
        read_batch(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="'Bomb'; this version knows no such structure"):
        unpack({"deepfuse_kind": "Bomb", "tensor": torch.ones(1)})


def test_what_is_not_finite_is_found():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert first_not_finite(model) is None
    model[1].running_var[0] = float("nan")
    assert first_not_finite(model) == "1.running_var"
    with torch.no_grad():
        model[0].weight[1, 1] = float("-inf")
    assert first_not_finite(model) == "0.weight"
